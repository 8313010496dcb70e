//! The disk image for clouds.

use crate::artefacts;
use crate::guest_log;
use crate::machine::{Firmware, Machine};
use crate::metadata;
use crate::session::Session;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The disk image for clouds boots by its GRUB to a login, takes name, password and ssh key
/// from its cloud, is on the network, where the key lets one in, and grows to the size of its
/// disk. The cloud is a disk with metadata (NoCloud) with BIOS, and EC2's service with UEFI.
pub fn boots(name: &str, firmware: Firmware) -> Result<(), String> {
    let mut machine = Machine::cloud_image(firmware, name)?;
    let (private, public) = key(name)?;
    // A port that is free now leads to the machine's ssh server.
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|e| e.to_string())?
        .port();
    let network = match firmware {
        Firmware::Bios => {
            machine.extra.extend([
                "-drive".to_owned(),
                format!(
                    "file={},format=raw,if=virtio,snapshot=on",
                    seed(name, &public)?.display()
                ),
            ]);
            String::new()
        }
        Firmware::Uefi => {
            let key = std::fs::read_to_string(&public).map_err(|e| e.to_string())?;
            let service = metadata::serve(&key)?;
            // A network that the service's address is on, and that counts as routable.
            format!(
                ",net=169.0.0.0/8,guestfwd=tcp:169.254.169.254:80-cmd:busybox nc 127.0.0.1 {service}"
            )
        }
    };
    machine.extra.extend([
        "-netdev".to_owned(),
        format!("user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:22{network}"),
        "-device".to_owned(),
        "virtio-net-pci,netdev=n0,romfile=".to_owned(),
    ]);
    let mut session = Session::start(&machine, name)?;
    // A whole systemd starts.
    session.patience *= 4;
    session.wait_for("(Multiboot 2), loader: GRUB")?;
    session.wait_for("login: ")?;
    // Until it is done, which may be before or after, the password is not set.
    if !session.text().contains("first boot: done") {
        session.wait_for("first boot: done")?;
    }
    session.send_line("root")?;
    session.wait_for("Password: ")?;
    session.send_line("secret")?;
    session.wait_for("# ")?;
    session.shell("stty cols 500; dmesg -n 1")?;
    // The login comes before all else is up: the ssh server waits for its keys. What this says of
    // the end is asked below.
    session.shell("systemctl is-system-running --wait >/dev/null || true")?;
    for (command, expected) in [
        ("hostname", "seeded"),
        ("cat /sys/hypervisor/type", "xen"),
        ("findmnt -n -o SOURCE /", "/dev/xvda3"),
        // 3 GiB less the other partitions; the image was made for 2.
        (
            "[ $(df --output=size -k / | tail -1) -gt 2800000 ] && echo grown",
            "grown",
        ),
        ("systemctl is-active ssh", "active"),
        ("systemctl --failed --quiet --no-legend --plain | cat", ""),
    ] {
        let answer = session.shell(command)?;
        if answer != expected {
            return Err(session.failure(&format!("`{command}` gave {answer:?}")));
        }
    }
    let answer = ssh(&private, port, "hostname; cat /sys/hypervisor/type; whoami")
        .map_err(|why| session.failure(&why))?;
    if answer.split_whitespace().collect::<Vec<_>>() != ["seeded", "xen", "root"] {
        return Err(session.failure(&format!("by ssh it answered {answer:?}")));
    }
    session.send_line("systemctl poweroff")?;
    session.wait_exit()?;
    // What firmware and GRUB say before is theirs.
    let text = session.text();
    guest_log::check(text.get(text.find("(XEN) ").unwrap_or(0)..).unwrap_or(text))
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(format!("{command:?}: {}: {errors}", output.status))
    }
}

/// A key to log in with: the private half and the public one.
fn key(name: &str) -> Result<(PathBuf, PathBuf), String> {
    let private = artefacts::made(&format!("{name}-key"), &[])?;
    let public = private.with_extension("pub");
    for old in [&private, &public] {
        let _ = std::fs::remove_file(old);
    }
    run(Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(&private))?;
    Ok((private, public))
}

/// A disk with metadata: host name `seeded`, root's password `secret`, and a key.
fn seed(name: &str, public: &Path) -> Result<PathBuf, String> {
    let seed = artefacts::made(&format!("{name}-seed.img"), &[])?;
    run(Command::new(artefacts::script("seed.sh")?)
        .arg(&seed)
        .args(["seeded", "secret"])
        .arg(public))?;
    Ok(seed)
}

/// What a command says on the machine behind a port of this one.
fn ssh(private: &Path, port: u16, command: &str) -> Result<String, String> {
    run(Command::new("ssh")
        .args(["-F", "none", "-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"])
        .args(["-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=300"])
        .args(["-o", "ConnectionAttempts=3", "-p", &port.to_string(), "-i"])
        .arg(private)
        .args(["root@127.0.0.1", command]))
}
