//! What goes over the connection of a migration: frames.
//!
//! ```text
//!  frame    length of the payload u32 LE (at most 1 MiB + 64 KiB) | kind u8 | payload
//!  kind     1 message (JSON) | 2 stream | 3 stream, zstd | 4 stream, lz4 | 5 stream ends
//! ```
//!
//! First both ends say [`Hello`] with the versions that they speak; the highest that is common
//! is used. The stream is libxc's, cut into pieces of up to 1 MiB, each compressed by itself,
//! so that no piece can unpack to more than that.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

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
    /// Whose records it has ([`super::status::host`]); empty if it keeps none.
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
            host: super::status::host().unwrap_or_default(),
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
    /// CPU features that its programs may have seen beside ([`crate::cpu::seen`]), by their names.
    #[serde(default)]
    pub visible: Vec<String>,
    /// Take it although the CPU lacks what it has seen.
    #[serde(default)]
    pub force_cpu: bool,
}

/// Messages from the source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum FromSource {
    /// Take this domain?
    Offer(Box<Offer>),
    /// Run it.
    Commit,
    /// What became of that one?
    Ask {
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
    Accept,
    /// Not here.
    Refuse {
        /// Each reason.
        reasons: Vec<String>,
    },
    /// All is there.
    Ready,
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

/// Packs a stream into frames.
pub struct StreamWriter<W> {
    to: W,
    piece: Vec<u8>,
    compression: Compression,
    packed: u64,
}

impl<W: Write> StreamWriter<W> {
    /// Into `to`.
    pub fn new(to: W, compression: Compression) -> Self {
        Self {
            to,
            piece: Vec::with_capacity(PIECE),
            compression,
            packed: 0,
        }
    }

    /// Bytes that went out.
    pub fn packed(&self) -> u64 {
        self.packed
    }

    /// Where it goes.
    pub fn inner(&mut self) -> &mut W {
        &mut self.to
    }

    fn piece(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let packed = match self.compression {
            Compression::None => None,
            Compression::Zstd => Some((STREAM_ZSTD, zstd::bulk::compress(&self.piece, 1)?)),
            Compression::Lz4 => Some((
                STREAM_LZ4,
                lz4_flex::block::compress_prepend_size(&self.piece),
            )),
        };
        let (kind, payload) = match &packed {
            Some((kind, packed)) if packed.len() < self.piece.len() => (*kind, packed),
            _ => (STREAM, &self.piece),
        };
        put(&mut self.to, kind, payload)?;
        self.packed = self.packed.saturating_add(payload.len() as u64 + 5);
        self.piece.clear();
        Ok(())
    }

    /// Ends the stream.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        self.piece()?;
        put(&mut self.to, STREAM_END, &[])?;
        self.to.flush()?;
        Ok((self.to, self.packed))
    }
}

impl<W: Write> Write for StreamWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE - self.piece.len();
        let taken = bytes.len().min(room);
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.piece()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.piece()?;
        self.to.flush()
    }
}

/// Unpacks a stream from frames.
pub struct StreamReader<R> {
    from: R,
    payload: Vec<u8>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<R: Read> StreamReader<R> {
    /// From `from`.
    pub fn new(from: R) -> Self {
        Self {
            from,
            payload: Vec::new(),
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

    fn next(&mut self) -> io::Result<()> {
        let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let kind = get(&mut self.from, &mut self.payload)?;
        (self.at, self.piece) = (0, Vec::new());
        self.piece = match kind {
            STREAM => std::mem::take(&mut self.payload),
            STREAM_ZSTD => zstd::bulk::decompress(&self.payload, PIECE)?,
            STREAM_LZ4 => {
                let size = self
                    .payload
                    .first_chunk()
                    .map_or(0, |&size| u32::from_le_bytes(size));
                if size as usize > PIECE {
                    return Err(bad("a piece of the stream that is too long"));
                }
                lz4_flex::block::decompress_size_prepended(&self.payload)
                    .map_err(|error| bad(&error.to_string()))?
            }
            STREAM_END => {
                self.ended = true;
                return Ok(());
            }
            MESSAGE => {
                let why = match serde_json::from_slice(&self.payload) {
                    Ok(FromSource::Abort { why }) => format!("the source gave up: {why}"),
                    _ => "a message within the stream".into(),
                };
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
            }
            _ => return Err(bad("a frame of unknown kind")),
        };
        if self.piece.len() > PIECE {
            return Err(bad("a piece of the stream that is too long"));
        }
        Ok(())
    }
}

impl<R: Read> Read for StreamReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.ended || out.is_empty() {
                return Ok(0);
            }
            self.next()?;
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
        assert!(StreamReader::new(&bytes[..]).read(&mut [0; 4]).is_err());
    }

    #[test]
    fn an_abort_ends_the_stream_with_its_reason() {
        let mut bytes = Vec::new();
        let why = "cancelled".to_owned();
        send(&mut bytes, &FromSource::Abort { why }).expect("a message");
        let error = StreamReader::new(&bytes[..])
            .read(&mut [0; 4])
            .expect_err("aborted");
        assert!(error.to_string().contains("cancelled"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn streams_come_through(seed: u8, length in 0usize..3 << 20, step in 1usize..200_000) {
            for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
                let data: Vec<u8> = (0..length).map(|at| (at / 7) as u8 ^ seed).collect();
                let mut writer = StreamWriter::new(Vec::new(), compression);
                for piece in data.chunks(step) {
                    writer.write_all(piece).expect("into memory");
                }
                let (mut wire, _) = writer.finish().expect("into memory");
                send(&mut wire, &FromSource::Commit).expect("into memory");
                let mut from = &wire[..];
                let mut reader = StreamReader::new(&mut from);
                let mut back = vec![0; length];
                reader.read_exact(&mut back).expect("all");
                prop_assert!(back == data);
                reader.finish().expect("the end");
                prop_assert_eq!(receive::<FromSource>(&mut from).expect("a message"), FromSource::Commit);
            }
        }

        #[test]
        fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            let _ = StreamReader::new(&noise[..]).take(8 << 20).read_to_end(&mut out);
            let _ = receive::<FromSource>(&mut &noise[..]);
        }
    }
}
