//! How fast disk and network are, by the clock: fio and iperf3 in the same Debian on the bare
//! machine, on real Xen and on Overcast.
//!
//! The machines take turns, and the median of the rounds counts, since other work of the host's
//! falls on any of them. Beside the speed stands the CPU time that QEMU used for a request, or for 64 KiB
//! of a stream: that depends less on what else the host does. All see the same file as their disk, which is read and written past the
//! guest's page cache, and QEMU's user network, behind which iperf3's server runs on the host.

use crate::artefacts;
use crate::io_bench::Plan;
use crate::machine::{Machine, System};
use crate::session::Session;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Size of the disk that is measured.
const MEBIBYTES: u64 = 256;
/// For how long each figure is taken, seconds.
const SECONDS: u32 = 5;

/// What is measured of the disk: its name, fio's arguments, the field of fio's terse
/// output (counted from 1), and the unit.
const DISK: &[(&str, &str, usize, &str)] = &[
    (
        "4 KiB read, depth 1",
        "--rw=randread --bs=4k --iodepth=1",
        8,
        "IOPS",
    ),
    (
        "4 KiB write, depth 1",
        "--rw=randwrite --bs=4k --iodepth=1",
        49,
        "IOPS",
    ),
    (
        "4 KiB read, depth 32",
        "--rw=randread --bs=4k --iodepth=32",
        8,
        "IOPS",
    ),
    (
        "4 KiB write, depth 32",
        "--rw=randwrite --bs=4k --iodepth=32",
        49,
        "IOPS",
    ),
    (
        "1 MiB read, in a row",
        "--rw=read --bs=1m --iodepth=4",
        7,
        "KiB/s",
    ),
    (
        "1 MiB write, in a row",
        "--rw=write --bs=1m --iodepth=4",
        48,
        "KiB/s",
    ),
];

/// The same of the network, with iperf3's arguments.
const NETWORK: &[(&str, &str)] = &[("TCP sent", ""), ("TCP received", "-R")];

/// iperf3's server on the host.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Result<Self, String> {
        // A port that is free now; nobody else looks for one at the same moment.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(|e| format!("no port: {e}"))?
            .port();
        let child = Command::new("iperf3")
            .args(["--server", "--bind", "127.0.0.1", "--port"])
            .arg(port.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("iperf3 cannot be started: {e}"))?;
        let server = Self { child, port };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > deadline {
                return Err("iperf3 does not listen".to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A figure of one round.
#[derive(Clone, PartialEq, Debug)]
struct Figure {
    name: &'static str,
    unit: &'static str,
    value: f64,
    /// CPU time of the host for a request, microseconds.
    cost: f64,
}

/// Measures, and prints a table.
pub fn run(plan: &Plan, systems: &[System]) -> Result<(), String> {
    let server = Server::start()?;
    let disk = disk()?;
    let mut all: Vec<(System, Vec<Vec<Figure>>)> =
        systems.iter().map(|&system| (system, Vec::new())).collect();
    for round in 0..plan.rounds.max(1) {
        for (system, rounds) in &mut all {
            eprintln!("round {} on {}", round + 1, system.name());
            rounds.push(measure(plan, *system, server.port, &disk)?);
        }
    }
    let speed = format!("medians, {} CPUs", plan.cpus);
    print!(
        "{}",
        table(
            &all,
            &speed,
            |figure| figure.value,
            |bare, ours| ours / bare
        )
    );
    let cost = "host CPU, us a request";
    print!(
        "{}",
        table(&all, cost, |figure| figure.cost, |bare, ours| bare / ours)
    );
    Ok(())
}

/// A file with something in each block.
fn disk() -> Result<PathBuf, String> {
    let path = artefacts::made("io-wall.img", &[])?;
    let block: Vec<u8> = (0..1u32 << 20).map(|n| (n % 251) as u8).collect();
    std::fs::File::create(&path)
        .and_then(|mut file| (0..MEBIBYTES).try_for_each(|_| file.write_all(&block)))
        .map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

fn measure(plan: &Plan, system: System, port: u16, disk: &Path) -> Result<Vec<Figure>, String> {
    // The same CPU everywhere: real Xen's Dom0 does not bear SMAP under QEMU 7.2.
    let mut machine = Machine::debian_disk(system, "mitigations=off quiet")?
        .cpus(plan.cpus)
        .cpu("max,-smap,-smep");
    machine.options = format!("console=com1 dom0_mem=512M {}", plan.options);
    let arguments = [
        &format!("-drive file={},format=raw,if=virtio", disk.display()),
        "-netdev user,id=net",
        "-device virtio-net-pci,netdev=net,romfile=",
    ];
    let words = arguments.iter().flat_map(|line| line.split(' '));
    machine.extra.extend(words.map(str::to_owned));
    let mut session = Session::start(&machine, &format!("bench-io-wall-{}", system.name()))?;
    session.patience *= 4;
    session.wait_for("quick: shell")?;
    let disk = match system {
        System::Overcast => "/dev/xvdb",
        System::Bare | System::Xen => "/dev/vdb",
    };
    session.shell(
        "modprobe -a virtio_net xen_netfront 2>/dev/null; for n in $(seq 100); do \
         test -e /sys/class/net/eth0 && break; sleep 0.1; done; \
         ip address add 10.0.2.15/24 dev eth0 2>/dev/null; ip link set eth0 up && sleep 2",
    )?;
    let mut figures = Vec::new();
    for &(name, how, field, unit) in DISK {
        let before = session.cpu_time()?;
        let answer = session.shell(&format!(
            "fio --name=wall --filename={disk} --size={MEBIBYTES}M --direct=1 --ioengine=libaio \
             --time_based --runtime={SECONDS} --minimal {how} | cut -d';' -f{field}"
        ))?;
        let used = session.cpu_time()? - before;
        let value = number(&answer).ok_or_else(|| session.failure(&format!("fio: {answer}")))?;
        let requests = if unit == "IOPS" {
            value
        } else {
            value / 1024.0
        };
        figures.push(Figure {
            name,
            unit,
            value,
            cost: 1e6 * used / (requests * f64::from(SECONDS)),
        });
    }
    for &(name, how) in NETWORK {
        let before = session.cpu_time()?;
        let answer = session.shell(&format!(
            "iperf3 -c 10.0.2.2 -p {port} -t {SECONDS} -f k {how} | awk '/receiver/ {{ print $7 }}'"
        ))?;
        let used = session.cpu_time()? - before;
        let value = number(&answer).ok_or_else(|| session.failure(&format!("iperf3: {answer}")))?;
        let pieces = value * 1000.0 * f64::from(SECONDS) / (8.0 * 65536.0);
        figures.push(Figure {
            name,
            unit: "kbit/s",
            value,
            cost: 1e6 * used / pieces,
        });
    }
    session.send_line("poweroff -f")?;
    // Some systems cannot switch the machine off.
    session.stop()?;
    Ok(figures)
}

/// The number among what a command printed, beside which there may be the hypervisor's lines.
fn number(answer: &str) -> Option<f64> {
    let mut lines = answer.lines().map(str::trim);
    lines.find_map(|line| line.parse().ok())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (
        values.get(middle),
        middle.checked_sub(1).and_then(|n| values.get(n)),
    ) {
        (Some(upper), Some(lower)) if values.len().is_multiple_of(2) => (upper + lower) / 2.0,
        (Some(only), _) => *only,
        _ => f64::NAN,
    }
}

/// `share` says how much of the bare machine's speed a figure is.
fn table(
    all: &[(System, Vec<Vec<Figure>>)],
    title: &str,
    value: impl Fn(&Figure) -> f64,
    share: impl Fn(f64, f64) -> f64,
) -> String {
    let mut out = format!("\n{title:<24}{:<8}", "");
    for (system, rounds) in all {
        out += &format!("{:>20}", format!("{} ({})", system.name(), rounds.len()));
    }
    out.push('\n');
    let Some(figures) = all.first().and_then(|(_, rounds)| rounds.first()) else {
        return out;
    };
    for (at, figure) in figures.iter().enumerate() {
        out += &format!("{:<24}{:<8}", figure.name, figure.unit);
        let mut bare = None;
        for (system, rounds) in all {
            let values = rounds.iter().filter_map(|round| round.get(at));
            let middle = median(values.map(&value).collect());
            if *system == System::Bare {
                bare = Some(middle);
            }
            let part = bare.filter(|_| *system != System::Bare);
            let part = part.map_or(String::new(), |bare| {
                format!(" {:>4.0} %", 100.0 * share(bare, middle))
            });
            out += &format!("{:>20}", format!("{middle:.0}{part}"));
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn numbers_stand_among_messages() {
        assert_eq!(number("(XEN) [ 1.0] something 5\n 1234\n"), Some(1234.0));
        assert_eq!(number("fio: no such file"), None);
    }

    #[test]
    fn shares_are_of_the_bare_machine() {
        let figure = |value| Figure {
            name: "x",
            unit: "IOPS",
            value,
            cost: 10.0,
        };
        let all = [
            (System::Bare, vec![vec![figure(200.0)], vec![figure(400.0)]]),
            (
                System::Overcast,
                vec![vec![figure(270.0)], vec![figure(270.0)]],
            ),
        ];
        let ends = |text: String, wanted| assert!(text.lines().last().unwrap().ends_with(wanted));
        let speed = table(&all, "x", |figure| figure.value, |bare, ours| ours / bare);
        ends(speed, "270   90 %");
        let cost = table(&all, "x", |figure| figure.cost, |bare, ours| bare / ours);
        ends(cost, "10  100 %");
    }
}
