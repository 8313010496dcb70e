//! Virtio 1.x devices (OASIS Virtual I/O Device specification 1.2), with split rings, over
//! PCI; modern, transitional and legacy ones.
//!
//! The crate `virtio-drivers` is not used: its queues take Rust slices, which a guest's
//! memory is not (frames, named by machine address, that the guest writes meanwhile); it
//! knows no MSI-X and one queue a device; its test of the event index is wrong when more
//! than one buffer is added before a notification and the index wraps; and it reads two
//! registers of the device before each notification. With its queues and its transport
//! replaced, the layouts of configuration spaces would be what remains.
//!
//! # The device is not trusted
//!
//! What is in a ring's used half, in configuration space and in headers is checked before
//! it is used. A device that names a buffer that it does not have, or completes more than
//! there is, or says itself that it needs a reset, is *broken* for good: it is reset, and nothing is
//! given to it any more. What it had comes back as failed when it says that the reset is done,
//! since it does not touch memory from then on; of one that never says so nothing comes back.
//! No buffer is completed twice, and nothing panics.

pub mod block;
pub mod console;
pub mod entropy;
mod legacy;
pub mod net;
mod pci;
mod ring;
#[cfg(test)]
mod tests;
mod transport;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};

pub use pci::{DeviceKind, kind_of, open};
pub use ring::{Broken, Buffer, Ring, RingPlace};
pub use transport::Transport;

use crate::interrupt::{Interrupting, Message};
use crate::platform::Platform;

/// Features of all devices (6), and what the transports need.
pub mod feature {
    /// Descriptors may be in a table of their own.
    pub const INDIRECT: u64 = 1 << 28;
    /// Notifications and interrupts name an index.
    pub const EVENT_INDEX: u64 = 1 << 29;
    /// The device is a modern one.
    pub const VERSION_1: u64 = 1 << 32;
    /// The device's addresses may be translated: they are not, here, but it must be accepted.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
}

/// Bits of the device status (2.1).
pub mod status {
    #![allow(missing_docs)]
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
}

/// Why a device cannot be driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VirtioError {
    /// Its registers are not where they should be.
    NoRegisters,
    /// It does not come out of reset.
    Reset,
    /// It refuses the features that it offered.
    Features,
    /// It does not have this queue, or one of no use.
    NoQueue(u16),
    /// It refuses the interrupt of this queue, or of its configuration.
    Message,
    /// There is no memory for its queues.
    NoMemory,
    /// Its configuration makes no sense.
    Configuration,
}

impl core::fmt::Display for VirtioError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoRegisters => f.write_str("its registers are not where they should be"),
            Self::Reset => f.write_str("it does not come out of reset"),
            Self::Features => f.write_str("it refuses the features that it offered"),
            Self::NoQueue(queue) => write!(f, "it has no queue {queue} that can be used"),
            Self::Message => f.write_str("it refuses its interrupts"),
            Self::NoMemory => f.write_str("there is no memory for its queues"),
            Self::Configuration => f.write_str("its configuration makes no sense"),
        }
    }
}

/// Resets a device and agrees with it on features: those of `wanted` that it has. Gives them.
fn negotiate(
    transport: &dyn Transport,
    platform: &dyn Platform,
    wanted: u64,
) -> Result<u64, VirtioError> {
    transport.set_status(0);
    // Modern devices say when they are done (4.1.4.3.2).
    let done = (0..10_000).any(|_| {
        let done = transport.status() == 0;
        if !done {
            platform.wait(100);
        }
        done
    });
    if !done {
        return Err(VirtioError::Reset);
    }
    transport.set_status(status::ACKNOWLEDGE);
    transport.set_status(status::ACKNOWLEDGE | status::DRIVER);
    let mut wanted = wanted | feature::INDIRECT | feature::EVENT_INDEX;
    if transport.is_modern() {
        wanted |= feature::VERSION_1 | feature::ACCESS_PLATFORM;
    }
    let features = transport.features() & wanted;
    if transport.is_modern() && features & feature::VERSION_1 == 0 {
        return Err(VirtioError::Features);
    }
    transport.accept(features);
    if transport.is_modern() {
        let status = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        transport.set_status(status);
        if transport.status() & status::FEATURES_OK == 0 {
            return Err(VirtioError::Features);
        }
    }
    Ok(features)
}

/// Lets the device work.
fn start(transport: &dyn Transport) {
    transport.set_status(transport.status() | status::DRIVER_OK);
}

/// A device in use: its transport, its messages, and what became of it. It is reset when it is
/// dropped: what holds memory that the device knows is declared after it in a driver, and so is
/// dropped after it.
struct Device {
    transport: Box<dyn Transport>,
    /// How many messages it uses.
    messages: usize,
    /// What it is may have changed.
    changed: AtomicBool,
    broken: AtomicBool,
}

impl Device {
    fn new(transport: Box<dyn Transport>) -> Self {
        Self {
            transport,
            messages: 0,
            changed: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        }
    }

    /// Decides which messages are used for so many queues: one each and one for the
    /// configuration, or one for all, or none.
    fn choose_messages(&mut self, queues: usize) -> Result<(), VirtioError> {
        self.messages = match usize::from(self.messages()) {
            0 => return Ok(()),
            // One that also needs its cause read must be shared.
            _ if self.needs_cause() => 1,
            count if count > queues => queues + 1,
            _ => 1,
        };
        self.transport.enable_config_message(0)
    }

    /// The message of a queue: with one for each, 0 is the configuration's.
    fn queue_message(&self, queue: usize) -> usize {
        if self.messages > 1 { queue + 1 } else { 0 }
    }

    /// The same as the transport takes it.
    fn queue_message_index(&self, queue: usize) -> Option<u16> {
        (self.messages > 0).then_some(self.queue_message(queue) as u16)
    }

    fn note_change(&self) {
        self.changed.store(true, Ordering::Release);
    }

    fn take_change(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// The device is broken: has it let go of the memory that it knows.
    fn fail(&self) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            self.set_status(0);
            self.note_change();
        }
    }

    /// Whether it is broken and touches no memory any more.
    fn is_stopped(&self) -> bool {
        self.is_broken() && self.status() == 0
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.set_status(0);
        // What answers the read has seen the write.
        self.status();
    }
}

impl core::ops::Deref for Device {
    type Target = dyn Transport;

    fn deref(&self) -> &Self::Target {
        &*self.transport
    }
}

/// A driver of a device that interrupts: all of them do it alike.
trait Driver: Send + Sync {
    fn device(&self) -> &Device;

    /// Looks at what may have changed in the configuration.
    fn look(&self) {}
}

impl<T: Driver> Interrupting for T {
    fn messages(&self) -> usize {
        self.device().messages
    }

    fn queue_message(&self, queue: usize) -> usize {
        self.device().queue_message(queue)
    }

    fn config_message(&self) -> usize {
        0
    }

    fn set_message(&self, index: usize, message: Option<Message>) {
        if index < self.messages() {
            self.device().set_message(index as u16, message);
        }
    }

    fn acknowledge(&self) {
        let device = self.device();
        if device.needs_cause() {
            device.cause();
        }
        if device.status() & status::NEEDS_RESET != 0 {
            device.fail();
        }
        if !device.is_broken() {
            self.look();
        }
    }
}

/// Makes the memory of a queue of at most `most` buffers and tells the device of it.
fn make_ring<T>(
    device: &mut Device,
    platform: &'static dyn Platform,
    queue: u16,
    most: u16,
    features: u64,
    message: Option<u16>,
) -> Result<Ring<T>, VirtioError> {
    let offered = device.queue_size(queue);
    let size = if device.is_modern() {
        offered.min(most)
    } else {
        // A legacy driver has no say in it.
        offered
    };
    let size = match size {
        0 => return Err(VirtioError::NoQueue(queue)),
        // A power of two, as the ring must have; 32768 at most.
        size if device.is_modern() => 1 << size.ilog2(),
        size if size.is_power_of_two() => size,
        _ => return Err(VirtioError::NoQueue(queue)),
    };
    let ring = Ring::new(platform, size, features).ok_or(VirtioError::NoMemory)?;
    device
        .transport
        .enable_queue(queue, &ring.place(), message)?;
    Ok(ring)
}
