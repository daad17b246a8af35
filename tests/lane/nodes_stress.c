/* Threads that do everything that a table of nodes can do, at random, with few ids.

   Arguments: how many threads, how many steps each. Ends with 0 if each reference was given back
   once, and no inode was mistaken for another. Built with one of these it does something wrong,
   which a sanitizer has to report:

   BREAK_LOCK   there is no lock (link with --wrap=pthread_mutex_lock,--wrap=pthread_mutex_unlock)
   BREAK_USE    an inode is used after it was released
   BREAK_LEAK   an inode isn't released
   BREAK_NAME   a name is NULL, of which no byte may be copied */

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nodes.h"

#define ROOT_ID 1u
#define IDS 12u
#define THREADS_MAX 16
#define OLDEST 4

/* What the storage would call an inode. */
struct raw {
    uint64_t ino;
};

static struct cx_nodes *nodes;
static unsigned long steps;
static atomic_ulong given, put, wrong;

/* Counts without ordering anything between threads, which would hide races. */
static void count(atomic_ulong *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

#ifdef BREAK_LOCK
int __wrap_pthread_mutex_lock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock);

int __wrap_pthread_mutex_lock(pthread_mutex_t *lock)
{
    (void)lock;
    return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock)
{
    (void)lock;
    return 0;
}
#endif

static void put_raw(void *context, void *raw)
{
    (void)context;
    count(&put);
    free(raw);
}

static struct raw *new_raw(uint64_t ino)
{
    struct raw *raw = malloc(sizeof(*raw));

    if (raw == NULL)
        abort();
    raw->ino = ino;
    return raw;
}

/* xorshift64; the state is a thread's own */
static uint64_t draw(uint64_t *state, uint64_t below)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state % below;
}

static struct cx_name draw_name(uint64_t *state)
{
    static const char longest[CX_NAME_MAX] = "long";
    static const struct {
        const char *name;
        size_t length;
    } names[] = {{"", 0}, {"a", 1}, {"b", 1}, {longest, CX_NAME_MAX}};
    uint64_t which = draw(state, 4);

#ifdef BREAK_NAME
    return (struct cx_name){draw(state, 3), NULL, 0};
#endif
    return (struct cx_name){draw(state, 3), names[which].name, names[which].length};
}

/* Has the table take a reference over, unless it doesn't want it. */
static void learn(uint64_t *state, bool native)
{
    uint64_t id = draw(state, IDS), ino = native ? id : draw(state, IDS);
    struct raw *raw = new_raw(ino);
    struct cx_name at = draw_name(state);
    bool is_dir = draw(state, 2);
    enum cx_learned learned;

    if (native)
        learned = cx_nodes_learn(nodes, ino, raw, at, is_dir, 1);
    else
        learned = cx_nodes_teach(nodes, id, ino, raw, at, is_dir, 1);
    if (learned == CX_LEARNED)
        count(&given);
    else
        free(raw);
}

static void retarget(uint64_t *state)
{
    struct raw *raw = new_raw(draw(state, IDS));

    if (cx_nodes_retarget(nodes, draw(state, IDS), raw->ino, raw))
        count(&given);
    else
        free(raw);
}

static void use(uint64_t *state)
{
    uint64_t id = draw(state, IDS);
    struct cx_known known;
    struct cx_inode *inode = cx_nodes_use(nodes, id, &known);
    const struct raw *raw;

    if (inode == NULL)
        return;
    if (draw(state, 2))
        cx_nodes_forget(nodes, id, known.lookups);
    raw = cx_inode_raw(inode);
    if (raw->ino != known.ino || known.id != id || known.lookups == 0)
        count(&wrong);
#ifndef BREAK_LEAK
    cx_inode_release(nodes, inode);
#endif
#ifdef BREAK_USE
    if (raw->ino != known.ino)
        count(&wrong);
#endif
}

static void ask(uint64_t *state)
{
    struct cx_known known[OLDEST];
    uint64_t id = draw(state, IDS);
    size_t found;

    switch (draw(state, 5)) {
    case 0:
        if (cx_nodes_look(nodes, id, known) && known->id != id)
            count(&wrong);
        break;
    case 1:
        if (cx_nodes_adopt(nodes, id, known) && known->id != id)
            count(&wrong);
        break;
    case 2:
        if (cx_nodes_directory_at(nodes, draw_name(state)) >= IDS)
            count(&wrong);
        break;
    case 3:
        if (cx_nodes_count(nodes) > IDS)
            count(&wrong);
        break;
    default:
        found = cx_nodes_oldest(nodes, known, draw(state, OLDEST + 1));
        for (size_t i = 0; i < found; i++)
            if (known[i].id == ROOT_ID || known[i].id >= IDS)
                count(&wrong);
    }
}

static void step(uint64_t *state)
{
    switch (draw(state, 12)) {
    case 0:
    case 1:
        learn(state, true);
        break;
    case 2:
        learn(state, false);
        break;
    case 3:
        retarget(state);
        break;
    case 4:
    case 5:
        use(state);
        break;
    case 6:
        cx_nodes_forget(nodes, draw(state, IDS), draw(state, 3));
        break;
    case 7:
        cx_nodes_count_again(nodes, draw(state, IDS));
        break;
    case 8:
        cx_nodes_force(nodes, draw(state, IDS), (cx_reasons)draw(state, 4),
                       (cx_reasons)draw(state, 4));
        break;
    case 9:
        cx_nodes_place(nodes, draw(state, IDS), draw_name(state));
        break;
    case 10:
        cx_nodes_unplace(nodes, draw_name(state));
        cx_nodes_changed(nodes, draw(state, IDS));
        break;
    default:
        ask(state);
    }
}

static void *work(void *argument)
{
    uint64_t state = (uintptr_t)argument * 0x9e3779b97f4a7c15u;

    for (unsigned long i = 0; i < steps; i++)
        step(&state);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS_MAX];
    unsigned long workers = argc == 3 ? strtoul(argv[1], NULL, 10) : 0;

    if (workers == 0 || workers > THREADS_MAX)
        return 2;
    steps = strtoul(argv[2], NULL, 10);
    nodes = cx_nodes_new(put_raw, NULL);
    if (nodes == NULL)
        return 2;
    for (uintptr_t i = 0; i < workers; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)(i + 1)) != 0)
            return 2;
    for (unsigned long i = 0; i < workers; i++)
        pthread_join(threads[i], NULL);
    cx_nodes_free(nodes);
    printf("given %lu put %lu wrong %lu\n", given, put, wrong);
    return given > 0 && given == put && wrong == 0 ? 0 : 1;
}
