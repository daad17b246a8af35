"""Log lines as JSON, with the fields of the request that caused them.

`current_request` is a context variable, so that everything logged while a request is served, in
worker threads too, says which one it was: operation, inode, uid, pid.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cephfs_ext.core.config import LogConfig
from cephfs_ext.core.errors import ExitCode, UserError

Fields = Mapping[str, str | int]

current_request: contextvars.ContextVar[tuple[Callable[[Any], Fields], Any]]
current_request = contextvars.ContextVar("request")
"""A function that makes the fields of a request, and what it makes them from.

It is called when something is logged only: a request that logs nothing pays for a tuple.
"""


@contextlib.contextmanager
def request_fields(**fields: str | int) -> Iterator[None]:
    """Add fields to everything that is logged inside."""
    token = current_request.set((_as_they_are, fields))
    try:
        yield
    finally:
        current_request.reset(token)


def _as_they_are(fields: Fields) -> Fields:
    return fields


def _fields() -> Fields:
    make, source = current_request.get((_as_they_are, {}))
    return make(source)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        fields: dict[str, object] = {
            "ts": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            **_fields(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class TextFormatter(logging.Formatter):
    """One line for people, the fields of the request at its end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Format a record without its traceback."""
        words = (f" {key}={value}" for key, value in _fields().items())
        return super().formatMessage(record) + "".join(words)


def setup_logging(config: LogConfig) -> None:
    """Send log lines where the configuration says.

    Raises:
        UserError: the file can't be written.
    """
    handler = _handler(config.file)
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)


def _handler(file: str) -> logging.Handler:
    if not file:
        return logging.StreamHandler(sys.stderr)
    try:
        return logging.FileHandler(file)
    except OSError as exc:
        missing = isinstance(exc, FileNotFoundError)
        raise UserError(
            f"log.file = {file}: {exc.strerror}; name a file in a directory that can be written",
            ExitCode.NOT_FOUND if missing else ExitCode.DENIED,
        ) from exc
