#include "removals.h"

#include <fnmatch.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store.h"

#include "clock.h"
#include "hash.h"

#define GRANTS 256u
#define BUCKETS 1024u

struct place {
    struct cx_grant grant; /* none if its pid is 0 */
    uint64_t until_ns;     /* CLOCK_MONOTONIC */
};

struct waiting {
    struct waiting *next;
    uint64_t directory; /* number of the inode */
    struct cx_removed removed;
    struct cx_attr attr;
};

/* A directory in which something waits. */
struct inside {
    struct inside *next;
    uint64_t directory; /* number of the inode */
    uint64_t answered_ns;
    uint32_t directories;
    size_t waiting;    /* how much of it waits here */
    bool is_in_python; /* some of it waits in Python */
};

struct cx_removals {
    pthread_mutex_t lock;
    size_t limit;
    int eventfd;
    char *patterns; /* of exempt names */
    size_t patterns_size;
    struct place places[GRANTS]; /* each directory has one, which it may share with others */
    struct waiting *first, *last;
    atomic_size_t count;
    atomic_size_t inside_count; /* read without the lock: almost always 0 */
    struct inside *buckets[BUCKETS];
};

struct cx_removals *cx_removals_new(size_t limit)
{
    struct cx_removals *removals = calloc(1, sizeof(*removals));

    if (removals != NULL && pthread_mutex_init(&removals->lock, NULL) != 0) {
        free(removals);
        return NULL;
    }
    if (removals != NULL) {
        removals->limit = limit;
        removals->eventfd = -1;
    }
    return removals;
}

static void free_inside(struct inside *inside)
{
    while (inside != NULL) {
        struct inside *next = inside->next;
        free(inside);
        inside = next;
    }
}

void cx_removals_free(struct cx_removals *removals)
{
    if (removals == NULL)
        return;
    while (removals->first != NULL) {
        struct waiting *next = removals->first->next;
        free(removals->first);
        removals->first = next;
    }
    for (size_t i = 0; i < BUCKETS; i++)
        free_inside(removals->buckets[i]);
    pthread_mutex_destroy(&removals->lock);
    free(removals->patterns);
    free(removals);
}

void cx_removals_wake(struct cx_removals *removals, int eventfd)
{
    pthread_mutex_lock(&removals->lock);
    removals->eventfd = eventfd;
    pthread_mutex_unlock(&removals->lock);
}

bool cx_removals_exempt(struct cx_removals *removals, const char *patterns, size_t size)
{
    removals->patterns = malloc(size + 1);
    if (removals->patterns == NULL)
        return false;
    memcpy(removals->patterns, patterns, size);
    removals->patterns_size = size;
    return true;
}

bool cx_removals_is_exempt(const struct cx_removals *removals, const char *name)
{
    const char *pattern = removals->patterns;

    for (size_t at = 0; at < removals->patterns_size; at += strlen(pattern + at) + 1) {
        if (fnmatch(pattern + at, name, FNM_NOESCAPE) != FNM_NOMATCH)
            return true; /* also if the pattern, or the name, isn't understood */
    }
    return false;
}

/* grants */

static struct place *place_of(struct cx_removals *removals, uint64_t directory)
{
    return &removals->places[cx_hash_number(directory) % GRANTS];
}

void cx_removals_grant(struct cx_removals *removals, const struct cx_grant *grant, double seconds)
{
    struct place *place = place_of(removals, grant->directory);

    pthread_mutex_lock(&removals->lock);
    place->grant = *grant;
    place->until_ns = cx_now_ns() + (uint64_t)(seconds * 1e9);
    pthread_mutex_unlock(&removals->lock);
}

void cx_removals_revoke(struct cx_removals *removals, uint64_t directory)
{
    struct place *place = place_of(removals, directory);

    pthread_mutex_lock(&removals->lock);
    if (place->grant.directory == directory)
        place->grant.pid = 0;
    pthread_mutex_unlock(&removals->lock);
}

void cx_removals_revoke_all(struct cx_removals *removals)
{
    pthread_mutex_lock(&removals->lock);
    for (size_t i = 0; i < GRANTS; i++)
        removals->places[i].grant.pid = 0;
    pthread_mutex_unlock(&removals->lock);
}

/* Returns the grant that somebody has; NULL if none. With the lock. */
static const struct cx_grant *grant_of(struct cx_removals *removals, const struct cx_grant *asked)
{
    const struct place *place = place_of(removals, asked->directory);
    const struct cx_grant *grant = &place->grant;

    if (grant->pid == 0 || grant->pid != asked->pid || grant->directory != asked->directory ||
        grant->uid != asked->uid || grant->gid != asked->gid || grant->touches != asked->touches ||
        cx_now_ns() >= place->until_ns)
        return NULL;
    return grant;
}

bool cx_removals_may(struct cx_removals *removals, const struct cx_grant *asked)
{
    bool may;

    pthread_mutex_lock(&removals->lock);
    may = grant_of(removals, asked) != NULL;
    pthread_mutex_unlock(&removals->lock);
    return may;
}

/* directories in which something waits; all with the lock */

/* Returns where a directory stands in its bucket: NULL behind the last. */
static struct inside **find_inside(struct cx_removals *removals, uint64_t directory)
{
    struct inside **place = &removals->buckets[cx_hash_number(directory) % BUCKETS];

    while (*place != NULL && (*place)->directory != directory)
        place = &(*place)->next;
    return place;
}

/* Returns a directory, added if it isn't there; NULL without memory. */
static struct inside *add_inside(struct cx_removals *removals, uint64_t directory)
{
    struct inside **place = find_inside(removals, directory);

    if (*place != NULL)
        return *place;
    *place = calloc(1, sizeof(**place));
    if (*place != NULL) {
        (*place)->directory = directory;
        atomic_fetch_add(&removals->inside_count, 1);
    }
    return *place;
}

static void drop_inside(struct cx_removals *removals, uint64_t directory)
{
    struct inside **place = find_inside(removals, directory), *inside = *place;

    if (inside == NULL || inside->waiting > 0 || inside->is_in_python)
        return;
    *place = inside->next;
    free(inside);
    atomic_fetch_sub(&removals->inside_count, 1);
}

bool cx_removals_inside(struct cx_removals *removals, uint64_t directory, uint64_t answered_ns,
                        uint32_t directories)
{
    struct inside *inside;

    pthread_mutex_lock(&removals->lock);
    inside = answered_ns != 0 ? add_inside(removals, directory)
                              : *find_inside(removals, directory);
    if (inside != NULL) {
        if (answered_ns > inside->answered_ns)
            inside->answered_ns = answered_ns;
        inside->directories = directories;
        inside->is_in_python = answered_ns != 0;
        drop_inside(removals, directory);
    }
    pthread_mutex_unlock(&removals->lock);
    return answered_ns == 0 || inside != NULL;
}

static void make_later(struct timespec *time, uint64_t ns)
{
    struct timespec other = {(time_t)(ns / CX_NS_PER_S), (long)(ns % CX_NS_PER_S)};

    if (time->tv_sec < other.tv_sec ||
        (time->tv_sec == other.tv_sec && time->tv_nsec < other.tv_nsec))
        *time = other;
}

void cx_removals_show(struct cx_removals *removals, struct cx_attr *attr)
{
    const struct inside *inside;

    if (!S_ISDIR(attr->mode) || atomic_load(&removals->inside_count) == 0)
        return;
    pthread_mutex_lock(&removals->lock);
    inside = *find_inside(removals, attr->ino);
    if (inside != NULL) {
        make_later(&attr->mtime, inside->answered_ns);
        make_later(&attr->ctime, inside->answered_ns);
        attr->nlink -= inside->directories < attr->nlink ? inside->directories : attr->nlink;
    }
    pthread_mutex_unlock(&removals->lock);
}

/* what waits */

static struct waiting *waiting_new(uint64_t directory, struct cx_name at,
                                   const struct cx_attr *attr)
{
    struct waiting *waiting = calloc(1, sizeof(*waiting));

    if (waiting == NULL)
        return NULL;
    waiting->directory = directory;
    waiting->removed.parent = at.parent;
    waiting->removed.length = at.length;
    memcpy(waiting->removed.name, at.name, at.length);
    waiting->attr = *attr;
    return waiting;
}

/* Adds what has been granted; false if it hasn't been, or without memory. With the lock. */
static bool append(struct cx_removals *removals, const struct cx_grant *asked,
                   struct waiting *waiting)
{
    const struct cx_grant *grant = grant_of(removals, asked);
    struct inside *inside;

    if (grant == NULL || removals->count >= removals->limit ||
        (grant->owned_only && waiting->attr.uid != asked->uid))
        return false;
    inside = add_inside(removals, waiting->directory);
    if (inside == NULL)
        return false;
    inside->waiting++;
    inside->answered_ns = cx_ns_of(CLOCK_REALTIME);
    waiting->removed.grant = grant->number;
    if (removals->last == NULL)
        removals->first = waiting;
    else
        removals->last->next = waiting;
    removals->last = waiting;
    atomic_fetch_add(&removals->count, 1);
    return true;
}

bool cx_removals_add(struct cx_removals *removals, const struct cx_grant *asked,
                     uint64_t directory, struct cx_name at, const struct cx_attr *attr)
{
    struct waiting *waiting = waiting_new(directory, at, attr);
    uint64_t one = 1;
    bool is_added;

    if (waiting == NULL)
        return false;
    pthread_mutex_lock(&removals->lock);
    is_added = append(removals, asked, waiting);
    if (is_added && removals->first == waiting && removals->eventfd >= 0) {
        ssize_t written = write(removals->eventfd, &one, sizeof(one));
        (void)written; /* it can only be full: then Python is woken anyway */
    }
    pthread_mutex_unlock(&removals->lock);
    if (!is_added)
        free(waiting);
    return is_added;
}

/* Takes the first of what waits; NULL if nothing does. */
static struct waiting *take_first(struct cx_removals *removals)
{
    struct waiting *waiting;

    pthread_mutex_lock(&removals->lock);
    waiting = removals->first;
    if (waiting != NULL) {
        struct inside *inside = *find_inside(removals, waiting->directory);
        removals->first = waiting->next;
        if (removals->first == NULL)
            removals->last = NULL;
        atomic_fetch_sub(&removals->count, 1);
        inside->waiting--;
        inside->is_in_python = true; /* who takes it over says when it no longer is */
    }
    pthread_mutex_unlock(&removals->lock);
    return waiting;
}

size_t cx_removals_take(struct cx_removals *removals, struct cx_removed *removed,
                        struct cx_attr *attr, size_t count)
{
    size_t taken = 0;
    struct waiting *waiting;

    if (atomic_load(&removals->count) == 0)
        return 0;
    while (taken < count && (waiting = take_first(removals)) != NULL) {
        removed[taken] = waiting->removed;
        attr[taken++] = waiting->attr;
        free(waiting);
    }
    return taken;
}
