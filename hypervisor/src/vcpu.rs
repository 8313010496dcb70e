//! A virtual CPU: what the guest set up, and its registers while it does not run.
//!
//! # Who may touch what
//!
//! The `Cell`s of [`Vcpu`] belong to the physical CPU that runs the vCPU
//! ([`current`]), or, while the vCPU is not running and is kept from running
//! (paused, down, or not yet started), to whoever keeps it so. The atomics may
//! be used by anyone.
//!
//! A `Vcpu` is owned by its [`Domain`] and lives as long; a domain is freed only
//! after all its vCPUs have been taken off the CPUs.

use alloc::sync::Arc;
use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use overcast_core::addr::{GuestVirtual, MachineAddress, Mfn};
use overcast_core::emulate::DecodeCache;
use overcast_core::ids::{CpuId, CpuSet, VcpuId};
use overcast_core::mm::VcpuPageTables;
use overcast_core::msr::VcpuMsrs;
use overcast_core::sched::Unit;
use spin::{Mutex, Once};
use xen_abi::arch_x86::TrapInfo;

use crate::arch::fpu::FpuState;
use crate::arch::memory::direct_map;
use crate::arch::percpu;
use crate::arch::registers::Registers;
use crate::domain::Domain;
use crate::schedule::VcpuRef;

/// The part of `struct vcpu_info` (xen.h) that is used in place.
#[repr(C)]
pub struct SharedVcpuInfo {
    /// Not 0 when an event waits.
    pub upcall_pending: AtomicU8,
    /// Not 0 while the guest wants no upcalls.
    pub upcall_mask: AtomicU8,
    pad: [u8; 6],
    /// Which words of the pending bitmap have bits.
    pub pending_sel: AtomicU64,
    /// Address of the last page fault.
    pub cr2: AtomicU64,
    pad1: AtomicU64,
    /// `struct vcpu_time_info`, as words.
    pub time: [AtomicU64; 4],
}

/// A callback of the guest's kernel.
#[derive(Clone, Copy, Default)]
pub struct Callback {
    /// Its address; 0 for none.
    pub address: u64,
    /// Whether events are masked on the way in.
    pub mask_events: bool,
}

/// Where a vCPU is in the life that `vcpu_op` gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    /// Its registers were never set.
    Uninitialised,
    /// It may be brought up.
    Down,
    /// It may run.
    Up,
}

/// A one-shot or periodic wait of a vCPU, in ns of system time.
#[derive(Default)]
pub struct VcpuTimers {
    /// Period of the periodic timer; 0 for none.
    pub period: AtomicU64,
    /// Where the timers are queued.
    pub places: crate::softirq::Places,
}

/// Accounting of what a vCPU does (`struct vcpu_runstate_info`, vcpu.h).
#[derive(Clone, Copy, Default)]
pub struct Runstate {
    /// One of `RUNSTATE_*`.
    pub state: u32,
    /// When it began, ns.
    pub entered: u64,
    /// Time spent in each state, ns.
    pub time: [u64; 4],
}

/// Asynchronous exceptions of a PV vCPU. The entry code looks at the first two at once.
#[derive(Default)]
#[repr(C)]
pub struct AsyncException {
    /// An NMI waits to be delivered.
    pub nmi_pending: AtomicBool,
    /// A machine check waits to be delivered.
    pub mce_pending: AtomicBool,
    /// Which are held back: bit 1 NMI, bit 2 machine check.
    pub mask: Cell<u8>,
    /// The mask before the NMI, and before the machine check, was delivered.
    pub old_mask: [Cell<u8>; 2],
}

/// A virtual CPU.
pub struct Vcpu {
    /// Its number.
    pub id: VcpuId,
    domain: *const Domain,

    /// The guest's registers while it does not run.
    regs: UnsafeCell<Registers>,
    /// Whether the guest's kernel runs (and not its user space).
    pub kernel_mode: Cell<bool>,
    /// Where the vCPU is in its life.
    power: AtomicU8,
    /// The CPU on which its state is loaded, or [`Vcpu::NOWHERE`].
    pub running_on: AtomicU32,

    /// The frame base pointers (CR3) of kernel and user mode.
    pub tables: Mutex<VcpuPageTables>,
    /// Address of the guest's root table of kernel mode.
    pub kernel_root: Cell<u64>,
    /// Address of the guest's root table of user mode; 0 for none.
    pub user_root: Cell<u64>,
    /// Address for CR3 in kernel mode: that of the root table, or of its shadow.
    pub kernel_cr3: Cell<u64>,
    /// Address for CR3 in user mode; 0 for none.
    pub user_cr3: Cell<u64>,

    /// The virtual IDT (`set_trap_table`).
    pub traps: UnsafeCell<[TrapInfo; 256]>,
    /// Where events go.
    pub event_callback: Cell<u64>,
    /// Where failed returns go.
    pub failsafe: Cell<Callback>,
    /// Where SYSCALL of 64-bit user space goes.
    pub syscall: Cell<Callback>,
    /// Where SYSCALL of 32-bit user space goes.
    pub syscall32: Cell<Callback>,
    /// Where SYSENTER goes.
    pub sysenter: Cell<Callback>,
    /// The kernel's stack (`stack_switch`).
    pub kernel_sp: Cell<u64>,
    /// Where a system call's bounce frame goes on that stack; 0 if it may not go
    /// there. For the entry code.
    pub syscall_frame: Cell<u64>,
    /// Its selector, as the guest gave it.
    pub kernel_ss: Cell<u64>,

    /// The virtual CR0: only TS ever changes.
    pub cr0: Cell<u64>,
    /// The virtual CR4's bits that the guest set.
    pub cr4: Cell<u64>,
    /// Debug address registers 0 to 3.
    pub debug_address: [Cell<u64>; 4],
    /// DR6.
    pub dr6: Cell<u64>,
    /// DR7 without the bits that are emulated.
    pub dr7: Cell<u64>,
    /// DR7's I/O breakpoint settings, which are emulated.
    pub dr7_emulated: Cell<u64>,
    /// The virtual I/O privilege level, in place in RFLAGS (bits 12 and 13).
    pub iopl: Cell<u64>,
    /// The guest's I/O permission bitmap: address and number of ports.
    pub io_bitmap: Cell<(GuestVirtual, u32)>,

    /// FS base while not running.
    pub fs_base: Cell<u64>,
    /// GS base of kernel mode while not running.
    pub gs_base_kernel: Cell<u64>,
    /// GS base of user mode while not running.
    pub gs_base_user: Cell<u64>,
    /// DS, ES, FS and GS while not running.
    pub selectors: [Cell<u16>; 4],

    /// The frames of the GDT, and how many.
    pub gdt: UnsafeCell<([Mfn; 14], usize)>,
    /// Number of GDT entries.
    pub gdt_entries: Cell<u32>,
    /// The LDT: address and number of entries.
    pub ldt: Cell<(u64, u32)>,
    /// The frames that the LDT's window shows, by page; 0 for none. Each holds a
    /// descriptor-type reference.
    pub ldt_frames: Mutex<[Mfn; 16]>,

    /// FPU registers while not loaded.
    pub fpu: FpuState,
    /// What the guest may see of the MSRs.
    pub msrs: Cell<VcpuMsrs>,

    /// Machine address of the `vcpu_info` in use.
    info: AtomicU64,
    /// Guest address of the registered `vcpu_time_info`; 0 for none.
    pub time_area: AtomicU64,
    /// A time record that could not be written to the guest's own area yet.
    pub time_area_stale: AtomicBool,
    /// Version of the last time record.
    pub time_version: AtomicU32,
    /// Guest address of the registered runstate area; 0 for none.
    pub runstate_area: AtomicU64,
    /// The runstate area could not be written yet.
    pub runstate_stale: AtomicBool,
    /// Accounting.
    pub runstate: Mutex<Runstate>,
    /// Timers.
    pub timers: VcpuTimers,
    /// NMIs and machine checks.
    pub async_exception: AsyncException,
    /// The vCPU waits in `SCHEDOP_poll` for ports: their number; 0 for none.
    pub polling: AtomicU32,
    /// Whether it is blocked (waits for an event).
    pub blocked: AtomicBool,
    /// How often it is paused.
    pub pauses: AtomicU32,
    /// The affinity before `SCHEDOP_pin_override`, while that is in force.
    pub pin_override: Mutex<Option<CpuSet>>,
    /// The CPUs that it would rather run on; noted, and nothing more.
    pub soft_affinity: Mutex<CpuSet>,
    /// Its instructions that were carried out lately.
    pub decode_cache: Mutex<DecodeCache>,
    /// What the scheduler knows of it.
    pub unit: Once<Arc<Unit<VcpuRef>>>,
}

// SAFETY: see "Who may touch what" above.
unsafe impl Sync for Vcpu {}
// SAFETY: as above; the pointer to the domain is valid as long as the vCPU.
unsafe impl Send for Vcpu {}

impl Vcpu {
    /// `running_on` of a vCPU whose state is on no CPU.
    pub const NOWHERE: u32 = u32::MAX;

    /// A vCPU that was never set up.
    pub fn new(
        id: VcpuId,
        domain: *const Domain,
        info: MachineAddress,
        fpu: FpuState,
        msrs: VcpuMsrs,
    ) -> Self {
        Self {
            id,
            domain,
            regs: UnsafeCell::default(),
            kernel_mode: Cell::new(true),
            power: AtomicU8::new(0),
            running_on: AtomicU32::new(Self::NOWHERE),
            tables: Mutex::new(VcpuPageTables::default()),
            kernel_root: Cell::new(0),
            user_root: Cell::new(0),
            kernel_cr3: Cell::new(0),
            user_cr3: Cell::new(0),
            traps: UnsafeCell::new([NO_TRAP; 256]),
            event_callback: Cell::new(0),
            failsafe: Cell::default(),
            syscall: Cell::default(),
            syscall32: Cell::default(),
            sysenter: Cell::default(),
            kernel_sp: Cell::new(0),
            syscall_frame: Cell::new(0),
            kernel_ss: Cell::new(0),
            cr0: Cell::new(CR0_GUEST & !CR0_TS),
            cr4: Cell::new(0),
            debug_address: Default::default(),
            dr6: Cell::new(DR6_DEFAULT),
            dr7: Cell::new(DR7_DEFAULT),
            dr7_emulated: Cell::new(0),
            iopl: Cell::new(0),
            io_bitmap: Cell::default(),
            fs_base: Cell::new(0),
            gs_base_kernel: Cell::new(0),
            gs_base_user: Cell::new(0),
            selectors: Default::default(),
            gdt: UnsafeCell::new(([Mfn(0); 14], 0)),
            gdt_entries: Cell::new(0),
            ldt: Cell::new((0, 0)),
            ldt_frames: Mutex::new([Mfn(0); 16]),
            fpu,
            msrs: Cell::new(msrs),
            info: AtomicU64::new(info.get()),
            time_area: AtomicU64::new(0),
            time_area_stale: AtomicBool::new(false),
            time_version: AtomicU32::new(0),
            runstate_area: AtomicU64::new(0),
            runstate_stale: AtomicBool::new(false),
            runstate: Mutex::new(Runstate {
                state: xen_abi::vcpu::RUNSTATE_OFFLINE,
                ..Runstate::default()
            }),
            timers: VcpuTimers::default(),
            async_exception: AsyncException::default(),
            polling: AtomicU32::new(0),
            blocked: AtomicBool::new(false),
            pauses: AtomicU32::new(0),
            pin_override: Mutex::new(None),
            soft_affinity: Mutex::new(CpuSet::ALL),
            decode_cache: Mutex::default(),
            unit: Once::new(),
        }
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        // SAFETY: the domain owns the vCPU and outlives it.
        unsafe { &*self.domain }
    }

    /// The registers while it does not run.
    ///
    /// # Safety
    /// The caller is entitled to them (see the module's docs) and keeps no other
    /// reference.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn saved_registers(&self) -> &mut Registers {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.regs.get() }
    }

    /// Sets the kernel's stack.
    pub fn set_kernel_sp(&self, sp: u64) {
        const FRAME: u64 = 7 * 8;
        self.kernel_sp.set(sp);
        let frame = GuestVirtual((sp & !15).wrapping_sub(FRAME));
        let ok = frame.access_ok(FRAME);
        self.syscall_frame.set(if ok { frame.0 } else { 0 });
    }

    /// An entry of the virtual IDT.
    pub fn trap(&self, vector: u8) -> TrapInfo {
        // SAFETY: only the entitled CPU writes, and it is the one that reads.
        unsafe { (*self.traps.get())[vector as usize] }
    }

    /// Sets an entry of the virtual IDT.
    pub fn set_trap(&self, vector: u8, trap: TrapInfo) {
        // SAFETY: the caller is the CPU that is entitled to the vCPU.
        unsafe { (*self.traps.get())[vector as usize] = trap }
    }

    /// Empties the virtual IDT.
    pub fn clear_traps(&self) {
        // SAFETY: as in `set_trap`.
        unsafe { (*self.traps.get()).fill(NO_TRAP) }
    }

    /// The frames of the GDT.
    pub fn gdt_frames(&self) -> &[Mfn] {
        // SAFETY: only the entitled CPU writes, and it is the one that reads.
        let (frames, count) = unsafe { &*self.gdt.get() };
        &frames[..*count]
    }

    /// Sets the frames of the GDT; at most 14.
    pub fn set_gdt_frames(&self, frames: &[Mfn]) {
        // SAFETY: the caller is the CPU that is entitled to the vCPU.
        let (own, count) = unsafe { &mut *self.gdt.get() };
        *count = frames.len().min(14);
        own[..*count].copy_from_slice(&frames[..*count]);
    }

    /// The `vcpu_info` in use.
    pub fn info(&self) -> &SharedVcpuInfo {
        let address = MachineAddress(self.info.load(Ordering::Acquire));
        // SAFETY: the location was checked to lie wholly in one frame of RAM, 8-aligned,
        // for which the domain holds a reference; all fields are atomics.
        unsafe { &*direct_map(address).cast::<SharedVcpuInfo>() }
    }

    /// Moves the `vcpu_info`. The new place is in one frame of RAM for which the
    /// domain holds a reference, and 8-aligned.
    pub fn set_info_address(&self, address: MachineAddress) {
        self.info.store(address.get(), Ordering::Release);
    }

    /// Whether an upcall is due.
    pub fn upcall_due(&self) -> bool {
        let info = self.info();
        info.upcall_pending.load(Ordering::Acquire) != 0
            && info.upcall_mask.load(Ordering::Acquire) == 0
    }

    /// Where the vCPU is in its life.
    pub fn power(&self) -> Power {
        match self.power.load(Ordering::Acquire) {
            0 => Power::Uninitialised,
            1 => Power::Down,
            _ => Power::Up,
        }
    }

    /// Moves it on in its life.
    pub fn set_power(&self, power: Power) {
        let value = match power {
            Power::Uninitialised => 0,
            Power::Down => 1,
            Power::Up => 2,
        };
        self.power.store(value, Ordering::Release);
    }

    /// The CPU on which its state is loaded.
    pub fn cpu(&self) -> Option<CpuId> {
        match self.running_on.load(Ordering::Acquire) {
            Self::NOWHERE => None,
            cpu => Some(CpuId(cpu)),
        }
    }

    /// Takes another root table of kernel mode; `hardware` is for CR3.
    pub fn set_kernel_base(&self, root: Option<Mfn>, hardware: Option<Mfn>) {
        let address = |mfn: Mfn| mfn.address().get();
        self.kernel_root.set(root.map_or(0, address));
        self.kernel_cr3.set(hardware.map_or(0, address));
    }

    /// Takes another root table of user mode, or none; `hardware` is for CR3.
    pub fn set_user_base(&self, root: Option<Mfn>, hardware: Option<Mfn>) {
        let address = |mfn: Mfn| mfn.address().get();
        self.user_root.set(root.map_or(0, address));
        self.user_cr3.set(hardware.map_or(0, address));
    }

    /// The value for CR3 in the mode in which the vCPU is.
    pub fn cr3(&self) -> u64 {
        if self.kernel_mode.get() {
            self.kernel_cr3.get()
        } else {
            self.user_cr3.get()
        }
    }
}

const NO_TRAP: TrapInfo = TrapInfo {
    vector: 0,
    flags: 0,
    cs: 0,
    _pad0: [0; 4],
    address: 0,
};

/// CR0 as a guest sees it: paging, write protection, numeric errors, protected mode.
pub const CR0_GUEST: u64 = 0x8005_003b;
/// CR0.TS.
pub const CR0_TS: u64 = 1 << 3;
/// DR6 with no condition reported.
pub const DR6_DEFAULT: u64 = 0xffff_0ff0;
/// DR7 with no breakpoint.
pub const DR7_DEFAULT: u64 = 0x400;

/// The vCPU that runs on this CPU, or `None` when the CPU is idle.
///
/// The reference is good until this CPU next schedules, which it does only in
/// `exit_to_guest`.
pub fn try_current() -> Option<&'static Vcpu> {
    // SAFETY: while a vCPU is current, its domain is kept alive.
    unsafe { percpu::this().current.get().as_ref() }
}

/// The vCPU that runs on this CPU.
///
/// Only called where a guest was entered from; on an idle CPU this halts the machine.
pub fn current() -> &'static Vcpu {
    match try_current() {
        Some(vcpu) => vcpu,
        None => crate::arch::panic::bug("no vCPU is running"),
    }
}

/// Where the entry code finds what is private here.
pub mod offsets {
    use super::Vcpu;
    use core::mem::offset_of;

    /// The machine address of the `vcpu_info`.
    pub const INFO: usize = offset_of!(Vcpu, info);
    /// The domain.
    pub const DOMAIN: usize = offset_of!(Vcpu, domain);
}
