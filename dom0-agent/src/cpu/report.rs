//! What people are told of machines' CPUs.

use std::fmt::Write;

use overcast_core::cpuid::{
    CpuidPolicy, FeatureSet, Hiding, Level, Obstacle, Register, SystemPolicies,
};
use serde::Serialize;
use xen_abi::cpufeatureset::{FEATURES, Feature};

use super::file::text;
use super::{Guest, Machine, name_of};

/// Width of a line.
const WIDTH: usize = 96;

/// Adds a heading and names below it, or that there are none.
fn names(out: &mut String, heading: &str, names: &[String]) {
    let _ = writeln!(out, "{heading} ({})", names.len());
    let mut line = String::new();
    for name in names {
        if line.len() + name.len() + 3 > WIDTH {
            let _ = writeln!(out, " {line}");
            line.clear();
        }
        line.push(' ');
        line.push_str(name);
    }
    if !line.is_empty() {
        let _ = writeln!(out, " {line}");
    }
}

/// The features of a set that are chosen.
fn chosen(choice: impl Fn(Feature) -> bool) -> Vec<String> {
    let all = FEATURES.iter().copied().filter(|&feature| choice(feature));
    all.map(name_of).collect()
}

/// `overcast cpu dump` for people.
pub fn dump(machine: &Machine) -> String {
    let mut out = String::new();
    let policies = &machine.policies;
    let SystemPolicies {
        raw,
        host,
        pv_default,
        ..
    } = policies;
    let _ = writeln!(out, "machine         {}", machine.name);
    let _ = writeln!(
        out,
        "CPU             {}, family {:#x} model {:#x} stepping {}: {}",
        text(&host.vendor_name()),
        raw.family(),
        raw.model(),
        raw.stepping(),
        text(&raw.brand())
    );
    let highest = machine.highest_level().map_or("none", Level::name);
    let _ = writeln!(out, "highest level   {highest}");
    let _ = writeln!(
        out,
        "guests see      {}: {}",
        baseline(machine),
        text(&pv_default.brand())
    );
    let _ = writeln!(out, "CPUID           {}", faults(policies));
    let _ = writeln!(out, "XSAVE           {}", xsave(pv_default));
    let shown = chosen(|feature| pv_default.has(feature));
    names(&mut out, "shown to guests", &shown);
    hidden(&mut out, policies, pv_default);
    out
}

/// What a machine has beside what a guest is shown, by what keeps it from the guest's programs.
fn hidden(out: &mut String, machine: &SystemPolicies, guest: &CpuidPolicy) {
    let kept_by = |how: Hiding| -> Vec<String> {
        let kept = machine.beside(guest).filter(|&(_, hiding)| hiding == how);
        kept.map(|(feature, _)| name_of(feature)).collect()
    };
    for register in [Register::Xcr0, Register::Cr4, Register::Privilege] {
        let heading = format!("hidden, enforced by {}", register.name());
        names(out, &heading, &kept_by(Hiding::Enforced(register)));
    }
    let unannounced = kept_by(Hiding::Unannounced);
    names(out, "hidden, but would work unannounced", &unannounced);
    names(out, "visible to programs", &kept_by(Hiding::Visible));
}

/// `overcast cpu show` for people.
pub fn guest(guest: &Guest, machine: &SystemPolicies) -> String {
    let mut out = String::new();
    let policy = &guest.seen.policy;
    let level = policy.level().map_or("no level", Level::name);
    let _ = writeln!(out, "domain          {}", guest.name);
    let _ = writeln!(
        out,
        "sees            {level}: {}, {}",
        text(&policy.vendor_name()),
        text(&policy.brand())
    );
    let _ = writeln!(out, "CPUID           {}", faults(machine));
    let _ = writeln!(out, "XSAVE           {}", xsave(policy));
    let shown = chosen(|feature| policy.has(feature));
    names(&mut out, "shown", &shown);
    hidden(&mut out, machine, policy);
    let here = machine.visible_beside(policy);
    let elsewhere = chosen(|feature| guest.seen.visible.has(feature) && !here.has(feature));
    names(&mut out, "may have been seen elsewhere", &elsewhere);
    out
}

fn faults(machine: &SystemPolicies) -> &'static str {
    if machine.faulting() {
        "faults: programs in guests see what their kernel sees"
    } else {
        "does not fault: programs in guests see what is listed as visible below"
    }
}

/// What programs of guests see beside what their kernel sees.
pub fn visible(machine: &Machine) -> Vec<String> {
    let policies = &machine.policies;
    let set = policies.visible_beside(&policies.pv_default);
    chosen(|feature| set.has(feature))
}

/// What guests are shown, in words.
pub fn baseline(machine: &Machine) -> &'static str {
    match machine.baseline() {
        "host" => "all that the machine may give",
        level => level,
    }
}

fn xsave(policy: &CpuidPolicy) -> String {
    let components = policy.xcr0_max();
    if components == 0 {
        return "none".to_owned();
    }
    format!(
        "components {components:#x}, {} bytes",
        policy.xsave_size(components, false)
    )
}

/// How two machines differ.
#[derive(Serialize)]
pub struct Comparison {
    from: String,
    to: String,
    same_vendor: bool,
    /// Of what the CPUs have.
    hardware: Difference,
    /// Of what guests may have.
    possible: Difference,
    /// Of what guests are shown.
    shown: Difference,
    /// State components that lie elsewhere.
    xsave_components_apart: Vec<u32>,
    /// Whether a usual guest of the first runs on the second.
    can_move: bool,
    /// Why not.
    obstacles: Vec<Reason>,
}

#[derive(Serialize)]
struct Difference {
    only_in_first: Vec<String>,
    only_in_second: Vec<String>,
}

/// An obstacle, for scripts.
#[derive(Serialize)]
pub struct Reason {
    /// `vendor`, `feature`, `visible`, `leaf`, `faulting` or `xsave`.
    kind: &'static str,
    /// The feature, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    feature: Option<String>,
    text: String,
}

impl From<&Obstacle> for Reason {
    fn from(obstacle: &Obstacle) -> Self {
        let (kind, feature) = match obstacle {
            Obstacle::Vendor { .. } => ("vendor", None),
            Obstacle::Feature(feature) => ("feature", Some(*feature)),
            Obstacle::Visible(feature) => ("visible", Some(*feature)),
            Obstacle::Leaf { .. } => ("leaf", None),
            Obstacle::Faulting => ("faulting", None),
            Obstacle::Component(_) => ("xsave", None),
        };
        Self {
            kind,
            feature: feature.map(name_of),
            text: obstacle.to_string(),
        }
    }
}

impl Comparison {
    /// Of a machine that a guest would leave with one to which it would come.
    pub fn of(from: &Machine, to: &Machine) -> Self {
        let (a, b) = (&from.policies, &to.policies);
        let between = |a: &CpuidPolicy, b: &CpuidPolicy| {
            let list = |set: &FeatureSet, wanted: &FeatureSet| {
                let missing = set.missing(wanted).into_iter();
                missing.map(name_of).collect()
            };
            Difference {
                only_in_first: list(b.features(), a.features()),
                only_in_second: list(a.features(), b.features()),
            }
        };
        let obstacles = from.usual_guest().obstacles_on(b);
        Self {
            from: from.name.clone(),
            to: to.name.clone(),
            same_vendor: a.pv_max.vendor_name() == b.pv_max.vendor_name(),
            hardware: between(&a.raw, &b.raw),
            possible: between(&a.pv_max, &b.pv_max),
            shown: between(&a.pv_default, &b.pv_default),
            xsave_components_apart: a.pv_max.components_apart(&b.pv_max),
            can_move: obstacles.is_empty(),
            obstacles: obstacles.iter().map(Reason::from).collect(),
        }
    }

    /// Whether a usual guest of the first can move to the second.
    pub fn can_move(&self) -> bool {
        self.can_move
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let Self { from, to, .. } = self;
        for (what, difference) in [
            ("the CPU has", &self.hardware),
            ("guests may have", &self.possible),
            ("guests are shown", &self.shown),
        ] {
            let Difference {
                only_in_first: first,
                only_in_second: second,
            } = difference;
            if first.is_empty() && second.is_empty() {
                let _ = writeln!(out, "{what}: the same");
                continue;
            }
            names(&mut out, &format!("{what}, only on {from}"), first);
            names(&mut out, &format!("{what}, only on {to}"), second);
        }
        let vendor = if self.same_vendor {
            "the same"
        } else {
            "another"
        };
        let _ = writeln!(out, "vendor: {vendor}");
        match &self.xsave_components_apart[..] {
            [] => out.push_str("XSAVE: what both have lies at the same places\n"),
            apart => {
                let _ = writeln!(out, "XSAVE: components {apart:?} lie elsewhere");
            }
        }
        if self.can_move {
            let _ = writeln!(out, "a guest of {from} can move to {to}");
        } else {
            let _ = writeln!(out, "a guest of {from} cannot move to {to}:");
            for reason in &self.obstacles {
                let _ = writeln!(out, "  {}", reason.text);
            }
        }
        out
    }
}

/// What a pool's machines have in common, for people.
pub fn pooled(policy: &CpuidPolicy, machines: &[Machine]) -> String {
    let mut out = String::new();
    let vendor = policy.vendor();
    let level = Level::highest_in(policy.features(), vendor);
    let _ = writeln!(out, "level           {}", level.map_or("none", Level::name));
    let _ = writeln!(out, "vendor          {}", text(&policy.vendor_name()));
    let _ = writeln!(out, "XSAVE           {}", xsave(policy));
    let of_level = level
        .map(|level| level.features(vendor))
        .unwrap_or_default();
    let beyond = chosen(|feature| policy.has(feature) && !of_level.has(feature));
    names(&mut out, "common beyond the level", &beyond);
    let next = Level::ALL.into_iter().find(|&next| Some(next) > level);
    for machine in machines {
        let highest = machine.highest_level().map_or("none", Level::name);
        let faults = if machine.policies.faulting() {
            "CPUID faults"
        } else {
            "CPUID does not fault"
        };
        let _ = writeln!(out, "{}: up to {highest}, {faults}", machine.name);
        if let Some(next) = next {
            let lacks = next.missing_in(machine.policies.pv_max.features(), vendor);
            if !lacks.is_empty() {
                let lacks: Vec<String> = lacks.into_iter().map(name_of).collect();
                let heading = format!("  keeps the pool from {} by the lack of", next.name());
                names(&mut out, &heading, &lacks);
            }
        }
        let beside = machine.policies.visible_beside(policy);
        let beside = chosen(|feature| beside.has(feature));
        if !beside.is_empty() {
            names(&mut out, "  programs see beside", &beside);
        }
    }
    out
}
