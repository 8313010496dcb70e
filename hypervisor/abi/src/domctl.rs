//! `HYPERVISOR_domctl` (domctl.h).

use crate::arch_x86::ArchDomainconfig;
use crate::xen::{GuestHandle, XenctlBitmap};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XEN_DOMCTL_INTERFACE_VERSION`.
pub const XEN_DOMCTL_INTERFACE_VERSION: u32 = 21;
/// `XEN_DOMCTL_CDF_hvm`.
pub const XEN_DOMCTL_CDF_HVM: u32 = 1;
/// `XEN_DOMCTL_CDF_hap`.
pub const XEN_DOMCTL_CDF_HAP: u32 = 2;
/// `XEN_DOMCTL_CDF_s3_integrity`.
pub const XEN_DOMCTL_CDF_S3_INTEGRITY: u32 = 4;
/// `XEN_DOMCTL_CDF_oos_off`.
pub const XEN_DOMCTL_CDF_OOS_OFF: u32 = 8;
/// `XEN_DOMCTL_CDF_xs_domain`.
pub const XEN_DOMCTL_CDF_XS_DOMAIN: u32 = 16;
/// `XEN_DOMCTL_CDF_iommu`.
pub const XEN_DOMCTL_CDF_IOMMU: u32 = 32;
/// `XEN_DOMCTL_CDF_nested_virt`.
pub const XEN_DOMCTL_CDF_NESTED_VIRT: u32 = 64;
/// `XEN_DOMCTL_CDF_vpmu`.
pub const XEN_DOMCTL_CDF_VPMU: u32 = 128;
/// `XEN_DOMCTL_CDF_MAX`.
pub const XEN_DOMCTL_CDF_MAX: u32 = 128;
/// `XEN_DOMCTL_IOMMU_no_sharept`.
pub const XEN_DOMCTL_IOMMU_NO_SHAREPT: u32 = 1;
/// `XEN_DOMCTL_IOMMU_MAX`.
pub const XEN_DOMCTL_IOMMU_MAX: u32 = 1;
/// `XEN_DOMCTL_GRANT_version_mask`.
pub const XEN_DOMCTL_GRANT_VERSION_MASK: u32 = 15;
/// `XEN_DOMINF_dying`.
pub const XEN_DOMINF_DYING: u32 = 1;
/// `XEN_DOMINF_hvm_guest`.
pub const XEN_DOMINF_HVM_GUEST: u32 = 2;
/// `XEN_DOMINF_shutdown`.
pub const XEN_DOMINF_SHUTDOWN: u32 = 4;
/// `XEN_DOMINF_paused`.
pub const XEN_DOMINF_PAUSED: u32 = 8;
/// `XEN_DOMINF_blocked`.
pub const XEN_DOMINF_BLOCKED: u32 = 16;
/// `XEN_DOMINF_running`.
pub const XEN_DOMINF_RUNNING: u32 = 32;
/// `XEN_DOMINF_debugged`.
pub const XEN_DOMINF_DEBUGGED: u32 = 64;
/// `XEN_DOMINF_xs_domain`.
pub const XEN_DOMINF_XS_DOMAIN: u32 = 128;
/// `XEN_DOMINF_hap`.
pub const XEN_DOMINF_HAP: u32 = 1 << 8;
/// `XEN_DOMINF_shutdownmask`.
pub const XEN_DOMINF_SHUTDOWNMASK: u32 = 255;
/// `XEN_DOMINF_shutdownshift`.
pub const XEN_DOMINF_SHUTDOWNSHIFT: u32 = 16;
/// `XEN_INVALID_MAX_VCPU_ID`.
pub const XEN_INVALID_MAX_VCPU_ID: u32 = 0xffff_ffff;
/// `XEN_DOMCTL_PFINFO_LTAB_SHIFT`.
pub const XEN_DOMCTL_PFINFO_LTAB_SHIFT: u32 = 28;
/// `XEN_DOMCTL_PFINFO_NOTAB`.
pub const XEN_DOMCTL_PFINFO_NOTAB: u32 = 0;
/// `XEN_DOMCTL_PFINFO_L1TAB`.
pub const XEN_DOMCTL_PFINFO_L1TAB: u32 = 1 << 28;
/// `XEN_DOMCTL_PFINFO_L2TAB`.
pub const XEN_DOMCTL_PFINFO_L2TAB: u32 = 1 << 29;
/// `XEN_DOMCTL_PFINFO_L3TAB`.
pub const XEN_DOMCTL_PFINFO_L3TAB: u32 = 0x3000_0000;
/// `XEN_DOMCTL_PFINFO_L4TAB`.
pub const XEN_DOMCTL_PFINFO_L4TAB: u32 = 1 << 30;
/// `XEN_DOMCTL_PFINFO_LTABTYPE_MASK`.
pub const XEN_DOMCTL_PFINFO_LTABTYPE_MASK: u32 = 0x7000_0000;
/// `XEN_DOMCTL_PFINFO_LPINTAB`.
pub const XEN_DOMCTL_PFINFO_LPINTAB: u32 = 1 << 31;
/// `XEN_DOMCTL_PFINFO_XTAB`.
pub const XEN_DOMCTL_PFINFO_XTAB: u32 = 0xf000_0000;
/// `XEN_DOMCTL_PFINFO_XALLOC`.
pub const XEN_DOMCTL_PFINFO_XALLOC: u32 = 0xe000_0000;
/// `XEN_DOMCTL_PFINFO_BROKEN`.
pub const XEN_DOMCTL_PFINFO_BROKEN: u32 = 0xd000_0000;
/// `XEN_DOMCTL_PFINFO_LTAB_MASK`.
pub const XEN_DOMCTL_PFINFO_LTAB_MASK: u32 = 0xf000_0000;
/// `XEN_DOMCTL_SHADOW_OP_OFF`.
pub const XEN_DOMCTL_SHADOW_OP_OFF: u32 = 0;
/// `XEN_DOMCTL_SHADOW_OP_ENABLE`.
pub const XEN_DOMCTL_SHADOW_OP_ENABLE: u32 = 32;
/// `XEN_DOMCTL_SHADOW_OP_CLEAN`.
pub const XEN_DOMCTL_SHADOW_OP_CLEAN: u32 = 11;
/// `XEN_DOMCTL_SHADOW_OP_PEEK`.
pub const XEN_DOMCTL_SHADOW_OP_PEEK: u32 = 12;
/// `XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION`.
pub const XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION: u32 = 30;
/// `XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION`.
pub const XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION: u32 = 31;
/// `XEN_DOMCTL_SHADOW_OP_ENABLE_TEST`.
pub const XEN_DOMCTL_SHADOW_OP_ENABLE_TEST: u32 = 1;
/// `XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY`.
pub const XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY: u32 = 2;
/// `XEN_DOMCTL_SHADOW_ENABLE_REFCOUNT`.
pub const XEN_DOMCTL_SHADOW_ENABLE_REFCOUNT: u32 = 2;
/// `XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY`.
pub const XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY: u32 = 4;
/// `XEN_DOMCTL_SHADOW_ENABLE_TRANSLATE`.
pub const XEN_DOMCTL_SHADOW_ENABLE_TRANSLATE: u32 = 8;
/// `XEN_DOMCTL_SHADOW_ENABLE_EXTERNAL`.
pub const XEN_DOMCTL_SHADOW_ENABLE_EXTERNAL: u32 = 16;
/// `XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL`.
pub const XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL: u32 = 1;
/// `XEN_VCPUAFFINITY_HARD`.
pub const XEN_VCPUAFFINITY_HARD: u32 = 1;
/// `XEN_VCPUAFFINITY_SOFT`.
pub const XEN_VCPUAFFINITY_SOFT: u32 = 2;
/// `XEN_VCPUAFFINITY_FORCE`.
pub const XEN_VCPUAFFINITY_FORCE: u32 = 4;
/// `XEN_SCHEDULER_CREDIT`.
pub const XEN_SCHEDULER_CREDIT: u32 = 5;
/// `XEN_SCHEDULER_CREDIT2`.
pub const XEN_SCHEDULER_CREDIT2: u32 = 6;
/// `XEN_SCHEDULER_ARINC653`.
pub const XEN_SCHEDULER_ARINC653: u32 = 7;
/// `XEN_SCHEDULER_RTDS`.
pub const XEN_SCHEDULER_RTDS: u32 = 8;
/// `XEN_SCHEDULER_NULL`.
pub const XEN_SCHEDULER_NULL: u32 = 9;
/// `XEN_DOMCTL_SCHEDRT_extra`.
pub const XEN_DOMCTL_SCHEDRT_EXTRA: u32 = 1;
/// `XEN_DOMCTL_SCHEDOP_putinfo`.
pub const XEN_DOMCTL_SCHEDOP_PUTINFO: u32 = 0;
/// `XEN_DOMCTL_SCHEDOP_getinfo`.
pub const XEN_DOMCTL_SCHEDOP_GETINFO: u32 = 1;
/// `XEN_DOMCTL_SCHEDOP_putvcpuinfo`.
pub const XEN_DOMCTL_SCHEDOP_PUTVCPUINFO: u32 = 2;
/// `XEN_DOMCTL_SCHEDOP_getvcpuinfo`.
pub const XEN_DOMCTL_SCHEDOP_GETVCPUINFO: u32 = 3;
/// `XEN_DOMCTL_SENDTRIGGER_NMI`.
pub const XEN_DOMCTL_SENDTRIGGER_NMI: u32 = 0;
/// `XEN_DOMCTL_SENDTRIGGER_RESET`.
pub const XEN_DOMCTL_SENDTRIGGER_RESET: u32 = 1;
/// `XEN_DOMCTL_SENDTRIGGER_INIT`.
pub const XEN_DOMCTL_SENDTRIGGER_INIT: u32 = 2;
/// `XEN_DOMCTL_SENDTRIGGER_POWER`.
pub const XEN_DOMCTL_SENDTRIGGER_POWER: u32 = 3;
/// `XEN_DOMCTL_SENDTRIGGER_SLEEP`.
pub const XEN_DOMCTL_SENDTRIGGER_SLEEP: u32 = 4;
/// `XEN_DOMCTL_DEV_PCI`.
pub const XEN_DOMCTL_DEV_PCI: u32 = 0;
/// `XEN_DOMCTL_DEV_DT`.
pub const XEN_DOMCTL_DEV_DT: u32 = 1;
/// `XEN_DOMCTL_DEV_RDM_RELAXED`.
pub const XEN_DOMCTL_DEV_RDM_RELAXED: u32 = 1;
/// `XEN_DOMCTL_VMSI_X86_DEST_ID_MASK`.
pub const XEN_DOMCTL_VMSI_X86_DEST_ID_MASK: u32 = 0xff;
/// `XEN_DOMCTL_VMSI_X86_RH_MASK`.
pub const XEN_DOMCTL_VMSI_X86_RH_MASK: u32 = 1 << 8;
/// `XEN_DOMCTL_VMSI_X86_DM_MASK`.
pub const XEN_DOMCTL_VMSI_X86_DM_MASK: u32 = 1 << 9;
/// `XEN_DOMCTL_VMSI_X86_DELIV_MASK`.
pub const XEN_DOMCTL_VMSI_X86_DELIV_MASK: u32 = 0x7000;
/// `XEN_DOMCTL_VMSI_X86_TRIG_MASK`.
pub const XEN_DOMCTL_VMSI_X86_TRIG_MASK: u32 = 1 << 15;
/// `XEN_DOMCTL_VMSI_X86_UNMASKED`.
pub const XEN_DOMCTL_VMSI_X86_UNMASKED: u32 = 1 << 16;
/// `DPCI_ADD_MAPPING`.
pub const DPCI_ADD_MAPPING: u32 = 1;
/// `DPCI_REMOVE_MAPPING`.
pub const DPCI_REMOVE_MAPPING: u32 = 0;
/// `XEN_DOMCTL_MEM_CACHEATTR_UC`.
pub const XEN_DOMCTL_MEM_CACHEATTR_UC: u32 = 0;
/// `XEN_DOMCTL_MEM_CACHEATTR_WC`.
pub const XEN_DOMCTL_MEM_CACHEATTR_WC: u32 = 1;
/// `XEN_DOMCTL_MEM_CACHEATTR_WT`.
pub const XEN_DOMCTL_MEM_CACHEATTR_WT: u32 = 4;
/// `XEN_DOMCTL_MEM_CACHEATTR_WP`.
pub const XEN_DOMCTL_MEM_CACHEATTR_WP: u32 = 5;
/// `XEN_DOMCTL_MEM_CACHEATTR_WB`.
pub const XEN_DOMCTL_MEM_CACHEATTR_WB: u32 = 6;
/// `XEN_DOMCTL_MEM_CACHEATTR_UCM`.
pub const XEN_DOMCTL_MEM_CACHEATTR_UCM: u32 = 7;
/// `XEN_DOMCTL_DELETE_MEM_CACHEATTR`.
pub const XEN_DOMCTL_DELETE_MEM_CACHEATTR: u32 = 0xffff_ffff;
/// `XEN_CPUID_INPUT_UNUSED`.
pub const XEN_CPUID_INPUT_UNUSED: u32 = 0xffff_ffff;
/// `XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_OFF`.
pub const XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_OFF: u32 = 0;
/// `XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_ON`.
pub const XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_ON: u32 = 1;
/// `XEN_VM_EVENT_ENABLE`.
pub const XEN_VM_EVENT_ENABLE: u32 = 0;
/// `XEN_VM_EVENT_DISABLE`.
pub const XEN_VM_EVENT_DISABLE: u32 = 1;
/// `XEN_VM_EVENT_RESUME`.
pub const XEN_VM_EVENT_RESUME: u32 = 2;
/// `XEN_VM_EVENT_GET_VERSION`.
pub const XEN_VM_EVENT_GET_VERSION: u32 = 3;
/// `XEN_DOMCTL_VM_EVENT_OP_PAGING`.
pub const XEN_DOMCTL_VM_EVENT_OP_PAGING: u32 = 1;
/// `XEN_DOMCTL_VM_EVENT_OP_MONITOR`.
pub const XEN_DOMCTL_VM_EVENT_OP_MONITOR: u32 = 2;
/// `XEN_DOMCTL_VM_EVENT_OP_SHARING`.
pub const XEN_DOMCTL_VM_EVENT_OP_SHARING: u32 = 3;
/// `XEN_DOMCTL_MEM_SHARING_CONTROL`.
pub const XEN_DOMCTL_MEM_SHARING_CONTROL: u32 = 0;
/// `XEN_DOMCTL_PSR_CMT_OP_DETACH`.
pub const XEN_DOMCTL_PSR_CMT_OP_DETACH: u32 = 0;
/// `XEN_DOMCTL_PSR_CMT_OP_ATTACH`.
pub const XEN_DOMCTL_PSR_CMT_OP_ATTACH: u32 = 1;
/// `XEN_DOMCTL_PSR_CMT_OP_QUERY_RMID`.
pub const XEN_DOMCTL_PSR_CMT_OP_QUERY_RMID: u32 = 2;
/// `XEN_DOMCTL_MONITOR_OP_ENABLE`.
pub const XEN_DOMCTL_MONITOR_OP_ENABLE: u32 = 0;
/// `XEN_DOMCTL_MONITOR_OP_DISABLE`.
pub const XEN_DOMCTL_MONITOR_OP_DISABLE: u32 = 1;
/// `XEN_DOMCTL_MONITOR_OP_GET_CAPABILITIES`.
pub const XEN_DOMCTL_MONITOR_OP_GET_CAPABILITIES: u32 = 2;
/// `XEN_DOMCTL_MONITOR_OP_EMULATE_EACH_REP`.
pub const XEN_DOMCTL_MONITOR_OP_EMULATE_EACH_REP: u32 = 3;
/// `XEN_DOMCTL_MONITOR_OP_CONTROL_REGISTERS`.
pub const XEN_DOMCTL_MONITOR_OP_CONTROL_REGISTERS: u32 = 4;
/// `XEN_DOMCTL_MONITOR_EVENT_WRITE_CTRLREG`.
pub const XEN_DOMCTL_MONITOR_EVENT_WRITE_CTRLREG: u32 = 0;
/// `XEN_DOMCTL_MONITOR_EVENT_MOV_TO_MSR`.
pub const XEN_DOMCTL_MONITOR_EVENT_MOV_TO_MSR: u32 = 1;
/// `XEN_DOMCTL_MONITOR_EVENT_SINGLESTEP`.
pub const XEN_DOMCTL_MONITOR_EVENT_SINGLESTEP: u32 = 2;
/// `XEN_DOMCTL_MONITOR_EVENT_SOFTWARE_BREAKPOINT`.
pub const XEN_DOMCTL_MONITOR_EVENT_SOFTWARE_BREAKPOINT: u32 = 3;
/// `XEN_DOMCTL_MONITOR_EVENT_GUEST_REQUEST`.
pub const XEN_DOMCTL_MONITOR_EVENT_GUEST_REQUEST: u32 = 4;
/// `XEN_DOMCTL_MONITOR_EVENT_DEBUG_EXCEPTION`.
pub const XEN_DOMCTL_MONITOR_EVENT_DEBUG_EXCEPTION: u32 = 5;
/// `XEN_DOMCTL_MONITOR_EVENT_CPUID`.
pub const XEN_DOMCTL_MONITOR_EVENT_CPUID: u32 = 6;
/// `XEN_DOMCTL_MONITOR_EVENT_PRIVILEGED_CALL`.
pub const XEN_DOMCTL_MONITOR_EVENT_PRIVILEGED_CALL: u32 = 7;
/// `XEN_DOMCTL_MONITOR_EVENT_INTERRUPT`.
pub const XEN_DOMCTL_MONITOR_EVENT_INTERRUPT: u32 = 8;
/// `XEN_DOMCTL_MONITOR_EVENT_DESC_ACCESS`.
pub const XEN_DOMCTL_MONITOR_EVENT_DESC_ACCESS: u32 = 9;
/// `XEN_DOMCTL_MONITOR_EVENT_EMUL_UNIMPLEMENTED`.
pub const XEN_DOMCTL_MONITOR_EVENT_EMUL_UNIMPLEMENTED: u32 = 10;
/// `XEN_DOMCTL_MONITOR_EVENT_INGUEST_PAGEFAULT`.
pub const XEN_DOMCTL_MONITOR_EVENT_INGUEST_PAGEFAULT: u32 = 11;
/// `XEN_DOMCTL_MONITOR_EVENT_VMEXIT`.
pub const XEN_DOMCTL_MONITOR_EVENT_VMEXIT: u32 = 12;
/// `XEN_DOMCTL_PSR_SET_L3_CBM`.
pub const XEN_DOMCTL_PSR_SET_L3_CBM: u32 = 0;
/// `XEN_DOMCTL_PSR_GET_L3_CBM`.
pub const XEN_DOMCTL_PSR_GET_L3_CBM: u32 = 1;
/// `XEN_DOMCTL_PSR_SET_L3_CODE`.
pub const XEN_DOMCTL_PSR_SET_L3_CODE: u32 = 2;
/// `XEN_DOMCTL_PSR_SET_L3_DATA`.
pub const XEN_DOMCTL_PSR_SET_L3_DATA: u32 = 3;
/// `XEN_DOMCTL_PSR_GET_L3_CODE`.
pub const XEN_DOMCTL_PSR_GET_L3_CODE: u32 = 4;
/// `XEN_DOMCTL_PSR_GET_L3_DATA`.
pub const XEN_DOMCTL_PSR_GET_L3_DATA: u32 = 5;
/// `XEN_DOMCTL_PSR_SET_L2_CBM`.
pub const XEN_DOMCTL_PSR_SET_L2_CBM: u32 = 6;
/// `XEN_DOMCTL_PSR_GET_L2_CBM`.
pub const XEN_DOMCTL_PSR_GET_L2_CBM: u32 = 7;
/// `XEN_DOMCTL_PSR_SET_MBA_THRTL`.
pub const XEN_DOMCTL_PSR_SET_MBA_THRTL: u32 = 8;
/// `XEN_DOMCTL_PSR_GET_MBA_THRTL`.
pub const XEN_DOMCTL_PSR_GET_MBA_THRTL: u32 = 9;
/// `XEN_DOMCTL_VUART_OP_INIT`.
pub const XEN_DOMCTL_VUART_OP_INIT: u32 = 0;
/// `XEN_DOMCTL_VUART_TYPE_VPL011`.
pub const XEN_DOMCTL_VUART_TYPE_VPL011: u32 = 0;
/// `XEN_DOMCTL_vmtrace_enable`.
pub const XEN_DOMCTL_VMTRACE_ENABLE: u32 = 1;
/// `XEN_DOMCTL_vmtrace_disable`.
pub const XEN_DOMCTL_VMTRACE_DISABLE: u32 = 2;
/// `XEN_DOMCTL_vmtrace_reset_and_enable`.
pub const XEN_DOMCTL_VMTRACE_RESET_AND_ENABLE: u32 = 3;
/// `XEN_DOMCTL_vmtrace_output_position`.
pub const XEN_DOMCTL_VMTRACE_OUTPUT_POSITION: u32 = 4;
/// `XEN_DOMCTL_vmtrace_get_option`.
pub const XEN_DOMCTL_VMTRACE_GET_OPTION: u32 = 5;
/// `XEN_DOMCTL_vmtrace_set_option`.
pub const XEN_DOMCTL_VMTRACE_SET_OPTION: u32 = 6;
/// `XEN_DOMCTL_createdomain`.
pub const XEN_DOMCTL_CREATEDOMAIN: u32 = 1;
/// `XEN_DOMCTL_destroydomain`.
pub const XEN_DOMCTL_DESTROYDOMAIN: u32 = 2;
/// `XEN_DOMCTL_pausedomain`.
pub const XEN_DOMCTL_PAUSEDOMAIN: u32 = 3;
/// `XEN_DOMCTL_unpausedomain`.
pub const XEN_DOMCTL_UNPAUSEDOMAIN: u32 = 4;
/// `XEN_DOMCTL_getdomaininfo`.
pub const XEN_DOMCTL_GETDOMAININFO: u32 = 5;
/// `XEN_DOMCTL_setvcpuaffinity`.
pub const XEN_DOMCTL_SETVCPUAFFINITY: u32 = 9;
/// `XEN_DOMCTL_shadow_op`.
pub const XEN_DOMCTL_SHADOW_OP: u32 = 10;
/// `XEN_DOMCTL_max_mem`.
pub const XEN_DOMCTL_MAX_MEM: u32 = 11;
/// `XEN_DOMCTL_setvcpucontext`.
pub const XEN_DOMCTL_SETVCPUCONTEXT: u32 = 12;
/// `XEN_DOMCTL_getvcpucontext`.
pub const XEN_DOMCTL_GETVCPUCONTEXT: u32 = 13;
/// `XEN_DOMCTL_getvcpuinfo`.
pub const XEN_DOMCTL_GETVCPUINFO: u32 = 14;
/// `XEN_DOMCTL_max_vcpus`.
pub const XEN_DOMCTL_MAX_VCPUS: u32 = 15;
/// `XEN_DOMCTL_scheduler_op`.
pub const XEN_DOMCTL_SCHEDULER_OP: u32 = 16;
/// `XEN_DOMCTL_setdomainhandle`.
pub const XEN_DOMCTL_SETDOMAINHANDLE: u32 = 17;
/// `XEN_DOMCTL_setdebugging`.
pub const XEN_DOMCTL_SETDEBUGGING: u32 = 18;
/// `XEN_DOMCTL_irq_permission`.
pub const XEN_DOMCTL_IRQ_PERMISSION: u32 = 19;
/// `XEN_DOMCTL_iomem_permission`.
pub const XEN_DOMCTL_IOMEM_PERMISSION: u32 = 20;
/// `XEN_DOMCTL_ioport_permission`.
pub const XEN_DOMCTL_IOPORT_PERMISSION: u32 = 21;
/// `XEN_DOMCTL_hypercall_init`.
pub const XEN_DOMCTL_HYPERCALL_INIT: u32 = 22;
/// `XEN_DOMCTL_settimeoffset`.
pub const XEN_DOMCTL_SETTIMEOFFSET: u32 = 24;
/// `XEN_DOMCTL_getvcpuaffinity`.
pub const XEN_DOMCTL_GETVCPUAFFINITY: u32 = 25;
/// `XEN_DOMCTL_real_mode_area`.
pub const XEN_DOMCTL_REAL_MODE_AREA: u32 = 26;
/// `XEN_DOMCTL_resumedomain`.
pub const XEN_DOMCTL_RESUMEDOMAIN: u32 = 27;
/// `XEN_DOMCTL_sendtrigger`.
pub const XEN_DOMCTL_SENDTRIGGER: u32 = 28;
/// `XEN_DOMCTL_subscribe`.
pub const XEN_DOMCTL_SUBSCRIBE: u32 = 29;
/// `XEN_DOMCTL_gethvmcontext`.
pub const XEN_DOMCTL_GETHVMCONTEXT: u32 = 33;
/// `XEN_DOMCTL_sethvmcontext`.
pub const XEN_DOMCTL_SETHVMCONTEXT: u32 = 34;
/// `XEN_DOMCTL_set_address_size`.
pub const XEN_DOMCTL_SET_ADDRESS_SIZE: u32 = 35;
/// `XEN_DOMCTL_get_address_size`.
pub const XEN_DOMCTL_GET_ADDRESS_SIZE: u32 = 36;
/// `XEN_DOMCTL_assign_device`.
pub const XEN_DOMCTL_ASSIGN_DEVICE: u32 = 37;
/// `XEN_DOMCTL_bind_pt_irq`.
pub const XEN_DOMCTL_BIND_PT_IRQ: u32 = 38;
/// `XEN_DOMCTL_memory_mapping`.
pub const XEN_DOMCTL_MEMORY_MAPPING: u32 = 39;
/// `XEN_DOMCTL_ioport_mapping`.
pub const XEN_DOMCTL_IOPORT_MAPPING: u32 = 40;
/// `XEN_DOMCTL_set_ext_vcpucontext`.
pub const XEN_DOMCTL_SET_EXT_VCPUCONTEXT: u32 = 42;
/// `XEN_DOMCTL_get_ext_vcpucontext`.
pub const XEN_DOMCTL_GET_EXT_VCPUCONTEXT: u32 = 43;
/// `XEN_DOMCTL_set_opt_feature`.
pub const XEN_DOMCTL_SET_OPT_FEATURE: u32 = 44;
/// `XEN_DOMCTL_test_assign_device`.
pub const XEN_DOMCTL_TEST_ASSIGN_DEVICE: u32 = 45;
/// `XEN_DOMCTL_set_target`.
pub const XEN_DOMCTL_SET_TARGET: u32 = 46;
/// `XEN_DOMCTL_deassign_device`.
pub const XEN_DOMCTL_DEASSIGN_DEVICE: u32 = 47;
/// `XEN_DOMCTL_unbind_pt_irq`.
pub const XEN_DOMCTL_UNBIND_PT_IRQ: u32 = 48;
/// `XEN_DOMCTL_get_device_group`.
pub const XEN_DOMCTL_GET_DEVICE_GROUP: u32 = 50;
/// `XEN_DOMCTL_debug_op`.
pub const XEN_DOMCTL_DEBUG_OP: u32 = 54;
/// `XEN_DOMCTL_gethvmcontext_partial`.
pub const XEN_DOMCTL_GETHVMCONTEXT_PARTIAL: u32 = 55;
/// `XEN_DOMCTL_vm_event_op`.
pub const XEN_DOMCTL_VM_EVENT_OP: u32 = 56;
/// `XEN_DOMCTL_mem_sharing_op`.
pub const XEN_DOMCTL_MEM_SHARING_OP: u32 = 57;
/// `XEN_DOMCTL_gettscinfo`.
pub const XEN_DOMCTL_GETTSCINFO: u32 = 59;
/// `XEN_DOMCTL_settscinfo`.
pub const XEN_DOMCTL_SETTSCINFO: u32 = 60;
/// `XEN_DOMCTL_getpageframeinfo3`.
pub const XEN_DOMCTL_GETPAGEFRAMEINFO3: u32 = 61;
/// `XEN_DOMCTL_setvcpuextstate`.
pub const XEN_DOMCTL_SETVCPUEXTSTATE: u32 = 62;
/// `XEN_DOMCTL_getvcpuextstate`.
pub const XEN_DOMCTL_GETVCPUEXTSTATE: u32 = 63;
/// `XEN_DOMCTL_set_access_required`.
pub const XEN_DOMCTL_SET_ACCESS_REQUIRED: u32 = 64;
/// `XEN_DOMCTL_audit_p2m`.
pub const XEN_DOMCTL_AUDIT_P2M: u32 = 65;
/// `XEN_DOMCTL_set_virq_handler`.
pub const XEN_DOMCTL_SET_VIRQ_HANDLER: u32 = 66;
/// `XEN_DOMCTL_set_broken_page_p2m`.
pub const XEN_DOMCTL_SET_BROKEN_PAGE_P2M: u32 = 67;
/// `XEN_DOMCTL_setnodeaffinity`.
pub const XEN_DOMCTL_SETNODEAFFINITY: u32 = 68;
/// `XEN_DOMCTL_getnodeaffinity`.
pub const XEN_DOMCTL_GETNODEAFFINITY: u32 = 69;
/// `XEN_DOMCTL_cacheflush`.
pub const XEN_DOMCTL_CACHEFLUSH: u32 = 71;
/// `XEN_DOMCTL_get_vcpu_msrs`.
pub const XEN_DOMCTL_GET_VCPU_MSRS: u32 = 72;
/// `XEN_DOMCTL_set_vcpu_msrs`.
pub const XEN_DOMCTL_SET_VCPU_MSRS: u32 = 73;
/// `XEN_DOMCTL_setvnumainfo`.
pub const XEN_DOMCTL_SETVNUMAINFO: u32 = 74;
/// `XEN_DOMCTL_psr_cmt_op`.
pub const XEN_DOMCTL_PSR_CMT_OP: u32 = 75;
/// `XEN_DOMCTL_monitor_op`.
pub const XEN_DOMCTL_MONITOR_OP: u32 = 77;
/// `XEN_DOMCTL_psr_alloc`.
pub const XEN_DOMCTL_PSR_ALLOC: u32 = 78;
/// `XEN_DOMCTL_soft_reset`.
pub const XEN_DOMCTL_SOFT_RESET: u32 = 79;
/// `XEN_DOMCTL_vuart_op`.
pub const XEN_DOMCTL_VUART_OP: u32 = 81;
/// `XEN_DOMCTL_get_cpu_policy`.
pub const XEN_DOMCTL_GET_CPU_POLICY: u32 = 82;
/// `XEN_DOMCTL_set_cpu_policy`.
pub const XEN_DOMCTL_SET_CPU_POLICY: u32 = 83;
/// `XEN_DOMCTL_vmtrace_op`.
pub const XEN_DOMCTL_VMTRACE_OP: u32 = 84;
/// `XEN_DOMCTL_get_paging_mempool_size`.
pub const XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE: u32 = 85;
/// `XEN_DOMCTL_set_paging_mempool_size`.
pub const XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE: u32 = 86;
/// `XEN_DOMCTL_gdbsx_guestmemio`.
pub const XEN_DOMCTL_GDBSX_GUESTMEMIO: u32 = 0x3e8;
/// `XEN_DOMCTL_gdbsx_pausevcpu`.
pub const XEN_DOMCTL_GDBSX_PAUSEVCPU: u32 = 0x3e9;
/// `XEN_DOMCTL_gdbsx_unpausevcpu`.
pub const XEN_DOMCTL_GDBSX_UNPAUSEVCPU: u32 = 0x3ea;
/// `XEN_DOMCTL_gdbsx_domstatus`.
pub const XEN_DOMCTL_GDBSX_DOMSTATUS: u32 = 0x3eb;

/// Arguments of `XEN_DOMCTL_createdomain` (`struct xen_domctl_createdomain`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlCreatedomain {
    /// `ssidref`.
    pub ssidref: u32,
    /// UUID of the domain.
    pub handle: [u8; 16],
    /// Flags.
    pub flags: u32,
    /// `iommu_opts`.
    pub iommu_opts: u32,
    /// `max_vcpus`.
    pub max_vcpus: u32,
    /// `max_evtchn_port`.
    pub max_evtchn_port: u32,
    /// `max_grant_frames`.
    pub max_grant_frames: i32,
    /// `max_maptrack_frames`.
    pub max_maptrack_frames: i32,
    /// `grant_opts`.
    pub grant_opts: u32,
    /// `vmtrace_size`.
    pub vmtrace_size: u32,
    /// `cpupool_id`.
    pub cpupool_id: u32,
    /// The part of the architecture.
    pub arch: ArchDomainconfig,
}
const _: () =
    assert!(size_of::<DomctlCreatedomain>() == 64 && align_of::<DomctlCreatedomain>() == 4);

/// Answer of `XEN_DOMCTL_getdomaininfo` (`struct xen_domctl_getdomaininfo`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlGetdomaininfo {
    /// The domain.
    pub domain: u16,
    /// `pad1`.
    pub pad1: u16,
    /// Flags.
    pub flags: u32,
    /// `tot_pages`.
    pub tot_pages: u64,
    /// `max_pages`.
    pub max_pages: u64,
    /// `outstanding_pages`.
    pub outstanding_pages: u64,
    /// `shr_pages`.
    pub shr_pages: u64,
    /// `paged_pages`.
    pub paged_pages: u64,
    /// `shared_info_frame`.
    pub shared_info_frame: u64,
    /// `cpu_time`.
    pub cpu_time: u64,
    /// `nr_online_vcpus`.
    pub nr_online_vcpus: u32,
    /// `max_vcpu_id`.
    pub max_vcpu_id: u32,
    /// `ssidref`.
    pub ssidref: u32,
    /// UUID of the domain.
    pub handle: [u8; 16],
    /// `cpupool`.
    pub cpupool: u32,
    /// `gpaddr_bits`.
    pub gpaddr_bits: u8,
    /// `pad2`.
    pub pad2: [u8; 7],
    /// `arch_config`.
    pub arch_config: ArchDomainconfig,
}
const _: () =
    assert!(size_of::<DomctlGetdomaininfo>() == 112 && align_of::<DomctlGetdomaininfo>() == 8);

/// Arguments of `XEN_DOMCTL_getpageframeinfo3` (`struct xen_domctl_getpageframeinfo3`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlGetpageframeinfo3 {
    /// `num`.
    pub num: u64,
    /// Address of `xen_pfn_t`.
    pub array: GuestHandle,
}
const _: () = assert!(
    size_of::<DomctlGetpageframeinfo3>() == 16 && align_of::<DomctlGetpageframeinfo3>() == 8
);

/// Arguments or answer of `XEN_DOMCTL_shadow_op_stats` (`struct xen_domctl_shadow_op_stats`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlShadowOpStats {
    /// `fault_count`.
    pub fault_count: u32,
    /// `dirty_count`.
    pub dirty_count: u32,
}
const _: () =
    assert!(size_of::<DomctlShadowOpStats>() == 8 && align_of::<DomctlShadowOpStats>() == 4);

/// Arguments of `XEN_DOMCTL_shadow_op` (`struct xen_domctl_shadow_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlShadowOp {
    /// The operation.
    pub op: u32,
    /// `mode`.
    pub mode: u32,
    /// `mb`.
    pub mb: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Address of `uint8`.
    pub dirty_bitmap: GuestHandle,
    /// `pages`.
    pub pages: u64,
    /// `stats`.
    pub stats: DomctlShadowOpStats,
}
const _: () = assert!(size_of::<DomctlShadowOp>() == 40 && align_of::<DomctlShadowOp>() == 8);

/// Arguments or answer of `XEN_DOMCTL_max_mem` (`struct xen_domctl_max_mem`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlMaxMem {
    /// `max_memkb`.
    pub max_memkb: u64,
}
const _: () = assert!(size_of::<DomctlMaxMem>() == 8 && align_of::<DomctlMaxMem>() == 8);

/// Arguments of `XEN_DOMCTL_setvcpucontext` and `XEN_DOMCTL_getvcpucontext` (`struct xen_domctl_vcpucontext`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlVcpucontext {
    /// The vCPU's number.
    pub vcpu: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Address of `vcpu_guest_context_t`.
    pub ctxt: GuestHandle,
}
const _: () = assert!(size_of::<DomctlVcpucontext>() == 16 && align_of::<DomctlVcpucontext>() == 8);

/// Arguments of `XEN_DOMCTL_getvcpuinfo` (`struct xen_domctl_getvcpuinfo`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlGetvcpuinfo {
    /// The vCPU's number.
    pub vcpu: u32,
    /// `online`.
    pub online: u8,
    /// `blocked`.
    pub blocked: u8,
    /// `running`.
    pub running: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 1],
    /// `cpu_time`.
    pub cpu_time: u64,
    /// `cpu`.
    pub cpu: u32,
    #[doc(hidden)]
    pub _pad1: [u8; 4],
}
const _: () = assert!(size_of::<DomctlGetvcpuinfo>() == 24 && align_of::<DomctlGetvcpuinfo>() == 8);

/// Arguments or answer of `XEN_DOMCTL_nodeaffinity` (`struct xen_domctl_nodeaffinity`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlNodeaffinity {
    /// `nodemap`.
    pub nodemap: XenctlBitmap,
}
const _: () =
    assert!(size_of::<DomctlNodeaffinity>() == 16 && align_of::<DomctlNodeaffinity>() == 8);

/// Arguments of `XEN_DOMCTL_setvcpuaffinity` and `XEN_DOMCTL_getvcpuaffinity` (`struct xen_domctl_vcpuaffinity`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlVcpuaffinity {
    /// The vCPU's number.
    pub vcpu: u32,
    /// Flags.
    pub flags: u32,
    /// `cpumap_hard`.
    pub cpumap_hard: XenctlBitmap,
    /// `cpumap_soft`.
    pub cpumap_soft: XenctlBitmap,
}
const _: () =
    assert!(size_of::<DomctlVcpuaffinity>() == 40 && align_of::<DomctlVcpuaffinity>() == 8);

/// Arguments or answer of `XEN_DOMCTL_max_vcpus` (`struct xen_domctl_max_vcpus`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlMaxVcpus {
    /// `max`.
    pub max: u32,
}
const _: () = assert!(size_of::<DomctlMaxVcpus>() == 4 && align_of::<DomctlMaxVcpus>() == 4);

/// Arguments or answer of `XEN_DOMCTL_sched_credit` (`struct xen_domctl_sched_credit`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSchedCredit {
    /// `weight`.
    pub weight: u16,
    /// `cap`.
    pub cap: u16,
}
const _: () = assert!(size_of::<DomctlSchedCredit>() == 4 && align_of::<DomctlSchedCredit>() == 2);

/// Arguments or answer of `XEN_DOMCTL_sched_credit2` (`struct xen_domctl_sched_credit2`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSchedCredit2 {
    /// `weight`.
    pub weight: u16,
    /// `cap`.
    pub cap: u16,
}
const _: () =
    assert!(size_of::<DomctlSchedCredit2>() == 4 && align_of::<DomctlSchedCredit2>() == 2);

/// Arguments or answer of `XEN_DOMCTL_sched_rtds` (`struct xen_domctl_sched_rtds`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSchedRtds {
    /// `period`.
    pub period: u32,
    /// `budget`.
    pub budget: u32,
    /// Flags.
    pub flags: u32,
}
const _: () = assert!(size_of::<DomctlSchedRtds>() == 12 && align_of::<DomctlSchedRtds>() == 4);

/// Arguments or answer of `XEN_DOMCTL_schedparam_vcpu` (`struct xen_domctl_schedparam_vcpu`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSchedparamVcpu {
    /// Arguments; one of `credit` ([`DomctlSchedCredit`]), `credit2` ([`DomctlSchedCredit2`]), `rtds` ([`DomctlSchedRtds`]).
    pub u: [u32; 3],
    /// `vcpuid`.
    pub vcpuid: u32,
}
const _: () =
    assert!(size_of::<DomctlSchedparamVcpu>() == 16 && align_of::<DomctlSchedparamVcpu>() == 4);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSchedulerOpUV {
    /// Address of `xen_domctl_schedparam_vcpu_t`.
    pub vcpus: GuestHandle,
    /// `nr_vcpus`.
    pub nr_vcpus: u32,
    /// `padding`.
    pub padding: u32,
}
const _: () =
    assert!(size_of::<DomctlSchedulerOpUV>() == 16 && align_of::<DomctlSchedulerOpUV>() == 8);

/// Arguments of `XEN_DOMCTL_scheduler_op` (`struct xen_domctl_scheduler_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSchedulerOp {
    /// `sched_id`.
    pub sched_id: u32,
    /// The operation.
    pub cmd: u32,
    /// Arguments; one of `credit` ([`DomctlSchedCredit`]), `credit2` ([`DomctlSchedCredit2`]), `rtds` ([`DomctlSchedRtds`]), `v` ([`DomctlSchedulerOpUV`]).
    pub u: [u64; 2],
}
const _: () = assert!(size_of::<DomctlSchedulerOp>() == 24 && align_of::<DomctlSchedulerOp>() == 8);

/// Arguments or answer of `XEN_DOMCTL_setdomainhandle` (`struct xen_domctl_setdomainhandle`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSetdomainhandle {
    /// UUID of the domain.
    pub handle: [u8; 16],
}
const _: () =
    assert!(size_of::<DomctlSetdomainhandle>() == 16 && align_of::<DomctlSetdomainhandle>() == 1);

/// Arguments or answer of `XEN_DOMCTL_setdebugging` (`struct xen_domctl_setdebugging`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSetdebugging {
    /// `enable`.
    pub enable: u8,
}
const _: () =
    assert!(size_of::<DomctlSetdebugging>() == 1 && align_of::<DomctlSetdebugging>() == 1);

/// Arguments or answer of `XEN_DOMCTL_irq_permission` (`struct xen_domctl_irq_permission`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlIrqPermission {
    /// Physical interrupt.
    pub pirq: u32,
    /// `allow_access`.
    pub allow_access: u8,
    /// Must be 0.
    pub pad: [u8; 3],
}
const _: () =
    assert!(size_of::<DomctlIrqPermission>() == 8 && align_of::<DomctlIrqPermission>() == 4);

/// Arguments or answer of `XEN_DOMCTL_iomem_permission` (`struct xen_domctl_iomem_permission`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlIomemPermission {
    /// `first_mfn`.
    pub first_mfn: u64,
    /// `nr_mfns`.
    pub nr_mfns: u64,
    /// `allow_access`.
    pub allow_access: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 7],
}
const _: () =
    assert!(size_of::<DomctlIomemPermission>() == 24 && align_of::<DomctlIomemPermission>() == 8);

/// Arguments or answer of `XEN_DOMCTL_ioport_permission` (`struct xen_domctl_ioport_permission`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlIoportPermission {
    /// `first_port`.
    pub first_port: u32,
    /// Number of ports.
    pub nr_ports: u32,
    /// `allow_access`.
    pub allow_access: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 3],
}
const _: () =
    assert!(size_of::<DomctlIoportPermission>() == 12 && align_of::<DomctlIoportPermission>() == 4);

/// Arguments or answer of `XEN_DOMCTL_hypercall_init` (`struct xen_domctl_hypercall_init`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlHypercallInit {
    /// Frame in the domain's own numbering.
    pub gmfn: u64,
}
const _: () =
    assert!(size_of::<DomctlHypercallInit>() == 8 && align_of::<DomctlHypercallInit>() == 8);

/// Arguments or answer of `XEN_DOMCTL_settimeoffset` (`struct xen_domctl_settimeoffset`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSettimeoffset {
    /// `time_offset_seconds`.
    pub time_offset_seconds: i64,
}
const _: () =
    assert!(size_of::<DomctlSettimeoffset>() == 8 && align_of::<DomctlSettimeoffset>() == 8);

/// Arguments or answer of `XEN_DOMCTL_hvmcontext` (`struct xen_domctl_hvmcontext`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlHvmcontext {
    /// Size.
    pub size: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// The buffer; address of `uint8`.
    pub buffer: GuestHandle,
}
const _: () = assert!(size_of::<DomctlHvmcontext>() == 16 && align_of::<DomctlHvmcontext>() == 8);

/// Arguments or answer of `XEN_DOMCTL_address_size` (`struct xen_domctl_address_size`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlAddressSize {
    /// Size.
    pub size: u32,
}
const _: () = assert!(size_of::<DomctlAddressSize>() == 4 && align_of::<DomctlAddressSize>() == 4);

/// Arguments or answer of `XEN_DOMCTL_sendtrigger` (`struct xen_domctl_sendtrigger`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSendtrigger {
    /// `trigger`.
    pub trigger: u32,
    /// The vCPU's number.
    pub vcpu: u32,
}
const _: () = assert!(size_of::<DomctlSendtrigger>() == 8 && align_of::<DomctlSendtrigger>() == 4);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlAssignDeviceUPci {
    /// `machine_sbdf`.
    pub machine_sbdf: u32,
}
const _: () =
    assert!(size_of::<DomctlAssignDeviceUPci>() == 4 && align_of::<DomctlAssignDeviceUPci>() == 4);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlAssignDeviceUDt {
    /// Size.
    pub size: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Address of `char`.
    pub path: GuestHandle,
}
const _: () =
    assert!(size_of::<DomctlAssignDeviceUDt>() == 16 && align_of::<DomctlAssignDeviceUDt>() == 8);

/// Arguments or answer of `XEN_DOMCTL_assign_device` (`struct xen_domctl_assign_device`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlAssignDevice {
    /// `dev`.
    pub dev: u32,
    /// Flags.
    pub flags: u32,
    /// Arguments; one of `pci` ([`DomctlAssignDeviceUPci`]), `dt` ([`DomctlAssignDeviceUDt`]).
    pub u: [u64; 2],
}
const _: () =
    assert!(size_of::<DomctlAssignDevice>() == 24 && align_of::<DomctlAssignDevice>() == 8);

/// Arguments or answer of `XEN_DOMCTL_get_device_group` (`struct xen_domctl_get_device_group`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlGetDeviceGroup {
    /// `machine_sbdf`.
    pub machine_sbdf: u32,
    /// `max_sdevs`.
    pub max_sdevs: u32,
    /// `num_sdevs`.
    pub num_sdevs: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Address of `uint32`.
    pub sdev_array: GuestHandle,
}
const _: () =
    assert!(size_of::<DomctlGetDeviceGroup>() == 24 && align_of::<DomctlGetDeviceGroup>() == 8);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlBindPtIrqUIsa {
    /// `isa_irq`.
    pub isa_irq: u8,
}
const _: () =
    assert!(size_of::<DomctlBindPtIrqUIsa>() == 1 && align_of::<DomctlBindPtIrqUIsa>() == 1);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlBindPtIrqUPci {
    /// `bus`.
    pub bus: u8,
    /// `device`.
    pub device: u8,
    /// `intx`.
    pub intx: u8,
}
const _: () =
    assert!(size_of::<DomctlBindPtIrqUPci>() == 3 && align_of::<DomctlBindPtIrqUPci>() == 1);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlBindPtIrqUMsi {
    /// `gvec`.
    pub gvec: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 3],
    /// `gflags`.
    pub gflags: u32,
    /// `gtable`.
    pub gtable: u64,
}
const _: () =
    assert!(size_of::<DomctlBindPtIrqUMsi>() == 16 && align_of::<DomctlBindPtIrqUMsi>() == 8);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlBindPtIrqUSpi {
    /// `spi`.
    pub spi: u16,
}
const _: () =
    assert!(size_of::<DomctlBindPtIrqUSpi>() == 2 && align_of::<DomctlBindPtIrqUSpi>() == 2);

/// Arguments or answer of `XEN_DOMCTL_bind_pt_irq` (`struct xen_domctl_bind_pt_irq`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlBindPtIrq {
    /// `machine_irq`.
    pub machine_irq: u32,
    /// `irq_type`.
    pub irq_type: u32,
    /// Arguments; one of `isa` ([`DomctlBindPtIrqUIsa`]), `pci` ([`DomctlBindPtIrqUPci`]), `msi` ([`DomctlBindPtIrqUMsi`]), `spi` ([`DomctlBindPtIrqUSpi`]).
    pub u: [u64; 2],
}
const _: () = assert!(size_of::<DomctlBindPtIrq>() == 24 && align_of::<DomctlBindPtIrq>() == 8);

/// Arguments or answer of `XEN_DOMCTL_memory_mapping` (`struct xen_domctl_memory_mapping`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlMemoryMapping {
    /// `first_gfn`.
    pub first_gfn: u64,
    /// `first_mfn`.
    pub first_mfn: u64,
    /// `nr_mfns`.
    pub nr_mfns: u64,
    /// `add_mapping`.
    pub add_mapping: u32,
    /// `padding`.
    pub padding: u32,
}
const _: () =
    assert!(size_of::<DomctlMemoryMapping>() == 32 && align_of::<DomctlMemoryMapping>() == 8);

/// Arguments or answer of `XEN_DOMCTL_ioport_mapping` (`struct xen_domctl_ioport_mapping`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlIoportMapping {
    /// `first_gport`.
    pub first_gport: u32,
    /// `first_mport`.
    pub first_mport: u32,
    /// Number of ports.
    pub nr_ports: u32,
    /// `add_mapping`.
    pub add_mapping: u32,
}
const _: () =
    assert!(size_of::<DomctlIoportMapping>() == 16 && align_of::<DomctlIoportMapping>() == 4);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlExtVcpucontextVmceVmce {
    /// `caps`.
    pub caps: u64,
    /// `mci_ctl2_bank0`.
    pub mci_ctl2_bank0: u64,
    /// `mci_ctl2_bank1`.
    pub mci_ctl2_bank1: u64,
    /// `mcg_ext_ctl`.
    pub mcg_ext_ctl: u64,
}
const _: () = assert!(
    size_of::<DomctlExtVcpucontextVmceVmce>() == 32
        && align_of::<DomctlExtVcpucontextVmceVmce>() == 8
);

/// Arguments of `XEN_DOMCTL_set_ext_vcpucontext` and `XEN_DOMCTL_get_ext_vcpucontext` (`struct xen_domctl_ext_vcpucontext`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlExtVcpucontext {
    /// The vCPU's number.
    pub vcpu: u32,
    /// Size.
    pub size: u32,
    /// `syscall32_callback_eip`.
    pub syscall32_callback_eip: u64,
    /// `sysenter_callback_eip`.
    pub sysenter_callback_eip: u64,
    /// `syscall32_callback_cs`.
    pub syscall32_callback_cs: u16,
    /// `sysenter_callback_cs`.
    pub sysenter_callback_cs: u16,
    /// `syscall32_disables_events`.
    pub syscall32_disables_events: u8,
    /// `sysenter_disables_events`.
    pub sysenter_disables_events: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// One of `mcg_cap` (u64), `vmce` ([`DomctlExtVcpucontextVmceVmce`]).
    pub vmce: [u64; 4],
}
const _: () =
    assert!(size_of::<DomctlExtVcpucontext>() == 64 && align_of::<DomctlExtVcpucontext>() == 8);

/// Arguments or answer of `XEN_DOMCTL_set_target` (`struct xen_domctl_set_target`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSetTarget {
    /// `target`.
    pub target: u16,
}
const _: () = assert!(size_of::<DomctlSetTarget>() == 2 && align_of::<DomctlSetTarget>() == 2);

/// Arguments of `XEN_DOMCTL_get_cpu_policy` and `XEN_DOMCTL_set_cpu_policy` (`struct xen_domctl_cpu_policy`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlCpuPolicy {
    /// `nr_leaves`.
    pub nr_leaves: u32,
    /// `nr_msrs`.
    pub nr_msrs: u32,
    /// Address of `xen_cpuid_leaf_t`.
    pub leaves: GuestHandle,
    /// Address of `xen_msr_entry_t`.
    pub msrs: GuestHandle,
    /// `err_leaf`.
    pub err_leaf: u32,
    /// `err_subleaf`.
    pub err_subleaf: u32,
    /// `err_msr`.
    pub err_msr: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () = assert!(size_of::<DomctlCpuPolicy>() == 40 && align_of::<DomctlCpuPolicy>() == 8);

/// Arguments or answer of `XEN_DOMCTL_subscribe` (`struct xen_domctl_subscribe`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSubscribe {
    /// The port.
    pub port: u32,
}
const _: () = assert!(size_of::<DomctlSubscribe>() == 4 && align_of::<DomctlSubscribe>() == 4);

/// Arguments or answer of `XEN_DOMCTL_debug_op` (`struct xen_domctl_debug_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlDebugOp {
    /// The operation.
    pub op: u32,
    /// The vCPU's number.
    pub vcpu: u32,
}
const _: () = assert!(size_of::<DomctlDebugOp>() == 8 && align_of::<DomctlDebugOp>() == 4);

/// Arguments or answer of `XEN_DOMCTL_hvmcontext_partial` (`struct xen_domctl_hvmcontext_partial`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlHvmcontextPartial {
    /// The type.
    pub r#type: u32,
    /// `instance`.
    pub instance: u32,
    /// `bufsz`.
    pub bufsz: u64,
    /// The buffer; address of `uint8`.
    pub buffer: GuestHandle,
}
const _: () = assert!(
    size_of::<DomctlHvmcontextPartial>() == 24 && align_of::<DomctlHvmcontextPartial>() == 8
);

/// Arguments of `XEN_DOMCTL_gettscinfo` and `XEN_DOMCTL_settscinfo` (`struct xen_domctl_tsc_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlTscInfo {
    /// `tsc_mode`.
    pub tsc_mode: u32,
    /// `gtsc_khz`.
    pub gtsc_khz: u32,
    /// `incarnation`.
    pub incarnation: u32,
    /// Must be 0.
    pub pad: u32,
    /// `elapsed_nsec`.
    pub elapsed_nsec: u64,
}
const _: () = assert!(size_of::<DomctlTscInfo>() == 24 && align_of::<DomctlTscInfo>() == 8);

/// Arguments or answer of `XEN_DOMCTL_gdbsx_memio` (`struct xen_domctl_gdbsx_memio`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlGdbsxMemio {
    /// `pgd3val`.
    pub pgd3val: u64,
    /// `gva`.
    pub gva: u64,
    /// `uva`.
    pub uva: u64,
    /// `len`.
    pub len: u32,
    /// `gwr`.
    pub gwr: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 3],
    /// `remain`.
    pub remain: u32,
    #[doc(hidden)]
    pub _pad1: [u8; 4],
}
const _: () = assert!(size_of::<DomctlGdbsxMemio>() == 40 && align_of::<DomctlGdbsxMemio>() == 8);

/// Arguments or answer of `XEN_DOMCTL_gdbsx_pauseunp_vcpu` (`struct xen_domctl_gdbsx_pauseunp_vcpu`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlGdbsxPauseunpVcpu {
    /// The vCPU's number.
    pub vcpu: u32,
}
const _: () = assert!(
    size_of::<DomctlGdbsxPauseunpVcpu>() == 4 && align_of::<DomctlGdbsxPauseunpVcpu>() == 4
);

/// Arguments or answer of `XEN_DOMCTL_gdbsx_domstatus` (`struct xen_domctl_gdbsx_domstatus`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlGdbsxDomstatus {
    /// `paused`.
    pub paused: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 3],
    /// `vcpu_id`.
    pub vcpu_id: u32,
    /// `vcpu_ev`.
    pub vcpu_ev: u32,
}
const _: () =
    assert!(size_of::<DomctlGdbsxDomstatus>() == 12 && align_of::<DomctlGdbsxDomstatus>() == 4);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlVmEventOpUEnable {
    /// The port.
    pub port: u32,
}
const _: () =
    assert!(size_of::<DomctlVmEventOpUEnable>() == 4 && align_of::<DomctlVmEventOpUEnable>() == 4);

/// Arguments or answer of `XEN_DOMCTL_vm_event_op` (`struct xen_domctl_vm_event_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlVmEventOp {
    /// The operation.
    pub op: u32,
    /// `mode`.
    pub mode: u32,
    /// Arguments; one of `enable` ([`DomctlVmEventOpUEnable`]), `version` (u32).
    pub u: [u32; 1],
}
const _: () = assert!(size_of::<DomctlVmEventOp>() == 12 && align_of::<DomctlVmEventOp>() == 4);

/// Arguments or answer of `XEN_DOMCTL_audit_p2m` (`struct xen_domctl_audit_p2m`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlAuditP2m {
    /// `orphans`.
    pub orphans: u64,
    /// `m2p_bad`.
    pub m2p_bad: u64,
    /// `p2m_bad`.
    pub p2m_bad: u64,
}
const _: () = assert!(size_of::<DomctlAuditP2m>() == 24 && align_of::<DomctlAuditP2m>() == 8);

/// Arguments or answer of `XEN_DOMCTL_set_virq_handler` (`struct xen_domctl_set_virq_handler`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSetVirqHandler {
    /// A `VIRQ_*`.
    pub virq: u32,
}
const _: () =
    assert!(size_of::<DomctlSetVirqHandler>() == 4 && align_of::<DomctlSetVirqHandler>() == 4);

/// Arguments of `XEN_DOMCTL_setvcpuextstate` and `XEN_DOMCTL_getvcpuextstate` (`struct xen_domctl_vcpuextstate`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlVcpuextstate {
    /// The vCPU's number.
    pub vcpu: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// `xfeature_mask`.
    pub xfeature_mask: u64,
    /// Size.
    pub size: u64,
    /// The buffer; address of `uint64`.
    pub buffer: GuestHandle,
}
const _: () =
    assert!(size_of::<DomctlVcpuextstate>() == 32 && align_of::<DomctlVcpuextstate>() == 8);

/// Arguments or answer of `XEN_DOMCTL_set_access_required` (`struct xen_domctl_set_access_required`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSetAccessRequired {
    /// `access_required`.
    pub access_required: u8,
}
const _: () = assert!(
    size_of::<DomctlSetAccessRequired>() == 1 && align_of::<DomctlSetAccessRequired>() == 1
);

/// Arguments or answer of `XEN_DOMCTL_set_broken_page_p2m` (`struct xen_domctl_set_broken_page_p2m`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlSetBrokenPageP2m {
    /// `pfn`.
    pub pfn: u64,
}
const _: () =
    assert!(size_of::<DomctlSetBrokenPageP2m>() == 8 && align_of::<DomctlSetBrokenPageP2m>() == 8);

/// Arguments or answer of `XEN_DOMCTL_cacheflush` (`struct xen_domctl_cacheflush`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlCacheflush {
    /// `start_pfn`.
    pub start_pfn: u64,
    /// `nr_pfns`.
    pub nr_pfns: u64,
}
const _: () = assert!(size_of::<DomctlCacheflush>() == 16 && align_of::<DomctlCacheflush>() == 8);

/// Arguments or answer of `XEN_DOMCTL_paging_mempool` (`struct xen_domctl_paging_mempool`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlPagingMempool {
    /// Size.
    pub size: u64,
}
const _: () =
    assert!(size_of::<DomctlPagingMempool>() == 8 && align_of::<DomctlPagingMempool>() == 8);

/// Arguments or answer of `XEN_DOMCTL_vcpu_msr` (`struct xen_domctl_vcpu_msr`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlVcpuMsr {
    /// `index`.
    pub index: u32,
    /// Reserved.
    pub reserved: u32,
    /// `value`.
    pub value: u64,
}
const _: () = assert!(size_of::<DomctlVcpuMsr>() == 16 && align_of::<DomctlVcpuMsr>() == 8);

/// Arguments of `XEN_DOMCTL_get_vcpu_msrs` and `XEN_DOMCTL_set_vcpu_msrs` (`struct xen_domctl_vcpu_msrs`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlVcpuMsrs {
    /// The vCPU's number.
    pub vcpu: u32,
    /// `msr_count`.
    pub msr_count: u32,
    /// Address of `xen_domctl_vcpu_msr_t`.
    pub msrs: GuestHandle,
}
const _: () = assert!(size_of::<DomctlVcpuMsrs>() == 16 && align_of::<DomctlVcpuMsrs>() == 8);

/// Arguments or answer of `XEN_DOMCTL_vnuma` (`struct xen_domctl_vnuma`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlVnuma {
    /// `nr_vnodes`.
    pub nr_vnodes: u32,
    /// `nr_vmemranges`.
    pub nr_vmemranges: u32,
    /// `nr_vcpus`.
    pub nr_vcpus: u32,
    /// Must be 0.
    pub pad: u32,
    /// Address of `uint`.
    pub vdistance: GuestHandle,
    /// Address of `uint`.
    pub vcpu_to_vnode: GuestHandle,
    /// Address of `uint`.
    pub vnode_to_pnode: GuestHandle,
    /// Address of `xen_vmemrange_t`.
    pub vmemrange: GuestHandle,
}
const _: () = assert!(size_of::<DomctlVnuma>() == 48 && align_of::<DomctlVnuma>() == 8);

/// Arguments or answer of `XEN_DOMCTL_psr_cmt_op` (`struct xen_domctl_psr_cmt_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlPsrCmtOp {
    /// The operation.
    pub cmd: u32,
    /// The data.
    pub data: u32,
}
const _: () = assert!(size_of::<DomctlPsrCmtOp>() == 8 && align_of::<DomctlPsrCmtOp>() == 4);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlMonitorOpUMovToCr {
    /// `index`.
    pub index: u8,
    /// `sync`.
    pub sync: u8,
    /// `onchangeonly`.
    pub onchangeonly: u8,
    /// `pad1`.
    pub pad1: u8,
    /// `pad2`.
    pub pad2: u32,
    /// `bitmask`.
    pub bitmask: u64,
}
const _: () = assert!(
    size_of::<DomctlMonitorOpUMovToCr>() == 16 && align_of::<DomctlMonitorOpUMovToCr>() == 8
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlMonitorOpUMovToMsr {
    /// `msr`.
    pub msr: u32,
    /// `onchangeonly`.
    pub onchangeonly: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 3],
}
const _: () = assert!(
    size_of::<DomctlMonitorOpUMovToMsr>() == 8 && align_of::<DomctlMonitorOpUMovToMsr>() == 4
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlMonitorOpUGuestRequest {
    /// `sync`.
    pub sync: u8,
    /// `allow_userspace`.
    pub allow_userspace: u8,
}
const _: () = assert!(
    size_of::<DomctlMonitorOpUGuestRequest>() == 2
        && align_of::<DomctlMonitorOpUGuestRequest>() == 1
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlMonitorOpUDebugException {
    /// `sync`.
    pub sync: u8,
}
const _: () = assert!(
    size_of::<DomctlMonitorOpUDebugException>() == 1
        && align_of::<DomctlMonitorOpUDebugException>() == 1
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlMonitorOpUVmexit {
    /// `sync`.
    pub sync: u8,
}
const _: () =
    assert!(size_of::<DomctlMonitorOpUVmexit>() == 1 && align_of::<DomctlMonitorOpUVmexit>() == 1);

/// Arguments or answer of `XEN_DOMCTL_monitor_op` (`struct xen_domctl_monitor_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlMonitorOp {
    /// The operation.
    pub op: u32,
    /// `event`.
    pub event: u32,
    /// Arguments; one of `mov_to_cr` ([`DomctlMonitorOpUMovToCr`]), `mov_to_msr` ([`DomctlMonitorOpUMovToMsr`]), `guest_request` ([`DomctlMonitorOpUGuestRequest`]), `debug_exception` ([`DomctlMonitorOpUDebugException`]), `vmexit` ([`DomctlMonitorOpUVmexit`]).
    pub u: [u64; 2],
}
const _: () = assert!(size_of::<DomctlMonitorOp>() == 24 && align_of::<DomctlMonitorOp>() == 8);

/// Arguments or answer of `XEN_DOMCTL_psr_alloc` (`struct xen_domctl_psr_alloc`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlPsrAlloc {
    /// The operation.
    pub cmd: u32,
    /// `target`.
    pub target: u32,
    /// The data.
    pub data: u64,
}
const _: () = assert!(size_of::<DomctlPsrAlloc>() == 16 && align_of::<DomctlPsrAlloc>() == 8);

/// Arguments or answer of `XEN_DOMCTL_vuart_op` (`struct xen_domctl_vuart_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlVuartOp {
    /// The operation.
    pub cmd: u32,
    /// The type.
    pub r#type: u32,
    /// Frame in the domain's own numbering.
    pub gfn: u64,
    /// `console_domid`.
    pub console_domid: u16,
    /// Must be 0.
    pub pad: [u8; 2],
    /// `evtchn`.
    pub evtchn: u32,
}
const _: () = assert!(size_of::<DomctlVuartOp>() == 24 && align_of::<DomctlVuartOp>() == 8);

/// Arguments or answer of `XEN_DOMCTL_vmtrace_op` (`struct xen_domctl_vmtrace_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomctlVmtraceOp {
    /// The operation.
    pub cmd: u32,
    /// The vCPU's number.
    pub vcpu: u32,
    /// `key`.
    pub key: u64,
    /// `value`.
    pub value: u64,
}
const _: () = assert!(size_of::<DomctlVmtraceOp>() == 24 && align_of::<DomctlVmtraceOp>() == 8);

/// A control operation on one domain (`struct xen_domctl`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Domctl {
    /// The operation.
    pub cmd: u32,
    /// Must be the interface version that the header gives.
    pub interface_version: u32,
    /// The domain.
    pub domain: u16,
    /// Padding.
    pub pad: [u16; 3],
    /// Arguments; one of `createdomain` ([`DomctlCreatedomain`]), `getdomaininfo` ([`DomctlGetdomaininfo`]), `getpageframeinfo3` ([`DomctlGetpageframeinfo3`]), `nodeaffinity` ([`DomctlNodeaffinity`]), `vcpuaffinity` ([`DomctlVcpuaffinity`]), `shadow_op` ([`DomctlShadowOp`]), `max_mem` ([`DomctlMaxMem`]), `vcpucontext` ([`DomctlVcpucontext`]), `getvcpuinfo` ([`DomctlGetvcpuinfo`]), `max_vcpus` ([`DomctlMaxVcpus`]), `scheduler_op` ([`DomctlSchedulerOp`]), `setdomainhandle` ([`DomctlSetdomainhandle`]), `setdebugging` ([`DomctlSetdebugging`]), `irq_permission` ([`DomctlIrqPermission`]), `iomem_permission` ([`DomctlIomemPermission`]), `ioport_permission` ([`DomctlIoportPermission`]), `hypercall_init` ([`DomctlHypercallInit`]), `settimeoffset` ([`DomctlSettimeoffset`]), `tsc_info` ([`DomctlTscInfo`]), `hvmcontext` ([`DomctlHvmcontext`]), `hvmcontext_partial` ([`DomctlHvmcontextPartial`]), `address_size` ([`DomctlAddressSize`]), `sendtrigger` ([`DomctlSendtrigger`]), `get_device_group` ([`DomctlGetDeviceGroup`]), `assign_device` ([`DomctlAssignDevice`]), `bind_pt_irq` ([`DomctlBindPtIrq`]), `memory_mapping` ([`DomctlMemoryMapping`]), `ioport_mapping` ([`DomctlIoportMapping`]), `ext_vcpucontext` ([`DomctlExtVcpucontext`]), `set_target` ([`DomctlSetTarget`]), `subscribe` ([`DomctlSubscribe`]), `debug_op` ([`DomctlDebugOp`]), `vm_event_op` ([`DomctlVmEventOp`]), `mem_sharing_op`, `cpu_policy` ([`DomctlCpuPolicy`]), `vcpuextstate` ([`DomctlVcpuextstate`]), `vcpu_msrs` ([`DomctlVcpuMsrs`]), `access_required` ([`DomctlSetAccessRequired`]), `audit_p2m` ([`DomctlAuditP2m`]), `set_virq_handler` ([`DomctlSetVirqHandler`]), `gdbsx_guest_memio` ([`DomctlGdbsxMemio`]), `set_broken_page_p2m` ([`DomctlSetBrokenPageP2m`]), `cacheflush` ([`DomctlCacheflush`]), `gdbsx_pauseunp_vcpu` ([`DomctlGdbsxPauseunpVcpu`]), `gdbsx_domstatus` ([`DomctlGdbsxDomstatus`]), `vnuma` ([`DomctlVnuma`]), `psr_cmt_op` ([`DomctlPsrCmtOp`]), `monitor_op` ([`DomctlMonitorOp`]), `psr_alloc` ([`DomctlPsrAlloc`]), `vuart_op` ([`DomctlVuartOp`]), `vmtrace_op` ([`DomctlVmtraceOp`]), `paging_mempool` ([`DomctlPagingMempool`]).
    pub u: [u64; 16],
}
const _: () = assert!(size_of::<Domctl>() == 144 && align_of::<Domctl>() == 8);
