//! The `overcast` command of Dom0; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    overcast_agent::run()
}
