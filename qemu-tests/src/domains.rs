//! Domains that the `overcast` command makes in Dom0.

use crate::artefacts;
use crate::disks;
use crate::guest_log;
use crate::machine::{Machine, System};
use crate::session::{Session, says};

/// The guests: name, vCPUs, what their first process is to do, and more of their configuration.
const GUESTS: [(&str, u32, &str, &str); 3] = [
    (
        "one",
        1,
        "facts,vbd,net,dhcp",
        "disk = [ \"vda,start=1M,size=2M,xvda,w\" ]\\nvif = [ \"mac=00:16:3e:00:00:01,bridge=eth0\" ]",
    ),
    ("two", 2, "facts,work", ""),
    ("four", 4, "facts,work", ""),
];

/// A machine with 2 CPUs whose Dom0 controls domains, and has no disks of its own.
pub fn machine() -> Result<Machine, String> {
    let machine = Machine::linux(System::Overcast, "domains", "run=control")?;
    Ok(machine.cpus(2).options("dom0_mem=768M dom0_disk=none"))
}

/// Starts it, and waits for its shell and the daemon.
pub fn start(machine: &Machine, name: &str) -> Result<Session, String> {
    let mut session = Session::start(machine, name)?;
    session.wait_for("init: shell")?;
    session.shell("until grep -q runs /tmp/daemon.log; do sleep 0.1; done; ip link set lo up")?;
    Ok(session)
}

/// A guest with as many vCPUs as there can be, more than there are CPUs.
pub fn many_vcpus(name: &str) -> Result<(), String> {
    let mut session = start(&machine()?.memory(2048), name)?;
    says(
        &mut session,
        "overcast create --name many --kernel /guest/vmlinuz --initrd /guest/initrd --memory 512 --vcpus 32 \
         --cmdline 'console=hvc0 run=facts,work'",
        "many is domain 1",
    )?;
    printed(&mut session, "many", "init: cpus online 0-31, 32 in all")?;
    printed(&mut session, "many", "init: work done")?;
    session.shell("cat /var/log/overcast/many.log; overcast destroy many")?;
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}

/// Waits until a guest has printed a text.
fn printed(session: &mut Session, guest: &str, text: &str) -> Result<(), String> {
    // As patient as the session's own waits: a second or so each time.
    let log = format!("/var/log/overcast/{guest}.log");
    session.shell(&format!(
        "n=0; until grep -q '{text}' {log}; do sleep 1; n=$((n+1)); [ $n -lt 280 ] || break; done"
    ))?;
    says(
        session,
        &format!("grep '{text}' {log} || tail -5 {log}"),
        text,
    )
}

/// What domains use is shown: a guest that reads its disk, in text, as JSON and on a terminal.
fn top(session: &mut Session) -> Result<(), String> {
    session.shell(
        "echo 'while dd if=/dev/xvda of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null; do :; done' | \
         overcast console --linger 0 debian >/dev/null",
    )?;
    let line = "overcast top --batch -n 1 -d 0.5 --sort disk | grep ^debian";
    session.shell(&format!(
        "until [ \"$({line} | awk '{{print $11}}')\" != 0 ]; do :; done"
    ))?;
    says(session, line, " 384 ")?;
    says(
        session,
        "overcast top --json -n 1 -d 0.5 | grep -o '\"name\":\"[^\"]*\"' | wc -l",
        "5",
    )?;
    session.send_line("overcast top --sort name")?;
    for text in ["debian", "two", "reverse"] {
        session.wait_for(text)?;
    }
    session.send(b"q")?;
    // What is typed before its end is lost with it.
    session.wait_for("# ")
}

/// Stock kernels as shipped, with 1, 2 and 4 vCPUs, a disk, a network device and a console, and
/// Debian from its own disk, all at once; wrong configurations; a restart; the end.
pub fn created(name: &str) -> Result<(), String> {
    let mut machine = machine()?.memory(2048);
    machine.extra.extend([
        "-drive".to_owned(),
        format!(
            "file={},format=raw,if=virtio",
            disks::empty("domains.img", 16)?.display()
        ),
        "-drive".to_owned(),
        format!(
            "file={},format=raw,if=virtio,snapshot=on",
            artefacts::boot_disk()?.display()
        ),
        "-nic".to_owned(),
        "user,model=virtio-net-pci".to_owned(),
    ]);
    let mut session = start(&machine, name)?;
    // As many vCPUs as there can be.
    says(
        &mut session,
        "overcast create --name many --kernel /guest/vmlinuz --memory 128 --vcpus 32 --paused && \
         overcast vcpu-list many | grep -c ^many; overcast destroy many",
        "32",
    )?;
    // They run when all is made: kernels are unpacked quicker by a Dom0 that has the CPUs for itself.
    for (guest, vcpus, words, more) in GUESTS {
        session.shell(&format!(
            "printf 'name = \"{guest}\"\\nkernel = \"/guest/vmlinuz\"\\nramdisk = \"/guest/initrd\"\\n\
             memory = 128\\nvcpus = {vcpus}\\nextra = \"console=hvc0 run={words}\"\\n{more}\\n' \
             >/tmp/{guest}.cfg"
        ))?;
        let command =
            format!("overcast create --paused /tmp/{guest}.cfg 2>/tmp/error || cat /tmp/error");
        says(&mut session, &command, &format!("{guest} is domain "))?;
    }

    says(
        &mut session,
        "overcast create --paused --name debian --kernel /guest/pv-grub --memory 384 --disk vdb,xvda",
        "debian is domain 5",
    )?;
    // What is wrong has a name and a status of its own, and leaves nothing.
    for (options, status, wanted) in [
        ("/tmp/one.cfg", 2, "is called \"one\" already"),
        ("/tmp/one.cfg --name x --vcpus 99", 2, "vcpus: "),
        ("/tmp/one.cfg --name x --memory 900G", 5, "are free"),
        ("/tmp/one.cfg --name x --memory 16", 8, "of memory at least"),
        (
            "/tmp/one.cfg --name x --disk vda,start=2M",
            8,
            "in use by domain",
        ),
        ("/tmp/one.cfg --name x --disk nosuch", 8, "nosuch"),
        (
            "/tmp/one.cfg --name x --kernel /guest/initrd",
            8,
            "/guest/initrd: ",
        ),
        ("/nosuch.cfg", 2, "/nosuch.cfg: "),
    ] {
        let command = format!("overcast create {options} 2>&1 | cat; echo");
        says(&mut session, &command, wanted)?;
        let command = format!("overcast create {options} >/dev/null 2>&1; echo status $?,");
        says(&mut session, &command, &format!("status {status},"))?;
    }
    says(&mut session, "overcast list --json | grep -c '\"id\"'", "5")?;
    session.shell("for guest in one two four debian; do overcast unpause $guest; done")?;

    for (guest, vcpus, words, _) in GUESTS {
        printed(&mut session, guest, "init: shell")?;
        let last = vcpus - 1;
        let cpus = if last == 0 {
            "0".to_owned()
        } else {
            format!("0-{last}")
        };
        printed(
            &mut session,
            guest,
            &format!("init: cpus online {cpus}, {vcpus} in all"),
        )?;
        if words.contains("work") {
            printed(&mut session, guest, "init: work done")?;
        }
        let log = format!("grep -cE 'Oops|Call Trace|segfault|BUG' /var/log/overcast/{guest}.log");
        says(&mut session, &format!("{log} || echo clean"), "clean")?;
    }
    printed(
        &mut session,
        "one",
        "init: vbd: 2097152 bytes, read as written",
    )?;
    printed(&mut session, "one", "init: net: address 10.0.2.")?;

    // PV GRUB found the kernel and its initrd on the guest's disk.
    printed(&mut session, "debian", "quick: shell")?;
    session.shell(
        "echo '. /etc/os-release; echo release $ID on $(findmnt -no SOURCE /)' | \
         overcast console debian >/dev/null",
    )?;
    printed(&mut session, "debian", "release debian on /dev/xvda")?;
    top(&mut session)?;

    // The console answers; what is typed is echoed, so the answer is another text.
    session.shell("echo 'echo answer $((6*7))' | overcast console two >/dev/null")?;
    printed(&mut session, "two", "answer 42")?;

    // So does its terminal, which is what `xl console` takes.
    says(
        &mut session,
        "t=$(overcast store read /local/domain/3/console/tty); exec 3<>$t; \
         echo 'echo terminal $((6*7))' >&3; grep -m 1 'terminal 42' <&3; exec 3<&-",
        "terminal 42",
    )?;

    // One reboots, and is there again under another number; its disk is not lost to it.
    session.shell(
        "overcast store read /local/domain/2/name >/dev/null && : >/var/log/overcast/one.log",
    )?;
    session.shell("echo 'reboot -f' | overcast console --linger 3 one >/dev/null")?;
    printed(
        &mut session,
        "one",
        "init: vbd: 2097152 bytes, read as written",
    )?;
    session.shell("! overcast store read /local/domain/2/name 2>/dev/null")?;
    // Another ends when it is asked to.
    session.shell("overcast shutdown --wait --timeout 280 two")?;
    session.shell(
        "n=0; while overcast list two >/dev/null 2>&1; do sleep 1; n=$((n+1)); [ $n -lt 280 ] || break; done; \
         ! overcast list two >/dev/null 2>&1",
    )?;
    for guest in ["one", "four", "debian"] {
        session.shell(&format!("overcast destroy {guest}"))?;
    }
    says(&mut session, "overcast list --json | grep -c '\"id\"'", "1")?;
    // Nothing is left in the store.
    says(
        &mut session,
        "overcast store ls / | grep -E '51712|ostype|xenconsoled' || echo none",
        "none",
    )?;
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}
