#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "inside.h"

/* The trash of a domain, and the virtual one of each directory. */
#define TRASH ".trashbin"
#define SNAPSHOTS ".snap"

/* What ceph_statx says of the device of a living inode. */
#define LIVE_DEVICE UINT64_C(0xfffffffffffffffe)

/* Positions in a listing behind `.` and `..`, which libcephfs doesn't use. */
#define BEHIND_DOT ((UINT64_C(1) << 62) + 1)
#define BEHIND_DOTDOT ((UINT64_C(1) << 62) + 2)

#define AT_THE_END (-1)
#define TARGET_MAX 4096u
#define XATTR_MAX 65536u

/* attributes */

static bool is_live(const struct ceph_statx *stx)
{
    return stx->stx_dev == 0 || stx->stx_dev == LIVE_DEVICE;
}

static void set_timeout(double timeout_s, uint64_t *seconds, uint32_t *nanoseconds)
{
    *seconds = (uint64_t)timeout_s;
    *nanoseconds = (uint32_t)((timeout_s - (double)*seconds) * 1e9);
}

static void fill_attr(struct fuse_attr *attr, uint64_t id, const struct ceph_statx *stx)
{
    *attr = (struct fuse_attr){
        .ino = id,
        .size = stx->stx_size,
        .blocks = stx->stx_blocks,
        .atime = (uint64_t)stx->stx_atime.tv_sec,
        .mtime = (uint64_t)stx->stx_mtime.tv_sec,
        .ctime = (uint64_t)stx->stx_ctime.tv_sec,
        .atimensec = (uint32_t)stx->stx_atime.tv_nsec,
        .mtimensec = (uint32_t)stx->stx_mtime.tv_nsec,
        .ctimensec = (uint32_t)stx->stx_ctime.tv_nsec,
        .mode = stx->stx_mode,
        .nlink = stx->stx_nlink,
        .uid = stx->stx_uid,
        .gid = stx->stx_gid,
        .rdev = (uint32_t)stx->stx_rdev,
        .blksize = stx->stx_blksize,
    };
}

static void fill_entry(const struct cx_lane *lane, struct fuse_entry_out *entry, uint64_t id,
                       const struct ceph_statx *stx)
{
    memset(entry, 0, sizeof(*entry));
    entry->nodeid = id;
    set_timeout(lane->settings.entry_timeout_s, &entry->entry_valid, &entry->entry_valid_nsec);
    set_timeout(lane->settings.attr_timeout_s, &entry->attr_valid, &entry->attr_valid_nsec);
    fill_attr(&entry->attr, id, stx);
}

/* requests */

/* Returns the inode that a request is about, and what is known of it; NULL if it is Python's. */
static struct cx_inode *use(const struct request *request, struct cx_known *known)
{
    struct cx_inode *inode = cx_nodes_use(request->lane->nodes, request->in->nodeid, known);

    if (inode != NULL && known->reasons != 0) {
        cx_inode_release(request->lane->nodes, inode);
        return NULL;
    }
    return inode;
}

/* Returns the name that is the argument of a request, ended by a zero byte; NULL if it is none. */
static const char *name_in(const struct request *request, size_t offset)
{
    const char *name = (const char *)request->argument + offset;

    if (request->size <= offset || memchr(name, '\0', request->size - offset) == NULL)
        return NULL;
    return name;
}

/* Tells whether an error is one that libcephfs has every day, so that it is the answer. */
static bool is_usual(int rc)
{
    return rc == -ENOENT || rc == -ENODATA || rc == -ERANGE || rc == -EOPNOTSUPP;
}

static enum outcome answer_error(const struct request *request, int rc)
{
    if (!is_usual(rc))
        return PASSED;
    cx_reply(request, rc, NULL, 0);
    return ANSWERED;
}

/* forget */

static void forget(const struct request *request, uint64_t id, uint64_t lookups)
{
    struct {
        struct fuse_in_header in;
        struct fuse_forget_in forget;
    } message = {.in = {.len = sizeof(message), .opcode = FUSE_FORGET, .nodeid = id}};

    switch (cx_nodes_forget(request->lane->nodes, id, lookups)) {
    case CX_KEPT:
    case CX_GONE:
        return;
    case CX_GONE_TELL:
        message.forget.nlookup = CX_ALL_LOOKUPS;
        break;
    case CX_UNKNOWN:
        message.forget.nlookup = lookups;
        break;
    }
    (void)cx_pass(request->lane, &message, sizeof(message)); /* Python is gone, and all it knew */
}

static enum outcome answer_forget(struct request *request)
{
    const struct fuse_forget_in *argument = request->argument;

    if (request->size >= sizeof(*argument))
        forget(request, request->in->nodeid, argument->nlookup);
    return ANSWERED; /* nothing is sent */
}

static enum outcome answer_batch_forget(struct request *request)
{
    const struct fuse_batch_forget_in *argument = request->argument;
    const struct fuse_forget_one *one = (const void *)(argument + 1);

    if (request->size < sizeof(*argument) ||
        (request->size - sizeof(*argument)) / sizeof(*one) < argument->count)
        return ANSWERED;
    for (uint32_t i = 0; i < argument->count; i++)
        forget(request, one[i].nodeid, one[i].nlookup);
    return ANSWERED;
}

/* names */

static bool is_special(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0') ||
                              strcmp(name, TRASH) == 0 || strcmp(name, SNAPSHOTS) == 0);
}

/* Says of a lookup that it is under way, or over. */
static void note_lookup(struct thread *thread, uint64_t directory, const char *name)
{
    pthread_mutex_lock(&thread->lock);
    thread->is_looking = name != NULL;
    if (name != NULL) {
        thread->lookup.begun++;
        thread->lookup.directory = directory;
        strcpy(thread->lookup.name, name);
    }
    pthread_mutex_unlock(&thread->lock);
}

static enum outcome answer_lookup(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const char *name = name_in(request, 0);
    size_t length = name == NULL ? 0 : strlen(name);
    struct cx_name at = {request->in->nodeid, name, length};
    struct fuse_entry_out entry;
    struct ceph_statx stx;
    struct cx_known known;
    struct cx_inode *parent;
    struct Inode *found;
    int rc;

    if (length == 0 || length > CX_NAME_MAX || is_special(name))
        return PASSED;
    parent = use(request, &known);
    if (parent == NULL)
        return PASSED;
    if (cx_hidden_has(lane->hidden, at)) {
        rc = -ENOENT;
    } else {
        note_lookup(request->thread, known.ino, name);
        rc = ceph_ll_lookup(lane->mount, cx_inode_raw(parent), name, &found, &stx,
                            CEPH_STATX_BASIC_STATS, 0, lane->perms);
        note_lookup(request->thread, 0, NULL);
    }
    cx_inode_release(lane->nodes, parent);
    if (rc < 0)
        return answer_error(request, rc);
    if (!is_live(&stx) || cx_nodes_learn(lane->nodes, stx.stx_ino, found, at,
                                         S_ISDIR(stx.stx_mode), stx.stx_nlink) != CX_LEARNED) {
        ceph_ll_put(lane->mount, found);
        return PASSED;
    }
    fill_entry(lane, &entry, stx.stx_ino, &stx);
    if (cx_reply(request, 0, &entry, sizeof(entry)) != 0)
        forget(request, stx.stx_ino, 1);
    return ANSWERED;
}

static enum outcome answer_readlink(struct request *request)
{
    struct cx_lane *lane = request->lane;
    struct cx_known known;
    struct cx_inode *inode = use(request, &known);
    int rc;

    if (inode == NULL)
        return PASSED;
    rc = ceph_ll_readlink(lane->mount, cx_inode_raw(inode), OUT_DATA(request), TARGET_MAX,
                          lane->perms);
    cx_inode_release(lane->nodes, inode);
    if (rc < 0)
        return answer_error(request, rc);
    cx_reply_out(request, (size_t)rc);
    return ANSWERED;
}

/* inodes */

static enum outcome answer_getattr(struct request *request)
{
    struct cx_lane *lane = request->lane;
    struct fuse_attr_out out = {0};
    struct ceph_statx stx;
    struct cx_known known;
    struct cx_inode *inode = use(request, &known);
    int rc;

    if (inode == NULL)
        return PASSED;
    rc = ceph_ll_getattr(lane->mount, cx_inode_raw(inode), &stx, CEPH_STATX_BASIC_STATS, 0,
                         lane->perms);
    cx_inode_release(lane->nodes, inode);
    if (rc < 0)
        return PASSED;
    set_timeout(lane->settings.attr_timeout_s, &out.attr_valid, &out.attr_valid_nsec);
    fill_attr(&out.attr, request->in->nodeid, &stx);
    cx_reply(request, 0, &out, sizeof(out));
    return ANSWERED;
}

static enum outcome answer_getxattr(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_getxattr_in *argument = request->argument;
    const char *name = name_in(request, sizeof(*argument));
    struct fuse_getxattr_out out = {0};
    struct cx_known known;
    struct cx_inode *inode;
    int rc;

    if (name == NULL || argument->size > XATTR_MAX)
        return PASSED;
    inode = use(request, &known);
    if (inode == NULL)
        return PASSED;
    rc = ceph_ll_getxattr(lane->mount, cx_inode_raw(inode), name, OUT_DATA(request),
                          argument->size, lane->perms);
    cx_inode_release(lane->nodes, inode);
    if (rc < 0)
        return answer_error(request, rc);
    if (argument->size == 0) {
        out.size = (uint32_t)rc;
        cx_reply(request, 0, &out, sizeof(out));
    } else {
        cx_reply_out(request, (size_t)rc);
    }
    return ANSWERED;
}

/* what is open here */

/* Returns where something that is open here stands in its bucket: NULL behind the last. */
static struct opened **find_opened(struct cx_lane *lane, uint64_t number)
{
    struct opened **place = &lane->opened[number % OPEN_BUCKETS];

    while (*place != NULL && (*place)->number != number)
        place = &(*place)->next;
    return place;
}

/* Returns the file or directory that the kernel has a number for; NULL if none is open here. */
static void *opened_of(struct cx_lane *lane, uint64_t fh, bool is_directory)
{
    struct opened *opened;

    if (!(fh & CX_OPEN_HERE))
        return NULL;
    pthread_mutex_lock(&lane->lock);
    opened = *find_opened(lane, fh & ~CX_OPEN_HERE);
    pthread_mutex_unlock(&lane->lock);
    return opened != NULL && opened->is_directory == is_directory ? opened : NULL;
}

/* Gives what was opened a number; returns what the kernel is told. */
static uint64_t link_opened(struct cx_lane *lane, struct opened *opened, bool is_directory)
{
    struct opened **place;

    opened->is_directory = is_directory;
    pthread_mutex_lock(&lane->lock);
    opened->number = ++lane->opened_count;
    place = &lane->opened[opened->number % OPEN_BUCKETS];
    opened->next = *place;
    *place = opened;
    pthread_mutex_unlock(&lane->lock);
    atomic_fetch_add(&lane->open_count, 1);
    return opened->number | CX_OPEN_HERE;
}

/* Takes what was opened out of the table, and closes it. */
static void unlink_opened(struct cx_lane *lane, struct opened *opened)
{
    pthread_mutex_lock(&lane->lock);
    *find_opened(lane, opened->number) = opened->next;
    pthread_mutex_unlock(&lane->lock);
    atomic_fetch_sub(&lane->open_count, 1);
    cx_close(lane, opened);
}

/* Closes what a release is about; it is Python's if that isn't open here. */
static enum outcome answer_close(struct request *request, bool is_directory)
{
    const struct fuse_release_in *argument = request->argument;
    struct opened *opened = NULL;

    if (request->size >= sizeof(*argument))
        opened = opened_of(request->lane, argument->fh, is_directory);
    if (opened == NULL)
        return PASSED;
    unlink_opened(request->lane, opened);
    cx_reply(request, 0, NULL, 0);
    return ANSWERED;
}

/* files that are open here */

static void close_reader(struct cx_lane *lane, struct reader *reader)
{
    for (size_t i = 0; i < reader->former_count; i++)
        ceph_ll_close(lane->mount, reader->former[i]);
    free(reader->former);
    if (reader->raw != NULL)
        ceph_ll_close(lane->mount, reader->raw);
    cx_nodes_closed(lane->nodes, reader->id);
    cx_inode_release(lane->nodes, reader->inode);
    pthread_mutex_destroy(&reader->lock);
    free(reader);
}

/* Opens a file again that was open when the session was shut out. */
static int reopen(struct cx_lane *lane, struct reader *reader, uint64_t generation)
{
    size_t count = reader->former_count + 1;
    struct Fh **former = realloc(reader->former, count * sizeof(*former)), *fresh;
    int rc;

    if (former == NULL)
        return -ENOMEM;
    reader->former = former;
    rc = ceph_ll_open(lane->mount, cx_inode_raw(reader->inode), O_RDONLY, &fresh, lane->perms);
    if (rc < 0)
        return rc;
    former[reader->former_count++] = reader->raw;
    reader->raw = fresh;
    reader->generation = generation;
    return 0;
}

/* Says which open file of the session to use; it stays open until the reader is closed. */
static int current_file(struct cx_lane *lane, struct reader *reader, struct Fh **raw)
{
    uint64_t generation = lane->generation;
    int rc = 0;

    if (lane->is_paused)
        return -ESHUTDOWN;
    pthread_mutex_lock(&reader->lock);
    if (reader->generation != generation)
        rc = reopen(lane, reader, generation);
    *raw = reader->raw;
    pthread_mutex_unlock(&reader->lock);
    return rc;
}

static struct reader *reader_new(struct cx_lane *lane, uint64_t id, struct cx_inode *inode)
{
    struct reader *reader = calloc(1, sizeof(*reader));

    if (reader != NULL && pthread_mutex_init(&reader->lock, NULL) != 0) {
        free(reader);
        reader = NULL;
    }
    if (reader == NULL) {
        cx_nodes_closed(lane->nodes, id);
        cx_inode_release(lane->nodes, inode);
        return NULL;
    }
    reader->id = id;
    reader->inode = inode;
    reader->generation = lane->generation;
    return reader;
}

/* Returns the version of a file, which any change of it changes; 0 if it isn't known. Asks a
   metadata server only where the session may not answer by itself: others may have written. */
static uint64_t version_of(struct cx_lane *lane, const struct cx_inode *inode, uint64_t *ino)
{
    struct ceph_statx stx;

    if (ceph_ll_getattr(lane->mount, cx_inode_raw(inode), &stx,
                        CEPH_STATX_BASIC_STATS | CEPH_STATX_VERSION, 0, lane->perms) < 0)
        return 0;
    *ino = stx.stx_ino;
    return stx.stx_mask & CEPH_STATX_VERSION ? stx.stx_version : 0;
}

/* Answers an open. The kernel drops the pages of the file, unless they are of the same version:
   then the file has not changed since they were dropped last. */
static void reply_opened(const struct request *request, struct reader *reader)
{
    struct cx_lane *lane = request->lane;
    struct fuse_open_out out = {.fh = link_opened(lane, &reader->opened, false)};
    uint64_t ino = 0, version = version_of(lane, reader->inode, &ino);
    bool keeps = cx_nodes_has_pages(lane->nodes, reader->id, version);

    out.open_flags = keeps ? FOPEN_KEEP_CACHE : 0;
    if (cx_reply(request, 0, &out, sizeof(out)) != 0) {
        unlink_opened(lane, &reader->opened);
    } else if (!keeps) {
        cx_nodes_note_pages(lane->nodes, request->in->nodeid, ino, version);
    }
}

/* Opens a file for reading; all other opens decide something. */
static enum outcome answer_open(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_open_in *argument = request->argument;
    struct cx_inode *inode;
    struct reader *reader;

    if (request->size < sizeof(*argument) || (argument->flags & O_ACCMODE) != O_RDONLY ||
        argument->flags & O_TRUNC || lane->open_count >= lane->settings.open_max)
        return PASSED;
    inode = cx_nodes_open(lane->nodes, request->in->nodeid);
    if (inode == NULL)
        return PASSED;
    reader = reader_new(lane, request->in->nodeid, inode);
    if (reader == NULL)
        return PASSED;
    if (ceph_ll_open(lane->mount, cx_inode_raw(inode), O_RDONLY, &reader->raw, lane->perms) < 0) {
        close_reader(lane, reader);
        return PASSED;
    }
    reply_opened(request, reader);
    return ANSWERED;
}

static enum outcome answer_release(struct request *request)
{
    return answer_close(request, false);
}

/* data */

/* Reads into the buffer for answers: how much, or -errno. */
static int read_data(const struct request *request, struct Fh *raw)
{
    const struct fuse_read_in *argument = request->argument;
    size_t got = 0;
    int rc = 1;

    while (got < argument->size && rc > 0) {
        rc = ceph_ll_read(request->lane->mount, raw, (int64_t)(argument->offset + got),
                          argument->size - got, OUT_DATA(request) + got);
        got += rc > 0 ? (size_t)rc : 0;
    }
    return rc < 0 ? rc : (int)got;
}

static void reply_data(const struct request *request, int got)
{
    atomic_fetch_add(&request->lane->bytes[0], (uint64_t)got);
    cx_reply_out(request, (size_t)got);
}

static enum outcome read_here(const struct request *request, struct reader *reader)
{
    struct Fh *raw = NULL;
    int rc = current_file(request->lane, reader, &raw);

    if (rc == 0)
        rc = read_data(request, raw);
    if (rc < 0)
        cx_reply(request, rc, NULL, 0);
    else
        reply_data(request, rc);
    return ANSWERED;
}

static enum outcome answer_read(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_read_in *argument = request->argument;
    struct reader *reader;
    struct cx_file file;
    int rc;

    if (request->size < sizeof(*argument) || argument->size > DATA_MAX)
        return PASSED;
    reader = opened_of(lane, argument->fh, false);
    if (reader != NULL)
        return read_here(request, reader);
    if (lane->is_paused || !cx_files_begin(lane->files, argument->fh, &file))
        return PASSED;
    rc = read_data(request, file.raw);
    cx_files_end(lane->files, argument->fh);
    if (rc < 0)
        return PASSED;
    reply_data(request, rc);
    return ANSWERED;
}

static enum outcome answer_write(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_write_in *argument = request->argument;
    const char *data = (const char *)(argument + 1);
    struct fuse_write_out out = {0};
    struct cx_file file;
    int rc = 1;

    if (request->size < sizeof(*argument) ||
        request->size - sizeof(*argument) < argument->size ||
        !cx_files_begin(lane->files, argument->fh, &file))
        return PASSED;
    while (out.size < argument->size && rc > 0) {
        int64_t at = file.appends ? AT_THE_END : (int64_t)(argument->offset + out.size);
        rc = ceph_ll_write(lane->mount, file.raw, at, argument->size - out.size,
                           data + out.size);
        out.size += rc > 0 ? (uint32_t)rc : 0;
    }
    cx_files_end(lane->files, argument->fh);
    if (rc < 0 && out.size == 0)
        return PASSED;
    atomic_fetch_add(&lane->bytes[1], out.size);
    cx_reply(request, 0, &out, sizeof(out));
    return ANSWERED;
}

/* directories */

static enum outcome answer_opendir(struct request *request)
{
    struct cx_lane *lane = request->lane;
    struct directory *directory = NULL;
    struct fuse_open_out out = {0};
    struct cx_known known;
    struct cx_inode *inode;
    int rc = -ENOMEM;

    if (lane->passes_opendir)
        return PASSED;
    inode = use(request, &known);
    if (inode == NULL)
        return PASSED;
    directory = calloc(1, sizeof(*directory));
    if (directory != NULL)
        rc = ceph_ll_opendir(lane->mount, cx_inode_raw(inode), &directory->raw, lane->perms);
    cx_inode_release(lane->nodes, inode);
    if (rc < 0) {
        free(directory);
        return PASSED;
    }
    directory->id = request->in->nodeid;
    directory->changes = known.changes;
    out.fh = link_opened(lane, &directory->opened, true);
    if (cx_reply(request, 0, &out, sizeof(out)) != 0)
        unlink_opened(lane, &directory->opened); /* nobody will close it */
    return ANSWERED;
}

static void drop_ahead(struct cx_lane *lane, struct directory *directory)
{
    if (directory->is_ahead && directory->inode != NULL)
        ceph_ll_put(lane->mount, directory->inode);
    directory->is_ahead = false;
}

static void close_directory(struct cx_lane *lane, struct directory *directory)
{
    drop_ahead(lane, directory);
    ceph_ll_releasedir(lane->mount, directory->raw);
    free(directory);
}

static enum outcome answer_releasedir(struct request *request)
{
    return answer_close(request, true);
}

void cx_close(struct cx_lane *lane, struct opened *opened)
{
    if (opened->is_directory)
        close_directory(lane, (struct directory *)opened);
    else
        close_reader(lane, (struct reader *)opened);
}

/* Has Python make a file or the names of a directory durable, of which it gets the id: others may
   write to that, and deletes may be pending in this. */
static enum outcome answer_fsync(struct request *request)
{
    struct fuse_fsync_in *argument = request->argument;

    if (request->size >= sizeof(*argument) && argument->fh & CX_OPEN_HERE)
        argument->fh = CX_OPEN_HERE | request->in->nodeid;
    return PASSED;
}

/* A reply to READDIRPLUS under construction. */
struct page {
    char *data;
    size_t used;
    size_t size;
};

/* Adds an entry; false if there is no room. */
static bool add_entry(struct page *page, const struct fuse_entry_out *entry, const char *name,
                      uint64_t ino, uint32_t type, uint64_t behind)
{
    size_t length = strlen(name);
    struct fuse_direntplus *plus = (void *)(page->data + page->used);
    size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + length);

    if (page->size - page->used < size)
        return false;
    memset(plus, 0, size);
    plus->entry_out = *entry;
    plus->dirent.ino = ino;
    plus->dirent.off = behind;
    plus->dirent.namelen = (uint32_t)length;
    plus->dirent.type = type;
    memcpy(plus->dirent.name, name, length);
    page->used += size;
    return true;
}

/* Reads the next entry into `directory`: 1, 0 at the end, or -errno. */
static int next_entry(struct cx_lane *lane, struct directory *directory, struct ceph_statx *stx)
{
    int rc;

    if (directory->is_ahead) {
        directory->is_ahead = false;
        /* what was read is some time old by now */
        if (ceph_ll_getattr(lane->mount, directory->inode, stx, CEPH_STATX_BASIC_STATS, 0,
                            lane->perms) == 0)
            return 1;
        ceph_ll_put(lane->mount, directory->inode);
        ceph_seekdir(lane->mount, directory->raw, (int64_t)directory->cookie);
    }
    rc = ceph_readdirplus_r(lane->mount, directory->raw, &directory->entry, stx,
                            CEPH_STATX_BASIC_STATS, AT_SYMLINK_NOFOLLOW, &directory->inode);
    return rc;
}

/* Adds what was read to a page, and counts the lookup that the kernel makes of it. What only
   Python can answer for is a name without attributes. False if there is no room. */
static bool add_found(struct cx_lane *lane, struct directory *directory, struct page *page,
                      const struct ceph_statx *stx, bool is_sure, uint64_t behind)
{
    const struct dirent *de = &directory->entry;
    struct cx_name at = {directory->id, de->d_name, strlen(de->d_name)};
    uint64_t ino = stx->stx_ino;
    struct fuse_entry_out entry = {0};
    size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + at.length);

    if (page->size - page->used < size)
        return false;
    if (is_live(stx) && cx_nodes_learn(lane->nodes, ino, directory->inode, at,
                                       S_ISDIR(stx->stx_mode), stx->stx_nlink) == CX_LEARNED) {
        fill_entry(lane, &entry, ino, stx);
        if (!is_sure)
            entry.entry_valid = entry.entry_valid_nsec = 0;
    } else {
        ceph_ll_put(lane->mount, directory->inode);
    }
    (void)add_entry(page, &entry, de->d_name, ino, (stx->stx_mode & S_IFMT) >> 12, behind);
    return true;
}

/* Takes the lookups of a page back that the kernel didn't get. */
static void forget_page(const struct request *request, const struct page *page)
{
    for (size_t at = 0; at < page->used;) {
        const struct fuse_direntplus *plus = (const void *)(page->data + at);
        if (plus->entry_out.nodeid != 0)
            forget(request, plus->entry_out.nodeid, 1);
        at += FUSE_DIRENTPLUS_SIZE(plus);
    }
}

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static int fill_page(struct cx_lane *lane, struct directory *directory, struct page *page,
                     uint64_t start, bool is_sure)
{
    uint64_t cookie = start == BEHIND_DOT || start == BEHIND_DOTDOT ? 0 : start;
    struct ceph_statx stx;
    int rc = 1;

    if (cookie == 0 || cookie != directory->cookie) {
        drop_ahead(lane, directory);
        ceph_seekdir(lane->mount, directory->raw, (int64_t)cookie);
        directory->cookie = cookie;
    }
    while ((rc = next_entry(lane, directory, &stx)) > 0) {
        uint64_t behind = (uint64_t)ceph_telldir(lane->mount, directory->raw);
        const char *name = directory->entry.d_name;
        struct cx_name at = {directory->id, name, strlen(name)};
        if (is_dots(name) || strcmp(name, TRASH) == 0 || cx_hidden_has(lane->hidden, at)) {
            ceph_ll_put(lane->mount, directory->inode);
        } else if (!add_found(lane, directory, page, &stx, is_sure, behind)) {
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

static enum outcome answer_readdirplus(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_read_in *argument = request->argument;
    struct page page = {.data = OUT_DATA(request)};
    struct directory *directory = NULL;
    struct cx_known known;
    uint64_t start;
    int rc = 0;

    if (request->size >= sizeof(*argument))
        directory = opened_of(lane, argument->fh, true);
    if (directory == NULL)
        return PASSED;
    page.size = argument->size < DATA_MAX ? argument->size : DATA_MAX;
    start = argument->offset;
    if (!cx_nodes_look(lane->nodes, directory->id, &known))
        rc = -ESTALE;
    else if (add_dots(&page, directory->id, known.parent, start))
        rc = fill_page(lane, directory, &page, start, known.changes == directory->changes);
    if (rc < 0 && page.used == 0) {
        cx_reply(request, rc, NULL, 0);
        return ANSWERED;
    }
    if (cx_reply_out(request, page.used) != 0)
        forget_page(request, &page);
    return ANSWERED;
}

/* dispatch */

typedef enum outcome (*answer_fn)(struct request *);

/* What is answered, unless answering is paused. */
static const answer_fn ANSWERS[CX_OPCODES] = {
    [FUSE_LOOKUP] = answer_lookup,
    [FUSE_GETATTR] = answer_getattr,
    [FUSE_READLINK] = answer_readlink,
    [FUSE_GETXATTR] = answer_getxattr,
    [FUSE_OPEN] = answer_open,
    [FUSE_WRITE] = answer_write,
    [FUSE_OPENDIR] = answer_opendir,
};

/* What nobody else can answer. */
static const answer_fn ALWAYS[CX_OPCODES] = {
    [FUSE_FORGET] = answer_forget,
    [FUSE_BATCH_FORGET] = answer_batch_forget,
    [FUSE_READDIRPLUS] = answer_readdirplus,
    [FUSE_RELEASEDIR] = answer_releasedir,
    [FUSE_FSYNCDIR] = answer_fsync,
    [FUSE_FSYNC] = answer_fsync,
    [FUSE_READ] = answer_read,
    [FUSE_RELEASE] = answer_release,
};

enum outcome cx_answer(struct request *request)
{
    uint32_t opcode = request->in->opcode;
    answer_fn answer = opcode < CX_OPCODES ? ALWAYS[opcode] : NULL;

    if (opcode == FUSE_INTERRUPT)
        return ANSWERED; /* pyfuse3 would only note it */
    if (answer == NULL && opcode < CX_OPCODES && !request->lane->is_paused)
        answer = ANSWERS[opcode];
    return answer == NULL ? PASSED : answer(request);
}
