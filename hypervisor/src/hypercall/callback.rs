//! `set_trap_table`, `set_callbacks`, `callback_op` and `nmi_op` (callback.h,
//! nmi.h, arch-x86/xen.h): where the guest's kernel is entered.

use overcast_core::addr::GuestVirtual;
use overcast_core::error::{Error, Result};
use xen_abi::arch_x86::TrapInfo;
use xen_abi::callback::*;
use xen_abi::nmi::*;

use super::Call;
use crate::arch::descriptors::selector;
use crate::arch::registers::vector;
use crate::guest;
use crate::vcpu::Callback;

/// `HYPERVISOR_set_trap_table(traps)`: takes entries up to one with address 0; a
/// null handle empties the table. EINVAL for an address that is not canonical.
pub fn set_trap_table(call: &mut Call<'_>) -> Result<i64> {
    let table = call.handle(0);
    if table.is_null() {
        call.vcpu.clear_traps();
        return Ok(0);
    }
    for index in 0.. {
        let mut trap: TrapInfo = guest::read_item(table, index)?;
        if trap.address == 0 {
            break;
        }
        if !GuestVirtual(trap.address).is_canonical() {
            return Err(Error::Invalid);
        }
        trap.cs |= 3;
        call.vcpu.set_trap(trap.vector, trap);
        if call.preempt() {
            call.args[0] = guest::item::<TrapInfo>(table, index + 1)?.0;
            return Err(Error::Restart);
        }
    }
    Ok(0)
}

/// Registers one callback.
fn register(call: &Call<'_>, kind: u16, address: u64, flags: u16) -> Result<i64> {
    if !GuestVirtual(address).is_canonical() {
        return Err(Error::Invalid);
    }
    let vcpu = call.vcpu;
    let callback = Callback {
        address,
        mask_events: flags & CALLBACKF_MASK_EVENTS != 0,
    };
    match kind {
        CALLBACKTYPE_EVENT => vcpu.event_callback.set(address),
        CALLBACKTYPE_FAILSAFE => vcpu.failsafe.set(callback),
        CALLBACKTYPE_SYSCALL => vcpu.syscall.set(callback),
        CALLBACKTYPE_SYSCALL32 => vcpu.syscall32.set(callback),
        CALLBACKTYPE_SYSENTER => vcpu.sysenter.set(callback),
        CALLBACKTYPE_NMI => vcpu.set_trap(
            vector::NMI,
            TrapInfo {
                vector: vector::NMI,
                flags: 4,
                cs: selector::RING3_CS64,
                _pad0: [0; 4],
                address,
            },
        ),
        _ => return Err(Error::NotImplemented),
    }
    Ok(0)
}

/// `HYPERVISOR_set_callbacks(event, failsafe, syscall)`.
pub fn set_callbacks(call: &mut Call<'_>) -> Result<i64> {
    let kinds = [
        CALLBACKTYPE_EVENT,
        CALLBACKTYPE_FAILSAFE,
        CALLBACKTYPE_SYSCALL,
    ];
    for (kind, address) in kinds.into_iter().zip(call.args) {
        // As on Xen, an address that is not canonical is passed over in silence.
        let _ = register(call, kind, address, 0);
    }
    Ok(0)
}

/// Takes the NMI callback away.
fn unregister_nmi(call: &Call<'_>) {
    let none = TrapInfo {
        vector: 0,
        flags: 0,
        cs: 0,
        _pad0: [0; 4],
        address: 0,
    };
    call.vcpu.set_trap(vector::NMI, none);
}

/// `HYPERVISOR_callback_op(cmd, arg)`.
pub fn callback_op(call: &mut Call<'_>) -> Result<i64> {
    match call.args[0] as u32 {
        CALLBACKOP_REGISTER => {
            let arg: CallbackRegister = guest::read(call.address(1))?;
            register(call, arg.r#type, arg.address, arg.flags)
        }
        CALLBACKOP_UNREGISTER => {
            let arg: CallbackUnregister = guest::read(call.address(1))?;
            match arg.r#type {
                CALLBACKTYPE_EVENT
                | CALLBACKTYPE_FAILSAFE
                | CALLBACKTYPE_SYSCALL
                | CALLBACKTYPE_SYSCALL32
                | CALLBACKTYPE_SYSENTER => Err(Error::Invalid),
                CALLBACKTYPE_NMI => {
                    unregister_nmi(call);
                    Ok(0)
                }
                _ => Err(Error::NotImplemented),
            }
        }
        _ => Err(Error::NotImplemented),
    }
}

/// `HYPERVISOR_nmi_op(cmd, arg)`: the older way to set the NMI callback.
pub fn nmi_op(call: &mut Call<'_>) -> Result<i64> {
    match call.args[0] as u32 {
        XENNMI_REGISTER_CALLBACK => {
            let arg: Callback64 = guest::read(call.address(1))?;
            register(call, CALLBACKTYPE_NMI, arg.handler_address, 0)
        }
        XENNMI_UNREGISTER_CALLBACK => {
            unregister_nmi(call);
            Ok(0)
        }
        _ => Err(Error::NotImplemented),
    }
}

type Callback64 = XennmiCallback;
