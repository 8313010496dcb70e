//! `event_channel_op` (event_channel.h).

use alloc::sync::Arc;

use overcast_core::addr::{GuestVirtual, Mfn};
use overcast_core::error::{Error, Result};
use overcast_core::event::{EventChannels, PortState};
use overcast_core::ids::{DomainId, EventPort, VcpuId};
use xen_abi::event_channel::*;

use super::{Call, PreemptByEvents};
use crate::domain::{self, Domain};
use crate::guest;
use crate::host::Host;

/// The domain that `id` names for an operation on event channels: the caller's
/// own, or any other for a control domain.
fn domain_of(call: &Call<'_>, id: u16) -> Result<Arc<Domain>> {
    let domain = domain::resolve(call.domain, DomainId(id)).ok_or(Error::NoDomain)?;
    if !core::ptr::eq(&*domain, call.domain) {
        call.require_privilege()?;
    }
    Ok(domain)
}

/// `HYPERVISOR_event_channel_op(cmd, arg)`.
pub fn event_channel_op(call: &mut Call<'_>) -> Result<i64> {
    let arg = call.address(1);
    operate(call, call.args[0] as u32, arg)
}

/// `HYPERVISOR_event_channel_op_compat(op)`: command and argument in one structure.
pub fn event_channel_op_compat(call: &mut Call<'_>) -> Result<i64> {
    let op: EvtchnOp = guest::read(call.address(0))?;
    match op.cmd {
        EVTCHNOP_BIND_INTERDOMAIN..=EVTCHNOP_UNMASK => {
            let arg = call.args[0].checked_add(8).ok_or(Error::Fault)?;
            operate(call, op.cmd, GuestVirtual(arg))
        }
        _ => Err(Error::NotImplemented),
    }
}

fn operate(call: &mut Call<'_>, command: u32, arg: GuestVirtual) -> Result<i64> {
    let events: &Arc<EventChannels> = &call.domain.events;
    match command {
        EVTCHNOP_ALLOC_UNBOUND => {
            let mut op: EvtchnAllocUnbound = guest::read(arg)?;
            let domain = domain_of(call, op.dom)?;
            let remote = if op.remote_dom == DomainId::SELF.0 {
                call.domain.id
            } else {
                DomainId(op.remote_dom)
            };
            let port = domain.events.alloc_unbound(&Host, remote)?;
            op.port = port.0;
            if guest::write(arg, &op).is_err() {
                let _ = domain.events.close(&Host, port);
                return Err(Error::Fault);
            }
        }
        EVTCHNOP_BIND_INTERDOMAIN => {
            let mut op: EvtchnBindInterdomain = guest::read(arg)?;
            let remote =
                domain::resolve(call.domain, DomainId(op.remote_dom)).ok_or(Error::NoDomain)?;
            let port = events.bind_interdomain(&Host, &remote.events, EventPort(op.remote_port))?;
            op.local_port = port.0;
            finish_bind(call, arg, &op, port)?;
        }
        EVTCHNOP_BIND_VIRQ => {
            let mut op: EvtchnBindVirq = guest::read(arg)?;
            let port = events.bind_virq(&Host, op.virq, VcpuId(op.vcpu))?;
            op.port = port.0;
            finish_bind(call, arg, &op, port)?;
        }
        EVTCHNOP_BIND_IPI => {
            let mut op: EvtchnBindIpi = guest::read(arg)?;
            let port = events.bind_ipi(&Host, VcpuId(op.vcpu))?;
            op.port = port.0;
            finish_bind(call, arg, &op, port)?;
        }
        EVTCHNOP_BIND_PIRQ => {
            let mut op: EvtchnBindPirq = guest::read(arg)?;
            let port = events.bind_pirq(op.pirq)?;
            op.port = port.0;
            finish_bind(call, arg, &op, port)?;
        }
        EVTCHNOP_CLOSE => {
            let op: EvtchnClose = guest::read(arg)?;
            events.close(&Host, EventPort(op.port))?;
        }
        EVTCHNOP_SEND => {
            let op: EvtchnSend = guest::read(arg)?;
            if let Some(event) = events.send(&Host, EventPort(op.port))? {
                domain::hypervisor_event(event);
            }
        }
        EVTCHNOP_STATUS => {
            let mut op: EvtchnStatus = guest::read(arg)?;
            let domain = domain_of(call, op.dom)?;
            let status = domain.events.status(EventPort(op.port))?;
            op.vcpu = status.vcpu.0;
            op.u = [0; 2];
            (op.status, op.u[0], op.u[1]) = match status.state {
                PortState::Closed => (EVTCHNSTAT_CLOSED, 0, 0),
                PortState::Unbound(remote) => (EVTCHNSTAT_UNBOUND, u32::from(remote.0), 0),
                PortState::Interdomain(remote, port) => {
                    (EVTCHNSTAT_INTERDOMAIN, u32::from(remote.0), port.0)
                }
                PortState::Virq(virq) => (EVTCHNSTAT_VIRQ, virq, 0),
                PortState::Ipi => (EVTCHNSTAT_IPI, 0, 0),
            };
            guest::write(arg, &op)?;
        }
        EVTCHNOP_BIND_VCPU => {
            let op: EvtchnBindVcpu = guest::read(arg)?;
            events.bind_vcpu(EventPort(op.port), VcpuId(op.vcpu))?;
        }
        EVTCHNOP_UNMASK => {
            let op: EvtchnUnmask = guest::read(arg)?;
            events.unmask(&Host, EventPort(op.port))?;
        }
        EVTCHNOP_RESET | RESET_CONTINUED => {
            let op: EvtchnReset = guest::read(arg)?;
            let domain = domain_of(call, op.dom)?;
            let resuming = command == RESET_CONTINUED;
            let result = domain
                .events
                .reset(&Host, resuming, &PreemptByEvents(call.vcpu));
            if result == Err(Error::Restart) {
                call.args[0] = u64::from(RESET_CONTINUED);
            }
            result?;
        }
        EVTCHNOP_INIT_CONTROL => {
            let mut op: EvtchnInitControl = guest::read(arg)?;
            op.link_bits =
                events.init_control(&Host, VcpuId(op.vcpu), Mfn(op.control_gfn), op.offset)?;
            guest::write(arg, &op)?;
        }
        EVTCHNOP_EXPAND_ARRAY => {
            let op: EvtchnExpandArray = guest::read(arg)?;
            events.expand_array(&Host, Mfn(op.array_gfn))?;
        }
        EVTCHNOP_SET_PRIORITY => {
            let op: EvtchnSetPriority = guest::read(arg)?;
            events.set_priority(EventPort(op.port), op.priority)?;
        }
        _ => return Err(Error::NotImplemented),
    }
    Ok(0)
}

/// `EVTCHNOP_reset_cont`: how Xen itself continues a reset that was preempted.
const RESET_CONTINUED: u32 = 14;

/// Writes the result of a binding; a caller that cannot take it has the port
/// closed again.
fn finish_bind<T: zerocopy::IntoBytes + zerocopy::Immutable>(
    call: &Call<'_>,
    arg: GuestVirtual,
    op: &T,
    port: EventPort,
) -> Result<()> {
    guest::write(arg, op).inspect_err(|_| {
        let _ = call.domain.events.close(&Host, port);
    })
}
