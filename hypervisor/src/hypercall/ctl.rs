//! What the control interfaces (sysctl.h, domctl.h) have in common: operations
//! with a union of arguments, and bitmaps of any length.

use overcast_core::cpuid::{CpuidPolicy, MAX_LEAVES, MAX_MSRS};
use overcast_core::error::{Error, Result};
use overcast_core::ids::CpuSet;
use xen_abi::xen::{GuestHandle, XenctlBitmap};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arch::percpu;
use crate::guest;

/// Words of the union of an operation.
pub type Arguments = [u64; 16];

/// The arguments as those of one operation.
pub fn get<T: FromBytes + KnownLayout + Immutable>(from: &Arguments) -> Result<T> {
    T::read_from_prefix(from.as_bytes())
        .map(|(value, _)| value)
        .map_err(|_| Error::Invalid)
}

/// Puts one operation's answer into the arguments.
pub fn put<T: IntoBytes + Immutable>(to: &mut Arguments, value: &T) {
    let bytes = value.as_bytes();
    if let Some(to) = to.as_mut_bytes().get_mut(..bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

/// One more than the highest number of a CPU.
pub fn nr_cpu_ids() -> u32 {
    percpu::all().map(|cpu| cpu.cpu.0 + 1).max().unwrap_or(1)
}

/// Writes the bits of CPUs that there are: as many bytes as the guest has room
/// for, those beyond the CPUs 0.
pub fn write_cpus(to: &XenctlBitmap, cpus: &CpuSet) -> Result<()> {
    write_bitmap(to, cpus.words(), nr_cpu_ids())
}

/// Writes `bits` bits of a bitmap, and zeros to the end of the guest's.
pub fn write_bitmap(to: &XenctlBitmap, words: &[u64], bits: u32) -> Result<()> {
    let room = to.nr_bits.div_ceil(8);
    let bytes = words.as_bytes();
    for index in 0..room {
        let byte = bytes.get(index as usize).copied().unwrap_or(0);
        let valid = bits.saturating_sub(index.saturating_mul(8)).min(8);
        let mask = ((1u32 << valid) - 1) as u8;
        guest::write_item(to.bitmap, index.into(), &(byte & mask))?;
    }
    Ok(())
}

/// Reads a set of CPUs; what is beyond the CPUs that there are is passed over.
pub fn read_cpus(from: &XenctlBitmap) -> Result<CpuSet> {
    let bits = from.nr_bits.min(nr_cpu_ids());
    let mut cpus = CpuSet::EMPTY;
    for index in 0..bits.div_ceil(8) {
        let byte: u8 = guest::read_item(from.bitmap, index.into())?;
        for bit in 0..8u32.min(bits - index * 8) {
            if byte & (1 << bit) != 0 {
                cpus.insert(overcast_core::ids::CpuId(index * 8 + bit));
            }
        }
    }
    Ok(cpus)
}

/// Writes the leaves of a policy to a list with room for `room`, or with no list
/// says how many there may be. Gives the number. ENOBUFS if there are more.
pub fn write_leaves(policy: &CpuidPolicy, list: GuestHandle, room: u32) -> Result<u32> {
    if list.is_null() {
        return Ok(MAX_LEAVES);
    }
    write_all(&policy.leaves(), list, room)
}

/// As [`write_leaves`], for the MSRs of a policy.
pub fn write_msrs(policy: &CpuidPolicy, list: GuestHandle, room: u32) -> Result<u32> {
    if list.is_null() {
        return Ok(MAX_MSRS);
    }
    write_all(&policy.msrs(), list, room)
}

fn write_all<T: IntoBytes + Immutable>(items: &[T], list: GuestHandle, room: u32) -> Result<u32> {
    for (index, item) in (0..).zip(items) {
        if index == u64::from(room) {
            return Err(Error::NoBuffers);
        }
        guest::write_item(list, index, item)?;
    }
    Ok(items.len() as u32)
}
