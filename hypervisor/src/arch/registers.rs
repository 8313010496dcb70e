//! The registers that every entry into the hypervisor saves.

/// General registers and the interrupt frame, as the entry code pushes them.
/// The order is that of `struct cpu_user_regs` (xen/arch-x86/xen-x86_64.h).
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Registers {
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
    /// The CPU's error code, or 0.
    pub error_code: u32,
    /// The vector, or [`Registers::SYSCALL`] for an entry by SYSCALL.
    pub vector: u32,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl Registers {
    /// Bit of `vector`: the entry was by SYSCALL, so %rcx and %r11 hold what
    /// the instruction put there and SYSRET may be used to go back.
    pub const SYSCALL: u32 = 0x100;

    /// Whether the frame is of a guest (ring 3).
    pub const fn is_guest(&self) -> bool {
        self.cs & 3 == 3
    }

    /// A general register, by its number in an instruction's encoding (0 to 15).
    #[inline]
    pub fn general(&self, number: u8) -> u64 {
        match number {
            0 => self.rax,
            1 => self.rcx,
            2 => self.rdx,
            3 => self.rbx,
            4 => self.rsp,
            5 => self.rbp,
            6 => self.rsi,
            7 => self.rdi,
            8 => self.r8,
            9 => self.r9,
            10 => self.r10,
            11 => self.r11,
            12 => self.r12,
            13 => self.r13,
            14 => self.r14,
            _ => self.r15,
        }
    }

    /// Sets a general register, by its number in an instruction's encoding (0 to 15).
    #[inline]
    pub fn set_general(&mut self, number: u8, value: u64) {
        *match number {
            0 => &mut self.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            4 => &mut self.rsp,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => &mut self.r8,
            9 => &mut self.r9,
            10 => &mut self.r10,
            11 => &mut self.r11,
            12 => &mut self.r12,
            13 => &mut self.r13,
            14 => &mut self.r14,
            _ => &mut self.r15,
        } = value;
    }

    /// The general registers, by their numbers in an instruction's encoding.
    pub fn all_general(&self) -> [u64; 16] {
        [
            self.rax, self.rcx, self.rdx, self.rbx, self.rsp, self.rbp, self.rsi, self.rdi,
            self.r8, self.r9, self.r10, self.r11, self.r12, self.r13, self.r14, self.r15,
        ]
    }

    /// Sets the general registers, by their numbers in an instruction's encoding.
    pub fn set_all_general(&mut self, values: &[u64; 16]) {
        [
            self.rax, self.rcx, self.rdx, self.rbx, self.rsp, self.rbp, self.rsi, self.rdi,
            self.r8, self.r9, self.r10, self.r11, self.r12, self.r13, self.r14, self.r15,
        ] = *values;
    }
}

/// RFLAGS bits (Intel SDM volume 1, 3.4.3).
#[allow(missing_docs)]
pub mod rflags {
    pub const FIXED: u64 = 1 << 1;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    /// All bits that exist.
    pub const VALID: u64 = 0x003f_7fd7;
}

/// Exception vectors (Intel SDM volume 3, 6.3.1), whether used or not.
#[allow(missing_docs, dead_code)]
pub mod vector {
    pub const DIVIDE_ERROR: u8 = 0;
    pub const DEBUG: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BREAKPOINT: u8 = 3;
    pub const OVERFLOW: u8 = 4;
    pub const BOUNDS: u8 = 5;
    pub const INVALID_OPCODE: u8 = 6;
    pub const NO_DEVICE: u8 = 7;
    pub const DOUBLE_FAULT: u8 = 8;
    pub const INVALID_TSS: u8 = 10;
    pub const NO_SEGMENT: u8 = 11;
    pub const STACK_FAULT: u8 = 12;
    pub const GENERAL_PROTECTION: u8 = 13;
    pub const PAGE_FAULT: u8 = 14;
    pub const FPU_ERROR: u8 = 16;
    pub const ALIGNMENT_CHECK: u8 = 17;
    pub const MACHINE_CHECK: u8 = 18;
    pub const SIMD_ERROR: u8 = 19;
    pub const CONTROL_PROTECTION: u8 = 21;
    /// `int 0x80`, whose gate guests may use directly.
    pub const LEGACY_SYSCALL: u8 = 0x80;
}
