//! Virtual performance monitoring, `HYPERVISOR_xenpmu_op` (pmu.h, arch-x86/pmu.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XENPMU_VER_MAJ`.
pub const XENPMU_VER_MAJ: u32 = 0;
/// `XENPMU_VER_MIN`.
pub const XENPMU_VER_MIN: u32 = 1;
/// `XENPMU_mode_get`.
pub const XENPMU_MODE_GET: u32 = 0;
/// `XENPMU_mode_set`.
pub const XENPMU_MODE_SET: u32 = 1;
/// `XENPMU_feature_get`.
pub const XENPMU_FEATURE_GET: u32 = 2;
/// `XENPMU_feature_set`.
pub const XENPMU_FEATURE_SET: u32 = 3;
/// `XENPMU_init`.
pub const XENPMU_INIT: u32 = 4;
/// `XENPMU_finish`.
pub const XENPMU_FINISH: u32 = 5;
/// `XENPMU_lvtpc_set`.
pub const XENPMU_LVTPC_SET: u32 = 6;
/// `XENPMU_flush`.
pub const XENPMU_FLUSH: u32 = 7;
/// `XENPMU_MODE_OFF`.
pub const XENPMU_MODE_OFF: u32 = 0;
/// `XENPMU_MODE_SELF`.
pub const XENPMU_MODE_SELF: u32 = 1;
/// `XENPMU_MODE_HV`.
pub const XENPMU_MODE_HV: u32 = 2;
/// `XENPMU_MODE_ALL`.
pub const XENPMU_MODE_ALL: u32 = 4;
/// `XENPMU_FEATURE_INTEL_BTS`.
pub const XENPMU_FEATURE_INTEL_BTS: u32 = 1;
/// `XENPMU_FEATURE_IPC_ONLY`.
pub const XENPMU_FEATURE_IPC_ONLY: u32 = 2;
/// `XENPMU_FEATURE_ARCH_ONLY`.
pub const XENPMU_FEATURE_ARCH_ONLY: u32 = 4;
/// `PMU_CACHED`.
pub const PMU_CACHED: u32 = 1;
/// `XENPMU_REGS_PAD_SZ`.
pub const XENPMU_REGS_PAD_SZ: u32 = 64;
/// `XENPMU_CTXT_PAD_SZ`.
pub const XENPMU_CTXT_PAD_SZ: u32 = 128;

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PmuParamsVersion {
    /// `maj`.
    pub maj: u32,
    /// `min`.
    pub min: u32,
}
const _: () = assert!(size_of::<PmuParamsVersion>() == 8 && align_of::<PmuParamsVersion>() == 4);

/// `struct xen_pmu_params`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PmuParams {
    /// Odd while being written.
    pub version: PmuParamsVersion,
    /// New contents.
    pub val: u64,
    /// The vCPU's number.
    pub vcpu: u32,
    /// Must be 0.
    pub pad: u32,
}
const _: () = assert!(size_of::<PmuParams>() == 24 && align_of::<PmuParams>() == 8);

/// `struct xen_pmu_data`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PmuData {
    /// `vcpu_id`.
    pub vcpu_id: u32,
    /// `pcpu_id`.
    pub pcpu_id: u32,
    /// The domain.
    pub domain_id: u16,
    /// Must be 0.
    pub pad: [u8; 6],
    /// `pmu`.
    pub pmu: PmuArch,
}
const _: () = assert!(size_of::<PmuData>() == 224 && align_of::<PmuData>() == 8);

/// `struct xen_pmu_amd_ctxt`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PmuAmdCtxt {
    /// `counters`.
    pub counters: u32,
    /// `ctrls`.
    pub ctrls: u32,
    /// `regs`.
    pub regs: [u64; 0],
}
const _: () = assert!(size_of::<PmuAmdCtxt>() == 8 && align_of::<PmuAmdCtxt>() == 8);

/// `struct xen_pmu_cntr_pair`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PmuCntrPair {
    /// `counter`.
    pub counter: u64,
    /// `control`.
    pub control: u64,
}
const _: () = assert!(size_of::<PmuCntrPair>() == 16 && align_of::<PmuCntrPair>() == 8);

/// `struct xen_pmu_intel_ctxt`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PmuIntelCtxt {
    /// `fixed_counters`.
    pub fixed_counters: u32,
    /// `arch_counters`.
    pub arch_counters: u32,
    /// `global_ctrl`.
    pub global_ctrl: u64,
    /// `global_ovf_ctrl`.
    pub global_ovf_ctrl: u64,
    /// `global_status`.
    pub global_status: u64,
    /// `fixed_ctrl`.
    pub fixed_ctrl: u64,
    /// `ds_area`.
    pub ds_area: u64,
    /// `pebs_enable`.
    pub pebs_enable: u64,
    /// `debugctl`.
    pub debugctl: u64,
    /// `regs`.
    pub regs: [u64; 0],
}
const _: () = assert!(size_of::<PmuIntelCtxt>() == 64 && align_of::<PmuIntelCtxt>() == 8);

/// `struct xen_pmu_regs`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PmuRegs {
    /// `ip`.
    pub ip: u64,
    /// `sp`.
    pub sp: u64,
    /// Flags.
    pub flags: u64,
    /// `cs`.
    pub cs: u16,
    /// `ss`.
    pub ss: u16,
    /// `cpl`.
    pub cpl: u8,
    /// Must be 0.
    pub pad: [u8; 3],
}
const _: () = assert!(size_of::<PmuRegs>() == 32 && align_of::<PmuRegs>() == 8);

/// `struct xen_pmu_arch`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PmuArch {
    /// One of `regs` ([`PmuRegs`]).
    pub r: [u64; 8],
    /// `pmu_flags`.
    pub pmu_flags: u64,
    /// One of `lapic_lvtpc` (u32), `pad` (u64).
    pub l: u64,
    /// One of `amd` ([`PmuAmdCtxt`]), `intel` ([`PmuIntelCtxt`]).
    pub c: [u64; 16],
}
const _: () = assert!(size_of::<PmuArch>() == 208 && align_of::<PmuArch>() == 8);
