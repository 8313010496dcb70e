//! Setting and reading a vCPU's whole state (`struct vcpu_guest_context`), for
//! `VCPUOP_initialise`, and for those who build domains or move them.

use alloc::boxed::Box;
use core::cell::Cell;
use core::sync::atomic::Ordering;

use overcast_core::addr::{GuestVirtual, Mfn};
use overcast_core::error::{Error, Result};
use overcast_core::machine::Preempt;
use xen_abi::arch_x86::*;
use zerocopy::FromZeros;

use crate::arch::debug;
use crate::arch::registers::{Registers, rflags};
use crate::domain::Domain;
use crate::host::mm;
use crate::hypercall::{ASSISTS, install_gdt};
use crate::vcpu::{CR0_GUEST, CR0_TS, Callback, DR6_DEFAULT, DR7_DEFAULT, Power, Vcpu};

/// The bits of RFLAGS that a guest may set.
const RFLAGS_VALID: u64 = rflags::VALID & !(rflags::IOPL | rflags::VM);

/// The frame in a CR3 value as the interface gives it.
fn frame_of_cr3(cr3: u64) -> Mfn {
    Mfn(cr3 >> 12)
}

/// Sets the state of a vCPU that does not run. EINVAL for what cannot be, ERESTART when the
/// validation of its page tables was preempted; EOPNOTSUPP for other page tables or
/// descriptor tables than a vCPU has that was set up before.
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

    let kernel = frame_of_cr3(context.ctrlreg[3]);
    let user_root = (context.ctrlreg[1] != 0).then(|| frame_of_cr3(context.ctrlreg[1]));
    let in_user = context.flags & VGCF_IN_KERNEL == 0;
    if vcpu.power() == Power::Uninitialised {
        if user_root.is_none() && in_user {
            return Err(Error::Invalid);
        }
        install(domain, vcpu, context, kernel, user_root, preempt)?;
    } else if !has_tables(vcpu, context, kernel, user_root) || (user_root.is_none() && in_user) {
        return Err(Error::NotSupported);
    }

    vcpu.kernel_mode.set(!in_user);

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
    // SAFETY: the vCPU does not run, and only the caller sets it up.
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
    for register in &vcpu.debug_address {
        register.set(0);
    }
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

/// The frames of the GDT that a context asks for; at most 14.
fn gdt_frames(context: &VcpuGuestContext) -> ([Mfn; 14], usize) {
    let count = (context.gdt_ents as usize).div_ceil(512).min(14);
    let mut frames = [Mfn(0); 14];
    frames
        .iter_mut()
        .zip(&context.gdt_frames)
        .for_each(|(to, &from)| *to = Mfn(from));
    (frames, count)
}

/// The LDT that a context asks for: address and number of entries.
fn ldt(context: &VcpuGuestContext) -> (u64, u32) {
    match context.ldt_ents as u32 {
        0 => (0, 0),
        entries => (context.ldt_base, entries),
    }
}

/// Gives a vCPU that was not set up its page tables and descriptor tables.
fn install(
    domain: &Domain,
    vcpu: &Vcpu,
    context: &VcpuGuestContext,
    kernel: Mfn,
    user_root: Option<Mfn>,
    preempt: &dyn Preempt,
) -> Result<()> {
    let (frames, count) = gdt_frames(context);
    install_gdt(vcpu, &domain.mm, &frames[..count], context.gdt_ents as u32)?;
    let mut tables = vcpu.tables.lock();
    let installed = mm().install_tables(&domain.mm, &mut tables, kernel, user_root, preempt);
    if let Err(error) = installed {
        drop(tables);
        if error != Error::Restart {
            install_gdt(vcpu, &domain.mm, &[], 0)?;
        }
        return Err(error);
    }
    let hardware = mm().hardware_roots(&domain.mm, &tables);
    drop(tables);
    vcpu.set_kernel_base(Some(kernel), hardware.kernel);
    vcpu.set_user_base(user_root, hardware.user);
    vcpu.ldt.set(ldt(context));
    Ok(())
}

/// Whether a vCPU has the tables that a context names.
fn has_tables(
    vcpu: &Vcpu,
    context: &VcpuGuestContext,
    kernel: Mfn,
    user_root: Option<Mfn>,
) -> bool {
    let tables = vcpu.tables.lock();
    let (frames, count) = gdt_frames(context);
    tables.kernel() == Some(kernel)
        && tables.user() == user_root
        && vcpu.gdt_entries.get() == context.gdt_ents as u32
        && vcpu.gdt_frames() == &frames[..count]
        && vcpu.ldt.get() == ldt(context)
}

/// The state of a vCPU that does not run.
pub fn get(vcpu: &Vcpu) -> Box<VcpuGuestContext> {
    let mut context = Box::new(VcpuGuestContext::new_zeroed());
    let c = &mut *context;
    vcpu.fpu.read(&mut c.fpu_ctxt);
    c.flags = VGCF_I387_VALID;
    let (failsafe, syscall) = (vcpu.failsafe.get(), vcpu.syscall.get());
    for (flag, set) in [
        (VGCF_IN_KERNEL, vcpu.kernel_mode.get()),
        (VGCF_ONLINE, vcpu.power() == Power::Up),
        (VGCF_FAILSAFE_DISABLES_EVENTS, failsafe.mask_events),
        (VGCF_SYSCALL_DISABLES_EVENTS, syscall.mask_events),
    ] {
        if set {
            c.flags |= flag;
        }
    }
    // SAFETY: the vCPU does not run, and the caller keeps it so.
    let regs = *unsafe { vcpu.saved_registers() };
    let selector = |n: usize| vcpu.selectors.get(n).map_or(0, Cell::get);
    c.user_regs = CpuUserRegs {
        r15: regs.r15,
        r14: regs.r14,
        r13: regs.r13,
        r12: regs.r12,
        rbp: regs.rbp,
        rbx: regs.rbx,
        r11: regs.r11,
        r10: regs.r10,
        r9: regs.r9,
        r8: regs.r8,
        rax: regs.rax,
        rcx: regs.rcx,
        rdx: regs.rdx,
        rsi: regs.rsi,
        rdi: regs.rdi,
        error_code: regs.error_code,
        entry_vector: regs.vector,
        rip: regs.rip,
        cs: regs.cs as u16,
        rflags: regs.rflags | vcpu.iopl.get(),
        rsp: regs.rsp,
        ss: regs.ss as u16,
        ds: selector(0),
        es: selector(1),
        fs: selector(2),
        gs: selector(3),
        ..CpuUserRegs::new_zeroed()
    };
    for (vector, trap) in (0u8..=255).zip(c.trap_ctxt.iter_mut()) {
        *trap = vcpu.trap(vector);
    }
    let (base, entries) = vcpu.ldt.get();
    c.ldt_base = base;
    c.ldt_ents = entries.into();
    c.gdt_frames
        .iter_mut()
        .zip(vcpu.gdt_frames())
        .for_each(|(to, from)| *to = from.0);
    c.gdt_ents = vcpu.gdt_entries.get().into();
    c.kernel_ss = vcpu.kernel_ss.get();
    c.kernel_sp = vcpu.kernel_sp.get();
    c.ctrlreg[0] = vcpu.cr0.get();
    c.ctrlreg[1] = vcpu.user_root.get();
    c.ctrlreg[2] = vcpu.info().cr2.load(Ordering::Relaxed);
    c.ctrlreg[3] = vcpu.kernel_root.get();
    c.ctrlreg[4] = vcpu.cr4.get();
    for (to, from) in c.debugreg.iter_mut().zip(&vcpu.debug_address) {
        *to = from.get();
    }
    c.debugreg[6] = vcpu.dr6.get();
    c.debugreg[7] = vcpu.dr7.get() | vcpu.dr7_emulated.get();
    c.event_callback_eip = vcpu.event_callback.get();
    c.failsafe_callback_eip = failsafe.address;
    c.syscall_callback_eip = syscall.address;
    c.vm_assist = vcpu.domain().assists.load(Ordering::Acquire);
    c.fs_base = vcpu.fs_base.get();
    c.gs_base_kernel = vcpu.gs_base_kernel.get();
    c.gs_base_user = vcpu.gs_base_user.get();
    context
}
