/* Prints how many bytes are allocated for a table of so many nodes with names of so many bytes,
   half of them directories. Arguments: nodes, bytes. */

#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nodes.h"

static void put(void *context, void *raw)
{
    (void)context;
    (void)raw;
}

/* Bytes in use, with malloc's own part of each block. */
static size_t allocated(void)
{
    struct mallinfo2 info = mallinfo2();

    return info.uordblks + info.hblkhd;
}

int main(int argc, char **argv)
{
    static char inode, name[CX_NAME_MAX + 1];
    size_t count, length, before = allocated();
    struct cx_nodes *nodes = cx_nodes_new(put, NULL);

    if (argc != 3 || nodes == NULL)
        return 2;
    count = strtoul(argv[1], NULL, 10);
    length = strtoul(argv[2], NULL, 10);
    if (length > CX_NAME_MAX)
        return 2;
    for (uint64_t i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "%0*lu", (int)length, (unsigned long)i);
        if (cx_nodes_learn(nodes, i + 2, &inode, (struct cx_name){1, name, length}, i % 2,
                           1) != CX_LEARNED)
            return 1;
    }
    if (cx_nodes_count(nodes) != count)
        return 1;
    printf("%zu\n", allocated() - before);
    cx_nodes_free(nodes);
    return 0;
}
