/* What a program finds of its CPU by trying, beside what CPUID says; and one that lives by it.
 *
 * levels tried   prints XCR0 by XGETBV, and which instructions work
 * levels loop    computes with AVX2 for ever, looks at the result and at its clocks, and counts
 * levels tsc     the same, and looks whether the TSC goes on too, at its rate, as an emulated
 *                one does
 */
#define _GNU_SOURCE
#include <immintrin.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static sigjmp_buf back;

static void on_signal(int signal)
{
    siglongjmp(back, signal);
}

#define TRY(name, ...)                                                        \
    do {                                                                      \
        int signal = sigsetjmp(back, 1);                                      \
        if (!signal) {                                                        \
            __asm__ volatile(__VA_ARGS__);                                    \
        }                                                                     \
        printf("init: tried: %s %s\n", name, signal ? "no" : "yes");          \
    } while (0)

static void tried(void)
{
    uint32_t low = 0, high = 0;
    uint64_t place = 0;

    if (!sigsetjmp(back, 1)) {
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    }
    printf("init: tried: xcr0 %#lx\n", (unsigned long)high << 32 | low);
    TRY("sse4_2", "crc32l %%eax, %%eax" ::: "eax");
    TRY("popcnt", "popcnt %%rax, %%rax" ::: "rax");
    TRY("avx", "vpxor %%xmm0, %%xmm0, %%xmm0" ::: "xmm0");
    TRY("avx2", "vpxor %%ymm0, %%ymm0, %%ymm0" ::: "xmm0");
    TRY("fma", "vfmadd213ps %%ymm0, %%ymm0, %%ymm0" ::: "xmm0");
    TRY("avx512f", ".byte 0x62, 0xf1, 0x7d, 0x48, 0xef, 0xc0" /* vpxord %zmm0,%zmm0,%zmm0 */ ::: "xmm0");
    TRY("fsgsbase", "rdfsbase %0" : "=r"(place));
    TRY("pku", ".byte 0x0f, 0x01, 0xee" /* rdpkru */ :: "c"(0) : "eax", "edx");
}

/* Sums of products in 32-bit lanes; the same by plain arithmetic. */
__attribute__((target("avx2"))) static uint32_t by_avx2(const uint32_t *a, const uint32_t *b, int n)
{
    __m256i sum = _mm256_setzero_si256();
    uint32_t lanes[8], total = 0;

    for (int i = 0; i < n; i += 8) {
        __m256i x = _mm256_loadu_si256((const void *)(a + i));
        __m256i y = _mm256_loadu_si256((const void *)(b + i));
        sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(x, y));
    }
    _mm256_storeu_si256((void *)lanes, sum);
    for (int i = 0; i < 8; i++) {
        total += lanes[i];
    }
    return total;
}

__attribute__((optimize("no-tree-vectorize"))) static uint32_t plain(const uint32_t *a, const uint32_t *b, int n)
{
    uint32_t total = 0;

    for (int i = 0; i < n; i++) {
        total += a[i] * b[i];
    }
    return total;
}

static int64_t ns(clockid_t clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void loop(int look_at_tsc)
{
    enum { N = 4096 };
    static uint32_t a[N], b[N];
    int64_t monotonic = ns(CLOCK_MONOTONIC), real = ns(CLOCK_REALTIME), said = monotonic;
    uint64_t tsc = __rdtsc(), rounds = 0;
    const int64_t first = monotonic;
    const uint64_t first_tsc = tsc;
    double rate = 0;
    unsigned count = 0;

    for (;;) {
        uint32_t seed = (uint32_t)++rounds;
        for (int i = 0; i < N; i++) {
            a[i] = seed = seed * 1664525 + 1013904223;
            b[i] = seed >> 7;
        }
        uint32_t wanted = plain(a, b, N), found = by_avx2(a, b, N);
        if (wanted != found) {
            printf("init: loop: wrong %#x, not %#x\n", found, wanted);
        }
        int64_t then = monotonic, then_real = real;
        uint64_t then_tsc = tsc;
        monotonic = ns(CLOCK_MONOTONIC);
        real = ns(CLOCK_REALTIME);
        tsc = __rdtsc();
        if (monotonic < then) {
            printf("init: loop: time went back by %ld ns\n", (long)(then - monotonic));
        }
        /* Machines set their clocks by whole seconds; a year is another matter. */
        if (real - then_real < -2000000000 || real - then_real > INT64_C(86400000000000)) {
            printf("init: loop: the date went from %ld to %ld ns\n", (long)then_real, (long)real);
        }
        if (look_at_tsc && tsc < then_tsc) {
            printf("init: loop: TSC went back\n");
        }
        if (monotonic - said >= 1000000000) {
            /* From the beginning: the two clocks are not read at the same time, and the
             * machine may be busy between. */
            double now = (double)(tsc - first_tsc) / (double)(monotonic - first);
            if (count < 3) {
                rate = now;
            }
            if (look_at_tsc && (now < rate * 0.75 || now > rate * 1.25)) {
                printf("init: loop: TSC at %.3f GHz, not %.3f\n", now, rate);
            }
            said = monotonic;
            printf("init: loop: count %u.\n", ++count);
            fflush(stdout);
        }
    }
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_NODEFER };

    if (!strcmp(what, "tried")) {
        sigaction(SIGILL, &action, 0);
        sigaction(SIGSEGV, &action, 0);
        tried();
    } else if (!strcmp(what, "loop") || !strcmp(what, "tsc")) {
        loop(what[0] == 't');
    } else {
        return 2;
    }
    return 0;
}
