//! `mmu_update`, `mmuext_op` and `update_va_mapping` (xen.h): a guest's page tables.

use core::arch::asm;
use core::mem::MaybeUninit;

use overcast_core::addr::{GuestVirtual, Mfn};
use overcast_core::error::{Error, Result};
use overcast_core::ids::{CpuSet, DomainId};
use overcast_core::machine::{Preempt, Tlb};
use overcast_core::mm::{FlushRequest, FlushScope, FlushWhat, MmuCaller, VcpuMachine};
use xen_abi::xen::{GuestHandle, MMUEXT_NEW_BASEPTR, MMUEXT_PIN_L4_TABLE, MmuUpdate, MmuextOp};
use zerocopy::FromBytes;

use super::{Call, PreemptByEvents};
use crate::arch::{percpu, smp, tlb};
use crate::guest;
use crate::host::{Host, mm};
use crate::pv::descriptors;
use crate::vcpu::Vcpu;

/// Bit of the count that says that the call is being continued.
const PREEMPTED: u32 = 1 << 31;
/// Updates between two looks at whether to stop.
const BATCH: usize = 32;

/// The CPUs of the vCPUs whose bits are set in the bitmap at a guest address.
fn cpus_of_bitmap(vcpu: &Vcpu, bitmap: u64) -> Result<CpuSet> {
    let mut cpus = CpuSet::EMPTY;
    let max = vcpu.domain().max_vcpus();
    let mut bytes = [0u8; 16];
    let len = (max as usize).div_ceil(8).min(bytes.len());
    guest::read_bytes(GuestVirtual(bitmap), &mut bytes[..len])?;
    for other in vcpu.domain().vcpus() {
        let id = other.id.0 as usize;
        if bytes
            .get(id / 8)
            .is_some_and(|byte| byte & (1 << (id % 8)) != 0)
            && let Some(cpu) = other.cpu()
        {
            cpus.insert(cpu);
        }
    }
    Ok(cpus)
}

/// Does a flush that the guest asked for.
fn flush(vcpu: &Vcpu, request: FlushRequest) -> Result<()> {
    let cpus = match request.scope {
        FlushScope::Local => CpuSet::one(percpu::this().cpu),
        FlushScope::Domain => vcpu.domain().cpus(),
        FlushScope::Vcpus(bitmap) => cpus_of_bitmap(vcpu, bitmap)?,
    };
    match request.what {
        FlushWhat::All => Host.flush(&cpus),
        FlushWhat::Address(address) => Host.flush_page(&cpus, address),
    }
    Ok(())
}

/// Writes this CPU's caches back.
fn write_back(_: u64) {
    // SAFETY: changes no memory.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
}

/// The running vCPU, as page-table operations act on it.
struct Running<'a>(&'a Vcpu);

impl VcpuMachine for Running<'_> {
    fn load_kernel_base(&mut self, root: Mfn, hardware: Mfn) {
        let vcpu = self.0;
        descriptors::drop_ldt_pages(vcpu);
        vcpu.set_kernel_base(Some(root), Some(hardware));
        // SAFETY: the table was validated, and the vCPU holds references to it; or it is the
        // shadow of such a one, which is kept for the vCPU.
        unsafe { tlb::write_cr3_and_flush(hardware) };
    }

    fn set_user_base(&mut self, root: Option<Mfn>, hardware: Option<Mfn>) {
        self.0.set_user_base(root, hardware);
    }

    fn set_ldt(&mut self, base: u64, entries: u32) {
        let vcpu = self.0;
        if vcpu.ldt.get() != (base, entries) {
            descriptors::drop_ldt_pages(vcpu);
            vcpu.ldt.set((base, entries));
            descriptors::load_ldt(vcpu);
        }
    }

    fn flush(&mut self, request: FlushRequest) -> Result<()> {
        flush(self.0, request)
    }

    fn flush_cache(&mut self, all_cpus: bool) {
        if all_cpus {
            smp::call_function(&CpuSet::ALL, write_back, 0);
        } else {
            write_back(0);
        }
    }
}

/// Has the running vCPU run on another root table in kernel mode, as a write of
/// CR3 asks for.
pub fn new_kernel_base(vcpu: &Vcpu, caller: &mut MmuCaller<'_>, root: Mfn) -> Result<()> {
    let owner = mm().page_owner(caller.domain, DomainId::SELF)?;
    let op = MmuextOp {
        cmd: MMUEXT_NEW_BASEPTR,
        _pad0: [0; 4],
        arg1: root.0,
        arg2: 0,
    };
    mm().mmuext_op(caller, &mut Running(vcpu), owner, op)
}

/// Pins a level-4 table of a domain whose vCPU does not run yet.
pub fn pin_top_table(vcpu: &Vcpu, root: Mfn, preempt: &dyn Preempt) -> Result<()> {
    let domain = &vcpu.domain().mm;
    let owner = mm().page_owner(domain, DomainId::SELF)?;
    let mut tables = vcpu.tables.lock();
    let mut caller = MmuCaller {
        domain,
        tables: &mut tables,
        preempt,
    };
    let op = MmuextOp {
        cmd: MMUEXT_PIN_L4_TABLE,
        _pad0: [0; 4],
        arg1: root.0,
        arg2: 0,
    };
    mm().mmuext_op(&mut caller, &mut Running(vcpu), owner, op)
}

/// Notes how many operations were done where the guest wants to know.
/// What cannot be written there is lost.
fn write_done(done: GuestHandle, count: u32) {
    if !done.is_null() {
        let _ = guest::write_item(done, 0, &count);
    }
}

/// Leaves `count` operations from `index` on for the next time.
fn go_on<T>(call: &mut Call<'_>, count: u32, index: u32, before: u32) -> Result<i64> {
    call.args[0] = guest::item::<T>(call.handle(0), index.into())?.0;
    call.args[1] = u64::from((count - index) | PREEMPTED);
    write_done(call.handle(2), before.wrapping_add(index));
    Err(Error::Restart)
}

/// Makes a call with an array of operations, its length, and where to say how many were
/// done. `start` looks at the rest of the arguments; what it gives is for `act`, which
/// carries out operations and raises the number of those that succeeded. Of the array, `N`
/// operations are read at a time, and between these it may be left for later.
fn perform<T: FromBytes, const N: usize, S>(
    call: &mut Call<'_>,
    start: impl FnOnce(&Call<'_>) -> Result<S>,
    act: impl Fn(&S, &mut MmuCaller<'_>, &[T], &mut u32) -> Result<()>,
) -> Result<i64> {
    let (vcpu, domain) = (call.vcpu, call.domain);
    let preempt = PreemptByEvents(vcpu);
    // What earlier operations of the vCPU left over is finished: page tables that were
    // given up are to be ordinary pages by the time the guest goes on.
    let finish = || mm().finish_deferred(&mut vcpu.tables.lock().deferred, &preempt);
    let (mut count, mut before) = (call.args[1] as u32, 0);
    if count == PREEMPTED && call.handle(0).is_null() {
        // Continued, with no operations left: Xen puts the result into the last
        // argument, for itself.
        finish()?;
        return Ok(i64::from(call.args[3] as i32));
    }
    if count & PREEMPTED != 0 {
        count &= !PREEMPTED;
        // As on Xen, what cannot be read is passed over in silence.
        before = guest::read_item(call.handle(2), 0).unwrap_or(0);
    }
    if !guest::array_ok::<T>(call.handle(0), count.into()) {
        return Err(Error::Fault);
    }
    let state = start(call)?;
    let mut result = Ok(());
    let mut index = 0;
    let mut batch = [const { MaybeUninit::uninit() }; N];
    // Whether work may have been left over.
    let mut unfinished = true;
    while index < count {
        if index != 0 && call.preempt() {
            return go_on::<T>(call, count, index, before);
        }
        let wanted = N.min((count - index) as usize);
        let operations = guest::read_prefix(call.handle(0), index.into(), &mut batch[..wanted]);
        if operations.is_empty() {
            result = Err(Error::Fault);
            break;
        }
        let mut tables = vcpu.tables.lock();
        let mut caller = MmuCaller {
            domain: &domain.mm,
            tables: &mut tables,
            preempt: &preempt,
        };
        result = act(&state, &mut caller, operations, &mut index);
        match result {
            Ok(()) => unfinished = tables.deferred.is_some(),
            Err(Error::Restart) => {
                drop(tables);
                return go_on::<T>(call, count, index, before);
            }
            Err(_) => break,
        }
    }
    if result.is_ok() && unfinished && finish().is_err() {
        return go_on::<T>(call, count, index, before);
    }
    write_done(call.handle(2), before.wrapping_add(index));
    result.map(|()| 0)
}

/// `HYPERVISOR_mmu_update(request, 1, NULL, DOMID_SELF)` where the request is a common
/// one; `None` if it is not, and nothing was done.
pub fn update_one(vcpu: &Vcpu, at: GuestVirtual) -> Option<Result<i64>> {
    let [ptr, val] = guest::read_pair(at)?;
    if vcpu.tables.lock().deferred.is_some() {
        return None;
    }
    let request = MmuUpdate { ptr, val };
    let result = mm().update_own_entry(&vcpu.domain().mm, request)?;
    Some(result.map(|()| 0))
}

/// `HYPERVISOR_mmu_update(requests, count, done, domain)`: 0 when all were done,
/// the error of the first that failed else; `done` gets how many succeeded.
pub fn mmu_update(call: &mut Call<'_>) -> Result<i64> {
    perform::<MmuUpdate, BATCH, _>(
        call,
        |call| {
            let own = &call.domain.mm;
            let (other, pg_owner) = mm().mmu_update_targets(own, call.args[3] as u32)?;
            if let Some(other) = &other
                && other.id() != call.domain.id
                && crate::domain::find(other.id())
                    .is_none_or(|other| other.vcpus().next().is_none())
            {
                return Err(Error::Invalid);
            }
            Ok((other, pg_owner))
        },
        |(other, pg_owner), caller, requests, done| {
            let table_owner = other.as_deref().unwrap_or(caller.domain);
            mm().mmu_updates(caller, table_owner, *pg_owner, requests, done)
        },
    )
}

/// `HYPERVISOR_mmuext_op(ops, count, done, domain)`: like `mmu_update`. An operation may
/// change what is at the address of the next, so that is read when its turn comes.
pub fn mmuext_op(call: &mut Call<'_>) -> Result<i64> {
    let vcpu = call.vcpu;
    perform::<MmuextOp, 1, _>(
        call,
        |call| {
            let owner = mm().page_owner(&call.domain.mm, DomainId(call.args[3] as u16))?;
            mm().may_target(&call.domain.mm, owner.id)?;
            Ok(owner)
        },
        |owner, caller, operations, done| {
            for &op in operations {
                mm().mmuext_op(caller, &mut Running(vcpu), *owner, op)?;
                *done = done.saturating_add(1);
            }
            Ok(())
        },
    )
}

/// Maps `value` at a linear address and flushes as `flags` ask.
fn map_address(call: &mut Call<'_>, owner: DomainId) -> Result<i64> {
    let (address, value, flags) = (call.args[0], call.args[1], call.args[2]);
    let vcpu = call.vcpu;
    let owner = mm().page_owner(&call.domain.mm, owner)?;
    let mut tables = vcpu.tables.lock();
    let mut caller = MmuCaller {
        domain: &call.domain.mm,
        tables: &mut tables,
        preempt: &PreemptByEvents(vcpu),
    };
    let request = mm().update_va_mapping(&mut caller, owner, address, value, flags)?;
    drop(tables);
    if let Some(request) = request {
        flush(vcpu, request)?;
    }
    Ok(0)
}

/// `HYPERVISOR_update_va_mapping(address, value, flags)`.
pub fn update_va_mapping(call: &mut Call<'_>) -> Result<i64> {
    map_address(call, DomainId::SELF)
}

/// `HYPERVISOR_update_va_mapping_otherdomain(address, value, flags, domain)`.
pub fn update_va_mapping_otherdomain(call: &mut Call<'_>) -> Result<i64> {
    map_address(call, DomainId(call.args[3] as u16))
}
