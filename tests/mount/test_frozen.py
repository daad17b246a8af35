"""What lies in the trash can't be changed: [virtual-trash-4]."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gateway import Gateway

_FORGOTTEN_S = 1.2
"""After that the kernel asks for names again."""

CHANGES: dict[str, Callable[[], object]] = {
    "create": lambda: Path("new").touch(),
    "mkdir": lambda: Path("new").mkdir(),
    "write": lambda: os.close(os.open("sub/file", os.O_WRONLY)),
    "truncate": lambda: os.truncate("sub/file", 0),
    "chmod": lambda: Path("sub/file").chmod(0o600),
    "chmod-dir": lambda: Path("sub").chmod(0o700),
    "setxattr": lambda: os.setxattr("sub/file", "user.x", b"1"),
    "unlink": lambda: os.unlink("sub/file"),
    "rmdir": lambda: os.rmdir("sub/empty"),
    "rename": lambda: os.rename("sub/file", "sub/other"),
    "link": lambda: os.link("sub/file", "other"),
    "symlink": lambda: os.symlink("x", "other"),
}


def test_process_in_a_deleted_tree_changes_nothing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = gateway.path / "tree"
    (tree / "sub" / "empty").mkdir(parents=True)
    (tree / "sub" / "file").write_text("content")
    monkeypatch.chdir(tree)
    tree.rename(gateway.path / ".trashbin" / "tree")
    for change in CHANGES.values():
        with pytest.raises(PermissionError):
            change()
    assert Path("sub/file").read_text() == "content"
    gateway.run("trash", "restore", str(tree), check=True)
    assert (tree / "sub" / "file").read_text() == "content"
    (tree / "sub" / "file").unlink()


def test_files_that_were_deleted_one_by_one_stay_usable(gateway: Gateway) -> None:
    """[unlink-5]: also when their directory has gone after them."""
    directory = gateway.path / "d"
    directory.mkdir()
    with (directory / "log").open("w+b", buffering=0) as file:
        file.write(b"begun")
        os.unlink(directory / "log")
        directory.rmdir()
        file.truncate(0)
        file.write(b"more")
        os.fchmod(file.fileno(), 0o600)
        assert os.fstat(file.fileno()).st_nlink == 0


def test_file_with_another_name_is_written_by_that(place: Path) -> None:
    """Also while the kernel remembers it by the name that is in the trash now."""
    (place / "tree").mkdir()
    (place / "tree/a").write_text("before")
    (place / "b").hardlink_to(place / "tree/a")
    time.sleep(_FORGOTTEN_S)
    (place / "b").stat()
    (place / "tree/a").stat()
    with (place / "tree/a").open():
        os.rename(place / "tree", place / ".trashbin/tree")
        (place / "b").write_text("after")
    assert (place / "b").read_text() == "after"
