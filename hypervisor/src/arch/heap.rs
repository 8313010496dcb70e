//! The Rust heap: the global allocator, which grows by mapping more frames.
//!
//! Not for interrupt handlers: they take no locks, and this is one. Growing may
//! wait for other CPUs' TLBs, so whoever waits for the lock serves flushes.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap;
use overcast_core::addr::Mfn;
use spin::mutex::SpinMutex;

use crate::arch::memory;
use crate::arch::paging::{self, PageFlags, SIZE_2M};
use crate::arch::tlb::Serve;

struct Growing {
    heap: Heap,
    /// One more than the last address mapped; 0 before the first growth.
    end: u64,
}

struct Allocator(SpinMutex<Growing, Serve>);

#[global_allocator]
static ALLOCATOR: Allocator = Allocator(SpinMutex::new(Growing {
    heap: Heap::empty(),
    end: 0,
}));

impl Growing {
    /// Maps 2 MiB more. `None` if there is no memory, or no room.
    fn grow(&mut self) -> Option<()> {
        let start = self.end.max(paging::HEAP_BASE);
        if start + SIZE_2M > paging::HEAP_END {
            return None;
        }
        match memory::alloc_frames(9, None) {
            Ok(mfn) => paging::map_level(start, mfn, PageFlags::READ_WRITE, 2).ok()?,
            // No large block: one by one. What was mapped when memory ends is lost to this
            // growth, and found mapped by the next.
            Err(_) => {
                for page in 0..SIZE_2M / 4096 {
                    let va = start + page * 4096;
                    if paging::translate(va).is_none() {
                        let mfn: Mfn = memory::alloc_frames(0, None).ok()?;
                        paging::map(va, mfn, PageFlags::READ_WRITE).ok()?;
                    }
                }
            }
        }
        if self.end == 0 {
            // SAFETY: the range was just mapped and nobody else uses it.
            unsafe { self.heap.init(start as *mut u8, SIZE_2M as usize) };
        } else {
            // SAFETY: as above, and it follows the range in use.
            unsafe { self.heap.extend(SIZE_2M as usize) };
        }
        self.end = start + SIZE_2M;
        Some(())
    }
}

// SAFETY: memory comes from `linked_list_allocator`, which keeps the contract,
// over ranges that only it uses; the lock makes it one user at a time.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut growing = self.0.lock();
        // Growth that cannot satisfy the request is not begun.
        if layout.size() as u64 >= paging::HEAP_END - paging::HEAP_BASE {
            return ptr::null_mut();
        }
        loop {
            if let Ok(found) = growing.heap.allocate_first_fit(layout) {
                return found.as_ptr();
            }
            if growing.grow().is_none() {
                return ptr::null_mut();
            }
        }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        if let Some(address) = NonNull::new(address) {
            // SAFETY: the caller promises that it came from `alloc` with this layout.
            unsafe { self.0.lock().heap.deallocate(address, layout) };
        }
    }
}

/// Bytes in use, and bytes mapped.
pub fn usage() -> (usize, usize) {
    let growing = ALLOCATOR.0.lock();
    (growing.heap.used(), growing.heap.size())
}
