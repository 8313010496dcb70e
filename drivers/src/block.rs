//! Block devices, as every first layer's driver shows them.
//!
//! # Contract
//!
//! - A request names machine memory by [`Segment`]s. Who submits it keeps that memory
//!   valid for the device until the request's [`Completion`] was taken, and nobody may
//!   trust what the device did to it.
//! - A request that [`Block::submit`] took is completed exactly once, with the tag that
//!   it came with; one that was refused is not completed at all.
//! - The order of completions says nothing. Only a flush orders: it covers the writes
//!   that were completed before it was submitted.
//! - All functions may be called on any CPU, with interrupts on; none waits for the device.
//! - The device tells of completions by the interrupt that its owner gave the queue; after
//!   one there is none until [`Block::arm`].

use crate::Segment;

/// Bytes of a sector: the unit of all positions and lengths here, whatever the device's blocks are.
pub const SECTOR_SIZE: u64 = 512;

/// What a block device is, and what it can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockInfo {
    /// Size, sectors of 512 bytes. Changes when the device is resized.
    pub sectors: u64,
    /// Bytes of a logical block: requests begin and end at its multiples.
    pub logical_block_size: u32,
    /// Bytes of a physical block, a multiple of the logical one.
    pub physical_block_size: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether there is a volatile cache, so that flushes mean something.
    pub flush: bool,
    /// The most segments of a request.
    pub max_segments: usize,
    /// The most bytes of a segment.
    pub max_segment_size: u32,
    /// The most bytes of a request's data.
    pub max_transfer: u32,
    /// Whether ranges can be discarded, and how.
    pub discard: Option<RangeLimits>,
    /// Whether ranges can be zeroed without sending zeros, and how.
    pub write_zeroes: Option<RangeLimits>,
    /// Serial number or identifier that the device gives, at most 20 bytes of ASCII.
    pub serial: [u8; 20],
}

/// Limits of discard or write-zeroes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeLimits {
    /// The most sectors of one request.
    pub max_sectors: u64,
    /// Sectors to whose multiples ranges should be aligned; 1 if it does not matter.
    pub alignment: u64,
}

/// What a request asks for. Positions in sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockOperation {
    /// Reads from a sector on into the segments.
    Read {
        /// First sector.
        sector: u64,
    },
    /// Writes the segments from a sector on.
    Write {
        /// First sector.
        sector: u64,
    },
    /// Makes what was written stay after a loss of power. No segments.
    Flush,
    /// Says that a range's contents are not needed. No segments.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        sectors: u64,
    },
    /// Makes a range zeros. No segments.
    WriteZeroes {
        /// First sector.
        sector: u64,
        /// How many.
        sectors: u64,
        /// Whether the device may discard the range, if it reads as zeros then.
        may_unmap: bool,
    },
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct BlockRequest<'a> {
    /// What to do.
    pub operation: BlockOperation,
    /// The data's memory, in order; lengths are multiples of 512 bytes.
    pub segments: &'a [Segment],
    /// Names the request in its completion.
    pub tag: u64,
}

impl BlockRequest<'_> {
    /// Whether a device of this kind, which has so many sectors by now, can do it: within the
    /// device, whole blocks, no more than its limits, nothing that it does not know.
    ///
    /// # Errors
    /// `Invalid` if not.
    pub fn check(&self, info: &BlockInfo, sectors: u64) -> Result<(), SubmitError> {
        let fits = match self.operation {
            BlockOperation::Read { sector } => self.data_fits(info, sectors, sector),
            BlockOperation::Write { sector } => {
                !info.read_only && self.data_fits(info, sectors, sector)
            }
            BlockOperation::Flush => info.flush && self.segments.is_empty(),
            BlockOperation::Discard {
                sector,
                sectors: count,
            } => self.range_fits(info, sectors, (sector, count), info.discard),
            BlockOperation::WriteZeroes {
                sector,
                sectors: count,
                ..
            } => self.range_fits(info, sectors, (sector, count), info.write_zeroes),
        };
        fits.then_some(()).ok_or(SubmitError::Invalid)
    }

    fn data_fits(&self, info: &BlockInfo, sectors: u64, first: u64) -> bool {
        if self.segments.is_empty() || self.segments.len() > info.max_segments {
            return false;
        }
        let mut bytes = 0u64;
        for segment in self.segments {
            let length = segment.length;
            let fits = length != 0
                && length.is_multiple_of(512)
                && length <= info.max_segment_size
                && segment.address.checked_add(length.into()).is_some();
            if !fits {
                return false;
            }
            bytes += u64::from(length);
        }
        bytes <= info.max_transfer.into() && within(info, sectors, first, bytes / SECTOR_SIZE)
    }

    fn range_fits(
        &self,
        info: &BlockInfo,
        sectors: u64,
        (first, count): (u64, u64),
        limits: Option<RangeLimits>,
    ) -> bool {
        !info.read_only
            && self.segments.is_empty()
            && limits.is_some_and(|limits| count <= limits.max_sectors)
            && within(info, sectors, first, count)
    }
}

/// Whether a range is one of whole blocks within a device of so many sectors.
fn within(info: &BlockInfo, sectors: u64, first: u64, count: u64) -> bool {
    let block = u64::from(info.logical_block_size) / SECTOR_SIZE;
    count != 0
        && first.is_multiple_of(block)
        && count.is_multiple_of(block)
        && first.checked_add(count).is_some_and(|end| end <= sectors)
}

/// Why a request was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubmitError {
    /// The queue is full: try again after the next completion.
    Full,
    /// The device cannot do this (beyond its end, too long, misaligned, read-only, no such operation).
    Invalid,
    /// The device broke, and takes nothing any more.
    Broken,
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockStatus {
    /// Done.
    Ok,
    /// The device reports an error.
    Error,
    /// The device does not know the operation.
    Unsupported,
}

/// A request's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The request's tag.
    pub tag: u64,
    /// How it ended.
    pub status: BlockStatus,
}

/// A block device. See the module's docs for what holds of all of them.
pub trait Block: Send + Sync {
    /// What it is and can do, as of now.
    fn info(&self) -> BlockInfo;

    /// How many queues can work at the same time, at least 1.
    fn queues(&self) -> usize;

    /// Puts a request into a queue. The device need not look before [`Self::kick`].
    fn submit(&self, queue: usize, request: &BlockRequest<'_>) -> Result<(), SubmitError>;

    /// Tells the device of what was submitted.
    fn kick(&self, queue: usize);

    /// Takes at most `budget` completions out of a queue; gives how many there were. `done`
    /// must not call the device, which may hold a lock.
    fn complete(&self, queue: usize, budget: usize, done: &mut dyn FnMut(Completion)) -> usize;

    /// Asks for an interrupt at the next completion. `true` if there are some already:
    /// call [`Self::complete`] again, no interrupt may come for them.
    fn arm(&self, queue: usize) -> bool;

    /// Whether [`Self::info`] may have changed since the last call of this.
    fn take_change(&self) -> bool;

    /// Whether the device broke: [`Self::complete`] gives what it had as failed as soon as
    /// it is sure not to touch the memory any more, which may be never. There is no interrupt for it.
    fn is_broken(&self) -> bool;
}
