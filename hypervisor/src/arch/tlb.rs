//! TLB flushes, on this CPU and on others.
//!
//! The flush clock counts full flushes. A CPU takes the clock's next value
//! *before* it flushes and notes it when done, so that a frame given up at clock
//! value `s` (after its last mapping was removed) cannot be in the TLB of a CPU
//! whose note is greater than `s`.
//!
//! # Requests to other CPUs
//!
//! Each CPU has a mailbox: how many requests were made of it (`requested`), up
//! to which it has served them (`completed`), and what is to be flushed
//! (`what`: nothing, one page, or all). A requester puts in what it wants, then
//! counts its request, then interrupts the CPU unless a request was pending
//! already, and waits for `completed` to reach its number. There are no locks:
//! requesters wait for each other's CPUs only, and serve their own mailbox
//! while they wait, with interrupts on or off. Whatever waits with interrupts
//! off must call [`serve`] as well. An NMI or machine check in the midst of
//! serving leaves it to what it interrupted.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use overcast_core::addr::Mfn;
use overcast_core::ids::{CpuId, CpuSet, MAX_CPUS};
use overcast_core::machine::Tlb;

use crate::arch::cpu::{self, cr4};
use crate::arch::memory::Machine;
use crate::arch::{apic, percpu};

/// In `what`: nothing to flush.
const NOTHING: u64 = 0;
/// In `what`: everything. A page is its address with bit 1 set instead.
const EVERYTHING: u64 = 1;
const PAGE: u64 = 2;

#[repr(align(64))]
struct Mailbox {
    requested: AtomicU64,
    completed: AtomicU64,
    what: AtomicU64,
    /// Clock value of the CPU's last full flush.
    flushed: AtomicU64,
    online: AtomicBool,
    /// The CPU is at it; only the CPU itself looks.
    serving: AtomicBool,
}

static CLOCK: AtomicU64 = AtomicU64::new(1);
/// One more than the highest number of a CPU that was ever online: how much of
/// [`MAILBOXES`] a flush looks at.
static MAILBOXES_USED: AtomicUsize = AtomicUsize::new(0);
static MAILBOXES: [Mailbox; MAX_CPUS] = [const {
    Mailbox {
        requested: AtomicU64::new(0),
        completed: AtomicU64::new(0),
        what: AtomicU64::new(NOTHING),
        flushed: AtomicU64::new(0),
        online: AtomicBool::new(false),
        serving: AtomicBool::new(false),
    }
}; MAX_CPUS];

/// This CPU's number; 0 while the boot CPU has no per-CPU area yet.
fn here() -> CpuId {
    percpu::try_this().map_or(CpuId(0), |this| this.cpu)
}

fn mailbox(cpu: CpuId) -> &'static Mailbox {
    // CPU numbers are ours and below MAX_CPUS.
    &MAILBOXES[cpu.0 as usize % MAX_CPUS]
}

/// Counts this CPU among those that are flushed. From now on it must serve
/// requests: by interrupt, or by [`serve`].
pub fn set_online() {
    let own = mailbox(here());
    // Online first: what others give up from now on is flushed here by request,
    // and what they gave up before, by this flush.
    own.online.store(true, Ordering::SeqCst);
    MAILBOXES_USED.fetch_max(here().0 as usize + 1, Ordering::SeqCst);
    flush_local();
}

/// Whether a CPU takes requests.
pub fn is_online(cpu: CpuId) -> bool {
    mailbox(cpu).online.load(Ordering::SeqCst)
}

/// Flushes all of this CPU's TLB, global entries included.
pub fn flush_local() {
    let time = CLOCK.fetch_add(1, Ordering::SeqCst) + 1;
    flush_hardware();
    mailbox(here()).flushed.fetch_max(time, Ordering::SeqCst);
}

fn flush_hardware() {
    let cr4 = cpu::read_cr4();
    // SAFETY: CR4 is put back as it was; CR3 is written with its own value.
    // Either write flushes; changing PGE flushes global entries, too.
    unsafe {
        if cr4 & cr4::PGE != 0 {
            // An interrupt between the two writes may flush as well: no harm.
            asm!(
                "mov cr4, {without}",
                "mov cr4, {with}",
                without = in(reg) cr4 & !cr4::PGE,
                with = in(reg) cr4,
                options(nostack, preserves_flags),
            );
        } else {
            asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags));
        }
    }
}

/// Flushes one linear address from this CPU's TLB.
pub fn invalidate_local(address: u64) {
    // SAFETY: INVLPG has no effect but on the TLB; a non-canonical address has none.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Switches to the address space under `l4`. Entries of the old one that are
/// not global are gone; global ones stay (see [`write_cr3_and_flush`]).
///
/// # Safety
/// The tables have the hypervisor's slots, and live until others are loaded.
pub unsafe fn write_cr3(l4: Mfn) {
    // SAFETY: the caller's promise: what runs stays mapped as it is.
    unsafe { asm!("mov cr3, {}", in(reg) l4.address().0, options(nostack, preserves_flags)) };
}

/// Switches to the address space under `l4` and flushes all of the TLB, as
/// when another domain's vCPU is to run.
///
/// # Safety
/// As [`write_cr3`].
pub unsafe fn write_cr3_and_flush(l4: Mfn) {
    // The order matters: the full flush comes after the switch, so that nothing
    // of the old tables is loaded again.
    // SAFETY: the caller's promise.
    unsafe { write_cr3(l4) };
    flush_local();
}

/// Serves what other CPUs asked of this one. Called by the flush interrupt,
/// and by whatever waits for another CPU with interrupts off.
pub fn serve() {
    let own = mailbox(here());
    let pending = || own.completed.load(Ordering::SeqCst) < own.requested.load(Ordering::SeqCst);
    if !pending() {
        return;
    }
    // Without interrupts: one between the look at `what` and the flush would
    // find nothing there, and call requests completed whose flush is still due.
    cpu::without_interrupts(|| {
        // An NMI comes even so; it must not complete for us what we only took.
        if own.serving.swap(true, Ordering::SeqCst) {
            return;
        }
        while pending() {
            let requested = own.requested.load(Ordering::SeqCst);
            match own.what.swap(NOTHING, Ordering::SeqCst) {
                NOTHING => {}
                EVERYTHING => flush_local(),
                page => invalidate_local(page & !PAGE),
            }
            own.completed.store(requested, Ordering::SeqCst);
        }
        own.serving.store(false, Ordering::SeqCst);
    });
}

/// Asks `cpu` to flush.
fn request(cpu: CpuId, what: u64) {
    let target = mailbox(cpu);
    let _ = target
        .what
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| {
            Some(if old == NOTHING || old == what {
                what
            } else {
                EVERYTHING
            })
        });
    let before = target.requested.fetch_add(1, Ordering::SeqCst);
    // If an earlier request is pending, the CPU is on its way, and looks at
    // `requested` again after it has written `completed`.
    if target.completed.load(Ordering::SeqCst) >= before {
        apic::send_ipi(cpu, apic::VECTOR_TLB_FLUSH);
    }
}

/// Asks the other CPUs that `wanted` holds for, and waits for them. `wanted`
/// may cease to hold for a CPU only by a flush of that CPU.
fn flush_others(wanted: impl Fn(CpuId) -> bool, what: u64) {
    let used = MAILBOXES_USED.load(Ordering::SeqCst);
    if used <= 1 {
        return;
    }
    let own = here();
    let others = || {
        MAILBOXES
            .iter()
            .enumerate()
            .take(used)
            .map(|(number, target)| (CpuId(number as u32), target))
            .filter(|(cpu, target)| {
                *cpu != own && target.online.load(Ordering::SeqCst) && wanted(*cpu)
            })
    };
    for (cpu, _) in others() {
        request(cpu, what);
    }
    for (_, target) in others() {
        // At least our request; a later one of somebody else's costs no more
        // than a flush, which is not longer waited for than this number.
        let number = target.requested.load(Ordering::SeqCst);
        while target.completed.load(Ordering::SeqCst) < number {
            serve();
            core::hint::spin_loop();
        }
    }
}

impl Tlb for Machine {
    fn clock(&self) -> u64 {
        CLOCK.load(Ordering::SeqCst)
    }

    fn flush_since(&self, stamp: u64) {
        let stale = |cpu: CpuId| mailbox(cpu).flushed.load(Ordering::SeqCst) <= stamp;
        if stale(here()) {
            flush_local();
        }
        flush_others(stale, EVERYTHING);
    }

    fn flush(&self, cpus: &CpuSet) {
        if cpus.contains(here()) {
            flush_local();
        }
        flush_others(|cpu| cpus.contains(cpu), EVERYTHING);
    }

    fn flush_page(&self, cpus: &CpuSet, address: u64) {
        if cpus.contains(here()) {
            invalidate_local(address);
        }
        flush_others(|cpu| cpus.contains(cpu), (address & !0xfff) | PAGE);
    }
}

/// How locks wait that are taken with interrupts off: serving flush requests,
/// so that the lock's holder can wait for this CPU's TLB.
pub struct Serve;

impl spin::RelaxStrategy for Serve {
    fn relax() {
        serve();
        core::hint::spin_loop();
    }
}
