//! The MultiProcessor Specification's tables (version 1.4, chapter 4): CPUs and
//! interrupt wiring, where there is no ACPI. They are given as a MADT would say it.
//!
//! Nothing of the first layer's is trusted, as in [`crate::acpi`].

use alloc::vec::Vec;

use crate::acpi::{InterruptOverride, IoApic, LocalApic, LocalNmi, Madt, PhysicalMemory};
use crate::acpi::{checksum_ok, u16_at, u32_at};

/// Length of the configuration table's header.
const HEADER: usize = 44;
/// Distance of the I/O APICs' first global interrupts: the specification knows no
/// such numbers, so they are made here, with room for any number of pins.
const GSI_STRIDE: u32 = 256;
/// The most I/O APICs that are looked at.
const MAX_IO_APICS: usize = 64;

const INTERRUPT: u8 = 0;
const NMI: u8 = 1;

/// Looks for the tables where a BIOS puts them: in the first KiB of the extended
/// BIOS data area, the last KiB of base memory, and from 0xf0000 to 0xfffff.
/// `None` if there are none that are whole.
pub fn find<M: PhysicalMemory + ?Sized>(memory: &M) -> Option<Madt> {
    let mut word = [0; 2];
    let mut word_at = |address| {
        memory
            .read(address, &mut word)
            .then(|| u64::from(u16::from_le_bytes(word)))
    };
    let areas = [
        word_at(0x40e).map(|segment| segment << 4),
        word_at(0x413).map(|kib| (kib << 10).saturating_sub(0x400)),
    ];
    for area in areas.into_iter().flatten() {
        if (0x400..0xa_0000).contains(&area)
            && let Some(found) = scan(memory, area, area + 0x400)
        {
            return Some(found);
        }
    }
    scan(memory, 0xf_0000, 0x10_0000)
}

fn scan<M: PhysicalMemory + ?Sized>(memory: &M, start: u64, end: u64) -> Option<Madt> {
    (start & !15..end).step_by(16).find_map(|at| {
        let mut pointer = [0; 16];
        if !memory.read(at, &mut pointer)
            || !pointer.starts_with(b"_MP_")
            || !checksum_ok(&pointer)
            || pointer[8] != 1
        {
            return None;
        }
        let feature = pointer[11];
        match (feature, u32_at(&pointer, 4)?) {
            (0, 0) => None,
            (0, address) => Some(parse(&read(memory, address.into())?)),
            _ => Some(default_configuration()),
        }
    })
}

/// The whole configuration table.
fn read<M: PhysicalMemory + ?Sized>(memory: &M, address: u64) -> Option<Vec<u8>> {
    let mut header = [0; HEADER];
    if !memory.read(address, &mut header) || !header.starts_with(b"PCMP") {
        return None;
    }
    let length = usize::from(u16_at(&header, 4)?);
    let mut table = Vec::new();
    table.try_reserve_exact(length.max(HEADER)).ok()?;
    table.resize(length.max(HEADER), 0);
    (length >= HEADER && memory.read(address, &mut table) && checksum_ok(&table)).then_some(table)
}

/// Two CPUs and an I/O APIC at their usual places (chapter 5).
fn default_configuration() -> Madt {
    let cpu = |id| LocalApic {
        id,
        uid: id,
        enabled: true,
    };
    Madt {
        local_apic_address: 0xfee0_0000,
        has_8259: true,
        cpus: Vec::from([cpu(0), cpu(1)]),
        io_apics: Vec::from([IoApic {
            id: 2,
            address: 0xfec0_0000,
            gsi_base: 0,
        }]),
        overrides: Vec::from([InterruptOverride {
            irq: 0,
            gsi: 2,
            active_low: false,
            level: false,
        }]),
        nmis: Vec::from([LocalNmi { uid: None, lint: 1 }]),
    }
}

/// Parses a configuration table. An entry that does not fit ends the list.
pub fn parse(table: &[u8]) -> Madt {
    let mut madt = Madt {
        local_apic_address: u32_at(table, 36).unwrap_or(0).into(),
        has_8259: true,
        ..Madt::default()
    };
    let mut isa_buses = [false; 256];
    let mut rest = table.get(HEADER..).unwrap_or_default();
    while let Some(&kind) = rest.first() {
        let length = match kind {
            0 => 20,
            1..=4 => 8,
            _ => break,
        };
        let Some(entry) = rest.get(..length) else {
            break;
        };
        let _ = add(&mut madt, &mut isa_buses, entry);
        rest = rest.get(length..).unwrap_or_default();
    }
    madt
}

/// Adds an entry; entries of buses and I/O APICs come before those that name them.
fn add(madt: &mut Madt, isa_buses: &mut [bool; 256], entry: &[u8]) -> Option<()> {
    match *entry.first()? {
        0 => {
            let id = u32::from(*entry.get(1)?);
            if !madt.cpus.iter().any(|cpu| cpu.id == id) {
                madt.cpus.push(LocalApic {
                    id,
                    uid: id,
                    enabled: entry.get(3)? & 1 != 0,
                });
            }
        }
        1 => *isa_buses.get_mut(usize::from(*entry.get(1)?))? = entry.get(2..8)? == b"ISA   ",
        2 if entry.get(3)? & 1 != 0 && madt.io_apics.len() < MAX_IO_APICS => {
            let gsi_base = madt.io_apics.len() as u32 * GSI_STRIDE;
            madt.io_apics.push(IoApic {
                id: *entry.get(1)?,
                address: u32_at(entry, 4)?,
                gsi_base,
            });
        }
        3 => {
            let (bus, irq) = (*entry.get(4)?, *entry.get(5)?);
            if *entry.get(1)? != INTERRUPT || irq > 15 || !*isa_buses.get(usize::from(bus))? {
                return None;
            }
            let to = *entry.get(6)?;
            let io_apic = madt.io_apics.iter().find(|io| io.id == to || to == 0xff)?;
            if madt.overrides.iter().any(|known| known.irq == irq) {
                return None;
            }
            let flags = u16_at(entry, 2)?;
            madt.overrides.push(InterruptOverride {
                irq,
                gsi: io_apic.gsi_base + u32::from(*entry.get(7)?),
                active_low: flags & 3 == 3,
                level: flags >> 2 & 3 == 3,
            });
        }
        4 if *entry.get(1)? == NMI => {
            let apic = *entry.get(6)?;
            if madt.nmis.len() < 256 {
                madt.nmis.push(LocalNmi {
                    uid: (apic != 0xff).then_some(apic.into()),
                    lint: *entry.get(7)?,
                });
            }
        }
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    struct Piece(u64, Vec<u8>);

    impl PhysicalMemory for Piece {
        fn read(&self, address: u64, out: &mut [u8]) -> bool {
            out.iter_mut().zip(address..).for_each(|(byte, at)| {
                *byte = at
                    .checked_sub(self.0)
                    .and_then(|at| self.1.get(at as usize).copied())
                    .unwrap_or(0);
            });
            true
        }
    }

    fn sum(bytes: &mut [u8], at: usize) {
        bytes[at] = 0;
        bytes[at] = bytes
            .iter()
            .fold(0u8, |s, &b| s.wrapping_add(b))
            .wrapping_neg();
    }

    fn table() -> Vec<u8> {
        let mut table = vec![0; HEADER];
        table[..4].copy_from_slice(b"PCMP");
        table[36..40].copy_from_slice(&0xfee0_0000u32.to_le_bytes());
        for cpu in 0..3u8 {
            table.extend([0, cpu, 0x14, u8::from(cpu != 1)]);
            table.extend([0; 16]);
        }
        table.extend(*b"\x01\x00PCI   ");
        table.extend(*b"\x01\x01ISA   ");
        table.extend([2, 3, 0x11, 1, 0, 0, 0xc0, 0xfe]);
        table.extend([2, 4, 0x11, 1, 0, 0, 0xc1, 0xfe]);
        table.extend([3, 0, 0, 0, 1, 0, 3, 2]);
        table.extend([3, 0, 0x0f, 0, 1, 4, 4, 7]);
        table.extend([3, 0, 0, 0, 0, 9, 3, 9]);
        table.extend([4, 1, 0, 0, 1, 0, 0xff, 1]);
        let length = table.len() as u16;
        table[4..6].copy_from_slice(&length.to_le_bytes());
        sum(&mut table, 7);
        table
    }

    fn machine(table: &[u8]) -> Piece {
        let mut memory = vec![0; 0x1000];
        memory[..4].copy_from_slice(b"_MP_");
        memory[4..8].copy_from_slice(&0xf_5000u32.to_le_bytes());
        memory[8] = 1;
        memory[9] = 4;
        sum(&mut memory[..16], 10);
        memory.resize(0x1000, 0);
        memory.extend(table);
        Piece(0xf_4000, memory)
    }

    #[test]
    fn cpus_and_wiring_are_found() {
        let madt = find(&machine(&table())).unwrap();
        let ids: Vec<_> = madt.cpus.iter().map(|cpu| (cpu.id, cpu.enabled)).collect();
        assert_eq!(ids, [(0, true), (1, false), (2, true)]);
        assert_eq!(madt.local_apic_address, 0xfee0_0000);
        assert_eq!(madt.isa_interrupt(0).gsi, 2);
        let serial = madt.isa_interrupt(4);
        assert!(serial.level && serial.active_low);
        let io = madt.io_apic_of(serial.gsi).unwrap();
        assert_eq!((io.address, serial.gsi - io.gsi_base), (0xfec1_0000, 7));
        // One of the PCI bus is none of ours.
        assert_eq!(madt.isa_interrupt(9).gsi, 9);
        assert_eq!(madt.nmis, [LocalNmi { uid: None, lint: 1 }]);
    }

    #[test]
    fn damage_is_noticed() {
        let mut bad = table();
        bad[50] ^= 1;
        assert_eq!(find(&machine(&bad)), None);
        assert_eq!(find(&Piece(0, Vec::new())), None);
    }

    proptest! {
        #[test]
        fn nothing_is_too_odd(mut bytes in prop::collection::vec(any::<u8>(), HEADER..400), kinds in prop::collection::vec(0u8..5, 40)) {
            let mut at = HEADER;
            for kind in kinds {
                if let Some(byte) = bytes.get_mut(at) { *byte = kind; }
                at += if kind == 0 { 20 } else { 8 };
            }
            let madt = parse(&bytes);
            for over in &madt.overrides {
                prop_assert!(madt.io_apic_of(over.gsi).is_some());
            }
        }
    }
}
