//! Guests that go on with their disks and their network while Dom0 dies.

use crate::disks;
use crate::guest_log;
use crate::machine::{Machine, System};
use crate::session::{Session, says};
use crate::trips::until;

/// The guests: name, what they do beside their disk, and their part of the disk.
const GUESTS: [(&str, &str, &str); 2] = [
    ("a", "serve addr=1", "start=1M"),
    ("b", "hear addr=2 peer=10.9.0.1", "start=9M"),
];

fn wait_ready(session: &mut Session) -> Result<(), String> {
    session.wait_for("init: shell")?;
    session.shell("dmesg -n 1; until grep -q runs /tmp/daemon.log; do sleep 0.1; done")?;
    Ok(())
}

/// Waits until a guest has said something so often, and asks for what it said last.
fn said(session: &mut Session, guest: &str, what: &str, times: u32) -> Result<u64, String> {
    let log = format!("/var/log/overcast/{guest}.log");
    session.shell(&format!(
        "n=0; until [ \"$(grep -c '{what}' {log})\" -ge {times} ]; do sleep 1; n=$((n + 1)); [ $n -lt 280 ] || break; done"
    ))?;
    says(
        session,
        &format!("grep -q wrong {log} && tail -20 {log} || echo right"),
        "right",
    )?;
    let answer = session.shell(&format!(
        "grep '{what}' {log} | tail -1 | sed 's/.*init: [a-z]*: [a-z ]*\\([0-9]*\\).*/\\1/'"
    ))?;
    let number = answer
        .lines()
        .rev()
        .find_map(|line| line.trim().parse().ok());
    number.ok_or_else(|| session.failure(&format!("{guest} did not say {what:?}: {answer:?}")))
}

/// How often something was done in one life of Dom0's.
fn work(session: &mut Session) -> Result<[u64; 3], String> {
    Ok([
        said(session, "a", "all as written", 2)?,
        said(session, "b", "all as written", 2)?,
        said(session, "b", "numbers in order", 3)?,
    ])
}

/// Two guests write and look at disks, and one counts to the other, while Dom0's kernel panics in the
/// middle of a move: the next Dom0 finds them where they are by then, with their consoles.
pub fn dom0_dies(name: &str) -> Result<(), String> {
    let mut machine = Machine::linux(System::Overcast, "domains", "run=control")?
        .cpus(2)
        .memory(1536)
        .options("dom0_mem=512M dom0_disk=none");
    machine.extra.extend([
        "-drive".to_owned(),
        format!(
            "file={},format=raw,if=virtio",
            disks::empty(&format!("{name}.img"), 20)?.display()
        ),
        "-nic".to_owned(),
        "user,model=virtio-net-pci".to_owned(),
    ]);
    let mut session = Session::start(&machine, name)?;
    let s = &mut session;
    wait_ready(s)?;
    for (guest, words, part) in GUESTS {
        let create = format!(
            "overcast create --name {guest} --kernel /guest/vmlinuz --initrd /guest/initrd --memory 96 \
             --vif network=eth0 --disk vda,{part},size=8M,xvda \
             --cmdline 'console=hvc0 run=net,wire,diskwork,{words}' 2>/tmp/error || cat /tmp/error"
        );
        says(s, &create, &format!("{guest} is domain"))?;
    }
    let before = work(s)?;
    // What a third writes is logged: it is on its way, to the same machine.
    says(
        s,
        "overcast create --name c --kernel /guest/vmlinuz --initrd /guest/initrd --memory 96 \
         --cmdline 'console=hvc0 run=count' 2>/tmp/error || cat /tmp/error",
        "c is domain",
    )?;
    s.shell(
        "ip link set lo up; overcast init; (overcast receive --listen 127.0.0.1 >/tmp/receive.log 2>&1 &); \
         until grep -q :1FA6 /proc/net/tcp; do sleep 0.1; done; \
         (overcast migrate c 127.0.0.1 --name d --bandwidth 1M >/tmp/move 2>&1 &); \
         until overcast migrate-status | grep -q 'round 1'; do sleep 0.2; done",
    )?;
    guest_log::check(s.text())?;
    s.fatal_signs = false;
    s.send_line("echo c >/proc/sysrq-trigger")?;
    s.wait_for("Hardware Dom0 crashed: it alone is restarted; 4 other domains go on")?;
    s.wait_for("what it writes is not logged any more")?;
    s.wait_for("Dom0 is restarted")?;
    s.fatal_signs = true;
    wait_ready(s)?;
    for (guest, ..) in GUESTS {
        says(s, "overcast list --json", &format!("\"name\": \"{guest}\""))?;
    }
    let after = work(s)?;
    if before
        .iter()
        .zip(after)
        .any(|(before, after)| after <= *before)
    {
        return Err(s.failure(&format!("{before:?} before, {after:?} after")));
    }
    // Their consoles answer this Dom0, by the daemon and by their terminals; what is typed is
    // echoed, so the answer is another text.
    for (number, (guest, ..)) in (1..).zip(GUESTS) {
        s.shell(&format!(
            "echo 'echo answer $((6*7))' | overcast console --linger 0 {guest} >/dev/null"
        ))?;
        s.shell(&until(&format!(
            "grep -q 'answer 42' /var/log/overcast/{guest}.log"
        )))?;
        says(
            s,
            &format!(
                "t=$(overcast store read /local/domain/{number}/console/tty); exec 3<>$t; \
                 echo 'echo terminal $((6*7))' >&3; grep -m 1 'terminal 42' <&3; exec 3<&-"
            ),
            "terminal 42",
        )?;
    }
    // They are this Dom0's, as if it had made them.
    // What was half made goes by itself.
    s.shell("for domain in a b c; do overcast destroy $domain; done")?;
    s.shell(&until("[ $(overcast list --json | grep -c '\"id\"') = 1 ]"))?;
    s.send_line("poweroff -f")?;
    s.wait_exit()
}
