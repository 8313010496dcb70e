//! Changing entries of page tables: `mmu_update` and `update_va_mapping`.
//!
//! An update takes what the new entry holds, writes it, and gives back what the
//! old one held, in this order, under the tables lock of the domain whose table
//! it is. No TLB is flushed here, as guests flush what they need; and the
//! hypervisor walks guests' tables in software, so it has nothing of its own to
//! flush. Frames that lose a use are stamped, see [`super::types`].

use alloc::sync::Arc;

use xen_abi::xen::{
    MMU_MACHPHYS_UPDATE, MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE,
    MMU_PT_UPDATE_PRESERVE_AD, MmuUpdate, UVMF_ALL, UVMF_FLUSHTYPE_MASK, UVMF_INVLPG, UVMF_LOCAL,
    UVMF_TLB_FLUSH,
};

use super::domain::DomainMemory;
use super::entry::{Level, Pte, is_guest_slot};
use super::ext::{FlushRequest, FlushScope, FlushWhat};
use super::leaf::PageOwner;
use super::types::{DeferredPut, Tables, Work};
use super::{Mm, MmHost, MmuCaller};
use crate::addr::{GuestVirtual, MachineAddress, Mfn, Pfn};
use crate::error::{Error, Result};
use crate::ids::DomainId;
use crate::machine::Frame;

/// The bits of a request's address that hold the command.
const MMU_COMMAND: u64 = 7;

/// Decodes the flags of `update_va_mapping`: which flush is asked for.
pub fn decode_uvmf(address: u64, flags: u64) -> Option<FlushRequest> {
    let what = match flags & UVMF_FLUSHTYPE_MASK {
        UVMF_TLB_FLUSH => FlushWhat::All,
        UVMF_INVLPG => FlushWhat::Address(address),
        _ => return None,
    };
    let scope = match flags & !UVMF_FLUSHTYPE_MASK {
        UVMF_LOCAL => FlushScope::Local,
        UVMF_ALL => FlushScope::Domain,
        handle => FlushScope::Vcpus(handle),
    };
    Some(FlushRequest { what, scope })
}

/// Where an entry is, and how it is to be written.
#[derive(Clone, Copy)]
pub(super) struct EntryUpdate {
    /// The table.
    pub table: Mfn,
    /// The entry's index in it.
    pub slot: usize,
    /// What to write.
    pub new: Pte,
    /// Keep the accessed and dirty bits that the CPU has set.
    pub preserve_ad: bool,
}

impl EntryUpdate {
    /// Writes the entry; only A and D of the old one may change under us.
    #[inline(always)]
    fn write(&self, frame: &Frame, old: Pte, new: Pte) {
        if !self.preserve_ad {
            frame.store(self.slot, new.0);
            return;
        }
        let mut now = old.0;
        loop {
            let value = new.0 | (now & Pte::ACCESSED_DIRTY);
            match frame.compare_exchange(self.slot, now, value) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
    }
}

impl<H: MmHost> Tables<'_, H> {
    /// Writes an entry of a validated table of the domain's.
    #[inline(always)]
    fn write_entry(&self, update: &EntryUpdate, frame: &Frame, old: Pte, new: Pte) {
        update.write(frame, old, new);
        self.entry_changed(update.table, update.slot);
    }

    /// Changes an entry of a level-1 table that is validated.
    ///
    /// # Errors
    /// Those of [`Mm::get_leaf`]; then the entry is as it was.
    pub(super) fn update_l1(&self, update: EntryUpdate, pg_owner: PageOwner) -> Result<()> {
        let frame = self.frame(update.table).ok_or(Error::Invalid)?;
        self.update_l1_in(frame, update, pg_owner)
    }

    /// [`Self::update_l1`], with the contents of the table at hand.
    #[inline(always)]
    fn update_l1_in(&self, frame: &Frame, update: EntryUpdate, pg_owner: PageOwner) -> Result<()> {
        let old = Pte(frame.load(update.slot));
        let mut new = update.new;
        if new.is_present() {
            if new.has(self.domain.leaf_disallowed) {
                return Err(Error::Invalid);
            }
            new = new.adjusted(Level::L1);
            if !old.differs(new, Pte::FAST_PATH) {
                self.write_entry(&update, frame, old, new);
                return Ok(());
            }
            if !old.differs(new, Pte::FAST_PATH | Pte::RW)
                && let Some(info) = self.mm.leaf_of_own(new, self.domain, pg_owner)
            {
                if new.is_writable() {
                    self.mm
                        .get_writable_type_of(info)
                        .map_err(|_| Error::Busy)?;
                    self.write_entry(&update, frame, old, new);
                } else {
                    self.write_entry(&update, frame, old, new);
                    self.mm.put_data_type_of(info, new.mfn());
                }
                return Ok(());
            }
            new = self.mm.get_leaf(new, self.domain, pg_owner)?;
        }
        self.write_entry(&update, frame, old, new);
        self.mm.put_leaf(old, self.domain);
        Ok(())
    }

    /// Changes an entry of a validated table of level 2 or more.
    ///
    /// # Errors
    /// `Invalid` for flags that may not be set, for the hypervisor's entries, and
    /// for frames that are not the domain's or in use as another type; what is
    /// wrong with the table that the new entry points to. `Restart` when
    /// preempted. The entry is as it was then.
    pub(super) fn update_table(
        &self,
        level: Level,
        update: EntryUpdate,
        work: &mut Work<'_>,
    ) -> Result<()> {
        if !is_guest_slot(level, update.slot) {
            return Err(Error::Invalid);
        }
        let frame = self.frame(update.table).ok_or(Error::Invalid)?;
        let old = Pte(frame.load(update.slot));
        let mut new = update.new;
        if new.is_present() {
            if new.has(Pte::table_disallowed(self.mm.config().nx)) {
                return Err(Error::Invalid);
            }
            new = new.adjusted(level);
            if !old.differs(new, Pte::FAST_PATH_TABLE) {
                self.write_entry(&update, frame, old, new);
                return Ok(());
            }
            self.get_entry(new, level, work)?;
        }
        self.write_entry(&update, frame, old, new);
        if self.put_entry(old, false, work.preempt).is_err() {
            // The update is done; the rest of the old table goes later.
            *work.deferred = Some(DeferredPut {
                mfn: old.mfn(),
                partial: true,
            });
        }
        Ok(())
    }

    /// The contents of a validated level-1 table of the domain's. As long as the
    /// lock is held, it stays one, and its type holds the frame.
    #[inline]
    pub(super) fn level1(&self, table: Mfn) -> Option<&Frame> {
        let info = self.mm.frames().any(table)?;
        if info.type_word().is_level1() && info.count_word().is_ram_of(self.domain.ram_bits) {
            self.frame(table)
        } else {
            None
        }
    }

    /// Writes to an ordinary page of the domain's. Says whether it is one; `false`
    /// means that more must be looked at.
    #[inline]
    fn write_ordinary(&self, address: MachineAddress, value: u64) -> bool {
        let mfn = address.frame();
        let Some(info) = self.mm.frames().ram(mfn) else {
            return false;
        };
        // While the lock is held, it becomes no table; the reference keeps it from
        // being given to somebody else.
        if !info.type_word().is_settled_writable() || !info.get(self.domain.id()) {
            return false;
        }
        let done = match self.frame(mfn) {
            Some(frame) if info.type_word().is_settled_writable() => {
                frame.store(address.offset() / 8, value);
                self.was_written(mfn);
                true
            }
            _ => false,
        };
        self.mm.put_page_of(info, mfn);
        done
    }

    /// Carries out requests of `mmu_update` up to the first that is neither for an
    /// entry of a level-1 table nor for an ordinary page. Gives how many, and what
    /// was wrong with the next.
    fn update_run(&self, requests: &[MmuUpdate], pg_owner: PageOwner) -> (usize, Result<()>) {
        const COMMANDS: u32 = 1 << MMU_NORMAL_PT_UPDATE
            | 1 << MMU_PT_UPDATE_PRESERVE_AD
            | 1 << MMU_PT_UPDATE_NO_TRANSLATE;
        let Some(first) = requests.first() else {
            return (0, Ok(()));
        };
        let mut table = MachineAddress(first.ptr).frame();
        let mut contents = self.level1(table);
        for (done, request) in requests.iter().enumerate() {
            let command = (request.ptr & MMU_COMMAND) as u32;
            if COMMANDS >> command & 1 == 0 {
                return (done, Ok(()));
            }
            let address = MachineAddress(request.ptr);
            if address.frame() != table {
                table = address.frame();
                contents = self.level1(table);
            }
            let Some(frame) = contents else {
                if self.write_ordinary(address, request.val) {
                    continue;
                }
                return (done, Ok(()));
            };
            let update = EntryUpdate {
                table,
                slot: address.offset() / 8,
                new: Pte(request.val),
                preserve_ad: command == MMU_PT_UPDATE_PRESERVE_AD,
            };
            if let Err(error) = self.update_l1_in(frame, update, pg_owner) {
                return (done, Err(error));
            }
        }
        (requests.len(), Ok(()))
    }

    /// Finds the level-1 table that translates an address under a root table in
    /// use (`map_guest_l1e`); the entry is that of [`GuestVirtual::table_index`].
    #[inline]
    pub(super) fn find_l1(&self, root: Mfn, address: GuestVirtual) -> Option<(Mfn, &Frame)> {
        if !address_ok(address) {
            return None;
        }
        let mut table = root;
        for level in [4, 3, 2] {
            let entry = Pte(self.frame(table)?.load(address.table_index(level)));
            if entry.flags() & (Pte::PRESENT | Pte::PSE) != Pte::PRESENT {
                return None;
            }
            table = entry.mfn();
        }
        Some((table, self.level1(table)?))
    }
}

/// Whether a guest may use the address: canonical (or in the lower half), and
/// not in the hypervisor's range (`__addr_ok`).
pub fn address_ok(address: GuestVirtual) -> bool {
    address.0 < (1 << 47) || address.0 >= GuestVirtual::HYPERVISOR_END
}

impl<H: MmHost> Mm<H> {
    /// Decodes the `foreigndom` of `mmu_update`: the domain whose page tables
    /// are changed (upper 16 bits, less one; 0 is the caller, for which `None` is
    /// given) and the owner of the
    /// pages that are mapped. Whether a foreign one has a virtual CPU (`Invalid`
    /// if not) is for the caller to check.
    ///
    /// # Errors
    /// `NoDomain`
    pub fn mmu_update_targets(
        &self,
        caller: &DomainMemory,
        foreigndom: u32,
    ) -> Result<(Option<Arc<DomainMemory>>, PageOwner)> {
        let table_owner = match foreigndom >> 16 {
            0 => None,
            n => {
                let id = DomainId((n - 1) as u16);
                if !id.is_ordinary() {
                    return Err(Error::NoDomain);
                }
                Some(self.domain(id).ok_or(Error::NoDomain)?)
            }
        };
        let pg_owner = self.page_owner(caller, DomainId(foreigndom as u16))?;
        Ok((table_owner, pg_owner))
    }

    /// Carries out a request of `mmu_update` by the owner of table and page, if it
    /// is a common one; `None` if it is not, and [`Self::mmu_update`] is to look at
    /// it. The caller has no work left over.
    ///
    /// # Errors
    /// As [`Self::mmu_update`].
    pub fn update_own_entry(
        &self,
        domain: &DomainMemory,
        request: MmuUpdate,
    ) -> Option<Result<()>> {
        let owner = PageOwner::of(domain);
        match self.lock(domain).update_run(&[request], owner) {
            (0, Ok(())) => None,
            (_, result) => Some(result),
        }
    }

    /// Carries out requests of `mmu_update`, as [`Self::mmu_update`] does one
    /// after the other, but the common ones under one lock. `done` is
    /// raised by the number of requests that succeeded.
    ///
    /// # Errors
    /// As [`Self::mmu_update`], of the request after those that were done.
    pub fn mmu_updates(
        &self,
        caller: &mut MmuCaller<'_>,
        table_owner: &DomainMemory,
        pg_owner: PageOwner,
        requests: &[MmuUpdate],
        done: &mut u32,
    ) -> Result<()> {
        let own = caller.domain.id();
        let permitted = pg_owner.id == own && table_owner.id() == own;
        let mut rest = requests;
        while !rest.is_empty() {
            let mut count = 0;
            if permitted && caller.tables.deferred.is_none() {
                let result;
                (count, result) = self.lock(table_owner).update_run(rest, pg_owner);
                *done = done.saturating_add(count as u32);
                result?;
            }
            let Some((request, after)) = rest.get(count..).and_then(|rest| rest.split_first())
            else {
                break;
            };
            self.mmu_update(caller, table_owner, pg_owner, request.ptr, request.val)?;
            *done = done.saturating_add(1);
            rest = after;
        }
        Ok(())
    }

    /// Carries out one request of `mmu_update`: `ptr` is a machine address, a
    /// multiple of 8, with the command in its low three bits.
    ///
    /// # Errors
    /// As Xen's: `NotPermitted` for memory of others, `Invalid` for what is no page
    /// of the domain or may not be entered, `NotImplemented` for unknown commands,
    /// those of a level-1 entry (`Busy`, `NotPermitted`, `Access`), `Restart`
    /// when preempted.
    pub fn mmu_update(
        &self,
        caller: &mut MmuCaller<'_>,
        table_owner: &DomainMemory,
        pg_owner: PageOwner,
        ptr: u64,
        value: u64,
    ) -> Result<()> {
        self.finish_deferred(&mut caller.tables.deferred, caller.preempt)?;
        let command = (ptr & MMU_COMMAND) as u32;
        match command {
            MMU_NORMAL_PT_UPDATE | MMU_PT_UPDATE_PRESERVE_AD | MMU_PT_UPDATE_NO_TRANSLATE => {
                // Foreign I/O memory is checked entry by entry.
                if pg_owner.id != DomainId::IO {
                    self.may_target(caller.domain, pg_owner.id)?;
                }
                self.may_target(caller.domain, table_owner.id())?;
                let preserve_ad = command == MMU_PT_UPDATE_PRESERVE_AD;
                let address = MachineAddress(ptr & !MMU_COMMAND);
                self.update_word(
                    caller,
                    table_owner,
                    pg_owner,
                    address,
                    Pte(value),
                    preserve_ad,
                )
            }
            MMU_MACHPHYS_UPDATE => {
                if caller.domain.id() != table_owner.id() {
                    return Err(Error::NotPermitted);
                }
                if pg_owner.id != DomainId::IO {
                    self.may_target(caller.domain, pg_owner.id)?;
                }
                let mfn = MachineAddress(ptr).frame();
                let _page = self.get_page(mfn, pg_owner.id).ok_or(Error::Invalid)?;
                self.set_pfn(mfn, Pfn(value));
                Ok(())
            }
            _ => Err(Error::NotImplemented),
        }
    }

    fn update_word(
        &self,
        caller: &mut MmuCaller<'_>,
        table_owner: &DomainMemory,
        pg_owner: PageOwner,
        address: MachineAddress,
        new: Pte,
        preserve_ad: bool,
    ) -> Result<()> {
        let tables = self.lock(table_owner);
        // The common case, without a reference to the table's frame.
        if let Some(frame) = tables.level1(address.frame()) {
            let update = EntryUpdate {
                table: address.frame(),
                slot: address.offset() / 8,
                new,
                preserve_ad,
            };
            return tables.update_l1_in(frame, update, pg_owner);
        }
        let page = self
            .get_page(address.frame(), table_owner.id())
            .ok_or(Error::Invalid)?;
        let info = self.frames().ram(page.mfn()).ok_or(Error::Invalid)?;
        let update = EntryUpdate {
            table: page.mfn(),
            slot: address.offset() / 8,
            new,
            preserve_ad,
        };
        let word = info.type_word();
        let level = match word.page_type().level() {
            Some(level) if word.count() != 0 && word.is_validated() => level,
            _ => {
                // An ordinary page may be written this way too.
                let frame = self.host.frame(page.mfn()).ok_or(Error::Invalid)?;
                self.get_writable_type(page.mfn())?;
                frame.store(update.slot, new.0);
                self.mark_dirty(page.mfn());
                self.put_data_type(page.mfn());
                return Ok(());
            }
        };
        if level == Level::L1 {
            return tables.update_l1(update, pg_owner);
        }
        if pg_owner.id != table_owner.id() {
            return Err(Error::Invalid);
        }
        let mut work = Work {
            preempt: caller.preempt,
            deferred: &mut caller.tables.deferred,
        };
        tables.update_table(level, update, &mut work)
    }

    /// `update_va_mapping`, and with `pg_owner` not the caller
    /// `update_va_mapping_otherdomain`: changes the level-1 entry that translates
    /// an address in the caller's present kernel page tables. Returns the flush
    /// that is to be done.
    ///
    /// # Errors
    /// `NotPermitted` for other domains' pages, `Invalid` if there is no level-1
    /// table for the address, and those of a level-1 entry.
    pub fn update_va_mapping(
        &self,
        caller: &mut MmuCaller<'_>,
        pg_owner: PageOwner,
        address: u64,
        value: u64,
        flags: u64,
    ) -> Result<Option<FlushRequest>> {
        self.may_target(caller.domain, pg_owner.id)?;
        let root = caller.tables.kernel().ok_or(Error::Invalid)?;
        let tables = self.lock(caller.domain);
        let address = GuestVirtual(address);
        let (table, frame) = tables.find_l1(root, address).ok_or(Error::Invalid)?;
        let update = EntryUpdate {
            table,
            slot: address.table_index(1),
            new: Pte(value),
            preserve_ad: false,
        };
        tables.update_l1_in(frame, update, pg_owner)?;
        Ok(decode_uvmf(address.0, flags))
    }
}
