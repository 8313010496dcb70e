//! The target, as the source sees it: connections to it, and what its words mean.

use std::time::Duration;

use super::handover::ToSource;
use super::status::Status;
use super::tls::{Channel, Keys};
use super::wire::{self, FromSource, FromTarget, Hello};
use crate::error::{Error, Result};

/// How long the other end may be silent.
pub const SILENCE: Duration = Duration::from_secs(60);
/// How long a target that cut the stream may take to say why.
const WHY: Duration = Duration::from_secs(2);

/// What the other end did that it should not.
pub fn peer(why: impl Into<String>) -> Error {
    Error::Peer(why.into())
}

/// Connects, and agrees on a version; what the other end is.
pub fn connect(host: &str, plain: bool) -> Result<(Channel, Hello)> {
    let keys = Keys::new(super::tls::DIRECTORY.as_ref());
    let mut channel = Channel::connect(host, (!plain).then_some(&keys))?;
    channel.set_patience(Some(SILENCE))?;
    wire::send(&mut channel, &Hello::ours())?;
    let hello: Hello = wire::receive(&mut channel)?;
    hello.version()?;
    Ok((channel, hello))
}

/// What a target's message says of a guest that was handed over, if anything. `its`: the target
/// has the records of the one to which it was.
pub fn heard(answer: &FromTarget, its: bool) -> Option<ToSource> {
    match answer {
        FromTarget::Running { .. } => Some(ToSource::Running),
        FromTarget::Gone { .. } => Some(ToSource::Gone),
        // It accepted it once, so it gave it up since. A stranger can say so of any move.
        FromTarget::Unknown if its => Some(ToSource::Gone),
        _ => None,
    }
}

/// Why a target cut the stream, if it says it; else it is told that nothing more comes.
pub fn given_up(error: Error, channel: &mut Channel) -> Error {
    let cut = matches!(&error, Error::Io(_));
    if cut {
        channel.set_deadline(WHY);
        loop {
            match wire::receive(channel) {
                Ok(FromTarget::Caught) => {}
                Ok(FromTarget::Gone { why }) => {
                    return peer(format!("the target gave up: {why}"));
                }
                _ => break,
            }
        }
        let _ = channel.set_patience(Some(WHY));
    }
    let why = error.to_string();
    let _ = wire::send(channel, &FromSource::Abort { why: why.clone() });
    match error {
        Error::Io(_) => peer(format!("the connection to it: {why}")),
        error => error,
    }
}

/// Asks a target what became of a guest; `None` if it does not know.
pub fn ask(status: &Status) -> Result<Option<ToSource>> {
    let (mut channel, hello) = connect(&status.host, status.plain)?;
    let host = hello.host;
    let id = status.id.clone();
    wire::send(&mut channel, &FromSource::Ask { id })?;
    let answer = wire::receive(&mut channel)?;
    Ok(heard(&answer, !host.is_empty() && host == status.target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_ignorance_decides_nothing() {
        assert_eq!(heard(&FromTarget::Unknown, false), None);
        assert_eq!(heard(&FromTarget::Unknown, true), Some(ToSource::Gone));
        for its in [false, true] {
            let running = FromTarget::Running { domain: 3 };
            assert_eq!(heard(&running, its), Some(ToSource::Running));
            assert_eq!(heard(&FromTarget::Caught, its), None);
        }
    }
}
