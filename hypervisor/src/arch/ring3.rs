//! An instruction tried in ring 3, before there is any guest.
//!
//! A page with `cpuid; ud2` is shown to ring 3 at the end of the part of the address space that
//! guests may read (with the machine-to-phys table), and entered with an IRET. What comes
//! back, by gates of its own and on the stack of double faults, tells what CPUID did: #GP if it
//! faulted, #UD of the instruction behind it else.

use core::arch::naked_asm;
use core::sync::atomic::AtomicU64;

use x86_64::registers::control::Cr3;

use crate::arch::descriptors::{self, selector};
use crate::arch::paging::{self, PageFlags};
use crate::arch::registers::vector;

/// The last page that ring 3 may see of the hypervisor's address space.
const PAGE: u64 = paging::M2P_BASE + (1 << 39) - 4096;

#[repr(C, align(4096))]
struct Code([u8; 4096]);

/// `cpuid; ud2`, and traps.
static CODE: Code = {
    let mut code = [0xcc; 4096];
    [code[0], code[1], code[2], code[3]] = [0x0f, 0xa2, 0x0f, 0x0b];
    Code(code)
};

/// The stack pointer to come back to.
static BACK: AtomicU64 = AtomicU64::new(0);

/// Goes to `rip` in ring 3; gives the vector of the exception that ends it.
///
/// # Safety
/// The gates of #UD and #GP lead to [`on_invalid_opcode`] and [`on_protection_fault`] on a stack
/// that is not in use; interrupts are off; `rip` raises one of the two, changes nothing that the
/// hypervisor needs, and no other CPU is here.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(rip: u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rip + {back}], rsp",
        "push {ss}",
        "push 0",
        // Flags: none but the bit that is always set.
        "push 2",
        "push {cs}",
        "push rdi",
        "xor eax, eax",
        "xor ecx, ecx",
        "iretq",
        back = sym BACK,
        ss = const selector::RING3_SS as i32,
        cs = const selector::RING3_CS64 as i32,
    )
}

/// The end of [`enter`], with its result in %eax.
#[unsafe(naked)]
unsafe extern "sysv64" fn leave() -> ! {
    naked_asm!(
        "mov rsp, [rip + {back}]",
        "mov ecx, {ds}",
        "mov ss, ecx",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        back = sym BACK,
        ds = const selector::HYPERVISOR_DS as i32,
    )
}

#[unsafe(naked)]
unsafe extern "sysv64" fn on_invalid_opcode() -> ! {
    naked_asm!("mov eax, {vector}", "jmp {leave}", vector = const vector::INVALID_OPCODE as i32, leave = sym leave)
}

#[unsafe(naked)]
unsafe extern "sysv64" fn on_protection_fault() -> ! {
    naked_asm!("mov eax, {vector}", "jmp {leave}", vector = const vector::GENERAL_PROTECTION as i32, leave = sym leave)
}

/// Whether CPUID faults in ring 3 on this CPU, by trying. `None` if it cannot be tried: only
/// the boot CPU can, before a guest runs.
pub fn cpuid_faults() -> Option<bool> {
    if Cr3::read_raw().0.start_address().as_u64() != paging::idle_l4().address().0 {
        return None;
    }
    let frame = paging::translate((&raw const CODE) as u64)?;
    let shown = PageFlags::PRESENT | PageFlags::ACCESSED | PageFlags::USER;
    paging::map(PAGE, frame.frame(), shown).ok()?;
    let gates = [
        (
            vector::INVALID_OPCODE,
            on_invalid_opcode as *const () as u64,
        ),
        (
            vector::GENERAL_PROTECTION,
            on_protection_fault as *const () as u64,
        ),
    ];
    // SAFETY: the gates are those that it needs, on a stack of their own; only the boot CPU runs
    // on the idle tables before there are guests; CPUID changes registers that are the
    // compiler's to lose in a call, or that `enter` keeps.
    let end = descriptors::with_gates(&gates, || unsafe { enter(PAGE) });
    paging::unmap_local(PAGE);
    Some(end == u64::from(vector::GENERAL_PROTECTION))
}
