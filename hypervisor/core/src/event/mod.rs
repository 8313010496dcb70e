//! Event channels (public header event_channel.h): every operation, the
//! 2-level and the FIFO ABI, virtual interrupts, and ports whose consumer is
//! the hypervisor itself.
//!
//! Each domain has one [`EventChannels`]. An event is one bit, set by
//! [`EventChannels::send`], [`EventChannels::send_virq`] or
//! [`EventChannels::notify_from_hypervisor`], and shown to the guest through
//! pages that it shares with the hypervisor: [`two_level`] or [`fifo`]. If the
//! bit is new and not masked, the vCPU that the port is bound to gets its
//! `evtchn_upcall_pending` byte set and [`EventHost::kick`] is called.
//!
//! # Invariants
//!
//! - A channel's state changes only under the domain's lock and the channel's
//!   write lock; that of an interdomain channel only under the locks of both
//!   domains and both channels. Two domains' locks are taken in the order of
//!   their addresses.
//! - If a channel is interdomain, the channel at the other end is interdomain
//!   and names this one.
//! - Sending takes the read lock of one channel only, and no domain's lock.
//! - `active` counts the ports that are bound; `hypervisors` those among them
//!   whose consumer is the hypervisor. The FIFO pages are given up only when
//!   the two are equal, so nobody can still be setting an event in them.
//! - A frame of the FIFO ABI or of a registered `vcpu_info` holds a reference
//!   and a writable-type reference, got from [`EventHost::get_writable_page`]
//!   and given back by reset or destruction.
//! - What the guest wrote in a shared page is never trusted as an index: link
//!   fields are written, not followed.
//!
//! Locks, outer to inner: domain, channel, FIFO queue (two of a domain in the
//! order of their numbers).

mod channel;
pub mod fifo;
#[cfg(any(test, feature = "model"))]
mod guest;
#[cfg(any(test, feature = "model"))]
pub mod model;
mod ops;
#[cfg(test)]
mod tests;
pub mod two_level;
mod vcpu;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::{Mutex, MutexGuard};

use crate::addr::Mfn;
use crate::error::{Error, Result};
use crate::ids::{DomainId, EventPort, VcpuId};
use crate::machine::{Frame, Memory};

pub(crate) use channel::try_boxed_slice;
use channel::{Channel, PortTable, State};
use fifo::EventArray;
use vcpu::VcpuEvents;
pub use vcpu::VcpuInfoLocation;

/// Ports of a domain that uses the 2-level ABI (`EVTCHN_2L_NR_CHANNELS`).
pub const TWO_LEVEL_MAX_CHANNELS: u32 = 4096;
/// Ports of a domain that uses the FIFO ABI (`EVTCHN_FIFO_NR_CHANNELS`).
pub const FIFO_MAX_CHANNELS: u32 = 1 << 17;
/// The priority of a port that was just bound (`EVTCHN_FIFO_PRIORITY_DEFAULT`).
pub const FIFO_PRIORITY_DEFAULT: u8 = 7;
/// The lowest priority (`EVTCHN_FIFO_PRIORITY_MIN`); 0 is the highest.
pub const FIFO_PRIORITY_MIN: u8 = 15;
/// Virtual interrupts (`NR_VIRQS`, xen.h).
pub const VIRQS: usize = 24;
/// Physical interrupts a guest may name without being told that there is no
/// such number: it is told that it may not have them.
const PIRQS: u32 = 256;

/// `VIRQ_TIMER` (xen.h): the one-shot or periodic timer of a vCPU.
pub const VIRQ_TIMER: u32 = 0;
/// `VIRQ_DEBUG` (xen.h): asks a vCPU to print its state.
pub const VIRQ_DEBUG: u32 = 1;
const VIRQ_XENOPROF: u32 = 7;
const VIRQ_XENPMU: u32 = 13;

/// Whether a virtual interrupt is a domain's rather than a vCPU's.
pub const fn virq_is_global(virq: u32) -> bool {
    !matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU)
}

/// What event channels need of the machine.
pub trait EventHost: Memory {
    /// Has the vCPU look at its pending events soon: unblocks it, and if it
    /// runs on another CPU interrupts that CPU. Called with locks of the event
    /// channels held, so it must not call back into them.
    fn kick(&self, domain: DomainId, vcpu: VcpuId);

    /// Unblocks a vCPU that waits in `SCHEDOP_poll`. Locks as for [`Self::kick`].
    fn wake_poller(&self, domain: DomainId, vcpu: VcpuId);

    /// Takes a reference and a writable-type reference to a frame of the
    /// domain; false if it is not the domain's or cannot be written by it.
    fn get_writable_page(&self, domain: DomainId, mfn: Mfn) -> bool;

    /// Gives back what [`Self::get_writable_page`] took.
    fn put_writable_page(&self, mfn: Mfn);
}

/// Names a consumer of events inside the hypervisor; chosen by whoever
/// allocates or binds the port, and handed back by [`EventChannels::send`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConsumerId(pub u32);

/// An event for a consumer inside the hypervisor, who is to be called now that
/// no lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HypervisorEvent {
    /// Who asked for events of this port.
    pub consumer: ConsumerId,
    /// The domain in whose table the port is.
    pub domain: DomainId,
    /// The port.
    pub port: EventPort,
}

/// What `EVTCHNOP_status` says of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortState {
    /// `EVTCHNSTAT_closed`
    Closed,
    /// `EVTCHNSTAT_unbound`: who may bind to it.
    Unbound(DomainId),
    /// `EVTCHNSTAT_interdomain`: what is at the other end.
    Interdomain(DomainId, EventPort),
    /// `EVTCHNSTAT_virq`: which virtual interrupt.
    Virq(u32),
    /// `EVTCHNSTAT_ipi`
    Ipi,
}

/// The answer of `EVTCHNOP_status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortStatus {
    /// What the port is bound to.
    pub state: PortState,
    /// The vCPU that it notifies.
    pub vcpu: VcpuId,
}

/// What the domain's lock protects.
struct Inner {
    /// Bound ports, the hypervisor's included.
    active: u32,
    /// Bound ports whose consumer is the hypervisor.
    hypervisors: u32,
    /// The port that an interrupted `EVTCHNOP_reset` goes on with; 0 if none is under way.
    next_reset: u32,
    /// No port below this one is free.
    free_hint: u32,
}

/// The event channels of one domain.
pub struct EventChannels {
    domain: DomainId,
    shared_info: Option<Mfn>,
    max_port: u32,
    dying: AtomicBool,
    fifo: AtomicBool,
    ports: PortTable,
    vcpus: Box<[VcpuEvents]>,
    /// A bit for each vCPU that waits in `SCHEDOP_poll`.
    poll_mask: Box<[AtomicU64]>,
    event_array: EventArray,
    inner: Mutex<Inner>,
}

impl fmt::Debug for EventChannels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventChannels")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

impl EventChannels {
    /// The channels of a new domain, which uses the 2-level ABI.
    ///
    /// `shared_info` is its `shared_info` page; `None` for a set of ports that
    /// the hypervisor has for itself. `max_port` is the highest port that it may
    /// have (`max_evtchn_port` of `XEN_DOMCTL_createdomain`; `u32::MAX` for no
    /// limit but the ABI's). `NoMemory` if there is none.
    pub fn new(
        domain: DomainId,
        max_vcpus: u32,
        shared_info: Option<Mfn>,
        max_port: u32,
    ) -> Result<Arc<Self>> {
        let mut next = 0;
        let vcpus = try_boxed_slice(max_vcpus as usize, || {
            let vcpu = VcpuEvents::new(shared_info, next);
            next += 1;
            vcpu
        })?;
        let channels = Self {
            domain,
            shared_info,
            max_port: max_port.min(i32::MAX as u32),
            dying: AtomicBool::new(false),
            fifo: AtomicBool::new(false),
            ports: PortTable::new()?,
            vcpus,
            poll_mask: try_boxed_slice(max_vcpus.div_ceil(64) as usize, || AtomicU64::new(0))?,
            event_array: EventArray::new(),
            inner: Mutex::new(Inner {
                active: 0,
                hypervisors: 0,
                next_reset: 0,
                free_hint: 1,
            }),
        };
        if let Some(zero) = channels.ports.get(EventPort(0)) {
            *zero.state.write() = State::Reserved;
        }
        Ok(Arc::new(channels))
    }

    /// The domain that these channels belong to.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// How many vCPUs the domain may have.
    pub fn max_vcpus(&self) -> u32 {
        self.vcpus.len() as u32
    }

    /// Whether the domain switched to the FIFO ABI.
    pub fn uses_fifo(&self) -> bool {
        self.fifo.load(Ordering::Acquire)
    }

    /// Bound ports: all, and those whose consumer is the hypervisor.
    pub fn counts(&self) -> (u32, u32) {
        let inner = self.inner.lock();
        (inner.active, inner.hypervisors)
    }

    /// The lock of this domain and of `other`, which may be the same.
    fn lock_both<'a>(
        &'a self,
        other: &'a Self,
    ) -> (MutexGuard<'a, Inner>, Option<MutexGuard<'a, Inner>>) {
        let (this, that) = (core::ptr::from_ref(self), core::ptr::from_ref(other));
        if this == that {
            (self.inner.lock(), None)
        } else if this < that {
            let mine = self.inner.lock();
            (mine, Some(other.inner.lock()))
        } else {
            let others = other.inner.lock();
            (self.inner.lock(), Some(others))
        }
    }

    fn vcpu(&self, vcpu: u32) -> Result<&VcpuEvents> {
        self.vcpus.get(vcpu as usize).ok_or(Error::NoEntry)
    }

    /// Takes a reference to a page of the guest's that the hypervisor is to
    /// write. Done without locks, since putting it back may take outer ones.
    fn get_page<H: EventHost>(&self, host: &H, mfn: Mfn) -> Result<()> {
        if host.frame(mfn).is_some() && host.get_writable_page(self.domain, mfn) {
            Ok(())
        } else {
            Err(Error::Invalid)
        }
    }

    fn shared_frame<'m, H: EventHost>(&self, host: &'m H) -> Option<&'m Frame> {
        host.frame(self.shared_info?)
    }

    /// One more than the highest port that the ABI in use can have.
    fn abi_max_channels(&self) -> u32 {
        if self.uses_fifo() {
            FIFO_MAX_CHANNELS
        } else {
            TWO_LEVEL_MAX_CHANNELS
        }
    }

    /// The lowest free port, which is made to exist; its state is still free.
    fn free_port<H: EventHost>(&self, host: &H, inner: &mut Inner) -> Result<EventPort> {
        if self.dying.load(Ordering::Acquire) {
            return Err(Error::Invalid);
        }
        let mut port = inner.free_hint;
        // Ports that are free but still linked in a FIFO queue do not move the hint.
        let mut contiguous = true;
        loop {
            if port > self.max_port || port >= self.abi_max_channels() {
                return Err(Error::NoSpace);
            }
            match self.ports.get(EventPort(port)) {
                None => {
                    self.ports.grow()?;
                    continue;
                }
                Some(channel) => {
                    let free = channel.state.read().is_free();
                    if free && !self.is_busy(host, EventPort(port)) {
                        return Ok(EventPort(port));
                    }
                    contiguous &= !free;
                }
            }
            port += 1;
            if contiguous {
                inner.free_hint = port;
            }
        }
    }

    /// Whether a closed port cannot be used again yet.
    fn is_busy<H: EventHost>(&self, host: &H, port: EventPort) -> bool {
        self.uses_fifo() && self.fifo_is_busy(host, port)
    }

    /// Prepares a port that is being bound for its first event.
    fn init_port(&self, channel: &Channel) {
        if self.uses_fifo() {
            channel
                .priority
                .store(FIFO_PRIORITY_DEFAULT, Ordering::Release);
        }
    }

    /// Sets the event of a port that is bound and consumed by the guest. The
    /// caller holds a lock that keeps it so.
    fn set_pending<H: EventHost>(&self, host: &H, port: EventPort, channel: &Channel) {
        if self.uses_fifo() {
            self.fifo_set_pending(host, port, channel);
        } else {
            self.two_level_set_pending(host, port, channel);
        }
    }

    fn clear_pending<H: EventHost>(&self, host: &H, port: EventPort, channel: &Channel) {
        channel.saved_pending.store(false, Ordering::SeqCst);
        if self.uses_fifo() {
            self.fifo_clear_pending(host, port);
        } else {
            self.two_level_clear_pending(host, port);
        }
    }

    fn is_pending<H: EventHost>(&self, host: &H, port: EventPort) -> bool {
        if self.uses_fifo() {
            self.fifo_is_pending(host, port)
        } else {
            self.two_level_is_pending(host, port)
        }
    }

    fn is_masked<H: EventHost>(&self, host: &H, port: EventPort) -> bool {
        if self.uses_fifo() {
            self.fifo_is_masked(host, port)
        } else {
            self.two_level_is_masked(host, port)
        }
    }

    /// Writes a line for each bound port (Xen's debug key `e`).
    pub fn dump<H: EventHost>(&self, host: &H, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(
            out,
            "Event channel information for domain {} ({}):\n    port [p/m]",
            self.domain,
            if self.uses_fifo() { "FIFO" } else { "2-level" },
        )?;
        for port in (1..self.ports.valid()).map(EventPort) {
            let Some(channel) = self.ports.get(port) else {
                break;
            };
            let state = channel.state.read();
            if state.is_free() {
                continue;
            }
            write!(
                out,
                "    {:4} [{}/{}]: n={} x={}",
                port.0,
                u8::from(self.is_pending(host, port)),
                u8::from(self.is_masked(host, port)),
                channel.vcpu.load(Ordering::Relaxed),
                u8::from(channel.is_hypervisors()),
            )?;
            match &*state {
                State::Unbound { remote } => writeln!(out, " unbound d={remote}")?,
                State::Interdomain { port, shown, .. } => {
                    writeln!(out, " interdomain d={shown} p={port}")?;
                }
                State::Virq { virq } => writeln!(out, " virq v={virq}")?,
                State::Ipi => writeln!(out, " ipi")?,
                State::Free | State::Reserved => writeln!(out)?,
            }
        }
        Ok(())
    }
}
