//! Interrupts by message: MSI-X, and MSI.

use super::Function;
use crate::interrupt::Message;
use crate::platform::Platform;
use crate::registers::Registers;

const MSI: u8 = 0x05;
const MSIX: u8 = 0x11;

/// The MSI-X table of a function.
#[derive(Debug)]
pub struct Msix {
    table: Registers,
    entries: u16,
}

/// Bytes of an entry.
const ENTRY: u64 = 16;
/// Bit of an entry's last word.
const MASKED: u32 = 1;

impl Msix {
    /// Turns MSI-X on, with all entries masked; `None` if the function does not have it.
    ///
    /// # Safety
    /// The caller drives this device, alone.
    pub unsafe fn enable(function: &Function, platform: &dyn Platform) -> Option<Self> {
        let capability = function.capabilities().into_iter().find(|c| c.id == MSIX)?;
        let control = function.read(capability.offset);
        let entries = (control >> 16 & 0x7ff) as u16 + 1;
        let place = function.read(capability.offset.checked_add(4)?);
        let (bar, offset) = ((place & 7) as u8, u64::from(place & !7));
        let length = u64::from(entries) * ENTRY;
        // SAFETY: the caller's promise.
        let table = unsafe { function.registers(platform, bar, offset, length) }?;
        let msix = Self { table, entries };
        (0..entries).for_each(|index| msix.mask(index));
        // Enable, and nothing masked but by its entry.
        function.write(
            capability.offset,
            control & 0x3fff_ffff & !(0xffff) | 1 << 31,
        );
        Some(msix)
    }

    /// How many entries there are, at least 1.
    pub fn entries(&self) -> u16 {
        self.entries
    }

    /// Forbids an entry's message.
    pub fn mask(&self, index: u16) {
        let control = u64::from(index) * ENTRY + 12;
        if index < self.entries {
            self.table.write32(control, MASKED);
            // The write has arrived when the read is answered.
            self.table.read32(control);
        }
    }

    /// Gives an entry its message, and allows it.
    pub fn set(&self, index: u16, message: Message) {
        if index < self.entries {
            self.mask(index);
            let at = u64::from(index) * ENTRY;
            self.table.write64(at, message.address);
            self.table.write32(at + 8, message.data);
            self.table.write32(at + 12, 0);
        }
    }
}

/// The single message of a function with MSI.
#[derive(Debug)]
pub struct Msi {
    function: Function,
    offset: u16,
    wide: bool,
}

const MSI_ENABLE: u32 = 1 << 16;

impl Msi {
    /// Finds MSI, and leaves it off; `None` if the function does not have it.
    pub fn find(function: &Function) -> Option<Self> {
        let capability = function.capabilities().into_iter().find(|c| c.id == MSI)?;
        let control = function.read(capability.offset);
        Some(Self {
            function: function.clone(),
            offset: capability.offset,
            wide: control & 1 << 23 != 0,
        })
    }

    /// Sets the message, or turns it off.
    pub fn set(&self, message: Option<Message>) {
        // One message: bits 20-22 are 0. The lower half cannot be written.
        let control = self.function.read(self.offset) & 0xff8e_0000;
        self.function.write(self.offset, control);
        let Some(message) = message else {
            return;
        };
        if !self.wide && message.address >> 32 != 0 {
            return;
        }
        self.function
            .write(self.offset.saturating_add(4), message.address as u32);
        let mut data = self.offset.saturating_add(8);
        if self.wide {
            self.function.write(data, (message.address >> 32) as u32);
            data = data.saturating_add(4);
        }
        let rest = self.function.read(data) & 0xffff_0000;
        self.function.write(data, rest | message.data & 0xffff);
        self.function.write(self.offset, control | MSI_ENABLE);
    }
}

/// How a function interrupts.
#[derive(Debug)]
pub enum Messages {
    /// By MSI-X.
    Msix(Msix),
    /// By MSI, one message.
    Msi(Msi),
    /// By no message: it must be polled.
    None,
}

impl Messages {
    /// The best that a function has; all its messages are forbidden at first.
    ///
    /// # Safety
    /// The caller drives this device, alone.
    pub unsafe fn enable(function: &Function, platform: &dyn Platform) -> Self {
        // SAFETY: the caller's promise.
        if let Some(msix) = unsafe { Msix::enable(function, platform) } {
            return Self::Msix(msix);
        }
        match Msi::find(function) {
            Some(msi) => {
                msi.set(None);
                Self::Msi(msi)
            }
            None => Self::None,
        }
    }

    /// How many messages there are.
    pub fn count(&self) -> u16 {
        match self {
            Self::Msix(msix) => msix.entries(),
            Self::Msi(_) => 1,
            Self::None => 0,
        }
    }

    /// Gives a message its target and allows it, or forbids it.
    pub fn set(&self, index: u16, message: Option<Message>) {
        match (self, message) {
            (Self::Msix(msix), Some(message)) => msix.set(index, message),
            (Self::Msix(msix), None) => msix.mask(index),
            (Self::Msi(msi), message) if index == 0 => msi.set(message),
            _ => {}
        }
    }

    /// What they are, for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Msix(_) => "MSI-X",
            Self::Msi(_) => "MSI",
            Self::None => "polled",
        }
    }
}
