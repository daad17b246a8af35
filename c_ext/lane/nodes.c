#include "nodes.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "hash.h"

#define ROOT_ID 1u
#define FIRST_BUCKETS 1024u

struct cx_inode {
    void *raw;
    atomic_uint users;
};

struct node {
    struct node *next_by_id;
    struct node *next_by_name; /* of a directory that has a name */
    struct node *older;
    struct node *newer;
    struct cx_inode *inode;
    char *name;
    uint64_t id;
    uint64_t ino;
    uint64_t parent;
    uint64_t lookups;
    union {
        uint64_t changes; /* of a directory: of names in it */
        uint64_t version; /* of a file: of which the kernel has pages */
    };
    uint32_t nlink;
    union {
        uint32_t touches; /* of a directory: changes by the lane */
        uint32_t opens;   /* of a file */
    };
    uint8_t name_length;
    bool is_held;    /* nobody may open it */
    bool is_outside; /* Python has it open */
    bool is_dir;
    bool is_named; /* it is in the index of directories */
    bool is_told;  /* Python wants to know of its end */
};

struct forced {
    struct forced *next;
    uint64_t ino;
    cx_reasons reasons;
};

struct buckets {
    void **heads;
    size_t count; /* a power of two */
};

struct cx_nodes {
    pthread_mutex_t lock;
    cx_put_fn put;
    void *context;
    uint64_t salt;
    struct buckets by_id;
    struct buckets by_name;
    struct buckets forced;
    size_t count;
    size_t forced_count;
    struct node *oldest;
    struct node *newest;
};

/* hashing */

static uint64_t mix_name(const struct cx_nodes *nodes, struct cx_name at)
{
    return cx_hash_name(nodes->salt, at.parent, at.name, at.length);
}

static bool buckets_init(struct buckets *buckets)
{
    buckets->count = FIRST_BUCKETS;
    buckets->heads = calloc(buckets->count, sizeof(*buckets->heads));
    return buckets->heads != NULL;
}

static void **head_of(const struct buckets *buckets, uint64_t hash)
{
    return &buckets->heads[hash & (buckets->count - 1)];
}

static struct cx_name name_of(const struct node *node)
{
    return (struct cx_name){node->parent, node->name, node->name_length};
}

static bool is_at(const struct node *node, struct cx_name at)
{
    return node->parent == at.parent && node->name_length == at.length &&
           memcmp(node->name, at.name, at.length) == 0;
}

static void grow_forced(struct cx_nodes *nodes)
{
    struct buckets former = nodes->forced;
    struct buckets grown = {calloc(former.count * 2, sizeof(*grown.heads)), former.count * 2};

    if (grown.heads == NULL)
        return;
    for (size_t i = 0; i < former.count; i++) {
        struct forced *forced = former.heads[i];
        while (forced != NULL) {
            struct forced *next = forced->next;
            void **head = head_of(&grown, cx_hash_number(forced->ino));
            forced->next = *head;
            *head = forced;
            forced = next;
        }
    }
    free(former.heads);
    nodes->forced = grown;
}

/* Doubles both indexes of nodes; what can't be had is done without. */
static void grow(struct cx_nodes *nodes)
{
    size_t count = nodes->by_id.count * 2;
    void **ids = calloc(count, sizeof(*ids));
    void **names = calloc(count, sizeof(*names));

    if (ids == NULL || names == NULL) {
        free(ids);
        free(names);
        return;
    }
    free(nodes->by_id.heads);
    free(nodes->by_name.heads);
    nodes->by_id = (struct buckets){ids, count};
    nodes->by_name = (struct buckets){names, count};
    for (struct node *node = nodes->oldest; node != NULL; node = node->newer) {
        void **head = head_of(&nodes->by_id, cx_hash_number(node->id));
        node->next_by_id = *head;
        *head = node;
        if (node->is_named) {
            head = head_of(&nodes->by_name, mix_name(nodes, name_of(node)));
            node->next_by_name = *head;
            *head = node;
        }
    }
}

static struct node *find(const struct cx_nodes *nodes, uint64_t id)
{
    struct node *node = *head_of(&nodes->by_id, cx_hash_number(id));

    while (node != NULL && node->id != id)
        node = node->next_by_id;
    return node;
}

static struct node *find_named(const struct cx_nodes *nodes, struct cx_name at)
{
    struct node *node = *head_of(&nodes->by_name, mix_name(nodes, at));

    while (node != NULL && !is_at(node, at))
        node = node->next_by_name;
    return node;
}

static struct forced **find_forced(const struct cx_nodes *nodes, uint64_t ino)
{
    struct forced **at = (struct forced **)head_of(&nodes->forced, cx_hash_number(ino));

    while (*at != NULL && (*at)->ino != ino)
        at = &(*at)->next;
    return at;
}

static cx_reasons reasons_of(const struct cx_nodes *nodes, uint64_t ino)
{
    const struct forced *forced = nodes->forced_count ? *find_forced(nodes, ino) : NULL;

    return forced == NULL ? 0 : forced->reasons;
}

/* references to inodes */

static struct cx_inode *inode_new(void *raw)
{
    struct cx_inode *inode = malloc(sizeof(*inode));

    if (inode != NULL) {
        inode->raw = raw;
        atomic_init(&inode->users, 1);
    }
    return inode;
}

void *cx_inode_raw(const struct cx_inode *inode)
{
    return inode->raw;
}

void cx_inode_release(struct cx_nodes *nodes, struct cx_inode *inode)
{
    if (inode == NULL || atomic_fetch_sub(&inode->users, 1) != 1)
        return;
    nodes->put(nodes->context, inode->raw);
    free(inode);
}

/* places */

static void unname(struct cx_nodes *nodes, struct node *node)
{
    void **at;

    if (!node->is_named)
        return;
    at = head_of(&nodes->by_name, mix_name(nodes, name_of(node)));
    while (*at != node)
        at = (void **)&((struct node *)*at)->next_by_name;
    *at = node->next_by_name;
    node->is_named = false;
}

/* Tells whether a node is where it was seen last; a directory that has lost its name isn't. */
static bool is_placed(const struct node *node, struct cx_name at)
{
    return node->name != NULL && is_at(node, at) && (node->is_named || !node->is_dir);
}

/* Notes where a node is; a directory that had the name before has it no longer. */
static bool place(struct cx_nodes *nodes, struct node *node, struct cx_name at)
{
    struct node *former;
    char *name;
    void **head;

    if (is_placed(node, at))
        return true;
    name = malloc(at.length + 1);
    if (name == NULL)
        return false;
    memcpy(name, at.name, at.length);
    name[at.length] = '\0';
    unname(nodes, node);
    free(node->name);
    node->name = name;
    node->name_length = (uint8_t)at.length;
    node->parent = at.parent;
    if (!node->is_dir || node->id == ROOT_ID)
        return true;
    former = find_named(nodes, at);
    if (former != NULL)
        unname(nodes, former);
    head = head_of(&nodes->by_name, mix_name(nodes, at));
    node->next_by_name = *head;
    *head = node;
    node->is_named = true;
    return true;
}

/* age */

static void make_newest(struct cx_nodes *nodes, struct node *node)
{
    node->older = nodes->newest;
    node->newer = NULL;
    if (nodes->newest != NULL)
        nodes->newest->newer = node;
    else
        nodes->oldest = node;
    nodes->newest = node;
}

static void take_out(struct cx_nodes *nodes, struct node *node)
{
    if (node->older != NULL)
        node->older->newer = node->newer;
    else
        nodes->oldest = node->newer;
    if (node->newer != NULL)
        node->newer->older = node->older;
    else
        nodes->newest = node->older;
}

/* nodes */

/* Adds a node without lookups; takes `raw` over unless it returns NULL. */
static struct node *add(struct cx_nodes *nodes, uint64_t id, uint64_t ino, void *raw,
                        struct cx_name at, bool is_dir)
{
    struct node *node = calloc(1, sizeof(*node));
    void **head;

    if (node == NULL)
        return NULL;
    if (nodes->count >= nodes->by_id.count)
        grow(nodes);
    node->id = id;
    node->ino = ino;
    node->is_dir = is_dir;
    node->inode = inode_new(raw);
    if (node->inode == NULL || !place(nodes, node, at)) {
        free(node->inode);
        free(node);
        return NULL;
    }
    nodes->count++;
    head = head_of(&nodes->by_id, cx_hash_number(id));
    node->next_by_id = *head;
    *head = node;
    make_newest(nodes, node);
    return node;
}

static void destroy(struct node *node)
{
    free(node->name);
    free(node);
}

/* Takes a node out of all indexes; its inode is the caller's. */
static struct cx_inode *remove_node(struct cx_nodes *nodes, struct node *node)
{
    struct cx_inode *inode = node->inode;
    void **at = head_of(&nodes->by_id, cx_hash_number(node->id));

    while (*at != node)
        at = (void **)&((struct node *)*at)->next_by_id;
    *at = node->next_by_id;
    unname(nodes, node);
    take_out(nodes, node);
    nodes->count--;
    destroy(node);
    return inode;
}

struct cx_nodes *cx_nodes_new(cx_put_fn put, void *context)
{
    struct cx_nodes *nodes = calloc(1, sizeof(*nodes));

    if (nodes == NULL)
        return NULL;
    nodes->put = put;
    nodes->context = context;
    nodes->salt = cx_hash_salt();
    if (!buckets_init(&nodes->by_id) || !buckets_init(&nodes->by_name) ||
        !buckets_init(&nodes->forced) || pthread_mutex_init(&nodes->lock, NULL) != 0) {
        free(nodes->by_id.heads);
        free(nodes->by_name.heads);
        free(nodes->forced.heads);
        free(nodes);
        return NULL;
    }
    return nodes;
}

void cx_nodes_free(struct cx_nodes *nodes)
{
    while (nodes->oldest != NULL)
        cx_inode_release(nodes, remove_node(nodes, nodes->oldest));
    for (size_t i = 0; i < nodes->forced.count; i++) {
        struct forced *forced = nodes->forced.heads[i];
        while (forced != NULL) {
            struct forced *next = forced->next;
            free(forced);
            forced = next;
        }
    }
    free(nodes->by_id.heads);
    free(nodes->by_name.heads);
    free(nodes->forced.heads);
    pthread_mutex_destroy(&nodes->lock);
    free(nodes);
}

/* Counts a lookup; `spare` is what is not needed of the caller's reference. */
static enum cx_learned learn(struct cx_nodes *nodes, struct node *node, uint64_t id, uint64_t ino,
                             void *raw, struct cx_name at, bool is_dir, uint32_t nlink,
                             void **spare)
{
    if (node == NULL) {
        node = add(nodes, id, ino, raw, at, is_dir);
        if (node == NULL)
            return CX_NO_MEMORY;
    } else {
        if (id != ROOT_ID && !place(nodes, node, at))
            return CX_NO_MEMORY;
        *spare = raw;
    }
    node->nlink = nlink;
    node->lookups++;
    return CX_LEARNED;
}

enum cx_learned cx_nodes_learn(struct cx_nodes *nodes, uint64_t ino, void *raw,
                               struct cx_name at, bool is_dir, uint32_t nlink)
{
    enum cx_learned learned = CX_REFUSED;
    void *spare = NULL;
    struct node *node;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, ino);
    if (ino != ROOT_ID && reasons_of(nodes, ino) == 0 &&
        (node == NULL || (node->ino == ino && (!node->is_told || (is_placed(node, at) &&
                                                                  node->nlink == nlink)))))
        learned = learn(nodes, node, ino, ino, raw, at, is_dir, nlink, &spare);
    pthread_mutex_unlock(&nodes->lock);
    if (spare != NULL)
        nodes->put(nodes->context, spare);
    return learned;
}

enum cx_learned cx_nodes_teach(struct cx_nodes *nodes, uint64_t id, uint64_t ino, void *raw,
                               struct cx_name at, bool is_dir, uint32_t nlink)
{
    enum cx_learned learned;
    void *spare = NULL;

    pthread_mutex_lock(&nodes->lock);
    learned = learn(nodes, find(nodes, id), id, ino, raw, at, is_dir, nlink, &spare);
    pthread_mutex_unlock(&nodes->lock);
    if (spare != NULL)
        nodes->put(nodes->context, spare);
    return learned;
}

bool cx_nodes_count_again(struct cx_nodes *nodes, uint64_t id)
{
    struct node *node;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, id);
    if (node != NULL)
        node->lookups++;
    pthread_mutex_unlock(&nodes->lock);
    return node != NULL;
}

enum cx_forgotten cx_nodes_forget(struct cx_nodes *nodes, uint64_t id, uint64_t lookups)
{
    enum cx_forgotten forgotten = CX_KEPT;
    struct cx_inode *inode = NULL;
    struct node *node;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, id);
    if (node == NULL) {
        forgotten = CX_UNKNOWN;
    } else if (id != ROOT_ID) {
        node->lookups -= lookups < node->lookups ? lookups : node->lookups;
        if (node->lookups == 0) {
            forgotten = node->is_told ? CX_GONE_TELL : CX_GONE;
            inode = remove_node(nodes, node);
        }
    }
    pthread_mutex_unlock(&nodes->lock);
    cx_inode_release(nodes, inode);
    return forgotten;
}

static void describe(const struct cx_nodes *nodes, const struct node *node, struct cx_known *known)
{
    known->id = node->id;
    known->ino = node->ino;
    known->parent = node->parent;
    known->lookups = node->lookups;
    known->changes = node->is_dir ? node->changes : 0;
    known->nlink = node->nlink;
    known->touches = node->is_dir ? node->touches : 0;
    known->reasons = reasons_of(nodes, node->ino);
    known->is_dir = node->is_dir;
    known->name_length = node->name_length;
    memcpy(known->name, node->name, node->name_length);
}

struct cx_inode *cx_nodes_use(struct cx_nodes *nodes, uint64_t id, struct cx_known *known)
{
    struct cx_inode *inode = NULL;
    struct node *node;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, id);
    if (node != NULL) {
        describe(nodes, node, known);
        inode = node->inode;
        atomic_fetch_add(&inode->users, 1);
    }
    pthread_mutex_unlock(&nodes->lock);
    return inode;
}

/* Counts a file as open; its inode is the caller's to give back. With the lock. */
static struct cx_inode *count_open(struct node *node)
{
    node->opens++;
    atomic_fetch_add(&node->inode->users, 1);
    return node->inode;
}

struct cx_inode *cx_nodes_open(struct cx_nodes *nodes, uint64_t id)
{
    struct cx_inode *inode = NULL;
    struct node *node;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, id);
    if (node != NULL && !node->is_dir && !node->is_held && reasons_of(nodes, node->ino) == 0)
        inode = count_open(node);
    pthread_mutex_unlock(&nodes->lock);
    return inode;
}

struct cx_inode *cx_nodes_open_for_locks(struct cx_nodes *nodes, uint64_t id, uint64_t *directory,
                                         bool *is_held)
{
    struct cx_inode *inode = NULL;
    struct node *node;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, id);
    *is_held = node != NULL && !node->is_dir && node->is_held;
    if (node != NULL && !node->is_dir && !node->is_held) {
        *directory = node->parent;
        inode = count_open(node);
    }
    pthread_mutex_unlock(&nodes->lock);
    return inode;
}

void cx_nodes_closed(struct cx_nodes *nodes, uint64_t id)
{
    struct node *node;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, id);
    if (node != NULL && !node->is_dir && node->opens > 0)
        node->opens--;
    pthread_mutex_unlock(&nodes->lock);
}

bool cx_nodes_has_pages(struct cx_nodes *nodes, uint64_t id, uint64_t version)
{
    struct node *node;
    bool has;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, id);
    has = node != NULL && !node->is_dir && version != 0 && node->version == version;
    pthread_mutex_unlock(&nodes->lock);
    return has;
}

void cx_nodes_note_pages(struct cx_nodes *nodes, uint64_t id, uint64_t ino, uint64_t version)
{
    struct node *node;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, id);
    if (node != NULL && !node->is_dir && node->ino == ino)
        node->version = version;
    pthread_mutex_unlock(&nodes->lock);
}

void cx_nodes_hold(struct cx_nodes *nodes, uint64_t id, bool is_held)
{
    struct node *node;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, id);
    if (node != NULL)
        node->is_held = is_held;
    pthread_mutex_unlock(&nodes->lock);
}

uint32_t cx_nodes_opens(struct cx_nodes *nodes, uint64_t id)
{
    struct node *node;
    uint32_t opens;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, id);
    opens = node == NULL || node->is_dir ? 0 : node->opens;
    pthread_mutex_unlock(&nodes->lock);
    return opens;
}

void cx_nodes_open_outside(struct cx_nodes *nodes, uint64_t id, bool is_open)
{
    struct node *node;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, id);
    if (node != NULL)
        node->is_outside = is_open;
    pthread_mutex_unlock(&nodes->lock);
}

bool cx_nodes_is_idle(struct cx_nodes *nodes, uint64_t ino)
{
    const struct node *node;
    bool is_idle;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, ino);
    is_idle = reasons_of(nodes, ino) == 0 &&
              (node == NULL || (!node->is_dir && node->opens == 0 && !node->is_outside &&
                                !node->is_held));
    pthread_mutex_unlock(&nodes->lock);
    return is_idle;
}

uint64_t cx_nodes_changes(struct cx_nodes *nodes, uint64_t directory)
{
    const struct node *node;
    uint64_t changes;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, directory);
    changes = node == NULL || !node->is_dir ? 0 : node->changes;
    pthread_mutex_unlock(&nodes->lock);
    return changes;
}

static bool look(struct cx_nodes *nodes, uint64_t id, struct cx_known *known, bool tell)
{
    struct node *node;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, id);
    if (node != NULL) {
        describe(nodes, node, known);
        node->is_told |= tell;
    }
    pthread_mutex_unlock(&nodes->lock);
    return node != NULL;
}

bool cx_nodes_look(struct cx_nodes *nodes, uint64_t id, struct cx_known *known)
{
    return look(nodes, id, known, false);
}

bool cx_nodes_adopt(struct cx_nodes *nodes, uint64_t id, struct cx_known *known)
{
    return look(nodes, id, known, true);
}

bool cx_nodes_retarget(struct cx_nodes *nodes, uint64_t id, uint64_t ino, void *raw)
{
    struct cx_inode *fresh = inode_new(raw), *former = NULL;
    struct node *node;

    if (fresh == NULL)
        return false;
    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, id);
    if (node != NULL) {
        former = node->inode;
        node->inode = fresh;
        node->ino = ino;
        if (!node->is_dir)
            node->version = 0;
    }
    pthread_mutex_unlock(&nodes->lock);
    if (node == NULL)
        free(fresh);
    cx_inode_release(nodes, former);
    return node != NULL;
}

bool cx_nodes_force(struct cx_nodes *nodes, uint64_t ino, cx_reasons add_reasons, cx_reasons take)
{
    struct forced **at, *forced;
    bool done = true;

    pthread_mutex_lock(&nodes->lock);
    if (nodes->forced_count >= nodes->forced.count)
        grow_forced(nodes);
    at = find_forced(nodes, ino);
    forced = *at;
    if (forced == NULL && add_reasons != 0) {
        forced = calloc(1, sizeof(*forced));
        done = forced != NULL;
        if (done) {
            forced->ino = ino;
            *at = forced;
            nodes->forced_count++;
        }
    }
    if (forced != NULL) {
        forced->reasons = (forced->reasons | add_reasons) & ~take;
        if (forced->reasons == 0) {
            *at = forced->next;
            nodes->forced_count--;
            free(forced);
        }
    }
    pthread_mutex_unlock(&nodes->lock);
    return done;
}

bool cx_nodes_place(struct cx_nodes *nodes, uint64_t id, struct cx_name at)
{
    struct node *node;
    bool done;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, id);
    done = node != NULL && place(nodes, node, at);
    pthread_mutex_unlock(&nodes->lock);
    return done;
}

void cx_nodes_unplace(struct cx_nodes *nodes, struct cx_name at)
{
    struct node *node;

    pthread_mutex_lock(&nodes->lock);
    node = find_named(nodes, at);
    if (node != NULL)
        unname(nodes, node);
    pthread_mutex_unlock(&nodes->lock);
}

uint64_t cx_nodes_directory_at(struct cx_nodes *nodes, struct cx_name at)
{
    struct node *node;
    uint64_t id;

    pthread_mutex_lock(&nodes->lock);
    node = find_named(nodes, at);
    id = node == NULL ? 0 : node->id;
    pthread_mutex_unlock(&nodes->lock);
    return id;
}

void cx_nodes_changed(struct cx_nodes *nodes, uint64_t directory)
{
    struct node *node;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, directory);
    if (node != NULL && node->is_dir)
        node->changes++;
    pthread_mutex_unlock(&nodes->lock);
}

void cx_nodes_touched(struct cx_nodes *nodes, uint64_t directory)
{
    struct node *node;

    pthread_mutex_lock(&nodes->lock);
    node = find(nodes, directory);
    if (node != NULL && node->is_dir) {
        node->changes++;
        node->touches++;
    }
    pthread_mutex_unlock(&nodes->lock);
}

size_t cx_nodes_count(struct cx_nodes *nodes)
{
    size_t count;

    pthread_mutex_lock(&nodes->lock);
    count = nodes->count;
    pthread_mutex_unlock(&nodes->lock);
    return count;
}

size_t cx_nodes_oldest(struct cx_nodes *nodes, struct cx_known *known, size_t count)
{
    size_t done = 0;

    pthread_mutex_lock(&nodes->lock);
    for (size_t left = nodes->count; left > 0 && done < count; left--) {
        struct node *node = nodes->oldest;
        if (node->id != ROOT_ID)
            describe(nodes, node, &known[done++]);
        take_out(nodes, node);
        make_newest(nodes, node);
    }
    pthread_mutex_unlock(&nodes->lock);
    return done;
}
