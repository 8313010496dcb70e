//! What the hypervisor knows of a grant entry that is in use: an active entry.

use super::GrantError;
use crate::addr::Mfn;
use crate::ids::{DomainId, GrantRef};
use xen_abi::grant_table::{GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP, GNTMAP_READONLY};

/// Counts of the uses of a grant entry, 0 to 255 each: writable and read-only,
/// by CPUs (copies and backends included) and by devices.
///
/// A count from 128 on refuses more, so that adding up to one to each of two
/// counts never carries.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Pins(u32);

impl Pins {
    const HOST_WRITABLE: u32 = 1;
    const HOST_READ_ONLY: u32 = 1 << 8;
    const DEVICE_WRITABLE: u32 = 1 << 16;
    const DEVICE_READ_ONLY: u32 = 1 << 24;
    const ANY_WRITABLE: u32 = 0x00ff_00ff;

    /// What a mapping with these `GNTMAP_*` flags counts as.
    pub(super) fn of_mapping(flags: u32) -> Self {
        let readonly = flags & GNTMAP_READONLY != 0;
        let mut pins = 0;
        if flags & GNTMAP_DEVICE_MAP != 0 {
            pins += if readonly {
                Self::DEVICE_READ_ONLY
            } else {
                Self::DEVICE_WRITABLE
            };
        }
        if flags & GNTMAP_HOST_MAP != 0 {
            pins += if readonly {
                Self::HOST_READ_ONLY
            } else {
                Self::HOST_WRITABLE
            };
        }
        Self(pins)
    }

    /// What a copy counts as.
    pub(super) const fn of_copy(readonly: bool) -> Self {
        Self(if readonly {
            Self::HOST_READ_ONLY
        } else {
            Self::HOST_WRITABLE
        })
    }

    /// Whether nothing is counted.
    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether any use is writable.
    pub(super) const fn is_writable(self) -> bool {
        self.0 & Self::ANY_WRITABLE != 0
    }

    /// Whether a count that `more` adds to is full.
    pub(super) const fn would_overflow(self, more: Self) -> bool {
        self.0 & (more.0 << 7) != 0
    }

    /// Adds what was found not to overflow.
    pub(super) fn add(&mut self, more: Self) {
        self.0 = self.0.wrapping_add(more.0);
    }

    /// Takes away what was added before.
    pub(super) fn remove(&mut self, less: Self) {
        debug_assert!(
            (0..32)
                .step_by(8)
                .all(|s| self.0 >> s & 0xff >= less.0 >> s & 0xff)
        );
        self.0 = self.0.wrapping_sub(less.0);
    }

    /// The counts as Xen prints them.
    pub(super) const fn raw(self) -> u32 {
        self.0
    }
}

/// The state of a grant entry in use. While `pins` is not empty, the rest says
/// what was granted when it was pinned first, whatever the guest has
/// written into the shared entry since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active {
    pub(super) pins: Pins,
    /// Who uses it.
    pub(super) grantee: DomainId,
    /// The frame that is granted.
    pub(super) mfn: Mfn,
    /// First byte in the frame.
    pub(super) start: u16,
    /// Bytes from there.
    pub(super) length: u16,
    /// Not a whole frame, or a transitive grant: may be copied, not mapped.
    pub(super) is_sub_page: bool,
    /// The domain whose frame it is: another one for a transitive grant.
    pub(super) trans_domain: DomainId,
    /// The entry in that domain's table.
    pub(super) trans_ref: GrantRef,
}

impl Active {
    pub(super) const UNUSED: Self = Self {
        pins: Pins(0),
        grantee: DomainId::INVALID,
        mfn: Mfn(u64::MAX),
        start: 0,
        length: 0,
        is_sub_page: false,
        trans_domain: DomainId::INVALID,
        trans_ref: GrantRef(0),
    };

    /// Whether `grantee` may add `pins` to what there is.
    pub(super) fn check_pin(&self, grantee: DomainId, pins: Pins) -> Result<(), GrantError> {
        if !self.pins.is_empty() && (self.grantee != grantee || self.pins.would_overflow(pins)) {
            return Err(GrantError::General);
        }
        Ok(())
    }

    /// Whether adding a use needs the guest's entry to be looked at and marked:
    /// the first of all, or the first writable one.
    pub(super) fn needs_status(&self, readonly: bool) -> bool {
        self.pins.is_empty() || (!readonly && !self.pins.is_writable())
    }
}
