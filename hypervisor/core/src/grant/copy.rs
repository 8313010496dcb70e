//! Using grants without mapping them: `GNTTABOP_copy`, and what it shares with
//! [the hypervisor's own backends](super::backend).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::active::{Active, Pins};
use super::entry::{Entry, Header, Use};
use super::{GrantError, GrantHost, GrantTable, State, Version, status};
use crate::addr::{Mfn, PAGE_SIZE};
use crate::error::{Error, Result};
use crate::ids::{DomainId, GrantRef};
use xen_abi::grant_table::*;

type GrantResult<T> = core::result::Result<T, GrantError>;

/// Why a grant could not be used.
pub(super) enum Failure {
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
pub(super) struct Extent {
    pub(super) mfn: Mfn,
    pub(super) start: u16,
    pub(super) length: u16,
}

impl Extent {
    fn of(active: &Active) -> Self {
        Self {
            mfn: active.mfn,
            start: active.start,
            length: active.length,
        }
    }

    /// Whether so many bytes from an offset in the frame are granted. The guest set the
    /// bounds, and nobody checked them.
    #[inline]
    pub(super) fn allows(&self, offset: usize, length: usize) -> bool {
        let Some(end) = offset.checked_add(length) else {
            return false;
        };
        let start = usize::from(self.start);
        end <= PAGE_SIZE && offset >= start && end <= start + usize::from(self.length)
    }
}

/// Why a grant was not pinned at once.
pub(super) enum NotPinned {
    /// It cannot be. A reference to the frame is to be put, without locks.
    Refused(GrantError, Option<Mfn>),
    /// It leads to another, and was marked as in use.
    Leads {
        /// As it was.
        active: Active,
        domain: DomainId,
        reference: GrantRef,
    },
}

impl From<GrantError> for NotPinned {
    fn from(error: GrantError) -> Self {
        Self::Refused(error, None)
    }
}

pub(super) fn put_refused<H: GrantHost>(host: &H, page: Option<Mfn>) {
    if let Some(mfn) = page {
        host.put_page(mfn);
    }
}

/// A grant that is pinned for copying. Must be released.
pub(super) struct Pinned {
    table: Arc<GrantTable>,
    reference: GrantRef,
    pub(super) readonly: bool,
    /// For a transitive grant, the one that it leads to, pinned as well.
    via: Option<(Arc<GrantTable>, GrantRef)>,
}

impl Pinned {
    /// The domain whose frame it is.
    pub(super) fn owner(&self) -> DomainId {
        self.via
            .as_ref()
            .map_or(self.table.domain, |(table, _)| table.domain)
    }

    pub(super) fn release<H: GrantHost>(self, host: &H) {
        self.table.unpin_copy(host, self.reference, self.readonly);
        if let Some((table, reference)) = self.via {
            table.unpin_copy(host, reference, self.readonly);
        }
    }
}

impl GrantTable {
    /// Removes the pin of a copy. References were given back before.
    fn unpin_copy<H: GrantHost>(&self, host: &H, reference: GrantRef, readonly: bool) {
        self.unpin_copy_in(&self.state.read(), host, reference, readonly);
    }

    /// [`Self::unpin_copy`], where the table's lock is held.
    #[inline]
    pub(super) fn unpin_copy_in<H: GrantHost>(
        &self,
        state: &State,
        host: &H,
        reference: GrantRef,
        readonly: bool,
    ) {
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
    pub(super) fn pin_for_copy<H: GrantHost>(
        self: &Arc<Self>,
        host: &H,
        reference: GrantRef,
        grantee: DomainId,
        readonly: bool,
        allow_transitive: bool,
    ) -> core::result::Result<(Extent, Pinned), Failure> {
        let want = Use {
            grantee,
            readonly,
            mapping: false,
        };
        let pinned = {
            let state = self.state.read();
            self.pin_in(&state, host, reference, want, allow_transitive)
        };
        match pinned {
            Ok(extent) => Ok((
                extent,
                Pinned {
                    table: self.clone(),
                    reference,
                    readonly,
                    via: None,
                },
            )),
            Err(NotPinned::Leads {
                active,
                domain,
                reference: next,
            }) => self.pin_through(host, reference, want, &active, domain, next),
            Err(NotPinned::Refused(error, page)) => {
                put_refused(host, page);
                Err(error.into())
            }
        }
    }

    /// [`Self::pin_for_copy`], where the table's lock is held; of a transitive grant
    /// only the beginning.
    #[inline]
    pub(super) fn pin_in<H: GrantHost>(
        &self,
        state: &State,
        host: &H,
        reference: GrantRef,
        want: Use,
        allow_transitive: bool,
    ) -> core::result::Result<Extent, NotPinned> {
        let readonly = want.readonly;
        let entry = state.entry(host, reference).ok_or(GrantError::BadRef)?;
        let lock = state.active(reference).ok_or(GrantError::BadRef)?;
        let mut active = lock.lock();
        let pins = Pins::of_copy(readonly);
        active.check_pin(want.grantee, pins)?;
        if let Entry::V2 { .. } = entry {
            let header = entry.header();
            if header.kind() == GTF_TRANSITIVE {
                return Err(self.begin_transitive(&active, entry, header, want, allow_transitive));
            }
        }
        if !active.needs_status(readonly) {
            if !host.get_page(self.domain, active.mfn) {
                // Not ours: the pin is a transitive one.
                entry.reduce_status(active.pins, readonly);
                return Err(GrantError::BadDomain.into());
            }
            if self.is_dying() {
                entry.reduce_status(active.pins, readonly);
                return Err(NotPinned::Refused(GrantError::BadDomain, Some(active.mfn)));
            }
            active.pins.add(pins);
            return Ok(Extent::of(&active));
        }
        let header = entry.acquire(!active.pins.is_empty(), want)?;
        let refused = |error, page| {
            entry.reduce_status(active.pins, readonly);
            Err(NotPinned::Refused(error, page))
        };
        let is_sub_page = !entry.is_v1() && header.flags() & GTF_SUB_PAGE != 0;
        let mfn = Mfn(if entry.is_v1() {
            header.v1_frame()
        } else {
            entry.second_word()
        });
        let (start, length) = if is_sub_page {
            (header.third(), header.length())
        } else {
            (0, PAGE_SIZE as u16)
        };
        let granted = Extent { mfn, start, length };
        // Version 2 may have become transitive since we looked first.
        if active.pins.is_empty() && header.kind() != GTF_PERMIT_ACCESS {
            return refused(GrantError::General, None);
        }
        if !host.get_page(self.domain, mfn) {
            return refused(GrantError::BadPage, None);
        }
        if active.pins.is_empty() {
            active.grantee = want.grantee;
            active.mfn = mfn;
            active.start = start;
            active.length = length;
            active.is_sub_page = is_sub_page;
            active.trans_domain = self.domain;
            active.trans_ref = reference;
            if is_sub_page {
                self.v2_ops.fetch_add(1, Ordering::SeqCst);
            }
        } else if active.mfn != mfn
            || active.trans_domain != self.domain
            || active.trans_ref != reference
            || (active.is_sub_page && (!is_sub_page || Extent::of(&active) != granted))
        {
            return refused(GrantError::General, Some(mfn));
        }
        active.pins.add(pins);
        Ok(Extent::of(&active))
    }

    /// [`Self::pin_in`] of a whole frame by an entry of version 1 that nobody uses yet, as most
    /// are. `None` if it is none of these, or cannot be: nothing is changed then.
    #[inline(always)]
    pub(super) fn pin_unused<H: GrantHost>(
        &self,
        state: &State,
        host: &H,
        reference: GrantRef,
        want: Use,
    ) -> Option<Extent> {
        let (entry, lock) = state.entry_v1(host, reference)?;
        let mut active = lock.lock();
        if !active.pins.is_empty() {
            return None;
        }
        let header = entry.acquire(false, want).ok()?;
        let mfn = Mfn(header.v1_frame());
        if !host.get_page(self.domain, mfn) {
            entry.reduce_status(active.pins, want.readonly);
            return None;
        }
        *active = Active {
            pins: Pins::of_copy(want.readonly),
            grantee: want.grantee,
            mfn,
            start: 0,
            length: PAGE_SIZE as u16,
            is_sub_page: false,
            trans_domain: self.domain,
            trans_ref: reference,
        };
        Some(Extent::of(&active))
    }

    /// Undoes [`Self::pin_unused`] where nobody else uses the entry; `false` if somebody does,
    /// or it is of another kind: nothing is changed then.
    #[inline(always)]
    pub(super) fn unpin_only<H: GrantHost>(
        &self,
        state: &State,
        host: &H,
        reference: GrantRef,
        readonly: bool,
    ) -> bool {
        let Some((entry, lock)) = state.entry_v1(host, reference) else {
            return false;
        };
        let mut active = lock.lock();
        if active.pins != Pins::of_copy(readonly) || active.is_sub_page {
            return false;
        }
        active.pins = Pins::default();
        entry.reduce_status(active.pins, readonly);
        true
    }

    /// Marks a transitive grant as in use. The other table has its own locks, so ours are given
    /// up before it is looked at; that something is under way keeps the version as it is.
    #[cold]
    fn begin_transitive(
        &self,
        active: &Active,
        entry: Entry<'_>,
        header: Header,
        want: Use,
        allowed: bool,
    ) -> NotPinned {
        if active.needs_status(want.readonly)
            && let Err(error) = entry.acquire(!active.pins.is_empty(), want)
        {
            return error.into();
        }
        let domain = DomainId(header.third());
        if !allowed || domain == self.domain {
            entry.reduce_status(active.pins, want.readonly);
            return GrantError::General.into();
        }
        self.v2_ops.fetch_add(1, Ordering::SeqCst);
        NotPinned::Leads {
            active: *active,
            domain,
            reference: GrantRef(entry.second_word() as u32),
        }
    }

    /// The rest of [`Self::pin_for_copy`] for a transitive grant: pins the grant
    /// that it leads to, and then our own if it is still as it was.
    fn pin_through<H: GrantHost>(
        self: &Arc<Self>,
        host: &H,
        reference: GrantRef,
        want: Use,
        old: &Active,
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
        if !from.allows(from_offset, length) || !to.allows(to_offset, length) {
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
