//! Machines within machines: real KVM as the first layer, emulated by QEMU's TCG.
//!
//! The outer machine runs Linux with KVM from `initramfs-nested`; the payload (the
//! image, a guest's kernel and its RAM disk, and the command) is appended to that as
//! a second archive.

use crate::artefacts;
use crate::guest_log;
use crate::levels::{self, Shown, View};
use crate::machine::{Machine, System};
use crate::session::{Session, says};
use std::path::{Path, PathBuf};

/// Adds a file to an archive of cpio's "newc" format.
fn add_file(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let pad = |archive: &mut Vec<u8>| archive.resize(archive.len().next_multiple_of(4), 0);
    let fields = [
        0,
        mode,
        0,
        0,
        1,
        0,
        content.len() as u32,
        0,
        0,
        0,
        0,
        name.len() as u32 + 1,
        0,
    ];
    archive.extend(b"070701");
    for field in fields {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(name.bytes());
    archive.push(0);
    pad(archive);
    archive.extend(content);
    pad(archive);
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// The outer machine's RAM disk.
fn ram_disk(name: &str, inner: &Inner<'_>) -> Result<PathBuf, String> {
    const FILE: u32 = 0o100_644;
    let mut archive = read(&artefacts::initramfs("nested")?)?;
    archive.resize(archive.len().next_multiple_of(4), 0);
    let Inner {
        cpu,
        cpus,
        initramfs,
        run,
    } = inner;
    let command = format!(
        "exec qemu-system-x86_64 -L /share -accel kvm -cpu {cpu} -smp {cpus} -m 1024 -display none \
         -serial stdio -monitor none -vga none -nic none -no-reboot -kernel /payload/overcast \
         -append 'console=com1 loglvl=all guest_loglvl=all dom0_mem=512M' \
         -initrd '/payload/vmlinuz console=hvc0 panic=-1 {},/payload/initrd'\n",
        run.replace(',', ",,")
    );
    add_file(&mut archive, "payload", 0o040_755, &[]);
    add_file(&mut archive, "payload/command", FILE, command.as_bytes());
    for (file, path) in [
        ("payload/overcast", artefacts::overcast()?),
        ("payload/vmlinuz", artefacts::kernel()?),
        ("payload/initrd", artefacts::initramfs(initramfs)?),
    ] {
        add_file(&mut archive, file, FILE, &read(&path)?);
    }
    add_file(&mut archive, "TRAILER!!!", 0, &[]);
    artefacts::made(&format!("{name}.cpio"), &archive)
}

/// The inner machine.
struct Inner<'a> {
    cpu: &'a str,
    cpus: u32,
    /// Dom0's.
    initramfs: &'a str,
    /// What Dom0's kernel is told beside.
    run: &'a str,
}

/// Starts the outer machine, which starts the inner one.
fn start(name: &str, inner: &Inner<'_>) -> Result<Session, String> {
    let mut machine = Machine::empty(System::Bare).cpus(2).memory(3072);
    // Without XSAVE, with which this emulated SVM loses user space's registers: init dies
    // of SIGSEGV. The rest so that KVM has less to save at an exit.
    machine.cpu = "max,-la57,-smap,-smep,-xsave,-avx,-pku".to_owned();
    let arguments = "console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable";
    machine.modules = vec![
        (artefacts::kernel()?, arguments.to_owned()),
        (ram_disk(name, inner)?, String::new()),
    ];
    let mut session = Session::start(&machine, name)?;
    session.patience *= 6;
    session.wait_for("nested: starting")?;
    Ok(session)
}

/// Waits for the end, and looks at what was said. `expected`: what the hypervisor is to have
/// said on its way.
fn end(session: &mut Session, expected: &[&str]) -> Result<(), String> {
    session.wait_for_any(&["nested: ended", "Hardware Dom0"])?;
    // Two layers of emulation on a busy host: the guest's clocks run far ahead of its work.
    let known = ["stall", "soft lockup", "Call Trace:"];
    let slow = |line: &&str| !known.iter().any(|sign| line.contains(sign));
    let log: Vec<&str> = session.text().lines().filter(slow).collect();
    guest_log::check(&log.join("\n"))?;
    for text in expected {
        if !session.text().contains(text) {
            return Err(session.failure(&format!("the hypervisor did not say {text:?}")));
        }
    }
    Ok(())
}

/// Boots Debian's kernel as Dom0 on KVM. `expected`: what the hypervisor is to say
/// on its way.
///
/// # Errors
///
/// The first thing that went wrong, with the last that the machine said.
pub fn kvm(name: &str, cpu: &str, cpus: u32, expected: &[&str]) -> Result<(), String> {
    let inner = Inner {
        cpu,
        cpus,
        initramfs: "shell",
        run: "quiet run=facts,work,time,dmesg,poweroff",
    };
    let mut session = start(name, &inner)?;
    session.wait_for("init: cpus online ")?;
    let online = session.rest_of_line()?;
    if !online.ends_with(&format!(", {cpus} in all")) {
        return Err(session.failure(&format!("CPUs online: {online}")));
    }
    session.wait_for("init: work done")?;
    session.wait_for("init: dmesg checked")?;
    end(&mut session, expected)
}

/// On KVM, which has CPUID faulting, programs in a guest at the level v2 see its policy, and the
/// agent says so.
///
/// # Errors
///
/// As of [`kvm`].
pub fn levels(name: &str) -> Result<(), String> {
    let inner = Inner {
        cpu: "host",
        cpus: 1,
        initramfs: "levels",
        run: "quiet run=control",
    };
    let mut session = start(name, &inner)?;
    let host = &mut session;
    host.wait_for("init: shell")?;
    host.shell("stty -echo; dmesg -n 1; until grep -q runs /tmp/daemon.log; do sleep 0.1; done")?;
    levels::make(host, "g", "v2", "cpu,seen", "")?;
    let shown = Shown::of(host, "g")?;
    if !shown.faults {
        return Err(host.failure("CPUID does not fault"));
    }
    let unannounced = "overcast cpu show g | sed -n '/unannounced/,$p'";
    says(host, unannounced, "hidden, but would work unannounced (")?;
    says(host, unannounced, "visible to programs (0)")?;
    says(
        host,
        "overcast check | cat",
        "CPUID faults: programs see the same",
    )?;
    let view = View::of(host, "g")?;
    levels::compare(&view, &shown)?;
    host.send_line("poweroff -f")?;
    end(host, &["CPUID faults in user space"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_aligned() {
        let mut archive = Vec::new();
        add_file(&mut archive, "a/b", 0o100_644, b"12345");
        assert!(archive.starts_with(b"07070100000000000081a4"));
        assert_eq!(archive.len(), 116 + 8);
        assert_eq!(archive.get(110..114), Some(&b"a/b\0"[..]));
    }
}
