//! The end of Dom0, and of the machine.

use xen_abi::sched::*;

use crate::arch::panic;

/// Dom0 shut down for a reason (`SHUTDOWN_*`): so does the machine, unless Dom0 alone is
/// started again for the sake of other domains.
pub fn dom0(reason: u32) {
    if reason != SHUTDOWN_POWEROFF && crate::restart::begin(reason) {
        return;
    }
    match reason {
        SHUTDOWN_POWEROFF => {
            log::error!("Hardware Dom0 halted: halting machine");
            panic::machine_poweroff();
        }
        SHUTDOWN_CRASH => {
            log::error!("Hardware Dom0 crashed: {}", after_crash());
            restart_unless_told();
        }
        SHUTDOWN_REBOOT => {
            log::error!("Hardware Dom0 shutdown: rebooting machine");
            panic::machine_restart();
        }
        SHUTDOWN_WATCHDOG => {
            log::error!("Hardware Dom0 shutdown: watchdog rebooting machine");
            panic::machine_restart();
        }
        // SHUTDOWN_SUSPEND and SHUTDOWN_SOFT_RESET among them.
        _ => {
            log::error!(
                "Hardware Dom0 shutdown (unsupported reason {reason}): {}",
                after_crash()
            );
            restart_unless_told();
        }
    }
}

fn after_crash() -> &'static str {
    if panic::noreboot() {
        "'noreboot' set - not rebooting."
    } else {
        "rebooting machine in 5 seconds."
    }
}

/// Restarts the machine after a time to read the console, or halts it.
fn restart_unless_told() {
    if panic::noreboot() {
        panic::machine_halt();
    }
    let end = crate::time::now().saturating_add(5_000_000_000);
    while crate::time::now() < end {
        core::hint::spin_loop();
    }
    panic::machine_restart();
}

/// Stops this CPU for good.
pub fn stop_this_cpu() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}
