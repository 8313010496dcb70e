//! Guests at one switch and on one disk: what they send to each other, a limit to it, and what
//! one of them cannot do to the others (`qemu-tests/hostile`). And Dom0's devices, which come
//! back when their drivers are unbound and bound.

use crate::disks;
use crate::guest_log;
use crate::machine::{Machine, System};
use crate::session::{Session, says};

/// What the limited guest may send: bits in a second; and what it may send at once, bytes.
const RATE: u64 = 4_000_000;
const BURST: u64 = 131_072;

/// The guests: name, last number of its address, what its first process is to do, the rest.
const GUESTS: [(&str, u32, &str, &str); 3] = [
    ("b", 2, "net,wire,twin", "spoofchk=off"),
    ("a", 1, "net,wire,exchange", "rate=4Mb/s"),
    ("m", 3, "hostile", ""),
];

/// Has a guest send from an address that is not its own, and count the answers.
const FORGE: &str = "forge() { ip link set eth0 down; ip link set eth0 address $1; ip link set eth0 up; }; \
    forge 00:16:3e:00:00:99; echo \"forged: $(ping -c 3 -W 1 $peer | grep -c \"bytes from\").\"; forge $own; \
    n=0; until ping -c 1 -W 1 $peer >/dev/null || [ $n = 60 ]; do n=$((n + 1)); done; echo \"own: $n.\"";

/// Waits until a guest has printed a line that a pattern matches; gives the line.
fn printed(session: &mut Session, guest: &str, pattern: &str) -> Result<String, String> {
    let log = format!("/var/log/overcast/{guest}.log");
    session.shell(&format!(
        "n=0; until grep -q '{pattern}' {log}; do sleep 1; n=$((n+1)); [ $n -lt 280 ] || break; done"
    ))?;
    // The hypervisor's messages may be about it.
    let command = format!("echo \"<$(grep -m 1 '{pattern}' {log} | tr -d '\\r')>\"; tail -3 {log}");
    let answer = session.shell(&command)?;
    match answer
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
    {
        Some((line, _)) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(session.failure(&format!("{guest} did not print {pattern:?}: {answer}"))),
    }
}

/// Makes a guest.
fn create(session: &mut Session, name: &str) -> Result<(), String> {
    let Some((_, address, words, more)) = GUESTS.iter().find(|guest| guest.0 == name) else {
        return Err(format!("no guest {name}"));
    };
    let start = 8 + 8 * address;
    session.shell(&format!(
        "printf 'name = \"{name}\"\\nkernel = \"/guest/vmlinuz\"\\nramdisk = \"/guest/initrd\"\\nmemory = 112\\n\
         vcpus = {vcpus}\\nextra = \"console=hvc0 quiet run={words} addr={address} peer=10.9.0.2 hostile=1,6\"\\n\
         disk = [ \"vda,start={start}M,size=4M,xvda,w\" ]\\n\
         vif = [ \"mac=00:16:3e:00:00:0{address},bridge=eth0,{more}\" ]\\n' >/tmp/{name}.cfg",
        vcpus = if name == "m" { 2 } else { 1 },
    ))?;
    let command = format!("overcast create /tmp/{name}.cfg 2>/tmp/error || cat /tmp/error");
    says(session, &command, &format!("{name} is domain "))
}

/// The number before a word of a text.
fn number_before(text: &str, word: &str) -> Option<u64> {
    let before = text.split(word).next()?.trim_end();
    before.rsplit(' ').next()?.parse().ok()
}

/// Two guests exchange files, one of them within a limit; then a third one breaks every rule
/// of its devices while the others and Dom0 go on.
pub fn neighbours(name: &str) -> Result<(), String> {
    let mut machine = Machine::linux(
        System::Overcast,
        "domains",
        "quiet run=net,wire,control addr=100",
    )?
    .cpus(2)
    .memory(1280)
    .options("dom0_mem=640M dom0_disk=xvda:vda,size=8M");
    machine.extra.extend([
        "-drive".to_owned(),
        format!(
            "file={},format=raw,if=virtio",
            disks::empty("neighbours.img", 64)?.display()
        ),
        "-nic".to_owned(),
        "user,model=virtio-net-pci".to_owned(),
    ]);
    let mut session = Session::start(&machine, name)?;
    session.wait_for("init: shell")?;
    session
        .shell("until grep -q runs /tmp/daemon.log; do sleep 0.1; done; modprobe xen-blkfront")?;
    session.shell("echo 0 >/proc/sys/net/ipv4/icmp_echo_ignore_broadcasts")?;

    create(&mut session, "b")?;
    printed(&mut session, "b", "init: twin")?;
    let received = "cat /sys/class/net/eth0/statistics/rx_bytes";
    session.shell(&format!("before=$({received})"))?;
    create(&mut session, "a")?;
    exchanged(&mut session)?;
    // What two guests say to each other is not heard by the third.
    says(
        &mut session,
        &format!("[ $(($({received}) - before)) -lt 300000 ] && echo little"),
        "little",
    )?;
    for (guest, own, peer, answers) in [("a", 1, 2, 0), ("b", 2, 1, 3)] {
        session.shell(&format!(
            "echo 'own=00:16:3e:00:00:0{own} peer=10.9.0.{peer}; {FORGE}' | overcast console {guest} >/dev/null"
        ))?;
        printed(&mut session, guest, &format!("^forged: {answers}\\."))?;
        printed(&mut session, guest, "^own: [0-5]\\.")?;
    }

    hostile(&mut session)?;
    rebound(&mut session)?;
    for guest in ["a", "b", "m"] {
        session.shell(&format!("overcast destroy {guest}"))?;
        let log = format!("grep -cE 'Oops|Call Trace|segfault|BUG' /var/log/overcast/{guest}.log");
        says(&mut session, &format!("{log} || echo clean"), "clean")?;
    }
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}

/// What guest `a` sent to `b` and got from it.
fn exchanged(session: &mut Session) -> Result<(), String> {
    printed(session, "a", "init: exchange done")?;
    for text in ["sent whole", "fetched whole"] {
        printed(session, "a", &format!("init: exchange: {text}"))?;
    }
    let line = printed(session, "a", "init: exchange: .* bytes took ")?;
    let bytes = number_before(&line, "bytes took").ok_or("no number of bytes")?;
    let took = line
        .split("bytes took")
        .nth(1)
        .and_then(|rest| number_before(rest, "."))
        .ok_or("no time")?;
    // However slow the host is, it cannot have been quicker; and headers are not counted here.
    let least = bytes.saturating_sub(BURST) * 800 / RATE;
    if took < least {
        return Err(session.failure(&format!(
            "{bytes} bytes took {took} hundredths of a second, not at least {least}"
        )));
    }
    for group in ["10.9.0.255", "224.0.0.1"] {
        let line = printed(session, "a", &format!("init: exchange: to {group}: "))?;
        for member in ["10.9.0.2 ", "10.9.0.100 "] {
            if !line.contains(member) {
                return Err(
                    session.failure(&format!("{member} does not answer to {group}: {line}"))
                );
            }
        }
    }
    Ok(())
}

/// A guest with frontends that mean harm.
fn hostile(session: &mut Session) -> Result<(), String> {
    // Meanwhile: Dom0's disk is read, files are exchanged, and somebody sends to all.
    session.shell(
        "head -c 6000000 /dev/urandom >/tmp/data; dd if=/tmp/data of=/dev/xvda bs=64k conv=fsync 2>/dev/null; \
         sum=$(md5sum </tmp/data) busy=$(md5sum </bin/busybox); echo >/tmp/go; echo 0 >/tmp/good; echo 0 >/tmp/bad",
    )?;
    session.shell(
        "work() { while [ -e /tmp/go ]; do echo 3 >/proc/sys/vm/drop_caches; \
         if [ \"$(dd if=/dev/xvda bs=64k 2>/dev/null | head -c 6000000 | md5sum)\" = \"$sum\" ] && \
         [ \"$(nc 10.9.0.2 7002 </dev/null | md5sum)\" = \"$busy\" ]; then echo $(($(cat /tmp/good) + 1)) >/tmp/good; \
         else echo 1 >/tmp/bad; fi; done; echo over >/tmp/over; }; (work &); \
         (while [ -e /tmp/go ]; do ping -c 1 -W 1 10.9.0.255; sleep 0.2; done >/dev/null 2>&1 &)",
    )?;
    create(session, "m")?;
    // It is through, or waits in vain, or cannot begin.
    let line = printed(
        session,
        "m",
        "hostile: done\\|hostile: .* stays\\|hostile: .*: [A-Z]",
    )?;
    if !line.contains("done") || !line.contains(", 0 wrong") {
        let all = session.shell("grep hostile: /var/log/overcast/m.log")?;
        return Err(session.failure(&format!("the hostile guest: {all}")));
    }
    session.shell("good=$(cat /tmp/good); n=0; until [ $(cat /tmp/good) -gt $good ] || [ $n = 200 ]; do sleep 0.5; n=$((n + 1)); done")?;
    says(
        session,
        "rm /tmp/go; echo bad $(cat /tmp/bad), good $(cat /tmp/good).",
        "bad 0,",
    )?;
    says(
        session,
        "[ $(cat /tmp/good) -ge 2 ] && echo enough",
        "enough",
    )?;
    session.shell("until [ -e /tmp/over ]; do sleep 0.1; done")?;
    // Who looks for a reason finds it.
    session.shell("id=$(overcast list m --json | grep '\"id\"' | tr -dc 0-9)")?;
    for device in ["vbd/$id/51712", "vif/$id/0"] {
        session.shell(&format!(
            "overcast store read /local/domain/32754/error/backend/{device}/error"
        ))?;
    }
    if !session.text().contains("the frontend broke the protocol") {
        return Err(session.failure("the log does not say that a frontend broke the protocol"));
    }
    Ok(())
}

/// Dom0's drivers let go of their devices and take them again. netfront begins anew by itself;
/// blkfront waits for its device to be made anew, on every Xen.
fn rebound(session: &mut Session) -> Result<(), String> {
    session.shell(
        "cd /sys/bus/xen/drivers/vif && echo vif-0 >unbind && [ ! -e /sys/class/net/eth0 ] && echo vif-0 >bind; cd /; \
         n=0; until [ -e /sys/class/net/eth0 ] || [ $n = 100 ]; do sleep 0.1; n=$((n + 1)); done; \
         ip link set eth0 up && ip addr add 10.9.0.100/24 dev eth0",
    )?;
    session.shell("n=0; until ping -c 1 -W 1 10.9.0.2 >/dev/null || [ $n = 60 ]; do n=$((n + 1)); done; [ $n -lt 60 ]")?;
    says(
        session,
        "nc 10.9.0.2 7002 </dev/null | md5sum | grep -c \"$busy\"",
        "1",
    )?;

    let (front, back) = (
        "/local/domain/0/device/vbd/51712",
        "/local/domain/32754/backend/vbd/0/51712",
    );
    session.shell("echo vbd-51712 >/sys/bus/xen/drivers/vbd/unbind; [ ! -e /dev/xvda ]")?;
    session.shell(&format!(
        "overcast store rm {front}; while [ -e /sys/bus/xen/devices/vbd-51712 ]; do sleep 0.1; done; \
         overcast store write {back}/state 1; \
         for key in backend={back} backend-id=32754 virtual-device=51712 device-type=disk state=1; do \
         overcast store write {front}/${{key%%=*}} ${{key#*=}}; done; \
         n=0; until [ -e /dev/xvda ] || [ $n = 100 ]; do sleep 0.1; n=$((n + 1)); done"
    ))?;
    says(
        session,
        "dd if=/dev/xvda bs=64k 2>/dev/null | head -c 6000000 | md5sum | grep -c \"$sum\"",
        "1",
    )
}
