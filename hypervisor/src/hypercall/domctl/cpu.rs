//! What CPU a domain sees, and the rate of its clock.

use alloc::vec::Vec;

use overcast_core::cpuid::{MAX_LEAVES, MAX_MSRS, PolicyError};
use overcast_core::domctl::TscInfo;
use overcast_core::error::{Error, Result};
use xen_abi::domctl::*;
use xen_abi::xen::GuestHandle;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::super::ctl;
use super::{Paused, Target};
use crate::{dom0, guest, time};

/// `XEN_DOMCTL_get_cpu_policy`: with no lists, how long they may be. ENOBUFS if they
/// are too short.
pub fn get_policy(target: &mut Target<'_, '_>, u: &mut ctl::Arguments) -> Result<()> {
    let mut args: DomctlCpuPolicy = ctl::get(u)?;
    let policy = target.domain.cpu_policy().clone();
    args.nr_leaves = ctl::write_leaves(&policy, args.leaves, args.nr_leaves)?;
    args.nr_msrs = ctl::write_msrs(&policy, args.msrs, args.nr_msrs)?;
    ctl::put(u, &args);
    target.has_answer = true;
    Ok(())
}

/// `XEN_DOMCTL_set_cpu_policy`: EEXIST once the domain was started; what is wrong with the
/// policy, and with which leaf or MSR, else.
pub fn set_policy(target: &mut Target<'_, '_>, u: &mut ctl::Arguments) -> Result<()> {
    let mut args: DomctlCpuPolicy = ctl::get(u)?;
    target.not_caller()?;
    let domain = target.domain;
    let _paused = Paused::new(domain);
    if domain.was_started() {
        return Err(Error::Exists);
    }
    let result = new_policy(target, &args);
    match result {
        Ok(policy) => {
            domain.set_cpu_policy(policy);
            Ok(())
        }
        Err(refused) => {
            args.err_leaf = refused.leaf;
            args.err_subleaf = refused.subleaf;
            args.err_msr = refused.msr;
            ctl::put(u, &args);
            target.has_answer = true;
            Err(refused.error)
        }
    }
}

fn new_policy(
    target: &Target<'_, '_>,
    args: &DomctlCpuPolicy,
) -> core::result::Result<overcast_core::cpuid::CpuidPolicy, PolicyError> {
    let leaves = read_list(args.leaves, args.nr_leaves, MAX_LEAVES).map_err(PolicyError::plain)?;
    let msrs = read_list(args.msrs, args.nr_msrs, MAX_MSRS).map_err(PolicyError::plain)?;
    let max = &dom0::system_policies().pv_max;
    target.domain.cpu_policy().updated(&leaves, &msrs, max)
}

/// Reads a list of no more than `most` items; E2BIG for more.
fn read_list<T: FromBytes + FromZeros + IntoBytes + Immutable + Clone>(
    list: GuestHandle,
    count: u32,
    most: u32,
) -> Result<Vec<T>> {
    if count > most {
        return Err(Error::TooBig);
    }
    let mut items = Vec::new();
    items
        .try_reserve_exact(count as usize)
        .map_err(|_| Error::NoMemory)?;
    items.resize(count as usize, T::new_zeroed());
    guest::read_items(list, 0, &mut items)?;
    Ok(items)
}

/// `XEN_DOMCTL_gettscinfo`.
pub fn get_tsc(target: &mut Target<'_, '_>, u: &mut ctl::Arguments) -> Result<()> {
    target.not_caller()?;
    let info = target.domain.tsc().info(&time::clocks());
    ctl::put(
        u,
        &DomctlTscInfo {
            tsc_mode: info.mode,
            gtsc_khz: info.khz,
            incarnation: info.incarnation,
            pad: 0,
            elapsed_nsec: info.elapsed,
        },
    );
    target.has_answer = true;
    Ok(())
}

/// `XEN_DOMCTL_settscinfo`. Nothing changes for Dom0, which does not move.
pub fn set_tsc(target: &Target<'_, '_>, u: &ctl::Arguments) -> Result<()> {
    let args: DomctlTscInfo = ctl::get(u)?;
    target.not_caller()?;
    let domain = target.domain;
    if domain.privileged {
        return Ok(());
    }
    let info = TscInfo {
        mode: args.tsc_mode,
        khz: args.gtsc_khz,
        incarnation: args.incarnation,
        elapsed: args.elapsed_nsec,
    };
    let _paused = Paused::new(domain);
    domain.set_tsc(&info, &time::clocks())
}
