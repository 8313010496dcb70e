//! Which blocks of a disk its guest wrote, for whoever copies the disk while the guest runs.
//!
//! # A write is noted when it ends, before it is answered
//!
//! Whoever copies takes the notes, and then reads. A write that was noted when it was handed to
//! the device could be taken before the device has done it, the old contents be read, and nothing
//! tell of it afterwards. Noted when the device is through with it, whether that says it
//! went well or not, it is read after that, or noted when the notes are taken the next time.
//!
//! What is under way at a device when the guest is suspended has no answer that the guest has
//! seen: its frontend asks for it again where it wakes up.
//!
//! # Invariant
//! A bit is taken once, and is set again by a write that ends later. A write beyond the end that the
//! disk had at the start is not lost: it makes all further taking fail.

use alloc::vec::Vec;

use crate::error::{Error, Result};

/// Bits of a word.
const BITS: u64 = u64::BITS as u64;
/// log2 of the least sectors of a block: 64 KiB.
const MIN_SHIFT: u32 = 7;
/// The most blocks of a disk: half a MiB of bits, for 256 GiB in the smallest blocks. Blocks
/// of larger disks are larger.
const MAX_BLOCKS: u64 = 1 << 22;

/// How far a log goes, and what is in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Sectors of a block, a power of 2.
    pub block_sectors: u64,
    /// Blocks; the last one may be cut by the disk's end.
    pub blocks: u64,
    /// Blocks that were written and not taken.
    pub written: u64,
}

/// The blocks that were written since they were taken the last time.
#[derive(Debug)]
pub struct Written {
    shift: u32,
    blocks: u64,
    written: u64,
    words: Vec<u64>,
    /// There was a write beyond the end.
    beyond: bool,
}

impl Written {
    /// For a disk of so many sectors, nothing written yet. `NoMemory`.
    pub fn new(sectors: u64) -> Result<Self> {
        let mut shift = MIN_SHIFT;
        while sectors.div_ceil(1 << shift) > MAX_BLOCKS {
            shift += 1;
        }
        let blocks = sectors.div_ceil(1 << shift);
        let length = blocks.div_ceil(BITS) as usize;
        let mut words = Vec::new();
        words
            .try_reserve_exact(length)
            .map_err(|_| Error::NoMemory)?;
        words.resize(length, 0);
        Ok(Self {
            shift,
            blocks,
            written: 0,
            words,
            beyond: false,
        })
    }

    /// How far it goes.
    pub fn extent(&self) -> Extent {
        Extent {
            block_sectors: 1 << self.shift,
            blocks: self.blocks,
            written: self.written,
        }
    }

    /// Sectors were written.
    pub fn note(&mut self, sector: u64, sectors: u64) {
        let Some(last) = sectors
            .checked_sub(1)
            .and_then(|more| sector.checked_add(more))
        else {
            return;
        };
        let (first, last) = (sector >> self.shift, last >> self.shift);
        self.beyond |= last >= self.blocks;
        let Some(end) = self.blocks.checked_sub(1) else {
            return;
        };
        let last = last.min(end);
        if first > last {
            return;
        }
        // A word at a time: a discard may be as long as the disk.
        for index in first / BITS..=last / BITS {
            let from = first.saturating_sub(index * BITS);
            let to = (last - index * BITS).min(BITS - 1);
            let mask = (u64::MAX << from) & (u64::MAX >> (BITS - 1 - to));
            if let Some(word) = self.words.get_mut(index as usize) {
                self.written += u64::from((mask & !*word).count_ones());
                *word |= mask;
            }
        }
    }

    /// Takes the bits from a block on, which has to be a multiple of 64: as many words as there is
    /// room for and are left; gives their number. `Invalid`; `Io` if not all can be told.
    pub fn take(&mut self, first: u64, to: &mut [u64]) -> Result<usize> {
        if self.beyond {
            return Err(Error::Io);
        }
        if !first.is_multiple_of(BITS) || first > self.blocks {
            return Err(Error::Invalid);
        }
        let from = self.words.get_mut((first / BITS) as usize..);
        let from = from.unwrap_or_default();
        for (word, to) in from.iter_mut().zip(to.iter_mut()) {
            self.written -= u64::from(word.count_ones());
            *to = core::mem::take(word);
        }
        Ok(from.len().min(to.len()))
    }

    /// Gives bits back that were taken and reached nobody.
    pub fn untake(&mut self, first: u64, words: &[u64]) {
        let from = (first / BITS) as usize;
        let places = self.words.get_mut(from..).unwrap_or_default();
        for (place, word) in places.iter_mut().zip(words) {
            self.written += u64::from((word & !*place).count_ones());
            *place |= word;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn its_memory_is_bounded() {
        for sectors in [0, 1, 128, 129, 1 << 29, (1 << 29) + 1, 1 << 41, u64::MAX] {
            let log = Written::new(sectors).expect("memory");
            let Extent {
                block_sectors,
                blocks,
                ..
            } = log.extent();
            assert!(blocks <= MAX_BLOCKS && log.words.len() as u64 <= MAX_BLOCKS / BITS);
            assert_eq!(blocks, sectors.div_ceil(block_sectors));
        }
        let extent = Written::new(1 << 29).expect("memory").extent();
        assert_eq!((extent.block_sectors, extent.blocks), (128, MAX_BLOCKS));
    }

    #[test]
    fn what_is_written_beyond_the_end_is_not_passed_over() {
        for (sector, sectors, fails) in [
            (999, 1, false),
            (1023, 1, false),
            (1024, 1, true),
            (0, 1025, true),
            (u64::MAX, 1, true),
            (u64::MAX, 2, false),
            (5, 0, false),
        ] {
            let mut log = Written::new(1000).expect("memory");
            log.note(sector, sectors);
            let taken = log.take(0, &mut [0; 8]);
            assert_eq!(taken == Err(Error::Io), fails, "{sector} {sectors}");
        }
        let mut log = Written::new(1000).expect("memory");
        assert_eq!(log.take(1, &mut [0]), Err(Error::Invalid));
        assert_eq!(log.take(64, &mut [0]), Err(Error::Invalid));
        assert_eq!(log.take(0, &mut []), Ok(0));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 200,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// The same as a set of numbers.
        #[test]
        fn blocks_are_a_set(
            sectors in 1..100_000u64,
            steps in prop::collection::vec((any::<u64>(), 1..4000u64, 0..4u8, 1..5usize), 1..60),
        ) {
            let mut log = Written::new(sectors).expect("memory");
            let blocks = log.extent().blocks;
            let mut model = BTreeSet::new();
            for (place, length, kind, room) in steps {
                if kind < 2 {
                    let sector = place % sectors;
                    let length = length.min(sectors - sector);
                    log.note(sector, length);
                    model.extend(sector / 128..=(sector + length - 1) / 128);
                } else {
                    let first = place % (blocks + 1) / 64 * 64;
                    let mut words = std::vec![u64::MAX; room];
                    let count = log.take(first, &mut words).expect("a place");
                    prop_assert_eq!(count as u64, blocks.div_ceil(64).saturating_sub(first / 64).min(room as u64));
                    words.truncate(count);
                    let taken: Vec<u64> = (0..count as u64 * 64)
                        .filter(|&n| words[n as usize / 64] >> (n % 64) & 1 != 0)
                        .map(|n| first + n)
                        .collect();
                    let end = first + count as u64 * 64;
                    let expected: Vec<u64> = model.range(first..end).copied().collect();
                    prop_assert_eq!(&taken, &expected);
                    if kind == 2 {
                        log.untake(first, &words);
                    } else {
                        model.retain(|&block| block < first || block >= end);
                    }
                }
                prop_assert_eq!(log.extent().written, model.len() as u64);
            }
        }
    }
}
