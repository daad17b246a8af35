"""Builds `c_ext._lane`: threads that answer the kernel without Python, and what they know.

Calls release the GIL. Those on tables are brief; `cx_lane_stop`, and those that make the kernel
forget something, may block. What the functions guarantee is said in the headers in `c_ext/lane`.
"""

from __future__ import annotations

from cffi import FFI

_SOURCES = (
    "nodes", "names", "files", "allowed", "looked", "removals", "credentials",
    "lane", "answer", "listing", "plain", "data", "change", "unlink",
    "locked", "wishes", "unsure", "locking", "ranges", "lists", "privileges", "store_ceph",
)  # fmt: skip

ffibuilder = FFI()

ffibuilder.cdef(
    """
    #define CX_NAME_MAX 255
    #define CX_OPEN_HERE ...
    #define CX_ALL_LOOKUPS ...
    #define CX_OPCODES 64

    struct cx_nodes;
    struct cx_files;
    struct cx_names;
    struct cx_allowed;
    struct cx_looked;
    struct cx_removals;
    struct cx_lane;
    struct cx_fh;
    struct cx_inode;

    struct timespec { long tv_sec; long tv_nsec; };
    struct cx_attr {
        uint64_t ino;
        uint64_t size;
        uint64_t blocks;
        uint64_t rdev;
        struct timespec atime;
        struct timespec mtime;
        struct timespec ctime;
        uint32_t mode;
        uint32_t nlink;
        uint32_t uid;
        uint32_t gid;
        uint32_t blksize;
        bool is_live;
    };

    struct ceph_mount_info;
    struct UserPerm;
    struct cx_store { struct ceph_mount_info *mount; const struct UserPerm *perms; };

    struct cx_known {
        uint64_t id;
        uint64_t ino;
        uint64_t parent;
        uint64_t lookups;
        uint64_t changes;
        uint32_t nlink;
        uint32_t touches;
        uint32_t reasons;
        bool is_dir;
        uint8_t name_length;
        char name[255];
    };
    struct cx_name { uint64_t parent; const char *name; size_t length; };
    struct cx_file { struct cx_fh *raw; bool appends; };
    struct cx_opened {
        uint64_t id;
        struct cx_inode *inode;
        struct cx_fh *raw;
        uint32_t flags;
        bool is_current;
    };
    struct cx_settings {
        double entry_timeout_s;
        double attr_timeout_s;
        uint32_t readers;
        uint32_t readers_max;
        uint32_t open_max;
    };
    struct cx_grant {
        uint64_t number;
        uint64_t directory;
        uint32_t pid;
        uint32_t uid;
        uint32_t gid;
        uint32_t touches;
        bool owned_only;
    };
    struct cx_removed { uint64_t grant; uint64_t parent; size_t length; char name[255]; };
    struct cx_cost { uint64_t answered; uint64_t passed; uint64_t answered_ns; };
    struct cx_lookup { uint64_t begun; uint64_t directory; char name[256]; };

    enum cx_learned { CX_LEARNED, CX_REFUSED, CX_NO_MEMORY };
    enum cx_forgotten { CX_UNKNOWN, CX_KEPT, CX_GONE, CX_GONE_TELL };

    enum cx_learned cx_nodes_teach(struct cx_nodes *nodes, uint64_t id, uint64_t ino, void *raw,
                                   struct cx_name at, bool is_dir, uint32_t nlink);
    bool cx_nodes_count_again(struct cx_nodes *nodes, uint64_t id);
    enum cx_forgotten cx_nodes_forget(struct cx_nodes *nodes, uint64_t id, uint64_t lookups);
    bool cx_nodes_look(struct cx_nodes *nodes, uint64_t id, struct cx_known *known);
    bool cx_nodes_adopt(struct cx_nodes *nodes, uint64_t id, struct cx_known *known);
    void cx_nodes_hold(struct cx_nodes *nodes, uint64_t id, bool is_held);
    uint32_t cx_nodes_opens(struct cx_nodes *nodes, uint64_t id);
    void cx_nodes_open_outside(struct cx_nodes *nodes, uint64_t id, bool is_open);
    bool cx_nodes_retarget(struct cx_nodes *nodes, uint64_t id, uint64_t ino, void *raw);
    bool cx_nodes_force(struct cx_nodes *nodes, uint64_t ino, uint32_t add, uint32_t take);
    bool cx_nodes_place(struct cx_nodes *nodes, uint64_t id, struct cx_name at);
    void cx_nodes_unplace(struct cx_nodes *nodes, struct cx_name at);
    uint64_t cx_nodes_directory_at(struct cx_nodes *nodes, struct cx_name at);
    void cx_nodes_changed(struct cx_nodes *nodes, uint64_t directory);
    size_t cx_nodes_count(struct cx_nodes *nodes);
    size_t cx_nodes_oldest(struct cx_nodes *nodes, struct cx_known *known, size_t count);

    bool cx_names_add(struct cx_names *names, struct cx_name at);
    bool cx_names_take(struct cx_names *names, struct cx_name at);
    void cx_names_remove(struct cx_names *names, struct cx_name at);

    void cx_allowed_add(struct cx_allowed *allowed, uint64_t directory, double seconds);
    void cx_allowed_clear(struct cx_allowed *allowed);

    bool cx_looked_take(struct cx_looked *looked, struct cx_name at, struct cx_attr *attr);

    void cx_removals_wake(struct cx_removals *removals, int eventfd);
    bool cx_removals_exempt(struct cx_removals *removals, const char *patterns, size_t size);
    void cx_removals_grant(struct cx_removals *removals, const struct cx_grant *grant,
                           double seconds);
    void cx_removals_revoke(struct cx_removals *removals, uint64_t directory);
    void cx_removals_revoke_all(struct cx_removals *removals);
    size_t cx_removals_take(struct cx_removals *removals, struct cx_removed *removed,
                            struct cx_attr *attr, size_t count);
    bool cx_removals_inside(struct cx_removals *removals, uint64_t directory,
                            uint64_t answered_ns, uint32_t directories);

    bool cx_files_set(struct cx_files *files, uint64_t number, struct cx_file file);
    void cx_files_drop(struct cx_files *files, uint64_t number);
    bool cx_files_look(struct cx_files *files, uint64_t number, struct cx_opened *opened);
    bool cx_files_is_idle(struct cx_files *files, uint64_t number);

    struct cx_lane *cx_lane_new(struct cx_store *store, struct cx_settings settings);
    int cx_lane_start(struct cx_lane *lane, int device, int pair, int ended);
    void cx_lane_stop(struct cx_lane *lane);
    void cx_lane_free(struct cx_lane *lane);
    struct cx_nodes *cx_lane_nodes(struct cx_lane *lane);
    struct cx_files *cx_lane_files(struct cx_lane *lane);
    struct cx_names *cx_lane_hidden(struct cx_lane *lane);
    struct cx_names *cx_lane_busy(struct cx_lane *lane);
    struct cx_names *cx_lane_leaving(struct cx_lane *lane);
    struct cx_allowed *cx_lane_allowed(struct cx_lane *lane);
    struct cx_looked *cx_lane_looked(struct cx_lane *lane);
    struct cx_removals *cx_lane_removals(struct cx_lane *lane);
    void cx_lane_pause(struct cx_lane *lane, bool is_paused);
    void cx_lane_pass_changes(struct cx_lane *lane, bool passes);
    void cx_lane_pass_opendir(struct cx_lane *lane);
    int cx_lane_forget_name(struct cx_lane *lane, struct cx_name at);
    int cx_lane_forget_inode(struct cx_lane *lane, uint64_t id);
    void cx_lane_costs(struct cx_lane *lane, struct cx_cost *costs, uint64_t *bytes);
    bool cx_lane_is_unsure(struct cx_lane *lane);
    bool cx_lane_is_unsure_in(struct cx_lane *lane, uint64_t directory);
    void cx_lane_locks(struct cx_lane *lane, size_t *waiting, uint64_t *refused);
    size_t cx_lane_open(struct cx_lane *lane);
    bool cx_lane_take_file(struct cx_lane *lane, uint64_t fh, struct cx_opened *opened);
    bool cx_lane_lookup(struct cx_lane *lane, uint32_t thread, struct cx_lookup *lookup);
    int cx_lane_error(struct cx_lane *lane);
    """
)

ffibuilder.set_source(
    "c_ext._lane",
    """
    #include "lane.h"
    #include "store.h"
    #include "store_ceph.h"
    """,
    sources=[f"c_ext/lane/{name}.c" for name in _SOURCES],
    include_dirs=["c_ext/lane"],
    libraries=["cephfs"],
    define_macros=[("_GNU_SOURCE", None), ("_FILE_OFFSET_BITS", "64")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
