//! Frames of all kinds arrive as they were sent, and a hostile guest hurts nobody else.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

#[derive(Clone, Debug)]
enum Step {
    /// From a vif to another or the NIC's side.
    Send {
        from: usize,
        to: usize,
        v6: bool,
        tcp: bool,
        length: usize,
        blank: bool,
        size: Option<u16>,
        cuts: Vec<usize>,
    },
    /// From the NIC to a vif.
    Arrive {
        to: usize,
        v6: bool,
        length: usize,
        size: Option<u16>,
    },
    NicSends(usize),
    Post(usize, usize),
    Take(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let length = || prop_oneof![0..300usize, 0..1400usize];
    let size = || prop_oneof![Just(None), (500u16..2000).prop_map(Some)];
    prop_oneof![
        6 => (
            (0..2usize, 0..3usize, any::<bool>(), any::<bool>()),
            (length(), 0..64_000usize, any::<bool>(), size()),
            prop::collection::vec(1..3000usize, 0..4),
        )
            .prop_map(|((from, to, v6, tcp), (small, large, blank, size), mut cuts)| {
                let size = size.filter(|_| tcp);
                cuts.sort_unstable();
                Step::Send {
                    from,
                    to,
                    v6,
                    tcp,
                    length: if size.is_some() { large } else { small },
                    blank: blank || size.is_some(),
                    size,
                    cuts,
                }
            }),
        3 => (0..2usize, any::<bool>(), 0..1400usize, 0..64_000usize, size())
            .prop_map(|(to, v6, small, large, size)| Step::Arrive {
                to,
                v6,
                length: if size.is_some() { large } else { small },
                size,
            }),
        3 => (1..10usize).prop_map(Step::NicSends),
        3 => (0..2usize, 1..100usize).prop_map(|(n, count)| Step::Post(n, count)),
        3 => (0..2usize).prop_map(Step::Take),
    ]
}

fn features() -> impl Strategy<Value = Features> {
    any::<[bool; 5]>().prop_map(|[scatter, tcp4, tcp6, checksum4, checksum6]| Features {
        scatter,
        tcp4,
        tcp6,
        checksum4,
        checksum6,
    })
}

fn nic() -> impl Strategy<Value = (NetInfo, usize)> {
    (any::<[bool; 3]>(), 2..21usize, 1..40usize).prop_map(
        |([sum, tcp4, tcp6], segments, capacity)| {
            let info = NetInfo {
                transmit_checksum: sum,
                transmit_tcp4: sum && tcp4,
                transmit_tcp6: sum && tcp6,
                // Enough for the head and all pages of a frame that is copied.
                max_segments: segments.max(18),
                ..full_info()
            };
            (info, capacity)
        },
    )
}

/// Payload of the longest TCP piece on a link of 1500 bytes: without the headers of IPv6
/// and of TCP with its options.
const LINK_PIECE: u16 = 1500 - 40 - 32;

/// What is expected to arrive somewhere, in order.
struct Expected {
    whole: Vec<u8>,
    size: Option<u16>,
    /// Payload bytes that came already.
    done: usize,
}

/// Takes a frame that arrived for the next that is expected, or a piece of it.
fn take(
    expected: &mut VecDeque<Expected>,
    bytes: &[u8],
    is_whole: bool,
) -> Result<(), TestCaseError> {
    let first = expected.front_mut();
    prop_assert!(first.is_some(), "a frame from nowhere");
    let first = first.unwrap();
    let (at, v6) = transport(&first.whole);
    let tcp = first.whole[if v6 { 20 } else { 23 }] == 6;
    let header = at + if tcp { 32 } else { 8 };
    prop_assert!(bytes.len() >= header);
    prop_assert!(is_sound(bytes), "checksum");
    prop_assert_eq!(&bytes[..12], &first.whole[..12]);
    let data = &first.whole[header..];
    let part = match first.size {
        Some(size) if !is_whole => {
            let end = (first.done + usize::from(size)).min(data.len());
            let part = &data[first.done..end];
            first.done = end;
            part
        }
        _ => {
            prop_assert_eq!(first.done, 0);
            first.done = data.len();
            data
        }
    };
    prop_assert!(&bytes[header..] == part, "payload");
    if first.done == data.len() {
        expected.pop_front();
    }
    Ok(())
}

/// A frame as it came, with its checksum completed.
fn sound(bytes: &[u8], blank: bool) -> Vec<u8> {
    if !blank {
        return bytes.to_vec();
    }
    let (at, v6) = transport(bytes);
    let tcp = bytes[if v6 { 20 } else { 23 }] == 6;
    let partial = PartialChecksum {
        start: at as u16,
        offset: if tcp { 16 } else { 6 },
    };
    completed(
        bytes,
        Offload {
            checksum: Some(partial),
            ..Offload::default()
        },
    )
}

fn take_all(
    net: &mut Net1,
    n: usize,
    expected: &mut VecDeque<Expected>,
) -> Result<(), TestCaseError> {
    for got in net.fronts[n].take_received() {
        take(expected, &sound(&got.bytes, got.blank), got.gso.is_some())?;
    }
    Ok(())
}

fn take_sent(
    sent: Vec<(Vec<u8>, Offload)>,
    expected: &mut VecDeque<Expected>,
) -> Result<(), TestCaseError> {
    for (bytes, offload) in sent {
        take(
            expected,
            &completed(&bytes, offload),
            offload.segmentation.is_some(),
        )?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn all_arrives_as_it_was_sent(
        features in [features(), features()],
        nic in nic(),
        start: u32,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut net = Net1::new(&features, Some(nic), start);
        // So that it is known where that is.
        net.arrive(ip_frame(PEER, PEER, false, 17, &[], false), Offload::default());
        let mut to_nic: [VecDeque<Expected>; 2] = Default::default();
        let mut to_guest: [VecDeque<Expected>; 2] = Default::default();
        let mut outside: Vec<(Vec<u8>, Offload)> = Vec::new();
        let mut dropped = false;
        for step in steps {
            match step {
                Step::Send { from, to, v6, tcp, length, blank, size, cuts } => {
                    if to == from {
                        continue;
                    }
                    let mac = if to == 2 { PEER } else { vif_mac(to) };
                    // Pieces longer than the link takes are not sent.
                    let size = size.map(|size| if to == 2 { size.min(LINK_PIECE) } else { size });
                    if to != 2 {
                        // Who waits for the NIC would be overtaken by the others.
                        outside.extend(net.send_out());
                    }
                    let bytes = ip_frame(mac, vif_mac(from), v6, if tcp { 6 } else { 17 }, &payload(length), blank);
                    // Frontends send no frame of more requests than everybody takes.
                    let most = (XEN_NETIF_NR_SLOTS_MIN as usize).saturating_sub(bytes.len().div_ceil(PAGE_SIZE));
                    let cuts = cuts.into_iter().filter(|&cut| cut < bytes.len()).take(most).collect();
                    let gso = size.map(|size| (size, v6));
                    let Some(tell) = net.fronts[from].send(&Send { bytes: bytes.clone(), cuts, blank, gso }) else {
                        continue;
                    };
                    let entry = Expected { whole: bytes, size, done: 0 };
                    if to == 2 {
                        to_nic[from].push_back(entry);
                    } else {
                        to_guest[to].push_back(entry);
                    }
                    if tell {
                        net.host.raise(net.fronts[from].config.task);
                    }
                    prop_assert!(net.settle());
                }
                Step::Arrive { to, v6, length, size } => {
                    outside.extend(net.send_out());
                    let tcp = size.is_some();
                    let bytes = ip_frame(vif_mac(to), PEER, v6, if tcp { 6 } else { 17 }, &payload(length), tcp);
                    let kind = if v6 { SegmentationKind::Tcp6 } else { SegmentationKind::Tcp4 };
                    let offload = Offload {
                        checksum: tcp.then_some(PartialChecksum { start: if v6 { 54 } else { 34 }, offset: 16 }),
                        checksum_valid: false,
                        segmentation: size.map(|size| Segmentation { kind, size, header_length: 0, ecn: false }),
                    };
                    to_guest[to].push_back(Expected { whole: bytes.clone(), size, done: 0 });
                    net.arrive(bytes, offload);
                }
                Step::NicSends(most) => {
                    outside.extend(net.nic.as_ref().unwrap().send_out(most));
                    net.host.raise(NIC_TASK);
                    prop_assert!(net.settle());
                }
                Step::Post(n, count) => net.post(n, count),
                Step::Take(n) => {
                    prop_assert!(net.fronts[n].take_answers().iter().all(|&status| status == NETIF_RSP_OKAY));
                    let lost = net.vifs[n].counters.received_dropped.load(Ordering::Relaxed);
                    dropped |= lost != 0;
                    if dropped {
                        break;
                    }
                    take_all(&mut net, n, &mut to_guest[n])?;
                }
            }
            let lost = net.vifs.iter().any(|vif| vif.counters.received_dropped.load(Ordering::Relaxed) != 0);
            if lost {
                // What is beyond the limit is dropped; a test of its own looks at that.
                dropped = true;
                break;
            }
        }
        outside.extend(net.send_out());
        if !dropped {
            for (bytes, offload) in outside {
                let from = usize::from(bytes[11]);
                take_sent(vec![(bytes, offload)], &mut to_nic[from])?;
            }
            for n in 0..2 {
                net.fronts[n].take_answers();
                while !to_guest[n].is_empty() {
                    net.post(n, 100);
                    take_all(&mut net, n, &mut to_guest[n])?;
                    net.fronts[n].take_answers();
                    net.host.raise(net.fronts[0].config.task);
                    net.host.raise(net.fronts[1].config.task);
                    prop_assert!(net.settle());
                }
                prop_assert!(to_nic[n].is_empty());
                prop_assert_eq!(net.fronts[n].outstanding(), 0);
            }
        }
        for vif in &net.vifs {
            prop_assert_eq!(vif.misbehaviour(), None);
        }
        net.finish();
    }

    #[test]
    fn a_hostile_guest_hurts_nobody_else(
        writes in prop::collection::vec((any::<bool>(), 0..40usize, prop_oneof![any::<u32>(), 0..400u32, Just(0)]), 1..80),
        grants in prop::collection::vec((16..60u32, 0..2 * DOMAIN_FRAMES, any::<bool>()), 0..30),
    ) {
        let mut net = Net1::new(&[all_features(), all_features()], Some((full_info(), 8)), 0);
        let missing = 60 - net.fronts[0].posted();
            net.post(0, missing);
        for (reference, mfn, readonly) in grants {
            if reference > 17 {
                net.fronts[1].grant(reference, Mfn(mfn), readonly);
            }
        }
        for (transmit, word, value) in writes {
            let front = &net.fronts[1];
            let page = if transmit { front.tx_page() } else { front.rx_page() };
            page.store_u32(word * 4 % 16 + if word < 8 { 0 } else { 64 + word / 4 * 4 }, value);
            net.host.raise(front.config.task);
            prop_assert!(net.settle());
            net.arrive(ip_frame(vif_mac(1), PEER, false, 17, &[3; 30], false), Offload::default());
            net.fronts[0].take_received();
            let missing = 60 - net.fronts[0].posted();
            net.post(0, missing);
        }
        net.send_out();
        net.fronts[0].take_received();
        net.fronts[0].take_answers();
        let missing = 60 - net.fronts[0].posted();
            net.post(0, missing);
        net.send(0, &plain(ip_frame(PEER, vif_mac(0), false, 17, &payload(1000), false)));
        prop_assert_eq!(net.send_out().len(), 1);
        prop_assert_eq!(net.fronts[0].take_answers(), [NETIF_RSP_OKAY]);
        net.arrive(ip_frame(vif_mac(0), PEER, false, 17, &[3; 30], false), Offload::default());
        prop_assert_eq!(net.fronts[0].take_received().len(), 1);
        prop_assert_eq!(net.vifs[0].misbehaviour(), None);
        net.finish();
    }
}
