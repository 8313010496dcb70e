//! Guest memory: who owns which frame, what each frame is used as, and every
//! change to a page table.
//!
//! Guests run directly on the page tables that they wrote ("direct paging").
//! What keeps them apart is that each frame is at one time only one of
//! {writable, L1, L2, L3, L4 table, descriptor table}, that each such use is
//! counted, and that every entry is checked before the hardware can see it. The
//! behaviour is that of Xen 4.17 for 64-bit PV guests, without superpages and
//! without linear (self-mapping) page tables, which are refused with EINVAL.
//!
//! # The pieces
//!
//! - [`frames`]: what is known of a frame (owner, counts, type), and how it may change.
//! - [`entry`]: page-table entries and the masks of what a guest may set.
//! - [`pages`]: references to frames, writable references, giving frames back.
//! - [`types`]: validating page tables and undoing it, resumably.
//! - [`leaf`]: what an entry of a level-1 table may map.
//! - [`update`]: `mmu_update` and `update_va_mapping`.
//! - [`ext`]: `mmuext_op`, and the base pointers of a virtual CPU.
//! - [`ptwr`]: writes of a guest to its read-only level-1 tables.
//! - [`grant`]: mapping granted frames. [`descriptor`]: descriptor-table pages.
//! - [`domain`]: a domain's pages; allocating, freeing, exchanging, destroying.
//! - [`m2p`]: the machine-to-phys table.
//! - [`dirty`]: the log of what a domain writes, for migration; [`shadow`]: the page
//!   tables on which it runs meanwhile; [`export`]: its pages in the form of a stream.
//!
//! # How the hypercall layer uses it
//!
//! One [`Mm`] for the machine, over a [`MmHost`] that the machine implements.
//! [`Mm::create_domain`] makes and registers a domain's [`DomainMemory`]; each
//! virtual CPU has a [`VcpuPageTables`]. A hypercall makes an [`MmuCaller`] and then
//!
//! - `mmu_update`: [`Mm::mmu_update_targets`] decodes `foreigndom`; then
//!   [`Mm::mmu_update`] once a request, checking for preemption in between.
//! - `update_va_mapping`: [`Mm::update_va_mapping`], then the flush that it returns.
//! - `mmuext_op`: [`Mm::page_owner`] for `foreigndom`, [`Mm::may_target`], then
//!   [`Mm::mmuext_op`] once an operation; the machine's side of it is [`VcpuMachine`].
//! - a page fault by a write to a present read-only page of a guest's kernel:
//!   [`Mm::page_table_at`] says whether to decode the instruction, and
//!   [`Mm::emulate_write`] carries it out.
//!
//! [`Error::Restart`] means: call again with the same arguments (a hypercall
//! continuation). Work that is left over from one operation (a page table being
//! taken apart) is kept in the virtual CPU's [`VcpuPageTables`] and is finished
//! first by the next operation; before a hypercall returns a result to the guest,
//! it calls [`Mm::finish_deferred`] until that gives no [`Error::Restart`].
//!
//! # Locks
//!
//! All changes to the page tables of a domain, and all uses of its frames as
//! page tables or descriptor tables, happen under that domain's *tables* lock
//! ([`types::Tables`] is the proof that it is held). Frames of other domains are
//! touched by atomic counts only, and so are writable references. The domain's
//! *pages* lock (its lists and totals) is inside it, and the frame heap inside
//! that. No two domains' tables locks are ever held together. A domain's shadows have a
//! lock inside that of its tables, which is always held with it.

pub mod descriptor;
pub mod dirty;
pub mod domain;
pub mod entry;
pub mod export;
pub mod ext;
pub mod frames;
pub mod grant;
pub mod leaf;
pub mod m2p;
#[cfg(any(test, feature = "model"))]
pub mod model;
pub mod pages;
pub mod ptwr;
pub mod shadow;
#[cfg(test)]
mod tests;
pub mod types;
pub mod update;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64};

use spin::RwLock;

use crate::addr::Mfn;
use crate::error::{Error, Result};
use crate::ids::DomainId;
use crate::machine::{Memory, Preempt, Tlb};

pub use dirty::{DirtyPages, DirtyStats};
pub use domain::DomainMemory;
pub use entry::{Level, Pte};
pub use export::{Exported, PageWords};
pub use ext::{FlushRequest, FlushScope, FlushWhat, VcpuMachine, VcpuPageTables};
pub use frames::{FrameInfo, FrameTable, PageType};
pub use leaf::PageOwner;
pub use m2p::MachineToPhys;
pub use pages::{PageRef, PageUse, WritableRef};
pub use ptwr::{PtwrOutcome, PtwrWrite};
pub use shadow::{Access, HardwareRoots, ShadowFault};

/// What the memory code needs of the machine.
pub trait MmHost: Memory + Tlb {
    /// The table of frames, zeroed at start, with RAM marked by
    /// [`FrameInfo::mark_ram`].
    fn frame_infos(&self) -> &[FrameInfo];

    /// The machine-to-phys table.
    fn machine_to_phys(&self) -> &[AtomicU64];

    /// Allocates `2^order` frames in a row, aligned to their number; with the
    /// latest flush stamp among them. Their count is 0 and they have no owner.
    fn allocate_frames(&self, order: u32) -> Option<(Mfn, u64)>;

    /// Takes frames back whose last translation was given up at `stamp`.
    fn free_frames(&self, mfn: Mfn, order: u32, stamp: u64);

    /// The hypervisor's 16 entries (256 to 271) of every level-4 table. The
    /// first shows the machine-to-phys table to the guest, read-only.
    fn hypervisor_slots(&self) -> [u64; entry::HYPERVISOR_SLOTS];

    /// The entry of [`Self::hypervisor_slots`] that shows the machine-to-phys table.
    fn machphys_entry(&self) -> u64 {
        self.hypervisor_slots()[entry::MACHPHYS_SLOT - entry::FIRST_HYPERVISOR_SLOT]
    }

    /// The last page of a dying domain is gone. Called with any lock of [`Mm`] held.
    fn pages_gone(&self, _domain: DomainId) {}

    /// Writes the frame back from all caches: it was mapped with a memory type
    /// that does not snoop them, and now its contents are to be trusted.
    fn make_coherent(&self, _mfn: Mfn) {}
}

/// What the memory code is told once about the machine.
#[derive(Clone, Copy, Debug)]
pub struct MmConfig {
    /// The CPU has the XD bit.
    pub nx: bool,
    /// Caches are snooped whatever the memory type (Intel), so that frames
    /// mapped write-combining need no write-back before they change type.
    pub self_snoop: bool,
    /// The zero frame that a privileged domain sees where it maps the legacy
    /// hole (frames 0xa0 to 0xff); none: such mappings are refused.
    pub legacy_substitute: Option<Mfn>,
}

/// All guest memory of the machine.
pub struct Mm<H> {
    /// The machine.
    pub host: H,
    config: MmConfig,
    /// How many domains' writes are logged.
    logs: AtomicU32,
    domains: RwLock<BTreeMap<DomainId, Arc<DomainMemory>>>,
}

impl<H: MmHost> Mm<H> {
    /// The memory of a machine, with no domain but `DOMID_IO` and `DOMID_XEN`.
    pub fn new(host: H, config: MmConfig) -> Self {
        let mut domains = BTreeMap::new();
        for id in [DomainId::IO, DomainId::XEN] {
            domains.insert(id, Arc::new(DomainMemory::new(id, false, 0, config.nx)));
        }
        Self {
            host,
            config,
            logs: AtomicU32::new(0),
            domains: RwLock::new(domains),
        }
    }

    /// The table of frames.
    #[inline]
    pub fn frames(&self) -> FrameTable<'_> {
        FrameTable(self.host.frame_infos())
    }

    /// The machine-to-phys table.
    pub fn m2p(&self) -> MachineToPhys<'_> {
        MachineToPhys(self.host.machine_to_phys())
    }

    /// What the memory code was told about the machine.
    pub fn config(&self) -> &MmConfig {
        &self.config
    }

    /// Makes a domain that may have up to `max_pages` pages. A `privileged` one
    /// may act on other domains' memory.
    ///
    /// # Errors
    /// `Exists` if the number is taken, also by a dead domain whose last pages
    /// others still map.
    pub fn create_domain(
        &self,
        id: DomainId,
        privileged: bool,
        max_pages: u64,
    ) -> Result<Arc<DomainMemory>> {
        let mut domains = self.domains.write();
        if domains.contains_key(&id) {
            return Err(Error::Exists);
        }
        let domain = Arc::new(DomainMemory::new(id, privileged, max_pages, self.config.nx));
        domains.insert(id, Arc::clone(&domain));
        Ok(domain)
    }

    /// Forgets a dead domain, so that its number may be used again.
    ///
    /// # Errors
    /// `Busy` while it is alive or any page of it is left, `NoDomain`.
    pub fn forget_domain(&self, id: DomainId) -> Result<()> {
        let mut domains = self.domains.write();
        let domain = domains.get(&id).ok_or(Error::NoDomain)?;
        if !domain.is_dying() || domain.total_pages() != 0 || domain.shared_pages() != 0 {
            return Err(Error::Busy);
        }
        domains.remove(&id);
        Ok(())
    }

    /// The memory of a domain, dying ones included.
    pub fn domain(&self, id: DomainId) -> Option<Arc<DomainMemory>> {
        self.domains.read().get(&id).cloned()
    }

    /// The owner of pages that a hypercall's `foreigndom` names
    /// (`get_pg_owner`): `DOMID_SELF` is the caller, who may not name itself by
    /// number.
    ///
    /// # Errors
    /// `NoDomain` for the caller's own number and for unknown ones.
    pub fn page_owner(&self, caller: &DomainMemory, id: DomainId) -> Result<PageOwner> {
        match id {
            DomainId::SELF => Ok(PageOwner::of(caller)),
            id if id == caller.id() => Err(Error::NoDomain),
            DomainId::IO => Ok(PageOwner {
                id,
                privileged: false,
                // The rights to I/O memory are the caller's.
                io_memory: caller.is_privileged(),
            }),
            id => {
                let domain = self.domain(id).ok_or(Error::NoDomain)?;
                Ok(PageOwner::of(&domain))
            }
        }
    }

    /// Whether `caller` may act on `target`: itself, or anyone if privileged.
    ///
    /// # Errors
    /// `NotPermitted`
    #[inline]
    pub fn may_target(&self, caller: &DomainMemory, target: DomainId) -> Result<()> {
        if target == caller.id() || caller.is_privileged() {
            Ok(())
        } else {
            Err(Error::NotPermitted)
        }
    }
}

/// Who asks for an operation on page tables.
pub struct MmuCaller<'a> {
    /// The domain of the virtual CPU that calls.
    pub domain: &'a DomainMemory,
    /// The base pointers, and the unfinished work, of that virtual CPU.
    pub tables: &'a mut VcpuPageTables,
    /// Whether to stop early.
    pub preempt: &'a dyn Preempt,
}
