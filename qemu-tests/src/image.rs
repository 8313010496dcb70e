//! The disk image for clouds.

use crate::guest_log;
use crate::machine::{Firmware, Machine};
use crate::session::Session;

/// The disk image for clouds boots by its GRUB to a login, takes name and password from
/// the disk with metadata, and grows to the size of its disk.
pub fn boots(name: &str, firmware: Firmware) -> Result<(), String> {
    let machine = Machine::cloud_image(firmware, name)?;
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
    session.send_line("systemctl poweroff")?;
    session.wait_exit()?;
    // What firmware and GRUB say before is theirs.
    let text = session.text();
    guest_log::check(text.get(text.find("(XEN) ").unwrap_or(0)..).unwrap_or(text))
}
