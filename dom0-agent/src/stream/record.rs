//! The records of libxc's stream: their numbers, names and fields.

use xen_abi::arch_x86::{CpuidLeaf, MsrEntry};
use xen_abi::domctl::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Mfn, NO_FRAME, PAGE_SIZE, Page, Pfn};

/// First eight bytes of a stream.
pub const MARKER: u64 = u64::MAX;
/// `XENF`, which follows.
pub const ID: u32 = 0x5845_4e46;
/// The version that is written.
pub const VERSION: u32 = 3;
/// The oldest version that is read.
pub const OLDEST: u32 = 2;
/// Type of the domain header: x86 PV.
pub const TYPE_X86_PV: u32 = 1;
/// Type of the domain header: x86 HVM, which is not supported.
pub const TYPE_X86_HVM: u32 = 2;
/// Bit of a record's type: who does not know it may leave it out.
pub const OPTIONAL: u32 = 1 << 31;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal),* $(,)?) => {
        /// The mandatory records.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum Kind { $($(#[$doc])* $name = $number),* }

        impl Kind {
            /// The kind of a number.
            pub fn new(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Its name in the specification.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

kinds! {
    /// The end.
    End = 0 "END",
    /// Pages.
    PageData = 1 "PAGE_DATA",
    /// Width and page table levels of the guest.
    PvInfo = 2 "X86_PV_INFO",
    /// Where the guest keeps the list of its frames.
    PvP2mFrames = 3 "X86_PV_P2M_FRAMES",
    /// Registers.
    PvVcpuBasic = 4 "X86_PV_VCPU_BASIC",
    /// More callbacks.
    PvVcpuExtended = 5 "X86_PV_VCPU_EXTENDED",
    /// Registers of the FPU and its kin.
    PvVcpuXsave = 6 "X86_PV_VCPU_XSAVE",
    /// The page that guest and hypervisor share.
    SharedInfo = 7 "SHARED_INFO",
    /// How the guest sees the time stamp counter.
    TscInfo = 8 "X86_TSC_INFO",
    /// HVM only.
    HvmContext = 9 "HVM_CONTEXT",
    /// HVM only.
    HvmParams = 0xa "HVM_PARAMS",
    /// Deprecated.
    Toolstack = 0xb "TOOLSTACK",
    /// MSRs.
    PvVcpuMsrs = 0xc "X86_PV_VCPU_MSRS",
    /// The pages come once more, to be compared.
    Verify = 0xd "VERIFY",
    /// Of continuous checkpoints.
    Checkpoint = 0xe "CHECKPOINT",
    /// Of continuous checkpoints.
    CheckpointDirtyPfnList = 0xf "CHECKPOINT_DIRTY_PFN_LIST",
    /// What does not change while a guest runs was sent.
    StaticDataEnd = 0x10 "STATIC_DATA_END",
    /// The CPU that the guest sees: CPUID leaves.
    CpuidPolicy = 0x11 "X86_CPUID_POLICY",
    /// The CPU that the guest sees: MSRs.
    MsrPolicy = 0x12 "X86_MSR_POLICY",
}

/// What a page is, as in `PAGE_DATA`: four bits (`XEN_DOMCTL_PFINFO_*` without the shift).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageType(u8);

impl PageType {
    /// An ordinary page.
    pub const NORMAL: Self = Self(0);
    /// A page that is there; of what is in it nothing is said. Read here as zeros.
    pub const ALLOCATE: Self =
        Self((XEN_DOMCTL_PFINFO_XALLOC >> XEN_DOMCTL_PFINFO_LTAB_SHIFT) as u8);
    /// No page.
    pub const INVALID: Self = Self((XEN_DOMCTL_PFINFO_XTAB >> XEN_DOMCTL_PFINFO_LTAB_SHIFT) as u8);
    /// A page that broke.
    pub const BROKEN: Self = Self((XEN_DOMCTL_PFINFO_BROKEN >> XEN_DOMCTL_PFINFO_LTAB_SHIFT) as u8);

    /// A page table of a level (1 to 4).
    pub fn table(level: u8, pinned: bool) -> Option<Self> {
        (1..=4)
            .contains(&level)
            .then_some(Self(level | if pinned { 8 } else { 0 }))
    }

    /// From the four bits; `None` for those that are reserved.
    pub fn new(bits: u8) -> Option<Self> {
        matches!(bits, 0..=4 | 9..=0xf).then_some(Self(bits))
    }

    /// From the answer of `XEN_DOMCTL_getpageframeinfo3`.
    pub fn from_domctl(answer: u64) -> Option<Self> {
        Self::new((answer >> XEN_DOMCTL_PFINFO_LTAB_SHIFT) as u8 & 0xf)
    }

    /// The four bits.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Whether a page of it follows in the record.
    pub fn has_data(self) -> bool {
        self.0 < 0xd
    }

    /// Whether the guest has a page there.
    pub fn has_page(self) -> bool {
        self.has_data() || self == Self::ALLOCATE
    }

    /// The level of a page table.
    pub fn level(self) -> Option<u8> {
        let level = self.0 & 7;
        (self.has_data() && level != 0).then_some(level)
    }

    /// Whether it is a page table that is pinned.
    pub fn pinned(self) -> bool {
        self.has_data() && self.0 & 8 != 0
    }
}

/// Pages with their types.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pages {
    /// Numbers and types.
    pub pages: Vec<(Pfn, PageType)>,
    /// Contents of those that have some, one after the other.
    pub data: Vec<u8>,
}

impl Default for PageType {
    fn default() -> Self {
        Self::NORMAL
    }
}

impl Pages {
    /// Empties it.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.data.clear();
    }

    /// Adds a page; `data` is only taken where the type has some.
    pub fn push(&mut self, pfn: Pfn, kind: PageType, data: &Page) {
        self.pages.push((pfn, kind));
        if kind.has_data() {
            self.data.extend_from_slice(data);
        }
    }

    /// Each with its contents.
    pub fn iter(&self) -> impl Iterator<Item = (Pfn, PageType, Option<&Page>)> {
        let mut data = self.data.chunks_exact(PAGE_SIZE);
        self.pages.iter().map(move |&(pfn, kind)| {
            let page = if kind.has_data() { data.next() } else { None };
            (pfn, kind, page.and_then(|page| page.try_into().ok()))
        })
    }
}

/// Body of `X86_TSC_INFO`.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct TscInfo {
    /// `TSC_MODE_*`.
    pub mode: u32,
    /// Frequency, kHz.
    pub khz: u32,
    /// Time that passed for the guest, ns.
    pub nsec: u64,
    /// How often it was restored.
    pub incarnation: u32,
    /// Reserved.
    pub reserved: u32,
}

/// Body of `X86_PV_INFO`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PvInfo {
    /// Bytes of a word: 4 or 8.
    pub width: u8,
    /// Levels of the page tables: 3 or 4.
    pub levels: u8,
    /// Reserved.
    pub reserved: [u8; 6],
}

/// Head of a vCPU's records.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VcpuHead {
    /// Number of the vCPU.
    pub vcpu: u32,
    /// Reserved.
    pub reserved: u32,
}

/// Which part of a vCPU's state a record holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VcpuPart {
    /// `struct vcpu_guest_context`.
    Basic,
    /// `struct xen_domctl_ext_vcpucontext`.
    Extended,
    /// As of `XEN_DOMCTL_getvcpuextstate`.
    Xsave,
    /// Of `xen_domctl_vcpu_msr_t`.
    Msrs,
}

impl VcpuPart {
    /// All, in the order in which they are written.
    pub const ALL: [Self; 4] = [Self::Basic, Self::Extended, Self::Xsave, Self::Msrs];

    /// The record.
    pub fn kind(self) -> Kind {
        match self {
            Self::Basic => Kind::PvVcpuBasic,
            Self::Extended => Kind::PvVcpuExtended,
            Self::Xsave => Kind::PvVcpuXsave,
            Self::Msrs => Kind::PvVcpuMsrs,
        }
    }
}

/// A record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// `PAGE_DATA`.
    Pages(Pages),
    /// `X86_PV_INFO`, of a 64-bit guest.
    PvInfo,
    /// `X86_PV_P2M_FRAMES`: frames of the list for the guest's frames `start` to `end`.
    P2mFrames {
        /// First frame that is told of.
        start: Pfn,
        /// Last one.
        end: Pfn,
        /// Where the list of them is.
        frames: Vec<Pfn>,
    },
    /// `X86_PV_VCPU_*`.
    Vcpu {
        /// Number of the vCPU.
        vcpu: u32,
        /// What of it.
        part: VcpuPart,
        /// The bytes.
        state: Vec<u8>,
    },
    /// `SHARED_INFO`.
    SharedInfo(Box<Page>),
    /// `X86_TSC_INFO`.
    Tsc(TscInfo),
    /// `STATIC_DATA_END`.
    StaticDataEnd,
    /// `X86_CPUID_POLICY`.
    CpuidPolicy(Vec<CpuidLeaf>),
    /// `X86_MSR_POLICY`.
    MsrPolicy(Vec<MsrEntry>),
    /// `VERIFY`.
    Verify,
    /// `END`.
    End,
    /// An optional record of a type that is not known.
    Optional(u32),
}

impl Record {
    /// Its name in the specification.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pages(_) => Kind::PageData.name(),
            Self::PvInfo => Kind::PvInfo.name(),
            Self::P2mFrames { .. } => Kind::PvP2mFrames.name(),
            Self::Vcpu { part, .. } => part.kind().name(),
            Self::SharedInfo(_) => Kind::SharedInfo.name(),
            Self::Tsc(_) => Kind::TscInfo.name(),
            Self::StaticDataEnd => Kind::StaticDataEnd.name(),
            Self::CpuidPolicy(_) => Kind::CpuidPolicy.name(),
            Self::MsrPolicy(_) => Kind::MsrPolicy.name(),
            Self::Verify => Kind::Verify.name(),
            Self::End => Kind::End.name(),
            Self::Optional(_) => "optional",
        }
    }
}

/// The state of a vCPU, part by part; empty where there is none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VcpuState {
    parts: [Vec<u8>; 4],
}

impl VcpuState {
    /// A part.
    pub fn part(&self, part: VcpuPart) -> &Vec<u8> {
        &self.parts[part as usize]
    }

    /// A part, to be changed.
    pub fn part_mut(&mut self, part: VcpuPart) -> &mut Vec<u8> {
        &mut self.parts[part as usize]
    }
}

/// The CPU that a guest sees.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CpuPolicy {
    /// Its CPUID leaves.
    pub leaves: Vec<CpuidLeaf>,
    /// Its MSRs.
    pub msrs: Vec<MsrEntry>,
}

/// Where a frame is, or that it is nowhere.
pub fn valid(mfn: Mfn) -> Option<Mfn> {
    (mfn != NO_FRAME).then_some(mfn)
}
