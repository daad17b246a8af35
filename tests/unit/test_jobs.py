"""Jobs, without workers: states, and what lies on the storage."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import trio

from asyncdelete import jobs, ledger
from asyncdelete.jobs import Failure, Job, Progress, Result, State, Verb
from cephfs_ext.storage.posix import PosixStorage
from trashbin.domain import Domain
from trashbin.domains import Domains

_NOW_NS = 1_795_853_931_156_668_486
_ID = f"{_NOW_NS:016x}.beef"

Script = Callable[[Domain, Path], Awaitable[None]]


def _progress(*, ago_s: float = 0.0, has_ended: bool = False, **more: int) -> Progress:
    then_ns = _NOW_NS - int(ago_s * 1e9)
    return Progress(
        host="a-host", pid=1, began_ns=then_ns, updated_ns=then_ns, has_ended=has_ended, **more
    )


def _result(state: State, tries: int = 1) -> Result:
    return Result(state=state, ended_ns=_NOW_NS, files=1, dirs=1, tries=tries)


class TestStates:
    @pytest.mark.parametrize(
        ("marks", "result", "progress", "state"),
        [
            ([], None, {}, State.QUEUED),
            ([], None, {"a": _progress()}, State.RUNNING),
            ([], None, {"a": _progress(has_ended=True)}, State.QUEUED),
            ([], None, {"a": _progress(ago_s=60)}, State.QUEUED),
            ([], None, {"a": _progress(ago_s=60), "b": _progress()}, State.RUNNING),
            ([jobs.PAUSED], None, {"a": _progress()}, State.PAUSED),
            ([jobs.PAUSED, jobs.CANCELLED], None, {}, State.CANCELLING),
            ([], _result(State.STUCK), {}, State.STUCK),
            ([], _result(State.STUCK), {"a": _progress()}, State.RUNNING),
            ([jobs.CANCELLED], _result(State.STUCK), {}, State.CANCELLING),
            ([jobs.CANCELLED], _result(State.CANCELLED), {}, State.CANCELLED),
            ([jobs.PAUSED], _result(State.DONE), {"a": _progress()}, State.DONE),
        ],
    )
    def test_what_the_files_say_together(
        self,
        marks: list[bytes],
        result: Result | None,
        progress: dict[str, Progress],
        state: State,
    ) -> None:
        assert jobs.state_of(marks, result, progress, _NOW_NS) is state

    def test_what_is_over_can_be_asked_for_nothing(self) -> None:
        assert not [state for state, _ in jobs.TRANSITIONS if state in jobs.OVER]

    def test_every_other_state_can_be_cancelled(self) -> None:
        others = set(State) - jobs.OVER - {State.CANCELLING}
        assert {state for state, verb in jobs.TRANSITIONS if verb is Verb.CANCEL} == others


class TestResult:
    def test_all_workers_count(self) -> None:
        progress = [_progress(files=3, dirs=1), _progress(files=4, has_ended=True)]
        result = jobs.result_of(progress, State.DONE, None, "")
        assert (result.files, result.dirs, result.tries) == (7, 1, 1)

    def test_what_two_workers_could_not_remove_counts_once(self) -> None:
        failure = Failure(b"a", "busy")
        progress = [_progress(failed=1), _progress(failed=1)]
        progress = [msgspec.structs.replace(one, failures=(failure,)) for one in progress]
        result = jobs.result_of(progress, State.STUCK, _result(State.STUCK, 2), "")
        assert (result.failed, result.failures, result.tries) == (1, (failure,), 3)


class TestCodec:
    def test_what_is_written_is_read(self) -> None:
        job = Job(id=_ID, claim=b"tree." + _ID.encode(), kind="tree", path=b"a/\xff", uid=7)
        assert jobs.decode(jobs.encode(job), Job) == job

    @pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"id": 3}', b"\xff", b'{"id": "x"}'])
    def test_what_is_torn_or_foreign_says_nothing(self, raw: bytes) -> None:
        assert jobs.decode(raw, Job) is None
        assert jobs.decode(raw, Progress) is None
        assert jobs.decode(raw, Result) is None

    def test_fields_of_newer_versions_are_ignored(self) -> None:
        raw = jobs.encode(_progress(files=3))[:-1] + b',"newer":1}'
        decoded = jobs.decode(raw, Progress)
        assert decoded is not None
        assert decoded.files == 3


def _play(tmp_path: Path, script: Script) -> None:
    async def main() -> None:
        storage = await PosixStorage.connect(str(tmp_path))
        domains = Domains(storage, owner_uid=0, shards_per_rank=1)
        await script(await domains.root(), tmp_path / ".trashbin")
        domains.close()
        await storage.close()

    trio.run(main)


class TestLedger:
    def test_claim_without_a_job_gets_one(self, tmp_path: Path) -> None:
        async def script(domain: Domain, trash: Path) -> None:
            for number, prefix in enumerate(("r0.00.2026-11-24T01", "tree", "purge")):
                (trash / f"purging/{prefix}.{number:016x}.beef").mkdir()
            (trash / "purging/version.00000000000000aa.beef").touch()
            assert await ledger.adopt(domain) == [b"version.00000000000000aa.beef"]
            assert await ledger.adopt(domain) == [b"version.00000000000000aa.beef"]
            kinds = {known.job.id: known.job.kind for known in await ledger.read_all(domain)}
            assert list(kinds.values()) == ["expired", "tree", "purged"]

        _play(tmp_path, script)

    def test_claim_of_no_known_name_gets_one_that_has_an_id(self, tmp_path: Path) -> None:
        async def script(domain: Domain, trash: Path) -> None:
            (trash / "purging/by-hand").mkdir()
            await ledger.adopt(domain)
            (known,) = await ledger.read_all(domain)
            assert known.job.claim.startswith(b"by-hand.")
            assert await ledger.is_claimed(known)

        _play(tmp_path, script)

    def test_job_that_was_not_written_whole_is_adopted(self, tmp_path: Path) -> None:
        async def script(domain: Domain, trash: Path) -> None:
            (trash / f"jobs/{_ID}").mkdir()
            (trash / f"purging/tree.{_ID}").mkdir()
            await ledger.adopt(domain)
            (known,) = await ledger.read_all(domain)
            assert known.job.claim == f"tree.{_ID}".encode()

        _play(tmp_path, script)

    def test_marks_results_and_progress(self, tmp_path: Path) -> None:
        async def script(domain: Domain, trash: Path) -> None:
            job = Job(id=_ID, claim=b"tree." + _ID.encode(), kind="tree", path=b"p" * 5000)
            await ledger.plan(domain, job)

            async def known() -> ledger.Known:
                found = await ledger.read(domain, _ID)
                assert found is not None
                return found

            assert (await known()).job == job
            await ledger.set_mark(await known(), jobs.PAUSED)
            await ledger.set_mark(await known(), jobs.PAUSED)
            assert (await known()).state is State.PAUSED
            await ledger.clear(await known(), [jobs.PAUSED, jobs.PAUSED])
            now = msgspec.structs.replace(_progress(files=9), updated_ns=time.time_ns())
            await ledger.report(await known(), "worker-1", now)
            assert (await known()).progress == {"worker-1": now}
            assert (await known()).state is State.RUNNING
            await ledger.end(await known(), _result(State.DONE))
            assert (await known()).state is State.DONE
            await ledger.drop(domain, _ID)
            await ledger.drop(domain, _ID)
            assert await ledger.read(domain, _ID) is None
            assert await ledger.ids(domain) == []

        _play(tmp_path, script)
