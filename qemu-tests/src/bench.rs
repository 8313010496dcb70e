//! What operations cost a guest: the same binary and kernel on the bare machine,
//! on real Xen and on Overcast, where guest time is the number of executed
//! instructions, so that figures repeat exactly.

use crate::machine::{Machine, System};
use crate::session::Session;
use std::collections::BTreeMap;
use std::time::Instant;

/// The figures of one system.
#[derive(Debug, Default)]
struct Figures {
    /// Nanoseconds (instructions) an operation, by name.
    operations: BTreeMap<String, f64>,
    /// Order in which they were told.
    order: Vec<String>,
    /// Instructions from power-on to the first process.
    boot: Option<f64>,
    /// Seconds of the host until the first process.
    wall: f64,
}

/// Runs the benchmarks on the systems named, separated by commas, and prints a table.
pub fn run(systems: &str) -> Result<(), String> {
    let mut columns = Vec::new();
    for name in systems.split(',') {
        let system = [System::Bare, System::Xen, System::Overcast]
            .into_iter()
            .find(|s| s.name() == name)
            .ok_or(format!("there is no system {name}: bare, xen or overcast"))?;
        eprintln!("running on {name}");
        columns.push((system, measure(system)?));
    }
    print!("{}", table(&columns));
    Ok(())
}

fn machine(system: System, icount: bool) -> Result<Machine, String> {
    let words = if icount {
        "run=boottime,bench,poweroff"
    } else {
        "run=poweroff"
    };
    // The same CPU everywhere: real Xen's Dom0 does not bear SMAP under QEMU 7.2.
    let mut machine = Machine::linux(system, "bench", words)?.cpu("max,-smap,-smep");
    machine.options = "console=com1 dom0_mem=768M".to_owned();
    machine.icount = icount;
    Ok(machine)
}

fn measure(system: System) -> Result<Figures, String> {
    let mut figures = Figures::default();

    let begin = Instant::now();
    let name = format!("bench-{}-wall", system.name());
    let mut session = Session::start(&machine(system, false)?, &name)?;
    session.wait_for("init: up")?;
    figures.wall = begin.elapsed().as_secs_f64();
    drop(session);

    let name = format!("bench-{}", system.name());
    let mut session = Session::start(&machine(system, true)?, &name)?;
    session.patience *= 6;
    session.wait_for("init: bench done")?;
    parse(session.text(), &mut figures);
    Ok(figures)
}

/// Takes the figures from lines like `bench: null syscall 337.2`.
fn parse(text: &str, figures: &mut Figures) {
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("bench: ") else {
            continue;
        };
        let Some((name, value)) = rest.rsplit_once(' ') else {
            continue;
        };
        let Ok(value) = value.parse() else { continue };
        if name == "boot" {
            figures.boot = Some(value);
        } else {
            figures.order.push(name.to_owned());
            figures.operations.insert(name.to_owned(), value);
        }
    }
}

fn table(columns: &[(System, Figures)]) -> String {
    let of = |system, name: &str| {
        columns
            .iter()
            .find(|(s, _)| *s == system)
            .and_then(|(_, f)| match name {
                "boot" => f.boot,
                _ => f.operations.get(name).copied(),
            })
    };
    let mut names = columns
        .first()
        .map(|(_, f)| f.order.clone())
        .unwrap_or_default();
    names.push("boot".to_owned());
    let mut out = format!("\n{:<34}", "instructions an operation");
    for (system, _) in columns {
        out += &format!("{:>16}", system.name());
    }
    out += &format!("{:>16}\n", "overhead ratio");
    for name in &names {
        let title = if name == "boot" {
            "boot to userspace"
        } else {
            name
        };
        out += &format!("{title:<34}");
        for (system, _) in columns {
            out += &match of(*system, name) {
                Some(v) => format!("{v:>16.0}"),
                None => format!("{:>16}", "-"),
            };
        }
        let ratio = match (
            of(System::Bare, name),
            of(System::Xen, name),
            of(System::Overcast, name),
        ) {
            // Of a boot, Xen's whole is the measure, not what it adds.
            (_, Some(xen), Some(ours)) if name == "boot" => Some(ours / xen),
            (Some(bare), Some(xen), Some(ours)) if xen - bare > 0.01 * bare => {
                Some((ours - bare) / (xen - bare))
            }
            _ => None,
        };
        out += &match ratio {
            Some(r) => format!("{r:>16.2}\n"),
            None => format!("{:>16}\n", "-"),
        };
    }
    out += &format!("{:<34}", "boot to userspace, wall seconds");
    for (_, figures) in columns {
        out += &format!("{:>16.1}", figures.wall);
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(text: &str) -> Figures {
        let mut figures = Figures::default();
        parse(text, &mut figures);
        figures
    }

    #[test]
    fn overhead_is_measured_against_xen() {
        let columns = [
            (
                System::Bare,
                figures("bench: boot 100\nbench: null syscall 337\nbench: loop 50"),
            ),
            (
                System::Xen,
                figures("bench: boot 400\nbench: null syscall 1105\nbench: loop 50"),
            ),
            (
                System::Overcast,
                figures("bench: boot 200\nbench: null syscall 721\nbench: loop 50"),
            ),
        ];
        let table = table(&columns);
        let line = |name: &str| {
            let line = table.lines().find(|l| l.starts_with(name)).unwrap();
            line.split_whitespace().last().unwrap().to_owned()
        };
        assert_eq!(line("null syscall"), "0.50");
        assert_eq!(line("loop"), "-");
        assert_eq!(line("boot to userspace  "), "0.50");
    }

    #[test]
    fn other_lines_are_no_figures() {
        let figures = figures("bench: x y\n[1.0] bench: 7\nbench: a b 1.5");
        assert_eq!(figures.order, ["a b"]);
    }
}
