//! Small calls about the state of the calling vCPU: stack, FPU, debug
//! registers, segment bases, `vm_assist`, and `iret` (xen.h, arch-x86/xen-x86_64.h).

use core::sync::atomic::Ordering;

use overcast_core::addr::GuestVirtual;
use overcast_core::error::{Error, Result};
use xen_abi::arch_x86::*;
use xen_abi::xen::*;

use super::Call;
use crate::arch::descriptors::selector::RING3_SS;
use crate::arch::entry::{self, Segment};
use crate::arch::registers::{Registers, rflags};
use crate::arch::{debug, fpu};
use crate::pv::{descriptors, exit, mode};
use crate::vcpu::{CR0_TS, Vcpu};
use crate::{domain, guest};

/// Says where exceptions of user space push.
#[inline]
pub fn set_kernel_stack(vcpu: &Vcpu, ss: u64, sp: u64) {
    vcpu.kernel_ss.set(ss | 3);
    vcpu.set_kernel_sp(sp);
}

/// `HYPERVISOR_stack_switch(ss, sp)`.
pub fn stack_switch(call: &mut Call<'_>) -> Result<i64> {
    set_kernel_stack(call.vcpu, call.args[0], call.args[1]);
    Ok(0)
}

/// Sets or clears the virtual CR0.TS.
pub fn set_task_switched(vcpu: &Vcpu, set: bool) {
    if set {
        vcpu.cr0.set(vcpu.cr0.get() | CR0_TS);
        fpu::set_ts();
    } else {
        vcpu.cr0.set(vcpu.cr0.get() & !CR0_TS);
        fpu::clear_ts();
    }
}

/// `HYPERVISOR_fpu_taskswitch(set)`.
pub fn fpu_taskswitch(call: &mut Call<'_>) -> Result<i64> {
    set_task_switched(call.vcpu, call.args[0] as u32 != 0);
    Ok(0)
}

/// `HYPERVISOR_set_debugreg(reg, value)`.
pub fn set_debugreg(call: &mut Call<'_>) -> Result<i64> {
    debug::set(call.vcpu, call.args[0] as u32, call.args[1])?;
    Ok(0)
}

/// `HYPERVISOR_get_debugreg(reg)`: the value, or ENODEV.
pub fn get_debugreg(call: &mut Call<'_>) -> Result<i64> {
    debug::get(call.vcpu, call.args[0] as u32).map(|value| value as i64)
}

/// Sets the base of GS in user mode to a canonical address; the kernel runs.
#[inline]
pub fn set_user_gs_base(vcpu: &Vcpu, base: u64) {
    vcpu.gs_base_user.set(base);
    descriptors::write_shadow_gs_base(base);
}

/// `HYPERVISOR_set_segment_base(which, base)`: EINVAL for an unknown one or a
/// base that is not canonical. `SEGBASE_GS_USER_SEL` loads the selector of user
/// mode's GS; a selector that cannot be loaded becomes 0.
pub fn set_segment_base(call: &mut Call<'_>) -> Result<i64> {
    let vcpu = call.vcpu;
    let base = call.args[1];
    let which = call.args[0] as u32;
    if which != SEGBASE_GS_USER_SEL && !GuestVirtual(base).is_canonical() {
        return Err(Error::Invalid);
    }
    match which {
        SEGBASE_FS => descriptors::write_base(Segment::Fs, base),
        SEGBASE_GS_USER => set_user_gs_base(vcpu, base),
        SEGBASE_GS_KERNEL => descriptors::write_base(Segment::Gs, base),
        SEGBASE_GS_USER_SEL => {
            let mut selector = base as u16;
            if selector > 3 {
                // Not one that only the hypervisor may use.
                selector |= 3;
            }
            descriptors::with_user_gs(|| {
                // On AMD CPUs a null selector leaves the base that was there.
                entry::load_segment(Segment::Gs, RING3_SS);
                if selector > 3 && !entry::load_segment(Segment::Gs, selector) {
                    selector = 0;
                }
                if selector <= 3 {
                    entry::load_segment(Segment::Gs, selector);
                }
                vcpu.gs_base_user.set(descriptors::read_base(Segment::Gs));
            });
        }
        _ => return Err(Error::Invalid),
    }
    Ok(0)
}

/// The assists that a 64-bit PV guest may switch; those that mean something to
/// 32-bit guests only are without effect.
pub const ASSISTS: u64 = 1 << VMASST_TYPE_4GB_SEGMENTS
    | 1 << VMASST_TYPE_4GB_SEGMENTS_NOTIFY
    | 1 << VMASST_TYPE_PAE_EXTENDED_CR3
    | 1 << VMASST_TYPE_WRITABLE_PAGETABLES
    | 1 << VMASST_TYPE_ARCHITECTURAL_IOPL
    | 1 << VMASST_TYPE_RUNSTATE_UPDATE_FLAG
    | 1 << VMASST_TYPE_M2P_STRICT;

/// `HYPERVISOR_vm_assist(cmd, type)`: EINVAL for a type that there is not,
/// ENOSYS for an unknown command.
pub fn vm_assist(call: &mut Call<'_>) -> Result<i64> {
    let kind = call.args[1] as u32;
    if kind >= 64 || ASSISTS & (1 << kind) == 0 {
        return Err(Error::Invalid);
    }
    let assists = &call.domain.assists;
    match call.args[0] as u32 {
        VMASST_CMD_ENABLE => {
            assists.fetch_or(1 << kind, Ordering::AcqRel);
        }
        VMASST_CMD_DISABLE => {
            assists.fetch_and(!(1 << kind), Ordering::AcqRel);
        }
        _ => return Err(Error::NotImplemented),
    }
    Ok(0)
}

/// `HYPERVISOR_iret()`: takes the frame on the kernel's stack. A guest whose
/// frame cannot be read, or that has no page tables for user mode, is crashed.
pub fn iret(call: &mut Call<'_>) -> Result<i64> {
    let vcpu = call.vcpu;
    let Ok(frame) = guest::read::<IretContext>(GuestVirtual(call.regs.rsp)) else {
        domain::crash_current(vcpu, call.regs, "the frame for iret cannot be read");
        return Ok(0);
    };
    if frame.cs & 3 == 3 {
        if vcpu.user_root.get() == 0 {
            domain::crash_current(vcpu, call.regs, "it has no page tables for user mode");
            return Ok(0);
        }
        mode::toggle(vcpu);
    }
    if call.domain.has_assist(VMASST_TYPE_ARCHITECTURAL_IOPL) {
        vcpu.iopl.set(frame.rflags & rflags::IOPL);
    }
    let regs = &mut *call.regs;
    regs.rip = frame.rip;
    regs.cs = u64::from(frame.cs as u16 | 3);
    regs.rflags = (frame.rflags & !(rflags::IOPL | rflags::VM)) | rflags::IF;
    regs.rflags &= rflags::VALID;
    regs.rsp = frame.rsp;
    regs.ss = u64::from(frame.ss as u16 | 3);
    if frame.flags & VGCF_IN_SYSCALL == 0 {
        regs.vector &= !Registers::SYSCALL;
        regs.r11 = frame.r11;
        regs.rcx = frame.rcx;
    }
    let masked = frame.rflags & rflags::IF == 0;
    vcpu.info()
        .upcall_mask
        .store(u8::from(masked), Ordering::Relaxed);
    exit::end_async(vcpu);
    Ok(frame.rax as i64)
}
