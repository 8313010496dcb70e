//! Runs cases, some at a time, and says how they went.

use crate::cases::Case;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// What the reason of a case begins with that this machine cannot try: it says so, and counts as
/// ignored.
pub const NOT_TRIED: &str = "not tried: ";

/// Which cases to run, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Only cases whose name contains this.
    pub filter: String,
    /// How many machines may run at the same time.
    pub jobs: usize,
    /// Whether the long cases run too.
    pub soak: bool,
}

/// Runs cases; whether all of them passed.
pub fn run(cases: &[Case], plan: &Plan) -> bool {
    let chosen: Vec<_> = cases
        .iter()
        .filter(|case| case.name.contains(&plan.filter))
        .filter(|case| !case.soak || plan.soak)
        .collect();
    let filtered = cases.len() - chosen.len();
    println!("\nrunning {} tests", chosen.len());
    let next = AtomicUsize::new(0);
    let ignored = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                while let Some(case) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begin = Instant::now();
                    let result = (case.run)(&case.name);
                    let seconds = begin.elapsed().as_secs_f32();
                    if let Some(why) = not_tried(&result) {
                        ignored.fetch_add(1, Ordering::Relaxed);
                        println!("test {} ... ignored, {why}", case.name);
                        continue;
                    }
                    let word = if result.is_ok() { "ok" } else { "FAILED" };
                    println!("test {} ... {word} ({seconds:.0} s)", case.name);
                    if let (Err(why), Ok(mut failures)) = (result, failures.lock()) {
                        failures.push((case.name.clone(), why));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    if !failures.is_empty() {
        println!("\nfailures:");
        for (name, why) in &failures {
            println!("\n---- {name} (build/logs/{name}.log)\n{why}");
        }
    }
    let ignored = ignored.into_inner();
    let passed = chosen.len() - failures.len() - ignored;
    let word = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; {ignored} ignored; 0 measured; {filtered} filtered out; finished in {:.0}s",
        failures.len(),
        begin.elapsed().as_secs_f32()
    );
    failures.is_empty()
}

fn not_tried(result: &Result<(), String>) -> Option<&str> {
    let why = result.as_ref().err()?;
    why.starts_with(NOT_TRIED).then_some(why)
}
