//! CPUs of machines and of guests: what a machine has and gives, what a guest has seen, and
//! where it can run. The rules are the hypervisor's own (`overcast_core::cpuid`); here are the
//! files in which machines are compared, and what is told of them.
//!
//! [`can_run`] is what a move asks before it sends anything.

pub mod explain;
pub mod file;
pub mod report;
#[cfg(test)]
mod tests;

use overcast_core::cpuid::{
    CpuidPolicy, FeatureSet, Identity, Level, Obstacle, Seen, SystemPolicies, pool,
};
use xen_abi::cpufeatureset::{FEATURES, Feature};
use xen_abi::sysctl::{
    XEN_SYSCTL_CPU_POLICY_HOST, XEN_SYSCTL_CPU_POLICY_PV_DEFAULT, XEN_SYSCTL_CPU_POLICY_PV_MAX,
    XEN_SYSCTL_CPU_POLICY_RAW,
};

use crate::control::Control;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::xen::domctl::CpuPolicy;

/// A machine's CPU.
#[derive(Clone)]
pub struct Machine {
    /// Its host name.
    pub name: String,
    /// What it has, and gives.
    pub policies: SystemPolicies,
}

impl Machine {
    /// This machine.
    pub fn here(control: &Control) -> Result<Self> {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let policy = |index| parse(&control.system_cpu_policy(index)?);
        Ok(Self {
            name: name.trim().to_owned(),
            policies: SystemPolicies {
                raw: policy(XEN_SYSCTL_CPU_POLICY_RAW)?,
                host: policy(XEN_SYSCTL_CPU_POLICY_HOST)?,
                pv_max: policy(XEN_SYSCTL_CPU_POLICY_PV_MAX)?,
                pv_default: policy(XEN_SYSCTL_CPU_POLICY_PV_DEFAULT)?,
            },
        })
    }

    /// A guest made here with nothing special in its configuration.
    pub fn usual_guest(&self) -> Seen {
        Seen::on(&self.policies, self.policies.pv_default.clone())
    }

    /// The highest level that it can give.
    pub fn highest_level(&self) -> Option<Level> {
        let most = &self.policies.pv_max;
        Level::highest_in(most.features(), most.vendor())
    }

    /// Name of what guests see.
    pub fn baseline(&self) -> &'static str {
        self.policies.pv_default.level().map_or("host", Level::name)
    }
}

/// A domain of this machine, and what it has seen of CPUs.
pub struct Guest {
    /// Its name.
    pub name: String,
    /// That.
    pub seen: Seen,
}

/// A policy as the hypervisor or a stream gave it.
pub fn parse(policy: &CpuPolicy) -> Result<CpuidPolicy> {
    CpuidPolicy::from_leaves(&policy.leaves, &policy.msrs).map_err(|error| Error::CpuPolicy {
        errno: error.error.errno(),
        leaf: error.leaf,
        subleaf: error.subleaf,
        msr: error.msr,
    })
}

/// A policy as the hypervisor takes it.
pub fn serialise(policy: &CpuidPolicy) -> CpuPolicy {
    CpuPolicy {
        leaves: policy.leaves(),
        msrs: policy.msrs().to_vec(),
    }
}

/// Whether a guest that has seen so much can run on a machine.
///
/// # Errors
/// Everything that is in the way. Different vendors are; whoever moves a guest by force does it
/// although there is something.
pub fn can_run(guest: &Seen, machine: &SystemPolicies) -> std::result::Result<(), Vec<Obstacle>> {
    let found = guest.obstacles_on(machine);
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// Obstacles as a user is told them, a line each.
pub fn told(obstacles: &[Obstacle]) -> String {
    let lines: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// Whether a CPU's name means the same on every machine: a level, `host` or `auto`.
pub fn has_name(name: &str) -> bool {
    matches!(name, "auto" | "host") || Level::by_name(name).is_some()
}

/// Whose model and name guests of a level have here (`cpu-identity=`): the hypervisor's choice
/// for those that it is told nothing of.
fn identity(machine: &SystemPolicies) -> Identity {
    let usual = &machine.pv_default;
    match usual.level() {
        Some(_) if usual.brand() == machine.pv_max.brand() => Identity::Machine,
        _ => Identity::Level,
    }
}

/// The policy of a domain that is to see a CPU by its name: a level, `host`, or a file of
/// `overcast cpu baseline --json`. `None` for `auto`: as the hypervisor has it.
///
/// # Errors
/// `Unfit` with the flags that this machine lacks.
pub fn choose(name: &str, machine: &SystemPolicies) -> Result<Option<CpuPolicy>> {
    let policy = match name {
        "auto" => return Ok(None),
        "host" => pool(&[machine], Identity::Machine)
            .map_err(|_| Error::Unfit("this machine says nothing of its CPU".to_owned()))?,
        name => match Level::by_name(name) {
            Some(level) => machine
                .pv_max
                .levelled(level, identity(machine))
                .map_err(|lacks| Error::Unfit(lacks.to_string()))?,
            None => {
                let policy = file::read_policy(name.as_ref())?;
                let guest = Seen {
                    policy,
                    visible: Default::default(),
                };
                can_run(&guest, machine).map_err(|found| Error::Unfit(told(&found)))?;
                guest.policy
            }
        },
    };
    Ok(Some(serialise(&policy)))
}

/// What `cpuid=` of a configuration says, in libxl's syntax: `host,avx=0,adx=1`. Features are off (0),
/// on (1), or left as they are (x, k, s).
///
/// # Errors
/// What is not understood.
pub fn choices(text: &str) -> std::result::Result<Vec<(Feature, bool)>, String> {
    let mut choices = Vec::new();
    let mut items = text.split(',').map(str::trim).peekable();
    if items.peek() == Some(&"host") {
        items.next();
    }
    for item in items {
        let expected = || format!("\"{item}\": expected FEATURE=0, 1, x, k or s");
        let (name, value) = item.split_once('=').ok_or_else(expected)?;
        let feature = feature_by_name(name)
            .ok_or_else(|| format!("no feature of a CPU is known as \"{name}\""))?;
        match value {
            "0" => choices.push((feature, false)),
            "1" => choices.push((feature, true)),
            "x" | "k" | "s" => {}
            _ => return Err(expected()),
        }
    }
    Ok(choices)
}

/// The policy of a new domain, by `cpu` ([`choose`]) and `cpuid` ([`choices`]) of its configuration.
/// `None`: as the hypervisor has it.
///
/// # Errors
/// `Unfit` with the flags that this machine cannot give.
pub fn of_new(
    cpu: Option<&str>,
    cpuid: Option<&str>,
    machine: &SystemPolicies,
) -> Result<Option<CpuPolicy>> {
    let chosen = match cpu {
        Some(name) => choose(name, machine)?,
        None => None,
    };
    let Some(text) = cpuid else {
        return Ok(chosen);
    };
    let choices = choices(text).map_err(|why| Error::Usage(format!("cpuid: {why}")))?;
    let base = match &chosen {
        Some(policy) => parse(policy)?,
        None => machine.pv_default.clone(),
    };
    let policy = base.with(&machine.pv_max, &choices).map_err(|missing| {
        let missing: Vec<String> = missing.into_iter().map(name_of).collect();
        Error::Unfit(format!(
            "cpuid: a guest cannot have {} here",
            missing.join(" ")
        ))
    })?;
    Ok(Some(serialise(&policy)))
}

/// Where it is remembered what programs of a domain may have seen on other machines.
fn seen_node(uuid: &str) -> String {
    format!("/vm/{uuid}/cpu-seen")
}

/// What a domain that runs here may have seen, here and where it came from.
pub fn seen(control: &Control, store: &mut Store, domain: u16, uuid: &str) -> Result<Seen> {
    let policy = parse(&control.cpu_policy(domain)?)?;
    let mut seen = Seen::on(&Machine::here(control)?.policies, policy);
    // Only what came from elsewhere has such a node.
    let before = store.read(&seen_node(uuid)).unwrap_or_default();
    let before = String::from_utf8_lossy(&before).into_owned();
    let names: Vec<String> = before.split_whitespace().map(str::to_owned).collect();
    seen.add(&set_of(&names));
    Ok(seen)
}

/// Remembers what programs of a domain that comes here may have seen elsewhere.
pub fn remember(store: &mut Store, uuid: &str, visible: &FeatureSet) -> Result<()> {
    let names = names_of(visible);
    if names.is_empty() {
        return Ok(());
    }
    store.write(&seen_node(uuid), names.join(" ").as_bytes())
}

/// What is in the way of a guest here that was shown a policy, and whose programs may have seen
/// more.
pub fn obstacles(
    control: &Control,
    policy: &CpuPolicy,
    visible: &FeatureSet,
) -> Result<Vec<Obstacle>> {
    let guest = Seen {
        policy: parse(policy)?,
        visible: *visible,
    };
    Ok(guest.obstacles_on(&Machine::here(control)?.policies))
}

/// Names of a set's features.
pub fn names_of(set: &FeatureSet) -> Vec<String> {
    let all = FEATURES.iter().filter(|&&feature| set.has(feature));
    all.map(|&feature| name_of(feature)).collect()
}

/// A set of features by their names; of those that are known here.
pub fn set_of(names: &[String]) -> FeatureSet {
    let mut set = FeatureSet::default();
    for feature in names.iter().filter_map(|name| feature_by_name(name)) {
        set.set(feature, true);
    }
    set
}

/// A feature by a name: the hypervisor's (that of Xen's header, `-` or `_`), or Linux's.
pub fn feature_by_name(name: &str) -> Option<Feature> {
    let plain = |text: &str| -> String {
        text.chars()
            .filter(|letter| !['_', '-', '.'].contains(letter))
            .map(|letter| letter.to_ascii_lowercase())
            .collect()
    };
    let wanted = plain(name);
    // Names of /proc/cpuinfo that are not those of the header with other punctuation.
    let wanted = match wanted.as_str() {
        "pni" => "sse3",
        "pclmul" | "pclmuldq" => "pclmulqdq",
        "aes" => "aesni",
        "lzcnt" => "abm",
        "shani" => "sha",
        "pdpe1gb" => "page1gb",
        "constanttsc" | "nonstoptsc" | "invtsc" => "itsc",
        "rep good" => "erms",
        "cx8" | "cmpxchg8b" => "cx8",
        "cmpxchg16b" => "cx16",
        "lahf" => "lahflm",
        "clflsh" => "clflush",
        "dts" => "ds",
        "ht" => "htt",
        "tm" => "tm1",
        "est" => "eist",
        "specctrl" => "ibrsb",
        "archcapabilities" => "archcaps",
        "avx512ifma52" => "avx512ifma",
        "flushl1d" => "l1dflush",
        "tscdeadlinetimer" => "tscdeadline",
        "vmxe" => "vmx",
        other => other,
    };
    FEATURES
        .iter()
        .copied()
        .find(|feature| plain(feature.name) == wanted)
}

/// A feature's name as we write it.
pub fn name_of(feature: Feature) -> String {
    feature.name.to_ascii_lowercase()
}
