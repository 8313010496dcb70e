//! Dom0's network device against the host's own: a tap device with several queues in a network
//! namespace that the test makes, and a second namespace behind that one.
//!
//! ```text
//! Dom0, 10.9.0.1 ── tap0 with offloads, 10.9.0.2 ── v0, 10.9.1.1 ── v1, 10.9.1.2
//!                  └────── namespace "near" ─────┘ without offloads └─ "far" ─┘
//! ```
//!
//! Frames longer than the link and unfinished checksums cross the tap as they are. On the way to
//! the far namespace the near one's kernel has to cut and complete them by what came with them,
//! and the far one looks at each checksum. Nothing of it is to be seen outside: the namespaces end
//! with the test.

use crate::guest_log;
use crate::machine::{Machine, System};
use crate::runner;
use crate::session::{Session, says};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

/// What the near namespace has; `$1` is a process in the far one.
const NEAR: &str = "ip link set lo up
ip tuntap add tap0 mode tap multi_queue vnet_hdr
echo 0 >/proc/sys/net/ipv6/conf/tap0/accept_dad
ip addr add 10.9.0.2/24 dev tap0
ip -6 addr add fd09::2/64 dev tap0 nodad
ip link set tap0 up
ip link add v0 type veth peer name v1 netns $1
ethtool -K v0 tx off tso off gso off gro off >/dev/null
ip addr add 10.9.1.1/24 dev v0
ip -6 addr add fd0a::1/64 dev v0 nodad
ip link set v0 up
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
nsenter --net=/proc/$1/ns/net sh -ec '
    ip link set lo up
    ethtool -K v1 tx off tso off gso off gro off >/dev/null
    ip addr add 10.9.1.2/24 dev v1
    ip -6 addr add fd0a::2/64 dev v1 nodad
    ip link set v1 up
    ip route add default via 10.9.1.1
    ip -6 route add default via fd0a::1'";

/// A network namespace, which lives as long as this does.
struct Namespace {
    /// A process in it, which ends when its input does.
    keeper: Child,
    _input: Option<ChildStdin>,
    servers: Vec<Child>,
}

impl Namespace {
    /// A namespace in which a script has run.
    fn new(script: &str, argument: &str) -> Result<Self, String> {
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-ec"])
            .arg(format!("{script}\necho ready\nexec cat"))
            .args(["sh", argument])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("unshare: {e}"))?;
        let input = keeper.stdin.take();
        let output = keeper.stdout.take().ok_or("unshare has no output")?;
        let namespace = Self {
            keeper,
            _input: input,
            servers: Vec::new(),
        };
        let mut line = String::new();
        let read = BufReader::new(output).read_line(&mut line);
        match read {
            Ok(_) if line.trim() == "ready" => Ok(namespace),
            _ => Err(format!("a network namespace says {line:?}: {script}")),
        }
    }

    fn id(&self) -> u32 {
        self.keeper.id()
    }

    /// Starts iperf3's server, and waits until it listens.
    fn serve(&mut self) -> Result<(), String> {
        let server = Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", self.id()))
            .args(["iperf3", "-s"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("iperf3: {e}"))?;
        self.servers.push(server);
        for _ in 0..600 {
            // Port 5201, state LISTEN.
            let listens = |line: &str| line.contains(":1451 ") && line.contains(" 0A ");
            if self.read("tcp")?.lines().any(listens) || self.read("tcp6")?.lines().any(listens) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err("iperf3's server does not listen".to_owned())
    }

    /// A file of its `/proc/net`.
    fn read(&self, name: &str) -> Result<String, String> {
        let path = format!("/proc/{}/net/{name}", self.id());
        std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().chain([&mut self.keeper]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Bytes and frames that an interface has received, and has sent, in a file like
/// `/proc/net/dev`.
fn counts(text: &str, interface: &str) -> Option<[[u64; 2]; 2]> {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))?;
    let numbers: Vec<u64> = line
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    match numbers[..] {
        [bytes, frames, _, _, _, _, _, _, sent_bytes, sent_frames, ..] => {
            Some([[bytes, frames], [sent_bytes, sent_frames]])
        }
        _ => None,
    }
}

/// Bytes of the mean frame between two counts.
fn mean(before: [u64; 2], after: [u64; 2]) -> u64 {
    let frames = after[1].saturating_sub(before[1]);
    after[0]
        .saturating_sub(before[0])
        .checked_div(frames)
        .unwrap_or(0)
}

/// A count of a protocol in a file like `/proc/net/snmp`.
fn snmp(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
    let place = lines.next()?.split(' ').position(|word| word == name)?;
    lines.next()?.split(' ').nth(place)?.parse().ok()
}

/// How often an interrupt came on all CPUs, by a text like `/proc/interrupts`.
fn interrupts(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.ends_with(name));
    let numbers = line.and_then(|line| line.split_once(':'));
    numbers.map_or(0, |(_, numbers)| {
        let numbers = numbers.split_whitespace();
        numbers.map_while(|word| word.parse::<u64>().ok()).sum()
    })
}

/// Why there can be no tap device, if so.
fn missing() -> Option<String> {
    if !Path::new("/dev/net/tun").exists() {
        return Some("this machine has no /dev/net/tun".to_owned());
    }
    let mut probe = Command::new("unshare");
    probe.args(["--net", "ip", "tuntap", "add", "tap0", "mode", "tap"]);
    match probe.output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "this machine makes no tap device in a network namespace: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(why) => Some(format!("unshare cannot be started: {why}")),
    }
}

/// Large frames and unfinished checksums go both ways between Dom0 and the host, by two queues,
/// and what is beyond the host gets them cut and complete.
pub fn offloads(name: &str) -> Result<(), String> {
    if let Some(why) = missing() {
        return Err(format!("{}{why}", runner::NOT_TRIED));
    }
    let mut far = Namespace::new("", "")?;
    let mut near = Namespace::new(NEAR, &far.id().to_string())?;
    near.serve()?;
    far.serve()?;

    let mut machine = Machine::linux(System::Overcast, "net", "run=net,wire addr=1")?.cpus(2);
    machine.namespace = Some(near.id());
    machine.extra.extend(
        [
            "-netdev",
            "tap,id=n0,ifname=tap0,script=no,downscript=no,queues=2,vhost=off",
            "-device",
            "virtio-net-pci,netdev=n0,mq=on,vectors=6,mac=52:54:00:00:00:01,romfile=",
        ]
        .map(str::to_owned),
    );
    let mut session = Session::start(&machine, name)?;
    session.wait_for("MTU 1500, 2 queues")?;
    session.wait_for("init: net: eth0 52:54:00:00:00:01 mtu 1500 queues 2")?;
    session.wait_for("init: net: on the wire")?;
    session.wait_for("/ # ")?;
    session.shell("ip route add default via 10.9.0.2; ip -6 route add default via fd09::2")?;
    for feature in [
        "rx-checksumming",
        "tx-checksumming",
        "scatter-gather",
        "tx-tcp-segmentation",
        "tx-tcp6-segmentation",
        "generic-receive-offload",
    ] {
        says(
            &mut session,
            &format!("ethtool -k eth0 | grep '{feature}:'"),
            ": on",
        )?;
    }
    // Large frames are the sum of what offload does: they are gone where it is switched off.
    let tap = |near: &Namespace| counts(&near.read("dev")?, "tap0").ok_or("no tap0".to_owned());
    let card = |session: &mut Session| {
        let text = session.shell("cat /proc/net/dev")?;
        counts(&text, "eth0").ok_or_else(|| session.failure("no eth0"))
    };
    for (address, mebibytes, offload) in [
        ("10.9.0.2", 32, true),
        ("fd09::2", 32, true),
        ("10.9.1.2", 16, true),
        ("fd0a::2", 16, true),
        ("10.9.0.2", 4, false),
    ] {
        let word = if offload { "on" } else { "off" };
        session.shell(&format!("ethtool -K eth0 tso {word} >/dev/null 2>&1"))?;
        for way in ["", "-R"] {
            let before = (tap(&near)?, card(&mut session)?);
            let command = format!(
                "iperf3 -c {address} -n {mebibytes}M -P 8 {way} >/tmp/report 2>&1 && echo through || tail -3 /tmp/report"
            );
            says(&mut session, &command, "through")?;
            let after = (tap(&near)?, card(&mut session)?);
            let report = session
                .shell("sed -n 's/.*SUM.*Bytes *\\(.*sec\\).*receiver/\\1/p' /tmp/report")?;
            // What Dom0 sends the tap receives.
            let (direction, other) = if way.is_empty() { (0, 1) } else { (1, 0) };
            let frames = [
                mean(before.0[direction], after.0[direction]),
                mean(before.1[other], after.1[other]),
            ];
            println!(
                "{name}: {address} {way} TSO {word}: {} bytes a frame at the host, {} at Dom0: {report}",
                frames[0], frames[1]
            );
            // The link's own frames have 1,514 bytes at most.
            let large = |bytes: &u64| *bytes > 1600;
            // The host sends to the far side what it got from there, which is not large; and what
            // Dom0 does not send large, the host may.
            let checked = match (way, address) {
                ("", _) => frames.iter().all(|bytes| large(bytes) == offload),
                (_, "10.9.0.2" | "fd09::2") if offload => frames.iter().all(large),
                _ => true,
            };
            if !checked {
                let what = format!("{address} {way}, TSO {word}: {frames:?} bytes a frame");
                return Err(session.failure(&what));
            }
        }
    }
    // Of datagrams some may get lost, but none may be wrong.
    for address in ["10.9.1.2", "fd0a::2"] {
        let command = format!(
            "iperf3 -u -c {address} -b 2M -n 256K -l 1200 >/tmp/report 2>&1 && echo through || tail -3 /tmp/report"
        );
        says(&mut session, &command, "through")?;
    }
    let (v4, v6) = (far.read("snmp")?, far.read("snmp6")?);
    let v6 = v6.replace(['\t', ' '], " ");
    let count6 = |name: &str| {
        v6.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    let received = [
        snmp(&v4, "Tcp", "InSegs"),
        snmp(&v4, "Udp", "InDatagrams"),
        count6("Udp6InDatagrams "),
    ];
    let wrong = [
        snmp(&v4, "Tcp", "InCsumErrors"),
        snmp(&v4, "Udp", "InCsumErrors"),
        count6("Udp6InCsumErrors "),
    ];
    if wrong != [Some(0); 3] || received.iter().any(|n| n.is_none_or(|n| n < 50)) {
        let what = format!("beyond the host arrived {received:?}, with wrong checksums {wrong:?}");
        return Err(session.failure(&what));
    }
    let ours = session.shell("cat /proc/net/snmp")?;
    if snmp(&ours, "Tcp", "InCsumErrors") != Some(0) {
        return Err(session.failure(&format!("wrong checksums at Dom0: {ours}")));
    }
    let text = session.shell("grep -- '-q[01]-[rt]x' /proc/interrupts")?;
    for queue in ["-q0-tx", "-q0-rx", "-q1-tx", "-q1-rx"] {
        if interrupts(&text, queue) < 20 {
            return Err(session.failure(&format!("{queue} has not worked: {text}")));
        }
    }
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_counts_is_read() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs\n    lo:  1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n  \
             tap0: 900 3 0 0 0 0 0 0 70 7 0 0 0 0 0 0\n";
        assert_eq!(counts(text, "tap0"), Some([[900, 3], [70, 7]]));
        assert_eq!(counts(text, "tap"), None);
        assert_eq!(mean([100, 1], [900, 3]), 400);
        assert_eq!(mean([1, 1], [1, 1]), 0);
        let text = "Tcp: InSegs InCsumErrors\nTcp: 17 5\nUdp: InDatagrams\nUdp: 3\n";
        assert_eq!(snmp(text, "Tcp", "InCsumErrors"), Some(5));
        assert_eq!(snmp(text, "Udp", "InDatagrams"), Some(3));
        assert_eq!(snmp(text, "Udp", "InCsumErrors"), None);
        let text = " 50:  7  13  xen-dyn  -event  eth0-q0-tx\n 51: 1 2 xen-dyn -event eth0-q0-rx\n";
        assert_eq!(interrupts(text, "eth0-q0-tx"), 20);
        assert_eq!(interrupts(text, "eth0-q1-tx"), 0);
    }
}
