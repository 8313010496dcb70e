/* How a vCPU starts, its exceptions, its user space, the instructions that are
 * emulated for it, its descriptors. */
#include "pv.h"

static const char *kind(u64 va)
{
    static char text[64];
    u64 e = table_entry(va, 1);
    if (e == NOPTE) return "no table";
    if (!(e & PRESENT)) return "not present";
    char *p = text;
    *p++ = e & RW ? 'w' : 'r';
    *p++ = e & USER ? 'u' : 's';
    *p++ = e & NX ? '-' : 'x';
    *p++ = e & ACCESSED ? 'a' : '-';
    *p++ = e & DIRTY ? 'd' : '-';
    *p++ = e & GLOBAL ? 'g' : '-';
    *p++ = e & (PWT | PCD) ? 'c' : '-';
    *p = 0;
    return text;
}

static u64 flags(void)
{
    u64 f;
    __asm__ volatile("pushfq; pop %0" : "=r"(f));
    return f;
}

#define SELECTOR(s) ({ u64 v_; __asm__ volatile("mov %%" #s ", %0" : "=r"(v_)); v_ & 0xffff; })

void group_start(void)
{
    say("magic %s", si->magic);
    say("flags %x", si->flags);
    say("store %lu %u, console %u %u", si->store_mfn, si->store_evtchn, si->console.dom0.info_off, si->console.dom0.info_size);
    say("module %lx %lx", si->mod_start, si->mod_len);
    say("p2m in place %d, first_p2m_pfn %lx, nr_p2m_frames %lx", si->mfn_list == (u64)_image_end, si->first_p2m_pfn, si->nr_p2m_frames);
    u64 p2m_end = (si->mfn_list + si->nr_pages * 8 + 4095) & ~4095ull;
    say("start_info behind p2m by %lx", (u64)si - p2m_end);
    say("page tables behind start_info by %lx, frames %lu", si->pt_base - (u64)si, si->nr_pt_frames);
    u64 stack = si->pt_base + si->nr_pt_frames * 4096;
    say("rsp at stack's end %d, offset %lx", (initial_rsp & ~4095ull) == stack, initial_rsp - stack);
    u64 end = stack;
    while (table_entry(end, 1) != NOPTE && table_entry(end, 1) & PRESENT) end += 4096;
    say("mapped up to a multiple of 4 MiB %d, spare at least 512 KiB %d", !(end & 0x3fffff), end - stack >= 0x80000);
    say("rflags %lx now %lx", initial_flags, flags());
    say("cs %lx ss %lx ds %lx es %lx fs %lx gs %lx", SELECTOR(cs), SELECTOR(ss), SELECTOR(ds), SELECTOR(es), SELECTOR(fs), SELECTOR(gs));
    say("first page %s", kind(0));
    say("text %s", kind((u64)_image));
    say("p2m %s", kind(si->mfn_list));
    say("start_info %s", kind((u64)si));
    say("top table %s", kind(si->pt_base));
    say("last table %s", kind(stack - 4096));
    say("stack %s", kind(stack));
    for (int level = 4; level > 1; level--) {
        u64 e = table_entry((u64)_image, level);
        say("entry of level %d: %lx", level, e & ~0xffffffffff000ull);
    }
    unsigned present = 0, own = 0;
    for (int i = 0; i < 512; i++) {
        if (!(l4()[i] & PRESENT)) continue;
        if (i >= 256 && i < 272) own++;
        else present++;
    }
    say("top entries: %u of the guest, %u of the hypervisor", present, own);
    say("p2m and m2p agree: %d", ({ int ok = 1; for (u64 p = 0; p < 512; p++) ok &= ((u64 *)HYPERVISOR_VIRT_START)[((u64 *)si->mfn_list)[p]] == p; ok; }));
    say("upcall pending %u mask %u sel %lx", shared->vcpu_info[0].evtchn_upcall_pending, shared->vcpu_info[0].evtchn_upcall_mask, shared->vcpu_info[0].evtchn_pending_sel);
    say("other vcpu_info mask %u", shared->vcpu_info[1].evtchn_upcall_mask);
    u64 masked = 0, pending = 0;
    for (int i = 0; i < 64; i++) masked |= ~shared->evtchn_mask[i], pending |= shared->evtchn_pending[i];
    say("unmasked %lx pending %lx", masked, pending);
    say("time version even %d, tsc_shift %d, flags %x, wall clock %d", !(shared->vcpu_info[0].time.version & 1), 0, shared->vcpu_info[0].time.flags, shared->wc_sec != 0);
    say("arch max_pfn %lx fll %lx cr2 %lx", shared->arch.max_pfn, shared->arch.pfn_to_mfn_frame_list_list, shared->vcpu_info[0].arch.cr2);
    say("hypercall page, 0: %02x %02x %02x %02x %02x %02x, 1: %02x", (u8)hypercall_page[0], (u8)hypercall_page[1], (u8)hypercall_page[2], (u8)hypercall_page[3], (u8)hypercall_page[4], (u8)hypercall_page[8], (u8)hypercall_page[36]);
    for (int n = 0; n < 44; n++) {
        u64 sum = 0;
        for (int i = 0; i < 32; i++) sum = sum * 31 + (u8)hypercall_page[n * 32 + i];
        print("%s%lx%s", n % 4 ? " " : "> stub ", sum, n % 4 == 3 ? "\n" : "");
    }
}

/* An exception's frame, as far as it does not depend on where things are. */
static void show(const char *name)
{
    if (!faulted) {
        say("%s: nothing", name);
        return;
    }
    say("%s: #%lu error %lx at +%ld cs %lx rflags %lx ss %lx rsp&15 %lx", name, fault.vector, fault.error,
        fault.rip - fixup_begin, fault.cs, fault.rflags & ~0x8d5ull, fault.ss, fault.rsp & 15);
}
#define RAISE(name, instructions, ...) ({ PROBE(name, instructions, ##__VA_ARGS__); show(name); })

void group_exceptions(void)
{
    static char area[8192] __attribute__((aligned(4096)));
    u64 readonly = (u64)page();
    make_readonly((void *)readonly);
    for (int masked = 1; masked >= 0; masked--) {
        shared->vcpu_info[0].evtchn_upcall_mask = masked;
        say("events masked: %d", masked);
        RAISE("divide", "xor %%ecx, %%ecx; div %%ecx", );
        RAISE("int3", "int3", );
        RAISE("int 3 (2 bytes)", ".byte 0xcd, 3", );
        RAISE("ud2", "ud2", );
        RAISE("int1", ".byte 0xf1", );
        RAISE("int 0x80", "int $0x80", );
        RAISE("int 0x81", "int $0x81", );
        RAISE("read of nothing", "movabs 0x7ff000000000, %%rax", );
        RAISE("read of page 0x3ff...", "movabs 0x3ffff000, %%rax", );
        RAISE("write to read-only", "movl $1, (%[p])", [p] "r"(readonly));
        RAISE("jump to nothing", "mov $0x7f0000000000, %%rcx; jmp *%%rcx", );
        RAISE("read non-canonical", "mov $0x800000000000, %%rcx; mov (%%rcx), %%rcx", );
        RAISE("read hypervisor", "mov $0xffff820000000000, %%rcx; mov (%%rcx), %%rcx", );
        RAISE("read m2p", "mov $0xffff800000000000, %%rcx; mov (%%rcx), %%rcx", );
        RAISE("write m2p", "mov $0xffff800000000000, %%rcx; mov %%rcx, (%%rcx)", );
        RAISE("read high", "mov $0xffff880000000000, %%rcx; mov (%%rcx), %%rcx", );
        RAISE("load bad ds", "mov $0x1234, %%ecx; mov %%ecx, %%ds", );
        RAISE("load null ss", "xor %%ecx, %%ecx; mov %%ecx, %%ss", );
        RAISE("hlt", "hlt", );
        RAISE("syscall", "nop", );
        RAISE("trap flag", "pushfq; orl $0x100, (%%rsp); popfq; nop; nop", );
    }
    shared->vcpu_info[0].evtchn_upcall_mask = 1;
    /* Not present page of our own. */
    map(area, 0);
    RAISE("not present", "mov %[p], %%rcx", [p] "m"(area[0]));
    say("cr2 is it: %d", shared->vcpu_info[0].arch.cr2 == (u64)area);
    map(area, mfn_of(area) << 12 | PRESENT | RW | NX);
    RAISE("execute nx", "mov %[p], %%rcx; jmp *%%rcx", [p] "r"((u64)area));
    map(area, mfn_of(area) << 12 | PRESENT | RW);
    RAISE("fpu after taskswitch", "nop", );
    H1(fpu_taskswitch, 1);
    PROBE("fninit with TS", "fninit", );
    PROBE("again", "fninit", );
    H1(fpu_taskswitch, 1);
    PROBE("clts", "clts", );
    PROBE("fninit", "fninit", );
    H1(fpu_taskswitch, 0);
    /* Debug registers. */
    result("dr0", H2(set_debugreg, 0, area));
    result("dr7", H2(set_debugreg, 7, 0xd0402));
    RAISE("watched write", "movl $1, %[p]; nop", [p] "m"(area[0]));
    say("dr6 %lx", H1(get_debugreg, 6) & 0xffff);
    result("dr7 off", H2(set_debugreg, 7, 0x400));
    result("dr6", H2(set_debugreg, 6, 0xffff0ff0));
    for (int i = 0; i < 10; i++) say("get_debugreg %d: %lx", i, i == 0 ? H1(get_debugreg, i) == (long)area : H1(get_debugreg, i));
    result("dr4", H2(set_debugreg, 4, 0));
    result("dr5", H2(set_debugreg, 5, 0));
    result("dr8", H2(set_debugreg, 8, 0));
    result("dr0 hypervisor", H2(set_debugreg, 0, HYPERVISOR_VIRT_START));
    result("dr0 non-canonical", H2(set_debugreg, 0, 1ull << 47));
    result("dr7 gd", H2(set_debugreg, 7, 0x2400));
    result("dr7 io", H2(set_debugreg, 7, 0x20402));
    result("dr7 high", H2(set_debugreg, 7, 1ull << 32));
    result("dr6 high", H2(set_debugreg, 6, 1ull << 32));
    say("dr7 %lx", H1(get_debugreg, 7));
}

/* --- user space ----------------------------------------------------------- */

static char user_stack[4096] __attribute__((aligned(4096)));
static char kernel_stack[8192] __attribute__((aligned(4096)));

#define USER_CODE(name, code) \
    void name(void);          \
    __asm__(".text\n" #name ": " code "\n")
USER_CODE(user_syscall, "mov $42, %eax; mov $7, %ecx; mov $9, %r11d; syscall; ud2");
USER_CODE(user_ud, "ud2");
USER_CODE(user_hlt, "hlt");
USER_CODE(user_cli, "cli; mov $1, %eax; syscall");
USER_CODE(user_in, "in $0x70, %al; mov $1, %eax; syscall");
USER_CODE(user_out, "mov $0x80, %edx; out %al, %dx; mov $1, %eax; syscall");
USER_CODE(user_fault, "mov 0x7ff000000000, %rax; syscall");
USER_CODE(user_write, "mov $0xffff800000000000, %rax; mov %rax, (%rax); syscall");
USER_CODE(user_int80, "int $0x80; syscall");
USER_CODE(user_int81, "int $0x81; syscall");
USER_CODE(user_int3, "int3; syscall");
USER_CODE(user_into, "int $4; syscall");
USER_CODE(user_rdmsr, "mov $0xc0000080, %ecx; rdmsr; syscall");
USER_CODE(user_cr0, "mov %cr0, %rax; syscall");
USER_CODE(user_cpuid, "ud2; .ascii \"xen\"; cpuid; mov $3, %eax; syscall");
USER_CODE(user_flags, "pushfq; pop %rax; syscall");
USER_CODE(user_gp, "mov $0x800000000000, %rax; mov (%rax), %rax; syscall");
USER_CODE(user_de, "xor %ecx, %ecx; div %ecx; syscall");
USER_CODE(user_sysenter, "sysenter; ud2");
USER_CODE(user_cs, "mov %cs, %eax; shl $16, %rax; mov %ss, %ax; syscall");

static void in_user(const char *name, void (*code)(void), u64 rflags)
{
    faulted = false;
    memset(&fault, 0, sizeof(fault));
    fixup = 0;
    fixup_begin = (u64)code;
    long r = to_user((u64)code, (u64)user_stack + 4096, FLAT_USER_CS64, FLAT_USER_SS64, rflags, 0);
    say("%s: %lx, #%lu error %lx at +%ld cs %lx rflags %lx ss %lx, rsp of user %d, mask %u, on own stack %d", name, r, fault.vector, fault.error,
        fault.rip - fixup_begin, fault.cs, fault.rflags & ~0x8d5ull, fault.ss, fault.rsp == (u64)user_stack + 4096,
        shared->vcpu_info[0].evtchn_upcall_mask, (u64)&r < 0);
}

static void user_round(const char *title)
{
    say("--- %s", title);
    in_user("syscall", user_syscall, 0x200);
    say("rcx %lx r11 %lx", fault.rcx, fault.r11);
    in_user("syscall, masked", user_syscall, 0);
    in_user("ud2", user_ud, 0x200);
    in_user("hlt", user_hlt, 0x200);
    in_user("cli", user_cli, 0x200);
    in_user("in", user_in, 0x200);
    in_user("out", user_out, 0x200);
    in_user("page fault", user_fault, 0x200);
    in_user("write m2p", user_write, 0x200);
    in_user("int 0x80", user_int80, 0x200);
    in_user("int 0x81", user_int81, 0x200);
    in_user("int3", user_int3, 0x200);
    in_user("int 4", user_into, 0x200);
    in_user("rdmsr", user_rdmsr, 0x200);
    in_user("cr0", user_cr0, 0x200);
    in_user("forced cpuid", user_cpuid, 0x200);
    in_user("flags", user_flags, 0x200);
    in_user("flags with iopl 3", user_flags, 0x3200);
    in_user("flags with nt, ac, id, vm, rf", user_flags, 0x274200);
    in_user("non-canonical", user_gp, 0x200);
    in_user("divide", user_de, 0x200);
    in_user("selectors", user_cs, 0x200);
    in_user("sysenter", user_sysenter, 0x200);
}

void group_user(void)
{
    struct mmuext_op op = { .cmd = MMUEXT_NEW_USER_BASEPTR, .arg1.mfn = mfn_of(l4()) };
    result("user base", H4(mmuext_op, &op, 1, 0, DOMID_SELF));
    result("stack_switch", H2(stack_switch, FLAT_KERNEL_SS, kernel_stack + 8192));
    user_round("plain");
    struct physdev_set_iopl iopl = { 3 };
    result("set_iopl 3", H2(physdev_op, PHYSDEVOP_set_iopl, &iopl));
    user_round("iopl 3");
    iopl.iopl = 1;
    result("set_iopl 1", H2(physdev_op, PHYSDEVOP_set_iopl, &iopl));
    user_round("iopl 1");
    iopl.iopl = 0;
    H2(physdev_op, PHYSDEVOP_set_iopl, &iopl);
    static u8 bitmap[8192];
    memset(bitmap, 0xff, sizeof(bitmap));
    bitmap[0x80 / 8] &= ~1;
    struct physdev_set_iobitmap io = { .nr_ports = 65536 };
    set_xen_guest_handle(io.bitmap, bitmap);
    result("set_iobitmap", H2(physdev_op, PHYSDEVOP_set_iobitmap, &io));
    in_user("out permitted", user_out, 0x200);
    in_user("in not permitted", user_in, 0x200);
    io.nr_ports = 65537;
    result("set_iobitmap too long", H2(physdev_op, PHYSDEVOP_set_iobitmap, &io));
    result("vm_assist iopl", H2(vm_assist, VMASST_CMD_enable, VMASST_TYPE_architectural_iopl));
    user_round("architectural iopl");
    in_user("cli with iopl 3", user_cli, 0x3200);
    in_user("out with iopl 3", user_out, 0x3200);
    result("vm_assist off", H2(vm_assist, VMASST_CMD_disable, VMASST_TYPE_architectural_iopl));
    struct callback_register cb = { CALLBACKTYPE_syscall, CALLBACKF_mask_events, (u64)entry_syscall };
    result("syscall masks events", H2(callback_op, CALLBACKOP_register, &cb));
    in_user("syscall", user_syscall, 0x200);
    cb.flags = 0;
    result("syscall does not", H2(callback_op, CALLBACKOP_register, &cb));
    in_user("syscall", user_syscall, 0x200);
    cb = (struct callback_register){ CALLBACKTYPE_sysenter, 0, (u64)entry_sysenter };
    result("sysenter callback", H2(callback_op, CALLBACKOP_register, &cb));
    in_user("sysenter", user_sysenter, 0x200);
    say("--- odd returns");
    to_user((u64)user_syscall, (u64)user_stack + 4096, FLAT_USER_CS64, FLAT_USER_SS64, 0x200, 0x100);
    say("with sysret: rcx %lx r11 %lx", fault.rcx, fault.r11);
    op.arg1.mfn = 0;
    result("no user base", H4(mmuext_op, &op, 1, 0, DOMID_SELF));
}

/* --- emulation ------------------------------------------------------------ */

#define VALUE(name, instructions, ...) ({ u64 v_ = 0; faulted = false;            \
        __asm__ volatile("lea 771f(%%rip), %%r12\n\tmov %%r12, fixup\n\t"        \
                         "lea 770f(%%rip), %%r12\n\tmov %%r12, fixup_begin\n"    \
                         "770:\t" instructions "\n771:\tmovq $0, fixup"          \
                         : "+a"(v_) : __VA_ARGS__ : "memory", "rcx", "rdx", "rbx", "rsi", "rdi", "r11", "r12", "cc"); \
        probe_report(name, v_, true); v_; })

void group_emulation(void)
{
    static struct { u16 limit; u64 base; } __attribute__((packed)) pointer;
    VALUE("read cr0", "mov %%cr0, %%rax", );
    PROBE("read cr2", "mov %%cr2, %%rax", );
    PROBE("read cr3", "mov %%cr3, %%rax", );
    u64 cr3 = 0;
    __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
    say("cr3 is ours %d", cr3 == mfn_of(l4()) << 12);
    VALUE("read cr4", "mov %%cr4, %%rax; and $0x37f, %%eax", );
    PROBE("read cr8", "mov %%cr8, %%rax", );
    PROBE("write cr0 same", "mov %%cr0, %%rax; mov %%rax, %%cr0", );
    PROBE("write cr0 without pg", "mov %%cr0, %%rax; btr $31, %%rax; mov %%rax, %%cr0", );
    PROBE("write cr0 ts", "mov %%cr0, %%rax; bts $3, %%rax; mov %%rax, %%cr0", );
    VALUE("read cr0 ts", "mov %%cr0, %%rax", );
    PROBE("write cr2", "mov $0x1234, %%eax; mov %%rax, %%cr2", );
    say("cr2 %lx", shared->vcpu_info[0].arch.cr2);
    PROBE("write cr3", "mov %[v], %%cr3", [v] "r"(cr3));
    PROBE("write cr3 bad", "mov %[v], %%cr3", [v] "r"(0xffffffffff000));
    PROBE("write cr4 same", "mov %%cr4, %%rax; mov %%rax, %%cr4", );
    PROBE("write cr4 0", "xor %%eax, %%eax; mov %%rax, %%cr4", );
    PROBE("write cr4 all", "mov $-1, %%rax; mov %%rax, %%cr4", );
    PROBE("write cr8", "mov %%rax, %%cr8", );
    PROBE("clts", "clts", );
    VALUE("read cr0 after clts", "mov %%cr0, %%rax", );
    VALUE("smsw", "smsw %%eax; and $0xf, %%eax", );
    PROBE("lmsw", "smsw %%eax; lmsw %%ax", );
    VALUE("read dr7", "mov %%dr7, %%rax", );
    VALUE("read dr6", "mov %%dr6, %%rax", );
    PROBE("read dr4", "mov %%dr4, %%rax", );
    PROBE("write dr0", "mov $0x1000, %%eax; mov %%rax, %%dr0", );
    VALUE("read dr0", "mov %%dr0, %%rax", );
    PROBE("write dr7 bad", "mov $-1, %%rax; mov %%rax, %%dr7", );
    PROBE("cli", "cli", );
    PROBE("sti", "sti", );
    PROBE("hlt", "nop", );
    PROBE("invlpg", "invlpg (%%rsp)", );
    PROBE("wbinvd", "wbinvd", );
    PROBE("invd", "invd", );
    PROBE("lgdt", "lgdt %[p]", [p] "m"(pointer));
    PROBE("lidt", "lidt %[p]", [p] "m"(pointer));
    PROBE("lldt", "lldt %%ax", );
    PROBE("ltr", "ltr %%ax", );
    PROBE("sgdt", "sgdt %[p]", [p] "m"(pointer));
    PROBE("sidt", "sidt %[p]", [p] "m"(pointer));
    PROBE("sldt", "sldt %%eax", );
    PROBE("str", "str %%eax", );
    VALUE("lar of own cs", "mov %%cs, %%ecx; lar %%ecx, %%eax", );
    VALUE("lar of 0xe033", "mov $0xe033, %%ecx; lar %%ecx, %%eax", );
    VALUE("lsl of 0xe02b", "mov $0xe02b, %%ecx; lsl %%ecx, %%eax", );
    VALUE("verr null", "xor %%ecx, %%ecx; verr %%cx; setz %%al", );
    PROBE("rdtsc", "rdtsc", );
    PROBE("rdtscp", "rdtscp", );
    PROBE("rdpmc 0", "xor %%ecx, %%ecx; rdpmc", );
    PROBE("swapgs", "swapgs", );
    PROBE("sysret", "nop", );
    PROBE("iretq bad cs", "nop", );
    PROBE("monitor", "xor %%ecx, %%ecx; xor %%edx, %%edx; mov %%rsp, %%rax; monitor", );
    PROBE("vmcall", "vmcall", );
    PROBE("vmmcall", "vmmcall", );
    PROBE("rsm", "rsm", );
    PROBE("stac", "stac", );
    PROBE("xgetbv", "xor %%ecx, %%ecx; xgetbv", );
    PROBE("xgetbv 7", "mov $7, %%ecx; xgetbv", );
    PROBE("xsetbv same", "xor %%ecx, %%ecx; xgetbv; xsetbv", );
    PROBE("xsetbv 0", "xor %%ecx, %%ecx; xor %%eax, %%eax; xor %%edx, %%edx; xsetbv", );
    PROBE("xsetbv avx without sse", "xor %%ecx, %%ecx; mov $5, %%eax; xor %%edx, %%edx; xsetbv", );
    PROBE("xsetbv index 1", "mov $1, %%ecx; mov $3, %%eax; xor %%edx, %%edx; xsetbv", );
    PROBE("rdfsbase", "rdfsbase %%rax", );
    PROBE("wrfsbase", "wrfsbase %%rax", );
    PROBE("rdgsbase", "rdgsbase %%rax", );
    PROBE("in 0x60", "in $0x60, %%al", );
    PROBE("out 0x80", "out %%al, $0x80", );
    VALUE("in of nothing", "mov $0x1234, %%edx; mov $0, %%eax; in %%dx, %%eax", );
    PROBE("in 0xcf8", "mov $0xcf8, %%edx; in %%dx, %%eax", );
    VALUE("in 0xcfc nothing there", "mov $0xcf8, %%edx; mov $0x80ffff00, %%eax; out %%eax, %%dx; mov $0xcfc, %%edx; in %%dx, %%eax", );
    static char buffer[16];
    PROBE("insb", "mov $0x1234, %%edx; mov %[b], %%rdi; insb", [b] "r"(buffer));
    PROBE("rep outsb", "mov $0x80, %%edx; mov %[b], %%rsi; mov $4, %%ecx; rep outsb", [b] "r"(buffer));
    PROBE("forced ud", "ud2; .ascii \"xen\"; nop", );
    PROBE("forced rdtsc", "ud2; .ascii \"xen\"; rdtsc", );
    PROBE("prefix cut", "ud2; .ascii \"xe\"; nop", );
}

/* The policies may differ: this is to be read, not compared. */
void group_cpuid(void)
{
    static const u32 leaves[][2] = {
        {0x40000000, 0}, {0x40000001, 0}, {0x40000002, 0}, {0x40000003, 0}, {0x40000003, 1}, {0x40000003, 2},
        {0x40000004, 0}, {0x40000005, 0}, {0x40000006, 0}, {0x40000100, 0}, {0, 0}, {1, 0}, {2, 0}, {4, 0}, {5, 0}, {6, 0}, {7, 0}, {7, 1},
        {7, 2}, {0xa, 0}, {0xb, 0}, {0xd, 0}, {0xd, 1}, {0xd, 2}, {0xd, 9}, {0x15, 0}, {0x16, 0}, {0x20, 0}, {0x80000000, 0}, {0x80000001, 0}, {0x80000005, 0},
        {0x80000006, 0}, {0x80000007, 0}, {0x80000008, 0}, {0x8000000a, 0}, {0x80000019, 0}, {0x8000001d, 0}, {0x8000001e, 0}, {0x8000001f, 0}, {0x80000021, 0}, {0xc0000000, 0},
    };
    for (unsigned i = 0; i < sizeof(leaves) / sizeof(*leaves); i++) {
        u32 a = leaves[i][0], b = 0, c = leaves[i][1], d = 0;
        __asm__ volatile("ud2; .ascii \"xen\"; cpuid" : "+a"(a), "+b"(b), "+c"(c), "+d"(d));
        if (leaves[i][0] == 1) b &= 0xffff; /* APIC id and count */
        if (leaves[i][0] == 0x40000003 && leaves[i][1] == 0) c = a = 0, d = 0;
        if (leaves[i][0] == 0x40000003 && leaves[i][1] == 1) a = b = c = d = 0;
        if (leaves[i][0] == 0x40000003 && leaves[i][1] == 2) a = b = 0;
        say("cpuid %x:%x: %x %x %x %x", leaves[i][0], leaves[i][1], a, b, c, d);
    }
}

void group_msrs(void)
{
    static const u32 list[] = {
        0x10, 0x11, 0x17, 0x1b, 0x35, 0x3a, 0x3b, 0x48, 0x49, 0x79, 0x8b, 0xc1, 0xce, 0xcd, 0xe7, 0xe8, 0xfe, 0x10a, 0x10b, 0x10f, 0x119, 0x122, 0x123,
        0x140, 0x174, 0x175, 0x176, 0x179, 0x17a, 0x186, 0x198, 0x199, 0x19a, 0x19b, 0x19c, 0x1a0, 0x1a2, 0x1ad, 0x1b0, 0x1d9, 0x1fc,
        0x200, 0x250, 0x277, 0x2ff, 0x309, 0x345, 0x38d, 0x38f, 0x390, 0x400, 0x401, 0x402, 0x403, 0x404, 0x480, 0x486, 0x560, 0x570, 0x606, 0x60d, 0x611, 0x639, 0x641, 0x6e0,
        0x770, 0x800, 0x802, 0x830, 0xc80, 0xd90, 0xda0, 0x40000000, 0x40000001, 0x40000080, 0x4b564d00, 0x4b564d01, 0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084,
        0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103, 0xc0000104, 0xc00000e7, 0xc0000408, 0xc0010000, 0xc0010004, 0xc0010010, 0xc0010015, 0xc001001a, 0xc001001b, 0xc001001d,
        0xc001001f, 0xc0010055, 0xc0010058, 0xc0010061, 0xc0010062, 0xc0010063, 0xc0010064, 0xc0010071, 0xc0010112, 0xc0010114, 0xc0010117, 0xc001011f, 0xc0010140, 0xc0010141, 0xc0010200,
        0xc0011020, 0xc0011021, 0xc0011022, 0xc0011029, 0xc001102a, 0xc001102c, 0xdeadbeef,
    };
    for (unsigned i = 0; i < sizeof(list) / sizeof(*list); i++) {
        u32 low = 0, high = 0;
        fixup = 0;
        faulted = false;
        __asm__ volatile("lea 1f(%%rip), %%r12; mov %%r12, fixup; rdmsr; 1: movq $0, fixup" : "=a"(low), "=d"(high) : "c"(list[i]), "a"(0), "d"(0) : "r12", "memory");
        bool r = faulted, varies = list[i] == 0x10 || list[i] == 0xe7 || list[i] == 0xe8 || list[i] == 0xc0000100 || list[i] == 0xc0000101 || list[i] == 0x6e0;
        faulted = false;
        u32 old_low = low, old_high = high;
        if (list[i] != 0x79 && list[i] != 0x10 && list[i] != 0x49 && list[i] != 0x10b)
            __asm__ volatile("lea 1f(%%rip), %%r12; mov %%r12, fixup; wrmsr; 1: movq $0, fixup" : : "c"(list[i]), "a"(low), "d"(high) : "r12", "memory");
        bool w = faulted;
        faulted = false;
        u64 flipped = 0;
        if (list[i] < 0xc0000080 && list[i] != 0x79 && list[i] != 0x10 && list[i] != 0x49 && list[i] != 0x10b) {
            __asm__ volatile("lea 1f(%%rip), %%r12; mov %%r12, fixup; wrmsr; 1: movq $0, fixup" : : "c"(list[i]), "a"(~old_low), "d"(~old_high) : "r12", "memory");
            flipped = faulted + 1;
        }
        if (r) say("msr %x: unreadable, writing 0 %s, all bits %s", list[i], w ? "faults" : "does not", flipped == 2 ? "faults" : flipped ? "does not" : "-");
        else if (varies) say("msr %x: readable, writing it back %s", list[i], w ? "faults" : "does not");
        else say("msr %x: %x %x, writing it back %s, flipped %s", list[i], old_high, old_low, w ? "faults" : "does not", flipped == 2 ? "faults" : flipped ? "does not" : "-");
    }
}

/* --- descriptors and callbacks --------------------------------------------- */

void group_segments(void)
{
    static const u64 descriptors[] = {
        0, 0x00cff3000000ffff, 0x00cffb000000ffff, 0x00affb000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff, 0x00af9b000000ffff,
        0x00cfd3000000ffff, 0x00cfdb000000ffff, 0x0000e90000000000, 0x0000ec000008ffff, 0x0000ee000008ffff, 0x0000e20000000000, 0x00008b0000000000,
        0x00effb000000ffff, 0x004ff3000000ffff, 0x00cf73000000ffff, 0xffcff300ffffffff, 0x00cff7000000ffff, 0x00cffe000000ffff, 0x00cffc000000ffff, 0x00cff2000000ffff, 0x0000f00000000000,
    };
    u64 *gdt = page();
    result("update writable page", H2(update_descriptor, mfn_of(gdt) << 12, descriptors[1]));
    u64 frames[16] = { mfn_of(gdt) };
    result("set_gdt of writable page", H2(set_gdt, frames, 512));
    make_readonly(gdt);
    result("set_gdt", H2(set_gdt, frames, 512));
    result("set_gdt too long", H2(set_gdt, frames, 8192));
    result("set_gdt up to the reserved", H2(set_gdt, frames, FIRST_RESERVED_GDT_ENTRY));
    result("set_gdt beyond", H2(set_gdt, frames, FIRST_RESERVED_GDT_ENTRY + 1));
    result("set_gdt none", H2(set_gdt, frames, 0));
    result("set_gdt again", H2(set_gdt, frames, 512));
    frames[0] = ~0ull;
    result("set_gdt bad frame", H2(set_gdt, frames, 512));
    result("set_gdt bad pointer", H2(set_gdt, 1ull << 47, 512));
    result("make gdt writable", map(gdt, mfn_of(gdt) << 12 | PRESENT | RW));
    for (unsigned i = 0; i < sizeof(descriptors) / sizeof(*descriptors); i++) {
        long r = H2(update_descriptor, (mfn_of(gdt) << 12) + 8 * (i + 1), descriptors[i]);
        u64 v = gdt[i + 1];
        say("descriptor %016lx: %s, %016lx", descriptors[i], error(r), v);
        if (r || !v) continue;
        PROBE("  load ds", "mov %k[v], %%ds", [v] "r"((i + 1) * 8 + 3));
        say("  ds %lx", SELECTOR(ds));
        PROBE("  load fs", "mov %k[v], %%fs", [v] "r"((i + 1) * 8 + 3));
        PROBE("  null", "xor %%ecx, %%ecx; mov %%ecx, %%ds; mov %%ecx, %%fs", );
    }
    result("update unaligned", H2(update_descriptor, (mfn_of(gdt) << 12) + 4, descriptors[1]));
    result("update no such frame", H2(update_descriptor, ~4095ull, descriptors[1]));
    result("update page table", H2(update_descriptor, mfn_of(l4()) << 12, descriptors[1]));
    u64 *ldt = page();
    memcpy(ldt, descriptors, sizeof(descriptors));
    struct mmuext_op op = { .cmd = MMUEXT_SET_LDT, .arg1.linear_addr = (u64)ldt, .arg2.nr_ents = 16 };
    result("set_ldt", H4(mmuext_op, &op, 1, 0, DOMID_SELF));
    PROBE("load from writable ldt page", "mov %k[v], %%ds", [v] "r"(1 * 8 + 7));
    make_readonly(ldt);
    PROBE("load from ldt", "mov %k[v], %%ds", [v] "r"(1 * 8 + 7));
    PROBE("load from ldt, beyond", "mov %k[v], %%ds", [v] "r"(100 * 8 + 7));
    PROBE("null", "xor %%ecx, %%ecx; mov %%ecx, %%ds", );
    result("ldt page made writable", map(ldt, mfn_of(ldt) << 12 | PRESENT | RW));
    op.arg1.linear_addr = (u64)ldt + 8;
    result("set_ldt unaligned", H4(mmuext_op, &op, 1, 0, DOMID_SELF));
    op.arg1.linear_addr = (u64)ldt;
    op.arg2.nr_ents = 8193;
    result("set_ldt too long", H4(mmuext_op, &op, 1, 0, DOMID_SELF));
    op.arg1.linear_addr = HYPERVISOR_VIRT_START;
    op.arg2.nr_ents = 1;
    result("set_ldt hypervisor", H4(mmuext_op, &op, 1, 0, DOMID_SELF));
    op.arg2.nr_ents = 0;
    result("set_ldt none", H4(mmuext_op, &op, 1, 0, DOMID_SELF));
    result("ldt page made writable", map(ldt, mfn_of(ldt) << 12 | PRESENT | RW));
    result("fs base", H2(set_segment_base, SEGBASE_FS, 0x123456789000));
    VALUE("rdfsbase", "rdfsbase %%rax", );
    result("gs base user", H2(set_segment_base, SEGBASE_GS_USER, 0x1000));
    result("gs base kernel", H2(set_segment_base, SEGBASE_GS_KERNEL, 0x2000));
    VALUE("rdgsbase", "rdgsbase %%rax", );
    result("fs base non-canonical", H2(set_segment_base, SEGBASE_FS, 1ull << 47));
    result("gs selector", H2(set_segment_base, SEGBASE_GS_USER_SEL, 0));
    result("gs selector bad", H2(set_segment_base, SEGBASE_GS_USER_SEL, 0x5678));
    result("no such base", H2(set_segment_base, 4, 0));
    result("stack_switch null", H2(stack_switch, 0, 0));
    result("stack_switch rpl 0", H2(stack_switch, 0x8, 0x1000));
    result("stack_switch hypervisor's", H2(stack_switch, FLAT_KERNEL_SS, HYPERVISOR_VIRT_START));
    result("stack_switch non-canonical", H2(stack_switch, FLAT_KERNEL_SS, 1ull << 47));
    result("fpu_taskswitch 2", H1(fpu_taskswitch, 2));
    H1(fpu_taskswitch, 0);
}

USER_CODE(return_here, "mov $77, %eax; syscall");
void group_callbacks(void)
{
    static const struct { const char *name; u64 cs, ss, rip, flags; } returns[] = {
        { "plain", FLAT_USER_CS64, FLAT_USER_SS64, 0, 0 },
        { "null ss", FLAT_USER_CS64, 0, 0, 0 },
        { "ss rpl 0", FLAT_USER_CS64, 0xe028, 0, 0 },
        { "null cs", 3, FLAT_USER_SS64, 0, 0 },
        { "bad cs", 0x1233, FLAT_USER_SS64, 0, 0 },
        { "bad ss", FLAT_USER_CS64, 0x1233, 0, 0 },
        { "ss is code", FLAT_USER_CS64, FLAT_USER_CS64, 0, 0 },
        { "cs is data", FLAT_USER_SS64, FLAT_USER_SS64, 0, 0 },
        { "hypervisor's cs", 0xe008 | 3, FLAT_USER_SS64, 0, 0 },
        { "rip non-canonical", FLAT_USER_CS64, FLAT_USER_SS64, 1ull << 47, 0 },
        { "rip of the hypervisor", FLAT_USER_CS64, FLAT_USER_SS64, HYPERVISOR_VIRT_START + 0x1000, 0 },
        { "sysret, rip non-canonical", FLAT_USER_CS64, FLAT_USER_SS64, 1ull << 47, 0x100 },
        { "sysret, rip high", FLAT_USER_CS64, FLAT_USER_SS64, 0xffff900000000000, 0x100 },
    };
    struct mmuext_op op = { .cmd = MMUEXT_NEW_USER_BASEPTR, .arg1.mfn = mfn_of(l4()) };
    H4(mmuext_op, &op, 1, 0, DOMID_SELF);
    H2(stack_switch, FLAT_KERNEL_SS, kernel_stack + 8192);
    for (unsigned i = 0; i < sizeof(returns) / sizeof(*returns); i++) {
        faulted = false;
        memset(&fault, 0, sizeof(fault));
        memset(failsafe_selectors, 0xff, sizeof(failsafe_selectors));
        fixup = 0;
        u64 rip = returns[i].rip ? returns[i].rip : (u64)return_here;
        long r = to_user(rip, (u64)user_stack + 4096, returns[i].cs, returns[i].ss, 0x200, returns[i].flags);
        say("return with %s: %ld, #%lu error %lx, cs %lx ss %lx, rip given %d, failsafe %lx %lx %lx %lx", returns[i].name, r, fault.vector, fault.error, fault.cs, fault.ss,
            fault.rip == rip, failsafe_selectors[0], failsafe_selectors[1], failsafe_selectors[2], failsafe_selectors[3]);
    }
    for (int type = 0; type < 10; type++) {
        struct callback_register cb = { type, 0, (u64)entry_event };
        long ok = H2(callback_op, CALLBACKOP_register, &cb);
        cb.address = 1ull << 47;
        long bad = H2(callback_op, CALLBACKOP_register, &cb);
        cb.address = HYPERVISOR_VIRT_START;
        long own = H2(callback_op, CALLBACKOP_register, &cb);
        struct callback_unregister un = { type, 0 };
        long off = H2(callback_op, CALLBACKOP_unregister, &un);
        say("callback %d: %s, non-canonical %s, hypervisor's %s, unregister %s", type, error(ok), error(bad), error(own), error(off));
    }
    result("callback op 2", H2(callback_op, 2, 0));
    result("set_callbacks again", H3(set_callbacks, entry_event, entry_failsafe, entry_syscall));
    result("set_callbacks bad", H3(set_callbacks, 1ull << 47, entry_failsafe, entry_syscall));
    H3(set_callbacks, entry_event, entry_failsafe, entry_syscall);
    result("nmi register", H2(nmi_op, XENNMI_register_callback, &((struct xennmi_callback){ (u64)entry_nmi, 0 })));
    result("nmi unregister", H2(nmi_op, XENNMI_unregister_callback, 0));
    result("nmi bad", H2(nmi_op, 2, 0));
    static struct trap_info bad[3];
    bad[0] = (struct trap_info){ 129, 0, 0x1234, (u64)entry_129 };
    result("trap with odd cs", H1(set_trap_table, bad));
    PROBE("int 0x81", "nop", );
    bad[0] = (struct trap_info){ 129, 0, FLAT_KERNEL_CS, 1ull << 47 };
    result("trap non-canonical", H1(set_trap_table, bad));
    bad[0].address = HYPERVISOR_VIRT_START;
    result("trap of the hypervisor", H1(set_trap_table, bad));
    result("trap table bad pointer", H1(set_trap_table, 1ull << 47));
    result("trap table of the hypervisor", H1(set_trap_table, HYPERVISOR_VIRT_START));
    result("trap table null", H1(set_trap_table, 0));
    for (int t = 0; t < 40; t++) {
        long on = H2(vm_assist, VMASST_CMD_enable, t), off = H2(vm_assist, VMASST_CMD_disable, t);
        if (on != -22 || off != -22) say("vm_assist %d: %s %s", t, error(on), error(off));
    }
    result("vm_assist cmd 2", H2(vm_assist, 2, 0));
}
