//! Grant tables: entries of both versions, operations, flags, statuses (grant_table.h).

use crate::xen::GuestHandle;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `GNTTAB_NR_RESERVED_ENTRIES`.
pub const GNTTAB_NR_RESERVED_ENTRIES: usize = 8;
/// `GNTTAB_RESERVED_CONSOLE`.
pub const GNTTAB_RESERVED_CONSOLE: u32 = 0;
/// `GNTTAB_RESERVED_XENSTORE`.
pub const GNTTAB_RESERVED_XENSTORE: u32 = 1;
/// `GTF_invalid`: no grant.
pub const GTF_INVALID: u16 = 0;
/// `GTF_permit_access`: the page may be used.
pub const GTF_PERMIT_ACCESS: u16 = 1;
/// `GTF_accept_transfer`: a page is awaited.
pub const GTF_ACCEPT_TRANSFER: u16 = 2;
/// `GTF_transitive`: what another domain granted.
pub const GTF_TRANSITIVE: u16 = 3;
/// `GTF_type_mask`.
pub const GTF_TYPE_MASK: u16 = 3;
/// `GTF_readonly`: read only.
pub const GTF_READONLY: u16 = 4;
/// `GTF_reading`: is being read.
pub const GTF_READING: u16 = 8;
/// `GTF_writing`: is being written.
pub const GTF_WRITING: u16 = 16;
/// `GTF_PWT`.
pub const GTF_PWT: u16 = 32;
/// `GTF_PCD`.
pub const GTF_PCD: u16 = 64;
/// `GTF_PAT`.
pub const GTF_PAT: u16 = 128;
/// `GTF_sub_page`: part of a page.
pub const GTF_SUB_PAGE: u16 = 1 << 8;
/// `GTF_transfer_committed`.
pub const GTF_TRANSFER_COMMITTED: u16 = 4;
/// `GTF_transfer_completed`.
pub const GTF_TRANSFER_COMPLETED: u16 = 8;
/// `GNTTABOP_map_grant_ref`.
pub const GNTTABOP_MAP_GRANT_REF: u32 = 0;
/// `GNTTABOP_unmap_grant_ref`.
pub const GNTTABOP_UNMAP_GRANT_REF: u32 = 1;
/// `GNTTABOP_setup_table`.
pub const GNTTABOP_SETUP_TABLE: u32 = 2;
/// `GNTTABOP_dump_table`.
pub const GNTTABOP_DUMP_TABLE: u32 = 3;
/// `GNTTABOP_transfer`.
pub const GNTTABOP_TRANSFER: u32 = 4;
/// `GNTTABOP_copy`.
pub const GNTTABOP_COPY: u32 = 5;
/// `GNTTABOP_query_size`.
pub const GNTTABOP_QUERY_SIZE: u32 = 6;
/// `GNTTABOP_unmap_and_replace`.
pub const GNTTABOP_UNMAP_AND_REPLACE: u32 = 7;
/// `GNTTABOP_set_version`.
pub const GNTTABOP_SET_VERSION: u32 = 8;
/// `GNTTABOP_get_status_frames`.
pub const GNTTABOP_GET_STATUS_FRAMES: u32 = 9;
/// `GNTTABOP_get_version`.
pub const GNTTABOP_GET_VERSION: u32 = 10;
/// `GNTTABOP_swap_grant_ref`.
pub const GNTTABOP_SWAP_GRANT_REF: u32 = 11;
/// `GNTTABOP_cache_flush`.
pub const GNTTABOP_CACHE_FLUSH: u32 = 12;
/// `GNTCOPY_source_gref`.
pub const GNTCOPY_SOURCE_GREF: u16 = 1;
/// `GNTCOPY_dest_gref`.
pub const GNTCOPY_DEST_GREF: u16 = 2;
/// `GNTTAB_CACHE_CLEAN`.
pub const GNTTAB_CACHE_CLEAN: u32 = 1;
/// `GNTTAB_CACHE_INVAL`.
pub const GNTTAB_CACHE_INVAL: u32 = 2;
/// `GNTTAB_CACHE_SOURCE_GREF`.
pub const GNTTAB_CACHE_SOURCE_GREF: u32 = 1 << 31;
/// `GNTMAP_device_map`: map for devices.
pub const GNTMAP_DEVICE_MAP: u32 = 1;
/// `GNTMAP_host_map`: map for the CPU.
pub const GNTMAP_HOST_MAP: u32 = 2;
/// `GNTMAP_readonly`: read only.
pub const GNTMAP_READONLY: u32 = 4;
/// `GNTMAP_application_map`: for user space.
pub const GNTMAP_APPLICATION_MAP: u32 = 8;
/// `GNTMAP_contains_pte`: `host_addr` is the machine address of an entry.
pub const GNTMAP_CONTAINS_PTE: u32 = 16;
/// `GNTMAP_guest_avail_mask`.
pub const GNTMAP_GUEST_AVAIL_MASK: u32 = 0xffff_0000;
/// `GNTST_okay`: success.
pub const GNTST_OKAY: i16 = 0;
/// `GNTST_general_error`: another error.
pub const GNTST_GENERAL_ERROR: i16 = -1;
/// `GNTST_bad_domain`: no such domain.
pub const GNTST_BAD_DOMAIN: i16 = -2;
/// `GNTST_bad_gntref`: no such grant.
pub const GNTST_BAD_GNTREF: i16 = -3;
/// `GNTST_bad_handle`: no such mapping.
pub const GNTST_BAD_HANDLE: i16 = -4;
/// `GNTST_bad_virt_addr`: bad virtual address.
pub const GNTST_BAD_VIRT_ADDR: i16 = -5;
/// `GNTST_bad_dev_addr`: bad device address.
pub const GNTST_BAD_DEV_ADDR: i16 = -6;
/// `GNTST_no_device_space`: no room in the IOMMU.
pub const GNTST_NO_DEVICE_SPACE: i16 = -7;
/// `GNTST_permission_denied`: not permitted.
pub const GNTST_PERMISSION_DENIED: i16 = -8;
/// `GNTST_bad_page`: bad page.
pub const GNTST_BAD_PAGE: i16 = -9;
/// `GNTST_bad_copy_arg`: the copy crosses a page.
pub const GNTST_BAD_COPY_ARG: i16 = -10;
/// `GNTST_address_too_big`: the address does not fit.
pub const GNTST_ADDRESS_TOO_BIG: i16 = -11;
/// `GNTST_eagain`: try again.
pub const GNTST_EAGAIN: i16 = -12;
/// `GNTST_no_space`: no handle left.
pub const GNTST_NO_SPACE: i16 = -13;

/// An entry of a version 1 grant table (`struct grant_entry_v1`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GrantEntryV1 {
    /// Flags.
    pub flags: u16,
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
    /// Frame number.
    pub frame: u32,
}
const _: () = assert!(size_of::<GrantEntryV1>() == 8 && align_of::<GrantEntryV1>() == 4);

/// What every version 2 grant entry begins with (`struct grant_entry_header`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GrantEntryHeader {
    /// Flags.
    pub flags: u16,
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
}
const _: () = assert!(size_of::<GrantEntryHeader>() == 4 && align_of::<GrantEntryHeader>() == 2);

/// A version 2 grant of a whole page (Part of a union).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GrantEntryV2FullPage {
    /// `hdr`.
    pub hdr: GrantEntryHeader,
    /// `pad0`.
    pub pad0: u32,
    /// Frame number.
    pub frame: u64,
}
const _: () =
    assert!(size_of::<GrantEntryV2FullPage>() == 16 && align_of::<GrantEntryV2FullPage>() == 8);

/// A version 2 grant of part of a page, for copies only (Part of a union).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GrantEntryV2SubPage {
    /// `hdr`.
    pub hdr: GrantEntryHeader,
    /// Offset in the page.
    pub page_off: u16,
    /// Length in bytes.
    pub length: u16,
    /// Frame number.
    pub frame: u64,
}
const _: () =
    assert!(size_of::<GrantEntryV2SubPage>() == 16 && align_of::<GrantEntryV2SubPage>() == 8);

/// A version 2 grant of what another domain granted (Part of a union).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GrantEntryV2Transitive {
    /// `hdr`.
    pub hdr: GrantEntryHeader,
    /// `trans_domid`.
    pub trans_domid: u16,
    /// `pad0`.
    pub pad0: u16,
    /// `gref`.
    pub gref: u32,
}
const _: () =
    assert!(size_of::<GrantEntryV2Transitive>() == 12 && align_of::<GrantEntryV2Transitive>() == 4);

/// Arguments of `GNTTABOP_map_grant_ref` (`struct gnttab_map_grant_ref`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GnttabMapGrantRef {
    /// In: where it is mapped, a virtual address, or with `GNTMAP_contains_pte` a machine address.
    pub host_addr: u64,
    /// Flags.
    pub flags: u32,
    /// A grant of `dom`.
    pub r#ref: u32,
    /// The domain, or `DOMID_SELF`.
    pub dom: u16,
    /// Out: a status.
    pub status: i16,
    /// Names a mapping.
    pub handle: u32,
    /// The address for devices.
    pub dev_bus_addr: u64,
}
const _: () = assert!(size_of::<GnttabMapGrantRef>() == 32 && align_of::<GnttabMapGrantRef>() == 8);

/// Arguments of `GNTTABOP_unmap_grant_ref` (`struct gnttab_unmap_grant_ref`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GnttabUnmapGrantRef {
    /// In: where it is mapped, a virtual address, or with `GNTMAP_contains_pte` a machine address.
    pub host_addr: u64,
    /// The address for devices.
    pub dev_bus_addr: u64,
    /// Names a mapping.
    pub handle: u32,
    /// Out: a status.
    pub status: i16,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
}
const _: () =
    assert!(size_of::<GnttabUnmapGrantRef>() == 24 && align_of::<GnttabUnmapGrantRef>() == 8);

/// Arguments of `GNTTABOP_setup_table` (`struct gnttab_setup_table`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GnttabSetupTable {
    /// The domain, or `DOMID_SELF`.
    pub dom: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// Number of frames.
    pub nr_frames: u32,
    /// Out: a status.
    pub status: i16,
    #[doc(hidden)]
    pub _pad1: [u8; 6],
    /// Address of `xen_pfn_t`.
    pub frame_list: GuestHandle,
}
const _: () = assert!(size_of::<GnttabSetupTable>() == 24 && align_of::<GnttabSetupTable>() == 8);

/// Arguments of `GNTTABOP_dump_table` (`struct gnttab_dump_table`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GnttabDumpTable {
    /// The domain, or `DOMID_SELF`.
    pub dom: u16,
    /// Out: a status.
    pub status: i16,
}
const _: () = assert!(size_of::<GnttabDumpTable>() == 4 && align_of::<GnttabDumpTable>() == 2);

/// Arguments of `GNTTABOP_transfer` (`struct gnttab_transfer`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GnttabTransfer {
    /// Machine frame.
    pub mfn: u64,
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// A grant of `dom`.
    pub r#ref: u32,
    /// Out: a status.
    pub status: i16,
    #[doc(hidden)]
    pub _pad1: [u8; 6],
}
const _: () = assert!(size_of::<GnttabTransfer>() == 24 && align_of::<GnttabTransfer>() == 8);

/// Arguments of `GNTTABOP_copy` (`struct gnttab_copy`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GnttabCopy {
    /// `source`.
    pub source: GnttabCopyPtr,
    /// `dest`.
    pub dest: GnttabCopyPtr,
    /// `len`.
    pub len: u16,
    /// Flags.
    pub flags: u16,
    /// Out: a status.
    pub status: i16,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
}
const _: () = assert!(size_of::<GnttabCopy>() == 40 && align_of::<GnttabCopy>() == 8);

/// One end of a copy (`struct gnttab_copy_ptr`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GnttabCopyPtr {
    /// Arguments; one of `ref` (u32), `gmfn` (u64).
    pub u: u64,
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
    /// Offset in the frame, in bytes.
    pub offset: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () = assert!(size_of::<GnttabCopyPtr>() == 16 && align_of::<GnttabCopyPtr>() == 8);

/// Arguments of `GNTTABOP_query_size` (`struct gnttab_query_size`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GnttabQuerySize {
    /// The domain, or `DOMID_SELF`.
    pub dom: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// Number of frames.
    pub nr_frames: u32,
    /// Out: largest number of frames that the table may have.
    pub max_nr_frames: u32,
    /// Out: a status.
    pub status: i16,
    #[doc(hidden)]
    pub _pad1: [u8; 2],
}
const _: () = assert!(size_of::<GnttabQuerySize>() == 16 && align_of::<GnttabQuerySize>() == 4);

/// Arguments of `GNTTABOP_unmap_and_replace` (`struct gnttab_unmap_and_replace`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GnttabUnmapAndReplace {
    /// In: where it is mapped, a virtual address, or with `GNTMAP_contains_pte` a machine address.
    pub host_addr: u64,
    /// `new_addr`.
    pub new_addr: u64,
    /// Names a mapping.
    pub handle: u32,
    /// Out: a status.
    pub status: i16,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
}
const _: () =
    assert!(size_of::<GnttabUnmapAndReplace>() == 24 && align_of::<GnttabUnmapAndReplace>() == 8);

/// Arguments of `GNTTABOP_set_version` (`struct gnttab_set_version`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GnttabSetVersion {
    /// Odd while being written.
    pub version: u32,
}
const _: () = assert!(size_of::<GnttabSetVersion>() == 4 && align_of::<GnttabSetVersion>() == 4);

/// Arguments of `GNTTABOP_get_status_frames` (`struct gnttab_get_status_frames`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GnttabGetStatusFrames {
    /// Number of frames.
    pub nr_frames: u32,
    /// The domain, or `DOMID_SELF`.
    pub dom: u16,
    /// Out: a status.
    pub status: i16,
    /// Address of `uint64_t`.
    pub frame_list: GuestHandle,
}
const _: () =
    assert!(size_of::<GnttabGetStatusFrames>() == 16 && align_of::<GnttabGetStatusFrames>() == 8);

/// Arguments of `GNTTABOP_get_version` (`struct gnttab_get_version`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GnttabGetVersion {
    /// The domain, or `DOMID_SELF`.
    pub dom: u16,
    /// Must be 0.
    pub pad: u16,
    /// Odd while being written.
    pub version: u32,
}
const _: () = assert!(size_of::<GnttabGetVersion>() == 8 && align_of::<GnttabGetVersion>() == 4);

/// Arguments of `GNTTABOP_swap_grant_ref` (`struct gnttab_swap_grant_ref`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GnttabSwapGrantRef {
    /// `ref_a`.
    pub ref_a: u32,
    /// `ref_b`.
    pub ref_b: u32,
    /// Out: a status.
    pub status: i16,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
}
const _: () =
    assert!(size_of::<GnttabSwapGrantRef>() == 12 && align_of::<GnttabSwapGrantRef>() == 4);

/// Arguments of `GNTTABOP_cache_flush` (`struct gnttab_cache_flush`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GnttabCacheFlush {
    /// One of `dev_bus_addr` (u64), `ref` (u32).
    pub a: u64,
    /// Offset in the frame, in bytes.
    pub offset: u16,
    /// Length in bytes.
    pub length: u16,
    /// The operation.
    pub op: u32,
}
const _: () = assert!(size_of::<GnttabCacheFlush>() == 16 && align_of::<GnttabCacheFlush>() == 8);
