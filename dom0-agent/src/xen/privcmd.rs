//! Hypercalls through `/dev/xen/privcmd` (Linux, `xen/privcmd.h`).
//!
//! The hypervisor reads and writes the caller's memory by its page tables and does not
//! wait for pages to be brought in, so everything that a hypercall points to lies in a
//! [`Buffer`]: memory of `/dev/xen/hypercall`, which stays mapped, or locked memory where
//! the kernel has no such device.

use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::{self, NonNull};

use xen_abi::xen::GuestHandle;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::error::{Error, Result};

const PRIVCMD: &str = "/dev/xen/privcmd";
const HYPERCALL_BUFFERS: &str = "/dev/xen/hypercall";
const PAGE: usize = 4096;

/// `struct privcmd_hypercall`.
#[repr(C)]
struct PrivcmdHypercall {
    op: u64,
    arg: [u64; 5],
}

/// `IOCTL_PRIVCMD_HYPERCALL`: `_IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall))`.
const IOCTL_PRIVCMD_HYPERCALL: libc::c_ulong =
    ((size_of::<PrivcmdHypercall>() as libc::c_ulong) << 16) | ((b'P' as libc::c_ulong) << 8);

/// The way to the hypervisor.
pub struct Privcmd {
    privcmd: File,
    buffers: Option<File>,
}

impl Privcmd {
    /// Opens it.
    ///
    /// # Errors
    /// `NoControl` if this is no control domain, or the caller not root.
    pub fn open() -> Result<Self> {
        let open = |path| OpenOptions::new().read(true).write(true).open(path);
        let privcmd = open(PRIVCMD).map_err(|source| Error::NoControl {
            path: PRIVCMD,
            source,
        })?;
        Ok(Self {
            privcmd,
            buffers: open(HYPERCALL_BUFFERS).ok(),
        })
    }

    /// The device, for what is not a hypercall.
    pub(super) fn fd(&self) -> RawFd {
        self.privcmd.as_raw_fd()
    }

    /// Memory for `count` items, all zeros.
    pub fn buffer<T: FromBytes + IntoBytes + Immutable>(&self, count: usize) -> Result<Buffer<T>> {
        Buffer::new(self.buffers.as_ref(), count)
    }

    /// Makes a hypercall; `operation` says in an error what it was for.
    ///
    /// # Errors
    /// `Hypercall` with Xen's errno.
    pub fn call(&self, operation: &'static str, number: u64, args: &[u64]) -> Result<i64> {
        let mut call = PrivcmdHypercall {
            op: number,
            arg: [0; 5],
        };
        for (slot, &arg) in call.arg.iter_mut().zip(args) {
            *slot = arg;
        }
        // SAFETY: the request is what the driver expects, and lives over the call. What
        // its arguments point to are buffers that the caller holds.
        let result = unsafe {
            libc::ioctl(
                self.privcmd.as_raw_fd(),
                IOCTL_PRIVCMD_HYPERCALL as _,
                &raw mut call,
            )
        };
        if result < 0 {
            let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
            return Err(Error::Hypercall { operation, errno });
        }
        Ok(i64::from(result))
    }
}

/// Memory that a hypercall may use: whole pages, zeroed, given back on drop.
pub struct Buffer<T> {
    memory: NonNull<u8>,
    bytes: usize,
    count: usize,
    item: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> Buffer<T> {
    fn new(device: Option<&File>, count: usize) -> Result<Self> {
        let bytes = count
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.max(1).checked_next_multiple_of(PAGE))
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let (flags, fd) = match device {
            Some(device) => (libc::MAP_SHARED, device.as_raw_fd()),
            None => (
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_LOCKED | libc::MAP_POPULATE,
                -1,
            ),
        };
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        let memory = NonNull::new(memory.cast::<u8>())
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: `bytes` bytes were just mapped. Writing also brings the pages in.
        unsafe { memory.as_ptr().write_bytes(0, bytes) };
        Ok(Self {
            memory,
            bytes,
            count,
            item: PhantomData,
        })
    }

    /// Its address, for the hypervisor.
    pub fn handle(&self) -> GuestHandle {
        GuestHandle(self.memory.as_ptr() as u64)
    }

    /// What is in it.
    pub fn items(&self) -> &[T] {
        // SAFETY: mapped, page aligned, large enough for `count` items, and T takes any
        // bytes. The hypervisor writes only during a call, which borrows nothing of it.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.count) }
    }

    /// What is in it, to be changed.
    pub fn items_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `items`; this is the only borrow.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().cast(), self.count) }
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; no borrow of it is left.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ioctl_has_the_number_of_the_header() {
        assert_eq!(IOCTL_PRIVCMD_HYPERCALL, 0x30_5000);
    }

    #[test]
    fn buffers_begin_as_zeros_and_keep_what_is_put_in() {
        // Locked memory may be short where tests run.
        let Ok(mut buffer) = Buffer::<u64>::new(None, 700) else {
            return;
        };
        assert!(buffer.items().iter().all(|&word| word == 0));
        buffer.items_mut()[699] = 7;
        assert_eq!(buffer.items()[699], 7);
        assert_eq!(buffer.handle().0 % PAGE as u64, 0);
    }
}
