#include "names.h"

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

struct cx_names {
    pthread_mutex_t lock;
    uint64_t salt;
    atomic_size_t count; /* read without the lock: almost always 0 */
    struct entry *buckets[BUCKETS];
};

static struct entry **find(struct cx_names *names, struct cx_name at)
{
    uint64_t hash = cx_hash_name(names->salt, at.parent, at.name, at.length);
    struct entry **entry = &names->buckets[hash % BUCKETS];

    while (*entry != NULL && !((*entry)->parent == at.parent && (*entry)->length == at.length &&
                               memcmp((*entry)->name, at.name, at.length) == 0))
        entry = &(*entry)->next;
    return entry;
}

struct cx_names *cx_names_new(void)
{
    struct cx_names *names = calloc(1, sizeof(*names));

    if (names != NULL && pthread_mutex_init(&names->lock, NULL) != 0) {
        free(names);
        return NULL;
    }
    if (names != NULL)
        names->salt = cx_hash_salt();
    return names;
}

void cx_names_free(struct cx_names *names)
{
    if (names == NULL)
        return;
    for (size_t i = 0; i < BUCKETS; i++) {
        while (names->buckets[i] != NULL) {
            struct entry *next = names->buckets[i]->next;
            free(names->buckets[i]);
            names->buckets[i] = next;
        }
    }
    pthread_mutex_destroy(&names->lock);
    free(names);
}

/* Adds a name; false without memory, and then nothing is said of whether it was there. */
static bool add(struct cx_names *names, struct cx_name at, bool *was_there)
{
    struct entry *fresh = malloc(sizeof(*fresh) + at.length), **place;

    if (fresh == NULL)
        return false;
    fresh->next = NULL;
    fresh->parent = at.parent;
    fresh->length = at.length;
    memcpy(fresh->name, at.name, at.length);
    pthread_mutex_lock(&names->lock);
    place = find(names, at);
    *was_there = *place != NULL;
    if (!*was_there) {
        *place = fresh;
        fresh = NULL;
        atomic_fetch_add(&names->count, 1);
    }
    pthread_mutex_unlock(&names->lock);
    free(fresh);
    return true;
}

bool cx_names_add(struct cx_names *names, struct cx_name at)
{
    bool was_there;

    return add(names, at, &was_there);
}

bool cx_names_take(struct cx_names *names, struct cx_name at)
{
    bool was_there;

    return add(names, at, &was_there) && !was_there;
}

void cx_names_remove(struct cx_names *names, struct cx_name at)
{
    struct entry **place, *gone;

    pthread_mutex_lock(&names->lock);
    place = find(names, at);
    gone = *place;
    if (gone != NULL) {
        *place = gone->next;
        atomic_fetch_sub(&names->count, 1);
    }
    pthread_mutex_unlock(&names->lock);
    free(gone);
}

bool cx_names_has(struct cx_names *names, struct cx_name at)
{
    bool has;

    if (atomic_load(&names->count) == 0)
        return false;
    pthread_mutex_lock(&names->lock);
    has = *find(names, at) != NULL;
    pthread_mutex_unlock(&names->lock);
    return has;
}
