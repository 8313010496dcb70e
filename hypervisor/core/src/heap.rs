//! The frame heap: a buddy allocator of machine frames.
//!
//! The machine hands in RAM as ranges of frames and one [`FrameLink`] for each
//! frame number; the heap gives out blocks of 2^order frames.
//!
//! # Invariants
//!
//! - A free block of order `k` starts at a multiple of 2^k. Only the link of
//!   its first frame is non-zero; the links of its other frames, and of every
//!   frame that is not free, are zero.
//! - Two buddies are never both free (they are one block of the next order),
//!   except at [`MAX_ORDER`].
//! - Every free frame lies in a range that was added. Frame 0 is never free.
//! - Blocks are kept by *zone*, the number of bits of the frame number of their
//!   last frame, so that a limit on the address is a limit on the zone.
//! - The stamp of a free block is not older than that of any frame in it: a
//!   frame may be reused when no CPU can hold a translation that is older.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use crate::addr::{Mfn, PAGE_SHIFT};
use crate::error::{Error, Result};

/// log2 of the most frames in one block (1 GiB).
pub const MAX_ORDER: u32 = 18;

const ORDERS: usize = MAX_ORDER as usize + 1;
/// Zones 0 to 32: links hold frame numbers of 32 bits (16 TiB).
const ZONES: usize = 33;
const MAX_RANGES: usize = 128;

/// What the heap keeps for one frame. All zeros: the frame is not free.
///
/// Of atomics, so that the links of frames that are not RAM may all be the same
/// memory; those of RAM are written under the heap's lock only.
#[derive(Default, Debug)]
#[repr(C)]
pub struct FrameLink {
    /// `prev << 32 | next`
    neighbours: AtomicU64,
    word: AtomicU64,
}

impl FrameLink {
    fn load(&self) -> Link {
        let neighbours = self.neighbours.load(Ordering::Relaxed);
        Link {
            next: neighbours as u32,
            prev: (neighbours >> 32) as u32,
            word: self.word.load(Ordering::Relaxed),
        }
    }

    fn store(&self, link: Link) {
        let neighbours = u64::from(link.prev) << 32 | u64::from(link.next);
        self.neighbours.store(neighbours, Ordering::Relaxed);
        self.word.store(link.word, Ordering::Relaxed);
    }

    fn order(&self) -> Option<u32> {
        self.load().order()
    }
}

/// A [`FrameLink`]'s contents.
#[derive(Clone, Copy, Default, Debug)]
struct Link {
    /// First frame of the next free block of the list; 0: none.
    next: u32,
    /// First frame of the previous free block of the list; 0: none.
    prev: u32,
    /// `stamp << 8 | order + 1` in the first frame of a free block, else 0.
    word: u64,
}

impl Link {
    fn order(&self) -> Option<u32> {
        ((self.word & 0xff) as u32).checked_sub(1)
    }

    fn stamp(&self) -> u64 {
        self.word >> 8
    }
}

/// A block of frames that the heap gave out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// The first frame.
    pub mfn: Mfn,
    /// log2 of the number of frames.
    pub order: u32,
    /// The flush clock at which the newest of its frames was given up; 0 if
    /// none was ever in use. Before the frames are given to someone else, the
    /// TLBs are flushed up to here ([`crate::machine::Tlb::flush_since`]).
    pub stamp: u64,
}

struct Inner<'a> {
    links: &'a [FrameLink],
    heads: [[u32; ORDERS]; ZONES],
    /// Bit `k` of a zone's mask: its list of order `k` is not empty.
    masks: [u32; ZONES],
    free: u64,
    ranges: [(u64, u64); MAX_RANGES],
    range_count: usize,
    total: u64,
}

/// The allocator. Takes its own lock; safe to call from any CPU.
pub struct FrameHeap<'a> {
    inner: Mutex<Inner<'a>>,
}

impl<'a> FrameHeap<'a> {
    /// An empty heap for frames 0 to `links.len() - 1`. The links must be all
    /// zero; frame numbers of 2^32 and more are not used.
    pub fn new(links: &'a [FrameLink]) -> Self {
        Self {
            inner: Mutex::new(Inner {
                links,
                heads: [[0; ORDERS]; ZONES],
                masks: [0; ZONES],
                free: 0,
                ranges: [(0, 0); MAX_RANGES],
                range_count: 0,
                total: 0,
            }),
        }
    }

    /// Adds RAM from `start` up to, but not including, `end`. Frame 0 and what
    /// lies beyond the links is left out. Gives the number of frames added.
    ///
    /// # Errors
    ///
    /// `Exists` if it overlaps RAM that was added before, `NoSpace` if there
    /// are too many ranges, `Invalid` if `end` lies below `start`.
    pub fn add_range(&self, start: Mfn, end: Mfn) -> Result<u64> {
        let mut inner = self.inner.lock();
        if end < start {
            return Err(Error::Invalid);
        }
        let limit = (inner.links.len() as u64).min(1 << 32);
        let start = start.0.max(1);
        let end = end.0.min(limit);
        if end <= start {
            return Ok(0);
        }
        inner.note_range(start, end)?;
        let mut at = start;
        while at < end {
            // The largest aligned block that starts here and fits.
            let order = at.trailing_zeros().min((end - at).ilog2()).min(MAX_ORDER);
            inner.insert_merged(at as u32, order, 0);
            at += 1 << order;
        }
        inner.total += end - start;
        Ok(end - start)
    }

    /// Gives out a block of 2^`order` frames, with addresses below 2^`bits`
    /// bytes if `bits` is given. High addresses go first: low ones are for those who need them.
    ///
    /// # Errors
    ///
    /// `NoMemory` if there is no such block, `Invalid` if the order is above [`MAX_ORDER`].
    pub fn alloc(&self, order: u32, bits: Option<u32>) -> Result<Block> {
        if order > MAX_ORDER {
            return Err(Error::Invalid);
        }
        let top = match bits {
            Some(bits) => match bits.checked_sub(PAGE_SHIFT) {
                Some(zone) => (zone as usize).min(ZONES - 1),
                None => return Err(Error::NoMemory),
            },
            None => ZONES - 1,
        };
        let mut inner = self.inner.lock();
        inner.alloc(order, top).ok_or(Error::NoMemory)
    }

    /// Takes back 2^`order` frames from `mfn` on, given up at flush clock `stamp`.
    /// A block may be given back in parts, and parts as a whole.
    ///
    /// # Errors
    ///
    /// `Invalid` if the block is not aligned to its size, is not RAM of this
    /// heap, or if a frame of it is free already; nothing changes then.
    pub fn free(&self, mfn: Mfn, order: u32, stamp: u64) -> Result<()> {
        if order > MAX_ORDER || mfn.0 & ((1u64 << order) - 1) != 0 {
            return Err(Error::Invalid);
        }
        let mut inner = self.inner.lock();
        if !inner.is_ram(mfn.0, 1 << order) || inner.any_free(mfn.0, order) {
            return Err(Error::Invalid);
        }
        inner.insert_merged(mfn.0 as u32, order, stamp);
        Ok(())
    }

    /// How many frames are free.
    pub fn free_frames(&self) -> u64 {
        self.inner.lock().free
    }

    /// How many frames were added in all.
    pub fn total_frames(&self) -> u64 {
        self.inner.lock().total
    }

    /// Whether a frame is free.
    pub fn is_free(&self, mfn: Mfn) -> bool {
        let inner = self.inner.lock();
        mfn.0 < inner.links.len() as u64 && inner.any_free(mfn.0, 0)
    }

    /// How many blocks of each order are free, order 0 first (for the debug keys).
    pub fn free_blocks(&self) -> [u64; ORDERS] {
        let inner = self.inner.lock();
        let mut counts = [0; ORDERS];
        for zone in &inner.heads {
            for (count, &head) in counts.iter_mut().zip(zone) {
                let mut at = head;
                while at != 0 {
                    *count += 1;
                    at = inner.link(at).next;
                }
            }
        }
        counts
    }
}

/// The zone of a block: the bits of the number of its last frame.
fn zone_of(first: u32, order: u32) -> usize {
    let last = u64::from(first) + (1 << order) - 1;
    (64 - last.leading_zeros()) as usize
}

impl Inner<'_> {
    fn note_range(&mut self, start: u64, end: u64) -> Result<()> {
        let used = self.ranges.get(..self.range_count).unwrap_or_default();
        if used.iter().any(|&(s, e)| start < e && s < end) {
            return Err(Error::Exists);
        }
        // Touching ranges become one, so that a block may span both.
        let (mut start, mut end) = (start, end);
        let mut kept = 0;
        for at in 0..self.range_count {
            let (s, e) = self.ranges[at];
            if e == start {
                start = s;
            } else if s == end {
                end = e;
            } else {
                self.ranges[kept] = (s, e);
                kept += 1;
            }
        }
        self.range_count = kept;
        match self.ranges.get_mut(kept) {
            Some(slot) => {
                *slot = (start, end);
                self.range_count = kept + 1;
                Ok(())
            }
            // Nothing was merged, or there would be a free slot.
            None => Err(Error::NoSpace),
        }
    }

    fn is_ram(&self, first: u64, count: u64) -> bool {
        let Some(end) = first.checked_add(count) else {
            return false;
        };
        self.ranges[..self.range_count]
            .iter()
            .any(|&(s, e)| s <= first && end <= e)
    }

    /// The link of a frame that is known to be within bounds.
    fn link(&self, at: u32) -> Link {
        self.links[at as usize].load()
    }

    /// Changes the link of a frame that is known to be within bounds.
    fn change(&self, at: u32, change: impl FnOnce(&mut Link)) {
        let slot = &self.links[at as usize];
        let mut link = slot.load();
        change(&mut link);
        slot.store(link);
    }

    /// Whether any frame of the block is free, within a larger block or by itself.
    fn any_free(&self, first: u64, order: u32) -> bool {
        let head_covers = |head: u64, least: u32| {
            self.links
                .get(head as usize)
                .and_then(FrameLink::order)
                .is_some_and(|o| o >= least)
        };
        (order..=MAX_ORDER).any(|o| head_covers(first & !((1u64 << o) - 1), o))
            || (first..first + (1 << order)).any(|at| head_covers(at, 0))
    }

    fn push(&mut self, at: u32, order: u32, stamp: u64) {
        let zone = zone_of(at, order);
        let head = self.heads[zone][order as usize];
        self.links[at as usize].store(Link {
            next: head,
            prev: 0,
            word: (stamp << 8) | u64::from(order + 1),
        });
        if head != 0 {
            self.change(head, |link| link.prev = at);
        }
        self.heads[zone][order as usize] = at;
        self.masks[zone] |= 1 << order;
        self.free += 1 << order;
    }

    /// Takes a free block off its list; gives its stamp.
    fn unlink(&mut self, at: u32, order: u32) -> u64 {
        let zone = zone_of(at, order);
        let link = self.link(at);
        self.links[at as usize].store(Link::default());
        if link.next != 0 {
            self.change(link.next, |next| next.prev = link.prev);
        }
        if link.prev != 0 {
            self.change(link.prev, |prev| prev.next = link.next);
        } else {
            self.heads[zone][order as usize] = link.next;
            if link.next == 0 {
                self.masks[zone] &= !(1 << order);
            }
        }
        self.free -= 1 << order;
        link.stamp()
    }

    /// Makes a block free, together with its buddies as far as they are free.
    fn insert_merged(&mut self, at: u32, order: u32, stamp: u64) {
        let (mut at, mut order, mut stamp) = (at, order, stamp);
        while order < MAX_ORDER {
            let buddy = at ^ (1 << order);
            let free = self
                .links
                .get(buddy as usize)
                .is_some_and(|link| link.order() == Some(order));
            if !free {
                break;
            }
            stamp = stamp.max(self.unlink(buddy, order));
            at &= !(1 << order);
            order += 1;
        }
        self.push(at, order, stamp);
    }

    fn alloc(&mut self, order: u32, top_zone: usize) -> Option<Block> {
        let zone = (0..=top_zone)
            .rev()
            .find(|&zone| self.masks[zone] >> order != 0)?;
        let found = order + (self.masks[zone] >> order).trailing_zeros();
        let at = self.heads[zone][found as usize];
        let stamp = self.unlink(at, found);
        // Keep the low half free at each split, give out the high one: what
        // remains is then the part that an address limit can still use.
        let mut at = at;
        for split in (order..found).rev() {
            self.push(at, split, stamp);
            at += 1 << split;
        }
        Some(Block {
            mfn: Mfn(u64::from(at)),
            order,
            stamp,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec;
    use std::vec::Vec;

    fn links(count: usize) -> Vec<FrameLink> {
        (0..count).map(|_| FrameLink::default()).collect()
    }

    fn check(heap: &FrameHeap<'_>) {
        let inner = heap.inner.lock();
        let mut free = 0;
        for zone in 0..ZONES {
            for order in 0..ORDERS {
                let mut at = inner.heads[zone][order];
                assert_eq!(at != 0, inner.masks[zone] & (1 << order) != 0);
                let mut prev = 0;
                while at != 0 {
                    let link = inner.link(at);
                    assert_eq!(link.order(), Some(order as u32));
                    assert_eq!(link.prev, prev);
                    assert_eq!(zone_of(at, order as u32), zone);
                    assert_eq!(at & ((1 << order) - 1), 0);
                    assert!(inner.is_ram(u64::from(at), 1 << order));
                    if order < MAX_ORDER as usize {
                        let buddy = (at ^ (1 << order)) as usize;
                        assert_ne!(
                            inner.links.get(buddy).and_then(FrameLink::order),
                            Some(order as u32),
                            "buddies both free"
                        );
                    }
                    for inside in at + 1..at + (1 << order) {
                        assert_eq!(inner.link(inside).word, 0);
                    }
                    free += 1u64 << order;
                    prev = at;
                    at = link.next;
                }
            }
        }
        assert_eq!(free, inner.free);
    }

    #[test]
    fn everything_comes_back() {
        let links = links(5000);
        let heap = FrameHeap::new(&links);
        assert_eq!(heap.add_range(Mfn(0), Mfn(160)).unwrap(), 159);
        assert_eq!(heap.add_range(Mfn(256), Mfn(9999)).unwrap(), 4744);
        assert_eq!(heap.add_range(Mfn(150), Mfn(200)), Err(Error::Exists));
        assert_eq!(heap.add_range(Mfn(160), Mfn(200)).unwrap(), 40);
        let total = heap.total_frames();
        let mut got = Vec::new();
        while let Ok(block) = heap.alloc(0, None) {
            got.push(block.mfn);
        }
        assert_eq!(got.len() as u64, total);
        assert_eq!(heap.free_frames(), 0);
        let mut sorted = got.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), got.len());
        for mfn in got {
            heap.free(mfn, 0, 7).unwrap();
        }
        check(&heap);
        assert_eq!(heap.free_frames(), total);
        assert_eq!(heap.alloc(10, None).unwrap().stamp, 7);
    }

    #[test]
    fn bad_frees_are_refused() {
        let links = links(2048);
        let heap = FrameHeap::new(&links);
        heap.add_range(Mfn(512), Mfn(1536)).unwrap();
        let block = heap.alloc(4, None).unwrap();
        assert_eq!(heap.free(Mfn(block.mfn.0 + 1), 1, 0), Err(Error::Invalid));
        assert_eq!(heap.free(Mfn(100), 0, 0), Err(Error::Invalid));
        assert_eq!(heap.free(Mfn(u64::MAX), 0, 0), Err(Error::Invalid));
        assert_eq!(heap.free(Mfn(1 << 32), 0, 0), Err(Error::Invalid));
        assert_eq!(heap.free(block.mfn, 19, 0), Err(Error::Invalid));
        heap.free(Mfn(block.mfn.0 + 3), 0, 0).unwrap();
        assert_eq!(heap.free(Mfn(block.mfn.0 + 3), 0, 0), Err(Error::Invalid));
        assert_eq!(heap.free(block.mfn, 4, 0), Err(Error::Invalid));
        assert_eq!(heap.free(block.mfn, 5, 0), Err(Error::Invalid));
        check(&heap);
    }

    #[test]
    fn address_limit_holds() {
        let links = links(4096);
        let heap = FrameHeap::new(&links);
        heap.add_range(Mfn(1), Mfn(4096)).unwrap();
        let mut low = 0;
        while let Ok(block) = heap.alloc(2, Some(20)) {
            assert!(block.mfn.0 + 4 <= 256);
            low += 1;
        }
        // Frames 0 to 3 are not a whole block, for frame 0 is left out.
        assert_eq!(low, 63);
        assert_eq!(heap.alloc(0, Some(11)), Err(Error::NoMemory));
        check(&heap);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn random_use_keeps_the_invariants(
            ops in prop::collection::vec((0u8..4, 0u32..7, any::<u16>(), 12u32..26), 1..200),
            start in 0u64..100, length in 1u64..3000,
        ) {
            let links = links(3100);
            let heap = FrameHeap::new(&links);
            heap.add_range(Mfn(start), Mfn(start + length)).unwrap();
            let total = heap.total_frames();
            let mut held: BTreeMap<u64, u32> = BTreeMap::new();
            // When each frame was last given up.
            let mut given_up = vec![0u64; 3400];
            for (op, order, pick, bits) in ops {
                // Frames given up on different CPUs may come in any order.
                let stamp = u64::from(pick);
                match op {
                    0 | 1 => {
                        let limit = (op == 1).then_some(bits);
                        if let Ok(block) = heap.alloc(order, limit) {
                            prop_assert_eq!(block.mfn.0 % (1 << order), 0);
                            let frames = block.mfn.0 as usize..block.mfn.0 as usize + (1 << order);
                            prop_assert!(given_up[frames].iter().all(|&s| s <= block.stamp));
                            if let Some(bits) = limit {
                                prop_assert!((block.mfn.0 + (1 << order)) << 12 <= 1u64 << bits);
                            }
                            for (&at, &o) in &held {
                                prop_assert!(at + (1 << o) <= block.mfn.0 || block.mfn.0 + (1 << order) <= at);
                            }
                            held.insert(block.mfn.0, order);
                        }
                    }
                    2 => {
                        if let Some((&at, &o)) = held.iter().nth(pick as usize % held.len().max(1)) {
                            held.remove(&at);
                            given_up[at as usize..at as usize + (1 << o)].fill(stamp);
                            if pick & 1 == 0 {
                                heap.free(Mfn(at), o, stamp).unwrap();
                            } else {
                                for part in 0..1u64 << o {
                                    heap.free(Mfn(at + part), 0, stamp).unwrap();
                                }
                            }
                        }
                    }
                    _ => {
                        // An arbitrary free is taken only if it lies in what is held.
                        let at = u64::from(pick % 3200) & !((1 << order) - 1);
                        let ok = (at..at + (1 << order)).all(|f| held.iter().any(|(&a, &o)| a <= f && f < a + (1 << o)));
                        prop_assert_eq!(heap.free(Mfn(at), order, stamp).is_ok(), ok);
                        if ok {
                            given_up[at as usize..at as usize + (1 << order)].fill(stamp);
                            // Split what was held around the hole.
                            let frames: Vec<u64> = held.iter()
                                .filter(|&(&a, &o)| a < at + (1 << order) && at < a + (1 << o))
                                .flat_map(|(&a, &o)| a..a + (1 << o)).collect();
                            for f in frames {
                                held.remove(&f);
                                if f < at || f >= at + (1 << order) { held.insert(f, 0); }
                            }
                        }
                    }
                }
                let out: u64 = held.values().map(|&o| 1u64 << o).sum();
                prop_assert_eq!(heap.free_frames() + out, total);
            }
            check(&heap);
        }
    }
}
