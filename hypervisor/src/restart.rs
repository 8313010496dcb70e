//! Dom0's end, when other domains live: it alone is made again from its boot modules.
//!
//! Guests need Dom0 for nothing while they run: their disks, network and store are the
//! hypervisor's. So when Dom0 crashes or reboots, only it goes. In this order:
//!
//! | step | until |
//! |---|---|
//! | its vCPUs leave the CPUs | none is on one |
//! | its own devices are taken away, and its connection to the store | no backend serves it |
//! | it is killed as other domains are ([`lifecycle::kill`]) | it is dead |
//! | its last pages come back from devices | the reaper has forgotten it |
//! | what it had begun with others is ended: destroying, logging what is written | none is left |
//! | it is made again, gets its devices, and runs | |
//!
//! # Invariants
//!
//! - One task does all of it, in pieces that take [`SLICE`] at most (but for unpacking the
//!   kernel and building its domain, which holds up the guest of one CPU for about as long
//!   as at boot), and never while this CPU still has a vCPU of Dom0 loaded.
//! - What guests had granted or connected to the old Dom0 ends with it: its number means
//!   nobody, and is refused, until the next is there, which inherits nothing.
//! - What the tools keep in the store stays; so the next Dom0's find their domains. Domains
//!   stay as they are: who was paused stays paused. But nobody moves them any more: whose
//!   writes to memory were logged is kept from running until it is off the CPUs, and the log
//!   is ended then. The task looks again for that; it does not wait.

use alloc::sync::Arc;
use alloc::vec::Vec;

use overcast_core::error::Error;
use overcast_core::ids::{DomainId, VcpuId};
use overcast_core::machine::Preempt;
use spin::{Mutex, Once};
use xen_abi::sched::*;

use crate::domain::{self, Domain, Life};
use crate::host::mm;
use crate::io::{self, Progress, Task};
use crate::{backend, dom0, lifecycle, log_dirty, printk, schedule, time, vcpu, xenbus, xenstore};

/// What one run of the task takes at most, ns.
const SLICE: u64 = 2_000_000;
/// How soon it looks again at what is not done yet, ns.
const PATIENCE: u64 = 2_000_000;
/// How long after a Dom0's start its end counts as another failure in a row, ns.
const SHORT_LIFE: u64 = 60_000_000_000;
/// The wait before the next start after the first failure in a row, ns; doubled for each.
const FIRST_WAIT: u64 = 1_000_000_000;
/// The most failures in a row that are counted.
const MOST_FAILURES: u32 = 6;

static TASK: Once<Task> = Once::new();
/// Domains that are kept from running until what they write is not logged.
static HELD: Mutex<Vec<Arc<Domain>>> = Mutex::new(Vec::new());
/// When Dom0s began, and are to begin.
struct Starts {
    /// When the last was let run, ns.
    last: u64,
    /// Not before when the next may be made, ns.
    next: u64,
    /// Dom0s in a row that did not live long.
    failures: u32,
}

static STARTS: Mutex<Starts> = Mutex::new(Starts {
    last: 0,
    next: 0,
    failures: 0,
});

struct Deadline(u64);

impl Preempt for Deadline {
    fn preempt_pending(&self) -> bool {
        time::now() >= self.0
    }
}

/// Makes the task.
pub fn init() {
    if TASK.try_call_once(|| Task::new(run)).is_err() {
        log::error!("no memory for the task that restarts Dom0");
    }
}

/// Gives a new Dom0 its devices, and lets it run.
pub fn run_dom0(dom0: &Arc<Domain>) {
    backend::block::give_dom0_disks();
    backend::net::give_dom0_devices();
    STARTS.lock().last = time::now();
    if let Some(vcpu) = dom0.vcpu(VcpuId(0)) {
        schedule::wake(vcpu);
    }
}

/// Dom0 shut down. Begins to make it again, if there is anybody to do it for and it can be
/// done; says whether.
pub fn begin(reason: u32) -> bool {
    let Some(task) = TASK.get().filter(|_| dom0::can_be_made_again()) else {
        return false;
    };
    let others = domain::all()
        .iter()
        .filter(|other| other.id != DomainId::DOM0 && other.life_stage() == Life::Alive)
        .count();
    if others == 0 {
        return false;
    }
    let mut starts = STARTS.lock();
    let now = time::now();
    starts.failures = if reason == SHUTDOWN_REBOOT || now.saturating_sub(starts.last) > SHORT_LIFE {
        0
    } else {
        (starts.failures + 1).min(MOST_FAILURES)
    };
    let wait = match starts.failures {
        0 => 0,
        n => FIRST_WAIT << (n - 1),
    };
    starts.next = now.saturating_add(wait);
    drop(starts);
    let what = match reason {
        SHUTDOWN_CRASH => "crashed",
        SHUTDOWN_REBOOT => "reboots",
        SHUTDOWN_WATCHDOG => "was stopped by its watchdog",
        _ => "shut down",
    };
    log::error!("Hardware Dom0 {what}: it alone is restarted; {others} other domains go on");
    io::raise_at(task.id(), time::now().saturating_add(PATIENCE));
    true
}

/// Ends what the dead Dom0 had begun with other domains, which nobody else would: who was being
/// destroyed is, and what they write to memory and disks is not logged any more. `Busy` and
/// `Restart` as [`step`].
fn finish_for_dom0() -> Result<(), Error> {
    backend::block::end_logs();
    let mut held = HELD.lock();
    for domain in domain::all() {
        match domain.life_stage() {
            Life::Dying => lifecycle::kill(&domain, &Deadline(time::now().saturating_add(SLICE)))?,
            // This CPU may be its own: it is off it when this task has ended.
            Life::Alive if domain.mm.is_logging() && !held.iter().any(|it| it.id == domain.id) => {
                schedule::begin_pause(&domain);
                held.push(domain);
            }
            _ => {}
        }
    }
    while let Some(domain) = held.pop() {
        if domain.vcpus().any(schedule::is_running) {
            held.push(domain);
            return Err(Error::Busy);
        }
        log_dirty::stop(&domain);
        schedule::unpause_domain(&domain);
        log::info!("{}: what it writes is not logged any more", domain.id);
    }
    Ok(())
}

/// The task: goes as far as it can.
fn run() -> Progress {
    match step() {
        Ok(()) => Progress::Done,
        Err(Error::Restart) => Progress::More,
        Err(_) => {
            if let Some(task) = TASK.get() {
                io::raise_at(task.id(), time::now().saturating_add(PATIENCE));
            }
            Progress::Done
        }
    }
}

/// What is to be done next. `Busy` if something has to end first, `Restart` if there is
/// more to do at once.
fn step() -> Result<(), Error> {
    if let Some(old) = domain::find(DomainId::DOM0) {
        if old.shutdown_reason().is_none() {
            return Ok(());
        }
        let here = vcpu::try_current().is_some_and(|vcpu| vcpu.domain().id == DomainId::DOM0);
        if here || !old.cpus().is_empty() {
            return Err(Error::Busy);
        }
        if old.life_stage() == Life::Alive {
            if !xenbus::remove_devices(DomainId::DOM0) {
                return Err(Error::Busy);
            }
            xenstore::disconnect_dom0();
        }
        if old.life_stage() != Life::Dead {
            let _control = lifecycle::control().map_err(|_| Error::Busy)?;
            lifecycle::kill(&old, &Deadline(time::now().saturating_add(SLICE)))?;
        }
        return Err(Error::Busy);
    }
    // Not found any more, but perhaps not forgotten yet.
    if mm().domain(DomainId::DOM0).is_some() || time::now() < STARTS.lock().next {
        return Err(Error::Busy);
    }
    for domain in domain::all() {
        if domain.life_stage() == Life::Dying {
            // Backends hold what it granted.
            xenbus::remove_devices(domain.id);
        }
    }
    let _control = lifecycle::control().map_err(|_| Error::Busy)?;
    finish_for_dom0()?;
    let dom0 = dom0::make();
    run_dom0(&dom0);
    printk!("Dom0 is restarted");
    Ok(())
}
