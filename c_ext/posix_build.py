"""Builds `c_ext._posix`: system calls that Python lacks, or makes for the whole process.

`setfsuid`, `setfsgid` and the raw `setgroups` act on the calling thread alone, which is what a
worker thread that acts for a user needs; the C library's `setgroups` would change all threads.

Source: credentials(7), setfsuid(2), name_to_handle_at(2), renameat2(2), getdents(2).
"""

from __future__ import annotations

from cffi import FFI

ffibuilder = FFI()

ffibuilder.cdef(
    """
    int cx_act_as(unsigned uid, unsigned gid, const unsigned *groups, size_t count);
    int cx_be_root_again(void);
    int cx_umask(unsigned mask);
    int64_t cx_file_system(int fd);
    int cx_renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags);
    int cx_linkat(int fd, int to_dir, const char *to);
    void cx_unlink_many(int dir, const char *names, size_t count, int *errors);
    int cx_chown(int fd, unsigned uid, unsigned gid);
    int cx_utimens(int fd, const int64_t *seconds, const long *nanoseconds);
    long cx_getdents(int fd, void *buffer, size_t size);
    int cx_name_to_handle(int fd, void *buffer, size_t size);
    int cx_open_by_handle(int mount_fd, const void *buffer, size_t size, int flags);
    """
)

ffibuilder.set_source(
    "c_ext._posix",
    r"""
    #include <errno.h>
    #include <fcntl.h>
    #include <linux/capability.h>
    #include <sched.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/fsuid.h>
    #include <sys/stat.h>
    #include <sys/statfs.h>
    #include <sys/syscall.h>
    #include <sys/types.h>
    #include <unistd.h>

    /* All functions return 0 (or a count) or -errno. */

    struct cx_caps {
        struct __user_cap_header_struct header;
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    };

    /* What the thread may do as itself, while it acts for a user. */
    static _Thread_local struct cx_caps cx_own_caps;
    static _Thread_local int cx_acting;

    static int cx_get_caps(struct cx_caps *caps)
    {
        memset(caps, 0, sizeof *caps);
        caps->header.version = _LINUX_CAPABILITY_VERSION_3;
        return syscall(SYS_capget, &caps->header, caps->data) == 0 ? 0 : -errno;
    }

    static int cx_set_caps(const struct cx_caps *caps)
    {
        struct cx_caps copy = *caps; /* the kernel may write to the header */
        return syscall(SYS_capset, &copy.header, copy.data) == 0 ? 0 : -errno;
    }

    /* setfs*id report nothing; asking with an invalid id returns what is in force. */
    static int cx_set_fs_ids(unsigned uid, unsigned gid)
    {
        setfsgid(gid);
        setfsuid(uid);
        if ((unsigned)setfsgid((gid_t)-1) != gid || (unsigned)setfsuid((uid_t)-1) != uid)
            return -EPERM;
        return 0;
    }

    /* Take a user's identity in this thread alone; cx_be_root_again ends that, and must be called
     * also after an error. Root keeps its capabilities. Whoever else loses all that are in force:
     * setfsuid takes only those away that override permissions, and leaves those that exceed
     * quotas, use what the file system reserves for root, and set trusted and security xattrs. */
    static int cx_act_as(unsigned uid, unsigned gid, const unsigned *groups, size_t count)
    {
        struct cx_caps none;
        int rc = cx_get_caps(&cx_own_caps);
        if (rc != 0)
            return rc;
        if (syscall(SYS_setgroups, count, groups) != 0)
            return -errno;
        cx_acting = 1;
        rc = cx_set_fs_ids(uid, gid);
        if (rc != 0 || uid == 0)
            return rc;
        none = cx_own_caps;
        none.data[0].effective = none.data[1].effective = 0;
        return cx_set_caps(&none);
    }

    /* Each step needs what the one before it brings back. */
    static int cx_be_root_again(void)
    {
        int rc;
        if (!cx_acting)
            return 0;
        setfsuid(0);
        rc = cx_set_caps(&cx_own_caps);
        if (rc == 0)
            rc = cx_set_fs_ids(0, 0);
        if (rc == 0 && syscall(SYS_setgroups, (size_t)0, NULL) != 0)
            rc = -errno;
        if (rc == 0)
            cx_acting = 0;
        return rc;
    }

    /* Set the umask of this thread alone; it leaves the process's umask (and current directory)
     * behind the first time. */
    static int cx_umask(unsigned mask)
    {
        static _Thread_local int apart;
        if (!apart && unshare(CLONE_FS) != 0)
            return -errno;
        apart = 1;
        umask((mode_t)mask);
        return 0;
    }

    /* The magic number of the file system that a descriptor is on; statvfs(3) hides it. */
    static int64_t cx_file_system(int fd)
    {
        struct statfs stats;
        return fstatfs(fd, &stats) == 0 ? (int64_t)(uint32_t)stats.f_type : -errno;
    }

    static int cx_renameat2(int from_dir, const char *from, int to_dir, const char *to,
                            unsigned flags)
    {
        return syscall(SYS_renameat2, from_dir, from, to_dir, to, flags) == 0 ? 0 : -errno;
    }

    /* Needs CAP_DAC_READ_SEARCH with AT_EMPTY_PATH, so the magic link is followed instead. */
    static int cx_linkat(int fd, int to_dir, const char *to)
    {
        char path[32];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        return linkat(AT_FDCWD, path, to_dir, to, AT_SYMLINK_FOLLOW) == 0 ? 0 : -errno;
    }

    /* Unlinks names, each ended by a zero byte, one after the other; errors[i] is 0 or an errno. */
    static void cx_unlink_many(int dir, const char *names, size_t count, int *errors)
    {
        for (size_t i = 0; i < count; i++, names += strlen(names) + 1)
            errors[i] = unlinkat(dir, names, 0) == 0 ? 0 : errno;
    }

    static int cx_chown(int fd, unsigned uid, unsigned gid)
    {
        return fchownat(fd, "", uid, gid, AT_EMPTY_PATH) == 0 ? 0 : -errno;
    }

    /* nanoseconds may be UTIME_NOW or UTIME_OMIT */
    static int cx_utimens(int fd, const int64_t *seconds, const long *nanoseconds)
    {
        struct timespec times[2];
        int i;
        for (i = 0; i < 2; i++) {
            times[i].tv_sec = (time_t)seconds[i];
            times[i].tv_nsec = nanoseconds[i];
        }
        return utimensat(fd, "", times, AT_EMPTY_PATH) == 0 ? 0 : -errno;
    }

    static long cx_getdents(int fd, void *buffer, size_t size)
    {
        long n = syscall(SYS_getdents64, fd, buffer, size);
        return n >= 0 ? n : -errno;
    }

    /* Writes handle_type and the handle; returns how many bytes that is. */
    static int cx_name_to_handle(int fd, void *buffer, size_t size)
    {
        union { struct file_handle handle; char room[sizeof(struct file_handle) + 128]; } u;
        int mount_id;
        size_t need;
        u.handle.handle_bytes = 120;
        if (name_to_handle_at(fd, "", &u.handle, &mount_id, AT_EMPTY_PATH) != 0)
            return -errno;
        need = sizeof(int) + u.handle.handle_bytes;
        if (need > size)
            return -EOVERFLOW;
        memcpy(buffer, &u.handle.handle_type, sizeof(int));
        memcpy((char *)buffer + sizeof(int), u.handle.f_handle, u.handle.handle_bytes);
        return (int)need;
    }

    static int cx_open_by_handle(int mount_fd, const void *buffer, size_t size, int flags)
    {
        union { struct file_handle handle; char room[sizeof(struct file_handle) + 128]; } u;
        int fd;
        if (size <= sizeof(int) || size > sizeof(int) + 128)
            return -EINVAL;
        u.handle.handle_bytes = (unsigned)(size - sizeof(int));
        memcpy(&u.handle.handle_type, buffer, sizeof(int));
        memcpy(u.handle.f_handle, (const char *)buffer + sizeof(int), size - sizeof(int));
        fd = open_by_handle_at(mount_fd, &u.handle, flags);
        return fd >= 0 ? fd : -errno;
    }
    """,
    extra_compile_args=["-std=gnu11", "-Wall", "-Wextra"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
