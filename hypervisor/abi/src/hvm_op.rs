//! Sub-operations of `HYPERVISOR_hvm_op` (hvm/hvm_op.h).

/// `HVMOP_set_param`.
pub const HVMOP_SET_PARAM: u32 = 0;
/// `HVMOP_get_param`.
pub const HVMOP_GET_PARAM: u32 = 1;
/// `HVMOP_flush_tlbs`.
pub const HVMOP_FLUSH_TLBS: u32 = 5;
/// `HVMOP_pagetable_dying`.
pub const HVMOP_PAGETABLE_DYING: u32 = 9;
/// `HVMOP_get_time`.
pub const HVMOP_GET_TIME: u32 = 10;
/// `HVMOP_xentrace`.
pub const HVMOP_XENTRACE: u32 = 11;
/// `HVMOP_set_mem_access`.
pub const HVMOP_SET_MEM_ACCESS: u32 = 12;
/// `HVMOP_get_mem_access`.
pub const HVMOP_GET_MEM_ACCESS: u32 = 13;
/// `HVMOP_get_mem_type`.
pub const HVMOP_GET_MEM_TYPE: u32 = 15;
/// `HVM_IOREQSRV_BUFIOREQ_OFF`.
pub const HVM_IOREQSRV_BUFIOREQ_OFF: u32 = 0;
/// `HVM_IOREQSRV_BUFIOREQ_LEGACY`.
pub const HVM_IOREQSRV_BUFIOREQ_LEGACY: u32 = 1;
/// `HVM_IOREQSRV_BUFIOREQ_ATOMIC`.
pub const HVM_IOREQSRV_BUFIOREQ_ATOMIC: u32 = 2;
/// `HVMOP_set_evtchn_upcall_vector`.
pub const HVMOP_SET_EVTCHN_UPCALL_VECTOR: u32 = 23;
/// `HVMOP_guest_request_vm_event`.
pub const HVMOP_GUEST_REQUEST_VM_EVENT: u32 = 24;
/// `HVMOP_altp2m`.
pub const HVMOP_ALTP2M: u32 = 25;
/// `HVMOP_ALTP2M_INTERFACE_VERSION`.
pub const HVMOP_ALTP2M_INTERFACE_VERSION: u32 = 1;
/// `HVMOP_altp2m_get_domain_state`.
pub const HVMOP_ALTP2M_GET_DOMAIN_STATE: u32 = 1;
/// `HVMOP_altp2m_set_domain_state`.
pub const HVMOP_ALTP2M_SET_DOMAIN_STATE: u32 = 2;
/// `HVMOP_altp2m_vcpu_enable_notify`.
pub const HVMOP_ALTP2M_VCPU_ENABLE_NOTIFY: u32 = 3;
/// `HVMOP_altp2m_create_p2m`.
pub const HVMOP_ALTP2M_CREATE_P2M: u32 = 4;
/// `HVMOP_altp2m_destroy_p2m`.
pub const HVMOP_ALTP2M_DESTROY_P2M: u32 = 5;
/// `HVMOP_altp2m_switch_p2m`.
pub const HVMOP_ALTP2M_SWITCH_P2M: u32 = 6;
/// `HVMOP_altp2m_set_mem_access`.
pub const HVMOP_ALTP2M_SET_MEM_ACCESS: u32 = 7;
/// `HVMOP_altp2m_change_gfn`.
pub const HVMOP_ALTP2M_CHANGE_GFN: u32 = 8;
/// `HVMOP_altp2m_set_mem_access_multi`.
pub const HVMOP_ALTP2M_SET_MEM_ACCESS_MULTI: u32 = 9;
/// `HVMOP_altp2m_set_suppress_ve`.
pub const HVMOP_ALTP2M_SET_SUPPRESS_VE: u32 = 10;
/// `HVMOP_altp2m_get_suppress_ve`.
pub const HVMOP_ALTP2M_GET_SUPPRESS_VE: u32 = 11;
/// `HVMOP_altp2m_get_mem_access`.
pub const HVMOP_ALTP2M_GET_MEM_ACCESS: u32 = 12;
/// `HVMOP_altp2m_vcpu_disable_notify`.
pub const HVMOP_ALTP2M_VCPU_DISABLE_NOTIFY: u32 = 13;
/// `HVMOP_altp2m_get_p2m_idx`.
pub const HVMOP_ALTP2M_GET_P2M_IDX: u32 = 14;
/// `HVMOP_altp2m_set_suppress_ve_multi`.
pub const HVMOP_ALTP2M_SET_SUPPRESS_VE_MULTI: u32 = 15;
/// `HVMOP_altp2m_set_visibility`.
pub const HVMOP_ALTP2M_SET_VISIBILITY: u32 = 16;
