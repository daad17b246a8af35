/* Directories of whose names, and of whose files' attributes, the kernel remembers nothing, since
   something in them is locked, or was lately: who locks wants to know what is there now.

   Concurrency: every function may be called from any thread. */

#ifndef CX_LANE_UNSURE_H
#define CX_LANE_UNSURE_H

#include <stdbool.h>
#include <stdint.h>

struct cx_unsure;

/* Returns NULL without memory. `lasts_s`: how long a directory is one after the last lock. */
struct cx_unsure *cx_unsure_new(double lasts_s);
void cx_unsure_free(struct cx_unsure *unsure);

/* Notes that something in a directory is about to be locked. False without memory. To be followed by
   `cx_unsure_end`, when nothing of it is locked any more. */
bool cx_unsure_begin(struct cx_unsure *unsure, uint64_t directory);
void cx_unsure_end(struct cx_unsure *unsure, uint64_t directory);

/* Returns since when a directory is one, of CLOCK_MONOTONIC; it has begun and not ended. */
double cx_unsure_since(struct cx_unsure *unsure, uint64_t directory);

bool cx_unsure_has(struct cx_unsure *unsure, uint64_t directory);

/* Tells whether there is any; quick. */
bool cx_unsure_any(struct cx_unsure *unsure);

#endif
