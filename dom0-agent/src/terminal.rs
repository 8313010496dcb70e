//! A terminal in raw mode, where what is typed comes as it is, at once; and signals.

use std::io::{self, IsTerminal, Stdin};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Stdin's terminal in raw mode, until this is dropped.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Sets stdin's terminal so; `None` if stdin is none.
    pub fn enter(stdin: &Stdin) -> io::Result<Option<Self>> {
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw)?;
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
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
