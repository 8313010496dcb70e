//! ACPI tables, as far as a hypervisor without a device tree needs them: CPUs
//! and interrupt controllers (MADT), timers and power (FADT, HPET), and the
//! sleep type of "off" (the `\_S5` object of the DSDT).
//!
//! Everything read comes from the first layer's firmware and is not trusted:
//! lengths are bounded, checksums checked, and a table that makes no sense is
//! left out. The layouts are those of the ACPI specification, version 6.5,
//! chapter 5.

mod aml;
mod fadt;
mod madt;
mod mcfg;

use alloc::vec::Vec;

pub use aml::find_s5;
pub use fadt::{AddressSpace, Fadt, GenericAddress};
pub use madt::{InterruptOverride, IoApic, LocalApic, LocalNmi, Madt};
pub use mcfg::{McfgRegion, mcfg_regions};

/// The longest table that is read.
const MAX_TABLE: u32 = 1 << 20;
/// The most tables that are listed.
const MAX_TABLES: usize = 256;
/// Length of the header that all tables begin with.
const HEADER: usize = 36;

/// Read access to physical memory, RAM or not.
pub trait PhysicalMemory {
    /// Copies from `address` on; `false` if some of it cannot be read.
    fn read(&self, address: u64, out: &mut [u8]) -> bool;
}

/// Why the tables cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcpiError {
    /// There is no valid RSDP.
    NoRoot,
    /// The root table cannot be read, or its checksum is wrong.
    BadRootTable,
}

impl core::fmt::Display for AcpiError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoRoot => "no valid RSDP",
            Self::BadRootTable => "the RSDT or XSDT is damaged",
        })
    }
}

/// A little-endian number at `at`; `None` beyond the end.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let end = at.checked_add(2)?;
    Some(u16::from_le_bytes(bytes.get(at..end)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_le_bytes(bytes.get(at..end)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let end = at.checked_add(8)?;
    Some(u64::from_le_bytes(bytes.get(at..end)?.try_into().ok()?))
}

pub(crate) fn checksum_ok(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, &b| sum.wrapping_add(b)) == 0
}

/// The root pointer: where the list of tables is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rsdp {
    /// Physical address of the RSDT or XSDT.
    pub root: u64,
    /// Whether it is an XSDT (64-bit addresses).
    pub extended: bool,
    /// The revision: 0 = ACPI 1.0, 2 = later.
    pub revision: u8,
}

impl Rsdp {
    /// Reads the RSDP at `address`; `None` if it is not one.
    pub fn read<M: PhysicalMemory + ?Sized>(memory: &M, address: u64) -> Option<Self> {
        let mut bytes = [0; 36];
        let (first, rest) = bytes.split_at_mut(20);
        if !memory.read(address, first) {
            return None;
        }
        if first.get(..8)? != b"RSD PTR " || !checksum_ok(first) {
            return None;
        }
        let revision = *first.get(15)?;
        let rsdt = u64::from(u32_at(first, 16)?);
        if revision >= 2 && memory.read(address.checked_add(20)?, rest) && checksum_ok(&bytes) {
            let xsdt = u64_at(&bytes, 24)?;
            if xsdt != 0 {
                return Some(Self {
                    root: xsdt,
                    extended: true,
                    revision,
                });
            }
        }
        (rsdt != 0).then_some(Self {
            root: rsdt,
            extended: false,
            revision,
        })
    }

    /// Looks for the RSDP where a BIOS puts it: in the first KiB of the
    /// extended BIOS data area, and from 0xe0000 to 0xfffff.
    pub fn scan<M: PhysicalMemory + ?Sized>(memory: &M) -> Option<Self> {
        let mut segment = [0; 2];
        if memory.read(0x40e, &mut segment) {
            let ebda = u64::from(u16::from_le_bytes(segment)) << 4;
            if (0x400..0xa_0000).contains(&ebda)
                && let Some(found) = Self::scan_range(memory, ebda, ebda + 0x400)
            {
                return Some(found);
            }
        }
        Self::scan_range(memory, 0xe_0000, 0x10_0000)
    }

    fn scan_range<M: PhysicalMemory + ?Sized>(memory: &M, start: u64, end: u64) -> Option<Self> {
        let mut at = start & !15;
        while at < end {
            let mut signature = [0; 8];
            if memory.read(at, &mut signature)
                && &signature == b"RSD PTR "
                && let Some(found) = Self::read(memory, at)
            {
                return Some(found);
            }
            at += 16;
        }
        None
    }
}

/// One table of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableAddress {
    /// Its four-letter signature.
    pub signature: [u8; 4],
    /// Its physical address.
    pub address: u64,
}

/// The list of tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tables {
    list: Vec<TableAddress>,
}

impl Tables {
    /// Reads the list that the RSDP names.
    ///
    /// # Errors
    ///
    /// [`AcpiError::BadRootTable`]; a table that cannot be read is only left out.
    pub fn load<M: PhysicalMemory + ?Sized>(memory: &M, rsdp: &Rsdp) -> Result<Self, AcpiError> {
        let signature = if rsdp.extended { b"XSDT" } else { b"RSDT" };
        let root = read_table(memory, rsdp.root, signature).ok_or(AcpiError::BadRootTable)?;
        let width = if rsdp.extended { 8 } else { 4 };
        let body = root.get(HEADER..).unwrap_or_default();
        let list = body
            .chunks_exact(width)
            .take(MAX_TABLES)
            .filter_map(|entry| {
                let address = match width {
                    8 => u64_at(entry, 0)?,
                    _ => u64::from(u32_at(entry, 0)?),
                };
                let mut signature = [0; 4];
                (address != 0 && memory.read(address, &mut signature))
                    .then_some(TableAddress { signature, address })
            })
            .collect();
        Ok(Self { list })
    }

    /// All tables in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = &TableAddress> {
        self.list.iter()
    }

    /// The contents, header included, of the first table with this signature
    /// that is whole.
    pub fn get<M: PhysicalMemory + ?Sized>(
        &self,
        memory: &M,
        signature: &[u8; 4],
    ) -> Option<Vec<u8>> {
        self.list
            .iter()
            .filter(|table| &table.signature == signature)
            .find_map(|table| read_table(memory, table.address, signature))
    }
}

/// Reads a whole table; `None` if signature, length or checksum is wrong.
pub fn read_table<M: PhysicalMemory + ?Sized>(
    memory: &M,
    address: u64,
    signature: &[u8; 4],
) -> Option<Vec<u8>> {
    let mut header = [0; HEADER];
    if !memory.read(address, &mut header) || header.get(..4)? != signature {
        return None;
    }
    let length = u32_at(&header, 4)?;
    if (length as usize) < HEADER || length > MAX_TABLE {
        return None;
    }
    let mut table = Vec::new();
    table.try_reserve_exact(length as usize).ok()?;
    table.resize(length as usize, 0);
    (memory.read(address, &mut table) && checksum_ok(&table)).then_some(table)
}

/// The physical address of the first HPET's registers, from an `HPET` table.
pub fn hpet_address(table: &[u8]) -> Option<u64> {
    let space = *table.get(HEADER + 4)?;
    let address = u64_at(table, HEADER + 8)?;
    (space == 0 && address != 0).then_some(address)
}

#[cfg(test)]
mod tests;
