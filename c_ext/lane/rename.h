/* Renames through libcephfs, with a last look at both names. */

#ifndef CX_RENAME_H
#define CX_RENAME_H

#include <errno.h>
#include <stdint.h>

#include <cephfs/libcephfs.h>

/* Returns the number of what has a name, 0 if nothing has, or an error. */
static inline int cx_look(struct ceph_mount_info *cmount, struct Inode *parent, const char *name,
                          const UserPerm *perms, uint64_t *ino)
{
    struct Inode *found = NULL;
    struct ceph_statx stx;
    int rc = ceph_ll_lookup(cmount, parent, name, &found, &stx, CEPH_STATX_INO, 0, perms);

    *ino = rc == 0 ? stx.stx_ino : 0;
    if (rc == 0)
        ceph_ll_put(cmount, found);
    return rc;
}

enum { CX_LOOKED, CX_EXCHANGED, CX_BEGUN };

/* Renames, but not what isn't there (see cephfs_ext/storage/ceph_stuck.py), and not onto another
   inode than *expected, 0 for none, unless that is NULL: what comes to the new name after the look
   is lost, so that is the last thing before the rename. *how_far says whether the new name had
   another inode, and whether the rename itself was begun. */
static inline int cx_rename(struct ceph_mount_info *cmount, struct Inode *parent, const char *name,
                            struct Inode *newparent, const char *newname, const UserPerm *perms,
                            const uint64_t *expected, int *how_far)
{
    uint64_t source, target;
    int rc;

    *how_far = CX_LOOKED;
    rc = cx_look(cmount, parent, name, perms, &source);
    if (rc < 0)
        return rc;
    if (expected != NULL) {
        rc = cx_look(cmount, newparent, newname, perms, &target);
        if (rc < 0 && rc != -ENOENT)
            return rc;
        if (target != *expected) {
            *how_far = CX_EXCHANGED;
            return -EAGAIN;
        }
    }
    *how_far = CX_BEGUN;
    return ceph_ll_rename(cmount, parent, name, newparent, newname, perms);
}

#endif
