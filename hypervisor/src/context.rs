//! Setting a vCPU's whole state (`struct vcpu_guest_context`), for
//! `VCPUOP_initialise` and the builders of domains.

use core::sync::atomic::Ordering;

use overcast_core::addr::{GuestVirtual, Mfn};
use overcast_core::error::{Error, Result};
use overcast_core::machine::Preempt;
use xen_abi::arch_x86::*;

use crate::arch::debug;
use crate::arch::registers::{Registers, rflags};
use crate::domain::Domain;
use crate::host::mm;
use crate::hypercall::{ASSISTS, install_gdt};
use crate::vcpu::{CR0_GUEST, CR0_TS, Callback, DR6_DEFAULT, DR7_DEFAULT, Vcpu};

/// The bits of RFLAGS that a guest may set.
const RFLAGS_VALID: u64 = 0x3f_7fd7 & !(rflags::IOPL | rflags::VM);

/// The frame in a CR3 value as the interface gives it.
fn frame_of_cr3(cr3: u64) -> Mfn {
    Mfn(cr3 >> 12)
}

/// Sets up a vCPU that never ran. EINVAL for what cannot be, ERESTART when the
/// validation of its page tables was preempted.
pub fn set(
    domain: &Domain,
    vcpu: &Vcpu,
    context: &VcpuGuestContext,
    preempt: &dyn Preempt,
) -> Result<()> {
    let user = &context.user_regs;
    let canonical = |address: u64| GuestVirtual(address).is_canonical();
    let addresses = [
        user.rip,
        user.rsp,
        context.kernel_sp,
        context.fs_base,
        context.gs_base_kernel,
        context.gs_base_user,
        context.event_callback_eip,
        context.syscall_callback_eip,
        context.failsafe_callback_eip,
    ];
    if !addresses.into_iter().all(canonical)
        || !context.trap_ctxt.iter().all(|trap| canonical(trap.address))
        || (context.ldt_ents != 0 && !canonical(context.ldt_base))
        || !GuestVirtual(context.ldt_base).access_ok(1)
        || context.ldt_base & 0xfff != 0
        || context.ldt_ents > 8192
        || context.gdt_ents > FIRST_RESERVED_GDT_ENTRY as u64
    {
        return Err(Error::Invalid);
    }
    if vcpu.id.0 == 0 && context.vm_assist & !ASSISTS != 0 {
        return Err(Error::Invalid);
    }

    // The page tables first: that is what may have to be continued.
    let kernel = frame_of_cr3(context.ctrlreg[3]);
    let user_root = (context.ctrlreg[1] != 0).then(|| frame_of_cr3(context.ctrlreg[1]));
    if user_root.is_none() && context.flags & VGCF_IN_KERNEL == 0 {
        return Err(Error::Invalid);
    }
    mm().install_tables(
        &domain.mm,
        &mut vcpu.tables.lock(),
        kernel,
        user_root,
        preempt,
    )?;
    vcpu.kernel_cr3.set(kernel.address().get());
    vcpu.user_cr3
        .set(user_root.map_or(0, |mfn| mfn.address().get()));

    let count = (context.gdt_ents as usize).div_ceil(512);
    let mut frames = [Mfn(0); 14];
    frames
        .iter_mut()
        .zip(&context.gdt_frames)
        .for_each(|(to, &from)| *to = Mfn(from));
    install_gdt(vcpu, &domain.mm, &frames[..count], context.gdt_ents as u32)?;

    vcpu.kernel_mode.set(context.flags & VGCF_IN_KERNEL != 0);
    if context.flags & VGCF_I387_VALID != 0 {
        vcpu.fpu.set_legacy(&context.fpu_ctxt);
    } else {
        vcpu.fpu.reset();
    }
    for (vector, trap) in context.trap_ctxt.iter().enumerate() {
        vcpu.set_trap(
            vector as u8,
            TrapInfo {
                cs: trap.cs | 3,
                ..*trap
            },
        );
    }
    vcpu.iopl.set(user.rflags & rflags::IOPL);
    // SAFETY: the vCPU never ran, and only the caller sets it up.
    let regs = unsafe { vcpu.saved_registers() };
    *regs = Registers {
        r15: user.r15,
        r14: user.r14,
        r13: user.r13,
        r12: user.r12,
        rbp: user.rbp,
        rbx: user.rbx,
        r11: user.r11,
        r10: user.r10,
        r9: user.r9,
        r8: user.r8,
        rax: user.rax,
        rcx: user.rcx,
        rdx: user.rdx,
        rsi: user.rsi,
        rdi: user.rdi,
        error_code: 0,
        vector: 0,
        rip: user.rip,
        cs: u64::from(user.cs | 3),
        rflags: (user.rflags & RFLAGS_VALID) | rflags::IF | rflags::FIXED,
        rsp: user.rsp,
        ss: u64::from(user.ss | 3),
    };
    for (to, from) in vcpu
        .selectors
        .iter()
        .zip([user.ds, user.es, user.fs, user.gs])
    {
        to.set(from);
    }
    vcpu.fs_base.set(context.fs_base);
    vcpu.gs_base_kernel.set(context.gs_base_kernel);
    vcpu.gs_base_user.set(context.gs_base_user);
    let entries = context.ldt_ents as u32;
    vcpu.ldt.set(if entries == 0 {
        (0, 0)
    } else {
        (context.ldt_base, entries)
    });
    vcpu.kernel_ss.set(context.kernel_ss | 3);
    vcpu.set_kernel_sp(context.kernel_sp);
    vcpu.cr0
        .set((CR0_GUEST & !CR0_TS) | (context.ctrlreg[0] & CR0_TS));
    vcpu.cr4
        .set(crate::pv::emulate::allowed_cr4(vcpu, context.ctrlreg[4]));
    vcpu.event_callback.set(context.event_callback_eip);
    vcpu.failsafe.set(Callback {
        address: context.failsafe_callback_eip,
        mask_events: context.flags & VGCF_FAILSAFE_DISABLES_EVENTS != 0,
    });
    vcpu.syscall.set(Callback {
        address: context.syscall_callback_eip,
        mask_events: context.flags & VGCF_SYSCALL_DISABLES_EVENTS != 0,
    });
    vcpu.dr6.set(DR6_DEFAULT);
    vcpu.dr7.set(DR7_DEFAULT);
    vcpu.dr7_emulated.set(0);
    for register in [0, 1, 2, 3, 6, 7] {
        // As on Xen, a bad value is passed over in silence.
        let _ = debug::set(vcpu, register, context.debugreg[register as usize]);
    }
    if vcpu.id.0 == 0 {
        domain.assists.store(context.vm_assist, Ordering::Release);
    }
    Ok(())
}
