//! `grant_table_op` (grant_table.h).

use overcast_core::addr::GuestVirtual;
use overcast_core::error::{Error, Result};

use super::Call;

/// `HYPERVISOR_grant_table_op(cmd, ops, count)`.
pub fn grant_table_op(_call: &mut Call<'_>) -> Result<i64> {
    Err(Error::NotImplemented)
}

/// `XENMEM_acquire_resource` for grant frames.
pub fn acquire_resource(_call: &mut Call<'_>, _arg: GuestVirtual, _start: u64) -> Result<i64> {
    Err(Error::NotSupported)
}
