//! Which pages of a domain were written: the log that a live migration reads
//! round by round (`XEN_DOMCTL_shadow_op`).
//!
//! # Who marks
//!
//! - What a virtual CPU writes: the fault on its shadow page tables that lets the
//!   first write through, see [`super::shadow`].
//! - What the hypervisor writes for a guest (page tables, descriptors, copies
//!   between grants, …): whoever writes, after the write, by [`Mm::mark_dirty`].
//! - What a page is used as: who makes it a page table, pins or unpins it, or takes it apart.
//!   A migration sends that with the page, and the page in another form.
//! - What somebody else may write at any time without being asked: a page that is
//!   granted and in use, that the hypervisor keeps for itself
//!   ([`Mm::hold_writable`]: `vcpu_info`, event queues, rings), or that another
//!   domain maps. Such a page is dirty in each round, and once more when the use
//!   ends.
//!
//! Pages count by their pseudo-physical number, which the machine-to-phys table
//! tells; frames without one (those of the hypervisor, that a domain may map) are
//! not logged, as on Xen. A number beyond the end of the log is noted, and makes
//! every later look at the log fail (`NoMemory`).
//!
//! # Locks
//!
//! Marking takes no lock but, shared, that of the log's existence, which is
//! innermost. Taking the log away from under marks of a round (`DirtyLog::take`)
//! happens under the tables lock, so that what the shadow tables let through is
//! one with what the log says.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::domain::DomainMemory;
use super::{Mm, MmHost};
use crate::addr::{Mfn, Pfn};
use crate::error::{Error, Result};
use crate::ids::DomainId;

/// One more than the highest page number that can be logged: 1 TiB, a log of 32 MiB.
const MOST_PAGES: u64 = 1 << 28;
/// Pages that a word of the log is for.
const PER_WORD: u64 = 64;

/// How much there was to do since the last round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DirtyStats {
    /// Faults of virtual CPUs on shadow tables.
    pub faults: u64,
    /// Pages that are dirty.
    pub dirty: u64,
}

/// The pages that were dirty at a time, a bit each from page 0 on.
#[derive(Default, Debug)]
pub struct DirtyPages {
    /// Bit `n % 64` of word `n / 64` is page `n`.
    pub words: Vec<u64>,
    /// The counts that go with it.
    pub stats: DirtyStats,
}

/// Calls what it is given with each frame that somebody may write by a grant.
pub type InUse<'a> = dyn FnMut(&mut dyn FnMut(Mfn)) + 'a;

/// The log of one domain.
pub(super) struct DirtyLog {
    words: Vec<AtomicU64>,
    dirty: AtomicU64,
    faults: AtomicU64,
    /// Marks of pages beyond the end.
    missed: AtomicU64,
}

impl DirtyLog {
    /// An empty log for pages up to, not including, `end`.
    fn new(end: u64) -> Result<Self> {
        if end > MOST_PAGES {
            return Err(Error::NoMemory);
        }
        let count = end.div_ceil(PER_WORD) as usize;
        let mut words = Vec::new();
        words
            .try_reserve_exact(count)
            .map_err(|_| Error::NoMemory)?;
        words.resize_with(count, AtomicU64::default);
        Ok(Self {
            words,
            dirty: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        })
    }

    fn word(&self, pfn: Pfn) -> Option<(&AtomicU64, u64)> {
        let index = usize::try_from(pfn.0 / PER_WORD).ok()?;
        Some((self.words.get(index)?, 1 << (pfn.0 % PER_WORD)))
    }

    fn mark(&self, pfn: Pfn) {
        let Some((word, bit)) = self.word(pfn) else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        // Always a locked write, also of what is set: it comes after the write to the
        // page, so that who takes the bit away finds that done.
        if word.fetch_or(bit, Ordering::SeqCst) & bit == 0 {
            self.dirty.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_dirty(&self, pfn: Pfn) -> bool {
        self.word(pfn)
            .is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// What there is, and with `clean` nothing is left.
    fn take(&self, clean: bool, into: &mut DirtyPages) -> Result<()> {
        if self.missed.load(Ordering::Relaxed) != 0 {
            return Err(Error::NoMemory);
        }
        let words = &mut into.words;
        words.clear();
        words
            .try_reserve_exact(self.words.len())
            .map_err(|_| Error::NoMemory)?;
        words.extend(self.words.iter().map(|word| {
            if clean {
                word.swap(0, Ordering::SeqCst)
            } else {
                word.load(Ordering::SeqCst)
            }
        }));
        let count = |counter: &AtomicU64| match clean {
            true => counter.swap(0, Ordering::Relaxed),
            false => counter.load(Ordering::Relaxed),
        };
        into.stats = DirtyStats {
            faults: count(&self.faults),
            dirty: count(&self.dirty),
        };
        Ok(())
    }

    fn give_back(&self, pages: &DirtyPages, from: u64) {
        for (index, (word, &bits)) in self.words.iter().zip(&pages.words).enumerate() {
            let first = index as u64 * PER_WORD;
            let keep = match from.saturating_sub(first) {
                0 => bits,
                n @ 1..64 => bits & (u64::MAX << n),
                _ => 0,
            };
            if keep != 0 {
                let old = word.fetch_or(keep, Ordering::SeqCst);
                let more = (keep & !old).count_ones();
                self.dirty.fetch_add(more.into(), Ordering::Relaxed);
            }
        }
    }
}

impl DomainMemory {
    /// Whether what the domain writes is logged. A hint to who does not hold the tables lock.
    #[inline]
    pub fn is_logging(&self) -> bool {
        self.logging.load(Ordering::Relaxed)
    }

    /// Counts a fault on shadow tables.
    pub(super) fn count_fault(&self) {
        if let Some(log) = self.log.read().as_ref() {
            log.faults.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn mark_pfn(&self, pfn: Pfn) {
        if let Some(log) = self.log.read().as_ref() {
            log.mark(pfn);
        }
    }

    /// Gives back what [`Mm::clean_log`] took, from page `from` on: whoever asked did
    /// not get it.
    pub fn unclean_log(&self, pages: &DirtyPages, from: u64) {
        if let Some(log) = self.log.read().as_ref() {
            log.give_back(pages, from);
        }
    }
}

impl<H: MmHost> Mm<H> {
    /// Notes that a frame was written, if its owner's writes are logged. To be called
    /// after the write.
    #[inline]
    pub fn mark_dirty(&self, mfn: Mfn) {
        if self.logs.load(Ordering::Relaxed) != 0 {
            self.mark_owners(mfn);
        }
    }

    #[cold]
    #[inline(never)]
    fn mark_owners(&self, mfn: Mfn) {
        let owner = self.frames().ram(mfn).and_then(|i| i.count_word().owner());
        if let Some(domain) = owner.and_then(|owner| self.domain(owner)) {
            self.mark_dirty_of(&domain, mfn);
        }
    }

    /// Notes that a frame was written, if it is the domain's and logged.
    #[cold]
    #[inline(never)]
    pub(super) fn mark_dirty_of(&self, domain: &DomainMemory, mfn: Mfn) {
        if domain.is_logging()
            && let Some(pfn) = self.logged_page(domain, mfn)
        {
            domain.mark_pfn(pfn);
        }
    }

    /// Whether a write to the frame needs no more notice: it is dirty already, or not
    /// one that is logged for the domain.
    pub(super) fn needs_no_mark(&self, domain: &DomainMemory, mfn: Mfn) -> bool {
        match self.logged_page(domain, mfn) {
            None => true,
            Some(pfn) => domain.log.read().as_ref().is_none_or(|l| l.is_dirty(pfn)),
        }
    }

    /// The number by which a frame of the domain's is logged.
    fn logged_page(&self, domain: &DomainMemory, mfn: Mfn) -> Option<Pfn> {
        let info = self.frames().any(mfn)?;
        if !info.count_word().is_ram_of(domain.ram_bits) {
            return None;
        }
        self.m2p().get(mfn)
    }

    /// Says which page of a domain a frame is; that page is another one than before, so it is
    /// dirty.
    pub fn set_pfn(&self, mfn: Mfn, pfn: Pfn) {
        self.m2p().set(mfn, pfn);
        self.mark_dirty(mfn);
    }

    /// Takes references to a frame of `owner` as writable, for the hypervisor to write it
    /// whenever it likes until [`Self::release_held`].
    ///
    /// # Errors
    /// `Invalid` if it is not the owner's, or is in use as another type; `NoMemory`.
    pub fn hold_writable(&self, mfn: Mfn, owner: DomainId) -> Result<()> {
        let domain = self.domain(owner).ok_or(Error::Invalid)?;
        let page = self.get_writable(mfn, owner)?;
        let mut held = domain.held.lock();
        held.try_reserve(1).map_err(|_| Error::NoMemory)?;
        held.push(page.keep());
        Ok(())
    }

    /// Gives back what [`Self::hold_writable`] took.
    pub fn release_held(&self, mfn: Mfn) {
        let owner = self.frames().ram(mfn).and_then(|i| i.count_word().owner());
        if let Some(domain) = owner.and_then(|owner| self.domain(owner)) {
            let mut held = domain.held.lock();
            if let Some(index) = held.iter().position(|&held| held == mfn) {
                held.swap_remove(index);
            }
            drop(held);
            self.mark_dirty_of(&domain, mfn);
        }
        self.put_writable(mfn);
    }

    /// A log that has room for all pages that the domain has or may get.
    pub(super) fn new_log(&self, domain: &DomainMemory) -> Result<DirtyLog> {
        // What it may get is no more than there is.
        let mut end = domain.max_pages().min(self.host.end_mfn().0);
        domain.for_each_page(self.frames(), |mfn| {
            if let Some(pfn) = self.m2p().get(mfn) {
                end = end.max(pfn.0.saturating_add(1));
            }
        });
        DirtyLog::new(end)
    }

    /// Marks what others may write at any time.
    fn mark_in_use(&self, domain: &DomainMemory, others: &mut InUse<'_>) {
        for &mfn in domain.held.lock().iter() {
            self.mark_dirty_of(domain, mfn);
        }
        domain.for_each_page(self.frames(), |mfn| {
            let info = self.frames().ram(mfn);
            if info.is_some_and(|info| info.type_word().foreign() != 0) {
                self.mark_dirty_of(domain, mfn);
            }
        });
        others(&mut |mfn| self.mark_dirty_of(domain, mfn));
    }

    /// Begins another round: what was dirty goes to `into`, and from here on the first
    /// write to each page is noted again (`XEN_DOMCTL_SHADOW_OP_CLEAN`). `others` names
    /// the frames that somebody may write by a grant. Without a log, nothing is dirty.
    ///
    /// # Errors
    /// `NoMemory`, also when the log is not complete.
    pub fn clean_log(
        &self,
        domain: &DomainMemory,
        others: &mut InUse<'_>,
        into: &mut DirtyPages,
    ) -> Result<()> {
        let tables = self.lock(domain);
        tables.revoke();
        self.mark_in_use(domain, others);
        match domain.log.read().as_ref() {
            Some(log) => log.take(true, into),
            None => Ok(()),
        }
    }

    /// What is dirty (`XEN_DOMCTL_SHADOW_OP_PEEK`); else as [`Self::clean_log`].
    ///
    /// # Errors
    /// As [`Self::clean_log`].
    pub fn peek_log(
        &self,
        domain: &DomainMemory,
        others: &mut InUse<'_>,
        into: &mut DirtyPages,
    ) -> Result<()> {
        self.mark_in_use(domain, others);
        match domain.log.read().as_ref() {
            Some(log) => log.take(false, into),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_handed_over_is_dirty_again() {
        let log = DirtyLog::new(200).unwrap();
        for pfn in [0, 63, 64, 130, 199] {
            log.mark(Pfn(pfn));
        }
        let mut pages = DirtyPages::default();
        log.take(true, &mut pages).unwrap();
        assert_eq!(pages.stats.dirty, 5);
        assert!(!log.is_dirty(Pfn(130)));
        log.mark(Pfn(199));
        log.give_back(&pages, 64);
        let mut again = DirtyPages::default();
        log.take(false, &mut again).unwrap();
        assert_eq!(again.words, [0, 1, 4, 1 << 7]);
        assert_eq!(again.stats.dirty, 3);
    }

    #[test]
    fn a_page_beyond_the_end_is_not_forgotten() {
        let log = DirtyLog::new(100).unwrap();
        let mut pages = DirtyPages::default();
        log.mark(Pfn(127));
        assert_eq!(log.take(false, &mut pages), Ok(()));
        log.mark(Pfn(128));
        assert_eq!(log.take(true, &mut pages), Err(Error::NoMemory));
        assert_eq!(log.take(false, &mut pages), Err(Error::NoMemory));
        assert!(DirtyLog::new(MOST_PAGES + 1).is_err());
    }
}
