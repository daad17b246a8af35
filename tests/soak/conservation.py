"""Where every file of a tree is, seen from beside the gateways: through Ceph's own binding."""

from __future__ import annotations

import dataclasses
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from tests.soak.linearize import Op
from tests.soak.observer import Rename, Restored, Seen
from trashbin import layout, tombs

_OWN = (layout.JOURNAL, layout.JOBS)
"""Parts of a trash that hold no users' files."""


@dataclasses.dataclass
class Places:
    """Names of everything in a tree, by inode number."""

    live: dict[int, list[str]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    trashed: dict[int, list[str]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    live_dirs: set[tuple[int, int]] = dataclasses.field(default_factory=set)
    """Directories: the parent's number, and permission bits."""
    trashed_dirs: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """The same of those in the trash; the parent is the one they were deleted from."""
    odd: list[str] = dataclasses.field(default_factory=list)
    """What should not be in a trash when nothing is under way."""

    def of(self, ino: int) -> list[str]:
        """Return all places of a file."""
        return [*self.live.get(ino, ()), *self.trashed.get(ino, ())]


def find_all(fs: Any, root: str) -> Places:
    """Walk a tree and its trash."""
    places = Places()
    for path, entry in _walk(fs, root.encode()):
        relative = path[len(root) :]
        if relative.startswith(b"/" + layout.TRASH_NAME + b"/"):
            _in_trash(fs, path, relative.split(b"/")[2:], entry, places)
        elif relative != b"/" + layout.TRASH_NAME and not entry.is_dir():
            places.live[entry.d_ino].append(relative.decode())
        elif relative != b"/" + layout.TRASH_NAME:
            above = fs.stat(path.rpartition(b"/")[0]).st_ino
            places.live_dirs.add((above, stat.S_IMODE(fs.stat(path).st_mode)))
    return places


def _walk(fs: Any, root: bytes) -> Iterator[tuple[bytes, Any]]:
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        with fs.opendir(directory) as stream:
            while (entry := stream.readdir()) is not None:
                if entry.d_name not in (b".", b".."):
                    path = directory + b"/" + entry.d_name
                    yield path, entry
                    if entry.is_dir():
                        waiting.append(path)


def _in_trash(fs: Any, path: bytes, parts: list[bytes], entry: Any, places: Places) -> None:
    top, *below = parts
    if top in _OWN or not below or (top == layout.FORMAT_NAME and not below):
        return
    shown = b"/".join(parts).decode()
    if top in (layout.RESTORING, layout.PURGING, layout.HELD):
        places.odd.append(shown)
    elif layout.is_tombs(top):
        if len(below) == 2:
            _tomb(fs, path, below[1], places)
    elif layout.parse_shard(top) is None:
        places.odd.append(shown)
    elif len(below) == 2 and entry.is_dir():
        name = layout.parse_entry(below[1])
        assert name is not None, shown
        places.trashed_dirs.append((name.parent, stat.S_IMODE(fs.stat(path).st_mode)))
    elif len(below) >= 2:
        places.trashed[entry.d_ino].append(shown)


def _tomb(fs: Any, path: bytes, name: bytes, places: Places) -> None:
    entry, tomb = layout.parse_entry(name), tombs.decode(fs.readlink(path, 4096))
    if entry is None or tomb is None:
        places.odd.append(path.decode())
    elif tomb.kind == "dir":
        places.trashed_dirs.append((entry.parent, stat.S_IMODE(tomb.mode)))


def overtaken(ops: Sequence[Op], stale_s: float) -> Iterator[int]:
    """Yield what may be lost: what came to a name while a rename onto that name was under way.

    A rename looks at its new name as late as it can, but what comes there after that is replaced
    for good: the file system has no rename that replaces only what it is told to.
    """
    renames = [op for op in ops if isinstance(op, Rename)]
    for op in ops:
        if op.changes and any(_during(rename, op) for rename in renames if rename is not op):
            yield from _arrivals(op, ops, stale_s)


def _during(rename: Rename, op: Op) -> bool:
    return (
        rename.new_name in op.keys
        and op.answered_s >= rename.invoked_s
        and op.invoked_s <= rename.answered_s
    )


def _arrivals(op: Op, ops: Sequence[Op], stale_s: float) -> Iterator[int]:
    """Yield who may have come to a name by an operation."""
    if isinstance(op, Seen):
        yield op.who
    if isinstance(op, Rename):
        yield from _holders(op.name, op.invoked_s - stale_s, op.answered_s, ops, frozenset({op}))
    if isinstance(op, Restored):
        yield from _holders(op.name, op.invoked_s, op.answered_s + stale_s, ops, frozenset({op}))


def _holders(
    name: int, from_s: float, until_s: float, ops: Sequence[Op], followed: frozenset[Op]
) -> Iterator[int]:
    """Yield who may have had a name in a time: who came there then, and who was there before.

    Whoever was renamed to it without having been looked at is followed to where they came from.
    """
    told = [op for op in ops if _tells_of(op, name) and op.invoked_s <= until_s]
    found_earlier = False
    for op in sorted(told, key=lambda op: op.answered_s, reverse=True):
        if op.answered_s < from_s:
            if found_earlier:
                return
            found_earlier, from_s = True, op.invoked_s
        if isinstance(op, Seen):
            yield op.who
        elif isinstance(op, Rename) and op not in followed:
            yield from _holders(op.name, op.invoked_s, op.answered_s, ops, followed | {op})


def _tells_of(op: Op, name: int) -> bool:
    """Tell whether an operation says who had a name."""
    return name == (op.new_name if isinstance(op, Rename) else getattr(op, "name", None))
