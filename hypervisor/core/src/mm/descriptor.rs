//! Pages of descriptor tables: guests write them by hypercall only, and every
//! descriptor in them has been checked.

use core::sync::atomic::Ordering;

use xen_abi::arch_x86::FIRST_RESERVED_GDT_ENTRY;

use super::frames::{PageType, TypeWord};
use super::types::Tables;
use super::{DomainMemory, Mm, MmHost};
use crate::addr::{ENTRIES_PER_TABLE, MachineAddress, Mfn};
use crate::error::{Error, Result};

const PRESENT: u32 = 1 << 15;
const DPL: u32 = 3 << 13;
/// S: code or data.
const CODE_OR_DATA: u32 = 1 << 12;
const TYPE: u32 = 15 << 8;
const CALL_GATE: u32 = 12 << 8;
/// `FLAT_KERNEL_CS64` (arch-x86/xen-x86_64.h)
const FLAT_KERNEL_CS: u32 = 0xe033;
/// TI: the selector is of the LDT.
const LOCAL: u32 = 4;

/// Checks a descriptor and makes it fit for ring 3: code and data segments get
/// DPL 3; call gates (the only system descriptors that pass) get DPL 0, so that
/// their use faults and can be emulated, and keep their own in the selector.
/// `None` if it is not allowed.
pub fn check_descriptor(raw: u64) -> Option<u64> {
    let (mut a, mut b) = (raw as u32, (raw >> 32) as u32);
    if b & PRESENT == 0 {
        return Some(raw);
    }
    b |= DPL;
    if b & CODE_OR_DATA == 0 {
        if b & TYPE == 0 {
            // The second half of a call gate.
            return Some(raw);
        }
        if b & TYPE != CALL_GATE {
            return None;
        }
        let selector = a >> 16;
        let guests = selector >> 3 < FIRST_RESERVED_GDT_ENTRY as u32
            || selector == FLAT_KERNEL_CS
            || selector & LOCAL != 0;
        if !guests || b & 0xff != 0 {
            return None;
        }
        b &= !DPL;
        a = (a & 0xffff) | ((selector | 3) << 16);
    }
    Some((u64::from(b) << 32) | u64::from(a))
}

impl<H: MmHost> Tables<'_, H> {
    fn get_descriptor_type(&self, mfn: Mfn) -> Result<()> {
        let info = self.mm.frames().ram(mfn).ok_or(Error::Invalid)?;
        let mut now = info.type_word();
        let old = loop {
            if now.is_full() {
                return Err(Error::Invalid);
            }
            let mut new = now;
            if now.count() == 0 {
                new = now.retyped(PageType::SegmentDescriptors);
            } else if now.page_type() != PageType::SegmentDescriptors || !now.is_validated() {
                return Err(Error::Invalid);
            }
            match info.cas_type(now, new.0 + 1) {
                Ok(()) => break now,
                Err(other) => now = other,
            }
        };
        if old.retyped(PageType::SegmentDescriptors).is_validated() {
            return Ok(());
        }
        if old.page_type() != PageType::SegmentDescriptors {
            self.mm.host.flush_since(info.stamp());
        }
        if old.0 & TypeWord::NON_COHERENT != 0 {
            self.mm.host.make_coherent(mfn);
            info.page_type
                .fetch_and(!TypeWord::NON_COHERENT, Ordering::AcqRel);
        }
        let frame = self.frame(mfn).ok_or(Error::Invalid);
        let result = frame.and_then(|frame| {
            for slot in 0..ENTRIES_PER_TABLE {
                let raw = frame.load(slot);
                let good = check_descriptor(raw).ok_or(Error::Invalid)?;
                if good != raw {
                    frame.store(slot, good);
                    self.was_written(mfn);
                }
            }
            Ok(())
        });
        match result {
            Ok(()) => {
                info.page_type
                    .fetch_or(TypeWord::VALIDATED, Ordering::AcqRel);
            }
            Err(_) => {
                info.set_stamp(self.mm.host.clock());
                info.page_type.store(0, Ordering::Release);
            }
        }
        result
    }
}

impl<H: MmHost> Mm<H> {
    /// Takes both references to a frame of the domain as a page of a GDT or LDT.
    /// [`Self::put_descriptor_page`] gives them back.
    ///
    /// # Errors
    /// `Invalid` if it is not the domain's, is in use as another type, or has a
    /// descriptor that is not allowed.
    pub fn get_descriptor_page(&self, domain: &DomainMemory, mfn: Mfn) -> Result<()> {
        let page = self.get_page(mfn, domain.id()).ok_or(Error::Invalid)?;
        self.lock(domain).get_descriptor_type(mfn)?;
        page.keep();
        Ok(())
    }

    /// Gives back what [`Self::get_descriptor_page`] took, when the hypervisor's
    /// mapping of the page is gone.
    pub fn put_descriptor_page(&self, mfn: Mfn) {
        self.put_data_type(mfn);
        self.put_page(mfn);
    }

    /// `update_descriptor`: writes a descriptor at a machine address, in a page of
    /// a descriptor table or an ordinary one.
    ///
    /// # Errors
    /// `Invalid` for a bad address or descriptor.
    pub fn update_descriptor(&self, domain: &DomainMemory, address: u64, raw: u64) -> Result<()> {
        let good = check_descriptor(raw).ok_or(Error::Invalid)?;
        if !address.is_multiple_of(8) {
            return Err(Error::Invalid);
        }
        let address = MachineAddress(address);
        let page = self
            .get_page(address.frame(), domain.id())
            .ok_or(Error::Invalid)?;
        let info = self.frames().ram(page.mfn()).ok_or(Error::Invalid)?;
        let frame = self.host.frame(page.mfn()).ok_or(Error::Invalid)?;
        let tables = self.lock(domain);
        if info.type_word().page_type() == PageType::SegmentDescriptors {
            tables.get_descriptor_type(page.mfn())?;
        } else {
            self.get_writable_type(page.mfn())?;
        }
        frame.store(address.offset() / 8, good);
        tables.was_written(page.mfn());
        self.put_data_type(page.mfn());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(a: u32, b: u32) -> u64 {
        (u64::from(b) << 32) | u64::from(a)
    }

    #[test]
    fn segments_are_put_into_ring_3_and_gates_fault() {
        // A flat 64-bit code segment of ring 0.
        let code = descriptor(0xffff, 0x00af_9b00);
        assert_eq!(
            check_descriptor(code),
            Some(descriptor(0xffff, 0x00af_fb00))
        );
        // Not present: anything goes.
        assert_eq!(
            check_descriptor(0x0000_0900_1234_5678),
            Some(0x0000_0900_1234_5678)
        );
        // TSS, LDT, interrupt and task gates do not.
        for kind in [0x200, 0x500, 0x900, 0xb00, 0xe00, 0xf00] {
            assert_eq!(check_descriptor(descriptor(0, 0x8000 | kind)), None);
        }
        let gate = descriptor(0x0033_0000 | 0x10, 0x1234_ec00);
        assert_eq!(
            check_descriptor(gate),
            Some(descriptor(0x0033_0010, 0x1234_8c00))
        );
        // A gate to the hypervisor's code segment.
        assert_eq!(check_descriptor(descriptor(0xe008_0000, 0x0000_ec00)), None);
        assert!(check_descriptor(descriptor(0xe033_0000, 0x0000_ec00)).is_some());
        assert_eq!(check_descriptor(descriptor(0x0033_0000, 0x0000_ec01)), None);
    }
}
