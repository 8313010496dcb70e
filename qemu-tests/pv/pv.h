/*
 * A small PV kernel that asks the hypervisor questions, and prints the answers:
 * the same on real Xen and on Overcast, line for line.
 *
 * Lines of answers begin with "> ". They must not hold what differs from run to
 * run: machine frames, times, sizes of memory.
 */
#ifndef PV_H
#define PV_H
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define __XEN_TOOLS__ 1
#include <xen/xen.h>
#include <xen/callback.h>
#include <xen/event_channel.h>
#include <xen/features.h>
#include <xen/grant_table.h>
#include <xen/memory.h>
#include <xen/nmi.h>
#include <xen/physdev.h>
#include <xen/platform.h>
#include <xen/domctl.h>
#include <xen/sched.h>
#include <xen/sysctl.h>
#include <xen/vcpu.h>
#include <xen/version.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

struct frame {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    u64 vector, error, rip, cs, rflags, rsp, ss;
};

extern start_info_t *si;
extern shared_info_t *shared;
extern u64 initial_rsp, initial_flags, failsafe_selectors[4];
extern const u64 entries[32];
extern char hypercall_page[], _image[], _image_end[], boot_stack_end[];
extern char entry_event[], entry_failsafe[], entry_syscall[], entry_syscall32[], entry_sysenter[], entry_nmi[];
extern char entry_128[], entry_129[], start_second[];

/* Called for events; and by the second CPU. */
extern void (*on_event)(struct frame *);
extern void (*on_second)(void);
/* Takes every exception, if it is set. */
extern void (*on_exception)(struct frame *);

/* The last exception that a PROBE saw. */
extern struct frame fault;
extern volatile bool faulted;
extern u64 fixup, fixup_begin;

void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A line of answers. */
#define say(format, ...) print("> " format "\n", ##__VA_ARGS__)
const char *error(long value);      /* an errno by name */
#define result(name, value) say("%s: %s", name, error(value))
void finish(void) __attribute__((noreturn));
void *memset(void *, int, size_t);
void *memcpy(void *, const void *, size_t);
int memcmp(const void *, const void *, size_t);
int strcmp(const char *, const char *);

static inline long hypercall(u64 n, u64 a, u64 b, u64 c, u64 d, u64 e)
{
    register u64 r10 __asm__("r10") = d, r8 __asm__("r8") = e;
    long r;
    __asm__ volatile("call *%[entry]"
                     : "=a"(r), "+D"(a), "+S"(b), "+d"(c), "+r"(r10), "+r"(r8)
                     : [entry] "r"(hypercall_page + n * 32)
                     : "memory", "rcx", "r11", "r9");
    return r;
}
#define H5(n, a, b, c, d, e) hypercall(__HYPERVISOR_##n, (u64)(a), (u64)(b), (u64)(c), (u64)(d), (u64)(e))
#define H4(n, a, b, c, d) H5(n, a, b, c, d, 0)
#define H3(n, a, b, c) H5(n, a, b, c, 0, 0)
#define H2(n, a, b) H5(n, a, b, 0, 0, 0)
#define H1(n, a) H5(n, a, 0, 0, 0, 0)
#define H0(n) H5(n, 0, 0, 0, 0, 0)

/* Runs an instruction that may fault; what it did is printed. */
void probe_report(const char *name, u64 value, bool has_value);
#define PROBE(name, instructions, ...) ({                                    \
        u64 value_ = 0;                                                      \
        faulted = false;                                                     \
        __asm__ volatile("lea 771f(%%rip), %%r12\n\tmov %%r12, fixup\n\t"     \
                         "lea 770f(%%rip), %%r12\n\tmov %%r12, fixup_begin\n" \
                         "770:\t" instructions "\n771:\tmovq $0, fixup"        \
                         : "+a"(value_) : __VA_ARGS__                         \
                         : "memory", "rcx", "rdx", "rbx", "rsi", "rdi", "r11", "r12", "cc"); \
        probe_report(name, value_, false); value_; })

#define NOPTE (~0ull)
u64 *l4(void);
u64 table_entry(u64 va, int level);     /* the entry that maps va at a level */
u64 table_of(u64 va, int level);        /* machine address of that entry */
u64 mfn_of(const void *p);
void *page(void);                       /* a fresh page, zeroed */
long map(void *va, u64 pte);            /* update_va_mapping with INVLPG */
void make_readonly(void *);
void make_writable(void *);
void give_vcpu_stack(void);

#define PRESENT 1ull
#define RW 2ull
#define USER 4ull
#define PWT 8ull
#define PCD 16ull
#define ACCESSED 32ull
#define DIRTY 64ull
#define PSE 128ull
#define GLOBAL 256ull
#define AVAIL 0xe00ull
#define NX (1ull << 63)

long to_user(u64 rip, u64 rsp, u64 cs, u64 ss, u64 rflags, u64 flags);
void from_user(u64) __attribute__((noreturn));

void fuzz(const char *options) __attribute__((noreturn));

#define GROUPS(X) X(start) X(hypercalls) X(version) X(exceptions) X(user) X(emulation) X(cpuid) X(msrs) \
    X(mmu) X(memory) X(events) X(fifo) X(grants) X(grantclear) X(vcpus) X(segments) X(callbacks) X(platform) X(multicall) X(edges) X(domains) X(thousand) X(restart) X(logdirty)
#define X(n) void group_##n(void);
GROUPS(X)
#undef X
#endif
