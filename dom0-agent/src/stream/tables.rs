//! Page tables: machine frames in them become the guest's frame numbers, and back.
//!
//! Entries that are not present are the guest's own business and stay as they are. The part
//! of a top table that belongs to the hypervisor ([`XEN_SLOTS`]) is left out; the hypervisor
//! of the other side fills in its own.

use super::{Error, Mfn, PAGE_SIZE, Page, Pfn, Result};

/// Entries of a page table.
pub const ENTRIES: usize = PAGE_SIZE / 8;
/// Entries of a level 4 table that are the hypervisor's: 0xffff800000000000 to 0xffff87ffffffffff.
pub const XEN_SLOTS: std::ops::RangeInclusive<usize> = 256..=271;
/// `_PAGE_PRESENT`.
pub const PRESENT: u64 = 1;
/// `_PAGE_PSE`.
const SUPERPAGE: u64 = 1 << 7;
/// The bits of an entry that hold the frame number.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// The frame number of an entry.
pub fn frame(entry: u64) -> u64 {
    (entry & FRAME) >> 12
}

/// An entry with another frame number.
fn with_frame(entry: u64, frame: u64) -> u64 {
    entry & !FRAME | frame << 12 & FRAME
}

/// The entries of a table.
pub fn entries(page: &Page) -> impl Iterator<Item = u64> {
    page.chunks_exact(8)
        .map(|entry| entry.try_into().map_or(0, u64::from_le_bytes))
}

/// Why a table cannot be brought into the stream's form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Odd {
    /// It maps a frame that is not the guest's: granted by another domain, shared with the
    /// hypervisor, or just given away. To be tried again while the guest runs.
    Foreign {
        /// Which entry.
        index: usize,
        /// The entry.
        entry: u64,
    },
    /// It has a superpage.
    Superpage {
        /// Which entry.
        index: usize,
        /// The entry.
        entry: u64,
    },
}

impl Odd {
    /// As an error, where it is one.
    pub fn into_error(self, level: u8, pfn: Pfn) -> Error {
        let (what, index, entry) = match self {
            Self::Foreign { index, entry } => ("maps a frame that is not its own", index, entry),
            Self::Superpage { index, entry } => ("has a superpage", index, entry),
        };
        Error::Guest(format!(
            "page table {:#x} of level {level} {what}: entry {index} is {entry:#x}",
            pfn.0
        ))
    }
}

/// A table as it goes into the stream; `pfn` tells what the guest calls a machine frame,
/// if it is the guest's.
pub fn canonicalise(
    table: &Page,
    level: u8,
    mut pfn: impl FnMut(Mfn) -> Option<Pfn>,
) -> std::result::Result<Page, Odd> {
    let mut out = [0; PAGE_SIZE];
    for (index, (entry, slot)) in entries(table).zip(out.chunks_exact_mut(8)).enumerate() {
        let entry = if level == 4 && XEN_SLOTS.contains(&index) {
            0
        } else if entry & PRESENT == 0 {
            entry
        } else if level > 1 && entry & SUPERPAGE != 0 {
            return Err(Odd::Superpage { index, entry });
        } else {
            let Some(pfn) = pfn(Mfn(frame(entry))) else {
                return Err(Odd::Foreign { index, entry });
            };
            with_frame(entry, pfn.0)
        };
        slot.copy_from_slice(&entry.to_le_bytes());
    }
    Ok(out)
}

/// The frames that a table of the stream refers to.
pub fn references(table: &Page) -> impl Iterator<Item = Pfn> {
    entries(table)
        .filter(|entry| entry & PRESENT != 0)
        .map(|entry| Pfn(frame(entry)))
}

/// A table of the stream as the machine needs it; `mfn` tells where a frame of the guest is.
///
/// # Errors
/// `Record` if it refers to a frame that the guest does not have.
pub fn localise(
    table: &Page,
    level: u8,
    of: Pfn,
    mut mfn: impl FnMut(Pfn) -> Option<Mfn>,
) -> Result<Page> {
    let mut out = [0; PAGE_SIZE];
    for (index, (entry, slot)) in entries(table).zip(out.chunks_exact_mut(8)).enumerate() {
        let entry = if entry & PRESENT == 0 {
            entry
        } else {
            let Some(mfn) = mfn(Pfn(frame(entry))) else {
                return Err(Error::record(
                    "PAGE_DATA",
                    format!(
                        "page table {:#x} of level {level} refers to frame {:#x}, which the guest does not have (entry {index})",
                        of.0,
                        frame(entry)
                    ),
                ));
            };
            with_frame(entry, mfn.0)
        };
        slot.copy_from_slice(&entry.to_le_bytes());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(entries: &[u64]) -> Page {
        let mut page = [0; PAGE_SIZE];
        for (slot, entry) in page.chunks_exact_mut(8).zip(entries) {
            slot.copy_from_slice(&entry.to_le_bytes());
        }
        page
    }

    #[test]
    fn the_hypervisors_part_is_left_out_of_top_tables_only() {
        let full = table(&[0x1000 | PRESENT; ENTRIES]);
        for (level, left_out) in [(4, true), (3, false), (1, false)] {
            let out = canonicalise(&full, level, |mfn| Some(Pfn(mfn.0))).expect("all its own");
            for (index, entry) in entries(&out).enumerate() {
                let xen = (256..272).contains(&index);
                assert_eq!(entry == 0, left_out && xen, "level {level} entry {index}");
            }
        }
    }

    #[test]
    fn foreign_frames_and_superpages_are_told() {
        let mut raw = [0; ENTRIES];
        raw[7] = 0x5000 | PRESENT;
        let foreign = canonicalise(&table(&raw), 1, |_| None);
        assert_eq!(
            foreign,
            Err(Odd::Foreign {
                index: 7,
                entry: 0x5001
            })
        );
        raw[7] |= SUPERPAGE;
        let big = canonicalise(&table(&raw), 2, |mfn| Some(Pfn(mfn.0)));
        assert_eq!(
            big,
            Err(Odd::Superpage {
                index: 7,
                entry: 0x5081
            })
        );
        // In a level 1 table the bit is PAT.
        assert!(canonicalise(&table(&raw), 1, |mfn| Some(Pfn(mfn.0))).is_ok());
    }

    proptest! {
        #[test]
        fn tables_come_back(raw in proptest::collection::vec(any::<u64>(), ENTRIES), level in 1u8..=4, add in 1u64..1 << 30) {
            let raw: Vec<u64> = raw.iter().enumerate().map(|(index, &entry)| {
                if level == 4 && XEN_SLOTS.contains(&index) { return 0; }
                let entry = if level > 1 { entry & !SUPERPAGE } else { entry };
                // Frames that stay in range when moved.
                if entry & PRESENT != 0 { entry & !(0xfff << 40) } else { entry }
            }).collect();
            let page = table(&raw);
            let canonical = canonicalise(&page, level, |mfn| Some(Pfn(mfn.0 + add))).expect("canonical");
            for (before, after) in raw.iter().zip(entries(&canonical)) {
                if before & PRESENT == 0 { prop_assert_eq!(*before, after); }
                else {
                    prop_assert_eq!(before & !FRAME, after & !FRAME);
                    prop_assert_eq!(frame(*before) + add, frame(after));
                }
            }
            let back = localise(&canonical, level, Pfn(0), |pfn| Some(Mfn(pfn.0 - add))).expect("local");
            prop_assert_eq!(page, back);
        }
    }
}
