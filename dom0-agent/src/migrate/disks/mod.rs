//! Disks that move with their guest: `overcast migrate --with-disks`, for machines that do not see
//! the same disks of a first layer.
//!
//! ```text
//!   source                                     target
//!   Offer with each disk's size ─────────────▶ attaches its own to Dom0: there, free, large enough?
//!     ◀──────────────────────────── Accept or Refuse
//!   logs the guest's writes, attaches its disks to Dom0
//!   a second connection: Disks ──────────────▶ finds the move by its number
//!   all of each disk, zeros only named ──────▶ writes it
//!   what was written meanwhile, again and again until that is little
//!   memory, as without disks ──────────────── meanwhile disks go on
//!   (the guest is suspended) what was written last, the end ▶ writes it, all of it to the medium
//!     ◀──────────────────────────── Ready, for the disks
//!   the rest as without disks                  only then gives them to the guest, and is Ready
//! ```
//!
//! [`records`] are on the wire, [`source`] and [`target`] the ends, [`device`] is a disk in Dom0.
//!
//! # Invariants
//! - The log begins before the first byte is read, and its bits are taken before what they stand
//!   for is read; the last time after the guest was suspended. So what the guest has seen
//!   written is read after it was written (why: [`overcast_core::blkback::written`]).
//! - The target says that it is ready when all is on its medium. Nothing before that touches what the
//!   guest at the source uses; whatever fails, its log ends, and Dom0 lets its disks go.
//! - What the source writes at the target lies on the disks that were looked at, which no
//!   other domain has.
//! - Read-only disks are not copied: the target has to have them.

pub mod device;
pub mod records;
pub mod source;
pub mod target;

use std::io;

use serde::{Deserialize, Serialize};

pub use device::sweep;

/// The most bytes that are read or written at a time.
pub const CHUNK: usize = 1 << 20;
/// What an end says in its [`Hello`](super::wire::Hello) that takes disks.
pub const FEATURE: &str = "disks";

/// A disk that comes along.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskOffer {
    /// What the guest calls it.
    pub device: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical block.
    pub block: u32,
}

/// How often a disk was gone through, and what that took.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Pass {
    /// Bytes that were read.
    pub read: u64,
    /// Of those, zeros.
    pub zeros: u64,
    /// Bytes on the wire.
    pub bytes: u64,
    /// How long it took, ms.
    pub ms: u64,
}

impl Pass {
    /// Counts another one with this.
    fn add(&mut self, other: Self) {
        self.read += other.read;
        self.zeros += other.zeros;
        self.bytes += other.bytes;
        self.ms += other.ms;
    }
}

/// A disk, as what it is read from and written to.
pub trait Disk {
    /// Bytes.
    fn size(&self) -> u64;
    /// Reads up to [`CHUNK`] bytes.
    fn read(&mut self, offset: u64, length: usize) -> io::Result<&[u8]>;
    /// Writes up to [`CHUNK`] bytes.
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Returns when all is on the medium.
    fn sync(&mut self) -> io::Result<()>;
}

/// A disk that tells which of its blocks were written.
pub trait Logged: Disk {
    /// Bytes of a block of the log.
    fn block(&self) -> u64;
    /// Blocks that were written since this was asked the last time, a bit each; all bits beyond
    /// the end are 0.
    fn written(&mut self) -> crate::error::Result<Vec<u64>>;
}

#[cfg(test)]
pub mod model {
    //! A disk in memory whose guest writes it.

    use super::*;

    /// See the module's docs.
    pub struct Model {
        pub data: Vec<u8>,
        pub block: u64,
        pub log: Vec<u64>,
        pub writes: usize,
        pub synced: bool,
        /// Writes that its guest has still to do, the next last.
        pub guest: Vec<(u64, Vec<u8>)>,
    }

    impl Model {
        pub fn new(data: Vec<u8>, block: u64) -> Self {
            let blocks = (data.len() as u64).div_ceil(block);
            Self {
                data,
                block,
                log: vec![0; blocks.div_ceil(64) as usize],
                writes: 0,
                synced: false,
                guest: Vec::new(),
            }
        }

        /// The guest writes.
        pub fn guest_writes(&mut self, offset: u64, data: &[u8]) {
            let at = offset as usize;
            self.data[at..at + data.len()].copy_from_slice(data);
            for block in offset / self.block..=(offset + data.len() as u64 - 1) / self.block {
                self.log[block as usize / 64] |= 1 << (block % 64);
            }
        }
    }

    impl Disk for Model {
        fn size(&self) -> u64 {
            self.data.len() as u64
        }

        fn read(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
            Ok(&self.data[offset as usize..][..length])
        }

        fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.writes += 1;
            self.data[offset as usize..][..data.len()].copy_from_slice(data);
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            self.synced = true;
            Ok(())
        }
    }

    impl Logged for Model {
        fn block(&self) -> u64 {
            self.block
        }

        fn written(&mut self) -> crate::error::Result<Vec<u64>> {
            let empty = vec![0; self.log.len()];
            Ok(std::mem::replace(&mut self.log, empty))
        }
    }
}
