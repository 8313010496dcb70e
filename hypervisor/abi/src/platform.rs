//! `HYPERVISOR_platform_op` (platform.h).

use crate::xen::GuestHandle;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XENPF_INTERFACE_VERSION`.
pub const XENPF_INTERFACE_VERSION: u32 = 0x300_0001;
/// `XENPF_settime32`.
pub const XENPF_SETTIME32: u32 = 17;
/// `XENPF_settime64`.
pub const XENPF_SETTIME64: u32 = 62;
/// `XENPF_add_memtype`.
pub const XENPF_ADD_MEMTYPE: u32 = 31;
/// `XENPF_del_memtype`.
pub const XENPF_DEL_MEMTYPE: u32 = 32;
/// `XENPF_read_memtype`.
pub const XENPF_READ_MEMTYPE: u32 = 33;
/// `XENPF_microcode_update`.
pub const XENPF_MICROCODE_UPDATE: u32 = 35;
/// `XENPF_platform_quirk`.
pub const XENPF_PLATFORM_QUIRK: u32 = 39;
/// `QUIRK_NOIRQBALANCING`.
pub const QUIRK_NOIRQBALANCING: u32 = 1;
/// `QUIRK_IOAPIC_BAD_REGSEL`.
pub const QUIRK_IOAPIC_BAD_REGSEL: u32 = 2;
/// `QUIRK_IOAPIC_GOOD_REGSEL`.
pub const QUIRK_IOAPIC_GOOD_REGSEL: u32 = 3;
/// `XENPF_efi_runtime_call`.
pub const XENPF_EFI_RUNTIME_CALL: u32 = 49;
/// `XEN_EFI_get_time`.
pub const XEN_EFI_GET_TIME: u32 = 1;
/// `XEN_EFI_set_time`.
pub const XEN_EFI_SET_TIME: u32 = 2;
/// `XEN_EFI_get_wakeup_time`.
pub const XEN_EFI_GET_WAKEUP_TIME: u32 = 3;
/// `XEN_EFI_set_wakeup_time`.
pub const XEN_EFI_SET_WAKEUP_TIME: u32 = 4;
/// `XEN_EFI_get_next_high_monotonic_count`.
pub const XEN_EFI_GET_NEXT_HIGH_MONOTONIC_COUNT: u32 = 5;
/// `XEN_EFI_get_variable`.
pub const XEN_EFI_GET_VARIABLE: u32 = 6;
/// `XEN_EFI_set_variable`.
pub const XEN_EFI_SET_VARIABLE: u32 = 7;
/// `XEN_EFI_get_next_variable_name`.
pub const XEN_EFI_GET_NEXT_VARIABLE_NAME: u32 = 8;
/// `XEN_EFI_query_variable_info`.
pub const XEN_EFI_QUERY_VARIABLE_INFO: u32 = 9;
/// `XEN_EFI_query_capsule_capabilities`.
pub const XEN_EFI_QUERY_CAPSULE_CAPABILITIES: u32 = 10;
/// `XEN_EFI_update_capsule`.
pub const XEN_EFI_UPDATE_CAPSULE: u32 = 11;
/// `XEN_EFI_GET_TIME_SET_CLEARS_NS`.
pub const XEN_EFI_GET_TIME_SET_CLEARS_NS: u32 = 1;
/// `XEN_EFI_GET_WAKEUP_TIME_ENABLED`.
pub const XEN_EFI_GET_WAKEUP_TIME_ENABLED: u32 = 1;
/// `XEN_EFI_GET_WAKEUP_TIME_PENDING`.
pub const XEN_EFI_GET_WAKEUP_TIME_PENDING: u32 = 2;
/// `XEN_EFI_SET_WAKEUP_TIME_ENABLE`.
pub const XEN_EFI_SET_WAKEUP_TIME_ENABLE: u32 = 1;
/// `XEN_EFI_SET_WAKEUP_TIME_ENABLE_ONLY`.
pub const XEN_EFI_SET_WAKEUP_TIME_ENABLE_ONLY: u32 = 2;
/// `XEN_EFI_VARIABLE_NON_VOLATILE`.
pub const XEN_EFI_VARIABLE_NON_VOLATILE: u32 = 1;
/// `XEN_EFI_VARIABLE_BOOTSERVICE_ACCESS`.
pub const XEN_EFI_VARIABLE_BOOTSERVICE_ACCESS: u32 = 2;
/// `XEN_EFI_VARIABLE_RUNTIME_ACCESS`.
pub const XEN_EFI_VARIABLE_RUNTIME_ACCESS: u32 = 4;
/// `XEN_EFI_VARINFO_BOOT_SNAPSHOT`.
pub const XEN_EFI_VARINFO_BOOT_SNAPSHOT: u32 = 1;
/// `XENPF_firmware_info`.
pub const XENPF_FIRMWARE_INFO: u32 = 50;
/// `XEN_FW_DISK_INFO`.
pub const XEN_FW_DISK_INFO: u32 = 1;
/// `XEN_FW_DISK_MBR_SIGNATURE`.
pub const XEN_FW_DISK_MBR_SIGNATURE: u32 = 0x2;
/// `XEN_FW_VBEDDC_INFO`.
pub const XEN_FW_VBEDDC_INFO: u32 = 3;
/// `XEN_FW_EFI_INFO`.
pub const XEN_FW_EFI_INFO: u32 = 4;
/// `XEN_FW_EFI_VERSION`.
pub const XEN_FW_EFI_VERSION: u32 = 0;
/// `XEN_FW_EFI_CONFIG_TABLE`.
pub const XEN_FW_EFI_CONFIG_TABLE: u32 = 1;
/// `XEN_FW_EFI_VENDOR`.
pub const XEN_FW_EFI_VENDOR: u32 = 2;
/// `XEN_FW_EFI_MEM_INFO`.
pub const XEN_FW_EFI_MEM_INFO: u32 = 3;
/// `XEN_FW_EFI_RT_VERSION`.
pub const XEN_FW_EFI_RT_VERSION: u32 = 4;
/// `XEN_FW_EFI_PCI_ROM`.
pub const XEN_FW_EFI_PCI_ROM: u32 = 5;
/// `XEN_FW_EFI_APPLE_PROPERTIES`.
pub const XEN_FW_EFI_APPLE_PROPERTIES: u32 = 6;
/// `XEN_FW_KBD_SHIFT_FLAGS`.
pub const XEN_FW_KBD_SHIFT_FLAGS: u32 = 5;
/// `XENPF_enter_acpi_sleep`.
pub const XENPF_ENTER_ACPI_SLEEP: u32 = 51;
/// `XENPF_ACPI_SLEEP_EXTENDED`.
pub const XENPF_ACPI_SLEEP_EXTENDED: u32 = 1;
/// `XENPF_change_freq`.
pub const XENPF_CHANGE_FREQ: u32 = 52;
/// `XENPF_getidletime`.
pub const XENPF_GETIDLETIME: u32 = 53;
/// `XENPF_set_processor_pminfo`.
pub const XENPF_SET_PROCESSOR_PMINFO: u32 = 54;
/// `XEN_PROCESSOR_PM_CX`.
pub const XEN_PROCESSOR_PM_CX: u32 = 1;
/// `XEN_PROCESSOR_PM_PX`.
pub const XEN_PROCESSOR_PM_PX: u32 = 2;
/// `XEN_PROCESSOR_PM_TX`.
pub const XEN_PROCESSOR_PM_TX: u32 = 4;
/// `XEN_PM_CX`.
pub const XEN_PM_CX: u32 = 0;
/// `XEN_PM_PX`.
pub const XEN_PM_PX: u32 = 1;
/// `XEN_PM_TX`.
pub const XEN_PM_TX: u32 = 2;
/// `XEN_PM_PDC`.
pub const XEN_PM_PDC: u32 = 3;
/// `XEN_PX_PCT`.
pub const XEN_PX_PCT: u32 = 1;
/// `XEN_PX_PSS`.
pub const XEN_PX_PSS: u32 = 2;
/// `XEN_PX_PPC`.
pub const XEN_PX_PPC: u32 = 4;
/// `XEN_PX_PSD`.
pub const XEN_PX_PSD: u32 = 8;
/// `XEN_CPUPERF_SHARED_TYPE_HW`.
pub const XEN_CPUPERF_SHARED_TYPE_HW: u32 = 1;
/// `XEN_CPUPERF_SHARED_TYPE_ALL`.
pub const XEN_CPUPERF_SHARED_TYPE_ALL: u32 = 2;
/// `XEN_CPUPERF_SHARED_TYPE_ANY`.
pub const XEN_CPUPERF_SHARED_TYPE_ANY: u32 = 3;
/// `XENPF_get_cpuinfo`.
pub const XENPF_GET_CPUINFO: u32 = 55;
/// `XEN_PCPU_FLAGS_ONLINE`.
pub const XEN_PCPU_FLAGS_ONLINE: u32 = 1;
/// `XEN_PCPU_FLAGS_INVALID`.
pub const XEN_PCPU_FLAGS_INVALID: u32 = 2;
/// `XENPF_get_cpu_version`.
pub const XENPF_GET_CPU_VERSION: u32 = 48;
/// `XENPF_cpu_online`.
pub const XENPF_CPU_ONLINE: u32 = 56;
/// `XENPF_cpu_offline`.
pub const XENPF_CPU_OFFLINE: u32 = 57;
/// `XENPF_cpu_hotadd`.
pub const XENPF_CPU_HOTADD: u32 = 58;
/// `XENPF_mem_hotadd`.
pub const XENPF_MEM_HOTADD: u32 = 59;
/// `XENPF_core_parking`.
pub const XENPF_CORE_PARKING: u32 = 60;
/// `XEN_CORE_PARKING_SET`.
pub const XEN_CORE_PARKING_SET: u32 = 1;
/// `XEN_CORE_PARKING_GET`.
pub const XEN_CORE_PARKING_GET: u32 = 2;
/// `XENPF_resource_op`.
pub const XENPF_RESOURCE_OP: u32 = 61;
/// `XEN_RESOURCE_OP_MSR_READ`.
pub const XEN_RESOURCE_OP_MSR_READ: u32 = 0;
/// `XEN_RESOURCE_OP_MSR_WRITE`.
pub const XEN_RESOURCE_OP_MSR_WRITE: u32 = 1;
/// `XENPF_get_symbol`.
pub const XENPF_GET_SYMBOL: u32 = 63;

/// Arguments or answer of `XENPF_settime32` (`struct xenpf_settime32`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfSettime32 {
    /// `secs`.
    pub secs: u32,
    /// `nsecs`.
    pub nsecs: u32,
    /// Nanoseconds since boot.
    pub system_time: u64,
}
const _: () = assert!(size_of::<XenpfSettime32>() == 16 && align_of::<XenpfSettime32>() == 8);

/// Arguments or answer of `XENPF_settime64` (`struct xenpf_settime64`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfSettime64 {
    /// `secs`.
    pub secs: u64,
    /// `nsecs`.
    pub nsecs: u32,
    /// `mbz`.
    pub mbz: u32,
    /// Nanoseconds since boot.
    pub system_time: u64,
}
const _: () = assert!(size_of::<XenpfSettime64>() == 24 && align_of::<XenpfSettime64>() == 8);

/// Arguments or answer of `XENPF_add_memtype` (`struct xenpf_add_memtype`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfAddMemtype {
    /// Machine frame.
    pub mfn: u64,
    /// `nr_mfns`.
    pub nr_mfns: u64,
    /// The type.
    pub r#type: u32,
    /// UUID of the domain.
    pub handle: u32,
    /// `reg`.
    pub reg: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () = assert!(size_of::<XenpfAddMemtype>() == 32 && align_of::<XenpfAddMemtype>() == 8);

/// Arguments or answer of `XENPF_del_memtype` (`struct xenpf_del_memtype`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfDelMemtype {
    /// UUID of the domain.
    pub handle: u32,
    /// `reg`.
    pub reg: u32,
}
const _: () = assert!(size_of::<XenpfDelMemtype>() == 8 && align_of::<XenpfDelMemtype>() == 4);

/// Arguments or answer of `XENPF_read_memtype` (`struct xenpf_read_memtype`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfReadMemtype {
    /// `reg`.
    pub reg: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Machine frame.
    pub mfn: u64,
    /// `nr_mfns`.
    pub nr_mfns: u64,
    /// The type.
    pub r#type: u32,
    #[doc(hidden)]
    pub _pad1: [u8; 4],
}
const _: () = assert!(size_of::<XenpfReadMemtype>() == 32 && align_of::<XenpfReadMemtype>() == 8);

/// Arguments or answer of `XENPF_microcode_update` (`struct xenpf_microcode_update`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfMicrocodeUpdate {
    /// The data; address of `const_void`.
    pub data: GuestHandle,
    /// Length in bytes.
    pub length: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () =
    assert!(size_of::<XenpfMicrocodeUpdate>() == 16 && align_of::<XenpfMicrocodeUpdate>() == 8);

/// Arguments or answer of `XENPF_platform_quirk` (`struct xenpf_platform_quirk`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfPlatformQuirk {
    /// `quirk_id`.
    pub quirk_id: u32,
}
const _: () =
    assert!(size_of::<XenpfPlatformQuirk>() == 4 && align_of::<XenpfPlatformQuirk>() == 4);

/// Arguments or answer of `XENPF_efi_time` (`struct xenpf_efi_time`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiTime {
    /// `year`.
    pub year: u16,
    /// `month`.
    pub month: u8,
    /// `day`.
    pub day: u8,
    /// `hour`.
    pub hour: u8,
    /// `min`.
    pub min: u8,
    /// `sec`.
    pub sec: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 1],
    /// `ns`.
    pub ns: u32,
    /// `tz`.
    pub tz: i16,
    /// `daylight`.
    pub daylight: u8,
    #[doc(hidden)]
    pub _pad1: [u8; 1],
}
const _: () = assert!(size_of::<XenpfEfiTime>() == 16 && align_of::<XenpfEfiTime>() == 4);

/// Arguments or answer of `XENPF_efi_guid` (`struct xenpf_efi_guid`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiGuid {
    /// `data1`.
    pub data1: u32,
    /// `data2`.
    pub data2: u16,
    /// `data3`.
    pub data3: u16,
    /// `data4`.
    pub data4: [u8; 8],
}
const _: () = assert!(size_of::<XenpfEfiGuid>() == 16 && align_of::<XenpfEfiGuid>() == 4);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiRuntimeCallUGetTime {
    /// The time.
    pub time: XenpfEfiTime,
    /// `resolution`.
    pub resolution: u32,
    /// `accuracy`.
    pub accuracy: u32,
}
const _: () = assert!(
    size_of::<XenpfEfiRuntimeCallUGetTime>() == 24
        && align_of::<XenpfEfiRuntimeCallUGetTime>() == 4
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiRuntimeCallUGetVariable {
    /// Address of `void`.
    pub name: GuestHandle,
    /// Size.
    pub size: u64,
    /// The data; address of `void`.
    pub data: GuestHandle,
    /// `vendor_guid`.
    pub vendor_guid: XenpfEfiGuid,
}
const _: () = assert!(
    size_of::<XenpfEfiRuntimeCallUGetVariable>() == 40
        && align_of::<XenpfEfiRuntimeCallUGetVariable>() == 8
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiRuntimeCallUSetVariable {
    /// Address of `void`.
    pub name: GuestHandle,
    /// Size.
    pub size: u64,
    /// The data; address of `void`.
    pub data: GuestHandle,
    /// `vendor_guid`.
    pub vendor_guid: XenpfEfiGuid,
}
const _: () = assert!(
    size_of::<XenpfEfiRuntimeCallUSetVariable>() == 40
        && align_of::<XenpfEfiRuntimeCallUSetVariable>() == 8
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiRuntimeCallUGetNextVariableName {
    /// Size.
    pub size: u64,
    /// Address of `void`.
    pub name: GuestHandle,
    /// `vendor_guid`.
    pub vendor_guid: XenpfEfiGuid,
}
const _: () = assert!(
    size_of::<XenpfEfiRuntimeCallUGetNextVariableName>() == 32
        && align_of::<XenpfEfiRuntimeCallUGetNextVariableName>() == 8
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiRuntimeCallUQueryVariableInfo {
    /// `attr`.
    pub attr: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// `max_store_size`.
    pub max_store_size: u64,
    /// `remain_store_size`.
    pub remain_store_size: u64,
    /// `max_size`.
    pub max_size: u64,
}
const _: () = assert!(
    size_of::<XenpfEfiRuntimeCallUQueryVariableInfo>() == 32
        && align_of::<XenpfEfiRuntimeCallUQueryVariableInfo>() == 8
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiRuntimeCallUQueryCapsuleCapabilities {
    /// Address of `void`.
    pub capsule_header_array: GuestHandle,
    /// `capsule_count`.
    pub capsule_count: u64,
    /// `max_capsule_size`.
    pub max_capsule_size: u64,
    /// `reset_type`.
    pub reset_type: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () = assert!(
    size_of::<XenpfEfiRuntimeCallUQueryCapsuleCapabilities>() == 32
        && align_of::<XenpfEfiRuntimeCallUQueryCapsuleCapabilities>() == 8
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiRuntimeCallUUpdateCapsule {
    /// Address of `void`.
    pub capsule_header_array: GuestHandle,
    /// `capsule_count`.
    pub capsule_count: u64,
    /// `sg_list`.
    pub sg_list: u64,
}
const _: () = assert!(
    size_of::<XenpfEfiRuntimeCallUUpdateCapsule>() == 24
        && align_of::<XenpfEfiRuntimeCallUUpdateCapsule>() == 8
);

/// Arguments or answer of `XENPF_efi_runtime_call` (`struct xenpf_efi_runtime_call`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiRuntimeCall {
    /// `function`.
    pub function: u32,
    /// `misc`.
    pub misc: u32,
    /// Out: a status.
    pub status: u64,
    /// Arguments; one of `get_time` ([`XenpfEfiRuntimeCallUGetTime`]), `set_time` ([`XenpfEfiTime`]), `get_wakeup_time` ([`XenpfEfiTime`]), `set_wakeup_time` ([`XenpfEfiTime`]), `get_variable` ([`XenpfEfiRuntimeCallUGetVariable`]), `set_variable` ([`XenpfEfiRuntimeCallUSetVariable`]), `get_next_variable_name` ([`XenpfEfiRuntimeCallUGetNextVariableName`]), `query_variable_info` ([`XenpfEfiRuntimeCallUQueryVariableInfo`]), `query_capsule_capabilities` ([`XenpfEfiRuntimeCallUQueryCapsuleCapabilities`]), `update_capsule` ([`XenpfEfiRuntimeCallUUpdateCapsule`]).
    pub u: [u64; 5],
}
const _: () =
    assert!(size_of::<XenpfEfiRuntimeCall>() == 56 && align_of::<XenpfEfiRuntimeCall>() == 8);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfFirmwareInfoUDiskInfo {
    /// `device`.
    pub device: u8,
    /// Odd while being written.
    pub version: u8,
    /// `interface_support`.
    pub interface_support: u16,
    /// `legacy_max_cylinder`.
    pub legacy_max_cylinder: u16,
    /// `legacy_max_head`.
    pub legacy_max_head: u8,
    /// `legacy_sectors_per_track`.
    pub legacy_sectors_per_track: u8,
    /// Address of `void`.
    pub edd_params: GuestHandle,
}
const _: () = assert!(
    size_of::<XenpfFirmwareInfoUDiskInfo>() == 16 && align_of::<XenpfFirmwareInfoUDiskInfo>() == 8
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfFirmwareInfoUDiskMbrSignature {
    /// `device`.
    pub device: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 3],
    /// `mbr_signature`.
    pub mbr_signature: u32,
}
const _: () = assert!(
    size_of::<XenpfFirmwareInfoUDiskMbrSignature>() == 8
        && align_of::<XenpfFirmwareInfoUDiskMbrSignature>() == 4
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfFirmwareInfoUVbeddcInfo {
    /// `capabilities`.
    pub capabilities: u8,
    /// `edid_transfer_time`.
    pub edid_transfer_time: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 6],
    /// Address of `uint8`.
    pub edid: GuestHandle,
}
const _: () = assert!(
    size_of::<XenpfFirmwareInfoUVbeddcInfo>() == 16
        && align_of::<XenpfFirmwareInfoUVbeddcInfo>() == 8
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfFirmwareInfoUEfiInfoCfg {
    /// Address.
    pub addr: u64,
    /// `nent`.
    pub nent: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () = assert!(
    size_of::<XenpfFirmwareInfoUEfiInfoCfg>() == 16
        && align_of::<XenpfFirmwareInfoUEfiInfoCfg>() == 8
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfFirmwareInfoUEfiInfoVendor {
    /// `revision`.
    pub revision: u32,
    /// `bufsz`.
    pub bufsz: u32,
    /// Address of `void`.
    pub name: GuestHandle,
}
const _: () = assert!(
    size_of::<XenpfFirmwareInfoUEfiInfoVendor>() == 16
        && align_of::<XenpfFirmwareInfoUEfiInfoVendor>() == 8
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfFirmwareInfoUEfiInfoMem {
    /// Address.
    pub addr: u64,
    /// Size.
    pub size: u64,
    /// `attr`.
    pub attr: u64,
    /// The type.
    pub r#type: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () = assert!(
    size_of::<XenpfFirmwareInfoUEfiInfoMem>() == 32
        && align_of::<XenpfFirmwareInfoUEfiInfoMem>() == 8
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfFirmwareInfoUEfiInfoPciRom {
    /// `segment`.
    pub segment: u16,
    /// `bus`.
    pub bus: u8,
    /// `devfn`.
    pub devfn: u8,
    /// `vendor`.
    pub vendor: u16,
    /// `devid`.
    pub devid: u16,
    /// Virtual address of the handler.
    pub address: u64,
    /// Size.
    pub size: u64,
}
const _: () = assert!(
    size_of::<XenpfFirmwareInfoUEfiInfoPciRom>() == 24
        && align_of::<XenpfFirmwareInfoUEfiInfoPciRom>() == 8
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfFirmwareInfoUEfiInfoAppleProperties {
    /// Virtual address of the handler.
    pub address: u64,
    /// Size.
    pub size: u64,
}
const _: () = assert!(
    size_of::<XenpfFirmwareInfoUEfiInfoAppleProperties>() == 16
        && align_of::<XenpfFirmwareInfoUEfiInfoAppleProperties>() == 8
);

/// Arguments or answer of `XENPF_firmware_info` (`struct xenpf_firmware_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfFirmwareInfo {
    /// The type.
    pub r#type: u32,
    /// `index`.
    pub index: u32,
    /// Arguments; one of `disk_info` ([`XenpfFirmwareInfoUDiskInfo`]), `disk_mbr_signature` ([`XenpfFirmwareInfoUDiskMbrSignature`]), `vbeddc_info` ([`XenpfFirmwareInfoUVbeddcInfo`]), `efi_info`, `kbd_shift_flags` (u8).
    pub u: [u64; 4],
}
const _: () = assert!(size_of::<XenpfFirmwareInfo>() == 40 && align_of::<XenpfFirmwareInfo>() == 8);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiInfoCfg {
    /// Address.
    pub addr: u64,
    /// `nent`.
    pub nent: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () = assert!(size_of::<XenpfEfiInfoCfg>() == 16 && align_of::<XenpfEfiInfoCfg>() == 8);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiInfoVendor {
    /// `revision`.
    pub revision: u32,
    /// `bufsz`.
    pub bufsz: u32,
    /// Address of `void`.
    pub name: GuestHandle,
}
const _: () =
    assert!(size_of::<XenpfEfiInfoVendor>() == 16 && align_of::<XenpfEfiInfoVendor>() == 8);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiInfoMem {
    /// Address.
    pub addr: u64,
    /// Size.
    pub size: u64,
    /// `attr`.
    pub attr: u64,
    /// The type.
    pub r#type: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () = assert!(size_of::<XenpfEfiInfoMem>() == 32 && align_of::<XenpfEfiInfoMem>() == 8);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiInfoPciRom {
    /// `segment`.
    pub segment: u16,
    /// `bus`.
    pub bus: u8,
    /// `devfn`.
    pub devfn: u8,
    /// `vendor`.
    pub vendor: u16,
    /// `devid`.
    pub devid: u16,
    /// Virtual address of the handler.
    pub address: u64,
    /// Size.
    pub size: u64,
}
const _: () =
    assert!(size_of::<XenpfEfiInfoPciRom>() == 24 && align_of::<XenpfEfiInfoPciRom>() == 8);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEfiInfoAppleProperties {
    /// Virtual address of the handler.
    pub address: u64,
    /// Size.
    pub size: u64,
}
const _: () = assert!(
    size_of::<XenpfEfiInfoAppleProperties>() == 16
        && align_of::<XenpfEfiInfoAppleProperties>() == 8
);

/// Arguments or answer of `XENPF_enter_acpi_sleep` (`struct xenpf_enter_acpi_sleep`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfEnterAcpiSleep {
    /// `val_a`.
    pub val_a: u16,
    /// `val_b`.
    pub val_b: u16,
    /// `sleep_state`.
    pub sleep_state: u32,
    /// Flags.
    pub flags: u32,
}
const _: () =
    assert!(size_of::<XenpfEnterAcpiSleep>() == 12 && align_of::<XenpfEnterAcpiSleep>() == 4);

/// Arguments or answer of `XENPF_change_freq` (`struct xenpf_change_freq`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfChangeFreq {
    /// Flags.
    pub flags: u32,
    /// `cpu`.
    pub cpu: u32,
    /// `freq`.
    pub freq: u64,
}
const _: () = assert!(size_of::<XenpfChangeFreq>() == 16 && align_of::<XenpfChangeFreq>() == 8);

/// Arguments or answer of `XENPF_getidletime` (`struct xenpf_getidletime`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfGetidletime {
    /// Address of `uint8`.
    pub cpumap_bitmap: GuestHandle,
    /// `cpumap_nr_cpus`.
    pub cpumap_nr_cpus: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Address of `uint64`.
    pub idletime: GuestHandle,
    /// `now`.
    pub now: u64,
}
const _: () = assert!(size_of::<XenpfGetidletime>() == 32 && align_of::<XenpfGetidletime>() == 8);

/// `struct xen_power_register`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PowerRegister {
    /// `space_id`.
    pub space_id: u32,
    /// `bit_width`.
    pub bit_width: u32,
    /// `bit_offset`.
    pub bit_offset: u32,
    /// `access_size`.
    pub access_size: u32,
    /// Virtual address of the handler.
    pub address: u64,
}
const _: () = assert!(size_of::<PowerRegister>() == 24 && align_of::<PowerRegister>() == 8);

/// `struct xen_processor_csd`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ProcessorCsd {
    /// The domain.
    pub domain: u32,
    /// `coord_type`.
    pub coord_type: u32,
    /// `num`.
    pub num: u32,
}
const _: () = assert!(size_of::<ProcessorCsd>() == 12 && align_of::<ProcessorCsd>() == 4);

/// `struct xen_processor_cx`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ProcessorCx {
    /// `reg`.
    pub reg: PowerRegister,
    /// The type.
    pub r#type: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 3],
    /// `latency`.
    pub latency: u32,
    /// `power`.
    pub power: u32,
    /// `dpcnt`.
    pub dpcnt: u32,
    /// Address of `xen_processor_csd_t`.
    pub dp: GuestHandle,
}
const _: () = assert!(size_of::<ProcessorCx>() == 48 && align_of::<ProcessorCx>() == 8);

/// `struct xen_processor_flags`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ProcessorFlags {
    /// Bit fields, lowest bit first: see the header.
    pub bits: u32,
}
const _: () = assert!(size_of::<ProcessorFlags>() == 4 && align_of::<ProcessorFlags>() == 4);

/// `struct xen_processor_power`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ProcessorPower {
    /// `count`.
    pub count: u32,
    /// Flags.
    pub flags: ProcessorFlags,
    /// Address of `xen_processor_cx_t`.
    pub states: GuestHandle,
}
const _: () = assert!(size_of::<ProcessorPower>() == 16 && align_of::<ProcessorPower>() == 8);

/// `struct xen_pct_register`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PctRegister {
    /// `descriptor`.
    pub descriptor: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 1],
    /// Length in bytes.
    pub length: u16,
    /// `space_id`.
    pub space_id: u8,
    /// `bit_width`.
    pub bit_width: u8,
    /// `bit_offset`.
    pub bit_offset: u8,
    /// Reserved.
    pub reserved: u8,
    /// Virtual address of the handler.
    pub address: u64,
}
const _: () = assert!(size_of::<PctRegister>() == 16 && align_of::<PctRegister>() == 8);

/// `struct xen_processor_px`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ProcessorPx {
    /// `core_frequency`.
    pub core_frequency: u64,
    /// `power`.
    pub power: u64,
    /// `transition_latency`.
    pub transition_latency: u64,
    /// `bus_master_latency`.
    pub bus_master_latency: u64,
    /// `control`.
    pub control: u64,
    /// Out: a status.
    pub status: u64,
}
const _: () = assert!(size_of::<ProcessorPx>() == 48 && align_of::<ProcessorPx>() == 8);

/// `struct xen_psd_package`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PsdPackage {
    /// `num_entries`.
    pub num_entries: u64,
    /// `revision`.
    pub revision: u64,
    /// The domain.
    pub domain: u64,
    /// `coord_type`.
    pub coord_type: u64,
    /// `num_processors`.
    pub num_processors: u64,
}
const _: () = assert!(size_of::<PsdPackage>() == 40 && align_of::<PsdPackage>() == 8);

/// `struct xen_processor_performance`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ProcessorPerformance {
    /// Flags.
    pub flags: u32,
    /// `platform_limit`.
    pub platform_limit: u32,
    /// `control_register`.
    pub control_register: PctRegister,
    /// `status_register`.
    pub status_register: PctRegister,
    /// `state_count`.
    pub state_count: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Address of `xen_processor_px_t`.
    pub states: GuestHandle,
    /// `domain_info`.
    pub domain_info: PsdPackage,
    /// `shared_type`.
    pub shared_type: u32,
    #[doc(hidden)]
    pub _pad1: [u8; 4],
}
const _: () =
    assert!(size_of::<ProcessorPerformance>() == 104 && align_of::<ProcessorPerformance>() == 8);

/// Arguments or answer of `XENPF_set_processor_pminfo` (`struct xenpf_set_processor_pminfo`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfSetProcessorPminfo {
    /// Number.
    pub id: u32,
    /// The type.
    pub r#type: u32,
    /// Arguments; one of `power` ([`ProcessorPower`]), `perf` ([`ProcessorPerformance`]), `pdc` (address of `uint32`).
    pub u: [u64; 13],
}
const _: () = assert!(
    size_of::<XenpfSetProcessorPminfo>() == 112 && align_of::<XenpfSetProcessorPminfo>() == 8
);

/// Arguments or answer of `XENPF_pcpuinfo` (`struct xenpf_pcpuinfo`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfPcpuinfo {
    /// `xen_cpuid`.
    pub xen_cpuid: u32,
    /// `max_present`.
    pub max_present: u32,
    /// Flags.
    pub flags: u32,
    /// `apic_id`.
    pub apic_id: u32,
    /// `acpi_id`.
    pub acpi_id: u32,
}
const _: () = assert!(size_of::<XenpfPcpuinfo>() == 20 && align_of::<XenpfPcpuinfo>() == 4);

/// Arguments or answer of `XENPF_pcpu_version` (`struct xenpf_pcpu_version`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfPcpuVersion {
    /// `xen_cpuid`.
    pub xen_cpuid: u32,
    /// `max_present`.
    pub max_present: u32,
    /// `vendor_id`.
    pub vendor_id: [u8; 12],
    /// `family`.
    pub family: u32,
    /// `model`.
    pub model: u32,
    /// `stepping`.
    pub stepping: u32,
}
const _: () = assert!(size_of::<XenpfPcpuVersion>() == 32 && align_of::<XenpfPcpuVersion>() == 4);

/// Arguments or answer of `XENPF_cpu_ol` (`struct xenpf_cpu_ol`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfCpuOl {
    /// `cpuid`.
    pub cpuid: u32,
}
const _: () = assert!(size_of::<XenpfCpuOl>() == 4 && align_of::<XenpfCpuOl>() == 4);

/// Arguments or answer of `XENPF_cpu_hotadd` (`struct xenpf_cpu_hotadd`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfCpuHotadd {
    /// `apic_id`.
    pub apic_id: u32,
    /// `acpi_id`.
    pub acpi_id: u32,
    /// `pxm`.
    pub pxm: u32,
}
const _: () = assert!(size_of::<XenpfCpuHotadd>() == 12 && align_of::<XenpfCpuHotadd>() == 4);

/// Arguments or answer of `XENPF_mem_hotadd` (`struct xenpf_mem_hotadd`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfMemHotadd {
    /// `spfn`.
    pub spfn: u64,
    /// `epfn`.
    pub epfn: u64,
    /// `pxm`.
    pub pxm: u32,
    /// Flags.
    pub flags: u32,
}
const _: () = assert!(size_of::<XenpfMemHotadd>() == 24 && align_of::<XenpfMemHotadd>() == 8);

/// Arguments or answer of `XENPF_core_parking` (`struct xenpf_core_parking`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfCoreParking {
    /// The type.
    pub r#type: u32,
    /// `idle_nums`.
    pub idle_nums: u32,
}
const _: () = assert!(size_of::<XenpfCoreParking>() == 8 && align_of::<XenpfCoreParking>() == 4);

/// Arguments or answer of `XENPF_resource_entry` (`struct xenpf_resource_entry`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfResourceEntry {
    /// Arguments; one of `cmd` (u32), `ret` (i32).
    pub u: u32,
    /// Reserved.
    pub rsvd: u32,
    /// MSR number.
    pub idx: u64,
    /// New contents.
    pub val: u64,
}
const _: () =
    assert!(size_of::<XenpfResourceEntry>() == 24 && align_of::<XenpfResourceEntry>() == 8);

/// Arguments or answer of `XENPF_resource_op` (`struct xenpf_resource_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfResourceOp {
    /// Number of entries.
    pub nr_entries: u32,
    /// `cpu`.
    pub cpu: u32,
    /// Address of `xenpf_resource_entry_t`.
    pub entries: GuestHandle,
}
const _: () = assert!(size_of::<XenpfResourceOp>() == 16 && align_of::<XenpfResourceOp>() == 8);

/// Arguments or answer of `XENPF_symdata` (`struct xenpf_symdata`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenpfSymdata {
    /// `namelen`.
    pub namelen: u32,
    /// `symnum`.
    pub symnum: u32,
    /// Address of `char`.
    pub name: GuestHandle,
    /// Virtual address of the handler.
    pub address: u64,
    /// The type.
    pub r#type: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 7],
}
const _: () = assert!(size_of::<XenpfSymdata>() == 32 && align_of::<XenpfSymdata>() == 8);

/// A platform operation, for the hardware domain (`struct xen_platform_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PlatformOp {
    /// The operation.
    pub cmd: u32,
    /// Must be the interface version that the header gives.
    pub interface_version: u32,
    /// Arguments; one of `settime` ([`XenpfSettime64`]), `settime32` ([`XenpfSettime32`]), `settime64` ([`XenpfSettime64`]), `add_memtype` ([`XenpfAddMemtype`]), `del_memtype` ([`XenpfDelMemtype`]), `read_memtype` ([`XenpfReadMemtype`]), `microcode` ([`XenpfMicrocodeUpdate`]), `platform_quirk` ([`XenpfPlatformQuirk`]), `efi_runtime_call` ([`XenpfEfiRuntimeCall`]), `firmware_info` ([`XenpfFirmwareInfo`]), `enter_acpi_sleep` ([`XenpfEnterAcpiSleep`]), `change_freq` ([`XenpfChangeFreq`]), `getidletime` ([`XenpfGetidletime`]), `set_pminfo` ([`XenpfSetProcessorPminfo`]), `pcpu_info` ([`XenpfPcpuinfo`]), `pcpu_version` ([`XenpfPcpuVersion`]), `cpu_ol` ([`XenpfCpuOl`]), `cpu_add` ([`XenpfCpuHotadd`]), `mem_add` ([`XenpfMemHotadd`]), `core_parking` ([`XenpfCoreParking`]), `resource_op` ([`XenpfResourceOp`]), `symdata` ([`XenpfSymdata`]).
    pub u: [u64; 16],
}
const _: () = assert!(size_of::<PlatformOp>() == 136 && align_of::<PlatformOp>() == 8);
