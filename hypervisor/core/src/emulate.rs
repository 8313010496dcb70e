//! Decodes the few instructions of guests that the hypervisor carries out.
//!
//! A PV guest runs in ring 3, so its kernel's privileged instructions fault and
//! its writes to page tables, which it maps read-only, do too. This module turns
//! the bytes of such an instruction and the vCPU's registers into a typed
//! description; the caller checks what the guest may do, does it, and calls
//! [`Registers::advance`]. What is not described here is reflected to the guest as the
//! fault that it was: the set is that of Xen 4.17.
//!
//! # Invariants
//!
//! - Decoding reads nothing but its arguments: bytes are fetched once, by the caller.
//! - No instruction that changes the flow of control is decoded, except `INT n`.
//! - A length is never more than 15, nor more than the bytes that were given.

use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, Instruction, MemorySize, Mnemonic, OpKind,
    Register,
};

use crate::addr::GuestVirtual;

#[cfg(test)]
mod tests;
mod write;

pub use write::{MemoryWrite, Written, decode_memory_write};

/// Most bytes of an instruction.
pub const MAX_INSTRUCTION: usize = 15;

/// `RFLAGS.CF`
pub const FLAG_CF: u64 = 1 << 0;
/// `RFLAGS.PF`
pub const FLAG_PF: u64 = 1 << 2;
/// `RFLAGS.AF`
pub const FLAG_AF: u64 = 1 << 4;
/// `RFLAGS.ZF`
pub const FLAG_ZF: u64 = 1 << 6;
/// `RFLAGS.SF`
pub const FLAG_SF: u64 = 1 << 7;
/// `RFLAGS.TF`
pub const FLAG_TF: u64 = 1 << 8;
/// `RFLAGS.DF`
pub const FLAG_DF: u64 = 1 << 10;
/// `RFLAGS.OF`
pub const FLAG_OF: u64 = 1 << 11;
/// `RFLAGS.RF`
pub const FLAG_RF: u64 = 1 << 16;

/// Numbers of the general registers as instructions encode them.
#[allow(missing_docs)]
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
}

/// The kind of code segment that the guest executes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeMode {
    /// 64-bit code.
    Long,
    /// 32-bit code in compatibility mode.
    Compat32,
    /// 16-bit code in compatibility mode.
    Compat16,
}

impl CodeMode {
    fn bits(self) -> u32 {
        match self {
            Self::Long => 64,
            Self::Compat32 => 32,
            Self::Compat16 => 16,
        }
    }
}

/// Width of an operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 1 byte
    Byte,
    /// 2 bytes
    Word,
    /// 4 bytes
    Dword,
    /// 8 bytes
    Qword,
}

impl Width {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
            Self::Qword => 8,
        }
    }

    /// In bits.
    pub const fn bits(self) -> u32 {
        self.bytes() as u32 * 8
    }

    /// The bits of a value of this width.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// The width of an integer memory operand; `None` for any other kind.
    fn of_memory(instruction: &Instruction) -> Option<Self> {
        Some(match instruction.memory_size() {
            MemorySize::UInt8 | MemorySize::Int8 => Self::Byte,
            MemorySize::UInt16 | MemorySize::Int16 => Self::Word,
            MemorySize::UInt32 | MemorySize::Int32 => Self::Dword,
            MemorySize::UInt64 | MemorySize::Int64 => Self::Qword,
            _ => return None,
        })
    }
}

/// Linear base addresses of the segments; in 64-bit code those of FS and GS, else 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct SegmentBases {
    pub es: u64,
    pub cs: u64,
    pub ss: u64,
    pub ds: u64,
    pub fs: u64,
    pub gs: u64,
}

/// The registers of a vCPU that instructions here use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    /// General registers, by their number ([`gpr`]).
    pub gpr: [u64; 16],
    /// Address of the instruction, relative to CS.
    pub rip: u64,
    /// RFLAGS as the guest sees it.
    pub rflags: u64,
    /// Bases of the segments.
    pub bases: SegmentBases,
    /// The code segment.
    pub mode: CodeMode,
}

impl Registers {
    /// Goes past an instruction of `length` bytes that was carried out. Gives
    /// `true` if the guest is single-stepping, and is to have a #DB for it.
    pub fn advance(&mut self, length: u8) -> bool {
        self.rip = self.rip.wrapping_add(length.into());
        if self.mode != CodeMode::Long {
            self.rip &= 0xffff_ffff;
        }
        self.rflags &= !FLAG_RF;
        self.rflags & FLAG_TF != 0
    }

    /// The general register with a number; 0 beyond 15.
    pub fn get(&self, number: usize) -> u64 {
        self.gpr.get(number).copied().unwrap_or(0)
    }

    /// Sets a general register as an instruction does that writes `width` of
    /// it: 4 bytes clear the upper half, 1 and 2 leave the rest.
    pub fn set(&mut self, number: usize, width: Width, value: u64) {
        if let Some(slot) = self.gpr.get_mut(number) {
            *slot = match width {
                Width::Qword => value,
                Width::Dword => value & width.mask(),
                Width::Byte | Width::Word => (*slot & !width.mask()) | (value & width.mask()),
            };
        }
    }

    /// The register's value, as wide as the register is; `None` for one that
    /// is not a general register.
    fn read(&self, register: Register) -> Option<u64> {
        let (number, width, high) = locate(register)?;
        let value = self.get(number) >> if high { 8 } else { 0 };
        Some(value & width.mask())
    }

    fn write(&mut self, register: Register, value: u64) {
        if let Some((number, width, high)) = locate(register) {
            if high {
                let rest = self.get(number) & !0xff00;
                self.set(number, Width::Qword, rest | (value & 0xff) << 8);
            } else {
                self.set(number, width, value);
            }
        }
    }

    fn base(&self, segment: Register) -> Option<u64> {
        Some(match segment {
            Register::ES => self.bases.es,
            Register::CS => self.bases.cs,
            Register::SS => self.bases.ss,
            Register::DS => self.bases.ds,
            Register::FS => self.bases.fs,
            Register::GS => self.bases.gs,
            _ => return None,
        })
    }

    /// The linear address of a memory operand.
    fn linear_address(&self, instruction: &Instruction, operand: u32) -> Option<u64> {
        let address = instruction.virtual_address(operand, 0, |register, _, _| {
            self.base(register).or_else(|| self.read(register))
        })?;
        Some(match self.mode {
            CodeMode::Long => address,
            _ => address & 0xffff_ffff,
        })
    }
}

/// Which general register it is a part of: number, width, and whether it is
/// the second byte (AH to BH).
fn locate(register: Register) -> Option<(usize, Width, bool)> {
    let at = register as usize;
    let within = |first: Register, last: Register| {
        (first as usize..=last as usize)
            .contains(&at)
            .then(|| at - first as usize)
    };
    if let Some(number) = within(Register::RAX, Register::R15) {
        Some((number, Width::Qword, false))
    } else if let Some(number) = within(Register::EAX, Register::R15D) {
        Some((number, Width::Dword, false))
    } else if let Some(number) = within(Register::AX, Register::R15W) {
        Some((number, Width::Word, false))
    } else if let Some(number) = within(Register::AL, Register::BL) {
        Some((number, Width::Byte, false))
    } else if let Some(number) = within(Register::AH, Register::BH) {
        Some((number, Width::Byte, true))
    } else {
        // SPL follows BH, and its number is 4.
        within(Register::SPL, Register::R15L).map(|number| (number + 4, Width::Byte, false))
    }
}

/// Why an instruction was not decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotDecoded {
    /// It goes on after the bytes that were given: if there were fewer than
    /// [`MAX_INSTRUCTION`], the next byte's page is not there, and its fetch faults.
    Truncated,
    /// It is not one of those that are carried out here.
    NotEmulated,
}

fn decode(bytes: &[u8], registers: &Registers) -> Result<Instruction, NotDecoded> {
    let bytes = bytes.get(..MAX_INSTRUCTION).unwrap_or(bytes);
    let mut decoder = Decoder::with_ip(
        registers.mode.bits(),
        bytes,
        registers.rip,
        DecoderOptions::NONE,
    );
    let instruction = decoder.decode();
    match decoder.last_error() {
        DecoderError::None if !instruction.is_invalid() => Ok(instruction),
        DecoderError::NoMoreBytes if bytes.len() < MAX_INSTRUCTION => Err(NotDecoded::Truncated),
        _ => Err(NotDecoded::NotEmulated),
    }
}

/// Instructions that were decoded before.
///
/// A guest's kernel writes its page tables from a few places over and over, and
/// decoding is half of what carrying out such a write costs. An entry is used
/// only for the same bytes at the same address.
pub struct DecodeCache {
    entries: [Option<Cached>; CACHE_ENTRIES],
    register_writes: [Option<CachedWrite>; CACHE_ENTRIES],
}

/// MOV or XCHG of a whole 64-bit register with memory, at an address that is
/// one register and a displacement: how page tables are mostly written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegisterWrite {
    /// Number of the register that holds the address ([`gpr`]).
    pub base: u8,
    /// What is added to it.
    pub displacement: u64,
    /// Number of the register that is written, or exchanged.
    pub register: u8,
    /// XCHG.
    pub exchange: bool,
    /// In bytes.
    pub length: u8,
}

impl RegisterWrite {
    /// The instruction in this form, if it is one.
    fn of(instruction: &Instruction) -> Option<Self> {
        let exchange = match instruction.mnemonic() {
            Mnemonic::Mov => false,
            Mnemonic::Xchg => true,
            _ => return None,
        };
        let whole = |register: Register| match locate(register) {
            Some((number, Width::Qword, _)) => Some(number as u8),
            _ => None,
        };
        let plain = instruction.op0_kind() == OpKind::Memory
            && instruction.op1_kind() == OpKind::Register
            && instruction.memory_index() == Register::None
            && !matches!(instruction.memory_segment(), Register::FS | Register::GS);
        if !plain {
            return None;
        }
        Some(Self {
            base: whole(instruction.memory_base())?,
            displacement: instruction.memory_displacement64(),
            register: whole(instruction.op1_register())?,
            exchange,
            length: instruction.len() as u8,
        })
    }
}

/// A [`RegisterWrite`] of 64-bit code, with its place and its bytes.
#[derive(Clone, Copy)]
struct CachedWrite {
    rip: u64,
    bytes: [u64; 2],
    mask: [u64; 2],
    write: RegisterWrite,
}

impl CachedWrite {
    fn new(rip: u64, bytes: &[u8], write: RegisterWrite) -> Option<Self> {
        let mut code = [0; 16];
        let mut mask = [0; 16];
        let length = usize::from(write.length);
        code.get_mut(..length)?
            .copy_from_slice(bytes.get(..length)?);
        mask.get_mut(..length)?.fill(0xff);
        let words = |from: [u8; 16]| {
            let whole = u128::from_le_bytes(from);
            [whole as u64, (whole >> 64) as u64]
        };
        Some(Self {
            rip,
            bytes: words(code),
            mask: words(mask),
            write,
        })
    }
}

#[derive(Clone, Copy)]
struct Cached {
    rip: u64,
    mode: CodeMode,
    bytes: [u8; MAX_INSTRUCTION],
    instruction: Instruction,
}

const CACHE_ENTRIES: usize = 8;

impl Default for DecodeCache {
    fn default() -> Self {
        Self {
            entries: [None; CACHE_ENTRIES],
            register_writes: [None; CACHE_ENTRIES],
        }
    }
}

/// Where an instruction is in a cache.
fn cache_slot(rip: u64) -> usize {
    // Neighbouring places differ in some of these bits.
    (rip ^ rip >> 4 ^ rip >> 8) as usize % CACHE_ENTRIES
}

impl DecodeCache {
    /// The instruction at `rip` in 64-bit code, if it was decoded before with the
    /// same bytes (little endian, 16 of them) and is a [`RegisterWrite`].
    #[inline]
    pub fn register_write(&self, rip: u64, bytes: [u64; 2]) -> Option<RegisterWrite> {
        let cached = self.register_writes[cache_slot(rip)].as_ref()?;
        let [low, high] = cached.bytes;
        let [low_mask, high_mask] = cached.mask;
        let same = cached.rip == rip
            && (bytes[0] ^ low) & low_mask == 0
            && (bytes[1] ^ high) & high_mask == 0;
        same.then_some(cached.write)
    }

    fn decode(&mut self, bytes: &[u8], registers: &Registers) -> Result<&Instruction, NotDecoded> {
        let slot = &mut self.entries[cache_slot(registers.rip)];
        let hit = slot.as_ref().is_some_and(|cached| {
            cached.rip == registers.rip
                && cached.mode == registers.mode
                && cached
                    .bytes
                    .get(..cached.instruction.len())
                    .is_some_and(|known| bytes.starts_with(known))
        });
        if !hit {
            let instruction = decode(bytes, registers)?;
            let mut known = [0; MAX_INSTRUCTION];
            known
                .iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = *from);
            *slot = Some(Cached {
                rip: registers.rip,
                mode: registers.mode,
                bytes: known,
                instruction,
            });
        }
        slot.as_ref()
            .map(|cached| &cached.instruction)
            .ok_or(NotDecoded::NotEmulated)
    }

    /// [`decode_privileged`]
    ///
    /// # Errors
    ///
    /// See [`NotDecoded`].
    pub fn privileged(
        &mut self,
        bytes: &[u8],
        registers: &Registers,
    ) -> Result<(Privileged, u8), NotDecoded> {
        privileged(self.decode(bytes, registers)?, registers)
    }

    /// [`decode_memory_write`]
    ///
    /// # Errors
    ///
    /// See [`NotDecoded`].
    pub fn memory_write(
        &mut self,
        bytes: &[u8],
        registers: &Registers,
    ) -> Result<MemoryWrite, NotDecoded> {
        let instruction = self.decode(bytes, registers)?;
        let quick = RegisterWrite::of(instruction);
        let described = write::describe(instruction, registers).ok_or(NotDecoded::NotEmulated)?;
        if registers.mode == CodeMode::Long
            && let Some(write) = quick
        {
            self.register_writes[cache_slot(registers.rip)] =
                CachedWrite::new(registers.rip, bytes, write);
        }
        Ok(described)
    }
}

/// A string instruction between a port and memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StringIo {
    /// The port.
    pub port: u16,
    /// Bytes moved at a time.
    pub width: Width,
    /// Linear address of the first item.
    pub address: u64,
    /// How many items: 1 without REP; with REP, RCX, and it may be 0.
    pub count: u64,
    /// Items go down in memory (RFLAGS.DF).
    pub backwards: bool,
    /// The segment is SS: a bad address gives #SS, not #GP.
    pub stack_segment: bool,
    rep: bool,
    address_width: Width,
    index: usize,
}

impl StringIo {
    /// The linear address of item `n`.
    pub fn item(&self, n: u64) -> u64 {
        let offset = n.wrapping_mul(self.width.bytes());
        if self.backwards {
            self.address.wrapping_sub(offset)
        } else {
            self.address.wrapping_add(offset)
        }
    }

    /// Sets the registers after `done` items. Gives whether all were done, so
    /// that the instruction is over.
    pub fn finish(&self, registers: &mut Registers, done: u64) -> bool {
        let step = done.wrapping_mul(self.width.bytes());
        let at = registers.get(self.index);
        let at = if self.backwards {
            at.wrapping_sub(step)
        } else {
            at.wrapping_add(step)
        };
        registers.set(self.index, self.address_width, at);
        if self.rep {
            let left = registers.get(gpr::RCX).wrapping_sub(done);
            registers.set(gpr::RCX, self.address_width, left);
        }
        done >= self.count
    }
}

/// A privileged instruction. Register operands are numbers ([`gpr`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privileged {
    /// IN to AL, AX or EAX.
    In {
        /// The port.
        port: u16,
        /// Which part of RAX.
        width: Width,
    },
    /// OUT.
    Out {
        /// The port.
        port: u16,
        /// Width of the value.
        width: Width,
        /// The value of AL, AX or EAX.
        value: u32,
    },
    /// INS, into memory.
    Ins(StringIo),
    /// OUTS, from memory.
    Outs(StringIo),
    /// CLI
    Cli,
    /// STI
    Sti,
    /// CLTS
    Clts,
    /// WBINVD and WBNOINVD
    Wbinvd,
    /// MOV from a control register.
    ReadCr {
        /// 0 to 15.
        cr: u8,
        /// Destination.
        gpr: usize,
    },
    /// MOV to a control register.
    WriteCr {
        /// 0 to 15.
        cr: u8,
        /// The value.
        value: u64,
    },
    /// MOV from a debug register.
    ReadDr {
        /// 0 to 15.
        dr: u8,
        /// Destination.
        gpr: usize,
    },
    /// MOV to a debug register.
    WriteDr {
        /// 0 to 15.
        dr: u8,
        /// The value.
        value: u64,
    },
    /// RDMSR: register ECX, to EDX:EAX.
    Rdmsr {
        /// ECX
        index: u32,
    },
    /// WRMSR: register ECX, from EDX:EAX.
    Wrmsr {
        /// ECX
        index: u32,
        /// EDX:EAX
        value: u64,
    },
    /// RDTSC
    Rdtsc,
    /// RDTSCP
    Rdtscp,
    /// XSETBV: register ECX, from EDX:EAX.
    Xsetbv {
        /// ECX
        index: u32,
        /// EDX:EAX
        value: u64,
    },
    /// CPUID, where it faults.
    Cpuid {
        /// EAX
        leaf: u32,
        /// ECX
        subleaf: u32,
    },
}

/// Decodes an instruction that gave #GP(0). Gives it and its length in bytes.
///
/// # Errors
///
/// See [`NotDecoded`].
pub fn decode_privileged(
    bytes: &[u8],
    registers: &Registers,
) -> Result<(Privileged, u8), NotDecoded> {
    privileged(&decode(bytes, registers)?, registers)
}

fn privileged(
    instruction: &Instruction,
    registers: &Registers,
) -> Result<(Privileged, u8), NotDecoded> {
    if instruction.has_lock_prefix() {
        return Err(NotDecoded::NotEmulated);
    }
    let eax = registers.get(gpr::RAX) as u32;
    let ecx = registers.get(gpr::RCX) as u32;
    let edx_eax = registers.get(gpr::RDX) << 32 | u64::from(eax);
    let refuse = NotDecoded::NotEmulated;
    let what = match instruction.mnemonic() {
        Mnemonic::In => Privileged::In {
            port: port_operand(instruction, 1, registers).ok_or(refuse)?,
            width: locate(instruction.op0_register()).ok_or(refuse)?.1,
        },
        Mnemonic::Out => {
            let source = instruction.op1_register();
            Privileged::Out {
                port: port_operand(instruction, 0, registers).ok_or(refuse)?,
                width: locate(source).ok_or(refuse)?.1,
                value: registers.read(source).ok_or(refuse)? as u32,
            }
        }
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => {
            Privileged::Ins(string_io(instruction, 0, registers).ok_or(refuse)?)
        }
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => {
            Privileged::Outs(string_io(instruction, 1, registers).ok_or(refuse)?)
        }
        Mnemonic::Cli => Privileged::Cli,
        Mnemonic::Sti => Privileged::Sti,
        Mnemonic::Clts => Privileged::Clts,
        Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => Privileged::Wbinvd,
        Mnemonic::Rdmsr => Privileged::Rdmsr { index: ecx },
        Mnemonic::Wrmsr => Privileged::Wrmsr {
            index: ecx,
            value: edx_eax,
        },
        Mnemonic::Rdtsc => Privileged::Rdtsc,
        Mnemonic::Rdtscp => Privileged::Rdtscp,
        Mnemonic::Xsetbv => Privileged::Xsetbv {
            index: ecx,
            value: edx_eax,
        },
        Mnemonic::Cpuid => Privileged::Cpuid {
            leaf: eax,
            subleaf: ecx,
        },
        Mnemonic::Mov => special_move(instruction, registers).ok_or(refuse)?,
        _ => return Err(refuse),
    };
    Ok((what, instruction.len() as u8))
}

fn port_operand(instruction: &Instruction, operand: u32, registers: &Registers) -> Option<u16> {
    match instruction.op_kind(operand) {
        OpKind::Immediate8 => Some(instruction.immediate8().into()),
        OpKind::Register => Some(registers.get(gpr::RDX) as u16),
        _ => None,
    }
}

fn special_move(instruction: &Instruction, registers: &Registers) -> Option<Privileged> {
    let from = |first: Register, register: Register| {
        u8::try_from((register as usize).checked_sub(first as usize)?).ok()
    };
    let (to, source) = (instruction.op0_register(), instruction.op1_register());
    Some(match instruction.code() {
        Code::Mov_r32_cr | Code::Mov_r64_cr => Privileged::ReadCr {
            cr: from(Register::CR0, source)?,
            gpr: locate(to)?.0,
        },
        Code::Mov_cr_r32 | Code::Mov_cr_r64 => Privileged::WriteCr {
            cr: from(Register::CR0, to)?,
            value: registers.read(source)?,
        },
        Code::Mov_r32_dr | Code::Mov_r64_dr => Privileged::ReadDr {
            dr: from(Register::DR0, source)?,
            gpr: locate(to)?.0,
        },
        Code::Mov_dr_r32 | Code::Mov_dr_r64 => Privileged::WriteDr {
            dr: from(Register::DR0, to)?,
            value: registers.read(source)?,
        },
        _ => return None,
    })
}

fn string_io(
    instruction: &Instruction,
    memory_operand: u32,
    registers: &Registers,
) -> Option<StringIo> {
    let (address_width, index) = match instruction.op_kind(memory_operand) {
        OpKind::MemoryESRDI => (Width::Qword, gpr::RDI),
        OpKind::MemoryESEDI => (Width::Dword, gpr::RDI),
        OpKind::MemoryESDI => (Width::Word, gpr::RDI),
        OpKind::MemorySegRSI => (Width::Qword, gpr::RSI),
        OpKind::MemorySegESI => (Width::Dword, gpr::RSI),
        OpKind::MemorySegSI => (Width::Word, gpr::RSI),
        _ => return None,
    };
    let rep = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    Some(StringIo {
        port: registers.get(gpr::RDX) as u16,
        width: Width::of_memory(instruction)?,
        address: registers.linear_address(instruction, memory_operand)?,
        count: if rep {
            registers.get(gpr::RCX) & address_width.mask()
        } else {
            1
        },
        backwards: registers.rflags & FLAG_DF != 0,
        stack_segment: memory_operand == 1 && instruction.memory_segment() == Register::SS,
        rep,
        address_width,
        index,
    })
}

/// Decodes `INT n`, which gave #GP with an IDT error code. Gives the vector and
/// the instruction's length. (`INT3`, `INTO` and `INT1` trap by themselves.)
///
/// # Errors
///
/// See [`NotDecoded`].
pub fn decode_software_interrupt(
    bytes: &[u8],
    registers: &Registers,
) -> Result<(u8, u8), NotDecoded> {
    let instruction = decode(bytes, registers)?;
    if instruction.code() != Code::Int_imm8 || instruction.has_lock_prefix() {
        return Err(NotDecoded::NotEmulated);
    }
    Ok((instruction.immediate8(), instruction.len() as u8))
}

/// Whether an instruction of 64-bit code that gave #GP(0) accesses the stack at an
/// address that is not canonical: by its nature, or by a memory operand relative to
/// RSP or RBP. CPUs give #SS(0) then, but not all emulators of CPUs do.
pub fn faults_on_stack(bytes: &[u8], registers: &Registers) -> bool {
    let Ok(instruction) = decode(bytes, registers) else {
        return false;
    };
    if registers.mode != CodeMode::Long {
        return false;
    }
    let bad = |address: u64, len: u64| {
        let last = address.wrapping_add(len.saturating_sub(1));
        !GuestVirtual(address).is_canonical() || !GuestVirtual(last).is_canonical()
    };
    let stack = registers.get(gpr::RSP);
    let implied = match instruction.mnemonic() {
        Mnemonic::Push | Mnemonic::Pushf | Mnemonic::Pushfq | Mnemonic::Call | Mnemonic::Enter => {
            bad(stack.wrapping_sub(8), 8)
        }
        Mnemonic::Pop | Mnemonic::Popf | Mnemonic::Popfq | Mnemonic::Ret => bad(stack, 8),
        Mnemonic::Leave => bad(registers.get(gpr::RBP), 8),
        _ => false,
    };
    let relative = matches!(
        instruction.memory_base(),
        Register::RSP | Register::ESP | Register::RBP | Register::EBP
    ) && !matches!(instruction.segment_prefix(), Register::FS | Register::GS);
    let operand = (0..instruction.op_count())
        .filter(|&operand| relative && instruction.op_kind(operand) == OpKind::Memory)
        .filter(|_| instruction.mnemonic() != Mnemonic::Lea)
        .filter_map(|operand| registers.linear_address(&instruction, operand))
        .any(|address| bad(address, 1));
    implied || operand
}

/// The prefix by which a PV guest asks for emulation: `ud2; .ascii "xen"`.
pub const FORCED_EMULATION_PREFIX: [u8; 5] = [0x0f, 0x0b, b'x', b'e', b'n'];
/// `cpuid`
const CPUID: [u8; 2] = [0x0f, 0xa2];
/// Length of the prefix and CPUID.
pub const FORCED_CPUID_LENGTH: u8 = 7;

/// Whether what gave #UD is CPUID with the prefix, of [`FORCED_CPUID_LENGTH`]
/// bytes.
///
/// # Errors
///
/// `Truncated` if more bytes are needed to tell: the fetch of the first one
/// that is missing faults. `NotEmulated` if it is anything else.
pub fn decode_forced_cpuid(bytes: &[u8]) -> Result<(), NotDecoded> {
    let check = |bytes: &[u8], wanted: &[u8]| match bytes.get(..wanted.len()) {
        Some(bytes) if bytes == wanted => Ok(()),
        Some(_) => Err(NotDecoded::NotEmulated),
        None => Err(NotDecoded::Truncated),
    };
    check(bytes, &FORCED_EMULATION_PREFIX)?;
    check(
        bytes
            .get(FORCED_EMULATION_PREFIX.len()..)
            .unwrap_or_default(),
        &CPUID,
    )
}
