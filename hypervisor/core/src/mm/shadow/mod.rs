//! Shadow page tables: how the writes of a domain's virtual CPUs are noticed.
//!
//! While a domain's writes are logged ([`super::dirty`]), CR3 points to copies of its page
//! tables that are the hypervisor's. The domain's own tables stay what they are: it goes
//! on reading and updating them, they are validated and counted as always, and no bit in
//! them changes but A and D, as on a CPU. (To take the write bits out of the domain's own
//! tables would be seen by it, and fork copies them.)
//!
//! # Form
//!
//! A guest's table of any level has at most one shadow, whichever and however many tables
//! lead to it; entries of shadows lead to shadows. So an update of one entry concerns
//! one entry of one shadow, and roots share what the guest's roots share. Shadows are made
//! by page faults, an entry at a time. Their frames come from a pool of the domain's; when
//! that is used up, all shadows are dropped and made again, but for the empty roots that
//! virtual CPUs run on. That is simple, and with a pool that suits the domain it is rare.
//! (Shadows a root, dropped when it is left, were the alternative: less to look up, but all
//! entries of the kernel would fault in again with each switch of a process.)
//!
//! # Invariants
//!
//! Under the tables lock, which all that changes the guest's tables or these holds:
//!
//! 1. An entry of a shadow that is present is that of the guest's table at the same place,
//!    which is present: the same frame (or the shadow of the table that it leads to), the
//!    same flags, but for A, D and R/W in leaves. The guest's entry has A.
//! 2. A leaf of a shadow has R/W only if the guest's has R/W and D, and the page is
//!    dirty in the log or not one to be logged (`Mm::needs_no_mark`).
//! 3. A table has a shadow only while it is validated. A frame takes another type, or
//!    leaves its owner, after its shadow is gone and no shadow's entry maps it.
//! 4. A shadow root that a virtual CPU's base pointer stands for has `users`, one
//!    for each such pointer, and is not dropped.
//!
//! From 1 it follows that the translations of the CPU are those that the guest's tables
//! give, or gave before an update that the guest has not flushed yet: the rules of the TLB
//! are those of direct paging. A and D need no reading back: an entry that the
//! CPU could set them in is not there before the guest's has them.
//!
//! An update writes the guest's entry, then empties the shadow's, then gives back
//! what the old entry held. A CPU that still knows the old translation is flushed before
//! the frame is anything else, by the frame's stamp ([`super::frames`]). The frames of shadows
//! have stamps for the same reason: one is used anew only when no CPU can walk through
//! it as what it was.
//!
//! A round of the log ends by taking R/W from all leaves and flushing all CPUs; then the
//! log is read and emptied, all under the lock. A CPU that still wrote meanwhile, by
//! a translation from before, wrote to pages that were in the log (2).

#[cfg(any(test, feature = "model"))]
mod audit;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, VecDeque};
use core::sync::atomic::{Ordering, fence};

use super::dirty::DirtyLog;
use super::domain::DomainMemory;
use super::entry::{FIRST_HYPERVISOR_SLOT, HYPERVISOR_SLOTS, Level, Pte, is_guest_slot};
use super::ext::VcpuPageTables;
use super::types::Tables;
use super::update::address_ok;
use super::{Mm, MmHost};
use crate::addr::{ENTRIES_PER_TABLE, GuestVirtual, Mfn};
use crate::error::{Error, Result};

/// Frames of shadows that a domain needs at the least, besides [`LEAST_PER_VCPU`]: an instruction may touch
/// some ten pages, each by four tables.
const LEAST: usize = 48;
/// The same, for each virtual CPU: two roots, and what they use at the same time.
const LEAST_PER_VCPU: usize = 48;
/// The most frames that are taken unasked (64 MiB).
const MOST_UNASKED: usize = 1 << 14;

/// The shadow of a table.
struct Used {
    table: Mfn,
    level: Level,
    /// Base pointers that it stands for.
    users: u32,
}

/// A frame that is no shadow now, and when it ceased to be one by the flush clock.
struct Free {
    mfn: Mfn,
    stamp: u64,
}

/// The shadows of a domain, and the frames for them.
#[derive(Default)]
pub(super) struct Shadow {
    /// By the frame of the guest's table.
    used: BTreeMap<Mfn, Used>,
    /// The one that was given up first is in front.
    free: VecDeque<Free>,
}

impl Shadow {
    /// How many frames there are for shadows.
    fn total(&self) -> usize {
        self.used.len().saturating_add(self.free.len())
    }

    fn grow<H: MmHost>(&mut self, host: &H, total: usize) -> Result<()> {
        let more = total.saturating_sub(self.total());
        self.free
            .try_reserve(total.saturating_sub(self.free.len()))
            .map_err(|_| Error::NoMemory)?;
        for _ in 0..more {
            let (mfn, stamp) = host.allocate_frames(0).ok_or(Error::NoMemory)?;
            self.free.push_back(Free { mfn, stamp });
        }
        Ok(())
    }

    /// Gives frames back until `total` are left, or only those in use as roots.
    fn shrink<H: MmHost>(&mut self, host: &H, total: usize) {
        if self.total() > total && self.used.len() > total {
            self.drop_all(host);
        }
        while self.total() > total
            && let Some(Free { mfn, stamp }) = self.free.pop_front()
        {
            host.free_frames(mfn, 0, stamp);
        }
    }

    fn free_all<H: MmHost>(self, host: &H) {
        fence(Ordering::SeqCst);
        let stamp = host.clock();
        let used = self.used.into_values().map(|used| (used.table, stamp));
        let free = self.free.into_iter().map(|free| (free.mfn, free.stamp));
        used.chain(free)
            .for_each(|(mfn, stamp)| host.free_frames(mfn, 0, stamp));
    }

    fn get(&self, guest: Mfn) -> Option<Mfn> {
        self.used.get(&guest).map(|used| used.table)
    }

    /// Makes an empty shadow of a table that has none. `None` if no frame is free.
    fn make<H: MmHost>(&mut self, host: &H, guest: Mfn, level: Level) -> Option<Mfn> {
        let Free { mfn, stamp } = self.free.pop_front()?;
        // No CPU may still walk through it as what it was.
        host.flush_since(stamp);
        let frame = host.frame(mfn)?;
        frame.zero();
        if level == Level::L4
            && let Some(from) = host.frame(guest)
        {
            let end = FIRST_HYPERVISOR_SLOT + HYPERVISOR_SLOTS;
            (FIRST_HYPERVISOR_SLOT..end).for_each(|slot| frame.store(slot, from.load(slot)));
        }
        let used = Used {
            table: mfn,
            level,
            users: 0,
        };
        self.used.insert(guest, used);
        Some(mfn)
    }

    fn get_or_make<H: MmHost>(&mut self, host: &H, guest: Mfn, level: Level) -> Option<Mfn> {
        match self.get(guest) {
            Some(table) => Some(table),
            None => self.make(host, guest, level),
        }
    }

    fn remove<H: MmHost>(&mut self, host: &H, guest: Mfn) {
        if let Some(used) = self.used.remove(&guest) {
            debug_assert!(used.users == 0, "a root that is in use loses its shadow");
            fence(Ordering::SeqCst);
            self.free.push_back(Free {
                mfn: used.table,
                stamp: host.clock(),
            });
        }
    }

    /// Drops all shadows. Roots in use are emptied.
    fn drop_all<H: MmHost>(&mut self, host: &H) {
        for used in self.used.values().filter(|used| used.users != 0) {
            if let Some(frame) = host.frame(used.table) {
                (0..ENTRIES_PER_TABLE)
                    .filter(|&slot| is_guest_slot(Level::L4, slot))
                    .for_each(|slot| frame.store(slot, 0));
            }
        }
        // Nothing leads to them any more.
        fence(Ordering::SeqCst);
        let stamp = host.clock();
        let free = &mut self.free;
        self.used.retain(|_, used| {
            if used.users == 0 {
                free.push_back(Free {
                    mfn: used.table,
                    stamp,
                });
            }
            used.users != 0
        });
    }

    /// Takes R/W from all leaves.
    fn revoke<H: MmHost>(&self, host: &H) {
        for used in self.used.values().filter(|used| used.level == Level::L1) {
            let Some(frame) = host.frame(used.table) else {
                continue;
            };
            for group in (0..ENTRIES_PER_TABLE / 8).filter(|&g| frame.group_has(g, Pte::RW)) {
                for slot in group * 8..group * 8 + 8 {
                    // The CPU has nothing to note in it: A and D are set.
                    frame.store(slot, frame.load(slot) & !Pte::RW);
                }
            }
        }
    }
}

/// What the CPU was about when it faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// It wrote.
    pub write: bool,
    /// It fetched an instruction.
    pub fetch: bool,
    /// It was in ring 3.
    pub user: bool,
}

/// What a page fault was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShadowFault {
    /// The shadow was behind. It has what is needed now, and the access is to be made
    /// again, without a translation from before.
    Fixed,
    /// The guest's own tables do not allow the access.
    Guest {
        /// They have an entry, which does not give the right: bit 0 of the error code
        /// as the guest is to see it.
        present: bool,
    },
}

/// What CR3 is to point to for the base pointers of a virtual CPU.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HardwareRoots {
    /// In kernel mode.
    pub kernel: Option<Mfn>,
    /// In user mode.
    pub user: Option<Mfn>,
}

/// The walk of an address through the guest's tables: of each level from the root on, the
/// table, the entry's index and the entry.
type Walk = [(Mfn, usize, Pte); 4];

const LEVELS: [Level; 4] = [Level::L4, Level::L3, Level::L2, Level::L1];

impl<H: MmHost> Tables<'_, H> {
    /// An entry of a table of this domain's was written, so its shadow is not good any more.
    /// To be called before what the old entry held is given back.
    #[inline(always)]
    pub(super) fn entry_changed(&self, table: Mfn, slot: usize) {
        if self.logging {
            self.forget_entry(table, slot);
        }
    }

    #[cold]
    #[inline(never)]
    fn forget_entry(&self, table: Mfn, slot: usize) {
        if let Some(shadow) = self.domain.shadow.lock().as_ref()
            && let Some(frame) = shadow.get(table).and_then(|table| self.frame(table))
        {
            frame.store(slot, 0);
        }
        self.mm.mark_dirty_of(self.domain, table);
    }

    /// A frame of this domain's was written.
    #[inline(always)]
    pub(super) fn was_written(&self, mfn: Mfn) {
        if self.logging {
            self.mm.mark_dirty_of(self.domain, mfn);
        }
    }

    /// A table of this domain's is about to be taken apart: it has no shadow from here on.
    #[inline(always)]
    pub(super) fn unshadow(&self, table: Mfn) {
        if self.logging {
            self.forget_table(table);
        }
    }

    #[cold]
    #[inline(never)]
    fn forget_table(&self, table: Mfn) {
        if let Some(shadow) = self.domain.shadow.lock().as_mut() {
            shadow.remove(&self.mm.host, table);
        }
        self.mm.mark_dirty_of(self.domain, table);
    }

    /// One of the hypervisor's entries of a root table was written.
    pub(super) fn hypervisor_entry_changed(&self, root: Mfn, slot: usize, entry: u64) {
        if self.logging
            && let Some(shadow) = self.domain.shadow.lock().as_ref()
            && let Some(frame) = shadow.get(root).and_then(|table| self.frame(table))
        {
            frame.store(slot, entry);
        }
    }

    /// What CR3 is to point to for a base pointer that is about to hold a root, which
    /// counts as its user until [`Self::release_root`].
    ///
    /// # Errors
    /// `NoMemory`
    #[inline]
    pub(super) fn acquire_root(&self, root: Mfn) -> Result<Mfn> {
        if self.logging {
            self.acquire_shadow_root(root)
        } else {
            Ok(root)
        }
    }

    #[cold]
    #[inline(never)]
    fn acquire_shadow_root(&self, root: Mfn) -> Result<Mfn> {
        let mut shadow = self.domain.shadow.lock();
        let shadow = shadow.as_mut().ok_or(Error::NoMemory)?;
        let host = &self.mm.host;
        if shadow.get_or_make(host, root, Level::L4).is_none() {
            shadow.drop_all(host);
            shadow.get_or_make(host, root, Level::L4);
        }
        let used = shadow.used.get_mut(&root).ok_or(Error::NoMemory)?;
        used.users = used.users.saturating_add(1);
        Ok(used.table)
    }

    /// A base pointer does not hold the root any more.
    #[inline]
    pub(super) fn release_root(&self, root: Mfn) {
        if self.logging
            && let Some(shadow) = self.domain.shadow.lock().as_mut()
            && let Some(used) = shadow.used.get_mut(&root)
        {
            used.users = used.users.saturating_sub(1);
        }
    }

    /// What CR3 points to for a root that a base pointer holds.
    #[inline]
    pub(super) fn hardware_root(&self, root: Mfn) -> Mfn {
        if !self.logging {
            return root;
        }
        let shadow = self.domain.shadow.lock();
        let table = shadow.as_ref().and_then(|shadow| shadow.get(root));
        debug_assert!(table.is_some(), "a root in use without a shadow");
        table.unwrap_or(root)
    }

    /// Lets no write through unnoticed any more. TLBs are flushed.
    pub(super) fn revoke(&self) {
        if !self.logging {
            return;
        }
        if let Some(shadow) = self.domain.shadow.lock().as_ref() {
            shadow.revoke(&self.mm.host);
        }
        fence(Ordering::SeqCst);
        self.mm.host.flush_since(self.mm.host.clock());
    }

    /// Walks the guest's own tables. Without a leaf, `None`.
    fn walk(&self, root: Mfn, address: GuestVirtual) -> Option<Walk> {
        let mut walk = [(root, 0, Pte::EMPTY); 4];
        let mut table = root;
        for (step, level) in walk.iter_mut().zip(LEVELS) {
            let slot = address.table_index(level as u32);
            let entry = Pte(self.frame(table)?.load(slot));
            if !entry.is_present() {
                return None;
            }
            *step = (table, slot, entry);
            table = entry.mfn();
        }
        Some(walk)
    }

    /// Sets bits of an entry of the guest's, as a CPU does.
    fn note(&self, (table, slot, entry): (Mfn, usize, Pte), bits: u64) {
        if entry.0 & bits != bits
            && let Some(frame) = self.frame(table)
        {
            frame.replace_bits(slot, bits, bits);
            self.mm.mark_dirty_of(self.domain, table);
        }
    }

    fn fault(&self, root: Mfn, address: GuestVirtual, access: Access) -> ShadowFault {
        if !self.logging || !address_ok(address) {
            return ShadowFault::Guest { present: true };
        }
        let Some(walk) = self.walk(root, address) else {
            return ShadowFault::Guest { present: false };
        };
        let all = walk.iter().fold(u64::MAX, |all, step| all & step.2.0);
        let any = walk.iter().fold(0, |any, step| any | step.2.0);
        if (access.write && all & Pte::RW == 0)
            || (access.user && all & Pte::USER == 0)
            || (access.fetch && any & Pte::NX != 0)
        {
            return ShadowFault::Guest { present: true };
        }
        self.domain.count_fault();
        let [above @ .., leaf] = walk;
        above
            .into_iter()
            .for_each(|step| self.note(step, Pte::ACCESSED));
        let noted = match access.write {
            true => Pte::ACCESSED_DIRTY,
            false => Pte::ACCESSED,
        };
        self.note(leaf, noted);
        let mut entry = leaf.2.with(noted);
        if access.write {
            self.mm.mark_dirty_of(self.domain, entry.mfn());
        }
        let writable = entry.is_writable()
            && entry.has(Pte::DIRTY)
            && (access.write || self.mm.needs_no_mark(self.domain, entry.mfn()));
        if !writable {
            entry = Pte(entry.0 & !Pte::RW);
        }
        let entry = entry.with(Pte::ACCESSED_DIRTY);
        let mut shadow = self.domain.shadow.lock();
        let done = shadow.as_mut().is_some_and(|shadow| {
            self.enter(shadow, &walk, entry) || {
                shadow.drop_all(&self.mm.host);
                self.enter(shadow, &walk, entry)
            }
        });
        if !done {
            // The pool has its least size, so this cannot be; the guest, at least, is not hung.
            log::error!("{}: no shadow for {address}", self.domain.id());
            return ShadowFault::Guest { present: true };
        }
        ShadowFault::Fixed
    }

    /// Puts a leaf, and what leads to it, into the shadows. `false` if a frame was lacking.
    fn enter(&self, shadow: &mut Shadow, walk: &Walk, leaf: Pte) -> bool {
        let host = &self.mm.host;
        // The root is in use.
        let mut table = shadow.get(walk[0].0);
        for ((step, next), level) in walk.iter().zip(&walk[1..]).zip(&LEVELS[1..]) {
            let below = shadow.get_or_make(host, next.0, *level);
            let (Some(frame), Some(below)) = (table.and_then(|t| host.frame(t)), below) else {
                return false;
            };
            let entry = Pte::new(below, step.2.with(Pte::ACCESSED).flags());
            if frame.load(step.1) != entry.0 {
                frame.store(step.1, entry.0);
            }
            table = Some(below);
        }
        let Some(frame) = table.and_then(|table| host.frame(table)) else {
            return false;
        };
        frame.store(walk[3].1, leaf.0);
        true
    }
}

/// How many frames a domain needs at the least for shadows.
fn least(vcpus: usize) -> usize {
    LEAST.saturating_add(LEAST_PER_VCPU.saturating_mul(vcpus))
}

impl<H: MmHost> Mm<H> {
    /// Logs from now on what a domain writes. Its virtual CPUs do not run, and run
    /// again only on what [`Self::acquire_roots`] gives for each of them.
    ///
    /// # Errors
    /// `Invalid` if that is so already, or the domain is dying; `NoMemory`.
    pub fn start_log(&self, domain: &DomainMemory, vcpus: usize) -> Result<()> {
        if domain.is_logging() || domain.is_dying() {
            return Err(Error::Invalid);
        }
        let log = self.new_log(domain)?;
        let least = least(vcpus);
        let pages = usize::try_from(domain.total_pages()).unwrap_or(usize::MAX);
        let wanted = least.saturating_add((pages / 128).min(MOST_UNASKED));
        self.start_log_with(domain, log, wanted, least)
    }

    fn start_log_with(
        &self,
        domain: &DomainMemory,
        log: DirtyLog,
        wanted: usize,
        least: usize,
    ) -> Result<()> {
        let _tables = self.lock(domain);
        let mut shadow = domain.shadow.lock();
        let frames = shadow.get_or_insert_default();
        if frames.grow(&self.host, wanted).is_err() && frames.total() < least {
            if let Some(frames) = shadow.take() {
                frames.free_all(&self.host);
            }
            return Err(Error::NoMemory);
        }
        *domain.log.write() = Some(log);
        self.logs.fetch_add(1, Ordering::SeqCst);
        domain.logging.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Ends the log, and gives back the memory of the shadows, also of such as are only
    /// allocated. The domain's virtual CPUs do not run, and run again only on their own
    /// roots. Without a log there is nothing to be done.
    pub fn end_log(&self, domain: &DomainMemory) {
        let _tables = self.lock(domain);
        if domain.logging.swap(false, Ordering::SeqCst) {
            self.logs.fetch_sub(1, Ordering::SeqCst);
        }
        *domain.log.write() = None;
        let shadow = domain.shadow.lock().take();
        if let Some(shadow) = shadow {
            shadow.free_all(&self.host);
        }
    }

    /// What CR3 is to point to for a virtual CPU of a domain whose log was just started.
    ///
    /// # Errors
    /// `NoMemory`
    pub fn acquire_roots(
        &self,
        domain: &DomainMemory,
        vcpu: &VcpuPageTables,
    ) -> Result<HardwareRoots> {
        let tables = self.lock(domain);
        let acquire = |root: Mfn| tables.acquire_root(root);
        Ok(HardwareRoots {
            kernel: vcpu.kernel().map(acquire).transpose()?,
            user: vcpu.user().map(acquire).transpose()?,
        })
    }

    /// What CR3 is to point to for a virtual CPU.
    pub fn hardware_roots(&self, domain: &DomainMemory, vcpu: &VcpuPageTables) -> HardwareRoots {
        let tables = self.lock(domain);
        let root = |root: Mfn| tables.hardware_root(root);
        HardwareRoots {
            kernel: vcpu.kernel().map(root),
            user: vcpu.user().map(root),
        }
    }

    /// Frames that a domain has for shadows.
    pub fn shadow_frames(&self, domain: &DomainMemory) -> usize {
        domain.shadow.lock().as_ref().map_or(0, Shadow::total)
    }

    /// Changes how many frames a domain has for shadows; not to fewer than it needs.
    ///
    /// # Errors
    /// `Invalid` for none, while there is a log; `NoMemory`: then there are as many more as
    /// there was memory for.
    pub fn set_shadow_frames(
        &self,
        domain: &DomainMemory,
        vcpus: usize,
        frames: usize,
    ) -> Result<()> {
        let tables = self.lock(domain);
        let mut shadow = domain.shadow.lock();
        if tables.logging && frames == 0 {
            return Err(Error::Invalid);
        }
        if frames == 0 || domain.is_dying() {
            if let Some(shadow) = shadow.take_if(|_| !tables.logging) {
                shadow.free_all(&self.host);
            }
            return Ok(());
        }
        let frames = frames.max(least(vcpus));
        let shadow = shadow.get_or_insert_default();
        shadow.shrink(&self.host, frames);
        shadow.grow(&self.host, frames)
    }

    /// A page fault of a virtual CPU that runs on the shadow of `root`, which one of its
    /// base pointers holds; or of the hypervisor that acts for it. `wait` is called while
    /// another CPU has the lock.
    pub fn shadow_fault(
        &self,
        domain: &DomainMemory,
        root: Mfn,
        address: GuestVirtual,
        access: Access,
        wait: impl Fn(),
    ) -> ShadowFault {
        self.lock_patiently(domain, wait)
            .fault(root, address, access)
    }
}
