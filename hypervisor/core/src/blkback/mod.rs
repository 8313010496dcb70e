//! The backend of block devices (public headers io/blkif.h, io/ring.h): takes requests
//! off the rings of frontends, hands them with the guest's own frames to a device, and answers.
//!
//! | part | what it does |
//! |---|---|
//! | [`negotiate`] | what the backend offers in the store, and what a frontend chose |
//! | [`ring`] | a shared ring: indices, entries, when to notify |
//! | [`request`] | an entry of the ring, checked |
//! | [`queue`] | the requests of one ring under way, and what comes next for each |
//! | [`channel`] | all rings that use one queue of a device |
//! | [`written`] | the blocks that a guest wrote while its disk is copied |
//!
//! # Invariants
//!
//! - An entry of a ring, or of a page of indirect segments, is read once, and then checked.
//! - A grant is held from before the device learns of its frame until the device has
//!   completed the request, whatever happens to the frontend meanwhile; it is given back
//!   before the response can be seen, since the frontend then ends the access.
//! - A request that was taken off the ring is answered once, or its ring is closed.
//! - A frontend that breaks the protocol ([`Fault`]) loses its ring, and nothing else
//!   changes. What a good frontend may ask for and not get (a position beyond the end, a
//!   misaligned length, an operation that the device has not) is answered with an error.
//! - While writes are logged, one is in the log before its answer can be seen.
//! - No wake-up is lost: a ring is left only with `req_event` set to the next request and
//!   looked at once more, or while a completion of the device is due that has it looked at again.

pub mod channel;
#[cfg(test)]
mod model;
pub mod negotiate;
pub mod queue;
pub mod request;
pub mod ring;
#[cfg(test)]
mod tests;
pub mod written;

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::Mutex;

use crate::addr::Mfn;
use crate::error::{Error, Result as CoreResult};
use crate::grant::{BackendGrant, BackendGrants, GrantError, GrantHost};
use crate::ids::GrantRef;
use crate::machine::Frame;
use overcast_drivers::block::{BlockInfo, RangeLimits};
use written::{Extent, Written};

/// A granted frame in use; dropping it ends the use.
pub trait GrantedPage: Send {
    /// The frame.
    fn mfn(&self) -> Mfn;
    /// Whether so many bytes from an offset in the frame are granted.
    fn allows(&self, offset: usize, length: usize) -> bool;
}

impl<H: GrantHost> GrantedPage for BackendGrant<'_, H> {
    fn mfn(&self) -> Mfn {
        self.mfn()
    }

    fn allows(&self, offset: usize, length: usize) -> bool {
        self.allows(offset, length)
    }
}

/// The granted frames of a request, in use together; dropping them ends the use.
pub trait GrantedPages: Send {
    /// Ends the use of those before, and begins to use others: all, or none on failure, of
    /// which the first is named.
    fn map(
        &mut self,
        references: impl ExactSizeIterator<Item = GrantRef>,
        readonly: bool,
    ) -> Result<(), (GrantRef, GrantError)>;

    /// Ends the use of all.
    fn clear(&mut self);

    /// Where so many bytes from an offset in the n-th frame are in machine memory; `None` if
    /// they are not all granted.
    fn locate(&self, index: usize, offset: usize, length: usize) -> Option<u64>;
}

impl<H: GrantHost> GrantedPages for BackendGrants<'_, H> {
    fn map(
        &mut self,
        references: impl ExactSizeIterator<Item = GrantRef>,
        readonly: bool,
    ) -> Result<(), (GrantRef, GrantError)> {
        self.map(references, readonly)
    }

    fn clear(&mut self) {
        self.clear();
    }

    #[inline]
    fn locate(&self, index: usize, offset: usize, length: usize) -> Option<u64> {
        let frame = self.frames().get(index)?;
        let start = frame.mfn().address().get();
        frame
            .allows(offset, length)
            .then_some(start + offset as u64)
    }
}

/// The other end of a ring: a guest's frontend.
pub trait Frontend: Send {
    /// What using a grant gives.
    type Page: GrantedPage;
    /// What using those of a request gives.
    type Pages: GrantedPages;

    /// The contents of a frame that the guest granted.
    fn frame(&self, mfn: Mfn) -> Option<&Frame>;

    /// Begins to use a grant of the guest's.
    fn map(&self, reference: GrantRef, readonly: bool) -> Result<Self::Page, GrantError>;

    /// None of the guest's grants yet.
    fn pages(&self) -> Self::Pages;

    /// Sends the event of the ring.
    fn notify(&self);

    /// The frontend broke the protocol, and its ring is closed. Called with locks held:
    /// notes it, and no more.
    fn failed(&self, fault: Fault);

    /// The device reports an error of a request of this operation (`BLKIF_OP_*`), which is
    /// answered with one. As [`Self::failed`].
    fn device_error(&self, operation: u8);

    /// The closed ring has no request under way any more. As [`Self::failed`].
    fn drained(&self);
}

/// How a frontend broke the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// `req_prod` claims more requests than the ring has room for, or fewer than there were.
    RequestIndex {
        /// `req_prod`
        produced: u32,
        /// What was consumed.
        consumed: u32,
    },
    /// More segments than a request may have.
    Segments(u32),
    /// Sectors of a segment that do not lie in a frame.
    SectorsInFrame {
        /// `first_sect`
        first: u8,
        /// `last_sect`
        last: u8,
    },
    /// An indirect request for neither a read nor a write.
    Indirect(u8),
    /// A grant that is none, or does not allow what it is used for.
    Grant(GrantRef, GrantError),
    /// A frame of the ring is not RAM.
    NoFrame(Mfn),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestIndex { produced, consumed } => {
                write!(f, "req_prod {produced:#x} with {consumed:#x} consumed")
            }
            Self::Segments(count) => write!(f, "a request with {count} segments"),
            Self::SectorsInFrame { first, last } => {
                write!(f, "sectors {first} to {last} of a frame")
            }
            Self::Indirect(operation) => write!(f, "indirect operation {operation}"),
            Self::Grant(reference, error) => write!(f, "grant {reference}: {error:?}"),
            Self::NoFrame(mfn) => write!(f, "ring in frame {mfn}, which is not RAM"),
        }
    }
}

/// What of a device a ring shows, and how requests for it must look.
#[derive(Debug)]
pub struct Disk {
    /// First sector (of 512 bytes) on the device.
    start: u64,
    sectors: AtomicU64,
    /// Writes are refused.
    pub read_only: bool,
    /// Bytes of a logical block: requests begin and end at its multiples.
    pub logical_block_size: u32,
    /// Bytes of a physical block.
    pub physical_block_size: u32,
    /// Whether flushes mean something.
    pub flush: bool,
    /// How ranges are discarded, if they can be.
    pub discard: Option<RangeLimits>,
    max_segments: usize,
    max_segment_size: u32,
    max_transfer: u32,
    /// Whether there is a log.
    logs: AtomicBool,
    /// What was written, if anybody wants to know. Inside of all other locks.
    log: Mutex<Option<Written>>,
}

impl Disk {
    /// A part of a device: so many sectors from `start` on, which the caller knows to lie on it.
    pub fn new(info: &BlockInfo, start: u64, sectors: u64, read_only: bool) -> Self {
        let block = info.logical_block_size.max(512);
        Self {
            start,
            sectors: AtomicU64::new(sectors),
            read_only: read_only || info.read_only,
            logical_block_size: block,
            physical_block_size: info.physical_block_size.max(block),
            flush: info.flush,
            discard: info.discard,
            max_segments: info.max_segments.max(1),
            max_segment_size: (info.max_segment_size & !511).max(512),
            max_transfer: info.max_transfer.max(block) & !(block - 1),
            logs: AtomicBool::new(false),
            log: Mutex::new(None),
        }
    }

    /// Begins to log what is written from now on; what was answered before is on the device.
    /// `Exists` if that is done already, `NoMemory`.
    pub fn start_log(&self) -> CoreResult<Extent> {
        let new = Written::new(self.sectors())?;
        let extent = new.extent();
        let mut log = self.log.lock();
        if log.is_some() {
            return Err(Error::Exists);
        }
        *log = Some(new);
        self.logs.store(true, Ordering::Release);
        Ok(extent)
    }

    /// Ends the log; whether there was one.
    pub fn end_log(&self) -> bool {
        let ended = {
            let mut log = self.log.lock();
            self.logs.store(false, Ordering::Release);
            log.take()
        };
        ended.is_some()
    }

    /// Does something with the log. `NoData` if there is none.
    pub fn with_log<T>(&self, act: impl FnOnce(&mut Written) -> CoreResult<T>) -> CoreResult<T> {
        self.log.lock().as_mut().ok_or(Error::NoData).and_then(act)
    }

    /// A request that changes so many sectors from one on has come back from the device.
    fn wrote(&self, sector: u64, sectors: u64) {
        if self.logs.load(Ordering::Acquire)
            && let Some(log) = &mut *self.log.lock()
        {
            log.note(sector, sectors);
        }
    }

    /// Its size in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Acquire)
    }

    /// Changes its size.
    pub fn set_sectors(&self, sectors: u64) {
        self.sectors.store(sectors, Ordering::Release);
    }

    /// Sectors of a logical block.
    fn block_sectors(&self) -> u64 {
        u64::from(self.logical_block_size / 512).max(1)
    }

    /// Where on the device a range lies; `None` if it is not on the disk, or misaligned.
    fn locate(&self, sector: u64, sectors: u64) -> Option<u64> {
        let aligned = (sector | sectors).is_multiple_of(self.block_sectors());
        let end = sector.checked_add(sectors)?;
        if !aligned || end > self.sectors() {
            return None;
        }
        self.start.checked_add(sector)
    }
}
