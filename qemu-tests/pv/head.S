/* Entry, hypercall page, ELF notes, and the stubs behind which exceptions,
 * events and system calls arrive. */
#define __ASSEMBLY__
#include <xen/elfnote.h>

    .macro note type, kind:vararg
    .pushsection .note.xen, "a", @note
    .balign 4
    .long 4, 12f - 11f, \type
    .asciz "Xen"
11: \kind
12: .balign 4
    .popsection
    .endm

    note XEN_ELFNOTE_GUEST_OS, .asciz "probe"
    note XEN_ELFNOTE_LOADER, .asciz "generic"
    note XEN_ELFNOTE_XEN_VERSION, .asciz "xen-3.0"
    note XEN_ELFNOTE_HYPERCALL_PAGE, .quad hypercall_page

    .section .text.head, "ax"
    .globl _start, hypercall_page
_start:
    mov %rsp, initial_rsp
    pushfq
    pop initial_flags
    lea boot_stack_end(%rip), %rsp
    xor %ebp, %ebp
    mov %rsi, %rdi
    call start
    ud2

    .balign 4096
hypercall_page:
    .skip 4096

    .text
    /* The frame of an exception on the stack, lowest first:
     * rcx, r11, [error code], rip, cs, rflags, rsp, ss. */
    .macro exception vector, has_error
entry_\vector:
    pop %rcx
    pop %r11
    .if !\has_error
    push $0
    .endif
    push $\vector
    jmp common
    .endm

    .altmacro
    .macro exceptions_from vector
    .if \vector < 32
    .if (\vector == 8) || ((\vector >= 10) && (\vector <= 14)) || (\vector == 17) || (\vector == 21) || (\vector == 30)
    exception \vector, 1
    .else
    exception \vector, 0
    .endif
    exceptions_from %(\vector + 1)
    .endif
    .endm
    exceptions_from 0
    exception 128, 0
    exception 129, 0
    exception 200, 0
    exception 202, 0
    exception 203, 0
    exception 204, 0

common:
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, %rdi
    cld
    call exception
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $8, %rsp
    movq $0, (%rsp)             /* flags of iret, in the error code's place */
    jmp hypercall_page + 23 * 32

    .globl to_user, iret_raw
    /* long to_user(rip, rsp, cs, ss, rflags, flags): until user space makes a
     * system call or has an exception that nobody expects; its %rax. */
to_user:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, user_return_rsp
    push %rcx
    push %rsi
    push %r8
    push %rdx
    push %rdi
    push %r9
    xor %eax, %eax
    jmp hypercall_page + 23 * 32
    .globl from_user
from_user:                      /* %rdi: the result */
    mov %rdi, %rax
    mov user_return_rsp, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    /* A second CPU. */
    .globl start_second
start_second:
    call second
    ud2

    .section .rodata
    .balign 8
    .globl entries
entries:
    .altmacro
    .macro entry vector
    .quad entry_\vector
    .endm
    .macro entries_from vector
    .if \vector < 32
    entry \vector
    entries_from %(\vector + 1)
    .endif
    .endm
    entries_from 0
    .globl entry_event, entry_failsafe, entry_syscall, entry_syscall32, entry_sysenter, entry_nmi
    .set entry_event, entry_200
    .set entry_syscall, entry_202
    .set entry_syscall32, entry_203
    .set entry_sysenter, entry_204
    .set entry_nmi, entry_2
    .globl entry_128, entry_129

    .text
    /* A failed return: rcx, r11, ds, es, fs, gs, then the rest of a frame. */
entry_failsafe:
    pop %rcx
    pop %r11
    pop failsafe_selectors
    pop failsafe_selectors + 8
    pop failsafe_selectors + 16
    pop failsafe_selectors + 24
    push $0
    push $201
    jmp common

    .bss
    .balign 4096
    .skip 16384
    .globl boot_stack_end
boot_stack_end:
    .globl initial_rsp, initial_flags, user_return_rsp, failsafe_selectors
    .comm initial_rsp, 8
    .comm initial_flags, 8
    .comm user_return_rsp, 8
    .comm failsafe_selectors, 32
