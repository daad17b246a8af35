/* Python's part: it answers what is passed on, and does what it does between requests. */

#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>


/* Adds something to the kernel that answers nothing, and will come unchanged. */
static void expect(const void *bytes, size_t size)
{
    struct other *other = &fuzz.others[fuzz.others_count++];

    memcpy(other->bytes, bytes, size);
    other->size = size;
}

static void send_junk(void)
{
    char bytes[REPLY_MAX];
    struct fuse_out_header *out = (void *)bytes;
    size_t size = once_in(2) ? 1 + draw(sizeof(*out) - 1) : sizeof(*out) + draw(200);

    if (fuzz.others_count == OTHERS_MAX)
        return;
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)draw(256);
    if (size >= sizeof(*out))
        out->unique = once_in(2) ? 0 : out->unique | NOT_A_UNIQUE;
    expect(bytes, size);
    send_to_lane(fuzz.pair, bytes, size);
}

static size_t told_index(uint64_t id)
{
    bool is_alias = id >= ALIASES + 1;
    uint64_t ino = is_alias ? id - ALIASES : id;

    return (size_t)((ino < STUB_FIRST_INO ? 1 : ino - STUB_FIRST_INO) +
                    (is_alias ? STUB_INODES : 0));
}

/* Makes the answer to a lookup, as Python does that knows more; 0 if there is none. */
static uint64_t teach(uint64_t parent)
{
    struct cx_nodes *nodes = cx_lane_nodes(fuzz.lane);
    unsigned index = 2 + (unsigned)draw(STUB_INODES - 2);
    const char *name = stub_name((unsigned)draw(STUB_ENTRIES));
    uint64_t ino = stub_ino(index), id = once_in(8) ? ino + ALIASES : ino;
    struct cx_name at = {parent, name, strlen(name)};

    switch (draw(4)) {
    case 0:
        return 0;
    case 1:
        return VIRTUAL_IDS + draw(16);
    case 2:
        return cx_nodes_count_again(nodes, id) ? id : 0;
    default:
        if (id != ino)
            cx_nodes_force(nodes, ino, 1, 0);
        if (cx_nodes_teach(nodes, id, ino, stub_reference(index), at, stub_is_dir(index), 1) !=
            CX_LEARNED)
            fail("no memory");
        return id;
    }
}

/* Answers a listing with a page of some names, of which the kernel is to get those alone, and no
   lookups. */
static void answer_plain(struct sent *sent)
{
    struct fuse_out_header *out = (void *)sent->reply;
    _Alignas(8) char page[REPLY_MAX] = {0};
    size_t at = sizeof(*out), to = sizeof(*out);

    for (uint64_t i = draw(3); i > 0; i--) {
        struct fuse_direntplus *plus = (void *)(page + at);
        plus->dirent.namelen = (uint32_t)(1 + draw(20));
        plus->dirent.ino = draw_number();
        memset(plus->dirent.name, 'p', plus->dirent.namelen);
        plus->entry_out.nodeid = teach(header_of(sent)->nodeid);
        if (plus->entry_out.nodeid >= VIRTUAL_IDS)
            fuzz.unknown_sent++;
        memcpy(sent->reply + to, &plus->dirent, FUSE_DIRENT_SIZE(&plus->dirent));
        to += FUSE_DIRENT_SIZE(&plus->dirent);
        at += FUSE_DIRENTPLUS_SIZE(plus);
    }
    *out = (struct fuse_out_header){.unique = header_of(sent)->unique, .len = (uint32_t)at};
    memcpy(page, out, sizeof(*out));
    out->len = (uint32_t)to;
    sent->reply_size = to;
    send_to_lane(fuzz.pair, page, at);
}

static void answer_in_python(struct sent *sent)
{
    struct fuse_out_header out = {.unique = header_of(sent)->unique};
    struct fuse_entry_out entry = {0};
    size_t size = draw(200);

    if (sent->is_plain && !once_in(8)) {
        answer_plain(sent);
        return;
    }
    if (sent->is_plain)
        size = 0;
    for (size_t i = 0; i < size; i++)
        sent->reply[sizeof(out) + i] = (char)draw(256);
    if (header_of(sent)->opcode == FUSE_LOOKUP) {
        entry.nodeid = teach(header_of(sent)->nodeid);
        size = entry.nodeid != 0 ? sizeof(entry) : 0;
        memcpy(sent->reply + sizeof(out), &entry, size);
    }
    if (size == 0)
        out.error = -EACCES;
    out.len = (uint32_t)(sizeof(out) + size);
    memcpy(sent->reply, &out, sizeof(out));
    sent->reply_size = out.len;
    send_to_lane(fuzz.pair, sent->reply, sent->reply_size);
}

static void take_forget(const char *bytes, size_t size)
{
    const struct fuse_in_header *in = (const void *)bytes;
    struct fuse_forget_in forget;

    if (size != sizeof(*in) + sizeof(forget) || in->len != size)
        fail("forget has %zu bytes", size);
    memcpy(&forget, in + 1, sizeof(forget));
    if (forget.nlookup != CX_ALL_LOOKUPS)
        fuzz.unknown_got += forget.nlookup;
    else if (++fuzz.ends[told_index(in->nodeid)] > fuzz.told[told_index(in->nodeid)])
        fail("Python was told of the end of %" PRIx64, in->nodeid);
}

/* Closes a file that was taken over from the lane. */
static void close_taken(uint64_t fh)
{
    struct opened *opened = find_opened(fh);

    if (opened == NULL || opened->taken == NULL)
        return;
    cx_files_drop(cx_lane_files(fuzz.lane), fh);
    if (!cx_files_is_idle(cx_lane_files(fuzz.lane), fh))
        fail("file %" PRIx64 " is closed while it is used", fh);
    free(opened->taken);
}

/* Takes what the lane has seen of a name; it is something that there is. */
static void take_looked(uint64_t parent, const char *name, size_t size)
{
    struct cx_name at = {parent, name, strnlen(name, size)};
    struct cx_attr attr;

    if (cx_looked_take(cx_lane_looked(fuzz.lane), at, &attr) &&
        (attr.ino == 0 || (is_alone() && cx_looked_take(cx_lane_looked(fuzz.lane), at, &attr))))
        fail("a name was looked at twice");
}

/* Takes what Python got. */
void take_passed_on(const char *bytes, size_t size)
{
    const struct fuse_in_header *in = (const void *)bytes;
    struct sent *sent;

    if (size < sizeof(*in))
        fail("%zu bytes were passed on", size);
    if (in->opcode == FUSE_FORGET) {
        take_forget(bytes, size);
        return;
    }
    sent = find_sent(in->unique);
    if (sent == NULL || sent->is_passed)
        fail("opcode %u was passed on twice", in->opcode);
    if (sent->size != size || memcmp(sent->message, bytes, size) != 0)
        fail("opcode %u was changed", in->opcode);
    sent->is_passed = true;
    fuzz.passed++;
    if (fuzz.is_stopping)
        return;
    if (once_in(6))
        send_junk();
    if (in->opcode == FUSE_UNLINK && once_in(2))
        take_looked(in->nodeid, (const char *)(in + 1), size - sizeof(*in));
    if (in->opcode == FUSE_RELEASE && size >= sizeof(*in) + sizeof(struct fuse_release_in))
        close_taken(((const struct fuse_release_in *)(const void *)(in + 1))->fh);
    answer_in_python(sent);
}

static void adopt(void)
{
    uint64_t id = draw_id();
    struct cx_known known;

    if (id != FUSE_ROOT_ID && id < VIRTUAL_IDS &&
        cx_nodes_adopt(cx_lane_nodes(fuzz.lane), id, &known))
        fuzz.told[told_index(id)]++;
}

/* Has another file be behind a number; what was there is closed when no call uses it. */
static void exchange_file(void)
{
    struct cx_files *files = cx_lane_files(fuzz.lane);
    uint64_t number = 1 + draw(FILES);
    struct file *file = &fuzz.files[number];

    if (!file->is_dropped)
        cx_files_drop(files, number);
    file->is_dropped = true;
    if (!cx_files_is_idle(files, number))
        return;
    free(file->raw);
    file->raw = stub_open(number % 4 == 0);
    file->is_dropped = false;
    if (!cx_files_set(files, number, (struct cx_file){file->raw, number % 4 == 0}))
        fail("no memory");
}

/* Takes a file over from the lane. */
static void take_file(void)
{
    struct opened *opened = draw_opened(true, false);
    struct cx_opened taken;

    if (opened == NULL)
        return;
    if (!cx_lane_take_file(fuzz.lane, opened->fh, &taken) != (opened->taken != NULL))
        fail("file %" PRIx64 " was taken over twice, or not at all", opened->fh);
    if (opened->taken == NULL) {
        opened->taken = taken.raw;
        opened->appends = taken.flags & O_APPEND;
    }
    if (!once_in(4) && !cx_files_set(cx_lane_files(fuzz.lane), opened->fh,
                                     (struct cx_file){opened->taken, opened->appends}))
        fail("no memory");
}

/* Takes all files back, as when the cluster has shut the session out. */
static void drop_files(void)
{
    cx_files_drop_all(cx_lane_files(fuzz.lane));
    for (size_t i = 1; i <= FILES; i++)
        fuzz.files[i].is_dropped = true;
}

/* Has the kernel forget an inode: a message that answers nothing. */
static void forget_inode(void)
{
    struct {
        struct fuse_out_header out;
        struct fuse_notify_inval_inode_out body;
    } bytes = {.out = {.len = sizeof(bytes), .error = FUSE_NOTIFY_INVAL_INODE},
               .body.ino = draw_id()};

    if (fuzz.others_count == OTHERS_MAX)
        return;
    expect(&bytes, sizeof(bytes));
    if (cx_lane_forget_inode(fuzz.lane, bytes.body.ino) != 0)
        fail("forget_inode failed");
}

/* The same of a name. */
static void forget_name(void)
{
    const char *name = stub_name((unsigned)draw(STUB_ENTRIES));
    struct {
        struct fuse_out_header out;
        struct fuse_notify_inval_entry_out body;
        char name[CX_NAME_MAX + 1];
    } bytes = {.out.error = FUSE_NOTIFY_INVAL_ENTRY, .body.parent = draw_id()};

    if (fuzz.others_count == OTHERS_MAX)
        return;
    bytes.body.namelen = (uint32_t)strlen(name);
    memcpy(bytes.name, name, bytes.body.namelen);
    bytes.out.len =
        (uint32_t)(offsetof(__typeof__(bytes), name) + bytes.body.namelen + 1);
    expect(&bytes, bytes.out.len);
    if (cx_lane_forget_name(fuzz.lane, (struct cx_name){bytes.body.parent, name,
                                                        bytes.body.namelen}) != 0)
        fail("forget_name failed");
}

size_t take_removed(void)
{
    struct cx_removals *removals = cx_lane_removals(fuzz.lane);
    struct cx_removed removed[2];
    struct cx_attr attr[2];
    size_t count = cx_removals_take(removals, removed, attr, 1 + draw(2));

    for (size_t i = 0; i < count; i++) {
        struct cx_name at = {removed[i].parent, removed[i].name, removed[i].length};
        uint64_t directory = stub_ino((unsigned)draw(STUB_INODES));
        if (removed[i].grant == 0 || removed[i].grant > fuzz.grants || at.length == 0 ||
            !(S_ISREG(attr[i].mode) || S_ISLNK(attr[i].mode)) || attr[i].nlink != 1)
            fail("something was unlinked that may not be");
        fuzz.removed++;
        cx_names_remove(cx_lane_hidden(fuzz.lane), at);
        if (!cx_removals_inside(removals, directory, draw_number() | 1, (uint32_t)draw(3)) ||
            (once_in(2) && !cx_removals_inside(removals, directory, 0, 0)))
            fail("no memory");
    }
    return count;
}

void meddle(void)
{
    struct cx_nodes *nodes = cx_lane_nodes(fuzz.lane);
    unsigned index = (unsigned)draw(STUB_INODES);
    const char *name = stub_name((unsigned)draw(STUB_ENTRIES));
    struct cx_name at = {draw_id(), name, strlen(name)};
    struct cx_known oldest[4];
    struct cx_ref *raw;

    switch (draw(19)) {
    case 17:
        take_removed();
        break;
    case 18:
        if (once_in(4))
            cx_removals_revoke_all(cx_lane_removals(fuzz.lane));
        cx_removals_revoke(cx_lane_removals(fuzz.lane), at.parent);
        cx_nodes_open_outside(nodes, draw_id(), once_in(8));
        break;
    case 15:
        if (once_in(32))
            cx_allowed_clear(cx_lane_allowed(fuzz.lane));
        cx_allowed_add(cx_lane_allowed(fuzz.lane), at.parent, 1e3);
        break;
    case 16:
        at.parent = stub_ino(index);
        if (cx_names_take(cx_lane_leaving(fuzz.lane), at) && !once_in(8))
            cx_names_remove(cx_lane_leaving(fuzz.lane), at);
        break;
    case 13:
        if (fuzz.passes_changes || once_in(4)) {
            fuzz.passes_changes = !fuzz.passes_changes;
            cx_lane_pass_changes(fuzz.lane, fuzz.passes_changes);
        }
        break;
    case 14:
        at.parent = stub_ino(index);
        if (cx_names_take(cx_lane_busy(fuzz.lane), at) && !once_in(8))
            cx_names_remove(cx_lane_busy(fuzz.lane), at);
        break;
    case 12:
        take_file();
        break;
    case 0:
        adopt();
        break;
    case 1:
        cx_nodes_force(nodes, stub_ino(index), (cx_reasons)once_in(6), (cx_reasons)!once_in(6));
        break;
    case 2:
        if (cx_names_add(cx_lane_hidden(fuzz.lane), at) && !once_in(4))
            cx_names_remove(cx_lane_hidden(fuzz.lane), at);
        break;
    case 3:
        cx_nodes_changed(nodes, at.parent);
        cx_nodes_place(nodes, draw_id(), at);
        break;
    case 4:
        cx_nodes_unplace(nodes, at);
        break;
    case 5:
        raw = stub_reference(index);
        if (!once_in(8) || at.parent == FUSE_ROOT_ID ||
            !cx_nodes_retarget(nodes, at.parent, stub_ino(index), raw))
            stub_give_back(raw);
        break;
    case 6:
        forget_name();
        forget_inode();
        break;
    case 7:
        cx_lane_pause(fuzz.lane, once_in(6));
        break;
    case 8:
        if (cx_nodes_oldest(nodes, oldest, 4) > 4)
            fail("more inodes than were asked for");
        break;
    case 9:
        if (once_in(8))
            drop_files();
        cx_nodes_hold(nodes, at.parent, once_in(4));
        break;
    default:
        exchange_file();
    }
}
