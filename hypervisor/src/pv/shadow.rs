//! Page faults while a guest runs on shadows of its page tables: see
//! [`overcast_core::mm::shadow`].

use overcast_core::addr::{GuestVirtual, Mfn};
use overcast_core::mm::{Access, ShadowFault};
use x86_64::registers::control::Cr3;

use super::traps::{PF_FETCH, PF_PRESENT, PF_RESERVED, PF_USER, PF_WRITE};
use crate::arch::registers::{Registers, rflags};
use crate::arch::{entry, tlb};
use crate::host::mm;
use crate::vcpu::Vcpu;

/// The guest's root table whose shadow CR3 points to. Without one, CR3 is not the vCPU's.
fn root(vcpu: &Vcpu) -> Option<Mfn> {
    let (frame, _) = Cr3::read_raw();
    let cr3 = frame.start_address().as_u64();
    let bases = [
        (vcpu.kernel_cr3.get(), vcpu.kernel_root.get()),
        (vcpu.user_cr3.get(), vcpu.user_root.get()),
    ];
    let (_, root) = bases.into_iter().find(|&(hardware, _)| hardware == cr3)?;
    Some(Mfn(root >> 12))
}

fn resolve(vcpu: &Vcpu, address: u64, code: u32) -> Option<ShadowFault> {
    let access = Access {
        write: code & PF_WRITE != 0,
        fetch: code & PF_FETCH != 0,
        user: code & PF_USER != 0,
    };
    let memory = &vcpu.domain().mm;
    let at = GuestVirtual(address);
    // The holder of the lock may wait for this CPU to flush its TLB.
    let fault = mm().shadow_fault(memory, root(vcpu)?, at, access, || {
        tlb::serve();
        core::hint::spin_loop();
    });
    if fault == ShadowFault::Fixed {
        // CPUs forget the translation that faulted; emulators may not.
        tlb::invalidate_local(address);
    }
    Some(fault)
}

/// A page fault of a guest whose writes are logged. Says whether it is dealt with; if not,
/// it is the guest's own, and the error code is as its own tables would have it.
#[cold]
#[inline(never)]
pub fn guest_fault(vcpu: &Vcpu, regs: &mut Registers, address: u64) -> bool {
    let ours = GuestVirtual::HYPERVISOR_START..GuestVirtual::HYPERVISOR_END;
    if regs.error_code & PF_RESERVED != 0 || ours.contains(&address) {
        return false;
    }
    match resolve(vcpu, address, regs.error_code) {
        Some(ShadowFault::Fixed) => true,
        Some(ShadowFault::Guest { present }) => {
            regs.error_code &= !PF_PRESENT;
            if present {
                regs.error_code |= PF_PRESENT;
            }
            false
        }
        None => false,
    }
}

/// A page fault of the hypervisor at an address of the guest's. Says whether the access
/// is to be made again.
pub fn hypervisor_fault(vcpu: &Vcpu, regs: &Registers, address: u64) -> bool {
    const NEVER: u32 = PF_RESERVED | PF_FETCH;
    if !vcpu.domain().mm.is_logging()
        || regs.error_code & NEVER != 0
        || entry::fixup(regs.rip).is_none()
    {
        return false;
    }
    if regs.rflags & rflags::IF != 0 {
        x86_64::instructions::interrupts::enable();
    }
    resolve(vcpu, address, regs.error_code) == Some(ShadowFault::Fixed)
}
