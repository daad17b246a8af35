"""Policy, marks and protection on real mounts: docs/semantics.md, [policy-1] to [protect-2]."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.gateway import Gateway

_MARKS_S = 2.2
"""After which a mark that was set elsewhere counts."""


def _kept(gateway: Gateway) -> set[str]:
    return {item["path"] for item in gateway.trash()}


def _file(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_what_a_rule_exempts_is_really_removed(gateway: Gateway) -> None:
    """[policy-1], [policy-3]."""
    for name in ("m.py", "__pycache__/m.pyc", "a.tmp"):
        _file(gateway.path / "p" / name)
    subprocess.run(["rm", "-rf", str(gateway.path / "p")], check=True)
    tree = gateway.trash()
    assert [item["path"] for item in tree] == ["p"]
    assert tree[0]["entries"] == 2
    assert gateway.metric('trash_bypasses_total{reason="policy"}') == 3


def test_rules_of_the_operator_come_first(unmounted: Gateway, base: Path) -> None:
    """[policy-2]."""
    config = base / "config.toml"
    config.write_text(
        '[[trash.policy]]\nname = "results"\nmatch = ["results/**"]\n'
        '[[trash.policy]]\nname = "logs"\nkeep = false\nmatch = ["*.log"]\n'
    )
    with unmounted.mounted("--config", str(config)):
        for name in ("results/a.log", "results/b.tmp", "c.log", "d.txt"):
            os.unlink(_file(unmounted.path / name))
        assert _kept(unmounted) == {"results/a.log", "results/b.tmp", "d.txt"}


def test_mark_exempts_a_directory_and_all_below(gateway: Gateway) -> None:
    """[policy-4]."""
    scratch = gateway.path / "scratch"
    files = [_file(scratch / "deep" / "f"), _file(scratch / "kept" / "g"), _file(scratch / "h")]
    os.setxattr(scratch, "user.cephfs_ext.trash", b"off")
    os.setxattr(scratch / "kept", "user.cephfs_ext.trash", b"on")
    for path in files:
        path.unlink()
    assert _kept(gateway) == {"scratch/kept/g"}
    os.removexattr(scratch, "user.cephfs_ext.trash")
    _file(scratch / "i").unlink()
    assert _kept(gateway) == {"scratch/kept/g", "scratch/i"}


def test_exempt_files_are_replaced_and_truncated_as_ever(gateway: Gateway) -> None:
    """[policy-1]."""
    old, new = _file(gateway.path / "a.tmp", b"x" * 5000), _file(gateway.path / "b")
    new.rename(old)
    _file(old, b"x" * 5000)
    os.truncate(old, 0)
    assert _kept(gateway) == set()


def test_shadow_mode_keeps_nothing_and_counts(unmounted: Gateway) -> None:
    """[policy-5]."""
    with unmounted.mounted("-o", "trash.mode=shadow"):
        _file(unmounted.path / "d" / "f").unlink()
        (unmounted.path / "d").rmdir()
        assert _kept(unmounted) == set()
        assert unmounted.metric('trash_bypasses_total{reason="shadow"}') == 2


@pytest.fixture
def precious(gateway: Gateway) -> Path:
    """Return a protected directory with a file and a directory in it."""
    directory = gateway.path / "precious"
    _file(directory / "sub" / "f", b"content")
    os.setxattr(directory, "user.cephfs_ext.protect", b"1")
    return directory


def test_nothing_below_a_protected_directory_goes(gateway: Gateway, precious: Path) -> None:
    """[protect-1]."""
    file, other = precious / "sub" / "f", _file(gateway.path / "other")
    (precious / "sub" / "empty").mkdir()
    attempts = [
        lambda: os.unlink(file),
        lambda: os.rmdir(precious / "sub" / "empty"),
        lambda: os.rename(file, gateway.path / "away"),
        lambda: os.rename(file, precious / "sub" / "g"),
        lambda: os.rename(other, file),
        lambda: os.rename(precious / "sub", gateway.path / ".trashbin" / "sub"),
        lambda: os.truncate(file, 0),
        lambda: os.truncate(file, 3),
        lambda: os.close(os.open(file, os.O_WRONLY)),
        lambda: os.close(os.open(file, os.O_RDWR)),
        lambda: os.close(os.open(file, os.O_WRONLY | os.O_TRUNC)),
    ]
    for attempt in attempts:
        with pytest.raises(PermissionError):
            attempt()
    assert file.read_bytes() == b"content"
    assert (precious / "sub" / "empty").is_dir()


def test_new_files_can_be_made_there(precious: Path) -> None:
    """[protect-1]."""
    _file(precious / "sub" / "new", b"more")
    assert (precious / "sub" / "new").read_bytes() == b"more"


def test_protection_ends_with_the_mark(gateway: Gateway, precious: Path) -> None:
    """[protect-2]."""
    os.removexattr(precious, "user.cephfs_ext.protect")
    (precious / "sub" / "f").unlink()
    assert _kept(gateway) == {"precious/sub/f"}


def test_directory_itself_obeys_the_one_above(gateway: Gateway, precious: Path) -> None:
    """[protect-2]: the marked directory itself may be moved, with the mark on it."""
    precious.rename(gateway.path / "moved")
    time.sleep(_MARKS_S)
    with pytest.raises(PermissionError):
        os.unlink(gateway.path / "moved" / "sub" / "f")
