/* Listings without attributes of directories that Python has open: it knows only the other kind.

   Python is asked for that; what it answers is made plain on its way to the kernel. The lookups
   that it has counted are taken back later, since to tell Python of one may take a while, and who
   carries its answers must not wait for it. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inside.h"

/* A listing that Python has been asked for with attributes. */
struct plain {
    struct plain *next;
    uint64_t unique;
};

/* A lookup that is to be taken back. */
struct owed {
    struct owed *next;
    uint64_t id;
};

enum outcome cx_ask_for_plain(struct request *request)
{
    struct cx_lane *lane = request->lane;
    struct plain *plain = malloc(sizeof(*plain));

    if (plain == NULL) {
        cx_reply(request, -ENOMEM, NULL, 0);
        return ANSWERED;
    }
    plain->unique = request->in->unique;
    pthread_mutex_lock(&lane->lock);
    plain->next = lane->plain;
    lane->plain = plain;
    pthread_mutex_unlock(&lane->lock);
    atomic_fetch_add(&lane->plain_count, 1);
    request->in->opcode = FUSE_READDIRPLUS;
    return PASSED;
}

/* Tells whether an answer is to be a plain listing, once. */
static bool take_plain(struct cx_lane *lane, uint64_t unique)
{
    struct plain **place = &lane->plain, *found;

    pthread_mutex_lock(&lane->lock);
    while (*place != NULL && (*place)->unique != unique)
        place = &(*place)->next;
    found = *place;
    if (found != NULL)
        *place = found->next;
    pthread_mutex_unlock(&lane->lock);
    if (found == NULL)
        return false;
    atomic_fetch_sub(&lane->plain_count, 1);
    free(found);
    return true;
}

/* Notes a lookup that is to be taken back; without memory the kernel's inode stays known. */
static void owe(struct cx_lane *lane, uint64_t id)
{
    struct owed *owed = id == 0 ? NULL : malloc(sizeof(*owed));

    if (owed == NULL)
        return;
    owed->id = id;
    pthread_mutex_lock(&lane->lock);
    owed->next = lane->owed;
    lane->owed = owed;
    pthread_mutex_unlock(&lane->lock);
    atomic_fetch_add(&lane->owed_count, 1);
}

void cx_pay(struct cx_lane *lane)
{
    struct owed *owed;

    if (lane->owed_count == 0)
        return;
    pthread_mutex_lock(&lane->lock);
    owed = lane->owed;
    lane->owed = NULL;
    pthread_mutex_unlock(&lane->lock);
    while (owed != NULL) {
        struct owed *next = owed->next;
        cx_forget(lane, owed->id, 1);
        atomic_fetch_sub(&lane->owed_count, 1);
        free(owed);
        owed = next;
    }
}

size_t cx_make_plain(struct cx_lane *lane, char *message, size_t size)
{
    struct fuse_out_header *out = (void *)message;
    char *to = message + sizeof(*out);
    size_t at = sizeof(*out);

    if (!take_plain(lane, out->unique) || out->error != 0)
        return size;
    while (size - at >= FUSE_NAME_OFFSET_DIRENTPLUS) {
        const struct fuse_direntplus *plus = (const void *)(message + at);
        size_t length = FUSE_DIRENTPLUS_SIZE(plus), kept;
        if (length > size - at)
            break;
        kept = FUSE_DIRENT_SIZE(&plus->dirent);
        owe(lane, plus->entry_out.nodeid);
        memmove(to, &plus->dirent, kept);
        to += kept;
        at += length;
    }
    out->len = (uint32_t)(to - message);
    return out->len;
}

void cx_drop_plain(struct cx_lane *lane)
{
    while (lane->plain != NULL) {
        struct plain *plain = lane->plain;
        lane->plain = plain->next;
        free(plain);
    }
    while (lane->owed != NULL) {
        struct owed *owed = lane->owed;
        lane->owed = owed->next;
        free(owed);
    }
}
