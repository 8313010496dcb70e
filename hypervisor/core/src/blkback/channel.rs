//! The rings that share one queue of a device, and the work for them.
//!
//! One task serves a channel: it takes the device's completions to the rings that they
//! belong to, looks at every ring for requests, kicks the device once, and answers. It is to
//! be run after an interrupt of the queue and after an event of any of the rings.

use alloc::sync::Arc;
use alloc::vec::Vec;

use overcast_drivers::block::{Block, Completion};
use spin::Mutex;

use super::queue::{Poll, Queue, Target};
use super::{Fault, Frontend};
use crate::error::{Error, Result};

/// Work ([`Target::work`]) for a ring before the others have their turn. The last request
/// may exceed it.
const RING_BUDGET: usize = 192;
/// Completions that are taken off the device at once.
const COMPLETIONS: usize = 32;
/// Work for completions in one round. The last so many may exceed it.
const COMPLETION_BUDGET: usize = 512;
/// How often all is looked at in one run.
const ROUNDS: usize = 4;
/// Rings of a channel.
const MAX_RINGS: usize = 4096;

/// A ring of a channel. It names no other one after that ring is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingId {
    index: u32,
    serial: u64,
}

struct Attached<F: Frontend> {
    serial: u64,
    queue: Queue<F>,
}

struct Inner<F: Frontend> {
    rings: Vec<Option<Attached<F>>>,
    /// Rings that there ever were.
    serials: u64,
    completions: Vec<Completion>,
    /// The ring that is looked at first.
    turn: usize,
}

/// See the module's docs.
pub struct Channel<F: Frontend> {
    device: Arc<dyn Block>,
    queue: usize,
    inner: Mutex<Inner<F>>,
}

impl<F: Frontend> Channel<F> {
    /// For a queue of a device. Whoever makes it takes all of the queue's completions.
    pub fn new(device: Arc<dyn Block>, queue: usize) -> Self {
        Self {
            device,
            queue,
            inner: Mutex::new(Inner {
                rings: Vec::new(),
                serials: 0,
                completions: Vec::with_capacity(COMPLETIONS),
                turn: 0,
            }),
        }
    }

    /// Adds a ring; the channel is to be run afterwards. `NoSpace` if there are too many.
    pub fn attach(&self, queue: Queue<F>) -> Result<RingId> {
        let mut inner = self.inner.lock();
        let index = match inner.rings.iter().position(Option::is_none) {
            Some(index) => index,
            None if inner.rings.len() < MAX_RINGS => {
                inner.rings.push(None);
                inner.rings.len() - 1
            }
            None => return Err(Error::NoSpace),
        };
        inner.serials += 1;
        let serial = inner.serials;
        if let Some(place) = inner.rings.get_mut(index) {
            *place = Some(Attached { serial, queue });
        }
        Ok(RingId {
            index: index as u32,
            serial,
        })
    }

    /// Closes a ring. [`Frontend::drained`] is called when nothing of it is at the device any
    /// more, perhaps before this returns. Nothing happens if it is gone already.
    pub fn close(&self, ring: RingId) {
        let mut inner = self.inner.lock();
        if let Some(place) = inner.rings.get_mut(ring.index as usize)
            && let Some(Attached { serial, queue }) = place
            && *serial == ring.serial
        {
            queue.close();
            let drained = take_drained(place);
            drop(inner);
            drop(drained);
        }
    }

    /// Does what there is to do, but not for long; whether there is more.
    pub fn run(&self) -> bool {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let mut more = true;
        for _ in 0..ROUNDS {
            more = self.round(inner);
            if !more {
                break;
            }
        }
        more
    }

    fn target(&self, ring: usize) -> Target<'_> {
        Target {
            device: &*self.device,
            queue: self.queue,
            tag: (ring as u64) << 32,
            submitted: false,
            work: 0,
        }
    }

    fn round(&self, inner: &mut Inner<F>) -> bool {
        let mut submitted = false;
        let Inner {
            rings,
            completions,
            turn,
            ..
        } = inner;
        let (mut more, mut work) = (true, 0);
        while more && work < COMPLETION_BUDGET {
            // The device's driver may hold its lock while it tells of them.
            completions.clear();
            let taken = self
                .device
                .complete(self.queue, COMPLETIONS, &mut |completion| {
                    completions.push(completion);
                });
            for completion in completions.iter() {
                let ring = (completion.tag >> 32) as usize;
                let Some(place) = rings.get_mut(ring) else {
                    continue;
                };
                if let Some(Attached { queue, .. }) = place {
                    let mut target = self.target(ring);
                    let (slot, status) = (completion.tag as u32, completion.status);
                    let result = queue.completed(slot, status, &mut target);
                    submitted |= target.submitted;
                    work += target.work;
                    check(queue, result);
                }
                take_drained(place);
            }
            work += taken;
            more = taken >= COMPLETIONS;
        }
        let count = rings.len();
        for step in 0..count {
            let ring = (*turn + step) % count;
            let Some(place) = rings.get_mut(ring) else {
                continue;
            };
            if let Some(Attached { queue, .. }) = place {
                let mut target = self.target(ring);
                let result = queue.poll(&mut target, RING_BUDGET);
                submitted |= target.submitted;
                more |= result == Ok(Poll::More);
                check(queue, result.map(|_| ()));
            }
            take_drained(place);
        }
        *turn = turn.wrapping_add(1) % count.max(1);
        if submitted {
            self.device.kick(self.queue);
        }
        for place in rings.iter_mut() {
            if let Some(Attached { queue, .. }) = place {
                let result = queue.publish();
                check(queue, result);
            }
            take_drained(place);
        }
        // Armed last: what comes in from here on raises an interrupt.
        more || self.device.arm(self.queue)
    }
}

/// Closes the ring of a frontend that broke the protocol.
fn check<F: Frontend>(queue: &mut Queue<F>, result: core::result::Result<(), Fault>) {
    if let Err(fault) = result
        && !queue.is_closed()
    {
        queue.close();
        queue.frontend().failed(fault);
    }
}

/// Takes a ring out that is closed and has nothing at the device.
fn take_drained<F: Frontend>(place: &mut Option<Attached<F>>) -> Option<Attached<F>> {
    let queue = &place.as_ref()?.queue;
    if queue.is_closed() && queue.is_drained() {
        queue.frontend().drained();
        return place.take();
    }
    None
}
