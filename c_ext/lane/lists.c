/* The file system's space, and the names of extended attributes. */

#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>

#include "inside.h"

#define NAMES_MAX 65536u

/* What isn't listed: attributes that CephFS makes up, and what the trash notes (trashbin.layout). */
#define MADE_UP "ceph."
#define PROMISED "trusted.cephfs_ext.promised"

/* Answers what is true of the whole mount, whatever it is asked of. */
enum outcome cx_answer_statfs(struct request *request)
{
    struct cx_lane *lane = request->lane;
    struct fuse_statfs_out out = {0};
    struct statvfs found = {0};
    struct cx_known known;
    struct cx_inode *root = cx_nodes_use(lane->nodes, FUSE_ROOT_ID, &known);
    int rc;

    if (root == NULL)
        return PASSED;
    rc = cx_store_statfs(lane->store, cx_inode_raw(root), &found);
    cx_inode_release(lane->nodes, root);
    if (rc < 0)
        return PASSED;
    out.st = (struct fuse_kstatfs){.blocks = found.f_blocks,
                                   .bfree = found.f_bfree,
                                   .bavail = found.f_bavail,
                                   .files = found.f_files,
                                   .ffree = found.f_ffree,
                                   .bsize = (uint32_t)found.f_bsize,
                                   .namelen = (uint32_t)found.f_namemax,
                                   .frsize = (uint32_t)found.f_frsize};
    cx_reply(request, 0, &out, sizeof(out));
    return ANSWERED;
}

static bool is_listed(const char *name)
{
    return name[0] != '\0' && strncmp(name, MADE_UP, strlen(MADE_UP)) != 0 &&
           strcmp(name, PROMISED) != 0;
}

/* Leaves those names that are listed, each ended by a zero byte; returns their size. */
static size_t keep_listed(char *names, size_t size)
{
    size_t at = 0, to = 0;

    while (at < size && memchr(names + at, '\0', size - at) != NULL) {
        size_t length = strlen(names + at) + 1;
        if (is_listed(names + at)) {
            memmove(names + to, names + at, length);
            to += length;
        }
        at += length;
    }
    return to;
}

enum outcome cx_answer_listxattr(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_getxattr_in *argument = request->argument;
    struct fuse_getxattr_out out = {0};
    struct cx_known known;
    struct cx_inode *inode;
    size_t size = 0;
    int rc;

    if (request->size < sizeof(*argument))
        return PASSED;
    inode = cx_use(request, &known);
    if (inode == NULL)
        return PASSED;
    rc = cx_store_listxattr(lane->store, cx_inode_raw(inode), OUT_DATA(request), NAMES_MAX, &size);
    cx_inode_release(lane->nodes, inode);
    if (rc < 0 || size > NAMES_MAX)
        return PASSED;
    out.size = (uint32_t)keep_listed(OUT_DATA(request), size);
    if (argument->size == 0)
        cx_reply(request, 0, &out, sizeof(out));
    else if (out.size > argument->size)
        cx_reply(request, -ERANGE, NULL, 0);
    else
        cx_reply_out(request, out.size);
    return ANSWERED;
}
