use std::collections::{BTreeMap, BTreeSet};
use std::string::{String, ToString};
use std::sync::atomic::Ordering;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::model::*;
use super::negotiate::{Choice, ChoiceError, Offer};
use super::ring::Protocol;
use super::*;
use overcast_drivers::block::BlockOperation;
use xen_abi::io_blkif::*;

const OK: i16 = BLKIF_RSP_OKAY;
const ERROR: i16 = BLKIF_RSP_ERROR;

/// Reads or writes eight sectors through frame 20.
fn ask(operation: u8, sector: u64) -> Ask {
    Ask {
        operation,
        id: 0x1234_5678_9abc,
        sector,
        segments: vec![(20, 0, 7)],
        ..Ask::default()
    }
}

fn world(setup: Setup) -> World {
    let world = World::new(setup);
    for n in 16..256 {
        world.guest.grant(n, n.into(), false);
    }
    world
}

fn fill(world: &World, frame: u64, value: u8) {
    let frame = world.guest.frame_of(frame);
    (0..512).for_each(|n| frame.store(n, u64::from_ne_bytes([value; 8])));
}

/// Only the ring's pages are in use.
fn idle(world: &World, ring_pages: usize) {
    assert_eq!(world.guest.pinned(), ring_pages);
}

/// What the frontend's behaviour is called, after which its ring is closed.
fn fault(ask: &Ask) -> Fault {
    let mut w = world(Setup::default());
    // Something good is under way meanwhile.
    w.front.put(&self::ask(BLKIF_OP_READ, 8));
    w.publish();
    w.run();
    w.front.put(ask);
    w.publish();
    w.run();
    let fault = w.guest.take_fault().unwrap();
    assert!(!w.guest.drained.load(Ordering::Relaxed));
    // The grant of what the device works on is still held, the ring's is not.
    assert!(w.guest.is_pinned(20));
    assert!(!w.guest.is_pinned(0));
    w.settle();
    assert!(w.guest.drained.load(Ordering::Relaxed));
    idle(&w, 0);
    w.channel.close(w.ring);
    fault
}

#[test]
fn read_and_write() {
    for protocol in [Protocol::X86_64, Protocol::X86_32] {
        let mut w = world(Setup {
            protocol,
            ..Setup::default()
        });
        fill(&w, 20, 0xa5);
        assert_eq!(w.ask(&ask(BLKIF_OP_WRITE, 16)), OK);
        assert!(
            w.disk.state.lock().unwrap().data[16 * 512..24 * 512]
                .iter()
                .all(|&b| b == 0xa5)
        );
        fill(&w, 20, 0);
        let mut part = ask(BLKIF_OP_READ, 15);
        part.segments = vec![(20, 2, 4), (21, 7, 7)];
        assert_eq!(w.ask(&part), OK);
        let (frame, next) = (w.guest.frame_of(20), w.guest.frame_of(21));
        assert_eq!(frame.load_u8(2 * 512 - 1), 0);
        assert_eq!(frame.load_u8(2 * 512), 15);
        assert_eq!(frame.load_u8(3 * 512), 0xa5);
        assert_eq!(frame.load_u8(5 * 512 - 1), 0xa5);
        assert_eq!(frame.load_u8(5 * 512), 0);
        assert_eq!(next.load_u8(7 * 512), 0xa5);
        idle(&w, 1);
        // A refused one is no read.
        assert_eq!(w.ask(&ask(BLKIF_OP_READ, u64::MAX)), ERROR);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &w.shown.counters;
        assert_eq!((count(&counters.writes), count(&counters.reads)), (1, 1));
        assert_eq!(count(&counters.written_bytes), 8 * 512);
        assert_eq!(count(&counters.read_bytes), 4 * 512);
    }
}

#[test]
fn a_frame_that_may_only_be_read_can_be_written_to_the_disk_and_not_the_reverse() {
    let mut w = world(Setup::default());
    w.guest.grant(20, 20, true);
    assert_eq!(w.ask(&ask(BLKIF_OP_WRITE, 0)), OK);
    w.front.put(&ask(BLKIF_OP_READ, 0));
    w.settle();
    assert_eq!(
        w.guest.take_fault(),
        Some(Fault::Grant(GrantRef(20), GrantError::General))
    );
}

#[test]
fn work_is_bounded_by_pages() {
    let mut w = world(Setup::default());
    let large = Ask {
        indirect: true,
        page: (250, 250),
        segments: (0..200).map(|n| (16 + n % 128, 3, 3)).collect(),
        ..ask(BLKIF_OP_WRITE, 100)
    };
    (0..8).for_each(|_| w.front.put(&large));
    w.publish();
    w.run();
    // One a round, each in parts of at most 16 segments; and there is more to do.
    assert_eq!(w.disk.state.lock().unwrap().requests, 4 * 13);
    assert!(w.raised);
    // The same number of small ones is no long work.
    assert_eq!(w.settle().len(), 8);
    let before = w.disk.state.lock().unwrap().requests;
    (0..32).for_each(|_| w.front.put(&ask(BLKIF_OP_READ, 8)));
    w.publish();
    w.run();
    assert_eq!(w.disk.state.lock().unwrap().requests, before + 32);
    assert!(!w.raised);
    assert_eq!(w.settle().len(), 32);
    idle(&w, 1);
}

#[test]
fn indirect() {
    let mut w = world(Setup::default());
    for n in 0..256u64 {
        fill(&w, 16 + n % 128, n as u8);
    }
    // One sector of each frame, and more than the device takes at once.
    let mut large = Ask {
        indirect: true,
        page: (250, 250),
        segments: (0..200).map(|n| (16 + n % 128, 3, 3)).collect(),
        ..ask(BLKIF_OP_WRITE, 100)
    };
    assert_eq!(w.ask(&large), OK);
    let state = w.disk.state.lock().unwrap();
    assert!(state.requests >= 200 / 16);
    assert_eq!(state.data[300 * 512 - 1], 199);
    assert_eq!(state.data[99 * 512], 99);
    drop(state);
    large.operation = BLKIF_OP_READ;
    large.segments = (0..100).map(|n| (16 + n, 0, 7)).collect();
    large.sector = 0;
    assert_eq!(w.ask(&large), OK);
    // Sector 100 is what frame 16 held.
    assert_eq!(w.guest.frame_of(16 + 12).load_u8(4 * 512), 128);
    idle(&w, 1);
}

#[test]
fn frames_in_a_row_are_one_segment() {
    let mut w = world(Setup::default());
    let mut row = ask(BLKIF_OP_READ, 0);
    row.segments = (0..8).map(|n| (32 + n, 0, 7)).collect();
    w.front.put(&row);
    w.publish();
    w.run();
    // At most 16 KiB a segment here.
    assert_eq!(w.disk.state.lock().unwrap().requests, 1);
    let out = w.settle();
    assert_eq!(out.len(), 1);
    assert_eq!(w.guest.frame_of(32 + 7).load_u8(0), 56);
}

#[test]
fn what_cannot_be_done_is_answered() {
    let mut w = world(Setup::default());
    assert_eq!(w.ask(&ask(BLKIF_OP_READ, SECTORS - 7)), ERROR);
    assert_eq!(w.ask(&ask(BLKIF_OP_READ, u64::MAX - 3)), ERROR);
    assert_eq!(w.ask(&ask(4, 0)), BLKIF_RSP_EOPNOTSUPP);
    assert_eq!(w.ask(&ask(77, 0)), BLKIF_RSP_EOPNOTSUPP);
    let mut empty = ask(BLKIF_OP_READ, 0);
    empty.segments.clear();
    assert_eq!(w.ask(&empty), ERROR);
    empty.indirect = true;
    assert_eq!(w.ask(&empty), ERROR);
    assert_eq!(w.ask(&ask(BLKIF_OP_READ, SECTORS - 8)), OK);
    w.shown.set_sectors(SECTORS - 1);
    assert_eq!(w.ask(&ask(BLKIF_OP_READ, SECTORS - 8)), ERROR);
    let mut discard = ask(BLKIF_OP_DISCARD, SECTORS - 8);
    discard.sectors = 8;
    assert_eq!(w.ask(&discard), ERROR);
    discard.sectors = u64::MAX;
    assert_eq!(w.ask(&discard), ERROR);
    assert!(w.guest.take_fault().is_none());
    idle(&w, 1);

    let mut w = world(Setup {
        read_only: true,
        ..Setup::default()
    });
    assert_eq!(w.ask(&ask(BLKIF_OP_WRITE, 0)), ERROR);
    discard.sector = 0;
    discard.sectors = 8;
    assert_eq!(w.ask(&discard), ERROR);
    assert_eq!(w.ask(&ask(BLKIF_OP_READ, 0)), OK);
}

#[test]
fn blocks_of_4096() {
    let mut w = world(Setup {
        block_size: 4096,
        ..Setup::default()
    });
    assert_eq!(w.ask(&ask(BLKIF_OP_WRITE, 8)), OK);
    assert_eq!(w.ask(&ask(BLKIF_OP_WRITE, 4)), ERROR);
    let mut part = ask(BLKIF_OP_READ, 8);
    part.segments = vec![(20, 0, 3)];
    assert_eq!(w.ask(&part), ERROR);
    // Pieces that are a block together.
    part.segments = vec![(20, 0, 3), (22, 4, 7)];
    assert_eq!(w.ask(&part), OK);
    // Pieces of which so many as the device takes are no whole block.
    part.indirect = true;
    part.page = (250, 250);
    part.segments = (0..24).map(|n| (20 + 2 * (n % 100), 0, 6)).collect();
    assert_eq!(w.ask(&part), OK);
    idle(&w, 1);
}

#[test]
fn a_part_of_a_disk() {
    let mut w = world(Setup {
        start: 1000,
        ..Setup::default()
    });
    assert_eq!(w.ask(&ask(BLKIF_OP_READ, 16)), OK);
    assert_eq!(w.guest.frame_of(20).load_u8(0), (1016 % 256) as u8);
    assert_eq!(w.ask(&ask(BLKIF_OP_READ, 17)), ERROR);
}

#[test]
fn flush_barrier_discard() {
    let mut w = world(Setup::default());
    let mut flush = ask(BLKIF_OP_FLUSH_DISKCACHE, 0);
    flush.segments.clear();
    assert_eq!(w.ask(&flush), OK);
    assert_eq!(w.disk.state.lock().unwrap().flushes, 1);
    let mut discard = ask(BLKIF_OP_DISCARD, 10);
    discard.sectors = 100;
    assert_eq!(w.ask(&discard), OK);
    let state = w.disk.state.lock().unwrap();
    assert_eq!(state.requests, 1 + 5);
    assert!(state.data[10 * 512..110 * 512].iter().all(|&b| b == 0));
    assert_eq!((state.data[9 * 512], state.data[110 * 512]), (9, 110));
    drop(state);
    // Two writes, a barrier, a write: the barrier is between them, with a flush on both sides.
    w.disk.state.lock().unwrap().log.clear();
    w.front.put(&ask(BLKIF_OP_WRITE, 0));
    w.front.put(&ask(BLKIF_OP_WRITE, 8));
    w.front.put(&ask(BLKIF_OP_WRITE_BARRIER, 16));
    w.front.put(&ask(BLKIF_OP_WRITE, 24));
    assert_eq!(w.settle().len(), 4);
    let log = core::mem::take(&mut w.disk.state.lock().unwrap().log);
    let write = |sector| BlockOperation::Write { sector };
    let flush = BlockOperation::Flush;
    assert_eq!(
        log,
        [write(0), write(8), flush, write(16), flush, write(24)]
    );
}

#[test]
fn errors_of_the_device() {
    let mut w = world(Setup::default());
    w.disk.state.lock().unwrap().bad = Some(12);
    assert_eq!(w.ask(&ask(BLKIF_OP_READ, 8)), ERROR);
    assert_eq!(w.ask(&ask(BLKIF_OP_WRITE, 12)), ERROR);
    assert_eq!(w.ask(&ask(BLKIF_OP_READ, 16)), OK);
    let told = std::mem::take(&mut *w.guest.device_errors.lock().unwrap());
    assert_eq!(told, [BLKIF_OP_READ, BLKIF_OP_WRITE]);
    // One part of many.
    let large = Ask {
        indirect: true,
        page: (250, 250),
        segments: (0..64).map(|n| (30 + 2 * n, 0, 0)).collect(),
        ..ask(BLKIF_OP_READ, 0)
    };
    assert_eq!(w.ask(&large), ERROR);
    idle(&w, 1);
    w.disk.state.lock().unwrap().broken = true;
    assert_eq!(w.ask(&ask(BLKIF_OP_READ, 16)), ERROR);
    idle(&w, 1);
}

#[test]
fn hostile_frontends() {
    let many = Ask {
        count: Some(12),
        ..ask(BLKIF_OP_READ, 0)
    };
    assert_eq!(fault(&many), Fault::Segments(12));
    let very_many = Ask {
        indirect: true,
        count: Some(257),
        ..many.clone()
    };
    assert_eq!(fault(&very_many), Fault::Segments(257));
    let segments = |segments| Ask {
        segments,
        ..ask(BLKIF_OP_READ, 0)
    };
    let in_frame = |first, last| Fault::SectorsInFrame { first, last };
    assert_eq!(fault(&segments(vec![(20, 0, 8)])), in_frame(0, 8));
    assert_eq!(fault(&segments(vec![(20, 5, 4)])), in_frame(5, 4));
    assert_eq!(fault(&segments(vec![(20, 255, 255)])), in_frame(255, 255));
    let bad = |reference| Fault::Grant(GrantRef(reference), GrantError::BadRef);
    assert_eq!(fault(&segments(vec![(21, 0, 7), (9999, 0, 7)])), bad(9999));
    let nested = Ask {
        indirect: true,
        ..ask(BLKIF_OP_INDIRECT, 0)
    };
    assert_eq!(fault(&nested), Fault::Indirect(BLKIF_OP_INDIRECT));
    let page = Ask {
        indirect: true,
        page: (9999, 30),
        ..ask(BLKIF_OP_READ, 0)
    };
    assert_eq!(fault(&page), bad(9999));
}

#[test]
fn hostile_indices() {
    for produced in [33, 1000, u32::MAX, 0] {
        let mut w = world(Setup::default());
        w.front.put(&ask(BLKIF_OP_READ, 0));
        w.publish();
        w.run();
        w.guest.frame_of(0).store_u32(0, produced);
        w.raised = true;
        w.run();
        let fault = Fault::RequestIndex {
            produced,
            consumed: 1,
        };
        assert_eq!(w.guest.take_fault(), Some(fault));
        w.settle();
        idle(&w, 0);
    }
}

#[test]
fn closing_waits_for_the_device() {
    let mut w = world(Setup {
        capacity: 2,
        ..Setup::default()
    });
    for n in 0..5 {
        w.front.put(&ask(BLKIF_OP_READ, 8 * n));
    }
    w.publish();
    w.run();
    w.channel.close(w.ring);
    assert!(!w.guest.drained.load(Ordering::Relaxed));
    assert!(w.guest.is_pinned(20));
    idle(&w, 1);
    w.disk.perform(0);
    w.run();
    assert!(w.guest.is_pinned(20));
    w.disk.perform(0);
    w.run();
    assert!(w.guest.drained.load(Ordering::Relaxed));
    idle(&w, 0);
    assert!(w.front.take().is_empty());
    assert!(w.guest.take_fault().is_none());
}

/// A request that is shown at whatever moment of the backend's work is seen by it, or
/// followed by an event.
#[test]
fn no_moment_is_missed() {
    for moment in 0..24 {
        let mut w = world(Setup::default());
        // Answered at once: no completion of the device has the ring looked at again.
        w.front.put(&ask(77, 0));
        w.publish();
        w.front.put(&ask(BLKIF_OP_READ, 8));
        *w.guest.surprise.lock().unwrap() = Some((moment, 2));
        let mut answers = 0;
        for _ in 0..20 {
            w.raised |= w.guest.surprised.swap(false, Ordering::Relaxed);
            w.run();
            w.disk.perform(0);
            if w.guest.notified.swap(false, Ordering::Relaxed) {
                answers += w.front.take().len();
            }
        }
        let came = w.guest.surprise.lock().unwrap().is_none();
        assert_eq!(answers, if came { 2 } else { 1 }, "moment {moment}");
    }
}

#[test]
fn persistent_grants() {
    let mut w = world(Setup {
        persistent: true,
        ..Setup::default()
    });
    let before = w.guest.mapped.load(Ordering::Relaxed);
    for n in 0..10 {
        let operation = if n % 2 == 0 {
            BLKIF_OP_READ
        } else {
            BLKIF_OP_WRITE
        };
        assert_eq!(w.ask(&ask(operation, 8 * n)), OK);
    }
    assert_eq!(w.guest.mapped.load(Ordering::Relaxed), before + 1);
    idle(&w, 2);
    // More than are kept: still bounded, and all is answered.
    for n in 0..3000u32 {
        w.guest.grant(10_000 + n, 16 + u64::from(n) % 200, false);
        let mut one = ask(BLKIF_OP_READ, 0);
        one.segments = vec![(10_000 + n, 0, 7)];
        assert_eq!(w.ask(&one), OK);
    }
    let held: u32 = w.guest.pins.lock().unwrap().values().sum();
    assert!(held < 1100, "{held} are held");
    w.channel.close(w.ring);
    idle(&w, 0);
}

#[test]
fn what_a_frontend_chose() {
    let offer = Offer {
        max_queues: 4,
        persistent: false,
    };
    let read = |nodes: &[(&str, &str)]| {
        let nodes: BTreeMap<String, String> = nodes
            .iter()
            .map(|&(name, value)| (name.to_string(), value.to_string()))
            .collect();
        Choice::read(&mut |name| nodes.get(name).cloned(), offer)
    };
    let one = read(&[
        ("ring-ref", "8"),
        ("event-channel", "15"),
        ("protocol", "x86_64-abi"),
    ])
    .unwrap();
    assert_eq!(one.rings.len(), 1);
    assert_eq!(one.rings[0].references, [GrantRef(8)]);
    assert_eq!(one.rings[0].port.0, 15);
    let two = read(&[
        ("multi-queue-num-queues", "2"),
        ("ring-page-order", "1"),
        ("queue-0/ring-ref0", "1"),
        ("queue-0/ring-ref1", "2"),
        ("queue-0/event-channel", "3"),
        ("queue-1/ring-ref0", "4"),
        ("queue-1/ring-ref1", "5"),
        ("queue-1/event-channel", "6"),
    ])
    .unwrap();
    assert_eq!(two.rings[1].references, [GrantRef(4), GrantRef(5)]);
    assert_eq!(
        read(&[("event-channel", "15")]),
        Err(ChoiceError::Node("ring-ref".to_string()))
    );
    assert_eq!(
        read(&[("ring-ref", "4294967296"), ("event-channel", "15")]),
        Err(ChoiceError::Node("ring-ref".to_string()))
    );
    assert_eq!(
        read(&[("protocol", "arm-abi")]),
        Err(ChoiceError::Protocol("arm-abi".to_string()))
    );
    assert_eq!(
        read(&[("multi-queue-num-queues", "5")]),
        Err(ChoiceError::Queues(5))
    );
    assert_eq!(
        read(&[("multi-queue-num-queues", "0")]),
        Err(ChoiceError::Queues(0))
    );
    assert_eq!(
        read(&[("ring-page-order", "9")]),
        Err(ChoiceError::Pages(512))
    );
    assert_eq!(read(&[("num-ring-pages", "3")]), Err(ChoiceError::Pages(3)));
}

/// What a run of the property test does next.
#[derive(Clone, Debug)]
enum Step {
    /// A request on an area of the disk: kind, area, first frame, segments.
    Ask(u8, u8, u8, u8),
    Publish,
    Run,
    Perform(u8),
    Take,
    /// Whoever mirrors the disk takes the log, and reads what is in it so much later.
    Copy(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6u8, 0..32u8, any::<u8>(), 1..32u8).prop_map(|(k, a, f, s)| Step::Ask(k, a, f, s)),
        2 => Just(Step::Publish),
        3 => Just(Step::Run),
        3 => any::<u8>().prop_map(Step::Perform),
        2 => Just(Step::Take),
        1 => any::<bool>().prop_map(Step::Copy),
    ]
}

/// Sectors of an area.
const AREA: u64 = 32;

/// A copy of the disk, kept up by the log of what is written.
struct Mirror {
    data: Vec<u8>,
    /// Sectors that were taken from the log, and are still to be read.
    taken: Vec<u64>,
}

impl Mirror {
    fn new(w: &World) -> Self {
        w.shown.start_log().expect("memory");
        let data = w.disk.state.lock().unwrap().data.clone();
        Self {
            data,
            taken: Vec::new(),
        }
    }

    fn read(&mut self, w: &World) {
        let state = w.disk.state.lock().unwrap();
        for sector in self.taken.drain(..) {
            let at = sector as usize * 512;
            self.data[at..at + 512].copy_from_slice(&state.data[at..at + 512]);
        }
    }

    fn take(&mut self, w: &World) {
        let mut words = [0; 2];
        w.shown.with_log(|log| log.take(0, &mut words)).unwrap();
        // One block is 128 sectors here.
        let blocks = (0..SECTORS / 128).filter(|block| words[0] >> block & 1 != 0);
        self.taken
            .extend(blocks.flat_map(|block| block * 128..(block + 1) * 128));
    }

    /// The guest stands still: once more, then the copy is as the guest knows its disk. Only
    /// what it has no answer for may be different.
    fn finish(&mut self, w: &World, under_way: &BTreeMap<u64, Known>) {
        self.take(w);
        self.read(w);
        let state = w.disk.state.lock().unwrap();
        for sector in 0..SECTORS {
            let at = sector as usize * 512;
            let asked = under_way
                .values()
                .any(|known| sector / AREA == known.area && matches!(known.kind, 1..=4));
            assert!(
                asked || self.data[at..at + 512] == state.data[at..at + 512],
                "sector {sector} is lost"
            );
        }
    }
}

/// What is known of a request that is under way.
struct Known {
    area: u64,
    kind: u8,
    frame: u64,
    segments: u8,
    value: u8,
}

fn check_answer(w: &World, known: &Known, model: &mut [u8], answer: (u64, u8, i16)) {
    let (_, _, status) = answer;
    assert_eq!(status, OK);
    let at = known.area * AREA;
    match known.kind {
        // Written: the area is as its frames were.
        1..=3 => (0..u64::from(known.segments)).for_each(|n| {
            let sector = (at + n) as usize;
            model[sector] = known.value;
            assert_eq!(w.disk.state.lock().unwrap().data[sector * 512], known.value);
        }),
        4 => model[at as usize..][..usize::from(known.segments)].fill(0),
        5 => {}
        _ => (0..u64::from(known.segments)).for_each(|n| {
            let read = w
                .guest
                .frame_of(known.frame + n)
                .load_u8(512 * (n as usize % 8));
            assert_eq!(read, model[(at + n) as usize]);
        }),
    }
}

fn property(setup: Setup, steps: &[Step]) {
    let mut w = World::new(setup);
    let mut model: Vec<u8> = (0..SECTORS).map(|n| n as u8).collect();
    let mut under_way: BTreeMap<u64, Known> = BTreeMap::new();
    let mut busy: BTreeSet<u64> = BTreeSet::new();
    let mut next = 0u64;
    let mut mirror = Mirror::new(&w);
    let mut take =
        |w: &mut World, under_way: &mut BTreeMap<u64, Known>, busy: &mut BTreeSet<u64>| {
            if w.guest.notified.swap(false, Ordering::Relaxed) {
                for answer in w.front.take() {
                    let known = under_way.remove(&answer.0).expect("answered twice");
                    busy.remove(&known.area);
                    check_answer(w, &known, &mut model, answer);
                }
            }
        };
    for step in steps {
        match *step {
            Step::Ask(kind, area, frame, segments) => {
                let room = w.front.entries() as usize;
                let area = u64::from(area);
                if under_way.len() >= room || !busy.insert(area) {
                    continue;
                }
                next += 1;
                let frames = 128 + (next % 8) * 40 + u64::from(frame % 8);
                let value = next as u8;
                let operation = match kind {
                    1 | 2 => BLKIF_OP_WRITE,
                    3 => BLKIF_OP_WRITE_BARRIER,
                    4 => BLKIF_OP_DISCARD,
                    5 => BLKIF_OP_FLUSH_DISKCACHE,
                    _ => BLKIF_OP_READ,
                };
                let segments = if kind == 3 {
                    segments.min(11)
                } else {
                    segments
                };
                let mut ask = Ask {
                    operation,
                    indirect: segments > 11 && kind < 4,
                    id: next,
                    sector: area * AREA,
                    sectors: segments.into(),
                    page: (5000 + next as u32, 16 + next % 100),
                    ..Ask::default()
                };
                // Frames of requests under way may overlap for reads of the same frames: give
                // each its own by refusing when they are taken.
                let taken = under_way.values().any(|known| {
                    known.frame < frames + 40 && frames < known.frame + 40 || known.frame == frames
                });
                let page_taken = under_way.keys().any(|id| id % 100 == next % 100);
                if taken || page_taken {
                    busy.remove(&area);
                    continue;
                }
                w.guest.grant(ask.page.0, ask.page.1, true);
                if kind < 4 {
                    for n in 0..u64::from(segments) {
                        let reference = (next * 64 + n) as u32 + 100_000;
                        w.guest
                            .grant(reference, frames + n, ask.operation != BLKIF_OP_READ);
                        if ask.operation != BLKIF_OP_READ {
                            fill(&w, frames + n, value);
                        }
                        ask.segments.push((reference, (n % 8) as u8, (n % 8) as u8));
                    }
                }
                under_way.insert(
                    next,
                    Known {
                        area,
                        kind,
                        frame: frames,
                        segments,
                        value,
                    },
                );
                w.front.put(&ask);
            }
            Step::Publish => w.publish(),
            Step::Run => w.run(),
            Step::Perform(choice) => w.disk.perform(choice.into()),
            Step::Take => take(&mut w, &mut under_way, &mut busy),
            Step::Copy(true) => mirror.take(&w),
            Step::Copy(false) => mirror.read(&w),
        }
    }
    mirror.finish(&w, &under_way);
    // Whatever was raised is followed, and nothing else: all must be answered.
    w.publish();
    loop {
        w.run();
        let work = w.raised || w.disk.visible() != 0 || w.guest.notified.load(Ordering::Relaxed);
        w.disk.perform(3);
        take(&mut w, &mut under_way, &mut busy);
        if !work && !w.disk.state.lock().unwrap().interrupt {
            break;
        }
    }
    mirror.finish(&w, &under_way);
    assert!(w.shown.end_log() && !w.shown.end_log());
    assert!(under_way.is_empty(), "{} are not answered", under_way.len());
    assert!(w.guest.take_fault().is_none());
    idle(&w, setup.pages);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever order the device answers in and whatever it has room for: each request is answered
    /// once and rightly, and no wake-up is lost.
    #[test]
    fn everything_is_answered(
        steps in prop::collection::vec(step(), 1..200),
        capacity in 1..20usize,
        narrow in any::<bool>(),
        order in 0..3u32,
    ) {
        let protocol = if narrow { Protocol::X86_32 } else { Protocol::X86_64 };
        property(Setup { protocol, capacity, pages: 1 << order, ..Setup::default() }, &steps);
    }

    /// Any bytes in the ring: nothing panics, and nothing stays held.
    #[test]
    fn any_bytes_in_the_ring(
        words in prop::collection::vec(any::<u64>(), 1..64),
        produced in any::<u8>(),
        operation in 0..8u8,
    ) {
        let mut w = world(Setup::default());
        for (n, &word) in words.iter().enumerate() {
            let word = if n % 14 == 0 { word & !0xfcff | u64::from(operation) } else { word };
            w.guest.frame_of(0).store(8 + n, word);
        }
        w.guest.frame_of(0).store_u32(0, (produced % 40).into());
        w.raised = true;
        for _ in 0..200 {
            w.run();
            w.disk.perform(1);
        }
        w.channel.close(w.ring);
        while w.disk.visible() != 0 {
            w.disk.perform(0);
        }
        w.raised = true;
        w.run();
        idle(&w, 0);
    }
}
