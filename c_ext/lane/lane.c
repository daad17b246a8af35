#include "lane.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "inside.h"

/* Wakes threads that have to stop; its handler does nothing. */
#define WAKE (SIGRTMIN + 5)
#define WAKE_PAUSE_NS 2000000

static void put_inode(void *context, void *raw)
{
    struct cx_lane *lane = context;

    cx_store_put(lane->store, raw);
}

/* answers */

static int send_to_kernel(const struct cx_lane *lane, const struct iovec *parts, int count)
{
    ssize_t sent;

    do
        sent = writev(lane->device, parts, count);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

int cx_reply(const struct request *request, int error, const void *data, size_t size)
{
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof(header) + size), .error = error, .unique = request->in->unique};
    struct iovec parts[2] = {{&header, sizeof(header)}, {(void *)(uintptr_t)data, size}};

    return send_to_kernel(request->lane, parts, size != 0 ? 2 : 1);
}

int cx_reply_out(const struct request *request, size_t size)
{
    struct fuse_out_header *header = (struct fuse_out_header *)(void *)request->thread->out;
    struct iovec part = {header, sizeof(*header) + size};

    *header = (struct fuse_out_header){.len = (uint32_t)part.iov_len,
                                       .unique = request->in->unique};
    return send_to_kernel(request->lane, &part, 1);
}

bool cx_pass(struct cx_lane *lane, const void *message, size_t size)
{
    ssize_t sent;

    do
        sent = send(lane->pair, message, size, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR && !lane->is_stopping);
    return sent >= 0;
}

/* threads */

static void *read_requests(void *argument);

static void thread_free(struct thread *thread)
{
    if (thread == NULL)
        return;
    free(thread->in);
    free(thread->out);
    cx_credentials_free(thread->credentials);
    pthread_mutex_destroy(&thread->lock);
    free(thread);
}

static struct thread *thread_new(struct cx_lane *lane)
{
    struct thread *thread = calloc(1, sizeof(*thread));

    if (thread == NULL)
        return NULL;
    if (pthread_mutex_init(&thread->lock, NULL) != 0) {
        free(thread);
        return NULL;
    }
    thread->lane = lane;
    thread->in = malloc(REQUEST_MAX);
    thread->out = malloc(REQUEST_MAX);
    thread->credentials = cx_credentials_new();
    if (thread->in == NULL || thread->out == NULL || thread->credentials == NULL) {
        thread_free(thread);
        return NULL;
    }
    return thread;
}

int cx_start_thread(pthread_t *id, void *(*run)(void *), void *argument)
{
    sigset_t blocked, former;
    int rc;

    sigfillset(&blocked);
    sigdelset(&blocked, WAKE);
    pthread_sigmask(SIG_SETMASK, &blocked, &former);
    rc = pthread_create(id, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &former, NULL);
    return -rc;
}

static int add_thread(struct cx_lane *lane)
{
    struct thread *thread = NULL;
    int rc = -EAGAIN;

    pthread_mutex_lock(&lane->lock);
    if (lane->is_stopping || lane->count >= lane->settings.readers_max)
        goto out;
    rc = -ENOMEM;
    thread = thread_new(lane);
    if (thread == NULL)
        goto out;
    atomic_fetch_add(&lane->idle, 1);
    rc = cx_start_thread(&thread->id, read_requests, thread);
    if (rc == 0) {
        lane->threads[lane->count++] = thread;
        thread = NULL;
    } else {
        atomic_fetch_sub(&lane->idle, 1);
    }
out:
    pthread_mutex_unlock(&lane->lock);
    thread_free(thread);
    return rc;
}

static void handle(struct thread *thread, size_t size)
{
    struct cx_lane *lane = thread->lane;
    struct request request = {.lane = lane,
                              .thread = thread,
                              .in = (struct fuse_in_header *)(void *)thread->in,
                              .argument = thread->in + sizeof(struct fuse_in_header),
                              .size = size - sizeof(struct fuse_in_header)};
    uint32_t opcode = request.in->opcode < CX_OPCODES ? request.in->opcode : 0;
    uint64_t begun = cx_now_ns();

    if (cx_answer(&request) == ANSWERED) {
        atomic_fetch_add(&lane->answered[opcode], 1);
        atomic_fetch_add(&lane->answered_ns[opcode], cx_now_ns() - begun);
        return;
    }
    atomic_fetch_add(&lane->passed[opcode], 1);
    if (!cx_pass(lane, thread->in, size))
        cx_reply(&request, -EIO, NULL, 0);
}

/* Tells Python that no request will come any more. */
static void end(struct cx_lane *lane, int error)
{
    uint64_t one = 1;
    int none = 0;

    if (error != ENODEV)
        atomic_compare_exchange_strong(&lane->error, &none, error);
    if (write(lane->ended, &one, sizeof(one)) < 0)
        atomic_compare_exchange_strong(&lane->error, &none, errno);
}

static void *read_requests(void *argument)
{
    struct thread *thread = argument;
    struct cx_lane *lane = thread->lane;

    while (!lane->is_stopping) {
        ssize_t size = read(lane->device, thread->in, REQUEST_MAX);
        if (size < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN))
            continue; /* a request was withdrawn, or we are to stop */
        if (size < (ssize_t)sizeof(struct fuse_in_header)) {
            end(lane, size < 0 ? errno : EIO);
            break;
        }
        if (atomic_fetch_sub(&lane->idle, 1) == 1)
            (void)add_thread(lane); /* there are enough already, or no memory: then they wait */
        handle(thread, (size_t)size);
        cx_pay(lane);
        atomic_fetch_add(&lane->idle, 1);
    }
    return NULL;
}

/* Changes what the kernel is to get otherwise than Python has answered it; returns its size. */
static size_t translate(struct cx_lane *lane, char *message, size_t size)
{
    const struct fuse_out_header *out = (const void *)message;

    if (size < sizeof(*out) || out->unique == 0)
        return size;
    if (out->unique == lane->init_unique) {
        if (out->error == 0 && size >= sizeof(*out) + sizeof(struct fuse_init_out))
            cx_widen_init(lane, (void *)(message + sizeof(*out)));
        lane->init_unique = 0;
    }
    return lane->plain_count == 0 ? size : cx_make_plain(lane, message, size);
}

/* Carries Python's answers to the kernel. */
static void *carry_answers(void *argument)
{
    struct cx_lane *lane = argument;
    char *buffer = malloc(REQUEST_MAX);

    if (buffer == NULL) {
        end(lane, ENOMEM);
        return NULL;
    }
    while (!lane->is_stopping) {
        ssize_t size = recv(lane->pair, buffer, REQUEST_MAX, 0);
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0) {
            if (!lane->is_stopping)
                end(lane, size < 0 ? errno : EPIPE); /* Python's end is closed */
            break;
        }
        struct iovec part = {buffer, translate(lane, buffer, (size_t)size)};
        (void)send_to_kernel(lane, &part, 1); /* ENOENT: nobody waits any more */
    }
    free(buffer);
    return NULL;
}

static void ignore(int number)
{
    (void)number;
}

int cx_lane_start(struct cx_lane *lane, int device, int pair, int ended)
{
    struct sigaction action = {.sa_handler = ignore};
    int rc;

    lane->device = device;
    lane->pair = pair;
    lane->ended = ended;
    sigaction(WAKE, &action, NULL);
    rc = cx_start_thread(&lane->carrier, carry_answers, lane);
    lane->is_carrying = rc == 0;
    if (rc == 0)
        rc = cx_locking_start(lane);
    for (uint32_t i = 0; rc == 0 && i < lane->settings.readers; i++)
        rc = add_thread(lane);
    if (rc != 0)
        cx_lane_stop(lane);
    return rc;
}

/* Waits for a thread, waking it from what it waits for. */
static void wake_and_join(pthread_t id)
{
    struct timespec pause = {0, WAKE_PAUSE_NS};

    while (pthread_tryjoin_np(id, NULL) != 0) {
        pthread_kill(id, WAKE);
        nanosleep(&pause, NULL);
    }
}

void cx_lane_stop(struct cx_lane *lane)
{
    uint32_t count;

    cx_locking_stop(lane);
    pthread_mutex_lock(&lane->lock);
    lane->is_stopping = true;
    count = lane->count;
    pthread_mutex_unlock(&lane->lock);
    shutdown(lane->pair, SHUT_RDWR);
    for (uint32_t i = 0; i < count; i++)
        wake_and_join(lane->threads[i]->id);
    if (lane->is_carrying)
        wake_and_join(lane->carrier);
    lane->is_carrying = false;
    cx_locking_settle(lane);
    pthread_mutex_lock(&lane->lock);
    lane->count = 0; /* nobody asks what a thread looks up any more */
    pthread_mutex_unlock(&lane->lock);
    for (uint32_t i = 0; i < count; i++)
        thread_free(lane->threads[i]);
}

struct cx_lane *cx_lane_new(struct cx_store *store, struct cx_settings settings)
{
    struct cx_lane *lane = calloc(1, sizeof(*lane));
    struct cx_attr attr;
    struct cx_ref *root;

    if (lane == NULL)
        return NULL;
    lane->store = store;
    lane->settings = settings;
    if (settings.readers_max > THREADS_MAX)
        lane->settings.readers_max = THREADS_MAX;
    pthread_mutex_init(&lane->lock, NULL);
    lane->files = cx_files_new();
    lane->hidden = cx_names_new();
    lane->busy = cx_names_new();
    lane->leaving = cx_names_new();
    lane->allowed = cx_allowed_new();
    lane->looked = cx_looked_new();
    lane->removals = cx_removals_new(REMOVALS_MAX);
    lane->nodes = cx_nodes_new(put_inode, lane);
    if (!cx_locking_new(lane) || lane->files == NULL || lane->hidden == NULL ||
        lane->busy == NULL || lane->leaving == NULL || lane->allowed == NULL ||
        lane->looked == NULL || lane->removals == NULL || lane->nodes == NULL)
        goto failed;
    if (cx_store_root(store, &root, &attr) != 0)
        goto failed;
    if (cx_nodes_teach(lane->nodes, FUSE_ROOT_ID, attr.ino, root,
                       (struct cx_name){FUSE_ROOT_ID, "", 0}, true, 2) != CX_LEARNED) {
        cx_store_put(store, root);
        goto failed;
    }
    return lane;
failed:
    cx_lane_free(lane);
    return NULL;
}

void cx_lane_free(struct cx_lane *lane)
{
    struct cx_opened opened;

    cx_close_directories(lane);
    cx_drop_plain(lane);
    cx_locking_free(lane);
    while (lane->files != NULL && cx_files_close_any(lane->files, &opened))
        cx_close_file(lane, opened);
    if (lane->nodes != NULL)
        cx_nodes_free(lane->nodes);
    cx_files_free(lane->files);
    cx_names_free(lane->hidden);
    cx_names_free(lane->busy);
    cx_names_free(lane->leaving);
    cx_allowed_free(lane->allowed);
    cx_looked_free(lane->looked);
    cx_removals_free(lane->removals);
    pthread_mutex_destroy(&lane->lock);
    free(lane);
}

struct cx_nodes *cx_lane_nodes(struct cx_lane *lane)
{
    return lane->nodes;
}

struct cx_files *cx_lane_files(struct cx_lane *lane)
{
    return lane->files;
}

struct cx_names *cx_lane_hidden(struct cx_lane *lane)
{
    return lane->hidden;
}

struct cx_names *cx_lane_busy(struct cx_lane *lane)
{
    return lane->busy;
}

struct cx_names *cx_lane_leaving(struct cx_lane *lane)
{
    return lane->leaving;
}

struct cx_allowed *cx_lane_allowed(struct cx_lane *lane)
{
    return lane->allowed;
}

struct cx_looked *cx_lane_looked(struct cx_lane *lane)
{
    return lane->looked;
}

struct cx_removals *cx_lane_removals(struct cx_lane *lane)
{
    return lane->removals;
}

void cx_lane_pause(struct cx_lane *lane, bool is_paused)
{
    if (is_paused)
        cx_files_drop_all(lane->files);
    lane->is_paused = is_paused;
}

void cx_lane_pass_changes(struct cx_lane *lane, bool passes)
{
    atomic_fetch_add(&lane->passes_changes, passes ? 1 : -1);
}

void cx_lane_pass_opendir(struct cx_lane *lane)
{
    lane->passes_opendir = true;
}

static int notify(const struct cx_lane *lane, int code, void *body, size_t size,
                  struct cx_name name)
{
    struct fuse_out_header header = {.error = code};
    char end = '\0';
    struct iovec parts[4] = {{&header, sizeof(header)},
                             {body, size},
                             {(void *)(uintptr_t)name.name, name.length},
                             {&end, 1}};
    int count = name.name == NULL ? 2 : 4;

    for (int i = 0; i < count; i++)
        header.len += (uint32_t)parts[i].iov_len;
    return send_to_kernel(lane, parts, count);
}

int cx_lane_forget_name(struct cx_lane *lane, struct cx_name at)
{
    struct fuse_notify_inval_entry_out body = {.parent = at.parent,
                                               .namelen = (uint32_t)at.length};

    return notify(lane, FUSE_NOTIFY_INVAL_ENTRY, &body, sizeof(body), at);
}

/* Has the kernel forget the attributes of an inode, and its pages from an offset on; with a
   negative one none. */
static int forget_from(const struct cx_lane *lane, uint64_t id, int64_t offset)
{
    struct fuse_notify_inval_inode_out body = {.ino = id, .off = offset};

    return notify(lane, FUSE_NOTIFY_INVAL_INODE, &body, sizeof(body), (struct cx_name){0});
}

int cx_forget_attributes(const struct cx_lane *lane, uint64_t id)
{
    return forget_from(lane, id, -1);
}

int cx_lane_forget_inode(struct cx_lane *lane, uint64_t id)
{
    return forget_from(lane, id, 0);
}

void cx_lane_costs(struct cx_lane *lane, struct cx_cost costs[CX_OPCODES], uint64_t bytes[2])
{
    for (uint32_t i = 0; i < CX_OPCODES; i++)
        costs[i] =
            (struct cx_cost){lane->answered[i], lane->passed[i], lane->answered_ns[i]};
    bytes[0] = lane->bytes[0];
    bytes[1] = lane->bytes[1];
}

bool cx_lane_is_unsure(struct cx_lane *lane)
{
    return cx_unsure_any(lane->unsure);
}

bool cx_lane_is_unsure_in(struct cx_lane *lane, uint64_t directory)
{
    return cx_unsure_has(lane->unsure, directory);
}

void cx_lane_locks(struct cx_lane *lane, size_t *waiting, uint64_t *refused)
{
    *waiting = cx_wishes_waiting(lane->wishes);
    *refused = cx_wishes_refused(lane->wishes);
}

size_t cx_lane_open(struct cx_lane *lane)
{
    return lane->open_count;
}

bool cx_lane_take_file(struct cx_lane *lane, uint64_t fh, struct cx_opened *opened)
{
    if (!cx_files_take(lane->files, fh, opened))
        return false;
    cx_file_is_gone(lane, *opened);
    return true;
}

bool cx_lane_lookup(struct cx_lane *lane, uint32_t number, struct cx_lookup *lookup)
{
    bool is_looking = false;

    pthread_mutex_lock(&lane->lock);
    if (number < lane->count) {
        struct thread *thread = lane->threads[number];
        pthread_mutex_lock(&thread->lock);
        is_looking = thread->is_looking;
        *lookup = thread->lookup;
        pthread_mutex_unlock(&thread->lock);
    }
    pthread_mutex_unlock(&lane->lock);
    return is_looking;
}

int cx_lane_error(struct cx_lane *lane)
{
    return lane->error;
}
