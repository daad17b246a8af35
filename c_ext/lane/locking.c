/* Locks on ranges of files, for which the metadata servers are asked: they hold between gateways.

   A lock that has to be waited for is asked for again and again (wishes.h) by one thread, so that
   neither a thread of libcephfs nor one that answers requests ever waits for one.

   Who gets a lock sees what others have done before. The kernel drops what it has of the file, if that
   has changed; it may wait for requests in doing so, and is told by a thread of its own. Of names in
   the directory, and of the attributes of its files, it remembers nothing from then on. What it knew
   before has to age, where the file shows that there were others.

   Nothing here is Python's: an answer of it would be that there is no such request. */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>

#include "inside.h"

/* How many requests for locks may wait. */
#define WISHES_MOST 4096u

/* How long nothing of a directory is remembered behind a lock. */
#define UNSURE_S 60.0

#define LAST ((uint64_t)INT64_MAX) /* of all offsets */

/* What may be said of a question besides errors. */
#define HELD 1    /* to be asked again: the file is being exchanged */
#define STRANGE 2 /* the file isn't ours: it never changes, and nobody writes to it */

/* the storage */

static void give_back(struct cx_lane *lane, struct cx_locked *locked)
{
    cx_nodes_closed(lane->nodes, locked->id);
    cx_inode_release(lane->nodes, locked->inode);
    locked->raw = NULL;
}

static void close_file(struct cx_lane *lane, struct cx_locked *locked)
{
    cx_store_close(lane->store, locked->raw);
    cx_unsure_end(lane->unsure, locked->directory);
    give_back(lane, locked);
}

/* Notes what has become of locks if the session was shut out. */
static void check_session(struct cx_lane *lane, struct cx_locked *locked)
{
    if (locked->raw == NULL || locked->generation == cx_files_generation(lane->files))
        return;
    cx_locked_lose(locked);
    close_file(lane, locked);
}

/* Opens a file that isn't open: 0, HELD, STRANGE or -errno. */
static int open_file(struct cx_lane *lane, struct cx_locked *locked)
{
    bool is_held;
    int rc;

    if (locked->raw != NULL)
        return 0;
    locked->generation = cx_files_generation(lane->files);
    if (lane->is_paused)
        return -ESHUTDOWN;
    locked->inode =
        cx_nodes_open_for_locks(lane->nodes, locked->id, &locked->directory, &is_held);
    if (locked->inode == NULL)
        return is_held ? HELD : STRANGE;
    rc = cx_store_open(lane->store, cx_inode_raw(locked->inode), O_RDONLY, NULL, &locked->raw);
    if (rc < 0) {
        give_back(lane, locked);
    } else if (!cx_unsure_begin(lane->unsure, locked->directory)) {
        cx_store_close(lane->store, locked->raw);
        give_back(lane, locked);
        rc = -ENOLCK;
    }
    return rc;
}

static void leave(struct cx_lane *lane, struct cx_locked *locked)
{
    if (locked->raw != NULL && locked->holders == NULL)
        close_file(lane, locked);
    cx_locked_leave(lane->locked, locked);
}

static struct flock range_of(uint32_t type, uint64_t start, uint64_t end, uint32_t pid)
{
    return (struct flock){.l_type = (short)type,
                          .l_whence = SEEK_SET,
                          .l_start = (off_t)start,
                          .l_len = end >= LAST ? 0 : (off_t)(end - start + 1),
                          .l_pid = (pid_t)pid};
}

/* unlocking */

/* Unlocks a range of an owner in a file that the caller has: 0, or -errno; EIO if what it had
   locked was lost, once. */
static int unlock_in(struct cx_lane *lane, struct cx_locked *locked, uint64_t owner,
                     uint64_t start, uint64_t end)
{
    struct flock range = range_of(F_UNLCK, start, end, 0);
    const struct cx_holder *holder = cx_locked_by_owner(locked, owner);
    int rc;

    if (holder == NULL)
        return 0;
    if (holder->is_lost) {
        cx_locked_drop(locked, owner);
        return -EIO;
    }
    rc = cx_store_setlk(lane->store, locked->raw, &range, owner);
    if (rc == 0)
        cx_locked_cut(locked, owner, start, end);
    return rc;
}

static int unlock(struct cx_lane *lane, uint64_t id, uint64_t owner, uint64_t start, uint64_t end)
{
    struct cx_locked *locked = cx_locked_enter(lane->locked, id, false);
    int rc;

    if (locked == NULL)
        return 0;
    check_session(lane, locked);
    rc = unlock_in(lane, locked, owner, start, end);
    leave(lane, locked);
    cx_wishes_wake(lane->wishes, id);
    return rc;
}

/* Unlocks all that an owner has; what fails ends when the file is closed here. */
static void unlock_all_in(struct cx_lane *lane, struct cx_locked *locked, uint64_t owner)
{
    (void)unlock_in(lane, locked, owner, 0, LAST);
    cx_locked_drop(locked, owner);
}

void cx_unlock_opened(struct cx_lane *lane, uint64_t id, uint64_t fh)
{
    struct cx_locked *locked = cx_locked_enter(lane->locked, id, false);
    const struct cx_holder *holder;

    if (locked == NULL)
        return;
    check_session(lane, locked);
    while ((holder = cx_locked_by_fh(locked, fh)) != NULL)
        unlock_all_in(lane, locked, holder->owner);
    leave(lane, locked);
    cx_wishes_wake(lane->wishes, id);
}

/* A descriptor was closed: its process has no locks on the file any more. */
enum outcome cx_answer_flush(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_flush_in *argument = request->argument;
    struct cx_locked *locked = NULL;

    if (request->size >= sizeof(*argument))
        locked = cx_locked_enter(lane->locked, request->in->nodeid, false);
    if (locked != NULL) {
        check_session(lane, locked);
        unlock_all_in(lane, locked, argument->lock_owner);
        leave(lane, locked);
        cx_wishes_wake(lane->wishes, request->in->nodeid);
    }
    cx_reply(request, 0, NULL, 0);
    return ANSWERED;
}

/* locking */

/* Returns how long the kernel believes what it was told. */
static double remembered_s(const struct cx_lane *lane)
{
    const struct cx_settings *settings = &lane->settings;

    return settings->entry_timeout_s > settings->attr_timeout_s ? settings->entry_timeout_s
                                                                : settings->attr_timeout_s;
}

/* Asks for a lock, or what is in its way, in a file that the caller has: 0, or -errno. */
static int ask_in(struct cx_lane *lane, struct cx_locked *locked, struct cx_wish *wish,
                  struct flock *range)
{
    const struct cx_holder *former = cx_locked_by_owner(locked, wish->owner);
    struct cx_holder holder = {.owner = wish->owner,
                               .fh = wish->fh,
                               .start = wish->start,
                               .end = wish->end,
                               .pid = wish->pid};
    int rc;

    if (wish->opcode == FUSE_GETLK) {
        rc = cx_store_getlk(lane->store, locked->raw, range, wish->owner);
        if (cx_locked_by_pid(locked, (uint32_t)range->l_pid) == NULL)
            range->l_pid = 0; /* a process behind another gateway, or none */
        return rc;
    }
    if (former != NULL && former->is_lost) {
        cx_locked_drop(locked, wish->owner);
        return -EIO;
    }
    rc = cx_store_setlk(lane->store, locked->raw, range, wish->owner);
    if (rc != 0)
        return rc;
    if (!cx_locked_add(locked, holder)) {
        *range = range_of(F_UNLCK, wish->start, wish->end, 0);
        cx_store_setlk(lane->store, locked->raw, range, wish->owner);
        return -ENOLCK;
    }
    wish->version = cx_store_version(lane->store, cx_inode_raw(locked->inode), &wish->ino);
    wish->is_changed = !cx_nodes_has_pages(lane->nodes, wish->id, wish->version);
    wish->due_s = cx_unsure_since(lane->unsure, locked->directory) + remembered_s(lane);
    return 0;
}

static int ask(struct cx_lane *lane, struct cx_wish *wish, struct flock *range)
{
    struct cx_locked *locked = cx_locked_enter(lane->locked, wish->id, true);
    int rc;

    *range = range_of(wish->type, wish->start, wish->end, wish->pid);
    if (locked == NULL)
        return -ENOLCK;
    check_session(lane, locked);
    rc = open_file(lane, locked);
    if (rc == 0)
        rc = ask_in(lane, locked, wish, range);
    leave(lane, locked);
    if (rc == STRANGE)
        range->l_type = F_UNLCK;
    return rc == STRANGE ? 0 : rc;
}

/* answers */

/* Answers a request of which only the number is left; 0 or -errno. */
static int reply_to(struct cx_lane *lane, uint64_t unique, int error, const void *data,
                    size_t size)
{
    struct fuse_in_header in = {.unique = unique};
    struct request request = {.lane = lane, .in = &in};

    return cx_reply(&request, error, data, size);
}

/* Says that a lock is there; nobody keeps it if nobody hears that. */
static void tell_granted(struct cx_lane *lane, struct cx_wish *wish)
{
    if (reply_to(lane, wish->unique, 0, NULL, 0) != 0)
        (void)unlock(lane, wish->id, wish->owner, wish->start, wish->end);
    cx_wishes_end(lane->wishes, wish);
}

static void tell_failed(struct cx_lane *lane, struct cx_wish *wish, int error)
{
    reply_to(lane, wish->unique, error, NULL, 0);
    cx_wishes_end(lane->wishes, wish);
}

static void tell_in_way(struct cx_lane *lane, struct cx_wish *wish, const struct flock *range)
{
    struct fuse_lk_out out = {.lk = {.start = (uint64_t)range->l_start,
                                     .end = LAST,
                                     .type = (uint32_t)range->l_type,
                                     .pid = (uint32_t)range->l_pid}};

    if (range->l_len != 0)
        out.lk.end = (uint64_t)(range->l_start + range->l_len - 1);
    reply_to(lane, wish->unique, 0, &out, sizeof(out));
    cx_wishes_end(lane->wishes, wish);
}

/* Asks for what is wished, and answers, or has it asked for again. */
static void attempt(struct cx_lane *lane, struct cx_wish *wish)
{
    struct flock range;
    int rc = ask(lane, wish, &range);

    if (rc == HELD || (rc == -EAGAIN && wish->opcode == FUSE_SETLKW)) {
        rc = cx_wishes_again(lane->wishes, wish);
        if (rc != 0)
            tell_failed(lane, wish, rc);
    } else if (rc != 0) {
        tell_failed(lane, wish, rc);
    } else if (wish->opcode == FUSE_GETLK) {
        tell_in_way(lane, wish, &range);
    } else if (!wish->is_changed || !cx_wishes_grant(lane->wishes, wish)) {
        (void)cx_forget_attributes(lane, wish->id);
        tell_granted(lane, wish);
    }
}

static bool is_range(const struct fuse_lk_in *argument)
{
    const struct fuse_file_lock *lock = &argument->lk;

    return lock->start <= lock->end && lock->end <= LAST &&
           (lock->type == F_RDLCK || lock->type == F_WRLCK || lock->type == F_UNLCK);
}

enum outcome cx_answer_lock(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_lk_in *argument = request->argument;
    const struct fuse_file_lock *lock = &argument->lk;
    struct cx_wish *wish;
    int error = 0;

    if (request->size < sizeof(*argument) || !is_range(argument))
        error = -EINVAL;
    else if (argument->lk_flags & FUSE_LK_FLOCK)
        error = -EOPNOTSUPP; /* the kernel wasn't told that there is this kind */
    else if (lock->type == F_UNLCK && request->in->opcode != FUSE_GETLK)
        error = unlock(lane, request->in->nodeid, argument->owner, lock->start, lock->end);
    else if ((wish = cx_wishes_add(lane->wishes,
                                   (struct cx_wish){.unique = request->in->unique,
                                                    .id = request->in->nodeid,
                                                    .opcode = request->in->opcode,
                                                    .type = lock->type,
                                                    .start = lock->start,
                                                    .end = lock->end,
                                                    .owner = argument->owner,
                                                    .fh = argument->fh,
                                                    .pid = lock->pid})) == NULL)
        error = -ENOLCK;
    else {
        attempt(lane, wish);
        return ANSWERED;
    }
    cx_reply(request, error, NULL, 0);
    return ANSWERED;
}

enum outcome cx_answer_interrupt(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_interrupt_in *argument = request->argument;
    struct cx_wish *wish = NULL;

    if (request->size >= sizeof(*argument))
        wish = cx_wishes_interrupt(lane->wishes, argument->unique);
    if (wish != NULL)
        tell_failed(lane, wish, -EINTR);
    return ANSWERED; /* of what is Python's, it would only note it */
}

/* threads */

static void *ask_again(void *argument)
{
    struct cx_lane *lane = argument;
    struct cx_wish *wish;

    while ((wish = cx_wishes_due(lane->wishes)) != NULL)
        attempt(lane, wish);
    return NULL;
}

/* Has the kernel drop what it has of files that others have changed, before it is told of locks. */
static void *show_anew(void *argument)
{
    struct cx_lane *lane = argument;
    struct cx_wish *wish;

    while ((wish = cx_wishes_granted(lane->wishes)) != NULL) {
        (void)cx_lane_forget_inode(lane, wish->id);
        cx_nodes_note_pages(lane->nodes, wish->id, wish->ino, wish->version);
        tell_granted(lane, wish);
    }
    return NULL;
}

bool cx_locking_new(struct cx_lane *lane)
{
    lane->locked = cx_all_locked_new();
    lane->wishes = cx_wishes_new(WISHES_MOST);
    lane->unsure = cx_unsure_new(UNSURE_S);
    return lane->locked != NULL && lane->wishes != NULL && lane->unsure != NULL;
}

int cx_locking_start(struct cx_lane *lane)
{
    void *(*const runs[LOCKERS])(void *) = {ask_again, show_anew};
    int rc = 0;

    for (; rc == 0 && lane->locker_count < LOCKERS; lane->locker_count += rc == 0)
        rc = cx_start_thread(&lane->lockers[lane->locker_count], runs[lane->locker_count], lane);
    return rc;
}

void cx_locking_stop(struct cx_lane *lane)
{
    cx_wishes_stop(lane->wishes);
    while (lane->locker_count > 0)
        pthread_join(lane->lockers[--lane->locker_count], NULL);
}

void cx_locking_settle(struct cx_lane *lane)
{
    struct cx_wish *wish;

    while ((wish = cx_wishes_any(lane->wishes)) != NULL)
        tell_failed(lane, wish, -ENOTCONN);
}

void cx_locking_free(struct cx_lane *lane)
{
    struct cx_locked *locked;

    while (lane->locked != NULL && (locked = cx_locked_any(lane->locked)) != NULL) {
        while (locked->holders != NULL)
            cx_locked_drop(locked, locked->holders->owner);
        leave(lane, locked);
    }
    cx_all_locked_free(lane->locked);
    cx_wishes_free(lane->wishes);
    cx_unsure_free(lane->unsure);
}
