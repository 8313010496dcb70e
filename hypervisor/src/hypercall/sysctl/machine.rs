//! What the machine is: its memory, CPUs, nodes and devices.

use core::mem::offset_of;

use overcast_core::cpuid::COMMON_1D;
use overcast_core::error::{Error, Result};
use overcast_core::machine::Memory;
use overcast_core::topology::Place;
use xen_abi::cpufeatureset::{FEATURESET_E1D, FEATURESET_WORDS};
use xen_abi::physdev::PhysdevPciDevice;
use xen_abi::sysctl::*;

use super::super::{Call, ctl};
use super::{Answer, write_field};
use crate::arch::{memory, percpu, time};
use crate::host::Host;
use crate::start::{boot_info, options};
use crate::{dom0, guest, schedule};

/// Nodes that Xen is built for, which is what it says of the highest number.
const MAX_NODES: u32 = 64;
/// The distance of a node from itself (ACPI 6.4, 5.2.17).
const LOCAL_DISTANCE: u32 = 10;
/// Devices between two looks at whether to stop.
const PCI_BATCH: u32 = 64;

/// `XEN_SYSCTL_physinfo`.
pub fn physinfo() -> SysctlPhysinfo {
    let topology = dom0::topology();
    let place = |cpu: &percpu::PerCpu| topology.place(cpu.apic_id);
    let first = percpu::all().next().map_or(0, |cpu| cpu.apic_id);
    let first = topology.place(first);
    let count =
        |of: &dyn Fn(&Place) -> bool| percpu::all().filter(|cpu| of(&place(cpu))).count() as u32;
    let in_socket = count(&|at| at.socket == first.socket).max(1);
    let in_core = count(&|at| (at.socket, at.core) == (first.socket, first.core)).max(1);
    let mut hw_cap = [0; 8];
    hw_cap
        .iter_mut()
        .zip(dom0::system_features().host.0)
        .for_each(|(to, from)| *to = from);
    // Bits that AMD repeats here are not counted as features of their own.
    hw_cap[FEATURESET_E1D] &= !COMMON_1D;
    let mut capabilities = XEN_SYSCTL_PHYSCAP_PV | XEN_SYSCTL_PHYSCAP_GNTTAB_V1;
    if options().gnttab_max_ver >= 2 {
        capabilities |= XEN_SYSCTL_PHYSCAP_GNTTAB_V2;
    }
    SysctlPhysinfo {
        threads_per_core: in_core,
        cores_per_socket: in_socket / in_core,
        nr_cpus: percpu::online_count(),
        max_cpu_id: ctl::nr_cpu_ids() - 1,
        nr_nodes: 1,
        max_node_id: MAX_NODES - 1,
        cpu_khz: (time::tsc_hz() / 1000) as u32,
        capabilities,
        arch_capabilities: 0,
        pad: 0,
        total_pages: boot_info().ram_bytes() >> 12,
        free_pages: memory::heap().free_frames(),
        scrub_pages: 0,
        outstanding_pages: 0,
        max_mfn: Host.end_mfn().0.saturating_sub(1),
        hw_cap,
    }
}

/// `XEN_SYSCTL_getcpuinfo`: for how long each CPU was idle.
pub fn cpu_info(u: &mut ctl::Arguments) -> Result<()> {
    let mut args: SysctlGetcpuinfo = ctl::get(u)?;
    args.nr_cpus = args.max_cpus.min(ctl::nr_cpu_ids());
    for index in 0..args.nr_cpus {
        let info = SysctlCpuinfo {
            idletime: schedule::idle_time(overcast_core::ids::CpuId(index)),
        };
        guest::write_item(args.info, index.into(), &info)?;
    }
    ctl::put(u, &args);
    Ok(())
}

/// `XEN_SYSCTL_availheap`: the free memory, of the one node; in a range of
/// addresses that is a part of all there is, an estimate.
pub fn available_heap(u: &mut ctl::Arguments) -> Result<()> {
    let mut args: SysctlAvailheap = ctl::get(u)?;
    let heap = memory::heap();
    let bytes = |bits: u32| 1u64.checked_shl(bits).unwrap_or(u64::MAX);
    let end = Host.end_mfn().address().get();
    let low = if args.min_bitwidth == 0 {
        0
    } else {
        bytes(args.min_bitwidth).min(end)
    };
    let high = if args.max_bitwidth == 0 {
        end
    } else {
        bytes(args.max_bitwidth).min(end)
    };
    let free = u128::from(heap.free_frames() << 12);
    let share = free * u128::from(high.saturating_sub(low)) / u128::from(end.max(1));
    args.avail_bytes = if matches!(args.node, -1 | 0) {
        share as u64
    } else {
        0
    };
    ctl::put(u, &args);
    Ok(())
}

/// `XEN_SYSCTL_cputopoinfo`: with no list, how many CPUs there are.
pub fn cpu_topology(call: &Call<'_>, u: &ctl::Arguments) -> Result<Answer> {
    let args: SysctlCputopoinfo = ctl::get(u)?;
    let mut count = ctl::nr_cpu_ids();
    if !args.cputopo.is_null() {
        count = count.min(args.num_cpus);
        let topology = dom0::topology();
        for index in 0..count {
            let cpu = percpu::get(overcast_core::ids::CpuId(index));
            let entry = cpu.map(|cpu| topology.place(cpu.apic_id)).map_or(
                SysctlCputopo {
                    core: XEN_INVALID_CORE_ID,
                    socket: XEN_INVALID_SOCKET_ID,
                    node: XEN_INVALID_NODE_ID,
                },
                |place| SysctlCputopo {
                    core: place.core,
                    socket: place.socket,
                    node: 0,
                },
            );
            guest::write_item(args.cputopo, index.into(), &entry)?;
        }
    }
    if count != args.num_cpus {
        write_field(call, &count, offset_of!(SysctlCputopoinfo, num_cpus))?;
    }
    Ok(Answer::Done)
}

/// `XEN_SYSCTL_numainfo`: there is one node.
pub fn numa_info(call: &Call<'_>, u: &ctl::Arguments) -> Result<Answer> {
    let args: SysctlNumainfo = ctl::get(u)?;
    let mut count = 1;
    if !args.meminfo.is_null() || !args.distance.is_null() {
        count = count.min(args.num_nodes);
        if count != 0 && !args.meminfo.is_null() {
            let info = SysctlMeminfo {
                memsize: Host.end_mfn().address().get(),
                memfree: memory::heap().free_frames() << 12,
            };
            guest::write_item(args.meminfo, 0, &info)?;
        }
        if count != 0 && !args.distance.is_null() {
            guest::write_item(args.distance, 0, &LOCAL_DISTANCE)?;
        }
    }
    if count != args.num_nodes {
        write_field(call, &count, offset_of!(SysctlNumainfo, num_nodes))?;
    }
    Ok(Answer::Done)
}

/// `XEN_SYSCTL_pcitopoinfo`: no devices are known.
pub fn pci_topology(call: &Call<'_>, u: &ctl::Arguments) -> Result<Answer> {
    let args: SysctlPcitopoinfo = ctl::get(u)?;
    if args.devs.is_null() || args.nodes.is_null() {
        return Err(Error::Invalid);
    }
    let mut done = 0;
    while done < args.num_devs {
        let _: PhysdevPciDevice = guest::read_item(args.devs, done.into())?;
        guest::write_item(args.nodes, done.into(), &XEN_INVALID_DEV)?;
        done += 1;
        // The caller asks again for the rest.
        if done >= PCI_BATCH && call.preempt() {
            break;
        }
    }
    if done != args.num_devs {
        write_field(call, &done, offset_of!(SysctlPcitopoinfo, num_devs))?;
    }
    Ok(Answer::Done)
}

/// `XEN_SYSCTL_get_cpu_featureset`: with no list, how many words there are. There
/// are no HVM guests, so no features for them (EOPNOTSUPP).
pub fn featureset(call: &Call<'_>, u: &ctl::Arguments) -> Result<Answer> {
    let args: SysctlCpuFeatureset = ctl::get(u)?;
    let at = offset_of!(SysctlCpuFeatureset, nr_features);
    if args.features.is_null() {
        write_field(call, &(FEATURESET_WORDS as u32), at)?;
        return Ok(Answer::Done);
    }
    let system = dom0::system_features();
    let features = match args.index {
        XEN_SYSCTL_CPU_FEATURESET_RAW => system.raw,
        XEN_SYSCTL_CPU_FEATURESET_HOST => system.host,
        XEN_SYSCTL_CPU_FEATURESET_PV => system.pv_default,
        XEN_SYSCTL_CPU_FEATURESET_PV_MAX => system.pv_max,
        XEN_SYSCTL_CPU_FEATURESET_HVM | XEN_SYSCTL_CPU_FEATURESET_HVM_MAX => {
            return Err(Error::NotSupported);
        }
        _ => return Err(Error::Invalid),
    };
    let count = args.nr_features.min(FEATURESET_WORDS as u32);
    for (index, word) in (0..count).zip(features.0) {
        guest::write_item(args.features, index.into(), &word)?;
    }
    write_field(call, &count, at)?;
    if (count as usize) < FEATURESET_WORDS {
        return Err(Error::NoBuffers);
    }
    Ok(Answer::Done)
}

/// `XEN_SYSCTL_get_cpu_policy`: with no lists, how long they may be. There are no
/// HVM guests, so no policies for them (EOPNOTSUPP).
pub fn policy(call: &Call<'_>, u: &ctl::Arguments) -> Result<Answer> {
    let args: SysctlCpuPolicy = ctl::get(u)?;
    if args.rsvd != 0 || args.index > XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT {
        return Err(Error::Invalid);
    }
    let system = dom0::system_policies();
    let policy = match args.index {
        XEN_SYSCTL_CPU_POLICY_RAW => &system.raw,
        XEN_SYSCTL_CPU_POLICY_HOST => &system.host,
        XEN_SYSCTL_CPU_POLICY_PV_MAX => &system.pv_max,
        XEN_SYSCTL_CPU_POLICY_PV_DEFAULT => &system.pv_default,
        _ => return Err(Error::NotSupported),
    };
    let leaves = ctl::write_leaves(policy, args.leaves, args.nr_leaves)?;
    write_field(call, &leaves, offset_of!(SysctlCpuPolicy, nr_leaves))?;
    let msrs = ctl::write_msrs(policy, args.msrs, args.nr_msrs)?;
    write_field(call, &msrs, offset_of!(SysctlCpuPolicy, nr_msrs))?;
    Ok(Answer::Done)
}
