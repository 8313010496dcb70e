//! What of disks goes over a connection: records, in pieces and packed as a stream of memory is
//! ([`crate::migrate::wire`]).
//!
//! ```text
//!  record   kind u16 LE | disk u16 LE | length u32 LE | offset u64 LE | data
//!  kind     0 nothing (a sign of life) | 1 data | 2 zeros (without data)
//!  disk     index in the offer; length and offset in bytes
//! ```

use std::io::{self, Read, Write};

use super::CHUNK;
use crate::error::{Error, Result};
use crate::migrate::wire::{Compression, Item, PIECE, put_item};

const HEADER: usize = 16;
const NOTHING: u16 = 0;
const DATA: u16 = 1;
const ZEROS: u16 = 2;

/// What a disk takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Bytes.
    pub size: u64,
    /// Bytes of a block: what is written begins and ends at its multiples.
    pub block: u32,
}

/// A record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record {
    /// The disk's contents, which are in the buffer.
    Data {
        /// Which disk.
        disk: usize,
        /// From which byte on.
        offset: u64,
        /// How many.
        length: usize,
    },
    /// The disk's contents are zeros.
    Zeros {
        /// Which disk.
        disk: usize,
        /// From which byte on.
        offset: u64,
        /// How many.
        length: usize,
    },
}

/// Packs records into frames.
pub struct Packer<W> {
    to: W,
    piece: Vec<u8>,
    compression: Compression,
    packed: u64,
}

impl<W: Write> Packer<W> {
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

    fn item(&mut self, item: &Item) -> io::Result<()> {
        let bytes = put_item(&mut self.to, item, self.compression)?;
        self.packed = self.packed.saturating_add(bytes);
        Ok(())
    }

    /// Ends the stream.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        self.flush()?;
        self.item(&Item::End)?;
        Ok((self.to, self.packed))
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE.saturating_sub(self.piece.len());
        let (taken, _) = bytes.split_at(bytes.len().min(room));
        self.piece.extend_from_slice(taken);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.item(&Item::Piece(piece))
    }
}

fn put(to: &mut impl Write, kind: u16, disk: usize, offset: u64, length: usize) -> Result<()> {
    let disk = u16::try_from(disk).map_err(|_| Error::Usage("too many disks".into()))?;
    let length = u32::try_from(length).map_err(|_| Error::Usage("a record too long".into()))?;
    let mut header = [0; HEADER];
    header[..2].copy_from_slice(&kind.to_le_bytes());
    header[2..4].copy_from_slice(&disk.to_le_bytes());
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..].copy_from_slice(&offset.to_le_bytes());
    to.write_all(&header)?;
    Ok(())
}

/// Writes contents.
pub fn put_data(to: &mut impl Write, disk: usize, offset: u64, data: &[u8]) -> Result<()> {
    put(to, DATA, disk, offset, data.len())?;
    to.write_all(data)?;
    Ok(())
}

/// Writes that there are zeros.
pub fn put_zeros(to: &mut impl Write, disk: usize, offset: u64, length: usize) -> Result<()> {
    put(to, ZEROS, disk, offset, length)
}

/// Writes a sign of life.
pub fn put_nothing(to: &mut impl Write) -> Result<()> {
    put(to, NOTHING, 0, 0, 0)
}

/// Reads the next record, its contents into the buffer, which is as long as a record may be;
/// `None` at the end.
///
/// # Errors
/// `Peer` with what is wrong with it.
pub fn get(from: &mut impl Read, shapes: &[Shape], buffer: &mut [u8]) -> Result<Option<Record>> {
    loop {
        let mut header = [0; HEADER];
        // The end is before a record, not within one.
        if from.read(&mut header[..1])? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut header[1..])?;
        let [k0, k1, d0, d1, l0, l1, l2, l3, ..] = header;
        let kind = u16::from_le_bytes([k0, k1]);
        let disk = usize::from(u16::from_le_bytes([d0, d1]));
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let mut offset = [0; 8];
        offset.copy_from_slice(&header[8..]);
        let offset = u64::from_le_bytes(offset);
        if kind == NOTHING {
            continue;
        }
        let wrong = |why: &str| {
            Error::Peer(format!(
                "a record of kind {kind} for disk {disk}, {length} bytes from {offset} on: {why}"
            ))
        };
        let shape = shapes.get(disk).ok_or_else(|| wrong("no such disk"))?;
        let block = u64::from(shape.block.max(1));
        let end = offset.checked_add(length.into());
        if end.is_none_or(|end| end > shape.size) {
            return Err(wrong("beyond its end"));
        }
        if (offset | u64::from(length)) % block != 0 || length == 0 {
            return Err(wrong("no whole blocks"));
        }
        let length = length as usize;
        let room = buffer.get_mut(..length).filter(|_| length <= CHUNK);
        let room = room.ok_or_else(|| wrong("too long"))?;
        return Ok(Some(match kind {
            DATA => {
                from.read_exact(room)?;
                Record::Data {
                    disk,
                    offset,
                    length,
                }
            }
            ZEROS => Record::Zeros {
                disk,
                offset,
                length,
            },
            _ => return Err(wrong("of unknown kind")),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHAPES: [Shape; 2] = [
        Shape {
            size: 1 << 20,
            block: 512,
        },
        Shape {
            size: 3 << 20,
            block: 4096,
        },
    ];

    #[test]
    fn records_come_back() {
        let mut wire = Vec::new();
        let data: Vec<u8> = (0..8192u32).map(|n| n as u8).collect();
        put_data(&mut wire, 1, 4096, &data).expect("into memory");
        put_nothing(&mut wire).expect("into memory");
        put_zeros(&mut wire, 0, 512, 1024).expect("into memory");
        let (mut from, mut buffer) = (&wire[..], vec![0; CHUNK]);
        let first = get(&mut from, &SHAPES, &mut buffer).expect("a record");
        let length = data.len();
        assert_eq!(
            first,
            Some(Record::Data {
                disk: 1,
                offset: 4096,
                length
            })
        );
        assert_eq!(buffer[..length], data);
        assert_eq!(
            get(&mut from, &SHAPES, &mut buffer).expect("a record"),
            Some(Record::Zeros {
                disk: 0,
                offset: 512,
                length: 1024
            })
        );
        assert_eq!(get(&mut from, &SHAPES, &mut buffer).expect("the end"), None);
        // The end within a record is none.
        for cut in 1..wire.len() - 1 {
            let mut from = &wire[..cut];
            let mut all = || -> Result<()> {
                while get(&mut from, &SHAPES, &mut buffer)?.is_some() {}
                Ok(())
            };
            let whole = [HEADER + length, 2 * HEADER + length].contains(&cut);
            assert_eq!(all().is_ok(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn wrong_ones_are_named() {
        for (kind, disk, offset, length, why) in [
            (DATA, 2, 0, 512, "no such disk"),
            (DATA, 0, 1 << 20, 512, "beyond its end"),
            (ZEROS, 0, u64::MAX - 511, 512, "beyond its end"),
            (ZEROS, 0, 256, 512, "no whole blocks"),
            (DATA, 1, 4096, 512, "no whole blocks"),
            (DATA, 0, 0, 0, "no whole blocks"),
            (DATA, 1, 0, 2 << 20, "too long"),
            (7, 0, 0, 512, "unknown kind"),
        ] {
            let mut wire = Vec::new();
            put(&mut wire, kind, disk, offset, length).expect("into memory");
            let error =
                get(&mut &wire[..], &SHAPES, &mut vec![0; CHUNK]).expect_err("a wrong record");
            assert!(error.to_string().contains(why), "{why}: {error}");
        }
    }

    proptest! {
        #[test]
        fn noise_stays_within_the_disks(noise in prop::collection::vec(any::<u8>(), 0..200), kind in 0..3u8) {
            let mut noise = noise;
            if noise.len() > 1 {
                noise[0] = kind;
                noise[1] = 0;
            }
            let (mut from, mut buffer) = (&noise[..], vec![0; 4096]);
            while let Ok(Some(record)) = get(&mut from, &SHAPES, &mut buffer) {
                let (Record::Data { disk, offset, length } | Record::Zeros { disk, offset, length }) = record;
                prop_assert!(offset + length as u64 <= SHAPES[disk].size && length <= buffer.len());
            }
        }
    }
}
