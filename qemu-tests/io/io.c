/*
 * What disk and network requests cost.
 * compile: -Wl,--section-start=.marks=0x10000000
 *
 *   io disk DEVICE REQUESTS        4 KiB reads and writes at random places, one at a time and
 *                                  32 at a time, and 1 MiB in a row; past the page cache
 *   io net ADDRESS PORT REQUESTS   64 KiB sent and received over TCP, and 64 bytes there and back
 *
 * Prints "io: PHASE REQUESTS MICROSECONDS NAME" a line, the time being that of one request.
 * A phase begins with a call of its mark, 16 bytes each from a fixed address on, and ends with
 * that of mark 0: who looks at the addresses that are executed (count.c) knows what belongs where.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MARKS 0x10000000ul
#define DEPTH 32

__asm__(".section .marks,\"ax\",@progbits\n"
	".rept 16\n.balign 16\nret\n.endr\n"
	".text\n");

static char *buffer;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}

static void mark(int phase) { ((void (*)(void))(MARKS + 16 * phase))(); }

static double begun;

static void begin(int phase)
{
	begun = now();
	mark(phase);
}

static void end(int phase, const char *name, int requests)
{
	mark(0);
	printf("io: %d %d %.2f %s\n", phase, requests, (now() - begun) / requests, name);
	fflush(stdout);
}

static uint64_t random64(void)
{
	static uint64_t x = 88172645463325252ull;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

static int disk;
static uint64_t disk_size;

/* One at a time. */
static void shallow(int phase, const char *name, int write, int in_order, size_t length, int count)
{
	uint64_t at = 0;
	begin(phase);
	for (int i = 0; i < count; i++) {
		uint64_t offset = in_order ? at : random64() % (disk_size / length) * length;
		ssize_t done = write ? pwrite(disk, buffer, length, offset)
				     : pread(disk, buffer, length, offset);
		if (done != (ssize_t)length)
			die(name);
		at += length;
		if (at + length > disk_size)
			at = 0;
	}
	end(phase, name, count);
}

/* DEPTH at a time, of 4 KiB. */
static void deep(int phase, const char *name, int write, int count)
{
	static aio_context_t context;
	static struct iocb block[DEPTH];
	struct iocb *one;
	struct io_event event[DEPTH];
	int unused[DEPTH], n = 0, begun = 0, done = 0;

	if (!context && syscall(SYS_io_setup, DEPTH, &context))
		die("io_setup");
	while (n < DEPTH) {
		unused[n] = n;
		n++;
	}
	begin(phase);
	while (done < count) {
		while (n && begun < count) {
			int k = unused[--n];
			memset(&block[k], 0, sizeof block[k]);
			block[k].aio_data = k;
			block[k].aio_fildes = disk;
			block[k].aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
			block[k].aio_buf = (uintptr_t)(buffer + k * 4096);
			block[k].aio_nbytes = 4096;
			block[k].aio_offset = random64() % (disk_size / 4096) * 4096;
			one = &block[k];
			if (syscall(SYS_io_submit, context, 1, &one) != 1)
				die("io_submit");
			begun++;
		}
		int got = syscall(SYS_io_getevents, context, 1, DEPTH, event, 0);
		if (got < 1)
			die("io_getevents");
		for (int i = 0; i < got; i++) {
			if (event[i].res != 4096)
				die(name);
			unused[n++] = event[i].data;
			done++;
		}
	}
	end(phase, name, count);
}

static void disk_phases(const char *device, int count)
{
	int large = count / 8 + 1;
	disk = open(device, O_RDWR | O_DIRECT);
	if (disk < 0 || ioctl(disk, BLKGETSIZE64, &disk_size))
		die(device);
	shallow(0, "warming up", 0, 0, 4096, 200);
	shallow(1, "4 KiB read, depth 1", 0, 0, 4096, count);
	shallow(2, "4 KiB write, depth 1", 1, 0, 4096, count);
	deep(3, "4 KiB read, depth 32", 0, 4 * count);
	deep(4, "4 KiB write, depth 32", 1, 4 * count);
	shallow(5, "1 MiB read", 0, 1, 1 << 20, large);
	shallow(6, "1 MiB write", 1, 1, 1 << 20, large);
}

/* To a peer that does as the first byte says: s takes, r sends, e sends back. */
static int peer(const char *address, int port, char what)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	inet_pton(AF_INET, address, &to.sin_addr);
	if (connect(fd, (void *)&to, sizeof to))
		die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (write(fd, &what, 1) != 1)
		die("write");
	return fd;
}

static void all(int fd, int out, size_t length)
{
	for (size_t at = 0; at < length;) {
		ssize_t done = out ? write(fd, buffer, length - at) : read(fd, buffer, length - at);
		if (done <= 0)
			die("network");
		at += done;
	}
}

static void net_phases(const char *address, int port, int count)
{
	int fd = peer(address, port, 's');
	all(fd, 1, 1 << 20);
	begin(7);
	for (int i = 0; i < count; i++)
		all(fd, 1, 65536);
	end(7, "64 KiB sent", count);
	close(fd);
	sleep(1);
	fd = peer(address, port, 'r');
	all(fd, 0, 1 << 20);
	begin(8);
	for (int i = 0; i < count; i++)
		all(fd, 0, 65536);
	end(8, "64 KiB received", count);
	close(fd);
	sleep(1);
	fd = peer(address, port, 'e');
	begin(9);
	for (int i = 0; i < count; i++) {
		all(fd, 1, 64);
		all(fd, 0, 64);
	}
	end(9, "64 bytes and back", count);
	close(fd);
}

int main(int count, char **word)
{
	buffer = aligned_alloc(1 << 21, 1 << 21);
	memset(buffer, 1, 1 << 21);
	if (count == 4 && !strcmp(word[1], "disk"))
		disk_phases(word[2], atoi(word[3]));
	else if (count == 5 && !strcmp(word[1], "net"))
		net_phases(word[2], atoi(word[3]), atoi(word[4]));
	else
		return 2;
	return 0;
}
