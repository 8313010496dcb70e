//! Mapping grants: `GNTTABOP_map_grant_ref`, `unmap_grant_ref`,
//! `unmap_and_replace`, and the end of a domain that has mappings.

use alloc::sync::Arc;

use super::active::Pins;
use super::entry::Use;
use super::{
    GrantError, GrantHost, GrantTable, HostAddress, RESERVED_ENTRIES, UNMAP_BATCH, Version, status,
};
use crate::addr::{GuestVirtual, Mfn};
use crate::error::{Error, Result};
use crate::ids::{DomainId, GrantRef};
use crate::machine::Preempt;
use xen_abi::grant_table::*;

/// How many mappings of a dying domain are ended between two looks whether to stop.
const PREEMPT_INTERVAL: u32 = 64;

type GrantResult<T> = core::result::Result<T, GrantError>;

/// A grant that was pinned for a mapping.
struct Pinned {
    mfn: Mfn,
    /// The first pin took a reference to the frame.
    has_page: bool,
    version: Version,
}

/// What an unmapping is to do.
#[derive(Clone, Copy)]
struct Unmap {
    host_addr: u64,
    dev_bus_addr: u64,
    new_addr: u64,
    handle: u32,
}

/// An unmapping of which the references are to be given back, after the TLBs
/// were flushed.
struct Unmapped {
    granter: Arc<GrantTable>,
    reference: GrantRef,
    mfn: Mfn,
    /// `GNTMAP_*`: what was unmapped, and whether it was read-only.
    done: u32,
}

/// A run of unmappings of one hypercall, which share flushes of the TLBs: the
/// references are given back, and the grants unpinned, after each
/// [`UNMAP_BATCH`] of them and when this is dropped.
pub struct UnmapSession<'h, H: GrantHost> {
    host: &'h H,
    caller: Arc<GrantTable>,
    unmapped: [Option<Unmapped>; UNMAP_BATCH],
    /// Operations since the last flush.
    used: usize,
}

impl<H: GrantHost> UnmapSession<'_, H> {
    /// One `GNTTABOP_unmap_grant_ref`. Sets its `status`.
    pub fn unmap_grant_ref(&mut self, op: &mut GnttabUnmapGrantRef) {
        op.status = self.unmap(Unmap {
            host_addr: op.host_addr,
            dev_bus_addr: op.dev_bus_addr,
            new_addr: 0,
            handle: op.handle,
        });
    }

    /// One `GNTTABOP_unmap_and_replace`. Sets its `status`.
    pub fn unmap_and_replace(&mut self, op: &mut GnttabUnmapAndReplace) {
        op.status = self.unmap(Unmap {
            host_addr: op.host_addr,
            dev_bus_addr: 0,
            new_addr: op.new_addr,
            handle: op.handle,
        });
    }

    /// Whether a batch is complete, so that it is time to look whether to stop.
    pub fn is_flushed(&self) -> bool {
        self.used == 0
    }

    fn unmap(&mut self, op: Unmap) -> i16 {
        let mut unmapped = None;
        let status = status(self.caller.unmap(self.host, op, &mut unmapped));
        if let Some(slot) = self.unmapped.get_mut(self.used) {
            *slot = unmapped;
        }
        self.used += 1;
        if self.used == UNMAP_BATCH {
            self.complete();
        }
        status
    }

    fn complete(&mut self) {
        self.used = 0;
        let unmapped = core::mem::replace(&mut self.unmapped, [const { None }; UNMAP_BATCH]);
        self.caller.complete_unmaps(self.host, unmapped);
    }
}

impl<H: GrantHost> Drop for UnmapSession<'_, H> {
    fn drop(&mut self) {
        self.complete();
    }
}

/// How many references of each kind a mapping took.
#[derive(Default)]
struct References {
    pages: u32,
    types: u32,
}

impl References {
    fn put<H: GrantHost>(self, host: &H, mfn: Mfn) {
        for _ in 0..self.types {
            host.put_writable_type(mfn);
        }
        for _ in 0..self.pages {
            host.put_page(mfn);
        }
    }
}

impl GrantTable {
    /// `GNTTABOP_map_grant_ref`, one operation; this is the caller's table.
    /// Sets `status`, and on success `handle` and `dev_bus_addr`.
    pub fn map_grant_ref<H: GrantHost>(self: &Arc<Self>, host: &H, op: &mut GnttabMapGrantRef) {
        op.status = status(self.map(host, op).map(|(handle, mfn)| {
            op.handle = handle;
            op.dev_bus_addr = mfn.address().0;
        }));
    }

    fn map<H: GrantHost>(
        self: &Arc<Self>,
        host: &H,
        op: &GnttabMapGrantRef,
    ) -> GrantResult<(u32, Mfn)> {
        let pins = Pins::of_mapping(op.flags);
        if pins.is_empty() {
            return Err(GrantError::BadRef);
        }
        let granter = host
            .grant_table(DomainId(op.dom))
            .ok_or(GrantError::BadDomain)?;
        let handle = self.maptrack.lock().take().ok_or(GrantError::NoSpace)?;
        let reference = GrantRef(op.r#ref);
        let result = granter
            .pin_for_mapping(host, reference, self.domain, op.flags)
            .and_then(|pinned| {
                granter
                    .map_pinned(host, &pinned, op)
                    .inspect_err(|_| granter.unpin_mapping(host, reference, &pinned, op.flags))?;
                Ok(pinned.mfn)
            });
        match result {
            Ok(mfn) => {
                // The handle is good from here on; its guest may unmap at once.
                self.maptrack
                    .lock()
                    .set(handle, granter, reference, op.flags as u16);
                Ok((handle, mfn))
            }
            Err(error) => {
                self.maptrack.lock().put(handle);
                Err(error)
            }
        }
    }

    /// Pins one of this table's grants, for `grantee` to map it.
    fn pin_for_mapping<H: GrantHost>(
        &self,
        host: &H,
        reference: GrantRef,
        grantee: DomainId,
        flags: u32,
    ) -> GrantResult<Pinned> {
        let readonly = flags & GNTMAP_READONLY != 0;
        let pins = Pins::of_mapping(flags);
        let state = self.state.read();
        let entry = state.entry(host, reference).ok_or(GrantError::BadRef)?;
        let mut active = state.active(reference).ok_or(GrantError::BadRef)?.lock();
        active.check_pin(grantee, pins)?;
        if !active.pins.is_empty() && active.is_sub_page {
            return Err(GrantError::General);
        }
        let mut has_page = false;
        if active.needs_status(readonly) {
            let header = entry.acquire(
                !active.pins.is_empty(),
                Use {
                    grantee,
                    readonly,
                    mapping: true,
                },
            )?;
            if active.pins.is_empty() {
                let frame = if entry.is_v1() {
                    header.v1_frame()
                } else {
                    entry.second_word()
                };
                let mfn = Mfn(frame);
                if !host.get_page(self.domain, mfn) {
                    entry.reduce_status(active.pins, readonly);
                    return Err(GrantError::BadPage);
                }
                has_page = true;
                active.grantee = grantee;
                active.mfn = mfn;
                active.start = 0;
                active.length = crate::addr::PAGE_SIZE as u16;
                active.is_sub_page = false;
                active.trans_domain = self.domain;
                active.trans_ref = reference;
            }
        }
        active.pins.add(pins);
        Ok(Pinned {
            mfn: active.mfn,
            has_page,
            version: state.version,
        })
    }

    /// Undoes [`Self::pin_for_mapping`], after the references were given back.
    fn unpin_mapping<H: GrantHost>(
        &self,
        host: &H,
        reference: GrantRef,
        pinned: &Pinned,
        flags: u32,
    ) {
        let state = self.state.read();
        let Some(active) = state.active(reference) else {
            return;
        };
        let mut active = active.lock();
        active.pins.remove(Pins::of_mapping(flags));
        // A reserved entry may have been translated meanwhile; others cannot
        // have been while they were pinned, but be sure.
        if (state.version == pinned.version || reference.0 < RESERVED_ENTRIES)
            && let Some(entry) = state.entry(host, reference)
        {
            entry.reduce_status(active.pins, flags & GNTMAP_READONLY != 0);
        }
    }

    /// Takes the references for a mapping of a pinned grant of this table and
    /// writes the page-table entry. On failure gives back all of them, that
    /// of [`Self::pin_for_mapping`] included.
    fn map_pinned<H: GrantHost>(
        &self,
        host: &H,
        pinned: &Pinned,
        op: &GnttabMapGrantRef,
    ) -> GrantResult<()> {
        let mfn = pinned.mfn;
        let readonly = op.flags & GNTMAP_READONLY != 0;
        let mut taken = References {
            pages: u32::from(pinned.has_page),
            types: 0,
        };
        let result = (|| {
            if taken.pages == 0 {
                if !host.get_page(self.domain, mfn) {
                    return Err(GrantError::General);
                }
                taken.pages += 1;
            }
            if op.flags & GNTMAP_DEVICE_MAP != 0 && !readonly {
                if !host.get_writable_type(mfn) {
                    return Err(GrantError::General);
                }
                taken.types += 1;
            }
            if op.flags & GNTMAP_HOST_MAP != 0 {
                // The first reference is the device's, if it has a mapping too.
                if op.flags & GNTMAP_DEVICE_MAP != 0 {
                    if !host.get_page(self.domain, mfn) {
                        return Err(GrantError::General);
                    }
                    taken.pages += 1;
                }
                if !readonly {
                    if !host.get_writable_type(mfn) {
                        return Err(GrantError::General);
                    }
                    taken.types += 1;
                }
                let at = HostAddress::new(op.host_addr, op.flags);
                host.create_host_mapping(at, mfn, op.flags)?;
            }
            Ok(())
        })();
        if result.is_err() {
            taken.put(host, mfn);
        }
        result
    }

    /// A run of unmappings of one hypercall; this is the caller's table.
    pub fn unmap_session<'h, H: GrantHost>(self: &Arc<Self>, host: &'h H) -> UnmapSession<'h, H> {
        UnmapSession {
            host,
            caller: self.clone(),
            unmapped: [const { None }; UNMAP_BATCH],
            used: 0,
        }
    }

    /// `GNTTABOP_unmap_grant_ref` for each of some operations; this is the caller's table.
    pub fn unmap_grant_refs<H: GrantHost>(
        self: &Arc<Self>,
        host: &H,
        ops: &mut [GnttabUnmapGrantRef],
    ) {
        let mut session = self.unmap_session(host);
        ops.iter_mut().for_each(|op| session.unmap_grant_ref(op));
    }

    /// `GNTTABOP_unmap_and_replace` for each of some operations; this is the
    /// caller's table.
    pub fn unmap_and_replace<H: GrantHost>(
        self: &Arc<Self>,
        host: &H,
        ops: &mut [GnttabUnmapAndReplace],
    ) {
        let mut session = self.unmap_session(host);
        ops.iter_mut().for_each(|op| session.unmap_and_replace(op));
    }

    /// Takes away what the operation names of a mapping. What is then to be
    /// given back is left in `unmapped`.
    fn unmap<H: GrantHost>(
        &self,
        host: &H,
        op: Unmap,
        unmapped: &mut Option<Unmapped>,
    ) -> GrantResult<()> {
        // Whoever claims the handle has it for itself.
        let (granter, reference, flags) = {
            let mut maptrack = self.maptrack.lock();
            let mapping = maptrack.get(op.handle).ok_or(GrantError::BadHandle)?;
            let granter = mapping.granter.clone().ok_or(GrantError::BadHandle)?;
            if mapping.flags == 0 || mapping.claimed {
                return Err(GrantError::BadHandle);
            }
            mapping.claimed = true;
            (granter, mapping.grant_ref(), u32::from(mapping.flags))
        };
        let result = granter.unmap_claimed(host, &op, reference, flags);
        let freed = {
            let mut maptrack = self.maptrack.lock();
            let done = result.as_ref().map_or(0, |(_, done)| *done);
            let left = flags & !(done & (GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP));
            if left & (GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP) == 0 {
                maptrack.put(op.handle)
            } else {
                if let Some(mapping) = maptrack.get(op.handle) {
                    mapping.flags = left as u16;
                    mapping.claimed = false;
                }
                None
            }
        };
        drop(freed);
        let (mfn, done) = result?;
        if done != 0 {
            *unmapped = Some(Unmapped {
                granter,
                reference,
                mfn,
                done,
            });
        }
        Ok(())
    }

    /// The part of unmapping that looks at the granter, whose table this is.
    /// Gives the frame and what was unmapped.
    fn unmap_claimed<H: GrantHost>(
        &self,
        host: &H,
        op: &Unmap,
        reference: GrantRef,
        flags: u32,
    ) -> GrantResult<(Mfn, u32)> {
        // The mapping's own pin keeps the active entry as it is.
        let mfn = {
            let state = self.state.read();
            let active = state.active(reference).ok_or(GrantError::BadHandle)?;
            active.lock().mfn
        };
        let device = op.dev_bus_addr != 0 && flags & GNTMAP_DEVICE_MAP != 0;
        if device && op.dev_bus_addr != mfn.address().0 {
            return Err(GrantError::BadDeviceAddress);
        }
        let mut done = 0;
        if op.host_addr != 0 && flags & GNTMAP_HOST_MAP != 0 {
            let at = HostAddress::new(op.host_addr, flags);
            let replacement = (op.new_addr != 0).then_some(GuestVirtual(op.new_addr));
            if replacement.is_some() && matches!(at, HostAddress::Entry(_)) {
                return Err(GrantError::General);
            }
            host.destroy_host_mapping(at, mfn, flags, replacement)?;
            done |= GNTMAP_HOST_MAP | (flags & GNTMAP_READONLY);
        }
        if device {
            done |= GNTMAP_DEVICE_MAP | (flags & GNTMAP_READONLY);
        }
        Ok((mfn, done))
    }

    /// Gives back what unmappings left, once nobody can use them any more.
    fn complete_unmaps<H: GrantHost>(&self, host: &H, unmapped: [Option<Unmapped>; UNMAP_BATCH]) {
        if unmapped.iter().all(Option::is_none) {
            return;
        }
        host.flush_tlb(self.domain);
        for unmapped in unmapped.into_iter().flatten() {
            let kinds = (unmapped.done & GNTMAP_HOST_MAP != 0) as u32
                + (unmapped.done & GNTMAP_DEVICE_MAP != 0) as u32;
            let writable = unmapped.done & GNTMAP_READONLY == 0;
            References {
                pages: kinds,
                types: if writable { kinds } else { 0 },
            }
            .put(host, unmapped.mfn);
            unmapped
                .granter
                .unpin(host, unmapped.reference, unmapped.done);
        }
    }

    /// Removes the pins of a mapping, or of the part of one that `flags` says. Nobody can
    /// use it any more.
    fn unpin<H: GrantHost>(&self, host: &H, reference: GrantRef, flags: u32) {
        let state = self.state.read();
        let Some(active) = state.active(reference) else {
            return;
        };
        let mut active = active.lock();
        if flags & GNTMAP_READONLY == 0 {
            // Before the pin goes, which says the same: see `for_each_writable`.
            host.mark_dirty(self.domain, active.mfn);
        }
        active.pins.remove(Pins::of_mapping(flags));
        if let Some(entry) = state.entry(host, reference) {
            entry.reduce_status(active.pins, flags & GNTMAP_READONLY != 0);
        }
    }

    /// Ends all mappings of a dying domain, whose table this is and whose vCPUs
    /// do not run any more. The references of its page-table entries are given
    /// back with its page tables. `Restart` if preempted: call again.
    pub fn release_mappings<H: GrantHost>(&self, host: &H, preempt: &dyn Preempt) -> Result<()> {
        let mut handle = 0;
        let mut released = 0u32;
        loop {
            let (granter, reference, flags) = {
                let mut maptrack = self.maptrack.lock();
                let Some(used) = maptrack.next_used(handle) else {
                    return Ok(());
                };
                handle = used;
                let Some(mapping) = maptrack.get(handle) else {
                    return Ok(());
                };
                let (reference, flags) = (mapping.grant_ref(), u32::from(mapping.flags));
                match maptrack.put(handle) {
                    Some(granter) => (granter, reference, flags),
                    None => continue,
                }
            };
            if flags & GNTMAP_DEVICE_MAP != 0 {
                let mfn = {
                    let state = granter.state.read();
                    state.active(reference).map(|active| active.lock().mfn)
                };
                if let Some(mfn) = mfn {
                    References {
                        pages: 1,
                        types: u32::from(flags & GNTMAP_READONLY == 0),
                    }
                    .put(host, mfn);
                }
            }
            granter.unpin(host, reference, flags);
            released = released.wrapping_add(1);
            if released.is_multiple_of(PREEMPT_INTERVAL) && preempt.preempt_pending() {
                return Err(Error::Restart);
            }
        }
    }
}
