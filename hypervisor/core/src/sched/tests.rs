use super::*;
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread;
use std::vec;

const MS: u64 = 1_000_000;
const US: u64 = 1_000;

/// What a simulated unit does: runs for `burst`, then sleeps for `rest`.
#[derive(Clone, Copy, Debug)]
struct Work {
    burst: u64,
    rest: u64,
}

const HOG: Work = Work {
    burst: u64::MAX,
    rest: 0,
};

struct SimUnit {
    unit: Arc<Unit<usize>>,
    work: Work,
    left: u64,
    /// When it is to be woken.
    wake_at: u64,
    /// When it was woken and did not yet run.
    woken: Option<u64>,
    ran: u64,
    worst_latency: u64,
}

/// A machine with a clock of its own.
struct Sim {
    scheduler: Scheduler<usize>,
    now: u64,
    cpus: Vec<(Option<usize>, u64)>,
    units: Vec<SimUnit>,
    kicks: Vec<CpuId>,
    switches: u64,
}

impl Sim {
    fn new(cpus: usize) -> Self {
        let scheduler = Scheduler::new(cpus, MS);
        for cpu in 0..cpus as u32 {
            scheduler.add_cpu(CpuId(cpu)).unwrap();
        }
        let mut sim = Self {
            scheduler,
            now: 0,
            cpus: vec![(None, NEVER); cpus],
            units: Vec::new(),
            kicks: (0..cpus as u32).map(CpuId).collect(),
            switches: 0,
        };
        sim.settle();
        sim
    }

    fn add(&mut self, work: Work, weight: u32, affinity: CpuSet) -> usize {
        let number = self.units.len();
        let unit = self.scheduler.add(number, weight, affinity).unwrap();
        self.units.push(SimUnit {
            unit: unit.clone(),
            work,
            left: work.burst,
            wake_at: NEVER,
            woken: Some(self.now),
            ran: 0,
            worst_latency: 0,
        });
        let kick = self.scheduler.wake(&unit, self.now);
        self.kicks.extend(kick);
        self.settle();
        number
    }

    fn reschedule(&mut self, cpu: CpuId) {
        let decision = self.scheduler.schedule(cpu, self.now);
        let before = self.cpus[cpu.0 as usize].0;
        let next = decision.next.as_ref().map(|unit| *unit.payload());
        if let Some(left) = &decision.left {
            assert_eq!(before, Some(*left.payload()));
            assert!(left.is_running());
        } else {
            assert!(before.is_none() || before == next);
        }
        if let Some(number) = next {
            for (other, (runs, _)) in self.cpus.iter().enumerate() {
                assert!(
                    other == cpu.0 as usize || *runs != Some(number),
                    "on two CPUs"
                );
            }
            let unit = &mut self.units[number];
            assert!(unit.unit.affinity().contains(cpu));
            if let Some(since) = unit.woken.take() {
                unit.worst_latency = unit.worst_latency.max(self.now - since);
            }
        }
        if before != next {
            self.switches += 1;
        }
        assert!(decision.run_until > self.now, "the CPU would spin");
        self.cpus[cpu.0 as usize] = (next, decision.run_until);
        self.kicks.extend(decision.kick.iter());
        if let Some(left) = decision.left {
            let kick = self.scheduler.context_saved(&left, self.now);
            self.kicks.extend(kick);
        }
    }

    fn settle(&mut self) {
        let mut limit = 10_000;
        while let Some(cpu) = self.kicks.pop() {
            self.reschedule(cpu);
            limit -= 1;
            assert!(limit > 0, "kicks without end");
        }
        // No CPU is idle while a unit that it may run waits.
        let running: Vec<usize> = self.cpus.iter().filter_map(|cpu| cpu.0).collect();
        for (number, unit) in self.units.iter().enumerate() {
            let mut state = unit.unit.state.lock();
            if state.eligible() && !state.throttled(self.now) && !running.contains(&number) {
                for (cpu, (runs, _)) in self.cpus.iter().enumerate() {
                    assert!(
                        runs.is_some() || !state.affinity.contains(CpuId(cpu as u32)),
                        "CPU {cpu} is idle while unit {number} waits"
                    );
                }
            }
        }
    }

    fn run(&mut self, length: u64) {
        let end = self.now + length;
        while self.now < end {
            let mut next = end;
            for (runs, until) in &self.cpus {
                next = next.min(*until);
                if let Some(number) = runs {
                    next = next.min(self.now.saturating_add(self.units[*number].left));
                }
            }
            for unit in &self.units {
                next = next.min(unit.wake_at);
            }
            let passed = next - self.now;
            self.now = next;
            for cpu in 0..self.cpus.len() {
                let (runs, until) = self.cpus[cpu];
                if let Some(number) = runs {
                    let unit = &mut self.units[number];
                    unit.ran += passed;
                    if unit.left != u64::MAX {
                        unit.left -= passed;
                    }
                    if unit.left == 0 {
                        unit.left = unit.work.burst;
                        unit.wake_at = self.now + unit.work.rest;
                        self.scheduler.sleep(&unit.unit);
                        self.kicks.push(CpuId(cpu as u32));
                    }
                }
                if until <= self.now {
                    self.kicks.push(CpuId(cpu as u32));
                }
            }
            for number in 0..self.units.len() {
                let unit = &mut self.units[number];
                if unit.wake_at <= self.now {
                    unit.wake_at = NEVER;
                    unit.woken = Some(self.now);
                    let kick = self.scheduler.wake(&unit.unit, self.now);
                    self.kicks.extend(kick);
                }
            }
            self.settle();
        }
    }

    fn share(&self, number: usize) -> f64 {
        self.units[number].ran as f64 / self.now as f64
    }
}

fn assert_share(sim: &Sim, number: usize, expected: f64) {
    let share = sim.share(number);
    let all: Vec<f64> = (0..sim.units.len()).map(|n| sim.share(n)).collect();
    assert!(
        (share - expected).abs() < 0.03,
        "unit {number} got {share:.3} of a CPU, not {expected:.3}: {all:.3?}"
    );
}

#[test]
fn alone_it_runs_without_a_timer() {
    let mut sim = Sim::new(2);
    sim.add(HOG, 256, CpuSet::ALL);
    sim.run(1000 * MS);
    assert_eq!(sim.units[0].ran, 1000 * MS);
    assert_eq!(sim.switches, 1);
    assert!(sim.cpus.iter().all(|cpu| cpu.1 == NEVER));
}

#[test]
fn time_goes_by_weight() {
    let mut sim = Sim::new(1);
    for weight in [256, 512, 1024, 64] {
        sim.add(HOG, weight, CpuSet::ALL);
    }
    sim.run(20_000 * MS);
    let total = 1856.0;
    for (number, weight) in [256.0, 512.0, 1024.0, 64.0].into_iter().enumerate() {
        assert_share(&sim, number, weight / total);
    }
    // A slice is some milliseconds.
    assert!(sim.switches < 20_000 / 2, "{}", sim.switches);
}

#[test]
fn three_share_two_cpus() {
    let mut sim = Sim::new(2);
    for _ in 0..3 {
        sim.add(HOG, 256, CpuSet::ALL);
    }
    sim.run(20_000 * MS);
    for number in 0..3 {
        assert_share(&sim, number, 2.0 / 3.0);
    }
}

#[test]
fn five_share_four_cpus_and_two_heavy_ones_get_more() {
    let mut sim = Sim::new(4);
    for _ in 0..5 {
        sim.add(HOG, 256, CpuSet::ALL);
    }
    sim.run(20_000 * MS);
    for number in 0..5 {
        assert_share(&sim, number, 0.8);
    }
    let mut sim = Sim::new(2);
    for weight in [512, 256, 256] {
        sim.add(HOG, weight, CpuSet::ALL);
    }
    sim.run(20_000 * MS);
    assert_share(&sim, 0, 1.0);
    assert_share(&sim, 1, 0.5);
    assert_share(&sim, 2, 0.5);
}

#[test]
fn who_sleeps_much_runs_at_once() {
    let mut sim = Sim::new(1);
    for _ in 0..4 {
        sim.add(HOG, 256, CpuSet::ALL);
    }
    let work = Work {
        burst: 100 * US,
        rest: 3 * MS,
    };
    let number = sim.add(work, 256, CpuSet::ALL);
    sim.run(100 * MS);
    sim.units[number].worst_latency = 0;
    sim.run(10_000 * MS);
    // At most the time for which what runs is not disturbed.
    assert!(
        sim.units[number].worst_latency <= MS,
        "{}",
        sim.units[number].worst_latency
    );
}

#[test]
fn a_debt_from_running_alone_is_forgiven() {
    let mut sim = Sim::new(1);
    sim.add(HOG, 256, CpuSet::ALL);
    sim.run(5_000 * MS);
    sim.add(HOG, 256, CpuSet::ALL);
    let before = sim.units[0].ran;
    sim.run(100 * MS);
    let ran = sim.units[0].ran - before;
    assert!((35 * MS..65 * MS).contains(&ran), "{ran}");
}

#[test]
fn pinned_units_stay() {
    let mut sim = Sim::new(2);
    for _ in 0..3 {
        sim.add(HOG, 256, CpuSet::one(CpuId(1)));
    }
    let free = sim.add(HOG, 256, CpuSet::ALL);
    sim.run(5_000 * MS);
    assert_share(&sim, free, 1.0);
    for number in 0..3 {
        assert_share(&sim, number, 1.0 / 3.0);
    }
    let unit = sim.units[free].unit.clone();
    let kick = sim
        .scheduler
        .set_affinity(&unit, CpuSet::one(CpuId(1)), sim.now)
        .unwrap();
    assert_eq!(kick, Some(CpuId(0)));
    sim.kicks.extend(kick);
    sim.settle();
    assert_eq!(sim.cpus[0].0, None);
    assert_eq!(
        sim.scheduler.set_affinity(&unit, CpuSet::one(CpuId(7)), 0),
        Err(Error::Invalid)
    );
    let kick = sim
        .scheduler
        .set_affinity(&unit, CpuSet::ALL, sim.now)
        .unwrap();
    sim.kicks.extend(kick);
    sim.settle();
    assert_eq!(sim.cpus[0].0, Some(free));
}

#[test]
fn sleeping_units_follow_their_affinity() {
    let mut sim = Sim::new(3);
    let unit = {
        let number = sim.add(HOG, 256, CpuSet::one(CpuId(0)));
        sim.units[number].unit.clone()
    };
    sim.settle();
    // While it sleeps (here: is paused), and while it runs and then goes to sleep.
    for (cpu, sleeps) in [(1, true), (2, false), (0, true), (1, false)] {
        let mut kicks = Vec::new();
        if sleeps {
            kicks.extend(sim.scheduler.pause(&unit));
            sim.kicks.append(&mut kicks);
            sim.settle();
        }
        let affinity = CpuSet::one(CpuId(cpu));
        kicks.extend(
            sim.scheduler
                .set_affinity(&unit, affinity, sim.now)
                .unwrap(),
        );
        if !sleeps {
            kicks.extend(sim.scheduler.pause(&unit));
        }
        sim.kicks.append(&mut kicks);
        sim.settle();
        assert_eq!(unit.home(), CpuId(cpu));
        sim.kicks.extend(sim.scheduler.unpause(&unit, sim.now));
        sim.settle();
        assert!(unit.is_running());
        assert_eq!(unit.home(), CpuId(cpu));
    }
}

#[test]
fn caps_hold_from_when_they_are_set() {
    // What a unit ran while it had no cap, or a higher one, is not held against it.
    let mut sim = Sim::new(1);
    let hog = sim.add(HOG, 256, CpuSet::ALL);
    sim.run(5_000 * MS);
    for percent in [60, 10, 0, 35] {
        let unit = sim.units[hog].unit.clone();
        sim.scheduler.set_weight(&unit, 256, sim.now).unwrap();
        let kick = sim.scheduler.set_cap(&unit, percent);
        sim.kicks.extend(kick);
        sim.settle();
        let before = sim.units[hog].ran;
        sim.run(200 * MS);
        let wanted = if percent == 0 {
            100
        } else {
            u64::from(percent)
        } * 2;
        let gained = (sim.units[hog].ran - before) / MS;
        assert!(
            gained.abs_diff(wanted) <= 12,
            "{percent}: {gained} ms of 200"
        );
    }
}

#[test]
fn caps_hold() {
    let mut sim = Sim::new(1);
    let capped = sim.add(HOG, 256, CpuSet::ALL);
    let kick = sim.scheduler.set_cap(&sim.units[capped].unit.clone(), 30);
    assert_eq!(kick, Some(CpuId(0)));
    sim.kicks.extend(kick);
    sim.settle();
    sim.run(5_000 * MS);
    assert_share(&sim, capped, 0.3);
    let other = sim.add(HOG, 256, CpuSet::ALL);
    let before = (sim.units[capped].ran, sim.units[other].ran);
    sim.run(5_000 * MS);
    let gained = (
        (sim.units[capped].ran - before.0) / MS,
        (sim.units[other].ran - before.1) / MS,
    );
    assert!(
        gained.0.abs_diff(1500) < 100 && gained.1.abs_diff(3500) < 100,
        "{gained:?}"
    );
}

#[test]
fn pauses_count_and_removal_waits() {
    let mut sim = Sim::new(1);
    let number = sim.add(HOG, 256, CpuSet::ALL);
    let unit = sim.units[number].unit.clone();
    assert_eq!(sim.scheduler.pause(&unit), Some(CpuId(0)));
    assert_eq!(sim.scheduler.remove(&unit), Err(Error::Busy));
    sim.kicks.push(CpuId(0));
    sim.settle();
    assert!(!unit.is_running());
    assert_eq!(sim.scheduler.pause(&unit), None);
    assert_eq!(sim.scheduler.unpause(&unit, sim.now), None);
    let kick = sim.scheduler.unpause(&unit, sim.now);
    assert_eq!(kick, Some(CpuId(0)));
    sim.kicks.extend(kick);
    sim.settle();
    assert!(unit.is_running());
    sim.scheduler.sleep(&unit);
    sim.kicks.push(CpuId(0));
    sim.settle();
    sim.scheduler.remove(&unit).unwrap();
    assert_eq!(sim.scheduler.wake(&unit, sim.now), None);
}

#[test]
fn a_wake_up_between_decision_and_saving_is_kept() {
    let scheduler = Scheduler::new(1, MS);
    scheduler.add_cpu(CpuId(0)).unwrap();
    let unit = scheduler.add((), 256, CpuSet::ALL).unwrap();
    scheduler.wake(&unit, 0);
    assert!(scheduler.schedule(CpuId(0), 0).next.is_some());
    scheduler.sleep(&unit);
    let decision = scheduler.schedule(CpuId(0), MS);
    assert!(decision.next.is_none());
    assert!(decision.left.is_some());
    // Woken, but its registers are still in the CPU.
    assert_eq!(scheduler.wake(&unit, MS), None);
    assert!(scheduler.schedule(CpuId(0), MS).next.is_none());
    assert_eq!(scheduler.context_saved(&unit, MS), Some(CpuId(0)));
    assert!(scheduler.schedule(CpuId(0), MS).next.is_some());
    // And one before the decision: it goes on.
    scheduler.sleep(&unit);
    assert_eq!(scheduler.wake(&unit, MS), None);
    assert!(scheduler.schedule(CpuId(0), MS).next.is_some());
}

#[test]
fn yielding_lets_others_run() {
    let mut sim = Sim::new(1);
    sim.add(HOG, 256, CpuSet::ALL);
    sim.add(HOG, 256, CpuSet::ALL);
    sim.run(3 * MS);
    let first = sim.cpus[0].0.unwrap();
    let unit = sim.units[first].unit.clone();
    sim.scheduler.yield_now(&unit);
    sim.reschedule(CpuId(0));
    assert_ne!(sim.cpus[0].0, Some(first));
}

/// The units of [`any_load_is_served`]: (weight, kind, burst, rest, affinity).
fn add_load(sim: &mut Sim, units: &[(u32, u64, u64, u64, u64)]) {
    for &(weight, kind, burst, rest, affinity) in units {
        let work = if kind == 0 {
            HOG
        } else {
            Work {
                burst: burst * 10 * US,
                rest: rest * 10 * US,
            }
        };
        let mut set = CpuSet::EMPTY;
        for cpu in 0..sim.cpus.len() as u32 {
            if affinity >> cpu & 1 != 0 {
                set.insert(CpuId(cpu));
            }
        }
        if set.is_empty() {
            set = CpuSet::ALL;
        }
        sim.add(work, weight, set);
    }
}

#[test]
fn who_is_overtaken_on_a_claimed_cpu_goes_to_an_idle_one() {
    // Unit 1 wakes and claims CPU 0, then unit 2, which may run only there,
    // comes before it: CPU 1 must get to know.
    let mut sim = Sim::new(2);
    add_load(
        &mut sim,
        &[
            (224, 1, 500, 2745, 14),
            (443, 1, 922, 20, 3),
            (917, 1, 2395, 3447, 13),
        ],
    );
    sim.run(3_000 * MS);
}

/// Runs for a while, and then changes something of a unit: (after how long, which
/// unit, what, how).
fn make_change(sim: &mut Sim, (after, number, kind, value): (u64, usize, u32, u32)) {
    let cpus = sim.cpus.len() as u32;
    sim.run(after * 10 * US);
    let unit = sim.units[number % sim.units.len()].unit.clone();
    let kick = match kind {
        0 | 1 => sim.scheduler.set_cap(&unit, value / 10 * 10 % 110),
        2 => {
            let mut set = CpuSet::one(CpuId(value % cpus));
            set.insert(CpuId(value / 8 % cpus));
            sim.scheduler.set_affinity(&unit, set, sim.now).unwrap()
        }
        3 => sim.scheduler.pause(&unit),
        4 => sim.scheduler.unpause(&unit, sim.now),
        _ => {
            sim.scheduler.set_weight(&unit, value + 1, sim.now).unwrap();
            None
        }
    };
    sim.kicks.extend(kick);
    sim.settle();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_load_is_served(
        cpus in 1usize..5,
        units in prop::collection::vec((1u32..2000, 0u64..4, 1u64..3000, 1u64..5000, 1u64..16), 1..12),
    ) {
        let mut sim = Sim::new(cpus);
        add_load(&mut sim, &units);
        // Work conservation, affinity and exclusion are checked at each step.
        sim.run(3_000 * MS);
        let weights: u64 = sim.units.iter().map(|unit| u64::from(unit.unit.weight())).sum();
        for unit in &sim.units {
            // Nobody starves: even if all were on one CPU it would get its part.
            let part = 3_000 * MS * u64::from(unit.unit.weight()) / weights;
            if unit.work.rest == 0 {
                prop_assert!(unit.ran + 40 * MS >= part * 8 / 10, "{} of {part}", unit.ran);
            } else {
                prop_assert!(unit.ran > 0 || part < 40 * MS);
            }
        }
    }

    /// No CPU is idle while a unit waits, whatever is changed meanwhile.
    #[test]
    fn changes_leave_no_cpu_idle(
        cpus in 1usize..5,
        units in prop::collection::vec((1u32..2000, 0u64..4, 1u64..3000, 1u64..5000, 1u64..16), 1..8),
        changes in prop::collection::vec((1u64..2000, 0usize..8, 0u32..6, 0u32..120), 1..60),
    ) {
        let mut sim = Sim::new(cpus);
        add_load(&mut sim, &units);
        for change in changes {
            make_change(&mut sim, change);
        }
        sim.run(50 * MS);
    }
}

#[test]
fn who_waits_for_its_cap_is_looked_at_when_it_may_run() {
    // A unit that its cap holds back comes to wait on a CPU that has no reason
    // to look up before it may run again.
    let mut sim = Sim::new(3);
    add_load(
        &mut sim,
        &[
            (1224, 1, 247, 595, 14),
            (1723, 1, 612, 2483, 6),
            (1028, 1, 2896, 635, 7),
            (569, 1, 2728, 639, 2),
            (564, 0, 1, 1, 11),
        ],
    );
    for change in [
        (1744, 0, 3, 71),
        (313, 4, 0, 86),
        (1821, 5, 1, 115),
        (1554, 3, 5, 101),
        (1225, 0, 1, 58),
        (892, 7, 4, 103),
        (1493, 0, 1, 78),
        (1591, 6, 2, 29),
        (697, 4, 5, 7),
        (606, 2, 1, 109),
        (397, 3, 2, 111),
        (977, 7, 5, 112),
        (1599, 3, 4, 116),
        (183, 7, 4, 13),
        (905, 6, 5, 55),
        (847, 1, 2, 114),
        (840, 0, 0, 105),
        (368, 7, 1, 93),
        (403, 2, 5, 11),
        (1888, 7, 2, 15),
        (395, 6, 5, 114),
        (1207, 6, 4, 44),
        (1234, 7, 5, 86),
        (1453, 3, 3, 2),
        (189, 4, 0, 21),
        (222, 0, 2, 78),
        (774, 7, 2, 51),
        (711, 5, 5, 42),
        (1156, 2, 5, 23),
    ] {
        make_change(&mut sim, change);
    }
    sim.run(50 * MS);
}

#[test]
fn who_is_kicked_may_have_work_of_its_own() {
    // The caps of units on two CPUs, both idle meanwhile, end at the same time, and
    // one CPU has two of them: a third CPU is to take one.
    let mut sim = Sim::new(3);
    add_load(
        &mut sim,
        &[
            (377, 0, 1, 1, 2),
            (699, 0, 1, 1, 7),
            (1180, 1, 233, 393, 4),
            (120, 1, 1229, 203, 1),
            (387, 0, 1, 1, 2),
            (416, 0, 1, 1, 3),
        ],
    );
    for change in [
        (75, 3, 1, 44),
        (1472, 3, 2, 30),
        (1192, 1, 1, 61),
        (274, 6, 1, 29),
        (1957, 6, 0, 37),
        (196, 1, 5, 31),
        (55, 5, 1, 96),
        (1830, 3, 5, 66),
        (88, 4, 4, 30),
        (662, 1, 0, 69),
        (854, 3, 5, 43),
        (1192, 7, 0, 43),
        (1205, 4, 3, 73),
        (1819, 4, 3, 34),
        (1144, 3, 0, 47),
        (615, 1, 5, 68),
        (56, 6, 1, 10),
        (1813, 6, 0, 113),
        (1139, 4, 4, 19),
        (1478, 0, 1, 39),
        (1579, 0, 1, 23),
        (881, 5, 1, 81),
        (350, 1, 0, 4),
        (1225, 5, 0, 69),
    ] {
        make_change(&mut sim, change);
    }
    sim.run(50 * MS);
}

/// Real threads as CPUs: units hand tokens to each other by wake-ups, some
/// are paused and moved meanwhile; all tokens must arrive.
#[test]
fn no_wake_up_is_lost_among_threads() {
    const CPUS: usize = 4;
    const UNITS: usize = 10;
    const ROUNDS: usize = 20_000;
    struct Shared {
        scheduler: Scheduler<usize>,
        kicked: [AtomicBool; CPUS],
        /// Wake-ups that a unit has not yet handled.
        pending: [AtomicUsize; UNITS],
        on_cpu: [AtomicBool; UNITS],
        handled: AtomicUsize,
        sent: AtomicUsize,
    }
    let shared = Arc::new(Shared {
        scheduler: Scheduler::new(CPUS, 0),
        kicked: [const { AtomicBool::new(true) }; CPUS],
        pending: [const { AtomicUsize::new(0) }; UNITS],
        on_cpu: [const { AtomicBool::new(false) }; UNITS],
        handled: AtomicUsize::new(0),
        sent: AtomicUsize::new(0),
    });
    for cpu in 0..CPUS as u32 {
        shared.scheduler.add_cpu(CpuId(cpu)).unwrap();
    }
    let units: Arc<Vec<_>> = Arc::new(
        (0..UNITS)
            .map(|n| shared.scheduler.add(n, 256, CpuSet::ALL).unwrap())
            .collect(),
    );
    let clock = Arc::new(AtomicU64::new(1));
    let kick = |shared: &Shared, cpu: Option<CpuId>| {
        if let Some(cpu) = cpu {
            shared.kicked[cpu.0 as usize].store(true, Ordering::SeqCst);
        }
    };
    let send = move |shared: &Shared, units: &[Arc<Unit<usize>>], to: usize, now: u64| {
        shared.sent.fetch_add(1, Ordering::SeqCst);
        shared.pending[to].fetch_add(1, Ordering::SeqCst);
        kick(shared, shared.scheduler.wake(&units[to], now));
    };
    let threads: Vec<_> = (0..CPUS as u32)
        .map(|number| {
            let (shared, units, clock) = (shared.clone(), units.clone(), clock.clone());
            thread::spawn(move || {
                let cpu = CpuId(number);
                let mut current: Option<usize> = None;
                let mut seed = u64::from(number) + 1;
                let mut idle_turns = 0u64;
                loop {
                    let now = clock.fetch_add(50_000, Ordering::SeqCst);
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
                    let random = (seed >> 33) as usize;
                    let must = shared.kicked[number as usize].swap(false, Ordering::SeqCst);
                    if let Some(unit) = current {
                        // The guest: handle what came, pass on, sleep when there is nothing.
                        let had = shared.pending[unit].swap(0, Ordering::SeqCst);
                        shared.handled.fetch_add(had, Ordering::SeqCst);
                        for n in 0..had {
                            if shared.sent.load(Ordering::SeqCst) < ROUNDS {
                                send(&shared, &units, (random + n * 7) % UNITS, now);
                            }
                        }
                        if had == 0 {
                            // As a guest's kernel: first say that it sleeps, then look again.
                            shared.scheduler.sleep(&units[unit]);
                            if shared.pending[unit].load(Ordering::SeqCst) != 0 {
                                kick(&shared, shared.scheduler.wake(&units[unit], now));
                            }
                        }
                    }
                    match random % 64 {
                        0 => {
                            let unit = &units[random / 64 % UNITS];
                            kick(&shared, shared.scheduler.pause(unit));
                            kick(&shared, shared.scheduler.unpause(unit, now));
                        }
                        1 => {
                            let mut set = CpuSet::one(CpuId((random / 64 % CPUS) as u32));
                            set.insert(CpuId((random / 512 % CPUS) as u32));
                            let unit = &units[random / 64 % UNITS];
                            if let Ok(cpu) = shared.scheduler.set_affinity(unit, set, now) {
                                kick(&shared, cpu);
                            }
                        }
                        _ => {}
                    }
                    if current.is_some() || must {
                        let decision = shared.scheduler.schedule(cpu, now);
                        for cpu in decision.kick.iter() {
                            kick(&shared, Some(cpu));
                        }
                        let next = decision.next.as_ref().map(|unit| *unit.payload());
                        if let Some(left) = decision.left {
                            assert_eq!(current, Some(*left.payload()));
                            thread::yield_now();
                            shared.on_cpu[*left.payload()].store(false, Ordering::SeqCst);
                            kick(&shared, shared.scheduler.context_saved(&left, now));
                            current = None;
                        }
                        if let Some(unit) = next.filter(|&unit| current != Some(unit)) {
                            let was = shared.on_cpu[unit].swap(true, Ordering::SeqCst);
                            assert!(!was, "unit {unit} on two CPUs");
                        }
                        current = next;
                    } else {
                        // Only a kick may wake an idle CPU.
                        thread::yield_now();
                        idle_turns += 1;
                    }
                    let handled = shared.handled.load(Ordering::SeqCst);
                    if handled >= ROUNDS && handled == shared.sent.load(Ordering::SeqCst) {
                        return;
                    }
                    assert!(idle_turns < 200_000_000, "a wake-up was lost");
                }
            })
        })
        .collect();
    for token in 0..6 {
        send(&shared, &units, token, 1);
    }
    for thread in threads {
        thread.join().unwrap();
    }
}
