//! Files that tell of CPUs: JSON, of which what is read again is the `policies` (or `policy`),
//! as leaves of CPUID and MSRs. The rest is for people and their scripts.

use std::io::Read;
use std::path::Path;

use overcast_core::cpuid::{CpuidPolicy, Hiding, Level, SystemPolicies, parse_leaf};
use serde::{Deserialize, Serialize};
use xen_abi::arch_x86::{CpuidLeaf, MsrEntry};

use super::{Guest, Machine, name_of, names_of, parse};
use crate::error::{Error, Result};
use crate::xen::domctl::CpuPolicy;

/// `format` of a machine's file.
const MACHINE: &str = "overcast-cpu-1";
/// `format` of a policy's file.
const POLICY: &str = "overcast-cpu-policy-1";
/// No such file is as long, bytes.
const LONGEST: u64 = 1 << 20;

/// What `overcast cpu dump --json` prints.
#[derive(Serialize, Deserialize, Debug)]
pub struct MachineFile {
    format: String,
    /// Host name.
    #[serde(default)]
    machine: String,
    #[serde(flatten)]
    about: Option<About>,
    policies: Policies,
}

/// What follows from the policies.
#[derive(Serialize, Deserialize, Debug)]
struct About {
    vendor: String,
    brand: String,
    family: u32,
    model: u32,
    stepping: u32,
    /// Whether CPUID faults in guests' user space.
    cpuid_faulting: bool,
    /// What guests are shown.
    baseline: String,
    /// The highest level that the machine can give.
    highest_level: Option<String>,
    /// What guests have unless told otherwise.
    features: Vec<String>,
    /// What the machine has beside.
    hidden: Vec<Hidden>,
}

/// A feature that guests are not shown.
#[derive(Serialize, Deserialize, Debug)]
pub struct Hidden {
    feature: String,
    /// `enforced`, `unannounced` or `visible`.
    how: String,
    /// The register by which it is enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

#[derive(Serialize, Deserialize, Debug)]
struct Policies {
    raw: PolicyText,
    host: PolicyText,
    pv_max: PolicyText,
    pv_default: PolicyText,
}

/// A policy: `LEAF:SUBLEAF -> EAX:EBX:ECX:EDX` and `MSR -> VALUE`, hexadecimal, as
/// `xen-cpuid -p` prints them.
#[derive(Serialize, Deserialize, Debug)]
pub struct PolicyText {
    leaves: Vec<String>,
    msrs: Vec<String>,
}

/// What `overcast cpu baseline --json` prints, and `--cpu` of a new domain reads.
#[derive(Serialize, Deserialize, Debug)]
pub struct PolicyFile {
    format: String,
    /// The machines that it was made for.
    #[serde(default)]
    machines: Vec<String>,
    /// The highest level that it holds.
    #[serde(default)]
    level: Option<String>,
    #[serde(default)]
    features: Vec<String>,
    policy: PolicyText,
}

impl From<&CpuidPolicy> for PolicyText {
    fn from(policy: &CpuidPolicy) -> Self {
        let leaf = |leaf: &CpuidLeaf| {
            let CpuidLeaf {
                leaf,
                subleaf,
                a,
                b,
                c,
                d,
            } = leaf;
            format!("{leaf:08x}:{subleaf:08x} -> {a:08x}:{b:08x}:{c:08x}:{d:08x}")
        };
        let msr = |msr: &MsrEntry| format!("{:08x} -> {:016x}", msr.idx, msr.val);
        Self {
            leaves: policy.leaves().iter().map(leaf).collect(),
            msrs: policy.msrs().iter().map(msr).collect(),
        }
    }
}

impl PolicyText {
    fn parse(&self) -> Result<CpuidPolicy> {
        let wrong = |line: &str| Error::Usage(format!("\"{line}\" is no line of a CPU policy"));
        let msr = |line: &str| {
            let (idx, val) = line.split_once(" -> ")?;
            Some(MsrEntry {
                idx: u32::from_str_radix(idx.trim(), 16).ok()?,
                flags: 0,
                val: u64::from_str_radix(val.trim(), 16).ok()?,
            })
        };
        let leaves = self.leaves.iter();
        let msrs = self.msrs.iter();
        parse(&CpuPolicy {
            leaves: leaves
                .map(|line| parse_leaf(line).ok_or_else(|| wrong(line)))
                .collect::<Result<_>>()?,
            msrs: msrs
                .map(|line| msr(line).ok_or_else(|| wrong(line)))
                .collect::<Result<_>>()?,
        })
    }
}

/// What `overcast cpu show --json` prints.
#[derive(Serialize, Debug)]
pub struct GuestFile {
    domain: String,
    /// The level that it sees, if it is one.
    level: Option<&'static str>,
    vendor: String,
    brand: String,
    /// Whether CPUID faults in user space here.
    cpuid_faulting: bool,
    /// What it is shown.
    features: Vec<String>,
    /// What the machine has beside.
    hidden: Vec<Hidden>,
    /// What its programs may have seen beside, here and on machines where it was.
    seen: Vec<String>,
    policy: PolicyText,
}

impl GuestFile {
    /// What is told of a guest here.
    pub fn of(guest: &Guest, machine: &SystemPolicies) -> Self {
        let policy = &guest.seen.policy;
        Self {
            domain: guest.name.clone(),
            level: policy.level().map(Level::name),
            vendor: text(&policy.vendor_name()),
            brand: text(&policy.brand()),
            cpuid_faulting: machine.faulting(),
            features: features(policy),
            hidden: hidden(machine, policy),
            seen: names_of(&guest.seen.visible),
            policy: policy.into(),
        }
    }
}

impl MachineFile {
    /// What is written of a machine.
    pub fn of(machine: &Machine) -> Self {
        let SystemPolicies {
            raw,
            host,
            pv_max,
            pv_default,
        } = &machine.policies;
        Self {
            format: MACHINE.to_owned(),
            machine: machine.name.clone(),
            about: Some(About {
                vendor: text(&host.vendor_name()),
                brand: text(&raw.brand()),
                family: raw.family(),
                model: raw.model(),
                stepping: raw.stepping(),
                cpuid_faulting: machine.policies.faulting(),
                baseline: machine.baseline().to_owned(),
                highest_level: machine.highest_level().map(|level| level.name().to_owned()),
                features: features(pv_default),
                hidden: hidden(&machine.policies, pv_default),
            }),
            policies: Policies {
                raw: raw.into(),
                host: host.into(),
                pv_max: pv_max.into(),
                pv_default: pv_default.into(),
            },
        }
    }

    fn machine(&self) -> Result<Machine> {
        if self.format != MACHINE {
            return Err(Error::Usage(format!(
                "is of the format \"{}\"; \"{MACHINE}\" is known",
                self.format
            )));
        }
        Ok(Machine {
            name: self.machine.clone(),
            policies: SystemPolicies {
                raw: self.policies.raw.parse()?,
                host: self.policies.host.parse()?,
                pv_max: self.policies.pv_max.parse()?,
                pv_default: self.policies.pv_default.parse()?,
            },
        })
    }
}

impl PolicyFile {
    /// What is written of a policy that some machines can give.
    pub fn of(policy: &CpuidPolicy, machines: &[Machine]) -> Self {
        let level = Level::highest_in(policy.features(), policy.vendor());
        Self {
            format: POLICY.to_owned(),
            machines: machines
                .iter()
                .map(|machine| machine.name.clone())
                .collect(),
            level: level.map(|level| level.name().to_owned()),
            features: features(policy),
            policy: policy.into(),
        }
    }
}

/// A machine of a text that `overcast cpu dump --json` printed.
pub fn machine_from(text: &str) -> Result<Machine> {
    serde_json::from_str::<MachineFile>(text)?.machine()
}

/// A policy of a text that `overcast cpu baseline --json` printed.
pub fn policy_from(text: &str) -> Result<CpuidPolicy> {
    let file: PolicyFile = serde_json::from_str(text)?;
    if file.format != POLICY {
        return Err(Error::Usage(format!(
            "is of the format \"{}\"; \"{POLICY}\" is known",
            file.format
        )));
    }
    file.policy.parse()
}

/// Reads a machine's file; `-` is the standard input.
pub fn read_machine(path: &Path) -> Result<Machine> {
    let text = read(path).map_err(|error| match error {
        Error::Io(why) if why.kind() == std::io::ErrorKind::NotFound => Error::Usage(format!(
            "there is no file {0}; for a machine of that name make one: ssh {0} overcast cpu dump --json >{0}.json",
            path.display()
        )),
        error => error,
    })?;
    of_file(path, machine_from(&text))
}

/// Reads a policy's file.
pub fn read_policy(path: &Path) -> Result<CpuidPolicy> {
    let text = read(path).map_err(|error| match error {
        Error::Io(why) if why.kind() == std::io::ErrorKind::NotFound => Error::Usage(format!(
            "there is no CPU called \"{}\", and no such file: auto, host, x86-64-v1 to x86-64-v4, or a file of `overcast cpu baseline --json`",
            path.display()
        )),
        error => error,
    })?;
    of_file(path, policy_from(&text))
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let length = if path == Path::new("-") {
        std::io::stdin().take(LONGEST).read_to_string(&mut text)?
    } else {
        let file = std::fs::File::open(path)?;
        file.take(LONGEST).read_to_string(&mut text)?
    };
    if length as u64 >= LONGEST {
        return Err(Error::Usage(format!(
            "{}: longer than any file of a CPU",
            path.display()
        )));
    }
    Ok(text)
}

fn of_file<T>(path: &Path, result: Result<T>) -> Result<T> {
    result.map_err(|error| Error::Usage(format!("{}: {error}", path.display())))
}

/// Names of a policy's features.
pub fn features(policy: &CpuidPolicy) -> Vec<String> {
    names_of(policy.features())
}

/// What a machine has, and a guest with a policy is not shown.
pub fn hidden(machine: &SystemPolicies, guest: &CpuidPolicy) -> Vec<Hidden> {
    let beside = machine.beside(guest);
    beside
        .map(|(feature, hiding)| {
            let (how, by) = match hiding {
                Hiding::Enforced(register) => ("enforced", Some(register.name().to_owned())),
                Hiding::Unannounced => ("unannounced", None),
                Hiding::Visible => ("visible", None),
            };
            Hidden {
                feature: name_of(feature),
                how: how.to_owned(),
                by,
            }
        })
        .collect()
}

/// A text of CPUID: padded with spaces or zeroes.
pub fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_matches(|letter: char| letter == '\0' || letter.is_whitespace())
        .chars()
        .filter(|letter| !letter.is_control())
        .collect()
}
