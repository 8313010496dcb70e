//! What a PVH entry point gets (arch-x86/hvm/start_info.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XEN_HVM_START_MAGIC_VALUE`.
pub const XEN_HVM_START_MAGIC_VALUE: u32 = 0x336e_c578;
/// `XEN_HVM_MEMMAP_TYPE_RAM`.
pub const XEN_HVM_MEMMAP_TYPE_RAM: u32 = 1;
/// `XEN_HVM_MEMMAP_TYPE_RESERVED`.
pub const XEN_HVM_MEMMAP_TYPE_RESERVED: u32 = 2;
/// `XEN_HVM_MEMMAP_TYPE_ACPI`.
pub const XEN_HVM_MEMMAP_TYPE_ACPI: u32 = 3;
/// `XEN_HVM_MEMMAP_TYPE_NVS`.
pub const XEN_HVM_MEMMAP_TYPE_NVS: u32 = 4;
/// `XEN_HVM_MEMMAP_TYPE_UNUSABLE`.
pub const XEN_HVM_MEMMAP_TYPE_UNUSABLE: u32 = 5;
/// `XEN_HVM_MEMMAP_TYPE_DISABLED`.
pub const XEN_HVM_MEMMAP_TYPE_DISABLED: u32 = 6;
/// `XEN_HVM_MEMMAP_TYPE_PMEM`.
pub const XEN_HVM_MEMMAP_TYPE_PMEM: u32 = 7;

/// What a PVH entry point gets, by `%ebx` (`struct hvm_start_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HvmStartInfo {
    /// The magic value.
    pub magic: u32,
    /// Odd while being written.
    pub version: u32,
    /// Flags.
    pub flags: u32,
    /// Number of modules.
    pub nr_modules: u32,
    /// Physical address of the list of modules.
    pub modlist_paddr: u64,
    /// Physical address of the command line, or 0.
    pub cmdline_paddr: u64,
    /// Physical address of the RSDP.
    pub rsdp_paddr: u64,
    /// Physical address of the memory map.
    pub memmap_paddr: u64,
    /// Number of entries of the memory map.
    pub memmap_entries: u32,
    /// Reserved.
    pub reserved: u32,
}
const _: () = assert!(size_of::<HvmStartInfo>() == 56 && align_of::<HvmStartInfo>() == 8);

/// A module of a PVH boot (`struct hvm_modlist_entry`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HvmModlistEntry {
    /// Physical address.
    pub paddr: u64,
    /// Size.
    pub size: u64,
    /// Physical address of the command line, or 0.
    pub cmdline_paddr: u64,
    /// Reserved.
    pub reserved: u64,
}
const _: () = assert!(size_of::<HvmModlistEntry>() == 32 && align_of::<HvmModlistEntry>() == 8);

/// A range of the memory map of a PVH boot (`struct hvm_memmap_table_entry`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HvmMemmapTableEntry {
    /// Address.
    pub addr: u64,
    /// Size.
    pub size: u64,
    /// The type.
    pub r#type: u32,
    /// Reserved.
    pub reserved: u32,
}
const _: () =
    assert!(size_of::<HvmMemmapTableEntry>() == 24 && align_of::<HvmMemmapTableEntry>() == 8);
