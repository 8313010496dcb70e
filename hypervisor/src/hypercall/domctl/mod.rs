//! `domctl` (domctl.h): control of domains, for a control domain.
//!
//! There is no hardware to be handed to domains, so whoever gives rights to ports,
//! memory or interrupts of devices is told that he has none himself (EPERM). What is for
//! HVM domains only gets Xen's answer for a PV domain. The rest is answered with ENOSYS,
//! but for what only Overcast has ([`xen_abi::overcast`]).

mod context;
mod cpu;
mod disk;
mod info;
mod memory;

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use overcast_core::error::{Error, Result};
use overcast_core::ids::DomainId;
use xen_abi::domctl::*;
use xen_abi::overcast::{OVERCAST_DOMCTL_DISK_LOG, OVERCAST_DOMCTL_READ_PAGES};

use super::{Call, PreemptByEvents, ctl};
use crate::domain::{self, Domain};
use crate::vcpu::Vcpu;
use crate::{guest, lifecycle, schedule, time};

pub use info::domain_info;

/// Bits of an address in a 64-bit guest.
const ADDRESS_SIZE: u32 = 64;
/// Ports of devices that there can be.
const PORTS: u32 = 0x1_0000;
/// Physical interrupts that Dom0 may name.
const PIRQS: u32 = 256;

/// `HYPERVISOR_domctl(op)`: EFAULT, EACCES for another interface version, ESRCH for
/// no such domain, EPERM for a domain without privilege, ENOSYS for what is not there.
pub fn domctl(call: &mut Call<'_>) -> Result<i64> {
    let mut op: Domctl = guest::read(call.address(0))?;
    if op.interface_version != XEN_DOMCTL_INTERFACE_VERSION {
        return Err(Error::Access);
    }
    if op.cmd == XEN_DOMCTL_CREATEDOMAIN {
        call.require_privilege()?;
        let config: DomctlCreatedomain = ctl::get(&op.u)?;
        let mut control = lifecycle::control()?;
        let id = lifecycle::create(&mut control, DomainId(op.domain), &config)?;
        op.domain = id.0;
        guest::write(call.address(0), &op)?;
        return Ok(0);
    }
    let domain = match domain::find(DomainId(op.domain)) {
        Some(domain) => domain,
        None if op.cmd == XEN_DOMCTL_GETDOMAININFO => next_domain(DomainId(op.domain))?,
        None => return Err(Error::NoDomain),
    };
    call.require_privilege()?;
    let mut target = Target {
        call,
        domain: &domain,
        has_answer: false,
    };
    let result = match target.without_lock(&mut op) {
        Some(result) => result,
        None => {
            let _control = lifecycle::control()?;
            target.perform(&mut op)
        }
    };
    if target.has_answer {
        guest::write(call.address(0), &op)?;
    }
    result.map(|()| 0)
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

/// Keeps a domain other than the caller's from running for as long as this lives.
struct Paused<'d>(&'d Domain);

impl<'d> Paused<'d> {
    fn new(domain: &'d Domain) -> Self {
        schedule::pause_domain(domain);
        Self(domain)
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        schedule::unpause_domain(self.0);
    }
}

/// Keeps a vCPU other than the calling one from running for as long as this lives.
struct PausedVcpu<'v>(&'v Vcpu);

impl<'v> PausedVcpu<'v> {
    fn new(vcpu: &'v Vcpu) -> Self {
        schedule::pause_vcpu(vcpu);
        Self(vcpu)
    }
}

impl Drop for PausedVcpu<'_> {
    fn drop(&mut self) {
        schedule::unpause_vcpu(self.0);
    }
}

/// What an operation is about.
struct Target<'a, 'c> {
    call: &'a Call<'c>,
    domain: &'a Arc<Domain>,
    /// The operation is to be written back, whether it succeeded or not.
    has_answer: bool,
}

impl<'a> Target<'a, '_> {
    /// Whether the caller is of the domain that the operation is about.
    fn is_caller(&self) -> bool {
        self.domain.id == self.call.domain.id
    }

    /// EINVAL for the caller's own domain, which cannot be paused meanwhile.
    fn not_caller(&self) -> Result<()> {
        if self.is_caller() {
            return Err(Error::Invalid);
        }
        Ok(())
    }

    /// The vCPU that an operation names, or the error if there is none.
    fn vcpu(&self, id: u32, error: Error) -> Result<&'a Vcpu> {
        self.domain
            .vcpu(overcast_core::ids::VcpuId(id))
            .ok_or(error)
    }

    /// As [`Self::vcpu`], and not the one that calls (EINVAL).
    fn other_vcpu(&self, id: u32, error: Error) -> Result<&'a Vcpu> {
        let vcpu = self.vcpu(id, error)?;
        if core::ptr::eq(vcpu, self.call.vcpu) {
            return Err(Error::Invalid);
        }
        Ok(vcpu)
    }

    /// Operations that change nothing of a domain; `None` for others.
    fn without_lock(&mut self, op: &mut Domctl) -> Option<Result<()>> {
        let u = &mut op.u;
        Some(match op.cmd {
            XEN_DOMCTL_GETDOMAININFO => {
                op.domain = self.domain.id.0;
                ctl::put(u, &info::domain_info(self.domain));
                self.has_answer = true;
                Ok(())
            }
            XEN_DOMCTL_IOMEM_PERMISSION => ctl::get(u).and_then(|args: DomctlIomemPermission| {
                no_rights(
                    args.nr_mfns != 0 && args.first_mfn.checked_add(args.nr_mfns - 1).is_some(),
                )
            }),
            XEN_DOMCTL_MEMORY_MAPPING => ctl::get(u).and_then(|args: DomctlMemoryMapping| {
                let ends = |first: u64| first.checked_add(args.nr_mfns.wrapping_sub(1));
                // The memory map of a PV domain is its own business.
                match (ends(args.first_mfn), ends(args.first_gfn)) {
                    (Some(last), Some(_)) if (args.first_mfn | last) >> 40 == 0 => Ok(()),
                    _ => Err(Error::Invalid),
                }
            }),
            XEN_DOMCTL_IRQ_PERMISSION => {
                ctl::get(u).and_then(|args: DomctlIrqPermission| no_rights(args.pirq < PIRQS))
            }
            XEN_DOMCTL_IOPORT_PERMISSION => ctl::get(u).and_then(|args: DomctlIoportPermission| {
                let end = args.first_port.wrapping_add(args.nr_ports);
                no_rights(end > args.first_port && end <= PORTS)
            }),
            XEN_DOMCTL_SET_TARGET => {
                ctl::get(u).and_then(|args: DomctlSetTarget| {
                    match domain::find(DomainId(args.target)) {
                        None => Err(Error::NoDomain),
                        Some(target) if target.id == self.domain.id => Err(Error::Invalid),
                        Some(_) => Err(Error::NotSupported),
                    }
                })
            }
            OVERCAST_DOMCTL_READ_PAGES => memory::read_pages(self, u),
            XEN_DOMCTL_BIND_PT_IRQ | XEN_DOMCTL_UNBIND_PT_IRQ => Err(Error::Invalid),
            XEN_DOMCTL_IOPORT_MAPPING | XEN_DOMCTL_GET_DEVICE_GROUP | XEN_DOMCTL_VM_EVENT_OP => {
                Err(Error::NotSupported)
            }
            _ => return None,
        })
    }

    /// The others, one at a time in the machine.
    fn perform(&mut self, op: &mut Domctl) -> Result<()> {
        let u = &mut op.u;
        let domain = self.domain;
        match op.cmd {
            XEN_DOMCTL_PAUSEDOMAIN => {
                // A domain that paused itself could not undo it.
                self.not_caller()?;
                domain.pause_by_controller()
            }
            XEN_DOMCTL_UNPAUSEDOMAIN => domain.unpause_by_controller(),
            XEN_DOMCTL_RESUMEDOMAIN => {
                self.not_caller()?;
                let _paused = Paused::new(domain);
                domain.resume();
                Ok(())
            }
            XEN_DOMCTL_DESTROYDOMAIN => {
                self.not_caller()?;
                lifecycle::kill(domain, &PreemptByEvents(self.call.vcpu))
            }
            XEN_DOMCTL_MAX_VCPUS => {
                let args: DomctlMaxVcpus = ctl::get(u)?;
                self.not_caller()?;
                if args.max != domain.max_vcpus() || domain.mm.is_dying() {
                    return Err(Error::Invalid);
                }
                let _paused = Paused::new(domain);
                lifecycle::make_vcpus(domain)
            }
            XEN_DOMCTL_MAX_MEM => {
                let args: DomctlMaxMem = ctl::get(u)?;
                // In frames, of which there are never more than 32 bits can count.
                domain
                    .mm
                    .set_max_pages((args.max_memkb >> 2).min(u64::from(u32::MAX)));
                Ok(())
            }
            XEN_DOMCTL_SETDOMAINHANDLE => {
                let args: DomctlSetdomainhandle = ctl::get(u)?;
                *domain.handle.lock() = args.handle;
                Ok(())
            }
            XEN_DOMCTL_SETDEBUGGING => {
                let args: DomctlSetdebugging = ctl::get(u)?;
                self.not_caller()?;
                domain.debugged.store(args.enable != 0, Ordering::Release);
                Ok(())
            }
            XEN_DOMCTL_SETTIMEOFFSET => {
                let args: DomctlSettimeoffset = ctl::get(u)?;
                domain
                    .time_offset
                    .store(args.time_offset_seconds, Ordering::Relaxed);
                time::write_wall_clock(domain);
                Ok(())
            }
            XEN_DOMCTL_SUBSCRIBE => {
                let args: DomctlSubscribe = ctl::get(u)?;
                domain.suspend_port.store(args.port, Ordering::Release);
                Ok(())
            }
            XEN_DOMCTL_SET_VIRQ_HANDLER => {
                let args: DomctlSetVirqHandler = ctl::get(u)?;
                if domain.mm.is_dying() {
                    return Err(Error::Invalid);
                }
                domain::set_virq_handler(domain, args.virq)
            }
            XEN_DOMCTL_SENDTRIGGER => context::trigger(self, u),
            XEN_DOMCTL_GETVCPUINFO => info::vcpu_info(self, u),
            XEN_DOMCTL_GETVCPUAFFINITY => info::get_affinity(domain, u),
            XEN_DOMCTL_SETVCPUAFFINITY => info::set_affinity(domain, u),
            XEN_DOMCTL_GETNODEAFFINITY => {
                let args: DomctlNodeaffinity = ctl::get(u)?;
                ctl::write_bitmap(&args.nodemap, &[1], 1)
            }
            XEN_DOMCTL_SETNODEAFFINITY => {
                let args: DomctlNodeaffinity = ctl::get(u)?;
                // There is one node.
                let nodes = match args.nodemap.nr_bits {
                    0 => 0u8,
                    _ => guest::read_item(args.nodemap.bitmap, 0)?,
                };
                (nodes & 1 != 0).then_some(()).ok_or(Error::Invalid)
            }
            XEN_DOMCTL_SCHEDULER_OP => info::scheduler(self, u),
            XEN_DOMCTL_SETVCPUCONTEXT => context::set(self, u),
            XEN_DOMCTL_GETVCPUCONTEXT => context::get(self, u),
            XEN_DOMCTL_SET_EXT_VCPUCONTEXT => context::set_ext(self, u),
            XEN_DOMCTL_GET_EXT_VCPUCONTEXT => context::get_ext(self, u),
            XEN_DOMCTL_SETVCPUEXTSTATE => context::set_xstate(self, u),
            XEN_DOMCTL_GETVCPUEXTSTATE => context::get_xstate(self, u),
            XEN_DOMCTL_GET_VCPU_MSRS => context::get_msrs(self, u),
            XEN_DOMCTL_SET_VCPU_MSRS => context::set_msrs(self, u),
            XEN_DOMCTL_SET_ADDRESS_SIZE => {
                let args: DomctlAddressSize = ctl::get(u)?;
                // There are no 32-bit guests.
                (args.size == ADDRESS_SIZE)
                    .then_some(())
                    .ok_or(Error::Invalid)
            }
            XEN_DOMCTL_GET_ADDRESS_SIZE => {
                ctl::put(u, &DomctlAddressSize { size: ADDRESS_SIZE });
                self.has_answer = true;
                Ok(())
            }
            XEN_DOMCTL_GET_CPU_POLICY => cpu::get_policy(self, u),
            XEN_DOMCTL_SET_CPU_POLICY => cpu::set_policy(self, u),
            XEN_DOMCTL_GETTSCINFO => cpu::get_tsc(self, u),
            XEN_DOMCTL_SETTSCINFO => cpu::set_tsc(self, u),
            XEN_DOMCTL_GETPAGEFRAMEINFO3 => memory::page_frames(self, u),
            XEN_DOMCTL_HYPERCALL_INIT => memory::hypercall_page(self, u),
            XEN_DOMCTL_SHADOW_OP => memory::shadow(self, u),
            OVERCAST_DOMCTL_DISK_LOG => disk::log(self, u),
            XEN_DOMCTL_GETHVMCONTEXT => {
                self.has_answer = true;
                Err(Error::Invalid)
            }
            XEN_DOMCTL_SETHVMCONTEXT
            | XEN_DOMCTL_GETHVMCONTEXT_PARTIAL
            | XEN_DOMCTL_DEBUG_OP
            | XEN_DOMCTL_SET_BROKEN_PAGE_P2M
            | XEN_DOMCTL_VMTRACE_OP
            | XEN_DOMCTL_SOFT_RESET => Err(Error::Invalid),
            XEN_DOMCTL_PSR_CMT_OP => Err(Error::NotThere),
            XEN_DOMCTL_ASSIGN_DEVICE
            | XEN_DOMCTL_DEASSIGN_DEVICE
            | XEN_DOMCTL_TEST_ASSIGN_DEVICE
            | XEN_DOMCTL_PSR_ALLOC
            | XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE
            | XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE => Err(Error::NotSupported),
            _ => Err(Error::NotImplemented),
        }
    }
}

/// The caller has no rights to devices that it could give; EINVAL if what it names is none.
fn no_rights(valid: bool) -> Result<()> {
    Err(if valid {
        Error::NotPermitted
    } else {
        Error::Invalid
    })
}
