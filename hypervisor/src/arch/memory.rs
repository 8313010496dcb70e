//! The machine's memory: which frames are RAM, who hands them out, and how they
//! are reached.
//!
//! # Invariants
//!
//! - [`Machine::frame`](Memory::frame) gives frames of RAM only, and never one
//!   of the image: no number that a guest can name leads to the hypervisor's code.
//! - A frame is in exactly one place: reserved since boot, part of the tables
//!   made here, or the frame heap's (free or given out).
//! - RAM below 1 MiB is never handed out: CPUs start there.

use core::mem::size_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use overcast_core::addr::{MachineAddress, Mfn, PAGE_SIZE};
use overcast_core::error::{Error, Result};
use overcast_core::heap::{Block, FrameHeap, FrameLink};
use overcast_core::machine::{Frame, Memory, Tlb};
use spin::{Mutex, Once};

use crate::arch::cpu;
use crate::arch::paging::{self, PageFlags, SIZE_1G, SIZE_2M};

const PAGE: u64 = PAGE_SIZE as u64;
const LOW_MEMORY_END: u64 = 1 << 20;

/// The machine, as the core's traits see it: [`Memory`] here, [`Tlb`] in `tlb`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

/// A range of physical addresses, `start` up to but not including `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One more than the last byte.
    pub end: u64,
}

impl Range {
    /// The range from `start` to `end`.
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end }
    }

    fn inward(self) -> Self {
        Self {
            start: self.start.saturating_add(PAGE - 1) & !(PAGE - 1),
            end: self.end & !(PAGE - 1),
        }
    }

    fn outward(self) -> Self {
        Self {
            start: self.start & !(PAGE - 1),
            end: self.end.saturating_add(PAGE - 1) & !(PAGE - 1),
        }
    }

    fn is_empty(self) -> bool {
        self.start >= self.end
    }
}

const MAX_RANGES: usize = 256;

/// Ranges of memory, a list of bounded length.
struct RangeList {
    ranges: [Range; MAX_RANGES],
    count: usize,
}

impl RangeList {
    const fn new() -> Self {
        Self {
            ranges: [Range { start: 0, end: 0 }; MAX_RANGES],
            count: 0,
        }
    }

    fn as_slice(&self) -> &[Range] {
        self.ranges.get(..self.count).unwrap_or_default()
    }

    /// Adds a range; when the list is full it is left out (memory is lost, not corrupted).
    fn push(&mut self, range: Range) {
        if !range.is_empty()
            && let Some(slot) = self.ranges.get_mut(self.count)
        {
            *slot = range;
            self.count += 1;
        }
    }

    /// Cuts `hole` out of all ranges.
    fn remove(&mut self, hole: Range) {
        if hole.is_empty() {
            return;
        }
        let mut rest = Self::new();
        for &range in self.as_slice() {
            rest.push(Range::new(range.start, range.end.min(hole.start)));
            rest.push(Range::new(range.start.max(hole.end), range.end));
        }
        *self = rest;
    }

    /// Takes `size` bytes aligned at `align`, all below `limit`, as high as possible.
    fn take(&mut self, size: u64, align: u64, limit: u64) -> Option<u64> {
        let best = self
            .as_slice()
            .iter()
            .filter_map(|range| {
                let start = range.end.min(limit).checked_sub(size)? & !(align - 1);
                (start >= range.start).then_some(start)
            })
            .max()?;
        self.remove(Range::new(best, best + size));
        Some(best)
    }
}

/// Where RAM is, in frames: what [`Memory::frame`] looks at.
struct Layout {
    /// (first frame, number of frames), the largest range first.
    ranges: [(u64, u64); MAX_RANGES],
    count: usize,
    end: Mfn,
}

static LAYOUT: Once<Layout> = Once::new();
/// The largest of the ranges of [`LAYOUT`]: its first frame, and how many; none
/// until that is there.
static LARGEST_START: AtomicU64 = AtomicU64::new(0);
static LARGEST_COUNT: AtomicU64 = AtomicU64::new(0);
/// Memory that is not handed out yet, while the machine is set up.
static EARLY: Mutex<RangeList> = Mutex::new(RangeList::new());
static HEAP: Once<FrameHeap<'static>> = Once::new();
static FRAME_TABLE_ENTRIES: AtomicU64 = AtomicU64::new(0);
static M2P_ENTRIES: AtomicU64 = AtomicU64::new(0);
static IOREMAP_NEXT: AtomicU64 = AtomicU64::new(paging::IOREMAP_BASE);

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
}

/// The physical addresses of the image.
pub fn image() -> Range {
    Range::new(
        &raw const __image_start as u64 - paging::IMAGE_BASE,
        &raw const __image_end as u64 - paging::IMAGE_BASE,
    )
}

/// The virtual addresses of the image's code.
pub fn text() -> Range {
    Range::new(&raw const __text_start as u64, &raw const __text_end as u64)
}

impl Memory for Machine {
    #[inline]
    fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        // The largest range first, without a look at the rest.
        if mfn.0.wrapping_sub(LARGEST_START.load(Ordering::Relaxed))
            < LARGEST_COUNT.load(Ordering::Relaxed)
        {
            // SAFETY: as below.
            return Some(unsafe { &*(direct(mfn) as *const Frame) });
        }
        let layout = LAYOUT.get()?;
        for &(start, count) in layout.ranges.get(..layout.count)? {
            if mfn.0.wrapping_sub(start) < count {
                // SAFETY: the frame is RAM, so the direct map shows it for ever,
                // writable; `Frame` allows any other access at any time, and
                // neither the image nor anything that Rust borrows is in these ranges
                // except what was allocated through the frame heap by its one user.
                return Some(unsafe { &*(direct(mfn) as *const Frame) });
            }
        }
        None
    }

    fn end_mfn(&self) -> Mfn {
        LAYOUT.get().map_or(Mfn(0), |layout| layout.end)
    }
}

/// The address at which the direct map shows a frame. Mapped only if it is RAM.
#[inline]
pub const fn direct(mfn: Mfn) -> u64 {
    paging::DIRECT_MAP_BASE.wrapping_add(mfn.0 << 12)
}

/// The address at which the direct map shows a byte of RAM.
pub fn direct_map(address: MachineAddress) -> *mut u8 {
    paging::DIRECT_MAP_BASE.wrapping_add(address.0) as *mut u8
}

/// Sets up the memory of the machine: the hypervisor's page tables and direct
/// map, the machine-to-phys table, the frame table, the frame heap.
///
/// `ram` is what the firmware calls usable RAM; `reserved` holds the modules
/// and all else in it that must be kept for now. `frame_info_size` is the size
/// of an entry of the frame table in bytes. Runs once, on the boot CPU, on the
/// boot's page tables, and leaves [`paging::idle_l4`] loaded: the identity
/// mapping is gone then.
///
/// # Errors
/// `NoMemory` if there is not enough RAM below 4 GiB for the tables.
pub fn init(ram: &[Range], reserved: &[Range], frame_info_size: usize) -> Result<()> {
    let mut usable = RangeList::new();
    let mut layout = Layout {
        ranges: [(0, 0); MAX_RANGES],
        count: 0,
        end: Mfn(0),
    };
    {
        let mut all = RangeList::new();
        for range in ram {
            let mut range = range.inward();
            range.end = range.end.min(paging::DIRECT_MAP_SIZE);
            all.push(range);
        }
        all.remove(image().outward());
        for (slot, range) in layout.ranges.iter_mut().zip(all.as_slice()) {
            *slot = (range.start >> 12, (range.end - range.start) >> 12);
            layout.end = layout.end.max(Mfn(range.end >> 12));
            usable.push(*range);
        }
        layout.count = all.count;
        if let Some(ranges) = layout.ranges.get_mut(..layout.count) {
            ranges.sort_unstable_by_key(|&(_, count)| core::cmp::Reverse(count));
        }
    }
    usable.remove(Range::new(0, LOW_MEMORY_END));
    for range in reserved {
        usable.remove(range.outward());
    }
    *EARLY.lock() = usable;

    let features = cpu::features();
    paging::set_no_execute(features.nx);
    let end = layout.end.address().0;
    paging::init(end)?;
    map_direct(&layout, features.pages_1g)?;
    map_image()?;
    // SAFETY: the new tables map the image, with code, data, the stack in use
    // and the GDT, at the addresses at which they are now.
    unsafe { crate::arch::tlb::write_cr3(paging::idle_l4()) };
    paging::use_direct_map();
    let layout = LAYOUT.call_once(|| layout);
    let (start, count) = layout.ranges[0];
    LARGEST_START.store(start, Ordering::Relaxed);
    LARGEST_COUNT.store(count, Ordering::Release);

    let frames = layout.end.0;
    make_table(
        layout,
        paging::M2P_ALIAS_BASE,
        8,
        0xff,
        Some(paging::M2P_BASE),
    )?;
    M2P_ENTRIES.store(frames, Ordering::Release);
    let info = frame_info_size as u64;
    make_table(layout, paging::FRAME_TABLE_BASE, info, 0, None)?;
    FRAME_TABLE_ENTRIES.store(frames, Ordering::Release);
    let links_base = paging::FRAME_TABLE_BASE + align_up(frames * info, SIZE_1G);
    make_table(layout, links_base, size_of::<FrameLink>() as u64, 0, None)?;
    let (first, count) = (links_base as *const FrameLink, frames as usize);
    // SAFETY: the table was just made, zeroed, with an entry for every frame
    // number, at an aligned address, and only this slice uses it. Entries of
    // numbers that are not RAM share memory with each other, which entries of
    // atomics may.
    let links = unsafe { core::slice::from_raw_parts(first, count) };
    let heap = HEAP.call_once(|| FrameHeap::new(links));
    let mut early = EARLY.lock();
    let rest = core::mem::replace(&mut *early, RangeList::new());
    drop(early);
    for range in rest.as_slice() {
        let _ = heap.add_range(Mfn(range.start >> 12), Mfn(range.end >> 12));
    }
    Ok(())
}

const fn align_up(value: u64, align: u64) -> u64 {
    (value + align - 1) & !(align - 1)
}

fn map_direct(layout: &Layout, pages_1g: bool) -> Result<()> {
    for &(start, count) in layout.ranges.get(..layout.count).unwrap_or_default() {
        let mut at = start << 12;
        let end = (start + count) << 12;
        while at < end {
            let fits = |size: u64| at % size == 0 && end - at >= size;
            let (level, size) = if pages_1g && fits(SIZE_1G) {
                (3, SIZE_1G)
            } else if fits(SIZE_2M) {
                (2, SIZE_2M)
            } else {
                (1, PAGE)
            };
            paging::map_level(
                paging::DIRECT_MAP_BASE + at,
                Mfn(at >> 12),
                PageFlags::READ_WRITE,
                level,
            )?;
            at += size;
        }
    }
    Ok(())
}

fn map_image() -> Result<()> {
    let pieces = [
        (
            &raw const __text_start as u64,
            &raw const __text_end as u64,
            PageFlags::READ_EXECUTE,
        ),
        (
            &raw const __rodata_start as u64 & !(PAGE - 1),
            &raw const __rodata_end as u64,
            PageFlags::READ_ONLY,
        ),
        (
            &raw const __data_start as u64,
            align_up(&raw const __image_end as u64, PAGE),
            PageFlags::READ_WRITE,
        ),
    ];
    for (start, end, flags) in pieces {
        let mut va = start;
        while va < end {
            paging::map(va, Mfn((va - paging::IMAGE_BASE) >> 12), flags)?;
            va += PAGE;
        }
    }
    Ok(())
}

/// Makes a table of `entry_size` bytes a frame at `base`, filled with `fill`,
/// in 2 MiB pages. Where there is no RAM to describe, all pages of the table
/// show the same memory: reading is safe, and nothing there is to be written.
/// `guest_view` is where guests see the table: read-only, holes not mapped.
fn make_table(
    layout: &Layout,
    base: u64,
    entry_size: u64,
    fill: u8,
    guest_view: Option<u64>,
) -> Result<()> {
    let extent = layout
        .end
        .0
        .checked_mul(entry_size)
        .ok_or(Error::NoMemory)?;
    let ranges = layout.ranges.get(..layout.count).unwrap_or_default();
    let new_page = || {
        let address = EARLY.lock().take(SIZE_2M, SIZE_2M, u64::MAX)?;
        // SAFETY: the 2 MiB were just taken from RAM that nobody uses.
        unsafe { fill_bytes(direct(Mfn(address >> 12)), fill, SIZE_2M) };
        Some(Mfn(address >> 12))
    };
    let mut hole = None;
    let mut page = 0;
    while page < extent {
        let first = page / entry_size;
        let last = (page + SIZE_2M).div_ceil(entry_size);
        let used = ranges
            .iter()
            .any(|&(start, count)| start < last && first < start + count);
        let mfn = match hole {
            Some(mfn) if !used => mfn,
            _ => new_page().ok_or(Error::NoMemory)?,
        };
        if !used {
            hole = Some(mfn);
        } else if let Some(view) = guest_view {
            paging::map_level(view + page, mfn, PageFlags::GUEST_READ_ONLY, 2)?;
        }
        paging::map_level(base + page, mfn, PageFlags::READ_WRITE, 2)?;
        page += SIZE_2M;
    }
    Ok(())
}

/// Fills memory, by the CPU's string instruction.
///
/// # Safety
/// The bytes are mapped writable and nobody else uses them.
unsafe fn fill_bytes(address: u64, value: u8, bytes: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "rep stosq",
            inout("rdi") address => _,
            inout("rcx") bytes / 8 => _,
            in("rax") u64::from_ne_bytes([value; 8]),
            options(nostack, preserves_flags),
        );
    }
}

/// A frame for a page table of the hypervisor's own; contents undefined.
///
/// # Errors
/// `NoMemory`.
pub fn alloc_table_frame() -> Result<Mfn> {
    if let Some(heap) = HEAP.get() {
        return Ok(take_block(heap, 0, None)?.mfn);
    }
    // Until the direct map is there, tables are reached by the boot's identity map.
    let limit = if LAYOUT.get().is_some() {
        u64::MAX
    } else {
        4 << 30
    };
    let address = EARLY.lock().take(PAGE, PAGE, limit);
    address
        .map(|address| Mfn(address >> 12))
        .ok_or(Error::NoMemory)
}

/// The frame heap, once [`init`] made it: the order of the boot decides that, no input.
pub fn heap() -> &'static FrameHeap<'static> {
    match HEAP.get() {
        Some(heap) => heap,
        None => crate::arch::panic::bug("frame heap used before it exists"),
    }
}

fn take_block(heap: &FrameHeap<'_>, order: u32, bits: Option<u32>) -> Result<Block> {
    let block = heap.alloc(order, bits)?;
    if block.stamp != 0 {
        Machine.flush_since(block.stamp);
    }
    Ok(block)
}

/// 2^`order` frames of the hypervisor's own, with addresses below 2^`bits`
/// if given, contents undefined. TLBs hold no old translation to them.
///
/// # Errors
/// `NoMemory`.
pub fn alloc_frames(order: u32, bits: Option<u32>) -> Result<Mfn> {
    Ok(take_block(heap(), order, bits)?.mfn)
}

/// A zeroed frame; see [`alloc_frames`].
///
/// # Errors
/// `NoMemory`.
pub fn alloc_zeroed() -> Result<Mfn> {
    let mfn = alloc_frames(0, None)?;
    zero_frames(mfn, 0);
    Ok(mfn)
}

/// Gives frames back that nothing maps any more but the direct map (or that
/// were unmapped now).
pub fn free_frames(mfn: Mfn, order: u32) {
    if let Err(error) = heap().free(mfn, order, Machine.clock()) {
        log::error!("Freeing {mfn:?} order {order}: {error:?}");
    }
}

/// Fills 2^`order` frames with zeros; frames that are not RAM are passed over.
pub fn zero_frames(mfn: Mfn, order: u32) {
    for n in 0..1u64 << order {
        let mfn = Mfn(mfn.0.wrapping_add(n));
        if Machine.frame(mfn).is_some() {
            // SAFETY: the frame is RAM; whoever shares it sees zeros appear, as
            // with `Frame::zero`.
            unsafe { fill_bytes(direct(mfn), 0, PAGE) };
        }
    }
}

/// Hands a reserved range (a module that is no longer needed) to the frame
/// heap. Partial frames at its ends are not handed over.
pub fn release(range: Range) {
    let range = range.inward();
    if !range.is_empty() {
        let _ = heap().add_range(Mfn(range.start >> 12), Mfn(range.end >> 12));
    }
}

/// The machine-to-phys table, writable: an entry for each frame number below
/// the end of RAM. Entries of numbers that are not RAM share memory and are not
/// to be written. Guests see the table at [`paging::M2P_BASE`].
pub fn m2p() -> &'static [AtomicU64] {
    let entries = M2P_ENTRIES.load(Ordering::Acquire) as usize;
    // SAFETY: `init` mapped that many entries for ever, and all access is atomic.
    unsafe { core::slice::from_raw_parts(paging::M2P_ALIAS_BASE as *const AtomicU64, entries) }
}

/// The frame of the machine-to-phys table that holds the byte at `offset`.
pub fn m2p_frame(offset: u64) -> Option<Mfn> {
    paging::translate(paging::M2P_ALIAS_BASE + offset).map(MachineAddress::frame)
}

/// The frame table: `T` is an entry, of the size that [`init`] was told.
///
/// # Safety
/// `T` has the size that [`init`] was told, all zeros is a valid `T`, and whatever
/// changes in it is atomic.
#[inline]
pub unsafe fn frame_table<T: Sync>() -> &'static [T] {
    let entries = FRAME_TABLE_ENTRIES.load(Ordering::Acquire) as usize;
    // SAFETY: `init` mapped that many zeroed entries for ever; the rest is the
    // caller's promise.
    unsafe { core::slice::from_raw_parts(paging::FRAME_TABLE_BASE as *const T, entries) }
}

/// Maps physical memory that is not RAM: device registers (`cached` false) or
/// firmware tables. RAM is given by the direct map instead, if `cached`.
///
/// # Errors
/// `NoMemory`, `Invalid` if the range wraps, or asks for uncached RAM.
pub fn ioremap(address: u64, len: u64, cached: bool) -> Result<NonNull<u8>> {
    let end = address.checked_add(len.max(1)).ok_or(Error::Invalid)?;
    if end > 1 << 52 {
        return Err(Error::Invalid);
    }
    let pages = Range::new(address, end).outward();
    let is_ram = |at: u64| Machine.frame(Mfn(at >> 12)).is_some();
    let step = PAGE as usize;
    if (pages.start..pages.end).step_by(step).all(is_ram) {
        return if cached {
            NonNull::new((paging::DIRECT_MAP_BASE + address) as *mut u8).ok_or(Error::Invalid)
        } else {
            Err(Error::Invalid)
        };
    }
    let bytes = pages.end - pages.start;
    let va = IOREMAP_NEXT.fetch_add(bytes, Ordering::AcqRel);
    if va + bytes > paging::IOREMAP_END {
        return Err(Error::NoMemory);
    }
    let flags = if cached {
        PageFlags::READ_WRITE
    } else {
        PageFlags::DEVICE
    };
    for offset in (0..bytes).step_by(step) {
        paging::map(va + offset, Mfn((pages.start + offset) >> 12), flags)?;
    }
    NonNull::new((va + (address - pages.start)) as *mut u8).ok_or(Error::Invalid)
}

/// How many frames of RAM there are.
pub fn total_frames() -> u64 {
    LAYOUT.get().map_or(0, |layout| {
        layout
            .ranges
            .iter()
            .take(layout.count)
            .map(|&(_, count)| count)
            .sum()
    })
}
