/* What makes names and changes attributes, as far as that needs no decision. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "inside.h"
#include "rename.h"

#define TARGET_LONGEST 4095u
#define DEFAULT_ACL "system.posix_acl_default"

/* What a change of attributes may have in it to be made here; of a size, content may be kept. */
#define CHANGES (FATTR_MODE | FATTR_UID | FATTR_GID | TIMES)
#define TIMES (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW)
#define IGNORED (FATTR_FH | FATTR_LOCKOWNER | FATTR_CTIME)

/* A name that is about to be made. */
struct making {
    const char *name;
    struct cx_known directory;
    struct cx_inode *inode; /* the directory's */
    const UserPerm *perms;
};

const UserPerm *cx_perms_of(const struct request *request)
{
    return cx_credentials_of(request->thread->credentials, request->in->uid, request->in->gid,
                             request->in->pid);
}

static struct cx_name place_of(const struct making *making)
{
    return (struct cx_name){making->directory.id, making->name, strlen(making->name)};
}

/* The name as those know it who change names: by the number of the directory. */
static struct cx_name lock_of(const struct making *making)
{
    return (struct cx_name){making->directory.ino, making->name, strlen(making->name)};
}

/* Begins to make the name that stands in a request behind the first `offset` bytes; false if it is
   Python's to do. Then nobody else changes the name, but for those who don't ask. */
static bool begin_making(struct request *request, size_t offset, struct making *making)
{
    struct cx_lane *lane = request->lane;

    making->name = cx_name_in(request, offset);
    if (lane->passes_changes != 0 || !cx_is_usual_name(making->name))
        return false;
    making->perms = cx_perms_of(request);
    if (making->perms == NULL)
        return false;
    making->inode = cx_use(request, &making->directory);
    if (making->inode == NULL)
        return false;
    if (cx_names_has(lane->hidden, place_of(making)) ||
        !cx_names_take(lane->busy, lock_of(making))) {
        cx_inode_release(lane->nodes, making->inode);
        return false;
    }
    cx_nodes_touched(lane->nodes, making->directory.id);
    cx_note_lookup(request->thread, making->directory.ino, making->name);
    return true;
}

static void end_making(struct request *request, struct making *making)
{
    cx_note_lookup(request->thread, 0, NULL);
    cx_names_remove(request->lane->busy, lock_of(making));
    cx_inode_release(request->lane->nodes, making->inode);
}

/* Applies a umask, which plays no part where the directory has a default list: libcephfs could do
   it, but knows one umask for a whole session. */
static mode_t masked(const struct cx_lane *lane, const struct making *making, uint32_t mode,
                     uint32_t umask)
{
    mode &= 07777;
    if ((mode & umask) == 0)
        return mode;
    if (ceph_ll_getxattr(lane->mount, cx_inode_raw(making->inode), DEFAULT_ACL, NULL, 0,
                         lane->perms) > 0)
        return mode;
    return mode & ~umask;
}

/* Counts the lookup of what was made; false without memory. Takes `made` over. */
static bool learn(struct cx_lane *lane, const struct making *making, struct Inode *made,
                  const struct ceph_statx *stx)
{
    if (cx_nodes_learn(lane->nodes, stx->stx_ino, made, place_of(making),
                       S_ISDIR(stx->stx_mode), stx->stx_nlink) == CX_LEARNED)
        return true;
    ceph_ll_put(lane->mount, made);
    return false;
}

/* Answers what has made a name, or hasn't: then Python tries, and finds what to say of it. */
static enum outcome answer_made(struct request *request, struct making *making, int rc,
                                struct Inode *made, const struct ceph_statx *stx)
{
    bool is_learned = rc == 0 && learn(request->lane, making, made, stx);

    end_making(request, making);
    if (rc < 0)
        return PASSED;
    if (!is_learned) {
        cx_reply(request, -ENOMEM, NULL, 0);
        return ANSWERED;
    }
    return cx_answer_entry(request, stx);
}

enum outcome cx_answer_mkdir(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_mkdir_in *argument = request->argument;
    struct Inode *made = NULL;
    struct making making;
    struct ceph_statx stx;
    int rc;

    if (!begin_making(request, sizeof(*argument), &making))
        return PASSED;
    rc = ceph_ll_mkdir(lane->mount, cx_inode_raw(making.inode), making.name,
                       masked(lane, &making, argument->mode, argument->umask), &made, &stx,
                       CEPH_STATX_BASIC_STATS, 0, making.perms);
    return answer_made(request, &making, rc, made, &stx);
}

/* Makes a regular file, a FIFO or a socket; devices are root's to make, and Python's. */
enum outcome cx_answer_mknod(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_mknod_in *argument = request->argument;
    struct Inode *made = NULL;
    struct making making;
    struct ceph_statx stx;
    mode_t type;
    int rc;

    if (request->size < sizeof(*argument))
        return PASSED;
    type = argument->mode & S_IFMT;
    if (!S_ISREG(type) && !S_ISFIFO(type) && !S_ISSOCK(type))
        return PASSED;
    if (!begin_making(request, sizeof(*argument), &making))
        return PASSED;
    rc = ceph_ll_mknod(lane->mount, cx_inode_raw(making.inode), making.name,
                       type | masked(lane, &making, argument->mode, argument->umask), 0, &made,
                       &stx, CEPH_STATX_BASIC_STATS, 0, making.perms);
    return answer_made(request, &making, rc, made, &stx);
}

enum outcome cx_answer_symlink(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const char *name = cx_name_in(request, 0), *target = NULL;
    struct Inode *made = NULL;
    struct making making;
    struct ceph_statx stx;
    int rc;

    if (name != NULL)
        target = cx_name_in(request, strlen(name) + 1);
    if (target == NULL || target[0] == '\0' || strlen(target) > TARGET_LONGEST)
        return PASSED;
    if (!begin_making(request, 0, &making))
        return PASSED;
    rc = ceph_ll_symlink(lane->mount, cx_inode_raw(making.inode), making.name, target, &made,
                         &stx, CEPH_STATX_BASIC_STATS, 0, making.perms);
    return answer_made(request, &making, rc, made, &stx);
}

/* A file that was made and is open. */
struct created {
    struct cx_opened opened;
    struct Inode *inode;
    struct ceph_statx stx;
    uint64_t generation; /* of before */
};

/* Makes and opens a file: 0 or -errno. */
static int create(struct request *request, const struct making *making, struct created *created)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_create_in *argument = request->argument;
    int flags = cx_flags_of(argument->flags);

    created->opened.flags = (uint32_t)flags;
    created->generation = cx_files_generation(lane->files);
    return ceph_ll_create(lane->mount, cx_inode_raw(making->inode), making->name,
                          masked(lane, making, argument->mode, argument->umask),
                          flags | O_CREAT | O_EXCL, &created->inode, &created->opened.raw,
                          &created->stx, CEPH_STATX_BASIC_STATS, 0, making->perms);
}

/* Notes what was made and is open; returns its number, 0 without memory: then it is closed. */
static uint64_t note_created(struct request *request, const struct making *making,
                             struct created *created)
{
    struct cx_lane *lane = request->lane;
    struct cx_opened *opened = &created->opened;
    bool is_learned = learn(lane, making, created->inode, &created->stx);
    uint64_t fh = 0;

    opened->id = created->stx.stx_ino;
    opened->inode = is_learned ? cx_nodes_open(lane->nodes, opened->id) : NULL;
    if (opened->inode != NULL)
        fh = cx_note_opened(lane, *opened, created->generation);
    else
        ceph_ll_close(lane->mount, opened->raw);
    if (fh == 0 && is_learned)
        cx_forget(request->lane, opened->id, 1);
    return fh;
}

/* Makes a file and opens it; one that is there already Python opens. */
enum outcome cx_answer_create(struct request *request)
{
    struct cx_lane *lane = request->lane;
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } out = {0};
    struct created created = {0};
    struct making making;

    if (lane->open_count >= lane->settings.open_max ||
        !begin_making(request, sizeof(struct fuse_create_in), &making))
        return PASSED;
    if (create(request, &making, &created) < 0) {
        end_making(request, &making);
        return PASSED;
    }
    out.open.fh = note_created(request, &making, &created);
    end_making(request, &making);
    if (out.open.fh == 0) {
        cx_reply(request, -ENOMEM, NULL, 0);
        return ANSWERED;
    }
    cx_fill_entry(lane, &out.entry, created.opened.id, &created.stx);
    if (cx_reply(request, 0, &out, sizeof(out)) != 0) {
        if (cx_files_close(lane->files, out.open.fh, &created.opened)) /* nobody will */
            cx_close_file(lane, created.opened);
        cx_forget(request->lane, created.stx.stx_ino, 1);
    }
    return ANSWERED;
}

/* renames */

static bool is_file(const struct cx_lane *lane, const struct making *making, const char *name)
{
    struct ceph_statx stx;
    struct Inode *found;

    if (ceph_ll_lookup(lane->mount, cx_inode_raw(making->inode), name, &found, &stx,
                       CEPH_STATX_BASIC_STATS, 0, lane->perms) < 0)
        return false;
    ceph_ll_put(lane->mount, found);
    return cx_is_live(&stx) && !S_ISDIR(stx.stx_mode);
}

/* Gives a file the name that is about to be made, if nothing has it: 0 or -errno. Nobody frees a
   name that is taken away (see cephfs_ext/storage/ceph_stuck.py). */
static int rename_file(const struct cx_lane *lane, const struct making *making, const char *name)
{
    struct cx_name lock = {making->directory.ino, name, strlen(name)};
    struct Inode *directory = cx_inode_raw(making->inode);
    const uint64_t nothing = 0;
    int rc = -EAGAIN, how_far;

    if (!cx_names_take(lane->busy, lock))
        return -EAGAIN;
    if (cx_names_take(lane->leaving, lock)) {
        if (is_file(lane, making, name))
            rc = cx_rename(lane->mount, directory, name, directory, making->name, making->perms,
                           NULL, &nothing, &how_far);
        cx_names_remove(lane->leaving, lock);
    }
    cx_names_remove(lane->busy, lock);
    return rc;
}

/* Renames a file within its directory to a name that nothing has. */
static enum outcome rename_within(struct request *request, uint64_t directory, size_t offset)
{
    struct cx_lane *lane = request->lane;
    const char *name = cx_name_in(request, offset);
    struct cx_name place = {directory, name, name == NULL ? 0 : strlen(name)};
    struct making making;
    int rc;

    if (directory != request->in->nodeid || !cx_is_usual_name(name) ||
        !cx_allowed_has(lane->allowed, directory) || cx_names_has(lane->hidden, place) ||
        !begin_making(request, offset + place.length + 1, &making))
        return PASSED;
    rc = rename_file(lane, &making, name);
    end_making(request, &making);
    if (rc < 0)
        return PASSED;
    cx_reply(request, 0, NULL, 0);
    return ANSWERED;
}

enum outcome cx_answer_rename(struct request *request)
{
    const struct fuse_rename_in *argument = request->argument;

    if (request->size < sizeof(*argument))
        return PASSED;
    return rename_within(request, argument->newdir, sizeof(*argument));
}

enum outcome cx_answer_rename2(struct request *request)
{
    const struct fuse_rename2_in *argument = request->argument;

    if (request->size < sizeof(*argument) || argument->flags != 0)
        return PASSED;
    return rename_within(request, argument->newdir, sizeof(*argument));
}

/* attributes */

static void set_time(struct timespec *time, bool is_now, uint64_t seconds, uint32_t nanoseconds)
{
    if (is_now)
        clock_gettime(CLOCK_REALTIME, time);
    else
        *time = (struct timespec){(time_t)seconds, (long)nanoseconds};
}

/* Says what is to be changed as libcephfs wants it; returns its mask. */
static int wanted(const struct fuse_setattr_in *argument, struct ceph_statx *stx)
{
    uint32_t valid = argument->valid;
    int mask = 0;

    memset(stx, 0, sizeof(*stx));
    if (valid & FATTR_MODE) {
        stx->stx_mode = (uint16_t)(argument->mode & 07777);
        mask |= CEPH_SETATTR_MODE;
    }
    if (valid & FATTR_UID) {
        stx->stx_uid = argument->uid;
        mask |= CEPH_SETATTR_UID;
    }
    if (valid & FATTR_GID) {
        stx->stx_gid = argument->gid;
        mask |= CEPH_SETATTR_GID;
    }
    if (valid & (FATTR_ATIME | FATTR_ATIME_NOW)) {
        set_time(&stx->stx_atime, valid & FATTR_ATIME_NOW, argument->atime, argument->atimensec);
        mask |= CEPH_SETATTR_ATIME;
    }
    if (valid & (FATTR_MTIME | FATTR_MTIME_NOW)) {
        set_time(&stx->stx_mtime, valid & FATTR_MTIME_NOW, argument->mtime, argument->mtimensec);
        mask |= CEPH_SETATTR_MTIME;
    }
    return mask;
}

/* Changes attributes as who asks. What they aren't allowed Python may be able to do. */
enum outcome cx_answer_setattr(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_setattr_in *argument = request->argument;
    const UserPerm *perms;
    struct cx_known known;
    struct cx_inode *inode;
    struct ceph_statx stx;
    int mask;

    if (request->size < sizeof(*argument) || lane->passes_changes != 0 ||
        argument->valid & ~(uint32_t)(CHANGES | IGNORED) || !(argument->valid & CHANGES))
        return PASSED;
    perms = cx_perms_of(request);
    inode = perms == NULL ? NULL : cx_use(request, &known);
    if (inode == NULL)
        return PASSED;
    cx_nodes_touched(lane->nodes, known.id);
    mask = wanted(argument, &stx);
    if (ceph_ll_setattr(lane->mount, cx_inode_raw(inode), &stx, mask, perms) < 0) {
        cx_inode_release(lane->nodes, inode);
        return PASSED;
    }
    return cx_answer_attributes(request, inode);
}
