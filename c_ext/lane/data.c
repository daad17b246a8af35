/* Open files, and their data. */

#include <errno.h>
#include <fcntl.h>

#include "inside.h"

/* What the storage isn't told when it opens a file. */
#define DROPPED (O_CREAT | O_EXCL | O_TRUNC | O_NOFOLLOW | O_DIRECT | O_CLOEXEC)

/* opening and closing */

int cx_flags_of(uint32_t flags)
{
    return (int)flags & ~DROPPED;
}

void cx_close_file(struct cx_lane *lane, struct cx_opened opened)
{
    cx_store_close(lane->store, opened.raw);
    cx_file_is_gone(lane, opened);
}

void cx_file_is_gone(struct cx_lane *lane, struct cx_opened opened)
{
    cx_nodes_closed(lane->nodes, opened.id);
    cx_inode_release(lane->nodes, opened.inode);
    atomic_fetch_sub(&lane->open_count, 1);
}

uint64_t cx_note_opened(struct cx_lane *lane, struct cx_opened opened, uint64_t generation)
{
    uint64_t fh = cx_files_open(lane->files, opened, generation);

    atomic_fetch_add(&lane->open_count, 1);
    if (fh == 0)
        cx_close_file(lane, opened);
    return fh;
}

/* Says whether the kernel may keep its pages of a file that is opened: if they are of the same
   version, the file hasn't changed since others were dropped. */
static bool keeps_pages(struct cx_lane *lane, const struct cx_opened *opened, uint64_t *ino,
                        uint64_t *version)
{
    *version = cx_store_version(lane->store, cx_inode_raw(opened->inode), ino);
    return cx_nodes_has_pages(lane->nodes, opened->id, *version);
}

/* Says with which rights a file is opened: for reading NULL, the gateway's. False if it is
   Python's to open: it is written to where that may be forbidden. */
static bool may_open(const struct request *request, uint32_t flags,
                     const struct cx_rights **rights)
{
    struct cx_lane *lane = request->lane;
    struct cx_known known;

    *rights = NULL;
    if ((flags & O_ACCMODE) == O_RDONLY)
        return true;
    if (lane->passes_changes != 0 || !cx_nodes_look(lane->nodes, request->in->nodeid, &known) ||
        !cx_allowed_has(lane->allowed, known.parent))
        return false;
    *rights = cx_rights_of(request);
    return *rights != NULL;
}

/* Opens a file, unless its content goes with that. */
enum outcome cx_answer_open(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_open_in *argument = request->argument;
    uint64_t generation = cx_files_generation(lane->files), ino = 0, version;
    struct cx_opened opened = {.id = request->in->nodeid};
    struct fuse_open_out out = {0};
    const struct cx_rights *rights;
    bool keeps;

    if (request->size < sizeof(*argument) || argument->flags & O_TRUNC ||
        lane->open_count >= lane->settings.open_max ||
        !may_open(request, argument->flags, &rights))
        return PASSED;
    opened.inode = cx_nodes_open(lane->nodes, opened.id);
    if (opened.inode == NULL)
        return PASSED;
    opened.flags = (uint32_t)cx_flags_of(argument->flags);
    if (cx_store_open(lane->store, cx_inode_raw(opened.inode), (int)opened.flags, rights,
                      &opened.raw) < 0) {
        cx_nodes_closed(lane->nodes, opened.id);
        cx_inode_release(lane->nodes, opened.inode);
        return PASSED;
    }
    keeps = keeps_pages(lane, &opened, &ino, &version);
    out.fh = cx_note_opened(lane, opened, generation);
    if (out.fh == 0)
        return PASSED;
    out.open_flags = keeps ? FOPEN_KEEP_CACHE : 0;
    if (cx_reply(request, 0, &out, sizeof(out)) != 0) {
        if (cx_files_close(lane->files, out.fh, &opened)) /* nobody will */
            cx_close_file(lane, opened);
    } else if (!keeps) {
        cx_nodes_note_pages(lane->nodes, request->in->nodeid, ino, version);
    }
    return ANSWERED;
}

enum outcome cx_answer_release(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_release_in *argument = request->argument;
    struct cx_opened opened;

    if (request->size < sizeof(*argument))
        return PASSED;
    cx_unlock_opened(lane, request->in->nodeid, argument->fh);
    if (!cx_files_close(lane->files, argument->fh, &opened))
        return PASSED;
    cx_close_file(lane, opened);
    cx_reply(request, 0, NULL, 0);
    return ANSWERED;
}

/* data */

/* Reads into the buffer for answers: how much, or -errno. */
static int read_data(const struct request *request, struct cx_fh *raw)
{
    const struct fuse_read_in *argument = request->argument;
    size_t got = 0;
    int rc = 1;

    while (got < argument->size && rc > 0) {
        rc = cx_store_read(request->lane->store, raw, argument->offset + got, argument->size - got,
                           OUT_DATA(request) + got);
        got += rc > 0 ? (size_t)rc : 0;
    }
    return rc < 0 ? rc : (int)got;
}

enum outcome cx_answer_read(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_read_in *argument = request->argument;
    struct cx_file file;
    int rc;

    if (request->size < sizeof(*argument) || argument->size > DATA_MAX ||
        !cx_files_begin(lane->files, argument->fh, &file))
        return PASSED;
    rc = read_data(request, file.raw);
    cx_files_end(lane->files, argument->fh);
    if (rc < 0)
        return PASSED;
    atomic_fetch_add(&lane->bytes[0], (uint64_t)rc);
    cx_reply_out(request, (size_t)rc);
    return ANSWERED;
}

enum outcome cx_answer_write(struct request *request)
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
        rc = cx_store_write(lane->store, file.raw, file.appends, argument->offset + out.size,
                            argument->size - out.size, data + out.size);
        out.size += rc > 0 ? (uint32_t)rc : 0;
    }
    cx_files_end(lane->files, argument->fh);
    if (rc < 0 && out.size == 0)
        return PASSED;
    atomic_fetch_add(&lane->bytes[1], out.size);
    cx_reply(request, 0, &out, sizeof(out));
    return ANSWERED;
}
