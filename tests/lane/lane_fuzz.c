/* Sends a lane requests from a seed, most of them as they should be, and checks what becomes of
   them. It is the kernel, behind one pair of sockets instead of /dev/fuse, and Python, behind the
   other.

   Arguments: the seed, how many requests, and how many threads the lane may have. With one thread
   each request waits for its answer, and the same seed does the same. Ends with 0 if

   - each request that has an answer was answered once, by the lane or by Python, to which it came
     unchanged (but for the handle of fsyncdir, and plain listings), and those that aren't whole by Python alone;
   - each answer had a length and a content that its request allows;
   - lookups in the lane were those in answers, less what was taken back;
   - files and directories that are open in the lane were those that the kernel has;
   - each reference to an inode was given back once.

   What the kernel guarantees is kept: a directory is read by one request at a time, nothing is
   closed that another is about, and with more threads than one no more lookups are taken back than
   answers had. Under AddressSanitizer nothing behind the end of a request may be read (link with
   --wrap=read,--wrap=writev). An answer is refused now and then, as if nobody waited for it. */

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"
#include "store_ceph.h"

#define BUFFER_BYTES (32 << 20)
#define WAIT_MS 30000
#define DEBTS_MS 2000
#define HOLD_MS 20 /* how long a file is held at least */

struct fuzz fuzz;

static char received[MESSAGE_MAX];

void fail(const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "seed %" PRIu64 " request %" PRIu64 ": ", fuzz.seed, fuzz.step);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    _exit(1);
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* the lane's system calls */

ssize_t __real_read(int fd, void *buffer, size_t size);
ssize_t __wrap_read(int fd, void *buffer, size_t size);
ssize_t __real_writev(int fd, const struct iovec *parts, int count);
ssize_t __wrap_writev(int fd, const struct iovec *parts, int count);

static _Thread_local bool is_reader; /* of requests: a thread of the lane that answers itself */

/* Forbids to touch what is behind the end of a request. */
ssize_t __wrap_read(int fd, void *buffer, size_t size)
{
    ssize_t got;

    if (size < DATA_MAX)
        return __real_read(fd, buffer, size); /* no request: a file of /proc */
    is_reader = true;
    ASAN_UNPOISON_MEMORY_REGION(buffer, size);
    got = __real_read(fd, buffer, size);
    if (got >= 0)
        ASAN_POISON_MEMORY_REGION((char *)buffer + got, size - (size_t)got);
    return got;
}

/* Refuses an answer of the lane's own now and then; the kernel's side is told by a message. */
ssize_t __wrap_writev(int fd, const struct iovec *parts, int count)
{
    struct fuse_out_header told = {.len = sizeof(told), .error = REFUSED};
    struct iovec part = {&told, sizeof(told)};

    if (!is_reader)
        return __real_writev(fd, parts, count);
    memcpy(&told.unique, (const char *)parts[0].iov_base + 8, sizeof(told.unique));
    if (told.unique == 0 || (told.unique * UINT64_C(0x9e3779b97f4a7c15) >> 40) % 64 != 0)
        return __real_writev(fd, parts, count);
    if (__real_writev(fd, &part, 1) < 0)
        return -1;
    errno = ENOENT;
    return -1;
}

/* the sockets */

static ssize_t receive(int fd)
{
    ssize_t size = recv(fd, received, sizeof(received), MSG_DONTWAIT);

    if (size < 0 && errno != EAGAIN)
        fail("recv: %s", strerror(errno));
    return size;
}

/* Takes all that is there; false if that is nothing. */
static bool pump(void)
{
    bool any = false;
    ssize_t size;

    while ((size = receive(fuzz.pair)) > 0) {
        take_passed_on(received, (size_t)size);
        any = true;
    }
    while ((size = receive(fuzz.device)) > 0) {
        take_answer(received, (size_t)size);
        any = true;
    }
    return any;
}

static void wait_for_something(void)
{
    struct pollfd ready[2] = {{fuzz.device, POLLIN, 0}, {fuzz.pair, POLLIN, 0}};

    if (poll(ready, 2, HOLD_MS) != 0)
        return;
    for (size_t i = 0; i < WINDOW; i++) /* no file is held for ever */
        if (fuzz.sent[i].message != NULL)
            cx_nodes_hold(cx_lane_nodes(fuzz.lane), header_of(&fuzz.sent[i])->nodeid, false);
    if (poll(ready, 2, WAIT_MS) == 0)
        fail("nothing comes any more; %zu requests wait", waiting());
}

void send_to_lane(int fd, const void *bytes, size_t size)
{
    struct pollfd ready = {fd, POLLOUT, 0};

    while (send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        if (errno != EAGAIN)
            fail("send: %s", strerror(errno));
        (void)poll(&ready, 1, WAIT_MS); /* neither socket can be full for long: few messages wait */
    }
}

/* Waits for what a request without an answer does. */
static void wait_for_silent(uint32_t opcode)
{
    struct cx_cost costs[CX_OPCODES];
    uint64_t bytes[2], since = now_ms();

    do {
        cx_lane_costs(fuzz.lane, costs, bytes);
        (void)pump();
        if (now_ms() - since > WAIT_MS)
            fail("opcode %u doesn't end", opcode);
    } while (costs[opcode].answered < fuzz.silent[opcode]);
}

static void send_request(void)
{
    uint32_t opcode = header()->opcode;

    header()->unique = fuzz.unique += 2;
    if (has_answer())
        remember();
    else
        forget_as_sent();
    send_to_lane(fuzz.device, message, message_size);
    if (has_answer())
        return;
    fuzz.silent[opcode]++;
    if (is_alone())
        wait_for_silent(opcode);
}

/* Waits until no more than so many requests wait for their answers. */
static void wait_until_waiting(size_t most)
{
    while (waiting() > most)
        if (!pump())
            wait_for_something();
}

static void step(void)
{
    wait_until_waiting(is_alone() ? 0 : WINDOW - 1);
    if (once_in(4))
        meddle();
    make_request();
    send_request();
    (void)pump();
}

/* the end */

static void forget_all(void)
{
    struct fuse_forget_one one;
    struct fuse_forget_in forget;
    struct fuse_batch_forget_in batch = {.count = 1};

    while (fuzz.known_count > 0) {
        one = (struct fuse_forget_one){fuzz.known[0].id, fuzz.known[0].lookups};
        forget.nlookup = one.nlookup;
        begin(once_in(2) ? FUSE_FORGET : FUSE_BATCH_FORGET, one.nodeid);
        if (header()->opcode == FUSE_FORGET) {
            add(&forget, sizeof(forget));
        } else {
            add(&batch, sizeof(batch));
            add(&one, sizeof(one));
        }
        send_request();
    }
    for (uint32_t opcode = 0; opcode < CX_OPCODES; opcode++)
        wait_for_silent(opcode);
}

/* Has the lane take back what it owes, which it does behind a request. */
static void settle_debts(void)
{
    uint64_t since = now_ms();

    begin(FUSE_INTERRUPT, 0);
    send_request();
    wait_for_silent(FUSE_INTERRUPT);
    while ((cx_nodes_count(cx_lane_nodes(fuzz.lane)) != 1 ||
            fuzz.unknown_got != fuzz.unknown_sent) && now_ms() - since < DEBTS_MS)
        (void)pump();
}

static void check_end(void)
{
    size_t opened = opened_count(true) + opened_count(false);

    for (size_t i = 0; i < OPENED_MAX; i++)
        opened -= fuzz.opened[i].fh != 0 && fuzz.opened[i].taken != NULL;
    if (cx_lane_open(fuzz.lane) != opened)
        fail("%zu files and directories are open, not %zu", cx_lane_open(fuzz.lane), opened);
    settle_debts();
    if (cx_nodes_count(cx_lane_nodes(fuzz.lane)) != 1)
        fail("%zu inodes are left", cx_nodes_count(cx_lane_nodes(fuzz.lane)));
    if (fuzz.unknown_got != fuzz.unknown_sent)
        fail("of %" PRIu64 " lookups Python was told %" PRIu64, fuzz.unknown_sent,
             fuzz.unknown_got);
    for (size_t i = 0; i < sizeof(fuzz.told) / sizeof(fuzz.told[0]); i++)
        if (fuzz.told[i] > 0 && fuzz.ends[i] == 0)
            fail("Python wasn't told of the end of inode %zu", i);
}

static void wait_for_others(void)
{
    while (fuzz.others_count > 0)
        if (!pump())
            wait_for_something();
}

/* Asks what Python asks at any time. */
static void *observe(void *argument)
{
    struct cx_cost costs[CX_OPCODES];
    struct cx_lookup lookup;
    uint64_t bytes[2];
    size_t locks;
    atomic_bool *is_over = argument;

    while (!*is_over) {
        for (uint32_t i = 0; i < fuzz.threads; i++)
            if (cx_lane_lookup(fuzz.lane, i, &lookup) && strlen(lookup.name) > CX_NAME_MAX)
                fail("a lookup has a name that is too long");
        cx_lane_costs(fuzz.lane, costs, bytes);
        cx_lane_locks(fuzz.lane, &locks, bytes);
        (void)cx_lane_open(fuzz.lane);
        (void)cx_lane_error(fuzz.lane);
    }
    return NULL;
}

/* Stops the lane, of which others ask meanwhile. */
static void stop(void)
{
    atomic_bool is_over = false;
    pthread_t observer;

    if (pthread_create(&observer, NULL, observe, &is_over) != 0)
        fail("no thread");
    cx_lane_stop(fuzz.lane);
    is_over = true;
    pthread_join(observer, NULL);
}

/* Everything that was unlinked is handed over, once. */
static void check_removed(void)
{
    uint64_t answered = fuzz.answered[FUSE_UNLINK];

    while (take_removed() > 0)
        continue;
    if (fuzz.removed < answered || fuzz.removed > answered + fuzz.refused)
        fail("%" PRIu64 " of %" PRIu64 " unlinks were handed over", fuzz.removed, answered);
}

/* Stops the lane while requests wait; what it has counted is what it has answered. */
static void stop_at_work(void)
{
    fuzz.is_stopping = true;
    while (waiting() < WINDOW) {
        make_request();
        if (!has_answer())
            continue;
        send_request();
    }
    stop();
    (void)pump();
    check_removed();
    for (size_t i = 0; i < fuzz.known_count; i++)
        if (!fuzz.known[i].is_virtual)
            cx_nodes_forget(cx_lane_nodes(fuzz.lane), fuzz.known[i].id, fuzz.known[i].lookups);
    if (cx_nodes_count(cx_lane_nodes(fuzz.lane)) != 1)
        fail("%zu inodes are left", cx_nodes_count(cx_lane_nodes(fuzz.lane)));
}

/* A message that isn't even a header ends a thread, and says so. */
static void end_by_stump(void)
{
    struct pollfd ended = {fuzz.ended, POLLIN, 0};

    send_to_lane(fuzz.device, "stump", 5);
    if (poll(&ended, 1, WAIT_MS) != 1 || cx_lane_error(fuzz.lane) != EIO)
        fail("a stump of a message gave error %d", cx_lane_error(fuzz.lane));
}

/* the beginning */

/* Makes a pair of which each end has room for all that may wait. */
static void make_pair(int ends[2])
{
    int bytes = BUFFER_BYTES, got = 0;
    socklen_t size = sizeof(got);

    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0)
        fail("socketpair: %s", strerror(errno));
    for (int i = 0; i < 2; i++) {
        if (setsockopt(ends[i], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) != 0)
            setsockopt(ends[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
        getsockopt(ends[i], SOL_SOCKET, SO_SNDBUF, &got, &size);
        if (got < bytes)
            fail("sockets have room for %d bytes: it takes CAP_NET_ADMIN to have more", got);
    }
}

static void start(int ends[2])
{
    static struct cx_store store;
    struct cx_settings settings = {.entry_timeout_s = 1.5,
                                   .attr_timeout_s = 0.25,
                                   .readers = (fuzz.threads + 1) / 2,
                                   .readers_max = fuzz.threads,
                                   .open_max = 12};
    int device[2], pair[2];
    int rc;

    make_pair(device);
    make_pair(pair);
    ends[0] = device[0];
    ends[1] = pair[0];
    fuzz.device = device[1];
    fuzz.pair = pair[1];
    fuzz.ended = eventfd(0, EFD_NONBLOCK);
    for (unsigned i = 0; fuzz.lane == NULL && i < 100; i++)
        fuzz.lane = cx_lane_new(&store, settings); /* the storage fails now and then */
    if (fuzz.lane == NULL || fuzz.ended < 0)
        fail("no lane");
    if (!cx_removals_exempt(cx_lane_removals(fuzz.lane), "b*\0?", 5))
        fail("no memory");
    rc = cx_lane_start(fuzz.lane, ends[0], ends[1], fuzz.ended);
    if (rc != 0)
        fail("start: %s", strerror(-rc));
}

static void finish(const int ends[2])
{
    cx_lane_free(fuzz.lane);
    for (size_t i = 0; i <= FILES; i++)
        free(fuzz.files[i].raw);
    for (size_t i = 0; i < OPENED_MAX; i++)
        if (fuzz.opened[i].fh != 0)
            free(fuzz.opened[i].taken);
    for (size_t i = 0; i < WINDOW; i++)
        free(fuzz.sent[i].message);
    close(ends[0]);
    close(ends[1]);
    close(fuzz.device);
    close(fuzz.pair);
    close(fuzz.ended);
    if (stub_given() != stub_put() || stub_wrong() != 0)
        fail("given %lu put %lu wrong %lu", stub_given(), stub_put(), stub_wrong());
}

static void report(void)
{
    static const uint32_t opcodes[] = {FUSE_LOOKUP, FUSE_GETATTR, FUSE_READLINK,
                                       FUSE_GETXATTR, FUSE_READ, FUSE_WRITE,
                                       FUSE_OPEN, FUSE_RELEASE,
                                       FUSE_OPENDIR, FUSE_READDIRPLUS, FUSE_RELEASEDIR,
                                       FUSE_READDIR,
                                       FUSE_CREATE, FUSE_MKDIR, FUSE_MKNOD, FUSE_SYMLINK,
                                       FUSE_SETATTR, FUSE_RENAME, FUSE_RENAME2, FUSE_GETLK,
                                       FUSE_SETLK, FUSE_SETLKW, FUSE_FLUSH, FUSE_STATFS,
                                       FUSE_LISTXATTR, FUSE_FALLOCATE, FUSE_COPY_FILE_RANGE,
                                       FUSE_UNLINK};

    for (size_t i = 0; i < sizeof(opcodes) / sizeof(opcodes[0]); i++)
        printf("%u=%" PRIu64 " ", opcodes[i], fuzz.answered[opcodes[i]]);
    printf("passed=%" PRIu64 " refused=%" PRIu64 "\n", fuzz.passed, fuzz.refused);
}

int main(int argc, char **argv)
{
    uint64_t steps;
    int ends[2];

    if (argc != 4)
        return 2;
    fuzz.seed = strtoull(argv[1], NULL, 10);
    steps = strtoull(argv[2], NULL, 10);
    fuzz.threads = (unsigned)strtoul(argv[3], NULL, 10);
    fuzz.state = (fuzz.seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
    stub_init(fuzz.seed);
    start(ends);
    for (fuzz.step = 0; fuzz.step < steps; fuzz.step++)
        step();
    wait_until_waiting(0);
    wait_for_others();
    if (once_in(2)) {
        stop_at_work();
    } else {
        forget_all();
        check_end();
        if (once_in(2))
            end_by_stump();
        stop();
    }
    finish(ends);
    report();
    return 0;
}
