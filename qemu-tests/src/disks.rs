//! Dom0's disks: its root on one, what disks can do and how they fail.

use crate::artefacts;
use crate::guest_log;
use crate::machine::{Machine, System};
use crate::session::Session;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// An empty disk of so many MiB for a test.
pub(crate) fn empty(name: &str, mebibytes: u64) -> Result<PathBuf, String> {
    let path = artefacts::made(name, &[])?;
    std::fs::File::create(&path)
        .and_then(|file| file.set_len(mebibytes << 20))
        .map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

/// Dom0's root is on `/dev/xvda`: it is written and read with checksums at a depth of 32 and
/// with flushes, under the load of a stress test too, and the file system is sound afterwards.
pub fn root(name: &str, cpus: u32) -> Result<(), String> {
    let machine = Machine::debian_disk(System::Overcast, "fsck")?.cpus(cpus);
    let mut session = Session::start(&machine, name)?;
    session.wait_for("init: fsck of /dev/xvda: status 0")?;
    session.wait_for("init: root is /dev/xvda")?;
    session.wait_for("quick: shell")?;
    // Depth and sizes such that indirect requests, merged segments and flushes are among it.
    session.shell(
        "fio --name=v --directory=/root --rw=randrw --bsrange=4k-256k --iodepth=32 \
         --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --size=12M \
         --numjobs=2 --fsync=32 --minimal >/tmp/fio || { cat /tmp/fio; false; }",
    )?;
    session.shell("stress-ng --hdd 2 --hdd-bytes 16M --hdd-ops 2000 --temp-path /root -q")?;
    session.shell("cp -a /usr/bin /root/copy && sync && echo 3 >/proc/sys/vm/drop_caches")?;
    session.shell("diff -r --no-dereference /usr/bin /root/copy")?;
    session.shell("rm -r /root/copy && mount -o remount,ro /")?;
    session.shell("e2fsck -fn /dev/xvda >/dev/null 2>&1")?;
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}

/// Dom0's root is on an NVMe disk, another one has blocks of 4096 bytes, and one fails.
pub fn nvme(name: &str) -> Result<(), String> {
    let large_blocks = empty("nvme-4096.img", 64)?;
    let mut machine = Machine::linux(
        System::Overcast,
        "disk",
        "net.ifnames=0 init=/sbin/quick fsck",
    )?
    .cpus(2);
    let root = artefacts::root_disk()?;
    let failing = empty("nvme-failing.img", 32)?;
    let faults = artefacts::made("nvme-blkdebug.conf", FAULTS.as_bytes())?;
    machine.extra.extend(
        [
            "-drive",
            &format!(
                "if=none,id=n0,format=raw,snapshot=on,file={}",
                root.display()
            ),
            "-device",
            "nvme,drive=n0,serial=root",
            "-drive",
            &format!("if=none,id=n1,format=raw,file={}", large_blocks.display()),
            "-device",
            "nvme,id=other,serial=other,max_ioqpairs=1,mdts=5",
            "-device",
            "nvme-ns,bus=other,drive=n1,logical_block_size=4096,physical_block_size=4096",
            "-drive",
            &format!(
                "if=none,id=n2,driver=blkdebug,config={},image.driver=file,image.filename={}",
                faults.display(),
                failing.display()
            ),
            "-device",
            "nvme,drive=n2,serial=failing",
        ]
        .map(str::to_owned),
    );
    let mut session = Session::start(&machine, name)?;
    session.wait_for("init: fsck of /dev/xvda: status 0")?;
    session.wait_for("quick: shell")?;
    answers(&mut session, "blockdev --getss /dev/xvdb", "4096")?;
    session.shell("mkfs.ext4 -q /dev/xvdb && mkdir /tmp/m && mount /dev/xvdb /tmp/m")?;
    for directory in ["/root", "/tmp/m"] {
        session.shell(&format!(
            "fio --name=v --directory={directory} --rw=randrw --bsrange=4k-256k --iodepth=32 \
             --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --size=8M \
             --numjobs=2 --fsync=32 --minimal >/tmp/fio || {{ cat /tmp/fio; false; }}"
        ))?;
    }
    session.shell("cp -a /usr/sbin /tmp/m && sync && echo 3 >/proc/sys/vm/drop_caches")?;
    session.shell("diff -r --no-dereference /usr/sbin /tmp/m/sbin && umount /tmp/m")?;
    session.shell("e2fsck -fn /dev/xvdb >/dev/null 2>&1 && blkdiscard -f /dev/xvdb")?;
    session.shell("mount -o remount,ro / && e2fsck -fn /dev/xvda >/dev/null 2>&1")?;
    fails_where_it_should(&mut session, "vdc")?;
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}

/// As [`root`], for long: everything that is asked of a disk, one after the other and at once, with
/// checksums of all that is read, on blocks of 512 bytes and of 4096.
pub fn soak(name: &str, cpus: u32) -> Result<(), String> {
    let large_blocks = empty("soak-4096.img", 1024)?;
    let mut machine = Machine::debian_disk(System::Overcast, "fsck")?
        .cpus(cpus)
        .memory(2048)
        .options("dom0_disk=xvda:vdb dom0_disk=xvdb:vda");
    machine.extra.extend([
        "-drive".to_owned(),
        format!("if=none,id=d1,file={},format=raw", large_blocks.display()),
        "-device".to_owned(),
        "virtio-blk-pci,drive=d1,num-queues=2,logical_block_size=4096,physical_block_size=4096"
            .to_owned(),
    ]);
    let mut session = Session::start(&machine, name)?;
    session.patience *= 24;
    session.wait_for("init: fsck of /dev/xvda: status 0")?;
    session.wait_for("quick: shell")?;
    session
        .shell("mkfs.ext4 -q /dev/xvdb && mkdir -p /tmp/m /root/soak && mount /dev/xvdb /tmp/m")?;
    for directory in ["/root/soak", "/tmp/m"] {
        for (how, size) in [
            ("--rw=randrw --bs=4k --iodepth=32 --direct=1", "64M"),
            (
                "--rw=randrw --bsrange=4k-1m --iodepth=32 --direct=1 --fsync=64",
                "96M",
            ),
            (
                "--rw=randwrite --bsrange=512-64k --blocksize_unaligned=1",
                "48M",
            ),
            ("--rw=rw --bs=1m --iodepth=8 --direct=1", "96M"),
        ] {
            // Blocks of 512 bytes go through the page cache, where all sizes do.
            session.shell(&format!(
                "fio --name=v --directory={directory} {how} --ioengine=libaio --size={size} --numjobs=3 --loops=2 \
                 --verify=crc32c --verify_fatal=1 --minimal >/tmp/fio || {{ cat /tmp/fio; false; }}; rm {directory}/v.*"
            ))?;
        }
        session.shell(&format!(
            "stress-ng --hdd 4 --hdd-bytes 64M --hdd-ops 40000 --verify --temp-path {directory} -q"
        ))?;
        session.shell(&format!(
            "cp -a /usr/lib /usr/bin {directory} && sync && echo 3 >/proc/sys/vm/drop_caches && \
             diff -r --no-dereference /usr/lib {directory}/lib && diff -r --no-dereference /usr/bin {directory}/bin"
        ))?;
    }
    session.shell("umount /tmp/m && e2fsck -fn /dev/xvdb >/dev/null 2>&1")?;
    session.shell(
        "rm -r /root/soak && mount -o remount,ro / && e2fsck -fn /dev/xvda >/dev/null 2>&1",
    )?;
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}

/// Errors that blkdebug makes of reads of one sector and of writes of another.
const FAULTS: &str = r#"[inject-error]
event = "none"
iotype = "read"
errno = "5"
sector = "8192"
once = "off"
[inject-error]
event = "none"
iotype = "write"
errno = "5"
sector = "16384"
once = "off"
[inject-error]
event = "none"
iotype = "read"
errno = "5"
sector = "24576"
once = "on"
"#;

/// A disk of 32 MiB with [`FAULTS`], which is Dom0's `/dev/xvdc`, fails in these places and nowhere
/// else, and the log says so.
fn fails_where_it_should(session: &mut Session, disk: &str) -> Result<(), String> {
    // What the kernel says of errors would be among the answers.
    session.shell("dmesg -n 1")?;
    let dd = |what: &str| {
        format!("dd {what} bs=4k count=1 2>&1 | grep -o 'Input/output error\\|1+0 records out'")
    };
    let read = |at: u32| dd(&format!("if=/dev/xvdc of=/dev/null iflag=direct skip={at}"));
    let write = |at: u32| dd(&format!("if=/dev/zero of=/dev/xvdc oflag=direct seek={at}"));
    let (good, bad) = ("1+0 records out", "Input/output error");
    answers(session, &read(1024), bad)?;
    answers(session, &read(1025), good)?;
    answers(session, &write(2048), bad)?;
    answers(session, &write(2049), good)?;
    answers(session, &read(2048), good)?;
    // A read that fails once: then all is well again.
    answers(session, &read(3072), bad)?;
    answers(session, &read(3072), good)?;
    session.shell("dd if=/dev/urandom of=/tmp/data bs=4k count=9 2>/dev/null")?;
    session.shell("dd if=/tmp/data of=/dev/xvdc bs=4k seek=4000 conv=fsync 2>/dev/null")?;
    session.shell("echo 3 >/proc/sys/vm/drop_caches")?;
    session.shell("dd if=/dev/xvdc bs=4k skip=4000 count=9 2>/dev/null | cmp - /tmp/data")?;
    if !session
        .text()
        .contains(&format!("{disk}: the disk failed a read of vbd/0/51744"))
    {
        return Err(session.failure("the log does not say that a disk failed"));
    }
    Ok(())
}

/// One machine with a disk of 4096-byte blocks, one that fails, one that grows, a
/// range of one and one that is not there.
pub fn kinds(name: &str) -> Result<(), String> {
    let large_blocks = empty("blocks-4096.img", 64)?;
    let failing = empty("failing.img", 32)?;
    let growing = empty("growing.img", 32)?;
    let faults = artefacts::made("blkdebug.conf", FAULTS.as_bytes())?;
    let monitor = faults.with_extension("qmp");
    let mut machine = Machine::debian_disk(System::Overcast, "")?
        .cpus(2)
        // QEMU puts the root, a drive without a device of its own, behind the others.
        .options("vdisk=part:vda,start=1M,size=4M,ro dom0_disk=xvda:vdd dom0_disk=xvdb:vda")
        .options("dom0_disk=xvdc:vdb dom0_disk=xvdd:vdc dom0_disk=xvde:part")
        .options("dom0_disk=xvdf:vdq dom0_disk=xvdg:vdd,start=4G");
    let drive = |n: u32, more: &str, path: &Path| {
        [
            "-drive".to_owned(),
            format!("if=none,id=d{n}{more}={}", path.display()),
        ]
    };
    machine
        .extra
        .extend(drive(1, ",format=raw,file", &large_blocks));
    machine.extra.extend(drive(
        2,
        &format!(
            ",driver=blkdebug,config={},rerror=report,werror=report,image.driver=file,image.filename",
            faults.display()
        ),
        &failing,
    ));
    machine.extra.extend(drive(3, ",format=raw,file", &growing));
    let sizes = "logical_block_size=4096,physical_block_size=4096";
    for (n, more) in [(1, sizes), (2, "disable-legacy=on"), (3, "num-queues=1")] {
        machine.extra.extend([
            "-device".to_owned(),
            format!("virtio-blk-pci,drive=d{n},{more}"),
        ]);
    }
    let socket = format!("{},server=on,wait=off", monitor.display());
    machine
        .extra
        .extend(["-qmp".to_owned(), format!("unix:{socket}")]);
    let _ = std::fs::remove_file(&monitor);
    let mut session = Session::start(&machine, name)?;
    session.wait_for("Dom0's disk xvdf (vdq): there is no disk vdq")?;
    session.wait_for("Dom0's disk xvdg (vdd,start=4294967296B): the range is not on the disk")?;
    session.wait_for("quick: shell")?;
    // What the kernel says of errors would be among the answers.
    session.shell("dmesg -n 1")?;
    answers(
        &mut session,
        "ls /dev/xvd* | tr '\\n' ' '",
        "/dev/xvda /dev/xvdb /dev/xvdc /dev/xvdd /dev/xvde",
    )?;

    answers(&mut session, "blockdev --getss /dev/xvdb", "4096")?;
    session.shell("mkfs.ext4 -q /dev/xvdb && mkdir /tmp/m && mount /dev/xvdb /tmp/m")?;
    session.shell("cp -a /usr/sbin /tmp/m && sync && echo 3 >/proc/sys/vm/drop_caches")?;
    session.shell("diff -r --no-dereference /usr/sbin /tmp/m/sbin && umount /tmp/m")?;
    session.shell("e2fsck -fn /dev/xvdb >/dev/null 2>&1")?;

    // The range is where it should be, and cannot be written.
    answers(
        &mut session,
        "blockdev --getsize64 --getro /dev/xvde | tr '\\n' ' '",
        "4194304 1",
    )?;
    session.shell("cmp -n 4194304 /dev/xvde /dev/xvdb 0 1M")?;

    fails_where_it_should(&mut session, "vdb")?;

    answers(&mut session, "blockdev --getsize64 /dev/xvdd", "33554432")?;
    resize(&monitor, "d3", 48 << 20)?;
    session.shell(
        "for n in $(seq 100); do [ $(blockdev --getsize64 /dev/xvdd) = 50331648 ] && break; sleep 0.1; done",
    )?;
    answers(&mut session, "blockdev --getsize64 /dev/xvdd", "50331648")?;
    session.shell("dd if=/dev/urandom of=/dev/xvdd bs=1M seek=40 count=8 oflag=direct 2>&1")?;
    session.shell("blkdiscard /dev/xvdd")?;
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}

fn answers(session: &mut Session, command: &str, expected: &str) -> Result<(), String> {
    let answer = session.shell(command)?;
    // The hypervisor may say that a disk failed.
    let said = |line: &&str| !line.starts_with("(XEN) ");
    let lines: Vec<_> = answer.lines().filter(said).collect();
    if lines.join("\n").trim() == expected {
        Ok(())
    } else {
        Err(session.failure(&format!("`{command}` gave {answer:?}, not {expected:?}")))
    }
}

/// Has QEMU change the size of a disk.
fn resize(monitor: &Path, device: &str, size: u64) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("QEMU's monitor: {e}");
    let mut stream = UnixStream::connect(monitor).map_err(fail)?;
    let mut answers = BufReader::new(stream.try_clone().map_err(fail)?);
    let mut line = String::new();
    answers.read_line(&mut line).map_err(fail)?;
    for command in [
        "{\"execute\":\"qmp_capabilities\"}".to_owned(),
        format!(
            "{{\"execute\":\"block_resize\",\"arguments\":{{\"device\":\"{device}\",\"size\":{size}}}}}"
        ),
    ] {
        writeln!(stream, "{command}").map_err(fail)?;
        loop {
            line.clear();
            answers.read_line(&mut line).map_err(fail)?;
            if line.contains("\"error\"") || line.is_empty() {
                return Err(format!("QEMU's monitor: {line}"));
            }
            if line.contains("\"return\"") {
                break;
            }
        }
    }
    Ok(())
}

/// QEMU is killed while Dom0 writes to disks with blocks of 4096 bytes and of 512: what it had synced
/// is there afterwards, and the journals recover.
pub fn killed(name: &str) -> Result<(), String> {
    let disks = [
        (empty("killed-4096.img", 64)?, 4096),
        (empty("killed-512.img", 64)?, 512),
    ];
    let machine = || -> Result<Machine, String> {
        // QEMU puts the root, a drive without a device of its own, behind the others.
        let mut machine = Machine::debian_disk(System::Overcast, "")?
            .cpus(2)
            .options("dom0_disk=xvda:vdc dom0_disk=xvdb:vda dom0_disk=xvdc:vdb");
        for (n, (disk, block)) in disks.iter().enumerate() {
            machine.extra.extend([
                "-drive".to_owned(),
                format!("if=none,id=d{n},file={},format=raw", disk.display()),
                "-device".to_owned(),
                format!(
                    "virtio-blk-pci,drive=d{n},logical_block_size={block},physical_block_size={block}"
                ),
            ]);
        }
        Ok(machine)
    };
    let mut session = Session::start(&machine()?, name)?;
    session.wait_for("quick: shell")?;
    answers(&mut session, "blockdev --getss /dev/xvdb", "4096")?;
    answers(&mut session, "blockdev --getss /dev/xvdc", "512")?;
    session.shell(
        "for d in b c; do mkfs.ext4 -q /dev/xvd$d && mkdir /tmp/$d && mount /dev/xvd$d /tmp/$d; done",
    )?;
    session.send_line(
        "for d in b c; do (i=0; while i=$((i + 1)); do f=/tmp/$d/$((i % 40)); head -c 200000 /dev/urandom >$f; \
         sha256sum $f >$f.sum; sync -f $f; echo $i >/tmp/$d/count; sync -f $f; echo \"synced\" $d $i.; done) & done",
    )?;
    session.wait_for("synced c 20.")?;
    if !session.text().contains("synced b 20.") {
        session.wait_for("synced b 20.")?;
    }
    drop(session);

    let mut session = Session::start(&machine()?, &format!("{name}-again"))?;
    session.wait_for("quick: shell")?;
    for disk in ["b", "c"] {
        let m = format!("/tmp/{disk}");
        session.shell(&format!("mkdir {m} && mount /dev/xvd{disk} {m}"))?;
        session.shell(&format!("dmesg | grep 'xvd{disk}): recovery complete'"))?;
        session.shell(&format!("[ $(cat {m}/count) -ge 20 ]"))?;
        // All but the one that was being written.
        session.shell(&format!(
            "[ $(cat {m}/*.sum | sha256sum -c 2>/dev/null | grep -c OK) -ge 19 ]"
        ))?;
        session.shell(&format!(
            "umount {m} && e2fsck -fn /dev/xvd{disk} >/dev/null 2>&1"
        ))?;
    }
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}
