//! What an entry of a level-1 table may map, and what it holds of it.
//!
//! An entry for RAM holds a reference to the frame, and one of type *writable*
//! if it lets writes through. An entry for the legacy hole holds nothing.

use core::sync::atomic::Ordering;

use super::domain::DomainMemory;
use super::entry::Pte;
use super::frames::{FrameInfo, TypeWord};
use super::{Mm, MmHost};
use crate::addr::Mfn;
use crate::error::{Error, Result};
use crate::ids::DomainId;

/// First frame of the hole between conventional memory and 1 MiB (the VGA and
/// ROM areas of a PC).
const LEGACY_HOLE_FIRST: u64 = 0xa0;
/// Last frame of that hole.
const LEGACY_HOLE_LAST: u64 = 0xff;

/// In whose name frames are mapped (the "page owner" of a hypercall).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageOwner {
    /// The domain, or `DOMID_IO` or `DOMID_XEN`.
    pub id: DomainId,
    /// It may map frames of any domain.
    pub privileged: bool,
    /// It may map I/O memory.
    pub io_memory: bool,
}

impl PageOwner {
    /// A domain in its own name.
    pub fn of(domain: &DomainMemory) -> Self {
        Self {
            id: domain.id(),
            privileged: domain.is_privileged(),
            io_memory: domain.is_privileged(),
        }
    }
}

impl<H: MmHost> Mm<H> {
    /// Whether entries for this frame hold references.
    #[inline]
    fn counted(&self, mfn: Mfn) -> Option<&FrameInfo> {
        if self.config().legacy_substitute == Some(mfn) {
            return None;
        }
        self.frames().ram(mfn)
    }

    /// Takes what a present entry of a level-1 table of `table_owner` holds, in
    /// the name of `pg_owner`, and returns the entry as it is to be, but for
    /// [`Pte::adjusted`] (`get_page_from_l1e`).
    ///
    /// # Errors
    /// `Invalid` for flags that may not be set and for the invalid frame,
    /// `NotPermitted` for frames that are no RAM, `Busy` for frames of somebody
    /// else and for writing frames that are in use as something else, `Access`
    /// for other memory types on pages of the hypervisor's.
    #[inline]
    pub(super) fn get_leaf(
        &self,
        entry: Pte,
        table_owner: &DomainMemory,
        pg_owner: PageOwner,
    ) -> Result<Pte> {
        if entry.has(table_owner.leaf_disallowed) {
            return Err(Error::Invalid);
        }
        let mfn = entry.mfn();
        let Some(info) = self.counted(mfn) else {
            return self.legacy_leaf(entry, table_owner, pg_owner);
        };
        let (owner, page) = self.get_any_page_of(info, mfn).ok_or(Error::Busy)?;
        if owner != pg_owner.id && (pg_owner.id == table_owner.id() || !pg_owner.privileged) {
            return Err(Error::Busy);
        }
        if entry.is_writable() {
            self.get_writable_type_of(info).map_err(|_| Error::Busy)?;
            if owner != table_owner.id() && !info.add_foreign() {
                self.put_data_type(mfn);
                return Err(Error::Busy);
            }
        }
        if !entry.has(Pte::CACHE_ATTRIBUTES) {
            page.keep();
            return Ok(entry);
        }
        if info.count_word().is_hypervisor() {
            if entry.is_writable() {
                self.put_writable_leaf(info, mfn, table_owner);
            }
            return Err(Error::Access);
        }
        if !self.config().self_snoop
            && entry.is_writable()
            && entry.flags() & Pte::CACHE_ATTRIBUTES == Pte::WRITE_COMBINING
        {
            info.page_type
                .fetch_or(TypeWord::NON_COHERENT, Ordering::AcqRel);
        }
        page.keep();
        Ok(entry)
    }

    /// An entry for a frame that is no RAM: only the legacy hole, and only for
    /// those with a right to I/O memory, who see a frame of zeros there. What
    /// the first layer has in its hole is not theirs to know.
    #[cold]
    #[inline(never)]
    fn legacy_leaf(
        &self,
        entry: Pte,
        table_owner: &DomainMemory,
        pg_owner: PageOwner,
    ) -> Result<Pte> {
        let refused = if entry.is_invalid_mfn() {
            Error::Invalid
        } else {
            Error::NotPermitted
        };
        let substitute = self.config().legacy_substitute.ok_or(refused)?;
        let mfn = entry.mfn();
        let in_hole = (LEGACY_HOLE_FIRST..=LEGACY_HOLE_LAST).contains(&mfn.0);
        // A guest that read its entry back writes the substitute.
        if !(in_hole || mfn == substitute) {
            return Err(refused);
        }
        if !pg_owner.io_memory || !(pg_owner.id == table_owner.id() || table_owner.is_privileged())
        {
            return Err(refused);
        }
        // I/O memory is never mapped cacheable, as on Xen.
        let flip = match entry.flags() & Pte::CACHE_ATTRIBUTES {
            0 => Pte::PWT | Pte::PCD,
            Pte::PWT => Pte::PCD,
            attributes if attributes == Pte::PWT | Pte::PAT => Pte::PCD | Pte::PAT,
            _ => 0,
        };
        Ok(Pte::new(substitute, entry.flip(flip).flags()))
    }

    /// Gives back that an entry of a table of `table_owner` let the frame be written.
    #[inline(always)]
    fn put_writable_leaf(&self, info: &FrameInfo, mfn: Mfn, table_owner: &DomainMemory) {
        if !info.count_word().is_ram_of(table_owner.ram_bits) {
            self.end_foreign_entry(info, mfn);
        }
        self.put_data_type_of(info, mfn);
    }

    /// An entry for writing, which the owner of the table has for a frame of somebody else's,
    /// came to be; it holds the references of a grant. `false` if there are too many.
    pub(super) fn begin_foreign_entry(&self, mfn: Mfn, table_owner: &DomainMemory) -> bool {
        match self.frames().ram(mfn) {
            Some(info) if !info.count_word().is_ram_of(table_owner.ram_bits) => info.add_foreign(),
            _ => true,
        }
    }

    /// The references of such an entry are a grant's again.
    pub(super) fn end_grant_entry(&self, mfn: Mfn, table_owner: &DomainMemory) {
        if let Some(info) = self.frames().ram(mfn)
            && !info.count_word().is_ram_of(table_owner.ram_bits)
        {
            self.end_foreign_entry(info, mfn);
        }
    }

    #[cold]
    #[inline(never)]
    fn end_foreign_entry(&self, info: &FrameInfo, mfn: Mfn) {
        // Before it is not counted any more, which says the same: see `dirty`.
        self.mark_dirty(mfn);
        info.remove_foreign();
    }

    /// Gives back what an entry of a level-1 table of `table_owner` holds (`put_page_from_l1e`).
    #[inline]
    pub(super) fn put_leaf(&self, entry: Pte, table_owner: &DomainMemory) {
        if !entry.is_present() {
            return;
        }
        let mfn = entry.mfn();
        if let Some(info) = self.counted(mfn) {
            if entry.is_writable() {
                self.put_writable_leaf(info, mfn, table_owner);
            }
            self.put_page_of(info, mfn);
        }
    }

    /// What is known of the frame of an entry whose rights change and nothing else:
    /// it stays present and maps the same frame with the same memory type; what
    /// differs is [`Pte::RW`] and what is in [`Pte::FAST_PATH`]. The reference to the
    /// frame stays that of the entry; only the one of type is to be taken or given
    /// back.
    ///
    /// `None` where more must be looked at: only a frame of the table's owner, mapped
    /// in its own name, has rights that nobody else has a say in (of grants, say).
    #[inline(always)]
    pub(super) fn leaf_of_own(
        &self,
        new: Pte,
        table_owner: &DomainMemory,
        pg_owner: PageOwner,
    ) -> Option<&FrameInfo> {
        // The zero frame of the legacy hole has no owner.
        let info = self.frames().any(new.mfn())?;
        let own = pg_owner.id == table_owner.id()
            && info.count_word().is_ram_of(table_owner.ram_bits)
            && !new.has(Pte::CACHE_ATTRIBUTES);
        own.then_some(info)
    }
}
