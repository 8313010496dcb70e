//! Model-specific registers.

use core::arch::asm;

/// SYSENTER's code selector.
pub const SYSENTER_CS: u32 = 0x174;
/// SYSENTER's stack pointer.
pub const SYSENTER_ESP: u32 = 0x175;
/// SYSENTER's instruction pointer.
pub const SYSENTER_EIP: u32 = 0x176;
/// Extended features.
pub const EFER: u32 = 0xc000_0080;
/// Selectors of SYSCALL and SYSRET.
pub const STAR: u32 = 0xc000_0081;
/// Where SYSCALL leads from 64-bit mode.
pub const LSTAR: u32 = 0xc000_0082;
/// Where SYSCALL leads from compatibility mode.
pub const CSTAR: u32 = 0xc000_0083;
/// RFLAGS bits that SYSCALL clears.
pub const FMASK: u32 = 0xc000_0084;
/// Base of FS.
pub const FS_BASE: u32 = 0xc000_0100;
/// Base of GS.
pub const GS_BASE: u32 = 0xc000_0101;
/// The base that SWAPGS exchanges with that of GS.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Reads an MSR that is known to exist.
pub fn read(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading changes nothing; the caller names an MSR that exists.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR that is known to exist.
///
/// # Safety
/// The value does no harm to the hypervisor.
pub unsafe fn write(msr: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
    }
}
