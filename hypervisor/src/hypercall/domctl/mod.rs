//! `domctl` (domctl.h): control of domains, for a control domain.
//!
//! So far domains can be looked at, paused, and pinned to CPUs. What is not
//! there is answered with ENOSYS.

mod info;

use alloc::sync::Arc;

use overcast_core::error::{Error, Result};
use overcast_core::ids::DomainId;
use xen_abi::domctl::*;

use super::{Call, ctl};
use crate::domain::{self, Domain};
use crate::guest;

pub use info::domain_info;

/// Bits of an address in a 64-bit guest.
const ADDRESS_SIZE: u32 = 64;

/// `HYPERVISOR_domctl(op)`: EFAULT, EACCES for another interface version, ESRCH for
/// no such domain, EPERM for a domain without privilege, ENOSYS for what is not there.
pub fn domctl(call: &mut Call<'_>) -> Result<i64> {
    let mut op: Domctl = guest::read(call.address(0))?;
    if op.interface_version != XEN_DOMCTL_INTERFACE_VERSION {
        return Err(Error::Access);
    }
    let domain = match domain::find(DomainId(op.domain)) {
        Some(domain) => domain,
        None if op.cmd == XEN_DOMCTL_GETDOMAININFO => next_domain(DomainId(op.domain))?,
        None => return Err(Error::NoDomain),
    };
    call.require_privilege()?;
    if perform(call, &domain, &mut op)? {
        guest::write(call.address(0), &op)?;
    }
    Ok(0)
}

/// The first domain of at least that number: whoever asks for none gets the next.
fn next_domain(id: DomainId) -> Result<Arc<Domain>> {
    if id >= DomainId::FIRST_RESERVED {
        return Err(Error::Invalid);
    }
    let mut domains = domain::all().into_iter();
    domains
        .find(|domain| domain.id >= id)
        .ok_or(Error::NoDomain)
}

/// Performs an operation; says whether it has an answer to be written back.
fn perform(call: &Call<'_>, domain: &Domain, op: &mut Domctl) -> Result<bool> {
    let is_caller = domain.id == call.domain.id;
    let u = &mut op.u;
    match op.cmd {
        XEN_DOMCTL_GETDOMAININFO => {
            op.domain = domain.id.0;
            ctl::put(u, &info::domain_info(domain));
            Ok(true)
        }
        XEN_DOMCTL_GETVCPUINFO => {
            info::vcpu_info(domain, u)?;
            Ok(true)
        }
        XEN_DOMCTL_GETVCPUAFFINITY => {
            info::get_affinity(domain, u)?;
            Ok(false)
        }
        XEN_DOMCTL_SETVCPUAFFINITY => {
            info::set_affinity(domain, u)?;
            Ok(false)
        }
        XEN_DOMCTL_GETNODEAFFINITY => {
            let args: DomctlNodeaffinity = ctl::get(u)?;
            ctl::write_bitmap(&args.nodemap, &[1], 1)?;
            Ok(false)
        }
        // A domain that paused itself could not undo it.
        XEN_DOMCTL_PAUSEDOMAIN if is_caller => Err(Error::Invalid),
        XEN_DOMCTL_PAUSEDOMAIN => domain.pause_by_controller().map(|()| false),
        XEN_DOMCTL_UNPAUSEDOMAIN => domain.unpause_by_controller().map(|()| false),
        XEN_DOMCTL_MAX_MEM => {
            let args: DomctlMaxMem = ctl::get(u)?;
            // In frames, of which there are never more than 32 bits can count.
            domain
                .mm
                .set_max_pages((args.max_memkb >> 2).min(u64::from(u32::MAX)));
            Ok(false)
        }
        XEN_DOMCTL_GET_ADDRESS_SIZE => {
            ctl::put(u, &DomctlAddressSize { size: ADDRESS_SIZE });
            Ok(true)
        }
        XEN_DOMCTL_GET_CPU_POLICY => {
            let mut args: DomctlCpuPolicy = ctl::get(u)?;
            let policy = &domain.cpu_policy;
            args.nr_leaves = ctl::write_leaves(policy, args.leaves, args.nr_leaves)?;
            args.nr_msrs = ctl::write_msrs(policy, args.msrs, args.nr_msrs)?;
            ctl::put(u, &args);
            Ok(true)
        }
        XEN_DOMCTL_SET_CPU_POLICY | XEN_DOMCTL_GETTSCINFO if is_caller => Err(Error::Invalid),
        XEN_DOMCTL_SCHEDULER_OP => {
            info::scheduler(domain, u)?;
            Ok(true)
        }
        _ => Err(Error::NotImplemented),
    }
}
