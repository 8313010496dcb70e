//! Backends of the guests' devices.

pub mod block;
