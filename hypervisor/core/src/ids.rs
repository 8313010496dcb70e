//! Names of things: domains, virtual and physical CPUs, ports, grants.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// A domain (`domid_t`, xen.h). Values from 0x7ff0 on are special.
    DomainId,
    u16
);
id!(
    /// A virtual CPU's number within its domain.
    VcpuId,
    u32
);
id!(
    /// A physical CPU, numbered from 0 in the order in which they are brought up.
    CpuId,
    u32
);
id!(
    /// A port of an event channel (`evtchn_port_t`, event_channel.h). 0 is never valid.
    EventPort,
    u32
);
id!(
    /// An entry of a grant table (`grant_ref_t`, grant_table.h).
    GrantRef,
    u32
);

impl DomainId {
    /// The control domain.
    pub const DOM0: Self = Self(0);
    /// First special value (`DOMID_FIRST_RESERVED`): ordinary domains lie below.
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
    /// The caller itself (`DOMID_SELF`).
    pub const SELF: Self = Self(0x7ff0);
    /// Owner of MMIO frames in foreign mappings (`DOMID_IO`).
    pub const IO: Self = Self(0x7ff1);
    /// Owner of the hypervisor's own pages that are shared with guests (`DOMID_XEN`).
    pub const XEN: Self = Self(0x7ff2);
    /// Owner of copy-on-write pages (`DOMID_COW`).
    pub const COW: Self = Self(0x7ff3);
    /// No domain (`DOMID_INVALID`).
    pub const INVALID: Self = Self(0x7ff4);
    /// The idle domain (`DOMID_IDLE`).
    pub const IDLE: Self = Self(0x7fff);

    /// Whether this names an ordinary domain.
    pub const fn is_ordinary(self) -> bool {
        self.0 < Self::FIRST_RESERVED.0
    }
}

/// The largest number of physical CPUs that are used.
pub const MAX_CPUS: usize = 256;

/// A set of physical CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CpuSet([u64; MAX_CPUS / 64]);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: Self = Self([0; MAX_CPUS / 64]);
    /// Every CPU that there could be.
    pub const ALL: Self = Self([u64::MAX; MAX_CPUS / 64]);

    /// The set of one CPU.
    pub fn one(cpu: CpuId) -> Self {
        let mut set = Self::EMPTY;
        set.insert(cpu);
        set
    }

    /// Adds a CPU; one beyond [`MAX_CPUS`] is ignored.
    pub fn insert(&mut self, cpu: CpuId) {
        if let Some(word) = self.0.get_mut(cpu.0 as usize / 64) {
            *word |= 1 << (cpu.0 % 64);
        }
    }

    /// Takes a CPU out.
    pub fn remove(&mut self, cpu: CpuId) {
        if let Some(word) = self.0.get_mut(cpu.0 as usize / 64) {
            *word &= !(1 << (cpu.0 % 64));
        }
    }

    /// Whether the CPU is in the set.
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0
            .get(cpu.0 as usize / 64)
            .is_some_and(|word| word & (1 << (cpu.0 % 64)) != 0)
    }

    /// Whether no CPU is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// The CPUs of both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut out = *self;
        for (word, other) in out.0.iter_mut().zip(other.0) {
            *word &= other;
        }
        out
    }

    /// The CPUs of either set.
    pub fn union(&self, other: &Self) -> Self {
        let mut out = *self;
        for (word, other) in out.0.iter_mut().zip(other.0) {
            *word |= other;
        }
        out
    }

    /// How many CPUs are in the set.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// The CPUs of the set in rising order.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        (0..MAX_CPUS as u32)
            .map(CpuId)
            .filter(|&cpu| self.contains(cpu))
    }

    /// A set from 64-bit words, CPU 0 in bit 0 of the first.
    pub const fn from_words(words: [u64; MAX_CPUS / 64]) -> Self {
        Self(words)
    }

    /// The set as 64-bit words, CPU 0 in bit 0 of the first.
    pub fn words(&self) -> &[u64; MAX_CPUS / 64] {
        &self.0
    }
}
