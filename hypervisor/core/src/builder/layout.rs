//! Where everything goes: the addresses of a domain's initial mapping.
//!
//! From `VIRT_BASE` on, pseudo-physical page 0 first, one page of virtual after
//! the other, lie
//!
//! 1. the kernel (at the addresses of its segments),
//! 2. the initrd, unless the kernel takes it by frame number (`MOD_START_PFN`),
//! 3. the list of machine frames (p2m), unless `INIT_P2M` gives it an address,
//! 4. the start_info page, and behind it the pages of xenstore's and the console's rings,
//!    those of them that there are to be,
//! 5. the page tables of this very mapping, read-only, the top one first,
//! 6. the boot stack, one page,
//! 7. at least 512 KiB of slack, up to the next multiple of 4 MiB.
//!
//! All of that is the *region*. Behind it, in pseudo-physical numbers only, come
//! an unmapped initrd, and the frames of a p2m at `INIT_P2M` with its page tables.
//!
//! # Invariants of a [`Layout`]
//!
//! - The region's addresses are canonical, in one half, outside the hypervisor's.
//! - Every range lies within the region and is page aligned at its start.
//! - `first_free_pfn <= nr_pages`.

use super::{BuildError, elf::Kernel};
use crate::addr::{GuestVirtual, PAGE_SIZE, Pfn};
use core::ops::Range;

const PAGE: u64 = PAGE_SIZE as u64;
/// The mapping ends on a multiple of this.
const ALIGNMENT: u64 = 4 << 20;
/// At least this much lies mapped behind the stack.
const SLACK: u64 = 512 << 10;
/// The most pages a domain can have: frame numbers fit in 32 bits many times over.
const MAX_PAGES: u64 = 1 << 36;

const L1_SPAN_SHIFT: u32 = 21;
const L2_SPAN_SHIFT: u32 = 30;
const L3_SPAN_SHIFT: u32 = 39;

/// Where the initrd is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InitrdPlace {
    /// Its first page.
    pub pfn: Pfn,
    /// Its pages.
    pub pages: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its virtual address; `None` if it is not mapped, and named by `pfn`.
    pub address: Option<u64>,
}

/// The p2m of a kernel that wants it outside the region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutsideP2m {
    /// Its first page: `list_pages` for the list, then `table_pages` for the page
    /// tables that map it.
    pub pfn: Pfn,
    /// Pages of the list.
    pub list_pages: u64,
    /// Pages of its page tables: L3, L2 and L1 tables that the region has not got.
    pub table_pages: u64,
}

/// The plan of a domain's initial memory. Addresses are virtual.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The domain's pages.
    pub nr_pages: u64,
    /// The whole region.
    pub region: Range<u64>,
    /// The initrd.
    pub initrd: Option<InitrdPlace>,
    /// The p2m list: within the region, or at `INIT_P2M`.
    pub p2m: Range<u64>,
    /// Its frames, where it lies outside the region.
    pub outside_p2m: Option<OutsideP2m>,
    /// The start_info page.
    pub start_info: u64,
    /// The page of xenstore's ring.
    pub store: Option<u64>,
    /// The page of the console's ring.
    pub console: Option<u64>,
    /// The region's page tables.
    pub page_tables: Range<u64>,
    /// The boot stack.
    pub stack: Range<u64>,
    /// The first page that nothing of this uses.
    pub first_free_pfn: Pfn,
}

/// The pages of rings that a domain is to have.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RingPages {
    /// One for xenstore.
    pub store: bool,
    /// One for the console.
    pub console: bool,
}

/// The fewest pages for which any layout can be made.
const LEAST_PAGES: u64 = (ALIGNMENT / PAGE) / 4;

impl Layout {
    /// Plans a domain of `nr_pages` for a kernel and an initrd of `initrd_size`
    /// bytes (0: none), without a page for xenstore.
    pub fn new(kernel: &Kernel<'_>, nr_pages: u64, initrd_size: u64) -> Result<Self, BuildError> {
        Self::with_rings(kernel, nr_pages, initrd_size, RingPages::default())
    }

    /// As [`Self::new`], and says which pages of rings there are to be.
    pub fn with_rings(
        kernel: &Kernel<'_>,
        nr_pages: u64,
        initrd_size: u64,
        rings: RingPages,
    ) -> Result<Self, BuildError> {
        if nr_pages < LEAST_PAGES {
            return Err(BuildError::TooSmall {
                needed: LEAST_PAGES,
                given: nr_pages,
            });
        }
        if nr_pages > MAX_PAGES {
            return Err(BuildError::OutOfBounds("the domain has too many pages"));
        }
        Self::plan(kernel, nr_pages, initrd_size, rings).unwrap_or(Err(BuildError::OutOfBounds(
            "the initial mapping wraps around",
        )))
    }

    /// As [`Self::with_rings`]; `None` where an address overflows.
    fn plan(
        kernel: &Kernel<'_>,
        nr_pages: u64,
        initrd_size: u64,
        rings: RingPages,
    ) -> Option<Result<Self, BuildError>> {
        let start = kernel.virt_base;
        if !start.is_multiple_of(PAGE) {
            return Some(Err(BuildError::BadNote {
                note: "XEN_ELFNOTE_VIRT_BASE",
                why: "is not page aligned",
            }));
        }
        let to_pages = |bytes: u64| bytes.div_ceil(PAGE);
        let initrd_pages = to_pages(initrd_size);
        let mapped_initrd = initrd_size != 0 && !kernel.notes.mod_start_pfn;

        let mut at = kernel.end.checked_next_multiple_of(PAGE)?;
        let initrd_address = mapped_initrd.then_some(at);
        if mapped_initrd {
            at = at.checked_add(initrd_pages.checked_mul(PAGE)?)?;
        }
        let list_size = nr_pages * 8;
        let p2m_pages = to_pages(list_size);
        let p2m = kernel.notes.init_p2m.unwrap_or(at);
        let p2m = p2m..p2m.checked_add(list_size)?;
        if kernel.notes.init_p2m.is_none() {
            at = at.checked_add(p2m_pages * PAGE)?;
        }
        let start_info = at;
        at = at.checked_add(PAGE)?;
        let mut ring = |wanted: bool| {
            let page = at;
            if wanted {
                at = at.checked_add(PAGE)?;
            }
            Some(wanted.then_some(page))
        };
        let (store, console) = (ring(rings.store)?, ring(rings.console)?);
        let tables = at;

        // The tables lie in the region that they map, so their number depends on
        // itself: the smallest that suffices is taken.
        let mut table_pages = 2;
        let (page_tables, stack, end) = loop {
            let page_tables = tables..tables.checked_add(table_pages * PAGE)?;
            let stack = page_tables.end..page_tables.end.checked_add(PAGE)?;
            let mut end = stack.end.checked_next_multiple_of(ALIGNMENT)?;
            if end - stack.end < SLACK {
                end = end.checked_add(ALIGNMENT)?;
            }
            let needed = 1
                + tables_for(start, end, L3_SPAN_SHIFT)
                + tables_for(start, end, L2_SPAN_SHIFT)
                + tables_for(start, end, L1_SPAN_SHIFT);
            if needed <= table_pages {
                break (page_tables, stack, end);
            }
            table_pages = needed;
        };
        let region = start..end;
        if !is_mappable(&region) {
            return Some(Err(BuildError::OverlapsHypervisor { start, end }));
        }

        let region_pages = (end - start) / PAGE;
        let mut pfn = region_pages;
        let initrd = (initrd_size != 0).then(|| InitrdPlace {
            pfn: Pfn(initrd_address.map_or(region_pages, |address| (address - start) / PAGE)),
            pages: initrd_pages,
            size: initrd_size,
            address: initrd_address,
        });
        if initrd.is_some_and(|initrd| initrd.address.is_none()) {
            pfn = pfn.checked_add(initrd_pages)?;
        }

        let mut outside_p2m = None;
        if kernel.notes.init_p2m.is_some() {
            if !p2m.start.is_multiple_of(PAGE) {
                return Some(Err(BuildError::BadNote {
                    note: "XEN_ELFNOTE_INIT_P2M",
                    why: "is not page aligned",
                }));
            }
            let rounded = p2m.start..p2m.end.checked_next_multiple_of(PAGE)?;
            if !is_mappable(&rounded) {
                return Some(Err(BuildError::OverlapsHypervisor {
                    start: rounded.start,
                    end: rounded.end,
                }));
            }
            if rounded.start <= region.end && region.start <= rounded.end {
                return Some(Err(BuildError::BadNote {
                    note: "XEN_ELFNOTE_INIT_P2M",
                    why: "lies in the initial mapping",
                }));
            }
            let place = OutsideP2m {
                pfn: Pfn(pfn),
                list_pages: p2m_pages,
                table_pages: tables_beside(&region, &rounded),
            };
            pfn = pfn
                .checked_add(place.list_pages)?
                .checked_add(place.table_pages)?;
            outside_p2m = Some(place);
        }
        if pfn > nr_pages {
            return Some(Err(BuildError::TooSmall {
                needed: pfn,
                given: nr_pages,
            }));
        }
        if let Some(page) = kernel.notes.hypercall_page {
            let last = page.checked_add(PAGE)?;
            if page < region.start || last > region.end {
                return Some(Err(BuildError::BadNote {
                    note: "XEN_ELFNOTE_HYPERCALL_PAGE",
                    why: "lies outside the initial mapping",
                }));
            }
        }
        Some(Ok(Self {
            nr_pages,
            region,
            initrd,
            p2m,
            outside_p2m,
            start_info,
            store,
            console,
            page_tables,
            stack,
            first_free_pfn: Pfn(pfn),
        }))
    }

    /// How many pages the region has: pseudo-physical 0 on.
    pub fn region_pages(&self) -> u64 {
        (self.region.end - self.region.start) / PAGE
    }

    /// How many page tables the region has.
    pub fn table_pages(&self) -> u64 {
        (self.page_tables.end - self.page_tables.start) / PAGE
    }

    /// The page at an address of the region.
    pub fn pfn_of(&self, address: u64) -> Option<Pfn> {
        self.region
            .contains(&address)
            .then(|| Pfn((address - self.region.start) / PAGE))
    }
}

/// How many pages a domain may have at most for this kernel, when it was not
/// told how many.
///
/// A kernel without `INIT_P2M` builds its first page tables in the addresses
/// behind the initial mapping, so the p2m list may take only half of what there
/// is up to the end of the address space.
pub fn clip_pages(kernel: &Kernel<'_>, nr_pages: u64, initrd_size: u64) -> u64 {
    if kernel.notes.init_p2m.is_some() {
        return nr_pages;
    }
    let round = |bytes: u64| bytes.div_ceil(PAGE).saturating_mul(PAGE);
    let mut end = round(kernel.end);
    if !kernel.notes.mod_start_pfn {
        end = end.saturating_add(round(initrd_size));
    }
    let with_list = end.saturating_add(nr_pages.saturating_mul(8));
    let twice = with_list.checked_add(with_list.saturating_sub(kernel.virt_base));
    match twice {
        Some(_) => nr_pages,
        None => nr_pages.min((u64::MAX - end) / 16),
    }
}

/// How many naturally aligned blocks of `1 << shift` bytes a range touches.
/// The range is not empty and ends below 2^64.
fn tables_for(start: u64, end: u64, shift: u32) -> u64 {
    ((end - 1) >> shift) - (start >> shift) + 1
}

/// How many L3, L2 and L1 tables mapping `range` needs beside those that map
/// `region`. The two do not overlap.
fn tables_beside(region: &Range<u64>, range: &Range<u64>) -> u64 {
    [L3_SPAN_SHIFT, L2_SPAN_SHIFT, L1_SPAN_SHIFT]
        .iter()
        .map(|&shift| {
            let blocks = |r: &Range<u64>| (r.start >> shift, (r.end - 1) >> shift);
            let ((first, last), (low, high)) = (blocks(range), blocks(region));
            // Blocks that both touch are counted once.
            let (from, to) = (first.max(low), last.min(high));
            let shared = if from <= to { to - from + 1 } else { 0 };
            last - first + 1 - shared
        })
        .sum()
}

/// Whether a guest may have a mapping there: canonical, within one half, not the
/// hypervisor's.
fn is_mappable(range: &Range<u64>) -> bool {
    let Some(last) = range.end.checked_sub(1) else {
        return false;
    };
    let (first, last) = (GuestVirtual(range.start), GuestVirtual(last));
    first.0 <= last.0
        && first.is_canonical()
        && last.is_canonical()
        && (first.0 >> 63) == (last.0 >> 63)
        && (last.0 < GuestVirtual::HYPERVISOR_START || first.0 >= GuestVirtual::HYPERVISOR_END)
}
