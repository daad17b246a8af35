/* What makes names and changes attributes, as far as that needs no decision. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "inside.h"

#define TARGET_LONGEST 4095u

/* What a change of attributes may have in it to be made here; of a size, content may be kept. */
#define CHANGES (FATTR_MODE | FATTR_UID | FATTR_GID | TIMES)
#define TIMES (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW)
#define IGNORED (FATTR_FH | FATTR_LOCKOWNER | FATTR_CTIME)

/* A name that is about to be made. */
struct making {
    const char *name;
    struct cx_known directory;
    struct cx_inode *inode; /* the directory's */
    const struct cx_rights *rights;
};

const struct cx_rights *cx_rights_of(const struct request *request)
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
    making->rights = cx_rights_of(request);
    if (making->rights == NULL)
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

/* Counts the lookup of what was made; false without memory. Takes `made` over. */
static bool learn(struct cx_lane *lane, const struct making *making, struct cx_ref *made,
                  const struct cx_attr *attr)
{
    if (cx_nodes_learn(lane->nodes, attr->ino, made, place_of(making),
                       S_ISDIR(attr->mode), attr->nlink) == CX_LEARNED)
        return true;
    cx_store_put(lane->store, made);
    return false;
}

/* Answers what has made a name, or hasn't: then Python tries, and finds what to say of it. */
static enum outcome answer_made(struct request *request, struct making *making, int rc,
                                struct cx_ref *made, const struct cx_attr *attr)
{
    bool is_learned = rc == 0 && learn(request->lane, making, made, attr);

    end_making(request, making);
    if (rc < 0)
        return PASSED;
    if (!is_learned) {
        cx_reply(request, -ENOMEM, NULL, 0);
        return ANSWERED;
    }
    return cx_answer_entry(request, attr);
}

enum outcome cx_answer_mkdir(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_mkdir_in *argument = request->argument;
    struct cx_ref *made = NULL;
    struct making making;
    struct cx_attr attr;
    int rc;

    if (!begin_making(request, sizeof(*argument), &making))
        return PASSED;
    rc = cx_store_mkdir(lane->store, cx_inode_raw(making.inode), making.name,
                        (struct cx_made_as){argument->mode, argument->umask}, making.rights, &made,
                        &attr);
    return answer_made(request, &making, rc, made, &attr);
}

/* Makes a regular file, a FIFO or a socket; devices are root's to make, and Python's. */
enum outcome cx_answer_mknod(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_mknod_in *argument = request->argument;
    struct cx_ref *made = NULL;
    struct making making;
    struct cx_attr attr;
    mode_t type;
    int rc;

    if (request->size < sizeof(*argument))
        return PASSED;
    type = argument->mode & S_IFMT;
    if (!S_ISREG(type) && !S_ISFIFO(type) && !S_ISSOCK(type))
        return PASSED;
    if (!begin_making(request, sizeof(*argument), &making))
        return PASSED;
    rc = cx_store_mknod(lane->store, cx_inode_raw(making.inode), making.name,
                        (struct cx_made_as){argument->mode, argument->umask}, making.rights, &made,
                        &attr);
    return answer_made(request, &making, rc, made, &attr);
}

enum outcome cx_answer_symlink(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const char *name = cx_name_in(request, 0), *target = NULL;
    struct cx_ref *made = NULL;
    struct making making;
    struct cx_attr attr;
    int rc;

    if (name != NULL)
        target = cx_name_in(request, strlen(name) + 1);
    if (target == NULL || target[0] == '\0' || strlen(target) > TARGET_LONGEST)
        return PASSED;
    if (!begin_making(request, 0, &making))
        return PASSED;
    rc = cx_store_symlink(lane->store, cx_inode_raw(making.inode), making.name, target,
                          making.rights, &made, &attr);
    return answer_made(request, &making, rc, made, &attr);
}

/* A file that was made and is open. */
struct created {
    struct cx_opened opened;
    struct cx_ref *inode;
    struct cx_attr attr;
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
    return cx_store_create(lane->store, cx_inode_raw(making->inode), making->name,
                           (struct cx_made_as){argument->mode, argument->umask}, flags,
                           making->rights, &created->inode, &created->opened.raw, &created->attr);
}

/* Notes what was made and is open; returns its number, 0 without memory: then it is closed. */
static uint64_t note_created(struct request *request, const struct making *making,
                             struct created *created)
{
    struct cx_lane *lane = request->lane;
    struct cx_opened *opened = &created->opened;
    bool is_learned = learn(lane, making, created->inode, &created->attr);
    uint64_t fh = 0;

    opened->id = created->attr.ino;
    opened->inode = is_learned ? cx_nodes_open(lane->nodes, opened->id) : NULL;
    if (opened->inode != NULL)
        fh = cx_note_opened(lane, *opened, created->generation);
    else
        cx_store_close(lane->store, opened->raw);
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
    cx_fill_entry(lane, &out.entry, created.opened.id, &created.attr);
    if (cx_reply(request, 0, &out, sizeof(out)) != 0) {
        if (cx_files_close(lane->files, out.open.fh, &created.opened)) /* nobody will */
            cx_close_file(lane, created.opened);
        cx_forget(request->lane, created.attr.ino, 1);
    }
    return ANSWERED;
}

/* renames */

static bool is_file(const struct cx_lane *lane, const struct making *making, const char *name)
{
    struct cx_attr attr;
    struct cx_ref *found;

    if (cx_store_lookup(lane->store, cx_inode_raw(making->inode), name, &found, &attr) < 0)
        return false;
    cx_store_put(lane->store, found);
    return attr.is_live && !S_ISDIR(attr.mode);
}

/* Gives a file the name that is about to be made, if nothing has it: 0 or -errno. Nobody frees a
   name that is taken away (see cephfs_ext/storage/ceph_stuck.py). */
static int rename_file(const struct cx_lane *lane, const struct making *making, const char *name)
{
    struct cx_name lock = {making->directory.ino, name, strlen(name)};
    int rc = -EAGAIN;

    if (!cx_names_take(lane->busy, lock))
        return -EAGAIN;
    if (cx_names_take(lane->leaving, lock)) {
        if (is_file(lane, making, name))
            rc = cx_store_rename_new(lane->store, cx_inode_raw(making->inode), name, making->name,
                                     making->rights);
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

static struct timespec time_of(bool is_set, bool is_now, uint64_t seconds, uint32_t nanoseconds)
{
    if (is_now)
        return (struct timespec){0, UTIME_NOW};
    return is_set ? (struct timespec){(time_t)seconds, (long)nanoseconds}
                  : (struct timespec){0, UTIME_OMIT};
}

/* Says what is to be changed as the storage wants it. */
static struct cx_change wanted(const struct fuse_setattr_in *argument)
{
    uint32_t valid = argument->valid;

    return (struct cx_change){
        .uid = valid & FATTR_UID ? argument->uid : UINT32_MAX,
        .gid = valid & FATTR_GID ? argument->gid : UINT32_MAX,
        .mode = argument->mode & 07777,
        .has_mode = (valid & FATTR_MODE) != 0,
        .atime = time_of(valid & FATTR_ATIME, valid & FATTR_ATIME_NOW, argument->atime,
                         argument->atimensec),
        .mtime = time_of(valid & FATTR_MTIME, valid & FATTR_MTIME_NOW, argument->mtime,
                         argument->mtimensec)};
}

/* Changes attributes as who asks. What they aren't allowed Python may be able to do. */
enum outcome cx_answer_setattr(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_setattr_in *argument = request->argument;
    const struct cx_rights *rights;
    struct cx_known known;
    struct cx_inode *inode;
    struct cx_change change;

    if (request->size < sizeof(*argument) || lane->passes_changes != 0 ||
        argument->valid & ~(uint32_t)(CHANGES | IGNORED) || !(argument->valid & CHANGES))
        return PASSED;
    rights = cx_rights_of(request);
    inode = rights == NULL ? NULL : cx_use(request, &known);
    if (inode == NULL)
        return PASSED;
    cx_nodes_touched(lane->nodes, known.id);
    change = wanted(argument);
    if (cx_store_setattr(lane->store, cx_inode_raw(inode), &change, rights) < 0) {
        cx_inode_release(lane->nodes, inode);
        return PASSED;
    }
    return cx_answer_attributes(request, inode);
}
