//! Logging what a domain writes (`XEN_DOMCTL_shadow_op`): switching it on and off, and
//! reading the log. What it is and how it works: [`overcast_core::mm::shadow`] and
//! [`overcast_core::mm::dirty`].
//!
//! A domain is paused while it is moved to shadows of its page tables or back; each
//! vCPU's `kernel_cr3` and `user_cr3` change meanwhile. All this is done under the domain
//! control lock, so no other control domain sets up a vCPU at the same time.

use overcast_core::addr::Mfn;
use overcast_core::error::{Error, Result};
use overcast_core::mm::{DirtyPages, HardwareRoots};

use crate::domain::Domain;
use crate::host::mm;
use crate::schedule;

/// Puts all vCPUs of a domain, which do not run, on the tables that they are to run on.
fn set_roots(
    domain: &Domain,
    roots: impl Fn(&overcast_core::mm::VcpuPageTables) -> Result<HardwareRoots>,
) -> Result<()> {
    domain.vcpus().try_for_each(|vcpu| {
        let tables = vcpu.tables.lock();
        let hardware = roots(&tables)?;
        vcpu.set_kernel_base(tables.kernel(), hardware.kernel);
        vcpu.set_user_base(tables.user(), hardware.user);
        Ok(())
    })
}

/// Begins to log what a domain other than the caller's writes. `Invalid` if that is
/// done already; `NoMemory`.
pub fn start(domain: &Domain) -> Result<()> {
    schedule::pause_domain(domain);
    let result = mm()
        .start_log(&domain.mm, domain.vcpus().count())
        .and_then(|()| {
            set_roots(domain, |tables| mm().acquire_roots(&domain.mm, tables))
                .inspect_err(|_| stop(domain))
        });
    schedule::unpause_domain(domain);
    result
}

/// Ends the log of a domain other than the caller's; its memory is given back, as is that which
/// was allocated without a log.
pub fn end(domain: &Domain) {
    schedule::pause_domain(domain);
    stop(domain);
    schedule::unpause_domain(domain);
}

/// As [`end`], of a domain that the caller keeps from running.
pub fn stop(domain: &Domain) {
    // Nothing else than the guest's own roots can be wanted: it cannot fail.
    let _ = set_roots(domain, |tables| {
        Ok(HardwareRoots {
            kernel: tables.kernel(),
            user: tables.user(),
        })
    });
    mm().end_log(&domain.mm);
}

/// What is dirty; with `clean`, it is clean then. `NoMemory`, also when the log could not be
/// kept.
pub fn read(domain: &Domain, clean: bool) -> Result<DirtyPages> {
    let mut pages = DirtyPages::default();
    let mut in_use =
        |mark: &mut dyn FnMut(Mfn)| domain.grants.for_each_writable(|_, mfn| mark(mfn));
    if clean {
        mm().clean_log(&domain.mm, &mut in_use, &mut pages)?;
    } else {
        mm().peek_log(&domain.mm, &mut in_use, &mut pages)?;
    }
    Ok(pages)
}

/// Frames for shadows that make up a megabyte.
const FRAMES_PER_MB: usize = 256;

/// The memory for shadows of a domain, in MiB, rounded up.
pub fn allocation(domain: &Domain) -> u32 {
    let frames = mm().shadow_frames(&domain.mm);
    u32::try_from(frames.div_ceil(FRAMES_PER_MB)).unwrap_or(u32::MAX)
}

/// Changes it. `Invalid` for none while there is a log, `NoMemory`.
pub fn set_allocation(domain: &Domain, mb: u32) -> Result<()> {
    let frames = usize::try_from(mb)
        .ok()
        .and_then(|mb| mb.checked_mul(FRAMES_PER_MB))
        .ok_or(Error::NoMemory)?;
    mm().set_shadow_frames(&domain.mm, domain.vcpus().count(), frames)
}
