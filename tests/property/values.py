"""Strategies for what the formats on disk are made of."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from cephfs_ext.core.types import NAME_MAX, Ino, Rank
from trashbin.journal import Fate, Record
from trashbin.layout import HOLD, EntryName, ShardName, Term
from trashbin.names import is_name
from trashbin.runs import Plan
from trashbin.tombs import Tomb

_YEAR_2200_NS = 7_258_118_400_000_000_000

NASTY = (
    b"n" * NAME_MAX,
    b"\xff\xfe",
    b"new\nline",
    b".trashbin",
    b"...",
    b"-rf",
    b"a.b",
    b".new-x",
)
names = (st.binary(min_size=1, max_size=NAME_MAX) | st.sampled_from(NASTY)).filter(is_name)
"""Names as a file system may hold them: any bytes but `/` and NUL, up to 255 of them."""

long_names = st.binary(min_size=200, max_size=NAME_MAX).filter(is_name)
paths = st.lists(names, min_size=1, max_size=4).map(b"/".join)
times_ns = st.integers(0, _YEAR_2200_NS)
instances = st.text("0123456789abcdef", min_size=4, max_size=4)
uids = st.integers(0, 2**32 - 1)
inos = st.integers(1, 2**64 - 1).map(Ino)
ranks = st.integers(0, 9999).map(Rank)
tokens = st.binary(max_size=128)
modes = st.integers(0, 0o7777)
sizes = st.integers(0, 2**63)
stamps_ns = st.integers(-(2**62), 2**62)

terms = st.just(HOLD) | st.builds(
    Term,
    st.none() | st.integers(0, 10**10 - 1),
    st.none() | st.integers(1, 9999),
    is_held=st.booleans(),
)
shards = st.builds(ShardName, ranks, st.integers(0, 255), terms)
entries = st.builds(EntryName, times_ns, instances, uids, inos, names | long_names)

_xattrs = st.lists(
    st.tuples(st.binary(min_size=1, max_size=64), st.binary(max_size=300)), max_size=4
)


@st.composite
def tombs(draw: st.DrawFn) -> Tomb:
    """Draw a tombstone: of a file's link, or of a directory with attributes."""
    is_dir = draw(st.booleans())
    kind: Any = "dir" if is_dir else "link"
    mode = draw(modes) | (0o040000 if is_dir else draw(st.sampled_from((0o100000, 0o120000))))
    xattrs = tuple(draw(_xattrs)) if is_dir else ()
    numbers = [draw(one) for one in (uids, uids, sizes, stamps_ns)]
    return Tomb(kind, draw(names), draw(inos), draw(tokens), mode, *numbers, xattrs)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw the plan of a restore."""
    entry = draw(entries)
    return Plan(draw(shards).raw, entry.hour, entry.path, draw(inos), draw(tokens), draw(names))


records = st.builds(
    Record,
    id=entries.map(lambda entry: entry.id),
    path=paths,
    uid=uids,
    gid=uids,
    pid=st.integers(0, 2**22),
    command=st.text(max_size=256),
    kind=st.sampled_from(
        ("file", "symlink", "dir", "tree", "link", "replaced", "truncated", "special")
    ),
    ino=inos,
    parent_token=tokens,
    parent=inos,
    owner=st.none() | uids,
    size=st.none() | sizes,
    event=st.just("") | entries.map(lambda entry: entry.id),
    host=st.text(max_size=64),
    pod=st.text(max_size=36),
    container=st.text(max_size=12),
    why=st.sampled_from(("", "policy", "special", "small", "now")),
    rule=st.text(max_size=20),
)

_trees = st.builds(
    Fate,
    what=st.sampled_from(("restored", "purged")),
    at_ns=times_ns,
    host=st.text(max_size=64),
    id=entries.map(lambda entry: entry.id),
    began_ns=times_ns,
    path=paths | st.just(b""),
    uid=uids,
    to=paths | st.just(b""),
)
_hours = st.builds(
    Fate,
    what=st.just("expired"),
    at_ns=times_ns,
    host=st.text(max_size=64),
    hour=entries.map(lambda entry: entry.hour.decode()),
)
fates = _trees | _hours

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
"""Anything that JSON can say: what a field may hold in a file that is damaged, or not ours."""
