//! Grant entries as the guest sees them, in both versions (grant_table.h).
//!
//! Version 1: one 64-bit word, flags in bits 0 to 15, grantee in 16 to 31,
//! frame in 32 to 63; the status bits are among the flags. Version 2: two
//! words, the second the frame (or the reference of a transitive grant), and
//! 16 bits of status in another page.
//!
//! The guest may write all of it at any time. Each word is read once for each
//! decision, and loops are bounded.

use core::sync::atomic::{AtomicU64, Ordering};

use super::GrantError;
use super::active::Pins;
use crate::ids::DomainId;
use xen_abi::grant_table::{
    GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_SUB_PAGE, GTF_TRANSITIVE, GTF_TYPE_MASK,
    GTF_WRITING,
};

/// How often an entry of version 1 may change under our hands before we give up.
const TRIES: u32 = 5;

/// The first word of an entry, as it was read at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header(pub(super) u64);

impl Header {
    pub(super) const fn flags(self) -> u16 {
        self.0 as u16
    }

    pub(super) const fn kind(self) -> u16 {
        self.flags() & GTF_TYPE_MASK
    }

    pub(super) const fn grantee(self) -> DomainId {
        DomainId((self.0 >> 16) as u16)
    }

    /// Version 1: the frame.
    pub(super) const fn v1_frame(self) -> u64 {
        self.0 >> 32
    }

    /// Version 2, sub-page: the offset of the first byte. Transitive: the domain.
    pub(super) const fn third(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// Version 2, sub-page: the length in bytes.
    pub(super) const fn length(self) -> u16 {
        (self.0 >> 48) as u16
    }

    const fn is_readonly(self) -> bool {
        self.flags() & GTF_READONLY != 0
    }
}

/// An entry in the pages that are shared with the guest.
#[derive(Clone, Copy)]
pub(super) enum Entry<'m> {
    V1(&'m AtomicU64),
    V2 {
        header: &'m AtomicU64,
        frame: &'m AtomicU64,
        /// The word of the status page, and where in it the 16 bits are.
        status: &'m AtomicU64,
        shift: u32,
    },
}

/// Who wants to use an entry, and how.
#[derive(Clone, Copy)]
pub(super) struct Use {
    pub(super) grantee: DomainId,
    pub(super) readonly: bool,
    /// To map it; else to copy.
    pub(super) mapping: bool,
}

impl<'m> Entry<'m> {
    /// The word with the flags and the domain.
    pub(super) fn first_word(&self) -> &'m AtomicU64 {
        match self {
            Self::V1(word) | Self::V2 { header: word, .. } => word,
        }
    }

    /// Puts a frame into the entry; gives the one that was there. Only the low
    /// 32 bits fit into version 1.
    pub(super) fn put_frame(&self, mfn: crate::addr::Mfn) -> u64 {
        match self {
            Self::V1(word) => {
                let put = |old: u64| Some(old & 0xffff_ffff | mfn.0 << 32);
                let old = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, put);
                old.unwrap_or_else(|old| old) >> 32
            }
            Self::V2 { frame, .. } => frame.swap(mfn.0, Ordering::SeqCst),
        }
    }

    pub(super) fn is_v1(&self) -> bool {
        matches!(self, Self::V1(_))
    }

    pub(super) fn header(&self) -> Header {
        match self {
            Self::V1(word) | Self::V2 { header: word, .. } => Header(word.load(Ordering::SeqCst)),
        }
    }

    /// Version 2: the second word. Of version 1 there is none: 0.
    pub(super) fn second_word(&self) -> u64 {
        match self {
            Self::V1(_) => 0,
            Self::V2 { frame, .. } => frame.load(Ordering::SeqCst),
        }
    }

    /// Sets bits of the status (`GTF_reading`, `GTF_writing`).
    fn set_status_bits(&self, bits: u16) {
        match self {
            Self::V1(word) => word.fetch_or(u64::from(bits), Ordering::SeqCst),
            Self::V2 { status, shift, .. } => {
                status.fetch_or(u64::from(bits) << shift, Ordering::SeqCst)
            }
        };
    }

    pub(super) fn clear_status_bits(&self, bits: u16) {
        match self {
            Self::V1(word) => word.fetch_and(!u64::from(bits), Ordering::SeqCst),
            Self::V2 { status, shift, .. } => {
                status.fetch_and(!(u64::from(bits) << shift), Ordering::SeqCst)
            }
        };
    }

    /// The status bits.
    pub(super) fn status_bits(&self) -> u16 {
        match self {
            Self::V1(word) => word.load(Ordering::SeqCst) as u16,
            Self::V2 { status, shift, .. } => (status.load(Ordering::SeqCst) >> shift) as u16,
        }
    }

    /// Marks the entry as in use, after checking that the guest grants that.
    /// What is in use already (`pinned`) was checked before, but for writing.
    /// Gives the header that was found good.
    #[inline]
    pub(super) fn acquire(&self, pinned: bool, want: Use) -> Result<Header, GrantError> {
        match self {
            Self::V1(word) => Self::acquire_v1(word, pinned, want),
            Self::V2 { .. } => self.acquire_v2(pinned, want),
        }
    }

    #[inline]
    fn acquire_v1(word: &AtomicU64, pinned: bool, want: Use) -> Result<Header, GrantError> {
        let mask = if want.mapping {
            GTF_TYPE_MASK | GTF_SUB_PAGE
        } else {
            GTF_TYPE_MASK
        };
        let mut now = Header(word.load(Ordering::SeqCst));
        for _ in 0..TRIES {
            if !pinned && (now.flags() & mask != GTF_PERMIT_ACCESS || now.grantee() != want.grantee)
            {
                return Err(GrantError::General);
            }
            let mut bits = GTF_READING;
            if !want.readonly {
                if now.is_readonly() {
                    return Err(GrantError::General);
                }
                bits |= GTF_WRITING;
            }
            let new = now.0 | u64::from(bits);
            match word.compare_exchange(now.0, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Ok(Header(new)),
                Err(changed) => now = Header(changed),
            }
        }
        Err(GrantError::General)
    }

    fn acquire_v2(&self, pinned: bool, want: Use) -> Result<Header, GrantError> {
        let granted = |header: Header| {
            let kind_ok = if want.mapping {
                header.flags() & (GTF_TYPE_MASK | GTF_SUB_PAGE) == GTF_PERMIT_ACCESS
            } else {
                matches!(header.kind(), GTF_PERMIT_ACCESS | GTF_TRANSITIVE)
            };
            kind_ok && header.grantee() == want.grantee
        };
        let first = self.header();
        if (!pinned && !granted(first)) || (!want.readonly && first.is_readonly()) {
            return Err(GrantError::General);
        }
        self.set_status_bits(if want.readonly {
            GTF_READING
        } else {
            GTF_READING | GTF_WRITING
        });
        // The guest takes a grant back by clearing the flags and then looking at
        // the status, so we set the status and then look at the flags again.
        let second = self.header();
        if !pinned {
            if !granted(second) || (!want.readonly && second.is_readonly()) {
                self.clear_status_bits(GTF_READING | GTF_WRITING);
                return Err(GrantError::General);
            }
        } else if !want.readonly && second.is_readonly() {
            self.clear_status_bits(GTF_WRITING);
            return Err(GrantError::General);
        }
        Ok(second)
    }

    /// Clears what the status says beyond the uses that are left.
    pub(super) fn reduce_status(&self, left: Pins, readonly: bool) {
        let mut clear = 0;
        if left.is_empty() {
            clear |= GTF_READING;
        }
        if !readonly && !left.is_writable() {
            clear |= GTF_WRITING;
        }
        if clear != 0 {
            self.clear_status_bits(clear);
        }
    }
}

impl Entry<'_> {
    /// Exchanges the contents of two entries of one table.
    pub(super) fn swap(&self, other: &Self) {
        fn swap_words(a: &AtomicU64, b: &AtomicU64) {
            let old = a.load(Ordering::SeqCst);
            a.store(b.swap(old, Ordering::SeqCst), Ordering::SeqCst);
        }
        match (self, other) {
            (Self::V1(a), Self::V1(b)) => swap_words(a, b),
            (
                Self::V2 {
                    header: header_a,
                    frame: frame_a,
                    ..
                },
                Self::V2 {
                    header: header_b,
                    frame: frame_b,
                    ..
                },
            ) => {
                swap_words(frame_a, frame_b);
                swap_words(header_a, header_b);
                let (a, b) = (self.status_bits(), other.status_bits());
                self.clear_status_bits(u16::MAX);
                self.set_status_bits(b);
                other.clear_status_bits(u16::MAX);
                other.set_status_bits(a);
            }
            _ => {}
        }
    }
}
