#include "hidden.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "hash.h"

#define BUCKETS 4096u

struct entry {
    struct entry *next;
    uint64_t parent;
    size_t length;
    char name[];
};

struct cx_hidden {
    pthread_mutex_t lock;
    uint64_t salt;
    atomic_size_t count; /* read without the lock: almost always 0 */
    struct entry *buckets[BUCKETS];
};

static struct entry **find(struct cx_hidden *hidden, struct cx_name at)
{
    uint64_t hash = cx_hash_name(hidden->salt, at.parent, at.name, at.length);
    struct entry **entry = &hidden->buckets[hash % BUCKETS];

    while (*entry != NULL && !((*entry)->parent == at.parent && (*entry)->length == at.length &&
                               memcmp((*entry)->name, at.name, at.length) == 0))
        entry = &(*entry)->next;
    return entry;
}

struct cx_hidden *cx_hidden_new(void)
{
    struct cx_hidden *hidden = calloc(1, sizeof(*hidden));

    if (hidden != NULL && pthread_mutex_init(&hidden->lock, NULL) != 0) {
        free(hidden);
        return NULL;
    }
    if (hidden != NULL)
        hidden->salt = cx_hash_salt();
    return hidden;
}

void cx_hidden_free(struct cx_hidden *hidden)
{
    if (hidden == NULL)
        return;
    for (size_t i = 0; i < BUCKETS; i++) {
        while (hidden->buckets[i] != NULL) {
            struct entry *next = hidden->buckets[i]->next;
            free(hidden->buckets[i]);
            hidden->buckets[i] = next;
        }
    }
    pthread_mutex_destroy(&hidden->lock);
    free(hidden);
}

bool cx_hidden_add(struct cx_hidden *hidden, struct cx_name at)
{
    struct entry *fresh = malloc(sizeof(*fresh) + at.length), **place;

    if (fresh == NULL)
        return false;
    fresh->next = NULL;
    fresh->parent = at.parent;
    fresh->length = at.length;
    memcpy(fresh->name, at.name, at.length);
    pthread_mutex_lock(&hidden->lock);
    place = find(hidden, at);
    if (*place == NULL) {
        *place = fresh;
        fresh = NULL;
        atomic_fetch_add(&hidden->count, 1);
    }
    pthread_mutex_unlock(&hidden->lock);
    free(fresh);
    return true;
}

void cx_hidden_remove(struct cx_hidden *hidden, struct cx_name at)
{
    struct entry **place, *gone;

    pthread_mutex_lock(&hidden->lock);
    place = find(hidden, at);
    gone = *place;
    if (gone != NULL) {
        *place = gone->next;
        atomic_fetch_sub(&hidden->count, 1);
    }
    pthread_mutex_unlock(&hidden->lock);
    free(gone);
}

bool cx_hidden_has(struct cx_hidden *hidden, struct cx_name at)
{
    bool has;

    if (atomic_load(&hidden->count) == 0)
        return false;
    pthread_mutex_lock(&hidden->lock);
    has = *find(hidden, at) != NULL;
    pthread_mutex_unlock(&hidden->lock);
    return has;
}
