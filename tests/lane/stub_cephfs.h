/* A storage in memory that stands for libcephfs, with what else a test needs of it.

   It has a fixed tree of inodes, made from a seed. What calls return is drawn: errors, devices of
   snapshots, numbers of links, short reads and writes. Each reference that it gives is an
   allocation of its own, which `ceph_ll_put` frees: a sanitizer finds those that are given back
   twice, not at all, or are used afterwards.

   Concurrency: nothing here takes a lock, so it orders nothing between threads. */

#ifndef STUB_CEPHFS_H
#define STUB_CEPHFS_H

#include <stdbool.h>
#include <stdint.h>

#define STUB_INODES 48u
#define STUB_ENTRIES 24u
#define STUB_COOKIE_SHIFT 20 /* of positions in a listing: how many entries are before them */
#define STUB_FIRST_INO UINT64_C(0x10000000000)

struct cx_fh;
struct cx_ref;

/* Makes the tree; before anything else is called. */
void stub_init(uint64_t seed);

/* xorshift64; the state is the caller's own, and not 0. */
static inline uint64_t stub_draw(uint64_t *state, uint64_t below)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state % below;
}

/* What is at an offset of every file. */
static inline char stub_byte(uint64_t offset)
{
    return (char)(offset * 131 + (offset >> 8));
}

/* The number of an inode; one is that of a root. */
uint64_t stub_ino(unsigned index);
bool stub_is_dir(unsigned index);

/* A name in each directory; it ends with a zero byte. */
const char *stub_name(unsigned entry);

/* A reference to an inode, as the lane has it; it is given back to the storage, or here. */
struct cx_ref *stub_reference(unsigned index);
void stub_give_back(struct cx_ref *ref);

/* A file that is open, to be freed when it is closed. */
struct cx_fh *stub_open(bool appends);

/* How many references were given, and put. */
unsigned long stub_given(void);
unsigned long stub_put(void);

/* How many writes had other data than they should. */
unsigned long stub_wrong(void);

#endif
