//! The scheduler: which vCPU runs on which CPU, and for how long.
//!
//! It is of the family of Xen's credit2. A *unit* (a vCPU) burns credit while
//! it runs, the slower the greater its weight; of those that wait on a CPU, the
//! one with the most credit runs next; when that one has none left, all get new
//! credit. A unit that slept has kept its credit, so it comes before those that
//! computed meanwhile. Each CPU has its own queue. A waking unit goes to an idle
//! CPU if its affinity allows one, else to where it was; an idle CPU takes
//! waiting units from others; a unit whose time is up goes to a CPU that has less to do.
//!
//! This is pure logic: the machine calls [`Scheduler::schedule`] when a CPU is
//! kicked, when its timer says so, and when its unit sleeps or yields; it
//! switches to what it is told, and says [`Scheduler::context_saved`] as soon as
//! the registers of the unit that it left are in memory.
//!
//! # Invariants
//!
//! - A unit is in one of four places: *asleep* (or paused), *waiting* in the
//!   queue of its home CPU, *running* there, or *leaving*: the CPU has decided
//!   for another but has not yet saved it. Only a waiting unit is picked, so it never runs on two CPUs.
//! - A unit that is woken while it runs or leaves is remembered as runnable:
//!   whichever of `schedule` and `context_saved` comes next sees it. No wake-up is lost.
//! - A CPU marks itself idle before it looks for work elsewhere, and a waker
//!   queues a unit before it looks for an idle CPU: one of the two sees the other.
//! - A CPU that decides kicks the idle ones that may run what still waits with it:
//!   one that waited for this CPU to become free, or for its cap's next period, may have been overtaken.
//!
//! # Locks
//!
//! One for each queue. It protects the queue and the state of the units whose
//! home it is; a unit changes its home only with both queues' locks held, taken
//! in the order of the CPUs' numbers. A unit's own lock is taken only with its
//! home's queue locked, and so is never waited for. No other lock is taken inside.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use spin::{Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::ids::{CpuId, CpuSet, MAX_CPUS};

mod queue;
#[cfg(test)]
mod tests;
mod unit;

use queue::RunQueue;
use unit::UnitState;
pub use unit::{DEFAULT_WEIGHT, MAX_WEIGHT, Unit};

/// Credit that a unit gets at most, in ns of running at [`DEFAULT_WEIGHT`].
const CREDIT: i64 = 10_000_000;
/// The most debt that a unit keeps which ran while nobody waited, in the same unit.
const MOST_DEBT: i64 = 20_000_000;
/// Longest time that a unit runs while another waits, in ns.
const LONGEST_SLICE: u64 = 10_000_000;
/// Shortest time for which a unit is chosen while another waits, in ns.
const SHORTEST_SLICE: u64 = 2_000_000;
/// How long a unit stays on a CPU before it is moved for fairness alone, in ns.
const MIGRATION_REST: u64 = 20_000_000;
/// No time: the CPU needs no timer.
pub const NEVER: u64 = u64::MAX;

/// What a CPU is to do.
#[derive(Debug)]
pub struct Decision<T> {
    /// Run this unit; `None`: be idle.
    pub next: Option<Arc<Unit<T>>>,
    /// The unit that it ran, if that is not `next`: save it, then call [`Scheduler::context_saved`].
    pub left: Option<Arc<Unit<T>>>,
    /// System time in ns at which to call `schedule` again, or [`NEVER`].
    pub run_until: u64,
    /// Idle CPUs to kick: they may take what waits here.
    pub kick: CpuSet,
}

struct CpuQueue<T> {
    queue: Mutex<RunQueue<T>>,
    /// Weights of what runs and waits here.
    load: AtomicU64,
    /// How many wait here.
    waiting: AtomicU32,
}

/// The scheduler of all CPUs. `T` is what the machine wants to know of a unit.
pub struct Scheduler<T> {
    cpus: Box<[CpuQueue<T>]>,
    online: [AtomicU64; MAX_CPUS / 64],
    idle: [AtomicU64; MAX_CPUS / 64],
    /// One more than the highest CPU that ever was online.
    end: AtomicU32,
    units: AtomicU32,
    /// In ns.
    rate_limit: u64,
}

impl<T> Scheduler<T> {
    /// A scheduler for at most `cpus` CPUs, none of which is there yet. Once it
    /// runs, a unit is not preempted for `rate_limit` ns (Xen: 1 ms).
    pub fn new(cpus: usize, rate_limit: u64) -> Self {
        Self {
            cpus: (0..cpus.min(MAX_CPUS))
                .map(|_| CpuQueue {
                    queue: Mutex::new(RunQueue::new()),
                    load: AtomicU64::new(0),
                    waiting: AtomicU32::new(0),
                })
                .collect(),
            online: [const { AtomicU64::new(0) }; MAX_CPUS / 64],
            idle: [const { AtomicU64::new(0) }; MAX_CPUS / 64],
            end: AtomicU32::new(0),
            units: AtomicU32::new(0),
            rate_limit,
        }
    }

    /// Lets units run on a CPU, which is to call `schedule` soon.
    ///
    /// # Errors
    ///
    /// `Invalid` if there is no queue for it.
    pub fn add_cpu(&self, cpu: CpuId) -> Result<()> {
        self.cpu(cpu).ok_or(Error::Invalid)?;
        self.end
            .fetch_max(cpu.0.saturating_add(1), Ordering::SeqCst);
        set_bit(&self.online, cpu);
        Ok(())
    }

    /// A new unit, asleep, which may run on the CPUs of `affinity`.
    ///
    /// # Errors
    ///
    /// `Invalid` if none of those is there, or the weight is 0; `NoMemory`.
    pub fn add(&self, payload: T, weight: u32, affinity: CpuSet) -> Result<Arc<Unit<T>>> {
        let weight = check_weight(weight)?;
        let home = self
            .allowed(&affinity)
            .min_by_key(|cpu| self.load(*cpu))
            .ok_or(Error::Invalid)?;
        // Room in each queue, so that a wake-up never needs memory.
        let units = self.units.fetch_add(1, Ordering::AcqRel) as usize + 1;
        for cpu in &self.cpus {
            if cpu.queue.lock().reserve(units).is_err() {
                self.units.fetch_sub(1, Ordering::AcqRel);
                return Err(Error::NoMemory);
            }
        }
        Ok(Arc::new(Unit::new(payload, weight, affinity, home)))
    }

    /// Takes a unit out for good. Wakes of it have no effect any more.
    ///
    /// # Errors
    ///
    /// `Busy` if it runs or leaves: it is to be paused, and its CPU kicked, first.
    pub fn remove(&self, unit: &Arc<Unit<T>>) -> Result<()> {
        let (cpu, mut queue) = self.lock_home(unit);
        let mut state = unit.state.lock();
        if state.running_on.is_some() {
            return Err(Error::Busy);
        }
        self.unqueue(cpu, &mut queue, unit, &mut state);
        if !state.removed {
            state.removed = true;
            self.units.fetch_sub(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// The unit has something to do. Gives the CPU to kick, if one is to.
    pub fn wake(&self, unit: &Arc<Unit<T>>, now: u64) -> Option<CpuId> {
        {
            let (_, queue) = self.lock_home(unit);
            let mut state = unit.state.lock();
            if state.runnable {
                return None;
            }
            state.runnable = true;
            state.woken = !queue.is_current(unit);
        }
        self.place(unit, now, false)
    }

    /// The unit has nothing to do until it is woken. Gives the CPU to kick if it runs there.
    pub fn sleep(&self, unit: &Arc<Unit<T>>) -> Option<CpuId> {
        self.stop(unit, |state| state.runnable = false)
    }

    /// The unit must not run until it is unpaused as often as it was paused.
    /// Gives the CPU to kick if it runs there; see [`Unit::is_running`].
    pub fn pause(&self, unit: &Arc<Unit<T>>) -> Option<CpuId> {
        self.stop(unit, |state| state.paused = state.paused.saturating_add(1))
    }

    /// Undoes one `pause`. Gives the CPU to kick, if one is to.
    pub fn unpause(&self, unit: &Arc<Unit<T>>, now: u64) -> Option<CpuId> {
        {
            let (_, _queue) = self.lock_home(unit);
            let mut state = unit.state.lock();
            state.paused = state.paused.saturating_sub(1);
        }
        self.place(unit, now, false)
    }

    /// The unit, which runs, lets others go first. Its CPU is to call `schedule`.
    pub fn yield_now(&self, unit: &Arc<Unit<T>>) {
        let (_, _queue) = self.lock_home(unit);
        unit.state.lock().yielded = true;
    }

    /// Changes the CPUs that a unit may run on. Gives the CPU to kick, if one is to.
    ///
    /// # Errors
    ///
    /// `Invalid` if none of them is there; nothing changes then.
    pub fn set_affinity(
        &self,
        unit: &Arc<Unit<T>>,
        affinity: CpuSet,
        now: u64,
    ) -> Result<Option<CpuId>> {
        if self.allowed(&affinity).next().is_none() {
            return Err(Error::Invalid);
        }
        {
            let (cpu, mut queue) = self.lock_home(unit);
            let mut state = unit.state.lock();
            state.affinity = affinity;
            if affinity.contains(cpu) {
                // An idle CPU that is allowed now may take it.
                return Ok(self.idle_in(&affinity).filter(|_| state.queued));
            }
            if let Some(running_on) = state.running_on {
                return Ok(Some(running_on));
            }
            self.unqueue(cpu, &mut queue, unit, &mut state);
        }
        Ok(self.place(unit, now, false))
    }

    /// Changes a unit's weight.
    ///
    /// # Errors
    ///
    /// `Invalid` if it is 0 or above [`MAX_WEIGHT`].
    pub fn set_weight(&self, unit: &Arc<Unit<T>>, weight: u32, now: u64) -> Result<()> {
        let weight = check_weight(weight)?;
        let (cpu, queue) = self.lock_home(unit);
        let mut state = unit.state.lock();
        let running = queue.is_current(unit);
        if running {
            state.account(now);
        }
        if running || state.queued {
            self.unload(cpu, state.weight);
            self.add_load(cpu, weight);
        }
        state.weight = weight;
        Ok(())
    }

    /// Limits a unit to `percent` of a CPU's time; 0: no limit. Gives the CPU
    /// to kick, if one is to.
    pub fn set_cap(&self, unit: &Arc<Unit<T>>, percent: u32) -> Option<CpuId> {
        let (cpu, mut queue) = self.lock_home(unit);
        let mut state = unit.state.lock();
        state.set_cap(percent);
        queue.note_cap(unit, state.is_capped());
        (state.queued || queue.is_current(unit)).then_some(cpu)
    }

    /// Decides what `cpu` does from `now` on. To be called by that CPU alone.
    pub fn schedule(&self, cpu: CpuId, now: u64) -> Decision<T> {
        let Some(this) = self.cpu(cpu) else {
            return Decision {
                next: None,
                left: None,
                run_until: NEVER,
                kick: CpuSet::EMPTY,
            };
        };
        let mut queue = this.queue.lock();
        let previous = queue.current.take();
        let mut left = None;
        let mut previous_credit = None;
        if let Some(unit) = previous {
            let mut state = unit.state.lock();
            state.account(now);
            let yielded = core::mem::take(&mut state.yielded);
            let may_stay =
                state.eligible() && state.affinity.contains(cpu) && !state.throttled(now);
            let limited_until = state.started.saturating_add(self.rate_limit);
            let best = queue.best(now);
            let stays = may_stay
                && best.is_none_or(|(_, credit)| {
                    !yielded && (now < limited_until || state.credit >= credit)
                });
            if stays {
                let held = best.is_some_and(|(_, credit)| state.credit < credit);
                drop(state);
                queue.current = Some(unit.clone());
                queue.run_until = if held {
                    limited_until.min(queue.next_release(now))
                } else {
                    queue.renew_if_spent(&unit);
                    queue.slice_end(&unit, None, now)
                };
                clear_bit(&self.idle, cpu);
                return Decision {
                    run_until: queue.run_until,
                    next: Some(unit),
                    left: None,
                    kick: self.takers(&queue, now),
                };
            }
            if may_stay {
                previous_credit = Some(state.credit);
            }
            self.unload(cpu, state.weight);
            drop(state);
            left = Some(unit);
        }

        if let Some((index, _)) = queue.best(now) {
            let next = self.start(cpu, &mut queue, index, now, previous_credit);
            clear_bit(&self.idle, cpu);
            return Decision {
                run_until: queue.run_until,
                next: Some(next),
                left,
                kick: self.takers(&queue, now),
            };
        }

        // Idle, and marked so before the others' queues are looked at.
        queue.run_until = queue.next_release(now);
        set_bit(&self.idle, cpu);
        let run_until = queue.run_until;
        drop(queue);
        match self.steal(cpu, now) {
            Some((next, run_until, kick)) => Decision {
                next: Some(next),
                left,
                run_until,
                kick,
            },
            None => Decision {
                next: None,
                left,
                run_until,
                kick: CpuSet::EMPTY,
            },
        }
    }

    /// The unit that a CPU left is saved, and may run elsewhere. Gives the CPU
    /// to kick, if one is to.
    pub fn context_saved(&self, unit: &Arc<Unit<T>>, now: u64) -> Option<CpuId> {
        {
            let (_, queue) = self.lock_home(unit);
            if queue.is_current(unit) {
                debug_assert!(false, "a unit is saved while it runs");
                return None;
            }
            unit.state.lock().running_on = None;
        }
        self.place(unit, now, true)
    }

    /// What runs on a CPU (for the debug keys).
    pub fn current(&self, cpu: CpuId) -> Option<Arc<Unit<T>>> {
        self.cpu(cpu)?.queue.lock().current.clone()
    }

    /// How many units wait on a CPU (for the debug keys).
    pub fn waiting(&self, cpu: CpuId) -> u32 {
        self.cpu(cpu)
            .map_or(0, |cpu| cpu.waiting.load(Ordering::Relaxed))
    }

    /// What waits on a CPU and its priority, the next first (for the debug keys).
    pub fn listing(&self, cpu: CpuId) -> Vec<(Arc<Unit<T>>, i64)> {
        self.cpu(cpu)
            .map_or_else(Vec::new, |cpu| cpu.queue.lock().listing())
    }

    /// Whether a CPU is idle, and was not kicked for a unit.
    pub fn is_idle(&self, cpu: CpuId) -> bool {
        test_bit(&self.idle, cpu)
    }

    fn cpu(&self, cpu: CpuId) -> Option<&CpuQueue<T>> {
        self.cpus.get(cpu.0 as usize)
    }

    fn load(&self, cpu: CpuId) -> u64 {
        self.cpu(cpu)
            .map_or(u64::MAX, |cpu| cpu.load.load(Ordering::Relaxed))
    }

    /// The CPUs of a set that are there.
    fn allowed<'a>(&'a self, affinity: &'a CpuSet) -> impl Iterator<Item = CpuId> + 'a {
        (0..self.cpus.len() as u32)
            .map(CpuId)
            .filter(|&cpu| affinity.contains(cpu) && test_bit(&self.online, cpu))
    }

    /// Locks the queue of the unit's home.
    fn lock_home<'a>(&'a self, unit: &Unit<T>) -> (CpuId, MutexGuard<'a, RunQueue<T>>) {
        loop {
            let home = unit.home();
            // A home is a CPU of this scheduler: `add` and `place` see to it.
            let queue = self.cpus[home.0 as usize].queue.lock();
            if unit.home() == home {
                return (home, queue);
            }
        }
    }

    fn stop(&self, unit: &Arc<Unit<T>>, change: impl FnOnce(&mut UnitState)) -> Option<CpuId> {
        let (cpu, mut queue) = self.lock_home(unit);
        let mut state = unit.state.lock();
        change(&mut state);
        self.unqueue(cpu, &mut queue, unit, &mut state);
        (queue.is_current(unit)).then_some(cpu)
    }

    fn unqueue(
        &self,
        cpu: CpuId,
        queue: &mut RunQueue<T>,
        unit: &Arc<Unit<T>>,
        state: &mut UnitState,
    ) {
        if state.queued && queue.take(unit) {
            state.queued = false;
            self.unload(cpu, state.weight);
            self.count_waiting(cpu, queue);
        }
    }

    fn add_load(&self, cpu: CpuId, weight: u32) {
        if let Some(cpu) = self.cpu(cpu) {
            cpu.load.fetch_add(weight.into(), Ordering::Relaxed);
        }
    }

    fn unload(&self, cpu: CpuId, weight: u32) {
        if let Some(cpu) = self.cpu(cpu) {
            cpu.load.fetch_sub(weight.into(), Ordering::Relaxed);
        }
    }

    fn count_waiting(&self, cpu: CpuId, queue: &RunQueue<T>) {
        if let Some(cpu) = self.cpu(cpu) {
            // Ordered before the look at `idle`, see `steal`.
            cpu.waiting.store(queue.len() as u32, Ordering::SeqCst);
        }
    }

    /// Runs `f` with the queues of two CPUs locked; the second is `None` if
    /// they are the same.
    fn with_two<R>(
        &self,
        a: CpuId,
        b: CpuId,
        f: impl FnOnce(&mut RunQueue<T>, Option<&mut RunQueue<T>>) -> R,
    ) -> R {
        let lock = |cpu: CpuId| self.cpus[cpu.0 as usize].queue.lock();
        match a.cmp(&b) {
            core::cmp::Ordering::Equal => f(&mut lock(a), None),
            core::cmp::Ordering::Less => {
                let mut first = lock(a);
                f(&mut first, Some(&mut lock(b)))
            }
            core::cmp::Ordering::Greater => {
                let mut second = lock(b);
                f(&mut lock(a), Some(&mut second))
            }
        }
    }

    /// Queues a unit if it is to wait for a CPU and does not yet. Gives the
    /// CPU to kick. `preempted`: it comes from a CPU that took another.
    /// A unit that sleeps gets another home if it may not run where it was, so that
    /// who asks sees a CPU of its affinity (as with Xen).
    fn place(&self, unit: &Arc<Unit<T>>, now: u64, preempted: bool) -> Option<CpuId> {
        loop {
            let (home, target, claimed) = {
                let (home, mut queue) = self.lock_home(unit);
                let mut state = unit.state.lock();
                if !state.must_be_queued() {
                    let homeless = state.sleeps() && !state.affinity.contains(home);
                    drop(state);
                    drop(queue);
                    if homeless {
                        self.find_home(unit, home);
                    }
                    return None;
                }
                let (target, claimed) = self.choose(home, &state, now, preempted);
                if target == home {
                    let kick = self.enqueue(home, &mut queue, unit, &mut state, now);
                    return if claimed { Some(home) } else { kick };
                }
                (home, target, claimed)
            };
            let done = self.with_two(home, target, |from, to| {
                let Some(to) = to else {
                    return Some(None);
                };
                if unit.home() == home {
                    let mut state = unit.state.lock();
                    if state.must_be_queued() && state.affinity.contains(target) {
                        state.renew(from.epoch);
                        state.epoch = to.epoch;
                        state.migrated = now;
                        unit.set_home(target);
                        return Some(self.enqueue(target, to, unit, &mut state, now));
                    }
                }
                // Someone else placed it meanwhile, or it may not run there.
                if claimed && to.current.is_none() {
                    set_bit(&self.idle, target);
                }
                None
            });
            match done {
                Some(kick) => return if claimed { Some(target) } else { kick },
                // The kick of the CPU that was claimed in vain lets it look
                // for what others did not give it meanwhile.
                None if claimed => return self.place(unit, now, preempted).or(Some(target)),
                None => {}
            }
        }
    }

    /// Gives a unit that sleeps a home that it may run on. One that woke up meanwhile was
    /// placed by who woke it, and stays there.
    fn find_home(&self, unit: &Unit<T>, home: CpuId) {
        let affinity = unit.affinity();
        let least = self.allowed(&affinity).min_by_key(|&cpu| self.load(cpu));
        let Some(target) = least else {
            return;
        };
        self.with_two(home, target, |from, to| {
            let Some(to) = to else {
                return;
            };
            let mut state = unit.state.lock();
            if unit.home() == home && state.sleeps() && state.affinity.contains(target) {
                state.renew(from.epoch);
                state.epoch = to.epoch;
                unit.set_home(target);
            }
        });
    }

    /// Where a unit is to wait, and whether that is an idle CPU, which is
    /// thereby not idle any more.
    fn choose(&self, home: CpuId, state: &UnitState, now: u64, preempted: bool) -> (CpuId, bool) {
        let home_allowed = state.affinity.contains(home) && test_bit(&self.online, home);
        if home_allowed && clear_bit(&self.idle, home) {
            return (home, true);
        }
        for (number, idle) in self.idle.iter().enumerate() {
            let wanted = state.affinity.words()[number];
            let mut word = idle.load(Ordering::SeqCst) & wanted;
            while word != 0 {
                let cpu = CpuId(number as u32 * 64 + word.trailing_zeros());
                if clear_bit(&self.idle, cpu) {
                    return (cpu, true);
                }
                word &= word - 1;
            }
        }
        // At a draw the next one in a circle, so that all have their turn.
        let count = self.cpus.len() as u32;
        let least = self
            .allowed(&state.affinity)
            .filter(|&cpu| cpu != home)
            .map(|cpu| (self.load(cpu), (cpu.0 + count - home.0) % count, cpu))
            .min()
            .map(|(load, _, cpu)| (load, cpu));
        match least {
            Some((_, cpu)) if !home_allowed => (cpu, false),
            Some((load, cpu)) => {
                let here = self.load(home);
                let rested = now.saturating_sub(state.migrated) >= MIGRATION_REST;
                let moves = if preempted {
                    // At a draw, units take turns on the shorter queue.
                    load < here || (load == here && rested)
                } else {
                    load.saturating_add(u64::from(state.weight)) <= here
                };
                (if moves { cpu } else { home }, false)
            }
            None => (home, false),
        }
    }

    fn enqueue(
        &self,
        cpu: CpuId,
        queue: &mut RunQueue<T>,
        unit: &Arc<Unit<T>>,
        state: &mut UnitState,
        now: u64,
    ) -> Option<CpuId> {
        queue.account_current(now);
        state.renew(queue.epoch);
        state.boosted = core::mem::take(&mut state.woken) && state.credit > 0;
        state.queued = true;
        queue.insert(unit.clone(), state);
        self.add_load(cpu, state.weight);
        self.count_waiting(cpu, queue);
        if state.throttled(now) {
            // Nobody can run it yet; its CPU is to look when somebody can.
            return (state.release() < queue.run_until).then_some(cpu);
        }
        // A CPU that runs alone has set no timer; it is told to set one.
        let kick = queue.run_until == NEVER || queue.current_yields_to(state.priority());
        if kick {
            return Some(cpu);
        }
        // A CPU may have become idle after it was looked for: it either sees
        // this unit, or is seen here.
        self.idle_in(&state.affinity)
    }

    /// Idle CPUs that may run a unit of a queue at once. All of them: one of them
    /// may have something of its own to run just now, without being marked busy yet.
    fn takers(&self, queue: &RunQueue<T>, now: u64) -> CpuSet {
        if queue.len() == 0 {
            return CpuSet::EMPTY;
        }
        let idle = CpuSet::from_words(core::array::from_fn(|number| {
            self.idle[number].load(Ordering::SeqCst)
        }));
        if idle.is_empty() {
            return idle;
        }
        queue.takers(&idle, now)
    }

    /// An idle CPU of a set.
    fn idle_in(&self, affinity: &CpuSet) -> Option<CpuId> {
        self.idle
            .iter()
            .zip(affinity.words())
            .zip(0u32..)
            .find_map(|((idle, wanted), number)| {
                let word = idle.load(Ordering::SeqCst) & wanted;
                (word != 0).then(|| CpuId(number * 64 + word.trailing_zeros()))
            })
    }

    /// Makes the waiting unit at `index` the one that runs.
    fn start(
        &self,
        cpu: CpuId,
        queue: &mut RunQueue<T>,
        index: usize,
        now: u64,
        rival: Option<i64>,
    ) -> Arc<Unit<T>> {
        let unit = queue.remove(index);
        {
            let mut state = unit.state.lock();
            state.queued = false;
            state.boosted = false;
            state.running_on = Some(cpu);
            state.started = now;
            state.accounted = now;
            state.renew_cap(now);
        }
        self.count_waiting(cpu, queue);
        queue.current = Some(unit.clone());
        let given = queue.renew_if_spent(&unit);
        let rival = rival.map(|credit| credit.saturating_add(given).min(CREDIT));
        queue.run_until = queue.slice_end(&unit, rival, now);
        unit
    }

    /// Takes a waiting unit from another CPU. Gives it with the end of its slice
    /// and the idle CPUs to kick.
    fn steal(&self, cpu: CpuId, now: u64) -> Option<(Arc<Unit<T>>, u64, CpuSet)> {
        let count = self.end.load(Ordering::SeqCst);
        let first = cpu.0.saturating_add(1);
        for victim in (first..count).chain(0..cpu.0.min(count)).map(CpuId) {
            let waits = |queue: &CpuQueue<T>| queue.waiting.load(Ordering::SeqCst) != 0;
            if !self.cpus.get(victim.0 as usize).is_some_and(waits) {
                continue;
            }
            let taken = self.with_two(cpu, victim, |mine, theirs| {
                if let Some((index, _)) = mine.best(now) {
                    let unit = self.start(cpu, mine, index, now, None);
                    clear_bit(&self.idle, cpu);
                    return Some((unit, mine.run_until, self.takers(mine, now)));
                }
                let theirs = theirs?;
                let index = theirs.best_for(cpu, now)?;
                let unit = theirs.remove(index);
                {
                    let mut state = unit.state.lock();
                    state.renew(theirs.epoch);
                    state.epoch = mine.epoch;
                    state.migrated = now;
                    self.unload(victim, state.weight);
                    self.add_load(cpu, state.weight);
                    unit.set_home(cpu);
                    mine.insert(unit.clone(), &state);
                }
                self.count_waiting(victim, theirs);
                let (index, _) = mine.best(now)?;
                let unit = self.start(cpu, mine, index, now, None);
                clear_bit(&self.idle, cpu);
                let kick = self.takers(mine, now).union(&self.takers(theirs, now));
                Some((unit, mine.run_until, kick))
            });
            if taken.is_some() {
                return taken;
            }
        }
        None
    }
}

fn check_weight(weight: u32) -> Result<u32> {
    if (1..=MAX_WEIGHT).contains(&weight) {
        Ok(weight)
    } else {
        Err(Error::Invalid)
    }
}

type Bits = [AtomicU64; MAX_CPUS / 64];

fn set_bit(bits: &Bits, cpu: CpuId) {
    if let Some(word) = bits.get(cpu.0 as usize / 64) {
        word.fetch_or(1 << (cpu.0 % 64), Ordering::SeqCst);
    }
}

/// Clears a bit; gives whether it was set.
fn clear_bit(bits: &Bits, cpu: CpuId) -> bool {
    let mask = 1 << (cpu.0 % 64);
    bits.get(cpu.0 as usize / 64).is_some_and(|word| {
        // Most often it is clear, and the line is shared by all CPUs.
        word.load(Ordering::SeqCst) & mask != 0
            && word.fetch_and(!mask, Ordering::SeqCst) & mask != 0
    })
}

fn test_bit(bits: &Bits, cpu: CpuId) -> bool {
    bits.get(cpu.0 as usize / 64)
        .is_some_and(|word| word.load(Ordering::SeqCst) & (1 << (cpu.0 % 64)) != 0)
}
