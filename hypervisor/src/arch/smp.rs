//! Starting the other CPUs, and calling functions on them.
//!
//! A CPU starts in real mode in a page below 1 MiB, into which the trampoline is
//! copied, and climbs to long mode on a page table that shows that page at its
//! physical address and the hypervisor in its place. CPUs start one at a time.
//!
//! A CPU and the one that starts it agree through one word: the starter sets it
//! to [`STARTING`], the CPU changes it to [`ALIVE`] before it touches anything
//! else, and a starter that gives up changes it to [`ABANDONED`]; a CPU that
//! comes too late finds that and halts.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use overcast_core::addr::Mfn;
use overcast_core::error::{Error, Result};
use overcast_core::ids::{CpuId, CpuSet, MAX_CPUS};
use overcast_core::machine::Memory;
use spin::Mutex;
use spin::mutex::SpinMutex;

use crate::arch::descriptors::{
    GDT_WINDOW_PAGES, GUEST_GDT_PAGES, LDT_WINDOW_PAGES, gdt_window, ldt_window,
};
use crate::arch::memory::{self, Machine, direct};
use crate::arch::paging::{self, PageFlags};
use crate::arch::{acpi, apic, cpu, percpu, time, tlb};

global_asm!(
    ".pushsection .rodata.trampoline, \"a\"",
    ".balign 16",
    ".globl overcast_trampoline",
    "overcast_trampoline:",
    ".code16",
    "cli",
    "cld",
    // %ebx: the page's address, from the segment; all references are relative to it.
    "movw %cs, %ax",
    "movw %ax, %ds",
    "xorl %ebx, %ebx",
    "movw %ax, %bx",
    "shll $4, %ebx",
    // The address of the descriptor table, and those of the two far jumps.
    "leal (72f - overcast_trampoline)(%ebx), %eax",
    "movl %eax, 71f - overcast_trampoline + 2",
    "leal (74f - overcast_trampoline)(%ebx), %eax",
    "movl %eax, 73f - overcast_trampoline",
    "leal (76f - overcast_trampoline)(%ebx), %eax",
    "movl %eax, 75f - overcast_trampoline",
    "lgdtl 71f - overcast_trampoline",
    "movl %cr0, %eax",
    "orl $1, %eax",
    "movl %eax, %cr0",
    "ljmpl *(73f - overcast_trampoline)",
    ".code32",
    "74:",
    "movl $0x18, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %ss",
    // PAE, OSFXSR, OSXMMEXCPT
    "movl $0x620, %eax",
    "movl %eax, %cr4",
    "movl (80f - overcast_trampoline)(%ebx), %eax",
    "movl %eax, %cr3",
    "movl $0xc0000080, %ecx",
    "movl (81f - overcast_trampoline)(%ebx), %eax",
    "xorl %edx, %edx",
    "wrmsr",
    // PG, WP, NE, ET, MP, PE
    "movl $0x80010033, %eax",
    "movl %eax, %cr0",
    "ljmpl *(75f - overcast_trampoline)(%ebx)",
    ".code64",
    "76:",
    "movl $0x18, %eax",
    "movl %eax, %ss",
    "xorl %eax, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %fs",
    "movl %eax, %gs",
    "movq (82f - overcast_trampoline)(%rbx), %rsp",
    "movq (84f - overcast_trampoline)(%rbx), %rdi",
    "movq (83f - overcast_trampoline)(%rbx), %rax",
    "xorl %ebp, %ebp",
    "pushq $0",
    "jmpq *%rax",
    ".balign 8",
    "72:",
    ".quad 0",
    ".quad 0x00cf9b000000ffff", // 0x08: 32-bit code
    ".quad 0x00af9b000000ffff", // 0x10: 64-bit code
    ".quad 0x00cf93000000ffff", // 0x18: data
    "71:",
    ".word 31",
    ".long 0",
    ".balign 4",
    "73:",
    ".long 0",
    ".word 0x08",
    ".balign 4",
    "75:",
    ".long 0",
    ".word 0x10",
    ".balign 8",
    ".globl overcast_trampoline_data",
    "overcast_trampoline_data:",
    "80: .quad 0", // CR3
    "81: .quad 0", // EFER
    "82: .quad 0", // stack
    "83: .quad 0", // entry
    "84: .quad 0", // CPU number
    ".globl overcast_trampoline_end",
    "overcast_trampoline_end:",
    ".popsection",
    options(att_syntax, raw),
);

unsafe extern "C" {
    static overcast_trampoline: u8;
    static overcast_trampoline_data: u8;
    static overcast_trampoline_end: u8;
}

/// What the trampoline is told; the order is that of its last words.
#[repr(C)]
struct TrampolineData {
    cr3: u64,
    efer: u64,
    stack: u64,
    entry: u64,
    cpu: u64,
}

const EFER_LME: u64 = 1 << 8;
const EFER_NXE: u64 = 1 << 11;

const IDLE: u32 = 0;
const STARTING: u32 = 1;
const ALIVE: u32 = 2;
const ABANDONED: u32 = 3;

static STATE: AtomicU32 = AtomicU32::new(IDLE);
/// The CPU that is started is in [`secondary_entry`].
static ARRIVED: AtomicBool = AtomicBool::new(false);
static MAIN: AtomicUsize = AtomicUsize::new(0);

/// How long a CPU may take to come up, ns. Generous, for first layers that
/// share their cores.
const START_TIMEOUT_NS: u64 = 3_000_000_000;

/// What a started CPU runs, on its own stack, with [`paging::idle_l4`] loaded and
/// interrupts off. It has no descriptor tables of its own yet.
pub type SecondaryMain = fn(CpuId) -> !;

/// The frames that [`prepare_area`] made for a CPU.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Page 14 of its GDT window: the hypervisor's own descriptors.
    pub gdt: Mfn,
    /// Its syscall stubs.
    pub stub: Mfn,
}

static ZERO_PAGE: AtomicU64 = AtomicU64::new(0);
static AREAS: Mutex<[Option<Area>; MAX_CPUS]> = Mutex::new([None; MAX_CPUS]);

/// The frame of zeros that fills unused pages of GDT windows.
///
/// # Errors
/// `NoMemory`.
pub fn zero_page() -> Result<Mfn> {
    let known = ZERO_PAGE.load(Ordering::Acquire);
    if known != 0 {
        return Ok(Mfn(known));
    }
    let mfn = memory::alloc_zeroed()?;
    match ZERO_PAGE.compare_exchange(0, mfn.0, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(mfn),
        Err(other) => {
            memory::free_frames(mfn, 0);
            Ok(Mfn(other))
        }
    }
}

/// [`zero_page`], once it was made.
pub fn zero_page_or_bug() -> Mfn {
    match ZERO_PAGE.load(Ordering::Acquire) {
        0 => super::panic::bug("the page of zeros is not there yet"),
        mfn => Mfn(mfn),
    }
}

/// Maps a CPU's stacks and windows and makes its per-CPU structure. The stub
/// page is mapped to be executed; write to it through the direct map.
///
/// # Errors
/// `NoMemory`; `Invalid` if there is no such CPU number.
pub fn prepare_area(cpu: CpuId, apic_id: u32) -> Result<Area> {
    if cpu.0 as usize >= MAX_CPUS {
        return Err(Error::Invalid);
    }
    let base = percpu::area_base(cpu);
    for offset in percpu::stack_page_offsets() {
        paging::map(
            base + offset,
            memory::alloc_zeroed()?,
            PageFlags::READ_WRITE,
        )?;
    }
    let area = Area {
        gdt: memory::alloc_zeroed()?,
        stub: memory::alloc_zeroed()?,
    };
    paging::map(
        base + percpu::STUB_OFFSET,
        area.stub,
        PageFlags::READ_EXECUTE,
    )?;
    let window = gdt_window(cpu);
    let zero = zero_page()?;
    for page in 0..GUEST_GDT_PAGES as u64 {
        paging::map(window + page * 4096, zero, PageFlags::READ_ONLY)?;
    }
    paging::map(
        window + (GDT_WINDOW_PAGES as u64 - 1) * 4096,
        area.gdt,
        PageFlags::READ_WRITE,
    )?;
    paging::make_tables(ldt_window(cpu), LDT_WINDOW_PAGES as u64)?;
    // SAFETY: the stack pages were just mapped, and the CPU is not on them yet.
    let this = unsafe { percpu::prepare(cpu, apic_id) };
    this.gdt_mfn.set(area.gdt.0);
    if let Some(slot) = AREAS.lock().get_mut(cpu.0 as usize) {
        *slot = Some(area);
    }
    Ok(area)
}

/// The frames of a CPU's area, once it is prepared.
pub fn area(cpu: CpuId) -> Option<Area> {
    AREAS.lock().get(cpu.0 as usize).copied().flatten()
}

/// The address space of the trampoline: its page at its physical address, and
/// the hypervisor. Returns the L4, below 4 GiB.
fn trampoline_tables(page: u64) -> Result<Mfn> {
    let table = |bits: Option<u32>| -> Result<Mfn> {
        let mfn = memory::alloc_frames(0, bits)?;
        memory::zero_frames(mfn, 0);
        Ok(mfn)
    };
    let l4 = table(Some(32))?;
    let link = |parent: Mfn, index: u64, value: u64| {
        if let Some(frame) = Machine.frame(parent) {
            frame.store((index & 511) as usize, value);
        }
    };
    let mut parent = l4;
    for level in (1..4).rev() {
        let child = table(None)?;
        let index = page >> (12 + 9 * level);
        link(parent, index, child.address().0 | PageFlags::TABLE.bits());
        parent = child;
    }
    link(
        parent,
        page >> 12,
        page | PageFlags::READ_EXECUTE.bits() & !PageFlags::GLOBAL.bits(),
    );
    for (slot, value) in paging::hypervisor_slots().into_iter().enumerate() {
        link(l4, (paging::FIRST_SLOT + slot) as u64, value);
    }
    Ok(l4)
}

/// Gives back the tables of [`trampoline_tables`].
fn free_trampoline_tables(l4: Mfn, page: u64) {
    let mut parent = l4;
    for level in (1..4).rev() {
        let index = (page >> (12 + 9 * level) & 511) as usize;
        let child = Machine.frame(parent).map_or(0, |frame| frame.load(index));
        memory::free_frames(parent, 0);
        parent = Mfn(child >> 12 & 0xff_ffff_ffff);
    }
    memory::free_frames(parent, 0);
}

/// A page of RAM below 640 KiB for the trampoline. The first is left alone:
/// firmware keeps things there.
fn trampoline_page() -> Option<u64> {
    (1..0xa0)
        .rev()
        .find(|&n| Machine.frame(Mfn(n)).is_some())
        .map(|n| n << 12)
}

extern "sysv64" fn secondary_entry(cpu: u64) -> ! {
    if STATE
        .compare_exchange(STARTING, ALIVE, Ordering::SeqCst, Ordering::SeqCst)
        .is_err()
    {
        cpu::halt();
    }
    ARRIVED.store(true, Ordering::SeqCst);
    // SAFETY: this stack and the code are the same in the idle tables.
    unsafe { tlb::write_cr3(paging::idle_l4()) };
    time::compare_tsc(true);
    let main = MAIN.load(Ordering::SeqCst);
    // SAFETY: `start_all` stored a `SecondaryMain` there before this CPU started.
    let main = unsafe { core::mem::transmute::<usize, SecondaryMain>(main) };
    main(CpuId(cpu as u32))
}

/// Starts the other CPUs that the firmware lists, up to `max_cpus` in all,
/// each at `main`, which must call [`percpu::set_online`] when it is ready. The
/// boot CPU is CPU 0. What does not start is reported and left out.
pub fn start_all(max_cpus: u32, main: SecondaryMain) {
    let Some(madt) = acpi::info().and_then(|info| info.madt.as_ref()) else {
        return;
    };
    let own = apic::local_id();
    let wanted = madt.cpus.iter().filter(|cpu| cpu.enabled && cpu.id != own);
    let limit = max_cpus.min(MAX_CPUS as u32);
    if limit <= 1 {
        return;
    }
    let Some(page) = trampoline_page() else {
        log::error!("SMP: no RAM below 640 KiB to start CPUs in");
        return;
    };
    let l4 = match trampoline_tables(page) {
        Ok(l4) => l4,
        Err(error) => {
            log::error!("SMP: no page tables to start CPUs with: {error:?}");
            return;
        }
    };
    MAIN.store(main as usize, Ordering::SeqCst);
    let mut next = 1;
    let mut late = false;
    for apic in wanted {
        if next >= limit {
            log::info!("SMP: APIC id {:#x} not started (maxcpus)", apic.id);
            continue;
        }
        if apic.id > 0xfe && !apic::is_x2apic() {
            log::warn!("SMP: APIC id {:#x} needs x2APIC", apic.id);
            continue;
        }
        let cpu = CpuId(next);
        if let Err(error) = prepare_area(cpu, apic.id) {
            log::error!("SMP: no memory for CPU{cpu}: {error:?}");
            break;
        }
        // The number of a CPU that failed is not used again: it may be half way up.
        next += 1;
        if !start(cpu, apic.id, page, l4) {
            late = true;
            log::error!("SMP: CPU{cpu} (APIC id {:#x}) does not start", apic.id);
        }
    }
    // A CPU that comes late still needs them, to find out that it is.
    if !late {
        free_trampoline_tables(l4, page);
    }
}

fn start(cpu: CpuId, apic_id: u32, page: u64, l4: Mfn) -> bool {
    let begin = &raw const overcast_trampoline;
    let length = &raw const overcast_trampoline_end as usize - begin as usize;
    let data_offset = &raw const overcast_trampoline_data as u64 - begin as u64;
    let at = direct(Mfn(page >> 12));
    let nx = if cpu::features().nx { EFER_NXE } else { 0 };
    // SAFETY: the page is RAM below 1 MiB, which is never handed out, and no
    // CPU is in it: they start one at a time, and leave it before they are
    // `ALIVE`, or find the same code there.
    unsafe {
        core::ptr::copy_nonoverlapping(begin, at as *mut u8, length);
        ((at + data_offset) as *mut TrampolineData).write_volatile(TrampolineData {
            cr3: l4.address().0,
            efer: EFER_LME | nx,
            stack: percpu::guest_frame_address(cpu) & !15,
            entry: secondary_entry as *const () as u64,
            cpu: u64::from(cpu.0),
        });
    }
    let online = percpu::online_count();
    STATE.store(STARTING, Ordering::SeqCst);
    ARRIVED.store(false, Ordering::SeqCst);
    time::prepare_tsc_comparison();
    apic::send_init(apic_id);
    time::delay_ns(200_000);
    apic::send_startup(apic_id, (page >> 12) as u8);
    let end = time::now() + START_TIMEOUT_NS;
    let mut again = time::now() + 20_000_000;
    while !ARRIVED.load(Ordering::SeqCst) {
        let now = time::now();
        if now > end {
            let given_up =
                STATE.compare_exchange(STARTING, ABANDONED, Ordering::SeqCst, Ordering::SeqCst);
            if given_up.is_ok() {
                return false;
            }
        }
        if now > again && STATE.load(Ordering::SeqCst) == STARTING {
            // A second STARTUP is in the specification, and ignored by a CPU that runs.
            apic::send_startup(apic_id, (page >> 12) as u8);
            again = u64::MAX;
        }
        core::hint::spin_loop();
    }
    time::compare_tsc(false);
    // From here on the CPU runs its main; give it the same time again.
    let end = time::now() + START_TIMEOUT_NS;
    while percpu::online_count() == online && time::now() < end {
        tlb::serve();
        core::hint::spin_loop();
    }
    percpu::online_count() != online
}

// --- calls -------------------------------------------------------------------

struct Call {
    function: AtomicUsize,
    argument: AtomicU64,
    /// Bit a CPU: it has to call yet.
    pending: [AtomicU64; MAX_CPUS / 64],
}

static CALL: Call = Call {
    function: AtomicUsize::new(0),
    argument: AtomicU64::new(0),
    pending: [const { AtomicU64::new(0) }; MAX_CPUS / 64],
};
/// One call at a time. Held with interrupts on or off: waiters serve what others want.
static CALL_LOCK: SpinMutex<(), ServeAll> = SpinMutex::new(());

/// Waits, serving flushes and calls.
struct ServeAll;

impl spin::RelaxStrategy for ServeAll {
    fn relax() {
        serve_call();
        tlb::serve();
        core::hint::spin_loop();
    }
}

/// Calls `function(argument)` on each of the CPUs that is online (on this one,
/// too, if it is among them), and returns when all have done so. The function
/// runs as in an interrupt handler: it takes no locks and is short.
pub fn call_function(cpus: &CpuSet, function: fn(u64), argument: u64) {
    let own = percpu::this().cpu;
    {
        let _guard = CALL_LOCK.lock();
        CALL.argument.store(argument, Ordering::SeqCst);
        CALL.function.store(function as usize, Ordering::SeqCst);
        for target in percpu::all() {
            let cpu = target.cpu;
            if cpu != own && cpus.contains(cpu) && tlb::is_online(cpu) {
                CALL.pending[cpu.0 as usize / 64].fetch_or(1 << (cpu.0 % 64), Ordering::SeqCst);
                apic::send_ipi(cpu, apic::VECTOR_CALL);
            }
        }
        while CALL
            .pending
            .iter()
            .any(|word| word.load(Ordering::SeqCst) != 0)
        {
            tlb::serve();
            core::hint::spin_loop();
        }
    }
    if cpus.contains(own) {
        function(argument);
    }
}

/// Makes the call that another CPU wants of this one.
pub fn serve_call() {
    let Some(this) = percpu::try_this() else {
        return;
    };
    let word = &CALL.pending[this.cpu.0 as usize / 64];
    let bit = 1 << (this.cpu.0 % 64);
    // Interrupts off, so that the interrupt does not make the same call in the midst of it.
    cpu::without_interrupts(|| {
        if word.load(Ordering::SeqCst) & bit != 0 {
            let function = CALL.function.load(Ordering::SeqCst);
            // SAFETY: `call_function` stored a `fn(u64)` before it set the bit,
            // and changes it only when all bits are clear.
            let function = unsafe { core::mem::transmute::<usize, fn(u64)>(function) };
            function(CALL.argument.load(Ordering::SeqCst));
            word.fetch_and(!bit, Ordering::SeqCst);
        }
    });
}
