//! The machine's ACPI tables: found, read and kept.

use core::cell::RefCell;

use alloc::vec::Vec;
use overcast_drivers::acpi::{
    AddressSpace, Fadt, GenericAddress, Madt, McfgRegion, PhysicalMemory, Rsdp, Tables, find_s5,
    hpet_address, mcfg_regions, read_table,
};
use overcast_drivers::mp_table;
use spin::Once;

use crate::arch::cpu::port;
use crate::arch::memory;

/// What the tables said.
#[derive(Debug, Default)]
pub struct Info {
    /// CPUs and interrupt controllers; `None` without a MADT and without the
    /// older MultiProcessor tables.
    pub madt: Option<Madt>,
    /// Power management; `None` without a FADT.
    pub fadt: Option<Fadt>,
    /// SLP_TYP values of "off" for PM1a and PM1b.
    pub s5: Option<(u8, u8)>,
    /// Physical address of the HPET.
    pub hpet: Option<u64>,
    /// Where PCI configuration space is in memory.
    pub mcfg: Vec<McfgRegion>,
}

static INFO: Once<Info> = Once::new();

/// Where the root table is, as the loader said it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Root {
    /// Physical address of the RSDT.
    pub rsdt: Option<u64>,
    /// Physical address of the XSDT.
    pub xsdt: Option<u64>,
}

/// Physical memory, mapped a page at a time as it is needed.
struct Mapped {
    /// (page number, where it is mapped).
    pages: RefCell<Vec<(u64, *const u8)>>,
}

impl Mapped {
    fn page(&self, number: u64) -> Option<*const u8> {
        let mut pages = self.pages.borrow_mut();
        if let Some(&(_, at)) = pages.iter().find(|(n, _)| *n == number) {
            return Some(at);
        }
        // Tables are small; a walk that needs more pages follows garbage.
        if pages.len() >= 2048 {
            return None;
        }
        let at = memory::ioremap(number << 12, 4096, true).ok()?.as_ptr();
        pages.push((number, at));
        Some(at)
    }
}

impl PhysicalMemory for Mapped {
    fn read(&self, address: u64, out: &mut [u8]) -> bool {
        let mut at = address;
        for byte in out {
            // Address space ends at 2^52; `ioremap` refuses what lies beyond.
            let Some(page) = self.page(at >> 12) else {
                return false;
            };
            // SAFETY: the page is mapped for ever; nobody is said to write
            // there, and a single byte read volatile is whole in any case.
            *byte = unsafe { page.add((at & 0xfff) as usize).read_volatile() };
            let Some(next) = at.checked_add(1) else {
                return false;
            };
            at = next;
        }
        true
    }
}

/// Reads the tables. `root` is what the loader knows; without it, the BIOS area
/// is searched.
pub fn init(root: Option<Root>) -> &'static Info {
    INFO.call_once(|| read(root))
}

/// What the tables said; nothing before [`init`].
pub fn info() -> Option<&'static Info> {
    INFO.get()
}

fn read(root: Option<Root>) -> Info {
    let memory = Mapped {
        pages: RefCell::new(Vec::new()),
    };
    let named = root.into_iter().flat_map(|root| {
        let xsdt = root.xsdt.map(|root| Rsdp {
            root,
            extended: true,
            revision: 2,
        });
        let rsdt = root.rsdt.map(|root| Rsdp {
            root,
            extended: false,
            revision: 0,
        });
        [xsdt, rsdt].into_iter().flatten()
    });
    let found = named
        .chain(core::iter::once_with(|| Rsdp::scan(&memory)).flatten())
        .find_map(|rsdp| match Tables::load(&memory, &rsdp) {
            Ok(tables) => Some(tables),
            Err(error) => {
                log::warn!("ACPI: {error} (at {:#x})", rsdp.root);
                None
            }
        });
    let Some(tables) = found else {
        log::warn!("ACPI: no tables");
        return Info {
            madt: older_tables(&memory),
            ..Info::default()
        };
    };
    let fadt = tables
        .get(&memory, b"FACP")
        .and_then(|table| Fadt::parse(&table));
    let dsdt = fadt.and_then(|fadt| read_table(&memory, fadt.dsdt, b"DSDT"));
    Info {
        madt: tables
            .get(&memory, b"APIC")
            .and_then(|table| Madt::parse(&table))
            .or_else(|| older_tables(&memory)),
        fadt,
        s5: dsdt.and_then(|dsdt| find_s5(&dsdt)),
        hpet: tables
            .get(&memory, b"HPET")
            .and_then(|table| hpet_address(&table)),
        mcfg: tables
            .get(&memory, b"MCFG")
            .map_or(Vec::new(), |table| mcfg_regions(&table)),
    }
}

/// What the MultiProcessor tables say, where ACPI does not.
fn older_tables(memory: &Mapped) -> Option<Madt> {
    let found = mp_table::find(memory);
    match &found {
        Some(madt) => log::info!("MP tables: {} CPUs", madt.cpus.len()),
        None => log::warn!("No MP tables either; only the boot CPU is used"),
    }
    found
}

/// Registers of the platform's that were mapped while there was time for it.
static RESET: Once<Register> = Once::new();
static SLEEP: Once<Register> = Once::new();

/// A register, ready to be written in any state of the machine.
#[derive(Clone, Copy)]
enum Register {
    Io(u16),
    Memory(u64),
    Pci(u32),
}

impl Register {
    fn prepare(address: GenericAddress) -> Option<Self> {
        Some(match address.space {
            AddressSpace::Io => Self::Io(u16::try_from(address.address).ok()?),
            AddressSpace::Memory => {
                Self::Memory(memory::ioremap(address.address, 1, false).ok()?.as_ptr() as u64)
            }
            AddressSpace::PciConfiguration => {
                let device = (address.address >> 32 & 31) as u32;
                let function = (address.address >> 16 & 7) as u32;
                let offset = (address.address & 0xff) as u32;
                Self::Pci(0x8000_0000 | device << 11 | function << 8 | offset)
            }
        })
    }

    fn write(self, value: u8) {
        // SAFETY: the firmware says that this register resets the machine or
        // puts it to sleep: what the caller wants.
        unsafe {
            match self {
                Self::Io(port) => port::outb(port, value),
                Self::Memory(address) => (address as *mut u8).write_volatile(value),
                Self::Pci(select) => {
                    port::outl(0xcf8, select & !3);
                    port::outb(0xcfc + (select & 3) as u16, value);
                }
            }
        }
    }
}

/// Maps the registers that [`reset`] and [`power_off`] write.
pub fn prepare_power() {
    if let Some(fadt) = info().and_then(|info| info.fadt) {
        if let Some(register) = fadt.reset.and_then(|(at, _)| Register::prepare(at)) {
            RESET.call_once(|| register);
        }
        if let Some(register) = fadt.sleep_control.and_then(Register::prepare) {
            SLEEP.call_once(|| register);
        }
    }
}

/// Writes the FADT's reset register, if there is one.
pub fn reset() {
    let value = info().and_then(|info| info.fadt).and_then(|f| f.reset);
    if let (Some(register), Some((_, value))) = (RESET.get(), value) {
        register.write(value);
    }
}

/// Enters S5, if the tables say how. Returns if that does not switch the machine off.
pub fn power_off() {
    const SCI_EN: u16 = 1;
    const SLP_EN: u16 = 1 << 13;
    let Some((info, fadt)) = info().and_then(|info| Some((info, info.fadt?))) else {
        return;
    };
    if let (Some(register), Some((kind, _))) = (SLEEP.get(), info.s5)
        && fadt.hardware_reduced
    {
        // Sleep control register: SLP_TYP in bits 2-4, SLP_EN bit 5.
        register.write(kind << 2 | 1 << 5);
        return;
    }
    let (Some(control), Some((kind_a, kind_b))) = (fadt.pm1a_control, info.s5) else {
        return;
    };
    if let Some((port, value)) = fadt.enable
        && port::inw(control) & SCI_EN == 0
    {
        // SAFETY: hands power management over from the firmware, as the tables say.
        unsafe { port::outb(port, value) };
        for _ in 0..100_000 {
            if port::inw(control) & SCI_EN != 0 {
                break;
            }
        }
    }
    let word =
        |port: u16, kind: u8| (port::inw(port) & !(7 << 10)) | u16::from(kind) << 10 | SLP_EN;
    // SAFETY: PM1 control registers, as the tables say; the machine goes off.
    unsafe {
        port::outw(control, word(control, kind_a));
        if let Some(control) = fadt.pm1b_control {
            port::outw(control, word(control, kind_b));
        }
    }
}
