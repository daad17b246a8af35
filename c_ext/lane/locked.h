/* Files of which ranges are locked through this mount, and who has locked them.

   A file has one open file of libcephfs for the locks of everybody: what opens, exchanges and closes
   files has nothing to do with locks then. libcephfs ends the process if it learns of a new lock
   before it has noted the end of another that was in its way, and it notes answers in no order: so
   who asks for something has the file alone meanwhile.

   Concurrency: every function may be called from any thread. What is in a file belongs to who has
   it. */

#ifndef CX_LANE_LOCKED_H
#define CX_LANE_LOCKED_H

#include <stdbool.h>
#include <stdint.h>

struct cx_all_locked;
struct cx_inode;
struct cx_fh;

/* Who has locked something, and through which open file. */
struct cx_holder {
    struct cx_holder *next;
    uint64_t owner;
    uint64_t fh;
    uint64_t start, end; /* all that it has locked lies between, both included */
    uint32_t pid;
    bool is_lost; /* the session has been shut out since */
};

struct cx_locked {
    uint64_t id;
    struct cx_inode *inode; /* with a reference while `raw` is open */
    struct cx_fh *raw;         /* NULL if it isn't open */
    uint64_t directory;     /* it was in, when it was opened */
    uint64_t generation;    /* of the session, then */
    struct cx_holder *holders;
    struct cx_locked *next; /* this and what follows is the table's */
    unsigned users;
    bool is_taken;
};

/* Returns NULL without memory. */
struct cx_all_locked *cx_all_locked_new(void);

/* Nobody may have a file. What is open then is the caller's to close, before: `cx_locked_any`. */
void cx_all_locked_free(struct cx_all_locked *all);

/* Waits until nobody has a file, and takes it. NULL without memory; or if nothing is known of it,
   unless it is to be made. */
struct cx_locked *cx_locked_enter(struct cx_all_locked *all, uint64_t id, bool makes);

/* Takes any one; NULL if there is none. */
struct cx_locked *cx_locked_any(struct cx_all_locked *all);

/* Gives a file back; it is forgotten unless it is open, has holders, or is waited for. */
void cx_locked_leave(struct cx_all_locked *all, struct cx_locked *locked);

/* Notes that an owner has locked a range. False without memory. */
bool cx_locked_add(struct cx_locked *locked, struct cx_holder holder);

/* Notes that an owner has unlocked a range. */
void cx_locked_cut(struct cx_locked *locked, uint64_t owner, uint64_t start, uint64_t end);

/* Forgets an owner; true if what it had was lost. */
bool cx_locked_drop(struct cx_locked *locked, uint64_t owner);

/* Notes that the session was shut out: what everybody had is lost. */
void cx_locked_lose(struct cx_locked *locked);

/* Returns a holder by its owner, or by an open file, or by its process; NULL if there is none. */
struct cx_holder *cx_locked_by_owner(const struct cx_locked *locked, uint64_t owner);
struct cx_holder *cx_locked_by_fh(const struct cx_locked *locked, uint64_t fh);
struct cx_holder *cx_locked_by_pid(const struct cx_locked *locked, uint32_t pid);

#endif
