//! Making frames page tables, and taking page tables apart again.
//!
//! # Resumable work
//!
//! To validate a level-4 table may mean to check millions of entries, so tables
//! of level 2 and up can be left half-way: flagged `PARTIAL`, with a [`Progress`]
//! that says which entries hold references. Whoever next wants the frame as that
//! type goes on from there; so does whoever takes it apart. A level-1 table is
//! done in one go.
//!
//! A table that turns out bad after some of its entries were accepted is left
//! `PARTIAL` too, and recorded as a [`DeferredPut`] of the virtual CPU that tried,
//! to be taken apart before that does anything else. At most one is outstanding:
//! when a table fails below another, the upper one takes the record over and
//! remembers in its progress that the entry holds its frame.
//!
//! # Invariants
//!
//! - Nothing here runs without the tables lock of the domain that owns the
//!   tables, so that no two CPUs work on a table, and a table that is neither
//!   `VALIDATED` nor `PARTIAL` with a type count is being worked on by the caller.
//! - Before a frame takes a new type, TLBs are flushed up to its stamp: no CPU
//!   can write it through an old mapping once its contents are being checked,
//!   nor walk through it once it may be written.
//! - Every error leaves reference counts as they were, but for what `PARTIAL`
//!   and the deferred put account for.

use core::sync::atomic::Ordering;

use spin::MutexGuard;

use super::domain::DomainMemory;
use super::entry::{FIRST_HYPERVISOR_SLOT, Level, MACHPHYS_SLOT, Pte, is_guest_slot};
use super::frames::{PageType, Progress, TypeWord};
use super::leaf::PageOwner;
use super::{Mm, MmHost};
use crate::addr::{ENTRIES_PER_TABLE, Mfn};
use crate::error::{Error, Result};
use crate::machine::{Frame, Preempt};

/// A page table that is still to be taken apart.
///
/// It holds a reference to the frame. If not `partial`, it also holds one of
/// type, to a validated table; if `partial`, the frame's `PARTIAL` flag does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeferredPut {
    /// The table.
    pub mfn: Mfn,
    /// Whether the type reference is the `PARTIAL` flag's.
    pub partial: bool,
}

/// What long work needs at hand.
pub(super) struct Work<'w> {
    /// Whether to stop.
    pub preempt: &'w dyn Preempt,
    /// Where a table that failed half-way is recorded; `None` at the start.
    pub deferred: &'w mut Option<DeferredPut>,
}

/// The page tables of one domain, locked.
pub struct Tables<'a, H: MmHost> {
    pub(super) mm: &'a Mm<H>,
    pub(super) domain: &'a DomainMemory,
    /// [`DomainMemory::is_logging`], which does not change meanwhile.
    pub(super) logging: bool,
    _guard: MutexGuard<'a, ()>,
}

impl<H: MmHost> Mm<H> {
    /// Locks the page tables of a domain.
    pub fn lock<'a>(&'a self, domain: &'a DomainMemory) -> Tables<'a, H> {
        self.locked(domain, domain.tables.lock())
    }

    /// As [`Self::lock`], where `wait` is called again and again while another CPU has
    /// the lock.
    pub fn lock_patiently<'a>(
        &'a self,
        domain: &'a DomainMemory,
        wait: impl Fn(),
    ) -> Tables<'a, H> {
        loop {
            if let Some(guard) = domain.tables.try_lock() {
                return self.locked(domain, guard);
            }
            wait();
        }
    }

    #[inline]
    fn locked<'a>(&'a self, domain: &'a DomainMemory, guard: MutexGuard<'a, ()>) -> Tables<'a, H> {
        Tables {
            mm: self,
            domain,
            logging: domain.is_logging(),
            _guard: guard,
        }
    }

    /// Finishes what an earlier operation left over.
    ///
    /// # Errors
    /// `Restart` when preempted.
    #[inline]
    pub fn finish_deferred(
        &self,
        deferred: &mut Option<DeferredPut>,
        preempt: &dyn Preempt,
    ) -> Result<()> {
        match *deferred {
            None => Ok(()),
            Some(put) => self.put_deferred(put, deferred, preempt),
        }
    }

    #[inline(never)]
    fn put_deferred(
        &self,
        DeferredPut { mfn, partial }: DeferredPut,
        deferred: &mut Option<DeferredPut>,
        preempt: &dyn Preempt,
    ) -> Result<()> {
        // The reference that is held keeps the owner from being forgotten.
        let owner = self
            .frames()
            .ram(mfn)
            .and_then(|info| info.count_word().owner())
            .and_then(|id| self.domain(id));
        if let Some(owner) = owner {
            let result = self.lock(&owner).put_table_type(mfn, partial, preempt);
            if result.is_err() {
                *deferred = Some(DeferredPut { mfn, partial: true });
                return result;
            }
        }
        *deferred = None;
        self.put_page(mfn);
        Ok(())
    }
}

/// The groups of eight entries among which any is present: most of most tables
/// is empty.
fn present_groups(frame: &Frame) -> impl Iterator<Item = usize> {
    (0..ENTRIES_PER_TABLE / 8).filter(|&group| frame.group_has(group, Pte::PRESENT))
}

impl<H: MmHost> Tables<'_, H> {
    /// The domain whose tables these are.
    pub fn domain(&self) -> &DomainMemory {
        self.domain
    }

    /// The frame of a page table of this domain.
    #[inline]
    pub(super) fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        self.mm.host.frame(mfn)
    }

    /// Takes a reference to a frame as a page table of `level`, where one to the
    /// frame is held, checking its contents if it is none yet.
    ///
    /// # Errors
    /// `Restart` when preempted: the frame is `PARTIAL`, and calling again goes
    /// on. `Invalid` if it is in use as another type; what is wrong with its
    /// entries, else.
    pub(super) fn get_table_type(&self, mfn: Mfn, level: Level, work: &mut Work<'_>) -> Result<()> {
        let info = self.mm.frames().ram(mfn).ok_or(Error::Invalid)?;
        let want = PageType::from(level);
        let mut now = info.type_word();
        let (old, new) = loop {
            if now.is_full() {
                return Err(Error::Invalid);
            }
            let new = if now.count() == 0 {
                TypeWord(now.retyped(want).0 + 1)
            } else if now.page_type() != want {
                return Err(Error::Invalid);
            } else if now.is_validated() {
                TypeWord(now.0 + 1)
            } else if now.is_partial() {
                // The type reference that the flag held becomes ours.
                TypeWord(now.0 & !TypeWord::PARTIAL)
            } else {
                // Being checked further up this very call chain.
                return Err(Error::Invalid);
            };
            match info.cas_type(now, new.0) {
                Ok(()) => break (now, new),
                Err(other) => now = other,
            }
        };
        if new.is_validated() {
            return Ok(());
        }
        if old.count() == 0 && old.page_type() != want {
            self.mm.host.flush_since(info.stamp());
        }
        if new.0 & TypeWord::NON_COHERENT != 0 {
            self.mm.host.make_coherent(mfn);
            info.page_type
                .fetch_and(!TypeWord::NON_COHERENT, Ordering::AcqRel);
        }
        let progress = if old.is_partial() {
            info.progress()
        } else {
            Progress {
                entries: 0,
                entry_held: false,
            }
        };
        let result = match level {
            Level::L1 => self.promote_l1(mfn),
            _ => self.promote(mfn, level, progress, work),
        };
        match result {
            Ok(()) => {
                info.page_type
                    .fetch_or(TypeWord::VALIDATED, Ordering::AcqRel);
                // Checking may have changed it.
                self.was_written(mfn);
            }
            Err(error) => {
                let left = work.deferred.is_some_and(|d| d.mfn == mfn);
                if error == Error::Restart || left {
                    info.get_light();
                    info.page_type.fetch_or(TypeWord::PARTIAL, Ordering::AcqRel);
                } else {
                    // Nothing of it was kept. Its progress may have been where
                    // the stamp is, so the stamp is made anew.
                    info.set_stamp(self.mm.host.clock());
                    info.page_type.store(0, Ordering::Release);
                }
            }
        }
        if old.is_partial() {
            // The reference that the flag held.
            self.mm.put_page(mfn);
        }
        result
    }

    /// Takes a reference to a frame and one to it as a page table; `held` says
    /// that the one to the frame is there already, by `entry_held`; `keep_partial`
    /// that it stays taken if validation stops half-way.
    fn get_table(
        &self,
        mfn: Mfn,
        level: Level,
        held: bool,
        keep_partial: bool,
        work: &mut Work<'_>,
    ) -> Result<()> {
        if held {
            return self.get_table_type(mfn, level, work);
        }
        let page = self
            .mm
            .get_page(mfn, self.domain.id())
            .ok_or(Error::Invalid)?;
        let result = self.get_table_type(mfn, level, work);
        let keep = match result {
            Ok(()) => true,
            Err(error) => {
                work.deferred.is_some_and(|d| d.mfn == mfn)
                    || (keep_partial && error == Error::Restart)
            }
        };
        if keep {
            page.keep();
        }
        result
    }

    /// Takes both references to a frame of this domain as a root table.
    ///
    /// # Errors
    /// As [`Self::get_table_type`]; on any error but those that record a deferred
    /// put, nothing is taken.
    #[inline]
    pub(super) fn get_root(&self, mfn: Mfn, work: &mut Work<'_>) -> Result<()> {
        // Mostly it is pinned, so it was checked before.
        if let Some(info) = self.mm.frames().any(mfn)
            && info.count_word().is_ram_of(self.domain.ram_bits)
            && info.type_word().is_validated_root()
            && info.get(self.domain.id())
        {
            let word = info.type_word();
            if word.is_validated_root()
                && !word.is_full()
                && info.cas_type(word, word.0.wrapping_add(1)).is_ok()
            {
                return Ok(());
            }
            self.mm.put_page_of(info, mfn);
        }
        self.get_root_slowly(mfn, work)
    }

    /// Gives back what [`Self::get_root`] took, unless it is the last that holds
    /// the table: then nothing was done.
    #[inline]
    pub(super) fn put_spare_root(&self, mfn: Mfn) -> bool {
        let Some(info) = self.mm.frames().ram(mfn) else {
            return false;
        };
        let word = info.type_word();
        let spare = word.is_validated_root()
            && word.count() > 1
            && info.cas_type(word, word.0.wrapping_sub(1)).is_ok();
        if spare {
            self.mm.put_page_of(info, mfn);
        }
        spare
    }

    #[inline(never)]
    fn get_root_slowly(&self, mfn: Mfn, work: &mut Work<'_>) -> Result<()> {
        self.get_table(mfn, Level::L4, false, false, work)
    }

    /// Takes both references that an entry of a table of `level` holds.
    pub(super) fn get_entry(&self, entry: Pte, level: Level, work: &mut Work<'_>) -> Result<()> {
        self.get_entry_from(entry, level, false, false, work)
    }

    fn get_entry_from(
        &self,
        entry: Pte,
        level: Level,
        held: bool,
        keep_partial: bool,
        work: &mut Work<'_>,
    ) -> Result<()> {
        if entry.has(Pte::table_disallowed(self.mm.config.nx)) {
            return Err(Error::Invalid);
        }
        let below = level.below().ok_or(Error::Invalid)?;
        self.get_table(entry.mfn(), below, held, keep_partial, work)
    }

    /// Gives back what an entry of a table of level 2 or more holds.
    ///
    /// # Errors
    /// `Restart` when preempted: the table that it points to is `PARTIAL`, and
    /// the reference to its frame is still held.
    pub(super) fn put_entry(
        &self,
        entry: Pte,
        held_only: bool,
        preempt: &dyn Preempt,
    ) -> Result<()> {
        if !entry.is_present() {
            return Ok(());
        }
        self.put_table_type(entry.mfn(), held_only, preempt)?;
        self.mm.put_page(entry.mfn());
        Ok(())
    }

    fn promote_l1(&self, mfn: Mfn) -> Result<()> {
        let frame = self.frame(mfn).ok_or(Error::Invalid)?;
        let owner = PageOwner::of(self.domain);
        for slot in present_groups(frame).flat_map(|group| group * 8..group * 8 + 8) {
            let entry = Pte(frame.load(slot));
            if !entry.is_present() {
                continue;
            }
            match self.mm.get_leaf(entry, self.domain, owner) {
                Ok(good) => {
                    let good = good.adjusted(Level::L1);
                    if good != entry {
                        frame.store(slot, good.0);
                    }
                }
                Err(error) => {
                    for slot in (0..slot).rev() {
                        self.mm.put_leaf(Pte(frame.load(slot)), self.domain);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn promote(&self, mfn: Mfn, level: Level, start: Progress, work: &mut Work<'_>) -> Result<()> {
        let info = self.mm.frames().ram(mfn).ok_or(Error::Invalid)?;
        let frame = self.frame(mfn).ok_or(Error::Invalid)?;
        let mut held = start.entry_held;
        let mut next = start.entries;
        while next < ENTRIES_PER_TABLE {
            if next.is_multiple_of(8) && !frame.group_has(next / 8, Pte::PRESENT) {
                held = false;
                next += 8;
                continue;
            }
            let slot = next;
            next += 1;
            if !is_guest_slot(level, slot) {
                continue;
            }
            let entry = Pte(frame.load(slot));
            if !entry.is_present() {
                held = false;
                continue;
            }
            if slot > start.entries && work.preempt.preempt_pending() {
                info.set_progress(Progress {
                    entries: slot,
                    entry_held: false,
                });
                return Err(Error::Restart);
            }
            match self.get_entry_from(entry, level, held, true, work) {
                Ok(()) => {}
                Err(Error::Restart) => {
                    info.set_progress(Progress {
                        entries: slot,
                        entry_held: true,
                    });
                    return Err(Error::Restart);
                }
                Err(error) => {
                    // A table below that failed half-way left its frame to the
                    // entry; this table answers for both now.
                    let below = work.deferred.is_some_and(|d| d.mfn == entry.mfn());
                    if slot > 0 || held || below {
                        info.set_progress(Progress {
                            entries: slot,
                            entry_held: held || below,
                        });
                        *work.deferred = Some(DeferredPut { mfn, partial: true });
                    }
                    return Err(error);
                }
            }
            held = false;
            let good = entry.adjusted(level);
            if good != entry {
                frame.store(slot, good.0);
            }
        }
        if level == Level::L4 {
            self.fill_hypervisor_slots(frame);
        }
        Ok(())
    }

    /// Writes the hypervisor's entries into a root table, over whatever the
    /// guest left there.
    fn fill_hypervisor_slots(&self, frame: &Frame) {
        let strict = self.domain.m2p_strict.load(Ordering::Relaxed);
        for (i, &entry) in self.mm.host.hypervisor_slots().iter().enumerate() {
            let slot = FIRST_HYPERVISOR_SLOT + i;
            // Where user mode may see the table, it appears with the first use
            // as the kernel's root; see `show_machphys`.
            let entry = if slot == MACHPHYS_SLOT && !strict {
                0
            } else {
                entry
            };
            frame.store(slot, entry);
        }
    }

    /// Shows or hides the machine-to-phys table in a root table.
    pub(super) fn show_machphys(&self, root: Mfn, shown: bool) {
        if let Some(frame) = self.frame(root) {
            let entry = if shown {
                self.mm.host.machphys_entry()
            } else {
                0
            };
            if frame.load(MACHPHYS_SLOT) != entry {
                frame.store(MACHPHYS_SLOT, entry);
                self.hypervisor_entry_changed(root, MACHPHYS_SLOT, entry);
            }
        }
    }

    /// Gives back a reference to a frame as a page table. With the last one the
    /// table is taken apart. With `partial`, it is only seen to that a table
    /// left half-way is taken apart, if nobody did so meanwhile.
    ///
    /// # Errors
    /// `Restart` when preempted: the frame is `PARTIAL`, and what was to be put
    /// is the flag's now; go on with `partial`.
    pub(super) fn put_table_type(
        &self,
        mfn: Mfn,
        partial: bool,
        preempt: &dyn Preempt,
    ) -> Result<()> {
        let Some(info) = self.mm.frames().ram(mfn) else {
            return Ok(());
        };
        let mut now = info.type_word();
        loop {
            let level = match now.page_type().level() {
                Some(level) if now.count() != 0 => level,
                _ if partial => return Ok(()),
                _ => {
                    log::error!("mm: frame {mfn} put as a page table, which it is not");
                    debug_assert!(false, "not a page table");
                    return Ok(());
                }
            };
            if partial && !now.is_partial() {
                return Ok(());
            }
            if !partial && !now.is_validated() {
                log::error!("mm: unvalidated page table {mfn} put");
                debug_assert!(false, "unvalidated page table put");
                return Ok(());
            }
            if now.count() > 1 {
                match info.cas_type(now, now.0 - 1) {
                    Ok(()) => return Ok(()),
                    Err(other) => {
                        now = other;
                        continue;
                    }
                }
            }
            // The last one: take it apart. Until that is done it keeps type and
            // count, so that nobody can use it as anything else.
            let flags = TypeWord::VALIDATED | TypeWord::PARTIAL;
            if let Err(other) = info.cas_type(now, now.0 & !flags) {
                now = other;
                continue;
            }
            self.unshadow(mfn);
            let progress = if now.is_partial() {
                info.progress()
            } else {
                Progress {
                    entries: ENTRIES_PER_TABLE,
                    entry_held: false,
                }
            };
            let result = match level {
                Level::L1 => {
                    self.demote_l1(mfn);
                    Ok(())
                }
                _ => self.demote(mfn, level, progress, preempt),
            };
            match result {
                Ok(()) => {
                    info.set_stamp(self.mm.host.clock());
                    info.page_type.fetch_sub(1, Ordering::AcqRel);
                }
                Err(_) => {
                    info.get_light();
                    info.page_type.fetch_or(TypeWord::PARTIAL, Ordering::AcqRel);
                }
            }
            if now.is_partial() {
                self.mm.put_page(mfn);
            }
            return result;
        }
    }

    fn demote_l1(&self, mfn: Mfn) {
        if let Some(frame) = self.frame(mfn) {
            for slot in present_groups(frame).flat_map(|group| group * 8..group * 8 + 8) {
                self.mm.put_leaf(Pte(frame.load(slot)), self.domain);
            }
        }
    }

    fn demote(&self, mfn: Mfn, level: Level, start: Progress, preempt: &dyn Preempt) -> Result<()> {
        let Some(info) = self.mm.frames().ram(mfn) else {
            return Ok(());
        };
        let Some(frame) = self.frame(mfn) else {
            return Ok(());
        };
        let mut held_only = start.entry_held;
        // One beyond the last entry that holds something.
        let end = (start.entries + usize::from(held_only)).min(ENTRIES_PER_TABLE);
        let mut next = end;
        while next > 0 {
            if next.is_multiple_of(8) && !frame.group_has(next / 8 - 1, Pte::PRESENT) {
                held_only = false;
                next -= 8;
                continue;
            }
            next -= 1;
            let slot = next;
            let entry = Pte(frame.load(slot));
            if !is_guest_slot(level, slot) || !entry.is_present() {
                held_only = false;
                continue;
            }
            if slot + 1 < end && preempt.preempt_pending() {
                info.set_progress(Progress {
                    entries: slot + 1,
                    entry_held: false,
                });
                return Err(Error::Restart);
            }
            if let Err(error) = self.put_entry(entry, held_only, preempt) {
                info.set_progress(Progress {
                    entries: slot,
                    entry_held: true,
                });
                return Err(error);
            }
            held_only = false;
        }
        Ok(())
    }

    /// Drops what keeps a page of a dying domain in being a page table: its
    /// pin, and, in the pass for its `level`, work left half-way by a virtual
    /// CPU that is no more.
    pub(super) fn relinquish(
        &self,
        mfn: Mfn,
        level: Option<Level>,
        work: &mut Work<'_>,
    ) -> Result<()> {
        let Some(info) = self.mm.frames().ram(mfn) else {
            return Ok(());
        };
        let old = TypeWord(
            info.page_type
                .fetch_and(!TypeWord::PINNED, Ordering::AcqRel),
        );
        if old.is_pinned() {
            let result = self.put_table_type(mfn, false, work.preempt);
            // The pin's reference to the frame; `PARTIAL` has its own.
            self.mm.put_page(mfn);
            result?;
        }
        let now = info.type_word();
        if now.is_partial() && now.page_type().level() == level {
            self.put_table_type(mfn, true, work.preempt)?;
        }
        Ok(())
    }
}
