mod model;
mod properties;

use std::sync::atomic::Ordering;
use std::vec;
use std::vec::Vec;

use overcast_drivers::net::*;
use xen_abi::io_netif::*;
use zerocopy::IntoBytes;

use super::*;
use crate::addr::{Mfn, PAGE_SIZE};
use crate::machine::Memory;
use crate::switch::MacAddress;
use model::*;

const PEER: MacAddress = MacAddress([2, 0, 0, 0, 0, 0x77]);

/// An RFC 1071 sum, the plain way.
fn sum(parts: &[&[u8]]) -> u16 {
    let all: Vec<u8> = parts.concat();
    let mut sum = 0u32;
    for pair in all.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Where TCP or UDP is in a frame without tags, and how long it is.
fn transport(frame: &[u8]) -> (usize, bool) {
    let v6 = frame[12..14] == [0x86, 0xdd];
    (
        if v6 {
            54
        } else {
            14 + usize::from(frame[14] & 15) * 4
        },
        v6,
    )
}

fn pseudo(frame: &[u8], protocol: u8, length: usize) -> Vec<u8> {
    let (_, v6) = transport(frame);
    let addresses = if v6 { 22..54 } else { 26..34 };
    let mut out = frame[addresses].to_vec();
    out.extend((length as u32).to_be_bytes());
    out.extend([0, 0, 0, protocol]);
    out
}

/// Whether the checksums of a TCP or UDP frame are right.
fn is_sound(frame: &[u8]) -> bool {
    let (at, v6) = transport(frame);
    let protocol = if v6 { frame[20] } else { frame[23] };
    let ip = v6 || sum(&[&frame[14..at]]) == 0xffff;
    ip && sum(&[&pseudo(frame, protocol, frame.len() - at), &frame[at..]]) == 0xffff
}

/// A TCP or UDP frame; with `blank` the checksum is the pseudo-header's sum.
fn ip_frame(
    to: MacAddress,
    from: MacAddress,
    v6: bool,
    protocol: u8,
    payload: &[u8],
    blank: bool,
) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    let header = if protocol == 6 { 32 } else { 8 };
    let length = header + payload.len();
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((length as u16).to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend([0xfd; 16]);
        frame.extend([0xfe; 16]);
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((length as u16).wrapping_add(20).to_be_bytes());
        frame.extend([
            0x12, 0xff, 0x40, 0, 64, protocol, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2,
        ]);
        let value = !sum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&value.to_be_bytes());
    }
    let at = frame.len();
    frame.extend([0x30, 0x39, 0, 80]);
    if protocol == 6 {
        // Sequence, acknowledgement; 32 bytes; CWR, ACK, PSH, FIN.
        frame.extend([
            0xff, 0xff, 0xff, 0x00, 1, 2, 3, 4, 0x80, 0x99, 0x10, 0, 0, 0, 0, 0,
        ]);
        frame.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    } else {
        frame.extend((length as u16).to_be_bytes());
        frame.extend([0, 0]);
    }
    frame.extend(payload);
    let field = at + if protocol == 6 { 16 } else { 6 };
    let mut value = sum(&[&pseudo(&frame, protocol, length)]);
    if !blank {
        frame[field..field + 2].copy_from_slice(&[0, 0]);
        value = !sum(&[&pseudo(&frame, protocol, length), &frame[at..]]);
    }
    frame[field..field + 2].copy_from_slice(&value.to_be_bytes());
    frame
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 31 + n / 251) as u8).collect()
}

/// Completes a frame's checksum as a NIC does.
fn completed(bytes: &[u8], offload: Offload) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(partial) = offload.checksum {
        let start = usize::from(partial.start);
        let at = start + usize::from(partial.offset);
        let value = !sum(&[&bytes[start..]]);
        bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

/// Checks that frames are what a frame with a payload is cut into.
fn check_cut(pieces: &[Vec<u8>], whole: &[u8], size: usize) {
    let (at, v6) = transport(whole);
    let data = &whole[at + 32..];
    assert_eq!(pieces.len(), data.len().div_ceil(size));
    for (n, (piece, part)) in pieces.iter().zip(data.chunks(size)).enumerate() {
        assert!(is_sound(piece), "piece {n}");
        assert_eq!(&piece[at + 32..], part);
        let sequence = 0xffff_ff00u32.wrapping_add((n * size) as u32);
        assert_eq!(piece[at + 4..at + 8], sequence.to_be_bytes());
        let mut flags = 0x10;
        if n == 0 {
            flags |= 0x80;
        }
        if n + 1 == pieces.len() {
            flags |= 0x09;
        }
        assert_eq!(piece[at + 13], flags, "piece {n}");
        if v6 {
            assert_eq!(piece[18..20], ((piece.len() - 54) as u16).to_be_bytes());
        } else {
            assert_eq!(piece[16..18], ((piece.len() - 14) as u16).to_be_bytes());
            assert_eq!(piece[18..20], (0x12ff + n as u16).to_be_bytes());
        }
    }
}

fn plain(bytes: Vec<u8>) -> Send {
    Send {
        bytes,
        ..Send::default()
    }
}

#[test]
fn a_small_frame_to_the_nic_is_answered_at_once() {
    let mut net = Net1::new(&[all_features()], Some((full_info(), 16)), 0);
    let frame = ip_frame(PEER, vif_mac(0), false, 17, &payload(100), false);
    assert!(net.settle());
    net.send(0, &plain(frame.clone()));
    // Told a little later, if it has not looked by itself.
    assert!(!net.host.was_notified(net.fronts[0].config.tx_port));
    net.host.now.fetch_add(100_000, Ordering::Relaxed);
    assert!(net.settle());
    assert!(net.host.was_notified(net.fronts[0].config.tx_port));
    assert_eq!(net.fronts[0].take_answers(), [NETIF_RSP_OKAY]);
    let sent = net.send_out();
    assert_eq!(sent, [(frame.clone(), Offload::default())]);
    net.send(0, &plain(frame));
    assert_eq!(net.fronts[0].take_answers(), [NETIF_RSP_OKAY]);
    net.host.now.fetch_add(100_000, Ordering::Relaxed);
    assert!(net.settle());
    assert!(!net.host.was_notified(net.fronts[0].config.tx_port));
    net.finish();
}

#[test]
fn a_large_frame_is_held_until_the_nic_gives_it_back() {
    let mut net = Net1::new(&[all_features()], Some((full_info(), 16)), u32::MAX - 1);
    let frame = ip_frame(PEER, vif_mac(0), false, 6, &payload(60_000), true);
    let send = Send {
        bytes: frame.clone(),
        cuts: vec![40, 1000],
        blank: true,
        gso: Some((1448, false)),
    };
    net.send(0, &send);
    assert_eq!(net.fronts[0].take_answers(), []);
    let references = net.host.references();
    assert!(references > 4);
    let sent = net.send_out();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0, frame);
    let segmentation = Segmentation {
        kind: SegmentationKind::Tcp4,
        size: 1448,
        header_length: 66,
        ecn: true,
    };
    assert_eq!(
        sent[0].1,
        Offload {
            checksum: Some(PartialChecksum {
                start: 34,
                offset: 16
            }),
            checksum_valid: false,
            segmentation: Some(segmentation),
        }
    );
    assert_eq!(net.fronts[0].take_answers().len(), 17);
    assert_eq!(net.fronts[0].outstanding(), 0);
    net.finish();
}

#[test]
fn what_the_nic_cannot_do_is_done_here() {
    for v6 in [false, true] {
        for checksum in [false, true] {
            let info = NetInfo {
                transmit_checksum: checksum,
                transmit_tcp4: false,
                transmit_tcp6: false,
                max_segments: 3,
                ..full_info()
            };
            // Fewer places than pieces.
            let mut net = Net1::new(&[all_features()], Some((info, 5)), 0);
            let frame = ip_frame(PEER, vif_mac(0), v6, 6, &payload(20_011), true);
            let send = Send {
                bytes: frame.clone(),
                cuts: vec![20, 3000],
                blank: true,
                gso: Some((1000, v6)),
            };
            net.send(0, &send);
            assert_eq!(net.fronts[0].take_answers(), []);
            let sent = net.send_out();
            let pieces: Vec<_> = sent
                .iter()
                .map(|(bytes, offload)| completed(bytes, *offload))
                .collect();
            check_cut(&pieces, &frame, 1000);
            assert_eq!(net.fronts[0].take_answers().len(), 7);
            net.finish();
        }
    }
}

#[test]
fn what_a_frontend_cannot_do_is_done_here() {
    for v6 in [false, true] {
        let poor = Features::default();
        let mut net = Net1::new(&[all_features(), poor], Some((full_info(), 5)), 0);
        net.post(1, 64);
        let frame = ip_frame(vif_mac(1), vif_mac(0), v6, 6, &payload(20_011), true);
        let send = Send {
            bytes: frame.clone(),
            cuts: vec![],
            blank: true,
            gso: Some((1000, v6)),
        };
        net.send(0, &send);
        assert_eq!(net.fronts[0].take_answers().len(), 5);
        let got = net.fronts[1].take_received();
        assert!(
            got.iter()
                .all(|got| got.valid && !got.blank && got.gso.is_none())
        );
        let pieces: Vec<_> = got.into_iter().map(|got| got.bytes).collect();
        check_cut(&pieces, &frame, 1000);
        // And one with a checksum alone.
        let udp = ip_frame(vif_mac(1), vif_mac(0), v6, 17, &payload(999), true);
        net.send(
            0,
            &Send {
                bytes: udp,
                cuts: vec![],
                blank: true,
                gso: None,
            },
        );
        let got = net.fronts[1].take_received();
        assert!(got.len() == 1 && got[0].valid && !got[0].blank && is_sound(&got[0].bytes));
        net.finish();
    }
}

#[test]
fn pieces_of_a_byte_do_not_keep_the_hypervisor_busy() {
    let mut net = Net1::new(&[all_features(), Features::default()], None, 0);
    let bytes = ip_frame(vif_mac(1), vif_mac(0), false, 6, &payload(20_000), true);
    let send = Send {
        bytes,
        blank: true,
        gso: Some((1, false)),
        ..Send::default()
    };
    net.send(0, &send);
    // Nothing was posted: the backlog is full, and not many more were made.
    let dropped = &net.vifs[1].counters.received_dropped;
    let dropped = dropped.load(core::sync::atomic::Ordering::Relaxed);
    assert!((1..1000).contains(&dropped), "{dropped} pieces");
    net.finish();
}

#[test]
fn between_guests_all_goes_through_as_it_is() {
    let mut net = Net1::new(&[all_features(), all_features()], None, 77);
    net.post(1, 64);
    let frame = ip_frame(vif_mac(1), vif_mac(0), true, 6, &payload(65_000), true);
    let send = Send {
        bytes: frame.clone(),
        cuts: vec![77],
        blank: true,
        gso: Some((1428, true)),
    };
    net.send(0, &send);
    assert!(net.host.was_notified(net.fronts[1].config.rx_port));
    let got = net.fronts[1].take_received();
    assert_eq!(got.len(), 1);
    assert!(got[0].blank && got[0].valid);
    assert_eq!(got[0].gso, Some((1428, true)));
    assert_eq!(got[0].bytes, frame);
    net.finish();
}

#[test]
fn frames_from_the_nic_reach_their_guests() {
    let mut net = Net1::new(
        &[all_features(), all_features()],
        Some((full_info(), 16)),
        0,
    );
    net.post(0, 40);
    net.post(1, 40);
    let frame = ip_frame(vif_mac(1), PEER, false, 6, &payload(5000), false);
    let offload = Offload {
        checksum_valid: true,
        ..Offload::default()
    };
    net.arrive(frame.clone(), offload);
    assert!(net.fronts[0].take_received().is_empty());
    let got = net.fronts[1].take_received();
    assert_eq!(
        got,
        [Got {
            bytes: frame,
            blank: false,
            valid: true,
            gso: None
        }]
    );
    // A checksum that a frontend would look for elsewhere is completed.
    let mut odd = ip_frame(vif_mac(0), PEER, false, 17, &payload(50), false);
    let tail = odd.len() - 10;
    odd[tail + 4..tail + 6].copy_from_slice(&[0, 0]);
    let partial = PartialChecksum {
        start: tail as u16,
        offset: 4,
    };
    net.arrive(
        odd.clone(),
        Offload {
            checksum: Some(partial),
            ..Offload::default()
        },
    );
    let got = net.fronts[0].take_received();
    assert!(!got[0].blank && sum(&[&got[0].bytes[tail..]]) == 0xffff);
    // To all, and to one that nobody knows.
    for to in [MacAddress::BROADCAST, MacAddress([2, 9, 9, 9, 9, 9])] {
        net.arrive(
            ip_frame(to, PEER, false, 17, &[1; 20], false),
            Offload::default(),
        );
        for front in &mut net.fronts {
            assert_eq!(front.take_received().len(), 1);
        }
    }
    net.finish();
}

#[test]
fn a_guest_without_buffers_gets_frames_later_and_the_last_are_dropped() {
    let mut net = Net1::new(
        &[all_features(), all_features()],
        Some((full_info(), 16)),
        0,
    );
    net.post(0, 3);
    for n in 0..500u32 {
        let bytes = ip_frame(vif_mac(0), PEER, false, 17, &n.to_be_bytes(), false);
        net.arrive(bytes, Offload::default());
    }
    let dropped = net.vifs[0]
        .counters
        .received_dropped
        .load(Ordering::Relaxed);
    assert_eq!(dropped, 500 - 3 - BACKLOG_LIMIT as u64);
    // The other one is not hurt.
    net.post(1, 3);
    net.arrive(
        ip_frame(vif_mac(1), PEER, false, 17, &[5], false),
        Offload::default(),
    );
    assert_eq!(net.fronts[1].take_received().len(), 1);
    let mut next = 0;
    loop {
        let got = net.fronts[0].take_received();
        if got.is_empty() {
            break;
        }
        for got in got {
            assert_eq!(got.bytes[42..46], u32::to_be_bytes(next));
            next += 1;
        }
        net.post(0, 7);
    }
    assert_eq!(next, 3 + BACKLOG_LIMIT as u32);
    net.finish();
}

#[test]
fn the_only_guest_makes_the_nic_wait() {
    let mut net = Net1::new(&[all_features()], Some((full_info(), 16)), 0);
    let nic = net.nic.clone().unwrap();
    for n in 0..500u32 {
        let bytes = ip_frame(vif_mac(0), PEER, false, 17, &n.to_be_bytes(), false);
        net.arrive(bytes, Offload::default());
    }
    assert!(!nic.received.lock().unwrap().is_empty());
    let mut got = Vec::new();
    while got.len() < 500 {
        net.post(0, 50);
        let now = net.fronts[0].take_received();
        assert!(!now.is_empty(), "stuck after {}", got.len());
        got.extend(now);
    }
    assert_eq!(
        net.vifs[0]
            .counters
            .received_dropped
            .load(Ordering::Relaxed),
        0
    );
    // When it leaves, the NIC goes on.
    for _ in 0..300 {
        net.arrive(
            ip_frame(vif_mac(0), PEER, false, 17, &[1], false),
            Offload::default(),
        );
    }
    let got = net.fronts[0].take_received().len();
    assert!(got < 300);
    net.vifs[0].close();
    assert!(net.settle());
    assert!(nic.received.lock().unwrap().is_empty());
    net.finish();
}

#[test]
fn multicast_is_filtered_where_it_is_asked_for() {
    let mut net = Net1::new(&[all_features(), all_features()], None, 0);
    let group = MacAddress([1, 0, 0x5e, 0, 0, 5]);
    let frame = plain(ip_frame(group, vif_mac(0), false, 17, &[7; 30], false));
    let edit = |net: &mut Net1, kind: u8, mac: MacAddress| {
        let front = &mut net.fronts[1];
        let request = NetifTxRequest {
            flags: NETTXF_EXTRA_INFO,
            id: 0xffff,
            ..Default::default()
        };
        front.put_tx(request.as_bytes());
        let mut extra = [kind, 0, 0, 0, 0, 0, 0, 0];
        extra[2..].copy_from_slice(&mac.0);
        front.put_tx(&extra);
        front.push_tx();
        net.host.raise(net.fronts[1].config.task);
        assert!(net.settle());
    };
    net.post(1, 20);
    net.send(0, &frame);
    assert_eq!(net.fronts[1].take_received().len(), 1);
    net.vifs[1].set_multicast_control(true);
    net.send(0, &frame);
    assert_eq!(net.fronts[1].take_received().len(), 0);
    edit(&mut net, XEN_NETIF_EXTRA_TYPE_MCAST_ADD, group);
    net.send(0, &frame);
    assert_eq!(net.fronts[1].take_received().len(), 1);
    edit(&mut net, XEN_NETIF_EXTRA_TYPE_MCAST_DEL, group);
    net.send(0, &frame);
    assert_eq!(net.fronts[1].take_received().len(), 0);
    assert_eq!(net.vifs[1].misbehaviour(), None);
    // Each was answered twice: the request, and nothing for its extra information.
    assert_eq!(net.fronts[1].tx_page().load_u32(8), 4);
    net.finish();
}

#[test]
fn who_may_send_from_its_own_address_only_does() {
    let mut net = Net1::new(
        &[all_features(), all_features()],
        Some((full_info(), 16)),
        0,
    );
    net.post(1, 100);
    let frame = |from| plain(ip_frame(vif_mac(1), from, false, 17, &payload(100), false));
    let arrived = |net: &mut Net1, from| {
        net.send(0, &frame(from));
        assert_eq!(net.fronts[0].take_answers(), [NETIF_RSP_OKAY]);
        net.fronts[1].take_received().len()
    };
    // Made up, and heard afterwards; but never another vif's.
    assert_eq!(arrived(&mut net, PEER), 1);
    assert_eq!(arrived(&mut net, vif_mac(1)), 0);
    net.vifs[0].set_spoofchk(true);
    assert_eq!(arrived(&mut net, PEER), 0);
    assert_eq!(arrived(&mut net, vif_mac(0)), 1);
    assert_eq!(net.vifs[0].counters.sent_dropped.load(Ordering::Relaxed), 1);
    net.vifs[0].set_spoofchk(false);
    assert_eq!(arrived(&mut net, PEER), 1);
    // To the NIC neither.
    net.vifs[0].set_spoofchk(true);
    let out = |from| plain(ip_frame(PEER, from, false, 17, &payload(100), false));
    net.send(0, &out(MacAddress([2, 0, 0, 0, 0, 0x78])));
    assert!(net.send_out().is_empty());
    net.finish();
}

#[test]
fn a_rate_is_kept() {
    let mut net = Net1::new(&[all_features(), all_features()], None, 0);
    let rate = Rate {
        bytes: 200_000,
        interval: 1_000_000,
    };
    net.vifs[0].set_rate(Some(rate));
    net.post(1, 200);
    let frame = plain(ip_frame(
        vif_mac(1),
        vif_mac(0),
        false,
        17,
        &payload(3900),
        false,
    ));
    let mut sent = 0;
    for _ in 0..40 {
        for _ in 0..30 {
            if net.fronts[0].send(&frame).is_some() {
                sent += 1;
            }
        }
        net.host.raise(net.fronts[0].config.task);
        net.host.now.fetch_add(100_000, Ordering::Relaxed);
        assert!(net.settle());
        net.fronts[0].take_answers();
        net.fronts[1].take_received();
        net.post(1, 200);
    }
    let passed = net.vifs[0].counters.sent_bytes.load(Ordering::Relaxed);
    // 4 ms of it, and one share to begin with.
    assert!(
        passed <= 1_000_000 && passed > 900_000,
        "{passed} of {sent} frames"
    );
    net.finish();
}

#[test]
fn a_device_is_closed_while_the_nic_has_its_frames() {
    for cut in [false, true] {
        let info = NetInfo {
            transmit_tcp4: !cut,
            ..full_info()
        };
        let mut net = Net1::new(&[all_features()], Some((info, 5)), 0);
        for _ in 0..8 {
            let frame = ip_frame(PEER, vif_mac(0), false, 6, &payload(30_000), true);
            let send = Send {
                bytes: frame,
                cuts: vec![],
                blank: true,
                gso: Some((1000, false)),
            };
            net.fronts[0].send(&send).unwrap();
        }
        net.host.raise(net.fronts[0].config.task);
        assert!(net.settle());
        net.vifs[0].close();
        assert!(net.host.references() > 0);
        net.send_out();
        assert_eq!(net.host.references(), 0);
        net.finish();
    }
}

#[test]
fn link_changes_are_told() {
    let net = Net1::new(&[], Some((full_info(), 5)), 0);
    let nic = net.nic.clone().unwrap();
    nic.info.lock().unwrap().link = false;
    nic.changed.store(true, Ordering::Relaxed);
    let uplink = net.fabric.uplink().unwrap();
    assert_eq!(uplink.run(0, &net.fabric).link, Some(false));
    assert_eq!(uplink.run(0, &net.fabric).link, None);
    assert!(!uplink.info().link);
}

/// Sends one broken frame from the second of two guests.
fn misbehave(front: impl FnOnce(&mut Front)) -> Option<Misbehaviour> {
    let mut net = Net1::new(
        &[all_features(), all_features()],
        Some((full_info(), 16)),
        0,
    );
    front(&mut net.fronts[1]);
    net.host.raise(net.fronts[1].config.task);
    assert!(net.settle());
    let how = net.vifs[1].misbehaviour();
    // Nobody else notices.
    net.send(
        0,
        &plain(ip_frame(PEER, vif_mac(0), false, 17, &[1; 9], false)),
    );
    assert_eq!(net.fronts[0].take_answers(), [NETIF_RSP_OKAY]);
    net.post(1, 1);
    net.arrive(
        ip_frame(vif_mac(1), PEER, false, 17, &[1; 9], false),
        Offload::default(),
    );
    if how.is_some() {
        assert_eq!(
            net.fronts[1].rx_page().load_u32(8),
            0,
            "its rings are not touched"
        );
    }
    net.finish();
    how
}

#[test]
fn who_breaks_the_protocol_is_closed() {
    use Misbehaviour::*;
    let request = |flags, offset, size| NetifTxRequest {
        gref: 20,
        offset,
        flags,
        id: 1,
        size,
    };
    let one = |request: NetifTxRequest| {
        misbehave(move |front| {
            front.put_tx(request.as_bytes());
            front.push_tx();
        })
    };
    assert_eq!(one(request(NETTXF_MORE_DATA, 0, 60)), Some(Unfinished));
    assert_eq!(one(request(NETTXF_EXTRA_INFO, 0, 60)), Some(Unfinished));
    assert_eq!(
        one(request(0, 4090, 60)),
        Some(BadPiece {
            offset: 4090,
            size: 60
        })
    );
    assert_eq!(
        one(request(0, 0, 5000)),
        Some(BadPiece {
            offset: 0,
            size: 5000
        })
    );
    assert_eq!(
        one(request(0, 0, 60)),
        Some(BadGrant {
            reference: 20,
            error: GrantError::General
        })
    );
    assert_eq!(
        one(NetifTxRequest {
            gref: u32::MAX,
            ..request(0, 0, 60)
        }),
        Some(BadGrant {
            reference: u32::MAX,
            error: GrantError::BadRef
        })
    );
    // Too short: dropped, with an answer.
    assert_eq!(one(request(0, 0, 13)), None);
    let extra = |extra: [u8; 8]| {
        misbehave(move |front| {
            front.put_tx(request(NETTXF_EXTRA_INFO, 0, 60).as_bytes());
            front.put_tx(&extra);
            front.push_tx();
        })
    };
    assert_eq!(extra([0; 8]), Some(BadExtra(0)));
    assert_eq!(extra([5, 0, 0, 0, 0, 0, 0, 0]), Some(BadExtra(5)));
    assert_eq!(extra([1, 0, 0, 0, 1, 0, 0, 0]), Some(BadSegmentation));
    assert_eq!(extra([1, 0, 9, 0, 3, 0, 0, 0]), Some(BadSegmentation));
    assert_eq!(extra([4, 1, 0, 0, 0, 0, 0, 0]), Some(Unfinished));
    let index = |n| {
        misbehave(move |front| {
            front.tx_prod = n;
            front.push_tx();
        })
    };
    assert_eq!(index(257), Some(TransmitIndex(257)));
    assert_eq!(index(u32::MAX), Some(TransmitIndex(u32::MAX)));
    let slots = |n: usize| {
        misbehave(move |front| {
            for m in 0..n {
                let flags = if m + 1 < n { NETTXF_MORE_DATA } else { 0 };
                let size = if m == 0 { 100 } else { 1 };
                front.put_tx(request(flags, 0, size).as_bytes());
            }
            front.push_tx();
        })
    };
    assert_eq!(slots(19), None);
    assert_eq!(slots(20), None);
    assert_eq!(slots(21), Some(TooManySlots(21)));
}

#[test]
fn a_bad_buffer_closes_the_device() {
    let mut net = Net1::new(&[all_features(), all_features()], None, 0);
    net.post(1, 3);
    let front = &net.fronts[1];
    // The second buffer may only be read.
    let mut bytes = [0; 8];
    front.rx_page().read(64 + 8, &mut bytes);
    let reference = u32::from_le_bytes(bytes[4..].try_into().unwrap());
    front.grant(reference, Mfn(DOMAIN_FRAMES * 2 + 5), true);
    net.send(
        0,
        &plain(ip_frame(
            vif_mac(1),
            vif_mac(0),
            false,
            17,
            &payload(6000),
            false,
        )),
    );
    let how = net.vifs[1].misbehaviour();
    assert!(
        matches!(how, Some(Misbehaviour::BadGrant { .. })),
        "{how:?}"
    );
    assert_eq!(net.fronts[0].take_answers().len(), 2);
    net.vifs[1].close();
    // And an index that cannot be.
    net.fronts[1] = Front::new(net.host, 2, 1, 20, 0);
    net.vifs[1] = net.connect(&net.fronts[1], 1, all_features()).unwrap();
    net.fronts[1].rx_page().store_u32(0, 300);
    net.send(
        0,
        &plain(ip_frame(
            vif_mac(1),
            vif_mac(0),
            false,
            17,
            &payload(60),
            false,
        )),
    );
    assert_eq!(
        net.vifs[1].misbehaviour(),
        Some(Misbehaviour::ReceiveIndex(300))
    );
    net.finish();
}

#[test]
fn rings_that_cannot_be_are_refused() {
    let net = Net1::new(&[], None, 0);
    let host = Host::new(1);
    let front = Front::new(host, 1, 0, 5, 0);
    let connect = |front: &Front| {
        let fabric = Fabric::new(host, 1).unwrap();
        let config = VifConfig {
            domain: crate::ids::DomainId(1),
            device: 0,
            mac: vif_mac(0),
            grants: &host.table(1),
            features: all_features(),
            multicast_control: false,
            spoofchk: false,
            rate: None,
            queues: &[front.config],
            control: crate::event::ConsumerId(9),
        };
        Vif::connect(host, &fabric, &config)
            .map(|vif| vif.close())
            .map_err(|error| error as i32)
    };
    assert_eq!(connect(&front), Ok(()));
    front.tx_page().store_u32(0, 257);
    assert_eq!(connect(&front), Err(22));
    front.tx_page().store_u32(0, 0);
    front.grant(front.config.tx_ref.0, Mfn(DOMAIN_FRAMES), true);
    assert_eq!(connect(&front), Err(13));
    assert_eq!(host.references(), 0);
    assert!(host.frame(Mfn(0)).is_some() && PAGE_SIZE == 4096);
    net.finish();
}
