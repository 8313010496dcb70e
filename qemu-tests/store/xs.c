/*
 * Asks xenstore's server, whoever it is, through /dev/xen/xenbus, and prints each
 * request with its answer as a line "> ...": what real Xen's server answers is what
 * is right. Run in Dom0.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct header { uint32_t type, req_id, tx_id, len; };

enum {
    CONTROL, DIRECTORY, READ, GET_PERMS, WATCH, UNWATCH, START, END, INTRODUCE, RELEASE,
    GET_DOMAIN_PATH, WRITE, MKDIR, RM, SET_PERMS, WATCH_EVENT, ERROR, IS_INTRODUCED,
    RESUME, SET_TARGET, RESET_WATCHES = 21, DIRECTORY_PART,
};
static const char *names[] = {
    "CONTROL", "DIRECTORY", "READ", "GET_PERMS", "WATCH", "UNWATCH", "START", "END",
    "INTRODUCE", "RELEASE", "GET_DOMAIN_PATH", "WRITE", "MKDIR", "RM", "SET_PERMS",
    "WATCH_EVENT", "ERROR", "IS_INTRODUCED", "RESUME", "SET_TARGET", "20",
    "RESET_WATCHES", "DIRECTORY_PART",
};

static int fd;
/* Numbers of transactions, by the names that this program has for them. */
static uint32_t transactions[4];
static char events[64][512];
static int event_count;

static void escape(char *out, size_t room, const char *data, size_t len)
{
    size_t at = 0;
    for (size_t i = 0; i < len && at + 8 < room; i++) {
        unsigned char c = data[i];
        if (c == 0)
            out[at++] = '|';
        else if (c >= ' ' && c < 127 && c != '|')
            out[at++] = c;
        else
            at += sprintf(out + at, "\\x%02x", c);
    }
    out[at] = 0;
}

static void all(char *to, size_t len)
{
    while (len) {
        ssize_t got = read(fd, to, len);
        if (got <= 0) {
            printf("> read: %s\n", strerror(errno));
            exit(1);
        }
        to += got;
        len -= got;
    }
}

static struct header receive(char *body)
{
    struct header h;
    all((char *)&h, sizeof h);
    all(body, h.len);
    return h;
}

static void note_event(const char *body, size_t len)
{
    if (event_count < 64)
        escape(events[event_count++], sizeof events[0], body, len);
}

static int compare(const void *a, const void *b) { return strcmp(a, b); }

/* Prints the events that came, in an order of their own: theirs is the kernel's. */
static void print_events(void)
{
    static char body[4096];
    struct pollfd p = { fd, POLLIN, 0 };
    while (poll(&p, 1, 500) > 0) {
        struct header h = receive(body);
        note_event(body, h.len);
    }
    qsort(events, event_count, sizeof events[0], compare);
    for (int i = 0; i < event_count; i++)
        printf("> event %s\n", events[i]);
    event_count = 0;
}

static void ask(unsigned type, int transaction, const char *body, size_t len)
{
    static char message[8192], reply[4096], shown[8192], answer[8192];
    struct header h = { type, 1, transactions[transaction], len };
    memcpy(message, &h, sizeof h);
    memcpy(message + sizeof h, body, len);
    escape(shown, 100, body, len);
    if (write(fd, message, sizeof h + len) != (ssize_t)(sizeof h + len)) {
        printf("> %s t%d %s: write: %s\n", type < 23 ? names[type] : "?", transaction, shown,
               strerror(errno));
        return;
    }
    do {
        h = receive(reply);
        if (h.type == WATCH_EVENT)
            note_event(reply, h.len);
    } while (h.type == WATCH_EVENT);
    if (h.type == START) {
        int slot = 1;
        while (slot < 3 && transactions[slot])
            slot++;
        transactions[slot] = atoi(reply);
        snprintf(reply, sizeof reply, "t%d", slot);
        h.len = 2;
    }
    if (type == END && transaction && h.type != ERROR)
        transactions[transaction] = 0;
    if (type == END && transaction && h.type == ERROR && strcmp(reply, "EINVAL"))
        transactions[transaction] = 0;
    /* The first part is a number that only has to be the same while nothing changes. */
    char *from = reply;
    if (h.type == DIRECTORY_PART)
        from += strlen(reply);
    escape(answer, sizeof answer, from, h.len - (from - reply));
    printf("> %s t%d %s: %s %s\n", type < 23 ? names[type] : "?", transaction, shown,
           h.type == ERROR ? "ERROR" : h.type == type ? "" : "OTHER", answer);
}

#define ASK(type, transaction, text) ask(type, transaction, text, sizeof(text) - 1)

static void filled(unsigned type, const char *start, size_t len)
{
    static char body[8192];
    memset(body, 'x', sizeof body);
    strcpy(body, start);
    body[strlen(start)] = 'x';
    body[len - 1] = 0;
    ask(type, 0, body, len);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    fd = open("/dev/xen/xenbus", O_RDWR);
    if (fd < 0) {
        perror("/dev/xen/xenbus");
        return 1;
    }
    ASK(RM, 0, "/t\0");
    ASK(READ, 0, "/t\0");
    ASK(WRITE, 0, "/t/a\0value");
    ASK(READ, 0, "/t/a\0");
    ASK(READ, 0, "/t\0");
    ASK(WRITE, 0, "/t/b\0with\0zeros\0");
    ASK(READ, 0, "/t/b\0");
    ASK(WRITE, 0, "/t/empty\0");
    ASK(MKDIR, 0, "/t/a\0");
    ASK(READ, 0, "/t/a\0");
    ASK(MKDIR, 0, "/t/m/n/o\0");
    ASK(DIRECTORY, 0, "/t\0");
    ASK(DIRECTORY, 0, "/t/m\0");
    ASK(DIRECTORY, 0, "/t/m/n/o\0");
    ASK(DIRECTORY, 0, "/t/none\0");
    ASK(DIRECTORY_PART, 0, "/t\0" "0\0");
    ASK(DIRECTORY_PART, 0, "/t\0" "2\0");
    ASK(DIRECTORY_PART, 0, "/t\0" "999\0");
    ASK(DIRECTORY_PART, 0, "/t\0" "-1\0");
    ASK(DIRECTORY_PART, 0, "/t\0");
    ASK(DIRECTORY_PART, 0, "/none\0" "0\0");
    ASK(RM, 0, "/t/m/n\0");
    ASK(RM, 0, "/t/m/n\0");
    ASK(RM, 0, "/t/m/n/o\0");
    ASK(DIRECTORY, 0, "/t\0");
    /* Paths. */
    ASK(READ, 0, "\0");
    ASK(READ, 0, "/t/a");
    ASK(READ, 0, "/t/a\0/t/b\0");
    ASK(READ, 0, "/t/\0");
    ASK(READ, 0, "//t\0");
    ASK(READ, 0, "/t//a\0");
    ASK(READ, 0, "/t/a b\0");
    ASK(READ, 0, "/t/a.b\0");
    ASK(READ, 0, "/t/@b\0");
    ASK(READ, 0, "@t\0");
    ASK(READ, 0, "/t/\xff\0");
    ASK(WRITE, 0, "/t/nozero");
    ASK(WRITE, 0, "");
    ASK(MKDIR, 0, "/\0");
    ASK(RM, 0, "/\0");
    ASK(WRITE, 0, "rel\0v");
    ASK(READ, 0, "/local/domain/0/rel\0");
    ASK(RM, 0, "rel\0");
    filled(MKDIR, "/t/", 2048);
    filled(MKDIR, "/t/", 2049);
    filled(MKDIR, "/t/", 2050);
    filled(MKDIR, "/local/domain/12/", 2048 + 17);
    filled(MKDIR, "/local/domain/12/", 2048 + 18);
    filled(MKDIR, "/local/domain/12/", 2048 + 19);
    ASK(RM, 0, "/local/domain/12\0");
    filled(WRITE, "/t/big", 4096);
    /* Permissions. */
    ASK(GET_PERMS, 0, "/t\0");
    ASK(GET_PERMS, 0, "/none\0");
    ASK(SET_PERMS, 0, "/t/a\0r0\0");
    ASK(GET_PERMS, 0, "/t/a\0");
    ASK(SET_PERMS, 0, "/t/a\0n0\0r0\0w0\0b0\0");
    ASK(GET_PERMS, 0, "/t/a\0");
    ASK(WRITE, 0, "/t/a/below\0v");
    ASK(GET_PERMS, 0, "/t/a/below\0");
    ASK(SET_PERMS, 0, "/t/a\0n0\0r99\0");
    ASK(GET_PERMS, 0, "/t/a\0");
    ASK(SET_PERMS, 0, "/t/a\0n99\0");
    ASK(SET_PERMS, 0, "/t/a\0n70000\0");
    ASK(SET_PERMS, 0, "/t/a\0n0x0\0r010\0");
    ASK(GET_PERMS, 0, "/t/a\0");
    ASK(SET_PERMS, 0, "/t/a\0x0\0");
    ASK(SET_PERMS, 0, "/t/a\0n\0");
    ASK(SET_PERMS, 0, "/t/a\0n0x\0");
    ASK(SET_PERMS, 0, "/t/a\0\0");
    ASK(SET_PERMS, 0, "/t/a\0");
    ASK(SET_PERMS, 0, "/none\0n0\0");
    ASK(SET_PERMS, 0, "@releaseDomain\0n0\0r0\0");
    /* Not asked: an empty READ, and permissions of @nothing; Xen's server answers those
     * with the errno of whatever it did before. */
    ASK(GET_PERMS, 0, "@releaseDomain\0");
    /* Transactions. */
    ASK(START, 0, "\0");
    ASK(START, 1, "\0");
    ASK(WRITE, 1, "/t/tx/new\0v");
    ASK(READ, 1, "/t/tx/new\0");
    ASK(READ, 0, "/t/tx/new\0");
    ASK(END, 1, "X\0");
    ASK(END, 1, "T\0");
    ASK(READ, 0, "/t/tx/new\0");
    ASK(START, 0, "\0");
    ASK(READ, 1, "/t/tx/new\0");
    ASK(WRITE, 0, "/t/tx/new\0w");
    ASK(WRITE, 1, "/t/tx/x\0v");
    ASK(END, 1, "T\0");
    ASK(READ, 0, "/t/tx/x\0");
    ASK(START, 0, "\0");
    ASK(START, 0, "\0");
    ASK(WRITE, 1, "/t/tx/one\0v");
    ASK(WRITE, 2, "/t/tx/two\0v");
    ASK(END, 1, "T\0");
    ASK(END, 2, "T\0");
    ASK(DIRECTORY, 0, "/t/tx\0");
    ASK(START, 0, "\0");
    ASK(START, 0, "\0");
    ASK(WRITE, 1, "/t/p/one\0v");
    ASK(WRITE, 2, "/t/tx/two\0v");
    ASK(READ, 2, "/t/p/one\0");
    ASK(END, 2, "T\0");
    ASK(END, 1, "T\0");
    ASK(START, 0, "\0");
    ASK(RM, 1, "/t/tx\0");
    ASK(MKDIR, 1, "/t/tx\0");
    ASK(DIRECTORY, 1, "/t/tx\0");
    ASK(END, 1, "F\0");
    ASK(DIRECTORY, 0, "/t/tx\0");
    ASK(START, 0, "\0");
    ASK(RM, 1, "/t/tx\0");
    ASK(WRITE, 1, "/t/tx/again\0v");
    ASK(SET_PERMS, 1, "/t/tx/again\0r0\0");
    ASK(END, 1, "T\0");
    ASK(DIRECTORY, 0, "/t/tx\0");
    ASK(GET_PERMS, 0, "/t/tx/again\0");
    ASK(START, 0, "\0");
    ASK(MKDIR, 1, "/t/gone\0");
    ASK(RM, 1, "/t/gone\0");
    ASK(END, 1, "T\0");
    ASK(DIRECTORY, 0, "/t\0");
    /* Watches. */
    print_events();
    ASK(WATCH, 0, "/t/w\0tok\0");
    ASK(WATCH, 0, "/t/w/deep/er\0deep\0");
    ASK(WATCH, 0, "@releaseDomain\0rel\0");
    print_events();
    ASK(WATCH, 0, "/t/w/\0bad\0");
    ASK(WATCH, 0, "/t/w\0");
    ASK(UNWATCH, 0, "/t/w\0none\0");
    ASK(WRITE, 0, "/t/w\0v");
    print_events();
    ASK(WRITE, 0, "/t/w/deep/er\0v");
    print_events();
    ASK(WRITE, 0, "/t/www\0v");
    print_events();
    ASK(SET_PERMS, 0, "/t/w/deep\0r0\0");
    print_events();
    ASK(MKDIR, 0, "/t/w/deep\0");
    ASK(RM, 0, "/t/w/none\0");
    print_events();
    ASK(RM, 0, "/t/w/deep\0");
    print_events();
    ASK(START, 0, "\0");
    ASK(WRITE, 1, "/t/w/1\0v");
    ASK(WRITE, 1, "/t/w/2\0v");
    ASK(WRITE, 1, "/t/w/1\0v");
    ASK(RM, 1, "/t/w/2\0");
    print_events();
    ASK(END, 1, "T\0");
    print_events();
    ASK(START, 0, "\0");
    ASK(RM, 1, "/t/w\0");
    ASK(END, 1, "T\0");
    print_events();
    ASK(UNWATCH, 0, "/t/w\0tok\0");
    ASK(WRITE, 0, "/t/w/x\0v");
    print_events();
    /* Domains. */
    ASK(GET_DOMAIN_PATH, 0, "0\0");
    ASK(GET_DOMAIN_PATH, 0, "17\0");
    ASK(GET_DOMAIN_PATH, 0, "x\0");
    ASK(GET_DOMAIN_PATH, 0, "");
    ASK(IS_INTRODUCED, 0, "0\0");
    ASK(IS_INTRODUCED, 0, "99\0");
    ASK(IS_INTRODUCED, 0, "32752\0");
    ASK(IS_INTRODUCED, 0, "99");
    ASK(RELEASE, 0, "0\0");
    ASK(RELEASE, 0, "99\0");
    ASK(RELEASE, 0, "99");
    ASK(RESUME, 0, "99\0");
    ASK(RESUME, 0, "0\0");
    ASK(SET_TARGET, 0, "99\0" "98\0");
    ASK(SET_TARGET, 0, "99\0");
    ASK(INTRODUCE, 0, "99\0");
    ASK(INTRODUCE, 0, "99\0" "1\0" "0\0");
    /* Others. */
    ASK(CONTROL, 0, "check\0");
    ASK(CONTROL, 0, "check\0x\0");
    ASK(CONTROL, 0, "print\0word\0");
    ASK(CONTROL, 0, "quota\0");
    ASK(CONTROL, 0, "quota-soft\0");
    ASK(CONTROL, 0, "quota\0set\0watches\0" "128\0");
    ASK(CONTROL, 0, "quota\0set\0watches\0" "0\0");
    ASK(CONTROL, 0, "quota\0set\0none\0" "1\0");
    ASK(CONTROL, 0, "quota\0" "99\0");
    ASK(CONTROL, 0, "none\0");
    ASK(CONTROL, 0, "");
    ASK(WATCH_EVENT, 0, "");
    ASK(ERROR, 0, "");
    ASK(20, 0, "");
    ASK(23, 0, "");
    ASK(70000, 0, "");
    /* A long list. */
    for (int i = 0; i < 600; i++) {
        char body[64];
        struct header h = { MKDIR, 1, 0, sprintf(body, "/t/l/number-%d", i) + 1 };
        static char reply[4096];
        if (write(fd, &h, sizeof h) < 0 || write(fd, body, h.len) < 0)
            return 1;
        do
            h = receive(reply);
        while (h.type == WATCH_EVENT);
    }
    ASK(DIRECTORY, 0, "/t/l\0");
    ASK(DIRECTORY_PART, 0, "/t/l\0" "0\0");
    ASK(DIRECTORY_PART, 0, "/t/l\0" "4000\0");
    ASK(RM, 0, "/t\0");
    ASK(READ, 0, "/t\0");
    printf("xs: done\n");
    return 0;
}
