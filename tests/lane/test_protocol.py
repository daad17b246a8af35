"""The lane's two sockets: requests and answers that are whole, and those that aren't."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.lane.building import HERE, LANE, MEMORY, THREADS, Builds, Ended, run

SOAK_S = float(os.environ.get("SOAK_S") or 300.0)
_DEFINED = ("-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", "-Wl,--wrap=read,--wrap=writev")
_FUZZ = ("fuzz_kernel.c", "fuzz_python.c", "fuzz_requests.c", "stub_cephfs.c")
_LANE = (
    "lane.c", "nodes.c", "files.c", "names.c", "answer.c", "listing.c", "plain.c", "data.c",
    "change.c", "unlink.c", "credentials.c", "allowed.c", "looked.c", "removals.c",
    "locked.c", "wishes.c", "unsure.c", "locking.c", "ranges.c", "lists.c", "privileges.c",
    "store_ceph.c",
)  # fmt: skip
_OTHERS = tuple(str(HERE / source) for source in _FUZZ)
_REQUESTS = 4000
_SOAK_REQUESTS = 20_000
_ANSWERED = frozenset(
    {*range(1, 46), 47} - {2, 7, 11, 13, 19, 20, 21, 24, 26, 30, 34, 36, 37, 38, 39, 40, 41, 42}
)
"""Opcodes of which the lane has to have answered some requests itself."""


def _program(
    builds: Builds, sanitizers: tuple[str, ...], instead: Mapping[str, str] | None = None
) -> Path:
    """Build the lane, with other files `instead` of some."""
    sources = ((instead or {}).get(source, source) for source in _LANE)
    return builds.program("lane_fuzz.c", *sources, *_OTHERS, flags=(*sanitizers, *_DEFINED))


def _fuzz(program: Path, seed: int, requests: int, threads: int) -> Ended:
    return run(program, str(seed), str(requests), str(threads))


def _check(ended: Ended, seed: int, threads: int) -> None:
    assert ended.code == 0, f"seed {seed}, {threads} threads: {ended.printed}\n{ended.reported}"
    answered = {int(opcode) for opcode in re.findall(r"(\d+)=[1-9]", ended.printed)}
    assert answered == _ANSWERED, ended.printed


@pytest.mark.parametrize("seed", range(1, 5))
def test_any_request_is_answered_once(builds: Builds, seed: int) -> None:
    _check(_fuzz(_program(builds, MEMORY), seed, _REQUESTS, 1), seed, 1)


@pytest.mark.parametrize("sanitizers", [MEMORY, THREADS], ids=["memory", "threads"])
@pytest.mark.parametrize("seed", range(5, 8))
def test_many_threads_answer_any_request_once(
    builds: Builds, sanitizers: tuple[str, ...], seed: int
) -> None:
    _check(_fuzz(_program(builds, sanitizers), seed, _REQUESTS, 4), seed, 4)


@dataclasses.dataclass(frozen=True)
class Wrong:
    """Something that the lane would do wrong, and what is said of it."""

    source: str
    text: str
    instead: str
    reported: str
    threads: int = 1


WRONGS = {
    "length": Wrong(
        "data.c", "request->size - sizeof(*argument) < argument->size ||", "", "AddressSanitizer"
    ),
    "name": Wrong(
        "answer.c",
        "|| memchr(name, '\\0', request->size - offset) == NULL",
        "",
        "AddressSanitizer",
    ),
    "listing": Wrong(
        "listing.c",
        "cx_store_seekdir(lane->store, directory->raw, (int64_t)directory->cookie);",
        "",
        "listing has no entry",
    ),
    "created": Wrong(
        "change.c", "cx_forget(request->lane, opened->id, 1);", "(void)request;", "inodes are left"
    ),
    "plain": Wrong(
        "plain.c",
        "owe(lane, plus->entry_out.nodeid);",
        "if (length == 0) owe(lane, 0);",
        "inodes are left",
    ),
    "append": Wrong("files.c", "(opened.flags & O_APPEND) != 0", "false", "wrong"),
    "lookup": Wrong(
        "listing.c",
        "cx_forget(request->lane, plus->entry_out.nodeid, 1);",
        "(void)request;",
        "inodes are left",
    ),
    "alone": Wrong(
        "locked.c", "while (locked->is_taken)", "while (false)", "AddressSanitizer", threads=4
    ),
    "unlocked": Wrong(
        "locking.c",
        "cx_store_close(lane->store, locked->raw);\n    cx_unsure_end",
        "cx_unsure_end",
        "LeakSanitizer",
    ),
}
_SEEDS = range(1, 9)


@pytest.mark.parametrize("wrong", WRONGS.values(), ids=WRONGS)
def test_what_is_wrong_is_found(builds: Builds, tmp_path: Path, wrong: Wrong) -> None:
    text = (LANE / wrong.source).read_text()
    assert text.count(wrong.text) == 1
    spoilt = tmp_path / wrong.source
    spoilt.write_text(text.replace(wrong.text, wrong.instead))
    program = _program(builds, MEMORY, {wrong.source: str(spoilt)})
    for seed in _SEEDS:
        ended = _fuzz(program, seed, _REQUESTS, wrong.threads)
        if ended.code != 0:
            break
    assert wrong.reported in ended.reported, f"{ended.printed}\n{ended.reported}"


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S + 300)
def test_any_request_is_answered_once_for_long(builds: Builds) -> None:
    until = time.monotonic() + SOAK_S
    while time.monotonic() < until:
        seed = random.randrange(1 << 32)
        for sanitizers, threads in ((MEMORY, 1), (MEMORY, 4), (THREADS, 4)):
            ended = _fuzz(_program(builds, sanitizers), seed, _SOAK_REQUESTS, threads)
            _check(ended, seed, threads)
