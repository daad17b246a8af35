/* The rights that requests come with, as the storage wants them, kept while they are
   among the last ones that were used.

   Concurrency: each thread has its own. */

#ifndef CX_LANE_CREDENTIALS_H
#define CX_LANE_CREDENTIALS_H

#include <stdint.h>

struct cx_credentials;
struct cx_rights;

/* Returns NULL without memory. */
struct cx_credentials *cx_credentials_new(void);
void cx_credentials_free(struct cx_credentials *credentials);

/* Returns the rights of a user, with the groups that a process of theirs has at this moment; root
   needs none, nor are there any where `pid` is 0. Valid until the next call. NULL if it has too
   many groups, or without memory. */
const struct cx_rights *cx_credentials_of(struct cx_credentials *credentials, uint32_t uid,
                                         uint32_t gid, uint32_t pid);

#endif
