"""Tombstones and plans: written and read back, and what is damaged is told from what isn't."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.property.profiles import pure
from tests.property.values import json_values, plans, tombs
from trashbin import layout
from trashbin.names import is_name
from trashbin.runs import Plan, decode_plan
from trashbin.tombs import Tomb, decode

_PATH_MAX = 4096


@pure
@given(tombs())
def test_tombstone_is_read_back(tomb: Tomb) -> None:
    assert decode(tomb.encode()) == tomb


@pure
@given(tombs(), plans())
def test_encoded_has_no_nul_that_a_symlink_could_not_hold(tomb: Tomb, plan: Plan) -> None:
    assert b"\0" not in tomb.encode()
    assert b"\0" not in plan.encode()


@pure
@given(st.binary(max_size=400))
def test_garbage_is_no_tombstone_and_no_plan(raw: bytes) -> None:
    assert decode(raw) is None
    assert decode_plan(raw) is None


def test_deep_garbage_is_no_tombstone_and_no_plan() -> None:
    raw = b"[" * 100_000
    assert decode(raw) is None
    assert decode_plan(raw) is None


@pure
@given(tombs(), st.integers(0, 400))
def test_torn_tombstone_is_damaged(tomb: Tomb, size: int) -> None:
    raw = tomb.encode()
    assert decode(raw[: min(size, len(raw) - 1)]) is None


@pure
@given(tombs(), st.data())
def test_tombstone_with_any_value_in_a_field_is_sound_or_damaged(
    tomb: Tomb, data: st.DataObject
) -> None:
    fields = _with_another_value(tomb.encode(), data)
    read = decode(json.dumps(fields).encode())
    if read is not None:
        assert is_name(read.name)
        assert decode(read.encode()) == read
        assert (read.kind == "dir") == (read.mode & 0o170000 == 0o040000)


@pure
@given(plans())
def test_plan_is_read_back(plan: Plan) -> None:
    assert decode_plan(plan.encode()) == plan
    assert len(plan.encode()) < _PATH_MAX


@pure
@given(plans())
def test_plan_knows_its_entry(plan: Plan) -> None:
    assert plan.entry is not None
    assert (plan.entry.hour, plan.entry.path) == (plan.hour, plan.path)


@pure
@given(plans(), st.data())
def test_plan_with_any_value_in_a_field_is_sound_or_damaged(
    plan: Plan, data: st.DataObject
) -> None:
    fields = _with_another_value(plan.encode(), data)
    read = decode_plan(json.dumps(fields).encode())
    if read is not None:
        assert layout.parse_shard(read.above) is not None
        assert read.entry is not None
        assert is_name(read.target_name)
        assert decode_plan(read.encode()) == read


def _with_another_value(raw: bytes, data: st.DataObject) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(raw)
    key = data.draw(st.sampled_from(sorted(fields)))
    if data.draw(st.booleans()):
        del fields[key]
    else:
        fields[key] = data.draw(json_values)
    return fields
