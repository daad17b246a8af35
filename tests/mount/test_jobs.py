"""Jobs: what is deleted without keeping goes in the background, and can be followed and steered."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cephfs_ext.core.errors import ExitCode
from tests.faults.storage import Back
from tests.gateway import Gateway, posix_gateway
from tests.posix.actors import OWNER, STRANGER, as_user
from tests.waiting import wait_until

_WAIT_S = 60.0
_FILES = 400
_SLOWLY = ("-o", "asyncdelete.max_rate=40")
"""Names in a second: slow enough to be looked at, fast enough to end."""


@pytest.fixture
def second(request: pytest.FixtureRequest, unmounted: Gateway) -> Gateway:
    """Return another gateway over the same storage."""
    is_ceph = unmounted.source.startswith("ceph:")
    conf = request.getfixturevalue("cluster").conf if is_ceph else None
    place = unmounted.path.with_name("second")
    return Gateway(unmounted.source, place, unmounted.runtime, conf=conf)


def _plant(top: Path, files: int = _FILES) -> None:
    for number in range(files):
        directory = top / f"d{number % 10}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / str(number)).write_text(str(number))


def _discard(top: Path) -> None:
    os.rename(top, top.parent / ".trashbin/now" / top.name)


def _jobs(gateway: Gateway, *words: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = gateway.json("jobs", "ls", str(gateway.path), *words)["items"]
    return items


def _job(gateway: Gateway) -> dict[str, Any]:
    (item,) = [one for one in _all_jobs(gateway) if one["kind"] == "tree"]
    return item


def _all_jobs(gateway: Gateway) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = gateway.json("jobs", "ls", "--all")["items"]
    return items


def _removed(gateway: Gateway) -> int:
    job = _job(gateway)
    return int(job["files"]) + int(job["dirs"])


def _until(gateway: Gateway, *states: str) -> dict[str, Any]:
    wait_until(lambda: _job(gateway)["state"] in states, lambda: _job(gateway), within_s=_WAIT_S)
    return _job(gateway)


def _begun(gateway: Gateway) -> str:
    """Wait until something is removed; return the id of the job."""
    wait_until(lambda: _removed(gateway) > 0, lambda: _job(gateway), within_s=_WAIT_S)
    job_id: str = _job(gateway)["id"]
    return job_id


def test_rm_now_removes_in_the_background(unmounted: Gateway, back: Back) -> None:
    """[job-1]: the command waits for it if it is told to."""
    with unmounted.mounted() as gateway:
        top = gateway.path / "old"
        _plant(top)
        done = gateway.run("rm", "-r", "--now", "--wait", "--json", str(top), check=True)
        assert not top.exists()
        report = json.loads(done.stdout)
        (job,) = report["jobs"]
        assert report["items"][0]["job"] == job["id"]
        assert job["state"] == "done"
        assert (job["files"], job["dirs"], job["failed"]) == (_FILES, 11, 0)
        assert job["path"] == "old"
        assert _jobs(gateway) == []
        assert back.names("purging") == []
        assert gateway.trash() == []


def test_job_is_paused_and_goes_on(unmounted: Gateway) -> None:
    """[job-2]."""
    with unmounted.mounted(*_SLOWLY) as gateway:
        top = gateway.path / "old"
        _plant(top)
        _discard(top)
        job_id = _begun(gateway)
        gateway.run("jobs", "pause", job_id, check=True)
        wait_until(lambda: not _job(gateway)["workers"], within_s=_WAIT_S)
        at_rest = _removed(gateway)
        assert _job(gateway)["state"] == "paused"
        again = gateway.run("jobs", "pause", job_id)
        assert again.returncode == ExitCode.CONFLICT
        assert "paused" in again.stderr
        assert _removed(gateway) == at_rest
        gateway.run("jobs", "resume", job_id, check=True)
        gateway.run("jobs", "wait", job_id, check=True)
        assert _removed(gateway) == _FILES + 11


def test_cancelled_job_gives_back_what_is_left(unmounted: Gateway) -> None:
    """[job-3]: a tree in the trash, to be restored to where it was."""
    with unmounted.mounted(*_SLOWLY) as gateway:
        top = gateway.path / "old"
        _plant(top)
        _discard(top)
        job_id = _begun(gateway)
        report = gateway.json("jobs", "cancel", job_id)
        (outcome,) = report["items"]
        assert outcome["outcome"] == "cancelled"
        removed = _job(gateway)["files"]
        gateway.run("trash", "restore", outcome["entry"], check=True)
        left = [path for path in top.rglob("*") if path.is_file()]
        assert len(left) == _FILES - removed
        assert all(path.read_text() == path.name for path in left)
        assert gateway.run("jobs", "wait", job_id).returncode == ExitCode.PARTIAL


def test_another_gateway_goes_on_when_one_dies(
    unmounted: Gateway, second: Gateway, back: Back
) -> None:
    """[job-4]: nobody waits for the dead, and nothing else is touched."""
    with unmounted.mounted(*_SLOWLY) as gateway:
        top = gateway.path / "old"
        _plant(top)
        (gateway.path / "beside").write_text("stays")
        _discard(top)
        _begun(gateway)
        with second.mounted():
            gateway.kill()
            _until(second, "done")
            assert (second.path / "beside").read_text() == "stays"
            assert back.names("purging") == []
            wait_until(lambda: len(back.workers()) == 1, within_s=_WAIT_S)


def test_worker_without_a_mount_carries_jobs_out(unmounted: Gateway, back: Back) -> None:
    """[job-5]."""
    with unmounted.mounted("-o", "asyncdelete.max_rate=1") as gateway:
        top = gateway.path / "old"
        _plant(top)
        _discard(top)
        _begun(gateway)
    unmounted.run("worker", unmounted.source, "--until-idle", check=True)
    with unmounted.mounted() as gateway:
        assert _job(gateway)["state"] == "done"
        assert back.names("purging") == []


def test_what_somebody_may_not_delete_is_kept(unmounted: Gateway) -> None:
    """[job-6]: exactly that part, in the trash, and it is said."""
    with unmounted.mounted() as gateway:
        gateway.path.chmod(0o777)
        top = gateway.path / "old"
        as_user(OWNER, lambda: _plant(top, 40))
        theirs = top / "d1/theirs"
        theirs.mkdir()
        (theirs / "file").write_text("not the owner's")
        as_user(OWNER, lambda: _discard(top))
        job = _until(gateway, "kept")
        assert job["files"] == 40
        assert [one["path"] for one in job["failures"]] == ["d1/theirs/file"]
        assert "ermission" in job["failures"][0]["reason"]
        gateway.run("trash", "restore", job["entry"], check=True)
        assert sorted(os.listdir(top)) == ["d1"]
        assert (theirs / "file").read_text() == "not the owner's"


def test_everybody_sees_and_steers_their_own(unmounted: Gateway) -> None:
    """[job-7]."""
    with unmounted.mounted("-o", "asyncdelete.max_rate=1") as gateway:
        gateway.path.chmod(0o777)
        top = gateway.path / "old"
        as_user(OWNER, lambda: _plant(top))
        as_user(OWNER, lambda: _discard(top))
        job_id = _begun(gateway)

        def listed() -> list[str]:
            return [item["id"] for item in _jobs(gateway)]

        def cancelled() -> int:
            return gateway.run("jobs", "cancel", job_id).returncode

        assert as_user(OWNER, listed) == [job_id]
        assert as_user(STRANGER, listed) == []
        assert as_user(STRANGER, cancelled) == ExitCode.DENIED
        assert as_user(OWNER, cancelled) == ExitCode.OK


def test_what_cannot_be_removed_is_reported_and_tried_again(base: Path) -> None:
    """[job-8]: it doesn't block the rest."""
    with posix_gateway(base).mounted() as gateway:
        top = gateway.path / "old"
        _plant(top, 40)
        behind = base / "source/old/d3/3"
        subprocess.run(["chattr", "+i", behind], check=True)
        try:
            _discard(top)
            job = _until(gateway, "stuck")
            assert job["files"] == 39
            assert job["failed"] == 1
            assert [one["path"] for one in job["failures"]] == ["d3/3"]
        finally:
            subprocess.run(["chattr", "-i", "-R", base / "source/.trashbin/purging"], check=True)
        gateway.run("jobs", "retry", job["id"], check=True)
        gateway.run("jobs", "wait", job["id"], check=True)


def test_unknown_job_is_not_found(unmounted: Gateway) -> None:
    with unmounted.mounted() as gateway:
        for words in (("show", "0000000000000001.beef"), ("cancel", "nonsense")):
            done = gateway.run("jobs", *words)
            assert done.returncode == ExitCode.NOT_FOUND
            assert "no job" in done.stderr
