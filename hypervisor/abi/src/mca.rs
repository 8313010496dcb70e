//! Machine-check telemetry, `HYPERVISOR_mca` (arch-x86/xen-mca.h).

use crate::xen::{GuestHandle, XenctlBitmap};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `__HYPERVISOR_mca`: machine checks.
pub const HYPERVISOR_MCA: u64 = 48;
/// `XEN_MCA_INTERFACE_VERSION`.
pub const XEN_MCA_INTERFACE_VERSION: u32 = 0x1ec_c003;
/// `XEN_MC_NONURGENT`.
pub const XEN_MC_NONURGENT: u32 = 1;
/// `XEN_MC_URGENT`.
pub const XEN_MC_URGENT: u32 = 2;
/// `XEN_MC_ACK`.
pub const XEN_MC_ACK: u32 = 4;
/// `XEN_MC_OK`.
pub const XEN_MC_OK: u32 = 0;
/// `XEN_MC_FETCHFAILED`.
pub const XEN_MC_FETCHFAILED: u32 = 1;
/// `XEN_MC_NODATA`.
pub const XEN_MC_NODATA: u32 = 2;
/// `XEN_MC_NOMATCH`.
pub const XEN_MC_NOMATCH: u32 = 4;
/// `XEN_MC_CANNOTHANDLE`.
pub const XEN_MC_CANNOTHANDLE: u32 = 8;
/// `XEN_MC_NOTDELIVERED`.
pub const XEN_MC_NOTDELIVERED: u32 = 16;
/// `XEN_MC_VCPUID_INVALID`.
pub const XEN_MC_VCPUID_INVALID: u32 = 0xffff;
/// `VIRQ_MCA`.
pub const VIRQ_MCA: u32 = 16;
/// `MC_TYPE_GLOBAL`.
pub const MC_TYPE_GLOBAL: u32 = 0;
/// `MC_TYPE_BANK`.
pub const MC_TYPE_BANK: u32 = 1;
/// `MC_TYPE_EXTENDED`.
pub const MC_TYPE_EXTENDED: u32 = 2;
/// `MC_TYPE_RECOVERY`.
pub const MC_TYPE_RECOVERY: u32 = 3;
/// `MC_FLAG_CORRECTABLE`.
pub const MC_FLAG_CORRECTABLE: u32 = 1;
/// `MC_FLAG_UNCORRECTABLE`.
pub const MC_FLAG_UNCORRECTABLE: u32 = 2;
/// `MC_FLAG_RECOVERABLE`.
pub const MC_FLAG_RECOVERABLE: u32 = 4;
/// `MC_FLAG_POLLED`.
pub const MC_FLAG_POLLED: u32 = 8;
/// `MC_FLAG_RESET`.
pub const MC_FLAG_RESET: u32 = 16;
/// `MC_FLAG_CMCI`.
pub const MC_FLAG_CMCI: u32 = 32;
/// `MC_FLAG_MCE`.
pub const MC_FLAG_MCE: u32 = 64;
/// `REC_ACTION_RECOVERED`.
pub const REC_ACTION_RECOVERED: u32 = 1;
/// `REC_ACTION_NONE`.
pub const REC_ACTION_NONE: u32 = 2;
/// `REC_ACTION_NEED_RESET`.
pub const REC_ACTION_NEED_RESET: u32 = 4;
/// `MC_ACTION_PAGE_OFFLINE`.
pub const MC_ACTION_PAGE_OFFLINE: u32 = 1;
/// `MC_ACTION_CPU_OFFLINE`.
pub const MC_ACTION_CPU_OFFLINE: u32 = 2;
/// `MC_ACTION_CACHE_SHRINK`.
pub const MC_ACTION_CACHE_SHRINK: u32 = 4;
/// `MCINFO_HYPERCALLSIZE`.
pub const MCINFO_HYPERCALLSIZE: u32 = 1 << 10;
/// `MCINFO_MAXSIZE`.
pub const MCINFO_MAXSIZE: u32 = 0x300;
/// `MCINFO_FLAGS_UNCOMPLETE`.
pub const MCINFO_FLAGS_UNCOMPLETE: u32 = 1;
/// `MC_NCAPS`.
pub const MC_NCAPS: u32 = 7;
/// `MC_CAPS_STD_EDX`.
pub const MC_CAPS_STD_EDX: u32 = 0;
/// `MC_CAPS_AMD_EDX`.
pub const MC_CAPS_AMD_EDX: u32 = 1;
/// `MC_CAPS_TM`.
pub const MC_CAPS_TM: u32 = 2;
/// `MC_CAPS_LINUX`.
pub const MC_CAPS_LINUX: u32 = 3;
/// `MC_CAPS_STD_ECX`.
pub const MC_CAPS_STD_ECX: u32 = 4;
/// `MC_CAPS_VIA`.
pub const MC_CAPS_VIA: u32 = 5;
/// `MC_CAPS_AMD_ECX`.
pub const MC_CAPS_AMD_ECX: u32 = 6;
/// `XEN_MC_fetch`.
pub const XEN_MC_FETCH: u32 = 1;
/// `XEN_MC_notifydomain`.
pub const XEN_MC_NOTIFYDOMAIN: u32 = 2;
/// `XEN_MC_physcpuinfo`.
pub const XEN_MC_PHYSCPUINFO: u32 = 3;
/// `XEN_MC_msrinject`.
pub const XEN_MC_MSRINJECT: u32 = 4;
/// `MC_MSRINJ_MAXMSRS`.
pub const MC_MSRINJ_MAXMSRS: u32 = 8;
/// `MC_MSRINJ_F_INTERPOSE`.
pub const MC_MSRINJ_F_INTERPOSE: u32 = 1;
/// `MC_MSRINJ_F_GPADDR`.
pub const MC_MSRINJ_F_GPADDR: u32 = 2;
/// `XEN_MC_mceinject`.
pub const XEN_MC_MCEINJECT: u32 = 5;
/// `XEN_MC_inject_v2`.
pub const XEN_MC_INJECT_V2: u32 = 6;
/// `XEN_MC_INJECT_TYPE_MASK`.
pub const XEN_MC_INJECT_TYPE_MASK: u32 = 0x7;
/// `XEN_MC_INJECT_TYPE_MCE`.
pub const XEN_MC_INJECT_TYPE_MCE: u32 = 0;
/// `XEN_MC_INJECT_TYPE_CMCI`.
pub const XEN_MC_INJECT_TYPE_CMCI: u32 = 1;
/// `XEN_MC_INJECT_TYPE_LMCE`.
pub const XEN_MC_INJECT_TYPE_LMCE: u32 = 2;
/// `XEN_MC_INJECT_CPU_BROADCAST`.
pub const XEN_MC_INJECT_CPU_BROADCAST: u32 = 8;

/// `struct mcinfo_common`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct McinfoCommon {
    /// The type.
    pub r#type: u16,
    /// Size.
    pub size: u16,
}
const _: () = assert!(size_of::<McinfoCommon>() == 4 && align_of::<McinfoCommon>() == 2);

/// `struct mcinfo_global`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct McinfoGlobal {
    /// `common`.
    pub common: McinfoCommon,
    /// `mc_domid`.
    pub mc_domid: u16,
    /// `mc_vcpuid`.
    pub mc_vcpuid: u16,
    /// `mc_socketid`.
    pub mc_socketid: u32,
    /// `mc_coreid`.
    pub mc_coreid: u16,
    /// `mc_core_threadid`.
    pub mc_core_threadid: u16,
    /// `mc_apicid`.
    pub mc_apicid: u32,
    /// `mc_flags`.
    pub mc_flags: u32,
    /// `mc_gstatus`.
    pub mc_gstatus: u64,
}
const _: () = assert!(size_of::<McinfoGlobal>() == 32 && align_of::<McinfoGlobal>() == 8);

/// `struct mcinfo_bank`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct McinfoBank {
    /// `common`.
    pub common: McinfoCommon,
    /// `mc_bank`.
    pub mc_bank: u16,
    /// `mc_domid`.
    pub mc_domid: u16,
    /// `mc_status`.
    pub mc_status: u64,
    /// `mc_addr`.
    pub mc_addr: u64,
    /// `mc_misc`.
    pub mc_misc: u64,
    /// `mc_ctrl2`.
    pub mc_ctrl2: u64,
    /// `mc_tsc`.
    pub mc_tsc: u64,
}
const _: () = assert!(size_of::<McinfoBank>() == 48 && align_of::<McinfoBank>() == 8);

/// `struct mcinfo_msr`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct McinfoMsr {
    /// `reg`.
    pub reg: u64,
    /// `value`.
    pub value: u64,
}
const _: () = assert!(size_of::<McinfoMsr>() == 16 && align_of::<McinfoMsr>() == 8);

/// `struct mcinfo_extended`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct McinfoExtended {
    /// `common`.
    pub common: McinfoCommon,
    /// `mc_msrs`.
    pub mc_msrs: u32,
    /// `mc_msr`.
    pub mc_msr: [McinfoMsr; 32],
}
const _: () = assert!(size_of::<McinfoExtended>() == 520 && align_of::<McinfoExtended>() == 8);

/// `struct page_offline_action`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PageOfflineAction {
    /// Machine frame.
    pub mfn: u64,
    /// Out: a status.
    pub status: u64,
}
const _: () = assert!(size_of::<PageOfflineAction>() == 16 && align_of::<PageOfflineAction>() == 8);

/// `struct cpu_offline_action`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CpuOfflineAction {
    /// `mc_socketid`.
    pub mc_socketid: u32,
    /// `mc_coreid`.
    pub mc_coreid: u16,
    /// `mc_core_threadid`.
    pub mc_core_threadid: u16,
}
const _: () = assert!(size_of::<CpuOfflineAction>() == 8 && align_of::<CpuOfflineAction>() == 4);

/// `struct mcinfo_recovery`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct McinfoRecovery {
    /// `common`.
    pub common: McinfoCommon,
    /// `mc_bank`.
    pub mc_bank: u16,
    /// `action_flags`.
    pub action_flags: u8,
    /// `action_types`.
    pub action_types: u8,
    /// One of `page_retire` ([`PageOfflineAction`]), `cpu_offline` ([`CpuOfflineAction`]).
    pub action_info: [u64; 2],
}
const _: () = assert!(size_of::<McinfoRecovery>() == 24 && align_of::<McinfoRecovery>() == 8);

/// `struct mc_info`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct McInfo {
    /// `mi_nentries`.
    pub mi_nentries: u32,
    /// Flags.
    pub flags: u32,
    /// `mi_data`.
    pub mi_data: [u64; 95],
}
const _: () = assert!(size_of::<McInfo>() == 768 && align_of::<McInfo>() == 8);

/// `struct mcinfo_logical_cpu`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct McinfoLogicalCpu {
    /// `mc_cpunr`.
    pub mc_cpunr: u32,
    /// `mc_chipid`.
    pub mc_chipid: u32,
    /// `mc_coreid`.
    pub mc_coreid: u16,
    /// `mc_threadid`.
    pub mc_threadid: u16,
    /// `mc_apicid`.
    pub mc_apicid: u32,
    /// `mc_clusterid`.
    pub mc_clusterid: u32,
    /// `mc_ncores`.
    pub mc_ncores: u32,
    /// `mc_ncores_active`.
    pub mc_ncores_active: u32,
    /// `mc_nthreads`.
    pub mc_nthreads: u32,
    /// `mc_cpuid_level`.
    pub mc_cpuid_level: i32,
    /// `mc_family`.
    pub mc_family: u32,
    /// `mc_vendor`.
    pub mc_vendor: u32,
    /// `mc_model`.
    pub mc_model: u32,
    /// `mc_step`.
    pub mc_step: u32,
    /// `mc_vendorid`.
    pub mc_vendorid: [u8; 16],
    /// `mc_brandid`.
    pub mc_brandid: [u8; 64],
    /// `mc_cpu_caps`.
    pub mc_cpu_caps: [u32; 7],
    /// `mc_cache_size`.
    pub mc_cache_size: u32,
    /// `mc_cache_alignment`.
    pub mc_cache_alignment: u32,
    /// `mc_nmsrvals`.
    pub mc_nmsrvals: i32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// `mc_msrvalues`.
    pub mc_msrvalues: [McinfoMsr; 8],
}
const _: () = assert!(size_of::<McinfoLogicalCpu>() == 304 && align_of::<McinfoLogicalCpu>() == 8);

/// `struct xen_mc_fetch`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct McFetch {
    /// Flags.
    pub flags: u32,
    /// `_pad0`.
    pub pad0: u32,
    /// `fetch_id`.
    pub fetch_id: u64,
    /// The data; address of `mc_info_t`.
    pub data: GuestHandle,
}
const _: () = assert!(size_of::<McFetch>() == 24 && align_of::<McFetch>() == 8);

/// `struct xen_mc_notifydomain`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct McNotifydomain {
    /// `mc_domid`.
    pub mc_domid: u16,
    /// `mc_vcpuid`.
    pub mc_vcpuid: u16,
    /// Flags.
    pub flags: u32,
}
const _: () = assert!(size_of::<McNotifydomain>() == 8 && align_of::<McNotifydomain>() == 4);

/// `struct xen_mc_physcpuinfo`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct McPhyscpuinfo {
    /// `ncpus`.
    pub ncpus: u32,
    /// `_pad0`.
    pub pad0: u32,
    /// Address of `xen_mc_logical_cpu_t`.
    pub info: GuestHandle,
}
const _: () = assert!(size_of::<McPhyscpuinfo>() == 16 && align_of::<McPhyscpuinfo>() == 8);

/// `struct xen_mc_msrinject`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct McMsrinject {
    /// `mcinj_cpunr`.
    pub mcinj_cpunr: u32,
    /// `mcinj_flags`.
    pub mcinj_flags: u32,
    /// `mcinj_count`.
    pub mcinj_count: u32,
    /// `mcinj_domid`.
    pub mcinj_domid: u16,
    /// `_pad0`.
    pub pad0: u16,
    /// `mcinj_msr`.
    pub mcinj_msr: [McinfoMsr; 8],
}
const _: () = assert!(size_of::<McMsrinject>() == 144 && align_of::<McMsrinject>() == 8);

/// `struct xen_mc_mceinject`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct McMceinject {
    /// `mceinj_cpunr`.
    pub mceinj_cpunr: u32,
}
const _: () = assert!(size_of::<McMceinject>() == 4 && align_of::<McMceinject>() == 4);

/// `struct xen_mc_inject_v2`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct McInjectV2 {
    /// Flags.
    pub flags: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// `cpumap`.
    pub cpumap: XenctlBitmap,
}
const _: () = assert!(size_of::<McInjectV2>() == 24 && align_of::<McInjectV2>() == 8);

/// Arguments of `HYPERVISOR_mca` (`struct xen_mc`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Mc {
    /// The operation.
    pub cmd: u32,
    /// Must be the interface version that the header gives.
    pub interface_version: u32,
    /// Arguments; one of `mc_fetch` ([`McFetch`]), `mc_notifydomain` ([`McNotifydomain`]), `mc_physcpuinfo` ([`McPhyscpuinfo`]), `mc_msrinject` ([`McMsrinject`]), `mc_mceinject` ([`McMceinject`]), `mc_inject_v2` ([`McInjectV2`]).
    pub u: [u64; 18],
}
const _: () = assert!(size_of::<Mc>() == 152 && align_of::<Mc>() == 8);
