/* Deletes that are answered before they have been carried out (docs/semantics.md, deletes in bulk):
   those that the lane answers itself, and what of all of them it has to know.

   Python grants a process to unlink in a directory without being asked, for a short time. What was
   answered on the strength of that waits here until Python takes it over. Of each directory in
   which something waits, here or in Python, is known how its attributes differ for users.

   Concurrency: every function may be called from any thread. */

#ifndef CX_LANE_REMOVALS_H
#define CX_LANE_REMOVALS_H

#include "nodes.h"

struct cx_removals;
struct cx_attr;

/* That a process may unlink in a directory. */
struct cx_grant {
    uint64_t number;    /* by which Python knows it again */
    uint64_t directory; /* its id */
    uint32_t pid;       /* never 0 */
    uint32_t uid;
    uint32_t gid;
    uint32_t touches; /* of the directory, when Python looked at it */
    bool owned_only;  /* only what belongs to the caller */
};

/* What was unlinked on the strength of a grant. */
struct cx_removed {
    uint64_t grant;
    uint64_t parent;
    size_t length;
    char name[CX_NAME_MAX];
};

/* Returns NULL without memory. `limit`: how much may wait for Python. */
struct cx_removals *cx_removals_new(size_t limit);
void cx_removals_free(struct cx_removals *removals);

/* Has an eventfd written to when something begins to wait for Python. */
void cx_removals_wake(struct cx_removals *removals, int eventfd);

/* Says which names are never unlinked here: patterns as of fnmatch(3), one after the other, each
   ended by a zero byte. Once, before anything is granted. False without memory. */
bool cx_removals_exempt(struct cx_removals *removals, const char *patterns, size_t size);

/* Tells whether a name, ended by a zero byte, is one of those. */
bool cx_removals_is_exempt(const struct cx_removals *removals, const char *name);

/* Grants it from now on; of a directory the last grant counts. */
void cx_removals_grant(struct cx_removals *removals, const struct cx_grant *grant, double seconds);

/* Takes the grant for a directory back, or all. What was answered before stays answered. */
void cx_removals_revoke(struct cx_removals *removals, uint64_t directory);
void cx_removals_revoke_all(struct cx_removals *removals);

/* Tells whether somebody may unlink in a directory, now. */
bool cx_removals_may(struct cx_removals *removals, const struct cx_grant *asked);

/* The same, of what a name has there; if so it has been deleted from now on, and waits for Python.
   False as well if too much waits, or without memory. `directory` is the number of the inode. */
bool cx_removals_add(struct cx_removals *removals, const struct cx_grant *asked,
                     uint64_t directory, struct cx_name at, const struct cx_attr *attr);

/* Takes over what waits, the oldest first; returns how much. Every `attr` belongs to the
   `removed` of its number. */
size_t cx_removals_take(struct cx_removals *removals, struct cx_removed *removed,
                        struct cx_attr *attr, size_t count);

/* Says that in a directory, by the number of its inode, something waits in Python: when the last of
   it was answered, and how many names of directories are among it. With 0 for the time nothing does
   any more. False without memory. */
bool cx_removals_inside(struct cx_removals *removals, uint64_t directory, uint64_t answered_ns,
                        uint32_t directories);

/* Makes attributes of an inode those that users see. */
void cx_removals_show(struct cx_removals *removals, struct cx_attr *attr);

#endif
