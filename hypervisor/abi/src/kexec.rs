//! `HYPERVISOR_kexec_op` (kexec.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `KEXEC_XEN_NO_PAGES`.
pub const KEXEC_XEN_NO_PAGES: u32 = 17;
/// `KEXEC_TYPE_DEFAULT`.
pub const KEXEC_TYPE_DEFAULT: u32 = 0;
/// `KEXEC_TYPE_CRASH`.
pub const KEXEC_TYPE_CRASH: u32 = 1;
/// `KEXEC_CMD_kexec`.
pub const KEXEC_CMD_KEXEC: u32 = 0;
/// `KEXEC_CMD_kexec_load_v1`.
pub const KEXEC_CMD_KEXEC_LOAD_V1: u32 = 1;
/// `KEXEC_CMD_kexec_unload_v1`.
pub const KEXEC_CMD_KEXEC_UNLOAD_V1: u32 = 2;
/// `KEXEC_CMD_kexec_get_range`.
pub const KEXEC_CMD_KEXEC_GET_RANGE: u32 = 3;
/// `KEXEC_CMD_kexec_load`.
pub const KEXEC_CMD_KEXEC_LOAD: u32 = 4;
/// `KEXEC_CMD_kexec_unload`.
pub const KEXEC_CMD_KEXEC_UNLOAD: u32 = 5;
/// `KEXEC_CMD_kexec_status`.
pub const KEXEC_CMD_KEXEC_STATUS: u32 = 6;

/// `struct xen_kexec_image`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct KexecImage {
    /// `page_list`.
    pub page_list: [u64; 17],
    /// `indirection_page`.
    pub indirection_page: u64,
    /// `start_address`.
    pub start_address: u64,
}
const _: () = assert!(size_of::<KexecImage>() == 152 && align_of::<KexecImage>() == 8);

/// `struct xen_kexec_exec`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct KexecExec {
    /// The type.
    pub r#type: i32,
}
const _: () = assert!(size_of::<KexecExec>() == 4 && align_of::<KexecExec>() == 4);

/// `struct xen_kexec_load_v1`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct KexecLoadV1 {
    /// The type.
    pub r#type: i32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// `image`.
    pub image: KexecImage,
}
const _: () = assert!(size_of::<KexecLoadV1>() == 160 && align_of::<KexecLoadV1>() == 8);

/// `struct xen_kexec_range`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct KexecRange {
    /// `range`.
    pub range: i32,
    /// `nr`.
    pub nr: i32,
    /// Size.
    pub size: u64,
    /// `start`.
    pub start: u64,
}
const _: () = assert!(size_of::<KexecRange>() == 24 && align_of::<KexecRange>() == 8);

/// `struct xen_kexec_segment`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct KexecSegment {
    /// One of `h` (address of `const_void`), `_pad` (u64).
    pub buf: u64,
    /// `buf_size`.
    pub buf_size: u64,
    /// `dest_maddr`.
    pub dest_maddr: u64,
    /// `dest_size`.
    pub dest_size: u64,
}
const _: () = assert!(size_of::<KexecSegment>() == 32 && align_of::<KexecSegment>() == 8);

/// `struct xen_kexec_load`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct KexecLoad {
    /// The type.
    pub r#type: u8,
    /// Padding.
    pub pad: u8,
    /// The part of the architecture.
    pub arch: u16,
    /// `nr_segments`.
    pub nr_segments: u32,
    /// One of `h` (address of `xen_kexec_segment_t`), `_pad` (u64).
    pub segments: u64,
    /// `entry_maddr`.
    pub entry_maddr: u64,
}
const _: () = assert!(size_of::<KexecLoad>() == 24 && align_of::<KexecLoad>() == 8);

/// `struct xen_kexec_unload`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct KexecUnload {
    /// The type.
    pub r#type: u8,
}
const _: () = assert!(size_of::<KexecUnload>() == 1 && align_of::<KexecUnload>() == 1);

/// `struct xen_kexec_status`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct KexecStatus {
    /// The type.
    pub r#type: u8,
}
const _: () = assert!(size_of::<KexecStatus>() == 1 && align_of::<KexecStatus>() == 1);
