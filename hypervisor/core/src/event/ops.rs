//! The operations of `HYPERVISOR_event_channel_op` (event_channel.h), and what
//! the hypervisor does with channels itself.
//!
//! Who may act on which domain is the caller's to check: `alloc_unbound`,
//! `status` and `reset` of a domain other than the caller are for privileged
//! callers (EPERM). `DOMID_SELF` is resolved by the caller as well.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::channel::{Channel, State};
use super::{
    ConsumerId, EventChannels, EventHost, FIFO_PRIORITY_MIN, HypervisorEvent, Inner, PIRQS,
    PortState, PortStatus, VIRQS, virq_is_global,
};
use crate::error::{Error, Result};
use crate::ids::{DomainId, EventPort, VcpuId};
use crate::machine::Preempt;

/// How many ports are closed between two looks whether to stop.
const PREEMPT_INTERVAL: u32 = 64;

impl EventChannels {
    pub(super) fn is_dying(&self) -> bool {
        self.dying.load(Ordering::Acquire)
    }

    /// Finds a free port, sets it up by `bind` and gives its number.
    fn bind_free_port<H: EventHost>(
        &self,
        host: &H,
        inner: &mut Inner,
        consumer: Option<ConsumerId>,
        vcpu: u32,
        state: State,
    ) -> Result<(EventPort, &Channel)> {
        let port = self.free_port(host, inner)?;
        let channel = self.ports.get(port).ok_or(Error::NoSpace)?;
        self.occupy(inner, channel, consumer, vcpu, state);
        Ok((port, channel))
    }

    /// Makes a free channel a bound one.
    fn occupy(
        &self,
        inner: &mut Inner,
        channel: &Channel,
        consumer: Option<ConsumerId>,
        vcpu: u32,
        state: State,
    ) {
        let mut held = channel.state.write();
        *held = state;
        channel.vcpu.store(vcpu, Ordering::Release);
        channel.set_consumer(consumer.map(|id| id.0));
        if consumer.is_none() {
            self.init_port(channel);
        }
        inner.active = inner.active.saturating_add(1);
        if consumer.is_some() {
            inner.hypervisors = inner.hypervisors.saturating_add(1);
        }
    }

    /// Makes a bound channel a free one; gives its old state, to be dropped
    /// outside of the locks (it may hold the last reference to a domain).
    fn release<H: EventHost>(
        &self,
        host: &H,
        inner: &mut Inner,
        port: EventPort,
        channel: &Channel,
        state: &mut State,
    ) -> State {
        if channel.is_hypervisors() {
            inner.hypervisors = inner.hypervisors.saturating_sub(1);
        } else {
            // A bit left behind would be a spurious event of the next user.
            self.clear_pending(host, port, channel);
        }
        inner.active = inner.active.saturating_sub(1);
        inner.free_hint = inner.free_hint.min(port.0);
        channel.vcpu.store(0, Ordering::Release);
        channel.set_consumer(None);
        core::mem::replace(state, State::Free)
    }

    /// `EVTCHNOP_alloc_unbound`: allocates a port in this domain that `remote`
    /// may bind to. Errors: `NoSpace` all ports are in use; `Invalid` the domain is
    /// dying; `NoMemory`.
    pub fn alloc_unbound<H: EventHost>(&self, host: &H, remote: DomainId) -> Result<EventPort> {
        let mut inner = self.inner.lock();
        let (port, _) =
            self.bind_free_port(host, &mut inner, None, 0, State::Unbound { remote })?;
        Ok(port)
    }

    /// As [`Self::alloc_unbound`], for a port whose events the hypervisor
    /// consumes: when `remote` has bound to it and sends, its
    /// [`Self::send`] gives the consumer back. `vcpu` is informative.
    pub fn alloc_unbound_for_hypervisor<H: EventHost>(
        &self,
        host: &H,
        remote: DomainId,
        vcpu: VcpuId,
        consumer: ConsumerId,
    ) -> Result<EventPort> {
        let mut inner = self.inner.lock();
        let (port, _) = self.bind_free_port(
            host,
            &mut inner,
            Some(consumer),
            vcpu.0,
            State::Unbound { remote },
        )?;
        Ok(port)
    }

    /// `EVTCHNOP_bind_interdomain`: connects a new port of this domain with
    /// `remote_port`, which must be unbound and wait for this domain. The new
    /// port's event is set, since notifications may have been lost before.
    ///
    /// Errors: `Invalid` no such port, or not for this domain; `NoSpace`, `NoMemory`.
    pub fn bind_interdomain<H: EventHost>(
        self: &Arc<Self>,
        host: &H,
        remote: &Arc<Self>,
        remote_port: EventPort,
    ) -> Result<EventPort> {
        self.connect(host, remote, remote_port, self.domain, None)
    }

    /// Connects a new port of this set, whose events the hypervisor consumes,
    /// with a guest's port that waits for the domain `acting_for`.
    pub fn bind_interdomain_for_hypervisor<H: EventHost>(
        self: &Arc<Self>,
        host: &H,
        remote: &Arc<Self>,
        remote_port: EventPort,
        acting_for: DomainId,
        consumer: ConsumerId,
    ) -> Result<EventPort> {
        self.connect(host, remote, remote_port, acting_for, Some(consumer))
    }

    fn connect<H: EventHost>(
        self: &Arc<Self>,
        host: &H,
        remote: &Arc<Self>,
        remote_port: EventPort,
        acting_for: DomainId,
        consumer: Option<ConsumerId>,
    ) -> Result<EventPort> {
        let (mut inner, _remote_inner) = self.lock_both(remote);
        let port = self.free_port(host, &mut inner)?;
        let local_channel = self.ports.get(port).ok_or(Error::NoSpace)?;
        let remote_channel = remote.ports.get(remote_port).ok_or(Error::Invalid)?;
        match &*remote_channel.state.read() {
            State::Unbound { remote } if *remote == acting_for => {}
            _ => return Err(Error::Invalid),
        }
        self.occupy(
            &mut inner,
            local_channel,
            consumer,
            0,
            State::Interdomain {
                remote: remote.clone(),
                port: remote_port,
                shown: remote.domain,
            },
        );
        *remote_channel.state.write() = State::Interdomain {
            remote: self.clone(),
            port,
            shown: acting_for,
        };
        if consumer.is_none() {
            self.set_pending(host, port, local_channel);
        }
        Ok(port)
    }

    /// `EVTCHNOP_bind_virq`: binds a virtual interrupt of a vCPU, or of the
    /// domain (`vcpu` must then be 0), to a new port.
    ///
    /// Errors: `Invalid` no such interrupt, or a global one for another vCPU
    /// than 0; `NoEntry` no such vCPU; `Exists` it is bound already; `NoSpace`, `NoMemory`.
    pub fn bind_virq<H: EventHost>(&self, host: &H, virq: u32, vcpu: VcpuId) -> Result<EventPort> {
        if virq as usize >= VIRQS || (virq_is_global(virq) && vcpu.0 != 0) {
            return Err(Error::Invalid);
        }
        let slot = self
            .vcpu(vcpu.0)?
            .virqs
            .get(virq as usize)
            .ok_or(Error::Invalid)?;
        let mut inner = self.inner.lock();
        if slot.load(Ordering::Acquire) != 0 {
            return Err(Error::Exists);
        }
        let (port, _) =
            self.bind_free_port(host, &mut inner, None, vcpu.0, State::Virq { virq })?;
        slot.store(port.0, Ordering::Release);
        Ok(port)
    }

    /// `EVTCHNOP_bind_ipi`: a new port for events between the domain's vCPUs,
    /// which notifies `vcpu`. Errors: `NoEntry` no such vCPU; `NoSpace`, `NoMemory`.
    pub fn bind_ipi<H: EventHost>(&self, host: &H, vcpu: VcpuId) -> Result<EventPort> {
        self.vcpu(vcpu.0)?;
        let mut inner = self.inner.lock();
        let (port, _) = self.bind_free_port(host, &mut inner, None, vcpu.0, State::Ipi)?;
        Ok(port)
    }

    /// `EVTCHNOP_bind_pirq`: no domain has physical interrupts. `Invalid` if
    /// there is no such number, else `NotPermitted`.
    pub fn bind_pirq(&self, pirq: u32) -> Result<EventPort> {
        Err(if pirq >= PIRQS {
            Error::Invalid
        } else {
            Error::NotPermitted
        })
    }

    /// `EVTCHNOP_close`: frees a port; the other end of an interdomain channel
    /// becomes unbound. `Invalid` if the port is not in use, or is the hypervisor's.
    pub fn close<H: EventHost>(self: &Arc<Self>, host: &H, port: EventPort) -> Result<()> {
        self.close_port(host, port, true)
    }

    /// Frees a port that the hypervisor allocated or bound for itself.
    pub fn close_for_hypervisor<H: EventHost>(
        self: &Arc<Self>,
        host: &H,
        port: EventPort,
    ) -> Result<()> {
        self.close_port(host, port, false)
    }

    fn close_port<H: EventHost>(
        self: &Arc<Self>,
        host: &H,
        port: EventPort,
        by_guest: bool,
    ) -> Result<()> {
        let channel = self.ports.get(port).ok_or(Error::Invalid)?;
        // The state's reference to the remote domain, and ours, are dropped
        // after all guards: declared first.
        let mut _dropped = State::Free;
        let mut other: Option<Arc<Self>> = None;
        loop {
            let (mut inner, mut remote_inner) = match &other {
                Some(remote) => self.lock_both(remote),
                None => (self.inner.lock(), None),
            };
            if channel.is_hypervisors() && by_guest {
                return Err(Error::Invalid);
            }
            let mut state = channel.state.write();
            match &*state {
                State::Free | State::Reserved => return Err(Error::Invalid),
                State::Unbound { .. } | State::Ipi => {}
                State::Virq { virq } => {
                    let vcpu = if virq_is_global(*virq) {
                        0
                    } else {
                        channel.vcpu.load(Ordering::Acquire)
                    };
                    if let Ok(v) = self.vcpu(vcpu)
                        && let Some(slot) = v.virqs.get(*virq as usize)
                    {
                        slot.store(0, Ordering::Release);
                    }
                }
                State::Interdomain {
                    remote,
                    port: remote_port,
                    ..
                } => {
                    match &other {
                        None => {
                            // Both locks are needed, in order: begin again.
                            let remote = remote.clone();
                            drop(state);
                            drop(remote_inner);
                            drop(inner);
                            other = Some(remote);
                            continue;
                        }
                        // Closed and bound anew while no lock was held: as if we
                        // had come while it was closed.
                        Some(other) if !Arc::ptr_eq(other, remote) => return Err(Error::Invalid),
                        Some(_) => {}
                    }
                    let remote_port = *remote_port;
                    let remote = remote.clone();
                    // A channel is never bound to itself, so this is another
                    // lock. With both domains' locks held, nobody else wants two.
                    let left = remote.ports.get(remote_port).map(|remote_channel| {
                        let mut remote_state = remote_channel.state.write();
                        let acted_for = match &*remote_state {
                            State::Interdomain { shown, .. } => *shown,
                            _ => self.domain,
                        };
                        core::mem::replace(&mut *remote_state, State::Unbound { remote: acted_for })
                    });
                    _dropped = self.release(host, &mut inner, port, channel, &mut state);
                    drop(state);
                    drop(remote_inner.take());
                    drop(inner);
                    drop(left);
                    return Ok(());
                }
            }
            _dropped = self.release(host, &mut inner, port, channel, &mut state);
            return Ok(());
        }
    }

    /// `EVTCHNOP_send`: sets the event at the other end of an interdomain
    /// channel, or that of an IPI port. An unbound port swallows it.
    ///
    /// Gives an event that a consumer in the hypervisor is to be told of.
    /// `Invalid` if the port is not of these kinds or is the hypervisor's.
    pub fn send<H: EventHost>(&self, host: &H, port: EventPort) -> Result<Option<HypervisorEvent>> {
        let channel = self.ports.get(port).ok_or(Error::Invalid)?;
        let state = channel.state.read();
        if channel.is_hypervisors() {
            return Err(Error::Invalid);
        }
        match &*state {
            State::Interdomain {
                remote,
                port: remote_port,
                ..
            } => {
                let remote_channel = remote.ports.get(*remote_port).ok_or(Error::Invalid)?;
                if let Some(consumer) = remote_channel.consumer() {
                    return Ok(Some(HypervisorEvent {
                        consumer: ConsumerId(consumer),
                        domain: remote.domain,
                        port: *remote_port,
                    }));
                }
                remote.set_pending(host, *remote_port, remote_channel);
                Ok(None)
            }
            State::Ipi => {
                self.set_pending(host, port, channel);
                Ok(None)
            }
            State::Unbound { .. } => Ok(None),
            _ => Err(Error::Invalid),
        }
    }

    /// Sends from a port of the hypervisor's to the guest at the other end, if
    /// there is one.
    pub fn notify_from_hypervisor<H: EventHost>(&self, host: &H, port: EventPort) {
        let Some(channel) = self.ports.get(port) else {
            return;
        };
        if !channel.is_hypervisors() {
            return;
        }
        if let State::Interdomain {
            remote,
            port: remote_port,
            ..
        } = &*channel.state.read()
            && let Some(remote_channel) = remote.ports.get(*remote_port)
            && !remote_channel.is_hypervisors()
        {
            remote.set_pending(host, *remote_port, remote_channel);
        }
    }

    /// Raises a virtual interrupt: of the vCPU, or for a global one of the
    /// domain, whichever vCPU is named. Nothing happens if it is not bound.
    pub fn send_virq<H: EventHost>(&self, host: &H, virq: u32, vcpu: VcpuId) {
        let owner = if virq_is_global(virq) { 0 } else { vcpu.0 };
        let Ok(v) = self.vcpu(owner) else {
            return;
        };
        let Some(port) = v.virqs.get(virq as usize) else {
            return;
        };
        let port = EventPort(port.load(Ordering::Acquire));
        if port.0 == 0 {
            return;
        }
        let Some(channel) = self.ports.get(port) else {
            return;
        };
        // It may have been closed, and even used again, since.
        if let State::Virq { virq: bound } = &*channel.state.read()
            && *bound == virq
        {
            self.set_pending(host, port, channel);
        }
    }

    /// Whether a virtual interrupt is bound.
    pub fn virq_enabled(&self, virq: u32, vcpu: VcpuId) -> bool {
        let owner = if virq_is_global(virq) { 0 } else { vcpu.0 };
        self.vcpu(owner)
            .ok()
            .and_then(|v| v.virqs.get(virq as usize))
            .is_some_and(|port| port.load(Ordering::Acquire) != 0)
    }

    /// `EVTCHNOP_status`. Errors: `Invalid` no such port; `Access` it is the hypervisor's.
    pub fn status(&self, port: EventPort) -> Result<PortStatus> {
        let channel = self.ports.get(port).ok_or(Error::Invalid)?;
        let state = channel.state.read();
        if channel.is_hypervisors() {
            return Err(Error::Access);
        }
        let vcpu = VcpuId(channel.vcpu.load(Ordering::Acquire));
        let state = match &*state {
            State::Free | State::Reserved => PortState::Closed,
            State::Unbound { remote } => PortState::Unbound(*remote),
            State::Interdomain { port, shown, .. } => PortState::Interdomain(*shown, *port),
            State::Virq { virq } => PortState::Virq(*virq),
            State::Ipi => PortState::Ipi,
        };
        Ok(PortStatus { state, vcpu })
    }

    /// `EVTCHNOP_bind_vcpu`: has a port notify another vCPU from now on.
    ///
    /// Errors: `NoEntry` no such vCPU; `Invalid` no such port, not in use, the
    /// hypervisor's, or of a kind that belongs to one vCPU.
    pub fn bind_vcpu(&self, port: EventPort, vcpu: VcpuId) -> Result<()> {
        self.vcpu(vcpu.0)?;
        let channel = self.ports.get(port).ok_or(Error::Invalid)?;
        let _inner = self.inner.lock();
        let state = channel.state.read();
        if channel.is_hypervisors() {
            return Err(Error::Invalid);
        }
        match &*state {
            State::Virq { virq } if virq_is_global(*virq) => {}
            State::Unbound { .. } | State::Interdomain { .. } => {}
            _ => return Err(Error::Invalid),
        }
        channel.vcpu.store(vcpu.0, Ordering::Release);
        Ok(())
    }

    /// `EVTCHNOP_unmask`: clears the mask of a port, and delivers its event if
    /// it is pending. `Invalid` no such port.
    pub fn unmask<H: EventHost>(&self, host: &H, port: EventPort) -> Result<()> {
        let channel = self.ports.get(port).ok_or(Error::Invalid)?;
        let state = channel.state.read();
        if state.is_bound() && !channel.is_hypervisors() {
            if self.uses_fifo() {
                self.fifo_unmask(host, port, channel);
            } else {
                self.two_level_unmask(host, port, channel);
            }
        }
        Ok(())
    }

    /// `EVTCHNOP_set_priority`. Errors: `Invalid` no such port or priority;
    /// `NotImplemented` the domain uses the 2-level ABI; `Access` the port is
    /// not a bound one of the guest's.
    pub fn set_priority(&self, port: EventPort, priority: u32) -> Result<()> {
        let channel = self.ports.get(port).ok_or(Error::Invalid)?;
        let state = channel.state.read();
        if !self.uses_fifo() {
            return Err(Error::NotImplemented);
        }
        if !state.is_bound() || channel.is_hypervisors() {
            return Err(Error::Access);
        }
        let priority = u8::try_from(priority).map_err(|_| Error::Invalid)?;
        if priority > FIFO_PRIORITY_MIN {
            return Err(Error::Invalid);
        }
        // An event that is on its old queue stays there.
        channel.priority.store(priority, Ordering::Release);
        Ok(())
    }

    /// `EVTCHNOP_reset`, or with `resuming` its continuation
    /// `EVTCHNOP_reset_cont`: closes all ports of the guest's and goes back to
    /// the 2-level ABI. The domain must be the caller's own, or paused.
    ///
    /// Errors: `Busy` another reset is under way; `Again` ports were bound
    /// meanwhile; `Restart` preempted, go on with `resuming`.
    pub fn reset<H: EventHost>(
        self: &Arc<Self>,
        host: &H,
        resuming: bool,
        preempt: &dyn Preempt,
    ) -> Result<()> {
        let mut next = {
            let mut inner = self.inner.lock();
            if resuming {
                inner.next_reset
            } else if inner.next_reset == 0 {
                inner.next_reset = 1;
                1
            } else {
                0
            }
        };
        if next == 0 {
            return Err(Error::Busy);
        }
        while next < self.ports.valid() && {
            let inner = self.inner.lock();
            inner.active > inner.hypervisors
        } {
            // Ports that are free or the hypervisor's are not to be closed.
            let _ = self.close_port(host, EventPort(next), true);
            next = next.saturating_add(1);
            if next.is_multiple_of(PREEMPT_INTERVAL) && preempt.preempt_pending() {
                self.inner.lock().next_reset = next;
                return Err(Error::Restart);
            }
        }
        let mut pages = Vec::new();
        pages
            .try_reserve_exact(self.fifo_max_pages())
            .map_err(|_| Error::NoMemory)?;
        let mut inner = self.inner.lock();
        inner.next_reset = 0;
        if inner.active > inner.hypervisors {
            return Err(Error::Again);
        }
        while let Some(page) = self.take_fifo_page() {
            pages.push(page);
        }
        drop(inner);
        // Putting a page may free it, which takes outer locks.
        for page in pages {
            host.put_writable_page(page);
        }
        Ok(())
    }

    /// Ends the channels of a dying domain: closes all ports and gives up all
    /// its pages. Ports can no longer be bound. `Restart` if preempted: call again.
    pub fn destroy<H: EventHost>(self: &Arc<Self>, host: &H, preempt: &dyn Preempt) -> Result<()> {
        self.dying.store(true, Ordering::Release);
        // Whoever was binding a port has done so when we get the lock.
        drop(self.inner.lock());
        let mut port = self.ports.valid();
        while port > 1 {
            port -= 1;
            let _ = self.close_port(host, EventPort(port), false);
            if port.is_multiple_of(PREEMPT_INTERVAL) && preempt.preempt_pending() {
                self.ports.shrink(port.max(1));
                return Err(Error::Restart);
            }
        }
        // Now that the domain is dying, no page is added any more.
        loop {
            let inner = self.inner.lock();
            let page = self.take_fifo_page();
            drop(inner);
            match page {
                Some(page) => host.put_writable_page(page),
                None => break,
            }
        }
        for vcpu in 0..self.max_vcpus() {
            self.unregister_vcpu_info(host, VcpuId(vcpu));
        }
        Ok(())
    }
}
