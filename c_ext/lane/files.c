#include "files.h"

#include <pthread.h>
#include <stdlib.h>

#include "hash.h"

#define BUCKETS 4096u

struct entry {
    struct entry *next;
    uint64_t number;
    struct cx_file file; /* raw is NULL if nothing is behind the number */
    unsigned calls;
};

struct cx_files {
    pthread_mutex_t lock;
    struct entry *buckets[BUCKETS];
};

static struct entry **find(struct cx_files *files, uint64_t number)
{
    struct entry **entry = &files->buckets[cx_hash_number(number) % BUCKETS];

    while (*entry != NULL && (*entry)->number != number)
        entry = &(*entry)->next;
    return entry;
}

/* Takes an entry away that nobody needs. */
static void tidy(struct entry **place)
{
    struct entry *entry = *place;

    if (entry->file.raw == NULL && entry->calls == 0) {
        *place = entry->next;
        free(entry);
    }
}

struct cx_files *cx_files_new(void)
{
    struct cx_files *files = calloc(1, sizeof(*files));

    if (files != NULL && pthread_mutex_init(&files->lock, NULL) != 0) {
        free(files);
        return NULL;
    }
    return files;
}

void cx_files_free(struct cx_files *files)
{
    if (files == NULL)
        return;
    for (size_t i = 0; i < BUCKETS; i++) {
        while (files->buckets[i] != NULL) {
            struct entry *next = files->buckets[i]->next;
            free(files->buckets[i]);
            files->buckets[i] = next;
        }
    }
    pthread_mutex_destroy(&files->lock);
    free(files);
}

bool cx_files_set(struct cx_files *files, uint64_t number, struct cx_file file)
{
    struct entry **place, *entry;

    pthread_mutex_lock(&files->lock);
    place = find(files, number);
    if (*place == NULL)
        *place = calloc(1, sizeof(**place));
    entry = *place;
    if (entry != NULL) {
        entry->number = number;
        entry->file = file;
    }
    pthread_mutex_unlock(&files->lock);
    return entry != NULL;
}

void cx_files_drop(struct cx_files *files, uint64_t number)
{
    struct entry **place;

    pthread_mutex_lock(&files->lock);
    place = find(files, number);
    if (*place != NULL) {
        (*place)->file.raw = NULL;
        tidy(place);
    }
    pthread_mutex_unlock(&files->lock);
}

void cx_files_drop_all(struct cx_files *files)
{
    pthread_mutex_lock(&files->lock);
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct entry *entry = files->buckets[i]; entry != NULL; entry = entry->next)
            entry->file.raw = NULL;
    pthread_mutex_unlock(&files->lock);
}

bool cx_files_begin(struct cx_files *files, uint64_t number, struct cx_file *file)
{
    struct entry *entry;
    bool begun = false;

    pthread_mutex_lock(&files->lock);
    entry = *find(files, number);
    if (entry != NULL && entry->file.raw != NULL) {
        *file = entry->file;
        entry->calls++;
        begun = true;
    }
    pthread_mutex_unlock(&files->lock);
    return begun;
}

void cx_files_end(struct cx_files *files, uint64_t number)
{
    struct entry **place;

    pthread_mutex_lock(&files->lock);
    place = find(files, number);
    (*place)->calls--;
    tidy(place);
    pthread_mutex_unlock(&files->lock);
}

bool cx_files_is_idle(struct cx_files *files, uint64_t number)
{
    struct entry *entry;
    bool is_idle;

    pthread_mutex_lock(&files->lock);
    entry = *find(files, number);
    is_idle = entry == NULL || entry->calls == 0;
    pthread_mutex_unlock(&files->lock);
    return is_idle;
}
