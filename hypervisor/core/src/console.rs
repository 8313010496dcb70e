//! The console's logic: the log ring, who gets the keys that are typed, lines
//! of guests, and limits on how often a message is printed.
//!
//! # Invariants
//!
//! - [`Ring`]: `produced - consumed <= size`, both counted in bytes since boot
//!   and wrapping; the ring always holds the newest bytes.
//! - [`InputSwitch`]: at most two switch characters are held back.

use alloc::vec::Vec;

/// The character that switches the input: CTRL-a.
pub const CTRL_A: u8 = 0x01;

/// A ring of the last bytes logged, over storage that the owner gives.
/// The size of the storage must be a power of two.
pub struct Ring<S> {
    storage: S,
    produced: u32,
    consumed: u32,
}

impl<S: AsRef<[u8]> + AsMut<[u8]>> Ring<S> {
    /// An empty ring. `storage` has a power of two of bytes, at most 2^31.
    pub const fn new(storage: S) -> Self {
        Self {
            storage,
            produced: 0,
            consumed: 0,
        }
    }

    fn size(&self) -> u32 {
        self.storage.as_ref().len() as u32
    }

    /// Adds bytes; the oldest give way.
    pub fn push(&mut self, bytes: &[u8]) {
        let size = self.size();
        if size == 0 {
            return;
        }
        for &byte in bytes {
            let at = (self.produced & (size - 1)) as usize;
            if let Some(slot) = self.storage.as_mut().get_mut(at) {
                *slot = byte;
            }
            self.produced = self.produced.wrapping_add(1);
        }
        if self.produced.wrapping_sub(self.consumed) > size {
            self.consumed = self.produced.wrapping_sub(size);
        }
    }

    /// Copies out bytes as `XEN_SYSCTL_readconsole` does (sysctl.h): from the
    /// oldest byte kept, or from `index` on if `incremental` and it is still, or
    /// already, there. Gives the number of bytes copied and the index of the next
    /// one. With `clear`, all before that index counts as consumed.
    pub fn read(
        &mut self,
        out: &mut [u8],
        index: u32,
        incremental: bool,
        clear: bool,
    ) -> (usize, u32) {
        let size = self.size();
        let mut at = self.consumed;
        if incremental && index.wrapping_sub(at) <= self.produced.wrapping_sub(at) {
            at = index;
        }
        let mut count = 0;
        while count < out.len() && at != self.produced && size != 0 {
            let byte = self
                .storage
                .as_ref()
                .get((at & (size - 1)) as usize)
                .copied()
                .unwrap_or(0);
            if let Some(slot) = out.get_mut(count) {
                *slot = byte;
            }
            count += 1;
            at = at.wrapping_add(1);
        }
        if clear {
            self.consumed = at;
        }
        (count, at)
    }
}

/// Who gets the characters typed on the serial line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InputOwner {
    /// The hypervisor: its debug keys.
    Hypervisor,
    /// The control domain.
    Dom0,
}

/// What becomes of the characters typed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// A character for the owner.
    Character(InputOwner, u8),
    /// The input now goes to this owner; the user should be told.
    Switched(InputOwner),
}

/// Routes typed characters; the switch character three times in a row changes
/// their owner and is eaten.
pub struct InputSwitch {
    owner: InputOwner,
    switch: u8,
    held: u8,
}

impl InputSwitch {
    /// Input to the hypervisor, switched by `switch` (0 = never).
    pub const fn new(switch: u8) -> Self {
        Self {
            owner: InputOwner::Hypervisor,
            switch,
            held: 0,
        }
    }

    /// Who has the input.
    pub const fn owner(&self) -> InputOwner {
        self.owner
    }

    /// Gives the input to `owner`.
    pub fn set_owner(&mut self, owner: InputOwner) {
        self.owner = owner;
        self.held = 0;
    }

    /// Changes the switch character (0 = never switch).
    pub fn set_switch(&mut self, switch: u8) {
        self.switch = switch;
        self.held = 0;
    }

    /// Takes one typed character and says what it led to, in order.
    pub fn feed(&mut self, character: u8, mut sink: impl FnMut(Input)) {
        if self.switch != 0 && character == self.switch {
            self.held += 1;
            if self.held == 3 {
                self.held = 0;
                self.owner = match self.owner {
                    InputOwner::Hypervisor => InputOwner::Dom0,
                    InputOwner::Dom0 => InputOwner::Hypervisor,
                };
                sink(Input::Switched(self.owner));
            }
            return;
        }
        for _ in 0..self.held {
            sink(Input::Character(self.owner, self.switch));
        }
        self.held = 0;
        sink(Input::Character(self.owner, character));
    }
}

/// Collects what an unprivileged guest prints into lines, without characters
/// that could fake other lines or control a terminal.
#[derive(Default)]
pub struct LineBuffer {
    line: Vec<u8>,
}

impl LineBuffer {
    /// The longest line that is kept together, in bytes (Xen's `DOMAIN_PBUF_SIZE` less the end).
    pub const MAX: usize = 199;

    /// An empty buffer.
    pub const fn new() -> Self {
        Self { line: Vec::new() }
    }

    /// Adds bytes; gives each finished line to `sink`, without its newline.
    pub fn push(&mut self, bytes: &[u8], mut sink: impl FnMut(&str)) {
        for &byte in bytes {
            let printable = byte == b'\t' || (0x20..0x7f).contains(&byte);
            if printable {
                self.line.push(byte);
            }
            if byte == b'\n' || self.line.len() >= Self::MAX {
                // Only ASCII was let in.
                sink(core::str::from_utf8(&self.line).unwrap_or(""));
                self.line.clear();
            }
        }
    }
}

/// Lets a burst of messages through in each period, and counts the others.
pub struct RateLimit {
    period_ns: u64,
    burst: u32,
    start_ns: u64,
    printed: u32,
    missed: u32,
}

/// Whether a message may be printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Permit {
    /// Yes; this many were suppressed before it.
    Print {
        /// Messages suppressed since the last one printed.
        missed: u32,
    },
    /// No.
    Suppress,
}

impl RateLimit {
    /// At most `burst` messages each `period_ns` nanoseconds.
    pub const fn new(period_ns: u64, burst: u32) -> Self {
        Self {
            period_ns,
            burst,
            start_ns: 0,
            printed: 0,
            missed: 0,
        }
    }

    /// Asks for one message at the time `now_ns`.
    pub fn permit(&mut self, now_ns: u64) -> Permit {
        if now_ns.saturating_sub(self.start_ns) >= self.period_ns {
            self.start_ns = now_ns;
            self.printed = 0;
        }
        if self.printed < self.burst {
            self.printed += 1;
            Permit::Print {
                missed: core::mem::take(&mut self.missed),
            }
        } else {
            self.missed = self.missed.saturating_add(1);
            Permit::Suppress
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    #[test]
    fn ring_keeps_the_newest() {
        let mut ring = Ring::new([0u8; 8]);
        ring.push(b"abcdefghij");
        let mut out = [0; 16];
        let (n, next) = ring.read(&mut out, 0, false, false);
        assert_eq!((&out[..n], next), (&b"cdefghij"[..], 10));
        ring.push(b"kl");
        let (n, next) = ring.read(&mut out, 10, true, true);
        assert_eq!((&out[..n], next), (&b"kl"[..], 12));
        assert_eq!(ring.read(&mut out, 0, false, false), (0, 12));
    }

    #[test]
    fn what_was_not_given_is_not_cleared() {
        let mut ring = Ring::new([0u8; 8]);
        ring.push(b"abcdef");
        let mut out = [0; 4];
        assert_eq!(ring.read(&mut out, 0, false, true), (4, 4));
        let (n, next) = ring.read(&mut out, 0, false, false);
        assert_eq!((&out[..n], next), (&b"ef"[..], 6));
    }

    #[test]
    fn an_index_that_is_gone_or_to_come_stands_for_the_oldest() {
        let mut ring = Ring::new([0u8; 4]);
        ring.push(b"abcdef");
        let mut out = [0; 8];
        assert_eq!(ring.read(&mut out, 1, true, false), (4, 6));
        assert_eq!(ring.read(&mut out, 7, true, false), (4, 6));
        assert_eq!(ring.read(&mut out, 6, true, false), (0, 6));
    }

    #[test]
    fn three_switch_characters_move_the_input() {
        let mut switch = InputSwitch::new(CTRL_A);
        let mut seen = vec![];
        for c in [b'h', 1, 1, b'x', 1, 1, 1, b'q'] {
            switch.feed(c, |input| seen.push(input));
        }
        use Input::*;
        use InputOwner::*;
        assert_eq!(
            seen,
            vec![
                Character(Hypervisor, b'h'),
                Character(Hypervisor, 1),
                Character(Hypervisor, 1),
                Character(Hypervisor, b'x'),
                Switched(Dom0),
                Character(Dom0, b'q'),
            ]
        );
    }

    #[test]
    fn guest_lines_are_cleaned() {
        let mut buffer = LineBuffer::new();
        let mut lines = vec![];
        buffer.push(b"one\x1b[2J two\n(XEN)", |l| lines.push(l.to_owned()));
        buffer.push(b"\r fake\n", |l| lines.push(l.to_owned()));
        assert_eq!(lines, ["one[2J two", "(XEN) fake"]);
        buffer.push(&[b'a'; 500], |l| lines.push(l.to_owned()));
        assert_eq!(lines[2].len(), LineBuffer::MAX);
    }

    #[test]
    fn rate_limit_counts_what_it_hides() {
        let mut limit = RateLimit::new(100, 2);
        assert_eq!(limit.permit(5), Permit::Print { missed: 0 });
        assert_eq!(limit.permit(6), Permit::Print { missed: 0 });
        assert_eq!(limit.permit(7), Permit::Suppress);
        assert_eq!(limit.permit(8), Permit::Suppress);
        assert_eq!(limit.permit(200), Permit::Print { missed: 2 });
    }

    use std::borrow::ToOwned;

    proptest! {
        /// Whatever is asked, the ring gives a piece of the end of what was logged.
        #[test]
        fn ring_gives_a_true_tail(
            pushes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
            index in any::<u32>(), incremental: bool, len in 0usize..80,
        ) {
            let mut ring = Ring::new([0u8; 32]);
            let mut all = vec![];
            for push in &pushes {
                ring.push(push);
                all.extend_from_slice(push);
            }
            let mut out = vec![0; len];
            let (n, next) = ring.read(&mut out, index, incremental, false);
            prop_assert!(n <= len);
            prop_assert!(next as usize <= all.len());
            if n > 0 {
                prop_assert_eq!(&out[..n], &all[next as usize - n..next as usize]);
            }
        }
    }
}
