//! A console as a terminal of Dom0's, for Xen's `xl console` and whatever else works on a
//! terminal: `console/tty` in the store names it.
//!
//! Nobody says whether somebody reads it; what is not read is kept up to a bound, and of what
//! is more the oldest is lost.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// What is kept for a terminal that nobody reads, bytes, beside what the kernel keeps.
const KEPT: usize = 64 << 10;

/// Our end of a terminal.
pub struct Pty {
    master: File,
    /// The other end stays open: without it, ours reads errors between two users.
    _terminal: OwnedFd,
    name: String,
    waiting: VecDeque<u8>,
}

impl Pty {
    /// A new terminal, in raw mode.
    pub fn open() -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let terminal = ioctl_tiocgptpeer(&master, flags)?;
        // Else what is written to it would come back as if it were typed.
        let mut attributes = tcgetattr(&terminal)?;
        attributes.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &attributes)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Self {
            master: master.into(),
            _terminal: terminal,
            name: name.to_string_lossy().into_owned(),
            waiting: VecDeque::new(),
        })
    }

    /// Its path, like `/dev/pts/3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether something waits for it to be writable.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Prints.
    pub fn print(&mut self, data: &[u8]) {
        self.waiting.extend(data);
        self.flush();
        let beyond = self.waiting.len().saturating_sub(KEPT);
        self.waiting.drain(..beyond);
    }

    /// Prints what waits, as far as it goes.
    pub fn flush(&mut self) {
        while !self.waiting.is_empty() {
            let (first, _) = self.waiting.as_slices();
            match self.master.write(first) {
                Ok(count) if count > 0 => drop(self.waiting.drain(..count)),
                _ => return,
            }
        }
    }

    /// Takes what was typed, at most so many bytes.
    pub fn typed(&mut self, most: usize) -> Vec<u8> {
        let mut buffer = [0; 1024];
        let most = most.min(buffer.len());
        let count = match buffer.get_mut(..most) {
            Some(room) => self.master.read(room).unwrap_or(0),
            None => 0,
        };
        buffer.get(..count).unwrap_or_default().to_vec()
    }
}

impl AsFd for Pty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    #[test]
    fn what_is_printed_is_read_and_what_is_typed_comes_once() {
        let mut pty = Pty::open().expect("a terminal");
        pty.print(b"login: \r\n");
        let user = OpenOptions::new().read(true).write(true).open(pty.name());
        let mut user = user.expect("the other end");
        let mut read = [0; 9];
        user.read_exact(&mut read).expect("what was printed");
        assert_eq!(&read, b"login: \r\n");
        user.write_all(b"root\n").expect("typed");
        // Nothing of it is echoed, translated, or held back until a line is whole.
        assert_eq!(pty.typed(3), b"roo");
        assert_eq!(pty.typed(100), b"t\n");
        drop(user);
        assert_eq!(pty.typed(100), b"");
    }

    #[test]
    fn what_nobody_reads_is_bounded() {
        let mut pty = Pty::open().expect("a terminal");
        for _ in 0..1000 {
            pty.print(&[b'x'; 4096]);
        }
        assert!(pty.waits());
        assert_eq!(pty.waiting.len(), KEPT);
    }
}
