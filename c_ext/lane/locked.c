#include "locked.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>

#include "hash.h"

#define BUCKETS 1024u

struct cx_all_locked {
    pthread_mutex_t lock;
    pthread_cond_t left; /* somebody has given a file back */
    struct cx_locked *buckets[BUCKETS];
};

/* the table */

struct cx_all_locked *cx_all_locked_new(void)
{
    struct cx_all_locked *all = calloc(1, sizeof(*all));

    if (all == NULL)
        return NULL;
    pthread_mutex_init(&all->lock, NULL);
    pthread_cond_init(&all->left, NULL);
    return all;
}

void cx_all_locked_free(struct cx_all_locked *all)
{
    if (all == NULL)
        return;
    pthread_cond_destroy(&all->left);
    pthread_mutex_destroy(&all->lock);
    free(all);
}

static struct cx_locked **find(struct cx_all_locked *all, uint64_t id)
{
    struct cx_locked **place = &all->buckets[cx_hash_number(id) % BUCKETS];

    while (*place != NULL && (*place)->id != id)
        place = &(*place)->next;
    return place;
}

struct cx_locked *cx_locked_enter(struct cx_all_locked *all, uint64_t id, bool makes)
{
    struct cx_locked **place, *locked;

    pthread_mutex_lock(&all->lock);
    place = find(all, id);
    if (*place == NULL && makes) {
        *place = calloc(1, sizeof(**place));
        if (*place != NULL)
            (*place)->id = id;
    }
    locked = *place;
    if (locked != NULL) {
        locked->users++;
        while (locked->is_taken)
            pthread_cond_wait(&all->left, &all->lock);
        locked->is_taken = true;
    }
    pthread_mutex_unlock(&all->lock);
    return locked;
}

struct cx_locked *cx_locked_any(struct cx_all_locked *all)
{
    struct cx_locked *locked = NULL;

    pthread_mutex_lock(&all->lock);
    for (size_t i = 0; i < BUCKETS && locked == NULL; i++)
        locked = all->buckets[i];
    if (locked != NULL) {
        locked->users++;
        locked->is_taken = true;
    }
    pthread_mutex_unlock(&all->lock);
    return locked;
}

void cx_locked_leave(struct cx_all_locked *all, struct cx_locked *locked)
{
    pthread_mutex_lock(&all->lock);
    locked->users--;
    locked->is_taken = false;
    if (locked->users == 0 && locked->raw == NULL && locked->holders == NULL) {
        *find(all, locked->id) = locked->next;
        free(locked);
    }
    pthread_cond_broadcast(&all->left);
    pthread_mutex_unlock(&all->lock);
}

/* holders */

bool cx_locked_add(struct cx_locked *locked, struct cx_holder holder)
{
    struct cx_holder *own = locked->holders;

    while (own != NULL && (own->owner != holder.owner || own->fh != holder.fh))
        own = own->next;
    if (own == NULL) {
        own = malloc(sizeof(*own));
        if (own == NULL)
            return false;
        *own = holder;
        own->next = locked->holders;
        locked->holders = own;
    }
    own->start = holder.start < own->start ? holder.start : own->start;
    own->end = holder.end > own->end ? holder.end : own->end;
    own->pid = holder.pid;
    return true;
}

/* Takes holders of an owner out whose ranges lie within one; true if something of them was lost. */
static bool take_out(struct cx_locked *locked, uint64_t owner, uint64_t start, uint64_t end)
{
    struct cx_holder **place = &locked->holders;
    bool is_lost = false;

    while (*place != NULL) {
        struct cx_holder *holder = *place;
        if (holder->owner != owner || holder->start < start || holder->end > end) {
            place = &holder->next;
            continue;
        }
        *place = holder->next;
        is_lost |= holder->is_lost;
        free(holder);
    }
    return is_lost;
}

void cx_locked_cut(struct cx_locked *locked, uint64_t owner, uint64_t start, uint64_t end)
{
    (void)take_out(locked, owner, start, end);
}

bool cx_locked_drop(struct cx_locked *locked, uint64_t owner)
{
    return take_out(locked, owner, 0, UINT64_MAX);
}

void cx_locked_lose(struct cx_locked *locked)
{
    for (struct cx_holder *holder = locked->holders; holder != NULL; holder = holder->next)
        holder->is_lost = true;
}

struct cx_holder *cx_locked_by_owner(const struct cx_locked *locked, uint64_t owner)
{
    struct cx_holder *holder = locked->holders;

    while (holder != NULL && holder->owner != owner)
        holder = holder->next;
    return holder;
}

struct cx_holder *cx_locked_by_fh(const struct cx_locked *locked, uint64_t fh)
{
    struct cx_holder *holder = locked->holders;

    while (holder != NULL && holder->fh != fh)
        holder = holder->next;
    return holder;
}

struct cx_holder *cx_locked_by_pid(const struct cx_locked *locked, uint32_t pid)
{
    struct cx_holder *holder = locked->holders;

    while (holder != NULL && holder->pid != pid)
        holder = holder->next;
    return holder;
}
