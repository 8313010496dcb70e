//! The control operations that make, save and restore domains (`domctl.h`).

use std::io;

use overcast_core::addr::{Mfn, PAGE_SIZE, Pfn};
use xen_abi::arch_x86::{CpuidLeaf, MsrEntry, VcpuGuestContext};
use xen_abi::domctl::*;
use xen_abi::errno::{EAGAIN, EINTR, ENOSYS};
use xen_abi::overcast::*;
use xen_abi::sysctl::{SysctlCpuPolicy, XEN_SYSCTL_GET_CPU_POLICY};
use xen_abi::xen::GuestHandle;
use zerocopy::FromZeros;

use super::foreign::ForeignMap;
use super::privcmd::Buffer;
use crate::control::Control;
use crate::error::{Error, Result};

const READ_PAGES_OPERATION: &str = "read the domain's memory";

/// What CPU a domain sees (`XEN_DOMCTL_get_cpu_policy`): leaves of CPUID, and MSRs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CpuPolicy {
    /// CPUID's leaves.
    pub leaves: Vec<CpuidLeaf>,
    /// MSRs.
    pub msrs: Vec<MsrEntry>,
}

/// The bits of a dirty log, and how it went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirtyLog {
    /// A bit for each page, from 0 on.
    pub bitmap: Vec<u64>,
    /// How many pages the bitmap is valid for.
    pub pages: u64,
    /// Faults that were taken and pages that were written since the last clean.
    pub stats: DomctlShadowOpStats,
}

/// Room for pages that the hypervisor reads ([`Control::read_pages`]).
pub struct PageReader {
    numbers: Buffer<u64>,
    data: Buffer<u8>,
}

/// Pages at a time.
const READ_PAGES: usize = OVERCAST_READ_PAGES_MOST as usize;

impl Control {
    /// Makes room for [`Self::read_pages`]; `None` if the hypervisor does not do that.
    pub fn page_reader(&self, domain: u16) -> Result<Option<PageReader>> {
        let mut nothing = DomctlReadPages::new_zeroed();
        match self.domctl(
            READ_PAGES_OPERATION,
            OVERCAST_DOMCTL_READ_PAGES,
            domain,
            &mut nothing,
        ) {
            Err(Error::Hypercall { errno: ENOSYS, .. }) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(Some(PageReader {
                numbers: self.privcmd().buffer(READ_PAGES)?,
                data: self.privcmd().buffer(READ_PAGES * PAGE_SIZE)?,
            })),
        }
    }

    /// Reads pages of a domain in the form of a stream (`OVERCAST_DOMCTL_READ_PAGES`), at most
    /// 1,024: their numbers with what they are, and the contents of those that have some. `list`
    /// is the domain's list of the frames of its first `entries` pages; with `elide`, pages of zeros
    /// have no contents.
    pub fn read_pages<'r>(
        &self,
        domain: u16,
        reader: &'r mut PageReader,
        (list, entries): (&ForeignMap, u64),
        pages: &[Pfn],
        elide: bool,
    ) -> Result<(&'r [u64], &'r [u8])> {
        let too_many = || io::Error::from(io::ErrorKind::InvalidInput);
        let numbers = reader.numbers.items_mut().get_mut(..pages.len());
        for (slot, pfn) in numbers.ok_or_else(too_many)?.iter_mut().zip(pages) {
            *slot = pfn.0;
        }
        let mut argument = DomctlReadPages {
            pages: reader.numbers.handle(),
            data: reader.data.handle(),
            list: list.handle(),
            list_entries: entries,
            count: u32::try_from(pages.len()).map_err(|_| too_many())?,
            flags: if elide { OVERCAST_READ_PAGES_ELIDE } else { 0 },
            done: 0,
            filled: 0,
        };
        self.domctl(
            READ_PAGES_OPERATION,
            OVERCAST_DOMCTL_READ_PAGES,
            domain,
            &mut argument,
        )?;
        let filled = (argument.filled as usize).saturating_mul(PAGE_SIZE);
        let data = reader.data.items();
        Ok((
            &reader.numbers.items()[..pages.len()],
            data.get(..filled).unwrap_or(data),
        ))
    }

    /// Makes a domain, without vCPUs or memory, paused. `wanted` is its number, 0 for any;
    /// gives its number.
    pub fn create_domain(&self, wanted: u16, config: &DomctlCreatedomain) -> Result<u16> {
        let mut argument = *config;
        self.domctl_numbered(
            "create the domain",
            XEN_DOMCTL_CREATEDOMAIN,
            wanted,
            &mut argument,
        )
    }

    /// What is known of one domain, as it is in the ABI.
    ///
    /// # Errors
    /// `ESRCH` if there is no such domain.
    pub fn domain_info(&self, domain: u16) -> Result<DomctlGetdomaininfo> {
        let mut argument = DomctlGetdomaininfo::new_zeroed();
        let found = self.domctl_numbered(
            "ask for a domain",
            XEN_DOMCTL_GETDOMAININFO,
            domain,
            &mut argument,
        )?;
        // Xen gives the next one.
        if found != domain {
            return Err(Error::Hypercall {
                operation: "ask for a domain",
                errno: xen_abi::errno::ESRCH,
            });
        }
        Ok(argument)
    }

    /// Makes a domain's vCPUs, as many as it was created for.
    pub fn set_max_vcpus(&self, domain: u16, max: u32) -> Result<()> {
        let mut argument = DomctlMaxVcpus { max };
        self.domctl("make vCPUs", XEN_DOMCTL_MAX_VCPUS, domain, &mut argument)
    }

    /// Sets the width of a domain's addresses, bits.
    pub fn set_address_size(&self, domain: u16, size: u32) -> Result<()> {
        let mut argument = DomctlAddressSize { size };
        self.domctl(
            "set the address size",
            XEN_DOMCTL_SET_ADDRESS_SIZE,
            domain,
            &mut argument,
        )
    }

    /// The width of a domain's addresses, bits.
    pub fn address_size(&self, domain: u16) -> Result<u32> {
        let mut argument = DomctlAddressSize { size: 0 };
        self.domctl(
            "ask for the address size",
            XEN_DOMCTL_GET_ADDRESS_SIZE,
            domain,
            &mut argument,
        )?;
        Ok(argument.size)
    }

    /// Writes the hypercall page into a frame of a domain.
    pub fn hypercall_page(&self, domain: u16, mfn: Mfn) -> Result<()> {
        let mut argument = DomctlHypercallInit { gmfn: mfn.0 };
        self.domctl(
            "write the hypercall page",
            XEN_DOMCTL_HYPERCALL_INIT,
            domain,
            &mut argument,
        )
    }

    /// Has a domain that was suspended go on.
    pub fn resume(&self, domain: u16) -> Result<()> {
        self.domctl("resume", XEN_DOMCTL_RESUMEDOMAIN, domain, &mut [0u64; 0])
    }

    /// Sets a domain's UUID.
    pub fn set_handle(&self, domain: u16, handle: [u8; 16]) -> Result<()> {
        let mut argument = DomctlSetdomainhandle { handle };
        self.domctl(
            "set the UUID",
            XEN_DOMCTL_SETDOMAINHANDLE,
            domain,
            &mut argument,
        )
    }

    /// Sets by how much a domain's clock differs from UTC, seconds.
    pub fn set_time_offset(&self, domain: u16, seconds: i64) -> Result<()> {
        let mut argument = DomctlSettimeoffset {
            time_offset_seconds: seconds,
        };
        self.domctl(
            "set the clock",
            XEN_DOMCTL_SETTIMEOFFSET,
            domain,
            &mut argument,
        )
    }

    /// A vCPU's registers. The domain should be paused.
    ///
    /// # Errors
    /// `ENODATA` if it was never initialised.
    pub fn vcpu_context(&self, domain: u16, vcpu: u32) -> Result<Box<VcpuGuestContext>> {
        let buffer = self.privcmd().buffer::<VcpuGuestContext>(1)?;
        let mut argument = DomctlVcpucontext::new_zeroed();
        argument.vcpu = vcpu;
        argument.ctxt = buffer.handle();
        self.again(
            "read a vCPU",
            XEN_DOMCTL_GETVCPUCONTEXT,
            domain,
            &mut argument,
        )?;
        Ok(Box::new(buffer.items()[0]))
    }

    /// Sets a vCPU's registers; the first time that makes it ready to run.
    pub fn set_vcpu_context(
        &self,
        domain: u16,
        vcpu: u32,
        context: &VcpuGuestContext,
    ) -> Result<()> {
        let mut buffer = self.privcmd().buffer::<VcpuGuestContext>(1)?;
        buffer.items_mut()[0] = *context;
        let mut argument = DomctlVcpucontext::new_zeroed();
        argument.vcpu = vcpu;
        argument.ctxt = buffer.handle();
        self.again(
            "set up a vCPU",
            XEN_DOMCTL_SETVCPUCONTEXT,
            domain,
            &mut argument,
        )
    }

    /// A control operation that the hypervisor may ask to be made again.
    pub(crate) fn again<T>(
        &self,
        operation: &'static str,
        cmd: u32,
        domain: u16,
        argument: &mut T,
    ) -> Result<()>
    where
        T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
    {
        loop {
            match self.domctl(operation, cmd, domain, argument) {
                Err(Error::Hypercall {
                    errno: EINTR | EAGAIN,
                    ..
                }) => {}
                other => return other,
            }
        }
    }

    /// What the registers leave out: machine checks, and 32-bit callbacks.
    pub fn ext_vcpu_context(&self, domain: u16, vcpu: u32) -> Result<DomctlExtVcpucontext> {
        let mut argument = DomctlExtVcpucontext::new_zeroed();
        argument.vcpu = vcpu;
        self.domctl(
            "read a vCPU",
            XEN_DOMCTL_GET_EXT_VCPUCONTEXT,
            domain,
            &mut argument,
        )?;
        Ok(argument)
    }

    /// Sets what [`Self::ext_vcpu_context`] gave.
    pub fn set_ext_vcpu_context(&self, domain: u16, context: &DomctlExtVcpucontext) -> Result<()> {
        let mut argument = *context;
        self.domctl(
            "set up a vCPU",
            XEN_DOMCTL_SET_EXT_VCPUCONTEXT,
            domain,
            &mut argument,
        )
    }

    /// A vCPU's extended state, as `XEN_DOMCTL_getvcpuextstate` gives it; empty if there is none.
    pub fn vcpu_xstate(&self, domain: u16, vcpu: u32) -> Result<Vec<u8>> {
        const OPERATION: &str = "read a vCPU's extended state";
        let mut argument = DomctlVcpuextstate::new_zeroed();
        argument.vcpu = vcpu;
        self.domctl(OPERATION, XEN_DOMCTL_GETVCPUEXTSTATE, domain, &mut argument)?;
        if argument.size == 0 {
            return Ok(Vec::new());
        }
        let size = usize::try_from(argument.size).unwrap_or(usize::MAX);
        let buffer = self.privcmd().buffer::<u8>(size)?;
        argument.buffer = buffer.handle();
        self.domctl(OPERATION, XEN_DOMCTL_GETVCPUEXTSTATE, domain, &mut argument)?;
        let got = usize::try_from(argument.size).unwrap_or(size).min(size);
        Ok(buffer.items()[..got].to_vec())
    }

    /// Sets a vCPU's extended state; what [`Self::vcpu_xstate`] gave.
    pub fn set_vcpu_xstate(&self, domain: u16, vcpu: u32, state: &[u8]) -> Result<()> {
        let mut buffer = self.privcmd().buffer::<u8>(state.len())?;
        buffer.items_mut().copy_from_slice(state);
        let mut argument = DomctlVcpuextstate::new_zeroed();
        argument.vcpu = vcpu;
        argument.size = state.len() as u64;
        argument.buffer = buffer.handle();
        self.domctl(
            "set a vCPU's extended state",
            XEN_DOMCTL_SETVCPUEXTSTATE,
            domain,
            &mut argument,
        )
    }

    /// The MSRs of a vCPU that are not as at its start.
    pub fn vcpu_msrs(&self, domain: u16, vcpu: u32) -> Result<Vec<DomctlVcpuMsr>> {
        const OPERATION: &str = "read a vCPU's MSRs";
        let mut argument = DomctlVcpuMsrs::new_zeroed();
        argument.vcpu = vcpu;
        self.domctl(OPERATION, XEN_DOMCTL_GET_VCPU_MSRS, domain, &mut argument)?;
        if argument.msr_count == 0 {
            return Ok(Vec::new());
        }
        let count = argument.msr_count as usize;
        let buffer = self.privcmd().buffer::<DomctlVcpuMsr>(count)?;
        argument.msrs = buffer.handle();
        self.domctl(OPERATION, XEN_DOMCTL_GET_VCPU_MSRS, domain, &mut argument)?;
        let got = (argument.msr_count as usize).min(count);
        Ok(buffer.items()[..got].to_vec())
    }

    /// Sets MSRs of a vCPU.
    pub fn set_vcpu_msrs(&self, domain: u16, vcpu: u32, msrs: &[DomctlVcpuMsr]) -> Result<()> {
        let mut buffer = self.privcmd().buffer::<DomctlVcpuMsr>(msrs.len())?;
        buffer.items_mut().copy_from_slice(msrs);
        let mut argument = DomctlVcpuMsrs::new_zeroed();
        argument.vcpu = vcpu;
        argument.msr_count = msrs.len() as u32;
        argument.msrs = buffer.handle();
        self.domctl(
            "set a vCPU's MSRs",
            XEN_DOMCTL_SET_VCPU_MSRS,
            domain,
            &mut argument,
        )
    }

    /// What CPU a domain sees.
    pub fn cpu_policy(&self, domain: u16) -> Result<CpuPolicy> {
        self.policy(|control, argument| {
            control.domctl(
                "ask for the CPU policy",
                XEN_DOMCTL_GET_CPU_POLICY,
                domain,
                argument,
            )
        })
    }

    /// A policy of the machine (`XEN_SYSCTL_CPU_POLICY_*`): what a domain may see at most, or
    /// sees unless told.
    pub fn system_cpu_policy(&self, index: u32) -> Result<CpuPolicy> {
        self.policy(|control, argument| {
            let mut system = SysctlCpuPolicy::new_zeroed();
            system.index = index;
            system.nr_leaves = argument.nr_leaves;
            system.nr_msrs = argument.nr_msrs;
            system.leaves = argument.leaves;
            system.msrs = argument.msrs;
            let result = control.sysctl(
                "ask for the CPU policy",
                XEN_SYSCTL_GET_CPU_POLICY,
                &mut system,
            );
            argument.nr_leaves = system.nr_leaves;
            argument.nr_msrs = system.nr_msrs;
            result
        })
    }

    /// Asks how long the lists are, then for the lists.
    fn policy(&self, ask: impl Fn(&Self, &mut DomctlCpuPolicy) -> Result<()>) -> Result<CpuPolicy> {
        let mut argument = DomctlCpuPolicy::new_zeroed();
        ask(self, &mut argument)?;
        let (leaves, msrs) = (argument.nr_leaves as usize, argument.nr_msrs as usize);
        let leaf_buffer = self.privcmd().buffer::<CpuidLeaf>(leaves)?;
        let msr_buffer = self.privcmd().buffer::<MsrEntry>(msrs)?;
        argument.leaves = leaf_buffer.handle();
        argument.msrs = msr_buffer.handle();
        ask(self, &mut argument)?;
        let (leaves, msrs) = (
            leaves.min(argument.nr_leaves as usize),
            msrs.min(argument.nr_msrs as usize),
        );
        Ok(CpuPolicy {
            leaves: leaf_buffer.items()[..leaves].to_vec(),
            msrs: msr_buffer.items()[..msrs].to_vec(),
        })
    }

    /// Sets what CPU a domain sees; before it is started.
    ///
    /// # Errors
    /// `CpuPolicy` with the leaf or MSR that this machine cannot offer.
    pub fn set_cpu_policy(&self, domain: u16, policy: &CpuPolicy) -> Result<()> {
        let mut leaves = self.privcmd().buffer::<CpuidLeaf>(policy.leaves.len())?;
        leaves.items_mut().copy_from_slice(&policy.leaves);
        let mut msrs = self.privcmd().buffer::<MsrEntry>(policy.msrs.len())?;
        msrs.items_mut().copy_from_slice(&policy.msrs);
        let mut argument = DomctlCpuPolicy::new_zeroed();
        argument.nr_leaves = policy.leaves.len() as u32;
        argument.nr_msrs = policy.msrs.len() as u32;
        argument.leaves = leaves.handle();
        argument.msrs = msrs.handle();
        (argument.err_leaf, argument.err_subleaf, argument.err_msr) =
            (u32::MAX, u32::MAX, u32::MAX);
        let result = self.domctl(
            "set the CPU policy",
            XEN_DOMCTL_SET_CPU_POLICY,
            domain,
            &mut argument,
        );
        let named = argument.err_leaf != u32::MAX || argument.err_msr != u32::MAX;
        match result {
            Err(Error::Hypercall { errno, .. }) if named => Err(Error::CpuPolicy {
                errno,
                leaf: argument.err_leaf,
                subleaf: argument.err_subleaf,
                msr: argument.err_msr,
            }),
            other => other,
        }
    }

    /// How a domain's TSC runs.
    pub fn tsc_info(&self, domain: u16) -> Result<DomctlTscInfo> {
        let mut argument = DomctlTscInfo::new_zeroed();
        self.domctl(
            "ask for the TSC",
            XEN_DOMCTL_GETTSCINFO,
            domain,
            &mut argument,
        )?;
        Ok(argument)
    }

    /// Sets how a domain's TSC runs.
    pub fn set_tsc_info(&self, domain: u16, info: &DomctlTscInfo) -> Result<()> {
        let mut argument = *info;
        self.domctl("set the TSC", XEN_DOMCTL_SETTSCINFO, domain, &mut argument)
    }

    /// What frames are: `pages` holds their numbers, and then `XEN_DOMCTL_PFINFO_*` of each.
    /// At most 1024 at once.
    pub fn page_types(&self, domain: u16, pages: &mut [u64]) -> Result<()> {
        let mut buffer = self.privcmd().buffer::<u64>(pages.len())?;
        buffer.items_mut().copy_from_slice(pages);
        let mut argument = DomctlGetpageframeinfo3 {
            num: pages.len() as u64,
            array: buffer.handle(),
        };
        self.domctl(
            "ask for page types",
            XEN_DOMCTL_GETPAGEFRAMEINFO3,
            domain,
            &mut argument,
        )?;
        pages.copy_from_slice(buffer.items());
        Ok(())
    }

    /// Switches the log of written pages on or off (`XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY`,
    /// `XEN_DOMCTL_SHADOW_OP_OFF`).
    pub fn shadow_switch(&self, domain: u16, op: u32) -> Result<()> {
        let mut argument = DomctlShadowOp::new_zeroed();
        argument.op = op;
        self.again(
            "switch the log of written pages",
            XEN_DOMCTL_SHADOW_OP,
            domain,
            &mut argument,
        )
    }

    /// Which of the first `pages` were written (`XEN_DOMCTL_SHADOW_OP_CLEAN`, which forgets, or
    /// `_PEEK`); `last` with a clean: the domain will not run again.
    pub fn dirty_log(&self, domain: u16, op: u32, pages: u64, last: bool) -> Result<DirtyLog> {
        let words = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
        let buffer = self.privcmd().buffer::<u64>(words)?;
        let mut argument = DomctlShadowOp::new_zeroed();
        argument.op = op;
        argument.mode = if last {
            XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL
        } else {
            0
        };
        argument.dirty_bitmap = buffer.handle();
        argument.pages = pages;
        self.again(
            "read the log of written pages",
            XEN_DOMCTL_SHADOW_OP,
            domain,
            &mut argument,
        )?;
        Ok(DirtyLog {
            bitmap: buffer.items().to_vec(),
            pages: argument.pages,
            stats: argument.stats,
        })
    }

    /// Says on which nodes a domain's memory should be; there is one.
    pub fn set_node_affinity(&self, domain: u16) -> Result<()> {
        let mut nodes = self.privcmd().buffer::<u8>(8)?;
        nodes.items_mut()[0] = 1;
        let mut argument = DomctlNodeaffinity::new_zeroed();
        argument.nodemap.bitmap = GuestHandle(nodes.handle().0);
        argument.nodemap.nr_bits = 64;
        self.domctl(
            "set the nodes",
            XEN_DOMCTL_SETNODEAFFINITY,
            domain,
            &mut argument,
        )
    }
}
