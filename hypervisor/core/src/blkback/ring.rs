//! A ring shared with a frontend (io/ring.h): the backend's half.
//!
//! The header of a ring is four 32-bit indices that run freely: `req_prod` and `rsp_event`
//! are the frontend's, `req_event` and `rsp_prod` the backend's. The two of a pair share a
//! 64-bit word, one of each side: the backend's is changed by one exclusive-or, which leaves the
//! frontend's alone and tells its value at that very moment. So the barrier between
//! writing one's own index and reading the other's, on which the protocol rests, is the
//! operation itself.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::{Fault, Frontend, GrantedPage};
use crate::addr::PAGE_SIZE;
use crate::ids::GrantRef;
use crate::machine::Frame;
use xen_abi::io_blkif::*;

/// The most pages of a ring, as a power of 2.
pub const MAX_ORDER: u32 = 2;
/// Bytes of the longest request.
pub const REQUEST_BYTES: usize = size_of::<BlkifRequest>();

/// How a frontend lays out the ring's entries (`protocol`, io/protocols.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// `x86_64-abi`
    X86_64,
    /// `x86_32-abi`: fields of 64 bits are aligned to 4 bytes.
    X86_32,
}

impl Protocol {
    /// From its name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "x86_64-abi" => Some(Self::X86_64),
            "x86_32-abi" => Some(Self::X86_32),
            _ => None,
        }
    }

    /// Bytes of an entry.
    pub(super) const fn entry_size(self) -> usize {
        match self {
            Self::X86_64 => size_of::<BlkifRequest>(),
            Self::X86_32 => 108,
        }
    }

    /// Entries of a ring of so many pages.
    pub const fn entries(self, pages: usize) -> u32 {
        let room = (pages * PAGE_SIZE - RING_HEADER) / self.entry_size();
        match (room as u32).checked_ilog2() {
            Some(log) => 1 << log,
            None => 0,
        }
    }
}

/// The ring.
pub struct Ring<P> {
    protocol: Protocol,
    pages: Vec<P>,
    entries: u32,
    /// Requests taken.
    req_cons: u32,
    /// `req_event` as we wrote it.
    req_event: u32,
    /// `rsp_prod` as we wrote it.
    rsp_prod: u32,
    /// Responses written, published or not.
    rsp_next: u32,
}

impl<P: GrantedPage> Ring<P> {
    /// Takes a ring in granted pages into use.
    pub fn connect<F: Frontend<Page = P>>(
        frontend: &F,
        protocol: Protocol,
        references: &[GrantRef],
    ) -> Result<Self, Fault> {
        let mut pages = Vec::with_capacity(references.len());
        for &reference in references.iter().take(1 << MAX_ORDER) {
            let page = frontend
                .map(reference, false)
                .map_err(|error| Fault::Grant(reference, error))?;
            if !page.allows(0, PAGE_SIZE) {
                return Err(Fault::Grant(reference, crate::grant::GrantError::BadPage));
            }
            if frontend.frame(page.mfn()).is_none() {
                return Err(Fault::NoFrame(page.mfn()));
            }
            pages.push(page);
        }
        let mut ring = Self {
            protocol,
            entries: protocol.entries(pages.len()),
            pages,
            req_cons: 0,
            req_event: 0,
            rsp_prod: 0,
            rsp_next: 0,
        };
        // A frontend that connects again may go on with a ring that was in use.
        let header = ring.page(frontend, 0)?;
        let (requests, responses) = (header.load(0), header.load(1));
        ring.req_event = (requests >> 32) as u32;
        ring.rsp_prod = responses as u32;
        ring.rsp_next = ring.rsp_prod;
        ring.req_cons = ring.rsp_prod;
        ring.check(requests as u32)?;
        Ok(ring)
    }

    fn page<'f, F: Frontend<Page = P>>(
        &self,
        frontend: &'f F,
        index: usize,
    ) -> Result<&'f Frame, Fault> {
        let mfn = self
            .pages
            .get(index)
            .map_or(crate::addr::Mfn(u64::MAX), P::mfn);
        frontend.frame(mfn).ok_or(Fault::NoFrame(mfn))
    }

    /// How many entries there are.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// How the entries are laid out.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// How many requests wait when `produced` is the frontend's index.
    fn check(&self, produced: u32) -> Result<u32, Fault> {
        let taken = self.req_cons.wrapping_sub(self.rsp_next);
        let claimed = produced.wrapping_sub(self.rsp_next);
        if claimed > self.entries || claimed < taken {
            return Err(Fault::RequestIndex {
                produced,
                consumed: self.req_cons,
            });
        }
        Ok(claimed - taken)
    }

    /// How many requests wait.
    pub fn waiting<F: Frontend<Page = P>>(&self, frontend: &F) -> Result<u32, Fault> {
        let produced = self.page(frontend, 0)?.load(0) as u32;
        self.check(produced)
    }

    /// Asks for an event at the n-th request from now; gives how many wait already, for which
    /// perhaps none comes.
    pub fn arm<F: Frontend<Page = P>>(&mut self, frontend: &F, nth: u32) -> Result<u32, Fault> {
        let event = self.req_cons.wrapping_add(nth);
        if event == self.req_event {
            // It was set before the caller looked, and is still waited for.
            return self.waiting(frontend);
        }
        let change = u64::from(self.req_event ^ event) << 32;
        let word = self.page(frontend, 0)?.word(0);
        self.req_event = event;
        let produced = word.fetch_xor(change, Ordering::SeqCst) as u32;
        self.check(produced)
    }

    /// Takes the next request, which the caller knows to wait.
    pub fn take<F: Frontend<Page = P>>(
        &mut self,
        frontend: &F,
    ) -> Result<[u8; REQUEST_BYTES], Fault> {
        let mut bytes = [0; REQUEST_BYTES];
        let size = self.protocol.entry_size();
        let (at, index) = self.place(self.req_cons);
        let (entry, _) = bytes.split_at_mut(size);
        let in_page = (PAGE_SIZE - at).min(size);
        let (first, second) = entry.split_at_mut(in_page);
        self.page(frontend, index)?.read(at, first);
        if !second.is_empty() {
            self.page(frontend, index + 1)?.read(0, second);
        }
        self.req_cons = self.req_cons.wrapping_add(1);
        Ok(bytes)
    }

    /// Writes a response; [`Self::publish`] shows it.
    pub fn respond<F: Frontend<Page = P>>(
        &mut self,
        frontend: &F,
        id: u64,
        operation: u8,
        status: i16,
    ) -> Result<(), Fault> {
        let (at, index) = self.place(self.rsp_next);
        let mut bytes = [0; size_of::<BlkifResponse>()];
        bytes[..8].copy_from_slice(&id.to_le_bytes());
        bytes[8] = operation;
        bytes[10..12].copy_from_slice(&status.to_le_bytes());
        let size = match self.protocol {
            Protocol::X86_64 => bytes.len(),
            Protocol::X86_32 => 12,
        };
        let (entry, _) = bytes.split_at(size);
        let in_page = (PAGE_SIZE - at).min(size);
        let (first, second) = entry.split_at(in_page);
        self.page(frontend, index)?.write(at, first);
        if !second.is_empty() {
            self.page(frontend, index + 1)?.write(0, second);
        }
        self.rsp_next = self.rsp_next.wrapping_add(1);
        Ok(())
    }

    /// Shows the responses; whether the frontend is to be notified.
    pub fn publish<F: Frontend<Page = P>>(&mut self, frontend: &F) -> Result<bool, Fault> {
        let (old, new) = (self.rsp_prod, self.rsp_next);
        if old == new {
            return Ok(false);
        }
        let word = self.page(frontend, 0)?.word(1);
        let before = word.fetch_xor(u64::from(old ^ new), Ordering::SeqCst);
        self.rsp_prod = new;
        let event = (before >> 32) as u32;
        Ok(new.wrapping_sub(event) < new.wrapping_sub(old))
    }

    /// Offset in a page, and the page, of an entry.
    fn place(&self, index: u32) -> (usize, usize) {
        let entry = index & self.entries.wrapping_sub(1);
        let at = RING_HEADER + entry as usize * self.protocol.entry_size();
        (at % PAGE_SIZE, at / PAGE_SIZE)
    }
}
