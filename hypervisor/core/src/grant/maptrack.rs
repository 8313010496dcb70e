//! The mappings that a domain has of other domains' grants, by handle.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::GrantTable;
use crate::event::try_boxed_slice;
use crate::ids::GrantRef;

/// Handles that come with one maptrack frame, as in Xen.
pub(super) const HANDLES_PER_FRAME: u32 = 256;

/// The end of the free list.
const TAIL: u32 = u32::MAX;

/// A mapping, or a place for one.
pub(super) struct Mapping {
    /// Whose grant it is; `None` if the place is free.
    pub(super) granter: Option<Arc<GrantTable>>,
    /// The grant; of a free place the next free handle.
    reference: u32,
    /// What is left of the mapping's `GNTMAP_*` flags; 0 while it is set up.
    pub(super) flags: u16,
    /// Somebody is unmapping it.
    pub(super) claimed: bool,
}

impl Mapping {
    const fn free(next: u32) -> Self {
        Self {
            granter: None,
            reference: next,
            flags: 0,
            claimed: false,
        }
    }

    pub(super) fn grant_ref(&self) -> GrantRef {
        GrantRef(self.reference)
    }
}

/// All handles of a domain. Freed ones are used again as late as possible, and
/// the last free one never, as in Xen.
pub(super) struct Maptrack {
    frames: Vec<Box<[Mapping]>>,
    max_frames: u32,
    head: u32,
    tail: u32,
}

impl Maptrack {
    pub(super) const fn new(max_frames: u32) -> Self {
        Self {
            frames: Vec::new(),
            max_frames,
            head: TAIL,
            tail: TAIL,
        }
    }

    /// One more than the highest handle.
    pub(super) fn limit(&self) -> u32 {
        self.frames.len() as u32 * HANDLES_PER_FRAME
    }

    pub(super) fn get(&mut self, handle: u32) -> Option<&mut Mapping> {
        self.frames
            .get_mut((handle / HANDLES_PER_FRAME) as usize)?
            .get_mut((handle % HANDLES_PER_FRAME) as usize)
    }

    /// The first handle from `from` on that is a mapping.
    pub(super) fn next_used(&mut self, from: u32) -> Option<u32> {
        (from..self.limit()).find(|&handle| self.get(handle).is_some_and(|m| m.granter.is_some()))
    }

    /// Takes a free handle.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.head != TAIL {
            let handle = self.head;
            let next = self.get(handle)?.reference;
            if next != TAIL {
                self.head = next;
                return Some(handle);
            }
        }
        if self.frames.len() as u32 >= self.max_frames {
            return None;
        }
        let first = self.limit();
        let last = first + HANDLES_PER_FRAME - 1;
        let (head, mut next) = (self.head, first);
        let frame = try_boxed_slice(HANDLES_PER_FRAME as usize, || {
            next += 1;
            Mapping::free(if next > last { head } else { next })
        })
        .ok()?;
        self.frames.try_reserve(1).ok()?;
        self.frames.push(frame);
        self.head = first + 1;
        if self.tail == TAIL {
            self.tail = last;
        }
        Some(first)
    }

    /// Makes a handle that was taken a mapping.
    pub(super) fn set(
        &mut self,
        handle: u32,
        granter: Arc<GrantTable>,
        reference: GrantRef,
        flags: u16,
    ) {
        if let Some(mapping) = self.get(handle) {
            *mapping = Mapping {
                granter: Some(granter),
                reference: reference.0,
                flags,
                claimed: false,
            };
        }
    }

    /// Frees a handle. Gives the reference to the granter, to be dropped
    /// without our lock.
    pub(super) fn put(&mut self, handle: u32) -> Option<Arc<GrantTable>> {
        let mapping = self.get(handle)?;
        let old = core::mem::replace(mapping, Mapping::free(TAIL));
        let tail = core::mem::replace(&mut self.tail, handle);
        if let Some(tail) = self.get(tail) {
            tail.reference = handle;
        }
        old.granter
    }
}
