//! Named CPUs for guests: the same on every machine that can give them.
//!
//! A guest that may come to another machine must not see what only this one has. A [`Level`]
//! is one of the psABI's (x86-64 psABI, section 3.1.1), with what is common beside it on
//! the CPUs of its time; [`CpuidPolicy::levelled`] makes of what a machine may give a
//! policy that is the same on every machine of the vendor: features, limits of leaves,
//! caches, address sizes, and (unless the [`Identity`] is kept) model and name.
//!
//! Two things stay the machine's: the vendor, because its CPUs execute some instructions
//! otherwise (SYSENTER and SYSCALL in 32-bit code) and kernels choose by it; and, with
//! AVX-512, where the state components lie in an XSAVE area.
//!
//! What a policy leaves out, a guest's kernel does not see. Whether its user space can see
//! or use it is said by [`hiding`].

use alloc::vec::Vec;

use xen_abi::cpufeatureset as f;
use xen_abi::cpufeatureset::{FEATURES, Feature};

use super::{CACHE, CpuidPolicy, EXTENDED_AMD, FEATURE, FeatureSet, Leaf, NOTHING, Vendor, bases};

/// A level of the psABI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// `x86-64-v1`: what every 64-bit CPU has.
    V1,
    /// `x86-64-v2`: about Nehalem, Bulldozer.
    V2,
    /// `x86-64-v3`: about Haswell, Zen.
    V3,
    /// `x86-64-v4`: about Skylake-SP, Zen 4.
    V4,
}

/// Whose model and name a levelled CPU has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Identity {
    /// Those of a CPU of the level.
    #[default]
    Level,
    /// The machine's.
    Machine,
}

/// What a guest is shown unless its configuration says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Baseline {
    /// The highest level up to v3 that the machine can give.
    #[default]
    Auto,
    /// A level.
    Level(Level),
    /// All that the machine may give, as on Xen.
    Host,
}

const V1: &[Feature] = &[
    f::FPU,
    f::DE,
    f::TSC,
    f::MSR,
    f::PAE,
    f::MCE,
    f::CX8,
    f::APIC,
    f::MCA,
    f::CMOV,
    f::PAT,
    f::CLFLUSH,
    f::MMX,
    f::FXSR,
    f::SSE,
    f::SSE2,
    f::SYSCALL,
    f::NX,
    f::LM,
    f::HYPERVISOR,
];
const V2: &[Feature] = &[
    f::SSE3,
    f::SSSE3,
    f::CX16,
    f::SSE4_1,
    f::SSE4_2,
    f::POPCNT,
    f::LAHF_LM,
];
const V3: &[Feature] = &[
    f::XSAVE,
    f::AVX,
    f::AVX2,
    f::BMI1,
    f::BMI2,
    f::F16C,
    f::FMA,
    f::ABM,
    f::MOVBE,
    // Beside the psABI's.
    f::AESNI,
    f::PCLMULQDQ,
    f::RDRAND,
    f::FSGSBASE,
    f::XSAVEOPT,
    f::RDTSCP,
];
const V4: &[Feature] = &[
    f::AVX512F,
    f::AVX512BW,
    f::AVX512CD,
    f::AVX512DQ,
    f::AVX512VL,
    // Beside the psABI's.
    f::RDSEED,
    f::ADX,
    f::CLFLUSHOPT,
    f::XSAVEC,
    f::XGETBV1,
];

/// Features that promise something bad: that are in a pool's set if one of its machines has
/// them, because a guest must reckon with them wherever it may come to.
pub const OR_FEATURES: &[Feature] = &[f::RSBA, f::RRSBA, f::FDP_EXCP_ONLY, f::NO_FPU_SEL];

impl Level {
    /// All, from the lowest.
    pub const ALL: [Self; 4] = [Self::V1, Self::V2, Self::V3, Self::V4];

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "x86-64-v1",
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
            Self::V4 => "x86-64-v4",
        }
    }

    /// A level by its name, or its last two letters.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| {
            level.name() == name || level.name().strip_prefix("x86-64-") == Some(name)
        })
    }

    /// Its features on a vendor's CPUs.
    pub fn features(self, vendor: Vendor) -> FeatureSet {
        let mut set = FeatureSet::default();
        for (level, features) in [
            (Self::V1, V1),
            (Self::V2, V2),
            (Self::V3, V3),
            (Self::V4, V4),
        ] {
            if level <= self {
                features.iter().for_each(|&feature| set.set(feature, true));
            }
        }
        // In 64-bit kernels SYSENTER is Intel's alone.
        set.set(f::SEP, vendor == Vendor::Intel);
        set
    }

    /// What is missing in a set for this level.
    pub fn missing_in(self, set: &FeatureSet, vendor: Vendor) -> Vec<Feature> {
        set.missing(&self.features(vendor))
    }

    /// The highest level that a set holds; `None` if not even the first.
    pub fn highest_in(set: &FeatureSet, vendor: Vendor) -> Option<Self> {
        Self::ALL
            .into_iter()
            .rev()
            .find(|level| level.missing_in(set, vendor).is_empty())
    }

    /// Leaf 1 EAX of a CPU of this level: about the first that had it.
    fn signature(self, vendor: Vendor) -> Option<u32> {
        Some(match (vendor, self) {
            // Nehalem, Haswell, Skylake-SP.
            (Vendor::Intel, Self::V1 | Self::V2) => 0x0001_06a5,
            (Vendor::Intel, Self::V3) => 0x0003_06c3,
            (Vendor::Intel, Self::V4) => 0x0005_0654,
            // Bulldozer, Zen, Zen 4.
            (Vendor::Amd, Self::V1 | Self::V2) => 0x0060_0f12,
            (Vendor::Amd, Self::V3) => 0x0080_0f12,
            (Vendor::Amd, Self::V4) => 0x00a1_0f11,
            _ => return None,
        })
    }

    /// The highest basic leaf.
    fn last_leaf(self) -> u32 {
        if self >= Self::V3 { 0xd } else { 7 }
    }
}

impl FeatureSet {
    /// What of `wanted` is not in this set.
    pub fn missing(&self, wanted: &Self) -> Vec<Feature> {
        FEATURES
            .iter()
            .copied()
            .filter(|&feature| wanted.has(feature) && !self.has(feature))
            .collect()
    }

    /// What all machines of a pool can give: what each has, but of [`OR_FEATURES`] what any
    /// has; then without what is built on something that went. Empty for an empty pool.
    pub fn common<'a>(pool: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut pool = pool.into_iter();
        let Some(&first) = pool.next() else {
            return Self::default();
        };
        let (all, any) = pool.fold((first, first), |(all, any), set| {
            let mut union = any;
            union
                .0
                .iter_mut()
                .zip(set.0)
                .for_each(|(to, from)| *to |= from);
            (all.intersection(set), union)
        });
        let mut common = all.sanitised();
        for &feature in OR_FEATURES {
            common.set(feature, any.has(feature));
        }
        common
    }
}

/// Why a machine cannot give a level: the features that it lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lacks {
    /// The level.
    pub level: Level,
    /// What is missing, in the order of the public header.
    pub features: Vec<Feature>,
}

impl core::fmt::Display for Lacks {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(out, "no {} here, for want of", self.level.name())?;
        self.features
            .iter()
            .try_for_each(|feature| write!(out, " {}", feature.name.to_ascii_lowercase()))
    }
}

impl CpuidPolicy {
    /// Of the most that this machine may give (this policy), a CPU of a level.
    ///
    /// # Errors
    /// What the machine lacks.
    pub fn levelled(&self, level: Level, identity: Identity) -> Result<Self, Lacks> {
        let features = level.missing_in(&self.features, self.vendor);
        if !features.is_empty() {
            return Err(Lacks { level, features });
        }
        let mut policy = self.clone();
        policy.features = level.features(self.vendor);
        let states = self.xstate;
        policy.basic[0][0] = level.last_leaf().min(self.basic[0][0]);
        policy.feature = [NOTHING; FEATURE];
        let extended = self.extended[0][0].min(0x8000_0008);
        policy.extended[0][0] = extended;
        policy.write_features();
        policy.write_xstate(&|_, subleaf| states.get(subleaf as usize).copied().unwrap_or(NOTHING));
        policy.cpuid_faulting = false;
        policy.level_numbers();
        if identity == Identity::Level {
            policy.level_identity(level);
        }
        policy.hide();
        let (basic, extended) = (policy.basic[0][0], extended & 0xffff);
        (basic as usize + 1..policy.basic.len()).for_each(|leaf| policy.basic[leaf] = NOTHING);
        (extended as usize + 1..EXTENDED_AMD as usize)
            .for_each(|leaf| policy.extended[leaf] = NOTHING);
        Ok(policy)
    }

    /// Address sizes, cache lines and caches: those of no machine in particular.
    pub(super) fn level_numbers(&mut self) {
        // A line of 64 bytes; no brand number, no APIC id.
        self.basic[1][1] = 8 << 8;
        self.extended[1][1] = 0;
        // The smallest among CPUs of these levels; frames of guests are checked by number.
        self.extended[8][0] = 48 << 8 | 40;
        self.extended[8][1..].fill(0);
        self.extended[7] = NOTHING;
        self.features.0[f::FEATURESET_E7D] = 0;
        match self.vendor {
            Vendor::Intel => {
                // "See leaf 4"; 64 bytes are fetched ahead.
                self.basic[2] = [0x00fe_ff01, 0xf0, 0, 0];
                self.cache = INTEL_CACHES;
                self.extended[6] = [0, 0, 256 << 16 | 8 << 12 | 64, 0];
            }
            Vendor::Amd | Vendor::Hygon => {
                let level1 = 32 << 24 | 8 << 16 | 1 << 8 | 64;
                self.extended[5] = [0, 0xff40_ff40, level1, level1];
                // 512 KiB, 8 ways; 8 MiB, 16 ways.
                self.extended[6] = [0, 0, 512 << 16 | 6 << 12 | 64, 16 << 18 | 8 << 12 | 64];
            }
            Vendor::Other => {}
        }
    }

    pub(super) fn level_identity(&mut self, level: Level) {
        if let Some(signature) = level.signature(self.vendor) {
            self.basic[1][0] = signature;
            if self.vendor.is_amd() {
                self.extended[1][0] = signature;
            }
        }
        let mut text = [0u8; 48];
        let name = b"Overcast ";
        for (to, &from) in text
            .iter_mut()
            .zip(name.iter().chain(level.name().as_bytes()))
        {
            *to = from;
        }
        for (leaf, bytes) in self.extended[2..5].iter_mut().zip(text.chunks_exact(16)) {
            for (register, word) in leaf.iter_mut().zip(bytes.chunks_exact(4)) {
                *register = word
                    .iter()
                    .rev()
                    .fold(0, |value, &byte| value << 8 | u32::from(byte));
            }
        }
    }
}

/// 32 KiB of data, 32 KiB of code, 256 KiB and 8 MiB, for one CPU.
const INTEL_CACHES: [Leaf; CACHE] = [
    [0x121, 0x01c0_003f, 63, 0],
    [0x122, 0x01c0_003f, 63, 0],
    [0x143, 0x01c0_003f, 511, 0],
    [0x163, 0x03c0_003f, 8191, 6],
    NOTHING,
    NOTHING,
];

/// What keeps a feature that the guest's policy leaves out from its user space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hiding {
    /// It cannot be used: the register that switches it on is the hypervisor's.
    Enforced(Register),
    /// CPUID faults in user space and does not tell of it; who executes its instructions
    /// without asking finds that they work.
    Unannounced,
    /// User space sees it in CPUID, and can use it.
    Visible,
}

/// A register that switches features on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// XCR0: a component that is off is not there.
    Xcr0,
    /// CR4.
    Cr4,
    /// The kernel's alone, which runs in ring 3 and is answered by the policy.
    Privilege,
}

impl Register {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xcr0 => "XCR0",
            Self::Cr4 => "CR4",
            Self::Privilege => "ring 0",
        }
    }
}

/// Features whose state is a component of XCR0 above SSE; so is that of what is built on them.
const BY_XCR0: &[Feature] = &[f::AVX, f::MPX, f::LWP];

/// Whether a feature's state is a component of XCR0 above SSE.
fn is_by_xcr0(feature: Feature) -> bool {
    BY_XCR0.contains(&feature) || bases(feature).any(is_by_xcr0)
}

/// Features that a bit of CR4 switches on.
const BY_CR4: &[Feature] = &[
    f::FSGSBASE,
    f::PKU,
    f::UMIP,
    f::OSPKE,
    f::CET_SS,
    f::CET_IBT,
    f::CET_SSS,
];

/// Features that are used by ring 0 only, or say something to it.
const OF_RING_0: &[Feature] = &[
    f::VME,
    f::PSE,
    f::MTRR,
    f::PGE,
    f::PSE36,
    f::DS,
    f::ACPI,
    f::TM1,
    f::PBE,
    f::SS,
    f::HTT,
    f::DTES64,
    f::MONITOR,
    f::DSCPL,
    f::VMX,
    f::SMX,
    f::EIST,
    f::TM2,
    f::XTPR,
    f::PDCM,
    f::PCID,
    f::DCA,
    f::X2APIC,
    f::TSC_DEADLINE,
    f::PAGE1GB,
    f::SVM,
    f::CMP_LEGACY,
    f::EXTAPIC,
    f::CR8_LEGACY,
    f::OSVW,
    f::IBS,
    f::SKINIT,
    f::WDT,
    f::NODEID_MSR,
    f::TOPOEXT,
    f::DBEXT,
    f::FFXSR,
    f::XSAVES,
    f::TSC_ADJUST,
    f::SMEP,
    f::INVPCID,
    f::PQM,
    f::PQE,
    f::SMAP,
    f::PROC_TRACE,
    f::SGX,
    f::ENQCMD,
    f::HW_PSTATE,
    f::CPB,
    f::EFRO,
    f::WBNOINVD,
    // How the speculation of branches and loads is, and is controlled.
    f::IBPB,
    f::IBRS,
    f::AMD_STIBP,
    f::IBRS_ALWAYS,
    f::STIBP_ALWAYS,
    f::IBRS_FAST,
    f::IBRS_SAME_MODE,
    f::NO_LMSL,
    f::AMD_PPIN,
    f::AMD_SSBD,
    f::VIRT_SSBD,
    f::SSB_NO,
    f::PSFD,
    f::BTC_NO,
    f::IBPB_RET,
    f::SRBDS_CTRL,
    f::MD_CLEAR,
    f::TSX_FORCE_ABORT,
    f::HYBRID,
    f::IBRSB,
    f::STIBP,
    f::L1D_FLUSH,
    f::ARCH_CAPS,
    f::CORE_CAPS,
    f::SSBD,
    f::LFENCE_DISPATCH,
    f::VERW_CLEAR,
    f::NSCB,
    f::AUTO_IBRS,
    f::SBPB,
    f::IBPB_BRTYPE,
    f::SRSO_NO,
    f::SRSO_US_NO,
    f::SRSO_MSR_FIX,
    f::INTEL_PPIN,
    f::INTEL_PSFD,
    f::IPRED_CTRL,
    f::RRSBA_CTRL,
    f::BHI_CTRL,
    f::MCDT_NO,
    f::TSA_SQ_NO,
    f::TSA_L1_NO,
];

/// What keeps a feature from user space where the policy leaves it out, with or without
/// CPUID faulting.
pub fn hiding(feature: Feature, faulting: bool) -> Hiding {
    let of = |list: &[Feature]| list.contains(&feature);
    if is_by_xcr0(feature) {
        Hiding::Enforced(Register::Xcr0)
    } else if BY_CR4.contains(&feature) {
        Hiding::Enforced(Register::Cr4)
    } else if of(OF_RING_0) || [f::FEATURESET_M10AL, f::FEATURESET_M10AH].contains(&feature.word())
    {
        Hiding::Enforced(Register::Privilege)
    } else if faulting {
        Hiding::Unannounced
    } else {
        Hiding::Visible
    }
}

#[cfg(test)]
pub(super) mod tests;
