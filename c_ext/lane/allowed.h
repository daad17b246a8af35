/* Directories in which things may be renamed and opened for writing, as Python has found out, and
   until when that is to be believed.

   Some are forgotten when there are many: then Python is asked again.

   Concurrency: every function may be called from any thread. */

#ifndef CX_LANE_ALLOWED_H
#define CX_LANE_ALLOWED_H

#include <stdbool.h>
#include <stdint.h>

struct cx_allowed;

/* Returns NULL without memory. */
struct cx_allowed *cx_allowed_new(void);
void cx_allowed_free(struct cx_allowed *allowed);

/* Allows it for some time, from now on. */
void cx_allowed_add(struct cx_allowed *allowed, uint64_t directory, double seconds);

/* Allows it nowhere any more. */
void cx_allowed_clear(struct cx_allowed *allowed);

bool cx_allowed_has(struct cx_allowed *allowed, uint64_t directory);

#endif
