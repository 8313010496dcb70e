//! The backend of guests' network devices (io/netif.h), and the way of frames between them
//! and the first layer's NICs.
//!
//! - A [`Vif`] is a guest's device: rings, event channels, features, one or more queues.
//! - An [`Uplink`] is a NIC of the first layer.
//! - A [`Fabric`] joins vifs and at most one uplink by a [`crate::switch::Switch`].
//!
//! | from → to | what happens to the bytes |
//! |---|---|
//! | vif → NIC | the first 256 bytes are copied, the rest goes out of the guest's granted frames |
//! | NIC → vif | copied from the NIC's buffers into the guest's granted frames |
//! | vif → vif | copied from granted frames into granted frames |
//!
//! Partial checksums and frames that are to be cut (TSO) go through where the receiver
//! takes them; else they are completed and cut here, so every frontend is offered all.
//!
//! # Invariants
//!
//! - A ring's entry is read once, into a local value. Indices that cannot be, requests that
//!   break the protocol and grants that are none end the device ([`Misbehaviour`]): nothing of its
//!   rings is touched any more, and its owner closes it. Nobody else notices.
//! - A frame's grants are held until the NIC has given it back, also when the device was
//!   closed or its domain died meanwhile (`transmit::TxHold`); then the response is written, after
//!   the grants were let go.
//! - A vif sends from its own address only, unless its owner was told otherwise (`spoofchk`);
//!   never from another vif's.
//! - Responses of the receive ring are where the requests were: netfront relies on it.
//! - What waits for a guest is bounded ([`BACKLOG_LIMIT`]); the last to come is dropped. A
//!   switch with one vif alone makes the NIC wait instead.
//! - A frame that the NIC's queue has no room for waits in its guest's queue, which is
//!   not looked at further until there is room.
//!
//! Locks, outer to inner: a driver's receive queue; rings of a queue (read); transmit
//! state; receive state; frames under way; a driver's transmit queue; responses. The list of vifs is
//! held for a moment only, with nothing else taken meanwhile.
//! Grant and event-channel locks are inner to all of them.

mod fabric;
mod packet;
mod receive;
mod ring;
#[cfg(test)]
mod tests;
mod transmit;
mod uplink;
mod vif;

pub use fabric::Fabric;
pub use uplink::Uplink;
pub use vif::{Features, QueueConfig, Rate, Vif, VifConfig};

use core::fmt;

use crate::addr::Mfn;
use crate::event::ConsumerId;
use crate::grant::{GrantError, GrantHost};
use crate::ids::EventPort;

/// Frames of memory that may wait for one queue of a guest.
pub const BACKLOG_LIMIT: usize = 320;
/// Frames of memory that wait when a switch of one vif lets its NIC wait.
pub const BACKLOG_HIGH: usize = 64;
/// The most queues of a vif.
pub const MAX_QUEUES: u32 = 8;

/// What the backend needs of the machine.
pub trait NetbackHost: GrantHost + Send + Sync + 'static {
    /// Sends from a port of the hypervisor's own.
    fn notify(&self, port: EventPort);

    /// Has a task run soon.
    fn raise(&self, task: ConsumerId);

    /// Has a task run at a time, ns.
    fn raise_at(&self, task: ConsumerId, deadline: u64);

    /// The time, ns.
    fn now(&self) -> u64;

    /// A frame of memory for frames that wait, and for headers.
    fn allocate_frame(&self) -> Option<Mfn>;

    /// Gives one back.
    fn free_frame(&self, mfn: Mfn);
}

/// How a frontend broke the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misbehaviour {
    /// More requests to transmit than the ring has room for.
    TransmitIndex(u32),
    /// More requests to receive than the ring has room for.
    ReceiveIndex(u32),
    /// A frame's requests do not end.
    Unfinished,
    /// A frame of too many pieces.
    TooManySlots(usize),
    /// A piece that leaves its page, or is longer than its frame.
    BadPiece {
        /// Where in the page.
        offset: u16,
        /// Bytes.
        size: u16,
    },
    /// Extra information of a kind that there is not.
    BadExtra(u8),
    /// A frame to be cut, of a kind or into pieces that there are not.
    BadSegmentation,
    /// A grant that cannot be used.
    BadGrant {
        /// Its reference.
        reference: u32,
        /// Why.
        error: GrantError,
    },
}

impl fmt::Display for Misbehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TransmitIndex(n) => write!(f, "impossible number of tx requests: {n}"),
            Self::ReceiveIndex(n) => write!(f, "impossible number of rx requests: {n}"),
            Self::Unfinished => write!(f, "missing tx requests of a packet"),
            Self::TooManySlots(n) => write!(f, "packet of {n} slots"),
            Self::BadPiece { offset, size } => {
                write!(f, "bad tx request: offset {offset}, size {size}")
            }
            Self::BadExtra(kind) => write!(f, "invalid extra type {kind}"),
            Self::BadSegmentation => write!(f, "bad GSO type or size"),
            Self::BadGrant { reference, error } => write!(f, "bad grant {reference}: {error:?}"),
        }
    }
}
