//! A device's side of a ring: it works on the ring's memory as the specification tells a device
//! to, and checks what a driver must not do. And a device made of such rings.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::collections::VecDeque;
use std::vec::Vec;

use alloc::boxed::Box;
use alloc::sync::Arc;
use std::sync::Mutex;

use crate::interrupt::Message;
use crate::virtio::ring::{Buffer, RingPlace};
use crate::virtio::{Transport, VirtioError, feature, status};

/// The memory at an address, as a device sees it.
fn word<A>(address: u64) -> &'static A {
    assert!((address as usize).is_multiple_of(align_of::<A>()));
    // SAFETY: tests name memory of a ring that lives, by the address of atomics.
    unsafe { &*(address as *const A) }
}

pub fn get16(address: u64) -> u16 {
    word::<core::sync::atomic::AtomicU16>(address).load(SeqCst)
}

pub fn put16(address: u64, value: u16) {
    word::<core::sync::atomic::AtomicU16>(address).store(value, SeqCst);
}

pub fn get32(address: u64) -> u32 {
    word::<core::sync::atomic::AtomicU32>(address).load(Relaxed)
}

pub fn put32(address: u64, value: u32) {
    word::<core::sync::atomic::AtomicU32>(address).store(value, Relaxed);
}

pub fn get64(address: u64) -> u64 {
    word::<core::sync::atomic::AtomicU64>(address).load(Relaxed)
}

/// A device's side of a ring.
pub struct Model {
    pub place: RingPlace,
    features: u64,
    /// Index in the available half up to which buffers were taken.
    pub taken: u16,
    /// Buffers taken and not done.
    pub held: VecDeque<(u16, Vec<Buffer>)>,
    pub used: u16,
    /// Used index at the last interrupt decision.
    pub signalled: u16,
}

impl Model {
    pub fn new(place: RingPlace, features: u64) -> Self {
        Self {
            place,
            features,
            taken: 0,
            held: VecDeque::new(),
            used: 0,
            signalled: 0,
        }
    }

    fn size(&self) -> u64 {
        self.place.size.into()
    }

    fn event_index(&self) -> bool {
        self.features & feature::EVENT_INDEX != 0
    }

    fn descriptor(&self, at: u64) -> (Buffer, u16, u16) {
        let flags = get16(at + 12);
        let buffer = Buffer {
            address: get64(at),
            length: get32(at + 8),
            write: flags & 2 != 0,
        };
        (buffer, flags, get16(at + 14))
    }

    fn chain(&self, head: u16) -> Vec<Buffer> {
        let mut pieces = Vec::new();
        let mut table = self.place.descriptors;
        let mut size = self.size();
        let mut at = u64::from(head);
        loop {
            assert!(at < size, "descriptor beyond its table");
            assert!((pieces.len() as u64) < size, "a chain with a loop");
            let (buffer, flags, next) = self.descriptor(table + at * 16);
            if flags & 4 != 0 {
                assert!(self.features & feature::INDIRECT != 0);
                assert_eq!(flags, 4);
                assert!(pieces.is_empty() && size == self.size());
                table = buffer.address;
                size = u64::from(buffer.length) / 16;
                at = 0;
                continue;
            }
            assert_ne!(buffer.length, 0);
            pieces.push(buffer);
            if flags & 1 == 0 {
                break;
            }
            at = next.into();
        }
        // What the device reads comes before what it writes.
        assert!(pieces.is_sorted_by_key(|piece| piece.write));
        pieces
    }

    /// Takes what is there, at most `most`.
    pub fn look(&mut self, most: usize) -> usize {
        let end = get16(self.place.available + 2);
        let mut count = 0;
        while self.taken != end && count < most {
            let slot = u64::from(self.taken) % self.size();
            let head = get16(self.place.available + 4 + 2 * slot);
            let chain = self.chain(head);
            assert!(
                self.held.iter().all(|(other, _)| *other != head),
                "a head that is with the device was given again"
            );
            self.held.push_back((head, chain));
            self.taken = self.taken.wrapping_add(1);
            count += 1;
        }
        count
    }

    /// Asks to be told of the next buffer, or not to be.
    pub fn want_notification(&self, want: bool) {
        if self.event_index() {
            let event = if want {
                self.taken
            } else {
                self.taken.wrapping_sub(1)
            };
            put16(self.place.used + 4 + 8 * self.size(), event);
        } else {
            put16(self.place.used, u16::from(!want));
        }
    }

    pub fn put_used(&mut self, head: u32, length: u32) {
        let entry = self.place.used + 4 + 8 * (u64::from(self.used) % self.size());
        put32(entry, head);
        put32(entry + 4, length);
        self.used = self.used.wrapping_add(1);
        put16(self.place.used + 2, self.used);
    }

    /// Ends a buffer that it holds.
    pub fn finish(&mut self, which: usize, length: u32) -> Option<Vec<Buffer>> {
        if self.held.is_empty() {
            return None;
        }
        let (head, chain) = self.held.remove(which % self.held.len())?;
        self.put_used(head.into(), length);
        Some(chain)
    }

    /// Whether an interrupt is due for what was finished since this was asked last, as
    /// the specification has it (2.7.7.2).
    pub fn interrupts(&mut self) -> bool {
        let (old, new) = (self.signalled, self.used);
        self.signalled = new;
        if old == new {
            return false;
        }
        if self.event_index() {
            let event = get16(self.place.available + 4 + 2 * self.size());
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            get16(self.place.available) & 1 == 0
        }
    }
}

/// Reads a byte of memory that a driver named.
pub fn get8(address: u64) -> u8 {
    word::<core::sync::atomic::AtomicU8>(address).load(Relaxed)
}

/// Writes a byte of memory that a driver named.
pub fn put8(address: u64, value: u8) {
    word::<core::sync::atomic::AtomicU8>(address).store(value, Relaxed);
}

/// What a device is and has been told.
pub struct State {
    pub modern: bool,
    pub offered: u64,
    pub accepted: u64,
    pub status: u8,
    pub config: Vec<u8>,
    pub generation: u32,
    pub queue_sizes: Vec<u16>,
    pub rings: Vec<Option<Model>>,
    pub messages: u16,
    pub notified: Vec<u16>,
    pub refuses: bool,
    /// It does not say that a reset is done.
    pub resets_slowly: bool,
    /// Called at each notification, with the queue.
    pub answer: Option<fn(&mut State, u16)>,
}

impl State {
    pub fn new(offered: u64, config: Vec<u8>, queue_sizes: &[u16]) -> Self {
        Self {
            modern: true,
            offered: offered | feature::VERSION_1,
            accepted: 0,
            status: 0,
            config,
            generation: 0,
            queue_sizes: queue_sizes.to_vec(),
            rings: queue_sizes.iter().map(|_| None).collect(),
            messages: 0,
            notified: Vec::new(),
            refuses: false,
            resets_slowly: false,
            answer: None,
        }
    }

    /// A queue that was enabled.
    pub fn ring(&mut self, queue: u16) -> &mut Model {
        self.rings[usize::from(queue)].as_mut().unwrap()
    }
}

/// The transport to a device that a test holds the other end of.
#[derive(Clone)]
pub struct Wire(pub Arc<Mutex<State>>);

impl Wire {
    pub fn new(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    pub fn transport(&self) -> Box<dyn Transport> {
        Box::new(self.clone())
    }

    pub fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        work(
            &mut self
                .0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    fn config(&self, offset: u16, length: usize) -> u32 {
        let state = self.0.lock().unwrap();
        let at = usize::from(offset);
        let mut bytes = [0; 4];
        if let Some(part) = state.config.get(at..at + length) {
            bytes[..length].copy_from_slice(part);
        }
        u32::from_le_bytes(bytes)
    }
}

impl Transport for Wire {
    fn is_modern(&self) -> bool {
        self.with(|state| state.modern)
    }

    fn features(&self) -> u64 {
        self.with(|state| state.offered)
    }

    fn accept(&self, features: u64) {
        self.with(|state| {
            assert_eq!(features & !state.offered, 0);
            state.accepted = features;
        });
    }

    fn status(&self) -> u8 {
        self.with(|state| {
            if state.refuses {
                state.status & !status::FEATURES_OK
            } else if state.resets_slowly {
                state.status | status::ACKNOWLEDGE
            } else {
                state.status
            }
        })
    }

    fn set_status(&self, status: u8) {
        self.with(|state| {
            state.status = status;
            if status == 0 {
                state.rings.iter_mut().for_each(|ring| *ring = None);
            }
        });
    }

    fn queue_size(&self, queue: u16) -> u16 {
        self.with(|state| {
            let sizes = &state.queue_sizes;
            sizes.get(usize::from(queue)).copied().unwrap_or(0)
        })
    }

    fn enable_queue(
        &mut self,
        queue: u16,
        place: &RingPlace,
        message: Option<u16>,
    ) -> Result<(), VirtioError> {
        self.with(|state| {
            assert_eq!(state.status & status::DRIVER_OK, 0, "queues come before");
            assert!(message.is_none_or(|message| message < state.messages));
            let ring = Model::new(*place, state.accepted);
            ring.want_notification(true);
            state.rings[usize::from(queue)] = Some(ring);
        });
        Ok(())
    }

    fn notify(&self, queue: u16) {
        self.with(|state| {
            assert_ne!(state.status & status::DRIVER_OK, 0);
            state.notified.push(queue);
            if let Some(answer) = state.answer {
                answer(state, queue);
            }
        });
    }

    fn config8(&self, offset: u16) -> u8 {
        self.config(offset, 1) as u8
    }

    fn config16(&self, offset: u16) -> u16 {
        self.config(offset, 2) as u16
    }

    fn config32(&self, offset: u16) -> u32 {
        self.config(offset, 4)
    }

    fn generation(&self) -> u32 {
        self.with(|state| state.generation)
    }

    fn cause(&self) -> u8 {
        0
    }

    fn messages(&self) -> u16 {
        self.with(|state| state.messages)
    }

    fn needs_cause(&self) -> bool {
        false
    }

    fn enable_config_message(&mut self, message: u16) -> Result<(), VirtioError> {
        assert!(message < self.messages());
        Ok(())
    }

    fn set_message(&self, index: u16, _: Option<Message>) {
        assert!(index < self.messages());
    }

    fn describe(&self) -> std::string::String {
        "model".into()
    }
}
