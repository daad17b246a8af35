"""The lane's table of nodes, called as C calls it, and a plain model of it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import cffi

from tests.lane.building import declarations

ROOT = 1
LEARNED, REFUSED = "CX_LEARNED", "CX_REFUSED"
UNKNOWN, KEPT, GONE, GONE_TELL = "CX_UNKNOWN", "CX_KEPT", "CX_GONE", "CX_GONE_TELL"

At = tuple[int, bytes]
"""A directory's id and a name in it."""


@dataclasses.dataclass
class Known:
    """What is known of a node."""

    id: int
    ino: int
    at: At
    is_dir: bool
    nlink: int
    lookups: int = 0
    changes: int = 0
    reasons: int = 0
    touches: int = 0


class Table:
    """A table; references are numbers, and `put` counts how often each was given back."""

    def __init__(self, library: Path) -> None:
        self._ffi: Any = cffi.FFI()
        self._ffi.cdef(declarations("nodes.h"))
        self._lib = self._ffi.dlopen(str(library))
        self.put: Counter[int] = Counter()
        self._callback = self._ffi.callback("void(void *, void *)", self._put)
        self._nodes = self._lib.cx_nodes_new(self._callback, self._ffi.NULL)
        self._known = self._ffi.new("struct cx_known *")

    def _put(self, _context: Any, raw: Any) -> None:
        self.put[int(self._ffi.cast("uintptr_t", raw))] += 1

    def close(self) -> None:
        self._lib.cx_nodes_free(self._nodes)

    def learn(self, ino: int, raw: int, at: At, is_dir: bool, nlink: int) -> str:
        raw_at = self._raw(raw)
        done = self._lib.cx_nodes_learn(self._nodes, ino, raw_at, *self._at(at), is_dir, nlink)
        return self._named("cx_learned", done)

    def teach(self, id: int, ino: int, raw: int, at: At, is_dir: bool, nlink: int) -> str:  # noqa: A002
        raw_at = self._raw(raw)
        done = self._lib.cx_nodes_teach(self._nodes, id, ino, raw_at, *self._at(at), is_dir, nlink)
        return self._named("cx_learned", done)

    def count_again(self, node: int) -> bool:
        return bool(self._lib.cx_nodes_count_again(self._nodes, node))

    def forget(self, node: int, lookups: int) -> str:
        done = self._lib.cx_nodes_forget(self._nodes, node, lookups)
        return self._named("cx_forgotten", done)

    def use(self, node: int) -> tuple[Any, Known] | None:
        """Return an inode that `raw` and `release` take, and what is known of it."""
        inode = self._lib.cx_nodes_use(self._nodes, node, self._known)
        return (inode, self._read(self._known)) if inode else None

    def raw(self, inode: Any) -> int:
        return int(self._ffi.cast("uintptr_t", self._lib.cx_inode_raw(inode)))

    def release(self, inode: Any) -> None:
        self._lib.cx_inode_release(self._nodes, inode)

    def look(self, node: int) -> Known | None:
        found = self._lib.cx_nodes_look(self._nodes, node, self._known)
        return self._read(self._known) if found else None

    def adopt(self, node: int) -> Known | None:
        found = self._lib.cx_nodes_adopt(self._nodes, node, self._known)
        return self._read(self._known) if found else None

    def retarget(self, node: int, ino: int, raw: int) -> bool:
        return bool(self._lib.cx_nodes_retarget(self._nodes, node, ino, self._raw(raw)))

    def force(self, ino: int, add: int, take: int) -> bool:
        return bool(self._lib.cx_nodes_force(self._nodes, ino, add, take))

    def place(self, node: int, at: At) -> bool:
        return bool(self._lib.cx_nodes_place(self._nodes, node, *self._at(at)))

    def unplace(self, at: At) -> None:
        self._lib.cx_nodes_unplace(self._nodes, *self._at(at))

    def directory_at(self, at: At) -> int:
        return int(self._lib.cx_nodes_directory_at(self._nodes, *self._at(at)))

    def changed(self, directory: int) -> None:
        self._lib.cx_nodes_changed(self._nodes, directory)

    def touched(self, directory: int) -> None:
        self._lib.cx_nodes_touched(self._nodes, directory)

    def count(self) -> int:
        return int(self._lib.cx_nodes_count(self._nodes))

    def oldest(self, count: int) -> list[Known]:
        known = self._ffi.new("struct cx_known[]", count)
        return [
            self._read(known[index])
            for index in range(self._lib.cx_nodes_oldest(self._nodes, known, count))
        ]

    def _raw(self, number: int) -> Any:
        return self._ffi.cast("void *", number)

    def _at(self, at: At) -> tuple[Any]:
        self._name = self._ffi.from_buffer(at[1])  # it lives until the next call
        return ({"parent": at[0], "name": self._name, "length": len(at[1])},)

    def _named(self, enum: str, value: int) -> str:
        return str(self._ffi.typeof(f"enum {enum}").elements[value])

    def _read(self, known: Any) -> Known:
        name = bytes(self._ffi.buffer(known.name, known.name_length))
        return Known(
            known.id,
            known.ino,
            (known.parent, name),
            bool(known.is_dir),
            known.nlink,
            known.lookups,
            known.changes,
            known.reasons,
            known.touches,
        )


class Model:
    """What the table has to answer; `due` are the references that it has to have given back."""

    def __init__(self) -> None:
        self.nodes: dict[int, Known] = {}  # the ones learned longest ago first
        self.raws: dict[int, int] = {}
        self.users: Counter[int] = Counter()
        self.told: set[int] = set()
        self.directories: dict[At, int] = {}
        self.reasons: dict[int, int] = {}
        self.due: set[int] = set()

    def known(self, node: int) -> Known | None:
        known = self.nodes.get(node)
        if known is None:
            return None
        return dataclasses.replace(known, reasons=self.reasons.get(known.ino, 0))

    def learn(self, ino: int, raw: int, at: At, is_dir: bool, nlink: int) -> str:
        known = self.nodes.get(ino)
        if ino == ROOT or ino in self.reasons:
            return REFUSED
        if known is not None and known.ino != ino:
            return REFUSED
        if known is not None and ino in self.told:
            has_moved = known.at != at or (known.is_dir and self.directories.get(at) != ino)
            if has_moved or known.nlink != nlink:
                return REFUSED
        return self.teach(ino, ino, raw, at, is_dir, nlink)

    def teach(self, id: int, ino: int, raw: int, at: At, is_dir: bool, nlink: int) -> str:  # noqa: A002
        known = self.nodes.get(id)
        if known is None:
            known = self.nodes[id] = Known(id, ino, at, is_dir, nlink)
            self.raws[id] = raw
            self.users[raw] = 1
            self._place(known, at)
        else:
            self.due.add(raw)
            if id != ROOT:
                self._place(known, at)
        known.nlink = nlink
        known.lookups += 1
        return LEARNED

    def forget(self, node: int, lookups: int) -> str:
        known = self.nodes.get(node)
        if known is None:
            return UNKNOWN
        if node == ROOT:
            return KEPT
        known.lookups = max(0, known.lookups - lookups)
        if known.lookups:
            return KEPT
        del self.nodes[node]
        self._unname(known)
        self.release(self.raws.pop(node))
        told = node in self.told
        self.told.discard(node)
        return GONE_TELL if told else GONE

    def release(self, raw: int) -> None:
        self.users[raw] -= 1
        if self.users[raw] == 0:
            self.due.add(raw)

    def retarget(self, node: int, ino: int, raw: int) -> bool:
        known = self.nodes.get(node)
        if known is None:
            return False
        former, self.raws[node] = self.raws[node], raw
        self.users[raw] = 1
        known.ino = ino
        self.release(former)
        return True

    def force(self, ino: int, add: int, take: int) -> None:
        reasons = (self.reasons.pop(ino, 0) | add) & ~take
        if reasons:
            self.reasons[ino] = reasons

    def place(self, node: int, at: At) -> bool:
        if node in self.nodes:
            self._place(self.nodes[node], at)
        return node in self.nodes

    def oldest(self, count: int) -> list[Known]:
        found: list[Known] = []
        for node in list(self.nodes):
            if len(found) == count:
                break
            known = self.known(node)
            assert known is not None
            self.nodes[node] = self.nodes.pop(node)
            if node != ROOT:
                found.append(known)
        return found

    def _place(self, known: Known, at: At) -> None:
        self._unname(known)
        known.at = at
        if known.is_dir and known.id != ROOT:
            self.directories[at] = known.id

    def _unname(self, known: Known) -> None:
        if self.directories.get(known.at) == known.id:
            del self.directories[known.at]
