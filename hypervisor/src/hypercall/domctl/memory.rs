//! What a domain's pages are used as.

use overcast_core::addr::Mfn;
use overcast_core::error::{Error, Result};
use overcast_core::mm::{Level, PageType};
use xen_abi::domctl::*;

use super::super::ctl;
use super::Target;
use crate::guest;
use crate::host::mm;
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

/// `XEN_DOMCTL_shadow_op`: no tracking of what a domain writes yet (EOPNOTSUPP), and so none
/// to be ended or read (EINVAL).
pub fn shadow(target: &mut Target<'_, '_>, u: &ctl::Arguments) -> Result<()> {
    let args: DomctlShadowOp = ctl::get(u)?;
    target.has_answer = true;
    target.not_caller()?;
    if target.domain.mm.is_dying() {
        return Ok(());
    }
    if target.domain.vcpus().next().is_none() {
        return Err(Error::Invalid);
    }
    match args.op {
        XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY => Err(Error::NotSupported),
        XEN_DOMCTL_SHADOW_OP_ENABLE if args.mode & XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY != 0 => {
            Err(Error::NotSupported)
        }
        _ => Err(Error::Invalid),
    }
}
