//! What disk and network requests cost a guest: the same program and kernel on the bare
//! machine, on real Xen and on Overcast, beside each other.
//!
//! The first figures are executed instructions a request, told apart by where they
//! stand: in the range that Xen's interface reserves for the hypervisor, or not. QEMU counts
//! them by a plugin, with guest time being the number of instructions, so they repeat within about
//! a percent, whatever else the host does. The second are microseconds, the least of several rounds in
//! which the systems take turns. The disk is one that answers at once (`null-co`), the network
//! ends in a thread of this program, behind QEMU's user network.

use crate::artefacts;
use crate::io_wall;
use crate::machine::{Machine, System};
use crate::session::Session;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Addresses that are the hypervisor's: Overcast's, Xen's.
const HYPERVISOR: std::ops::Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;
/// Phases that the plugin counts.
const PHASES: usize = 16;

/// What to measure.
#[derive(Debug)]
pub struct Plan {
    /// Names of systems, separated by commas.
    pub systems: String,
    /// CPUs of the machines whose time is taken.
    pub cpus: u32,
    /// Requests of a phase; of the large ones fewer, of the deep ones more.
    pub requests: u32,
    /// Rounds of which the time is taken; 0 for none.
    pub rounds: u32,
    /// How many functions of the hypervisor to name for each phase.
    pub profile: usize,
    /// Instructions are counted.
    pub count: bool,
    /// Instead, fio and iperf3 by the clock.
    pub wall: bool,
    /// More options for the hypervisor.
    pub options: String,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            systems: "bare,overcast".to_owned(),
            cpus: 1,
            requests: 400,
            rounds: 0,
            profile: 0,
            count: true,
            wall: false,
            options: String::new(),
        }
    }
}

/// A line of the program's.
#[derive(Clone, Debug, PartialEq)]
struct Phase {
    number: usize,
    requests: f64,
    microseconds: f64,
    name: String,
}

fn parse_phases(text: &str) -> Vec<Phase> {
    let phase = |line: &str| {
        let mut words = line.trim().strip_prefix("io: ")?.splitn(4, ' ');
        Some(Phase {
            number: words.next()?.parse().ok().filter(|n| *n < PHASES)?,
            requests: words.next()?.parse().ok()?,
            microseconds: words.next()?.parse().ok()?,
            name: words.next()?.to_owned(),
        })
    };
    let phases = text.lines().filter_map(phase);
    phases.filter(|phase| phase.number != 0).collect()
}

/// Instructions by phase.
#[derive(Default)]
struct Counts {
    hypervisor: [f64; PHASES],
    guest: [f64; PHASES],
    /// Of the hypervisor by function.
    functions: BTreeMap<String, [f64; PHASES]>,
}

/// Reads what the plugin wrote.
fn parse_counts(text: &str, symbols: &[(u64, String)]) -> Counts {
    let mut counts = Counts::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let address = words.next().and_then(|w| u64::from_str_radix(w, 16).ok());
        let length = words.next().and_then(|w| w.parse::<f64>().ok());
        let (Some(address), Some(length)) = (address, length) else {
            continue;
        };
        let ours = HYPERVISOR.contains(&address);
        let mut function = None;
        if ours && !symbols.is_empty() {
            let at = symbols.partition_point(|(start, _)| *start <= address);
            let name = at.checked_sub(1).and_then(|at| symbols.get(at));
            let name = name.map_or("?", |(_, name)| name);
            function = Some(counts.functions.entry(name.to_owned()).or_default());
        }
        for (phase, word) in words.take(PHASES).enumerate() {
            let executed = word.parse::<f64>().unwrap_or(0.0) * length;
            let sum = if ours {
                &mut counts.hypervisor
            } else {
                &mut counts.guest
            };
            sum[phase] += executed;
            if let Some(function) = &mut function {
                function[phase] += executed;
            }
        }
    }
    counts
}

/// What one boot gave.
struct Figures {
    phases: Vec<Phase>,
    counts: Counts,
}

/// Runs the benchmark and prints tables.
pub fn run(plan: &Plan) -> Result<(), String> {
    let named = |name: &str| {
        [System::Bare, System::Xen, System::Overcast]
            .into_iter()
            .find(|system| system.name() == name)
            .ok_or(format!("there is no system {name}: bare, xen or overcast"))
    };
    let systems: Vec<System> = plan
        .systems
        .split(',')
        .map(named)
        .collect::<Result<_, _>>()?;
    if plan.wall {
        return io_wall::run(plan, &systems);
    }
    let port = serve()?;
    if plan.count {
        let plugin = build_plugin()?;
        let mut columns = Vec::new();
        for &system in &systems {
            eprintln!("counting on {}", system.name());
            columns.push((system, measure(plan, system, port, Some(&plugin))?));
        }
        print!("{}", instructions(&columns));
        if plan.profile > 0 {
            for (system, figures) in &columns {
                print!("{}", profile(*system, figures, plan.profile));
            }
        }
    }
    let mut best: Vec<(System, Vec<Phase>)> = Vec::new();
    for round in 0..plan.rounds {
        for &system in &systems {
            eprintln!(
                "round {} of {} on {}",
                round + 1,
                plan.rounds,
                system.name()
            );
            let phases = measure(plan, system, port, None)?.phases;
            match best.iter_mut().find(|(s, _)| *s == system) {
                Some((_, before)) => {
                    for (least, phase) in before.iter_mut().zip(phases) {
                        least.microseconds = least.microseconds.min(phase.microseconds);
                    }
                }
                None => best.push((system, phases)),
            }
        }
    }
    if plan.rounds > 0 {
        print!("{}", microseconds(&best, plan));
    }
    Ok(())
}

fn measure(
    plan: &Plan,
    system: System,
    port: u16,
    plugin: Option<&Path>,
) -> Result<Figures, String> {
    let words = format!(
        "mitigations=off run=io,poweroff io.port={port} io.requests={}",
        plan.requests
    );
    // The same CPU everywhere: real Xen's Dom0 does not bear SMAP under QEMU 7.2.
    let mut machine = Machine::linux(system, "io", &words)?.cpu("max,-smap,-smep");
    machine.options = format!("console=com1 dom0_mem=512M {}", plan.options);
    let arguments = [
        "-blockdev driver=null-co,node-name=disk,size=1073741824,read-zeroes=on",
        "-device virtio-blk-pci,drive=disk",
        "-netdev user,id=net",
        "-device virtio-net-pci,netdev=net,romfile=",
    ];
    let words = arguments.iter().flat_map(|line| line.split(' '));
    machine.extra.extend(words.map(str::to_owned));
    let counted = match plugin {
        Some(plugin) => {
            let out = artefacts::made(&format!("io-{}.counts", system.name()), &[])?;
            // An idle machine waits as long as its timers say: else these would all come
            // before the answer of a disk that works beside it.
            machine
                .extra
                .extend(["-icount", "shift=0,sleep=on"].map(str::to_owned));
            machine.extra.extend([
                "-plugin".to_owned(),
                format!("{},out={}", plugin.display(), out.display()),
            ]);
            Some(out)
        }
        None => {
            machine.cpus = plan.cpus;
            None
        }
    };
    let mut session = Session::start(&machine, &format!("bench-io-{}", system.name()))?;
    session.patience *= 6;
    session.wait_for("init: io done")?;
    let phases = parse_phases(session.text());
    let mut counts = Counts::default();
    if let Some(out) = counted {
        // Some systems cannot switch the machine off; a signal ends QEMU in good order too.
        session.stop()?;
        let text = std::fs::read_to_string(&out).map_err(|e| format!("{}: {e}", out.display()))?;
        let symbols = match system {
            System::Overcast if plan.profile > 0 => symbols()?,
            _ => Vec::new(),
        };
        counts = parse_counts(&text, &symbols);
    }
    Ok(Figures { phases, counts })
}

fn build_plugin() -> Result<PathBuf, String> {
    let source = artefacts::root().join("qemu-tests/io/count.c");
    let plugin = artefacts::made("count.so", &[])?;
    let status = Command::new("gcc")
        .args(["-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-o"])
        .args([&plugin, &source])
        .status()
        .map_err(|e| format!("gcc cannot be started: {e}"))?;
    if status.success() {
        Ok(plugin)
    } else {
        Err(format!("gcc: {status}"))
    }
}

/// The image's functions by address.
fn symbols() -> Result<Vec<(u64, String)>, String> {
    let image = artefacts::overcast()?.with_extension("debug");
    let output = Command::new("nm")
        .args(["--defined-only", "-C", "-n"])
        .arg(&image)
        .output()
        .map_err(|e| format!("nm cannot be started: {e}"))?;
    let symbol = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        let kind = words.next()?;
        kind.eq_ignore_ascii_case("t")
            .then_some((address, words.next()?.to_owned()))
    };
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(symbol).collect())
}

/// The other end of the network: a server that takes, sends or sends back.
fn serve() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("no server: {e}"))?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who goes away ends it with an error, as it should.
            std::thread::spawn(move || talk(stream).unwrap_or_default());
        }
    });
    Ok(port)
}

fn talk(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    stream.set_nodelay(true)?;
    let mut what = [0];
    stream.read_exact(&mut what)?;
    loop {
        match what {
            [b'r'] => stream.write_all(&buffer)?,
            _ => {
                let count = stream.read(&mut buffer)?;
                let Some(bytes) = buffer.get(..count).filter(|_| count != 0) else {
                    return Ok(());
                };
                if what == [b'e'] {
                    stream.write_all(bytes)?;
                }
            }
        }
    }
}

fn header(title: &str, columns: impl Iterator<Item = String>) -> String {
    let mut out = format!("\n{title:<28}");
    for column in columns {
        out += &format!("{column:>24}");
    }
    out + "\n"
}

/// How much of the bare machine's speed a system has.
fn percent(bare: Option<f64>, ours: f64) -> String {
    bare.map_or(String::new(), |bare| {
        format!(" {:>4.0} %", 100.0 * bare / ours)
    })
}

fn instructions(columns: &[(System, Figures)]) -> String {
    let mut out = header(
        "instructions a request",
        columns.iter().map(|(system, _)| match system {
            System::Bare => "bare".to_owned(),
            _ => format!("{} + guest (bare/it)", system.name()),
        }),
    );
    let Some((_, first)) = columns.first() else {
        return out;
    };
    for phase in &first.phases {
        out += &format!("{:<28}", phase.name);
        let mut bare = None;
        for (system, figures) in columns {
            let requests = figures.phases.iter().find(|p| p.number == phase.number);
            let requests = requests.map_or(f64::NAN, |p| p.requests);
            let hypervisor = figures.counts.hypervisor[phase.number] / requests;
            let guest = figures.counts.guest[phase.number] / requests;
            let cell = match system {
                System::Bare => {
                    bare = Some(guest);
                    format!("{guest:.0}")
                }
                _ => format!(
                    "{hypervisor:.0} + {guest:.0}{}",
                    percent(bare, hypervisor + guest)
                ),
            };
            out += &format!("{cell:>24}");
        }
        out.push('\n');
    }
    out
}

fn microseconds(columns: &[(System, Vec<Phase>)], plan: &Plan) -> String {
    let title = format!("us a request, {} CPUs", plan.cpus);
    let mut out = header(&title, columns.iter().map(|(s, _)| s.name().to_owned()));
    let Some((_, first)) = columns.first() else {
        return out;
    };
    for phase in first {
        out += &format!("{:<28}", phase.name);
        let mut bare = None;
        for (system, phases) in columns {
            let own = phases.iter().find(|p| p.number == phase.number);
            let time = own.map_or(f64::NAN, |p| p.microseconds);
            let cell = match system {
                System::Bare => {
                    bare = Some(time);
                    format!("{time:.1}")
                }
                _ => format!("{time:.1}{}", percent(bare, time)),
            };
            out += &format!("{cell:>24}");
        }
        out.push('\n');
    }
    out
}

fn profile(system: System, figures: &Figures, most: usize) -> String {
    let mut out = String::new();
    for phase in &figures.phases {
        let mut functions: Vec<_> = figures
            .counts
            .functions
            .iter()
            .map(|(name, counts)| (counts[phase.number] / phase.requests, name))
            .filter(|(count, _)| *count >= 1.0)
            .collect();
        functions.sort_by(|a, b| b.0.total_cmp(&a.0));
        if functions.is_empty() {
            continue;
        }
        out += &format!("\n{}: {}\n", system.name(), phase.name);
        for (count, name) in functions.iter().take(most) {
            out += &format!("{count:>10.0}  {name}\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_told_apart_by_address() {
        let text = "ffff82d040001000 3 0 2 0\nffffffff81000000 10 5 1 0\n400000 4 1 1\nnothing\n";
        let symbols = [(0xffff_82d0_4000_0ff0, "f".to_owned())];
        let counts = parse_counts(text, &symbols);
        assert_eq!(counts.hypervisor[..3], [0.0, 6.0, 0.0]);
        assert_eq!(counts.guest[..3], [54.0, 14.0, 0.0]);
        assert_eq!(counts.functions["f"][1], 6.0);
    }

    #[test]
    fn phases_are_lines_of_their_own() {
        let text = "io: 0 200 1.5 warming up\r\n[ 1.0] io: 9\nio: 3 40 2.25 4 KiB read, depth 32\n";
        let phases = parse_phases(text);
        assert_eq!(phases.len(), 1);
        assert_eq!(phases[0].name, "4 KiB read, depth 32");
        assert_eq!((phases[0].number, phases[0].microseconds), (3, 2.25));
    }
}
