/* Open directories, and what is read of them. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "inside.h"

/* Positions in a listing behind `.` and `..`, which no storage uses. */
#define BEHIND_DOT ((UINT64_C(1) << 62) + 1)
#define BEHIND_DOTDOT ((UINT64_C(1) << 62) + 2)

/* A directory that is open here. The kernel serialises what reads it. */
struct directory {
    struct directory *next; /* in its bucket, with the lane's lock */
    uint64_t number;        /* what the kernel has for it, without CX_OPEN_HERE */
    struct cx_dir *raw;
    uint64_t id;
    uint64_t changes; /* of names, when it was opened */
    uint64_t cookie;  /* where the storage stands */
    bool is_ahead;    /* what follows was read, and there was no room for it */
    struct dirent entry;
    struct cx_ref *inode; /* of the entry; NULL if it was read without attributes */
};

/* the table of open directories */

/* Returns where a directory stands in its bucket: NULL behind the last. */
static struct directory **find_directory(struct cx_lane *lane, uint64_t number)
{
    struct directory **place = &lane->directories[number % DIRECTORY_BUCKETS];

    while (*place != NULL && (*place)->number != number)
        place = &(*place)->next;
    return place;
}

/* Returns the directory that the kernel has a number for; NULL if none is open here. */
static struct directory *directory_of(struct cx_lane *lane, uint64_t fh)
{
    struct directory *directory;

    if (!(fh & CX_OPEN_HERE))
        return NULL;
    pthread_mutex_lock(&lane->lock);
    directory = *find_directory(lane, fh & ~CX_OPEN_HERE);
    pthread_mutex_unlock(&lane->lock);
    return directory;
}

/* Gives a directory a number; returns what the kernel is told. */
static uint64_t link_directory(struct cx_lane *lane, struct directory *directory)
{
    struct directory **place;

    pthread_mutex_lock(&lane->lock);
    directory->number = ++lane->directory_count << 1 | 1;
    place = &lane->directories[directory->number % DIRECTORY_BUCKETS];
    directory->next = *place;
    *place = directory;
    pthread_mutex_unlock(&lane->lock);
    atomic_fetch_add(&lane->open_count, 1);
    return directory->number | CX_OPEN_HERE;
}

/* Gives back the inode of the entry that was read, if that was read with attributes. */
static void put_inode(struct cx_lane *lane, struct directory *directory)
{
    if (directory->inode != NULL)
        cx_store_put(lane->store, directory->inode);
    directory->inode = NULL;
}

static void drop_ahead(struct cx_lane *lane, struct directory *directory)
{
    put_inode(lane, directory);
    directory->is_ahead = false;
}

static void close_directory(struct cx_lane *lane, struct directory *directory)
{
    drop_ahead(lane, directory);
    cx_store_closedir(lane->store, directory->raw);
    free(directory);
}

/* Takes a directory out of the table, and closes it. */
static void unlink_directory(struct cx_lane *lane, struct directory *directory)
{
    pthread_mutex_lock(&lane->lock);
    *find_directory(lane, directory->number) = directory->next;
    pthread_mutex_unlock(&lane->lock);
    atomic_fetch_sub(&lane->open_count, 1);
    close_directory(lane, directory);
}

/* requests */

enum outcome cx_answer_opendir(struct request *request)
{
    struct cx_lane *lane = request->lane;
    struct directory *directory = NULL;
    struct fuse_open_out out = {0};
    struct cx_known known;
    struct cx_inode *inode;
    int rc = -ENOMEM;

    if (lane->passes_opendir)
        return PASSED;
    inode = cx_use(request, &known);
    if (inode == NULL)
        return PASSED;
    directory = calloc(1, sizeof(*directory));
    if (directory != NULL)
        rc = cx_store_opendir(lane->store, cx_inode_raw(inode), &directory->raw);
    cx_inode_release(lane->nodes, inode);
    if (rc < 0) {
        free(directory);
        return PASSED;
    }
    directory->id = request->in->nodeid;
    directory->changes = known.changes;
    out.fh = link_directory(lane, directory);
    if (cx_reply(request, 0, &out, sizeof(out)) != 0)
        unlink_directory(lane, directory); /* nobody will close it */
    return ANSWERED;
}

enum outcome cx_answer_releasedir(struct request *request)
{
    const struct fuse_release_in *argument = request->argument;
    struct directory *directory = NULL;

    if (request->size >= sizeof(*argument))
        directory = directory_of(request->lane, argument->fh);
    if (directory == NULL)
        return PASSED;
    unlink_directory(request->lane, directory);
    cx_reply(request, 0, NULL, 0);
    return ANSWERED;
}

void cx_close_directories(struct cx_lane *lane)
{
    for (uint32_t i = 0; i < DIRECTORY_BUCKETS; i++) {
        while (lane->directories[i] != NULL) {
            struct directory *directory = lane->directories[i];
            lane->directories[i] = directory->next;
            close_directory(lane, directory);
        }
    }
}

/* Has Python make the names of a directory durable, of which it gets the id: deletes may be
   pending there. */
enum outcome cx_answer_fsyncdir(struct request *request)
{
    struct fuse_fsync_in *argument = request->argument;

    if (request->size >= sizeof(*argument) && argument->fh & CX_OPEN_HERE)
        argument->fh = CX_OPEN_HERE | request->in->nodeid;
    return PASSED;
}

/* A reply under construction. */
struct page {
    char *data;
    size_t used;
    size_t size;
    bool is_plain; /* without attributes: READDIR */
};

static size_t size_in(const struct page *page, size_t length)
{
    return page->is_plain ? FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + length)
                          : FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + length);
}

static bool has_room(const struct page *page, size_t length)
{
    return page->size - page->used >= size_in(page, length);
}

/* Adds an entry; false if there is no room. */
static bool add_entry(struct page *page, const struct fuse_entry_out *entry, const char *name,
                      uint64_t ino, uint32_t type, uint64_t behind)
{
    size_t length = strlen(name);
    struct fuse_direntplus *plus = (void *)(page->data + page->used);
    struct fuse_dirent *dirent = page->is_plain ? (void *)plus : &plus->dirent;

    if (!has_room(page, length))
        return false;
    memset(plus, 0, size_in(page, length));
    if (!page->is_plain)
        plus->entry_out = *entry;
    dirent->ino = ino;
    dirent->off = behind;
    dirent->namelen = (uint32_t)length;
    dirent->type = type;
    memcpy(dirent->name, name, length);
    page->used += size_in(page, length);
    return true;
}

/* Reads the next entry into `directory`, and unless it is a plain listing its attributes: 1, 0 at
   the end, or -errno. */
static int next_entry(struct cx_lane *lane, struct directory *directory, bool is_plain,
                      struct cx_attr *attr)
{
    if (directory->is_ahead && is_plain) {
        drop_ahead(lane, directory);
        return 1;
    }
    if (directory->is_ahead) {
        directory->is_ahead = false;
        /* what was read is some time old by now */
        if (directory->inode != NULL &&
            cx_store_getattr(lane->store, directory->inode, attr) == 0)
            return 1;
        put_inode(lane, directory);
        cx_store_seekdir(lane->store, directory->raw, (int64_t)directory->cookie);
    }
    if (is_plain)
        return cx_store_readdir(lane->store, directory->raw, &directory->entry);
    return cx_store_readdirplus(lane->store, directory->raw, &directory->entry, &directory->inode,
                                attr);
}

/* Adds what was read to a page, and counts the lookup that the kernel makes of it. What only
   Python can answer for is a name without attributes. False if there is no room. */
static bool add_found(struct cx_lane *lane, struct directory *directory, struct page *page,
                      const struct cx_attr *attr, bool is_sure, uint64_t behind)
{
    const struct dirent *de = &directory->entry;
    struct cx_name at = {directory->id, de->d_name, strlen(de->d_name)};
    struct fuse_entry_out entry = {0};
    uint64_t ino;

    if (!has_room(page, at.length))
        return false;
    if (page->is_plain)
        return add_entry(page, &entry, de->d_name, de->d_ino, de->d_type, behind);
    ino = attr->ino;
    if (attr->is_live && cx_nodes_learn(lane->nodes, ino, directory->inode, at,
                                        S_ISDIR(attr->mode), attr->nlink) == CX_LEARNED) {
        directory->inode = NULL;
        cx_fill_entry(lane, &entry, ino, attr);
        if (!is_sure)
            entry.entry_valid = entry.entry_valid_nsec = 0;
    }
    put_inode(lane, directory);
    return add_entry(page, &entry, de->d_name, ino, (attr->mode & S_IFMT) >> 12, behind);
}

/* Takes the lookups of a page back that the kernel didn't get. */
static void forget_page(const struct request *request, const struct page *page)
{
    for (size_t at = 0; at < page->used && !page->is_plain;) {
        const struct fuse_direntplus *plus = (const void *)(page->data + at);
        if (plus->entry_out.nodeid != 0)
            cx_forget(request->lane, plus->entry_out.nodeid, 1);
        at += FUSE_DIRENTPLUS_SIZE(plus);
    }
}

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Tells whether a name is listed: not what is hidden, nor what was hidden when it was read, and has
   been removed since. `is_sure` says that no name has been changed since the directory was opened.
   Whether a name is hidden is asked first: who shows one has noted the change before. */
static bool is_listed(const struct request *request, const struct directory *directory,
                      struct cx_inode *inode, uint64_t ino, bool *is_sure)
{
    struct cx_lane *lane = request->lane;
    const char *name = directory->entry.d_name;
    struct cx_name at = {directory->id, name, strlen(name)};
    struct cx_attr attr;
    struct cx_ref *found;
    int rc;

    *is_sure = true;
    if (is_dots(name) || strcmp(name, TRASH) == 0 || cx_names_has(lane->hidden, at))
        return false;
    *is_sure = cx_nodes_changes(lane->nodes, directory->id) == directory->changes;
    if (*is_sure)
        return true;
    rc = cx_look_up(request, inode, ino, name, &found, &attr);
    if (rc == 0)
        cx_store_put(lane->store, found);
    return rc != -ENOENT;
}

/* Fills in entries of a directory, of which `inode` is the inode and `ino` its number. */
static int fill_page(const struct request *request, struct directory *directory, struct page *page,
                     struct cx_inode *inode, uint64_t ino)
{
    const struct fuse_read_in *argument = request->argument;
    struct cx_lane *lane = request->lane;
    uint64_t start = argument->offset;
    uint64_t cookie = start == BEHIND_DOT || start == BEHIND_DOTDOT ? 0 : start;
    struct cx_attr attr;
    int rc = 1;

    if (cookie == 0 || cookie != directory->cookie) {
        drop_ahead(lane, directory);
        cx_store_seekdir(lane->store, directory->raw, (int64_t)cookie);
        directory->cookie = cookie;
    }
    while ((rc = next_entry(lane, directory, page->is_plain, &attr)) > 0) {
        uint64_t behind = (uint64_t)cx_store_telldir(lane->store, directory->raw);
        bool is_sure;
        if (!is_listed(request, directory, inode, ino, &is_sure)) {
            put_inode(lane, directory);
        } else if (!add_found(lane, directory, page, &attr, is_sure, behind)) {
            directory->is_ahead = true;
            return 1;
        }
        directory->cookie = behind;
    }
    return rc;
}

/* Adds `.` and `..`, of which the kernel takes no attributes; false if there is no room. */
static bool add_dots(struct page *page, uint64_t id, uint64_t parent, uint64_t start)
{
    struct fuse_entry_out none = {0};

    if (start == 0 && !add_entry(page, &none, ".", id, DT_DIR, BEHIND_DOT))
        return false;
    if ((start == 0 || start == BEHIND_DOT) &&
        !add_entry(page, &none, "..", parent, DT_DIR, BEHIND_DOTDOT))
        return false;
    return true;
}

static enum outcome list(struct request *request, struct directory *directory, bool is_plain)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_read_in *argument = request->argument;
    struct page page = {.data = OUT_DATA(request), .is_plain = is_plain};
    struct cx_known known;
    struct cx_inode *inode = cx_nodes_use(lane->nodes, directory->id, &known);
    int rc = 0;

    page.size = argument->size < DATA_MAX ? argument->size : DATA_MAX;
    if (inode == NULL)
        rc = -ESTALE;
    else if (add_dots(&page, directory->id, known.parent, argument->offset))
        rc = fill_page(request, directory, &page, inode, known.ino);
    if (inode != NULL)
        cx_inode_release(lane->nodes, inode);
    if (rc < 0 && page.used == 0) {
        cx_reply(request, rc, NULL, 0);
        return ANSWERED;
    }
    if (cx_reply_out(request, page.used) != 0)
        forget_page(request, &page);
    return ANSWERED;
}

/* Returns the directory that a request is about, if it is open here. */
static struct directory *listed_by(const struct request *request)
{
    const struct fuse_read_in *argument = request->argument;

    return request->size < sizeof(*argument) ? NULL : directory_of(request->lane, argument->fh);
}

enum outcome cx_answer_readdirplus(struct request *request)
{
    struct directory *directory = listed_by(request);

    return directory == NULL ? PASSED : list(request, directory, false);
}

enum outcome cx_answer_readdir(struct request *request)
{
    struct directory *directory = listed_by(request);

    return directory == NULL ? cx_ask_for_plain(request) : list(request, directory, true);
}
