/*
 * Domains: made, given memory, page tables and a state, looked at, and destroyed, with
 * nothing left of them.
 */
#include "pv.h"

#define PAGES 24

static struct xen_domctl op;
static u64 frames[PAGES];
static vcpu_guest_context_t context;

static long control(u32 cmd, domid_t domain)
{
    op.cmd = cmd, op.interface_version = XEN_DOMCTL_INTERFACE_VERSION, op.domain = domain;
    return H1(domctl, &op);
}

static void usual(void)
{
    memset(&op, 0, sizeof(op));
    op.u.createdomain = (struct xen_domctl_createdomain){
        .max_vcpus = 2, .max_evtchn_port = 1023, .max_grant_frames = 4, .max_maptrack_frames = 4, .grant_opts = 1,
    };
}

static long create(domid_t wanted)
{
    usual();
    long r = control(XEN_DOMCTL_createdomain, wanted);
    return r ? r : op.domain;
}

#define REFUSED(what, change) do { usual(); struct xen_domctl_createdomain *c = &op.u.createdomain; change; \
        long r_ = control(XEN_DOMCTL_createdomain, 0); result("create, " what, r_); if (!r_) control(XEN_DOMCTL_destroydomain, op.domain); } while (0)

static u64 free_pages(void)
{
    static struct xen_sysctl s;
    s.cmd = XEN_SYSCTL_physinfo, s.interface_version = XEN_SYSCTL_INTERFACE_VERSION;
    return H1(sysctl, &s) ? 0 : s.u.physinfo.free_pages + s.u.physinfo.scrub_pages;
}

/* Maps a domain's page instead of `at`. */
static long map_theirs(void *at, u64 mfn, domid_t id)
{
    return H4(update_va_mapping_otherdomain, at, mfn << 12 | PRESENT | USER | RW | ACCESSED | DIRTY, UVMF_INVLPG, id);
}

/* What a made domain runs: counts for ever in its second page. */
static const u8 counts[] = { 0xf0, 0x48, 0xff, 0x04, 0x25, 0x00, 0x10, 0x00, 0x00,   /* lock incq 0x1000 */
                             0xeb, 0xf5 };                                          /* jmp to the start */

/* Makes a domain with vCPUs, memory, an event channel and pinned page tables. */
static domid_t wanted;      /* the number of the next one; 0 for any */

static long whole(bool aloud)
{
    long id = wanted ? wanted : create(0);
    if (id < 0) return id;
#define STEP(name, expression) do { long r_ = (expression); if (aloud) result(name, r_); else if (r_ < 0) { result(name, r_); return r_; } } while (0)
    op.u.max_vcpus.max = 2;
    STEP("max_vcpus", control(XEN_DOMCTL_max_vcpus, id));
    op.u.max_mem.max_memkb = PAGES * 4;
    STEP("max_mem", control(XEN_DOMCTL_max_mem, id));
    for (u64 i = 0; i < PAGES; i++) frames[i] = i;
    struct xen_memory_reservation r = { .nr_extents = PAGES, .domid = id };
    set_xen_guest_handle(r.extent_start, frames);
    STEP("populate", H2(memory_op, XENMEM_populate_physmap, &r) == PAGES ? 0 : -1);
    struct evtchn_alloc_unbound port = { .dom = id, .remote_dom = 0 };
    STEP("port", H2(event_channel_op, EVTCHNOP_alloc_unbound, &port));
    /* Four levels that map the first page, as its builder would write them. */
    for (int level = 0; level < 4; level++) {
        struct mmuext_op clear = { .cmd = MMUEXT_CLEAR_PAGE, .arg1.mfn = frames[1 + level] };
        STEP("clear", H4(mmuext_op, &clear, 1, 0, id));
        mmu_update_t u = { frames[1 + level] << 12 | MMU_NORMAL_PT_UPDATE, frames[level] << 12 | PRESENT | USER | (level ? RW : 0) };
        STEP("entry", H4(mmu_update, &u, 1, 0, (u64)(id + 1) << 16 | id));
    }
    if (wanted) {
        char *at = page();
        STEP("its code", map_theirs(at, frames[0], id));
        memcpy(at, counts, sizeof(counts));
        mmu_update_t u = { (frames[1] << 12 | 8) | MMU_NORMAL_PT_UPDATE, frames[6] << 12 | PRESENT | USER | RW };
        STEP("its counter", H4(mmu_update, &u, 1, 0, (u64)(id + 1) << 16 | id));
        STEP("unmap", map(at, 0));
    }
    struct mmuext_op pin = { .cmd = MMUEXT_PIN_L4_TABLE, .arg1.mfn = frames[4] };
    STEP("pin", H4(mmuext_op, &pin, 1, 0, id));
    memset(&context, 0, sizeof(context));
    context.user_regs.rbx = frames[6];
    context.flags = VGCF_in_kernel | VGCF_online;
    context.ctrlreg[3] = frames[4] << 12;
    context.user_regs.cs = FLAT_KERNEL_CS, context.user_regs.ss = FLAT_KERNEL_SS, context.kernel_ss = FLAT_KERNEL_SS;
    context.gdt_ents = 512, context.gdt_frames[0] = frames[5];
    op.u.vcpucontext.vcpu = 0;
    set_xen_guest_handle(op.u.vcpucontext.ctxt, &context);
    STEP("setvcpucontext", control(XEN_DOMCTL_setvcpucontext, id));
    return id;
}

static long destroy(domid_t id)
{
    long r = control(XEN_DOMCTL_destroydomain, id);
    return r;
}

/* Whether a domain is gone, now or soon. */
static bool gone(domid_t id)
{
    for (int i = 0; i < 100000; i++) {
        if (control(XEN_DOMCTL_getdomaininfo, id) || op.domain != id) return true;
        H2(sched_op, SCHEDOP_yield, 0);
    }
    return false;
}

static u32 flags(domid_t id)
{
    long r = control(XEN_DOMCTL_getdomaininfo, id);
    if (r || op.domain != id) return ~0u;
    return op.u.getdomaininfo.flags;
}

void group_domains(void)
{
    say("--- configurations");
    REFUSED("HAP without HVM", c->flags = XEN_DOMCTL_CDF_hap);
    REFUSED("unknown flag", c->flags = 1 << 20);
    REFUSED("no vCPU", c->max_vcpus = 0);
    REFUSED("very many vCPUs", c->max_vcpus = 100000);
    REFUSED("grant version 0", c->grant_opts = 0);
    REFUSED("grant version 3", c->grant_opts = 3);
    REFUSED("grant option", c->grant_opts = 0x11);
    REFUSED("no grant frames", c->max_grant_frames = 0);
    REFUSED("very many grant frames", c->max_grant_frames = 1000000);
    REFUSED("IOMMU options without IOMMU", c->iommu_opts = 1);
    REFUSED("tracing", c->vmtrace_size = 4096);
    REFUSED("misc flags", c->arch.misc_flags = 2);
    REFUSED("emulated LAPIC", c->arch.emulation_flags = 1);
    REFUSED("unknown emulation", c->arch.emulation_flags = 1 << 20);
    REFUSED("no such pool", c->cpupool_id = 7);

    say("--- a domain");
    long id = create(1234);
    say("the number that was wanted %d", id == 1234);
    result("again", create(1234));
    say("paused by its maker %d", flags(id) == (XEN_DOMINF_paused | 0xff << 16));
    op.u.max_vcpus.max = 3;
    result("another number of vCPUs", control(XEN_DOMCTL_max_vcpus, id));
    op.u.vcpucontext.vcpu = 0;
    set_xen_guest_handle(op.u.vcpucontext.ctxt, &context);
    result("context of no vCPU", control(XEN_DOMCTL_setvcpucontext, id));
    op.u.getvcpuinfo.vcpu = 0;
    result("vCPU that was not made", control(XEN_DOMCTL_getvcpuinfo, id));
    op.u.getvcpuinfo.vcpu = 2;
    result("vCPU beyond", control(XEN_DOMCTL_getvcpuinfo, id));
    op.u.address_size.size = 64;
    result("64 bits", control(XEN_DOMCTL_set_address_size, id));
    op.u.address_size.size = 63;
    result("63 bits", control(XEN_DOMCTL_set_address_size, id));
    op.u.tsc_info.tsc_mode = 9;
    result("TSC mode 9", control(XEN_DOMCTL_settscinfo, id));
    op.u.set_virq_handler.virq = VIRQ_TIMER;
    result("handler of a timer", control(XEN_DOMCTL_set_virq_handler, id));
    op.u.set_virq_handler.virq = 99;
    result("handler of nothing", control(XEN_DOMCTL_set_virq_handler, id));
    op.u.hypercall_init.gmfn = ~0ull >> 12;
    result("hypercall page nowhere", control(XEN_DOMCTL_hypercall_init, id));
    op.u.hypercall_init.gmfn = mfn_of(&op);
    result("hypercall page of another", control(XEN_DOMCTL_hypercall_init, id));
    op.u.getpageframeinfo3.num = 1025;
    result("1025 frames", control(XEN_DOMCTL_getpageframeinfo3, id));
    result("pause", control(XEN_DOMCTL_pausedomain, id));
    result("unpause", control(XEN_DOMCTL_unpausedomain, id));
    result("unpause", control(XEN_DOMCTL_unpausedomain, id));
    result("unpause once too often", control(XEN_DOMCTL_unpausedomain, id));
    result("destroy itself", destroy(0));
    result("destroy", destroy(id));
    say("gone %d", gone(id));

    say("--- one with everything");
    id = whole(true);
    u64 kinds[6];
    for (int i = 0; i < 6; i++) kinds[i] = frames[i];
    op.u.getpageframeinfo3.num = 6;
    set_xen_guest_handle(op.u.getpageframeinfo3.array, kinds);
    result("getpageframeinfo3", control(XEN_DOMCTL_getpageframeinfo3, id));
    for (int i = 0; i < 6; i++) say("frame %d: %x", i, (u32)kinds[i]);
    static vcpu_guest_context_t again;
    op.u.vcpucontext.vcpu = 0;
    set_xen_guest_handle(op.u.vcpucontext.ctxt, &again);
    result("getvcpucontext", control(XEN_DOMCTL_getvcpucontext, id));
    say("flags %lx, tables %d, GDT %lu %d, cs %x", again.flags & ~1ul, again.ctrlreg[3] == context.ctrlreg[3], again.gdt_ents,
        again.gdt_frames[0] == frames[5], again.user_regs.cs);
    op.u.vcpucontext.vcpu = 1;
    set_xen_guest_handle(op.u.vcpucontext.ctxt, &again);
    result("of one that was not set", control(XEN_DOMCTL_getvcpucontext, id));
    again.ctrlreg[3] = frames[6] << 12;
    op.u.vcpucontext.vcpu = 0;
    set_xen_guest_handle(op.u.vcpucontext.ctxt, &again);
    result("other page tables", control(XEN_DOMCTL_setvcpucontext, id));

    say("--- its end, while a page of it is mapped");
    char *at = page();
    u64 own = mfn_of(at);
    result("map", H4(update_va_mapping_otherdomain, at, frames[8] << 12 | PRESENT | USER | RW | ACCESSED | DIRTY, UVMF_INVLPG, id));
    at[0] = 1;
    result("destroy", destroy(id));
    say("dead, and there %d", (flags(id) & XEN_DOMINF_dying) != 0);
    result("its number", create(id));
    result("unmap", H3(update_va_mapping, at, own << 12 | PRESENT | USER | RW | ACCESSED | DIRTY, UVMF_INVLPG));
    say("gone %d", gone(id));
}

static u64 time_of(domid_t id)
{
    return control(XEN_DOMCTL_getdomaininfo, id) || op.domain != id ? 0 : op.u.getdomaininfo.cpu_time;
}

/* Whether a domain gets time. */
static bool runs(domid_t id)
{
    u64 before = time_of(id);
    for (int i = 0; i < 10000000; i++) {
        if (time_of(id) > before + 1000000) return true;
        H2(sched_op, SCHEDOP_yield, 0);
    }
    return false;
}

/* Dom0 ends; a domain that it made goes on, and the next Dom0 finds it. The
 * frame of its counter is in its register rbx. */
void group_restart(void)
{
    const domid_t id = 77;
    char *at = page();
    if (flags(id) == ~0u) {
        usual();
        say("the first Dom0; another domain: %s", error(control(XEN_DOMCTL_createdomain, id)));
        wanted = id;
        say("made %d", whole(true) == id);
        result("unpause", control(XEN_DOMCTL_unpausedomain, id));
        say("it runs %d", runs(id));
        struct sched_shutdown end = { .reason = SHUTDOWN_crash };
        H2(sched_op, SCHEDOP_shutdown, &end);
        say("not ended");
    } else {
        say("the next Dom0");
        say("it runs %d", runs(id));
        result("pause", control(XEN_DOMCTL_pausedomain, id));
        op.u.vcpucontext.vcpu = 0;
        set_xen_guest_handle(op.u.vcpucontext.ctxt, &context);
        result("its state", control(XEN_DOMCTL_getvcpucontext, id));
        result("its counter", map_theirs(at, context.user_regs.rbx, id));
        say("counted far %d", *(volatile u64 *)at > 1000);
        result("destroy", destroy(id));
        result("unmap", map(at, 0));
        say("gone %d", gone(id));
    }
}

/* Nothing is left of a thousand of them. */
void group_thousand(void)
{
    long id = 0;
    for (int i = 0; i < 4; i++) {
        id = whole(false);
        if (id < 0 || destroy(id) || !gone(id)) break;
    }
    u64 before = free_pages(), after = 0;
    int made = 0;
    for (; made < 1000; made++) {
        id = whole(false);
        if (id < 0 || destroy(id)) break;
    }
    say("made %d, gone %d", made, gone(id));
    for (int i = 0; i < 100000 && (after = free_pages()) != before; i++) H2(sched_op, SCHEDOP_yield, 0);
    print("free before %lu, after %lu\n", before, after);
    say("all memory is free again %d", after == before);
}

/* What a domain writes is logged: while it counts, in its second page. */
static struct xen_domctl_shadow_op *const shadow = &op.u.shadow_op;

static long shadow_op(domid_t id, u32 what, u32 mb)
{
    memset(&op, 0, sizeof(op));
    shadow->op = what, shadow->mb = mb;
    return control(XEN_DOMCTL_shadow_op, id);
}

/* Says which pages are dirty. */
static void dirty(const char *when, domid_t id, u32 what)
{
    static u8 bits[8];
    char pages[200], *end = pages;
    memset(&op, 0, sizeof(op));
    memset(bits, 0xff, sizeof(bits));
    shadow->op = what, shadow->pages = 8 * sizeof(bits);
    set_xen_guest_handle(shadow->dirty_bitmap, bits);
    long r = control(XEN_DOMCTL_shadow_op, id);
    if (r) { result(when, r); return; }
    for (u32 i = 0; i < 8 * sizeof(bits); i++) {
        if (!(bits[i / 8] >> i % 8 & 1)) continue;
        *end++ = ' ';
        if (i > 9) *end++ = '0' + i / 10;
        *end++ = '0' + i % 10;
    }
    *end = 0;
    say("%s: %u of %lu dirty:%s", when, shadow->stats.dirty_count, (u64)shadow->pages, pages);
}

/* Lets the domain run until it has counted some more in a page. */
static void run_for_a_while(domid_t id, int frame)
{
    static char *at;
    if (!at) at = page();
    long r = H4(update_va_mapping_otherdomain, at, frames[frame] << 12 | PRESENT | USER | ACCESSED, UVMF_INVLPG, id);
    volatile u64 *counter = (void *)at;
    u64 before = r ? 0 : *counter;
    if (!r) r = control(XEN_DOMCTL_unpausedomain, id);
    for (int i = 0; !r && *counter < before + 1000; i++) {
        if (i > 10000000) { r = -1; break; }
        H2(sched_op, SCHEDOP_yield, 0);
    }
    if (!r) r = control(XEN_DOMCTL_pausedomain, id);
    if (r) say("it does not run: %s", error(r));
    map(at, 0);
}

static long point_counter_to(domid_t id, int frame)
{
    mmu_update_t u = { (frames[1] << 12 | 8) | MMU_NORMAL_PT_UPDATE, frames[frame] << 12 | PRESENT | USER | RW };
    return H4(mmu_update, &u, 1, 0, (u64)(id + 1) << 16 | id);
}

void group_logdirty(void)
{
    const domid_t id = 77;
    char *at = page();
    usual();
    control(XEN_DOMCTL_createdomain, id);
    wanted = id;
    result("no vCPUs", shadow_op(id, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, 0));
    say("made %d", whole(false) == id);
    memset(&op, 0, sizeof(op));
    op.u.vcpucontext.vcpu = 1;
    set_xen_guest_handle(op.u.vcpucontext.ctxt, &context);
    result("the second vCPU", control(XEN_DOMCTL_setvcpucontext, id));
    result("oneself", shadow_op(0, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, 0));
    result("unknown", shadow_op(id, 99, 0));
    result("off without a log", shadow_op(id, XEN_DOMCTL_SHADOW_OP_OFF, 0));
    dirty("clean without a log", id, XEN_DOMCTL_SHADOW_OP_CLEAN);
    u64 before = free_pages();
    result("set_allocation", shadow_op(id, XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION, 2));
    say("allocated %u", shadow->mb);
    result("set_allocation to none", shadow_op(id, XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION, 0));
    say("allocated %u, given back %d", shadow->mb, free_pages() == before);
    result("enable", shadow_op(id, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, 0));
    result("enable again", shadow_op(id, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, 0));
    result("get_allocation", shadow_op(id, XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION, 0));
    say("allocated %u", shadow->mb);
    result("set_allocation to none", shadow_op(id, XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION, 0));
    dirty("at first", id, XEN_DOMCTL_SHADOW_OP_PEEK);
    memset(&op, 0, sizeof(op));
    shadow->op = XEN_DOMCTL_SHADOW_OP_CLEAN, shadow->mode = 2;
    result("unknown mode", control(XEN_DOMCTL_shadow_op, id));
    memset(&op, 0, sizeof(op));

    run_for_a_while(id, 6);
    /* Three tables in which A or D was set, and what it counts in. */
    dirty("peek", id, XEN_DOMCTL_SHADOW_OP_PEEK);
    dirty("clean", id, XEN_DOMCTL_SHADOW_OP_CLEAN);
    dirty("clean again", id, XEN_DOMCTL_SHADOW_OP_CLEAN);
    run_for_a_while(id, 6);
    dirty("a round", id, XEN_DOMCTL_SHADOW_OP_CLEAN);
    result("another counter", point_counter_to(id, 7));
    dirty("its table", id, XEN_DOMCTL_SHADOW_OP_CLEAN);
    run_for_a_while(id, 7);
    dirty("a round", id, XEN_DOMCTL_SHADOW_OP_CLEAN);
    result("foreign mapping", map_theirs(at, frames[8], id));
    dirty("while it is there", id, XEN_DOMCTL_SHADOW_OP_CLEAN);
    dirty("while it is there", id, XEN_DOMCTL_SHADOW_OP_CLEAN);
    result("unmap", map(at, 0));
    dirty("when it is gone", id, XEN_DOMCTL_SHADOW_OP_CLEAN);
    dirty("later", id, XEN_DOMCTL_SHADOW_OP_CLEAN);
    run_for_a_while(id, 7);
    memset(&op, 0, sizeof(op));
    shadow->op = XEN_DOMCTL_SHADOW_OP_CLEAN, shadow->pages = 64;
    shadow->dirty_bitmap.p = (void *)0xffff830000000000;
    result("a bitmap that cannot be written", control(XEN_DOMCTL_shadow_op, id));
    dirty("nothing is lost", id, XEN_DOMCTL_SHADOW_OP_CLEAN);

    result("off", shadow_op(id, XEN_DOMCTL_SHADOW_OP_OFF, 0));
    say("given back %d", free_pages() == before);
    run_for_a_while(id, 7);
    for (int i = 6; i < 8; i++) {
        map_theirs(at, frames[i], id);
        say("counter %d: far %d", i, *(volatile u64 *)at > 1000);
        map(at, 0);
    }
    result("enable", shadow_op(id, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, 0));
    result("unpause", control(XEN_DOMCTL_unpausedomain, id));
    say("it runs %d", runs(id));
    result("destroy", destroy(id));
    say("gone %d", gone(id));
}
