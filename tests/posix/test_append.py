"""O_APPEND from several processes at once: no record is lost, torn or overwritten."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.actors import spawn
from tests.posix.nodes import opened

WRITERS = 4
RECORDS = 150
_HEADER = struct.Struct("<III")


def _record(writer: int, number: int, length: int) -> bytes:
    body = bytes([writer + 1]) * length
    return _HEADER.pack(writer, number, zlib.crc32(body)) + body


def _parse(data: bytes, length: int) -> list[tuple[int, int]]:
    """Return writer and number of each record; a torn one fails."""
    size = _HEADER.size + length
    assert len(data) == WRITERS * RECORDS * size
    found = []
    for start in range(0, len(data), size):
        writer, number, checksum = _HEADER.unpack_from(data, start)
        assert zlib.crc32(data[start + _HEADER.size : start + size]) == checksum
        found.append((writer, number))
    return found


def _run(work: Callable[[int], None]) -> None:
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(spawn(lambda writer=n: work(writer))) for n in range(WRITERS)
        ]
        for child in children:
            child.result()


@pytest.mark.parametrize("length", [20, 1000, 5000])
def test_no_record_is_lost_or_torn(target: Path, length: int) -> None:
    path = target / "log"

    def append(writer: int) -> None:
        with opened(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND) as fd:
            for number in range(RECORDS):
                assert os.write(fd, _record(writer, number, length)) == _HEADER.size + length

    _run(append)
    found = _parse(path.read_bytes(), length)
    for writer in range(WRITERS):
        assert [number for by, number in found if by == writer] == list(range(RECORDS))


def test_descriptor_opened_anew_for_each_record_loses_none(target: Path) -> None:
    path = target / "log"

    def append(writer: int) -> None:
        for number in range(RECORDS):
            with opened(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND) as fd:
                os.write(fd, _record(writer, number, 50))

    _run(append)
    assert len(set(_parse(path.read_bytes(), 50))) == WRITERS * RECORDS


def test_ranges_written_side_by_side_do_not_disturb_each_other(target: Path) -> None:
    path = target / "matrix"
    size = 1000

    def fill(writer: int) -> None:
        with opened(path, os.O_CREAT | os.O_WRONLY) as fd:
            for row in range(RECORDS):
                os.pwrite(fd, bytes([writer + 1]) * size, (row * WRITERS + writer) * size)

    _run(fill)
    row = b"".join(bytes([writer + 1]) * size for writer in range(WRITERS))
    assert path.read_bytes() == row * RECORDS
