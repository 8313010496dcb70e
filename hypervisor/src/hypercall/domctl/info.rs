//! What domains and their vCPUs do, and where they may run.

use core::sync::atomic::Ordering;

use overcast_core::error::{Error, Result};
use overcast_core::ids::VcpuId;
use xen_abi::arch_x86::ArchDomainconfig;
use xen_abi::domctl::*;
use xen_abi::vcpu::RUNSTATE_RUNNING;

use super::super::ctl;
use super::Target;
use crate::domain::{Domain, Life, Share};
use crate::vcpu::{Power, Vcpu};
use crate::{schedule, time};

/// Bits of a guest's physical address where the hardware translates it, as Xen
/// says for every domain.
const GUEST_ADDRESS_BITS: u8 = 52;

/// How long a vCPU ran, ns.
fn running_time(vcpu: &Vcpu) -> u64 {
    time::runstate_info(vcpu).time[RUNSTATE_RUNNING as usize]
}

/// `struct xen_domctl_getdomaininfo` of a domain.
pub fn domain_info(domain: &Domain) -> DomctlGetdomaininfo {
    let mut flags = XEN_DOMINF_BLOCKED;
    let mut online = 0;
    let mut cpu_time = 0u64;
    let mut max_vcpu_id = XEN_INVALID_MAX_VCPU_ID;
    for vcpu in domain.vcpus() {
        cpu_time = cpu_time.wrapping_add(running_time(vcpu));
        max_vcpu_id = vcpu.id.0;
        if vcpu.power() == Power::Up {
            if !vcpu.blocked.load(Ordering::Relaxed) {
                flags &= !XEN_DOMINF_BLOCKED;
            }
            if schedule::is_running(vcpu) {
                flags |= XEN_DOMINF_RUNNING;
            }
            online += 1;
        }
    }
    if online == 0 {
        flags = 0;
    }
    for (flag, set) in [
        (XEN_DOMINF_SHUTDOWN, domain.shutdown_reason().is_some()),
        (XEN_DOMINF_PAUSED, domain.is_paused_by_controller()),
        (XEN_DOMINF_DYING, domain.life_stage() == Life::Dead),
        (XEN_DOMINF_DEBUGGED, domain.debugged.load(Ordering::Relaxed)),
        (XEN_DOMINF_XS_DOMAIN, domain.store),
    ] {
        if set {
            flags |= flag;
        }
    }
    flags |= domain.shutdown_code() << XEN_DOMINF_SHUTDOWNSHIFT;
    DomctlGetdomaininfo {
        domain: domain.id.0,
        pad1: 0,
        flags,
        tot_pages: domain.mm.total_pages(),
        max_pages: domain.mm.max_pages(),
        outstanding_pages: 0,
        shr_pages: 0,
        paged_pages: 0,
        shared_info_frame: domain.shared_info.0,
        cpu_time,
        nr_online_vcpus: online,
        max_vcpu_id,
        ssidref: 0,
        handle: *domain.handle.lock(),
        cpupool: 0,
        gpaddr_bits: GUEST_ADDRESS_BITS,
        pad2: [0; 7],
        arch_config: ArchDomainconfig {
            emulation_flags: domain.emulation_flags,
            misc_flags: 0,
        },
    }
}

/// The vCPU that an operation names: EINVAL beyond the domain's, ESRCH if it was not made.
fn find(domain: &Domain, id: u32) -> Result<&Vcpu> {
    if id >= domain.max_vcpus() {
        return Err(Error::Invalid);
    }
    domain.vcpu(VcpuId(id)).ok_or(Error::NoDomain)
}

/// `XEN_DOMCTL_getvcpuinfo`.
pub fn vcpu_info(target: &mut Target<'_, '_>, u: &mut ctl::Arguments) -> Result<()> {
    let mut args: DomctlGetvcpuinfo = ctl::get(u)?;
    let vcpu = find(target.domain, args.vcpu)?;
    args.online = u8::from(vcpu.power() == Power::Up);
    args.blocked = u8::from(vcpu.blocked.load(Ordering::Relaxed));
    args.running = u8::from(schedule::is_running(vcpu));
    args.cpu_time = running_time(vcpu);
    args.cpu = schedule::home(vcpu).0;
    ctl::put(u, &args);
    target.has_answer = true;
    Ok(())
}

/// Checks the arguments about affinity; gives them and the vCPU.
fn affinity_arguments<'d>(
    domain: &'d Domain,
    u: &ctl::Arguments,
) -> Result<(DomctlVcpuaffinity, &'d Vcpu)> {
    let args: DomctlVcpuaffinity = ctl::get(u)?;
    let vcpu = find(domain, args.vcpu)?;
    let lacks =
        |flag, map: &xen_abi::xen::XenctlBitmap| args.flags & flag != 0 && map.bitmap.is_null();
    if args.flags == 0
        || lacks(XEN_VCPUAFFINITY_HARD, &args.cpumap_hard)
        || lacks(XEN_VCPUAFFINITY_SOFT, &args.cpumap_soft)
    {
        return Err(Error::Invalid);
    }
    Ok((args, vcpu))
}

/// `XEN_DOMCTL_getvcpuaffinity`.
pub fn get_affinity(domain: &Domain, u: &ctl::Arguments) -> Result<()> {
    let (args, vcpu) = affinity_arguments(domain, u)?;
    if args.flags & XEN_VCPUAFFINITY_HARD != 0 {
        ctl::write_cpus(&args.cpumap_hard, &schedule::affinity(vcpu))?;
    }
    if args.flags & XEN_VCPUAFFINITY_SOFT != 0 {
        let soft = *vcpu.soft_affinity.lock();
        ctl::write_cpus(&args.cpumap_soft, &soft)?;
    }
    Ok(())
}

/// `XEN_DOMCTL_setvcpuaffinity`: what is asked for is set, and what is in
/// force is written back. Preferences (soft affinity) are noted, and have no effect.
pub fn set_affinity(domain: &Domain, u: &ctl::Arguments) -> Result<()> {
    let (args, vcpu) = affinity_arguments(domain, u)?;
    if args.flags & XEN_VCPUAFFINITY_FORCE != 0 {
        // Lets go of a vCPU that bound itself; it may not have.
        let _ = schedule::pin_override(vcpu, -1);
    }
    if args.flags & XEN_VCPUAFFINITY_HARD != 0 {
        schedule::set_affinity(vcpu, ctl::read_cpus(&args.cpumap_hard)?)?;
        ctl::write_cpus(&args.cpumap_hard, &schedule::affinity(vcpu))?;
    }
    if args.flags & XEN_VCPUAFFINITY_SOFT != 0 {
        let wanted = ctl::read_cpus(&args.cpumap_soft)?;
        *vcpu.soft_affinity.lock() = wanted;
        ctl::write_cpus(
            &args.cpumap_soft,
            &wanted.intersection(&schedule::affinity(vcpu)),
        )?;
    }
    Ok(())
}

/// `XEN_DOMCTL_scheduler_op`: a domain's weight and cap. A weight of 0 leaves the old one.
pub fn scheduler(target: &mut Target<'_, '_>, u: &mut ctl::Arguments) -> Result<()> {
    let mut args: DomctlSchedulerOp = ctl::get(u)?;
    target.has_answer = true;
    if args.sched_id != XEN_SCHEDULER_CREDIT2 {
        return Err(Error::Invalid);
    }
    let share = *target.domain.share.lock();
    match args.cmd {
        XEN_DOMCTL_SCHEDOP_GETINFO => {
            // `struct xen_domctl_sched_credit2`: weight and cap, 16 bits each.
            args.u[0] = u64::from(share.weight as u16) | u64::from(share.cap as u16) << 16;
            ctl::put(u, &args);
            Ok(())
        }
        XEN_DOMCTL_SCHEDOP_PUTINFO => {
            let (weight, cap) = (args.u[0] as u16, (args.u[0] >> 16) as u16);
            let share = Share {
                weight: if weight == 0 {
                    share.weight
                } else {
                    weight.into()
                },
                cap: cap.into(),
            };
            schedule::set_share(target.domain, share)
        }
        _ => Err(Error::Invalid),
    }
}
