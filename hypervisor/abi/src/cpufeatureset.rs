//! CPU features by their number in Xen's feature set (arch-x86/cpufeatureset.h):
//! bit `n % 32` of word `n / 32`.
//!
//! Each feature carries what the header's annotation says of exposing it: to no
//! guest, to all, to HVM guests with hardware-assisted paging, to all HVM guests,
//! and whether it needs special handling.

/// Number of words of a feature set.
pub const FEATURESET_WORDS: usize = 19;

/// Word of CPUID leaf 1, EDX.
pub const FEATURESET_1D: usize = 0;
/// Word of CPUID leaf 1, ECX.
pub const FEATURESET_1C: usize = 1;
/// Word of CPUID leaf 0x80000001, EDX.
pub const FEATURESET_E1D: usize = 2;
/// Word of CPUID leaf 0x80000001, ECX.
pub const FEATURESET_E1C: usize = 3;
/// Word of CPUID leaf 0xd:1, EAX.
pub const FEATURESET_DA1: usize = 4;
/// Word of CPUID leaf 7:0, EBX.
pub const FEATURESET_7B0: usize = 5;
/// Word of CPUID leaf 7:0, ECX.
pub const FEATURESET_7C0: usize = 6;
/// Word of CPUID leaf 0x80000007, EDX.
pub const FEATURESET_E7D: usize = 7;
/// Word of CPUID leaf 0x80000008, EBX.
pub const FEATURESET_E8B: usize = 8;
/// Word of CPUID leaf 7:0, EDX.
pub const FEATURESET_7D0: usize = 9;
/// Word of CPUID leaf 7:1, EAX.
pub const FEATURESET_7A1: usize = 10;
/// Word of CPUID leaf 0x80000021, EAX.
pub const FEATURESET_E21A: usize = 11;
/// Word of CPUID leaf 7:1, EBX.
pub const FEATURESET_7B1: usize = 12;
/// Word of CPUID leaf 7:2, EDX.
pub const FEATURESET_7D2: usize = 13;
/// Word of CPUID leaf 7:1, ECX.
pub const FEATURESET_7C1: usize = 14;
/// Word of CPUID leaf 7:1, EDX.
pub const FEATURESET_7D1: usize = 15;
/// Word of MSR 0x10a (ARCH_CAPABILITIES), low half.
pub const FEATURESET_M10AL: usize = 16;
/// Word of MSR 0x10a (ARCH_CAPABILITIES), high half.
pub const FEATURESET_M10AH: usize = 17;
/// Word of CPUID leaf 0x80000021, ECX.
pub const FEATURESET_E21C: usize = 18;

/// Which guests may be shown a feature (the letters of cpufeatureset.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exposure {
    /// Not shown to a guest.
    None,
    /// All guests (`A`), by default or, `a`, when asked for.
    All {
        /// Whether it is shown without being asked for.
        default: bool,
    },
    /// HVM guests of any paging mode (`S`, or `s` when asked for).
    Hvm {
        /// Whether it is shown without being asked for.
        default: bool,
    },
    /// HVM guests with hardware-assisted paging (`H`, or `h` when asked for).
    Hap {
        /// Whether it is shown without being asked for.
        default: bool,
    },
}

/// A CPU feature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Feature {
    /// Number in the feature set.
    pub number: u16,
    /// Name, without `X86_FEATURE_`.
    pub name: &'static str,
    /// Which guests may be shown it.
    pub exposure: Exposure,
    /// Whether it depends on more than the bit of the hardware (`!`).
    pub special: bool,
}

impl Feature {
    /// Word of the feature set that holds it.
    pub const fn word(self) -> usize {
        self.number as usize / 32
    }

    /// Its bit in that word, as a mask.
    pub const fn mask(self) -> u32 {
        1 << (self.number % 32)
    }
}

macro_rules! features {
    ($($name:ident, $text:literal, $word:literal, $bit:literal, $exposure:expr, $special:literal;)*) => {
        $(
            #[doc = concat!("`X86_FEATURE_", $text, "`.")]
            pub const $name: Feature = Feature {
                number: $word * 32 + $bit,
                name: $text,
                exposure: $exposure,
                special: $special,
            };
        )*

        /// All features that have a name, in rising order.
        pub const FEATURES: &[Feature] = &[$($name),*];
    };
}

const NONE: Exposure = Exposure::None;
const A: Exposure = Exposure::All { default: true };
const A_OPT: Exposure = Exposure::All { default: false };
const S: Exposure = Exposure::Hvm { default: true };
const S_OPT: Exposure = Exposure::Hvm { default: false };
const H: Exposure = Exposure::Hap { default: true };
const H_OPT: Exposure = Exposure::Hap { default: false };

features! {
    FPU, "FPU", 0, 0, A, false;
    VME, "VME", 0, 1, S, false;
    DE, "DE", 0, 2, A, false;
    PSE, "PSE", 0, 3, S, false;
    TSC, "TSC", 0, 4, A, false;
    MSR, "MSR", 0, 5, A, false;
    PAE, "PAE", 0, 6, A, false;
    MCE, "MCE", 0, 7, A, false;
    CX8, "CX8", 0, 8, A, false;
    APIC, "APIC", 0, 9, A, true;
    SEP, "SEP", 0, 11, A, false;
    MTRR, "MTRR", 0, 12, S, false;
    PGE, "PGE", 0, 13, S, false;
    MCA, "MCA", 0, 14, A, false;
    CMOV, "CMOV", 0, 15, A, false;
    PAT, "PAT", 0, 16, A, false;
    PSE36, "PSE36", 0, 17, S, false;
    CLFLUSH, "CLFLUSH", 0, 19, A, false;
    DS, "DS", 0, 21, NONE, false;
    ACPI, "ACPI", 0, 22, A, false;
    MMX, "MMX", 0, 23, A, false;
    FXSR, "FXSR", 0, 24, A, false;
    SSE, "SSE", 0, 25, A, false;
    SSE2, "SSE2", 0, 26, A, false;
    SS, "SS", 0, 27, A, false;
    HTT, "HTT", 0, 28, A, true;
    TM1, "TM1", 0, 29, NONE, false;
    PBE, "PBE", 0, 31, NONE, false;
    SSE3, "SSE3", 1, 0, A, false;
    PCLMULQDQ, "PCLMULQDQ", 1, 1, A, false;
    DTES64, "DTES64", 1, 2, NONE, false;
    MONITOR, "MONITOR", 1, 3, NONE, false;
    DSCPL, "DSCPL", 1, 4, NONE, false;
    VMX, "VMX", 1, 5, H_OPT, false;
    SMX, "SMX", 1, 6, NONE, false;
    EIST, "EIST", 1, 7, NONE, false;
    TM2, "TM2", 1, 8, NONE, false;
    SSSE3, "SSSE3", 1, 9, A, false;
    FMA, "FMA", 1, 12, A, false;
    CX16, "CX16", 1, 13, A, false;
    XTPR, "XTPR", 1, 14, NONE, false;
    PDCM, "PDCM", 1, 15, NONE, false;
    PCID, "PCID", 1, 17, H, false;
    DCA, "DCA", 1, 18, NONE, false;
    SSE4_1, "SSE4_1", 1, 19, A, false;
    SSE4_2, "SSE4_2", 1, 20, A, false;
    X2APIC, "X2APIC", 1, 21, S, true;
    MOVBE, "MOVBE", 1, 22, A, false;
    POPCNT, "POPCNT", 1, 23, A, false;
    TSC_DEADLINE, "TSC_DEADLINE", 1, 24, S, false;
    AESNI, "AESNI", 1, 25, A, false;
    XSAVE, "XSAVE", 1, 26, A, false;
    OSXSAVE, "OSXSAVE", 1, 27, NONE, true;
    AVX, "AVX", 1, 28, A, false;
    F16C, "F16C", 1, 29, A, false;
    RDRAND, "RDRAND", 1, 30, A, true;
    HYPERVISOR, "HYPERVISOR", 1, 31, A, true;
    SYSCALL, "SYSCALL", 2, 11, A, false;
    NX, "NX", 2, 20, A, false;
    MMXEXT, "MMXEXT", 2, 22, A, false;
    FFXSR, "FFXSR", 2, 25, A, false;
    PAGE1GB, "PAGE1GB", 2, 26, H, false;
    RDTSCP, "RDTSCP", 2, 27, A, false;
    LM, "LM", 2, 29, A, false;
    THREEDNOWEXT, "3DNOWEXT", 2, 30, A, false;
    THREEDNOW, "3DNOW", 2, 31, A, false;
    LAHF_LM, "LAHF_LM", 3, 0, A, false;
    CMP_LEGACY, "CMP_LEGACY", 3, 1, A, true;
    SVM, "SVM", 3, 2, H_OPT, false;
    EXTAPIC, "EXTAPIC", 3, 3, NONE, false;
    CR8_LEGACY, "CR8_LEGACY", 3, 4, S, false;
    ABM, "ABM", 3, 5, A, false;
    SSE4A, "SSE4A", 3, 6, A, false;
    MISALIGNSSE, "MISALIGNSSE", 3, 7, A, false;
    THREEDNOWPREFETCH, "3DNOWPREFETCH", 3, 8, A, false;
    OSVW, "OSVW", 3, 9, NONE, false;
    IBS, "IBS", 3, 10, NONE, false;
    XOP, "XOP", 3, 11, A, false;
    SKINIT, "SKINIT", 3, 12, NONE, false;
    WDT, "WDT", 3, 13, NONE, false;
    LWP, "LWP", 3, 15, NONE, false;
    FMA4, "FMA4", 3, 16, A, false;
    NODEID_MSR, "NODEID_MSR", 3, 19, NONE, false;
    TBM, "TBM", 3, 21, A, false;
    TOPOEXT, "TOPOEXT", 3, 22, NONE, false;
    DBEXT, "DBEXT", 3, 26, A, false;
    MONITORX, "MONITORX", 3, 29, NONE, false;
    XSAVEOPT, "XSAVEOPT", 4, 0, A, false;
    XSAVEC, "XSAVEC", 4, 1, A, false;
    XGETBV1, "XGETBV1", 4, 2, A, false;
    XSAVES, "XSAVES", 4, 3, S, false;
    FSGSBASE, "FSGSBASE", 5, 0, A, false;
    TSC_ADJUST, "TSC_ADJUST", 5, 1, S, false;
    SGX, "SGX", 5, 2, NONE, false;
    BMI1, "BMI1", 5, 3, A, false;
    HLE, "HLE", 5, 4, A_OPT, true;
    AVX2, "AVX2", 5, 5, A, false;
    FDP_EXCP_ONLY, "FDP_EXCP_ONLY", 5, 6, NONE, true;
    SMEP, "SMEP", 5, 7, S, false;
    BMI2, "BMI2", 5, 8, A, false;
    ERMS, "ERMS", 5, 9, A, false;
    INVPCID, "INVPCID", 5, 10, H, false;
    RTM, "RTM", 5, 11, A, true;
    PQM, "PQM", 5, 12, NONE, false;
    NO_FPU_SEL, "NO_FPU_SEL", 5, 13, NONE, true;
    MPX, "MPX", 5, 14, S_OPT, false;
    PQE, "PQE", 5, 15, NONE, false;
    AVX512F, "AVX512F", 5, 16, A, false;
    AVX512DQ, "AVX512DQ", 5, 17, A, false;
    RDSEED, "RDSEED", 5, 18, A, false;
    ADX, "ADX", 5, 19, A, false;
    SMAP, "SMAP", 5, 20, S, false;
    AVX512_IFMA, "AVX512_IFMA", 5, 21, A, false;
    CLFLUSHOPT, "CLFLUSHOPT", 5, 23, A, false;
    CLWB, "CLWB", 5, 24, A, true;
    PROC_TRACE, "PROC_TRACE", 5, 25, NONE, false;
    AVX512PF, "AVX512PF", 5, 26, A, false;
    AVX512ER, "AVX512ER", 5, 27, A, false;
    AVX512CD, "AVX512CD", 5, 28, A, false;
    SHA, "SHA", 5, 29, A, false;
    AVX512BW, "AVX512BW", 5, 30, A, false;
    AVX512VL, "AVX512VL", 5, 31, A, false;
    PREFETCHWT1, "PREFETCHWT1", 6, 0, A, false;
    AVX512_VBMI, "AVX512_VBMI", 6, 1, A, false;
    UMIP, "UMIP", 6, 2, S, false;
    PKU, "PKU", 6, 3, H, false;
    OSPKE, "OSPKE", 6, 4, NONE, true;
    AVX512_VBMI2, "AVX512_VBMI2", 6, 6, A, false;
    CET_SS, "CET_SS", 6, 7, NONE, false;
    GFNI, "GFNI", 6, 8, A, false;
    VAES, "VAES", 6, 9, A, false;
    VPCLMULQDQ, "VPCLMULQDQ", 6, 10, A, false;
    AVX512_VNNI, "AVX512_VNNI", 6, 11, A, false;
    AVX512_BITALG, "AVX512_BITALG", 6, 12, A, false;
    AVX512_VPOPCNTDQ, "AVX512_VPOPCNTDQ", 6, 14, A, false;
    RDPID, "RDPID", 6, 22, A, false;
    CLDEMOTE, "CLDEMOTE", 6, 25, A, false;
    MOVDIRI, "MOVDIRI", 6, 27, A_OPT, false;
    MOVDIR64B, "MOVDIR64B", 6, 28, A_OPT, false;
    ENQCMD, "ENQCMD", 6, 29, NONE, false;
    HW_PSTATE, "HW_PSTATE", 7, 7, NONE, false;
    ITSC, "ITSC", 7, 8, A_OPT, false;
    CPB, "CPB", 7, 9, NONE, false;
    EFRO, "EFRO", 7, 10, NONE, false;
    CLZERO, "CLZERO", 8, 0, A, false;
    RSTR_FP_ERR_PTRS, "RSTR_FP_ERR_PTRS", 8, 2, A, false;
    WBNOINVD, "WBNOINVD", 8, 9, NONE, false;
    IBPB, "IBPB", 8, 12, A, false;
    IBRS, "IBRS", 8, 14, S, false;
    AMD_STIBP, "AMD_STIBP", 8, 15, S, false;
    IBRS_ALWAYS, "IBRS_ALWAYS", 8, 16, S, false;
    STIBP_ALWAYS, "STIBP_ALWAYS", 8, 17, S, false;
    IBRS_FAST, "IBRS_FAST", 8, 18, S, false;
    IBRS_SAME_MODE, "IBRS_SAME_MODE", 8, 19, S, false;
    NO_LMSL, "NO_LMSL", 8, 20, S, false;
    AMD_PPIN, "AMD_PPIN", 8, 23, NONE, false;
    AMD_SSBD, "AMD_SSBD", 8, 24, S, false;
    VIRT_SSBD, "VIRT_SSBD", 8, 25, NONE, true;
    SSB_NO, "SSB_NO", 8, 26, A, false;
    PSFD, "PSFD", 8, 28, S, false;
    BTC_NO, "BTC_NO", 8, 29, A, false;
    IBPB_RET, "IBPB_RET", 8, 30, A, false;
    AVX512_4VNNIW, "AVX512_4VNNIW", 9, 2, A, false;
    AVX512_4FMAPS, "AVX512_4FMAPS", 9, 3, A, false;
    FSRM, "FSRM", 9, 4, A, false;
    AVX512_VP2INTERSECT, "AVX512_VP2INTERSECT", 9, 8, A_OPT, false;
    SRBDS_CTRL, "SRBDS_CTRL", 9, 9, NONE, false;
    MD_CLEAR, "MD_CLEAR", 9, 10, A, true;
    RTM_ALWAYS_ABORT, "RTM_ALWAYS_ABORT", 9, 11, NONE, true;
    TSX_FORCE_ABORT, "TSX_FORCE_ABORT", 9, 13, NONE, false;
    SERIALIZE, "SERIALIZE", 9, 14, A, false;
    HYBRID, "HYBRID", 9, 15, NONE, false;
    TSXLDTRK, "TSXLDTRK", 9, 16, A_OPT, false;
    CET_IBT, "CET_IBT", 9, 20, NONE, false;
    AVX512_FP16, "AVX512_FP16", 9, 23, NONE, false;
    IBRSB, "IBRSB", 9, 26, A, false;
    STIBP, "STIBP", 9, 27, A, false;
    L1D_FLUSH, "L1D_FLUSH", 9, 28, S, false;
    ARCH_CAPS, "ARCH_CAPS", 9, 29, A, true;
    CORE_CAPS, "CORE_CAPS", 9, 30, NONE, false;
    SSBD, "SSBD", 9, 31, A, false;
    AVX_VNNI, "AVX_VNNI", 10, 4, A, false;
    AVX512_BF16, "AVX512_BF16", 10, 5, A, false;
    FZRM, "FZRM", 10, 10, A, false;
    FSRS, "FSRS", 10, 11, A, false;
    FSRCS, "FSRCS", 10, 12, A, false;
    LFENCE_DISPATCH, "LFENCE_DISPATCH", 11, 2, A, false;
    VERW_CLEAR, "VERW_CLEAR", 11, 5, A, true;
    NSCB, "NSCB", 11, 6, A, false;
    AUTO_IBRS, "AUTO_IBRS", 11, 8, NONE, false;
    SBPB, "SBPB", 11, 27, A, false;
    IBPB_BRTYPE, "IBPB_BRTYPE", 11, 28, A, false;
    SRSO_NO, "SRSO_NO", 11, 29, A, false;
    SRSO_US_NO, "SRSO_US_NO", 11, 30, A, true;
    SRSO_MSR_FIX, "SRSO_MSR_FIX", 11, 31, NONE, false;
    INTEL_PPIN, "INTEL_PPIN", 12, 0, NONE, false;
    INTEL_PSFD, "INTEL_PSFD", 13, 0, A, false;
    IPRED_CTRL, "IPRED_CTRL", 13, 1, S, false;
    RRSBA_CTRL, "RRSBA_CTRL", 13, 2, S, false;
    BHI_CTRL, "BHI_CTRL", 13, 4, S, false;
    MCDT_NO, "MCDT_NO", 13, 5, A, false;
    CET_SSS, "CET_SSS", 15, 18, NONE, false;
    RDCL_NO, "RDCL_NO", 16, 0, A, false;
    EIBRS, "EIBRS", 16, 1, A, false;
    RSBA, "RSBA", 16, 2, NONE, true;
    SKIP_L1DFL, "SKIP_L1DFL", 16, 3, NONE, false;
    INTEL_SSB_NO, "INTEL_SSB_NO", 16, 4, A, false;
    MDS_NO, "MDS_NO", 16, 5, A, false;
    IF_PSCHANGE_MC_NO, "IF_PSCHANGE_MC_NO", 16, 6, A, false;
    TSX_CTRL, "TSX_CTRL", 16, 7, NONE, false;
    TAA_NO, "TAA_NO", 16, 8, A, false;
    MCU_CTRL, "MCU_CTRL", 16, 9, NONE, false;
    MISC_PKG_CTRL, "MISC_PKG_CTRL", 16, 10, NONE, false;
    ENERGY_FILTERING, "ENERGY_FILTERING", 16, 11, NONE, false;
    DOITM, "DOITM", 16, 12, NONE, false;
    SBDR_SSDP_NO, "SBDR_SSDP_NO", 16, 13, A, false;
    FBSDP_NO, "FBSDP_NO", 16, 14, A, false;
    PSDP_NO, "PSDP_NO", 16, 15, A, false;
    FB_CLEAR, "FB_CLEAR", 16, 17, A, true;
    FB_CLEAR_CTRL, "FB_CLEAR_CTRL", 16, 18, NONE, false;
    RRSBA, "RRSBA", 16, 19, NONE, true;
    BHI_NO, "BHI_NO", 16, 20, A, false;
    XAPIC_STATUS, "XAPIC_STATUS", 16, 21, NONE, false;
    OVRCLK_STATUS, "OVRCLK_STATUS", 16, 23, NONE, false;
    PBRSB_NO, "PBRSB_NO", 16, 24, A, false;
    GDS_CTRL, "GDS_CTRL", 16, 25, NONE, false;
    GDS_NO, "GDS_NO", 16, 26, A, false;
    RFDS_NO, "RFDS_NO", 16, 27, A, false;
    RFDS_CLEAR, "RFDS_CLEAR", 16, 28, A, true;
    ITS_NO, "ITS_NO", 16, 62, A, true;
    TSA_SQ_NO, "TSA_SQ_NO", 18, 1, A, false;
    TSA_L1_NO, "TSA_L1_NO", 18, 2, A, false;
}
