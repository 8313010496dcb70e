//! The memory map: collected as the loader gives it, then made consistent.

use crate::BootError;

/// The most ranges that a memory map can have, before and after overlaps are resolved.
pub const MAX_RANGES: usize = 256;

/// Physical addresses end here (52 bits).
const END_OF_ADDRESSES: u64 = 1 << 52;
const PAGE_SIZE: u64 = 4096;

/// What a range of physical addresses holds, from good to bad.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RangeKind {
    /// RAM, free to use (E820 type 1).
    Ram,
    /// ACPI tables; RAM once they have been read (E820 type 3).
    AcpiReclaimable,
    /// ACPI's own storage (E820 type 4).
    AcpiNvs,
    /// Not to be touched (E820 type 2 and all unknown types).
    Reserved,
    /// Broken RAM (E820 type 5).
    Unusable,
}

impl RangeKind {
    /// The kind of an E820 type, as Multiboot and PVH use them.
    pub const fn from_e820(kind: u32) -> Self {
        match kind {
            1 => Self::Ram,
            3 => Self::AcpiReclaimable,
            4 => Self::AcpiNvs,
            5 => Self::Unusable,
            _ => Self::Reserved,
        }
    }

    /// The kind of an EFI memory type (UEFI specification 2.10, section 7.2) after
    /// the boot services have ended.
    pub const fn from_efi(kind: u32) -> Self {
        match kind {
            // Loader code and data, boot services code and data, conventional.
            1..=4 | 7 => Self::Ram,
            8 => Self::Unusable,
            9 => Self::AcpiReclaimable,
            10 => Self::AcpiNvs,
            _ => Self::Reserved,
        }
    }

    /// The kind's number in an E820 map.
    pub const fn to_e820(self) -> u32 {
        match self {
            Self::Ram => 1,
            Self::Reserved => 2,
            Self::AcpiReclaimable => 3,
            Self::AcpiNvs => 4,
            Self::Unusable => 5,
        }
    }

    /// The name that is usual in listings of E820 maps.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ram => "usable",
            Self::AcpiReclaimable => "ACPI data",
            Self::AcpiNvs => "ACPI NVS",
            Self::Reserved => "reserved",
            Self::Unusable => "unusable",
        }
    }
}

/// A range of physical addresses of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The first address.
    pub start: u64,
    /// The address behind the last.
    pub end: u64,
    /// What it holds.
    pub kind: RangeKind,
}

impl Range {
    const EMPTY: Self = Self {
        start: 0,
        end: 0,
        kind: RangeKind::Reserved,
    };

    /// Its size in bytes.
    pub const fn size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// A list of ranges.
pub struct MemoryMap {
    ranges: [Range; MAX_RANGES],
    len: usize,
}

impl MemoryMap {
    /// No ranges.
    pub const EMPTY: Self = Self {
        ranges: [Range::EMPTY; MAX_RANGES],
        len: 0,
    };

    /// Forgets all ranges.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The ranges.
    pub fn ranges(&self) -> &[Range] {
        self.ranges.get(..self.len).unwrap_or(&[])
    }

    /// Adds a range as the loader gives it. Empty ones are ignored, and what goes
    /// beyond the last possible address is cut off.
    pub fn add(&mut self, start: u64, size: u64, kind: RangeKind) -> Result<(), BootError> {
        let end = start.saturating_add(size).min(END_OF_ADDRESSES);
        if start >= end {
            return Ok(());
        }
        // EFI maps are long, with many neighbours of one kind.
        if let Some(last) = self.len.checked_sub(1).and_then(|i| self.ranges.get_mut(i))
            && last.kind == kind
            && last.end == start
        {
            last.end = end;
            return Ok(());
        }
        push(&mut self.ranges, &mut self.len, Range { start, end, kind })
    }

    /// Sorts the ranges and resolves overlaps: the worse kind wins.
    pub fn resolve(&mut self) -> Result<(), BootError> {
        let mut points = [0; 2 * MAX_RANGES];
        let mut count = 0;
        for (pair, range) in points.as_chunks_mut::<2>().0.iter_mut().zip(self.ranges()) {
            *pair = [range.start, range.end];
            count += 2;
        }
        let points = points.get_mut(..count).unwrap_or(&mut []);
        points.sort_unstable();

        let mut out = [Range::EMPTY; MAX_RANGES];
        let mut len = 0_usize;
        for pair in points.windows(2) {
            let &[start, end] = pair else { continue };
            if start == end {
                continue;
            }
            let worst = self
                .ranges()
                .iter()
                .filter(|range| range.start <= start && end <= range.end)
                .map(|range| range.kind)
                .max();
            let Some(kind) = worst else { continue };
            match len.checked_sub(1).and_then(|i| out.get_mut(i)) {
                Some(last) if last.end == start && last.kind == kind => last.end = end,
                _ => push(&mut out, &mut len, Range { start, end, kind })?,
            }
        }
        self.ranges = out;
        self.len = len;
        Ok(())
    }

    /// Aligns RAM inward and all else outward to pages, and resolves what
    /// overlaps then. To be called on a resolved map.
    pub fn align_to_pages(&mut self) -> Result<(), BootError> {
        for range in self.ranges.iter_mut().take(self.len) {
            let up = |address: u64| address.next_multiple_of(PAGE_SIZE);
            let down = |address: u64| address - address % PAGE_SIZE;
            if range.kind == RangeKind::Ram {
                range.start = up(range.start);
                range.end = down(range.end).max(range.start);
            } else {
                range.start = down(range.start);
                range.end = up(range.end);
            }
        }
        self.resolve()
    }

    /// Whether all of `start..end` is RAM. To be called on a resolved map.
    pub fn is_ram(&self, start: u64, end: u64) -> bool {
        self.ranges()
            .iter()
            .any(|range| range.kind == RangeKind::Ram && range.start <= start && end <= range.end)
    }

    /// Bytes of RAM. To be called on a resolved map.
    pub fn ram_bytes(&self) -> u64 {
        self.ranges()
            .iter()
            .filter(|range| range.kind == RangeKind::Ram)
            .map(Range::size)
            .sum()
    }
}

fn push(ranges: &mut [Range; MAX_RANGES], len: &mut usize, range: Range) -> Result<(), BootError> {
    let slot = ranges.get_mut(*len).ok_or(BootError::TooManyRanges)?;
    *slot = range;
    *len += 1;
    Ok(())
}
