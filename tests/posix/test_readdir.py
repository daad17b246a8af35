"""Reading directories: completeness, positions, and change while somebody reads."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.posix.libc import Directory
from tests.posix.nodes import KINDS, TYPE_BITS, fails, make, make_dir, make_file, opened

MANY = 5000
DOTS = {b".", b".."}


def _fill(directory: Path, count: int) -> set[bytes]:
    names = {b"entry-%05d" % n for n in range(count)}
    with opened(directory) as fd:
        for name in names:
            os.mknod(name, 0o600, dir_fd=fd)
    return names


def _names(directory: Path) -> list[bytes]:
    with Directory(directory) as stream:
        return [entry.name for entry in stream]


def test_empty_directory_has_itself_and_its_parent(target: Path) -> None:
    make_dir(target / "d")
    with Directory(target / "d") as stream:
        found = {entry.name: entry.ino for entry in stream}
    assert found.keys() == DOTS
    assert found[b"."] == (target / "d").stat().st_ino
    assert found[b".."] == target.stat().st_ino


@pytest.mark.parametrize("kind", KINDS)
def test_entry_tells_type_and_inode(target: Path, kind: str) -> None:
    path = make(kind, target / "it")
    with Directory(target) as stream:
        found = {entry.name: entry for entry in stream}
    assert found[b"it"].ino == os.lstat(path).st_ino
    # A file system may leave the type open (DT_UNKNOWN); a wrong one it must not tell.
    assert found[b"it"].kind << 12 in (TYPE_BITS[kind], 0)
    assert found[b"."].kind << 12 in (TYPE_BITS["directory"], 0)


@pytest.mark.parametrize("count", [1, 10, 300, 1500])
def test_every_entry_comes_once(target: Path, count: int) -> None:
    names = _fill(target, count)
    found = _names(target)
    assert len(found) == len(set(found)) == count + 2
    assert set(found) == names | DOTS


def test_thousands_of_entries_come_and_go(target: Path) -> None:
    names = _fill(target, MANY)
    assert sorted(_names(target)) == sorted(names | DOTS)
    with opened(target) as fd:
        for name in sorted(names)[::2]:
            os.unlink(name, dir_fd=fd)
    assert sorted(_names(target)) == sorted(names.difference(sorted(names)[::2]) | DOTS)


def test_change_shows_in_the_next_listing(target: Path) -> None:
    for n in range(20):
        assert set(os.listdir(target)) == {f"f{m}" for m in range(n)}
        make_file(target / f"f{n}")
    os.rename(target / "f3", target / "renamed")
    assert "renamed" in os.listdir(target)
    assert "f3" not in os.listdir(target)
    os.unlink(target / "renamed")
    assert "renamed" not in os.listdir(target)


def test_every_position_can_be_gone_back_to(target: Path) -> None:
    _fill(target, 200)
    with Directory(target) as stream:
        entries = list(stream)
        for n in (0, 1, 2, 50, 130, 198, 200):
            stream.seek(entries[n].behind)
            assert [entry.name for entry in stream] == [e.name for e in entries[n + 1 :]]


def test_positions_differ(target: Path) -> None:
    _fill(target, 700)
    with Directory(target) as stream:
        positions = [entry.behind for entry in stream]
    assert len(set(positions)) == len(positions)


def test_position_from_tell_is_that_of_the_next_entry(target: Path) -> None:
    _fill(target, 20)
    with Directory(target) as stream:
        for _ in range(7):
            stream.read()
        position = stream.tell()
        rest = [entry.name for entry in stream]
        stream.seek(position)
        assert [entry.name for entry in stream] == rest


def test_position_holds_when_entries_before_it_go(target: Path) -> None:
    _fill(target, 300)
    with Directory(target) as stream:
        seen = [stream.read() for _ in range(150)]
        position = stream.tell()
        for entry in seen:
            if entry is not None and entry.name not in DOTS:
                os.unlink(target / os.fsdecode(entry.name))
        stream.seek(position)
        rest = [entry.name for entry in stream]
    assert set(rest) - DOTS == set(os.listdir(os.fsencode(target)))


def test_rewinding_shows_the_directory_as_it_is_now(target: Path) -> None:
    _fill(target, 10)
    with Directory(target) as stream:
        before = {entry.name for entry in stream}
        make_file(target / "new")
        os.unlink(target / "entry-00003")
        stream.rewind()
        after = {entry.name for entry in stream}
    assert before - after == {b"entry-00003"}
    assert after - before == {b"new"}


def test_deleting_what_was_read_misses_nothing(target: Path) -> None:
    """Do what `rm -rf` does: unlink each entry as it comes, in one pass."""
    _fill(target, 2000)
    with Directory(target) as stream, opened(target) as fd:
        for entry in stream:
            if entry.name not in DOTS:
                os.unlink(entry.name, dir_fd=fd)
    assert os.listdir(target) == []


def test_entries_that_stay_are_neither_missed_nor_repeated(target: Path) -> None:
    stays = _fill(target, 1000)
    with Directory(target) as stream:
        found = []
        for n, entry in enumerate(stream):
            found.append(entry.name)
            if n < 200:
                make_file(target / f"comes-{n}")
            elif n < 400:
                os.unlink(target / f"comes-{n - 200}")
    # What comes and goes meanwhile may be seen or not; what stays, exactly once.
    steady = [name for name in found if name in stays]
    assert len(steady) == len(set(steady)) == len(stays)


def test_renaming_while_reading_misses_nothing_that_stays(target: Path) -> None:
    stays = _fill(target, 500)
    make_file(target / "restless-0")
    with Directory(target) as stream:
        found = []
        for n, entry in enumerate(stream):
            found.append(entry.name)
            os.rename(target / f"restless-{n}", target / f"restless-{n + 1}")
    assert stays <= set(found)


def test_two_readers_do_not_disturb_each_other(target: Path) -> None:
    names = _fill(target, 300)
    with Directory(target) as one, Directory(target) as two:
        first = [one.read() for _ in range(100)]
        assert {entry.name for entry in two} == names | DOTS
        rest = [entry.name for entry in one]
    assert {entry.name for entry in first if entry} | set(rest) == names | DOTS


def test_removed_directory_lists_nothing_but_keeps_its_reader(target: Path) -> None:
    make_dir(target / "d")
    with Directory(target / "d") as stream:
        os.rmdir(target / "d")
        stream.rewind()
        assert {entry.name for entry in stream} <= DOTS


def test_other_things_cannot_be_listed(target: Path) -> None:
    make_file(target / "f")
    with fails(errno.ENOTDIR):
        Directory(target / "f")
    with fails(errno.ENOENT):
        Directory(target / "missing")


def test_walk_sees_the_whole_tree(target: Path) -> None:
    wanted = set()
    for a in range(5):
        for b in range(5):
            (target / f"{a}" / f"{b}").mkdir(parents=True)
            wanted.add(make_file(target / f"{a}" / f"{b}" / "f"))
    found = {Path(top) / name for top, _, names in os.walk(target) for name in names}
    assert found == wanted
