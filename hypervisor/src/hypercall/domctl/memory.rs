//! What a domain's pages are used as.

use overcast_core::addr::{ENTRIES_PER_TABLE, Mfn, Pfn};
use overcast_core::error::{Error, Result};
use overcast_core::mm::{Exported, Level, PageType, PageUse, PageWords};
use xen_abi::domctl::*;
use xen_abi::overcast::*;

use super::super::ctl;
use super::Target;
use crate::domain::Domain;
use crate::host::mm;
use crate::{guest, log_dirty};
use xen_abi::xen::GuestHandle;
use zerocopy::IntoBytes;

/// The most frames in one operation.
const MAX_FRAMES: u64 = 1024;
/// Frames that are looked at between two copies.
const BATCH: usize = 64;

/// `XEN_DOMCTL_getpageframeinfo3`: replaces each frame of a list with what it is used as.
/// E2BIG for more than 1024.
pub fn page_frames(target: &Target<'_, '_>, u: &ctl::Arguments) -> Result<()> {
    let args: DomctlGetpageframeinfo3 = ctl::get(u)?;
    if args.num > MAX_FRAMES {
        return Err(Error::TooBig);
    }
    let mut frames = [0u64; BATCH];
    let mut done = 0;
    while done < args.num {
        let count = (args.num - done).min(BATCH as u64) as usize;
        let Some(batch) = frames.get_mut(..count) else {
            break;
        };
        guest::read_items(args.array, done, batch)?;
        for frame in batch.iter_mut() {
            *frame = page_info(target, Mfn(*frame)).into();
        }
        guest::write_bytes(guest::item::<u64>(args.array, done)?, batch.as_bytes())?;
        done += count as u64;
    }
    Ok(())
}

fn page_info(target: &Target<'_, '_>, mfn: Mfn) -> u32 {
    mm().page_use(mfn, target.domain.id)
        .map_or(XEN_DOMCTL_PFINFO_XTAB, page_type)
}

/// What a page is used as (`XEN_DOMCTL_PFINFO_*`).
fn page_type(usage: PageUse) -> u32 {
    let kind = match usage.table() {
        Some(Level::L1) => XEN_DOMCTL_PFINFO_L1TAB,
        Some(Level::L2) => XEN_DOMCTL_PFINFO_L2TAB,
        Some(Level::L3) => XEN_DOMCTL_PFINFO_L3TAB,
        Some(Level::L4) => XEN_DOMCTL_PFINFO_L4TAB,
        None => {
            debug_assert!(!usage.pinned || usage.page_type != PageType::Writable);
            XEN_DOMCTL_PFINFO_NOTAB
        }
    };
    if usage.pinned {
        kind | XEN_DOMCTL_PFINFO_LPINTAB
    } else {
        kind
    }
}

/// Bits of a page's number and of its type in [`OVERCAST_DOMCTL_READ_PAGES`].
const PAGE_NUMBER: u64 = (1 << 52) - 1;

/// [`OVERCAST_DOMCTL_READ_PAGES`]: pages in the form of a stream. E2BIG for more than
/// [`OVERCAST_READ_PAGES_MOST`], EINVAL for the caller itself, flags and numbers that are not
/// known. Stops between two pages when it should.
pub fn read_pages(target: &mut Target<'_, '_>, u: &mut ctl::Arguments) -> Result<()> {
    let mut args: DomctlReadPages = ctl::get(u)?;
    target.not_caller()?;
    if args.count > OVERCAST_READ_PAGES_MOST {
        return Err(Error::TooBig);
    }
    if args.flags & !OVERCAST_READ_PAGES_ELIDE != 0
        || args.done > args.count
        || args.filled > args.done
    {
        return Err(Error::Invalid);
    }
    target.has_answer = true;
    let result = export(target, &mut args);
    ctl::put(u, &args);
    result
}

fn export(target: &Target<'_, '_>, args: &mut DomctlReadPages) -> Result<()> {
    let (handle, entries) = (args.list, args.list_entries);
    let mut list = |pfn: Pfn| match pfn.0 < entries {
        true => guest::read_item(handle, pfn.0).map(|mfn| Some(Mfn(mfn))),
        false => Ok(None),
    };
    let elide = args.flags & OVERCAST_READ_PAGES_ELIDE != 0;
    let mut words: PageWords = [0; ENTRIES_PER_TABLE];
    while args.done < args.count {
        let number: u64 = guest::read_item(args.pages, args.done.into())?;
        if number & !PAGE_NUMBER != 0 {
            return Err(Error::Invalid);
        }
        let memory = &target.domain.mm;
        let found = mm().export_page(memory, Pfn(number), &mut list, elide, &mut words)?;
        let answer = match found {
            Exported::Absent => u64::from(XEN_DOMCTL_PFINFO_XTAB) << 32,
            Exported::Zeros => u64::from(XEN_DOMCTL_PFINFO_XALLOC) << 32,
            Exported::Changing => OVERCAST_PAGE_CHANGING,
            Exported::Contents(usage) => {
                let to = guest::item::<PageWords>(args.data, args.filled.into())?;
                guest::write_bytes(to, words.as_bytes())?;
                args.filled += 1;
                u64::from(page_type(usage)) << 32
            }
        };
        guest::write_item(args.pages, args.done.into(), &(number | answer))?;
        args.done += 1;
        if args.done < args.count && target.call.preempt() {
            return Err(Error::Restart);
        }
    }
    Ok(())
}

/// `XEN_DOMCTL_hypercall_init`: fills a frame of the domain with the hypercall page.
/// EINVAL if it is not the domain's, EPERM if it may not be written.
pub fn hypercall_page(target: &Target<'_, '_>, u: &ctl::Arguments) -> Result<()> {
    let args: DomctlHypercallInit = ctl::get(u)?;
    let mfn = Mfn(args.gmfn);
    if mm().get_page(mfn, target.domain.id).is_none() {
        return Err(Error::Invalid);
    }
    if super::super::write_page(target.domain, mfn) {
        Ok(())
    } else {
        Err(Error::NotPermitted)
    }
}

/// The most pages that are reported of in one operation, of a domain that has fewer.
const MOST_PAGES: u64 = 1 << 27;
/// Bytes of the bitmap between two copies.
const BITMAP_BATCH: usize = 4096;

/// `XEN_DOMCTL_shadow_op`: what a domain writes is logged, for migration. For a dying domain
/// nothing is done; EINVAL for one without vCPUs, for what is on or off already, and for
/// the ways to use shadow page tables that there are not.
pub fn shadow(target: &mut Target<'_, '_>, u: &mut ctl::Arguments) -> Result<()> {
    let mut args: DomctlShadowOp = ctl::get(u)?;
    target.has_answer = true;
    target.not_caller()?;
    let domain = target.domain;
    if domain.mm.is_dying() {
        return Ok(());
    }
    if domain.vcpus().next().is_none() {
        return Err(Error::Invalid);
    }
    let result = match args.op {
        XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY => log_dirty::start(domain),
        XEN_DOMCTL_SHADOW_OP_ENABLE if args.mode & XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY != 0 => {
            log_dirty::start(domain)
        }
        XEN_DOMCTL_SHADOW_OP_OFF => {
            log_dirty::end(domain);
            Ok(())
        }
        XEN_DOMCTL_SHADOW_OP_CLEAN | XEN_DOMCTL_SHADOW_OP_PEEK => {
            if args.mode & !XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL != 0 {
                return Err(Error::Invalid);
            }
            dirty_pages(domain, &mut args)
        }
        XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION => {
            args.mb = log_dirty::allocation(domain);
            Ok(())
        }
        XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION => {
            let result = log_dirty::set_allocation(domain, args.mb);
            if result != Err(Error::Invalid) {
                args.mb = log_dirty::allocation(domain);
            }
            result
        }
        _ => Err(Error::Invalid),
    };
    ctl::put(u, &args);
    result
}

/// Copies the log to the caller, if it wants it, and what it does not get is not lost.
/// EFAULT.
fn dirty_pages(domain: &Domain, args: &mut DomctlShadowOp) -> Result<()> {
    let clean = args.op == XEN_DOMCTL_SHADOW_OP_CLEAN;
    let pages = log_dirty::read(domain, clean)?;
    let saturated = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    args.stats.fault_count = saturated(pages.stats.faults);
    args.stats.dirty_count = saturated(pages.stats.dirty);
    let logged = pages.words.as_bytes();
    let most = MOST_PAGES.max(8 * logged.len() as u64);
    args.pages = args.pages.min(most);
    let bytes = args.pages.div_ceil(8);
    let result = if args.dirty_bitmap.is_null() {
        Ok(())
    } else {
        copy_bitmap(logged, args.dirty_bitmap, bytes as usize)
    };
    if clean {
        let first = if result.is_ok() { 8 * bytes } else { 0 };
        domain.mm.unclean_log(&pages, first);
    }
    result
}

/// Copies so many bytes of a bitmap, and zeros beyond its end.
fn copy_bitmap(bitmap: &[u8], to: GuestHandle, length: usize) -> Result<()> {
    let mut done = 0;
    while done < length {
        let wanted = BITMAP_BATCH.min(length - done);
        let rest = bitmap.get(done..).unwrap_or(&[]);
        let part = rest.get(..wanted.min(rest.len())).unwrap_or(&[]);
        let at = guest::item::<u8>(to, done as u64)?;
        let count = if part.is_empty() {
            guest::write_bytes(at, &[0; BITMAP_BATCH][..wanted])?;
            wanted
        } else {
            guest::write_bytes(at, part)?;
            part.len()
        };
        done += count;
    }
    Ok(())
}
