//! One end of an event channel, and the table that finds it by its port.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use spin::{Once, RwLock};

use super::{EventChannels, FIFO_MAX_CHANNELS, FIFO_PRIORITY_DEFAULT};
use crate::error::{Error, Result};
use crate::ids::{DomainId, EventPort};

/// Channels that are allocated together. That many ports exist from the start,
/// as in Xen: a guest sees it in what `EVTCHNOP_status` calls a valid port.
pub(super) const CHANNELS_PER_BUCKET: u32 = 64;
const BUCKETS_PER_GROUP: u32 = 128;
const CHANNELS_PER_GROUP: u32 = CHANNELS_PER_BUCKET * BUCKETS_PER_GROUP;
const GROUPS: usize = (FIFO_MAX_CHANNELS / CHANNELS_PER_GROUP) as usize;

/// What a port is bound to.
pub(super) enum State {
    /// Not in use.
    Free,
    /// Never to be used: port 0.
    Reserved,
    /// Waits for `remote` to bind to it.
    Unbound {
        /// Who may bind.
        remote: DomainId,
    },
    /// Connected with another port.
    Interdomain {
        /// The domain at the other end; the same domain for a loopback.
        remote: Arc<EventChannels>,
        /// The port at the other end.
        port: EventPort,
        /// The domain that the remote end acts for, as shown by `EVTCHNOP_status`.
        shown: DomainId,
    },
    /// A virtual interrupt of the hypervisor.
    Virq {
        /// `VIRQ_*` (xen.h).
        virq: u32,
    },
    /// An event between vCPUs of the domain.
    Ipi,
}

impl State {
    pub(super) fn is_free(&self) -> bool {
        matches!(self, Self::Free)
    }

    /// Whether the port is bound to anything, or may come to be.
    pub(super) fn is_bound(&self) -> bool {
        !matches!(self, Self::Free | Self::Reserved)
    }
}

/// One port.
///
/// `state` changes only under the lock of the domain, and of the remote domain
/// when it is or becomes interdomain, *and* its own write lock. So whoever
/// holds the read lock of an interdomain channel knows that the other end is
/// bound as well. The other fields are read without a lock.
pub(super) struct Channel {
    pub(super) state: RwLock<State>,
    /// The vCPU that is notified.
    pub(super) vcpu: AtomicU32,
    /// 0 for a guest's channel, else the consumer in the hypervisor plus 1.
    consumer: AtomicU32,
    /// FIFO: the priority of events to come.
    pub(super) priority: AtomicU8,
    /// FIFO: an event came before there was an event word to hold it.
    pub(super) saved_pending: AtomicBool,
    /// FIFO: the queue that the event was last linked to.
    pub(super) last_queue: AtomicU32,
}

impl Channel {
    fn new() -> Self {
        Self {
            state: RwLock::new(State::Free),
            vcpu: AtomicU32::new(0),
            consumer: AtomicU32::new(0),
            priority: AtomicU8::new(FIFO_PRIORITY_DEFAULT),
            saved_pending: AtomicBool::new(false),
            last_queue: AtomicU32::new(0),
        }
    }

    /// The consumer in the hypervisor, if the port is not the guest's own.
    pub(super) fn consumer(&self) -> Option<u32> {
        self.consumer.load(Ordering::Acquire).checked_sub(1)
    }

    /// Whether the hypervisor consumes the events of this port.
    pub(super) fn is_hypervisors(&self) -> bool {
        self.consumer.load(Ordering::Acquire) != 0
    }

    /// Sets or clears the consumer.
    pub(super) fn set_consumer(&self, consumer: Option<u32>) {
        let value = consumer.map_or(0, |id| id.saturating_add(1));
        self.consumer.store(value, Ordering::Release);
    }
}

type Bucket = Box<[Channel]>;

/// All ports of a domain. Looking one up takes no lock; adding some happens
/// under the domain's lock.
pub(super) struct PortTable {
    /// Ports below this one exist.
    valid: AtomicU32,
    first: Bucket,
    groups: [Once<Box<[Once<Bucket>]>>; GROUPS],
}

/// A boxed slice, or `NoMemory` where the collection macros would abort.
pub(crate) fn try_boxed_slice<T>(len: usize, new: impl FnMut() -> T) -> Result<Box<[T]>> {
    let mut items = Vec::new();
    items.try_reserve_exact(len).map_err(|_| Error::NoMemory)?;
    items.resize_with(len, new);
    Ok(items.into_boxed_slice())
}

impl PortTable {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            valid: AtomicU32::new(CHANNELS_PER_BUCKET),
            first: try_boxed_slice(CHANNELS_PER_BUCKET as usize, Channel::new)?,
            groups: [const { Once::new() }; GROUPS],
        })
    }

    /// The channel of a port, if the port exists.
    pub(super) fn get(&self, port: EventPort) -> Option<&Channel> {
        if port.0 >= self.valid() {
            return None;
        }
        if port.0 < CHANNELS_PER_BUCKET {
            return self.first.get(port.0 as usize);
        }
        self.groups
            .get((port.0 / CHANNELS_PER_GROUP) as usize)?
            .get()?
            .get((port.0 % CHANNELS_PER_GROUP / CHANNELS_PER_BUCKET) as usize)?
            .get()?
            .get((port.0 % CHANNELS_PER_BUCKET) as usize)
    }

    /// One more than the highest port that exists.
    pub(super) fn valid(&self) -> u32 {
        self.valid.load(Ordering::Acquire)
    }

    /// Lets the ports from `valid` on cease to exist: progress of the domain's end.
    pub(super) fn shrink(&self, valid: u32) {
        self.valid.store(valid, Ordering::Release);
    }

    /// Adds one bucket of ports. The domain's lock must be held.
    pub(super) fn grow(&self) -> Result<()> {
        let valid = self.valid();
        let group = self
            .groups
            .get((valid / CHANNELS_PER_GROUP) as usize)
            .ok_or(Error::NoSpace)?
            .try_call_once(|| try_boxed_slice(BUCKETS_PER_GROUP as usize, Once::new))?;
        group
            .get((valid % CHANNELS_PER_GROUP / CHANNELS_PER_BUCKET) as usize)
            .ok_or(Error::NoSpace)?
            .try_call_once(|| try_boxed_slice(CHANNELS_PER_BUCKET as usize, Channel::new))?;
        self.valid
            .store(valid.saturating_add(CHANNELS_PER_BUCKET), Ordering::Release);
        Ok(())
    }
}
