//! `platform_op` (platform.h), as far as a Dom0 without hardware asks.

use core::mem::offset_of;

use overcast_core::addr::GuestVirtual;
use overcast_core::error::{Error, Result};
use xen_abi::platform::*;

use super::Call;
use crate::arch::percpu;
use crate::{guest, time};

/// Offset of the union in `struct xen_platform_op`, bytes.
const PAYLOAD: u64 = offset_of!(PlatformOp, u) as u64;

/// `HYPERVISOR_platform_op(op)`: EFAULT, EPERM for a domain without privilege,
/// EACCES for another interface version, ENOSYS for an unknown command.
pub fn platform_op(call: &mut Call<'_>) -> Result<i64> {
    let at = call.address(0);
    let command: u32 = guest::read(at)?;
    let version: u32 = guest::read(GuestVirtual(at.0.wrapping_add(4)))?;
    if version != XENPF_INTERFACE_VERSION {
        return Err(Error::Access);
    }
    call.require_privilege()?;
    let payload = GuestVirtual(at.0.wrapping_add(PAYLOAD));
    match command {
        XENPF_SETTIME32 => {
            let op: XenpfSettime32 = guest::read(payload)?;
            time::set_wall_clock(u64::from(op.secs), op.nsecs, op.system_time);
            Ok(0)
        }
        XENPF_SETTIME64 => {
            let op: XenpfSettime64 = guest::read(payload)?;
            if op.mbz != 0 {
                return Err(Error::Invalid);
            }
            time::set_wall_clock(op.secs, op.nsecs, op.system_time);
            Ok(0)
        }
        XENPF_GET_CPUINFO => {
            let mut op: XenpfPcpuinfo = guest::read(payload)?;
            let last = percpu::all().map(|cpu| cpu.cpu.0).max().unwrap_or(0);
            op.max_present = last;
            match percpu::all().find(|cpu| cpu.cpu.0 == op.xen_cpuid) {
                Some(cpu) => {
                    op.apic_id = cpu.apic_id;
                    op.acpi_id = cpu.cpu.0;
                    op.flags = XEN_PCPU_FLAGS_ONLINE;
                }
                None => op.flags = XEN_PCPU_FLAGS_INVALID,
            }
            guest::write(payload, &op)?;
            Ok(0)
        }
        // The firmware of the first layer is not shown.
        XENPF_FIRMWARE_INFO | XENPF_EFI_RUNTIME_CALL => Err(Error::NotImplemented),
        XENPF_ENTER_ACPI_SLEEP | XENPF_SET_PROCESSOR_PMINFO => Err(Error::NotImplemented),
        _ => Err(Error::NotImplemented),
    }
}
