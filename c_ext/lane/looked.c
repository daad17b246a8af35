#include "looked.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

#include "hash.h"

#define PLACES 256u

struct place {
    uint64_t parent;
    size_t length; /* 0 if nothing is here */
    char name[CX_NAME_MAX];
    struct cx_attr attr;
};

struct cx_looked {
    pthread_mutex_t lock;
    uint64_t salt;
    struct place places[PLACES]; /* each name has one, which it may share with others */
};

struct cx_looked *cx_looked_new(void)
{
    struct cx_looked *looked = calloc(1, sizeof(*looked));

    if (looked != NULL && pthread_mutex_init(&looked->lock, NULL) != 0) {
        free(looked);
        return NULL;
    }
    if (looked != NULL)
        looked->salt = cx_hash_salt();
    return looked;
}

void cx_looked_free(struct cx_looked *looked)
{
    if (looked == NULL)
        return;
    pthread_mutex_destroy(&looked->lock);
    free(looked);
}

static struct place *place_of(struct cx_looked *looked, struct cx_name at)
{
    return &looked->places[cx_hash_name(looked->salt, at.parent, at.name, at.length) % PLACES];
}

void cx_looked_put(struct cx_looked *looked, struct cx_name at, const struct cx_attr *attr)
{
    struct place *place = place_of(looked, at);

    pthread_mutex_lock(&looked->lock);
    place->parent = at.parent;
    place->length = at.length;
    memcpy(place->name, at.name, at.length);
    place->attr = *attr;
    pthread_mutex_unlock(&looked->lock);
}

bool cx_looked_take(struct cx_looked *looked, struct cx_name at, struct cx_attr *attr)
{
    struct place *place = place_of(looked, at);
    bool is_it;

    pthread_mutex_lock(&looked->lock);
    is_it = at.length > 0 && place->parent == at.parent && place->length == at.length &&
            memcmp(place->name, at.name, at.length) == 0;
    if (is_it) {
        *attr = place->attr;
        place->length = 0;
    }
    pthread_mutex_unlock(&looked->lock);
    return is_it;
}
