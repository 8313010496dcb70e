//! `vcpu_op` (vcpu.h) and `set_timer_op` (xen.h).

use core::sync::atomic::Ordering;

use overcast_core::addr::{GuestVirtual, MachineAddress, Mfn};
use overcast_core::error::{Error, Result};
use overcast_core::ids::VcpuId;
use xen_abi::arch_x86::VcpuGuestContext;
use xen_abi::vcpu::*;
use zerocopy::FromZeros;

use super::Call;
use crate::host::Host;
use crate::softirq::{self, Timer};
use crate::vcpu::{Power, Vcpu};
use crate::{context, guest, schedule, time};

/// The shortest period of a periodic timer, ns.
const SHORTEST_PERIOD: u64 = 1_000_000;
/// The longest period of a periodic timer, ns.
const LONGEST_PERIOD: u64 = (1 << 63) - 1;

/// `HYPERVISOR_vcpu_op(cmd, vcpu, arg)`: ENOENT for a vCPU that there is not.
pub fn vcpu_op(call: &mut Call<'_>) -> Result<i64> {
    let command = call.args[0] as u32;
    let arg = call.address(2);
    let id = VcpuId(call.args[1] as u32);
    let vcpu = call.domain.vcpu(id).ok_or(Error::NoEntry)?;
    let own = core::ptr::eq(vcpu, call.vcpu);
    match command {
        VCPUOP_INITIALISE => {
            if call.domain.events.vcpu_info_location(id).is_none() {
                // Beyond the vCPUs of `shared_info` it must register its own first.
                return Err(Error::Invalid);
            }
            let mut context =
                alloc::boxed::Box::<VcpuGuestContext>::new(VcpuGuestContext::new_zeroed());
            guest::read_bytes(arg, zerocopy::IntoBytes::as_mut_bytes(&mut *context))?;
            let _life = call.domain.life.lock();
            if vcpu.power() != Power::Uninitialised {
                return Err(Error::Exists);
            }
            context::set(
                call.domain,
                vcpu,
                &context,
                &super::PreemptByEvents(call.vcpu),
            )?;
            vcpu.set_power(Power::Down);
            Ok(0)
        }
        VCPUOP_UP => {
            let _life = call.domain.life.lock();
            if vcpu.power() == Power::Uninitialised {
                return Err(Error::Invalid);
            }
            if vcpu.power() == Power::Down {
                vcpu.set_power(Power::Up);
                schedule::wake(vcpu);
            }
            Ok(0)
        }
        VCPUOP_DOWN => {
            let life = call.domain.life.lock();
            if vcpu.power() == Power::Up {
                // The last vCPU that goes down takes the domain with it.
                let others_up = call
                    .domain
                    .vcpus()
                    .any(|other| !core::ptr::eq(other, vcpu) && other.power() == Power::Up);
                if !others_up {
                    drop(life);
                    crate::domain::shutdown(call.domain, xen_abi::sched::SHUTDOWN_POWEROFF);
                    return Ok(0);
                }
                vcpu.set_power(Power::Down);
                schedule::sleep(vcpu);
            }
            Ok(0)
        }
        VCPUOP_IS_UP => Ok(i64::from(vcpu.power() == Power::Up)),
        VCPUOP_GET_RUNSTATE_INFO => {
            guest::write(arg, &time::runstate_info(vcpu))?;
            Ok(0)
        }
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA => {
            let area: VcpuRegisterRunstateMemoryArea = guest::read(arg)?;
            if !GuestVirtual(area.addr).access_ok(size_of::<VcpuRunstateInfo>() as u64) {
                return Err(Error::Fault);
            }
            vcpu.runstate_area.store(area.addr, Ordering::Release);
            if own {
                time::write_runstate(vcpu);
            } else {
                let _ = guest::write(GuestVirtual(area.addr), &time::runstate_info(vcpu));
            }
            Ok(0)
        }
        VCPUOP_SET_PERIODIC_TIMER => {
            let op: VcpuSetPeriodicTimer = guest::read(arg)?;
            if op.period_ns < SHORTEST_PERIOD || op.period_ns > LONGEST_PERIOD {
                return Err(Error::Invalid);
            }
            vcpu.timers.period.store(op.period_ns, Ordering::Relaxed);
            softirq::set_vcpu_timer(
                Timer::Periodic,
                vcpu,
                time::now().saturating_add(op.period_ns),
            );
            Ok(0)
        }
        VCPUOP_STOP_PERIODIC_TIMER => {
            vcpu.timers.period.store(0, Ordering::Relaxed);
            softirq::cancel_vcpu_timer(Timer::Periodic, vcpu);
            Ok(0)
        }
        VCPUOP_SET_SINGLESHOT_TIMER => {
            if !own {
                return Err(Error::Invalid);
            }
            let op: VcpuSetSingleshotTimer = guest::read(arg)?;
            softirq::set_vcpu_timer(Timer::OneShot, vcpu, op.timeout_abs_ns);
            Ok(0)
        }
        VCPUOP_STOP_SINGLESHOT_TIMER => {
            if !own {
                return Err(Error::Invalid);
            }
            softirq::cancel_vcpu_timer(Timer::OneShot, vcpu);
            Ok(0)
        }
        VCPUOP_REGISTER_VCPU_INFO => {
            let op: VcpuRegisterVcpuInfo = guest::read(arg)?;
            register_info(call, vcpu, &op)
        }
        VCPUOP_SEND_NMI => {
            if arg.0 != 0 {
                return Err(Error::Invalid);
            }
            if !vcpu
                .async_exception
                .nmi_pending
                .swap(true, Ordering::AcqRel)
            {
                schedule::kick(vcpu);
            }
            Ok(0)
        }
        VCPUOP_GET_PHYSID => Err(Error::Invalid),
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA => {
            let area: VcpuRegisterTimeMemoryArea = guest::read(arg)?;
            if !GuestVirtual(area.addr).access_ok(size_of::<xen_abi::xen::VcpuTimeInfo>() as u64) {
                return Err(Error::Fault);
            }
            vcpu.time_area.store(area.addr, Ordering::Release);
            vcpu.time_area_stale.store(true, Ordering::Release);
            if own {
                time::write_time_area(vcpu);
            }
            Ok(0)
        }
        _ => Err(Error::NotImplemented),
    }
}

/// `VCPUOP_register_vcpu_info`.
fn register_info(call: &Call<'_>, vcpu: &Vcpu, op: &VcpuRegisterVcpuInfo) -> Result<i64> {
    let own = core::ptr::eq(vcpu, call.vcpu);
    // Nobody brings it up meanwhile.
    let _life = call.domain.life.lock();
    let idle = own || vcpu.power() != Power::Up;
    let events = &call.domain.events;
    events.register_vcpu_info(&Host, vcpu.id, Mfn(op.mfn), op.offset, idle)?;
    let address = Mfn(op.mfn).address().get() + u64::from(op.offset);
    vcpu.set_info_address(MachineAddress(address));
    time::write_vcpu_time(vcpu);
    Ok(0)
}

/// `HYPERVISOR_set_timer_op(timeout)`: the one-shot timer of the caller, ns of
/// system time; 0 stops it.
pub fn set_timer_op(call: &mut Call<'_>) -> Result<i64> {
    let timeout = call.args[0];
    if timeout == 0 {
        softirq::cancel_vcpu_timer(Timer::OneShot, call.vcpu);
        return Ok(0);
    }
    // Linux computes wrongly around a wrap of its clock; Xen gives such a guest
    // a timeout that is soon instead of one in a hundred days.
    let now = time::now();
    let far = (timeout as i64) < 0 || timeout.saturating_sub(now) >> 50 != 0;
    let deadline = if far {
        now.saturating_add(100_000_000)
    } else {
        timeout
    };
    softirq::set_vcpu_timer(Timer::OneShot, call.vcpu, deadline);
    Ok(0)
}
