/* The kernel's part: what it has to get of its requests, and what it knows afterwards. */

#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* what the kernel knows */

struct known *find_known(uint64_t id)
{
    for (size_t i = 0; i < fuzz.known_count; i++)
        if (fuzz.known[i].id == id)
            return &fuzz.known[i];
    return NULL;
}

/* Counts a lookup that was in an answer. */
static void count_lookup(uint64_t id)
{
    struct known *known = find_known(id);

    if (id == FUSE_ROOT_ID || id == 0)
        fail("answer has the id %" PRIu64, id);
    if (known == NULL) {
        if (fuzz.known_count == KNOWN_MAX)
            fail("more inodes than there can be");
        known = &fuzz.known[fuzz.known_count++];
        *known = (struct known){.id = id, .is_virtual = id >= VIRTUAL_IDS};
    }
    known->lookups++;
}

/* Notes what a message takes back. */
static void count_forget(uint64_t id, uint64_t lookups)
{
    struct known *known = find_known(id);

    if (id == FUSE_ROOT_ID)
        return;
    if (known == NULL || known->is_virtual)
        fuzz.unknown_sent += lookups;
    if (known == NULL)
        return;
    known->lookups -= lookups < known->lookups ? lookups : known->lookups;
    if (known->lookups == 0)
        *known = fuzz.known[--fuzz.known_count];
}

struct opened *find_opened(uint64_t fh)
{
    for (size_t i = 0; i < OPENED_MAX; i++)
        if (fuzz.opened[i].fh == fh && fh != 0)
            return &fuzz.opened[i];
    return NULL;
}

size_t opened_count(bool is_file)
{
    size_t count = 0;

    for (size_t i = 0; i < OPENED_MAX; i++)
        count += fuzz.opened[i].fh != 0 && fuzz.opened[i].is_file == is_file;
    return count;
}

uint64_t draw_id(void)
{
    if (once_in(6))
        return FUSE_ROOT_ID;
    if (once_in(16))
        return STRANGE_IDS + draw(1000);
    return fuzz.known_count == 0 ? FUSE_ROOT_ID : fuzz.known[draw(fuzz.known_count)].id;
}

/* what has to become of a request */

static const void *argument_of(const struct sent *sent)
{
    return sent->message + sizeof(struct fuse_in_header);
}

static size_t argument_size(const struct sent *sent)
{
    return sent->size - sizeof(struct fuse_in_header);
}

const struct fuse_in_header *header_of(const struct sent *sent)
{
    return (const void *)sent->message;
}

/* Returns the handle of a request; 0 if it has none that could be one. */
static uint64_t handle_of(const struct sent *sent)
{
    uint64_t fh = 0;

    if (argument_size(sent) >= sizeof(fh))
        memcpy(&fh, argument_of(sent), sizeof(fh));
    return fh;
}

static bool is_name(const char *name, size_t size)
{
    size_t length = strnlen(name, size);

    return length < size && length > 0 && length <= CX_NAME_MAX && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0 && strcmp(name, ".trashbin") != 0 && strcmp(name, ".snap") != 0;
}

/* Returns what follows a name that is whole, and how much; NULL if it isn't. */
static const char *behind_name(const char *name, size_t *size)
{
    const char *end = memchr(name, '\0', *size);

    if (end == NULL)
        return NULL;
    *size -= (size_t)(end + 1 - name);
    return end + 1;
}

static bool is_symlink(const char *argument, size_t size)
{
    const char *target = is_name(argument, size) ? behind_name(argument, &size) : NULL;
    size_t length = target == NULL ? 0 : strnlen(target, size);

    return length > 0 && length < size && length < PATH_MAX;
}

/* Tells whether a name stands behind the beginning of an argument. */
static bool is_name_at(const char *argument, size_t size, size_t offset)
{
    return size > offset && is_name(argument + offset, size - offset);
}

static bool is_mknod(const char *argument, size_t size)
{
    const struct fuse_mknod_in *mknod = (const void *)argument;

    return is_name_at(argument, size, sizeof(*mknod)) &&
           (S_ISREG(mknod->mode) || S_ISFIFO(mknod->mode) || S_ISSOCK(mknod->mode));
}

/* Tells whether two names stand behind the beginning of an argument that names their directory. */
static bool is_rename(const struct sent *sent, size_t offset)
{
    const char *argument = argument_of(sent), *second = NULL;
    const struct fuse_rename2_in *rename = (const void *)argument;
    size_t size = argument_size(sent);

    if (!is_name_at(argument, size, offset) || rename->newdir != header_of(sent)->nodeid)
        return false;
    size -= offset;
    second = behind_name(argument + offset, &size);
    return second != NULL && is_name(second, size) &&
           (offset < sizeof(*rename) || rename->flags == 0);
}

static bool is_setattr(const struct fuse_setattr_in *setattr, size_t size)
{
    const uint32_t times = FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW;
    const uint32_t changes = FATTR_MODE | FATTR_UID | FATTR_GID | times;
    const uint32_t ignored = FATTR_FH | FATTR_LOCKOWNER | FATTR_CTIME;

    return size >= sizeof(*setattr) && setattr->valid & changes &&
           !(setattr->valid & ~(changes | ignored));
}

static bool is_opened(const struct sent *sent, bool is_file)
{
    const struct opened *opened = find_opened(handle_of(sent));

    return opened != NULL && opened->is_file == is_file;
}

/* Tells whether the lane may answer a request; all others are Python's. */
static bool is_whole(const struct sent *sent)
{
    const char *argument = argument_of(sent);
    size_t size = argument_size(sent);
    struct fuse_getxattr_in getxattr;
    struct fuse_write_in write = {0};

    switch (header_of(sent)->opcode) {
    case FUSE_LOOKUP:
    case FUSE_UNLINK:
        return is_name(argument, size);
    case FUSE_GETATTR:
    case FUSE_READLINK:
    case FUSE_OPENDIR:
    case FUSE_GETLK: /* Python knows nothing of locks, and of flush only that it needs none */
    case FUSE_SETLK:
    case FUSE_SETLKW:
    case FUSE_FLUSH:
    case FUSE_STATFS:
    case FUSE_FALLOCATE: /* nor of these */
    case FUSE_COPY_FILE_RANGE:
        return true;
    case FUSE_LISTXATTR:
        return size >= sizeof(getxattr);
    case FUSE_MKDIR:
        return is_name_at(argument, size, sizeof(struct fuse_mkdir_in));
    case FUSE_CREATE:
        return is_name_at(argument, size, sizeof(struct fuse_create_in));
    case FUSE_MKNOD:
        return is_mknod(argument, size);
    case FUSE_SYMLINK:
        return is_symlink(argument, size);
    case FUSE_SETATTR:
        return is_setattr((const void *)argument, size);
    case FUSE_RENAME:
        return is_rename(sent, sizeof(struct fuse_rename_in));
    case FUSE_RENAME2:
        return is_rename(sent, sizeof(struct fuse_rename2_in));
    case FUSE_GETXATTR:
        if (size <= sizeof(getxattr))
            return false;
        memcpy(&getxattr, argument, sizeof(getxattr));
        return getxattr.size <= XATTR_MAX &&
               memchr(argument + sizeof(getxattr), '\0', size - sizeof(getxattr)) != NULL;
    case FUSE_READ:
        return size >= sizeof(struct fuse_read_in) &&
               ((const struct fuse_read_in *)(const void *)argument)->size <= DATA_MAX;
    case FUSE_WRITE:
        if (size < sizeof(write))
            return false;
        memcpy(&write, argument, sizeof(write));
        return size - sizeof(write) >= write.size;
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        return size >= sizeof(struct fuse_read_in) && is_opened(sent, false) && !sent->is_plain;
    case FUSE_OPEN:
        return size >= sizeof(struct fuse_open_in) &&
               !(((const struct fuse_open_in *)(const void *)argument)->flags & O_TRUNC);
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
        return size >= sizeof(struct fuse_release_in) &&
               is_opened(sent, header_of(sent)->opcode == FUSE_RELEASE) &&
               find_opened(handle_of(sent))->taken == NULL;
    default:
        return false;
    }
}

void forget_as_sent(void)
{
    const struct fuse_forget_one *one;
    const char *argument = message + sizeof(struct fuse_in_header);
    size_t size = message_size - sizeof(struct fuse_in_header);
    struct fuse_batch_forget_in batch;
    struct fuse_forget_in forget;

    if (header()->opcode == FUSE_FORGET && size >= sizeof(forget)) {
        memcpy(&forget, argument, sizeof(forget));
        count_forget(header()->nodeid, forget.nlookup);
    } else if (header()->opcode == FUSE_BATCH_FORGET && size >= sizeof(batch)) {
        memcpy(&batch, argument, sizeof(batch));
        one = (const void *)(argument + sizeof(batch));
        if ((size - sizeof(batch)) / sizeof(*one) >= batch.count)
            for (uint32_t i = 0; i < batch.count; i++)
                count_forget(one[i].nodeid, one[i].nlookup);
    }
}

bool has_answer(void)
{
    uint32_t opcode = header()->opcode;

    return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT;
}

struct sent *find_sent(uint64_t unique)
{
    for (size_t i = 0; i < WINDOW; i++)
        if (fuzz.sent[i].message != NULL && header_of(&fuzz.sent[i])->unique == unique)
            return &fuzz.sent[i];
    return NULL;
}

size_t waiting(void)
{
    size_t count = 0;

    for (size_t i = 0; i < WINDOW; i++)
        count += fuzz.sent[i].message != NULL;
    return count;
}

/* Notes that a request is about what is open, or no longer. */
static void set_used(const struct sent *sent, bool is_used)
{
    uint32_t opcode = header_of(sent)->opcode;
    bool closes = opcode == FUSE_RELEASE || opcode == FUSE_RELEASEDIR;
    struct opened *opened = find_opened(handle_of(sent));

    if (opened == NULL || !(closes || opcode == FUSE_READ || opcode == FUSE_WRITE ||
                            opcode == FUSE_READDIR || opcode == FUSE_READDIRPLUS ||
                            opcode == FUSE_FALLOCATE || opcode == FUSE_COPY_FILE_RANGE))
        return;
    opened->users += is_used ? 1u : UINT_MAX;
    if (closes)
        opened->is_closing = is_used;
}

/* Notes a request that is about to be sent, as it has to come to Python. */
void remember(void)
{
    struct sent *sent = fuzz.sent;
    struct fuse_fsync_in *fsync;

    while (sent->message != NULL)
        sent++;
    *sent = (struct sent){.message = malloc(message_size), .size = message_size};
    if (sent->message == NULL)
        fail("no memory");
    memcpy(sent->message, message, message_size);
    if (header_of(sent)->opcode == FUSE_READDIR && !is_whole(sent)) {
        ((struct fuse_in_header *)(void *)sent->message)->opcode = FUSE_READDIRPLUS;
        sent->is_plain = true;
    }
    fsync = (void *)(sent->message + sizeof(struct fuse_in_header));
    if (header_of(sent)->opcode == FUSE_FSYNCDIR &&
        argument_size(sent) >= sizeof(*fsync) && fsync->fh & CX_OPEN_HERE)
        fsync->fh = CX_OPEN_HERE | header_of(sent)->nodeid;
    set_used(sent, true);
}

static void settle(struct sent *sent)
{
    free(sent->message);
    sent->message = NULL;
}

/* answers */

/* Positions in a listing behind `.` and `..`. */
#define BEHIND_DOT ((UINT64_C(1) << 62) + 1)
#define BEHIND_DOTDOT ((UINT64_C(1) << 62) + 2)

/* As long as the longest entry, at least. */
#define ROOM 512u

/* Returns how many entries are before a position; `.` and `..` are the first two. */
static uint64_t entry_at(uint64_t offset)
{
    uint64_t entry = offset >> STUB_COOKIE_SHIFT;

    if (offset == BEHIND_DOT || offset == BEHIND_DOTDOT)
        return 0;
    return entry < STUB_ENTRIES + 2 ? entry : STUB_ENTRIES + 2;
}

/* Fails if there is something between two entries that has to be listed. */
static void check_left_out(const struct opened *opened, uint64_t first, uint64_t behind)
{
    for (uint64_t entry = first < 2 ? 2 : first; entry < behind; entry++) {
        const char *name = stub_name((unsigned)entry - 2);
        struct cx_name at = {opened->id, name, strlen(name)};
        if (strcmp(name, ".trashbin") != 0 && !cx_names_has(cx_lane_hidden(fuzz.lane), at))
            fail("listing has no entry %" PRIu64, entry);
    }
}

/* Checks that a listing goes on with one entry, and returns where it stands then. */
static uint64_t check_entry(const struct opened *opened, uint64_t next,
                            const struct fuse_dirent *dirent)
{
    uint64_t entry = entry_at(dirent->off);
    const char *name;

    if (dirent->off == BEHIND_DOT || dirent->off == BEHIND_DOTDOT)
        return 0;
    if (entry <= next || entry <= 2)
        fail("listing goes from entry %" PRIu64 " to %" PRIu64, next, entry);
    name = stub_name((unsigned)entry - 3);
    if (strlen(name) != dirent->namelen || memcmp(name, dirent->name, dirent->namelen) != 0)
        fail("listing has another name at %" PRIu64, entry);
    if (is_alone())
        check_left_out(opened, next, entry - 1);
    return entry;
}

static void take_page(const struct sent *sent, const char *data, size_t size)
{
    const struct fuse_read_in *argument = argument_of(sent);
    struct opened *opened = find_opened(handle_of(sent));
    bool is_plain = header_of(sent)->opcode == FUSE_READDIR;
    uint64_t next = entry_at(argument->offset);
    size_t at = 0;

    while (at < size) {
        const struct fuse_direntplus *plus = (const void *)(data + at);
        const struct fuse_dirent *dirent = is_plain ? (const void *)plus : &plus->dirent;
        size_t before = is_plain ? 0 : FUSE_NAME_OFFSET_DIRENTPLUS - FUSE_NAME_OFFSET;
        if (size - at < before + FUSE_NAME_OFFSET ||
            size - at < before + FUSE_DIRENT_SIZE(dirent))
            fail("listing is cut off at %zu of %zu", at, size);
        if (dirent->namelen == 0 || dirent->namelen > CX_NAME_MAX ||
            memchr(dirent->name, '/', dirent->namelen) != NULL)
            fail("listing has a name of length %u", dirent->namelen);
        if (!is_plain && plus->entry_out.nodeid != 0)
            count_lookup(plus->entry_out.nodeid);
        next = check_entry(opened, next, dirent);
        opened->offset = dirent->off;
        at += before + FUSE_DIRENT_SIZE(dirent);
    }
    if (size == 0 && is_alone() && argument->size >= ROOM)
        check_left_out(opened, next, STUB_ENTRIES + 2);
    if (size == 0)
        opened->offset = 0;
}

/* Takes the number of what was opened. */
static void take_opened(const struct sent *sent, const struct fuse_open_out *out, uint64_t id)
{
    struct opened *opened = fuzz.opened;

    if (!(out->fh & CX_OPEN_HERE) || find_opened(out->fh) != NULL)
        fail("what was opened has the handle %" PRIx64, out->fh);
    for (size_t i = 0; opened->fh != 0; i++, opened++)
        if (i + 1 == OPENED_MAX)
            fail("more is open than there can be");
    *opened = (struct opened){.fh = out->fh,
                               .id = id,
                               .is_file = header_of(sent)->opcode != FUSE_OPENDIR};
}

static void check_data(const struct sent *sent, const char *data, size_t size)
{
    const struct fuse_read_in *read = argument_of(sent);

    for (size_t i = 0; i < size; i++)
        if (data[i] != stub_byte(read->offset + i))
            fail("read returned something else at %zu", i);
}

/* Returns how long the lane's own answer may be at most; the least is the same unless it is 0. */
static size_t most_in(const struct sent *sent, size_t *least)
{
    const void *argument = argument_of(sent);

    *least = 0;
    switch (header_of(sent)->opcode) {
    case FUSE_LOOKUP:
    case FUSE_MKDIR:
    case FUSE_MKNOD:
    case FUSE_SYMLINK:
        return *least = sizeof(struct fuse_entry_out);
    case FUSE_CREATE:
        return *least = sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out);
    case FUSE_SETATTR:
    case FUSE_GETATTR:
        return *least = sizeof(struct fuse_attr_out);
    case FUSE_READLINK:
        return TARGET_MAX;
    case FUSE_STATFS:
        return *least = sizeof(struct fuse_statfs_out);
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
        if (((const struct fuse_getxattr_in *)argument)->size == 0)
            return *least = sizeof(struct fuse_getxattr_out);
        return ((const struct fuse_getxattr_in *)argument)->size;
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        return ((const struct fuse_read_in *)argument)->size;
    case FUSE_WRITE:
    case FUSE_COPY_FILE_RANGE:
        return *least = sizeof(struct fuse_write_out);
    case FUSE_GETLK:
        return *least = sizeof(struct fuse_lk_out);
    case FUSE_OPEN:
    case FUSE_OPENDIR:
        return *least = sizeof(struct fuse_open_out);
    default:
        return 0;
    }
}

static bool may_fail(const struct sent *sent, int error)
{
    switch (header_of(sent)->opcode) {
    case FUSE_LOOKUP:
    case FUSE_READLINK:
    case FUSE_GETXATTR:
        return error == -ENOENT || error == -ENODATA || error == -ERANGE || error == -EOPNOTSUPP;
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW:
    case FUSE_FALLOCATE:
        return error < 0 && error > -512;
    case FUSE_LISTXATTR:
        return error == -ERANGE;
    case FUSE_COPY_FILE_RANGE:
        return error == -EOPNOTSUPP;
    case FUSE_MKDIR: /* what was made is one that is forced, or held */
    case FUSE_MKNOD:
    case FUSE_SYMLINK:
    case FUSE_CREATE:
        return error == -ENOMEM;
    default:
        return false;
    }
}

static bool is_making(uint32_t opcode)
{
    return opcode == FUSE_MKDIR || opcode == FUSE_MKNOD || opcode == FUSE_SYMLINK ||
           opcode == FUSE_CREATE;
}

/* Tells whether a request takes privileges first, without which nothing of it may be done. */
static bool takes_privileges(const struct sent *sent)
{
    const struct fuse_in_header *in = header_of(sent);
    const void *argument = argument_of(sent);
    size_t size = argument_size(sent);

    switch (in->opcode) {
    case FUSE_WRITE:
        return size >= sizeof(struct fuse_write_in) &&
               ((const struct fuse_write_in *)argument)->write_flags & FUSE_WRITE_KILL_SUIDGID;
    case FUSE_SETATTR:
        return size >= sizeof(struct fuse_setattr_in) &&
               ((const struct fuse_setattr_in *)argument)->valid & FATTR_KILL_SUIDGID;
    case FUSE_FALLOCATE:
    case FUSE_COPY_FILE_RANGE:
        return in->uid != 0;
    default:
        return false;
    }
}

/* Takes an answer that isn't Python's. */
static void take_native(const struct sent *sent, const struct fuse_out_header *out,
                        const char *data, size_t size)
{
    uint32_t opcode = header_of(sent)->opcode;
    size_t least, most;

    if (out->error == -EIO && size == 0 && takes_privileges(sent))
        return;
    if (!is_whole(sent))
        fail("opcode %u isn't whole, and wasn't passed on", opcode);
    if (out->error != 0) {
        if (!may_fail(sent, out->error) || size != 0)
            fail("opcode %u ended with %d", opcode, out->error);
        return;
    }
    most = most_in(sent, &least);
    if (size < least || size > most)
        fail("opcode %u has an answer of %zu bytes", opcode, size);
    fuzz.answered[opcode]++;
    if (opcode == FUSE_LOOKUP || is_making(opcode))
        count_lookup(((const struct fuse_entry_out *)(const void *)data)->nodeid);
    if (opcode == FUSE_CREATE)
        take_opened(sent, (const void *)(data + sizeof(struct fuse_entry_out)),
                    ((const struct fuse_entry_out *)(const void *)data)->nodeid);
    if (opcode == FUSE_READDIRPLUS || opcode == FUSE_READDIR)
        take_page(sent, data, size);
    else if (opcode == FUSE_OPEN || opcode == FUSE_OPENDIR)
        take_opened(sent, (const void *)data, header_of(sent)->nodeid);
    else if (opcode == FUSE_READ)
        check_data(sent, data, size);
    else if ((opcode == FUSE_GETATTR || opcode == FUSE_SETATTR) &&
             ((const struct fuse_attr_out *)(const void *)data)->attr.ino !=
                 header_of(sent)->nodeid)
        fail("getattr is of another inode");
    else if (opcode == FUSE_WRITE &&
             ((const struct fuse_write_out *)(const void *)data)->size >
                 ((const struct fuse_write_in *)argument_of(sent))->size)
        fail("more was written than there was");
}

/* Takes an answer that Python has given. */
static void take_passed(const struct sent *sent, const char *bytes, size_t size)
{
    const struct fuse_entry_out *entry = (const void *)(bytes + sizeof(struct fuse_out_header));

    if (size != sent->reply_size || memcmp(bytes, sent->reply, size) != 0)
        fail("Python's answer to %u was changed", header_of(sent)->opcode);
    if (header_of(sent)->opcode == FUSE_LOOKUP && entry->nodeid != 0 &&
        size == sizeof(struct fuse_out_header) + sizeof(*entry))
        count_lookup(entry->nodeid);
}

/* Tells whether Python has closed a file that it had taken over from the lane. */
static bool is_closed_in_python(const struct sent *sent)
{
    return sent->is_passed && header_of(sent)->opcode == FUSE_RELEASE &&
           argument_size(sent) >= sizeof(struct fuse_release_in) && is_opened(sent, true) &&
           find_opened(handle_of(sent))->taken != NULL;
}

static bool is_among_others(const char *bytes, size_t size)
{
    for (size_t i = 0; i < fuzz.others_count; i++) {
        if (fuzz.others[i].size == size && memcmp(fuzz.others[i].bytes, bytes, size) == 0) {
            fuzz.others[i] = fuzz.others[--fuzz.others_count];
            return true;
        }
    }
    return false;
}

/* Tells whether the kernel is told to read a file anew, or its attributes, before a lock of it is. */
static bool is_before_lock(const char *bytes, size_t size)
{
    const struct fuse_out_header *out = (const void *)bytes;

    return size == sizeof(*out) + sizeof(struct fuse_notify_inval_inode_out) && out->len == size &&
           out->unique == 0 && out->error == FUSE_NOTIFY_INVAL_INODE;
}

/* Takes what the kernel got. */
void take_answer(const char *bytes, size_t size)
{
    const struct fuse_out_header *out = (const void *)bytes;
    uint32_t opcode;
    struct sent *sent;

    if (is_among_others(bytes, size) || is_before_lock(bytes, size))
        return;
    if (size < sizeof(*out) || out->len != size)
        fail("answer of %zu bytes has another length in it", size);
    sent = find_sent(out->unique);
    if (sent == NULL)
        fail("answer to nothing, %" PRIu64, out->unique);
    opcode = header_of(sent)->opcode;
    set_used(sent, false);
    if (out->error == REFUSED)
        fuzz.refused++;
    else if (sent->is_passed)
        take_passed(sent, bytes, size);
    else if (!(fuzz.is_stopping && out->error == -EIO))
        take_native(sent, out, bytes + sizeof(*out), size - sizeof(*out));
    if ((!sent->is_passed && is_whole(sent) &&
         (opcode == FUSE_RELEASE || opcode == FUSE_RELEASEDIR)) || is_closed_in_python(sent))
        find_opened(handle_of(sent))->fh = 0;
    settle(sent);
}
