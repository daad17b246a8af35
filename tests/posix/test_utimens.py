"""utimensat(2): which times are set, and who may set them."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.actors import MEMBER, OWNER, STRANGER, User, as_user, errno_of, name_of
from tests.posix.libc import UTIME_NOW, UTIME_OMIT, utimens
from tests.posix.nodes import KINDS, fails, make, make_file, make_symlink, opened, tick

SECOND = 10**9
OLD = (1_000_000_000 * SECOND + 123_456_789, 1_200_000_000 * SECOND + 987_654_321)
CLOCK_SLACK_S = 2.0


def _times(path: Path) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_atime_ns, found.st_mtime_ns


def _is_now(time_ns: int) -> bool:
    return abs(time_ns / SECOND - time.time()) < CLOCK_SLACK_S


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_times_to_the_nanosecond(target: Path, kind: str) -> None:
    """[time-1]."""
    make(kind, target / "it")
    os.utime(target / "it", ns=OLD, follow_symlinks=False)
    assert _times(target / "it") == OLD


@pytest.mark.parametrize(
    "seconds",
    [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, -1, -86_400 * 365],
    ids=["epoch", "1", "2038", "past-2038", "2106", "past-2106", "before-epoch", "1969"],
)
def test_times_near_and_far(target: Path, seconds: int) -> None:
    """[time-1]."""
    make_file(target / "f")
    os.utime(target / "f", ns=(seconds * SECOND + 1, seconds * SECOND + 2))
    assert _times(target / "f") == (seconds * SECOND + 1, seconds * SECOND + 2)


def test_link_itself_has_times_of_its_own(target: Path) -> None:
    make_file(target / "f")
    make_symlink(target / "link", "f")
    before = _times(target / "f")
    os.utime(target / "link", ns=OLD, follow_symlinks=False)
    assert _times(target / "link")[1] == OLD[1]
    assert _times(target / "f") == before
    os.utime(target / "link", ns=OLD)
    assert _times(target / "f") == OLD


def test_descriptor_is_as_good_as_a_name(target: Path) -> None:
    make_file(target / "f")
    with opened(target / "f", os.O_RDWR) as fd:
        os.utime(fd, ns=OLD)
        assert (os.fstat(fd).st_atime_ns, os.fstat(fd).st_mtime_ns) == OLD


def test_times_set_stay_when_a_writer_closes(target: Path) -> None:
    with opened(target / "f", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"data")
        os.utime(fd, ns=OLD)
    assert _times(target / "f") == OLD


@pytest.mark.parametrize(
    ("atime", "mtime"),
    [
        (UTIME_NOW, UTIME_NOW),
        (UTIME_NOW, UTIME_OMIT),
        (UTIME_OMIT, UTIME_NOW),
        (UTIME_OMIT, UTIME_OMIT),
        (UTIME_NOW, 5),
        (UTIME_OMIT, 5),
        (5, UTIME_NOW),
        (5, UTIME_OMIT),
    ],
    ids=[
        "now-now",
        "now-omit",
        "omit-now",
        "omit-omit",
        "now-set",
        "omit-set",
        "set-now",
        "set-omit",
    ],
)
def test_now_and_omit(target: Path, atime: int, mtime: int) -> None:
    path = make_file(target / "f")
    os.utime(path, ns=OLD)
    utimens(path, atime, mtime, sec=77)
    for asked, old, got in zip((atime, mtime), OLD, _times(path), strict=True):
        if asked == UTIME_NOW:
            assert _is_now(got)
        elif asked == UTIME_OMIT:
            assert got == old
        else:
            assert got == 77 * SECOND + asked


def test_omitting_both_changes_nothing(target: Path) -> None:
    path = make_file(target / "f")
    before = path.stat()
    tick()
    utimens(path, UTIME_OMIT, UTIME_OMIT)
    assert path.stat() == before


def test_change_of_times_changes_ctime(target: Path) -> None:
    path = make_file(target / "f")
    before = path.stat().st_ctime_ns
    tick()
    os.utime(path, ns=OLD)
    assert path.stat().st_ctime_ns > before
    assert _is_now(path.stat().st_ctime_ns)


def _set_both(path: Path) -> None:
    os.utime(path, ns=OLD)


def _now_both(path: Path) -> None:
    utimens(path, UTIME_NOW, UTIME_NOW)


def _now_implied(path: Path) -> None:
    os.utime(path)


def _now_and_omit(path: Path) -> None:
    utimens(path, UTIME_NOW, UTIME_OMIT)


def _now_and_set(path: Path) -> None:
    utimens(path, UTIME_NOW, 5)


def _omit_both(path: Path) -> None:
    utimens(path, UTIME_OMIT, UTIME_OMIT)


# Columns: owner (who may not even write), a writer who is not the owner, a stranger.
RIGHTS: list[tuple[Callable[[Path], None], int, int, int]] = [
    (_set_both, 0, errno.EPERM, errno.EPERM),
    (_now_both, 0, 0, errno.EACCES),
    (_now_implied, 0, 0, errno.EACCES),
    (_now_and_omit, 0, errno.EPERM, errno.EPERM),
    (_now_and_set, 0, errno.EPERM, errno.EPERM),
    (_omit_both, 0, 0, 0),
]


@pytest.mark.parametrize("row", RIGHTS, ids=lambda row: row[0].__name__.strip("_"))
@pytest.mark.parametrize(
    ("column", "user"), [(1, OWNER), (2, MEMBER), (3, STRANGER)], ids=["owner", "writer", "other"]
)
def test_who_may_set_what(
    target: Path,
    column: int,
    user: User,
    row: tuple[Callable[[Path], None], int, int, int],
) -> None:
    path = make_file(target / "f", mode=0o464, owner=OWNER)
    got = as_user(user, lambda: errno_of(lambda: row[0](path)))
    assert name_of(got) == name_of(row[column])


def test_missing_file_and_impossible_nanoseconds(target: Path) -> None:
    make_file(target / "f")
    with fails(errno.ENOENT):
        utimens(target / "missing", 0, 0)
    for nanoseconds in (-1, SECOND):
        with fails(errno.EINVAL):
            utimens(target / "f", nanoseconds, 0)
