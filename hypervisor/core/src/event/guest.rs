//! For tests: a host that counts, and guests that take their events as Linux does.
#![cfg_attr(not(test), allow(dead_code))]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::vec::Vec;

use core::sync::atomic::{AtomicBool, Ordering};

use super::fifo::{BUSY, LINKED, MASKED, PENDING};
use super::two_level::{MASK_WORD, PENDING_WORD};
use super::{EventChannels, EventHost};
use crate::addr::Mfn;
use crate::ids::{DomainId, EventPort, VcpuId};
use crate::machine::mock::MockMachine;
use crate::machine::{Frame, Memory};

pub struct Host {
    machine: MockMachine,
    pub kicks: Mutex<BTreeMap<(u16, u32), u32>>,
    pub wakes: Mutex<Vec<(u16, u32)>>,
    refs: Mutex<BTreeMap<u64, u32>>,
    pub deny_pages: AtomicBool,
}

impl Host {
    pub fn new(frames: usize) -> Self {
        Self {
            machine: MockMachine::new(frames),
            kicks: Mutex::default(),
            wakes: Mutex::default(),
            refs: Mutex::default(),
            deny_pages: AtomicBool::new(false),
        }
    }

    /// References held to guests' pages.
    pub fn refs(&self) -> u32 {
        self.refs.lock().unwrap().values().sum()
    }

    /// Kicks of a vCPU so far.
    pub fn kicks_of(&self, domain: u16, vcpu: u32) -> u32 {
        let kicks = self.kicks.lock().unwrap();
        kicks.get(&(domain, vcpu)).copied().unwrap_or(0)
    }
}

impl Memory for Host {
    fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        self.machine.frame(mfn)
    }
    fn end_mfn(&self) -> Mfn {
        self.machine.end_mfn()
    }
}

impl EventHost for Host {
    fn kick(&self, domain: DomainId, vcpu: VcpuId) {
        *self
            .kicks
            .lock()
            .unwrap()
            .entry((domain.0, vcpu.0))
            .or_default() += 1;
    }
    fn wake_poller(&self, domain: DomainId, vcpu: VcpuId) {
        self.wakes.lock().unwrap().push((domain.0, vcpu.0));
    }
    fn get_writable_page(&self, _domain: DomainId, mfn: Mfn) -> bool {
        if self.deny_pages.load(Ordering::Relaxed) {
            return false;
        }
        *self.refs.lock().unwrap().entry(mfn.0).or_default() += 1;
        true
    }
    fn put_writable_page(&self, mfn: Mfn) {
        let mut refs = self.refs.lock().unwrap();
        let count = refs.get_mut(&mfn.0).expect("put of a page never got");
        *count = count.checked_sub(1).expect("put of a page more than got");
    }
}

/// Clears `evtchn_upcall_pending`; whether it was set.
pub fn take_upcall(host: &Host, channels: &EventChannels, vcpu: u32) -> bool {
    let at = channels.vcpu_info_location(VcpuId(vcpu)).unwrap();
    let frame = host.frame(at.mfn).unwrap();
    frame.word(at.offset / 8).fetch_and(!0xff, Ordering::SeqCst) & 0xff != 0
}

/// What a guest with the 2-level ABI does in its upcall on a vCPU.
pub fn two_level_drain(host: &Host, channels: &EventChannels, shared: Mfn, vcpu: u32) -> Vec<u32> {
    let at = channels.vcpu_info_location(VcpuId(vcpu)).unwrap();
    let info = host.frame(at.mfn).unwrap();
    let shared = host.frame(shared).unwrap();
    let mut words = info.word(at.offset / 8 + 1).swap(0, Ordering::SeqCst);
    let mut events = Vec::new();
    while words != 0 {
        let word = words.trailing_zeros() as usize;
        words &= words - 1;
        let mut bits = shared.load(PENDING_WORD + word) & !shared.load(MASK_WORD + word);
        while bits != 0 {
            let bit = bits.trailing_zeros();
            bits &= bits - 1;
            shared
                .word(PENDING_WORD + word)
                .fetch_and(!(1 << bit), Ordering::SeqCst);
            events.push(word as u32 * 64 + bit);
        }
    }
    events
}

pub fn two_level_mask(host: &Host, shared: Mfn, port: u32) {
    host.frame(shared)
        .unwrap()
        .word(MASK_WORD + port as usize / 64)
        .fetch_or(1 << (port % 64), Ordering::SeqCst);
}

/// A guest with the FIFO ABI.
pub struct FifoGuest {
    pub control: Vec<Mfn>,
    pub array: Vec<Mfn>,
    heads: Vec<[u32; 16]>,
}

fn half(port: u32) -> (usize, u32) {
    ((port as usize % 1024) / 2, 32 * (port % 2))
}

impl FifoGuest {
    /// Sets up control blocks for all vCPUs and the pages of the array.
    pub fn new(host: &Host, channels: &EventChannels, control: &[Mfn], array: &[Mfn]) -> Self {
        for (vcpu, mfn) in control.iter().enumerate() {
            assert_eq!(
                channels.init_control(host, VcpuId(vcpu as u32), *mfn, 64),
                Ok(17)
            );
        }
        for mfn in array {
            host.frame(*mfn).unwrap().zero();
            channels.expand_array(host, *mfn).unwrap();
        }
        Self {
            control: control.to_vec(),
            array: array.to_vec(),
            heads: std::vec![[0; 16]; control.len()],
        }
    }

    /// The same guest seen by another thread, which handles other vCPUs.
    pub fn view(&self) -> Self {
        Self {
            control: self.control.clone(),
            array: self.array.clone(),
            heads: self.heads.clone(),
        }
    }

    pub fn word(&self, host: &Host, port: u32) -> u32 {
        let (word, shift) = half(port);
        (host
            .frame(self.array[port as usize / 1024])
            .unwrap()
            .word(word)
            .load(Ordering::SeqCst)
            >> shift) as u32
    }

    /// Atomically replaces an event word by what `change` makes of it.
    pub fn update(
        &self,
        host: &Host,
        port: u32,
        mut change: impl FnMut(u32) -> Option<u32>,
    ) -> u32 {
        let (word, shift) = half(port);
        let cell = host
            .frame(self.array[port as usize / 1024])
            .unwrap()
            .word(word);
        let mut old = cell.load(Ordering::SeqCst);
        loop {
            let now = (old >> shift) as u32;
            let Some(new) = change(now) else {
                return now;
            };
            let want = (old & !(0xffff_ffff << shift)) | (u64::from(new) << shift);
            match cell.compare_exchange(old, want, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return now,
                Err(changed) => old = changed,
            }
        }
    }

    pub fn mask(&self, host: &Host, port: u32) {
        self.update(host, port, |w| Some(w | MASKED));
    }

    /// Clears MASKED if no event is pending; else the hypercall is needed.
    pub fn try_unmask(&self, host: &Host, port: u32) -> bool {
        let mut done = false;
        self.update(host, port, |w| {
            done = true;
            if w & MASKED == 0 {
                None
            } else if w & PENDING != 0 {
                done = false;
                None
            } else if w & BUSY != 0 {
                // Wait for the hypervisor.
                core::hint::spin_loop();
                Some(w)
            } else {
                Some(w & !MASKED)
            }
        });
        // A `Some(w)` above writes the same word back and must be tried again.
        if done && self.word(host, port) & MASKED != 0 {
            return self.try_unmask(host, port);
        }
        done
    }

    pub fn clear_pending(&self, host: &Host, port: u32) {
        self.update(host, port, |w| Some(w & !PENDING));
    }

    /// What the guest does in its upcall on a vCPU: unlinks everything, and
    /// calls `handle` for what is pending and not masked.
    pub fn drain(&mut self, host: &Host, vcpu: u32, mut handle: impl FnMut(&Self, u32)) {
        let frame = host.frame(self.control[vcpu as usize]).unwrap();
        let take_ready = || {
            let word = frame.word(64 / 8);
            word.fetch_and(!0xffff_ffff, Ordering::SeqCst) as u32
        };
        let mut ready = take_ready();
        while ready != 0 {
            let queue = ready.trailing_zeros() as usize;
            let mut head = self.heads[vcpu as usize][queue];
            if head == 0 {
                head = frame.load_u32(64 + 8 + 4 * queue);
            }
            let port = head;
            assert_ne!(port, 0, "ready without a head");
            let old = self.update(host, port, |w| Some(w & !(LINKED | 0x1_ffff)));
            assert_ne!(old & LINKED, 0, "port {port} in a queue but not linked");
            head = old & 0x1_ffff;
            if head == 0 {
                ready &= !(1 << queue);
            }
            let now = self.word(host, port);
            if now & PENDING != 0 && now & MASKED == 0 {
                handle(self, port);
            }
            self.heads[vcpu as usize][queue] = head;
            ready |= take_ready();
        }
    }
}

/// A port as a shorthand.
pub fn p(port: u32) -> EventPort {
    EventPort(port)
}
