//! Grant tables of domains, on this machine.

use alloc::sync::Arc;

use overcast_core::addr::{GuestVirtual, Mfn};
use overcast_core::error::Result;
use overcast_core::grant::*;
use overcast_core::ids::DomainId;

use crate::domain;
use crate::host::{Host, mm};

/// Makes a domain's grant table.
pub fn create(domain: DomainId) -> Result<Arc<GrantTable>> {
    GrantTable::new(&Host, domain, GrantLimits::default())
}
impl GrantHost for Host {
    fn grant_table(&self, domain: DomainId) -> Option<Arc<GrantTable>> {
        domain::find(domain).map(|d| d.grants.clone())
    }
    fn get_page(&self, owner: DomainId, mfn: Mfn) -> bool {
        mm().get_page(mfn, owner).map(|p| p.keep()).is_some()
    }
    fn put_page(&self, mfn: Mfn) {
        mm().put_page(mfn)
    }
    fn get_writable_type(&self, _mfn: Mfn) -> bool {
        false
    }
    fn put_writable_type(&self, _mfn: Mfn) {}
    fn get_page_of_anyone(&self, _mfn: Mfn) -> Option<DomainId> {
        None
    }
    fn create_host_mapping(
        &self,
        _at: HostAddress,
        _mfn: Mfn,
        _flags: u32,
    ) -> core::result::Result<(), GrantError> {
        Err(GrantError::General)
    }
    fn destroy_host_mapping(
        &self,
        _at: HostAddress,
        _mfn: Mfn,
        _flags: u32,
        _r: Option<GuestVirtual>,
    ) -> core::result::Result<(), GrantError> {
        Err(GrantError::General)
    }
    fn flush_tlb(&self, _domain: DomainId) {}
    fn alloc_table_frame(&self, _domain: DomainId) -> Option<Mfn> {
        crate::host::allocate(0, None).map(|a| a.0)
    }
    fn free_table_frame(&self, _domain: DomainId, _mfn: Mfn) {}
    fn share_table_frame(&self, _domain: DomainId, _mfn: Mfn) {}
    fn unshare_table_frame(&self, _domain: DomainId, _mfn: Mfn) -> bool {
        false
    }
}
