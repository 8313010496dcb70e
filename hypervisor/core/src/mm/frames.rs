//! What is known of each frame of RAM: its owner, its references, its type.
//!
//! # Invariants
//!
//! - A frame has a *count*: the references to it of any kind (mappings, page
//!   tables that point to it, base pointers, its owner's "allocated" reference,
//!   temporary ones). Owner and count share one word, so taking a reference
//!   checks the owner in the same step. A frame with count 0 belongs to nobody
//!   who could reach it.
//! - A frame has a *type* and a count of uses as that type. Types exclude each
//!   other: the type changes only while its count is 0. Each type reference is
//!   held together with a reference to the frame.
//! - `VALIDATED` says that the contents were checked for the type. A page table
//!   is unvalidated when its type count drops to 0.
//! - `PARTIAL` says that validation or its undoing stopped half-way. The flag
//!   itself holds one reference to the frame and its only type reference. The
//!   entries below `progress.entries` hold their references; if
//!   `progress.entry_held` is set, the entry at `progress.entries` holds a
//!   reference to its frame, but none of type.
//! - The stamp says when (by the flush clock) the last use of the present type
//!   ended. Before the frame takes another type, every CPU that may hold an
//!   older translation is flushed.
//! - All bits zero is a frame that is no RAM.

use core::sync::atomic::{AtomicU64, Ordering};

use super::entry::Level;
use crate::addr::Mfn;
use crate::ids::DomainId;

/// What a frame is used as. The numbers are Xen's (`PGT_*`), as
/// `XEN_DOMCTL_getpageframeinfo3` shows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageType {
    /// Nothing in particular.
    None = 0,
    /// Level-1 page table.
    L1 = 1,
    /// Level-2 page table.
    L2 = 2,
    /// Level-3 page table.
    L3 = 3,
    /// Level-4 page table.
    L4 = 4,
    /// Page of a descriptor table (GDT or LDT).
    SegmentDescriptors = 5,
    /// Page that is shared copy-on-write; not used.
    Shared = 6,
    /// Has (or had) writable mappings.
    Writable = 7,
}

impl PageType {
    const fn from_bits(bits: u64) -> Self {
        match bits & 7 {
            1 => Self::L1,
            2 => Self::L2,
            3 => Self::L3,
            4 => Self::L4,
            5 => Self::SegmentDescriptors,
            6 => Self::Shared,
            7 => Self::Writable,
            _ => Self::None,
        }
    }

    /// The level of the page table that this is.
    pub const fn level(self) -> Option<Level> {
        match self {
            Self::L1 => Some(Level::L1),
            Self::L2 => Some(Level::L2),
            Self::L3 => Some(Level::L3),
            Self::L4 => Some(Level::L4),
            _ => None,
        }
    }
}

impl From<Level> for PageType {
    fn from(level: Level) -> Self {
        match level {
            Level::L1 => Self::L1,
            Level::L2 => Self::L2,
            Level::L3 => Self::L3,
            Level::L4 => Self::L4,
        }
    }
}

/// The word with count, owner and flags of a frame, taken apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CountWord(pub(super) u64);

impl CountWord {
    const COUNT: u64 = 0xffff_ffff;
    const OWNER_SHIFT: u32 = 32;
    const OWNER: u64 = 0xffff << Self::OWNER_SHIFT;
    /// The owner's own reference has not been dropped.
    pub(super) const ALLOCATED: u64 = 1 << 48;
    /// A page of the hypervisor that is shared with its owner.
    pub(super) const HYPERVISOR: u64 = 1 << 49;
    /// There is RAM at this number.
    pub(super) const RAM: u64 = 1 << 50;

    /// The bits that are compared by [`Self::is_ram_of`], for an owner.
    pub(super) const fn ram_of(owner: DomainId) -> u64 {
        Self::RAM | ((owner.0 as u64 + 1) << Self::OWNER_SHIFT)
    }

    /// Whether this is RAM of the owner with these bits ([`Self::ram_of`]).
    pub(super) const fn is_ram_of(self, bits: u64) -> bool {
        self.0 & (Self::RAM | Self::OWNER) == bits
    }

    pub(super) const fn owned(owner: DomainId, flags: u64, count: u32) -> Self {
        Self(((owner.0 as u64 + 1) << Self::OWNER_SHIFT) | flags | count as u64)
    }

    /// How many references there are.
    pub const fn count(self) -> u32 {
        (self.0 & Self::COUNT) as u32
    }

    /// Whom the frame belongs to.
    pub const fn owner(self) -> Option<DomainId> {
        match (self.0 & Self::OWNER) >> Self::OWNER_SHIFT {
            0 => None,
            n => Some(DomainId((n - 1) as u16)),
        }
    }

    /// Whether there is RAM.
    pub const fn is_ram(self) -> bool {
        self.0 & Self::RAM != 0
    }

    /// Whether the owner's own reference is still there.
    pub const fn is_allocated(self) -> bool {
        self.0 & Self::ALLOCATED != 0
    }

    /// Whether it is a page of the hypervisor's that its owner may map.
    pub const fn is_hypervisor(self) -> bool {
        self.0 & Self::HYPERVISOR != 0
    }

    /// Whether one more ordinary reference may be taken: there is one already,
    /// and one is left over for `PARTIAL`, which must never fail to take its own.
    pub(super) const fn can_take(self) -> bool {
        let count = self.0 & Self::COUNT;
        count != 0 && count < Self::COUNT - 1
    }
}

/// The word with type, type count and flags of a frame, taken apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TypeWord(pub(super) u64);

impl TypeWord {
    const COUNT: u64 = 0xffff_ffff;
    const TYPE_SHIFT: u32 = 61;
    const TYPE: u64 = 7 << Self::TYPE_SHIFT;
    pub(super) const PINNED: u64 = 1 << 59;
    pub(super) const VALIDATED: u64 = 1 << 58;
    pub(super) const PARTIAL: u64 = 1 << 57;
    /// Was mapped writable with a memory type that does not snoop caches.
    pub(super) const NON_COHERENT: u64 = 1 << 56;
    /// One of the count, in 24 bits, of entries for writing in tables of other domains than
    /// the owner.
    pub(super) const ONE_FOREIGN: u64 = 1 << 32;
    const FOREIGN: u64 = 0xff_ffff << 32;

    /// A type with flags and a count.
    pub(super) const fn new(page_type: PageType, flags: u64, count: u32) -> Self {
        Self(((page_type as u64) << Self::TYPE_SHIFT) | flags | count as u64)
    }

    /// How often it is used as its type.
    pub const fn count(self) -> u32 {
        (self.0 & Self::COUNT) as u32
    }

    /// The type.
    pub const fn page_type(self) -> PageType {
        PageType::from_bits(self.0 >> Self::TYPE_SHIFT)
    }

    /// Whether the owner pinned it to its type.
    pub const fn is_pinned(self) -> bool {
        self.0 & Self::PINNED != 0
    }

    /// Whether its contents have been checked for the type.
    pub const fn is_validated(self) -> bool {
        self.0 & Self::VALIDATED != 0
    }

    /// Whether a check or its undoing stopped half-way.
    pub const fn is_partial(self) -> bool {
        self.0 & Self::PARTIAL != 0
    }

    /// Whether it is (or was last) writable, and no CPU uses it as what it was before.
    pub(super) const fn is_settled_writable(self) -> bool {
        let want = ((PageType::Writable as u64) << Self::TYPE_SHIFT) | Self::VALIDATED;
        self.0 & (Self::TYPE | Self::VALIDATED) == want
    }

    /// How many entries of other domains than the owner let it be written; a grant's, too.
    pub(super) const fn foreign(self) -> u32 {
        ((self.0 & Self::FOREIGN) >> 32) as u32
    }

    /// Whether it is a level-1 table in use.
    pub(super) const fn is_level1(self) -> bool {
        let want = ((PageType::L1 as u64) << Self::TYPE_SHIFT) | Self::VALIDATED;
        self.0 & (Self::TYPE | Self::VALIDATED) == want && self.0 & Self::COUNT != 0
    }

    /// Whether it is a level-4 table in use that was checked.
    pub(super) const fn is_validated_root(self) -> bool {
        let want = ((PageType::L4 as u64) << Self::TYPE_SHIFT) | Self::VALIDATED;
        self.0 & (Self::TYPE | Self::VALIDATED) == want && self.0 & Self::COUNT != 0
    }

    pub(super) const fn is_full(self) -> bool {
        self.0 & Self::COUNT == Self::COUNT
    }

    /// The word after taking one more reference as `want`, from count 0 if
    /// types differ.
    pub(super) const fn retyped(self, want: PageType) -> Self {
        if self.page_type() as u8 == want as u8 {
            return self;
        }
        Self((self.0 & !(Self::TYPE | Self::VALIDATED)) | ((want as u64) << Self::TYPE_SHIFT))
    }
}

/// How far a half-way validation or its undoing came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The entries below this one hold their references.
    pub entries: usize,
    /// This entry too holds a reference to its frame (but none of type).
    pub entry_held: bool,
}

impl Progress {
    const HELD: u64 = 1 << 16;

    pub(super) const fn to_bits(self) -> u64 {
        self.entries as u64 | if self.entry_held { Self::HELD } else { 0 }
    }

    pub(super) const fn from_bits(bits: u64) -> Self {
        let entries = (bits & 0xffff) as usize;
        Self {
            entries: if entries > 512 { 512 } else { entries },
            entry_held: bits & Self::HELD != 0,
        }
    }
}

/// What is known of one frame: 32 bytes, all of them atomics.
#[derive(Default)]
#[repr(C)]
pub struct FrameInfo {
    pub(super) count: AtomicU64,
    pub(super) page_type: AtomicU64,
    /// While `PARTIAL` or being validated: the [`Progress`]; else the stamp.
    pub(super) stamp_or_progress: AtomicU64,
    /// Neighbours on the owner's list of pages; under the owner's page lock.
    pub(super) link: AtomicU64,
}

const _: () = assert!(core::mem::size_of::<FrameInfo>() == 32);

impl FrameInfo {
    /// Count, owner and flags as they are now.
    pub fn count_word(&self) -> CountWord {
        CountWord(self.count.load(Ordering::Acquire))
    }

    /// Type, type count and flags as they are now.
    pub fn type_word(&self) -> TypeWord {
        TypeWord(self.page_type.load(Ordering::Acquire))
    }

    /// Says that there is RAM here. At boot, once, before anything maps it; the
    /// hypervisor's own frames included.
    pub fn mark_ram(&self) {
        self.count.fetch_or(CountWord::RAM, Ordering::AcqRel);
    }

    pub(super) fn cas_count(&self, old: CountWord, new: u64) -> Result<(), CountWord> {
        self.count
            .compare_exchange_weak(old.0, new, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(CountWord)
    }

    pub(super) fn cas_type(&self, old: TypeWord, new: u64) -> Result<(), TypeWord> {
        self.page_type
            .compare_exchange_weak(old.0, new, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(TypeWord)
    }

    /// Takes a reference if the frame belongs to `owner`.
    #[inline]
    pub(super) fn get(&self, owner: DomainId) -> bool {
        let mut now = self.count_word();
        loop {
            if now.owner() != Some(owner) || !now.can_take() {
                return false;
            }
            match self.cas_count(now, now.0 + 1) {
                Ok(()) => return true,
                Err(other) => now = other,
            }
        }
    }

    /// Takes a reference whoever the owner is, and says who.
    #[inline]
    pub(super) fn get_any(&self) -> Option<DomainId> {
        let mut now = self.count_word();
        loop {
            let owner = now.owner()?;
            if !now.can_take() {
                return None;
            }
            match self.cas_count(now, now.0 + 1) {
                Ok(()) => return Some(owner),
                Err(other) => now = other,
            }
        }
    }

    /// Takes one more reference where one is held; it cannot fail, as
    /// [`CountWord::can_take`] keeps one over.
    pub(super) fn get_light(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts one more entry for writing of another domain than the owner. `false` if there
    /// are too many.
    pub(super) fn add_foreign(&self) -> bool {
        let mut now = self.type_word();
        while now.0 & TypeWord::FOREIGN != TypeWord::FOREIGN {
            match self.cas_type(now, now.0.wrapping_add(TypeWord::ONE_FOREIGN)) {
                Ok(()) => return true,
                Err(other) => now = other,
            }
        }
        false
    }

    /// Counts one fewer.
    pub(super) fn remove_foreign(&self) {
        debug_assert!(self.type_word().foreign() != 0, "a foreign entry too many");
        self.page_type
            .fetch_sub(TypeWord::ONE_FOREIGN, Ordering::AcqRel);
    }

    pub(super) fn stamp(&self) -> u64 {
        self.stamp_or_progress.load(Ordering::Acquire)
    }

    pub(super) fn set_stamp(&self, stamp: u64) {
        self.stamp_or_progress.store(stamp, Ordering::Release);
    }

    pub(super) fn progress(&self) -> Progress {
        Progress::from_bits(self.stamp_or_progress.load(Ordering::Acquire))
    }

    pub(super) fn set_progress(&self, progress: Progress) {
        self.stamp_or_progress
            .store(progress.to_bits(), Ordering::Release);
    }
}

/// The table of all frames, indexed by number. The machine gives the storage,
/// zeroed; frames beyond its end are no RAM.
#[derive(Clone, Copy)]
pub struct FrameTable<'a>(pub &'a [FrameInfo]);

impl<'a> FrameTable<'a> {
    /// What is known of a number, whether there is RAM or not.
    #[inline]
    pub(super) fn any(self, mfn: Mfn) -> Option<&'a FrameInfo> {
        self.0.get(usize::try_from(mfn.0).ok()?)
    }

    /// What is known of a frame of RAM; `None` where there is no RAM.
    #[inline]
    pub fn ram(self, mfn: Mfn) -> Option<&'a FrameInfo> {
        let info = self.any(mfn)?;
        info.count_word().is_ram().then_some(info)
    }

    /// Whether there is RAM at this number (`mfn_valid`, less I/O memory).
    pub fn is_ram(self, mfn: Mfn) -> bool {
        self.ram(mfn).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_apart_as_they_were_put_together() {
        let word = CountWord::owned(DomainId(0x7ff2), CountWord::RAM, 3);
        assert_eq!(word.owner(), Some(DomainId::XEN));
        assert_eq!(word.count(), 3);
        assert!(word.is_ram() && !word.is_allocated());
        assert_eq!(CountWord(0).owner(), None);
        for t in [PageType::None, PageType::L4, PageType::Writable] {
            let word = TypeWord::new(t, TypeWord::PINNED, 7);
            assert_eq!(word.page_type(), t);
            assert_eq!(word.count(), 7);
            assert!(word.is_pinned());
        }
        let p = Progress {
            entries: 512,
            entry_held: true,
        };
        assert_eq!(Progress::from_bits(p.to_bits()), p);
    }

    #[test]
    fn references_are_refused_to_strangers_and_before_overflow() {
        let info = FrameInfo::default();
        assert!(info.get_any().is_none());
        info.count.store(
            CountWord::owned(DomainId(1), CountWord::RAM, 1).0,
            Ordering::Relaxed,
        );
        assert!(info.get(DomainId(1)));
        assert!(!info.get(DomainId(2)));
        assert_eq!(info.count_word().count(), 2);
        info.count.store(
            CountWord::owned(DomainId(1), CountWord::RAM, u32::MAX - 1).0,
            Ordering::Relaxed,
        );
        assert!(!info.get(DomainId(1)));
        info.get_light();
        assert_eq!(info.count_word().owner(), Some(DomainId(1)));
        assert_eq!(info.count_word().count(), u32::MAX);
    }
}
