//! The ring of a block device between a frontend and its backend (io/blkif.h, io/ring.h).
//!
//! Positions and lengths are in units of 512 bytes whatever `sector-size` says: so every
//! frontend and backend in use has it, and so later versions of the header say.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Read into the segments.
pub const BLKIF_OP_READ: u8 = 0;
/// Write the segments.
pub const BLKIF_OP_WRITE: u8 = 1;
/// Write after all earlier writes are on the medium, and before all later ones.
pub const BLKIF_OP_WRITE_BARRIER: u8 = 2;
/// Bring the volatile cache to the medium.
pub const BLKIF_OP_FLUSH_DISKCACHE: u8 = 3;
/// A range is not needed any more.
pub const BLKIF_OP_DISCARD: u8 = 5;
/// A read or a write whose segments are listed in pages of their own.
pub const BLKIF_OP_INDIRECT: u8 = 6;
/// `flag` of a discard: no copy may stay.
pub const BLKIF_DISCARD_SECURE: u8 = 1;

/// Segments in a request itself.
pub const BLKIF_MAX_SEGMENTS_PER_REQUEST: usize = 11;
/// Pages of segments of an indirect request.
pub const BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST: usize = 8;

/// Not supported.
pub const BLKIF_RSP_EOPNOTSUPP: i16 = -2;
/// Failed.
pub const BLKIF_RSP_ERROR: i16 = -1;
/// Done.
pub const BLKIF_RSP_OKAY: i16 = 0;

/// Bits of `info`: a CD-ROM.
pub const VDISK_CDROM: u32 = 1;
/// The medium can be taken out.
pub const VDISK_REMOVABLE: u32 = 2;
/// Writes are refused.
pub const VDISK_READONLY: u32 = 4;

/// Bytes of a ring before its first entry.
pub const RING_HEADER: usize = 64;

/// A part of a granted frame (`struct blkif_request_segment`).
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct BlkifRequestSegment {
    /// The frame's grant.
    pub gref: u32,
    /// First sector in the frame.
    pub first_sect: u8,
    /// Last sector in the frame.
    pub last_sect: u8,
    #[doc(hidden)]
    pub pad: [u8; 2],
}

/// A read, write, barrier or flush (`struct blkif_request`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct BlkifRequest {
    /// `BLKIF_OP_*`.
    pub operation: u8,
    /// Segments in use.
    pub nr_segments: u8,
    /// The device, as the frontend numbers it.
    pub handle: u16,
    #[doc(hidden)]
    pub pad: [u8; 4],
    /// Comes back in the response.
    pub id: u64,
    /// First sector.
    pub sector_number: u64,
    /// The data.
    pub seg: [BlkifRequestSegment; BLKIF_MAX_SEGMENTS_PER_REQUEST],
}

/// `struct blkif_request_discard`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct BlkifRequestDiscard {
    /// [`BLKIF_OP_DISCARD`].
    pub operation: u8,
    /// [`BLKIF_DISCARD_SECURE`] or 0.
    pub flag: u8,
    /// The device, as the frontend numbers it.
    pub handle: u16,
    #[doc(hidden)]
    pub pad: [u8; 4],
    /// Comes back in the response.
    pub id: u64,
    /// First sector.
    pub sector_number: u64,
    /// How many.
    pub nr_sectors: u64,
}

/// `struct blkif_request_indirect`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct BlkifRequestIndirect {
    /// [`BLKIF_OP_INDIRECT`].
    pub operation: u8,
    /// [`BLKIF_OP_READ`] or [`BLKIF_OP_WRITE`].
    pub indirect_op: u8,
    /// Segments in the pages.
    pub nr_segments: u16,
    #[doc(hidden)]
    pub pad: [u8; 4],
    /// Comes back in the response.
    pub id: u64,
    /// First sector.
    pub sector_number: u64,
    /// The device, as the frontend numbers it.
    pub handle: u16,
    #[doc(hidden)]
    pub pad2: [u8; 2],
    /// Grants of the pages with the segments.
    pub indirect_grefs: [u32; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST],
    #[doc(hidden)]
    pub pad3: [u8; 4],
}

/// `struct blkif_response`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct BlkifResponse {
    /// The request's.
    pub id: u64,
    /// The request's; of an indirect one, what it was for.
    pub operation: u8,
    #[doc(hidden)]
    pub pad: u8,
    /// `BLKIF_RSP_*`.
    pub status: i16,
    #[doc(hidden)]
    pub pad2: [u8; 4],
}

const _: () = assert!(size_of::<BlkifRequest>() == 112 && size_of::<BlkifResponse>() == 16);
const _: () = assert!(size_of::<BlkifRequestIndirect>() == 64);
