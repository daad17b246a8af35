#include "wishes.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "clock.h"

/* How long what waits isn't asked for: at first, and at most, unless there are many. */
#define PAUSE_FIRST_S 1e-3
#define PAUSE_MOST_S 0.2
#define PAUSE_EACH_S 5e-3 /* for each one that waits: some 200 questions in a second */

/* How many of those that wait are asked for at once when something was unlocked: the oldest, since most
   of the others would find it taken. */
#define WOKEN 8u

/* Interrupts that came before what they are about was noted. */
#define EARLY 64u

enum { ASKED, WAITS, GRANTED };

struct cx_wishes {
    pthread_mutex_t lock;
    pthread_cond_t waits;   /* something waits, or is due */
    pthread_cond_t granted; /* something was granted */
    bool is_stopped;
    size_t waiting, most;
    uint64_t refused;
    struct cx_wish *first;
    uint64_t early[EARLY]; /* numbers of requests, none of which comes twice */
    size_t next_early;
};

struct cx_wishes *cx_wishes_new(size_t most)
{
    struct cx_wishes *wishes = calloc(1, sizeof(*wishes));
    pthread_condattr_t monotonic;

    if (wishes == NULL)
        return NULL;
    wishes->most = most;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&wishes->lock, NULL);
    pthread_cond_init(&wishes->waits, &monotonic);
    pthread_cond_init(&wishes->granted, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return wishes;
}

void cx_wishes_free(struct cx_wishes *wishes)
{
    if (wishes == NULL)
        return;
    while (wishes->first != NULL) {
        struct cx_wish *next = wishes->first->next;
        free(wishes->first);
        wishes->first = next;
    }
    pthread_cond_destroy(&wishes->granted);
    pthread_cond_destroy(&wishes->waits);
    pthread_mutex_destroy(&wishes->lock);
    free(wishes);
}

/* Tells whether a request was interrupted before its wish was noted. */
static bool was_early(const struct cx_wishes *wishes, uint64_t unique)
{
    for (size_t i = 0; i < EARLY; i++)
        if (wishes->early[i] == unique)
            return unique != 0;
    return false;
}

struct cx_wish *cx_wishes_add(struct cx_wishes *wishes, struct cx_wish wish)
{
    struct cx_wish *added = NULL;

    pthread_mutex_lock(&wishes->lock);
    added = malloc(sizeof(*added));
    if (added != NULL) {
        *added = wish;
        added->state = ASKED;
        added->is_interrupted = was_early(wishes, wish.unique);
        added->pause_s = PAUSE_FIRST_S;
        added->next = wishes->first;
        wishes->first = added;
    }
    pthread_mutex_unlock(&wishes->lock);
    return added;
}

/* Has a wish wait for its time. */
static void make_wait(struct cx_wishes *wishes, struct cx_wish *wish)
{
    double most_s;

    wishes->waiting += !wish->is_waiting;
    wish->is_waiting = true;
    most_s = PAUSE_EACH_S * (double)wishes->waiting;
    most_s = most_s > PAUSE_MOST_S ? most_s : PAUSE_MOST_S;
    wish->state = WAITS;
    wish->due_s = cx_now_s() + wish->pause_s;
    wish->pause_s = wish->pause_s * 2 < most_s ? wish->pause_s * 2 : most_s;
    pthread_cond_signal(&wishes->waits);
}

int cx_wishes_again(struct cx_wishes *wishes, struct cx_wish *wish)
{
    int rc = 0;

    pthread_mutex_lock(&wishes->lock);
    if (wish->is_interrupted) {
        rc = -EINTR;
    } else if (wishes->is_stopped) {
        rc = -ENOTCONN;
    } else if (!wish->is_waiting && wishes->waiting >= wishes->most) {
        rc = -ENOLCK;
        wishes->refused++;
    } else {
        make_wait(wishes, wish);
    }
    pthread_mutex_unlock(&wishes->lock);
    return rc;
}

bool cx_wishes_grant(struct cx_wishes *wishes, struct cx_wish *wish)
{
    bool is_stopped;

    pthread_mutex_lock(&wishes->lock);
    is_stopped = wishes->is_stopped;
    if (!is_stopped) {
        wish->state = GRANTED;
        pthread_cond_signal(&wishes->granted);
    }
    pthread_mutex_unlock(&wishes->lock);
    return !is_stopped;
}

void cx_wishes_end(struct cx_wishes *wishes, struct cx_wish *wish)
{
    struct cx_wish **place = &wishes->first;

    pthread_mutex_lock(&wishes->lock);
    while (*place != wish)
        place = &(*place)->next;
    *place = wish->next;
    wishes->waiting -= wish->is_waiting;
    pthread_mutex_unlock(&wishes->lock);
    free(wish);
}

/* Returns what is due first of those that wait, or of those that were granted. */
static struct cx_wish *first_in(const struct cx_wishes *wishes, int state)
{
    struct cx_wish *found = NULL;

    for (struct cx_wish *wish = wishes->first; wish != NULL; wish = wish->next)
        if (wish->state == state && (found == NULL || wish->due_s < found->due_s))
            found = wish;
    return found;
}

static void wait_until(struct cx_wishes *wishes, pthread_cond_t *changed, double due_s)
{
    struct timespec due = {.tv_sec = (time_t)due_s};

    due.tv_nsec = (long)((due_s - (double)due.tv_sec) * 1e9);
    pthread_cond_timedwait(changed, &wishes->lock, &due);
}

/* Waits until something is due, and takes it; NULL at the end. */
static struct cx_wish *take_due(struct cx_wishes *wishes, int state, pthread_cond_t *changed)
{
    struct cx_wish *due = NULL;

    pthread_mutex_lock(&wishes->lock);
    while (!wishes->is_stopped) {
        due = first_in(wishes, state);
        if (due == NULL) {
            pthread_cond_wait(changed, &wishes->lock);
        } else if (due->due_s > cx_now_s()) {
            wait_until(wishes, changed, due->due_s);
        } else {
            due->state = ASKED;
            break;
        }
        due = NULL;
    }
    pthread_mutex_unlock(&wishes->lock);
    return due;
}

struct cx_wish *cx_wishes_due(struct cx_wishes *wishes)
{
    return take_due(wishes, WAITS, &wishes->waits);
}

struct cx_wish *cx_wishes_granted(struct cx_wishes *wishes)
{
    return take_due(wishes, GRANTED, &wishes->granted);
}

struct cx_wish *cx_wishes_interrupt(struct cx_wishes *wishes, uint64_t unique)
{
    struct cx_wish *wish;

    pthread_mutex_lock(&wishes->lock);
    wish = wishes->first;
    while (wish != NULL && wish->unique != unique)
        wish = wish->next;
    if (wish == NULL) {
        wishes->early[wishes->next_early] = unique;
        wishes->next_early = (wishes->next_early + 1) % EARLY;
    } else if (wish->state == WAITS) {
        wish->state = ASKED;
    } else {
        wish->is_interrupted = true;
        wish = NULL;
    }
    pthread_mutex_unlock(&wishes->lock);
    return wish;
}

static bool waits_for(const struct cx_wish *wish, uint64_t id)
{
    return wish->id == id && wish->state == WAITS;
}

void cx_wishes_wake(struct cx_wishes *wishes, uint64_t id)
{
    size_t count = 0;

    pthread_mutex_lock(&wishes->lock);
    for (struct cx_wish *wish = wishes->first; wish != NULL; wish = wish->next)
        count += waits_for(wish, id);
    for (struct cx_wish *wish = wishes->first; wish != NULL && count > 0; wish = wish->next) {
        if (!waits_for(wish, id) || count-- > WOKEN)
            continue;
        wish->due_s = 0;
        wish->pause_s = PAUSE_FIRST_S;
        pthread_cond_signal(&wishes->waits);
    }
    pthread_mutex_unlock(&wishes->lock);
}

void cx_wishes_stop(struct cx_wishes *wishes)
{
    pthread_mutex_lock(&wishes->lock);
    wishes->is_stopped = true;
    pthread_cond_broadcast(&wishes->waits);
    pthread_cond_broadcast(&wishes->granted);
    pthread_mutex_unlock(&wishes->lock);
}

struct cx_wish *cx_wishes_any(struct cx_wishes *wishes)
{
    struct cx_wish *wish;

    pthread_mutex_lock(&wishes->lock);
    wish = wishes->first;
    while (wish != NULL && wish->state == ASKED)
        wish = wish->next;
    if (wish != NULL)
        wish->state = ASKED;
    pthread_mutex_unlock(&wishes->lock);
    return wish;
}

size_t cx_wishes_waiting(struct cx_wishes *wishes)
{
    size_t waiting;

    pthread_mutex_lock(&wishes->lock);
    waiting = wishes->waiting;
    pthread_mutex_unlock(&wishes->lock);
    return waiting;
}

uint64_t cx_wishes_refused(struct cx_wishes *wishes)
{
    uint64_t refused;

    pthread_mutex_lock(&wishes->lock);
    refused = wishes->refused;
    pthread_mutex_unlock(&wishes->lock);
    return refused;
}
