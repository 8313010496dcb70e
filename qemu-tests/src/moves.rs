//! Domains that are saved, restored and moved by the `overcast` command.

use crate::artefacts;
use crate::disks;
use crate::domains;
use crate::guest_log;
use crate::machine::{Machine, System};
use crate::session::{Session, says};
use std::path::Path;
use std::process::Command;

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
    let mut session = domains::start(&domains::machine()?.memory(1536), name)?;
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
    broken_files_are_refused(&mut session)?;
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

/// A machine whose disk is a file, for what goes from one machine to another; its CPU is one on
/// which guests of real Xen run soundly in QEMU.
fn with_disk(system: System, initramfs: &str, words: &str, disk: &Path) -> Result<Machine, String> {
    let mut machine = Machine::linux(system, initramfs, words)?
        .cpu("qemu64,+svm,+npt")
        .memory(2560)
        .options("dom0_mem=1200M,max:1200M");
    machine.extra.extend([
        "-drive".to_owned(),
        format!("file={},format=raw,if=virtio", disk.display()),
    ]);
    Ok(machine)
}

/// The size of the disk that carries a saved guest, MiB. How many bytes the guest has is in its
/// last 512.
const CARRIER: u64 = 256;
const LAST_SECTOR: u64 = (CARRIER << 11) - 1;

/// Writes a file to the disk. In lines that are short: real Xen's console loses some of what is
/// typed fast.
fn to_disk(session: &mut Session, file: &str, disk: &str) -> Result<(), String> {
    session.shell(&format!("dd if={file} of={disk} bs=1M conv=fsync"))?;
    session.shell(&format!("wc -c <{file} >/tmp/size"))?;
    session.shell(&format!(
        "dd if=/tmp/size of={disk} seek={LAST_SECTOR} bs=512 conv=fsync"
    ))?;
    Ok(())
}

/// A guest that real Xen saved by its own tools counts on here, restored by `overcast` and by
/// `xl`; and what is saved here is sound by the verifier of Xen's tools.
pub fn from_xen(name: &str) -> Result<(), String> {
    let disk = disks::empty("saved.img", CARRIER)?;
    let mut session = Session::start(&with_disk(System::Xen, "xl", "quiet", &disk)?, name)?;
    session.wait_for("xl: ready")?;
    session.wait_for("# ")?;
    session.shell("guest g 2 96 count; xl create /run/g.cfg >/dev/null")?;
    session.shell("said g 'count 3'")?;
    session.shell("xl save g /run/g.save >/dev/null")?;
    session.shell("modprobe virtio_pci; modprobe virtio_blk")?;
    to_disk(&mut session, "/run/g.save", "/dev/vda")?;
    session.send_line("poweroff -f")?;
    session.wait_exit()?;

    let from_disk = |file: &str| {
        format!(
            "modprobe xen-blkfront; until [ -b /dev/xvda ]; do sleep 0.1; done; d=/dev/xvda; \
             s=$(dd if=$d skip={LAST_SECTOR} bs=512 count=1 | head -n 1 | tr -dc 0-9); head -c $s $d >{file}"
        )
    };
    let machine = with_disk(System::Overcast, "domains", "run=control", &disk)?;
    let mut session = Session::start(&machine, &format!("{name}-overcast"))?;
    session.wait_for("init: shell")?;
    session.shell("until grep -q runs /tmp/daemon.log; do sleep 0.1; done")?;
    session.shell(&from_disk("/tmp/g.save"))?;
    says(&mut session, "overcast restore /tmp/g.save", "g is domain")?;
    session.shell("touch /var/log/overcast/g.log")?;
    counts_on(&mut session, "g")?;
    says(
        &mut session,
        "overcast save g /tmp/ours.save",
        "is saved in",
    )?;
    to_disk(&mut session, "/tmp/ours.save", "/dev/xvda")?;
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())?;
    verify(&disk)?;

    let machine = with_disk(System::Overcast, "xl", "quiet", &disk)?;
    let mut session = Session::start(&machine, &format!("{name}-xl"))?;
    session.wait_for("xl: ready")?;
    session.wait_for("# ")?;
    session.shell(&from_disk("/run/g.save"))?;
    session.shell("xl restore /run/g.save >/dev/null; said g 'count 1'")?;
    session.shell("! grep -q 'memory changed' /var/log/xen/console/guest-g.log")?;
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}

/// Xen's own verifier, of its Python tools, finds nothing wrong with what is at the disk's
/// beginning.
fn verify(disk: &Path) -> Result<(), String> {
    let tools = artefacts::root().join("build/cache/xen-utils-4.17/usr/lib/xen-4.17");
    let output = Command::new("python3")
        .arg(tools.join("bin/verify-stream-v2"))
        .args(["-f", "xl", "-i"])
        .arg(disk)
        .env("PYTHONPATH", tools.join("lib/python"))
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "verify-stream-v2: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => Err(format!("python3: {error}")),
    }
}

/// A file that ends early, or of which bytes have changed, is refused with what is wrong, and
/// leaves nothing.
fn broken_files_are_refused(session: &mut Session) -> Result<(), String> {
    let free = "overcast info --json | grep free_memory_kib";
    session.shell(&format!("{free} >/tmp/free; s=$(wc -c </tmp/g.save)"))?;
    // Bytes that are kept; where eight are overwritten.
    for (keep, spoil, wanted) in [
        ("10", None, "xl's header"),
        ("1000", None, "the stream ends within"),
        ("20000000", None, "the stream ends within PAGE_DATA"),
        ("$((s - 16))", None, "the stream ends within"),
        ("$s", Some("0"), "xl's header"),
        ("$s", Some("$((s - 16))"), "unknown record"),
    ] {
        let spoil = spoil.map_or(String::new(), |at| {
            format!(
                "printf 'Overcast' | dd of=/tmp/bad.save bs=1 seek={at} conv=notrunc 2>/dev/null; "
            )
        });
        session.shell(&format!(
            "head -c {keep} /tmp/g.save >/tmp/bad.save; {spoil}true"
        ))?;
        says(session, "overcast restore /tmp/bad.save 2>&1 | cat", wanted)?;
        says(session, "overcast list --json | grep -c '\"id\"'", "1")?;
        says(
            session,
            &format!("{free} | cmp - /tmp/free && echo same"),
            "same",
        )?;
    }
    session.shell("rm /tmp/bad.save").map(|_| ())
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
