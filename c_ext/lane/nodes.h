/* The inodes that the kernel knows, shared by the lane's threads and Python.

   A node is known by its id, which is what the kernel calls it: the inode's number, unless Python
   has said otherwise. Each has one counted reference to its inode in the storage, the directory
   and name under which it was seen last, and the number of lookups that the kernel has not taken
   back yet.

   Numbers of inodes that only Python can answer for are forced: learned natively they are refused.

   Concurrency: every function may be called from any thread; there is one lock, which is never
   held while the storage is called. */

#ifndef CX_LANE_NODES_H
#define CX_LANE_NODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CX_NAME_MAX 255u

/* Why only Python can answer for an inode. The bits are Python's; here only 0 has a meaning. */
typedef uint32_t cx_reasons;

struct cx_nodes;

/* Gives a reference to an inode of the storage back. */
typedef void (*cx_put_fn)(void *context, void *raw);

/* A reference to an inode that is shared by its node and by the calls that use it. */
struct cx_inode;

/* What is known of a node. */
struct cx_known {
    uint64_t id;
    uint64_t ino;
    uint64_t parent;
    uint64_t lookups;
    uint64_t changes; /* how often names in it were changed; of a directory */
    uint32_t nlink;
    uint32_t touches; /* how often the lane has changed something of it; of a directory */
    cx_reasons reasons;
    bool is_dir;
    uint8_t name_length;
    char name[CX_NAME_MAX];
};

/* A name in a directory; not ended by a zero byte. It isn't NULL, and where it is noted not longer
   than CX_NAME_MAX. */
struct cx_name {
    uint64_t parent;
    const char *name;
    size_t length;
};

enum cx_learned { CX_LEARNED, CX_REFUSED, CX_NO_MEMORY };

/* Returns NULL without memory. `put` is called without the lock, from any thread. */
struct cx_nodes *cx_nodes_new(cx_put_fn put, void *context);

/* Gives all references back; nobody else may use the table any more. */
void cx_nodes_free(struct cx_nodes *nodes);

/* Counts one lookup of an inode of whom nothing is special; its id is its number. Takes `raw`
   over if it returns CX_LEARNED, and only then. Refuses what is forced, a number that is the id of
   another inode, and what Python has been told of (`cx_nodes_adopt`) if its place or its number
   of links is new. An inode with another id isn't recognized by its number: it has to be forced. */
enum cx_learned cx_nodes_learn(struct cx_nodes *nodes, uint64_t ino, void *raw,
                               struct cx_name at, bool is_dir, uint32_t nlink);

/* The same for Python, which decides about the id and whatever is special; refuses nothing. */
enum cx_learned cx_nodes_teach(struct cx_nodes *nodes, uint64_t id, uint64_t ino, void *raw,
                               struct cx_name at, bool is_dir, uint32_t nlink);

/* Counts one more lookup of a node; false if it isn't known. */
bool cx_nodes_count_again(struct cx_nodes *nodes, uint64_t id);

enum cx_forgotten { CX_UNKNOWN, CX_KEPT, CX_GONE, CX_GONE_TELL };

/* Takes lookups back. The last one ends the node's place here: CX_GONE, or CX_GONE_TELL if
   Python has been told of it. The root stays. */
enum cx_forgotten cx_nodes_forget(struct cx_nodes *nodes, uint64_t id, uint64_t lookups);

/* Returns the inode of a node, to be given back to `cx_inode_release`, and what is known of it;
   NULL if nothing is. */
struct cx_inode *cx_nodes_use(struct cx_nodes *nodes, uint64_t id, struct cx_known *known);
void *cx_inode_raw(const struct cx_inode *inode);
void cx_inode_release(struct cx_nodes *nodes, struct cx_inode *inode);

/* The same for a file that is about to be opened, and counts it as open; NULL also for what is
   forced or held. To be followed by `cx_nodes_closed`, when it is. */
struct cx_inode *cx_nodes_open(struct cx_nodes *nodes, uint64_t id);
void cx_nodes_closed(struct cx_nodes *nodes, uint64_t id);

/* The same for locks, and also of what is forced; says in which directory it is, and, if it is NULL,
   whether that is because the file is held. */
struct cx_inode *cx_nodes_open_for_locks(struct cx_nodes *nodes, uint64_t id, uint64_t *directory,
                                         bool *is_held);

/* Tells whether the kernel's pages of a file are those of a version of it, and notes of which they
   are, once the kernel has dropped what it had of another. Of a file that leads to another inode
   since, nothing is known. */
bool cx_nodes_has_pages(struct cx_nodes *nodes, uint64_t id, uint64_t version);
void cx_nodes_note_pages(struct cx_nodes *nodes, uint64_t id, uint64_t ino, uint64_t version);

/* Keeps a file from being opened by `cx_nodes_open`, or no longer. */
void cx_nodes_hold(struct cx_nodes *nodes, uint64_t id, bool is_held);

/* Returns how often a file is open. */
uint32_t cx_nodes_opens(struct cx_nodes *nodes, uint64_t id);

/* Says whether Python has a file open. */
void cx_nodes_open_outside(struct cx_nodes *nodes, uint64_t id, bool is_open);

/* Tells whether nobody has a file open, or wants it alone, and nothing about its inode is forced. */
bool cx_nodes_is_idle(struct cx_nodes *nodes, uint64_t ino);

/* Says what is known of a node, without its inode; false if nothing is. */
bool cx_nodes_look(struct cx_nodes *nodes, uint64_t id, struct cx_known *known);

/* The same, and from now on Python is told of its end. */
bool cx_nodes_adopt(struct cx_nodes *nodes, uint64_t id, struct cx_known *known);

/* Has a node lead to another inode; takes `raw` over if it returns true. */
bool cx_nodes_retarget(struct cx_nodes *nodes, uint64_t id, uint64_t ino, void *raw);

/* Adds and takes away reasons to ask Python about an inode. False without memory. */
bool cx_nodes_force(struct cx_nodes *nodes, uint64_t ino, cx_reasons add, cx_reasons take);

/* Notes that a node, or its name, is somewhere else now. */
bool cx_nodes_place(struct cx_nodes *nodes, uint64_t id, struct cx_name at);

/* Notes that a directory has lost its name. */
void cx_nodes_unplace(struct cx_nodes *nodes, struct cx_name at);

/* Returns the id of the directory that was seen last under a name; 0 if none was. */
uint64_t cx_nodes_directory_at(struct cx_nodes *nodes, struct cx_name at);

/* Notes that a name in a directory was changed; the other says how often that has been. */
void cx_nodes_changed(struct cx_nodes *nodes, uint64_t directory);
uint64_t cx_nodes_changes(struct cx_nodes *nodes, uint64_t directory);

/* The same, or attributes of a directory: by the lane, of which Python isn't told. */
void cx_nodes_touched(struct cx_nodes *nodes, uint64_t directory);

size_t cx_nodes_count(struct cx_nodes *nodes);

/* Fills in up to `count` nodes, the ones learned longest ago first; the next call returns others.
   Returns how many. */
size_t cx_nodes_oldest(struct cx_nodes *nodes, struct cx_known *known, size_t count);

#endif
