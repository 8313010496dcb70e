//! Grant tables of domains, on this machine.

use alloc::sync::Arc;
use core::arch::x86_64::_mm_clflush;

use overcast_core::addr::{GuestVirtual, MachineAddress, Mfn};
use overcast_core::error::Result;
use overcast_core::grant::{GrantError, GrantHost, GrantLimits, GrantTable, HostAddress};
use overcast_core::ids::DomainId;
use overcast_core::machine::{Never, Tlb};
use overcast_core::mm::{MmHost, MmuCaller};
use xen_abi::grant_table::GNTMAP_CONTAINS_PTE;

use crate::arch::memory::direct_map;
use crate::host::{self, Host, mm};
use crate::start::options;
use crate::{domain, vcpu};

/// Bytes of a line of the caches, the least that there is.
const CACHE_LINE: usize = 64;

/// The limits that the command line sets.
pub fn limits() -> GrantLimits {
    let options = options();
    GrantLimits {
        max_frames: options.gnttab_max_frames.max(1),
        max_maptrack_frames: options.gnttab_max_maptrack_frames,
        max_version: options.gnttab_max_ver,
    }
}

/// Makes a domain's grant table. Its memory is there already.
pub fn create(domain: DomainId, limits: GrantLimits) -> Result<Arc<GrantTable>> {
    GrantTable::new(&Host, domain, limits)
}

/// Calls a function with the page tables of the running vCPU, and where in them the
/// entry is: an address, and whether it is that of the entry itself.
fn with_tables(
    at: HostAddress,
    flags: u32,
    call: impl FnOnce(&MmuCaller<'_>, u64, u32) -> Result<()>,
) -> core::result::Result<(), GrantError> {
    let vcpu = vcpu::current();
    let mut tables = vcpu.tables.lock();
    let caller = MmuCaller {
        domain: &vcpu.domain().mm,
        tables: &mut tables,
        // Changing an entry is short work.
        preempt: &Never,
    };
    let flags = flags & !GNTMAP_CONTAINS_PTE;
    let (address, flags) = match at {
        HostAddress::Linear(address) => (address.0, flags),
        HostAddress::Entry(address) => (address.0, flags | GNTMAP_CONTAINS_PTE),
    };
    call(&caller, address, flags).map_err(|_| GrantError::General)
}

impl GrantHost for Host {
    fn grant_table(&self, domain: DomainId) -> Option<Arc<GrantTable>> {
        domain::find(domain).map(|domain| domain.grants.clone())
    }

    fn get_page(&self, owner: DomainId, mfn: Mfn) -> bool {
        mm().get_page(mfn, owner).map(|page| page.keep()).is_some()
    }

    fn put_page(&self, mfn: Mfn) {
        mm().put_page(mfn);
    }

    fn get_writable_type(&self, mfn: Mfn) -> bool {
        mm().get_writable_type(mfn).is_ok()
    }

    fn put_writable_type(&self, mfn: Mfn) {
        mm().put_data_type(mfn);
    }

    fn mark_dirty(&self, _owner: DomainId, mfn: Mfn) {
        mm().mark_dirty(mfn);
    }

    fn get_page_of_anyone(&self, mfn: Mfn) -> Option<DomainId> {
        let (owner, page) = mm().get_any_page(mfn)?;
        page.keep();
        Some(owner)
    }

    fn create_host_mapping(
        &self,
        at: HostAddress,
        mfn: Mfn,
        flags: u32,
    ) -> core::result::Result<(), GrantError> {
        with_tables(at, flags, |caller, address, flags| {
            mm().create_grant_mapping(caller, address, mfn, flags)
        })
    }

    fn destroy_host_mapping(
        &self,
        at: HostAddress,
        mfn: Mfn,
        flags: u32,
        replacement: Option<GuestVirtual>,
    ) -> core::result::Result<(), GrantError> {
        let new_address = replacement.map_or(0, |address| address.0);
        with_tables(at, flags, |caller, address, flags| {
            mm().replace_grant_mapping(caller, address, mfn, new_address, flags)
        })
    }

    fn flush_tlb(&self, domain: DomainId) {
        // A CPU that leaves a domain's vCPU flushes all that it knows of it.
        if let Some(domain) = domain::find(domain) {
            Host.flush(&domain.cpus());
        }
    }

    fn alloc_table_frame(&self, _domain: DomainId) -> Option<Mfn> {
        let (mfn, stamp) = host::allocate(0, None)?;
        Host.flush_since(stamp);
        Some(mfn)
    }

    fn free_table_frame(&self, _domain: DomainId, mfn: Mfn) {
        Host.free_frames(mfn, 0, Host.clock());
    }

    fn share_table_frame(&self, domain: DomainId, mfn: Mfn) {
        let shared = mm()
            .domain(domain)
            .map(|domain| mm().share_page(&domain, mfn, true));
        if !matches!(shared, Some(Ok(()))) {
            // The domain is dying: it needs the frame no more, and is told of it as of a
            // page that it cannot map.
            log::debug!("{domain}: grant frame {mfn} is not shared: {shared:?}");
        }
    }

    fn unshare_table_frame(&self, domain: DomainId, mfn: Mfn) -> bool {
        mm().domain(domain)
            .is_some_and(|domain| mm().unshare_page(&domain, mfn).is_ok())
    }

    fn clean_cache(&self, mfn: Mfn, offset: usize, length: usize, _invalidate: bool) {
        let start = direct_map(MachineAddress(mfn.address().get()));
        let first = offset & !(CACHE_LINE - 1);
        for at in (first..offset + length).step_by(CACHE_LINE) {
            // SAFETY: CLFLUSH changes no memory; the frame is RAM, for which the caller
            // holds a reference, and `at` lies in it.
            unsafe { _mm_clflush(start.wrapping_add(at).cast()) };
        }
        // SAFETY: a fence has no effect on memory's contents.
        unsafe { core::arch::x86_64::_mm_mfence() };
    }
}
