/*
 * A plugin of QEMU's emulator that counts executed instructions by phase and address.
 * The phase is set by the marks of io.c. With the option out=FILE it writes, when QEMU ends,
 * a line for each block of instructions: its address (hexadecimal), its length in instructions, and
 * how often it was executed in each of the 16 phases.
 *
 * Only for machines whose CPUs share one thread, as with -icount: nothing here is atomic.
 * The functions are those of QEMU's qemu-plugin.h (interface version 1), which Debian does not ship.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PHASES 16
#define MARKS 0x10000000ul
#define BUCKETS (1 << 16)

struct qemu_plugin_tb;
typedef void (*exec_cb)(unsigned cpu, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*)(uint64_t id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, exec_cb, int flags, void *data);
void qemu_plugin_register_atexit_cb(uint64_t id, void (*)(uint64_t id, void *), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

struct block {
	struct block *next;
	uint64_t address;
	size_t length;
	uint64_t count[PHASES];
};

static struct block *blocks[BUCKETS];
static const char *path;
static int phase;

static struct block *find(uint64_t address, size_t length)
{
	struct block **bucket = &blocks[address * 0x9e3779b97f4a7c15ull >> 48], *b;
	for (b = *bucket; b; b = b->next)
		if (b->address == address && b->length == length)
			return b;
	b = calloc(1, sizeof *b);
	if (!b)
		abort();
	b->address = address;
	b->length = length;
	b->next = *bucket;
	return *bucket = b;
}

static void executed(unsigned cpu, void *data) { ((struct block *)data)->count[phase]++; }

static void marked(unsigned cpu, void *data) { phase = (intptr_t)data; }

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	uint64_t address = qemu_plugin_tb_vaddr(tb), mark = (address - MARKS) / 16;
	if (mark < PHASES)
		qemu_plugin_register_vcpu_tb_exec_cb(tb, marked, 0, (void *)(intptr_t)mark);
	qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, find(address, qemu_plugin_tb_n_insns(tb)));
}

static void ended(uint64_t id, void *data)
{
	FILE *out = fopen(path, "w");
	if (!out)
		return;
	for (int i = 0; i < BUCKETS; i++)
		for (struct block *b = blocks[i]; b; b = b->next) {
			fprintf(out, "%" PRIx64 " %zu", b->address, b->length);
			for (int p = 0; p < PHASES; p++)
				fprintf(out, " %" PRIu64, b->count[p]);
			fputc('\n', out);
		}
	fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info, int count,
							       char **options)
{
	for (int i = 0; i < count; i++)
		if (!strncmp(options[i], "out=", 4))
			path = strdup(options[i] + 4);
	if (!path)
		return 1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, ended, NULL);
	return 0;
}
