/* Edges of entry and return: single steps, flags in frames, odd returns, NMIs,
 * string I/O that faults half way, breakpoints on ports. */
#include "pv.h"

static char area[8192] __attribute__((aligned(4096)));
static char user_stack[4096] __attribute__((aligned(4096)));
static char kernel_stack[8192] __attribute__((aligned(4096)));

static void show(const char *name)
{
    long dr6 = H1(get_debugreg, 6);
    H2(set_debugreg, 6, 0xffff0ff0);
    if (!faulted) {
        say("%s: nothing, dr6 %lx", name, dr6);
        return;
    }
    say("%s: #%lu error %lx at +%ld cs %lx rflags %lx ss %lx rcx %lx, dr6 %lx", name, fault.vector, fault.error,
        fault.rip - fixup_begin, fault.cs, fault.rflags & ~0x8d5ull, fault.ss, fault.rcx > 1000 ? 1000 : fault.rcx, dr6);
}
#define RAISE(name, instructions, ...) ({ PROBE(name, instructions, ##__VA_ARGS__); show(name); })
#define STEP "pushfq; orl $0x100, (%%rsp); popfq; "

static void steps(void)
{
    RAISE("step nop", STEP "nop; nop", );
    RAISE("step hypercall", "mov $17, %%eax; xor %%edi, %%edi; xor %%esi, %%esi; " STEP "syscall; nop; nop", );
    RAISE("step cr0", STEP "mov %%cr0, %%rax; nop; nop", );
    RAISE("step clts", STEP "clts; nop; nop", );
    RAISE("step dr7", STEP "mov %%dr7, %%rax; nop; nop", );
    RAISE("step rdmsr", "mov $0xc0000080, %%ecx; " STEP "rdmsr; nop; nop", );
    RAISE("step wrmsr", "mov $0xc0000080, %%ecx; rdmsr; " STEP "wrmsr; nop; nop", );
    RAISE("step forced cpuid", "xor %%eax, %%eax; " STEP "ud2; .ascii \"xen\"; cpuid; nop; nop", );
    RAISE("step in", STEP "in $0x80, %%al; nop; nop", );
    RAISE("step cli", STEP "cli; nop; nop", );
    RAISE("step rep insb", "mov $0x80, %%edx; mov $4, %%ecx; mov %[b], %%rdi; " STEP "rep insb; nop; nop", [b] "r"(area));
    RAISE("step int3", STEP "int3; nop", );
    RAISE("step int 0x80", STEP "int $0x80; nop", );
    RAISE("step int 0x81", STEP "int $0x81; nop", );
    RAISE("step ud2", STEP "ud2; nop", );
    RAISE("step wrfsbase or not", STEP "rdfsbase %%rax; nop", );
}

static void string_io(void)
{
    char *end = area + 4096;
    map(end, 0);
    RAISE("rep insb over the end", "mov $0x1234, %%edx; mov $4, %%ecx; mov %[b], %%rdi; rep insb", [b] "r"(end - 2));
    say("cr2 +%ld, rdi +%ld", shared->vcpu_info[0].arch.cr2 - (u64)end, fault.rdi - (u64)end);
    RAISE("insl over the end", "mov $0x1234, %%edx; mov %[b], %%rdi; insl", [b] "r"(end - 2));
    say("cr2 +%ld, rdi +%ld", shared->vcpu_info[0].arch.cr2 - (u64)end, fault.rdi - (u64)end);
    RAISE("rep outsb over the end", "mov $0x80, %%edx; mov $4, %%ecx; mov %[b], %%rsi; rep outsb", [b] "r"(end - 2));
    say("cr2 +%ld, rsi +%ld", shared->vcpu_info[0].arch.cr2 - (u64)end, fault.rsi - (u64)end);
    RAISE("insb to nowhere", "mov $0x1234, %%edx; mov $0x800000000000, %%rdi; insb", );
    RAISE("insb to the hypervisor", "mov $0x1234, %%edx; mov $0xffff800000000000, %%rdi; insb", );
    RAISE("rep insb of none", "mov $0x1234, %%edx; xor %%ecx, %%ecx; mov $0x800000000000, %%rdi; rep insb", );
    RAISE("insb backwards", "std; mov $0x1234, %%edx; mov $3, %%ecx; mov %[b], %%rdi; rep insb; cld; ud2", [b] "r"(area + 8));
    say("rdi +%ld", fault.rdi - (u64)area);
    /* The prefix of forced emulation, cut by the end of the page. */
    area[4094] = 0x0f, area[4095] = 0x0b;
    map(area, mfn_of(area) << 12 | PRESENT | RW);
    PROBE("ud2 at the end", "jmp *%[b]", [b] "r"(end - 2));
    show("ud2 at the end");
    say("cr2 +%ld", shared->vcpu_info[0].arch.cr2 - (u64)end);
}

static void breakpoints(void)
{
    RAISE("dr4 without de", "mov %%dr4, %%rax", );
    RAISE("de", "mov %%cr4, %%rax; or $8, %%eax; mov %%rax, %%cr4", );
    RAISE("dr4 with de", "mov %%dr4, %%rax", );
    RAISE("write dr5 with de", "mov %%rax, %%dr5", );
    RAISE("write dr6 high", "mov $1, %%rax; shl $40, %%rax; mov %%rax, %%dr6", );
    result("dr0", H2(set_debugreg, 0, 0x81));
    result("dr7", H2(set_debugreg, 7, 0x20402));
    RAISE("out 0x80", "out %%al, $0x80; nop", );
    RAISE("out 0x81", "out %%al, $0x81; nop", );
    RAISE("outw 0x80", "out %%ax, $0x80; nop", );
    RAISE("outw 0x82", "out %%ax, $0x82; nop", );
    RAISE("rep outsb", "mov $0x81, %%edx; mov $4, %%ecx; mov %[b], %%rsi; rep outsb; nop", [b] "r"(area));
    result("dr7 of 4 bytes", H2(set_debugreg, 7, 0xe0402));
    RAISE("out 0x80", "out %%al, $0x80; nop", );
    RAISE("out 0x83", "out %%al, $0x83; nop", );
    RAISE("out 0x84", "out %%al, $0x84; nop", );
    result("dr7 off", H2(set_debugreg, 7, 0));
    RAISE("no de", "mov %%cr4, %%rax; and $~8, %%eax; mov %%rax, %%cr4", );
    RAISE("tsd", "mov %%cr4, %%rax; or $4, %%eax; mov %%rax, %%cr4; rdtsc; rdtscp", );
}

#define USER_CODE(name, code) \
    void name(void);          \
    __asm__(".text\n" #name ": " code "\n")
USER_CODE(edge_syscall, "mov $42, %eax; syscall; ud2");
USER_CODE(edge_std_syscall, "std; mov $42, %eax; syscall; ud2");
USER_CODE(edge_std_ud, "std; ud2");
USER_CODE(edge_cs, "mov %cs, %eax; shl $16, %eax; mov %ss, %ax; syscall; ud2");
USER_CODE(edge_flags, "pushfq; pop %rax; syscall");
USER_CODE(edge_int80, "int $0x80; syscall");
USER_CODE(edge_int3, "int3; syscall");
USER_CODE(edge_rdtsc, "rdtsc; mov $1, %eax; syscall");
USER_CODE(edge_rdtscp, "rdtscp; mov $1, %eax; syscall");
USER_CODE(edge_registers, "mov %rcx, %rax; shl $32, %rax; xor %r11, %rax; syscall");
USER_CODE(edge_sysenter, "sysenter; ud2");
USER_CODE(edge_push, "mov $0x800000000000, %rsp; push %rax; syscall");
USER_CODE(edge_stack, "mov $0x800000000000, %rsp; mov (%rsp), %rax; syscall");

static void in_user(const char *name, void (*code)(void), u64 cs, u64 ss, u64 rflags, u64 flags)
{
    faulted = false;
    memset(&fault, 0, sizeof(fault));
    fixup = 0;
    fixup_begin = (u64)code;
    long r = to_user((u64)code, (u64)user_stack + 4096, cs, ss, rflags, flags);
    say("%s: %lx, #%lu error %lx at +%ld cs %lx rflags %lx ss %lx, mask %u, dr6 %lx", name, r, fault.vector, fault.error,
        fault.rip - fixup_begin, fault.cs, fault.rflags & ~0x8d5ull, fault.ss, shared->vcpu_info[0].evtchn_upcall_mask, H1(get_debugreg, 6));
    H2(set_debugreg, 6, 0xffff0ff0);
    shared->vcpu_info[0].evtchn_upcall_mask = 1;
}
#define IN_USER(code, rflags) in_user(#code " " #rflags, code, FLAT_USER_CS64, FLAT_USER_SS64, rflags, 0)

static void returns(void)
{
    IN_USER(edge_syscall, 0x300);
    IN_USER(edge_syscall, 0x100);
    IN_USER(edge_std_syscall, 0x200);
    IN_USER(edge_std_ud, 0x200);
    IN_USER(edge_int3, 0x300);
    IN_USER(edge_rdtsc, 0x200);
    IN_USER(edge_rdtscp, 0x200);
    IN_USER(edge_sysenter, 0x300);
    IN_USER(edge_sysenter, 0x4600);
    IN_USER(edge_flags, 0x10200);
    for (int f = 0; f < 2; f++) {
        u64 flags = f ? 0x100 : 0;
        say("--- flags %lx", flags);
        in_user("flat", edge_cs, FLAT_USER_CS64, FLAT_USER_SS64, 0x200, flags);
        in_user("cs is data", edge_cs, FLAT_USER_SS64, FLAT_USER_SS64, 0x200, flags);
        in_user("cs is none", edge_cs, 0x1233, FLAT_USER_SS64, 0x200, flags);
        in_user("ss is none", edge_cs, FLAT_USER_CS64, 0x1233, 0x200, flags);
        in_user("ss is null", edge_cs, FLAT_USER_CS64, 3, 0x200, flags);
        in_user("stepped", edge_cs, FLAT_USER_CS64, FLAT_USER_SS64, 0x300, flags);
        in_user("rf", edge_flags, FLAT_USER_CS64, FLAT_USER_SS64, 0x10200, flags);
        in_user("nt", edge_flags, FLAT_USER_CS64, FLAT_USER_SS64, 0x4200, flags);
        in_user("all flags", edge_flags, FLAT_USER_CS64, FLAT_USER_SS64, 0xffffffffffc8fed5, flags);
        in_user("32-bit", edge_cs, FLAT_USER_CS32, FLAT_USER_SS64, 0x200, flags);
    }
    struct trap_info table[2] = { { 128, 0, FLAT_KERNEL_CS, (u64)entry_128 }, { 0 } };
    result("gate of level 0", H1(set_trap_table, table));
    IN_USER(edge_int80, 0x200);
    table[0].flags = 7;
    result("gate that masks", H1(set_trap_table, table));
    IN_USER(edge_int80, 0x200);
    table[0] = (struct trap_info){ 128, 3, FLAT_KERNEL_CS, (u64)entry_128 };
    H1(set_trap_table, table);
    say("--- 32-bit system calls");
    for (int m = 0; m < 4; m++) {
        struct callback_register a = { CALLBACKTYPE_syscall, m & 1 ? CALLBACKF_mask_events : 0, (u64)entry_syscall };
        struct callback_register b = { CALLBACKTYPE_syscall32, m & 2 ? CALLBACKF_mask_events : 0, (u64)entry_syscall32 };
        H2(callback_op, CALLBACKOP_register, &a);
        H2(callback_op, CALLBACKOP_register, &b);
        in_user("64-bit", edge_syscall, FLAT_USER_CS64, FLAT_USER_SS64, 0x200, 0);
        in_user("32-bit", edge_syscall, FLAT_USER_CS32, FLAT_USER_SS64, 0x200, 0);
    }
    struct callback_register plain = { CALLBACKTYPE_syscall, 0, (u64)entry_syscall };
    H2(callback_op, CALLBACKOP_register, &plain);
}

static unsigned nmis, depth, deepest;
static u64 nmi_frames[8][3];
extern void (*on_exception)(struct frame *);
static void on_nmi(struct frame *f)
{
    if (++depth > deepest) deepest = depth;
    if (nmis < 8) {
        nmi_frames[nmis][0] = f->cs, nmi_frames[nmis][1] = f->rflags & 0x200;
        nmi_frames[nmis][2] = shared->vcpu_info[0].evtchn_upcall_mask << 8 | f->vector;
    }
    if (nmis++ < 2) H3(vcpu_op, VCPUOP_send_nmi, 0, 0);
    depth--;
}

static void nmi(void)
{
    on_exception = on_nmi;
    for (int masked = 0; masked < 2; masked++) {
        nmis = 0;
        shared->vcpu_info[0].evtchn_upcall_mask = masked;
        long r = H3(vcpu_op, VCPUOP_send_nmi, 0, 0);
        unsigned n = nmis;
        shared->vcpu_info[0].evtchn_upcall_mask = 1;
        say("send_nmi %s, events masked %d: %u came, deepest %u", error(r), masked, n, deepest);
        for (unsigned i = 0; i < n; i++) say("  cs %lx if %lx mask and vector %lx", nmi_frames[i][0], nmi_frames[i][1], nmi_frames[i][2]);
    }
    on_exception = 0;
    result("send_nmi with an argument", H3(vcpu_op, VCPUOP_send_nmi, 0, area));
    result("nmi unregister", H2(nmi_op, XENNMI_unregister_callback, 0));
    result("send_nmi for nobody", H3(vcpu_op, VCPUOP_send_nmi, 0, 0));
}

void group_edges(void)
{
    struct mmuext_op op = { .cmd = MMUEXT_NEW_USER_BASEPTR, .arg1.mfn = mfn_of(l4()) };
    result("user base", H4(mmuext_op, &op, 1, 0, DOMID_SELF));
    result("stack_switch", H2(stack_switch, FLAT_KERNEL_SS, kernel_stack + 8192));
    struct physdev_set_iopl iopl = { 1 };
    result("set_iopl 1", H2(physdev_op, PHYSDEVOP_set_iopl, &iopl));
    result("nmi register", H2(nmi_op, XENNMI_register_callback, &((struct xennmi_callback){ (u64)entry_nmi, 0 })));
    steps();
    string_io();
    breakpoints();
    returns();
    nmi();
    for (int s = 0; s < 4; s++) {
        static const u16 selectors[] = { 0xe010, 0xe008, 0xe02b, 3 };
        say("user gs %x: %s", selectors[s], error(H2(set_segment_base, SEGBASE_GS_USER_SEL, selectors[s])));
    }
    result("pin_override off", H2(sched_op, SCHEDOP_pin_override, &((struct sched_pin_override){ -1 })));
    result("pin_override bad pointer", H2(sched_op, SCHEDOP_pin_override, 1ull << 47));
    result("mmu_update continued with nothing", H4(mmu_update, 0, 0x80000000, 0, 5));
    result("mmuext_op continued with nothing", H4(mmuext_op, 0, 0x80000000, 0, 6));
}
