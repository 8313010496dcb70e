//! The disk driver.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::model::{State, Wire, get16, get32, get64, put8};
use crate::Segment;
use crate::block::*;
use crate::interrupt::Interrupting;
use crate::platform::mock::Mock;
use crate::virtio::block::VirtioBlock;
use crate::virtio::ring::Buffer;
use crate::virtio::{VirtioError, feature, status};

const ALL: u64 = 1 << 1 | 1 << 2 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 14;
const READ_ONLY: u64 = 1 << 5;

/// A configuration: 1000 sectors, blocks of 512 (4096 physical), 2 queues.
fn config() -> Vec<u8> {
    let mut bytes = vec![0; 60];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &1000u64.to_le_bytes());
    put(8, &0x1_0000u32.to_le_bytes());
    put(12, &16u32.to_le_bytes());
    put(20, &512u32.to_le_bytes());
    put(24, &[3]);
    put(34, &2u16.to_le_bytes());
    put(36, &100u32.to_le_bytes());
    put(44, &8u32.to_le_bytes());
    put(48, &50u32.to_le_bytes());
    put(56, &[1]);
    bytes
}

fn device(features: u64) -> Wire {
    let mut state = State::new(features, config(), &[64, 64]);
    state.answer = Some(answer_serial);
    Wire::new(state)
}

/// Answers the question for the serial number, once.
fn answer_serial(state: &mut State, queue: u16) {
    let ring = state.ring(queue);
    ring.look(1);
    let (_, chain) = ring.held[0].clone();
    assert_eq!(get32(chain[0].address), 8);
    for (n, byte) in b"serial-number-of-20b".iter().enumerate() {
        put8(chain[1].address + n as u64, *byte);
    }
    put8(chain[2].address, 0);
    ring.finish(0, 21);
    ring.want_notification(true);
    state.answer = None;
}

fn driver(wire: &Wire) -> VirtioBlock {
    VirtioBlock::new(wire.transport(), &Mock).unwrap()
}

fn segments(lengths: &[u32]) -> Vec<Segment> {
    lengths
        .iter()
        .enumerate()
        .map(|(n, &length)| Segment {
            address: 0x10_0000 * (n as u64 + 1),
            length,
        })
        .collect()
}

fn submit(
    disk: &VirtioBlock,
    operation: BlockOperation,
    lengths: &[u32],
    tag: u64,
) -> Result<(), SubmitError> {
    disk.submit(
        0,
        &BlockRequest {
            operation,
            segments: &segments(lengths),
            tag,
        },
    )
}

fn completions(disk: &VirtioBlock, queue: usize) -> Vec<Completion> {
    let mut list = Vec::new();
    disk.complete(queue, 1000, &mut |one| list.push(one));
    list
}

#[test]
fn what_the_device_says_is_told() {
    let disk = driver(&device(ALL | feature::INDIRECT));
    let info = disk.info();
    assert_eq!(info.sectors, 1000);
    assert_eq!(
        (info.logical_block_size, info.physical_block_size),
        (512, 4096)
    );
    assert_eq!((info.max_segments, info.max_segment_size), (16, 0x1_0000));
    assert!(info.flush && !info.read_only);
    let limits = |max_sectors, alignment| {
        Some(RangeLimits {
            max_sectors,
            alignment,
        })
    };
    assert_eq!(info.discard, limits(100, 8));
    assert_eq!(info.write_zeroes, limits(50, 1));
    assert_eq!(&info.serial, b"serial-number-of-20b");
    assert_eq!(disk.queues(), 2);
    assert_eq!(disk.messages(), 0);
    // Without features: one segment, one queue, and nothing else.
    let disk = driver(&device(0));
    let info = disk.info();
    assert_eq!((info.max_segments, disk.queues()), (1, 1));
    assert!(!info.flush && info.discard.is_none() && info.write_zeroes.is_none());
}

#[test]
fn requests_are_as_the_specification_has_them() {
    let wire = device(ALL | feature::INDIRECT | feature::EVENT_INDEX);
    let disk = driver(&wire);
    let zeroes = |may_unmap| BlockOperation::WriteZeroes {
        sector: 7,
        sectors: 50,
        may_unmap,
    };
    let discard = BlockOperation::Discard {
        sector: 900,
        sectors: 100,
    };
    wire.with(|state| state.notified.clear());
    submit(&disk, BlockOperation::Read { sector: 5 }, &[512, 1024], 1).unwrap();
    submit(&disk, BlockOperation::Write { sector: 999 }, &[512], 2).unwrap();
    submit(&disk, BlockOperation::Flush, &[], 3).unwrap();
    submit(&disk, discard, &[], 4).unwrap();
    submit(&disk, zeroes(true), &[], 5).unwrap();
    submit(&disk, zeroes(false), &[], 6).unwrap();
    disk.kick(0);
    disk.kick(0);
    wire.with(|state| {
        assert_eq!(state.notified, [0], "one notification for all");
        let ring = state.ring(0);
        ring.look(100);
        let chains: Vec<Vec<Buffer>> = ring.held.iter().map(|(_, chain)| chain.clone()).collect();
        let heads: Vec<_> = chains
            .iter()
            .map(|chain| (get32(chain[0].address), get64(chain[0].address + 8)))
            .collect();
        assert_eq!(heads, [(0, 5), (1, 999), (4, 0), (11, 0), (13, 0), (13, 0)]);
        let shape = |chain: &[Buffer]| -> Vec<_> {
            chain.iter().map(|one| (one.length, one.write)).collect()
        };
        assert_eq!(
            shape(&chains[0]),
            [(16, false), (512, true), (1024, true), (1, true)]
        );
        assert_eq!(shape(&chains[1]), [(16, false), (512, false), (1, true)]);
        assert_eq!(shape(&chains[2]), [(16, false), (1, true)]);
        assert_eq!(shape(&chains[3]), [(16, false), (16, false), (1, true)]);
        let range = |chain: &[Buffer]| {
            let at = chain[1].address;
            (get64(at), get32(at + 8), get32(at + 12))
        };
        assert_eq!(range(&chains[3]), (900, 100, 0));
        assert_eq!(range(&chains[4]), (7, 50, 1));
        assert_eq!(range(&chains[5]), (7, 50, 0));
        // Ended out of order, each in its own way; the last without a status.
        for (n, status) in [(5, 0), (4, 1), (3, 2), (2, 3), (1, 0)] {
            put8(chains[n].last().unwrap().address, status);
            ring.finish(n, 1);
        }
        ring.finish(0, 1);
    });
    let ended: BTreeMap<_, _> = completions(&disk, 0)
        .into_iter()
        .map(|one| (one.tag, one.status))
        .collect();
    let expected = [
        (1, BlockStatus::Error),
        (2, BlockStatus::Ok),
        (3, BlockStatus::Error),
        (4, BlockStatus::Unsupported),
        (5, BlockStatus::Error),
        (6, BlockStatus::Ok),
    ];
    assert_eq!(ended, expected.into_iter().collect());
}

#[test]
fn what_the_device_cannot_do_is_refused() {
    let disk = driver(&device(ALL));
    let read = |sector| BlockOperation::Read { sector };
    let invalid = Err(SubmitError::Invalid);
    for (operation, lengths) in [
        (read(1000), &[512][..]),
        (read(999), &[1024]),
        (read(u64::MAX), &[512]),
        (read(0), &[]),
        (read(0), &[0]),
        (read(0), &[511]),
        (read(0), &[0x1_0200]),
        (read(0), &[512; 17]),
        (BlockOperation::Flush, &[512]),
        (
            BlockOperation::Discard {
                sector: 0,
                sectors: 101,
            },
            &[],
        ),
        (
            BlockOperation::Discard {
                sector: 950,
                sectors: 51,
            },
            &[],
        ),
        (
            BlockOperation::Discard {
                sector: 0,
                sectors: 0,
            },
            &[],
        ),
        (
            BlockOperation::WriteZeroes {
                sector: u64::MAX,
                sectors: 2,
                may_unmap: false,
            },
            &[],
        ),
    ] {
        assert_eq!(
            submit(&disk, operation, lengths, 0),
            invalid,
            "{operation:?}"
        );
    }
    let other_queue = disk.submit(
        2,
        &BlockRequest {
            operation: BlockOperation::Flush,
            segments: &[],
            tag: 0,
        },
    );
    assert_eq!(other_queue, invalid);
    // Read-only; without flush and ranges.
    let disk = driver(&device(READ_ONLY));
    assert_eq!(
        submit(&disk, BlockOperation::Write { sector: 0 }, &[512], 0),
        invalid
    );
    assert_eq!(submit(&disk, BlockOperation::Flush, &[], 0), invalid);
    // Blocks of 4096.
    let wire = device(ALL);
    wire.with(|state| state.config[20..24].copy_from_slice(&4096u32.to_le_bytes()));
    let disk = driver(&wire);
    assert_eq!(submit(&disk, read(0), &[512], 0), invalid);
    assert_eq!(submit(&disk, read(1), &[4096], 0), invalid);
    assert_eq!(submit(&disk, read(8), &[1024, 3072], 0), Ok(()));
}

#[test]
fn a_full_queue_says_so() {
    let wire = device(ALL | feature::INDIRECT);
    let disk = driver(&wire);
    let read = BlockOperation::Read { sector: 0 };
    for tag in 0..64 {
        submit(&disk, read, &[512; 10], tag).unwrap();
    }
    assert_eq!(submit(&disk, read, &[512], 64), Err(SubmitError::Full));
    disk.kick(0);
    wire.with(|state| {
        let ring = state.ring(0);
        assert_eq!(ring.look(100), 64);
        ring.finish(0, 1);
    });
    assert_eq!(completions(&disk, 0).len(), 1);
    assert_eq!(submit(&disk, read, &[512], 65), Ok(()));
    assert!(!disk.arm(0));
}

#[test]
fn a_resize_is_told_once() {
    let wire = device(ALL);
    let disk = driver(&wire);
    disk.take_change();
    disk.acknowledge();
    assert!(!disk.take_change());
    wire.with(|state| state.config[0..8].copy_from_slice(&2000u64.to_le_bytes()));
    assert_eq!(disk.info().sectors, 1000);
    disk.acknowledge();
    assert_eq!(disk.info().sectors, 2000);
    assert!(disk.take_change() && !disk.take_change());
    submit(&disk, BlockOperation::Read { sector: 1999 }, &[512], 0).unwrap();
    wire.with(|state| state.status |= status::NEEDS_RESET);
    disk.acknowledge();
    assert!(disk.is_broken() && disk.take_change());
}

#[test]
fn a_device_that_lies_is_broken() {
    let wire = device(ALL);
    let disk = driver(&wire);
    submit(&disk, BlockOperation::Read { sector: 0 }, &[512], 9).unwrap();
    wire.with(|state| state.ring(0).put_used(40, 0));
    assert_eq!(completions(&disk, 0), []);
    assert!(disk.is_broken());
    let flush = submit(&disk, BlockOperation::Flush, &[], 0);
    assert_eq!(flush, Err(SubmitError::Broken));
}

#[test]
fn a_broken_device_gives_up_what_it_had_once_it_is_reset() {
    let wire = device(ALL);
    let disk = driver(&wire);
    disk.take_change();
    let read = BlockOperation::Read { sector: 0 };
    submit(&disk, read, &[512], 8).unwrap();
    submit(&disk, read, &[512], 9).unwrap();
    wire.with(|state| {
        let ring = state.ring(0);
        ring.look(1);
        ring.finish(0, 1);
        ring.put_used(40, 0);
        state.resets_slowly = true;
    });
    assert_eq!(completions(&disk, 0).len(), 1);
    assert!(disk.is_broken() && disk.take_change());
    // It may write to the memory as long as it does not say that the reset is done.
    assert!(!disk.arm(0));
    assert_eq!(completions(&disk, 0), []);
    wire.with(|state| state.resets_slowly = false);
    assert!(disk.arm(0));
    let failed = Completion {
        tag: 9,
        status: BlockStatus::Error,
    };
    assert_eq!(completions(&disk, 0), [failed]);
    assert!(!disk.arm(0));
    assert_eq!(completions(&disk, 0), []);
}

#[test]
fn devices_that_cannot_be_driven_are_refused() {
    let refused = |change: fn(&mut State)| {
        let wire = device(ALL);
        wire.with(change);
        VirtioBlock::new(wire.transport(), &Mock).err()
    };
    assert_eq!(
        refused(|state| state.offered = 0),
        Some(VirtioError::Features)
    );
    assert_eq!(
        refused(|state| state.refuses = true),
        Some(VirtioError::Features)
    );
    assert_eq!(
        refused(|state| state.queue_sizes[1] = 0),
        Some(VirtioError::NoQueue(1))
    );
    assert_eq!(
        refused(|state| state.config[20] = 7),
        Some(VirtioError::Configuration)
    );
    // A legacy device's queue has the size that it has.
    assert_eq!(
        refused(|state| {
            state.modern = false;
            state.queue_sizes[0] = 100;
        }),
        Some(VirtioError::NoQueue(0))
    );
}

#[test]
fn the_device_is_reset_before_its_memory_goes() {
    let wire = device(ALL);
    let disk = driver(&wire);
    assert_ne!(wire.with(|state| state.status) & status::DRIVER_OK, 0);
    drop(disk);
    assert_eq!(wire.with(|state| state.status), 0);
}

#[test]
fn messages_are_shared_if_there_are_few() {
    for (there, used, second) in [(0, 0, 0), (1, 1, 0), (2, 1, 0), (3, 3, 2), (9, 3, 2)] {
        let wire = device(ALL);
        wire.with(|state| state.messages = there);
        let disk = driver(&wire);
        assert_eq!(disk.messages(), used);
        assert_eq!(disk.queue_message(1), second);
        assert_eq!(disk.config_message(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Any configuration and any queue sizes: refused or driven, without a panic; what is
    /// driven takes requests within its own limits.
    #[test]
    fn any_configuration(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
        features in any::<u64>(),
        size in any::<u16>(),
        modern in any::<bool>(),
        shift in 0u32..16,
    ) {
        let mut state = State::new(features, bytes, &[size >> shift; 4]);
        state.modern = modern;
        state.answer = Some(answer_serial);
        // The answer needs room for three pieces.
        prop_assume!(size >> shift >= 4);
        let wire = Wire::new(state);
        if let Ok(disk) = VirtioBlock::new(wire.transport(), &Mock) {
            let info = disk.info();
            prop_assert!(info.max_segments > 0 && info.max_segment_size >= 4096);
            let block = info.logical_block_size;
            let read = BlockOperation::Read { sector: 0 };
            let fits = info.sectors >= u64::from(block / 512) && block <= info.max_segment_size;
            let result = submit(&disk, read, &[block], 1);
            prop_assert_eq!(result.is_ok(), fits);
            disk.kick(0);
            disk.acknowledge();
            let event = get16(wire.with(|state| state.ring(0).place.available) + 2);
            prop_assert_eq!(event, 1 + u16::from(fits));
        }
    }
}
