//! What runs and what waits on one CPU.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::unit::{Unit, UnitState};
use super::{CREDIT, LONGEST_SLICE, MOST_DEBT, NEVER, SHORTEST_SLICE};
use crate::error::{Error, Result};
use crate::ids::{CpuId, CpuSet};

struct Entry<T> {
    /// The unit's priority when it came, or when credit was last given.
    credit: i64,
    capped: bool,
    unit: Arc<Unit<T>>,
}

/// Waiting units in the order of their credit, the most last; of equals, the
/// one that came first is last.
pub(super) struct RunQueue<T> {
    entries: Vec<Entry<T>>,
    pub current: Option<Arc<Unit<T>>>,
    /// When the CPU will call `schedule` by itself.
    pub run_until: u64,
    /// How many times new credit was given.
    pub epoch: u64,
}

impl<T> RunQueue<T> {
    pub fn new() -> Self {
        Self {
            entries: Vec::new(),
            current: None,
            run_until: NEVER,
            epoch: 0,
        }
    }

    pub fn reserve(&mut self, units: usize) -> Result<()> {
        let more = units.saturating_sub(self.entries.len());
        self.entries.try_reserve(more).map_err(|_| Error::NoMemory)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_current(&self, unit: &Arc<Unit<T>>) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, unit))
    }

    pub fn insert(&mut self, unit: Arc<Unit<T>>, state: &UnitState) {
        let at = self
            .entries
            .partition_point(|entry| entry.credit < state.priority());
        self.entries.insert(
            at,
            Entry {
                credit: state.priority(),
                capped: state.is_capped(),
                unit,
            },
        );
    }

    pub fn remove(&mut self, index: usize) -> Arc<Unit<T>> {
        self.entries.remove(index).unit
    }

    /// Takes a unit out; gives whether it was there.
    pub fn take(&mut self, unit: &Arc<Unit<T>>) -> bool {
        let at = self
            .entries
            .iter()
            .position(|entry| Arc::ptr_eq(&entry.unit, unit));
        if let Some(at) = at {
            self.entries.remove(at);
        }
        at.is_some()
    }

    pub fn note_cap(&mut self, unit: &Arc<Unit<T>>, capped: bool) {
        for entry in &mut self.entries {
            if Arc::ptr_eq(&entry.unit, unit) {
                entry.capped = capped;
            }
        }
    }

    fn may_run(entry: &Entry<T>, now: u64) -> bool {
        !entry.capped || !entry.unit.state.lock().throttled(now)
    }

    /// Which unit is next, and its credit.
    pub fn best(&self, now: u64) -> Option<(usize, i64)> {
        let index = self
            .entries
            .iter()
            .rposition(|entry| Self::may_run(entry, now))?;
        Some((index, self.entries[index].credit))
    }

    /// Which unit is next of those that may run on another CPU.
    pub fn best_for(&self, cpu: CpuId, now: u64) -> Option<usize> {
        self.entries.iter().rposition(|entry| {
            Self::may_run(entry, now) && entry.unit.state.lock().affinity.contains(cpu)
        })
    }

    /// Those of `idle` that may run a unit which waits here and could run at once.
    pub fn takers(&self, idle: &CpuSet, now: u64) -> CpuSet {
        self.entries
            .iter()
            .filter(|entry| Self::may_run(entry, now))
            .fold(CpuSet::EMPTY, |takers, entry| {
                takers.union(&entry.unit.state.lock().affinity.intersection(idle))
            })
    }

    /// When the first waiting unit that its cap holds back may run again.
    pub fn next_release(&self, now: u64) -> u64 {
        self.entries
            .iter()
            .filter(|entry| !Self::may_run(entry, now))
            .map(|entry| entry.unit.state.lock().release())
            .min()
            .unwrap_or(NEVER)
    }

    /// Charges what runs, before another joins the queue. If it ran alone far
    /// into debt, most of that is forgiven: nobody waited here.
    pub fn account_current(&mut self, now: u64) {
        if let Some(current) = &self.current {
            let mut state = current.state.lock();
            state.account(now);
            if self.entries.is_empty() {
                state.credit = state.credit.max(-MOST_DEBT);
            }
        }
    }

    /// Whether what runs has less credit than a unit with `credit`, or nothing runs.
    pub fn current_yields_to(&self, credit: i64) -> bool {
        self.current.as_ref().is_none_or(|current| {
            let state = current.state.lock();
            !state.eligible() || state.credit < credit
        })
    }

    /// Gives new credit to all if `unit`, which is to run and is `current`, has
    /// none left. Gives how much.
    pub fn renew_if_spent(&mut self, unit: &Arc<Unit<T>>) -> i64 {
        let credit = unit.state.lock().credit;
        if credit > 0 {
            return 0;
        }
        let times = credit.saturating_neg() / CREDIT + 1;
        self.epoch += times as u64;
        unit.state.lock().renew(self.epoch);
        for entry in &mut self.entries {
            let mut state = entry.unit.state.lock();
            state.renew(self.epoch);
            entry.credit = state.priority();
        }
        times.saturating_mul(CREDIT)
    }

    /// Until when `unit`, which runs from `now` on, may do so: until the best
    /// of the others (`rival`: the credit of one that is about to join) has more credit, within bounds.
    pub fn slice_end(&self, unit: &Arc<Unit<T>>, rival: Option<i64>, now: u64) -> u64 {
        let waiting = self.best(now).map(|(_, credit)| credit);
        let state = unit.state.lock();
        let slice = match waiting.max(rival) {
            Some(credit) => state
                .time_to_burn(state.credit.saturating_sub(credit))
                .clamp(SHORTEST_SLICE, LONGEST_SLICE),
            None => u64::MAX,
        };
        let slice = slice.min(state.budget());
        drop(state);
        now.saturating_add(slice).min(self.next_release(now))
    }

    pub fn listing(&self) -> Vec<(Arc<Unit<T>>, i64)> {
        self.entries
            .iter()
            .rev()
            .map(|entry| (entry.unit.clone(), entry.credit))
            .collect()
    }
}
