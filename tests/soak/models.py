"""What the operations mean: small state machines whose steps the search takes.

Two kinds of object, each checked for itself, since an order exists for all together exactly if one
exists for each: the names in one directory, and the content of one file. Files are known by inode
number, directories by their permission bits, which are unique in a group: mkdir(2) doesn't say the
number of what it has made.

What was removed from a name may come back to it, so it is part of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from tests.soak.linearize import State

ABSENT = 0
PLACEHOLDER = 0o1000
"""What a restore makes, for a moment, where a directory is about to appear."""


class Names(NamedTuple):
    """State of the names in a directory."""

    live: tuple[int, ...]
    """Who has each."""
    gone: tuple[frozenset[int], ...]
    """Who had it and lies in the trash."""
    had: tuple[frozenset[int], ...]
    """Whom a kernel may still believe to have it."""

    @classmethod
    def empty(cls, count: int) -> Names:
        """Return the state of a fresh directory."""
        nobody: tuple[frozenset[int], ...] = (frozenset(),) * count
        return cls((ABSENT,) * count, nobody, nobody)

    def put(self, name: int, who: int) -> Names:
        """Give a name to somebody; who had it is in the trash."""
        old = self.live[name]
        gone = self.gone if old == ABSENT else _with(self.gone, name, self.gone[name] | {old})
        return self._replace(gone=gone)._give(name, who)

    def move(self, name: int, new_name: int) -> Names:
        """Move somebody to another name."""
        moved = self.put(new_name, self.live[name])._give(name, ABSENT)
        # a kernel moves whom it believes to have had the name
        had = _with(moved.had, new_name, moved.had[new_name] | moved.had[name])
        return moved._replace(had=had)

    def back(self, name: int, who: int) -> Names:
        """Bring somebody back out of the trash."""
        return self._replace(gone=_with(self.gone, name, self.gone[name] - {who}))._give(name, who)

    def _give(self, name: int, who: int) -> Names:
        had = self.had if who == ABSENT else _with(self.had, name, self.had[name] | {who})
        return self._replace(live=_with(self.live, name, who), had=had)


def _with(values: tuple, index: int, value: object) -> tuple:
    return (*values[:index], value, *values[index + 1 :])


OnNames = Callable[[Names], Iterable[State]]


def read_name(name: int, who: int) -> OnNames:
    """A name was seen to be somebody's, or ABSENT."""
    return lambda state: (state,) if state.live[name] == who else ()


def taken(name: int) -> OnNames:
    """A name was seen to be anybody's."""
    return lambda state: (state,) if state.live[name] != ABSENT else ()


def nameless(who: int) -> OnNames:
    """Somebody was seen to have no name."""
    return lambda state: (state,) if who not in state.live else ()


def made(name: int, who: int) -> OnNames:
    """Somebody was given a name that nobody had: create, link."""
    return lambda state: (state.put(name, who),) if state.live[name] == ABSENT else ()


def removed(name: int) -> OnNames:
    """A name was removed."""
    return lambda state: (state.put(name, ABSENT),) if state.live[name] != ABSENT else ()


def carried(name: int, who: int) -> OnNames:
    """A name was seen to be somebody's right after its kernel renamed what it believed to be him.

    The kernel renames what it has in its cache, the storage what is there; until the cache times
    out the kernel takes the one for the other.
    """
    return lambda state: (state,) if who in (state.live[name], *state.had[name]) else ()


def renamed(name: int, new_name: int) -> OnNames:
    """Something was renamed.

    Two names of one file stay as they are; so does everything where the kernel only believes, out
    of its cache, that the old name, too, is that of the file which has the new one.
    """

    def step(state: Names) -> Iterable[Names]:
        who, there = state.live[name], state.live[new_name]
        if there != ABSENT and there in state.had[name]:
            yield state
        if who not in (ABSENT, there):
            yield state.move(name, new_name)

    return step


def restored(name: int) -> OnNames:
    """Something that once had the name has it again."""

    def step(state: Names) -> Iterable[Names]:
        if state.live[name] != ABSENT:
            return ()
        return tuple(state.back(name, who) for who in state.gone[name])

    return step


def dir_appears(name: int) -> OnNames:
    """A restored directory has its name, over its placeholder or, if that was removed, without."""

    def step(state: Names) -> Iterable[Names]:
        if state.live[name] in (ABSENT, PLACEHOLDER):
            yield from (state.back(name, who) for who in state.gone[name])

    return step


def written(value: bytes) -> Callable[[State], Iterable[State]]:
    """The content of a file was replaced."""
    return lambda _: (value,)


def content(value: bytes) -> Callable[[State], Iterable[State]]:
    """The content of a file was seen."""
    return lambda state: (state,) if state == value else ()
