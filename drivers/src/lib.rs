//! Blanket drivers: what Overcast drives on each first layer.
//!
//! Drivers meet in the traits of [`block`], [`net`], [`console`], [`clock`] and [`entropy`];
//! who uses a device knows nothing else of it.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod block;
pub mod clock;
pub mod console;
pub mod entropy;
pub mod interrupt;
pub mod mp_table;
pub mod net;
pub mod nvme;
pub mod pci;
pub mod platform;
pub mod registers;
pub mod virtio;

/// A piece of machine memory, in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Machine address of its first byte.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}
