//! Debug registers of guests (Intel SDM volume 3, 17.2).

use core::arch::asm;

use overcast_core::addr::GuestVirtual;
use overcast_core::error::{Error, Result};

use crate::vcpu::{self, DR6_DEFAULT, DR7_DEFAULT, Vcpu};

/// CR4.DE: debugging extensions.
const CR4_DE: u64 = 1 << 3;
/// DR7 bits that enable a breakpoint.
const DR7_ACTIVE: u64 = 0xff;
/// DR7.GD: faults on access to the debug registers.
const DR7_GENERAL_DETECT: u64 = 1 << 13;
/// DR7 bits that read as 0.
const DR7_ZERO: u64 = 0xd800 & !DR7_GENERAL_DETECT;
/// DR6 bits that read as 0.
const DR6_ZERO: u64 = 1 << 12;

/// Writes one of the CPU's own debug registers.
fn write(register: u32, value: u64) {
    // SAFETY: addresses lie outside the hypervisor, and DR7 was checked.
    unsafe {
        match register {
            0 => asm!("mov dr0, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
            1 => asm!("mov dr1, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
            2 => asm!("mov dr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
            3 => asm!("mov dr3, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
            6 => asm!("mov dr6, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
            _ => asm!("mov dr7, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
        }
    }
}

/// Whether the vCPU has an active breakpoint.
fn active(vcpu: &Vcpu) -> bool {
    vcpu.dr7.get() & DR7_ACTIVE != 0
}

/// Loads the debug registers of the vCPU that is about to run.
pub fn load(vcpu: &Vcpu) {
    if active(vcpu) {
        activate(vcpu);
        write(7, vcpu.dr7.get());
    }
}

/// Switches off the breakpoints of the vCPU that ran.
pub fn unload(vcpu: &Vcpu) {
    if active(vcpu) {
        write(7, DR7_DEFAULT);
    }
}

fn activate(vcpu: &Vcpu) {
    for (register, address) in vcpu.debug_address.iter().enumerate() {
        write(register as u32, address.get());
    }
    write(6, vcpu.dr6.get());
}

/// Whether a breakpoint may be at the address.
fn address_ok(value: u64) -> bool {
    value < 1 << 47 || (GuestVirtual(value).is_canonical() && value >= GuestVirtual::HYPERVISOR_END)
}

/// Sets a debug register of a vCPU: EPERM for an address of the hypervisor, for
/// general detect, or for I/O breakpoints without CR4.DE; EINVAL for bits above
/// the 32nd; ENODEV for a register that there is not.
pub fn set(vcpu: &Vcpu, register: u32, value: u64) -> Result<()> {
    let is_current = vcpu::try_current().is_some_and(|current| core::ptr::eq(current, vcpu));
    match register {
        0..=3 => {
            if !address_ok(value) {
                return Err(Error::NotPermitted);
            }
            vcpu.debug_address[register as usize].set(value);
            if is_current {
                write(register, value);
            }
        }
        4 | 5 if vcpu.cr4.get() & CR4_DE != 0 => return Err(Error::NotThere),
        4 | 6 => {
            if value >> 32 != 0 {
                return Err(Error::Invalid);
            }
            let value = (value & !DR6_ZERO) | DR6_DEFAULT;
            vcpu.dr6.set(value);
            if is_current {
                write(6, value);
            }
        }
        5 | 7 => {
            if value >> 32 != 0 {
                return Err(Error::Invalid);
            }
            let mut value = (value & !DR7_ZERO) | DR7_DEFAULT;
            if value & DR7_GENERAL_DETECT != 0 {
                return Err(Error::NotPermitted);
            }
            let mut emulated = 0;
            if value & DR7_ACTIVE != 0 {
                for breakpoint in 0..4 {
                    // 2 in the R/W field: an I/O breakpoint.
                    if (value >> (16 + 4 * breakpoint)) & 3 == 2 {
                        if vcpu.cr4.get() & CR4_DE == 0 {
                            return Err(Error::NotPermitted);
                        }
                        emulated |= value & (3 << (2 * breakpoint));
                    }
                }
                value &= !emulated;
                if is_current && !active(vcpu) {
                    activate(vcpu);
                }
            }
            vcpu.dr7_emulated.set(emulated);
            vcpu.dr7.set(value);
            if is_current {
                write(7, value);
            }
        }
        _ => return Err(Error::NotThere),
    }
    Ok(())
}

/// A debug register as the vCPU sees it: ENODEV for one that there is not.
pub fn get(vcpu: &Vcpu, register: u32) -> Result<u64> {
    match register {
        0..=3 => Ok(vcpu.debug_address[register as usize].get()),
        4 | 5 if vcpu.cr4.get() & CR4_DE != 0 => Err(Error::NotThere),
        4 | 6 => Ok(vcpu.dr6.get()),
        5 | 7 => Ok(vcpu.dr7.get() | vcpu.dr7_emulated.get()),
        _ => Err(Error::NotThere),
    }
}
