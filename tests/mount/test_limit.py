"""The limit for deletes of what belongs to others: docs/semantics.md, [limit-1] and [limit-2]."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cephfs_ext.core.errors import ExitCode
from tests.commands import run_as
from tests.gateway import Gateway
from tests.waiting import wait_until

_ANN, _BOB = 1001, 1002


@pytest.fixture
def limited(unmounted: Gateway) -> Iterator[Gateway]:
    """Return a gateway that lets users delete five foreign things a minute."""
    with unmounted.mounted("-o", "trash.foreign_deletes_per_minute=5"):
        unmounted.path.chmod(0o777)
        yield unmounted


def _made(directory: Path, owner: int, count: int) -> list[Path]:
    directory.mkdir(exist_ok=True)
    directory.chmod(0o777)
    paths = [directory / f"{owner}-{number}" for number in range(count)]
    for path in paths:
        path.write_bytes(b"x" * 5000)
        os.chown(path, owner, owner)
    return paths


def test_more_of_what_is_not_theirs_stays(limited: Gateway) -> None:
    """[limit-1]: own files go on."""
    theirs, own = _made(limited.path / "d", _BOB, 8), _made(limited.path / "d", _ANN, 20)
    done = run_as(_ANN, "rm", "-f", *map(str, (*theirs, *own)))
    assert done.returncode == 1
    assert done.stderr.count(os.strerror(errno.EDQUOT)) == 3
    assert [path.exists() for path in theirs] == [False] * 5 + [True] * 3
    assert not any(path.exists() for path in own)
    assert theirs[-1].read_bytes() == b"x" * 5000
    assert limited.metric("trash_refusals_total") == 3
    assert f"uid {_ANN} deletes more" in limited.log


def test_replacing_and_truncating_count_too(limited: Gateway) -> None:
    """[limit-1]."""
    theirs, own = _made(limited.path / "d", _BOB, 7), _made(limited.path / "d", _ANN, 3)
    for path in theirs:
        path.chmod(0o666)
    for source, target in zip(own, theirs, strict=False):
        assert run_as(_ANN, "mv", "-f", str(source), str(target)).returncode == 0
    assert run_as(_ANN, "truncate", "-s", "0", str(theirs[3])).returncode == 0
    assert run_as(_ANN, "rm", "-f", str(theirs[4])).returncode == 0
    for command in (
        ("truncate", "-s", "0", str(theirs[5])),
        ("rm", "-f", str(theirs[6])),
        ("mv", str(theirs[6]), str(limited.path / ".trashbin/x")),
        ("mv", str(theirs[6]), str(limited.path / ".trashbin/now/x")),
    ):
        done = run_as(_ANN, *command)
        assert done.returncode != 0, command
        assert os.strerror(errno.EDQUOT) in done.stderr, done
    assert [path.read_bytes() for path in theirs[5:]] == [b"x" * 5000] * 2


def test_tree_that_is_moved_whole_counts_on_ceph_as_what_is_in_it(limited: Gateway) -> None:
    """[limit-1]."""
    _made(limited.path / "tree", _BOB, 10)
    os.chown(limited.path / "tree", _BOB, _BOB)
    is_ceph = limited.source.startswith("ceph:")
    if is_ceph:  # its recursive figures come late
        tree = limited.path / "tree"
        wait_until(lambda: int(os.getxattr(tree, "ceph.dir.rentries")) > 5, within_s=30)
    done = run_as(_ANN, "mv", str(limited.path / "tree"), str(limited.path / ".trashbin/tree"))
    if is_ceph:
        assert os.strerror(errno.EDQUOT) in done.stderr, done
        assert (limited.path / "tree").is_dir()
    else:
        assert done.returncode == 0, done


def test_operator_lifts_the_limit(limited: Gateway) -> None:
    """[limit-2]."""
    theirs = _made(limited.path / "d", _BOB, 12)
    denied = run_as(_ANN, *limited.command("trash", "allow", str(_ANN)))
    assert denied.returncode == ExitCode.DENIED, denied
    assert limited.run("trash", "allow", str(_ANN), "--for", "2m", check=True).stdout
    assert run_as(_ANN, "rm", "-f", *map(str, theirs)).returncode == 0
    assert limited.run("trash", "allow", str(_ANN), "--for", "0").returncode == ExitCode.USAGE
