//! Virtual disks: whole disks of the first layer, partitions or ranges of them, given to domains.
//!
//! A virtual disk has a name and says where its sectors are ([`VirtualDisk`]); it comes from an
//! option, or is a whole disk by its own name. Before the machine is known it is only a [`Spec`]. Who uses
//! one makes a claim ([`claims::Claims`]), so that no two domains write the same sectors unless both were told to share.

pub mod claims;
pub mod gpt;
#[cfg(test)]
mod tests;

use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;

use crate::cmdline::parse_size;
use gpt::{GptError, Partition};
pub use gpt_disk_types::Guid;

/// The most characters of a disk's name.
pub const MAX_NAME: usize = 32;
/// `XENVBD_MAJOR` of Linux: `xvda` and its kin.
const XVD_MAJOR: u32 = 202;
/// Marks a virtual device number with 20 bits for the disk.
const EXTENDED: u32 = 1 << 28;

/// Which part of a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// All of it.
    Whole,
    /// The GPT partition of this number.
    Number(u32),
    /// The GPT partition with this label.
    Label(String),
    /// The GPT partition with this GUID.
    Guid(Guid),
    /// A range in bytes; without a size to the end.
    Range {
        /// First byte.
        start: u64,
        /// Bytes.
        size: Option<u64>,
    },
}

/// A virtual disk as options describe it: `<disk>[,part=<n>|label=<text>|partuuid=<guid>|start=<size>[,size=<size>]][,ro][,shared]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// The first layer's disk (`vda`), or another virtual disk.
    pub disk: String,
    /// Which part of it.
    pub part: Part,
    /// Writes are refused.
    pub read_only: bool,
    /// Other domains may use it too, though it is written.
    pub shared: bool,
}

impl Spec {
    /// A whole disk.
    pub fn whole(disk: &str) -> Self {
        Self {
            disk: disk.to_string(),
            part: Part::Whole,
            read_only: false,
            shared: false,
        }
    }

    /// From an option's value. Sizes are as in other options.
    pub fn parse(text: &str) -> Option<Self> {
        let mut items = text.split(',');
        let disk = items.next().filter(|name| is_name(name))?;
        let mut spec = Self::whole(disk);
        let mut length = None;
        for item in items {
            let whole = spec.part == Part::Whole;
            match item.split_once('=') {
                None if item == "ro" => spec.read_only = true,
                None if item == "shared" => spec.shared = true,
                Some(("part", value)) if whole => {
                    spec.part = Part::Number(value.parse().ok().filter(|&n| n != 0)?);
                }
                Some(("label", value)) if whole && !value.is_empty() => {
                    spec.part = Part::Label(value.to_string());
                }
                Some(("partuuid", value)) if whole => {
                    spec.part = Part::Guid(Guid::from_str(value).ok()?);
                }
                Some(("start", value)) if whole => {
                    spec.part = Part::Range {
                        start: parse_size(value)?,
                        size: None,
                    };
                }
                Some(("size", value)) if length.is_none() => length = Some(parse_size(value)?),
                _ => return None,
            }
        }
        match (&mut spec.part, length) {
            (Part::Range { size, .. }, length) => *size = length,
            (Part::Whole, Some(_)) => {
                spec.part = Part::Range {
                    start: 0,
                    size: length,
                };
            }
            (_, Some(_)) => return None,
            (_, None) => {}
        }
        Some(spec)
    }
}

/// As [`Spec::parse`] reads it.
impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.disk)?;
        match &self.part {
            Part::Whole => {}
            Part::Number(number) => write!(f, ",part={number}")?,
            Part::Label(label) => write!(f, ",label={label}")?,
            Part::Guid(guid) => write!(f, ",partuuid={guid}")?,
            Part::Range { start, size } => {
                write!(f, ",start={start}B")?;
                if let Some(size) = size {
                    write!(f, ",size={size}B")?;
                }
            }
        }
        for (set, word) in [(self.read_only, ",ro"), (self.shared, ",shared")] {
            if set {
                f.write_str(word)?;
            }
        }
        Ok(())
    }
}

/// Whether this may be a disk's name.
pub fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= MAX_NAME && text.chars().all(good)
}

/// A number for a virtual block device from its name (`xvda`, `xvdb3`), as the frontend's
/// node `virtual-device` has it, and as its directory is named.
pub fn device_number(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("xvd")?;
    let digits = rest
        .find(|c: char| c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (letters, partition) = rest.split_at(digits);
    if letters.is_empty() || letters.len() > 3 {
        return None;
    }
    let mut disk = 0u32;
    for letter in letters.bytes() {
        if !letter.is_ascii_lowercase() {
            return None;
        }
        disk = disk * 26 + u32::from(letter - b'a') + 1;
    }
    let disk = disk - 1;
    let partition = match partition {
        "" => 0,
        text if text.starts_with('0') => return None,
        text => text.parse::<u32>().ok()?,
    };
    if disk < 16 && partition < 16 {
        Some(XVD_MAJOR << 8 | disk << 4 | partition)
    } else if disk < 1 << 20 && partition < 256 {
        Some(EXTENDED | disk << 8 | partition)
    } else {
        None
    }
}

/// The name of the n-th virtual disk, counted from 0.
pub fn device_name(n: usize) -> String {
    disk_name("xvd", n)
}

/// `vda` to `vdz`, then `vdaa`, as Linux names the disks of a kind from the 0th on.
pub fn disk_name(prefix: &str, n: usize) -> String {
    let mut letters = alloc::vec::Vec::new();
    let mut n = n;
    loop {
        letters.push(b'a' + (n % 26) as u8);
        n /= 26;
        if n == 0 {
            break;
        }
        n -= 1;
    }
    let mut name = String::from(prefix);
    name.extend(letters.iter().rev().map(|&letter| char::from(letter)));
    name
}

/// Where a virtual disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VirtualDisk {
    /// First sector (512 bytes) on the first layer's disk.
    pub start: u64,
    /// Sectors.
    pub sectors: u64,
    /// It is all of the disk, and changes its size with it.
    pub whole: bool,
    /// Writes are refused.
    pub read_only: bool,
    /// Others may write it too.
    pub shared: bool,
}

/// What is wrong with a description, now that the machine is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SpecError {
    /// There is no such disk.
    NoDisk(String),
    /// There is no such partition.
    NoPartition,
    /// More than one partition has the label.
    Ambiguous,
    /// The partition table cannot be used.
    Gpt(GptError),
    /// The range is not on the disk, or empty.
    Beyond,
    /// The range does not begin and end at the disk's blocks, of so many bytes.
    Misaligned(u32),
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDisk(name) => write!(f, "there is no disk {name}"),
            Self::NoPartition => f.write_str("there is no such partition"),
            Self::Ambiguous => f.write_str("more than one partition has this label"),
            Self::Gpt(error) => error.fmt(f),
            Self::Beyond => f.write_str("the range is not on the disk"),
            Self::Misaligned(block) => {
                write!(
                    f,
                    "the range does not begin and end at blocks of {block} bytes"
                )
            }
        }
    }
}

impl Spec {
    /// Where the virtual disk is on a disk of so many sectors, in blocks of `block_size`
    /// bytes. `partitions` reads the disk's partition table.
    pub fn resolve(
        &self,
        sectors: u64,
        block_size: u32,
        partitions: impl FnOnce() -> Result<alloc::vec::Vec<Partition>, GptError>,
    ) -> Result<VirtualDisk, SpecError> {
        let mut disk = VirtualDisk {
            start: 0,
            sectors,
            whole: false,
            read_only: self.read_only,
            shared: self.shared,
        };
        let is_it = |partition: &Partition| match &self.part {
            Part::Number(number) => partition.number == *number,
            Part::Label(label) => partition.label == *label,
            Part::Guid(guid) => partition.guid == *guid,
            Part::Whole | Part::Range { .. } => false,
        };
        match &self.part {
            Part::Whole => disk.whole = true,
            Part::Range { start, size } => {
                if (start | size.unwrap_or(0)) % u64::from(block_size.max(512)) != 0 {
                    return Err(SpecError::Misaligned(block_size));
                }
                disk.start = start / 512;
                let rest = sectors.checked_sub(disk.start).ok_or(SpecError::Beyond)?;
                disk.sectors = size.map_or(rest, |size| size / 512);
                if disk.sectors > rest || disk.sectors == 0 {
                    return Err(SpecError::Beyond);
                }
            }
            Part::Number(_) | Part::Label(_) | Part::Guid(_) => {
                let all = partitions().map_err(SpecError::Gpt)?;
                let mut found = all.iter().filter(|partition| is_it(partition));
                let partition = found.next().ok_or(SpecError::NoPartition)?;
                if found.next().is_some() {
                    return Err(SpecError::Ambiguous);
                }
                let unit = u64::from(block_size / 512);
                let range = partition
                    .first_block
                    .checked_mul(unit)
                    .zip(partition.blocks.checked_mul(unit));
                let (start, count) = range.ok_or(SpecError::Beyond)?;
                if start.checked_add(count).is_none_or(|end| end > sectors) {
                    return Err(SpecError::Beyond);
                }
                disk.start = start;
                disk.sectors = count;
            }
        }
        Ok(disk)
    }
}
