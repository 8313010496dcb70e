//! Pages of a domain in the form of a migration stream: page tables with the domain's own
//! numbers instead of machine frames, pages of zeros told apart. (The fast channel:
//! [`xen_abi::overcast`].)
//!
//! # Why it may be read while the domain runs
//!
//! No lock is held: what is read may be half of a change. It need only be right in the end,
//! when the domain is suspended, and is, as everything that changes what was read marks the
//! page in the log ([`super::dirty`]) *after* it is done: a write of the domain's by its fault or
//! by having been let through since the log was taken, an update of a page table, and a change of what
//! the page is used as. So a page that was read in the middle of a change is in the log that is
//! taken next. A reference is held meanwhile, so that the frame stays the domain's.
//!
//! # What a hostile domain can do
//! Its list of frames and its page tables are read once, entry by entry, and only lead to frames
//! that it owns. A page table that has any other present entry is [`Exported::Changing`].

use super::entry::{Level, Pte, is_guest_slot};
use super::pages::PageUse;
use super::{DomainMemory, Mm, MmHost};
use crate::addr::{ENTRIES_PER_TABLE, Mfn, Pfn};
use crate::error::Result;

/// The contents of a page, in words.
pub type PageWords = [u64; ENTRIES_PER_TABLE];

/// Where the domain says that a page is; `None` beyond the end of its list. An error ends
/// the export.
pub type List<'a> = dyn FnMut(Pfn) -> Result<Option<Mfn>> + 'a;

/// What was found of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exported {
    /// There is no such page.
    Absent,
    /// An ordinary page of zeros.
    Zeros,
    /// A page that is used so; the contents are in the form of a stream.
    Contents(PageUse),
    /// A page table with an entry that cannot be told in the domain's own numbers, or that
    /// became something else meanwhile.
    Changing,
}

impl<H: MmHost> Mm<H> {
    /// Reads page `pfn` of a domain, as its `list` of frames (and the machine-to-phys
    /// table) have it, into `out`. With `elide` pages of zeros are told apart.
    ///
    /// # Errors
    /// Those of `list`.
    pub fn export_page(
        &self,
        domain: &DomainMemory,
        pfn: Pfn,
        list: &mut List<'_>,
        elide: bool,
        out: &mut PageWords,
    ) -> Result<Exported> {
        let Some(mfn) = list(pfn)? else {
            return Ok(Exported::Absent);
        };
        let Some(page) = self.get_page(mfn, domain.id()) else {
            return Ok(Exported::Absent);
        };
        let (Some(usage), Some(frame)) =
            (self.use_of_held(page.mfn()), self.host.frame(page.mfn()))
        else {
            return Ok(Exported::Absent);
        };
        let any = frame.read_words(out);
        match usage.table() {
            None if elide && any == 0 => return Ok(Exported::Zeros),
            Some(level) if !self.canonicalise(domain, level, list, out)? => {
                return Ok(Exported::Changing);
            }
            None | Some(_) => {}
        }
        // Whoever changes that marks the page; this only saves sending it in vain.
        match self.use_of_held(page.mfn()) == Some(usage) {
            true => Ok(Exported::Contents(usage)),
            false => Ok(Exported::Changing),
        }
    }

    /// Brings the entries of a page table into the form of a stream: those that are present
    /// have the domain's own numbers, and there is nothing in the hypervisor's entries.
    /// `false` if one cannot be.
    fn canonicalise(
        &self,
        domain: &DomainMemory,
        level: Level,
        list: &mut List<'_>,
        table: &mut PageWords,
    ) -> Result<bool> {
        for (slot, word) in table.iter_mut().enumerate() {
            let entry = Pte(*word);
            if !is_guest_slot(level, slot) {
                *word = 0;
                continue;
            }
            if !entry.is_present() {
                continue;
            }
            if level != Level::L1 && entry.has(Pte::PSE) {
                return Ok(false);
            }
            match self.own_page(domain, entry.mfn(), list)? {
                Some(pfn) => *word = Pte::new(Mfn(pfn.0), entry.flags()).0,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// What the domain calls a frame of its own: its list and the machine-to-phys table agree.
    fn own_page(
        &self,
        domain: &DomainMemory,
        mfn: Mfn,
        list: &mut List<'_>,
    ) -> Result<Option<Pfn>> {
        let own = self
            .frames()
            .any(mfn)
            .is_some_and(|info| info.count_word().is_ram_of(domain.ram_bits));
        match self.m2p().get(mfn).filter(|_| own) {
            Some(pfn) => Ok((list(pfn)? == Some(mfn)).then_some(pfn)),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::vec::Vec;

    use super::*;
    use crate::error::Error;
    use crate::machine::{Memory, Never};
    use crate::mm::model::World;
    use crate::mm::{MmuCaller, PageOwner, PageType};

    const PRESENT: u64 = Pte::PRESENT;

    /// The second guest of the model: page n at n << 12, pages 0 to 3 are the tables of
    /// levels 4 to 1.
    struct Rig {
        world: World,
        memory: Arc<DomainMemory>,
        /// Its list of frames.
        list: Vec<Mfn>,
    }

    impl Rig {
        fn new() -> Self {
            let mut world = World::new();
            let (mm, memory, _) = world.guest(1);
            let mut list = Vec::new();
            memory.for_each_page(mm.frames(), |mfn| list.push(mfn));
            list.sort_by_key(|&mfn| mm.m2p().get(mfn));
            Self {
                world,
                memory,
                list,
            }
        }

        fn word(&self, pfn: usize, slot: usize) -> Pte {
            Pte(self.world.mm.host.frame(self.list[pfn]).unwrap().load(slot))
        }

        fn set(&self, pfn: usize, slot: usize, word: u64) {
            let frame = self.world.mm.host.frame(self.list[pfn]).unwrap();
            frame.store(slot, word);
        }

        fn export(&self, pfn: u64, elide: bool) -> (Exported, PageWords) {
            let mut words = [7; ENTRIES_PER_TABLE];
            let mut list = |pfn: Pfn| Ok(self.list.get(pfn.0 as usize).copied());
            let mm = &self.world.mm;
            let found = mm.export_page(&self.memory, Pfn(pfn), &mut list, elide, &mut words);
            (found.unwrap(), words)
        }
    }

    fn table(exported: Exported) -> Option<Level> {
        match exported {
            Exported::Contents(usage) => usage.table(),
            _ => None,
        }
    }

    #[test]
    fn tables_have_the_domains_own_numbers() {
        let rig = Rig::new();
        let levels = [Level::L4, Level::L3, Level::L2, Level::L1];
        for (pfn, level) in levels.into_iter().enumerate() {
            let (found, words) = rig.export(pfn as u64, true);
            assert_eq!(table(found), Some(level));
            for (slot, &word) in words.iter().enumerate() {
                let raw = rig.word(pfn, slot);
                let expected = match raw.is_present() && is_guest_slot(level, slot) {
                    true => {
                        let own = rig.list.iter().position(|&mfn| mfn == raw.mfn());
                        Pte::new(Mfn(own.unwrap() as u64), raw.flags()).0
                    }
                    false if is_guest_slot(level, slot) => raw.0,
                    false => 0,
                };
                assert_eq!(word, expected, "page {pfn} entry {slot}");
            }
        }
        // The model has some in the hypervisor's part, too.
        assert!(rig.word(0, 256).is_present());
    }

    #[test]
    fn ordinary_pages_are_as_they_are() {
        let rig = Rig::new();
        assert_eq!(rig.export(9, true).0, Exported::Zeros);
        let (found, words) = rig.export(9, false);
        assert!(matches!(found, Exported::Contents(_)) && words == [0; ENTRIES_PER_TABLE]);
        // What looks like an entry is none here.
        rig.set(9, 511, Pte::new(rig.list[4], PRESENT).0);
        let (found, words) = rig.export(9, true);
        assert_eq!(table(found), None);
        assert_eq!(words[511], Pte::new(rig.list[4], PRESENT).0);
        assert_eq!(rig.export(1000, true).0, Exported::Absent);
    }

    #[test]
    fn frames_of_others_are_told_apart() {
        let mut rig = Rig::new();
        let theirs = {
            let (mm, memory, _) = rig.world.guest(2);
            let mut first = None;
            memory.for_each_page(mm.frames(), |mfn| first = Some(mfn));
            first.unwrap()
        };
        rig.list[9] = theirs;
        assert_eq!(rig.export(9, true).0, Exported::Absent);
        // Also when the numbers would agree.
        let pfn = rig.world.mm.m2p().get(theirs).unwrap();
        rig.set(3, 20, Pte::new(theirs, PRESENT).0);
        rig.list[pfn.0 as usize] = theirs;
        assert_eq!(rig.export(3, true).0, Exported::Changing);
    }

    #[test]
    fn entries_that_the_list_does_not_have_are_told() {
        let mut rig = Rig::new();
        rig.list[5] = Mfn(u64::MAX);
        assert_eq!(rig.export(3, true).0, Exported::Changing);
        assert_eq!(rig.export(5, true).0, Exported::Absent);
        let mut words = [0; ENTRIES_PER_TABLE];
        let mm = &rig.world.mm;
        let fault = mm.export_page(
            &rig.memory,
            Pfn(3),
            &mut |_| Err(Error::Fault),
            true,
            &mut words,
        );
        assert_eq!(fault, Err(Error::Fault));
    }

    #[test]
    fn references_are_given_back() {
        let mut rig = Rig::new();
        for pfn in 0..12 {
            rig.export(pfn, true);
        }
        rig.world.audit().unwrap();
        // A page that is no table any more is an ordinary one.
        let at = rig.list[2].address().0;
        let (mm, memory, tables) = rig.world.guest(1);
        let mut caller = MmuCaller {
            domain: &memory,
            tables,
            preempt: &Never,
        };
        mm.mmu_update(&mut caller, &memory, PageOwner::of(&memory), at, 0)
            .unwrap();
        let (found, words) = rig.export(3, true);
        assert!(
            matches!(found, Exported::Contents(usage) if usage.page_type == PageType::L1 && usage.table().is_none())
        );
        assert_eq!(words[4], rig.word(3, 4).0);
        rig.world.finish().unwrap();
    }
}
