/* The storage as libcephfs has it. A reference is its `Inode`, an open file its `Fh`, a directory its
   `ceph_dir_result`, and rights are a `UserPerm`. */

#include "store.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include <cephfs/libcephfs.h>

#include "rename.h"
#include "store_ceph.h"

#define AT_THE_END (-1)
#define DEFAULT_ACL "system.posix_acl_default"

/* What ceph_statx says of the device of a living inode. */
#define LIVE_DEVICE UINT64_C(0xfffffffffffffffe)

static struct Inode *inode_of(struct cx_ref *ref)
{
    return (struct Inode *)(void *)ref;
}

static struct Fh *file_of(struct cx_fh *fh)
{
    return (struct Fh *)(void *)fh;
}

static struct ceph_dir_result *directory_of(struct cx_dir *dir)
{
    return (struct ceph_dir_result *)(void *)dir;
}

static const UserPerm *perms_of(const struct cx_rights *rights)
{
    return (const UserPerm *)(const void *)rights;
}

static void fill(struct cx_attr *attr, const struct ceph_statx *stx)
{
    *attr = (struct cx_attr){.ino = stx->stx_ino,
                             .size = stx->stx_size,
                             .blocks = stx->stx_blocks,
                             .rdev = stx->stx_rdev,
                             .atime = stx->stx_atime,
                             .mtime = stx->stx_mtime,
                             .ctime = stx->stx_ctime,
                             .mode = stx->stx_mode,
                             .nlink = stx->stx_nlink,
                             .uid = stx->stx_uid,
                             .gid = stx->stx_gid,
                             .blksize = stx->stx_blksize,
                             .is_live = stx->stx_dev == 0 || stx->stx_dev == LIVE_DEVICE};
}

/* Hands over what a call has found or made, if it has. */
static int found(int rc, struct Inode *inode, const struct ceph_statx *stx, struct cx_ref **ref,
                 struct cx_attr *attr)
{
    if (rc < 0)
        return rc;
    *ref = (struct cx_ref *)(void *)inode;
    fill(attr, stx);
    return rc;
}

bool cx_store_has_locks(const struct cx_store *store)
{
    (void)store;
    return true;
}

/* rights */

struct cx_rights *cx_store_rights_new(uint32_t uid, uint32_t gid, size_t count, gid_t *groups)
{
    return (struct cx_rights *)(void *)ceph_userperm_new(uid, gid, (int)count, groups);
}

void cx_store_rights_free(struct cx_rights *rights)
{
    ceph_userperm_destroy((UserPerm *)(void *)rights);
}

/* names */

int cx_store_root(struct cx_store *store, struct cx_ref **root, struct cx_attr *attr)
{
    struct Inode *inode;
    int rc = ceph_ll_lookup_root(store->mount, &inode);

    if (rc != 0)
        return rc;
    *root = (struct cx_ref *)(void *)inode;
    rc = cx_store_getattr(store, *root, attr);
    if (rc != 0)
        cx_store_put(store, *root);
    return rc;
}

int cx_store_lookup(struct cx_store *store, struct cx_ref *parent, const char *name,
                    struct cx_ref **ref, struct cx_attr *attr)
{
    struct Inode *inode = NULL;
    struct ceph_statx stx;
    int rc = ceph_ll_lookup(store->mount, inode_of(parent), name, &inode, &stx,
                            CEPH_STATX_BASIC_STATS, 0, store->perms);

    return found(rc, inode, &stx, ref, attr);
}

void cx_store_put(struct cx_store *store, struct cx_ref *ref)
{
    ceph_ll_put(store->mount, inode_of(ref));
}

/* Applies a umask, which plays no part where the directory has a default list: libcephfs could do
   it, but knows one umask for a whole session. */
static mode_t masked(const struct cx_store *store, struct cx_ref *parent, struct cx_made_as as)
{
    mode_t mode = as.mode & 07777;

    if ((mode & as.umask) == 0)
        return mode;
    if (ceph_ll_getxattr(store->mount, inode_of(parent), DEFAULT_ACL, NULL, 0, store->perms) > 0)
        return mode;
    return mode & ~as.umask;
}

int cx_store_mkdir(struct cx_store *store, struct cx_ref *parent, const char *name,
                   struct cx_made_as as, const struct cx_rights *rights, struct cx_ref **made,
                   struct cx_attr *attr)
{
    struct Inode *inode = NULL;
    struct ceph_statx stx;
    int rc = ceph_ll_mkdir(store->mount, inode_of(parent), name, masked(store, parent, as), &inode,
                           &stx, CEPH_STATX_BASIC_STATS, 0, perms_of(rights));

    return found(rc, inode, &stx, made, attr);
}

int cx_store_mknod(struct cx_store *store, struct cx_ref *parent, const char *name,
                   struct cx_made_as as, const struct cx_rights *rights, struct cx_ref **made,
                   struct cx_attr *attr)
{
    struct Inode *inode = NULL;
    struct ceph_statx stx;
    int rc = ceph_ll_mknod(store->mount, inode_of(parent), name,
                           (as.mode & S_IFMT) | masked(store, parent, as), 0, &inode, &stx,
                           CEPH_STATX_BASIC_STATS, 0, perms_of(rights));

    return found(rc, inode, &stx, made, attr);
}

int cx_store_symlink(struct cx_store *store, struct cx_ref *parent, const char *name,
                     const char *target, const struct cx_rights *rights, struct cx_ref **made,
                     struct cx_attr *attr)
{
    struct Inode *inode = NULL;
    struct ceph_statx stx;
    int rc = ceph_ll_symlink(store->mount, inode_of(parent), name, target, &inode, &stx,
                             CEPH_STATX_BASIC_STATS, 0, perms_of(rights));

    return found(rc, inode, &stx, made, attr);
}

int cx_store_create(struct cx_store *store, struct cx_ref *parent, const char *name,
                    struct cx_made_as as, int flags, const struct cx_rights *rights,
                    struct cx_ref **made, struct cx_fh **fh, struct cx_attr *attr)
{
    struct Inode *inode = NULL;
    struct Fh *file = NULL;
    struct ceph_statx stx;
    int rc = ceph_ll_create(store->mount, inode_of(parent), name, masked(store, parent, as),
                            flags | O_CREAT | O_EXCL, &inode, &file, &stx, CEPH_STATX_BASIC_STATS,
                            0, perms_of(rights));

    *fh = (struct cx_fh *)(void *)file;
    return found(rc, inode, &stx, made, attr);
}

int cx_store_rename_new(struct cx_store *store, struct cx_ref *directory, const char *name,
                        const char *new_name, const struct cx_rights *rights)
{
    const uint64_t nothing = 0;
    int how_far;

    return cx_rename(store->mount, inode_of(directory), name, inode_of(directory), new_name,
                     perms_of(rights), NULL, &nothing, &how_far);
}

/* inodes */

int cx_store_mode(struct cx_store *store, struct cx_ref *ref, uint32_t *mode)
{
    struct ceph_statx stx;
    int rc = ceph_ll_getattr(store->mount, inode_of(ref), &stx, CEPH_STATX_MODE, 0, store->perms);

    *mode = rc == 0 ? stx.stx_mode : 0;
    return rc;
}

int cx_store_getattr(struct cx_store *store, struct cx_ref *ref, struct cx_attr *attr)
{
    struct ceph_statx stx;
    int rc = ceph_ll_getattr(store->mount, inode_of(ref), &stx, CEPH_STATX_BASIC_STATS, 0,
                             store->perms);

    if (rc == 0)
        fill(attr, &stx);
    return rc;
}

static void set_time(struct timespec *time, const struct timespec *wanted)
{
    if (wanted->tv_nsec == UTIME_NOW)
        clock_gettime(CLOCK_REALTIME, time);
    else
        *time = *wanted;
}

int cx_store_setattr(struct cx_store *store, struct cx_ref *ref, const struct cx_change *change,
                     const struct cx_rights *rights)
{
    struct ceph_statx stx;
    int mask = 0;

    memset(&stx, 0, sizeof(stx));
    if (change->has_mode) {
        stx.stx_mode = (uint16_t)(change->mode & 07777);
        mask |= CEPH_SETATTR_MODE;
    }
    if (change->uid != UINT32_MAX) {
        stx.stx_uid = change->uid;
        mask |= CEPH_SETATTR_UID;
    }
    if (change->gid != UINT32_MAX) {
        stx.stx_gid = change->gid;
        mask |= CEPH_SETATTR_GID;
    }
    if (change->atime.tv_nsec != UTIME_OMIT) {
        set_time(&stx.stx_atime, &change->atime);
        mask |= CEPH_SETATTR_ATIME;
    }
    if (change->mtime.tv_nsec != UTIME_OMIT) {
        set_time(&stx.stx_mtime, &change->mtime);
        mask |= CEPH_SETATTR_MTIME;
    }
    return ceph_ll_setattr(store->mount, inode_of(ref), &stx, mask,
                           rights == NULL ? store->perms : perms_of(rights));
}

/* Asks a metadata server only where the session may not answer by itself: others may have written. */
uint64_t cx_store_version(struct cx_store *store, struct cx_ref *ref, uint64_t *ino)
{
    struct ceph_statx stx;

    if (ceph_ll_getattr(store->mount, inode_of(ref), &stx,
                        CEPH_STATX_BASIC_STATS | CEPH_STATX_VERSION, 0, store->perms) < 0)
        return 0;
    *ino = stx.stx_ino;
    return stx.stx_mask & CEPH_STATX_VERSION ? stx.stx_version : 0;
}

int cx_store_readlink(struct cx_store *store, struct cx_ref *ref, char *target, size_t size)
{
    return ceph_ll_readlink(store->mount, inode_of(ref), target, size, store->perms);
}

int cx_store_getxattr(struct cx_store *store, struct cx_ref *ref, const char *name, void *value,
                      size_t size)
{
    return ceph_ll_getxattr(store->mount, inode_of(ref), name, value, size, store->perms);
}

int cx_store_listxattr(struct cx_store *store, struct cx_ref *ref, char *names, size_t size,
                       size_t *used)
{
    return ceph_ll_listxattr(store->mount, inode_of(ref), names, size, used, store->perms);
}

int cx_store_statfs(struct cx_store *store, struct cx_ref *ref, struct statvfs *stats)
{
    return ceph_ll_statfs(store->mount, inode_of(ref), stats);
}

/* files */

int cx_store_open(struct cx_store *store, struct cx_ref *ref, int flags,
                  const struct cx_rights *rights, struct cx_fh **fh)
{
    struct Fh *file = NULL;
    int rc = ceph_ll_open(store->mount, inode_of(ref), flags, &file,
                          rights == NULL ? store->perms : perms_of(rights));

    *fh = (struct cx_fh *)(void *)file;
    return rc;
}

int cx_store_close(struct cx_store *store, struct cx_fh *fh)
{
    return ceph_ll_close(store->mount, file_of(fh));
}

int cx_store_flush(struct cx_store *store, struct cx_fh *fh)
{
    (void)store, (void)fh;
    return 0; /* what was written is safe with an fsync only */
}

int cx_store_read(struct cx_store *store, struct cx_fh *fh, uint64_t offset, uint64_t size,
                  char *data)
{
    return ceph_ll_read(store->mount, file_of(fh), (int64_t)offset, size, data);
}

int cx_store_write(struct cx_store *store, struct cx_fh *fh, bool appends, uint64_t offset,
                   uint64_t size, const char *data)
{
    return ceph_ll_write(store->mount, file_of(fh), appends ? AT_THE_END : (int64_t)offset, size,
                         data);
}

int cx_store_fallocate(struct cx_store *store, struct cx_fh *fh, int mode, int64_t offset,
                       int64_t size)
{
    return ceph_ll_fallocate(store->mount, file_of(fh), mode, offset, size);
}

int cx_store_setlk(struct cx_store *store, struct cx_fh *fh, struct flock *range, uint64_t owner)
{
    return ceph_ll_setlk(store->mount, file_of(fh), range, owner, 0);
}

int cx_store_getlk(struct cx_store *store, struct cx_fh *fh, struct flock *range, uint64_t owner)
{
    return ceph_ll_getlk(store->mount, file_of(fh), range, owner);
}

/* directories */

int cx_store_opendir(struct cx_store *store, struct cx_ref *ref, struct cx_dir **dir)
{
    struct ceph_dir_result *directory = NULL;
    int rc = ceph_ll_opendir(store->mount, inode_of(ref), &directory, store->perms);

    *dir = (struct cx_dir *)(void *)directory;
    return rc;
}

void cx_store_closedir(struct cx_store *store, struct cx_dir *dir)
{
    ceph_ll_releasedir(store->mount, directory_of(dir));
}

int cx_store_readdir(struct cx_store *store, struct cx_dir *dir, struct dirent *entry)
{
    return ceph_readdir_r(store->mount, directory_of(dir), entry);
}

int cx_store_readdirplus(struct cx_store *store, struct cx_dir *dir, struct dirent *entry,
                         struct cx_ref **ref, struct cx_attr *attr)
{
    struct Inode *inode = NULL;
    struct ceph_statx stx;
    int rc = ceph_readdirplus_r(store->mount, directory_of(dir), entry, &stx,
                                CEPH_STATX_BASIC_STATS, AT_SYMLINK_NOFOLLOW, &inode);

    return rc <= 0 ? rc : found(rc, inode, &stx, ref, attr);
}

int64_t cx_store_telldir(struct cx_store *store, struct cx_dir *dir)
{
    return ceph_telldir(store->mount, directory_of(dir));
}

void cx_store_seekdir(struct cx_store *store, struct cx_dir *dir, int64_t cookie)
{
    ceph_seekdir(store->mount, directory_of(dir), cookie);
}
