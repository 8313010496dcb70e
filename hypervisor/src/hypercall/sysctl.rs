//! `sysctl` (sysctl.h): control of the machine, for a control domain.

use overcast_core::error::{Error, Result};
use xen_abi::sysctl::XEN_SYSCTL_INTERFACE_VERSION;

use super::Call;
use crate::guest;

/// `HYPERVISOR_sysctl(op)`: EFAULT, EACCES for another interface version, EPERM
/// for a domain without privilege, ENOSYS for what is not there.
pub fn sysctl(call: &mut Call<'_>) -> Result<i64> {
    let header: [u32; 2] = guest::read(call.address(0))?;
    if header[1] != XEN_SYSCTL_INTERFACE_VERSION {
        return Err(Error::Access);
    }
    call.require_privilege()?;
    Err(Error::NotImplemented)
}
