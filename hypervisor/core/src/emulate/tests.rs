use super::*;
use proptest::prelude::*;

fn registers() -> Registers {
    Registers {
        gpr: [
            0x1111_1111_1111_1111,
            0x2222_2222_2222_2222,
            0x3333_3333_3333_3333,
            0x4444_4444_4444_4444,
            0x5555_5555_5555_5555,
            0x6666_6666_6666_6666,
            0x7777_7777_7777_7777,
            0x1000,
            8,
            9,
            10,
            11,
            12,
            13,
            14,
            15,
        ],
        rip: 0x40_0000,
        rflags: 0x202,
        bases: SegmentBases {
            fs: 0x10_0000,
            gs: 0x20_0000,
            ..SegmentBases::default()
        },
        mode: CodeMode::Long,
    }
}

fn privileged(bytes: &[u8]) -> Privileged {
    let (what, length) = decode_privileged(bytes, &registers()).unwrap();
    assert_eq!(length as usize, bytes.len(), "{bytes:x?}");
    what
}

#[test]
fn privileged_instructions() {
    use Privileged::*;
    let edx_eax = 0x3333_3333_1111_1111;
    let index = 0x2222_2222;
    for (bytes, what) in [
        (&[0xfa][..], Cli),
        (&[0xfb], Sti),
        (&[0x0f, 0x06], Clts),
        (&[0x0f, 0x09], Wbinvd),
        (&[0xf3, 0x0f, 0x09], Wbinvd),
        (
            &[0x0f, 0x30],
            Wrmsr {
                index,
                value: edx_eax,
            },
        ),
        (&[0x0f, 0x32], Rdmsr { index }),
        (&[0x0f, 0x31], Rdtsc),
        (&[0x0f, 0x01, 0xf9], Rdtscp),
        (
            &[0x0f, 0x01, 0xd1],
            Xsetbv {
                index,
                value: edx_eax,
            },
        ),
        (
            &[0x0f, 0xa2],
            Cpuid {
                leaf: 0x1111_1111,
                subleaf: index,
            },
        ),
        (
            &[0x0f, 0x20, 0xc0],
            ReadCr {
                cr: 0,
                gpr: gpr::RAX,
            },
        ),
        (&[0x41, 0x0f, 0x20, 0xdf], ReadCr { cr: 3, gpr: 15 }),
        (
            &[0x44, 0x0f, 0x20, 0xc3],
            ReadCr {
                cr: 8,
                gpr: gpr::RBX,
            },
        ),
        (
            &[0x0f, 0x22, 0xe3],
            WriteCr {
                cr: 4,
                value: 0x4444_4444_4444_4444,
            },
        ),
        (
            &[0x0f, 0x21, 0xf9],
            ReadDr {
                dr: 7,
                gpr: gpr::RCX,
            },
        ),
        (&[0x41, 0x0f, 0x23, 0xc1], WriteDr { dr: 0, value: 9 }),
        (
            &[0xe4, 0x60],
            In {
                port: 0x60,
                width: Width::Byte,
            },
        ),
        (
            &[0x66, 0xe5, 0x60],
            In {
                port: 0x60,
                width: Width::Word,
            },
        ),
        (
            &[0xe5, 0x60],
            In {
                port: 0x60,
                width: Width::Dword,
            },
        ),
        (
            &[0xec],
            In {
                port: 0x3333,
                width: Width::Byte,
            },
        ),
        (
            &[0x48, 0xed],
            In {
                port: 0x3333,
                width: Width::Dword,
            },
        ),
        (
            &[0xe6, 0x80],
            Out {
                port: 0x80,
                width: Width::Byte,
                value: 0x11,
            },
        ),
        (
            &[0x66, 0xef],
            Out {
                port: 0x3333,
                width: Width::Word,
                value: 0x1111,
            },
        ),
        (
            &[0xef],
            Out {
                port: 0x3333,
                width: Width::Dword,
                value: 0x1111_1111,
            },
        ),
    ] {
        assert_eq!(privileged(bytes), what, "{bytes:x?}");
    }
}

#[test]
fn what_xen_does_not_emulate_is_refused() {
    for bytes in [
        &[0xf4][..],               // hlt
        &[0x0f, 0x08],             // invd
        &[0x0f, 0x01, 0x38],       // invlpg (%rax)
        &[0x0f, 0x33],             // rdpmc
        &[0x0f, 0x01, 0xf0],       // lmsw %ax
        &[0x0f, 0x01, 0xf8],       // swapgs
        &[0x0f, 0x07],             // sysret
        &[0x0f, 0x35],             // sysexit
        &[0x0f, 0x00, 0xd8],       // ltr
        &[0x0f, 0x01, 0x10],       // lgdt
        &[0xf0, 0x0f, 0x20, 0xc0], // lock mov %cr0
        &[0xff, 0x28],             // ljmp
        &[0xcf],                   // iret
        &[0x89, 0x07],             // mov %eax, (%rdi)
        &[0x90],
        &[0x0f, 0xff, 0xc0],
        &[0x06], // push %es: not in 64-bit mode
    ] {
        let mut padded = [0x90; 15];
        padded[..bytes.len()].copy_from_slice(bytes);
        assert_eq!(
            decode_privileged(&padded, &registers()),
            Err(NotDecoded::NotEmulated),
            "{bytes:x?}"
        );
    }
    for bytes in [
        &[][..],
        &[0x66],
        &[0x0f],
        &[0xe4],
        &[0x0f, 0x20],
        &[0x48, 0x0f, 0x01],
    ] {
        assert_eq!(
            decode_privileged(bytes, &registers()),
            Err(NotDecoded::Truncated),
            "{bytes:x?}"
        );
    }
    assert_eq!(
        decode_privileged(&[0x66; 15], &registers()),
        Err(NotDecoded::NotEmulated)
    );
}

#[test]
fn string_io() {
    let mut registers = registers();
    registers.gpr[gpr::RCX] = 3;
    let (what, 3) = decode_privileged(&[0xf3, 0x66, 0x6d], &registers).unwrap() else {
        panic!()
    };
    let Privileged::Ins(io) = what else { panic!() };
    assert_eq!(
        (io.port, io.width, io.address, io.count),
        (0x3333, Width::Word, 0x1000, 3)
    );
    assert_eq!(io.item(2), 0x1004);
    let mut after = registers;
    assert!(!io.finish(&mut after, 2));
    assert_eq!((after.gpr[gpr::RDI], after.gpr[gpr::RCX]), (0x1004, 1));

    registers.rflags |= FLAG_DF;
    registers.gpr[gpr::RSI] = 0xffff_ffff_0000_0010;
    // outsb %gs:(%esi)
    let (what, _) = decode_privileged(&[0x65, 0x67, 0x6e], &registers).unwrap();
    let Privileged::Outs(io) = what else { panic!() };
    assert_eq!((io.address, io.count), (0x20_0010, 1));
    assert_eq!(io.item(1), 0x20_000f);
    assert!(io.finish(&mut registers, 1));
    assert_eq!(registers.gpr[gpr::RSI], 0xf);
    registers.gpr[gpr::RCX] = 0;
    let (what, _) = decode_privileged(&[0xf3, 0x6e], &registers).unwrap();
    let Privileged::Outs(io) = what else { panic!() };
    assert_eq!(io.count, 0);
    assert!(io.finish(&mut registers, 0));
}

#[test]
fn compatibility_mode() {
    let mut registers = registers();
    registers.mode = CodeMode::Compat32;
    registers.bases.cs = 0x1000;
    assert_eq!(
        decode_privileged(&[0x0f, 0x22, 0xd8], &registers)
            .unwrap()
            .0,
        Privileged::WriteCr {
            cr: 3,
            value: 0x1111_1111
        }
    );
    registers.rip = 0xffff_ffff;
    assert!(!registers.advance(2));
    assert_eq!(registers.rip, 1);
    registers.rflags |= FLAG_TF | FLAG_RF;
    assert!(registers.advance(1));
    assert_eq!(registers.rflags & FLAG_RF, 0);
}

#[test]
fn software_interrupts_and_the_prefix() {
    let registers = registers();
    assert_eq!(
        decode_software_interrupt(&[0xcd, 0x80], &registers),
        Ok((0x80, 2))
    );
    assert_eq!(
        decode_software_interrupt(&[0x66, 0xcd, 0x21, 0x90], &registers),
        Ok((0x21, 3))
    );
    assert_eq!(
        decode_software_interrupt(&[0xcc], &registers),
        Err(NotDecoded::NotEmulated)
    );
    assert_eq!(
        decode_software_interrupt(&[0xcd], &registers),
        Err(NotDecoded::Truncated)
    );
    assert_eq!(decode_forced_cpuid(b"\x0f\x0bxen\x0f\xa2"), Ok(()));
    assert_eq!(
        decode_forced_cpuid(b"\x0f\x0bxen\x0f\xa3"),
        Err(NotDecoded::NotEmulated)
    );
    assert_eq!(
        decode_forced_cpuid(b"\x0f\x0bxex\x0f\xa2"),
        Err(NotDecoded::NotEmulated)
    );
    assert_eq!(
        decode_forced_cpuid(b"\x0f\x0bxen\x0f"),
        Err(NotDecoded::Truncated)
    );
    assert_eq!(
        decode_forced_cpuid(b"\x0f\x0bxe"),
        Err(NotDecoded::Truncated)
    );
}

/// What an instruction does to memory that holds `old`.
fn run(bytes: &[u8], registers: &Registers, old: u64) -> (MemoryWrite, Written) {
    let write = decode_memory_write(bytes, registers).unwrap();
    assert_eq!(write.length as usize, bytes.len());
    let written = write.apply(registers, old, 0xabcd);
    (write, written)
}

#[test]
fn stores() {
    let registers = registers();
    for (bytes, address, width, value) in [
        (
            &[0x48, 0x89, 0x07][..],
            0x1000,
            Width::Qword,
            0x1111_1111_1111_1111,
        ),
        (&[0x89, 0x47, 0x10], 0x1010, Width::Dword, 0x1111_1111),
        (&[0x66, 0x89, 0x1c, 0xff], 0x9000, Width::Word, 0x4444),
        (&[0x88, 0x27], 0x1000, Width::Byte, 0x11), // %ah
        (&[0x40, 0x88, 0x37], 0x1000, Width::Byte, 0x77), // %sil
        (
            &[0xc7, 0x07, 0xff, 0xff, 0xff, 0xff],
            0x1000,
            Width::Dword,
            0xffff_ffff,
        ),
        (
            &[0x48, 0xc7, 0x07, 0xff, 0xff, 0xff, 0xff],
            0x1000,
            Width::Qword,
            u64::MAX,
        ),
        (&[0xc6, 0x07, 0x5a], 0x1000, Width::Byte, 0x5a),
        (
            &[0x48, 0x0f, 0xc3, 0x07],
            0x1000,
            Width::Qword,
            0x1111_1111_1111_1111,
        ), // movnti
        (
            &[0x64, 0x48, 0x89, 0x07],
            0x10_1000,
            Width::Qword,
            0x1111_1111_1111_1111,
        ),
        (&[0x4c, 0x89, 0x3d, 0, 1, 0, 0], 0x40_0107, Width::Qword, 15), // rip-relative
        (
            &[0x48, 0xa3, 8, 7, 6, 5, 4, 3, 2, 1],
            0x0102_0304_0506_0708,
            Width::Qword,
            0x1111_1111_1111_1111,
        ),
    ] {
        let (write, written) = run(bytes, &registers, 0);
        assert_eq!(
            (write.address, write.width, written.value),
            (address, width, Some(value)),
            "{bytes:x?}"
        );
        assert!(write.unconditional);
        let mut expected = registers;
        expected.rip += bytes.len() as u64;
        assert_eq!(written.registers, expected, "{bytes:x?}");
    }
}

#[test]
fn exchanges() {
    let mut registers = registers();
    // lock cmpxchg %rbx, (%rdi)
    let cmpxchg = [0xf0, 0x48, 0x0f, 0xb1, 0x1f];
    let (_, written) = run(&cmpxchg, &registers, 0x1111_1111_1111_1111);
    assert_eq!(written.value, Some(0x4444_4444_4444_4444));
    assert_ne!(written.registers.rflags & FLAG_ZF, 0);
    let (write, written) = run(&cmpxchg, &registers, 5);
    assert!(!write.unconditional);
    assert_eq!(written.value, None);
    assert_eq!(written.registers.gpr[gpr::RAX], 5);
    assert_eq!(written.registers.rflags & FLAG_ZF, 0);
    // xchg %eax, (%rdi)
    let (_, written) = run(&[0x87, 0x07], &registers, 0xffff_ffff);
    assert_eq!(written.value, Some(0x1111_1111));
    assert_eq!(written.registers.gpr[gpr::RAX], 0xffff_ffff);
    // xadd %ax, (%rdi)
    let (_, written) = run(&[0x66, 0x0f, 0xc1, 0x07], &registers, 0xeeef);
    assert_eq!(written.value, Some(0));
    assert_eq!(written.registers.gpr[gpr::RAX], 0x1111_1111_1111_eeef);
    assert_eq!(
        written.registers.rflags & (FLAG_CF | FLAG_ZF | FLAG_SF | FLAG_OF),
        FLAG_CF | FLAG_ZF
    );
    // lock cmpxchg8b (%rdi)
    let cmpxchg8b = [0xf0, 0x0f, 0xc7, 0x0f];
    let (write, written) = run(&cmpxchg8b, &registers, 0x3333_3333_1111_1111);
    assert_eq!(write.width, Width::Qword);
    assert_eq!(written.value, Some(0x2222_2222_4444_4444));
    let (_, written) = run(&cmpxchg8b, &registers, 0x5_0000_0006);
    assert_eq!(written.value, None);
    assert_eq!(
        (
            written.registers.gpr[gpr::RDX],
            written.registers.gpr[gpr::RAX]
        ),
        (5, 6)
    );
    // cmpxchg16b is more than an entry.
    assert!(decode_memory_write(&[0xf0, 0x48, 0x0f, 0xc7, 0x0f], &registers).is_err());
    // bts %rax, (%rdi): the bit lies in another word.
    registers.gpr[gpr::RAX] = 65;
    let (write, written) = run(&[0x48, 0x0f, 0xab, 0x07], &registers, 0);
    assert_eq!((write.address, written.value), (0x1008, Some(2)));
    registers.gpr[gpr::RAX] = (-1i64) as u64;
    let (write, written) = run(&[0x48, 0x0f, 0xb3, 0x07], &registers, u64::MAX);
    assert_eq!((write.address, written.value), (0xff8, Some(u64::MAX >> 1)));
    assert_eq!(written.registers.rflags & FLAG_CF, FLAG_CF);
    // btcl $33, (%rdi): modulo 32.
    let (write, written) = run(&[0x0f, 0xba, 0x3f, 33], &registers, 0);
    assert_eq!((write.address, written.value), (0x1000, Some(2)));
}

#[test]
fn strings() {
    let mut registers = registers();
    registers.gpr[gpr::RCX] = 2;
    registers.gpr[gpr::RSI] = 0x5000;
    let (write, written) = run(&[0xf3, 0x48, 0xab], &registers, 0);
    assert_eq!(
        (write.address, written.value),
        (0x1000, Some(0x1111_1111_1111_1111))
    );
    assert_eq!(written.registers.rip, registers.rip);
    assert_eq!(written.registers.gpr[gpr::RDI], 0x1008);
    let (_, written) = run(&[0xf3, 0x48, 0xab], &written.registers, 0);
    assert_eq!(written.registers.rip, registers.rip + 3);
    assert_eq!(written.registers.gpr[gpr::RCX], 0);
    let (write, written) = run(
        &[0xf3, 0x48, 0xab],
        &{
            let mut r = written.registers;
            r.rip = 0;
            r
        },
        0,
    );
    assert!(write.empty && written.value.is_none());
    assert_eq!(written.registers.gpr[gpr::RDI], 0x1010);
    let (write, written) = run(&[0x48, 0xa5], &registers, 0);
    assert_eq!((write.source, written.value), (Some(0x5000), Some(0xabcd)));
    assert_eq!(written.registers.gpr[gpr::RSI], 0x5008);
    let (write, _) = run(&[0xa5], &registers, 0);
    assert_eq!(write.width, Width::Dword);
    // movsd %xmm0, (%rdi), which is something else
    assert!(decode_memory_write(&[0xf2, 0x0f, 0x11, 0x07], &registers).is_err());
}

#[test]
fn other_writes_are_refused() {
    for bytes in [
        &[0x48, 0x8b, 0x07][..],   // mov (%rdi), %rax
        &[0x48, 0x89, 0xc7],       // mov %rax, %rdi
        &[0x48, 0x39, 0x07],       // cmp %rax, (%rdi)
        &[0x48, 0x03, 0x07],       // add (%rdi), %rax
        &[0x0f, 0x11, 0x07],       // movups %xmm0, (%rdi)
        &[0x8c, 0x1f],             // mov %ds, (%rdi)
        &[0x50],                   // push %rax
        &[0x0f, 0xae, 0x07],       // fxsave
        &[0xe8, 0, 0, 0, 0],       // call
        &[0xff, 0x17],             // call *(%rdi)
        &[0x48, 0x0f, 0xa3, 0x07], // bt
    ] {
        assert_eq!(
            decode_memory_write(bytes, &registers()),
            Err(NotDecoded::NotEmulated),
            "{bytes:x?}"
        );
    }
}

/// The flags by another way: with 128-bit signed and unsigned numbers.
fn flags(width: Width, unsigned: i128, signed: i128, result: u64, nibble: i32) -> u64 {
    let bits = width.bits();
    let mut flags = 0;
    if unsigned < 0 || unsigned >> bits != 0 {
        flags |= FLAG_CF;
    }
    if signed < -(1i128 << (bits - 1)) || signed >= 1i128 << (bits - 1) {
        flags |= FLAG_OF;
    }
    if result == 0 {
        flags |= FLAG_ZF;
    }
    if result >> (bits - 1) & 1 != 0 {
        flags |= FLAG_SF;
    }
    if (result as u8).count_ones().is_multiple_of(2) {
        flags |= FLAG_PF;
    }
    if !(0..16).contains(&nibble) {
        flags |= FLAG_AF;
    }
    flags
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_safe(
        bytes in prop::collection::vec(any::<u8>(), 0..18), gprs in any::<[u64; 16]>(),
        rip in any::<u64>(), mode in 0..3,
    ) {
        let mode = [CodeMode::Long, CodeMode::Compat32, CodeMode::Compat16][mode as usize];
        let registers = Registers { gpr: gprs, rip, mode, ..registers() };
        if let Ok((what, length)) = decode_privileged(&bytes, &registers) {
            prop_assert!((1..=15).contains(&length) && length as usize <= bytes.len());
            if let Privileged::Ins(io) | Privileged::Outs(io) = what {
                let mut after = registers;
                io.finish(&mut after, io.count);
                let _ = io.item(u64::MAX);
            }
        }
        if let Ok((_, length)) = decode_software_interrupt(&bytes, &registers) {
            prop_assert!(length as usize <= bytes.len());
        }
        if let Ok(write) = decode_memory_write(&bytes, &registers) {
            prop_assert!(write.length as usize <= bytes.len());
            let written = write.apply(&registers, rip, rip);
            prop_assert!(written.value.is_none_or(|value| value & !write.width.mask() == 0));
        }
        let _ = decode_forced_cpuid(&bytes);
    }

    #[test]
    fn arithmetic_flags(
        a in any::<u64>(), b in any::<u64>(), wide in 0..4, operation in 0u8..8, carry in any::<bool>(), near in any::<bool>(),
    ) {
        // Opcode /r forms: 00 add, 08 or, 10 adc, 18 sbb, 20 and, 28 sub, 30 xor; 38 is cmp.
        prop_assume!(operation != 7);
        let width = [Width::Byte, Width::Word, Width::Dword, Width::Qword][wide as usize];
        let b = if near { a.wrapping_add(b & 3).wrapping_sub(1) } else { b };
        let (a, b) = (a & width.mask(), b & width.mask());
        let mut registers = registers();
        registers.gpr[gpr::RBX] = b;
        registers.rflags = 0x202 | if carry { FLAG_CF } else { 0 };
        let base = operation * 8;
        let bytes: &[u8] = match width {
            Width::Byte => &[base, 0x1f],
            Width::Word => &[0x66, base + 1, 0x1f],
            Width::Dword => &[base + 1, 0x1f],
            Width::Qword => &[0x48, base + 1, 0x1f],
        };
        let (_, written) = run(bytes, &registers, a);
        let c = i128::from(carry && (operation == 2 || operation == 3));
        let shift = 64 - width.bits();
        let sign = |n: u64| i128::from(((n << shift) as i64) >> shift);
        let (ua, ub) = (i128::from(a), i128::from(b));
        let (sa, sb) = (sign(a), sign(b));
        let (na, nb) = ((a & 15) as i32, (b & 15) as i32);
        let (unsigned, signed, nibble) = match operation {
            0 | 2 => (ua + ub + c, sa + sb + c, na + nb + c as i32),
            3 | 5 => (ua - ub - c, sa - sb - c, na - nb - c as i32),
            1 => (ua | ub, sa | sb, 0),
            4 => (ua & ub, sa & sb, 0),
            _ => (ua ^ ub, sa ^ sb, 0),
        };
        let result = unsigned as u64 & width.mask();
        prop_assert_eq!(written.value, Some(result));
        prop_assert_eq!(written.registers.rflags, 0x202 | flags(width, unsigned, signed, result, nibble));
    }
}

#[test]
fn cached_decoding_sees_new_bytes_and_new_registers() {
    let mut cache = DecodeCache::default();
    let mut regs = registers();
    // mov [rdi], rax; then xchg [rdi], rax at the same address.
    for bytes in [[0x48, 0x89, 0x07], [0x48, 0x87, 0x07], [0x48, 0x89, 0x07]] {
        for value in [1, 2] {
            regs.gpr[gpr::RAX] = value;
            regs.gpr[gpr::RDI] = 0x1000 * value;
            let cached = cache.memory_write(&bytes, &regs).unwrap();
            assert_eq!(cached, decode_memory_write(&bytes, &regs).unwrap());
            assert_eq!(cached.address, 0x1000 * value);
        }
    }
    // The same bytes elsewhere, and in another mode.
    let relative = [0x48, 0x89, 0x05, 0x10, 0, 0, 0];
    for rip in [0x1000, 0x2000, 0x1000] {
        regs.rip = rip;
        let cached = cache.memory_write(&relative, &regs).unwrap();
        assert_eq!(cached.address, rip + 7 + 0x10);
    }
    // Too few of the bytes that are known.
    assert_eq!(
        cache.memory_write(&relative[..4], &regs),
        Err(NotDecoded::Truncated)
    );
}

#[test]
fn stack_faults() {
    let mut good = registers();
    good.gpr[gpr::RSP] = 0x7fff_ffff_f000;
    good.gpr[gpr::RBP] = 0x7fff_ffff_f000;
    let mut bad = registers();
    bad.gpr[gpr::RSP] = 1 << 63;
    bad.gpr[gpr::RBP] = 1 << 62;
    bad.gpr[gpr::RAX] = 1 << 63;
    for (bytes, stack) in [
        (&[0x8b, 0x04, 0x24][..], true),    // mov (%rsp), %eax
        (&[0x8b, 0x45, 0x00], true),        // mov (%rbp), %eax
        (&[0x26, 0x8b, 0x04, 0x24], true),  // mov %es:(%rsp), %eax
        (&[0x64, 0x8b, 0x04, 0x24], false), // mov %fs:(%rsp), %eax
        (&[0x8b, 0x00], false),             // mov (%rax), %eax
        (&[0x36, 0x8b, 0x00], false),       // mov %ss:(%rax), %eax
        (&[0x48, 0x8d, 0x04, 0x24], false), // lea (%rsp), %rax
        (&[0x50], true),                    // push %rax
        (&[0xc3], true),                    // ret
        (&[0x0f, 0x30], false),             // wrmsr
    ] {
        assert_eq!(faults_on_stack(bytes, &bad), stack, "{bytes:x?}");
        assert!(!faults_on_stack(bytes, &good), "{bytes:x?}");
    }
}
