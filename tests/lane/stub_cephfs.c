#include "stub_cephfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <cephfs/libcephfs.h>

#define LIVE_DEVICE UINT64_C(0xfffffffffffffffe)
#define SNAPSHOT_DEVICE 7u
#define NAME_MAX_ 255u
#define DOTS 2u
#define AT_THE_END (-1)
#define SMALL_XATTR 300u

struct Inode {
    unsigned index;
};

struct Fh {
    bool appends;
    atomic_int locking; /* how many ask for locks just now */
};

struct UserPerm {
    uid_t uid;
    gid_t gid;
    int count;
    gid_t *groups;
};

struct ceph_dir_result {
    unsigned index;
    uint64_t at; /* how many entries have been read, `.` and `..` among them */
};

static struct {
    char name[NAME_MAX_ + 1];
    unsigned index[STUB_INODES]; /* what is there, by directory */
} entries[STUB_ENTRIES];

static uint64_t seed;
static atomic_ulong threads, given, put, wrong;
static _Thread_local uint64_t state;

static const int ERRORS[] = {-ENOENT,  -EIO,       -ESHUTDOWN, -EACCES, -ENOTDIR, -ENODATA,
                             -ERANGE,  -EOPNOTSUPP, -ENOMEM,   -EINTR,  -ESTALE,  -ETIMEDOUT,
                             -ENOTCONN};

/* Counts without ordering anything between threads, which would hide races. */
static void count(atomic_ulong *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* Draws for the thread that calls. */
static uint64_t draw(uint64_t below)
{
    if (state == 0)
        state = (seed + atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed) + 1) *
                UINT64_C(0x9e3779b97f4a7c15);
    return stub_draw(&state, below);
}

/* Returns an error in one of so many calls, else 0; lets other threads run now and then. */
static int failing(uint64_t calls)
{
    if (draw(16) == 0)
        sched_yield();
    return draw(calls) == 0 ? ERRORS[draw(sizeof(ERRORS) / sizeof(ERRORS[0]))] : 0;
}

static void *or_die(void *memory)
{
    if (memory == NULL)
        abort();
    return memory;
}

static void make_name(char *name, unsigned entry)
{
    static const char *const specials[] = {".trashbin", ".snap", "...", ".a"};
    static const size_t lengths[] = {1, 255, 254, 7, 8, 9};
    size_t length = entry % 2 ? 1 + draw(NAME_MAX_) : lengths[draw(6)];

    memset(name, 0, NAME_MAX_ + 1);
    if (entry < sizeof(specials) / sizeof(specials[0])) {
        strcpy(name, specials[entry]);
        return;
    }
    name[0] = (char)('a' + entry);
    for (size_t i = 1; i < length; i++) {
        char byte = (char)(1 + draw(255));
        name[i] = byte == '/' ? '_' : byte;
    }
}

void stub_init(uint64_t number)
{
    seed = number;
    for (unsigned i = 0; i < STUB_ENTRIES; i++) {
        make_name(entries[i].name, i);
        for (unsigned j = 0; j < STUB_INODES; j++)
            entries[i].index[j] = (unsigned)draw(STUB_INODES);
    }
}

uint64_t stub_ino(unsigned index)
{
    return index == 1 ? 1 : STUB_FIRST_INO + index;
}

bool stub_is_dir(unsigned index)
{
    return index % 3 == 0;
}

const char *stub_name(unsigned entry)
{
    return entries[entry].name;
}

static struct Inode *refer(unsigned index)
{
    struct Inode *inode = or_die(malloc(sizeof(*inode)));

    inode->index = index;
    count(&given);
    return inode;
}

static struct Fh *open_file(bool appends)
{
    struct Fh *fh = or_die(malloc(sizeof(*fh)));

    fh->appends = appends;
    fh->locking = 0;
    return fh;
}

struct cx_ref *stub_reference(unsigned index)
{
    return (struct cx_ref *)(void *)refer(index);
}

void stub_give_back(struct cx_ref *ref)
{
    ceph_ll_put(NULL, (struct Inode *)(void *)ref);
}

struct cx_fh *stub_open(bool appends)
{
    return (struct cx_fh *)(void *)open_file(appends);
}

unsigned long stub_given(void)
{
    return given;
}

unsigned long stub_put(void)
{
    return put;
}

unsigned long stub_wrong(void)
{
    return wrong;
}

static void fill(struct ceph_statx *stx, unsigned index)
{
    mode_t type = stub_is_dir(index) ? S_IFDIR : index % 3 == 1 ? S_IFREG : S_IFLNK;

    memset(stx, 0, sizeof(*stx));
    stx->stx_ino = stub_ino(index);
    stx->stx_mode = (uint16_t)(type | 0755);
    stx->stx_nlink = (uint32_t)(draw(8) == 0 ? draw(3) : 1);
    stx->stx_size = draw(UINT64_MAX);
    stx->stx_mtime.tv_sec = (time_t)draw(UINT64_MAX);
    stx->stx_dev = draw(12) == 0 ? SNAPSHOT_DEVICE : draw(2) ? LIVE_DEVICE : 0;
}

/* Checks what something is made with: rights whose groups are still there. */
static void check_made(const struct Inode *parent, const char *name, const struct UserPerm *perms)
{
    uint64_t sum = 0;

    if (parent->index >= STUB_INODES || strlen(name) == 0 || strlen(name) > NAME_MAX_)
        abort();
    for (int i = 0; i < perms->count; i++)
        sum += perms->groups[i];
    if (sum == UINT64_MAX || perms->uid + perms->gid == UINT32_MAX)
        abort();
}

/* libcephfs */

int ceph_ll_lookup_root(struct ceph_mount_info *mount, Inode **root)
{
    (void)mount;
    *root = refer(0);
    return 0;
}

int ceph_ll_lookup(struct ceph_mount_info *mount, Inode *parent, const char *name, Inode **out,
                   struct ceph_statx *stx, unsigned want, unsigned flags, const UserPerm *perms)
{
    unsigned directory = parent->index;
    int rc = failing(8);

    (void)mount, (void)want, (void)flags, (void)perms;
    if (strlen(name) > NAME_MAX_)
        abort();
    if (rc != 0 && rc != -ENOENT) /* what is absent isn't listed, either */
        return rc;
    for (unsigned i = 0; i < STUB_ENTRIES; i++) {
        if (strcmp(entries[i].name, name) == 0) {
            *out = refer(entries[i].index[directory]);
            fill(stx, (*out)->index);
            return 0;
        }
    }
    return -ENOENT;
}

int ceph_ll_put(struct ceph_mount_info *mount, Inode *inode)
{
    (void)mount;
    if (inode->index >= STUB_INODES)
        abort();
    count(&put);
    free(inode);
    return 0;
}

int ceph_ll_getattr(struct ceph_mount_info *mount, Inode *inode, struct ceph_statx *stx,
                    unsigned want, unsigned flags, const UserPerm *perms)
{
    int rc = failing(12);

    (void)mount, (void)want, (void)flags, (void)perms;
    if (rc == 0)
        fill(stx, inode->index);
    return rc;
}

int ceph_ll_readlink(struct ceph_mount_info *mount, Inode *inode, char *buffer, size_t size,
                     const UserPerm *perms)
{
    size_t length = draw(8) == 0 ? size : inode->index;
    int rc = failing(8);

    (void)mount, (void)perms;
    memset(buffer, 'l', length < size ? length : size);
    return rc != 0 ? rc : (int)length;
}

int ceph_ll_getxattr(struct ceph_mount_info *mount, Inode *inode, const char *name, void *value,
                     size_t size, const UserPerm *perms)
{
    size_t length = draw(8) == 0 ? size : draw(SMALL_XATTR);
    int rc = failing(6);

    (void)mount, (void)perms;
    if (inode->index >= STUB_INODES)
        abort();
    if (rc != 0 || strlen(name) == 0)
        return rc;
    if (size == 0)
        return (int)length;
    if (length > size)
        return -ERANGE;
    memset(value, 'x', length);
    return (int)length;
}

/* Names, some of which aren't to be listed. */
int ceph_ll_listxattr(struct ceph_mount_info *mount, struct Inode *inode, char *list, size_t size,
                      size_t *list_size, const UserPerm *perms)
{
    static const char names[][32] = {"user.a", "ceph.dir", "trusted.cephfs_ext.promised", "user.bb"};
    int rc = failing(8);

    (void)mount, (void)perms;
    if (inode->index >= STUB_INODES || size < sizeof(names))
        abort();
    *list_size = 0;
    for (uint64_t i = draw(8); rc == 0 && i > 0; i--) {
        const char *name = names[draw(4)];
        strcpy(list + *list_size, name);
        *list_size += strlen(name) + 1;
    }
    return rc;
}

int ceph_ll_statfs(struct ceph_mount_info *mount, struct Inode *inode, struct statvfs *found)
{
    (void)mount;
    if (inode->index >= STUB_INODES)
        abort();
    found->f_bsize = 1u << 22;
    return failing(8);
}

int ceph_ll_fallocate(struct ceph_mount_info *mount, struct Fh *fh, int mode, int64_t offset,
                      int64_t length)
{
    (void)mount, (void)mode, (void)fh->appends;
    return offset < 0 || length <= 0 ? -EINVAL : failing(8);
}

/* Draws how much of something that long is done at once. */
static uint64_t part_of(uint64_t length)
{
    return draw(4) != 0 ? length : draw(length + 1);
}

int ceph_ll_read(struct ceph_mount_info *mount, struct Fh *fh, int64_t offset, uint64_t length,
                 char *buffer)
{
    uint64_t done = part_of(length);
    int rc = failing(16);

    (void)mount, (void)fh->appends;
    if (rc != 0)
        return rc;
    for (uint64_t i = 0; i < done; i++)
        buffer[i] = stub_byte((uint64_t)offset + i);
    return (int)done;
}

int ceph_ll_write(struct ceph_mount_info *mount, struct Fh *fh, int64_t offset, uint64_t length,
                  const char *data)
{
    uint64_t done = part_of(length), others = 0;
    int rc = failing(16);

    (void)mount;
    if (fh->appends && offset != AT_THE_END)
        count(&wrong);
    for (uint64_t i = 0; i < length; i++)
        others += data[i] != stub_byte((uint64_t)offset + i);
    if (!fh->appends && others > 0)
        count(&wrong);
    return rc != 0 ? rc : (int)done;
}

int ceph_ll_open(struct ceph_mount_info *mount, Inode *inode, int flags, struct Fh **out,
                 const UserPerm *perms)
{
    int rc = failing(8);

    (void)mount, (void)perms;
    if (inode->index >= STUB_INODES || flags & O_TRUNC)
        abort();
    if (rc == 0)
        *out = open_file((flags & O_APPEND) != 0);
    return rc;
}

/* Asks for something of locks, which libcephfs stands of one inode by one at a time only; here two
   ids may lead to one. */
static int ask_for_lock(struct Fh *fh, const struct flock *range)
{
    int rc = draw(2) == 0 ? failing(8) : range->l_type != F_UNLCK ? -EAGAIN : 0;

    if (range->l_whence != SEEK_SET || range->l_start < 0 || range->l_len < 0)
        abort();
    if (atomic_fetch_add_explicit(&fh->locking, 1, memory_order_relaxed) != 0)
        count(&wrong);
    sched_yield();
    atomic_fetch_sub_explicit(&fh->locking, 1, memory_order_relaxed);
    return rc;
}

int ceph_ll_setlk(struct ceph_mount_info *mount, Fh *fh, struct flock *range, uint64_t owner,
                  int sleep)
{
    (void)mount, (void)owner;
    if (sleep)
        abort();
    return ask_for_lock(fh, range);
}

int ceph_ll_getlk(struct ceph_mount_info *mount, Fh *fh, struct flock *range, uint64_t owner)
{
    int rc = ask_for_lock(fh, range);

    (void)mount, (void)owner;
    range->l_type = draw(2) ? F_UNLCK : F_WRLCK;
    range->l_len = (off_t)draw(3);
    range->l_pid = (pid_t)draw(3);
    return rc == -EAGAIN ? 0 : rc;
}

/* Makes something: one of the inodes that there are, of the same type. */
static int make(struct Inode **out, struct ceph_statx *stx, mode_t type)
{
    unsigned index = S_ISDIR(type) ? 0 : S_ISREG(type) ? 1 : 2;
    int rc = failing(8);

    if (rc != 0)
        return rc;
    index += 3 * (1 + (unsigned)draw(STUB_INODES / 3 - 1));
    *out = refer(index);
    fill(stx, index);
    stx->stx_mode = (uint16_t)(type | 0644);
    stx->stx_dev = LIVE_DEVICE;
    return 0;
}

int ceph_ll_mkdir(struct ceph_mount_info *mount, Inode *parent, const char *name, mode_t mode,
                  Inode **out, struct ceph_statx *stx, unsigned want, unsigned flags,
                  const UserPerm *perms)
{
    (void)mount, (void)mode, (void)want, (void)flags;
    check_made(parent, name, perms);
    return make(out, stx, S_IFDIR);
}

int ceph_ll_mknod(struct ceph_mount_info *mount, Inode *parent, const char *name, mode_t mode,
                  dev_t rdev, Inode **out, struct ceph_statx *stx, unsigned want, unsigned flags,
                  const UserPerm *perms)
{
    (void)mount, (void)rdev, (void)want, (void)flags;
    check_made(parent, name, perms);
    return make(out, stx, mode & S_IFMT);
}

int ceph_ll_symlink(struct ceph_mount_info *mount, Inode *parent, const char *name,
                    const char *target, Inode **out, struct ceph_statx *stx, unsigned want,
                    unsigned flags, const UserPerm *perms)
{
    (void)mount, (void)want, (void)flags;
    check_made(parent, name, perms);
    if (strlen(target) == 0)
        abort();
    return make(out, stx, S_IFLNK);
}

int ceph_ll_create(struct ceph_mount_info *mount, Inode *parent, const char *name, mode_t mode,
                   int flags, Inode **out, struct Fh **fh, struct ceph_statx *stx, unsigned want,
                   unsigned other, const UserPerm *perms)
{
    int rc;

    (void)mount, (void)mode, (void)want, (void)other;
    check_made(parent, name, perms);
    if ((flags & (O_CREAT | O_EXCL | O_TRUNC)) != (O_CREAT | O_EXCL))
        abort();
    rc = make(out, stx, S_IFREG);
    if (rc == 0)
        *fh = open_file((flags & O_APPEND) != 0);
    return rc;
}

int ceph_ll_rename(struct ceph_mount_info *mount, Inode *parent, const char *name,
                   Inode *new_parent, const char *new_name, const UserPerm *perms)
{
    (void)mount;
    check_made(parent, name, perms);
    check_made(new_parent, new_name, perms);
    return failing(8);
}

int ceph_ll_setattr(struct ceph_mount_info *mount, Inode *inode, struct ceph_statx *stx, int mask,
                    const UserPerm *perms)
{
    (void)mount;
    if (inode->index >= STUB_INODES || perms == NULL || mask == 0 ||
        mask & ~(CEPH_SETATTR_MODE | CEPH_SETATTR_UID | CEPH_SETATTR_GID | CEPH_SETATTR_MTIME |
                 CEPH_SETATTR_ATIME) || stx->stx_mode > 07777)
        abort();
    return failing(8);
}

UserPerm *ceph_userperm_new(uid_t uid, gid_t gid, int count, gid_t *groups)
{
    struct UserPerm *perms = or_die(malloc(sizeof(*perms)));

    *perms = (struct UserPerm){uid, gid, count, groups};
    return perms;
}

void ceph_userperm_destroy(UserPerm *perms)
{
    free(perms);
}

int ceph_ll_close(struct ceph_mount_info *mount, struct Fh *fh)
{
    (void)mount;
    free(fh);
    return failing(8);
}

int ceph_ll_opendir(struct ceph_mount_info *mount, Inode *inode, struct ceph_dir_result **out,
                    const UserPerm *perms)
{
    int rc = failing(8);

    (void)mount, (void)perms;
    if (rc != 0)
        return rc;
    *out = or_die(calloc(1, sizeof(**out)));
    (*out)->index = inode->index;
    return 0;
}

int ceph_ll_releasedir(struct ceph_mount_info *mount, struct ceph_dir_result *directory)
{
    (void)mount;
    free(directory);
    return 0;
}

int ceph_readdirplus_r(struct ceph_mount_info *mount, struct ceph_dir_result *directory,
                       struct dirent *de, struct ceph_statx *stx, unsigned want, unsigned flags,
                       Inode **out)
{
    int rc = failing(48);
    unsigned index = directory->index;
    uint64_t at = directory->at;

    (void)mount, (void)want, (void)flags;
    if (rc != 0)
        return rc;
    if (at >= STUB_ENTRIES + DOTS)
        return 0;
    memset(de, 0, sizeof(*de));
    if (at < DOTS) {
        strcpy(de->d_name, at == 0 ? "." : "..");
    } else {
        memcpy(de->d_name, entries[at - DOTS].name, sizeof(entries[0].name));
        index = entries[at - DOTS].index[index];
    }
    directory->at++;
    fill(stx, index);
    *out = refer(index);
    return 1;
}

int ceph_readdir_r(struct ceph_mount_info *mount, struct ceph_dir_result *directory,
                   struct dirent *de)
{
    struct ceph_statx stx;
    struct Inode *inode;
    int rc = ceph_readdirplus_r(mount, directory, de, &stx, 0, 0, &inode);

    if (rc > 0)
        ceph_ll_put(mount, inode);
    return rc;
}

int64_t ceph_telldir(struct ceph_mount_info *mount, struct ceph_dir_result *directory)
{
    (void)mount;
    return (int64_t)(directory->at << STUB_COOKIE_SHIFT);
}

void ceph_seekdir(struct ceph_mount_info *mount, struct ceph_dir_result *directory, int64_t offset)
{
    uint64_t at = (uint64_t)offset >> STUB_COOKIE_SHIFT;

    (void)mount;
    directory->at = at < STUB_ENTRIES + DOTS ? at : STUB_ENTRIES + DOTS;
}
