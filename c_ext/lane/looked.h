/* What a name had when Python was asked to remove it: it decides by that, and needn't look again.

   Concurrency: every function may be called from any thread. */

#ifndef CX_LANE_LOOKED_H
#define CX_LANE_LOOKED_H

#include "nodes.h"

struct cx_looked;
struct cx_attr;

/* Returns NULL without memory. */
struct cx_looked *cx_looked_new(void);
void cx_looked_free(struct cx_looked *looked);

/* Notes what a name has; of very many at once some are forgotten. */
void cx_looked_put(struct cx_looked *looked, struct cx_name at, const struct cx_attr *attr);

/* Says what was noted last of a name, once; false if nothing was. */
bool cx_looked_take(struct cx_looked *looked, struct cx_name at, struct cx_attr *attr);

#endif
