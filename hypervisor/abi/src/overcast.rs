//! Operations of Overcast's own, for its tools in the control domain. They go by Xen's control
//! hypercalls, with the same checks, under numbers that Xen does not use: there they
//! are answered with ENOSYS.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::xen::GuestHandle;

/// The first of our commands of `domctl`: "OC".
const DOMCTL_BASE: u32 = 0x4f43_0000;

/// Reads pages of another domain in the form of a migration stream ([`DomctlReadPages`]),
/// also while it runs. With no pages asked for, says that it is there.
pub const OVERCAST_DOMCTL_READ_PAGES: u32 = DOMCTL_BASE + 1;

/// The most pages in one operation.
pub const OVERCAST_READ_PAGES_MOST: u32 = 1024;
/// Flag: the contents of pages of zeros are left out; their type is `XALLOC`.
pub const OVERCAST_READ_PAGES_ELIDE: u32 = 1;
/// In an answer: a page table with an entry that is not the domain's (yet, or any more), or a
/// page that became something else while it was read. It has no contents.
pub const OVERCAST_PAGE_CHANGING: u64 = 1 << 52;

/// Arguments of [`OVERCAST_DOMCTL_READ_PAGES`].
///
/// The arrays of numbers and of contents are, once done, those of a `PAGE_DATA` record of
/// libxc's stream, but for the pages that are [`OVERCAST_PAGE_CHANGING`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlReadPages {
    /// Address of `count` words of 64 bits. In: numbers of the domain's pages. Out: the same, and in
    /// the bits 60 to 63 what they are, as `XEN_DOMCTL_getpageframeinfo3` says it in 28 to 31.
    pub pages: GuestHandle,
    /// Address of room for `count` pages: one after the other the contents of those that have some.
    pub data: GuestHandle,
    /// Address of the domain's own list of its frames, which the caller has mapped: a word of 64
    /// bits for each page from 0 on.
    pub list: GuestHandle,
    /// Words of the list.
    pub list_entries: u64,
    /// How many pages, at most [`OVERCAST_READ_PAGES_MOST`].
    pub count: u32,
    /// `OVERCAST_READ_PAGES_*`.
    pub flags: u32,
    /// In: 0. Out: pages that were done: all, unless there is an error.
    pub done: u32,
    /// In: 0. Out: pages that are in `data`.
    pub filled: u32,
}
const _: () = assert!(size_of::<DomctlReadPages>() == 48 && align_of::<DomctlReadPages>() == 8);

/// `domctl`: logs which blocks of one of a domain's disks are written ([`DomctlDiskLog`]).
pub const OVERCAST_DOMCTL_DISK_LOG: u32 = DOMCTL_BASE + 2;

/// Begin: nothing is written yet. EEXIST if there is a log, EOPNOTSUPP if other domains may write
/// the disk, ENOMEM.
pub const DISK_LOG_START: u32 = 0;
/// End. ENODATA if there is no log.
pub const DISK_LOG_STOP: u32 = 1;
/// Read bits and clear them. ENODATA if there is no log, EIO if it is not complete because the
/// disk grew, EINVAL for a `first` that is no multiple of 64 or beyond the end. When it fails, bits
/// may be lost.
pub const DISK_LOG_TAKE: u32 = 2;
/// Only say how far the log goes. ENODATA if there is none.
pub const DISK_LOG_LOOK: u32 = 3;

/// The most words that [`DISK_LOG_TAKE`] gives at once.
pub const DISK_LOG_MAX_WORDS: u32 = 4096;

/// Arguments of [`OVERCAST_DOMCTL_DISK_LOG`]. ENOENT if the domain has no such disk at a backend
/// in the hypervisor, EINVAL for an unknown operation.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlDiskLog {
    /// IN: `DISK_LOG_*`.
    pub op: u32,
    /// IN: the device's number, as its directories in xenstore are named.
    pub device: u32,
    /// IN, for a take: the first block, a multiple of 64.
    pub first: u64,
    /// IN, for a take: where the bits go, words of 64 of which the lowest is the first.
    pub bitmap: GuestHandle,
    /// IN, for a take: words that there is room for. OUT: words that were given.
    pub words: u32,
    /// OUT: sectors (of 512 bytes) of a block, a power of 2.
    pub block_sectors: u32,
    /// OUT: blocks of the disk.
    pub blocks: u64,
    /// OUT: blocks that were written and not taken.
    pub written: u64,
}
const _: () = assert!(size_of::<DomctlDiskLog>() == 48 && align_of::<DomctlDiskLog>() == 8);
