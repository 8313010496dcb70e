//! `multicall` (xen.h): several hypercalls in one.

use overcast_core::error::{Error, Result, to_return};
use xen_abi::xen::{HYPERVISOR_IRET, HYPERVISOR_MULTICALL, MulticallEntry};

use super::{Call, perform};
use crate::guest;

/// Offset of `result` in `struct multicall_entry`, bytes.
const RESULT_OFFSET: u64 = 8;

/// `HYPERVISOR_multicall(entries, count)`: makes the calls in their order and
/// writes each one's result; 0, or EFAULT for an entry that cannot be read or
/// written. Stops between entries when the vCPU is to be preempted, and within
/// an entry that itself stops early.
pub fn multicall(call: &mut Call<'_>) -> Result<i64> {
    if call.in_multicall {
        return Err(Error::Invalid);
    }
    let list = call.handle(0);
    let count = call.args[1] as u32;
    if !guest::array_ok::<MulticallEntry>(list, count.into()) {
        return Err(Error::Fault);
    }
    for index in 0..u64::from(count) {
        if index != 0 && call.preempt() {
            return go_on(call, list.0, index, u64::from(count));
        }
        let entry: MulticallEntry = guest::read_item(list, index)?;
        let result = if entry.op == HYPERVISOR_MULTICALL {
            Err(Error::Invalid)
        } else {
            let mut inner = Call {
                vcpu: call.vcpu,
                domain: call.domain,
                args: entry.args,
                regs: &mut *call.regs,
                in_multicall: true,
            };
            let result = perform(entry.op, &mut inner);
            if result == Err(Error::Restart) {
                // What is left of this entry is written back into the list.
                let args = inner.args;
                let rest = MulticallEntry { args, ..entry };
                guest::write_item(list, index, &rest)?;
                return go_on(call, list.0, index, u64::from(count));
            }
            result
        };
        let at = guest::item::<MulticallEntry>(list, index)?
            .0
            .wrapping_add(RESULT_OFFSET);
        let written = guest::write(overcast_core::addr::GuestVirtual(at), &to_return(result));
        if entry.op == HYPERVISOR_IRET {
            // The registers are those of what the guest returned to, %rax too; the
            // rest of the list is not done. The list may be out of reach by now.
            return result;
        }
        written?;
        if call.domain.is_crashed() {
            break;
        }
    }
    Ok(0)
}

/// Leaves the entries from `index` on for the next time.
fn go_on(call: &mut Call<'_>, list: u64, index: u64, count: u64) -> Result<i64> {
    call.args[0] = list.wrapping_add(index * size_of::<MulticallEntry>() as u64);
    call.args[1] = count - index;
    Err(Error::Restart)
}
