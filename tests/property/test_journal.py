"""Journal lines: read back as they were written, whatever a crash has left of them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.property.profiles import pure
from tests.property.values import fates, json_values, records
from trashbin import layout
from trashbin.journal import Fate, Record, parse_fate, parse_line


@pure
@given(records)
def test_line_is_read_back(record: Record) -> None:
    line = record.line()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert parse_line(line) == record


@pure
@given(st.lists(records, min_size=1, max_size=4), st.data())
def test_torn_file_loses_the_torn_line_only(written: list[Record], data: st.DataObject) -> None:
    """A crash leaves the file at any length; what another run writes comes behind an empty line."""
    whole = b"".join(record.line() for record in written)
    size = data.draw(st.integers(0, len(whole)))
    torn = whole[:size] + b"\n" + written[0].line()
    read = [record for line in torn.splitlines() if (record := parse_line(line)) is not None]
    complete = whole[:size].count(b"\n")
    cut_at_the_newline = whole[size : size + 1] == b"\n"
    expected = written[: complete + cut_at_the_newline] + written[:1]
    assert read == expected


@pure
@given(st.binary(max_size=300))
def test_garbage_is_no_record(raw: bytes) -> None:
    assert parse_line(raw) is None


def test_deep_garbage_is_no_record() -> None:
    assert parse_line(b"[" * 100_000) is None


@pure
@given(records, st.data())
def test_line_with_any_value_in_a_field_is_sound_or_nothing(
    record: Record, data: st.DataObject
) -> None:
    fields = json.loads(record.line())
    key = data.draw(st.sampled_from(sorted(fields)))
    fields[key] = data.draw(json_values)
    read = parse_line(json.dumps(fields).encode())
    if read is not None:
        assert layout.parse_id(read.id) is not None
        assert parse_line(read.line()) == read


@pure
@given(records, st.text(min_size=1, max_size=8).map("new-".__add__), json_values)
def test_field_of_a_newer_version_is_ignored(record: Record, key: str, value: object) -> None:
    fields = json.loads(record.line())
    fields[key] = value
    assert parse_line(json.dumps(fields).encode()) == record


_OLDEST = ("id", "path", "uid", "gid", "pid", "command", "kind", "ino", "parent_token", "path_raw")


@pure
@given(records)
def test_line_of_an_older_version_lacks_what_came_later(record: Record) -> None:
    fields = {key: value for key, value in json.loads(record.line()).items() if key in _OLDEST}
    read = parse_line(json.dumps(fields).encode())
    assert read is not None
    assert (read.id, read.path, read.uid) == (record.id, record.path, record.uid)
    assert (read.parent, read.owner, read.size, read.event, read.why) == (0, None, None, "", "")


@pure
@given(fates)
def test_fate_is_read_back(fate: Fate) -> None:
    line = fate.line()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert parse_fate(line) == fate


@pure
@given(records, fates)
def test_neither_is_taken_for_the_other(record: Record, fate: Fate) -> None:
    """Who reads what is in the trash sees no line of what became of it, and the other way round."""
    assert parse_line(fate.line()) is None
    assert parse_fate(record.line()) is None


@pure
@given(fates, st.data())
def test_fate_with_any_value_in_a_field_is_sound_or_nothing(
    fate: Fate, data: st.DataObject
) -> None:
    fields = json.loads(fate.line())
    key = data.draw(st.sampled_from(sorted(fields)))
    fields[key] = data.draw(json_values)
    read = parse_fate(json.dumps(fields).encode())
    if read is not None:
        assert parse_fate(read.line()) is not None


@pure
@given(st.binary(max_size=300))
def test_garbage_is_no_fate(raw: bytes) -> None:
    assert parse_fate(raw) is None
