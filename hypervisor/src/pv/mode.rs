//! The two modes of a guest in ring 3: kernel and user, each with its own page
//! tables and GS base.

use core::arch::asm;

use crate::vcpu::Vcpu;

/// Loads CR3. Global entries (a guest's user pages) stay in the TLB, as they
/// are the same in both modes.
fn write_cr3(value: u64) {
    // SAFETY: the value is the base of a validated L4 table of the running guest,
    // which shows the hypervisor where it always is.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Switches the running vCPU between kernel and user mode. The caller made sure
/// that there are page tables for user mode.
pub fn toggle(vcpu: &Vcpu) {
    // SAFETY: the hypervisor does not use GS; both bases are the guest's.
    unsafe { asm!("swapgs", options(nomem, nostack, preserves_flags)) };
    vcpu.kernel_mode.set(!vcpu.kernel_mode.get());
    write_cr3(vcpu.cr3());
    if vcpu.kernel_mode.get() {
        crate::time::write_late_areas(vcpu);
    }
}

/// Switches the page tables alone, for an access to the other mode's memory;
/// they are to be switched back.
pub fn toggle_tables(vcpu: &Vcpu) {
    vcpu.kernel_mode.set(!vcpu.kernel_mode.get());
    write_cr3(vcpu.cr3());
}
