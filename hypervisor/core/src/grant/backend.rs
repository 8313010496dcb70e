//! Grants that backends in the hypervisor use: frames that devices read and write in place.
//!
//! # Invariants
//!
//! - For as long as a grant is in use, its entry is pinned, its frame has a reference, and, unless it
//!   is for reading, one of the writable type: a device never writes a page table.
//! - References are given back before the pin, and so before the guest can see that the use ended.
//! - [`BackendGrants`] hold all grants of a request or none. The table's lock is taken once to pin
//!   them and once to unpin them, and never while a reference is dropped, memory is allocated or a
//!   TLB flush is waited for. How long it is held is bounded by the segments of a request.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::copy::{Extent, Failure, NotPinned, Pinned, put_refused};
use super::entry::Use;
use super::{GrantError, GrantHost, GrantTable};
use crate::addr::Mfn;
use crate::ids::{DomainId, GrantRef};

/// Room that [`BackendGrants`] keep between requests, frames.
const KEEP: usize = 64;

impl GrantTable {
    /// Pins a grant of this table for a backend in the hypervisor that acts for
    /// `grantee`, without mapping it anywhere: the frame can be used through the
    /// direct map, or by a device, until the guard is dropped. Sub-page grants are allowed.
    ///
    /// Errors as for a copy: `BadRef`, `General` not granted, `BadPage`.
    pub fn map_for_backend<'h, H: GrantHost>(
        self: &Arc<Self>,
        host: &'h H,
        grantee: DomainId,
        reference: GrantRef,
        readonly: bool,
    ) -> Result<BackendGrant<'h, H>, GrantError> {
        let (extent, pinned) = self
            .pin_for_copy(host, reference, grantee, readonly, false)
            .map_err(|failure| match failure {
                Failure::Grant(error) => error,
                Failure::Restart => GrantError::Again,
            })?;
        if !readonly && !host.get_writable_type(extent.mfn) {
            host.put_page(extent.mfn);
            pinned.release(host);
            return Err(GrantError::General);
        }
        Ok(BackendGrant {
            host,
            extent,
            pinned: Some(pinned),
        })
    }
}

/// A grant in use by a backend in the hypervisor. Dropping it ends the use, so it must
/// live as long as a device may touch the frame.
pub struct BackendGrant<'h, H: GrantHost> {
    host: &'h H,
    extent: Extent,
    /// `Some` until dropped.
    pinned: Option<Pinned>,
}

impl<H: GrantHost> BackendGrant<'_, H> {
    /// The frame.
    pub fn mfn(&self) -> Mfn {
        self.extent.mfn
    }

    /// First byte in the frame that is granted. Set by the guest, unchecked: only
    /// [`Self::allows`] says what may be touched.
    pub fn offset(&self) -> usize {
        usize::from(self.extent.start)
    }

    /// Bytes granted from there; with the offset possibly beyond the frame.
    pub fn length(&self) -> usize {
        usize::from(self.extent.length)
    }

    /// Whether so many bytes from an offset in the frame are granted.
    pub fn allows(&self, offset: usize, length: usize) -> bool {
        self.extent.allows(offset, length)
    }
}

impl<H: GrantHost> Drop for BackendGrant<'_, H> {
    fn drop(&mut self) {
        if let Some(pinned) = self.pinned.take() {
            if !pinned.readonly {
                self.host.mark_dirty(pinned.owner(), self.extent.mfn);
                self.host.put_writable_type(self.extent.mfn);
            }
            self.host.put_page(self.extent.mfn);
            pinned.release(self.host);
        }
    }
}

/// A granted frame of [`BackendGrants`].
#[derive(Clone, Copy)]
pub struct GrantedFrame {
    extent: Extent,
    reference: GrantRef,
}

impl GrantedFrame {
    /// The frame.
    pub fn mfn(&self) -> Mfn {
        self.extent.mfn
    }

    /// Whether so many bytes from an offset in the frame are granted.
    #[inline]
    pub fn allows(&self, offset: usize, length: usize) -> bool {
        self.extent.allows(offset, length)
    }
}

/// The grants of one request, in use by a backend in the hypervisor: what [`BackendGrant`] is
/// for one, for many under one taking of the locks. All are for reading, or all for writing.
/// [`Self::clear`] and dropping end the use; the room for them is kept for the next request.
pub struct BackendGrants<'h, H: GrantHost> {
    host: &'h H,
    table: Arc<GrantTable>,
    grantee: DomainId,
    readonly: bool,
    frames: Vec<GrantedFrame>,
}

impl<'h, H: GrantHost> BackendGrants<'h, H> {
    /// None yet, of a table, for a backend that acts for `grantee`.
    pub fn new(host: &'h H, table: Arc<GrantTable>, grantee: DomainId) -> Self {
        Self {
            host,
            table,
            grantee,
            readonly: true,
            frames: Vec::new(),
        }
    }

    /// Ends the use of those before, and begins to use others: all, or none on failure, of
    /// which the first is named.
    ///
    /// Errors as of [`GrantTable::map_for_backend`], and `NoSpace`.
    pub fn map(
        &mut self,
        references: impl ExactSizeIterator<Item = GrantRef>,
        readonly: bool,
    ) -> core::result::Result<(), (GrantRef, GrantError)> {
        self.clear();
        self.readonly = readonly;
        // No allocation under the lock.
        if self.frames.try_reserve(references.len()).is_err() {
            return Err((GrantRef(0), GrantError::NoSpace));
        }
        let room = self.frames.capacity();
        let want = Use {
            grantee: self.grantee,
            readonly,
            mapping: false,
        };
        let mut refused = None;
        {
            let state = self.table.state.read();
            for reference in references.take(room) {
                if let Some(extent) = self.table.pin_unused(&state, self.host, reference, want) {
                    self.frames.push(GrantedFrame { extent, reference });
                    continue;
                }
                match self.table.pin_in(&state, self.host, reference, want, false) {
                    Ok(extent) => self.frames.push(GrantedFrame { extent, reference }),
                    Err(NotPinned::Refused(error, page)) => {
                        refused = Some((reference, error, page));
                        break;
                    }
                    // Not asked for.
                    Err(NotPinned::Leads { .. }) => {
                        refused = Some((reference, GrantError::General, None));
                        break;
                    }
                }
            }
        }
        if let Some((reference, error, page)) = refused {
            put_refused(self.host, page);
            self.give_back(0);
            return Err((reference, error));
        }
        if !readonly {
            // Not under the lock: CPUs may have to forget what the frame was before.
            let is_data = |frame: &GrantedFrame| self.host.get_writable_type(frame.mfn());
            if let Some(at) = self.frames.iter().position(|frame| !is_data(frame)) {
                let reference = self.frames.get(at).map_or(GrantRef(0), |f| f.reference);
                self.give_back(at);
                return Err((reference, GrantError::General));
            }
        }
        Ok(())
    }

    /// Those in use, in the order in which they were asked for.
    pub fn frames(&self) -> &[GrantedFrame] {
        &self.frames
    }

    /// Ends the use of all.
    pub fn clear(&mut self) {
        if !self.frames.is_empty() {
            self.give_back(if self.readonly { 0 } else { self.frames.len() });
        }
    }

    /// Gives all back, of which the first so many are held as writable.
    fn give_back(&mut self, writable: usize) {
        for frame in self.frames.iter().take(writable) {
            self.host.mark_dirty(self.table.domain, frame.mfn());
            self.host.put_writable_type(frame.mfn());
        }
        for frame in &self.frames {
            self.host.put_page(frame.mfn());
        }
        {
            let state = self.table.state.read();
            let (table, readonly) = (&self.table, self.readonly);
            for reference in self.frames.iter().map(|frame| frame.reference) {
                if !table.unpin_only(&state, self.host, reference, readonly) {
                    table.unpin_copy_in(&state, self.host, reference, readonly);
                }
            }
        }
        self.frames.clear();
        if self.frames.capacity() > KEEP {
            self.frames = Vec::new();
        }
    }
}

impl<H: GrantHost> Drop for BackendGrants<'_, H> {
    fn drop(&mut self) {
        self.clear();
    }
}
