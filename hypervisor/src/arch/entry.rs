//! Entry into the hypervisor and return to guests, in assembly.
//!
//! Every entry from a guest leaves its [`Registers`] at the top of this CPU's
//! primary stack ([`percpu::guest_frame`]); nothing else lies above them. On
//! the way out, `exit_to_guest` may exchange the contents of that frame for
//! those of another vCPU: that is all of a context switch that the assembly sees.
//!
//! Entries that happen where the stack pointer cannot be trusted (NMI, machine
//! check, double fault, and debug exceptions, which a `mov ss` before a SYSCALL
//! delays into the first instruction of the entry) have stacks of their own and
//! move to the primary one when they came from a guest.
//!
//! [`percpu::guest_frame`]: crate::arch::percpu::guest_frame

use core::arch::global_asm;
use core::mem::{offset_of, size_of};

use overcast_core::addr::GuestVirtual;
use xen_abi::arch_x86::VGCF_IN_SYSCALL;
use xen_abi::xen::VMASST_TYPE_ARCHITECTURAL_IOPL;

use crate::arch::paging::DIRECT_MAP_BASE;
use crate::arch::percpu::{Header, PerCpu, STACK_REGION};
use crate::arch::registers::{Registers, rflags};
use crate::domain::Domain;
use crate::vcpu::{self, AsyncException, Callback, Vcpu};

global_asm!(
    // Clears EFLAGS.AC, so that SMAP holds, where the CPU has it.
    ".macro GUARD_AC",
    "cmp byte ptr [rip + {smap}], 0",
    "je 771f",
    "clac",
    "771:",
    ".endm",
    // Lets the hypervisor touch what user space can, where the CPU has SMAP.
    ".macro ALLOW_GUEST",
    "cmp byte ptr [rip + {smap}], 0",
    "je 772f",
    "stac",
    "772:",
    ".endm",
    ".macro FORBID_GUEST",
    "GUARD_AC",
    ".endm",
    ".macro PUSH_ALL",
    "push rdi",
    "push rsi",
    "push rdx",
    "push rcx",
    "push rax",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    ".endm",
    ".macro POP_ALL",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rax",
    "pop rcx",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    ".endm",
    ".text",
    // One entry a vector, 16 bytes each. The vector goes into the upper half of
    // the error code's slot, which the CPU or the entry itself pushed.
    ".p2align 4",
    ".global overcast_vector_entries",
    "overcast_vector_entries:",
    ".set vector, 0",
    ".rept 256",
    ".p2align 4",
    ".if !((vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))",
    "push 0",
    ".endif",
    "mov dword ptr [rsp + 4], vector",
    ".if (vector == 1) || (vector == 2) || (vector == 8) || (vector == 18)",
    "jmp overcast_own_stack",
    ".else",
    "jmp overcast_exception",
    ".endif",
    ".set vector, vector + 1",
    ".endr",
    ".p2align 4",
    "overcast_exception:",
    "cld",
    "GUARD_AC",
    "PUSH_ALL",
    "overcast_exception_saved:",
    "mov rdi, rsp",
    // A page fault of a guest is the most frequent one.
    "cmp dword ptr [rsp + {vector}], 14",
    "jne 8f",
    "test byte ptr [rsp + {cs}], 3",
    "jz 8f",
    "sub rsp, 8",
    "call {page_fault}",
    "add rsp, 8",
    "jmp overcast_return_to_guest",
    "8:",
    "sub rsp, 8",
    "call {exception}",
    // The handler gives the frame to go on with.
    "mov rsp, rax",
    "test byte ptr [rsp + {cs}], 3",
    "jnz overcast_return_to_guest",
    "POP_ALL",
    "add rsp, 8",
    "iretq",
    ".p2align 4",
    "overcast_own_stack:",
    "cld",
    "GUARD_AC",
    "PUSH_ALL",
    "test byte ptr [rsp + {cs}], 3",
    "jnz 1f",
    // Virtual-8086 mode is the guest's as well, whatever the selector (see
    // `traps::from_virtual_8086`).
    "test dword ptr [rsp + {rflags}], {flag_vm}",
    "jz overcast_exception_saved",
    "1:",
    "mov rsi, rsp",
    "mov rdi, rsp",
    "or rdi, {region} - 1",
    "sub rdi, {above} - 1",
    "mov rsp, rdi",
    "mov ecx, {words}",
    "rep movsq",
    "jmp overcast_exception_saved",
    // SYSCALL from 64-bit mode. The stub of the CPU put %rax into the frame's
    // SS slot and pushed %rsp.
    ".p2align 4",
    ".global overcast_syscall64_entry",
    "overcast_syscall64_entry:",
    // Two things are done here, without saving all registers, unless anything is
    // out of the ordinary: a system call of user space goes to the callback, and
    // the iret hypercall goes back. A null system call costs 160 instructions so;
    // by way of Rust (`pv::syscall` and `hypercall::misc::iret`, which say what
    // must happen) it is 590.
    //
    // rcx and r11 are the guest's rip and rflags. The stack, once the scratch
    // words are there:
    //   0 rcx as it was   8 r11 as it was   16 rsp   24 ss   32 r11   40 rcx
    //   48 rax   56 the new event mask     (16 to 48: of the frame for iret)
    //   64 rbx   72 rdx   80 rsi   88 rdi   96 guest's rsp   104 guest's rax
    //   112 the header
    "push rdi",
    "mov rdi, [rsp + 24]",               // PerCpu
    "mov rdi, [rdi + {percpu_current}]", // Vcpu
    "cmp byte ptr [rdi + {vcpu_kernel_mode}], 0",
    "je 19f",
    "cmp qword ptr [rsp + 16], 23",
    "je 19f",
    // Any other hypercall.
    "pop rdi",
    "jmp 30f",
    "19:",
    "push rsi",
    "push rdx",
    "push rbx",
    "sub rsp, 64",
    "mov rsi, [rsp + 112]", // PerCpu
    "mov [rsp], rcx",
    "mov [rsp + 8], r11",
    "cmp dword ptr [rsi + {percpu_softirqs}], 0",
    "jne 29f",
    "cmp word ptr [rdi + {vcpu_async_pending}], 0",
    "jne 29f",
    "movabs rbx, {direct_map}",
    "add rbx, [rdi + {vcpu_info}]",
    "cmp byte ptr [rdi + {vcpu_kernel_mode}], 0",
    "jne 20f",
    // --- A system call of user space.
    "mov rdx, [rdi + {vcpu_syscall_frame}]",
    "test rdx, rdx",
    "jz 29f",
    "cmp qword ptr [rdi + {vcpu_syscall_address}], 0",
    "je 29f",
    "cmp byte ptr [rdi + {vcpu_time_stale}], 0",
    "jne 29f",
    "cmp byte ptr [rdi + {vcpu_runstate_stale}], 0",
    "jne 29f",
    "movzx esi, byte ptr [rbx + 1]",
    // An event that may be delivered comes first.
    "cmp byte ptr [rbx], 0",
    "je 11f",
    "test esi, esi",
    "jz 29f",
    "11:",
    "mov rax, [rdi + {vcpu_kernel_cr3}]",
    "mov cr3, rax",
    "ALLOW_GUEST",
    ".global overcast_fast_frame_first",
    "overcast_fast_frame_first:",
    "mov [rdx], rcx",
    "mov [rdx + 8], r11",
    "mov [rdx + 16], rcx",
    "mov rax, [rsp + 96]",
    "mov [rdx + 40], rax", // rsp
    "mov qword ptr [rdx + 48], 0xe02b",
    // cs, and the event mask in bits 32 to 39
    "mov rax, rsi",
    "shl rax, 32",
    "or rax, 0xe033",
    "mov [rdx + 24], rax",
    // rflags: IF says that events were not masked; the guest's own IOPL.
    "and r11d, {frame_flags}",
    "xor esi, 1",
    "and esi, 1",
    "shl esi, 9",
    "or rsi, r11",
    "mov rax, [rdi + {vcpu_domain}]",
    "test byte ptr [rax + {domain_assists}], {assist_iopl}",
    "jz 12f",
    "or rsi, [rdi + {vcpu_iopl}]",
    "12:",
    ".global overcast_fast_frame_last",
    "overcast_fast_frame_last:",
    "mov [rdx + 32], rsi",
    "FORBID_GUEST",
    "swapgs",
    "mov byte ptr [rdi + {vcpu_kernel_mode}], 1",
    "mov al, [rdi + {vcpu_syscall_mask}]",
    "or [rbx + 1], al",
    "and r11d, {entry_flags}",
    "or r11d, 0x202",
    "mov rcx, [rdi + {vcpu_syscall_address}]",
    "mov rax, [rsp + 104]",
    "mov [rsp + 96], rdx", // the guest's rsp
    "mov rbx, [rsp + 64]",
    "mov rdx, [rsp + 72]",
    "mov rsi, [rsp + 80]",
    "mov rdi, [rsp + 88]",
    "mov rsp, [rsp + 96]",
    "sysretq",
    // --- The iret hypercall.
    "20:",
    "cmp byte ptr [rdi + {vcpu_async_mask}], 0",
    "jne 29f",
    // The frame is outside the hypervisor's range (72 bytes cannot reach into it
    // from below: there is the hole of addresses that are not canonical).
    "mov rax, [rsp + 96]",
    "test rax, rax",
    "jns 21f",
    "movabs rdx, {hypervisor_end}",
    "cmp rax, rdx",
    "jb 29f",
    "cmp rax, -72",
    "ja 29f",
    "21:",
    "ALLOW_GUEST",
    ".global overcast_fast_iret_first",
    "overcast_fast_iret_first:",
    "mov rdx, [rax + 56]",
    "mov [rsp + 16], rdx", // rsp
    "mov rdx, [rax + 64]",
    "mov [rsp + 24], rdx", // ss
    "mov rdx, [rax + 8]",
    "mov [rsp + 32], rdx", // r11
    "mov rdx, [rax + 16]",
    "mov [rsp + 40], rdx", // rcx
    "mov rdx, [rax]",
    "mov [rsp + 48], rdx", // rax
    "mov rdx, [rax + 40]", // cs
    "mov rsi, [rax + 48]", // rflags
    "mov rcx, [rax + 32]", // rip
    ".global overcast_fast_iret_last",
    "overcast_fast_iret_last:",
    "mov rax, [rax + 24]", // flags
    "FORBID_GUEST",
    // Traps, nested tasks and the like take the long way.
    "test esi, {odd_flags}",
    "jnz 28f",
    // The new event mask is the opposite of IF. If it opens, and an event waits,
    // that is to be delivered.
    "mov r11d, esi",
    "not r11d",
    "shr r11d, 9",
    "and r11d, 1",
    "jnz 22f",
    "cmp byte ptr [rbx], 0",
    "jne 28f",
    "22:",
    "mov [rsp + 56], r11",
    "mov r11d, edx",
    "and r11d, 3",
    "cmp r11d, 3",
    "jne 23f",
    // To user mode.
    "mov r11, [rdi + {vcpu_user_cr3}]",
    "test r11, r11",
    "jz 28f",
    "swapgs",
    "mov byte ptr [rdi + {vcpu_kernel_mode}], 0",
    "mov cr3, r11",
    "23:",
    // From here on there is no way back.
    "mov r11, [rsp + 56]",
    "mov [rbx + 1], r11b",
    "mov rbx, [rdi + {vcpu_domain}]",
    "test byte ptr [rbx + {domain_assists}], {assist_iopl}",
    "jz 24f",
    "mov ebx, esi",
    "and ebx, 0x3000",
    "mov [rdi + {vcpu_iopl}], rbx",
    "24:",
    "and esi, {iret_flags}",
    "or esi, 0x200",
    "or edx, 3",
    "movzx edx, dx",
    "test eax, {in_syscall}",
    "jz 26f",
    // SYSRET, if the address is canonical and the code is not the 32-bit segment.
    "mov rax, rcx",
    "sar rax, 47",
    "inc rax",
    "cmp rax, 1",
    "ja 25f",
    "cmp edx, 0xe023",
    "je 25f",
    "mov r11, rsi",
    "mov rax, [rsp + 48]",
    "mov rbx, [rsp + 64]",
    "mov rdx, [rsp + 72]",
    "mov rsi, [rsp + 80]",
    "mov rdi, [rsp + 88]",
    "mov rsp, [rsp + 16]",
    "sysretq",
    "25:",
    // By IRET, with rcx and r11 as SYSRET would leave them.
    "mov [rsp + 40], rcx",
    "mov [rsp + 32], rsi",
    "26:",
    // The frame for IRETQ goes to the top of the stack, where `failed_return`
    // looks for it. The saved rdx, rsi and rdi lie there, so they are taken first.
    "mov rax, [rsp + 24]",
    "or eax, 3",
    "movzx eax, ax",
    "mov [rsp + 104], rax", // ss
    "mov rax, [rsp + 16]",
    "mov [rsp + 96], rax", // rsp
    "mov rdi, [rsp + 88]",
    "mov [rsp + 88], rsi", // rflags
    "mov rsi, [rsp + 80]",
    "mov [rsp + 80], rdx", // cs
    "mov rdx, [rsp + 72]",
    "mov [rsp + 72], rcx", // rip
    "mov rbx, [rsp + 64]",
    "mov rax, [rsp + 48]",
    "mov rcx, [rsp + 40]",
    "mov r11, [rsp + 32]",
    "add rsp, 72",
    "jmp overcast_iret",
    // A fault while the frame was written, with the kernel's page tables loaded:
    // the long way meets it again.
    ".global overcast_fast_frame_fault",
    "overcast_fast_frame_fault:",
    "mov rdx, [rdi + {vcpu_user_cr3}]",
    "mov cr3, rdx",
    ".global overcast_fast_iret_fault",
    "overcast_fast_iret_fault:",
    "FORBID_GUEST",
    "28:",
    "mov rcx, [rsp]",
    "mov r11, [rsp + 8]",
    "29:",
    "add rsp, 64",
    "pop rbx",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "30:",
    "mov rax, [rsp + 8]",
    "mov qword ptr [rsp + 8], 0xe02b",
    "push r11",
    "push 0xe033",
    "push rcx",
    "push 0",
    "mov dword ptr [rsp + 4], 0x100",
    "PUSH_ALL",
    "mov rdi, rsp",
    "sub rsp, 8",
    "call {syscall64}",
    "add rsp, 8",
    ".global overcast_return_to_guest",
    "overcast_return_to_guest:",
    // Most often nothing waits (what `exit_to_guest` looks for, with interrupts off).
    "cli",
    "mov rsi, [rsp + {frame_size}]", // PerCpu
    "mov rdi, [rsi + {percpu_current}]",
    "test rdi, rdi",
    "jz 4f",
    "cmp dword ptr [rsi + {percpu_softirqs}], 0",
    "jne 4f",
    "cmp word ptr [rdi + {vcpu_async_pending}], 0",
    "jne 4f",
    "movabs rbx, {direct_map}",
    "add rbx, [rdi + {vcpu_info}]",
    "cmp byte ptr [rbx], 0",
    "je 3f",
    "cmp byte ptr [rbx + 1], 0",
    "je 4f",
    "3:",
    // An entry by an exception or interrupt goes back by IRET, one by SYSCALL by
    // SYSRET, if the address is canonical and the code is not the 32-bit segment.
    "test dword ptr [rsp + {vector}], 0x100",
    "jz 5f",
    "mov rax, [rsp + {rip}]",
    "sar rax, 47",
    "inc rax",
    "cmp rax, 1",
    "ja 4f",
    "cmp word ptr [rsp + {cs}], 0xe023",
    "je 4f",
    "and dword ptr [rsp + {rflags}], {no_rf}",
    "jmp 2f",
    "4:",
    "mov rdi, rsp",
    "sub rsp, 8",
    "call {exit_to_guest}",
    "add rsp, 8",
    "test al, al",
    "jnz 2f",
    "5:",
    "POP_ALL",
    "add rsp, 8",
    ".global overcast_iret",
    "overcast_iret:",
    "iretq",
    "2:",
    "POP_ALL",
    "mov rcx, [rsp + {rip} - {error_code}]",
    "mov r11, [rsp + {rflags} - {error_code}]",
    "mov rsp, [rsp + {rsp} - {error_code}]",
    "sysretq",
    ".p2align 4",
    ".global overcast_syscall32_entry",
    "overcast_syscall32_entry:",
    "mov rax, [rsp + 8]",
    "mov qword ptr [rsp + 8], 0xe02b",
    "push r11",
    "push 0xe023",
    "push rcx",
    "push 0",
    "mov dword ptr [rsp + 4], 0x100",
    "PUSH_ALL",
    "mov rdi, rsp",
    "sub rsp, 8",
    "call {syscall32}",
    "add rsp, 8",
    "jmp overcast_return_to_guest",
    // SYSENTER saves nothing: the frame says that the way back is not known.
    ".p2align 4",
    ".global overcast_sysenter_entry",
    "overcast_sysenter_entry:",
    "push 0xe02b",
    "push 0",
    "pushfq",
    ".global overcast_sysenter_flags_saved",
    "overcast_sysenter_flags_saved:",
    "push 3",
    "push 0",
    "push 0",
    "mov dword ptr [rsp + 4], 0x200",
    // SYSENTER clears but few flags: with NT set, our IRETQ would fault.
    "push 2",
    "popfq",
    "GUARD_AC",
    "PUSH_ALL",
    "mov rdi, rsp",
    "sub rsp, 8",
    "call {sysenter}",
    "add rsp, 8",
    "jmp overcast_return_to_guest",
    // Leaves the boot's stack for good and goes to a guest, or to idle.
    ".global overcast_enter_guest",
    "overcast_enter_guest:",
    "mov rsp, rdi",
    "xor ebp, ebp",
    "jmp overcast_return_to_guest",
    // Moves to another stack and calls a function that does not return.
    ".global overcast_on_stack",
    "overcast_on_stack:",
    "mov rsp, rdi",
    "xor ebp, ebp",
    "mov rdi, rdx",
    "sub rsp, 8",
    "and rsp, -16",
    "call rsi",
    "ud2",
    // Copies rdx bytes from rsi to rdi; gives how many were not copied because
    // of a fault. See `fixup`.
    ".p2align 4",
    ".global overcast_guest_copy",
    "overcast_guest_copy:",
    "mov rcx, rdx",
    "shr rcx, 3",
    "and edx, 7",
    ".global overcast_guest_copy_words",
    "overcast_guest_copy_words:",
    "rep movsq",
    "mov ecx, edx",
    ".global overcast_guest_copy_bytes",
    "overcast_guest_copy_bytes:",
    "rep movsb",
    "xor eax, eax",
    "ret",
    ".global overcast_guest_copy_words_fault",
    "overcast_guest_copy_words_fault:",
    "lea rax, [rdx + rcx * 8]",
    "ret",
    ".global overcast_guest_copy_bytes_fault",
    "overcast_guest_copy_bytes_fault:",
    "mov rax, rcx",
    "ret",
    // Copies sixteen bytes from rdi to rsi; gives 0, or 1 after a fault.
    ".p2align 4",
    ".global overcast_guest_pair",
    "overcast_guest_pair:",
    "mov rax, [rdi]",
    ".global overcast_guest_pair_second",
    "overcast_guest_pair_second:",
    "mov rdx, [rdi + 8]",
    "mov [rsi], rax",
    "mov [rsi + 8], rdx",
    "xor eax, eax",
    "ret",
    // rdmsr of edi; the value goes to [rsi]; gives 0, or 1 after #GP.
    ".global overcast_rdmsr",
    "overcast_rdmsr:",
    "mov ecx, edi",
    ".global overcast_rdmsr_instruction",
    "overcast_rdmsr_instruction:",
    "rdmsr",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [rsi], rax",
    "xor eax, eax",
    "ret",
    // wrmsr of edi with rsi; gives 0, or 1 after #GP.
    ".global overcast_wrmsr",
    "overcast_wrmsr:",
    "mov ecx, edi",
    "mov rax, rsi",
    "mov rdx, rsi",
    "shr rdx, 32",
    ".global overcast_wrmsr_instruction",
    "overcast_wrmsr_instruction:",
    "wrmsr",
    "xor eax, eax",
    "ret",
    // xrstor (esi: 0 = fxrstor, 1 = xrstor of all that XCR0 has) from rdi; gives
    // 0, or 1 after a fault.
    ".global overcast_xrstor",
    "overcast_xrstor:",
    "test esi, esi",
    "jz 3f",
    "mov eax, -1",
    "mov edx, -1",
    ".global overcast_xrstor_instruction",
    "overcast_xrstor_instruction:",
    "xrstor64 [rdi]",
    "xor eax, eax",
    "ret",
    "3:",
    ".global overcast_fxrstor_instruction",
    "overcast_fxrstor_instruction:",
    "fxrstor64 [rdi]",
    "xor eax, eax",
    "ret",
    ".global overcast_faulted",
    "overcast_faulted:",
    "mov eax, 1",
    "ret",
    // Loads the selector esi into DS, ES, FS or GS (edi: 0 to 3); gives 0, or 1
    // after a fault.
    ".global overcast_load_segment",
    "overcast_load_segment:",
    "xor eax, eax",
    "cmp edi, 1",
    "je 5f",
    "ja 6f",
    ".global overcast_load_ds",
    "overcast_load_ds:",
    "mov ds, esi",
    "ret",
    "5:",
    ".global overcast_load_es",
    "overcast_load_es:",
    "mov es, esi",
    "ret",
    "6:",
    "cmp edi, 2",
    "jne 7f",
    ".global overcast_load_fs",
    "overcast_load_fs:",
    "mov fs, esi",
    "ret",
    "7:",
    ".global overcast_load_gs",
    "overcast_load_gs:",
    "mov gs, esi",
    "ret",
    // LAR of the selector edi; the rights, or 0 if it is not valid. The tables may
    // have pages that are not there.
    ".global overcast_lar",
    "overcast_lar:",
    "xor eax, eax",
    ".global overcast_lar_instruction",
    "overcast_lar_instruction:",
    "lar eax, edi",
    "ret",
    ".global overcast_lar_fault",
    "overcast_lar_fault:",
    "xor eax, eax",
    "ret",
    smap = sym SMAP_IN_USE,
    exception = sym crate::arch::traps::exception,
    page_fault = sym crate::arch::traps::guest_page_fault,
    syscall64 = sym crate::pv::syscall::from_64bit,
    syscall32 = sym crate::pv::syscall::from_32bit,
    sysenter = sym crate::pv::syscall::from_sysenter,
    exit_to_guest = sym crate::pv::exit::exit_to_guest,
    percpu_current = const offset_of!(PerCpu, current),
    percpu_softirqs = const offset_of!(PerCpu, softirqs),
    vcpu_kernel_mode = const offset_of!(Vcpu, kernel_mode),
    vcpu_kernel_cr3 = const offset_of!(Vcpu, kernel_cr3),
    vcpu_user_cr3 = const offset_of!(Vcpu, user_cr3),
    vcpu_iopl = const offset_of!(Vcpu, iopl),
    vcpu_info = const vcpu::offsets::INFO,
    vcpu_domain = const vcpu::offsets::DOMAIN,
    vcpu_syscall_frame = const offset_of!(Vcpu, syscall_frame),
    vcpu_syscall_address = const offset_of!(Vcpu, syscall) + offset_of!(Callback, address),
    vcpu_syscall_mask = const offset_of!(Vcpu, syscall) + offset_of!(Callback, mask_events),
    vcpu_time_stale = const offset_of!(Vcpu, time_area_stale),
    vcpu_runstate_stale = const offset_of!(Vcpu, runstate_stale),
    vcpu_async_pending = const offset_of!(Vcpu, async_exception) + offset_of!(AsyncException, nmi_pending),
    vcpu_async_mask = const offset_of!(Vcpu, async_exception) + offset_of!(AsyncException, mask),
    domain_assists = const offset_of!(Domain, assists),
    assist_iopl = const 1 << VMASST_TYPE_ARCHITECTURAL_IOPL,
    direct_map = const DIRECT_MAP_BASE,
    hypervisor_end = const GuestVirtual::HYPERVISOR_END,
    in_syscall = const VGCF_IN_SYSCALL,
    // What a bounce frame never has of the real flags, and a handler never starts with.
    frame_size = const size_of::<Registers>(),
    vector = const offset_of!(Registers, vector),
    frame_flags = const !((rflags::IF | rflags::IOPL) as i32),
    entry_flags = const !((rflags::AC | rflags::VM | rflags::RF | rflags::NT | rflags::TF | rflags::DF) as i32),
    odd_flags = const (rflags::TF | rflags::NT | rflags::RF | rflags::VM) as i32,
    iret_flags = const (rflags::VALID & !rflags::IOPL) as i32,
    flag_vm = const rflags::VM as i32,
    cs = const offset_of!(Registers, cs),
    no_rf = const !(rflags::RF as i32),
    rip = const offset_of!(Registers, rip),
    rflags = const offset_of!(Registers, rflags),
    rsp = const offset_of!(Registers, rsp),
    error_code = const offset_of!(Registers, error_code),
    region = const STACK_REGION,
    above = const size_of::<Header>() + size_of::<Registers>(),
    words = const size_of::<Registers>() / 8,
);

/// 1 where SMAP is switched on.
pub static SMAP_IN_USE: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(0);

unsafe extern "C" {
    static overcast_vector_entries: [[u8; 16]; 256];
    /// Where SYSCALL's stub for 64-bit mode leads.
    #[link_name = "overcast_syscall64_entry"]
    pub fn syscall64_entry();
    /// Where SYSCALL's stub for compatibility mode leads.
    #[link_name = "overcast_syscall32_entry"]
    pub fn syscall32_entry();
    /// Where SYSENTER leads.
    #[link_name = "overcast_sysenter_entry"]
    pub fn sysenter_entry();
    fn overcast_sysenter_flags_saved();
    fn overcast_iret();
    fn overcast_enter_guest(frame: *mut Registers) -> !;
    fn overcast_on_stack(stack: u64, function: unsafe extern "C" fn(u64) -> !, argument: u64) -> !;
    fn overcast_guest_copy(to: u64, from: u64, len: usize) -> usize;
    fn overcast_guest_copy_words();
    fn overcast_guest_copy_bytes();
    fn overcast_guest_copy_words_fault();
    fn overcast_guest_copy_bytes_fault();
    fn overcast_guest_pair(from: u64, to: *mut [u64; 2]) -> u32;
    fn overcast_guest_pair_second();
    fn overcast_rdmsr(msr: u32, value: *mut u64) -> u32;
    fn overcast_rdmsr_instruction();
    fn overcast_wrmsr(msr: u32, value: u64) -> u32;
    fn overcast_wrmsr_instruction();
    fn overcast_xrstor(area: *const u8, all: u32) -> u32;
    fn overcast_xrstor_instruction();
    fn overcast_fxrstor_instruction();
    fn overcast_load_segment(which: u32, selector: u32) -> u32;
    fn overcast_load_ds();
    fn overcast_load_es();
    fn overcast_load_fs();
    fn overcast_load_gs();
    fn overcast_faulted();
    fn overcast_fast_frame_first();
    fn overcast_fast_frame_last();
    fn overcast_fast_frame_fault();
    fn overcast_fast_iret_first();
    fn overcast_fast_iret_last();
    fn overcast_fast_iret_fault();
    fn overcast_lar(selector: u32) -> u32;
    fn overcast_lar_instruction();
    fn overcast_lar_fault();
}

/// Address of the entry of a vector.
pub fn vector_entry(vector: u8) -> u64 {
    (&raw const overcast_vector_entries).cast::<u8>() as u64 + u64::from(vector) * 16
}

/// Whether a hypervisor fault at `rip` is that of the return to a guest.
pub fn is_return_to_guest(rip: u64) -> bool {
    rip == overcast_iret as *const () as u64
}

/// Whether `rip` is in the entry by SYSENTER, before the guest's flags were saved.
pub fn saves_sysenter_flags(rip: u64) -> bool {
    let first = overcast_sysenter_entry_address();
    (first..overcast_sysenter_flags_saved as *const () as u64).contains(&rip)
}

fn overcast_sysenter_entry_address() -> u64 {
    sysenter_entry as *const () as u64
}

/// Where execution goes on after a fault of the hypervisor at `rip`, if the
/// fault is one that was reckoned with.
pub fn fixup(rip: u64) -> Option<u64> {
    if rip == overcast_guest_pair as *const () as u64 {
        return Some(overcast_faulted as *const () as u64);
    }
    let table: [(unsafe extern "C" fn(), unsafe extern "C" fn()); 12] = [
        (overcast_guest_pair_second, overcast_faulted),
        (overcast_guest_copy_words, overcast_guest_copy_words_fault),
        (overcast_guest_copy_bytes, overcast_guest_copy_bytes_fault),
        (overcast_rdmsr_instruction, overcast_faulted),
        (overcast_wrmsr_instruction, overcast_faulted),
        (overcast_xrstor_instruction, overcast_faulted),
        (overcast_fxrstor_instruction, overcast_faulted),
        (overcast_load_ds, overcast_faulted),
        (overcast_load_es, overcast_faulted),
        (overcast_load_fs, overcast_faulted),
        (overcast_load_gs, overcast_faulted),
        (overcast_lar_instruction, overcast_lar_fault),
    ];
    let ranges: [[unsafe extern "C" fn(); 3]; 2] = [
        [
            overcast_fast_frame_first,
            overcast_fast_frame_last,
            overcast_fast_frame_fault,
        ],
        [
            overcast_fast_iret_first,
            overcast_fast_iret_last,
            overcast_fast_iret_fault,
        ],
    ];
    for range in ranges {
        let [first, last, to] = range.map(|label| label as *const () as u64);
        if (first..=last).contains(&rip) {
            return Some(to);
        }
    }
    table
        .iter()
        .find(|(from, _)| *from as *const () as u64 == rip)
        .map(|(_, to)| *to as *const () as u64)
}

/// Copies `len` bytes between guest memory and the hypervisor's, in whichever
/// direction; gives how many bytes at the end were not copied because of a fault.
///
/// # Safety
/// The hypervisor's side is valid for `len` bytes; the guest's side was checked
/// to lie outside the hypervisor's range.
pub unsafe fn guest_copy(to: u64, from: u64, len: usize) -> usize {
    let smap = SMAP_IN_USE.load(core::sync::atomic::Ordering::Relaxed) != 0;
    if smap {
        // SAFETY: the CPU has SMAP; AC is cleared again below.
        unsafe { core::arch::asm!("stac", options(nostack)) };
    }
    // SAFETY: faults on the guest's side are fixed up; the other side is valid.
    let left = unsafe { overcast_guest_copy(to, from, len) };
    if smap {
        // SAFETY: the CPU has SMAP.
        unsafe { core::arch::asm!("clac", options(nostack)) };
    }
    left
}

/// Reads sixteen bytes of guest memory; `None` after a fault.
///
/// # Safety
/// They were checked to lie outside the hypervisor's range.
#[inline]
pub unsafe fn guest_pair(from: u64) -> Option<[u64; 2]> {
    let mut pair = [0; 2];
    let smap = SMAP_IN_USE.load(core::sync::atomic::Ordering::Relaxed) != 0;
    if smap {
        // SAFETY: the CPU has SMAP; AC is cleared again below.
        unsafe { core::arch::asm!("stac", options(nostack)) };
    }
    // SAFETY: faults are fixed up; only `pair` is written.
    let failed = unsafe { overcast_guest_pair(from, &raw mut pair) };
    if smap {
        // SAFETY: the CPU has SMAP.
        unsafe { core::arch::asm!("clac", options(nostack)) };
    }
    (failed == 0).then_some(pair)
}

/// Reads an MSR; `None` if the CPU refuses it.
pub fn rdmsr_safe(msr: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: reading an MSR changes nothing, and #GP is fixed up.
    (unsafe { overcast_rdmsr(msr, &raw mut value) } == 0).then_some(value)
}

/// Writes an MSR; `None` if the CPU refuses it.
///
/// # Safety
/// The value does no harm to the hypervisor.
pub unsafe fn wrmsr_safe(msr: u32, value: u64) -> Option<()> {
    // SAFETY: the caller answers for the value; #GP is fixed up.
    (unsafe { overcast_wrmsr(msr, value) } == 0).then_some(())
}

/// Loads FPU state; `None` if the CPU refuses it.
///
/// # Safety
/// `area` is 64-byte aligned and as large as the CPU's state.
pub unsafe fn xrstor_safe(area: *const u8, xsave: bool) -> Option<()> {
    // SAFETY: the caller answers for the area; a fault is fixed up.
    (unsafe { overcast_xrstor(area, u32::from(xsave)) } == 0).then_some(())
}

/// The data segment registers.
#[derive(Clone, Copy)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum Segment {
    Ds = 0,
    Es = 1,
    Fs = 2,
    Gs = 3,
}

/// Loads a selector; `false` if it is not valid.
pub fn load_segment(segment: Segment, selector: u16) -> bool {
    // SAFETY: the hypervisor uses none of these segments, and a fault is fixed up.
    unsafe { overcast_load_segment(segment as u32, u32::from(selector)) == 0 }
}

/// The access rights of a selector (LAR; the flags in bits 20 to 23), if it is valid.
pub fn access_rights(selector: u16) -> Option<u32> {
    // SAFETY: reads the descriptor tables only; a fault is fixed up.
    let rights = unsafe { overcast_lar(u32::from(selector)) };
    (rights != 0).then_some(rights)
}

/// Goes to the guest whose registers are in `frame`, or to idle.
///
/// # Safety
/// `frame` is this CPU's guest frame, and the current vCPU's.
pub unsafe fn enter_guest(frame: *mut Registers) -> ! {
    // SAFETY: the caller's promise.
    unsafe { overcast_enter_guest(frame) }
}

/// Calls `function(argument)` on the stack that ends at `stack`.
///
/// # Safety
/// The stack is mapped and unused.
pub unsafe fn on_stack(stack: u64, function: unsafe extern "C" fn(u64) -> !, argument: u64) -> ! {
    // SAFETY: the caller's promise.
    unsafe { overcast_on_stack(stack, function, argument) }
}
