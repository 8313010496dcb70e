//! Frames from a guest.

use alloc::sync::Arc;

use arrayvec::ArrayVec;
use overcast_drivers::Segment;
use overcast_drivers::net::{Offload, Segmentation, SegmentationKind};
use xen_abi::io_netif::*;
use zerocopy::{FromBytes, IntoBytes};

use super::packet::Packet;
use super::ring::Ring;
use super::uplink::{Progress, Sending};
use super::vif::{Counters, Queue};
use super::{Fabric, Misbehaviour, NetbackHost, Vif};
use crate::addr::Mfn;
use crate::grant::{BackendGrant, GrantError};
use crate::ids::{DomainId, GrantRef};
use crate::switch::MacAddress;

/// Requests of a frame that is sent.
pub(super) const MAX_SLOTS: usize = XEN_NETIF_NR_SLOTS_MIN as usize;
/// Requests of a frame that is dropped; one of more ends the device.
const FATAL_SLOTS: usize = 20;
/// Frames of one run.
const BUDGET: usize = 64;
/// Bytes of one run.
const BYTE_BUDGET: usize = 1 << 20;

/// What is held of a guest while a frame of its is under way. Dropping it lets its
/// grants go and answers its requests.
pub(super) struct TxHold<H: NetbackHost> {
    vif: Arc<Vif<H>>,
    queue: u16,
    grants: ArrayVec<BackendGrant<'static, H>, MAX_SLOTS>,
    ids: ArrayVec<u16, FATAL_SLOTS>,
    extras: usize,
    status: i16,
}

impl<H: NetbackHost> Drop for TxHold<H> {
    fn drop(&mut self) {
        // A frontend that finds a grant in use after the answer is right to complain.
        self.grants.clear();
        self.vif
            .respond(self.queue, &self.ids, self.extras, self.status);
    }
}

/// A frame that the NIC has no room for.
struct Stalled<H: NetbackHost> {
    packet: Packet<'static>,
    segments: ArrayVec<Segment, MAX_SLOTS>,
    sending: Sending,
    hold: TxHold<H>,
}

/// What was transmitted so far.
pub(super) struct TxState<H: NetbackHost> {
    /// The next request.
    at: u32,
    stalled: Option<Stalled<H>>,
}

impl<H: NetbackHost> TxState<H> {
    pub fn new(at: u32) -> Self {
        Self { at, stalled: None }
    }

    /// Drops what waits for the NIC; of a frame that was cut, what it has not got yet.
    pub fn abandon(&mut self, fabric: &Fabric<H>, index: u16) {
        if let Some(Stalled { sending, hold, .. }) = self.stalled.take()
            && let Some(uplink) = fabric.uplink()
        {
            uplink.finish(uplink.lane(index), sending, Some(hold));
        }
    }
}

/// A frame's requests, as they were read.
#[derive(Default)]
struct Requests {
    slots: ArrayVec<NetifTxRequest, MAX_SLOTS>,
    ids: ArrayVec<u16, FATAL_SLOTS>,
    extras: usize,
    /// Size and kind.
    segmentation: Option<(u16, u8)>,
    /// Whether to add, and what.
    multicast: Option<(bool, MacAddress)>,
    /// The protocol was kept, but this cannot be sent.
    drop: bool,
}

/// What came of a frame.
enum Outcome {
    Done,
    /// There is none.
    Nothing,
    /// There is no credit for it before this time.
    NoCredit(u64),
    /// It waits for the NIC.
    Stalled,
}

/// Reads the requests of the next frame, from index `at` on, of which there are `available`.
/// `at` is behind them afterwards.
fn read_requests(ring: &Ring<'_>, at: &mut u32, available: u32) -> Result<Requests, Misbehaviour> {
    let mut out = Requests::default();
    let mut left = available;
    let mut next = || {
        left = left.checked_sub(1).ok_or(Misbehaviour::Unfinished)?;
        let entry = ring.read::<12>(*at);
        *at = at.wrapping_add(1);
        Ok(entry)
    };
    let mut first = NetifTxRequest::read_from_bytes(&next()?).unwrap_or_default();
    let flags = first.flags;
    let mut more_extras = flags & NETTXF_EXTRA_INFO != 0;
    while more_extras {
        let entry = next()?;
        out.extras += 1;
        let extra = NetifExtraInfo::read_from_prefix(&entry)
            .map(|(extra, _)| extra)
            .unwrap_or_default();
        match extra.r#type {
            XEN_NETIF_EXTRA_TYPE_GSO => {
                out.segmentation = Some((extra.u[0], extra.u[1] as u8));
            }
            kind @ (XEN_NETIF_EXTRA_TYPE_MCAST_ADD | XEN_NETIF_EXTRA_TYPE_MCAST_DEL) => {
                let address = <[u8; 6]>::read_from_bytes(extra.u.as_bytes()).unwrap_or_default();
                let add = kind == XEN_NETIF_EXTRA_TYPE_MCAST_ADD;
                out.multicast = Some((add, MacAddress(address)));
            }
            XEN_NETIF_EXTRA_TYPE_HASH => {}
            kind => return Err(Misbehaviour::BadExtra(kind)),
        }
        more_extras = extra.flags & XEN_NETIF_EXTRA_FLAG_MORE != 0;
    }
    out.ids.push(first.id);
    if out.multicast.is_some() {
        // The request is there to carry it, and nothing else.
        return Ok(out);
    }
    let mut others: ArrayVec<NetifTxRequest, FATAL_SLOTS> = ArrayVec::new();
    let mut more_data = flags & NETTXF_MORE_DATA != 0;
    while more_data {
        let request = NetifTxRequest::read_from_bytes(&next()?).unwrap_or_default();
        let too_many = |_| Misbehaviour::TooManySlots(FATAL_SLOTS + 1);
        out.ids.try_push(request.id).map_err(too_many)?;
        others
            .try_push(request)
            .map_err(|_| Misbehaviour::TooManySlots(FATAL_SLOTS + 1))?;
        more_data = request.flags & NETTXF_MORE_DATA != 0;
        // The first says the size of all.
        match first.size.checked_sub(request.size) {
            Some(rest) => first.size = rest,
            None => out.drop = true,
        }
    }
    for request in core::iter::once(&first).chain(&others) {
        if usize::from(request.offset) + usize::from(request.size) > crate::addr::PAGE_SIZE
            && !out.drop
        {
            return Err(Misbehaviour::BadPiece {
                offset: request.offset,
                size: request.size,
            });
        }
        out.drop |= out.slots.try_push(*request).is_err();
    }
    if let Some((size, kind)) = out.segmentation
        && (size == 0 || !matches!(kind, XEN_NETIF_GSO_TYPE_TCPV4 | XEN_NETIF_GSO_TYPE_TCPV6))
    {
        return Err(Misbehaviour::BadSegmentation);
    }
    Ok(out)
}

/// Says of a frame what its requests' flags and extra information say. `None` if it
/// cannot be what they say.
fn set_offload(packet: &mut Packet<'_>, flags: u16, segmentation: Option<(u16, u8)>) -> Option<()> {
    let blank = flags & NETTXF_CSUM_BLANK != 0;
    packet.offload.checksum_valid = flags & NETTXF_DATA_VALIDATED != 0 && !blank;
    let Some((size, kind)) = segmentation else {
        return if blank {
            packet.set_partial(false)
        } else {
            Some(())
        };
    };
    // What is cut gets new checksums in any case.
    packet.set_partial(!blank)?;
    packet.offload.checksum_valid = false;
    let kind = match kind {
        XEN_NETIF_GSO_TYPE_TCPV4 => SegmentationKind::Tcp4,
        _ => SegmentationKind::Tcp6,
    };
    let mut segmentation = Segmentation {
        kind,
        size,
        header_length: 0,
        ecn: false,
    };
    let pieces = packet.pieces(segmentation, 0)?;
    segmentation.header_length = pieces.header_length() as u16;
    segmentation.ecn = pieces.reduced_window();
    if pieces.is_several() {
        packet.offload.segmentation = Some(segmentation);
    }
    Some(())
}

impl<H: NetbackHost> Vif<H> {
    /// Sends what the guest wants sent. `true` if there is more.
    pub(super) fn run_transmit(self: &Arc<Self>, queue: &Queue<H>, index: u16, page: Mfn) -> bool {
        let Some(ring) = Ring::transmit(self.host, page) else {
            return false;
        };
        let uplink = self.fabric.uplink();
        self.begin_run(queue, &ring);
        if let Some(uplink) = uplink {
            uplink.reclaim(uplink.lane(index));
        }
        let mut tx = queue.tx.lock();
        let mut more = true;
        let before = self.sent_bytes();
        for _ in 0..BUDGET {
            if self.sent_bytes().wrapping_sub(before) >= BYTE_BUDGET as u64 {
                break;
            }
            let outcome = match tx.stalled.take() {
                Some(stalled) => self.resume(index, queue, stalled, &mut tx),
                None => match self.next(&ring, queue, index, &mut tx) {
                    Ok(outcome) => outcome,
                    Err(how) => {
                        self.misbehaved(how);
                        more = false;
                        break;
                    }
                },
            };
            match outcome {
                Outcome::Done => {}
                Outcome::Nothing => {
                    ring.ask_for(tx.at, 1);
                    let answered = || queue.answered.load(core::sync::atomic::Ordering::Acquire);
                    // A bad index is found by the next run.
                    if !matches!(ring.requests(tx.at, answered), Ok(0)) {
                        continue;
                    }
                    more = false;
                    break;
                }
                Outcome::NoCredit(until) => {
                    self.host.raise_at(queue.config.task, until);
                    more = false;
                    break;
                }
                Outcome::Stalled => {
                    more = false;
                    break;
                }
            }
        }
        drop(tx);
        if let Some(uplink) = uplink {
            uplink.flush(uplink.lane(index));
        }
        self.end_run(queue);
        more
    }

    fn sent_bytes(&self) -> u64 {
        self.counters
            .sent_bytes
            .load(core::sync::atomic::Ordering::Relaxed)
    }

    /// Reads and sends the next frame.
    fn next(
        self: &Arc<Self>,
        ring: &Ring<'_>,
        queue: &Queue<H>,
        index: u16,
        tx: &mut TxState<H>,
    ) -> Result<Outcome, Misbehaviour> {
        let answered = || queue.answered.load(core::sync::atomic::Ordering::Acquire);
        let available = ring
            .requests(tx.at, answered)
            .map_err(Misbehaviour::TransmitIndex)?;
        if available == 0 {
            return Ok(Outcome::Nothing);
        }
        let mut next = tx.at;
        let requests = read_requests(ring, &mut next, available)?;
        let length: usize = requests
            .slots
            .iter()
            .map(|slot| usize::from(slot.size))
            .sum();
        if let Err(until) = self.take_credit(length as u64) {
            // It is read anew then.
            return Ok(Outcome::NoCredit(until));
        }
        tx.at = next;
        let mut hold = TxHold {
            vif: self.clone(),
            queue: index,
            grants: ArrayVec::new(),
            ids: requests.ids,
            extras: requests.extras,
            status: NETIF_RSP_OKAY,
        };
        if let Some((add, address)) = requests.multicast {
            if !self.edit_multicast(add, address) {
                hold.status = NETIF_RSP_ERROR;
            }
            return Ok(Outcome::Done);
        }
        if requests.drop || length < super::packet::ETHERNET_HEADER {
            hold.status = NETIF_RSP_ERROR;
            Counters::count(&self.counters.sent_dropped, 1);
            return Ok(Outcome::Done);
        }
        let mut segments = ArrayVec::<Segment, MAX_SLOTS>::new();
        for slot in &requests.slots {
            // Nothing is granted for nothing.
            if slot.size == 0 {
                continue;
            }
            let bad = |error| Misbehaviour::BadGrant {
                reference: slot.gref,
                error,
            };
            let grant = self
                .grants
                .map_for_backend(self.host, DomainId::XEN, GrantRef(slot.gref), true)
                .map_err(bad)?;
            let (offset, size) = (usize::from(slot.offset), usize::from(slot.size));
            if !grant.allows(offset, size) {
                return Err(bad(GrantError::BadPage));
            }
            let segment = Segment {
                address: grant.mfn().address().get() + offset as u64,
                length: size as u32,
            };
            // There are as many places as slots.
            let _ = segments.try_push(segment);
            let _ = hold.grants.try_push(grant);
        }
        let flags = requests.slots.first().map_or(0, |first| first.flags);
        let packet = Packet::read(self.host, &segments, length, Offload::default());
        let Some(mut packet) = packet else {
            Counters::count(&self.counters.sent_dropped, 1);
            return Ok(Outcome::Done);
        };
        Counters::count(&self.counters.sent, 1);
        Counters::count(&self.counters.sent_bytes, length as u64);
        if !self.may_send_from(packet.source())
            || set_offload(&mut packet, flags, requests.segmentation).is_none()
        {
            Counters::count(&self.counters.sent_dropped, 1);
            return Ok(Outcome::Done);
        }
        let Some(port) = self.port() else {
            return Ok(Outcome::Done);
        };
        if !self.fabric.forward(port, &mut packet) {
            return Ok(Outcome::Done);
        }
        let stalled = Stalled {
            packet: packet.with_segments(&[]),
            segments,
            sending: Sending::default(),
            hold,
        };
        Ok(self.resume(index, queue, stalled, tx))
    }

    /// Sends a frame, or what is left of it, to the NIC.
    fn resume(
        self: &Arc<Self>,
        index: u16,
        queue: &Queue<H>,
        stalled: Stalled<H>,
        tx: &mut TxState<H>,
    ) -> Outcome {
        let Some(uplink) = self.fabric.uplink() else {
            return Outcome::Done;
        };
        let Stalled {
            packet,
            segments,
            mut sending,
            hold,
        } = stalled;
        let mut whole = packet.with_segments(&segments);
        let mut hold = Some(hold);
        let lane = uplink.lane(index);
        match uplink.send(lane, &mut whole, &mut sending, &mut hold, queue.config.task) {
            Progress::Done => Outcome::Done,
            Progress::Dropped => {
                Counters::count(&self.counters.sent_dropped, 1);
                Outcome::Done
            }
            Progress::Full => {
                let Some(hold) = hold else {
                    return Outcome::Done;
                };
                tx.stalled = Some(Stalled {
                    packet,
                    segments,
                    sending,
                    hold,
                });
                Outcome::Stalled
            }
        }
    }
}
