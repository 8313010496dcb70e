//! The hypervisor's own page tables.
//!
//! One set of L3 tables under the L4 slots 256 to 271 is shared by every
//! address space: [`idle_l4`] and all guests' L4s hold the same sixteen
//! entries, so a mapping made here appears everywhere at once.
//!
//! | address | what |
//! |---|---|
//! | `0xffff800000000000` | machine-to-phys table, readable by guests |
//! | `0xffff82a000000000` | device registers and firmware tables |
//! | `0xffff82b000000000` | per-CPU areas; from `...b800000000` GDT and LDT windows |
//! | `0xffff82c000000000` | Rust heap |
//! | `0xffff82d040000000` | the image |
//! | `0xffff82e000000000` | frame table, then the frame heap's links |
//! | `0xffff82f800000000` | machine-to-phys table, writable |
//! | `0xffff830000000000` | direct map of RAM |
//!
//! # Invariants
//!
//! - A page table, once linked, is never freed or unlinked; only leaf entries change.
//! - Nothing is both writable and executable.
//! - Entries change only under [`LOCK`], except through [`map_local`], whose
//!   leaf entries belong to one CPU's windows and are changed by that CPU only.

use core::sync::atomic::{AtomicU64, Ordering};

use bitflags::bitflags;
use overcast_core::addr::{MachineAddress, Mfn, PAGE_SIZE};
use overcast_core::error::{Error, Result};
use spin::mutex::SpinMutex;

use crate::arch::memory;
use crate::arch::tlb::Serve;

/// First address of the machine-to-phys table (`MACH2PHYS_VIRT_START`, xen/arch-x86/xen-x86_64.h).
pub const M2P_BASE: u64 = 0xffff_8000_0000_0000;
/// First address of the area for device registers.
pub const IOREMAP_BASE: u64 = 0xffff_82a0_0000_0000;
/// End of that area.
pub const IOREMAP_END: u64 = 0xffff_82b0_0000_0000;
/// First address of the Rust heap.
pub const HEAP_BASE: u64 = 0xffff_82c0_0000_0000;
/// End of the room for the Rust heap (4 GiB).
pub const HEAP_END: u64 = HEAP_BASE + (4 << 30);
/// What is added to a physical address of the image to get its virtual one.
pub const IMAGE_BASE: u64 = 0xffff_82d0_4000_0000;
/// First address of the frame table.
pub const FRAME_TABLE_BASE: u64 = 0xffff_82e0_0000_0000;
/// Where the hypervisor writes the machine-to-phys table.
pub const M2P_ALIAS_BASE: u64 = 0xffff_82f8_0000_0000;
/// First address of the direct map.
pub const DIRECT_MAP_BASE: u64 = 0xffff_8300_0000_0000;
/// The most RAM that the direct map has room for, in bytes (5 TiB).
pub const DIRECT_MAP_SIZE: u64 = 5 << 40;
/// The first of the hypervisor's slots of an L4.
pub const FIRST_SLOT: usize = 256;
/// How many slots of an L4 are the hypervisor's.
pub const SLOTS: usize = 16;

/// Size of a page that an L2 entry maps.
pub const SIZE_2M: u64 = 2 << 20;
/// Size of a page that an L3 entry maps.
pub const SIZE_1G: u64 = 1 << 30;

bitflags! {
    /// Flags of an entry of a page table (Intel SDM volume 3, 4.5).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[allow(missing_docs)]
    pub struct PageFlags: u64 {
        const PRESENT = 1 << 0;
        const WRITABLE = 1 << 1;
        const USER = 1 << 2;
        const WRITE_THROUGH = 1 << 3;
        const CACHE_DISABLE = 1 << 4;
        const ACCESSED = 1 << 5;
        const DIRTY = 1 << 6;
        const LARGE = 1 << 7;
        const GLOBAL = 1 << 8;
        const NO_EXECUTE = 1 << 63;

        /// A table of the hypervisor's.
        const TABLE = (1 << 0) | (1 << 1) | (1 << 5);
        /// Constants.
        const READ_ONLY = (1 << 0) | (1 << 5) | (1 << 8) | (1 << 63);
        /// Data.
        const READ_WRITE = Self::READ_ONLY.bits() | (1 << 1) | (1 << 6);
        /// Code.
        const READ_EXECUTE = (1 << 0) | (1 << 5) | (1 << 8);
        /// Device registers: strongly uncached (entry 3 of the PAT).
        const DEVICE = Self::READ_WRITE.bits() | (1 << 3) | (1 << 4);
        /// Constants that guests may read. Not global: where their user mode may
        /// not, no translation is to outlive the change of address space.
        const GUEST_READ_ONLY = (Self::READ_ONLY.bits() & !(1 << 8)) | (1 << 2);
    }
}

/// Bits of an entry that hold a frame's address.
const ADDRESS_MASK: u64 = 0x000f_ffff_ffff_f000;

/// One page table.
pub type Table = [AtomicU64; 512];

/// What is added to a table's physical address to reach it: 0 (identity) until
/// the direct map is in place.
static TABLE_OFFSET: AtomicU64 = AtomicU64::new(0);
/// Flags that this CPU model can express: NO_EXECUTE and GLOBAL may be missing.
static SUPPORTED: AtomicU64 = AtomicU64::new(!PageFlags::NO_EXECUTE.bits());
static IDLE_L4: AtomicU64 = AtomicU64::new(0);
/// Held while frames for tables are allocated, which may wait for other CPUs' TLBs.
static LOCK: SpinMutex<(), Serve> = SpinMutex::new(());

/// Says whether the no-execute bit exists. Called once, before any mapping.
pub fn set_no_execute(supported: bool) {
    let mask = if supported {
        u64::MAX
    } else {
        !PageFlags::NO_EXECUTE.bits()
    };
    SUPPORTED.store(mask, Ordering::Relaxed);
}

/// Tells that tables are now reached through the direct map.
pub fn use_direct_map() {
    TABLE_OFFSET.store(DIRECT_MAP_BASE, Ordering::Release);
}

/// The L4 that runs when no guest does.
pub fn idle_l4() -> Mfn {
    Mfn(IDLE_L4.load(Ordering::Acquire))
}

/// One of the hypervisor's entries of level-4 tables, the first being that of slot 256.
pub fn hypervisor_slot(index: usize) -> u64 {
    table(idle_l4())[FIRST_SLOT + index].load(Ordering::Acquire)
}

/// The hypervisor's sixteen entries of level-4 tables, slot 256 first.
pub fn hypervisor_slots() -> [u64; SLOTS] {
    let l4 = table(idle_l4());
    core::array::from_fn(|i| l4[FIRST_SLOT + i].load(Ordering::Acquire))
}

/// The page table in a frame of the hypervisor's.
pub fn table(mfn: Mfn) -> &'static Table {
    let address = mfn.address().0 + TABLE_OFFSET.load(Ordering::Acquire);
    // SAFETY: callers pass frames that hold page tables of the hypervisor (from
    // `new_table` or an entry), which are RAM, mapped at this offset, and never freed.
    unsafe { &*(address as *const Table) }
}

fn new_table() -> Result<Mfn> {
    let mfn = memory::alloc_table_frame()?;
    for entry in table(mfn) {
        entry.store(0, Ordering::Relaxed);
    }
    Ok(mfn)
}

/// Makes the empty L4 and the L3 tables of the slots in use. Called once.
///
/// # Errors
/// `NoMemory`.
pub fn init(direct_map_end: u64) -> Result<()> {
    let l4 = new_table()?;
    let entries = table(l4);
    for slot in 0..SLOTS {
        let start = (slot as u64) << 39;
        let direct = DIRECT_MAP_BASE - M2P_BASE;
        let used = slot == 0 || slot == 5 || (start >= direct && start - direct < direct_map_end);
        if used {
            let l3 = new_table()?;
            let flags = table_flags(M2P_BASE + start);
            entries[FIRST_SLOT + slot].store(l3.address().0 | flags, Ordering::Release);
        }
    }
    IDLE_L4.store(l4.0, Ordering::Release);
    Ok(())
}

/// Flags of the entries that lead to tables for `va`: guests get through to the
/// machine-to-phys table's slot only.
fn table_flags(va: u64) -> u64 {
    let user = if va < M2P_BASE + (1 << 39) {
        PageFlags::USER
    } else {
        PageFlags::empty()
    };
    (PageFlags::TABLE | user).bits()
}

fn index(va: u64, level: u32) -> usize {
    (va >> (12 + 9 * (level - 1)) & 511) as usize
}

/// The entry of `level` that translates `va`, with tables made on the way if
/// `create`; `None` if there is no table, or a larger page in the way.
fn entry_of(va: u64, level: u32, create: bool) -> Result<Option<&'static AtomicU64>> {
    let mut mfn = idle_l4();
    for at in (level + 1..=4).rev() {
        let entry = &table(mfn)[index(va, at)];
        let mut value = entry.load(Ordering::Acquire);
        if value & PageFlags::PRESENT.bits() == 0 {
            // New L4 entries would not reach the address spaces that exist.
            if !create || at == 4 {
                return Ok(None);
            }
            value = new_table()?.address().0 | table_flags(va);
            entry.store(value, Ordering::Release);
        } else if value & PageFlags::LARGE.bits() != 0 && at < 4 {
            return Ok(None);
        }
        mfn = MachineAddress(value & ADDRESS_MASK).frame();
    }
    Ok(Some(&table(mfn)[index(va, level)]))
}

fn leaf(mfn: Mfn, flags: PageFlags) -> u64 {
    (mfn.address().0 & ADDRESS_MASK) | (flags.bits() & SUPPORTED.load(Ordering::Relaxed))
}

fn is_hypervisor_address(va: u64) -> bool {
    (M2P_BASE..M2P_BASE + ((SLOTS as u64) << 39)).contains(&va)
        && va.is_multiple_of(PAGE_SIZE as u64)
}

/// Maps a page of the level (1: 4 KiB, 2: 2 MiB, 3: 1 GiB) at `va`, which must
/// not be mapped yet.
///
/// # Errors
/// `NoMemory` for a table, `Exists` if something is mapped there, `Invalid` if
/// the address is not the hypervisor's or not aligned.
pub fn map_level(va: u64, mfn: Mfn, flags: PageFlags, level: u32) -> Result<()> {
    let size = (PAGE_SIZE as u64) << (9 * (level - 1));
    if !is_hypervisor_address(va)
        || !va.is_multiple_of(size)
        || !mfn.address().0.is_multiple_of(size)
    {
        return Err(Error::Invalid);
    }
    let _guard = LOCK.lock();
    let entry = entry_of(va, level, true)?.ok_or(Error::Exists)?;
    if entry.load(Ordering::Acquire) & PageFlags::PRESENT.bits() != 0 {
        return Err(Error::Exists);
    }
    let flags = if level > 1 {
        flags | PageFlags::LARGE
    } else {
        flags
    };
    // A translation that is not present is not cached: no flush.
    entry.store(leaf(mfn, flags), Ordering::Release);
    Ok(())
}

/// Maps a 4 KiB page at `va`, which must not be mapped yet; see [`map_level`].
///
/// # Errors
/// As [`map_level`].
pub fn map(va: u64, mfn: Mfn, flags: PageFlags) -> Result<()> {
    map_level(va, mfn, flags, 1)
}

/// Takes away what is mapped in the 2 MiB at `va`, in one page or in small ones, and
/// calls `gone` with each frame and its order. The TLBs are the caller's to flush.
pub fn unmap_2m(va: u64, mut gone: impl FnMut(Mfn, u32)) {
    if !is_hypervisor_address(va) || !va.is_multiple_of(SIZE_2M) {
        return;
    }
    let take = |va: u64, level: u32| {
        let _guard = LOCK.lock();
        let entry = entry_of(va, level, false).ok()??;
        let value = entry.load(Ordering::Acquire);
        let present = value & PageFlags::PRESENT.bits() != 0;
        if !present || (level > 1 && value & PageFlags::LARGE.bits() == 0) {
            return None;
        }
        entry.store(0, Ordering::Release);
        Some(MachineAddress(value & ADDRESS_MASK).frame())
    };
    if let Some(mfn) = take(va, 2) {
        gone(mfn, 9);
        return;
    }
    for page in 0..512 {
        if let Some(mfn) = take(va + page * PAGE_SIZE as u64, 1) {
            gone(mfn, 0);
        }
    }
}

/// Makes sure that the tables for `pages` 4 KiB pages from `va` on exist, so
/// that [`map_local`] finds them.
///
/// # Errors
/// As [`map_level`].
pub fn make_tables(va: u64, pages: u64) -> Result<()> {
    if !is_hypervisor_address(va) {
        return Err(Error::Invalid);
    }
    let _guard = LOCK.lock();
    for page in 0..pages {
        entry_of(va + page * PAGE_SIZE as u64, 1, true)?.ok_or(Error::Exists)?;
    }
    Ok(())
}

/// Shows `mfn` at `va` on this CPU, in place of what was there. `va` belongs to
/// a window of this CPU alone, whose tables exist ([`make_tables`]).
pub fn map_local(va: u64, mfn: Mfn, writable: bool) {
    let flags = if writable {
        PageFlags::READ_WRITE
    } else {
        PageFlags::READ_ONLY
    };
    set_local(va, leaf(mfn, flags));
}

/// Takes away what this CPU's window shows at `va`.
pub fn unmap_local(va: u64) {
    set_local(va, 0);
}

fn set_local(va: u64, value: u64) {
    if let Ok(Some(entry)) = entry_of(va, 1, false) {
        let old = entry.swap(value, Ordering::AcqRel);
        if old & PageFlags::PRESENT.bits() != 0 {
            crate::arch::tlb::invalidate_local(va);
        }
    }
}

/// The physical address to which the hypervisor's tables translate `va`;
/// `None` if it is not mapped or not the hypervisor's.
pub fn translate(va: u64) -> Option<MachineAddress> {
    if !is_hypervisor_address(va & !0xfff) {
        return None;
    }
    for level in 1..=3 {
        if let Ok(Some(entry)) = entry_of(va, level, false) {
            let value = entry.load(Ordering::Acquire);
            if value & PageFlags::PRESENT.bits() == 0 {
                return None;
            }
            let mask = ((PAGE_SIZE as u64) << (9 * (level - 1))) - 1;
            return Some(MachineAddress((value & ADDRESS_MASK & !mask) | (va & mask)));
        }
    }
    None
}
