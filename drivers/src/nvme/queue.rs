//! A submission queue with its completion queue (NVMe 1.4, section 4).

use core::sync::atomic::{Ordering, fence};

use crate::platform::{Dma, Platform};
use crate::registers::Registers;

const SUBMISSION_BYTES: usize = 64;
const COMPLETION_BYTES: usize = 16;
/// The phase tag in a completion's last word.
const PHASE: u32 = 1 << 16;

/// A command (4.2), as 16 words.
#[derive(Clone, Copy, Debug)]
pub struct Command([u32; 16]);

impl Command {
    pub fn new(opcode: u8, id: u16, namespace: u32) -> Self {
        let mut words = [0; 16];
        words[0] = u32::from(id) << 16 | u32::from(opcode);
        words[1] = namespace;
        Self(words)
    }

    pub fn opcode(&self) -> u8 {
        self.0[0] as u8
    }

    /// Its two pointers to data (PRP entries 1 and 2).
    pub fn set_data(&mut self, first: u64, second: u64) {
        self.0[6] = first as u32;
        self.0[7] = (first >> 32) as u32;
        self.0[8] = second as u32;
        self.0[9] = (second >> 32) as u32;
    }

    /// Sets one of the words from 10 on, which each command has for itself.
    pub fn set(&mut self, word: usize, value: u32) {
        if let Some(place) = self.0.get_mut(word) {
            *place = value;
        }
    }

    /// Adds bits to one of them.
    pub fn or(&mut self, word: usize, bits: u32) {
        if let Some(place) = self.0.get_mut(word) {
            *place |= bits;
        }
    }
}

/// A completion (4.6).
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// The command's identifier, as the controller says.
    pub id: u16,
    /// Status without the phase: 0 is success.
    pub status: u16,
    /// What depends on the command.
    pub result: u32,
}

/// Both queues, of the same length. There must never be more commands at the controller
/// than `entries - 1`, counted until their completions are taken: then neither overflows.
pub struct Pair {
    registers: Registers,
    /// Of the submission queue; the other's is `stride` behind it.
    doorbell: u64,
    stride: u64,
    submissions: Dma,
    completions: Dma,
    entries: u16,
    tail: u16,
    /// The tail that the controller knows.
    told: u16,
    head: u16,
    /// The head that the controller knows.
    released: u16,
    /// The tag of new completions.
    phase: bool,
}

impl Pair {
    /// `None` if there is no memory.
    pub fn new(
        platform: &'static dyn Platform,
        registers: Registers,
        doorbell: u64,
        stride: u64,
        entries: u16,
    ) -> Option<Self> {
        Some(Self {
            registers,
            doorbell,
            stride,
            submissions: Dma::new(platform, usize::from(entries) * SUBMISSION_BYTES)?,
            completions: Dma::new(platform, usize::from(entries) * COMPLETION_BYTES)?,
            entries,
            tail: 0,
            told: 0,
            head: 0,
            released: 0,
            phase: true,
        })
    }

    pub fn entries(&self) -> u16 {
        self.entries
    }

    /// Where the submissions and the completions are.
    pub fn addresses(&self) -> [u64; 2] {
        [self.submissions.address(0), self.completions.address(0)]
    }

    fn next(&self, index: u16) -> u16 {
        if index + 1 == self.entries {
            0
        } else {
            index + 1
        }
    }

    /// Adds a command. The controller need not look before [`Self::tell`].
    pub fn push(&mut self, command: &Command) {
        let at = usize::from(self.tail) * SUBMISSION_BYTES;
        for (n, &word) in command.0.iter().enumerate() {
            self.submissions
                .store32(at + 4 * n, word, Ordering::Relaxed);
        }
        self.tail = self.next(self.tail);
    }

    /// Tells the controller of what was added.
    pub fn tell(&mut self) {
        if self.told != self.tail {
            self.told = self.tail;
            fence(Ordering::SeqCst);
            self.registers.write32(self.doorbell, self.tail.into());
        }
    }

    fn last_word(&self) -> u32 {
        let at = usize::from(self.head) * COMPLETION_BYTES;
        self.completions.load32(at + 12, Ordering::Acquire)
    }

    /// Whether there is a completion.
    pub fn has_more(&self) -> bool {
        (self.last_word() & PHASE != 0) == self.phase
    }

    /// Takes a completion, if there is one.
    pub fn take(&mut self) -> Option<Finished> {
        let word = self.last_word();
        if (word & PHASE != 0) != self.phase {
            return None;
        }
        let at = usize::from(self.head) * COMPLETION_BYTES;
        let result = self.completions.load32(at, Ordering::Relaxed);
        self.head = self.next(self.head);
        self.phase ^= self.head == 0;
        Some(Finished {
            id: word as u16,
            status: (word >> 17) as u16,
            result,
        })
    }

    /// Lets the controller use the entries of what was taken again.
    pub fn release(&mut self) {
        if self.released != self.head {
            self.released = self.head;
            fence(Ordering::SeqCst);
            self.registers
                .write32(self.doorbell + self.stride, self.head.into());
        }
    }
}
