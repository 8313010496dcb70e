//! What goes over the connections of a migration: frames.
//!
//! ```text
//!  frame    length of the payload u32 LE (at most 1 MiB + 64 KiB) | kind u8 | payload
//!  kind     1 message (JSON) | 2 stream | 3 stream, zstd | 4 stream, lz4 | 5 stream ends | 6 mark
//! ```
//!
//! On each connection both ends first say [`Hello`] with the versions that they speak; the highest
//! that is common is used. One connection has the messages, in both directions and at any time.
//! The stream has connections of its own ([`super::lanes`]), as many as the source wants and the
//! target takes. It is libxc's, cut into pieces of up to 1 MiB, each compressed by itself,
//! so that no piece can unpack to more than that. When the target comes to a mark, it has done
//! with all before it, and says so ([`FromTarget::Caught`]).

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::disks::{self, DiskOffer};
use crate::error::{Error, Result};

/// Versions that this program speaks.
pub const VERSIONS: &[u32] = &[1];
/// What a connection begins with.
pub const PROTOCOL: &str = "overcast-migrate";
/// The longest piece of a stream, unpacked.
pub const PIECE: usize = 1 << 20;
/// The longest payload.
const MOST: usize = PIECE + (64 << 10);
const MESSAGE: u8 = 1;
const STREAM: u8 = 2;
const STREAM_ZSTD: u8 = 3;
const STREAM_LZ4: u8 = 4;
const STREAM_END: u8 = 5;
const STREAM_MARK: u8 = 6;

/// How a stream is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not.
    #[default]
    None,
    /// Fast.
    Lz4,
    /// Small.
    Zstd,
}

/// The first message of each end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: String,
    /// Versions that it speaks.
    pub versions: Vec<u32>,
    /// What it is.
    pub software: String,
    /// What it can beside the least that a version asks for.
    #[serde(default)]
    pub features: Vec<String>,
    /// A target's: whose records it has ([`super::status::host`]).
    #[serde(default)]
    pub host: String,
}

impl Hello {
    /// Ours.
    pub fn ours() -> Self {
        Self {
            protocol: PROTOCOL.into(),
            versions: VERSIONS.to_vec(),
            software: concat!("overcast ", env!("CARGO_PKG_VERSION")).into(),
            features: vec![disks::FEATURE.into()],
            host: String::new(),
        }
    }

    /// The version to speak with the other end.
    ///
    /// # Errors
    /// `Peer` if it is something else, or there is none.
    pub fn version(&self) -> Result<u32> {
        if self.protocol != PROTOCOL {
            return Err(peer("it speaks another protocol"));
        }
        let common = self
            .versions
            .iter()
            .filter(|version| VERSIONS.contains(version));
        common.max().copied().ok_or_else(|| {
            peer(format!(
                "it ({}) speaks versions {:?}, and we {VERSIONS:?}",
                self.software, self.versions
            ))
        })
    }
}

/// What the source asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Offer {
    /// Number of this move, random: to ask for it later.
    pub id: String,
    /// The domain's configuration, as libxl writes it.
    pub config: String,
    /// Only look whether it could be.
    pub dry_run: bool,
    /// Memory of the guest at this moment, KiB.
    pub memory_kib: u64,
    /// CPUID leaves that the guest sees: leaf, subleaf, a, b, c, d.
    pub leaves: Vec<[u32; 6]>,
    /// MSRs that it sees: number, value.
    pub msrs: Vec<(u32, u64)>,
    /// Take it although the CPU lacks what it has seen.
    #[serde(default)]
    pub force_cpu: bool,
    /// Disks that come along.
    #[serde(default)]
    pub disks: Vec<DiskOffer>,
    /// Connections that it wants for the stream.
    #[serde(default = "one")]
    pub streams: u32,
}

fn one() -> u32 {
    1
}

/// Messages from the source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum FromSource {
    /// Take this domain?
    Offer(Box<Offer>),
    /// This connection is for the stream of a move that was accepted.
    Join {
        /// Number of the move.
        id: String,
        /// Which of its connections, from 0 on.
        lane: u32,
    },
    /// Run it.
    Commit,
    /// What became of that one?
    Ask {
        /// Number of the move.
        id: String,
    },
    /// What follows are the disks of a move that was accepted on another connection.
    Disks {
        /// Number of the move.
        id: String,
    },
    /// Forget it.
    Abort {
        /// Why.
        why: String,
    },
}

/// Messages from the target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum FromTarget {
    /// Send it.
    Accept {
        /// By so many connections.
        #[serde(default = "one")]
        streams: u32,
    },
    /// Not here.
    Refuse {
        /// Each reason.
        reasons: Vec<String>,
    },
    /// The connection is taken for the stream.
    Joined,
    /// It has come to a mark of the stream.
    Caught,
    /// All is there.
    Ready {
        /// How long it took to put the guest together once the stream had ended, ms.
        #[serde(default)]
        finish_ms: u64,
        /// How long it took to make it known, ms.
        #[serde(default)]
        devices_ms: u64,
    },
    /// It runs.
    Running {
        /// Its number.
        domain: u16,
    },
    /// It is not here, and will not be.
    Gone {
        /// Why.
        why: String,
    },
    /// There is no record of it.
    Unknown,
}

fn peer(why: impl Into<String>) -> Error {
    Error::Peer(why.into())
}

/// Writes a frame.
fn put(to: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut head = [0; 5];
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4] = kind;
    to.write_all(&head)?;
    to.write_all(payload)
}

/// Reads a frame; its kind.
fn get(from: &mut impl Read, payload: &mut Vec<u8>) -> io::Result<u8> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if length > MOST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes"),
        ));
    }
    payload.clear();
    from.take(length as u64).read_to_end(payload)?;
    match payload.len() == length {
        true => Ok(head[4]),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Sends a message.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> Result<()> {
    put(to, MESSAGE, &serde_json::to_vec(message)?)?;
    to.flush()?;
    Ok(())
}

/// Waits for a message.
///
/// # Errors
/// `Peer` if something else comes.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> Result<T> {
    let mut payload = Vec::new();
    match get(from, &mut payload)? {
        MESSAGE => serde_json::from_slice(&payload)
            .map_err(|error| peer(format!("a message that is not understood: {error}"))),
        kind => Err(peer(format!(
            "a frame of kind {kind} where a message should be"
        ))),
    }
}

/// What a stream is on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// A piece of it, of 1 byte to [`PIECE`].
    Piece(Vec<u8>),
    /// The other end is to say when it has come here.
    Mark,
    /// Its end.
    End,
}

/// Writes a frame of a stream; its bytes.
pub fn put_item(to: &mut impl Write, item: &Item, compression: Compression) -> io::Result<u64> {
    let packed;
    let (kind, payload) = match item {
        Item::Mark => (STREAM_MARK, &[][..]),
        Item::End => (STREAM_END, &[][..]),
        Item::Piece(piece) => {
            packed = match compression {
                Compression::None => None,
                Compression::Zstd => Some((STREAM_ZSTD, zstd::bulk::compress(piece, 1)?)),
                Compression::Lz4 => {
                    Some((STREAM_LZ4, lz4_flex::block::compress_prepend_size(piece)))
                }
            };
            match &packed {
                Some((kind, packed)) if packed.len() < piece.len() => (*kind, &packed[..]),
                _ => (STREAM, &piece[..]),
            }
        }
    };
    put(to, kind, payload)?;
    to.flush()?;
    Ok(payload.len() as u64 + 5)
}

/// Items as they come, up to the end or an error.
pub fn until_end(
    mut next: impl FnMut() -> io::Result<Item>,
) -> impl Iterator<Item = io::Result<Item>> {
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let item = next();
        ended = matches!(item, Err(_) | Ok(Item::End));
        Some(item)
    })
}

/// The items of a stream that come over one connection.
pub fn items(mut from: impl Read) -> impl Iterator<Item = io::Result<Item>> {
    let mut payload = Vec::new();
    until_end(move || get_item(&mut from, &mut payload))
}

fn get_item(from: &mut impl Read, payload: &mut Vec<u8>) -> io::Result<Item> {
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let piece = match get(from, payload)? {
        STREAM => std::mem::take(payload),
        STREAM_ZSTD => zstd::bulk::decompress(payload, PIECE)?,
        STREAM_LZ4 => {
            let size = payload
                .first_chunk()
                .map_or(0, |&size| u32::from_le_bytes(size));
            if size as usize > PIECE {
                return Err(bad("a piece of the stream that is too long"));
            }
            lz4_flex::block::decompress_size_prepended(payload)
                .map_err(|error| bad(&error.to_string()))?
        }
        STREAM_MARK => return Ok(Item::Mark),
        STREAM_END => return Ok(Item::End),
        MESSAGE => return Err(bad("a message within the stream")),
        _ => return Err(bad("a frame of unknown kind")),
    };
    match piece.len() {
        1..=PIECE => Ok(Item::Piece(piece)),
        _ => Err(bad("a piece of the stream that is too long, or empty")),
    }
}

/// The bytes of a stream, from its items.
pub struct StreamReader<I> {
    items: I,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<I: Iterator<Item = io::Result<Item>>> StreamReader<I> {
    /// Of these items.
    pub fn of(items: I) -> Self {
        Self {
            items,
            piece: Vec::new(),
            at: 0,
            ended: false,
        }
    }

    /// Reads up to the end of the stream, where nothing may be left.
    ///
    /// # Errors
    /// `Peer` if there is.
    pub fn finish(mut self) -> Result<()> {
        let mut rest = [0; 1];
        match self.read(&mut rest)? {
            0 => Ok(()),
            _ => Err(peer("bytes behind the end of the stream")),
        }
    }
}

impl<I: Iterator<Item = io::Result<Item>>> Read for StreamReader<I> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.ended || out.is_empty() {
                return Ok(0);
            }
            match self.items.next() {
                Some(Ok(Item::Piece(piece))) => (self.at, self.piece) = (0, piece),
                Some(Ok(Item::Mark)) => {}
                Some(Ok(Item::End)) => self.ended = true,
                Some(Err(error)) => return Err(error),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_are_negotiated() {
        assert_eq!(Hello::ours().version().expect("ours"), 1);
        let mut other = Hello::ours();
        other.versions = vec![2, 3];
        assert!(other.version().is_err());
        other.versions = vec![1, 2];
        assert_eq!(other.version().expect("one in common"), 1);
        other.protocol = "ssh".into();
        assert!(other.version().is_err());
    }

    #[test]
    fn frames_are_bounded() {
        let mut bytes = vec![0xff, 0xff, 0xff, 0x7f, MESSAGE];
        bytes.extend([0; 100]);
        assert!(receive::<FromTarget>(&mut &bytes[..]).is_err());
        // A piece that says that it unpacks to 4 GiB.
        let mut bytes = Vec::new();
        put(&mut bytes, STREAM_LZ4, &[0xff, 0xff, 0xff, 0xff, 1, 2]).expect("a frame");
        let mut reader = StreamReader::of(items(&bytes[..]));
        assert!(reader.read(&mut [0; 4]).is_err());
    }

    #[test]
    fn older_ends_have_one_connection() {
        let accept: FromTarget = serde_json::from_str(r#"{"message": "accept"}"#).expect("known");
        assert_eq!(accept, FromTarget::Accept { streams: 1 });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            let _ = StreamReader::of(items(&noise[..])).take(8 << 20).read_to_end(&mut out);
            let _ = receive::<FromSource>(&mut &noise[..]);
        }
    }
}
