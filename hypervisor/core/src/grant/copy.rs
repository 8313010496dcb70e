//! Using grants without mapping them: `GNTTABOP_copy`, and the hypervisor's
//! own backends.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::active::Pins;
use super::entry::Use;
use super::{GrantError, GrantHost, GrantTable, State, Version, status};
use crate::addr::{Mfn, PAGE_SIZE};
use crate::error::{Error, Result};
use crate::ids::{DomainId, GrantRef};
use xen_abi::grant_table::*;

type GrantResult<T> = core::result::Result<T, GrantError>;

/// Why a grant could not be used.
enum Failure {
    Grant(GrantError),
    /// It changed while we looked: try again.
    Restart,
}

impl From<GrantError> for Failure {
    fn from(error: GrantError) -> Self {
        Self::Grant(error)
    }
}

/// Bytes of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Extent {
    mfn: Mfn,
    start: u16,
    length: u16,
}

/// A grant that is pinned for copying. Must be released.
struct Pinned {
    table: Arc<GrantTable>,
    reference: GrantRef,
    readonly: bool,
    /// For a transitive grant, the one that it leads to, pinned as well.
    via: Option<(Arc<GrantTable>, GrantRef)>,
}

impl Pinned {
    /// The domain whose frame it is.
    fn owner(&self) -> DomainId {
        self.via
            .as_ref()
            .map_or(self.table.domain, |(table, _)| table.domain)
    }

    fn release<H: GrantHost>(self, host: &H) {
        self.table.unpin_copy(host, self.reference, self.readonly);
        if let Some((table, reference)) = self.via {
            table.unpin_copy(host, reference, self.readonly);
        }
    }
}

impl GrantTable {
    /// Removes the pin of a copy. References were given back before.
    fn unpin_copy<H: GrantHost>(&self, host: &H, reference: GrantRef, readonly: bool) {
        let state = self.state.read();
        let Some(active) = state.active(reference) else {
            return;
        };
        let mut active = active.lock();
        active.pins.remove(Pins::of_copy(readonly));
        if let Some(entry) = state.entry(host, reference) {
            entry.reduce_status(active.pins, readonly);
        }
        if active.pins.is_empty() && active.is_sub_page {
            self.v2_ops.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Pins one of this table's grants for `grantee` to read or write, and takes
    /// a reference to its frame.
    fn pin_for_copy<H: GrantHost>(
        self: &Arc<Self>,
        host: &H,
        reference: GrantRef,
        grantee: DomainId,
        readonly: bool,
        allow_transitive: bool,
    ) -> core::result::Result<(Extent, Pinned), Failure> {
        let state = self.state.read();
        let entry = state.entry(host, reference).ok_or(GrantError::BadRef)?;
        let lock = state.active(reference).ok_or(GrantError::BadRef)?;
        let mut active = lock.lock();
        let pins = Pins::of_copy(readonly);
        active.check_pin(grantee, pins)?;
        let want = Use {
            grantee,
            readonly,
            mapping: false,
        };
        let header = entry.header();
        if !entry.is_v1() && header.kind() == GTF_TRANSITIVE {
            if active.needs_status(readonly) {
                entry.acquire(!active.pins.is_empty(), want)?;
            }
            let old = *active;
            let next_domain = DomainId(header.third());
            let next_ref = GrantRef(entry.second_word() as u32);
            if !allow_transitive || next_domain == self.domain {
                entry.reduce_status(active.pins, readonly);
                return Err(GrantError::General.into());
            }
            // The other table has its own locks, so ours are given up; that
            // something is under way keeps the version as it is.
            self.v2_ops.fetch_add(1, Ordering::SeqCst);
            drop(active);
            drop(state);
            return self.pin_through(host, reference, want, &old, next_domain, next_ref);
        }

        let mut extent = Extent {
            mfn: active.mfn,
            start: active.start,
            length: active.length,
        };
        if active.needs_status(readonly) {
            let header = entry.acquire(!active.pins.is_empty(), want)?;
            let fail = |error| {
                entry.reduce_status(active.pins, readonly);
                Failure::Grant(error)
            };
            let is_sub_page = !entry.is_v1() && header.flags() & GTF_SUB_PAGE != 0;
            let granted = if is_sub_page {
                Extent {
                    mfn: Mfn(entry.second_word()),
                    start: header.third(),
                    length: header.length(),
                }
            } else {
                Extent {
                    mfn: Mfn(if entry.is_v1() {
                        header.v1_frame()
                    } else {
                        entry.second_word()
                    }),
                    start: 0,
                    length: PAGE_SIZE as u16,
                }
            };
            // Version 2 may have become transitive since we looked first.
            if active.pins.is_empty() && header.kind() != GTF_PERMIT_ACCESS {
                return Err(fail(GrantError::General));
            }
            if !host.get_page(self.domain, granted.mfn) {
                return Err(fail(GrantError::BadPage));
            }
            if active.pins.is_empty() {
                active.grantee = grantee;
                active.mfn = granted.mfn;
                active.start = granted.start;
                active.length = granted.length;
                active.is_sub_page = is_sub_page;
                active.trans_domain = self.domain;
                active.trans_ref = reference;
                extent = granted;
                if is_sub_page {
                    self.v2_ops.fetch_add(1, Ordering::SeqCst);
                }
            } else if active.mfn != granted.mfn
                || active.trans_domain != self.domain
                || active.trans_ref != reference
                || (active.is_sub_page && (!is_sub_page || extent != granted))
            {
                let failure = fail(GrantError::General);
                drop(active);
                drop(state);
                host.put_page(granted.mfn);
                return Err(failure);
            }
        } else if !host.get_page(self.domain, active.mfn) {
            // Not ours: the pin is a transitive one.
            entry.reduce_status(active.pins, readonly);
            return Err(GrantError::BadDomain.into());
        } else if self.is_dying() {
            entry.reduce_status(active.pins, readonly);
            let mfn = active.mfn;
            drop(active);
            drop(state);
            host.put_page(mfn);
            return Err(GrantError::BadDomain.into());
        }
        active.pins.add(pins);
        Ok((
            extent,
            Pinned {
                table: self.clone(),
                reference,
                readonly,
                via: None,
            },
        ))
    }

    /// The rest of [`Self::pin_for_copy`] for a transitive grant: pins the grant
    /// that it leads to, and then our own if it is still as it was.
    fn pin_through<H: GrantHost>(
        self: &Arc<Self>,
        host: &H,
        reference: GrantRef,
        want: Use,
        old: &super::active::Active,
        next_domain: DomainId,
        next_ref: GrantRef,
    ) -> core::result::Result<(Extent, Pinned), Failure> {
        let readonly = want.readonly;
        let give_up = |failure| {
            let state: &State = &self.state.read();
            self.v2_ops.fetch_sub(1, Ordering::SeqCst);
            if let (Some(active), Some(entry)) =
                (state.active(reference), state.entry(host, reference))
            {
                entry.reduce_status(active.lock().pins, readonly);
            }
            Err(failure)
        };
        let Some(next) = host.grant_table(next_domain) else {
            return give_up(GrantError::General.into());
        };
        // No more than one step, so the recursion ends here.
        let through = next.pin_for_copy(host, next_ref, self.domain, readonly, false);
        let (extent, next_pinned) = match through {
            Ok(through) => through,
            Err(failure) => return give_up(failure),
        };
        {
            let state = self.state.read();
            if let Some(active) = state.active(reference)
                && state.version == Version::V2
            {
                let mut active = active.lock();
                let unchanged = active.pins == old.pins
                    && (active.pins.is_empty()
                        || (active.grantee == want.grantee
                            && active.mfn == extent.mfn
                            && active.start == extent.start
                            && active.length == extent.length
                            && active.trans_domain == next.domain
                            && active.trans_ref == next_ref
                            && active.is_sub_page));
                if unchanged {
                    if active.pins.is_empty() {
                        active.grantee = want.grantee;
                        active.mfn = extent.mfn;
                        active.start = extent.start;
                        active.length = extent.length;
                        active.trans_domain = next.domain;
                        active.trans_ref = next_ref;
                        // Also if it leads to a whole frame: it cannot be mapped.
                        active.is_sub_page = true;
                    } else {
                        // The first pin is the one that counts as under way.
                        self.v2_ops.fetch_sub(1, Ordering::SeqCst);
                    }
                    active.pins.add(Pins::of_copy(readonly));
                    return Ok((
                        extent,
                        Pinned {
                            table: self.clone(),
                            reference,
                            readonly,
                            via: Some((next, next_ref)),
                        },
                    ));
                }
            }
        }
        host.put_page(extent.mfn);
        next_pinned.release(host);
        give_up(Failure::Restart)
    }

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
    ) -> GrantResult<BackendGrant<'h, H>> {
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
        let Some(end) = offset.checked_add(length) else {
            return false;
        };
        end <= PAGE_SIZE && offset >= self.offset() && end <= self.offset() + self.length()
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

/// What an end of a copy names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Grant(GrantRef),
    Frame(Mfn),
}

/// A frame that is held for copying. Must be given back.
struct Claim {
    target: Target,
    /// The domain whose frame it is.
    owner: DomainId,
    extent: Extent,
    pinned: Option<Pinned>,
    writable: bool,
}

impl Claim {
    fn release<H: GrantHost>(self, host: &H) {
        if self.writable {
            host.mark_dirty(self.owner, self.extent.mfn);
            host.put_writable_type(self.extent.mfn);
        }
        host.put_page(self.extent.mfn);
        if let Some(pinned) = self.pinned {
            pinned.release(host);
        }
    }
}

/// One end of a copy.
#[derive(Default)]
struct End {
    /// The domain that the operation named, and its table.
    domain: Option<(DomainId, Arc<GrantTable>)>,
    claim: Option<Claim>,
}

impl End {
    fn release<H: GrantHost>(&mut self, host: &H) {
        if let Some(claim) = self.claim.take() {
            claim.release(host);
        }
    }

    fn names(&self, domain: u16) -> bool {
        self.domain
            .as_ref()
            .is_some_and(|(named, _)| named.0 == domain)
    }
}

/// A run of `GNTTABOP_copy` operations of one hypercall, which keeps the frames
/// of an operation for the next one. Dropping it gives them back.
pub struct CopySession<'h, H: GrantHost> {
    host: &'h H,
    caller: Arc<GrantTable>,
    source: End,
    dest: End,
}

impl<'h, H: GrantHost> CopySession<'h, H> {
    /// A run of operations of the domain whose table is given.
    pub fn new(host: &'h H, caller: &Arc<GrantTable>) -> Self {
        Self {
            host,
            caller: caller.clone(),
            source: End::default(),
            dest: End::default(),
        }
    }

    /// One operation; sets its `status`. `Restart`: it was not done, and is to
    /// be made again in a continuation of the hypercall.
    pub fn copy(&mut self, op: &mut GnttabCopy) -> Result<()> {
        let result = match self.copy_one(op) {
            Ok(()) => Ok(()),
            Err(Failure::Grant(error)) => {
                self.source.release(self.host);
                self.dest.release(self.host);
                Err(error)
            }
            Err(Failure::Restart) => return Err(Error::Restart),
        };
        op.status = status(result);
        Ok(())
    }

    fn find(&self, ptr: &GnttabCopyPtr, by_ref: bool) -> GrantResult<(DomainId, Arc<GrantTable>)> {
        let domain = DomainId(ptr.domid);
        let table = self
            .caller
            .resolve(self.host, domain)
            .ok_or(GrantError::BadDomain)?;
        // Frames of others, and even one's own by number, are to be named by their grants.
        if domain != DomainId::SELF && !by_ref {
            return Err(GrantError::PermissionDenied);
        }
        Ok((domain, table))
    }

    fn copy_one(&mut self, op: &GnttabCopy) -> core::result::Result<(), Failure> {
        let source_by_ref = op.flags & GNTCOPY_SOURCE_GREF != 0;
        let dest_by_ref = op.flags & GNTCOPY_DEST_GREF != 0;
        if !self.source.names(op.source.domid) || !self.dest.names(op.dest.domid) {
            for end in [&mut self.source, &mut self.dest] {
                end.release(self.host);
                end.domain = None;
            }
            let source = self.find(&op.source, source_by_ref)?;
            self.dest.domain = Some(self.find(&op.dest, dest_by_ref)?);
            self.source.domain = Some(source);
        }
        let (host, caller) = (self.host, &self.caller);
        let from = claim(
            host,
            caller,
            &mut self.source,
            &op.source,
            source_by_ref,
            true,
        )?;
        let to = claim(host, caller, &mut self.dest, &op.dest, dest_by_ref, false)?;

        let length = usize::from(op.len);
        let (from_offset, to_offset) = (usize::from(op.source.offset), usize::from(op.dest.offset));
        if from_offset + length > PAGE_SIZE || to_offset + length > PAGE_SIZE {
            return Err(GrantError::BadCopyArgument.into());
        }
        if !within(from, from_offset, length) || !within(to, to_offset, length) {
            return Err(GrantError::General.into());
        }
        let (Some(source), Some(dest)) = (host.frame(from.mfn), host.frame(to.mfn)) else {
            return Err(GrantError::BadPage.into());
        };
        let mut buffer = [0; 512];
        let mut done = 0;
        while done < length {
            let step = (length - done).min(buffer.len());
            let Some(part) = buffer.get_mut(..step) else {
                break;
            };
            source.read(from_offset + done, part);
            dest.write(to_offset + done, part);
            done += step;
        }
        Ok(())
    }
}

fn within(extent: Extent, offset: usize, length: usize) -> bool {
    let start = usize::from(extent.start);
    offset >= start && offset + length <= start + usize::from(extent.length)
}

/// Holds what an end of an operation names, if it is not held already.
fn claim<H: GrantHost>(
    host: &H,
    caller: &Arc<GrantTable>,
    end: &mut End,
    ptr: &GnttabCopyPtr,
    by_ref: bool,
    readonly: bool,
) -> core::result::Result<Extent, Failure> {
    let target = if by_ref {
        Target::Grant(GrantRef(ptr.u as u32))
    } else {
        Target::Frame(Mfn(ptr.u))
    };
    if let Some(claim) = &end.claim
        && claim.target == target
    {
        return Ok(claim.extent);
    }
    end.release(host);
    let (named, table) = end.domain.as_ref().ok_or(GrantError::BadDomain)?;
    let (extent, pinned) = match target {
        Target::Grant(reference) => {
            let (extent, pinned) =
                table.pin_for_copy(host, reference, caller.domain, readonly, true)?;
            (extent, Some(pinned))
        }
        Target::Frame(mfn) => {
            // The ends are looked up again only when a domain changes, and how
            // they are named may change with each operation.
            if *named != DomainId::SELF {
                return Err(GrantError::PermissionDenied.into());
            }
            if !host.get_page(table.domain, mfn) {
                return Err(GrantError::BadPage.into());
            }
            let extent = Extent {
                mfn,
                start: 0,
                length: PAGE_SIZE as u16,
            };
            (extent, None)
        }
    };
    let mut claim = Claim {
        target,
        owner: pinned.as_ref().map_or(table.domain, Pinned::owner),
        extent,
        pinned,
        writable: false,
    };
    if !readonly {
        if !host.get_writable_type(extent.mfn) {
            claim.release(host);
            return Err(GrantError::General.into());
        }
        claim.writable = true;
    }
    end.claim = Some(claim);
    Ok(extent)
}

impl<H: GrantHost> Drop for CopySession<'_, H> {
    fn drop(&mut self) {
        self.source.release(self.host);
        self.dest.release(self.host);
    }
}
