/* All hypercalls with nonsense, versions, platform. */
#include "pv.h"

void group_hypercalls(void)
{
    static const u64 values[] = { 0, 1ull << 47, HYPERVISOR_VIRT_START, ~0ull };
    for (unsigned v = 0; v < 4; v++)
        for (u64 n = 0; n < 64; n++) {
            /* iret; calls that end the machine, stop the vCPU, or print */
            if (n == 23 || n == 6 || n == 29 || n == 3 || n == 4 || n == 0) continue;
            u64 x = values[v];
            long r = hypercall(n, n == 5 ? 0 : x, x, x, x, x);
            say("call %lu with %lx: %s", n, x, error(r));
            /* Call 14 unmapped address 0: no CPU is to remember it. */
            if (n == 14 && !x) H3(update_va_mapping, 0, 0, UVMF_INVLPG);
        }
    for (u64 n = 64; n < 128; n += 13) say("call %lu: %s", n, error(hypercall(n, 0, 0, 0, 0, 0)));
    static const u64 numbers[] = { 128, 1000, 1ull << 31, 1ull << 32, ~0ull };
    for (unsigned i = 0; i < 5; i++) {
        long r;
        u64 n = numbers[i];
        __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(0), "S"(0), "d"(0) : "rcx", "r11", "memory");
        say("number %lx: %s", n, error(r));
    }
    /* Upper bits of the number. */
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(1ull << 32 | 17), "D"(0), "S"(0) : "rcx", "r11", "memory", "rdx");
    say("version with a high bit in the number: %lx", r);
    __asm__ volatile("syscall" : "=a"(r) : "a"(17), "D"(1ull << 32), "S"(0) : "rcx", "r11", "memory", "rdx");
    say("version with a high bit in the command: %lx", r);
    result("sched_op 99", H2(sched_op, 99, 0));
    result("yield", H2(sched_op, SCHEDOP_yield, 0));
    result("poll too many", H2(sched_op, SCHEDOP_poll, &((struct sched_poll){ .nr_ports = 129 })));
    u32 port = 9999;
    struct sched_poll poll = { .nr_ports = 1 };
    set_xen_guest_handle(poll.ports, &port);
    result("poll no such port", H2(sched_op, SCHEDOP_poll, &poll));
    result("poll bad pointer", H2(sched_op, SCHEDOP_poll, 1ull << 47));
    poll.nr_ports = 0;
    poll.timeout = 1;
    result("poll past", H2(sched_op, SCHEDOP_poll, &poll));
    struct sched_watchdog w = { 0, 30 };
    long id = H2(sched_op, SCHEDOP_watchdog, &w);
    result("watchdog", id);
    w.id = id;
    result("watchdog again", H2(sched_op, SCHEDOP_watchdog, &w));
    w.timeout = 0;
    result("watchdog off", H2(sched_op, SCHEDOP_watchdog, &w));
    result("watchdog off again", H2(sched_op, SCHEDOP_watchdog, &w));
    w.id = 99;
    result("watchdog 99", H2(sched_op, SCHEDOP_watchdog, &w));
    result("remote shutdown of none", H2(sched_op, SCHEDOP_remote_shutdown, &((struct sched_remote_shutdown){ 0x123, 0 })));
    result("remote shutdown of self", H2(sched_op, SCHEDOP_remote_shutdown, &((struct sched_remote_shutdown){ DOMID_SELF, 0 })));
    result("pin_override bad", H2(sched_op, SCHEDOP_pin_override, &((struct sched_pin_override){ 5000 })));
    result("pin_override off", H2(sched_op, SCHEDOP_pin_override, &((struct sched_pin_override){ -1 })));
    result("shutdown_code", H2(sched_op, SCHEDOP_shutdown_code, &((struct sched_shutdown){ 99 })));
    result("console op 2", H3(console_io, 2, 0, 0));
    result("console bad buffer", H3(console_io, CONSOLEIO_write, 5, 1ull << 47));
    result("console hypervisor's buffer", H3(console_io, CONSOLEIO_write, 5, HYPERVISOR_VIRT_START));
    result("console nothing", H3(console_io, CONSOLEIO_write, 0, 0));
    char c;
    result("console read", H3(console_io, CONSOLEIO_read, 1, &c));
    result("set_timer past", H1(set_timer_op, 1));
    result("set_timer off", H1(set_timer_op, 0));
    result("set_timer negative", H1(set_timer_op, ~0ull));
    H1(set_timer_op, 0);
}

void group_version(void)
{
    static char text[2048];
    say("version %lx", H2(xen_version, XENVER_version, 0));
    for (int cmd = 1; cmd < 13; cmd++) {
        memset(text, 0x5a, sizeof(text));
        if (cmd == XENVER_get_features) *(u32 *)text = 0;
        long r = H2(xen_version, cmd, text);
        unsigned last = sizeof(text);
        while (last && text[last - 1] == 0x5a) last--;
        say("subop %d: %s, wrote %u", cmd, cmd == XENVER_build_id ? "-" : error(r), cmd == XENVER_build_id ? 0 : last);
        if (cmd == XENVER_capabilities) say("%s", text);
        if (cmd == XENVER_platform_parameters) say("virt_start %lx", *(u64 *)text);
        if (cmd == XENVER_get_features) say("features %x", ((u32 *)text)[1]);
        if (cmd == XENVER_guest_handle) say("handle %lx %lx", *(u64 *)text, *(u64 *)(text + 8));
        result("bad pointer", cmd == XENVER_pagesize ? 0 : H2(xen_version, cmd, 1ull << 47));
    }
    for (u32 i = 0; i < 3; i++) {
        struct xen_feature_info f = { i, 0 };
        result("features", H2(xen_version, XENVER_get_features, &f));
        say("submap %u: %x", i, f.submap);
    }
}

void group_platform(void)
{
    static char buffer[4096];
    for (unsigned cmd = 0; cmd < 70; cmd++) {
        /* what would change or stop the machine */
        if (cmd == 51 || cmd == 17 || cmd == 62 || cmd == 35 || cmd == 56 || cmd == 57 || cmd == 60 || cmd == 52) continue;
        struct xen_platform_op op = { .cmd = cmd, .interface_version = XENPF_INTERFACE_VERSION };
        long r = H1(platform_op, &op);
        say("platform %u: %s", cmd, error(r));
    }
    struct xen_platform_op op = { .cmd = 55, .interface_version = 0 };
    result("platform, old interface", H1(platform_op, &op));
    result("platform bad pointer", H1(platform_op, 1ull << 47));
    op = (struct xen_platform_op){ .cmd = XENPF_get_cpuinfo, .interface_version = XENPF_INTERFACE_VERSION };
    result("cpuinfo", H1(platform_op, &op));
    say("present %u online %u flags %x", op.u.pcpu_info.max_present, op.u.pcpu_info.xen_cpuid == 0, op.u.pcpu_info.flags);
    for (unsigned cmd = 0; cmd < 36; cmd++) {
        if (cmd == PHYSDEVOP_set_iopl || cmd == 15 || cmd == 16 || cmd == 20 || cmd == 25 || cmd == 26) continue;
        memset(buffer, 0, sizeof(buffer));
        long r = H2(physdev_op, cmd, buffer);
        say("physdev %u: %s", cmd, cmd == PHYSDEVOP_map_pirq || cmd == PHYSDEVOP_get_free_pirq ? "-" : error(r));
    }
    struct physdev_set_iopl iopl = { 4 };
    result("set_iopl 4", H2(physdev_op, PHYSDEVOP_set_iopl, &iopl));
    static struct xen_domctl d;
    static const u32 domctls[] = { 5, 11, 14, 25, 36, 59, 69, 82, 999 };
    for (unsigned i = 0; i < sizeof(domctls) / sizeof(*domctls); i++) {
        for (int self = 0; self < 3; self++) {
            memset(&d, 0, sizeof(d));
            d.cmd = domctls[i], d.interface_version = XEN_DOMCTL_INTERFACE_VERSION;
            d.domain = self == 0 ? 0 : self == 1 ? DOMID_SELF : 0x123;
            if (domctls[i] == 11) d.u.max_mem.max_memkb = ~0ull >> 12;
            say("domctl %u of %x: %s", domctls[i], d.domain, error(H1(domctl, &d)));
        }
    }
    d.interface_version = 1;
    result("domctl, old interface", H1(domctl, &d));
    memset(&d, 0, sizeof(d));
    d.cmd = XEN_DOMCTL_getdomaininfo, d.interface_version = XEN_DOMCTL_INTERFACE_VERSION;
    H1(domctl, &d);
    say("domain %u flags %x vcpus %u max id %u", d.u.getdomaininfo.domain, d.u.getdomaininfo.flags, d.u.getdomaininfo.nr_online_vcpus, d.u.getdomaininfo.max_vcpu_id);
    static struct xen_sysctl s;
    static const u32 sysctls[] = { 1, 3, 4, 6, 7, 8, 9, 16, 17, 18, 25, 26, 29, 999 };
    for (unsigned i = 0; i < sizeof(sysctls) / sizeof(*sysctls); i++) {
        memset(&s, 0, sizeof(s));
        s.cmd = sysctls[i], s.interface_version = XEN_SYSCTL_INTERFACE_VERSION;
        say("sysctl %u: %s", sysctls[i], error(H1(sysctl, &s)));
    }
    s.interface_version = 1;
    result("sysctl, old interface", H1(sysctl, &s));
}

void group_multicall(void)
{
    struct multicall_entry m[5] = {
        { .op = __HYPERVISOR_xen_version, .args = { XENVER_version } },
        { .op = 63 },
        { .op = __HYPERVISOR_multicall },
        { .op = __HYPERVISOR_vm_assist, .args = { 7 } },
        { .op = __HYPERVISOR_sched_op, .args = { SCHEDOP_yield } },
    };
    result("multicall", H2(multicall, m, 5));
    for (int i = 0; i < 5; i++) say("entry %d: %s", i, i ? error(m[i].result) : m[i].result == 0x40011 ? "4.17" : "?");
    result("none", H2(multicall, 0, 0));
    result("bad list", H2(multicall, 1ull << 47, 1));
    result("hypervisor's list", H2(multicall, HYPERVISOR_VIRT_START, 1));
    result("number beyond", H2(multicall, &((struct multicall_entry){ .op = 5000 }), 1));
    static struct multicall_entry many[2000];
    for (int i = 0; i < 2000; i++) many[i] = m[0];
    result("many", H2(multicall, many, 2000));
    int good = 0;
    for (int i = 0; i < 2000; i++) good += many[i].result == m[0].result;
    say("good %d", good);
    /* A list on a read-only page: results cannot be written. */
    struct multicall_entry *r = page();
    r[0] = m[0];
    make_readonly(r);
    result("read-only list", H2(multicall, r, 1));
    struct multicall_entry *edge = (void *)((char *)page() + 4096 - 32);
    (void)edge;
}
