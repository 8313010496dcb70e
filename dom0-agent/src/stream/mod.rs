//! Saved and moving domains: Xen's migration stream, and the file that `xl` puts around it.
//!
//! ```text
//!  xl's file    header, the domain's configuration as JSON      container
//!   libxl's     "LibxlFmt", LIBXC_CONTEXT, …, END               container
//!    libxc's    image header, domain header, records, END       reader, writer
//! ```
//!
//! libxc's stream (version 3, `docs/specs/libxc-migration-stream.pandoc` of Xen; version 2
//! is read too) holds a guest in a form that no machine is in: where the guest knows
//! machine frames, it has the guest's own frame numbers. Those are in page tables
//! ([`tables`]), in the vCPUs' contexts and in `start_info` ([`state`]), and in the guest's
//! list of its frames ([`p2m`]). [`save`] takes a guest ([`save::Source`]) apart into a
//! stream, [`restore`] puts one together ([`restore::Target`]). All of it is safe code over
//! `Read` and `Write` that knows no hypervisor, so that it runs on the host against
//! a model of a guest, and under a fuzzer.
//!
//! # What a hostile stream can do
//! It gets an [`Error`] that names the record. Nothing is allocated for what is claimed, only
//! for what arrived, and of that at most (see [`Limits`]):
//!
//! | what | bytes |
//! |---|---|
//! | the record at hand | 16 MiB + 32 KiB ([`MAX_BATCH`] pages and their numbers) |
//! | the frames of the guest's list | 8 for each 512 frames up to [`Limits::max_pfn`]: 4 MiB at most |
//! | mapping and types of the guest's frames | 4,656 for each 512 frames that have one page or more, and the domain can be given no more pages than its limit |
//! | state of the vCPUs | 140 KiB for each, [`Limits::max_vcpus`] at most |
//! | the configuration | 1 MiB |

use std::io::{self, Read};

pub use overcast_core::addr::{Mfn, Pfn};

pub mod container;
#[cfg(any(test, feature = "model"))]
pub mod model;
pub mod p2m;
pub mod reader;
pub mod record;
pub mod restore;
pub mod save;
pub mod state;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod writer;

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;
/// The contents of a page.
pub type Page = [u8; PAGE_SIZE];
/// The most pages of a `PAGE_DATA` record that are taken. Xen's tools write 1,024.
pub const MAX_BATCH: usize = 4096;
/// Pages of the `PAGE_DATA` records that are written, as of Xen's tools.
pub const BATCH: usize = 1024;

/// No frame (`INVALID_MFN`).
pub const NO_FRAME: Mfn = Mfn(u64::MAX);

/// What a stream may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The highest frame number of the guest.
    pub max_pfn: u64,
    /// vCPUs of the domain.
    pub max_vcpus: u32,
}

impl Limits {
    /// The most that is supported: 1 TiB of frame numbers, 128 vCPUs.
    pub const MOST: Self = Self {
        max_pfn: (1 << 28) - 1,
        max_vcpus: 128,
    };
}

/// What can go wrong with a stream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file or the connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is no stream, or one that is not understood.
    #[error("{part}: {why}")]
    Header {
        /// Which header.
        part: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A record is wrong, or comes where it may not.
    #[error("{record} record: {why}")]
    Record {
        /// The record's name in the specification.
        record: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// It ends in the middle.
    #[error("the stream ends within {0}")]
    Truncated(&'static str),
    /// The guest is in no state to be saved.
    #[error("the guest: {0}")]
    Guest(String),
    /// The machine refused.
    #[error("{0}")]
    Machine(Box<dyn std::error::Error + Send + Sync>),
}

/// The result of an operation on a stream.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For a record.
    pub(crate) fn record(record: &'static str, why: impl Into<String>) -> Self {
        Self::Record {
            record,
            why: why.into(),
        }
    }

    /// For a header.
    pub(crate) fn header(part: &'static str, why: impl Into<String>) -> Self {
        Self::Header {
            part,
            why: why.into(),
        }
    }
}

/// Reads `length` bytes into `body`, allocating for what arrives and not for what is claimed.
pub(crate) fn read_body(
    from: &mut impl Read,
    length: usize,
    body: &mut Vec<u8>,
    what: &'static str,
) -> Result<()> {
    body.clear();
    from.take(length as u64).read_to_end(body)?;
    if body.len() < length {
        return Err(Error::Truncated(what));
    }
    Ok(())
}

/// Reads exactly the bytes of an array.
pub(crate) fn read_array<const N: usize>(
    from: &mut impl Read,
    what: &'static str,
) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Truncated(what),
            _ => Error::Io(error),
        })?;
    Ok(bytes)
}
