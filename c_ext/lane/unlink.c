/* Unlinks: those of processes that delete in bulk are answered here, as far as Python has granted it
   (see removals.h); what Python answers is looked at before, in a thread that may wait. */

#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "inside.h"

static bool ends_with(const char *name, const char *end)
{
    size_t length = strlen(name), behind = strlen(end);

    return length >= behind && strcasecmp(name + length - behind, end) == 0;
}

/* Tells whether programs may mean something by it that a name is gone; as `is_like_lock` in
   cephfs_ext/vfs/bulk.py. */
static bool is_like_lock(const char *name)
{
    return strcasestr(name, "lock") != NULL || strcasestr(name, "lck") != NULL ||
           ends_with(name, ".pid");
}

/* Tells whether something may go before that has been carried out, whoever asks. */
static bool may_go_early(struct cx_lane *lane, const struct cx_attr *attr)
{
    return (S_ISREG(attr->mode) || S_ISLNK(attr->mode)) && attr->nlink == 1 &&
           cx_nodes_is_idle(lane->nodes, attr->ino);
}

/* Hides a name, and has it deleted; false if Python has to be asked. */
static bool remove_early(const struct request *request, const struct cx_known *directory,
                         struct cx_name at, const struct cx_attr *attr)
{
    struct cx_lane *lane = request->lane;
    struct cx_grant asked = {.directory = directory->id,
                             .pid = request->in->pid,
                             .uid = request->in->uid,
                             .gid = request->in->gid,
                             .touches = directory->touches};

    if (!cx_removals_may(lane->removals, &asked) || is_like_lock(at.name) ||
        cx_unsure_has(lane->unsure, at.parent) ||
        cx_removals_is_exempt(lane->removals, at.name) || !may_go_early(lane, attr) ||
        !cx_names_take(lane->hidden, at))
        return false;
    if (cx_removals_add(lane->removals, &asked, directory->ino, at, attr))
        return true;
    cx_names_remove(lane->hidden, at);
    return false;
}

enum outcome cx_answer_unlink(struct request *request)
{
    struct cx_lane *lane = request->lane;
    const char *name = cx_name_in(request, 0);
    struct cx_name at = {request->in->nodeid, name, name == NULL ? 0 : strlen(name)};
    enum outcome outcome = PASSED;
    struct cx_attr attr;
    struct cx_known known;
    struct cx_inode *parent;
    struct cx_ref *found;

    if (!cx_is_usual_name(name) || cx_names_has(lane->hidden, at))
        return PASSED;
    parent = cx_nodes_use(lane->nodes, request->in->nodeid, &known);
    if (parent == NULL)
        return PASSED;
    if (cx_look_up(request, parent, known.ino, name, &found, &attr) == 0) {
        cx_store_put(lane->store, found);
        if (attr.is_live && remove_early(request, &known, at, &attr))
            outcome = ANSWERED;
        else if (attr.is_live)
            cx_looked_put(lane->looked, at, &attr);
    }
    cx_inode_release(lane->nodes, parent);
    if (outcome == ANSWERED)
        cx_reply(request, 0, NULL, 0);
    return outcome;
}
