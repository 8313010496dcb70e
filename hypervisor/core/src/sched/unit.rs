//! One vCPU, as the scheduler sees it.

use core::sync::atomic::{AtomicU32, Ordering};

use spin::Mutex;

use super::CREDIT;
use crate::ids::{CpuId, CpuSet};

/// The weight that a unit has unless something else is chosen.
pub const DEFAULT_WEIGHT: u32 = 256;
/// The greatest weight.
pub const MAX_WEIGHT: u32 = 65535;

/// Over how long a cap holds, in ns.
const CAP_PERIOD: u64 = 10_000_000;
/// The most time that is charged at once, in ns. A unit that ran alone for
/// long owes nobody anything.
const MOST_CHARGED: u64 = 1_000_000_000;

/// A vCPU. `T` is what the machine wants to know of it.
#[derive(Debug)]
pub struct Unit<T> {
    payload: T,
    home: AtomicU32,
    pub(super) state: Mutex<UnitState>,
}

/// Protected by the lock of the home's queue; see [`super`].
#[derive(Debug)]
pub(super) struct UnitState {
    /// It has something to do.
    pub runnable: bool,
    pub paused: u32,
    pub removed: bool,
    /// It is in its home's queue.
    pub queued: bool,
    /// The CPU that it runs on or leaves.
    pub running_on: Option<CpuId>,
    pub yielded: bool,
    /// It was woken, and did not run since.
    pub woken: bool,
    /// It was woken with credit left: it comes before all that computed.
    pub boosted: bool,
    pub affinity: CpuSet,
    pub weight: u32,
    pub credit: i64,
    /// How many times its home's queue gave new credit, as far as it was counted.
    pub epoch: u64,
    /// When it began to run.
    pub started: u64,
    /// Up to when its running was charged.
    pub accounted: u64,
    /// When it last came to another CPU.
    pub migrated: u64,
    /// How long it ran in all.
    pub runtime: u64,
    /// Most ns that it may run in a period; 0: no limit.
    cap: u64,
    period: u64,
    used: u64,
}

impl<T> Unit<T> {
    pub(super) fn new(payload: T, weight: u32, affinity: CpuSet, home: CpuId) -> Self {
        Self {
            payload,
            home: AtomicU32::new(home.0),
            state: Mutex::new(UnitState {
                runnable: false,
                paused: 0,
                removed: false,
                queued: false,
                running_on: None,
                yielded: false,
                woken: false,
                boosted: false,
                affinity,
                weight,
                credit: CREDIT,
                epoch: 0,
                started: 0,
                accounted: 0,
                migrated: 0,
                runtime: 0,
                cap: 0,
                period: 0,
                used: 0,
            }),
        }
    }

    /// What the machine wanted to know.
    pub fn payload(&self) -> &T {
        &self.payload
    }

    /// The CPU that it runs on, or ran on last, or waits for.
    pub fn home(&self) -> CpuId {
        CpuId(self.home.load(Ordering::Acquire))
    }

    pub(super) fn set_home(&self, cpu: CpuId) {
        self.home.store(cpu.0, Ordering::Release);
    }

    /// Whether it runs, or its registers are not yet saved. Once it is paused
    /// and this is false, it does not run until it is unpaused.
    pub fn is_running(&self) -> bool {
        self.state.lock().running_on.is_some()
    }

    /// For how long it ran in all, in ns, up to when it last stopped or was last charged.
    pub fn runtime(&self) -> u64 {
        self.state.lock().runtime
    }

    /// The CPUs that it may run on.
    pub fn affinity(&self) -> CpuSet {
        self.state.lock().affinity
    }

    /// Its weight.
    pub fn weight(&self) -> u32 {
        self.state.lock().weight
    }
}

impl UnitState {
    /// Whether it may run at all.
    pub fn eligible(&self) -> bool {
        self.runnable && self.paused == 0 && !self.removed
    }

    /// Whether it should wait in a queue, and does not.
    pub fn must_be_queued(&self) -> bool {
        self.eligible() && !self.queued && self.running_on.is_none()
    }

    /// Whether it neither waits, nor should, nor runs.
    pub fn sleeps(&self) -> bool {
        !self.eligible() && !self.queued && self.running_on.is_none()
    }

    /// By what the waiting ones are ordered: the credit, and a boost.
    pub fn priority(&self) -> i64 {
        if self.boosted {
            self.credit.saturating_add(CREDIT)
        } else {
            self.credit
        }
    }

    /// Charges it for running up to `now`.
    pub fn account(&mut self, now: u64) {
        let ran = now.saturating_sub(self.accounted);
        self.accounted = self.accounted.max(now);
        self.runtime = self.runtime.saturating_add(ran);
        let charged = ran.min(MOST_CHARGED);
        let burnt = charged * u64::from(DEFAULT_WEIGHT) / u64::from(self.weight.max(1));
        self.credit = self.credit.saturating_sub(burnt as i64);
        self.renew_cap(now);
        if self.cap != 0 {
            self.used = self.used.saturating_add(charged);
        }
    }

    /// Gives it the credit that its queue gave to all since it was last there.
    pub fn renew(&mut self, epoch: u64) {
        let missed = epoch.saturating_sub(self.epoch).min(1 << 20) as i64;
        self.credit = self
            .credit
            .saturating_add(missed.saturating_mul(CREDIT))
            .min(CREDIT);
        self.epoch = epoch;
    }

    /// A cap holds from now on: no more than a period's worth of what it ran under the last one
    /// counts against it, and nothing of what it ran without one.
    pub fn set_cap(&mut self, percent: u32) {
        self.cap = CAP_PERIOD * u64::from(percent) / 100;
        self.used = self.used.min(self.cap);
    }

    pub fn is_capped(&self) -> bool {
        self.cap != 0
    }

    /// Begins a new period if the last one is over; what it ran too long counts against the new one.
    pub fn renew_cap(&mut self, now: u64) {
        let periods = now.saturating_sub(self.period) / CAP_PERIOD;
        if periods != 0 {
            self.period += periods * CAP_PERIOD;
            self.used = self.used.saturating_sub(self.cap.saturating_mul(periods));
        }
    }

    /// Whether it has used up its time of this period.
    pub fn throttled(&mut self, now: u64) -> bool {
        self.renew_cap(now);
        self.cap != 0 && self.used >= self.cap
    }

    /// When its next period begins.
    pub fn release(&self) -> u64 {
        self.period.saturating_add(CAP_PERIOD)
    }

    /// How long it may run before its cap stops it.
    pub fn budget(&self) -> u64 {
        if self.cap == 0 {
            u64::MAX
        } else {
            self.cap.saturating_sub(self.used)
        }
    }

    /// How long it runs until it has burnt `credit`, in ns.
    pub fn time_to_burn(&self, credit: i64) -> u64 {
        let credit = u64::try_from(credit).unwrap_or(0);
        credit.saturating_mul(self.weight.into()) / u64::from(DEFAULT_WEIGHT)
    }
}
