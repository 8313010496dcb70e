//! Per-CPU areas: stacks, and what each CPU keeps for itself.
//!
//! A CPU's area lies at [`area_base`] and begins with a stack region of
//! [`STACK_REGION`] bytes, aligned at its size, so that the top of the region
//! can be found from any stack pointer within it:
//!
//! ```text
//! 0x00000  guard page (not mapped)
//! 0x01000  stack of NMIs               (IST 1), 16 KiB, then a guard page
//! 0x06000  stack of machine checks     (IST 2), 16 KiB, then a guard page
//! 0x0b000  stack of double faults      (IST 3), 16 KiB, then a guard page
//! 0x10000  stack of debug exceptions   (IST 4), 16 KiB, then a guard page
//! 0x15000  primary stack (172 KiB: unpacking Dom0's kernel takes 60), grows down from the frame of the guest's registers
//! 0x40000 - size_of(Header) - size_of(Registers): the guest's registers
//! 0x40000 - size_of(Header): Header
//! 0x40000  syscall stub page, mapped executable and read-only
//! ```
//!
//! Invariants: FS and GS bases are always the guest's while the hypervisor
//! runs (it uses neither); only the CPU itself changes its `PerCpu`, except for
//! the atomics, which others may set.

use core::cell::Cell;
use core::mem::size_of;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use overcast_core::ids::{CpuId, MAX_CPUS};
use spin::Once;

use crate::arch::registers::Registers;
use crate::vcpu::Vcpu;

/// Where CPU 0's area begins.
pub const AREA_BASE: u64 = 0xffff_82b0_0000_0000;
/// Distance from one CPU's area to the next's.
pub const AREA_STRIDE: u64 = 0x8_0000;
/// Size and alignment of the stack region.
pub const STACK_REGION: u64 = 0x4_0000;
/// Offset of the syscall stub page in the area.
pub const STUB_OFFSET: u64 = STACK_REGION;

/// The stack tops of the interrupt stack table's entries 1 to 4, as offsets.
pub const IST_TOPS: [u64; 4] = [0x5000, 0xa000, 0xf000, 0x1_4000];

/// Page offsets in the stack region that are to be mapped (read-write, not
/// executable); all the others are guards.
pub fn stack_page_offsets() -> impl Iterator<Item = u64> {
    (0..STACK_REGION / 0x1000)
        .map(|page| page * 0x1000)
        .filter(|&offset| !matches!(offset, 0 | 0x5000 | 0xa000 | 0xf000 | 0x1_4000))
}

/// First address of a CPU's area.
pub const fn area_base(cpu: CpuId) -> u64 {
    AREA_BASE + cpu.0 as u64 * AREA_STRIDE
}

/// What lies at the very top of the stack region.
#[repr(C, align(16))]
pub struct Header {
    /// The CPU's own structure.
    pub this: *const PerCpu,
    /// Scratch words for the entry code.
    pub scratch: [u64; 7],
}

/// Address of the guest-register frame of a CPU.
pub const fn guest_frame_address(cpu: CpuId) -> u64 {
    area_base(cpu) + STACK_REGION - size_of::<Header>() as u64 - size_of::<Registers>() as u64
}

/// Address at which a CPU's primary stack starts on entry from a guest (RSP0).
pub const fn entry_stack(cpu: CpuId) -> u64 {
    area_base(cpu) + STACK_REGION - size_of::<Header>() as u64
}

/// Something to be done on this CPU before it returns to a guest.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum SoftIrq {
    /// Look at the timer queue.
    Timer = 1 << 0,
    /// Choose what runs.
    Schedule = 1 << 1,
    /// Read the serial line's input.
    Console = 1 << 2,
    /// Something was changed that the running vCPU is to take note of.
    Refresh = 1 << 3,
    /// Stop this CPU for good.
    Stop = 1 << 4,
    /// Tell Dom0 that there is more in the log.
    Log = 1 << 5,
    /// Run the drivers' and backends' tasks that wait.
    Io = 1 << 6,
}

/// `idle_since` of a CPU that is not idle.
pub const NOT_IDLE: u64 = u64::MAX;

/// What a CPU keeps for itself.
pub struct PerCpu {
    /// Its number.
    pub cpu: CpuId,
    /// Its local APIC id.
    pub apic_id: u32,
    /// Bits of [`SoftIrq`].
    pub softirqs: AtomicU32,
    /// The vCPU that runs here; null before the first.
    pub current: Cell<*const Vcpu>,
    /// System time at which the current vCPU's slice ends, ns; `u64::MAX` if never.
    pub run_until: Cell<u64>,
    /// System time for which the timer is set, ns; `u64::MAX` if it fired or never was.
    pub timer_at: Cell<u64>,
    /// What CR4 holds; 0 while that is not known.
    pub cr4: Cell<u64>,
    /// What TSC_AUX holds, once it was written.
    pub tsc_aux: Cell<Option<u32>>,
    /// For how long it was idle, up to the last time that it became busy, ns.
    pub idle_time: AtomicU64,
    /// System time at which it became idle, ns; [`NOT_IDLE`] while it is not.
    pub idle_since: AtomicU64,
    /// The frame that holds the hypervisor's own descriptors of this CPU's GDT.
    pub gdt_mfn: Cell<u64>,
    /// How many GDT pages of the current guest are mapped in the window.
    pub gdt_pages: Cell<u32>,
    /// Whether LDT pages are mapped in the window (bit set a page).
    pub ldt_pages: Cell<u32>,
}

// SAFETY: the Cells are touched only by the CPU itself (see the module's docs).
unsafe impl Sync for PerCpu {}
// SAFETY: as above; the raw pointers are kept alive by the scheduler's own references.
unsafe impl Send for PerCpu {}

impl PerCpu {
    /// The structure of a CPU that is about to be started.
    pub const fn new(cpu: CpuId, apic_id: u32) -> Self {
        Self {
            cpu,
            apic_id,
            softirqs: AtomicU32::new(0),
            current: Cell::new(ptr::null()),
            run_until: Cell::new(u64::MAX),
            timer_at: Cell::new(u64::MAX),
            cr4: Cell::new(0),
            tsc_aux: Cell::new(None),
            idle_time: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            gdt_mfn: Cell::new(0),
            gdt_pages: Cell::new(0),
            ldt_pages: Cell::new(0),
        }
    }

    /// Asks for work to be done on this CPU before it returns to a guest. The
    /// caller kicks the CPU if it is another one.
    pub fn raise(&self, softirq: SoftIrq) {
        self.softirqs.fetch_or(softirq as u32, Ordering::AcqRel);
    }
}

static CPUS: [Once<PerCpu>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];
static ONLINE: AtomicU32 = AtomicU32::new(0);

/// Makes the structure of a CPU and writes the header of its stack region,
/// which must be mapped already. Gives the structure.
///
/// # Safety
/// The pages of [`stack_page_offsets`] of this CPU's area are mapped writable,
/// and the CPU does not run yet (or is the caller, still on the boot stack).
pub unsafe fn prepare(cpu: CpuId, apic_id: u32) -> &'static PerCpu {
    let this = CPUS[cpu.0 as usize].call_once(|| PerCpu::new(cpu, apic_id));
    let header = entry_stack(cpu) as *mut Header;
    // SAFETY: the caller promises that the page is mapped and that nobody else uses it.
    unsafe {
        header.write(Header {
            this,
            scratch: [0; 7],
        });
    }
    this
}

/// This CPU's own structure. Only on a stack of a per-CPU area: after
/// [`prepare`] and the switch of stacks, never on the boot stack.
pub fn this() -> &'static PerCpu {
    let rsp: u64;
    // SAFETY: reads the stack pointer only.
    unsafe {
        core::arch::asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags))
    };
    let header = (rsp & !(STACK_REGION - 1)) + STACK_REGION - size_of::<Header>() as u64;
    // SAFETY: the stack region's top holds a header that `prepare` wrote, and
    // the PerCpu that it names is static.
    unsafe { &*(*(header as *const Header)).this }
}

/// Like [`this`], or `None` while this CPU still runs on a stack of the boot.
pub fn try_this() -> Option<&'static PerCpu> {
    let rsp: u64;
    // SAFETY: reads the stack pointer only.
    unsafe {
        core::arch::asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags))
    };
    let end = AREA_BASE + AREA_STRIDE * MAX_CPUS as u64;
    (AREA_BASE..end).contains(&rsp).then(this)
}

/// The structure of a CPU that was prepared.
pub fn get(cpu: CpuId) -> Option<&'static PerCpu> {
    CPUS.get(cpu.0 as usize)?.get()
}

/// All CPUs that were prepared.
pub fn all() -> impl Iterator<Item = &'static PerCpu> {
    CPUS.iter().filter_map(Once::get)
}

/// Counts this CPU as online.
pub fn set_online() {
    ONLINE.fetch_add(1, Ordering::AcqRel);
}

/// How many CPUs are online.
pub fn online_count() -> u32 {
    ONLINE.load(Ordering::Acquire)
}

/// The frame of the guest's registers of this CPU. It holds a guest's registers
/// from the entry out of a guest until the return to one.
pub fn guest_frame() -> *mut Registers {
    guest_frame_address(this().cpu) as *mut Registers
}
