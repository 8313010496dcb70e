//! Printing the state of vCPUs and domains.

use core::sync::atomic::Ordering;

use overcast_core::addr::GuestVirtual;

use crate::arch::percpu;
use crate::arch::registers::Registers;
use crate::domain;
use crate::guest;
use crate::vcpu::Vcpu;

/// Words of the guest's stack that are printed.
const STACK_WORDS: usize = 24;

/// Prints registers, as real Xen lays them out.
pub fn registers(regs: &Registers) {
    log::error!("RIP:    {:04x}:[<{:016x}>]", regs.cs as u16, regs.rip);
    log::error!(
        "RFLAGS: {:016x}   vector {:#x}   error code {:#x}",
        regs.rflags,
        regs.vector,
        regs.error_code
    );
    log::error!(
        "rax: {:016x}   rbx: {:016x}   rcx: {:016x}",
        regs.rax,
        regs.rbx,
        regs.rcx
    );
    log::error!(
        "rdx: {:016x}   rsi: {:016x}   rdi: {:016x}",
        regs.rdx,
        regs.rsi,
        regs.rdi
    );
    log::error!(
        "rbp: {:016x}   rsp: {:016x}   r8:  {:016x}",
        regs.rbp,
        regs.rsp,
        regs.r8
    );
    log::error!(
        "r9:  {:016x}   r10: {:016x}   r11: {:016x}",
        regs.r9,
        regs.r10,
        regs.r11
    );
    log::error!(
        "r12: {:016x}   r13: {:016x}   r14: {:016x}",
        regs.r12,
        regs.r13,
        regs.r14
    );
    log::error!("r15: {:016x}   ss: {:04x}", regs.r15, regs.ss as u16);
}

/// Prints the state of the running vCPU.
pub fn vcpu(vcpu: &Vcpu, regs: &Registers) {
    log::error!(
        "Domain {} (vcpu#{}) on CPU{}, {} mode:",
        vcpu.domain().id,
        vcpu.id,
        percpu::this().cpu,
        if vcpu.kernel_mode.get() {
            "kernel"
        } else {
            "user"
        }
    );
    registers(regs);
    log::error!(
        "cr2: {:016x}   kernel cr3: {:016x}   user cr3: {:016x}",
        vcpu.info().cr2.load(Ordering::Relaxed),
        vcpu.kernel_root.get(),
        vcpu.user_root.get()
    );
    let mut stack = [0u64; STACK_WORDS];
    let got = guest::read_some(
        GuestVirtual(regs.rsp),
        zerocopy::IntoBytes::as_mut_bytes(&mut stack[..]),
    );
    log::error!("Guest stack trace from rsp={:016x}:", regs.rsp);
    for line in stack[..got / 8].chunks(4) {
        match line {
            [a, b, c, d] => log::error!("   {a:016x} {b:016x} {c:016x} {d:016x}"),
            rest => rest.iter().for_each(|word| log::error!("   {word:016x}")),
        }
    }
}

/// Prints all domains and their vCPUs.
pub fn domains() {
    for domain in domain::all() {
        log::info!(
            "domain {}: {} pages of at most {}, privileged {}, paused {}, shutdown {:?}",
            domain.id,
            domain.mm.total_pages(),
            domain.mm.max_pages(),
            domain.privileged,
            domain.pauses.load(Ordering::Relaxed),
            domain.shutdown_reason(),
        );
        for vcpu in domain.vcpus() {
            let info = vcpu.info();
            log::info!(
                "  vcpu{}: {:?} on {:?}, blocked {}, polling {}, pauses {}, upcall pending {} mask {}, runstate {}",
                vcpu.id,
                vcpu.power(),
                vcpu.cpu(),
                vcpu.blocked.load(Ordering::Relaxed),
                vcpu.polling.load(Ordering::Relaxed),
                vcpu.pauses.load(Ordering::Relaxed),
                info.upcall_pending.load(Ordering::Relaxed),
                info.upcall_mask.load(Ordering::Relaxed),
                vcpu.runstate.lock().state,
            );
        }
    }
}
