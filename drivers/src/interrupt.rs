//! Devices that interrupt by messages (MSI-X, MSI), or by none that can be used.
//!
//! Who owns a device gives its messages targets; the driver has told the device which of
//! them belongs to what. Devices whose interrupts are of another kind (event channels,
//! VMBus) have nothing to do with this.

/// What a device writes to interrupt a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where it writes.
    pub address: u64,
    /// What it writes.
    pub data: u32,
}

/// A device that sends messages.
pub trait Interrupting: Send + Sync {
    /// How many messages the driver uses; 0 if the device must be polled.
    fn messages(&self) -> usize;

    /// Which message, below [`Self::messages`], tells of a queue (or a pair of queues).
    fn queue_message(&self, queue: usize) -> usize;

    /// Which message tells that the configuration changed: maybe one that queues have too.
    fn config_message(&self) -> usize;

    /// Gives a message its target and allows it, or forbids it. At first all are
    /// forbidden; one that comes due while it is may come later or not at all.
    fn set_message(&self, index: usize, message: Option<Message>);

    /// To be called when the message of the configuration came, and in polls: looks at
    /// what changed.
    fn acknowledge(&self);
}
