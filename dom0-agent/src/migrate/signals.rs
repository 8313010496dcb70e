//! SIGINT, SIGTERM and SIGHUP: work in hand is given up in order.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set by SIGINT and SIGTERM.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupted(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT and SIGTERM give the work up in order: the guest goes on.
pub fn catch_signals() {
    let handler = interrupted as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler does nothing but store into an atomic.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Whether a signal came.
pub fn was_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
