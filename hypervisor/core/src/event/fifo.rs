//! The FIFO ABI (event_channel.h): an event word for each port in pages that
//! the guest gives, and for each vCPU a control block with the heads of
//! sixteen queues, one a priority, which are linked through the event words.
//!
//! The hypervisor appends to a queue at its tail, which it remembers itself;
//! the guest takes from the head. Of the guest's words only the flag bits are
//! read. A guest that writes garbage loses its own events, no more: every
//! loop here is bounded.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::channel::Channel;
use super::{
    EventChannels, EventHost, FIFO_MAX_CHANNELS, FIFO_PRIORITY_DEFAULT, FIFO_PRIORITY_MIN,
};
use crate::addr::{MachineAddress, Mfn, PAGE_SIZE};
use crate::error::{Error, Result};
use crate::ids::{EventPort, VcpuId};
use crate::machine::Frame;

/// `EVTCHN_FIFO_LINK_BITS`: the width of a link, which `EVTCHNOP_init_control` returns.
pub const LINK_BITS: u8 = 17;
const LINK_MASK: u32 = (1 << LINK_BITS) - 1;
/// `EVTCHN_FIFO_PENDING` as a mask.
pub const PENDING: u32 = 1 << 31;
/// `EVTCHN_FIFO_MASKED` as a mask.
pub const MASKED: u32 = 1 << 30;
/// `EVTCHN_FIFO_LINKED` as a mask.
pub const LINKED: u32 = 1 << 29;
/// `EVTCHN_FIFO_BUSY` as a mask.
pub const BUSY: u32 = 1 << 28;

const WORDS_PER_PAGE: u32 = (PAGE_SIZE / 4) as u32;
const MAX_PAGES: usize = (FIFO_MAX_CHANNELS / WORDS_PER_PAGE) as usize;
const PRIORITIES: u32 = FIFO_PRIORITY_MIN as u32 + 1;
/// Size of `evtchn_fifo_control_block`: `ready`, a reserved word, 16 heads.
const CONTROL_BLOCK_SIZE: u32 = 72;
/// Offset of the heads in the control block, in bytes.
const HEADS: usize = 8;

pub(super) const NO_CONTROL_BLOCK: u64 = u64::MAX;

/// How often a change of a 32-bit value is tried again because its neighbour
/// in the 64-bit word changed. A guest that follows the protocol never comes
/// near it.
const NEIGHBOUR_TRIES: u32 = 10_000;

/// How often the queues are locked anew because the guest moved the event to
/// another meanwhile.
const QUEUE_TRIES: u32 = 16;

/// The pages of event words that the guest gave.
pub(super) struct EventArray {
    /// Ports below this one have an event word.
    ports: AtomicU32,
    pages: [AtomicU64; MAX_PAGES],
}

impl EventArray {
    pub(super) const fn new() -> Self {
        Self {
            ports: AtomicU32::new(0),
            pages: [const { AtomicU64::new(0) }; MAX_PAGES],
        }
    }
}

/// A 32-bit value in a frame that is shared with the guest. Setting and
/// clearing bits is one locked instruction on the 64-bit word around it.
#[derive(Clone, Copy)]
struct SharedU32<'m> {
    frame: &'m Frame,
    word: usize,
    shift: u32,
}

impl<'m> SharedU32<'m> {
    /// The value at a byte offset, which is a multiple of 4 below the page size.
    fn new(frame: &'m Frame, offset: usize) -> Self {
        Self {
            frame,
            word: offset / 8,
            shift: 8 * (offset % 8) as u32,
        }
    }

    fn load(self) -> u32 {
        (self.frame.word(self.word).load(Ordering::SeqCst) >> self.shift) as u32
    }

    fn test(self, bits: u32) -> bool {
        self.load() & bits != 0
    }

    /// Sets bits; whether any of them was set before.
    fn set(self, bits: u32) -> bool {
        let mask = u64::from(bits) << self.shift;
        self.frame.word(self.word).fetch_or(mask, Ordering::SeqCst) & mask != 0
    }

    /// Clears bits; whether any of them was set before.
    fn clear(self, bits: u32) -> bool {
        let mask = u64::from(bits) << self.shift;
        self.frame
            .word(self.word)
            .fetch_and(!mask, Ordering::SeqCst)
            & mask
            != 0
    }

    /// Changes `old` to `new`; on failure gives what was there.
    fn compare_exchange(self, old: u32, new: u32) -> core::result::Result<(), u32> {
        let mut word = self.frame.word(self.word).load(Ordering::SeqCst);
        let mut now = (word >> self.shift) as u32;
        for _ in 0..NEIGHBOUR_TRIES {
            if now != old {
                break;
            }
            let want = (word & !(0xffff_ffff << self.shift)) | (u64::from(new) << self.shift);
            match self.frame.word(self.word).compare_exchange(
                word,
                want,
                Ordering::SeqCst,
                Ordering::SeqCst,
            ) {
                Ok(_) => return Ok(()),
                Err(changed) => {
                    word = changed;
                    now = (word >> self.shift) as u32;
                }
            }
        }
        Err(now)
    }

    /// Writes the value, unless the guest keeps changing the neighbour.
    fn store(self, value: u32) {
        for _ in 0..16 {
            let now = self.load();
            if self.compare_exchange(now, value).is_ok() {
                return;
            }
        }
    }
}

/// One attempt to set the link of an event word that is still linked.
/// `Some(true)` if it is set, `Some(false)` if the word is not linked, `None`
/// if the word changed meanwhile (`seen` is then what it became).
fn try_set_link(word: SharedU32<'_>, seen: &mut u32, link: u32) -> Option<bool> {
    if *seen & LINKED == 0 {
        return Some(false);
    }
    let new = (*seen & !(BUSY | LINK_MASK)) | (link & LINK_MASK);
    match word.compare_exchange(*seen, new) {
        Ok(()) => Some(true),
        Err(now) => {
            *seen = now;
            None
        }
    }
}

/// Sets the link of the tail's event word, if it is still linked; whether it
/// was. BUSY keeps a guest that follows the protocol from unmasking, and what
/// else it may do to a linked word can disturb only four times.
fn set_link(word: SharedU32<'_>, link: u32) -> bool {
    let mut seen = word.load();
    if let Some(done) = try_set_link(word, &mut seen, link) {
        return done;
    }
    word.set(BUSY);
    seen = word.load();
    for _ in 0..4 {
        if let Some(done) = try_set_link(word, &mut seen, link) {
            if !done {
                word.clear(BUSY);
            }
            return done;
        }
    }
    // The guest breaks the protocol: the event is lost to it.
    log::debug!(target: "guest", "FIFO event word unstable, port {link} not linked");
    word.clear(BUSY);
    true
}

/// The queue of a vCPU and priority, as one number.
fn queue_number(vcpu: u32, priority: u8) -> u32 {
    vcpu.saturating_mul(PRIORITIES)
        .saturating_add(u32::from(priority))
}

impl EventChannels {
    /// The event word of a port, if the guest gave a page for it.
    fn event_word<'m, H: EventHost>(&self, host: &'m H, port: EventPort) -> Option<SharedU32<'m>> {
        if port.0 >= self.event_array.ports.load(Ordering::SeqCst) {
            return None;
        }
        let page = self
            .event_array
            .pages
            .get((port.0 / WORDS_PER_PAGE) as usize)?;
        let frame = host.frame(Mfn(page.load(Ordering::Acquire)))?;
        Some(SharedU32::new(
            frame,
            (port.0 % WORDS_PER_PAGE) as usize * 4,
        ))
    }

    fn control_block<'m, H: EventHost>(
        &self,
        host: &'m H,
        vcpu: u32,
    ) -> Option<(&'m Frame, usize)> {
        let address = self
            .vcpus
            .get(vcpu as usize)?
            .control_block
            .load(Ordering::Acquire);
        if address == NO_CONTROL_BLOCK {
            return None;
        }
        let address = MachineAddress(address);
        Some((host.frame(address.frame())?, address.offset()))
    }

    fn tail(&self, queue: u32) -> Option<&spin::Mutex<u32>> {
        self.vcpus
            .get((queue / PRIORITIES) as usize)?
            .tails
            .get((queue % PRIORITIES) as usize)
    }

    pub(super) fn fifo_set_pending<H: EventHost>(
        &self,
        host: &H,
        port: EventPort,
        channel: &Channel,
    ) {
        let word = match self.event_word(host, port) {
            Some(word) => word,
            None => {
                channel.saved_pending.store(true, Ordering::SeqCst);
                // The page may have come in between: whoever takes the saved
                // event, this side or the one that adds the page, delivers it.
                match self.event_word(host, port) {
                    Some(word) if channel.saved_pending.swap(false, Ordering::SeqCst) => word,
                    _ => return,
                }
            }
        };
        let vcpu = channel.vcpu.load(Ordering::Acquire);

        // The queue that the event goes to, and the one it was last on if that
        // is another, stay locked from before PENDING is set until the event is
        // linked: else the guest could be woken without finding it.
        for _ in 0..QUEUE_TRIES {
            let priority = channel.priority.load(Ordering::Acquire);
            let new = queue_number(vcpu, priority);
            let old = channel.last_queue.load(Ordering::Acquire);
            let (Some(new_tail), Some(old_tail)) = (self.tail(new), self.tail(old)) else {
                return;
            };
            let (mut to, mut from) = if new == old {
                (new_tail.lock(), None)
            } else if new < old {
                let to = new_tail.lock();
                (to, Some(old_tail.lock()))
            } else {
                let from = old_tail.lock();
                (new_tail.lock(), Some(from))
            };
            if channel.last_queue.load(Ordering::Acquire) != old
                || channel.priority.load(Ordering::Acquire) != priority
            {
                continue;
            }
            let Some((control, at)) = self.control_block(host, vcpu) else {
                // The guest must not unmask an event before there is a control
                // block for its vCPU, so the event may be dropped.
                log::debug!(target: "guest", "d{}v{vcpu} has no FIFO control block", self.domain);
                return;
            };

            let newly_pending = !word.set(PENDING);
            let mut linked = true;
            if !word.test(MASKED) && !word.set(LINKED) {
                // If the event was the tail of its old queue, that queue is
                // empty now, and its tail must not be used to append there.
                match from.as_deref_mut() {
                    Some(tail) if *tail == port.0 => *tail = 0,
                    None if *to == port.0 => *to = 0,
                    _ => {}
                }
                channel.last_queue.store(new, Ordering::Release);
                // A tail that is not linked any more was consumed, so that the
                // queue is empty and its head must be written.
                linked = *to != 0
                    && self
                        .event_word(host, EventPort(*to))
                        .is_some_and(|tail| set_link(tail, port.0));
                if !linked {
                    SharedU32::new(control, at + HEADS + 4 * usize::from(priority)).store(port.0);
                }
                *to = port.0;
            }
            drop(from);
            drop(to);

            if !linked && !SharedU32::new(control, at).set(1 << priority) {
                self.mark_events_pending(host, VcpuId(vcpu));
            }
            if newly_pending {
                self.check_pollers(host, port);
            }
            return;
        }
        log::debug!(
            target: "guest",
            "d{} port {port} lost event: its queue keeps changing",
            self.domain
        );
    }

    pub(super) fn fifo_clear_pending<H: EventHost>(&self, host: &H, port: EventPort) {
        // It stays linked; the guest unlinks it and ignores it.
        if let Some(word) = self.event_word(host, port) {
            word.clear(PENDING);
        }
    }

    pub(super) fn fifo_unmask<H: EventHost>(&self, host: &H, port: EventPort, channel: &Channel) {
        let Some(word) = self.event_word(host, port) else {
            return;
        };
        word.clear(MASKED);
        if word.test(PENDING) {
            self.fifo_set_pending(host, port, channel);
        }
    }

    pub(super) fn fifo_is_pending<H: EventHost>(&self, host: &H, port: EventPort) -> bool {
        self.event_word(host, port)
            .is_some_and(|word| word.test(PENDING))
    }

    pub(super) fn fifo_is_masked<H: EventHost>(&self, host: &H, port: EventPort) -> bool {
        self.event_word(host, port)
            .is_none_or(|word| word.test(MASKED))
    }

    pub(super) fn fifo_is_busy<H: EventHost>(&self, host: &H, port: EventPort) -> bool {
        self.event_word(host, port)
            .is_some_and(|word| word.test(LINKED))
    }

    /// `EVTCHNOP_init_control`: gives a vCPU its control block, at `offset` in a
    /// frame of the domain. The first call switches the domain to the FIFO ABI.
    /// Gives the width of links in bits.
    ///
    /// Errors: `NoEntry` no such vCPU; `Invalid` the block crosses the page, is
    /// not aligned to 8 bytes, the vCPU has one already, or the frame is not
    /// the domain's to write.
    pub fn init_control<H: EventHost>(
        &self,
        host: &H,
        vcpu: VcpuId,
        mfn: Mfn,
        offset: u32,
    ) -> Result<u8> {
        let v = self.vcpu(vcpu.0)?;
        if offset > PAGE_SIZE as u32 - CONTROL_BLOCK_SIZE || !offset.is_multiple_of(8) {
            return Err(Error::Invalid);
        }
        if v.control_block.load(Ordering::Acquire) != NO_CONTROL_BLOCK {
            return Err(Error::Invalid);
        }
        self.get_page(host, mfn)?;
        let inner = self.inner.lock();
        if self.is_dying() || v.control_block.load(Ordering::Acquire) != NO_CONTROL_BLOCK {
            drop(inner);
            host.put_writable_page(mfn);
            return Err(Error::Invalid);
        }
        v.control_block.store(
            mfn.address().0.saturating_add(u64::from(offset)),
            Ordering::Release,
        );
        if !self.uses_fifo() {
            // Events that are pending in the old ABI are delivered in the new
            // one once there is a page with their words.
            for port in (1..self.ports.valid().min(super::TWO_LEVEL_MAX_CHANNELS)).map(EventPort) {
                let Some(channel) = self.ports.get(port) else {
                    break;
                };
                if self.two_level_is_pending(host, port) {
                    channel.saved_pending.store(true, Ordering::SeqCst);
                }
                channel
                    .priority
                    .store(FIFO_PRIORITY_DEFAULT, Ordering::Release);
            }
            self.fifo.store(true, Ordering::SeqCst);
        }
        Ok(LINK_BITS)
    }

    /// `EVTCHNOP_expand_array`: adds a frame of the domain to its event words.
    ///
    /// Errors: `NotSupported` the domain uses the 2-level ABI; `NoSpace` every
    /// port has a word; `Invalid` the frame is not the domain's to write.
    pub fn expand_array<H: EventHost>(&self, host: &H, mfn: Mfn) -> Result<()> {
        let room = || {
            if !self.uses_fifo() {
                return Err(Error::NotSupported);
            }
            let first = self.event_array.ports.load(Ordering::Acquire);
            self.event_array
                .pages
                .get((first / WORDS_PER_PAGE) as usize)
                .map(|page| (first, page))
                .ok_or(Error::NoSpace)
        };
        room()?;
        self.get_page(host, mfn)?;
        let inner = self.inner.lock();
        let dying = self.is_dying();
        let (first, page) = match room() {
            Ok(room) if !dying => room,
            result => {
                drop(inner);
                host.put_writable_page(mfn);
                return Err(result.err().unwrap_or(Error::Invalid));
            }
        };
        page.store(mfn.0, Ordering::Release);
        let end = first.saturating_add(WORDS_PER_PAGE);
        self.event_array.ports.store(end, Ordering::SeqCst);

        for port in (first..end).map(EventPort) {
            let Some(channel) = self.ports.get(port) else {
                break;
            };
            // Unlike Xen, look whether the port is the guest's: an event that
            // was saved for one that was closed since is nobody's.
            if channel.saved_pending.swap(false, Ordering::SeqCst)
                && channel.state.read().is_bound()
                && !channel.is_hypervisors()
            {
                self.fifo_set_pending(host, port, channel);
            }
        }
        Ok(())
    }

    /// How many pages of the guest's can be in use.
    pub(super) fn fifo_max_pages(&self) -> usize {
        MAX_PAGES + self.vcpus.len()
    }

    /// Goes back to the 2-level ABI, and takes one of the guest's pages out of
    /// use, which the caller puts. No port of the guest's may be bound, and the
    /// domain's lock must be held until all are taken out, or the domain is dying.
    pub(super) fn take_fifo_page(&self) -> Option<Mfn> {
        self.fifo.store(false, Ordering::SeqCst);
        for v in &self.vcpus {
            let address = v.control_block.swap(NO_CONTROL_BLOCK, Ordering::AcqRel);
            for tail in &v.tails {
                *tail.lock() = 0;
            }
            if address != NO_CONTROL_BLOCK {
                return Some(MachineAddress(address).frame());
            }
        }
        let ports = self.event_array.ports.load(Ordering::Acquire);
        let last = ports.checked_sub(WORDS_PER_PAGE)?;
        self.event_array.ports.store(last, Ordering::SeqCst);
        let page = self
            .event_array
            .pages
            .get((last / WORDS_PER_PAGE) as usize)?;
        Some(Mfn(page.swap(0, Ordering::AcqRel)))
    }
}
