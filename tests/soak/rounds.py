"""One round: workers on two gateways use the same directories, then everything is accounted for.

A round lasts some seconds and has a directory of its own. Its groups are in use one after the
other, a few at a time, so that histories stay short and names contended.
"""

from __future__ import annotations

import dataclasses
import os
import random
import time
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

from tests.cluster.ceph import CephCluster
from tests.gateway import Gateway, file_system
from tests.soak import models
from tests.soak.conservation import Places, find_all, overtaken
from tests.soak.linearize import Op, check
from tests.soak.observer import (
    CACHED_S,
    IDENTITY_BITS,
    NAMES,
    VALUE_BYTES,
    Group,
    History,
    Kind,
    Look,
    Rename,
)
from tests.soak.workers import Worker

WORKERS = 3
"""Of each gateway."""
EPOCH_S = 3.0
_GROUPS: tuple[Kind, ...] = ("files", "links", "dirs", "trees")
"""In use at the same time."""
_SLOW = ("restore",)
"""What fills no cache of the kernel."""
_CONTENTS_READ = 300


@dataclasses.dataclass
class Report:
    """What a round has shown."""

    problems: list[str]
    counts: Counter[str]
    slowest: dict[str, float]
    objects: int
    ops: int
    stale_s: float
    checked_s: float
    live: int
    trashed: int

    def __str__(self) -> str:
        slowest = {what: f"{s * 1e3:.0f} ms" for what, s in sorted(self.slowest.items())}
        return (
            f"{self.ops} observations of {self.objects} objects, {sum(self.counts.values())} calls "
            f"{dict(self.counts)}, slowest {slowest}, staleness allowed {self.stale_s:.2f} s, "
            f"checked in {self.checked_s:.1f} s, {self.live} files in place, "
            f"{self.trashed} in the trash, {len(self.problems)} problems"
        )


class Round:
    """One round on two mounted gateways."""

    def __init__(
        self, cluster: CephCluster, gateways: dict[str, Gateway], name: str, seed: int
    ) -> None:
        self._cluster = cluster
        self._gateways = gateways
        self._name = name
        self._random = random.Random(seed)
        self._seed = seed
        self._epochs: list[list[Group]] = []
        self._problems: list[str] = []
        self._excused: set[Hashable] = set()

    def play(self, duration_s: float) -> Report:
        """Let the workers work, and check what they saw and what is left."""
        self._prepare(duration_s)
        begun = time.monotonic()
        workers = list(self._workers(begun + duration_s, begun))
        for worker in workers:
            worker.start()
        history = _merged([seen for worker in workers for seen in worker.join()])
        self._problems += history.surprises
        with file_system(self._cluster) as fs:
            root = next(iter(self._gateways.values())).source.removeprefix("ceph:")
            places = find_all(fs, root)
            self._look_at_the_end(fs, root, history, places)
        checking = time.monotonic()
        stale_s = self._check_order(history)
        self._account(history, places)
        if self._problems and "SOAK_DUMP" in os.environ:
            _dump(history, os.environ["SOAK_DUMP"])
        return Report(
            self._problems,
            Counter(history.counts),
            dict(history.slowest),
            len(history.ops),
            sum(map(len, history.ops.values())),
            stale_s,
            time.monotonic() - checking,
            len(places.live),
            len(places.trashed),
        )

    def _prepare(self, duration_s: float) -> None:
        top = next(iter(self._gateways.values())).path
        os.mkdir(top / self._name)
        for epoch in range(int(duration_s / EPOCH_S) + 1):
            groups = [
                Group(f"{self._name}/{epoch}.{number}.{kind}", kind)
                for number, kind in enumerate(_GROUPS)
            ]
            for group in groups:
                os.mkdir(top / group.path)
            self._epochs.append(groups)

    def _workers(self, until_s: float, begun_s: float) -> Iterator[Worker]:
        def choose() -> Group | None:
            now = time.monotonic()
            if now >= until_s:
                return None
            return self._random.choice(self._epochs[int((now - begun_s) / EPOCH_S)])

        for gateway, mount in self._gateways.items():
            for number in range(WORKERS):
                seed = self._seed * 10 + number
                yield Worker(gateway, mount.path, mount.directory / "control.sock", seed, choose)

    def _look_at_the_end(self, fs: object, root: str, history: History, places: Places) -> None:
        """Add what is there at the end to the history, as seen from beside the gateways."""
        now = time.monotonic()
        by_path = {path: ino for ino, paths in places.live.items() for path in paths}
        for groups in self._epochs:
            for group in groups:
                for number, called in enumerate(NAMES):
                    path = f"/{group.path}/{called}"
                    who = by_path.get(path, models.ABSENT)
                    if group.of_dirs:
                        who = _mode(fs, root + path)
                    self._at_the_end(history, group, number, who, now)
        everything = list(history.files)
        for ino in self._random.sample(everything, min(_CONTENTS_READ, len(everything))):
            found = places.of(ino)
            if found and ("content", ino) in history.ops:
                path = found[0] if found[0].startswith("/") else f"/.trashbin/{found[0]}"
                value = _read(fs, root + path)
                step = models.content(value)
                op = Op(f"at the end: {value.strip()!r}", "end", now, now, (ino,), step, False)
                history.ops["content", ino].append(op)

    def _at_the_end(
        self, history: History, group: Group, number: int, who: int, now: float
    ) -> None:
        step = models.read_name(number, who)
        text = f"at the end {NAMES[number]}: {who:x}"
        op = Op(text, "end", now, now, (number,), step, False)
        history.ops["names", group.path].append(op)

    def _check_order(self, history: History) -> float:
        replies = [s for what, s in history.slowest.items() if what not in _SLOW]
        stale_s = CACHED_S + max(replies)
        kinds = {g.path: g for groups in self._epochs for g in groups}
        for about, ops in history.ops.items():
            kind, which = about
            if kind == "content":
                self._check(about, list(_answered(ops)), b"")
                continue
            if kinds[which].ordered:
                self._check(about, _allowing(ops, stale_s), models.Names.empty(len(NAMES)))
            for who in overtaken(ops, stale_s):
                self._excused.add((which, who) if kinds[which].of_dirs else who)
        return stale_s

    def _check(self, about: Hashable, ops: Sequence[Op], initial: Hashable) -> None:
        verdict = check(ops, initial)
        if not verdict.consistent:
            self._problems.append(f"{about}: {verdict}")

    def _account(self, history: History, places: Places) -> None:
        """Every file that was made is in place or in the trash, and in the trash once.

        One that had several names may have as many entries.
        """
        for ino, how in history.files.items():
            live, trashed = places.live.get(ino, []), places.trashed.get(ino, [])
            if not live and not trashed and ino not in self._excused:
                self._problems.append(f"lost: {ino:x} ({how})")
            if len(trashed) > 1 and ino not in history.linked:
                self._problems.append(f"twice in the trash: {ino:x} ({how}): {trashed}")
            if live and trashed and ino not in history.linked:
                self._problems.append(f"in place and in the trash: {ino:x} ({how})")
        self._problems += [f"left in the trash: {path}" for path in places.odd]
        top = next(iter(self._gateways.values())).path
        numbers = {
            group.path: os.stat(top / group.path).st_ino for e in self._epochs for group in e
        }
        found = Counter(places.trashed_dirs) + Counter(places.live_dirs)
        for group_path, who in history.dirs:
            times = found[numbers[group_path], who]
            if times != 1 and not (times == 0 and (group_path, who) in self._excused):
                self._problems.append(f"directory {who:o} of {group_path}: {times} times")


def _answered(ops: Sequence[Op]) -> Iterator[Op]:
    """Leave out what was read while it was being written.

    The kernel shows others what a program writes before the write is answered, and what was there
    before if it drops the page meanwhile.
    """
    writes = [op for op in ops if op.changes]

    def is_early(read: Op) -> bool:
        return any(
            _value(write) == _value(read)
            and write.invoked_s <= read.answered_s
            and read.invoked_s <= write.answered_s
            for write in writes
        )

    return (op for op in ops if op.changes or not is_early(op))


def _value(op: Op) -> str:
    return op.text.rpartition(": ")[2]


def _allowing(ops: Sequence[Op], stale_s: float) -> list[Op]:
    """Give operations the leeway that caches of a kernel need."""
    ops = [dataclasses.replace(op, stale_s=stale_s) if op.stale_s else op for op in ops]
    renames = [op for op in ops if isinstance(op, Rename)]
    changes = [op for op in ops if op.changes]

    def allowed(op: Op) -> Op:
        if isinstance(op, Look) and any(_just_before(it, op) for it in renames):
            return dataclasses.replace(op, step=models.carried(op.name, op.who))
        if isinstance(op, Rename) and any(_unseen(it, op, stale_s) for it in changes):
            return dataclasses.replace(op, keys=())  # nothing to do: the cache is as it was
        return op

    return [allowed(op) for op in ops]


def _just_before(rename: Rename, look: Look) -> bool:
    return (
        (rename.gateway, rename.new_name) == (look.gateway, look.name)
        and rename.answered_s >= look.start_s
        and rename.invoked_s <= look.answered_s
    )


def _unseen(change: Op, rename: Rename, stale_s: float) -> bool:
    """Tell whether a gateway may not know yet what has one of the names of a rename."""
    return (
        change.gateway != rename.gateway
        and not set(rename.keys).isdisjoint(change.keys)
        and change.answered_s >= rename.invoked_s - stale_s
        and change.invoked_s <= rename.answered_s
    )


def _merged(histories: Sequence[History]) -> History:
    merged = History()
    for history in histories:
        for about, ops in history.ops.items():
            merged.ops[about] += ops
        merged.files |= history.files
        merged.dirs |= history.dirs
        merged.linked |= history.linked
        merged.surprises += history.surprises
        for what, count in history.counts.items():
            merged.counts[what] += count
        for what, slowest_s in history.slowest.items():
            merged.slowest[what] = max(merged.slowest[what], slowest_s)
    return merged


def _dump(history: History, path: str) -> None:
    """Write everything that was seen to a file, by object and time."""
    with open(path, "w") as stream:
        for about, ops in history.ops.items():
            print(about, file=stream)
            for op in sorted(ops, key=lambda op: op.invoked_s):
                print(f"  {op.invoked_s:.6f}..{op.answered_s:.6f} {op.text}", file=stream)


def _mode(fs: object, path: str) -> int:
    try:
        return fs.stat(path).st_mode & IDENTITY_BITS
    except Exception as exc:
        if getattr(exc, "errno", None) == 2:
            return models.ABSENT
        raise


def _read(fs: object, path: str) -> bytes:
    fd = fs.open(path, os.O_RDONLY)
    try:
        return fs.read(fd, 0, 2 * VALUE_BYTES)
    finally:
        fs.close(fd)
