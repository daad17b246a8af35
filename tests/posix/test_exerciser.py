"""Random reads, writes, cuts, mappings and holes on one file, against a model in memory.

A failure prints the seed and the operations that led to it; the same seed repeats them.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.libc import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from tests.posix.nodes import refused

SEEDS = range(1, 7)
STEPS = 400
LIMIT = 256 * 1024
LONGEST = 40_000
HISTORY_SHOWN = 25


class Exerciser:
    """A file, the model of it, and operations that do the same to both."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.model = bytearray()
        self.history: list[str] = []
        self.fd = os.open(path, os.O_CREAT | os.O_RDWR)
        self.operations: list[Callable[[], None]] = [
            self.write,
            self.write,
            self.write_mapped,
            self.append,
            self.read,
            self.read,
            self.read_mapped,
            self.cut,
            self.grow,
            self.punch,
            self.reopen,
            self.sync,
            self.rewrite,
        ]

    def run(self, steps: int) -> None:
        """Carry out random operations and compare the whole file at the end."""
        try:
            for _ in range(steps):
                self.random.choice(self.operations)()
                assert os.fstat(self.fd).st_size == len(self.model), "size"
            assert self.path.read_bytes() == self.model, "the whole file"
        except BaseException as exc:
            exc.add_note("last operations: " + "; ".join(self.history[-HISTORY_SHOWN:]))
            raise
        finally:
            os.close(self.fd)

    def write(self) -> None:
        """Write somewhere, perhaps behind the end."""
        offset, data = self.random.randrange(LIMIT), self._data()
        self._note("write", offset, len(data))
        assert os.pwrite(self.fd, data, offset) == len(data)
        self._put(offset, data)

    def append(self) -> None:
        """Write at the end, through a descriptor made for that."""
        if len(self.model) < LIMIT:
            data = self._data()
            self._note("append", len(self.model), len(data))
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            assert os.write(fd, data) == len(data)
            os.close(fd)
            self._put(len(self.model), data)

    def write_mapped(self) -> None:
        """Change bytes that are there, through a mapping."""
        offset, length = self._range()
        if length:
            data = self.random.randbytes(length)
            self._note("write_mapped", offset, length)
            with mmap.mmap(self.fd, 0) as shared:
                shared[offset : offset + length] = data
            self._put(offset, data)

    def read(self) -> None:
        """Compare a range, which may reach behind the end."""
        offset, length = self.random.randrange(LIMIT), self.random.randrange(LONGEST)
        self._note("read", offset, length)
        assert os.pread(self.fd, length, offset) == self.model[offset : offset + length]

    def read_mapped(self) -> None:
        """Compare a range through a mapping."""
        offset, length = self._range()
        if length:
            self._note("read_mapped", offset, length)
            with mmap.mmap(self.fd, 0, prot=mmap.PROT_READ) as shown:
                assert shown[offset : offset + length] == self.model[offset : offset + length]

    def cut(self) -> None:
        """Make the file shorter."""
        size = self.random.randrange(len(self.model) + 1)
        self._note("cut", size, 0)
        os.ftruncate(self.fd, size)
        del self.model[size:]

    def grow(self) -> None:
        """Make the file longer without writing."""
        size = self.random.randrange(len(self.model), max(LIMIT, len(self.model) + 1))
        self._note("grow", size, 0)
        os.truncate(self.path, size)
        self.model.extend(bytes(size - len(self.model)))

    def punch(self) -> None:
        """Make a hole, where the file system knows holes."""
        offset, length = self._range()
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        if length and not refused(
            lambda: fallocate(self.fd, mode, offset, length), errno.EOPNOTSUPP, errno.ENOSYS
        ):
            self._note("punch", offset, length)
            self.model[offset : offset + length] = bytes(length)

    def reopen(self) -> None:
        """Close the file and open it again."""
        self._note("reopen", 0, 0)
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    def sync(self) -> None:
        """Make the data durable."""
        self._note("sync", 0, 0)
        os.fsync(self.fd)

    def rewrite(self) -> None:
        """Empty the file by opening it, now and then."""
        if self.random.random() < 0.1:
            self._note("rewrite", 0, 0)
            os.close(os.open(self.path, os.O_WRONLY | os.O_TRUNC))
            self.model.clear()

    def _data(self) -> bytes:
        return self.random.randbytes(self.random.randrange(1, LONGEST))

    def _range(self) -> tuple[int, int]:
        """Return a range inside the file; empty if there is none."""
        if not self.model:
            return 0, 0
        offset = self.random.randrange(len(self.model))
        return offset, min(self.random.randrange(1, LONGEST), len(self.model) - offset)

    def _put(self, offset: int, data: bytes) -> None:
        self.model.extend(bytes(max(0, offset - len(self.model))))
        self.model[offset : offset + len(data)] = data

    def _note(self, name: str, offset: int, length: int) -> None:
        self.history.append(f"{name} {offset}+{length}")


@pytest.mark.parametrize("seed", SEEDS)
def test_file_is_what_the_model_says(target: Path, seed: int) -> None:
    Exerciser(target / "f", seed).run(STEPS)
