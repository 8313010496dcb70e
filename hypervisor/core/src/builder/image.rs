//! Kernel images: bzImage (Linux's x86 boot protocol, 2.08 and later), compressed
//! and plain ELF files.
//!
//! A bzImage's payload ends with its uncompressed size in four bytes, little
//! endian, whatever the compression (gzip has that in its own format), so one
//! buffer of the right size can be had before anything is unpacked.

use super::BuildError;
use alloc::boxed::Box;

/// The largest uncompressed kernel that is accepted, in bytes.
pub const MAX_UNCOMPRESSED: usize = 512 << 20;

/// How a kernel's payload is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// xz.
    Xz,
    /// The older LZMA format.
    Lzma,
    /// Zstandard (RFC 8878).
    Zstd,
    /// LZ4 in the legacy frame format that Linux uses.
    Lz4,
    /// bzip2: recognised, not supported here.
    Bzip2,
    /// LZO: recognised, not supported here.
    Lzo,
}

impl Compression {
    /// The compression of a payload, by its first bytes.
    pub fn detect(payload: &[u8]) -> Option<Self> {
        match payload {
            [0x7f, b'E', b'L', b'F', ..] => Some(Self::None),
            [0x1f, 0x8b | 0x9e, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x5d, 0, 0, ..] => Some(Self::Lzma),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Self::Lz4),
            [b'B', b'Z', b'h', ..] => Some(Self::Bzip2),
            [0x89, b'L', b'Z', b'O', ..] => Some(Self::Lzo),
            _ => None,
        }
    }

    /// Its usual name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Bzip2 => "bzip2",
            Self::Lzo => "lzo",
        }
    }
}

/// A kernel's image, looked at but not unpacked.
#[derive(Clone, Copy, Debug)]
pub struct KernelImage<'a> {
    payload: &'a [u8],
    compression: Compression,
    size: usize,
}

// Offsets in a bzImage (Linux Documentation/arch/x86/boot.rst).
const SETUP_SECTS: usize = 0x1f1;
const HEADER: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const VERSION_2_08: u16 = 0x0208;
const SECTOR: usize = 512;

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let chunk = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*chunk))
}

impl<'a> KernelImage<'a> {
    /// What a kernel's file has within, and how it is compressed, also in ways that are not
    /// supported here.
    pub fn payload(file: &'a [u8]) -> Result<(&'a [u8], Compression), BuildError> {
        if file.len() < 64 {
            return Err(BuildError::Empty);
        }
        let payload = if file.get(HEADER..HEADER + 4) == Some(b"HdrS") {
            Self::bzimage_payload(file)?
        } else {
            file
        };
        let compression = Compression::detect(payload).ok_or(BuildError::UnknownFormat)?;
        Ok((payload, compression))
    }

    /// Looks at a kernel's file.
    pub fn parse(file: &'a [u8]) -> Result<Self, BuildError> {
        let (payload, compression) = Self::payload(file)?;
        let size = match compression {
            Compression::None => payload.len(),
            Compression::Bzip2 | Compression::Lzo => {
                return Err(BuildError::Compression(compression));
            }
            _ => payload
                .len()
                .checked_sub(4)
                .and_then(|at| u32_at(payload, at))
                .ok_or(BuildError::Empty)? as usize,
        };
        if size > MAX_UNCOMPRESSED {
            return Err(BuildError::UncompressedSize(size as u64));
        }
        Ok(Self {
            payload,
            compression,
            size,
        })
    }

    fn bzimage_payload(file: &'a [u8]) -> Result<&'a [u8], BuildError> {
        let truncated = |needed: usize| BuildError::Truncated {
            what: "the bzImage",
            needed: needed as u64,
            found: file.len() as u64,
        };
        let version = file
            .get(VERSION..)
            .and_then(|rest| rest.first_chunk::<2>())
            .map(|bytes| u16::from_le_bytes(*bytes))
            .ok_or(truncated(PAYLOAD_LENGTH + 4))?;
        if version < VERSION_2_08 {
            return Err(BuildError::OldBzImage { version });
        }
        let (Some(&sectors), Some(offset), Some(length)) = (
            file.get(SETUP_SECTS),
            u32_at(file, PAYLOAD_OFFSET),
            u32_at(file, PAYLOAD_LENGTH),
        ) else {
            return Err(truncated(PAYLOAD_LENGTH + 4));
        };
        // An old convention: 0 means 4.
        let sectors = if sectors == 0 {
            4
        } else {
            usize::from(sectors)
        };
        let start = (sectors + 1) * SECTOR + offset as usize;
        let end = start + length as usize;
        file.get(start..end).ok_or(truncated(end))
    }

    /// How the payload is compressed.
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    /// How large a buffer [`unpack`](Self::unpack) needs, in bytes; 0 if the
    /// payload is not compressed.
    pub const fn buffer_size(&self) -> usize {
        match self.compression {
            Compression::None => 0,
            _ => self.size,
        }
    }

    /// The ELF file within: where it lies if it is not compressed, else unpacked
    /// into the buffer.
    pub fn unpack<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], BuildError>
    where
        'a: 'b,
    {
        if self.compression == Compression::None {
            return Ok(self.payload);
        }
        let needed = self.size;
        let out = buffer
            .get_mut(..needed)
            .ok_or(BuildError::Buffer { needed })?;
        let damaged = BuildError::Damaged(self.compression);
        let written = match self.compression {
            Compression::Gzip => gunzip(self.payload, out),
            Compression::Xz => read_all(
                lzma_rust2::XzReader::new_mem_limit(self.payload, false, memory_limit(needed)),
                out,
            ),
            Compression::Lzma => {
                lzma_rust2::LzmaReader::new_mem_limit(self.payload, memory_limit(needed), None)
                    .ok()
                    .and_then(|reader| read_all(reader, out))
            }
            Compression::Zstd => unzstd(self.payload, out),
            Compression::Lz4 => unlz4(self.payload, out),
            Compression::None | Compression::Bzip2 | Compression::Lzo => None,
        };
        match written {
            Some(written) if written == needed => Ok(out),
            _ => Err(damaged),
        }
    }
}

/// What a decompressor may use for its dictionary, in KiB: dictionaries larger
/// than the output are usual, much larger ones are not.
fn memory_limit(output: usize) -> u32 {
    let kib = (output / 1024).saturating_mul(2).max(256 << 10);
    u32::try_from(kib).unwrap_or(u32::MAX)
}

/// Reads until the output is full or the input ends; gives the bytes read.
fn read_all(mut reader: impl lzma_rust2::Read, out: &mut [u8]) -> Option<usize> {
    let mut written = 0;
    while let Some(rest) = out.get_mut(written..)
        && !rest.is_empty()
    {
        match reader.read(rest) {
            Ok(0) => return Some(written),
            Ok(n) => written += n,
            Err(_) => return None,
        }
    }
    // The end of the stream, with its checksum, comes behind the last byte.
    match reader.read(&mut [0]) {
        Ok(0) => Some(written),
        _ => None,
    }
}

fn gunzip(payload: &[u8], out: &mut [u8]) -> Option<usize> {
    use miniz_oxide::inflate::{TINFLStatus, core};

    const FLAG_CRC: u8 = 1 << 1;
    const FLAG_EXTRA: u8 = 1 << 2;
    const FLAG_NAME: u8 = 1 << 3;
    const FLAG_COMMENT: u8 = 1 << 4;
    const METHOD_DEFLATE: u8 = 8;

    let (&[_, _, method, flags, ..], mut rest) = payload.split_first_chunk::<10>()?;
    if method != METHOD_DEFLATE {
        return None;
    }
    if flags & FLAG_EXTRA != 0 {
        let (length, after) = rest.split_first_chunk::<2>()?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for flag in [FLAG_NAME, FLAG_COMMENT] {
        if flags & flag != 0 {
            let end = rest.iter().position(|&byte| byte == 0)?;
            rest = rest.get(end + 1..)?;
        }
    }
    if flags & FLAG_CRC != 0 {
        rest = rest.get(2..)?;
    }

    let mut state = Box::<core::DecompressorOxide>::default();
    let flags = core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (status, read, written) = core::decompress(&mut state, rest, out, 0, flags);
    if status != TINFLStatus::Done {
        return None;
    }
    let expected = u32_at(rest, read)?;
    (crc32fast::hash(out.get(..written)?) == expected).then_some(written)
}

fn unzstd(payload: &[u8], out: &mut [u8]) -> Option<usize> {
    // Behind the frame comes the size, which is no frame.
    let frame = payload.get(..payload.len().checked_sub(4)?)?;
    let mut decoder = ruzstd::decoding::FrameDecoder::new();
    decoder.decode_all(frame, out).ok()
}

/// Linux's lz4 payload: the legacy frame's magic number, then blocks, each with
/// its compressed size, each of at most 8 MiB uncompressed.
fn unlz4(payload: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut rest = payload.get(4..payload.len().checked_sub(4)?)?;
    let mut written = 0;
    while !rest.is_empty() {
        let (size, after) = rest.split_first_chunk::<4>()?;
        let size = u32::from_le_bytes(*size) as usize;
        let block = after.get(..size)?;
        rest = after.get(size..)?;
        written += lz4_flex::block::decompress_into(block, out.get_mut(written..)?).ok()?;
    }
    Some(written)
}
