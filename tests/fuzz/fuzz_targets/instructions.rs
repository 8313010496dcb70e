//! Decoding and emulation of instructions, with any registers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overcast_core::emulate::{self, CodeMode, Registers, SegmentBases};
use overcast_core::fuzz::Choices;

fn run(choices: &mut Choices<'_>) -> Option<()> {
    let mode = choices.one_of(&[
        CodeMode::Long,
        CodeMode::Long,
        CodeMode::Compat32,
        CodeMode::Compat16,
    ])?;
    let length = usize::from(choices.below(16)?);
    let (bytes, rest) = choices.0.split_at_checked(length)?;
    choices.0 = rest;
    let mut registers = Registers {
        gpr: [0; 16],
        rip: choices.word()?,
        rflags: choices.word()?,
        bases: SegmentBases {
            fs: choices.word()?,
            gs: choices.word()?,
            ..SegmentBases::default()
        },
        mode,
    };
    for at in 0..16 {
        registers.gpr[at] = choices.word().unwrap_or(at as u64 * 0x1111_2222_3333);
    }
    let good = |n: u8| assert!((1..=15).contains(&n) && usize::from(n) <= length);
    if let Ok((_, n)) = emulate::decode_privileged(bytes, &registers) {
        good(n);
        registers.clone().advance(n);
    }
    if let Ok((_, n)) = emulate::decode_software_interrupt(bytes, &registers) {
        good(n);
    }
    let _ = emulate::faults_on_stack(bytes, &registers);
    let _ = emulate::decode_forced_cpuid(bytes);
    if let Ok(write) = emulate::decode_memory_write(bytes, &registers) {
        good(write.length);
        let (old, source) = (choices.word().unwrap_or(1), choices.word().unwrap_or(2));
        let after = write.apply(&registers, old, source);
        if let Some(value) = after.value {
            let bits = write.width.bytes() * 8;
            assert!(
                bits == 64 || value >> bits == 0,
                "{value:#x} is wider than {bits} bits"
            );
        }
        assert!(!(write.empty && after.value.is_some()));
    }
    Some(())
}

fuzz_target!(|bytes: &[u8]| {
    let _ = run(&mut Choices(bytes));
});
