//! Work of a CPU before it returns to a guest, and the timers.
//!
//! Interrupt handlers only note what is to be done ([`percpu::SoftIrq`]); it is
//! done here, on the way out, with interrupts on and no lock held.

use core::sync::atomic::{AtomicU32, Ordering};

use overcast_core::error::Result;
use overcast_core::ids::{CpuId, DomainId, MAX_CPUS, VcpuId};
use overcast_core::timer::TimerQueue;
use spin::{Lazy, Mutex};
use xen_abi::sched::SHUTDOWN_WATCHDOG;
use xen_abi::xen::{VIRQ_CON_RING, VIRQ_TIMER};

use crate::arch::percpu::{self, PerCpu, SoftIrq};
use crate::arch::registers::Registers;
use crate::arch::{apic, console};
use crate::domain::{self, Domain};
use crate::host::Host;
use crate::vcpu::Vcpu;
use crate::{schedule, time};

/// What a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Timer {
    /// A vCPU's one-shot timer.
    OneShot,
    /// A vCPU's periodic timer.
    Periodic,
    /// The end of a wait in `SCHEDOP_poll`.
    Poll,
    /// A domain's watchdog; the number is in the vCPU's place.
    Watchdog,
    /// A task's (see [`crate::io`]); its number is in the vCPU's place.
    Io,
}

/// A timer in a CPU's queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Token {
    kind: Timer,
    domain: DomainId,
    vcpu: VcpuId,
}

/// The queues of all CPUs. Taken with interrupts on, never two at once.
static QUEUES: Lazy<alloc::vec::Vec<Mutex<TimerQueue<Token>>>> = Lazy::new(|| {
    (0..MAX_CPUS)
        .map(|_| Mutex::new(TimerQueue::with_capacity(8)))
        .collect()
});

/// On which CPU's queue a timer is, by its owner.
#[derive(Default)]
pub struct Places([AtomicU32; 4]);

const NO_PLACE: u32 = 0;
/// Timers that a vCPU has, its part of the domain's watchdogs among them.
const TIMERS_OF_VCPU: usize = 5;

impl Places {
    fn of(&self, kind: Timer) -> &AtomicU32 {
        &self.0[kind as usize]
    }
}

/// Does what waits on this CPU. `regs` is the guest frame, which changes if
/// another vCPU is to run.
pub fn run(regs: &mut Registers) {
    let this = percpu::this();
    let bits = this.softirqs.swap(0, Ordering::AcqRel);
    let is = |softirq: SoftIrq| bits & softirq as u32 != 0;
    if is(SoftIrq::Stop) {
        crate::shutdown::stop_this_cpu();
    }
    if is(SoftIrq::Timer) {
        expire(this.cpu);
    }
    if is(SoftIrq::Console) {
        console::process_input();
    }
    if is(SoftIrq::Log) {
        domain::send_global_virq(VIRQ_CON_RING);
    }
    if is(SoftIrq::Io) {
        crate::io::run_waiting();
    }
    if is(SoftIrq::Schedule) {
        schedule::schedule(regs);
    }
    if is(SoftIrq::Refresh) {
        schedule::refresh(regs);
    }
}

/// Fires the timers of this CPU that are due.
fn expire(cpu: CpuId) {
    // Whether it fired or not: it is set again below.
    percpu::this().timer_at.set(u64::MAX);
    let now = time::now();
    loop {
        let expired = QUEUES[cpu.0 as usize].lock().pop_expired(now);
        let Some((token, deadline)) = expired else {
            break;
        };
        fire(token, deadline, now);
    }
    if now >= percpu::this().run_until.get() {
        percpu::this().raise(SoftIrq::Schedule);
    }
    program(cpu);
}

fn fire(token: Token, deadline: u64, now: u64) {
    if token.kind == Timer::Watchdog {
        if let Some(domain) = domain::find(token.domain) {
            log::error!("{}: watchdog {} was not fed", domain.id, token.vcpu);
            domain::shutdown(&domain, SHUTDOWN_WATCHDOG);
        }
        return;
    }
    if token.kind == Timer::Io {
        crate::io::timer_fired(token.vcpu.0);
        return;
    }
    let Some(domain) = domain::find(token.domain) else {
        return;
    };
    let Some(vcpu) = domain.vcpu(token.vcpu) else {
        return;
    };
    match token.kind {
        Timer::OneShot => domain.events.send_virq(&Host, VIRQ_TIMER, vcpu.id),
        Timer::Periodic => {
            let period = vcpu.timers.period.load(Ordering::Relaxed);
            if period == 0 {
                return;
            }
            domain.events.send_virq(&Host, VIRQ_TIMER, vcpu.id);
            // Ticks that were missed are not made up for.
            let missed = now.saturating_sub(deadline) / period + 1;
            let next = deadline.saturating_add(missed.saturating_mul(period));
            set_vcpu_timer(Timer::Periodic, vcpu, next);
        }
        Timer::Poll => {
            domain.events.poll_end(vcpu.id);
            schedule::wake_poller(vcpu);
        }
        Timer::Watchdog | Timer::Io => {}
    }
}

/// Programs this CPU's hardware timer for whatever comes first. A timer that is set for an
/// earlier time stays, for guests put their ticks off and on again whenever they sleep, and each
/// write to the timer is an exit to the first layer, which costs more than to let it fire in
/// vain. One that is overdue does not stay: should its interrupt have been lost, it comes now.
pub fn program(cpu: CpuId) {
    let next = QUEUES[cpu.0 as usize]
        .lock()
        .next_deadline()
        .unwrap_or(u64::MAX);
    let this = percpu::this();
    let deadline = next.min(this.run_until.get());
    if deadline == u64::MAX {
        return;
    }
    let set = this.timer_at.get();
    if deadline < set || set <= time::now() {
        this.timer_at.set(deadline);
        apic::set_timer(deadline);
    }
}

/// Puts a timer into this CPU's queue, taking it out of another's.
fn set(token: Token, place: &AtomicU32, deadline: u64) {
    let cpu = percpu::this().cpu;
    let old = place.swap(cpu.0 + 1, Ordering::AcqRel);
    if old != NO_PLACE && old != cpu.0 + 1 {
        QUEUES[old as usize - 1].lock().cancel(token);
    }
    if QUEUES[cpu.0 as usize].lock().set(token, deadline).is_err() {
        log::error!("no memory for a timer");
    }
    program(cpu);
    if deadline <= time::now() {
        // It fires before the guest goes on.
        percpu::this().raise(SoftIrq::Timer);
    }
}

fn cancel(token: Token, place: &AtomicU32) {
    let old = place.swap(NO_PLACE, Ordering::AcqRel);
    if old != NO_PLACE {
        QUEUES[old as usize - 1].lock().cancel(token);
    }
}

fn vcpu_token(kind: Timer, vcpu: &Vcpu) -> Token {
    Token {
        kind,
        domain: vcpu.domain().id,
        vcpu: vcpu.id,
    }
}

/// Sets a timer of a vCPU, ns of system time.
pub fn set_vcpu_timer(kind: Timer, vcpu: &Vcpu, deadline: u64) {
    set(
        vcpu_token(kind, vcpu),
        vcpu.timers.places.of(kind),
        deadline,
    );
}

/// Stops a timer of a vCPU.
pub fn cancel_vcpu_timer(kind: Timer, vcpu: &Vcpu) {
    cancel(vcpu_token(kind, vcpu), vcpu.timers.places.of(kind));
}

/// Sets or stops a watchdog of a domain.
pub fn set_watchdog(domain: &Domain, index: u32, deadline: Option<u64>) {
    let token = Token {
        kind: Timer::Watchdog,
        domain: domain.id,
        vcpu: VcpuId(index),
    };
    let Some(place) = domain.watchdog_places.get(index as usize) else {
        return;
    };
    match deadline {
        Some(deadline) => set(token, place, deadline),
        None => cancel(token, place),
    }
}

fn io_token(number: u16) -> Token {
    Token {
        kind: Timer::Io,
        domain: DomainId::XEN,
        vcpu: VcpuId(number.into()),
    }
}

/// Sets the timer of a task, ns of system time.
pub fn set_io_timer(number: u16, place: &AtomicU32, deadline: u64) {
    set(io_token(number), place, deadline);
}

/// Stops the timer of a task.
pub fn cancel_io_timer(number: u16, place: &AtomicU32) {
    cancel(io_token(number), place);
}

/// Makes room for more timers, on whichever CPU they may be set; for none on an error.
fn reserve(timers: usize) -> Result<()> {
    for (done, cpu) in percpu::all().enumerate() {
        if let Err(error) = QUEUES[cpu.cpu.0 as usize].lock().reserve(timers) {
            unreserve(percpu::all().take(done), timers);
            return Err(error);
        }
    }
    Ok(())
}

fn unreserve(cpus: impl Iterator<Item = &'static PerCpu>, timers: usize) {
    for cpu in cpus {
        QUEUES[cpu.cpu.0 as usize].lock().unreserve(timers);
    }
}

/// Makes room for the timer of one more task.
pub fn reserve_io_timer() -> Result<()> {
    reserve(1)
}

/// Takes back [`reserve_io_timer`].
pub fn unreserve_io_timer() {
    unreserve(percpu::all(), 1);
}

/// Makes room for the timers of one more vCPU. Half of its domain's watchdogs count as
/// its own.
pub fn reserve_timers() -> Result<()> {
    reserve(TIMERS_OF_VCPU)
}

/// Takes back [`reserve_timers`].
pub fn unreserve_timers() {
    unreserve(percpu::all(), TIMERS_OF_VCPU);
}

/// Stops all timers of a vCPU that does not run any more.
pub fn cancel_all(vcpu: &Vcpu) {
    vcpu.timers.period.store(0, Ordering::Relaxed);
    for kind in [Timer::OneShot, Timer::Periodic, Timer::Poll] {
        cancel_vcpu_timer(kind, vcpu);
    }
}

/// Prints the timers of every CPU.
pub fn dump() {
    for cpu in percpu::all() {
        let next = QUEUES[cpu.cpu.0 as usize].lock().next_deadline();
        log::info!(
            "CPU{}: next timer {next:?}, slice ends {}",
            cpu.cpu,
            cpu.run_until.get()
        );
    }
}
