#include "allowed.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "hash.h"

#define PLACES 4096u

struct cx_allowed {
    pthread_mutex_t lock;
    struct {
        uint64_t directory;
        double until_s; /* CLOCK_MONOTONIC */
    } places[PLACES];   /* each directory has one, which it may share with others */
};

struct cx_allowed *cx_allowed_new(void)
{
    struct cx_allowed *allowed = calloc(1, sizeof(*allowed));

    if (allowed != NULL && pthread_mutex_init(&allowed->lock, NULL) != 0) {
        free(allowed);
        return NULL;
    }
    return allowed;
}

void cx_allowed_free(struct cx_allowed *allowed)
{
    if (allowed == NULL)
        return;
    pthread_mutex_destroy(&allowed->lock);
    free(allowed);
}

void cx_allowed_add(struct cx_allowed *allowed, uint64_t directory, double seconds)
{
    size_t place = cx_hash_number(directory) % PLACES;

    pthread_mutex_lock(&allowed->lock);
    allowed->places[place].directory = directory;
    allowed->places[place].until_s = cx_now_s() + seconds;
    pthread_mutex_unlock(&allowed->lock);
}

void cx_allowed_clear(struct cx_allowed *allowed)
{
    pthread_mutex_lock(&allowed->lock);
    memset(allowed->places, 0, sizeof(allowed->places));
    pthread_mutex_unlock(&allowed->lock);
}

bool cx_allowed_has(struct cx_allowed *allowed, uint64_t directory)
{
    size_t place = cx_hash_number(directory) % PLACES;
    double now = cx_now_s();
    bool has;

    pthread_mutex_lock(&allowed->lock);
    has = allowed->places[place].directory == directory && now < allowed->places[place].until_s;
    pthread_mutex_unlock(&allowed->lock);
    return has;
}
