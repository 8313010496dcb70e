//! The registers of devices from before version 1 (virtio 1.2, sections 4.1.4.10 and 4.1.5.1.3.1).

use alloc::format;
use alloc::string::String;

use super::VirtioError;
use super::ring::RingPlace;
use super::transport::Transport;
use crate::interrupt::Message;
use crate::pci::Messages;
use crate::registers::Registers;

const FEATURES: u64 = 0;
const ACCEPT: u64 = 4;
const QUEUE_PAGE: u64 = 8;
const QUEUE_SIZE: u64 = 12;
const QUEUE_SELECT: u64 = 14;
const NOTIFY: u64 = 16;
const STATUS: u64 = 18;
const CAUSE: u64 = 19;
/// Only with MSI-X turned on, as all behind it is moved then.
const CONFIG_MESSAGE: u64 = 20;
const QUEUE_MESSAGE: u64 = 22;

/// A device without the modern registers.
pub(super) struct Legacy {
    registers: Registers,
    messages: Messages,
    config: u64,
}

impl Legacy {
    pub(super) fn new(registers: Registers, messages: Messages) -> Self {
        let config = match messages {
            Messages::Msix(_) => 24,
            _ => 20,
        };
        Self {
            registers,
            messages,
            config,
        }
    }

    fn has_message_registers(&self) -> bool {
        matches!(self.messages, Messages::Msix(_))
    }
}

impl Transport for Legacy {
    fn is_modern(&self) -> bool {
        false
    }

    fn features(&self) -> u64 {
        self.registers.read32(FEATURES).into()
    }

    fn accept(&self, features: u64) {
        self.registers.write32(ACCEPT, features as u32);
    }

    fn status(&self) -> u8 {
        self.registers.read8(STATUS)
    }

    fn set_status(&self, status: u8) {
        self.registers.write8(STATUS, status);
    }

    fn queue_size(&self, queue: u16) -> u16 {
        self.registers.write16(QUEUE_SELECT, queue);
        self.registers.read16(QUEUE_SIZE)
    }

    fn enable_queue(
        &mut self,
        queue: u16,
        place: &RingPlace,
        message: Option<u16>,
    ) -> Result<(), VirtioError> {
        let page = u32::try_from(place.descriptors >> 12).map_err(|_| VirtioError::NoMemory)?;
        self.registers.write16(QUEUE_SELECT, queue);
        if self.has_message_registers() {
            let message = message.unwrap_or(0xffff);
            self.registers.write16(QUEUE_MESSAGE, message);
            if self.registers.read16(QUEUE_MESSAGE) != message {
                return Err(VirtioError::Message);
            }
        }
        self.registers.write32(QUEUE_PAGE, page);
        Ok(())
    }

    fn notify(&self, queue: u16) {
        self.registers.write16(NOTIFY, queue);
    }

    fn config8(&self, offset: u16) -> u8 {
        self.registers.read8(self.config + u64::from(offset))
    }

    fn config16(&self, offset: u16) -> u16 {
        self.registers.read16(self.config + u64::from(offset))
    }

    fn config32(&self, offset: u16) -> u32 {
        self.registers.read32(self.config + u64::from(offset))
    }

    fn generation(&self) -> u32 {
        // There is none: what is read twice alike is whole.
        self.config32(0) ^ self.config32(4).rotate_left(16)
    }

    fn cause(&self) -> u8 {
        self.registers.read8(CAUSE)
    }

    fn messages(&self) -> u16 {
        self.messages.count()
    }

    fn needs_cause(&self) -> bool {
        matches!(self.messages, Messages::Msi(_))
    }

    fn enable_config_message(&mut self, message: u16) -> Result<(), VirtioError> {
        if !self.has_message_registers() {
            return Ok(());
        }
        self.registers.write16(CONFIG_MESSAGE, message);
        if self.registers.read16(CONFIG_MESSAGE) == message {
            Ok(())
        } else {
            Err(VirtioError::Message)
        }
    }

    fn set_message(&self, index: u16, message: Option<Message>) {
        self.messages.set(index, message);
    }

    fn describe(&self) -> String {
        format!("legacy virtio, {}", self.messages.name())
    }
}
