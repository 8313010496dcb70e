//! Exceptions that a guest caused.

use overcast_core::addr::GuestVirtual;
use xen_abi::xen::VMASST_TYPE_WRITABLE_PAGETABLES;

use crate::arch::fpu;
use crate::arch::registers::{Registers, vector};
use crate::arch::traps::ldt_window_offset;
use crate::pv::bounce;
use crate::pv::{descriptors, emulate, shadow};
use crate::vcpu::{CR0_TS, DR6_DEFAULT, Vcpu};

/// Page-fault error code: the page was present.
pub(super) const PF_PRESENT: u32 = 1 << 0;
/// Page-fault error code: a write.
pub(super) const PF_WRITE: u32 = 1 << 1;
/// Page-fault error code: an access of ring 3 (and not one that the CPU made for it).
pub(super) const PF_USER: u32 = 1 << 2;
/// Page-fault error code: a reserved bit was set.
pub(super) const PF_RESERVED: u32 = 1 << 3;
/// Page-fault error code: an instruction fetch.
pub(super) const PF_FETCH: u32 = 1 << 4;

/// Error-code bit: the fault was found while an external event was delivered.
const EC_EXTERNAL: u32 = 1 << 0;
/// Error-code bit: the index is one of the IDT.
const EC_IDT: u32 = 1 << 1;
/// Error-code bit: the index is one of the LDT.
const EC_LDT: u32 = 1 << 2;

/// Handles an exception of the running guest. `address` is CR2 for page faults
/// and DR6 for debug exceptions.
pub fn from_guest(vcpu: &Vcpu, regs: &mut Registers, address: u64) {
    let number = regs.vector as u8;
    match number {
        vector::PAGE_FAULT => page_fault(vcpu, regs, address),
        vector::GENERAL_PROTECTION => general_protection(vcpu, regs),
        vector::INVALID_OPCODE => {
            if !emulate::invalid_opcode(vcpu, regs) {
                bounce::inject(vcpu, regs, number, None);
            }
        }
        vector::NO_DEVICE => no_device(vcpu, regs),
        vector::DEBUG => {
            let reported = address & !DR6_DEFAULT;
            vcpu.dr6
                .set((vcpu.dr6.get() | reported) & (address | !DR6_DEFAULT));
            bounce::inject(vcpu, regs, number, None);
        }
        vector::LEGACY_SYSCALL => legacy_syscall(vcpu, regs),
        vector::DOUBLE_FAULT => crate::arch::panic::fatal(regs, "double fault"),
        vector::INVALID_TSS
        | vector::NO_SEGMENT
        | vector::STACK_FAULT
        | vector::ALIGNMENT_CHECK => bounce::inject(vcpu, regs, number, Some(regs.error_code)),
        _ => bounce::inject(vcpu, regs, number, None),
    }
}

/// `int 0x80`: whatever the privilege level of the guest's gate. Without one it is
/// the fault that any other `int n` is.
fn legacy_syscall(vcpu: &Vcpu, regs: &mut Registers) {
    if vcpu.trap(vector::LEGACY_SYSCALL).address != 0 {
        bounce::inject(vcpu, regs, vector::LEGACY_SYSCALL, None);
        return;
    }
    regs.rip = regs.rip.wrapping_sub(2);
    regs.vector = u32::from(vector::GENERAL_PROTECTION);
    regs.error_code = u32::from(vector::LEGACY_SYSCALL) << 3 | EC_IDT;
    general_protection(vcpu, regs);
}

/// #NM: FPU use with the guest's own CR0.TS set.
fn no_device(vcpu: &Vcpu, regs: &mut Registers) {
    fpu::clear_ts();
    if vcpu.cr0.get() & CR0_TS != 0 {
        vcpu.cr0.set(vcpu.cr0.get() & !CR0_TS);
        bounce::inject(vcpu, regs, vector::NO_DEVICE, None);
    }
}

/// Handles a page fault of the running guest at `address`.
#[inline]
pub fn page_fault(vcpu: &Vcpu, regs: &mut Registers, address: u64) {
    if vcpu.domain().mm.is_logging() && shadow::guest_fault(vcpu, regs, address) {
        return;
    }
    let code = regs.error_code;
    // User space's own faults are its kernel's.
    if !vcpu.kernel_mode.get() && code & PF_USER != 0 {
        bounce::inject_page_fault(vcpu, regs, code, address);
    } else {
        special_page_fault(vcpu, regs, address);
    }
}

/// A page fault of the guest's kernel, or one that the CPU took on its own account.
#[inline(never)]
fn special_page_fault(vcpu: &Vcpu, regs: &mut Registers, address: u64) {
    let code = regs.error_code;
    let mut address = address;
    if code & PF_USER == 0
        && let Some(offset) = ldt_window_offset(address)
    {
        // The CPU looked into the LDT for the guest.
        if code & PF_RESERVED == 0 && descriptors::show_ldt_page(vcpu, offset) {
            return;
        }
        address = vcpu.ldt.get().0.wrapping_add(offset);
        if !GuestVirtual(address).is_canonical() {
            let selector = (offset as u32 & !7) | EC_LDT;
            bounce::inject(vcpu, regs, vector::GENERAL_PROTECTION, Some(selector));
            return;
        }
    } else if vcpu.kernel_mode.get()
        && (vcpu.domain().privileged || vcpu.domain().has_assist(VMASST_TYPE_WRITABLE_PAGETABLES))
        && code & (PF_PRESENT | PF_WRITE | PF_RESERVED | PF_FETCH) == PF_PRESENT | PF_WRITE
        && !(GuestVirtual::HYPERVISOR_START..GuestVirtual::HYPERVISOR_END).contains(&address)
        && emulate::page_table_write(vcpu, regs, GuestVirtual(address))
    {
        return;
    }
    bounce::inject_page_fault(vcpu, regs, code, address);
}

fn general_protection(vcpu: &Vcpu, regs: &mut Registers) {
    let code = regs.error_code;
    if code & EC_EXTERNAL == 0 && code & EC_IDT != 0 {
        // An `int n` that the hypervisor's own gate refused. The error code names
        // n, but some emulators compute it wrongly: the instruction's bytes tell.
        let (number, length) =
            emulate::software_interrupt_number(regs).unwrap_or(((code >> 3) as u8, 2));
        let trap = vcpu.trap(number);
        // The guest's gate: its privilege level against the guest's own ring.
        let ring = if vcpu.kernel_mode.get() { 1 } else { 3 };
        if trap.flags & 3 >= ring {
            regs.rip = regs.rip.wrapping_add(length.into());
            bounce::inject(vcpu, regs, number, None);
            return;
        }
        let code = u32::from(number) << 3 | EC_IDT;
        bounce::inject(vcpu, regs, vector::GENERAL_PROTECTION, Some(code));
        return;
    }
    if code == 0 {
        if emulate::privileged(vcpu, regs) {
            return;
        }
        // Emulators of CPUs report addresses on the stack that are not canonical
        // as #GP, where CPUs give #SS.
        if emulate::is_stack_fault(regs) {
            bounce::inject(vcpu, regs, vector::STACK_FAULT, Some(0));
            return;
        }
    }
    bounce::inject(vcpu, regs, vector::GENERAL_PROTECTION, Some(code));
}
