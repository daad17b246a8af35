"""Every call that takes a path, against every way in which a path can be wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.actors import STRANGER, as_user, errno_of, name_of
from tests.posix.nodes import make_dir, make_file, make_symlink

Call = Callable[[str], object]

NAME_MAX, PATH_MAX = 255, 4096

EXISTING: dict[str, Call] = {
    "stat": os.stat,
    "open": lambda p: os.close(os.open(p, os.O_RDONLY)),
    "chmod": lambda p: os.chmod(p, 0o600),
    "chown": lambda p: os.chown(p, 0, 0),
    "lchown": lambda p: os.lchown(p, 0, 0),
    "truncate": lambda p: os.truncate(p, 0),
    "utime": os.utime,
    "readlink": os.readlink,
    "listdir": os.listdir,
    "statvfs": os.statvfs,
    "getxattr": lambda p: os.getxattr(p, "user.it"),
    "setxattr": lambda p: os.setxattr(p, "user.it", b"x"),
    "listxattr": os.listxattr,
    "removexattr": lambda p: os.removexattr(p, "user.it"),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "rename-from": lambda p: os.rename(p, f"{p}-new"),
    "link-from": lambda p: os.link(p, f"{p}-new"),
}
CREATING: dict[str, Call] = {
    "create": lambda p: os.close(os.open(p, os.O_CREAT | os.O_WRONLY)),
    "mkdir": os.mkdir,
    "mkfifo": os.mkfifo,
    "symlink": lambda p: os.symlink("x", p),
    "rename-to": lambda p: os.rename(f"{_top(p)}/file", p),
    "link-to": lambda p: os.link(f"{_top(p)}/file", p),
}
ALL = EXISTING | CREATING

# The path below a test's directory, and the errno of a call that meets it.
WRONG: dict[str, tuple[str, int]] = {
    "missing-directory": ("missing/it", errno.ENOENT),
    "file-as-directory": ("file/it", errno.ENOTDIR),
    "fifo-as-directory": ("fifo/it", errno.ENOTDIR),
    "dangling-link-as-directory": ("dangling/it", errno.ENOENT),
    "link-to-file-as-directory": ("to-file/it", errno.ENOTDIR),
    "loop-as-directory": ("loop/it", errno.ELOOP),
    "name-too-long": ("n" * (NAME_MAX + 1), errno.ENAMETOOLONG),
    "directory-name-too-long": ("n" * (NAME_MAX + 1) + "/it", errno.ENAMETOOLONG),
    "path-too-long": ("./" * (PATH_MAX // 2) + "it", errno.ENAMETOOLONG),
}
TREE = ["dangling", "fifo", "file", "loop", "to-file"]


def _top(path: str) -> str:
    """Return the test's directory, which `_build` has marked in the path."""
    return path.partition("/top/")[0] + "/top"


def _build(target: Path) -> Path:
    top = make_dir(target / "top")
    make_file(top / "file")
    os.mkfifo(top / "fifo")
    make_symlink(top / "dangling")
    make_symlink(top / "to-file", "file")
    make_symlink(top / "loop", "loop")
    return top


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_path_is_refused_by_every_call(target: Path, wrong: str) -> None:
    top = _build(target)
    tail, expected = WRONG[wrong]
    got = {call: name_of(errno_of(lambda c=call: ALL[c](f"{top}/{tail}"))) for call in ALL}
    assert got == dict.fromkeys(ALL, name_of(expected))
    assert sorted(os.listdir(top)) == TREE


def test_missing_name_is_refused_by_every_call_that_needs_it(target: Path) -> None:
    top = _build(target)
    got = {call: name_of(errno_of(lambda c=call: ALL[c](f"{top}/missing"))) for call in EXISTING}
    assert got == dict.fromkeys(EXISTING, "ENOENT")


def test_empty_path_is_refused_by_every_call(target: Path) -> None:
    one_path = [call for call in ALL if call not in ("rename-to", "link-to")]
    got = {call: name_of(errno_of(lambda c=call: ALL[c](""))) for call in one_path}
    assert got == dict.fromkeys(one_path, "ENOENT")


def test_directory_that_may_not_be_searched_refuses_every_call(target: Path) -> None:
    top = _build(target)
    make_dir(top / "closed", mode=0o666)
    make_file(top / "closed" / "it", mode=0o777)
    tails = {call: "closed/it" if call in EXISTING else "closed/new" for call in ALL}
    codes = as_user(
        STRANGER,
        lambda: {call: errno_of(lambda c=call: ALL[c](f"{top}/{tails[c]}")) for call in ALL},
    )
    assert {call: name_of(code) for call, code in codes.items()} == dict.fromkeys(ALL, "EACCES")


NAMES_CHANGED = (*CREATING, "unlink", "rmdir", "rename-from")


def test_directory_that_may_not_be_written_keeps_its_names(target: Path) -> None:
    top = _build(target)
    readable = make_dir(top / "readable", mode=0o755)
    make_file(readable / "it", mode=0o777)
    make_dir(readable / "directory")
    tails = dict.fromkeys(CREATING, "new") | {"rmdir": "directory"}

    def try_all() -> dict[str, int]:
        return {
            call: errno_of(lambda c=call: ALL[c](f"{readable}/{tails.get(c, 'it')}"))
            for call in NAMES_CHANGED
        }

    codes = as_user(STRANGER, try_all)
    got = {call: name_of(code) for call, code in codes.items()}
    # Which of two refusals comes first is open for a link to somebody else's file.
    assert got.pop("link-to") in ("EACCES", "EPERM")
    assert set(got.values()) == {"EACCES"}
    assert sorted(os.listdir(readable)) == ["directory", "it"]
