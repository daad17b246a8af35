/* Requests for locks that have no answer yet: those that are asked for just now, those that wait
   until what is in their way has gone, and those that have been granted and are about to be told.

   A lock of another client gives no sign when it goes, so what waits is asked for again: soon at
   first, then more and more rarely, and at once when something of the file is unlocked here: a few, those
   that have waited longest. There is a limit; what would wait beyond it is refused, and counted.

   Concurrency: every function may be called from any thread. A wish belongs to who has got it. */

#ifndef CX_LANE_WISHES_H
#define CX_LANE_WISHES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cx_wishes;

struct cx_wish {
    uint64_t unique; /* of the request */
    uint64_t id;     /* of the inode */
    uint32_t opcode;
    uint32_t type; /* of the lock, as fcntl has it; with its range and owner */
    uint64_t start, end;
    uint64_t owner;
    uint64_t fh;
    uint32_t pid;
    uint64_t ino, version; /* of the file, once the lock is granted */
    bool is_changed;       /* then: the kernel has pages of another version */
    struct cx_wish *next;  /* this and what follows is the table's */
    int state;
    bool is_interrupted;
    bool is_waiting; /* it has been, since it was asked for first */
    double due_s, pause_s;
};

/* Returns NULL without memory. `most`: how many may wait. */
struct cx_wishes *cx_wishes_new(size_t most);

/* What is still there is forgotten; nobody may wait any more. */
void cx_wishes_free(struct cx_wishes *wishes);

/* Notes a wish that is about to be asked for; it is the caller's. NULL without memory. */
struct cx_wish *cx_wishes_add(struct cx_wishes *wishes, struct cx_wish wish);

/* Has a wish asked for again later. 0, or why that can't be, and it still is the caller's: EINTR, it
   isn't wanted any more; ENOLCK, too many wait; ENOTCONN, all is about to end. */
int cx_wishes_again(struct cx_wishes *wishes, struct cx_wish *wish);

/* Has a wish told that was granted, not before `due_s` (CLOCK_MONOTONIC). False if all is about to
   end; then it still is the caller's. */
bool cx_wishes_grant(struct cx_wishes *wishes, struct cx_wish *wish);

/* Forgets a wish that has its answer. */
void cx_wishes_end(struct cx_wishes *wishes, struct cx_wish *wish);

/* Waits for a wish that is to be asked for again, or for one that is to be told, and takes it. NULL
   at the end. */
struct cx_wish *cx_wishes_due(struct cx_wishes *wishes);
struct cx_wish *cx_wishes_granted(struct cx_wishes *wishes);

/* Takes the wish of a request that is no longer wanted, if it waits. NULL if it doesn't: then it isn't
   asked for again, also if it is yet to come. */
struct cx_wish *cx_wishes_interrupt(struct cx_wishes *wishes, uint64_t unique);

/* Has some of what waits for something of an inode asked for again at once. */
void cx_wishes_wake(struct cx_wishes *wishes, uint64_t id);

/* Has nobody wait any more. */
void cx_wishes_stop(struct cx_wishes *wishes);

/* Takes any wish that nobody has; NULL if there is none. */
struct cx_wish *cx_wishes_any(struct cx_wishes *wishes);

/* Says how many wait, and how many were refused because there were too many. */
size_t cx_wishes_waiting(struct cx_wishes *wishes);
uint64_t cx_wishes_refused(struct cx_wishes *wishes);

#endif
