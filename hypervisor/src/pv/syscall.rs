//! Entries by SYSCALL and SYSENTER.

use crate::arch::registers::{Registers, rflags, vector};
use crate::hypercall;
use crate::pv::bounce::{self, Bounce};
use crate::vcpu::{self, Callback, Vcpu};

/// SYSCALL from 64-bit mode: a hypercall of the guest's kernel, or a system call
/// of its user space.
///
/// # Safety
/// Called by the entry code alone.
pub unsafe extern "C" fn from_64bit(frame: *mut Registers) {
    // SAFETY: the entry code's frame is exclusively ours.
    let regs = unsafe { &mut *frame };
    let vcpu = vcpu::current();
    if vcpu.kernel_mode.get() {
        x86_64::instructions::interrupts::enable();
        hypercall::dispatch(vcpu, regs);
    } else {
        to_kernel(vcpu, regs, vcpu.syscall.get());
    }
}

/// SYSCALL from compatibility mode.
///
/// # Safety
/// Called by the entry code alone.
pub unsafe extern "C" fn from_32bit(frame: *mut Registers) {
    // SAFETY: the entry code's frame is exclusively ours.
    let regs = unsafe { &mut *frame };
    let vcpu = vcpu::current();
    to_kernel(vcpu, regs, vcpu.syscall32.get());
}

/// Hands a system call to the guest's kernel; without a callback it is an
/// invalid opcode.
fn to_kernel(vcpu: &Vcpu, regs: &mut Registers, callback: Callback) {
    if callback.address == 0 {
        regs.rip = regs.rip.wrapping_sub(2);
        regs.vector = u32::from(vector::INVALID_OPCODE);
        bounce::inject(vcpu, regs, vector::INVALID_OPCODE, None);
        return;
    }
    let bounce = Bounce {
        address: callback.address,
        // As on Xen, the setting of the 64-bit callback is that of both.
        mask_events: vcpu.syscall.get().mask_events,
        ..Bounce::default()
    };
    bounce::deliver(vcpu, regs, &bounce);
    // The handler starts with DF clear; the frame has it as it was.
    regs.rflags &= !rflags::DF;
}

/// SYSENTER: the frame's instruction and stack pointers are 0, for the CPU
/// saved none.
///
/// # Safety
/// Called by the entry code alone.
pub unsafe extern "C" fn from_sysenter(frame: *mut Registers) {
    // SAFETY: the entry code's frame is exclusively ours.
    let regs = unsafe { &mut *frame };
    let vcpu = vcpu::current();
    regs.vector = 0;
    regs.rflags |= rflags::IF;
    let callback = vcpu.sysenter.get();
    if callback.address == 0 {
        bounce::inject(vcpu, regs, vector::GENERAL_PROTECTION, Some(0));
        return;
    }
    let bounce = Bounce {
        address: callback.address,
        mask_events: callback.mask_events,
        ..Bounce::default()
    };
    bounce::deliver(vcpu, regs, &bounce);
}
