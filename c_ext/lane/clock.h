/* What time it is, by a clock that nobody sets. */

#ifndef CX_LANE_CLOCK_H
#define CX_LANE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define CX_NS_PER_S UINT64_C(1000000000)

/* Returns what a clock says, in nanoseconds. */
static inline uint64_t cx_ns_of(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * CX_NS_PER_S + (uint64_t)now.tv_nsec;
}

static inline uint64_t cx_now_ns(void)
{
    return cx_ns_of(CLOCK_MONOTONIC);
}

static inline double cx_now_s(void)
{
    return (double)cx_now_ns() / 1e9;
}

#endif
