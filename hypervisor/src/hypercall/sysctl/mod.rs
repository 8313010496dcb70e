//! `sysctl` (sysctl.h): control of the machine, for a control domain.
//!
//! Not there, and answered with ENOSYS: trace buffers, performance counters, lock
//! profiling, taking pages offline, and live patches. Beside Xen's operations there are those
//! of `xen_abi::overcast`.

mod console;
mod devices;
mod machine;
mod pool;

use core::mem::offset_of;

use overcast_core::error::{Error, Result};
use overcast_core::ids::DomainId;
use xen_abi::overcast::OVERCAST_SYSCTL_DEVICE_COUNTS;
use xen_abi::sysctl::*;
use zerocopy::{Immutable, IntoBytes};

use super::{Call, ctl, domctl};
use crate::{domain, guest};

/// Whether the operation is written back to the guest as a whole.
enum Answer {
    /// All of it.
    Whole,
    /// Nothing, or the function has written what there is to write.
    Done,
}

/// `HYPERVISOR_sysctl(op)`: EFAULT, EACCES for another interface version, EPERM
/// for a domain without privilege, ENOSYS for what is not there.
pub fn sysctl(call: &mut Call<'_>) -> Result<i64> {
    let mut op: Sysctl = guest::read(call.address(0))?;
    if op.interface_version != XEN_SYSCTL_INTERFACE_VERSION {
        return Err(Error::Access);
    }
    call.require_privilege()?;
    if let Answer::Whole = perform(call, &mut op)? {
        guest::write(call.address(0), &op)?;
    }
    Ok(0)
}

fn perform(call: &Call<'_>, op: &mut Sysctl) -> Result<Answer> {
    let u = &mut op.u;
    match op.cmd {
        XEN_SYSCTL_READCONSOLE => console::read(u)?,
        XEN_SYSCTL_DEBUG_KEYS => {
            console::press(u)?;
            return Ok(Answer::Done);
        }
        XEN_SYSCTL_PHYSINFO => ctl::put(u, &machine::physinfo()),
        XEN_SYSCTL_SCHED_ID => ctl::put(
            u,
            &SysctlSchedId {
                sched_id: pool::SCHEDULER,
            },
        ),
        XEN_SYSCTL_GETDOMAININFOLIST => domain_list(u)?,
        XEN_SYSCTL_GETCPUINFO => machine::cpu_info(u)?,
        XEN_SYSCTL_AVAILHEAP => machine::available_heap(u)?,
        XEN_SYSCTL_CPUPOOL_OP => pool::cpupool(u)?,
        XEN_SYSCTL_SCHEDULER_OP => pool::scheduler(u)?,
        XEN_SYSCTL_NUMAINFO => return machine::numa_info(call, u),
        XEN_SYSCTL_CPUTOPOINFO => return machine::cpu_topology(call, u),
        XEN_SYSCTL_PCITOPOINFO => return machine::pci_topology(call, u),
        XEN_SYSCTL_GET_CPU_LEVELLING_CAPS => {
            // What CPUID shows is not changed by masking MSRs.
            ctl::put(u, &SysctlCpuLevellingCaps { caps: 0 });
            write_field(call, &0u32, offset_of!(SysctlCpuLevellingCaps, caps))?;
            return Ok(Answer::Done);
        }
        XEN_SYSCTL_GET_CPU_FEATURESET => return machine::featureset(call, u),
        XEN_SYSCTL_GET_CPU_POLICY => return machine::policy(call, u),
        // There are neither frequencies nor idle states to be managed.
        XEN_SYSCTL_GET_PMSTAT => return Err(Error::NotThere),
        XEN_SYSCTL_PM_OP => {
            let args: SysctlPmOp = ctl::get(u)?;
            return Err(match args.cmd & PM_PARA_CATEGORY_MASK {
                CPUFREQ_PARA => Error::NotThere,
                _ => Error::NotSupported,
            });
        }
        // No cache or bandwidth monitoring.
        XEN_SYSCTL_PSR_CMT_OP => return Err(Error::NotThere),
        XEN_SYSCTL_PSR_ALLOC => {
            let args: SysctlPsrAlloc = ctl::get(u)?;
            return Err(match args.cmd {
                XEN_SYSCTL_PSR_GET_L3_INFO
                | XEN_SYSCTL_PSR_GET_L2_INFO
                | XEN_SYSCTL_PSR_GET_MBA_INFO => Error::NotThere,
                _ => Error::NotSupported,
            });
        }
        XEN_SYSCTL_CPU_HOTPLUG | XEN_SYSCTL_COVERAGE_OP => return Err(Error::NotSupported),
        OVERCAST_SYSCTL_DEVICE_COUNTS => devices::counts(u)?,
        _ => return Err(Error::NotImplemented),
    }
    Ok(Answer::Whole)
}

/// Writes one field of an operation's arguments back, `offset` bytes into them.
fn write_field<T: IntoBytes + Immutable>(call: &Call<'_>, value: &T, offset: usize) -> Result<()> {
    let at = call.args[0].wrapping_add((offset_of!(Sysctl, u) + offset) as u64);
    guest::write(overcast_core::addr::GuestVirtual(at), value)
}

/// `XEN_SYSCTL_getdomaininfolist`: all domains from one on.
fn domain_list(u: &mut ctl::Arguments) -> Result<()> {
    let mut args: SysctlGetdomaininfolist = ctl::get(u)?;
    args.num_domains = 0;
    for domain in domain::all() {
        if domain.id < DomainId(args.first_domain) {
            continue;
        }
        if args.num_domains == args.max_domains {
            break;
        }
        let info = domctl::domain_info(&domain);
        guest::write_item(args.buffer, args.num_domains.into(), &info)?;
        args.num_domains += 1;
    }
    ctl::put(u, &args);
    Ok(())
}
