//! Debian's unmodified `xl` in a stock Dom0 on Overcast: what it says of the machine, and
//! guests that it makes, changes, saves, restores and destroys.

use crate::cases::{Case, case};
use crate::disks;
use crate::guest_log;
use crate::machine::{Machine, System};
use crate::session::Session;

/// The tests.
pub fn cases() -> Vec<Case> {
    vec![
        case("xl-tools", tools),
        case("xl-dom0-restart", dom0_restart),
    ]
}

fn machine() -> Result<Machine, String> {
    let mut machine = Machine::linux(System::Overcast, "xl", "loglevel=5")?
        .cpus(2)
        .cpu("max,-smap,-smep")
        .memory(2048);
    machine.options = "console=com1 loglvl=info dom0_mem=1024M".to_owned();
    Ok(machine)
}

fn start(name: &str, machine: &Machine) -> Result<Session, String> {
    let mut session = Session::start(machine, name)?;
    wait_ready(&mut session)?;
    Ok(session)
}

fn wait_ready(session: &mut Session) -> Result<(), String> {
    session.wait_for("xl: ready")?;
    session.wait_for("# ")?;
    session.shell("stty -echo; dmesg -n 4")?;
    Ok(())
}

/// Whether an answer has a line with these words in this order.
fn has_line(text: &str, words: &[&str]) -> bool {
    text.lines().any(|line| {
        let mut given = line.split_whitespace();
        words.iter().all(|word| given.any(|g| g == *word))
    })
}

fn want(session: &mut Session, command: &str, lines: &[&[&str]]) -> Result<String, String> {
    let answer = session.shell(command)?;
    for words in lines {
        if !has_line(&answer, words) {
            return Err(format!("`{command}`: no line with {words:?} in\n{answer}"));
        }
    }
    Ok(answer)
}

fn free_memory(session: &mut Session) -> Result<u64, String> {
    let answer = session.shell("xl info free_memory")?;
    answer
        .trim()
        .parse()
        .map_err(|_| format!("xl info free_memory says {answer:?}"))
}

/// Devices of the hypervisor's, which is the domain 32754 to the tools.
const DEVICES: &str =
    "disk=[\"vdev=xvda,backend=32754,target=vda\"]; vif=[\"bridge=eth0,backend=32754\"]";

fn tools(name: &str) -> Result<(), String> {
    let mut machine = machine()?.options("dom0_disk=none dom0_net=no");
    let disk = disks::empty("xl.img", 16)?;
    machine.extra.extend([
        "-drive".to_owned(),
        format!("file={},format=raw,if=virtio", disk.display()),
        "-nic".to_owned(),
        "user,model=virtio-net-pci".to_owned(),
    ]);
    let mut session = start(name, &machine)?;
    let s = &mut session;
    want(s, "xl list", &[&["Domain-0", "0", "1024", "2", "r-----"]])?;
    want(
        s,
        "xl info",
        &[
            &["nr_cpus", ":", "2"],
            &["xen_version", ":", "4.17.0-overcast"],
            &["xen_scheduler", ":", "credit2"],
        ],
    )?;
    want(s, "xl dmesg | head -n 3", &[&["(XEN)", "Overcast"]])?;
    want(
        s,
        "xl vcpu-list 0",
        &[&["Domain-0", "0", "0"], &["Domain-0", "0", "1"]],
    )?;
    want(
        s,
        "xenstore-ls /local/domain/0",
        &[&["name", "=", "\"Domain-0\""]],
    )?;
    want(
        s,
        "xl set-parameters guest_loglvl=error/all; xl set-parameters guest_loglvl=much; echo $?",
        &[&["setting", "parameters:", "Invalid", "argument"], &["1"]],
    )?;
    let before = free_memory(s)?;

    s.shell(&format!(
        "guest one 1 96 facts,work,vbd,net,count '{DEVICES}'; xl create /run/one.cfg >/dev/null"
    ))?;
    s.shell("guest two 2 128 facts,work,count; xl create /run/two.cfg >/dev/null")?;
    s.shell("said one 'count 3'; said two 'count 3'")?;
    want(
        s,
        "line one 'cpus online'",
        &[&["online", "0,", "1", "in", "all"]],
    )?;
    want(
        s,
        "line two 'cpus online'",
        &[&["online", "0-1,", "2", "in", "all"]],
    )?;
    want(
        s,
        "line one 'init: vbd'",
        &[&["16777216", "bytes,", "read", "as", "written"]],
    )?;
    want(s, "line one 'net: eth0'", &[&["eth0"]])?;
    want(s, "xl list", &[&["one", "96", "1"], &["two", "128", "2"]])?;

    s.shell("xl pause one")?;
    s.shell("xl list one | grep -q ' -*b*p--- '")?;
    s.shell("xl unpause one; xl vcpu-pin one 0 1; xl sched-credit2 -d one -w 512 -c 50")?;
    want(
        s,
        "xl vcpu-list one",
        &[&["one", "0", "1", "1", "/", "all"]],
    )?;
    want(s, "xl sched-credit2 -d one", &[&["one", "512", "50"]])?;
    s.shell("xl rename one first; xl domid first >/dev/null")?;
    s.shell("xl mem-set two 100; xl vcpu-set two 1")?;
    s.shell("n=0; while [ $(xl list two | awk 'NR>1 {print $3}') -gt 104 ] && [ $n -lt 60 ]; do n=$((n+1)); sleep 1; done; [ $n -lt 60 ]")?;

    // What was counted before goes on where it was.
    s.shell("xl save two /run/two.save >/dev/null 2>&1")?;
    let at = s.shell("grep -o 'count [0-9]*' /var/log/xen/console/guest-two.log | tail -n 1")?;
    want(s, "xl list", &[&["first", "96", "1"]])?;
    let saved: u64 = at
        .trim_start_matches("count ")
        .trim()
        .parse()
        .map_err(|_| format!("the guest's last word was {at:?}"))?;
    s.shell("mv /var/log/xen/console/guest-two.log /run/two.log; xl restore /run/two.save >/dev/null 2>&1")?;
    s.shell(&format!("said two 'count {}'", saved + 3))?;
    s.shell("! grep -q 'Linux version' /var/log/xen/console/guest-two.log")?;

    // Our daemon's consoles are as good to xl as those of xenconsoled.
    s.shell("kill $(pidof xenconsoled); (overcast daemon >/run/daemon 2>&1 &)")?;
    s.shell(
        "until grep -q 'init: count' /var/log/overcast/first.log 2>/dev/null; do sleep 0.5; done",
    )?;
    s.send_line("xl console first")?;
    s.wait_for("init: count ")?;
    s.wait_for("init: count ")?;
    s.send(b"\x1d")?;
    s.wait_for("# ")?;

    // The devices go, and the hypervisor's ends of them: else there were complaints.
    let answer = s.shell("xl destroy first 2>&1; xl shutdown -w two 2>&1 | grep -iE 'error|time|fail'; \
         for kind in vbd vif; do ! xenstore-exists /local/domain/32754/backend/$kind/1 || echo $kind is left; done")?;
    // The hypervisor says that they are gone.
    if answer
        .lines()
        .any(|line| !line.is_empty() && !line.starts_with("(XEN)"))
    {
        return Err(s.failure(&format!("xl destroy says {answer:?}")));
    }
    s.shell("n=0; while [ $(xl list | wc -l) -gt 2 ] && [ $n -lt 60 ]; do n=$((n+1)); sleep 1; done; [ $n -lt 60 ]")?;
    // They went as soon as xl waited for it.
    if s.text().contains("nobody waits for its end") {
        return Err(s.failure("xl had to wait"));
    }
    s.shell("rm -f /run/two.save")?;
    let mut after = free_memory(s)?;
    for _ in 0..10 {
        if after == before {
            break;
        }
        s.shell("sleep 1")?;
        after = free_memory(s)?;
    }
    if after != before {
        return Err(format!("{before} MiB were free, {after} MiB are"));
    }
    s.send_line("poweroff -f")?;
    s.wait_exit()?;
    guest_log::check(session.text())
}

/// Dom0's kernel crashes while a guest counts: the guest goes on, and the next Dom0's tools
/// find it.
fn dom0_restart(name: &str) -> Result<(), String> {
    let mut session = start(name, &machine()?)?;
    let s = &mut session;
    s.shell("guest one 1 96 count; xl create /run/one.cfg >/dev/null; said one 'count 2'")?;
    guest_log::check(s.text())?;
    s.fatal_signs = false;
    s.send_line("echo c >/proc/sysrq-trigger")?;
    s.wait_for("Hardware Dom0 crashed: it alone is restarted; 1 other domains go on")?;
    s.wait_for("Dom0 is restarted")?;
    s.fatal_signs = true;
    wait_ready(s)?;
    want(s, "xl list", &[&["one", "96", "1"]])?;
    s.shell("said one count; ! grep -q 'Linux version' /var/log/xen/console/guest-one.log")?;
    // Its console is this Dom0's.
    s.send_line("xl console one")?;
    s.wait_for("init: count ")?;
    s.send(b"\x1d")?;
    s.wait_for("# ")?;
    s.shell("xl destroy one")?;
    s.send_line("poweroff -f")?;
    s.wait_exit()
}
