"""Log lines: what is in them, and where they go."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cephfs_ext.core.config import LogConfig
from cephfs_ext.core.errors import UserError
from cephfs_ext.observe.logs import JsonFormatter, request_fields, setup_logging

_log = logging.getLogger("tests.logs")


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """Give the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield root
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = handlers, level


def formatted(**fields: Any) -> dict[str, Any]:
    record = logging.makeLogRecord({"name": "a.b", "levelname": "INFO", **fields})
    line = JsonFormatter().format(record)
    assert "\n" not in line
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_fields_of_a_line() -> None:
    line = formatted(msg="%d names", args=(3,), created=1_795_513_151.25)
    assert line == {
        "ts": "2026-11-24T09:39:11.250+00:00",
        "level": "info",
        "logger": "a.b",
        "msg": "3 names",
    }
    assert datetime.datetime.fromisoformat(line["ts"]).utcoffset() == datetime.timedelta(0)


def test_newlines_and_odd_bytes_stay_in_the_line() -> None:
    assert formatted(msg="a\nb\x1b[31m\udcff")["msg"] == "a\nb\x1b[31m\udcff"


def test_fields_of_the_request() -> None:
    with request_fields(op="unlink", ino=7, uid=1000, pid=42):
        line = formatted(msg="x")
    assert (line["op"], line["ino"], line["uid"], line["pid"]) == ("unlink", 7, 1000, 42)
    assert "op" not in formatted(msg="x")


def test_fields_are_taken_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), request_fields(op="unlink"):
        raise ZeroDivisionError
    assert "op" not in formatted(msg="x")


def test_traceback_is_a_field() -> None:
    try:
        raise ValueError("broken")
    except ValueError as exc:
        line = formatted(msg="x", exc_info=(ValueError, exc, exc.__traceback__))
    assert line["traceback"].endswith("ValueError: broken")


def test_json_to_a_file(root: logging.Logger, tmp_path: Path) -> None:
    file = tmp_path / "gateway.log"
    setup_logging(LogConfig(file=str(file)))
    _log.debug("not at this level")
    _log.warning("first")
    _log.error("second")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["level"], line["msg"]) for line in lines] == [
        ("warning", "first"),
        ("error", "second"),
    ]


def test_file_is_appended_to(root: logging.Logger, tmp_path: Path) -> None:
    file = tmp_path / "gateway.log"
    file.write_text("before\n")
    setup_logging(LogConfig(file=str(file)))
    _log.info("after")
    assert file.read_text().startswith("before\n{")


def test_text_for_people(root: logging.Logger, capfd: pytest.CaptureFixture[str]) -> None:
    setup_logging(LogConfig(level="debug", format="text"))
    _log.debug("a thing")
    assert capfd.readouterr().err.endswith("DEBUG tests.logs: a thing\n")


def test_setting_up_again_replaces(root: logging.Logger, tmp_path: Path) -> None:
    setup_logging(LogConfig(file=str(tmp_path / "one")))
    setup_logging(LogConfig(file=str(tmp_path / "two")))
    _log.info("x")
    assert (tmp_path / "one").read_text() == ""
    assert len(root.handlers) == 1


def test_a_file_that_cannot_be_written(root: logging.Logger, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        setup_logging(LogConfig(file=str(tmp_path / "missing" / "gateway.log")))
