//! Frames of other domains in this process (`IOCTL_PRIVCMD_MMAPBATCH_V2` and
//! `IOCTL_PRIVCMD_MMAP_RESOURCE`, Linux `xen/privcmd.h`).
//!
//! What another domain may write at any time is never lent as a Rust slice: it is read and
//! written through [`Frame`], a page of atomic words, or copied.

use std::io;
use std::ptr::{self, NonNull};

use overcast_core::addr::{Mfn, PAGE_SIZE};
use overcast_core::machine::Frame;
use xen_abi::xen::GuestHandle;

use super::privcmd::Privcmd;
use crate::error::{Error, Result};

/// `struct privcmd_mmapbatch_v2`.
#[repr(C)]
struct PrivcmdMmapbatchV2 {
    num: u32,
    dom: u16,
    addr: u64,
    arr: *const u64,
    err: *mut i32,
}

/// `struct privcmd_mmap_resource`.
#[repr(C)]
struct PrivcmdMmapResource {
    dom: u16,
    r#type: u32,
    id: u32,
    idx: u32,
    num: u64,
    addr: u64,
}

const fn privcmd_ioctl(number: u32, size: usize) -> libc::c_ulong {
    ((size as libc::c_ulong) << 16) | ((b'P' as libc::c_ulong) << 8) | number as libc::c_ulong
}

/// `IOCTL_PRIVCMD_MMAPBATCH_V2`
const IOCTL_MMAPBATCH_V2: libc::c_ulong = privcmd_ioctl(4, size_of::<PrivcmdMmapbatchV2>());
/// `IOCTL_PRIVCMD_MMAP_RESOURCE`
const IOCTL_MMAP_RESOURCE: libc::c_ulong = privcmd_ioctl(7, size_of::<PrivcmdMmapResource>());

/// How frames are mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Page tables can be mapped so, too.
    Read,
    /// Read and write.
    Write,
}

/// Frames of another domain, one behind the other; unmapped on drop.
///
/// A frame that could not be mapped has an errno and is `None` everywhere. The mapping
/// holds the frames: a domain that ended keeps them until it is dropped.
pub struct ForeignMap {
    memory: NonNull<u8>,
    /// For each frame 0, or a negative errno.
    errors: Vec<i32>,
    access: Access,
}

// SAFETY: the mapping is the value's own, valid in all threads; its memory is accessed as
// atomic words only.
unsafe impl Send for ForeignMap {}
// SAFETY: as above.
unsafe impl Sync for ForeignMap {}

/// Reserves addresses of the driver's for so many pages.
fn reserve(privcmd: &Privcmd, pages: usize, access: Access) -> Result<NonNull<u8>> {
    let length = pages
        .checked_mul(PAGE_SIZE)
        .filter(|&length| length > 0)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let protection = match access {
        Access::Read => libc::PROT_READ,
        Access::Write => libc::PROT_READ | libc::PROT_WRITE,
    };
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            protection,
            libc::MAP_SHARED,
            privcmd.fd(),
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error().into());
    }
    NonNull::new(memory.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory).into())
}

impl ForeignMap {
    /// Maps frames of a domain; a frame may fail by itself. (For a PV domain they are machine
    /// frames.)
    ///
    /// # Errors
    /// Only if nothing at all can be mapped; `ESRCH` without such a domain.
    pub fn new(privcmd: &Privcmd, domain: u16, frames: &[Mfn], access: Access) -> Result<Self> {
        let numbers: Vec<u64> = frames.iter().map(|mfn| mfn.0).collect();
        let mut map = Self {
            memory: reserve(privcmd, frames.len(), access)?,
            errors: vec![0; frames.len()],
            access,
        };
        let mut batch = PrivcmdMmapbatchV2 {
            num: u32::try_from(frames.len())
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
            dom: domain,
            addr: map.memory.as_ptr() as u64,
            arr: numbers.as_ptr(),
            err: map.errors.as_mut_ptr(),
        };
        // SAFETY: the request and both lists are as long as they say and live over the call;
        // the addresses were reserved from the driver.
        let result = unsafe { libc::ioctl(privcmd.fd(), IOCTL_MMAPBATCH_V2 as _, &raw mut batch) };
        let error = io::Error::last_os_error();
        // ENOENT: a frame has it, and says so itself.
        if result < 0 && error.raw_os_error() != Some(libc::ENOENT) {
            return Err(Error::Hypercall {
                operation: "map a domain's memory",
                errno: error.raw_os_error().unwrap_or(0),
            });
        }
        Ok(map)
    }

    /// As [`Self::new`], but any frame that cannot be mapped is an error.
    pub fn all(privcmd: &Privcmd, domain: u16, frames: &[Mfn], access: Access) -> Result<Self> {
        let map = Self::new(privcmd, domain, frames, access)?;
        match map.errors.iter().find(|&&error| error != 0) {
            None => Ok(map),
            Some(error) => Err(Error::Hypercall {
                operation: "map a domain's memory",
                errno: error.wrapping_neg(),
            }),
        }
    }

    /// Maps frames of a resource (`XENMEM_RESOURCE_*`) of a domain to be written.
    pub fn resource(
        privcmd: &Privcmd,
        domain: u16,
        resource: u32,
        id: u32,
        first: u32,
        count: usize,
    ) -> Result<Self> {
        let map = Self {
            memory: reserve(privcmd, count, Access::Write)?,
            errors: vec![0; count],
            access: Access::Write,
        };
        let mut request = PrivcmdMmapResource {
            dom: domain,
            r#type: resource,
            id,
            idx: first,
            num: count as u64,
            addr: map.memory.as_ptr() as u64,
        };
        let device = privcmd.fd();
        // SAFETY: the request lives over the call; the addresses were reserved from the driver.
        let result = unsafe { libc::ioctl(device, IOCTL_MMAP_RESOURCE as _, &raw mut request) };
        if result < 0 {
            return Err(Error::Hypercall {
                operation: "map a domain's tables",
                errno: io::Error::last_os_error().raw_os_error().unwrap_or(0),
            });
        }
        Ok(map)
    }

    /// Its address, for the hypervisor to read it during a call.
    pub(super) fn handle(&self) -> GuestHandle {
        GuestHandle(self.memory.as_ptr() as u64)
    }

    /// Why a frame is not mapped (a positive errno); `None` if it is.
    pub fn error(&self, index: usize) -> Option<i32> {
        match self.errors.get(index) {
            Some(0) => None,
            Some(error) => Some(error.wrapping_neg()),
            None => Some(libc::ERANGE),
        }
    }

    fn page(&self, index: usize) -> Option<&Frame> {
        if self.errors.get(index) != Some(&0) {
            return None;
        }
        // SAFETY: within the mapping, and mapped, as its error says; page aligned. `Frame` is
        // atomic words, so that others may write it. It lives as long as the mapping, which
        // `self` is. (Of a mapping to be read only, nobody gets the means to write.)
        Some(unsafe { &*self.memory.as_ptr().add(index * PAGE_SIZE).cast::<Frame>() })
    }

    /// A frame of a mapping to be written.
    pub fn frame(&self, index: usize) -> Option<&Frame> {
        match self.access {
            Access::Write => self.page(index),
            Access::Read => None,
        }
    }

    /// The word at `word` (0 to 511) of a frame, if the frame is mapped.
    pub fn load(&self, index: usize, word: usize) -> Option<u64> {
        (word < PAGE_SIZE / 8).then(|| self.page(index).map(|frame| frame.load(word)))?
    }

    /// Copies bytes of a frame out, from `offset` on; false if it is not mapped, or they do not
    /// lie in it.
    #[must_use]
    pub fn read(&self, index: usize, offset: usize, out: &mut [u8]) -> bool {
        let fits = offset
            .checked_add(out.len())
            .is_some_and(|end| end <= PAGE_SIZE);
        match self.page(index) {
            Some(frame) if fits => {
                frame.read(offset, out);
                true
            }
            _ => false,
        }
    }

    /// Copies bytes into a frame, from `offset` on; false if that cannot be.
    #[must_use]
    pub fn write(&self, index: usize, offset: usize, data: &[u8]) -> bool {
        let fits = offset
            .checked_add(data.len())
            .is_some_and(|end| end <= PAGE_SIZE);
        match self.frame(index) {
            Some(frame) if fits => {
                frame.write(offset, data);
                true
            }
            _ => false,
        }
    }
}

impl Drop for ForeignMap {
    fn drop(&mut self) {
        // SAFETY: the mapping that was reserved for it; no borrow of it is left.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.errors.len() * PAGE_SIZE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ioctls_have_the_numbers_of_the_header() {
        assert_eq!(IOCTL_MMAPBATCH_V2, 0x20_5004);
        assert_eq!(IOCTL_MMAP_RESOURCE, 0x20_5007);
    }
}
