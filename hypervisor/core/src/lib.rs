//! Everything in Overcast that is logic and not machine.
//!
//! This crate holds the state machines of the hypervisor: page types, event
//! channels, grant tables, the scheduler, timers, and the Dom0 builder. It has
//! no `unsafe` code, knows no CPU, and is tested on the host. What it needs of
//! the machine comes through the small traits of [`machine`].
//!
//! # Rules
//!
//! - No function panics on input that a guest, Dom0, a device or the first
//!   layer can influence; it returns an [`error::Error`], which maps to one of
//!   Xen's errnos in one place.
//! - Memory that a guest can write is read once, into a local value, and then
//!   checked (no double fetch).
//! - Interrupt handlers take no locks, so a lock may be held with interrupts on.
//! - Lock order, outer to inner: block channel ([`blkback`]), domain list, domain control, domain memory
//!   ([`mm`]), grant table, event channels, scheduler run queue, frame heap,
//!   console.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "model"))]
extern crate std;

pub mod addr;
pub mod blkback;
pub mod builder;
pub mod clock;
pub mod cmdline;
pub mod console;
pub mod cpuid;
pub mod domctl;
pub mod emulate;
pub mod error;
pub mod event;
pub mod first_layer;
#[cfg(any(test, feature = "model"))]
pub mod fuzz;
pub mod grant;
pub mod heap;
pub mod hypfs;
pub mod ids;
pub mod machine;
pub mod mm;
pub mod msr;
pub mod netback;
pub mod sched;
pub mod switch;
pub mod timer;
pub mod topology;
pub mod vdisk;
pub mod xenbus;
pub mod xenstore;
