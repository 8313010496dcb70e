//! The way to the hypervisor and to other domains: all `unsafe` of the domain tools.
//!
//! [`privcmd`] makes hypercalls, [`foreign`] maps frames of other domains, [`evtchn`] has
//! event channels. [`domctl`], [`memory`], [`overcast`] add the operations to
//! [`Control`](crate::control::Control) that make, save and restore domains.

pub mod domctl;
pub mod evtchn;
pub mod foreign;
pub mod memory;
pub mod overcast;
pub mod privcmd;
