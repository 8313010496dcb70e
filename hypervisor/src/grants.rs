//! Grant tables of domains, on this machine.
use alloc::sync::Arc;
use overcast_core::error::Result;
use overcast_core::grant::GrantTable;
use overcast_core::ids::DomainId;

/// Makes a domain's grant table.
pub fn create(_domain: DomainId) -> Result<Arc<GrantTable>> {
    Ok(Arc::new(GrantTable))
}
