"""The table of metrics: what it says, who fills it, and that operations.md has the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cephfs_ext.core.ports import Meter
from cephfs_ext.fuse.operations import Operations
from cephfs_ext.observe.metrics import LOOPS, OPERATIONS, TABLE, PrometheusMeter

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("cephfs_ext", "trashbin", "asyncdelete")
_ROWS = {row.name: row for row in TABLE}
_LONGEST_LIST = 12
"""Values of a label that operations.md spells out."""


@pytest.fixture
def meter() -> PrometheusMeter:
    return PrometheusMeter("1.2.3")


def exposed(meter: PrometheusMeter) -> dict[str, float]:
    """Return every sample under the name that Prometheus gets, without the prefix."""
    lines = meter.expose()[0].decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name.removeprefix("cephfs_ext_"): float(value) for name, _, value in samples}


def test_is_a_meter(meter: PrometheusMeter) -> None:
    port: Meter = meter
    port.count("trash_moves_total", kind="file")
    port.count("io_bytes_total", 4096, direction="read")
    port.set("nodes", 7)
    port.observe("fuse_op_duration_seconds", 0.002, op="lookup")
    samples = exposed(meter)
    assert samples['trash_moves_total{kind="file"}'] == 1
    assert samples['io_bytes_total{direction="read"}'] == 4096
    assert samples["nodes"] == 7
    assert samples['fuse_op_duration_seconds_count{op="lookup"}'] == 1
    assert samples['fuse_op_duration_seconds_bucket{le="0.001",op="lookup"}'] == 0
    assert samples['fuse_op_duration_seconds_bucket{le="0.0025",op="lookup"}'] == 1


def test_nothing_is_global(meter: PrometheusMeter) -> None:
    meter.count("journal_records_total")
    assert exposed(PrometheusMeter("1.2.3"))["journal_records_total"] == 0


def test_build_info(meter: PrometheusMeter) -> None:
    assert exposed(meter)['build_info{version="1.2.3"}'] == 1


def test_zero_from_the_start(meter: PrometheusMeter) -> None:
    samples = exposed(meter)
    for row in TABLE:
        if row.kind == "histogram" or len(row.labels) > 1 or row.name == "build_info":
            continue
        for value in row.labels[0][1] if row.labels else [None]:
            labels = "" if value is None else f'{{{row.labels[0][0]}="{value}"}}'
            assert samples[row.name + labels] == 0


def test_value_outside_of_the_set_is_other(meter: PrometheusMeter) -> None:
    meter.count("trash_failures_total", errno="EWEIRD")
    meter.count("fuse_op_errors_total", op="/etc/passwd", errno="ENOENT")
    samples = exposed(meter)
    assert samples['trash_failures_total{errno="other"}'] == 1
    assert samples['fuse_op_errors_total{errno="ENOENT",op="other"}'] == 1
    assert not [name for name in samples if "EWEIRD" in name or "passwd" in name]


def test_metric_that_is_not_in_the_table(meter: PrometheusMeter) -> None:
    with pytest.raises(KeyError):
        meter.count("invented_total")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_names_follow_the_rules(row: NamedTuple) -> None:
    kind, name, text = row[0], row[1], row[2]
    assert re.fullmatch("[a-z_]+", name)
    assert (kind == "counter") == name.endswith("_total")
    assert text.endswith((".", "label."))
    if kind == "histogram":
        assert name.endswith("_seconds")


def test_cardinality_is_bounded(meter: PrometheusMeter) -> None:
    buckets = [name for name in exposed(meter) if name.startswith("fuse_op_duration_seconds_b")]
    assert len(buckets) / len(OPERATIONS) <= 12
    for row in TABLE:
        for label, values in row.labels:
            assert label not in ("path", "uid", "user", "ino", "pod", "pid")
            assert len(values) <= 32


def test_every_handler_is_an_operation() -> None:
    handlers = {name for name, value in vars(Operations).items() if hasattr(value, "__wrapped__")}
    assert {"lookup", "rename", "releasedir"} <= handlers <= set(OPERATIONS)


class Call(NamedTuple):
    """A use of a meter in the sources."""

    where: str
    method: str
    metric: str
    labels: dict[str, str | None]
    """A label's value is None where it isn't written out."""


def calls() -> Iterator[Call]:
    for package in _PACKAGES:
        for file in sorted((_ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and _is_meter(node.func):
                    yield _call(file, node)


def _is_meter(func: ast.expr) -> bool:
    return (
        isinstance(func, ast.Attribute)
        and func.attr in ("count", "observe", "set")
        and ast.unparse(func.value).endswith("meter")
    )


def _call(file: Path, node: ast.Call) -> Call:
    metric = node.args[0]
    assert isinstance(metric, ast.Constant), f"{file}:{node.lineno}: write the name out"
    labels = {
        str(keyword.arg): keyword.value.value if isinstance(keyword.value, ast.Constant) else None
        for keyword in node.keywords
    }
    where = f"{file.relative_to(_ROOT)}:{node.lineno}"
    return Call(where, ast.unparse(node.func).rpartition(".")[2], metric.value, labels)


_CALLS = list(calls())
_METHODS = {"counter": "count", "gauge": "set", "histogram": "observe"}


@pytest.mark.parametrize("call", _CALLS, ids=lambda call: call.where)
def test_what_is_counted_is_in_the_table(call: Call) -> None:
    row = _ROWS[call.metric]
    assert call.method == _METHODS[row.kind]
    assert set(call.labels) == {label for label, _ in row.labels}
    for label, values in row.labels:
        assert call.labels[label] in (None, *values)


def test_what_is_in_the_table_is_counted() -> None:
    assert {call.metric for call in _CALLS} | {"build_info"} == set(_ROWS)


def test_every_loop_of_the_table_runs() -> None:
    sources = "".join(file.read_text() for file in (_ROOT / "cephfs_ext/daemon").glob("*.py"))
    assert set(re.findall(r'(?:repeat|until_done)\(\s*"(\w+)"', sources)) == set(LOOPS)


def test_operations_md_has_the_same_table() -> None:
    text = (_ROOT / "docs/operations.md").read_text().split("## Metrics", 1)[1].split("\n## ", 1)[0]
    documented = re.findall(r"^\| `cephfs_ext_(\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", text, re.M)
    assert documented == [
        (row.name, row.kind, " ".join(_labels(row.labels)) or "–", row.help) for row in TABLE
    ]


def _labels(labels: tuple[tuple[str, tuple[str, ...]], ...]) -> Iterator[str]:
    for label, values in labels:
        short = 1 < len(values) <= _LONGEST_LIST
        yield f"`{label}`: {', '.join(values)}" if short else f"`{label}`"
