//! Network cards (virtio 1.2, section 5.1).
//!
//! A pair of queues shares one interrupt message. Buffers for received frames are pages of
//! ours: a frame that is longer than one (segments merged by the device) comes in several,
//! if the device merges buffers; without that no such frames are asked for.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use spin::Mutex;

use super::ring::{Buffer, Ring};
use super::transport::{Transport, stable};
use super::{Device, Driver, VirtioError, make_ring, negotiate, start};
use crate::Segment;
use crate::net::{
    Net, NetInfo, Offload, PartialChecksum, ReceivedFrame, Segmentation, SegmentationKind,
    TransmitError, TransmitFrame,
};
use crate::platform::{Dma, PAGE_SIZE, Platform};

/// Features (5.1.3).
mod features {
    pub const CHECKSUM: u64 = 1 << 0;
    pub const GUEST_CHECKSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const HOST_ECN: u64 = 1 << 13;
    pub const MERGE: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const CONTROL: u64 = 1 << 17;
    pub const CONTROL_RX: u64 = 1 << 18;
    pub const MULTI_QUEUE: u64 = 1 << 22;
    /// Without what needs others.
    pub const ALL: u64 = CHECKSUM
        | GUEST_CHECKSUM
        | MTU
        | MAC
        | HOST_TSO4
        | HOST_TSO6
        | HOST_ECN
        | MERGE
        | STATUS
        | CONTROL
        | CONTROL_RX
        | MULTI_QUEUE;
}

/// Offsets in the configuration (5.1.4).
mod config {
    pub const MAC: u16 = 0;
    pub const STATUS: u16 = 6;
    pub const PAIRS: u16 = 8;
    pub const MTU: u16 = 10;
}

/// In the configuration's status: the link is up.
const LINK_UP: u16 = 1;

/// The header of each frame (5.1.6).
mod header {
    pub const FLAGS: usize = 0;
    pub const KIND: usize = 1;
    pub const LENGTH: usize = 2;
    pub const SIZE: usize = 4;
    pub const CHECKSUM_START: usize = 6;
    pub const CHECKSUM_OFFSET: usize = 8;
    pub const BUFFERS: usize = 10;
    /// Flag: a checksum is to be completed.
    pub const NEEDS_CHECKSUM: u8 = 1;
    /// Flag: checksums are right.
    pub const CHECKSUM_VALID: u8 = 2;
    pub const KIND_TCP4: u8 = 1;
    pub const KIND_TCP6: u8 = 4;
    /// Bit of the kind.
    pub const ECN: u8 = 0x80;
    /// Distance of the headers of frames to send.
    pub const ROOM: usize = 16;
}

/// Commands of the control queue: class and command (5.1.6.5).
mod control {
    pub const PROMISCUOUS: [u8; 2] = [0, 0];
    pub const PAIRS: [u8; 2] = [4, 0];
    pub const OK: u8 = 0;
}

/// The most buffers a queue.
const QUEUE_SIZE: u16 = 256;
/// Bytes of a buffer for received frames.
const BUFFER: usize = PAGE_SIZE;
/// The most buffers that a received frame may come in.
const MOST_BUFFERS: usize = 32;
/// Frames given back at a time.
const BATCH: usize = 32;
/// Bytes of the Ethernet header, and of the shortest frame that is taken.
const ETHERNET: usize = 14;
/// Bytes of a tag of IEEE 802.1Q, which the MTU does not count either.
const VLAN_TAG: usize = 4;
/// The most bytes of a frame that is to be cut.
const LONGEST: usize = 65535 + ETHERNET + VLAN_TAG;

struct Receive {
    ring: Ring<u16>,
    buffers: Dma,
}

struct Transmit {
    ring: Ring<u64>,
    headers: Dma,
}

struct Pair {
    receive: Mutex<Receive>,
    transmit: Mutex<Transmit>,
}

/// A virtio network card.
pub struct VirtioNet {
    // Dropped before the queues: it resets the device.
    device: Device,
    pairs: Vec<Pair>,
    /// Those that the device did not want to use, but knows.
    idle: Vec<Pair>,
    control: Option<Mutex<Control>>,
    /// Features that were agreed on.
    agreed: u64,
    header_length: usize,
    /// With the link as it was last read.
    info: Mutex<NetInfo>,
}

struct Control {
    ring: Ring<()>,
    memory: Dma,
}

impl VirtioNet {
    /// Takes a device over and lets it work.
    pub fn new(
        transport: Box<dyn Transport>,
        platform: &'static dyn Platform,
    ) -> Result<Self, VirtioError> {
        let mut device = Device::new(transport);
        let mut wanted = features::ALL;
        let offered = device.features();
        // Long frames come in several buffers, and their checksums are not complete.
        let whole = features::MERGE | features::GUEST_CHECKSUM;
        if offered & whole == whole {
            wanted |= features::GUEST_TSO4 | features::GUEST_TSO6;
        }
        if offered & features::CONTROL == 0 {
            wanted &= !(features::MULTI_QUEUE | features::CONTROL_RX);
        }
        if offered & features::CHECKSUM == 0 {
            wanted &= !(features::HOST_TSO4 | features::HOST_TSO6 | features::HOST_ECN);
        }
        let agreed = negotiate(&*device, platform, wanted)?;
        let has = |bit: u64| agreed & bit != 0;

        let mac = if has(features::MAC) {
            stable(&*device, || {
                core::array::from_fn(|n| device.config8(config::MAC + n as u16))
            })
        } else {
            // Locally administered; the first layer's switch learns it.
            [0x02, 0x4f, 0x56, 0x43, 0x00, 0x01]
        };
        let mtu = if has(features::MTU) {
            device.config16(config::MTU)
        } else {
            1500
        };
        let header_length = if device.is_modern() || has(features::MERGE) {
            12
        } else {
            10
        };
        // A frame must fit in a buffer, if it cannot come in several.
        let most = (BUFFER - 8 - header_length - ETHERNET - VLAN_TAG) as u16;
        let mtu = if has(features::MERGE) {
            mtu
        } else {
            mtu.min(most)
        };
        if mtu < 68 || mac[0] & 1 != 0 {
            return Err(VirtioError::Configuration);
        }
        let offered = match has(features::MULTI_QUEUE) {
            true => device.config16(config::PAIRS).clamp(1, 0x8000),
            false => 1,
        };
        let count = usize::from(offered).min(platform.cpus().max(1));

        device.choose_messages(count)?;
        let mut pairs = Vec::new();
        for index in 0..count {
            let message = device.queue_message_index(index);
            let queue = 2 * index as u16;
            let ring = make_ring(&mut device, platform, queue, QUEUE_SIZE, agreed, message)?;
            let buffers = Dma::new(platform, usize::from(ring.size()) * BUFFER)
                .ok_or(VirtioError::NoMemory)?;
            let receive = Receive { ring, buffers };
            let ring = make_ring(
                &mut device,
                platform,
                queue + 1,
                QUEUE_SIZE,
                agreed,
                message,
            )?;
            let headers = Dma::new(platform, usize::from(ring.size()) * header::ROOM)
                .ok_or(VirtioError::NoMemory)?;
            let transmit = Transmit { ring, headers };
            pairs.push(Pair {
                receive: Mutex::new(receive),
                transmit: Mutex::new(transmit),
            });
        }
        let control = if has(features::CONTROL) {
            let queue = offered.checked_mul(2).ok_or(VirtioError::Configuration)?;
            // It is waited for, without an interrupt.
            let ring = make_ring(&mut device, platform, queue, 16, agreed, None)?;
            let memory = Dma::new(platform, 64).ok_or(VirtioError::NoMemory)?;
            Some((queue, Mutex::new(Control { ring, memory })))
        } else {
            None
        };
        let max_segments = pairs
            .iter()
            .map(|pair| pair.transmit.lock().ring.max_pieces())
            .min()
            .unwrap_or(0)
            .saturating_sub(1);
        if max_segments == 0 {
            return Err(VirtioError::NoQueue(1));
        }
        let info = NetInfo {
            mac,
            mtu,
            link: true,
            transmit_checksum: has(features::CHECKSUM),
            transmit_tcp4: has(features::HOST_TSO4),
            transmit_tcp6: has(features::HOST_TSO6),
            max_segments,
        };
        let (control_queue, control) = control.unzip();
        let mut net = Self {
            device,
            pairs,
            idle: Vec::new(),
            control,
            agreed,
            header_length,
            info: Mutex::new(info),
        };
        net.pairs.iter().for_each(|pair| {
            let mut receive = pair.receive.lock();
            // With two pieces each, half of them fill a ring without indirect descriptors.
            for buffer in 0..receive.ring.size() {
                net.give(&mut receive, buffer);
            }
        });
        start(&*net.device);
        for (index, pair) in net.pairs.iter().enumerate() {
            if pair.receive.lock().ring.needs_notification() {
                net.device.notify(2 * index as u16);
            }
        }
        if let Some(queue) = control_queue {
            net.configure(queue, platform);
        }
        net.read_link();
        net.take_change();
        Ok(net)
    }

    fn has(&self, bit: u64) -> bool {
        self.agreed & bit != 0
    }

    /// Tells the device what it is to do that its features do not say.
    fn configure(&mut self, queue: u16, platform: &dyn Platform) {
        // Frames for all domains come by this card.
        if self.has(features::CONTROL_RX) {
            self.command(queue, control::PROMISCUOUS, [1, 0], 1, platform);
        }
        if self.has(features::MULTI_QUEUE) && self.pairs.len() > 1 {
            let pairs = (self.pairs.len() as u16).to_le_bytes();
            if !self.command(queue, control::PAIRS, pairs, 2, platform) {
                log::warn!("virtio-net: the device uses one of its queues only");
                self.idle = self.pairs.split_off(1);
            }
        }
    }

    /// Sends a command and waits for the answer; whether it was done.
    fn command(
        &self,
        queue: u16,
        command: [u8; 2],
        data: [u8; 2],
        length: u32,
        platform: &dyn Platform,
    ) -> bool {
        let Some(control) = self.control.as_ref().filter(|_| !self.device.is_broken()) else {
            return false;
        };
        let mut control = control.lock();
        let Control { ring, memory } = &mut *control;
        let order = Ordering::Relaxed;
        memory.store16(0, u16::from_le_bytes(command), order);
        memory.store16(16, u16::from_le_bytes(data), order);
        memory.store8(32, 0xff, order);
        let piece = |offset: usize, length: u32, write: bool| Buffer {
            address: memory.address(offset),
            length,
            write,
        };
        let pieces = [
            piece(0, 2, false),
            piece(16, length, false),
            piece(32, 1, true),
        ];
        if ring.add(3, pieces.into_iter(), ()).is_err() {
            return false;
        }
        if ring.needs_notification() {
            self.device.notify(queue);
        }
        for _ in 0..20_000 {
            match ring.take() {
                Ok(Some(_)) => return memory.load8(32, order) == control::OK,
                Ok(None) => platform.wait(100),
                Err(_) => break,
            }
        }
        self.device.fail();
        false
    }

    /// Where in the room for a buffer the device begins: so that frames lie, after the header,
    /// as those do to whom they are copied, word by word.
    fn pad(&self) -> usize {
        self.header_length.wrapping_neg() % 8
    }

    /// Gives a buffer for received frames to the device.
    fn give(&self, receive: &mut Receive, buffer: u16) {
        let size = BUFFER - self.pad();
        let start = usize::from(buffer) * BUFFER + self.pad();
        let address = receive.buffers.address(start);
        let piece = |offset: usize, length: usize| Buffer {
            address: address + offset as u64,
            length: length as u32,
            write: true,
        };
        // Legacy devices want the header by itself.
        let apart = self.header_length;
        let both = [piece(0, apart), piece(apart, size - apart)];
        // What does not fit is not used: at the start only, see `new`.
        let _ = if self.has(features::MERGE) {
            let whole = core::iter::once(piece(0, size));
            receive.ring.add(1, whole, buffer)
        } else {
            receive.ring.add(2, both.into_iter(), buffer)
        };
    }

    /// Takes a frame; `Ok(None)` if there is none, and whether it is one to be shown.
    /// All buffers that the frame keeps go back afterwards.
    fn take_frame(
        &self,
        receive: &mut Receive,
        frame: &mut Frame,
    ) -> Result<Option<bool>, super::Broken> {
        let Some((first, _, length)) = receive.ring.take()? else {
            return Ok(None);
        };
        frame.used = 0;
        frame.keep(first);
        let size = BUFFER - self.pad();
        let base = usize::from(first) * BUFFER + self.pad();
        let order = Ordering::Relaxed;
        let memory = &receive.buffers;
        let number = if self.has(features::MERGE) {
            usize::from(memory.load16(base + header::BUFFERS, order))
        } else {
            1
        };
        let offload = self.offload(memory, base);
        let headers = self.header_length;
        let bytes = length as usize;
        let mut good = bytes >= headers && bytes <= size && number >= 1;
        frame.count = 0;
        frame.length = 0;
        frame.push(
            memory,
            base + headers,
            bytes.min(size).saturating_sub(headers),
        );
        for _ in 1..number {
            // A device puts all buffers of a frame into the ring before it says so.
            let Some((next, _, length)) = receive.ring.take()? else {
                return Err(super::Broken);
            };
            let kept = frame.keep(next);
            if !kept {
                // The frame is not taken anyway.
                self.give(receive, next);
            }
            let bytes = length as usize;
            good &= bytes <= size && kept;
            if good {
                let start = usize::from(next) * BUFFER + self.pad();
                frame.push(&receive.buffers, start, bytes);
            }
        }
        good &= frame.length >= ETHERNET;
        let Some(offload) = offload else {
            return Ok(Some(false));
        };
        if let Some(checksum) = offload.checksum {
            let end = usize::from(checksum.start) + usize::from(checksum.offset) + 2;
            good &= end <= frame.length;
        }
        frame.offload = offload;
        Ok(Some(good))
    }

    /// What a frame's header says; `None` if it says what was not agreed on.
    fn offload(&self, memory: &Dma, base: usize) -> Option<Offload> {
        let order = Ordering::Relaxed;
        let flags = memory.load8(base + header::FLAGS, order);
        let kind = memory.load8(base + header::KIND, order);
        let size = memory.load16(base + header::SIZE, order);
        let checksum = if flags & header::NEEDS_CHECKSUM != 0 {
            if !self.has(features::GUEST_CHECKSUM) {
                return None;
            }
            Some(PartialChecksum {
                start: memory.load16(base + header::CHECKSUM_START, order),
                offset: memory.load16(base + header::CHECKSUM_OFFSET, order),
            })
        } else {
            None
        };
        let kind = match kind & !header::ECN {
            0 => None,
            header::KIND_TCP4 if self.has(features::GUEST_TSO4) => Some(SegmentationKind::Tcp4),
            header::KIND_TCP6 if self.has(features::GUEST_TSO6) => Some(SegmentationKind::Tcp6),
            _ => return None,
        };
        if kind.is_some() && (size == 0 || checksum.is_none()) {
            return None;
        }
        Some(Offload {
            checksum,
            checksum_valid: flags & header::CHECKSUM_VALID != 0,
            segmentation: kind.map(|kind| Segmentation {
                kind,
                size,
                header_length: memory.load16(base + header::LENGTH, order),
                ecn: false,
            }),
        })
    }

    fn read_link(&self) {
        let up = !self.has(features::STATUS) || self.device.config16(config::STATUS) & LINK_UP != 0;
        let mut info = self.info.lock();
        if info.link != up {
            info.link = up;
            self.device.note_change();
        }
    }

    /// The header of a frame to send: flags, kind, and four numbers; `None` if the device
    /// cannot send it.
    fn transmit_header(&self, frame: &TransmitFrame<'_>) -> Option<[u64; 2]> {
        let mut length = 0usize;
        for segment in frame.segments {
            if segment.length == 0 {
                return None;
            }
            length = length.checked_add(segment.length as usize)?;
        }
        let (mtu, max_segments) = {
            let info = self.info.lock();
            (usize::from(info.mtu), info.max_segments)
        };
        let longest = match frame.offload.segmentation {
            Some(_) => LONGEST,
            None => mtu + ETHERNET + VLAN_TAG,
        };
        if frame.segments.len() > max_segments || !(ETHERNET..=longest).contains(&length) {
            return None;
        }
        let mut flags = 0;
        let (mut start, mut offset) = (0, 0);
        if let Some(checksum) = frame.offload.checksum {
            let end = usize::from(checksum.start) + usize::from(checksum.offset) + 2;
            if !self.has(features::CHECKSUM) || end > length {
                return None;
            }
            flags = header::NEEDS_CHECKSUM;
            (start, offset) = (checksum.start, checksum.offset);
        }
        let (mut kind, mut size, mut headers) = (0, 0, 0);
        if let Some(cut) = frame.offload.segmentation {
            let (number, bit) = match cut.kind {
                SegmentationKind::Tcp4 => (header::KIND_TCP4, features::HOST_TSO4),
                SegmentationKind::Tcp6 => (header::KIND_TCP6, features::HOST_TSO6),
            };
            if !self.has(bit) || cut.size == 0 || flags == 0 {
                return None;
            }
            kind = number;
            // A device without ECN leaves the bit in each piece: no harm is done.
            if cut.ecn && self.has(features::HOST_ECN) {
                kind |= header::ECN;
            }
            (size, headers) = (cut.size, cut.header_length);
        }
        let place = |value: u16, offset: usize| u64::from(value) << (8 * (offset % 8));
        let first = u64::from(flags)
            | u64::from(kind) << (8 * header::KIND)
            | place(headers, header::LENGTH)
            | place(size, header::SIZE)
            | place(start, header::CHECKSUM_START);
        Some([first, place(offset, header::CHECKSUM_OFFSET)])
    }
}

/// A frame while it is received.
struct Frame {
    segments: [Segment; MOST_BUFFERS],
    count: usize,
    length: usize,
    buffers: [u16; MOST_BUFFERS],
    used: usize,
    offload: Offload,
}

impl Frame {
    /// Notes a buffer that is to go back; `false` if there are too many.
    fn keep(&mut self, buffer: u16) -> bool {
        match self.buffers.get_mut(self.used) {
            Some(slot) => {
                *slot = buffer;
                self.used += 1;
                true
            }
            None => false,
        }
    }

    fn push(&mut self, memory: &Dma, offset: usize, length: usize) {
        if length != 0
            && let Some(slot) = self.segments.get_mut(self.count)
        {
            *slot = Segment {
                address: memory.address(offset),
                length: length as u32,
            };
            self.count += 1;
            self.length += length;
        }
    }
}

impl Net for VirtioNet {
    fn info(&self) -> NetInfo {
        self.info.lock().clone()
    }

    fn queues(&self) -> usize {
        self.pairs.len()
    }

    fn transmit(&self, queue: usize, frame: &TransmitFrame<'_>) -> Result<(), TransmitError> {
        let pair = self.pairs.get(queue).ok_or(TransmitError::Invalid)?;
        let words = self.transmit_header(frame).ok_or(TransmitError::Invalid)?;
        let mut transmit = pair.transmit.lock();
        let Transmit { ring, headers } = &mut *transmit;
        // Under the lock: who takes back what a broken device had finds all of it.
        if self.device.is_broken() {
            return Err(TransmitError::Broken);
        }
        let pieces = frame.segments.len() + 1;
        let head = ring.room(pieces).ok_or(TransmitError::Full)?;
        let at = usize::from(head) * header::ROOM;
        headers.store64(at, words[0], Ordering::Relaxed);
        headers.store64(at + 8, words[1], Ordering::Relaxed);
        let first = Buffer {
            address: headers.address(at),
            length: self.header_length as u32,
            write: false,
        };
        let rest = frame.segments.iter().map(|segment| Buffer {
            address: segment.address,
            length: segment.length,
            write: false,
        });
        ring.add(pieces, core::iter::once(first).chain(rest), frame.tag)
            .map_err(|_| TransmitError::Full)
    }

    fn kick(&self, queue: usize) {
        if let Some(pair) = self.pairs.get(queue)
            && pair.transmit.lock().ring.needs_notification()
            && !self.device.is_broken()
        {
            self.device.notify(2 * queue as u16 + 1);
        }
    }

    fn reclaim(&self, queue: usize, budget: usize, done: &mut dyn FnMut(u64)) -> usize {
        let Some(pair) = self.pairs.get(queue) else {
            return 0;
        };
        let mut total = 0;
        while total < budget {
            // Handed over without the lock: who takes them may send.
            let mut batch = [0u64; BATCH];
            let mut count = 0;
            let stopped = self.device.is_stopped();
            {
                let mut transmit = pair.transmit.lock();
                for slot in batch.iter_mut().take(budget - total) {
                    let tag = match transmit.ring.take() {
                        Ok(Some((tag, _, _))) => Some(tag),
                        _ if stopped => transmit.ring.abandon(),
                        Ok(None) => None,
                        Err(_) => {
                            self.device.fail();
                            None
                        }
                    };
                    let Some(tag) = tag else {
                        break;
                    };
                    *slot = tag;
                    count += 1;
                }
            }
            batch.iter().take(count).for_each(|&tag| done(tag));
            total += count;
            if count == 0 {
                break;
            }
        }
        total
    }

    fn receive(
        &self,
        queue: usize,
        budget: usize,
        sink: &mut dyn FnMut(&ReceivedFrame<'_>),
    ) -> usize {
        let Some(pair) = self.pairs.get(queue) else {
            return 0;
        };
        let mut receive = pair.receive.lock();
        if self.device.is_broken() || !receive.ring.has_completions() {
            return 0;
        }
        let mut frame = Frame {
            segments: [Segment::default(); MOST_BUFFERS],
            count: 0,
            length: 0,
            buffers: [0; MOST_BUFFERS],
            used: 0,
            offload: Offload::default(),
        };
        let mut total = 0;
        while total < budget {
            match self.take_frame(&mut receive, &mut frame) {
                Ok(Some(good)) => {
                    if good {
                        sink(&ReceivedFrame {
                            segments: frame.segments.get(..frame.count).unwrap_or_default(),
                            length: frame.length,
                            offload: frame.offload,
                        });
                    }
                    for &buffer in frame.buffers.iter().take(frame.used) {
                        self.give(&mut receive, buffer);
                    }
                    total += 1;
                }
                Ok(None) => break,
                Err(_) => {
                    self.device.fail();
                    break;
                }
            }
        }
        if receive.ring.needs_notification() && !self.device.is_broken() {
            self.device.notify(2 * queue as u16);
        }
        total
    }

    fn arm(&self, queue: usize) -> bool {
        let Some(pair) = self.pairs.get(queue) else {
            return false;
        };
        let stopped = self.device.is_stopped();
        let mut transmit = pair.transmit.lock();
        if self.device.is_broken() {
            return stopped && transmit.ring.pending() != 0;
        }
        let sent = transmit.ring.arm_late();
        drop(transmit);
        pair.receive.lock().ring.arm() || sent
    }

    fn take_change(&self) -> bool {
        self.device.take_change()
    }

    fn is_broken(&self) -> bool {
        self.device.is_broken()
    }
}

impl Driver for VirtioNet {
    fn device(&self) -> &Device {
        &self.device
    }

    fn look(&self) {
        self.read_link();
    }
}
