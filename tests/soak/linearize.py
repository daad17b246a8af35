"""Is a history of concurrent operations consistent with some order of them?

A search in the manner of Wing and Gong: from an initial state, take any operation that nothing
unfinished has to come before, and go on until all are taken or no way is left. Configurations that
were visited are remembered, as Lowe does. Operations that change nothing are taken as soon as they
can be: that never closes a way.

The order must respect time: an operation that was answered before another one was asked comes
first. An answer out of a cache may be older than its question by `stale_s`, but never older than
what the same gateway has answered about the same key before.

Sources: Wing, Gong, "Testing and Verifying Concurrent Objects" (1993); Lowe, "Testing for
Linearizability" (2017).
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

State = Hashable
Step = Callable[[State], Iterable[State]]
"""The states that an operation may lead to; none where its answer doesn't fit."""

_Key = tuple[int, State]
"""The set of operations that are done, and the state that they have led to."""
_Configuration = tuple[int, State, int, int]
"""The same, and where the first operation by start, and by end, is that isn't done."""

_RECENT = 20
"""Operations of the longest order that are shown, at least."""


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation and its answer."""

    text: str
    gateway: str
    invoked_s: float
    answered_s: float
    keys: tuple[Hashable, ...]
    """What the answer depends on."""
    step: Step
    changes: bool
    """False if `step` never leads to another state."""
    stale_s: float = 0.0
    """How much older than its question the answer may be; 0 for what changes something."""

    @property
    def start_s(self) -> float:
        """Earliest moment that the answer may be true of."""
        return self.invoked_s - self.stale_s


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether an order was found, and else how far the search got."""

    consistent: bool
    state: State = None
    """State of the longest order that was found."""
    taken: int = 0
    stuck: tuple[Op, ...] = ()
    """Operations that could come next in time, but none of which fits."""
    recent: tuple[Op, ...] = ()
    """The last ones of the longest order."""

    def __str__(self) -> str:
        lines = [f"no order: {self.taken} operations fit, then the state is {self.state}"]
        lines += ["the last ones:", *map(_line, self.recent)]
        lines += ["none of these fits:", *map(_line, self.stuck)]
        return "\n".join(lines)


def _line(op: Op) -> str:
    return f"  {op.invoked_s:.6f}..{op.answered_s:.6f} {op.gateway} {op.text}"


def check(ops: Sequence[Op], initial: State) -> Verdict:
    """Search an order of all operations that starts in `initial`."""
    return _Search(ops).run(initial)


class _Search:
    """One search; sets of operations are bits of integers, by start."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self._ops = sorted(ops, key=lambda op: op.start_s)
        self._before = list(_predecessors(self._ops))
        self._by_end = sorted(range(len(self._ops)), key=lambda n: self._ops[n].answered_s)

    def run(self, initial: State) -> Verdict:
        everything = (1 << len(self._ops)) - 1
        first = self._settle(0, initial, 0, 0)
        stack, seen = [first], {first[:2]}
        came_by: dict[_Key, tuple[_Key, Op]] = {}
        best = first
        while stack:
            current = stack.pop()
            done, state, low, end = current
            if done == everything:
                return Verdict(consistent=True)
            if done.bit_count() > best[0].bit_count():
                best = current
            for number in self._enabled(done, low, end):
                op = self._ops[number]
                for after in op.step(state) if op.changes else ():
                    following = self._settle(done | 1 << number, after, low, end)
                    if following[:2] not in seen:
                        seen.add(following[:2])
                        came_by[following[:2]] = (current[:2], op)
                        stack.append(following)
        return self._failure(best, came_by)

    def _settle(self, done: int, state: State, low: int, end: int) -> _Configuration:
        """Take everything that changes nothing and fits; move the edges of the window on."""
        while True:
            low, end = self._edges(done, low, end)
            fitting = [
                number
                for number in self._enabled(done, low, end)
                if not self._ops[number].changes and tuple(self._ops[number].step(state))
            ]
            if not fitting:
                return done, state, low, end
            for number in fitting:
                done |= 1 << number

    def _edges(self, done: int, low: int, end: int) -> tuple[int, int]:
        """Return the first operation by start, and by end, that isn't done."""
        count = len(self._ops)
        while low < count and done >> low & 1:
            low += 1
        while end < count and done >> self._by_end[end] & 1:
            end += 1
        return low, end

    def _enabled(self, done: int, low: int, end: int) -> Iterator[int]:
        """Yield the operations all of whose predecessors are done."""
        if end == len(self._ops):
            return
        horizon_s = self._ops[self._by_end[end]].answered_s
        for number in range(low, len(self._ops)):
            if self._ops[number].start_s > horizon_s:
                return
            if not done >> number & 1 and not self._before[number] & ~done:
                yield number

    def _failure(self, best: _Configuration, came_by: dict[_Key, tuple[_Key, Op]]) -> Verdict:
        done, state, low, end = best
        recent: list[Op] = []
        key = best[:2]
        while key in came_by and len(recent) < _RECENT:
            above, _ = came_by[key]
            gained = key[0] & ~above[0]
            recent += [op for n, op in enumerate(self._ops) if gained >> n & 1]
            key = above
        return Verdict(
            consistent=False,
            state=state,
            taken=done.bit_count(),
            stuck=tuple(self._ops[number] for number in self._enabled(done, low, end)),
            recent=tuple(sorted(recent, key=lambda op: op.invoked_s)),
        )


def _predecessors(ops: Sequence[Op]) -> Iterator[int]:
    """Yield for each operation the set of those that must come before it."""
    everybody = _Ends(enumerate(ops))
    same: dict[tuple[str, Hashable], list[tuple[int, Op]]] = defaultdict(list)
    for number, op in enumerate(ops):
        for key in op.keys:
            same[op.gateway, key].append((number, op))
    own = {key: _Ends(numbered) for key, numbered in same.items()}
    for number, op in enumerate(ops):
        before = everybody.before(op.start_s)
        for key in op.keys:
            before |= own[op.gateway, key].before(op.invoked_s)
        yield before & ~(1 << number)


class _Ends:
    """Which of some operations were answered before a moment."""

    def __init__(self, numbered: Iterable[tuple[int, Op]]) -> None:
        by_end = sorted(numbered, key=lambda pair: pair[1].answered_s)
        self._ends = [op.answered_s for _, op in by_end]
        self._sets = [0]
        for number, _ in by_end:
            self._sets.append(self._sets[-1] | 1 << number)

    def before(self, moment_s: float) -> int:
        """Return them as a set."""
        return self._sets[bisect.bisect_left(self._ends, moment_s)]
