//! Xenstore's wire protocol and shared page (io/xs_wire.h).

use crate::xen::GuestHandle;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XS_DEBUG`.
pub const XS_DEBUG: u32 = 0;
/// `XENSTORE_RING_SIZE`.
pub const XENSTORE_RING_SIZE: u32 = 1 << 10;
/// `XENSTORE_PAYLOAD_MAX`.
pub const XENSTORE_PAYLOAD_MAX: u32 = 0x1000;
/// `XENSTORE_ABS_PATH_MAX`.
pub const XENSTORE_ABS_PATH_MAX: u32 = 0xc00;
/// `XENSTORE_REL_PATH_MAX`.
pub const XENSTORE_REL_PATH_MAX: u32 = 0x800;
/// `XENSTORE_SERVER_FEATURE_RECONNECTION`.
pub const XENSTORE_SERVER_FEATURE_RECONNECTION: u32 = 1;
/// `XENSTORE_SERVER_FEATURE_ERROR`.
pub const XENSTORE_SERVER_FEATURE_ERROR: u32 = 2;
/// `XENSTORE_CONNECTED`.
pub const XENSTORE_CONNECTED: u32 = 0;
/// `XENSTORE_RECONNECT`.
pub const XENSTORE_RECONNECT: u32 = 1;
/// `XENSTORE_ERROR_NONE`.
pub const XENSTORE_ERROR_NONE: u32 = 0;
/// `XENSTORE_ERROR_COMM`.
pub const XENSTORE_ERROR_COMM: u32 = 1;
/// `XENSTORE_ERROR_RINGIDX`.
pub const XENSTORE_ERROR_RINGIDX: u32 = 2;
/// `XENSTORE_ERROR_PROTO`.
pub const XENSTORE_ERROR_PROTO: u32 = 3;

/// `struct xsd_errors`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XsdErrors {
    /// `errnum`.
    pub errnum: i32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// `errstring`.
    pub errstring: GuestHandle,
}
const _: () = assert!(size_of::<XsdErrors>() == 16 && align_of::<XsdErrors>() == 8);

/// `struct xsd_sockmsg`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XsdSockmsg {
    /// `type`.
    pub r#type: u32,
    /// `req_id`.
    pub req_id: u32,
    /// `tx_id`.
    pub tx_id: u32,
    /// `len`.
    pub len: u32,
}
const _: () = assert!(size_of::<XsdSockmsg>() == 16 && align_of::<XsdSockmsg>() == 4);

/// `struct xenstore_domain_interface`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenstoreDomainInterface {
    /// `req`.
    pub req: [u8; 1024],
    /// `rsp`.
    pub rsp: [u8; 1024],
    /// `req_cons`.
    pub req_cons: u32,
    /// `req_prod`.
    pub req_prod: u32,
    /// `rsp_cons`.
    pub rsp_cons: u32,
    /// `rsp_prod`.
    pub rsp_prod: u32,
    /// `server_features`.
    pub server_features: u32,
    /// `connection`.
    pub connection: u32,
    /// `error`.
    pub error: u32,
}
const _: () = assert!(
    size_of::<XenstoreDomainInterface>() == 2076 && align_of::<XenstoreDomainInterface>() == 4
);
