/* A set of names in directories: those that have been deleted and are still in the storage, and
   those that are being changed.

   Concurrency: every function may be called from any thread. */

#ifndef CX_LANE_NAMES_H
#define CX_LANE_NAMES_H

#include "nodes.h"

struct cx_names;

/* Returns NULL without memory. */
struct cx_names *cx_names_new(void);
void cx_names_free(struct cx_names *names);

/* False without memory; a name that is there already stays. */
bool cx_names_add(struct cx_names *names, struct cx_name at);

/* Adds a name; false if it is there already, or without memory. */
bool cx_names_take(struct cx_names *names, struct cx_name at);

void cx_names_remove(struct cx_names *names, struct cx_name at);
bool cx_names_has(struct cx_names *names, struct cx_name at);

#endif
