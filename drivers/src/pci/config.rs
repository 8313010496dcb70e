//! Access to configuration space.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use spin::Mutex;

use super::Address;
use crate::acpi::McfgRegion;
use crate::platform::Platform;
use crate::registers::Registers;

/// A way to configuration space. Offsets are multiples of 4, below 256 (4096 for PCI Express).
pub trait ConfigAccess: Send + Sync {
    /// Reads 32 bits; all ones where nothing answers.
    fn read(&self, address: Address, offset: u16) -> u32;
    /// Writes 32 bits.
    fn write(&self, address: Address, offset: u16, value: u32);
}

/// The enhanced access mechanism: configuration space in memory. A bus's is mapped when it is
/// first looked at.
pub struct Ecam {
    platform: &'static dyn Platform,
    regions: Vec<McfgRegion>,
    /// Of segments and buses that were looked at.
    mapped: Mutex<BTreeMap<(u16, u8), Option<Registers>>>,
}

const BUS_BYTES: u64 = 1 << 20;

impl Ecam {
    /// The one of these regions; `None` if the first bus of the first does not answer.
    ///
    /// # Safety
    /// Configuration space is where the regions say.
    pub unsafe fn new(platform: &'static dyn Platform, regions: &[McfgRegion]) -> Option<Self> {
        let ecam = Self {
            platform,
            regions: regions.to_vec(),
            mapped: Mutex::new(BTreeMap::new()),
        };
        let (segment, bus) = ecam.roots().next()?;
        let answers = (0..32).any(|device| {
            let address = Address {
                segment,
                bus,
                device,
                function: 0,
            };
            !matches!(ecam.read(address, 0), 0 | u32::MAX)
        });
        answers.then_some(ecam)
    }

    /// The first bus of each region, as segment and bus.
    pub fn roots(&self) -> impl Iterator<Item = (u16, u8)> {
        self.regions
            .iter()
            .map(|region| (region.segment, region.start_bus))
    }

    fn bus(&self, segment: u16, bus: u8) -> Option<Registers> {
        let mut mapped = self.mapped.lock();
        if let Some(registers) = mapped.get(&(segment, bus)) {
            return registers.clone();
        }
        let region = self.regions.iter().find(|region| {
            region.segment == segment && (region.start_bus..=region.end_bus).contains(&bus)
        })?;
        let address = region.base.checked_add(u64::from(bus) * BUS_BYTES)?;
        let registers = self.platform.map(address, BUS_BYTES).map(|base| {
            // SAFETY: `new`'s caller said that configuration space is there; the
            // platform maps it for ever.
            unsafe { Registers::memory(base, BUS_BYTES) }
        });
        mapped.insert((segment, bus), registers.clone());
        registers
    }

    fn place(&self, address: Address, offset: u16) -> Option<(Registers, u64)> {
        let bus = self.bus(address.segment, address.bus)?;
        let device = u64::from(address.device & 31) << 15;
        let function = u64::from(address.function & 7) << 12;
        Some((bus, device | function | u64::from(offset & 0xffc)))
    }
}

impl ConfigAccess for Ecam {
    fn read(&self, address: Address, offset: u16) -> u32 {
        self.place(address, offset)
            .map_or(u32::MAX, |(bus, at)| bus.read32(at))
    }

    fn write(&self, address: Address, offset: u16, value: u32) {
        if let Some((bus, at)) = self.place(address, offset) {
            bus.write32(at, value);
        }
    }
}

/// The ports 0xcf8 and 0xcfc: segment 0, the first 256 bytes of a function.
pub struct Ports {
    registers: Mutex<Registers>,
}

const ENABLE: u32 = 1 << 31;

impl Ports {
    /// The two ports as registers, 8 bytes; `None` if nothing is there.
    pub fn new(registers: Registers) -> Option<Self> {
        registers.write32(0, ENABLE);
        let there = registers.read32(0) == ENABLE;
        there.then(|| Self {
            registers: Mutex::new(registers),
        })
    }

    fn select(address: Address, offset: u16) -> Option<u32> {
        (address.segment == 0 && offset < 0x100).then(|| {
            ENABLE
                | u32::from(address.bus) << 16
                | u32::from(address.device & 31) << 11
                | u32::from(address.function & 7) << 8
                | u32::from(offset & 0xfc)
        })
    }
}

impl ConfigAccess for Ports {
    fn read(&self, address: Address, offset: u16) -> u32 {
        let Some(select) = Self::select(address, offset) else {
            return u32::MAX;
        };
        let registers = self.registers.lock();
        registers.write32(0, select);
        registers.read32(4)
    }

    fn write(&self, address: Address, offset: u16, value: u32) {
        if let Some(select) = Self::select(address, offset) {
            let registers = self.registers.lock();
            registers.write32(0, select);
            registers.write32(4, value);
        }
    }
}
