//! A terminal in raw mode, where what is typed comes as it is, at once; and signals.

use std::io::{self, IsTerminal, Stdin};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

/// Stdin's terminal in raw mode, until this is dropped.
pub struct RawTerminal {
    before: libc::termios,
}

impl RawTerminal {
    /// Sets stdin's terminal so; `None` if stdin is none.
    pub fn enter(stdin: &Stdin) -> io::Result<Option<Self>> {
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let mut before = MaybeUninit::uninit();
        // SAFETY: fills the structure, or fails.
        if unsafe { libc::tcgetattr(stdin.as_raw_fd(), before.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was filled.
        let before = unsafe { before.assume_init() };
        let mut raw = before;
        // SAFETY: changes the structure only.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        // SAFETY: a structure that the kernel gave, changed in its flags.
        if unsafe { libc::tcsetattr(stdin.as_raw_fd(), libc::TCSANOW, &raw const raw) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Some(Self { before }))
    }
}

/// Has writes to those who are gone fail, and not end the process.
pub fn ignore_broken_pipes() {
    // SAFETY: sets a signal's action.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // SAFETY: what the kernel gave before.
        unsafe {
            libc::tcsetattr(
                io::stdin().as_raw_fd(),
                libc::TCSANOW,
                &raw const self.before,
            )
        };
    }
}
