//! Where every exception and interrupt arrives from the entry code.

use overcast_core::addr::GuestVirtual;

use crate::arch::descriptors::{GDT_WINDOW_PAGES, LDT_WINDOW_PAGES, gdt_window, ldt_window};
use crate::arch::percpu;
use crate::arch::registers::{Registers, rflags, vector};
use crate::arch::{apic, entry, panic};
use crate::pv;
use crate::vcpu;

/// Handles an exception or interrupt; gives the frame to go on with, which is
/// another one only when the return to a guest itself faulted.
///
/// # Safety
/// Called by the entry code alone, with the frame that it just pushed.
pub unsafe extern "C" fn exception(frame: *mut Registers) -> *mut Registers {
    // SAFETY: the entry code's frame is exclusively ours.
    let regs = unsafe { &mut *frame };
    if regs.rflags & rflags::VM != 0 && !regs.is_guest() {
        return from_virtual_8086(frame);
    }
    match regs.vector as u8 {
        vector::NMI => apic::handle_nmi(regs),
        vector::MACHINE_CHECK => crate::arch::mce::handle(regs),
        vector::LEGACY_SYSCALL if regs.is_guest() => guest_exception(regs),
        32.. => apic::handle_vector(regs.vector as u8),
        _ if regs.is_guest() => guest_exception(regs),
        _ => return hypervisor_exception(frame),
    }
    frame
}

/// Handles a page fault of a guest.
///
/// # Safety
/// Called by the entry code alone, with this CPU's guest frame, that it just pushed.
pub unsafe extern "C" fn guest_page_fault(frame: *mut Registers) {
    let address = read_cr2();
    x86_64::instructions::interrupts::enable();
    // SAFETY: the entry code's frame is exclusively ours.
    pv::traps::page_fault(vcpu::current(), unsafe { &mut *frame }, address);
}

/// There is no virtual-8086 mode in 64-bit mode, but QEMU's CPU lets ring 3 get
/// there by a 32-bit IRET. It is the guest all the same, and gets a #GP as if the
/// IRET had faulted.
fn from_virtual_8086(frame: *mut Registers) -> *mut Registers {
    // SAFETY: the entry code's frame is exclusively ours.
    let mut whole = unsafe { frame.read() };
    match whole.vector as u8 {
        number @ 32.. => apic::handle_vector(number),
        vector::NMI => apic::handle_nmi(&mut whole),
        _ => {}
    }
    whole.rflags &= !rflags::VM;
    whole.cs |= 3;
    whole.ss |= 3;
    whole.vector = vector::GENERAL_PROTECTION.into();
    whole.error_code = 0;
    guest_exception(&mut whole);
    write_guest_frame(whole)
}

/// The faulting address of the page fault that is being handled.
fn read_cr2() -> u64 {
    x86_64::registers::control::Cr2::read_raw()
}

/// An exception of a guest.
fn guest_exception(regs: &mut Registers) {
    let address = match regs.vector as u8 {
        vector::PAGE_FAULT => read_cr2(),
        vector::DEBUG => read_and_reset_dr6(),
        _ => 0,
    };
    x86_64::instructions::interrupts::enable();
    pv::traps::from_guest(vcpu::current(), regs, address);
}

/// DR6 of the debug exception that is being handled; it is set back to its
/// value without conditions.
fn read_and_reset_dr6() -> u64 {
    let dr6: u64;
    // SAFETY: debug registers are per CPU, and the guest's own value is kept in the vCPU.
    unsafe {
        core::arch::asm!("mov {}, dr6", out(reg) dr6, options(nomem, nostack, preserves_flags));
        core::arch::asm!("mov dr6, {}", in(reg) vcpu::DR6_DEFAULT, options(nomem, nostack, preserves_flags));
    }
    dr6
}

/// Whether a linear address lies in the windows of this CPU's descriptor tables,
/// and if so at which offset of the LDT.
pub fn ldt_window_offset(address: u64) -> Option<u64> {
    let base = ldt_window(percpu::this().cpu);
    address
        .checked_sub(base)
        .filter(|&offset| offset < (LDT_WINDOW_PAGES * 4096) as u64)
}

/// Whether a linear address lies in the window of this CPU's GDT.
fn in_gdt_window(address: u64) -> bool {
    let base = gdt_window(percpu::this().cpu);
    (base..base + (GDT_WINDOW_PAGES * 4096) as u64).contains(&address)
}

/// An exception of the hypervisor itself: one that was reckoned with, or the end.
fn hypervisor_exception(frame: *mut Registers) -> *mut Registers {
    // SAFETY: the entry code's frame is exclusively ours.
    let regs = unsafe { &mut *frame };
    let vector = regs.vector as u8;
    let mut address = 0;
    if vector == vector::PAGE_FAULT && percpu::try_this().is_some() {
        address = read_cr2();
        // Loading a selector of the guest's LDT: show the page and try again.
        if let Some(offset) = ldt_window_offset(address)
            && let Some(vcpu) = vcpu::try_current()
        {
            let returning = entry::is_return_to_guest(regs.rip);
            if returning || regs.rflags & rflags::IF != 0 {
                // Showing the page takes locks, whose holders may wait for this
                // CPU to flush its TLB.
                x86_64::instructions::interrupts::enable();
            }
            if pv::descriptors::show_ldt_page(vcpu, offset) {
                // What came meanwhile is to be looked at before the guest goes on.
                return if returning {
                    returning_frame(regs)
                } else {
                    frame
                };
            }
        }
        // An address that is not canonical lies outside as well.
        let guest_side =
            !(GuestVirtual::HYPERVISOR_START..GuestVirtual::HYPERVISOR_END).contains(&address);
        if guest_side
            && let Some(vcpu) = vcpu::try_current()
            && pv::shadow::hypervisor_fault(vcpu, regs, address)
        {
            return frame;
        }
        if !guest_side && ldt_window_offset(address).is_none() && !in_gdt_window(address) {
            panic::fatal(regs, "page fault of the hypervisor");
        }
    }
    if vector == vector::DEBUG {
        // A debug exception that a guest armed before it entered by SYSCALL or
        // SYSENTER, or a watchpoint on memory that the hypervisor copies.
        let _ = read_and_reset_dr6();
        // SYSENTER leaves TF alone, and the guest is to find it in its frame: it
        // stays until the entry code has saved the flags.
        if !entry::saves_sysenter_flags(regs.rip) {
            regs.rflags &= !rflags::TF;
        }
        return frame;
    }
    if matches!(
        vector,
        vector::PAGE_FAULT
            | vector::GENERAL_PROTECTION
            | vector::NO_SEGMENT
            | vector::STACK_FAULT
            | vector::INVALID_TSS
    ) {
        if let Some(to) = entry::fixup(regs.rip) {
            regs.rip = to;
            return frame;
        }
        if entry::is_return_to_guest(regs.rip) {
            return failed_return(regs, address);
        }
    }
    if vector == vector::DOUBLE_FAULT {
        panic::fatal(regs, "double fault");
    }
    panic::fatal(regs, "exception of the hypervisor");
}

/// The IRETQ to a guest faulted: its selectors or its instruction pointer are
/// bad. The guest's frame is put together again (the general registers are
/// loaded already), and the guest gets the exception.
fn failed_return(regs: &Registers, address: u64) -> *mut Registers {
    let mut whole = whole_frame(regs);
    whole.error_code = regs.error_code;
    whole.vector = regs.vector;
    // It is as if the guest's next instruction had caused it.
    x86_64::instructions::interrupts::enable();
    pv::traps::from_guest(vcpu::current(), &mut whole, address);
    write_guest_frame(whole)
}

/// The IRETQ to a guest faulted, and is to be tried again.
fn returning_frame(regs: &Registers) -> *mut Registers {
    let mut whole = whole_frame(regs);
    // Not by SYSRET: %rcx and %r11 are the guest's own.
    whole.vector = 0;
    write_guest_frame(whole)
}

/// The registers of the guest to which IRETQ failed to return: the general ones
/// as the entry saved them, the rest as they were to be.
fn whole_frame(regs: &Registers) -> Registers {
    // SAFETY: the guest frame lies at the top of this stack, and its last five
    // words (the interrupt frame) are intact.
    let saved = unsafe { percpu::guest_frame().read() };
    Registers {
        rip: saved.rip,
        cs: saved.cs,
        rflags: saved.rflags,
        rsp: saved.rsp,
        ss: saved.ss,
        ..*regs
    }
}

/// Puts the guest's registers back to the top of this stack. What the entry saved
/// of the failed IRETQ is gone then.
fn write_guest_frame(whole: Registers) -> *mut Registers {
    let guest = percpu::guest_frame();
    // SAFETY: the frame is this CPU's; those that overlap it are not used any more.
    unsafe { guest.write(whole) };
    guest
}
