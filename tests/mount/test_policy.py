"""Policy, marks and protection on real mounts: docs/semantics.md, [policy-1] to [protect-2]."""

from __future__ import annotations

import datetime
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cephfs_ext.core.errors import ExitCode
from tests.commands import run_as
from tests.gateway import Gateway, posix_gateway
from tests.waiting import wait_until

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


@pytest.mark.parametrize("how", ["unlink", "replace", "rm -r"])
def test_exempt_name_never_takes_what_a_tombstone_promises(gateway: Gateway, how: str) -> None:
    """[link-4], [policy-1]: the last name of what has been deleted by another one."""
    path = _file(gateway.path / "d" / "model.tmp", b"weights" * 1000)
    os.link(path, gateway.path / "model")
    (gateway.path / "model").unlink()
    assert os.listxattr(path) == []
    if how == "unlink":
        path.unlink()
    elif how == "replace":
        _file(gateway.path / "new").rename(path)
    else:
        subprocess.run(["rm", "-r", str(path.parent)], check=True)
    gateway.run("trash", "restore", str(gateway.path / "model"), check=True)
    assert (gateway.path / "model").read_bytes() == b"weights" * 1000


def test_inode_forgets_a_promise_that_has_been_kept(base: Path) -> None:
    """[link-4]: by the attribute that docs/format.md names."""
    gateway = posix_gateway(base)
    behind = base / "source" / "other"
    with gateway.mounted():
        _file(gateway.path / "name")
        os.link(gateway.path / "name", gateway.path / "other")
        (gateway.path / "name").unlink()
        assert os.listxattr(behind) == ["trusted.cephfs_ext.promised"]
        gateway.run("trash", "restore", str(gateway.path / "name"), check=True)
        assert os.listxattr(behind) == []


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


_KEPT_MORE_OR_LESS = """
[[trash.policy]]
name = "checkpoints"
match = ["*.ckpt"]
versions = 2

[[trash.policy]]
name = "logs"
match = ["logs/**"]
retention_s = "1h"

[[trash.policy]]
name = "results"
match = ["results/**"]
retention_s = "30d"
"""


@pytest.fixture
def ruled(unmounted: Gateway, base: Path) -> Iterator[Gateway]:
    """Return a gateway with rules for how long things are kept."""
    config = base / "config.toml"
    config.write_text(_KEPT_MORE_OR_LESS)
    with unmounted.mounted("--config", str(config), "-o", "trash.expire_interval_s=1"):
        yield unmounted


def _days_kept(item: dict[str, Any]) -> float:
    expires = datetime.datetime.fromisoformat(item["expires_at"])
    return (expires.timestamp() - item["deleted_ns"] / 1e9) / 86400


def test_rule_says_how_long_something_is_kept(ruled: Gateway) -> None:
    """[policy-6]: files, names of hard links, replaced files, trees."""
    for name in ("results/a", "results/b", "results/d/e", "logs/x", "other"):
        _file(ruled.path / name, b"x" * 5000)
    os.link(ruled.path / "results/a", ruled.path / "results/hard")
    (ruled.path / "results/hard").unlink()
    (ruled.path / "results/a").rename(ruled.path / "results/b")
    os.truncate(ruled.path / "results/b", 0)
    (ruled.path / "results/d").rename(ruled.path / ".trashbin" / "d")
    for name in ("logs/x", "other"):
        (ruled.path / name).unlink()
    kept = {(item["path"], item["kind"]): round(_days_kept(item)) for item in ruled.trash()}
    assert kept == {
        ("results/hard", "link"): 30,
        ("results/b", "file"): 30,
        ("results/d", "dir"): 30,
        ("logs/x", "file"): 0,
        ("other", "file"): 7,
    }


def test_what_a_rule_keeps_comes_back(ruled: Gateway) -> None:
    """[policy-6]."""
    _file(ruled.path / "results/t/a", b"a")
    os.link(ruled.path / "results/t/a", ruled.path / "results/t/b")
    subprocess.run(["rm", "-r", str(ruled.path / "results/t")], check=True)
    ruled.run("trash", "restore", str(ruled.path / "results/t"), check=True)
    assert (ruled.path / "results/t/a").read_bytes() == b"a"
    assert (ruled.path / "results/t/b").stat().st_nlink == 2


def test_newest_versions_are_kept(ruled: Gateway) -> None:
    """[policy-7]: of each name in each directory, however it went."""
    for version in range(5):
        for name in ("one/m.ckpt", "two/m.ckpt"):
            _file(ruled.path / name, b"%d" % version * 5000)
            (ruled.path / name).unlink()
        _file(ruled.path / "new", b"%d" % version * 5000).rename(ruled.path / "over.ckpt")
    wanted = {"one/m.ckpt": 2, "two/m.ckpt": 2, "over.ckpt": 2}
    wait_until(
        lambda: Counter(item["path"] for item in ruled.trash()) == wanted, ruled.trash, within_s=60
    )
    for name in wanted:
        if name == "over.ckpt":
            continue
        ruled.run("trash", "restore", str(ruled.path / name), check=True)
        assert (ruled.path / name).read_bytes() == b"4" * 5000


def test_each_term_expires_by_itself(base: Path) -> None:
    """[policy-6]: what a rule keeps shorter goes earlier, what it keeps longer stays."""
    gateway = posix_gateway(base)
    config = base / "config.toml"
    config.write_text(_KEPT_MORE_OR_LESS)
    with gateway.mounted("--config", str(config)):
        for name in ("results/a", "logs/x", "other"):
            _file(gateway.path / name).unlink()
    trash = base / "source" / ".trashbin"
    when = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=10)
    for hour in trash.glob("r0.*/20*"):
        hour.rename(hour.with_name(when.strftime("%Y-%m-%dT%H")))
    with gateway.mounted("--config", str(config), "-o", "trash.expire_interval_s=1"):

        def is_over() -> bool:
            expired = gateway.metric('trash_expired_total{kind="hours"}')
            return expired >= 2 and not os.listdir(trash / "purging")

        wait_until(is_over, within_s=60)
    left = [path.name.rpartition(".")[2] for path in trash.glob("r0.*/20*/*")]
    assert left == ["a"]


def test_gateway_sees_what_another_one_keeps_by_its_rules(
    ruled: Gateway, request: pytest.FixtureRequest
) -> None:
    """[policy-6]: a term of which it has no rule."""
    is_ceph = ruled.source.startswith("ceph:")
    conf = request.getfixturevalue("cluster").conf if is_ceph else None
    other = Gateway(ruled.source, ruled.path.with_name("other"), ruled.runtime, conf=conf)
    with other.mounted():
        assert other.trash() == []
        ruled.umount()
        config = ruled.path.with_name("config.toml")
        config.write_text('[[trash.policy]]\nname = "all"\nretention_s = "3d"\n')
        with ruled.mounted("--config", str(config)):
            _file(ruled.path / "f", b"content").unlink()
            # its record is written a moment later
            wait_until(lambda: _kept(other) == {"f"}, other.trash, within_s=30)
            assert other.json("trash", "ls", str(other.path))["damaged"] == []
            other.run("trash", "restore", str(other.path / "f"), check=True)
            assert (other.path / "f").read_bytes() == b"content"
        ruled.mount()


def _explained(gateway: Gateway, path: Path) -> tuple[object, ...]:
    answer = gateway.json("trash", "explain", str(path))
    keys = ("kept", "reason", "rule", "retention_s", "versions", "protected")
    return tuple(answer[key] for key in keys)


def test_explain_says_what_a_delete_would_do(ruled: Gateway) -> None:
    """[explain-1]."""
    day_s = 86400.0
    expected = {
        "results/a.tmp": (True, "", "results", 30 * day_s, None, False),
        "a.tmp": (False, "policy", "temporary", None, None, False),
        "m.ckpt": (True, "", "checkpoints", 7 * day_s, 2, False),
        "off/f": (False, "policy", "mark", None, None, False),
        "precious/f": (True, "", "", 7 * day_s, None, True),
        "plain": (True, "", "", 7 * day_s, None, False),
    }
    for name in expected:
        _file(ruled.path / name)
    os.setxattr(ruled.path / "off", "user.cephfs_ext.trash", b"off")
    os.setxattr(ruled.path / "precious", "user.cephfs_ext.protect", b"1")
    os.mkfifo(ruled.path / "fifo")
    expected["fifo"] = (False, "special", "", None, None, False)
    assert {name: _explained(ruled, ruled.path / name) for name in expected} == expected
    text = ruled.run("trash", "explain", str(ruled.path / "a.tmp"), check=True).stdout
    assert text == "really removed [policy]: the path matches *.tmp (rule temporary)\n"
    for name, path in {name: ruled.path / name for name in expected}.items():
        assert path.exists() or name == "fifo"


def test_explain_shows_nothing_that_its_caller_may_not_look_up(ruled: Gateway) -> None:
    """[explain-1]: it walks with the rights of who asks."""
    secret = _file(ruled.path / "secret" / "f")
    secret.parent.chmod(0o700)
    done = run_as(1001, *ruled.command("trash", "explain", str(secret)))
    assert done.returncode == ExitCode.DENIED, done
    missing = ruled.run("trash", "explain", str(ruled.path / "nothing"))
    assert missing.returncode == ExitCode.NOT_FOUND, missing
    root = ruled.run("trash", "explain", str(ruled.path))
    assert root.returncode == ExitCode.DENIED, root


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
