//! The 64-bit Xen PV machine: what a guest meets outside of hypercalls.

pub mod bounce;
pub mod descriptors;
pub mod emulate;
pub mod exit;
pub mod mode;
pub mod shadow;
pub mod syscall;
pub mod traps;
