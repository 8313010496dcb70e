//! The shared pages of rings (io/ring.h): indices, and the events that hang on them.

use core::sync::atomic::{Ordering, fence};

use crate::addr::Mfn;
use crate::machine::{Frame, Memory};

/// Entries of either ring: as many as fit into a page, a power of two.
pub const RING_SIZE: u32 = 256;

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;
const ENTRIES: usize = 64;

/// A ring's page.
#[derive(Clone, Copy)]
pub struct Ring<'m> {
    page: &'m Frame,
    /// Bytes of an entry: 12 to transmit, 8 to receive.
    entry_size: usize,
}

impl<'m> Ring<'m> {
    pub fn transmit<M: Memory>(memory: &'m M, page: Mfn) -> Option<Self> {
        Some(Self {
            page: memory.frame(page)?,
            entry_size: 12,
        })
    }

    pub fn receive<M: Memory>(memory: &'m M, page: Mfn) -> Option<Self> {
        Some(Self {
            page: memory.frame(page)?,
            entry_size: 8,
        })
    }

    /// How many requests there are from `cons` on. `Err` if there cannot be so many
    /// while the responses up to `answered` were given; that is read after the index
    /// on which the guest, who saw it, has based its own.
    pub fn requests(&self, cons: u32, answered: impl FnOnce() -> u32) -> Result<u32, u32> {
        let prod = self.page.load_u32(REQ_PROD);
        fence(Ordering::SeqCst);
        let outstanding = prod.wrapping_sub(answered());
        if outstanding > RING_SIZE {
            return Err(outstanding);
        }
        let count = prod.wrapping_sub(cons);
        if count > RING_SIZE {
            return Err(count);
        }
        Ok(count)
    }

    /// Asks for an event when there are `more` requests from `cons` on. Look again afterwards.
    pub fn ask_for(&self, cons: u32, more: u32) {
        self.page.store_u32(REQ_EVENT, cons.wrapping_add(more));
        fence(Ordering::SeqCst);
    }

    /// Shows the responses up to `new` to the guest, who had seen those up to `old`. `true` if
    /// it is to be told.
    pub fn publish(&self, old: u32, new: u32) -> bool {
        fence(Ordering::SeqCst);
        self.page.store_u32(RSP_PROD, new);
        fence(Ordering::SeqCst);
        self.is_awaited(old, new)
    }

    /// Whether the guest wants to be told of one of the responses from `old` to `new`, which
    /// were shown: it has not taken it yet.
    pub fn is_awaited(&self, old: u32, new: u32) -> bool {
        let event = self.page.load_u32(RSP_EVENT);
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }

    /// The guest's index of responses, from which a backend that connects goes on.
    pub fn response_index(&self) -> u32 {
        self.page.load_u32(RSP_PROD)
    }

    fn offset(&self, index: u32) -> usize {
        ENTRIES + (index % RING_SIZE) as usize * self.entry_size
    }

    /// Reads the first bytes of an entry, once.
    pub fn read<const N: usize>(&self, index: u32) -> [u8; N] {
        let mut out = [0; N];
        self.page.read(self.offset(index), &mut out);
        out
    }

    /// Writes the first bytes of an entry.
    pub fn write(&self, index: u32, bytes: &[u8]) {
        self.page.write(self.offset(index), bytes);
    }
}
