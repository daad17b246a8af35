"""Named limits: no queue, page or thread count is without one."""

META_THREADS = 16
"""Threads for metadata calls of users to the storage."""

LANE_READERS = 4
"""Threads that answer the kernel without Python, at the beginning."""

LANE_READERS_MOST = 64
"""As many when all of them wait for the storage."""

DATA_THREADS = 8
"""Threads for reads, writes and syncs of users."""

BACKGROUND_THREADS = 4
"""Threads for restore, expiry and purge."""

REMOVAL_THREADS = 16
"""Threads for batches of names that are removed for good."""

LOCK_THREADS = 4
"""Threads for taking locks of the cluster and giving them back, and as many for renewing them."""

SESSIONS_ENDED_AT_ONCE = 4
"""Sessions of one dead process that are ended at the same time."""

REMOVAL_BATCH = 32
"""Names that are removed by one call: what a pause, or a cancelled job, has to wait for."""

WALK_PAGE = 1024
"""Entries of a directory that a walk reads at a time: as many as libcephfs does."""

WALK_DIRECTORIES = 8
"""Directories of a tree that a walk reads, or looks at, at the same time."""

WALK_BATCHES = 32
"""Batches of a walk that are under way, or wait for the throttle."""

WALK_WAITING = 4096
"""Directories that a walk has seen and not entered; beyond it, it takes one at a time."""

WALK_OPEN = 256
"""How many levels above where it is a walk keeps directories open; and every 64th of the others."""

WALK_FAILURES = 100
"""Of how many entries a walk says that they could not be removed; all are counted."""

STRAYS = 200_000
"""Strays of a metadata server from which on less is removed; a fifth of what it can have."""

PURGE_QUEUE = 100_000
"""Items in the purge queue of a metadata server from which on less is removed."""

THROTTLE_TRACE = 600
"""Decisions of the throttle that are kept; the oldest go."""

READDIR_PAGE = 512
"""Entries of a directory that are read from the storage at a time."""

NODES = 262_144
"""Inodes that the kernel is let keep; beyond it, those known longest are taken back."""

NODES_TAKEN_BACK = 1_024
"""How many at a time."""

OPEN_FILES = 262_144
"""Files that users may have open at once; more are refused (ENFILE)."""

OPEN_DIRECTORIES_PART = 6
"""One of how many things that are open may be a directory; more are refused as well."""

JOURNAL_QUEUE = 10_000
"""Delete records waiting for the journal; more are dropped and counted."""

AUDIT_QUEUE = JOURNAL_QUEUE // 2
"""From how many on those are dropped that say nothing of what is in the trash: what was not kept,
and what became of what was. They never take the place of a path that a restore needs."""

ANCESTOR_QUEUE = 10_000
"""Directories from which something was deleted that wait to be looked up; more are dropped and
counted."""

ANCESTORS_KNOWN = 20_000
"""Directories that are remembered to have been looked up; all are forgotten beyond it."""

JOURNAL_BYTES = 256 * 1024 * 1024
"""Size of one journal; an hour in which more is written has several."""

DELETE_EVENTS = 4_096
"""Delete events that may go on at the same time; the one that rested longest is over then."""

VERSIONS_COUNTED = 200_000
"""Names of which versions are counted at a time, some 250 bytes each."""

AUDIT_ROWS = 10_000
"""Records that one question to the audit is answered with at most, some 2 KiB each."""

BULK_PROCESSES = 1_024
"""Processes whose deletes are counted, to tell bulk; all are forgotten beyond it."""

SEEN = 65_536
"""Names whose attributes are remembered for as long as the kernel does; all are forgotten beyond
it, and looked up again."""

INVALIDATION_QUEUE = 100_000
"""Kernel invalidations waiting to be sent; more are dropped and counted (timeouts end them)."""

TOMBSTONE_INLINE_BYTES = 3_900
"""Longest tombstone that is a symbolic link (PATH_MAX is 4,096); longer ones are files."""

VIEW_NAMES = 1_000_000
"""Deleted names that views of the trash keep in memory, a hundred and fifty bytes each; an hour
with more of them isn't shown."""

VIEW_ITEMS = 50_000
"""Tombstones and long names of an hour that a view has read and keeps in memory, and reads for one
directory at most."""

VIEW_LISTED = 200_000
"""Names deleted one by one from a single directory that a view shows, some 600 bytes each; what was
moved into the trash whole is listed page by page, and has no limit."""

VIEW_RESTORED = 10_000
"""Entries that a rename out of a view puts together to a tree: meanwhile the kernel lets nobody
else rename between directories."""

VIEW_NODES = 16_384
"""Inodes of views of the trash that the kernel is let keep; beyond it the oldest are taken back."""
