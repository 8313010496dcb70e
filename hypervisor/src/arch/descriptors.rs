//! Descriptor tables and the system-call entry points of each CPU.
//!
//! The GDT that a CPU uses is a window of [`GDT_WINDOW_PAGES`] pages: the first
//! 14 show the frames that the running guest gave with `set_gdt` (or a page of
//! zeros), page 14 the hypervisor's own descriptors, among them the selectors
//! that the public headers promise every guest (`FLAT_RING3_CS64` and so on,
//! xen/arch-x86/xen-x86_64.h). The window of a CPU's LDT follows; its pages
//! appear when they are first touched.

use core::mem::size_of;
use core::ptr;

use overcast_core::addr::Mfn;
use overcast_core::ids::CpuId;
use overcast_core::machine::Memory;
use spin::Once;

use crate::arch::memory::Machine;
use crate::arch::{entry, msr, percpu};

/// Selectors of the hypervisor's page of the GDT.
pub mod selector {
    /// Ring 0 code, 64-bit.
    pub const HYPERVISOR_CS: u16 = 0xe008;
    /// Ring 0 data.
    pub const HYPERVISOR_DS: u16 = 0xe010;
    /// Ring 3 code, compatibility mode (`FLAT_RING3_CS32`).
    pub const RING3_CS32: u16 = 0xe023;
    /// Ring 3 data (`FLAT_RING3_SS64`).
    pub const RING3_SS: u16 = 0xe02b;
    /// Ring 3 code, 64-bit (`FLAT_RING3_CS64`).
    pub const RING3_CS64: u16 = 0xe033;
    /// The CPU's task state segment.
    pub const TSS: u16 = 0xe040;
    /// The running guest's LDT.
    pub const LDT: u16 = 0xe050;
}

/// Pages of a guest's own descriptors (`FIRST_RESERVED_GDT_PAGE`).
pub const GUEST_GDT_PAGES: usize = 14;
/// Pages in the window of the GDT, the hypervisor's own included.
pub const GDT_WINDOW_PAGES: usize = 15;
/// Where the windows of CPU 0 are.
const WINDOW_BASE: u64 = 0xffff_82b8_0000_0000;
/// Distance between the windows of two CPUs.
const WINDOW_STRIDE: u64 = 0x4_0000;
/// Offset of the LDT's window from the GDT's.
const LDT_OFFSET: u64 = 0x2_0000;
/// Pages in the window of the LDT (8192 descriptors).
pub const LDT_WINDOW_PAGES: usize = 16;

/// First address of the window of a CPU's GDT.
pub const fn gdt_window(cpu: CpuId) -> u64 {
    WINDOW_BASE + cpu.0 as u64 * WINDOW_STRIDE
}

/// First address of the window of a CPU's LDT.
pub const fn ldt_window(cpu: CpuId) -> u64 {
    gdt_window(cpu) + LDT_OFFSET
}

#[repr(C, packed)]
struct Tss {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    iomap: u16,
}

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    /// An interrupt gate: to a handler, on a stack of the interrupt stack table or 0, for the
    /// rings up to `dpl`.
    fn new(handler: u64, ist: u64, dpl: u64) -> Self {
        Self {
            low: (handler & 0xffff)
                | (u64::from(selector::HYPERVISOR_CS) << 16)
                | (ist << 32)
                | ((0x8e | dpl << 5) << 40)
                | ((handler >> 16 & 0xffff) << 48),
            high: handler >> 32,
        }
    }
}

const IDT_ENTRIES: usize = 256;

static IDT: Once<[Gate; IDT_ENTRIES]> = Once::new();

/// Index into the interrupt stack table that a vector uses, or 0.
fn ist_of(vector: u8) -> u64 {
    use crate::arch::registers::vector::*;
    match vector {
        NMI => 1,
        MACHINE_CHECK => 2,
        DOUBLE_FAULT => 3,
        DEBUG => 4,
        _ => 0,
    }
}

fn build_idt() -> [Gate; IDT_ENTRIES] {
    let mut idt = [Gate { low: 0, high: 0 }; IDT_ENTRIES];
    for (vector, gate) in idt.iter_mut().enumerate() {
        let handler = entry::vector_entry(vector as u8);
        // INT3, INTO and INT 0x80 reach their gates from ring 3; every other
        // `int n` of a guest faults and is looked at by its bytes.
        let dpl = if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 };
        *gate = Gate::new(handler, ist_of(vector as u8), dpl);
    }
    idt
}

fn load_idt_from(idt: &[Gate; IDT_ENTRIES]) {
    let pointer = TablePointer {
        limit: (size_of::<[Gate; IDT_ENTRIES]>() - 1) as u16,
        base: idt.as_ptr() as u64,
    };
    // SAFETY: each gate leads to an entry of ours, and the table lives for as long as it is
    // loaded: for ever, or until `with_gates` ends.
    unsafe { core::arch::asm!("lidt [{}]", in(reg) &pointer, options(nostack, preserves_flags)) };
}

/// Does something with other entries for some vectors on this CPU, given as vector and handler.
/// They have the stack of double faults, and interrupts are off.
pub fn with_gates<T>(gates: &[(u8, u64)], action: impl FnOnce() -> T) -> T {
    let mut idt = alloc::boxed::Box::new(build_idt());
    for &(vector, handler) in gates {
        idt[usize::from(vector)] = Gate::new(
            handler,
            ist_of(crate::arch::registers::vector::DOUBLE_FAULT),
            0,
        );
    }
    x86_64::instructions::interrupts::without_interrupts(|| {
        load_idt_from(&idt);
        let result = action();
        load_idt();
        result
    })
}

/// Loads the IDT on this CPU; usable from the first moment on (before the
/// per-CPU areas there are no separate stacks, so double faults are final).
pub fn load_idt() {
    load_idt_from(IDT.call_once(build_idt));
}

/// Fills the hypervisor's page of a CPU's GDT.
fn fill_gdt(page: &mut [u64; 512], tss: u64, ldt: u64) {
    page.fill(0);
    page[1] = 0x00af_9b00_0000_ffff; // 0xe008 ring 0 code, 64-bit
    page[2] = 0x00cf_9300_0000_ffff; // 0xe010 ring 0 data
    page[4] = 0x00cf_fb00_0000_ffff; // 0xe023 ring 3 code, compatibility
    page[5] = 0x00cf_f300_0000_ffff; // 0xe02b ring 3 data
    page[6] = 0x00af_fb00_0000_ffff; // 0xe033 ring 3 code, 64-bit
    page[7] = 0x00cf_9b00_0000_ffff; // 0xe038 ring 0 code, compatibility
    let (low, high) = system_descriptor(tss, size_of::<Tss>() as u64 - 1, 0x89);
    page[8] = low;
    page[9] = high;
    let (low, high) = system_descriptor(ldt, 0, 0x82);
    page[10] = low;
    page[11] = high;
}

/// The two words of a system descriptor.
fn system_descriptor(base: u64, limit: u64, access: u64) -> (u64, u64) {
    let low = (limit & 0xffff)
        | ((base & 0xff_ffff) << 16)
        | (access << 40)
        | ((limit >> 16 & 0xf) << 48)
        | ((base >> 24 & 0xff) << 56);
    (low, base >> 32)
}

/// Memory of a CPU's tables that lives for ever.
pub struct CpuTables {
    tss: Tss,
}

/// Loads this CPU's GDT, TSS and system-call entry points. The CPU runs on its
/// per-CPU stack already.
///
/// # Safety
/// The pages of the GDT's window and of the stub are mapped: window pages 0 to
/// 13 to `zero_page`, page 14 to a frame that is writable through `gdt_page`,
/// and the stub page is writable through `stub_page` and executable at its
/// address in the per-CPU area. `tables` is used by no other CPU.
pub unsafe fn load(
    cpu: CpuId,
    tables: &'static mut CpuTables,
    gdt_page: &mut [u64; 512],
    stub_page: &mut [u8; 4096],
) {
    let base = percpu::area_base(cpu);
    tables.tss.rsp[0] = percpu::entry_stack(cpu);
    for (ist, top) in percpu::IST_TOPS.iter().enumerate() {
        tables.tss.ist[ist] = base + top;
    }
    tables.tss.iomap = size_of::<Tss>() as u16;
    fill_gdt(gdt_page, ptr::from_ref(&tables.tss) as u64, ldt_window(cpu));
    let pointer = TablePointer {
        limit: (GDT_WINDOW_PAGES * 4096 - 1) as u16,
        base: gdt_window(cpu),
    };
    // SAFETY: the window's page 14 holds the descriptors that are loaded here;
    // the code segment's base and limit are those in use already.
    unsafe {
        core::arch::asm!(
            "lgdt [{pointer}]",
            "push {cs}",
            "lea {tmp}, [rip + 2f]",
            "push {tmp}",
            "retfq",
            "2:",
            "mov ss, {ds:e}",
            "xor {tmp:e}, {tmp:e}",
            "mov ds, {tmp:e}",
            "mov es, {tmp:e}",
            "mov fs, {tmp:e}",
            "mov gs, {tmp:e}",
            "ltr {tss:x}",
            "lldt {tmp:x}",
            pointer = in(reg) &pointer,
            cs = in(reg) u64::from(selector::HYPERVISOR_CS),
            ds = in(reg) u64::from(selector::HYPERVISOR_DS),
            tss = in(reg) selector::TSS,
            tmp = out(reg) _,
        );
    }
    load_idt();
    let stubs = write_stubs(cpu, stub_page);
    let star = (u64::from(selector::RING3_CS32) << 48) | (u64::from(selector::HYPERVISOR_CS) << 32);
    // Cleared by SYSCALL: everything that could disturb the entry, and AC for SMAP.
    let mask = 0x100 | 0x200 | 0x400 | 0x3000 | 0x4000 | 0x1_0000 | 0x2_0000 | 0x4_0000;
    // SAFETY: the entry points are ours and lead onto this CPU's own stack.
    unsafe {
        msr::write(msr::STAR, star);
        msr::write(msr::LSTAR, stubs.0);
        msr::write(msr::CSTAR, stubs.1);
        msr::write(msr::FMASK, mask);
        // AMD CPUs have no SYSENTER in long mode; the MSRs exist all the same.
        msr::write(msr::SYSENTER_CS, u64::from(selector::HYPERVISOR_CS));
        msr::write(msr::SYSENTER_ESP, percpu::entry_stack(cpu));
        msr::write(msr::SYSENTER_EIP, entry::sysenter_entry as *const () as u64);
    }
}

/// Memory for a CPU's tables.
pub fn allocate_tables() -> &'static mut CpuTables {
    alloc::boxed::Box::leak(alloc::boxed::Box::new(CpuTables {
        tss: Tss {
            reserved0: 0,
            rsp: [0; 3],
            reserved1: 0,
            ist: [0; 7],
            reserved2: 0,
            reserved3: 0,
            iomap: 0,
        },
    }))
}

/// Writes the two stubs to which SYSCALL leads on this CPU, and gives their
/// addresses (64-bit, compatibility mode).
///
/// SYSCALL changes neither the stack pointer nor any register that the guest
/// does not need, and FS and GS bases are the guest's, so the way to this CPU's
/// stack is in the code itself: each CPU has its own stub with its own address.
/// %rax goes to the frame's SS slot, %rsp to the RSP slot; `entry` goes on from there.
fn write_stubs(cpu: CpuId, page: &mut [u8; 4096]) -> (u64, u64) {
    let address = percpu::area_base(cpu) + percpu::STUB_OFFSET;
    let ss_slot = percpu::entry_stack(cpu) - 8;
    page.fill(0xcc);
    let mut write = |at: usize, target: u64| {
        let mut code = alloc::vec::Vec::with_capacity(64);
        code.extend([0x48, 0xa3]); // movabs %rax, [ss_slot]
        code.extend(ss_slot.to_le_bytes());
        code.extend([0x48, 0x89, 0xe0]); // mov %rsp, %rax
        code.extend([0x48, 0xbc]); // movabs $ss_slot, %rsp
        code.extend(ss_slot.to_le_bytes());
        code.push(0x50); // push %rax
        // The image lies further than a 32-bit displacement away: jump through
        // a literal behind the instruction.
        code.extend([0xff, 0x25, 0, 0, 0, 0]); // jmp *[rip + 0]
        code.extend(target.to_le_bytes());
        page[at..at + code.len()].copy_from_slice(&code);
    };
    write(0, entry::syscall64_entry as *const () as u64);
    write(128, entry::syscall32_entry as *const () as u64);
    (address, address + 128)
}

/// Shows a guest's GDT frames on this CPU; pages that it does not have show
/// zeros. The caller is the CPU itself and reloads no selectors between.
pub fn map_guest_gdt(frames: &[Mfn], zero_page: Mfn) {
    let this = percpu::this();
    let base = gdt_window(this.cpu);
    let mapped = this.gdt_pages.get() as usize;
    for page in 0..frames.len().max(mapped) {
        let frame = frames.get(page).copied().unwrap_or(zero_page);
        crate::arch::paging::map_local(base + page as u64 * 4096, frame, frames.len() > page);
    }
    this.gdt_pages.set(frames.len() as u32);
}

/// Sets the LDT register of this CPU to `entries` descriptors in the window, or
/// to none. `gdt_mfn` is the frame of the hypervisor's page of this CPU's GDT.
pub fn load_ldt(gdt_mfn: u64, entries: u32) {
    let cpu = percpu::this().cpu;
    if entries == 0 {
        // SAFETY: a null LDT selector is always valid.
        unsafe {
            core::arch::asm!("lldt {0:x}", in(reg) 0u32, options(nostack, preserves_flags));
        }
        return;
    }
    let Some(page) = Machine.frame(Mfn(gdt_mfn)) else {
        return;
    };
    let (low, high) = system_descriptor(ldt_window(cpu), u64::from(entries) * 8 - 1, 0x82);
    page.store(10, low);
    page.store(11, high);
    // SAFETY: the descriptor was just written and describes this CPU's window.
    unsafe {
        core::arch::asm!("lldt {0:x}", in(reg) u32::from(selector::LDT), options(nostack, preserves_flags));
    }
}
