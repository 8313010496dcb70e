//! What CPUID says to a PV guest.
//!
//! A [`CpuidPolicy`] is computed once for a domain from the leaves of the
//! hardware, by Xen's rules for PV guests: the features that the public header
//! (arch-x86/cpufeatureset.h) gives to all guests, without those whose base is
//! missing; no topology, no thermal, power or debug leaves; Xen's own leaves
//! from 0x40000000 on. What depends on the vCPU's state (OSXSAVE, the sizes of
//! leaf 0xd) is put in by [`CpuidPolicy::leaf`].
//!
//! # Invariants
//!
//! - Nothing of the first layer shows: hypervisor leaves other than Xen's are
//!   zero, and so is every leaf beyond the policy's limits.
//! - The features in the leaves are a sanitised [`FeatureSet`]: none is shown
//!   without what it is built on.

use xen_abi::cpufeatureset as f;
use xen_abi::cpuid::{
    XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD, XEN_CPUID_FIRST_LEAF, XEN_CPUID_MAX_NUM_LEAVES,
    XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX,
};

use crate::cmdline::FeatureChoice;

mod baseline;
mod featureset;
mod moving;
mod serialise;
#[cfg(test)]
mod tests;
mod update;

pub use baseline::{Baseline, Hiding, Identity, Lacks, Level, OR_FEATURES, Register, hiding};
pub use featureset::{
    COMMON_1D, FeatureSet, KNOWN, PV_DEFAULT, PV_MAX, bases, by_name, dependents,
};
pub use moving::{Obstacle, Origin, PoolError, Seen, origin, pool};
pub use serialise::{MAX_LEAVES, MAX_MSRS, SystemPolicies, parse_leaf, parse_leaves};
pub use update::PolicyError;

/// The registers EAX, EBX, ECX and EDX that a leaf gives.
pub type Leaf = [u32; 4];

const NOTHING: Leaf = [0; 4];
const BASIC: usize = 0xe;
const CACHE: usize = 6;
const FEATURE: usize = 3;
const XSTATE: usize = 63;
const EXTENDED_INTEL: u32 = 9;
const EXTENDED_AMD: u32 = 0x22;

/// `CR4.OSXSAVE`
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// `CR4.PKE`
pub const CR4_PKE: u64 = 1 << 22;

/// Who made the CPU, by the name in leaf 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vendor {
    /// GenuineIntel
    Intel,
    /// AuthenticAMD
    Amd,
    /// HygonGenuine
    Hygon,
    /// Any other.
    Other,
}

impl Vendor {
    fn of(leaf0: Leaf) -> Self {
        let name = |text: &[u8; 12]| {
            let word = |at: usize| {
                u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]])
            };
            // In the order EBX, EDX, ECX.
            leaf0[1] == word(0) && leaf0[3] == word(4) && leaf0[2] == word(8)
        };
        if name(b"GenuineIntel") {
            Self::Intel
        } else if name(b"AuthenticAMD") {
            Self::Amd
        } else if name(b"HygonGenuine") {
            Self::Hygon
        } else {
            Self::Other
        }
    }

    /// AMD, and Hygon, which is built alike.
    pub fn is_amd(self) -> bool {
        matches!(self, Self::Amd | Self::Hygon)
    }
}

/// What the hypervisor knows of the hardware beside its CPUID leaves.
#[derive(Clone, Copy, Default, Debug)]
pub struct Hardware {
    /// Contents of the MSR IA32_ARCH_CAPABILITIES, where it is.
    pub arch_capabilities: Option<u64>,
    /// User-space CPUID can be made to fault (MSR_PLATFORM_INFO bit 31).
    pub cpuid_faulting: bool,
    /// The hypervisor keeps an IA32_SPEC_CTRL for each vCPU.
    pub spec_ctrl: bool,
    /// LFENCE was made to serialise (AMD; MSR DE_CFG bit 1, which is to be read
    /// back). Families 0xf and 0x11 do so by themselves.
    pub lfence_dispatch: bool,
    /// A null selector is known to clear the base (AMD, where no leaf says so).
    pub null_selector_clears_base: bool,
    /// One more than the highest frame number of the machine's memory.
    pub end_mfn: u64,
}

/// What Xen's time leaf (0x40000003) says of the guest's TSC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimeLeaf {
    /// RDTSC is emulated.
    pub emulated: bool,
    /// The host's TSC is constant and the same on all CPUs.
    pub host_tsc_safe: bool,
    /// `tsc_mode` of the domain's configuration.
    pub mode: u32,
    /// Frequency that the guest sees, in kHz.
    pub guest_khz: u32,
    /// How often the domain was restored or migrated.
    pub incarnation: u32,
    /// Added to the host's TSC, where RDTSC is not emulated.
    pub offset: u64,
    /// TSC to ns: multiplier (`tsc_to_system_mul`).
    pub to_ns_mul: u32,
    /// TSC to ns: shift (`tsc_shift`).
    pub to_ns_shift: i8,
    /// Frequency of the host's CPU, in kHz.
    pub cpu_khz: u32,
}

/// The state of a vCPU that CPUID depends on.
#[derive(Clone, Copy, Debug)]
pub struct CpuidContext {
    /// The vCPU executes its kernel.
    pub kernel: bool,
    /// It asked by the forced-emulation prefix (#UD), not by a CPUID that
    /// faulted (#GP).
    pub forced: bool,
    /// CR4 as the guest set it.
    pub cr4: u64,
    /// XCR0 as the guest set it.
    pub xcr0: u64,
    /// The hypervisor itself runs with CR4.OSXSAVE.
    pub host_osxsave: bool,
    /// For leaf 0x40000003.
    pub time: TimeLeaf,
}

/// What CPUID says to the vCPUs of one domain.
#[derive(Clone)]
pub struct CpuidPolicy {
    basic: [Leaf; BASIC],
    cache: [Leaf; CACHE],
    feature: [Leaf; FEATURE],
    xstate: [Leaf; XSTATE],
    extended: [Leaf; EXTENDED_AMD as usize],
    features: FeatureSet,
    vendor: Vendor,
    /// The hardware domain: its kernel sees MTRR, by which it knows of memory type calls.
    privileged: bool,
    host_mtrr: bool,
    host_rdtscp: bool,
    cpuid_faulting: bool,
    address_bits: u32,
}

/// The features that the machine has, and those that PV guests get (`XEN_SYSCTL_get_cpu_featureset`).
#[derive(Clone, Copy, Debug)]
pub struct SystemFeatures {
    /// As CPUID gives them.
    pub raw: FeatureSet,
    /// Those that the hypervisor uses.
    pub host: FeatureSet,
    /// Those that a PV guest may have.
    pub pv_max: FeatureSet,
    /// Those that a PV guest has unless its configuration says otherwise.
    pub pv_default: FeatureSet,
}

impl SystemFeatures {
    /// The features of this machine; the arguments as of [`CpuidPolicy::for_pv`].
    pub fn new(
        raw: impl Fn(u32, u32) -> Leaf,
        hardware: &Hardware,
        host: &[FeatureChoice],
    ) -> Self {
        let policy = CpuidPolicy::from_hardware(&raw, hardware, false);
        let mut host = policy.host_features(host);
        // These say what the operating system set up.
        for feature in [f::OSXSAVE, f::OSPKE] {
            host.set(feature, false);
        }
        let pv_max = policy.max_features(&host, hardware);
        let pv_default = policy.default_features(&pv_max, &host);
        Self {
            raw: policy.features,
            host,
            pv_max: pv_max.sanitised(),
            pv_default: pv_default.sanitised(),
        }
    }
}

impl CpuidPolicy {
    /// The policy for a PV guest; for Dom0 if `privileged`.
    ///
    /// `raw` executes CPUID with a leaf in EAX and a subleaf in ECX. `host` are
    /// the choices of `cpuid=`, which hide features from all; `domain` those of
    /// `dom0-cpuid=`, which also show what a guest may have if it is asked for.
    pub fn for_pv(
        raw: impl Fn(u32, u32) -> Leaf,
        hardware: &Hardware,
        privileged: bool,
        host: &[FeatureChoice],
        domain: &[FeatureChoice],
    ) -> Self {
        let mut policy = Self::from_hardware(&raw, hardware, privileged);
        let host_features = policy.host_features(host);
        policy.host_mtrr = host_features.has(f::MTRR);
        policy.host_rdtscp = host_features.has(f::RDTSCP);

        let max = policy.max_features(&host_features, hardware);
        let mut features = policy.default_features(&max, &host_features);
        if privileged && host_features.has(f::ITSC) {
            // Dom0 does not migrate.
            features.set(f::ITSC, true);
        }
        for choice in domain {
            if let Some(feature) = by_name(&choice.name) {
                features.set(feature, choice.enable);
            }
        }
        let mut features = features.intersection(&max);
        if policy.basic[0][0] < 0xd {
            features.set(f::XSAVE, false);
        }
        let mut features = features.sanitised();
        for feature in [f::FDP_EXCP_ONLY, f::NO_FPU_SEL] {
            // Not for anyone to choose: the FPU does so or does not.
            features.set(feature, host_features.has(feature));
        }
        policy.features = features;
        policy.write_features();
        policy.write_xstate(&raw);
        policy.hide();
        policy
    }

    /// What the hardware has without anything hidden from guests: its features, less
    /// those that `cpuid=` takes away and what is built on them.
    fn host_features(&self, host: &[FeatureChoice]) -> FeatureSet {
        let mut host_features = self.features;
        for choice in host.iter().filter(|choice| !choice.enable) {
            if let Some(feature) = by_name(&choice.name) {
                host_features.set(feature, false);
            }
        }
        // What the return predictors do is known even without the register.
        let predictors = [f::RSBA, f::RRSBA].map(|feature| (feature, host_features.has(feature)));
        let mut host_features = host_features.sanitised();
        for (feature, present) in predictors {
            host_features.set(feature, present);
        }
        host_features
    }

    /// The features of this policy.
    pub fn features(&self) -> &FeatureSet {
        &self.features
    }

    /// Whether the guest is shown a feature.
    pub fn has(&self, feature: f::Feature) -> bool {
        self.features.has(feature)
    }

    /// The vendor that the guest is told.
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// The family of the CPU, the extended one added.
    pub fn family(&self) -> u32 {
        let signature = self.basic[1][0];
        match signature >> 8 & 0xf {
            0xf => 0xf + (signature >> 20 & 0xff),
            family => family,
        }
    }

    /// Whether the guest's kernel may ask that CPUID faults in its user space.
    pub fn cpuid_faulting(&self) -> bool {
        self.cpuid_faulting
    }

    /// IA32_ARCH_CAPABILITIES as the guest sees it.
    pub fn arch_capabilities(&self) -> u64 {
        let words = &self.features.0;
        (u64::from(words[f::FEATURESET_M10AH]) << 32) | u64::from(words[f::FEATURESET_M10AL])
    }

    /// The state components that the guest may enable in XCR0; 0 without XSAVE.
    pub fn xcr0_max(&self) -> u64 {
        (u64::from(self.xstate[0][3]) << 32) | u64::from(self.xstate[0][0])
    }

    /// Whether the guest may set XCR0 so: x87 always, and no component without
    /// those that it is built on (SDM volume 1, 13.3).
    pub fn xcr0_valid(&self, xcr0: u64) -> bool {
        const AVX512: u64 = 0xe0;
        xcr0 & !self.xcr0_max() == 0
            && xcr0 & 1 != 0
            && (xcr0 & 4 == 0 || xcr0 & 2 != 0)
            && (xcr0 & AVX512 == 0 || (xcr0 & AVX512 == AVX512 && xcr0 & 4 != 0))
            && (xcr0 & 0x18 == 0 || xcr0 & 0x18 == 0x18)
    }

    /// Size in bytes of the XSAVE area, in the standard or the compacted
    /// format, for the components in `components`.
    pub fn xsave_size(&self, components: u64, compacted: bool) -> u32 {
        let mut size = 576u32;
        for (index, leaf) in self.xstate.iter().enumerate().skip(2) {
            if components >> index & 1 == 0 || leaf[0] == 0 {
                continue;
            }
            size = if compacted {
                let start = if leaf[2] & 2 != 0 {
                    size.checked_next_multiple_of(64).unwrap_or(size)
                } else {
                    size
                };
                start.saturating_add(leaf[0])
            } else {
                size.max(leaf[1].saturating_add(leaf[0]))
            };
        }
        size
    }

    /// What CPUID gives for `leaf` and `subleaf`.
    pub fn leaf(&self, leaf: u32, subleaf: u32, context: &CpuidContext) -> Leaf {
        let mut out = self.constant_leaf(leaf, subleaf, context);
        let dom0_kernel = self.privileged && context.kernel;
        match (leaf, subleaf) {
            (1, _) => {
                // The APIC ID of vCPU 0 for all: there is no topology.
                out[1] &= 0x00ff_ffff;
                // A PV kernel has always been shown the hypervisor's OSXSAVE
                // when it asks by the prefix, whatever it set itself, and
                // relies on it. User space gets the truth.
                let forwarded =
                    self.has(f::XSAVE) && context.forced && context.kernel && context.host_osxsave;
                if context.cr4 & CR4_OSXSAVE != 0 || forwarded {
                    out[2] |= f::OSXSAVE.mask();
                }
                if dom0_kernel && self.host_mtrr {
                    out[3] |= f::MTRR.mask();
                }
            }
            (7, 0) if context.cr4 & CR4_PKE != 0 => out[2] |= f::OSPKE.mask(),
            (0xd, 0) if self.has(f::XSAVE) => out[1] = self.xsave_size(context.xcr0, false),
            (0xd, 1) if self.has(f::XSAVEC) => out[1] = self.xsave_size(context.xcr0, true),
            (0x8000_0001, _) if dom0_kernel && self.host_mtrr => out[3] |= f::MTRR.mask(),
            _ => {}
        }
        out
    }

    fn constant_leaf(&self, leaf: u32, subleaf: u32, context: &CpuidContext) -> Leaf {
        let at = |leaves: &[Leaf], index: u32| {
            usize::try_from(index)
                .ok()
                .and_then(|index| leaves.get(index))
                .copied()
                .unwrap_or(NOTHING)
        };
        let index = leaf & 0xffff;
        match leaf {
            0x4000_0000..=0x4000_01ff => {
                self.xen_leaf(leaf - XEN_CPUID_FIRST_LEAF, subleaf, context)
            }
            0x8000_0000..=0x8000_ffff if index <= self.extended[0][0] & 0xffff => {
                at(&self.extended, index)
            }
            _ if leaf > self.basic[0][0] => NOTHING,
            4 => at(&self.cache, subleaf),
            7 if subleaf <= self.feature[0][0] => at(&self.feature, subleaf),
            // Leaf 0xb: no topology.
            7 | 0xb => NOTHING,
            0xd if self.has(f::XSAVE) => at(&self.xstate, subleaf),
            0xd => NOTHING,
            _ => at(&self.basic, leaf),
        }
    }

    /// Xen's own leaves (arch-x86/cpuid.h).
    fn xen_leaf(&self, index: u32, subleaf: u32, context: &CpuidContext) -> Leaf {
        let time = &context.time;
        match (index, subleaf) {
            (0, _) => [
                XEN_CPUID_FIRST_LEAF + XEN_CPUID_MAX_NUM_LEAVES,
                XEN_CPUID_SIGNATURE_EBX,
                XEN_CPUID_SIGNATURE_ECX,
                XEN_CPUID_SIGNATURE_EDX,
            ],
            // Version 4.17.
            (1, _) => [(4 << 16) | 17, 0, 0, 0],
            // One hypercall page, by the MSR 0x40000000.
            (2, _) => [
                1,
                XEN_CPUID_FIRST_LEAF,
                XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD,
                0,
            ],
            (3, 0) => [
                u32::from(time.emulated)
                    | u32::from(time.host_tsc_safe) << 1
                    | u32::from(self.host_rdtscp) << 2,
                time.mode,
                time.guest_khz,
                time.incarnation,
            ],
            (3, 1) => {
                let offset = if time.emulated { 0 } else { time.offset };
                [
                    offset as u32,
                    (offset >> 32) as u32,
                    time.to_ns_mul,
                    i32::from(time.to_ns_shift) as u32,
                ]
            }
            (3, 2) => [time.cpu_khz, 0, 0, 0],
            // Leaf 4 is for HVM guests.
            (5, 0) => [0, self.address_bits, 0, 0],
            _ => NOTHING,
        }
    }

    /// The leaves of the hardware as far as the policy has room for them, and
    /// its features.
    fn from_hardware(
        raw: &impl Fn(u32, u32) -> Leaf,
        hardware: &Hardware,
        privileged: bool,
    ) -> Self {
        let leaf0 = raw(0, 0);
        let mut policy = Self {
            basic: [NOTHING; BASIC],
            cache: [NOTHING; CACHE],
            feature: [NOTHING; FEATURE],
            xstate: [NOTHING; XSTATE],
            extended: [NOTHING; EXTENDED_AMD as usize],
            features: FeatureSet::default(),
            vendor: Vendor::of(leaf0),
            privileged,
            host_mtrr: false,
            host_rdtscp: false,
            cpuid_faulting: hardware.cpuid_faulting,
            address_bits: u64::BITS - hardware.end_mfn.saturating_sub(1).leading_zeros()
                + crate::addr::PAGE_SHIFT,
        };
        let max = leaf0[0].min(BASIC as u32 - 1);
        for (leaf, slot) in (0..=max).zip(policy.basic.iter_mut()) {
            if ![4, 7, 0xb, 0xd].contains(&leaf) {
                *slot = raw(leaf, 0);
            }
        }
        policy.basic[0][0] = max;
        if max >= 4 {
            for (subleaf, slot) in (0u32..).zip(policy.cache.iter_mut()) {
                let leaf = raw(4, subleaf);
                if leaf[0] & 0x1f == 0 {
                    break;
                }
                *slot = leaf;
            }
        }
        if max >= 7 {
            let subleaves = raw(7, 0)[0].min(FEATURE as u32 - 1);
            for (subleaf, slot) in (0..=subleaves).zip(policy.feature.iter_mut()) {
                *slot = raw(7, subleaf);
            }
            policy.feature[0][0] = subleaves;
        }
        let most = if policy.vendor.is_amd() {
            EXTENDED_AMD
        } else {
            EXTENDED_INTEL
        };
        let lfence_dispatch = policy.vendor.is_amd()
            && (hardware.lfence_dispatch || matches!(policy.family(), 0xf | 0x11));
        let mut extended_max = match raw(0x8000_0000, 0)[0] {
            max if max >> 16 == 0x8000 => max & 0xffff,
            _ => 0,
        };
        for (leaf, slot) in (0..=extended_max.min(most - 1)).zip(policy.extended.iter_mut()) {
            *slot = raw(0x8000_0000 + leaf, 0);
        }
        if policy.vendor.is_amd() && (lfence_dispatch || hardware.null_selector_clears_base) {
            // There may be no leaf that says so; there is one for guests.
            extended_max = extended_max.max(0x21);
        }
        policy.extended[0][0] = 0x8000_0000 | extended_max.min(most - 1);

        if max >= 0xd {
            policy.xstate[1] = raw(0xd, 1);
        }
        for (word, place, register) in WORDS {
            policy.features.0[word] = policy.place(place)[register];
        }
        let capabilities = match hardware.arch_capabilities {
            Some(value) if policy.features.has(f::ARCH_CAPS) => value,
            _ => 0,
        };
        policy.features.0[f::FEATURESET_M10AL] = capabilities as u32;
        policy.features.0[f::FEATURESET_M10AH] = (capabilities >> 32) as u32;
        policy.note_return_predictors();
        if policy.vendor.is_amd() {
            // In long mode, and the hypervisor is, SYSENTER is Intel's alone.
            policy.features.set(f::SEP, false);
            if lfence_dispatch {
                policy.features.set(f::LFENCE_DISPATCH, true);
            }
            if hardware.null_selector_clears_base {
                policy.features.set(f::NSCB, true);
            }
        }
        policy
    }

    /// Sets RSBA or RRSBA for Intel's CPUs whose return predictor falls back
    /// to another one on underflow and that may not say so themselves: Skylake
    /// and later. (Broadwell does with old microcode; it is taken for one.)
    fn note_return_predictors(&mut self) {
        if self.vendor != Vendor::Intel || self.family() != 6 {
            return;
        }
        if self.features.has(f::EIBRS) {
            self.features.set(f::RRSBA, true);
        } else if !self.features.has(f::ARCH_CAPS) {
            let signature = self.basic[1][0];
            let model = (signature >> 4 & 0xf) | (signature >> 12 & 0xf0);
            let penryn_to_haswell = matches!(
                model,
                0x17 | 0x1a | 0x1d..=0x1f | 0x25 | 0x2a | 0x2c..=0x2f | 0x3a | 0x3c | 0x3e | 0x3f | 0x45 | 0x46
            );
            self.features.set(f::RSBA, !penryn_to_haswell);
        }
    }

    /// The most that a PV guest may be shown.
    fn max_features(&self, host: &FeatureSet, hardware: &Hardware) -> FeatureSet {
        let mut max = host.intersection(&PV_MAX);
        // Tolerated for guests that saw it elsewhere; not shown by default.
        max.set(f::X2APIC, true);
        if !hardware.spec_ctrl {
            max.set(f::IBRSB, false);
            max.set(f::IBRS, false);
        }
        // Both sides of a PV guest run at CPL 3, so this promises nothing.
        max.set(f::SRSO_US_NO, false);
        match self.vendor {
            Vendor::Intel => {
                for feature in [
                    f::ARCH_CAPS,
                    f::RSBA,
                    f::RRSBA,
                    f::MD_CLEAR,
                    f::FB_CLEAR,
                    f::RFDS_CLEAR,
                ] {
                    max.set(feature, true);
                }
                if max.has(f::RTM) {
                    max.set(f::RTM_ALWAYS_ABORT, true);
                }
            }
            Vendor::Amd => max.set(f::VERW_CLEAR, true),
            _ => {}
        }
        max.set(f::HTT, true);
        max.set(f::CMP_LEGACY, true);
        Self::common_adjustments(&mut max, host);
        max.sanitised()
    }

    /// What a PV guest is shown unless something else is chosen.
    fn default_features(&self, max: &FeatureSet, host: &FeatureSet) -> FeatureSet {
        let mut features = max.intersection(&PV_DEFAULT);
        Self::common_adjustments(&mut features, host);
        let follow: &[f::Feature] = match self.vendor {
            Vendor::Intel => &[f::MD_CLEAR, f::FB_CLEAR, f::RFDS_CLEAR],
            Vendor::Amd => &[f::VERW_CLEAR],
            _ => &[],
        };
        for &feature in follow.iter().chain(&[f::HTT, f::CMP_LEGACY]) {
            if !host.has(feature) {
                features.set(feature, false);
            }
        }
        let mut features = features.sanitised();
        if features.has(f::ARCH_CAPS) && (host.has(f::RSBA) || host.has(f::RRSBA)) {
            let which = if features.has(f::EIBRS) {
                f::RRSBA
            } else {
                f::RSBA
            };
            features.set(which, true);
        }
        features
    }

    fn common_adjustments(features: &mut FeatureSet, host: &FeatureSet) {
        features.set(f::HYPERVISOR, true);
        if features.has(f::IBRSB) {
            features.set(f::STIBP, true);
        }
        if features.has(f::IBRS) {
            features.set(f::AMD_STIBP, true);
        }
        if host.has(f::IBRSB) {
            features.set(f::IBPB, true);
        }
    }

    fn place(&mut self, place: Place) -> &mut Leaf {
        match place {
            Place::Basic(index) => &mut self.basic[index],
            Place::Feature(index) => &mut self.feature[index],
            Place::Xstate(index) => &mut self.xstate[index],
            Place::Extended(index) => &mut self.extended[index],
        }
    }

    fn write_features(&mut self) {
        let features = self.features;
        for (word, place, register) in WORDS {
            self.place(place)[register] = features.0[word];
        }
    }

    /// Leaf 0xd: the components that belong to the features, where the hardware keeps them.
    fn write_xstate(&mut self, raw: &impl Fn(u32, u32) -> Leaf) {
        let da1 = self.features.0[f::FEATURESET_DA1];
        self.xstate = [NOTHING; XSTATE];
        if !self.has(f::XSAVE) {
            return;
        }
        let mut components = 3u64;
        if self.has(f::AVX) {
            components |= 4;
        }
        if self.has(f::AVX512F) {
            components |= 0xe0;
        }
        for index in 2..XSTATE as u32 {
            if components >> index & 1 != 0 {
                let leaf = raw(0xd, index);
                self.xstate[index as usize] = [leaf[0], leaf[1], leaf[2] & 2, 0];
            }
        }
        let size = self.xsave_size(components, false);
        self.xstate[0] = [components as u32, 0, size, (components >> 32) as u32];
        self.xstate[1] = [da1, 0, 0, 0];
    }

    /// Takes out what a guest must not see, and sets what is the same for all.
    fn hide(&mut self) {
        let basic = &mut self.basic;
        basic[1][0] &= 0x0fff_0fff;
        basic[1][1] &= 0x00ff_ffff;
        // MONITOR, thermal and power, reserved, reserved.
        for leaf in [5, 6, 8, 0xa, 0xc] {
            basic[leaf] = NOTHING;
        }
        let extended = &mut self.extended;
        extended[1][3] &= !COMMON_1D;
        extended[7][0] = 0;
        extended[7][1] = 0;
        extended[7][2] = 0;
        extended[8][3] = 0;
        match self.vendor {
            Vendor::Intel => {
                basic[2][0] = (basic[2][0] & !0xff) | u32::from(basic[0][0] >= 2);
                basic[3] = NOTHING;
                basic[9] = NOTHING;
                extended[0][1..].fill(0);
                extended[1][..2].fill(0);
                extended[5] = NOTHING;
                extended[6] = [0, 0, extended[6][2], 0];
                extended[8][2] = 0;
            }
            Vendor::Amd | Vendor::Hygon => {
                basic[2] = NOTHING;
                basic[3] = NOTHING;
                basic[9] = NOTHING;
                self.cache = [NOTHING; CACHE];
                for register in 1..4 {
                    extended[0][register] = basic[0][register];
                }
                extended[1][0] = basic[1][0];
                extended[1][1] &= 0xff00_ffff;
                extended[1][3] |= basic[1][3] & COMMON_1D;
                extended[8][2] &= 0x0003_f0ff;
                for leaf in (9..0x1a).chain(0x1b..0x21) {
                    extended[leaf] = NOTHING;
                }
                extended[0x21][1] = 0;
                extended[0x21][3] = 0;
            }
            Vendor::Other => {}
        }
        // Physical bits of the hardware, at least 36; 48 linear ones.
        let physical = (extended[8][0] & 0xff).max(36);
        extended[8][0] = physical | 48 << 8;
        let extended_max = (extended[0][0] & 0xffff) as usize;
        for leaf in extended.iter_mut().skip(extended_max + 1) {
            *leaf = NOTHING;
        }
        for leaf in &mut self.cache {
            if (1..=3).contains(&(leaf[0] & 0x1f)) {
                leaf[0] &= 0xffff_c3ff;
                leaf[3] &= 7;
            } else {
                *leaf = NOTHING;
            }
        }
    }
}

/// Where a word of a feature set lives.
#[derive(Clone, Copy)]
enum Place {
    Basic(usize),
    Feature(usize),
    Xstate(usize),
    Extended(usize),
}

const WORDS: [(usize, Place, usize); 17] = [
    (f::FEATURESET_1D, Place::Basic(1), 3),
    (f::FEATURESET_1C, Place::Basic(1), 2),
    (f::FEATURESET_E1D, Place::Extended(1), 3),
    (f::FEATURESET_E1C, Place::Extended(1), 2),
    (f::FEATURESET_DA1, Place::Xstate(1), 0),
    (f::FEATURESET_7B0, Place::Feature(0), 1),
    (f::FEATURESET_7C0, Place::Feature(0), 2),
    (f::FEATURESET_E7D, Place::Extended(7), 3),
    (f::FEATURESET_E8B, Place::Extended(8), 1),
    (f::FEATURESET_7D0, Place::Feature(0), 3),
    (f::FEATURESET_7A1, Place::Feature(1), 0),
    (f::FEATURESET_E21A, Place::Extended(0x21), 0),
    (f::FEATURESET_7B1, Place::Feature(1), 1),
    (f::FEATURESET_7D2, Place::Feature(2), 3),
    (f::FEATURESET_7C1, Place::Feature(1), 2),
    (f::FEATURESET_7D1, Place::Feature(1), 3),
    (f::FEATURESET_E21C, Place::Extended(0x21), 2),
];
