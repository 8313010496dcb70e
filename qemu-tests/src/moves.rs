//! Domains that are saved, restored and moved by the `overcast` command.

use crate::guest_log;
use crate::machine::{Machine, System};
use crate::session::{Session, says};

/// The guest counts on from where it was: three numbers more, none for the second time, and
/// its memory as it was.
fn counts_on(session: &mut Session, guest: &str) -> Result<(), String> {
    let log = format!("/var/log/overcast/{guest}.log");
    session.shell(&format!(
        "a=$(grep -c 'init: count' {log}); n=0; until [ $(grep -c 'init: count' {log}) -ge $((a + 3)) ]; do \
         sleep 1; n=$((n + 1)); [ $n -lt 200 ] || break; done"
    ))?;
    let check = format!(
        "grep -o 'init: count [0-9]*' {log} | sort | uniq -d | grep -q . && echo twice; \
         grep -q 'memory changed' {log} && echo changed; \
         [ $(grep -c 'init: count' {log}) -ge $((a + 3)) ] && echo counted"
    );
    let answer = session.shell(&check)?;
    match answer.contains("counted") && !answer.contains("twice") && !answer.contains("changed") {
        true => Ok(()),
        false => Err(session.failure(&format!("{guest} does not count on: {answer:?}"))),
    }
}

/// A guest with two vCPUs is saved and restored, saved while it goes on, and moved within the
/// machine; a file that ends early is refused and leaves nothing.
pub fn saved(name: &str) -> Result<(), String> {
    let machine = Machine::linux(System::Overcast, "domains", "run=control")?
        .cpus(2)
        .memory(1536)
        .options("dom0_mem=768M dom0_disk=none");
    let mut session = Session::start(&machine, name)?;
    session.wait_for("init: shell")?;
    session.shell("until grep -q runs /tmp/daemon.log; do sleep 0.1; done; ip link set lo up")?;
    says(
        &mut session,
        "overcast create --name g --kernel /guest/vmlinuz --initrd /guest/initrd --memory 128 --vcpus 2 \
         --cmdline 'console=hvc0 run=count'",
        "g is domain",
    )?;
    session.shell("touch /var/log/overcast/g.log")?;
    counts_on(&mut session, "g")?;

    says(&mut session, "overcast save g /tmp/g.save", "g is saved in")?;
    says(&mut session, "overcast list --json | grep -c '\"id\"'", "1")?;
    // A file that ends early is refused, and leaves nothing.
    session.shell("head -c 20000000 /tmp/g.save >/tmp/half.save")?;
    says(
        &mut session,
        "overcast restore /tmp/half.save 2>&1 | cat",
        "the stream ends within",
    )?;
    says(&mut session, "overcast list --json | grep -c '\"id\"'", "1")?;
    says(&mut session, "overcast restore /tmp/g.save", "g is domain")?;
    counts_on(&mut session, "g")?;

    says(
        &mut session,
        // Its pages taken in both ways, which must be the same.
        "overcast save -c --channel both g /tmp/g.save",
        "g is saved in",
    )?;
    counts_on(&mut session, "g")?;

    // Nobody listens: it goes on where it is.
    says(
        &mut session,
        "overcast migrate g 127.0.0.1 --insecure-plain 2>&1 | cat",
        "the other host",
    )?;
    session
        .shell("overcast init; (overcast receive --listen 127.0.0.1 >/tmp/receive.log 2>&1 &)")?;
    session.shell("sleep 2")?;
    says(
        &mut session,
        "overcast migrate g 127.0.0.1 --name h --dry-run",
        "could be moved",
    )?;
    says(
        &mut session,
        "overcast migrate g 127.0.0.1 2>&1 | cat",
        "is called \"g\" already",
    )?;
    counts_on(&mut session, "g")?;
    says(
        &mut session,
        "overcast migrate g 127.0.0.1 --name h --compress lz4 2>/dev/null",
        "g is at 127.0.0.1",
    )?;
    session.shell("touch /var/log/overcast/h.log")?;
    counts_on(&mut session, "h")?;
    says(&mut session, "overcast list --json | grep -c '\"id\"'", "2")?;
    says(&mut session, "overcast migrate-status", "done")?;
    cpus_are_looked_at(&mut session)?;
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}

/// What a guest's programs may have seen counts: no move to where it is not, but by force.
fn cpus_are_looked_at(session: &mut Session) -> Result<(), String> {
    says(session, "overcast cpu dump", "guests see      x86-64-v3")?;
    session.shell("overcast cpu dump --json >/tmp/a.json")?;
    let compare = "overcast cpu compare /tmp/a.json /tmp/a.json && echo fits";
    says(session, compare, "fits")?;
    let baseline = "overcast cpu baseline --json /tmp/a.json /tmp/a.json >/tmp/pool.json; \
                    grep level /tmp/pool.json";
    says(session, baseline, "x86-64-v3")?;
    session.shell(
        "u=$(overcast list --json h | sed -n 's/.*\"uuid\": \"\\(.*\\)\".*/\\1/p'); \
         overcast store write /vm/$u/cpu-seen 'sse2 avx512f'",
    )?;
    let dry = "overcast migrate h 127.0.0.1 --name i --dry-run";
    says(
        session,
        &format!("{dry} 2>&1 | cat"),
        "avx512f: the guest's programs could see it",
    )?;
    says(
        session,
        "overcast migrate h 127.0.0.1 --name i 2>&1 | cat",
        "avx512f: the guest's programs could see it",
    )?;
    says(
        session,
        &format!("{dry} --force-cpu 2>&1 | cat"),
        "could be moved",
    )?;
    counts_on(session, "h")?;
    let create = "overcast create --name c --kernel /guest/vmlinuz --memory 128 --paused --cpu";
    says(
        session,
        &format!("{create} x86-64-v4 2>&1 | cat"),
        "no x86-64-v4 here, for want of",
    )?;
    says(session, &format!("{create} /tmp/pool.json"), "c is domain")?;
    says(session, "overcast destroy c && echo gone", "gone")
}

/// What taking a guest's pages costs, in instructions of a machine with one CPU: a guest is saved
/// into memory in each way to take them.
pub fn bench() -> Result<(), String> {
    let mut machine = Machine::linux(System::Overcast, "domains", "quiet run=control")?
        .memory(1536)
        .options("console=com1 dom0_mem=768M dom0_disk=none");
    machine.icount = true;
    let mut session = Session::start(&machine, "bench-save")?;
    session.patience *= 6;
    session.wait_for("init: shell")?;
    session.shell("until grep -q runs /tmp/daemon.log; do sleep 0.1; done")?;
    says(
        &mut session,
        "overcast create --name g --kernel /guest/vmlinuz --initrd /guest/initrd --memory 128 \
         --cmdline 'console=hvc0 run=count'",
        "g is domain",
    )?;
    session.shell("touch /var/log/overcast/g.log")?;
    counts_on(&mut session, "g")?;
    for channel in ["mapped", "fast", "mapped", "fast"] {
        let answer = session.shell(&format!(
            "overcast save --json -c --channel {channel} g /tmp/g.save | grep -E '_ms|pages'; rm /tmp/g.save"
        ))?;
        let number = |key: &str| -> Option<f64> {
            let rest = answer.split(&format!("\"{key}\": ")).nth(1)?;
            rest.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        };
        let (Some(ms), Some(pages)) = (number("save_ms"), number("pages")) else {
            return Err(session.failure(&format!("the save says {answer:?}")));
        };
        println!(
            "{channel:<8}{:>10.0} instructions a page ({pages} pages, {ms} ms)",
            ms * 1e6 / pages
        );
    }
    session.send_line("poweroff -f")?;
    session.wait_exit()
}
