//! Running vCPUs on CPUs: the scheduler's decisions carried out, blocking and
//! waking, and the switch from one vCPU to another.
//!
//! # Invariants
//!
//! - A vCPU's registers are either on one CPU (`running_on` says which), or
//!   whole in memory; `Scheduler::context_saved` is called only in the second case.
//! - A waker first makes visible what it wakes for (a pending event), then looks
//!   at `blocked`; a vCPU that blocks first sets `blocked`, then looks for events.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use overcast_core::error::{Error, Result};
use overcast_core::ids::{CpuId, CpuSet, MAX_CPUS};
use overcast_core::machine::Memory;
use overcast_core::sched::{DEFAULT_WEIGHT, Scheduler, Unit};
use spin::Lazy;
use x86_64::instructions::interrupts;
use xen_abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING};

use crate::arch::entry::{self, Segment};
use crate::arch::percpu::{self, PerCpu, SoftIrq};
use crate::arch::registers::Registers;
use crate::arch::{apic, cpu, debug, faulting, fpu, msr, paging, tlb};
use crate::domain::{Domain, Share};
use crate::pv::bounce::{self, Bounce};
use crate::pv::{descriptors, emulate};
use crate::vcpu::{self, CR0_TS, Power, Vcpu};
use crate::{printk, softirq, start, time};

/// The scheduler of the machine.
static SCHEDULER: Lazy<Scheduler<VcpuRef>> = Lazy::new(|| {
    let rate_limit = u64::from(start::options().sched_ratelimit_us) * 1000;
    Scheduler::new(MAX_CPUS, rate_limit)
});

/// A vCPU as the scheduler holds it.
///
/// It is valid as long as the vCPU's unit is in the scheduler: a domain takes
/// its units out before it goes away.
pub struct VcpuRef(*const Vcpu);

// SAFETY: a `Vcpu` may be used from every CPU.
unsafe impl Send for VcpuRef {}
// SAFETY: as above.
unsafe impl Sync for VcpuRef {}

impl VcpuRef {
    fn get(&self) -> &'static Vcpu {
        // SAFETY: see the type: valid while the scheduler knows the unit, which
        // holds at least until the CPU that got it schedules again.
        unsafe { &*self.0 }
    }
}

/// What the scheduler knows of a vCPU; `None` before [`add`].
fn unit(vcpu: &Vcpu) -> Option<&Arc<Unit<VcpuRef>>> {
    vcpu.unit.get()
}

/// Lets the scheduler use a CPU. Called on that CPU.
pub fn add_cpu(cpu: CpuId) {
    if SCHEDULER.add_cpu(cpu).is_err() {
        log::error!("CPU {cpu} cannot be scheduled on");
    }
}

/// Makes a vCPU known to the scheduler; it sleeps until it is woken.
pub fn add(vcpu: &Vcpu, affinity: CpuSet) -> Result<()> {
    softirq::reserve_timers()?;
    let unit = SCHEDULER
        .add(VcpuRef(vcpu), DEFAULT_WEIGHT, affinity)
        .inspect_err(|_| softirq::unreserve_timers())?;
    vcpu.unit.call_once(|| unit);
    Ok(())
}

/// Takes a vCPU, which is kept from running, out of the scheduler for good.
pub fn remove(vcpu: &Vcpu) {
    let Some(unit) = unit(vcpu) else { return };
    while SCHEDULER.remove(unit).is_err() {
        tlb::serve();
        core::hint::spin_loop();
    }
}

/// Gives a domain another share of the CPUs. Its cap is divided among its vCPUs. `Invalid`
/// for a weight that there is not.
pub fn set_share(domain: &Domain, share: Share) -> Result<()> {
    *domain.share.lock() = share;
    domain.vcpus().try_for_each(|vcpu| apply_share(vcpu, share))
}

/// Gives a vCPU its part of its domain's share.
pub fn apply_share(vcpu: &Vcpu, share: Share) -> Result<()> {
    let Some(unit) = unit(vcpu) else {
        return Ok(());
    };
    SCHEDULER.set_weight(unit, share.weight, time::now())?;
    let cap = share.cap.div_ceil(vcpu.domain().max_vcpus().max(1));
    if let Some(cpu) = SCHEDULER.set_cap(unit, cap) {
        raise_on(cpu, SoftIrq::Schedule);
    }
    Ok(())
}

/// Has a CPU look at its soft interrupts.
fn raise_on(cpu: CpuId, softirq: SoftIrq) {
    let Some(other) = percpu::get(cpu) else {
        return;
    };
    other.raise(softirq);
    if cpu != percpu::this().cpu {
        apic::kick(cpu);
    }
}

/// Whether nothing but its time slice keeps a vCPU from running.
fn may_run(vcpu: &Vcpu) -> bool {
    vcpu.power() == Power::Up
        && !vcpu.blocked.load(Ordering::SeqCst)
        && vcpu.pauses.load(Ordering::SeqCst) == 0
        && vcpu.domain().pauses.load(Ordering::SeqCst) == 0
        && vcpu.domain().shutdown_reason().is_none()
}

/// Lets a vCPU run if nothing keeps it from running.
pub fn wake(vcpu: &Vcpu) {
    if may_run(vcpu)
        && let Some(unit) = unit(vcpu)
        && let Some(cpu) = SCHEDULER.wake(unit, time::now())
    {
        raise_on(cpu, SoftIrq::Schedule);
    }
}

/// Takes a vCPU off its CPU, unless it may run after all.
pub fn sleep(vcpu: &Vcpu) {
    if let Some(cpu) = unit(vcpu).and_then(|unit| SCHEDULER.sleep(unit)) {
        raise_on(cpu, SoftIrq::Schedule);
    }
    // Whoever made it able to run meanwhile may have come before the line above.
    wake(vcpu);
}

/// Has a vCPU look at its events: unblocks it, or interrupts it where it runs.
pub fn kick(vcpu: &Vcpu) {
    if vcpu.blocked.swap(false, Ordering::SeqCst) {
        if vcpu.polling.swap(0, Ordering::SeqCst) != 0 {
            vcpu.domain().events.poll_end(vcpu.id);
        }
        wake(vcpu);
        return;
    }
    if let Some(cpu) = vcpu.cpu()
        && cpu != percpu::this().cpu
    {
        apic::kick(cpu);
    }
}

/// Gives the rest of the running vCPU's slice away.
pub fn yield_current() {
    if let Some(unit) = vcpu::try_current().and_then(unit) {
        SCHEDULER.yield_now(unit);
    }
    percpu::this().raise(SoftIrq::Schedule);
}

/// Blocks the running vCPU until an event comes. Events are unmasked.
pub fn block_current(vcpu: &Vcpu) {
    vcpu.info().upcall_mask.store(0, Ordering::SeqCst);
    vcpu.blocked.store(true, Ordering::SeqCst);
    if vcpu.upcall_due() {
        vcpu.blocked.store(false, Ordering::SeqCst);
        return;
    }
    sleep(vcpu);
}

/// Marks the running vCPU as waiting in `SCHEDOP_poll` for `ports` ports.
pub fn begin_poll(vcpu: &Vcpu, ports: u32) {
    // Without ports it waits for time to pass, or for any event.
    vcpu.polling.store(ports.max(1), Ordering::SeqCst);
    vcpu.blocked.store(true, Ordering::SeqCst);
}

/// The running vCPU does not wait after all.
pub fn end_poll(vcpu: &Vcpu) {
    vcpu.polling.store(0, Ordering::SeqCst);
    vcpu.blocked.store(false, Ordering::SeqCst);
}

/// Takes the running vCPU off its CPU until it is woken from its poll.
pub fn sleep_in_poll(vcpu: &Vcpu) {
    sleep(vcpu);
}

/// Wakes a vCPU from `SCHEDOP_poll`, if it waits there.
pub fn wake_poller(vcpu: &Vcpu) {
    if vcpu.polling.swap(0, Ordering::SeqCst) != 0 && vcpu.blocked.swap(false, Ordering::SeqCst) {
        wake(vcpu);
    }
}

/// Changes the CPUs that a vCPU may run on, whether it bound itself or not.
fn change_affinity(unit: &Arc<Unit<VcpuRef>>, affinity: CpuSet) -> Result<()> {
    if let Some(cpu) = SCHEDULER.set_affinity(unit, affinity, time::now())? {
        raise_on(cpu, SoftIrq::Schedule);
    }
    Ok(())
}

/// `SCHEDOP_pin_override`: binds a vCPU to one CPU (EBUSY if it is
/// bound so already, EINVAL for no such CPU); a negative number lets it go (EINVAL
/// if it was not bound).
pub fn pin_override(vcpu: &Vcpu, cpu: i32) -> Result<()> {
    let mut bound = vcpu.pin_override.lock();
    let unit = unit(vcpu).ok_or(Error::Invalid)?;
    if cpu < 0 {
        change_affinity(unit, bound.take().ok_or(Error::Invalid)?)
    } else {
        if bound.is_some() {
            return Err(Error::Busy);
        }
        let before = unit.affinity();
        change_affinity(unit, CpuSet::one(CpuId(cpu as u32)))?;
        *bound = Some(before);
        Ok(())
    }
}

/// Changes the CPUs that a vCPU may run on. EINVAL if none of them is there, EBUSY while
/// the vCPU has bound itself to one ([`pin_override`]).
pub fn set_affinity(vcpu: &Vcpu, affinity: CpuSet) -> Result<()> {
    let unit = unit(vcpu).ok_or(Error::Invalid)?;
    let bound = vcpu.pin_override.lock();
    if bound.is_some() {
        return Err(Error::Busy);
    }
    change_affinity(unit, affinity)
}

/// The CPUs that a vCPU may run on; while it has bound itself to one, those before.
pub fn affinity(vcpu: &Vcpu) -> CpuSet {
    let before = *vcpu.pin_override.lock();
    before.unwrap_or_else(|| unit(vcpu).map_or(CpuSet::EMPTY, |unit| unit.affinity()))
}

/// Whether a vCPU runs just now.
pub fn is_running(vcpu: &Vcpu) -> bool {
    unit(vcpu).is_some_and(|unit| unit.is_running())
}

/// The CPU on which a vCPU runs, or ran last, or is to run.
pub fn home(vcpu: &Vcpu) -> CpuId {
    unit(vcpu).map_or(CpuId(0), |unit| unit.home())
}

/// Keeps a domain, which is not that of the running vCPU, from running, and
/// waits until none of its vCPUs is on a CPU.
pub fn pause_domain(domain: &Domain) {
    begin_pause(domain);
    domain.vcpus().for_each(wait_until_off);
}

/// As [`pause_domain`], of any domain, and does not wait.
pub fn begin_pause(domain: &Domain) {
    domain.pauses.fetch_add(1, Ordering::SeqCst);
    domain.vcpus().for_each(sleep);
}

/// Waits until a vCPU, which is kept from running, is on no CPU.
fn wait_until_off(vcpu: &Vcpu) {
    while is_running(vcpu) {
        tlb::serve();
        core::hint::spin_loop();
    }
}

/// Keeps a vCPU, which is not the running one, from running, and waits until it is
/// on no CPU.
pub fn pause_vcpu(vcpu: &Vcpu) {
    vcpu.pauses.fetch_add(1, Ordering::SeqCst);
    sleep(vcpu);
    wait_until_off(vcpu);
}

/// Undoes one [`pause_vcpu`].
pub fn unpause_vcpu(vcpu: &Vcpu) {
    vcpu.pauses.fetch_sub(1, Ordering::SeqCst);
    wake(vcpu);
}

/// Undoes one [`pause_domain`].
pub fn unpause_domain(domain: &Domain) {
    domain.pauses.fetch_sub(1, Ordering::SeqCst);
    domain.vcpus().for_each(wake);
}

/// For how long a CPU was idle, ns.
pub fn idle_time(cpu: CpuId) -> u64 {
    let Some(cpu) = percpu::get(cpu) else {
        return 0;
    };
    let before = cpu.idle_time.load(Ordering::Relaxed);
    match cpu.idle_since.load(Ordering::Relaxed) {
        percpu::NOT_IDLE => before,
        since => before.wrapping_add(time::now().saturating_sub(since)),
    }
}

/// Accounts for the end or the beginning of idle time on this CPU.
fn account_idle(this: &PerCpu, idle: bool) {
    let now = time::now();
    let since = this
        .idle_since
        .swap(if idle { now } else { percpu::NOT_IDLE }, Ordering::Relaxed);
    if since != percpu::NOT_IDLE {
        this.idle_time
            .fetch_add(now.saturating_sub(since), Ordering::Relaxed);
    }
}

/// Waits for an interrupt. Called with interrupts off; they are on afterwards.
pub fn idle() {
    interrupts::enable_and_hlt();
}

/// Chooses what runs on this CPU and switches to it. `regs` is the guest frame.
pub fn schedule(regs: &mut Registers) {
    let this = percpu::this();
    let decision = SCHEDULER.schedule(this.cpu, time::now());
    this.run_until.set(decision.run_until);
    let previous = vcpu::try_current();
    let next = decision.next.as_ref().map(|unit| unit.payload().get());
    let same = match (previous, next) {
        (Some(previous), Some(next)) => core::ptr::eq(previous, next),
        (None, None) => true,
        _ => false,
    };
    if !decision.kick.is_empty() {
        for cpu in decision.kick.iter() {
            raise_on(cpu, SoftIrq::Schedule);
        }
    }
    if !same {
        switch(this, previous, next, regs);
    }
    if let Some(left) = decision.left
        && let Some(cpu) = SCHEDULER.context_saved(&left, time::now())
    {
        raise_on(cpu, SoftIrq::Schedule);
    }
    softirq::program(this.cpu);
}

/// Brings what the running vCPU sees up to date after something was changed.
pub fn refresh(_regs: &mut Registers) {
    if let Some(vcpu) = vcpu::try_current() {
        time::on_schedule(vcpu);
    }
}

/// The runstate of a vCPU that does not run.
fn waiting_state(vcpu: &Vcpu) -> u32 {
    if vcpu.power() != Power::Up || vcpu.pauses.load(Ordering::SeqCst) != 0 {
        RUNSTATE_OFFLINE
    } else if vcpu.blocked.load(Ordering::SeqCst) {
        RUNSTATE_BLOCKED
    } else {
        RUNSTATE_RUNNABLE
    }
}

/// Exchanges the state on this CPU.
fn switch(this: &PerCpu, previous: Option<&Vcpu>, next: Option<&Vcpu>, regs: &mut Registers) {
    if let Some(vcpu) = previous {
        time::change_runstate(vcpu, waiting_state(vcpu));
        save(vcpu, regs);
    }
    account_idle(this, next.is_none());
    this.current
        .set(next.map_or(core::ptr::null(), core::ptr::from_ref));
    if next.is_none() {
        // What the TLB knows of a guest's global pages stays, unused, until a vCPU is loaded,
        // which flushes all; who reuses a frame finds by the flush clock that it was not yet.
        // SAFETY: the idle tables show all of the hypervisor.
        unsafe { tlb::write_cr3(paging::idle_l4()) };
    }
    // The tables of `previous` are still loaded if `next` is a vCPU, so they must
    // not go away before `load` has switched; nobody destroys them until the
    // vCPU's CPU is seen to be NOWHERE.
    if let Some(vcpu) = next {
        vcpu.running_on.store(this.cpu.0, Ordering::SeqCst);
        load(vcpu, regs);
    }
    if let Some(vcpu) = previous {
        vcpu.running_on.store(Vcpu::NOWHERE, Ordering::SeqCst);
    }
    if let Some(vcpu) = next {
        time::change_runstate(vcpu, RUNSTATE_RUNNING);
        time::on_schedule(vcpu);
    }
}

/// Saves the state of the vCPU that ran.
fn save(vcpu: &Vcpu, regs: &Registers) {
    // SAFETY: the vCPU ran on this CPU, so its registers are ours to set.
    unsafe { *vcpu.saved_registers() = *regs };
    for (to, segment) in vcpu.selectors.iter().zip(SEGMENTS) {
        to.set(descriptors::read_segment(segment));
    }
    vcpu.fs_base.set(descriptors::read_base(Segment::Fs));
    let active = descriptors::read_base(Segment::Gs);
    let shadow = descriptors::read_shadow_gs_base();
    let (kernel, user) = if vcpu.kernel_mode.get() {
        (active, shadow)
    } else {
        (shadow, active)
    };
    vcpu.gs_base_kernel.set(kernel);
    vcpu.gs_base_user.set(user);
    debug::unload(vcpu);
    fpu::clear_ts();
    vcpu.fpu.save();
}

const SEGMENTS: [Segment; 4] = [Segment::Ds, Segment::Es, Segment::Fs, Segment::Gs];

/// Loads the state of the vCPU that is to run.
fn load(vcpu: &Vcpu, regs: &mut Registers) {
    // SAFETY: the scheduler gave the vCPU to this CPU alone.
    *regs = unsafe { *vcpu.saved_registers() };
    // SAFETY: only bits that guests may choose differ from the CPU's own setting.
    unsafe { cpu::write_cr4(emulate::machine_cr4(vcpu)) };
    let root = overcast_core::addr::Mfn(vcpu.cr3() >> 12);
    // SAFETY: the vCPU holds references to its tables, which were validated.
    unsafe { tlb::write_cr3_and_flush(root) };
    descriptors::load_tables(vcpu);

    let mut good = true;
    for (from, segment) in vcpu.selectors.iter().zip(SEGMENTS) {
        if !entry::load_segment(segment, from.get()) {
            entry::load_segment(segment, 0);
            good = false;
        }
    }
    let (active, shadow) = if vcpu.kernel_mode.get() {
        (vcpu.gs_base_kernel.get(), vcpu.gs_base_user.get())
    } else {
        (vcpu.gs_base_user.get(), vcpu.gs_base_kernel.get())
    };
    descriptors::write_base(Segment::Fs, vcpu.fs_base.get());
    descriptors::write_base(Segment::Gs, active);
    descriptors::write_shadow_gs_base(shadow);
    debug::load(vcpu);
    fpu::clear_ts();
    vcpu.fpu.load();
    if vcpu.cr0.get() & CR0_TS != 0 {
        fpu::set_ts();
    }
    load_msrs(vcpu);
    if !good {
        failsafe(vcpu, regs);
    }
    debug_assert!(crate::host::Host.frame(root).is_some());
}

/// Loads the MSRs that vCPUs have of their own.
fn load_msrs(vcpu: &Vcpu) {
    const TSC_AUX: u32 = 0xc000_0103;
    let msrs = vcpu.msrs.get();
    let features = cpu::features();
    let aux = Some(msrs.tsc_aux);
    if features.rdtscp && percpu::this().tsc_aux.replace(aux) != aux {
        // SAFETY: the register is the guest's.
        unsafe { msr::write(TSC_AUX, msrs.tsc_aux.into()) };
    }
    // Where it can be, user space's CPUID is answered by the domain's policy.
    let domain = vcpu.domain();
    faulting::set(
        !domain.privileged
            || start::options().dom0_cpuid_faulting
            || msrs.misc_features_enables & 1 != 0,
    );
}

/// A selector of the vCPU could not be loaded: its failsafe callback gets to know
/// which they were.
fn failsafe(vcpu: &Vcpu, regs: &mut Registers) {
    let callback = vcpu.failsafe.get();
    let bounce = Bounce {
        address: callback.address,
        error_code: None,
        mask_events: callback.mask_events,
        segments: Some([0, 1, 2, 3].map(|n: usize| vcpu.selectors[n].get())),
    };
    bounce::deliver(vcpu, regs, &bounce);
}

/// Prints the run queues.
pub fn dump() {
    for this in percpu::all() {
        let cpu = this.cpu;
        let name = |unit: &Arc<Unit<VcpuRef>>| {
            let vcpu = unit.payload().get();
            (vcpu.domain().id, vcpu.id)
        };
        match SCHEDULER.current(cpu) {
            Some(unit) => {
                let (domain, vcpu) = name(&unit);
                printk!(
                    "CPU{cpu}: runs {domain}v{vcpu}, {} wait",
                    SCHEDULER.waiting(cpu)
                );
            }
            None => printk!("CPU{cpu}: idle {}", SCHEDULER.is_idle(cpu)),
        }
        for (unit, credit) in SCHEDULER.listing(cpu) {
            let (domain, vcpu) = name(&unit);
            printk!(
                "  {domain}v{vcpu}: credit {credit}, weight {}",
                unit.weight()
            );
        }
    }
}
