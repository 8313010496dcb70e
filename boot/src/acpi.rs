//! The root of ACPI's tables (ACPI specification 6.5, section 5.2.5).

use crate::{Fields, PhysicalMemory};

/// Where the root tables are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcpiRoot {
    /// Physical address of the RSDT, where there is one.
    pub rsdt: Option<u32>,
    /// Physical address of the XSDT, where there is one (ACPI 2.0 on).
    pub xsdt: Option<u64>,
}

const SIGNATURE: &[u8; 8] = b"RSD PTR ";
const SIZE_V1: usize = 20;
const SIZE_V2: usize = 36;

fn checksum_is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte)) == 0
}

impl AcpiRoot {
    /// Reads a Root System Description Pointer; `None` if signature or checksum
    /// is wrong, or it points nowhere.
    pub fn from_rsdp(bytes: &[u8]) -> Option<Self> {
        let v1 = bytes.get(..SIZE_V1)?;
        if !v1.starts_with(SIGNATURE) || !checksum_is_zero(v1) {
            return None;
        }
        let rsdt = v1.u32_at(16).filter(|&address| address != 0);
        let revision = v1.get(15).copied()?;
        let xsdt = bytes
            .get(..SIZE_V2)
            .filter(|v2| revision >= 2 && checksum_is_zero(v2))
            .and_then(|v2| v2.u64_at(24))
            .filter(|&address| address != 0);
        (rsdt.is_some() || xsdt.is_some()).then_some(Self { rsdt, xsdt })
    }

    /// Reads the pointer at a physical address.
    pub fn at(memory: &impl PhysicalMemory, address: u64) -> Option<Self> {
        let bytes = memory
            .bytes(address, SIZE_V2)
            .or_else(|| memory.bytes(address, SIZE_V1))?;
        Self::from_rsdp(bytes)
    }
}

/// Looks for the pointer where a BIOS puts it: the first KiB of the extended BIOS
/// data area, and 0xe0000 to 0xfffff, on 16-byte boundaries.
pub(crate) fn scan(memory: &impl PhysicalMemory) -> Option<AcpiRoot> {
    let ebda = memory
        .bytes(0x40e, 2)
        .and_then(|bytes| bytes.u16_at(0))
        .map(|segment| u64::from(segment) << 4)
        .filter(|&address| (0x400..0xa_0000).contains(&address));
    ebda.and_then(|address| scan_range(memory, address, 1024))
        .or_else(|| scan_range(memory, 0xe_0000, 0x2_0000))
}

fn scan_range(memory: &impl PhysicalMemory, start: u64, size: usize) -> Option<AcpiRoot> {
    let bytes = memory.bytes(start, size)?;
    (0..size)
        .step_by(16)
        .find_map(|offset| AcpiRoot::from_rsdp(bytes.get(offset..)?))
}
