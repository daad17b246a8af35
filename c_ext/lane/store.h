/* The storage, as far as the lane asks it: what libcephfs or a local directory does for it.

   There is one set of functions, and each extension module is linked with one implementation of it:
   store_ceph.c or store_posix.c. What calls them knows nothing of either.

   Whatever returns an int returns 0, or a count, or -errno. References, open files and directories
   are opaque, and belong to whom a function returns them; they are never NULL.

   Concurrency: any thread at any time; a directory is read by one at a time. All of it may block. */

#ifndef CX_LANE_STORE_H
#define CX_LANE_STORE_H

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

struct cx_store;  /* a session */
struct cx_ref;    /* a counted reference to an inode */
struct cx_fh;     /* an open file */
struct cx_dir;    /* an open directory, and where it stands */
struct cx_rights; /* whose rights something is done with */

/* What an inode is like. */
struct cx_attr {
    uint64_t ino;
    uint64_t size;
    uint64_t blocks;
    uint64_t rdev;
    struct timespec atime;
    struct timespec mtime;
    struct timespec ctime;
    uint32_t mode;
    uint32_t nlink;
    uint32_t uid;
    uint32_t gid;
    uint32_t blksize;
    bool is_live; /* it is one that the lane answers for: not in a snapshot, nor elsewhere */
};

/* What is to be changed of an inode. */
struct cx_change {
    uint32_t uid; /* UINT32_MAX: as it is, like `gid` */
    uint32_t gid;
    uint32_t mode;
    bool has_mode;
    struct timespec atime; /* tv_nsec may be UTIME_NOW and UTIME_OMIT, like `mtime` */
    struct timespec mtime;
};

/* Of what is made: its mode, and the umask, which plays no part below a default list. */
struct cx_made_as {
    mode_t mode;
    mode_t umask;
};

/* Tells whether locks are the storage's to keep, between gateways: else the kernel keeps them. */
bool cx_store_has_locks(const struct cx_store *store);

/* rights */

/* Takes copies of nothing: `groups` has to live as long. NULL without memory. */
struct cx_rights *cx_store_rights_new(uint32_t uid, uint32_t gid, size_t count, gid_t *groups);
void cx_store_rights_free(struct cx_rights *rights);

/* names; what looks does so as the gateway */

int cx_store_root(struct cx_store *store, struct cx_ref **root, struct cx_attr *attr);
int cx_store_lookup(struct cx_store *store, struct cx_ref *parent, const char *name,
                    struct cx_ref **found, struct cx_attr *attr);
void cx_store_put(struct cx_store *store, struct cx_ref *ref);

int cx_store_mkdir(struct cx_store *store, struct cx_ref *parent, const char *name,
                   struct cx_made_as as, const struct cx_rights *rights, struct cx_ref **made,
                   struct cx_attr *attr);

/* Makes a regular file, a FIFO or a socket. */
int cx_store_mknod(struct cx_store *store, struct cx_ref *parent, const char *name,
                   struct cx_made_as as, const struct cx_rights *rights, struct cx_ref **made,
                   struct cx_attr *attr);
int cx_store_symlink(struct cx_store *store, struct cx_ref *parent, const char *name,
                     const char *target, const struct cx_rights *rights, struct cx_ref **made,
                     struct cx_attr *attr);

/* Makes a regular file, and opens it; EEXIST if the name is there. */
int cx_store_create(struct cx_store *store, struct cx_ref *parent, const char *name,
                    struct cx_made_as as, int flags, const struct cx_rights *rights,
                    struct cx_ref **made, struct cx_fh **fh, struct cx_attr *attr);

/* Renames within a directory, to a name that nothing has: EEXIST or EAGAIN if something has it. */
int cx_store_rename_new(struct cx_store *store, struct cx_ref *directory, const char *name,
                        const char *new_name, const struct cx_rights *rights);

/* inodes */

/* Says what kind of inode it is, and who may what with it, also where others change the content at
   this moment and all else would have to be asked for. */
int cx_store_mode(struct cx_store *store, struct cx_ref *ref, uint32_t *mode);

int cx_store_getattr(struct cx_store *store, struct cx_ref *ref, struct cx_attr *attr);

/* NULL stands for the rights of the gateway. */
int cx_store_setattr(struct cx_store *store, struct cx_ref *ref, const struct cx_change *change,
                     const struct cx_rights *rights);

/* Returns the version of an inode, which any change of it changes; 0 if it isn't known. */
uint64_t cx_store_version(struct cx_store *store, struct cx_ref *ref, uint64_t *ino);

/* Returns how long the target of a symbolic link is; it isn't ended by a zero byte. */
int cx_store_readlink(struct cx_store *store, struct cx_ref *ref, char *target, size_t size);
int cx_store_getxattr(struct cx_store *store, struct cx_ref *ref, const char *name, void *value,
                      size_t size);
int cx_store_listxattr(struct cx_store *store, struct cx_ref *ref, char *names, size_t size,
                       size_t *used);
int cx_store_statfs(struct cx_store *store, struct cx_ref *ref, struct statvfs *found);

/* files */

/* Opens a regular file; NULL stands for the rights of the gateway. */
int cx_store_open(struct cx_store *store, struct cx_ref *ref, int flags,
                  const struct cx_rights *rights, struct cx_fh **fh);
int cx_store_close(struct cx_store *store, struct cx_fh *fh);

/* Does what there is to do when a descriptor of a file is closed. */
int cx_store_flush(struct cx_store *store, struct cx_fh *fh);
int cx_store_read(struct cx_store *store, struct cx_fh *fh, uint64_t offset, uint64_t size,
                  char *data);

/* Writes, at the end if the file `appends`, as it was opened. */
int cx_store_write(struct cx_store *store, struct cx_fh *fh, bool appends, uint64_t offset,
                   uint64_t size, const char *data);
int cx_store_fallocate(struct cx_store *store, struct cx_fh *fh, int mode, int64_t offset,
                       int64_t size);

/* Locks a range for an owner, without waiting, or says what is in the way. */
int cx_store_setlk(struct cx_store *store, struct cx_fh *fh, struct flock *range, uint64_t owner);
int cx_store_getlk(struct cx_store *store, struct cx_fh *fh, struct flock *range, uint64_t owner);

/* directories */

int cx_store_opendir(struct cx_store *store, struct cx_ref *ref, struct cx_dir **dir);
void cx_store_closedir(struct cx_store *store, struct cx_dir *dir);

/* Reads the next entry: 1, or 0 at the end. The second also looks it up; where it can't, the
   reference is NULL, and `attr` says no more than the entry, and that it isn't live. */
int cx_store_readdir(struct cx_store *store, struct cx_dir *dir, struct dirent *entry);
int cx_store_readdirplus(struct cx_store *store, struct cx_dir *dir, struct dirent *entry,
                         struct cx_ref **found, struct cx_attr *attr);

/* Where a directory stands: behind the entry that was read last; 0 is its beginning. */
int64_t cx_store_telldir(struct cx_store *store, struct cx_dir *dir);
void cx_store_seekdir(struct cx_store *store, struct cx_dir *dir, int64_t cookie);

#endif
