//! PCI: which functions there are, where their registers are, how they interrupt.
//!
//! What configuration space says comes from the first layer and is not trusted: lists are
//! bounded, loops in them end, and ranges are checked against the BAR that they name. The
//! layouts are those of the PCI Local Bus Specification 3.0, chapter 6, and the PCI Express
//! Base Specification, chapter 7.
//!
//! Nothing here is done while the machine works, but setting and masking of messages.

mod bar;
mod config;
mod message;
mod names;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

pub use bar::Bar;
pub use config::{ConfigAccess, Ecam, Ports};
pub use message::{Messages, Msi, Msix};
pub use names::class_name;

/// The most functions that are listed.
const MAX_FUNCTIONS: usize = 1024;
/// No device.
const NOBODY: u16 = 0xffff;

/// Offsets in configuration space.
mod offset {
    pub const IDS: u16 = 0x00;
    pub const COMMAND: u16 = 0x04;
    pub const CLASS: u16 = 0x08;
    pub const HEADER_TYPE: u16 = 0x0c;
    pub const BUSES: u16 = 0x18;
    pub const SUBSYSTEM: u16 = 0x2c;
    pub const CAPABILITIES: u16 = 0x34;
}

/// Bits of the command register.
mod command {
    pub const IO: u32 = 1 << 0;
    pub const MEMORY: u32 = 1 << 1;
    pub const BUS_MASTER: u32 = 1 << 2;
    pub const NO_INTX: u32 = 1 << 10;
    /// In the status register, the upper half.
    pub const HAS_CAPABILITIES: u32 = 1 << 20;
}

/// The place of a function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Address {
    /// Segment group.
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device, 0 to 31.
    pub device: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{:x}",
            self.segment, self.bus, self.device, self.function
        )
    }
}

/// A capability in a function's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    /// What it is.
    pub id: u8,
    /// Where it is in configuration space.
    pub offset: u16,
}

/// A function of a device.
#[derive(Clone)]
pub struct Function {
    config: Arc<dyn ConfigAccess>,
    /// Where it is.
    pub address: Address,
    /// Who made it.
    pub vendor: u16,
    /// What its maker calls it.
    pub device: u16,
    /// Its revision.
    pub revision: u8,
    /// Base class, sub-class, programming interface: 24 bits.
    pub class: u32,
    /// Subsystem: vendor and device. 0 for bridges.
    pub subsystem: (u16, u16),
    /// 0: a device; 1: a bridge.
    pub header_type: u8,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} [{:04x}:{:04x}] class {:06x} ({})",
            self.address,
            self.vendor,
            self.device,
            self.class,
            class_name(self.class)
        )
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Function {
    /// The function at an address; `None` if there is none.
    fn probe(config: &Arc<dyn ConfigAccess>, address: Address) -> Option<Self> {
        let ids = config.read(address, offset::IDS);
        let vendor = ids as u16;
        if vendor == NOBODY || ids == 0 {
            return None;
        }
        let class = config.read(address, offset::CLASS);
        let header_type = (config.read(address, offset::HEADER_TYPE) >> 16) as u8 & 0x7f;
        let subsystem = match header_type {
            0 => config.read(address, offset::SUBSYSTEM),
            _ => 0,
        };
        Some(Self {
            config: config.clone(),
            address,
            vendor,
            device: (ids >> 16) as u16,
            revision: class as u8,
            class: class >> 8,
            subsystem: (subsystem as u16, (subsystem >> 16) as u16),
            header_type,
        })
    }

    /// Reads 32 bits of configuration space.
    pub fn read(&self, offset: u16) -> u32 {
        self.config.read(self.address, offset)
    }

    /// Writes 32 bits of configuration space.
    pub fn write(&self, offset: u16, value: u32) {
        self.config.write(self.address, offset, value);
    }

    /// Reads a byte of configuration space.
    pub fn read8(&self, offset: u16) -> u8 {
        (self.read(offset & !3) >> (8 * (offset & 3))) as u8
    }

    /// Its capabilities, in the order of the list, which ends where it loops.
    pub fn capabilities(&self) -> Vec<Capability> {
        let mut list = Vec::new();
        if self.read(offset::COMMAND) & command::HAS_CAPABILITIES == 0 || self.header_type > 1 {
            return list;
        }
        let mut seen = 0u64;
        let mut at = self.read8(offset::CAPABILITIES) & !3;
        while at >= 0x40 && seen & 1 << (at / 4) == 0 {
            seen |= 1 << (at / 4);
            let offset = u16::from(at);
            let word = self.read(offset);
            if word == u32::MAX {
                break;
            }
            list.push(Capability {
                id: word as u8,
                offset,
            });
            at = (word >> 8) as u8 & !3;
        }
        list
    }

    /// Lets the device answer at its BARs, write memory, and interrupt by messages only.
    pub fn enable(&self) {
        let old = self.read(offset::COMMAND) & 0xffff;
        let bits = command::IO | command::MEMORY | command::BUS_MASTER | command::NO_INTX;
        // Zeros in the upper half leave the status register alone.
        self.write(offset::COMMAND, old | bits);
    }

    /// Takes back the device's right to write memory.
    pub fn stop(&self) {
        let old = self.read(offset::COMMAND) & 0xffff;
        self.write(offset::COMMAND, old & !command::BUS_MASTER);
    }
}

/// All functions that can be found from the root buses given (segment and bus).
pub fn scan(
    config: &Arc<dyn ConfigAccess>,
    roots: impl IntoIterator<Item = (u16, u8)>,
) -> Vec<Function> {
    let mut found = Vec::new();
    let mut buses: Vec<(u16, u8)> = roots.into_iter().collect();
    let mut next = 0;
    while let Some(&(segment, bus)) = buses.get(next) {
        next += 1;
        for device in 0..32 {
            for function in 0..8 {
                let address = Address {
                    segment,
                    bus,
                    device,
                    function,
                };
                let Some(one) = Function::probe(config, address) else {
                    if function == 0 {
                        break;
                    }
                    continue;
                };
                if found.len() >= MAX_FUNCTIONS {
                    return found;
                }
                if one.header_type == 1 {
                    let secondary = (one.read(offset::BUSES) >> 8) as u8;
                    // Each bus once: bridges may name each other.
                    if secondary != 0 && !buses.contains(&(segment, secondary)) {
                        buses.push((segment, secondary));
                    }
                }
                let single = one.read8(offset::HEADER_TYPE + 2) & 0x80 == 0;
                found.push(one);
                if function == 0 && single {
                    break;
                }
            }
        }
    }
    found
}
