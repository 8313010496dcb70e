//! `overcast console`: a guest's console at this terminal, or whatever stdin and stdout are.
//!
//! # The daemon's socket
//! A client sends a line, `console N` or `log N`; the daemon answers with a line, `ok` or
//! `error TEXT`. Then follow what the guest has printed of late and, for `console`, all that it
//! prints and is typed to it; without any more framing, until either side ends.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::Port;
use crate::control::Control;
use crate::daemon::SOCKET;
use crate::error::{Error, Result};
use crate::poll::wait_readable;
use crate::store::Store;
use crate::terminal::RawTerminal;
use crate::xen::evtchn::EventChannels;

/// What leaves a console: ^].
const ESCAPE: u8 = 0x1d;
/// How often it is looked whether the domain is still there.
const LOOK: Duration = Duration::from_millis(500);

/// A guest's console, by whatever way.
enum Line {
    /// The daemon's.
    Socket(UnixStream),
    /// Our own.
    Own {
        control: Control,
        events: EventChannels,
        port: Port,
        looked: Instant,
    },
}

impl Line {
    fn open(domain: u16) -> Result<Self> {
        if let Some(stream) = ask(domain, "console")? {
            return Ok(Self::Socket(stream));
        }
        let control = Control::open()?;
        let mut store = Store::open()?;
        let events = EventChannels::open()?;
        let port = Port::open(&control, &mut store, &events, domain)?;
        Ok(Self::Own {
            control,
            events,
            port,
            looked: Instant::now(),
        })
    }

    /// What can be read if there is something.
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(stream) => stream.as_fd(),
            Self::Own { events, .. } => events.as_fd(),
        }
    }

    /// Takes what the guest has printed; false if there will be no more.
    fn read(&mut self, ready: bool, to: &mut Vec<u8>) -> Result<bool> {
        match self {
            Self::Socket(_) if !ready => Ok(true),
            Self::Socket(stream) => {
                let mut buffer = [0; 4096];
                let count = match stream.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                    other => other?,
                };
                to.extend_from_slice(buffer.get(..count).unwrap_or_default());
                Ok(count > 0)
            }
            Self::Own {
                control,
                events,
                port,
                looked,
            } => {
                // One at a time: a guest can send them as fast as they are taken.
                if let Some(fired) = events.pending()? {
                    events.unmask(fired)?;
                }
                if port.ring().is_some_and(|ring| ring.take_output(to)) {
                    events.notify(port.port)?;
                }
                if looked.elapsed() < LOOK {
                    return Ok(true);
                }
                *looked = Instant::now();
                let info = control.domain_info(port.domain);
                Ok(info.is_ok_and(|info| info.flags & xen_abi::domctl::XEN_DOMINF_DYING == 0))
            }
        }
    }

    /// Types to the guest; gives how much was taken.
    fn write(&mut self, data: &[u8]) -> Result<usize> {
        match self {
            Self::Socket(stream) => Ok(stream.write(data)?),
            Self::Own { events, port, .. } => {
                let count = port.ring().map_or(0, |ring| ring.put_input(data));
                events.notify(port.port)?;
                Ok(count)
            }
        }
    }
}

/// Asks the daemon for a console; `None` without a daemon, or if it has not got this one.
fn ask(domain: u16, what: &str) -> Result<Option<UnixStream>> {
    let Ok(mut stream) = UnixStream::connect(SOCKET) else {
        return Ok(None);
    };
    writeln!(stream, "{what} {domain}")?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while answer.len() < 256 && stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        answer.push(byte[0]);
    }
    Ok((answer == b"ok").then_some(stream))
}

/// Prints what a guest has printed of late, as the daemon kept it.
pub fn print_log(domain: u16) -> Result<()> {
    let mut stream = ask(domain, "log")?.ok_or_else(|| {
        Error::Usage(
            "nobody keeps this console: `overcast daemon` does it while it runs".to_owned(),
        )
    })?;
    io::copy(&mut stream, &mut io::stdout().lock())?;
    Ok(())
}

/// Connects stdin and stdout with a guest's console, until ^], the end of the domain or, where
/// stdin is no terminal, `linger` after its end without anything printed.
pub fn attach(domain: u16, linger: Duration) -> Result<()> {
    let mut line = Line::open(domain)?;
    let stdin = io::stdin();
    let raw = RawTerminal::enter(&stdin)?;
    if raw.is_some() {
        eprint!("Connected; ^] leaves.\r\n");
    }
    let mut input: Vec<u8> = Vec::new();
    let mut ended: Option<Instant> = None;
    loop {
        let own = matches!(line, Line::Own { .. });
        let timeout = if own || ended.is_some() || !input.is_empty() {
            Some(Duration::from_millis(100))
        } else {
            None
        };
        let files = [line.fd(), stdin.as_fd()];
        let watched = if ended.is_some() || input.len() > 4096 {
            &files[..1]
        } else {
            &files[..]
        };
        let ready = wait_readable(watched, timeout)?;
        let mut output = Vec::new();
        let more = line.read(ready[0], &mut output)?;
        if !output.is_empty() {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&output)?;
            stdout.flush()?;
            ended = ended.map(|_| Instant::now());
        }
        if !more {
            break;
        }
        if ready.get(1) == Some(&true) {
            let mut buffer = [0; 1024];
            let count = (&stdin).read_unbuffered(&mut buffer)?;
            let typed = buffer.get(..count).unwrap_or_default();
            if count == 0 {
                ended = Some(Instant::now());
            }
            match typed.iter().position(|&byte| byte == ESCAPE) {
                Some(_) if raw.is_some() => break,
                _ => input.extend_from_slice(typed),
            }
        }
        if !input.is_empty() {
            let count = line.write(&input)?;
            input.drain(..count.min(input.len()));
        }
        if input.is_empty() && ended.is_some_and(|ended| ended.elapsed() >= linger) {
            break;
        }
    }
    drop(raw);
    Ok(())
}

/// Reading without the standard library's buffer, which a poll does not see.
trait ReadUnbuffered {
    fn read_unbuffered(self, buffer: &mut [u8]) -> io::Result<usize>;
}

impl ReadUnbuffered for &io::Stdin {
    fn read_unbuffered(self, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.as_fd().try_clone_to_owned()?;
        std::fs::File::from(file).read(buffer)
    }
}
