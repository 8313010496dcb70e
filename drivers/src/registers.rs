//! Registers of devices: in memory, or at I/O ports.

#[cfg(test)]
use alloc::sync::Arc;
use core::ptr::NonNull;

/// A device made of software, for tests of drivers.
#[cfg(test)]
pub trait Model: Send + Sync {
    /// A read of `size` bytes.
    fn read(&self, offset: u64, size: u8) -> u32;
    /// A write of `size` bytes.
    fn write(&self, offset: u64, size: u8, value: u32);
}

#[derive(Clone)]
enum Kind {
    Memory(NonNull<u8>),
    Ports(u16),
    #[cfg(test)]
    Model(Arc<dyn Model>, u64),
}

/// Some bytes of registers in a row.
///
/// An access that is beyond the end or not aligned is treated as a bus treats one that no
/// device answers: reads give all ones, writes are lost.
#[derive(Clone)]
pub struct Registers {
    kind: Kind,
    length: u64,
}

// SAFETY: a device's registers may be accessed from any CPU; each access is a single one.
unsafe impl Send for Registers {}
// SAFETY: as above.
unsafe impl Sync for Registers {}

macro_rules! access {
    ($read:ident, $write:ident, $int:ty, $register:tt) => {
        /// Reads the register at an offset in bytes.
        #[inline]
        pub fn $read(&self, offset: u64) -> $int {
            const SIZE: u64 = size_of::<$int>() as u64;
            if !self.has(offset, SIZE) {
                return <$int>::MAX;
            }
            match &self.kind {
                // SAFETY: within the mapped registers (`memory`), and aligned.
                Kind::Memory(base) => unsafe {
                    base.as_ptr()
                        .add(offset as usize)
                        .cast::<$int>()
                        .read_volatile()
                },
                Kind::Ports(base) => {
                    let value: $int;
                    // SAFETY: a port of the device (`ports`); reading moves one value.
                    unsafe {
                        core::arch::asm!(
                            concat!("in ", $register, ", dx"),
                            in("dx") base.wrapping_add(offset as u16),
                            out($register) value,
                            options(nostack, preserves_flags)
                        );
                    }
                    value
                }
                #[cfg(test)]
                Kind::Model(model, base) => model.read(base + offset, SIZE as u8) as $int,
            }
        }

        /// Writes the register at an offset in bytes. What was written to memory before
        /// is seen by the device before.
        #[inline]
        pub fn $write(&self, offset: u64, value: $int) {
            const SIZE: u64 = size_of::<$int>() as u64;
            if !self.has(offset, SIZE) {
                return;
            }
            match &self.kind {
                // SAFETY: within the mapped registers (`memory`), and aligned; what a
                // write does is the business of the device's driver.
                Kind::Memory(base) => unsafe {
                    base.as_ptr()
                        .add(offset as usize)
                        .cast::<$int>()
                        .write_volatile(value)
                },
                // SAFETY: a port of the device (`ports`). Memory may be read by the
                // device in consequence, so the compiler must not move accesses.
                Kind::Ports(base) => unsafe {
                    core::arch::asm!(
                        concat!("out dx, ", $register),
                        in("dx") base.wrapping_add(offset as u16),
                        in($register) value,
                        options(nostack, preserves_flags)
                    );
                },
                #[cfg(test)]
                Kind::Model(model, base) => {
                    model.write(base + offset, SIZE as u8, u32::from(value));
                }
            }
        }
    };
}

impl Registers {
    /// Registers that are mapped in memory.
    ///
    /// # Safety
    /// They stay mapped, uncached, for ever; they are those of the device that the user
    /// drives, and nobody else drives it.
    pub unsafe fn memory(base: NonNull<u8>, length: u64) -> Self {
        Self {
            kind: Kind::Memory(base),
            length,
        }
    }

    /// Registers at ports.
    ///
    /// # Safety
    /// They are those of the device that the user drives, and nobody else drives it.
    pub unsafe fn ports(base: u16, length: u16) -> Self {
        Self {
            kind: Kind::Ports(base),
            length: length.into(),
        }
    }

    /// Registers of a model.
    #[cfg(test)]
    pub fn model(model: Arc<dyn Model>, length: u64) -> Self {
        Self {
            kind: Kind::Model(model, 0),
            length,
        }
    }

    /// Bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// A part of them; `None` if it is not all there.
    pub fn part(&self, offset: u64, length: u64) -> Option<Self> {
        if offset.checked_add(length)? > self.length {
            return None;
        }
        let kind = match &self.kind {
            // SAFETY: within the mapping.
            Kind::Memory(base) => Kind::Memory(unsafe { base.add(offset as usize) }),
            Kind::Ports(base) => Kind::Ports(base.wrapping_add(offset as u16)),
            #[cfg(test)]
            Kind::Model(model, base) => Kind::Model(model.clone(), base + offset),
        };
        Some(Self { kind, length })
    }

    #[inline]
    fn has(&self, offset: u64, size: u64) -> bool {
        offset.is_multiple_of(size) && offset < self.length && size <= self.length - offset
    }

    access!(read8, write8, u8, "al");
    access!(read16, write16, u16, "ax");
    access!(read32, write32, u32, "eax");

    /// Writes 64 bits as two halves, the low one first.
    pub fn write64(&self, offset: u64, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset.saturating_add(4), (value >> 32) as u32);
    }
}

impl core::fmt::Debug for Registers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Registers({:#x} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spin::Mutex;
    use std::vec::Vec;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u64, u8, u32)>>);

    impl Model for Log {
        fn read(&self, offset: u64, size: u8) -> u32 {
            self.0.lock().push((offset, size, 0));
            7
        }
        fn write(&self, offset: u64, size: u8, value: u32) {
            self.0.lock().push((offset, size, value));
        }
    }

    #[test]
    fn what_is_outside_is_not_accessed() {
        let log = Arc::new(Log::default());
        let registers = Registers::model(log.clone(), 6);
        assert_eq!(registers.read32(4), u32::MAX);
        assert_eq!(registers.read16(3), u16::MAX);
        assert_eq!(registers.read8(6), u8::MAX);
        registers.write32(4, 1);
        registers.write8(u64::MAX, 1);
        assert!(log.0.lock().is_empty());
        assert_eq!(registers.read16(4), 7);
        let part = registers.part(2, 4).unwrap();
        part.write64(0, 0x1_0000_0002);
        assert_eq!(*log.0.lock(), [(4, 2, 0), (2, 4, 2)]);
        assert!(registers.part(3, 4).is_none());
        assert!(registers.part(u64::MAX, 4).is_none());
    }
}
