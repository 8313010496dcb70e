//! Instructions that write memory: what they write, given what is there.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::{
    FLAG_AF, FLAG_CF, FLAG_DF, FLAG_OF, FLAG_PF, FLAG_SF, FLAG_ZF, NotDecoded, Registers, Width,
    decode, gpr,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Arithmetic {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BitChange {
    Set,
    Reset,
    Complement,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    /// MOV, MOVNTI: `value`.
    Store {
        value: u64,
    },
    /// STOS and MOVS: `value`, or what the source holds.
    String {
        value: u64,
        address_width: Width,
        rep: bool,
        moves: bool,
    },
    Exchange {
        register: Register,
    },
    CompareExchange {
        register: Register,
    },
    CompareExchange8b,
    ExchangeAdd {
        register: Register,
    },
    Arithmetic {
        kind: Arithmetic,
        operand: u64,
    },
    Increment,
    Decrement,
    Not,
    Negate,
    Bit {
        kind: BitChange,
        bit: u32,
    },
}

/// An instruction that writes one aligned or unaligned item of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryWrite {
    /// Linear address of what it writes.
    pub address: u64,
    /// How much it writes.
    pub width: Width,
    /// Linear address of as much that it reads first, beside what it writes (MOVS).
    pub source: Option<u64>,
    /// It writes whatever is there. Otherwise what is there is to be read
    /// first, given to [`MemoryWrite::apply`], and exchanged for the outcome only if it
    /// is still there.
    pub unconditional: bool,
    /// A REP instruction with nothing left to do; only [`MemoryWrite::apply`] it.
    pub empty: bool,
    /// In bytes.
    pub length: u8,
    operation: Operation,
}

/// What comes of a [`MemoryWrite`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// To be written; `None` if memory stays as it is.
    pub value: Option<u64>,
    /// The registers afterwards, flags included; RIP is past the instruction,
    /// or still on it if it repeats.
    pub registers: Registers,
    /// The instruction is over, and the guest single-steps: it is to have a #DB.
    pub single_step: bool,
}

/// Decodes an instruction that faulted on a write.
///
/// # Errors
///
/// See [`NotDecoded`].
pub fn decode_memory_write(bytes: &[u8], registers: &Registers) -> Result<MemoryWrite, NotDecoded> {
    let instruction = decode(bytes, registers)?;
    describe(&instruction, registers).ok_or(NotDecoded::NotEmulated)
}

/// The value of a register or immediate operand.
fn operand_value(instruction: &Instruction, operand: u32, registers: &Registers) -> Option<u64> {
    match instruction.op_kind(operand) {
        OpKind::Register => registers.read(instruction.op_register(operand)),
        _ => instruction.try_immediate(operand).ok(),
    }
}

pub(super) fn describe(instruction: &Instruction, registers: &Registers) -> Option<MemoryWrite> {
    let width = Width::of_memory(instruction)?;
    let source = || operand_value(instruction, 1, registers);
    let general = |operand: u32| {
        let register = instruction.op_register(operand);
        registers.read(register).map(|_| register)
    };
    let arithmetic = |kind| {
        Some(Operation::Arithmetic {
            kind,
            operand: source()? & width.mask(),
        })
    };
    let mut address = None;
    let operation = match instruction.mnemonic() {
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => {
            return describe_string(instruction, registers, width, false);
        }
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsq => {
            return describe_string(instruction, registers, width, true);
        }
        // The other MOVSD, of SSE2, has a memory operand that is no string's.
        Mnemonic::Movsd if instruction.op0_kind() != OpKind::Memory => {
            return describe_string(instruction, registers, width, true);
        }
        Mnemonic::Mov | Mnemonic::Movnti => Operation::Store {
            value: source()? & width.mask(),
        },
        Mnemonic::Xchg => Operation::Exchange {
            register: general(1)?,
        },
        Mnemonic::Cmpxchg => Operation::CompareExchange {
            register: general(1)?,
        },
        Mnemonic::Cmpxchg8b => Operation::CompareExchange8b,
        Mnemonic::Xadd => Operation::ExchangeAdd {
            register: general(1)?,
        },
        Mnemonic::Add => arithmetic(Arithmetic::Add)?,
        Mnemonic::Or => arithmetic(Arithmetic::Or)?,
        Mnemonic::Adc => arithmetic(Arithmetic::Adc)?,
        Mnemonic::Sbb => arithmetic(Arithmetic::Sbb)?,
        Mnemonic::And => arithmetic(Arithmetic::And)?,
        Mnemonic::Sub => arithmetic(Arithmetic::Sub)?,
        Mnemonic::Xor => arithmetic(Arithmetic::Xor)?,
        Mnemonic::Inc => Operation::Increment,
        Mnemonic::Dec => Operation::Decrement,
        Mnemonic::Not => Operation::Not,
        Mnemonic::Neg => Operation::Negate,
        Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => {
            let kind = match instruction.mnemonic() {
                Mnemonic::Bts => BitChange::Set,
                Mnemonic::Btr => BitChange::Reset,
                _ => BitChange::Complement,
            };
            let offset = source()?;
            if instruction.op1_kind() == OpKind::Register {
                // A signed bit offset from the operand: it may lie in another word.
                let shift = 64 - width.bits();
                let signed = ((offset << shift) as i64) >> shift;
                let words = signed >> width.bits().trailing_zeros();
                let base = registers.linear_address(instruction, 0)?;
                address = Some(base.wrapping_add((words as u64).wrapping_mul(width.bytes())));
            }
            Operation::Bit {
                kind,
                bit: (offset & u64::from(width.bits() - 1)) as u32,
            }
        }
        _ => return None,
    };
    if instruction.op0_kind() != OpKind::Memory {
        return None;
    }
    Some(MemoryWrite {
        address: match address {
            Some(address) => address,
            None => registers.linear_address(instruction, 0)?,
        },
        width,
        source: None,
        unconditional: matches!(operation, Operation::Store { .. }),
        empty: false,
        length: instruction.len() as u8,
        operation,
    })
}

fn describe_string(
    instruction: &Instruction,
    registers: &Registers,
    width: Width,
    moves: bool,
) -> Option<MemoryWrite> {
    let address_width = match instruction.op0_kind() {
        OpKind::MemoryESRDI => Width::Qword,
        OpKind::MemoryESEDI => Width::Dword,
        OpKind::MemoryESDI => Width::Word,
        _ => return None,
    };
    let rep = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    Some(MemoryWrite {
        address: registers.linear_address(instruction, 0)?,
        width,
        source: if moves {
            Some(registers.linear_address(instruction, 1)?)
        } else {
            None
        },
        unconditional: true,
        empty: rep && registers.get(gpr::RCX) & address_width.mask() == 0,
        length: instruction.len() as u8,
        operation: Operation::String {
            value: registers.get(gpr::RAX) & width.mask(),
            address_width,
            rep,
            moves,
        },
    })
}

impl MemoryWrite {
    /// What comes of it when memory holds `old` (of no account if
    /// `unconditional`), and the source, if it has one, holds `source`.
    /// `registers` are those that it was decoded with.
    pub fn apply(&self, registers: &Registers, old: u64, source: u64) -> Written {
        let mut after = *registers;
        let mask = self.width.mask();
        let old = old & mask;
        let mut repeats = false;
        let value = match self.operation {
            Operation::Store { value } => Some(value),
            Operation::String {
                value,
                address_width,
                rep,
                moves,
            } => {
                if self.empty {
                    None
                } else {
                    let step = |after: &mut Registers, index: usize| {
                        let at = after.get(index);
                        let at = if after.rflags & FLAG_DF != 0 {
                            at.wrapping_sub(self.width.bytes())
                        } else {
                            at.wrapping_add(self.width.bytes())
                        };
                        after.set(index, address_width, at);
                    };
                    step(&mut after, gpr::RDI);
                    if moves {
                        step(&mut after, gpr::RSI);
                    }
                    if rep {
                        let left = after.get(gpr::RCX).wrapping_sub(1) & address_width.mask();
                        after.set(gpr::RCX, address_width, left);
                        repeats = left != 0;
                    }
                    Some(if moves { source & mask } else { value })
                }
            }
            Operation::Exchange { register } => {
                let new = registers.read(register).unwrap_or(0);
                after.write(register, old);
                Some(new)
            }
            Operation::ExchangeAdd { register } => {
                let operand = registers.read(register).unwrap_or(0);
                let new = self.arithmetic(&mut after, Arithmetic::Add, old, operand);
                after.write(register, old);
                Some(new)
            }
            Operation::CompareExchange { register } => {
                let accumulator = registers.get(gpr::RAX) & mask;
                self.arithmetic(&mut after, Arithmetic::Sub, accumulator, old);
                if accumulator == old {
                    registers.read(register)
                } else {
                    after.set(gpr::RAX, self.width, old);
                    None
                }
            }
            Operation::CompareExchange8b => {
                let pair = |high: usize, low: usize| {
                    registers.get(high) << 32 | (registers.get(low) & 0xffff_ffff)
                };
                if pair(gpr::RDX, gpr::RAX) == old {
                    after.rflags |= FLAG_ZF;
                    Some(pair(gpr::RCX, gpr::RBX))
                } else {
                    after.rflags &= !FLAG_ZF;
                    after.set(gpr::RAX, Width::Dword, old);
                    after.set(gpr::RDX, Width::Dword, old >> 32);
                    None
                }
            }
            Operation::Arithmetic { kind, operand } => {
                Some(self.arithmetic(&mut after, kind, old, operand))
            }
            Operation::Increment | Operation::Decrement => {
                let kind = if self.operation == Operation::Increment {
                    Arithmetic::Add
                } else {
                    Arithmetic::Sub
                };
                let new = self.arithmetic(&mut after, kind, old, 1);
                // The carry stays as it was.
                after.rflags = (after.rflags & !FLAG_CF) | (registers.rflags & FLAG_CF);
                Some(new)
            }
            Operation::Not => Some(!old & mask),
            Operation::Negate => Some(self.arithmetic(&mut after, Arithmetic::Sub, 0, old)),
            Operation::Bit { kind, bit } => {
                let bit = 1u64 << bit;
                after.rflags &= !FLAG_CF;
                if old & bit != 0 {
                    after.rflags |= FLAG_CF;
                }
                Some(match kind {
                    BitChange::Set => old | bit,
                    BitChange::Reset => old & !bit,
                    BitChange::Complement => old ^ bit,
                })
            }
        };
        let single_step = if repeats {
            // Each step of a repeated instruction is one to a debugger.
            after.advance(0)
        } else {
            after.advance(self.length)
        };
        Written {
            value,
            registers: after,
            single_step,
        }
    }

    /// Computes and sets the arithmetic flags (SDM volume 1, 3.4.3.1).
    fn arithmetic(&self, after: &mut Registers, kind: Arithmetic, a: u64, b: u64) -> u64 {
        let mask = self.width.mask();
        let sign = 1u64 << (self.width.bits() - 1);
        let carry_in = after.rflags & FLAG_CF;
        let (result, carry, overflow, adjust) = match kind {
            Arithmetic::Add | Arithmetic::Adc => {
                let carry_in = if kind == Arithmetic::Adc { carry_in } else { 0 };
                let wide = u128::from(a) + u128::from(b) + u128::from(carry_in);
                let result = wide as u64 & mask;
                (
                    result,
                    wide > u128::from(mask),
                    (a ^ result) & (b ^ result) & sign != 0,
                    (a ^ b ^ result) & 0x10 != 0,
                )
            }
            Arithmetic::Sub | Arithmetic::Sbb => {
                let borrow = if kind == Arithmetic::Sbb { carry_in } else { 0 };
                let result = a.wrapping_sub(b).wrapping_sub(borrow) & mask;
                (
                    result,
                    u128::from(a) < u128::from(b) + u128::from(borrow),
                    (a ^ b) & (a ^ result) & sign != 0,
                    (a ^ b ^ result) & 0x10 != 0,
                )
            }
            Arithmetic::Or => (a | b, false, false, false),
            Arithmetic::And => (a & b, false, false, false),
            Arithmetic::Xor => (a ^ b, false, false, false),
        };
        let mut flags = after.rflags & !(FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF);
        for (set, flag) in [
            (carry, FLAG_CF),
            ((result as u8).count_ones().is_multiple_of(2), FLAG_PF),
            (adjust, FLAG_AF),
            (result == 0, FLAG_ZF),
            (result & sign != 0, FLAG_SF),
            (overflow, FLAG_OF),
        ] {
            if set {
                flags |= flag;
            }
        }
        after.rflags = flags;
        result
    }
}
