//! `mmuext_op`: pinning page tables, base pointers, flushes, the LDT; and the
//! page tables that a virtual CPU runs on.

use core::sync::atomic::Ordering;

use xen_abi::xen::{
    MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE, MMUEXT_FLUSH_CACHE, MMUEXT_FLUSH_CACHE_GLOBAL,
    MMUEXT_INVLPG_ALL, MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_MULTI, MMUEXT_MARK_SUPER,
    MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR, MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE,
    MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_SET_LDT, MMUEXT_TLB_FLUSH_ALL,
    MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_TLB_FLUSH_MULTI, MMUEXT_UNMARK_SUPER, MMUEXT_UNPIN_TABLE,
    MmuextOp,
};

use super::domain::DomainMemory;
use super::entry::Level;
use super::frames::TypeWord;
use super::leaf::PageOwner;
use super::types::{DeferredPut, Tables, Work};
use super::update::address_ok;
use super::{Mm, MmHost, MmuCaller};
use crate::addr::{GuestVirtual, Mfn, PAGE_SIZE};
use crate::error::{Error, Result};
use crate::ids::DomainId;
use crate::machine::{Never, Preempt};

/// How many entries an LDT may have.
const MAX_LDT_ENTRIES: u32 = 8192;

/// What a flush is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushWhat {
    /// All translations.
    All,
    /// Those of one linear address.
    Address(u64),
}

/// Where a flush is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushScope {
    /// On this CPU.
    Local,
    /// On all CPUs that have run the domain.
    Domain,
    /// On the CPUs of the virtual CPUs in the bitmap at this guest address.
    Vcpus(u64),
}

/// A flush that a guest asks for, of its own address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlushRequest {
    /// Of what.
    pub what: FlushWhat,
    /// Where.
    pub scope: FlushScope,
}

/// The machine's side of a virtual CPU that calls `mmuext_op`.
pub trait VcpuMachine {
    /// Runs on another root table, from now on: loads CR3 (guest in kernel
    /// mode) with `hardware`, which stands for the root, flushes what is not global, and drops the LDT's mapped pages.
    fn load_kernel_base(&mut self, root: Mfn, hardware: Mfn);

    /// The root table of user mode is another one, or none; `hardware` stands for it. It is not loaded now,
    /// as the guest is in kernel mode.
    fn set_user_base(&mut self, root: Option<Mfn>, hardware: Option<Mfn>);

    /// Takes another LDT, checked: `base` is a multiple of the page size outside
    /// the hypervisor's range; none if `entries` is 0. Nothing happens if it is
    /// the present one.
    fn set_ldt(&mut self, base: u64, entries: u32);

    /// Flushes TLBs.
    ///
    /// # Errors
    /// `Fault` if the bitmap cannot be read.
    fn flush(&mut self, request: FlushRequest) -> Result<()>;

    /// Writes back and invalidates the caches of this CPU, or of all.
    fn flush_cache(&mut self, all_cpus: bool);
}

/// The page tables that a virtual CPU runs on.
///
/// Each base pointer holds a reference to its frame, and one as a level-4 table
/// of the virtual CPU's own domain. [`Mm::release_tables`] gives them back; that
/// must be done before the value is dropped.
#[derive(Default, Debug)]
pub struct VcpuPageTables {
    kernel: Option<Mfn>,
    user: Option<Mfn>,
    /// Work that an operation of this virtual CPU left over.
    pub deferred: Option<DeferredPut>,
}

impl VcpuPageTables {
    /// No page tables.
    pub const fn new() -> Self {
        Self {
            kernel: None,
            user: None,
            deferred: None,
        }
    }

    /// The root table of kernel mode.
    pub fn kernel(&self) -> Option<Mfn> {
        self.kernel
    }

    /// The root table of user mode.
    pub fn user(&self) -> Option<Mfn> {
        self.user
    }
}

impl<H: MmHost> Tables<'_, H> {
    /// [`Self::acquire_root`] of a root to which references were just taken; on an
    /// error they are left to be given back.
    #[inline]
    fn acquire_new_root(&self, root: Mfn, work: &mut Work<'_>) -> Result<Mfn> {
        self.acquire_root(root).inspect_err(|_| {
            *work.deferred = Some(DeferredPut {
                mfn: root,
                partial: false,
            });
        })
    }
}

impl<H: MmHost> Mm<H> {
    /// Gives a virtual CPU that does not run its first page tables
    /// (`VCPUOP_initialise`, the domain builder). `tables` is that virtual CPU's.
    ///
    /// # Errors
    /// `Restart` when preempted: call again with the same arguments. `Invalid`, or
    /// what is wrong with the tables, else; it has none of them then.
    pub fn install_tables(
        &self,
        domain: &DomainMemory,
        tables: &mut VcpuPageTables,
        kernel: Mfn,
        user: Option<Mfn>,
        preempt: &dyn Preempt,
    ) -> Result<()> {
        self.finish_deferred(&mut tables.deferred, preempt)?;
        let locked = self.lock(domain);
        let mut work = Work {
            preempt,
            deferred: &mut tables.deferred,
        };
        if tables.kernel != Some(kernel) {
            if tables.kernel.is_some() {
                return Err(Error::Invalid);
            }
            locked.get_root(kernel, &mut work)?;
            locked.acquire_new_root(kernel, &mut work)?;
            tables.kernel = Some(kernel);
            locked.show_machphys(kernel, true);
        }
        if let Some(root) = user
            && tables.user != user
        {
            let result = if tables.user.is_some() {
                Err(Error::Invalid)
            } else {
                locked
                    .get_root(root, &mut work)
                    .and_then(|()| locked.acquire_new_root(root, &mut work).map(drop))
            };
            match result {
                Ok(()) => {
                    tables.user = user;
                    if domain.m2p_strict.load(Ordering::Relaxed) {
                        locked.show_machphys(root, false);
                    }
                }
                Err(Error::Restart) => return Err(Error::Restart),
                Err(error) => {
                    locked.release_root(kernel);
                    drop(locked);
                    // The bad table first, as only one can be deferred; both are
                    // finite work, and this is no path to hurry on.
                    while self.finish_deferred(&mut tables.deferred, &Never).is_err() {}
                    tables.kernel = None;
                    tables.deferred = Some(DeferredPut {
                        mfn: kernel,
                        partial: false,
                    });
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Drops the page tables of a virtual CPU that will not run again, and what
    /// it had left over.
    ///
    /// # Errors
    /// `Restart` when preempted; call again.
    pub fn release_tables(
        &self,
        domain: &DomainMemory,
        tables: &mut VcpuPageTables,
        preempt: &dyn Preempt,
    ) -> Result<()> {
        loop {
            self.finish_deferred(&mut tables.deferred, preempt)?;
            let Some(mfn) = tables.kernel.take().or_else(|| tables.user.take()) else {
                return Ok(());
            };
            self.lock(domain).release_root(mfn);
            tables.deferred = Some(DeferredPut {
                mfn,
                partial: false,
            });
        }
    }

    /// Carries out one operation of `mmuext_op` on pages of `pg_owner`; that the
    /// caller may act on it has been checked ([`Self::may_target`]).
    ///
    /// # Errors
    /// As Xen's: `NotPermitted` for flushes and base pointers of others, `Invalid`
    /// for what is no page of the owner or not as it must be, `NotSupported` for
    /// superpages, `NotImplemented` for unknown commands, `Restart` when preempted.
    pub fn mmuext_op(
        &self,
        caller: &mut MmuCaller<'_>,
        machine: &mut dyn VcpuMachine,
        pg_owner: PageOwner,
        op: MmuextOp,
    ) -> Result<()> {
        self.finish_deferred(&mut caller.tables.deferred, caller.preempt)?;
        let own = || {
            if pg_owner.id == caller.domain.id() {
                Ok(())
            } else {
                Err(Error::NotPermitted)
            }
        };
        match op.cmd {
            MMUEXT_PIN_L1_TABLE => self.pin(caller, pg_owner.id, Mfn(op.arg1), Level::L1),
            MMUEXT_PIN_L2_TABLE => self.pin(caller, pg_owner.id, Mfn(op.arg1), Level::L2),
            MMUEXT_PIN_L3_TABLE => self.pin(caller, pg_owner.id, Mfn(op.arg1), Level::L3),
            MMUEXT_PIN_L4_TABLE => self.pin(caller, pg_owner.id, Mfn(op.arg1), Level::L4),
            MMUEXT_UNPIN_TABLE => self.unpin(caller, pg_owner.id, Mfn(op.arg1)),
            MMUEXT_NEW_BASEPTR => {
                own()?;
                self.new_kernel_base(caller, machine, Mfn(op.arg1))
            }
            MMUEXT_NEW_USER_BASEPTR => {
                own()?;
                let root = (op.arg1 != 0).then_some(Mfn(op.arg1));
                self.new_user_base(caller, machine, root)
            }
            MMUEXT_TLB_FLUSH_LOCAL => {
                own()?;
                flush(machine, FlushWhat::All, FlushScope::Local)
            }
            MMUEXT_INVLPG_LOCAL => {
                own()?;
                flush_address(machine, op.arg1, FlushScope::Local)
            }
            MMUEXT_TLB_FLUSH_MULTI => {
                own()?;
                flush(machine, FlushWhat::All, FlushScope::Vcpus(op.arg2))
            }
            MMUEXT_INVLPG_MULTI => {
                own()?;
                flush_address(machine, op.arg1, FlushScope::Vcpus(op.arg2))
            }
            MMUEXT_TLB_FLUSH_ALL => {
                own()?;
                flush(machine, FlushWhat::All, FlushScope::Domain)
            }
            MMUEXT_INVLPG_ALL => {
                own()?;
                flush_address(machine, op.arg1, FlushScope::Domain)
            }
            MMUEXT_FLUSH_CACHE => {
                own()?;
                if !caller.domain.is_privileged() {
                    return Err(Error::Access);
                }
                machine.flush_cache(false);
                Ok(())
            }
            MMUEXT_FLUSH_CACHE_GLOBAL => {
                own()?;
                if !caller.domain.is_privileged() {
                    return Err(Error::Invalid);
                }
                machine.flush_cache(true);
                Ok(())
            }
            MMUEXT_SET_LDT => {
                own()?;
                let entries = op.arg2 as u32;
                let base = if entries == 0 { 0 } else { op.arg1 };
                if entries > MAX_LDT_ENTRIES
                    || !base.is_multiple_of(PAGE_SIZE as u64)
                    || !address_ok(GuestVirtual(base))
                {
                    return Err(Error::Invalid);
                }
                machine.set_ldt(base, entries);
                Ok(())
            }
            MMUEXT_CLEAR_PAGE => {
                let page = self.get_writable(Mfn(op.arg1), pg_owner.id)?;
                let frame = self.host.frame(page.mfn()).ok_or(Error::Invalid)?;
                frame.zero();
                self.mark_dirty(page.mfn());
                Ok(())
            }
            MMUEXT_COPY_PAGE => {
                let from = self
                    .get_page(Mfn(op.arg2), pg_owner.id)
                    .ok_or(Error::Invalid)?;
                let to = self.get_writable(Mfn(op.arg1), pg_owner.id)?;
                let source = self.host.frame(from.mfn()).ok_or(Error::Invalid)?;
                let target = self.host.frame(to.mfn()).ok_or(Error::Invalid)?;
                target.copy_from(source);
                self.mark_dirty(to.mfn());
                Ok(())
            }
            MMUEXT_MARK_SUPER | MMUEXT_UNMARK_SUPER => Err(Error::NotSupported),
            _ => Err(Error::NotImplemented),
        }
    }

    fn pin(
        &self,
        caller: &mut MmuCaller<'_>,
        owner: DomainId,
        mfn: Mfn,
        level: Level,
    ) -> Result<()> {
        let page = self.get_page(mfn, owner).ok_or(Error::Invalid)?;
        let info = self.frames().ram(mfn).ok_or(Error::Invalid)?;
        let other;
        let domain = if owner == caller.domain.id() {
            caller.domain
        } else {
            other = self.domain(owner).ok_or(Error::Invalid)?;
            &*other
        };
        let tables = self.lock(domain);
        let mut work = Work {
            preempt: caller.preempt,
            deferred: &mut caller.tables.deferred,
        };
        if let Err(error) = tables.get_table_type(mfn, level, &mut work) {
            if work.deferred.is_some_and(|d| d.mfn == mfn) {
                page.keep();
            }
            return Err(error);
        }
        // A dying domain's pages are not pinned any more: nobody would unpin
        // them. Both pinning and giving back happen under the tables lock.
        let dying = domain.is_dying();
        let old = if dying {
            info.type_word()
        } else {
            TypeWord(info.page_type.fetch_or(TypeWord::PINNED, Ordering::AcqRel))
        };
        page.keep();
        // Whoever moves the domain has to pin it there.
        tables.was_written(mfn);
        if !dying && !old.is_pinned() {
            return Ok(());
        }
        *work.deferred = Some(DeferredPut {
            mfn,
            partial: false,
        });
        if dying { Ok(()) } else { Err(Error::Invalid) }
    }

    fn unpin(&self, caller: &mut MmuCaller<'_>, owner: DomainId, mfn: Mfn) -> Result<()> {
        let page = self.get_page(mfn, owner).ok_or(Error::Invalid)?;
        let info = self.frames().ram(mfn).ok_or(Error::Invalid)?;
        let other;
        let domain = if owner == caller.domain.id() {
            caller.domain
        } else {
            other = self.domain(owner).ok_or(Error::Invalid)?;
            &*other
        };
        let tables = self.lock(domain);
        let old = TypeWord(
            info.page_type
                .fetch_and(!TypeWord::PINNED, Ordering::AcqRel),
        );
        if !old.is_pinned() {
            return Err(Error::Invalid);
        }
        tables.was_written(mfn);
        match tables.put_table_type(mfn, false, caller.preempt) {
            Ok(()) => self.put_page(mfn),
            // The pin's reference to the frame goes over to the rest of the work.
            Err(_) => caller.tables.deferred = Some(DeferredPut { mfn, partial: true }),
        }
        drop(tables);
        drop(page);
        Ok(())
    }

    fn new_kernel_base(
        &self,
        caller: &mut MmuCaller<'_>,
        machine: &mut dyn VcpuMachine,
        root: Mfn,
    ) -> Result<()> {
        let old = caller.tables.kernel;
        let tables = self.lock(caller.domain);
        if old == Some(root) {
            machine.load_kernel_base(root, tables.hardware_root(root));
            return Ok(());
        }
        let mut work = Work {
            preempt: caller.preempt,
            deferred: &mut caller.tables.deferred,
        };
        tables.get_root(root, &mut work)?;
        let hardware = tables.acquire_new_root(root, &mut work)?;
        tables.show_machphys(root, true);
        caller.tables.kernel = Some(root);
        // Before the old table is taken apart, nobody may run on it.
        machine.load_kernel_base(root, hardware);
        old.inspect(|&old| tables.release_root(old));
        self.put_old_base(tables, caller.preempt, &mut caller.tables.deferred, old)
    }

    fn new_user_base(
        &self,
        caller: &mut MmuCaller<'_>,
        machine: &mut dyn VcpuMachine,
        root: Option<Mfn>,
    ) -> Result<()> {
        let old = caller.tables.user;
        if old == root {
            return Ok(());
        }
        let tables = self.lock(caller.domain);
        let mut hardware = None;
        if let Some(root) = root {
            let mut work = Work {
                preempt: caller.preempt,
                deferred: &mut caller.tables.deferred,
            };
            tables.get_root(root, &mut work)?;
            hardware = Some(tables.acquire_new_root(root, &mut work)?);
            if caller.domain.m2p_strict.load(Ordering::Relaxed) {
                tables.show_machphys(root, false);
            }
        }
        caller.tables.user = root;
        machine.set_user_base(root, hardware);
        old.inspect(|&old| tables.release_root(old));
        self.put_old_base(tables, caller.preempt, &mut caller.tables.deferred, old)
    }

    /// Gives back what a base pointer held, which is a table of the caller's own.
    fn put_old_base(
        &self,
        tables: Tables<'_, H>,
        preempt: &dyn Preempt,
        deferred: &mut Option<DeferredPut>,
        old: Option<Mfn>,
    ) -> Result<()> {
        let Some(mfn) = old else { return Ok(()) };
        if tables.put_spare_root(mfn) {
            return Ok(());
        }
        let result = tables.put_table_type(mfn, false, preempt);
        drop(tables);
        match result {
            Ok(()) => self.put_page(mfn),
            Err(_) => *deferred = Some(DeferredPut { mfn, partial: true }),
        }
        result
    }
}

fn flush(machine: &mut dyn VcpuMachine, what: FlushWhat, scope: FlushScope) -> Result<()> {
    // Xen says EINVAL for a bitmap that cannot be read.
    machine
        .flush(FlushRequest { what, scope })
        .map_err(|_| Error::Invalid)
}

/// Flushes an address; one that no guest can use needs none.
fn flush_address(machine: &mut dyn VcpuMachine, address: u64, scope: FlushScope) -> Result<()> {
    if let FlushScope::Vcpus(_) = scope {
        // The bitmap is looked at in any case.
    } else if !address_ok(GuestVirtual(address)) {
        return Ok(());
    }
    flush(machine, FlushWhat::Address(address), scope)
}
