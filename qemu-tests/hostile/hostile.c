/*
 * Frontends that mean harm: a disk's and a network device's, in a guest whose kernel has
 * loaded neither driver. Whatever they do, their backend has to close the device, say so,
 * and take it back when they begin anew. Prints a line a device, and at last how many
 * answers were wrong; what it does to others, these have to say.
 *
 * usage: hostile [SEED [ROUNDS]]
 * compile: -pthread
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xen/xen.h>
#include <xen/grant_table.h>
#include <xen/io/blkif.h>
#include <xen/io/netif.h>
#include <xen/io/xenbus.h>
#include <xen/sys/evtchn.h>
#include <xen/sys/gntalloc.h>

/* The hypervisor's own domain, in which the backends are. */
#define BACKEND 0x7ff2
#define PAGE 4096
#define PAGES 8

static int wrong, attacks;

static void fail(const char *what)
{
    printf("hostile: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t seed;
static uint32_t rnd(void)
{
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed >> 20;
}
static bool once_in(uint32_t n) { return rnd() % n == 0; }

/* --- xenstore ---------------------------------------------------------------- */

enum { XS_READ_ = 2, XS_WRITE_ = 11, XS_RM_ = 13, XS_ERROR_ = 16 };
struct header { uint32_t type, req_id, tx_id, len; };
static int store;

static void all(void *to, size_t len)
{
    for (char *at = to; len;) {
        ssize_t got = read(store, at, len);
        if (got <= 0) fail("xenstore");
        at += got, len -= got;
    }
}

/* The answer as text, or nothing. */
static char *ask(uint32_t type, const void *body, size_t len)
{
    static char answer[4097];
    char request[4096 + sizeof(struct header)];
    struct header h = { type, 0, 0, len };
    memcpy(request, &h, sizeof(h));
    memcpy(request + sizeof(h), body, len);
    if (write(store, request, sizeof(h) + len) < 0) fail("xenstore");
    all(&h, sizeof(h));
    if (h.len > 4096) fail("xenstore's answer");
    all(answer, h.len);
    answer[h.len] = 0;
    return h.type == XS_ERROR_ ? NULL : answer;
}

static char *node(const char *dir, const char *key)
{
    static char path[512];
    snprintf(path, sizeof(path), "%s/%s", dir, key);
    return path;
}

static char *get(const char *dir, const char *key)
{
    char *path = node(dir, key);
    return ask(XS_READ_, path, strlen(path) + 1);
}

static void put(const char *dir, const char *key, const char *value)
{
    char body[4096];
    char *path = node(dir, key);
    size_t at = strlen(path) + 1, len = strlen(value);
    memcpy(body, path, at);
    memcpy(body + at, value, len);
    if (!ask(XS_WRITE_, body, at + len)) fail(key);
}

static void put_number(const char *dir, const char *key, uint32_t value)
{
    char text[16];
    snprintf(text, sizeof(text), "%u", value);
    put(dir, key, text);
}

static void forget(const char *dir, const char *key)
{
    char *path = node(dir, key);
    ask(XS_RM_, path, strlen(path) + 1);
}

/* --- grants and events --------------------------------------------------------- */

struct page { volatile uint8_t *at; uint32_t ref; };
static struct page ring, ring2, table, read_only, data[PAGES];

static struct page granted(int writable)
{
    static int fd = -1;
    if (fd < 0 && (fd = open("/dev/xen/gntalloc", O_RDWR)) < 0) fail("gntalloc");
    struct ioctl_gntalloc_alloc_gref g = { .domid = BACKEND, .flags = writable ? GNTALLOC_FLAG_WRITABLE : 0, .count = 1 };
    if (ioctl(fd, IOCTL_GNTALLOC_ALLOC_GREF, &g)) fail("a grant");
    void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, g.index);
    if (at == MAP_FAILED) fail("a granted page");
    return (struct page){ at, g.gref_ids[0] };
}

static int events, port;

static void bind_port(void)
{
    struct ioctl_evtchn_bind_unbound_port b = { BACKEND };
    port = ioctl(events, IOCTL_EVTCHN_BIND_UNBOUND_PORT, &b);
    if (port < 0) fail("a port");
}

static void notify(void)
{
    struct ioctl_evtchn_notify n = { port };
    ioctl(events, IOCTL_EVTCHN_NOTIFY, &n);
}

/* --- devices ------------------------------------------------------------------- */

struct device { const char *dir; char backend[256]; };
static struct device *current;

static int backend_state(void)
{
    char *state = get(current->backend, "state");
    return state ? atoi(state) : 0;
}

#define CLOSING (1 << XenbusStateClosing | 1 << XenbusStateClosed)

static int wait_state(int states, const char *what)
{
    for (int i = 0; i < 100000; i++) {
        int state = backend_state();
        if (1 << state & states) return state;
        usleep(2000);
    }
    printf("hostile: %s: the backend stays in state %d after %s\n", current->dir, backend_state(), what);
    exit(1);
}

static void begin(void)
{
    put_number(current->dir, "state", XenbusStateInitialising);
    wait_state(1 << XenbusStateInitWait, "the beginning");
    bind_port();
    volatile uint8_t *rings[] = { ring.at, ring2.at };
    for (int i = 0; i < 2; i++) {
        memset((void *)rings[i], 0, PAGE);
        /* The first request and the first response are worth an event. */
        ((volatile uint32_t *)rings[i])[1] = ((volatile uint32_t *)rings[i])[3] = 1;
    }
}

static void end(void)
{
    put_number(current->dir, "state", XenbusStateClosing);
    wait_state(CLOSING, "closing");
    put_number(current->dir, "state", XenbusStateClosed);
    wait_state(1 << XenbusStateClosed, "the end");
    struct ioctl_evtchn_unbind u = { port };
    ioctl(events, IOCTL_EVTCHN_UNBIND, &u);
}

static void answered(const char *what, bool right)
{
    attacks++;
    if (right) return;
    wrong++;
    printf("hostile: %s: wrong after %s\n", current->dir, what);
}

/* What was done closes the device. */
static void closes(const char *what)
{
    notify();
    wait_state(CLOSING, what);
    answered(what, true);
    end();
}

static volatile uint32_t *ring_word(int n) { return (volatile uint32_t *)ring.at + n; }
static void show(uint32_t produced) { __sync_synchronize(); *ring_word(0) = produced; __sync_synchronize(); }

static bool comes(uint32_t responses)
{
    for (int i = 0; i < 100000; i++) {
        if (*ring_word(2) == responses) return true;
        usleep(1000);
    }
    return false;
}

/* Keys that no frontend has. `connect` writes the good ones and the state. */
static void bad_keys(const char *const keys[][2], size_t count, void (*good)(void), int state)
{
    for (size_t i = 0; i < count; i++) {
        begin();
        good();
        put(current->dir, keys[i][0], keys[i][1]);
        put_number(current->dir, "state", state);
        wait_state(CLOSING, keys[i][0]);
        answered(keys[i][0], true);
        end();
        forget(current->dir, keys[i][0]);
    }
}

/* Writes into shared pages while the backend reads them. */
static volatile int racing;
static void (*race_step)(void);
static void *race(void *unused)
{
    (void)unused;
    while (racing) race_step();
    return NULL;
}

/* One step of rounds in which everything is nearly right, and changes meanwhile. */
static void rounds(int count, void (*connect)(void), void (*step)(int))
{
    int closed = 0;
    for (int i = 0; i < count; i++) {
        connect();
        pthread_t thread;
        racing = 1;
        if (pthread_create(&thread, NULL, race, NULL)) fail("a thread");
        bool over = false;
        for (int n = 0; n < 300 && !over; n++) {
            step(n);
            notify();
            if (n % 16 == 15) over = backend_state() != XenbusStateConnected;
        }
        closed += over;
        /* Half of them end in the midst of it. */
        if (i % 2) end();
        racing = 0;
        pthread_join(thread, NULL);
        if (i % 2 == 0) end();
    }
    printf("hostile: %s: %d rounds, %d closed by the backend\n", current->dir, count, closed);
}

/* --- the disk ------------------------------------------------------------------ */

#define REQUESTS ((volatile blkif_request_t *)(ring.at + 64))
#define RESPONSES ((volatile blkif_response_t *)(ring.at + 64))
#define SLOTS 32
static int rough; /* one in so many segments is bad */
static uint32_t produced;

static void vbd_keys(void)
{
    put_number(current->dir, "ring-ref", ring.ref);
    put_number(current->dir, "event-channel", port);
    put(current->dir, "protocol", "x86_64-abi");
}

static void vbd_connect(void)
{
    begin();
    vbd_keys();
    put_number(current->dir, "state", XenbusStateInitialised);
    wait_state(1 << XenbusStateConnected, "good keys");
    produced = 0;
}

static blkif_request_t vbd_good(uint8_t operation)
{
    return (blkif_request_t){ .operation = operation, .nr_segments = 1, .id = 7, .sector_number = 8,
                              .seg[0] = { .gref = data[0].ref, .first_sect = 0, .last_sect = 7 } };
}

static void vbd_put(blkif_request_t request)
{
    /* An entry is 112 bytes, as a request is. */
    memcpy((void *)&REQUESTS[produced++ % SLOTS], &request, sizeof(request));
}

/* A request that is answered, with a status. */
static void vbd_answers(const char *what, blkif_request_t request, int status)
{
    vbd_put(request);
    show(produced);
    notify();
    bool right = comes(produced) && RESPONSES[(produced - 1) % SLOTS].status == status;
    if (!right) printf("hostile: status %d\n", RESPONSES[(produced - 1) % SLOTS].status);
    answered(what, right);
}

static void vbd_closes(const char *what, blkif_request_t request)
{
    vbd_connect();
    /* Something good goes first, and is under way. */
    vbd_put(vbd_good(BLKIF_OP_READ));
    vbd_put(request);
    show(produced);
    closes(what);
}

static struct blkif_request_segment vbd_segment(void)
{
    uint8_t first = rnd() % 8;
    struct blkif_request_segment s = { .gref = data[rnd() % PAGES].ref, .first_sect = first, .last_sect = first + rnd() % (8 - first) };
    if (once_in(rough)) s.gref = once_in(2) ? read_only.ref : rnd();
    if (once_in(rough)) s.last_sect = rnd();
    return s;
}

static blkif_request_t vbd_random(void)
{
    static const uint8_t operations[] = { 0, 1, 0, 1, 0, 1, 2, 3, 5, 6, 6, 9 };
    blkif_request_t r = { .operation = operations[rnd() % sizeof(operations)], .nr_segments = rnd() % 12, .id = rnd(), .sector_number = rnd() % 8192 };
    if (once_in(16)) r.sector_number = (uint64_t)rnd() << 32 | rnd();
    if (once_in(rough)) r.nr_segments = rnd();
    for (int i = 0; i < BLKIF_MAX_SEGMENTS_PER_REQUEST; i++) r.seg[i] = vbd_segment();
    if (r.operation == BLKIF_OP_INDIRECT) {
        blkif_request_indirect_t *in = (void *)&r;
        in->indirect_op = once_in(rough) ? rnd() : rnd() % 2;
        in->nr_segments = once_in(rough) ? rnd() : rnd() % 257;
        in->sector_number = rnd() % 8192;
        in->indirect_grefs[0] = once_in(rough) ? rnd() : table.ref;
    }
    return r;
}

static void vbd_race(void)
{
    blkif_request_t r = vbd_random();
    memcpy((void *)&REQUESTS[rnd() % SLOTS], &r, sizeof(r));
    for (int i = 0; i < 8; i++)
        ((volatile struct blkif_request_segment *)table.at)[rnd() % 512] = vbd_segment();
}

static void vbd_step(int n)
{
    uint32_t room = SLOTS - (produced - *ring_word(2));
    if (n == 290 && once_in(2)) { *ring_word(0) = rnd(); return; }
    if (room > SLOTS) return;
    for (uint32_t i = rnd() % (room + 1); i; i--) vbd_put(vbd_random());
    show(produced);
}

static void vbd(int count)
{
    static const char *const keys[][2] = {
        { "ring-ref", "99999999999" }, { "ring-ref", "-1" }, { "ring-ref", "x" }, { "ring-ref", "" }, { "ring-ref", "4000000" },
        { "event-channel", "0" }, { "event-channel", "70000" }, { "event-channel", "3000" }, { "ring-page-order", "40" },
        { "multi-queue-num-queues", "4000" }, { "protocol", "nonsense" },
    };
    bad_keys(keys, sizeof(keys) / sizeof(*keys), vbd_keys, XenbusStateInitialised);

    vbd_connect();
    vbd_answers("a read", vbd_good(BLKIF_OP_READ), BLKIF_RSP_OKAY);
    blkif_request_t r = vbd_good(BLKIF_OP_READ);
    r.sector_number = 1ull << 40;
    vbd_answers("a read beyond the end", r, BLKIF_RSP_ERROR);
    r.sector_number = ~0ull - 3;
    vbd_answers("a read that wraps", r, BLKIF_RSP_ERROR);
    r = vbd_good(BLKIF_OP_WRITE), r.sector_number = 8192 - 7;
    vbd_answers("a write into the next one's disk", r, BLKIF_RSP_ERROR);
    vbd_answers("an unknown operation", vbd_good(99), BLKIF_RSP_EOPNOTSUPP);
    r = vbd_good(BLKIF_OP_READ), r.nr_segments = 0;
    vbd_answers("a read of nothing", r, BLKIF_RSP_ERROR);
    vbd_answers("a read after all that", vbd_good(BLKIF_OP_READ), BLKIF_RSP_OKAY);
    end();

    vbd_connect();
    show(1000);
    closes("an index beyond the ring");
    vbd_connect();
    show(~0u);
    closes("an index before the ring");
    r = vbd_good(BLKIF_OP_READ), r.nr_segments = 12;
    vbd_closes("12 segments", r);
    r = vbd_good(BLKIF_OP_READ), r.seg[0].gref = 500;
    vbd_closes("a grant that is none", r);
    r = vbd_good(BLKIF_OP_READ), r.seg[0].gref = 0xdeadbeef;
    vbd_closes("a grant beyond the table", r);
    r = vbd_good(BLKIF_OP_READ), r.seg[0].gref = read_only.ref;
    vbd_closes("a read into a page that is read-only", r);
    r = vbd_good(BLKIF_OP_READ), r.seg[0].last_sect = 8;
    vbd_closes("a segment beyond its page", r);
    r = vbd_good(BLKIF_OP_READ), r.seg[0].first_sect = 5, r.seg[0].last_sect = 4;
    vbd_closes("a segment that ends before it begins", r);
    blkif_request_indirect_t in = { .operation = BLKIF_OP_INDIRECT, .indirect_op = BLKIF_OP_READ, .nr_segments = 60000, .indirect_grefs = { table.ref } };
    memcpy(&r, &in, sizeof(in));
    vbd_closes("60000 indirect segments", r);
    in.nr_segments = 5, in.indirect_op = BLKIF_OP_DISCARD;
    memcpy(&r, &in, sizeof(in));
    vbd_closes("an indirect discard", r);
    in.indirect_op = BLKIF_OP_READ, in.indirect_grefs[0] = 77777;
    memcpy(&r, &in, sizeof(in));
    vbd_closes("indirect segments in no page", r);

    race_step = vbd_race;
    for (int i = 0; i < 2; i++) {
        rough = i ? 5000 : 200;
        rounds(count, vbd_connect, vbd_step);
    }
    vbd_connect();
    vbd_answers("a read at last", vbd_good(BLKIF_OP_READ), BLKIF_RSP_OKAY);
    end();
}

/* --- the network device -------------------------------------------------------- */

#define TX(n) (&((volatile netif_tx_request_t *)(ring.at + 64))[(n) % 256])
#define TX_RESPONSE(n) ((volatile netif_tx_response_t *)(ring.at + 64 + (n) % 256 * 12))
#define RX(n) (&((volatile netif_rx_request_t *)(ring2.at + 64))[(n) % 256])
static uint8_t mac[6];

static void vif_keys(void)
{
    put_number(current->dir, "tx-ring-ref", ring.ref);
    put_number(current->dir, "rx-ring-ref", ring2.ref);
    put_number(current->dir, "event-channel", port);
    for (const char *const *key = (const char *const[]){ "request-rx-copy", "feature-sg", "feature-rx-notify", "feature-gso-tcpv4", "feature-gso-tcpv6", NULL }; *key; key++)
        put(current->dir, *key, "1");
}

static void vif_frame(int page, uint32_t length)
{
    volatile uint8_t *at = data[page].at;
    for (int i = 0; i < 6; i++) at[i] = 0xff, at[6 + i] = mac[i];
    /* IPv4, TCP. */
    static const uint8_t header[] = { 8, 0, 0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 3, 10, 9, 0, 255, 0, 80, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10 };
    for (unsigned i = 0; i < sizeof(header); i++) at[12 + i] = header[i];
    at[16] = (length - 14) >> 8, at[17] = length - 14;
}

static void vif_connect(void)
{
    begin();
    vif_keys();
    for (int i = 0; i < PAGES; i++) vif_frame(i, 1000);
    for (int i = 0; i < 128; i++) *RX(i) = (netif_rx_request_t){ .id = i, .gref = data[i % PAGES].ref };
    *(volatile uint32_t *)ring2.at = 128;
    put_number(current->dir, "state", XenbusStateConnected);
    wait_state(1 << XenbusStateConnected, "good keys");
    produced = 0;
}

static netif_tx_request_t vif_good(void)
{
    return (netif_tx_request_t){ .gref = data[0].ref, .offset = 0, .size = 1000, .id = 5 };
}

static void vif_put(netif_tx_request_t request) { *TX(produced++) = request; }
static void vif_extra(struct netif_extra_info extra) { memcpy((void *)TX(produced++), &extra, sizeof(extra)); }

static void vif_sends(const char *what)
{
    vif_connect();
    vif_put(vif_good());
    show(produced);
    notify();
    answered(what, comes(produced) && TX_RESPONSE(produced - 1)->status == NETIF_RSP_OKAY);
    end();
}

static void vif_closes(const char *what, netif_tx_request_t request, const struct netif_extra_info *extra)
{
    vif_connect();
    vif_put(vif_good());
    vif_put(request);
    if (extra) vif_extra(*extra);
    show(produced);
    closes(what);
}

static netif_tx_request_t vif_random(void)
{
    netif_tx_request_t r = { .gref = data[rnd() % PAGES].ref, .offset = 0, .size = 20 + rnd() % 3000, .id = rnd(), .flags = rnd() & (NETTXF_csum_blank | NETTXF_data_validated) };
    if (once_in(4)) r.flags |= NETTXF_more_data;
    if (once_in(8)) r.flags |= NETTXF_extra_info;
    if (once_in(rough)) r.gref = rnd();
    if (once_in(rough)) r.size = rnd(), r.offset = rnd();
    return r;
}

static void vif_race(void)
{
    *TX(rnd()) = vif_random();
    if (once_in(rough)) *RX(rnd()) = (netif_rx_request_t){ .id = rnd(), .gref = rnd() };
    volatile uint8_t *page = data[rnd() % PAGES].at;
    page[12 + rnd() % 60] = rnd();
    if (once_in(64)) vif_frame(rnd() % PAGES, 20 + rnd() % 3000);
}

static void vif_step(int n)
{
    /* As many as there is room for; the last two are good, lest the frame has no end. */
    uint32_t room = 256 - (produced - *ring_word(2));
    if (n == 290 && once_in(2)) { *ring_word(0) = rnd(); return; }
    if (room > 256 || room < 4) return;
    if (room > 40) room = 40;
    for (uint32_t i = rnd() % (room - 1); i > 1; i--) {
        netif_tx_request_t r = vif_random();
        vif_put(r);
        if (r.flags & NETTXF_extra_info && i-- > 1)
            vif_extra((struct netif_extra_info){ .type = once_in(rough) ? rnd() : 1 + rnd() % 4, .u.gso = { .size = rnd() % 1500, .type = 1 + rnd() % 2 } });
    }
    if (!once_in(rough)) { netif_tx_request_t last = vif_good(); last.size = 100; for (int i = 0; i < 2; i++) vif_put(last); }
    show(produced);
    *(volatile uint32_t *)ring2.at = ((volatile uint32_t *)ring2.at)[2] + 128;
}

static void vif(int count)
{
    static const char *const keys[][2] = {
        { "tx-ring-ref", "99999999999" }, { "rx-ring-ref", "x" }, { "rx-ring-ref", "4000000" }, { "event-channel", "0" },
        { "event-channel", "70000" }, { "event-channel-tx", "1" }, { "multi-queue-num-queues", "4000" }, { "multi-queue-num-queues", "0" },
        { "request-rx-copy", "0" }, { "feature-sg", "maybe" },
    };
    bad_keys(keys, sizeof(keys) / sizeof(*keys), vif_keys, XenbusStateConnected);

    vif_sends("a frame");
    vif_connect();
    show(1000);
    closes("an index beyond the ring");
    vif_connect();
    *(volatile uint32_t *)ring2.at = 5000;
    closes("an index beyond the ring of buffers");
    netif_tx_request_t r = vif_good();
    r.gref = 0xdeadbeef;
    vif_closes("a grant that is none", r, NULL);
    r = vif_good(), r.offset = 4000, r.size = 200;
    vif_closes("a piece that leaves its page", r, NULL);
    r = vif_good(), r.flags = NETTXF_extra_info;
    vif_closes("extra information of no kind", r, &(struct netif_extra_info){ .type = 77 });
    vif_closes("segments of no size", r, &(struct netif_extra_info){ .type = XEN_NETIF_EXTRA_TYPE_GSO, .u.gso = { .size = 0, .type = 1 } });
    vif_connect();
    for (int i = 0; i < 30; i++) r = vif_good(), r.flags = NETTXF_more_data, r.size = i ? 20 : 1000, vif_put(r);
    show(produced);
    closes("a frame of 30 pieces");
    vif_connect();
    r = vif_good(), r.flags = NETTXF_more_data, vif_put(r);
    show(produced);
    closes("a frame that does not end");
    /* Somebody sends broadcasts all the time. */
    vif_connect();
    for (int i = 0; i < 256; i++) *RX(i) = (netif_rx_request_t){ .id = i, .gref = 400000 };
    closes("buffers that are none");
    vif_sends("a frame after all that");

    race_step = vif_race;
    for (int i = 0; i < 2; i++) {
        rough = i ? 5000 : 200;
        rounds(count, vif_connect, vif_step);
    }
    vif_sends("a frame at last");
}

static bool find(struct device *device)
{
    current = device;
    char *backend = get(device->dir, "backend");
    if (!backend) return false;
    strncpy(device->backend, backend, sizeof(device->backend) - 1);
    return true;
}

int main(int argc, char **argv)
{
    static struct device disk = { .dir = "device/vbd/51712" }, card = { .dir = "device/vif/0" };
    setvbuf(stdout, NULL, _IOLBF, 0);
    seed = 0x9e3779b97f4a7c15 * ((argc > 1 ? atoi(argv[1]) : 0) + 1);
    int count = argc > 2 ? atoi(argv[2]) : 10;
    if ((store = open("/dev/xen/xenbus", O_RDWR)) < 0) fail("/dev/xen/xenbus");
    if ((events = open("/dev/xen/evtchn", O_RDWR)) < 0) fail("/dev/xen/evtchn");
    ring = granted(1), ring2 = granted(1), table = granted(1), read_only = granted(0);
    for (int i = 0; i < PAGES; i++) data[i] = granted(1);
    if (find(&disk)) vbd(count);
    if (find(&card)) {
        char *text = get(card.dir, "mac");
        for (int i = 0; text && i < 6; i++) mac[i] = strtol(text + 3 * i, NULL, 16);
        vif(count);
    }
    printf("hostile: done, %d attacks, %d wrong\n", attacks, wrong);
    return wrong != 0;
}
