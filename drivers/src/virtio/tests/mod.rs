//! The ring against a device that is a model ([`model`]), and the drivers against one.

mod disk;
mod model;
mod network;
mod registers;

use proptest::prelude::*;
use std::collections::VecDeque;
use std::vec::Vec;

use super::feature;
use super::ring::{Broken, Buffer, Ring};
use crate::platform::mock::Mock;
use model::{Model, get16, put16};

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
    model.want_notification(true);
    for n in 0..1u32 << 16 {
        assert!(add(&mut ring, 1, n));
        model.look(1);
        model.finish(0, 0);
        ring.take().unwrap().unwrap();
    }
    // The entry that it waits for was added, but all indices are where they were: a
    // comparison alone says no.
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
    // More than there are.
    for jump in [2u16, 100, 0xffff] {
        let (mut ring, model) = both(8, feature::EVENT_INDEX);
        assert!(add(&mut ring, 1, 5));
        put16(model.place.used + 2, jump);
        assert!(ring.has_completions());
        assert!(ring.is_broken());
    }
}
