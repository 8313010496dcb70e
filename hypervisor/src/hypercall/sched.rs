//! `sched_op` (sched.h).

use overcast_core::error::{Error, Result};
use overcast_core::ids::{DomainId, EventPort};
use xen_abi::sched::*;
use xen_abi::xen::GuestHandle;

use super::Call;
use crate::host::Host;
use crate::{domain, guest, schedule, softirq, time};

/// Ports that one `SCHEDOP_poll` may name.
const MAX_POLL_PORTS: u32 = 128;
/// The bits of a reason for a shutdown that count.
const REASON: u32 = 0xff;
/// Watchdogs of a domain.
const WATCHDOGS: u32 = 2;

/// `HYPERVISOR_sched_op(cmd, arg)`.
pub fn sched_op(call: &mut Call<'_>) -> Result<i64> {
    let arg = call.address(1);
    match call.args[0] as u32 {
        SCHEDOP_YIELD => {
            schedule::yield_current();
            Ok(0)
        }
        SCHEDOP_BLOCK => {
            schedule::block_current(call.vcpu);
            Ok(0)
        }
        SCHEDOP_SHUTDOWN => {
            let op: SchedShutdown = guest::read(arg)?;
            shut_down(call, op.reason);
            Ok(0)
        }
        SCHEDOP_SHUTDOWN_CODE => {
            let op: SchedShutdown = guest::read(arg)?;
            call.domain.set_shutdown_code(op.reason & REASON);
            Ok(0)
        }
        SCHEDOP_POLL => {
            let op: SchedPoll = guest::read(arg)?;
            poll(call, op.ports, op.nr_ports, op.timeout)
        }
        SCHEDOP_REMOTE_SHUTDOWN => {
            let op: SchedRemoteShutdown = guest::read(arg)?;
            let target = domain::find(DomainId(op.domain_id)).ok_or(Error::NoDomain)?;
            call.require_privilege()?;
            domain::shutdown(&target, op.reason & REASON);
            Ok(0)
        }
        SCHEDOP_WATCHDOG => {
            let op: SchedWatchdog = guest::read(arg)?;
            watchdog(call, op.id, op.timeout)
        }
        SCHEDOP_PIN_OVERRIDE => {
            call.require_privilege()?;
            let op: SchedPinOverride = guest::read(arg)?;
            schedule::pin_override(call.vcpu, op.pcpu)?;
            Ok(0)
        }
        _ => Err(Error::NotImplemented),
    }
}

/// `HYPERVISOR_sched_op_compat(cmd, arg)`: the first form of the call.
pub fn sched_op_compat(call: &mut Call<'_>) -> Result<i64> {
    match call.args[0] as u32 {
        SCHEDOP_YIELD => schedule::yield_current(),
        SCHEDOP_BLOCK => schedule::block_current(call.vcpu),
        SCHEDOP_SHUTDOWN => shut_down(call, call.args[1] as u32),
        _ => return Err(Error::NotImplemented),
    }
    Ok(0)
}

/// The caller ends its domain. One that gives up shows where it was.
fn shut_down(call: &Call<'_>, reason: u32) {
    let reason = reason & REASON;
    if reason == SHUTDOWN_CRASH {
        crate::dump::vcpu(call.vcpu, call.regs);
    }
    domain::shutdown(call.domain, reason);
}

/// Waits until one of the ports has an event, or until the time (ns of system
/// time; 0 for ever). EINVAL for too many ports or one that is not bound.
fn poll(call: &mut Call<'_>, ports: GuestHandle, count: u32, timeout: u64) -> Result<i64> {
    if count > MAX_POLL_PORTS {
        return Err(Error::Invalid);
    }
    if !guest::array_ok::<u32>(ports, count.into()) {
        return Err(Error::Fault);
    }
    let (vcpu, events) = (call.vcpu, &call.domain.events);
    schedule::begin_poll(vcpu, count);
    events.poll_begin(vcpu.id);
    let look = || -> Result<bool> {
        // An event that is allowed to interrupt ends the wait as well.
        if vcpu.upcall_due() {
            return Ok(true);
        }
        for index in 0..u64::from(count) {
            let port: u32 = guest::read_item(ports, index)?;
            if events.poll_port(&Host, EventPort(port))? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    match look() {
        Ok(false) => {}
        done => {
            events.poll_end(vcpu.id);
            schedule::end_poll(vcpu);
            return done.map(|_| 0);
        }
    }
    if count == 1 {
        let port: u32 = guest::read_item(ports, 0).unwrap_or(0);
        events.poll_only(vcpu.id, EventPort(port));
    }
    if timeout != 0 {
        softirq::set_vcpu_timer(softirq::Timer::Poll, vcpu, timeout);
    }
    schedule::sleep_in_poll(vcpu);
    Ok(0)
}

/// `SCHEDOP_watchdog`: id 0 makes one (its id is the result), another sets its
/// timeout in seconds, with 0 stops it. EINVAL for an unknown one, ENOSPC if
/// there is none left.
fn watchdog(call: &mut Call<'_>, id: u32, timeout: u32) -> Result<i64> {
    if id > WATCHDOGS {
        return Err(Error::Invalid);
    }
    let deadline = time::now().saturating_add(u64::from(timeout) * 1_000_000_000);
    let mut in_use = call.domain.watchdogs.lock();
    if id == 0 {
        let free = (0..WATCHDOGS)
            .find(|&n| *in_use & (1 << n) == 0)
            .ok_or(Error::NoSpace)?;
        *in_use |= 1 << free;
        softirq::set_watchdog(call.domain, free, Some(deadline));
        return Ok(i64::from(free) + 1);
    }
    let index = id - 1;
    if *in_use & (1 << index) == 0 {
        return Err(Error::Invalid);
    }
    if timeout == 0 {
        *in_use &= !(1 << index);
        softirq::set_watchdog(call.domain, index, None);
    } else {
        softirq::set_watchdog(call.domain, index, Some(deadline));
    }
    Ok(0)
}
