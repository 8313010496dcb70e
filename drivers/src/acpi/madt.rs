//! The MADT: which CPUs there are, and how interrupts reach them (ACPI 6.5,
//! section 5.2.12).

use alloc::vec::Vec;

use super::{HEADER, u16_at, u32_at, u64_at};

/// The most entries of a kind that are kept.
const MAX_ENTRIES: usize = 4096;

/// A CPU's local APIC (types 0 and 9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalApic {
    /// Its APIC id (xAPIC or x2APIC).
    pub id: u32,
    /// The ACPI processor UID.
    pub uid: u32,
    /// Whether the CPU may be started.
    pub enabled: bool,
}

/// An I/O APIC (type 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApic {
    /// Its APIC id.
    pub id: u8,
    /// Physical address of its registers.
    pub address: u32,
    /// The first global system interrupt that it takes.
    pub gsi_base: u32,
}

/// How an ISA interrupt is wired when it is not one to one (type 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptOverride {
    /// The ISA interrupt, 0 to 15.
    pub irq: u8,
    /// The global system interrupt that it is.
    pub gsi: u32,
    /// Whether the line is active low.
    pub active_low: bool,
    /// Whether it is triggered by level.
    pub level: bool,
}

/// Which local interrupt pin carries NMIs (types 4 and 10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalNmi {
    /// The processor's UID, or `None` for all.
    pub uid: Option<u32>,
    /// The pin: 0 or 1.
    pub lint: u8,
}

/// What the MADT says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Madt {
    /// Physical address of the local APICs' registers.
    pub local_apic_address: u64,
    /// Whether there are two 8259s that must be masked.
    pub has_8259: bool,
    /// CPUs, in the order of the table; none twice.
    pub cpus: Vec<LocalApic>,
    /// I/O APICs.
    pub io_apics: Vec<IoApic>,
    /// ISA interrupts that are not one to one.
    pub overrides: Vec<InterruptOverride>,
    /// NMI pins.
    pub nmis: Vec<LocalNmi>,
}

fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() < MAX_ENTRIES {
        list.push(item);
    }
}

impl Madt {
    /// Parses a whole table, header included; `None` if it is too short. An
    /// entry that does not fit ends the list.
    pub fn parse(table: &[u8]) -> Option<Self> {
        let flags = u32_at(table, HEADER + 4)?;
        let mut madt = Self {
            local_apic_address: u64::from(u32_at(table, HEADER)?),
            has_8259: flags & 1 != 0,
            ..Self::default()
        };
        let mut rest = table.get(HEADER + 8..)?;
        while let [kind, length, ..] = *rest {
            let length = usize::from(length);
            if length < 2 {
                break;
            }
            let Some(entry) = rest.get(..length) else {
                break;
            };
            // An entry that is shorter than its kind is passed over.
            let _ = madt.entry(kind, entry);
            rest = rest.get(length..).unwrap_or_default();
        }
        Some(madt)
    }

    fn add_cpu(&mut self, cpu: LocalApic) {
        // Firmware may list a CPU both as xAPIC and as x2APIC.
        if !self.cpus.iter().any(|other| other.id == cpu.id) {
            push(&mut self.cpus, cpu);
        }
    }

    fn entry(&mut self, kind: u8, entry: &[u8]) -> Option<()> {
        match kind {
            0 => {
                let id = u32::from(*entry.get(3)?);
                let cpu = LocalApic {
                    uid: u32::from(*entry.get(2)?),
                    id,
                    enabled: u32_at(entry, 4)? & 1 != 0,
                };
                // 0xff stands for a CPU whose id does not fit; type 9 has it.
                if id != 0xff {
                    self.add_cpu(cpu);
                }
            }
            1 => push(
                &mut self.io_apics,
                IoApic {
                    id: *entry.get(2)?,
                    address: u32_at(entry, 4)?,
                    gsi_base: u32_at(entry, 8)?,
                },
            ),
            2 => {
                let flags = u16_at(entry, 8)?;
                push(
                    &mut self.overrides,
                    InterruptOverride {
                        irq: *entry.get(3)?,
                        gsi: u32_at(entry, 4)?,
                        active_low: flags & 3 == 3,
                        level: flags >> 2 & 3 == 3,
                    },
                );
            }
            4 => {
                let uid = *entry.get(2)?;
                push(
                    &mut self.nmis,
                    LocalNmi {
                        uid: (uid != 0xff).then_some(u32::from(uid)),
                        lint: *entry.get(5)?,
                    },
                );
            }
            5 => self.local_apic_address = u64_at(entry, 4)?,
            9 => {
                let cpu = LocalApic {
                    id: u32_at(entry, 4)?,
                    uid: u32_at(entry, 12)?,
                    enabled: u32_at(entry, 8)? & 1 != 0,
                };
                if cpu.id != u32::MAX {
                    self.add_cpu(cpu);
                }
            }
            10 => {
                let uid = u32_at(entry, 4)?;
                push(
                    &mut self.nmis,
                    LocalNmi {
                        uid: (uid != u32::MAX).then_some(uid),
                        lint: *entry.get(8)?,
                    },
                );
            }
            _ => {}
        }
        Some(())
    }

    /// The global system interrupt of an ISA interrupt, and how it is wired.
    pub fn isa_interrupt(&self, irq: u8) -> InterruptOverride {
        self.overrides
            .iter()
            .find(|over| over.irq == irq)
            .copied()
            .unwrap_or(InterruptOverride {
                irq,
                gsi: u32::from(irq),
                active_low: false,
                level: false,
            })
    }

    /// The I/O APIC that takes a global system interrupt: the one with the
    /// highest base that is not above it.
    pub fn io_apic_of(&self, gsi: u32) -> Option<IoApic> {
        self.io_apics
            .iter()
            .filter(|io| io.gsi_base <= gsi)
            .max_by_key(|io| io.gsi_base)
            .copied()
    }
}
