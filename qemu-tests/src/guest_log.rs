//! What must not be in a guest's log.

/// Signs of trouble.
const BAD: &[&str] = &[
    "BUG:",
    "BUG ",
    "WARNING:",
    "Oops",
    "Call Trace:",
    "general protection",
    "segfault at",
    "invalid opcode",
    "trap divide error",
    "stack segment",
    "double fault",
    "unchecked MSR access",
    "soft lockup",
    "hard LOCKUP",
    "self-detected stall",
    "detected stalls",
    "blocked for more than",
    "clocksource: timekeeping watchdog",
    "Bad page",
    "bad pmd",
    "Bad rss-counter",
    "corrupted page table",
    "Spurious",
    "nobody cared",
    "scheduling while atomic",
    "list_add corruption",
    "list_del corruption",
    "wrong sum",
    "CPU failed to come",
    "do_IRQ:",
];

/// Lines with one of these are harmless: seen on real Xen or bare hardware as well.
const ALLOWED: &[&str] = &[
    // Linux on names of mitigations, and on the options of its own command line.
    "Spectre V",
    "WARNING: Spectre",
    "Speculative Return Stack Overflow: WARNING: See",
    // What is typed, echoed (session.rs).
    "=BEG\"\"IN=",
    // Xen's own when asked for verbose logs.
    "(XEN) ",
    // The stock kernel under stress, on real Xen as well.
    "include/linux/mm_inline.h:564 unmap_page_range",
];

/// The lines of a log that tell of trouble in the guest.
pub fn bad_lines(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| BAD.iter().any(|bad| line.contains(bad)))
        .filter(|line| !ALLOWED.iter().any(|allowed| line.contains(allowed)))
        .collect()
}

/// Fails with the lines that tell of trouble, if there are any.
pub fn check(log: &str) -> Result<(), String> {
    let bad = bad_lines(log);
    if bad.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "the guest's log has:\n    | {}",
            bad.join("\n    | ")
        ))
    }
}

/// As [`check`], of the kernel's messages under stress: a call trace that belongs
/// to a warning which real Xen's guests have too is none.
pub fn check_stressed(log: &str) -> Result<(), String> {
    let mut known = false;
    let rest: Vec<&str> = log
        .lines()
        .filter(|line| {
            if line.contains("cut here ]---") {
                known = false;
            }
            known |= line.contains("WARNING:") && ALLOWED.iter().any(|a| line.contains(a));
            let skip = known && line.contains("Call Trace:");
            known &= !line.contains("end trace");
            !skip
        })
        .collect();
    check(&rest.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_found() {
        let log = "[ 1.0] Linux\n[ 2.0] BUG: unable to handle page fault\n[ 2.1] Oops: 0000";
        assert_eq!(bad_lines(log).len(), 2);
        assert!(check(log).unwrap_err().contains("unable to handle"));
    }

    #[test]
    fn the_trace_of_a_known_warning_is_known() {
        let known = "------------[ cut here ]------------\nWARNING: CPU: 2 PID: 1 at include/linux/mm_inline.h:564 unmap_page_range+1\nCall Trace:\n---[ end trace 0 ]---\n";
        assert_eq!(check_stressed(known), Ok(()));
        assert!(check_stressed(&format!("{known}Call Trace:\n")).is_err());
        assert!(check(known).is_err());
    }

    #[test]
    fn harmless_lines_are_allowed() {
        let log = "[ 0.1] Spectre V2 : WARNING: Unprivileged eBPF is enabled\n[ 1.0] debug: ok";
        assert_eq!(check(log), Ok(()));
    }
}
