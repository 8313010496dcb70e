//! What is particular to 64-bit x86: registers, traps, vCPU contexts, address space (arch-x86/xen.h, arch-x86/xen-x86_64.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `FIRST_RESERVED_GDT_PAGE`: page of the GDT from which on the hypervisor owns it.
pub const FIRST_RESERVED_GDT_PAGE: usize = 14;
/// `FIRST_RESERVED_GDT_BYTE`: offset of that page in bytes.
pub const FIRST_RESERVED_GDT_BYTE: usize = 0xe000;
/// `FIRST_RESERVED_GDT_ENTRY`: first entry of that page.
pub const FIRST_RESERVED_GDT_ENTRY: usize = 0x1c00;
/// `XEN_LEGACY_MAX_VCPUS`: number of `vcpu_info`s in the shared page.
pub const XEN_LEGACY_MAX_VCPUS: usize = 32;
/// `VGCF_I387_VALID`: the FPU state is valid.
pub const VGCF_I387_VALID: u64 = 1;
/// `VGCF_IN_KERNEL`: the vCPU is in its kernel.
pub const VGCF_IN_KERNEL: u64 = 4;
/// `VGCF_failsafe_disables_events`: the failsafe callback masks events.
pub const VGCF_FAILSAFE_DISABLES_EVENTS: u64 = 8;
/// `VGCF_syscall_disables_events`: the system call callback masks events.
pub const VGCF_SYSCALL_DISABLES_EVENTS: u64 = 16;
/// `VGCF_online`: the vCPU is up.
pub const VGCF_ONLINE: u64 = 32;
/// `XEN_X86_EMU_LAPIC`.
pub const XEN_X86_EMU_LAPIC: u32 = 1;
/// `XEN_X86_EMU_HPET`.
pub const XEN_X86_EMU_HPET: u32 = 2;
/// `XEN_X86_EMU_PM`.
pub const XEN_X86_EMU_PM: u32 = 4;
/// `XEN_X86_EMU_RTC`.
pub const XEN_X86_EMU_RTC: u32 = 8;
/// `XEN_X86_EMU_IOAPIC`.
pub const XEN_X86_EMU_IOAPIC: u32 = 16;
/// `XEN_X86_EMU_PIC`.
pub const XEN_X86_EMU_PIC: u32 = 32;
/// `XEN_X86_EMU_VGA`.
pub const XEN_X86_EMU_VGA: u32 = 64;
/// `XEN_X86_EMU_IOMMU`.
pub const XEN_X86_EMU_IOMMU: u32 = 128;
/// `XEN_X86_EMU_PIT`.
pub const XEN_X86_EMU_PIT: u32 = 1 << 8;
/// `XEN_X86_EMU_USE_PIRQ`.
pub const XEN_X86_EMU_USE_PIRQ: u32 = 1 << 9;
/// `XEN_X86_EMU_VPCI`.
pub const XEN_X86_EMU_VPCI: u32 = 1 << 10;
/// `XEN_X86_EMU_ALL`.
pub const XEN_X86_EMU_ALL: u32 = 0x7ff;
/// `XEN_X86_MSR_RELAXED`.
pub const XEN_X86_MSR_RELAXED: u32 = 1;
/// `XEN_X86_MISC_FLAGS_MAX`.
pub const XEN_X86_MISC_FLAGS_MAX: u32 = 1;
/// `XEN_CPUID_NO_SUBLEAF`.
pub const XEN_CPUID_NO_SUBLEAF: u32 = 0xffff_ffff;
/// `XEN_HVM_DEBUGCONS_IOPORT`.
pub const XEN_HVM_DEBUGCONS_IOPORT: u32 = 233;
/// `FLAT_RING3_CS32`: 32-bit user code.
pub const FLAT_RING3_CS32: u16 = 0xe023;
/// `FLAT_RING3_CS64`: 64-bit user code.
pub const FLAT_RING3_CS64: u16 = 0xe033;
/// `FLAT_RING3_DS32`: 32-bit user data.
pub const FLAT_RING3_DS32: u16 = 0xe02b;
/// `FLAT_RING3_DS64`: null.
pub const FLAT_RING3_DS64: u16 = 0x0;
/// `FLAT_RING3_SS32`: user stack.
pub const FLAT_RING3_SS32: u16 = 0xe02b;
/// `FLAT_RING3_SS64`: user stack.
pub const FLAT_RING3_SS64: u16 = 0xe02b;
/// `__HYPERVISOR_VIRT_START`: first address of the hypervisor's range.
pub const HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// `__HYPERVISOR_VIRT_END`: first address behind the hypervisor's range.
pub const HYPERVISOR_VIRT_END: u64 = 0xffff_8800_0000_0000;
/// `__MACH2PHYS_VIRT_START`: first address of the machine-to-physical table.
pub const MACH2PHYS_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// `__MACH2PHYS_VIRT_END`: first address behind the machine-to-physical table.
pub const MACH2PHYS_VIRT_END: u64 = 0xffff_8040_0000_0000;
/// `MACH2PHYS_NR_ENTRIES`.
pub const MACH2PHYS_NR_ENTRIES: u64 = 1 << 35;
/// `SEGBASE_FS`: base of FS.
pub const SEGBASE_FS: u32 = 0;
/// `SEGBASE_GS_USER`: base of GS in user space.
pub const SEGBASE_GS_USER: u32 = 1;
/// `SEGBASE_GS_KERNEL`: base of GS in the kernel.
pub const SEGBASE_GS_KERNEL: u32 = 2;
/// `SEGBASE_GS_USER_SEL`: selector of GS in user space.
pub const SEGBASE_GS_USER_SEL: u32 = 3;
/// `VGCF_in_syscall`: return by SYSRET: RCX and R11 are lost.
pub const VGCF_IN_SYSCALL: u64 = 1 << 8;

/// Registers of a vCPU (`struct cpu_user_regs`, arch-x86/xen-x86_64.h), in the
/// order in which they lie on a stack, lowest address first.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[allow(missing_docs)]
pub struct CpuUserRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// Private to the hypervisor.
    pub error_code: u32,
    /// Private to the hypervisor.
    pub entry_vector: u32,
    pub rip: u64,
    pub cs: u16,
    #[doc(hidden)]
    pub _pad0: [u16; 1],
    /// The vCPU's event mask at the time of the trap: 0 or 1.
    pub saved_upcall_mask: u8,
    #[doc(hidden)]
    pub _pad1: [u8; 3],
    /// RFLAGS; IF is the opposite of `saved_upcall_mask`.
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u16,
    #[doc(hidden)]
    pub _pad2: [u16; 3],
    pub es: u16,
    #[doc(hidden)]
    pub _pad3: [u16; 3],
    pub ds: u16,
    #[doc(hidden)]
    pub _pad4: [u16; 3],
    pub fs: u16,
    #[doc(hidden)]
    pub _pad5: [u16; 3],
    pub gs: u16,
    #[doc(hidden)]
    pub _pad6: [u16; 3],
}
const _: () = assert!(size_of::<CpuUserRegs>() == 200 && align_of::<CpuUserRegs>() == 8);

/// One entry of a PV guest's virtual IDT (`struct trap_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TrapInfo {
    /// Exception vector.
    pub vector: u8,
    /// Flags.
    pub flags: u8,
    /// `cs`.
    pub cs: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Virtual address of the handler.
    pub address: u64,
}
const _: () = assert!(size_of::<TrapInfo>() == 16 && align_of::<TrapInfo>() == 8);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VcpuGuestContextFpuCtxt {
    /// `x`.
    pub x: [u8; 512],
}
const _: () = assert!(
    size_of::<VcpuGuestContextFpuCtxt>() == 512 && align_of::<VcpuGuestContextFpuCtxt>() == 1
);

/// The state of a vCPU, to start it with or to save (`struct vcpu_guest_context`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VcpuGuestContext {
    /// FXSAVE image.
    pub fpu_ctxt: [u8; 512],
    /// Flags.
    pub flags: u64,
    /// General registers.
    pub user_regs: CpuUserRegs,
    /// Virtual IDT.
    pub trap_ctxt: [TrapInfo; 256],
    /// Virtual address of the LDT.
    pub ldt_base: u64,
    /// Number of entries of the LDT.
    pub ldt_ents: u64,
    /// Machine frames of the GDT.
    pub gdt_frames: [u64; 16],
    /// Number of entries of the GDT.
    pub gdt_ents: u64,
    /// Stack selector of the guest's kernel.
    pub kernel_ss: u64,
    /// Stack pointer of the guest's kernel.
    pub kernel_sp: u64,
    /// CR0 to CR7; the user page table is in the second.
    pub ctrlreg: [u64; 8],
    /// DR0 to DR7.
    pub debugreg: [u64; 8],
    /// Entry for events.
    pub event_callback_eip: u64,
    /// Entry for failed returns.
    pub failsafe_callback_eip: u64,
    /// Entry for system calls.
    pub syscall_callback_eip: u64,
    /// `VMASST_TYPE_*` bits.
    pub vm_assist: u64,
    /// Base of FS.
    pub fs_base: u64,
    /// Base of GS in the guest's kernel.
    pub gs_base_kernel: u64,
    /// Base of GS in the guest's user space.
    pub gs_base_user: u64,
}
const _: () = assert!(size_of::<VcpuGuestContext>() == 5168 && align_of::<VcpuGuestContext>() == 8);

/// The x86 part of [`crate::xen::SharedInfo`] (`struct arch_shared_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ArchSharedInfo {
    /// Number of valid entries of the list of machine frames.
    pub max_pfn: u64,
    /// Frame of the three-level tree of the list.
    pub pfn_to_mfn_frame_list_list: u64,
    /// `XEN_NMIREASON_*`.
    pub nmi_reason: u64,
    /// Address space in which `p2m_vaddr` holds.
    pub p2m_cr3: u64,
    /// Virtual address of the list of machine frames.
    pub p2m_vaddr: u64,
    /// Odd while the guest changes the mapping of the list.
    pub p2m_generation: u64,
}
const _: () = assert!(size_of::<ArchSharedInfo>() == 48 && align_of::<ArchSharedInfo>() == 8);

/// The x86 part of a new domain's configuration (`struct xen_arch_domainconfig`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ArchDomainconfig {
    /// `emulation_flags`.
    pub emulation_flags: u32,
    /// `misc_flags`.
    pub misc_flags: u32,
}
const _: () = assert!(size_of::<ArchDomainconfig>() == 8 && align_of::<ArchDomainconfig>() == 4);

/// One CPUID leaf of a CPU policy (`struct xen_cpuid_leaf`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CpuidLeaf {
    /// CPUID leaf.
    pub leaf: u32,
    /// CPUID subleaf, or `XEN_CPUID_NO_SUBLEAF`.
    pub subleaf: u32,
    /// `a`.
    pub a: u32,
    /// `b`.
    pub b: u32,
    /// `c`.
    pub c: u32,
    /// `d`.
    pub d: u32,
}
const _: () = assert!(size_of::<CpuidLeaf>() == 24 && align_of::<CpuidLeaf>() == 4);

/// One MSR of a CPU policy (`struct xen_msr_entry`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MsrEntry {
    /// MSR number.
    pub idx: u32,
    /// Flags.
    pub flags: u32,
    /// New contents.
    pub val: u64,
}
const _: () = assert!(size_of::<MsrEntry>() == 16 && align_of::<MsrEntry>() == 8);

/// What lies on the stack at `HYPERVISOR_iret`, lowest address first (`struct iret_context`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IretContext {
    /// `rax`.
    pub rax: u64,
    /// `r11`.
    pub r11: u64,
    /// `rcx`.
    pub rcx: u64,
    /// Flags.
    pub flags: u64,
    /// `rip`.
    pub rip: u64,
    /// `cs`.
    pub cs: u64,
    /// `rflags`.
    pub rflags: u64,
    /// `rsp`.
    pub rsp: u64,
    /// `ss`.
    pub ss: u64,
}
const _: () = assert!(size_of::<IretContext>() == 72 && align_of::<IretContext>() == 8);

/// The x86 part of [`crate::xen::VcpuInfo`] (`struct arch_vcpu_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ArchVcpuInfo {
    /// Address of the last page fault.
    pub cr2: u64,
    /// Must be 0.
    pub pad: u64,
}
const _: () = assert!(size_of::<ArchVcpuInfo>() == 16 && align_of::<ArchVcpuInfo>() == 8);
