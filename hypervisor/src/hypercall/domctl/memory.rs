//! What a domain's pages are used as.

use overcast_core::addr::Mfn;
use overcast_core::error::{Error, Result};
use overcast_core::mm::{Level, PageType};
use xen_abi::domctl::*;

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
    let Some((kind, validated, pinned)) = mm().page_use(mfn, target.domain.id) else {
        return XEN_DOMCTL_PFINFO_XTAB;
    };
    let kind = match kind.level() {
        _ if !validated && !pinned => XEN_DOMCTL_PFINFO_NOTAB,
        Some(Level::L1) => XEN_DOMCTL_PFINFO_L1TAB,
        Some(Level::L2) => XEN_DOMCTL_PFINFO_L2TAB,
        Some(Level::L3) => XEN_DOMCTL_PFINFO_L3TAB,
        Some(Level::L4) => XEN_DOMCTL_PFINFO_L4TAB,
        None => {
            debug_assert!(!pinned || kind != PageType::Writable);
            XEN_DOMCTL_PFINFO_NOTAB
        }
    };
    if pinned {
        kind | XEN_DOMCTL_PFINFO_LPINTAB
    } else {
        kind
    }
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
