//! Policies as the control interface shows them (`xen_cpuid_leaf_t`,
//! `xen_msr_entry_t`, arch-x86/xen.h), and those of the machine.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{CpuidPolicy, EXTENDED_AMD, FeatureSet, Hardware, Leaf, NOTHING, XSTATE};
use crate::cmdline::FeatureChoice;
use xen_abi::arch_x86::{CpuidLeaf, MsrEntry, XEN_CPUID_NO_SUBLEAF};

/// The most leaves that a policy has (`CPUID_MAX_SERIALISED_LEAVES`).
pub const MAX_LEAVES: u32 = 120;
/// The MSRs that a policy has (`MSR_MAX_SERIALISED_ENTRIES`).
pub const MAX_MSRS: u32 = 2;

pub(super) const PLATFORM_INFO: u32 = 0xce;
pub(super) const ARCH_CAPABILITIES: u32 = 0x10a;
/// PLATFORM_INFO: user-space CPUID can be made to fault.
pub(super) const CPUID_FAULTING: u64 = 1 << 31;

/// The policies of the machine (`XEN_SYSCTL_get_cpu_policy`).
#[derive(Clone)]
pub struct SystemPolicies {
    /// As CPUID gives it.
    pub raw: CpuidPolicy,
    /// What the hypervisor uses.
    pub host: CpuidPolicy,
    /// What a PV guest may have.
    pub pv_max: CpuidPolicy,
    /// What a PV guest has unless its configuration says otherwise.
    pub pv_default: CpuidPolicy,
}

/// A leaf in text, `LEAF:SUBLEAF -> EAX:EBX:ECX:EDX`, hexadecimal, as `xen-cpuid -p` prints it.
pub fn parse_leaf(line: &str) -> Option<CpuidLeaf> {
    let (key, value) = line.split_once(" -> ")?;
    let mut words = key
        .split(':')
        .chain(value.split(':'))
        .map(|word| u32::from_str_radix(word.trim(), 16).ok());
    let mut word = || words.next().flatten();
    let leaf = CpuidLeaf {
        leaf: word()?,
        subleaf: word()?,
        a: word()?,
        b: word()?,
        c: word()?,
        d: word()?,
    };
    words.next().is_none().then_some(leaf)
}

/// Leaves in text, each on a line of its own, by leaf and subleaf; other lines are passed over.
pub fn parse_leaves(text: &str) -> BTreeMap<(u32, u32), Leaf> {
    let leaves = text.lines().filter_map(parse_leaf);
    leaves
        .map(|leaf| {
            let subleaf = match leaf.subleaf {
                XEN_CPUID_NO_SUBLEAF => 0,
                subleaf => subleaf,
            };
            ((leaf.leaf, subleaf), [leaf.a, leaf.b, leaf.c, leaf.d])
        })
        .collect()
}

impl SystemPolicies {
    /// The policies of this machine; the arguments as of [`CpuidPolicy::for_pv`].
    pub fn new(
        raw: impl Fn(u32, u32) -> Leaf,
        hardware: &Hardware,
        host: &[FeatureChoice],
    ) -> Self {
        let features = super::SystemFeatures::new(&raw, hardware, host);
        let policy = CpuidPolicy::from_hardware(&raw, hardware, false);
        let with = |features: FeatureSet, guest: bool| {
            let mut policy = policy.clone();
            policy.features = features;
            policy.write_features();
            policy.write_xstate(&raw);
            if guest {
                policy.hide();
            }
            policy
        };
        let mut as_it_is = policy.clone();
        as_it_is.read_xstate(&raw);
        Self {
            raw: as_it_is,
            host: with(features.host, false),
            pv_max: with(features.pv_max, true),
            pv_default: with(features.pv_default, true),
        }
    }
}

impl CpuidPolicy {
    /// Leaf 0xd as CPUID gives it.
    fn read_xstate(&mut self, raw: &impl Fn(u32, u32) -> Leaf) {
        if self.basic[0][0] < 0xd {
            return;
        }
        self.xstate[0] = raw(0xd, 0);
        let components = self.xstates();
        for (index, leaf) in (0u32..).zip(self.xstate.iter_mut()).skip(2) {
            if components >> index & 1 != 0 {
                *leaf = raw(0xd, index);
            }
        }
    }

    /// State components of XCR0 and of IA32_XSS.
    fn xstates(&self) -> u64 {
        let word = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        word(self.xstate[0][0], self.xstate[0][3]) | word(self.xstate[1][2], self.xstate[1][3])
    }

    /// All leaves in their order; at most [`MAX_LEAVES`].
    pub fn leaves(&self) -> Vec<CpuidLeaf> {
        let mut out = Vec::new();
        let mut put = |leaf, subleaf, [a, b, c, d]: Leaf| {
            out.push(CpuidLeaf {
                leaf,
                subleaf,
                a,
                b,
                c,
                d,
            });
        };
        for (leaf, &basic) in (0..=self.basic[0][0]).zip(&self.basic) {
            match leaf {
                4 => {
                    for (subleaf, &cache) in (0..).zip(&self.cache) {
                        put(leaf, subleaf, cache);
                        if cache[0] & 0x1f == 0 {
                            break;
                        }
                    }
                }
                7 => {
                    for (subleaf, &feature) in (0..=self.feature[0][0]).zip(&self.feature) {
                        put(leaf, subleaf, feature);
                    }
                }
                // Each vCPU has a topology of its own, so there is none here.
                0xb => put(leaf, 0, NOTHING),
                0xd => {
                    let components = self.xstates();
                    let last = (u64::BITS - components.leading_zeros()).max(2);
                    for (subleaf, &state) in (0..last.min(XSTATE as u32)).zip(&self.xstate) {
                        put(leaf, subleaf, state);
                    }
                }
                _ => put(leaf, XEN_CPUID_NO_SUBLEAF, basic),
            }
        }
        // The hypervisor's own leaves: whether, and how many, is not limited.
        put(0x4000_0000, XEN_CPUID_NO_SUBLEAF, NOTHING);
        put(0x4000_0100, XEN_CPUID_NO_SUBLEAF, NOTHING);
        let last = (self.extended[0][0] & 0xffff).min(EXTENDED_AMD - 1);
        for (leaf, &extended) in (0..=last).zip(&self.extended) {
            put(0x8000_0000 | leaf, XEN_CPUID_NO_SUBLEAF, extended);
        }
        out
    }

    /// The MSRs.
    pub fn msrs(&self) -> [MsrEntry; MAX_MSRS as usize] {
        let entry = |idx, val| MsrEntry { idx, flags: 0, val };
        let faulting = if self.cpuid_faulting {
            CPUID_FAULTING
        } else {
            0
        };
        [
            entry(PLATFORM_INFO, faulting),
            entry(ARCH_CAPABILITIES, self.arch_capabilities()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CPU with all components of state, caches and leaves that there could be.
    fn everything(leaf: u32, subleaf: u32) -> Leaf {
        match (leaf, subleaf) {
            (0, _) => [
                0x20,
                u32::from_le_bytes(*b"Genu"),
                u32::from_le_bytes(*b"ntel"),
                u32::from_le_bytes(*b"ineI"),
            ],
            (0x8000_0000, _) => [0x8000_0030, 0, 0, 0],
            _ => [u32::MAX; 4],
        }
    }

    #[test]
    fn leaves_are_in_order_and_no_more_than_there_may_be() {
        let policies = SystemPolicies::new(everything, &Hardware::default(), &[]);
        for policy in [
            &policies.raw,
            &policies.host,
            &policies.pv_max,
            &policies.pv_default,
        ] {
            let leaves = policy.leaves();
            assert!(leaves.len() <= MAX_LEAVES as usize, "{}", leaves.len());
            assert!(leaves.is_sorted_by(|a, b| (a.leaf, a.subleaf) < (b.leaf, b.subleaf)));
        }
    }

    #[test]
    fn a_cpu_with_nothing() {
        let policies = SystemPolicies::new(|_, _| NOTHING, &Hardware::default(), &[]);
        // Leaf 0, and the first of the hypervisor's two ranges and the extended one.
        assert_eq!(policies.raw.leaves().len(), 4);
        assert_eq!(policies.raw.msrs()[0].idx, PLATFORM_INFO);
    }
}
