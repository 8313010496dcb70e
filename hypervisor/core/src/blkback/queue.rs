//! The requests of one ring.
//!
//! A request goes through up to three stages: a flush, the data, a flush. A stage is some
//! number of requests to the device, all submitted before the next one begins and all
//! completed; data that is too much for one request of the device's is submitted in parts. If the
//! device takes no more, the request is *stalled* and goes on after the next completion;
//! nothing else is taken off the ring meanwhile, so a ring waits in its own order.
//!
//! A barrier holds the ring back in the same way: it starts when all before it are answered, and
//! nothing is taken until it is answered itself.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::request::{DataSegment, Kind, Request, SEGMENT_BYTES, Segments};
use super::ring::{Protocol, REQUEST_BYTES, Ring};
use super::{Counters, Disk, Fault, Frontend, GrantedPage, GrantedPages};
use crate::addr::PAGE_SIZE;
use crate::grant::GrantError;
use crate::ids::GrantRef;
use overcast_drivers::Segment;
use overcast_drivers::block::{Block, BlockOperation, BlockRequest, BlockStatus, SubmitError};
use xen_abi::io_blkif::*;

/// Grants that are kept for a frontend that uses the same ones again and again.
const MAX_PERSISTENT: usize = 1056;
/// A frontend's event is wanted when this part as many requests were added as are under way.
const PATIENCE: u32 = 4;
/// Room that a slot keeps between requests, entries.
const KEEP: usize = 64;
/// What a request costs beside its pages, in pages.
pub const REQUEST_WORK: usize = 3;

/// The device's queue that a ring uses.
pub struct Target<'a> {
    /// The device.
    pub device: &'a dyn Block,
    /// Its queue.
    pub queue: usize,
    /// The upper half of the tags; the lower one is a slot's number.
    pub tag: u64,
    /// Whether anything was submitted, for which the device is to be kicked.
    pub submitted: bool,
    /// What was done: the pages of requests that were begun or ended, and
    /// [`REQUEST_WORK`] for each.
    pub work: usize,
}

/// Why [`Queue::poll`] came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Poll {
    /// The frontend sends an event when there is more, or a completion is due.
    Idle,
    /// There is more, but enough was done for now.
    More,
    /// The device's queue is full.
    Stalled,
}

/// A grant that is kept.
struct Kept<P> {
    page: Arc<P>,
    /// Since the last time that room was made.
    used: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    PreFlush,
    Data,
    PostFlush,
}

/// What the data stage does.
#[derive(Clone, Copy, Debug)]
enum Data {
    Nothing,
    Transfer { write: bool },
    Discard { sectors: u64 },
}

enum Advance {
    Waiting,
    Stalled,
    Finished,
}

struct Slot<F: Frontend> {
    in_use: bool,
    id: u64,
    operation: u8,
    stage: Stage,
    /// All of the stage is submitted.
    submitted: bool,
    stalled: bool,
    pre_flush: bool,
    post_flush: bool,
    data: Data,
    /// Where on the device what was not submitted yet goes.
    sector: u64,
    /// Of all segments.
    bytes: u64,
    /// Grants that it uses.
    grants: usize,
    /// What it changes of the disk that is shown: first sector, and how many.
    changes: (u64, u64),
    /// Segments (of a transfer) or sectors (of a discard) that were submitted.
    done: u64,
    /// Requests at the device.
    outstanding: u32,
    /// The worst so far.
    status: i16,
    /// The grants that it uses.
    pages: F::Pages,
    /// Those of them that are kept.
    kept: Vec<Arc<F::Page>>,
    segments: Vec<Segment>,
}

impl<F: Frontend> Slot<F> {
    fn new(pages: F::Pages) -> Self {
        Self {
            in_use: false,
            id: 0,
            operation: 0,
            stage: Stage::PreFlush,
            submitted: false,
            stalled: false,
            pre_flush: false,
            post_flush: false,
            data: Data::Nothing,
            sector: 0,
            bytes: 0,
            grants: 0,
            changes: (0, 0),
            done: 0,
            outstanding: 0,
            status: BLKIF_RSP_OKAY,
            pages,
            kept: Vec::new(),
            segments: Vec::new(),
        }
    }

    /// Readies it for a request: nothing is done, and nothing held.
    fn begin(&mut self, request: &Request) {
        self.in_use = true;
        self.id = request.id;
        self.operation = request.operation;
        self.stage = Stage::PreFlush;
        self.submitted = false;
        self.stalled = false;
        self.pre_flush = false;
        self.post_flush = false;
        self.data = Data::Nothing;
        self.sector = 0;
        self.bytes = 0;
        self.grants = 0;
        self.changes = (0, 0);
        self.done = 0;
        self.outstanding = 0;
        self.status = BLKIF_RSP_OKAY;
    }

    /// Notes how a part ended; an error stays.
    fn note(&mut self, status: i16) {
        if self.status == BLKIF_RSP_OKAY {
            self.status = status;
        }
    }

    /// Counts what was done. Discards and flushes are not counted.
    fn count(&self, counters: &Counters) {
        if self.status != BLKIF_RSP_OKAY {
            counters.failed.fetch_add(1, Ordering::Relaxed);
        } else if let Data::Transfer { write } = self.data {
            let bytes = self.segments.iter().map(|one| u64::from(one.length)).sum();
            counters.done(write, bytes);
        }
    }

    /// Gives the grants back.
    fn clear(&mut self) {
        self.pages.clear();
        self.kept.clear();
        self.segments.clear();
        if self.segments.capacity() > KEEP {
            self.segments = Vec::new();
        }
    }

    /// Submits what is next, as far as the device takes it.
    fn advance(&mut self, disk: &Disk, target: &mut Target<'_>, tag: u64) -> Advance {
        loop {
            if self.status != BLKIF_RSP_OKAY {
                // What is at the device keeps its grants until it comes back.
                self.submitted = true;
                return if self.outstanding == 0 {
                    Advance::Finished
                } else {
                    Advance::Waiting
                };
            }
            if self.submitted {
                if self.outstanding != 0 {
                    return Advance::Waiting;
                }
                self.stage = match self.stage {
                    Stage::PreFlush => Stage::Data,
                    Stage::Data => Stage::PostFlush,
                    Stage::PostFlush => return Advance::Finished,
                };
                self.submitted = false;
            }
            let result = match self.stage {
                Stage::PreFlush if self.pre_flush => self.submit_flush(target, tag),
                Stage::PostFlush if self.post_flush => self.submit_flush(target, tag),
                Stage::Data => self.submit_data(disk, target, tag),
                _ => Ok(()),
            };
            match result {
                Ok(()) => self.submitted = true,
                Err(SubmitError::Full) => return Advance::Stalled,
                Err(SubmitError::Invalid | SubmitError::Broken) => self.note(BLKIF_RSP_ERROR),
            }
        }
    }

    fn submit(
        &mut self,
        target: &mut Target<'_>,
        tag: u64,
        operation: BlockOperation,
        segments: core::ops::Range<usize>,
    ) -> Result<(), SubmitError> {
        let request = BlockRequest {
            operation,
            segments: self.segments.get(segments).unwrap_or_default(),
            tag: target.tag | tag,
        };
        target.device.submit(target.queue, &request)?;
        target.submitted = true;
        self.outstanding += 1;
        Ok(())
    }

    fn submit_flush(&mut self, target: &mut Target<'_>, tag: u64) -> Result<(), SubmitError> {
        self.submit(target, tag, BlockOperation::Flush, 0..0)
    }

    fn submit_data(
        &mut self,
        disk: &Disk,
        target: &mut Target<'_>,
        tag: u64,
    ) -> Result<(), SubmitError> {
        match self.data {
            Data::Nothing => Ok(()),
            Data::Discard { sectors } => {
                let most = disk.discard.map_or(0, |limits| limits.max_sectors);
                let most = (most - most % disk.block_sectors()).max(disk.block_sectors());
                while self.done < sectors {
                    let count = (sectors - self.done).min(most);
                    let sector = self.sector;
                    let operation = BlockOperation::Discard {
                        sector,
                        sectors: count,
                    };
                    self.submit(target, tag, operation, 0..0)?;
                    self.sector += count;
                    self.done += count;
                }
                Ok(())
            }
            Data::Transfer { write } => {
                while (self.done as usize) < self.segments.len() {
                    let from = self.done as usize;
                    let (to, bytes) = self.part(disk, from).ok_or(SubmitError::Invalid)?;
                    let sector = self.sector;
                    let operation = if write {
                        BlockOperation::Write { sector }
                    } else {
                        BlockOperation::Read { sector }
                    };
                    self.submit(target, tag, operation, from..to)?;
                    self.sector += bytes / 512;
                    self.done = to as u64;
                }
                Ok(())
            }
        }
    }

    /// The longest run of segments from one on that the device takes at once and that
    /// ends at a block: where it ends, and its bytes. `None` if there is none.
    fn part(&self, disk: &Disk, from: usize) -> Option<(usize, u64)> {
        // Mostly it is all of them, which end at a block as the request does.
        let count = self.segments.len();
        if from == 0 && count <= disk.max_segments && self.bytes <= disk.max_transfer.into() {
            return Some((count, self.bytes));
        }
        let (mut bytes, mut best) = (0u64, None);
        let block = u64::from(disk.logical_block_size);
        let run = self.segments.iter().enumerate().skip(from);
        for (index, segment) in run.take(disk.max_segments) {
            bytes += u64::from(segment.length);
            if bytes > u64::from(disk.max_transfer) {
                break;
            }
            if bytes.is_multiple_of(block) {
                best = Some((index + 1, bytes));
            }
        }
        best
    }

    /// Adds memory to the data, at most a frame; merged with what is before it in a row.
    #[inline]
    fn add(&mut self, disk: &Disk, address: u64, length: u32) {
        self.bytes = self.bytes.wrapping_add(length.into());
        let most = disk.max_segment_size;
        if let Some(last) = self.segments.last_mut()
            && last.address.wrapping_add(last.length.into()) == address
        {
            if last.length.saturating_add(length) <= most {
                last.length = last.length.wrapping_add(length);
                return;
            }
        } else if length <= most {
            self.segments.push(Segment { address, length });
            return;
        }
        self.add_in_pieces(disk, address, length);
    }

    /// [`Self::add`], where it is not one piece, or not all goes to the last.
    #[cold]
    fn add_in_pieces(&mut self, disk: &Disk, mut address: u64, mut length: u32) {
        while length != 0 {
            let piece = match self.segments.last_mut() {
                Some(last)
                    if last.address.checked_add(u64::from(last.length)) == Some(address)
                        && last.length < disk.max_segment_size =>
                {
                    let piece = length.min(disk.max_segment_size - last.length);
                    last.length += piece;
                    piece
                }
                _ => {
                    let piece = length.min(disk.max_segment_size);
                    self.segments.push(Segment {
                        address,
                        length: piece,
                    });
                    piece
                }
            };
            address = address.saturating_add(u64::from(piece));
            length -= piece;
        }
    }
}

/// A ring, and its requests under way.
pub struct Queue<F: Frontend> {
    frontend: F,
    disk: Arc<Disk>,
    /// `None` once it is closed.
    ring: Option<Ring<F::Page>>,
    slots: Vec<Slot<F>>,
    free: Vec<u16>,
    stalled: VecDeque<u16>,
    /// A barrier that waits or is under way.
    barrier: Option<u16>,
    persistent: Option<BTreeMap<GrantRef, Kept<F::Page>>>,
    /// The segments of the request that is looked at.
    wanted: Vec<DataSegment>,
}

impl<F: Frontend> Queue<F> {
    /// Takes a frontend's ring into use. `persistent`: it uses its grants again and again.
    pub fn connect(
        frontend: F,
        disk: Arc<Disk>,
        protocol: Protocol,
        references: &[GrantRef],
        persistent: bool,
    ) -> Result<Self, Fault> {
        let ring = Ring::connect(&frontend, protocol, references)?;
        let entries = ring.entries() as u16;
        let slots = (0..entries).map(|_| Slot::new(frontend.pages())).collect();
        Ok(Self {
            frontend,
            disk,
            ring: Some(ring),
            slots,
            free: (0..entries).rev().collect(),
            stalled: VecDeque::with_capacity(entries.into()),
            barrier: None,
            persistent: persistent.then(BTreeMap::new),
            wanted: Vec::new(),
        })
    }

    /// The other end.
    pub fn frontend(&self) -> &F {
        &self.frontend
    }

    /// Whether the ring is closed.
    pub fn is_closed(&self) -> bool {
        self.ring.is_none()
    }

    /// Whether nothing of it is at the device.
    pub fn is_drained(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Closes the ring: nothing is taken or answered any more. Grants of requests at the device
    /// stay until they come back.
    pub fn close(&mut self) {
        self.ring = None;
        self.persistent = None;
        self.stalled.clear();
        self.barrier = None;
        for index in 0..self.slots.len() {
            if let Some(slot) = self.slots.get_mut(index)
                && slot.in_use
            {
                slot.note(BLKIF_RSP_ERROR);
                slot.stalled = false;
                if slot.outstanding == 0 {
                    self.release(index as u16);
                }
            }
        }
    }

    /// Submits what the frontend asks for, until so much work ([`Target::work`]) was done.
    pub fn poll(&mut self, target: &mut Target<'_>, budget: usize) -> Result<Poll, Fault> {
        let end = target.work.saturating_add(budget);
        loop {
            if self.is_closed() {
                return Ok(Poll::Idle);
            }
            if self.retry(target)? {
                return Ok(Poll::Stalled);
            }
            if !self.start_barrier(target)? {
                return Ok(Poll::Idle);
            }
            let waiting = match &self.ring {
                Some(ring) => ring.waiting(&self.frontend)?,
                None => 0,
            };
            if waiting == 0 {
                let nth = self.patience();
                let armed = match &mut self.ring {
                    Some(ring) => ring.arm(&self.frontend, nth)?,
                    None => 0,
                };
                if armed == 0 {
                    return Ok(Poll::Idle);
                }
                continue;
            }
            for _ in 0..waiting {
                if target.work >= end {
                    return Ok(Poll::More);
                }
                self.take(target)?;
                if !self.stalled.is_empty() || self.barrier.is_some() {
                    break;
                }
            }
        }
    }

    /// At which further request an event is wanted. While many are at the device one of them
    /// is back soon, and the ring is looked at then: until that, only a part as many more are worth
    /// an event, and a kick of the device.
    fn patience(&self) -> u32 {
        let under_way = (self.slots.len() - self.free.len()) as u32;
        (under_way / PATIENCE).max(1)
    }

    /// Goes on with what stalled; whether it still does.
    fn retry(&mut self, target: &mut Target<'_>) -> Result<bool, Fault> {
        while let Some(&index) = self.stalled.front() {
            if let Some(slot) = self.slots.get_mut(usize::from(index)) {
                slot.stalled = false;
            }
            self.stalled.pop_front();
            self.go_on(index, target, true)?;
            if self.stalled.front() == Some(&index) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Starts a barrier whose time has come; whether the ring may go on.
    fn start_barrier(&mut self, target: &mut Target<'_>) -> Result<bool, Fault> {
        let Some(index) = self.barrier else {
            return Ok(true);
        };
        let alone = self.slots.len() - self.free.len() == 1;
        let started = self
            .slots
            .get(usize::from(index))
            .is_some_and(|slot| slot.outstanding != 0 || slot.stalled);
        if alone && !started {
            self.go_on(index, target, false)?;
        }
        // It may have been answered at once, or wait at the front of what stalled.
        Ok(self.barrier.is_none())
    }

    /// Submits what is next of a request, or answers it.
    fn go_on(&mut self, index: u16, target: &mut Target<'_>, first: bool) -> Result<(), Fault> {
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return Ok(());
        };
        match slot.advance(&self.disk, target, index.into()) {
            Advance::Waiting => Ok(()),
            Advance::Stalled => {
                slot.stalled = true;
                if first {
                    self.stalled.push_front(index);
                } else {
                    self.stalled.push_back(index);
                }
                Ok(())
            }
            Advance::Finished => {
                let (id, operation, status) = (slot.id, slot.operation, slot.status);
                slot.count(&self.disk.counters);
                self.release(index);
                self.respond(id, operation, status)
            }
        }
    }

    /// Frees a slot and what it holds.
    fn release(&mut self, index: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            slot.clear();
            slot.in_use = false;
            self.free.push(index);
            if self.barrier == Some(index) {
                self.barrier = None;
            }
        }
    }

    fn respond(&mut self, id: u64, operation: u8, status: i16) -> Result<(), Fault> {
        match &mut self.ring {
            Some(ring) => ring.respond(&self.frontend, id, operation, status),
            None => Ok(()),
        }
    }

    /// Takes one request off the ring.
    fn take(&mut self, target: &mut Target<'_>) -> Result<(), Fault> {
        let Some(ring) = &mut self.ring else {
            return Ok(());
        };
        let entry = ring.take(&self.frontend)?;
        let request = Request::parse(&entry, ring.protocol())?;
        // There are as many slots as the ring can have requests without an answer.
        let Some(index) = self.free.pop() else {
            target.work += REQUEST_WORK;
            return self.respond(request.id, request.operation, BLKIF_RSP_ERROR);
        };
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return Ok(());
        };
        slot.begin(&request);
        let mut filling = Filling {
            frontend: &self.frontend,
            disk: &self.disk,
            persistent: self.persistent.as_mut(),
            wanted: &mut self.wanted,
        };
        let filled = filling.fill(slot, &request, &entry);
        target.work += REQUEST_WORK + slot.grants;
        let barrier = matches!(request.kind, Kind::Transfer { barrier: true, .. });
        match filled {
            Ok(()) if barrier => {
                self.barrier = Some(index);
                self.start_barrier(target).map(|_| ())
            }
            Ok(()) => self.go_on(index, target, false),
            Err(Refusal::Status(status)) => {
                self.release(index);
                self.respond(request.id, request.operation, status)
            }
            Err(Refusal::Fault(fault)) => {
                self.release(index);
                Err(fault)
            }
        }
    }

    /// A request of the device's came back. A slot that waits for none is none of ours.
    pub fn completed(
        &mut self,
        slot: u32,
        status: BlockStatus,
        target: &mut Target<'_>,
    ) -> Result<(), Fault> {
        let Ok(index) = u16::try_from(slot) else {
            return Ok(());
        };
        let closed = self.is_closed();
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return Ok(());
        };
        if !slot.in_use || slot.outstanding == 0 {
            return Ok(());
        }
        slot.outstanding -= 1;
        target.work += REQUEST_WORK;
        if slot.outstanding == 0 {
            target.work += slot.grants;
        }
        if slot.outstanding == 0 && slot.stage == Stage::Data {
            // Also if it failed, or nobody waits for it any more.
            let (sector, sectors) = slot.changes;
            self.disk.wrote(sector, sectors);
        }
        let in_data = slot.stage == Stage::Data && matches!(slot.data, Data::Transfer { .. });
        match status {
            BlockStatus::Ok => {}
            BlockStatus::Unsupported if !in_data => slot.note(BLKIF_RSP_EOPNOTSUPP),
            BlockStatus::Error | BlockStatus::Unsupported => {
                slot.note(BLKIF_RSP_ERROR);
                let operation = slot.operation;
                self.frontend.device_error(operation);
            }
        }
        if slot.outstanding != 0 || slot.stalled {
            // What stalled goes on from the queue of those.
            return Ok(());
        }
        if closed {
            self.release(index);
            return Ok(());
        }
        self.go_on(index, target, false)
    }

    /// Shows the answers to the frontend, and notifies it if it waits for them.
    pub fn publish(&mut self) -> Result<(), Fault> {
        if let Some(ring) = &mut self.ring
            && ring.publish(&self.frontend)?
        {
            self.frontend.notify();
        }
        Ok(())
    }
}

/// What is needed to ready a slot for a request.
struct Filling<'q, F: Frontend> {
    frontend: &'q F,
    disk: &'q Disk,
    persistent: Option<&'q mut BTreeMap<GrantRef, Kept<F::Page>>>,
    wanted: &'q mut Vec<DataSegment>,
}

impl<F: Frontend> Filling<'_, F> {
    /// Bounds, grants, segments of a request.
    fn fill(
        &mut self,
        slot: &mut Slot<F>,
        request: &Request,
        entry: &[u8; REQUEST_BYTES],
    ) -> Result<(), Refusal> {
        match request.kind {
            Kind::Unknown => Err(Refusal::Status(BLKIF_RSP_EOPNOTSUPP)),
            Kind::Discard { sectors } => {
                if self.disk.discard.is_none() {
                    return Err(Refusal::Status(BLKIF_RSP_EOPNOTSUPP));
                }
                slot.sector = self.locate(request.sector, sectors, true)?;
                slot.changes = (request.sector, sectors);
                slot.data = Data::Discard { sectors };
                Ok(())
            }
            Kind::Transfer {
                write,
                barrier,
                flush,
                segments,
            } => {
                slot.pre_flush = flush && self.disk.flush;
                slot.post_flush = barrier && self.disk.flush;
                let count = match segments {
                    Segments::Direct { count, .. } | Segments::Indirect { count, .. } => count,
                };
                if count == 0 {
                    // Only a flush has no data.
                    return if flush {
                        Ok(())
                    } else {
                        Err(Refusal::Status(BLKIF_RSP_ERROR))
                    };
                }
                slot.grants = count;
                self.wanted.clear();
                let kept = if self.persistent.is_some() { count } else { 0 };
                let room = self.wanted.try_reserve(count).is_ok()
                    && slot.kept.try_reserve(kept).is_ok()
                    && slot.segments.try_reserve(count * self.pieces()).is_ok();
                if !room {
                    return Err(Refusal::Status(BLKIF_RSP_ERROR));
                }
                self.read_segments(segments, entry)?;
                let bytes = self.hold(slot, write)?;
                slot.sector = self.locate(request.sector, bytes / 512, write)?;
                if write {
                    slot.changes = (request.sector, bytes / 512);
                }
                slot.data = Data::Transfer { write };
                Ok(())
            }
        }
    }

    /// How many pieces the device's limit can make of a segment.
    fn pieces(&self) -> usize {
        PAGE_SIZE.div_ceil(self.disk.max_segment_size as usize)
    }

    fn locate(&self, sector: u64, sectors: u64, write: bool) -> Result<u64, Refusal> {
        if write && self.disk.read_only {
            return Err(Refusal::Status(BLKIF_RSP_ERROR));
        }
        self.disk
            .locate(sector, sectors)
            .ok_or(Refusal::Status(BLKIF_RSP_ERROR))
    }

    /// Reads the descriptions of a request's segments, for which there is room.
    fn read_segments(
        &mut self,
        segments: Segments,
        entry: &[u8; REQUEST_BYTES],
    ) -> Result<(), Fault> {
        match segments {
            Segments::Direct { count, at } => {
                for index in 0..count {
                    let segment = Request::direct_segment(entry, at, index)?;
                    self.wanted.push(segment);
                }
            }
            Segments::Indirect { count, page } => {
                let fault = |error| Fault::Grant(page, error);
                // Only until it is read: the device does not look at it.
                let held = self.frontend.map(page, true).map_err(fault)?;
                if !held.allows(0, count * SEGMENT_BYTES) {
                    return Err(fault(GrantError::BadPage));
                }
                let mfn = held.mfn();
                let frame = self.frontend.frame(mfn).ok_or(Fault::NoFrame(mfn))?;
                for index in 0..count {
                    let description = frame.load(index).to_le_bytes();
                    self.wanted.push(DataSegment::parse(description)?);
                }
            }
        }
        Ok(())
    }

    /// Begins to use the grants of the segments, and tells the device's ones of them; gives
    /// their bytes.
    fn hold(&mut self, slot: &mut Slot<F>, readonly: bool) -> Result<u64, Refusal> {
        if self.persistent.is_some() {
            return Ok(self.hold_persistent(slot)?);
        }
        let references = self.wanted.iter().map(|segment| segment.reference);
        match slot.pages.map(references, readonly) {
            Ok(()) => {}
            Err((_, GrantError::NoSpace)) => return Err(Refusal::Status(BLKIF_RSP_ERROR)),
            Err((reference, error)) => return Err(Fault::Grant(reference, error).into()),
        }
        for (index, segment) in self.wanted.iter().enumerate() {
            let (offset, length) = (segment.offset.into(), segment.length.into());
            let Some(address) = slot.pages.locate(index, offset, length) else {
                return Err(Fault::Grant(segment.reference, GrantError::BadPage).into());
            };
            slot.add(self.disk, address, segment.length.into());
        }
        Ok(slot.bytes)
    }

    /// The same for a frontend whose grants are kept.
    fn hold_persistent(&mut self, slot: &mut Slot<F>) -> Result<u64, Fault> {
        for index in 0..self.wanted.len() {
            let Some(&segment) = self.wanted.get(index) else {
                break;
            };
            let page = self.hold_one(segment.reference)?;
            let (offset, length) = (segment.offset.into(), segment.length.into());
            if !page.allows(offset, length) {
                return Err(Fault::Grant(segment.reference, GrantError::BadPage));
            }
            let address = page.mfn().address().get() + u64::from(segment.offset);
            slot.add(self.disk, address, segment.length.into());
            slot.kept.push(page);
        }
        Ok(slot.bytes)
    }

    /// Begins to use a grant, or finds it kept.
    fn hold_one(&mut self, reference: GrantRef) -> Result<Arc<F::Page>, Fault> {
        if let Some(kept) = &mut self.persistent
            && let Some(found) = kept.get_mut(&reference)
        {
            found.used = true;
            return Ok(found.page.clone());
        }
        // Such a frontend lets all its grants be written.
        let page = self
            .frontend
            .map(reference, false)
            .map_err(|error| Fault::Grant(reference, error))?;
        let page = Arc::new(page);
        let Some(kept) = &mut self.persistent else {
            return Ok(page);
        };
        if kept.len() >= MAX_PERSISTENT {
            kept.retain(|_, kept| core::mem::replace(&mut kept.used, false));
        }
        if kept.len() < MAX_PERSISTENT {
            let entry = Kept {
                page: page.clone(),
                used: true,
            };
            kept.insert(reference, entry);
        }
        Ok(page)
    }
}

/// Why a request is not started.
enum Refusal {
    /// It is answered so.
    Status(i16),
    /// The frontend broke the protocol.
    Fault(Fault),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
