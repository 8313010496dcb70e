//! Partitions of a disk with a GUID partition table (UEFI specification, section 5.3).
//!
//! The table is only read. Its first copy counts if it can be read and its checksums are right,
//! else the one at the end of the disk. What it says of partitions is checked against the disk.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use gpt_disk_types::{Crc32, GptHeader, GptPartitionEntry, Guid};

/// Entries that are looked at.
const MAX_ENTRIES: u32 = 512;
/// Bytes of an entry that are known; entries may be longer.
const ENTRY_BYTES: usize = size_of::<GptPartitionEntry>();
/// The longest entry that is taken.
const MAX_ENTRY_BYTES: u32 = 4096;

/// A partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// Its label.
    pub label: String,
    /// Its own GUID (`PARTUUID`).
    pub guid: Guid,
    /// First logical block.
    pub first_block: u64,
    /// Logical blocks.
    pub blocks: u64,
}

/// Why there are no partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GptError {
    /// The disk cannot be read.
    Read,
    /// There is no table.
    None,
    /// There is a table, and both copies of it are damaged.
    Damaged,
}

impl fmt::Display for GptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "the disk cannot be read",
            Self::None => "no GUID partition table",
            Self::Damaged => "the GUID partition table and its copy are damaged",
        })
    }
}

/// Reads blocks of a disk from one on, as many as the buffer has room for.
pub type ReadBlocks<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), GptError> + 'a;

/// The partitions of a disk of so many blocks, `block_size` bytes each.
pub fn partitions(
    read: &mut ReadBlocks<'_>,
    block_size: u32,
    blocks: u64,
) -> Result<Vec<Partition>, GptError> {
    if blocks < 3 || !(512..=65536).contains(&block_size) {
        return Err(GptError::None);
    }
    let first = copy(read, block_size, blocks, 1);
    let first = match first {
        Ok(partitions) => return Ok(partitions),
        Err(error) => error,
    };
    match (first, copy(read, block_size, blocks, blocks - 1)) {
        (_, Ok(partitions)) => Ok(partitions),
        (GptError::None, Err(error)) => Err(error),
        (GptError::Read, Err(_)) | (_, Err(GptError::Read)) => Err(GptError::Read),
        _ => Err(GptError::Damaged),
    }
}

/// The copy of the table whose header is in a block.
fn copy(
    read: &mut ReadBlocks<'_>,
    block_size: u32,
    blocks: u64,
    at: u64,
) -> Result<Vec<Partition>, GptError> {
    let mut buffer = alloc::vec![0; block_size as usize];
    read(at, &mut buffer)?;
    let bytes = buffer.get(..size_of::<GptHeader>()).ok_or(GptError::None)?;
    let header: GptHeader = bytemuck::pod_read_unaligned(bytes);
    if !header.is_signature_valid() {
        return Err(GptError::None);
    }
    let length = header.header_size.to_u32() as usize;
    let good = header_checksum(&buffer, length) == Some(header.header_crc32)
        && header.my_lba.to_u64() == at;
    let size = header.size_of_partition_entry.to_u32();
    let count = header.number_of_partition_entries.to_u32();
    let entries_fit = size as usize >= ENTRY_BYTES && size <= MAX_ENTRY_BYTES;
    if !good || !entries_fit || count > MAX_ENTRIES {
        return Err(GptError::Damaged);
    }
    let table_bytes = u64::from(count) * u64::from(size);
    let table_blocks = table_bytes.div_ceil(block_size.into());
    let table_at = header.partition_entry_lba.to_u64();
    let table_end = table_at.checked_add(table_blocks);
    if table_end.is_none_or(|end| end > blocks) {
        return Err(GptError::Damaged);
    }
    let mut table = Vec::new();
    let buffer_bytes = table_blocks.saturating_mul(block_size.into()) as usize;
    table
        .try_reserve_exact(buffer_bytes)
        .map_err(|_| GptError::Read)?;
    table.resize(buffer_bytes, 0);
    read(table_at, &mut table)?;
    table.truncate(table_bytes as usize);
    if crc32fast::hash(&table) != crc(header.partition_entry_array_crc32) {
        return Err(GptError::Damaged);
    }
    let mut partitions = Vec::new();
    for (number, entry) in (1..).zip(table.chunks_exact(size as usize)) {
        let Some(entry) = entry.get(..ENTRY_BYTES) else {
            continue;
        };
        let entry: GptPartitionEntry = bytemuck::pod_read_unaligned(entry);
        if !entry.is_used() {
            continue;
        }
        let (first, last) = (entry.starting_lba.to_u64(), entry.ending_lba.to_u64());
        if first > last || last >= blocks {
            log::warn!("Partition {number} is not on its disk: blocks {first} to {last}");
            continue;
        }
        let name = entry.name;
        partitions.push(Partition {
            number,
            label: name.chars().collect(),
            guid: entry.unique_partition_guid,
            first_block: first,
            blocks: last - first + 1,
        });
    }
    Ok(partitions)
}

fn crc(crc: Crc32) -> u32 {
    crc.0.to_u32()
}

/// The checksum of a header, for which its own place counts as 0.
fn header_checksum(block: &[u8], length: usize) -> Option<Crc32> {
    const PLACE: core::ops::Range<usize> = 16..20;
    if length < size_of::<GptHeader>() {
        return None;
    }
    let header = block.get(..length)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header.get(..PLACE.start)?);
    hasher.update(&[0; 4]);
    hasher.update(header.get(PLACE.end..)?);
    Some(Crc32(gpt_disk_types::U32Le::from_u32(hasher.finalize())))
}
