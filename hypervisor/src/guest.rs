//! Access to the memory of the guest that is running, by its own addresses.
//!
//! Every access checks that it stays out of the hypervisor's range and survives
//! any fault; what was read is a copy that the guest cannot change any more.

use core::mem::{MaybeUninit, size_of};

use overcast_core::addr::GuestVirtual;
use overcast_core::error::{Error, Result};
use xen_abi::xen::GuestHandle;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::arch::entry::{guest_copy, guest_pair};

/// Copies bytes from the guest. EFAULT if any of them cannot be read.
pub fn read_bytes(from: GuestVirtual, to: &mut [u8]) -> Result<()> {
    if !from.access_ok(to.len() as u64) {
        return Err(Error::Fault);
    }
    // SAFETY: `to` is valid for its length, `from` lies outside the hypervisor's range.
    match unsafe { guest_copy(to.as_mut_ptr() as u64, from.0, to.len()) } {
        0 => Ok(()),
        _ => Err(Error::Fault),
    }
}

/// Reads sixteen bytes, as little-endian words; `None` if any of them cannot be read.
#[inline]
pub fn read_pair(from: GuestVirtual) -> Option<[u64; 2]> {
    if !from.access_ok(16) {
        return None;
    }
    // SAFETY: `from` lies outside the hypervisor's range.
    unsafe { guest_pair(from.0) }
}

/// Copies bytes from the guest up to the first that cannot be read; gives how many.
pub fn read_some(from: GuestVirtual, to: &mut [u8]) -> usize {
    if !from.access_ok(to.len() as u64) {
        return 0;
    }
    // SAFETY: as in `read_bytes`.
    let left = unsafe { guest_copy(to.as_mut_ptr() as u64, from.0, to.len()) };
    if left == 0 {
        return to.len();
    }
    let done = to.len() - left;
    // A fault may have come in the middle of a word: its first bytes can be read.
    let last = left.min(7);
    let (to, from) = (
        to.as_mut_ptr() as u64 + done as u64,
        from.0.wrapping_add(done as u64),
    );
    // SAFETY: as above, for a part.
    done + last - unsafe { guest_copy(to, from, last) }
}

/// Copies bytes to the guest. EFAULT if any of them cannot be written.
pub fn write_bytes(to: GuestVirtual, from: &[u8]) -> Result<()> {
    if !to.access_ok(from.len() as u64) {
        return Err(Error::Fault);
    }
    // SAFETY: `from` is valid for its length, `to` lies outside the hypervisor's range.
    match unsafe { guest_copy(to.0, from.as_ptr() as u64, from.len()) } {
        0 => Ok(()),
        _ => Err(Error::Fault),
    }
}

/// Copies bytes to the guest up to the first that cannot be written; gives how many.
pub fn write_some(to: GuestVirtual, from: &[u8]) -> usize {
    if !to.access_ok(from.len() as u64) {
        return 0;
    }
    // SAFETY: as in `write_bytes`.
    let left = unsafe { guest_copy(to.0, from.as_ptr() as u64, from.len()) };
    let done = from.len() - left;
    // As in `read_some`.
    let last = left.min(7);
    let (to, from) = (
        to.0.wrapping_add(done as u64),
        from.as_ptr() as u64 + done as u64,
    );
    // SAFETY: as above, for a part.
    done + last - unsafe { guest_copy(to, from, last) }
}

/// Reads a value. EFAULT if it cannot be read.
pub fn read<T: FromBytes>(from: GuestVirtual) -> Result<T> {
    if !from.access_ok(size_of::<T>() as u64) {
        return Err(Error::Fault);
    }
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the destination has the size of T, `from` lies outside the hypervisor's range.
    match unsafe { guest_copy(value.as_mut_ptr() as u64, from.0, size_of::<T>()) } {
        // SAFETY: all bytes were written, and T takes any bytes.
        0 => Ok(unsafe { value.assume_init() }),
        _ => Err(Error::Fault),
    }
}

/// Writes a value. EFAULT if it cannot be written.
pub fn write<T: IntoBytes + Immutable>(to: GuestVirtual, value: &T) -> Result<()> {
    write_bytes(to, value.as_bytes())
}

/// Address of item `index` of an array of `T` behind a handle. EFAULT on overflow.
pub fn item<T>(handle: GuestHandle, index: u64) -> Result<GuestVirtual> {
    index
        .checked_mul(size_of::<T>() as u64)
        .and_then(|offset| handle.0.checked_add(offset))
        .map(GuestVirtual)
        .ok_or(Error::Fault)
}

/// Whether an array of `count` items of `T` may be looked at: what is checked
/// before the items, one by one, are. As on Xen, that is where it begins, and that
/// its size is a number.
pub fn array_ok<T>(handle: GuestHandle, count: u64) -> bool {
    let at = handle.0;
    count < u64::MAX / size_of::<T>().max(1) as u64
        && !(1 << 47..GuestVirtual::HYPERVISOR_END).contains(&at)
}

/// Reads item `index` of an array behind a handle.
pub fn read_item<T: FromBytes>(handle: GuestHandle, index: u64) -> Result<T> {
    read(item::<T>(handle, index)?)
}

/// Writes item `index` of an array behind a handle.
pub fn write_item<T: IntoBytes + Immutable>(
    handle: GuestHandle,
    index: u64,
    value: &T,
) -> Result<()> {
    write(item::<T>(handle, index)?, value)
}

/// Fills a buffer of `T`s from an array behind a handle.
pub fn read_items<T: FromBytes + IntoBytes + FromZeros>(
    handle: GuestHandle,
    index: u64,
    to: &mut [T],
) -> Result<()> {
    read_bytes(item::<T>(handle, index)?, to.as_mut_bytes())
}

/// Reads items of an array behind a handle up to the first that cannot be read;
/// gives those that were.
pub fn read_prefix<T: FromBytes>(
    handle: GuestHandle,
    index: u64,
    to: &mut [MaybeUninit<T>],
) -> &[T] {
    let Ok(from) = item::<T>(handle, index) else {
        return &[];
    };
    let (bytes, len) = (to.as_mut_ptr() as u64, size_of_val(to));
    if !from.access_ok(len as u64) {
        return &[];
    }
    // SAFETY: the destination has `len` bytes, `from` lies outside the hypervisor's range.
    let left = unsafe { guest_copy(bytes, from.0, len) };
    // Words in which a fault came were not written.
    let got = (len - left) / size_of::<T>();
    // SAFETY: the first `got` items were written, and T takes any bytes.
    unsafe { core::slice::from_raw_parts(to.as_ptr().cast(), got) }
}
