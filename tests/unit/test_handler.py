"""The guard around FUSE handlers: what it lets through, counts, and has the log say."""

from __future__ import annotations

import errno
import io
import json
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import pyfuse3
import pytest
import trio

from cephfs_ext.core.errors import FullError
from cephfs_ext.fuse.handler import handler
from cephfs_ext.fuse.operations import Operations
from cephfs_ext.observe.logs import JsonFormatter, TextFormatter, current_request
from cephfs_ext.observe.metrics import PrometheusMeter
from cephfs_ext.vfs.requests import Requests

_log = logging.getLogger("tests.handler")


class Context(NamedTuple):
    """What FUSE says of a caller."""

    uid: int = 1000
    gid: int = 1000
    pid: int = 42


class Handlers:
    """Handlers that do what they are told."""

    def __init__(self) -> None:
        self.meter = PrometheusMeter("1")
        self.requests = Requests()
        self.step: Callable[[], None] = lambda: None

    @handler
    async def lookup(self, parent: int, name: bytes, ctx: Context) -> int:
        self.step()
        return parent

    @handler
    async def getattr(self, node_id: int, ctx: Context) -> None:
        await trio.to_thread.run_sync(self.step)

    @handler
    async def write(self, fh: int, off: int, buf: bytes) -> None:
        self.step()

    @handler
    async def statfs(self, ctx: Context) -> None:
        self.step()


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Return what was logged since the last call."""
    stream = io.StringIO()
    to_stream = logging.StreamHandler(stream)
    to_stream.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(to_stream)

    def taken() -> list[dict[str, Any]]:
        text = stream.getvalue()
        stream.seek(0)
        stream.truncate()
        return [json.loads(line) for line in text.splitlines()]

    yield taken
    logging.getLogger().removeHandler(to_stream)


def run(call: Coroutine[Any, Any, Any]) -> Any:
    async def awaited() -> Any:
        return await call

    return trio.run(awaited)


def fails(call: Coroutine[Any, Any, Any]) -> int:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        run(call)
    number: int = caught.value.errno
    return number


def test_what_works_goes_through(handlers: Handlers) -> None:
    assert run(handlers.lookup(7, b"x", Context())) == 7


def test_documented_failure_is_its_errno_and_no_line(
    handlers: Handlers, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    def full() -> None:
        raise FullError(errno.EDQUOT)

    handlers.step = full
    assert fails(handlers.lookup(7, b"x", Context())) == errno.EDQUOT
    assert lines() == []
    text = handlers.meter.expose()[0].decode()
    assert 'fuse_op_errors_total{errno="EDQUOT",op="lookup"} 1.0' in text


def test_bug_is_eio_a_counter_and_a_line_that_says_which_request(
    handlers: Handlers, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    """[durability-5]."""

    def bug() -> None:
        raise ZeroDivisionError("odd")

    handlers.step = bug
    assert fails(handlers.lookup(7, b"x", Context())) == errno.EIO
    (line,) = lines()
    assert line["msg"] == "a bug in lookup"
    assert line["traceback"].endswith("ZeroDivisionError: odd")
    assert (line["op"], line["ino"], line["uid"], line["pid"]) == ("lookup", 7, 1000, 42)
    assert 'fuse_bugs_total{op="lookup"} 1.0' in handlers.meter.expose()[0].decode()


def warn() -> None:
    _log.warning("slow")


def test_warning_says_which_request(
    handlers: Handlers, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    handlers.step = warn
    run(handlers.lookup(7, b"x", Context()))
    run(handlers.getattr(8, Context(uid=0, pid=0)))  # from a worker thread
    run(handlers.write(9, 0, b"data"))
    run(handlers.statfs(Context()))
    common = {"ts", "level", "logger", "msg"}
    fields = [{key: line[key] for key in line if key not in common} for line in lines()]
    assert fields == [
        {"op": "lookup", "ino": 7, "uid": 1000, "pid": 42},
        {"op": "getattr", "ino": 8, "uid": 0, "pid": 0},
        {"op": "write", "fh": 9},
        {"op": "statfs", "uid": 1000, "pid": 42},
    ]


def test_nothing_is_kept_after_the_reply(handlers: Handlers) -> None:
    async def both() -> None:
        await handlers.write(9, 0, b"a large buffer")
        assert current_request.get(None) is None

    trio.run(both)


def test_text_for_people_has_the_fields(handlers: Handlers) -> None:
    said: list[str] = []

    def format_a_line() -> None:
        record = logging.makeLogRecord({"name": "a", "levelname": "INFO", "msg": "slow"})
        said.append(TextFormatter().format(record))

    handlers.step = format_a_line
    run(handlers.lookup(7, b"x", Context()))
    assert said[0].endswith("INFO a: slow op=lookup ino=7 uid=1000 pid=42")


def test_every_handler_says_what_it_works_on() -> None:
    for name, function in vars(Operations).items():
        if hasattr(function, "__wrapped__") and name != "statfs":
            first, *_ = function.__wrapped__.__code__.co_varnames[1:]
            assert first in ("parent", "node_id", "fh"), name
