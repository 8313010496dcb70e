//! Frames to a guest: into the buffers that it granted, or waiting for some.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use overcast_drivers::Segment;
use overcast_drivers::net::{Offload, SegmentationKind};
use xen_abi::io_netif::*;
use zerocopy::{FromBytes, IntoBytes};

use super::packet::{Cursor, HEAD_SIZE, Packet};
use super::ring::{RING_SIZE, Ring};
use super::vif::{Counters, Queue};
use super::{BACKLOG_LIMIT, Misbehaviour, NetbackHost, Vif};
use crate::addr::{Mfn, PAGE_SIZE};
use crate::ids::{DomainId, GrantRef};

/// The most frames that are taken out of a backlog in one run.
const DRAIN_BUDGET: usize = 128;

/// The most pieces into which a frame is cut for a guest: more than its ring and its backlog
/// take would be made to be dropped. Who sends chooses their size, which may be one byte.
const MAX_PIECES: usize = RING_SIZE as usize + BACKLOG_LIMIT;

/// A frame that waits, in memory of our own.
struct Stored {
    segments: Vec<Segment>,
    length: usize,
    offload: Offload,
}

impl Stored {
    /// Copies a frame. `None` if there is no memory.
    fn new<H: NetbackHost>(host: &H, packet: &Packet<'_>) -> Option<Self> {
        let frames = packet.length.div_ceil(PAGE_SIZE);
        let mut stored = Self {
            segments: Vec::new(),
            length: packet.length,
            offload: packet.offload,
        };
        stored.segments.try_reserve_exact(frames).ok()?;
        let mut writer = Writer::new(packet);
        for n in 0..frames {
            let length = (packet.length - n * PAGE_SIZE).min(PAGE_SIZE);
            let filled = host.allocate_frame().and_then(|mfn| {
                stored.segments.push(Segment {
                    address: mfn.address().get(),
                    length: length as u32,
                });
                writer.fill(host, mfn, length)
            });
            if filled.is_none() {
                stored.free(host);
                return None;
            }
        }
        Some(stored)
    }

    fn frames(&self) -> usize {
        self.segments.len()
    }

    fn free<H: NetbackHost>(self, host: &H) {
        for segment in &self.segments {
            host.free_frame(Mfn(segment.address / PAGE_SIZE as u64));
        }
    }
}

/// Copies a frame's bytes out, one page after the other.
struct Writer<'p, 'a> {
    packet: &'p Packet<'a>,
    head_at: usize,
    rest: Cursor<'a>,
}

impl<'p, 'a> Writer<'p, 'a> {
    fn new(packet: &'p Packet<'a>) -> Self {
        Self {
            packet,
            head_at: 0,
            rest: packet.rest(),
        }
    }

    /// Puts the next `length` bytes, at most a page, at the begin of a frame of memory.
    fn fill<H: NetbackHost>(&mut self, host: &H, to: Mfn, length: usize) -> Option<()> {
        let to = host.frame(to)?;
        let mut at = 0;
        let head = self.packet.head().get(self.head_at..)?;
        let from_head = head.len().min(length);
        if from_head != 0 {
            to.write(0, head.get(..from_head)?);
            self.head_at += from_head;
            at = from_head;
        }
        at += self.rest.copy(host, to, at, length - at)?;
        (at == length).then_some(())
    }
}

/// What there is to receive.
pub(super) struct RxState<H: NetbackHost> {
    /// The next request, and the next response.
    at: u32,
    backlog: VecDeque<Stored>,
    /// Frames of memory of the backlog.
    frames: usize,
    _host: core::marker::PhantomData<&'static H>,
}

impl<H: NetbackHost> RxState<H> {
    pub fn new(at: u32) -> Self {
        Self {
            at,
            backlog: VecDeque::new(),
            frames: 0,
            _host: core::marker::PhantomData,
        }
    }

    /// Drops what waits; says how many frames of memory it had.
    pub fn take_backlog(&mut self, host: &H) -> usize {
        self.backlog.drain(..).for_each(|stored| stored.free(host));
        core::mem::take(&mut self.frames)
    }
}

impl<H: NetbackHost> Vif<H> {
    /// Gives a frame to the guest, now or later, or drops it. The frame's checksum may
    /// be complete afterwards.
    pub(super) fn deliver(&self, packet: &mut Packet<'_>) {
        if self.is_ended() || !self.wants(packet.destination()) {
            return;
        }
        let index = match self.queues.len() {
            1 => 0,
            count => packet.flow_hash() as usize % count,
        };
        let Some(queue) = self.queues.get(index) else {
            return;
        };
        let rings = queue.rings.read();
        let Some(rings) = &*rings else {
            return;
        };
        let page = rings.rx.mfn();
        let features = self.features;
        if let Some(segmentation) = packet.offload.segmentation {
            let takes = match segmentation.kind {
                SegmentationKind::Tcp4 => features.tcp4,
                SegmentationKind::Tcp6 => features.tcp6,
            };
            if takes && features.scatter && packet.partial_is_usual() {
                self.queue_up(queue, page, packet);
            } else if let Some(pieces) = packet.pieces(segmentation, 0) {
                for mut piece in pieces.take(MAX_PIECES) {
                    self.give(queue, page, &mut piece);
                }
            } else {
                Counters::count(&self.counters.received_dropped, 1);
            }
        } else {
            self.give(queue, page, packet);
        }
    }

    /// The rest of [`Self::deliver`] for a frame that is not to be cut.
    fn give(&self, queue: &Queue<H>, page: Mfn, packet: &mut Packet<'_>) {
        if packet.offload.checksum.is_some() {
            let takes = match packet.headers() {
                Some(headers) if headers.v6 => self.features.checksum6,
                Some(_) => self.features.checksum4,
                None => false,
            };
            if !(takes && packet.partial_is_usual()) && packet.complete(self.host).is_none() {
                Counters::count(&self.counters.received_dropped, 1);
                return;
            }
        }
        if packet.length > PAGE_SIZE && !self.features.scatter {
            Counters::count(&self.counters.received_dropped, 1);
            return;
        }
        self.queue_up(queue, page, packet);
    }

    /// Gives a frame as it is, or has it wait.
    fn queue_up(&self, queue: &Queue<H>, page: Mfn, packet: &Packet<'_>) {
        let Some(ring) = Ring::receive(self.host, page) else {
            return;
        };
        let mut rx = queue.rx.lock();
        if rx.backlog.is_empty() {
            match self.has_room(&ring, rx.at, packet.length, packet.offload) {
                Some(true) => return self.put(queue, &ring, &mut rx, packet),
                Some(false) => {}
                None => return,
            }
        }
        let frames = packet.length.div_ceil(PAGE_SIZE);
        let stored = if rx.frames + frames > BACKLOG_LIMIT || rx.backlog.try_reserve(1).is_err() {
            None
        } else {
            Stored::new(self.host, packet)
        };
        match stored {
            Some(stored) => {
                rx.frames += stored.frames();
                self.fabric.remember(stored.frames());
                rx.backlog.push_back(stored);
            }
            None => Counters::count(&self.counters.received_dropped, 1),
        }
    }

    /// Whether there are buffers for a frame; if not, asks for an event when there are.
    fn has_room(&self, ring: &Ring<'_>, at: u32, length: usize, offload: Offload) -> Option<bool> {
        let needed = length.div_ceil(PAGE_SIZE) as u32 + u32::from(offload.segmentation.is_some());
        for look in 0..2 {
            match ring.requests(at, || at) {
                Ok(count) if count >= needed => return Some(true),
                Ok(_) if look == 0 => ring.ask_for(at, needed),
                Ok(_) => {}
                Err(count) => {
                    self.misbehaved(Misbehaviour::ReceiveIndex(count));
                    return None;
                }
            }
        }
        Some(false)
    }

    /// Copies a frame into buffers, of which there are enough.
    fn put(&self, queue: &Queue<H>, ring: &Ring<'_>, rx: &mut RxState<H>, packet: &Packet<'_>) {
        let old = rx.at;
        let mut writer = Writer::new(packet);
        let mut left = packet.length;
        let mut flags = match packet.offload {
            Offload {
                checksum: Some(_), ..
            } => NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED,
            Offload {
                checksum_valid: true,
                ..
            } => NETRXF_DATA_VALIDATED,
            _ => 0,
        };
        let mut segmentation = packet.offload.segmentation;
        if segmentation.is_some() {
            flags |= NETRXF_EXTRA_INFO;
        }
        while left > 0 {
            let request =
                NetifRxRequest::read_from_bytes(&ring.read::<8>(rx.at)).unwrap_or_default();
            let length = left.min(PAGE_SIZE);
            left -= length;
            if left > 0 {
                flags |= NETRXF_MORE_DATA;
            } else {
                flags &= !NETRXF_MORE_DATA;
            }
            if let Err(how) = self.fill(&mut writer, request.gref, length) {
                self.misbehaved(how);
                return;
            }
            let response = NetifRxResponse {
                id: request.id,
                offset: 0,
                flags,
                status: length as i16,
            };
            ring.write(rx.at, response.as_bytes());
            rx.at = rx.at.wrapping_add(1);
            flags = 0;
            if let Some(segmentation) = segmentation.take() {
                let kind = match segmentation.kind {
                    SegmentationKind::Tcp4 => XEN_NETIF_GSO_TYPE_TCPV4,
                    SegmentationKind::Tcp6 => XEN_NETIF_GSO_TYPE_TCPV6,
                };
                let extra = NetifExtraInfo {
                    r#type: XEN_NETIF_EXTRA_TYPE_GSO,
                    flags: 0,
                    u: [segmentation.size, kind.into(), 0],
                };
                ring.write(rx.at, extra.as_bytes());
                rx.at = rx.at.wrapping_add(1);
            }
        }
        Counters::count(&self.counters.received, 1);
        Counters::count(&self.counters.received_bytes, packet.length as u64);
        if ring.publish(old, rx.at) {
            self.host.notify(queue.config.rx_port);
        }
    }

    fn fill(
        &self,
        writer: &mut Writer<'_, '_>,
        reference: u32,
        length: usize,
    ) -> Result<(), Misbehaviour> {
        let bad = |error| Misbehaviour::BadGrant { reference, error };
        let grant = self
            .grants
            .map_for_backend(self.host, DomainId::XEN, GrantRef(reference), false)
            .map_err(bad)?;
        if !grant.allows(0, length) {
            return Err(bad(crate::grant::GrantError::BadPage));
        }
        // What cannot be read is no RAM, which a device made up: the guest gets what was there.
        let _ = writer.fill(self.host, grant.mfn(), length);
        Ok(())
    }

    /// Gives the guest what waits for it. `true` if there is more for which there is room.
    pub(super) fn run_receive(&self, queue: &Queue<H>, page: Mfn) -> bool {
        let Some(ring) = Ring::receive(self.host, page) else {
            return false;
        };
        let mut freed = 0;
        let mut more = false;
        {
            let mut rx = queue.rx.lock();
            for n in 0.. {
                let Some(first) = rx.backlog.front() else {
                    break;
                };
                match self.has_room(&ring, rx.at, first.length, first.offload) {
                    Some(true) if n < DRAIN_BUDGET => {}
                    Some(true) => {
                        more = true;
                        break;
                    }
                    _ => break,
                }
                let Some(stored) = rx.backlog.pop_front() else {
                    break;
                };
                let packet =
                    Packet::read(self.host, &stored.segments, stored.length, stored.offload);
                if let Some(packet) = packet {
                    self.put(queue, &ring, &mut rx, &packet);
                }
                freed += stored.frames();
                rx.frames = rx.frames.saturating_sub(stored.frames());
                stored.free(self.host);
            }
        }
        self.fabric.forget(freed);
        more
    }
}

const _: () = assert!(HEAD_SIZE <= PAGE_SIZE);
