//! Recorded machines, and what is told of them: compared with the texts in `testdata`, which
//! are written anew with `UPDATE_TESTDATA=1`.

use std::path::PathBuf;

use overcast_core::cpuid::{
    CpuidPolicy, Hardware, Identity, Level, SystemPolicies, parse_leaves, pool,
};
use proptest::prelude::*;
use xen_abi::cpufeatureset as f;

use super::explain::explain;
use super::file::{self, MachineFile, PolicyFile};
use super::report::{Comparison, dump, pooled};
use super::*;

const MAX: &str = include_str!("../../../hypervisor/core/src/cpuid/testdata/qemu-max.txt");
const EPYC: &str = include_str!("../../../hypervisor/core/src/cpuid/testdata/qemu-epyc.txt");
const SKYLAKE: &str =
    include_str!("../../../hypervisor/core/src/cpuid/testdata/qemu-skylake-server.txt");
const QEMU64: &str = include_str!("../../../hypervisor/core/src/cpuid/testdata/qemu-qemu64.txt");

/// A machine as the hypervisor shows it, with the highest level up to v3.
fn machine(name: &str, recorded: &str, faulting: bool) -> Machine {
    let end = recorded.find("\ndom0").unwrap_or(recorded.len());
    let leaves = parse_leaves(&recorded[..end]);
    let raw = |leaf, subleaf| leaves.get(&(leaf, subleaf)).copied().unwrap_or([0; 4]);
    let hardware = Hardware {
        cpuid_faulting: faulting,
        ..Hardware::default()
    };
    let mut policies = SystemPolicies::new(raw, &hardware, &[]);
    let own = CpuidPolicy::for_pv(raw, &hardware, false, &[], &[]);
    let highest = Level::highest_in(own.features(), own.vendor()).unwrap();
    policies.pv_default = own
        .levelled(highest.min(Level::V3), Identity::Level)
        .unwrap();
    Machine {
        name: name.to_owned(),
        policies,
    }
}

/// Through the file and back.
fn filed(machine: &Machine) -> Machine {
    let text = serde_json::to_string_pretty(&MachineFile::of(machine)).unwrap();
    file::machine_from(&text).unwrap()
}

/// Compares a text with the one that is kept.
fn is_kept(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("src/cpu/testdata")
        .join(name);
    if std::env::var_os("UPDATE_TESTDATA").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, kept, "{name}");
}

#[test]
fn files_hold_all() {
    for (recorded, faulting) in [(MAX, true), (EPYC, false), (SKYLAKE, true), (QEMU64, false)] {
        let machine = machine("a", recorded, faulting);
        let again = filed(&machine);
        assert_eq!(again.name, "a");
        assert_eq!(again.policies.faulting(), faulting);
        for (one, other) in [
            (&machine.policies.raw, &again.policies.raw),
            (&machine.policies.host, &again.policies.host),
            (&machine.policies.pv_max, &again.policies.pv_max),
            (&machine.policies.pv_default, &again.policies.pv_default),
        ] {
            assert_eq!(serialise(one), serialise(other));
        }
        assert_eq!(dump(&machine), dump(&again));
        assert_eq!(again.baseline(), machine.baseline());
    }
}

#[test]
fn what_is_told_of_a_machine() {
    is_kept(
        "dump-epyc.txt",
        &dump(&filed(&machine("epyc", EPYC, false))),
    );
    is_kept(
        "dump-skylake.txt",
        &dump(&filed(&machine("skylake", SKYLAKE, true))),
    );
    let json = serde_json::to_string_pretty(&MachineFile::of(&machine("epyc", EPYC, false)));
    is_kept("dump-epyc.json", &(json.unwrap() + "\n"));
}

#[test]
fn what_is_told_of_two() {
    let compare = |from: &Machine, to: &Machine| Comparison::of(&filed(from), &filed(to));
    let (max, epyc) = (machine("max", MAX, false), machine("epyc", EPYC, false));
    let away = compare(&max, &epyc);
    assert!(!away.can_move());
    is_kept("compare-max-epyc.txt", &away.text());
    // With faulting nobody saw more than both have.
    let hidden = compare(&machine("max", MAX, true), &machine("epyc", EPYC, true));
    assert!(hidden.can_move(), "{}", hidden.text());
    is_kept("compare-hidden.txt", &hidden.text());
    let old = compare(&epyc, &machine("qemu64", QEMU64, false));
    assert!(!old.can_move());
    is_kept("compare-epyc-qemu64.txt", &old.text());
    let vendors = compare(&machine("skylake", SKYLAKE, true), &epyc);
    assert!(!vendors.can_move());
    let json = serde_json::to_string_pretty(&vendors).unwrap();
    is_kept("compare-vendors.json", &(json + "\n"));
}

#[test]
fn what_is_told_of_a_pool() {
    let machines = [machine("max", MAX, true), machine("epyc", EPYC, false)];
    let all: Vec<_> = machines.iter().map(|machine| &machine.policies).collect();
    let common = pool(&all, Identity::Level).unwrap();
    is_kept("baseline.txt", &pooled(&common, &machines));
    let json = serde_json::to_string_pretty(&PolicyFile::of(&common, &machines)).unwrap();
    let again = file::policy_from(&json).unwrap();
    assert_eq!(serialise(&again), serialise(&common));
    is_kept("baseline.json", &(json + "\n"));
}

#[test]
fn what_is_told_of_a_feature() {
    let machine = machine("epyc", EPYC, false);
    let mut all = String::new();
    for flag in ["avx2", "aes", "adx", "rsba", "vmx", "fsgsbase", "its-no"] {
        let feature = feature_by_name(flag).unwrap_or_else(|| panic!("{flag}"));
        all += &explain(feature, Some(&machine)).text();
        all += "\n";
    }
    is_kept("explain.txt", &all);
}

#[test]
fn features_have_the_names_of_others_too() {
    for (name, feature) in [
        ("pni", f::SSE3),
        ("sse4_1", f::SSE4_1),
        ("sse4.1", f::SSE4_1),
        ("SSE4-1", f::SSE4_1),
        ("avx512_vbmi", f::AVX512_VBMI),
        ("avx512vbmi", f::AVX512_VBMI),
        ("3dnow", f::THREEDNOW),
        ("osxsave", f::OSXSAVE),
    ] {
        assert_eq!(feature_by_name(name), Some(feature), "{name}");
    }
    assert_eq!(feature_by_name("no-such"), None);
    for &feature in FEATURES {
        assert_eq!(feature_by_name(feature.name), Some(feature));
        let text = explain(feature, None).text();
        assert!(text.contains(&name_of(feature)));
    }
}

#[test]
fn cpus_are_chosen_by_name() {
    let (epyc, qemu64) = (machine("epyc", EPYC, false), machine("old", QEMU64, false));
    let on = |name: &str, machine: &Machine| choose(name, &machine.policies);
    assert!(on("auto", &epyc).unwrap().is_none());
    let v2 = parse(&on("x86-64-v2", &epyc).unwrap().unwrap()).unwrap();
    assert_eq!(v2.level(), Some(Level::V2));
    assert_eq!(on("v2", &epyc).unwrap(), Some(serialise(&v2)));
    let host = parse(&on("host", &epyc).unwrap().unwrap()).unwrap();
    assert!(host.has(f::ADX) && host.brand() == epyc.policies.raw.brand());
    let error = on("x86-64-v2", &qemu64).unwrap_err();
    assert_eq!(error.exit_status(), 7);
    assert!(error.to_string().contains("ssse3"), "{error}");
    let error = on("x86-64-v9", &epyc).unwrap_err();
    assert_eq!(error.exit_status(), 2);
    assert!(error.to_string().contains("x86-64-v4"), "{error}");
    // What a machine is given it also takes.
    for policy in [&v2, &host] {
        let guest = Seen {
            policy: policy.clone(),
            visible: Default::default(),
        };
        assert_eq!(can_run(&guest, &epyc.policies), Ok(()));
        assert!(can_run(&guest, &qemu64.policies).is_err());
    }
}

#[test]
fn features_are_chosen_as_xl_has_it() {
    let epyc = machine("epyc", EPYC, false);
    let made = |cpu, cpuid| of_new(cpu, cpuid, &epyc.policies);
    assert!(made(None, None).unwrap().is_none());
    let policy = |cpu, cpuid| parse(&made(cpu, Some(cpuid)).unwrap().unwrap()).unwrap();
    let less = policy(None, "host,avx=0,adx=1,sse4.1=k");
    assert!(!less.has(f::AVX2) && less.has(f::ADX) && less.has(f::SSE4_1));
    let more = policy(Some("v2"), "aes=1");
    assert!(more.has(f::AESNI) && !more.has(f::AVX));
    for (cpuid, status, word) in [
        ("host,avx", 2, "\"avx\""),
        ("avx=2", 2, "expected"),
        ("nonsense=1", 2, "nonsense"),
        ("avx512f=1", 7, "avx512f"),
    ] {
        let error = made(None, Some(cpuid)).unwrap_err();
        assert_eq!(error.exit_status(), status, "{cpuid}: {error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn files_that_are_none() {
    let good = serde_json::to_value(MachineFile::of(&machine("a", EPYC, false))).unwrap();
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = good.clone();
        change(&mut value);
        file::machine_from(&value.to_string())
            .err()
            .unwrap()
            .to_string()
    };
    assert!(refused(&|v| v["format"] = "other".into()).contains("other"));
    assert!(refused(&|v| v["policies"]["raw"] = 1.into()).contains("JSON"));
    let line = |v: &mut serde_json::Value, text: &str| {
        v["policies"]["pv_max"]["leaves"][0] = text.into();
    };
    assert!(refused(&|v| line(v, "x")).contains("no line"));
    assert!(refused(&|v| line(v, "100000000:0 -> 0:0:0:0")).contains("no line"));
    assert!(refused(&|v| line(v, "00000007:00000009 -> 0:0:0:0")).contains("leaf 0x7"));
    assert!(file::read_machine("/nowhere/b".as_ref()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_file_breaks_it(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut text = serde_json::to_vec(&MachineFile::of(&machine("a", MAX, false))).unwrap();
        let at = at.index(text.len());
        text[at] = byte;
        if cut {
            text.truncate(at);
        }
        if let Ok(machine) = file::machine_from(&String::from_utf8_lossy(&text)) {
            let other = super::tests::machine("b", EPYC, false);
            let _ = (dump(&machine), Comparison::of(&machine, &other).text(), Comparison::of(&other, &machine).text());
            let _ = pool(&[&machine.policies, &other.policies], Identity::Level);
        }
    }
}
