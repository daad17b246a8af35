"""Rules decide what is kept: [policy-1] to [policy-4]."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cephfs_ext.core.config import PolicyRule, load_config
from cephfs_ext.core.errors import ExitCode, UserError
from trashbin.policy import DEFAULT_RULES, Candidate, decide, matches

_NOW = 1_800_000_000 * 10**9


def thing(path: bytes, *, size: int = 10, age_s: float = 100, uid: int = 7, mark: str = ""):
    mtime = _NOW - int(age_s * 1e9)
    return Candidate(path, stat.S_IFREG | 0o644, size, mtime, uid, mark)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.tmp", b"a/b.tmp", True),
        ("*.tmp", b"a/b.tmpx", False),
        ("*.tmp", b"a.tmp/b", True),
        ("__pycache__", b"a/__pycache__/x.pyc", True),
        ("data/*/raw", b"data/x/raw/file", True),
        ("data/*/raw", b"data/x/y/raw/file", False),
        ("data/**/raw", b"data/x/y/raw", True),
        ("data/**/raw", b"data/raw/file", True),
        ("/scratch/**", b"scratch/x", True),
        ("/scratch/**", b"scratchy/x", False),
        ("/scratch/**", b"a/scratch/x", False),
        ("**/tmp/*.o", b"a/b/tmp/x.o", True),
        ("**/tmp/*.o", b"tmp/x.o", True),
        ("a/b", b"a/bc", False),
        ("core.[0-9]*", b"core.123", True),
        ("core.[!0-9]*", b"core.123", False),
        ("?", b"\xff", True),
        ("*", b"\n", True),
        ("a.c", b"abc", False),
        ("[", b"[", True),
    ],
)
def test_patterns(pattern: str, path: bytes, expected: bool) -> None:
    assert matches(pattern, path) is expected


def test_first_rule_that_applies_decides() -> None:
    rules = (
        PolicyRule("results", keep=True, match=("results/**",)),
        PolicyRule("logs", keep=False, match=("*.log",)),
    )
    assert decide(rules, thing(b"results/train.log"), now_ns=_NOW).rule == "results"
    assert not decide(rules, thing(b"x/train.log"), now_ns=_NOW).keep
    assert decide(rules, thing(b"x/train.txt"), now_ns=_NOW).keep


@pytest.mark.parametrize(
    ("rule", "applies"),
    [
        (PolicyRule("r", False, larger_than_bytes=9), True),
        (PolicyRule("r", False, larger_than_bytes=10), False),
        (PolicyRule("r", False, smaller_than_bytes=11), True),
        (PolicyRule("r", False, smaller_than_bytes=10), False),
        (PolicyRule("r", False, younger_than_s=101), True),
        (PolicyRule("r", False, younger_than_s=100), False),
        (PolicyRule("r", False, older_than_s=99), True),
        (PolicyRule("r", False, older_than_s=100), False),
        (PolicyRule("r", False, owner_uid=7), True),
        (PolicyRule("r", False, owner_uid=8), False),
        (PolicyRule("r", False, owner_uid=7, match=("y",)), False),
        (PolicyRule("r", False), True),
    ],
)
def test_every_condition_has_to_hold(rule: PolicyRule, applies: bool) -> None:
    assert decide((rule,), thing(b"x"), now_ns=_NOW).keep is not applies


def test_sizes_are_asked_of_files_only() -> None:
    directory = Candidate(b"d", stat.S_IFDIR | 0o755, 0, _NOW, 7)
    rule = PolicyRule("small", keep=False, smaller_than_bytes=1)
    assert decide((rule,), directory, now_ns=_NOW).keep


def test_mark_comes_before_all_rules() -> None:
    rules = (PolicyRule("all", keep=False),)
    assert decide(rules, thing(b"x", mark="on"), now_ns=_NOW).keep
    assert not decide((), thing(b"x", mark="off"), now_ns=_NOW).keep


@pytest.mark.parametrize(
    "path",
    [b"p/__pycache__/m.cpython-311.pyc", b"src/.main.c.swp", b"a/b.tmp", b"x/.nfs00a1"],
)
def test_defaults_leave_out_what_nobody_misses(path: bytes) -> None:
    assert not decide(DEFAULT_RULES, thing(path), now_ns=_NOW).keep


@pytest.mark.parametrize(
    "path",
    [
        b"train.py",
        b"ckpt/model.pt",
        b"core.py",
        b"poetry.lock",
        b"tmp/data.csv",
        b".env",
        b"#draft#",
    ],
)
def test_defaults_keep_what_is_work(path: bytes) -> None:
    assert decide(DEFAULT_RULES, thing(path, size=5000), now_ns=_NOW).keep


def test_defaults_leave_out_core_dumps_but_not_what_is_called_alike() -> None:
    assert not decide(DEFAULT_RULES, thing(b"core.4711", size=1 << 30), now_ns=_NOW).keep
    assert decide(DEFAULT_RULES, thing(b"core.4711", size=100), now_ns=_NOW).keep


def _load(tmp_path, text: str):
    file = tmp_path / "c.toml"
    file.write_text(text)
    return load_config(str(file), environment={}).config.trash.policy


def test_rules_come_from_the_file(tmp_path) -> None:
    rules = _load(
        tmp_path,
        '[[trash.policy]]\nname = "scratch"\nkeep = false\nmatch = ["scratch/**"]\n'
        'older_than_s = "7d"\nlarger_than_bytes = 5\n',
    )
    assert rules == (
        PolicyRule("scratch", False, ("scratch/**",), larger_than_bytes=5, older_than_s=604800.0),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[trash.policy]]\nkeep = false\n", "rule 1 needs a name"),
        ('[[trash.policy]]\nname = "r"\nmtach = ["x"]\n', "did you mean match?"),
        ('[[trash.policy]]\nname = "r"\nmatch = "x"\n', "no list of patterns"),
        ('[[trash.policy]]\nname = "r"\nolder_than_s = "soon"\n', "no duration"),
        ('[[trash.policy]]\nname = "r"\nkeep = 3\n', "neither true nor false"),
        ('[trash]\npolicy = "x"\n', "[[trash.policy]]"),
    ],
)
def test_wrong_rule_is_named(tmp_path, text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        _load(tmp_path, text)
    assert says in str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE


_pieces = st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]", ".", "/", "\n"])


@given(st.lists(st.lists(_pieces, min_size=1, max_size=5).map("".join), min_size=1, max_size=4),
       st.text("ab/.\n", max_size=8))  # fmt: skip
def test_looking_for_several_patterns_at_once_misses_none(patterns: list[str], path: str) -> None:
    rule = PolicyRule("any", keep=False, match=tuple(patterns))
    thing = Candidate(path.encode(), stat.S_IFREG, 0, 0, 0, "")
    fits = any(matches(pattern, thing.path) for pattern in patterns)
    assert decide([rule], thing, now_ns=0).keep != fits
