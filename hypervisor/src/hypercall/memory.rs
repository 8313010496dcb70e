//! `memory_op` (memory.h).

use alloc::sync::Arc;
use alloc::vec::Vec;

use overcast_core::addr::{GuestVirtual, Mfn, Pfn};
use overcast_core::error::{Error, Result};
use overcast_core::ids::DomainId;
use overcast_core::machine::{Memory, Tlb};
use xen_abi::arch_x86::{MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
use xen_abi::memory::*;
use xen_abi::xen::{GuestHandle, SharedInfo};

use super::Call;
use crate::arch::memory;
use crate::domain::{self, Domain};
use crate::guest;
use crate::host::{self, Host, mm};

/// Bits of the command word; above them is the extent to continue with.
const COMMAND_BITS: u32 = 6;
/// The largest order that a control domain may ask for.
const MAX_ORDER_PRIVILEGED: u32 = 12;
/// The largest order that another domain may ask for.
const MAX_ORDER: u32 = 9;
/// A table of page tables maps this much of the machine-to-phys table, bytes.
const M2P_CHUNK: u64 = 2 << 20;

fn max_order(domain: &Domain) -> u32 {
    if domain.privileged {
        MAX_ORDER_PRIVILEGED
    } else {
        MAX_ORDER
    }
}

/// The domain that an operation is about: the caller's own, or any other for a
/// control domain.
fn target(call: &Call<'_>, id: u16) -> Result<Arc<Domain>> {
    let domain = domain::resolve(call.domain, DomainId(id)).ok_or(Error::NoDomain)?;
    if domain.id != call.domain.id {
        call.require_privilege()?;
    }
    Ok(domain)
}

/// `HYPERVISOR_memory_op(cmd, arg)`.
pub fn memory_op(call: &mut Call<'_>) -> Result<i64> {
    let command = call.args[0] as u32 & ((1 << COMMAND_BITS) - 1);
    let start = call.args[0] >> COMMAND_BITS;
    let arg = call.address(1);
    match command {
        XENMEM_INCREASE_RESERVATION | XENMEM_DECREASE_RESERVATION | XENMEM_POPULATE_PHYSMAP => {
            change_reservation(call, command, start, arg)
        }
        XENMEM_EXCHANGE => exchange(call, arg),
        XENMEM_MAXIMUM_RAM_PAGE => Ok(Host.end_mfn().0 as i64 - 1),
        XENMEM_CURRENT_RESERVATION | XENMEM_MAXIMUM_RESERVATION | XENMEM_MAXIMUM_GPFN => {
            let op: MemoryDomain = guest::read(arg)?;
            let domain = target(call, op.domid)?;
            Ok(match command {
                XENMEM_CURRENT_RESERVATION => domain.mm.total_pages() as i64,
                XENMEM_MAXIMUM_RESERVATION => domain.mm.max_pages().min(u32::MAX.into()) as i64,
                _ => maximum_gpfn(&domain),
            })
        }
        XENMEM_ADD_TO_PHYSMAP | XENMEM_ADD_TO_PHYSMAP_BATCH | XENMEM_REMOVE_FROM_PHYSMAP => {
            physmap(call, command, arg)
        }
        XENMEM_MACHPHYS_MFN_LIST => machphys_list(arg),
        XENMEM_MACHPHYS_MAPPING => {
            let mapping = MachphysMapping {
                v_start: MACH2PHYS_VIRT_START,
                v_end: MACH2PHYS_VIRT_END,
                max_mfn: (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) / 8 - 1,
            };
            guest::write(arg, &mapping)?;
            Ok(0)
        }
        XENMEM_MEMORY_MAP => {
            // A PV domain has one only if its builder set one.
            let map: MemoryMap = guest::read(arg)?;
            let entries = call.domain.memory_map.lock().clone();
            if entries.is_empty() {
                return Err(Error::NotImplemented);
            }
            write_memory_map(arg, map, &entries, entries.len())
        }
        XENMEM_MACHINE_MEMORY_MAP => {
            call.require_privilege()?;
            let map: MemoryMap = guest::read(arg)?;
            let entries = machine_map(call.domain);
            if map.buffer.is_null() {
                let nr_entries = entries.len() as u32;
                guest::write(arg, &MemoryMap { nr_entries, ..map })?;
                return Ok(0);
            }
            // Xen wants room for one more than there are.
            if map.nr_entries as usize <= entries.len() {
                return Err(Error::Invalid);
            }
            write_memory_map(arg, map, &entries, entries.len())
        }
        XENMEM_SET_MEMORY_MAP => set_memory_map(call, arg),
        XENMEM_GET_SHARING_FREED_PAGES | XENMEM_GET_SHARING_SHARED_PAGES => Ok(0),
        XENMEM_CLAIM_PAGES => {
            if start != 0 {
                return Err(Error::Invalid);
            }
            let op: MemoryReservation = guest::read(arg)?;
            if !op.extent_start.is_null()
                || op.extent_order != 0
                || op.mem_flags != 0
                || domain::find(DomainId(op.domid)).is_none()
            {
                return Err(Error::Invalid);
            }
            call.require_privilege()?;
            if op.nr_extents > memory::heap().free_frames() {
                return Err(Error::NoMemory);
            }
            Ok(0)
        }
        XENMEM_GET_VNUMAINFO => Err(Error::NotSupported),
        XENMEM_RESERVED_DEVICE_MEMORY_MAP => {
            let _: ReservedDeviceMemoryMap = guest::read(arg)?;
            Ok(0)
        }
        XENMEM_ACQUIRE_RESOURCE => super::grant_table::acquire_resource(call, arg, start),
        XENMEM_SET_POD_TARGET | XENMEM_GET_POD_TARGET => {
            let op: PodTarget = guest::read(arg)?;
            let _ = target(call, op.domid)?;
            call.require_privilege()?;
            // It is for HVM domains.
            Err(Error::Invalid)
        }
        XENMEM_ACCESS_OP => {
            let domid: u16 = guest::read(GuestVirtual(arg.0.wrapping_add(2)))?;
            match domain::find(DomainId(domid)) {
                None => Err(Error::NoDomain),
                Some(domain) if domain.id == call.domain.id => Err(Error::NotPermitted),
                Some(_) => Err(Error::NotThere),
            }
        }
        XENMEM_MACHPHYS_COMPAT_MFN_LIST => Err(Error::NotSupported),
        _ => Err(Error::NotImplemented),
    }
}

/// The highest frame number in a domain's own numbering, as it said itself.
fn maximum_gpfn(domain: &Domain) -> i64 {
    let offset = core::mem::offset_of!(SharedInfo, arch);
    let max = Host
        .frame(domain.shared_info)
        .map_or(0, |frame| frame.load(offset / 8));
    max.max(1).wrapping_sub(1) as i64
}

/// Increases, decreases or populates; the result is how many extents were done,
/// whatever stopped the rest.
fn change_reservation(
    call: &mut Call<'_>,
    command: u32,
    start: u64,
    arg: GuestVirtual,
) -> Result<i64> {
    let done_before = Ok(start as i64);
    let Ok(op) = guest::read::<MemoryReservation>(arg) else {
        return done_before;
    };
    if op.nr_extents > u64::from(u32::MAX >> COMMAND_BITS) || start >= op.nr_extents {
        return done_before;
    }
    let Ok(domain) = target(call, op.domid) else {
        return done_before;
    };
    let list = op.extent_start;
    let needs_list = command != XENMEM_INCREASE_RESERVATION || !list.is_null();
    let list_ok =
        guest::item::<u64>(list, 0).is_ok_and(|at| at.access_ok(op.nr_extents.saturating_mul(8)));
    if op.extent_order > max_order(call.domain)
        || (needs_list && !list_ok)
        || (command != XENMEM_DECREASE_RESERVATION
            && op.mem_flags & XENMEMF_POPULATE_ON_DEMAND != 0)
    {
        return done_before;
    }
    let bits = (op.mem_flags & 0xff != 0).then_some(op.mem_flags & 0xff);
    for index in start..op.nr_extents {
        if index != start && call.preempt() {
            call.args[0] = u64::from(command) | index << COMMAND_BITS;
            return Err(Error::Restart);
        }
        let done = match command {
            XENMEM_INCREASE_RESERVATION => {
                allocate(&domain, op.extent_order, bits).and_then(|mfn| {
                    if list.is_null() {
                        return Ok(());
                    }
                    guest::write_item(list, index, &mfn.0)
                })
            }
            XENMEM_POPULATE_PHYSMAP => guest::read_item::<u64>(list, index).and_then(|pfn| {
                let mfn = allocate(&domain, op.extent_order, bits)?;
                for n in 0..1 << op.extent_order {
                    mm().set_pfn(Mfn(mfn.0 + n), Pfn(pfn.wrapping_add(n)));
                }
                guest::write_item(list, index, &mfn.0)
            }),
            _ => guest::read_item::<u64>(list, index).and_then(|first| {
                for n in 0..1u64 << op.extent_order {
                    remove(&domain, Mfn(first.wrapping_add(n)))?;
                }
                Ok(())
            }),
        };
        if done.is_err() {
            return Ok(index as i64);
        }
    }
    Ok(op.nr_extents as i64)
}

/// Allocates frames for a domain, below `2^bits` bytes if that is asked for.
fn allocate(domain: &Domain, order: u32, bits: Option<u32>) -> Result<Mfn> {
    if bits.is_none_or(|bits| bits >= 52) {
        return mm().allocate_pages(&domain.mm, order);
    }
    let (mfn, stamp) = host::allocate(order, bits).ok_or(Error::NoMemory)?;
    Host.flush_since(stamp);
    mm().assign_pages(&domain.mm, mfn, order).inspect_err(|_| {
        let _ = memory::heap().free(mfn, order, stamp);
    })?;
    Ok(mfn)
}

/// Takes a page out of a domain.
fn remove(domain: &Domain, mfn: Mfn) -> Result<()> {
    mm().remove_page(&domain.mm, mfn)
}

/// `XENMEM_exchange`: gives pages for others, of another order or place.
fn exchange(call: &mut Call<'_>, arg: GuestVirtual) -> Result<i64> {
    let mut op: MemoryExchange = guest::read(arg)?;
    let result = exchange_checked(call, &mut op);
    let at = arg
        .0
        .wrapping_add(core::mem::offset_of!(MemoryExchange, nr_exchanged) as u64);
    if guest::write(GuestVirtual(at), &op.nr_exchanged).is_err() {
        return Err(Error::Fault);
    }
    result
}

fn exchange_checked(call: &mut Call<'_>, op: &mut MemoryExchange) -> Result<i64> {
    let (input, output) = (op.r#in, op.out);
    let (in_order, out_order) = (input.extent_order, output.extent_order);
    if in_order.max(out_order) > max_order(call.domain) {
        return Err(Error::NotPermitted);
    }
    if op.nr_exchanged > input.nr_extents
        || input.domid != output.domid
        || u64::MAX >> in_order < input.nr_extents
        || u64::MAX >> out_order < output.nr_extents
        || input.nr_extents << in_order != output.nr_extents << out_order
    {
        return Err(Error::Invalid);
    }
    if op.nr_exchanged == input.nr_extents {
        return Ok(0);
    }
    // A chunk is as many extents as make one of the larger order.
    let in_chunk = out_order.saturating_sub(in_order);
    let out_chunk = in_order.saturating_sub(out_order);
    let readable = |list: GuestHandle, first: u64, end: u64| {
        guest::item::<u64>(list, first)
            .is_ok_and(|at| at.access_ok(end.saturating_sub(first).saturating_mul(8)))
    };
    let out_first = (op.nr_exchanged >> in_chunk)
        .checked_shl(out_chunk)
        .ok_or(Error::Fault)?;
    if !readable(input.extent_start, op.nr_exchanged, input.nr_extents)
        || !readable(output.extent_start, out_first, output.nr_extents)
    {
        return Err(Error::Fault);
    }
    let domain = target(call, input.domid)?;
    let bits = (output.mem_flags & 0xff != 0).then_some(output.mem_flags & 0xff);
    let first = op.nr_exchanged >> in_chunk;
    for chunk in first..input.nr_extents >> in_chunk {
        if chunk != first && call.preempt() {
            op.nr_exchanged = chunk << in_chunk;
            return Err(Error::Restart);
        }
        let result = exchange_chunk(&domain, op, chunk, in_chunk, out_chunk, bits);
        if let Err(error) = result {
            op.nr_exchanged = chunk << in_chunk;
            return Err(error);
        }
    }
    op.nr_exchanged = input.nr_extents;
    Ok(0)
}

/// Exchanges one chunk: steals the input, allocates the output, assigns it.
fn exchange_chunk(
    domain: &Domain,
    op: &MemoryExchange,
    chunk: u64,
    in_chunk: u32,
    out_chunk: u32,
    bits: Option<u32>,
) -> Result<()> {
    let (input, output) = (op.r#in, op.out);
    let mut stolen: Vec<(Mfn, u64)> = Vec::new();
    let mut fresh: Vec<(Mfn, u64)> = Vec::new();
    let frames_in = 1usize << (in_chunk + input.extent_order);
    let collected = (|| {
        stolen.try_reserve(frames_in).map_err(|_| Error::NoMemory)?;
        for extent in 0..1u64 << in_chunk {
            let index = (chunk << in_chunk) + extent;
            let first: u64 = guest::read_item(input.extent_start, index)?;
            for n in 0..1u64 << input.extent_order {
                let mfn = Mfn(first.wrapping_add(n));
                stolen.push((mfn, mm().steal_page(&domain.mm, mfn)?));
            }
        }
        for _ in 0..1u64 << out_chunk {
            fresh.push(host::allocate(output.extent_order, bits).ok_or(Error::NoMemory)?);
        }
        Ok(())
    })();
    if let Err(error) = collected {
        for (mfn, stamp) in stolen {
            if mm().assign_stolen(&domain.mm, mfn, stamp).is_err() {
                mm().free_stolen(mfn, stamp);
            }
        }
        for (mfn, stamp) in fresh {
            let _ = memory::heap().free(mfn, output.extent_order, stamp);
        }
        return Err(error);
    }
    for (mfn, stamp) in stolen {
        mm().free_stolen(mfn, stamp);
    }
    let mut result = Ok(());
    for (extent, (mfn, stamp)) in fresh.into_iter().enumerate() {
        Host.flush_since(stamp);
        if let Err(error) = mm().assign_pages(&domain.mm, mfn, output.extent_order) {
            // The domain is dying, or was given less memory meanwhile.
            let _ = memory::heap().free(mfn, output.extent_order, stamp);
            result = Err(error);
            continue;
        }
        let index = (chunk << out_chunk) + extent as u64;
        match guest::read_item::<u64>(output.extent_start, index) {
            Ok(pfn) => {
                for n in 0..1u64 << output.extent_order {
                    mm().set_pfn(Mfn(mfn.0 + n), Pfn(pfn.wrapping_add(n)));
                }
                if guest::write_item(output.extent_start, index, &mfn.0).is_err() {
                    result = Err(Error::Fault);
                }
            }
            Err(error) => result = Err(error),
        }
    }
    result
}

/// The physmap of a PV domain is its own business: EACCES as Xen says it.
fn physmap(call: &mut Call<'_>, command: u32, arg: GuestVirtual) -> Result<i64> {
    let id = match command {
        XENMEM_ADD_TO_PHYSMAP => {
            let op: AddToPhysmap = guest::read(arg)?;
            if op.space == XENMAPSPACE_GMFN_FOREIGN {
                return Err(Error::NotImplemented);
            }
            op.domid
        }
        XENMEM_ADD_TO_PHYSMAP_BATCH => guest::read::<AddToPhysmapBatch>(arg)?.domid,
        _ => guest::read::<RemoveFromPhysmap>(arg)?.domid,
    };
    let _ = target(call, id)?;
    Err(Error::Access)
}

/// `XENMEM_machphys_mfn_list`: the first frame of each 2 MiB of the
/// machine-to-phys table.
fn machphys_list(arg: GuestVirtual) -> Result<i64> {
    let mut op: MachphysMfnList = guest::read(arg)?;
    let chunks = (Host.end_mfn().0 * 8).div_ceil(M2P_CHUNK);
    let count = u64::from(op.max_extents).min(chunks);
    for index in 0..count {
        let mfn = memory::m2p_frame(index * M2P_CHUNK).ok_or(Error::Invalid)?;
        guest::write_item(op.extent_start, index, &mfn.0)?;
    }
    op.nr_extents = count as u32;
    guest::write(arg, &op)?;
    Ok(0)
}

/// An entry of a memory map (`struct e820entry`): 20 bytes, not padded.
pub type MapEntry = [u8; 20];

/// Makes an entry of a memory map; `kind` is 1 for RAM, 2 for reserved.
pub fn map_entry(start: u64, size: u64, kind: u32) -> MapEntry {
    let mut entry = [0; 20];
    entry[..8].copy_from_slice(&start.to_le_bytes());
    entry[8..16].copy_from_slice(&size.to_le_bytes());
    entry[16..].copy_from_slice(&kind.to_le_bytes());
    entry
}

/// The machine as Dom0 sees it: as much RAM as it may have, and nothing else.
fn machine_map(domain: &Domain) -> Vec<MapEntry> {
    let most = domain.mm.max_pages().min(memory::total_frames());
    let pages = most.max(domain.mm.total_pages());
    alloc::vec![map_entry(0, pages << 12, 1)]
}

fn write_memory_map(
    arg: GuestVirtual,
    map: MemoryMap,
    entries: &[MapEntry],
    available: usize,
) -> Result<i64> {
    let count = (map.nr_entries as usize).min(available);
    for (index, entry) in entries.iter().take(count).enumerate() {
        guest::write_item(map.buffer, index as u64, entry)?;
    }
    guest::write(
        arg,
        &MemoryMap {
            nr_entries: count as u32,
            ..map
        },
    )?;
    Ok(0)
}

/// `XENMEM_set_memory_map`: the map that a domain gets from `XENMEM_memory_map`.
fn set_memory_map(call: &mut Call<'_>, arg: GuestVirtual) -> Result<i64> {
    const MAX_ENTRIES: u32 = 128;
    let op: ForeignMemoryMap = guest::read(arg)?;
    if op.map.nr_entries > MAX_ENTRIES {
        return Err(Error::Invalid);
    }
    let domain = domain::resolve(call.domain, DomainId(op.domid)).ok_or(Error::NoDomain)?;
    call.require_privilege()?;
    let mut entries = alloc::vec![[0u8; 20]; op.map.nr_entries as usize];
    for (index, entry) in entries.iter_mut().enumerate() {
        *entry = guest::read_item(op.map.buffer, index as u64)?;
    }
    *domain.memory_map.lock() = entries;
    Ok(0)
}
