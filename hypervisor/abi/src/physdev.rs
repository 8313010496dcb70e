//! `HYPERVISOR_physdev_op` (physdev.h).

use crate::xen::GuestHandle;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `PHYSDEVOP_eoi`.
pub const PHYSDEVOP_EOI: u32 = 12;
/// `PHYSDEVOP_pirq_eoi_gmfn_v1`.
pub const PHYSDEVOP_PIRQ_EOI_GMFN_V1: u32 = 17;
/// `PHYSDEVOP_pirq_eoi_gmfn_v2`.
pub const PHYSDEVOP_PIRQ_EOI_GMFN_V2: u32 = 28;
/// `PHYSDEVOP_irq_status_query`.
pub const PHYSDEVOP_IRQ_STATUS_QUERY: u32 = 5;
/// `XENIRQSTAT_needs_eoi`.
pub const XENIRQSTAT_NEEDS_EOI: u32 = 1;
/// `XENIRQSTAT_shared`.
pub const XENIRQSTAT_SHARED: u32 = 2;
/// `PHYSDEVOP_set_iopl`.
pub const PHYSDEVOP_SET_IOPL: u32 = 6;
/// `PHYSDEVOP_set_iobitmap`.
pub const PHYSDEVOP_SET_IOBITMAP: u32 = 7;
/// `PHYSDEVOP_apic_read`.
pub const PHYSDEVOP_APIC_READ: u32 = 8;
/// `PHYSDEVOP_apic_write`.
pub const PHYSDEVOP_APIC_WRITE: u32 = 9;
/// `PHYSDEVOP_alloc_irq_vector`.
pub const PHYSDEVOP_ALLOC_IRQ_VECTOR: u32 = 10;
/// `PHYSDEVOP_free_irq_vector`.
pub const PHYSDEVOP_FREE_IRQ_VECTOR: u32 = 11;
/// `MAP_PIRQ_TYPE_MSI`.
pub const MAP_PIRQ_TYPE_MSI: u32 = 0;
/// `MAP_PIRQ_TYPE_GSI`.
pub const MAP_PIRQ_TYPE_GSI: u32 = 1;
/// `MAP_PIRQ_TYPE_UNKNOWN`.
pub const MAP_PIRQ_TYPE_UNKNOWN: u32 = 2;
/// `MAP_PIRQ_TYPE_MSI_SEG`.
pub const MAP_PIRQ_TYPE_MSI_SEG: u32 = 3;
/// `MAP_PIRQ_TYPE_MULTI_MSI`.
pub const MAP_PIRQ_TYPE_MULTI_MSI: u32 = 4;
/// `PHYSDEVOP_map_pirq`.
pub const PHYSDEVOP_MAP_PIRQ: u32 = 13;
/// `PHYSDEVOP_unmap_pirq`.
pub const PHYSDEVOP_UNMAP_PIRQ: u32 = 14;
/// `PHYSDEVOP_manage_pci_add`.
pub const PHYSDEVOP_MANAGE_PCI_ADD: u32 = 15;
/// `PHYSDEVOP_manage_pci_remove`.
pub const PHYSDEVOP_MANAGE_PCI_REMOVE: u32 = 16;
/// `PHYSDEVOP_restore_msi`.
pub const PHYSDEVOP_RESTORE_MSI: u32 = 19;
/// `PHYSDEVOP_manage_pci_add_ext`.
pub const PHYSDEVOP_MANAGE_PCI_ADD_EXT: u32 = 20;
/// `PHYSDEVOP_setup_gsi`.
pub const PHYSDEVOP_SETUP_GSI: u32 = 21;
/// `PHYSDEVOP_get_free_pirq`.
pub const PHYSDEVOP_GET_FREE_PIRQ: u32 = 23;
/// `XEN_PCI_MMCFG_RESERVED`.
pub const XEN_PCI_MMCFG_RESERVED: u32 = 1;
/// `PHYSDEVOP_pci_mmcfg_reserved`.
pub const PHYSDEVOP_PCI_MMCFG_RESERVED: u32 = 24;
/// `XEN_PCI_DEV_EXTFN`.
pub const XEN_PCI_DEV_EXTFN: u32 = 1;
/// `XEN_PCI_DEV_VIRTFN`.
pub const XEN_PCI_DEV_VIRTFN: u32 = 2;
/// `XEN_PCI_DEV_PXM`.
pub const XEN_PCI_DEV_PXM: u32 = 4;
/// `PHYSDEVOP_pci_device_add`.
pub const PHYSDEVOP_PCI_DEVICE_ADD: u32 = 25;
/// `PHYSDEVOP_pci_device_remove`.
pub const PHYSDEVOP_PCI_DEVICE_REMOVE: u32 = 26;
/// `PHYSDEVOP_restore_msi_ext`.
pub const PHYSDEVOP_RESTORE_MSI_EXT: u32 = 27;
/// `PHYSDEVOP_prepare_msix`.
pub const PHYSDEVOP_PREPARE_MSIX: u32 = 30;
/// `PHYSDEVOP_release_msix`.
pub const PHYSDEVOP_RELEASE_MSIX: u32 = 31;
/// `PHYSDEVOP_DBGP_RESET_PREPARE`.
pub const PHYSDEVOP_DBGP_RESET_PREPARE: u32 = 1;
/// `PHYSDEVOP_DBGP_RESET_DONE`.
pub const PHYSDEVOP_DBGP_RESET_DONE: u32 = 2;
/// `PHYSDEVOP_DBGP_BUS_UNKNOWN`.
pub const PHYSDEVOP_DBGP_BUS_UNKNOWN: u32 = 0;
/// `PHYSDEVOP_DBGP_BUS_PCI`.
pub const PHYSDEVOP_DBGP_BUS_PCI: u32 = 1;
/// `PHYSDEVOP_dbgp_op`.
pub const PHYSDEVOP_DBGP_OP: u32 = 29;
/// `PHYSDEVOP_IRQ_UNMASK_NOTIFY`.
pub const PHYSDEVOP_IRQ_UNMASK_NOTIFY: u32 = 0x4;

/// Arguments or answer of `PHYSDEVOP_eoi` (`struct physdev_eoi`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevEoi {
    /// Physical interrupt.
    pub irq: u32,
}
const _: () = assert!(size_of::<PhysdevEoi>() == 4 && align_of::<PhysdevEoi>() == 4);

/// Arguments or answer of `PHYSDEVOP_pirq_eoi_gmfn` (`struct physdev_pirq_eoi_gmfn`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevPirqEoiGmfn {
    /// Frame in the domain's own numbering.
    pub gmfn: u64,
}
const _: () =
    assert!(size_of::<PhysdevPirqEoiGmfn>() == 8 && align_of::<PhysdevPirqEoiGmfn>() == 8);

/// Arguments or answer of `PHYSDEVOP_irq_status_query` (`struct physdev_irq_status_query`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevIrqStatusQuery {
    /// Physical interrupt.
    pub irq: u32,
    /// Flags.
    pub flags: u32,
}
const _: () =
    assert!(size_of::<PhysdevIrqStatusQuery>() == 8 && align_of::<PhysdevIrqStatusQuery>() == 4);

/// Arguments or answer of `PHYSDEVOP_set_iopl` (`struct physdev_set_iopl`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevSetIopl {
    /// I/O privilege level.
    pub iopl: u32,
}
const _: () = assert!(size_of::<PhysdevSetIopl>() == 4 && align_of::<PhysdevSetIopl>() == 4);

/// Arguments or answer of `PHYSDEVOP_set_iobitmap` (`struct physdev_set_iobitmap`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevSetIobitmap {
    /// The bits; address of `uint8`.
    pub bitmap: GuestHandle,
    /// Number of ports.
    pub nr_ports: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () =
    assert!(size_of::<PhysdevSetIobitmap>() == 16 && align_of::<PhysdevSetIobitmap>() == 8);

/// Arguments or answer of `PHYSDEVOP_apic` (`struct physdev_apic`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevApic {
    /// `apic_physbase`.
    pub apic_physbase: u64,
    /// `reg`.
    pub reg: u32,
    /// `value`.
    pub value: u32,
}
const _: () = assert!(size_of::<PhysdevApic>() == 16 && align_of::<PhysdevApic>() == 8);

/// Arguments or answer of `PHYSDEVOP_irq` (`struct physdev_irq`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevIrq {
    /// Physical interrupt.
    pub irq: u32,
    /// Exception vector.
    pub vector: u32,
}
const _: () = assert!(size_of::<PhysdevIrq>() == 8 && align_of::<PhysdevIrq>() == 4);

/// Arguments or answer of `PHYSDEVOP_map_pirq` (`struct physdev_map_pirq`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevMapPirq {
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// The type.
    pub r#type: i32,
    /// `index`.
    pub index: i32,
    /// Physical interrupt.
    pub pirq: i32,
    /// `bus`.
    pub bus: i32,
    /// `devfn`.
    pub devfn: i32,
    /// `entry_nr`.
    pub entry_nr: i32,
    #[doc(hidden)]
    pub _pad1: [u8; 4],
    /// `table_base`.
    pub table_base: u64,
}
const _: () = assert!(size_of::<PhysdevMapPirq>() == 40 && align_of::<PhysdevMapPirq>() == 8);

/// Arguments or answer of `PHYSDEVOP_unmap_pirq` (`struct physdev_unmap_pirq`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevUnmapPirq {
    /// The domain, or `DOMID_SELF`.
    pub domid: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// Physical interrupt.
    pub pirq: i32,
}
const _: () = assert!(size_of::<PhysdevUnmapPirq>() == 8 && align_of::<PhysdevUnmapPirq>() == 4);

/// Arguments or answer of `PHYSDEVOP_manage_pci` (`struct physdev_manage_pci`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevManagePci {
    /// `bus`.
    pub bus: u8,
    /// `devfn`.
    pub devfn: u8,
}
const _: () = assert!(size_of::<PhysdevManagePci>() == 2 && align_of::<PhysdevManagePci>() == 1);

/// Arguments or answer of `PHYSDEVOP_restore_msi` (`struct physdev_restore_msi`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevRestoreMsi {
    /// `bus`.
    pub bus: u8,
    /// `devfn`.
    pub devfn: u8,
}
const _: () = assert!(size_of::<PhysdevRestoreMsi>() == 2 && align_of::<PhysdevRestoreMsi>() == 1);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevManagePciExtPhysfn {
    /// `bus`.
    pub bus: u8,
    /// `devfn`.
    pub devfn: u8,
}
const _: () = assert!(
    size_of::<PhysdevManagePciExtPhysfn>() == 2 && align_of::<PhysdevManagePciExtPhysfn>() == 1
);

/// Arguments or answer of `PHYSDEVOP_manage_pci_ext` (`struct physdev_manage_pci_ext`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevManagePciExt {
    /// `bus`.
    pub bus: u8,
    /// `devfn`.
    pub devfn: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// `is_extfn`.
    pub is_extfn: u32,
    /// `is_virtfn`.
    pub is_virtfn: u32,
    /// `physfn`.
    pub physfn: PhysdevManagePciExtPhysfn,
    #[doc(hidden)]
    pub _pad1: [u8; 2],
}
const _: () =
    assert!(size_of::<PhysdevManagePciExt>() == 16 && align_of::<PhysdevManagePciExt>() == 4);

/// Arguments or answer of `PHYSDEVOP_setup_gsi` (`struct physdev_setup_gsi`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevSetupGsi {
    /// `gsi`.
    pub gsi: i32,
    /// `triggering`.
    pub triggering: u8,
    /// `polarity`.
    pub polarity: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
}
const _: () = assert!(size_of::<PhysdevSetupGsi>() == 8 && align_of::<PhysdevSetupGsi>() == 4);

/// Arguments or answer of `PHYSDEVOP_get_free_pirq` (`struct physdev_get_free_pirq`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevGetFreePirq {
    /// The type.
    pub r#type: i32,
    /// Physical interrupt.
    pub pirq: u32,
}
const _: () =
    assert!(size_of::<PhysdevGetFreePirq>() == 8 && align_of::<PhysdevGetFreePirq>() == 4);

/// Arguments or answer of `PHYSDEVOP_pci_mmcfg_reserved` (`struct physdev_pci_mmcfg_reserved`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevPciMmcfgReserved {
    /// Virtual address of the handler.
    pub address: u64,
    /// `segment`.
    pub segment: u16,
    /// `start_bus`.
    pub start_bus: u8,
    /// `end_bus`.
    pub end_bus: u8,
    /// Flags.
    pub flags: u32,
}
const _: () = assert!(
    size_of::<PhysdevPciMmcfgReserved>() == 16 && align_of::<PhysdevPciMmcfgReserved>() == 8
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevPciDeviceAddPhysfn {
    /// `bus`.
    pub bus: u8,
    /// `devfn`.
    pub devfn: u8,
}
const _: () = assert!(
    size_of::<PhysdevPciDeviceAddPhysfn>() == 2 && align_of::<PhysdevPciDeviceAddPhysfn>() == 1
);

/// Arguments or answer of `PHYSDEVOP_pci_device_add` (`struct physdev_pci_device_add`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevPciDeviceAdd {
    /// `seg`.
    pub seg: u16,
    /// `bus`.
    pub bus: u8,
    /// `devfn`.
    pub devfn: u8,
    /// Flags.
    pub flags: u32,
    /// `physfn`.
    pub physfn: PhysdevPciDeviceAddPhysfn,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// `optarr`.
    pub optarr: [u32; 0],
}
const _: () =
    assert!(size_of::<PhysdevPciDeviceAdd>() == 12 && align_of::<PhysdevPciDeviceAdd>() == 4);

/// Arguments or answer of `PHYSDEVOP_pci_device` (`struct physdev_pci_device`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevPciDevice {
    /// `seg`.
    pub seg: u16,
    /// `bus`.
    pub bus: u8,
    /// `devfn`.
    pub devfn: u8,
}
const _: () = assert!(size_of::<PhysdevPciDevice>() == 4 && align_of::<PhysdevPciDevice>() == 2);

/// Arguments or answer of `PHYSDEVOP_dbgp_op` (`struct physdev_dbgp_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysdevDbgpOp {
    /// The operation.
    pub op: u8,
    /// `bus`.
    pub bus: u8,
    /// Arguments; one of `pci` ([`PhysdevPciDevice`]).
    pub u: [u16; 2],
}
const _: () = assert!(size_of::<PhysdevDbgpOp>() == 6 && align_of::<PhysdevDbgpOp>() == 2);
