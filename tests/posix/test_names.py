"""Names and paths: every byte, every length."""

from __future__ import annotations

import errno
import os
import unicodedata
from pathlib import Path

import pytest

from tests.posix.actors import elsewhere
from tests.posix.nodes import fails, make_file

NAME_MAX = 255
PATH_MAX = 4096
ODD_NAMES = [
    b" ",
    b" leading",
    b"trailing ",
    b"-rf",
    b"...",
    b".hidden",
    b"..twodots",
    b"new\nline",
    b"tab\t",
    b"quote'\"`$(x)",
    b"back\\slash",
    b"*?[a]",
    b"\x01\x02\x7f",
    b"\xff",
    b"\x80\x81",
    b"\xc3\x28",
    "ä".encode(),
    unicodedata.normalize("NFD", "ä").encode(),
    "\N{ROCKET}".encode(),
    b"con",
    b"a:b",
    b"%41",
    b"x" * NAME_MAX,
    b"\xff" * NAME_MAX,
]


def _listed(directory: Path) -> list[bytes]:
    return sorted(os.listdir(os.fsencode(directory)))


def _path(directory: Path, name: bytes) -> bytes:
    return os.fsencode(directory) + b"/" + name


def test_odd_names_live_a_whole_life(target: Path) -> None:
    for n, name in enumerate(ODD_NAMES):
        Path(os.fsdecode(_path(target, name))).write_bytes(b"%d" % n)
    assert _listed(target) == sorted(ODD_NAMES)
    for n, name in enumerate(ODD_NAMES):
        assert Path(os.fsdecode(_path(target, name))).read_bytes() == b"%d" % n
        os.rename(_path(target, name), _path(target, b"plain"))
        os.rename(_path(target, b"plain"), _path(target, name))
        os.unlink(_path(target, name))
    assert _listed(target) == []


def test_every_byte_but_two_is_a_name(target: Path) -> None:
    """[name-1]."""
    names = sorted({bytes([n]) for n in range(1, 256)} - {b"/", b"."})
    for name in names:
        os.mkdir(_path(target, name))
    assert _listed(target) == names
    for name in names:
        os.rmdir(_path(target, name))


def test_names_differ_by_case_and_by_normalisation(target: Path) -> None:
    names = sorted([b"name", b"Name", b"NAME", "é".encode(), "e\u0301".encode()])
    for name in names:
        Path(os.fsdecode(_path(target, name))).write_bytes(name)
    assert _listed(target) == names
    for name in names:
        assert Path(os.fsdecode(_path(target, name))).read_bytes() == name


@pytest.mark.parametrize("length", [254, NAME_MAX])
def test_longest_names_work_everywhere(target: Path, length: int) -> None:
    """[name-1]."""
    name, other = "n" * length, "m" * length
    make_file(target / name, b"x")
    os.rename(target / name, target / other)
    os.link(target / other, target / name)
    os.symlink(name, target / ("s" * length))
    os.mkdir(target / ("d" * length))
    assert (target / ("s" * length)).read_bytes() == b"x"
    for unwanted in (name, other, "s" * length):
        os.unlink(target / unwanted)
    os.rmdir(target / ("d" * length))
    assert os.listdir(target) == []


def test_longest_names_of_wide_characters_count_in_bytes(target: Path) -> None:
    make_file(target / ("ä" * 127))
    with fails(errno.ENAMETOOLONG):
        make_file(target / ("ä" * 128))
    assert os.listdir(target) == ["ä" * 127]


def _spelled_in(length: int, path: Path) -> str:
    """Return a spelling of `path` that is `length` bytes long, by way of more slashes."""
    parent, name = os.path.split(path)
    return parent + "/" * (length - len(parent) - len(name)) + name


def test_path_of_path_max_is_too_long(target: Path) -> None:
    make_file(target / "f")
    os.chmod(_spelled_in(PATH_MAX - 1, target / "f"), 0o600)
    for call in (os.stat, os.unlink, os.listdir, os.readlink):
        with fails(errno.ENAMETOOLONG):
            call(_spelled_in(PATH_MAX, target / "f"))
    assert os.listdir(target) == ["f"]


def test_tree_deeper_than_path_max(target: Path) -> None:
    depth, name = 40, "d" * 200

    def dig_and_climb() -> tuple[int, bytes]:
        os.chdir(target)
        for _ in range(depth):
            os.mkdir(name)
            os.chdir(name)
        make_file(Path("f"), b"at the bottom")
        found = Path("f").read_bytes()
        os.unlink("f")
        for _ in range(depth):
            os.chdir("..")
            os.rmdir(name)
        return len(os.listdir(".")), found

    assert elsewhere(dig_and_climb) == (0, b"at the bottom")


def test_hundreds_of_levels(target: Path) -> None:
    levels = 300

    def dig() -> None:
        os.chdir(target)
        for _ in range(levels):
            os.mkdir("d")
            os.chdir("d")
        make_file(Path("f"), b"deep")

    elsewhere(dig)
    bottom = target.joinpath(*["d"] * levels)
    assert (bottom / "f").read_bytes() == b"deep"
    assert bottom.joinpath(*[".."] * levels).stat().st_ino == target.stat().st_ino
    assert [names for _, _, names, _ in os.fwalk(target / "d") if names] == [["f"]]


def test_dots_and_slashes_are_no_names(target: Path) -> None:
    make_file(target / "f", b"x")
    (target / "d").mkdir()
    for spelling in ("d/../f", "./f", ".//f", "d/./../f", "d//..//f"):
        with open(f"{target}/{spelling}", "rb") as file:
            assert file.read() == b"x"
    with fails(errno.EEXIST):
        os.mkdir(f"{target}/d/.")
    with fails(errno.ENOENT):
        os.stat("")
