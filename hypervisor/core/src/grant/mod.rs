//! Grant tables (public header grant_table.h), versions 1 and 2: a domain lets
//! another map or copy one of its frames, or a part of it.
//!
//! Each domain has one [`GrantTable`]: the pages with its grants, which it
//! shares with the hypervisor, what is in use of them (active entries),
//! and the mappings that it has of others' grants (maptrack, by handle).
//!
//! References to frames and page-table entries are changed through
//! [`GrantHost`]. The references of a mapping by CPUs (`GNTMAP_host_map`) belong
//! to the page-table entry from the moment it is written: one to the frame, and one of the
//! writable type if the mapping is writable. Unmapping takes them over again and gives
//! them back; a guest that overwrites the entry itself gives them back there and
//! then, and so does the end of its page tables. Those of a device mapping belong to the handle.
//!
//! # Invariants
//!
//! - The pins of an active entry are the sum over the live handles, copies and
//!   backends that use it; each of them was checked against the guest's entry
//!   or against an equal or stronger use that is still there.
//! - A pin is added before references are taken, and removed after they were
//!   given back: the guest sees `GTF_reading` and `GTF_writing` for as long as
//!   the frame can be read and written. Between the two, an active entry does not change.
//! - A handle is freed by exactly one unmapping: it claims the handle first.
//! - The version changes only while no entry but the reserved ones is pinned
//!   and, from 2 to 1, no sub-page or transitive use is under way (`v2_ops`).
//! - The tables only grow, but for the status frames, which go when the version goes
//!   back to 1 and nobody else has a reference to them.
//! - A loop on memory that the guest can write is bounded.
//!
//! Locks, outer to inner: table (read or write), active entry; maptrack is
//! taken alone. Page-table entries are changed and references are dropped
//! without any of them, since the owner's memory lock is an outer one. References
//! are taken, and table frames allocated, shared and unshared, under the table's lock.

mod active;
mod backend;
mod copy;
mod entry;
mod frames;
mod map;
mod maptrack;
#[cfg(any(test, feature = "model"))]
pub mod model;
#[cfg(test)]
mod tests;
mod transfer;
#[cfg(any(test, feature = "model"))]
mod world;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use spin::{Mutex, RwLock};

use crate::addr::{GuestVirtual, MachineAddress, Mfn, PAGE_SIZE};
use crate::error::{Error, Result};
use crate::ids::{DomainId, GrantRef};
use crate::machine::Memory;
use xen_abi::grant_table::*;

use active::Active;
pub use backend::{BackendGrant, BackendGrants, GrantedFrame};
pub use copy::CopySession;
use entry::Entry;
pub use frames::TableFrames;
pub use map::UnmapSession;
use maptrack::Maptrack;
pub use transfer::Transfer;

/// Frames of grants that a domain has from the start.
pub const INITIAL_FRAMES: u32 = 1;
/// Frames of grants that a domain may have by default (`gnttab_max_frames=`).
pub const DEFAULT_MAX_FRAMES: u32 = 64;
/// Maptrack frames, of 256 handles each, that a domain may have by default
/// (`gnttab_max_maptrack_frames=`).
pub const DEFAULT_MAX_MAPTRACK_FRAMES: u32 = 1024;
/// Unmappings between two flushes of the TLBs.
pub const UNMAP_BATCH: usize = 32;

/// Entries in a frame, version 1.
const V1_PER_FRAME: u32 = (PAGE_SIZE / 8) as u32;
/// Entries in a frame, version 2.
const V2_PER_FRAME: u32 = (PAGE_SIZE / 16) as u32;
/// Entries in a status frame.
const STATUS_PER_FRAME: u32 = (PAGE_SIZE / 2) as u32;
const RESERVED_ENTRIES: u32 = GNTTAB_NR_RESERVED_ENTRIES as u32;

/// Why an operation on a grant failed: the negative `GNTST_*` values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i16)]
pub enum GrantError {
    /// `GNTST_general_error`
    General = GNTST_GENERAL_ERROR,
    /// `GNTST_bad_domain`
    BadDomain = GNTST_BAD_DOMAIN,
    /// `GNTST_bad_gntref`
    BadRef = GNTST_BAD_GNTREF,
    /// `GNTST_bad_handle`
    BadHandle = GNTST_BAD_HANDLE,
    /// `GNTST_bad_virt_addr`
    BadVirtualAddress = GNTST_BAD_VIRT_ADDR,
    /// `GNTST_bad_dev_addr`
    BadDeviceAddress = GNTST_BAD_DEV_ADDR,
    /// `GNTST_permission_denied`
    PermissionDenied = GNTST_PERMISSION_DENIED,
    /// `GNTST_bad_page`
    BadPage = GNTST_BAD_PAGE,
    /// `GNTST_bad_copy_arg`
    BadCopyArgument = GNTST_BAD_COPY_ARG,
    /// `GNTST_eagain`
    Again = GNTST_EAGAIN,
    /// `GNTST_no_space`
    NoSpace = GNTST_NO_SPACE,
}

/// The `status` of an operation (`GNTST_*`).
pub fn status(result: core::result::Result<(), GrantError>) -> i16 {
    match result {
        Ok(()) => GNTST_OKAY,
        Err(error) => error as i16,
    }
}

/// Where a mapping goes (`host_addr`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostAddress {
    /// The L1 entry that maps this linear address in the caller's page tables.
    Linear(GuestVirtual),
    /// The L1 entry at this machine address (`GNTMAP_contains_pte`).
    Entry(MachineAddress),
}

impl HostAddress {
    fn new(address: u64, flags: u32) -> Self {
        if flags & GNTMAP_CONTAINS_PTE != 0 {
            Self::Entry(MachineAddress(address))
        } else {
            Self::Linear(GuestVirtual(address))
        }
    }
}

/// What grant tables need of the rest: domains, frames and page tables. Made
/// for the vCPU that makes the hypercall, whose page tables are meant.
pub trait GrantHost: Memory {
    /// The table of a domain, also of one that is dying. Ordinary ids only:
    /// `DOMID_SELF` and the like name none.
    fn grant_table(&self, domain: DomainId) -> Option<Arc<GrantTable>>;

    /// Takes a reference to a frame; false if `owner` does not own it. Called
    /// with grant locks held.
    fn get_page(&self, owner: DomainId, mfn: Mfn) -> bool;

    /// Gives a reference back.
    fn put_page(&self, mfn: Mfn);

    /// Takes a reference of the writable type to a frame that the caller has a
    /// reference to; false if it is of another type (a page table).
    fn get_writable_type(&self, mfn: Mfn) -> bool;

    /// Gives a type reference back.
    fn put_writable_type(&self, mfn: Mfn);

    /// Takes a reference to a frame, whoever owns it, and says who.
    fn get_page_of_anyone(&self, mfn: Mfn) -> Option<DomainId>;

    /// Writes an L1 entry of the caller's that maps `mfn` as the `GNTMAP_*`
    /// flags say, and gives back the references of what was there. The
    /// entry takes over the references that the caller of this holds.
    fn create_host_mapping(
        &self,
        at: HostAddress,
        mfn: Mfn,
        flags: u32,
    ) -> core::result::Result<(), GrantError>;

    /// Clears an L1 entry of the caller's, if it maps `mfn` as the flags say, and
    /// leaves its references to the caller of this; nothing else changes on failure. With
    /// `replacement`, the entry that maps that linear address is moved there
    /// with its references.
    fn destroy_host_mapping(
        &self,
        at: HostAddress,
        mfn: Mfn,
        flags: u32,
        replacement: Option<GuestVirtual>,
    ) -> core::result::Result<(), GrantError>;

    /// Flushes the TLBs of the CPUs that may have used mappings of the domain.
    fn flush_tlb(&self, domain: DomainId);

    /// Notes that a frame of the domain may have been written. Called with grant locks held.
    fn mark_dirty(&self, _owner: DomainId, _mfn: Mfn) {}

    /// Allocates a zeroed frame for a table of the domain, which it cannot see yet.
    fn alloc_table_frame(&self, domain: DomainId) -> Option<Mfn>;

    /// Frees a frame that is not shared.
    fn free_table_frame(&self, domain: DomainId, mfn: Mfn);

    /// Lets the domain map a table frame, also writable. Must not take the domain's memory lock.
    fn share_table_frame(&self, domain: DomainId, mfn: Mfn);

    /// Takes a table frame from the domain again; false, and nothing changes, if
    /// there are still references to it.
    fn unshare_table_frame(&self, domain: DomainId, mfn: Mfn) -> bool;

    /// Writes back (`GNTTAB_CACHE_CLEAN`) bytes of a frame from the CPU's
    /// caches, and with `invalidate` drops them.
    fn clean_cache(&self, _mfn: Mfn, _offset: usize, _length: usize, _invalidate: bool) {}
}

/// The version of the entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    V1,
    V2,
}

/// What the table's lock protects.
struct State {
    version: Version,
    /// Frames of entries.
    shared: Vec<Mfn>,
    /// Frames of status words, version 2.
    status: Vec<Mfn>,
    /// For each frame of entries, the active entries, as many as version 1 has.
    active: Vec<Box<[Mutex<Active>]>>,
}

impl State {
    fn entries(&self) -> u32 {
        let per_frame = match self.version {
            Version::V1 => V1_PER_FRAME,
            Version::V2 => V2_PER_FRAME,
        };
        (self.shared.len() as u32).saturating_mul(per_frame)
    }

    /// An entry of the guest's, if there is one of that number.
    fn entry<'m, H: GrantHost>(&self, host: &'m H, reference: GrantRef) -> Option<Entry<'m>> {
        let n = reference.0;
        match self.version {
            Version::V1 => {
                let mfn = *self.shared.get((n / V1_PER_FRAME) as usize)?;
                let frame = host.frame(mfn)?;
                Some(Entry::V1(frame.word((n % V1_PER_FRAME) as usize)))
            }
            Version::V2 => {
                let mfn = *self.shared.get((n / V2_PER_FRAME) as usize)?;
                let frame = host.frame(mfn)?;
                let status_mfn = *self.status.get((n / STATUS_PER_FRAME) as usize)?;
                let status = host.frame(status_mfn)?;
                let (at, in_status) = (
                    (n % V2_PER_FRAME) as usize * 2,
                    (n % STATUS_PER_FRAME) as usize,
                );
                Some(Entry::V2 {
                    header: frame.word(at),
                    frame: frame.word(at + 1),
                    status: status.word(in_status / 4),
                    shift: 16 * (in_status % 4) as u32,
                })
            }
        }
    }

    /// An entry of the guest's and the active one that belongs to it, if they are of version 1.
    #[inline(always)]
    fn entry_v1<'m, H: GrantHost>(
        &self,
        host: &'m H,
        reference: GrantRef,
    ) -> Option<(Entry<'m>, &Mutex<Active>)> {
        if self.version != Version::V1 {
            return None;
        }
        let (frame, at) = (reference.0 / V1_PER_FRAME, reference.0 % V1_PER_FRAME);
        let active = self.active.get(frame as usize)?.get(at as usize)?;
        let words = host.frame(*self.shared.get(frame as usize)?)?;
        Some((Entry::V1(words.word(at as usize)), active))
    }

    /// The active entry that belongs to a grant; there is one for each that
    /// either version has.
    fn active(&self, reference: GrantRef) -> Option<&Mutex<Active>> {
        self.active
            .get((reference.0 / V1_PER_FRAME) as usize)?
            .get((reference.0 % V1_PER_FRAME) as usize)
    }
}

/// The grant table of one domain.
pub struct GrantTable {
    domain: DomainId,
    max_version: u32,
    max_frames: u32,
    max_maptrack_frames: u32,
    dying: AtomicBool,
    /// Sub-page and transitive uses under way, which version 1 has no word for.
    v2_ops: AtomicU32,
    state: RwLock<State>,
    maptrack: Mutex<Maptrack>,
}

impl fmt::Debug for GrantTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantTable")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

/// Limits of a new table (`XEN_DOMCTL_createdomain`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantLimits {
    /// Frames of grants, at least 1.
    pub max_frames: u32,
    /// Frames of 256 handles.
    pub max_maptrack_frames: u32,
    /// 1 or 2.
    pub max_version: u32,
}

impl Default for GrantLimits {
    fn default() -> Self {
        Self {
            max_frames: DEFAULT_MAX_FRAMES,
            max_maptrack_frames: DEFAULT_MAX_MAPTRACK_FRAMES,
            max_version: 2,
        }
    }
}

impl GrantTable {
    /// The table of a new domain: version 1, one frame.
    ///
    /// Errors: `Invalid` limits out of range; `NoMemory`.
    pub fn new<H: GrantHost>(host: &H, domain: DomainId, limits: GrantLimits) -> Result<Arc<Self>> {
        if limits.max_frames < INITIAL_FRAMES || !(1..=2).contains(&limits.max_version) {
            return Err(Error::Invalid);
        }
        let table = Self {
            domain,
            max_version: limits.max_version,
            max_frames: limits.max_frames,
            max_maptrack_frames: limits.max_maptrack_frames,
            dying: AtomicBool::new(false),
            v2_ops: AtomicU32::new(0),
            state: RwLock::new(State {
                version: Version::V1,
                shared: Vec::new(),
                status: Vec::new(),
                active: Vec::new(),
            }),
            maptrack: Mutex::new(Maptrack::new(limits.max_maptrack_frames)),
        };
        table.grow(host, &mut table.state.write(), INITIAL_FRAMES)?;
        Ok(Arc::new(table))
    }

    /// The domain whose table this is.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// Says that the domain is dying: uses of its grants that rely on a pin
    /// that is there fail from now on.
    pub fn set_dying(&self) {
        self.dying.store(true, Ordering::Release);
    }

    fn is_dying(&self) -> bool {
        self.dying.load(Ordering::Acquire)
    }

    /// The table that a `domid_t` names, `DOMID_SELF` being this one.
    fn resolve<H: GrantHost>(self: &Arc<Self>, host: &H, domain: DomainId) -> Option<Arc<Self>> {
        if domain == DomainId::SELF || domain == self.domain {
            Some(self.clone())
        } else {
            host.grant_table(domain)
        }
    }

    /// Calls `each` with the domain and the frame of every grant of this table that somebody may
    /// be writing. What is used no more by then was marked ([`GrantHost::mark_dirty`]).
    pub fn for_each_writable(&self, mut each: impl FnMut(DomainId, Mfn)) {
        let state = self.state.read();
        for active in state.active.iter().flatten() {
            let active = *active.lock();
            if active.pins.is_writable() {
                each(active.trans_domain, active.mfn);
            }
        }
    }

    /// Writes a line for each entry in use (Xen's debug key `g`).
    pub fn dump<H: GrantHost>(&self, host: &H, out: &mut dyn fmt::Write) -> fmt::Result {
        let maptrack_frames = self.maptrack.lock().limit() / maptrack::HANDLES_PER_FRAME;
        let state = self.state.read();
        writeln!(
            out,
            "grant-table for remote d{} (v{})\n  {} frames ({} max), {} maptrack frames ({} max)",
            self.domain,
            match state.version {
                Version::V1 => 1,
                Version::V2 => 2,
            },
            state.shared.len(),
            self.max_frames,
            maptrack_frames,
            self.max_maptrack_frames,
        )?;
        let mut first = true;
        for reference in (0..state.entries()).map(GrantRef) {
            let (Some(active), Some(entry)) =
                (state.active(reference), state.entry(host, reference))
            else {
                break;
            };
            let active = *active.lock();
            if active.pins.is_empty() {
                continue;
            }
            if core::mem::take(&mut first) {
                writeln!(out, "[ref] localdom mfn      pin          localdom flags")?;
            }
            writeln!(
                out,
                "[{:#05x}]  {:5} {} {:#010x}      {:5} {:#04x}",
                reference.0,
                active.grantee.0,
                active.mfn,
                active.pins.raw(),
                entry.header().grantee().0,
                entry.status_bits(),
            )?;
        }
        if first {
            writeln!(out, "no active grant table entries")?;
        }
        Ok(())
    }
}
