//! A terminal in raw mode, where what is typed comes as it is, at once; and signals.

use std::fmt;
use std::io::{self, IsTerminal, Stdin, Write};

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

/// What [`say`](crate::say) does.
pub fn say(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{what}");
}

/// What [`complain`](crate::complain) does.
pub fn complain(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{what}");
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
