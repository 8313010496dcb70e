//! Directed tests, and properties over random operations.
use std::format;
use std::string::String;
use std::vec::Vec;

use proptest::prelude::*;

use super::model::run;

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

#[test]
fn the_interpreter_reaches_every_operation() {
    let mut successes = [0u32; 32];
    let mut state = 0x1234_5678_9abc_def1u64;
    for _ in 0..40 {
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
    std::println!("{successes:?}");
    for (kind, &n) in successes.iter().take(20).enumerate() {
        assert!(
            n > 0,
            "{}",
            format!("operation {kind} never succeeded: {successes:?}")
        );
    }
}
