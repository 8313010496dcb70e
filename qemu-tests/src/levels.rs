//! The same CPU everywhere: what programs in guests see of it, on machines of several models,
//! is compared with what the agent says that they see; and guests that live by it are moved.
//!
//! `overcast cpu show` tells what a guest is shown (its policy), and what the machine has
//! beside, by what keeps it from the guest's programs: enforced, unannounced or visible. Where
//! CPUID does not fault, as in QEMU's emulation, programs read the machine's own features: those
//! of the policy and of the hidden ones, exactly; and what is enforced does not work for them.
//! Where it faults (KVM below, see [`crate::nested`]) they read the policy.

use crate::cases::{Case, case, long};
use crate::guest_log;
use crate::machine::{Machine, System};
use crate::session::{Session, says};
use overcast_core::cpuid::{
    CpuidPolicy, Hardware, Leaf, SystemPolicies, by_name, parse_leaf, parse_leaves,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use xen_abi::arch_x86::CpuidLeaf;
use xen_abi::cpufeatureset::{self as f, FEATURES, Feature};

/// The tests.
pub fn cases() -> Vec<Case> {
    vec![
        case("levels-amd", |n| pair(n, &AMD)),
        case("levels-intel", |n| pair(n, &INTEL)),
        // Counting instructions, the second machine's TSC goes at 1 GHz, and the first's at the
        // rate of the host's: programs of a guest that came from there have it emulated.
        long("levels-tsc-rate", |n| {
            let second = &["-icount", "shift=auto"];
            pair(
                n,
                &Pair {
                    tsc_mode: "default",
                    second,
                    ..AMD
                },
            )
        }),
    ]
}

/// Two models of CPU of one vendor.
struct Pair {
    /// Where a guest starts, and to where it is moved.
    models: [&'static str; 2],
    /// What a guest at the level v3 says of its CPU on either.
    v3: &'static [&'static str],
    /// `tsc_mode` of the guest that is moved.
    tsc_mode: &'static str,
    /// Of the second machine: arguments of QEMU.
    second: &'static [&'static str],
    /// Back it cannot go: what is in the way of it on a third machine in place of the first (on
    /// the first itself, if there is none).
    back: (Option<&'static str>, &'static [&'static str]),
}

const AMD: Pair = Pair {
    models: ["EPYC", "max"],
    v3: AMD_V3,
    tsc_mode: "always_emulate",
    second: &[],
    // Programs could see these, and may have chosen by them.
    back: (None, &["3dnow: ", "clwb: "]),
};

const INTEL: Pair = Pair {
    models: ["Haswell", "Skylake-Server"],
    v3: INTEL_V3,
    tsc_mode: "always_emulate",
    second: &[],
    back: (Some("Nehalem"), &["avx: ", "avx2: ", "bmi2: ", "xsave: "]),
};

const AMD_V3: &[&str] = &[
    "vendor_id: AuthenticAMD",
    "cpu family: 23",
    "model: 1",
    "model name: Overcast x86-64-v3",
    "stepping: 2",
    "cache size: 512 KB",
    "flags: fpu de tsc msr pae mce cx8 apic mca cmov pat clflush mmx fxsr sse sse2 syscall nx \
     rdtscp lm rep_good nopl cpuid extd_apicid tsc_known_freq pni pclmulqdq ssse3 fma cx16 \
     sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand hypervisor lahf_lm abm 3dnowprefetch \
     vmmcall fsgsbase bmi1 avx2 bmi2 xsaveopt arat",
    "address sizes: 40 bits physical, 48 bits virtual",
];

const INTEL_V3: &[&str] = &[
    "vendor_id: GenuineIntel",
    "cpu family: 6",
    "model: 60",
    "model name: Overcast x86-64-v3",
    "stepping: 3",
    "cache size: 8192 KB",
    "flags: fpu de tsc msr pae mce cx8 apic sep mca cmov pat clflush mmx fxsr sse sse2 syscall \
     nx rdtscp lm constant_tsc rep_good nopl cpuid tsc_known_freq pni pclmulqdq ssse3 fma cx16 \
     sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand hypervisor lahf_lm abm fsgsbase bmi1 \
     avx2 bmi2 xsaveopt",
    "address sizes: 40 bits physical, 48 bits virtual",
];

/// What works for programs of a guest at v2 and at v3, wherever it is.
const TRIED: [(&str, &[&str]); 2] = [
    (
        "v2",
        &[
            "xcr0 0x3",
            "sse4_2 yes",
            "popcnt yes",
            "avx no",
            "avx2 no",
            "fma no",
            "avx512f no",
            "fsgsbase no",
            "pku no",
        ],
    ),
    (
        "v3",
        &[
            "xcr0 0x7",
            "sse4_2 yes",
            "popcnt yes",
            "avx yes",
            "avx2 yes",
            "fma yes",
            "avx512f no",
            "fsgsbase yes",
            "pku no",
        ],
    ),
];

/// A guest's CPU, as it was found from within.
pub struct View {
    /// `/proc/cpuinfo`.
    cpuinfo: Vec<String>,
    /// CPUID in user space.
    leaves: BTreeMap<(u32, u32), Leaf>,
    /// What was tried.
    tried: Vec<String>,
    /// The C library's levels.
    hwcaps: Vec<String>,
}

/// What the agent says of a guest's CPU.
pub struct Shown {
    leaves: Vec<CpuidLeaf>,
    /// Features, with how they are kept from it.
    hidden: Vec<(Feature, String)>,
    /// Whether CPUID faults.
    pub faults: bool,
}

/// A line of `cpuid -r`: `0x00000001 0x00: eax=0x... ebx=0x... ecx=0x... edx=0x...`
fn parse_cpuid(line: &str) -> Option<((u32, u32), Leaf)> {
    let mut numbers = line
        .split_whitespace()
        .map(|word| word.rsplit("0x").next().unwrap_or_default())
        .map(|word| u32::from_str_radix(word.trim_end_matches(':'), 16).ok());
    let mut number = || numbers.next().flatten();
    let key = (number()?, number()?);
    Some((key, [number()?, number()?, number()?, number()?]))
}

impl View {
    /// Of what a guest with `run=cpu,seen` printed.
    fn parse(text: &str) -> Self {
        let lines = |what: &str| -> Vec<String> {
            let mark = format!("init: {what}: ");
            let lines = text.lines().filter_map(|line| line.split(&mark).nth(1));
            lines
                .map(|line| line.replace(['\t', '\r'], "").trim().to_owned())
                .collect()
        };
        Self {
            cpuinfo: lines("cpu"),
            leaves: lines("seen")
                .iter()
                .filter_map(|line| parse_cpuid(line))
                .collect(),
            tried: lines("tried"),
            hwcaps: lines("hwcaps"),
        }
    }

    /// Asks a guest's log.
    pub fn of(host: &mut Session, guest: &str) -> Result<Self, String> {
        let log = format!("/var/log/overcast/{guest}.log");
        host.shell(&format!(
            "n=0; until grep -q 'init: seen all' {log}; do sleep 1; n=$((n + 1)); \
             [ $n -lt 280 ] || {{ tail -5 {log}; false; break; }}; done"
        ))?;
        let text = host.shell(&format!("grep -a '^init: .*: ' {log}"))?;
        let view = Self::parse(&text);
        match view.leaves.len() > 10 && view.cpuinfo.len() == 8 {
            true => Ok(view),
            false => Err(host.failure(&format!("{guest} does not say what it sees"))),
        }
    }

    /// The features that CPUID tells of in user space.
    fn features(&self) -> CpuidPolicy {
        let raw = |leaf, subleaf| self.leaves.get(&(leaf, subleaf)).copied().unwrap_or([0; 4]);
        SystemPolicies::new(raw, &Hardware::default(), &[]).raw
    }
}

impl Shown {
    /// Of an answer of [`Self::of`]'s command.
    fn parse(text: &str) -> Self {
        let (mut hidden, mut feature) = (Vec::new(), None);
        let mut faults = false;
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("feature", name)) => feature = by_name(&name.replace('_', "-")),
                Some(("how", how)) => {
                    hidden.extend(feature.take().map(|feature| (feature, how.to_owned())));
                }
                Some(("faults", answer)) => faults = answer == "true",
                _ => {}
            }
        }
        Self {
            leaves: text.lines().filter_map(parse_leaf).collect(),
            hidden,
            faults,
        }
    }

    /// Asks the agent.
    pub fn of(host: &mut Session, guest: &str) -> Result<Self, String> {
        let text = host.shell(&format!(
            "overcast cpu show --json {guest} >/tmp/cpu; sed -n \
             -e 's/.*\"\\([0-9a-f]*:[0-9a-f]* -> [0-9a-f:]*\\)\".*/\\1/p' \
             -e 's/.*\"feature\": \"\\([^\"]*\\)\".*/feature \\1/p' \
             -e 's/.*\"how\": \"\\([^\"]*\\)\".*/how \\1/p' \
             -e 's/.*\"cpuid_faulting\": \\([a-z]*\\).*/faults \\1/p' /tmp/cpu"
        ))?;
        let shown = Self::parse(&text);
        match shown.leaves.len() > 5 && !shown.hidden.is_empty() {
            true => Ok(shown),
            false => Err(host.failure(&format!("the agent does not say what {guest} sees"))),
        }
    }

    fn policy(&self) -> Result<CpuidPolicy, String> {
        CpuidPolicy::from_leaves(&self.leaves, &[]).map_err(|error| format!("{error:?}"))
    }

    /// Names of those features that are kept from it in one of the ways.
    fn hidden(&self, ways: &[&str]) -> BTreeSet<&'static str> {
        let hidden = self.hidden.iter();
        hidden
            .filter(|(feature, how)| ways.contains(&how.as_str()) && by_cpuid(*feature))
            .map(|(feature, _)| feature.name)
            .collect()
    }
}

/// Whether it is CPUID that tells of a feature, and not an MSR.
fn by_cpuid(feature: Feature) -> bool {
    ![f::FEATURESET_M10AL, f::FEATURESET_M10AH].contains(&feature.word())
}

/// What programs see must be what the agent says that they see.
pub fn compare(view: &View, shown: &Shown) -> Result<(), String> {
    let (policy, seen) = (shown.policy()?, view.features());
    // These say what the operating system has switched on.
    let counts = |feature| by_cpuid(feature) && ![f::OSXSAVE, f::OSPKE].contains(&feature);
    let names = |choice: &dyn Fn(Feature) -> bool| -> BTreeSet<&'static str> {
        let all = FEATURES.iter().copied();
        all.filter(|&feature| counts(feature) && choice(feature))
            .map(|feature| feature.name)
            .collect()
    };
    let beside = names(&|feature| seen.has(feature) && !policy.has(feature));
    let missing = names(&|feature| !seen.has(feature) && policy.has(feature));
    let told = match shown.faults {
        true => BTreeSet::new(),
        false => shown.hidden(&["enforced", "visible", "unannounced"]),
    };
    if beside != told || !missing.is_empty() {
        let more: Vec<_> = beside.difference(&told).collect();
        let less: Vec<_> = told.difference(&beside).collect();
        return Err(format!(
            "programs see {more:?} of which nothing is told, not {less:?} of which it is, and lack {missing:?}"
        ));
    }
    if shown.faults {
        same_leaves(view, shown)?;
    }
    Ok(())
}

/// Where CPUID faults, user space reads the policy, register by register.
fn same_leaves(view: &View, shown: &Shown) -> Result<(), String> {
    /// What depends on the vCPU's state.
    fn constant((leaf, subleaf): (u32, u32), [a, b, c, d]: Leaf) -> Leaf {
        match (leaf, subleaf) {
            // The APIC's number.
            (1, _) => [a, b & 0x00ff_ffff, c & !f::OSXSAVE.mask(), d],
            (7, 0) => [a, b, c & !f::OSPKE.mask(), d],
            // The size for XCR0.
            (0xd, 0 | 1) => [a, 0, c, d],
            _ => [a, b, c, d],
        }
    }
    let text: Vec<String> = shown
        .leaves
        .iter()
        .map(|l| {
            format!(
                "{:x}:{:x} -> {:x}:{:x}:{:x}:{:x}",
                l.leaf, l.subleaf, l.a, l.b, l.c, l.d
            )
        })
        .collect();
    let shown = parse_leaves(&text.join("\n"));
    let is_xens = |leaf: u32| (0x4000_0000..0x8000_0000).contains(&leaf);
    let wrong: Vec<String> = view
        .leaves
        .iter()
        .filter(|((leaf, _), _)| !is_xens(*leaf))
        .filter_map(|(&key, &found)| {
            let told = shown.get(&key).copied().unwrap_or([0; 4]);
            let (found, told) = (constant(key, found), constant(key, told));
            (found != told).then(|| format!("{key:x?}: {found:x?}, not {told:x?}"))
        })
        .collect();
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("CPUID in user space: {}", wrong.join("; "))),
    }
}

fn udp_port() -> Result<u16, String> {
    UdpSocket::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .map(|address| address.port())
        .map_err(|e| e.to_string())
}

/// A machine: its number, model, and its and the other's end of the wire between them.
fn start(
    name: &str,
    number: usize,
    model: &str,
    wire: [u16; 2],
    more: &[&str],
) -> Result<Session, String> {
    let arguments = format!("quiet run=net,wire,control addr={number}");
    let mut machine = Machine::linux(System::Overcast, "levels", &arguments)?
        .memory(1280)
        .cpu(model)
        .options("dom0_mem=512M dom0_disk=none")
        .wired(wire, &format!("52:54:00:00:02:0{number}"));
    machine
        .extra
        .extend(more.iter().map(|&word| word.to_owned()));
    Session::start(&machine, name)
}

fn ready(host: &mut Session) -> Result<(), String> {
    host.wait_for("init: shell")?;
    host.shell("dmesg -n 1; until grep -q runs /tmp/daemon.log; do sleep 0.1; done")?;
    host.shell("(overcast receive --insecure-plain >/tmp/receive.log 2>&1 &)")?;
    Ok(())
}

/// Makes a guest at a level.
pub fn make(
    host: &mut Session,
    name: &str,
    level: &str,
    words: &str,
    more: &str,
) -> Result<(), String> {
    let file = format!("/tmp/{name}.cfg");
    host.shell(&format!(
        "printf 'name = \"{name}\"\\nkernel = \"/guest/vmlinuz\"\\nramdisk = \"/guest/initrd\"\\n\
         memory = 96\\ncpu = \"x86-64-{level}\"\\nextra = \"console=hvc0 quiet run={words}\"\\n{more}\\n' >{file}"
    ))?;
    let command = format!("overcast create {file} 2>&1 | cat");
    says(host, &command, &format!("{name} is domain "))
}

/// The guest's program counts on from where it was, and found nothing wrong.
fn counts_on(host: &mut Session, guest: &str) -> Result<(), String> {
    let log = format!("/var/log/overcast/{guest}.log");
    let count = format!("$(grep -c 'loop: count' {log} 2>/dev/null)");
    host.shell(&format!(
        "touch {log}; a={count}; n=0; until [ {count} -ge $((a + 3)) ]; do \
         sleep 1; n=$((n + 1)); [ $n -lt 250 ] || {{ tail -5 {log}; false; break; }}; done"
    ))?;
    // What is typed is echoed, and looked at with the rest in the end.
    let wrong = host.shell(&format!(
        "grep -a 'init: loop: ' {log} | grep -v count; grep -aE '[O]ops|[C]all Trace|[t]rap invalid|[B]UG' {log}; true"
    ))?;
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(host.failure(&format!("{guest}: {wrong}"))),
    }
}

/// A move is refused, in the dry run and in earnest, with the flags named.
fn refused(host: &mut Session, command: &str, flags: &[&str]) -> Result<(), String> {
    for run in ["--dry-run", ""] {
        let answer = host.shell(&format!("{command} {run} 2>&1; echo \"status $?,\""))?;
        if answer.contains("status 0,") {
            return Err(host.failure(&format!("`{command} {run}` was not refused")));
        }
        if let Some(flag) = flags.iter().find(|flag| !answer.contains(**flag)) {
            return Err(host.failure(&format!(
                "`{command} {run}` does not name {flag:?}: {answer}"
            )));
        }
    }
    Ok(())
}

/// Guests at v2 and v3 on two models see the same, and what else their programs see is told;
/// one that lives by AVX2 is moved from the first to the second, and cannot go on to a machine
/// that lacks what it has.
fn pair(name: &str, pair: &Pair) -> Result<(), String> {
    let (one, two) = (udp_port()?, udp_port()?);
    let [from, to] = pair.models;
    let first = start(name, 1, from, [one, two], &[])?;
    let second = start(&format!("{name}-2"), 2, to, [two, one], pair.second)?;
    let mut hosts = [first, second];
    for host in &mut hosts {
        ready(host)?;
        make(host, "v2", "v2", "cpu,seen", "")?;
    }
    let more = format!("tsc_mode = \"{}\"", pair.tsc_mode);
    make(&mut hosts[0], "avx", "v3", "cpu,seen,looptsc", &more)?;
    make(&mut hosts[1], "v3", "v3", "cpu,seen", "")?;

    let mut v2 = Vec::new();
    for (host, v3) in hosts.iter_mut().zip(["avx", "v3"]) {
        for (guest, (level, tried)) in ["v2", v3].into_iter().zip(TRIED) {
            let view = View::of(host, guest)?;
            let shown = Shown::of(host, guest)?;
            let wrong = |why: String| format!("{}: {why}", host_of(host, guest));
            compare(&view, &shown).map_err(wrong)?;
            if view.tried != tried {
                return Err(wrong(format!("works: {:?}, not {tried:?}", view.tried)));
            }
            let searched = |line: &&String| line.contains("supported");
            let hwcaps: Vec<&str> = view
                .hwcaps
                .iter()
                .filter(searched)
                .filter_map(|line| line.split_whitespace().next())
                .collect();
            let highest = format!("x86-64-{level}");
            if hwcaps.first() != Some(&highest.as_str()) {
                return Err(wrong(format!("the C library takes it for {hwcaps:?}")));
            }
            match level {
                "v3" if view.cpuinfo != pair.v3 => {
                    return Err(wrong(format!("/proc/cpuinfo: {:#?}", view.cpuinfo)));
                }
                "v3" => {}
                _ => v2.push(view.cpuinfo),
            }
        }
        says(host, "overcast destroy v2; echo gone", "gone")?;
    }
    if v2[0] != v2[1] || !v2[0].iter().any(|line| line.ends_with("x86-64-v2")) {
        return Err(format!("/proc/cpuinfo of v2 guests: {v2:#?}"));
    }

    // There.
    counts_on(&mut hosts[0], "avx")?;
    let there = "overcast migrate avx 10.9.0.2 --insecure-plain";
    says(
        &mut hosts[0],
        &format!("{there} --dry-run 2>&1 | cat"),
        "could be moved",
    )?;
    says(
        &mut hosts[0],
        &format!("{there} 2>&1 | cat"),
        "avx is at 10.9.0.2",
    )?;
    counts_on(&mut hosts[1], "avx")?;

    // And not back.
    let (model, flags) = pair.back;
    if let Some(model) = model {
        hosts[0].send_line("poweroff -f")?;
        hosts[0].wait_exit()?;
        guest_log::check(hosts[0].text())?;
        hosts[0] = start(&format!("{name}-3"), 1, model, [one, two], &[])?;
        ready(&mut hosts[0])?;
    }
    let back = "overcast migrate avx 10.9.0.1 --insecure-plain";
    refused(&mut hosts[1], back, flags)?;
    counts_on(&mut hosts[1], "avx")?;
    // What it was made as, it is after a reboot.
    says(
        &mut hosts[1],
        "overcast cpu show avx",
        "sees            x86-64-v3",
    )?;
    if model.is_none() {
        let forced = format!("{back} --force-cpu 2>&1 | cat");
        says(&mut hosts[1], &forced, "avx is at 10.9.0.1")?;
        counts_on(&mut hosts[0], "avx")?;
    }
    for host in &mut hosts {
        host.shell("cat /var/log/overcast/*.log | grep -v 'init: seen'; true")?;
        host.send_line("poweroff -f")?;
        host.wait_exit()?;
        guest_log::check(host.text())?;
    }
    Ok(())
}

/// What a failure is about.
fn host_of(host: &Session, guest: &str) -> String {
    let model = host.text().lines().find(|line| line.contains("CPU0:"));
    format!("{guest} on {}", model.unwrap_or("a machine"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "00000000:ffffffff -> 00000007:68747541:444d4163:69746e65\n\
        00000001:ffffffff -> 00600f12:00000800:80982001:07808111\n\
        00000007:00000000 -> 00000000:00000000:00000000:00000000\n\
        80000000:ffffffff -> 80000008:68747541:444d4163:69746e65\n\
        80000001:ffffffff -> 00600f12:00000000:00000001:2191abff\n\
        faults false\nfeature avx2\nhow enforced\nfeature adx\nhow visible\n";

    fn seen(seven: u32) -> View {
        View::parse(&format!(
            "init: seen: 0x00000000 0x00: eax=0x0000000d ebx=0x68747541 ecx=0x444d4163 edx=0x69746e65\n\
             init: seen: 0x00000001 0x00: eax=0x00600f12 ebx=0x03000800 ecx=0x88982001 edx=0x07808111\r\n\
             init: seen: 0x00000007 0x00: eax=0x00000000 ebx={seven:#010x} ecx=0x00000000 edx=0x00000000\n\
             init: seen: 0x80000000 0x00: eax=0x80000008 ebx=0x68747541 ecx=0x444d4163 edx=0x69746e65\n\
             init: seen: 0x80000001 0x00: eax=0x00600f12 ebx=0x00000000 ecx=0x00000001 edx=0x2191abff\n\
             init: tried: avx no\n"
        ))
    }

    #[test]
    fn what_is_told_is_what_is_seen() {
        let both = f::AVX2.mask() | f::ADX.mask();
        let shown = Shown::parse(POLICY);
        assert_eq!(compare(&seen(both), &shown), Ok(()));
        assert_eq!(seen(both).tried, ["avx no"]);
        for (seven, name) in [
            (both | f::BMI1.mask(), "BMI1"),
            (f::AVX2.mask(), "ADX"),
            (f::ADX.mask(), "AVX2"),
        ] {
            let why = compare(&seen(seven), &shown).unwrap_err();
            assert!(why.contains(name), "{why}");
        }
        // Where CPUID faults nothing of it is seen, and nothing else either.
        let shown = Shown::parse(&POLICY.replace("false", "true"));
        assert!(shown.faults);
        assert!(compare(&seen(both), &shown).is_err());
        let why = compare(&seen(0), &shown).unwrap_err();
        assert_eq!(
            why,
            "CPUID in user space: (0, 0): [d, 68747541, 444d4163, 69746e65], not [7, 68747541, 444d4163, 69746e65]"
        );
    }
}
