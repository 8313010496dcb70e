//! Network devices, as every first layer's driver shows them.
//!
//! # Contract
//!
//! - Frames begin with the Ethernet header, without checksum. They lie in machine memory
//!   named by [`Segment`]s, and may change under the reader's eyes: who decides by a
//!   header reads it once, into memory of his own.
//! - Who sends keeps the memory valid for the device until the frame's tag came back from
//!   [`Net::reclaim`]. A frame that was refused never comes back.
//! - A received frame's memory is the driver's again when the callback returns. The callback
//!   may send, but not receive from or arm the same queue.
//! - All functions may be called on any CPU, with interrupts on; none waits for the device.
//! - The device tells of received and of sent frames by the interrupt that its owner gave
//!   the queue; after one there is none until [`Net::arm`].

use crate::Segment;

/// What a network device is, and what it can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetInfo {
    /// Its address.
    pub mac: [u8; 6],
    /// Bytes of the longest payload of a frame (not counting the Ethernet header).
    pub mtu: u16,
    /// Whether the link is up.
    pub link: bool,
    /// Whether the device completes checksums of frames to send.
    pub transmit_checksum: bool,
    /// Whether it cuts TCP over IPv4 segments to send.
    pub transmit_tcp4: bool,
    /// Whether it cuts TCP over IPv6 segments to send.
    pub transmit_tcp6: bool,
    /// The most segments of memory of a frame to send.
    pub max_segments: usize,
}

/// A checksum that is still to be completed: the sum over the bytes from `start` to the
/// end, to be put at `start + offset`, where that of the pseudo-header is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartialChecksum {
    /// First byte that counts, from the frame's begin.
    pub start: u16,
    /// Where the checksum is, from `start`.
    pub offset: u16,
}

/// What a frame that is longer than the link takes consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentationKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

/// How a frame that is longer than the link takes is to be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segmentation {
    /// What it is.
    pub kind: SegmentationKind,
    /// Bytes of TCP payload of each piece, not 0.
    pub size: u16,
    /// Bytes of headers that each piece repeats; a hint, 0 if not known.
    pub header_length: u16,
    /// Whether the TCP header has the bit CWR, which only the first piece keeps.
    pub ecn: bool,
}

/// What was left to the other side of a link: the same for sending and receiving.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// A checksum that is not complete yet.
    pub checksum: Option<PartialChecksum>,
    /// Whether the checksums were looked at and are right (for received frames).
    pub checksum_valid: bool,
    /// How the frame is to be cut.
    pub segmentation: Option<Segmentation>,
}

/// A frame to send.
#[derive(Clone, Copy, Debug)]
pub struct TransmitFrame<'a> {
    /// Its memory, in order.
    pub segments: &'a [Segment],
    /// What the device is to do.
    pub offload: Offload,
    /// Names the frame when its memory comes back.
    pub tag: u64,
}

/// A frame that was received.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedFrame<'a> {
    /// Its memory, in order; at least the Ethernet header's 14 bytes in all.
    pub segments: &'a [Segment],
    /// Bytes of all segments.
    pub length: usize,
    /// What the device left to do.
    pub offload: Offload,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransmitError {
    /// The queue is full: try again after the next [`Net::reclaim`] that gives something.
    Full,
    /// The device cannot send this: too many segments, or an offload that it does not have.
    Invalid,
    /// The device broke, and takes nothing any more.
    Broken,
}

/// A network device. See the module's docs for what holds of all of them.
pub trait Net: Send + Sync {
    /// What it is and can do, as of now.
    fn info(&self) -> NetInfo;

    /// How many pairs of queues can work at the same time, at least 1.
    fn queues(&self) -> usize;

    /// Puts a frame into a queue. The device need not look before [`Self::kick`].
    fn transmit(&self, queue: usize, frame: &TransmitFrame<'_>) -> Result<(), TransmitError>;

    /// Tells the device of what was put into the queue.
    fn kick(&self, queue: usize);

    /// Takes at most `budget` sent frames back; gives how many there were.
    fn reclaim(&self, queue: usize, budget: usize, done: &mut dyn FnMut(u64)) -> usize;

    /// Takes at most `budget` received frames; gives how many there were.
    fn receive(
        &self,
        queue: usize,
        budget: usize,
        sink: &mut dyn FnMut(&ReceivedFrame<'_>),
    ) -> usize;

    /// Asks for an interrupt at the next frame received or sent. `true` if there are some
    /// already: call [`Self::receive`] and [`Self::reclaim`] again.
    fn arm(&self, queue: usize) -> bool;

    /// Whether [`Self::info`] may have changed since the last call of this.
    fn take_change(&self) -> bool;

    /// Whether the device broke: [`Self::reclaim`] gives back what it had as soon as it is
    /// sure not to touch the memory any more, which may be never. There is no interrupt for it.
    fn is_broken(&self) -> bool;
}
