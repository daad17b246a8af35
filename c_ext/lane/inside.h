/* What the files of the lane share. */

#ifndef CX_LANE_INSIDE_H
#define CX_LANE_INSIDE_H

#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include <linux/fuse.h>

#include <cephfs/libcephfs.h>

#include "lane.h"

#define DATA_MAX (1u << 20)
#define REQUEST_MAX (DATA_MAX + 65536u)
#define THREADS_MAX 256u
#define OPEN_BUCKETS 256u

struct thread {
    struct cx_lane *lane;
    pthread_t id;
    char *in;
    char *out;
    pthread_mutex_t lock; /* of what follows */
    struct cx_lookup lookup;
    bool is_looking;
};

struct cx_lane {
    struct ceph_mount_info *mount;
    const UserPerm *perms;
    int device;
    int pair;
    int ended;
    struct cx_settings settings;
    struct cx_nodes *nodes;
    struct cx_files *files;
    struct cx_hidden *hidden;
    atomic_bool is_paused;
    atomic_bool passes_opendir;
    atomic_bool is_stopping;
    atomic_uint idle;
    atomic_int error;
    atomic_size_t open_count;
    atomic_uint_least64_t generation; /* how often the session has come back */
    atomic_uint_least64_t answered[CX_OPCODES];
    atomic_uint_least64_t passed[CX_OPCODES];
    atomic_uint_least64_t answered_ns[CX_OPCODES];
    atomic_uint_least64_t bytes[2];
    pthread_mutex_t lock; /* of what follows */
    uint64_t opened_count;
    struct opened *opened[OPEN_BUCKETS];
    uint32_t count;
    struct thread *threads[THREADS_MAX];
    pthread_t carrier;
    bool is_carrying;
};

/* What is open here: the beginning of a directory or a reader. */
struct opened {
    struct opened *next; /* in its bucket, with the lane's lock */
    uint64_t number;     /* what the kernel has for it, without CX_OPEN_HERE */
    bool is_directory;
};

/* A directory that is open here. The kernel serialises what reads it. */
struct directory {
    struct opened opened;
    struct ceph_dir_result *raw;
    uint64_t id;
    uint64_t changes; /* of names, when it was opened */
    uint64_t cookie;  /* where libcephfs stands */
    bool is_ahead;    /* what follows was read, and there was no room for it */
    struct dirent entry;
    struct Inode *inode;
};

/* A file that is open here, for reading. */
struct reader {
    struct opened opened;
    uint64_t id;
    struct cx_inode *inode;
    pthread_mutex_t lock; /* of what follows */
    struct Fh *raw;
    uint64_t generation;   /* of the session that it was opened in */
    struct Fh **former;    /* of sessions before; calls may be using them */
    size_t former_count;
};

/* Closes what is no longer in the table of the lane. */
void cx_close(struct cx_lane *lane, struct opened *opened);

/* One request, which lies in the buffer of its thread. */
struct request {
    struct cx_lane *lane;
    struct thread *thread;
    struct fuse_in_header *in;
    void *argument;
    size_t size; /* of the argument */
};

enum outcome { ANSWERED, PASSED };

/* Answers a request, if that needs nobody else. */
enum outcome cx_answer(struct request *request);

/* Sends an answer; 0 or -errno. */
int cx_reply(const struct request *request, int error, const void *data, size_t size);

/* Sends the first bytes of the thread's buffer for answers, behind the room for a header. */
int cx_reply_out(const struct request *request, size_t size);
#define OUT_DATA(request) ((request)->thread->out + sizeof(struct fuse_out_header))

/* Passes a message on to Python; false if it is gone. */
bool cx_pass(struct cx_lane *lane, const void *message, size_t size);

#endif
