//! Two machines, each with Overcast, and a guest that is moved from one to the other and back
//! while somebody outside listens to it.
//!
//! Each machine has two network cards. Dom0 has the first one's wire, over which guests move;
//! the guest has the second one's, on which there is also QEMU's user network: the client is
//! the test itself, on a TCP connection into the guest that has to last. It hears a
//! counter, and each number has to come once and in order, wherever the guest is.

use crate::disks;
use crate::faults;
use crate::guest_log;
use crate::machine::{Machine, System};
use crate::session::{Session, says};
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What disk the guest has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disk {
    /// None.
    None,
    /// One that both machines see.
    Shared,
    /// Each machine has a disk of its own, and the guest's contents go along.
    Own,
}

/// What is done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often the guest goes there and back.
    pub trips: u32,
    /// Its memory, MiB.
    pub memory: u32,
    /// How much of that it writes over again and again, MiB.
    pub load: u32,
    /// How the stream is packed: none, lz4 or zstd.
    pub compress: String,
    /// Its vCPUs.
    pub vcpus: u32,
    /// Its disk.
    pub disk: Disk,
    /// What goes wrong before the trips.
    pub faults: &'static [faults::Fault],
}

/// What tests do.
impl Default for Plan {
    fn default() -> Self {
        Self {
            trips: 1,
            // Linux's netfront loses 1 MiB at each suspend, on Xen as well.
            memory: 128,
            load: 4,
            compress: "lz4".to_owned(),
            vcpus: 1,
            disk: Disk::Own,
            faults: &[],
        }
    }
}

/// What a guest takes for itself beside a load, MiB.
const NEEDED: u32 = 128;
/// A load that the smallest guest has room for, MiB.
const LITTLE: u32 = 8;

impl Plan {
    /// Refuses a load that the guest would run out of memory with.
    pub fn check(&self) -> Result<(), String> {
        let needed = self.load.saturating_add(NEEDED);
        match self.load > LITTLE && needed > self.memory {
            true => Err(format!(
                "--load {} takes a guest of --memory {needed} at least",
                self.load
            )),
            false => Ok(()),
        }
    }
}

/// What the client has heard.
struct Heard {
    /// The last number.
    last: u64,
    /// When it came.
    at: Instant,
    /// The longest silence before a number since this was last set to zero.
    silence: Duration,
    /// How it ended, if it did.
    end: Option<String>,
}

/// Somebody who listens to the guest's counter.
#[derive(Clone)]
pub(crate) struct Client(Arc<Mutex<Heard>>);

impl Client {
    /// Connects, by a port of this host that leads into the guest.
    fn connect(port: u16) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
        let client = Self(Arc::new(Mutex::new(Heard {
            last: 0,
            at: Instant::now(),
            silence: Duration::ZERO,
            end: None,
        })));
        let listener = client.clone();
        std::thread::spawn(move || {
            let mut expected = 0u64;
            for line in BufReader::new(stream).lines() {
                expected += 1;
                let wrong = match line {
                    Ok(line) if line == expected.to_string() => None,
                    Ok(line) => Some(format!("{line:?} came instead of {expected}")),
                    Err(error) => Some(error.to_string()),
                };
                let mut heard = listener.heard();
                let now = Instant::now();
                heard.silence = heard.silence.max(now.duration_since(heard.at));
                heard.at = now;
                if wrong.is_some() {
                    heard.end = wrong;
                    return;
                }
                heard.last = expected;
            }
            listener.heard().end = Some("the guest closed the connection".to_owned());
        });
        Ok(client)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until ten more numbers have come.
    pub(crate) fn ten_more(&self, patience: Duration) -> Result<u64, String> {
        let (begin, first) = (Instant::now(), self.heard().last);
        loop {
            let heard = self.heard();
            if let Some(end) = &heard.end {
                return Err(format!("the client, after {}: {end}", heard.last));
            }
            if heard.last >= first + 10 {
                return Ok(heard.last);
            }
            if begin.elapsed() > patience {
                return Err(format!("the client heard nothing after {}", heard.last));
            }
            drop(heard);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn tcp_port() -> Result<u16, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .map(|address| address.port())
        .map_err(|e| e.to_string())
}

fn udp_port() -> Result<u16, String> {
    UdpSocket::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .map(|address| address.port())
        .map_err(|e| e.to_string())
}

/// A number in an answer of `overcast --json`.
fn number(json: &str, key: &str) -> u64 {
    json.split(&format!("\"{key}\":"))
        .nth(1)
        .and_then(|rest| {
            rest.trim_start()
                .split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

/// A machine: its number, the other's; its ends of the two wires.
fn machine(number: u32, wire: [u16; 2], guests: &[String], memory: u32) -> Result<Machine, String> {
    let arguments = format!("quiet run=net,wire,control addr={number}");
    let mut machine = Machine::linux(System::Overcast, "domains", &arguments)?
        .memory(u64::from(928 + memory))
        .cpus(2)
        .options("dom0_mem=512M dom0_disk=none")
        .wired(wire, &format!("52:54:00:00:00:0{number}"));
    machine.extra.extend_from_slice(guests);
    machine.extra.extend([
        "-device".to_owned(),
        format!("virtio-net-pci,netdev=n1,mac=52:54:00:00:01:0{number},romfile="),
    ]);
    Ok(machine)
}

/// Each makes its keys and trusts the other's.
fn acquaint(hosts: &mut [Session; 2]) -> Result<(), String> {
    let mut certificates = Vec::new();
    for host in hosts.iter_mut() {
        host.shell("overcast init")?;
        certificates.push(host.shell("cat /etc/overcast/host.pem")?);
    }
    for (host, other) in hosts.iter_mut().zip(certificates.iter().rev()) {
        let lines = other
            .lines()
            .skip_while(|line| !line.contains("BEGIN CERTIFICATE"));
        for line in lines {
            host.shell(&format!("echo '{line}' >>/tmp/other.pem"))?;
        }
        says(host, "overcast init --trust /tmp/other.pem", "is trusted")?;
        receive(host, "")?;
    }
    Ok(())
}

/// Has a machine take guests; `fault` may be an `OVERCAST_FAULT=…` for the process that does.
pub(crate) fn receive(host: &mut Session, fault: &str) -> Result<(), String> {
    // Who fell to a fault has ended already.
    host.shell("[ ! -e /tmp/receive.pid ] || kill $(cat /tmp/receive.pid) 2>/dev/null; true")?;
    host.shell(&format!(
        "({fault} overcast receive >/tmp/receive.log 2>&1 & echo $! >/tmp/receive.pid); \
         {}",
        until("grep -q 'waits for' /tmp/receive.log")
    ))?;
    Ok(())
}

/// A wait in Dom0's shell for a command that succeeds, not for ever.
pub(crate) fn until(command: &str) -> String {
    format!(
        "n=0; until {command}; do sleep 0.2; n=$((n + 1)); [ $n -lt 1000 ] || break; done; {command}"
    )
}

/// How many guests a machine has: at once, or in the end.
pub(crate) fn guests(host: &mut Session, wanted: u32) -> Result<(), String> {
    let count = format!(
        "[ $(overcast list --json | grep -c '\"id\"') = {} ]",
        wanted + 1
    );
    host.shell(&until(&count)).map(|_| ())
}

/// Moves the guest once, and says how it went.
fn trip(
    hosts: &mut [Session; 2],
    from: usize,
    plan: &Plan,
    client: &Client,
    state: State,
) -> Result<(), String> {
    let patience = hosts[0].patience;
    state.ask(&hosts[from])?;
    let before = client.ten_more(patience)?;
    client.heard().silence = Duration::ZERO;
    let to = 1 - from;
    hosts[to].shell("mkdir -p /var/log/overcast; true >/var/log/overcast/g.log")?;
    let command = format!(
        "overcast migrate --json g 10.9.0.{} --compress {}{} >/tmp/move 2>/tmp/error || cat /tmp/error; \
         grep '^  \"' /tmp/move; sed -n '/\"pause\"/,/}}/p' /tmp/move; grep -c '\"dirty\"' /tmp/move | sed 's/.*/\"count\": &/'",
        to + 1,
        plan.compress,
        if plan.disk == Disk::Own {
            " --with-disks"
        } else {
            ""
        },
    );
    let answer = hosts[from].shell(&command)?;
    if !answer.contains("\"downtime_ms\"") {
        let other = hosts[to].shell("cat /tmp/receive.log")?;
        // The guest's own view, for whoever looks for the reason.
        hosts[from].shell("tail -40 /var/log/overcast/g.log; overcast migrate-status")?;
        return Err(hosts[from].failure(&format!("{command}: {answer}\nthe target: {other}")));
    }
    let after = match client.ten_more(patience) {
        Ok(after) => after,
        Err(why) => {
            let (from, to) = (from + 1, to + 1);
            // The guest's own view.
            hosts[to - 1].shell("tail -60 /var/log/overcast/g.log; overcast list")?;
            return Err(hosts[to - 1].failure(&format!("{why}, from machine {from} to {to}")));
        }
    };
    let silence = client.heard().silence;
    let (_, _, still) = state.ask(&hosts[to])?;
    guests(&mut hosts[from], 0)?;
    guests(&mut hosts[to], 1)?;
    if plan.disk == Disk::Own {
        disk_is_right(&mut hosts[to])?;
        hosts.iter_mut().try_for_each(free_of_disks)?;
    }
    let bytes = number(&answer, "bytes");
    println!(
        "{} -> {}: {:.1} s, down for {} ms (by the guest's clock {still} ms, silence at the client {} ms), {} rounds, {:.1} MiB sent of {:.1}, \
         {} pages/s written, {:.1} MiB of disks, CPU left {} %, numbers {before} to {after} in order",
        from + 1,
        to + 1,
        number(&answer, "total_ms") as f64 / 1e3,
        number(&answer, "downtime_ms"),
        silence.as_millis(),
        number(&answer, "count"),
        bytes as f64 / f64::from(1 << 20),
        number(&answer, "stream_bytes") as f64 / f64::from(1 << 20),
        number(&answer, "dirty_rate"),
        number(&answer, "disk_bytes") as f64 / f64::from(1 << 20),
        match number(&answer, "throttled_to") {
            0 => 100,
            cap => cap,
        },
    );
    let parts = [
        ("foreseen", "predicted_downtime_ms"),
        ("the guest's own suspend", "suspend_ms"),
        ("log", "log_ms"),
        ("pages", "pages_ms"),
        ("state", "state_ms"),
        ("the target", "ready_ms"),
        ("with tables", "finish_ms"),
        ("and devices", "devices_ms"),
        ("handover", "commit_ms"),
        ("answers come in", "answer_ms"),
    ];
    let parts = parts.map(|(what, key)| format!("{what} {}", number(&answer, key)));
    println!("    ms: {}", parts.join(", "));
    Ok(())
}

/// The guest goes once through all that it wrote, and through what it only found.
fn disk_is_right(host: &mut Session) -> Result<(), String> {
    // The first turn that is told of may have begun elsewhere.
    let log = "/var/log/overcast/g.log";
    host.shell(&format!(
        "n=0; until [ $(grep -c 'all as written' {log}) -ge 2 ]; do sleep 1; n=$((n + 1)); [ $n -lt 280 ] || break; done"
    ))?;
    says(
        host,
        &format!("grep wrong {log} || grep -c 'all as written' {log} | sed 's/[1-9].*/right/'"),
        "right",
    )
}

/// Dom0 lets the guest's disks go.
fn free_of_disks(host: &mut Session) -> Result<(), String> {
    says(
        host,
        "n=0; while ls /sys/bus/xen/devices | grep -q vbd && [ $n -lt 60 ]; do sleep 1; n=$((n + 1)); done; \
         ls /sys/bus/xen/devices | grep vbd || echo none",
        "none",
    )
}

/// A move that is given up while disks are copied leaves nothing, and the guest where it is.
fn given_up(hosts: &mut [Session; 2]) -> Result<(), String> {
    let command = "overcast migrate g 10.9.0.2 --with-disks";
    says(
        &mut hosts[0],
        &format!("{command} --dry-run"),
        "could be moved",
    )?;
    says(
        &mut hosts[0],
        &format!(
            "{command} --bandwidth 1M >/tmp/move 2>/tmp/error & \
             until overcast migrate-status | grep -q 'copying its disks'; do sleep 0.2; done; \
             overcast migrate-cancel g; wait; cat /tmp/error"
        ),
        "given up on request",
    )?;
    // The target's end may take a moment longer.
    hosts[1].shell(
        "n=0; while [ $(overcast list --json | grep -c '\"id\"') -gt 1 ] && [ $n -lt 60 ]; do sleep 1; n=$((n + 1)); done",
    )?;
    hosts.iter_mut().try_for_each(free_of_disks)
}

/// An image for a machine's disk: `pattern` gives its bytes.
fn disk(name: &str, pattern: impl Fn(u32) -> u8) -> Result<PathBuf, String> {
    let path = disks::empty(name, 12)?;
    let bytes: Vec<u8> = (0..12u32 << 20).map(pattern).collect();
    std::fs::write(&path, bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

/// A port of this host, behind which the guest says how it is.
#[derive(Clone, Copy)]
pub(crate) struct State(u16);

impl State {
    /// The guest's clock (seconds since 1970), how often it wrote to its disk, and for how many
    /// ms it stood still at most since the last time, by its own clock.
    fn ask(self, host: &Session) -> Result<(u64, u64, u64), String> {
        let ask = || -> Option<[u64; 3]> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.0)).ok()?;
            let patience = Some(Duration::from_secs(20));
            stream.set_read_timeout(patience).ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
            numbers.ok()?.try_into().ok()
        };
        let begin = Instant::now();
        loop {
            match ask() {
                Some([time, writes, still]) => return Ok((time, writes, still)),
                None if begin.elapsed() > host.patience => {
                    return Err(host.failure("the guest does not say what time it is"));
                }
                None => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }
}

/// Two machines, a guest on one of them, and who listens to it.
pub(crate) struct Pair {
    /// The machines.
    pub hosts: [Session; 2],
    /// On which the guest is.
    pub at: usize,
    /// Who listens.
    pub client: Client,
    /// Where the guest says how it is.
    state: State,
    /// How the stream is packed.
    pub compress: String,
}

impl Pair {
    /// The guest runs where it is said to be and nowhere else, with its devices and its clock
    /// right.
    pub(crate) fn is_well(&mut self, disk: bool) -> Result<(), String> {
        guests(&mut self.hosts[self.at], 1)?;
        guests(&mut self.hosts[1 - self.at], 0)?;
        let patience = self.hosts[0].patience;
        self.client.ten_more(patience)?;
        let (time, first, _) = self.state.ask(&self.hosts[self.at])?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_err(|e| e.to_string())?.as_secs();
        if now.abs_diff(time) > 60 {
            return Err(format!("the guest's clock says {time}, and it is {now}"));
        }
        let begin = Instant::now();
        while disk && self.state.ask(&self.hosts[self.at])?.1 == first {
            if begin.elapsed() > patience {
                return Err("the guest's disk stands still".to_owned());
            }
        }
        Ok(())
    }
}

/// A guest with a stock kernel goes from one machine to the other and back while it writes
/// memory and its disk and counts to a client outside, who hears every number once and in order;
/// before that, what can go wrong on the way does.
pub fn run(name: &str, plan: &Plan) -> Result<(), String> {
    let (one, two) = (udp_port()?, udp_port()?);
    let (wire, entry, state) = (tcp_port()?, tcp_port()?, tcp_port()?);
    let hub: Vec<String> = [
        format!(
            "user,id=u0,net=10.9.0.0/24,host=10.9.0.254,dns=10.9.0.253,restrict=on,\
             hostfwd=tcp:127.0.0.1:{entry}-10.9.0.3:5000,hostfwd=tcp:127.0.0.1:{state}-10.9.0.3:5001"
        ),
        format!("socket,id=s0,listen=127.0.0.1:{wire}"),
        "hubport,id=h0,hubid=0,netdev=u0".to_owned(),
        "hubport,id=h1,hubid=0,netdev=s0".to_owned(),
        "hubport,id=n1,hubid=0".to_owned(),
    ]
    .into_iter()
    .flat_map(|netdev| ["-netdev".to_owned(), netdev])
    .collect();
    let other = [
        "-netdev".to_owned(),
        format!("socket,id=n1,connect=127.0.0.1:{wire}"),
    ];
    let (mut first, mut second) = (
        machine(1, [one, two], &hub, plan.memory)?,
        machine(2, [two, one], &other, plan.memory)?,
    );
    match plan.disk {
        Disk::None => {}
        Disk::Shared => {
            let image = disks::empty("trips.img", 8)?;
            for machine in [&mut first, &mut second] {
                let drive = format!(
                    "file={},format=raw,if=virtio,file.locking=off",
                    image.display()
                );
                machine.extra.extend(["-drive".to_owned(), drive]);
            }
        }
        Disk::Own => {
            // Zeros in the third quarter; elsewhere nothing is the same on both.
            let old = |n: u32| {
                if n >> 21 == 3 {
                    0
                } else {
                    (n / 3) as u8 ^ (n >> 13) as u8
                }
            };
            let images = [
                disk(&format!("{name}.img"), old)?,
                disk(&format!("{name}-2.img"), |_| 0x5a)?,
            ];
            for (machine, image) in [&mut first, &mut second].into_iter().zip(images) {
                machine.extra.extend([
                    "-drive".to_owned(),
                    format!("file={},format=raw,if=virtio", image.display()),
                ]);
            }
        }
    }
    let first = Session::start(&first, name)?;
    // The second connects to it.
    std::thread::sleep(Duration::from_secs(1));
    let second = Session::start(&second, &format!("{name}-2"))?;
    let mut hosts = [first, second];
    for host in &mut hosts {
        host.wait_for("init: shell")?;
        host.shell("dmesg -n 1; until grep -q runs /tmp/daemon.log; do sleep 0.1; done")?;
    }
    acquaint(&mut hosts)?;
    faults::note(&mut hosts, plan)?;
    let make = format!(
        "overcast create --name g --kernel /guest/vmlinuz --initrd /guest/initrd --memory {} --vcpus {} \
         --vif mac=00:16:3e:00:00:03,network=eth1 {} \
         --cmdline 'console=hvc0 run=net,wire,{}serve addr=3 load={}'",
        plan.memory,
        plan.vcpus,
        match plan.disk {
            Disk::None => "",
            Disk::Shared => "--disk vda,xvda,w",
            Disk::Own => "--disk vda,start=1M,size=8M,xvda",
        },
        match plan.disk {
            Disk::None => "",
            Disk::Shared => "disk,",
            Disk::Own => "diskwork,",
        },
        plan.load
    );
    says(&mut hosts[0], &make, "g is domain")?;
    hosts[0].shell(
        "n=0; until grep -q 'init: serving' /var/log/overcast/g.log; do sleep 1; n=$((n + 1)); \
         [ $n -lt 280 ] || { tail -5 /var/log/overcast/g.log; false; break; }; done",
    )?;
    let client = Client::connect(entry)?;
    if plan.disk == Disk::Own {
        // Twice: who takes guests has to outlive one that does not come.
        given_up(&mut hosts)?;
        given_up(&mut hosts)?;
    }
    let mut pair = Pair {
        hosts,
        at: 0,
        client,
        state: State(state),
        compress: plan.compress.clone(),
    };
    faults::run(&mut pair, plan)?;
    let Pair {
        mut hosts,
        at,
        client,
        state,
        ..
    } = pair;
    for _ in 0..plan.trips {
        trip(&mut hosts, at, plan, &client, state)?;
        trip(&mut hosts, 1 - at, plan, &client, state)?;
    }
    let last = client.ten_more(hosts[0].patience)?;
    println!("{name}: {last} numbers, every one once and in order");
    for host in &mut hosts {
        // What the guest said is looked at with the rest.
        let said = host.shell("cat /var/log/overcast/g.log")?;
        if let Some(line) = said.lines().find(|line| line.contains("init: wrong")) {
            return Err(format!("the guest says {line:?}"));
        }
        host.send_line("poweroff -f")?;
    }
    for host in &mut hosts {
        host.wait_exit()?;
        guest_log::check(host.text())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found() {
        let json = "  \"total_ms\": 1234,\n  \"bytes\": 5,\n  \"downtime_ms\": null";
        assert_eq!(number(json, "total_ms"), 1234);
        assert_eq!(number(json, "bytes"), 5);
        assert_eq!(number(json, "downtime_ms"), 0);
        assert_eq!(number(json, "rounds"), 0);
    }
}
