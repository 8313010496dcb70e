//! What can be wrong with a loader's information. Each message says what was
//! expected.

use crate::Protocol;
use core::fmt;

/// Why the boot information cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootError {
    /// An unknown protocol number.
    Protocol(u32),
    /// The information, or a part of it, lies where it cannot be read.
    Unreadable {
        /// What was to be read.
        what: &'static str,
        /// Its physical address.
        address: u64,
    },
    /// A structure is damaged: too short, too long, or with a wrong magic number.
    Malformed {
        /// The protocol.
        protocol: Protocol,
        /// What is wrong.
        what: &'static str,
    },
    /// The loader gave neither a memory map nor memory sizes.
    NoMemoryMap(Protocol),
    /// The memory map has too many ranges.
    TooManyRanges,
    /// The memory map has no RAM.
    NoRam,
    /// There is no first module.
    NoKernel(Protocol),
    /// A module has no bytes.
    ModuleEmpty {
        /// Its place among the modules, from 0.
        index: usize,
        /// Physical address of its first byte.
        start: u64,
        /// Physical address behind its last byte.
        end: u64,
    },
    /// A module lies, wholly or in part, outside RAM.
    ModuleNotInRam {
        /// Its place among the modules, from 0.
        index: usize,
        /// Physical address of its first byte.
        start: u64,
        /// Physical address behind its last byte.
        end: u64,
    },
    /// A module overlaps the hypervisor's image.
    ModuleOverImage {
        /// Its place among the modules, from 0.
        index: usize,
        /// Physical address of its first byte.
        start: u64,
        /// Physical address behind its last byte.
        end: u64,
    },
    /// Two modules overlap.
    ModulesOverlap {
        /// The later one.
        index: usize,
        /// The earlier one.
        other: usize,
    },
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Protocol(number) => write!(
                f,
                "boot protocol {number} is unknown (expected 1 Multiboot 1, 2 Multiboot 2, 3 PVH)"
            ),
            Self::Unreadable { what, address } => write!(
                f,
                "the loader put its {what} at {address:#x}, which cannot be read (expected RAM below 4 GiB)"
            ),
            Self::Malformed { protocol, what } => {
                write!(
                    f,
                    "the loader's {} information is damaged: {what}",
                    protocol.name()
                )
            }
            Self::NoMemoryMap(protocol) => write!(
                f,
                "the loader gave no memory map (expected {})",
                match protocol {
                    Protocol::Multiboot1 => "mmap_addr or mem_lower and mem_upper",
                    Protocol::Multiboot2 => "a memory map, EFI memory map or basic memory tag",
                    Protocol::Pvh => "hvm_start_info of version 1 with memmap_paddr",
                }
            ),
            Self::TooManyRanges => write!(
                f,
                "the memory map has too many ranges (expected at most {})",
                crate::MAX_RANGES
            ),
            Self::NoRam => write!(f, "the memory map shows no RAM"),
            Self::NoKernel(protocol) => write!(
                f,
                "no Dom0 kernel: the first module is missing (expected {})",
                match protocol {
                    Protocol::Multiboot1 =>
                        "-initrd \"vmlinuz args,initrd\" with QEMU, `module` lines with GRUB",
                    Protocol::Multiboot2 => "`module2 vmlinuz args` and `module2 initrd` with GRUB",
                    Protocol::Pvh => "a module list in hvm_start_info",
                }
            ),
            Self::ModuleEmpty { index, start, end } => write!(
                f,
                "module {} is empty or truncated ({start:#x} to {end:#x})",
                index + 1
            ),
            Self::ModuleNotInRam { index, start, end } => write!(
                f,
                "module {} ({start:#x} to {end:#x}) lies outside RAM",
                index + 1
            ),
            Self::ModuleOverImage { index, start, end } => write!(
                f,
                "module {} ({start:#x} to {end:#x}) overlaps the hypervisor's image",
                index + 1
            ),
            Self::ModulesOverlap { index, other } => {
                write!(f, "modules {} and {} overlap", other + 1, index + 1)
            }
        }
    }
}

impl core::error::Error for BootError {}
