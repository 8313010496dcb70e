//! Whether a guest that ran on one machine can run on another, and what machines have in
//! common.
//!
//! A guest's kernel knows what its policy says; its programs may know more, where CPUID does
//! not fault ([`hiding`]). Both choose their code once, by what they saw then: a machine must
//! offer the policy, and its CPU must execute what was [`Seen`] beside it.

use alloc::vec::Vec;
use core::fmt;

use xen_abi::arch_x86::{CpuidLeaf, MsrEntry};
use xen_abi::cpufeatureset as f;
use xen_abi::cpufeatureset::{FEATURES, Feature};

use super::baseline::{Hiding, OR_FEATURES, hiding};
use super::serialise::{ARCH_CAPABILITIES, CPUID_FAULTING, PLATFORM_INFO};
use super::{
    CACHE, COMMON_1D, CpuidPolicy, FEATURE, FeatureSet, Hardware, Identity, Level, MAX_LEAVES,
    MAX_MSRS, NOTHING, PV_DEFAULT, Place, PolicyError, SystemPolicies, Vendor, WORDS, XSTATE,
};
use crate::error::Error;

/// Where a feature is told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// By CPUID.
    Leaf {
        /// In EAX.
        leaf: u32,
        /// In ECX; `None` where it does not matter.
        subleaf: Option<u32>,
        /// Name of the register of the answer.
        register: &'static str,
    },
    /// By an MSR.
    Msr {
        /// Its number.
        index: u32,
        /// The first bit of the feature set's word in it.
        shift: u32,
    },
}

/// Where a feature is told of; the bit is its number modulo 32.
pub fn origin(feature: Feature) -> Origin {
    let word = feature.word();
    match WORDS.iter().find(|(known, ..)| *known == word) {
        Some(&(_, place, register)) => {
            let (leaf, subleaf) = match place {
                Place::Basic(leaf) => (leaf as u32, None),
                Place::Feature(subleaf) => (7, Some(subleaf as u32)),
                Place::Xstate(subleaf) => (0xd, Some(subleaf as u32)),
                Place::Extended(leaf) => (0x8000_0000 | leaf as u32, None),
            };
            Origin::Leaf {
                leaf,
                subleaf,
                register: ["EAX", "EBX", "ECX", "EDX"]
                    .get(register)
                    .copied()
                    .unwrap_or_default(),
            }
        }
        None => Origin::Msr {
            index: ARCH_CAPABILITIES,
            shift: if word == f::FEATURESET_M10AH { 32 } else { 0 },
        },
    }
}

/// Features that make something faster, or say how something is: a program that goes on as if
/// they were there still works.
const HINTS: &[Feature] = &[
    f::SS,
    f::HTT,
    f::ACPI,
    f::HYPERVISOR,
    f::CMP_LEGACY,
    f::THREEDNOWPREFETCH,
    f::HLE,
    f::FDP_EXCP_ONLY,
    f::NO_FPU_SEL,
    f::ERMS,
    f::FSRM,
    f::FZRM,
    f::FSRS,
    f::FSRCS,
    f::PREFETCHWT1,
    f::CLDEMOTE,
    f::ITSC,
    f::RSTR_FP_ERR_PTRS,
    f::RTM_ALWAYS_ABORT,
];

/// Features that a toolstack has no say in: domains have them as the machine has.
const OF_THE_MACHINE: &[Feature] = &[f::FDP_EXCP_ONLY, f::NO_FPU_SEL, f::HTT, f::CMP_LEGACY];

impl CpuidPolicy {
    /// The policy that leaves and MSRs describe ([`Self::leaves`], [`Self::msrs`]), from
    /// wherever they are; nothing is corrected.
    ///
    /// # Errors
    /// See [`PolicyError`]: more than a policy has, or what policies do not have.
    pub fn from_leaves(leaves: &[CpuidLeaf], msrs: &[MsrEntry]) -> Result<Self, PolicyError> {
        if leaves.len() > MAX_LEAVES as usize || msrs.len() > MAX_MSRS as usize {
            return Err(PolicyError::plain(Error::TooBig));
        }
        let mut policy = Self::from_hardware(&|_, _| NOTHING, &Hardware::default(), false);
        for leaf in leaves {
            policy.set_leaf(leaf).ok_or(PolicyError {
                leaf: leaf.leaf,
                subleaf: leaf.subleaf,
                ..PolicyError::plain(Error::Range)
            })?;
        }
        policy.vendor = Vendor::of(policy.basic[0]);
        for (word, place, register) in WORDS {
            policy.features.0[word] = policy.place(place)[register];
        }
        // AMD repeats leaf 1 there, which adds no features.
        policy.features.0[f::FEATURESET_E1D] &= !COMMON_1D;
        for msr in msrs {
            match msr.idx {
                PLATFORM_INFO => policy.cpuid_faulting = msr.val & CPUID_FAULTING != 0,
                ARCH_CAPABILITIES => {
                    policy.features.0[f::FEATURESET_M10AL] = msr.val as u32;
                    policy.features.0[f::FEATURESET_M10AH] = (msr.val >> 32) as u32;
                }
                idx => {
                    return Err(PolicyError {
                        msr: idx,
                        ..PolicyError::plain(Error::Range)
                    });
                }
            }
        }
        Ok(policy)
    }

    /// The model within its family, the extended one added.
    pub fn model(&self) -> u32 {
        let signature = self.basic[1][0];
        (signature >> 4 & 0xf) | (signature >> 12 & 0xf0)
    }

    /// The stepping.
    pub fn stepping(&self) -> u32 {
        self.basic[1][0] & 0xf
    }

    /// The 12 bytes of the vendor's name.
    pub fn vendor_name(&self) -> [u8; 12] {
        let [_, b, c, d] = self.basic[0];
        bytes_of([b, d, c])
    }

    /// The 48 bytes of the CPU's name, ended by zeroes.
    pub fn brand(&self) -> [u8; 48] {
        let [first, second, third] = [2, 3, 4].map(|leaf: usize| self.extended[leaf]);
        let mut words = [0; 12];
        let all = first.iter().chain(&second).chain(&third);
        words.iter_mut().zip(all).for_each(|(to, &from)| *to = from);
        bytes_of(words)
    }

    /// Where a state component lies in an XSAVE area: size and offset in bytes, and whether it
    /// is aligned in the compacted format. `None` if the policy does not have it.
    pub fn component(&self, index: u32) -> Option<(u32, u32, bool)> {
        let leaf = self.xstate.get(index as usize)?;
        (index >= 2 && self.xcr0_max() >> index & 1 != 0).then_some((
            leaf[0],
            leaf[1],
            leaf[2] & 2 != 0,
        ))
    }

    /// State components that both have, and have elsewhere in an XSAVE area.
    pub fn components_apart(&self, other: &Self) -> Vec<u32> {
        (2..XSTATE as u32)
            .filter(
                |&index| match (self.component(index), other.component(index)) {
                    (Some(mine), Some(theirs)) => mine != theirs,
                    _ => false,
                },
            )
            .collect()
    }

    /// The level that guests are shown, if it is one.
    pub fn level(&self) -> Option<Level> {
        Level::ALL
            .into_iter()
            .find(|level| self.features == level.features(self.vendor))
    }
}

fn bytes_of<const WORDS: usize, const BYTES: usize>(words: [u32; WORDS]) -> [u8; BYTES] {
    let mut out = [0; BYTES];
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    out.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    out
}

impl SystemPolicies {
    /// Whether CPUID faults in guests' user space, which then sees what its policy says.
    pub fn faulting(&self) -> bool {
        self.pv_max.cpuid_faulting
    }

    /// What the CPU has beside the features of a guest's policy, and what keeps each of them
    /// from the guest's user space.
    pub fn beside(&self, guest: &CpuidPolicy) -> impl Iterator<Item = (Feature, Hiding)> {
        // These say what the operating system set up, here the hypervisor; and AMD's CPUs
        // tell of SYSENTER, which they do not have in long mode.
        let amd = self.raw.vendor.is_amd();
        let no_matter =
            move |feature| [f::OSXSAVE, f::OSPKE].contains(&feature) || (amd && feature == f::SEP);
        FEATURES
            .iter()
            .copied()
            .filter(move |&feature| {
                let has = self.raw.has(feature) || self.host.has(feature);
                has && !guest.has(feature) && !no_matter(feature)
            })
            .map(|feature| (feature, hiding(feature, self.faulting())))
    }

    /// Features that user space sees here, and can use, beside those of its guest's policy.
    pub fn visible_beside(&self, guest: &CpuidPolicy) -> FeatureSet {
        let mut visible = FeatureSet::default();
        self.beside(guest)
            .filter(|&(_, hiding)| hiding == Hiding::Visible)
            .for_each(|(feature, _)| visible.set(feature, true));
        visible
    }
}

/// What a guest may have seen of CPUs, and may have chosen by.
#[derive(Clone)]
pub struct Seen {
    /// Its policy.
    pub policy: CpuidPolicy,
    /// Features that its user space saw beside that, on any machine where it was.
    pub visible: FeatureSet,
}

impl Seen {
    /// By a guest with a policy that has been on one machine only.
    pub fn on(machine: &SystemPolicies, policy: CpuidPolicy) -> Self {
        let visible = machine.visible_beside(&policy);
        Self { policy, visible }
    }

    /// It has been on this machine too.
    pub fn also_on(&mut self, machine: &SystemPolicies) {
        self.add(&machine.visible_beside(&self.policy));
    }

    /// Its user space may have seen these too.
    pub fn add(&mut self, visible: &FeatureSet) {
        let words = self.visible.0.iter_mut().zip(visible.0);
        words.for_each(|(to, from)| *to |= from);
    }

    /// What is in the way of it on a machine; nothing if it can run there.
    pub fn obstacles_on(&self, machine: &SystemPolicies) -> Vec<Obstacle> {
        let mut found = Vec::new();
        let (guest, most) = (&self.policy, &machine.pv_max);
        if guest.vendor_name() != most.vendor_name() {
            found.push(Obstacle::Vendor {
                guest: guest.vendor_name(),
                machine: most.vendor_name(),
            });
        }
        for &feature in FEATURES {
            let of_machine = OF_THE_MACHINE.contains(&feature);
            if guest.has(feature) && !most.has(feature) && !of_machine {
                found.push(Obstacle::Feature(feature));
            } else if self.visible.has(feature)
                && !guest.has(feature)
                && !machine.raw.has(feature)
                && !machine.host.has(feature)
                && !HINTS.contains(&feature)
            {
                found.push(Obstacle::Visible(feature));
            }
        }
        for (leaf, guest, most) in [
            (0, guest.basic[0][0], most.basic[0][0]),
            (7, guest.feature[0][0], most.feature[0][0]),
            (0x8000_0000, guest.extended[0][0], most.extended[0][0]),
        ] {
            if guest > most {
                found.push(Obstacle::Leaf { leaf, guest, most });
            }
        }
        if guest.cpuid_faulting && !most.cpuid_faulting {
            found.push(Obstacle::Faulting);
        }
        let apart = guest.components_apart(most).into_iter();
        found.extend(apart.map(Obstacle::Component));
        found
    }
}

/// What keeps a guest from running on a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// The CPUs are of different vendors.
    Vendor {
        /// Whose CPU the guest was shown.
        guest: [u8; 12],
        /// Who made the machine's.
        machine: [u8; 12],
    },
    /// The guest was shown a feature that the machine cannot give.
    Feature(Feature),
    /// User space could see a feature, which the guest was not shown and the CPU does not have.
    Visible(Feature),
    /// The guest knows of more leaves (or subleaves of leaf 7) than the machine may show.
    Leaf {
        /// The one that says how many there are.
        leaf: u32,
        /// What the guest was told.
        guest: u32,
        /// The most that it can be told here.
        most: u32,
    },
    /// The guest may have CPUID fault in its user space, and cannot here.
    Faulting,
    /// A state component lies elsewhere in an XSAVE area.
    Component(u32),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |name| {
            core::str::from_utf8(name)
                .unwrap_or("another vendor")
                .trim()
        };
        match self {
            Self::Vendor { guest, machine } => write!(
                out,
                "the guest has a CPU of {}, the machine one of {}",
                text(guest),
                text(machine)
            ),
            Self::Feature(feature) => write!(
                out,
                "{}: the guest has it, the machine cannot give it",
                feature.name.to_ascii_lowercase()
            ),
            Self::Visible(feature) => write!(
                out,
                "{}: the guest's programs could see it (CPUID did not fault), the machine lacks it",
                feature.name.to_ascii_lowercase()
            ),
            Self::Leaf { leaf, guest, most } => write!(
                out,
                "CPUID leaf {leaf:#x}: the guest knows of leaves up to {guest:#x}, the machine may show {most:#x}"
            ),
            Self::Faulting => write!(
                out,
                "CPUID faulting: the guest may use it, the machine does not have it"
            ),
            Self::Component(index) => {
                write!(out, "XSAVE component {index} lies elsewhere on the machine")
            }
        }
    }
}

impl CpuidPolicy {
    /// This policy with other features: those of `choices` on or off, as far as `most` has them,
    /// and without what is built on one that is off.
    ///
    /// # Errors
    /// The features that are to be on, and `most` cannot give (or not without others that are off).
    pub fn with(&self, most: &Self, choices: &[(Feature, bool)]) -> Result<Self, Vec<Feature>> {
        let mut policy = self.clone();
        for &(feature, on) in choices {
            policy.features.set(feature, on);
        }
        policy.features = policy.features.intersection(&most.features).sanitised();
        let wanted = choices.iter().filter(|&&(feature, on)| {
            // The last word on a feature counts.
            let last = choices.iter().rev().find(|(other, _)| *other == feature);
            on && last.is_some_and(|(_, on)| *on) && !policy.has(feature)
        });
        let missing: Vec<Feature> = wanted.map(|&(feature, _)| feature).collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        if policy.has(f::XSAVE) {
            let limit = &mut policy.basic[0][0];
            *limit = (*limit).max(most.basic[0][0].min(0xd));
        }
        policy.write_features();
        let states = most.xstate;
        policy.write_xstate(&|_, subleaf| states.get(subleaf as usize).copied().unwrap_or(NOTHING));
        policy.hide();
        Ok(policy)
    }
}

/// Why there is no CPU for all machines of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolError {
    /// There is no machine.
    Empty,
    /// The machine (counted from 0) has another vendor's CPU than the first.
    Vendor(usize),
}

/// The best CPU that all machines of a pool can give a guest: what they have in common of what
/// guests get by themselves, levelled otherwise as the psABI level that it holds. For one machine
/// alone, with its own model, name and caches if `identity` says so.
///
/// # Errors
/// See [`PoolError`].
pub fn pool(machines: &[&SystemPolicies], identity: Identity) -> Result<CpuidPolicy, PoolError> {
    let &first = machines.first().ok_or(PoolError::Empty)?;
    let vendor = first.pv_max.vendor_name();
    let other = |machine: &&SystemPolicies| machine.pv_max.vendor_name() != vendor;
    if let Some(at) = machines.iter().position(other) {
        return Err(PoolError::Vendor(at));
    }
    let sets: Vec<FeatureSet> = machines
        .iter()
        .map(|machine| {
            let mut set = machine.pv_max.features;
            for &feature in OR_FEATURES {
                // A guest may be shown some of these anywhere; what counts is how it is.
                set.set(feature, machine.host.has(feature));
            }
            set
        })
        .collect();
    let mut features = FeatureSet::common(&sets);
    for &feature in FEATURES {
        let default = PV_DEFAULT.has(feature) || [f::RSBA, f::RRSBA].contains(&feature);
        if !default || [f::HTT, f::CMP_LEGACY].contains(&feature) {
            features.set(feature, false);
        }
    }
    for machine in machines {
        // Who keeps it elsewhere cannot go on with another's.
        for index in first.pv_max.components_apart(&machine.pv_max) {
            features.set(if index == 2 { f::AVX } else { f::AVX512F }, false);
        }
    }
    let features = features.sanitised();

    let mut policy = first.pv_max.clone();
    let most = |of: fn(&CpuidPolicy) -> u32| {
        let each = machines.iter().map(|machine| of(&machine.pv_max));
        each.min().unwrap_or(0)
    };
    policy.basic[0][0] = most(|policy| policy.basic[0][0]);
    let subleaves = most(|policy| policy.feature[0][0]);
    policy.extended[0][0] = most(|policy| policy.extended[0][0]);
    policy.feature = [NOTHING; FEATURE];
    policy.feature[0][0] = subleaves;
    policy.features = features;
    policy.write_features();
    let states = policy.xstate;
    policy.write_xstate(&|_, subleaf| states.get(subleaf as usize).copied().unwrap_or(NOTHING));
    policy.cpuid_faulting = false;
    if machines.len() > 1 || identity == Identity::Level {
        policy.cache = [NOTHING; CACHE];
        policy.level_numbers();
        let level = Level::highest_in(&features, policy.vendor).unwrap_or(Level::V1);
        policy.level_identity(level);
    }
    policy.hide();
    // What is beyond the limits, and the features there.
    let leaves = policy.leaves();
    let mut out = CpuidPolicy::from_leaves(&leaves, &policy.msrs()).unwrap_or(policy);
    out.features = out.features.sanitised();
    Ok(out)
}

#[cfg(test)]
mod tests;
