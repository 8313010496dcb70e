//! `overcast top`: what domains use, as it changes.
//!
//! [`Sample`] is what the hypervisor says at one moment; two of them give [`Usage`], which is
//! shown on the terminal ([`view`]), or printed.

mod view;

use std::io::{self, IsTerminal, Write, stdout};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;
use xen_abi::overcast::{DEVICE_DISK, DEVICE_NETWORK, DeviceCounts};

use crate::cli::TopArgs;
use crate::commands::{chosen, shown};
use crate::control::{Control, DomainInfo, HostInfo};
use crate::error::{Error, Result};

/// What domains are sorted by: the largest first, but for names and numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Sort {
    /// CPU time in the interval.
    Cpu,
    /// Memory.
    Memory,
    /// Bytes on the network in the interval.
    Network,
    /// Bytes on disks in the interval.
    Disk,
    /// Number.
    Id,
    /// Name.
    Name,
}

/// What the hypervisor says at one moment.
struct Sample {
    at: Instant,
    host: HostInfo,
    domains: Vec<(DomainInfo, Option<String>)>,
    /// Of the hypervisor's backends, if it has any.
    devices: Option<Vec<DeviceCounts>>,
}

impl Sample {
    fn take(control: &Control) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            host: control.host()?,
            domains: chosen(control, &[])?,
            devices: control.device_counts()?,
        })
    }
}

/// What goes in and out of a domain by devices of one kind: in a second, but for what failed.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
struct Traffic {
    /// Read, or received.
    in_bytes: f64,
    in_requests: f64,
    /// Written, or sent.
    out_bytes: f64,
    out_requests: f64,
    /// Failed or dropped, since the devices are there.
    failed: u64,
}

impl Traffic {
    fn bytes(&self) -> f64 {
        self.in_bytes + self.out_bytes
    }
}

/// What a domain uses.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct DomainUsage {
    id: u16,
    name: String,
    /// As `overcast list` has it.
    state: String,
    vcpus: u32,
    /// Percent of one CPU.
    cpu_percent: f64,
    cpu_seconds: f64,
    memory_kib: u64,
    /// Of the machine's.
    memory_percent: f64,
    /// Of its network devices, if the hypervisor serves any.
    network: Option<Traffic>,
    disk: Option<Traffic>,
}

/// What all use.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct Usage {
    /// Seconds that it is about.
    seconds: f64,
    cpus: u32,
    cpu_khz: u32,
    /// Percent of one CPU, of all domains.
    cpu_percent: f64,
    memory_kib: u64,
    free_memory_kib: u64,
    domains: Vec<DomainUsage>,
}

/// What was counted in the interval of devices of one kind of a domain.
fn traffic(
    before: &[DeviceCounts],
    now: &[DeviceCounts],
    domain: u16,
    kind: u16,
    seconds: f64,
) -> Traffic {
    let mut sum = Traffic::default();
    for device in now
        .iter()
        .filter(|one| one.domain == domain && one.kind == kind)
    {
        let old = before
            .iter()
            .find(|old| (old.domain, old.kind, old.device) == (domain, kind, device.device));
        // One that is new, or has begun anew, has all from this interval.
        let rate = |of: fn(&DeviceCounts) -> u64| {
            let (now, old) = (of(device), old.map_or(0, of));
            now.checked_sub(old).unwrap_or(now) as f64 / seconds
        };
        sum.in_bytes += rate(|one| one.in_bytes);
        sum.in_requests += rate(|one| one.in_requests);
        sum.out_bytes += rate(|one| one.out_bytes);
        sum.out_requests += rate(|one| one.out_requests);
        sum.failed = sum.failed.saturating_add(device.failed);
    }
    sum
}

/// What is used between two moments.
fn usage(before: &Sample, now: &Sample) -> Usage {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(1e-3);
    let domains: Vec<_> = now
        .domains
        .iter()
        .map(|(info, name)| {
            // A number may be another domain's by now.
            let old = before
                .domains
                .iter()
                .find(|(old, _)| (old.id, &old.uuid) == (info.id, &info.uuid))
                .map_or(0, |(old, _)| old.cpu_time_ns);
            let spent = info.cpu_time_ns.saturating_sub(old) as f64 / 1e9;
            let traffic = |kind| {
                let (before, now) = (before.devices.as_deref(), now.devices.as_deref()?);
                Some(traffic(
                    before.unwrap_or_default(),
                    now,
                    info.id,
                    kind,
                    seconds,
                ))
            };
            DomainUsage {
                id: info.id,
                name: shown(name, info.id),
                state: info.letters(),
                vcpus: info.vcpus,
                cpu_percent: spent / seconds * 100.0,
                cpu_seconds: info.cpu_time_ns as f64 / 1e9,
                memory_kib: info.memory_kib,
                memory_percent: info.memory_kib as f64 / now.host.memory_kib.max(1) as f64 * 100.0,
                network: traffic(DEVICE_NETWORK),
                disk: traffic(DEVICE_DISK),
            }
        })
        .collect();
    Usage {
        seconds,
        cpus: now.host.cpus,
        cpu_khz: now.host.cpu_khz,
        cpu_percent: domains.iter().map(|domain| domain.cpu_percent).sum(),
        memory_kib: now.host.memory_kib,
        free_memory_kib: now.host.free_memory_kib,
        domains,
    }
}

impl Usage {
    /// Puts the domains in an order.
    fn sort(&mut self, by: Sort, reverse: bool) {
        let bytes = |traffic: &Option<Traffic>| traffic.as_ref().map_or(0.0, Traffic::bytes);
        self.domains.sort_by(|a, b| {
            let order = match by {
                Sort::Cpu => b.cpu_percent.total_cmp(&a.cpu_percent),
                Sort::Memory => b.memory_kib.cmp(&a.memory_kib),
                Sort::Network => bytes(&b.network).total_cmp(&bytes(&a.network)),
                Sort::Disk => bytes(&b.disk).total_cmp(&bytes(&a.disk)),
                Sort::Id => a.id.cmp(&b.id),
                Sort::Name => a.name.cmp(&b.name),
            };
            let order = order.then(a.id.cmp(&b.id));
            if reverse { order.reverse() } else { order }
        });
    }

    /// The lines above the table.
    fn summary(&self) -> [String; 2] {
        let count = |letter: char| {
            let has = |domain: &&DomainUsage| domain.state.contains(letter);
            self.domains.iter().filter(has).count()
        };
        [
            format!(
                "{} domains: {} running, {} blocked, {} paused, {} shut down, {} crashed, {} dying",
                self.domains.len(),
                count('r'),
                count('b'),
                count('p'),
                count('s'),
                count('c'),
                count('d')
            ),
            format!(
                "{} CPUs at {} MHz, {:.1} % used; {} MiB of memory, {} MiB free",
                self.cpus,
                self.cpu_khz / 1000,
                self.cpu_percent / f64::from(self.cpus.max(1)),
                self.memory_kib >> 10,
                self.free_memory_kib >> 10
            ),
        ]
    }
}

/// The heads of the columns.
const HEADS: [&str; 14] = [
    "Name", "ID", "State", "vCPUs", "CPU %", "Time(s)", "MiB", "Mem %", "Net in", "out", "Disk in",
    "/s", "out", "/s",
];

/// A number of bytes in few letters.
fn short(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "K", "M", "G"] {
        if value < 1000.0 {
            return match unit {
                "B" => format!("{value:.0}"),
                _ if value < 10.0 => format!("{value:.1}{unit}"),
                _ => format!("{value:.0}{unit}"),
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1}T")
}

impl DomainUsage {
    /// Its line of the table.
    fn cells(&self) -> [String; 14] {
        let of = |traffic: &Option<Traffic>, show: fn(&Traffic) -> String| {
            traffic.as_ref().map_or_else(|| "-".to_owned(), show)
        };
        [
            self.name.clone(),
            self.id.to_string(),
            self.state.clone(),
            self.vcpus.to_string(),
            format!("{:.1}", self.cpu_percent),
            format!("{:.1}", self.cpu_seconds),
            (self.memory_kib >> 10).to_string(),
            format!("{:.1}", self.memory_percent),
            of(&self.network, |it| short(it.in_bytes)),
            of(&self.network, |it| short(it.out_bytes)),
            of(&self.disk, |it| short(it.in_bytes)),
            of(&self.disk, |it| format!("{:.0}", it.in_requests)),
            of(&self.disk, |it| short(it.out_bytes)),
            of(&self.disk, |it| format!("{:.0}", it.out_requests)),
        ]
    }
}

/// Prints a usage as text.
fn print(usage: &Usage, out: &mut impl Write) -> io::Result<()> {
    for line in usage.summary() {
        writeln!(out, "{line}")?;
    }
    let mut line = |cells: &[&str]| {
        for (index, cell) in cells.iter().enumerate() {
            match index {
                0 => write!(out, "{cell:<24}")?,
                _ => write!(out, " {cell:>7}")?,
            }
        }
        writeln!(out)
    };
    line(&HEADS)?;
    for domain in &usage.domains {
        let cells = domain.cells();
        line(&cells.each_ref().map(String::as_str))?;
    }
    Ok(())
}

/// `overcast top`
pub fn run(args: &TopArgs, json: bool) -> Result<()> {
    let control = Control::open()?;
    let delay = Duration::from_secs_f64(args.delay);
    let mut before = Sample::take(&control)?;
    if !args.batch && !json {
        if !stdout().is_terminal() {
            return Err(Error::Usage(
                "there is no terminal to show it on: --batch prints it".to_owned(),
            ));
        }
        return view::run(&control, before, args, delay);
    }
    let mut left = args.iterations;
    while left != Some(0) {
        sleep(delay);
        let now = Sample::take(&control)?;
        let mut usage = usage(&before, &now);
        usage.sort(args.sort, args.reverse);
        let mut out = stdout().lock();
        if json {
            serde_json::to_writer(&mut out, &usage)?;
            writeln!(out)?;
        } else {
            print(&usage, &mut out)?;
        }
        out.flush()?;
        before = now;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn info(id: u16, cpu_time_ns: u64, memory_kib: u64) -> (DomainInfo, Option<String>) {
        let info = DomainInfo {
            id,
            uuid: format!("uuid-{id}"),
            memory_kib,
            max_memory_kib: memory_kib,
            vcpus: 2,
            max_vcpus: 2,
            cpu_time_ns,
            running: true,
            blocked: false,
            paused: false,
            shutdown: None,
            dying: false,
        };
        (info, (id != 0).then(|| format!("guest-{id}")))
    }

    pub(super) fn sample(at: Instant, domains: Vec<(DomainInfo, Option<String>)>) -> Sample {
        Sample {
            at,
            host: HostInfo {
                version: "4.17.0-overcast".to_owned(),
                capabilities: String::new(),
                command_line: String::new(),
                cpus: 2,
                threads_per_core: 1,
                cores_per_socket: 2,
                nodes: 1,
                cpu_khz: 2_600_000,
                memory_kib: 4 << 20,
                free_memory_kib: 1 << 20,
                scheduler: "credit2",
            },
            domains,
            devices: Some(Vec::new()),
        }
    }

    fn device(domain: u16, kind: u16, bytes: u64) -> DeviceCounts {
        DeviceCounts {
            domain,
            kind,
            device: 51712,
            in_requests: bytes / 4096,
            in_bytes: bytes,
            out_requests: 0,
            out_bytes: 0,
            failed: 1,
        }
    }

    #[test]
    fn use_is_what_came_in_the_interval() {
        let start = Instant::now();
        let mut before = sample(
            start,
            vec![info(0, 5_000_000_000, 1 << 20), info(3, 7, 1024)],
        );
        before.devices = Some(vec![device(0, DEVICE_DISK, 40960)]);
        let mut other = info(3, 1_000_000_000, 2048);
        // The same number, another domain.
        other.0.uuid = "another".to_owned();
        let mut now = sample(
            start + Duration::from_secs(2),
            vec![info(0, 8_000_000_000, 1 << 20), other],
        );
        now.devices = Some(vec![
            device(0, DEVICE_DISK, 81920),
            device(3, DEVICE_NETWORK, 8192),
        ]);
        let usage = usage(&before, &now);
        assert_eq!(usage.domains[0].cpu_percent, 150.0);
        assert_eq!(usage.domains[1].cpu_percent, 50.0);
        assert_eq!(usage.cpu_percent, 200.0);
        assert_eq!(usage.domains[0].memory_percent, 25.0);
        let disk = usage.domains[0].disk.expect("it is served");
        assert_eq!((disk.in_bytes, disk.in_requests), (20480.0, 5.0));
        let network = usage.domains[1].network.expect("it is served");
        assert_eq!((network.in_bytes, network.failed), (4096.0, 1));
        // Counts that begin anew are no huge number.
        let again = super::usage(&now, &{
            let mut later = sample(start + Duration::from_secs(4), vec![info(0, 0, 1)]);
            later.devices = Some(vec![device(0, DEVICE_DISK, 4096)]);
            later
        });
        assert_eq!(again.domains[0].cpu_percent, 0.0);
        assert_eq!(again.domains[0].disk.expect("served").in_bytes, 2048.0);
    }

    #[test]
    fn another_hypervisor_says_nothing_of_devices() {
        let start = Instant::now();
        let mut now = sample(start, vec![info(0, 0, 1024)]);
        now.devices = None;
        let usage = usage(&now, &now);
        assert_eq!(usage.domains[0].disk, None);
        assert_eq!(usage.domains[0].cells()[8..], ["-"; 6]);
    }

    #[test]
    fn domains_are_sorted_by_what_is_asked_for() {
        let start = Instant::now();
        let before = sample(start, vec![info(0, 0, 9), info(1, 0, 5), info(2, 0, 7)]);
        let now = sample(
            start + Duration::from_secs(1),
            vec![info(0, 1, 9), info(1, 3, 5), info(2, 2, 7)],
        );
        let mut usage = usage(&before, &now);
        let mut order = |by, reverse| {
            usage.sort(by, reverse);
            usage.domains.iter().map(|one| one.id).collect::<Vec<_>>()
        };
        assert_eq!(order(Sort::Cpu, false), [1, 2, 0]);
        assert_eq!(order(Sort::Cpu, true), [0, 2, 1]);
        assert_eq!(order(Sort::Memory, false), [0, 2, 1]);
        assert_eq!(order(Sort::Name, false), [0, 1, 2]);
        assert_eq!(order(Sort::Id, true), [2, 1, 0]);
        assert_eq!(order(Sort::Network, false), [0, 1, 2]);
    }

    #[test]
    fn lines_are_printed_under_their_heads() {
        let start = Instant::now();
        let now = sample(start, vec![info(0, 0, 1 << 20)]);
        let mut out = Vec::new();
        print(&usage(&now, &now), &mut out).expect("printed");
        let text = String::from_utf8(out).expect("text");
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("1 domains: 1 running, 0 blocked"));
        assert_eq!(lines[2].len(), lines[3].len());
        assert!(lines[3].starts_with("Domain-0"));
    }

    #[test]
    fn numbers_are_short() {
        for (bytes, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1024.0, "1.0K"),
            (52_428_800.0, "50M"),
            (3e15, "2728.5T"),
        ] {
            assert_eq!(short(bytes), text);
        }
    }
}
