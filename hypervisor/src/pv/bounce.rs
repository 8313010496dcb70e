//! Bounce frames: how an exception or an event reaches the guest's kernel.
//!
//! The frame on the guest's kernel stack is, from low addresses: rcx, r11,
//! [ds, es, fs, gs for the failsafe callback,] [error code,] rip, cs (bits 32 to
//! 39: the event mask before), rflags (IF: events were not masked), rsp, ss. The
//! stack is aligned to 16 bytes before it is pushed.

use core::sync::atomic::Ordering;

use overcast_core::addr::GuestVirtual;
use zerocopy::IntoBytes;

use crate::arch::descriptors::selector;
use crate::arch::registers::{Registers, rflags};
use crate::domain;
use crate::guest;
use crate::pv::mode;
use crate::vcpu::Vcpu;

/// What is to be delivered.
#[derive(Clone, Copy, Default)]
pub struct Bounce {
    /// Address of the handler.
    pub address: u64,
    /// Error code to push.
    pub error_code: Option<u32>,
    /// Whether events are masked on the way in.
    pub mask_events: bool,
    /// DS, ES, FS, GS to push, for the failsafe callback.
    pub segments: Option<[u16; 4]>,
}

/// Makes the frame on the guest's stack and turns the registers to the handler.
/// A guest whose stack cannot be written, or that has no handler, is crashed.
pub fn deliver(vcpu: &Vcpu, regs: &mut Registers, bounce: &Bounce) {
    let mut cs = regs.cs & 0xffff;
    let stack = if vcpu.kernel_mode.get() {
        // Tells the guest that its kernel was running.
        cs &= !3;
        regs.rsp
    } else {
        mode::toggle(vcpu);
        vcpu.kernel_sp.get()
    } & !15;

    let info = vcpu.info();
    let mask = u64::from(info.upcall_mask.load(Ordering::Relaxed));
    let mut flags = regs.rflags & !(rflags::IF | rflags::IOPL);
    if mask == 0 {
        flags |= rflags::IF;
    }
    if vcpu
        .domain()
        .has_assist(xen_abi::xen::VMASST_TYPE_ARCHITECTURAL_IOPL)
    {
        flags |= vcpu.iopl.get();
    }

    let cs = cs | mask << 32;
    let &mut Registers {
        rcx,
        r11,
        rip,
        rsp,
        ss,
        ..
    } = regs;
    let pushed = match (bounce.segments, bounce.error_code) {
        (None, None) => push(stack, [rcx, r11, rip, cs, flags, rsp, ss]),
        (None, Some(code)) => push(stack, [rcx, r11, code.into(), rip, cs, flags, rsp, ss]),
        (Some(segments), None) => {
            let [ds, es, fs, gs] = segments.map(u64::from);
            push(stack, [rcx, r11, ds, es, fs, gs, rip, cs, flags, rsp, ss])
        }
        (Some(segments), Some(code)) => {
            let [ds, es, fs, gs] = segments.map(u64::from);
            let code = code.into();
            push(
                stack,
                [rcx, r11, ds, es, fs, gs, code, rip, cs, flags, rsp, ss],
            )
        }
    };
    let Some(at) = pushed else {
        domain::crash_current(vcpu, regs, "its kernel stack cannot be written");
        return;
    };
    if bounce.address == 0 {
        domain::crash_current(vcpu, regs, "it has no handler for an exception or event");
        return;
    }
    if bounce.mask_events {
        info.upcall_mask.fetch_or(1, Ordering::Relaxed);
    }
    regs.vector |= Registers::SYSCALL;
    regs.rflags &= !(rflags::AC | rflags::VM | rflags::RF | rflags::NT | rflags::TF);
    regs.ss = u64::from(selector::RING3_SS);
    regs.cs = u64::from(selector::RING3_CS64);
    regs.rsp = at;
    regs.rip = bounce.address;
}

/// Writes words onto a guest's stack; gives where they are, if it can be written.
#[inline]
fn push<const N: usize>(stack: u64, words: [u64; N]) -> Option<u64> {
    let at = stack.wrapping_sub(N as u64 * 8);
    guest::write_bytes(GuestVirtual(at), words.as_bytes())
        .is_ok()
        .then_some(at)
}

/// The bounce for a vector of the virtual IDT.
pub fn exception(vcpu: &Vcpu, vector: u8, error_code: Option<u32>) -> Bounce {
    let trap = vcpu.trap(vector);
    Bounce {
        address: trap.address,
        error_code,
        mask_events: trap.flags & 4 != 0,
        segments: None,
    }
}

/// Delivers an exception through the virtual IDT.
pub fn inject(vcpu: &Vcpu, regs: &mut Registers, vector: u8, error_code: Option<u32>) {
    let bounce = exception(vcpu, vector, error_code);
    if bounce.address == 0 {
        log::error!(
            "{}v{}: unhandled exception {vector} (error code {:#x}) at {:#x}",
            vcpu.domain().id,
            vcpu.id,
            error_code.unwrap_or(0),
            regs.rip
        );
    }
    deliver(vcpu, regs, &bounce);
}

/// Delivers a page fault.
pub fn inject_page_fault(vcpu: &Vcpu, regs: &mut Registers, error_code: u32, address: u64) {
    vcpu.info().cr2.store(address, Ordering::Relaxed);
    let mut code = error_code & !0x4;
    if !vcpu.kernel_mode.get() {
        code |= 0x4;
    }
    inject(
        vcpu,
        regs,
        crate::arch::registers::vector::PAGE_FAULT,
        Some(code),
    );
}
