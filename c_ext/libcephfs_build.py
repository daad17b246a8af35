"""Builds `c_ext._libcephfs`: the low-level, inode-based API of libcephfs.

The Python binding of Ceph has paths only. Calls release the GIL; all of them may block. Grouped
as libcephfs.h is. libcephfs 16 (Debian 12) or newer.

Source: /usr/include/cephfs/libcephfs.h, /usr/include/cephfs/ceph_ll_client.h.
"""

from __future__ import annotations

from cffi import FFI

ffibuilder = FFI()

ffibuilder.cdef(
    """
    typedef unsigned uid_t;
    typedef unsigned gid_t;
    typedef unsigned mode_t;
    typedef uint64_t dev_t;

    struct ceph_mount_info;
    typedef struct UserPerm UserPerm;
    typedef struct Inode Inode;
    typedef struct Fh Fh;
    struct ceph_dir_result;

    struct timespec { long tv_sec; long tv_nsec; };
    struct ceph_statx {
        uint32_t stx_mask;
        uint32_t stx_blksize;
        uint32_t stx_nlink;
        uint32_t stx_uid;
        uint32_t stx_gid;
        uint16_t stx_mode;
        uint64_t stx_ino;
        uint64_t stx_size;
        uint64_t stx_blocks;
        dev_t stx_dev;
        dev_t stx_rdev;
        struct timespec stx_atime;
        struct timespec stx_ctime;
        struct timespec stx_mtime;
        ...;
    };
    typedef struct inodeno_t { uint64_t val; } inodeno_t;
    typedef struct snapid_t { uint64_t val; } snapid_t;
    typedef struct vinodeno_t { inodeno_t ino; snapid_t snapid; } vinodeno_t;
    struct statvfs {
        unsigned long f_bsize, f_frsize;
        uint64_t f_blocks, f_bfree, f_bavail, f_files, f_ffree, f_favail;
        unsigned long f_namemax;
        ...;
    };
    struct dirent {
        uint64_t d_ino;
        int64_t d_off;
        unsigned char d_type;
        char d_name[256];
        ...;
    };

    #define CEPH_STATX_MODE ...
    #define CEPH_STATX_UID ...
    #define CEPH_STATX_GID ...
    #define CEPH_STATX_BASIC_STATS ...
    #define CEPH_SETATTR_MODE ...
    #define CEPH_SETATTR_UID ...
    #define CEPH_SETATTR_GID ...
    #define CEPH_SETATTR_MTIME ...
    #define CEPH_SETATTR_ATIME ...
    #define CEPH_SETATTR_SIZE ...
    #define CEPH_RECLAIM_RESET ...
    #define AT_SYMLINK_NOFOLLOW ...

    UserPerm *ceph_userperm_new(uid_t uid, gid_t gid, int ngids, gid_t *gidlist);
    void ceph_userperm_destroy(UserPerm *perm);
    const char *ceph_version(int *major, int *minor, int *patch);

    int ceph_create(struct ceph_mount_info **cmount, const char *id);
    int ceph_init(struct ceph_mount_info *cmount);
    int ceph_select_filesystem(struct ceph_mount_info *cmount, const char *fs_name);
    int ceph_mount(struct ceph_mount_info *cmount, const char *root);
    int ceph_unmount(struct ceph_mount_info *cmount);
    int ceph_abort_conn(struct ceph_mount_info *cmount);
    int ceph_release(struct ceph_mount_info *cmount);
    int ceph_conf_read_file(struct ceph_mount_info *cmount, const char *path_list);
    int ceph_conf_get(struct ceph_mount_info *cmount, const char *option, char *buf,
                      size_t len);
    int ceph_conf_set(struct ceph_mount_info *cmount, const char *option, const char *value);
    int ceph_getaddrs(struct ceph_mount_info *cmount, char **addrs);
    int ceph_set_mount_timeout(struct ceph_mount_info *cmount, uint32_t timeout);
    int ceph_sync_fs(struct ceph_mount_info *cmount);
    int ceph_get_default_data_pool_name(struct ceph_mount_info *cmount, char *buf, size_t buflen);

    int ceph_mds_command(struct ceph_mount_info *cmount, const char *mds_spec, const char **cmd,
                         size_t cmdlen, const char *inbuf, size_t inbuflen, char **outbuf,
                         size_t *outbuflen, char **outs, size_t *outslen);
    void ceph_buffer_free(char *buf);

    int ceph_readdirplus_r(struct ceph_mount_info *cmount, struct ceph_dir_result *dirp,
                           struct dirent *de, struct ceph_statx *stx, unsigned want,
                           unsigned flags, struct Inode **out);
    int ceph_readdir_r(struct ceph_mount_info *cmount, struct ceph_dir_result *dirp,
                       struct dirent *de);
    int64_t ceph_telldir(struct ceph_mount_info *cmount, struct ceph_dir_result *dirp);
    void ceph_seekdir(struct ceph_mount_info *cmount, struct ceph_dir_result *dirp,
                      int64_t offset);

    int ceph_ll_lookup_inode(struct ceph_mount_info *cmount, struct inodeno_t ino, Inode **inode);
    struct Inode *ceph_ll_get_inode(struct ceph_mount_info *cmount, vinodeno_t vino);
    int ceph_ll_lookup_root(struct ceph_mount_info *cmount, Inode **parent);
    int ceph_ll_lookup(struct ceph_mount_info *cmount, Inode *parent, const char *name,
                       Inode **out, struct ceph_statx *stx, unsigned want, unsigned flags,
                       const UserPerm *perms);
    int ceph_ll_put(struct ceph_mount_info *cmount, struct Inode *in);
    int ceph_ll_forget(struct ceph_mount_info *cmount, struct Inode *in, int count);
    int ceph_ll_getattr(struct ceph_mount_info *cmount, struct Inode *in,
                        struct ceph_statx *stx, unsigned int want, unsigned int flags,
                        const UserPerm *perms);
    int ceph_ll_setattr(struct ceph_mount_info *cmount, struct Inode *in,
                        struct ceph_statx *stx, int mask, const UserPerm *perms);
    int ceph_ll_open(struct ceph_mount_info *cmount, struct Inode *in, int flags,
                     struct Fh **fh, const UserPerm *perms);
    int ceph_ll_read(struct ceph_mount_info *cmount, struct Fh *filehandle, int64_t off,
                     uint64_t len, char *buf);
    int ceph_ll_fsync(struct ceph_mount_info *cmount, struct Fh *fh, int syncdataonly);
    int ceph_ll_sync_inode(struct ceph_mount_info *cmount, struct Inode *in, int syncdataonly);
    int ceph_ll_write(struct ceph_mount_info *cmount, struct Fh *filehandle, int64_t off,
                      uint64_t len, const char *data);
    int ceph_ll_close(struct ceph_mount_info *cmount, struct Fh *filehandle);
    int ceph_ll_getxattr(struct ceph_mount_info *cmount, struct Inode *in, const char *name,
                         void *value, size_t size, const UserPerm *perms);
    int ceph_ll_setxattr(struct ceph_mount_info *cmount, struct Inode *in, const char *name,
                         const void *value, size_t size, int flags, const UserPerm *perms);
    int ceph_ll_listxattr(struct ceph_mount_info *cmount, struct Inode *in, char *list,
                          size_t buf_size, size_t *list_size, const UserPerm *perms);
    int ceph_ll_removexattr(struct ceph_mount_info *cmount, struct Inode *in, const char *name,
                            const UserPerm *perms);
    int ceph_ll_create(struct ceph_mount_info *cmount, Inode *parent, const char *name,
                       mode_t mode, int oflags, Inode **outp, Fh **fhp, struct ceph_statx *stx,
                       unsigned want, unsigned lflags, const UserPerm *perms);
    int ceph_ll_mknod(struct ceph_mount_info *cmount, Inode *parent, const char *name,
                      mode_t mode, dev_t rdev, Inode **out, struct ceph_statx *stx,
                      unsigned want, unsigned flags, const UserPerm *perms);
    int ceph_ll_mkdir(struct ceph_mount_info *cmount, Inode *parent, const char *name,
                      mode_t mode, Inode **out, struct ceph_statx *stx, unsigned want,
                      unsigned flags, const UserPerm *perms);
    int ceph_ll_link(struct ceph_mount_info *cmount, struct Inode *in, struct Inode *newparent,
                     const char *name, const UserPerm *perms);
    int ceph_ll_opendir(struct ceph_mount_info *cmount, struct Inode *in,
                        struct ceph_dir_result **dirpp, const UserPerm *perms);
    int ceph_ll_releasedir(struct ceph_mount_info *cmount, struct ceph_dir_result *dir);
    int ceph_ll_rename(struct ceph_mount_info *cmount, struct Inode *parent, const char *name,
                       struct Inode *newparent, const char *newname, const UserPerm *perms);
    enum { CX_LOOKED, CX_EXCHANGED, CX_BEGUN, CX_OTHER, ... };
    int cx_rename(struct ceph_mount_info *cmount, struct Inode *parent, const char *name,
                  struct Inode *newparent, const char *newname, const UserPerm *perms,
                  const uint64_t *moved, const uint64_t *expected, int *how_far);
    void cx_move_many(struct ceph_mount_info *cmount, struct Inode *parent, const char *names,
                      struct Inode *newparent, const char *newnames, const uint64_t *moved,
                      size_t count, const UserPerm *perms, int *errors, int *how_far,
                      size_t *done);
    int ceph_ll_unlink(struct ceph_mount_info *cmount, struct Inode *in, const char *name,
                       const UserPerm *perms);
    void cx_unlink_many(struct ceph_mount_info *cmount, struct Inode *parent, const char *names,
                        size_t count, const UserPerm *perms, int *errors, size_t *done);
    int ceph_ll_statfs(struct ceph_mount_info *cmount, struct Inode *in, struct statvfs *stbuf);
    int ceph_ll_readlink(struct ceph_mount_info *cmount, struct Inode *in, char *buf,
                         size_t bufsize, const UserPerm *perms);
    int ceph_ll_symlink(struct ceph_mount_info *cmount, Inode *in, const char *name,
                        const char *value, Inode **out, struct ceph_statx *stx, unsigned want,
                        unsigned flags, const UserPerm *perms);
    int ceph_ll_rmdir(struct ceph_mount_info *cmount, struct Inode *in, const char *name,
                      const UserPerm *perms);

    #define CEPH_DELEGATION_NONE ...
    #define CEPH_DELEGATION_WR ...
    int ceph_set_deleg_timeout(struct ceph_mount_info *cmount, uint32_t timeout);
    int ceph_ll_delegation(struct ceph_mount_info *cmount, Fh *fh, unsigned cmd,
                           void (*cb)(Fh *fh, void *priv), void *priv);
    void cx_recall_ignored(Fh *fh, void *priv);

    mode_t ceph_umask(struct ceph_mount_info *cmount, mode_t mode);

    void ceph_set_uuid(struct ceph_mount_info *cmount, const char *uuid);
    int ceph_start_reclaim(struct ceph_mount_info *cmount, const char *uuid, unsigned flags);
    void ceph_finish_reclaim(struct ceph_mount_info *cmount);
    """
)

ffibuilder.set_source(
    "c_ext._libcephfs",
    """
    #define FUSE_USE_VERSION 31
    #include <errno.h>
    #include <fcntl.h>
    #include <dirent.h>
    #include <string.h>
    #include <sys/statvfs.h>
    #include <sys/types.h>
    #include <cephfs/libcephfs.h>
    #include "rename.h"

    /* For delegations that are returned at once, whether they are recalled or not. */
    static void cx_recall_ignored(Fh *fh, void *priv)
    {
        (void)fh;
        (void)priv;
    }

    /* Unlinks names, each ended by a zero byte, one after the other. errors[i] is 0 or an errno;
       *done, which other threads may read meanwhile, says how many are over. */
    static void cx_unlink_many(struct ceph_mount_info *cmount, struct Inode *parent,
                               const char *names, size_t count, const UserPerm *perms,
                               int *errors, size_t *done)
    {
        for (size_t i = 0; i < count; i++, names += strlen(names) + 1) {
            errors[i] = -ceph_ll_unlink(cmount, parent, names, perms);
            __atomic_store_n(done, i + 1, __ATOMIC_RELEASE);
        }
    }

    /* Renames names, each ended by a zero byte, from one directory to another, one after the
       other; arrays as above, and how_far as cx_rename has it. */
    static void cx_move_many(struct ceph_mount_info *cmount, struct Inode *parent,
                             const char *names, struct Inode *newparent, const char *newnames,
                             const uint64_t *moved, size_t count, const UserPerm *perms,
                             int *errors, int *how_far, size_t *done)
    {
        for (size_t i = 0; i < count; i++) {
            errors[i] = -cx_rename(cmount, parent, names, newparent, newnames, perms, &moved[i],
                                   NULL, &how_far[i]);
            names += strlen(names) + 1;
            newnames += strlen(newnames) + 1;
            __atomic_store_n(done, i + 1, __ATOMIC_RELEASE);
        }
    }
    """,
    include_dirs=["c_ext/lane"],
    libraries=["cephfs"],
    define_macros=[("_FILE_OFFSET_BITS", "64")],
    extra_compile_args=["-std=gnu11", "-Wall"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
