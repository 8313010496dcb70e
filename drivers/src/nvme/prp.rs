//! Data as a controller takes it: physical region pages (NVMe 1.4, section 4.3).
//!
//! The first may begin within a page and the last end within one; the others are whole pages.

use core::sync::atomic::Ordering;

use super::PAGE_SIZE;
use crate::Segment;
use crate::platform::Dma;

const PAGE: u64 = PAGE_SIZE as u64;

/// Some of a request's segments, which go into one command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Behind the last of them.
    pub end: usize,
    pub bytes: u64,
}

/// The longest run of segments from `from` on that is one piece, of at most `limit` bytes;
/// a single segment is always one.
pub fn piece(segments: &[Segment], from: usize, limit: u32) -> Piece {
    let mut piece = Piece {
        end: from,
        bytes: 0,
    };
    let mut last_end = 0u64;
    for segment in segments.iter().skip(from) {
        let bytes = piece.bytes + u64::from(segment.length);
        let joins = last_end.is_multiple_of(PAGE) && segment.address.is_multiple_of(PAGE);
        if piece.bytes != 0 && (!joins || bytes > limit.into()) {
            break;
        }
        piece.end += 1;
        piece.bytes = bytes;
        last_end = segment.address.wrapping_add(segment.length.into());
    }
    // One that cannot be is not asked for; there is an end all the same.
    piece.end = piece.end.max(from + 1);
    piece
}

/// The pages of a piece but the first.
fn rest(segments: &[Segment]) -> impl Iterator<Item = u64> {
    let pages = |segment: &Segment| {
        let last = u64::from(segment.length).saturating_sub(1);
        let last = segment.address.saturating_add(last);
        (segment.address & !(PAGE - 1)..=last).step_by(PAGE_SIZE)
    };
    segments.iter().flat_map(pages).skip(1)
}

/// Describes a piece: its two pointers, and what does not fit there as a list at an offset in
/// memory that has room for it.
pub fn write(segments: &[Segment], lists: &Dma, at: usize) -> [u64; 2] {
    let first = segments.first().map_or(0, |segment| segment.address);
    let mut pages = rest(segments);
    let (Some(second), third) = (pages.next(), pages.next()) else {
        return [first, 0];
    };
    let Some(third) = third else {
        return [first, second];
    };
    for (n, page) in [second, third].into_iter().chain(pages).enumerate() {
        lists.store64(at + 8 * n, page, Ordering::Relaxed);
    }
    [first, lists.address(at)]
}
