#include "files.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>

#include "hash.h"

#define BUCKETS 4096u

struct entry {
    struct entry *next;
    uint64_t number;
    struct cx_file file; /* raw is NULL if Python has to be asked */
    unsigned calls;
    bool is_ours; /* opened by the lane, and not taken over */
    struct cx_opened opened;
};

struct cx_files {
    pthread_mutex_t lock;
    uint64_t generation;
    uint64_t count; /* of what the lane has opened */
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

    if (entry->file.raw == NULL && entry->calls == 0 && !entry->is_ours) {
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
    files->generation++;
    pthread_mutex_unlock(&files->lock);
}

uint64_t cx_files_generation(struct cx_files *files)
{
    uint64_t generation;

    pthread_mutex_lock(&files->lock);
    generation = files->generation;
    pthread_mutex_unlock(&files->lock);
    return generation;
}

uint64_t cx_files_open(struct cx_files *files, struct cx_opened opened, uint64_t generation)
{
    struct entry *entry = calloc(1, sizeof(*entry)), **head;
    uint64_t number = 0;

    if (entry == NULL)
        return 0;
    pthread_mutex_lock(&files->lock);
    number = ++files->count << 1 | CX_OPEN_HERE;
    *entry = (struct entry){.number = number, .is_ours = true, .opened = opened};
    if (generation == files->generation)
        entry->file = (struct cx_file){opened.raw, (opened.flags & O_APPEND) != 0};
    head = &files->buckets[cx_hash_number(number) % BUCKETS];
    entry->next = *head;
    *head = entry;
    pthread_mutex_unlock(&files->lock);
    return number;
}

/* Says how something of the lane's was opened. */
static bool describe(const struct entry *entry, struct cx_opened *opened)
{
    if (entry == NULL || !entry->is_ours)
        return false;
    *opened = entry->opened;
    opened->is_current = entry->file.raw != NULL;
    return true;
}

bool cx_files_look(struct cx_files *files, uint64_t number, struct cx_opened *opened)
{
    bool is_ours;

    pthread_mutex_lock(&files->lock);
    is_ours = describe(*find(files, number), opened);
    pthread_mutex_unlock(&files->lock);
    return is_ours;
}

bool cx_files_take(struct cx_files *files, uint64_t number, struct cx_opened *opened)
{
    struct entry **place;
    bool is_ours;

    pthread_mutex_lock(&files->lock);
    place = find(files, number);
    is_ours = describe(*place, opened);
    if (is_ours) {
        (*place)->is_ours = false;
        tidy(place);
    }
    pthread_mutex_unlock(&files->lock);
    return is_ours;
}

/* Takes an entry out; it is the caller's. */
static bool close_at(struct entry **place, struct cx_opened *opened)
{
    if (!describe(*place, opened))
        return false;
    (*place)->is_ours = false;
    (*place)->file.raw = NULL;
    tidy(place);
    return true;
}

bool cx_files_close(struct cx_files *files, uint64_t number, struct cx_opened *opened)
{
    bool is_ours;

    pthread_mutex_lock(&files->lock);
    is_ours = close_at(find(files, number), opened);
    pthread_mutex_unlock(&files->lock);
    return is_ours;
}

bool cx_files_close_any(struct cx_files *files, struct cx_opened *opened)
{
    bool is_ours = false;

    pthread_mutex_lock(&files->lock);
    for (size_t i = 0; i < BUCKETS && !is_ours; i++) {
        struct entry **place = &files->buckets[i];
        while (*place != NULL && !(*place)->is_ours)
            place = &(*place)->next;
        is_ours = close_at(place, opened);
    }
    pthread_mutex_unlock(&files->lock);
    return is_ours;
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
