//! The Rust heap: the global allocator, which grows by mapping more frames.
//!
//! Large blocks have mappings of their own, whose frames are given back when the
//! block is freed: unpacking a kernel takes a hundred megabytes for a moment.
//!
//! Not for interrupt handlers: they take no locks, and this is one. Growing may
//! wait for other CPUs' TLBs, so whoever waits for the lock serves flushes.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap;
use overcast_core::addr::Mfn;
use spin::mutex::SpinMutex;

use overcast_core::ids::CpuSet;
use overcast_core::machine::Tlb;

use crate::arch::memory::{self, Machine};
use crate::arch::paging::{self, PageFlags, SIZE_2M};
use crate::arch::tlb::Serve;

/// Blocks of this size and more are mapped for themselves, in whole pages of 2 MiB.
const LARGE: usize = 1 << 20;
/// The 2 MiB slots for large blocks, at the end of the heap's addresses.
const SLOTS: usize = 512;
const SLOTS_BASE: u64 = paging::HEAP_END - SLOTS as u64 * SIZE_2M;

struct Growing {
    heap: Heap,
    /// One more than the last address mapped; 0 before the first growth.
    end: u64,
    /// Slots in use.
    slots: [bool; SLOTS],
}

struct Allocator(SpinMutex<Growing, Serve>);

#[global_allocator]
static ALLOCATOR: Allocator = Allocator(SpinMutex::new(Growing {
    heap: Heap::empty(),
    end: 0,
    slots: [false; SLOTS],
}));

impl Growing {
    /// Maps 2 MiB more. `None` if there is no memory, or no room.
    fn grow(&mut self) -> Option<()> {
        let start = self.end.max(paging::HEAP_BASE);
        if start + SIZE_2M > SLOTS_BASE {
            return None;
        }
        self.map(start)?;
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

    /// Maps 2 MiB at `start`. `None` if there is no memory.
    fn map(&self, start: u64) -> Option<()> {
        if let Ok(mfn) = memory::alloc_frames(9, None) {
            if paging::map_level(start, mfn, PageFlags::READ_WRITE, 2).is_ok() {
                return Some(());
            }
            // A table of small pages is left there from an earlier time.
            memory::free_frames(mfn, 9);
        }
        // No large block: one by one. What was mapped when memory ends is lost to this
        // growth, and found mapped by the next.
        for page in 0..SIZE_2M / 4096 {
            let va = start + page * 4096;
            if paging::translate(va).is_none() {
                let mfn: Mfn = memory::alloc_frames(0, None).ok()?;
                paging::map(va, mfn, PageFlags::READ_WRITE).ok()?;
            }
        }
        Some(())
    }

    /// Maps a large block. `None` if there is no memory, or no room.
    fn take_large(&mut self, size: usize) -> Option<NonNull<u8>> {
        let count = size.div_ceil(SIZE_2M as usize);
        let first = self
            .slots
            .windows(count)
            .position(|slots| slots.iter().all(|used| !used))?;
        for slot in first..first + count {
            let mapped = self.map(slot_address(slot));
            // Half a slot may be mapped as well.
            *self.slots.get_mut(slot)? = true;
            if mapped.is_none() {
                self.free_slots(first, slot + 1 - first);
                return None;
            }
        }
        NonNull::new(slot_address(first) as *mut u8)
    }

    /// Gives a large block's frames back.
    fn free_large(&mut self, address: NonNull<u8>, size: usize) {
        let first = (address.as_ptr() as u64 - SLOTS_BASE) / SIZE_2M;
        self.free_slots(first as usize, size.div_ceil(SIZE_2M as usize));
    }

    fn free_slots(&mut self, first: usize, count: usize) {
        for slot in first..first + count {
            // Who gets the frames next has old translations flushed.
            paging::unmap_2m(slot_address(slot), memory::free_frames);
        }
        // Before the addresses are used again.
        Machine.flush(&CpuSet::ALL);
        self.slots
            .iter_mut()
            .skip(first)
            .take(count)
            .for_each(|used| *used = false);
    }
}

fn slot_address(slot: usize) -> u64 {
    SLOTS_BASE + slot as u64 * SIZE_2M
}

fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= SIZE_2M as usize
}

// SAFETY: memory comes from `linked_list_allocator`, which keeps the contract,
// over ranges that only it uses; the lock makes it one user at a time.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut growing = self.0.lock();
        if is_large(layout) {
            return growing
                .take_large(layout.size())
                .map_or(ptr::null_mut(), NonNull::as_ptr);
        }
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
            if is_large(layout) {
                self.0.lock().free_large(address, layout.size());
                return;
            }
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
