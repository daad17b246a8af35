/* Names that have been deleted and are still in the storage: a set.

   Concurrency: every function may be called from any thread. */

#ifndef CX_LANE_HIDDEN_H
#define CX_LANE_HIDDEN_H

#include "nodes.h"

struct cx_hidden;

/* Returns NULL without memory. */
struct cx_hidden *cx_hidden_new(void);
void cx_hidden_free(struct cx_hidden *hidden);

/* False without memory; a name that is there already stays. */
bool cx_hidden_add(struct cx_hidden *hidden, struct cx_name at);
void cx_hidden_remove(struct cx_hidden *hidden, struct cx_name at);
bool cx_hidden_has(struct cx_hidden *hidden, struct cx_name at);

#endif
