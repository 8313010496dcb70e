//! `HYPERVISOR_sysctl` (sysctl.h).

use crate::xen::{GuestHandle, XenctlBitmap};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XEN_SYSCTL_INTERFACE_VERSION`.
pub const XEN_SYSCTL_INTERFACE_VERSION: u32 = 21;
/// `XEN_SYSCTL_TBUFOP_get_info`.
pub const XEN_SYSCTL_TBUFOP_GET_INFO: u32 = 0;
/// `XEN_SYSCTL_TBUFOP_set_cpu_mask`.
pub const XEN_SYSCTL_TBUFOP_SET_CPU_MASK: u32 = 1;
/// `XEN_SYSCTL_TBUFOP_set_evt_mask`.
pub const XEN_SYSCTL_TBUFOP_SET_EVT_MASK: u32 = 2;
/// `XEN_SYSCTL_TBUFOP_set_size`.
pub const XEN_SYSCTL_TBUFOP_SET_SIZE: u32 = 3;
/// `XEN_SYSCTL_TBUFOP_enable`.
pub const XEN_SYSCTL_TBUFOP_ENABLE: u32 = 4;
/// `XEN_SYSCTL_TBUFOP_disable`.
pub const XEN_SYSCTL_TBUFOP_DISABLE: u32 = 5;
/// `XEN_SYSCTL_PHYSCAP_hvm`.
pub const XEN_SYSCTL_PHYSCAP_HVM: u32 = 1;
/// `XEN_SYSCTL_PHYSCAP_pv`.
pub const XEN_SYSCTL_PHYSCAP_PV: u32 = 2;
/// `XEN_SYSCTL_PHYSCAP_directio`.
pub const XEN_SYSCTL_PHYSCAP_DIRECTIO: u32 = 4;
/// `XEN_SYSCTL_PHYSCAP_hap`.
pub const XEN_SYSCTL_PHYSCAP_HAP: u32 = 8;
/// `XEN_SYSCTL_PHYSCAP_shadow`.
pub const XEN_SYSCTL_PHYSCAP_SHADOW: u32 = 16;
/// `XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share`.
pub const XEN_SYSCTL_PHYSCAP_IOMMU_HAP_PT_SHARE: u32 = 32;
/// `XEN_SYSCTL_PHYSCAP_vmtrace`.
pub const XEN_SYSCTL_PHYSCAP_VMTRACE: u32 = 64;
/// `XEN_SYSCTL_PHYSCAP_vpmu`.
pub const XEN_SYSCTL_PHYSCAP_VPMU: u32 = 128;
/// `XEN_SYSCTL_PHYSCAP_gnttab_v1`.
pub const XEN_SYSCTL_PHYSCAP_GNTTAB_V1: u32 = 1 << 8;
/// `XEN_SYSCTL_PHYSCAP_gnttab_v2`.
pub const XEN_SYSCTL_PHYSCAP_GNTTAB_V2: u32 = 1 << 9;
/// `XEN_SYSCTL_PHYSCAP_MAX`.
pub const XEN_SYSCTL_PHYSCAP_MAX: u32 = 0x200;
/// `XEN_SYSCTL_PERFCOP_reset`.
pub const XEN_SYSCTL_PERFCOP_RESET: u32 = 1;
/// `XEN_SYSCTL_PERFCOP_query`.
pub const XEN_SYSCTL_PERFCOP_QUERY: u32 = 2;
/// `PMSTAT_CATEGORY_MASK`.
pub const PMSTAT_CATEGORY_MASK: u32 = 0xf0;
/// `PMSTAT_PX`.
pub const PMSTAT_PX: u32 = 16;
/// `PMSTAT_CX`.
pub const PMSTAT_CX: u32 = 32;
/// `PMSTAT_get_max_px`.
pub const PMSTAT_GET_MAX_PX: u32 = 17;
/// `PMSTAT_get_pxstat`.
pub const PMSTAT_GET_PXSTAT: u32 = 18;
/// `PMSTAT_reset_pxstat`.
pub const PMSTAT_RESET_PXSTAT: u32 = 19;
/// `PMSTAT_get_max_cx`.
pub const PMSTAT_GET_MAX_CX: u32 = 33;
/// `PMSTAT_get_cxstat`.
pub const PMSTAT_GET_CXSTAT: u32 = 34;
/// `PMSTAT_reset_cxstat`.
pub const PMSTAT_RESET_CXSTAT: u32 = 35;
/// `XEN_SYSCTL_CPU_HOTPLUG_ONLINE`.
pub const XEN_SYSCTL_CPU_HOTPLUG_ONLINE: u32 = 0;
/// `XEN_SYSCTL_CPU_HOTPLUG_OFFLINE`.
pub const XEN_SYSCTL_CPU_HOTPLUG_OFFLINE: u32 = 1;
/// `XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE`.
pub const XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE: u32 = 2;
/// `XEN_SYSCTL_CPU_HOTPLUG_SMT_DISABLE`.
pub const XEN_SYSCTL_CPU_HOTPLUG_SMT_DISABLE: u32 = 3;
/// `CPUFREQ_NAME_LEN`.
pub const CPUFREQ_NAME_LEN: usize = 16;
/// `SCALING_MAX_FREQ`.
pub const SCALING_MAX_FREQ: u32 = 1;
/// `SCALING_MIN_FREQ`.
pub const SCALING_MIN_FREQ: u32 = 2;
/// `SCALING_SETSPEED`.
pub const SCALING_SETSPEED: u32 = 3;
/// `SAMPLING_RATE`.
pub const SAMPLING_RATE: u32 = 4;
/// `UP_THRESHOLD`.
pub const UP_THRESHOLD: u32 = 5;
/// `PM_PARA_CATEGORY_MASK`.
pub const PM_PARA_CATEGORY_MASK: u32 = 0xf0;
/// `CPUFREQ_PARA`.
pub const CPUFREQ_PARA: u32 = 16;
/// `GET_CPUFREQ_PARA`.
pub const GET_CPUFREQ_PARA: u32 = 17;
/// `GET_CPUFREQ_AVGFREQ`.
pub const GET_CPUFREQ_AVGFREQ: u32 = 20;
/// `XEN_SYSCTL_pm_op_set_sched_opt_smt`.
pub const XEN_SYSCTL_PM_OP_SET_SCHED_OPT_SMT: u32 = 33;
/// `XEN_SYSCTL_pm_op_get_max_cstate`.
pub const XEN_SYSCTL_PM_OP_GET_MAX_CSTATE: u32 = 34;
/// `XEN_SYSCTL_pm_op_set_max_cstate`.
pub const XEN_SYSCTL_PM_OP_SET_MAX_CSTATE: u32 = 35;
/// `XEN_SYSCTL_pm_op_set_vcpu_migration_delay`.
pub const XEN_SYSCTL_PM_OP_SET_VCPU_MIGRATION_DELAY: u32 = 36;
/// `XEN_SYSCTL_pm_op_get_vcpu_migration_delay`.
pub const XEN_SYSCTL_PM_OP_GET_VCPU_MIGRATION_DELAY: u32 = 37;
/// `XEN_SYSCTL_pm_op_enable_turbo`.
pub const XEN_SYSCTL_PM_OP_ENABLE_TURBO: u32 = 38;
/// `XEN_SYSCTL_pm_op_disable_turbo`.
pub const XEN_SYSCTL_PM_OP_DISABLE_TURBO: u32 = 39;
/// `XEN_SYSCTL_CX_UNLIMITED`.
pub const XEN_SYSCTL_CX_UNLIMITED: u32 = 0xffff_ffff;
/// `PG_OFFLINE_STATUS_MASK`.
pub const PG_OFFLINE_STATUS_MASK: u64 = 0xff;
/// `PG_OFFLINE_INVALID`.
pub const PG_OFFLINE_INVALID: u64 = 1;
/// `PG_OFFLINE_OFFLINED`.
pub const PG_OFFLINE_OFFLINED: u64 = 2;
/// `PG_OFFLINE_PENDING`.
pub const PG_OFFLINE_PENDING: u64 = 4;
/// `PG_OFFLINE_FAILED`.
pub const PG_OFFLINE_FAILED: u64 = 8;
/// `PG_OFFLINE_AGAIN`.
pub const PG_OFFLINE_AGAIN: u64 = 16;
/// `PG_ONLINE_FAILED`.
pub const PG_ONLINE_FAILED: u64 = 8;
/// `PG_ONLINE_ONLINED`.
pub const PG_ONLINE_ONLINED: u64 = 2;
/// `PG_OFFLINE_STATUS_OFFLINED`.
pub const PG_OFFLINE_STATUS_OFFLINED: u64 = 2;
/// `PG_OFFLINE_STATUS_ONLINE`.
pub const PG_OFFLINE_STATUS_ONLINE: u64 = 4;
/// `PG_OFFLINE_STATUS_OFFLINE_PENDING`.
pub const PG_OFFLINE_STATUS_OFFLINE_PENDING: u64 = 8;
/// `PG_OFFLINE_STATUS_BROKEN`.
pub const PG_OFFLINE_STATUS_BROKEN: u64 = 16;
/// `PG_OFFLINE_MISC_MASK`.
pub const PG_OFFLINE_MISC_MASK: u64 = 0xff0;
/// `PG_OFFLINE_XENPAGE`.
pub const PG_OFFLINE_XENPAGE: u64 = 1 << 8;
/// `PG_OFFLINE_DOM0PAGE`.
pub const PG_OFFLINE_DOM0PAGE: u64 = 1 << 9;
/// `PG_OFFLINE_ANONYMOUS`.
pub const PG_OFFLINE_ANONYMOUS: u64 = 1 << 10;
/// `PG_OFFLINE_NOT_CONV_RAM`.
pub const PG_OFFLINE_NOT_CONV_RAM: u64 = 1 << 11;
/// `PG_OFFLINE_OWNED`.
pub const PG_OFFLINE_OWNED: u64 = 1 << 12;
/// `PG_OFFLINE_BROKEN`.
pub const PG_OFFLINE_BROKEN: u64 = 1 << 13;
/// `PG_ONLINE_BROKEN`.
pub const PG_ONLINE_BROKEN: u64 = 1 << 13;
/// `PG_OFFLINE_OWNER_SHIFT`.
pub const PG_OFFLINE_OWNER_SHIFT: u64 = 16;
/// `XEN_SYSCTL_LOCKPROF_reset`.
pub const XEN_SYSCTL_LOCKPROF_RESET: u32 = 1;
/// `XEN_SYSCTL_LOCKPROF_query`.
pub const XEN_SYSCTL_LOCKPROF_QUERY: u32 = 2;
/// `XEN_INVALID_CORE_ID`.
pub const XEN_INVALID_CORE_ID: u32 = 0xffff_ffff;
/// `XEN_INVALID_SOCKET_ID`.
pub const XEN_INVALID_SOCKET_ID: u32 = 0xffff_ffff;
/// `XEN_INVALID_NODE_ID`.
pub const XEN_INVALID_NODE_ID: u32 = 0xffff_ffff;
/// `XEN_INVALID_MEM_SZ`.
pub const XEN_INVALID_MEM_SZ: u32 = 0xffff_ffff;
/// `XEN_INVALID_NODE_DIST`.
pub const XEN_INVALID_NODE_DIST: u32 = 0xffff_ffff;
/// `XEN_SYSCTL_CPUPOOL_OP_CREATE`.
pub const XEN_SYSCTL_CPUPOOL_OP_CREATE: u32 = 1;
/// `XEN_SYSCTL_CPUPOOL_OP_DESTROY`.
pub const XEN_SYSCTL_CPUPOOL_OP_DESTROY: u32 = 2;
/// `XEN_SYSCTL_CPUPOOL_OP_INFO`.
pub const XEN_SYSCTL_CPUPOOL_OP_INFO: u32 = 3;
/// `XEN_SYSCTL_CPUPOOL_OP_ADDCPU`.
pub const XEN_SYSCTL_CPUPOOL_OP_ADDCPU: u32 = 4;
/// `XEN_SYSCTL_CPUPOOL_OP_RMCPU`.
pub const XEN_SYSCTL_CPUPOOL_OP_RMCPU: u32 = 5;
/// `XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN`.
pub const XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN: u32 = 6;
/// `XEN_SYSCTL_CPUPOOL_OP_FREEINFO`.
pub const XEN_SYSCTL_CPUPOOL_OP_FREEINFO: u32 = 7;
/// `XEN_SYSCTL_CPUPOOL_PAR_ANY`.
pub const XEN_SYSCTL_CPUPOOL_PAR_ANY: u32 = 0xffff_ffff;
/// `XEN_SYSCTL_SCHED_RATELIMIT_MAX`.
pub const XEN_SYSCTL_SCHED_RATELIMIT_MAX: u32 = 0x7_a120;
/// `XEN_SYSCTL_SCHED_RATELIMIT_MIN`.
pub const XEN_SYSCTL_SCHED_RATELIMIT_MIN: u32 = 100;
/// `XEN_SYSCTL_CSCHED_TSLICE_MAX`.
pub const XEN_SYSCTL_CSCHED_TSLICE_MAX: u32 = 0x3e8;
/// `XEN_SYSCTL_CSCHED_TSLICE_MIN`.
pub const XEN_SYSCTL_CSCHED_TSLICE_MIN: u32 = 1;
/// `XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US`.
pub const XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US: u32 = 0x1_86a0;
/// `XEN_SYSCTL_SCHEDOP_putinfo`.
pub const XEN_SYSCTL_SCHEDOP_PUTINFO: u32 = 0;
/// `XEN_SYSCTL_SCHEDOP_getinfo`.
pub const XEN_SYSCTL_SCHEDOP_GETINFO: u32 = 1;
/// `XEN_SYSCTL_COVERAGE_get_size`.
pub const XEN_SYSCTL_COVERAGE_GET_SIZE: u32 = 0;
/// `XEN_SYSCTL_COVERAGE_read`.
pub const XEN_SYSCTL_COVERAGE_READ: u32 = 1;
/// `XEN_SYSCTL_COVERAGE_reset`.
pub const XEN_SYSCTL_COVERAGE_RESET: u32 = 2;
/// `XEN_SYSCTL_PSR_CMT_get_total_rmid`.
pub const XEN_SYSCTL_PSR_CMT_GET_TOTAL_RMID: u32 = 0;
/// `XEN_SYSCTL_PSR_CMT_get_l3_upscaling_factor`.
pub const XEN_SYSCTL_PSR_CMT_GET_L3_UPSCALING_FACTOR: u32 = 1;
/// `XEN_SYSCTL_PSR_CMT_get_l3_cache_size`.
pub const XEN_SYSCTL_PSR_CMT_GET_L3_CACHE_SIZE: u32 = 2;
/// `XEN_SYSCTL_PSR_CMT_enabled`.
pub const XEN_SYSCTL_PSR_CMT_ENABLED: u32 = 3;
/// `XEN_SYSCTL_PSR_CMT_get_l3_event_mask`.
pub const XEN_SYSCTL_PSR_CMT_GET_L3_EVENT_MASK: u32 = 4;
/// `XEN_INVALID_DEV`.
pub const XEN_INVALID_DEV: u32 = 0xffff_fffe;
/// `XEN_SYSCTL_PSR_get_l3_info`.
pub const XEN_SYSCTL_PSR_GET_L3_INFO: u32 = 0;
/// `XEN_SYSCTL_PSR_get_l2_info`.
pub const XEN_SYSCTL_PSR_GET_L2_INFO: u32 = 1;
/// `XEN_SYSCTL_PSR_get_mba_info`.
pub const XEN_SYSCTL_PSR_GET_MBA_INFO: u32 = 2;
/// `XEN_SYSCTL_PSR_CAT_L3_CDP`.
pub const XEN_SYSCTL_PSR_CAT_L3_CDP: u32 = 1;
/// `XEN_SYSCTL_PSR_MBA_LINEAR`.
pub const XEN_SYSCTL_PSR_MBA_LINEAR: u32 = 1;
/// `XEN_SYSCTL_CPU_LEVELCAP_faulting`.
pub const XEN_SYSCTL_CPU_LEVELCAP_FAULTING: u32 = 1;
/// `XEN_SYSCTL_CPU_LEVELCAP_ecx`.
pub const XEN_SYSCTL_CPU_LEVELCAP_ECX: u32 = 2;
/// `XEN_SYSCTL_CPU_LEVELCAP_edx`.
pub const XEN_SYSCTL_CPU_LEVELCAP_EDX: u32 = 4;
/// `XEN_SYSCTL_CPU_LEVELCAP_extd_ecx`.
pub const XEN_SYSCTL_CPU_LEVELCAP_EXTD_ECX: u32 = 8;
/// `XEN_SYSCTL_CPU_LEVELCAP_extd_edx`.
pub const XEN_SYSCTL_CPU_LEVELCAP_EXTD_EDX: u32 = 16;
/// `XEN_SYSCTL_CPU_LEVELCAP_xsave_eax`.
pub const XEN_SYSCTL_CPU_LEVELCAP_XSAVE_EAX: u32 = 32;
/// `XEN_SYSCTL_CPU_LEVELCAP_thermal_ecx`.
pub const XEN_SYSCTL_CPU_LEVELCAP_THERMAL_ECX: u32 = 64;
/// `XEN_SYSCTL_CPU_LEVELCAP_l7s0_eax`.
pub const XEN_SYSCTL_CPU_LEVELCAP_L7S0_EAX: u32 = 128;
/// `XEN_SYSCTL_CPU_LEVELCAP_l7s0_ebx`.
pub const XEN_SYSCTL_CPU_LEVELCAP_L7S0_EBX: u32 = 1 << 8;
/// `XEN_SYSCTL_cpu_featureset_raw`.
pub const XEN_SYSCTL_CPU_FEATURESET_RAW: u32 = 0;
/// `XEN_SYSCTL_cpu_featureset_host`.
pub const XEN_SYSCTL_CPU_FEATURESET_HOST: u32 = 1;
/// `XEN_SYSCTL_cpu_featureset_pv`.
pub const XEN_SYSCTL_CPU_FEATURESET_PV: u32 = 2;
/// `XEN_SYSCTL_cpu_featureset_hvm`.
pub const XEN_SYSCTL_CPU_FEATURESET_HVM: u32 = 3;
/// `XEN_SYSCTL_cpu_featureset_pv_max`.
pub const XEN_SYSCTL_CPU_FEATURESET_PV_MAX: u32 = 4;
/// `XEN_SYSCTL_cpu_featureset_hvm_max`.
pub const XEN_SYSCTL_CPU_FEATURESET_HVM_MAX: u32 = 5;
/// `XEN_SYSCTL_LIVEPATCH_UPLOAD`.
pub const XEN_SYSCTL_LIVEPATCH_UPLOAD: u32 = 0;
/// `XEN_SYSCTL_LIVEPATCH_GET`.
pub const XEN_SYSCTL_LIVEPATCH_GET: u32 = 1;
/// `XEN_SYSCTL_LIVEPATCH_LIST`.
pub const XEN_SYSCTL_LIVEPATCH_LIST: u32 = 2;
/// `XEN_SYSCTL_LIVEPATCH_ACTION`.
pub const XEN_SYSCTL_LIVEPATCH_ACTION: u32 = 3;
/// `XEN_SYSCTL_cpu_policy_raw`.
pub const XEN_SYSCTL_CPU_POLICY_RAW: u32 = 0;
/// `XEN_SYSCTL_cpu_policy_host`.
pub const XEN_SYSCTL_CPU_POLICY_HOST: u32 = 1;
/// `XEN_SYSCTL_cpu_policy_pv_max`.
pub const XEN_SYSCTL_CPU_POLICY_PV_MAX: u32 = 2;
/// `XEN_SYSCTL_cpu_policy_hvm_max`.
pub const XEN_SYSCTL_CPU_POLICY_HVM_MAX: u32 = 3;
/// `XEN_SYSCTL_cpu_policy_pv_default`.
pub const XEN_SYSCTL_CPU_POLICY_PV_DEFAULT: u32 = 4;
/// `XEN_SYSCTL_cpu_policy_hvm_default`.
pub const XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT: u32 = 5;
/// `XEN_SYSCTL_readconsole`.
pub const XEN_SYSCTL_READCONSOLE: u32 = 1;
/// `XEN_SYSCTL_tbuf_op`.
pub const XEN_SYSCTL_TBUF_OP: u32 = 2;
/// `XEN_SYSCTL_physinfo`.
pub const XEN_SYSCTL_PHYSINFO: u32 = 3;
/// `XEN_SYSCTL_sched_id`.
pub const XEN_SYSCTL_SCHED_ID: u32 = 4;
/// `XEN_SYSCTL_perfc_op`.
pub const XEN_SYSCTL_PERFC_OP: u32 = 5;
/// `XEN_SYSCTL_getdomaininfolist`.
pub const XEN_SYSCTL_GETDOMAININFOLIST: u32 = 6;
/// `XEN_SYSCTL_debug_keys`.
pub const XEN_SYSCTL_DEBUG_KEYS: u32 = 7;
/// `XEN_SYSCTL_getcpuinfo`.
pub const XEN_SYSCTL_GETCPUINFO: u32 = 8;
/// `XEN_SYSCTL_availheap`.
pub const XEN_SYSCTL_AVAILHEAP: u32 = 9;
/// `XEN_SYSCTL_get_pmstat`.
pub const XEN_SYSCTL_GET_PMSTAT: u32 = 10;
/// `XEN_SYSCTL_cpu_hotplug`.
pub const XEN_SYSCTL_CPU_HOTPLUG: u32 = 11;
/// `XEN_SYSCTL_pm_op`.
pub const XEN_SYSCTL_PM_OP: u32 = 12;
/// `XEN_SYSCTL_page_offline_op`.
pub const XEN_SYSCTL_PAGE_OFFLINE_OP: u32 = 14;
/// `XEN_SYSCTL_lockprof_op`.
pub const XEN_SYSCTL_LOCKPROF_OP: u32 = 15;
/// `XEN_SYSCTL_cputopoinfo`.
pub const XEN_SYSCTL_CPUTOPOINFO: u32 = 16;
/// `XEN_SYSCTL_numainfo`.
pub const XEN_SYSCTL_NUMAINFO: u32 = 17;
/// `XEN_SYSCTL_cpupool_op`.
pub const XEN_SYSCTL_CPUPOOL_OP: u32 = 18;
/// `XEN_SYSCTL_scheduler_op`.
pub const XEN_SYSCTL_SCHEDULER_OP: u32 = 19;
/// `XEN_SYSCTL_coverage_op`.
pub const XEN_SYSCTL_COVERAGE_OP: u32 = 20;
/// `XEN_SYSCTL_psr_cmt_op`.
pub const XEN_SYSCTL_PSR_CMT_OP: u32 = 21;
/// `XEN_SYSCTL_pcitopoinfo`.
pub const XEN_SYSCTL_PCITOPOINFO: u32 = 22;
/// `XEN_SYSCTL_psr_alloc`.
pub const XEN_SYSCTL_PSR_ALLOC: u32 = 23;
/// `XEN_SYSCTL_get_cpu_levelling_caps`.
pub const XEN_SYSCTL_GET_CPU_LEVELLING_CAPS: u32 = 25;
/// `XEN_SYSCTL_get_cpu_featureset`.
pub const XEN_SYSCTL_GET_CPU_FEATURESET: u32 = 26;
/// `XEN_SYSCTL_livepatch_op`.
pub const XEN_SYSCTL_LIVEPATCH_OP: u32 = 27;
/// `XEN_SYSCTL_get_cpu_policy`.
pub const XEN_SYSCTL_GET_CPU_POLICY: u32 = 29;

/// Arguments of `XEN_SYSCTL_readconsole` (`struct xen_sysctl_readconsole`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlReadconsole {
    /// `clear`.
    pub clear: u8,
    /// `incremental`.
    pub incremental: u8,
    /// `pad0`.
    pub pad0: u8,
    /// `pad1`.
    pub pad1: u8,
    /// `index`.
    pub index: u32,
    /// The buffer; address of `char`.
    pub buffer: GuestHandle,
    /// `count`.
    pub count: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () = assert!(size_of::<SysctlReadconsole>() == 24 && align_of::<SysctlReadconsole>() == 8);

/// Answer of `XEN_SYSCTL_physinfo` (`struct xen_sysctl_physinfo`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlPhysinfo {
    /// `threads_per_core`.
    pub threads_per_core: u32,
    /// `cores_per_socket`.
    pub cores_per_socket: u32,
    /// `nr_cpus`.
    pub nr_cpus: u32,
    /// `max_cpu_id`.
    pub max_cpu_id: u32,
    /// `nr_nodes`.
    pub nr_nodes: u32,
    /// `max_node_id`.
    pub max_node_id: u32,
    /// `cpu_khz`.
    pub cpu_khz: u32,
    /// `capabilities`.
    pub capabilities: u32,
    /// `arch_capabilities`.
    pub arch_capabilities: u32,
    /// Must be 0.
    pub pad: u32,
    /// `total_pages`.
    pub total_pages: u64,
    /// `free_pages`.
    pub free_pages: u64,
    /// `scrub_pages`.
    pub scrub_pages: u64,
    /// `outstanding_pages`.
    pub outstanding_pages: u64,
    /// Highest entry.
    pub max_mfn: u64,
    /// `hw_cap`.
    pub hw_cap: [u32; 8],
}
const _: () = assert!(size_of::<SysctlPhysinfo>() == 112 && align_of::<SysctlPhysinfo>() == 8);

/// Arguments or answer of `XEN_SYSCTL_sched_id` (`struct xen_sysctl_sched_id`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlSchedId {
    /// `sched_id`.
    pub sched_id: u32,
}
const _: () = assert!(size_of::<SysctlSchedId>() == 4 && align_of::<SysctlSchedId>() == 4);

/// Arguments of `XEN_SYSCTL_getdomaininfolist` (`struct xen_sysctl_getdomaininfolist`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlGetdomaininfolist {
    /// `first_domain`.
    pub first_domain: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// `max_domains`.
    pub max_domains: u32,
    /// The buffer; address of `xen_domctl_getdomaininfo_t`.
    pub buffer: GuestHandle,
    /// `num_domains`.
    pub num_domains: u32,
    #[doc(hidden)]
    pub _pad1: [u8; 4],
}
const _: () = assert!(
    size_of::<SysctlGetdomaininfolist>() == 24 && align_of::<SysctlGetdomaininfolist>() == 8
);

/// Arguments or answer of `XEN_SYSCTL_debug_keys` (`struct xen_sysctl_debug_keys`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlDebugKeys {
    /// Address of `const_char`.
    pub keys: GuestHandle,
    /// `nr_keys`.
    pub nr_keys: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () = assert!(size_of::<SysctlDebugKeys>() == 16 && align_of::<SysctlDebugKeys>() == 8);

/// Arguments or answer of `XEN_SYSCTL_cpuinfo` (`struct xen_sysctl_cpuinfo`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlCpuinfo {
    /// `idletime`.
    pub idletime: u64,
}
const _: () = assert!(size_of::<SysctlCpuinfo>() == 8 && align_of::<SysctlCpuinfo>() == 8);

/// Arguments or answer of `XEN_SYSCTL_getcpuinfo` (`struct xen_sysctl_getcpuinfo`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlGetcpuinfo {
    /// `max_cpus`.
    pub max_cpus: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Address of `xen_sysctl_cpuinfo_t`.
    pub info: GuestHandle,
    /// `nr_cpus`.
    pub nr_cpus: u32,
    #[doc(hidden)]
    pub _pad1: [u8; 4],
}
const _: () = assert!(size_of::<SysctlGetcpuinfo>() == 24 && align_of::<SysctlGetcpuinfo>() == 8);

/// Arguments or answer of `XEN_SYSCTL_availheap` (`struct xen_sysctl_availheap`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlAvailheap {
    /// `min_bitwidth`.
    pub min_bitwidth: u32,
    /// `max_bitwidth`.
    pub max_bitwidth: u32,
    /// `node`.
    pub node: i32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// `avail_bytes`.
    pub avail_bytes: u64,
}
const _: () = assert!(size_of::<SysctlAvailheap>() == 24 && align_of::<SysctlAvailheap>() == 8);

/// `struct pm_px_val`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PmPxVal {
    /// `freq`.
    pub freq: u64,
    /// `residency`.
    pub residency: u64,
    /// `count`.
    pub count: u64,
}
const _: () = assert!(size_of::<PmPxVal>() == 24 && align_of::<PmPxVal>() == 8);

/// `struct pm_px_stat`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PmPxStat {
    /// `total`.
    pub total: u8,
    /// `usable`.
    pub usable: u8,
    /// `last`.
    pub last: u8,
    /// `cur`.
    pub cur: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Address of `uint64`.
    pub trans_pt: GuestHandle,
    /// Address of `pm_px_val_t`.
    pub pt: GuestHandle,
}
const _: () = assert!(size_of::<PmPxStat>() == 24 && align_of::<PmPxStat>() == 8);

/// `struct pm_cx_stat`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PmCxStat {
    /// `nr`.
    pub nr: u32,
    /// `last`.
    pub last: u32,
    /// `idle_time`.
    pub idle_time: u64,
    /// Address of `uint64`.
    pub triggers: GuestHandle,
    /// Address of `uint64`.
    pub residencies: GuestHandle,
    /// `nr_pc`.
    pub nr_pc: u32,
    /// `nr_cc`.
    pub nr_cc: u32,
    /// Address of `uint64`.
    pub pc: GuestHandle,
    /// Address of `uint64`.
    pub cc: GuestHandle,
}
const _: () = assert!(size_of::<PmCxStat>() == 56 && align_of::<PmCxStat>() == 8);

/// Arguments or answer of `XEN_SYSCTL_get_pmstat` (`struct xen_sysctl_get_pmstat`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlGetPmstat {
    /// The type.
    pub r#type: u32,
    /// `cpuid`.
    pub cpuid: u32,
    /// Arguments; one of `getpx` ([`PmPxStat`]), `getcx` ([`PmCxStat`]).
    pub u: [u64; 7],
}
const _: () = assert!(size_of::<SysctlGetPmstat>() == 64 && align_of::<SysctlGetPmstat>() == 8);

/// Arguments or answer of `XEN_SYSCTL_cpu_hotplug` (`struct xen_sysctl_cpu_hotplug`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlCpuHotplug {
    /// `cpu`.
    pub cpu: u32,
    /// The operation.
    pub op: u32,
}
const _: () = assert!(size_of::<SysctlCpuHotplug>() == 8 && align_of::<SysctlCpuHotplug>() == 4);

/// `struct xen_userspace`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Userspace {
    /// `scaling_setspeed`.
    pub scaling_setspeed: u32,
}
const _: () = assert!(size_of::<Userspace>() == 4 && align_of::<Userspace>() == 4);

/// `struct xen_ondemand`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ondemand {
    /// `sampling_rate_max`.
    pub sampling_rate_max: u32,
    /// `sampling_rate_min`.
    pub sampling_rate_min: u32,
    /// `sampling_rate`.
    pub sampling_rate: u32,
    /// `up_threshold`.
    pub up_threshold: u32,
}
const _: () = assert!(size_of::<Ondemand>() == 16 && align_of::<Ondemand>() == 4);

/// `struct xen_get_cpufreq_para`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GetCpufreqPara {
    /// `cpu_num`.
    pub cpu_num: u32,
    /// `freq_num`.
    pub freq_num: u32,
    /// `gov_num`.
    pub gov_num: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Address of `uint32`.
    pub affected_cpus: GuestHandle,
    /// Address of `uint32`.
    pub scaling_available_frequencies: GuestHandle,
    /// Address of `char`.
    pub scaling_available_governors: GuestHandle,
    /// `scaling_driver`.
    pub scaling_driver: [u8; 16],
    /// `cpuinfo_cur_freq`.
    pub cpuinfo_cur_freq: u32,
    /// `cpuinfo_max_freq`.
    pub cpuinfo_max_freq: u32,
    /// `cpuinfo_min_freq`.
    pub cpuinfo_min_freq: u32,
    /// `scaling_cur_freq`.
    pub scaling_cur_freq: u32,
    /// `scaling_governor`.
    pub scaling_governor: [u8; 16],
    /// `scaling_max_freq`.
    pub scaling_max_freq: u32,
    /// `scaling_min_freq`.
    pub scaling_min_freq: u32,
    /// Arguments; one of `userspace` ([`Userspace`]), `ondemand` ([`Ondemand`]).
    pub u: [u32; 4],
    /// `turbo_enabled`.
    pub turbo_enabled: i32,
    #[doc(hidden)]
    pub _pad1: [u8; 4],
}
const _: () = assert!(size_of::<GetCpufreqPara>() == 120 && align_of::<GetCpufreqPara>() == 8);

/// `struct xen_set_cpufreq_gov`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SetCpufreqGov {
    /// `scaling_governor`.
    pub scaling_governor: [u8; 16],
}
const _: () = assert!(size_of::<SetCpufreqGov>() == 16 && align_of::<SetCpufreqGov>() == 1);

/// `struct xen_set_cpufreq_para`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SetCpufreqPara {
    /// `ctrl_type`.
    pub ctrl_type: u32,
    /// `ctrl_value`.
    pub ctrl_value: u32,
}
const _: () = assert!(size_of::<SetCpufreqPara>() == 8 && align_of::<SetCpufreqPara>() == 4);

/// Arguments or answer of `XEN_SYSCTL_pm_op` (`struct xen_sysctl_pm_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlPmOp {
    /// The operation.
    pub cmd: u32,
    /// `cpuid`.
    pub cpuid: u32,
    /// Arguments; one of `get_para` ([`GetCpufreqPara`]), `set_gov` ([`SetCpufreqGov`]), `set_para` ([`SetCpufreqPara`]), `get_avgfreq` (u64), `set_sched_opt_smt` (u32), `get_max_cstate` (u32), `set_max_cstate` (u32).
    pub u: [u64; 15],
}
const _: () = assert!(size_of::<SysctlPmOp>() == 128 && align_of::<SysctlPmOp>() == 8);

/// Arguments or answer of `XEN_SYSCTL_page_offline_op` (`struct xen_sysctl_page_offline_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlPageOfflineOp {
    /// The operation.
    pub cmd: u32,
    /// `start`.
    pub start: u32,
    /// `end`.
    pub end: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Out: a status; address of `uint32`.
    pub status: GuestHandle,
}
const _: () =
    assert!(size_of::<SysctlPageOfflineOp>() == 24 && align_of::<SysctlPageOfflineOp>() == 8);

/// Arguments or answer of `XEN_SYSCTL_cputopo` (`struct xen_sysctl_cputopo`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlCputopo {
    /// `core`.
    pub core: u32,
    /// `socket`.
    pub socket: u32,
    /// `node`.
    pub node: u32,
}
const _: () = assert!(size_of::<SysctlCputopo>() == 12 && align_of::<SysctlCputopo>() == 4);

/// Arguments of `XEN_SYSCTL_cputopoinfo` (`struct xen_sysctl_cputopoinfo`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlCputopoinfo {
    /// `num_cpus`.
    pub num_cpus: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Address of `xen_sysctl_cputopo_t`.
    pub cputopo: GuestHandle,
}
const _: () = assert!(size_of::<SysctlCputopoinfo>() == 16 && align_of::<SysctlCputopoinfo>() == 8);

/// Arguments or answer of `XEN_SYSCTL_meminfo` (`struct xen_sysctl_meminfo`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlMeminfo {
    /// `memsize`.
    pub memsize: u64,
    /// `memfree`.
    pub memfree: u64,
}
const _: () = assert!(size_of::<SysctlMeminfo>() == 16 && align_of::<SysctlMeminfo>() == 8);

/// Arguments of `XEN_SYSCTL_numainfo` (`struct xen_sysctl_numainfo`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlNumainfo {
    /// `num_nodes`.
    pub num_nodes: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Address of `xen_sysctl_meminfo_t`.
    pub meminfo: GuestHandle,
    /// Address of `uint32`.
    pub distance: GuestHandle,
}
const _: () = assert!(size_of::<SysctlNumainfo>() == 24 && align_of::<SysctlNumainfo>() == 8);

/// Arguments of `XEN_SYSCTL_cpupool_op` (`struct xen_sysctl_cpupool_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlCpupoolOp {
    /// The operation.
    pub op: u32,
    /// `cpupool_id`.
    pub cpupool_id: u32,
    /// `sched_id`.
    pub sched_id: u32,
    /// The domain, or `DOMID_SELF`.
    pub domid: u32,
    /// `cpu`.
    pub cpu: u32,
    /// `n_dom`.
    pub n_dom: u32,
    /// `cpumap`.
    pub cpumap: XenctlBitmap,
}
const _: () = assert!(size_of::<SysctlCpupoolOp>() == 40 && align_of::<SysctlCpupoolOp>() == 8);

/// Arguments or answer of `XEN_SYSCTL_credit_schedule` (`struct xen_sysctl_credit_schedule`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlCreditSchedule {
    /// `tslice_ms`.
    pub tslice_ms: u32,
    /// `ratelimit_us`.
    pub ratelimit_us: u32,
    /// `vcpu_migr_delay_us`.
    pub vcpu_migr_delay_us: u32,
}
const _: () =
    assert!(size_of::<SysctlCreditSchedule>() == 12 && align_of::<SysctlCreditSchedule>() == 4);

/// Arguments or answer of `XEN_SYSCTL_credit2_schedule` (`struct xen_sysctl_credit2_schedule`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlCredit2Schedule {
    /// `ratelimit_us`.
    pub ratelimit_us: u32,
}
const _: () =
    assert!(size_of::<SysctlCredit2Schedule>() == 4 && align_of::<SysctlCredit2Schedule>() == 4);

/// Arguments or answer of `XEN_SYSCTL_scheduler_op` (`struct xen_sysctl_scheduler_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlSchedulerOp {
    /// `cpupool_id`.
    pub cpupool_id: u32,
    /// `sched_id`.
    pub sched_id: u32,
    /// The operation.
    pub cmd: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Arguments; one of `sched_arinc653`, `sched_credit` ([`SysctlCreditSchedule`]), `sched_credit2` ([`SysctlCredit2Schedule`]).
    pub u: [u64; 2],
}
const _: () = assert!(size_of::<SysctlSchedulerOp>() == 32 && align_of::<SysctlSchedulerOp>() == 8);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlPsrCmtOpUL3Cache {
    /// `cpu`.
    pub cpu: u32,
    /// Reserved.
    pub rsvd: u32,
}
const _: () =
    assert!(size_of::<SysctlPsrCmtOpUL3Cache>() == 8 && align_of::<SysctlPsrCmtOpUL3Cache>() == 4);

/// Arguments or answer of `XEN_SYSCTL_psr_cmt_op` (`struct xen_sysctl_psr_cmt_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlPsrCmtOp {
    /// The operation.
    pub cmd: u32,
    /// Flags.
    pub flags: u32,
    /// Arguments; one of `data` (u64), `l3_cache` ([`SysctlPsrCmtOpUL3Cache`]).
    pub u: [u64; 1],
}
const _: () = assert!(size_of::<SysctlPsrCmtOp>() == 16 && align_of::<SysctlPsrCmtOp>() == 8);

/// Arguments or answer of `XEN_SYSCTL_pcitopoinfo` (`struct xen_sysctl_pcitopoinfo`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlPcitopoinfo {
    /// `num_devs`.
    pub num_devs: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Address of `physdev_pci_device_t`.
    pub devs: GuestHandle,
    /// Address of `uint32`.
    pub nodes: GuestHandle,
}
const _: () = assert!(size_of::<SysctlPcitopoinfo>() == 24 && align_of::<SysctlPcitopoinfo>() == 8);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlPsrAllocUCatInfo {
    /// `cbm_len`.
    pub cbm_len: u32,
    /// `cos_max`.
    pub cos_max: u32,
    /// Flags.
    pub flags: u32,
}
const _: () =
    assert!(size_of::<SysctlPsrAllocUCatInfo>() == 12 && align_of::<SysctlPsrAllocUCatInfo>() == 4);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlPsrAllocUMbaInfo {
    /// `thrtl_max`.
    pub thrtl_max: u32,
    /// `cos_max`.
    pub cos_max: u32,
    /// Flags.
    pub flags: u32,
}
const _: () =
    assert!(size_of::<SysctlPsrAllocUMbaInfo>() == 12 && align_of::<SysctlPsrAllocUMbaInfo>() == 4);

/// Arguments or answer of `XEN_SYSCTL_psr_alloc` (`struct xen_sysctl_psr_alloc`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlPsrAlloc {
    /// The operation.
    pub cmd: u32,
    /// `target`.
    pub target: u32,
    /// Arguments; one of `cat_info` ([`SysctlPsrAllocUCatInfo`]), `mba_info` ([`SysctlPsrAllocUMbaInfo`]).
    pub u: [u32; 3],
}
const _: () = assert!(size_of::<SysctlPsrAlloc>() == 20 && align_of::<SysctlPsrAlloc>() == 4);

/// Arguments or answer of `XEN_SYSCTL_cpu_levelling_caps` (`struct xen_sysctl_cpu_levelling_caps`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlCpuLevellingCaps {
    /// `caps`.
    pub caps: u32,
}
const _: () =
    assert!(size_of::<SysctlCpuLevellingCaps>() == 4 && align_of::<SysctlCpuLevellingCaps>() == 4);

/// Arguments or answer of `XEN_SYSCTL_cpu_featureset` (`struct xen_sysctl_cpu_featureset`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlCpuFeatureset {
    /// `index`.
    pub index: u32,
    /// `nr_features`.
    pub nr_features: u32,
    /// Address of `uint32`.
    pub features: GuestHandle,
}
const _: () =
    assert!(size_of::<SysctlCpuFeatureset>() == 16 && align_of::<SysctlCpuFeatureset>() == 8);

/// Arguments or answer of `XEN_SYSCTL_cpu_policy` (`struct xen_sysctl_cpu_policy`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SysctlCpuPolicy {
    /// `index`.
    pub index: u32,
    /// `nr_leaves`.
    pub nr_leaves: u32,
    /// `nr_msrs`.
    pub nr_msrs: u32,
    /// `_rsvd`.
    pub rsvd: u32,
    /// Address of `xen_cpuid_leaf_t`.
    pub leaves: GuestHandle,
    /// Address of `xen_msr_entry_t`.
    pub msrs: GuestHandle,
}
const _: () = assert!(size_of::<SysctlCpuPolicy>() == 32 && align_of::<SysctlCpuPolicy>() == 8);

/// A control operation on the machine (`struct xen_sysctl`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Sysctl {
    /// The operation.
    pub cmd: u32,
    /// Must be the interface version that the header gives.
    pub interface_version: u32,
    /// Arguments; one of `readconsole` ([`SysctlReadconsole`]), `tbuf_op`, `physinfo` ([`SysctlPhysinfo`]), `cputopoinfo` ([`SysctlCputopoinfo`]), `pcitopoinfo` ([`SysctlPcitopoinfo`]), `numainfo` ([`SysctlNumainfo`]), `sched_id` ([`SysctlSchedId`]), `perfc_op`, `getdomaininfolist` ([`SysctlGetdomaininfolist`]), `debug_keys` ([`SysctlDebugKeys`]), `getcpuinfo` ([`SysctlGetcpuinfo`]), `availheap` ([`SysctlAvailheap`]), `get_pmstat` ([`SysctlGetPmstat`]), `cpu_hotplug` ([`SysctlCpuHotplug`]), `pm_op` ([`SysctlPmOp`]), `page_offline` ([`SysctlPageOfflineOp`]), `lockprof_op`, `cpupool_op` ([`SysctlCpupoolOp`]), `scheduler_op` ([`SysctlSchedulerOp`]), `coverage_op`, `psr_cmt_op` ([`SysctlPsrCmtOp`]), `psr_alloc` ([`SysctlPsrAlloc`]), `cpu_levelling_caps` ([`SysctlCpuLevellingCaps`]), `cpu_featureset` ([`SysctlCpuFeatureset`]), `livepatch`, `cpu_policy` ([`SysctlCpuPolicy`]).
    pub u: [u64; 16],
}
const _: () = assert!(size_of::<Sysctl>() == 136 && align_of::<Sysctl>() == 8);
