//! `HYPERVISOR_callback_op` (callback.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `CALLBACKTYPE_event`.
pub const CALLBACKTYPE_EVENT: u16 = 0;
/// `CALLBACKTYPE_failsafe`.
pub const CALLBACKTYPE_FAILSAFE: u16 = 1;
/// `CALLBACKTYPE_syscall`.
pub const CALLBACKTYPE_SYSCALL: u16 = 2;
/// `CALLBACKTYPE_sysenter_deprecated`.
pub const CALLBACKTYPE_SYSENTER_DEPRECATED: u16 = 3;
/// `CALLBACKTYPE_nmi`.
pub const CALLBACKTYPE_NMI: u16 = 4;
/// `CALLBACKTYPE_sysenter`.
pub const CALLBACKTYPE_SYSENTER: u16 = 5;
/// `CALLBACKTYPE_syscall32`.
pub const CALLBACKTYPE_SYSCALL32: u16 = 7;
/// `CALLBACKF_mask_events`.
pub const CALLBACKF_MASK_EVENTS: u16 = 1;
/// `CALLBACKOP_register`.
pub const CALLBACKOP_REGISTER: u32 = 0;
/// `CALLBACKOP_unregister`.
pub const CALLBACKOP_UNREGISTER: u32 = 1;

/// Arguments of `CALLBACKOP_register` (`struct callback_register`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CallbackRegister {
    /// The type.
    pub r#type: u16,
    /// Flags.
    pub flags: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Virtual address of the handler.
    pub address: u64,
}
const _: () = assert!(size_of::<CallbackRegister>() == 16 && align_of::<CallbackRegister>() == 8);

/// Arguments of `CALLBACKOP_unregister` (`struct callback_unregister`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CallbackUnregister {
    /// The type.
    pub r#type: u16,
    /// `_unused`.
    pub unused: u16,
}
const _: () =
    assert!(size_of::<CallbackUnregister>() == 4 && align_of::<CallbackUnregister>() == 2);
