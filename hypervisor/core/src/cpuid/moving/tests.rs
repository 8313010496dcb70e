use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::baseline::tests::{EPYC, MAX, QEMU64, SKYLAKE, recorded};
use super::super::{by_name, dependents};
use super::*;

/// A recorded machine, of whose features some are hidden or added in CPUID.
fn machine(text: &str, faulting: bool, less: &[Feature]) -> SystemPolicies {
    let leaves = recorded(text);
    let raw = |leaf, subleaf| {
        let mut out = leaves.get(&(leaf, subleaf)).copied().unwrap_or(NOTHING);
        for &feature in less {
            let Origin::Leaf {
                leaf: at,
                subleaf: below,
                register,
            } = origin(feature)
            else {
                continue;
            };
            if (at, below.unwrap_or(subleaf)) == (leaf, subleaf) {
                let names = ["EAX", "EBX", "ECX", "EDX"];
                let index = names.iter().position(|name| *name == register).unwrap();
                out[index] &= !feature.mask();
            }
        }
        out
    };
    let hardware = Hardware {
        cpuid_faulting: faulting,
        ..Hardware::default()
    };
    let mut system = SystemPolicies::new(raw, &hardware, &[]);
    let own = CpuidPolicy::for_pv(raw, &hardware, false, &[], &[]);
    let highest = Level::highest_in(own.features(), own.vendor()).unwrap();
    system.pv_default = own
        .levelled(highest.min(Level::V3), Identity::Level)
        .unwrap();
    system
}

fn guest_of(machine: &SystemPolicies) -> Seen {
    Seen::on(machine, machine.pv_default.clone())
}

fn told(obstacles: &[Obstacle]) -> Vec<String> {
    obstacles.iter().map(ToString::to_string).collect()
}

#[test]
fn features_are_chosen_one_by_one() {
    let machine = machine(EPYC, false, &[]);
    let (most, v3) = (&machine.pv_max, &machine.pv_default);
    let v2 = most.levelled(Level::V2, Identity::Level).unwrap();
    // Off goes what is built on it; the last word counts.
    let choices = [(f::AVX, true), (f::AVX, false), (f::ADX, true)];
    let less = v3.with(most, &choices).unwrap();
    assert!(!less.has(f::AVX2) && !less.has(f::FMA) && less.has(f::XSAVE) && less.has(f::ADX));
    assert_eq!(less.xcr0_max(), 3);
    // On it works only with what it is built on.
    let choices = [(f::XSAVE, true), (f::AVX, true)];
    let more = v2.with(most, &choices).unwrap();
    assert_eq!((more.xcr0_max(), more.basic[0][0]), (7, 0xd));
    assert_eq!(more.component(2), v3.component(2));
    assert_eq!(v2.with(most, &choices[1..]).err(), Some(vec![f::AVX]));
    assert_eq!(
        v2.with(most, &[(f::AVX512F, true)]).err(),
        Some(vec![f::AVX512F])
    );
    // Nothing chosen, nothing changed.
    assert_eq!(v3.with(most, &[]).unwrap().leaves(), v3.leaves());
    let guest = Seen::on(&machine, more);
    assert_eq!(guest.obstacles_on(&machine), []);
}

#[test]
fn leaves_make_the_policy_again() {
    for text in [MAX, EPYC, SKYLAKE, QEMU64] {
        let machine = machine(text, true, &[]);
        for policy in [
            &machine.raw,
            &machine.host,
            &machine.pv_max,
            &machine.pv_default,
        ] {
            let again = CpuidPolicy::from_leaves(&policy.leaves(), &policy.msrs()).unwrap();
            assert_eq!(again.leaves(), policy.leaves());
            assert_eq!(again.msrs(), policy.msrs());
            assert_eq!(again.vendor(), policy.vendor());
            assert_eq!(again.xcr0_max(), policy.xcr0_max());
        }
        for policy in [&machine.host, &machine.pv_max, &machine.pv_default] {
            let again = CpuidPolicy::from_leaves(&policy.leaves(), &policy.msrs()).unwrap();
            let (mut features, again) = (*policy.features(), *again.features());
            if policy.extended[0][0] < 0x8000_0021 {
                // A guest may be told so, but by a leaf that is not there.
                features.set(f::VERW_CLEAR, false);
            }
            assert_eq!(again, features);
        }
    }
}

#[test]
fn what_is_no_policy() {
    let leaf = |leaf, subleaf| CpuidLeaf {
        leaf,
        subleaf,
        a: 0,
        b: 0,
        c: 0,
        d: 0,
    };
    let error = |leaves: &[CpuidLeaf], msrs: &[MsrEntry]| {
        CpuidPolicy::from_leaves(leaves, msrs).err().unwrap()
    };
    assert_eq!(error(&[leaf(0x20, u32::MAX)], &[]).leaf, 0x20);
    assert_eq!(error(&[leaf(7, 3)], &[]).subleaf, 3);
    assert_eq!(
        error(&vec![leaf(0, u32::MAX); 121], &[]).error,
        Error::TooBig
    );
    let msr = MsrEntry {
        idx: 1,
        flags: 0,
        val: 0,
    };
    assert_eq!(error(&[], &[msr]).msr, 1);
}

#[test]
fn where_features_are_told_of() {
    let told = |name: &str| origin(by_name(name).unwrap());
    let leaf = |leaf, subleaf, register| Origin::Leaf {
        leaf,
        subleaf,
        register,
    };
    assert_eq!(told("aesni"), leaf(1, None, "ECX"));
    assert_eq!(told("avx2"), leaf(7, Some(0), "EBX"));
    assert_eq!(told("xsavec"), leaf(0xd, Some(1), "EAX"));
    assert_eq!(told("clzero"), leaf(0x8000_0008, None, "EBX"));
    let register = |shift| Origin::Msr {
        index: 0x10a,
        shift,
    };
    assert_eq!(told("mds-no"), register(0));
    assert_eq!(told("its-no"), register(32));
}

#[test]
fn a_level_goes_wherever_it_is_had() {
    let (max, epyc) = (machine(MAX, true, &[]), machine(EPYC, true, &[]));
    // What was not seen is no obstacle.
    assert_eq!(guest_of(&max).obstacles_on(&epyc), []);
    assert_eq!(guest_of(&epyc).obstacles_on(&max), []);
    // A v3 guest on a v2 machine.
    let old = machine(EPYC, true, &[f::AVX2, f::BMI2]);
    assert_eq!(old.pv_default.level(), Some(Level::V2));
    let found = guest_of(&max).obstacles_on(&old);
    assert_eq!(
        found,
        [Obstacle::Feature(f::AVX2), Obstacle::Feature(f::BMI2)]
    );
    assert_eq!(
        told(&found)[0],
        "avx2: the guest has it, the machine cannot give it"
    );
    assert_eq!(guest_of(&old).obstacles_on(&max), []);
}

#[test]
fn what_programs_saw_is_counted() {
    let (open, closed) = (machine(EPYC, false, &[]), machine(EPYC, true, &[]));
    let without = machine(EPYC, true, &[f::ADX, f::ERMS]);
    assert!(
        !machine(EPYC, true, &[])
            .visible_beside(&open.pv_default)
            .has(f::ADX)
    );
    let seen = guest_of(&open);
    assert!(seen.visible.has(f::ADX) && !seen.policy.has(f::ADX));
    assert!(!seen.visible.has(f::SEP), "not in long mode on this one");
    assert_eq!(seen.obstacles_on(&closed), []);
    assert_eq!(
        seen.obstacles_on(&without),
        [Obstacle::Visible(f::ADX)],
        "and ERMS is but a hint"
    );
    // It also counts when it was seen on the way.
    let mut seen = guest_of(&closed);
    assert_eq!(seen.obstacles_on(&without), []);
    seen.also_on(&open);
    assert_eq!(seen.obstacles_on(&without), [Obstacle::Visible(f::ADX)]);
}

#[test]
fn vendors_and_leaves_and_state() {
    let (amd, intel) = (machine(EPYC, true, &[]), machine(SKYLAKE, true, &[]));
    let found = guest_of(&intel).obstacles_on(&amd);
    assert_eq!(
        told(&found[..1]),
        ["the guest has a CPU of GenuineIntel, the machine one of AuthenticAMD"]
    );
    assert_eq!(found[1..], [Obstacle::Feature(f::SEP)]);

    let mut guest = guest_of(&amd);
    guest.policy.basic[0][0] = 0x20;
    guest.policy.cpuid_faulting = true;
    guest.policy.xstate[2][1] += 64;
    let open = machine(EPYC, false, &[]);
    assert_eq!(
        guest.obstacles_on(&open),
        [
            Obstacle::Leaf {
                leaf: 0,
                guest: 0x20,
                most: 0xd
            },
            Obstacle::Faulting,
            Obstacle::Component(2)
        ]
    );
}

#[test]
fn what_pools_have_in_common() {
    let (max, epyc) = (machine(MAX, true, &[]), machine(EPYC, true, &[]));
    let common = pool(&[&max, &epyc], Identity::Level).unwrap();
    let level = Level::highest_in(common.features(), common.vendor());
    assert_eq!(level, Some(Level::V3));
    for machine in [&max, &epyc] {
        let guest = Seen {
            policy: common.clone(),
            visible: FeatureSet::default(),
        };
        assert_eq!(guest.obstacles_on(machine), []);
        let set = machine
            .pv_default
            .updated(&common.leaves(), &common.msrs(), &machine.pv_max)
            .unwrap();
        assert_eq!(set.leaves(), common.leaves());
    }
    assert!(common.has(f::ADX), "beyond the level");
    let less = machine(EPYC, true, &[f::AVX2, f::ADX]);
    let common = pool(&[&max, &less], Identity::Level).unwrap();
    assert!(!common.has(f::AVX2) && !common.has(f::ADX) && common.has(f::AVX));
    let mut apart = machine(EPYC, true, &[]);
    apart.pv_max.xstate[2][1] += 64;
    let common = pool(&[&max, &apart], Identity::Level).unwrap();
    assert!(!common.has(f::AVX) && common.has(f::AESNI));
    assert_eq!(common.xcr0_max(), 3);
    let intel = machine(SKYLAKE, true, &[]);
    assert_eq!(
        pool(&[&max, &epyc, &intel], Identity::Level).err(),
        Some(PoolError::Vendor(2))
    );
    assert_eq!(pool(&[], Identity::Level).err(), Some(PoolError::Empty));
    // Alone, it may stay who it is.
    let own = pool(&[&intel], Identity::Machine).unwrap();
    assert_eq!(own.brand(), intel.raw.brand());
    assert_eq!(own.model(), 0x55);
}

#[test]
fn what_is_built_on_what() {
    assert!(dependents(f::AVX).any(|feature| feature == f::FMA));
    assert!(super::super::bases(f::FMA).any(|feature| feature == f::AVX));
    assert!(super::super::bases(f::MDS_NO).any(|feature| feature == f::ARCH_CAPS));
    assert_eq!(super::super::bases(f::FPU).count(), 0);
}

fn any_less() -> impl Strategy<Value = Vec<Feature>> {
    proptest::collection::vec(proptest::sample::select(FEATURES), 0..24).prop_map(|mut less| {
        // Every machine has the first level, and says so.
        less.retain(|&feature| {
            !Level::V1.features(Vendor::Intel).has(feature) && feature != f::XSAVE
        });
        less
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_pools_cpu_runs_on_each_of_it(
        pool_of in proptest::collection::vec((prop_oneof![Just(MAX), Just(EPYC)], any::<bool>(), any_less()), 1..4)
    ) {
        let machines: Vec<_> = pool_of
            .iter()
            .map(|(text, faulting, less)| machine(text, *faulting, less))
            .collect();
        let all: Vec<_> = machines.iter().collect();
        let common = pool(&all, Identity::Level).unwrap();
        for machine in &machines {
            let guest = Seen { policy: common.clone(), visible: FeatureSet::default() };
            prop_assert_eq!(guest.obstacles_on(machine), []);
            // And what can run can be set, without a loss.
            let set = machine.pv_default.updated(&common.leaves(), &common.msrs(), &machine.pv_max).unwrap();
            prop_assert_eq!(set.features(), common.features());
        }
    }

    #[test]
    fn who_has_all_can_run_all(less in any_less(), faulting in any::<bool>(), from in any::<bool>()) {
        let whole = machine(MAX, faulting, &[]);
        let part = machine(MAX, from, &less);
        prop_assert_eq!(guest_of(&part).obstacles_on(&whole), []);
        // Back only without what it has not; each feature is named.
        let found = guest_of(&whole).obstacles_on(&part);
        for obstacle in found {
            match obstacle {
                Obstacle::Feature(feature) => prop_assert!(!part.pv_max.has(feature)),
                Obstacle::Visible(feature) => prop_assert!(!part.raw.has(feature) && !faulting),
                other => prop_assert!(matches!(other, Obstacle::Component(_)), "{other}"),
            }
        }
    }

    #[test]
    fn whatever_the_leaves_say(
        leaves in proptest::collection::vec((prop_oneof![0u32..0x10, 0x8000_0000u32..0x8000_0024], prop_oneof![Just(u32::MAX), 0u32..6], any::<[u32; 4]>()), 0..40),
        capabilities in any::<u64>(),
    ) {
        let leaves: Vec<_> = leaves
            .into_iter()
            .filter(|&(leaf, subleaf, _)| match leaf {
                4 => subleaf < 6,
                7 => subleaf < 3,
                0xb => subleaf < 2,
                0xd => subleaf < 6,
                0xe | 0xf | 0x8000_0022..=0x8000_0023 => false,
                _ => subleaf == u32::MAX,
            })
            .map(|(leaf, subleaf, [a, b, c, d])| CpuidLeaf { leaf, subleaf, a, b, c, d })
            .collect();
        let msrs = [MsrEntry { idx: 0x10a, flags: 0, val: capabilities }];
        let policy = CpuidPolicy::from_leaves(&leaves, &msrs).unwrap();
        prop_assert_eq!(policy.arch_capabilities(), capabilities);
        let machine = SystemPolicies {
            raw: policy.clone(),
            host: policy.clone(),
            pv_max: policy.clone(),
            pv_default: policy.clone(),
        };
        let other = machine_of_all();
        let _ = Seen::on(&machine, policy.clone()).obstacles_on(&other);
        let _ = guest_of(&other).obstacles_on(&machine);
        prop_assert_eq!(guest_of(&machine).obstacles_on(&machine), []);
        let _ = pool(&[&machine, &machine], Identity::Level).unwrap();
        let _ = pool(&[&machine], Identity::Machine).unwrap();
        let _ = policy.levelled(Level::V1, Identity::Level);
        let _ = (policy.brand(), policy.level(), policy.family(), policy.model());
    }
}

fn machine_of_all() -> SystemPolicies {
    machine(MAX, false, &[])
}
