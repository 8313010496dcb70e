//! Entries for granted frames, for the grant-table code, which holds the
//! references to the frames: one to the frame, and one as writable unless the
//! mapping is read-only. The entry takes them over; when the guest overwrites the
//! entry by itself, they are given back like those of any entry, and
//! unmapping the grant then fails.

use xen_abi::grant_table::{GNTMAP_APPLICATION_MAP, GNTMAP_CONTAINS_PTE, GNTMAP_READONLY};

use super::entry::{Level, Pte};
use super::frames::PageType;
use super::types::Tables;
use super::{Mm, MmHost, MmuCaller};
use crate::addr::{GuestVirtual, MachineAddress, Mfn};
use crate::error::{Error, Result};

/// First of the bits for the guest's own use in the entry (`_GNTMAP_guest_avail0`).
const GNTMAP_GUEST_AVAIL_SHIFT: u32 = 16;

/// The flags of an entry for a grant.
fn grant_flags(flags: u32) -> u64 {
    let mut out = Pte::PRESENT | Pte::ACCESSED_DIRTY;
    if flags & GNTMAP_APPLICATION_MAP != 0 {
        out |= Pte::USER;
    }
    if flags & GNTMAP_READONLY == 0 {
        out |= Pte::RW;
    }
    out | ((u64::from(flags >> GNTMAP_GUEST_AVAIL_SHIFT) << 9) & Pte::AVAIL)
}

impl<H: MmHost> Tables<'_, H> {
    /// The level-1 entry at a machine address, in a table of this domain.
    fn entry_at(&self, address: u64) -> Result<(Mfn, usize)> {
        if !address.is_multiple_of(8) {
            return Err(Error::Invalid);
        }
        let address = MachineAddress(address);
        let info = self
            .mm
            .frames()
            .ram(address.frame())
            .ok_or(Error::Invalid)?;
        let word = info.type_word();
        if info.count_word().owner() != Some(self.domain.id())
            || word.page_type() != PageType::L1
            || !word.is_validated()
            || word.count() == 0
        {
            return Err(Error::Invalid);
        }
        Ok((address.frame(), address.offset() / 8))
    }

    fn grant_entry(&self, root: Option<Mfn>, address: u64, flags: u32) -> Result<(Mfn, usize)> {
        if flags & GNTMAP_CONTAINS_PTE != 0 {
            self.entry_at(address)
        } else {
            let root = root.ok_or(Error::Invalid)?;
            let address = GuestVirtual(address);
            let (table, _) = self.find_l1(root, address).ok_or(Error::Invalid)?;
            Ok((table, address.table_index(1)))
        }
    }
}

impl<H: MmHost> Mm<H> {
    /// Maps a granted frame into the caller's page tables, at a linear address or
    /// (`GNTMAP_contains_pte`) in the entry at a machine address. On success the
    /// caller's references are the entry's; what was there before is given back.
    ///
    /// # Errors
    /// `Invalid` (`GNTST_general_error`); the references stay the caller's.
    pub fn create_grant_mapping(
        &self,
        caller: &MmuCaller<'_>,
        address: u64,
        frame: Mfn,
        flags: u32,
    ) -> Result<()> {
        let tables = self.lock(caller.domain);
        let (table, slot) = tables.grant_entry(caller.tables.kernel(), address, flags)?;
        let nx = if self.config().nx { Pte::NX } else { 0 };
        let new = Pte::new(frame, grant_flags(flags) | nx).adjusted(Level::L1);
        let page = tables.frame(table).ok_or(Error::Invalid)?;
        if new.is_writable() && !self.begin_foreign_entry(frame, caller.domain) {
            return Err(Error::Invalid);
        }
        let old = Pte(page.load(slot));
        page.store(slot, new.0);
        tables.entry_changed(table, slot);
        self.put_leaf(old, caller.domain);
        Ok(())
    }

    /// Takes a granted frame out of the caller's page tables, if it is still
    /// there with the rights that it was mapped with. With `new_address` not 0, the
    /// entry at that linear address is moved here, else the entry is cleared. The
    /// entry's references are the caller's again.
    ///
    /// # Errors
    /// `Invalid` (`GNTST_general_error`); the mapping is as it was, but an entry
    /// that was to be moved is gone, as on Xen.
    pub fn replace_grant_mapping(
        &self,
        caller: &MmuCaller<'_>,
        address: u64,
        frame: Mfn,
        new_address: u64,
        flags: u32,
    ) -> Result<()> {
        if new_address != 0 && flags & GNTMAP_CONTAINS_PTE != 0 {
            return Err(Error::Invalid);
        }
        let root = caller.tables.kernel();
        let tables = self.lock(caller.domain);
        let mut new = Pte::EMPTY;
        if new_address != 0 {
            let (table, slot) = tables.grant_entry(root, new_address, 0)?;
            let page = tables.frame(table).ok_or(Error::Invalid)?;
            new = Pte(page.load(slot));
            page.store(slot, 0);
            tables.entry_changed(table, slot);
        }
        let result = tables
            .grant_entry(root, address, flags)
            .and_then(|(table, slot)| {
                let page = tables.frame(table).ok_or(Error::Invalid)?;
                let old = Pte(page.load(slot));
                let rights = Pte::PRESENT | Pte::RW;
                if old.mfn() != frame || (old.flags() ^ grant_flags(flags)) & rights != 0 {
                    return Err(Error::Invalid);
                }
                page.store(slot, new.0);
                tables.entry_changed(table, slot);
                if old.is_writable() {
                    self.end_grant_entry(frame, caller.domain);
                }
                Ok(())
            });
        if result.is_err() {
            self.put_leaf(new, caller.domain);
        }
        result
    }
}
