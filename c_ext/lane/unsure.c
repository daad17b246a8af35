#include "unsure.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "clock.h"
#include "hash.h"

#define BUCKETS 256u

struct place {
    struct place *next;
    uint64_t directory;
    unsigned locks;
    double since_s;
    double ended_s; /* if it has no locks */
};

struct cx_unsure {
    pthread_mutex_t lock;
    double lasts_s;
    atomic_size_t count;
    struct place *buckets[BUCKETS];
};

struct cx_unsure *cx_unsure_new(double lasts_s)
{
    struct cx_unsure *unsure = calloc(1, sizeof(*unsure));

    if (unsure == NULL)
        return NULL;
    unsure->lasts_s = lasts_s;
    pthread_mutex_init(&unsure->lock, NULL);
    return unsure;
}

void cx_unsure_free(struct cx_unsure *unsure)
{
    if (unsure == NULL)
        return;
    for (size_t i = 0; i < BUCKETS; i++) {
        while (unsure->buckets[i] != NULL) {
            struct place *next = unsure->buckets[i]->next;
            free(unsure->buckets[i]);
            unsure->buckets[i] = next;
        }
    }
    pthread_mutex_destroy(&unsure->lock);
    free(unsure);
}

/* Takes those of a bucket away whose time is over. */
static void tidy(struct cx_unsure *unsure, struct place **place)
{
    double oldest_s = cx_now_s() - unsure->lasts_s;

    while (*place != NULL) {
        struct place *found = *place;
        if (found->locks > 0 || found->ended_s > oldest_s) {
            place = &found->next;
            continue;
        }
        *place = found->next;
        free(found);
        atomic_fetch_sub(&unsure->count, 1);
    }
}

static struct place *find(struct cx_unsure *unsure, uint64_t directory)
{
    struct place **bucket = &unsure->buckets[cx_hash_number(directory) % BUCKETS], *place;

    tidy(unsure, bucket);
    place = *bucket;
    while (place != NULL && place->directory != directory)
        place = place->next;
    return place;
}

static struct place *add(struct cx_unsure *unsure, uint64_t directory)
{
    struct place **bucket = &unsure->buckets[cx_hash_number(directory) % BUCKETS];
    struct place *place = malloc(sizeof(*place));

    if (place == NULL)
        return NULL;
    *place = (struct place){.next = *bucket, .directory = directory, .since_s = cx_now_s()};
    *bucket = place;
    atomic_fetch_add(&unsure->count, 1);
    return place;
}

bool cx_unsure_begin(struct cx_unsure *unsure, uint64_t directory)
{
    struct place *place;

    pthread_mutex_lock(&unsure->lock);
    place = find(unsure, directory);
    if (place == NULL)
        place = add(unsure, directory);
    if (place != NULL)
        place->locks++;
    pthread_mutex_unlock(&unsure->lock);
    return place != NULL;
}

void cx_unsure_end(struct cx_unsure *unsure, uint64_t directory)
{
    struct place *place;

    pthread_mutex_lock(&unsure->lock);
    place = find(unsure, directory);
    if (place != NULL && place->locks > 0 && --place->locks == 0)
        place->ended_s = cx_now_s();
    pthread_mutex_unlock(&unsure->lock);
}

double cx_unsure_since(struct cx_unsure *unsure, uint64_t directory)
{
    const struct place *place;
    double since_s;

    pthread_mutex_lock(&unsure->lock);
    place = find(unsure, directory);
    since_s = place == NULL ? cx_now_s() : place->since_s;
    pthread_mutex_unlock(&unsure->lock);
    return since_s;
}

bool cx_unsure_has(struct cx_unsure *unsure, uint64_t directory)
{
    bool has;

    if (!cx_unsure_any(unsure))
        return false;
    pthread_mutex_lock(&unsure->lock);
    has = find(unsure, directory) != NULL;
    pthread_mutex_unlock(&unsure->lock);
    return has;
}

bool cx_unsure_any(struct cx_unsure *unsure)
{
    return unsure->count != 0;
}
