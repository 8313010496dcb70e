//! Hypercall numbers, memory-management operations, VIRQs, time, `shared_info` and `start_info` (xen.h).

use crate::arch_x86::{ArchSharedInfo, ArchVcpuInfo};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `__HYPERVISOR_set_trap_table`: the virtual IDT.
pub const HYPERVISOR_SET_TRAP_TABLE: u64 = 0;
/// `__HYPERVISOR_mmu_update`: batch of page-table updates.
pub const HYPERVISOR_MMU_UPDATE: u64 = 1;
/// `__HYPERVISOR_set_gdt`: frames of the GDT.
pub const HYPERVISOR_SET_GDT: u64 = 2;
/// `__HYPERVISOR_stack_switch`: kernel stack of the running vCPU.
pub const HYPERVISOR_STACK_SWITCH: u64 = 3;
/// `__HYPERVISOR_set_callbacks`: entries for events, failed returns and system calls.
pub const HYPERVISOR_SET_CALLBACKS: u64 = 4;
/// `__HYPERVISOR_fpu_taskswitch`: CR0.TS.
pub const HYPERVISOR_FPU_TASKSWITCH: u64 = 5;
/// `__HYPERVISOR_sched_op_compat`.
pub const HYPERVISOR_SCHED_OP_COMPAT: u64 = 6;
/// `__HYPERVISOR_platform_op`.
pub const HYPERVISOR_PLATFORM_OP: u64 = 7;
/// `__HYPERVISOR_set_debugreg`.
pub const HYPERVISOR_SET_DEBUGREG: u64 = 8;
/// `__HYPERVISOR_get_debugreg`.
pub const HYPERVISOR_GET_DEBUGREG: u64 = 9;
/// `__HYPERVISOR_update_descriptor`.
pub const HYPERVISOR_UPDATE_DESCRIPTOR: u64 = 10;
/// `__HYPERVISOR_memory_op`: memory of a domain.
pub const HYPERVISOR_MEMORY_OP: u64 = 12;
/// `__HYPERVISOR_multicall`: several calls at once.
pub const HYPERVISOR_MULTICALL: u64 = 13;
/// `__HYPERVISOR_update_va_mapping`: one page-table entry by virtual address.
pub const HYPERVISOR_UPDATE_VA_MAPPING: u64 = 14;
/// `__HYPERVISOR_set_timer_op`: one-shot timer of the running vCPU.
pub const HYPERVISOR_SET_TIMER_OP: u64 = 15;
/// `__HYPERVISOR_event_channel_op_compat`.
pub const HYPERVISOR_EVENT_CHANNEL_OP_COMPAT: u64 = 16;
/// `__HYPERVISOR_xen_version`.
pub const HYPERVISOR_XEN_VERSION: u64 = 17;
/// `__HYPERVISOR_console_io`.
pub const HYPERVISOR_CONSOLE_IO: u64 = 18;
/// `__HYPERVISOR_physdev_op_compat`.
pub const HYPERVISOR_PHYSDEV_OP_COMPAT: u64 = 19;
/// `__HYPERVISOR_grant_table_op`.
pub const HYPERVISOR_GRANT_TABLE_OP: u64 = 20;
/// `__HYPERVISOR_vm_assist`: behaviours that a guest asks for.
pub const HYPERVISOR_VM_ASSIST: u64 = 21;
/// `__HYPERVISOR_update_va_mapping_otherdomain`.
pub const HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN: u64 = 22;
/// `__HYPERVISOR_iret`: return from an exception.
pub const HYPERVISOR_IRET: u64 = 23;
/// `__HYPERVISOR_vcpu_op`.
pub const HYPERVISOR_VCPU_OP: u64 = 24;
/// `__HYPERVISOR_set_segment_base`.
pub const HYPERVISOR_SET_SEGMENT_BASE: u64 = 25;
/// `__HYPERVISOR_mmuext_op`: pins, base pointers, TLB, LDT.
pub const HYPERVISOR_MMUEXT_OP: u64 = 26;
/// `__HYPERVISOR_xsm_op`.
pub const HYPERVISOR_XSM_OP: u64 = 27;
/// `__HYPERVISOR_nmi_op`.
pub const HYPERVISOR_NMI_OP: u64 = 28;
/// `__HYPERVISOR_sched_op`.
pub const HYPERVISOR_SCHED_OP: u64 = 29;
/// `__HYPERVISOR_callback_op`.
pub const HYPERVISOR_CALLBACK_OP: u64 = 30;
/// `__HYPERVISOR_xenoprof_op`.
pub const HYPERVISOR_XENOPROF_OP: u64 = 31;
/// `__HYPERVISOR_event_channel_op`.
pub const HYPERVISOR_EVENT_CHANNEL_OP: u64 = 32;
/// `__HYPERVISOR_physdev_op`.
pub const HYPERVISOR_PHYSDEV_OP: u64 = 33;
/// `__HYPERVISOR_hvm_op`.
pub const HYPERVISOR_HVM_OP: u64 = 34;
/// `__HYPERVISOR_sysctl`.
pub const HYPERVISOR_SYSCTL: u64 = 35;
/// `__HYPERVISOR_domctl`.
pub const HYPERVISOR_DOMCTL: u64 = 36;
/// `__HYPERVISOR_kexec_op`.
pub const HYPERVISOR_KEXEC_OP: u64 = 37;
/// `__HYPERVISOR_tmem_op`.
pub const HYPERVISOR_TMEM_OP: u64 = 38;
/// `__HYPERVISOR_argo_op`.
pub const HYPERVISOR_ARGO_OP: u64 = 39;
/// `__HYPERVISOR_xenpmu_op`.
pub const HYPERVISOR_XENPMU_OP: u64 = 40;
/// `__HYPERVISOR_dm_op`.
pub const HYPERVISOR_DM_OP: u64 = 41;
/// `__HYPERVISOR_hypfs_op`.
pub const HYPERVISOR_HYPFS_OP: u64 = 42;
/// `__HYPERVISOR_arch_0`.
pub const HYPERVISOR_ARCH_0: u64 = 48;
/// `__HYPERVISOR_arch_1`.
pub const HYPERVISOR_ARCH_1: u64 = 49;
/// `__HYPERVISOR_arch_2`.
pub const HYPERVISOR_ARCH_2: u64 = 50;
/// `__HYPERVISOR_arch_3`.
pub const HYPERVISOR_ARCH_3: u64 = 51;
/// `__HYPERVISOR_arch_4`.
pub const HYPERVISOR_ARCH_4: u64 = 52;
/// `__HYPERVISOR_arch_5`.
pub const HYPERVISOR_ARCH_5: u64 = 53;
/// `__HYPERVISOR_arch_6`.
pub const HYPERVISOR_ARCH_6: u64 = 54;
/// `__HYPERVISOR_arch_7`.
pub const HYPERVISOR_ARCH_7: u64 = 55;
/// `VIRQ_TIMER`: timer; one a vCPU.
pub const VIRQ_TIMER: u32 = 0;
/// `VIRQ_DEBUG`: asks a guest to print its state; one a vCPU.
pub const VIRQ_DEBUG: u32 = 1;
/// `VIRQ_CONSOLE`: bytes received on the emergency console.
pub const VIRQ_CONSOLE: u32 = 2;
/// `VIRQ_DOM_EXC`: exceptional event of a domain.
pub const VIRQ_DOM_EXC: u32 = 3;
/// `VIRQ_TBUF`: trace buffers have data.
pub const VIRQ_TBUF: u32 = 4;
/// `VIRQ_DEBUGGER`: a domain paused for a debugger.
pub const VIRQ_DEBUGGER: u32 = 6;
/// `VIRQ_XENOPROF`: profiling data; one a vCPU.
pub const VIRQ_XENOPROF: u32 = 7;
/// `VIRQ_CON_RING`: bytes in the hypervisor's console ring.
pub const VIRQ_CON_RING: u32 = 8;
/// `VIRQ_PCPU_STATE`: a physical CPU changed state.
pub const VIRQ_PCPU_STATE: u32 = 9;
/// `VIRQ_MEM_EVENT`.
pub const VIRQ_MEM_EVENT: u32 = 10;
/// `VIRQ_ARGO`.
pub const VIRQ_ARGO: u32 = 11;
/// `VIRQ_ENOMEM`: little memory left.
pub const VIRQ_ENOMEM: u32 = 12;
/// `VIRQ_XENPMU`: PMU interrupt; one a vCPU.
pub const VIRQ_XENPMU: u32 = 13;
/// `VIRQ_ARCH_0`.
pub const VIRQ_ARCH_0: u32 = 16;
/// `VIRQ_ARCH_1`.
pub const VIRQ_ARCH_1: u32 = 17;
/// `VIRQ_ARCH_2`.
pub const VIRQ_ARCH_2: u32 = 18;
/// `VIRQ_ARCH_3`.
pub const VIRQ_ARCH_3: u32 = 19;
/// `VIRQ_ARCH_4`.
pub const VIRQ_ARCH_4: u32 = 20;
/// `VIRQ_ARCH_5`.
pub const VIRQ_ARCH_5: u32 = 21;
/// `VIRQ_ARCH_6`.
pub const VIRQ_ARCH_6: u32 = 22;
/// `VIRQ_ARCH_7`.
pub const VIRQ_ARCH_7: u32 = 23;
/// `NR_VIRQS`: number of VIRQs.
pub const NR_VIRQS: u32 = 24;
/// `MMU_NORMAL_PT_UPDATE`: write a page-table entry.
pub const MMU_NORMAL_PT_UPDATE: u32 = 0;
/// `MMU_MACHPHYS_UPDATE`: write the machine-to-physical table.
pub const MMU_MACHPHYS_UPDATE: u32 = 1;
/// `MMU_PT_UPDATE_PRESERVE_AD`: write a page-table entry, but keep A and D as they are by then.
pub const MMU_PT_UPDATE_PRESERVE_AD: u32 = 2;
/// `MMU_PT_UPDATE_NO_TRANSLATE`: as `MMU_NORMAL_PT_UPDATE`, the new value not translated.
pub const MMU_PT_UPDATE_NO_TRANSLATE: u32 = 3;
/// `MMUEXT_PIN_L1_TABLE`.
pub const MMUEXT_PIN_L1_TABLE: u32 = 0;
/// `MMUEXT_PIN_L2_TABLE`.
pub const MMUEXT_PIN_L2_TABLE: u32 = 1;
/// `MMUEXT_PIN_L3_TABLE`.
pub const MMUEXT_PIN_L3_TABLE: u32 = 2;
/// `MMUEXT_PIN_L4_TABLE`.
pub const MMUEXT_PIN_L4_TABLE: u32 = 3;
/// `MMUEXT_UNPIN_TABLE`.
pub const MMUEXT_UNPIN_TABLE: u32 = 4;
/// `MMUEXT_NEW_BASEPTR`.
pub const MMUEXT_NEW_BASEPTR: u32 = 5;
/// `MMUEXT_TLB_FLUSH_LOCAL`.
pub const MMUEXT_TLB_FLUSH_LOCAL: u32 = 6;
/// `MMUEXT_INVLPG_LOCAL`.
pub const MMUEXT_INVLPG_LOCAL: u32 = 7;
/// `MMUEXT_TLB_FLUSH_MULTI`.
pub const MMUEXT_TLB_FLUSH_MULTI: u32 = 8;
/// `MMUEXT_INVLPG_MULTI`.
pub const MMUEXT_INVLPG_MULTI: u32 = 9;
/// `MMUEXT_TLB_FLUSH_ALL`.
pub const MMUEXT_TLB_FLUSH_ALL: u32 = 10;
/// `MMUEXT_INVLPG_ALL`.
pub const MMUEXT_INVLPG_ALL: u32 = 11;
/// `MMUEXT_FLUSH_CACHE`.
pub const MMUEXT_FLUSH_CACHE: u32 = 12;
/// `MMUEXT_SET_LDT`.
pub const MMUEXT_SET_LDT: u32 = 13;
/// `MMUEXT_NEW_USER_BASEPTR`.
pub const MMUEXT_NEW_USER_BASEPTR: u32 = 15;
/// `MMUEXT_CLEAR_PAGE`.
pub const MMUEXT_CLEAR_PAGE: u32 = 16;
/// `MMUEXT_COPY_PAGE`.
pub const MMUEXT_COPY_PAGE: u32 = 17;
/// `MMUEXT_FLUSH_CACHE_GLOBAL`.
pub const MMUEXT_FLUSH_CACHE_GLOBAL: u32 = 18;
/// `MMUEXT_MARK_SUPER`.
pub const MMUEXT_MARK_SUPER: u32 = 19;
/// `MMUEXT_UNMARK_SUPER`.
pub const MMUEXT_UNMARK_SUPER: u32 = 20;
/// `UVMF_NONE`: no flush.
pub const UVMF_NONE: u64 = 0;
/// `UVMF_TLB_FLUSH`: flush the TLB.
pub const UVMF_TLB_FLUSH: u64 = 1;
/// `UVMF_INVLPG`: flush the one entry.
pub const UVMF_INVLPG: u64 = 2;
/// `UVMF_FLUSHTYPE_MASK`.
pub const UVMF_FLUSHTYPE_MASK: u64 = 0x3;
/// `UVMF_MULTI`: on the CPUs of the mask that is pointed to.
pub const UVMF_MULTI: u64 = 0;
/// `UVMF_LOCAL`: on this CPU.
pub const UVMF_LOCAL: u64 = 0;
/// `UVMF_ALL`: on all CPUs.
pub const UVMF_ALL: u64 = 4;
/// `CONSOLEIO_write`.
pub const CONSOLEIO_WRITE: u32 = 0;
/// `CONSOLEIO_read`.
pub const CONSOLEIO_READ: u32 = 1;
/// `VMASST_CMD_enable`.
pub const VMASST_CMD_ENABLE: u32 = 0;
/// `VMASST_CMD_disable`.
pub const VMASST_CMD_DISABLE: u32 = 1;
/// `VMASST_TYPE_4gb_segments`: 32-bit only.
pub const VMASST_TYPE_4GB_SEGMENTS: u32 = 0;
/// `VMASST_TYPE_4gb_segments_notify`.
pub const VMASST_TYPE_4GB_SEGMENTS_NOTIFY: u32 = 1;
/// `VMASST_TYPE_writable_pagetables`: emulate writes to page tables (always done).
pub const VMASST_TYPE_WRITABLE_PAGETABLES: u32 = 2;
/// `VMASST_TYPE_pae_extended_cr3`: 32-bit only.
pub const VMASST_TYPE_PAE_EXTENDED_CR3: u32 = 3;
/// `VMASST_TYPE_architectural_iopl`: IOPL as of hardware, taken from the flags of `iret`.
pub const VMASST_TYPE_ARCHITECTURAL_IOPL: u32 = 4;
/// `VMASST_TYPE_runstate_update_flag`: mark the runstate area while it is written.
pub const VMASST_TYPE_RUNSTATE_UPDATE_FLAG: u32 = 5;
/// `VMASST_TYPE_m2p_strict`: no read-only machine-to-physical table in user space.
pub const VMASST_TYPE_M2P_STRICT: u32 = 32;
/// `DOMID_FIRST_RESERVED`.
pub const DOMID_FIRST_RESERVED: u16 = 0x7ff0;
/// `DOMID_SELF`: the caller.
pub const DOMID_SELF: u16 = 0x7ff0;
/// `DOMID_IO`: owner of MMIO frames.
pub const DOMID_IO: u16 = 0x7ff1;
/// `DOMID_XEN`: owner of the hypervisor's pages that guests may map.
pub const DOMID_XEN: u16 = 0x7ff2;
/// `DOMID_COW`: owner of shared copy-on-write pages.
pub const DOMID_COW: u16 = 0x7ff3;
/// `DOMID_INVALID`: no domain.
pub const DOMID_INVALID: u16 = 0x7ff4;
/// `DOMID_IDLE`: the idle domain.
pub const DOMID_IDLE: u16 = 0x7fff;
/// `DOMID_MASK`.
pub const DOMID_MASK: u16 = 0x7fff;
/// `XEN_PVCLOCK_TSC_STABLE_BIT`: the time is monotonic across vCPUs.
pub const XEN_PVCLOCK_TSC_STABLE_BIT: u32 = 1;
/// `XEN_PVCLOCK_GUEST_STOPPED`: the guest was stopped by the host.
pub const XEN_PVCLOCK_GUEST_STOPPED: u32 = 2;
/// `MAX_GUEST_CMDLINE`.
pub const MAX_GUEST_CMDLINE: usize = 0x400;
/// `SIF_PRIVILEGED`: is the domain privileged.
pub const SIF_PRIVILEGED: u32 = 1;
/// `SIF_INITDOMAIN`: is it the control domain.
pub const SIF_INITDOMAIN: u32 = 2;
/// `SIF_MULTIBOOT_MOD`: `mod_start` is a list of modules.
pub const SIF_MULTIBOOT_MOD: u32 = 4;
/// `SIF_MOD_START_PFN`: `mod_start` is a frame number.
pub const SIF_MOD_START_PFN: u32 = 8;
/// `SIF_VIRT_P2M_4TOOLS`: tools understand the mapped list of machine frames.
pub const SIF_VIRT_P2M_4TOOLS: u32 = 16;
/// `SIF_PM_MASK`.
pub const SIF_PM_MASK: u32 = 0xff00;
/// `XEN_VGATYPE_TEXT_MODE_3`.
pub const XEN_VGATYPE_TEXT_MODE_3: u32 = 3;
/// `XEN_VGATYPE_VESA_LFB`.
pub const XEN_VGATYPE_VESA_LFB: u32 = 35;
/// `XEN_VGATYPE_EFI_LFB`.
pub const XEN_VGATYPE_EFI_LFB: u32 = 112;

/// A guest's virtual address of one or more items of the type that the field's
/// documentation names (`XEN_GUEST_HANDLE`, xen.h). Nothing is known about it
/// until it has been checked.
#[repr(transparent)]
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct GuestHandle(pub u64);

impl GuestHandle {
    /// The null handle: some operations then only report a size.
    pub const NULL: Self = Self(0);

    /// Whether the handle is null.
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }
}

/// One extended memory-management operation (`struct mmuext_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MmuextOp {
    /// The operation.
    pub cmd: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// One of `mfn` (u64), `linear_addr` (u64).
    pub arg1: u64,
    /// One of `nr_ents` (u32), `vcpumask` (address of `const_void`), `src_mfn` (u64).
    pub arg2: u64,
}
const _: () = assert!(size_of::<MmuextOp>() == 24 && align_of::<MmuextOp>() == 8);

/// One update of a page-table entry or of the machine-to-physical table (`struct mmu_update`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MmuUpdate {
    /// Machine address of the entry, with the kind of update in the low 2 bits.
    pub ptr: u64,
    /// New contents.
    pub val: u64,
}
const _: () = assert!(size_of::<MmuUpdate>() == 16 && align_of::<MmuUpdate>() == 8);

/// One call of a `HYPERVISOR_multicall` (`struct multicall_entry`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MulticallEntry {
    /// The operation.
    pub op: u64,
    /// Out: what it returned.
    pub result: u64,
    /// Its arguments.
    pub args: [u64; 6],
}
const _: () = assert!(size_of::<MulticallEntry>() == 64 && align_of::<MulticallEntry>() == 8);

/// What a guest needs to tell the time from the TSC; odd `version` means being written (`struct vcpu_time_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VcpuTimeInfo {
    /// Odd while being written.
    pub version: u32,
    /// `pad0`.
    pub pad0: u32,
    /// TSC at which `system_time` was true.
    pub tsc_timestamp: u64,
    /// Nanoseconds since boot.
    pub system_time: u64,
    /// Nanoseconds a (shifted) tick, times 2^32.
    pub tsc_to_system_mul: u32,
    /// How far to shift the ticks left (negative: right) before that.
    pub tsc_shift: i8,
    /// Flags.
    pub flags: u8,
    /// `pad1`.
    pub pad1: [u8; 2],
}
const _: () = assert!(size_of::<VcpuTimeInfo>() == 32 && align_of::<VcpuTimeInfo>() == 8);

/// What the hypervisor and one vCPU share (`struct vcpu_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VcpuInfo {
    /// Not 0: an event waits.
    pub evtchn_upcall_pending: u8,
    /// Not 0: no upcall is made.
    pub evtchn_upcall_mask: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 6],
    /// One bit a word of `evtchn_pending`.
    pub evtchn_pending_sel: u64,
    /// The part of the architecture.
    pub arch: ArchVcpuInfo,
    /// The time.
    pub time: VcpuTimeInfo,
}
const _: () = assert!(size_of::<VcpuInfo>() == 64 && align_of::<VcpuInfo>() == 8);

/// The page that the hypervisor and a domain share (`struct shared_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SharedInfo {
    /// `vcpu_info`.
    pub vcpu_info: [VcpuInfo; 32],
    /// One bit a port: pending.
    pub evtchn_pending: [u64; 64],
    /// One bit a port: masked.
    pub evtchn_mask: [u64; 64],
    /// Odd while the wall clock is written.
    pub wc_version: u32,
    /// Seconds of the epoch at system time 0, low half.
    pub wc_sec: u32,
    /// Nanoseconds of the epoch at system time 0.
    pub wc_nsec: u32,
    /// Seconds of the epoch at system time 0, high half.
    pub wc_sec_hi: u32,
    /// The part of the architecture.
    pub arch: ArchSharedInfo,
}
const _: () = assert!(size_of::<SharedInfo>() == 3136 && align_of::<SharedInfo>() == 8);

/// Where the console of an ordinary domain is (Part of a union).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct StartInfoConsoleDomU {
    /// Machine frame.
    pub mfn: u64,
    /// `evtchn`.
    pub evtchn: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () =
    assert!(size_of::<StartInfoConsoleDomU>() == 16 && align_of::<StartInfoConsoleDomU>() == 8);

/// Where in this page the description of Dom0's video console is (Part of a union).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct StartInfoConsoleDom0 {
    /// `info_off`.
    pub info_off: u32,
    /// `info_size`.
    pub info_size: u32,
}
const _: () =
    assert!(size_of::<StartInfoConsoleDom0>() == 8 && align_of::<StartInfoConsoleDom0>() == 4);

/// What a PV kernel gets at its start, by `%rsi` (`struct start_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct StartInfo {
    /// The magic value.
    pub magic: [u8; 32],
    /// Number of pages of the domain.
    pub nr_pages: u64,
    /// Machine address of the shared page.
    pub shared_info: u64,
    /// Flags.
    pub flags: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Machine frame of the xenstore ring.
    pub store_mfn: u64,
    /// Event channel of xenstore.
    pub store_evtchn: u32,
    #[doc(hidden)]
    pub _pad1: [u8; 4],
    /// One of `domU` ([`StartInfoConsoleDomU`]), `dom0` ([`StartInfoConsoleDom0`]).
    pub console: [u64; 2],
    /// Virtual address of the top page table.
    pub pt_base: u64,
    /// Number of frames of the page tables.
    pub nr_pt_frames: u64,
    /// Virtual address of the list of machine frames, by pseudo-physical frame.
    pub mfn_list: u64,
    /// Virtual address of the initrd, or its frame with `SIF_MOD_START_PFN`.
    pub mod_start: u64,
    /// Size of the initrd in bytes.
    pub mod_len: u64,
    /// The command line, ended by a zero byte.
    pub cmd_line: [u8; 1024],
    /// First frame of the list of machine frames, where it lies outside the initial mapping.
    pub first_p2m_pfn: u64,
    /// Number of frames of that list.
    pub nr_p2m_frames: u64,
}
const _: () = assert!(size_of::<StartInfo>() == 1168 && align_of::<StartInfo>() == 8);

/// A module in the list of `SIF_MULTIBOOT_MOD` (`struct xen_multiboot_mod_list`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MultibootModList {
    /// Virtual address of the initrd, or its frame with `SIF_MOD_START_PFN`.
    pub mod_start: u32,
    /// `mod_end`.
    pub mod_end: u32,
    /// `cmdline`.
    pub cmdline: u32,
    /// Must be 0.
    pub pad: u32,
}
const _: () = assert!(size_of::<MultibootModList>() == 16 && align_of::<MultibootModList>() == 4);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VgaConsoleInfoUTextMode3 {
    /// `font_height`.
    pub font_height: u16,
    /// `cursor_x`.
    pub cursor_x: u16,
    /// `cursor_y`.
    pub cursor_y: u16,
    /// `rows`.
    pub rows: u16,
    /// `columns`.
    pub columns: u16,
}
const _: () = assert!(
    size_of::<VgaConsoleInfoUTextMode3>() == 10 && align_of::<VgaConsoleInfoUTextMode3>() == 2
);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VgaConsoleInfoUVesaLfb {
    /// `width`.
    pub width: u16,
    /// `height`.
    pub height: u16,
    /// `bytes_per_line`.
    pub bytes_per_line: u16,
    /// `bits_per_pixel`.
    pub bits_per_pixel: u16,
    /// `lfb_base`.
    pub lfb_base: u32,
    /// `lfb_size`.
    pub lfb_size: u32,
    /// `red_pos`.
    pub red_pos: u8,
    /// `red_size`.
    pub red_size: u8,
    /// `green_pos`.
    pub green_pos: u8,
    /// `green_size`.
    pub green_size: u8,
    /// `blue_pos`.
    pub blue_pos: u8,
    /// `blue_size`.
    pub blue_size: u8,
    /// `rsvd_pos`.
    pub rsvd_pos: u8,
    /// `rsvd_size`.
    pub rsvd_size: u8,
    /// `gbl_caps`.
    pub gbl_caps: u32,
    /// `mode_attrs`.
    pub mode_attrs: u16,
    /// Must be 0.
    pub pad: u16,
    /// `ext_lfb_base`.
    pub ext_lfb_base: u32,
}
const _: () =
    assert!(size_of::<VgaConsoleInfoUVesaLfb>() == 36 && align_of::<VgaConsoleInfoUVesaLfb>() == 4);

/// State of the video console, for Dom0 (`struct dom0_vga_console_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VgaConsoleInfo {
    /// `video_type`.
    pub video_type: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 3],
    /// Arguments; one of `text_mode_3` ([`VgaConsoleInfoUTextMode3`]), `vesa_lfb` ([`VgaConsoleInfoUVesaLfb`]).
    pub u: [u32; 9],
}
const _: () = assert!(size_of::<VgaConsoleInfo>() == 40 && align_of::<VgaConsoleInfo>() == 4);

/// A bitmap in the caller's memory (`struct xenctl_bitmap`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenctlBitmap {
    /// The bits; address of `uint8`.
    pub bitmap: GuestHandle,
    /// Number of bits.
    pub nr_bits: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () = assert!(size_of::<XenctlBitmap>() == 16 && align_of::<XenctlBitmap>() == 8);
