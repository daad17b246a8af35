/* Open files, by the number that the kernel has for them: whose data goes past Python.

   Python opens and closes them. It may replace what is behind a number at any time; calls that
   have begun go on with what was there before, which stays open until `cx_files_is_idle`.

   Concurrency: every function may be called from any thread. */

#ifndef CX_LANE_FILES_H
#define CX_LANE_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cx_files;
struct Fh;

struct cx_file {
    struct Fh *raw;
    bool appends;
};

struct cx_files *cx_files_new(void);
void cx_files_free(struct cx_files *files);

/* Says what is behind a number from now on. False without memory: then nothing is. */
bool cx_files_set(struct cx_files *files, uint64_t number, struct cx_file file);

/* Nothing is behind a number any more; of a file that is being closed. */
void cx_files_drop(struct cx_files *files, uint64_t number);

/* Nothing is behind any number any more, until Python says so again. */
void cx_files_drop_all(struct cx_files *files);

/* Begins a call; false if Python has to do it. A call that has begun has to be ended. */
bool cx_files_begin(struct cx_files *files, uint64_t number, struct cx_file *file);
void cx_files_end(struct cx_files *files, uint64_t number);

/* Tells whether no call is under way with what is or was behind a number. */
bool cx_files_is_idle(struct cx_files *files, uint64_t number);

#endif
