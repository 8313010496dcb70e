//! The FADT: power management registers (ACPI 6.5, section 5.2.9).

use super::{u32_at, u64_at};

/// Where a register of a [`GenericAddress`] lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressSpace {
    /// Physical memory.
    Memory,
    /// I/O ports.
    Io,
    /// PCI configuration space of bus 0: bits 32-47 device, 16-31 function, 0-15 offset.
    PciConfiguration,
}

/// A register (Generic Address Structure, section 5.2.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GenericAddress {
    /// In which space.
    pub space: AddressSpace,
    /// Its address there.
    pub address: u64,
}

impl GenericAddress {
    fn parse(table: &[u8], at: usize) -> Option<Self> {
        let space = match *table.get(at)? {
            0 => AddressSpace::Memory,
            1 => AddressSpace::Io,
            2 => AddressSpace::PciConfiguration,
            _ => return None,
        };
        let address = u64_at(table, at.checked_add(4)?)?;
        let fits = space != AddressSpace::Io || u16::try_from(address).is_ok();
        (address != 0 && fits).then_some(Self { space, address })
    }
}

/// What the FADT says, as far as it is used here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fadt {
    /// Physical address of the DSDT, or 0.
    pub dsdt: u64,
    /// Port and value that hand power management over from the firmware; port 0 = done already.
    pub enable: Option<(u16, u8)>,
    /// Port of PM1a's control register.
    pub pm1a_control: Option<u16>,
    /// Port of PM1b's control register.
    pub pm1b_control: Option<u16>,
    /// Port of the power management timer, and whether it has 32 bits (else 24).
    pub pm_timer: Option<(u16, bool)>,
    /// The register that resets the machine, and the value to write.
    pub reset: Option<(GenericAddress, u8)>,
    /// Sleep control register of hardware-reduced machines.
    pub sleep_control: Option<GenericAddress>,
    /// Index of the century register in the CMOS, or 0.
    pub century: u8,
    /// Whether the machine has no fixed power management hardware.
    pub hardware_reduced: bool,
}

/// Fixed feature flags.
const TMR_VAL_EXT: u32 = 1 << 8;
const RESET_REG_SUP: u32 = 1 << 10;
const HW_REDUCED_ACPI: u32 = 1 << 20;

impl Fadt {
    /// Parses a whole table, header included; `None` if it is too short.
    /// Fields that an older revision lacks count as not there.
    pub fn parse(table: &[u8]) -> Option<Self> {
        let flags = u32_at(table, 112)?;
        let port = |old: usize, new: usize| -> Option<u16> {
            let extended = GenericAddress::parse(table, new)
                .filter(|register| register.space == AddressSpace::Io)
                .map(|register| register.address);
            let address = match extended {
                Some(address) => address,
                None => u64::from(u32_at(table, old)?),
            };
            u16::try_from(address).ok().filter(|&port| port != 0)
        };
        let dsdt = match u64_at(table, 140) {
            Some(address) if address != 0 => address,
            _ => u64::from(u32_at(table, 40)?),
        };
        let smi_port = u32_at(table, 48)?;
        let enable = u16::try_from(smi_port)
            .ok()
            .filter(|&port| port != 0)
            .zip(table.get(52).copied().filter(|&value| value != 0));
        let hardware_reduced = flags & HW_REDUCED_ACPI != 0;
        Some(Self {
            dsdt,
            enable,
            pm1a_control: port(64, 172).filter(|_| !hardware_reduced),
            pm1b_control: port(68, 184).filter(|_| !hardware_reduced),
            pm_timer: port(76, 208)
                .filter(|_| !hardware_reduced)
                .map(|port| (port, flags & TMR_VAL_EXT != 0)),
            reset: (flags & RESET_REG_SUP != 0)
                .then(|| GenericAddress::parse(table, 116).zip(table.get(128).copied()))
                .flatten(),
            sleep_control: GenericAddress::parse(table, 244),
            century: table.get(108).copied().unwrap_or(0),
            hardware_reduced,
        })
    }
}
