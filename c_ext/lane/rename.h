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

enum { CX_LOOKED, CX_EXCHANGED, CX_BEGUN, CX_OTHER };

/* Renames, but not what isn't there (see cephfs_ext/storage/ceph_stuck.py), not another inode than
   *moved, and not onto another than *expected, 0 for none; of a NULL nothing is looked at. What
   comes to the new name after the look is lost, so that is the last thing before the rename.
   *how_far says whether one of the names had another inode, whether the rename itself was begun,
   and whether it has moved another inode all the same; that may be gone again. */
static inline int cx_rename(struct ceph_mount_info *cmount, struct Inode *parent, const char *name,
                            struct Inode *newparent, const char *newname, const UserPerm *perms,
                            const uint64_t *moved, const uint64_t *expected, int *how_far)
{
    uint64_t source, target;
    int rc;

    *how_far = CX_LOOKED;
    rc = cx_look(cmount, parent, name, perms, &source);
    if (rc < 0)
        return rc;
    if (moved != NULL && source != *moved) {
        *how_far = CX_EXCHANGED;
        return -EAGAIN;
    }
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
    rc = ceph_ll_rename(cmount, parent, name, newparent, newname, perms);
    if (rc == 0 && moved != NULL && cx_look(cmount, newparent, newname, perms, &target) == 0 &&
        target != *moved)
        *how_far = CX_OTHER;
    return rc;
}

#endif
