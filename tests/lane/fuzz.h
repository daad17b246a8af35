/* What the files of `lane_fuzz` share: it is one program, of one thread. */

#ifndef FUZZ_H
#define FUZZ_H

#define FUSE_USE_VERSION 31
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/fuse.h>

#include "lane.h"
#include "store.h"
#include "stub_cephfs.h"

#define MESSAGE_MAX ((1u << 20) + 65536u)
#define DATA_MAX (1u << 20)
#define XATTR_MAX 65536u
#define TARGET_MAX 4096u
#define WINDOW 16u
#define KNOWN_MAX 512u
#define OPENED_MAX 64u
#define OPENED 8u /* when so many of a kind are open, one is closed first */
#define FILES 8u
#define OTHERS_MAX 64u
#define REPLY_MAX 512u

#define VIRTUAL_IDS (UINT64_C(1) << 60) /* that Python gives, and the table doesn't have */
#define STRANGE_IDS (UINT64_C(1) << 61) /* that nobody has given */
#define ALIASES (UINT64_C(1) << 50)     /* what Python adds to a number to have another id */
#define NOT_A_UNIQUE (UINT64_C(1) << 63)
#define REFUSED (-600) /* the error of an answer that the kernel has refused */

/* A message that was sent and has no answer yet. */
struct sent {
    char *message; /* as it has to come to Python; NULL if this place is free */
    size_t size;
    bool is_passed;
    bool is_plain; /* Python is asked for a listing with attributes, and the kernel gets names */
    _Alignas(8) char reply[REPLY_MAX]; /* Python's, if it has answered */
    size_t reply_size;
};

/* An inode that the kernel knows. */
struct known {
    uint64_t id;
    uint64_t lookups;
    bool is_virtual;
};

/* A file or directory that the kernel has open in the lane. */
struct opened {
    uint64_t fh; /* 0 if this place is free */
    uint64_t id;
    uint64_t offset;
    unsigned users; /* requests that are about it and have no answer */
    bool is_file;
    bool is_closing;
    struct cx_fh *taken; /* of a file that Python has taken over */
    bool appends;
};

struct file {
    struct cx_fh *raw;
    bool is_dropped;
};

/* A message to the kernel that answers nothing. */
struct other {
    char bytes[REPLY_MAX];
    size_t size;
};

struct fuzz {
    uint64_t seed, state, step, unique;
    unsigned threads;
    bool is_stopping;
    bool passes_changes;
    int device, pair, ended; /* the kernel's end, and Python's */
    struct cx_lane *lane;
    struct sent sent[WINDOW];
    struct known known[KNOWN_MAX];
    size_t known_count;
    struct opened opened[OPENED_MAX];
    struct file files[FILES + 1];
    struct other others[OTHERS_MAX];
    size_t others_count;
    uint64_t unknown_sent, unknown_got; /* lookups of what the table doesn't have */
    uint64_t told[STUB_INODES * 2 + 1], ends[STUB_INODES * 2 + 1];
    uint64_t answered[CX_OPCODES], passed, refused;
    uint64_t grants, removed;
    uint64_t silent[CX_OPCODES]; /* requests without an answer */
};

extern struct fuzz fuzz;

/* Says what is wrong, and ends the program. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static inline uint64_t draw(uint64_t below)
{
    return stub_draw(&fuzz.state, below);
}

static inline bool once_in(uint64_t times)
{
    return draw(times) == 0;
}

static inline uint64_t draw_number(void)
{
    return draw(UINT64_MAX) >> draw(64);
}

static inline bool is_alone(void)
{
    return fuzz.threads == 1;
}

/* lane_fuzz.c: the sockets */

void send_to_lane(int fd, const void *bytes, size_t size);

/* fuzz_requests.c: a request under construction */

extern char message[MESSAGE_MAX];
extern size_t message_size;

static inline struct fuse_in_header *header(void)
{
    return (struct fuse_in_header *)(void *)message;
}

void begin(uint32_t opcode, uint64_t id);
void add(const void *data, size_t size);

/* Makes a request of any kind, which may be spoilt. */
void make_request(void);

/* fuzz_kernel.c: what the kernel knows, what it waits for, and what it gets */

struct known *find_known(uint64_t id);
struct opened *find_opened(uint64_t fh);
size_t opened_count(bool is_file);

/* Returns a file or directory that no request is about, or a file that isn't being closed; NULL if
   there is none. */
struct opened *draw_opened(bool is_file, bool is_free);

/* Returns an id that the kernel knows, or a strange one. */
uint64_t draw_id(void);

const struct fuse_in_header *header_of(const struct sent *sent);
struct sent *find_sent(uint64_t unique);
size_t waiting(void);

/* Notes the request that is about to be sent: one that has an answer, or one that hasn't. */
bool has_answer(void);
void remember(void);
void forget_as_sent(void);

void take_answer(const char *bytes, size_t size);

/* fuzz_python.c */

void take_passed_on(const char *bytes, size_t size);

/* Takes over some of what the lane has unlinked; returns how much. */
size_t take_removed(void);

/* Does something that Python does between requests. */
void meddle(void);

#endif
