/* Open files, by the number that the kernel has for them: whose data goes past Python.

   Python opens files, or the lane does; those of the lane Python takes over when it has to do with
   them, and closes them then. It may replace what is behind a number at any time; calls that have
   begun go on with what was there before, which stays open until `cx_files_is_idle`.

   Concurrency: every function may be called from any thread. Nothing is closed, nor taken over,
   while the kernel has a request about it without an answer, but for those that only use it. */

#ifndef CX_LANE_FILES_H
#define CX_LANE_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cx_files;
struct cx_inode;
struct cx_fh;

/* The bit of the numbers of what was opened by the lane. The lowest bit is that of directories. */
#define CX_OPEN_HERE (UINT64_C(1) << 63)

struct cx_file {
    struct cx_fh *raw;
    bool appends;
};

/* How the lane has opened a file. */
struct cx_opened {
    uint64_t id;
    struct cx_inode *inode;
    struct cx_fh *raw;
    uint32_t flags;
    bool is_current; /* the session hasn't been shut out since */
};

struct cx_files *cx_files_new(void);
void cx_files_free(struct cx_files *files);

/* Says what is behind a number from now on. False without memory: then nothing is. */
bool cx_files_set(struct cx_files *files, uint64_t number, struct cx_file file);

/* Nothing is behind a number any more; of a file that Python is about to close. */
void cx_files_drop(struct cx_files *files, uint64_t number);

/* Nothing is behind any number any more, until Python says so again: the session is shut out. */
void cx_files_drop_all(struct cx_files *files);

/* How often the session has been shut out. */
uint64_t cx_files_generation(struct cx_files *files);

/* Takes over what the lane has opened, and returns its number; 0 without memory. `generation` is
   that of before it was opened. */
uint64_t cx_files_open(struct cx_files *files, struct cx_opened opened, uint64_t generation);

/* Says how something was opened that is still the lane's; false if it isn't. */
bool cx_files_look(struct cx_files *files, uint64_t number, struct cx_opened *opened);

/* The same, and it is Python's from now on. */
bool cx_files_take(struct cx_files *files, uint64_t number, struct cx_opened *opened);

/* The same, and nothing is behind the number any more: the caller closes it. */
bool cx_files_close(struct cx_files *files, uint64_t number, struct cx_opened *opened);

/* Closes any one that is still the lane's; false if there is none. */
bool cx_files_close_any(struct cx_files *files, struct cx_opened *opened);

/* Begins a call; false if Python has to do it. A call that has begun has to be ended. */
bool cx_files_begin(struct cx_files *files, uint64_t number, struct cx_file *file);
void cx_files_end(struct cx_files *files, uint64_t number);

/* Tells whether no call is under way with what is or was behind a number. */
bool cx_files_is_idle(struct cx_files *files, uint64_t number);

#endif
