//! The shared page of the PV console (io/console.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The rings of the console; indices run freely (`struct xencons_interface`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenconsInterface {
    /// `in`.
    pub r#in: [u8; 1024],
    /// `out`.
    pub r#out: [u8; 2048],
    /// `in_cons`.
    pub in_cons: u32,
    /// `in_prod`.
    pub in_prod: u32,
    /// `out_cons`.
    pub out_cons: u32,
    /// `out_prod`.
    pub out_prod: u32,
}
const _: () = assert!(size_of::<XenconsInterface>() == 3088 && align_of::<XenconsInterface>() == 4);
