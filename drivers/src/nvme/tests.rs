//! A controller made of software, and the driver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use spin::Mutex;

use super::*;
use crate::Segment;
use crate::platform::mock::Mock;
use crate::registers::Model;

fn get32(address: u64) -> u32 {
    // SAFETY: the tests' addresses are those of the process, and the driver's memory lives.
    unsafe { AtomicU32::from_ptr(address as *mut u32) }.load(SeqCst)
}

fn get64(address: u64) -> u64 {
    // SAFETY: as above.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }.load(SeqCst)
}

fn put32(address: u64, value: u32) {
    // SAFETY: as above.
    unsafe { AtomicU32::from_ptr(address as *mut u32) }.store(value, SeqCst);
}

/// A pair of queues, as the controller knows it.
#[derive(Clone, Default)]
struct Known {
    submissions: u64,
    completions: u64,
    size: u32,
    head: u32,
    tail: u32,
    phase: bool,
}

struct State {
    enabled: bool,
    stuck: bool,
    admin: (u32, u64, u64),
    queues: BTreeMap<u32, Known>,
    /// The disk's blocks of 512 bytes, by what was written to each.
    blocks: Vec<u64>,
    /// Commands that are not answered yet: queue and words.
    held: Vec<(u32, [u32; 16])>,
    /// What commands of input and output are answered with.
    status: u16,
    flushes: u32,
    max_transfer: u8,
    granted: u32,
}

struct Wire(Mutex<State>);

const BLOCKS: usize = 4096;

fn wire() -> Arc<Wire> {
    Arc::new(Wire(Mutex::new(State {
        enabled: false,
        stuck: false,
        admin: (0, 0, 0),
        queues: BTreeMap::new(),
        blocks: vec![0; BLOCKS],
        held: Vec::new(),
        status: 0,
        flushes: 0,
        max_transfer: 0,
        granted: 1,
    })))
}

impl State {
    fn complete(&mut self, queue: u32, id: u16, status: u16, result: u32) {
        let known = self.queues.get_mut(&queue).unwrap();
        let at = known.completions + u64::from(known.head) * 16;
        put32(at, result);
        put32(
            at + 12,
            u32::from(id) | u32::from(known.phase) << 16 | u32::from(status) << 17,
        );
        known.head = (known.head + 1) % known.size;
        known.phase ^= known.head == 0;
    }

    fn admin(&mut self, words: [u32; 16]) {
        let data = u64::from(words[6]) | u64::from(words[7]) << 32;
        let mut result = 0;
        match words[0] as u8 {
            opcode::IDENTIFY => match words[10] {
                2 => put32(data, 3),
                1 => {
                    put32(data + 4, u32::from_le_bytes(*b"seri"));
                    put32(data + 8, u32::from_le_bytes(*b"al  "));
                    put32(data + 76, u32::from(self.max_transfer) << 8);
                    put32(data + 520, 0b1100);
                    put32(data + 524, 1 << 8);
                }
                0 => {
                    assert_eq!(words[1], 3);
                    put32(data, BLOCKS as u32);
                    put32(data + 4, 0);
                    put32(data + 24, 1 << 16);
                    put32(data + 96, 0);
                    put32(data + 132, 9 << 16);
                }
                _ => panic!("{words:x?}"),
            },
            opcode::SET_FEATURES => result = (self.granted - 1) * 0x1_0001,
            code @ (opcode::CREATE_COMPLETION | opcode::CREATE_SUBMISSION) => {
                let (id, size) = (words[10] & 0xffff, (words[10] >> 16) + 1);
                let known = self.queues.entry(id).or_default();
                known.size = size;
                known.phase = true;
                if code == opcode::CREATE_COMPLETION {
                    known.completions = data;
                } else {
                    known.submissions = data;
                }
            }
            _ => panic!("{words:x?}"),
        }
        self.complete(0, (words[0] >> 16) as u16, 0, result);
    }

    /// Where the bytes of a command's data are, in pieces of 512.
    fn data(words: [u32; 16], bytes: u64) -> Vec<u64> {
        let word = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
        let (first, second) = (word(6), word(8));
        let mut left = bytes;
        let mut out = Vec::new();
        let mut page = |at: u64, left: &mut u64| {
            let part = (4096 - at % 4096).min(*left);
            out.extend((0..part / 512).map(|n| at + n * 512));
            *left -= part;
        };
        page(first, &mut left);
        if left > 4096 {
            for n in 0..left.div_ceil(4096) {
                let at = get64(second + n * 8);
                assert_eq!(at % 4096, 0);
                page(at, &mut left);
            }
        } else if left > 0 {
            assert_eq!(second % 4096, 0);
            page(second, &mut left);
        }
        assert_eq!(left, 0);
        out
    }

    fn work(&mut self, (queue, words): (u32, [u32; 16])) {
        assert_eq!(words[1], 3);
        let first = (u64::from(words[10]) | u64::from(words[11]) << 32) as usize;
        let count = (words[12] & 0xffff) as usize + 1;
        match words[0] as u8 {
            _ if self.status != 0 => {}
            opcode::FLUSH => self.flushes += 1,
            opcode::READ => {
                for (n, at) in Self::data(words, count as u64 * 512)
                    .into_iter()
                    .enumerate()
                {
                    put32(at, self.blocks[first + n] as u32);
                }
            }
            opcode::WRITE => {
                for (n, at) in Self::data(words, count as u64 * 512)
                    .into_iter()
                    .enumerate()
                {
                    self.blocks[first + n] = get32(at).into();
                }
            }
            opcode::WRITE_ZEROES => self.blocks[first..first + count].fill(0),
            opcode::DATASET_MANAGEMENT => {
                let at = u64::from(words[6]) | u64::from(words[7]) << 32;
                assert_eq!((words[10], words[11]), (0, 4));
                let (first, count) = (get64(at + 8) as usize, get32(at + 4) as usize);
                self.blocks[first..first + count].fill(u64::MAX);
            }
            _ => panic!("{words:x?}"),
        }
        self.complete(queue, (words[0] >> 16) as u16, self.status, 0);
    }
}

impl Model for Wire {
    fn read(&self, offset: u64, size: u8) -> u32 {
        assert_eq!(size, 4);
        let state = self.0.lock();
        match offset {
            register::CAPABILITIES => 63,
            4 => 1 << 5,
            register::VERSION => 0x1_0400,
            register::STATUS => u32::from(state.enabled || state.stuck),
            _ => 0,
        }
    }

    fn write(&self, offset: u64, size: u8, value: u32) {
        assert_eq!(size, 4);
        let mut state = self.0.lock();
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            register::CONFIGURATION => {
                state.enabled = value & 1 != 0;
                state.queues.clear();
                let (sizes, submissions, completions) = state.admin;
                if state.enabled {
                    assert_eq!(value, ENABLE);
                    let known = Known {
                        submissions,
                        completions,
                        size: (sizes & 0xfff) + 1,
                        phase: true,
                        ..Known::default()
                    };
                    state.queues.insert(0, known);
                }
            }
            register::ADMIN_SIZES => state.admin.0 = value,
            0x28 => state.admin.1 = low(state.admin.1),
            0x2c => state.admin.1 = high(state.admin.1),
            0x30 => state.admin.2 = low(state.admin.2),
            0x34 => state.admin.2 = high(state.admin.2),
            _ => {
                assert!(offset >= register::DOORBELLS);
                let index = (offset - register::DOORBELLS) / 4;
                if index % 2 == 1 {
                    return;
                }
                let id = (index / 2) as u32;
                let Some(known) = state.queues.get(&id).cloned() else {
                    return;
                };
                let mut at = known.tail;
                while at != value {
                    let from = known.submissions + u64::from(at) * 64;
                    let words = core::array::from_fn(|n| get32(from + 4 * n as u64));
                    if id == 0 {
                        state.admin(words);
                    } else {
                        state.held.push((id, words));
                    }
                    at = (at + 1) % known.size;
                }
                state.queues.get_mut(&id).unwrap().tail = value;
            }
        }
    }
}

impl Wire {
    /// Does what was asked for, the latest first.
    fn work(&self) {
        let mut state = self.0.lock();
        while let Some(held) = state.held.pop() {
            state.work(held);
        }
    }
}

fn disk(wire: &Arc<Wire>) -> Result<NvmeBlock, NvmeError> {
    let registers = Registers::model(wire.clone(), 0x2000);
    NvmeBlock::new(registers, Messages::None, &Mock)
}

/// Memory of the test's own, and a segment of it.
struct Memory(Vec<u64>);

impl Memory {
    fn new(pages: usize) -> Self {
        Self(vec![0; (pages + 1) * 512])
    }

    /// The first page's address.
    fn base(&self) -> u64 {
        (self.0.as_ptr() as u64).next_multiple_of(4096)
    }

    fn segment(&self, at: u64, length: u32) -> Segment {
        Segment {
            address: self.base() + at,
            length,
        }
    }
}

fn submit(
    disk: &NvmeBlock,
    operation: BlockOperation,
    segments: &[Segment],
    tag: u64,
) -> Result<(), SubmitError> {
    disk.submit(
        0,
        &BlockRequest {
            operation,
            segments,
            tag,
        },
    )
}

fn completions(disk: &NvmeBlock) -> Vec<(u64, BlockStatus)> {
    let mut list = Vec::new();
    disk.complete(0, 1000, &mut |one| list.push((one.tag, one.status)));
    list
}

fn run(
    disk: &NvmeBlock,
    wire: &Wire,
    operation: BlockOperation,
    segments: &[Segment],
) -> BlockStatus {
    submit(disk, operation, segments, 7).unwrap();
    disk.kick(0);
    wire.work();
    let done = completions(disk);
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].0, 7);
    done[0].1
}

#[test]
fn what_the_controller_says_is_told() {
    let wire = wire();
    wire.0.lock().max_transfer = 5;
    wire.0.lock().granted = 2;
    let disk = disk(&wire).unwrap();
    let info = disk.info();
    assert_eq!(
        (info.sectors, info.logical_block_size),
        (BLOCKS as u64, 512)
    );
    assert_eq!(info.max_segment_size, 128 << 10);
    assert!(info.flush && !info.read_only);
    assert_eq!(&info.serial, b"serial\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(info.write_zeroes.unwrap().max_sectors, 65536);
    assert!(info.discard.is_some());
    assert_eq!(disk.queues(), 2);
    assert_eq!(disk.describe(), "NVMe 1.4, polled");
    drop(disk);
    assert!(!wire.0.lock().enabled);
}

#[test]
fn data_goes_where_it_should() {
    use BlockOperation::*;
    let wire = wire();
    let disk = disk(&wire).unwrap();
    let memory = Memory::new(16);
    // Begins and ends within pages: one command.
    let whole = [
        memory.segment(512, 4096 - 512),
        memory.segment(8192, 8192),
        memory.segment(4096, 1024),
    ];
    for (n, at) in (0..7).map(|n| 512 + n * 512).enumerate() {
        put32(memory.base() + at, 100 + n as u32);
    }
    submit(&disk, Write { sector: 10 }, &whole, 1).unwrap();
    disk.kick(0);
    assert_eq!(wire.0.lock().held.len(), 1);
    assert!(completions(&disk).is_empty());
    wire.work();
    assert_eq!(completions(&disk), [(1, BlockStatus::Ok)]);
    let written: Vec<_> = wire.0.lock().blocks[10..18].to_vec();
    assert_eq!(written, [100, 101, 102, 103, 104, 105, 106, 0]);
    // Gaps: three commands, and one completion.
    let gaps = [
        memory.segment(0, 512),
        memory.segment(4096, 512),
        memory.segment(8704, 1024),
    ];
    submit(&disk, Read { sector: 10 }, &gaps, 2).unwrap();
    disk.kick(0);
    assert_eq!(wire.0.lock().held.len(), 3);
    wire.work();
    assert_eq!(completions(&disk), [(2, BlockStatus::Ok)]);
    let read: Vec<_> = [0, 4096, 8704, 9216]
        .map(|at| get32(memory.base() + at))
        .into();
    assert_eq!(read, [100, 101, 102, 103]);

    assert_eq!(run(&disk, &wire, Flush, &[]), BlockStatus::Ok);
    assert_eq!(wire.0.lock().flushes, 1);
    let zeroes = WriteZeroes {
        sector: 11,
        sectors: 2,
        may_unmap: true,
    };
    assert_eq!(run(&disk, &wire, zeroes, &[]), BlockStatus::Ok);
    let discard = Discard {
        sector: 14,
        sectors: 2,
    };
    assert_eq!(run(&disk, &wire, discard, &[]), BlockStatus::Ok);
    let now: Vec<_> = wire.0.lock().blocks[10..17].to_vec();
    assert_eq!(now, [100, 0, 0, 103, u64::MAX, u64::MAX, 106]);
}

#[test]
fn errors_are_told() {
    use BlockOperation::*;
    let wire = wire();
    let disk = disk(&wire).unwrap();
    let memory = Memory::new(4);
    let one = [memory.segment(0, 512)];
    for (status, told) in [
        (0x281, BlockStatus::Error),
        (1, BlockStatus::Unsupported),
        (0, BlockStatus::Ok),
    ] {
        wire.0.lock().status = status;
        assert_eq!(run(&disk, &wire, Read { sector: 0 }, &one), told);
    }
    for (operation, segments) in [
        (Read { sector: 4096 }, &one[..]),
        (Read { sector: u64::MAX }, &one[..]),
        (Read { sector: 0 }, &[]),
        (Flush, &one[..]),
        (
            Discard {
                sector: 4000,
                sectors: 97,
            },
            &[],
        ),
        (
            Discard {
                sector: 0,
                sectors: 0,
            },
            &[],
        ),
    ] {
        assert_eq!(
            submit(&disk, operation, segments, 1),
            Err(SubmitError::Invalid)
        );
    }
    // A queue takes 63 commands here.
    for n in 0..63 {
        assert_eq!(submit(&disk, Read { sector: 0 }, &one, n), Ok(()));
    }
    assert_eq!(
        submit(&disk, Read { sector: 0 }, &one, 63),
        Err(SubmitError::Full)
    );
    disk.kick(0);
    wire.work();
    assert!(disk.arm(0));
    assert_eq!(completions(&disk).len(), 63);
    assert!(!disk.arm(0));
}

#[test]
fn a_controller_that_lies_is_disabled() {
    use BlockOperation::*;
    for id in [5u16, 62, 63, 65535] {
        let wire = wire();
        let disk = disk(&wire).unwrap();
        let memory = Memory::new(4);
        let one = [memory.segment(0, 512)];
        for tag in [1, 2] {
            submit(&disk, Read { sector: 0 }, &one, tag).unwrap();
        }
        disk.kick(0);
        {
            let mut state = wire.0.lock();
            state.stuck = true;
            state.complete(1, id, 0, 0);
        }
        assert!(completions(&disk).is_empty());
        assert!(disk.is_broken() && disk.take_change() && !disk.take_change());
        assert!(!wire.0.lock().enabled);
        // It does not say yet that it has let go of the memory.
        assert!(completions(&disk).is_empty() && !disk.arm(0));
        wire.0.lock().stuck = false;
        assert!(disk.arm(0));
        let mut failed = completions(&disk);
        failed.sort_by_key(|&(tag, _)| tag);
        assert_eq!(failed, [(1, BlockStatus::Error), (2, BlockStatus::Error)]);
        assert!(completions(&disk).is_empty());
        assert_eq!(
            submit(&disk, Read { sector: 0 }, &one, 3),
            Err(SubmitError::Broken)
        );
    }
}

#[test]
fn one_that_never_answers_is_left_alone() {
    struct Silent(AtomicU16);
    impl Model for Silent {
        fn read(&self, offset: u64, _: u8) -> u32 {
            self.0.fetch_add(1, SeqCst);
            match offset {
                register::CAPABILITIES => 63,
                4 => 1 << 5,
                _ => 1,
            }
        }
        fn write(&self, _: u64, _: u8, _: u32) {}
    }
    let registers = Registers::model(Arc::new(Silent(AtomicU16::new(0))), 0x2000);
    let made = NvmeBlock::new(registers, Messages::None, &Mock);
    assert_eq!(made.err(), Some(NvmeError::Reset));
    // Nobody there at all.
    struct Gone;
    impl Model for Gone {
        fn read(&self, _: u64, _: u8) -> u32 {
            u32::MAX
        }
        fn write(&self, _: u64, _: u8, _: u32) {}
    }
    let made = NvmeBlock::new(
        Registers::model(Arc::new(Gone), 0x2000),
        Messages::None,
        &Mock,
    );
    assert_eq!(made.err(), Some(NvmeError::Unsupported));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Requests of any shape, several under way: what is written is read, wherever segments
    /// begin and end, and each is completed once.
    #[test]
    fn what_is_written_is_read(
        requests in prop::collection::vec(
            (0u64..3000, prop::collection::vec((0u64..15, 0u64..8, 1u32..40), 1..12)),
            1..12,
        ),
        most in 0u8..3,
    ) {
        let wire = wire();
        wire.0.lock().max_transfer = most;
        let disk = disk(&wire).unwrap();
        let mut memory = Memory::new(48);
        for (tag, (sector, shapes)) in (0u64..).zip(&requests) {
            memory.0.fill(0);
            let mut segments = Vec::new();
            for &(page, offset, sectors) in shapes {
                let length = (sectors * 512).min(disk.info().max_segment_size);
                segments.push(memory.segment(page * 4096 + offset * 512, length));
            }
            // What each sector of the data gets: its place in the request, if it is not there
            // twice; the last write of memory counts.
            let places: Vec<u64> = segments
                .iter()
                .flat_map(|s| (0..u64::from(s.length) / 512).map(|n| s.address + n * 512))
                .collect();
            for (n, &at) in places.iter().enumerate() {
                put32(at, ((tag as u32) << 16) | (n as u32 + 1));
            }
            let expected: Vec<u64> = places.iter().map(|&at| get32(at).into()).collect();
            submit(&disk, BlockOperation::Write { sector: *sector }, &segments, tag).unwrap();
            disk.kick(0);
            wire.work();
            prop_assert_eq!(completions(&disk), [(tag, BlockStatus::Ok)]);
            let from = *sector as usize;
            let blocks = wire.0.lock().blocks[from..from + expected.len()].to_vec();
            prop_assert_eq!(blocks, expected);
        }
    }
}
