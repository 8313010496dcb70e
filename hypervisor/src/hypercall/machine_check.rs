//! `mca` (arch-x86/xen-mca.h): what machine checks reported, for Dom0. A
//! machine check is fatal here, so there is never anything to fetch.

use overcast_core::error::{Error, Result};
use xen_abi::cpufeatureset::FEATURESET_WORDS;
use xen_abi::mca::*;
use zerocopy::{FromZeros, IntoBytes};

use super::Call;
use crate::arch::{entry, percpu};
use crate::{dom0, guest};

/// MSR IA32_MCG_CAP (SDM volume 4).
const MCG_CAP: u32 = 0x179;
const VENDORS: [(&[u8; 12], u32); 2] = [(b"GenuineIntel", 1), (b"AuthenticAMD", 2)];
/// Words of `struct xen_mc`'s union.
type Arguments = [u64; 18];

/// `HYPERVISOR_mca(op)`: EPERM for a domain without privilege, EFAULT, EACCES for
/// another interface version, ENODEV to inject errors, EINVAL for what is not there.
pub fn mca(call: &mut Call<'_>) -> Result<i64> {
    call.require_privilege()?;
    let mut op: Mc = guest::read(call.address(0))?;
    if op.interface_version != XEN_MCA_INTERFACE_VERSION {
        return Err(Error::Access);
    }
    match op.cmd {
        XEN_MC_FETCH => {
            let mut fetch: McFetch = get(&op.u)?;
            match fetch.flags & (XEN_MC_NONURGENT | XEN_MC_URGENT) {
                XEN_MC_NONURGENT | XEN_MC_URGENT => {}
                _ => return Err(Error::Invalid),
            }
            if fetch.flags & XEN_MC_ACK != 0 {
                return Ok(0);
            }
            if fetch.data.is_null() {
                return Err(Error::Invalid);
            }
            fetch.flags = XEN_MC_OK | XEN_MC_NODATA;
            fetch.fetch_id = 0;
            put(&mut op.u, fetch.as_bytes());
        }
        XEN_MC_PHYSCPUINFO => {
            let mut info: McPhyscpuinfo = get(&op.u)?;
            let mut count = percpu::online_count();
            if !info.info.is_null() {
                if info.ncpus as i32 <= 0 {
                    return Err(Error::Invalid);
                }
                count = count.min(info.ncpus);
                for (index, cpu) in (0..u64::from(count)).zip(percpu::all()) {
                    guest::write_item(info.info, index, &cpu_info(cpu))?;
                }
            }
            info.ncpus = count;
            put(&mut op.u, info.as_bytes());
        }
        XEN_MC_MSRINJECT | XEN_MC_MCEINJECT | XEN_MC_INJECT_V2 => return Err(Error::NotThere),
        _ => return Err(Error::Invalid),
    }
    guest::write(call.address(0), &op)?;
    Ok(0)
}

fn get<T: zerocopy::FromBytes>(from: &Arguments) -> Result<T> {
    T::read_from_prefix(from.as_bytes())
        .map(|(value, _)| value)
        .map_err(|_| Error::Invalid)
}

fn put(to: &mut Arguments, bytes: &[u8]) {
    if let Some(to) = to.as_mut_bytes().get_mut(..bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

/// What is known of a CPU. All CPUs are of one kind.
fn cpu_info(cpu: &percpu::PerCpu) -> McinfoLogicalCpu {
    let leaf = |leaf| {
        let result = raw_cpuid::native_cpuid::cpuid_count(leaf, 0);
        [result.eax, result.ebx, result.ecx, result.edx]
    };
    let topology = dom0::topology();
    let place = topology.place(cpu.apic_id);
    let others = |same: &dyn Fn(overcast_core::topology::Place) -> bool| {
        percpu::all()
            .filter(|other| same(topology.place(other.apic_id)))
            .count() as u32
    };
    let in_socket = others(&|other| other.socket == place.socket);
    let in_core = others(&|other| (other.socket, other.core) == (place.socket, place.core)).max(1);
    let [level, b, c, d] = leaf(0);
    let signature = leaf(1)[0];
    let (family, model) = (signature >> 8 & 0xf, signature >> 4 & 0xf);
    let mut info = McinfoLogicalCpu::new_zeroed();
    info.mc_cpunr = cpu.cpu.0;
    info.mc_chipid = place.socket;
    info.mc_coreid = place.core as u16;
    info.mc_threadid = place.thread as u16;
    info.mc_apicid = cpu.apic_id;
    info.mc_clusterid = leaf(1)[1] >> 24;
    info.mc_ncores = in_socket / in_core;
    info.mc_ncores_active = info.mc_ncores;
    info.mc_nthreads = in_core;
    info.mc_cpuid_level = level as i32;
    info.mc_family = if family == 0xf {
        family + (signature >> 20 & 0xff)
    } else {
        family
    };
    info.mc_model = if matches!(family, 6 | 0xf) {
        model | signature >> 12 & 0xf0
    } else {
        model
    };
    info.mc_step = signature & 0xf;
    for (to, word) in info.mc_vendorid.chunks_exact_mut(4).zip([b, d, c]) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let vendor = VENDORS
        .iter()
        .find(|(name, _)| info.mc_vendorid.starts_with(*name));
    info.mc_vendor = vendor.map_or(0, |&(_, number)| number);
    if leaf(0x8000_0000)[0] >= 0x8000_0004 {
        let words = (0x8000_0002..=0x8000_0004).flat_map(leaf);
        for (to, word) in info.mc_brandid.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }
    let features = dom0::system_features().host.0;
    const { assert!(FEATURESET_WORDS >= 7) };
    info.mc_cpu_caps
        .iter_mut()
        .zip(features)
        .for_each(|(to, from)| *to = from);
    info.mc_cache_alignment = leaf(1)[1] >> 8 & 0xff;
    info.mc_cache_alignment *= 8;
    if let Some(value) = entry::rdmsr_safe(MCG_CAP) {
        info.mc_nmsrvals = 1;
        if let Some(slot) = info.mc_msrvalues.first_mut() {
            slot.reg = u64::from(MCG_CAP);
            slot.value = value;
        }
    }
    info
}
