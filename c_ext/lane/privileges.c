/* Who changes what is in a file, or whose it is, takes its set-user-ID and set-group-ID away, and
   need not own it. The kernel leaves that to us (FUSE_HANDLE_KILLPRIV_V2), so that it need not ask
   for the capabilities of a file at each write; where it knows whether the writer may keep them it
   says so, and Python is told nothing of that by libfuse. */

#include <errno.h>
#include <sys/stat.h>

#include "inside.h"

/* Returns the inode whose privileges a request takes, 0 if it takes none. */
static uint64_t loser(const struct request *request)
{
    const struct fuse_in_header *in = request->in;
    const struct fuse_write_in *write = request->argument;
    const struct fuse_setattr_in *change = request->argument;
    const struct fuse_copy_file_range_in *copy = request->argument;

    switch (in->opcode) {
    case FUSE_WRITE:
        return request->size >= sizeof(*write) && write->write_flags & FUSE_WRITE_KILL_SUIDGID
                   ? in->nodeid
                   : 0;
    case FUSE_SETATTR:
        return request->size >= sizeof(*change) && change->valid & FATTR_KILL_SUIDGID ? in->nodeid
                                                                                      : 0;
    case FUSE_FALLOCATE:
        return in->uid != 0 ? in->nodeid : 0;
    case FUSE_COPY_FILE_RANGE:
        return request->size >= sizeof(*copy) && in->uid != 0 ? copy->nodeid_out : 0;
    default:
        return 0;
    }
}

static uint32_t without_privileges(uint32_t mode)
{
    return mode & ~(uint32_t)(mode & S_IXGRP ? S_ISUID | S_ISGID : S_ISUID);
}

/* Takes the privileges of a file: 0 or -errno. */
static int take(const struct cx_lane *lane, uint64_t id, const struct cx_inode *inode)
{
    struct cx_change change = {.uid = UINT32_MAX,
                               .gid = UINT32_MAX,
                               .has_mode = true,
                               .atime = {.tv_nsec = UTIME_OMIT},
                               .mtime = {.tv_nsec = UTIME_OMIT}};
    uint32_t mode;
    int rc = cx_store_mode(lane->store, cx_inode_raw(inode), &mode);

    change.mode = without_privileges(mode);
    if (rc < 0 || !S_ISREG(mode) || change.mode == mode)
        return rc;
    rc = cx_store_setattr(lane->store, cx_inode_raw(inode), &change, NULL);
    cx_forget_attributes(lane, id);
    return rc;
}

int cx_take_privileges(struct request *request)
{
    struct cx_lane *lane = request->lane;
    uint64_t id = loser(request);
    struct cx_inode *inode;
    struct cx_known known;
    int rc;

    inode = id == 0 ? NULL : cx_nodes_use(lane->nodes, id, &known);
    if (inode == NULL)
        return 0;
    rc = take(lane, id, inode);
    cx_inode_release(lane->nodes, inode);
    return rc;
}
