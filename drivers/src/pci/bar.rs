//! Base address registers.

use super::{Function, command, offset};
use crate::platform::Platform;
use crate::registers::Registers;

const BARS: u16 = 0x10;

/// What a base address register says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bar {
    /// Registers in memory.
    Memory {
        /// Machine address.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// Registers at ports.
    Ports {
        /// First port.
        base: u16,
        /// How many.
        size: u16,
    },
}

impl Function {
    /// A base address register; `None` if there is none, or if it has no address.
    ///
    /// The device must not be in use: it does not answer while its registers' size is found.
    pub fn bar(&self, index: u8) -> Option<Bar> {
        if index > 5 || self.header_type != 0 {
            return None;
        }
        // The upper half of a 64-bit register is none.
        let mut at = 0;
        while at < index {
            at += if self.is_wide(at) { 2 } else { 1 };
        }
        if at != index {
            return None;
        }
        let old_command = self.read(offset::COMMAND) & 0xffff;
        self.write(
            offset::COMMAND,
            old_command & !(command::IO | command::MEMORY),
        );
        let (low, low_mask) = self.size_word(index);
        let wide = low & 1 == 0 && self.is_wide(index);
        let (high, high_mask) = match wide {
            true if index < 5 => self.size_word(index + 1),
            _ => (0, u32::MAX),
        };
        self.write(offset::COMMAND, old_command);
        if low & 1 == 1 {
            // Upper bits of ports may be fixed to 0.
            let mask = (low_mask & !3) as u16;
            let base = (low & !3) as u16;
            let size = (!mask).checked_add(1)?;
            return (mask != 0 && base != 0 && low >> 16 == 0).then_some(Bar::Ports { base, size });
        }
        let address = u64::from(high) << 32 | u64::from(low & !15);
        let mask = u64::from(high_mask) << 32 | u64::from(low_mask & !15);
        let size = (!mask).checked_add(1)?;
        let valid = low_mask & !15 | high_mask & if wide { u32::MAX } else { 0 } != 0
            && address != 0
            && size.is_power_of_two()
            && address.is_multiple_of(size)
            && address.checked_add(size).is_some();
        valid.then_some(Bar::Memory { address, size })
    }

    /// Whether a register and the next are a 64-bit one.
    fn is_wide(&self, index: u8) -> bool {
        self.read(BARS + u16::from(index) * 4) & 7 == 4
    }

    /// The value of a register, and which bits of it can be set.
    fn size_word(&self, index: u8) -> (u32, u32) {
        let at = BARS + u16::from(index) * 4;
        let old = self.read(at);
        self.write(at, u32::MAX);
        let mask = self.read(at);
        self.write(at, old);
        (old, mask)
    }

    /// The registers behind a part of a base address register; `None` if they are not there.
    ///
    /// # Safety
    /// The caller drives this device, alone.
    pub unsafe fn registers(
        &self,
        platform: &dyn Platform,
        index: u8,
        offset: u64,
        length: u64,
    ) -> Option<Registers> {
        let end = offset.checked_add(length)?;
        match self.bar(index)? {
            Bar::Memory { address, size } if end <= size && length != 0 => {
                let base = platform.map(address.checked_add(offset)?, length)?;
                // SAFETY: the caller's promise, and the platform's.
                Some(unsafe { Registers::memory(base, length) })
            }
            Bar::Ports { base, size } if end <= size.into() && length != 0 => {
                let base = base.checked_add(offset as u16)?;
                // SAFETY: the caller's promise.
                Some(unsafe { Registers::ports(base, length as u16) })
            }
            _ => None,
        }
    }
}
