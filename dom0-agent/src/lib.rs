//! The `overcast` command of Dom0: lists, describes and controls domains.
//!
//! It is one client of the hypervisor's control interface, which is Xen's, and of the
//! store; Xen's own tools are another. `xen` makes hypercalls, `control` knows the
//! operations, `store` speaks the store's protocol, `cli` defines the command line and
//! `commands` carries it out. [`stream`] reads and writes saved domains, and `migrate` moves
//! them; they are public for the fuzz targets.

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
    // Whoever reads our output may have had enough of it: end as others do then.
    // SAFETY: sets a signal's action before there is any other thread.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    match commands::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overcast: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}
