//! For tests: a guest with a frontend, and a disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::vec::Vec;

use alloc::sync::Arc;

use super::channel::Channel;
use super::queue::Queue;
use super::ring::Protocol;
use super::*;
use crate::addr::PAGE_SIZE;
use crate::machine::Memory;
use crate::machine::mock::MockMachine;
use overcast_drivers::block::*;
use xen_abi::io_blkif::*;

/// A guest's memory and grants.
pub struct Guest {
    pub memory: MockMachine,
    /// By reference: frame, and whether it is read-only.
    pub grants: Mutex<BTreeMap<u32, (u64, bool)>>,
    /// By frame: uses of grants.
    pub pins: Mutex<BTreeMap<u64, u32>>,
    /// How often a grant was used from new.
    pub mapped: AtomicUsize,
    pub notified: AtomicBool,
    pub fault: Mutex<Option<Fault>>,
    pub drained: AtomicBool,
    /// Operations that the device failed.
    pub device_errors: Mutex<Vec<u8>>,
    /// When the backend has looked at a frame so many times more, `req_prod` becomes this.
    pub surprise: Mutex<Option<(usize, u32)>>,
    /// The frontend sent an event for that.
    pub surprised: AtomicBool,
}

impl Guest {
    /// Another CPU of the guest's shows requests while the backend works.
    fn surprise(&self) {
        let mut surprise = self.surprise.lock().unwrap();
        match *surprise {
            Some((0, produced)) => {
                *surprise = None;
                if publish(self, produced) {
                    self.surprised.store(true, Ordering::Relaxed);
                }
            }
            Some((left, produced)) => *surprise = Some((left - 1, produced)),
            None => {}
        }
    }

    pub fn new(frames: usize) -> Arc<Self> {
        Arc::new(Self {
            memory: MockMachine::new(frames),
            grants: Mutex::default(),
            pins: Mutex::default(),
            mapped: AtomicUsize::new(0),
            notified: AtomicBool::new(false),
            fault: Mutex::default(),
            drained: AtomicBool::new(false),
            device_errors: Mutex::default(),
            surprise: Mutex::default(),
            surprised: AtomicBool::new(false),
        })
    }

    pub fn grant(&self, reference: u32, frame: u64, readonly: bool) {
        self.grants
            .lock()
            .unwrap()
            .insert(reference, (frame, readonly));
    }

    /// Frames in use.
    pub fn pinned(&self) -> usize {
        self.pins
            .lock()
            .unwrap()
            .values()
            .filter(|&&n| n != 0)
            .count()
    }

    pub fn is_pinned(&self, frame: u64) -> bool {
        self.pins
            .lock()
            .unwrap()
            .get(&frame)
            .is_some_and(|&n| n != 0)
    }

    pub fn frame_of(&self, frame: u64) -> &Frame {
        self.memory.frame(Mfn(frame)).unwrap()
    }

    pub fn take_fault(&self) -> Option<Fault> {
        self.fault.lock().unwrap().take()
    }
}

pub struct Page {
    guest: Arc<Guest>,
    frame: u64,
}

impl GrantedPage for Page {
    fn mfn(&self) -> Mfn {
        Mfn(self.frame)
    }

    fn allows(&self, offset: usize, length: usize) -> bool {
        offset + length <= PAGE_SIZE
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        *self
            .guest
            .pins
            .lock()
            .unwrap()
            .get_mut(&self.frame)
            .unwrap() -= 1;
    }
}

/// Pages of a request.
pub struct Pages {
    guest: Arc<Guest>,
    pages: Vec<Page>,
}

impl GrantedPages for Pages {
    fn map(
        &mut self,
        references: impl ExactSizeIterator<Item = GrantRef>,
        readonly: bool,
    ) -> Result<(), (GrantRef, GrantError)> {
        self.pages.clear();
        for reference in references {
            match Backend(self.guest.clone()).map(reference, readonly) {
                Ok(page) => self.pages.push(page),
                Err(error) => {
                    self.pages.clear();
                    return Err((reference, error));
                }
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.pages.clear();
    }

    fn locate(&self, index: usize, offset: usize, length: usize) -> Option<u64> {
        let page = self.pages.get(index)?;
        let start = page.mfn().address().get();
        page.allows(offset, length).then_some(start + offset as u64)
    }
}

pub struct Backend(pub Arc<Guest>);

impl Frontend for Backend {
    type Page = Page;
    type Pages = Pages;

    fn pages(&self) -> Pages {
        Pages {
            guest: self.0.clone(),
            pages: Vec::new(),
        }
    }

    fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        self.0.surprise();
        self.0.memory.frame(mfn)
    }

    fn map(&self, reference: GrantRef, readonly: bool) -> Result<Page, GrantError> {
        let grants = self.0.grants.lock().unwrap();
        let &(frame, only) = grants.get(&reference.0).ok_or(GrantError::BadRef)?;
        if only && !readonly {
            return Err(GrantError::General);
        }
        *self.0.pins.lock().unwrap().entry(frame).or_default() += 1;
        self.0.mapped.fetch_add(1, Ordering::Relaxed);
        Ok(Page {
            guest: self.0.clone(),
            frame,
        })
    }

    fn notify(&self) {
        self.0.notified.store(true, Ordering::Relaxed);
    }

    fn failed(&self, fault: Fault) {
        *self.0.fault.lock().unwrap() = Some(fault);
    }

    fn device_error(&self, operation: u8) {
        self.0.device_errors.lock().unwrap().push(operation);
    }

    fn drained(&self) {
        self.0.drained.store(true, Ordering::Relaxed);
    }
}

/// Shows requests; whether the backend is to be notified.
fn publish(guest: &Guest, produced: u32) -> bool {
    let header = guest.frame_of(0);
    let old = header.load_u32(0);
    header.store_u32(0, produced);
    let event = header.load_u32(4);
    produced.wrapping_sub(event) < produced.wrapping_sub(old)
}

/// The frontend's half of a ring.
pub struct Front {
    pub guest: Arc<Guest>,
    pub protocol: Protocol,
    pub pages: usize,
    pub req_prod: u32,
    pub rsp_cons: u32,
}

/// A request, before it is laid out.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    pub operation: u8,
    pub indirect: bool,
    pub id: u64,
    pub sector: u64,
    /// Of a discard.
    pub sectors: u64,
    pub count: Option<usize>,
    /// Grant, first and last sector.
    pub segments: Vec<(u32, u8, u8)>,
    /// The page of indirect segments: its grant and frame.
    pub page: (u32, u64),
}

impl Front {
    /// A ring in the first frames, granted by the first references.
    pub fn new(guest: Arc<Guest>, protocol: Protocol, pages: usize) -> Self {
        for page in 0..pages {
            guest.grant(page as u32, page as u64, false);
        }
        let header = guest.frame_of(0);
        header.store_u32(4, 1);
        header.store_u32(12, 1);
        Self {
            guest,
            protocol,
            pages,
            req_prod: 0,
            rsp_cons: 0,
        }
    }

    pub fn references(&self) -> Vec<GrantRef> {
        (0..self.pages as u32).map(GrantRef).collect()
    }

    pub fn entries(&self) -> u32 {
        self.protocol.entries(self.pages)
    }

    fn address(&self, index: u32) -> usize {
        64 + (index % self.entries()) as usize * self.protocol.entry_size()
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        for (n, &byte) in bytes.iter().enumerate() {
            let at = at + n;
            self.guest
                .frame_of((at / PAGE_SIZE) as u64)
                .store_u8(at % PAGE_SIZE, byte);
        }
    }

    /// Puts a request into the ring; [`Self::publish`] shows it.
    pub fn put(&mut self, ask: &Ask) {
        let wide = self.protocol == Protocol::X86_64;
        let mut bytes = std::vec![0u8; 112];
        let (id, sector) = if wide { (8, 16) } else { (4, 12) };
        bytes[0] = ask.operation;
        bytes[id..id + 8].copy_from_slice(&ask.id.to_le_bytes());
        bytes[sector..sector + 8].copy_from_slice(&ask.sector.to_le_bytes());
        let count = ask.count.unwrap_or(ask.segments.len());
        let describe = |&(grant, first, last): &(u32, u8, u8)| {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&grant.to_le_bytes());
            bytes[4] = first;
            bytes[5] = last;
            bytes
        };
        if ask.indirect {
            bytes[0] = BLKIF_OP_INDIRECT;
            bytes[1] = ask.operation;
            bytes[2..4].copy_from_slice(&(count as u16).to_le_bytes());
            let at = if wide { 28 } else { 24 };
            bytes[at..at + 4].copy_from_slice(&ask.page.0.to_le_bytes());
            for (n, segment) in ask.segments.iter().enumerate() {
                self.guest
                    .frame_of(ask.page.1)
                    .write(n * 8, &describe(segment));
            }
        } else if ask.operation == BLKIF_OP_DISCARD {
            let at = sector + 8;
            bytes[at..at + 8].copy_from_slice(&ask.sectors.to_le_bytes());
        } else {
            bytes[1] = count as u8;
            for (n, segment) in ask.segments.iter().enumerate().take(11) {
                let at = sector + 8 + 8 * n;
                bytes[at..at + 8].copy_from_slice(&describe(segment));
            }
        }
        bytes.truncate(self.protocol.entry_size());
        self.write(self.address(self.req_prod), &bytes);
        self.req_prod = self.req_prod.wrapping_add(1);
    }

    /// Shows the requests; whether the backend is to be notified.
    pub fn publish(&self) -> bool {
        publish(&self.guest, self.req_prod)
    }

    /// Takes all responses: id, operation, status.
    pub fn take(&mut self) -> Vec<(u64, u8, i16)> {
        let header = self.guest.frame_of(0);
        let mut out = Vec::new();
        loop {
            let produced = header.load_u32(8);
            while self.rsp_cons != produced {
                let at = self.address(self.rsp_cons);
                let byte = |n: usize| {
                    let at = at + n;
                    self.guest
                        .frame_of((at / PAGE_SIZE) as u64)
                        .load_u8(at % PAGE_SIZE)
                };
                let id = u64::from_le_bytes(core::array::from_fn(byte));
                out.push((id, byte(8), i16::from_le_bytes([byte(10), byte(11)])));
                self.rsp_cons = self.rsp_cons.wrapping_add(1);
            }
            header.store_u32(12, self.rsp_cons.wrapping_add(1));
            if header.load_u32(8) == self.rsp_cons {
                return out;
            }
        }
    }
}

pub struct Pending {
    operation: BlockOperation,
    segments: Vec<overcast_drivers::Segment>,
    tag: u64,
    visible: bool,
}

#[derive(Default)]
pub struct DiskState {
    pub data: Vec<u8>,
    pub pending: Vec<Pending>,
    pub done: VecDeque<Completion>,
    pub armed: bool,
    pub interrupt: bool,
    pub flushes: usize,
    pub requests: usize,
    pub broken: bool,
    /// Fails what touches this sector.
    pub bad: Option<u64>,
    /// What the operations were, in the order in which they were performed.
    pub log: Vec<BlockOperation>,
}

pub struct ModelDisk {
    pub guest: Arc<Guest>,
    pub info: BlockInfo,
    pub capacity: usize,
    pub state: Mutex<DiskState>,
}

pub fn info(sectors: u64) -> BlockInfo {
    BlockInfo {
        sectors,
        logical_block_size: 512,
        physical_block_size: 512,
        read_only: false,
        flush: true,
        max_segments: 16,
        max_segment_size: 16384,
        max_transfer: 65536,
        discard: Some(RangeLimits {
            max_sectors: 24,
            alignment: 1,
        }),
        write_zeroes: None,
        serial: [0; 20],
    }
}

impl ModelDisk {
    pub fn new(guest: Arc<Guest>, info: BlockInfo, capacity: usize) -> Arc<Self> {
        let state = DiskState {
            data: (0..info.sectors * 512).map(|n| (n / 512) as u8).collect(),
            ..DiskState::default()
        };
        Arc::new(Self {
            guest,
            info,
            capacity,
            state: Mutex::new(state),
        })
    }

    /// How many requests the device could perform now.
    pub fn visible(&self) -> usize {
        let state = self.state.lock().unwrap();
        state.pending.iter().filter(|p| p.visible).count()
    }

    /// Performs one of the requests that the device was told of.
    pub fn perform(&self, choice: usize) {
        let mut state = self.state.lock().unwrap();
        let visible: Vec<usize> = (0..state.pending.len())
            .filter(|&n| state.pending[n].visible)
            .collect();
        if visible.is_empty() {
            return;
        }
        let pending = state.pending.remove(visible[choice % visible.len()]);
        let mut status = BlockStatus::Ok;
        state.log.push(pending.operation);
        match pending.operation {
            BlockOperation::Read { sector } | BlockOperation::Write { sector } => {
                let write = matches!(pending.operation, BlockOperation::Write { .. });
                let mut at = sector as usize * 512;
                for segment in &pending.segments {
                    // Segments may go over several frames that lie in a row.
                    for n in (0..u64::from(segment.length)).step_by(512) {
                        let address = segment.address + n;
                        let frame = address / PAGE_SIZE as u64;
                        assert!(self.guest.is_pinned(frame), "frame {frame} is not held");
                        let mut bytes = [0; 512];
                        let offset = address as usize % PAGE_SIZE;
                        if write {
                            self.guest.frame_of(frame).read(offset, &mut bytes);
                            state.data[at..at + 512].copy_from_slice(&bytes);
                        } else {
                            bytes.copy_from_slice(&state.data[at..at + 512]);
                            self.guest.frame_of(frame).write(offset, &bytes);
                        }
                        if state.bad == Some(at as u64 / 512) {
                            status = BlockStatus::Error;
                        }
                        at += 512;
                    }
                }
            }
            BlockOperation::Flush => state.flushes += 1,
            BlockOperation::Discard { sector, sectors } => {
                let range = sector as usize * 512..(sector + sectors) as usize * 512;
                state.data[range].fill(0);
            }
            BlockOperation::WriteZeroes { .. } => status = BlockStatus::Unsupported,
        }
        state.done.push_back(Completion {
            tag: pending.tag,
            status,
        });
        if state.armed {
            state.armed = false;
            state.interrupt = true;
        }
    }
}

impl Block for ModelDisk {
    fn info(&self) -> BlockInfo {
        self.info.clone()
    }

    fn queues(&self) -> usize {
        1
    }

    fn submit(&self, _queue: usize, request: &BlockRequest<'_>) -> Result<(), SubmitError> {
        let mut state = self.state.lock().unwrap();
        if state.broken {
            return Err(SubmitError::Broken);
        }
        if state.pending.len() + state.done.len() >= self.capacity {
            return Err(SubmitError::Full);
        }
        let bytes: u64 = request.segments.iter().map(|s| u64::from(s.length)).sum();
        let block = u64::from(self.info.logical_block_size);
        assert!(bytes.is_multiple_of(block));
        assert!(bytes <= u64::from(self.info.max_transfer));
        assert!(request.segments.len() <= self.info.max_segments);
        assert!(
            request
                .segments
                .iter()
                .all(|s| s.length != 0 && s.length <= self.info.max_segment_size)
        );
        let (sector, sectors) = match request.operation {
            BlockOperation::Read { sector } | BlockOperation::Write { sector } => {
                assert!(bytes != 0);
                (sector, bytes / 512)
            }
            BlockOperation::Discard { sector, sectors } => {
                assert!(sectors <= self.info.discard.unwrap().max_sectors);
                (sector, sectors)
            }
            _ => (0, 0),
        };
        assert!((sector * 512).is_multiple_of(block));
        assert!(sector + sectors <= self.info.sectors);
        state.requests += 1;
        state.pending.push(Pending {
            operation: request.operation,
            segments: request.segments.to_vec(),
            tag: request.tag,
            visible: false,
        });
        Ok(())
    }

    fn kick(&self, _queue: usize) {
        for pending in &mut self.state.lock().unwrap().pending {
            pending.visible = true;
        }
    }

    fn complete(&self, _queue: usize, budget: usize, done: &mut dyn FnMut(Completion)) -> usize {
        let mut state = self.state.lock().unwrap();
        let count = budget.min(state.done.len());
        state.done.drain(..count).for_each(done);
        count
    }

    fn arm(&self, _queue: usize) -> bool {
        let mut state = self.state.lock().unwrap();
        state.armed = state.done.is_empty();
        !state.armed
    }

    fn take_change(&self) -> bool {
        false
    }

    fn is_broken(&self) -> bool {
        self.state.lock().unwrap().broken
    }
}

/// All together: a frontend, its ring on a channel, a disk.
pub struct World {
    pub guest: Arc<Guest>,
    pub front: Front,
    pub disk: Arc<ModelDisk>,
    pub channel: Channel<Backend>,
    pub ring: super::channel::RingId,
    pub shown: Arc<Disk>,
    /// The channel's task is to run.
    pub raised: bool,
}

#[derive(Clone, Copy)]
pub struct Setup {
    pub protocol: Protocol,
    pub pages: usize,
    pub capacity: usize,
    pub persistent: bool,
    pub read_only: bool,
    /// The part of the disk that is shown.
    pub start: u64,
    pub block_size: u32,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            protocol: Protocol::X86_64,
            pages: 1,
            capacity: 64,
            persistent: false,
            read_only: false,
            start: 0,
            block_size: 512,
        }
    }
}

/// Sectors of the model's disk.
pub const SECTORS: u64 = 1024;

impl World {
    pub fn new(setup: Setup) -> Self {
        let guest = Guest::new(512);
        let front = Front::new(guest.clone(), setup.protocol, setup.pages);
        let info = BlockInfo {
            logical_block_size: setup.block_size,
            physical_block_size: setup.block_size,
            ..info(SECTORS)
        };
        let disk = ModelDisk::new(guest.clone(), info.clone(), setup.capacity);
        let shown = Arc::new(Disk::new(
            &info,
            setup.start,
            SECTORS - setup.start,
            setup.read_only,
        ));
        let channel = Channel::new(disk.clone(), 0);
        let queue = Queue::connect(
            Backend(guest.clone()),
            shown.clone(),
            setup.protocol,
            &front.references(),
            setup.persistent,
        )
        .unwrap();
        let ring = channel.attach(queue).unwrap();
        Self {
            guest,
            front,
            disk,
            channel,
            ring,
            shown,
            raised: true,
        }
    }

    /// Runs the channel's task if anything asked for it.
    pub fn run(&mut self) {
        let interrupt = core::mem::take(&mut self.disk.state.lock().unwrap().interrupt);
        if self.raised || interrupt {
            self.raised = self.channel.run();
        }
    }

    /// Shows what was put into the ring.
    pub fn publish(&mut self) {
        self.raised |= self.front.publish();
    }

    /// Runs until nothing happens any more; gives the responses.
    pub fn settle(&mut self) -> Vec<(u64, u8, i16)> {
        let mut out = Vec::new();
        self.publish();
        loop {
            self.run();
            let busy = self.raised || self.disk.visible() != 0;
            self.disk.perform(0);
            if self.guest.notified.swap(false, Ordering::Relaxed) {
                out.extend(self.front.take());
            }
            if !busy && !self.raised && !self.disk.state.lock().unwrap().interrupt {
                return out;
            }
        }
    }

    /// One request, and its status.
    pub fn ask(&mut self, ask: &Ask) -> i16 {
        self.front.put(ask);
        let out = self.settle();
        assert_eq!(out.len(), 1, "{ask:?}");
        assert_eq!((out[0].0, out[0].1), (ask.id, ask.operation));
        out[0].2
    }
}
