//! Hypercalls for what this machine does not have, which kernels and tools ask
//! for all the same to find out.

use overcast_core::error::{Error, Result};
use xen_abi::xen::GuestHandle;

use super::Call;
use crate::domain;
use crate::guest;
use overcast_core::ids::DomainId;

/// Buffers that a `dm_op` may have.
const DM_OP_BUFFERS: u64 = 2;
/// Bytes of `struct xen_dm_op_buf` (hvm/dm_op.h): an address and a length.
const DM_OP_BUFFER_SIZE: usize = 16;

/// `HYPERVISOR_xsm_op`: there are no security modules, as in a Xen built without them.
pub fn xsm_op(_call: &mut Call<'_>) -> Result<i64> {
    Err(Error::NotImplemented)
}

/// `HYPERVISOR_xenpmu_op`: no performance counters, as on Xen without `vpmu=`.
pub fn xenpmu_op(_call: &mut Call<'_>) -> Result<i64> {
    Err(Error::NotSupported)
}

/// `HYPERVISOR_dm_op(domain, count, buffers)`: only HVM domains have device models.
pub fn dm_op(call: &mut Call<'_>) -> Result<i64> {
    let count = u64::from(call.args[1] as u32);
    if count > DM_OP_BUFFERS {
        return Err(Error::TooBig);
    }
    if count == 0 {
        return Err(Error::NoData);
    }
    let list: GuestHandle = call.handle(2);
    for index in 0..count {
        let _: [u8; DM_OP_BUFFER_SIZE] = guest::read_item(list, index)?;
    }
    let domain = domain::find(DomainId(call.args[0] as u16)).ok_or(Error::NoDomain)?;
    if domain.id == call.domain.id {
        return Err(Error::NotPermitted);
    }
    Err(Error::Invalid)
}
