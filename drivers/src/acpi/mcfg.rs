//! MCFG: where PCI configuration space is in memory (PCI Firmware Specification 3.3, 4.1.2).

use alloc::vec::Vec;

use super::{HEADER, u16_at, u64_at};

/// The most regions that are kept.
const MAX_REGIONS: usize = 64;

/// The configuration space of some buses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct McfgRegion {
    /// Where bus 0's would be; 1 MiB a bus.
    pub base: u64,
    /// Segment group.
    pub segment: u16,
    /// First bus.
    pub start_bus: u8,
    /// Last bus.
    pub end_bus: u8,
}

/// The regions of an `MCFG` table; those that make no sense are left out.
pub fn mcfg_regions(table: &[u8]) -> Vec<McfgRegion> {
    let entries = table.get(HEADER + 8..).unwrap_or_default();
    entries
        .chunks_exact(16)
        .filter_map(|entry| {
            Some(McfgRegion {
                base: u64_at(entry, 0)?,
                segment: u16_at(entry, 8)?,
                start_bus: *entry.get(10)?,
                end_bus: *entry.get(11)?,
            })
        })
        .filter(|region| {
            let end = u64::from(region.end_bus) + 1;
            region.start_bus <= region.end_bus
                && region.base != 0
                && region.base.is_multiple_of(1 << 20)
                && region.base.checked_add(end << 20).is_some()
        })
        .take(MAX_REGIONS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn entry(base: u64, segment: u16, buses: [u8; 2]) -> Vec<u8> {
        let mut bytes = base.to_le_bytes().to_vec();
        bytes.extend(segment.to_le_bytes());
        bytes.extend(buses);
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn regions_that_make_sense_are_kept() {
        let mut table = vec![0; HEADER + 8];
        table.extend(entry(0xb000_0000, 0, [0, 255]));
        table.extend(entry(0xb000_0000, 1, [9, 8]));
        table.extend(entry(0xb000_1000, 1, [0, 8]));
        table.extend(entry(u64::MAX << 20, 1, [0, 8]));
        table.extend(entry(1 << 40, 2, [3, 3]));
        table.extend([1; 15]);
        let regions = mcfg_regions(&table);
        assert_eq!(regions.len(), 2);
        assert_eq!(regions[0].end_bus, 255);
        assert_eq!(regions[1].segment, 2);
        assert!(mcfg_regions(&table[..HEADER + 3]).is_empty());
    }
}
