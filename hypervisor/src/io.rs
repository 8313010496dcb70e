//! Work of drivers and backends in the hypervisor: tasks, and what wakes them.
//!
//! A task is a function that looks at everything that its owner may have to do: a
//! device's queue, a guest's ring, the store. It is *raised* by a device's interrupt, by a
//! guest's event, by a timer or by other code, and runs soon after on the CPU that raised
//! it, as a soft interrupt: with interrupts on, on the way out to a guest or to idling.
//!
//! # Invariants
//!
//! - A task runs on one CPU at a time. After it was raised it runs at least once, from
//!   its beginning, whatever it was doing when it was raised.
//! - Raising takes no lock and allocates nothing, so interrupt handlers may do it.
//! - A task that says that there is more to do, or that is raised whenever it has run (by a guest
//!   on another CPU, say), is run again only after this CPU's guest had [`BREATH`] of time, so
//!   that nobody's I/O stops another's vCPU for long; at once if the CPU has nothing else to do.
//! - A task must not wait for a device or for another CPU's guest, and bounds what it
//!   does in one run. Locks that it takes may be held with interrupts on, as all others.
//! - A task's function is dropped when its [`Task`] is; a run under way ends first or
//!   keeps the function alive until it has.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use overcast_core::error::{Error, Result};
use overcast_core::event::{ConsumerId, EventChannels};
use overcast_core::ids::{CpuId, DomainId, EventPort, MAX_CPUS};
use overcast_drivers::interrupt::Message;
use spin::{Mutex, Once, RwLock};

use crate::arch::percpu::{self, SoftIrq};
use crate::host::Host;
use crate::{softirq, time, vcpu};

/// The most tasks that there can be.
const MAX_TASKS: usize = 1024;
/// How long a guest runs before a task that has more to do is run again, ns.
const BREATH: u64 = 20_000;
/// How often a task that was raised meanwhile is run in a row.
const RUNS_IN_A_ROW: u32 = 4;
/// Interrupt vectors for devices.
const VECTORS: core::ops::RangeInclusive<u8> = 0x30..=0xef;
/// Vectors that guests' software interrupts use by convention.
const NOT_FOR_DEVICES: [u8; 2] = [0x80, 0x82];

/// Whether there is more to do than was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// All that there was is done; who has more raises the task.
    Done,
    /// The task is to run again.
    More,
}

type Function = dyn Fn() -> Progress + Send + Sync;

/// What there is for each task number.
struct Slot {
    /// Raised, and not looked at since.
    raised: AtomicBool,
    /// Runs on a CPU.
    running: AtomicBool,
    /// On which CPU's timer queue it is, plus one.
    timer_place: AtomicU32,
    function: RwLock<Option<Arc<Function>>>,
}

static SLOTS: [Slot; MAX_TASKS] = [const {
    Slot {
        raised: AtomicBool::new(false),
        running: AtomicBool::new(false),
        timer_place: AtomicU32::new(0),
        function: RwLock::new(None),
    }
}; MAX_TASKS];

/// Which tasks each CPU is to run: a bit a task.
static WAITING: [[AtomicU64; MAX_TASKS / 64]; MAX_CPUS] =
    [const { [const { AtomicU64::new(0) }; MAX_TASKS / 64] }; MAX_CPUS];

/// How many words of [`WAITING`] have bits of tasks that ever were.
static WORDS: AtomicUsize = AtomicUsize::new(0);

/// Task number plus one of each interrupt vector; 0 for none.
static VECTOR_TASKS: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];
/// Serialises making and dropping of tasks and vectors.
static CHANGES: Mutex<()> = Mutex::new(());

/// The number of a task, valid as long as its [`Task`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaskId(u16);

impl TaskId {
    /// As the consumer of events of the hypervisor's own ports.
    pub fn consumer(self) -> ConsumerId {
        ConsumerId(self.0.into())
    }

    /// As a number that is not 0, for atomics that may hold none.
    pub fn stored(self) -> u32 {
        u32::from(self.0) + 1
    }

    /// What [`Self::stored`] gave, or nothing of 0.
    pub fn from_stored(stored: u32) -> Option<Self> {
        let number = u16::try_from(stored.checked_sub(1)?).ok()?;
        (usize::from(number) < MAX_TASKS).then_some(Self(number))
    }

    fn slot(self) -> &'static Slot {
        // Numbers are made from indices of the table alone.
        &SLOTS[usize::from(self.0) % MAX_TASKS]
    }
}

/// A task. Dropping it ends it.
#[derive(Debug)]
pub struct Task {
    id: TaskId,
}

impl Task {
    /// Makes a task. `NoMemory` if there are too many.
    pub fn new(function: impl Fn() -> Progress + Send + Sync + 'static) -> Result<Self> {
        let _changes = CHANGES.lock();
        let free = SLOTS.iter().position(|slot| {
            slot.function.read().is_none() && !slot.running.load(Ordering::Acquire)
        });
        let index = free.ok_or(Error::NoMemory)?;
        softirq::reserve_io_timer()?;
        let id = TaskId(index as u16);
        WORDS.fetch_max(index / 64 + 1, Ordering::SeqCst);
        id.slot().raised.store(false, Ordering::Release);
        *id.slot().function.write() = Some(Arc::new(function));
        Ok(Self { id })
    }

    /// Its number.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// See [`raise`].
    pub fn raise(&self) {
        raise(self.id);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        cancel_timer(self.id);
        // Not dropped under the lock: what it owns may be tasks.
        let function = self.id.slot().function.write().take();
        drop(function);
        softirq::unreserve_io_timer();
    }
}

/// Asks for a run of a task on this CPU. In any context once the CPU has its area.
pub fn raise(id: TaskId) {
    let this = percpu::this();
    id.slot().raised.store(true, Ordering::Release);
    let (word, bit) = (usize::from(id.0) / 64, id.0 % 64);
    WAITING[this.cpu.0 as usize][word].fetch_or(1 << bit, Ordering::AcqRel);
    this.raise(SoftIrq::Io);
}

/// Raises the task of a consumer of events, if it is (still) one.
pub fn raise_consumer(consumer: ConsumerId) {
    if let Ok(number) = u16::try_from(consumer.0)
        && usize::from(number) < MAX_TASKS
    {
        raise(TaskId(number));
    }
}

/// Raises a task at a time, ns of system time. A later call replaces an earlier one.
pub fn raise_at(id: TaskId, deadline: u64) {
    softirq::set_io_timer(id.0, &id.slot().timer_place, deadline);
}

/// Takes back [`raise_at`].
pub fn cancel_timer(id: TaskId) {
    softirq::cancel_io_timer(id.0, &id.slot().timer_place);
}

/// A task's timer fired.
pub fn timer_fired(number: u32) {
    raise_consumer(ConsumerId(number));
}

/// Runs what waits on this CPU. Not from an interrupt handler.
pub fn run_waiting() {
    let cpu = percpu::this().cpu.0 as usize;
    let words = WORDS.load(Ordering::SeqCst);
    for (word, waiting) in WAITING[cpu].iter().enumerate().take(words) {
        let mut bits = waiting.swap(0, Ordering::AcqRel);
        while bits != 0 {
            let bit = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            run(TaskId((word * 64 + bit) as u16));
        }
    }
}

fn run(id: TaskId) {
    let slot = id.slot();
    for _ in 0..RUNS_IN_A_ROW {
        // If it runs on another CPU, that one finds `raised` set when the run is over.
        if !slot.raised.load(Ordering::Acquire) || slot.running.swap(true, Ordering::AcqRel) {
            return;
        }
        slot.raised.store(false, Ordering::SeqCst);
        let function = slot.function.read().clone();
        let progress = function.map_or(Progress::Done, |function| function());
        slot.running.store(false, Ordering::SeqCst);
        if progress == Progress::More {
            return run_later(id);
        }
    }
    if slot.raised.load(Ordering::Acquire) {
        run_later(id);
    }
}

/// Has a task run again when this CPU's guest had its share.
fn run_later(id: TaskId) {
    if vcpu::try_current().is_some() {
        raise_at(id, time::now().saturating_add(BREATH));
    } else {
        raise(id);
    }
}

/// An interrupt of a device came in; `false` if the vector is nobody's.
pub fn interrupt(vector: u8) -> bool {
    match VECTOR_TASKS[usize::from(vector)].load(Ordering::Acquire) {
        0 => false,
        number => {
            raise(TaskId((number - 1) as u16));
            true
        }
    }
}

/// An interrupt vector of a device, which raises a task. Dropping it gives it back: the
/// device must not send it any more by then.
#[derive(Debug)]
pub struct Vector {
    vector: u8,
    cpu: CpuId,
}

impl Vector {
    /// A vector for a task, to arrive on a CPU. `NoSpace` if there is none left.
    pub fn new(task: TaskId, cpu: CpuId) -> Result<Self> {
        let _changes = CHANGES.lock();
        for vector in VECTORS {
            if NOT_FOR_DEVICES.contains(&vector) {
                continue;
            }
            let entry = &VECTOR_TASKS[usize::from(vector)];
            if entry.load(Ordering::Acquire) == 0 {
                entry.store(u32::from(task.0) + 1, Ordering::Release);
                return Ok(Self { vector, cpu });
            }
        }
        Err(Error::NoSpace)
    }

    /// Its number.
    pub fn number(&self) -> u8 {
        self.vector
    }

    /// What a device writes to send it. `NoDevice` if the CPU's APIC id is beyond what
    /// a message can name.
    pub fn message(&self) -> Result<Message> {
        let apic_id = percpu::get(self.cpu).map_or(u32::MAX, |cpu| cpu.apic_id);
        if apic_id > 0xff {
            return Err(Error::NoDevice);
        }
        Ok(Message {
            address: 0xfee0_0000 | u64::from(apic_id) << 12,
            data: self.vector.into(),
        })
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        VECTOR_TASKS[usize::from(self.vector)].store(0, Ordering::Release);
    }
}

/// Counts how often each of a machine's CPUs was given to somebody.
static NEXT_CPU: AtomicU8 = AtomicU8::new(0);

/// A CPU for a device's interrupt: the online ones in turn.
pub fn next_cpu() -> CpuId {
    let count = percpu::online_count().clamp(1, 256);
    let turn = u32::from(NEXT_CPU.fetch_add(1, Ordering::Relaxed));
    CpuId(turn % count)
}

static EVENTS: Once<Arc<EventChannels>> = Once::new();

/// The hypervisor's own ends of event channels (domain `DOMID_XEN`). Their events raise
/// the task whose [`TaskId::consumer`] was given. `NoMemory`.
pub fn events() -> Result<&'static Arc<EventChannels>> {
    EVENTS.try_call_once(|| EventChannels::new(DomainId::XEN, 1, None, u32::MAX))
}

/// Binds a domain's port, which waits for the hypervisor, to a new one of the hypervisor's
/// own; its events raise the task. Errors: those of
/// [`EventChannels::bind_interdomain_for_hypervisor`].
pub fn bind_port(domain: &Arc<EventChannels>, port: EventPort, task: TaskId) -> Result<EventPort> {
    let consumer = task.consumer();
    events()?.bind_interdomain_for_hypervisor(&Host, domain, port, DomainId::XEN, consumer)
}

/// Sends an event through a port of the hypervisor's own.
pub fn notify(port: EventPort) {
    if let Ok(events) = events() {
        events.notify_from_hypervisor(&Host, port);
    }
}

/// Closes a port of the hypervisor's own; it may be gone already, with the domain at its other end.
pub fn close_port(port: EventPort) {
    if let Ok(events) = events() {
        let _ = events.close_for_hypervisor(&Host, port);
    }
}
