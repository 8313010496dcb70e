/* Event channels, grants, vCPUs and time. */
#include "pv.h"

static unsigned upcalls;
static u64 seen_sel, upcall_cs, upcall_rflags;
static void count(struct frame *f)
{
    upcalls++;
    seen_sel = shared->vcpu_info[0].evtchn_pending_sel;
    upcall_cs = f->cs;
    upcall_rflags = f->rflags & 0x200;
}

static void upcalls_on(void)
{
    shared->vcpu_info[0].evtchn_upcall_mask = 0;
    __asm__ volatile("" ::: "memory");
    if (shared->vcpu_info[0].evtchn_upcall_pending) H2(xen_version, 0, 0);
}
static void upcalls_off(void) { shared->vcpu_info[0].evtchn_upcall_mask = 1; }
static bool pending(u32 p) { return shared->evtchn_pending[p / 64] >> p % 64 & 1; }
static void unmask(u32 p) { shared->evtchn_mask[p / 64] &= ~(1ull << p % 64); }
static void clear(u32 p) { shared->evtchn_pending[p / 64] &= ~(1ull << p % 64); shared->vcpu_info[0].evtchn_pending_sel = 0; }

typedef struct evtchn_close ev_close;
typedef struct evtchn_send ev_send;
typedef struct evtchn_unmask ev_unmask;
typedef struct evtchn_bind_vcpu ev_bind_vcpu;
typedef struct evtchn_set_priority ev_set_priority;
typedef struct evtchn_reset ev_reset;
#define EV(op, ...) hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_##op, (u64)&((ev_##op)__VA_ARGS__), 0, 0, 0)

static void status(u32 port)
{
    struct evtchn_status s = { .dom = DOMID_SELF, .port = port };
    long r = H2(event_channel_op, EVTCHNOP_status, &s);
    say("status of %u: %s, %u vcpu %u, %x %x", port, error(r), s.status, s.vcpu, s.status == 1 ? s.u.unbound.dom : s.status == 2 ? s.u.interdomain.dom : s.status >= 3 ? s.u.virq : 0, s.status == 2 ? s.u.interdomain.port : 0);
}

static void operations(void)
{
    struct evtchn_bind_ipi ipi = { .vcpu = 0 };
    result("bind_ipi", H2(event_channel_op, EVTCHNOP_bind_ipi, &ipi));
    say("port %u", ipi.port);
    struct evtchn_bind_ipi bad = { .vcpu = 99 };
    result("bind_ipi of no vcpu", H2(event_channel_op, EVTCHNOP_bind_ipi, &bad));
    struct evtchn_alloc_unbound u = { .dom = DOMID_SELF, .remote_dom = DOMID_SELF };
    result("alloc_unbound", H2(event_channel_op, EVTCHNOP_alloc_unbound, &u));
    say("port %u", u.port);
    struct evtchn_alloc_unbound other = { .dom = 0x123, .remote_dom = 0 };
    result("alloc_unbound of none", H2(event_channel_op, EVTCHNOP_alloc_unbound, &other));
    other = (struct evtchn_alloc_unbound){ .dom = DOMID_SELF, .remote_dom = 0x123 };
    result("alloc_unbound for none", H2(event_channel_op, EVTCHNOP_alloc_unbound, &other));
    struct evtchn_bind_interdomain inter = { .remote_dom = DOMID_SELF, .remote_port = u.port };
    result("bind_interdomain", H2(event_channel_op, EVTCHNOP_bind_interdomain, &inter));
    say("port %u", inter.local_port);
    result("bind_interdomain again", H2(event_channel_op, EVTCHNOP_bind_interdomain, &inter));
    inter.remote_port = 3000;
    result("bind_interdomain no port", H2(event_channel_op, EVTCHNOP_bind_interdomain, &inter));
    inter.remote_dom = 0x123;
    result("bind_interdomain no domain", H2(event_channel_op, EVTCHNOP_bind_interdomain, &inter));
    struct evtchn_bind_virq virq = { .virq = VIRQ_TIMER, .vcpu = 0 };
    result("bind_virq timer", H2(event_channel_op, EVTCHNOP_bind_virq, &virq));
    u32 timer = virq.port;
    result("bind_virq again", H2(event_channel_op, EVTCHNOP_bind_virq, &virq));
    virq.virq = VIRQ_CONSOLE, virq.vcpu = 1;
    result("bind_virq global on vcpu 1", H2(event_channel_op, EVTCHNOP_bind_virq, &virq));
    for (u32 v = 1; v < 26; v++) {
        virq = (struct evtchn_bind_virq){ .virq = v };
        say("bind_virq %u: %s", v, error(H2(event_channel_op, EVTCHNOP_bind_virq, &virq)));
        if (v != VIRQ_CONSOLE) EV(close, { virq.port });
    }
    struct evtchn_bind_pirq pirq = { .pirq = 5000 };
    result("bind_pirq no such", H2(event_channel_op, EVTCHNOP_bind_pirq, &pirq));
    for (u32 p = 0; p < 12; p++) status(p);
    status(5000);
    struct evtchn_status s = { .dom = 0x123, .port = 1 };
    result("status of no domain", H2(event_channel_op, EVTCHNOP_status, &s));

    say("--- sending");
    on_event = count;
    unmask(ipi.port);
    result("send ipi", EV(send, { ipi.port }));
    say("pending %d, vcpu pending %u, upcalls %u", pending(ipi.port), shared->vcpu_info[0].evtchn_upcall_pending, upcalls);
    upcalls_on();
    upcalls_off();
    say("upcalls %u sel %lx cs %lx if %lx", upcalls, seen_sel, upcall_cs, upcall_rflags);
    result("send again while pending", EV(send, { ipi.port }));
    upcalls_on();
    upcalls_off();
    say("upcalls %u", upcalls);
    clear(ipi.port);
    upcalls_on();
    result("send with upcalls on", EV(send, { ipi.port }));
    upcalls_off();
    say("upcalls %u", upcalls);
    clear(ipi.port);
    shared->evtchn_mask[ipi.port / 64] |= 1ull << ipi.port % 64;
    result("send masked", EV(send, { ipi.port }));
    say("pending %d sel %lx vcpu pending %u", pending(ipi.port), shared->vcpu_info[0].evtchn_pending_sel, shared->vcpu_info[0].evtchn_upcall_pending);
    result("unmask", EV(unmask, { ipi.port }));
    say("pending %d sel %lx vcpu pending %u mask %lx", pending(ipi.port), shared->vcpu_info[0].evtchn_pending_sel, shared->vcpu_info[0].evtchn_upcall_pending, shared->evtchn_mask[0] >> ipi.port & 1);
    clear(ipi.port);
    shared->vcpu_info[0].evtchn_upcall_pending = 0;
    result("send interdomain", EV(send, { inter.local_port }));
    say("at the other end %d, here %d", pending(u.port), pending(inter.local_port));
    result("send virq", EV(send, { timer }));
    result("send 0", EV(send, { 0 }));
    result("send closed", EV(send, { 500 }));
    result("send beyond", EV(send, { 5000 }));
    result("unmask 0", EV(unmask, { 0 }));
    result("unmask beyond", EV(unmask, { 500000 }));
    result("bind_vcpu ipi", EV(bind_vcpu, { ipi.port, 0 }));
    result("bind_vcpu interdomain", EV(bind_vcpu, { u.port, 0 }));
    result("bind_vcpu no vcpu", EV(bind_vcpu, { u.port, 99 }));
    result("bind_vcpu timer", EV(bind_vcpu, { timer, 0 }));
    result("set_priority", EV(set_priority, { u.port, 3 }));
    result("close", EV(close, { inter.local_port }));
    status(u.port);
    result("close again", EV(close, { inter.local_port }));
    result("close 0", EV(close, { 0 }));

    say("--- timer");
    unmask(timer);
    clear(timer);
    result("set_timer past", H1(set_timer_op, 1));
    struct sched_poll poll = { .nr_ports = 1, .timeout = 0 };
    set_xen_guest_handle(poll.ports, &timer);
    result("poll", H2(sched_op, SCHEDOP_poll, &poll));
    say("timer pending %d", pending(timer));
    clear(timer);
    upcalls = 0;
    upcalls_on();
    volatile struct vcpu_time_info *t = &shared->vcpu_info[0].time;
    H1(set_timer_op, t->system_time + 50000000);
    while (!pending(timer)) H2(sched_op, SCHEDOP_block, 0);
    upcalls_off();
    say("timer woke us: pending %d", pending(timer));
    result("reset", EV(reset, { DOMID_SELF }));
    status(ipi.port);
    status(timer);
    result("reset of none", EV(reset, { 0x123 }));
    for (unsigned cmd = 14; cmd < 18; cmd++) say("op %u: %s", cmd, error(H2(event_channel_op, cmd, page())));
    result("bad pointer", H2(event_channel_op, EVTCHNOP_send, 1ull << 47));
    result("compat op", H1(event_channel_op_compat, page()));
}

void group_events(void)
{
    operations();
    u32 got = 0, last = 0;
    long r;
    for (;;) {
        struct evtchn_alloc_unbound u = { .dom = DOMID_SELF, .remote_dom = DOMID_SELF };
        r = H2(event_channel_op, EVTCHNOP_alloc_unbound, &u);
        if (r) break;
        got++, last = u.port;
    }
    say("ports until %s: %u, last %u", error(r), got, last);
}

void group_fifo(void)
{
    struct evtchn_fifo_control_block *control = page();
    u32 *words = page();
    struct evtchn_init_control init = { .control_gfn = ((u64 *)si->mfn_list)[(u64)control >> 12], .offset = 0, .vcpu = 0 };
    struct evtchn_init_control bad = init;
    bad.offset = 4096;
    result("init_control offset", H2(event_channel_op, EVTCHNOP_init_control, &bad));
    bad.offset = 4;
    result("init_control unaligned", H2(event_channel_op, EVTCHNOP_init_control, &bad));
    bad = init;
    bad.vcpu = 77;
    result("init_control vcpu", H2(event_channel_op, EVTCHNOP_init_control, &bad));
    bad = init;
    bad.control_gfn = ~0ull;
    result("init_control frame", H2(event_channel_op, EVTCHNOP_init_control, &bad));
    bad.control_gfn = mfn_of(l4());
    result("init_control table", H2(event_channel_op, EVTCHNOP_init_control, &bad));
    struct evtchn_expand_array expand = { mfn_of(words) };
    result("expand before init", H2(event_channel_op, EVTCHNOP_expand_array, &expand));
    struct evtchn_bind_ipi early = { .vcpu = 0 };
    H2(event_channel_op, EVTCHNOP_bind_ipi, &early);
    result("init_control", H2(event_channel_op, EVTCHNOP_init_control, &init));
    say("link bits %u", init.link_bits);
    result("init_control again", H2(event_channel_op, EVTCHNOP_init_control, &init));
    result("expand", H2(event_channel_op, EVTCHNOP_expand_array, &expand));
    struct evtchn_expand_array no = { ~0ull };
    result("expand nothing", H2(event_channel_op, EVTCHNOP_expand_array, &no));
    struct evtchn_bind_ipi a = { .vcpu = 0 }, b = { .vcpu = 0 };
    H2(event_channel_op, EVTCHNOP_bind_ipi, &a);
    H2(event_channel_op, EVTCHNOP_bind_ipi, &b);
    say("ports %u %u %u", early.port, a.port, b.port);
    say("words %x %x %x", words[early.port], words[a.port], words[b.port]);
    words[a.port] &= ~(1u << EVTCHN_FIFO_MASKED);
    words[b.port] &= ~(1u << EVTCHN_FIFO_MASKED);
    result("send", EV(send, { a.port }));
    say("word %x ready %x head %u upcall %u", words[a.port], control->ready, control->head[7], shared->vcpu_info[0].evtchn_upcall_pending);
    result("send the other", EV(send, { b.port }));
    say("words %x %x ready %x head %u", words[a.port], words[b.port], control->ready, control->head[7]);
    result("priority", EV(set_priority, { b.port, 2 }));
    result("priority 16", EV(set_priority, { b.port, 16 }));
    result("priority of none", EV(set_priority, { 900, 2 }));
    words[b.port] = words[a.port] = 0;
    control->head[7] = control->ready = 0;
    result("send", EV(send, { b.port }));
    say("word %x ready %x heads %u %u", words[b.port], control->ready, control->head[2], control->head[7]);
    words[b.port] = 1u << EVTCHN_FIFO_MASKED;
    control->ready = 0, control->head[2] = 0;
    result("send masked", EV(send, { b.port }));
    say("word %x ready %x", words[b.port], control->ready);
    result("unmask", EV(unmask, { b.port }));
    say("word %x ready %x head %u", words[b.port], control->ready, control->head[2]);
    u32 last = 0;
    long r = 0;
    for (int i = 0; i < 1100 && !r; i++) {
        struct evtchn_alloc_unbound u = { .dom = DOMID_SELF, .remote_dom = DOMID_SELF };
        r = H2(event_channel_op, EVTCHNOP_alloc_unbound, &u);
        if (!r) last = u.port;
    }
    say("ports in one page up to %u, then %s", last, error(r));
    result("reset", EV(reset, { DOMID_SELF }));
    result("init_control after reset", H2(event_channel_op, EVTCHNOP_init_control, &init));
}

void group_grants(void)
{
    static u64 frames[64];
    static struct grant_entry_v1 table[512] __attribute__((aligned(4096)));
    char *mine = page(), *there = page(), *other = page();
    struct gnttab_query_size q = { .dom = DOMID_SELF };
    result("query_size", H3(grant_table_op, GNTTABOP_query_size, &q, 1));
    say("frames %u of %u, status %d", q.nr_frames, q.max_nr_frames, q.status);
    struct gnttab_setup_table s = { .dom = DOMID_SELF, .nr_frames = 1 };
    set_xen_guest_handle(s.frame_list, frames);
    result("setup_table", H3(grant_table_op, GNTTABOP_setup_table, &s, 1));
    say("status %d, frame %d", s.status, frames[0] != 0);
    struct gnttab_setup_table many = { .dom = DOMID_SELF, .nr_frames = 5000 };
    set_xen_guest_handle(many.frame_list, frames);
    result("setup_table of too many", H3(grant_table_op, GNTTABOP_setup_table, &many, 1));
    say("status %d", many.status);
    many = (struct gnttab_setup_table){ .dom = 0x123, .nr_frames = 1 };
    result("setup_table of none", H3(grant_table_op, GNTTABOP_setup_table, &many, 1));
    say("status %d", many.status);
    result("map the table", map(table, frames[0] << 12 | 7));
    int zero = 1;
    for (int i = 0; i < 512; i++) zero &= !table[i].flags;
    say("empty %d", zero);
    struct gnttab_get_version v = { .dom = DOMID_SELF };
    result("get_version", H3(grant_table_op, GNTTABOP_get_version, &v, 1));
    say("version %u", v.version);

    table[8] = (struct grant_entry_v1){ GTF_permit_access, 0, mfn_of(mine) };
    table[9] = (struct grant_entry_v1){ GTF_permit_access | GTF_readonly, 0, mfn_of(mine) };
    table[10] = (struct grant_entry_v1){ GTF_permit_access, 5, mfn_of(mine) };
    table[11] = (struct grant_entry_v1){ GTF_permit_access, 0, 0xffffffff };
    table[12] = (struct grant_entry_v1){ GTF_accept_transfer, 0, mfn_of(mine) };
    table[13] = (struct grant_entry_v1){ GTF_transitive, 0, mfn_of(mine) };
    table[14] = (struct grant_entry_v1){ GTF_permit_access | GTF_PWT, 0, mfn_of(mine) };
    table[15] = (struct grant_entry_v1){ GTF_permit_access, 0, mfn_of(l4()) };
    table[16] = (struct grant_entry_v1){ GTF_permit_access | GTF_readonly, 0, mfn_of(l4()) };
    *(u64 *)mine = 0x1122334455667788;
    for (u32 ref = 7; ref < 18; ref++)
        for (int ro = 0; ro < 2; ro++) {
            struct gnttab_map_grant_ref m = { .host_addr = (u64)there, .flags = GNTMAP_host_map | (ro ? GNTMAP_readonly : 0), .ref = ref, .dom = 0 };
            long r = H3(grant_table_op, GNTTABOP_map_grant_ref, &m, 1);
            say("map %u%s: %s status %d", ref, ro ? " read-only" : "", error(r), m.status);
            if (r || m.status) continue;
            say("  flags now %x, entry %lx, holds %lx", table[ref].flags, table_entry((u64)there, 1) & 0x8000000000000067, *(volatile u64 *)there == *(volatile u64 *)mine ? 1ul : 0ul);
            struct gnttab_unmap_grant_ref un = { .host_addr = (u64)there, .handle = m.handle };
            if (ref == 8 && !ro) {
                struct gnttab_unmap_grant_ref wrong = un;
                wrong.host_addr = (u64)other;
                H3(grant_table_op, GNTTABOP_unmap_grant_ref, &wrong, 1);
                say("  unmap elsewhere: status %d", wrong.status);
                wrong = un;
                wrong.handle = 77;
                H3(grant_table_op, GNTTABOP_unmap_grant_ref, &wrong, 1);
                say("  unmap no handle: status %d", wrong.status);
            }
            r = H3(grant_table_op, GNTTABOP_unmap_grant_ref, &un, 1);
            say("  unmap: %s status %d, flags now %x, entry %lx", error(r), un.status, table[ref].flags, table_entry((u64)there, 1));
            r = H3(grant_table_op, GNTTABOP_unmap_grant_ref, &un, 1);
            say("  again: %s status %d", error(r), un.status);
            make_writable(there);
        }
    make_writable(there);
    static const struct { const char *name; u64 address; u32 flags, ref; u16 dom; } odd[] = {
        { "no flags", 1, 0, 8, 0 }, { "device", 1, GNTMAP_device_map, 8, 0 }, { "no domain", 1, GNTMAP_host_map, 8, 0x123 },
        { "big ref", 1, GNTMAP_host_map, 100000, 0 }, { "bad address", 1ull << 47, GNTMAP_host_map, 8, 0 },
        { "hypervisor's address", HYPERVISOR_VIRT_START, GNTMAP_host_map, 8, 0 }, { "no table", 0x7ff000000000, GNTMAP_host_map, 8, 0 },
        { "pte of nothing", ~7ull & 0xffffffffff000, GNTMAP_host_map | GNTMAP_contains_pte, 8, 0 },
        { "application", 1, GNTMAP_host_map | GNTMAP_application_map, 8, 0 }, { "avail", 1, GNTMAP_host_map | 1u << 17, 8, 0 },
        { "self", 1, GNTMAP_host_map, 8, DOMID_SELF },
    };
    for (unsigned i = 0; i < sizeof(odd) / sizeof(*odd); i++) {
        struct gnttab_map_grant_ref m = { .host_addr = odd[i].address == 1 ? (u64)there : odd[i].address, .flags = odd[i].flags, .ref = odd[i].ref, .dom = odd[i].dom };
        long r = H3(grant_table_op, GNTTABOP_map_grant_ref, &m, 1);
        say("map, %s: %s status %d", odd[i].name, error(r), m.status);
        if (r || m.status) continue;
        struct gnttab_unmap_grant_ref un = { .host_addr = odd[i].flags & GNTMAP_host_map ? (u64)there : 0, .handle = m.handle, .dev_bus_addr = odd[i].flags & GNTMAP_device_map ? m.dev_bus_addr : 0 };
        r = H3(grant_table_op, GNTTABOP_unmap_grant_ref, &un, 1);
        say("  unmap: %s status %d", error(r), un.status);
        make_writable(there);
    }
    struct gnttab_map_grant_ref m;
    struct gnttab_unmap_grant_ref un;
    say("--- copy");
    struct gnttab_copy c = { .source = { .u.gmfn = mfn_of(mine), .domid = DOMID_SELF }, .dest = { .u.gmfn = mfn_of(other), .domid = DOMID_SELF }, .len = 8 };
    result("copy frames", H3(grant_table_op, GNTTABOP_copy, &c, 1));
    say("status %d, arrived %d", c.status, *(u64 *)other == *(u64 *)mine);
    c = (struct gnttab_copy){ .source = { .u.ref = 8, .domid = DOMID_SELF, .offset = 4 }, .dest = { .u.gmfn = mfn_of(other), .domid = DOMID_SELF, .offset = 100 }, .len = 4, .flags = GNTCOPY_source_gref };
    result("copy from a grant", H3(grant_table_op, GNTTABOP_copy, &c, 1));
    say("status %d, %x", c.status, *(u32 *)(other + 100));
    c.source.offset = 4094;
    result("copy across", H3(grant_table_op, GNTTABOP_copy, &c, 1));
    say("status %d", c.status);
    c = (struct gnttab_copy){ .source = { .u.gmfn = mfn_of(mine), .domid = DOMID_SELF }, .dest = { .u.ref = 9, .domid = DOMID_SELF }, .len = 4, .flags = GNTCOPY_dest_gref };
    result("copy to a read-only grant", H3(grant_table_op, GNTTABOP_copy, &c, 1));
    say("status %d", c.status);
    c = (struct gnttab_copy){ .source = { .u.gmfn = mfn_of(mine), .domid = DOMID_SELF }, .dest = { .u.gmfn = mfn_of(l4()), .domid = DOMID_SELF }, .len = 4 };
    result("copy to a table", H3(grant_table_op, GNTTABOP_copy, &c, 1));
    say("status %d", c.status);
    c.dest.u.gmfn = ~0ull;
    result("copy to nothing", H3(grant_table_op, GNTTABOP_copy, &c, 1));
    say("status %d", c.status);
    c.dest.domid = 0x123;
    H3(grant_table_op, GNTTABOP_copy, &c, 1);
    say("to no domain: status %d", c.status);
    static const u16 ids[] = { 0, DOMID_IO, DOMID_XEN, DOMID_INVALID };
    for (unsigned i = 0; i < 4; i++) {
        c.dest.domid = ids[i];
        H3(grant_table_op, GNTTABOP_copy, &c, 1);
        say("to a frame of %x: status %d", ids[i], c.status);
        struct gnttab_copy from = { .source = { .u.gmfn = mfn_of(mine), .domid = ids[i] }, .dest = { .u.gmfn = mfn_of(other), .domid = DOMID_SELF }, .len = 4 };
        H3(grant_table_op, GNTTABOP_copy, &from, 1);
        say("from a frame of %x: status %d", ids[i], from.status);
    }

    say("--- the rest");
    struct gnttab_transfer t = { .mfn = mfn_of(other), .domid = DOMID_SELF, .ref = 12 };
    result("transfer", H3(grant_table_op, GNTTABOP_transfer, &t, 1));
    say("status %d", t.status);
    struct gnttab_swap_grant_ref swap = { 8, 10, 77 };
    result("swap", H3(grant_table_op, GNTTABOP_swap_grant_ref, &swap, 1));
    say("status %d, domids %u %u", swap.status, table[8].domid, table[10].domid);
    swap = (struct gnttab_swap_grant_ref){ 8, 100000, 77 };
    H3(grant_table_op, GNTTABOP_swap_grant_ref, &swap, 1);
    say("swap with none: status %d", swap.status);
    struct gnttab_cache_flush flush = { .a.dev_bus_addr = mfn_of(mine) << 12, .length = 64, .op = GNTTAB_CACHE_CLEAN };
    result("cache_flush", H3(grant_table_op, GNTTABOP_cache_flush, &flush, 1));
    flush.op = 0;
    result("cache_flush nothing", H3(grant_table_op, GNTTABOP_cache_flush, &flush, 1));
    flush.op = 4;
    result("cache_flush bad", H3(grant_table_op, GNTTABOP_cache_flush, &flush, 1));
    struct gnttab_dump_table d = { .dom = DOMID_SELF };
    result("dump", H3(grant_table_op, 3, &d, 0));
    for (unsigned op = 0; op < 15; op++) say("op %u of none: %s, bad pointer: %s", op, error(H3(grant_table_op, op, 0, 0)), error(H3(grant_table_op, op, 1ull << 47, 1)));
    result("negative count", H3(grant_table_op, GNTTABOP_copy, &c, 1u << 31));

    say("--- version 2");
    table[8] = table[9] = table[10] = (struct grant_entry_v1){ 0 };
    struct gnttab_set_version sv = { 3 };
    result("set_version 3", H3(grant_table_op, GNTTABOP_set_version, &sv, 1));
    sv.version = 2;
    result("set_version 2", H3(grant_table_op, GNTTABOP_set_version, &sv, 1));
    say("version %u", sv.version);
    H3(grant_table_op, GNTTABOP_get_version, &v, 1);
    say("version %u", v.version);
    struct gnttab_get_status_frames sf = { .nr_frames = 1, .dom = DOMID_SELF };
    set_xen_guest_handle(sf.frame_list, frames + 1);
    result("get_status_frames", H3(grant_table_op, GNTTABOP_get_status_frames, &sf, 1));
    say("status %d", sf.status);
    if (v.version == 2 && !sf.status) {
        static u16 states[2048] __attribute__((aligned(4096)));
        map(states, frames[1] << 12 | 7);
        union grant_entry_v2 *two = (void *)table;
        two[20].full_page = (__typeof__(two[20].full_page)){ .hdr = { GTF_permit_access, 0 }, .frame = mfn_of(mine) };
        two[21].sub_page = (__typeof__(two[21].sub_page)){ .hdr = { GTF_permit_access | GTF_sub_page, 0 }, .page_off = 16, .length = 32, .frame = mfn_of(mine) };
        two[22].transitive = (__typeof__(two[22].transitive)){ .hdr = { GTF_transitive, 0 }, .trans_domid = 0, .gref = 20 };
        for (u32 ref = 20; ref < 24; ref++) {
            m = (struct gnttab_map_grant_ref){ .host_addr = (u64)there, .flags = GNTMAP_host_map, .ref = ref, .dom = 0 };
            H3(grant_table_op, GNTTABOP_map_grant_ref, &m, 1);
            say("map %u: status %d, state %x, flags %x", ref, m.status, states[ref], two[ref].hdr.flags);
            if (!m.status) {
                un = (struct gnttab_unmap_grant_ref){ .host_addr = (u64)there, .handle = m.handle };
                H3(grant_table_op, GNTTABOP_unmap_grant_ref, &un, 1);
                say("  unmap: status %d, state %x", un.status, states[ref]);
                make_writable(there);
            }
            for (u32 offset = 0; offset < 64; offset += 24) {
                c = (struct gnttab_copy){ .source = { .u.ref = ref, .domid = DOMID_SELF, .offset = offset }, .dest = { .u.gmfn = mfn_of(other), .domid = DOMID_SELF }, .len = 16, .flags = GNTCOPY_source_gref };
                H3(grant_table_op, GNTTABOP_copy, &c, 1);
                say("  copy at %u: status %d", offset, c.status);
            }
        }
    }
    sv.version = 1;
    result("set_version 1", H3(grant_table_op, GNTTABOP_set_version, &sv, 1));
}

/* A mapping that the guest clears itself: its grant stays in use. */
void group_grantclear(void)
{
    static u64 frames[4];
    static struct grant_entry_v1 table[512] __attribute__((aligned(4096)));
    char *mine = page(), *there = page();
    struct gnttab_setup_table s = { .dom = DOMID_SELF, .nr_frames = 1 };
    set_xen_guest_handle(s.frame_list, frames);
    H3(grant_table_op, GNTTABOP_setup_table, &s, 1);
    map(table, frames[0] << 12 | 7);
    struct gnttab_map_grant_ref m;
    struct gnttab_unmap_grant_ref un;
    table[8] = (struct grant_entry_v1){ GTF_permit_access, 0, mfn_of(mine) };
    m = (struct gnttab_map_grant_ref){ .host_addr = table_of((u64)there, 1), .flags = GNTMAP_host_map | GNTMAP_contains_pte, .ref = 8, .dom = 0 };
    H3(grant_table_op, GNTTABOP_map_grant_ref, &m, 1);
    say("map by pte: status %d", m.status);
    PROBE("read it", "mov (%[p]), %%rax", [p] "r"(there));
    result("clear it by update_va_mapping", map(there, 0));
    un = (struct gnttab_unmap_grant_ref){ .host_addr = m.host_addr, .handle = m.handle };
    H3(grant_table_op, GNTTABOP_unmap_grant_ref, &un, 1);
    say("unmap by pte after that: status %d", un.status);
    make_writable(there);

    struct gnttab_set_version sv = { 2 };
    result("set_version 2", H3(grant_table_op, GNTTABOP_set_version, &sv, 1));
    m = (struct gnttab_map_grant_ref){ .host_addr = (u64)there, .flags = GNTMAP_host_map, .ref = 8, .dom = 0 };
    H3(grant_table_op, GNTTABOP_map_grant_ref, &m, 1);
    say("map: status %d", m.status);
    PROBE("write", "movl $1, (%[p])", [p] "r"(there));
    struct gnttab_unmap_and_replace r = { .host_addr = (u64)there, .new_addr = (u64)page(), .handle = m.handle };
    result("unmap_and_replace", H3(grant_table_op, GNTTABOP_unmap_and_replace, &r, 1));
    say("status %d, entries %lx %lx", r.status, table_entry((u64)there, 1) & 0xfff, table_entry(r.new_addr, 1) & 0xfff);
    result("decrease a granted page while mapped", ({
        m = (struct gnttab_map_grant_ref){ .host_addr = (u64)there, .flags = GNTMAP_host_map, .ref = 8, .dom = 0 };
        H3(grant_table_op, GNTTABOP_map_grant_ref, &m, 1);
        u64 f = mfn_of(mine);
        struct xen_memory_reservation d = { .nr_extents = 1, .domid = DOMID_SELF };
        set_xen_guest_handle(d.extent_start, &f);
        map(mine, 0);
        H2(memory_op, XENMEM_decrease_reservation, &d); }));
    PROBE("read it through the grant", "mov (%[p]), %%rax", [p] "r"(there));
    un = (struct gnttab_unmap_grant_ref){ .host_addr = (u64)there, .handle = m.handle };
    H3(grant_table_op, GNTTABOP_unmap_grant_ref, &un, 1);
    say("unmap: status %d", un.status);
}

/* --- vCPUs ------------------------------------------------------------------ */

static volatile u64 second_ran, second_flags;
static void second_says(void)
{
    u64 f;
    __asm__ volatile("mov %%cs, %0" : "=r"(f));
    second_flags = f;
    second_ran = 1;
    H3(vcpu_op, VCPUOP_down, 1, 0);
    second_ran = 2;
}

void group_vcpus(void)
{
    static struct vcpu_guest_context c;
    static char stack[4096] __attribute__((aligned(16)));
    for (u32 cpu = 0; cpu < 3; cpu++) result("is_up", H3(vcpu_op, VCPUOP_is_up, cpu, 0));
    result("up before initialise", H3(vcpu_op, VCPUOP_up, 1, 0));
    result("initialise null", H3(vcpu_op, VCPUOP_initialise, 1, 0));
    result("initialise of none", H3(vcpu_op, VCPUOP_initialise, 77, &c));
    result("initialise without tables", H3(vcpu_op, VCPUOP_initialise, 1, &c));
    c.flags = VGCF_IN_KERNEL;
    c.user_regs.rip = (u64)start_second;
    c.user_regs.rsp = (u64)stack + sizeof(stack);
    c.user_regs.cs = FLAT_KERNEL_CS;
    c.user_regs.ss = FLAT_KERNEL_SS;
    c.user_regs.rflags = 0;
    c.kernel_ss = FLAT_KERNEL_SS;
    c.kernel_sp = c.user_regs.rsp;
    c.ctrlreg[3] = mfn_of(l4()) << 12;
    c.gdt_ents = 1;
    c.gdt_frames[0] = mfn_of(l4());
    result("initialise with a gdt in a table", H3(vcpu_op, VCPUOP_initialise, 1, &c));
    c.gdt_ents = 0;
    c.ctrlreg[3] = mfn_of(stack) << 12;
    result("initialise with tables in a writable page", H3(vcpu_op, VCPUOP_initialise, 1, &c));
    c.ctrlreg[3] = mfn_of(l4()) << 12;
    c.ldt_ents = 10;
    c.ldt_base = 1ull << 47;
    result("initialise with a bad ldt", H3(vcpu_op, VCPUOP_initialise, 1, &c));
    c.ldt_ents = c.ldt_base = 0;
    result("initialise", H3(vcpu_op, VCPUOP_initialise, 1, &c));
    result("initialise again", H3(vcpu_op, VCPUOP_initialise, 1, &c));
    result("is_up", H3(vcpu_op, VCPUOP_is_up, 1, 0));
    on_second = second_says;
    result("up", H3(vcpu_op, VCPUOP_up, 1, 0));
    while (!second_ran) H2(sched_op, SCHEDOP_yield, 0);
    say("second ran, cs %lx", second_flags);
    while (H3(vcpu_op, VCPUOP_is_up, 1, 0)) H2(sched_op, SCHEDOP_yield, 0);
    say("second is down");
    result("up again", H3(vcpu_op, VCPUOP_up, 1, 0));
    while (second_ran != 2) H2(sched_op, SCHEDOP_yield, 0);
    say("second went on");
    static struct vcpu_runstate_info run;
    result("runstate", H3(vcpu_op, VCPUOP_get_runstate_info, 0, &run));
    say("state %d, sum is not 0 %d", run.state, run.time[0] + run.time[1] != 0);
    result("runstate of none", H3(vcpu_op, VCPUOP_get_runstate_info, 77, &run));
    struct vcpu_register_runstate_memory_area area = { .addr.v = &run };
    result("register runstate", H3(vcpu_op, VCPUOP_register_runstate_memory_area, 0, &area));
    say("state %d", run.state);
    area.addr.p = 1ull << 47;
    result("register runstate bad", H3(vcpu_op, VCPUOP_register_runstate_memory_area, 0, &area));
    static struct vcpu_time_info time;
    struct vcpu_register_time_memory_area ta = { .addr.v = &time };
    result("register time", H3(vcpu_op, VCPUOP_register_vcpu_time_memory_area, 0, &ta));
    say("filled %d", time.tsc_to_system_mul != 0);
    ta.addr.p = 1ull << 47;
    result("register time bad", H3(vcpu_op, VCPUOP_register_vcpu_time_memory_area, 0, &ta));
    struct vcpu_set_periodic_timer p = { 1000 };
    result("periodic 1 us", H3(vcpu_op, VCPUOP_set_periodic_timer, 0, &p));
    p.period_ns = ~0ull;
    result("periodic for ever", H3(vcpu_op, VCPUOP_set_periodic_timer, 0, &p));
    p.period_ns = 100000000;
    result("periodic 100 ms", H3(vcpu_op, VCPUOP_set_periodic_timer, 0, &p));
    result("stop periodic", H3(vcpu_op, VCPUOP_stop_periodic_timer, 0, 0));
    struct vcpu_set_singleshot_timer o = { 1, VCPU_SSHOTTMR_future };
    result("singleshot past", H3(vcpu_op, VCPUOP_set_singleshot_timer, 0, &o));
    o.flags = 0;
    result("singleshot past, without future", H3(vcpu_op, VCPUOP_set_singleshot_timer, 0, &o));
    result("singleshot of another", H3(vcpu_op, VCPUOP_set_singleshot_timer, 1, &o));
    result("stop singleshot", H3(vcpu_op, VCPUOP_stop_singleshot_timer, 0, 0));
    result("stop of another", H3(vcpu_op, VCPUOP_stop_singleshot_timer, 1, 0));
    struct vcpu_get_physid id = { 0 };
    result("physid", H3(vcpu_op, VCPUOP_get_physid, 0, &id));
    result("nmi", H3(vcpu_op, VCPUOP_send_nmi, 77, 0));
    char *info = page();
    struct vcpu_register_vcpu_info reg = { mfn_of(info), 100, 0 };
    result("vcpu_info unaligned offset", H3(vcpu_op, VCPUOP_register_vcpu_info, 0, &reg));
    reg.offset = 4096 - 32;
    result("vcpu_info across", H3(vcpu_op, VCPUOP_register_vcpu_info, 0, &reg));
    reg.offset = 64, reg.mfn = ~0ull;
    result("vcpu_info no frame", H3(vcpu_op, VCPUOP_register_vcpu_info, 0, &reg));
    reg.mfn = mfn_of(l4());
    result("vcpu_info table", H3(vcpu_op, VCPUOP_register_vcpu_info, 0, &reg));
    reg.mfn = mfn_of(info);
    result("vcpu_info of none", H3(vcpu_op, VCPUOP_register_vcpu_info, 77, &reg));
    result("vcpu_info of another that runs", H3(vcpu_op, VCPUOP_register_vcpu_info, 1, &reg));
    result("vcpu_info", H3(vcpu_op, VCPUOP_register_vcpu_info, 0, &reg));
    struct vcpu_info *now = (void *)(info + 64);
    say("mask moved %u, pending %u, time %d", now->evtchn_upcall_mask, now->evtchn_upcall_pending, now->time.tsc_to_system_mul != 0);
    result("vcpu_info again", H3(vcpu_op, VCPUOP_register_vcpu_info, 0, &reg));
    for (u32 op = 14; op < 18; op++) say("op %u: %s", op, error(H3(vcpu_op, op, 0, 0)));
    result("down", 0);
}
