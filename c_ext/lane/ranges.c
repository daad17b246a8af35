/* Ranges of open files: allocated, punched out, copied.

   pyfuse3 knows no such requests, and once it has answered one the kernel sends none any more: so all
   are answered here. */

#include <errno.h>

#include "inside.h"

/* How much is copied by one request: those who ask for more ask again, and may be interrupted. */
#define COPY_MOST (8u << 20)

enum outcome cx_answer_fallocate(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_fallocate_in *argument = request->argument;
    struct cx_file file;
    int rc;

    if (request->size < sizeof(*argument) || argument->offset > INT64_MAX ||
        argument->length > INT64_MAX) {
        rc = -EINVAL;
    } else if (!cx_files_begin(lane->files, argument->fh, &file)) {
        rc = lane->is_paused ? -ESHUTDOWN : -EIO; /* the next write says what was lost */
    } else {
        rc = cx_store_fallocate(lane->store, file.raw, (int)argument->mode,
                                (int64_t)argument->offset, (int64_t)argument->length);
        cx_files_end(lane->files, argument->fh);
    }
    cx_reply(request, rc, NULL, 0);
    return ANSWERED;
}

/* Copies at most as much as fits into the buffer for answers: how much, or -errno. */
static int copy_piece(const struct request *request, const struct cx_file *from, uint64_t from_at,
                      const struct cx_file *to, uint64_t to_at, uint64_t size)
{
    struct cx_store *store = request->lane->store;
    char *data = OUT_DATA(request);
    int got = cx_store_read(store, from->raw, from_at, size < DATA_MAX ? size : DATA_MAX, data);

    return got <= 0 ? got : cx_store_write(store, to->raw, false, to_at, (uint64_t)got, data);
}

/* Copies a range: how much, which is 0 only at the end of the source; or -errno. */
static int copy(const struct request *request, const struct cx_file *from,
                const struct cx_file *to)
{
    const struct fuse_copy_file_range_in *argument = request->argument;
    uint64_t size = argument->len < COPY_MOST ? argument->len : COPY_MOST, done = 0;
    int rc = 1;

    while (done < size && rc > 0) {
        rc = copy_piece(request, from, argument->off_in + done, to, argument->off_out + done,
                        size - done);
        done += rc > 0 ? (uint64_t)rc : 0;
    }
    return rc < 0 && done == 0 ? rc : (int)done;
}

/* Copies with both files in use. */
static int copy_between(const struct request *request)
{
    const struct fuse_copy_file_range_in *argument = request->argument;
    struct cx_files *files = request->lane->files;
    struct cx_file from, to;
    int rc = -EOPNOTSUPP;

    if (!cx_files_begin(files, argument->fh_in, &from))
        return rc;
    if (cx_files_begin(files, argument->fh_out, &to)) {
        if (!to.appends)
            rc = copy(request, &from, &to);
        cx_files_end(files, argument->fh_out);
    }
    cx_files_end(files, argument->fh_in);
    return rc;
}

/* What can't be copied here the kernel copies by reading and writing, and finds what to say. */
enum outcome cx_answer_copy(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_copy_file_range_in *argument = request->argument;
    struct fuse_write_out out = {0};
    int rc = -EOPNOTSUPP;

    if (request->size >= sizeof(*argument) && argument->flags == 0 &&
        argument->off_in <= INT64_MAX - COPY_MOST && argument->off_out <= INT64_MAX - COPY_MOST)
        rc = copy_between(request);
    if (rc < 0) {
        cx_reply(request, -EOPNOTSUPP, NULL, 0);
        return ANSWERED;
    }
    out.size = (uint32_t)rc;
    atomic_fetch_add(&lane->bytes[0], out.size);
    atomic_fetch_add(&lane->bytes[1], out.size);
    cx_reply(request, 0, &out, sizeof(out));
    return ANSWERED;
}
