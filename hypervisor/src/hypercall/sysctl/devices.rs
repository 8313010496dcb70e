//! What the hypervisor's backends say of themselves.

use overcast_core::error::Result;
use xen_abi::overcast::SysctlDeviceCounts;

use crate::hypercall::ctl;
use crate::{guest, xenbus};

/// `OVERCAST_SYSCTL_DEVICE_COUNTS`: what was done for each device.
pub fn counts(u: &mut ctl::Arguments) -> Result<()> {
    let mut args: SysctlDeviceCounts = ctl::get(u)?;
    let all = xenbus::counts();
    for (index, counts) in (0..u64::from(args.room)).zip(&all) {
        guest::write_item(args.buffer, index, counts)?;
    }
    args.count = u32::try_from(all.len()).unwrap_or(u32::MAX);
    ctl::put(u, &args);
    Ok(())
}
