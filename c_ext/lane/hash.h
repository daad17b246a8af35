/* Hashes of numbers and names. Users choose names, so those have a salt: nobody can find many that
   share a bucket. */

#ifndef CX_LANE_HASH_H
#define CX_LANE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/random.h>

/* Returns a number that nobody knows; 0 if the system has none yet. */
static inline uint64_t cx_hash_salt(void)
{
    uint64_t salt = 0;

    if (getrandom(&salt, sizeof(salt), GRND_NONBLOCK) != (ssize_t)sizeof(salt))
        return 0;
    return salt;
}

/* The finalizer of splitmix64. */
static inline uint64_t cx_hash_number(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* FNV-1a over a name in a directory, begun with both salt and directory. */
static inline uint64_t cx_hash_name(uint64_t salt, uint64_t directory, const char *name,
                                    size_t length)
{
    uint64_t hash = cx_hash_number(salt ^ directory);

    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)name[i]) * 0x100000001b3u;
    return cx_hash_number(hash);
}

#endif
