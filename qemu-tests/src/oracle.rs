//! The same questions to real Xen and to Overcast: a small PV kernel
//! (`qemu-tests/pv`) runs as Dom0 on both, and must get the same answers.

use crate::artefacts;
use crate::machine::{Machine, System};
use crate::session::Session;

/// The groups of questions, as `pv.h` names them, but those whose answers are
/// free (`cpuid`: the CPU policies may differ) or not asked of Xen (`thousand`).
pub const GROUPS: &[&str] = &[
    "start",
    "hypercalls",
    "version",
    "exceptions",
    "user",
    "emulation",
    "msrs",
    "mmu",
    "memory",
    "events",
    "fifo",
    "grants",
    "grantclear",
    "vcpus",
    "segments",
    "callbacks",
    "platform",
    "multicall",
    "edges",
    "domains",
];

/// Answers that differ on purpose, each with the reason.
const DIFFERENCES: &str = include_str!("../pv/differences.txt");

/// Asks both, and fails with the lines that differ.
pub fn compare(name: &str, group: &str) -> Result<(), String> {
    let theirs = ask(System::Xen, &format!("{name}-xen"), group)?;
    let ours = ask(System::Overcast, name, group)?;
    let wrong = differences(&theirs, &ours, &expected(DIFFERENCES, group));
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "answers differ from real Xen's (-), {} lines:\n    | {}",
            wrong.len(),
            wrong.join("\n    | ")
        ))
    }
}

/// Uses xenstore in Dom0 as Linux and Xen's tools do, and fails with what differs from what
/// Xen's own server answers.
pub fn compare_xenstore(name: &str) -> Result<(), String> {
    let theirs = ask_xenstore(System::Xen, &format!("{name}-xen"), "xenstored")?;
    let ours = ask_xenstore(System::Overcast, name, "")?;
    let wrong = differences(&theirs, &ours, &[]);
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "answers differ from xenstored's (-), {} lines:\n    | {}",
            wrong.len(),
            wrong.join("\n    | ")
        ))
    }
}

fn ask_xenstore(system: System, name: &str, server: &str) -> Result<Vec<String>, String> {
    let words = format!("run=store,dmesg,poweroff {server}");
    let mut machine = Machine::linux(system, "store", &words)?
        .cpus(2)
        .cpu("max,-smap,-smep");
    machine.options = "console=com1 dom0_mem=512M".to_owned();
    let mut session = Session::start(&machine, name)?;
    session.wait_for("xs: done")?;
    session.wait_for("init: store done")?;
    session.wait_for("init: dmesg checked")?;
    session.wait_exit()?;
    let answers = answers(session.text());
    // Were it less, it would compare nothing with nothing.
    if answers.len() < 200 {
        return Err(session.failure(&format!("{} answers only", answers.len())));
    }
    Ok(answers)
}

/// Makes a thousand domains and destroys them: all memory is free again.
pub fn thousand_domains(name: &str) -> Result<(), String> {
    let answers = ask(System::Overcast, name, "thousand")?;
    for wanted in ["made 1000, gone 1", "all memory is free again 1"] {
        if !answers.iter().any(|answer| answer.contains(wanted)) {
            return Err(format!("not {wanted:?}, but {answers:?}"));
        }
    }
    Ok(())
}

/// What a domain on two vCPUs writes is logged, round by round, and its memory is right.
pub fn log_dirty(name: &str) -> Result<(), String> {
    let answers = ask(System::Overcast, name, "logdirty")?;
    let wanted = [
        "no vCPUs: -EINVAL",
        "oneself: -EINVAL",
        "unknown: -EINVAL",
        "off without a log: 0",
        "clean without a log: 0 of 64 dirty:",
        "allocated 2",
        "allocated 0, given back 1",
        "enable again: -EINVAL",
        "allocated 1",
        "set_allocation to none: -EINVAL",
        "at first: 0 of 64 dirty:",
        "unknown mode: -EINVAL",
        "peek: 4 of 64 dirty: 1 2 3 6",
        "clean: 4 of 64 dirty: 1 2 3 6",
        "clean again: 0 of 64 dirty:",
        "a round: 1 of 64 dirty: 6",
        "its table: 1 of 64 dirty: 1",
        "a round: 2 of 64 dirty: 1 7",
        "while it is there: 1 of 64 dirty: 8",
        "while it is there: 1 of 64 dirty: 8",
        "when it is gone: 1 of 64 dirty: 8",
        "later: 0 of 64 dirty:",
        "a bitmap that cannot be written: -EFAULT",
        "nothing is lost: 1 of 64 dirty: 7",
        "off: 0",
        "given back 1",
        "counter 6: far 1",
        "counter 7: far 1",
        "it runs 1",
        "gone 1",
    ];
    // In this order, with others between them.
    let mut answers = answers.iter();
    for wanted in wanted {
        if !answers.any(|answer| answer.trim_start_matches("> ").trim_end() == wanted) {
            return Err(format!("no {wanted:?} where it is due"));
        }
    }
    Ok(())
}

/// Dom0 crashes while another domain runs: it alone is made again, and finds the other,
/// which has run on. Then it crashes without another, and the machine restarts.
pub fn dom0_restart(name: &str) -> Result<(), String> {
    let mut machine = Machine::empty(System::Overcast).cpus(2);
    machine.options = "console=com1 dom0_mem=256M".to_owned();
    machine.modules = vec![(artefacts::probe()?, "restart".to_owned())];
    let mut session = Session::start(&machine, name)?;
    session.fatal_signs = false;
    session.wait_for("> the first Dom0")?;
    session.wait_for("> it runs 1")?;
    session.wait_for("Hardware Dom0 crashed: it alone is restarted; 1 other domains go on")?;
    session.wait_for("Dom0 is restarted")?;
    session.wait_for("> the next Dom0")?;
    session.wait_for("> it runs 1")?;
    session.wait_for("> counted far 1")?;
    session.wait_for("> gone 1")?;
    session.wait_for("probe: done")?;
    Ok(())
}

fn ask(system: System, name: &str, group: &str) -> Result<Vec<String>, String> {
    // The same CPU for both; real Xen does not bear SMAP under QEMU 7.2.
    let mut machine = Machine::empty(system).cpus(2).cpu("max,-smap,-smep");
    machine.options = "console=com1 dom0_mem=256M".to_owned();
    machine.modules = vec![(artefacts::probe()?, group.to_owned())];
    let mut session = Session::start(&machine, name)?;
    session.fatal_signs = false;
    session.wait_for(&format!("probe: {group}\n"))?;
    let end = session.wait_for_any(&[
        "probe: done",
        "probe: unexpected",
        "rebooting machine",
        "Rebooting",
        "Manual reset",
    ])?;
    if end != 0 {
        return Err(session.failure(&format!("the probe died on {}", system.name())));
    }
    Ok(answers(session.text()))
}

/// The lines of a log that are answers.
fn answers(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("> "))
        .map(str::to_owned)
        .collect()
}

/// The beginnings of answers of a group that may differ.
fn expected<'a>(table: &'a str, group: &str) -> Vec<&'a str> {
    table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(": "))
        .filter(|(of, _)| *of == group)
        .map(|(_, beginning)| beginning)
        .collect()
}

/// What differs, as `-` their line and `+` our line; the longest common
/// subsequence of both stays out.
fn differences(theirs: &[String], ours: &[String], expected: &[&str]) -> Vec<String> {
    let free = |line: &String| expected.iter().any(|e| line.starts_with(e));
    let theirs: Vec<_> = theirs.iter().filter(|l| !free(l)).collect();
    let ours: Vec<_> = ours.iter().filter(|l| !free(l)).collect();
    // lengths[i][j]: of the common subsequence of theirs[i..] and ours[j..].
    let mut lengths = vec![vec![0u32; ours.len() + 1]; theirs.len() + 1];
    for i in (0..theirs.len()).rev() {
        for j in (0..ours.len()).rev() {
            lengths[i][j] = if theirs[i] == ours[j] {
                lengths[i + 1][j + 1] + 1
            } else {
                lengths[i + 1][j].max(lengths[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < theirs.len() || j < ours.len() {
        if i < theirs.len() && j < ours.len() && theirs[i] == ours[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == ours.len() || (i < theirs.len() && lengths[i + 1][j] >= lengths[i][j + 1]) {
            out.push(format!("- {}", theirs[i]));
            i += 1;
        } else {
            out.push(format!("+ {}", ours[j]));
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn only_what_differs_is_told() {
        let (a, b) = (lines("a b c d"), lines("a x c e d"));
        assert_eq!(differences(&a, &b, &[]), ["- b", "+ x", "+ e"]);
        assert!(differences(&a, &a, &[]).is_empty());
        assert_eq!(differences(&a, &[], &[]).len(), 4);
    }

    #[test]
    fn expected_differences_are_left_out() {
        let table = "# why\nmmu: x\nmsrs: b\n";
        let (a, b) = (lines("a b c"), lines("a x2 c"));
        assert_eq!(differences(&a, &b, &expected(table, "mmu")), ["- b"]);
    }

    #[test]
    fn answers_are_marked() {
        assert_eq!(answers("(XEN) x\n> a: 1\nb\n> c"), ["a: 1", "c"]);
    }
}
