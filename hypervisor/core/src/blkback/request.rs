//! Requests, as they stand in a ring.

use super::Fault;
use super::ring::{Protocol, REQUEST_BYTES};
use crate::addr::PAGE_SIZE;
use crate::ids::GrantRef;
use xen_abi::io_blkif::*;

/// Segments of an indirect request that are offered and taken.
pub const MAX_INDIRECT_SEGMENTS: usize = 256;
/// Bytes of a segment's description.
pub const SEGMENT_BYTES: usize = size_of::<BlkifRequestSegment>();
/// Sectors of a frame.
const SECTORS_PER_FRAME: u8 = (PAGE_SIZE / 512) as u8;

/// Part of a granted frame, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataSegment {
    /// The frame's grant.
    pub reference: GrantRef,
    /// First byte in the frame.
    pub offset: u16,
    /// Bytes, at least 512, to the end of the frame at most.
    pub length: u16,
}

impl DataSegment {
    /// From a segment's description.
    #[inline]
    pub fn parse(bytes: [u8; SEGMENT_BYTES]) -> Result<Self, Fault> {
        let [.., first, last, _, _] = bytes;
        Self::read(bytes).ok_or(Fault::SectorsInFrame { first, last })
    }

    #[inline(always)]
    fn read(bytes: [u8; SEGMENT_BYTES]) -> Option<Self> {
        let [a, b, c, d, first, last, ..] = bytes;
        if first > last || last >= SECTORS_PER_FRAME {
            return None;
        }
        Some(Self {
            reference: GrantRef(u32::from_le_bytes([a, b, c, d])),
            offset: u16::from(first) * 512,
            length: u16::from(last - first + 1) * 512,
        })
    }
}

/// Where the segments of a request are described.
#[derive(Clone, Copy, Debug)]
pub enum Segments {
    /// In the request: so many, from a byte of the entry on.
    Direct {
        /// At most [`BLKIF_MAX_SEGMENTS_PER_REQUEST`].
        count: usize,
        /// Where the first is in the entry.
        at: usize,
    },
    /// In a page of their own; [`MAX_INDIRECT_SEGMENTS`] fit in one.
    Indirect {
        /// At most [`MAX_INDIRECT_SEGMENTS`].
        count: usize,
        /// The page's grant.
        page: GrantRef,
    },
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A read or write.
    Transfer {
        /// Towards the disk.
        write: bool,
        /// All earlier requests of the ring first, and a flush on both sides.
        barrier: bool,
        /// A flush first.
        flush: bool,
        /// The data.
        segments: Segments,
    },
    /// A discard of so many sectors.
    Discard {
        /// How many.
        sectors: u64,
    },
    /// Nothing that is known.
    Unknown,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Comes back in the response.
    pub id: u64,
    /// Comes back in the response.
    pub operation: u8,
    /// First sector.
    pub sector: u64,
    /// The rest.
    pub kind: Kind,
}

/// Where a layout has the fields, bytes from an entry's beginning.
struct Offsets {
    id: usize,
    sector: usize,
    segments: usize,
    discard_sectors: usize,
    indirect_references: usize,
}

const fn offsets(protocol: Protocol) -> Offsets {
    match protocol {
        Protocol::X86_64 => Offsets {
            id: core::mem::offset_of!(BlkifRequest, id),
            sector: core::mem::offset_of!(BlkifRequest, sector_number),
            segments: core::mem::offset_of!(BlkifRequest, seg),
            discard_sectors: core::mem::offset_of!(BlkifRequestDiscard, nr_sectors),
            indirect_references: core::mem::offset_of!(BlkifRequestIndirect, indirect_grefs),
        },
        Protocol::X86_32 => Offsets {
            id: 4,
            sector: 12,
            segments: 20,
            discard_sectors: 20,
            indirect_references: 24,
        },
    }
}

/// Bytes of an entry. Positions are constants within it; beyond it reads as 0.
fn bytes_at<const N: usize>(entry: &[u8; REQUEST_BYTES], at: usize) -> [u8; N] {
    entry
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

impl Request {
    /// Reads an entry.
    pub fn parse(entry: &[u8; REQUEST_BYTES], protocol: Protocol) -> Result<Self, Fault> {
        let offsets = offsets(protocol);
        let [operation, second] = bytes_at(entry, 0);
        let mut request = Self {
            id: u64::from_le_bytes(bytes_at(entry, offsets.id)),
            operation,
            sector: u64::from_le_bytes(bytes_at(entry, offsets.sector)),
            kind: Kind::Unknown,
        };
        match operation {
            BLKIF_OP_READ | BLKIF_OP_WRITE | BLKIF_OP_WRITE_BARRIER | BLKIF_OP_FLUSH_DISKCACHE => {
                let count = usize::from(second);
                if count > BLKIF_MAX_SEGMENTS_PER_REQUEST {
                    return Err(Fault::Segments(count as u32));
                }
                let at = offsets.segments;
                request.kind = Kind::Transfer {
                    write: operation != BLKIF_OP_READ,
                    barrier: operation == BLKIF_OP_WRITE_BARRIER,
                    flush: operation >= BLKIF_OP_WRITE_BARRIER,
                    segments: Segments::Direct { count, at },
                };
            }
            BLKIF_OP_INDIRECT => {
                let count = usize::from(u16::from_le_bytes(bytes_at(entry, 2)));
                if count > MAX_INDIRECT_SEGMENTS {
                    return Err(Fault::Segments(count as u32));
                }
                if !matches!(second, BLKIF_OP_READ | BLKIF_OP_WRITE) {
                    return Err(Fault::Indirect(second));
                }
                let page = u32::from_le_bytes(bytes_at(entry, offsets.indirect_references));
                request.operation = second;
                request.kind = Kind::Transfer {
                    write: second == BLKIF_OP_WRITE,
                    barrier: false,
                    flush: false,
                    segments: Segments::Indirect {
                        count,
                        page: GrantRef(page),
                    },
                };
            }
            BLKIF_OP_DISCARD => {
                // A secure discard is not offered, and the flag then means nothing.
                request.kind = Kind::Discard {
                    sectors: u64::from_le_bytes(bytes_at(entry, offsets.discard_sectors)),
                };
            }
            _ => {}
        }
        Ok(request)
    }

    /// A segment described in the entry itself.
    pub fn direct_segment(
        entry: &[u8; REQUEST_BYTES],
        at: usize,
        index: usize,
    ) -> Result<DataSegment, Fault> {
        DataSegment::parse(bytes_at(entry, at + index * SEGMENT_BYTES))
    }
}
