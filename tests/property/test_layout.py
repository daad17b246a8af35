"""Names on disk: whatever is written is read back, and whatever is read does no harm."""

from __future__ import annotations

import datetime

from hypothesis import assume, example, given
from hypothesis import strategies as st

from cephfs_ext.core.types import NAME_MAX, Ino
from tests.property.profiles import pure
from tests.property.values import NASTY, entries, inos, instances, names, shards, terms, times_ns
from trashbin import layout
from trashbin.layout import EntryName, ShardName, Term
from trashbin.names import free_name, is_name

_HOUR_NS = 3_600_000_000_000

raw_names = st.binary(max_size=NAME_MAX) | st.from_regex(
    rb"[0-9a-f]{15,17}\.[0-9a-f]{3,5}\.[0-9a-f]{0,9}\.[0-9a-f]{0,17}(\.[^/\0]{0,8})?",
    fullmatch=True,
)
"""Garbage, and what nearly is an entry."""

_LIKE_SHARDS = rb"r\d{1,5}\.[0-9a-f]{1,3}(\.k\d{0,3})?(\.v\d{0,3})?(\.held)?"


@pure
@given(entries)
def test_entry_is_read_back(entry: EntryName) -> None:
    first, *rest = entry.path
    parsed = layout.parse_entry(first)
    assert parsed is not None
    assert parsed._replace(name=b"".join(rest) or parsed.name) == entry


@pure
@given(entries)
def test_every_component_is_a_name(entry: EntryName) -> None:
    assert all(is_name(component) for component in entry.path)


@pure
@given(entries)
def test_name_is_never_shortened(entry: EntryName) -> None:
    assert entry.path[-1].endswith(entry.name)
    assert (len(entry.path) == 1) == (len(entry.prefix) + 1 + len(entry.name) <= NAME_MAX)


@pure
@given(raw_names)
def test_what_is_read_is_what_would_be_written(raw: bytes) -> None:
    """So what lies under another name than ours is damaged, and not searched for in vain."""
    entry = layout.parse_entry(raw)
    if entry is not None and entry.name:
        assert entry.path == (raw,)
    elif entry is not None:
        assert entry.prefix == raw


@pure
@given(entries, inos)
def test_tombstone_name_is_read_back(entry: EntryName, ino: Ino) -> None:
    raw = layout.tomb_name(entry, ino)
    assert is_name(raw)
    assert layout.parse_tomb(raw) == (entry._replace(name=b""), ino)


@pure
@given(raw_names)
def test_tombstone_name_is_what_would_be_written(raw: bytes) -> None:
    parsed = layout.parse_tomb(raw)
    if parsed is not None:
        assert layout.tomb_name(*parsed) == raw


@pure
@given(entries, entries)
def test_entries_sort_by_time(one: EntryName, other: EntryName) -> None:
    assume(one.deleted_ns != other.deleted_ns)
    assert (one.path[0] < other.path[0]) == (one.deleted_ns < other.deleted_ns)
    assert (one.id < other.id) == (one.deleted_ns < other.deleted_ns)


@pure
@given(entries)
def test_id_is_read_back(entry: EntryName) -> None:
    assert layout.parse_id(entry.id) == (entry.deleted_ns, entry.instance)


@pure
@given(st.text(max_size=40) | entries.map(lambda entry: entry.id + "\n"))
def test_id_is_all_of_the_text(text: str) -> None:
    parsed = layout.parse_id(text)
    assert parsed is None or EntryName(*parsed, 0, Ino(0), b"").id == text


@pure
@given(shards)
def test_shard_is_read_back(shard: ShardName) -> None:
    assert layout.parse_shard(shard.raw) == shard
    assert layout.term_of(shard.raw) == shard.term
    assert layout.has_hours(shard.raw)
    assert not layout.is_tombs(shard.raw)


@pure
@given(terms)
def test_tombs_of_a_term_are_read_back(term: Term) -> None:
    name = layout.tombs_name(term)
    assert layout.term_of(name) == term
    assert layout.has_hours(name)
    assert layout.is_tombs(name)


@pure
@given(st.binary(max_size=20) | st.from_regex(_LIKE_SHARDS, fullmatch=True))
def test_shard_is_what_would_be_written(raw: bytes) -> None:
    parsed = layout.parse_shard(raw)
    assert parsed is None or parsed.raw == raw


@pure
@given(times_ns)
@example(0)
@example(_HOUR_NS - 1)
@example(_HOUR_NS)
@example(1_709_164_800_000_000_000 - 1)  # into a leap day
@example(1_798_761_600_000_000_000 - 1)  # into a year
def test_hour_holds_its_times_and_no_others(time_ns: int) -> None:
    end_s = layout.hour_end_s(layout.hour_name(time_ns))
    assert end_s is not None
    assert end_s * 1_000_000_000 - _HOUR_NS <= time_ns < end_s * 1_000_000_000


@pure
@given(times_ns, times_ns)
def test_hours_sort_by_time(one: int, other: int) -> None:
    assert (layout.hour_name(one) < layout.hour_name(other)) == (
        one // _HOUR_NS < other // _HOUR_NS
    )


@pure
@given(times_ns, st.integers(-500, 500))
def test_hours_can_be_counted(time_ns: int, hours: int) -> None:
    assume(time_ns + hours * _HOUR_NS >= 0)
    expected = layout.hour_name(time_ns + hours * _HOUR_NS)
    assert layout.hour_plus(layout.hour_name(time_ns), hours) == expected


@pure
@given(st.from_regex(rb"\d{4}-\d{2}-\d{2}T\d{2}", fullmatch=True) | st.binary(max_size=16))
def test_hour_that_there_is_not_has_no_end(raw: bytes) -> None:
    end_s = layout.hour_end_s(raw)
    try:
        begin = datetime.datetime.strptime(raw.decode(), "%Y-%m-%dT%H")
    except ValueError:
        assert end_s is None
    else:
        assert begin.year < 1970 or layout.hour_name(int(end_s or 0) * 10**9 - 1) == raw


@pure
@given(times_ns, instances, st.integers(0, 999_999))
def test_journal_is_read_back(time_ns: int, instance: str, part: int) -> None:
    journal = layout.JournalName(layout.hour_name(time_ns), instance, part)
    assert layout.parse_journal(journal.raw) == journal


@pure
@given(names | st.sampled_from(NASTY), st.integers(1, 2_000))
@example(b"n" * 244 + b" (restored)", 1)
@example(b"n" * 242 + b" (restored 2)", 2)
@example(b"\xe2\x98\x83" * 85, 1)
def test_free_name_is_another_name(name: bytes, number: int) -> None:
    other = free_name(name, number)
    assert is_name(other)
    assert other != name


@pure
@given(names, st.integers(1, 999))
def test_free_names_differ(name: bytes, number: int) -> None:
    assert free_name(name, number) != free_name(name, number + 1)


@pure
@given(st.text(min_size=1, max_size=85).map(str.encode).filter(is_name), st.integers(1, 99))
def test_free_name_cuts_no_character(name: bytes, number: int) -> None:
    free_name(name, number).decode()


@pure
@given(names, st.sampled_from((b".txt", b".tar", b".c", b".")))
def test_free_name_keeps_a_short_extension(stem: bytes, extension: bytes) -> None:
    assert free_name(stem[:200] + extension, 1).endswith(extension)
