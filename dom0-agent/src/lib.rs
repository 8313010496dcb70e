//! The `overcast` command of Dom0: lists, describes and controls domains.
//!
//! It is one client of the hypervisor's control interface, which is Xen's, and of the
//! store; Xen's own tools are another. `xen` makes hypercalls, `control` knows the
//! operations, `store` speaks the store's protocol, `cli` defines the command line and
//! `commands` carries it out. [`stream`] reads and writes saved domains, and `migrate` moves
//! them; they are public for the fuzz targets.

/// Prints a line, as `println!`; that nobody reads it is no reason to end.
macro_rules! say {
    ($($what:tt)*) => { $crate::terminal::say(format_args!($($what)*)) };
}
/// As `say!`, where errors go.
macro_rules! complain {
    ($($what:tt)*) => { $crate::terminal::complain(format_args!($($what)*)) };
}

mod build;
mod cli;
mod commands;
mod config;
mod console;
mod control;
mod cpu;
mod daemon;
mod error;
mod first_boot;
#[cfg(not(feature = "model"))]
mod migrate;
#[cfg(feature = "model")]
pub mod migrate;
mod poll;
mod store;
pub mod stream;
mod terminal;
mod top;
mod xen;

use std::process::ExitCode;

use clap::Parser;

/// Does what the command line says; the exit status.
pub fn run() -> ExitCode {
    let cli = cli::Cli::parse();
    // Whoever reads our output may have had enough of it: end as others do then. But not
    // where something would be left half done: there a write to who is gone fails, be it a
    // terminal or another host.
    if !cli.command.goes_to_its_end() {
        // SAFETY: sets a signal's action before there is any other thread.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    }
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain!("overcast: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}
