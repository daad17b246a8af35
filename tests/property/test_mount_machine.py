"""Random operations on a mount and on a model of it: no difference may show.

Every example works in a fresh directory of one mount; at its end everything that is still in the
trash is restored and looked at. A failure prints the operations that led to it. `make soak` goes
on with fresh ones for SOAK_S seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.cluster.ceph import CephCluster
from tests.faults.storage import Back
from tests.gateway import ceph_gateway, posix_gateway
from tests.posix.actors import OWNER, name_of
from tests.property.model import (
    EXEMPT,
    FILE,
    QUOTA,
    SYMLINK,
    Model,
    Node,
    Path,
    Tree,
    crosses,
)
from tests.property.subject import Look, Subject

EXAMPLES = {"posix": 45, "ceph": 18}
STEPS = 40
MIN_KEPT = 64
LOOK_EVERY = 8
OPTIONS = (f"trash.truncated_min_bytes={MIN_KEPT}", "trash.event_gap_s=3600")

USER = OWNER.uid
"""Somebody who is not root."""

ODD = b"\xffodd \n"
NAMES = (b"a", b"b", b"c.txt", ODD, EXEMPT)
KEYS = ("user.k", "user.l")
MODES = (0o644, 0o600, 0o755, 0o4711, 0o000)
POLICIES = ("fail", "skip", "keep-both", "replace")
SIZES = (0, 1, MIN_KEPT - 1, MIN_KEPT, 5_000)
MOST_OPEN = 3
LIMITED: tuple[tuple[Any, ...], ...] = (
    ("mkdir", (QUOTA,), 0o777),
    ("mkdir", (QUOTA, b"b"), 0o755),
    ("create", (QUOTA, b"b", b"a"), 0o644, b"r" * 80),
    ("create", (QUOTA, b"c.txt"), 0o644, b"s" * 80, USER),
    ("link", (QUOTA, b"c.txt"), (QUOTA, b"a")),
    ("unlink", (QUOTA, b"b", b"a")),
)
"""What lies below a quota, where there is such a thing."""

ROOMY, FULL = 100_000, 1
MAKING = ("mkdir", "create", "symlink", "link")
"""Operations that a full quota stops, sooner or later: figures lag."""

PLANTED: tuple[tuple[Any, ...], ...] = (
    ("mkdir", (b"a",), 0o777),
    ("create", (b"a", ODD), 0o644, b"q" * 70, USER),
    ("chmod", (b"a",), 0o755),
    ("unlink", (b"a", ODD)),
    ("mkdir", (b"a", b"b"), 0o750),
    ("create", (b"a", b"a"), 0o644, b"x" * 100),
    ("create", (b"a", b"b", b"a"), 0o600, b"y" * 70),
    ("create", (b"c.txt",), 0o640, b"z" * 5),
    ("create", (EXEMPT,), 0o640, b"t" * 90),
    ("link", (b"a", b"a"), (b"b",)),
    ("symlink", (b"a", b"c.txt"), b"nowhere"),
    ("setxattr", (b"a", b"b"), "user.k", b"v"),
    ("fsync", (b"b",)),
    ("mkdir", (ODD,), 0o777),
    ("create", (ODD, b"a"), 0o644, b"u" * 80, USER),
    ("mkdir", (ODD, b"b"), 0o755, USER),
    ("create", (ODD, b"b", b"c.txt"), 0o600, b"v" * 3, USER),
    ("create", (ODD, b"c.txt"), 0o600, b"w" * 3, 0),
    ("unlink", (ODD, b"a"), USER),
    ("unlink", (ODD, b"b", b"c.txt"), 0),
)
BACK = b"back"
"""Name of a directory that is made to restore things into; no operation makes it."""

names = st.sampled_from(NAMES)
users = st.sampled_from([0, USER])
paths = st.lists(names, min_size=1, max_size=3).map(tuple)
contents = st.builds(lambda letter, size: letter * size, st.sampled_from([b"x", b"y", b"z"]),
                     st.sampled_from(SIZES))  # fmt: skip


_ANY = st.integers(0, 1023)
"""A number whose limits don't depend on what a mount has kept: a run must be able to repeat it."""


class Machine(RuleBasedStateMachine):
    """Carries out each operation on both sides."""

    subject: ClassVar[Subject]
    examples = itertools.count(1)

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(min_kept=MIN_KEPT, has_flags=self.subject.is_posix)
        self.subject.enter(b"%d-%d" % (os.getpid(), next(self.examples)))
        self.descriptors: list[int] = []
        self.steps = 0
        self.may_crash = False
        self.may_expire = False
        self.has_quota = self.is_full = False

    @initialize(chosen=st.integers(0, 9))
    def plant(self, chosen: int) -> None:
        """Begin with something to work on; in some examples the gateway may crash, or time pass."""
        self.may_crash, self.may_expire = chosen >= 8, 6 <= chosen <= 8
        self.has_quota = not self.subject.is_posix and chosen in (0, 1, 2, 9)
        for name, *arguments in PLANTED:
            self.both(str(name), *arguments)
        for name, *arguments in LIMITED if self.has_quota else ():
            self.both(str(name), *arguments)
            if name == "mkdir" and arguments[0] == (QUOTA,):
                self.subject.limit((QUOTA,), ROOMY)

    # helpers

    def path(self, data: Any, *, existing: bool = True, uid: int = 0) -> Path:
        """Draw a path, most often one that leads somewhere, where somebody may do something."""
        there = sorted(path for path, _ in self.model.paths() if path != (QUOTA,))
        if uid and data.draw(st.integers(0, 3)):
            where = [above for above in self.directories() if self.model.may_write(above, uid)]
            if not existing and where:
                return (*data.draw(st.sampled_from(where)), data.draw(names))
            there = [path for path in there if path[:-1] in where] or there
        kind = data.draw(st.integers(0, 19))
        if existing and there and kind < 18:
            return data.draw(st.sampled_from(there))
        if kind < 19:
            return (*data.draw(st.sampled_from(self.directories())), data.draw(names))
        return data.draw(paths)

    def directories(self) -> list[Path]:
        return sorted([(), *(path for path, node in self.model.paths() if node.is_dir)])

    def both(self, name: str, *arguments: Any) -> Any:
        """Carry out an operation of both; the same errno must come of it."""
        got, _ = _outcome(lambda: getattr(self.subject, name)(*arguments))
        if got == "EDQUOT" and name in MAKING and self.is_full:
            note(f"{name}({arguments[0]}): {got}")
            return None
        wanted, result = _outcome(lambda: getattr(self.model, name)(*arguments))
        shown = f"{name}({', '.join(map(_brief, arguments))})"
        note(f"{shown}: {got}")
        assert got == wanted, f"{shown}: {got} instead of {wanted}"
        self.look()
        return result

    def look(self) -> None:
        """Compare now and then."""
        self.steps += 1
        if self.steps % LOOK_EVERY == 0:
            self.compare()

    def compare(self) -> None:
        found, wanted = self.subject.tree(), dict(self.model.paths())
        assert sorted(found) == sorted(wanted), f"{found.keys() ^ wanted.keys()} differ"
        for path, look in found.items():
            self.check(look, wanted[path], str(path))

    def check(self, look: Look, node: Node, where: str) -> None:
        assert look.kind == node.kind, where
        assert look.uid == node.uid, where
        assert look.mode in node.modes[-1:] or look.mode in self._modes(node), where
        assert look.xattrs == node.xattrs, where
        if node.kind == SYMLINK:
            assert look.content == node.target, where
        if node.kind == FILE:
            now = node.content.now
            found = f"{where}: {_brief(look.content)}, not {_brief(now)}"
            assert node.content.accepts(look.content), found
            node.content.settle(look.content)
        if not node.is_dir:
            users, all_of_them = self.model.names_of(node), self.model.links_of(node)
            assert users <= look.nlink <= all_of_them, f"{where}: {look.nlink} links, not {users}"

    def _modes(self, node: Node) -> list[int]:
        """Return what a mode may be that was not synced when the gateway died."""
        return node.modes if self.model.run and not self.subject.is_posix else []

    # names

    @rule(data=st.data(), mode=st.sampled_from([0o755, 0o700, 0o777, 0o1777]))
    def mkdir(self, data: Any, mode: int) -> None:
        self.both("mkdir", self.path(data, existing=False), mode)

    @rule(data=st.data(), mode=st.sampled_from([0o644, 0o600]), content=contents)
    def create(self, data: Any, mode: int, content: bytes) -> None:
        self.both("create", self.path(data, existing=False), mode, content)

    @rule(data=st.data())
    def symlink(self, data: Any) -> None:
        self.both("symlink", self.path(data, existing=False), b"nowhere")

    @rule(data=st.data())
    def link(self, data: Any) -> None:
        path, new = self.path(data), self.path(data, existing=False)
        if not crosses(path, new):
            self.both("link", path, new)

    @precondition(lambda self: self.has_quota and not self.is_full)
    @rule()
    def fill_quota(self) -> None:
        """From now on there is no room for more; deletes and restores go on."""
        note("fill_quota()")
        self.subject.limit((QUOTA,), FULL)
        self.is_full = True

    @rule(data=st.data())
    def unlink(self, data: Any) -> None:
        self.both("unlink", self.path(data))

    @rule(data=st.data())
    def rmdir(self, data: Any) -> None:
        self.both("rmdir", self.path(data))

    @rule(data=st.data())
    def rename(self, data: Any) -> None:
        self.both("rename", self.path(data), self.path(data, existing=False))

    @rule(data=st.data())
    def rename_over(self, data: Any) -> None:
        self.both("rename", self.path(data), self.path(data))

    @rule(data=st.data())
    def rename_noreplace(self, data: Any) -> None:
        self.both("rename_noreplace", self.path(data), self.path(data, existing=False))

    @rule(data=st.data())
    def exchange(self, data: Any) -> None:
        self.both("exchange", self.path(data), self.path(data))

    @rule(data=st.data())
    def move_to_trash(self, data: Any) -> None:
        path, trash_of = self.path(data), data.draw(st.sampled_from(self.directories()))
        self.both("move_to_trash", path, trash_of)

    @rule(data=st.data())
    def remove_tree(self, data: Any) -> None:
        """Delete everything below a path, deepest first, as `rm -rf` does."""
        self.removed(self.path(data), 0)

    def removed(self, top: Path, uid: int) -> None:
        below = [path for path, _ in self.model.paths() if path[: len(top)] == top]
        for path in sorted(below, key=len, reverse=True):
            node = dict(self.model.paths())[path]
            self.both("rmdir" if node.is_dir else "unlink", path, uid)

    # the same as somebody else

    @rule(data=st.data(), mode=st.sampled_from([0o755, 0o777]))
    def mkdir_as_user(self, data: Any, mode: int) -> None:
        self.both("mkdir", self.path(data, existing=False, uid=USER), mode, USER)

    @rule(data=st.data(), mode=st.sampled_from([0o644, 0o600]), content=contents)
    def create_as_user(self, data: Any, mode: int, content: bytes) -> None:
        self.both("create", self.path(data, existing=False, uid=USER), mode, content, USER)

    @rule(data=st.data())
    def unlink_as_user(self, data: Any) -> None:
        self.both("unlink", self.path(data, uid=USER), USER)

    @rule(data=st.data())
    def rmdir_as_user(self, data: Any) -> None:
        self.both("rmdir", self.path(data, uid=USER), USER)

    @rule(data=st.data())
    def move_to_trash_as_user(self, data: Any) -> None:
        self.both("move_to_trash", self.path(data, uid=USER), (), USER)

    @rule(data=st.data())
    def remove_tree_as_user(self, data: Any) -> None:
        self.removed(self.path(data, uid=USER), USER)

    # inodes

    @rule(data=st.data(), off=st.sampled_from([0, 1, 100]), content=contents)
    def write(self, data: Any, off: int, content: bytes) -> None:
        if content:
            self.both("write", self.path(data), off, content)

    @rule(data=st.data(), content=contents)
    def append(self, data: Any, content: bytes) -> None:
        if content:
            self.both("append", self.path(data), content)

    @rule(data=st.data(), size=st.sampled_from([0, 0, 1, 100, 6_000]))
    def truncate(self, data: Any, size: int) -> None:
        self.truncated(self.both("truncate", self.path(data), size))

    @rule(data=st.data(), content=contents)
    def rewrite(self, data: Any, content: bytes) -> None:
        self.truncated(self.both("rewrite", self.path(data), content))

    def truncated(self, kept: str | None) -> None:
        """Find out whether a content was kept where the gateway may choose."""
        is_free = kept == "perhaps" or (kept == "yes" and not self.subject.is_posix)
        if is_free and len(self.subject.trash()) < len(self.model.trees()):
            self.model.was_not_kept()

    @rule(data=st.data())
    def fsync(self, data: Any) -> None:
        self.both("fsync", self.path(data))

    @rule(data=st.data(), mode=st.sampled_from(MODES))
    def chmod(self, data: Any, mode: int) -> None:
        self.both("chmod", self.path(data), mode)

    @rule(data=st.data(), key=st.sampled_from(KEYS), value=st.sampled_from([b"", b"v", b"w" * 99]))
    def setxattr(self, data: Any, key: str, value: bytes) -> None:
        self.both("setxattr", self.path(data), key, value)

    @rule(data=st.data(), key=st.sampled_from(KEYS))
    def removexattr(self, data: Any, key: str) -> None:
        self.both("removexattr", self.path(data), key)

    # open files

    @precondition(lambda self: len(self.descriptors) < MOST_OPEN)
    @rule(data=st.data())
    def open(self, data: Any) -> None:
        path = self.path(data)
        wanted, _ = _outcome(lambda: self.model.open(path))
        got, fd = _outcome(lambda: self.subject.open(path))
        note(f"open({path}): {got}")
        assert got == wanted, f"open {path}: {got} instead of {wanted}"
        if fd is not None:
            self.descriptors.append(fd)

    def opened(self, data: Any) -> tuple[int, Node]:
        number = data.draw(st.integers(0, len(self.descriptors) - 1))
        return self.descriptors[number], self.model.opened[number]

    @precondition(lambda self: self.descriptors)
    @rule(data=st.data(), off=st.sampled_from([0, 70]), content=contents)
    def write_open(self, data: Any, off: int, content: bytes) -> None:
        fd, node = self.opened(data)
        if content:
            note(f"pwrite({fd}, {_brief(content)}, {off})")
            assert os.pwrite(fd, content, off) == len(content)
            self.model.write_open(node, off, content)

    @precondition(lambda self: self.descriptors)
    @rule(data=st.data(), size=st.sampled_from([0, 0, 30]))
    def truncate_open(self, data: Any, size: int) -> None:
        fd, node = self.opened(data)
        note(f"ftruncate({fd}, {size})")
        os.ftruncate(fd, size)
        self.truncated(self.model.truncate_open(node, size))

    @precondition(lambda self: self.descriptors)
    @rule(data=st.data())
    def read_open(self, data: Any) -> None:
        fd, node = self.opened(data)
        self.check(self.subject.look_at_open(fd), node, "open file")

    @precondition(lambda self: self.descriptors)
    @rule(data=st.data())
    def fsync_open(self, data: Any) -> None:
        fd, node = self.opened(data)
        os.fsync(fd)
        self.model.fsync_open(node)

    @precondition(lambda self: self.descriptors)
    @rule(data=st.data())
    def close(self, data: Any) -> None:
        number = data.draw(st.integers(0, len(self.descriptors) - 1))
        os.close(self.descriptors.pop(number))
        self.model.opened.pop(number)

    # the trash

    @precondition(lambda self: self.model.trash)
    @rule(data=st.data(), policy=st.sampled_from(POLICIES))
    def restore_tree(self, data: Any, policy: str) -> None:
        trees = self.compare_trash()
        number = data.draw(st.integers(0, len(trees) - 1))
        tree, entry_id = trees[number]
        self.restored([tree], policy, entry_id=entry_id)

    @precondition(lambda self: self.model.trash)
    @rule(data=st.data(), policy=st.sampled_from(POLICIES))
    def restore_path(self, data: Any, policy: str) -> None:
        deleted = [one.path for one in self.model.trash if one.path is not None]
        above = [path[:depth] for path in deleted for depth in range(1, len(path) + 1)]
        number, other = data.draw(_ANY), data.draw(paths)
        path = sorted(set(above))[number % len(set(above))] if above else other
        self.restored(self.model.at_path(path), policy, path=path)

    @precondition(lambda self: self.model.trash)
    @rule(policy=st.sampled_from(POLICIES))
    def restore_last(self, policy: str) -> None:
        self.restored(self.model.trees()[:1], policy, last=True)

    @precondition(lambda self: self.model.trees(USER))
    @rule(data=st.data(), policy=st.sampled_from(POLICIES))
    def restore_tree_as_user(self, data: Any, policy: str) -> None:
        tree, entry_id = self.drawn(data, USER)
        self.restored([tree], policy, entry_id=entry_id, uid=USER)

    def drawn(self, data: Any, uid: int) -> tuple[Tree, str]:
        """Draw something that somebody sees in the trash; return all that its id means."""
        seen, entry_id = data.draw(st.sampled_from(self.compare_trash(uid)))
        return self.model.tree_of(seen.top.number), entry_id

    @precondition(lambda self: self.model.trash)
    @rule(data=st.data(), uid=users)
    def purge(self, data: Any, uid: int) -> None:
        if not self.model.trees(uid):
            return
        tree, entry_id = self.drawn(data, uid)
        is_held = self.model.is_held(tree)
        note(f"purge({tree.top.path}, {uid}): {'held' if is_held else 'gone'}")
        report = self.subject.purge(entry_id, uid)
        assert (report.held, len(report.trees)) == ([entry_id] * is_held, not is_held)
        self.model.purge(tree)

    @precondition(lambda self: self.model.trash)
    @rule(data=st.data(), uid=users, verb=st.sampled_from(["hold", "hold", "release"]))
    def hold(self, data: Any, uid: int, verb: str) -> None:
        if not self.model.trees(uid):
            return
        tree, entry_id = self.drawn(data, uid)
        note(f"{verb}({tree.top.path}, {uid})")
        assert getattr(self.subject, verb)(entry_id, uid) == {"hold": "held"}.get(verb, "released")
        getattr(self.model, verb)(tree)

    def restored(self, trees: list[Tree], policy: str, **what: Any) -> None:
        """Restore on both sides; answers and trees must be the same."""
        answers = self.subject.restore(policy=policy, **what)
        uid, to = what.get("uid", 0), what.get("to")
        wanted = [self.model.restore(tree, policy, to, uid) for tree in trees]
        if not trees:
            assert [answer.outcome for answer in answers] == ["not_found"]
            return
        got = [answer.outcome for answer in answers]
        note(f"restore({policy}, {what}): {got} {[tree.top.path for tree in trees]}")
        assert got == [one.outcome for one in wanted], [answer.message for answer in answers]
        for answer, one in zip(answers, wanted, strict=True):
            if one.outcome == "restored":
                assert self.subject.target_of(answer) == one.target
        self.adopt_modes_of_made_parents()
        self.compare()

    def adopt_modes_of_made_parents(self) -> None:
        """Parents that a restore had to make have the mode and owner that they had, or others."""
        for path, node in self.model.paths():
            if node.is_dir and node.was_made:
                look = self.subject.look_at(path)
                node.modes[-1], node.uid = look.mode, look.uid
                node.was_made = False

    def compare_trash(self, uid: int = 0) -> list[tuple[Tree, str]]:
        """Compare what somebody sees in the trash; return the trees with their ids."""
        trees, items = self.model.trees(uid), self.subject.trash(uid)
        got = [(self.subject.path_of(item), item.kind == "dir", item.held) for item in items]
        wanted = [(tree.top.path, tree.top.node.is_dir, self.model.is_held(tree)) for tree in trees]
        assert got == wanted, f"{got} instead of {wanted}, for {uid}"
        return [(tree, item.id) for tree, item in zip(trees, items, strict=True)]

    # the gateway

    @precondition(lambda self: self.may_crash)
    @rule()
    def crash(self) -> None:
        note("crash()")
        self.may_crash = False
        self.compare_trash()  # what is pending by now is carried out
        self.close_all()
        self.subject.crash()
        self.model.crash(loses_unsynced=not self.subject.is_posix)
        self.compare()
        self.adopt_lost_paths()
        self.compare_trash()

    def adopt_lost_paths(self) -> None:
        """Of the last deletes the gateway may not have noted the place: then it is that of now."""
        for tree, item in zip(self.model.trees(), self.subject.trash(), strict=True):
            path = self.subject.path_of(item)
            if path == self.model.place_now(tree.top):
                self.model.was_at(tree.top, path)

    @precondition(lambda self: self.may_expire and self.model.trash)
    @rule()
    def let_time_pass(self) -> None:
        note("let_time_pass()")
        self.may_expire = False
        self.close_all()
        self.subject.let_time_pass()
        self.model.expire()
        self.compare()
        self.compare_trash()

    def close_all(self) -> None:
        while self.descriptors:
            with contextlib.suppress(OSError):
                os.close(self.descriptors.pop())

    def teardown(self) -> None:
        """Restore everything that is left, the last deleted first, and look at all of it."""
        try:
            self.close_all()
            self.model.opened.clear()
            self.compare()
            self.compare_trash(USER)
            self.both("mkdir", (BACK,), 0o755)
            while self.model.trash:
                tree, entry_id = self.compare_trash()[0]
                self.restored([tree], "keep-both", entry_id=entry_id, to=(BACK,))
        finally:
            self.subject.purge_everything()


def _brief(argument: Any) -> str:
    """Write an argument down, contents in short."""
    if isinstance(argument, bytes) and len(argument) > 20:
        return f"{argument[:1]!r} and so on, {len(argument)} bytes"
    if isinstance(argument, tuple):
        return os.fsdecode(b"/".join(argument)).__repr__()
    return repr(argument)


def _outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "success", call()
    except OSError as exc:
        return name_of(exc.errno or 0), None


STORAGES = ["posix", "ceph"]
EAGER = ["posix-eager", "ceph-eager"]
"""Where each delete is answered before it has been carried out, so that what a run sees depends on
time: hypothesis can't repeat that, and says so."""


@pytest.fixture
def subject(request: pytest.FixtureRequest, base: FilePath) -> Iterator[Subject]:
    """Return a mount; on an eager one each delete is answered before it has been carried out."""
    storage, _, eager = request.param.partition("-")
    options = (*OPTIONS, "asyncdelete.pending=true", "asyncdelete.pending_after=1")
    options = options if eager else OPTIONS
    cluster: CephCluster | None = None
    if storage == "ceph":
        cluster = request.getfixturevalue("cluster")
        assert cluster is not None
        gateway = ceph_gateway(cluster, base, *options)
    else:
        gateway = posix_gateway(base, *options)
    umask = os.umask(0)
    backs = Back.of(gateway.source, cluster)
    with gateway.mounted(), backs as back:
        subject = Subject(gateway, back)
        yield subject
        subject.close()
    os.umask(umask)


def _run(subject: Subject, examples: int, *, derandomize: bool) -> None:
    machine = type("MountMachine", (Machine,), {"subject": subject})
    profile = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=derandomize,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(machine, settings=profile)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("subject", STORAGES, indirect=True)
def test_mount_and_model_agree(subject: Subject) -> None:
    _run(subject, EXAMPLES["posix" if subject.is_posix else "ceph"], derandomize=True)


@pytest.mark.soak
@pytest.mark.parametrize("subject", STORAGES + EAGER, indirect=True)
def test_mount_and_model_agree_for_long(subject: Subject) -> None:
    until = time.monotonic() + float(os.environ.get("SOAK_S") or 300)
    while time.monotonic() < until:
        _run(subject, 20, derandomize=False)
