"""A recognised `rm -rf` is served by one rename: docs/semantics.md [intent-1], [intent-2]."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import run_as
from tests.gateway import Gateway
from tests.waiting import wait_until

_WAIT_S = 30.0
_DIRS, _FILES = 12, 25


@pytest.fixture
def knowing(unmounted: Gateway) -> Iterator[Gateway]:
    """Return a gateway that recognises rm."""
    with unmounted.mounted("-o", "asyncdelete.recognise_rm=true"):
        yield unmounted


def _plant(top: Path) -> set[str]:
    for number in range(_DIRS):
        directory = top / f"d{number}" / "below"
        directory.mkdir(parents=True)
        for file in range(_FILES):
            (directory / f"f{file}").write_text(f"{number} {file}")
    return _names(top)


def _names(top: Path) -> set[str]:
    return {os.path.relpath(os.path.join(at, n), top) for at, d, f in os.walk(top) for n in d + f}


def _rm(*arguments: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(["rm", *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def _moves(gateway: Gateway, kind: str) -> float:
    return gateway.metric(f'trash_moves_total{{kind="{kind}"}}')


@pytest.mark.parametrize("way", ["absolute", "relative", "dotted"])
def test_tree_goes_by_one_rename_and_comes_back(knowing: Gateway, way: str) -> None:
    """[intent-1], [intent-2]."""
    top = knowing.path / "a/top"
    names = _plant(top)
    if way == "absolute":
        _rm("-rf", top)
    elif way == "relative":
        _rm("-fr", "top/", cwd=top.parent)
    else:
        (knowing.path / "b").mkdir()
        _rm("-r", "-f", "../a/top", cwd=knowing.path / "b")
    assert os.listdir(top.parent) == []
    assert not top.exists()
    assert knowing.metric("intents_total") == 1
    assert (_moves(knowing, "tree"), _moves(knowing, "file")) == (1, 0)
    knowing.run("trash", "restore", str(top), check=True)
    assert _names(top) == names
    assert (top / "d3/below/f4").read_text() == "3 4"


def test_each_operand_goes_by_itself_and_others_stay(knowing: Gateway) -> None:
    """[intent-1]."""
    for name in ("one", "two", "stays"):
        _plant(knowing.path / name)
    (knowing.path / "file").write_text("content")
    _rm("-rf", "one", "none", "file", "two", cwd=knowing.path)
    assert os.listdir(knowing.path) == ["stays"]
    assert len(_names(knowing.path / "stays")) == _DIRS * (_FILES + 2)
    assert knowing.metric("intents_total") == 2
    assert _moves(knowing, "file") == 1


def test_who_is_still_in_the_tree_sees_it_empty(knowing: Gateway) -> None:
    """[intent-2]: and can make nothing in it."""
    top = knowing.path / "top"
    _plant(top)
    inside = os.open(top / "d1", os.O_RDONLY | os.O_DIRECTORY)
    _rm("-rf", top)
    assert os.listdir(inside) == []
    with pytest.raises(OSError, match=r"permitted|such file"):
        os.mkdir("new", dir_fd=inside)
    os.close(inside)
    top.mkdir()
    assert os.listdir(top) == []


@pytest.mark.parametrize("arguments", [["-r"], ["-rf", "--one-file-system"]])
def test_others_delete_as_ever(knowing: Gateway, arguments: list[str]) -> None:
    """[intent-1]: and what is no rm does."""
    top = knowing.path / "top"
    _plant(top)
    _rm(*arguments, top)
    _plant(top)
    subprocess.run(["find", str(top), "-delete"], check=True)
    assert not top.exists()
    wait_until(lambda: knowing.metric("pending_deletes") == 0, within_s=_WAIT_S)
    assert knowing.metric("intents_total") == 0
    assert _moves(knowing, "file") == 2 * _DIRS * _FILES


def test_a_link_is_not_followed(knowing: Gateway) -> None:
    """[intent-1]: what a path leads to through a link goes one by one."""
    top = knowing.path / "real/top"
    _plant(top)
    (knowing.path / "link").symlink_to("real")
    _rm("-rf", knowing.path / "link/top")
    assert os.listdir(knowing.path / "real") == []
    assert knowing.metric("intents_total") == 0


def test_it_needs_the_rights_of_moving_the_tree(knowing: Gateway) -> None:
    """[intent-1]: without them rm goes as far as it gets."""
    top = knowing.path / "top"
    _plant(top)
    knowing.path.chmod(0o777)
    subprocess.run(["chown", "-R", "1001:1001", str(top / "d1")], check=True)
    done = run_as(1001, "rm", "-rf", str(top))
    assert done.returncode == 1
    assert knowing.metric("intents_total") == 0
    assert len(os.listdir(top)) == _DIRS
    assert os.listdir(top / "d1") == []
    assert len(_names(top / "d2")) == _FILES + 1


def test_it_is_off_by_default(unmounted: Gateway) -> None:
    """[intent-1]."""
    with unmounted.mounted():
        _plant(unmounted.path / "top")
        _rm("-rf", unmounted.path / "top")
        assert unmounted.metric("intents_total") == 0
