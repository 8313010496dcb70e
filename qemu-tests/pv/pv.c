/* What all groups of questions need: printing, exceptions, page tables. */
#include "pv.h"

start_info_t *si;
shared_info_t *shared;
struct frame fault;
volatile bool faulted;
u64 fixup, fixup_begin;
void (*on_event)(struct frame *);
void (*on_second)(void);
void (*on_exception)(struct frame *);

static char shared_page[4096] __attribute__((aligned(4096)));
static char pages[96][4096] __attribute__((aligned(4096)));
static unsigned used;

void *memset(void *p, int c, size_t n)
{
    for (u8 *q = p; n--;) *q++ = c;
    return p;
}

void *memcpy(void *to, const void *from, size_t n)
{
    u8 *q = to;
    for (const u8 *p = from; n--;) *q++ = *p++;
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    for (const u8 *p = a, *q = b; n--; p++, q++)
        if (*p != *q) return *p - *q;
    return 0;
}

int strcmp(const char *a, const char *b)
{
    while (*a && *a == *b) a++, b++;
    return (u8)*a - (u8)*b;
}

static char line[512];
static unsigned length;

static void put(char c)
{
    if (length < sizeof(line)) line[length++] = c;
    if (c == '\n' || length == sizeof(line)) {
        H3(console_io, CONSOLEIO_write, length, line);
        length = 0;
    }
}

/* %s %c %d %u %x, with l, a width and zeros. */
void print(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        bool zeros = *++format == '0', is_long = false;
        unsigned width = 0;
        while (*format >= '0' && *format <= '9') width = width * 10 + *format++ - '0';
        while (*format == 'l') is_long = true, format++;
        if (*format == 's') {
            const char *s = va_arg(args, const char *);
            unsigned n = 0;
            for (; s && *s; s++, n++) put(*s);
            while (n++ < width) put(' ');
        } else if (*format == 'c') {
            put(va_arg(args, int));
        } else {
            char digits[24];
            unsigned n = 0, base = *format == 'x' ? 16 : 10;
            u64 v = is_long ? va_arg(args, u64) : *format == 'd' ? (u64)(long)va_arg(args, int) : va_arg(args, u32);
            bool minus = *format == 'd' && (long)v < 0;
            if (minus) v = -v;
            do digits[n++] = "0123456789abcdef"[v % base]; while (v /= base);
            if (minus) digits[n++] = '-';
            while (n < width) digits[n++] = zeros ? '0' : ' ';
            while (n) put(digits[--n]);
        }
    }
    va_end(args);
}

const char *error(long value)
{
    static char text[4][24];
    static unsigned turn;
    char *out = text[turn++ % 4];
#define XEN_ERRNO(name, number) if (value == -(number)) return "-" #name;
#define __XEN__ 1
#include <xen/errno.h>
#undef __XEN__
    unsigned n = 0;
    char digits[20];
    u64 v = value < 0 ? -value : value;
    char *p = out;
    if (value < 0) *p++ = '-';
    do digits[n++] = '0' + v % 10; while (v /= 10);
    while (n) *p++ = digits[--n];
    *p = 0;
    return out;
}

void finish(void)
{
    struct sched_shutdown s = { SHUTDOWN_poweroff };
    print("probe: done\n");
    H2(sched_op, SCHEDOP_shutdown, &s);
    for (;;) H2(sched_op, SCHEDOP_block, 0);
}

/* Which of the flags an exception frame shows that are the hypervisor's matter. */
void probe_report(const char *name, u64 value, bool has_value)
{
    if (!faulted)
        print(has_value ? "> %s: %lx\n" : "> %s: ok\n", name, value);
    else
        say("%s: #%lu error %lx at +%ld", name, fault.vector, fault.error, fault.rip - fixup_begin);
}

void exception(struct frame *f)
{
    if (on_exception) {
        on_exception(f);
        return;
    }
    if (f->vector == 200) {
        shared->vcpu_info[0].evtchn_upcall_pending = 0;
        if (on_event) on_event(f);
        return;
    }
    if (f->vector >= 202 && f->vector <= 204) {
        fault = *f;
        from_user(f->rax);
    }
    fault = *f;
    faulted = true;
    f->rflags &= ~0x100ul;
    if (fixup) {
        f->rip = fixup;
        return;
    }
    /* User space that nobody holds a fixup for goes back to who started it. */
    if ((f->cs & 3) == 3) from_user(-1ul);
    print("probe: unexpected exception %lu error %lx at %lx, rsp %lx\n", f->vector, f->error, f->rip, f->rsp);
    finish();
}

void second(void)
{
    if (on_second) on_second();
    for (;;) H2(sched_op, SCHEDOP_block, 0);
}

u64 mfn_of(const void *p)
{
    return ((u64 *)si->mfn_list)[(u64)p >> 12];
}

static u64 *to_virtual(u64 machine)
{
    u64 pfn = ((u64 *)HYPERVISOR_VIRT_START)[machine >> 12];
    return (u64 *)(pfn << 12);
}

u64 *l4(void) { return (u64 *)si->pt_base; }

static u64 *slot(u64 va, int level)
{
    u64 *table = l4();
    for (int l = 4;; l--) {
        u64 *entry = &table[va >> (12 + 9 * (l - 1)) & 511];
        if (l == level) return entry;
        if (!(*entry & PRESENT)) return NULL;
        table = to_virtual(*entry & 0xffffffffff000);
    }
}

u64 table_entry(u64 va, int level)
{
    u64 *s = slot(va, level);
    return s ? *s : NOPTE;
}

u64 table_of(u64 va, int level)
{
    u64 *s = slot(va, level);
    return s ? mfn_of(s) << 12 | ((u64)s & 4095) : 0;
}

void *page(void)
{
    if (used == sizeof(pages) / sizeof(*pages)) {
        print("probe: out of pages\n");
        finish();
    }
    return memset(pages[used++], 0, 4096);
}

long map(void *va, u64 pte)
{
    return H3(update_va_mapping, va, pte, UVMF_INVLPG);
}

void make_readonly(void *p) { map(p, mfn_of(p) << 12 | PRESENT | USER | ACCESSED | DIRTY); }
void make_writable(void *p) { map(p, mfn_of(p) << 12 | PRESENT | RW | USER | ACCESSED | DIRTY); }

static struct trap_info traps[35];

static void set_up(void)
{
    for (unsigned i = 0; i < 32; i++)
        traps[i] = (struct trap_info){ i, i == 3 || i == 4 ? 3 : 0, FLAT_KERNEL_CS, entries[i] };
    traps[32] = (struct trap_info){ 128, 3, FLAT_KERNEL_CS, (u64)entry_128 };
    traps[33] = (struct trap_info){ 129, 0, FLAT_KERNEL_CS, (u64)entry_129 };
    H1(set_trap_table, traps);
    H3(set_callbacks, entry_event, entry_failsafe, entry_syscall);
    shared = (void *)shared_page;
    map(shared, si->shared_info | PRESENT | RW | USER);
}

void start(start_info_t *info)
{
    /* A step of the fuzzer came here. */
    if (on_exception) __builtin_trap();
    si = info;
    set_up();
    const char *wanted = (const char *)si->cmd_line;
    print("probe: %s\n", wanted);
#define X(n) if (!strcmp(wanted, #n)) { group_##n(); finish(); }
    GROUPS(X)
#undef X
    if (!memcmp(wanted, "fuzz ", 5)) fuzz(wanted + 5);
    print("probe: there is no group %s\n", wanted);
    finish();
}
