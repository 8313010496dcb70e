//! The ring against a device that is a model: it works on the ring's memory, as the
//! specification tells a device to, and checks what a driver must not do.

use alloc::collections::VecDeque;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use proptest::prelude::*;
use std::vec::Vec;

use super::feature;
use super::ring::{Broken, Buffer, Ring, RingPlace};
use crate::platform::mock::Mock;

/// The memory at an address, as a device sees it.
fn word<A>(address: u64) -> &'static A {
    assert!((address as usize).is_multiple_of(align_of::<A>()));
    // SAFETY: tests name memory of a ring that lives, by the address of atomics.
    unsafe { &*(address as *const A) }
}

fn get16(address: u64) -> u16 {
    word::<core::sync::atomic::AtomicU16>(address).load(SeqCst)
}

fn put16(address: u64, value: u16) {
    word::<core::sync::atomic::AtomicU16>(address).store(value, SeqCst);
}

fn get32(address: u64) -> u32 {
    word::<core::sync::atomic::AtomicU32>(address).load(Relaxed)
}

fn put32(address: u64, value: u32) {
    word::<core::sync::atomic::AtomicU32>(address).store(value, Relaxed);
}

fn get64(address: u64) -> u64 {
    word::<core::sync::atomic::AtomicU64>(address).load(Relaxed)
}

/// A device's side of a ring.
struct Model {
    place: RingPlace,
    features: u64,
    /// Index in the available half up to which buffers were taken.
    taken: u16,
    /// Buffers taken and not done.
    held: VecDeque<(u16, Vec<Buffer>)>,
    used: u16,
    /// Used index at the last interrupt decision.
    signalled: u16,
}

impl Model {
    fn new(place: RingPlace, features: u64) -> Self {
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
    fn look(&mut self, most: usize) -> usize {
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
    fn want_notification(&self, want: bool) {
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

    fn put_used(&mut self, head: u32, length: u32) {
        let entry = self.place.used + 4 + 8 * (u64::from(self.used) % self.size());
        put32(entry, head);
        put32(entry + 4, length);
        self.used = self.used.wrapping_add(1);
        put16(self.place.used + 2, self.used);
    }

    /// Ends a buffer that it holds.
    fn finish(&mut self, which: usize, length: u32) -> Option<Vec<Buffer>> {
        if self.held.is_empty() {
            return None;
        }
        let (head, chain) = self.held.remove(which % self.held.len())?;
        self.put_used(head.into(), length);
        Some(chain)
    }

    /// Whether an interrupt is due for what was finished since this was asked last, as
    /// the specification has it (2.7.7.2).
    fn interrupts(&mut self) -> bool {
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

fn both(size: u16, features: u64) -> (Ring<u32>, Model) {
    let ring = Ring::new(&Mock, size, features).unwrap();
    let model = Model::new(ring.place(), features);
    (ring, model)
}

fn pieces(count: usize, seed: u32) -> Vec<Buffer> {
    (0..count)
        .map(|n| Buffer {
            address: u64::from(seed) << 16 | (n as u64) << 4,
            length: n as u32 + 1,
            write: n * 2 >= count,
        })
        .collect()
}

fn add(ring: &mut Ring<u32>, count: usize, token: u32) -> bool {
    ring.add(count, pieces(count, token).into_iter(), token)
        .is_ok()
}

const ALL_FEATURES: [u64; 4] = [
    0,
    feature::INDIRECT,
    feature::EVENT_INDEX,
    feature::INDIRECT | feature::EVENT_INDEX,
];

#[derive(Clone, Debug)]
enum Step {
    Add(usize),
    Notify,
    Look(usize),
    Finish(usize),
    Take(usize),
    Arm,
    ArmLate,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..9).prop_map(Step::Add),
        2 => Just(Step::Notify),
        3 => (1usize..20).prop_map(Step::Look),
        4 => any::<usize>().prop_map(Step::Finish),
        3 => (1usize..20).prop_map(Step::Take),
        1 => Just(Step::Arm),
        1 => Just(Step::ArmLate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the order of steps: each buffer arrives as it was given and comes back once
    /// with its token; who sleeps is woken.
    #[test]
    fn buffers_go_and_come_back(
        steps in prop::collection::vec(step(), 1..400),
        order in 1u32..6,
        features in prop::sample::select(&ALL_FEATURES[..]),
        start in any::<u16>(),
    ) {
        let (mut ring, mut model) = both(1 << order, features);
        wind(&mut ring, &mut model, start);
        let mut token = 0;
        // With the device, in order of addition; and finished, in order.
        let mut given = Vec::new();
        let mut finished = VecDeque::new();
        let mut device_sleeps = false;
        // With how many still out an interrupt is due.
        let mut driver_sleeps = None;
        for step in steps {
            match step {
                Step::Add(count) => {
                    let room = ring.room(count);
                    token += 1;
                    let added = add(&mut ring, count, token);
                    prop_assert_eq!(added, room.is_some());
                    if added {
                        given.push((token, count));
                    }
                }
                Step::Notify => {
                    let notified = ring.needs_notification();
                    if notified {
                        device_sleeps = false;
                    }
                    let waiting = get16(model.place.available + 2) != model.taken;
                    prop_assert!(!(device_sleeps && waiting), "the device sleeps for ever");
                }
                Step::Look(most) if !device_sleeps => {
                    if model.look(most) < most {
                        model.want_notification(true);
                        device_sleeps = model.look(1) == 0;
                    } else {
                        model.want_notification(false);
                    }
                }
                Step::Look(_) => {}
                Step::Finish(which) => {
                    if let Some(chain) = model.finish(which, 3) {
                        let (count, number) = (chain.len(), chain[0].address >> 16);
                        let number = number as u32;
                        prop_assert_eq!(&chain, &pieces(count, number));
                        let at = given.iter().position(|one| *one == (number, count)).unwrap();
                        given.remove(at);
                        finished.push_back(number);
                    }
                    if model.interrupts() {
                        driver_sleeps = None;
                    }
                    if let Some(left) = driver_sleeps {
                        prop_assert!(given.len() > left || finished.is_empty(), "no interrupt");
                    }
                }
                Step::Take(most) => {
                    for _ in 0..most {
                        let expected = finished.pop_front();
                        let got = ring.take();
                        prop_assert!(got.is_ok());
                        prop_assert_eq!(got.unwrap().map(|(token, _, _)| token), expected);
                        if expected.is_none() {
                            break;
                        }
                    }
                    driver_sleeps = None;
                }
                Step::Arm => {
                    let there = ring.arm();
                    prop_assert_eq!(there, !finished.is_empty());
                    model.interrupts();
                    // Any that is finished from now on.
                    driver_sleeps = (!there).then_some(given.len().saturating_sub(1));
                }
                Step::ArmLate => {
                    let there = ring.arm_late();
                    model.interrupts();
                    prop_assert!(!there || !finished.is_empty());
                    // When nothing is with the device any more, at the latest.
                    driver_sleeps = (!there).then_some(0);
                    if there { driver_sleeps = None; }
                }
            }
            prop_assert_eq!(usize::from(ring.pending()), given.len() + finished.len());
        }
        prop_assert!(!ring.is_broken());
    }

    /// A device that writes anything into the used half: what is taken was given, once, and
    /// nothing panics.
    #[test]
    fn a_lying_device_gets_nothing(
        lies in prop::collection::vec((any::<u32>(), 0u32..12, any::<bool>(), any::<u16>()), 1..60),
        features in prop::sample::select(&ALL_FEATURES[..]),
    ) {
        let (mut ring, mut model) = both(8, features);
        let mut out = std::collections::BTreeSet::new();
        let mut token = 0;
        for (wild, tame, use_wild, jump) in lies {
            token += 1;
            if add(&mut ring, 2, token) {
                out.insert(token);
            }
            model.put_used(if use_wild { wild } else { tame }, wild);
            if jump & 7 == 0 {
                put16(model.place.used + 2, jump);
            }
            loop {
                match ring.take() {
                    Ok(Some((token, _, _))) => prop_assert!(out.remove(&token)),
                    Ok(None) => break,
                    Err(Broken) => {
                        prop_assert!(ring.is_broken());
                        break;
                    }
                }
            }
            ring.arm();
            ring.needs_notification();
            if ring.is_broken() {
                prop_assert!(!add(&mut ring, 1, 0));
            }
        }
    }
}

/// Turns a ring's indices on to a value.
fn wind(ring: &mut Ring<u32>, model: &mut Model, index: u16) {
    ring.turn_to(index);
    (model.taken, model.used, model.signalled) = (index, index, index);
    model.want_notification(true);
}

#[test]
fn several_additions_before_a_notification_across_the_wrap() {
    for before in 1..6u16 {
        let (mut ring, mut model) = both(16, feature::EVENT_INDEX);
        wind(&mut ring, &mut model, 0u16.wrapping_sub(before));
        // The device waits for the next one; six are added, over the wrap.
        for n in 0..6 {
            assert!(add(&mut ring, 1, n));
        }
        assert!(ring.needs_notification());
        assert!(!ring.needs_notification(), "told twice");
        // It took two and waits for none before the last.
        model.look(6);
        model.want_notification(true);
        model.want_notification(false);
        assert!(add(&mut ring, 1, 6));
        assert!(!ring.needs_notification());
    }
}

#[test]
fn a_device_that_was_never_told_is_told_after_half_a_turn() {
    let (mut ring, mut model) = both(4, feature::EVENT_INDEX);
    wind(&mut ring, &mut model, 5);
    model.want_notification(false);
    for n in 0..1u32 << 16 {
        assert!(add(&mut ring, 1, n));
        model.look(1);
        model.finish(0, 0);
        ring.take().unwrap().unwrap();
    }
    // All indices are where they were: a comparison alone says no.
    assert!(ring.needs_notification());
}

#[test]
fn a_full_ring_takes_nothing_and_goes_on() {
    for features in ALL_FEATURES {
        let (mut ring, mut model) = both(4, features);
        let indirect = features & feature::INDIRECT != 0;
        let each = if indirect { 30 } else { 2 };
        let most = if indirect { 4 } else { 2 };
        for round in 0..10 {
            for n in 0..most {
                assert!(add(&mut ring, each, n));
            }
            assert_eq!(ring.room(each), None);
            assert!(!add(&mut ring, each, 9));
            assert_eq!(model.look(100), most as usize);
            while model.finish(round, 0).is_some() {}
            let mut back: Vec<_> = (0..most).map(|_| ring.take().unwrap().unwrap().0).collect();
            back.sort();
            assert_eq!(back, (0..most).collect::<Vec<_>>());
            assert_eq!(ring.take(), Ok(None));
        }
        assert!(ring.room(ring.max_pieces()).is_some());
        assert_eq!(ring.room(ring.max_pieces() + 1), None);
        assert_eq!(ring.room(0), None);
    }
}

#[test]
fn each_lie_breaks_it() {
    // Never given; beyond the ring; twice.
    for lie in [1, 7, 8, 0xffff, 0x1_0000, u32::MAX] {
        let (mut ring, mut model) = both(8, 0);
        assert!(add(&mut ring, 1, 5));
        model.put_used(lie, 0);
        assert_eq!(ring.take(), Err(Broken));
        assert!(ring.is_broken() && !add(&mut ring, 1, 0));
    }
    let (mut ring, mut model) = both(8, 0);
    assert!(add(&mut ring, 1, 5) && add(&mut ring, 1, 6));
    model.put_used(0, 0);
    model.put_used(0, 0);
    assert_eq!(ring.take().unwrap().unwrap().0, 5);
    assert_eq!(ring.take(), Err(Broken));
    // More than there are, and fewer than there were.
    for jump in [2u16, 100, 0xffff] {
        let (mut ring, model) = both(8, feature::EVENT_INDEX);
        assert!(add(&mut ring, 1, 5));
        put16(model.place.used + 2, jump);
        assert!(ring.has_completions());
        assert!(ring.is_broken());
    }
}
