use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;
use xen_abi::cpufeatureset::FEATURESET_WORDS;

use super::super::{Hardware, by_name};
use super::*;

/// Features that CPUs of several generations have, each with those of the line that it
/// names first (vendors' documentation and `/proc/cpuinfo` of such machines). Of the words
/// of CPUID only; HYPERVISOR and SEP are set for all.
const CPUS: &[(&str, Vendor, &str, &str)] = &[
    (
        "x86-64",
        Vendor::Other,
        "",
        "fpu vme de pse tsc msr pae mce cx8 mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 htt syscall nx lm",
    ),
    (
        "nehalem",
        Vendor::Intel,
        "x86-64",
        "sse3 ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm rdtscp itsc vmx x2apic",
    ),
    (
        "westmere",
        Vendor::Intel,
        "nehalem",
        "aesni pclmulqdq pcid page1gb",
    ),
    (
        "sandybridge",
        Vendor::Intel,
        "westmere",
        "xsave xsaveopt avx tsc_deadline",
    ),
    (
        "ivybridge",
        Vendor::Intel,
        "sandybridge",
        "f16c rdrand fsgsbase erms smep",
    ),
    (
        "haswell",
        Vendor::Intel,
        "ivybridge",
        "fma movbe bmi1 bmi2 avx2 invpcid abm fdp_excp_only no_fpu_sel",
    ),
    (
        "broadwell",
        Vendor::Intel,
        "haswell",
        "rdseed adx smap 3dnowprefetch rtm hle rsba",
    ),
    (
        "skylake",
        Vendor::Intel,
        "broadwell",
        "xsavec xgetbv1 xsaves clflushopt mpx",
    ),
    (
        "skylake-sp",
        Vendor::Intel,
        "skylake",
        "avx512f avx512dq avx512cd avx512bw avx512vl clwb pku",
    ),
    (
        "icelake-sp",
        Vendor::Intel,
        "skylake-sp",
        "sha avx512_vbmi avx512_ifma avx512_vbmi2 gfni vaes vpclmulqdq avx512_vnni avx512_bitalg avx512_vpopcntdq rdpid fsrm",
    ),
    (
        "sapphire-rapids",
        Vendor::Intel,
        "icelake-sp",
        "avx_vnni avx512_bf16 movdiri movdir64b cldemote serialize",
    ),
    (
        "k10",
        Vendor::Amd,
        "x86-64",
        "sse3 cx16 popcnt lahf_lm cmp_legacy abm sse4a misalignsse mmxext ffxsr rdtscp 3dnow 3dnowext svm page1gb 3dnowprefetch",
    ),
    (
        "bulldozer",
        Vendor::Amd,
        "x86-64",
        "sse3 ssse3 cx16 sse4_1 sse4_2 popcnt aesni pclmulqdq xsave avx lahf_lm cmp_legacy abm sse4a misalignsse xop fma4 mmxext ffxsr rdtscp svm page1gb 3dnowprefetch",
    ),
    ("piledriver", Vendor::Amd, "bulldozer", "fma f16c bmi1 tbm"),
    (
        "zen",
        Vendor::Amd,
        "x86-64",
        "sse3 ssse3 cx16 sse4_1 sse4_2 popcnt aesni pclmulqdq xsave xsaveopt xsavec xgetbv1 avx avx2 fma f16c movbe rdrand rdseed adx bmi1 bmi2 fsgsbase sha clflushopt smep smap lahf_lm cmp_legacy abm sse4a misalignsse mmxext ffxsr rdtscp svm page1gb 3dnowprefetch clzero fdp_excp_only",
    ),
    ("zen2", Vendor::Amd, "zen", "clwb rdpid"),
    (
        "zen3",
        Vendor::Amd,
        "zen2",
        "erms fsrm invpcid vaes vpclmulqdq pku",
    ),
    (
        "zen4",
        Vendor::Amd,
        "zen3",
        "avx512f avx512dq avx512cd avx512bw avx512vl avx512_vbmi avx512_ifma avx512_vbmi2 gfni avx512_vnni avx512_bitalg avx512_vpopcntdq avx512_bf16",
    ),
];

fn cpu(name: &str) -> (Vendor, FeatureSet) {
    let &(_, vendor, base, features) = CPUS
        .iter()
        .find(|(known, ..)| *known == name)
        .unwrap_or_else(|| panic!("{name}"));
    let mut set = match base {
        "" => FeatureSet::default(),
        base => cpu(base).1,
    };
    for feature in features.split(' ') {
        let header = feature.replace("3dnow", "threednow");
        let found = FEATURES
            .iter()
            .find(|known| known.name.eq_ignore_ascii_case(&header))
            .or_else(|| {
                FEATURES
                    .iter()
                    .find(|known| known.name.eq_ignore_ascii_case(feature))
            });
        set.set(*found.unwrap_or_else(|| panic!("{feature}")), true);
    }
    set.set(f::HYPERVISOR, true);
    set.set(f::APIC, true);
    set.set(f::SEP, vendor == Vendor::Intel);
    (vendor, set)
}

#[test]
fn levels_of_real_cpus() {
    for (name, level) in [
        ("x86-64", Level::V1),
        ("k10", Level::V1),
        ("nehalem", Level::V2),
        ("westmere", Level::V2),
        ("sandybridge", Level::V2),
        ("ivybridge", Level::V2),
        ("bulldozer", Level::V2),
        ("piledriver", Level::V2),
        ("haswell", Level::V3),
        ("broadwell", Level::V3),
        ("skylake", Level::V3),
        ("zen", Level::V3),
        ("zen3", Level::V3),
        ("skylake-sp", Level::V4),
        ("sapphire-rapids", Level::V4),
        ("zen4", Level::V4),
    ] {
        let (vendor, set) = cpu(name);
        assert_eq!(Level::highest_in(&set, vendor), Some(level), "{name}");
    }
}

#[test]
fn levels_are_whole_and_for_pv() {
    for vendor in [Vendor::Intel, Vendor::Amd] {
        let mut below = FeatureSet::default();
        for level in Level::ALL {
            let features = level.features(vendor);
            assert_eq!(features.sanitised(), features, "{}", level.name());
            assert!(features.missing(&below).is_empty());
            let allowed = super::super::PV_DEFAULT;
            assert_eq!(features.intersection(&allowed), features);
            assert_eq!(Level::by_name(level.name()), Some(level));
            below = features;
        }
    }
    assert_eq!(Level::by_name("v3"), Some(Level::V3));
    assert_eq!(Level::by_name("x86-64-v5"), None);
}

#[test]
fn what_is_missing_is_named() {
    let (vendor, set) = cpu("piledriver");
    let lacks = Lacks {
        level: Level::V3,
        features: Level::V3.missing_in(&set, vendor),
    };
    assert_eq!(
        lacks.to_string(),
        "no x86-64-v3 here, for want of movbe rdrand xsaveopt fsgsbase avx2 bmi2"
    );
}

#[test]
fn pools_of_real_cpus() {
    let pool = |names: &[&str]| {
        let sets: Vec<_> = names.iter().map(|name| cpu(name).1).collect();
        FeatureSet::common(&sets)
    };
    let common = pool(&["haswell", "skylake-sp", "zen4"]);
    assert_eq!(Level::highest_in(&common, Vendor::Amd), Some(Level::V3));
    assert!(!common.has(f::INVPCID) || cpu("zen4").1.has(f::INVPCID));
    assert!(common.has(f::NO_FPU_SEL), "one of them does so");
    // Without XSAVE nothing that is built on it is left.
    let common = pool(&["westmere", "bulldozer"]);
    assert!(!common.has(f::XSAVE) && !common.has(f::AVX) && common.has(f::AESNI));
    assert_eq!(FeatureSet::common([]), FeatureSet::default());
}

/// A machine as CPUID was recorded on it.
pub(in super::super) fn recorded(text: &str) -> BTreeMap<(u32, u32), Leaf> {
    let end = text.find("\ndom0").unwrap_or(text.len());
    let leaves = super::super::parse_leaves(&text[..end]);
    assert!(leaves.len() > 20);
    leaves
}

fn policy_of(text: &str) -> CpuidPolicy {
    let leaves = recorded(text);
    let raw = |leaf, subleaf| leaves.get(&(leaf, subleaf)).copied().unwrap_or(NOTHING);
    CpuidPolicy::for_pv(raw, &Hardware::default(), false, &[], &[])
}

fn text_of(policy: &CpuidPolicy) -> Vec<String> {
    let leaves = policy.leaves();
    leaves
        .iter()
        .map(|leaf| std::format!("{leaf:x?}"))
        .collect()
}

pub(in super::super) const MAX: &str = include_str!("../testdata/qemu-max.txt");
pub(in super::super) const EPYC: &str = include_str!("../testdata/qemu-epyc.txt");
pub(in super::super) const SKYLAKE: &str = include_str!("../testdata/qemu-skylake-server.txt");
pub(in super::super) const QEMU64: &str = include_str!("../testdata/qemu-qemu64.txt");

#[test]
fn a_level_is_the_same_on_every_machine() {
    let (max, epyc, skylake) = (policy_of(MAX), policy_of(EPYC), policy_of(SKYLAKE));
    assert_ne!(text_of(&max), text_of(&epyc));
    for level in [Level::V1, Level::V2, Level::V3] {
        let on = |policy: &CpuidPolicy| policy.levelled(level, Identity::Level).unwrap();
        assert_eq!(text_of(&on(&max)), text_of(&on(&epyc)), "{}", level.name());
        assert_eq!(on(&max).msrs(), on(&epyc).msrs());
        assert_eq!(on(&max).xcr0_max(), on(&epyc).xcr0_max());
        // Of the other vendor, but for SYSENTER the same features.
        let mut features = *on(&skylake).features();
        features.set(f::SEP, false);
        assert_eq!(&features, on(&max).features());
    }
}

#[test]
fn what_a_levelled_cpu_says() {
    let v3 = policy_of(SKYLAKE)
        .levelled(Level::V3, Identity::Level)
        .unwrap();
    assert_eq!(v3.family(), 6);
    assert_eq!(v3.xcr0_max(), 7);
    let v2 = policy_of(SKYLAKE)
        .levelled(Level::V2, Identity::Level)
        .unwrap();
    assert_eq!(v2.xcr0_max(), 0);
    assert!(!v2.xcr0_valid(7));
    let name: Vec<u8> = v3.extended[2..5]
        .iter()
        .flatten()
        .flat_map(|register| register.to_le_bytes())
        .collect();
    assert!(name.starts_with(b"Overcast x86-64-v3\0"));
    let machine = policy_of(SKYLAKE)
        .levelled(Level::V3, Identity::Machine)
        .unwrap();
    assert_ne!(machine.basic[1][0], v3.basic[1][0]);
    assert_eq!(machine.features(), v3.features());
    let error = policy_of(QEMU64).levelled(Level::V2, Identity::Level);
    let lacks = error.err().unwrap();
    assert!(lacks.features.contains(&f::SSSE3));
}

#[test]
fn a_toolstack_may_set_a_levelled_policy() {
    let (leaves, hardware) = (recorded(MAX), Hardware::default());
    let raw = |leaf, subleaf| leaves.get(&(leaf, subleaf)).copied().unwrap_or(NOTHING);
    let system = super::super::SystemPolicies::new(raw, &hardware, &[]);
    let v3 = policy_of(MAX).levelled(Level::V3, Identity::Level).unwrap();
    let set = v3
        .updated(&v3.leaves(), &v3.msrs(), &system.pv_max)
        .unwrap();
    assert_eq!(text_of(&set), text_of(&v3));
    // On another machine too, as for a guest that comes from there.
    let leaves = recorded(EPYC);
    let raw = |leaf, subleaf| leaves.get(&(leaf, subleaf)).copied().unwrap_or(NOTHING);
    let other = super::super::SystemPolicies::new(raw, &hardware, &[]);
    let own = policy_of(EPYC)
        .levelled(Level::V3, Identity::Level)
        .unwrap();
    let set = own
        .updated(&v3.leaves(), &v3.msrs(), &other.pv_max)
        .unwrap();
    assert_eq!(text_of(&set), text_of(&v3));
}

#[test]
fn what_hides_what() {
    // What is built on AVX, at whatever distance, and what has components of its own.
    for feature in [
        f::AVX2,
        f::VAES,
        f::AVX_VNNI,
        f::AVX512_BF16,
        f::AVX512_VNNI,
        f::XOP,
        f::MPX,
        f::LWP,
    ] {
        assert_eq!(hiding(feature, false), Hiding::Enforced(Register::Xcr0));
    }
    for feature in [f::XSAVE, f::XGETBV1, f::GFNI, f::SHA, f::PCLMULQDQ] {
        assert_eq!(hiding(feature, false), Hiding::Visible);
    }
    assert_eq!(hiding(f::FSGSBASE, true), Hiding::Enforced(Register::Cr4));
    assert_eq!(
        hiding(f::SMAP, false),
        Hiding::Enforced(Register::Privilege)
    );
    assert_eq!(hiding(f::AESNI, false), Hiding::Visible);
    assert_eq!(hiding(f::AESNI, true), Hiding::Unannounced);
    assert!(by_name("aesni").is_some());
}

fn any_set() -> impl Strategy<Value = FeatureSet> {
    prop_oneof![
        any::<[u32; FEATURESET_WORDS]>().prop_map(FeatureSet),
        (
            0..CPUS.len(),
            any::<[u32; FEATURESET_WORDS]>(),
            any::<bool>()
        )
            .prop_map(|(at, noise, less)| {
                let mut set = cpu(CPUS[at].0).1;
                for (word, noise) in set.0.iter_mut().zip(noise) {
                    *word = if less {
                        *word & !(noise & noise >> 3)
                    } else {
                        *word | noise & noise >> 3 & noise >> 7
                    };
                }
                set
            }),
    ]
}

proptest! {
    #[test]
    fn closure_is_idempotent(set in any_set()) {
        let once = set.sanitised();
        prop_assert_eq!(once.sanitised(), once);
        prop_assert_eq!(once.intersection(&set), once);
    }

    #[test]
    fn a_pool_gives_what_each_has(pool in proptest::collection::vec(any_set(), 1..6)) {
        let common = FeatureSet::common(&pool);
        for member in &pool {
            let beyond = member.missing(&common);
            prop_assert!(beyond.iter().all(|feature| OR_FEATURES.contains(feature)));
        }
        for &feature in OR_FEATURES {
            prop_assert_eq!(common.has(feature), pool.iter().any(|set| set.has(feature)));
        }
        // The order does not matter, and who joins with what is common changes nothing.
        let mut turned = pool.clone();
        turned.reverse();
        turned.push(common);
        prop_assert_eq!(FeatureSet::common(&turned), common);
    }

    #[test]
    fn a_level_that_is_given_is_had(set in any_set(), vendor in prop_oneof![Just(Vendor::Intel), Just(Vendor::Amd)]) {
        if let Some(level) = Level::highest_in(&set, vendor) {
            prop_assert!(set.missing(&level.features(vendor)).is_empty());
        }
    }
}
