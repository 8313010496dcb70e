//! Page-table entries: their flags, and which of them a guest may set.
//!
//! A PV guest's kernel runs in ring 3 like its user space, so every entry that
//! the hardware sees has the user bit; bit 52 tells a kernel's leaf from a user's.

use crate::addr::Mfn;

/// The bits of an entry that hold the frame number.
const FRAME_BITS: u64 = 0x000f_ffff_ffff_f000;

/// An entry of a page table of any level, as the hardware reads it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Pte(pub u64);

impl core::fmt::Debug for Pte {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Pte({:#018x})", self.0)
    }
}

impl Pte {
    /// P: the entry translates.
    pub const PRESENT: u64 = 1 << 0;
    /// R/W: writes are allowed.
    pub const RW: u64 = 1 << 1;
    /// U/S: ring 3 may use it.
    pub const USER: u64 = 1 << 2;
    /// PWT, a bit of the memory type.
    pub const PWT: u64 = 1 << 3;
    /// PCD, a bit of the memory type.
    pub const PCD: u64 = 1 << 4;
    /// A: used by a walk.
    pub const ACCESSED: u64 = 1 << 5;
    /// D: written through (leaves only).
    pub const DIRTY: u64 = 1 << 6;
    /// PAT, a bit of the memory type, in a leaf of a level-1 table.
    pub const PAT: u64 = 1 << 7;
    /// PS: a leaf of level 2 or 3.
    pub const PSE: u64 = 1 << 7;
    /// G: kept over a change of CR3.
    pub const GLOBAL: u64 = 1 << 8;
    /// The three low bits that the hardware ignores.
    pub const AVAIL: u64 = 0b111 << 9;
    /// The eleven high bits that the hardware ignores.
    pub const AVAIL_HIGH: u64 = 0x7ff << 52;
    /// Bit 52: a leaf of the guest's kernel (`_PAGE_GUEST_KERNEL`).
    pub const GUEST_KERNEL: u64 = 1 << 52;
    /// XD: no fetches of instructions.
    pub const NX: u64 = 1 << 63;
    /// The bits that select the memory type of a 4 KiB leaf.
    pub const CACHE_ATTRIBUTES: u64 = Self::PAT | Self::PCD | Self::PWT;
    /// The bits of [`Self::CACHE_ATTRIBUTES`] for write-combining, with Xen's PAT.
    pub const WRITE_COMBINING: u64 = Self::PAT;
    /// The accessed and dirty bits.
    pub const ACCESSED_DIRTY: u64 = Self::ACCESSED | Self::DIRTY;

    /// Flags of an entry that may change with no new check of the entry.
    ///
    /// This is the one mask of the fast path: nothing in it changes which frame
    /// is mapped, whether it can be written, or its memory type.
    pub const FAST_PATH: u64 = Self::NX
        | Self::AVAIL_HIGH
        | Self::AVAIL
        | Self::GLOBAL
        | Self::ACCESSED_DIRTY
        | Self::USER;

    /// As [`Self::FAST_PATH`], for entries that point to a table: as a table's
    /// level cannot be its own (no linear page tables), such an entry's write
    /// bit gives no rights to a page table.
    pub const FAST_PATH_TABLE: u64 = Self::FAST_PATH | Self::RW;

    /// The entry that is all zero.
    pub const EMPTY: Self = Self(0);

    /// An entry for a frame.
    pub const fn new(mfn: Mfn, flags: u64) -> Self {
        Self(((mfn.0 << 12) & FRAME_BITS) | (flags & !FRAME_BITS))
    }

    /// The frame that is pointed to.
    pub const fn mfn(self) -> Mfn {
        Mfn((self.0 & FRAME_BITS) >> 12)
    }

    /// All bits that are not the frame number.
    pub const fn flags(self) -> u64 {
        self.0 & !FRAME_BITS
    }

    /// Whether any of the flags is set.
    pub const fn has(self, flags: u64) -> bool {
        self.0 & flags != 0
    }

    /// Whether the entry translates.
    pub const fn is_present(self) -> bool {
        self.has(Self::PRESENT)
    }

    /// Whether the entry lets writes through.
    pub const fn is_writable(self) -> bool {
        self.has(Self::RW)
    }

    /// The entry with more flags.
    #[must_use]
    pub const fn with(self, flags: u64) -> Self {
        Self(self.0 | flags)
    }

    /// The entry with some flags turned over.
    #[must_use]
    pub const fn flip(self, flags: u64) -> Self {
        Self(self.0 ^ flags)
    }

    /// Whether the two differ in the frame or in a flag outside `ignored`.
    pub const fn differs(self, other: Self, ignored: u64) -> bool {
        (self.0 ^ other.0) & !ignored != 0
    }

    /// Whether the frame number is the largest that an entry can hold, which is
    /// what becomes of an invalid one (`INVALID_MFN`).
    pub const fn is_invalid_mfn(self) -> bool {
        self.0 & FRAME_BITS == FRAME_BITS
    }

    /// Flags that no entry of a table above level 1 may have: cache bits, PS
    /// and G, and XD where the CPU has none. All that is ignored may be used.
    pub const fn table_disallowed(nx: bool) -> u64 {
        let base = Self::PWT | Self::PCD | Self::PSE | Self::GLOBAL;
        if nx { base } else { base | Self::NX }
    }

    /// Flags that no entry of a level-1 table may have. Memory types other than
    /// write-back are for domains that may reach I/O memory (`cache_attributes`).
    pub const fn leaf_disallowed(nx: bool, cache_attributes: bool) -> u64 {
        let base = Self::table_disallowed(nx) & !Self::GLOBAL;
        if cache_attributes {
            base & !Self::CACHE_ATTRIBUTES
        } else {
            base
        }
    }

    /// A guest's entry as it is put into a table of `level`: with the user bit
    /// that ring 3 needs, leaves marked as the kernel's or made global as the
    /// user's, and entries of level 4 marked as used.
    #[must_use]
    pub const fn adjusted(self, level: Level) -> Self {
        if !self.is_present() {
            return self;
        }
        match level {
            Level::L1 => {
                let mut out = self;
                if !out.has(Self::USER) {
                    out = out.with(Self::GUEST_KERNEL | Self::USER);
                }
                if !out.has(Self::GUEST_KERNEL) {
                    out = out.with(Self::GLOBAL | Self::USER);
                }
                out
            }
            Level::L2 | Level::L3 => self.with(Self::USER),
            Level::L4 => self.with(Self::USER | Self::ACCESSED),
        }
    }
}

/// The level of a page table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    /// Its entries map frames.
    L1 = 1,
    /// Its entries point to level-1 tables.
    L2 = 2,
    /// Its entries point to level-2 tables.
    L3 = 3,
    /// The root, that CR3 points to.
    L4 = 4,
}

impl Level {
    /// The level of the tables that entries of this one point to; `None` for a leaf.
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::L1 => None,
            Self::L2 => Some(Self::L1),
            Self::L3 => Some(Self::L2),
            Self::L4 => Some(Self::L3),
        }
    }
}

/// First entry of a level-4 table that is the hypervisor's.
pub const FIRST_HYPERVISOR_SLOT: usize = 256;
/// Last entry of a level-4 table that is the hypervisor's.
pub const LAST_HYPERVISOR_SLOT: usize = 271;
/// How many entries of a level-4 table are the hypervisor's.
pub const HYPERVISOR_SLOTS: usize = LAST_HYPERVISOR_SLOT - FIRST_HYPERVISOR_SLOT + 1;
/// The entry of a level-4 table through which a guest reads the
/// machine-to-phys table (`MACH2PHYS_VIRT_START`).
pub const MACHPHYS_SLOT: usize = 256;

/// Whether the guest owns this entry of a table of `level`.
pub const fn is_guest_slot(level: Level, slot: usize) -> bool {
    !matches!(level, Level::L4) || slot < FIRST_HYPERVISOR_SLOT || slot > LAST_HYPERVISOR_SLOT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_and_user_leaves_are_told_apart() {
        let p = Pte::PRESENT;
        assert_eq!(
            Pte(p).adjusted(Level::L1).0,
            p | Pte::USER | Pte::GUEST_KERNEL
        );
        assert_eq!(
            Pte(p | Pte::USER).adjusted(Level::L1).0,
            p | Pte::USER | Pte::GLOBAL
        );
        let back = Pte(p).adjusted(Level::L1);
        assert_eq!(back.adjusted(Level::L1), back);
        assert_eq!(Pte(Pte::RW).adjusted(Level::L1).0, Pte::RW);
        assert_eq!(Pte(p).adjusted(Level::L4).0, 0x25);
        assert_eq!(Pte(p).adjusted(Level::L2).0, 0x5);
    }

    #[test]
    fn masks_are_those_of_the_interface() {
        assert_eq!(Pte::table_disallowed(true), 0x198);
        assert_eq!(Pte::leaf_disallowed(true, false), 0x98);
        assert_eq!(Pte::leaf_disallowed(true, true), 0);
        assert_eq!(Pte::leaf_disallowed(false, true), 1 << 63);
        // Nothing that decides about rights is on the fast path.
        assert_eq!(
            Pte::FAST_PATH & (Pte::PRESENT | Pte::RW | Pte::CACHE_ATTRIBUTES | FRAME_BITS),
            0
        );
        assert_eq!(
            Pte::FAST_PATH_TABLE & (Pte::PRESENT | Pte::PSE | FRAME_BITS),
            0
        );
    }
}
