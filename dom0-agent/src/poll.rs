//! Waiting for files.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::Result;

/// What a file is waited for.
pub struct Wanted<'a> {
    /// The file.
    pub file: BorrowedFd<'a>,
    /// That it can be read.
    pub read: bool,
    /// That it can be written.
    pub write: bool,
}

impl<'a> Wanted<'a> {
    /// That it can be read.
    pub fn read(file: BorrowedFd<'a>) -> Self {
        Self {
            file,
            read: true,
            write: false,
        }
    }
}

/// What can be done with a file.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Ready {
    /// It was to be read, and can, or has an end or error to be found by reading.
    pub read: bool,
    /// It was to be written, and can.
    pub write: bool,
    /// It is at its end, or has an error; told even if nothing is wanted of it.
    pub ended: bool,
}

impl Ready {
    /// Whether there is anything to be done.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// Waits until something that is wanted of one of some files can be done; says what, of each.
/// Nothing may be if it takes too long, or at a signal.
pub fn wait(wanted: &[Wanted<'_>], timeout: Option<Duration>) -> Result<Vec<Ready>> {
    let mut polls: Vec<PollFd<'_>> = wanted
        .iter()
        .map(|one| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, one.read);
            flags.set(PollFlags::OUT, one.write);
            PollFd::from_borrowed_fd(one.file, flags)
        })
        .collect();
    // A timeout that is too long for the kernel is none.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(&mut polls, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(vec![Ready::default(); wanted.len()]),
        Err(error) => return Err(std::io::Error::from(error).into()),
    }
    let ready = polls.iter().zip(wanted).map(|(poll, one)| {
        let found = poll.revents();
        let ended = found.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
        Ready {
            read: one.read && (ended || found.contains(PollFlags::IN)),
            write: one.write && found.contains(PollFlags::OUT),
            ended,
        }
    });
    Ok(ready.collect())
}

/// Waits until one of some files can be read (or has an end or error to be found by reading);
/// says which. None can if it takes too long.
pub fn wait_readable(files: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Result<Vec<bool>> {
    let wanted: Vec<Wanted<'_>> = files.iter().map(|&file| Wanted::read(file)).collect();
    let ready = wait(&wanted, timeout)?;
    Ok(ready.into_iter().map(|one| one.read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn it_says_what_can_be_done() {
        let (mut one, two) = UnixStream::pair().expect("a pair");
        let at_once = Some(Duration::ZERO);
        let both = |file| Wanted {
            file,
            read: true,
            write: true,
        };
        let ready = wait(&[both(two.as_fd())], at_once).expect("a poll")[0];
        assert!(ready.write && !ready.read && !ready.ended);
        one.write_all(b"x").expect("room");
        let none = Wanted {
            read: false,
            ..both(two.as_fd())
        };
        let ready = wait(&[both(two.as_fd()), none], at_once).expect("a poll");
        assert!(ready[0].read && !ready[1].read);
        drop(one);
        let none = Wanted {
            file: two.as_fd(),
            read: false,
            write: false,
        };
        assert!(wait(&[none], at_once).expect("a poll")[0].ended);
    }
}
