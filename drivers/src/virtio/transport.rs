//! How a driver reaches its device.

use alloc::string::String;

use super::VirtioError;
use super::ring::RingPlace;
use crate::interrupt::Message;

/// A way to a device: its registers, whichever bus they are on.
///
/// Queues are enabled while the device is set up; afterwards only what takes `&self` is used,
/// from any CPU.
pub trait Transport: Send + Sync {
    /// Whether it speaks version 1 of the specification, rather than what was before.
    fn is_modern(&self) -> bool;

    /// What the device offers.
    fn features(&self) -> u64;

    /// Accepts features.
    fn accept(&self, features: u64);

    /// The device status.
    fn status(&self) -> u8;

    /// Sets the device status; 0 resets the device.
    fn set_status(&self, status: u8);

    /// The most buffers of a queue; 0 if there is no such queue.
    fn queue_size(&self, queue: u16) -> u16;

    /// Tells the device where a queue is and which message is its.
    fn enable_queue(
        &mut self,
        queue: u16,
        place: &RingPlace,
        message: Option<u16>,
    ) -> Result<(), VirtioError>;

    /// Tells the device that there is something in a queue.
    fn notify(&self, queue: u16);

    /// Reads a byte of the device's configuration.
    fn config8(&self, offset: u16) -> u8;
    /// Reads 16 bits of the device's configuration.
    fn config16(&self, offset: u16) -> u16;
    /// Reads 32 bits of the device's configuration.
    fn config32(&self, offset: u16) -> u32;

    /// Counts changes of the configuration; what was read between two equal values is whole.
    fn generation(&self) -> u32;

    /// Reads (and clears) why the device interrupted: bit 0 queues, bit 1 configuration.
    fn cause(&self) -> u8;

    /// How many messages the device can send.
    fn messages(&self) -> u16;

    /// Whether [`Self::cause`] must be read for another interrupt to come.
    fn needs_cause(&self) -> bool;

    /// Tells the device which message is for changes of its configuration.
    fn enable_config_message(&mut self, message: u16) -> Result<(), VirtioError>;

    /// Gives a message its target and allows it, or forbids it.
    fn set_message(&self, index: u16, message: Option<Message>);

    /// What it is, for the log.
    fn describe(&self) -> String;
}

/// Reads something from the configuration as a whole, unless it keeps changing.
pub fn stable<T>(transport: &dyn Transport, read: impl Fn() -> T) -> T {
    for _ in 0..100 {
        let before = transport.generation();
        let value = read();
        if transport.generation() == before {
            return value;
        }
    }
    read()
}
