//! Disks (virtio 1.2, section 5.2).

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::ring::{Buffer, Ring};
use super::transport::{Transport, stable};
use super::{Device, Driver, VirtioError, make_ring, negotiate, start};
use crate::Segment;
use crate::block::{
    Block, BlockInfo, BlockOperation, BlockRequest, BlockStatus, Completion, RangeLimits,
    SubmitError,
};
use crate::platform::{Dma, Platform};

/// Features (5.2.3).
mod features {
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const SEG_MAX: u64 = 1 << 2;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const BLOCK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const MULTI_QUEUE: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
    pub const ALL: u64 = SIZE_MAX
        | SEG_MAX
        | READ_ONLY
        | BLOCK_SIZE
        | FLUSH
        | TOPOLOGY
        | MULTI_QUEUE
        | DISCARD
        | WRITE_ZEROES;
}

/// Offsets in the configuration (5.2.4).
mod config {
    pub const CAPACITY: u16 = 0;
    pub const SIZE_MAX: u16 = 8;
    pub const SEG_MAX: u16 = 12;
    pub const BLOCK_SIZE: u16 = 20;
    pub const PHYSICAL_EXPONENT: u16 = 24;
    pub const QUEUES: u16 = 34;
    pub const DISCARD_SECTORS: u16 = 36;
    pub const DISCARD_ALIGNMENT: u16 = 44;
    pub const ZEROES_SECTORS: u16 = 48;
    pub const ZEROES_MAY_UNMAP: u16 = 56;
}

/// Kinds of requests (5.2.6).
mod request {
    pub const READ: u32 = 0;
    pub const WRITE: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// The most requests in flight a queue, if the device lets the driver choose.
const QUEUE_SIZE: u16 = 256;
/// The most bytes of a request.
const MAX_TRANSFER: u32 = 4 << 20;

/// What a request needs beside its data: header, range and status, for each head.
const REQUEST_BYTES: usize = 64;
const HEADER: usize = 0;
const HEADER_LENGTH: u32 = 16;
const RANGE: usize = 16;
const RANGE_LENGTH: u32 = 16;
const STATUS: usize = 32;
/// A status that devices do not give.
const NOT_WRITTEN: u8 = 0xff;

struct Queue {
    ring: Mutex<Ring<u64>>,
    requests: Dma,
}

/// A virtio disk.
pub struct VirtioBlock {
    // Dropped before the queues: it resets the device.
    device: Device,
    queues: Vec<Queue>,
    /// Without what changes.
    info: BlockInfo,
    sectors: AtomicU64,
    may_unmap: bool,
}

impl VirtioBlock {
    /// Takes a device over and lets it work.
    pub fn new(
        transport: alloc::boxed::Box<dyn Transport>,
        platform: &'static dyn Platform,
    ) -> Result<Self, VirtioError> {
        let mut device = Device::new(transport);
        let agreed = negotiate(&*device, platform, features::ALL)?;
        let has = |bit: u64| agreed & bit != 0;
        let read32 = |bit: u64, offset: u16| has(bit).then(|| device.config32(offset));

        let logical = read32(features::BLOCK_SIZE, config::BLOCK_SIZE).unwrap_or(512);
        if !logical.is_power_of_two() || !(512..=65536).contains(&logical) {
            return Err(VirtioError::Configuration);
        }
        let exponent = if has(features::TOPOLOGY) {
            device.config8(config::PHYSICAL_EXPONENT).min(16)
        } else {
            0
        };
        let physical = logical.saturating_mul(1 << exponent).min(1 << 22);
        // As a legacy driver assumes, if the device does not say: one.
        let seg_max = read32(features::SEG_MAX, config::SEG_MAX).unwrap_or(1);
        let size_max = read32(features::SIZE_MAX, config::SIZE_MAX)
            .filter(|&size| size >= 4096)
            .unwrap_or(MAX_TRANSFER);
        let range = |sectors: u16, alignment: Option<u16>| RangeLimits {
            max_sectors: match device.config32(sectors) {
                0 => u32::MAX.into(),
                most => most.into(),
            },
            alignment: alignment
                .map_or(1, |offset| u64::from(device.config32(offset)))
                .max(1),
        };
        let discard = has(features::DISCARD)
            .then(|| range(config::DISCARD_SECTORS, Some(config::DISCARD_ALIGNMENT)));
        let write_zeroes = has(features::WRITE_ZEROES).then(|| range(config::ZEROES_SECTORS, None));
        let may_unmap =
            has(features::WRITE_ZEROES) && device.config8(config::ZEROES_MAY_UNMAP) == 1;
        let offered = if has(features::MULTI_QUEUE) {
            usize::from(device.config16(config::QUEUES))
        } else {
            1
        };
        let count = offered.clamp(1, platform.cpus().max(1));

        device.choose_messages(count)?;
        let mut queues = Vec::new();
        for index in 0..count {
            let message = device.queue_message_index(index);
            let ring = make_ring(
                &mut device,
                platform,
                index as u16,
                QUEUE_SIZE,
                agreed,
                message,
            )?;
            let requests = Dma::new(platform, usize::from(ring.size()) * REQUEST_BYTES)
                .ok_or(VirtioError::NoMemory)?;
            queues.push(Queue {
                ring: Mutex::new(ring),
                requests,
            });
        }
        let pieces = queues
            .iter()
            .map(|queue| queue.ring.lock().max_pieces())
            .min()
            .unwrap_or(0);
        // Header and status are pieces too.
        let max_segments = (seg_max.max(1) as usize).min(pieces.saturating_sub(2));
        if max_segments == 0 {
            return Err(VirtioError::NoQueue(0));
        }
        let info = BlockInfo {
            sectors: 0,
            logical_block_size: logical,
            physical_block_size: physical,
            read_only: has(features::READ_ONLY),
            flush: has(features::FLUSH),
            max_segments,
            max_segment_size: size_max.min(MAX_TRANSFER) & !511,
            max_transfer: MAX_TRANSFER,
            discard,
            write_zeroes,
            serial: [0; 20],
        };
        start(&*device);
        let mut disk = Self {
            device,
            queues,
            info,
            sectors: AtomicU64::new(0),
            may_unmap,
        };
        disk.read_capacity();
        disk.info.serial = disk.read_serial(platform);
        Ok(disk)
    }

    fn read_capacity(&self) {
        let device = &*self.device;
        let sectors = stable(device, || {
            u64::from(device.config32(config::CAPACITY + 4)) << 32
                | u64::from(device.config32(config::CAPACITY))
        });
        if self.sectors.swap(sectors, Ordering::AcqRel) != sectors {
            self.device.note_change();
        }
    }

    /// Asks for the serial number and waits, shortly; zeros if there is no answer.
    fn read_serial(&self, platform: &'static dyn Platform) -> [u8; 20] {
        let mut serial = [0; 20];
        let (Some(queue), Some(answer)) = (self.queues.first(), Dma::new(platform, 20)) else {
            return serial;
        };
        let data = Segment {
            address: answer.address(0),
            length: 20,
        };
        let asked = Checked {
            kind: request::GET_ID,
            sector: 0,
            device_writes: true,
            range: None,
        };
        if self.put(queue, &asked, &[data], u64::MAX).is_err() {
            return serial;
        }
        self.kick(0);
        for _ in 0..20_000 {
            let mut done = None;
            self.complete(0, 1, &mut |completion| done = Some(completion.status));
            if let Some(status) = done {
                if status == BlockStatus::Ok {
                    for (at, byte) in serial.iter_mut().enumerate() {
                        *byte = answer.load8(at, Ordering::Relaxed);
                    }
                }
                return serial;
            }
            platform.wait(100);
        }
        // The device may still write there.
        core::mem::forget(answer);
        self.device.fail();
        serial
    }

    /// Whether a request is one that the device takes: its kind, its first sector, and its
    /// range if that is what it has instead of data.
    fn check(&self, asked: &BlockRequest<'_>) -> Result<Checked, SubmitError> {
        asked.check(&self.info, self.sectors.load(Ordering::Acquire))?;
        let range = |sectors: u64| u32::try_from(sectors).map_err(|_| SubmitError::Invalid);
        let mut checked = Checked {
            kind: request::FLUSH,
            sector: 0,
            device_writes: false,
            range: None,
        };
        match asked.operation {
            BlockOperation::Read { sector } => {
                checked.kind = request::READ;
                checked.sector = sector;
                checked.device_writes = true;
            }
            BlockOperation::Write { sector } => {
                checked.kind = request::WRITE;
                checked.sector = sector;
            }
            BlockOperation::Flush => {}
            BlockOperation::Discard { sector, sectors } => {
                checked.kind = request::DISCARD;
                checked.range = Some((sector, range(sectors)?, 0));
            }
            BlockOperation::WriteZeroes {
                sector,
                sectors,
                may_unmap,
            } => {
                let flags = u32::from(may_unmap && self.may_unmap);
                checked.kind = request::WRITE_ZEROES;
                checked.range = Some((sector, range(sectors)?, flags));
            }
        }
        Ok(checked)
    }

    /// Puts a request that is in order into a queue.
    fn put(
        &self,
        queue: &Queue,
        asked: &Checked,
        segments: &[Segment],
        tag: u64,
    ) -> Result<(), SubmitError> {
        let mut ring = queue.ring.lock();
        // Under the lock: who takes back what a broken device had finds all of it.
        if self.device.is_broken() {
            return Err(SubmitError::Broken);
        }
        let pieces = segments.len() + 2 + usize::from(asked.range.is_some());
        let head = ring.room(pieces).ok_or(SubmitError::Full)?;
        let at = usize::from(head) * REQUEST_BYTES;
        let memory = &queue.requests;
        let order = Ordering::Relaxed;
        memory.store64(at + HEADER, asked.kind.into(), order);
        memory.store64(at + HEADER + 8, asked.sector, order);
        memory.store8(at + STATUS, NOT_WRITTEN, order);
        if let Some((first, sectors, flags)) = asked.range {
            memory.store64(at + RANGE, first, order);
            memory.store32(at + RANGE + 8, sectors, order);
            memory.store32(at + RANGE + 12, flags, order);
        }
        let piece = |offset: usize, length: u32, write: bool| Buffer {
            address: memory.address(at + offset),
            length,
            write,
        };
        let buffers = core::iter::once(piece(HEADER, HEADER_LENGTH, false))
            .chain(asked.range.map(|_| piece(RANGE, RANGE_LENGTH, false)))
            .chain(segments.iter().map(|segment| Buffer {
                address: segment.address,
                length: segment.length,
                write: asked.device_writes,
            }))
            .chain(core::iter::once(piece(STATUS, 1, true)));
        ring.add(pieces, buffers, tag)
            .map_err(|_| SubmitError::Full)
    }
}

struct Checked {
    kind: u32,
    sector: u64,
    device_writes: bool,
    /// First sector, how many, flags.
    range: Option<(u64, u32, u32)>,
}

impl Block for VirtioBlock {
    fn info(&self) -> BlockInfo {
        BlockInfo {
            sectors: self.sectors.load(Ordering::Acquire),
            ..self.info.clone()
        }
    }

    fn queues(&self) -> usize {
        self.queues.len()
    }

    fn submit(&self, queue: usize, request: &BlockRequest<'_>) -> Result<(), SubmitError> {
        if self.device.is_broken() {
            return Err(SubmitError::Broken);
        }
        let queue = self.queues.get(queue).ok_or(SubmitError::Invalid)?;
        let checked = self.check(request)?;
        self.put(queue, &checked, request.segments, request.tag)
    }

    fn kick(&self, queue: usize) {
        if let Some(one) = self.queues.get(queue)
            && one.ring.lock().needs_notification()
            && !self.device.is_broken()
        {
            self.device.notify(queue as u16);
        }
    }

    fn complete(&self, queue: usize, budget: usize, done: &mut dyn FnMut(Completion)) -> usize {
        let Some(queue) = self.queues.get(queue) else {
            return 0;
        };
        let stopped = self.device.is_stopped();
        let mut ring = queue.ring.lock();
        let mut total = 0;
        while total < budget {
            let (tag, status) = match ring.take() {
                Ok(Some((tag, head, _))) => {
                    let at = usize::from(head) * REQUEST_BYTES + STATUS;
                    let status = match queue.requests.load8(at, Ordering::Relaxed) {
                        0 => BlockStatus::Ok,
                        2 => BlockStatus::Unsupported,
                        _ => BlockStatus::Error,
                    };
                    (tag, status)
                }
                taken => {
                    if taken.is_err() && !stopped {
                        self.device.fail();
                    }
                    let given_up = if stopped { ring.abandon() } else { None };
                    let Some(tag) = given_up else {
                        break;
                    };
                    (tag, BlockStatus::Error)
                }
            };
            done(Completion { tag, status });
            total += 1;
        }
        total
    }

    fn arm(&self, queue: usize) -> bool {
        let stopped = self.device.is_stopped();
        self.queues.get(queue).is_some_and(|queue| {
            let mut ring = queue.ring.lock();
            ring.arm() || stopped && ring.pending() != 0
        })
    }

    fn take_change(&self) -> bool {
        self.device.take_change()
    }

    fn is_broken(&self) -> bool {
        self.device.is_broken()
    }
}

impl Driver for VirtioBlock {
    fn device(&self) -> &Device {
        &self.device
    }

    fn look(&self) {
        self.read_capacity();
    }
}
