//! What drivers need of the machine, and the memory that they share with devices.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Bytes of a page: the granularity and the alignment of memory for devices.
pub const PAGE_SIZE: usize = 4096;

/// The machine, as drivers see it.
///
/// # Safety
///
/// - What [`Self::allocate`] gives is RAM in a row, mapped readable and writable at the
///   pointer, reached by devices at the address, and nobody else's until it is freed.
/// - What [`Self::map`] gives stays mapped, uncached, for ever.
pub unsafe trait Platform: Sync {
    /// Zeroed pages in a row: their machine address and where they are mapped; `None` if
    /// there are none.
    fn allocate(&self, pages: usize) -> Option<(u64, NonNull<u8>)>;

    /// Takes back what [`Self::allocate`] gave.
    ///
    /// # Safety
    /// It is just that, as a whole, and neither a device nor the driver uses it any more.
    unsafe fn free(&self, address: u64, pages: usize);

    /// Maps registers; `None` if that cannot be done.
    fn map(&self, address: u64, length: u64) -> Option<NonNull<u8>>;

    /// Waits that many microseconds. Only while devices are set up.
    fn wait(&self, microseconds: u32);

    /// How many CPUs there are: more queues than these serve nobody.
    fn cpus(&self) -> usize;
}

/// Memory shared with a device.
///
/// The device may write it at any time, so every access is atomic, and what was read is to
/// be checked. Offsets are bytes, aligned to what is accessed; one that is not, or that is
/// beyond the end, is a bug of the driver's and panics.
///
/// Dropping it gives the memory back: the device must have been reset before.
pub struct Dma {
    base: NonNull<u8>,
    address: u64,
    pages: usize,
    platform: &'static dyn Platform,
}

// SAFETY: the memory is the owner's, and all access to it is atomic.
unsafe impl Send for Dma {}
// SAFETY: as above.
unsafe impl Sync for Dma {}

macro_rules! access {
    ($load:ident, $store:ident, $atomic:ty, $int:ty) => {
        /// Reads the value at an offset.
        #[inline]
        pub fn $load(&self, offset: usize, order: Ordering) -> $int {
            let at = self.pointer(offset, size_of::<$int>());
            // SAFETY: `pointer` checked bounds and alignment; all access is atomic.
            unsafe { <$atomic>::from_ptr(at.cast()) }.load(order)
        }

        /// Writes the value at an offset.
        #[inline]
        pub fn $store(&self, offset: usize, value: $int, order: Ordering) {
            let at = self.pointer(offset, size_of::<$int>());
            // SAFETY: `pointer` checked bounds and alignment; all access is atomic.
            unsafe { <$atomic>::from_ptr(at.cast()) }.store(value, order);
        }
    };
}

impl Dma {
    /// Zeroed memory of at least `bytes`; `None` if there is none.
    pub fn new(platform: &'static dyn Platform, bytes: usize) -> Option<Self> {
        let pages = bytes.div_ceil(PAGE_SIZE).max(1);
        let (address, base) = platform.allocate(pages)?;
        Some(Self {
            base,
            address,
            pages,
            platform,
        })
    }

    /// Machine address of the byte at `offset`.
    #[inline]
    pub fn address(&self, offset: usize) -> u64 {
        self.address + offset as u64
    }

    /// Bytes of it.
    #[inline]
    pub fn length(&self) -> usize {
        self.pages * PAGE_SIZE
    }

    #[inline]
    fn pointer(&self, offset: usize, size: usize) -> *mut u8 {
        assert!(offset.is_multiple_of(size) && offset < self.length());
        // SAFETY: within the memory: the length is a multiple of all sizes, so an
        // aligned value that begins in it ends in it.
        unsafe { self.base.as_ptr().add(offset) }
    }

    access!(load8, store8, AtomicU8, u8);
    access!(load16, store16, AtomicU16, u16);
    access!(load32, store32, AtomicU32, u32);
    access!(load64, store64, AtomicU64, u64);
}

impl Drop for Dma {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` as a whole; the owner has stopped the device.
        unsafe { self.platform.free(self.address, self.pages) };
    }
}

impl core::fmt::Debug for Dma {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Dma({:#x}, {} pages)", self.address, self.pages)
    }
}

/// A machine for tests, which serves all CPUs that are asked for.
#[cfg(test)]
pub mod mock {
    use super::*;
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::sync::atomic::AtomicUsize;

    /// Pages that tests have and did not give back yet.
    pub static PAGES: AtomicUsize = AtomicUsize::new(0);

    /// The machine: addresses are those of the test's process.
    pub struct Mock;

    fn layout(pages: usize) -> Layout {
        Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).unwrap()
    }

    // SAFETY: allocations are the process's own memory; nothing is ever mapped.
    unsafe impl Platform for Mock {
        fn allocate(&self, pages: usize) -> Option<(u64, NonNull<u8>)> {
            PAGES.fetch_add(pages, Ordering::Relaxed);
            // SAFETY: the size is not 0.
            let base = NonNull::new(unsafe { alloc_zeroed(layout(pages)) })?;
            Some((base.as_ptr() as u64, base))
        }

        unsafe fn free(&self, address: u64, pages: usize) {
            PAGES.fetch_sub(pages, Ordering::Relaxed);
            // SAFETY: the caller's promise.
            unsafe { dealloc(address as *mut u8, layout(pages)) };
        }

        fn map(&self, _: u64, _: u64) -> Option<NonNull<u8>> {
            None
        }

        fn wait(&self, _: u32) {
            std::thread::yield_now();
        }

        fn cpus(&self) -> usize {
            4
        }
    }
}
