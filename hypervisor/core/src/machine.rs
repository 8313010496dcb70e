//! What the logic needs of the machine: frames of memory, the TLBs, the time.
//!
//! The hypervisor binary implements these traits over the direct map, the APIC
//! and the TSC; host tests implement them over plain vectors ([`mock`]).

use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{Mfn, PAGE_SIZE};
use crate::ids::CpuSet;

/// One 4 KiB frame of machine memory, seen as 512 shared 64-bit words.
///
/// A guest, a device or another CPU may write the frame at any time, so every
/// access is atomic and every value read is to be checked after it was read.
#[repr(transparent)]
pub struct Frame([AtomicU64; PAGE_SIZE / 8]);

impl Default for Frame {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; PAGE_SIZE / 8])
    }
}

impl Frame {
    /// The 64-bit word at `index` (0 to 511). Panics beyond.
    pub fn word(&self, index: usize) -> &AtomicU64 {
        &self.0[index]
    }

    /// Reads the word at `index`.
    pub fn load(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Acquire)
    }

    /// Writes the word at `index`.
    pub fn store(&self, index: usize, value: u64) {
        self.0[index].store(value, Ordering::Release);
    }

    /// Whether any of the eight words from `8 * group` on (groups 0 to 63) has any
    /// of the bits. Panics beyond.
    #[inline]
    pub fn group_has(&self, group: usize, bits: u64) -> bool {
        let (groups, _) = self.0.as_chunks::<8>();
        let any = groups[group]
            .iter()
            .fold(0, |any, word| any | word.load(Ordering::Acquire));
        any & bits != 0
    }

    /// Writes the word at `index`; gives what was there.
    pub fn swap(&self, index: usize, value: u64) -> u64 {
        self.0[index].swap(value, Ordering::AcqRel)
    }

    /// Changes the word at `index` from `old` to `new`; on failure gives what is there.
    pub fn compare_exchange(&self, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        self.0[index].compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
    }

    /// Changes the bits under `mask` of the word at `index` to `value`; gives the old word.
    pub fn replace_bits(&self, index: usize, mask: u64, value: u64) -> u64 {
        let mut old = self.load(index);
        loop {
            match self.compare_exchange(index, old, (old & !mask) | (value & mask)) {
                Ok(old) => return old,
                Err(now) => old = now,
            }
        }
    }

    /// Reads the aligned 32-bit value at byte `offset`.
    pub fn load_u32(&self, offset: usize) -> u32 {
        (self.load(offset / 8) >> (8 * (offset % 8))) as u32
    }

    /// Writes the aligned 32-bit value at byte `offset`; its neighbour keeps its value.
    pub fn store_u32(&self, offset: usize, value: u32) {
        let shift = 8 * (offset % 8);
        self.replace_bits(offset / 8, 0xffff_ffff << shift, u64::from(value) << shift);
    }

    /// Changes the aligned 32-bit value at byte `offset` from `old` to `new`;
    /// on failure gives what is there.
    pub fn compare_exchange_u32(&self, offset: usize, old: u32, new: u32) -> Result<u32, u32> {
        let shift = 8 * (offset % 8);
        let mut word = self.load(offset / 8);
        loop {
            let now = (word >> shift) as u32;
            if now != old {
                return Err(now);
            }
            let want = (word & !(0xffff_ffff << shift)) | (u64::from(new) << shift);
            match self.compare_exchange(offset / 8, word, want) {
                Ok(_) => return Ok(old),
                Err(other) => word = other,
            }
        }
    }

    /// Reads the aligned 16-bit value at byte `offset`.
    pub fn load_u16(&self, offset: usize) -> u16 {
        (self.load(offset / 8) >> (8 * (offset % 8))) as u16
    }

    /// Writes the aligned 16-bit value at byte `offset`.
    pub fn store_u16(&self, offset: usize, value: u16) {
        let shift = 8 * (offset % 8);
        self.replace_bits(offset / 8, 0xffff << shift, u64::from(value) << shift);
    }

    /// Reads the byte at `offset`.
    pub fn load_u8(&self, offset: usize) -> u8 {
        (self.load(offset / 8) >> (8 * (offset % 8))) as u8
    }

    /// Writes the byte at `offset`.
    pub fn store_u8(&self, offset: usize, value: u8) {
        let shift = 8 * (offset % 8);
        self.replace_bits(offset / 8, 0xff << shift, u64::from(value) << shift);
    }

    /// Copies bytes out from `offset` on, whole words at once. Panics if they do not fit in the
    /// frame.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        assert!(offset <= PAGE_SIZE && out.len() <= PAGE_SIZE - offset);
        let part = |at: usize, out: &mut [u8]| {
            if !out.is_empty() {
                let bytes = self.0[at / 8].load(Ordering::Relaxed).to_le_bytes();
                for (to, from) in out.iter_mut().zip(bytes.iter().skip(at % 8)) {
                    *to = *from;
                }
            }
        };
        let to_word = (offset.wrapping_neg() % 8).min(out.len());
        let (first, out) = out.split_at_mut(to_word);
        part(offset, first);
        let at = offset + to_word;
        let (words, last) = out.as_chunks_mut::<8>();
        let source = self.0.get(at / 8..).unwrap_or_default();
        // Eight words at a time.
        let (groups, few) = words.as_chunks_mut::<8>();
        let (from, _) = source.as_chunks::<8>();
        for (to, from) in groups.iter_mut().zip(from) {
            for (to, from) in to.iter_mut().zip(from) {
                *to = from.load(Ordering::Relaxed).to_le_bytes();
            }
        }
        let source = source.get(8 * groups.len()..).unwrap_or_default();
        for (to, from) in few.iter_mut().zip(source) {
            *to = from.load(Ordering::Relaxed).to_le_bytes();
        }
        part(at + 8 * words.len(), last);
    }

    /// Copies all words out; gives all their bits, or-ed.
    pub fn read_words(&self, out: &mut [u64; PAGE_SIZE / 8]) -> u64 {
        let mut any = 0;
        for (to, from) in out.iter_mut().zip(&self.0) {
            let word = from.load(Ordering::Relaxed);
            *to = word;
            any |= word;
        }
        any
    }

    /// Copies bytes in from `offset` on; whole words at once where they align.
    /// Panics if they do not fit in the frame.
    pub fn write(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= PAGE_SIZE);
        let mut at = offset;
        let mut data = data;
        if at.is_multiple_of(8) {
            let (words, rest) = data.as_chunks::<8>();
            let target = &self.0[at / 8..];
            let (groups, few) = words.as_chunks::<8>();
            let (to, _) = target.as_chunks::<8>();
            for (to, from) in to.iter().zip(groups) {
                for (to, from) in to.iter().zip(from) {
                    to.store(u64::from_le_bytes(*from), Ordering::Relaxed);
                }
            }
            for (to, from) in target.iter().skip(8 * groups.len()).zip(few) {
                to.store(u64::from_le_bytes(*from), Ordering::Relaxed);
            }
            at += words.len() * 8;
            data = rest;
        }
        while !data.is_empty() {
            let in_word = at % 8;
            let n = (8 - in_word).min(data.len());
            let (now, rest) = data.split_at(n);
            let mut bytes = [0; 8];
            bytes[in_word..in_word + n].copy_from_slice(now);
            let value = u64::from_le_bytes(bytes);
            if n == 8 {
                self.0[at / 8].store(value, Ordering::Relaxed);
            } else {
                let mask = ((1u64 << (8 * n)) - 1) << (8 * in_word);
                self.replace_bits(at / 8, mask, value);
            }
            at += n;
            data = rest;
        }
    }

    /// Copies bytes of another frame here, whole words at once. Panics if they do not fit
    /// in either frame. The two may be one frame, of which then other bytes are copied.
    pub fn copy_bytes(&self, offset: usize, other: &Frame, from: usize, length: usize) {
        assert!(offset <= PAGE_SIZE && from <= PAGE_SIZE);
        assert!(length <= PAGE_SIZE - offset && length <= PAGE_SIZE - from);
        let mut bytes = [0; 8];
        let to_word = (offset.wrapping_neg() % 8).min(length);
        let copy_few = |at: usize, n: usize, bytes: &mut [u8; 8]| {
            let few = bytes.split_at_mut(n).0;
            other.read(from + at, few);
            self.write(offset + at, few);
        };
        if to_word != 0 {
            copy_few(0, to_word, &mut bytes);
        }
        let words = (length - to_word) / 8;
        if words != 0 {
            let (first, source) = ((offset + to_word) / 8, from + to_word);
            let to = &self.0[first..first + words];
            let (word, shift) = (source / 8, 8 * (source % 8) as u32);
            if shift == 0 {
                let (groups, few) = to.as_chunks::<8>();
                let (sources, last) = other.0[word..word + words].as_chunks::<8>();
                for (to, from) in groups.iter().zip(sources) {
                    for (to, from) in to.iter().zip(from) {
                        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                }
                for (to, from) in few.iter().zip(last) {
                    to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            } else {
                let mut low = other.0[word].load(Ordering::Relaxed);
                for (to, from) in to.iter().zip(&other.0[word + 1..word + 1 + words]) {
                    let high = from.load(Ordering::Relaxed);
                    to.store(low >> shift | high << (64 - shift), Ordering::Relaxed);
                    low = high;
                }
            }
        }
        let done = to_word + 8 * words;
        if done < length {
            copy_few(done, length - done, &mut bytes);
        }
    }

    /// Fills the frame with zeros.
    pub fn zero(&self) {
        for word in &self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Copies the whole of another frame.
    pub fn copy_from(&self, other: &Frame) {
        for (to, from) in self.0.iter().zip(&other.0) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// Access to machine memory by frame.
pub trait Memory: Sync {
    /// The contents of a frame of RAM, or `None` if there is no RAM at that number.
    fn frame(&self, mfn: Mfn) -> Option<&Frame>;

    /// One more than the highest frame number of RAM.
    fn end_mfn(&self) -> Mfn;
}

/// Control over the TLBs of all CPUs.
///
/// The *flush clock* counts full flushes (global entries included) of any CPU.
/// A stale translation through a frame that was given up at clock value `s` can
/// exist only on CPUs whose last full flush is not later than `s`.
pub trait Tlb: Sync {
    /// The present value of the flush clock: the stamp for a frame given up now.
    fn clock(&self) -> u64;

    /// Flushes every CPU whose last full flush is not later than `stamp`, and
    /// returns when all have done so.
    fn flush_since(&self, stamp: u64);

    /// Flushes the given CPUs fully, and returns when all have done so.
    fn flush(&self, cpus: &CpuSet);

    /// Flushes one linear address on the given CPUs, and returns when done.
    fn flush_page(&self, cpus: &CpuSet, address: u64);
}

/// Tells long work when it should stop and be continued later.
pub trait Preempt {
    /// Whether something more urgent waits (an event, the end of a time slice).
    fn preempt_pending(&self) -> bool;
}

/// Nothing is ever more urgent.
pub struct Never;

impl Preempt for Never {
    fn preempt_pending(&self) -> bool {
        false
    }
}

/// Memory and TLBs for tests on the host.
pub mod mock {
    use super::{Frame, Memory, Preempt, Tlb};
    use crate::addr::Mfn;
    use crate::ids::CpuSet;
    use alloc::vec::Vec;

    /// Something more urgent always waits.
    pub struct Always;

    impl Preempt for Always {
        fn preempt_pending(&self) -> bool {
            true
        }
    }
    use core::sync::atomic::{AtomicU64, Ordering};

    /// RAM of a number of frames from 0, and a flush clock that counts.
    pub struct MockMachine {
        frames: Vec<Frame>,
        clock: AtomicU64,
        /// How many flushes of any kind were asked for.
        pub flushes: AtomicU64,
    }

    impl MockMachine {
        /// A machine with `frames` zeroed frames of RAM.
        pub fn new(frames: usize) -> Self {
            Self {
                frames: (0..frames).map(|_| Frame::default()).collect(),
                clock: AtomicU64::new(1),
                flushes: AtomicU64::new(0),
            }
        }
    }

    impl Memory for MockMachine {
        fn frame(&self, mfn: Mfn) -> Option<&Frame> {
            self.frames.get(mfn.0 as usize)
        }

        fn end_mfn(&self) -> Mfn {
            Mfn(self.frames.len() as u64)
        }
    }

    impl Tlb for MockMachine {
        fn clock(&self) -> u64 {
            self.clock.load(Ordering::Acquire)
        }

        fn flush_since(&self, _stamp: u64) {
            self.clock.fetch_add(1, Ordering::AcqRel);
            self.flushes.fetch_add(1, Ordering::AcqRel);
        }

        fn flush(&self, _cpus: &CpuSet) {
            self.clock.fetch_add(1, Ordering::AcqRel);
            self.flushes.fetch_add(1, Ordering::AcqRel);
        }

        fn flush_page(&self, _cpus: &CpuSet, _address: u64) {
            self.flushes.fetch_add(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn bytes_are_read_at_any_alignment(
            from in 0..=PAGE_SIZE,
            length in prop_oneof![0..40usize, 0..PAGE_SIZE],
        ) {
            let length = length.min(PAGE_SIZE - from);
            let source = Frame::default();
            let content: Vec<u8> = (0..PAGE_SIZE).map(|n| (n * 7 + n / 256) as u8).collect();
            source.write(0, &content);
            let mut out = vec![0xee; length];
            source.read(from, &mut out);
            prop_assert_eq!(&out, &content[from..from + length]);
        }

        #[test]
        fn bytes_are_copied_at_any_alignment(
            to in 0..PAGE_SIZE,
            from in 0..PAGE_SIZE,
            length in prop_oneof![0..40usize, 0..PAGE_SIZE],
        ) {
            let length = length.min(PAGE_SIZE - to).min(PAGE_SIZE - from);
            let (source, dest) = (Frame::default(), Frame::default());
            let content: Vec<u8> = (0..PAGE_SIZE).map(|n| (n * 7 + n / 256) as u8).collect();
            source.write(0, &content);
            dest.write(0, &[0xee; PAGE_SIZE]);
            dest.copy_bytes(to, &source, from, length);
            let mut expected = vec![0xee; PAGE_SIZE];
            expected[to..to + length].copy_from_slice(&content[from..from + length]);
            let mut out = vec![0; PAGE_SIZE];
            dest.read(0, &mut out);
            prop_assert_eq!(out, expected);
        }
    }
}
