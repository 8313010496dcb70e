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
