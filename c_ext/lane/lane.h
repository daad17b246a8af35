/* Answers what needs no decision, and passes the rest on to Python.

   Threads read requests from /dev/fuse. What a thread can answer with the storage (store.h) it answers; all
   else goes, unchanged, through one end of a pair of SOCK_SEQPACKET sockets to pyfuse3, and one
   more thread carries the answers back. Whatever is unusual (an error that is not every day's, an
   inode or a name of which Python knows more, a request that isn't as it should be) is Python's.

   Lookups of inodes that the table of nodes has are counted there alone, Python's among them;
   those of all others (what is seen in a virtual trash, snapshots) are Python's.

   Source: include/uapi/linux/fuse.h, fs/fuse/dev.c; design.md 7. */

#ifndef CX_LANE_H
#define CX_LANE_H

#include "allowed.h"
#include "files.h"
#include "looked.h"
#include "names.h"
#include "nodes.h"
#include "removals.h"

struct cx_lane;
struct cx_store;

struct cx_settings {
    double entry_timeout_s;
    double attr_timeout_s;
    uint32_t readers;     /* threads at the beginning */
    uint32_t readers_max; /* when all of them wait for the storage, more are started */
    uint32_t open_max;    /* files that are opened here; those beyond are Python's */
};

/* What one kind of request has cost. */
struct cx_cost {
    uint64_t answered;
    uint64_t passed;
    uint64_t answered_ns;
};

/* A call that looks a name up, and is under way. */
struct cx_lookup {
    uint64_t begun; /* which one of this thread */
    uint64_t directory;
    char name[CX_NAME_MAX + 1];
};

/* Directories that are open here have the bit CX_OPEN_HERE in their number, too; in an fsyncdir
   that is passed on, the rest is the id of the directory. */

/* How many lookups Python is told are taken back, of a node that ends here. */
#define CX_ALL_LOOKUPS (UINT64_C(1) << 62)

#define CX_OPCODES 64u

/* `store` stays the caller's. Returns NULL without memory, or if the root isn't found. */
struct cx_lane *cx_lane_new(struct cx_store *store, struct cx_settings settings);

/* Begins to answer what comes from `device`. The descriptors stay the caller's, who closes them
   after `cx_lane_stop`; `ended` is an eventfd that is written to when the kernel has ended the
   session. 0 or -errno; then nothing runs. */
int cx_lane_start(struct cx_lane *lane, int device, int pair, int ended);

/* Ends all threads, which may be waiting for the storage: blocks until they are over. */
void cx_lane_stop(struct cx_lane *lane);

/* After `cx_lane_stop`, or instead of `cx_lane_start`. What is open here is closed. */
void cx_lane_free(struct cx_lane *lane);

struct cx_nodes *cx_lane_nodes(struct cx_lane *lane);
struct cx_files *cx_lane_files(struct cx_lane *lane);

/* Names that have been deleted and are still in the storage, by the ids of directories. */
struct cx_names *cx_lane_hidden(struct cx_lane *lane);

/* Names that are being changed, by the numbers of the directories' inodes: who takes one removes it
   when the change is over. */
struct cx_names *cx_lane_busy(struct cx_lane *lane);

/* Those among them that are renamed; who takes one keeps it from being renamed. */
struct cx_names *cx_lane_leaving(struct cx_lane *lane);

struct cx_allowed *cx_lane_allowed(struct cx_lane *lane);
struct cx_looked *cx_lane_looked(struct cx_lane *lane);
struct cx_removals *cx_lane_removals(struct cx_lane *lane);

/* Has Python answer everything that can be: the session is shut out. What was opened before stays
   Python's, until it says otherwise. */
void cx_lane_pause(struct cx_lane *lane, bool is_paused);

/* Has Python make all changes, or no longer: as often as it was said that it does. */
void cx_lane_pass_changes(struct cx_lane *lane, bool passes);

/* Has Python open directories. */
void cx_lane_pass_opendir(struct cx_lane *lane);

/* Have the kernel forget a name, or attributes and pages. They may wait for locks that requests
   hold: never call them from what answers one. 0 or -errno. */
int cx_lane_forget_name(struct cx_lane *lane, struct cx_name at);
int cx_lane_forget_inode(struct cx_lane *lane, uint64_t id);

/* What kinds of requests have cost, by opcode; bytes read and written. */
void cx_lane_costs(struct cx_lane *lane, struct cx_cost costs[CX_OPCODES], uint64_t bytes[2]);

/* Tells whether there may be directories of which the kernel is to remember nothing. */
bool cx_lane_is_unsure(struct cx_lane *lane);
bool cx_lane_is_unsure_in(struct cx_lane *lane, uint64_t directory);

/* How many requests for locks wait, and how many were refused: there were too many. */
void cx_lane_locks(struct cx_lane *lane, size_t *waiting, uint64_t *refused);

/* How many files and directories are open here. */
size_t cx_lane_open(struct cx_lane *lane);

/* Hands a file that is open here over to Python, who closes it; false if it isn't, or Python has
   it already. */
bool cx_lane_take_file(struct cx_lane *lane, uint64_t fh, struct cx_opened *opened);

/* Says which lookup a thread has under way; false if none. */
bool cx_lane_lookup(struct cx_lane *lane, uint32_t thread, struct cx_lookup *lookup);

/* The errno that ended reading from the kernel, other than ENODEV; 0 if none has. */
int cx_lane_error(struct cx_lane *lane);

#endif
