//! Directed tests, and properties over random operations.
use std::format;
use std::string::String;
use std::vec::Vec;

use proptest::prelude::*;

use super::model::{KINDS, run};

fn outcome(bytes: &[u8]) -> Result<(), String> {
    run(bytes)?.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn hostile_operations_leave_memory_safe(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
        if let Err(error) = outcome(&bytes) {
            return Err(TestCaseError::fail(error));
        }
    }
}

/// Runs random sequences of 200 operations; how often each kind succeeded.
fn run_random(sequences: usize, seed: u64) -> [u32; 32] {
    let mut successes = [0u32; 32];
    let mut state = seed;
    for _ in 0..sequences {
        let bytes: Vec<u8> = (0..1600)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        let world = run(&bytes).unwrap_or_else(|error| panic!("{error}"));
        for (sum, n) in successes.iter_mut().zip(world.successes) {
            *sum += n;
        }
        world.finish().unwrap_or_else(|error| panic!("{error}"));
    }
    successes
}

#[test]
fn the_interpreter_reaches_every_operation() {
    let successes = run_random(40, 0x1234_5678_9abc_def1);
    for (kind, &n) in successes.iter().take(KINDS).enumerate() {
        assert!(
            n > 0,
            "{}",
            format!("operation {kind} never succeeded: {successes:?}")
        );
    }
}

/// For a quiet hour: `cargo test --release -p overcast-core soak -- --ignored`.
#[test]
#[ignore = "long"]
fn soak() {
    let seed = std::time::UNIX_EPOCH
        .elapsed()
        .map_or(1, |d| d.as_nanos() as u64 | 1);
    std::println!("seed {seed:#x}: {:?}", run_random(5000, seed));
}
