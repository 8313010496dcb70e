//! Blanket drivers: what Overcast drives on each first layer.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
