//! The `overcast` command of Dom0.
//!
//! Creating, saving and moving guests will be its verbs; none is there yet, and
//! it says so. Xen's own tools can already ask Overcast what they ask of Xen to
//! list and describe.

use std::process::ExitCode;

/// Exit status for a command line that cannot be carried out.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("--version" | "-V") => {
            println!("overcast {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some("--help" | "-h") => {
            println!("usage: overcast --version\n\nThis release has no commands yet.");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("overcast: this release has no commands yet; see overcast --help");
            ExitCode::from(USAGE)
        }
    }
}
