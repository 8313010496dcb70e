//! The driver of network cards.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::model::{State, Wire, get8, get16, put8, put16};
use crate::Segment;
use crate::interrupt::Interrupting;
use crate::net::*;
use crate::platform::mock::Mock;
use crate::virtio::net::VirtioNet;
use crate::virtio::ring::Buffer;
use crate::virtio::{VirtioError, feature, status};

const CHECKSUM: u64 = 1;
const GUEST_CHECKSUM: u64 = 1 << 1;
const MERGE: u64 = 1 << 15;
const CONTROL: u64 = 1 << 17 | 1 << 18;
const MULTI_QUEUE: u64 = 1 << 22;
const TSO: u64 = 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12;
const USUAL: u64 = CHECKSUM | GUEST_CHECKSUM | MERGE | TSO | 1 << 3 | 1 << 5 | 1 << 16;

/// A MAC, link up, 2 pairs, MTU 1450.
fn config() -> Vec<u8> {
    vec![2, 1, 2, 3, 4, 5, 1, 0, 2, 0, 0xaa, 5]
}

fn device(features: u64) -> Wire {
    let mut state = State::new(features, config(), &[16, 16, 16, 16, 16]);
    state.answer = Some(answer_control);
    Wire::new(state)
}

/// Obeys commands; other queues only count.
fn answer_control(state: &mut State, queue: u16) {
    if queue < 4 && state.accepted & MULTI_QUEUE != 0 || queue < 2 {
        return;
    }
    let ring = state.ring(queue);
    while ring.look(1) == 1 {
        let (_, chain) = ring.held[0].clone();
        let what = (get8(chain[0].address), get8(chain[0].address + 1));
        let value = get16(chain[1].address);
        let ok = matches!((what, value), ((0, 0), 1) | ((4, 0), 2));
        put8(chain[2].address, u8::from(!ok));
        ring.finish(0, 1);
    }
    ring.want_notification(true);
}

fn driver(wire: &Wire) -> VirtioNet {
    VirtioNet::new(wire.transport(), &Mock).unwrap()
}

/// Writes bytes as received in the next buffer; gives how many it took, as a device would.
fn put(ring: &mut super::model::Model, bytes: &[u8], most: usize) -> usize {
    ring.look(1);
    let (head, chain) = ring.held.pop_front().unwrap();
    let mut at = 0;
    for piece in &chain {
        for n in 0..piece.length.into() {
            if at < bytes.len().min(most) {
                put8(piece.address + n, bytes[at]);
                at += 1;
            }
        }
    }
    ring.put_used(head.into(), at as u32);
    at
}

/// Receives what there is: length, first byte of each segment, offload.
fn received(net: &VirtioNet) -> Vec<(usize, Vec<u8>, Offload)> {
    let mut list = Vec::new();
    net.receive(0, 100, &mut |frame| {
        let total: usize = frame.segments.iter().map(|s| s.length as usize).sum();
        assert_eq!(total, frame.length);
        let firsts = frame.segments.iter().map(|s| get8(s.address)).collect();
        list.push((frame.length, firsts, frame.offload));
    });
    list
}

fn frame_bytes(header: [u8; 12], length: usize) -> Vec<u8> {
    let mut bytes = header.to_vec();
    bytes.extend((0..length).map(|n| n as u8));
    bytes
}

#[test]
fn what_the_device_says_is_told() {
    let net = driver(&device(USUAL));
    let info = net.info();
    assert_eq!((info.mac, info.mtu), ([2, 1, 2, 3, 4, 5], 1450));
    assert!(info.link && info.transmit_checksum && info.transmit_tcp4 && info.transmit_tcp6);
    assert_eq!(net.queues(), 1);
    assert!(!net.take_change());
    // Without a checksum nothing is cut either, whatever the device offers.
    let info = driver(&device(USUAL & !CHECKSUM)).info();
    assert!(!info.transmit_checksum && !info.transmit_tcp4);
    // Long frames need merged buffers.
    let wire = device(USUAL & !MERGE);
    let _net = driver(&wire);
    assert_eq!(wire.with(|state| state.accepted) & (1 << 7 | 1 << 8), 0);
    let wire = device(0);
    assert_eq!(driver(&wire).info().mtu, 1500);
}

#[test]
fn pairs_of_queues_are_asked_for() {
    let wire = device(USUAL | CONTROL | MULTI_QUEUE);
    wire.with(|state| state.messages = 3);
    let net = driver(&wire);
    assert_eq!((net.queues(), net.messages()), (2, 3));
    assert_eq!(net.queue_message(1), 2);
    // A device that does not do it: one pair.
    let wire = device(USUAL | CONTROL | MULTI_QUEUE);
    wire.with(|state| {
        state.answer = Some(|state, queue| {
            answer_control(state, queue);
            if queue == 4 {
                let ring = state.ring(4);
                // Whatever it was: refused.
                let entry = u64::from(ring.used.wrapping_sub(1) % 16);
                let head = super::model::get32(ring.place.used + 4 + 8 * entry);
                let table = ring.place.descriptors + 16 * u64::from(head);
                let (mut at, mut last) = (table, table);
                while get16(at + 12) & 1 != 0 {
                    at = ring.place.descriptors + 16 * u64::from(get16(at + 14));
                    last = at;
                }
                put8(super::model::get64(last), 1);
            }
        });
    });
    assert_eq!(driver(&wire).queues(), 1);
    // Without a control queue nobody can ask.
    assert_eq!(driver(&device(USUAL | MULTI_QUEUE)).queues(), 1);
}

#[test]
fn frames_are_received_whole_and_in_pieces() {
    for features in [USUAL, USUAL | feature::EVENT_INDEX | feature::INDIRECT] {
        let wire = device(features);
        let net = driver(&wire);
        for round in 0..40 {
            wire.with(|state| {
                let ring = state.ring(0);
                let mut one = frame_bytes([0; 12], 60);
                one[10] = 1;
                put(ring, &one, 4092);
                // Three buffers (aligned behind the header, so a little less than a page), a checksum, TCP over IPv4.
                let header = [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 3, 0];
                let long = frame_bytes(header, 10000);
                let first = put(ring, &long, 4092);
                let second = put(ring, &long[first..], 4092);
                put(ring, &long[first + second..], 4092);
            });
            let got = received(&net);
            assert_eq!(got.len(), 2, "round {round}");
            assert_eq!(got[0], (60, vec![0], Offload::default()));
            let (length, firsts, offload) = &got[1];
            assert_eq!((*length, firsts.len()), (10000, 3));
            assert_eq!(firsts[1], (4092 - 12) as u8);
            assert_eq!(
                offload.checksum,
                Some(PartialChecksum {
                    start: 34,
                    offset: 16
                })
            );
            assert_eq!(
                offload.segmentation,
                Some(Segmentation {
                    kind: SegmentationKind::Tcp4,
                    size: 1460,
                    header_length: 54,
                    ecn: false
                })
            );
            assert_eq!(received(&net), []);
        }
        assert!(!net.is_broken());
    }
}

#[test]
fn frames_without_merging_and_from_legacy_devices() {
    for (modern, header) in [(true, 12), (false, 10)] {
        let wire = device(USUAL & !MERGE);
        wire.with(|state| state.modern = modern);
        let net = driver(&wire);
        for _ in 0..30 {
            wire.with(|state| {
                let mut bytes = vec![0; header];
                bytes.extend([7; 100]);
                put(state.ring(0), &bytes, 4096);
            });
            assert_eq!(received(&net), [(100, vec![7], Offload::default())]);
        }
    }
}

#[test]
fn frames_that_make_no_sense_are_passed_over() {
    let wire = device(USUAL);
    let net = driver(&wire);
    let bad: &[([u8; 12], usize)] = &[
        // Too short; no buffers; a checksum beyond the end; an unknown kind; cut in pieces of 0.
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], 13),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 60),
        ([1, 0, 0, 0, 0, 0, 40, 0, 19, 0, 1, 0], 60),
        ([1, 0, 0, 0, 0, 0, 255, 255, 255, 255, 1, 0], 60),
        ([1, 3, 0, 0, 1, 0, 14, 0, 0, 0, 1, 0], 60),
        ([1, 1, 0, 0, 0, 0, 14, 0, 0, 0, 1, 0], 60),
        ([0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0], 60),
    ];
    for _ in 0..10 {
        for (header, length) in bad {
            wire.with(|state| put(state.ring(0), &frame_bytes(*header, *length), 4096));
            assert_eq!(received(&net), [], "{header:?}");
        }
    }
    // The buffers are all back.
    let mut one = frame_bytes([0; 12], 60);
    one[10] = 1;
    wire.with(|state| {
        for _ in 0..16 {
            put(state.ring(0), &one, 4096);
        }
    });
    assert_eq!(received(&net).len(), 16);
    // More buffers than there are: broken.
    one[10] = 2;
    wire.with(|state| put(state.ring(0), &one, 4096));
    assert_eq!(received(&net), []);
    assert!(net.is_broken());
    // Longer than the buffer.
    let wire = device(USUAL);
    let net = driver(&wire);
    wire.with(|state| {
        let ring = state.ring(0);
        ring.look(1);
        put16(ring.held[0].1[0].address + 10, 1);
        ring.finish(0, 4097);
    });
    assert_eq!(received(&net), []);
}

fn send(net: &VirtioNet, lengths: &[u32], offload: Offload) -> Result<(), TransmitError> {
    let segments: Vec<_> = lengths
        .iter()
        .map(|&length| Segment {
            address: 0x5000,
            length,
        })
        .collect();
    net.transmit(
        0,
        &TransmitFrame {
            segments: &segments,
            offload,
            tag: 77,
        },
    )
}

fn cut(kind: SegmentationKind, ecn: bool) -> Offload {
    Offload {
        checksum: Some(PartialChecksum {
            start: 34,
            offset: 16,
        }),
        checksum_valid: false,
        segmentation: Some(Segmentation {
            kind,
            size: 1400,
            header_length: 66,
            ecn,
        }),
    }
}

#[test]
fn frames_are_sent_with_their_headers() {
    let wire = device(USUAL | feature::INDIRECT | 1 << 13);
    let net = driver(&wire);
    send(&net, &[60], Offload::default()).unwrap();
    send(&net, &[100, 30000, 5000], cut(SegmentationKind::Tcp4, true)).unwrap();
    send(&net, &[100, 30000], cut(SegmentationKind::Tcp6, false)).unwrap();
    wire.with(|state| state.notified.clear());
    net.kick(0);
    net.kick(0);
    wire.with(|state| {
        assert_eq!(state.notified, [1]);
        let ring = state.ring(1);
        ring.look(10);
        let chains: Vec<Vec<Buffer>> = ring.held.iter().map(|(_, chain)| chain.clone()).collect();
        let header =
            |n: usize| -> Vec<u8> { (0..12).map(|at| get8(chains[n][0].address + at)).collect() };
        assert!(
            chains
                .iter()
                .all(|c| c[0].length == 12 && c.iter().all(|p| !p.write))
        );
        assert_eq!(header(0), [0; 12]);
        assert_eq!(header(1), [1, 0x81, 66, 0, 0x78, 5, 34, 0, 16, 0, 0, 0]);
        assert_eq!(header(2), [1, 4, 66, 0, 0x78, 5, 34, 0, 16, 0, 0, 0]);
        assert_eq!(chains[1].len(), 4);
        (0..3).for_each(|_| drop(ring.finish(0, 0)));
    });
    let mut back = Vec::new();
    assert_eq!(net.reclaim(0, 10, &mut |tag| back.push(tag)), 3);
    assert_eq!(back, [77; 3]);
}

#[test]
fn frames_that_cannot_be_sent_are_refused() {
    let invalid = Err(TransmitError::Invalid);
    let net = driver(&device(USUAL));
    assert_eq!(send(&net, &[], Offload::default()), invalid);
    assert_eq!(send(&net, &[13], Offload::default()), invalid);
    assert_eq!(send(&net, &[60, 0], Offload::default()), invalid);
    assert_eq!(send(&net, &[1469], Offload::default()), invalid);
    assert_eq!(send(&net, &[1468], Offload::default()), Ok(()));
    assert_eq!(send(&net, &[60; 20], Offload::default()), invalid);
    assert_eq!(
        send(
            &net,
            &[u32::MAX, u32::MAX],
            cut(SegmentationKind::Tcp4, false)
        ),
        invalid
    );
    let checksum = |start, offset| Offload {
        checksum: Some(PartialChecksum { start, offset }),
        ..Offload::default()
    };
    assert_eq!(send(&net, &[60], checksum(50, 9)), invalid);
    assert_eq!(send(&net, &[60], checksum(50, 8)), Ok(()));
    let mut bare = cut(SegmentationKind::Tcp4, false);
    bare.checksum = None;
    assert_eq!(send(&net, &[60], bare), invalid);
    let net = driver(&device(USUAL & !TSO));
    assert_eq!(
        send(&net, &[60], cut(SegmentationKind::Tcp6, false)),
        invalid
    );
    let net = driver(&device(0));
    assert_eq!(send(&net, &[60], checksum(14, 0)), invalid);
    // Full: 16 descriptors, two each.
    for _ in 0..8 {
        send(&net, &[60], Offload::default()).unwrap();
    }
    assert_eq!(
        send(&net, &[60], Offload::default()),
        Err(TransmitError::Full)
    );
}

#[test]
fn the_link_is_followed() {
    let wire = device(USUAL);
    let net = driver(&wire);
    wire.with(|state| state.config[6] = 0);
    net.acknowledge();
    assert!(net.take_change() && !net.take_change());
    assert!(!net.info().link);
    wire.with(|state| state.config[6] = 1);
    net.acknowledge();
    assert!(net.take_change() && net.info().link);
    wire.with(|state| state.status |= status::NEEDS_RESET);
    net.acknowledge();
    assert!(net.is_broken());
}

#[test]
fn a_broken_device_gives_back_what_it_had_once_it_is_reset() {
    let wire = device(USUAL);
    let net = driver(&wire);
    send(&net, &[60], Offload::default()).unwrap();
    wire.with(|state| {
        state.status |= status::NEEDS_RESET;
        state.resets_slowly = true;
    });
    net.acknowledge();
    assert!(net.is_broken() && net.take_change());
    let again = send(&net, &[60], Offload::default());
    assert_eq!(again, Err(TransmitError::Broken));
    assert!(!net.arm(0));
    assert_eq!(net.reclaim(0, 10, &mut |_| {}), 0);
    wire.with(|state| state.resets_slowly = false);
    assert!(net.arm(0));
    assert_eq!(net.reclaim(0, 10, &mut |_| {}), 1);
    assert!(!net.arm(0));
}

#[test]
fn who_sleeps_is_woken() {
    for features in [USUAL, USUAL | feature::EVENT_INDEX] {
        let wire = device(features);
        let net = driver(&wire);
        for _ in 0..20 {
            assert!(!net.arm(0));
            let mut one = frame_bytes([0; 12], 60);
            one[10] = 1;
            wire.with(|state| {
                put(state.ring(0), &one, 4096);
                assert!(state.ring(0).interrupts());
            });
            assert!(net.arm(0));
            assert_eq!(received(&net).len(), 1);
            for _ in 0..4 {
                send(&net, &[60], Offload::default()).unwrap();
            }
            net.kick(0);
            assert!(!net.arm(0));
            wire.with(|state| {
                let ring = state.ring(1);
                ring.look(4);
                (0..4).for_each(|_| drop(ring.finish(0, 0)));
                assert!(ring.interrupts());
            });
            assert_eq!(net.reclaim(0, 10, &mut |_| {}), 4);
        }
    }
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let wire = device(USUAL);
    wire.with(|state| state.config[0] = 1);
    let error = VirtioNet::new(wire.transport(), &Mock).err();
    assert_eq!(error, Some(VirtioError::Configuration));
    // So many pairs that the queue for commands would have no number.
    let wire = device(USUAL | CONTROL | MULTI_QUEUE);
    wire.with(|state| {
        state.config[8..10].copy_from_slice(&0x8000u16.to_le_bytes());
        state.queue_sizes = vec![16; 8];
        state.rings.resize_with(8, || None);
    });
    let error = VirtioNet::new(wire.transport(), &Mock).err();
    assert_eq!(error, Some(VirtioError::Configuration));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a device writes and claims: no panic, and frames lie within the buffers.
    #[test]
    fn a_lying_device_harms_nobody(
        lies in prop::collection::vec((any::<[u8; 12]>(), any::<bool>(), 0u32..20, any::<u16>()), 1..40),
        merge in any::<bool>(),
    ) {
        let wire = device(if merge { USUAL } else { USUAL & !MERGE });
        let net = driver(&wire);
        for (header, small, head, length) in lies {
            if net.is_broken() {
                break;
            }
            wire.with(|state| {
                let ring = state.ring(0);
                ring.look(16);
                if let Some((_, chain)) = ring.held.iter().find(|(one, _)| u32::from(*one) == head) {
                    for (n, byte) in header.iter().enumerate() {
                        let byte = if small && n >= 10 { byte & 1 } else { *byte };
                        put8(chain[0].address + n as u64, byte);
                    }
                }
                ring.held.retain(|(one, _)| u32::from(*one) != head);
                ring.put_used(head, length.into());
            });
            for (length, segments, _) in received(&net) {
                prop_assert!((14..=32 * 4096).contains(&length) && segments.len() <= 32);
            }
            net.arm(0);
        }
    }
}
