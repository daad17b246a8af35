#include "credentials.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store.h"

#define KEPT 8u
#define GROUPS_MAX 512u
#define STATUS_MAX 16384u /* bytes of /proc/<pid>/status: `Groups` is among the first lines */

struct identity {
    struct cx_rights *rights; /* NULL if this place is free */
    uint64_t used;   /* when, by the number of the call */
    uint32_t uid;
    uint32_t gid;
    size_t count;
    gid_t *groups; /* the storage keeps the pointer */
};

struct cx_credentials {
    struct identity kept[KEPT];
    uint64_t calls;
    gid_t groups[GROUPS_MAX]; /* of who asks */
    char status[STATUS_MAX];
};

struct cx_credentials *cx_credentials_new(void)
{
    return calloc(1, sizeof(struct cx_credentials));
}

static void drop(struct identity *identity)
{
    if (identity->rights != NULL)
        cx_store_rights_free(identity->rights);
    free(identity->groups);
    *identity = (struct identity){0};
}

void cx_credentials_free(struct cx_credentials *credentials)
{
    if (credentials == NULL)
        return;
    for (size_t i = 0; i < KEPT; i++)
        drop(&credentials->kept[i]);
    free(credentials);
}

/* Reads a small file of /proc whole, or its start, with a zero byte behind; nothing if the process
   is hidden or gone. */
static size_t read_status(uint32_t pid, char *text, size_t size)
{
    char path[32];
    size_t length = 0;
    ssize_t got = 1;
    int fd;

    snprintf(path, sizeof(path), "/proc/%u/status", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && got > 0 && length < size - 1) {
        got = read(fd, text + length, size - 1 - length);
        length += got > 0 ? (size_t)got : 0;
    }
    if (fd >= 0)
        close(fd);
    text[length] = '\0';
    return length;
}

/* Reads the groups of a process; false if they are more than there is room for. */
static bool read_groups(struct cx_credentials *credentials, uint32_t pid, size_t *count)
{
    const char *at, *end;

    *count = 0;
    if (read_status(pid, credentials->status, STATUS_MAX) == 0)
        return true;
    at = strstr(credentials->status, "\nGroups:");
    if (at == NULL)
        return false;
    at += strlen("\nGroups:");
    end = strchr(at, '\n');
    while (end != NULL && *count < GROUPS_MAX) {
        char *behind;
        unsigned long group = strtoul(at, &behind, 10);
        if (behind == at || behind > end)
            return true;
        credentials->groups[(*count)++] = (gid_t)group;
        at = behind;
    }
    return false;
}

static bool is_of(const struct identity *identity, uint32_t uid, uint32_t gid,
                  const gid_t *groups, size_t count)
{
    return identity->rights != NULL && identity->uid == uid && identity->gid == gid &&
           identity->count == count &&
           (count == 0 || memcmp(identity->groups, groups, count * sizeof(*groups)) == 0);
}

/* Makes an identity in the place of the one that was used longest ago. */
static struct identity *make(struct cx_credentials *credentials, uint32_t uid, uint32_t gid,
                             size_t count)
{
    struct identity *identity = credentials->kept;

    for (size_t i = 1; i < KEPT; i++)
        if (credentials->kept[i].used < identity->used)
            identity = &credentials->kept[i];
    drop(identity);
    identity->groups = calloc(count + 1, sizeof(*identity->groups));
    if (identity->groups == NULL)
        return NULL;
    memcpy(identity->groups, credentials->groups, count * sizeof(*identity->groups));
    identity->rights = cx_store_rights_new(uid, gid, count, identity->groups);
    identity->uid = uid;
    identity->gid = gid;
    identity->count = count;
    return identity->rights == NULL ? NULL : identity;
}

const struct cx_rights *cx_credentials_of(struct cx_credentials *credentials, uint32_t uid,
                                         uint32_t gid, uint32_t pid)
{
    struct identity *found = NULL;
    size_t count = 0;

    if (uid != 0 && pid != 0 && !read_groups(credentials, pid, &count))
        return NULL;
    for (size_t i = 0; i < KEPT && found == NULL; i++)
        if (is_of(&credentials->kept[i], uid, gid, credentials->groups, count))
            found = &credentials->kept[i];
    if (found == NULL)
        found = make(credentials, uid, gid, count);
    if (found == NULL)
        return NULL;
    found->used = ++credentials->calls;
    return found->rights;
}
