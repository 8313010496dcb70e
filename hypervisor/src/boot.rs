//! What the loader said, read through the identity mapping of the boot page tables.

use core::cell::UnsafeCell;

use overcast_boot::{BootError, BootInfo, PhysicalMemory};

/// Virtual address of a symbol of the image minus its physical address
/// (`IMAGE_BASE` of boot/overcast.lds).
pub const IMAGE_BASE: u64 = 0xffff_82d0_4000_0000;

/// What the boot page tables map at its physical address: the first 4 GiB.
const IDENTITY_END: u64 = 1 << 32;

unsafe extern "C" {
    static __image_start: [u8; 0];
    static __image_end: [u8; 0];
}

/// The range of physical addresses of the image, .bss included.
pub fn image_range() -> core::ops::Range<u64> {
    let physical = |symbol: *const [u8; 0]| symbol as u64 - IMAGE_BASE;
    physical(&raw const __image_start)..physical(&raw const __image_end)
}

struct IdentityMap;

impl PhysicalMemory for IdentityMap {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let end = address.checked_add(len as u64)?;
        // Address 0 cannot be in a slice.
        if address == 0 || end > IDENTITY_END {
            return None;
        }
        // SAFETY: the boot page tables map the first 4 GiB at their physical
        // addresses, and nothing writes there while the information is read:
        // one CPU runs, with interrupts off, and the image is not read this way.
        Some(unsafe { core::slice::from_raw_parts(address as *const u8, len) })
    }
}

struct Slot(UnsafeCell<BootInfo>);

// SAFETY: written once by `read` on the boot CPU before any other CPU runs, and
// only read afterwards.
unsafe impl Sync for Slot {}

static BOOT_INFO: Slot = Slot(UnsafeCell::new(BootInfo::empty()));

/// Reads the loader's information.
///
/// # Safety
///
/// To be called once, on the boot CPU, under the boot page tables.
pub unsafe fn read(protocol: u32, info: u64) -> (&'static BootInfo, Result<(), BootError>) {
    // SAFETY: called once, so this is the only reference there is.
    let boot_info = unsafe { &mut *BOOT_INFO.0.get() };
    let result = boot_info.read(protocol, info, image_range(), &IdentityMap);
    (boot_info, result)
}
