//! The split virtqueue (virtio 1.2, section 2.7).
//!
//! # Invariants
//!
//! - What the driver knows of the ring it keeps to itself: free descriptors, which buffers are
//!   with the device, both indices. It never reads back what a device could have written,
//!   but the used half, whose every value is checked.
//! - The head of a chain that is with the device has a token, and no other has; so a
//!   completion that gives a token was of a buffer that was there, once.
//! - No more than `size` descriptors are with the device, hence not more heads in the
//!   available half than it holds.
//!
//! # Notifications
//!
//! With the event index a side says at which index it wants to hear next. Both indices are 16
//! bits and wrap; a device that takes buffers without notification can be more than a
//! whole turn ahead of what the comparison can tell, so after 2^15 additions the
//! device is told in any case.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use super::feature;
use crate::platform::{Dma, PAGE_SIZE, Platform};

/// Descriptor flag: another follows.
const NEXT: u64 = 1;
/// Descriptor flag: the device writes.
const WRITE: u64 = 2;
/// Descriptor flag: it holds a table of descriptors.
const INDIRECT: u64 = 4;
/// In the available half's flags: no interrupt, please.
const NO_INTERRUPT: u16 = 1;
/// In the used half's flags: no notification, please.
const NO_NOTIFY: u16 = 1;
/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;
/// Descriptors of an indirect table: 1 KiB, so that a table is in one page.
const TABLE: usize = 64;

/// A piece of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// Machine address.
    pub address: u64,
    /// Bytes, not 0.
    pub length: u32,
    /// Whether the device writes it, rather than reads it. Those that it reads come first.
    pub write: bool,
}

/// Where a queue's parts are, and how many descriptors it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingPlace {
    /// Descriptors, a power of two.
    pub size: u16,
    /// Machine address of the descriptor table; a multiple of the page size.
    pub descriptors: u64,
    /// Machine address of the available half.
    pub available: u64,
    /// Machine address of the used half; where legacy devices have it.
    pub used: u64,
}

/// The device said something about the ring that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken;

struct Slot<T> {
    token: Option<T>,
    /// The next free descriptor, or the next of a chain.
    next: u16,
    /// Descriptors of the chain whose head this is.
    count: u16,
}

/// A queue: buffers go to the device with tokens of type `T`, and come back with them.
pub struct Ring<T> {
    memory: Dma,
    /// An indirect table for each descriptor.
    tables: Option<Dma>,
    slots: Box<[Slot<T>]>,
    size: u16,
    available: usize,
    used: usize,
    event_index: bool,
    free_head: u16,
    free: u16,
    /// Index of the next entry of the available half.
    next: u16,
    /// Buffers added since the device was told last; stops at its maximum.
    added: u16,
    /// Index of the next entry of the used half.
    seen: u16,
    /// The used half's index, as last read and checked.
    end: u16,
    /// Buffers that are with the device.
    pending: u16,
    armed: bool,
    broken: bool,
}

/// Bytes of a legacy queue's first part, descriptors and available half.
fn first_part(size: usize) -> usize {
    (DESCRIPTOR * size + 6 + 2 * size).next_multiple_of(PAGE_SIZE)
}

impl<T> Ring<T> {
    /// An empty queue of `size` descriptors, a power of two; `None` without memory.
    pub fn new(platform: &'static dyn Platform, size: u16, features: u64) -> Option<Self> {
        debug_assert!(size.is_power_of_two() && size <= 1 << 15);
        let count = usize::from(size);
        let used = first_part(count);
        let memory = Dma::new(platform, used + 6 + 8 * count)?;
        let tables = if features & feature::INDIRECT != 0 {
            Some(Dma::new(platform, count * TABLE * DESCRIPTOR)?)
        } else {
            None
        };
        let mut slots = Vec::new();
        slots.try_reserve_exact(count).ok()?;
        slots.extend((0..size).map(|n| Slot {
            token: None,
            next: n.wrapping_add(1),
            count: 0,
        }));
        let ring = Self {
            memory,
            tables,
            slots: slots.into_boxed_slice(),
            size,
            available: DESCRIPTOR * count,
            used,
            event_index: features & feature::EVENT_INDEX != 0,
            free_head: 0,
            free: size,
            next: 0,
            added: 0,
            seen: 0,
            end: 0,
            pending: 0,
            armed: false,
            broken: false,
        };
        if !ring.event_index {
            ring.set_flags(NO_INTERRUPT);
        }
        Some(ring)
    }

    /// Turns all indices of an empty ring on to a value, as if so many buffers had gone and come.
    #[cfg(test)]
    pub(super) fn turn_to(&mut self, index: u16) {
        assert_eq!(self.pending, 0);
        (self.next, self.seen, self.end) = (index, index, index);
        let order = Ordering::SeqCst;
        self.memory.store16(self.available + 2, index, order);
        self.memory.store16(self.used + 2, index, order);
    }

    /// Where it is.
    pub fn place(&self) -> RingPlace {
        RingPlace {
            size: self.size,
            descriptors: self.memory.address(0),
            available: self.memory.address(self.available),
            used: self.memory.address(self.used),
        }
    }

    /// How many descriptors it has.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The most pieces that a buffer can have.
    pub fn max_pieces(&self) -> usize {
        match self.tables {
            Some(_) => TABLE,
            // So that more than one fits.
            None => usize::from(self.size).min(TABLE),
        }
    }

    /// Buffers that are with the device.
    pub fn pending(&self) -> u16 {
        self.pending
    }

    /// Whether the device broke it.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// The head, below the size, that a buffer of so many pieces would get; `None` if there
    /// is no room for it now.
    pub fn room(&self, pieces: usize) -> Option<u16> {
        let needed = if self.tables.is_some() && pieces > 1 {
            1
        } else {
            pieces
        };
        let fits = pieces > 0 && pieces <= self.max_pieces() && needed <= self.free.into();
        fits.then_some(self.free_head)
    }

    /// Gives a buffer of `pieces` pieces to the device; the head is what [`Self::room`] said.
    /// Gives the token back if there is no room, if it is broken, or if there are fewer pieces.
    pub fn add(
        &mut self,
        pieces: usize,
        buffers: impl Iterator<Item = Buffer>,
        token: T,
    ) -> Result<(), T> {
        let Some(head) = self.room(pieces) else {
            return Err(token);
        };
        if self.broken {
            return Err(token);
        }
        let buffers = buffers.take(pieces);
        let mut at = head;
        let mut written = 0;
        let mut count = 0u16;
        if let Some(tables) = self.tables.as_ref().filter(|_| pieces > 1) {
            let table = usize::from(head) * TABLE * DESCRIPTOR;
            // Not by a loop: what drives a chain of iterators itself costs less.
            buffers.for_each(|buffer| {
                let place = table + written * DESCRIPTOR;
                written += 1;
                write_descriptor(tables, place, buffer, written < pieces, written as u64);
            });
            let word = (written * DESCRIPTOR) as u64 | INDIRECT << 32;
            let place = usize::from(head) * DESCRIPTOR;
            self.memory
                .store64(place, tables.address(table), Ordering::Relaxed);
            self.memory.store64(place + 8, word, Ordering::Relaxed);
            count = 1;
            at = self.slot(head).next;
        } else {
            for buffer in buffers {
                let next = self.slot(at).next;
                let place = usize::from(at) * DESCRIPTOR;
                written += 1;
                let more = written < pieces;
                write_descriptor(&self.memory, place, buffer, more, next.into());
                at = next;
                count += 1;
            }
        }
        if written != pieces {
            // The device does not look at what was written.
            return Err(token);
        }
        self.free_head = at;
        self.free -= count;
        self.pending += 1;
        let slot = self.slot_mut(head);
        slot.token = Some(token);
        slot.count = count;
        let entry = self.available + 4 + 2 * usize::from(self.next & (self.size - 1));
        self.memory.store16(entry, head, Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
        self.added = self.added.saturating_add(1);
        self.memory
            .store16(self.available + 2, self.next, Ordering::Release);
        Ok(())
    }

    /// Whether the device is to be told of what was added since the last call of this.
    pub fn needs_notification(&mut self) -> bool {
        let added = core::mem::take(&mut self.added);
        if added == 0 || self.broken {
            return false;
        }
        // The index is written before the device's wish is read.
        fence(Ordering::SeqCst);
        if !self.event_index {
            return self.memory.load16(self.used, Ordering::Relaxed) & NO_NOTIFY == 0;
        }
        let place = self.used + 4 + 8 * usize::from(self.size);
        let event = self.memory.load16(place, Ordering::Relaxed);
        // The entry that it waits for is one of those added.
        let behind = self.next.wrapping_sub(event).wrapping_sub(1);
        added >= 1 << 15 || behind < added
    }

    /// Takes a buffer that the device is done with: its token, its head, and how many bytes
    /// the device says that it wrote (which nobody checked).
    pub fn take(&mut self) -> Result<Option<(T, u16, u32)>, Broken> {
        if self.broken {
            return Err(Broken);
        }
        if self.armed {
            self.armed = false;
            if !self.event_index {
                self.set_flags(NO_INTERRUPT);
            }
        }
        if self.seen == self.end && !self.look()? {
            return Ok(None);
        }
        let entry = self.used + 4 + 8 * usize::from(self.seen & (self.size - 1));
        let head = self.memory.load32(entry, Ordering::Relaxed);
        let length = self.memory.load32(entry + 4, Ordering::Relaxed);
        let slot = match u16::try_from(head) {
            Ok(head) if head < self.size => self.slot_mut(head),
            _ => return self.fail(),
        };
        let Some(token) = slot.token.take() else {
            return self.fail();
        };
        let head = head as u16;
        let count = core::mem::take(&mut slot.count);
        let mut last = head;
        for _ in 1..count {
            last = self.slot(last).next;
        }
        self.slot_mut(last).next = self.free_head;
        self.free_head = head;
        self.free += count;
        self.pending -= 1;
        self.seen = self.seen.wrapping_add(1);
        Ok(Some((token, head, length)))
    }

    /// Takes a buffer back that the device had when it was reset: it will not complete it. For
    /// that there is nothing else to be done with the ring.
    pub fn abandon(&mut self) -> Option<T> {
        self.broken = true;
        let token = self.slots.iter_mut().find_map(|slot| slot.token.take())?;
        self.pending -= 1;
        Some(token)
    }

    /// Whether there is something to take, or it broke.
    pub fn has_completions(&mut self) -> bool {
        !self.broken && (self.seen != self.end || self.look() != Ok(false))
    }

    /// Asks for an interrupt at the next completion. `true` if there are some already.
    pub fn arm(&mut self) -> bool {
        self.arm_after(0)
    }

    /// Asks for an interrupt when all that is with the device is done, or three quarters of
    /// the queue. `true` if that is so already.
    pub fn arm_late(&mut self) -> bool {
        let most = self.size - self.size / 4;
        self.arm_after(self.pending.min(most).saturating_sub(1))
    }

    fn arm_after(&mut self, more: u16) -> bool {
        if self.broken {
            return false;
        }
        self.armed = true;
        let mut more = more;
        if self.event_index {
            let event = self.seen.wrapping_add(more);
            let place = self.available + 4 + 2 * usize::from(self.size);
            self.memory.store16(place, event, Ordering::Relaxed);
        } else {
            self.set_flags(0);
            more = 0;
        }
        // The wish is written before the index is read.
        fence(Ordering::SeqCst);
        match self.look() {
            Ok(_) => self.end.wrapping_sub(self.seen) > more,
            Err(Broken) => true,
        }
    }

    /// Reads the used half's index; whether there is more than was taken.
    fn look(&mut self) -> Result<bool, Broken> {
        let end = self.memory.load16(self.used + 2, Ordering::Acquire);
        let there = end.wrapping_sub(self.seen);
        if there > self.pending {
            return self.fail();
        }
        self.end = end;
        Ok(there != 0)
    }

    fn fail<R>(&mut self) -> Result<R, Broken> {
        self.broken = true;
        Err(Broken)
    }

    fn set_flags(&self, flags: u16) {
        self.memory
            .store16(self.available, flags, Ordering::Relaxed);
    }

    fn slot(&self, index: u16) -> &Slot<T> {
        // The list of free descriptors ends with `size`, which is looked at only when
        // none is left: the mask leaves all others alone.
        &self.slots[usize::from(index & (self.size - 1))]
    }

    fn slot_mut(&mut self, index: u16) -> &mut Slot<T> {
        &mut self.slots[usize::from(index & (self.size - 1))]
    }
}

fn write_descriptor(memory: &Dma, place: usize, buffer: Buffer, more: bool, next: u64) {
    let mut flags = if buffer.write { WRITE } else { 0 };
    if more {
        flags |= NEXT | next << 16;
    }
    let word = u64::from(buffer.length) | flags << 32;
    memory.store64(place, buffer.address, Ordering::Relaxed);
    memory.store64(place + 8, word, Ordering::Relaxed);
}
