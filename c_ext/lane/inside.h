/* What the files of the lane share. */

#ifndef CX_LANE_INSIDE_H
#define CX_LANE_INSIDE_H

#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include <linux/fuse.h>

#include "allowed.h"
#include "credentials.h"
#include "lane.h"
#include "locked.h"
#include "store.h"
#include "unsure.h"
#include "wishes.h"

#define DATA_MAX (1u << 20)
#define REQUEST_MAX (DATA_MAX + 65536u)
#define THREADS_MAX 256u
#define DIRECTORY_BUCKETS 256u
#define REMOVALS_MAX 4096u
#define LOCKERS 2u /* threads that have to do with locks */

struct thread {
    struct cx_lane *lane;
    pthread_t id;
    char *in;
    char *out;
    struct cx_credentials *credentials;
    pthread_mutex_t lock; /* of what follows */
    struct cx_lookup lookup;
    bool is_looking;
};

struct cx_lane {
    struct cx_store *store;
    int device;
    int pair;
    int ended;
    struct cx_settings settings;
    struct cx_nodes *nodes;
    struct cx_files *files;
    struct cx_names *hidden;
    struct cx_names *busy;    /* by the numbers of inodes: one change of a name at a time */
    struct cx_names *leaving; /* those that are renamed */
    struct cx_allowed *allowed;
    struct cx_looked *looked;
    struct cx_removals *removals;
    struct cx_all_locked *locked;
    struct cx_unsure *unsure;
    struct cx_wishes *wishes; /* for locks */
    pthread_t lockers[LOCKERS];
    uint32_t locker_count;
    atomic_bool is_paused;
    atomic_int passes_changes; /* for how many reasons */
    atomic_uint_least64_t init_unique; /* of the request with which the kernel begins */
    atomic_uint_least32_t offered;     /* what it can do */
    atomic_size_t plain_count;
    atomic_size_t owed_count;
    atomic_bool passes_opendir;
    atomic_bool is_stopping;
    atomic_uint idle;
    atomic_int error;
    atomic_size_t open_count;
    atomic_uint_least64_t answered[CX_OPCODES];
    atomic_uint_least64_t passed[CX_OPCODES];
    atomic_uint_least64_t answered_ns[CX_OPCODES];
    atomic_uint_least64_t bytes[2];
    pthread_mutex_t lock; /* of what follows */
    struct plain *plain; /* listings without attributes that Python has been asked for */
    struct owed *owed;   /* lookups to be taken back */
    uint64_t directory_count;
    struct directory *directories[DIRECTORY_BUCKETS];
    uint32_t count;
    struct thread *threads[THREADS_MAX];
    pthread_t carrier;
    bool is_carrying;
};

/* One request, which lies in the buffer of its thread. */
struct request {
    struct cx_lane *lane;
    struct thread *thread;
    struct fuse_in_header *in;
    void *argument;
    size_t size; /* of the argument */
};

enum outcome { ANSWERED, PASSED };

/* Answers a request, if that needs nobody else. */
enum outcome cx_answer(struct request *request);

/* Sends an answer; 0 or -errno. */
int cx_reply(const struct request *request, int error, const void *data, size_t size);

/* Sends the first bytes of the thread's buffer for answers, behind the room for a header. */
int cx_reply_out(const struct request *request, size_t size);
#define OUT_DATA(request) ((request)->thread->out + sizeof(struct fuse_out_header))

/* Has the kernel ask for attributes again; it never waits. 0 or -errno. */
int cx_forget_attributes(const struct cx_lane *lane, uint64_t id);

/* Passes a message on to Python; false if it is gone. */
bool cx_pass(struct cx_lane *lane, const void *message, size_t size);

/* Starts a thread with all signals blocked but the one that wakes it: 0 or -errno. */
int cx_start_thread(pthread_t *id, void *(*run)(void *), void *argument);

/* answer.c */

/* The trash of a domain, and the virtual one of each directory. */
#define TRASH ".trashbin"

void cx_fill_entry(const struct cx_lane *lane, struct fuse_entry_out *entry, uint64_t id,
                   const struct cx_attr *attr);

/* Returns the inode that a request is about, and what is known of it; NULL if it is Python's. */
struct cx_inode *cx_use(const struct request *request, struct cx_known *known);

/* Returns the name that is the argument of a request, ended by a zero byte; NULL if it is none. */
const char *cx_name_in(const struct request *request, size_t offset);

/* Tells whether a name is one, and what it seems: not `.`, `..`, the trash, or snapshots. */
bool cx_is_usual_name(const char *name);

/* Says of a call that looks a name up that it is under way, or, without a name, over. */
void cx_note_lookup(struct thread *thread, uint64_t directory, const char *name);

/* Looks a name up; the reference is the caller's. `directory` is the number of the parent's inode.
   0 or -errno. */
int cx_look_up(const struct request *request, struct cx_inode *parent, uint64_t directory,
               const char *name, struct cx_ref **found, struct cx_attr *attr);

/* Answers with an inode of which a lookup has been counted. */
enum outcome cx_answer_entry(const struct request *request, const struct cx_attr *attr);

/* Answers with the attributes that an inode has now; gives it back. */
enum outcome cx_answer_attributes(const struct request *request, struct cx_inode *inode);

/* Takes back lookups that the kernel has been told of, or hasn't got. */
void cx_forget(struct cx_lane *lane, uint64_t id, uint64_t lookups);

/* Has the kernel use more of what it can than Python's answer to its first request says. */
void cx_widen_init(const struct cx_lane *lane, struct fuse_init_out *out);

/* data.c */

/* Returns the flags with which the storage opens what the kernel opens with others. */
int cx_flags_of(uint32_t flags);

/* Notes an open file; returns what the kernel is told. 0 without memory: then it is closed. */
uint64_t cx_note_opened(struct cx_lane *lane, struct cx_opened opened, uint64_t generation);

/* Closes what is no longer in the table of files; the other only forgets it, for who closes it. */
void cx_close_file(struct cx_lane *lane, struct cx_opened opened);
void cx_file_is_gone(struct cx_lane *lane, struct cx_opened opened);

enum outcome cx_answer_open(struct request *request);
enum outcome cx_answer_read(struct request *request);
enum outcome cx_answer_write(struct request *request);
enum outcome cx_answer_release(struct request *request);

/* change.c */

/* Returns the rights of who asks; NULL if Python has to find out. */
const struct cx_rights *cx_rights_of(const struct request *request);

enum outcome cx_answer_create(struct request *request);
enum outcome cx_answer_mkdir(struct request *request);
enum outcome cx_answer_mknod(struct request *request);
enum outcome cx_answer_symlink(struct request *request);
enum outcome cx_answer_rename(struct request *request);
enum outcome cx_answer_rename2(struct request *request);
enum outcome cx_answer_setattr(struct request *request);

/* unlink.c */

enum outcome cx_answer_unlink(struct request *request);

/* locking.c */

/* False without memory. */
bool cx_locking_new(struct cx_lane *lane);

/* Starts threads, 0 or -errno; and ends them, while others still answer requests. */
int cx_locking_start(struct cx_lane *lane);
void cx_locking_stop(struct cx_lane *lane);

/* Answers what still waits, when nobody answers requests any more. */
void cx_locking_settle(struct cx_lane *lane);
void cx_locking_free(struct cx_lane *lane);

/* Unlocks what was locked through an open file that is about to be closed. */
void cx_unlock_opened(struct cx_lane *lane, uint64_t id, uint64_t fh);

enum outcome cx_answer_lock(struct request *request);
enum outcome cx_answer_flush(struct request *request);
enum outcome cx_answer_interrupt(struct request *request);

/* ranges.c */

enum outcome cx_answer_fallocate(struct request *request);
enum outcome cx_answer_copy(struct request *request);

/* privileges.c */

/* Takes the privileges of what a request changes, if it is to lose them: 0 or -errno. */
int cx_take_privileges(struct request *request);

/* lists.c */

enum outcome cx_answer_statfs(struct request *request);
enum outcome cx_answer_listxattr(struct request *request);

/* listing.c */

void cx_close_directories(struct cx_lane *lane);

enum outcome cx_answer_opendir(struct request *request);
enum outcome cx_answer_readdir(struct request *request);
enum outcome cx_answer_readdirplus(struct request *request);
enum outcome cx_answer_releasedir(struct request *request);
enum outcome cx_answer_fsyncdir(struct request *request);

/* plain.c */

/* Asks Python for a listing with attributes, of which the kernel is to get the names. */
enum outcome cx_ask_for_plain(struct request *request);

/* Makes an answer of Python a plain one, if it was to be one; returns its size. */
size_t cx_make_plain(struct cx_lane *lane, char *message, size_t size);

/* Takes back the lookups that were in such answers; may wait for Python. */
void cx_pay(struct cx_lane *lane);

/* At the end. */
void cx_drop_plain(struct cx_lane *lane);

#endif
