/* Page tables, and memory of the domain. */
#include "pv.h"

static long update(u64 table_machine, u64 value)
{
    struct mmu_update u = { table_machine, value };
    u32 done = 0;
    return H4(mmu_update, &u, 1, &done, DOMID_SELF);
}

static long extended(unsigned cmd, u64 mfn)
{
    struct mmuext_op op = { .cmd = cmd, .arg1.mfn = mfn };
    return H4(mmuext_op, &op, 1, 0, DOMID_SELF);
}

void group_mmu(void)
{
    u64 *a = page(), *b = page(), *t1 = page(), *t2 = page(), *t3 = page(), *t4 = page();
    u64 ma = mfn_of(a) << 12, mb = mfn_of(b) << 12, va = (u64)a;
    (void)mb;

    say("--- flags of a level 1 entry");
    static const u64 sets[] = {
        PRESENT | RW | USER | ACCESSED | DIRTY, PRESENT | RW | ACCESSED | DIRTY, PRESENT, 0, PRESENT | RW | GLOBAL, PRESENT | RW | PSE, PRESENT | RW | PCD, PRESENT | RW | PWT,
        PRESENT | RW | PCD | PWT, PRESENT | RW | PSE | PCD | PWT, PRESENT | RW | AVAIL, PRESENT | RW | NX, PRESENT | RW | 1ull << 52, PRESENT | RW | 1ull << 58, PRESENT | RW | 1ull << 59, PRESENT | RW | 1ull << 62,
        RW | USER, PRESENT | RW | 1ull << 51,
    };
    for (unsigned i = 0; i < sizeof(sets) / sizeof(*sets); i++) {
        long r = update(table_of(va, 1) | MMU_NORMAL_PT_UPDATE, ma | sets[i]);
        u64 e = table_entry(va, 1);
        say("set %lx: %s, is %lx", sets[i], error(r), e == NOPTE ? e : e & ~0xffffffffff000ull);
    }
    result("back", update(table_of(va, 1), ma | PRESENT | RW | USER | ACCESSED | DIRTY));

    say("--- what may be mapped");
    result("table, writable", update(table_of(va, 1), mfn_of(l4()) << 12 | PRESENT | RW | USER));
    result("table, readable", update(table_of(va, 1), mfn_of(l4()) << 12 | PRESENT | USER));
    result("no frame", update(table_of(va, 1), 0xffffffffff000 | PRESENT | RW));
    result("beyond memory", update(table_of(va, 1), 1ull << 45 | PRESENT | RW));
    result("first MiB", update(table_of(va, 1), 0xb8000 | PRESENT | RW));
    result("APIC", update(table_of(va, 1), 0xfee00000 | PRESENT));
    result("APIC, writable", update(table_of(va, 1), 0xfee00000 | PRESENT | RW));
    result("shared_info", update(table_of(va, 1), si->shared_info | PRESENT | RW));
    result("back", update(table_of(va, 1), ma | PRESENT | RW | USER | ACCESSED | DIRTY));

    say("--- the kinds of update");
    result("preserve A and D", update(table_of(va, 1) | MMU_PT_UPDATE_PRESERVE_AD, ma | PRESENT | RW | USER));
    say("is %lx", table_entry(va, 1) & ~0xffffffffff000ull);
    result("no translate", update(table_of(va, 1) | MMU_PT_UPDATE_NO_TRANSLATE, ma | PRESENT | RW | USER | ACCESSED | DIRTY));
    result("machphys", update(ma | MMU_MACHPHYS_UPDATE, (u64)a >> 12));
    result("machphys of no frame", update(0xffffffffff000 | MMU_MACHPHYS_UPDATE, 5));
    result("unaligned", update(table_of(va, 1) | 4, ma | PRESENT));
    result("a page that is no table", update(mb, 0));
    result("a page that is no table, value", update(mb, 0x1234567000));
    result("none", H4(mmu_update, 0, 0, 0, DOMID_SELF));
    result("bad list", H4(mmu_update, 1ull << 47, 1, 0, DOMID_SELF));
    result("bad domain", H4(mmu_update, 1ull << 47, 1, 0, 0x1234));
    result("domain idle", H4(mmu_update, &((struct mmu_update){ 0, 0 }), 1, 0, DOMID_IDLE));
    result("domain io", H4(mmu_update, &((struct mmu_update){ table_of(va, 1), ma | 7 }), 1, 0, DOMID_IO));
    result("domain xen", H4(mmu_update, &((struct mmu_update){ table_of(va, 1), ma | 7 }), 1, 0, DOMID_XEN));
    result("back", update(table_of(va, 1), ma | PRESENT | RW | USER | ACCESSED | DIRTY));
    struct mmu_update several[3] = { { table_of(va, 1), ma | 7 }, { table_of(va, 1) | 4, 0 }, { table_of(va, 1), ma | 7 } };
    u32 done = 77;
    result("three, the second bad", H4(mmu_update, several, 3, &done, DOMID_SELF));
    say("done %u", done);

    say("--- update_va_mapping");
    for (int f = 0; f < 8; f++) say("flags %d: %s", f, error(H3(update_va_mapping, va, ma | 7, f)));
    result("no table there", H3(update_va_mapping, 0x7ff000000000, ma | 7, 0));
    result("hypervisor's", H3(update_va_mapping, HYPERVISOR_VIRT_START, ma | 7, 0));
    result("non-canonical", H3(update_va_mapping, 1ull << 47, ma | 7, 0));
    result("unaligned", H3(update_va_mapping, va + 5, ma | 7, 0));
    result("other domain, self", H4(update_va_mapping_otherdomain, va, ma | 7, 0, DOMID_SELF));
    result("other domain, none", H4(update_va_mapping_otherdomain, va, ma | 7, 0, 0x123));
    result("other domain, io", H4(update_va_mapping_otherdomain, va, 0xfee00000 | 1, 0, DOMID_IO));
    result("other domain, xen", H4(update_va_mapping_otherdomain, va, 0xfee00000 | 1, 0, DOMID_XEN));
    result("back", H3(update_va_mapping, va, ma | 7 | ACCESSED | DIRTY, 0));

    say("--- pins");
    result("pin writable page", extended(MMUEXT_PIN_L1_TABLE, mfn_of(t1)));
    make_readonly(t1);
    result("pin as 1", extended(MMUEXT_PIN_L1_TABLE, mfn_of(t1)));
    result("pin again", extended(MMUEXT_PIN_L1_TABLE, mfn_of(t1)));
    result("pin as 2", extended(MMUEXT_PIN_L2_TABLE, mfn_of(t1)));
    result("make writable", map(t1, mfn_of(t1) << 12 | 7));
    result("unpin", extended(MMUEXT_UNPIN_TABLE, mfn_of(t1)));
    result("unpin again", extended(MMUEXT_UNPIN_TABLE, mfn_of(t1)));
    result("make writable", map(t1, mfn_of(t1) << 12 | 7));
    t1[0] = ma | 7;
    t1[1] = mfn_of(l4()) << 12 | 7;
    make_readonly(t1);
    result("pin with a writable mapping of a table", extended(MMUEXT_PIN_L1_TABLE, mfn_of(t1)));
    make_writable(t1);
    t1[1] = mfn_of(t1) << 12 | 7;
    make_readonly(t1);
    result("pin with a writable mapping of itself", extended(MMUEXT_PIN_L1_TABLE, mfn_of(t1)));
    make_writable(t1);
    t1[1] = mfn_of(t1) << 12 | 5;
    make_readonly(t1);
    result("pin with a readable mapping of itself", extended(MMUEXT_PIN_L1_TABLE, mfn_of(t1)));
    result("unpin", extended(MMUEXT_UNPIN_TABLE, mfn_of(t1)));
    make_writable(t1);
    t1[1] = 0xffffffffff000 | 7;
    make_readonly(t1);
    result("pin with a bad entry", extended(MMUEXT_PIN_L1_TABLE, mfn_of(t1)));
    make_writable(t1);
    t1[1] = 0;
    make_readonly(t1);
    t2[0] = mfn_of(t1) << 12 | 7;
    make_readonly(t2);
    result("pin 2", extended(MMUEXT_PIN_L2_TABLE, mfn_of(t2)));
    say("entry %lx", t2[0] & ~0xffffffffff000ull);
    result("level 2 entry with PSE", update((mfn_of(t2) << 12) + 8, mfn_of(t1) << 12 | 7 | PSE));
    result("level 2 entry of a writable page", update((mfn_of(t2) << 12) + 8, mb | 7));
    result("level 2 entry of a level 2 table", update((mfn_of(t2) << 12) + 8, mfn_of(t2) << 12 | 7));
    result("level 2 entry read only", update((mfn_of(t2) << 12) + 8, mfn_of(t1) << 12 | 1));
    result("level 2 entry with global", update((mfn_of(t2) << 12) + 16, mfn_of(t1) << 12 | 7 | GLOBAL));
    result("level 2 entry with avail", update((mfn_of(t2) << 12) + 16, mfn_of(t1) << 12 | 7 | AVAIL));
    result("level 2 entry with nx", update((mfn_of(t2) << 12) + 16, mfn_of(t1) << 12 | 7 | NX));
    result("level 2 entry with bit 52", update((mfn_of(t2) << 12) + 16, mfn_of(t1) << 12 | 7 | 1ull << 52));
    result("level 2 entry with pat", update((mfn_of(t2) << 12) + 16, mfn_of(t1) << 12 | 7 | PWT | PCD));
    t3[0] = mfn_of(t2) << 12 | 7;
    make_readonly(t3);
    result("pin 3", extended(MMUEXT_PIN_L3_TABLE, mfn_of(t3)));
    result("level 3 entry of a level 1 table", update((mfn_of(t3) << 12) + 8, mfn_of(t1) << 12 | 7));
    result("level 3 entry of itself", update((mfn_of(t3) << 12) + 8, mfn_of(t3) << 12 | 7));
    result("level 3 entry with PSE", update((mfn_of(t3) << 12) + 8, mfn_of(t2) << 12 | 7 | PSE));
    memcpy(t4, l4(), 4096);
    t4[4] = mfn_of(t3) << 12 | 7;
    t4[300] = 0;
    make_readonly(t4);
    result("pin 4", extended(MMUEXT_PIN_L4_TABLE, mfn_of(t4)));
    say("entries: %lx %lx %lx", t4[4] & ~0xffffffffff000ull, t4[256] & 1, t4[300]);
    result("level 4 entry of the hypervisor's", update((mfn_of(t4) << 12) + 256 * 8, mfn_of(t3) << 12 | 7));
    result("level 4 entry of the hypervisor's, none", update((mfn_of(t4) << 12) + 271 * 8, 0));
    result("level 4 entry behind it", update((mfn_of(t4) << 12) + 272 * 8, mfn_of(t3) << 12 | 7));
    result("level 4 entry of itself", update((mfn_of(t4) << 12) + 8 * 5, mfn_of(t4) << 12 | 5));
    result("level 4 entry of itself, writable", update((mfn_of(t4) << 12) + 8 * 5, mfn_of(t4) << 12 | 7));
    result("level 4 entry with PSE", update((mfn_of(t4) << 12) + 8 * 6, mfn_of(t3) << 12 | 7 | PSE));
    result("new base", extended(MMUEXT_NEW_BASEPTR, mfn_of(t4)));
    u64 seen = *(volatile u64 *)(4ull << 39);
    *(volatile u64 *)(4ull << 39) = 0x4242;
    say("through the new tables: %lx, and back %lx", seen, *a);
    *a = 0;
    result("base of a level 3 table", extended(MMUEXT_NEW_BASEPTR, mfn_of(t3)));
    result("base of a writable page", extended(MMUEXT_NEW_BASEPTR, mfn_of(b)));
    result("user base 0", extended(MMUEXT_NEW_USER_BASEPTR, 0));
    result("user base of a writable page", extended(MMUEXT_NEW_USER_BASEPTR, mfn_of(b)));
    result("old base", extended(MMUEXT_NEW_BASEPTR, mfn_of(l4())));
    result("unpin 4", extended(MMUEXT_UNPIN_TABLE, mfn_of(t4)));
    result("unpin 3", extended(MMUEXT_UNPIN_TABLE, mfn_of(t3)));
    result("unpin 2", extended(MMUEXT_UNPIN_TABLE, mfn_of(t2)));
    result("all writable again: 4", map(t4, mfn_of(t4) << 12 | 7));
    result("3", map(t3, mfn_of(t3) << 12 | 7));
    result("2", map(t2, mfn_of(t2) << 12 | 7));
    result("1", map(t1, mfn_of(t1) << 12 | 7));

    say("--- writes to page tables, emulated");
    u64 *slot = (u64 *)0;
    {
        u64 m = table_of(va, 1), pfn = ((u64 *)HYPERVISOR_VIRT_START)[m >> 12];
        slot = (u64 *)((pfn << 12) + (m & 4095));
    }
    PROBE("same value", "mov (%[s]), %%rax; mov %%rax, (%[s])", [s] "r"(slot));
    PROBE("0", "movq $0, (%[s])", [s] "r"(slot));
    PROBE("back", "mov %[v], (%[s])", [s] "r"(slot), [v] "r"(ma | 7));
    say("is %lx", *slot & ~0xffffffffff000ull);
    PROBE("xchg", "mov %[v], %%rax; xchg %%rax, (%[s])", [s] "r"(slot), [v] "r"(ma | 7));
    PROBE("lock cmpxchg", "mov (%[s]), %%rax; mov %[v], %%rcx; lock cmpxchg %%rcx, (%[s])", [s] "r"(slot), [v] "r"(ma | 5));
    say("is %lx", *slot & ~0xffffffffff000ull);
    PROBE("lock or", "lock orq $2, (%[s])", [s] "r"(slot));
    say("is %lx", *slot & ~0xffffffffff000ull);
    PROBE("lock btr", "lock btrq $6, (%[s])", [s] "r"(slot));
    PROBE("4 bytes", "mov (%[s]), %%eax; mov %%eax, (%[s])", [s] "r"(slot));
    PROBE("1 byte", "mov (%[s]), %%al; mov %%al, (%[s])", [s] "r"(slot));
    PROBE("stosq", "mov %[s], %%rdi; mov %[v], %%rax; stosq", [s] "r"(slot), [v] "r"(ma | 7));
    PROBE("across two", "movq $0, 4(%[s])", [s] "r"(slot));
    PROBE("a bad value", "mov %[v], (%[s])", [s] "r"(slot), [v] "r"(mfn_of(l4()) << 12 | 7));
    PROBE("sse", "movq %%xmm0, (%[s])", [s] "r"(slot));
    result("back", update(table_of(va, 1), ma | 7 | ACCESSED | DIRTY));
    PROBE("to the top table", "mov %[v], (%[s])", [s] "r"(l4() + 7), [v] "r"(0ull));

    say("--- other operations");
    for (unsigned cmd = 0; cmd < 24; cmd++) {
        if (cmd <= MMUEXT_NEW_BASEPTR || cmd == MMUEXT_SET_LDT || cmd == MMUEXT_NEW_USER_BASEPTR) continue;
        struct mmuext_op op = { .cmd = cmd, .arg1.mfn = cmd == 7 || cmd == 9 || cmd == 11 ? va : mfn_of(b), .arg2.src_mfn = cmd == 17 ? mfn_of(a) : 0 };
        say("mmuext %u: %s", cmd, error(H4(mmuext_op, &op, 1, 0, DOMID_SELF)));
    }
    result("clear a table", extended(MMUEXT_CLEAR_PAGE, mfn_of(l4())));
    struct mmuext_op copy = { .cmd = MMUEXT_COPY_PAGE, .arg1.mfn = mfn_of(l4()), .arg2.src_mfn = mfn_of(a) };
    result("copy onto a table", H4(mmuext_op, &copy, 1, 0, DOMID_SELF));
    copy = (struct mmuext_op){ .cmd = MMUEXT_COPY_PAGE, .arg1.mfn = mfn_of(b), .arg2.src_mfn = mfn_of(l4()) };
    result("copy of a table", H4(mmuext_op, &copy, 1, 0, DOMID_SELF));
    copy.arg2.src_mfn = ~0ull;
    result("copy of nothing", H4(mmuext_op, &copy, 1, 0, DOMID_SELF));
    u64 cpus = 1;
    struct mmuext_op flush = { .cmd = MMUEXT_TLB_FLUSH_MULTI };
    set_xen_guest_handle(flush.arg2.vcpumask, (const void *)&cpus);
    result("flush multi", H4(mmuext_op, &flush, 1, 0, DOMID_SELF));
    set_xen_guest_handle(flush.arg2.vcpumask, (const void *)(1ull << 47));
    result("flush multi, bad mask", H4(mmuext_op, &flush, 1, 0, DOMID_SELF));
    flush = (struct mmuext_op){ .cmd = MMUEXT_INVLPG_LOCAL, .arg1.linear_addr = 1ull << 47 };
    result("invlpg non-canonical", H4(mmuext_op, &flush, 1, 0, DOMID_SELF));
    result("bad list", H4(mmuext_op, 1ull << 47, 1, 0, DOMID_SELF));
    result("bad domain", H4(mmuext_op, &flush, 1, 0, 0x123));
    result("domain io", H4(mmuext_op, &flush, 1, 0, DOMID_IO));
}

static long reservation(unsigned op, void *list, u64 n, unsigned order, unsigned flags, unsigned domain)
{
    struct xen_memory_reservation r = { .nr_extents = n, .extent_order = order, .mem_flags = flags, .domid = domain };
    set_xen_guest_handle(r.extent_start, list);
    return H2(memory_op, op, &r);
}

void group_memory(void)
{
    char *a = page(), *b = page();
    struct xen_memory_domain self = { DOMID_SELF }, none = { 0x123 };
    say("maximum_ram_page positive %d", H2(memory_op, XENMEM_maximum_ram_page, 0) > 0);
    say("current_reservation is nr_pages %d", H2(memory_op, XENMEM_current_reservation, &self) == (long)si->nr_pages);
    say("maximum_reservation at least that %d", H2(memory_op, XENMEM_maximum_reservation, &self) >= (long)si->nr_pages);
    result("maximum_gpfn", H2(memory_op, XENMEM_maximum_gpfn, &self) >= 0 ? 0 : H2(memory_op, XENMEM_maximum_gpfn, &self));
    result("current_reservation of none", H2(memory_op, XENMEM_current_reservation, &none));
    result("current_reservation bad pointer", H2(memory_op, XENMEM_current_reservation, 1ull << 47));

    say("--- decrease, populate");
    u64 frame = mfn_of(a), frames[3] = { frame, ~0ull, 5 };
    result("decrease a mapped page", reservation(XENMEM_decrease_reservation, frames, 1, 0, 0, DOMID_SELF));
    say("reservation lower by %ld", si->nr_pages - H2(memory_op, XENMEM_current_reservation, &self));
    result("unmap it", map(a, 0));
    say("reservation lower by %ld", si->nr_pages - H2(memory_op, XENMEM_current_reservation, &self));
    result("decrease it again", reservation(XENMEM_decrease_reservation, frames, 1, 0, 0, DOMID_SELF));
    result("map it", map(a, frame << 12 | 7));
    say("m2p invalid %d", ((u64 *)HYPERVISOR_VIRT_START)[frame] == ~0ull);
    u64 pfn = (u64)a >> 12;
    result("populate", reservation(XENMEM_populate_physmap, &pfn, 1, 0, 0, DOMID_SELF));
    say("frame written %d", pfn != (u64)a >> 12);
    say("m2p %d", ((u64 *)HYPERVISOR_VIRT_START)[pfn] == (u64)a >> 12);
    ((u64 *)si->mfn_list)[(u64)a >> 12] = pfn;
    result("map", map(a, pfn << 12 | 7));
    say("zeroed %d", ({ int z = 1; for (int i = 0; i < 512; i++) z &= !((u64 *)a)[i]; z; }));
    u64 extra[2] = { si->nr_pages + 100, si->nr_pages + 101 };
    say("populate beyond the maximum: %s", error(reservation(XENMEM_populate_physmap, extra, 2, 0, 0, DOMID_SELF)) );
    u64 out[4];
    result("increase", reservation(XENMEM_increase_reservation, out, 1, 0, 0, DOMID_SELF) > 1);
    result("increase order 9", reservation(XENMEM_increase_reservation, out, 0, 9, 0, DOMID_SELF));
    result("increase order 40", reservation(XENMEM_increase_reservation, out, 1, 40, 0, DOMID_SELF));
    result("populate order 40", reservation(XENMEM_populate_physmap, out, 1, 40, 0, DOMID_SELF));
    result("decrease order 40", reservation(XENMEM_decrease_reservation, out, 1, 40, 0, DOMID_SELF));
    result("decrease nothing's", reservation(XENMEM_decrease_reservation, frames + 1, 1, 0, 0, DOMID_SELF));
    result("decrease bad list", reservation(XENMEM_decrease_reservation, (void *)(1ull << 47), 1, 0, 0, DOMID_SELF));
    result("decrease of none", reservation(XENMEM_decrease_reservation, frames, 1, 0, 0, 0x123));
    result("decrease too many", reservation(XENMEM_decrease_reservation, frames, ~0ull, 0, 0, DOMID_SELF));
    frames[0] = mfn_of(l4());
    result("decrease the top table", reservation(XENMEM_decrease_reservation, frames, 1, 0, 0, DOMID_SELF));

    say("--- exchange");
    u64 in = mfn_of(b), got = (u64)b >> 12;
    map(b, 0);
    struct xen_memory_exchange x = { .in = { .nr_extents = 1, .domid = DOMID_SELF }, .out = { .nr_extents = 1, .domid = DOMID_SELF } };
    set_xen_guest_handle(x.in.extent_start, &in);
    set_xen_guest_handle(x.out.extent_start, &got);
    result("exchange", H2(memory_op, XENMEM_exchange, &x));
    say("exchanged %lu, other frame %d, m2p %d", x.nr_exchanged, got != in, ((u64 *)HYPERVISOR_VIRT_START)[got] == (u64)b >> 12);
    ((u64 *)si->mfn_list)[(u64)b >> 12] = got;
    result("map", map(b, got << 12 | 7));
    x.nr_exchanged = 0;
    result("exchange of what is gone", H2(memory_op, XENMEM_exchange, &x));
    x.nr_exchanged = 5;
    result("exchange, progress bad", H2(memory_op, XENMEM_exchange, &x));
    x.nr_exchanged = 0;
    x.out.extent_order = 1;
    result("exchange, sizes differ", H2(memory_op, XENMEM_exchange, &x));
    x.out.extent_order = 0;
    x.in.domid = 0x123;
    result("exchange, domains differ", H2(memory_op, XENMEM_exchange, &x));
    x.in.domid = DOMID_SELF;
    set_xen_guest_handle(x.out.extent_start, (void *)(HYPERVISOR_VIRT_START));
    result("exchange, list of the hypervisor", H2(memory_op, XENMEM_exchange, &x));

    say("--- the rest");
    struct xen_machphys_mapping mapping;
    result("machphys_mapping", H2(memory_op, XENMEM_machphys_mapping, &mapping));
    say("%lx %lx, max %d", mapping.v_start, mapping.v_end, mapping.max_mfn > 0);
    u64 list[4] = { 0 };
    struct xen_machphys_mfn_list machphys = { .max_extents = 4 };
    set_xen_guest_handle(machphys.extent_start, list);
    result("machphys_mfn_list", H2(memory_op, XENMEM_machphys_mfn_list, &machphys));
    say("extents %u, frames %d", machphys.nr_extents, list[0] != 0);
    result("machphys_compat", H2(memory_op, XENMEM_machphys_compat_mfn_list, &machphys));
    static struct { u64 address, size; u32 type; } __attribute__((packed)) e820[128];
    struct xen_memory_map m = { .nr_entries = 128 };
    set_xen_guest_handle(m.buffer, (void *)e820);
    result("machine_memory_map", H2(memory_op, XENMEM_machine_memory_map, &m));
    say("entries %d, first %lx type %u", m.nr_entries > 2, e820[0].address, e820[0].type);
    m.nr_entries = 1;
    result("machine_memory_map of one", H2(memory_op, XENMEM_machine_memory_map, &m));
    m.nr_entries = 128;
    result("memory_map", H2(memory_op, XENMEM_memory_map, &m));
    struct xen_add_to_physmap add = { .domid = DOMID_SELF, .space = XENMAPSPACE_shared_info, .gpfn = (u64)b >> 12 };
    result("add_to_physmap shared_info", H2(memory_op, XENMEM_add_to_physmap, &add));
    add.space = XENMAPSPACE_grant_table;
    result("add_to_physmap grant_table", H2(memory_op, XENMEM_add_to_physmap, &add));
    for (unsigned s = 2; s < 8; s++) {
        add.space = s;
        say("add_to_physmap space %u: %s", s, error(H2(memory_op, XENMEM_add_to_physmap, &add)));
    }
    struct xen_remove_from_physmap rm = { DOMID_SELF, (u64)b >> 12 };
    result("remove_from_physmap", H2(memory_op, XENMEM_remove_from_physmap, &rm));
    u64 gframes[2] = { 0 };
    struct xen_mem_acquire_resource q = { .domid = DOMID_SELF, .type = XENMEM_resource_grant_table };
    result("acquire_resource, how many", H2(memory_op, XENMEM_acquire_resource, &q));
    say("frames %u", q.nr_frames);
    set_xen_guest_handle(q.frame_list, gframes);
    q.nr_frames = 1;
    result("acquire_resource self", H2(memory_op, XENMEM_acquire_resource, &q));
    q.pad = 1;
    result("acquire_resource pad", H2(memory_op, XENMEM_acquire_resource, &q));
    q.pad = 0, q.type = 9;
    result("acquire_resource type", H2(memory_op, XENMEM_acquire_resource, &q));
    struct xen_vnuma_topology_info v = { .domid = DOMID_SELF };
    result("vnumainfo", H2(memory_op, XENMEM_get_vnumainfo, &v));
    struct xen_pod_target pod = { .domid = DOMID_SELF };
    result("get_pod_target", H2(memory_op, XENMEM_get_pod_target, &pod));
    result("set_pod_target", H2(memory_op, XENMEM_set_pod_target, &pod));
    struct xen_foreign_memory_map foreign = { .domid = DOMID_SELF };
    result("set_memory_map", H2(memory_op, XENMEM_set_memory_map, &foreign));
    result("claim_pages", reservation(XENMEM_claim_pages, NULL, 0, 0, 0, DOMID_SELF));
    result("sharing freed", H2(memory_op, XENMEM_get_sharing_freed_pages, 0));
    result("sharing shared", H2(memory_op, XENMEM_get_sharing_shared_pages, 0));
    static const unsigned others[] = { 8, 9, 10, 20, 21, 22, 27, 29, 30, 31, 63 };
    for (unsigned i = 0; i < sizeof(others) / sizeof(*others); i++) say("memory_op %u: %s", others[i], error(H2(memory_op, others[i], page())));
}
