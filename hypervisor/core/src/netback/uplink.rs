//! A NIC of the first layer, as vifs send to it and are given to by it.
//!
//! Each of its queues (a *lane*) has a table of the frames that the NIC has. A frame's
//! entry holds its headers, in memory of our own, and what is held of its guest.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arrayvec::ArrayVec;
use overcast_drivers::Segment;
use overcast_drivers::net::{Net, NetInfo, SegmentationKind, TransmitError, TransmitFrame};
use spin::{Mutex, RwLock};

use super::packet::{Cursor, HEAD_SIZE, MAX_LENGTH, Packet};
use super::transmit::{MAX_SLOTS, TxHold};
use super::{Fabric, MAX_QUEUES, NetbackHost};
use crate::addr::{Mfn, PAGE_SIZE};
use crate::error::{Error, Result};
use crate::event::ConsumerId;

/// Frames under way of a lane.
const SLOTS: usize = 256;
const HEADS_PER_FRAME: usize = PAGE_SIZE / HEAD_SIZE;
/// Memory segments of a frame: its headers, and what is granted.
const MAX_SEGMENTS: usize = MAX_SLOTS + 1;
/// Frames of memory of a frame that has to be copied.
const MAX_BOUNCE: usize = MAX_LENGTH.div_ceil(PAGE_SIZE);
/// Frames received in one run, and between two looks whether a guest is full.
const RECEIVE_BUDGET: usize = 64;
const RECEIVE_STEP: usize = 8;
/// How long the NIC waits for a guest before sent frames are looked at, ns.
const WAIT: u64 = 1_000_000;
/// Bytes of a VLAN tag and an Ethernet header, beyond the MTU.
const OVERHEAD: usize = 18;

/// How sending went.
pub(super) enum Progress {
    Done,
    /// It cannot be sent.
    Dropped,
    /// There is no room: the task is raised when there is.
    Full,
}

/// How far a frame is that is cut here.
#[derive(Clone, Copy, Default)]
pub(super) struct Sending {
    /// The entry that holds what all pieces need.
    group: Option<u16>,
    /// The payload byte to go on with.
    position: usize,
}

/// A frame that the NIC has, or several that belong together.
struct Slot<H: NetbackHost> {
    hold: Option<TxHold<H>>,
    bounce: ArrayVec<Mfn, MAX_BOUNCE>,
    /// The entry with the hold.
    group: u16,
    /// How many entries have this as their group, itself included while it is under way.
    left: u16,
    /// The NIC has it.
    under_way: bool,
}

struct Pending<H: NetbackHost> {
    slots: Vec<Slot<H>>,
    free: Vec<u16>,
    heads: Vec<Mfn>,
    waiters: ArrayVec<ConsumerId, 64>,
    under_way: usize,
}

struct Lane<H: NetbackHost> {
    pending: Mutex<Pending<H>>,
    /// The NIC is to be told of what was put into its queue.
    unsaid: AtomicBool,
    /// The number of its task plus one.
    task: AtomicU32,
}

/// A NIC. See the module's docs.
pub struct Uplink<H: NetbackHost> {
    host: &'static H,
    net: Arc<dyn Net>,
    info: RwLock<NetInfo>,
    lanes: Box<[Lane<H>]>,
}

/// What a run of a lane found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneRun {
    /// Whether there is more to do.
    pub more: bool,
    /// Whether the link went up or down.
    pub link: Option<bool>,
}

impl<H: NetbackHost> Pending<H> {
    fn new(host: &H) -> Result<Self> {
        let mut pending = Self {
            slots: Vec::new(),
            free: Vec::new(),
            heads: Vec::new(),
            waiters: ArrayVec::new(),
            under_way: 0,
        };
        let memory = |_| Error::NoMemory;
        pending.slots.try_reserve_exact(SLOTS).map_err(memory)?;
        pending.free.try_reserve_exact(SLOTS).map_err(memory)?;
        let frames = SLOTS.div_ceil(HEADS_PER_FRAME);
        pending.heads.try_reserve_exact(frames).map_err(memory)?;
        for _ in 0..frames {
            match host.allocate_frame() {
                Some(mfn) => pending.heads.push(mfn),
                None => {
                    pending.heads.iter().for_each(|&mfn| host.free_frame(mfn));
                    return Err(Error::NoMemory);
                }
            }
        }
        for n in (0..SLOTS as u16).rev() {
            pending.slots.push(Slot {
                hold: None,
                bounce: ArrayVec::new(),
                group: n,
                left: 0,
                under_way: false,
            });
            pending.free.push(n);
        }
        pending
            .slots
            .iter_mut()
            .zip(0..)
            .for_each(|(slot, n)| slot.group = n);
        Ok(pending)
    }

    fn wait(&mut self, host: &H, task: ConsumerId) {
        if !self.waiters.contains(&task) && self.waiters.try_push(task).is_err() {
            // There are more than can be noted.
            host.raise_at(task, host.now().saturating_add(WAIT));
        }
    }

    /// One entry less of a group; gives its hold if it was the last.
    fn leave_group(&mut self, group: u16) -> Option<TxHold<H>> {
        let slot = self.slots.get_mut(usize::from(group))?;
        slot.left = slot.left.saturating_sub(1);
        if slot.left != 0 {
            return None;
        }
        let hold = slot.hold.take();
        self.free.push(group);
        hold
    }

    /// The NIC gave a frame back.
    fn complete(&mut self, host: &H, tag: u64) -> Option<TxHold<H>> {
        let index = u16::try_from(tag).ok()?;
        let slot = self.slots.get_mut(usize::from(index))?;
        if !core::mem::take(&mut slot.under_way) {
            return None;
        }
        let group = slot.group;
        slot.bounce.drain(..).for_each(|mfn| host.free_frame(mfn));
        self.under_way = self.under_way.saturating_sub(1);
        if group != index {
            self.free.push(index);
        }
        self.leave_group(group)
    }
}

impl<H: NetbackHost> Uplink<H> {
    /// Prepares a NIC. `NoMemory`.
    pub fn new(host: &'static H, net: Arc<dyn Net>) -> Result<Arc<Self>> {
        let count = net.queues().clamp(1, MAX_QUEUES as usize);
        let mut lanes = Vec::new();
        lanes
            .try_reserve_exact(count)
            .map_err(|_| Error::NoMemory)?;
        for _ in 0..count {
            lanes.push(Lane {
                pending: Mutex::new(Pending::new(host)?),
                unsaid: AtomicBool::new(false),
                task: AtomicU32::new(0),
            });
        }
        Ok(Arc::new(Self {
            host,
            info: RwLock::new(net.info()),
            net,
            lanes: lanes.into(),
        }))
    }

    /// What the NIC is and can do.
    pub fn info(&self) -> NetInfo {
        self.info.read().clone()
    }

    /// How many lanes it has.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Sets the task that calls [`Self::run`] for a lane.
    pub fn set_task(&self, lane: usize, task: ConsumerId) {
        if let Some(lane) = self.lanes.get(lane) {
            lane.task.store(task.0.wrapping_add(1), Ordering::Release);
        }
    }

    fn task(lane: &Lane<H>) -> Option<ConsumerId> {
        let number = lane.task.load(Ordering::Acquire);
        number.checked_sub(1).map(ConsumerId)
    }

    pub(super) fn raise_all(&self) {
        for task in self.lanes.iter().filter_map(Self::task) {
            self.host.raise(task);
        }
    }

    /// The lane for a queue of a vif.
    pub(super) fn lane(&self, queue: u16) -> usize {
        usize::from(queue) % self.lanes.len().max(1)
    }

    /// Takes back what the NIC has sent.
    pub(super) fn reclaim(&self, index: usize) {
        let Some(lane) = self.lanes.get(index) else {
            return;
        };
        let mut any = false;
        for _ in 0..SLOTS / 64 {
            let mut tags = ArrayVec::<u64, 64>::new();
            // What is done with them may send: not under the driver's lock.
            let count = self.net.reclaim(index, tags.capacity(), &mut |tag| {
                let _ = tags.try_push(tag);
            });
            if count == 0 {
                break;
            }
            any = true;
            for tag in tags {
                let hold = lane.pending.lock().complete(self.host, tag);
                drop(hold);
            }
        }
        if any {
            let waiters = core::mem::take(&mut lane.pending.lock().waiters);
            waiters.into_iter().for_each(|task| self.host.raise(task));
        }
    }

    /// Tells the NIC of frames that were put into its queue.
    pub(super) fn flush(&self, index: usize) {
        if let Some(lane) = self.lanes.get(index)
            && lane.unsaid.swap(false, Ordering::AcqRel)
        {
            self.net.kick(index);
        }
    }

    /// Sends a frame. What it holds is taken if the NIC needs it; after `Full` the same
    /// is to be tried again, when `task` was raised.
    pub(super) fn send(
        &self,
        index: usize,
        packet: &mut Packet<'_>,
        sending: &mut Sending,
        hold: &mut Option<TxHold<H>>,
        task: ConsumerId,
    ) -> Progress {
        let Some(lane) = self.lanes.get(index) else {
            return Progress::Dropped;
        };
        let (checksum, cuts, mtu, max) = {
            let info = self.info.read();
            let cuts = packet.offload.segmentation.is_none_or(|segmentation| {
                info.transmit_checksum
                    && match segmentation.kind {
                        SegmentationKind::Tcp4 => info.transmit_tcp4,
                        SegmentationKind::Tcp6 => info.transmit_tcp6,
                    }
            });
            (info.transmit_checksum, cuts, info.mtu, info.max_segments)
        };
        let Some(segmentation) = packet.offload.segmentation.filter(|_| !cuts) else {
            let whole = packet.offload.segmentation.is_none();
            if whole && packet.length > usize::from(mtu) + OVERHEAD {
                return Progress::Dropped;
            }
            if !checksum && packet.complete(self.host).is_none() {
                return Progress::Dropped;
            }
            return self.send_one(index, lane, packet, None, hold, task, max);
        };
        let Some(mut pieces) = packet.pieces(segmentation, sending.position) else {
            return Progress::Dropped;
        };
        loop {
            let position = pieces.position();
            let Some(mut piece) = pieces.next() else {
                break;
            };
            if !checksum && piece.complete(self.host).is_none() {
                continue;
            }
            let group = Some(&mut sending.group);
            if let Progress::Full = self.send_one(index, lane, &piece, group, &mut None, task, max)
            {
                sending.position = position;
                return Progress::Full;
            }
        }
        self.finish(index, *sending, hold.take());
        Progress::Done
    }

    /// Leaves what is held for a frame that was cut to its pieces, the last of which drops it.
    pub(super) fn finish(&self, index: usize, sending: Sending, hold: Option<TxHold<H>>) {
        let (Some(lane), Some(group)) = (self.lanes.get(index), sending.group) else {
            return;
        };
        let mut pending = lane.pending.lock();
        if let Some(slot) = pending.slots.get_mut(usize::from(group)) {
            slot.hold = hold;
        }
        let last = pending.leave_group(group);
        drop(pending);
        drop(last);
    }

    #[allow(clippy::too_many_arguments)]
    fn send_one(
        &self,
        index: usize,
        lane: &Lane<H>,
        packet: &Packet<'_>,
        group: Option<&mut Option<u16>>,
        hold: &mut Option<TxHold<H>>,
        task: ConsumerId,
        max_segments: usize,
    ) -> Progress {
        let mut pending = lane.pending.lock();
        let pending = &mut *pending;
        let Some(&number) = pending.free.last() else {
            pending.wait(self.host, task);
            return Progress::Full;
        };
        let mut segments = ArrayVec::<Segment, MAX_SEGMENTS>::new();
        let mut bounce = ArrayVec::<Mfn, MAX_BOUNCE>::new();
        let built = self.put_head(pending, number, packet).and_then(|head| {
            segments.try_push(head).ok()?;
            let mut rest = packet.rest();
            let mut left = packet.rest_length();
            while left > 0 {
                let segment = rest.next_segment(left)?;
                left -= segment.length as usize;
                segments.try_push(segment).ok()?;
            }
            Some(())
        });
        if built.is_none() {
            return Progress::Dropped;
        }
        if segments.len() > max_segments
            && self
                .copy(packet, &mut segments, &mut bounce, max_segments)
                .is_none()
        {
            bounce.drain(..).for_each(|mfn| self.host.free_frame(mfn));
            return Progress::Dropped;
        }
        let frame = TransmitFrame {
            segments: &segments,
            offload: packet.offload,
            tag: number.into(),
        };
        if let Err(error) = self.net.transmit(index, &frame) {
            bounce.drain(..).for_each(|mfn| self.host.free_frame(mfn));
            // With none under way there is nothing to wait for.
            if error == TransmitError::Full && pending.under_way != 0 {
                pending.wait(self.host, task);
                return Progress::Full;
            }
            return Progress::Dropped;
        }
        lane.unsaid.store(true, Ordering::Release);
        pending.free.pop();
        pending.under_way += 1;
        // All of it may be in memory of our own.
        let needed = packet.rest_length() != 0 && bounce.is_empty();
        let own = match group {
            None => number,
            Some(group) => match *group {
                // One more for who sends the pieces, until he has sent them all.
                None => {
                    *group = Some(number);
                    if let Some(slot) = pending.slots.get_mut(usize::from(number)) {
                        slot.left = 1;
                    }
                    number
                }
                Some(first) => first,
            },
        };
        if let Some(slot) = pending.slots.get_mut(usize::from(number)) {
            slot.bounce = bounce;
            slot.group = own;
            slot.under_way = true;
            if needed {
                slot.hold = hold.take();
            }
        }
        if let Some(slot) = pending.slots.get_mut(usize::from(own)) {
            slot.left = slot.left.saturating_add(1);
        }
        Progress::Done
    }

    /// Writes a frame's head where the NIC can read it.
    fn put_head(&self, pending: &Pending<H>, number: u16, packet: &Packet<'_>) -> Option<Segment> {
        let number = usize::from(number);
        let mfn = *pending.heads.get(number / HEADS_PER_FRAME)?;
        let at = number % HEADS_PER_FRAME * HEAD_SIZE;
        self.host.frame(mfn)?.write(at, packet.head());
        Some(Segment {
            address: mfn.address().get() + at as u64,
            length: packet.head_length as u32,
        })
    }

    /// Copies all but the head of a frame, so that it has fewer segments.
    fn copy(
        &self,
        packet: &Packet<'_>,
        segments: &mut ArrayVec<Segment, MAX_SEGMENTS>,
        bounce: &mut ArrayVec<Mfn, MAX_BOUNCE>,
        max_segments: usize,
    ) -> Option<()> {
        segments.truncate(1);
        let mut rest: Cursor<'_> = packet.rest();
        let mut left = packet.rest_length();
        while left > 0 {
            let length = left.min(PAGE_SIZE);
            let mfn = self.host.allocate_frame()?;
            if bounce.try_push(mfn).is_err() {
                self.host.free_frame(mfn);
                return None;
            }
            rest.copy(self.host, self.host.frame(mfn)?, 0, length)?;
            let segment = Segment {
                address: mfn.address().get(),
                length: length as u32,
            };
            segments.try_push(segment).ok()?;
            left -= length;
        }
        (segments.len() <= max_segments).then_some(())
    }

    /// Does what there is to do for a lane: what was sent, what was received, the link.
    pub fn run(&self, index: usize, fabric: &Fabric<H>) -> LaneRun {
        let mut run = LaneRun {
            more: false,
            link: None,
        };
        let Some(lane) = self.lanes.get(index) else {
            return run;
        };
        if self.net.take_change() {
            if self.net.is_broken() {
                log::error!("a network card broke");
                // It does not interrupt for what comes back now.
                self.raise_all();
            }
            let info = self.net.info();
            let mut known = self.info.write();
            run.link = (known.link != info.link).then_some(info.link);
            *known = info;
        }
        self.reclaim(index);
        let mut received = 0;
        while received < RECEIVE_BUDGET {
            if fabric.must_wait() {
                if let Some(task) = Self::task(lane) {
                    self.host
                        .raise_at(task, self.host.now().saturating_add(WAIT));
                }
                return run;
            }
            let count = self
                .net
                .receive(index, RECEIVE_STEP, &mut |frame| fabric.receive(frame));
            if count == 0 {
                break;
            }
            received += count;
        }
        run.more = received >= RECEIVE_BUDGET || self.net.arm(index);
        run
    }
}
