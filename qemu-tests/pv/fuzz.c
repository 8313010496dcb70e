/*
 * A hostile kernel: random hypercalls, page tables, descriptors, instructions
 * and user space, on several virtual CPUs at once, from a seed. Nothing is
 * asked of the answers: the hypervisor has to live. This kernel may well die.
 *
 * Command line: "fuzz SEED COUNT CPUS", decimal.
 */
#include "pv.h"

#define CPUS 4
#define PAGES 64
#define STACK 16384

/* Pages for everything that is named to the hypervisor. */
static u64 arena[PAGES][512] __attribute__((aligned(4096)));
static u64 argument[CPUS][512] __attribute__((aligned(4096)));
static u8 stacks[CPUS][STACK] __attribute__((aligned(STACK)));
static u8 kernel_stacks[CPUS][STACK] __attribute__((aligned(STACK)));
static u8 user_stacks[CPUS][4096] __attribute__((aligned(4096)));
static u8 code[CPUS][256] __attribute__((aligned(256)));
static struct trap_info traps[40];
static u64 state[CPUS], done[CPUS], count, seed;
static u32 cpus;

/* xorshift64* */
static u64 next(u32 cpu)
{
    u64 x = state[cpu];
    x ^= x >> 12, x ^= x << 25, x ^= x >> 27;
    state[cpu] = x;
    return x * 0x2545f4914f6cdd1d;
}

static u64 below(u32 cpu, u64 n) { return (next(cpu) >> 16) % n; }
static u64 *arena_page(u32 cpu) { return arena[below(cpu, PAGES)]; }

/* A page-table entry: mostly of a page of the arena. */
static u64 entry(u32 cpu)
{
    static const u64 flags[] = { PRESENT | RW | USER, PRESENT | USER, PRESENT | USER | ACCESSED | DIRTY, PRESENT | RW | USER | NX, PRESENT | RW, 0 };
    u64 f = flags[below(cpu, 6)];
    if (!below(cpu, 4)) f |= next(cpu) & 0xfff;
    if (!below(cpu, 16)) f |= next(cpu) & 0xfff0000000000000;
    u64 mfn = below(cpu, 8) ? mfn_of(arena_page(cpu)) : below(cpu, 2) ? below(cpu, 0x50000) : next(cpu) & 0xffffffffff;
    return mfn << 12 | f;
}

/* A number that somebody may have forgotten to think of. */
static u64 value(u32 cpu)
{
    static const u64 edges[] = {
        0, 1, ~0ull, 0x7ff0, 0x7ff1, 0x7ff2, 0x7ff07ff07ff07ff0, 1ull << 31, 1ull << 32, 0xffffffff, 0x7fffffff,
        (1ull << 47) - 1, 1ull << 47, (1ull << 47) - 4096, 0xffff800000000000, 0xffff880000000000, 0xffff87ffffffffff, 0xffffffffffffffff - 4095,
        0xffff82d040000000, 0xffff830000000000, 1ull << 63, 0x8000000000000001, 0xa0, 4096, 4095, 0xffff82b000000000,
    };
    switch (below(cpu, 12)) {
    case 0: return edges[below(cpu, sizeof(edges) / 8)];
    case 1: return next(cpu);
    case 2: case 3: return below(cpu, 20);
    case 4: return 1ull << below(cpu, 64);
    case 5: return mfn_of(arena_page(cpu));
    case 6: return entry(cpu);
    case 7: return below(cpu, cpus);
    case 8: return (u64)argument[cpu] + below(cpu, 4096);
    case 9: return next(cpu) & 0xffffffff;
    default: return (u64)arena_page(cpu) + (below(cpu, 2) ? 0 : below(cpu, 512) * 8);
    }
}

static void *filled(u32 cpu)
{
    u64 *p = argument[cpu];
    u64 shape = below(cpu, 4);
    for (u32 i = 0; i < 40; i++)
        p[i] = shape == 0 ? value(cpu) : shape == 1 ? value(cpu) & 0xffffffff : value(cpu) | below(cpu, 8) << 32;
    if (!below(cpu, 4)) *(u16 *)p = DOMID_SELF;
    return p;
}

/* Where a structure is expected: mostly there is one. */
static u64 structure(u32 cpu)
{
    void *p = filled(cpu);
    return below(cpu, 24) ? (u64)p : value(cpu);
}

static void reservation(u32 cpu)
{
    struct xen_memory_reservation *r = filled(cpu);
    r->nr_extents = below(cpu, 4) ? below(cpu, 6) : value(cpu);
    r->extent_order = below(cpu, 4) ? 0 : below(cpu, 14);
    r->domid = below(cpu, 8) ? DOMID_SELF : value(cpu);
    if (below(cpu, 2)) r->mem_flags = 0;
    u64 *list = arena_page(cpu);
    set_xen_guest_handle(r->extent_start, list);
}

static void exchange(u32 cpu)
{
    struct xen_memory_exchange *x = filled(cpu);
    u32 order = below(cpu, 4);
    x->in.extent_order = below(cpu, 8) ? 0 : below(cpu, 70);
    x->out.extent_order = below(cpu, 8) ? order : below(cpu, 70);
    x->out.nr_extents = below(cpu, 8) ? 1 + below(cpu, 2) : value(cpu);
    x->in.nr_extents = below(cpu, 8) ? x->out.nr_extents << order : value(cpu);
    x->in.domid = x->out.domid = DOMID_SELF;
    x->nr_exchanged = below(cpu, 8) ? 0 : value(cpu);
    x->in.mem_flags = 0, x->out.mem_flags = below(cpu, 4) ? 0 : below(cpu, 60);
    u64 *in = arena_page(cpu), *out = arena_page(cpu);
    for (u32 i = 0; i < 16; i++) in[i] = mfn_of(arena_page(cpu));
    set_xen_guest_handle(x->in.extent_start, in);
    set_xen_guest_handle(x->out.extent_start, out);
}

static void mmuext(u32 cpu, struct mmuext_op *op)
{
    op->cmd = below(cpu, 22);
    op->arg1.mfn = below(cpu, 4) ? mfn_of(arena_page(cpu)) : value(cpu);
    op->arg2.nr_ents = below(cpu, 4) ? below(cpu, 9000) : value(cpu);
    if (op->cmd == MMUEXT_SET_LDT) op->arg1.linear_addr = below(cpu, 4) ? (u64)arena_page(cpu) : value(cpu);
    /* A wrong base for the kernel is the end of it. */
    if (op->cmd == MMUEXT_NEW_BASEPTR && below(cpu, 200)) op->arg1.mfn = mfn_of(l4());
    if (op->cmd == MMUEXT_NEW_USER_BASEPTR && (below(cpu, 64) || op->arg1.mfn == 0)) op->arg1.mfn = mfn_of(l4());
    if (op->cmd == MMUEXT_UNPIN_TABLE && op->arg1.mfn == mfn_of(l4())) op->cmd = MMUEXT_TLB_FLUSH_ALL;
    if (op->cmd == MMUEXT_TLB_FLUSH_MULTI || op->cmd == MMUEXT_INVLPG_MULTI) {
        u64 *bits = arena_page(cpu);
        set_xen_guest_handle(op->arg2.vcpumask, bits);
    }
}

/* The number and arguments of a random hypercall. */
static u64 choose(u32 cpu, u64 a[6])
{
    u64 n, other = below(cpu, cpus);
    for (u32 i = 0; i < 6; i++) a[i] = value(cpu);
    switch (below(cpu, 48)) {
    case 0: case 1: case 2: case 3: case 4: {
        struct mmuext_op *op = (void *)argument[cpu];
        u32 ops = 1 + below(cpu, 3);
        for (u32 i = 0; i < ops; i++) mmuext(cpu, op + i);
        a[0] = (u64)op, a[1] = ops, a[2] = below(cpu, 4) ? 0 : (u64)arena_page(cpu), a[3] = below(cpu, 16) ? DOMID_SELF : value(cpu);
        return __HYPERVISOR_mmuext_op;
    }
    case 5: case 6: case 7: case 8: {
        mmu_update_t *u = (void *)argument[cpu];
        u32 ops = 1 + below(cpu, 5);
        for (u32 i = 0; i < ops; i++)
            u[i].ptr = mfn_of(arena_page(cpu)) << 12 | below(cpu, 512) << 3 | (below(cpu, 4) ? 0 : below(cpu, 4)), u[i].val = entry(cpu);
        if (!below(cpu, 8)) u[0].ptr = value(cpu);
        a[0] = (u64)u, a[1] = ops, a[2] = below(cpu, 4) ? 0 : (u64)arena_page(cpu), a[3] = below(cpu, 16) ? DOMID_SELF : value(cpu);
        return __HYPERVISOR_mmu_update;
    }
    case 9: case 10: case 11: case 12:
        /* Pages come and go as read-only, so that they can become tables. */
        a[0] = (u64)arena_page(cpu);
        a[1] = mfn_of((void *)a[0]) << 12 | PRESENT | USER | ACCESSED | DIRTY | (below(cpu, 2) ? RW : 0);
        if (!below(cpu, 8)) a[1] = entry(cpu);
        a[2] = below(cpu, 8) ? UVMF_INVLPG | UVMF_ALL : value(cpu);
        return __HYPERVISOR_update_va_mapping;
    case 13:
        a[0] = (u64)arena_page(cpu), a[1] = entry(cpu);
        return __HYPERVISOR_update_va_mapping_otherdomain;
    case 14: {
        u64 *frames = argument[cpu];
        for (u32 i = 0; i < 16; i++) frames[i] = mfn_of(arena_page(cpu));
        a[0] = (u64)frames, a[1] = below(cpu, 8) ? below(cpu, 7200) : value(cpu);
        return __HYPERVISOR_set_gdt;
    }
    case 15: case 16:
        a[0] = mfn_of(arena_page(cpu)) << 12 | below(cpu, 512) << 3;
        a[1] = next(cpu) | 0x0000f00000000000;
        if (!below(cpu, 4)) a[0] = value(cpu);
        return __HYPERVISOR_update_descriptor;
    case 17: case 18:
        reservation(cpu);
        a[0] = below(cpu, 2) ? XENMEM_populate_physmap : below(cpu, 2) ? XENMEM_increase_reservation : XENMEM_decrease_reservation;
        if (a[0] == XENMEM_decrease_reservation) {
            struct xen_memory_reservation *r = (void *)argument[cpu];
            u64 *list = arena_page(cpu);
            for (u32 i = 0; i < 8; i++) list[i] = below(cpu, 4) ? mfn_of(arena_page(cpu)) : value(cpu);
            set_xen_guest_handle(r->extent_start, list);
        }
        a[1] = (u64)argument[cpu];
        return __HYPERVISOR_memory_op;
    case 19:
        exchange(cpu);
        a[0] = XENMEM_exchange, a[1] = (u64)argument[cpu];
        return __HYPERVISOR_memory_op;
    case 20:
        a[0] = below(cpu, 30) | (below(cpu, 4) ? 0 : value(cpu) << 6), a[1] = structure(cpu);
        return __HYPERVISOR_memory_op;
    case 21: case 22: case 23:
        a[0] = below(cpu, 16), a[1] = structure(cpu);
        /* Events go on arriving, mostly: they end what would go on for ever. */
        if (a[0] == EVTCHNOP_init_control && below(cpu, 100)) a[0] = EVTCHNOP_send;
        return __HYPERVISOR_event_channel_op;
    case 24: case 25: case 26:
        a[0] = below(cpu, 14), a[1] = structure(cpu), a[2] = below(cpu, 8) ? 1 + below(cpu, 4) : value(cpu);
        return __HYPERVISOR_grant_table_op;
    case 27: case 28: {
        static const u8 ops[] = { 0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14 };
        a[0] = ops[below(cpu, sizeof(ops))], a[1] = below(cpu, 8) ? other : value(cpu), a[2] = structure(cpu);
        /* What went down is to come back. */
        if (a[0] == VCPUOP_down && (cpus == 1 || below(cpu, 3))) a[0] = VCPUOP_up;
        if (a[0] == VCPUOP_register_vcpu_info && below(cpu, 100)) a[0] = VCPUOP_send_nmi;
        if (a[0] == VCPUOP_down) a[1] = 1 + below(cpu, cpus - 1);
        return __HYPERVISOR_vcpu_op;
    }
    case 29:
        a[0] = value(cpu), a[1] = value(cpu);
        return __HYPERVISOR_set_debugreg;
    case 30:
        a[0] = below(cpu, 8), a[1] = below(cpu, 2) ? value(cpu) : (u64)arena_page(cpu);
        return below(cpu, 2) ? __HYPERVISOR_set_debugreg : __HYPERVISOR_get_debugreg;
    case 31:
        a[0] = below(cpu, 5);
        return __HYPERVISOR_set_segment_base;
    case 32:
        a[0] = below(cpu, 3), a[1] = below(cpu, 36);
        return __HYPERVISOR_vm_assist;
    case 33: {
        /* Not the end of the machine. */
        static const u8 ops[] = { SCHEDOP_yield, SCHEDOP_poll, SCHEDOP_poll, SCHEDOP_pin_override };
        a[0] = ops[below(cpu, sizeof(ops))], a[1] = structure(cpu);
        if (a[0] == SCHEDOP_poll) {
            struct sched_poll *p = (void *)(a[1] = (u64)argument[cpu]);
            u32 *ports = (void *)arena_page(cpu);
            for (u32 i = 0; i < 8; i++) ports[i] = below(cpu, 16);
            p->nr_ports = below(cpu, 8) ? below(cpu, 5) : value(cpu), p->timeout = 1 + below(cpu, 1000000);
            set_xen_guest_handle(p->ports, ports);
        }
        return __HYPERVISOR_sched_op;
    }
    case 34:
        a[0] = below(cpu, 40), a[1] = structure(cpu);
        return __HYPERVISOR_physdev_op;
    case 35:
        *(u32 *)filled(cpu) = below(cpu, 66), ((u32 *)argument[cpu])[1] = XENPF_INTERFACE_VERSION, a[0] = (u64)argument[cpu];
        return __HYPERVISOR_platform_op;
    case 36:
        a[0] = below(cpu, 12), a[1] = structure(cpu);
        return __HYPERVISOR_xen_version;
    case 37:
        a[0] = below(cpu, 4), a[1] = below(cpu, 40);
        if (below(cpu, 4)) a[2] = (u64)"fuzz", a[1] = a[1] & 3, a[0] = 1;
        return __HYPERVISOR_console_io;
    case 38: {
        struct callback_register *c = filled(cpu);
        c->type = below(cpu, 8);
        c->address = below(cpu, 4) || c->type == 0 ? (u64)(c->type == 0 ? entry_event : c->type == 1 ? entry_failsafe : entry_syscall) : value(cpu);
        a[0] = below(cpu, 3), a[1] = (u64)c;
        return __HYPERVISOR_callback_op;
    }
    case 39:
        n = below(cpu, 64);
        /* Not the end of the machine, nor of this kernel. */
        if (n == __HYPERVISOR_sched_op || n == __HYPERVISOR_sched_op_compat || n == __HYPERVISOR_iret ||
            n == __HYPERVISOR_set_callbacks || n == __HYPERVISOR_set_trap_table || n == __HYPERVISOR_console_io ||
            n == __HYPERVISOR_kexec_op || n == __HYPERVISOR_stack_switch || n == __HYPERVISOR_multicall) n = __HYPERVISOR_xen_version;
        return n;
    case 40:
        *(u32 *)filled(cpu) = below(cpu, 90), ((u32 *)argument[cpu])[1] = XEN_DOMCTL_INTERFACE_VERSION, a[0] = (u64)argument[cpu];
        ((u16 *)argument[cpu])[4] = below(cpu, 3) ? 0 : value(cpu);
        /* Pauses and ends of ourselves aside. */
        if (below(cpu, 90) < 8 || *(u32 *)argument[cpu] <= XEN_DOMCTL_unpausedomain) *(u32 *)argument[cpu] = XEN_DOMCTL_getdomaininfo;
        return __HYPERVISOR_domctl;
    case 41:
        *(u32 *)filled(cpu) = below(cpu, 32), ((u32 *)argument[cpu])[1] = XEN_SYSCTL_INTERFACE_VERSION, a[0] = (u64)argument[cpu];
        /* 'R' would be the end, and some print much. */
        if (*(u32 *)argument[cpu] == XEN_SYSCTL_debug_keys) *(u32 *)argument[cpu] = XEN_SYSCTL_physinfo;
        return __HYPERVISOR_sysctl;
    case 42:
        a[0] = below(cpu, 3) ? 0 : value(cpu);
        return __HYPERVISOR_set_timer_op;
    default:
        a[0] = below(cpu, 2);
        return __HYPERVISOR_fpu_taskswitch;
    }
}

static void multicall(u32 cpu)
{
    /* Not where other calls write: what they leave there would be made as calls. */
    static multicall_entry_t lists[CPUS][8];
    multicall_entry_t *m = lists[cpu];
    u32 calls = 1 + below(cpu, 6);
    for (u32 i = 0; i < calls; i++) {
        u64 a[6];
        m[i].op = choose(cpu, a);
        memcpy(m[i].args, a, sizeof(a));
    }
    H2(multicall, below(cpu, 16) ? (u64)m : 0xffff880000000000 - below(cpu, 300), calls);
}

/* Instructions, with random registers. */
#define SNIPPETS(X) \
    X("in %%dx, %%al") X("out %%eax, %%dx") X("mov $20, %%ecx\n\trep insb") X("rep outsl") X("outsb") X("cli") X("sti") X("hlt") X("clts") \
    X("wbinvd") X("invd") X("mov %%cr0, %%rax") X("mov %%rax, %%cr0") X("mov %%cr2, %%rax") X("mov %%rax, %%cr2") \
    X("mov %%cr4, %%rax") X("mov %%rax, %%cr4") X("mov %%cr8, %%rax") X("mov %%rax, %%cr3") X("mov %%cr3, %%rax") \
    X("rdmsr") X("wrmsr") X("cpuid") X(".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2") X("rdtsc") X("rdtscp") \
    X("xor %%ecx, %%ecx\n\txsetbv") X("xgetbv") X("rdpmc") X("int3") X("int $0x80") X("int $0x81") X("int $0x20") X("int $2") \
    X("int $14") X(".byte 0xf1") X("ud2") X("sysenter") X("mov $17, %%eax\n\tsyscall") X("mov %%eax, %%ds") X("mov %%eax, %%es") X("mov %%eax, %%fs") \
    X("mov %%eax, %%gs") X("mov %%eax, %%ss") X("mov %%eax, %%ecx\n\tmov $17, %%eax\n\tmov %%ecx, %%ss\n\tsyscall") X("mov %%eax, %%ss\n\tint3") X("lar %%eax, %%ebx") \
    X("lsl %%eax, %%ebx") X("verr %%ax") X("sgdt 0(%%rdi)") X("sldt %%eax") X("str %%eax") X("smsw %%eax") X("lmsw %%ax") \
    X("lgdt (%%rdi)") X("lidt (%%rdi)") X("lldt %%ax") X("ltr %%ax") X("invlpg (%%rdi)") X("swapgs") X("sysretq") X("iretq") X("lretq") \
    X("movq %%rax, (%%rdi)") X("movl %%eax, (%%rdi)") X("lock cmpxchg %%rbx, (%%rdi)") X("xchg %%rax, (%%rdi)") X("lock btsq $1, (%%rdi)") \
    X("mov $20, %%ecx\n\trep movsb") X("movb %%al, 3(%%rdi)") X("push %%rax\n\tpopfq") X("pushfq\n\torq $0x40100, (%%rsp)\n\tpopfq\n\tnop\n\tnop") \
    X("pushfq\n\torq $0x4000, (%%rsp)\n\tpopfq\n\tsysenter") X("pushfq\n\torq $0x100, (%%rsp)\n\tmov $17, %%eax\n\tpopfq\n\tsyscall") \
    X("pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tsysenter") X("pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tcpuid") \
    X("mov %%rax, %%dr0") X("mov %%rax, %%dr7") X("mov %%dr6, %%rax") X("mov %%rax, %%dr6") X("wrfsbase %%rax") X("wrgsbase %%rax") \
    X("rdfsbase %%rax") X("fninit") X("fld1") X("movups %%xmm0, (%%rdi)") X("vaddps %%ymm0, %%ymm1, %%ymm2") X("fxrstor (%%rdi)") \
    X("xsave (%%rdi)") X("xrstor (%%rdi)") X("monitor") X("mwait") X("vmcall") X("clac") X("stac") X("rdrand %%eax") \
    X("ljmp *(%%rdi)") X("lcall *(%%rdi)") X("lretl") X("div %%ecx") X("jmp *%%rax")

/* Each begins 32 bytes after the one before, with `ud2` behind. */
extern char snippets_begin[], snippets_end[];
static void __attribute__((used, naked, aligned(32))) snippets(void)
{
#define X(text) ".balign 32\n\t" text "\n\tud2\n\t"
    __asm__ volatile(".globl snippets_begin, snippets_end\nsnippets_begin:\n\t" SNIPPETS(X) ".balign 32\nsnippets_end:" ::);
#undef X
}

static u64 some_selector(u32 cpu)
{
    static const u16 known[] = { 0, 3, FLAT_KERNEL_CS, FLAT_KERNEL_SS, FLAT_USER_CS32, FLAT_USER_CS64, 0xe008, 0xe010, 0xe03b, 0xe043, 0xe053, 7, 0xffff, 0xffff & ~4 };
    return below(cpu, 2) ? known[below(cpu, sizeof(known) / 2)] : next(cpu) & 0xffff;
}

/* Sees to it that an event comes, so that nothing goes on for ever. */
static void tick(u32 cpu)
{
    static u32 ports[CPUS];
    struct vcpu_set_periodic_timer p = { 5000000 };
    H3(vcpu_op, VCPUOP_set_periodic_timer, cpu, &p);
    struct evtchn_bind_virq v = { .virq = VIRQ_TIMER, .vcpu = cpu };
    if (!H2(event_channel_op, EVTCHNOP_bind_virq, &v)) ports[cpu] = v.port;
    struct evtchn_unmask u = { ports[cpu] };
    H2(event_channel_op, EVTCHNOP_unmask, &u);
    shared->vcpu_info[cpu].evtchn_upcall_mask = 0;
}

/* Goes there with random registers; comes back by an exception. */
static void run(u32 cpu)
{
    u64 where = (u64)snippets_begin + below(cpu, (snippets_end - snippets_begin) / 32) * 32;
    bool user = below(cpu, 2);
    if (user && !below(cpu, 4)) {
        /* Or to anything. */
        for (u32 i = 0; i < 16; i++) ((u64 *)code[cpu])[i] = next(cpu);
        where = (u64)code[cpu];
    }
    u64 cs = user ? FLAT_USER_CS64 : FLAT_KERNEL_CS & ~3, ss = FLAT_USER_SS64, rflags = 0x202, rip = where;
    u64 rsp = (u64)user_stacks[cpu] + 2048 + below(cpu, 2048);
    if (!below(cpu, 6)) cs = user ? FLAT_USER_CS32 : some_selector(cpu);
    if (!below(cpu, 8)) ss = some_selector(cpu);
    if (!below(cpu, 4)) rflags = next(cpu) & (below(cpu, 2) ? ~0ull : 0x3f7fd5);
    if (!below(cpu, 12)) rip = value(cpu);
    if (user && !below(cpu, 8)) rsp = value(cpu);
    if (below(cpu, 32)) rflags |= 0x200;
    tick(cpu);
    u64 r[6];
    for (u32 i = 0; i < 6; i++) r[i] = value(cpu);
    if (below(cpu, 2)) r[0] = some_selector(cpu);
    if (below(cpu, 2)) r[1] = below(cpu, 2) ? below(cpu, 0x400) : 0xc0000080 + below(cpu, 0x100);
    __asm__ volatile("push %[ss]\n\tpush %[rsp]\n\tpush %[rflags]\n\tpush %[cs]\n\tpush %[rip]\n\tpush %[flags]\n\t"
                     "jmp *%[iret]"
                     :: [ss] "r"(ss), [rsp] "r"(rsp), [rflags] "r"(rflags), [cs] "r"(cs), [rip] "r"(rip),
                        [flags] "r"((u64)(below(cpu, 4) ? 0 : 0x100)), [iret] "r"(hypercall_page + __HYPERVISOR_iret * 32),
                        "a"(r[0]), "c"(r[1]), "d"(r[2]), "D"(r[3]), "S"(r[4]), "b"(r[5])
                     : "memory");
}

static void step(u32 cpu)
{
    u64 a[6], n;
    switch (below(cpu, 16)) {
    case 0: case 1: case 2: case 3: run(cpu); break;
    case 4: case 5: multicall(cpu); break;
    case 6: {
        /* New contents of a page, if it can be written: else a fault. */
        u64 *p = arena_page(cpu);
        u64 kind = below(cpu, 3);
        for (u32 i = 0; i < 512; i += 1 + below(cpu, 40)) p[i] = kind == 0 ? entry(cpu) : kind == 1 ? 0 : next(cpu);
        break;
    }
    case 7: memset(arena_page(cpu), 0, 4096); break;
    default:
        n = choose(cpu, a);
        if (n < 128) hypercall(n, a[0], a[1], a[2], a[3], a[4]);
    }
}

static void set_up_cpu(u32 cpu)
{
    H1(set_trap_table, traps);
    H3(set_callbacks, entry_event, entry_failsafe, entry_syscall);
    H2(stack_switch, FLAT_KERNEL_SS, kernel_stacks[cpu] + STACK);
    struct mmuext_op op = { .cmd = MMUEXT_NEW_USER_BASEPTR, .arg1.mfn = mfn_of(l4()) };
    H4(mmuext_op, &op, 1, 0, DOMID_SELF);
    tick(cpu);
}

static void __attribute__((noreturn)) loop(u32 cpu)
{
    if (done[cpu] % 512 == 0) set_up_cpu(cpu);
    for (;;) {
        if (cpu == 0 && done[0] % 1024 == 0) print("fuzz: %lu\n", done[0]);
        if (done[cpu]++ >= count) {
            if (cpu == 0) finish();
            done[cpu] = 0;
        }
        if (done[cpu] % 512 == 0) set_up_cpu(cpu);
        step(cpu);
        /* What a neighbour took from us. */
        if (cpu == 0 && below(cpu, 64) == 0)
            for (u32 other = 1; other < cpus; other++) H3(vcpu_op, VCPUOP_up, other, 0);
    }
}

/* Which virtual CPU this is, by the stack. */
static u32 which(u64 rsp)
{
    if (cpus == 1) return 0;
    for (u32 cpu = 0; cpu < cpus; cpu++)
        if (rsp - (u64)stacks[cpu] <= STACK || rsp - (u64)kernel_stacks[cpu] <= STACK || rsp - (u64)user_stacks[cpu] <= 4096) return cpu;
    return ~0u;
}

/* Every exception ends what was going on; the next step follows. */
static void recover(struct frame *f)
{
    u32 cpu = which((u64)f);
    if (cpu == ~0u) {
        /* On a stack that a step made up: whose it was nobody knows. */
        for (;;) H2(sched_op, SCHEDOP_yield, 0);
    }
    shared->vcpu_info[cpu].evtchn_upcall_pending = 0;
    if (f->vector == 200 && below(cpu, 2)) return;
    shared->vcpu_info[cpu].evtchn_upcall_mask = 0;
    __asm__ volatile("mov %0, %%rsp\n\txor %%ebp, %%ebp\n\tcall *%1" :: "r"(stacks[cpu] + STACK), "r"(loop), "D"((u64)cpu));
    __builtin_unreachable();
}

static void start_others(void)
{
    static struct vcpu_guest_context c;
    for (u32 cpu = 1; cpu < cpus; cpu++) {
        memset(&c, 0, sizeof(c));
        c.flags = VGCF_IN_KERNEL;
        c.user_regs.rip = (u64)loop;
        c.user_regs.rdi = cpu;
        c.user_regs.rsp = (u64)stacks[cpu] + STACK - 8;
        c.user_regs.cs = FLAT_KERNEL_CS;
        c.user_regs.ss = FLAT_KERNEL_SS;
        c.kernel_ss = FLAT_KERNEL_SS;
        c.kernel_sp = (u64)kernel_stacks[cpu] + STACK;
        c.ctrlreg[3] = mfn_of(l4()) << 12;
        c.event_callback_eip = (u64)entry_event;
        c.failsafe_callback_eip = (u64)entry_failsafe;
        c.syscall_callback_eip = (u64)entry_syscall;
        long r = H3(vcpu_op, VCPUOP_initialise, cpu, &c);
        if (r || (r = H3(vcpu_op, VCPUOP_up, cpu, 0))) {
            print("fuzz: CPU %u: %s\n", cpu, error(r));
            cpus = cpu;
        }
    }
}

static u64 number(const char **text)
{
    u64 n = 0;
    while (**text == ' ') ++*text;
    while (**text >= '0' && **text <= '9') n = n * 10 + *(*text)++ - '0';
    return n;
}

void fuzz(const char *options)
{
    seed = number(&options), count = number(&options), cpus = number(&options);
    if (cpus == 0 || cpus > CPUS) cpus = 1;
    for (u32 i = 0; i < 32; i++) traps[i] = (struct trap_info){ i, i & 1 ? 3 | 4 : 3, FLAT_KERNEL_CS, entries[i] };
    traps[32] = (struct trap_info){ 128, 3, FLAT_KERNEL_CS, (u64)entry_128 };
    traps[33] = (struct trap_info){ 129, 0, FLAT_KERNEL_CS, (u64)entry_129 };
    for (u32 cpu = 0; cpu < CPUS; cpu++) state[cpu] = (seed * 4 + cpu + 1) * 0x9e3779b97f4a7c15;
    on_exception = recover;
    start_others();
    __asm__ volatile("mov %0, %%rsp\n\txor %%ebp, %%ebp\n\tcall *%1" :: "r"(stacks[0] + STACK), "r"(loop), "D"(0ul));
    __builtin_unreachable();
}
