//! Virtio over PCI (virtio 1.2, section 4.1): finding the registers, and the modern ones.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::VirtioError;
use super::legacy::Legacy;
use super::ring::RingPlace;
use super::transport::Transport;
use crate::interrupt::Message;
use crate::pci::{Function, Messages};
use crate::platform::Platform;
use crate::registers::Registers;

const VENDOR: u16 = 0x1af4;
/// Vendor-specific capability.
const CAPABILITY: u8 = 0x09;
const NO_MESSAGE: u16 = 0xffff;

/// What kind of device it is (virtio 1.2, section 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceKind {
    /// Network.
    Net,
    /// Disk.
    Block,
    /// Console.
    Console,
    /// Random numbers.
    Entropy,
    /// Another, by number.
    Other(u16),
}

/// The kind of a virtio device; `None` if it is another device.
pub fn kind_of(function: &Function) -> Option<DeviceKind> {
    if function.vendor != VENDOR {
        return None;
    }
    let number = match function.device {
        // Transitional: the number is the subsystem's.
        0x1000..=0x103f => function.subsystem.1,
        0x1040..=0x107f => function.device - 0x1040,
        _ => return None,
    };
    Some(match number {
        1 => DeviceKind::Net,
        2 => DeviceKind::Block,
        3 => DeviceKind::Console,
        4 => DeviceKind::Entropy,
        other => DeviceKind::Other(other),
    })
}

/// Registers of the common configuration.
mod common {
    pub const FEATURE_SELECT: u64 = 0;
    pub const FEATURE: u64 = 4;
    pub const ACCEPT_SELECT: u64 = 8;
    pub const ACCEPT: u64 = 12;
    pub const CONFIG_MESSAGE: u64 = 16;
    pub const STATUS: u64 = 20;
    pub const GENERATION: u64 = 21;
    pub const QUEUE_SELECT: u64 = 22;
    pub const QUEUE_SIZE: u64 = 24;
    pub const QUEUE_MESSAGE: u64 = 26;
    pub const QUEUE_ENABLE: u64 = 28;
    pub const QUEUE_NOTIFY: u64 = 30;
    pub const QUEUE_DESCRIPTORS: u64 = 32;
    pub const QUEUE_AVAILABLE: u64 = 40;
    pub const QUEUE_USED: u64 = 48;
    pub const LENGTH: u64 = 56;
}

/// The modern registers of a device.
pub(super) struct Modern {
    pub common: Registers,
    pub notify: Registers,
    pub cause: Registers,
    /// The device's own configuration, if it has one.
    pub config: Option<Registers>,
    /// Distance of the queues' notification registers, bytes a unit.
    pub multiplier: u32,
    pub messages: Messages,
    /// Where each queue's notification register is.
    pub doorbells: Vec<u64>,
}

/// Finds a device's registers and makes it ready to be driven: modern ones if it has them.
///
/// # Safety
/// The caller drives this device, alone.
pub unsafe fn open(
    function: &Function,
    platform: &'static dyn Platform,
) -> Result<Box<dyn Transport>, VirtioError> {
    function.enable();
    // SAFETY: the caller's promise, here and below.
    let modern = unsafe { find_modern(function, platform) };
    let transport: Box<dyn Transport> = match modern {
        Some(modern) => Box::new(modern),
        // Only transitional devices have the legacy registers, in the first BAR.
        None if function.device < 0x1040 => {
            let length = match function.bar(0) {
                Some(crate::pci::Bar::Ports { size, .. }) => size.into(),
                Some(crate::pci::Bar::Memory { size, .. }) => size.min(4096),
                None => return Err(VirtioError::NoRegisters),
            };
            // SAFETY: as above.
            let registers = unsafe { function.registers(platform, 0, 0, length) }
                .ok_or(VirtioError::NoRegisters)?;
            // SAFETY: as above.
            let messages = unsafe { Messages::enable(function, platform) };
            Box::new(Legacy::new(registers, messages))
        }
        None => return Err(VirtioError::NoRegisters),
    };
    Ok(transport)
}

/// # Safety
/// As [`open`].
unsafe fn find_modern(function: &Function, platform: &dyn Platform) -> Option<Modern> {
    let mut parts: [Option<Registers>; 5] = [const { None }; 5];
    let mut multiplier = 0;
    for capability in function.capabilities() {
        let word = function.read(capability.offset);
        let (length, kind) = ((word >> 16) as u8, (word >> 24) as usize);
        if capability.id != CAPABILITY || length < 16 || capability.offset > 0xf0 {
            continue;
        }
        let Some(part) = parts.get_mut(kind).filter(|part| part.is_none()) else {
            continue;
        };
        let bar = function.read8(capability.offset + 4);
        let start = function.read(capability.offset + 8).into();
        let bytes = function.read(capability.offset + 12).into();
        if kind == 2 {
            if length < 20 || capability.offset > 0xec {
                continue;
            }
            multiplier = function.read(capability.offset + 16);
        }
        // SAFETY: the caller's promise.
        *part = unsafe { function.registers(platform, bar, start, bytes) };
    }
    let [_, common, notify, cause, config] = parts;
    let common = common.filter(|common| common.length() >= common::LENGTH)?;
    Some(Modern {
        common,
        notify: notify?,
        cause: cause?,
        config,
        multiplier,
        // SAFETY: the caller's promise.
        messages: unsafe { Messages::enable(function, platform) },
        doorbells: Vec::new(),
    })
}

impl Transport for Modern {
    fn is_modern(&self) -> bool {
        true
    }

    fn features(&self) -> u64 {
        let half = |select: u32| {
            self.common.write32(common::FEATURE_SELECT, select);
            u64::from(self.common.read32(common::FEATURE))
        };
        half(0) | half(1) << 32
    }

    fn accept(&self, features: u64) {
        for select in 0..2u32 {
            self.common.write32(common::ACCEPT_SELECT, select);
            let half = (features >> (32 * select)) as u32;
            self.common.write32(common::ACCEPT, half);
        }
    }

    fn status(&self) -> u8 {
        self.common.read8(common::STATUS)
    }

    fn set_status(&self, status: u8) {
        self.common.write8(common::STATUS, status);
    }

    fn queue_size(&self, queue: u16) -> u16 {
        self.common.write16(common::QUEUE_SELECT, queue);
        self.common.read16(common::QUEUE_SIZE)
    }

    fn enable_queue(
        &mut self,
        queue: u16,
        place: &RingPlace,
        message: Option<u16>,
    ) -> Result<(), VirtioError> {
        self.common.write16(common::QUEUE_SELECT, queue);
        self.common.write16(common::QUEUE_SIZE, place.size);
        self.common
            .write64(common::QUEUE_DESCRIPTORS, place.descriptors);
        self.common
            .write64(common::QUEUE_AVAILABLE, place.available);
        self.common.write64(common::QUEUE_USED, place.used);
        if self.messages.count() > 0 && !self.needs_cause() {
            let message = message.unwrap_or(NO_MESSAGE);
            self.common.write16(common::QUEUE_MESSAGE, message);
            if self.common.read16(common::QUEUE_MESSAGE) != message {
                return Err(VirtioError::Message);
            }
        }
        let doorbell = u64::from(self.common.read16(common::QUEUE_NOTIFY))
            .checked_mul(self.multiplier.into())
            .filter(|&at| at.is_multiple_of(2) && at.checked_add(2) <= Some(self.notify.length()))
            .ok_or(VirtioError::NoQueue(queue))?;
        let index = usize::from(queue);
        if self.doorbells.len() <= index {
            // What lies outside is not written.
            self.doorbells.resize(index + 1, u64::MAX);
        }
        if let Some(slot) = self.doorbells.get_mut(index) {
            *slot = doorbell;
        }
        self.common.write16(common::QUEUE_ENABLE, 1);
        Ok(())
    }

    fn notify(&self, queue: u16) {
        if let Some(&doorbell) = self.doorbells.get(usize::from(queue)) {
            self.notify.write16(doorbell, queue);
        }
    }

    fn config8(&self, offset: u16) -> u8 {
        self.config
            .as_ref()
            .map_or(0, |config| config.read8(offset.into()))
    }

    fn config16(&self, offset: u16) -> u16 {
        self.config
            .as_ref()
            .map_or(0, |config| config.read16(offset.into()))
    }

    fn config32(&self, offset: u16) -> u32 {
        self.config
            .as_ref()
            .map_or(0, |config| config.read32(offset.into()))
    }

    fn generation(&self) -> u32 {
        self.common.read8(common::GENERATION).into()
    }

    fn cause(&self) -> u8 {
        self.cause.read8(0)
    }

    fn messages(&self) -> u16 {
        self.messages.count()
    }

    fn needs_cause(&self) -> bool {
        matches!(self.messages, Messages::Msi(_))
    }

    fn enable_config_message(&mut self, message: u16) -> Result<(), VirtioError> {
        if self.needs_cause() {
            return Ok(());
        }
        self.common.write16(common::CONFIG_MESSAGE, message);
        if self.common.read16(common::CONFIG_MESSAGE) == message {
            Ok(())
        } else {
            Err(VirtioError::Message)
        }
    }

    fn set_message(&self, index: u16, message: Option<Message>) {
        self.messages.set(index, message);
    }

    fn describe(&self) -> String {
        format!("virtio 1, {}", self.messages.name())
    }
}
