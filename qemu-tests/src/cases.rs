//! The tests.

use crate::artefacts;
use crate::disks;
use crate::domains;
use crate::faults;
use crate::guest_log;
use crate::image;
use crate::machine::{Board, Firmware, Machine, System};
use crate::moves;
use crate::neighbours;
use crate::nested;
use crate::network::{self, Amount};
use crate::oracle;
use crate::session::Session;
use crate::soak;
use crate::survivors;
use crate::tap;
use crate::trips;

/// What a test does: it gets its own name, and fails with a reason.
pub type Run = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// A test that boots machines.
pub struct Case {
    /// Its name, in lower case with hyphens.
    pub name: String,
    /// Whether it runs only when long tests are asked for.
    pub soak: bool,
    /// The test itself.
    pub run: Run,
}

pub(crate) fn case(
    name: &str,
    run: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
) -> Case {
    Case {
        name: name.to_owned(),
        soak: false,
        run: Box::new(run),
    }
}

pub(crate) fn long(
    name: &str,
    run: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
) -> Case {
    Case {
        soak: true,
        ..case(name, run)
    }
}

/// All tests, the quick and telling ones first.
pub fn all() -> Vec<Case> {
    let mut cases = vec![
        case("boot-1-cpu", |n| boots(n, stock()?.cpus(1))),
        case("boot-2-cpus", |n| boots(n, stock()?.cpus(2))),
        case("boot-4-cpus", |n| boots(n, stock()?.cpus(4))),
        case("boot-max-vcpus", |n| {
            boots_with(n, stock()?.cpus(4).options("dom0_max_vcpus=2"), 2)
        }),
        case("shell", |n| shell_answers(n, System::Overcast)),
        case("disk-root-1-cpu", |n| disks::root(n, 1)),
        case("disk-root-4-cpus", |n| disks::root(n, 4)),
        case("disk-kinds", disks::kinds),
        case("disk-killed", disks::killed),
        case("disk-nvme", disks::nvme),
        case("image-bios", |n| image::boots(n, Firmware::Bios)),
        case("image-uefi", |n| image::boots(n, Firmware::Uefi)),
        case("reboot", reboots),
        case("noreboot", noreboot),
        case("crash", crashes),
        case("console-keys", console_keys),
        case("net-user", network::user),
        case("net-wire", |n| {
            let amount = Amount {
                cpus: 2,
                mebibytes: 8,
                connections: 100,
            };
            network::wire(n, &amount)
        }),
        case("net-tap", tap::offloads),
        long("soak-net-wire", |n| {
            let amount = Amount {
                cpus: 2,
                mebibytes: 512,
                connections: 24_000,
            };
            network::wire(n, &amount)
        }),
        long("soak-disk", |n| disks::soak(n, 2)),
        case("domains-created", domains::created),
        case("domains-saved", moves::saved),
        case("domains-exchange", neighbours::exchange),
        case("domains-hostile", neighbours::harm),
        long("domains-32-vcpus", domains::many_vcpus),
        case("migrate-two-machines", |n| {
            trips::run(n, &trips::Plan::default())
        }),
        case("migrate-faults", |n| faults::inject(n, faults::SHORT)),
        long("migrate-more-faults", |n| faults::inject(n, faults::LONG)),
        long("saved-by-xen", moves::from_xen),
        case("domains-1000", oracle::thousand_domains),
        case("log-dirty", oracle::log_dirty),
        case("dom0-restart", oracle::dom0_restart),
        case("dom0-dies", survivors::dom0_dies),
        case("fuzz", |n| fuzz(n, 1..=2, 40, false)),
        long("fuzz-long", |n| fuzz(n, 100..=115, 120, true)),
        case("reference-shell", |n| shell_answers(n, System::Xen)),
        // Where something fails here too, it is not the hypervisor's doing.
        case("reference-xen", |n| boots(n, linux(System::Xen)?.cpus(2))),
        case("reference-bare", |n| boots(n, linux(System::Bare)?.cpus(2))),
        case("reference-disk-bare", |n| {
            disk_root(n, &Machine::debian_disk(System::Bare, "fsck")?.cpus(2))
        }),
    ];
    cases.push(case("oracle-xenstore", oracle::compare_xenstore));
    cases.extend(crate::devices::cases());
    cases.extend(crate::xl::cases());
    cases.extend(crate::levels::cases());
    for &group in oracle::GROUPS {
        cases.push(case(&format!("oracle-{group}"), move |n| {
            oracle::compare(n, group)
        }));
    }
    for cpu in [
        "qemu64",
        "max,-smap,-smep",
        "max,-x2apic",
        "max,-fsgsbase,-pcid,-umip",
        "max,-xsave,-avx",
        "max,-tsc-deadline",
        "EPYC",
        "Skylake-Server",
    ] {
        let name = format!("cpu-{}", cpu.replace(",-", "-no-").to_lowercase());
        cases.push(case(&name, move |n| boots(n, stock()?.cpus(2).cpu(cpu))));
    }
    cases.extend([
        case("machine-pc", |n| {
            boots(n, stock()?.cpus(2).board(Board::Pc))
        }),
        case("machine-microvm", |n| {
            let machine = stock()?.cpus(2).board(Board::Microvm);
            // There is no ACPI to power it off by: it may also halt.
            boots_until_halt(n, machine)
        }),
        case("machine-no-acpi", no_acpi),
        case("memory-256m", |n| boots(n, stock()?.memory(256))),
        case("memory-6g", |n| {
            boots(n, stock()?.memory(6144).options("dom0_mem=768M"))
        }),
        case("memory-64g", |n| {
            let mut machine = stock()?.memory(64 << 10).options("dom0_mem=512M");
            machine.sparse_memory = true;
            boots(n, machine)
        }),
        case("bad-no-module", |n| {
            complains(n, Machine::empty(System::Overcast), &["module", "kernel"])
        }),
        case("bad-empty-kernel", |n| {
            complains(n, with_kernel("empty", &[])?, &["kernel", "module"])
        }),
        case("bad-random-kernel", |n| {
            let noise: Vec<u8> = (0..100_000u32)
                .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
                .collect();
            complains(n, with_kernel("noise", &noise)?, &["kernel"])
        }),
        case("bad-truncated-kernel", |n| {
            let whole = read(artefacts::kernel()?)?;
            let half = whole.get(..whole.len() / 2).unwrap_or(&[]);
            complains(n, with_kernel("half", half)?, &["kernel"])
        }),
        case("bad-truncated-elf", |n| {
            let whole = read(artefacts::overcast()?)?;
            let part = whole.get(..5000).unwrap_or(&[]);
            complains(n, with_kernel("part", part)?, &["kernel"])
        }),
        case("bad-no-notes", |n| {
            // A 64-bit ELF with code and without a word about Xen.
            complains(n, with_kernel("plain", &plain_elf())?, &["note"])
        }),
        case("bad-little-memory", |n| {
            complains(n, stock()?.memory(32), &["memory"])
        }),
        case("bad-dom0-mem-huge", |n| {
            // More than there is: what there is, or a complaint, but no crash.
            boots_or_complains(n, stock()?.options("dom0_mem=999999G"))
        }),
        case("bad-dom0-mem-tiny", |n| {
            complains(n, stock()?.options("dom0_mem=1M"), &["memory", "dom0_mem"])
        }),
        case("bad-options", bad_options),
        long("soak-50-boots", |n| {
            for i in 0..50 {
                let cpus = [1, 2, 4][i % 3];
                boots(n, stock()?.cpus(cpus)).map_err(|e| format!("boot {}: {e}", i + 1))?;
            }
            Ok(())
        }),
    ]);
    for &(name, cpu) in soak::MODELS {
        let cpus: &[u32] = if cpu == "max" { &[1, 2, 4] } else { &[2, 4] };
        for &cpus in cpus {
            let name = format!("soak-debian-{name}-{cpus}");
            cases.push(long(&name, move |n| {
                soak::debian(n, System::Overcast, cpu, cpus)
            }));
        }
    }
    // What QEMU's emulated machine has not got: KVM's clock, the TSC-deadline timer, x2APIC.
    cases.push(long("nested-kvm", |n| {
        nested::kvm(n, "host", 2, &["x2APIC", "TSC deadline", "KVM clock"])
    }));
    cases.push(case("nested-levels", nested::levels));
    cases.push(long("nested-kvm-no-x2apic", |n| {
        nested::kvm(n, "host,-x2apic,-tsc-deadline", 2, &["xAPIC, one-shot"])
    }));
    for (name, system) in [("xen", System::Xen), ("bare", System::Bare)] {
        let name = format!("soak-debian-reference-{name}");
        cases.push(long(&name, move |n| soak::debian(n, system, "qemu64", 2)));
    }
    cases
}

/// Debian's kernel and the test initramfs on a system, quiet enough to be quick.
fn linux(system: System) -> Result<Machine, String> {
    Machine::linux(system, "shell", "run=facts,work,time,dmesg,poweroff")
}

fn stock() -> Result<Machine, String> {
    linux(System::Overcast)
}

fn read(path: std::path::PathBuf) -> Result<Vec<u8>, String> {
    std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
}

fn with_kernel(name: &str, content: &[u8]) -> Result<Machine, String> {
    let mut machine = Machine::empty(System::Overcast);
    machine.modules = vec![(artefacts::made(name, content)?, String::new())];
    Ok(machine)
}

fn boots(name: &str, machine: Machine) -> Result<(), String> {
    let cpus = machine.cpus;
    boots_with(name, machine, cpus)
}

/// Boots to userspace with all its CPUs, works, and powers off.
fn boots_with(name: &str, machine: Machine, vcpus: u32) -> Result<(), String> {
    let mut session = Session::start(&machine, name)?;
    works(&mut session, machine.system, vcpus)?;
    session.wait_for("init: poweroff")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}

fn boots_until_halt(name: &str, machine: Machine) -> Result<(), String> {
    let mut session = Session::start(&machine, name)?;
    works(&mut session, machine.system, machine.cpus)?;
    session.wait_for("init: poweroff")?;
    session.wait_for_any(&["Power down", "reboot: System halted"])?;
    guest_log::check(session.text())
}

fn works(session: &mut Session, system: System, vcpus: u32) -> Result<(), String> {
    session.wait_for("init: up")?;
    session.wait_for("init: cpus online ")?;
    let online = session.rest_of_line()?;
    let expected = match vcpus {
        1 => "0, 1 in all".to_owned(),
        n => format!("0-{}, {n} in all", n - 1),
    };
    if online != expected {
        return Err(session.failure(&format!("CPUs online: {online}, not {expected}")));
    }
    session.wait_for("init: hypervisor ")?;
    let hypervisor = session.rest_of_line()?;
    let expected = if system == System::Bare {
        "none"
    } else {
        "xen"
    };
    if hypervisor != expected {
        return Err(session.failure(&format!("hypervisor {hypervisor}")));
    }
    session.wait_for("init: work done")?;
    session.wait_for("init: slept ")?;
    let slept = session.rest_of_line()?;
    // A loaded host may make it longer, nothing may make it shorter.
    if slept.starts_with('0') || slept.starts_with('-') {
        return Err(session.failure(&format!("slept {slept} for 1 s")));
    }
    session.wait_for("init: dmesg checked")
}

fn shell_answers(name: &str, system: System) -> Result<(), String> {
    let machine = Machine::linux(system, "shell", "run=facts")?.cpus(2);
    let mut session = Session::start(&machine, name)?;
    session.wait_for("init: shell")?;
    session.wait_for("/ # ")?;
    for (command, expected) in [
        ("echo $((6 * 7))", "42"),
        ("uname -s", "Linux"),
        ("cat /sys/hypervisor/version/major", "4"),
        ("cat /sys/hypervisor/version/minor", "17"),
        ("cat /sys/hypervisor/guest_type", "PV"),
        ("seq 1000 | tail -1", "1000"),
    ] {
        let answer = session.shell(command)?;
        if answer != expected {
            return Err(session.failure(&format!("`{command}` gave {answer:?}")));
        }
    }
    if system == System::Overcast && !session.text().contains("Network: no card") {
        return Err(session.failure("it does not say that there is no network card"));
    }
    // Long input must come through whole. (Real Xen keeps 128 bytes for a Dom0 that is slow to
    // fetch them, and loses the rest.)
    if system == System::Overcast {
        let long = "x".repeat(100);
        let answer = session.shell(&format!("echo {long} | wc -c"))?;
        if answer != "101" {
            return Err(session.failure(&format!("of 101 bytes typed {answer} arrived")));
        }
    }
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}

/// The Debian root on a disk is whole, and comes to its shell.
fn disk_root(name: &str, machine: &Machine) -> Result<(), String> {
    let mut session = Session::start(machine, name)?;
    session.wait_for("init: fsck of ")?;
    session.wait_for("status 0")?;
    session.wait_for("quick: shell")?;
    let answer = session.shell("findmnt -n -o FSTYPE /")?;
    if answer != "ext4" {
        return Err(session.failure(&format!("the root is {answer:?}")));
    }
    session.send_line("poweroff -f")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}

/// QEMU is told not to reboot, so a reset ends it.
fn reboots(name: &str) -> Result<(), String> {
    let machine = Machine::linux(System::Overcast, "shell", "run=reboot")?.cpus(2);
    let mut session = Session::start(&machine, name)?;
    session.wait_for("init: reboot")?;
    session.wait_exit()?;
    guest_log::check(session.text())
}

/// A crashed Dom0 leaves its state on the console, and the machine reboots.
fn crashes(name: &str) -> Result<(), String> {
    let mut session = crash(name, "")?;
    session.wait_exit()?;
    state_is_shown(&session)
}

/// With `noreboot` the machine stays to be looked at.
fn noreboot(name: &str) -> Result<(), String> {
    let mut session = crash(name, "noreboot")?;
    session.wait_for_any(&[
        "noreboot",
        "Manual reset",
        "manual reset",
        "halted",
        "Halted",
    ])?;
    state_is_shown(&session)
}

fn crash(name: &str, options: &str) -> Result<Session, String> {
    let machine = Machine::linux(System::Overcast, "shell", "run=crash")?.options(options);
    let mut session = Session::start(&machine, name)?;
    session.fatal_signs = false;
    session.wait_for("init: crashing")?;
    session.wait_for("Kernel panic - not syncing")?;
    Ok(session)
}

fn state_is_shown(session: &Session) -> Result<(), String> {
    let after = session.text().split("Kernel panic").last().unwrap_or("");
    let after = after.to_lowercase();
    for word in ["rip", "rsp", "cr3"] {
        if !after.contains(word) {
            return Err(session.failure(&format!("no {word} in what a crash leaves")));
        }
    }
    Ok(())
}

/// Without ACPI the CPUs are those of the MultiProcessor tables, and a serial line
/// whose interrupt is not known is polled.
fn no_acpi(name: &str) -> Result<(), String> {
    let mut machine = Machine::linux(System::Overcast, "shell", "run=facts")?
        .cpus(2)
        .board(Board::Pc)
        .options("com1=115200,8n1,0x3f8,0");
    // The firmware lists a CPU a socket.
    let extra = ["-machine", "acpi=off", "-smp", "2,sockets=2"];
    machine.extra = extra.map(str::to_owned).to_vec();
    let mut session = Session::start(&machine, name)?;
    session.wait_for("MP tables: 2 CPUs")?;
    session.wait_for("it is polled")?;
    session.wait_for("init: cpus online 0-1, 2 in all")?;
    session.wait_for("/ # ")?;
    let answer = session.shell("seq 300 | tail -1")?;
    if answer != "300" {
        return Err(session.failure(&format!("the shell answered {answer:?}")));
    }
    guest_log::check(session.text())
}

/// CTRL-a three times gives the serial line to the hypervisor and back.
fn console_keys(name: &str) -> Result<(), String> {
    let machine = Machine::linux(System::Overcast, "shell", "")?;
    let mut session = Session::start(&machine, name)?;
    session.wait_for("/ # ")?;
    session.send(b"\x01\x01\x01")?;
    session.wait_for("CTRL-a")?;
    session.send(b"h")?;
    session.wait_for("key")?;
    session.send(b"\x01\x01\x01")?;
    session.wait_for("CTRL-a")?;
    let answer = session.shell("echo $((6 * 7))")?;
    if answer == "42" {
        Ok(())
    } else {
        Err(session.failure(&format!("the shell answered {answer:?}")))
    }
}

/// A hostile kernel on four vCPUs (`qemu-tests/pv/fuzz.c`), once for each seed, for
/// some seconds each: it may die, or do nothing for ever, but the hypervisor lives.
fn fuzz(
    name: &str,
    seeds: std::ops::RangeInclusive<u32>,
    seconds: u64,
    must_answer: bool,
) -> Result<(), String> {
    for seed in seeds {
        let mut machine = Machine::empty(System::Overcast).cpus(2).memory(512);
        machine.options = "console=com1 dom0_mem=128M dom0_max_vcpus=4".to_owned();
        machine.modules = vec![(artefacts::probe()?, format!("fuzz {seed} 100000000 4"))];
        let mut session = Session::start(&machine, name)?;
        session.fatal_signs = false;
        session.wait_for("fuzz: 0")?;
        session.patience = std::time::Duration::from_secs(seconds);
        let ended = session.wait_for_any(&["Hardware Dom0", "Panic on CPU"]);
        let bad = ["Panic on CPU", "panicked at", "mm: "];
        if bad.iter().any(|sign| session.text().contains(sign)) {
            return Err(session.failure(&format!("seed {seed} was too much")));
        }
        if must_answer && ended.is_err() {
            // It still runs: the hypervisor answers.
            session.send(b"\x01\x01\x01")?;
            session.send(b"h")?;
            session.wait_for("installed handlers")?;
        }
    }
    Ok(())
}

/// The hypervisor says what is wrong, in a line with one of the words, and the
/// guest does not run. What follows is a reboot or a halt: either will do.
fn complains(name: &str, machine: Machine, words: &[&str]) -> Result<(), String> {
    let mut session = Session::start(&machine.options("noreboot"), name)?;
    session.fatal_signs = false;
    session.wait_for_any(&["Manual reset required", "Linux version"])?;
    let text = session.text().to_lowercase();
    if text.contains("linux version") {
        return Err(session.failure("the guest was started"));
    }
    if text.contains("panicked at") {
        return Err(session.failure("bad input is no reason to panic"));
    }
    let complaint = text
        .lines()
        .filter(|line| line.contains("panic on cpu") || line.contains("error"))
        .any(|line| words.iter().any(|word| line.contains(word)));
    if complaint {
        Ok(())
    } else {
        Err(session.failure(&format!("no complaint about {words:?}")))
    }
}

fn boots_or_complains(name: &str, machine: Machine) -> Result<(), String> {
    boots(name, machine.clone()).or_else(|_| complains(name, machine, &["dom0_mem", "memory"]))
}

/// Unknown options are named in a warning, malformed ones in an error that says
/// what was expected; both leave a machine that boots.
fn bad_options(name: &str) -> Result<(), String> {
    let machine = stock()?.options("nosuchoption=17 dom0_mem=lots dom0_max_vcpus=none loglvl=loud");
    let mut session = Session::start(&machine, name)?;
    works(&mut session, System::Overcast, machine.cpus)?;
    session.wait_exit()?;
    for word in ["nosuchoption", "dom0_mem", "dom0_max_vcpus", "loglvl"] {
        let said = session.text().lines().any(|line| {
            line.contains(word) && !line.contains("console=com1") && line.contains("(XEN)")
        });
        if !said {
            return Err(format!("not a word about the bad option {word}"));
        }
    }
    Ok(())
}

/// A minimal ELF64 that is loadable and carries no notes.
fn plain_elf() -> Vec<u8> {
    let mut elf = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = elf.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes()); // e_type: ET_EXEC
    put(18, &62u16.to_le_bytes()); // e_machine: EM_X86_64
    put(20, &1u32.to_le_bytes()); // e_version
    put(24, &0x10_0000u64.to_le_bytes()); // e_entry
    put(32, &64u64.to_le_bytes()); // e_phoff
    put(52, &64u16.to_le_bytes()); // e_ehsize
    put(54, &56u16.to_le_bytes()); // e_phentsize
    put(56, &1u16.to_le_bytes()); // e_phnum
    put(64, &1u32.to_le_bytes()); // p_type: PT_LOAD
    put(68, &7u32.to_le_bytes()); // p_flags
    put(72, &0x200u64.to_le_bytes()); // p_offset
    put(80, &0x10_0000u64.to_le_bytes()); // p_vaddr
    put(88, &0x10_0000u64.to_le_bytes()); // p_paddr
    put(96, &0x100u64.to_le_bytes()); // p_filesz
    put(104, &0x100u64.to_le_bytes()); // p_memsz
    put(112, &0x1000u64.to_le_bytes()); // p_align
    put(0x200, &[0xeb, 0xfe]); // jmp .
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_plain() {
        let mut names: Vec<_> = all().into_iter().map(|case| case.name).collect();
        assert!(names.iter().all(|n| {
            n.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        }));
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
