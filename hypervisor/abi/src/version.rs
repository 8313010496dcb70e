//! `HYPERVISOR_xen_version` (version.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XENVER_version`.
pub const XENVER_VERSION: u32 = 0;
/// `XENVER_extraversion`.
pub const XENVER_EXTRAVERSION: u32 = 1;
/// `XEN_EXTRAVERSION_LEN`.
pub const XEN_EXTRAVERSION_LEN: usize = 16;
/// `XENVER_compile_info`.
pub const XENVER_COMPILE_INFO: u32 = 2;
/// `XENVER_capabilities`.
pub const XENVER_CAPABILITIES: u32 = 3;
/// `XEN_CAPABILITIES_INFO_LEN`.
pub const XEN_CAPABILITIES_INFO_LEN: usize = 1 << 10;
/// `XENVER_changeset`.
pub const XENVER_CHANGESET: u32 = 4;
/// `XEN_CHANGESET_INFO_LEN`.
pub const XEN_CHANGESET_INFO_LEN: usize = 64;
/// `XENVER_platform_parameters`.
pub const XENVER_PLATFORM_PARAMETERS: u32 = 5;
/// `XENVER_get_features`.
pub const XENVER_GET_FEATURES: u32 = 6;
/// `XENVER_pagesize`.
pub const XENVER_PAGESIZE: u32 = 7;
/// `XENVER_guest_handle`.
pub const XENVER_GUEST_HANDLE: u32 = 8;
/// `XENVER_commandline`.
pub const XENVER_COMMANDLINE: u32 = 9;
/// `XENVER_build_id`.
pub const XENVER_BUILD_ID: u32 = 10;

/// Answer of `XENVER_compile_info` (`struct xen_compile_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CompileInfo {
    /// `compiler`.
    pub compiler: [u8; 64],
    /// `compile_by`.
    pub compile_by: [u8; 16],
    /// `compile_domain`.
    pub compile_domain: [u8; 32],
    /// `compile_date`.
    pub compile_date: [u8; 32],
}
const _: () = assert!(size_of::<CompileInfo>() == 144 && align_of::<CompileInfo>() == 1);

/// Answer of `XENVER_platform_parameters` (`struct xen_platform_parameters`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PlatformParameters {
    /// `virt_start`.
    pub virt_start: u64,
}
const _: () =
    assert!(size_of::<PlatformParameters>() == 8 && align_of::<PlatformParameters>() == 8);

/// Arguments of `XENVER_get_features` (`struct xen_feature_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FeatureInfo {
    /// `submap_idx`.
    pub submap_idx: u32,
    /// `submap`.
    pub submap: u32,
}
const _: () = assert!(size_of::<FeatureInfo>() == 8 && align_of::<FeatureInfo>() == 4);

/// Answer of `XENVER_build_id`: a header, with `len` bytes behind it (`struct xen_build_id`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct BuildId {
    /// `len`.
    pub len: u32,
    /// `buf`.
    pub buf: [u8; 0],
}
const _: () = assert!(size_of::<BuildId>() == 4 && align_of::<BuildId>() == 4);
