//! A guest's network device.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use arrayvec::ArrayVec;
use spin::{Mutex, RwLock};

use super::receive::RxState;
use super::ring::Ring;
use super::transmit::TxState;
use super::{Fabric, MAX_QUEUES, Misbehaviour, NetbackHost};
use crate::error::{Error, Result};
use crate::event::ConsumerId;
use crate::grant::{BackendGrant, GrantTable};
use crate::ids::{DomainId, EventPort, GrantRef};
use crate::switch::{MacAddress, PortId};

/// The most addresses of a filter for multicast.
const MULTICAST_MAX: usize = 64;
/// Entries of the switch's table for addresses that are heard from one vif.
const LEARNED_MAX: u32 = 64;
/// When a guest is told of responses that it may have taken by itself, ns.
const TELL_AFTER: u64 = 30_000;
/// The least burst of a limited rate, bytes.
const MIN_BURST: u64 = 131_072;

/// What a frontend takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Frames of several pieces (`feature-sg`).
    pub scatter: bool,
    /// Frames to be cut, TCP over IPv4 (`feature-gso-tcpv4`).
    pub tcp4: bool,
    /// The same over IPv6 (`feature-gso-tcpv6`).
    pub tcp6: bool,
    /// Partial checksums over IPv4 (not `feature-no-csum-offload`).
    pub checksum4: bool,
    /// Partial checksums over IPv6 (`feature-ipv6-csum-offload`).
    pub checksum6: bool,
}

/// A limit on what a guest may send: bytes in an interval in ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Bytes.
    pub bytes: u64,
    /// Interval, ns.
    pub interval: u64,
}

/// One queue, as the frontend tells of it.
#[derive(Clone, Copy, Debug)]
pub struct QueueConfig {
    /// The grant of the ring to transmit.
    pub tx_ref: GrantRef,
    /// The grant of the ring to receive.
    pub rx_ref: GrantRef,
    /// Our port for responses to what it transmits.
    pub tx_port: EventPort,
    /// Our port for what it receives.
    pub rx_port: EventPort,
    /// The task that calls [`Vif::run`] for the queue.
    pub task: ConsumerId,
}

/// All that there is to know to connect a device.
pub struct VifConfig<'a> {
    /// Whose it is.
    pub domain: DomainId,
    /// Its number.
    pub device: u32,
    /// Its address.
    pub mac: MacAddress,
    /// The domain's grants.
    pub grants: &'a Arc<GrantTable>,
    /// What the frontend takes.
    pub features: Features,
    /// Whether it filters multicast.
    pub multicast_control: bool,
    /// Whether it may send from its own address only.
    pub spoofchk: bool,
    /// Its limit.
    pub rate: Option<Rate>,
    /// Its queues, at least one.
    pub queues: &'a [QueueConfig],
    /// The task that closes the device when it has misbehaved.
    pub control: ConsumerId,
}

/// The grants of the rings' pages.
pub(super) struct Rings<H: NetbackHost> {
    pub tx: BackendGrant<'static, H>,
    pub rx: BackendGrant<'static, H>,
}

/// Responses to what was transmitted.
///
/// A frontend that sends looks for responses itself when it has told of its requests (netfront
/// does). Responses that are written while its queue is looked at are therefore shown at once,
/// but it is told of them a little later, if it has not taken them by then: an event
/// without anything new has Linux look at the next ones late (its deferred EOI).
pub(super) struct Responses {
    /// The index of the next one.
    at: u32,
    /// The queue is being looked at.
    in_run: bool,
    /// The guest was not told of those from here on.
    untold: Option<u32>,
}

pub(super) struct Queue<H: NetbackHost> {
    /// `None` once the device is closed.
    pub rings: RwLock<Option<Rings<H>>>,
    pub tx: Mutex<TxState<H>>,
    pub rx: Mutex<RxState<H>>,
    pub responses: Mutex<Responses>,
    /// The same, as it was last shown.
    pub answered: AtomicU32,
    pub config: QueueConfig,
}

/// What a device did, in frames and bytes as its guest sees them.
#[derive(Default, Debug)]
pub struct Counters {
    /// Frames that the guest sent.
    pub sent: AtomicU64,
    /// Their bytes.
    pub sent_bytes: AtomicU64,
    /// Frames of the guest's that went nowhere.
    pub sent_dropped: AtomicU64,
    /// Frames for the guest.
    pub received: AtomicU64,
    /// Their bytes.
    pub received_bytes: AtomicU64,
    /// Frames for the guest that there was no room for.
    pub received_dropped: AtomicU64,
}

impl Counters {
    pub(super) fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

struct Credit {
    rate: Option<Rate>,
    left: u64,
    /// When the next share comes.
    next: u64,
}

/// A guest's network device, connected. [`Self::close`] it before it is dropped.
pub struct Vif<H: NetbackHost> {
    pub(super) host: &'static H,
    pub(super) fabric: Arc<Fabric<H>>,
    domain: DomainId,
    device: u32,
    mac: MacAddress,
    pub(super) grants: Arc<GrantTable>,
    pub(super) features: Features,
    spoofchk: AtomicBool,
    /// Something was said of a frame from another address.
    spoofed: AtomicBool,
    multicast_control: AtomicBool,
    multicast: Mutex<ArrayVec<MacAddress, MULTICAST_MAX>>,
    credit: Mutex<Credit>,
    pub(super) queues: Box<[Queue<H>]>,
    port: RwLock<Option<PortId>>,
    /// No ring is touched any more.
    ended: AtomicBool,
    misbehaviour: Mutex<Option<Misbehaviour>>,
    control: ConsumerId,
    /// What went through it.
    pub counters: Counters,
}

impl<H: NetbackHost> fmt::Debug for Vif<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vif{}.{}", self.domain, self.device)
    }
}

impl<H: NetbackHost> Vif<H> {
    /// Connects a device: takes its rings, and joins it to a fabric.
    ///
    /// Errors: `Invalid` a number of queues, an address or a ring's indices that cannot be;
    /// `Access` a grant of a ring that cannot be used; `NoSpace`, `NoMemory`.
    pub fn connect(
        host: &'static H,
        fabric: &Arc<Fabric<H>>,
        config: &VifConfig<'_>,
    ) -> Result<Arc<Self>> {
        if config.queues.is_empty() || config.queues.len() > MAX_QUEUES as usize {
            return Err(Error::Invalid);
        }
        let mut queues = Vec::new();
        queues
            .try_reserve_exact(config.queues.len())
            .map_err(|_| Error::NoMemory)?;
        for &queue in config.queues {
            let map = |reference| {
                let grant = config
                    .grants
                    .map_for_backend(host, DomainId::XEN, reference, false)
                    .map_err(|_| Error::Access)?;
                if !grant.allows(0, crate::addr::PAGE_SIZE) {
                    return Err(Error::Access);
                }
                Ok(grant)
            };
            let rings = Rings {
                tx: map(queue.tx_ref)?,
                rx: map(queue.rx_ref)?,
            };
            let tx_ring = Ring::transmit(host, rings.tx.mfn()).ok_or(Error::Access)?;
            let rx_ring = Ring::receive(host, rings.rx.mfn()).ok_or(Error::Access)?;
            let (tx_at, rx_at) = (tx_ring.response_index(), rx_ring.response_index());
            for (ring, at) in [(tx_ring, tx_at), (rx_ring, rx_at)] {
                ring.requests(at, || at).map_err(|_| Error::Invalid)?;
            }
            queues.push(Queue {
                rings: RwLock::new(Some(rings)),
                tx: Mutex::new(TxState::new(tx_at)),
                rx: Mutex::new(RxState::new(rx_at)),
                responses: Mutex::new(Responses {
                    at: tx_at,
                    in_run: false,
                    untold: None,
                }),
                answered: AtomicU32::new(tx_at),
                config: queue,
            });
        }
        let vif = Arc::new(Self {
            host,
            fabric: fabric.clone(),
            domain: config.domain,
            device: config.device,
            mac: config.mac,
            grants: config.grants.clone(),
            features: config.features,
            spoofchk: AtomicBool::new(config.spoofchk),
            spoofed: AtomicBool::new(false),
            multicast_control: AtomicBool::new(config.multicast_control),
            multicast: Mutex::new(ArrayVec::new()),
            credit: Mutex::new(Credit {
                rate: config.rate,
                left: config.rate.map_or(0, |rate| rate.bytes.max(MIN_BURST)),
                next: host.now(),
            }),
            queues: queues.into(),
            port: RwLock::new(None),
            ended: AtomicBool::new(false),
            misbehaviour: Mutex::new(None),
            control: config.control,
            counters: Counters::default(),
        });
        let port = fabric.join(&vif, config.mac, LEARNED_MAX)?;
        *vif.port.write() = Some(port);
        for queue in config.queues {
            host.raise(queue.task);
        }
        Ok(vif)
    }

    /// Whose it is, and which of his.
    pub fn id(&self) -> (DomainId, u32) {
        (self.domain, self.device)
    }

    /// Its address.
    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// How the frontend broke the protocol, if it did.
    pub fn misbehaviour(&self) -> Option<Misbehaviour> {
        *self.misbehaviour.lock()
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn port(&self) -> Option<PortId> {
        *self.port.read()
    }

    pub(super) fn misbehaved(&self, how: Misbehaviour) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            *self.misbehaviour.lock() = Some(how);
            self.host.raise(self.control);
        }
    }

    /// Takes the device off its fabric and lets its rings go. What the NIC still has of it
    /// stays granted until it comes back. Not to be called from within [`Self::run`].
    pub fn close(&self) {
        self.ended.store(true, Ordering::Release);
        let port = self.port.write().take();
        if let Some(port) = port {
            self.fabric.leave(port);
        }
        for (queue, index) in self.queues.iter().zip(0..) {
            // Whoever works at the rings has gone when this is there.
            let rings = queue.rings.write().take();
            queue.tx.lock().abandon(&self.fabric, index);
            self.fabric.forget(queue.rx.lock().take_backlog(self.host));
            drop(rings);
        }
    }

    /// Switches the filter for multicast on or off.
    pub fn set_multicast_control(&self, on: bool) {
        self.multicast_control.store(on, Ordering::Relaxed);
    }

    /// Lets it send from its own address only, or from any that is no other vif's.
    pub fn set_spoofchk(&self, on: bool) {
        self.spoofchk.store(on, Ordering::Relaxed);
    }

    /// Whether a frame from an address may go out.
    pub(super) fn may_send_from(&self, source: MacAddress) -> bool {
        if source == self.mac || !self.spoofchk.load(Ordering::Relaxed) {
            return true;
        }
        // Once: a guest can do this as often as it likes.
        if !self.spoofed.swap(true, Ordering::Relaxed) {
            log::info!(
                "{self:?}: what it sends from {source} and not from {} is dropped (spoofchk)",
                self.mac
            );
        }
        false
    }

    /// Sets the limit anew.
    pub fn set_rate(&self, rate: Option<Rate>) {
        let mut credit = self.credit.lock();
        credit.rate = rate;
        credit.left = rate.map_or(0, |rate| rate.bytes.max(MIN_BURST));
        credit.next = self.host.now();
        drop(credit);
        for queue in &self.queues {
            self.host.raise(queue.config.task);
        }
    }

    pub(super) fn edit_multicast(&self, add: bool, address: MacAddress) -> bool {
        let mut list = self.multicast.lock();
        list.retain(|&mut known| known != address);
        !add || (address.is_group() && list.try_push(address).is_ok())
    }

    /// Whether a frame to an address is to be given to the guest.
    pub(super) fn wants(&self, destination: MacAddress) -> bool {
        !destination.is_group()
            || destination == MacAddress::BROADCAST
            || !self.multicast_control.load(Ordering::Relaxed)
            || self.multicast.lock().contains(&destination)
    }

    /// Takes the credit for so many bytes; if there is not enough, says when there will be.
    pub(super) fn take_credit(&self, bytes: u64) -> core::result::Result<(), u64> {
        let mut credit = self.credit.lock();
        let Some(rate) = credit.rate else {
            return Ok(());
        };
        if rate.interval == 0 {
            return Ok(());
        }
        let now = self.host.now();
        if now >= credit.next {
            let shares = 1 + (now - credit.next) / rate.interval;
            credit.left = credit
                .left
                .saturating_add(rate.bytes.saturating_mul(shares))
                .min(rate.bytes.max(MIN_BURST));
            credit.next = credit
                .next
                .saturating_add(rate.interval.saturating_mul(shares));
        }
        match credit.left.checked_sub(bytes) {
            Some(left) => {
                credit.left = left;
                Ok(())
            }
            None => Err(credit.next),
        }
    }

    /// Answers a frame's requests: the first, its extra information, the others.
    pub(super) fn respond(&self, index: u16, ids: &[u16], extras: usize, status: i16) {
        use xen_abi::io_netif::{NETIF_RSP_NULL, NetifTxResponse};
        use zerocopy::IntoBytes;
        let Some(queue) = self.queues.get(usize::from(index)) else {
            return;
        };
        let rings = queue.rings.read();
        let ring = match &*rings {
            Some(rings) if !self.is_ended() => Ring::transmit(self.host, rings.tx.mfn()),
            _ => None,
        };
        let Some(ring) = ring else {
            return;
        };
        let mut responses = queue.responses.lock();
        let old = responses.at;
        let mut put = |id, status| {
            ring.write(responses.at, NetifTxResponse { id, status }.as_bytes());
            responses.at = responses.at.wrapping_add(1);
        };
        if let Some((&first, others)) = ids.split_first() {
            put(first, status);
            (0..extras).for_each(|_| put(0, NETIF_RSP_NULL));
            others.iter().for_each(|&id| put(id, status));
        }
        queue.answered.store(responses.at, Ordering::Release);
        let awaited = ring.publish(old, responses.at);
        if responses.in_run {
            responses.untold.get_or_insert(old);
        } else if awaited {
            self.host.notify(queue.config.tx_port);
        }
    }

    /// A run of a queue begins: the guest is told of what it has not taken since the last.
    pub(super) fn begin_run(&self, queue: &Queue<H>, ring: &Ring<'_>) {
        let mut responses = queue.responses.lock();
        responses.in_run = true;
        if let Some(old) = responses.untold.take()
            && ring.is_awaited(old, responses.at)
        {
            self.host.notify(queue.config.tx_port);
        }
    }

    /// A run of a queue ends.
    pub(super) fn end_run(&self, queue: &Queue<H>) {
        let mut responses = queue.responses.lock();
        responses.in_run = false;
        if responses.untold.is_some() {
            let when = self.host.now().saturating_add(TELL_AFTER);
            self.host.raise_at(queue.config.task, when);
        }
    }

    /// Does what there is to do for a queue. `true` if there is more to do.
    pub fn run(self: &Arc<Self>, index: u16) -> bool {
        let Some(queue) = self.queues.get(usize::from(index)) else {
            return false;
        };
        let rings = queue.rings.read();
        let pages = match &*rings {
            Some(rings) if !self.is_ended() => (rings.tx.mfn(), rings.rx.mfn()),
            _ => return false,
        };
        let received = self.run_receive(queue, pages.1);
        let sent = self.run_transmit(queue, index, pages.0);
        received | sent
    }
}
