/* The session of libcephfs that a lane asks; its owner keeps it open. */

#ifndef CX_LANE_STORE_CEPH_H
#define CX_LANE_STORE_CEPH_H

struct UserPerm;
struct ceph_mount_info;

struct cx_store {
    struct ceph_mount_info *mount;
    const struct UserPerm *perms; /* the gateway's */
};

#endif
