/* Requests, as they should be or not. */

#include "fuzz.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char message[MESSAGE_MAX];
size_t message_size;

/* parts of requests */

void begin(uint32_t opcode, uint64_t id)
{
    *header() = (struct fuse_in_header){.opcode = opcode, .nodeid = id, .pid = 1};
    if (once_in(3)) {
        header()->uid = (uint32_t)(1000 + draw(12));
        header()->gid = (uint32_t)draw(3);
        header()->pid = once_in(4) ? (uint32_t)draw_number() : (uint32_t)getpid();
    }
    message_size = sizeof(struct fuse_in_header);
}

void add(const void *data, size_t size)
{
    if (size > sizeof(message) - message_size)
        size = sizeof(message) - message_size;
    memcpy(message + message_size, data, size);
    message_size += size;
}

static void add_random(size_t size)
{
    for (size_t i = 0; i < size && message_size < sizeof(message); i++)
        message[message_size++] = (char)draw(256);
}

/* Adds a name, with or without its end: one that is there, none, or one of any length. */
static void add_name(void)
{
    const char *name = stub_name((unsigned)draw(STUB_ENTRIES));

    if (once_in(12)) {
        size_t length = draw(700);
        for (size_t i = 0; i < length; i++)
            message[message_size++] = (char)(1 + draw(255));
    } else {
        add(name, strlen(name));
    }
    if (!once_in(24))
        add("", 1);
}

static uint32_t draw_size(void)
{
    static const uint32_t edges[] = {0,        1,          DATA_MAX,     DATA_MAX + 1,
                                     XATTR_MAX, XATTR_MAX + 1, 1u << 31, UINT32_MAX};

    if (once_in(24))
        return edges[draw(sizeof(edges) / sizeof(edges[0]))];
    return (uint32_t)draw(once_in(4) ? 65536 : 4096);
}

struct opened *draw_opened(bool is_file, bool is_free)
{
    size_t first = draw(OPENED_MAX);

    for (size_t i = 0; i < OPENED_MAX; i++) {
        struct opened *opened = &fuzz.opened[(first + i) % OPENED_MAX];
        if (opened->fh != 0 && opened->is_file == is_file &&
            (is_free ? opened->users == 0 : !opened->is_closing))
            return opened;
    }
    return NULL;
}

/* Returns what isn't open: those that are, or were, have small numbers. */
static uint64_t draw_strange_fh(void)
{
    uint64_t number = (UINT64_C(1) << 40) + draw_number() % (UINT64_C(1) << 60);

    return once_in(3) ? number : number | CX_OPEN_HERE;
}

/* requests */

static void make_lookup(void)
{
    begin(FUSE_LOOKUP, draw_id());
    add_name();
}

static void make_getattr(void)
{
    struct fuse_getattr_in argument = {.fh = draw_number()};

    begin(FUSE_GETATTR, draw_id());
    add(&argument, sizeof(argument));
}

static void make_readlink(void)
{
    begin(FUSE_READLINK, draw_id());
}

static void make_getxattr(void)
{
    struct fuse_getxattr_in argument = {.size = once_in(3) ? 0 : draw_size()};

    begin(FUSE_GETXATTR, draw_id());
    add(&argument, sizeof(argument));
    add_name();
}

static void make_read(void)
{
    struct opened *opened = once_in(2) ? NULL : draw_opened(true, false);
    struct fuse_read_in argument = {
        .fh = 1 + draw(FILES + 1), .offset = draw_number(), .size = draw_size()};

    if (opened != NULL)
        argument.fh = opened->fh;

    begin(FUSE_READ, draw_id());
    add(&argument, sizeof(argument));
}

static void make_write(void)
{
    struct opened *opened = once_in(2) ? NULL : draw_opened(true, false);
    struct fuse_write_in argument = {.fh = 1 + draw(FILES + 1),
                                     .offset = draw_number(),
                                     .write_flags = once_in(2) ? FUSE_WRITE_KILL_SUIDGID : 0};
    size_t size = once_in(64) ? draw(DATA_MAX) : draw(4096);

    if (opened != NULL)
        argument.fh = opened->fh;
    argument.size = once_in(8) ? draw_size() : (uint32_t)size;
    begin(FUSE_WRITE, draw_id());
    add(&argument, sizeof(argument));
    for (size_t i = 0; i < size; i++)
        message[message_size++] = stub_byte(argument.offset + i);
}

static void make_close_of(bool is_file)
{
    struct opened *opened = once_in(8) ? NULL : draw_opened(is_file, true);
    struct fuse_release_in argument = {.fh = opened != NULL ? opened->fh : draw_strange_fh()};

    begin((is_file && !once_in(32)) ? FUSE_RELEASE : FUSE_RELEASEDIR, draw_id());
    add(&argument, sizeof(argument));
}

static void make_release(void)
{
    make_close_of(true);
}

static void make_releasedir(void)
{
    make_close_of(false);
}

static void make_open(void)
{
    struct fuse_open_in argument = {.flags = (uint32_t)(once_in(4) ? draw_number() : draw(3))};

    if (opened_count(true) >= OPENED) {
        make_release();
        return;
    }
    begin(FUSE_OPEN, draw_id());
    add(&argument, sizeof(argument));
}

static uint32_t draw_mode(void)
{
    static const uint32_t types[] = {S_IFREG, S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFDIR};

    return types[draw(6)] | (uint32_t)draw(010000);
}

static void make_mkdir(void)
{
    struct fuse_mkdir_in argument = {.mode = draw_mode(), .umask = (uint32_t)draw(01000)};

    begin(FUSE_MKDIR, draw_id());
    add(&argument, sizeof(argument));
    add_name();
}

static void make_mknod(void)
{
    struct fuse_mknod_in argument = {.mode = draw_mode(), .umask = (uint32_t)draw(01000)};

    begin(FUSE_MKNOD, draw_id());
    add(&argument, sizeof(argument));
    add_name();
}

/* Grants whoever is about to ask that they may unlink. */
static void grant(void)
{
    struct cx_grant grant = {.number = ++fuzz.grants,
                             .directory = header()->nodeid,
                             .pid = header()->pid,
                             .uid = header()->uid,
                             .gid = header()->gid,
                             .owned_only = once_in(3)};
    struct cx_known known;

    if (cx_nodes_look(cx_lane_nodes(fuzz.lane), grant.directory, &known))
        grant.touches = known.touches;
    cx_removals_grant(cx_lane_removals(fuzz.lane), &grant, once_in(8) ? 1e-6 : 1e3);
}

static void make_unlink(void)
{
    begin(FUSE_UNLINK, draw_id());
    if (!once_in(3))
        grant();
    add_name();
}

static void make_symlink(void)
{
    begin(FUSE_SYMLINK, draw_id());
    add_name();
    if (!once_in(8))
        add_name();
}

static void make_create(void)
{
    struct fuse_create_in argument = {.flags = (uint32_t)(once_in(2) ? draw_number() : O_RDWR),
                                      .mode = draw_mode(),
                                      .umask = (uint32_t)draw(01000)};

    if (opened_count(true) >= OPENED) {
        make_release();
        return;
    }
    begin(FUSE_CREATE, draw_id());
    add(&argument, sizeof(argument));
    add_name();
}

static void make_rename(void)
{
    struct fuse_rename2_in argument = {.flags = once_in(8) ? (uint32_t)draw_number() : 0};
    uint64_t id = draw_id();
    bool has_flags = once_in(2);

    argument.newdir = once_in(6) ? draw_id() : id;
    if (!once_in(3))
        cx_allowed_add(cx_lane_allowed(fuzz.lane), id, 1e3);
    begin(has_flags ? FUSE_RENAME2 : FUSE_RENAME, id);
    add(&argument, has_flags ? sizeof(argument) : sizeof(struct fuse_rename_in));
    add_name();
    if (!once_in(4)) {
        add("absent", 7); /* no name that is there is like this */
    } else {
        add_name();
    }
}

static void make_setattr(void)
{
    struct fuse_setattr_in argument = {.valid = (uint32_t)draw(FATTR_CTIME << 2),
                                       .mode = draw_mode(),
                                       .mtime = draw_number(),
                                       .mtimensec = (uint32_t)draw(1000000000)};

    if (once_in(2))
        argument.valid &= ~(uint32_t)(FATTR_SIZE | FATTR_KILL_SUIDGID);
    begin(FUSE_SETATTR, draw_id());
    add(&argument, sizeof(argument));
}

static void make_opendir(void)
{
    struct fuse_open_in argument = {0};

    if (opened_count(false) >= OPENED) {
        make_releasedir();
        return;
    }
    begin(FUSE_OPENDIR, draw_id());
    add(&argument, sizeof(argument));
}

static void make_readdirplus(void)
{
    struct opened *opened = once_in(12) ? NULL : draw_opened(once_in(16), true);
    struct fuse_read_in argument = {.fh = draw_strange_fh(), .size = draw_size()};

    if (opened != NULL) {
        argument.fh = opened->fh;
        argument.offset = opened->offset;
    }
    if (once_in(8))
        argument.offset = once_in(2) ? 0 : draw_number();
    begin(once_in(3) ? FUSE_READDIR : FUSE_READDIRPLUS, opened != NULL ? opened->id : draw_id());
    add(&argument, sizeof(argument));
}

static void make_statfs(void)
{
    begin(FUSE_STATFS, draw_id());
}

static void make_listxattr(void)
{
    struct fuse_getxattr_in argument = {.size = once_in(3) ? 0 : draw_size()};

    begin(FUSE_LISTXATTR, draw_id());
    add(&argument, sizeof(argument));
}

static uint64_t draw_fh(void)
{
    struct opened *opened = once_in(2) ? NULL : draw_opened(true, false);

    return opened != NULL ? opened->fh : 1 + draw(FILES + 1);
}

static void make_fallocate(void)
{
    struct fuse_fallocate_in argument = {.fh = draw_fh(),
                                         .offset = draw_number(),
                                         .length = draw_number(),
                                         .mode = (uint32_t)draw(8)};

    begin(FUSE_FALLOCATE, draw_id());
    add(&argument, sizeof(argument));
}

/* Copies to where the same bytes belong, which are checked. */
static void make_copy(void)
{
    struct fuse_copy_file_range_in argument = {.fh_in = draw_fh(),
                                               .off_in = draw_number(),
                                               .nodeid_out = draw_id(),
                                               .fh_out = 1 + draw(FILES + 1),
                                               .len = draw_size(),
                                               .flags = once_in(16)};

    argument.off_out = argument.off_in + 65536 * draw(8);
    begin(FUSE_COPY_FILE_RANGE, draw_id());
    add(&argument, sizeof(argument));
}

/* Few owners, and few ranges, so that they are in each other's way. */
static void make_lock(void)
{
    static const uint32_t opcodes[] = {FUSE_GETLK, FUSE_SETLK, FUSE_SETLK, FUSE_SETLKW};
    struct opened *opened = once_in(4) ? NULL : draw_opened(true, false);
    struct fuse_lk_in argument = {.fh = opened != NULL ? opened->fh : draw_strange_fh(),
                                  .owner = draw(4),
                                  .lk = {.start = once_in(8) ? draw_number() : draw(8),
                                         .end = INT64_MAX,
                                         .type = (uint32_t)draw(once_in(16) ? 8 : 3),
                                         .pid = (uint32_t)draw(3)}};

    if (!once_in(3))
        argument.lk.end = argument.lk.start + draw(8);
    if (once_in(32))
        argument.lk_flags = FUSE_LK_FLOCK;
    begin(opcodes[draw(4)], opened != NULL && !once_in(8) ? opened->id : draw_id());
    add(&argument, sizeof(argument));
}

static void make_flush(void)
{
    struct opened *opened = draw_opened(true, false);
    struct fuse_flush_in argument = {.fh = opened != NULL ? opened->fh : draw_strange_fh(),
                                     .lock_owner = draw(4)};

    begin(FUSE_FLUSH, opened != NULL && !once_in(8) ? opened->id : draw_id());
    add(&argument, sizeof(argument));
}

static void make_fsync(void)
{
    struct opened *opened = once_in(4) ? NULL : draw_opened(false, true);
    struct fuse_fsync_in argument = {.fh = opened != NULL ? opened->fh : draw_strange_fh()};

    begin(once_in(2) ? FUSE_FSYNC : FUSE_FSYNCDIR, draw_id());
    add(&argument, sizeof(argument));
}

/* Draws what is taken back: more than there is only if the lane can't learn more meanwhile. */
static struct fuse_forget_one draw_forget(void)
{
    struct fuse_forget_one one = {draw_id(), 1 + draw(3)};
    const struct known *known = find_known(one.nodeid);

    if (is_alone() && once_in(16))
        one.nlookup = draw_number() >> 4;
    else if (known != NULL && (one.nlookup > known->lookups || once_in(2)))
        one.nlookup = known->lookups;
    return one;
}

static void make_forget(void)
{
    struct fuse_forget_one one = draw_forget();
    struct fuse_forget_in argument = {one.nlookup};

    begin(FUSE_FORGET, one.nodeid);
    add(&argument, sizeof(argument));
}

/* Takes back from different inodes, at most once each; the count may be wrong. */
static void make_batch_forget(void)
{
    struct fuse_batch_forget_in argument = {.count = (uint32_t)draw(6)};
    uint64_t ids[8] = {0};

    begin(FUSE_BATCH_FORGET, 0);
    add(&argument, sizeof(argument));
    for (uint32_t i = 0; i < argument.count; i++) {
        struct fuse_forget_one one = draw_forget();
        for (uint32_t j = 0; j < i; j++)
            if (ids[j] == one.nodeid)
                one.nodeid = STRANGE_IDS + i;
        ids[i] = one.nodeid;
        add(&one, sizeof(one));
    }
    if (once_in(6)) {
        uint32_t count = once_in(2) ? (uint32_t)draw(8) : (uint32_t)draw_number();
        memcpy(message + sizeof(struct fuse_in_header), &count, sizeof(count));
    }
}

static void make_interrupt(void)
{
    struct fuse_interrupt_in argument = {.unique = fuzz.unique - 2 * draw(WINDOW) + 2};

    begin(FUSE_INTERRUPT, 0);
    add(&argument, sizeof(argument));
}

static bool is_strange(uint32_t opcode)
{
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT ||
           opcode == FUSE_RELEASEDIR || opcode == FUSE_READDIRPLUS || opcode == FUSE_READDIR ||
           opcode == FUSE_WRITE || opcode == FUSE_READ || opcode == FUSE_RELEASE ||
           opcode == FUSE_FALLOCATE || opcode == FUSE_COPY_FILE_RANGE || opcode == FUSE_INIT;
}

/* Any other opcode, or one of those above with an argument that is noise. */
static void make_other(void)
{
    uint32_t opcode = (uint32_t)(once_in(4) ? draw_number() : draw(CX_OPCODES));

    begin(is_strange(opcode) ? FUSE_STATFS : opcode, draw_id());
    add_random(draw(128));
}

/* Cuts a request off, or adds to it; or changes bytes of its argument, where that doesn't break
   what the kernel guarantees. */
static void spoil(void)
{
    size_t first = sizeof(struct fuse_in_header), most = message_size - first;

    switch (draw(3)) {
    case 0:
        message_size = first + draw(most + 1);
        break;
    case 1:
        if (header()->opcode != FUSE_WRITE) /* whose data is checked */
            add_random(draw(64));
        break;
    default:
        if (!is_strange(header()->opcode))
            for (size_t i = 0; i < 4 && most > 0; i++)
                message[first + draw(most)] = (char)draw(256);
    }
}

typedef void (*make_fn)(void);

/* Those that are drawn more often are there more often. */
static const make_fn MAKES[] = {
    make_lookup,      make_lookup,       make_lookup,       make_lookup,  make_getattr,
    make_readlink,    make_getxattr,     make_open,         make_open,    make_read,
    make_read,        make_write,        make_release,      make_opendir, make_opendir,
    make_readdirplus, make_readdirplus,  make_readdirplus,  make_fsync,   make_releasedir,
    make_forget,      make_forget,       make_batch_forget, make_other,   make_interrupt,
    make_mkdir,       make_mknod,        make_symlink,      make_create,  make_create,
    make_setattr,     make_setattr,      make_rename,       make_rename,
    make_unlink,      make_lock,         make_lock,         make_lock,    make_flush,
    make_rename,      make_rename,       make_statfs,       make_listxattr, make_fallocate,
    make_copy,        make_copy,         make_create,       make_create,    make_unlink,
    make_unlink,      make_unlink,
};

void make_request(void)
{
    MAKES[draw(sizeof(MAKES) / sizeof(MAKES[0]))]();
    if (once_in(8))
        spoil();
    header()->len = (uint32_t)(once_in(32) ? draw_number() : message_size);
}
