"""The lane's table of nodes: against a model, by many threads under sanitizers, and its size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.lane.building import MEMORY, THREADS, Builds, run
from tests.lane.table import GONE, LEARNED, REFUSED, ROOT, At, Known, Model, Table
from tests.property.profiles import pure

_BUCKETS = 1024
_MASK = (1 << 64) - 1


def _hash_number(x: int) -> int:
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & _MASK
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & _MASK
    return x ^ x >> 31


def _hash_name(at: At) -> int:
    digest = _hash_number(at[0])
    for byte in at[1]:
        digest = (digest ^ byte) * 0x100000001B3 & _MASK
    return _hash_number(digest)


def _in_one_bucket(hashed: Callable[[Any], int], things: Iterator[Any], count: int) -> list[Any]:
    first = next(things)
    bucket = hashed(first) % _BUCKETS
    found = [first]
    while len(found) < count:
        thing = next(things)
        if hashed(thing) % _BUCKETS == bucket:
            found.append(thing)
    return found


IDS = (0, ROOT, *_in_one_bucket(_hash_number, iter(range(2, 1 << 20)), 4), 1 << 40, _MASK)
PARENTS = (0, ROOT, IDS[2])
NAMES = (
    b"",
    *(
        name
        for _, name in _in_one_bucket(
            _hash_name, ((ROOT, b"%d" % number) for number in range(1 << 20)), 3
        )
    ),
    b"x" * 255,
    b"x" * 254 + b"y",
    b"x" * 254,
    b"\0\xff",
)

ids = st.sampled_from(IDS)
names = st.one_of(st.sampled_from(NAMES), st.sampled_from(NAMES), st.binary(max_size=255))
places = st.tuples(st.sampled_from(PARENTS), names)
nlinks = st.sampled_from((0, 1, 2, (1 << 32) - 1))
reasons = st.sampled_from((0, 0, 1, 2, 3, 1 << 31))


class NodesMachine(RuleBasedStateMachine):
    """Does the same to the table and to its model, and asks both everything after each step."""

    library: Path

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(self.library)
        self.model = Model()
        self.uses: list[tuple[Any, int]] = []
        self.places: set[At] = {(parent, name) for parent in PARENTS for name in NAMES}
        self.raws = 0

    def _raw(self) -> int:
        self.raws += 1
        return self.raws

    def _same(self, done: object, expected: object) -> None:
        assert done == expected

    def _is_taken(self, learned: str, raw: int) -> None:
        if learned == REFUSED:
            self.raws -= 1  # it is still the caller's, and is given another time
            assert raw not in self.table.put

    @initialize(is_known=st.booleans(), at=places)
    def know_the_root(self, is_known: bool, at: At) -> None:
        if is_known:
            self.teach(ROOT, 4096, at, is_dir=True, nlink=2)

    @rule(ino=ids, at=places, is_dir=st.booleans(), nlink=nlinks)
    def learn(self, ino: int, at: At, is_dir: bool, nlink: int) -> None:
        raw = self._raw()
        self.places.add(at)
        learned = self.table.learn(ino, raw, at, is_dir, nlink)
        self._same(learned, self.model.learn(ino, raw, at, is_dir, nlink))
        self._is_taken(learned, raw)

    @rule(data=st.data(), node=ids, nlink=st.none() | nlinks)
    def learn_where_it_was(self, data: st.DataObject, node: int, nlink: int | None) -> None:
        known = self.model.known(node) or Known(node, node, (ROOT, b"new"), True, 1)
        is_dir = data.draw(st.just(known.is_dir) | st.booleans())
        self.learn(node, known.at, is_dir, known.nlink if nlink is None else nlink)

    @rule(node=ids, ino=ids, at=places, is_dir=st.booleans(), nlink=nlinks)
    def teach(self, node: int, ino: int, at: At, is_dir: bool, nlink: int) -> None:
        raw = self._raw()
        self.places.add(at)
        learned = self.table.teach(node, ino, raw, at, is_dir, nlink)
        self._same(learned, self.model.teach(node, ino, raw, at, is_dir, nlink))

    @rule(node=ids)
    def count_again(self, node: int) -> None:
        is_known = node in self.model.nodes
        assert self.table.count_again(node) == is_known
        if is_known:
            self.model.nodes[node].lookups += 1

    @rule(node=ids, lookups=st.sampled_from((0, 1, 1, 2, 3, _MASK)))
    def forget(self, node: int, lookups: int) -> None:
        self._same(self.table.forget(node, lookups), self.model.forget(node, lookups))

    @rule(node=ids)
    def use(self, node: int) -> None:
        used = self.table.use(node)
        self._same(used and used[1], self.model.known(node))
        if used:
            self.uses.append((used[0], self.model.raws[node]))
            self.model.users[self.model.raws[node]] += 1

    @precondition(lambda self: self.uses)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        inode, raw = self.uses.pop(data.draw(st.integers(0, len(self.uses) - 1)))
        self.table.release(inode)
        self.model.release(raw)

    @rule(node=ids)
    def adopt(self, node: int) -> None:
        self._same(self.table.adopt(node), self.model.known(node))
        if node in self.model.nodes:
            self.model.told.add(node)

    @rule(node=ids, ino=ids)
    def retarget(self, node: int, ino: int) -> None:
        raw = self._raw()
        done = self.table.retarget(node, ino, raw)
        self._same(done, self.model.retarget(node, ino, raw))
        self._is_taken(LEARNED if done else REFUSED, raw)

    @rule(ino=ids, add=reasons, take=reasons)
    def force(self, ino: int, add: int, take: int) -> None:
        assert self.table.force(ino, add, take)
        self.model.force(ino, add, take)

    @rule(node=ids, at=places)
    def place(self, node: int, at: At) -> None:
        self.places.add(at)
        self._same(self.table.place(node, at), self.model.place(node, at))

    @rule(data=st.data(), at=places)
    def unplace(self, data: st.DataObject, at: At) -> None:
        named = sorted(self.model.directories)
        at = data.draw(st.sampled_from([at, *named]))
        self.table.unplace(at)
        self.model.directories.pop(at, None)

    @rule(node=ids)
    def changed(self, node: int) -> None:
        self.table.changed(node)
        if node in self.model.nodes:
            self.model.nodes[node].changes += self.model.nodes[node].is_dir

    @rule(node=ids)
    def touched(self, node: int) -> None:
        self.table.touched(node)
        if node in self.model.nodes and self.model.nodes[node].is_dir:
            self.model.nodes[node].changes += 1
            self.model.nodes[node].touches += 1

    @rule(count=st.integers(0, len(IDS) + 1))
    def oldest(self, count: int) -> None:
        self._same(self.table.oldest(count), self.model.oldest(count))

    @invariant()
    def all_answers_are_the_same(self) -> None:
        assert self.table.count() == len(self.model.nodes)
        for node in IDS:
            self._same(self.table.look(node), self.model.known(node))
        for at in self.places:
            assert self.table.directory_at(at) == self.model.directories.get(at, 0)

    @invariant()
    def each_reference_is_given_back_once_and_not_in_use(self) -> None:
        assert self.table.put == dict.fromkeys(self.model.due, 1)
        for inode, raw in self.uses:
            assert self.table.raw(inode) == raw

    def teardown(self) -> None:
        for inode, _ in self.uses:
            self.table.release(inode)
        self.table.close()
        assert self.table.put == dict.fromkeys(range(1, self.raws + 1), 1)


@pytest.fixture(scope="module")
def library(builds: Builds) -> Path:
    return builds.library("nodes.c")


@pytest.fixture
def table(library: Path) -> Table:
    return Table(library)


def test_table_answers_as_its_model(library: Path) -> None:
    machine = type("Machine", (NodesMachine,), {"library": library})
    run_state_machine_as_test(machine, settings=pure)


def test_table_grows(table: Table) -> None:
    count = 5 * _BUCKETS
    model = Model()
    for number in range(2, count + 2):
        at = (number // 2, b"%d" % number)
        for learner in (table, model):
            assert learner.teach(number, number, number, at, number % 3 > 0, 1) == LEARNED
            learner.force(number, number % 2, 0)
    for number in range(2, count + 2, 5):
        assert table.forget(number, 1) == model.forget(number, 1) == GONE
        assert table.force(number + 1, 0, 1)
        model.force(number + 1, 0, 1)
    assert table.count() == len(model.nodes)
    for number in range(count + 3):
        at = (number // 2, b"%d" % number)
        assert table.look(number) == model.known(number)
        assert table.directory_at(at) == model.directories.get(at, 0)
    assert table.oldest(count) == model.oldest(count)
    table.close()
    assert table.put == dict.fromkeys(range(2, count + 2), 1)


def test_told_directory_that_lost_its_name_is_refused_under_it(table: Table) -> None:
    at = (ROOT, b"a")
    table.learn(2, 1, at, is_dir=True, nlink=2)
    table.adopt(2)
    assert table.learn(2, 2, at, is_dir=True, nlink=2) == LEARNED
    table.unplace(at)
    assert table.learn(2, 3, at, is_dir=True, nlink=2) == REFUSED
    table.close()


def test_root_is_not_counted_among_the_oldest(table: Table) -> None:
    table.teach(ROOT, ROOT, 1, (ROOT, b""), is_dir=True, nlink=2)
    table.learn(2, 2, (ROOT, b"a"), is_dir=False, nlink=1)
    assert [known.id for known in table.oldest(1)] == [2]
    table.close()


@dataclasses.dataclass(frozen=True)
class Wrong:
    """Something that the stress program does wrong, and what the sanitizer says of it."""

    sanitizers: tuple[str, ...]
    flags: tuple[str, ...]
    reported: str


_NO_LOCK = (
    "-DBREAK_LOCK",
    "-Wl,--wrap=pthread_mutex_lock,--wrap=pthread_mutex_unlock",
)
WRONGS = {
    "address": Wrong(MEMORY, ("-DBREAK_USE",), "AddressSanitizer: heap-use-after-free"),
    "leak": Wrong(MEMORY, ("-DBREAK_LEAK",), "LeakSanitizer: detected memory leaks"),
    "undefined": Wrong(MEMORY, ("-DBREAK_NAME",), "null pointer passed as argument"),
    "thread": Wrong(THREADS, _NO_LOCK, "ThreadSanitizer: data race"),
}


@pytest.mark.parametrize(("sanitizers", "steps"), [(MEMORY, 200_000), (THREADS, 100_000)])
def test_threads_leave_each_reference_given_back_once(
    builds: Builds, sanitizers: tuple[str, ...], steps: int
) -> None:
    program = builds.program("nodes_stress.c", "nodes.c", flags=sanitizers)
    ended = run(program, "4", str(steps))
    assert ended.code == 0, f"{ended.printed}\n{ended.reported}"


@pytest.mark.parametrize("wrong", WRONGS.values(), ids=WRONGS)
def test_sanitizer_reports_what_is_wrong(builds: Builds, wrong: Wrong) -> None:
    program = builds.program("nodes_stress.c", "nodes.c", flags=(*wrong.sanitizers, *wrong.flags))
    ended = run(program, "4", "10000")
    assert ended.is_reported, f"code {ended.code}\n{ended.printed}\n{ended.reported}"
    assert wrong.reported in ended.reported


_MANY = 100_000
_NAME_LENGTH = 20
_BYTES_EACH = 208
"""A node takes 112, its reference 32, its name 32, and the buckets of both indexes 21."""


def test_memory_of_many_nodes(builds: Builds) -> None:
    program = builds.program("nodes_memory.c", "nodes.c", flags=("-O1",))
    ended = run(program, str(_MANY), str(_NAME_LENGTH))
    assert ended.code == 0
    each = int(ended.printed) / _MANY
    assert each <= _BYTES_EACH, f"{each:.1f} bytes for each of {_MANY} nodes"
