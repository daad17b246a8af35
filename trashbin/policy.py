"""Policy: what is worth keeping, decided by rules and marks. Pure.

Rules are data. The first one whose every condition holds decides; without one a thing is kept.
A mark on a directory (`user.cephfs_ext.trash` = `on` or `off`), its own or that of the nearest
directory above that has one, comes before all rules.

A pattern without `/` is matched against every component of a path, so that `__pycache__` means
what is in it, too. One with `/` is matched from the served root: `*` is part of one component,
`**` any number of them, and what it matches stands for all below it.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import stat
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cephfs_ext.core.config import PolicyRule
from trashbin.layout import USUAL, Term

MARK = b"user.cephfs_ext.trash"

DEFAULT_RULES = (
    PolicyRule(name="bytecode", match=("__pycache__",), keep=False),
    PolicyRule(name="core-dumps", match=("core.[0-9]*",), larger_than_bytes=1 << 20, keep=False),
    PolicyRule(
        name="editor-swap",
        match=(".*.sw[a-p]", ".sw[a-p]", ".#*", "4913"),
        keep=False,
    ),
    PolicyRule(name="empty-locks", match=("*.lock", "*.lck"), smaller_than_bytes=1, keep=False),
    PolicyRule(name="temporary", match=("*.tmp", "*.temp", ".~lock.*"), keep=False),
    PolicyRule(name="left-by-network", match=(".nfs[0-9a-f]*", ".fuse_hidden*"), keep=False),
)
"""For a platform on which programs are built and models trained."""


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A thing that is about to go."""

    path: bytes
    """Relative to the served root."""
    mode: int
    size_bytes: int
    mtime_ns: int
    owner_uid: int
    mark: str = ""
    """The nearest mark: `on`, `off`, or nothing."""


class Decision(NamedTuple):
    """Whether something is kept, and why."""

    keep: bool
    rule: str
    """Name of the rule, `mark`, or nothing where none applied."""
    why: str
    term: Term = USUAL
    """How long it is kept, if it is."""


def term_of(rule: PolicyRule) -> Term:
    """Return how long a rule has things kept."""
    return Term(None if rule.retention_s is None else int(rule.retention_s), rule.versions)


def terms(rules: Iterable[PolicyRule]) -> set[Term]:
    """Return the terms that rules ask for, but the usual one."""
    return {term_of(rule) for rule in rules if rule.keep} - {USUAL}


def decide(rules: Sequence[PolicyRule], thing: Candidate, *, now_ns: int) -> Decision:
    """Decide about a thing."""
    if thing.mark == "off":
        return Decision(False, "mark", f"a directory above is marked {MARK.decode()}=off")
    if thing.mark == "on":
        return Decision(True, "mark", f"a directory above is marked {MARK.decode()}=on")
    for rule in rules:
        reasons = _reasons(rule, thing, now_ns)
        if reasons is not None:
            why = "; ".join(reasons) or "it has no condition"
            return Decision(rule.keep, rule.name, why, term_of(rule))
    return Decision(True, "", "no rule applies")


def _reasons(rule: PolicyRule, thing: Candidate, now_ns: int) -> list[str] | None:
    """Return why a rule applies; None if it doesn't."""
    reasons = []
    if rule.match:
        if not _any_of(rule.match).search(thing.path):
            return None
        pattern = next((text for text in rule.match if matches(text, thing.path)), None)
        if pattern is None:
            return None
        reasons.append(f"the path matches {pattern}")
    if rule.owner_uid is not None:
        if thing.owner_uid != rule.owner_uid:
            return None
        reasons.append(f"it belongs to uid {rule.owner_uid}")
    sized = (rule.larger_than_bytes, rule.smaller_than_bytes)
    if sized != (None, None) and not stat.S_ISREG(thing.mode):
        return None
    if rule.larger_than_bytes is not None:
        if thing.size_bytes <= rule.larger_than_bytes:
            return None
        reasons.append(f"it is larger than {rule.larger_than_bytes} bytes")
    if rule.smaller_than_bytes is not None:
        if thing.size_bytes >= rule.smaller_than_bytes:
            return None
        reasons.append(f"it is smaller than {rule.smaller_than_bytes} bytes")
    age_s = (now_ns - thing.mtime_ns) / 1e9
    if rule.younger_than_s is not None:
        if age_s >= rule.younger_than_s:
            return None
        reasons.append(f"it was changed less than {rule.younger_than_s:g} s ago")
    if rule.older_than_s is not None:
        if age_s <= rule.older_than_s:
            return None
        reasons.append(f"it was changed more than {rule.older_than_s:g} s ago")
    return reasons


def names_exempted(rules: Iterable[PolicyRule]) -> list[str]:
    """Return patterns of names: nothing else that rules exempt has a name that fits none of them.

    But for what lies where `may_exempt_any` says so.
    """
    patterns = [pattern for rule in rules if not rule.keep for pattern in rule.match]
    return sorted({pattern.rstrip("/").rpartition("/")[2] for pattern in patterns} - {"**"})


def may_exempt_any(rules: Iterable[PolicyRule], directory: bytes) -> bool:
    """Tell whether what is in a directory may be exempt whatever it is called."""
    anything = directory + b"/\0" if directory else b"\0"
    return any(
        not rule.keep and (not rule.match or any(matches(one, anything) for one in rule.match))
        for rule in rules
    )


def matches(pattern: str, path: bytes) -> bool:
    """Tell whether a pattern matches a path, or a directory above it."""
    expression = _compiled(pattern)
    if "/" not in pattern:
        return any(expression.fullmatch(part) for part in path.split(b"/"))
    return expression.match(path) is not None


@functools.lru_cache(maxsize=1024)
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[bytes]:
    """Compile what is found wherever one of several patterns matches, and hardly elsewhere."""
    each = [
        (b"\\A(?:%s)" if "/" in pattern else b"(?:\\A|(?<=/))(?:%s)(?=/|\\Z)")
        % _compiled(pattern).pattern
        for pattern in patterns
    ]
    return re.compile(b"|".join(each))


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[bytes]:
    if "/" not in pattern:
        return re.compile(_component(pattern).encode())
    parts = ["(?:[^/]+/)*" if p == "**" else _component(p) + "/" for p in pattern.split("/") if p]
    whole = "".join(parts)
    end = "" if whole.endswith(")*") else "(?:/|\\Z)"
    return re.compile((whole.removesuffix("/") + end).encode())


def _component(pattern: str) -> str:
    """Translate a pattern for one component of a path into a regular expression."""
    translated, at = "", 0
    while at < len(pattern):
        end = pattern.find("]", at + 2) if pattern[at] == "[" else -1
        if end > 0:
            chosen = pattern[at + 1 : end].replace("\\", "\\\\")
            translated += f"[^{chosen[1:]}]" if chosen[0] == "!" else f"[{chosen}]"
            at = end
        else:
            wild = {"*": "[^/]*", "?": "[^/]"}
            translated += wild.get(pattern[at], re.escape(pattern[at]))
        at += 1
    return translated
