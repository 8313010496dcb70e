//! The way out of the hypervisor: work that waits, events, and then the guest.

use core::sync::atomic::Ordering;

use overcast_core::addr::GuestVirtual;
use x86_64::instructions::interrupts;

use crate::arch::descriptors::selector;
use crate::arch::percpu;
use crate::arch::registers::{Registers, rflags, vector};
use crate::pv::bounce::{self, Bounce};
use crate::vcpu::{self, Vcpu};
use crate::{schedule, softirq};

/// Bit of the asynchronous-exception mask for NMIs.
const ASYNC_NMI: u8 = 1 << 1;
/// Bit of the asynchronous-exception mask for machine checks.
const ASYNC_MCE: u8 = 1 << 2;

/// Does all that is to be done before this CPU goes back to a guest, switching
/// vCPUs (the frame's contents change) and idling as needed. Returns with
/// interrupts off, and whether SYSRET may be used.
///
/// # Safety
/// Called by the entry code alone, with this CPU's guest frame.
pub unsafe extern "C" fn exit_to_guest(frame: *mut Registers) -> bool {
    // SAFETY: the entry code's frame is exclusively ours.
    let regs = unsafe { &mut *frame };
    let this = percpu::this();
    loop {
        interrupts::disable();
        if this.softirqs.load(Ordering::Acquire) != 0 {
            interrupts::enable();
            softirq::run(regs);
            continue;
        }
        let Some(vcpu) = vcpu::try_current() else {
            schedule::idle();
            continue;
        };
        if deliver_async(vcpu, regs) {
            continue;
        }
        if vcpu.upcall_due() {
            deliver_event(vcpu, regs);
            continue;
        }
        break;
    }
    by_sysret(regs)
}

/// Whether the guest is returned to by SYSRET, whose effects are then those that
/// it sees however it is done: %rcx and %r11 hold its instruction pointer and
/// flags, CS and SS are the flat ones, whatever it asked for, RF is clear. With TF
/// set, the debug exception follows at once, as if SYSCALL itself had been stepped.
fn by_sysret(regs: &mut Registers) -> bool {
    if regs.vector & Registers::SYSCALL == 0 {
        return false;
    }
    regs.rcx = regs.rip;
    regs.r11 = regs.rflags;
    if !GuestVirtual(regs.rip).is_canonical() {
        return false;
    }
    if regs.cs as u16 == selector::RING3_CS32 {
        // There is one SYSRET for compatibility mode and it is seldom used.
        regs.ss = u64::from(selector::RING3_SS);
        return false;
    }
    regs.cs = u64::from(selector::RING3_CS64);
    regs.ss = u64::from(selector::RING3_SS);
    regs.rflags &= !rflags::RF;
    true
}

/// Delivers an event upcall.
fn deliver_event(vcpu: &Vcpu, regs: &mut Registers) {
    interrupts::enable();
    let bounce = Bounce {
        address: vcpu.event_callback.get(),
        mask_events: true,
        ..Bounce::default()
    };
    bounce::deliver(vcpu, regs, &bounce);
}

/// Delivers an NMI or a machine check that waits; says whether there was one.
fn deliver_async(vcpu: &Vcpu, regs: &mut Registers) -> bool {
    let waiting = &vcpu.async_exception;
    let mask = waiting.mask.get();
    let (which, bit, number) =
        if waiting.mce_pending.load(Ordering::Relaxed) && mask & ASYNC_MCE == 0 {
            (&waiting.mce_pending, ASYNC_MCE, vector::MACHINE_CHECK)
        } else if waiting.nmi_pending.load(Ordering::Relaxed) && mask & ASYNC_NMI == 0 {
            (&waiting.nmi_pending, ASYNC_NMI, vector::NMI)
        } else {
            return false;
        };
    interrupts::enable();
    which.store(false, Ordering::Relaxed);
    if vcpu.trap(number).address == 0 {
        return true;
    }
    waiting.old_mask[usize::from(bit == ASYNC_MCE)].set(mask);
    waiting.mask.set(mask | bit);
    bounce::inject(vcpu, regs, number, None);
    true
}

/// Takes back the mask of the innermost asynchronous exception at `iret`.
pub fn end_async(vcpu: &Vcpu) {
    let waiting = &vcpu.async_exception;
    let mask = waiting.mask.get();
    if mask == 0 {
        return;
    }
    for (index, bit) in [ASYNC_NMI, ASYNC_MCE].into_iter().enumerate() {
        let old = waiting.old_mask[index].get();
        if mask == bit || mask ^ old == bit {
            waiting.mask.set(old & !bit);
            return;
        }
    }
}
