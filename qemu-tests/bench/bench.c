/*
 * What operations cost: prints "bench: NAME NANOSECONDS" a line. With the
 * argument "boot" it prints the time stamp counter instead, which under QEMU's
 * -icount is the number of instructions since power-on.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static int zero, there[2], back[2];
static char *area;
static volatile uint64_t sink;

static void null_syscall(void) { syscall(SYS_getppid); }

static void read_byte(void)
{
    char c;
    if (read(zero, &c, 1) != 1) abort();
}

static void handler(int n) { (void)n; }
static void take_signal(void) { kill(getpid(), SIGUSR1); }

#define AREA (256 * 4096)

static void page_faults(void)
{
    char *p = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) abort();
    for (int i = 0; i < AREA; i += 4096) p[i] = 1;
    munmap(p, AREA);
}

static void protect(void)
{
    mprotect(area, AREA, PROT_READ);
    mprotect(area, AREA, PROT_READ | PROT_WRITE);
}

static void fork_exit(void)
{
    pid_t p = fork();
    if (p == 0) _exit(0);
    if (p < 0 || waitpid(p, NULL, 0) != p) abort();
}

static void fork_exec(void)
{
    pid_t p = fork();
    if (p == 0) {
        execl("/bin/nothing", "nothing", NULL);
        _exit(1);
    }
    int status;
    if (p < 0 || waitpid(p, &status, 0) != p || status != 0) abort();
}

static void pipe_round_trip(void)
{
    char c = 0;
    if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1) abort();
}

static void loop(void)
{
    uint64_t x = sink;
    for (int i = 0; i < 100000; i++) x = x * 6364136223846793005u + 1442695040888963407u;
    sink = x;
}

static void bench(const char *name, int times, void (*operation)(void))
{
    for (int i = 0; i < times / 10 + 1; i++) operation();
    double begin = now();
    for (int i = 0; i < times; i++) operation();
    printf("bench: %s %.1f\n", name, (now() - begin) / times);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "boot")) {
        uint32_t low, high;
        __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
        printf("bench: boot %llu\n", (unsigned long long)high << 32 | low);
        return 0;
    }
    zero = open("/dev/zero", O_RDONLY);
    signal(SIGUSR1, handler);
    area = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(area, 1, AREA);

    bench("null syscall", 20000, null_syscall);
    bench("read 1 B", 20000, read_byte);
    bench("signal", 5000, take_signal);
    bench("256 page faults, map, unmap", 100, page_faults);
    bench("mprotect of 256 pages, twice", 200, protect);
    bench("fork, exit", 200, fork_exit);
    bench("fork, exec", 200, fork_exec);

    if (pipe(there) || pipe(back)) abort();
    pid_t p = fork();
    if (p == 0) {
        char c;
        close(there[1]);
        while (read(there[0], &c, 1) == 1)
            if (write(back[1], &c, 1) != 1) break;
        _exit(0);
    }
    bench("pipe round trip", 3000, pipe_round_trip);
    close(there[1]);
    waitpid(p, NULL, 0);

    bench("100000 multiplications", 50, loop);
    return 0;
}
