//! The CPU pool, of which there is one, and the scheduler.

use overcast_core::error::{Error, Result};
use overcast_core::ids::CpuSet;
use xen_abi::domctl::XEN_SCHEDULER_CREDIT2;
use xen_abi::sysctl::*;

use super::super::ctl;
use crate::arch::percpu;
use crate::domain;
use crate::start::options;

/// What the scheduler is called: it shares the CPUs by weight and cap, as the one of this name.
pub const SCHEDULER: u32 = XEN_SCHEDULER_CREDIT2;
/// The pool of all CPUs and domains.
const POOL: u32 = 0;

/// The CPUs that there are.
fn online() -> CpuSet {
    let mut cpus = CpuSet::EMPTY;
    percpu::all().for_each(|cpu| cpus.insert(cpu.cpu));
    cpus
}

/// `XEN_SYSCTL_cpupool_op`: what is in the pool. The pool cannot be changed, nor
/// another be made.
pub fn cpupool(u: &mut ctl::Arguments) -> Result<()> {
    let mut args: SysctlCpupoolOp = ctl::get(u)?;
    match args.op {
        // The first pool of that number or a higher one.
        XEN_SYSCTL_CPUPOOL_OP_INFO if args.cpupool_id == POOL => {
            args.sched_id = SCHEDULER;
            args.n_dom = domain::all().len() as u32;
            ctl::write_cpus(&args.cpumap, &online())?;
        }
        XEN_SYSCTL_CPUPOOL_OP_FREEINFO => ctl::write_cpus(&args.cpumap, &CpuSet::EMPTY)?,
        XEN_SYSCTL_CPUPOOL_OP_CREATE => return Err(Error::NotSupported),
        XEN_SYSCTL_CPUPOOL_OP_DESTROY
        | XEN_SYSCTL_CPUPOOL_OP_ADDCPU
        | XEN_SYSCTL_CPUPOOL_OP_RMCPU
        | XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN
            if args.cpupool_id == POOL =>
        {
            return Err(Error::Busy);
        }
        XEN_SYSCTL_CPUPOOL_OP_INFO
        | XEN_SYSCTL_CPUPOOL_OP_DESTROY
        | XEN_SYSCTL_CPUPOOL_OP_ADDCPU
        | XEN_SYSCTL_CPUPOOL_OP_RMCPU
        | XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN => return Err(Error::NoEntry),
        _ => return Err(Error::NotImplemented),
    }
    ctl::put(u, &args);
    Ok(())
}

/// `XEN_SYSCTL_scheduler_op`: the parameters of the scheduler, which the command
/// line sets for good.
pub fn scheduler(u: &mut ctl::Arguments) -> Result<()> {
    let mut args: SysctlSchedulerOp = ctl::get(u)?;
    if !matches!(
        args.cmd,
        XEN_SYSCTL_SCHEDOP_PUTINFO | XEN_SYSCTL_SCHEDOP_GETINFO
    ) {
        return Err(Error::Invalid);
    }
    if args.cpupool_id != POOL {
        return Err(Error::NoDomain);
    }
    if args.sched_id != SCHEDULER {
        return Err(Error::Invalid);
    }
    if args.cmd == XEN_SYSCTL_SCHEDOP_PUTINFO {
        return Err(Error::NotSupported);
    }
    // `struct xen_sysctl_credit2_schedule` has one field.
    args.u[0] = u64::from(options().sched_ratelimit_us);
    ctl::put(u, &args);
    Ok(())
}
