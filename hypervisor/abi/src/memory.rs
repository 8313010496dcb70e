//! `HYPERVISOR_memory_op` (memory.h).

use crate::xen::GuestHandle;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XENMEM_increase_reservation`.
pub const XENMEM_INCREASE_RESERVATION: u32 = 0;
/// `XENMEM_decrease_reservation`.
pub const XENMEM_DECREASE_RESERVATION: u32 = 1;
/// `XENMEM_populate_physmap`.
pub const XENMEM_POPULATE_PHYSMAP: u32 = 6;
/// `XENMEMF_populate_on_demand`.
pub const XENMEMF_POPULATE_ON_DEMAND: u32 = 1 << 16;
/// `XENMEMF_exact_node_request`.
pub const XENMEMF_EXACT_NODE_REQUEST: u32 = 1 << 17;
/// `XENMEMF_vnode`.
pub const XENMEMF_VNODE: u32 = 1 << 18;
/// `XENMEM_exchange`.
pub const XENMEM_EXCHANGE: u32 = 11;
/// `XENMEM_maximum_ram_page`.
pub const XENMEM_MAXIMUM_RAM_PAGE: u32 = 2;
/// `XENMEM_current_reservation`.
pub const XENMEM_CURRENT_RESERVATION: u32 = 3;
/// `XENMEM_maximum_reservation`.
pub const XENMEM_MAXIMUM_RESERVATION: u32 = 4;
/// `XENMEM_maximum_gpfn`.
pub const XENMEM_MAXIMUM_GPFN: u32 = 14;
/// `XENMEM_machphys_mfn_list`.
pub const XENMEM_MACHPHYS_MFN_LIST: u32 = 5;
/// `XENMEM_machphys_compat_mfn_list`.
pub const XENMEM_MACHPHYS_COMPAT_MFN_LIST: u32 = 25;
/// `XENMEM_machphys_mapping`.
pub const XENMEM_MACHPHYS_MAPPING: u32 = 12;
/// `XENMAPSPACE_shared_info`.
pub const XENMAPSPACE_SHARED_INFO: u32 = 0;
/// `XENMAPSPACE_grant_table`.
pub const XENMAPSPACE_GRANT_TABLE: u32 = 1;
/// `XENMAPSPACE_gmfn`.
pub const XENMAPSPACE_GMFN: u32 = 2;
/// `XENMAPSPACE_gmfn_range`.
pub const XENMAPSPACE_GMFN_RANGE: u32 = 3;
/// `XENMAPSPACE_gmfn_foreign`.
pub const XENMAPSPACE_GMFN_FOREIGN: u32 = 4;
/// `XENMAPSPACE_dev_mmio`.
pub const XENMAPSPACE_DEV_MMIO: u32 = 5;
/// `XENMEM_add_to_physmap`.
pub const XENMEM_ADD_TO_PHYSMAP: u32 = 7;
/// `XENMAPIDX_grant_table_status`.
pub const XENMAPIDX_GRANT_TABLE_STATUS: u32 = 1 << 31;
/// `XENMEM_add_to_physmap_batch`.
pub const XENMEM_ADD_TO_PHYSMAP_BATCH: u32 = 23;
/// `XENMEM_remove_from_physmap`.
pub const XENMEM_REMOVE_FROM_PHYSMAP: u32 = 15;
/// `XENMEM_memory_map`.
pub const XENMEM_MEMORY_MAP: u32 = 9;
/// `XENMEM_machine_memory_map`.
pub const XENMEM_MACHINE_MEMORY_MAP: u32 = 10;
/// `XENMEM_set_memory_map`.
pub const XENMEM_SET_MEMORY_MAP: u32 = 13;
/// `XENMEM_set_pod_target`.
pub const XENMEM_SET_POD_TARGET: u32 = 16;
/// `XENMEM_get_pod_target`.
pub const XENMEM_GET_POD_TARGET: u32 = 17;
/// `XENMEM_get_sharing_freed_pages`.
pub const XENMEM_GET_SHARING_FREED_PAGES: u32 = 18;
/// `XENMEM_get_sharing_shared_pages`.
pub const XENMEM_GET_SHARING_SHARED_PAGES: u32 = 19;
/// `XENMEM_paging_op`.
pub const XENMEM_PAGING_OP: u32 = 20;
/// `XENMEM_paging_op_nominate`.
pub const XENMEM_PAGING_OP_NOMINATE: u32 = 0;
/// `XENMEM_paging_op_evict`.
pub const XENMEM_PAGING_OP_EVICT: u32 = 1;
/// `XENMEM_paging_op_prep`.
pub const XENMEM_PAGING_OP_PREP: u32 = 2;
/// `XENMEM_access_op`.
pub const XENMEM_ACCESS_OP: u32 = 21;
/// `XENMEM_access_op_set_access`.
pub const XENMEM_ACCESS_OP_SET_ACCESS: u32 = 0;
/// `XENMEM_access_op_get_access`.
pub const XENMEM_ACCESS_OP_GET_ACCESS: u32 = 1;
/// `XENMEM_access_op_set_access_multi`.
pub const XENMEM_ACCESS_OP_SET_ACCESS_MULTI: u32 = 4;
/// `XENMEM_sharing_op`.
pub const XENMEM_SHARING_OP: u32 = 22;
/// `XENMEM_sharing_op_nominate_gfn`.
pub const XENMEM_SHARING_OP_NOMINATE_GFN: u32 = 0;
/// `XENMEM_sharing_op_nominate_gref`.
pub const XENMEM_SHARING_OP_NOMINATE_GREF: u32 = 1;
/// `XENMEM_sharing_op_share`.
pub const XENMEM_SHARING_OP_SHARE: u32 = 2;
/// `XENMEM_sharing_op_debug_gfn`.
pub const XENMEM_SHARING_OP_DEBUG_GFN: u32 = 3;
/// `XENMEM_sharing_op_debug_mfn`.
pub const XENMEM_SHARING_OP_DEBUG_MFN: u32 = 4;
/// `XENMEM_sharing_op_debug_gref`.
pub const XENMEM_SHARING_OP_DEBUG_GREF: u32 = 5;
/// `XENMEM_sharing_op_add_physmap`.
pub const XENMEM_SHARING_OP_ADD_PHYSMAP: u32 = 6;
/// `XENMEM_sharing_op_audit`.
pub const XENMEM_SHARING_OP_AUDIT: u32 = 7;
/// `XENMEM_sharing_op_range_share`.
pub const XENMEM_SHARING_OP_RANGE_SHARE: u32 = 8;
/// `XENMEM_sharing_op_fork`.
pub const XENMEM_SHARING_OP_FORK: u32 = 9;
/// `XENMEM_sharing_op_fork_reset`.
pub const XENMEM_SHARING_OP_FORK_RESET: u32 = 10;
/// `XENMEM_FORK_WITH_IOMMU_ALLOWED`.
pub const XENMEM_FORK_WITH_IOMMU_ALLOWED: u32 = 1;
/// `XENMEM_FORK_BLOCK_INTERRUPTS`.
pub const XENMEM_FORK_BLOCK_INTERRUPTS: u32 = 2;
/// `XENMEM_FORK_RESET_STATE`.
pub const XENMEM_FORK_RESET_STATE: u32 = 4;
/// `XENMEM_FORK_RESET_MEMORY`.
pub const XENMEM_FORK_RESET_MEMORY: u32 = 8;
/// `XENMEM_claim_pages`.
pub const XENMEM_CLAIM_PAGES: u32 = 24;
/// `XENMEM_reserved_device_memory_map`.
pub const XENMEM_RESERVED_DEVICE_MEMORY_MAP: u32 = 27;
/// `XENMEM_RDM_ALL`.
pub const XENMEM_RDM_ALL: u32 = 1;
/// `XENMEM_acquire_resource`.
pub const XENMEM_ACQUIRE_RESOURCE: u32 = 28;
/// `XENMEM_resource_ioreq_server`.
pub const XENMEM_RESOURCE_IOREQ_SERVER: u32 = 0;
/// `XENMEM_resource_grant_table`.
pub const XENMEM_RESOURCE_GRANT_TABLE: u32 = 1;
/// `XENMEM_resource_vmtrace_buf`.
pub const XENMEM_RESOURCE_VMTRACE_BUF: u32 = 2;
/// `XENMEM_resource_grant_table_id_shared`.
pub const XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED: u32 = 0;
/// `XENMEM_resource_grant_table_id_status`.
pub const XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS: u32 = 1;
/// `XENMEM_resource_ioreq_server_frame_bufioreq`.
pub const XENMEM_RESOURCE_IOREQ_SERVER_FRAME_BUFIOREQ: u32 = 0;
/// `XENMEM_get_vnumainfo`.
pub const XENMEM_GET_VNUMAINFO: u32 = 26;

/// Arguments of the operations that give memory to a domain or take it (`struct xen_memory_reservation`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MemoryReservation {
    /// The extents, one frame number each; address of `xen_pfn_t`.
    pub extent_start: GuestHandle,
    /// Number of extents.
    pub nr_extents: u64,
    /// Log2 of an extent's size in pages.
    pub extent_order: u32,
    /// `XENMEMF_*`.
    pub mem_flags: u32,
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 6],
}
const _: () = assert!(size_of::<MemoryReservation>() == 32 && align_of::<MemoryReservation>() == 8);

/// Arguments of `XENMEM_exchange` (`struct xen_memory_exchange`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MemoryExchange {
    /// `in`.
    pub r#in: MemoryReservation,
    /// `out`.
    pub r#out: MemoryReservation,
    /// In: 0; out: number of input extents that were exchanged.
    pub nr_exchanged: u64,
}
const _: () = assert!(size_of::<MemoryExchange>() == 72 && align_of::<MemoryExchange>() == 8);

/// Arguments of the operations that ask about a domain (`struct xen_memory_domain`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MemoryDomain {
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
}
const _: () = assert!(size_of::<MemoryDomain>() == 2 && align_of::<MemoryDomain>() == 2);

/// Arguments of `XENMEM_machphys_mfn_list` (`struct xen_machphys_mfn_list`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MachphysMfnList {
    /// `max_extents`.
    pub max_extents: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// The extents, one frame number each; address of `xen_pfn_t`.
    pub extent_start: GuestHandle,
    /// Number of extents.
    pub nr_extents: u32,
    #[doc(hidden)]
    pub _pad1: [u8; 4],
}
const _: () = assert!(size_of::<MachphysMfnList>() == 24 && align_of::<MachphysMfnList>() == 8);

/// Answer of `XENMEM_machphys_mapping` (`struct xen_machphys_mapping`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MachphysMapping {
    /// First virtual address of the table.
    pub v_start: u64,
    /// Virtual address behind the table.
    pub v_end: u64,
    /// Highest entry.
    pub max_mfn: u64,
}
const _: () = assert!(size_of::<MachphysMapping>() == 24 && align_of::<MachphysMapping>() == 8);

/// Arguments of `XENMEM_add_to_physmap` (`struct xen_add_to_physmap`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AddToPhysmap {
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
    /// Size.
    pub size: u16,
    /// `XENMAPSPACE_*`.
    pub space: u32,
    /// MSR number.
    pub idx: u64,
    /// Frame in the domain's own numbering.
    pub gpfn: u64,
}
const _: () = assert!(size_of::<AddToPhysmap>() == 24 && align_of::<AddToPhysmap>() == 8);

/// Arguments of `XENMEM_add_to_physmap_batch` (`struct xen_add_to_physmap_batch`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AddToPhysmapBatch {
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
    /// `XENMAPSPACE_*`.
    pub space: u16,
    /// Size.
    pub size: u16,
    /// Arguments; one of `foreign_domid` (u16), `res0` (u16).
    pub u: u16,
    /// Address of `xen_ulong_t`.
    pub idxs: GuestHandle,
    /// Address of `xen_pfn_t`.
    pub gpfns: GuestHandle,
    /// Address of `int`.
    pub errs: GuestHandle,
}
const _: () = assert!(size_of::<AddToPhysmapBatch>() == 32 && align_of::<AddToPhysmapBatch>() == 8);

/// Arguments of `XENMEM_remove_from_physmap` (`struct xen_remove_from_physmap`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RemoveFromPhysmap {
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 6],
    /// Frame in the domain's own numbering.
    pub gpfn: u64,
}
const _: () = assert!(size_of::<RemoveFromPhysmap>() == 16 && align_of::<RemoveFromPhysmap>() == 8);

/// Arguments of `XENMEM_memory_map` and `XENMEM_machine_memory_map` (`struct xen_memory_map`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MemoryMap {
    /// Number of entries.
    pub nr_entries: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// The buffer; address of `void`.
    pub buffer: GuestHandle,
}
const _: () = assert!(size_of::<MemoryMap>() == 16 && align_of::<MemoryMap>() == 8);

/// Arguments of `XENMEM_set_memory_map` (`struct xen_foreign_memory_map`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ForeignMemoryMap {
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 6],
    /// `map`.
    pub map: MemoryMap,
}
const _: () = assert!(size_of::<ForeignMemoryMap>() == 24 && align_of::<ForeignMemoryMap>() == 8);

/// Arguments of `XENMEM_set_pod_target` and `XENMEM_get_pod_target` (`struct xen_pod_target`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PodTarget {
    /// `target_pages`.
    pub target_pages: u64,
    /// `tot_pages`.
    pub tot_pages: u64,
    /// `pod_cache_pages`.
    pub pod_cache_pages: u64,
    /// `pod_entries`.
    pub pod_entries: u64,
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 6],
}
const _: () = assert!(size_of::<PodTarget>() == 40 && align_of::<PodTarget>() == 8);

/// Arguments of `XENMEM_paging_op` (`struct xen_mem_paging_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MemPagingOp {
    /// The operation.
    pub op: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 1],
    /// The domain.
    pub domain: u16,
    #[doc(hidden)]
    pub _pad1: [u8; 4],
    /// The buffer; address of `const_uint8`.
    pub buffer: GuestHandle,
    /// Frame in the domain's own numbering.
    pub gfn: u64,
}
const _: () = assert!(size_of::<MemPagingOp>() == 24 && align_of::<MemPagingOp>() == 8);

/// Arguments of `XENMEM_access_op` (`struct xen_mem_access_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MemAccessOp {
    /// The operation.
    pub op: u8,
    /// `access`.
    pub access: u8,
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
    /// `nr`.
    pub nr: u32,
    /// `pfn`.
    pub pfn: u64,
    /// Address of `const_uint64`.
    pub pfn_list: GuestHandle,
    /// Address of `const_uint8`.
    pub access_list: GuestHandle,
}
const _: () = assert!(size_of::<MemAccessOp>() == 32 && align_of::<MemAccessOp>() == 8);

/// `struct mem_sharing_op_nominate`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MemSharingOpNominate {
    /// Arguments; one of `gfn` (u64), `grant_ref` (u32).
    pub u: u64,
    /// Names a mapping.
    pub handle: u64,
}
const _: () =
    assert!(size_of::<MemSharingOpNominate>() == 16 && align_of::<MemSharingOpNominate>() == 8);

/// `struct mem_sharing_op_share`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MemSharingOpShare {
    /// `source_gfn`.
    pub source_gfn: u64,
    /// `source_handle`.
    pub source_handle: u64,
    /// `client_gfn`.
    pub client_gfn: u64,
    /// `client_handle`.
    pub client_handle: u64,
    /// `client_domain`.
    pub client_domain: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 6],
}
const _: () = assert!(size_of::<MemSharingOpShare>() == 40 && align_of::<MemSharingOpShare>() == 8);

/// `struct mem_sharing_op_range`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MemSharingOpRange {
    /// `first_gfn`.
    pub first_gfn: u64,
    /// `last_gfn`.
    pub last_gfn: u64,
    /// `opaque`.
    pub opaque: u64,
    /// `client_domain`.
    pub client_domain: u16,
    /// Padding.
    pub pad: [u16; 3],
}
const _: () = assert!(size_of::<MemSharingOpRange>() == 32 && align_of::<MemSharingOpRange>() == 8);

/// `struct mem_sharing_op_debug`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MemSharingOpDebug {
    /// Arguments; one of `gfn` (u64), `mfn` (u64), `gref` (u32).
    pub u: u64,
}
const _: () = assert!(size_of::<MemSharingOpDebug>() == 8 && align_of::<MemSharingOpDebug>() == 8);

/// `struct mem_sharing_op_fork`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MemSharingOpFork {
    /// `parent_domain`.
    pub parent_domain: u16,
    /// Flags.
    pub flags: u16,
    /// Must be 0.
    pub pad: u32,
}
const _: () = assert!(size_of::<MemSharingOpFork>() == 8 && align_of::<MemSharingOpFork>() == 4);

/// A range that a device has reserved (`struct xen_reserved_device_memory`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ReservedDeviceMemory {
    /// `start_pfn`.
    pub start_pfn: u64,
    /// Number of pages of the domain.
    pub nr_pages: u64,
}
const _: () =
    assert!(size_of::<ReservedDeviceMemory>() == 16 && align_of::<ReservedDeviceMemory>() == 8);

/// Arguments of `XENMEM_reserved_device_memory_map` (`struct xen_reserved_device_memory_map`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ReservedDeviceMemoryMap {
    /// Flags.
    pub flags: u32,
    /// Number of entries.
    pub nr_entries: u32,
    /// The buffer; address of `xen_reserved_device_memory_t`.
    pub buffer: GuestHandle,
    /// One of `pci` ([`crate::physdev::PhysdevPciDevice`]).
    pub dev: [u16; 2],
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () = assert!(
    size_of::<ReservedDeviceMemoryMap>() == 24 && align_of::<ReservedDeviceMemoryMap>() == 8
);

/// Arguments of `XENMEM_acquire_resource` (`struct xen_mem_acquire_resource`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MemAcquireResource {
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
    /// The type.
    pub r#type: u16,
    /// Number.
    pub id: u32,
    /// Number of frames.
    pub nr_frames: u32,
    /// Must be 0.
    pub pad: u32,
    /// Frame number.
    pub frame: u64,
    /// Address of `xen_pfn_t`.
    pub frame_list: GuestHandle,
}
const _: () =
    assert!(size_of::<MemAcquireResource>() == 32 && align_of::<MemAcquireResource>() == 8);

/// A range of a guest's memory on one virtual node (`struct xen_vmemrange`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Vmemrange {
    /// `start`.
    pub start: u64,
    /// `end`.
    pub end: u64,
    /// Flags.
    pub flags: u32,
    /// `nid`.
    pub nid: u32,
}
const _: () = assert!(size_of::<Vmemrange>() == 24 && align_of::<Vmemrange>() == 8);

/// Arguments of `XENMEM_get_vnumainfo` (`struct xen_vnuma_topology_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VnumaTopologyInfo {
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
    /// Must be 0.
    pub pad: u16,
    /// `nr_vnodes`.
    pub nr_vnodes: u32,
    /// `nr_vcpus`.
    pub nr_vcpus: u32,
    /// `nr_vmemranges`.
    pub nr_vmemranges: u32,
    /// One of `h` (address of `uint`), `pad` (u64).
    pub vdistance: u64,
    /// One of `h` (address of `uint`), `pad` (u64).
    pub vcpu_to_vnode: u64,
    /// One of `h` (address of `xen_vmemrange_t`), `pad` (u64).
    pub vmemrange: u64,
}
const _: () = assert!(size_of::<VnumaTopologyInfo>() == 40 && align_of::<VnumaTopologyInfo>() == 8);
