//! Another policy for a domain that was not started yet (`XEN_DOMCTL_set_cpu_policy`).

use xen_abi::arch_x86::{CpuidLeaf, MsrEntry, XEN_CPUID_NO_SUBLEAF};
use xen_abi::cpufeatureset as f;

use super::serialise::{ARCH_CAPABILITIES, CPUID_FAULTING, PLATFORM_INFO};
use super::{BASIC, CpuidPolicy, EXTENDED_AMD, FEATURE, Leaf, MAX_LEAVES, MAX_MSRS, NOTHING};
use super::{Vendor, WORDS, XSTATE};
use crate::error::Error;

/// Why a policy was refused, and by what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PolicyError {
    /// `TooBig` for more than a policy has, `Range` for what a policy does not have,
    /// `Overflow` for the value of an MSR, `Invalid` else.
    pub error: Error,
    /// The leaf, or all ones.
    pub leaf: u32,
    /// The subleaf, or all ones.
    pub subleaf: u32,
    /// The MSR, or all ones.
    pub msr: u32,
}

impl PolicyError {
    /// An error that no leaf and no MSR is the reason for.
    pub const fn plain(error: Error) -> Self {
        Self {
            error,
            leaf: u32::MAX,
            subleaf: u32::MAX,
            msr: u32::MAX,
        }
    }

    const fn of_leaf(error: Error, leaf: u32, subleaf: u32) -> Self {
        Self {
            leaf,
            subleaf,
            ..Self::plain(error)
        }
    }

    const fn of_msr(error: Error, msr: u32) -> Self {
        Self {
            msr,
            ..Self::plain(error)
        }
    }
}

impl CpuidPolicy {
    /// This policy with other leaves and MSRs, as far as `max` lets a guest have what
    /// they say; the rest is taken out, as Xen does.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub fn updated(
        &self,
        leaves: &[CpuidLeaf],
        msrs: &[MsrEntry],
        max: &Self,
    ) -> Result<Self, PolicyError> {
        if leaves.len() > MAX_LEAVES as usize || msrs.len() > MAX_MSRS as usize {
            return Err(PolicyError::plain(Error::TooBig));
        }
        let mut new = self.clone();
        for leaf in leaves {
            new.set_leaf(leaf).ok_or(PolicyError::of_leaf(
                Error::Range,
                leaf.leaf,
                leaf.subleaf,
            ))?;
        }
        let mut capabilities = self.arch_capabilities();
        for msr in msrs {
            let refused = |error| Err(PolicyError::of_msr(error, msr.idx));
            match msr.idx {
                _ if msr.flags != 0 => return refused(Error::Invalid),
                PLATFORM_INFO if msr.val >> 32 != 0 => return refused(Error::Overflow),
                PLATFORM_INFO if msr.val & !max.platform_info() != 0 => {
                    return refused(Error::Invalid);
                }
                PLATFORM_INFO => new.cpuid_faulting = msr.val & CPUID_FAULTING != 0,
                ARCH_CAPABILITIES => capabilities = msr.val,
                _ => return refused(Error::Range),
            }
        }
        for (leaf, subleaf, more) in [
            (0, XEN_CPUID_NO_SUBLEAF, new.basic[0][0] > max.basic[0][0]),
            (7, 0, new.feature[0][0] > max.feature[0][0]),
            (
                0x8000_0000,
                XEN_CPUID_NO_SUBLEAF,
                new.extended[0][0] > max.extended[0][0],
            ),
        ] {
            if more {
                return Err(PolicyError::of_leaf(Error::Invalid, leaf, subleaf));
            }
        }
        new.settle(capabilities, max);
        Ok(new)
    }

    fn platform_info(&self) -> u64 {
        if self.cpuid_faulting {
            CPUID_FAULTING
        } else {
            0
        }
    }

    /// Takes a leaf over; `None` if policies have no such leaf.
    fn set_leaf(&mut self, from: &CpuidLeaf) -> Option<()> {
        let value: Leaf = [from.a, from.b, from.c, from.d];
        let subleaf = from.subleaf as usize;
        let place = match from.leaf {
            4 => self.cache.get_mut(subleaf)?,
            7 => self.feature.get_mut(subleaf)?,
            // Topology: each vCPU has one of its own, which says nothing.
            0xb => return (subleaf < 2).then_some(()),
            0xd => self.xstate.get_mut(subleaf)?,
            _ if from.subleaf != XEN_CPUID_NO_SUBLEAF => return None,
            // The limits of the hypervisor's own leaves are what they are.
            0x4000_0000 | 0x4000_0100 => return Some(()),
            0x8000_0000..=0x8000_ffff => self.extended.get_mut((from.leaf & 0xffff) as usize)?,
            leaf => self.basic.get_mut(leaf as usize)?,
        };
        *place = value;
        Some(())
    }

    /// Makes a policy out of what was asked for.
    fn settle(&mut self, capabilities: u64, max: &Self) {
        self.vendor = Vendor::of(self.basic[0]);
        let clear = |leaves: &mut [Leaf], last: u32, room: usize| {
            let first = (last as usize).saturating_add(1).min(room);
            leaves[first..].fill(NOTHING);
        };
        let (basic, feature) = (self.basic[0][0], self.feature[0][0]);
        clear(&mut self.basic, basic, BASIC);
        if basic < 7 {
            self.feature = [NOTHING; FEATURE];
        } else {
            clear(&mut self.feature, feature, FEATURE);
        }
        let last = self.extended[0][0];
        if last >> 16 == 0x8000 {
            clear(&mut self.extended, last & 0xffff, EXTENDED_AMD as usize);
        } else {
            self.extended = [NOTHING; EXTENDED_AMD as usize];
            self.extended[0][0] = 0x8000_0000;
        }

        let before = self.features;
        for (word, place, register) in WORDS {
            self.features.0[word] = self.place(place)[register];
        }
        self.features.0[f::FEATURESET_M10AL] = capabilities as u32;
        self.features.0[f::FEATURESET_M10AH] = (capabilities >> 32) as u32;
        let mut features = self.features.intersection(&max.features);
        if basic < 0xd {
            features.set(f::XSAVE, false);
        }
        let mut features = features.sanitised();
        for feature in [f::FDP_EXCP_ONLY, f::NO_FPU_SEL, f::HTT, f::CMP_LEGACY] {
            // Of the FPU, and of a topology that PV guests have not: as in the policy that the
            // domain got at first. (libxc gives every guest the machine's HTT.)
            features.set(feature, before.has(feature));
        }
        self.features = features;
        self.write_features();
        let components = max.xstate;
        self.write_xstate(&|_, subleaf| {
            components.get(subleaf as usize).copied().unwrap_or(NOTHING)
        });
        debug_assert!(self.xstate.len() == XSTATE);
        // The size of a cache line is the machine's.
        let line = 0xff00;
        self.basic[1][1] = (self.basic[1][1] & !line) | (max.basic[1][1] & line);
        let physical = |policy: &Self| policy.extended[8][0] & 0xff;
        let bits = physical(self).min(physical(max));
        self.extended[8][0] = (self.extended[8][0] & !0xff) | bits;
        self.hide();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FeatureSet, Hardware};
    use super::*;
    use proptest::prelude::*;

    /// A CPU with very much, but not all.
    fn cpu(leaf: u32, subleaf: u32) -> Leaf {
        match (leaf, subleaf) {
            (0, _) => [
                0xd,
                u32::from_le_bytes(*b"Genu"),
                u32::from_le_bytes(*b"ntel"),
                u32::from_le_bytes(*b"ineI"),
            ],
            (7, 0) => [2, u32::MAX, u32::MAX, u32::MAX],
            (0xd, 0) => [7, 832, 832, 0],
            (0xd, 2) => [256, 576, 0, 0],
            (4, 0) => [0x121, 0x1c0_003f, 0x3f, 0],
            (4, _) => NOTHING,
            (0x8000_0000, _) => [0x8000_0008, 0, 0, 0],
            (0x8000_0008, _) => [0x3028, 0, 0, 0],
            _ => [u32::MAX; 4],
        }
    }

    fn policies() -> (CpuidPolicy, CpuidPolicy) {
        let hardware = Hardware {
            arch_capabilities: Some(u64::MAX),
            ..Hardware::default()
        };
        let system = super::super::SystemPolicies::new(cpu, &hardware, &[]);
        let own = CpuidPolicy::for_pv(cpu, &hardware, false, &[], &[]);
        (own, system.pv_max)
    }

    fn leaf(leaf: u32, subleaf: u32, [a, b, c, d]: Leaf) -> CpuidLeaf {
        CpuidLeaf {
            leaf,
            subleaf,
            a,
            b,
            c,
            d,
        }
    }

    /// Whether the features are of those that `max` allows, but for what the FPU does
    /// whatever is chosen.
    fn allowed(features: &FeatureSet, max: &CpuidPolicy) -> bool {
        let mut chosen = *features;
        for feature in [f::FDP_EXCP_ONLY, f::NO_FPU_SEL] {
            chosen.set(feature, false);
        }
        chosen.intersection(max.features()) == chosen
    }

    #[test]
    fn its_own_leaves_change_nothing() {
        let (own, max) = policies();
        let same = own.updated(&own.leaves(), &own.msrs(), &max).unwrap();
        assert_eq!(same.features(), own.features());
        for (a, b) in same.leaves().iter().zip(&own.leaves()) {
            assert_eq!(a, b);
        }
        assert_eq!(same.msrs(), own.msrs());
    }

    #[test]
    fn a_feature_goes_with_what_is_built_on_it() {
        let (own, max) = policies();
        assert!(own.has(f::AVX2));
        let mut leaves = own.leaves();
        let one = leaves.iter_mut().find(|leaf| leaf.leaf == 1).unwrap();
        one.c &= !f::AVX.mask();
        let without = own.updated(&leaves, &[], &max).unwrap();
        assert!(!without.has(f::AVX) && !without.has(f::AVX2) && without.has(f::XSAVE));
        assert_eq!(without.xcr0_max(), 3);
    }

    #[test]
    fn nothing_beyond_the_most_is_given() {
        let (own, max) = policies();
        assert!(!max.has(f::VMX));
        let all = leaf(1, XEN_CPUID_NO_SUBLEAF, [0x506e3, 0, u32::MAX, u32::MAX]);
        let new = own.updated(&[all], &[], &max).unwrap();
        assert!(allowed(new.features(), &max));
    }

    #[test]
    fn what_is_refused() {
        let (own, max) = policies();
        let none = XEN_CPUID_NO_SUBLEAF;
        let refused = |leaves: &[CpuidLeaf], msrs: &[MsrEntry]| {
            own.updated(leaves, msrs, &max).map(|_| ()).unwrap_err()
        };
        for (number, subleaf) in [(0xe, none), (7, 3), (4, 6), (0xd, 63), (1, 0)] {
            let error = refused(&[leaf(number, subleaf, NOTHING)], &[]);
            assert_eq!(
                (error.error, error.leaf, error.subleaf),
                (Error::Range, number, subleaf)
            );
        }
        assert_eq!(
            refused(&[leaf(0x8000_0022, none, NOTHING)], &[]).error,
            Error::Range
        );
        assert_eq!(
            refused(&[leaf(0x4000_0001, none, NOTHING)], &[]).error,
            Error::Range
        );
        let error = refused(&[leaf(0, none, [0xe, 0, 0, 0])], &[]);
        assert_eq!((error.error, error.leaf), (Error::Invalid, 0));
        let error = refused(&[leaf(7, 0, [3, 0, 0, 0])], &[]);
        assert_eq!((error.error, error.leaf), (Error::Invalid, 7));
        assert_eq!(
            refused(&[leaf(0, none, NOTHING); 121], &[]).error,
            Error::TooBig
        );
        let msr = |idx, flags, val| MsrEntry { idx, flags, val };
        for (entry, error) in [
            (msr(0xce, 0, 1 << 32), Error::Overflow),
            (msr(0xce, 0, CPUID_FAULTING), Error::Invalid),
            (msr(0xce, 1, 0), Error::Invalid),
            (msr(0xcf, 0, 0), Error::Range),
        ] {
            let got = refused(&[], &[entry]);
            assert_eq!((got.error, got.msr), (error, entry.idx));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_is_a_policy(
            wanted in proptest::collection::vec(
                (prop_oneof![0u32..0xe, 0x8000_0000u32..0x8000_0009],
                 prop_oneof![Just(XEN_CPUID_NO_SUBLEAF), 0u32..4], any::<Leaf>()), 0..12),
            low in any::<bool>(),
        ) {
            let (own, max) = policies();
            let leaves: std::vec::Vec<_> = wanted
                .into_iter()
                .map(|(number, subleaf, mut value)| {
                    if low && matches!(number, 0 | 7 | 0x8000_0000) {
                        value[0] = number & 0x8000_0000 | value[0] & 1;
                    }
                    leaf(number, subleaf, value)
                })
                .collect();
            if let Ok(new) = own.updated(&leaves, &[], &max) {
                prop_assert!(allowed(new.features(), &max));
                prop_assert_eq!(new.xcr0_max() & !max.xcr0_max(), 0);
                prop_assert!(new.leaves().len() <= MAX_LEAVES as usize);
                let again = new.updated(&new.leaves(), &new.msrs(), &max).unwrap();
                prop_assert_eq!(again.features(), new.features());
            }
        }
    }
}
