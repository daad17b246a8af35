/* Names and inodes, and which request is answered where. */

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include "inside.h"

#define SNAPSHOTS ".snap"

/* How much the kernel reads ahead and writes behind at the same time, in requests. */
#define BACKGROUND 256

#define TARGET_MAX 4096u
#define XATTR_MAX 65536u

/* attributes */

static void set_timeout(double timeout_s, uint64_t *seconds, uint32_t *nanoseconds)
{
    *seconds = (uint64_t)timeout_s;
    *nanoseconds = (uint32_t)((timeout_s - (double)*seconds) * 1e9);
}

/* Fills in attributes as users see them. */
static void fill_attr(const struct cx_lane *lane, struct fuse_attr *out, uint64_t id,
                      const struct cx_attr *found)
{
    struct cx_attr seen = *found, *attr = &seen;

    cx_removals_show(lane->removals, attr);
    *out = (struct fuse_attr){
        .ino = id,
        .size = attr->size,
        .blocks = attr->blocks,
        .atime = (uint64_t)attr->atime.tv_sec,
        .mtime = (uint64_t)attr->mtime.tv_sec,
        .ctime = (uint64_t)attr->ctime.tv_sec,
        .atimensec = (uint32_t)attr->atime.tv_nsec,
        .mtimensec = (uint32_t)attr->mtime.tv_nsec,
        .ctimensec = (uint32_t)attr->ctime.tv_nsec,
        .mode = attr->mode,
        .nlink = attr->nlink,
        .uid = attr->uid,
        .gid = attr->gid,
        .rdev = (uint32_t)attr->rdev,
        .blksize = attr->blksize,
    };
}

/* Tells whether the kernel is to remember nothing of an inode, nor its name. */
static bool is_unsure(const struct cx_lane *lane, uint64_t id)
{
    struct cx_known known;

    return cx_unsure_any(lane->unsure) && cx_nodes_look(lane->nodes, id, &known) &&
           cx_unsure_has(lane->unsure, known.parent);
}

void cx_fill_entry(const struct cx_lane *lane, struct fuse_entry_out *entry, uint64_t id,
                   const struct cx_attr *attr)
{
    memset(entry, 0, sizeof(*entry));
    entry->nodeid = id;
    if (!is_unsure(lane, id)) {
        set_timeout(lane->settings.entry_timeout_s, &entry->entry_valid,
                    &entry->entry_valid_nsec);
        set_timeout(lane->settings.attr_timeout_s, &entry->attr_valid, &entry->attr_valid_nsec);
    }
    fill_attr(lane, &entry->attr, id, attr);
}

/* requests */

struct cx_inode *cx_use(const struct request *request, struct cx_known *known)
{
    struct cx_inode *inode = cx_nodes_use(request->lane->nodes, request->in->nodeid, known);

    if (inode != NULL && known->reasons != 0) {
        cx_inode_release(request->lane->nodes, inode);
        return NULL;
    }
    return inode;
}

const char *cx_name_in(const struct request *request, size_t offset)
{
    const char *name = (const char *)request->argument + offset;

    if (request->size <= offset || memchr(name, '\0', request->size - offset) == NULL)
        return NULL;
    return name;
}

/* Tells whether an error is one that storages have every day, so that it is the answer. */
static bool is_usual(int rc)
{
    return rc == -ENOENT || rc == -ENODATA || rc == -ERANGE || rc == -EOPNOTSUPP;
}

static enum outcome answer_error(const struct request *request, int rc)
{
    if (!is_usual(rc))
        return PASSED;
    cx_reply(request, rc, NULL, 0);
    return ANSWERED;
}

/* forget */

void cx_forget(struct cx_lane *lane, uint64_t id, uint64_t lookups)
{
    struct {
        struct fuse_in_header in;
        struct fuse_forget_in forget;
    } message = {.in = {.len = sizeof(message), .opcode = FUSE_FORGET, .nodeid = id}};

    switch (cx_nodes_forget(lane->nodes, id, lookups)) {
    case CX_KEPT:
    case CX_GONE:
        return;
    case CX_GONE_TELL:
        message.forget.nlookup = CX_ALL_LOOKUPS;
        break;
    case CX_UNKNOWN:
        message.forget.nlookup = lookups;
        break;
    }
    (void)cx_pass(lane, &message, sizeof(message)); /* Python is gone, and all it knew */
}

static enum outcome answer_forget(struct request *request)
{
    const struct fuse_forget_in *argument = request->argument;

    if (request->size >= sizeof(*argument))
        cx_forget(request->lane, request->in->nodeid, argument->nlookup);
    return ANSWERED; /* nothing is sent */
}

static enum outcome answer_batch_forget(struct request *request)
{
    const struct fuse_batch_forget_in *argument = request->argument;
    const struct fuse_forget_one *one = (const void *)(argument + 1);

    if (request->size < sizeof(*argument) ||
        (request->size - sizeof(*argument)) / sizeof(*one) < argument->count)
        return ANSWERED;
    for (uint32_t i = 0; i < argument->count; i++)
        cx_forget(request->lane, one[i].nodeid, one[i].nlookup);
    return ANSWERED;
}

/* names */

static bool is_special(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0') ||
                              strcmp(name, TRASH) == 0 || strcmp(name, SNAPSHOTS) == 0);
}

bool cx_is_usual_name(const char *name)
{
    size_t length = name == NULL ? 0 : strlen(name);

    return length > 0 && length <= CX_NAME_MAX && !is_special(name);
}

void cx_note_lookup(struct thread *thread, uint64_t directory, const char *name)
{
    pthread_mutex_lock(&thread->lock);
    thread->is_looking = name != NULL;
    if (name != NULL) {
        thread->lookup.begun++;
        thread->lookup.directory = directory;
        strcpy(thread->lookup.name, name);
    }
    pthread_mutex_unlock(&thread->lock);
}

int cx_look_up(const struct request *request, struct cx_inode *parent, uint64_t directory,
               const char *name, struct cx_ref **found, struct cx_attr *attr)
{
    struct cx_lane *lane = request->lane;
    int rc;

    cx_note_lookup(request->thread, directory, name);
    rc = cx_store_lookup(lane->store, cx_inode_raw(parent), name, found, attr);
    cx_note_lookup(request->thread, 0, NULL);
    return rc;
}

enum outcome cx_answer_entry(const struct request *request, const struct cx_attr *attr)
{
    struct fuse_entry_out entry;

    cx_fill_entry(request->lane, &entry, attr->ino, attr);
    if (cx_reply(request, 0, &entry, sizeof(entry)) != 0)
        cx_forget(request->lane, attr->ino, 1);
    return ANSWERED;
}

static enum outcome answer_lookup(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const char *name = cx_name_in(request, 0);
    struct cx_name at = {request->in->nodeid, name, name == NULL ? 0 : strlen(name)};
    struct cx_attr attr;
    struct cx_known known;
    struct cx_inode *parent;
    struct cx_ref *found;
    int rc = -ENOENT;

    if (!cx_is_usual_name(name))
        return PASSED;
    parent = cx_use(request, &known);
    if (parent == NULL)
        return PASSED;
    if (!cx_names_has(lane->hidden, at))
        rc = cx_look_up(request, parent, known.ino, name, &found, &attr);
    cx_inode_release(lane->nodes, parent);
    if (rc < 0)
        return answer_error(request, rc);
    if (!attr.is_live || cx_nodes_learn(lane->nodes, attr.ino, found, at, S_ISDIR(attr.mode),
                                        attr.nlink) != CX_LEARNED) {
        cx_store_put(lane->store, found);
        return PASSED;
    }
    return cx_answer_entry(request, &attr);
}

static enum outcome answer_readlink(struct request *request)
{
    struct cx_lane *lane = request->lane;
    struct cx_known known;
    struct cx_inode *inode = cx_use(request, &known);
    int rc;

    if (inode == NULL)
        return PASSED;
    rc = cx_store_readlink(lane->store, cx_inode_raw(inode), OUT_DATA(request), TARGET_MAX);
    cx_inode_release(lane->nodes, inode);
    if (rc < 0)
        return answer_error(request, rc);
    cx_reply_out(request, (size_t)rc);
    return ANSWERED;
}

/* inodes */

enum outcome cx_answer_attributes(const struct request *request, struct cx_inode *inode)
{
    struct cx_lane *lane = request->lane;
    struct fuse_attr_out out = {0};
    struct cx_attr attr;
    int rc = cx_store_getattr(lane->store, cx_inode_raw(inode), &attr);

    cx_inode_release(lane->nodes, inode);
    if (rc < 0)
        return PASSED;
    if (!is_unsure(lane, request->in->nodeid))
        set_timeout(lane->settings.attr_timeout_s, &out.attr_valid, &out.attr_valid_nsec);
    fill_attr(lane, &out.attr, request->in->nodeid, &attr);
    cx_reply(request, 0, &out, sizeof(out));
    return ANSWERED;
}

static enum outcome answer_getattr(struct request *request)
{
    struct cx_known known;
    struct cx_inode *inode = cx_use(request, &known);

    return inode == NULL ? PASSED : cx_answer_attributes(request, inode);
}

static enum outcome answer_getxattr(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const struct fuse_getxattr_in *argument = request->argument;
    const char *name = cx_name_in(request, sizeof(*argument));
    struct fuse_getxattr_out out = {0};
    struct cx_known known;
    struct cx_inode *inode;
    int rc;

    if (name == NULL || argument->size > XATTR_MAX)
        return PASSED;
    inode = cx_use(request, &known);
    if (inode == NULL)
        return PASSED;
    rc = cx_store_getxattr(lane->store, cx_inode_raw(inode), name, OUT_DATA(request),
                           argument->size);
    cx_inode_release(lane->nodes, inode);
    if (rc < 0)
        return answer_error(request, rc);
    if (argument->size == 0) {
        out.size = (uint32_t)rc;
        cx_reply(request, 0, &out, sizeof(out));
    } else {
        cx_reply_out(request, (size_t)rc);
    }
    return ANSWERED;
}

/* the beginning */

/* Has Python and the kernel agree; what Python answers is widened by `cx_widen_init`. */
static enum outcome answer_init(struct request *request)
{
    const struct fuse_init_in *argument = request->argument;

    if (request->size >= offsetof(struct fuse_init_in, flags) + sizeof(argument->flags)) {
        request->lane->offered = argument->flags;
        request->lane->init_unique = request->in->unique;
    }
    return PASSED;
}

void cx_widen_init(const struct cx_lane *lane, struct fuse_init_out *out)
{
    if (out->flags & FUSE_DO_READDIRPLUS && lane->offered & FUSE_READDIRPLUS_AUTO)
        out->flags |= FUSE_READDIRPLUS_AUTO;
    out->flags |= lane->offered & FUSE_HANDLE_KILLPRIV_V2;
    if (cx_store_has_locks(lane->store))
        out->flags |= lane->offered & FUSE_POSIX_LOCKS;
    out->max_background = BACKGROUND;
    out->congestion_threshold = BACKGROUND * 3 / 4;
}

/* dispatch */

typedef enum outcome (*answer_fn)(struct request *);

/* What is answered, unless answering is paused. */
static const answer_fn ANSWERS[CX_OPCODES] = {
    [FUSE_LOOKUP] = answer_lookup,
    [FUSE_GETATTR] = answer_getattr,
    [FUSE_READLINK] = answer_readlink,
    [FUSE_GETXATTR] = answer_getxattr,
    [FUSE_LISTXATTR] = cx_answer_listxattr,
    [FUSE_STATFS] = cx_answer_statfs,
    [FUSE_OPEN] = cx_answer_open,
    [FUSE_CREATE] = cx_answer_create,
    [FUSE_MKDIR] = cx_answer_mkdir,
    [FUSE_MKNOD] = cx_answer_mknod,
    [FUSE_SYMLINK] = cx_answer_symlink,
    [FUSE_RENAME] = cx_answer_rename,
    [FUSE_RENAME2] = cx_answer_rename2,
    [FUSE_UNLINK] = cx_answer_unlink,
    [FUSE_SETATTR] = cx_answer_setattr,
    [FUSE_WRITE] = cx_answer_write,
    [FUSE_OPENDIR] = cx_answer_opendir,
};

/* What nobody else can answer. */
static const answer_fn ALWAYS[CX_OPCODES] = {
    [FUSE_FORGET] = answer_forget,
    [FUSE_BATCH_FORGET] = answer_batch_forget,
    [FUSE_INIT] = answer_init,
    [FUSE_READDIR] = cx_answer_readdir,
    [FUSE_READDIRPLUS] = cx_answer_readdirplus,
    [FUSE_RELEASEDIR] = cx_answer_releasedir,
    [FUSE_FSYNCDIR] = cx_answer_fsyncdir,
    [FUSE_READ] = cx_answer_read,
    [FUSE_RELEASE] = cx_answer_release,
    [FUSE_GETLK] = cx_answer_lock,
    [FUSE_SETLK] = cx_answer_lock,
    [FUSE_SETLKW] = cx_answer_lock,
    [FUSE_FLUSH] = cx_answer_flush,
    [FUSE_INTERRUPT] = cx_answer_interrupt,
    [FUSE_FALLOCATE] = cx_answer_fallocate,
    [FUSE_COPY_FILE_RANGE] = cx_answer_copy,
};

enum outcome cx_answer(struct request *request)
{
    uint32_t opcode = request->in->opcode;
    answer_fn answer = opcode < CX_OPCODES ? ALWAYS[opcode] : NULL;

    if (cx_take_privileges(request) < 0) {
        cx_reply(request, -EIO, NULL, 0);
        return ANSWERED;
    }
    if (answer == NULL && opcode < CX_OPCODES && !request->lane->is_paused)
        answer = ANSWERS[opcode];
    return answer == NULL ? PASSED : answer(request);
}
