//! A domain's pages: assigning, removing, exchanging them, and giving all of
//! them back when the domain dies.
//!
//! # Invariants
//!
//! - A frame is on exactly one list of its owner from the time it is assigned to
//!   the time its last reference goes (or it is stolen).
//! - `total` is the number of ordinary pages, `shared` that of the hypervisor's
//!   pages shared with the domain.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::{Mutex, MutexGuard, RwLock};

use super::dirty::DirtyLog;
use super::frames::{CountWord, FrameTable, PageType, TypeWord};
use super::shadow::Shadow;
use super::types::Work;
use super::{Level, Mm, MmHost, Pte};
use crate::addr::Mfn;
use crate::error::{Error, Result};
use crate::ids::DomainId;
use crate::machine::Preempt;

/// The lists that a page can be on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PageList {
    /// Ordinary pages.
    Pages = 0,
    /// Pages of the hypervisor's that the domain may map.
    Shared = 1,
    /// Pages that the present pass of relinquishing is through with.
    Done = 2,
}

/// End of a list, as the index of a frame.
const END: u32 = u32::MAX;
/// The "previous frame" of the first frame of a list is this less its list.
const HEAD: u32 = u32::MAX - 1;

const fn link(previous: u32, next: u32) -> u64 {
    ((previous as u64) << 32) | next as u64
}

struct Pages {
    first: [u32; 3],
    total: u64,
    shared: u64,
    max: u64,
    dying: bool,
    phase: Phase,
}

/// How far giving back has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Shared,
    Tables(Level),
    Done,
}

impl Pages {
    fn push(&mut self, frames: FrameTable<'_>, mfn: Mfn, list: PageList) {
        let Some(info) = frames.ram(mfn) else { return };
        let old = self.first[list as usize];
        info.link
            .store(link(HEAD - list as u32, old), Ordering::Relaxed);
        if old != END
            && let Some(next) = frames.ram(Mfn(old.into()))
        {
            let after = next.link.load(Ordering::Relaxed) as u32;
            next.link
                .store(link(mfn.0 as u32, after), Ordering::Relaxed);
        }
        self.first[list as usize] = mfn.0 as u32;
    }

    fn remove(&mut self, frames: FrameTable<'_>, mfn: Mfn) {
        let Some(info) = frames.ram(mfn) else { return };
        let word = info.link.load(Ordering::Relaxed);
        let (previous, next) = ((word >> 32) as u32, word as u32);
        if previous > HEAD - 3 {
            if let Some(first) = self.first.get_mut((HEAD - previous) as usize) {
                *first = next;
            }
        } else if let Some(info) = frames.ram(Mfn(previous.into())) {
            let before = info.link.load(Ordering::Relaxed) >> 32;
            info.link
                .store(link(before as u32, next), Ordering::Relaxed);
        }
        if next != END
            && let Some(info) = frames.ram(Mfn(next.into()))
        {
            let after = info.link.load(Ordering::Relaxed) as u32;
            info.link.store(link(previous, after), Ordering::Relaxed);
        }
    }

    fn first(&self, list: PageList) -> Option<Mfn> {
        match self.first[list as usize] {
            END => None,
            n => Some(Mfn(n.into())),
        }
    }
}

/// The memory of one domain.
pub struct DomainMemory {
    id: DomainId,
    privileged: bool,
    /// Flags that no entry of its level-1 tables may have.
    pub(super) leaf_disallowed: u64,
    /// The bits of its frames for [`CountWord::is_ram_of`].
    pub(super) ram_bits: u64,
    /// Serialises all that concerns its page tables; see [`super::types::Tables`].
    pub(super) tables: Mutex<()>,
    pages: Mutex<Pages>,
    /// User mode is not to see the machine-to-phys table (`VMASST_TYPE_m2p_strict`).
    pub m2p_strict: AtomicBool,
    /// Its writes are logged. Changes under the tables lock, while no virtual CPU runs.
    pub(super) logging: AtomicBool,
    /// The shadows of its page tables. Inside the tables lock.
    pub(super) shadow: Mutex<Option<Shadow>>,
    /// What it wrote; there while `logging`.
    pub(super) log: RwLock<Option<DirtyLog>>,
    /// Frames that the hypervisor writes whenever it likes, each as often as it is held.
    pub(super) held: Mutex<Vec<Mfn>>,
}

impl DomainMemory {
    pub(super) fn new(id: DomainId, privileged: bool, max_pages: u64, nx: bool) -> Self {
        Self {
            id,
            privileged,
            leaf_disallowed: Pte::leaf_disallowed(nx, privileged),
            ram_bits: CountWord::ram_of(id),
            tables: Mutex::new(()),
            pages: Mutex::new(Pages {
                first: [END; 3],
                total: 0,
                shared: 0,
                max: max_pages,
                dying: false,
                phase: Phase::Shared,
            }),
            m2p_strict: AtomicBool::new(false),
            logging: AtomicBool::new(false),
            shadow: Mutex::new(None),
            log: RwLock::new(None),
            held: Mutex::new(Vec::new()),
        }
    }

    /// The domain's number.
    #[inline]
    pub fn id(&self) -> DomainId {
        self.id
    }

    /// Whether it may act on other domains' memory, and choose memory types.
    pub fn is_privileged(&self) -> bool {
        self.privileged
    }

    /// How many ordinary pages it has, those included that it gave up but
    /// somebody still maps.
    pub fn total_pages(&self) -> u64 {
        self.pages.lock().total
    }

    /// How many pages of the hypervisor's are shared with it.
    pub fn shared_pages(&self) -> u64 {
        self.pages.lock().shared
    }

    /// How many ordinary pages it may have.
    pub fn max_pages(&self) -> u64 {
        self.pages.lock().max
    }

    /// Changes how many ordinary pages it may have (`XEN_DOMCTL_max_mem`). What
    /// it has beyond it keeps.
    pub fn set_max_pages(&self, max: u64) {
        self.pages.lock().max = max;
    }

    /// Whether it is being destroyed.
    pub fn is_dying(&self) -> bool {
        self.pages.lock().dying
    }

    /// Whether no page is left, neither its own nor one that is shared with it.
    pub fn has_no_pages(&self) -> bool {
        let pages = self.pages.lock();
        pages.total == 0 && pages.shared == 0
    }

    /// Says that it is being destroyed: it gets no more pages.
    pub fn set_dying(&self) {
        self.pages.lock().dying = true;
    }

    /// Calls `each` with every ordinary page, in no special order, under the
    /// lock of the list.
    pub fn for_each_page(&self, frames: FrameTable<'_>, mut each: impl FnMut(Mfn)) {
        let pages = self.pages.lock();
        for list in [PageList::Pages, PageList::Done] {
            let mut next = pages.first(list);
            while let Some(mfn) = next {
                each(mfn);
                next = frames
                    .ram(mfn)
                    .map(|info| info.link.load(Ordering::Relaxed) as u32)
                    .filter(|&n| n != END)
                    .map(|n| Mfn(n.into()));
            }
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock()
    }

    /// Takes a page off the domain, whose last reference is gone. Says whether
    /// the domain is dying.
    pub(super) fn unlink(&self, frames: FrameTable<'_>, mfn: Mfn, list: PageList) -> bool {
        let mut pages = self.pages();
        pages.remove(frames, mfn);
        if list == PageList::Shared {
            pages.shared = pages.shared.saturating_sub(1);
        } else {
            pages.total = pages.total.saturating_sub(1);
        }
        pages.dying
    }
}

impl<H: MmHost> Mm<H> {
    /// Gives `2^order` frames to a domain. They have no owner and no reference,
    /// and no CPU holds an old translation of them.
    ///
    /// # Errors
    /// `Invalid` for a dying domain or frames that are not free RAM,
    /// `NotPermitted` if it has more than it may have, `TooBig` if it would.
    pub fn assign_pages(&self, domain: &DomainMemory, first: Mfn, order: u32) -> Result<()> {
        let nr = 1u64.checked_shl(order).ok_or(Error::Invalid)?;
        let frames = self.frames();
        for i in 0..nr {
            let mfn = first.checked_add(i).ok_or(Error::Invalid)?;
            let info = frames.ram(mfn).ok_or(Error::Invalid)?;
            if info.count_word().0 != CountWord::RAM || mfn.0 >= u64::from(HEAD - 3) {
                return Err(Error::Invalid);
            }
        }
        let mut pages = domain.pages();
        if pages.dying {
            return Err(Error::Invalid);
        }
        let room = pages
            .max
            .checked_sub(pages.total)
            .ok_or(Error::NotPermitted)?;
        if nr > room {
            return Err(Error::TooBig);
        }
        pages.total += nr;
        for i in 0..nr {
            let mfn = Mfn(first.0 + i);
            if let Some(info) = frames.ram(mfn) {
                info.page_type.store(0, Ordering::Release);
                pages.push(frames, mfn, PageList::Pages);
                let flags = CountWord::RAM | CountWord::ALLOCATED;
                info.count
                    .store(CountWord::owned(domain.id, flags, 1).0, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Allocates `2^order` frames for a domain and gives it them.
    ///
    /// # Errors
    /// `NoMemory`, and those of [`Self::assign_pages`].
    pub fn allocate_pages(&self, domain: &DomainMemory, order: u32) -> Result<Mfn> {
        let (mfn, stamp) = self.host.allocate_frames(order).ok_or(Error::NoMemory)?;
        self.host.flush_since(stamp);
        match self.assign_pages(domain, mfn, order) {
            Ok(()) => Ok(mfn),
            Err(error) => {
                self.host.free_frames(mfn, order, stamp);
                Err(error)
            }
        }
    }

    /// A guest gives up a page (`XENMEM_decrease_reservation`). It goes back to
    /// the heap when its last mapping is gone, which may be later.
    ///
    /// # Errors
    /// `Invalid` where there is no RAM, `NoDevice` if it is not the domain's.
    pub fn remove_page(&self, domain: &DomainMemory, mfn: Mfn) -> Result<()> {
        if !self.frames().is_ram(mfn) {
            return Err(Error::Invalid);
        }
        let page = self.get_page(mfn, domain.id).ok_or(Error::NoDevice)?;
        self.put_allocated(page.mfn());
        Ok(())
    }

    /// Takes a page away from a domain that has no other reference to it than
    /// its own (`steal_page`, for `XENMEM_exchange`). It has no owner then, and
    /// is to be freed or assigned. Returns the stamp up to which CPUs may still
    /// hold translations of it.
    ///
    /// # Errors
    /// `Invalid` if the page is not the domain's, is mapped, or is shared by
    /// the hypervisor.
    pub fn steal_page(&self, domain: &DomainMemory, mfn: Mfn) -> Result<u64> {
        let info = self.frames().ram(mfn).ok_or(Error::Invalid)?;
        let alone = CountWord::owned(domain.id, CountWord::RAM | CountWord::ALLOCATED, 1);
        let gone = CountWord::owned(domain.id, CountWord::RAM, 0);
        info.count
            .compare_exchange(alone.0, gone.0, Ordering::AcqRel, Ordering::Acquire)
            .map_err(|_| Error::Invalid)?;
        if info.type_word().0 & TypeWord::NON_COHERENT != 0 {
            self.host.make_coherent(mfn);
        }
        domain.unlink(self.frames(), mfn, PageList::Pages);
        info.page_type.store(0, Ordering::Release);
        let stamp = self.host.clock();
        info.set_stamp(stamp);
        info.count.store(CountWord::RAM, Ordering::Release);
        Ok(stamp)
    }

    /// Assigns a page that was stolen to a domain, its old one or another; with
    /// the stamp that stealing gave.
    ///
    /// # Errors
    /// As [`Self::assign_pages`].
    pub fn assign_stolen(&self, domain: &DomainMemory, mfn: Mfn, stamp: u64) -> Result<()> {
        self.host.flush_since(stamp);
        self.assign_pages(domain, mfn, 0)
    }

    /// Frees a page that was stolen.
    pub fn free_stolen(&self, mfn: Mfn, stamp: u64) {
        self.m2p().clear(mfn);
        self.host.free_frames(mfn, 0, stamp);
    }

    /// Shares a frame of the hypervisor's with a domain, which may map it (and
    /// write it, if `writable`) but can never make it anything else
    /// (`share_xen_page_with_guest`). The frame comes from the heap and has no
    /// owner; it stays the hypervisor's, who may free it when it was unshared, or when the
    /// domain is dead and has no pages any more.
    ///
    /// # Errors
    /// `Invalid` if the frame is not free RAM.
    pub fn share_page(&self, domain: &DomainMemory, mfn: Mfn, writable: bool) -> Result<()> {
        let frames = self.frames();
        let info = frames.ram(mfn).ok_or(Error::Invalid)?;
        if info.count_word().0 != CountWord::RAM || mfn.0 >= u64::from(HEAD - 3) {
            return Err(Error::Invalid);
        }
        let mut pages = domain.pages();
        if pages.dying {
            return Err(Error::Invalid);
        }
        self.m2p().clear(mfn);
        let page_type = if writable {
            PageType::Writable
        } else {
            PageType::None
        };
        // The type reference is never given back, which pins the type.
        let kind = TypeWord::new(page_type, TypeWord::VALIDATED, 1);
        info.page_type.store(kind.0, Ordering::Release);
        pages.push(frames, mfn, PageList::Shared);
        pages.shared += 1;
        let flags = CountWord::RAM | CountWord::HYPERVISOR | CountWord::ALLOCATED;
        info.count
            .store(CountWord::owned(domain.id, flags, 1).0, Ordering::Release);
        Ok(())
    }

    /// Takes back a frame that was shared, unless somebody maps it. The
    /// hypervisor owns it then. Returns the stamp up to which CPUs may still
    /// hold translations of it.
    ///
    /// # Errors
    /// `Busy` if it is mapped, `Invalid` if it is not shared with the domain.
    pub fn unshare_page(&self, domain: &DomainMemory, mfn: Mfn) -> Result<u64> {
        let info = self.frames().ram(mfn).ok_or(Error::Invalid)?;
        let flags = CountWord::RAM | CountWord::HYPERVISOR;
        let alone = CountWord::owned(domain.id, flags | CountWord::ALLOCATED, 1);
        let now = info.count_word();
        if now.owner() != Some(domain.id) || !now.is_hypervisor() {
            return Err(Error::Invalid);
        }
        let gone = CountWord::owned(domain.id, flags, 0);
        info.count
            .compare_exchange(alone.0, gone.0, Ordering::AcqRel, Ordering::Acquire)
            .map_err(|_| Error::Busy)?;
        domain.unlink(self.frames(), mfn, PageList::Shared);
        info.page_type.store(0, Ordering::Release);
        let stamp = self.host.clock();
        info.set_stamp(stamp);
        info.count.store(CountWord::RAM, Ordering::Release);
        Ok(stamp)
    }

    /// Gives back all pages of a dying domain whose virtual CPUs' base pointers
    /// have been dropped (`domain_relinquish_resources`). Pages that other
    /// domains still map go when those let go of them.
    ///
    /// # Errors
    /// `Restart` when preempted; call again. `Busy` if the domain is not dying.
    pub fn relinquish(&self, domain: &DomainMemory, preempt: &dyn Preempt) -> Result<()> {
        if !domain.is_dying() {
            return Err(Error::Busy);
        }
        loop {
            let phase = domain.pages().phase;
            let next = match phase {
                Phase::Shared => {
                    self.relinquish_list(domain, PageList::Shared, None, preempt)?;
                    Phase::Tables(Level::L4)
                }
                Phase::Tables(level) => {
                    self.relinquish_list(domain, PageList::Pages, Some(level), preempt)?;
                    match level.below() {
                        Some(Level::L1) | None => Phase::Done,
                        Some(below) => Phase::Tables(below),
                    }
                }
                Phase::Done => return Ok(()),
            };
            let mut pages = domain.pages();
            // What is left belongs to the lists again, for the next pass.
            let back = if phase == Phase::Shared {
                PageList::Shared
            } else {
                PageList::Pages
            };
            while let Some(mfn) = pages.first(PageList::Done) {
                pages.remove(self.frames(), mfn);
                pages.push(self.frames(), mfn, back);
            }
            pages.phase = next;
        }
    }

    fn relinquish_list(
        &self,
        domain: &DomainMemory,
        list: PageList,
        level: Option<Level>,
        preempt: &dyn Preempt,
    ) -> Result<()> {
        let frames = self.frames();
        loop {
            let tables = self.lock(domain);
            let mfn = {
                let mut pages = domain.pages();
                let Some(mfn) = pages.first(list) else {
                    return Ok(());
                };
                pages.remove(frames, mfn);
                pages.push(frames, mfn, PageList::Done);
                mfn
            };
            // Without a reference to be had, somebody is freeing it just now.
            if let Some(page) = self.get_page(mfn, domain.id) {
                let mut deferred = None;
                let mut work = Work {
                    preempt,
                    deferred: &mut deferred,
                };
                let result = tables.relinquish(page.mfn(), level, &mut work);
                if result.is_err() {
                    let mut pages = domain.pages();
                    pages.remove(frames, mfn);
                    pages.push(frames, mfn, list);
                    drop(pages);
                    drop(page);
                    return result;
                }
                self.put_allocated(page.mfn());
            }
            drop(tables);
            if preempt.preempt_pending() {
                return Err(Error::Restart);
            }
        }
    }
}
