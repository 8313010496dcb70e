//! The 2-level ABI: a pending and a mask bit for each port in `shared_info`,
//! and in each `vcpu_info` a selector bit for each word of pending bits (xen.h).

use core::sync::atomic::Ordering;

use super::channel::Channel;
use super::{EventChannels, EventHost};
use crate::ids::EventPort;
use crate::machine::Frame;

/// Index of the first 64-bit word of `shared_info.evtchn_pending`; it follows
/// 32 `vcpu_info` of 64 bytes.
pub const PENDING_WORD: usize = 256;
/// Index of the first 64-bit word of `shared_info.evtchn_mask`.
pub const MASK_WORD: usize = 320;
const WORDS: u32 = 64;

/// Where the bits of a port are: the word among 64, and the bit.
fn position(port: EventPort) -> Option<(usize, u64)> {
    let word = port.0 / 64;
    (word < WORDS).then(|| (word as usize, 1 << (port.0 % 64)))
}

fn test(frame: &Frame, word: usize, bit: u64) -> bool {
    frame.word(word).load(Ordering::SeqCst) & bit != 0
}

impl EventChannels {
    pub(super) fn two_level_set_pending<H: EventHost>(
        &self,
        host: &H,
        port: EventPort,
        channel: &Channel,
    ) {
        let (Some(shared), Some((word, bit))) = (self.shared_frame(host), position(port)) else {
            return;
        };
        // The order of these is the protocol: pending, then the mask, then the
        // selector, then the upcall.
        if shared
            .word(PENDING_WORD + word)
            .fetch_or(bit, Ordering::SeqCst)
            & bit
            != 0
        {
            return;
        }
        if !test(shared, MASK_WORD + word, bit) {
            self.select(host, channel, word);
        }
        self.check_pollers(host, port);
    }

    /// Tells the port's vCPU that there is something in a word of pending bits.
    fn select<H: EventHost>(&self, host: &H, channel: &Channel, word: usize) {
        let vcpu = channel.vcpu.load(Ordering::Acquire);
        if let Some((info, at)) = self.vcpu_info(host, vcpu)
            && info.word(at + 1).fetch_or(1 << word, Ordering::SeqCst) & (1 << word) == 0
        {
            self.mark_events_pending(host, crate::ids::VcpuId(vcpu));
        }
    }

    pub(super) fn two_level_clear_pending<H: EventHost>(&self, host: &H, port: EventPort) {
        if let (Some(shared), Some((word, bit))) = (self.shared_frame(host), position(port)) {
            shared
                .word(PENDING_WORD + word)
                .fetch_and(!bit, Ordering::SeqCst);
        }
    }

    pub(super) fn two_level_unmask<H: EventHost>(
        &self,
        host: &H,
        port: EventPort,
        channel: &Channel,
    ) {
        let (Some(shared), Some((word, bit))) = (self.shared_frame(host), position(port)) else {
            return;
        };
        let was_masked = shared
            .word(MASK_WORD + word)
            .fetch_and(!bit, Ordering::SeqCst)
            & bit
            != 0;
        if was_masked && test(shared, PENDING_WORD + word, bit) {
            self.select(host, channel, word);
        }
    }

    pub(super) fn two_level_is_pending<H: EventHost>(&self, host: &H, port: EventPort) -> bool {
        match (self.shared_frame(host), position(port)) {
            (Some(shared), Some((word, bit))) => test(shared, PENDING_WORD + word, bit),
            _ => false,
        }
    }

    pub(super) fn two_level_is_masked<H: EventHost>(&self, host: &H, port: EventPort) -> bool {
        match (self.shared_frame(host), position(port)) {
            (Some(shared), Some((word, bit))) => test(shared, MASK_WORD + word, bit),
            _ => true,
        }
    }
}
