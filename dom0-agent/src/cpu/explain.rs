//! What a feature is.

use std::fmt::Write;

use overcast_core::cpuid::{
    FeatureSet, Hiding, Level, OR_FEATURES, Origin, Vendor, bases, dependents, hiding, origin,
};
use serde::Serialize;
use xen_abi::cpufeatureset::{Exposure, Feature};

use super::{Machine, name_of};

/// What there is to say of a feature.
#[derive(Serialize)]
pub struct Explanation {
    feature: String,
    /// What it is for, where that is known here.
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<&'static str>,
    /// Its number in Xen's feature sets.
    number: u16,
    /// CPUID leaf or MSR, register and bit.
    told_by: String,
    /// Whether PV guests get it.
    pv_guests: &'static str,
    /// Without these it is not there.
    built_on: Vec<String>,
    /// Without it these are not there.
    carries: Vec<String>,
    /// The levels that have it.
    levels: Vec<&'static str>,
    /// Whether a pool has it as soon as one of its machines has.
    counts_if_any_has_it: bool,
    /// How it is kept from programs where CPUID faults, and where not.
    hidden_with_faulting: String,
    hidden_without_faulting: String,
    /// This machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    here: Option<Here>,
}

#[derive(Serialize)]
struct Here {
    cpu_has_it: bool,
    guests_may_have_it: bool,
    guests_are_shown_it: bool,
    programs_see_it_beside: bool,
}

/// What there is to say of a feature; of this machine too if there is one.
pub fn explain(feature: Feature, machine: Option<&Machine>) -> Explanation {
    let bit = feature.number % 32;
    let told_by = match origin(feature) {
        Origin::Leaf {
            leaf,
            subleaf: None,
            register,
        } => format!("CPUID leaf {leaf:#x}, {register} bit {bit}"),
        Origin::Leaf {
            leaf,
            subleaf: Some(subleaf),
            register,
        } => format!("CPUID leaf {leaf:#x}, subleaf {subleaf}, {register} bit {bit}"),
        Origin::Msr { index, shift } => {
            format!("MSR {index:#x}, bit {}", shift + u32::from(bit))
        }
    };
    let kept = |faulting| match hiding(feature, faulting) {
        Hiding::Enforced(register) => format!(
            "enforced by {}: a guest that is not shown it cannot use it",
            register.name()
        ),
        Hiding::Unannounced => {
            "not told of; who uses it without asking finds that it works".to_owned()
        }
        Hiding::Visible => "visible: programs see it in CPUID and can use it".to_owned(),
    };
    let in_level = |level: &Level| {
        let has = |vendor| -> FeatureSet { level.features(vendor) };
        has(Vendor::Intel).has(feature) || has(Vendor::Amd).has(feature)
    };
    Explanation {
        feature: name_of(feature),
        what: what(feature),
        number: feature.number,
        told_by,
        pv_guests: match feature.exposure {
            Exposure::All { default: true } => "may have it, and at the baseline host do",
            Exposure::All { default: false } => "may have it if their configuration asks for it",
            Exposure::Hvm { .. } | Exposure::Hap { .. } => "do not have it: it is for HVM guests",
            Exposure::None => "do not have it by choice",
        },
        built_on: bases(feature).map(name_of).collect(),
        carries: dependents(feature).map(name_of).collect(),
        levels: Level::ALL
            .iter()
            .filter(|level| in_level(level))
            .map(|level| level.name())
            .collect(),
        counts_if_any_has_it: OR_FEATURES.contains(&feature),
        hidden_with_faulting: kept(true),
        hidden_without_faulting: kept(false),
        here: machine.map(|machine| {
            let policies = &machine.policies;
            let beside = policies.visible_beside(&policies.pv_default);
            Here {
                cpu_has_it: policies.raw.has(feature),
                guests_may_have_it: policies.pv_max.has(feature),
                guests_are_shown_it: policies.pv_default.has(feature),
                programs_see_it_beside: beside.has(feature),
            }
        }),
    }
}

impl Explanation {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let list = |names: &[String]| match names {
            [] => "nothing".to_owned(),
            names => names.join(" "),
        };
        let mut line = |what: &str, text: &str| {
            let _ = writeln!(out, "{what:<20} {text}");
        };
        line("feature", &self.feature);
        if let Some(what) = self.what {
            line("is", what);
        }
        line("told by", &self.told_by);
        line("PV guests", self.pv_guests);
        line("built on", &list(&self.built_on));
        line("carries", &list(&self.carries));
        let levels = match &self.levels[..] {
            [] => "none".to_owned(),
            levels => levels.join(" "),
        };
        line("levels", &levels);
        if self.counts_if_any_has_it {
            line("in a pool", "counts as soon as one machine has it");
        }
        line("CPUID faults", &self.hidden_with_faulting);
        line("CPUID does not", &self.hidden_without_faulting);
        if let Some(here) = &self.here {
            let yes = |is| if is { "yes" } else { "no" };
            line("here: CPU has it", yes(here.cpu_has_it));
            line("guests may have it", yes(here.guests_may_have_it));
            line("guests are shown it", yes(here.guests_are_shown_it));
            line("programs see it so", yes(here.programs_see_it_beside));
        }
        out
    }
}

/// What the more important ones are (Intel SDM volume 1, chapter 5; AMD APM volume 3, appendix D).
fn what(feature: Feature) -> Option<&'static str> {
    Some(match feature.name {
        "CX16" => "CMPXCHG16B: compare and exchange 16 bytes",
        "SSE3" | "SSSE3" | "SSE4_1" | "SSE4_2" => "vector instructions of 128 bits",
        "POPCNT" => "POPCNT: count bits",
        "PCLMULQDQ" => "carry-less multiplication, for checksums and GCM",
        "AESNI" => "AES instructions",
        "MOVBE" => "load and store with bytes swapped",
        "XSAVE" => "XSAVE, XRSTOR and XCR0: extended state of the FPU",
        "XSAVEOPT" => "XSAVEOPT: saves only what was changed",
        "XSAVEC" => "XSAVEC: saves in the compacted format",
        "XGETBV1" => "XGETBV with ECX = 1: components in use",
        "AVX" => "vector instructions of 256 bits for floating point",
        "AVX2" => "vector instructions of 256 bits for integers",
        "FMA" => "fused multiply and add, three operands",
        "FMA4" => "fused multiply and add, four operands (AMD before Zen)",
        "F16C" => "conversion of 16-bit floating point",
        "BMI1" | "BMI2" | "TBM" => "bit manipulation in general registers",
        "ABM" => "LZCNT: count leading zeros (older CPUs execute BSR instead)",
        "RDRAND" => "random numbers",
        "RDSEED" => "seeds for random number generators",
        "ADX" => "additions with two carry chains",
        "SHA" => "SHA-1 and SHA-256 instructions",
        "AVX512F" => "vector instructions of 512 bits, the foundation",
        "GFNI" => "Galois field instructions",
        "VAES" | "VPCLMULQDQ" => "AES or carry-less multiplication on wide vectors",
        "FSGSBASE" => "user space reads and writes the FS and GS bases",
        "RDTSCP" => "RDTSCP: time stamp and CPU number together",
        "RDPID" => "RDPID: CPU number",
        "ERMS" | "FSRM" | "FZRM" | "FSRS" | "FSRCS" => {
            "fast string instructions; they work without it, slower"
        }
        "CLFLUSHOPT" | "CLWB" => "flush or write back a cache line, weakly ordered",
        "HLE" | "RTM" => "transactional memory",
        "PKU" => "protection keys for user pages",
        "UMIP" => "user space cannot read descriptor table registers",
        "SMEP" | "SMAP" => "ring 0 cannot execute or read user pages by mistake",
        "PCID" => "process-context identifiers in CR3",
        "INVPCID" => "INVPCID: flush a process-context's translations",
        "VMX" | "SVM" => "hardware virtualization",
        "SYSCALL" => "SYSCALL and SYSRET",
        "SEP" => "SYSENTER and SYSEXIT",
        "NX" => "pages that cannot be executed",
        "LM" => "64-bit mode",
        "LAHF_LM" => "LAHF and SAHF in 64-bit mode",
        "ITSC" => "the TSC runs at the same rate in all states",
        "TSC_DEADLINE" => "APIC timer by a time stamp",
        "X2APIC" => "the APIC by MSRs",
        "HYPERVISOR" => "there is a hypervisor",
        "3DNOW" | "3DNOWEXT" => "vector instructions of 64 bits (AMD before Bulldozer)",
        "3DNOWPREFETCH" => "PREFETCHW",
        "SSE4A" => "AMD's bit field instructions on vectors",
        "XOP" => "AMD's vector instructions before Zen",
        "MOVDIRI" | "MOVDIR64B" => "direct stores",
        "SERIALIZE" => "SERIALIZE: wait for all before",
        "ARCH_CAPS" => "the MSR IA32_ARCH_CAPABILITIES",
        "IBRSB" | "IBRS" | "STIBP" | "IBPB" | "SSBD" => "control of speculation",
        "RSBA" | "RRSBA" => "returns may be predicted by more than the return stack",
        "MD_CLEAR" | "FB_CLEAR" | "VERW_CLEAR" | "RFDS_CLEAR" => "VERW clears buffers",
        "FDP_EXCP_ONLY" => "the FPU's data pointer is set by exceptions only",
        "NO_FPU_SEL" => "the FPU saves no selectors",
        _ => return None,
    })
}
