//! `set_gdt` and `update_descriptor` (xen.h).

use overcast_core::addr::Mfn;
use overcast_core::error::{Error, Result};
use overcast_core::mm::DomainMemory;
use xen_abi::arch_x86::FIRST_RESERVED_GDT_ENTRY;

use super::Call;
use crate::arch::descriptors::{GUEST_GDT_PAGES, map_guest_gdt};
use crate::arch::smp;
use crate::guest;
use crate::host::mm;
use crate::vcpu::Vcpu;

/// Descriptors in a page.
const PER_PAGE: usize = 512;

/// `HYPERVISOR_set_gdt(frames, entries)`: EINVAL for too many entries or a frame
/// that cannot hold descriptors, EFAULT.
pub fn set_gdt(call: &mut Call<'_>) -> Result<i64> {
    let entries = call.args[1] as u32;
    if entries as usize > FIRST_RESERVED_GDT_ENTRY {
        return Err(Error::Invalid);
    }
    let count = (entries as usize).div_ceil(PER_PAGE);
    let mut numbers = [0u64; GUEST_GDT_PAGES];
    guest::read_items(call.handle(0), 0, &mut numbers[..count])?;
    let frames = numbers.map(Mfn);
    install(call.vcpu, &call.domain.mm, &frames[..count], entries)?;
    Ok(0)
}

/// Gives a vCPU a GDT, which holds references to its frames, in the place of the
/// one before. EINVAL if a frame cannot hold descriptors.
pub fn install(vcpu: &Vcpu, domain: &DomainMemory, frames: &[Mfn], entries: u32) -> Result<()> {
    for (index, &mfn) in frames.iter().enumerate() {
        if mm().get_descriptor_page(domain, mfn).is_err() {
            frames[..index]
                .iter()
                .for_each(|&mfn| mm().put_descriptor_page(mfn));
            return Err(Error::Invalid);
        }
    }
    let mut old = [Mfn(0); GUEST_GDT_PAGES];
    let count = vcpu.gdt_frames().len();
    old[..count].copy_from_slice(vcpu.gdt_frames());
    vcpu.set_gdt_frames(frames);
    vcpu.gdt_entries.set(entries);
    if core::ptr::eq(crate::arch::percpu::this().current.get(), vcpu) {
        // The old frames leave the window before they are given up.
        map_guest_gdt(vcpu.gdt_frames(), smp::zero_page_or_bug());
    }
    old[..count]
        .iter()
        .for_each(|&mfn| mm().put_descriptor_page(mfn));
    Ok(())
}

/// `HYPERVISOR_update_descriptor(address, descriptor)`: EINVAL for an address
/// that is not aligned or not the guest's, or a descriptor that is not allowed.
pub fn update_descriptor(call: &mut Call<'_>) -> Result<i64> {
    mm().update_descriptor(&call.domain.mm, call.args[0], call.args[1])?;
    Ok(0)
}
