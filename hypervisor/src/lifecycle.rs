//! The beginning and the end of domains other than Dom0.
//!
//! A domain is made paused and without vCPUs and memory ([`create`]); a toolstack gives it
//! these, and lets it run. It dies in two steps:
//!
//! - [`kill`] takes from it all that it has, in pieces, each of which is done once: its
//!   vCPUs leave the CPUs for good; its mappings of others' grants, its timers, descriptor
//!   tables and base pointers go, then its event channels, then its pages. Then it is *dead*.
//! - Pages that others still use (by grants, or because a control domain maps them) keep
//!   the dead domain's number and its [`Domain`]. With the last of them the reaper, a task,
//!   forgets the domain; only then its number can be given out again.
//!
//! # Invariants
//!
//! - What changes a domain as a whole holds [`control`]: one CPU at a time makes, changes
//!   or kills domains. Nobody waits for it: who does not get it makes the hypercall again.
//! - A vCPU's pointer to its domain is good as long as the vCPU can run: [`kill`] waits until
//!   its vCPUs are on no CPU, and takes them out of the scheduler, before anything is freed.
//! - The frames of `shared_info` and of the grant table are the hypervisor's own. They are
//!   freed with the [`Domain`], when no page of it is left, so nobody can reach them.
//! - A number is forgotten by the memory code ([`Mm::forget_domain`]) only when nobody else
//!   holds the [`Domain`], so that no operation that is under way meets its successor's pages.
//!
//! [`Mm::forget_domain`]: overcast_core::mm::Mm::forget_domain

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use overcast_core::addr::Mfn;
use overcast_core::cpuid::CpuidPolicy;
use overcast_core::domctl::{CreateLimits, DomainIds, NewDomain};
use overcast_core::error::{Error, Result};
use overcast_core::event::EventChannels;
use overcast_core::grant::GrantTable;
use overcast_core::ids::{CpuSet, DomainId, VcpuId};
use overcast_core::machine::{Preempt, Tlb};
use overcast_core::mm::{DomainMemory, MmHost};
use spin::{Mutex, MutexGuard, Once};
use xen_abi::domctl::DomctlCreatedomain;
use xen_abi::xen::VIRQ_DOM_EXC;

use crate::domain::{self, Domain, Life, Parts};
use crate::host::{self, Host, mm};
use crate::io::{self, Progress, Task};
use crate::pv::descriptors;
use crate::vcpu::{Power, Vcpu};
use crate::{dom0, grants, hypercall, log_dirty, schedule, softirq, time};

/// How long the reaper waits for whoever still holds a domain, ns.
const PATIENCE: u64 = 1_000_000;

/// Held while domains are made, changed or killed.
pub struct Control {
    ids: DomainIds,
}

static CONTROL: Mutex<Control> = Mutex::new(Control {
    ids: DomainIds::new(),
});

/// The right to make, change or kill domains. `Restart` if another CPU has it.
pub fn control() -> Result<MutexGuard<'static, Control>> {
    CONTROL.try_lock().ok_or(Error::Restart)
}

/// The dead whose pages are not all gone, or whom somebody holds.
static DEAD: Mutex<Vec<Arc<Domain>>> = Mutex::new(Vec::new());
static REAPER: Once<Task> = Once::new();

/// Makes the reaper.
pub fn init() {
    if REAPER.try_call_once(|| Task::new(reap)).is_err() {
        log::error!("no memory for the reaper of domains");
    }
}

/// Tells who wants to know that a domain shut down, died or was forgotten.
pub fn announce() {
    domain::send_global_virq(VIRQ_DOM_EXC);
}

/// Work that is small enough to be done at once.
struct Patient;

impl Preempt for Patient {
    fn preempt_pending(&self) -> bool {
        false
    }
}

/// What the machine lets a new domain have.
fn limits() -> CreateLimits {
    CreateLimits {
        max_vcpus: domain::MAX_VCPUS,
        grants: grants::limits(),
    }
}

/// Makes a domain, with the number that is wanted if that is one of an ordinary domain.
/// `Exists` if that is taken; what is wrong with the configuration; `NoMemory`.
pub fn create(
    control: &mut Control,
    wanted: DomainId,
    config: &DomctlCreatedomain,
) -> Result<DomainId> {
    let id = control.ids.choose(wanted, |id| {
        mm().domain(id).is_none() && domain::find(id).is_none()
    })?;
    let new = NewDomain::check(config, &limits())?;
    let cpu_policy = dom0::guest_policy().map_err(|lacks| {
        log::warn!("{id} is not made: {lacks}");
        Error::NotSupported
    })?;
    let memory = mm().create_domain(id, false, 0)?;
    match assemble(&memory, &new, cpu_policy) {
        Ok(domain) => {
            // Until a control domain lets it run.
            domain.pause_by_controller()?;
            time::write_wall_clock(&domain);
            domain::insert(domain);
            Ok(id)
        }
        Err(error) => {
            memory.set_dying();
            let _ = mm().relinquish(&memory, &Patient);
            if let Err(error) = mm().forget_domain(id) {
                log::error!("{id}: what is left of it cannot be forgotten: {error:?}");
            }
            Err(error)
        }
    }
}

/// Frames that are freed unless they are [kept](Self::keep).
struct Frames(Vec<Mfn>);

impl Frames {
    fn allocate(count: usize) -> Result<Self> {
        let mut frames = Self(Vec::new());
        frames.0.try_reserve(count).map_err(|_| Error::NoMemory)?;
        for _ in 0..count {
            let (mfn, stamp) = host::allocate(0, None).ok_or(Error::NoMemory)?;
            Host.flush_since(stamp);
            frames.0.push(mfn);
        }
        Ok(frames)
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        for mfn in self.0.drain(..) {
            Host.free_frames(mfn, 0, Host.clock());
        }
    }
}

/// Makes the domain around its memory. On an error nothing is left but pages that were
/// shared with it, which the memory still lists.
fn assemble(
    memory: &Arc<DomainMemory>,
    new: &NewDomain,
    cpu_policy: CpuidPolicy,
) -> Result<Arc<Domain>> {
    let id = memory.id();
    let frames = Frames::allocate(2)?;
    let [shared_info, spare_info] = frames.0[..] else {
        return Err(Error::NoMemory);
    };
    let events = EventChannels::new(id, new.max_vcpus, Some(shared_info), new.max_port)?;
    let unshare = |mfn: Mfn| {
        let _ = mm().unshare_page(memory, mfn);
    };
    mm().share_page(memory, shared_info, true)?;
    let grants: Arc<GrantTable> =
        grants::create(id, new.grants).inspect_err(|_| unshare(shared_info))?;
    frames.keep();
    Ok(Domain::new(Parts {
        id,
        privileged: false,
        store: new.store,
        handle: new.handle,
        mm: memory.clone(),
        events,
        grants,
        shared_info,
        spare_info,
        cpu_policy,
        max_vcpus: new.max_vcpus,
        relaxed_msrs: new.relaxed_msrs,
        emulation_flags: new.emulation_flags,
    }))
}

/// Makes all vCPUs that a domain may have, as far as they are not there. `NoMemory`.
pub fn make_vcpus(domain: &Arc<Domain>) -> Result<()> {
    let share = *domain.share.lock();
    for id in (0..domain.max_vcpus()).map(VcpuId) {
        let vcpu = match domain.vcpu(id) {
            Some(vcpu) => vcpu,
            None => domain.add_vcpu(id).ok_or(Error::NoMemory)?,
        };
        if vcpu.unit.get().is_none() {
            schedule::add(vcpu, CpuSet::ALL)?;
            schedule::apply_share(vcpu, share)?;
        }
    }
    Ok(())
}

/// Takes everything from a domain. `Restart` when preempted: to be called again.
pub fn kill(domain: &Arc<Domain>, preempt: &dyn Preempt) -> Result<()> {
    match domain.life_stage() {
        Life::Dead => return Ok(()),
        Life::Dying => {}
        Life::Alive => {
            // Never undone.
            schedule::pause_domain(domain);
            domain.set_life_stage(Life::Dying);
            domain.mm.set_dying();
            domain.grants.set_dying();
            log_dirty::end(domain);
        }
    }
    domain.grants.release_mappings(&Host, preempt)?;
    domain
        .vcpus()
        .try_for_each(|vcpu| release_vcpu(vcpu, preempt))?;
    (0..2).for_each(|index| softirq::set_watchdog(domain, index, None));
    domain.events.destroy(&Host, preempt)?;
    mm().relinquish(&domain.mm, preempt)?;
    domain::clear_virq_handlers(domain);
    domain.set_life_stage(Life::Dead);
    DEAD.lock().push(domain.clone());
    announce();
    raise_reaper();
    Ok(())
}

/// Takes everything from a vCPU of a dying domain. To do so again has no effect.
fn release_vcpu(vcpu: &Vcpu, preempt: &dyn Preempt) -> Result<()> {
    softirq::cancel_all(vcpu);
    let domain = vcpu.domain();
    domain.events.poll_end(vcpu.id);
    drop_tables(vcpu, preempt)?;
    domain.reset_vcpu_info(vcpu);
    schedule::remove(vcpu);
    Ok(())
}

/// Takes a vCPU's descriptor tables and base pointers away; it does not run meanwhile.
/// `Restart` when preempted.
fn drop_tables(vcpu: &Vcpu, preempt: &dyn Preempt) -> Result<()> {
    descriptors::drop_ldt_pages(vcpu);
    vcpu.ldt.set((0, 0));
    hypercall::install_gdt(vcpu, &vcpu.domain().mm, &[], 0)?;
    mm().release_tables(&vcpu.domain().mm, &mut vcpu.tables.lock(), preempt)?;
    vcpu.set_kernel_base(None, None);
    vcpu.set_user_base(None, None);
    Ok(())
}

/// Puts a vCPU of another domain, which is paused, back into the state that it was made in
/// (`XEN_DOMCTL_setvcpucontext` without a context). `Restart` when preempted.
pub fn reset_vcpu(vcpu: &Vcpu, preempt: &dyn Preempt) -> Result<()> {
    // First of all: it does not run between two parts of this, with tables that are gone.
    vcpu.set_power(Power::Uninitialised);
    drop_tables(vcpu, preempt)?;
    vcpu.domain().events.poll_end(vcpu.id);
    vcpu.polling.store(0, Ordering::SeqCst);
    vcpu.blocked.store(false, Ordering::SeqCst);
    vcpu.fpu.reset();
    let _ = schedule::pin_override(vcpu, -1);
    Ok(())
}

/// Has the reaper look at the dead soon. In any context, with any lock held.
pub fn raise_reaper() {
    if let Some(reaper) = REAPER.get() {
        reaper.raise();
    }
}

/// Forgets the dead of whom nothing is left.
fn reap() -> Progress {
    let mut forgotten = Vec::new();
    let mut held = false;
    {
        let mut dead = DEAD.lock();
        let mut index = 0;
        while let Some(domain) = dead.get(index) {
            if !domain.mm.has_no_pages() {
                // The last of its pages raises this task again.
                index += 1;
                continue;
            }
            // Nobody finds it any more; whoever has found it lets go of it soon.
            domain::remove(domain.id);
            if Arc::strong_count(domain) != 1 || forgotten.try_reserve(1).is_err() {
                held = true;
                index += 1;
                continue;
            }
            forgotten.push(dead.swap_remove(index));
        }
    }
    if held && let Some(reaper) = REAPER.get() {
        io::raise_at(reaper.id(), time::now().saturating_add(PATIENCE));
    }
    let any = !forgotten.is_empty();
    for domain in forgotten {
        let id = domain.id;
        drop(domain);
        if let Err(error) = mm().forget_domain(id) {
            log::error!("{id}: what is left of it cannot be forgotten: {error:?}");
        }
    }
    if any {
        announce();
    }
    Progress::Done
}

/// How many domains are dead and not forgotten.
pub fn dead_count() -> usize {
    DEAD.lock().len()
}
