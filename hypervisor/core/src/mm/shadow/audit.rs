//! Recounts what must hold of the shadows of a domain, for tests.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;

use super::{ENTRIES_PER_TABLE, Level, Mfn, Mm, MmHost, Pte, Result, Shadow, VcpuPageTables};
use crate::mm::DomainMemory;
use crate::mm::entry::is_guest_slot;

impl<H: MmHost> Mm<H> {
    /// Starts a log with so many frames for shadows, however few.
    ///
    /// # Errors
    /// As [`Self::start_log`].
    pub fn start_small_log(&self, domain: &DomainMemory, frames: usize) -> Result<()> {
        let log = self.new_log(domain)?;
        self.start_log_with(domain, log, frames, frames)
    }

    /// Checks the invariants of the shadows of a domain that has these virtual CPUs.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn audit_shadow(
        &self,
        domain: &DomainMemory,
        vcpus: &[VcpuPageTables],
    ) -> core::result::Result<(), String> {
        let shadow = domain.shadow.lock();
        let Some(shadow) = shadow.as_ref() else {
            return match domain.is_logging() {
                true => Err(String::from("a log without shadows")),
                false => Ok(()),
            };
        };
        let mut users: BTreeMap<Mfn, u32> = BTreeMap::new();
        for root in vcpus.iter().flat_map(|v| [v.kernel(), v.user()]).flatten() {
            *users.entry(root).or_default() += 1;
        }
        let mut frames = BTreeSet::new();
        let used = shadow.used.values().map(|used| used.table);
        for mfn in used.chain(shadow.free.iter().map(|free| free.mfn)) {
            let info = self.frames().ram(mfn).ok_or("a shadow in no RAM")?;
            if info.count_word().owner().is_some() || !frames.insert(mfn) {
                return Err(format!("{mfn} is a shadow, and something else"));
            }
        }
        if domain.is_logging() {
            for (&root, &count) in &users {
                if shadow.used.get(&root).is_none_or(|u| u.users != count) {
                    return Err(format!("the root {root} has {count} users"));
                }
            }
        }
        for (&guest, used) in &shadow.used {
            let info = self.frames().ram(guest).ok_or("the shadow of no RAM")?;
            let word = info.type_word();
            if !info.count_word().is_ram_of(domain.ram_bits)
                || word.page_type().level() != Some(used.level)
                || word.count() == 0
                || !word.is_validated()
            {
                return Err(format!("{guest} has a shadow of level {:?}", used.level));
            }
            if used.users != users.get(&guest).copied().unwrap_or(0) {
                return Err(format!("{guest} has not {} users", used.users));
            }
            for slot in 0..ENTRIES_PER_TABLE {
                let load = |mfn| self.host.frame(mfn).map(|frame| Pte(frame.load(slot)));
                let (Some(own), Some(theirs)) = (load(used.table), load(guest)) else {
                    return Err(String::from("no frame"));
                };
                self.audit_entry(domain, shadow, used.level, slot, own, theirs)
                    .map_err(|what| format!("{guest}[{slot}] {theirs:?}, {own:?}: {what}"))?;
            }
        }
        Ok(())
    }

    fn audit_entry(
        &self,
        domain: &DomainMemory,
        shadow: &Shadow,
        level: Level,
        slot: usize,
        own: Pte,
        theirs: Pte,
    ) -> core::result::Result<(), &'static str> {
        if !is_guest_slot(level, slot) {
            return (own == theirs).then_some(()).ok_or("hypervisor's");
        }
        if !own.is_present() {
            return (own == Pte::EMPTY).then_some(()).ok_or("not empty");
        }
        if !theirs.is_present() || !theirs.has(Pte::ACCESSED) {
            return Err("not the guest's");
        }
        let free = Pte::ACCESSED_DIRTY | if level == Level::L1 { Pte::RW } else { 0 };
        if (own.flags() ^ theirs.flags()) & !free != 0 {
            return Err("other flags");
        }
        if level != Level::L1 {
            let leads = shadow.get(theirs.mfn()) == Some(own.mfn());
            return leads.then_some(()).ok_or("leads elsewhere");
        }
        if own.mfn() != theirs.mfn() {
            return Err("another frame");
        }
        let may_write = theirs.is_writable()
            && theirs.has(Pte::DIRTY)
            && self.needs_no_mark(domain, theirs.mfn());
        if own.is_writable() && !may_write {
            return Err("writable");
        }
        Ok(())
    }
}
