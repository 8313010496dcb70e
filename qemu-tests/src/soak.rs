//! The long test of a whole userland: Debian with systemd, a compiler, and
//! `stress-ng`, under one model of CPU.

use crate::guest_log;
use crate::machine::{Machine, System};
use crate::session::Session;

/// CPU models under which user space has to stay whole, with the part of a
/// test's name that stands for each.
pub const MODELS: &[(&str, &str)] = &[
    ("max", "max"),
    ("max-no-smap", "max,-smap,-smep"),
    ("qemu64", "qemu64"),
    ("epyc", "EPYC"),
    ("skylake", "Skylake-Server"),
];

/// What runs alone, for some seconds each, on every CPU. (Not exec, which refuses to
/// run as root.)
const STRESSORS: &[&str] = &[
    "vm N --vm-bytes 48M --vm-method all",
    "vm-rw N --vm-rw-bytes 16M",
    "fork N",
    "vfork N",
    "clone N --clone-max 128",
    "pthread N --pthread-max 64",
    "mmap N --mmap-bytes 32M",
    "mremap N --mremap-bytes 16M",
    "mprotect N",
    "fault N",
    "sigsegv N",
    "signal N",
    "sigfd N",
    "switch N",
    "yield N",
    "futex N",
    "sem N",
    "pipe N",
    "timer N",
    "hrtimers N",
    "affinity N",
    "tlb-shootdown N",
    "membarrier N",
    "cpu N --cpu-method all",
    "memcpy N",
    "vecmath N",
];

/// What runs at the same time, one of each.
const TOGETHER: &str = "--vm 1 --vm-bytes 32M --fork 1 --mmap 1 --mmap-bytes 16M --mremap 1 \
    --mremap-bytes 8M --mprotect 1 --switch 1 --signal 1 --futex 1 --timer 1 --clone 1 \
    --clone-max 64 --pipe 1 --sem 1 --vfork 1 --fault 1 --sigsegv 1 --affinity 1 --yield 1";

/// Compiles the same source often, several times at once, and gives the sum of
/// what came out when all were the same. In a shell of its own, which does not
/// talk of jobs.
const COMPILE: &str = "(mkdir -p /tmp/c; cd /tmp/c; \
    for i in $(seq 150); do echo \"double f$i(double *a,int n){double s=$i;for(int i=0;i<n;i++)s=s*a[i]+$i;return s;}\"; done >t.c; \
    for i in 1 2 3 4; do (for j in 1 2 3; do gcc -O2 -c -o $i-$j.o t.c || echo failed; done) & done; wait; \
    md5sum *.o | cut -d' ' -f1 | sort | uniq -c)";

/// Debian's userland comes to a login on `cpus` CPUs, compiles, and bears minutes
/// of stress; no line of trouble comes from it, its kernel or the hypervisor.
/// Prints a line of what was done.
///
/// # Errors
///
/// The first thing that went wrong, with the last that the machine said.
pub fn debian(name: &str, system: System, cpu: &str, cpus: u32) -> Result<(), String> {
    // A slow host must not make systemd give up.
    let patience = "systemd.default_device_timeout_sec=3600 systemd.default_timeout_start_sec=3600";
    let machine = Machine::linux(system, "debian", patience)?
        .cpus(cpus)
        .cpu(cpu)
        .memory(4096);
    let mut session = Session::start(&machine, name)?;
    session.patience *= 6;
    session.wait_for("login: root")?;
    session.wait_for("# ")?;
    let booted = session.text().len();
    session.shell("stty cols 500; dmesg -n 1")?;
    let failed_units = session.shell("systemctl --failed --no-legend --plain | wc -l")?;
    if failed_units != "0" {
        let which = session.shell("systemctl --failed --no-legend --plain")?;
        return Err(session.failure(&format!("units of systemd failed: {which}")));
    }
    let sums = session.shell(COMPILE)?;
    let sum = match sums.split_whitespace().collect::<Vec<_>>()[..] {
        ["12", sum] => sum.to_owned(),
        _ => return Err(session.failure(&format!("the compiler's results differ: {sums}"))),
    };
    for stressor in STRESSORS {
        let mut stressor = stressor.replacen('N', &cpus.to_string(), 1);
        if cpu == "Skylake-Server" {
            // Programs that choose AVX-512 by the number of the model die on QEMU's, which
            // has the number and not the feature; on bare Linux as well.
            stressor = stressor.replace("cpu-method all", "cpu-method queens");
        }
        stress(&mut session, &format!("--timeout 5 --{stressor}"))?;
    }
    stress(&mut session, &format!("--timeout 40 {TOGETHER}"))?;
    let trouble = session.shell(
        "dmesg | grep -E -B 10 -A 30 \
         'BUG|WARNING|Oops|Call Trace|segfault|general protection|stall|soft lockup|corrupt' | head -300; true",
    )?;
    let said: Vec<String> = session.text()[booted..]
        .lines()
        .filter(|line| line.starts_with("(XEN)"))
        .map(str::to_owned)
        .collect();
    session.send_line("systemctl poweroff")?;
    session.wait_exit()?;
    println!(
        "soak {name}: {} -cpu {cpu} -smp {cpus}: login, 12 compilations alike ({sum}), \
         {} stressors and {} at once, {} lines of the hypervisor, {} known warnings",
        system.name(),
        STRESSORS.len(),
        TOGETHER.matches(" 1").count(),
        said.len(),
        trouble.matches("mm_inline.h:564").count(),
    );
    guest_log::check_stressed(&trouble)?;
    guest_log::check(session.text())?;
    if system == System::Overcast && !said.is_empty() {
        return Err(format!("the hypervisor said: {}", said.join("\n    | ")));
    }
    Ok(())
}

fn stress(session: &mut Session, what: &str) -> Result<(), String> {
    let output = session.shell(&format!("stress-ng --verify {what} 2>&1"))?;
    if output.contains("fail:") || output.contains("error:") {
        return Err(session.failure(&format!("stress-ng {what}: {output}")));
    }
    Ok(())
}
