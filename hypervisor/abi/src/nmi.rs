//! `HYPERVISOR_nmi_op` (nmi.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XEN_NMIREASON_io_error`.
pub const XEN_NMIREASON_IO_ERROR: u64 = 1;
/// `XEN_NMIREASON_pci_serr`.
pub const XEN_NMIREASON_PCI_SERR: u64 = 2;
/// `XEN_NMIREASON_unknown`.
pub const XEN_NMIREASON_UNKNOWN: u64 = 4;
/// `XENNMI_register_callback`.
pub const XENNMI_REGISTER_CALLBACK: u32 = 0;
/// `XENNMI_unregister_callback`.
pub const XENNMI_UNREGISTER_CALLBACK: u32 = 1;

/// Arguments of `XENNMI_register_callback` (`struct xennmi_callback`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XennmiCallback {
    /// `handler_address`.
    pub handler_address: u64,
    /// Must be 0.
    pub pad: u64,
}
const _: () = assert!(size_of::<XennmiCallback>() == 16 && align_of::<XennmiCallback>() == 8);
