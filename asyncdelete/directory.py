"""A directory on a walk's way, and what a pass over it has left there.

No set of names: what was left is remembered as a number of names and the sum of their hashes. If a
later look finds the same, it was all. So memory doesn't grow with what can't be removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from asyncdelete.rights import Verdict
from cephfs_ext.core.ports import Node
from cephfs_ext.core.types import Attr

_MASK = 2**128 - 1
_SPREAD = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835


class Names:
    """Which names there are, as far as two such things can be told apart."""

    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0

    def add(self, name: bytes) -> None:
        """Take a name in; the order doesn't matter. Hashes have a secret of the process in them."""
        self.count += 1
        self.total = (self.total + (hash(name) | 1) * _SPREAD) & _MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Names) and (self.count, self.total) == (other.count, other.total)

    __hash__ = None  # type: ignore[assignment]


class Directory:
    """A directory, from when its name is seen until it is gone or given up.

    Its node is the walk's reference; deep in a tree it may be given back while it isn't used.
    """

    __slots__ = (
        "above",
        "attr",
        "cookie",
        "depth",
        "failed",
        "idle",
        "is_read",
        "left",
        "name",
        "node",
        "passes",
        "removed",
        "users",
        "verdict",
        "waiting",
    )

    def __init__(self, above: Directory | None, name: bytes) -> None:
        self.above = above
        self.name = name
        self.depth: int = 0 if above is None else above.depth + 1
        self.node: Node | None = None
        self.attr: Attr | None = None
        """As it was when it was entered; None before."""
        self.verdict = Verdict.ALL
        self.users = 0
        """How many calls use its node, or are about to."""
        self.waiting = 0
        """Batches and directories of this pass that are not over."""
        self.passes = 0
        self.idle = 0
        """Passes in a row that removed nothing."""
        self.failed: Counter[str] = Counter()
        """Failures of this pass, in it and below it, by errno; what rights forbid: `denied`."""
        self.begin_pass()

    def begin_pass(self) -> None:
        """Read it from the start."""
        self.cookie = 0
        self.is_read = False
        self.removed = False
        """Whether this pass has removed anything."""
        self.left = Names()
        self.failed.clear()

    def and_above(self) -> Iterator[Directory]:
        """Return it, the directory around it, and so on up to the top."""
        here: Directory | None = self
        while here is not None:
            yield here
            here = here.above

    def path(self, name: bytes = b"") -> bytes:
        """Return the path of it, or of a name in it, relative to the top."""
        parts = [one.name for one in self.and_above() if one.above is not None]
        return b"/".join([*reversed(parts), *([name] if name else [])])
