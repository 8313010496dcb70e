# Entry from any loader, in 32-bit protected mode without paging, to the 64-bit
# Rust entry point in the upper half.
#
# On entry (Multiboot 1, Multiboot 2 and PVH agree): flat 32-bit code and data
# segments, paging off, interrupts off, %ebx = physical address of the boot
# information; %eax = the protocol's magic number (Multiboot only). Everything
# else is undefined: stack, GDTR, IDTR, direction flag.
#
# On exit: overcast_entry(protocol, info) with
#   protocol  %edi  1 = Multiboot 1, 2 = Multiboot 2, 3 = PVH
#   info      %rsi  physical address of the boot information
# in long mode, interrupts off, on a 64 KiB stack, with these translations
# (all writable and executable; the machine layer replaces them):
#   the first 4 GiB at their physical addresses (identity)
#   the first 1 GiB at IMAGE_BASE (so that va = pa + IMAGE_BASE for the image)
#
# Register use in the 32-bit part: %ebx boot information, %ebp protocol.

    .set IMAGE_BASE,        0xffff82d040000000
    .set IMAGE_L4_SLOT,     (IMAGE_BASE >> 39) & 0x1ff
    .set IMAGE_L3_SLOT,     (IMAGE_BASE >> 30) & 0x1ff

    .set MULTIBOOT1_LOADED, 0x2badb002
    .set MULTIBOOT2_LOADED, 0x36d76289
    .set PROTOCOL_MULTIBOOT1, 1
    .set PROTOCOL_MULTIBOOT2, 2
    .set PROTOCOL_PVH,        3

    .set PTE_PRESENT,       1 << 0
    .set PTE_WRITE,         1 << 1
    .set PTE_ACCESSED,      1 << 5
    .set PTE_DIRTY,         1 << 6
    .set PTE_LARGE,         1 << 7
    .set PTE_TABLE,         PTE_PRESENT | PTE_WRITE | PTE_ACCESSED
    .set PTE_2M,            PTE_TABLE | PTE_DIRTY | PTE_LARGE

    .set CR0_PE,            1 << 0
    .set CR0_MP,            1 << 1
    .set CR0_ET,            1 << 4
    .set CR0_NE,            1 << 5
    .set CR0_WP,            1 << 16
    .set CR0_PG,            1 << 31
    .set CR4_PAE,           1 << 5
    .set MSR_EFER,          0xc0000080
    .set EFER_LME,          1 << 8
    .set EFER_NXE,          1 << 11
    .set EFLAGS_ID,         1 << 21

    .set CPUID_EXT1_LM,     1 << 29         # leaf 0x80000001 %edx
    .set CPUID_EXT1_NX,     1 << 20

    .set BOOT_CS64,         0x08
    .set BOOT_DS,           0x10

    .set COM1,              0x3f8
    .set VGA_TEXT,          0xb8000

    .section .boot.text, "ax", @progbits
    .code32

    .globl multiboot_entry
    .type multiboot_entry, @function
multiboot_entry:
    cli
    cld
    movl $PROTOCOL_MULTIBOOT1, %ebp
    cmpl $MULTIBOOT1_LOADED, %eax
    je .Lcommon
    movl $PROTOCOL_MULTIBOOT2, %ebp
    cmpl $MULTIBOOT2_LOADED, %eax
    je .Lcommon
    movl $(boot_stack_top - IMAGE_BASE), %esp
    movl $(.Lmessage_loader - IMAGE_BASE), %esi
    jmp .Ldie
    .size multiboot_entry, . - multiboot_entry

    .globl pvh_entry
    .type pvh_entry, @function
pvh_entry:
    cli
    cld
    movl $PROTOCOL_PVH, %ebp

.Lcommon:
    # Not every loader clears .bss, and the stack and tables below live in it.
    movl $(__bss_start - IMAGE_BASE), %edi
    movl $(__bss_end - IMAGE_BASE), %ecx
    subl %edi, %ecx
    shrl $2, %ecx
    xorl %eax, %eax
    rep stosl

    movl $(boot_stack_top - IMAGE_BASE), %esp

    # Is there CPUID (can EFLAGS.ID be changed), and does it say long mode?
    pushfl
    popl %eax
    movl %eax, %ecx
    xorl $EFLAGS_ID, %eax
    pushl %eax
    popfl
    pushfl
    popl %eax
    xorl %ecx, %eax
    testl $EFLAGS_ID, %eax
    jz .Lno_long_mode

    pushl %ebx                              # cpuid overwrites %ebx
    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb .Lno_long_mode
    movl $0x80000001, %eax
    cpuid
    popl %ebx
    testl $CPUID_EXT1_LM, %edx
    jz .Lno_long_mode
    movl %edx, %esi                         # kept for NX below

    # Four page directories of 2 MiB pages: the first 4 GiB. An entry's upper
    # half stays 0, as every address fits in 32 bits.
    movl $(boot_l2 - IMAGE_BASE), %edi
    movl $PTE_2M, %eax
    movl $(4 * 512), %ecx
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $(2 << 20), %eax
    decl %ecx
    jnz 1b

    movl $(boot_l3_identity - IMAGE_BASE), %edi
    movl $(boot_l2 - IMAGE_BASE + PTE_TABLE), %eax
    movl %eax, (%edi)
    addl $4096, %eax
    movl %eax, 8(%edi)
    addl $4096, %eax
    movl %eax, 16(%edi)
    addl $4096, %eax
    movl %eax, 24(%edi)

    # The image's window shows the same first page directory.
    movl $(boot_l2 - IMAGE_BASE + PTE_TABLE), boot_l3_image - IMAGE_BASE + IMAGE_L3_SLOT * 8

    movl $(boot_l3_identity - IMAGE_BASE + PTE_TABLE), boot_l4 - IMAGE_BASE
    movl $(boot_l3_image - IMAGE_BASE + PTE_TABLE), boot_l4 - IMAGE_BASE + IMAGE_L4_SLOT * 8

    movl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $(boot_l4 - IMAGE_BASE), %eax
    movl %eax, %cr3

    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_LME, %eax
    testl $CPUID_EXT1_NX, %esi
    jz 1f
    orl $EFER_NXE, %eax
1:  wrmsr

    movl $(CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG), %eax
    movl %eax, %cr0

    lgdt boot_gdt_pointer - IMAGE_BASE
    ljmp $BOOT_CS64, $(.Llong_mode - IMAGE_BASE)

.Lno_long_mode:
    movl $(.Lmessage_long_mode - IMAGE_BASE), %esi

# Prints the string at %esi on COM1 and on the VGA text screen, and stops.
.Ldie:
    # 115200 baud, 8 data bits, no parity; FIFO on.
    movl $(.Lserial_setup - IMAGE_BASE), %edi
1:  movzwl (%edi), %edx
    testl %edx, %edx
    jz 2f
    movb 2(%edi), %al
    outb %al, %dx
    addl $3, %edi
    jmp 1b
2:  movl $VGA_TEXT, %edi
.Lnext:
    lodsb
    testb %al, %al
    jz .Lstop
    movb $0x0f, %ah                         # bright white on black
    cmpb $' ', %al
    jb 3f
    movw %ax, (%edi)
    addl $2, %edi
3:  movb %al, %bl
    movl $(COM1 + 5), %edx
    movl $0x10000, %ecx                     # a bound, should there be no UART
4:  inb %dx, %al
    testb $0x20, %al                        # transmitter holding register empty
    jnz 5f
    decl %ecx
    jnz 4b
5:  movb %bl, %al
    movl $COM1, %edx
    outb %al, %dx
    jmp .Lnext
.Lstop:
    cli
    hlt
    jmp .Lstop
    .size pvh_entry, . - pvh_entry

    .code64
.Llong_mode:
    movl $BOOT_DS, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movabsq $.Lupper_half, %rax
    jmpq *%rax

.Lupper_half:
    # The GDT by its address in the upper half, so that the identity mapping
    # can be dropped.
    lgdt boot_gdt_pointer_upper(%rip)
    leaq boot_stack_top(%rip), %rsp
    movl %ebp, %edi
    movl %ebx, %esi
    # The end of the chain of frames, for backtraces.
    xorl %ebp, %ebp
    pushq $0
    pushq $0
    callq overcast_entry
6:  cli
    hlt
    jmp 6b

    .section .boot.rodata, "a", @progbits
.Lmessage_loader:
    .asciz "(XEN) Overcast: not started by a Multiboot or PVH loader.\r\n"
.Lmessage_long_mode:
    .asciz "(XEN) Overcast: this CPU has no 64-bit long mode.\r\n"

.Lserial_setup:                             # port, value; a zero port ends
    .short COM1 + 3
    .byte 0x80                              # divisor latch
    .short COM1 + 0
    .byte 1
    .short COM1 + 1
    .byte 0
    .short COM1 + 3
    .byte 0x03
    .short COM1 + 2
    .byte 0x07
    .short 0

    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff                # 64-bit code, ring 0
    .quad 0x00cf93000000ffff                # data, ring 0
boot_gdt_end:
    .balign 4
    .short 0
boot_gdt_pointer:
    .short boot_gdt_end - boot_gdt - 1
    .long boot_gdt - IMAGE_BASE
    .balign 8
    .long 0
    .short 0
boot_gdt_pointer_upper:
    .short boot_gdt_end - boot_gdt - 1
    .quad boot_gdt

    .section .boot.bss, "aw", @nobits
    .balign 4096
    .globl boot_l4
boot_l4:            .skip 4096
boot_l3_identity:   .skip 4096
boot_l3_image:      .skip 4096
boot_l2:            .skip 4 * 4096
    .globl boot_stack
boot_stack:         .skip 64 * 1024
    .globl boot_stack_top
boot_stack_top:
