//! Sets of CPU features, and what depends on what.

use xen_abi::cpufeatureset as f;
use xen_abi::cpufeatureset::{Exposure, FEATURES, FEATURESET_WORDS, Feature};

/// A set of CPU features, numbered as in arch-x86/cpufeatureset.h.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FeatureSet(pub [u32; FEATURESET_WORDS]);

impl FeatureSet {
    /// Whether the feature is in the set.
    pub fn has(&self, feature: Feature) -> bool {
        self.0
            .get(feature.word())
            .is_some_and(|word| word & feature.mask() != 0)
    }

    /// Puts a feature in or takes it out.
    pub fn set(&mut self, feature: Feature, present: bool) {
        if let Some(word) = self.0.get_mut(feature.word()) {
            if present {
                *word |= feature.mask();
            } else {
                *word &= !feature.mask();
            }
        }
    }

    /// The features of both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut out = *self;
        for (word, other) in out.0.iter_mut().zip(other.0) {
            *word &= other;
        }
        out
    }

    /// Those features that have a name and what they are built on.
    ///
    /// A feature without the one that it depends on goes, and what depends on it with it.
    pub fn sanitised(&self) -> Self {
        let mut out = self.intersection(&KNOWN);
        loop {
            let before = out;
            for &(base, dependents) in DEPENDENTS {
                if !out.has(base) {
                    for &dependent in dependents {
                        out.set(dependent, false);
                    }
                }
            }
            if !out.has(f::ARCH_CAPS) {
                // The feature tells of the whole register.
                out.0[f::FEATURESET_M10AL] = 0;
                out.0[f::FEATURESET_M10AH] = 0;
            }
            if out == before {
                return out;
            }
        }
    }
}

const fn select(all: bool, defaults_only: bool) -> FeatureSet {
    let mut words = [0; FEATURESET_WORDS];
    let mut at = 0;
    while at < FEATURES.len() {
        let feature = FEATURES[at];
        let chosen = match feature.exposure {
            Exposure::All { default } => default || !defaults_only,
            _ => all,
        };
        if chosen {
            words[feature.word()] |= feature.mask();
        }
        at += 1;
    }
    FeatureSet(words)
}

/// Features that have a name.
pub const KNOWN: FeatureSet = select(true, false);
/// Features that a PV guest may have if it is asked for.
pub const PV_MAX: FeatureSet = select(false, false);
/// Features that a PV guest has by itself.
pub const PV_DEFAULT: FeatureSet = select(false, true);

/// Bits of leaf 1 EDX that AMD repeats in leaf 0x80000001 EDX.
pub const COMMON_1D: u32 = f::FPU.mask()
    | f::VME.mask()
    | f::DE.mask()
    | f::PSE.mask()
    | f::TSC.mask()
    | f::MSR.mask()
    | f::PAE.mask()
    | f::MCE.mask()
    | f::CX8.mask()
    | f::APIC.mask()
    | f::MTRR.mask()
    | f::PGE.mask()
    | f::MCA.mask()
    | f::CMOV.mask()
    | f::PAT.mask()
    | f::PSE36.mask()
    | f::MMX.mask()
    | f::FXSR.mask();

/// A feature by its name on the command line: that of the header in lower
/// case with `-` for `_`.
pub fn by_name(name: &str) -> Option<Feature> {
    let same = |theirs: &str| {
        theirs.len() == name.len()
            && theirs.bytes().zip(name.bytes()).all(|(a, b)| {
                let a = a.to_ascii_lowercase();
                let b = b.to_ascii_lowercase();
                a == b || (a == b'_' && b == b'-') || (a == b'_' && b == b'.')
            })
    };
    // Bits that follow other state have no name of their own.
    FEATURES
        .iter()
        .copied()
        .find(|feature| same(feature.name))
        .filter(|&feature| ![f::APIC, f::OSXSAVE, f::OSPKE].contains(&feature))
}

/// What a feature is built on, directly.
pub fn bases(feature: Feature) -> impl Iterator<Item = Feature> {
    let of_register =
        feature.word() == f::FEATURESET_M10AL || feature.word() == f::FEATURESET_M10AH;
    let listed = DEPENDENTS
        .iter()
        .filter(move |(_, built)| built.contains(&feature));
    listed
        .map(|&(base, _)| base)
        .chain(of_register.then_some(f::ARCH_CAPS))
}

/// What is built on a feature, directly.
pub fn dependents(feature: Feature) -> impl Iterator<Item = Feature> {
    FEATURES
        .iter()
        .copied()
        .filter(move |&built| bases(built).any(|base| base == feature))
}

/// What is built on what: without the first, none of the others. (Intel SDM
/// volume 1 chapters 5 and 13, volume 2 CPUID; AMD APM volume 3 appendix D.)
const DEPENDENTS: &[(Feature, &[Feature])] = &[
    (f::FPU, &[f::MMX, f::RSTR_FP_ERR_PTRS]),
    (f::PSE, &[f::PSE36]),
    (f::PAE, &[f::LM, f::NX]),
    (
        f::TSC,
        &[f::TSC_DEADLINE, f::RDTSCP, f::TSC_ADJUST, f::ITSC],
    ),
    (f::APIC, &[f::X2APIC, f::TSC_DEADLINE, f::EXTAPIC]),
    (f::MMX, &[f::MMXEXT, f::THREEDNOW]),
    (f::FXSR, &[f::FFXSR, f::SSE]),
    (f::SSE, &[f::SSE2, f::MISALIGNSSE]),
    (
        f::SSE2,
        &[f::SSE3, f::LM, f::AESNI, f::PCLMULQDQ, f::SHA, f::GFNI],
    ),
    (f::SSE3, &[f::SSSE3, f::SSE4A]),
    (f::SSSE3, &[f::SSE4_1]),
    (f::SSE4_1, &[f::SSE4_2]),
    (
        f::XSAVE,
        &[
            f::XSAVEOPT,
            f::XSAVEC,
            f::XGETBV1,
            f::XSAVES,
            f::AVX,
            f::MPX,
            f::PKU,
            f::LWP,
        ],
    ),
    (f::AVX, &[f::FMA, f::FMA4, f::F16C, f::AVX2, f::XOP]),
    (f::NX, &[f::SMAP]),
    (
        f::LM,
        &[f::CX16, f::PCID, f::LAHF_LM, f::PAGE1GB, f::PKU, f::NO_LMSL],
    ),
    (f::THREEDNOW, &[f::THREEDNOWEXT]),
    (f::AVX2, &[f::AVX512F, f::VAES, f::VPCLMULQDQ, f::AVX_VNNI]),
    (
        f::AVX512F,
        &[
            f::AVX512DQ,
            f::AVX512_IFMA,
            f::AVX512PF,
            f::AVX512ER,
            f::AVX512CD,
            f::AVX512BW,
            f::AVX512VL,
            f::AVX512_4VNNIW,
            f::AVX512_4FMAPS,
            f::AVX512_VNNI,
            f::AVX512_VPOPCNTDQ,
            f::AVX512_VP2INTERSECT,
        ],
    ),
    (
        f::AVX512BW,
        &[
            f::AVX512_VBMI,
            f::AVX512_VBMI2,
            f::AVX512_BITALG,
            f::AVX512_BF16,
            f::AVX512_FP16,
        ],
    ),
    (f::PCLMULQDQ, &[f::VPCLMULQDQ]),
    (f::AESNI, &[f::VAES]),
    (
        f::IBRSB,
        &[
            f::STIBP,
            f::SSBD,
            f::INTEL_PSFD,
            f::EIBRS,
            f::IPRED_CTRL,
            f::RRSBA_CTRL,
            f::BHI_CTRL,
        ],
    ),
    (
        f::IBRS,
        &[
            f::AMD_STIBP,
            f::AMD_SSBD,
            f::PSFD,
            f::IBRS_ALWAYS,
            f::IBRS_FAST,
            f::IBRS_SAME_MODE,
        ],
    ),
    (f::IBPB, &[f::IBPB_RET, f::SBPB, f::IBPB_BRTYPE]),
    (f::AMD_STIBP, &[f::STIBP_ALWAYS]),
    (f::RTM, &[f::TSXLDTRK]),
    (f::EIBRS, &[f::RRSBA]),
];
