//! What RDMSR and WRMSR do for a PV guest.
//!
//! The guest's kernel runs in ring 3, so each access faults and comes here.
//! The rules are those of Xen 4.17: what a guest may know is answered from its
//! [`CpuidPolicy`] or from the vCPU's own state, a few registers that stock
//! kernels write without need are ignored, and all the rest gives #GP.
//!
//! # Invariants
//!
//! - Nothing that a guest writes reaches a register of the hardware but by a
//!   [`MsrWrite::Host`], whose value was checked against the reserved bits.
//! - The hardware is read only for what no guest can change and every guest
//!   may know; each such place says why.

use xen_abi::cpufeatureset as f;

use crate::addr::{GuestVirtual, Mfn, PAGE_SHIFT};
use crate::cpuid::{CpuidPolicy, Vendor};

/// Numbers of the registers named here (Intel SDM volume 4; AMD APM volume 2, appendix A).
#[allow(missing_docs)]
pub mod index {
    pub const P5_MC_ADDR: u32 = 0x0;
    pub const P5_MC_TYPE: u32 = 0x1;
    pub const TSC: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1b;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    /// BIOS_SIGN_ID with Intel, PATCHLEVEL with AMD.
    pub const MICROCODE: u32 = 0x8b;
    pub const PERFCTR0: u32 = 0xc1;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const MPERF: u32 = 0xe7;
    pub const APERF: u32 = 0xe8;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const MISC_FEATURES_ENABLES: u32 = 0x140;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MCG_CTL: u32 = 0x17b;
    pub const EVNTSEL0: u32 = 0x186;
    pub const PERF_STATUS: u32 = 0x198;
    pub const PERF_CTL: u32 = 0x199;
    pub const THERM_CONTROL: u32 = 0x19a;
    pub const THERM_STATUS: u32 = 0x19c;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const ENERGY_PERF_BIAS: u32 = 0x1b0;
    pub const PAT: u32 = 0x277;
    pub const MC0_CTL2: u32 = 0x280;
    pub const FIXED_CTR0: u32 = 0x309;
    pub const PERF_CAPABILITIES: u32 = 0x345;
    pub const FIXED_CTR_CTRL: u32 = 0x38d;
    pub const GLOBAL_OVF_CTRL: u32 = 0x390;
    pub const MC0_CTL: u32 = 0x400;
    pub const XEN_HYPERCALL_PAGE: u32 = 0x4000_0000;
    pub const XEN_LAST: u32 = 0x4000_02ff;
    pub const EFER: u32 = 0xc000_0080;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const K7_EVNTSEL0: u32 = 0xc001_0000;
    pub const K7_PERFCTR3: u32 = 0xc001_0007;
    pub const K8_SYSCFG: u32 = 0xc001_0010;
    pub const K8_HWCR: u32 = 0xc001_0015;
    pub const K8_IORR_BASE0: u32 = 0xc001_0016;
    pub const K8_TOP_MEM1: u32 = 0xc001_001a;
    pub const K8_TOP_MEM2: u32 = 0xc001_001d;
    pub const AMD64_NB_CFG: u32 = 0xc001_001f;
    pub const K7_FID_VID_CTL: u32 = 0xc001_0041;
    pub const K7_FID_VID_STATUS: u32 = 0xc001_0042;
    pub const FAM10H_MMIO_CONF_BASE: u32 = 0xc001_0058;
    pub const K8_PSTATE_LIMIT: u32 = 0xc001_0061;
    pub const K8_PSTATE7: u32 = 0xc001_006b;
    pub const K8_TSEG_BASE: u32 = 0xc001_0112;
    pub const K8_TSEG_MASK: u32 = 0xc001_0113;
    pub const FAM15H_EVNTSEL0: u32 = 0xc001_0200;
    pub const FAM15H_PERFCTR5: u32 = 0xc001_020b;
    pub const DR1_ADDRESS_MASK: u32 = 0xc001_1019;
    pub const DR3_ADDRESS_MASK: u32 = 0xc001_101b;
    pub const DR0_ADDRESS_MASK: u32 = 0xc001_1027;
    pub const AMD64_DE_CFG: u32 = 0xc001_1029;
}
use index as msr;

/// The PAT that all guests have: the hypervisor's own, fixed by the interface
/// (write-protect, write-combining, uncached, ..., as in Xen).
pub const GUEST_PAT: u64 = 0x0000_0501_0007_0406;

const EFER_KNOWN: u64 = (1 << 0) | (1 << 8) | (1 << 10) | (1 << 11) | (1 << 14);
/// Banks of machine checks that a guest is shown.
const MC_BANKS: u32 = 2;

/// A vCPU's own machine-specific registers.
#[derive(Clone, Copy, Default, Debug)]
pub struct VcpuMsrs {
    /// MISC_FEATURES_ENABLES; bit 0: CPUID faults in user space.
    pub misc_features_enables: u64,
    /// SPEC_CTRL, to be in force while the vCPU runs.
    pub spec_ctrl: u64,
    /// TSC_AUX, for RDTSCP and RDPID.
    pub tsc_aux: u32,
    /// DR0 to DR3_ADDRESS_MASK.
    pub dr_mask: [u32; 4],
    mcg_status: u64,
    mc_ctl2: [u64; MC_BANKS as usize],
}

/// What an access depends on beside the vCPU's registers.
#[derive(Clone, Copy)]
pub struct MsrContext<'a> {
    /// What the domain is shown.
    pub policy: &'a CpuidPolicy,
    /// The domain is Dom0.
    pub privileged: bool,
    /// The vCPU has the number 0.
    pub boot_vcpu: bool,
    /// The guest has set a handler for #GP.
    pub gp_handler: bool,
}

/// What a read gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsrRead {
    /// The value.
    Value(u64),
    /// The base of FS.
    FsBase,
    /// The base of GS.
    GsBase,
    /// The base that GS has in the other mode (`gs_base_user`).
    UserGsBase,
    /// The guest's TSC.
    Tsc,
    /// #GP(0).
    Fault,
}

/// What a write asks of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsrWrite {
    /// Nothing more: it was recorded, or is ignored.
    Done,
    /// Set the base of FS; the address is canonical.
    FsBase(u64),
    /// Set the base of GS; the address is canonical.
    GsBase(u64),
    /// Set the base that GS has in the other mode; the address is canonical.
    UserGsBase(u64),
    /// Write the register of the hardware too.
    Host {
        /// Its number.
        index: u32,
        /// Its value, checked.
        value: u64,
    },
    /// Like `Host`, if DR7 has a breakpoint enabled.
    HostIfBreakpoints {
        /// Its number.
        index: u32,
        /// Its value, checked.
        value: u64,
    },
    /// Fill the frame with the hypercall page; #GP(0) if it is not the
    /// guest's own writable memory.
    HypercallPage(Mfn),
    /// #GP(0).
    Fault,
}

fn guest_efer(host: u64) -> u64 {
    host & EFER_KNOWN
}

fn guest_misc_enable(host: u64) -> u64 {
    const PERF_AVAIL: u64 = 1 << 7;
    const BTS_UNAVAIL: u64 = 1 << 11;
    const PEBS_UNAVAIL: u64 = 1 << 12;
    const MONITOR: u64 = 1 << 18;
    const XTPR_DISABLE: u64 = 1 << 23;
    (host & !(PERF_AVAIL | MONITOR)) | BTS_UNAVAIL | PEBS_UNAVAIL | XTPR_DISABLE
}

fn dr_mask_number(index: u32) -> Option<usize> {
    match index {
        msr::DR0_ADDRESS_MASK => Some(0),
        msr::DR1_ADDRESS_MASK..=msr::DR3_ADDRESS_MASK => {
            Some((index - msr::DR1_ADDRESS_MASK) as usize + 1)
        }
        _ => None,
    }
}

/// Whether it is a register of the vendor's performance counters.
fn is_perf_counter(index: u32, vendor: Vendor) -> bool {
    let intel = (msr::PERFCTR0..msr::PERFCTR0 + 8).contains(&index)
        || (msr::EVNTSEL0..msr::EVNTSEL0 + 4).contains(&index)
        || (msr::FIXED_CTR0..msr::FIXED_CTR0 + 3).contains(&index)
        || (msr::FIXED_CTR_CTRL..=msr::GLOBAL_OVF_CTRL).contains(&index);
    let amd = (msr::K7_EVNTSEL0..=msr::K7_PERFCTR3).contains(&index)
        || (msr::FAM15H_EVNTSEL0..=msr::FAM15H_PERFCTR5).contains(&index);
    (intel && vendor == Vendor::Intel) || (amd && vendor.is_amd())
}

fn is_pstate(index: u32) -> bool {
    matches!(
        index,
        msr::K7_FID_VID_CTL | msr::K7_FID_VID_STATUS | msr::K8_PSTATE_LIMIT..=msr::K8_PSTATE7
    )
}

fn is_fam10h_to_16h(policy: &CpuidPolicy) -> bool {
    policy.vendor() == Vendor::Amd && (0x10..0x17).contains(&policy.family())
}

impl VcpuMsrs {
    /// Reads a register for the guest. `host` reads one of the hardware, and
    /// gives `None` if that faults.
    pub fn read(
        &self,
        index: u32,
        context: &MsrContext<'_>,
        host: impl Fn(u32) -> Option<u64>,
    ) -> MsrRead {
        let answer = self.answer(index, context, &host);
        if answer == MsrRead::Fault
            && !context.gp_handler
            && index >> 16 != 0x4000
            && host(index).is_some()
        {
            // Kernels read some registers before they can handle a fault.
            return MsrRead::Value(0);
        }
        answer
    }

    fn answer(
        &self,
        index: u32,
        context: &MsrContext<'_>,
        host: &impl Fn(u32) -> Option<u64>,
    ) -> MsrRead {
        use MsrRead::{Fault, Value};
        let policy = context.policy;
        let vendor = policy.vendor();
        let intel = vendor == Vendor::Intel;
        let when = |condition: bool, value: u64| if condition { Value(value) } else { Fault };
        let forward = |condition: bool| match host(index) {
            Some(value) if condition => Value(value),
            _ => Fault,
        };
        if let Some(number) = dr_mask_number(index) {
            let mask = self.dr_mask.get(number).copied().unwrap_or(0);
            return when(policy.has(f::DBEXT), mask.into());
        }
        match index {
            msr::FEATURE_CONTROL => when(intel, 1),
            // Of the package and its microcode: the same for all guests.
            msr::PLATFORM_ID => forward(intel),
            msr::MICROCODE => forward(intel || vendor == Vendor::Amd),
            msr::SPEC_CTRL => when(policy.has(f::IBRSB) || policy.has(f::IBRS), self.spec_ctrl),
            msr::PLATFORM_INFO => Value(u64::from(policy.cpuid_faulting()) << 31),
            msr::ARCH_CAPABILITIES => when(policy.has(f::ARCH_CAPS), policy.arch_capabilities()),
            msr::MISC_FEATURES_ENABLES => Value(self.misc_features_enables),
            msr::MCG_STATUS => Value(self.mcg_status),
            // SER_P, TES_P and CMCI_P with Intel.
            msr::MCG_CAP => Value(if intel { 0x0100_0c00 } else { 0 } | u64::from(MC_BANKS)),
            msr::P5_MC_ADDR | msr::P5_MC_TYPE | msr::MCG_CTL => Value(0),
            msr::MC0_CTL2..=0x29f => Value(
                self.mc_ctl2
                    .get((index - msr::MC0_CTL2) as usize)
                    .copied()
                    .filter(|_| intel)
                    .unwrap_or(0),
            ),
            msr::MC0_CTL..=0x47f => {
                let bank = (index - msr::MC0_CTL) / 4;
                Value(if index & 3 == 0 && bank < MC_BANKS {
                    u64::MAX
                } else {
                    0
                })
            }
            msr::PERF_STATUS | msr::PERF_CTL | msr::THERM_STATUS => when(intel, 0),
            msr::XEN_HYPERCALL_PAGE => Value(0),
            msr::TSC_AUX => when(
                policy.has(f::RDTSCP) || policy.has(f::RDPID),
                self.tsc_aux.into(),
            ),
            msr::K8_SYSCFG => match host(index) {
                // Which of the memory type registers are in force.
                Some(value) if vendor.is_amd() && context.privileged => Value(value & 0x0074_0000),
                _ => Fault,
            },
            msr::K8_IORR_BASE0..=msr::K8_TOP_MEM1
            | msr::K8_TOP_MEM2
            | msr::K8_TSEG_BASE
            | msr::K8_TSEG_MASK => forward(vendor.is_amd() && context.privileged),
            msr::K8_HWCR => when(vendor.is_amd(), 0),
            // LFENCE serialises.
            msr::AMD64_DE_CFG => when(vendor.is_amd(), 1 << 1),
            // Enabled, and the boot processor on vCPU 0 only: kernels from 6.9
            // on count CPUs by it.
            msr::APIC_BASE => Value(0xfee0_0800 | u64::from(context.boot_vcpu) << 8),
            msr::FS_BASE => MsrRead::FsBase,
            msr::GS_BASE => MsrRead::GsBase,
            msr::KERNEL_GS_BASE => MsrRead::UserGsBase,
            msr::TSC => MsrRead::Tsc,
            msr::EFER => match host(index) {
                Some(value) => Value(guest_efer(value)),
                None => Fault,
            },
            msr::PAT => Value(GUEST_PAT),
            msr::FAM10H_MMIO_CONF_BASE => when(is_fam10h_to_16h(policy), 0),
            msr::AMD64_NB_CFG | msr::PERF_CAPABILITIES => Value(0),
            msr::MISC_ENABLE => match host(index) {
                Some(value) => Value(guest_misc_enable(value)),
                None => Fault,
            },
            _ if is_pstate(index) => when(vendor == Vendor::Amd, 0),
            _ if is_perf_counter(index, vendor) => Value(0),
            _ => Fault,
        }
    }

    /// Writes a register for the guest.
    pub fn write(
        &mut self,
        index: u32,
        value: u64,
        context: &MsrContext<'_>,
        host: impl Fn(u32) -> Option<u64>,
    ) -> MsrWrite {
        use MsrWrite::{Done, Fault, Host};
        let policy = context.policy;
        let vendor = policy.vendor();
        let intel = vendor == Vendor::Intel;
        let ignore = |condition: bool| if condition { Done } else { Fault };
        if let Some(number) = dr_mask_number(index) {
            let (Ok(mask), Some(slot), true) = (
                u32::try_from(value),
                self.dr_mask.get_mut(number),
                policy.has(f::DBEXT),
            ) else {
                return Fault;
            };
            *slot = mask;
            return MsrWrite::HostIfBreakpoints { index, value };
        }
        match index {
            // The way to ask for the microcode's version begins by writing 0.
            msr::MICROCODE => ignore(intel && value == 0),
            msr::SPEC_CTRL => {
                let available = policy.has(f::IBRSB) || policy.has(f::IBRS);
                if !available || value & !spec_ctrl_valid(policy) != 0 {
                    return Fault;
                }
                self.spec_ctrl = value;
                Done
            }
            msr::PRED_CMD => {
                let sbpb = u64::from(policy.has(f::SBPB)) << 7;
                let available = policy.has(f::IBRSB) || policy.has(f::IBPB);
                if !available || value & !(1 | sbpb) != 0 {
                    return Fault;
                }
                Host { index, value }
            }
            msr::MISC_FEATURES_ENABLES => {
                if value & !u64::from(policy.cpuid_faulting()) != 0 {
                    return Fault;
                }
                self.misc_features_enables = value;
                Done
            }
            msr::MCG_STATUS => {
                self.mcg_status = value;
                Done
            }
            msr::MCG_CAP | msr::MCG_CTL => Done,
            msr::MC0_CTL2..=0x29f => {
                let bank = (index - msr::MC0_CTL2) as usize;
                if let Some(slot) = self.mc_ctl2.get_mut(bank).filter(|_| intel) {
                    *slot = value;
                }
                Done
            }
            // Status, address and misc of a bank can only be cleared.
            msr::MC0_CTL..=0x47f => {
                let bank = (index - msr::MC0_CTL) / 4;
                ignore(bank >= MC_BANKS || index & 3 == 0 || value == 0)
            }
            msr::PERF_CTL | msr::THERM_CONTROL | msr::ENERGY_PERF_BIAS => ignore(intel),
            msr::MPERF | msr::APERF => ignore(intel || vendor.is_amd()),
            msr::XEN_HYPERCALL_PAGE => {
                // The low bits number the page; there is one.
                if value & ((1 << PAGE_SHIFT) - 1) != 0 {
                    return Fault;
                }
                MsrWrite::HypercallPage(Mfn(value >> PAGE_SHIFT))
            }
            msr::TSC_AUX => {
                let available = policy.has(f::RDTSCP) || policy.has(f::RDPID);
                match u32::try_from(value) {
                    Ok(aux) if available => {
                        self.tsc_aux = aux;
                        Host { index, value }
                    }
                    _ => Fault,
                }
            }
            msr::AMD64_DE_CFG | msr::K8_HWCR => ignore(vendor.is_amd()),
            msr::FS_BASE | msr::GS_BASE | msr::KERNEL_GS_BASE => {
                if !GuestVirtual(value).is_canonical() {
                    return Fault;
                }
                match index {
                    msr::FS_BASE => MsrWrite::FsBase(value),
                    msr::GS_BASE => MsrWrite::GsBase(value),
                    _ => MsrWrite::UserGsBase(value),
                }
            }
            // It cannot be changed, but may be written back as it was read.
            msr::EFER => ignore(host(index).map(guest_efer) == Some(value)),
            msr::AMD64_NB_CFG => Done,
            msr::FAM10H_MMIO_CONF_BASE => ignore(is_fam10h_to_16h(policy)),
            // Any other value than what is there is dropped.
            msr::MISC_ENABLE => ignore(host(index).is_some()),
            _ if is_pstate(index) => ignore(vendor.is_amd()),
            _ if is_perf_counter(index, vendor) => Done,
            _ => Fault,
        }
    }
}

/// The bits of SPEC_CTRL that a guest may set. STIBP may always be set where
/// the register is, and is without effect where there is nothing to isolate.
pub fn spec_ctrl_valid(policy: &CpuidPolicy) -> u64 {
    let either = |a, b| policy.has(a) || policy.has(b);
    let mut valid = 0b11;
    if either(f::SSBD, f::AMD_SSBD) {
        valid |= 1 << 2;
    }
    if policy.has(f::IPRED_CTRL) {
        valid |= 0b11 << 3;
    }
    if policy.has(f::RRSBA_CTRL) {
        valid |= 0b11 << 5;
    }
    if either(f::INTEL_PSFD, f::PSFD) {
        valid |= 1 << 7;
    }
    if policy.has(f::BHI_CTRL) {
        valid |= 1 << 10;
    }
    valid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::Hardware;
    use proptest::prelude::*;

    fn policy(vendor: &[u8; 12], family_leaf: u32) -> CpuidPolicy {
        let word = |at: usize| u32::from_le_bytes(vendor[at..at + 4].try_into().unwrap());
        let leaf0 = [0xd, word(0), word(8), word(4)];
        let raw = move |leaf: u32, subleaf: u32| match (leaf, subleaf) {
            (0, _) => leaf0,
            (1, _) => [family_leaf, 0, u32::MAX, u32::MAX],
            (7, 0) => [0, u32::MAX, u32::MAX, u32::MAX],
            (0x8000_0000, _) => [0x8000_0021, leaf0[1], leaf0[2], leaf0[3]],
            (0x8000_0001, _) => [family_leaf, 0, u32::MAX, u32::MAX],
            _ => [0; 4],
        };
        let hardware = Hardware {
            cpuid_faulting: true,
            spec_ctrl: true,
            ..Hardware::default()
        };
        CpuidPolicy::for_pv(raw, &hardware, true, &[], &[])
    }

    fn context(policy: &CpuidPolicy) -> MsrContext<'_> {
        MsrContext {
            policy,
            privileged: true,
            boot_vcpu: true,
            gp_handler: true,
        }
    }

    const NO_HOST: fn(u32) -> Option<u64> = |_| None;

    #[test]
    fn apic_base_tells_the_boot_vcpu() {
        let policy = policy(b"GenuineIntel", 0x506e3);
        let mut context = context(&policy);
        let msrs = VcpuMsrs::default();
        let read = |context: &MsrContext<'_>| msrs.read(msr::APIC_BASE, context, NO_HOST);
        assert_eq!(read(&context), MsrRead::Value(0xfee0_0900));
        context.boot_vcpu = false;
        assert_eq!(read(&context), MsrRead::Value(0xfee0_0800));
        let mut msrs = VcpuMsrs::default();
        assert_eq!(
            msrs.write(msr::APIC_BASE, 0xfee0_0900, &context, NO_HOST),
            MsrWrite::Fault
        );
    }

    #[test]
    fn reads_on_both_vendors() {
        let intel = policy(b"GenuineIntel", 0x506e3);
        let amd = policy(b"AuthenticAMD", 0x800f12);
        let msrs = VcpuMsrs::default();
        let host = |index: u32| (index != 0x1234).then_some(u64::MAX);
        let read = |policy: &CpuidPolicy, index| msrs.read(index, &context(policy), host);
        use MsrRead::{Fault, Value};
        for (index, on_intel, on_amd) in [
            (msr::TSC, MsrRead::Tsc, MsrRead::Tsc),
            (msr::PLATFORM_ID, Value(u64::MAX), Fault),
            (msr::FEATURE_CONTROL, Value(1), Fault),
            (msr::PLATFORM_INFO, Value(1 << 31), Value(1 << 31)),
            (msr::MCG_CAP, Value(0x0100_0c02), Value(2)),
            (0x400, Value(u64::MAX), Value(u64::MAX)),
            (0x408, Value(0), Value(0)),
            (0x4d0, Fault, Fault),
            (msr::PERF_STATUS, Value(0), Fault),
            (msr::THERM_STATUS, Value(0), Fault),
            (msr::PAT, Value(GUEST_PAT), Value(GUEST_PAT)),
            (msr::EFER, Value(0x4d01), Value(0x4d01)),
            (0x802, Fault, Fault),
            (0xc000_0081, Fault, Fault),
            (0xc000_0082, Fault, Fault),
            (0x1d9, Fault, Fault),
            (0x186, Value(0), Fault),
            (0xc001_0000, Fault, Value(0)),
            (0xc001_0064, Fault, Value(0)),
            (msr::K8_HWCR, Fault, Value(0)),
            (msr::AMD64_DE_CFG, Fault, Value(2)),
            (msr::K8_SYSCFG, Fault, Value(0x0074_0000)),
            (0x4000_0000, Value(0), Value(0)),
            (0x4000_0001, Fault, Fault),
            (msr::DR0_ADDRESS_MASK, Value(0), Value(0)),
        ] {
            // DBEXT is a bit of AMD's leaf; this CPU of "Intel" has all bits.
            assert_eq!(read(&intel, index), on_intel, "{index:#x}");
            assert_eq!(read(&amd, index), on_amd, "{index:#x}");
        }
    }

    #[test]
    fn early_reads_do_not_fault() {
        let policy = policy(b"GenuineIntel", 0x506e3);
        let mut context = context(&policy);
        let msrs = VcpuMsrs::default();
        let host = |index: u32| (index == 0x1d9).then_some(5);
        assert_eq!(msrs.read(0x1d9, &context, host), MsrRead::Fault);
        context.gp_handler = false;
        assert_eq!(msrs.read(0x1d9, &context, host), MsrRead::Value(0));
        assert_eq!(msrs.read(0x1da, &context, host), MsrRead::Fault);
        assert_eq!(
            msrs.read(0x4000_0001, &context, |_| Some(1)),
            MsrRead::Fault
        );
    }

    #[test]
    fn writes() {
        let intel = policy(b"GenuineIntel", 0x506e3);
        let amd = policy(b"AuthenticAMD", 0x800f12);
        let host = |index: u32| (index == msr::EFER).then_some(0x1d01);
        let mut msrs = VcpuMsrs::default();
        let mut write =
            |policy: &CpuidPolicy, index, value| msrs.write(index, value, &context(policy), host);
        use MsrWrite::{Done, Fault};
        assert_eq!(write(&intel, msr::EFER, 0xd01), Done);
        assert_eq!(write(&intel, msr::EFER, 0xd00), Fault);
        assert_eq!(write(&intel, msr::FS_BASE, 5), MsrWrite::FsBase(5));
        assert_eq!(write(&intel, msr::GS_BASE, 1 << 47), Fault);
        assert_eq!(
            write(&intel, msr::KERNEL_GS_BASE, u64::MAX),
            MsrWrite::UserGsBase(u64::MAX)
        );
        assert_eq!(write(&intel, msr::MICROCODE, 0), Done);
        assert_eq!(write(&intel, msr::MICROCODE, 1), Fault);
        assert_eq!(write(&amd, msr::MICROCODE, 0), Fault);
        assert_eq!(write(&intel, msr::TSC_AUX, 1 << 32), Fault);
        assert_eq!(
            write(&intel, msr::TSC_AUX, 3),
            MsrWrite::Host {
                index: msr::TSC_AUX,
                value: 3
            }
        );
        assert_eq!(write(&intel, msr::PAT, GUEST_PAT), Fault);
        assert_eq!(write(&intel, msr::MISC_FEATURES_ENABLES, 1), Done);
        assert_eq!(write(&intel, msr::MISC_FEATURES_ENABLES, 2), Fault);
        assert_eq!(write(&intel, 0x401, 1), Fault);
        assert_eq!(write(&intel, 0x401, 0), Done);
        assert_eq!(write(&intel, 0x409, 1), Done);
        assert_eq!(write(&intel, msr::SPEC_CTRL, 1 << 40), Fault);
        assert_eq!(write(&intel, msr::PRED_CMD, 2), Fault);
        assert_eq!(write(&intel, msr::XEN_HYPERCALL_PAGE, 0x5001), Fault);
        assert_eq!(
            write(&intel, msr::XEN_HYPERCALL_PAGE, 0x5000),
            MsrWrite::HypercallPage(Mfn(5))
        );
        assert_eq!(write(&amd, msr::K8_HWCR, 7), Done);
        assert_eq!(write(&amd, 0xc001_0200, 7), Done);
        assert_eq!(write(&intel, 0xc001_0200, 7), Fault);
        assert_eq!(msrs.misc_features_enables, 1);
        assert_eq!(msrs.tsc_aux, 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn only_checked_values_reach_the_hardware(
            index in prop_oneof![any::<u32>(), 0u32..0x800, 0xc000_0080u32..0xc000_0110, 0xc001_0000u32..0xc001_1040],
            value in any::<u64>(), amd in any::<bool>(),
        ) {
            let policy = if amd { policy(b"AuthenticAMD", 0x800f12) } else { policy(b"GenuineIntel", 0x506e3) };
            let mut msrs = VcpuMsrs::default();
            let _ = msrs.read(index, &context(&policy), |_| Some(value));
            match msrs.write(index, value, &context(&policy), |_| Some(value)) {
                MsrWrite::Host { index, value } => prop_assert!(
                    (index == msr::TSC_AUX && value >> 32 == 0) || (index == msr::PRED_CMD && value & !0x81 == 0)
                ),
                MsrWrite::HostIfBreakpoints { index, value } => prop_assert!(dr_mask_number(index).is_some() && value >> 32 == 0),
                MsrWrite::FsBase(v) | MsrWrite::GsBase(v) | MsrWrite::UserGsBase(v) => prop_assert!(GuestVirtual(v).is_canonical()),
                _ => {}
            }
        }
    }
}
