//! Why a kernel cannot be built into a domain. Each message says what was found
//! and what was expected.

use super::image::Compression;
use core::fmt;

/// Why a domain could not be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// The module is too short to be a kernel.
    Empty,
    /// A bzImage of a boot protocol before 2.08, which does not say where its payload is.
    OldBzImage {
        /// Major times 256 plus minor.
        version: u16,
    },
    /// The file ends before what its headers promise.
    Truncated {
        /// What is cut off.
        what: &'static str,
        /// Bytes that there should be.
        needed: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// Neither a bzImage, nor a compressed file, nor an ELF file.
    UnknownFormat,
    /// A compression that is recognised but not supported.
    Compression(Compression),
    /// The uncompressed size that the image states is absurd.
    UncompressedSize(u64),
    /// The buffer for the uncompressed kernel is too small.
    Buffer {
        /// Bytes needed.
        needed: usize,
    },
    /// The payload cannot be decompressed.
    Damaged(Compression),
    /// Not a well-formed ELF file.
    BadElf(&'static str),
    /// A 32-bit kernel.
    ThirtyTwoBit,
    /// Not for x86-64.
    Machine(u16),
    /// No Xen notes at all.
    NoNotes,
    /// Only the PVH entry is there.
    PvhOnly,
    /// A note that every PV kernel has is missing.
    MissingNote(&'static str),
    /// A note has an unusable value.
    BadNote {
        /// The note.
        note: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The kernel requires a feature that there is not.
    RequiredFeature,
    /// The kernel says that it cannot be Dom0.
    NotForDom0,
    /// Addresses in the kernel's headers contradict each other.
    OutOfBounds(&'static str),
    /// The initial mapping would reach into the hypervisor's addresses.
    OverlapsHypervisor {
        /// First address.
        start: u64,
        /// Address behind the last.
        end: u64,
    },
    /// Too little memory for the domain.
    TooSmall {
        /// Pages that the kernel, initrd and tables need at least.
        needed: u64,
        /// Pages that the domain has.
        given: u64,
    },
    /// The initrd's contents and the layout do not fit together.
    Initrd,
    /// The caller has no frame, or no RAM, for a page of the domain.
    NoFrame {
        /// Its pseudo-physical frame number.
        pfn: u64,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => write!(f, "the kernel module is too short to be a kernel"),
            Self::OldBzImage { version } => write!(
                f,
                "bzImage of boot protocol {}.{:02} (expected 2.08 or later)",
                version >> 8,
                version & 0xff
            ),
            Self::Truncated {
                what,
                needed,
                found,
            } => write!(
                f,
                "the kernel is truncated: {what} needs {needed} bytes, {found} are there"
            ),
            Self::UnknownFormat => write!(
                f,
                "the kernel's format is unknown (expected a bzImage, or an ELF file, plain or compressed with gzip)"
            ),
            Self::Compression(compression) => write!(
                f,
                "the kernel is compressed with {}, which is not supported (expected gzip, xz, lzma, zstd or lz4)",
                compression.name()
            ),
            Self::UncompressedSize(size) => write!(
                f,
                "the kernel states an uncompressed size of {size} bytes (expected at most {})",
                super::image::MAX_UNCOMPRESSED
            ),
            Self::Buffer { needed } => {
                write!(
                    f,
                    "the uncompressed kernel needs a buffer of {needed} bytes"
                )
            }
            Self::Damaged(compression) => write!(
                f,
                "the kernel is damaged: its {} payload cannot be decompressed",
                compression.name()
            ),
            Self::BadElf(what) => write!(f, "the kernel is not a well-formed ELF file: {what}"),
            Self::ThirtyTwoBit => write!(f, "the kernel is 32-bit (expected 64-bit)"),
            Self::Machine(machine) => write!(
                f,
                "the kernel is for ELF machine {machine} (expected 62, x86-64)"
            ),
            Self::NoNotes => write!(
                f,
                "not a Xen PV kernel: no XEN_ELFNOTE_XEN_VERSION, no Xen ELF notes at all, and no __xen_guest section"
            ),
            Self::PvhOnly => write!(
                f,
                "not a Xen PV kernel: no XEN_ELFNOTE_XEN_VERSION, only XEN_ELFNOTE_PHYS32_ENTRY (a PVH kernel)"
            ),
            Self::MissingNote(note) => write!(f, "not a Xen PV kernel: no {note}"),
            Self::BadNote { note, why } => write!(f, "the kernel's {note} {why}"),
            Self::RequiredFeature => write!(
                f,
                "the kernel's XEN_ELFNOTE_FEATURES requires a feature that is not offered"
            ),
            Self::NotForDom0 => write!(
                f,
                "the kernel's XEN_ELFNOTE_SUPPORTED_FEATURES says that it cannot be Dom0"
            ),
            Self::OutOfBounds(what) => {
                write!(f, "the kernel's addresses are out of bounds: {what}")
            }
            Self::OverlapsHypervisor { start, end } => write!(
                f,
                "the initial mapping {start:#x} to {end:#x} is not free (the hypervisor's addresses, or none at all)"
            ),
            Self::TooSmall { needed, given } => write!(
                f,
                "Dom0 has too little memory: {} KiB are needed at least, it has {} KiB (see dom0_mem=)",
                needed.saturating_mul(4),
                given.saturating_mul(4)
            ),
            Self::Initrd => write!(f, "the initrd does not fit the layout made for it"),
            Self::NoFrame { pfn } => write!(f, "no machine frame for Dom0's page {pfn:#x}"),
        }
    }
}

impl core::error::Error for BuildError {}
