//! Saving, restoring and moving domains: what [`crate::stream`] says, done with domains of this
//! machine.
//!
//! [`guest`] is a domain as a stream's source and target, [`suspend`] asks it to stop and lets
//! it go on, [`config`] is its configuration on the way, [`file`] saves and restores.
//!
//! A move to another machine has two ends, [`outgoing`] and [`incoming`]. [`handover`] is the
//! protocol's core: who runs the guest when; read it first. [`target`] connects to the other end and
//! says what its words mean, [`wire`] has the messages and frames, [`lanes`] sends a stream over several connections, [`tls`] is a connection, [`policy`] decides
//! when to suspend the guest, [`status`] is what is written down, [`disks`] is how a guest's disks
//! come along, [`recover`] takes up what processes left, [`signals`] lets them give up in order, [`fault`] has
//! them end on purpose.

pub mod config;
pub mod disks;
pub mod fault;
pub mod file;
pub mod guest;
pub mod handover;
pub mod incoming;
pub mod lanes;
pub mod outgoing;
pub mod pace;
pub mod policy;
pub mod recover;
pub mod signals;
pub mod status;
pub mod suspend;
pub mod target;
pub mod tls;
pub mod wire;
