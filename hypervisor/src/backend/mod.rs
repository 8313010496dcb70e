//! Backends of the guests' devices.

pub mod block;
pub mod net;
