//! Tests of Dom0's network device.

use crate::artefacts;
use crate::guest_log;
use crate::machine::{Board, Machine, System};
use crate::session::Session;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// A machine with the initramfs for networks.
fn machine(system: System, arguments: &str) -> Result<Machine, String> {
    Machine::linux(system, "net", arguments)
}

/// The same with a virtio network card on a back end of QEMU's.
fn with_card(mut machine: Machine, backend: &str, last: u8) -> Machine {
    machine.extra.extend([
        "-netdev".to_owned(),
        format!("{backend},id=n0"),
        "-device".to_owned(),
        format!("virtio-net-pci,id=card,netdev=n0,mac=52:54:00:00:00:0{last},romfile="),
    ]);
    machine
}

fn expect(session: &Session, what: &str, got: &str, wanted: &str) -> Result<(), String> {
    if got == wanted {
        Ok(())
    } else {
        Err(session.failure(&format!("{what}: {got:?}, not {wanted:?}")))
    }
}

/// An address by DHCP from QEMU's user network, and answers from its gateway.
pub fn user(name: &str) -> Result<(), String> {
    let machine = machine(System::Overcast, "run=net,dhcp,ping,dmesg,poweroff")?.board(Board::Pc);
    let mut session = Session::start(&with_card(machine, "user", 1), name)?;
    session.wait_for("init: net: eth0 ")?;
    let card = session.rest_of_line()?;
    expect(
        &session,
        "card",
        &card,
        "52:54:00:00:00:01 mtu 1500 queues 1",
    )?;
    for feature in [
        "tx-checksumming",
        "scatter-gather",
        "tcp-segmentation-offload",
        "generic-receive-offload",
    ] {
        session.wait_for(&format!("init: net: {feature}: "))?;
        let state = session.rest_of_line()?;
        expect(&session, feature, &state, "on")?;
    }
    session.wait_for("init: net: address ")?;
    let address = session.rest_of_line()?;
    expect(&session, "address", &address, "10.0.2.15")?;
    for size in ["56", "1400"] {
        session.wait_for(&format!("init: net: ping {size}: "))?;
        let answers = session.rest_of_line()?;
        expect(&session, "ping", &answers, "5 5")?;
    }
    session.wait_for("init: poweroff")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}

/// QEMU's monitor.
struct Monitor(PathBuf);

impl Monitor {
    fn of(machine: &mut Machine, name: &str) -> Result<Self, String> {
        let path = artefacts::log(name)?.with_extension("monitor");
        let _ = std::fs::remove_file(&path);
        machine.extra.extend([
            "-chardev".to_owned(),
            format!("socket,id=mon0,path={},server=on,wait=off", path.display()),
            "-mon".to_owned(),
            "chardev=mon0,mode=readline".to_owned(),
        ]);
        Ok(Self(path))
    }

    fn command(&self, command: &str) -> Result<(), String> {
        let text = |e: std::io::Error| format!("{}: {e}", self.0.display());
        let mut stream = UnixStream::connect(&self.0).map_err(text)?;
        let wait_for_prompt = |stream: &mut UnixStream| {
            let mut seen = Vec::new();
            let mut byte = [0];
            while !seen.ends_with(b"(qemu) ") {
                stream.read_exact(&mut byte).map_err(text)?;
                seen.extend(byte);
            }
            Ok::<_, String>(())
        };
        wait_for_prompt(&mut stream)?;
        writeln!(stream, "{command}").map_err(text)?;
        wait_for_prompt(&mut stream)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// How much goes each way, and how many connections are made.
pub struct Amount {
    /// CPUs of the machine that is tested.
    pub cpus: u32,
    /// Bytes that iperf3 sends each way, in MiB.
    pub mebibytes: u32,
    /// Connections, one after the other.
    pub connections: u32,
}

/// Dom0 and a machine without hypervisor on a wire: echoes, streams both ways,
/// connections, and the wire cut and joined again.
pub fn wire(name: &str, amount: &Amount) -> Result<(), String> {
    // A port that is free now.
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|e| e.to_string())?
        .port();
    let peer = machine(System::Bare, "quiet run=net,wire addr=2")?.memory(512);
    let peer = with_card(peer, &format!("socket,listen=127.0.0.1:{port}"), 2);
    let mut peer = Session::start(&peer, &format!("{name}-peer"))?;
    peer.wait_for("init: net: on the wire")?;
    peer.wait_for("/ # ")?;
    peer.shell("iperf3 -s -D && (nc -ll -p 7777 -e /bin/hostname </dev/null >/dev/null 2>&1 &) && hostname hello")?;

    let ours = machine(System::Overcast, "run=net,wire addr=1")?.cpus(amount.cpus);
    let mut ours = with_card(ours, &format!("socket,connect=127.0.0.1:{port}"), 1);
    let monitor = Monitor::of(&mut ours, name)?;
    let mut session = Session::start(&ours, name)?;
    session.wait_for("init: net: on the wire")?;
    session.wait_for("/ # ")?;
    for (ping, address) in [("ping", "10.9.0.2"), ("ping -6", "fd09::2")] {
        for size in [56, 1400, 20_000] {
            let command = format!("{ping} -c 3 -i 0.2 -s {size} {address} | grep -c 'bytes from'");
            let answers = session.shell(&command)?;
            expect(&session, &command, &answers, "3")?;
        }
    }
    for address in ["10.9.0.2", "fd09::2"] {
        for way in ["", "-R"] {
            let size = amount.mebibytes;
            // What is left of the report: whether it got through.
            let command = format!(
                "iperf3 -c {address} -n {size}M {way} >/tmp/report 2>&1 && echo through || tail -3 /tmp/report"
            );
            let answer = session.shell(&command)?;
            expect(&session, &command, &answer, "through")?;
            let report = session.shell("grep -E 'sender|receiver' /tmp/report")?;
            println!("{name}: {way} {address}: {report}");
        }
    }
    // Four at a time, and in parts that are each within the patience for an answer.
    let mut left = amount.connections;
    while left > 0 {
        let each = left.min(1000).div_ceil(4);
        left = left.saturating_sub(4 * each);
        let command = format!(
            "(for j in 1 2 3 4; do (good=0; n=0; while [ $n -lt {each} ]; do [ \"$(nc 10.9.0.2 7777 </dev/null)\" = hello ] \
             && good=$((good + 1)); n=$((n + 1)); done; echo $good >/tmp/good$j) & done; wait); cat /tmp/good? | tr '\\n' ' '"
        );
        let answer = session.shell(&command)?;
        let good = answer
            .split_whitespace()
            .filter(|&good| good == each.to_string());
        expect(&session, &command, &good.count().to_string(), "4")?;
    }

    monitor.command("set_link card off")?;
    session.wait_for("eth0: link down")?;
    let lost = session.shell("ping -c 2 -i 0.2 -W 1 10.9.0.2 | grep -c 'bytes from' || true")?;
    expect(&session, "echoes without a link", &lost, "0")?;
    monitor.command("set_link card on")?;
    session.wait_for("eth0: link up")?;
    let back = session.shell("ping -c 3 -i 0.2 10.9.0.2 | grep -c 'bytes from'")?;
    expect(&session, "echoes with the link again", &back, "3")?;

    let complaints = session.shell("dmesg | grep -ci 'net eth0.*\\|xen_netfront.*' || true")?;
    expect(&session, "lines of netfront's in dmesg", &complaints, "1")?;
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}
