//! What the hypervisor finds on the machine, for which no guest is booted, and whether Dom0's
//! data goes through each kind of transport.

use crate::artefacts;
use crate::cases::{Case, case};
use crate::guest_log;
use crate::machine::{Board, Machine, System};
use crate::session::Session;

/// The tests.
pub fn cases() -> Vec<Case> {
    vec![
        case("devices-q35", |n| found(n, Board::Q35)),
        case("devices-pc", |n| found(n, Board::Pc)),
        case("devices-microvm", |n| {
            finds(n, machine(Board::Microvm), &[&["PCI: none"]])
        }),
        case("devices-data", data),
    ]
}

/// Disks, cards and the rest in all the ways in which virtio speaks.
const DEVICES: &[&str] = &[
    "virtio-blk-pci,drive=d0,serial=usual,num-queues=2",
    "virtio-blk-pci,drive=d1,serial=modern,disable-legacy=on,write-cache=off",
    "virtio-blk-pci,drive=d2,serial=legacy,disable-modern=on,logical_block_size=4096,physical_block_size=4096",
    "virtio-blk-pci,drive=d3,serial=polled,vectors=0,num-queues=1,packed=on",
    "virtio-blk-pci,drive=d4,serial=plain,indirect_desc=off,event_idx=off,discard=off,write-zeroes=off,vectors=1",
    "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,romfile=,mq=on,vectors=6,host_mtu=1400",
    "virtio-net-pci,netdev=n1,mac=52:54:00:00:00:02,romfile=,disable-modern=on,mrg_rxbuf=off,ctrl_vq=off",
    "nvme,drive=d6,serial=nonvolatile",
    "virtio-rng-pci",
    "virtio-serial-pci",
    "virtio-balloon-pci",
    "e1000,netdev=n2,romfile=",
];

fn machine(board: Board) -> Machine {
    let mut machine = Machine::empty(System::Overcast).cpus(2).board(board);
    machine.options.push_str(" noreboot");
    machine
}

fn with(machine: &mut Machine, option: &str, value: &str) {
    machine.extra.extend([option.to_owned(), value.to_owned()]);
}

fn found(name: &str, board: Board) -> Result<(), String> {
    let mut machine = machine(board);
    for n in 0..5 {
        let disk = format!("driver=null-co,size=67108864,read-zeroes=on,node-name=d{n}");
        let read_only = if n == 1 { ",read-only=on" } else { "" };
        with(&mut machine, "-blockdev", &(disk + read_only));
    }
    for n in 0..3 {
        with(
            &mut machine,
            "-netdev",
            &format!("hubport,hubid={n},id=n{n}"),
        );
    }
    for device in DEVICES {
        with(&mut machine, "-device", device);
    }
    // A device behind a bridge, on a bus of its own.
    let (bridge, behind) = match board {
        Board::Q35 => (
            "pcie-root-port,id=p1,chassis=1",
            "virtio-blk-pci,drive=d5,serial=behind,bus=p1",
        ),
        _ => (
            "pci-bridge,id=p1,chassis_nr=1",
            "virtio-blk-pci,drive=d5,serial=behind,bus=p1,addr=5",
        ),
    };
    let disk = "driver=null-co,size=1073741824,read-zeroes=on,node-name=d5";
    with(&mut machine, "-blockdev", disk);
    with(&mut machine, "-device", bridge);
    with(&mut machine, "-device", behind);
    let disk = "driver=null-co,size=536870912,read-zeroes=on,node-name=d6";
    with(&mut machine, "-blockdev", disk);
    let access = match board {
        Board::Q35 => "by memory (ECAM)",
        _ => "by ports",
    };
    finds(
        name,
        machine,
        &[
            &["First layer: QEMU (TCG)", "\"TCGTCGTCGTCG\" at 0x40000000"],
            &["PCI: ", " functions, ", access],
            &[
                "64 MiB, 2 queues, blocks of 512, flush",
                "write-zeroes",
                "\"usual\"",
                "virtio 1, MSI-X",
            ],
            &["read-only", "\"modern\"", "virtio 1, MSI-X"],
            &["blocks of 4096", "\"legacy\"", "legacy virtio, MSI-X"],
            &["1 queues", "\"polled\"", "virtio 1, polled"],
            &["blocks of 512, flush, 62 segments", "\"plain\""],
            &["1024 MiB", "\"behind\"", "0000:01:"],
            &["512 MiB, 2 queues", "\"nonvolatile\"", "NVMe 1.4, MSI-X"],
            &[
                "eth",
                "52:54:00:00:00:01, MTU 1400",
                "link up",
                "virtio 1, MSI-X",
            ],
            &[
                "eth",
                "52:54:00:00:00:02, MTU 1500",
                "link up",
                "legacy virtio, MSI-X",
            ],
            &["entropy source 0"],
            &["console 0"],
            &["[1af4:1002] class 00ff00", "no driver"],
            &["[8086:100e] class 020000 (Ethernet): no driver"],
            &["(host bridge): no driver"],
        ],
    )
}

/// Each list of words is in one line of what the hypervisor says.
fn finds(name: &str, machine: Machine, lines: &[&[&str]]) -> Result<(), String> {
    let mut session = Session::start(&machine, name)?;
    session.fatal_signs = false;
    session.wait_for("Manual reset required")?;
    let text = session.text();
    if text.contains("panicked at") {
        return Err(session.failure("a device is no reason to panic"));
    }
    for words in lines {
        let said = text
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)));
        if !said {
            return Err(session.failure(&format!("not a line with {words:?}")));
        }
    }
    Ok(())
}

/// What Dom0 writes to disks is read back, whichever way the hypervisor talks to them: with a
/// message for each queue, by registers of before version 1, by polling, with one message
/// for all and without any of the rings' conveniences.
fn data(name: &str) -> Result<(), String> {
    const WAYS: [&str; 4] = [
        "num-queues=2",
        "disable-modern=on,logical_block_size=4096,physical_block_size=4096",
        "vectors=0",
        "indirect_desc=off,event_idx=off,vectors=1",
    ];
    let mut machine = Machine::linux(System::Overcast, "disk", "break")?.cpus(2);
    for (n, way) in WAYS.into_iter().enumerate() {
        let disk = artefacts::made(&format!("disk-{n}"), &vec![0; 16 << 20])?;
        let disk = format!("if=none,id=d{n},format=raw,file={}", disk.display());
        with(&mut machine, "-drive", &disk);
        let device = format!("virtio-blk-pci,drive=d{n},{way}");
        with(&mut machine, "-device", &device);
    }
    let mut session = Session::start(&machine, name)?;
    session.wait_for("/ # ")?;
    session.shell("dd if=/dev/urandom of=/tmp/data bs=1M count=12 2>/dev/null")?;
    let sum = session.shell("md5sum </tmp/data")?;
    // All at the same time, in small and in large pieces.
    session.shell(
        "for d in a b c d; do (dd if=/tmp/data of=/dev/xvd$d bs=4k count=1024 conv=fsync; \
         dd if=/tmp/data of=/dev/xvd$d bs=1M skip=4 seek=4 conv=fsync) 2>/dev/null & done; wait; \
         echo 3 >/proc/sys/vm/drop_caches",
    )?;
    let sums = session.shell(
        "for d in a b c d; do (dd if=/dev/xvd$d bs=256k count=48 2>/dev/null | md5sum) & done; wait",
    )?;
    if sums.lines().count() != WAYS.len() || sums.lines().any(|line| line != sum) {
        return Err(session.failure(&format!("{sum} was written, and read back {sums}")));
    }
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}
