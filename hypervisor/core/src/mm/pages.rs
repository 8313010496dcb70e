//! References to frames, and what happens when the last one goes.

use super::domain::PageList;
use super::frames::{CountWord, FrameInfo, PageType, TypeWord};
use super::{Level, Mm, MmHost};
use crate::addr::Mfn;
use crate::error::{Error, Result};
use crate::ids::DomainId;
use core::sync::atomic::Ordering;

/// A reference to a frame. Dropping it gives the reference back.
pub struct PageRef<'a, H: MmHost> {
    mm: &'a Mm<H>,
    mfn: Mfn,
}

impl<H: MmHost> PageRef<'_, H> {
    /// The frame.
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// Leaves the reference taken, for whoever keeps count of it from now on: a
    /// page-table entry, a base pointer. [`Mm::put_page`] gives it back.
    pub fn keep(self) -> Mfn {
        let mfn = self.mfn;
        core::mem::forget(self);
        mfn
    }
}

impl<H: MmHost> Drop for PageRef<'_, H> {
    fn drop(&mut self) {
        self.mm.put_page(self.mfn);
    }
}

/// A reference to a frame as writable: while it is held, the frame is no page
/// table and no descriptor table. Dropping it gives the reference back.
pub struct WritableRef<'a, H: MmHost> {
    page: PageRef<'a, H>,
}

impl<H: MmHost> WritableRef<'_, H> {
    /// The frame.
    pub fn mfn(&self) -> Mfn {
        self.page.mfn
    }

    /// Leaves both references taken; [`Mm::put_writable`] gives them back.
    pub fn keep(self) -> Mfn {
        let mfn = self.page.mfn;
        core::mem::forget(self);
        mfn
    }
}

impl<H: MmHost> Drop for WritableRef<'_, H> {
    fn drop(&mut self) {
        // The reference to the frame goes after this, with `page`.
        self.page.mm.put_data_type(self.page.mfn);
    }
}

/// What a page is in use as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageUse {
    /// The type.
    pub page_type: PageType,
    /// The contents were checked for that.
    pub validated: bool,
    /// The owner pinned it to that.
    pub pinned: bool,
}

impl PageUse {
    /// The level of the page table that it is.
    pub fn table(self) -> Option<Level> {
        self.page_type
            .level()
            .filter(|_| self.validated || self.pinned)
    }
}

/// Says that references were counted wrongly, which is a fault of this code.
#[cold]
#[inline(never)]
fn complain(mfn: Mfn, what: &str) {
    log::error!("mm: frame {mfn}: {what}");
    debug_assert!(false, "{what}");
}

impl<H: MmHost> Mm<H> {
    /// Takes a reference to a frame of `owner` (`get_page`).
    #[inline]
    pub fn get_page(&self, mfn: Mfn, owner: DomainId) -> Option<PageRef<'_, H>> {
        let info = self.frames().ram(mfn)?;
        // Made only if the reference was taken, as dropping it gives it back.
        info.get(owner).then(|| PageRef { mm: self, mfn })
    }

    /// Takes a reference to a frame whoever owns it, and says who
    /// (`page_get_owner_and_reference`).
    pub fn get_any_page(&self, mfn: Mfn) -> Option<(DomainId, PageRef<'_, H>)> {
        self.get_any_page_of(self.frames().ram(mfn)?, mfn)
    }

    /// [`Self::get_any_page`], where what is known of the frame is at hand.
    #[inline]
    pub(super) fn get_any_page_of(
        &self,
        info: &FrameInfo,
        mfn: Mfn,
    ) -> Option<(DomainId, PageRef<'_, H>)> {
        let owner = info.get_any()?;
        Some((owner, PageRef { mm: self, mfn }))
    }

    /// Takes a reference to a frame of `owner` as writable.
    ///
    /// # Errors
    /// `Invalid` if it is not the owner's, or is in use as another type.
    pub fn get_writable(&self, mfn: Mfn, owner: DomainId) -> Result<WritableRef<'_, H>> {
        let page = self.get_page(mfn, owner).ok_or(Error::Invalid)?;
        self.get_writable_type(mfn)?;
        Ok(WritableRef { page })
    }

    /// Gives back a reference to a frame. With the last one, the frame goes back
    /// to the heap.
    pub fn put_page(&self, mfn: Mfn) {
        if let Some(info) = self.frames().ram(mfn) {
            self.put_page_of(info, mfn);
        }
    }

    /// [`Self::put_page`], where what is known of the frame is at hand.
    #[inline(always)]
    pub(super) fn put_page_of(&self, info: &FrameInfo, mfn: Mfn) {
        let mut now = info.count_word();
        loop {
            if now.count() == 0 {
                // A reference too many was put. To lose the frame is the least evil.
                complain(mfn, "reference count below zero");
                return;
            }
            match info.cas_count(now, now.0.wrapping_sub(1)) {
                Ok(()) => break,
                Err(other) => now = other,
            }
        }
        if now.count() == 1 {
            self.release(mfn, info);
        }
    }

    /// Gives back a writable reference that was kept: type, then frame.
    pub fn put_writable(&self, mfn: Mfn) {
        self.put_data_type(mfn);
        self.put_page(mfn);
    }

    /// Drops the owner's own reference, if it is still there
    /// (`put_page_alloc_ref`). The caller holds another one.
    pub(super) fn put_allocated(&self, mfn: Mfn) {
        let Some(info) = self.frames().ram(mfn) else {
            return;
        };
        let old = CountWord(
            info.count
                .fetch_and(!CountWord::ALLOCATED, Ordering::AcqRel),
        );
        if old.is_allocated() {
            self.put_page(mfn);
        }
    }

    /// The last reference is gone: the frame leaves its owner.
    #[cold]
    #[inline(never)]
    fn release(&self, mfn: Mfn, info: &FrameInfo) {
        // Count 0: nobody else can take a reference, so what is read stays so.
        let count = info.count_word();
        let kind = info.type_word();
        if !count.is_hypervisor() && kind.count() != 0 {
            log::error!(
                "mm: frame {mfn} freed while in use as {:?}",
                kind.page_type()
            );
            debug_assert!(false, "freed while in use");
            return;
        }
        if kind.0 & TypeWord::NON_COHERENT != 0 {
            self.host.make_coherent(mfn);
        }
        let owner = count.owner().and_then(|id| self.domain(id));
        let forget = || {
            info.page_type.store(0, Ordering::Release);
            let stamp = self.host.clock();
            info.set_stamp(stamp);
            self.m2p().clear(mfn);
            info.count.store(CountWord::RAM, Ordering::Release);
            stamp
        };
        let unlink = |list| {
            owner
                .as_ref()
                .is_some_and(|domain| domain.unlink(self.frames(), mfn, list))
        };
        let of_the_dead;
        if count.is_hypervisor() {
            // It goes when the hypervisor needs it no more: with a dead domain, as soon
            // as that has no pages. So this comes last.
            forget();
            of_the_dead = unlink(PageList::Shared);
        } else {
            of_the_dead = unlink(PageList::Pages);
            if of_the_dead && let Some(frame) = self.host.frame(mfn) {
                // The living clear what they give away; for the dead we do it.
                frame.zero();
            }
            let stamp = forget();
            self.host.free_frames(mfn, 0, stamp);
        }
        if of_the_dead
            && let Some(domain) = owner
            && domain.has_no_pages()
        {
            self.host.pages_gone(domain.id());
        }
    }

    /// What a frame is in use as, for whoever saves a domain. `None` if it is not an
    /// ordinary page of the domain.
    pub fn page_use(&self, mfn: Mfn, owner: DomainId) -> Option<PageUse> {
        let page = self.get_page(mfn, owner)?;
        self.use_of_held(page.mfn())
    }

    /// [`Self::page_use`], where a reference to the frame is held.
    pub(super) fn use_of_held(&self, mfn: Mfn) -> Option<PageUse> {
        let info = self.frames().ram(mfn)?;
        if info.count_word().is_hypervisor() {
            return None;
        }
        let word = info.type_word();
        Some(PageUse {
            page_type: word.page_type(),
            validated: word.is_validated(),
            pinned: word.is_pinned(),
        })
    }

    /// Takes a reference as writable where one to the frame is held. To be given
    /// back with [`Self::put_data_type`].
    ///
    /// # Errors
    /// `Invalid` if the frame is in use as another type.
    #[inline]
    pub fn get_writable_type(&self, mfn: Mfn) -> Result<()> {
        let info = self.frames().ram(mfn).ok_or(Error::Invalid)?;
        self.get_writable_type_of(info)
    }

    /// [`Self::get_writable_type`], where what is known of the frame is at hand.
    #[inline(always)]
    pub(super) fn get_writable_type_of(&self, info: &FrameInfo) -> Result<()> {
        // Mostly it was writable before, and nobody else is at it.
        let now = info.type_word();
        if now.is_settled_writable()
            && !now.is_full()
            && info.cas_type(now, now.0.wrapping_add(1)).is_ok()
        {
            return Ok(());
        }
        self.get_writable_type_slowly(info)
    }

    #[inline(never)]
    fn get_writable_type_slowly(&self, info: &FrameInfo) -> Result<()> {
        let mut now = info.type_word();
        let old = loop {
            if now.is_full() {
                return Err(Error::Invalid);
            }
            let mut new = now;
            if now.count() == 0 {
                new = now.retyped(PageType::Writable);
            } else if now.page_type() != PageType::Writable {
                return Err(Error::Invalid);
            } else if !now.is_validated() {
                // Another CPU is flushing TLBs for it; that does not take long.
                core::hint::spin_loop();
                now = info.type_word();
                continue;
            }
            match info.cas_type(now, new.0 + 1) {
                Ok(()) => break now,
                Err(other) => now = other,
            }
        };
        if old.count() == 0 && !old.retyped(PageType::Writable).is_validated() {
            if old.page_type() != PageType::Writable {
                // No CPU may still walk through it as a page table.
                self.host.flush_since(info.stamp());
            }
            info.page_type
                .fetch_or(TypeWord::VALIDATED, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Gives back a type reference of a frame that is no page table.
    pub fn put_data_type(&self, mfn: Mfn) {
        if let Some(info) = self.frames().ram(mfn) {
            self.put_data_type_of(info, mfn);
        }
    }

    /// [`Self::put_data_type`], where what is known of the frame is at hand.
    #[inline(always)]
    pub(super) fn put_data_type_of(&self, info: &FrameInfo, mfn: Mfn) {
        // Mostly it is writable in more places, or nobody else is at it.
        let now = info.type_word();
        if now.is_settled_writable() && now.count() != 0 {
            if now.count() == 1 {
                // See below.
                info.set_stamp(self.host.clock());
            }
            if info.cas_type(now, now.0.wrapping_sub(1)).is_ok() {
                return;
            }
        }
        self.put_data_type_slowly(info, mfn);
    }

    #[inline(never)]
    fn put_data_type_slowly(&self, info: &FrameInfo, mfn: Mfn) {
        let mut now = info.type_word();
        loop {
            if now.count() == 0 || now.page_type().level().is_some() {
                complain(mfn, "type reference put that was not taken");
                return;
            }
            if now.count() == 1 {
                // The mapping is gone from the tables already; a CPU that
                // flushes from now on knows no more of it.
                info.set_stamp(self.host.clock());
            }
            match info.cas_type(now, now.0 - 1) {
                Ok(()) => return,
                Err(other) => now = other,
            }
        }
    }
}
