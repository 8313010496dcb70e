//! `grant_table_op` (grant_table.h), and the frames of grant tables as a resource
//! (`XENMEM_acquire_resource`, memory.h).

use alloc::sync::Arc;
use core::mem::offset_of;

use overcast_core::addr::{GuestVirtual, Mfn};
use overcast_core::error::{Error, Result};
use overcast_core::grant::{CopySession, GrantError, GrantTable, TableFrames, status};
use overcast_core::ids::{DomainId, GrantRef};
use overcast_core::machine::Tlb;
use xen_abi::grant_table::*;
use xen_abi::memory::{
    MemAcquireResource, XENMEM_RESOURCE_GRANT_TABLE, XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED,
    XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS,
};
use xen_abi::xen::GuestHandle;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Call;
use crate::domain::{self, Domain};
use crate::guest;
use crate::host::{Host, mm};

/// Bits of the command word; above them is what a cache flush is continued with.
const COMMAND_BITS: u32 = 12;
const COMMAND_MASK: u32 = (1 << COMMAND_BITS) - 1;
/// Bits of `XENMEM_*` in the command word of `memory_op`, which bound a resource.
const MEMORY_COMMAND_BITS: u32 = 6;
/// Frames of a resource between two looks at whether to stop.
const RESOURCE_BATCH: usize = 32;

/// `HYPERVISOR_grant_table_op(cmd, ops, count)`: 0 when all operations were made,
/// each with its own status. EINVAL for more than 2^31, EFAULT for an operation
/// that cannot be read or written, ENOSYS for an unknown command.
pub fn grant_table_op(call: &mut Call<'_>) -> Result<i64> {
    let word = call.args[0] as u32;
    let count = call.args[2] as u32;
    if count > i32::MAX as u32 {
        return Err(Error::Invalid);
    }
    let command = word & COMMAND_MASK;
    if command != GNTTABOP_CACHE_FLUSH && word & !COMMAND_MASK != 0 {
        return Err(Error::Invalid);
    }
    let table = call.domain.grants.clone();
    match command {
        GNTTABOP_MAP_GRANT_REF => each::<GnttabMapGrantRef>(call, count, |list, index| {
            let mut op: GnttabMapGrantRef = guest::read_item(list, index)?;
            table.map_grant_ref(&Host, &mut op);
            guest::write_item(list, index, &op)
        }),
        GNTTABOP_UNMAP_GRANT_REF => unmap_grant_refs(call, count, &table),
        GNTTABOP_UNMAP_AND_REPLACE => unmap_and_replace(call, count, &table),
        GNTTABOP_SETUP_TABLE => setup_table(call, count),
        GNTTABOP_TRANSFER => {
            let domain = call.domain;
            each::<GnttabTransfer>(call, count, |list, index| {
                let op: GnttabTransfer = guest::read_item(list, index)?;
                let result = status(transfer(domain, &op));
                write_status::<GnttabTransfer>(
                    list,
                    index,
                    offset_of!(GnttabTransfer, status),
                    result,
                )
            })
        }
        GNTTABOP_COPY => {
            let mut session = CopySession::new(&Host, &table);
            each::<GnttabCopy>(call, count, |list, index| {
                let mut op: GnttabCopy = guest::read_item(list, index)?;
                session.copy(&mut op)?;
                write_status::<GnttabCopy>(list, index, offset_of!(GnttabCopy, status), op.status)
            })
        }
        GNTTABOP_QUERY_SIZE => query_size(call, count),
        GNTTABOP_SET_VERSION => {
            let mut op: GnttabSetVersion = guest::read(call.address(1))?;
            let result = table.set_version(&Host, op.version);
            op.version = table.version();
            guest::write(call.address(1), &op)?;
            result.map(|()| 0)
        }
        GNTTABOP_GET_STATUS_FRAMES => get_status_frames(call, count),
        GNTTABOP_GET_VERSION => {
            let op: GnttabGetVersion = guest::read(call.address(1))?;
            let domain = domain::resolve(call.domain, DomainId(op.dom)).ok_or(Error::NoDomain)?;
            may_look(call, &domain)?;
            let at = call
                .address(1)
                .0
                .wrapping_add(offset_of!(GnttabGetVersion, version) as u64);
            guest::write(GuestVirtual(at), &domain.grants.version())?;
            Ok(0)
        }
        GNTTABOP_SWAP_GRANT_REF => each::<GnttabSwapGrantRef>(call, count, |list, index| {
            let op: GnttabSwapGrantRef = guest::read_item(list, index)?;
            let result = table.swap_grant_ref(&Host, GrantRef(op.ref_a), GrantRef(op.ref_b));
            let at = offset_of!(GnttabSwapGrantRef, status);
            write_status::<GnttabSwapGrantRef>(list, index, at, status(result))
        }),
        GNTTABOP_CACHE_FLUSH => cache_flush(call, count, &table),
        _ => Err(Error::NotImplemented),
    }
}

/// EPERM unless the domain is the caller's own, or the caller controls domains.
fn may_look(call: &Call<'_>, domain: &Domain) -> Result<()> {
    if domain.id == call.domain.id {
        return Ok(());
    }
    call.require_privilege()
}

/// The domain that an operation on a whole table names.
fn target(call: &Call<'_>, id: u16) -> core::result::Result<Arc<Domain>, GrantError> {
    let domain = domain::resolve(call.domain, DomainId(id)).ok_or(GrantError::BadDomain)?;
    may_look(call, &domain).map_err(|_| GrantError::PermissionDenied)?;
    Ok(domain)
}

/// EFAULT if a list, of however many items, begins in the hypervisor's range or where there are
/// no addresses. As on Xen: each item is checked when its turn comes.
fn check_list(list: GuestHandle) -> Result<()> {
    if GuestVirtual(list.0).access_ok(1) {
        Ok(())
    } else {
        Err(Error::Fault)
    }
}

/// Writes the status of an operation, at its offset in it.
fn write_status<T>(list: GuestHandle, index: u64, offset: usize, status: i16) -> Result<()> {
    let at = guest::item::<T>(list, index)?.0.wrapping_add(offset as u64);
    guest::write(GuestVirtual(at), &status)
}

/// Leaves the operations from `index` on for the next time.
fn go_on<T>(call: &mut Call<'_>, count: u32, index: u32, word: u32) -> Result<i64> {
    call.args[0] = word.into();
    call.args[1] = guest::item::<T>(call.handle(1), index.into())?.0;
    call.args[2] = u64::from(count - index);
    Err(Error::Restart)
}

/// Makes the operations of a list, one by one, until one cannot be read or written.
fn each<T>(
    call: &mut Call<'_>,
    count: u32,
    mut one: impl FnMut(GuestHandle, u64) -> Result<()>,
) -> Result<i64> {
    let list = call.handle(1);
    let word = call.args[0] as u32;
    check_list(list)?;
    for index in 0..count {
        if index != 0 && call.preempt() {
            return go_on::<T>(call, count, index, word);
        }
        match one(list, index.into()) {
            Ok(()) => {}
            Err(Error::Restart) => return go_on::<T>(call, count, index, word),
            Err(error) => return Err(error),
        }
    }
    Ok(0)
}

/// Makes unmappings, looking whether to stop only when a batch of them is through.
fn unmap_each<T: FromBytes + IntoBytes + Immutable>(
    call: &mut Call<'_>,
    count: u32,
    mut one: impl FnMut(GuestHandle, u64) -> Result<bool>,
) -> Result<i64> {
    let list = call.handle(1);
    check_list(list)?;
    for index in 0..count {
        let batch_is_through = one(list, index.into())?;
        if batch_is_through && index + 1 < count && call.preempt() {
            let word = call.args[0] as u32;
            return go_on::<T>(call, count, index + 1, word);
        }
    }
    Ok(0)
}

fn unmap_grant_refs(call: &mut Call<'_>, count: u32, table: &Arc<GrantTable>) -> Result<i64> {
    let mut session = table.unmap_session(&Host);
    unmap_each::<GnttabUnmapGrantRef>(call, count, |list, index| {
        let mut op: GnttabUnmapGrantRef = guest::read_item(list, index)?;
        session.unmap_grant_ref(&mut op);
        let at = offset_of!(GnttabUnmapGrantRef, status);
        write_status::<GnttabUnmapGrantRef>(list, index, at, op.status)?;
        Ok(session.is_flushed())
    })
}

fn unmap_and_replace(call: &mut Call<'_>, count: u32, table: &Arc<GrantTable>) -> Result<i64> {
    let mut session = table.unmap_session(&Host);
    unmap_each::<GnttabUnmapAndReplace>(call, count, |list, index| {
        let mut op: GnttabUnmapAndReplace = guest::read_item(list, index)?;
        session.unmap_and_replace(&mut op);
        let at = offset_of!(GnttabUnmapAndReplace, status);
        write_status::<GnttabUnmapAndReplace>(list, index, at, op.status)?;
        Ok(session.is_flushed())
    })
}

/// Writes `count` frames to a list of the guest's: `GNTST_bad_virt_addr` if
/// any of them cannot be written.
fn write_frames(
    list: GuestHandle,
    count: u32,
    frame: impl Fn(u32) -> Option<Mfn>,
) -> core::result::Result<(), GrantError> {
    let mut result = Ok(());
    for index in 0..count {
        let mfn = frame(index).ok_or(GrantError::General)?;
        if guest::write_item(list, index.into(), &mfn.0).is_err() {
            result = Err(GrantError::BadVirtualAddress);
        }
    }
    result
}

fn setup_table(call: &Call<'_>, count: u32) -> Result<i64> {
    if count != 1 {
        return Err(Error::Invalid);
    }
    let op: GnttabSetupTable = guest::read(call.address(1))?;
    check_list(op.frame_list)?;
    let result = target(call, op.dom).and_then(|domain| {
        domain.grants.setup_table(&Host, op.nr_frames)?;
        write_frames(op.frame_list, op.nr_frames, |index| {
            domain.grants.shared_frame(index)
        })
    });
    let at = offset_of!(GnttabSetupTable, status);
    write_status::<GnttabSetupTable>(call.handle(1), 0, at, status(result))?;
    Ok(0)
}

fn get_status_frames(call: &Call<'_>, count: u32) -> Result<i64> {
    if count != 1 {
        return Err(Error::Invalid);
    }
    let op: GnttabGetStatusFrames = guest::read(call.address(1))?;
    check_list(op.frame_list)?;
    let result = target(call, op.dom).and_then(|domain| {
        domain.grants.get_status_frames(op.nr_frames)?;
        write_frames(op.frame_list, op.nr_frames, |index| {
            domain.grants.status_frame(index)
        })
    });
    let at = offset_of!(GnttabGetStatusFrames, status);
    write_status::<GnttabGetStatusFrames>(call.handle(1), 0, at, status(result))?;
    Ok(0)
}

fn query_size(call: &Call<'_>, count: u32) -> Result<i64> {
    if count != 1 {
        return Err(Error::Invalid);
    }
    let mut op: GnttabQuerySize = guest::read(call.address(1))?;
    let result = target(call, op.dom).map(|domain| {
        (op.nr_frames, op.max_nr_frames) = domain.grants.query_size();
    });
    op.status = status(result);
    guest::write(call.address(1), &op)?;
    Ok(0)
}

fn cache_flush(call: &mut Call<'_>, count: u32, table: &Arc<GrantTable>) -> Result<i64> {
    let list = call.handle(1);
    let mut progress = call.args[0] as u32 >> COMMAND_BITS;
    check_list(list)?;
    for index in 0..count {
        if index != 0 && call.preempt() {
            return go_on::<GnttabCacheFlush>(call, count, index, GNTTABOP_CACHE_FLUSH);
        }
        let op: GnttabCacheFlush = guest::read_item(list, index.into())?;
        while !table.cache_flush(&Host, &op, &mut progress)? {
            if call.preempt() {
                let word = GNTTABOP_CACHE_FLUSH | progress << COMMAND_BITS;
                return go_on::<GnttabCacheFlush>(call, count, index, word);
            }
        }
        progress = 0;
    }
    Ok(0)
}

/// One `GNTTABOP_transfer`: gives a page of the caller's to another domain. As
/// on Xen the page is lost to the caller even if nobody takes it.
fn transfer(giver: &Domain, op: &GnttabTransfer) -> core::result::Result<(), GrantError> {
    let mfn = Mfn(op.mfn);
    let stamp = mm()
        .steal_page(&giver.mm, mfn)
        .map_err(|_| GrantError::BadPage)?;
    mm().m2p().clear(mfn);
    Host.flush(&giver.cpus());
    let given = give(giver, op, mfn, stamp);
    if let Err((error, lost)) = given {
        if lost {
            mm().free_stolen(mfn, stamp);
        }
        return Err(error);
    }
    Ok(())
}

/// The rest of a transfer. An error says whether the page still belongs to nobody.
fn give(
    giver: &Domain,
    op: &GnttabTransfer,
    mfn: Mfn,
    stamp: u64,
) -> core::result::Result<(), (GrantError, bool)> {
    let taker = domain::find(DomainId(op.domid)).ok_or((GrantError::BadDomain, true))?;
    let nobodys = (GrantError::General, true);
    if taker.mm.is_dying() || taker.mm.total_pages() >= taker.mm.max_pages() {
        return Err(nobodys);
    }
    let reference = GrantRef(op.r#ref);
    let transfer = taker
        .grants
        .commit_transfer(&Host, reference, giver.id)
        .ok_or(nobodys)?;
    mm().assign_stolen(&taker.mm, mfn, stamp)
        .map_err(|_| nobodys)?;
    let completed = taker.grants.complete_transfer(&Host, transfer, mfn, |pfn| {
        mm().set_pfn(mfn, pfn);
    });
    if completed {
        Ok(())
    } else {
        Err((GrantError::General, false))
    }
}

/// `XENMEM_acquire_resource`: the frames of another domain's resource, from
/// extent `start` on, or with no list their number.
pub fn acquire_resource(call: &mut Call<'_>, arg: GuestVirtual, start: u64) -> Result<i64> {
    let op: MemAcquireResource = guest::read(arg)?;
    if op.pad != 0 {
        return Err(Error::Invalid);
    }
    let frame = u32::try_from(op.frame).map_err(|_| Error::Invalid)?;
    frame.checked_add(op.nr_frames).ok_or(Error::Invalid)?;
    let domain = domain::find(DomainId(op.domid)).ok_or(Error::NoDomain)?;
    if domain.id == call.domain.id {
        return Err(Error::NotPermitted);
    }
    call.require_privilege()?;
    // The other resources are those of kinds of domains that there are not.
    let kind = match (u32::from(op.r#type), op.id) {
        (XENMEM_RESOURCE_GRANT_TABLE, XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED) => TableFrames::Shared,
        (XENMEM_RESOURCE_GRANT_TABLE, XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS) => TableFrames::Status,
        _ => return Err(Error::Invalid),
    };
    if op.frame_list.is_null() {
        if op.nr_frames != 0 || start != 0 {
            return Err(Error::Invalid);
        }
        let max = domain.grants.resource_max_frames(kind);
        let at = arg
            .0
            .wrapping_add(offset_of!(MemAcquireResource, nr_frames) as u64);
        guest::write(GuestVirtual(at), &max)?;
        return Ok(0);
    }
    if start >= u64::from(op.nr_frames) || op.nr_frames > u32::MAX >> MEMORY_COMMAND_BITS {
        return Err(Error::Invalid);
    }
    let mut done = start as u32;
    while done < op.nr_frames {
        let mut frames = [Mfn(0); RESOURCE_BATCH];
        let todo = ((op.nr_frames - done) as usize).min(RESOURCE_BATCH);
        let Some(batch) = frames.get_mut(..todo) else {
            break;
        };
        domain
            .grants
            .acquire_frames(&Host, kind, frame + done, batch)?;
        for (index, mfn) in (u64::from(done)..).zip(batch) {
            guest::write_item(op.frame_list, index, &mfn.0)?;
        }
        done += todo as u32;
        if done < op.nr_frames && call.preempt() {
            let command = call.args[0] & ((1 << MEMORY_COMMAND_BITS) - 1);
            call.args[0] = command | u64::from(done) << MEMORY_COMMAND_BITS;
            return Err(Error::Restart);
        }
    }
    Ok(0)
}
