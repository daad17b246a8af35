"""The client: which daemon it talks to, and what it makes of the answers."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cephfs_ext.control.client import Client, find_daemon, socket_of
from cephfs_ext.control.service import (
    RequestProgress,
    RestoreReport,
    RestoreRequest,
    Status,
    TrashListing,
    TrashQuery,
)
from cephfs_ext.control.state import write_state
from cephfs_ext.core.errors import (
    DeniedError,
    ExistsError,
    ExitCode,
    FSError,
    FullError,
    NotFoundError,
    TryAgainError,
    UserError,
)
from cephfs_ext.core.mountinfo import mount_above
from tests.unit.fake_gateway import FakeService, item, serving
from tests.unit.test_control_state import own_state


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def client(service: FakeService, base: Path) -> Iterator[Client]:
    with serving(service, base), contextlib.closing(Client(str(base / "control.sock"))) as client:
        yield client


def refused(call: Callable[[], object]) -> UserError:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value


def test_get(client: Client) -> None:
    assert client.get("/v1/status", Status).source == "posix:/data"


def test_post(client: Client, service: FakeService) -> None:
    listing = client.post("/v1/trash/list", TrashQuery(limit=5), TrashListing)
    assert listing.items == [item()]
    assert service.last[2] == TrashQuery(limit=5)


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (NotFoundError(what="no entry x"), ExitCode.NOT_FOUND, "no entry x"),
        (DeniedError(what="not yours"), ExitCode.DENIED, "not yours"),
        (ExistsError(what="in the way"), ExitCode.CONFLICT, "in the way"),
        (TryAgainError(what="later"), ExitCode.TEMPORARY, "later"),
        (FullError(), ExitCode.OTHER, "No space left on device"),
        (FSError(), ExitCode.OTHER, "Input/output error"),
        (UserError("name one", ExitCode.USAGE), ExitCode.USAGE, "name one"),
        (ValueError("secret"), ExitCode.OTHER, "a bug in the gateway; its log has the traceback"),
    ],
)
def test_errors_arrive(
    client: Client, service: FakeService, failure: Exception, code: int, message: str
) -> None:
    service.failure = failure
    error = refused(lambda: client.get("/v1/status", Status))
    assert (error.exit_code, str(error)) == (code, message)


def test_unknown_path_of_another_version(client: Client) -> None:
    error = refused(lambda: client.get("/v9/status", Status))
    assert "404" in str(error)


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # httpcore leaves it open
def test_nobody_listens(base: Path) -> None:
    with contextlib.closing(Client(str(base / "none.sock"))) as client:
        error = refused(lambda: client.get("/v1/status", Status))
    assert error.exit_code == ExitCode.TEMPORARY
    assert str(base / "none.sock") in str(error)
    del error
    gc.collect()


@contextlib.contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """Answer one connection with fixed bytes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer_one() -> None:
            with listener.accept()[0] as peer:
                peer.recv(65536)
                peer.sendall(answer)

        thread = threading.Thread(target=answer_one)
        thread.start()
        yield
        thread.join()


def test_daemon_that_dies_while_it_answers(base: Path) -> None:
    path = base / "x.sock"
    with answering(path, b""), contextlib.closing(Client(str(path))) as client:
        error = refused(lambda: client.get("/v1/status", Status))
    assert error.exit_code == ExitCode.TEMPORARY


@pytest.mark.parametrize("body", [b"[]", b'{"error": 5}', b'{"error": {}}', b"<html>", b""])
def test_error_that_is_not_ours(base: Path, body: bytes) -> None:
    path = base / "x.sock"
    answer = b"HTTP/1.1 502 Bad\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with answering(path, answer), contextlib.closing(Client(str(path))) as client:
        assert str(refused(lambda: client.get("/x", Status))) == "the gateway answered 502"


def test_answer_of_another_version(base: Path) -> None:
    path = base / "x.sock"
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"new":1}'
    with answering(path, answer), contextlib.closing(Client(str(path))) as client:
        refused(lambda: client.get("/v1/status", Status))


class TestFind:
    """`find_daemon`: by the device of a path, or the only one."""

    def test_none_runs(self, tmp_path: Path) -> None:
        for path in (None, "/"):
            with pytest.raises(UserError, match="no gateway is running") as caught:
                find_daemon(path, str(tmp_path))
            assert caught.value.exit_code == ExitCode.NOT_FOUND

    def test_only_one(self, tmp_path: Path) -> None:
        write_state(str(tmp_path / "a"), own_state(dev=1))
        assert find_daemon(None, str(tmp_path)) == (str(tmp_path / "a"), own_state(dev=1))

    def test_several_want_a_path(self, tmp_path: Path) -> None:
        write_state(str(tmp_path / "a"), own_state(mountpoint="/mnt/a"))
        write_state(str(tmp_path / "b"), own_state(mountpoint="/mnt/b"))
        with pytest.raises(UserError, match="/mnt/a, /mnt/b") as caught:
            find_daemon(None, str(tmp_path))
        assert caught.value.exit_code == ExitCode.USAGE

    def test_by_device_of_the_nearest_directory(self, tmp_path: Path) -> None:
        device = os.stat(tmp_path).st_dev
        write_state(str(tmp_path / "a"), own_state(dev=device + 1))
        write_state(str(tmp_path / "b"), own_state(dev=device))
        gone = str(tmp_path / "was" / "here")
        assert find_daemon(gone, str(tmp_path))[0] == str(tmp_path / "b")

    def test_by_mount_where_the_storage_refuses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_state(str(tmp_path / "a"), own_state(dev=mount_above("/proc/x").device))

        def refuse(path: str) -> None:
            raise OSError(errno.ESHUTDOWN, path)

        with monkeypatch.context() as patched:
            patched.setattr(os, "lstat", refuse)
            directory, _ = find_daemon("/proc/x", str(tmp_path))
        assert directory == str(tmp_path / "a")

    def test_path_elsewhere(self, tmp_path: Path) -> None:
        write_state(str(tmp_path / "a"), own_state(dev=1, mountpoint="/mnt/a"))
        with pytest.raises(UserError, match="is on no gateway mount; there is /mnt/a") as caught:
            find_daemon("/proc", str(tmp_path))
        assert caught.value.exit_code == ExitCode.NOT_FOUND

    def test_dead_one_is_passed_over(self, tmp_path: Path) -> None:
        write_state(str(tmp_path / "a"), own_state(start_time=1.0))
        with pytest.raises(UserError, match="no gateway is running"):
            find_daemon(None, str(tmp_path))

    def test_path_without_device_is_not_that_of_a_starting_daemon(self, tmp_path: Path) -> None:
        write_state(str(tmp_path / "a"), own_state(dev=None))
        loop = tmp_path / "loop"
        loop.symlink_to("loop")
        with pytest.raises(UserError, match="is on no gateway mount"):
            find_daemon(str(loop), str(tmp_path))


_SOCKET_OF = (
    "import sys; from cephfs_ext.control.client import socket_of as s; print(s(sys.argv[1]))"
)


def test_operators_get_their_socket(service: FakeService, base: Path) -> None:
    with serving(service, base):
        assert socket_of(str(base)) == str(base / "admin.sock")


def test_others_get_the_one_for_everybody(service: FakeService, base: Path) -> None:
    with serving(service, base):
        done = subprocess.run(
            [sys.executable, "-c", _SOCKET_OF, str(base)],
            user=12345,
            group=12345,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.strip() == str(base / "control.sock")


class TestLongRequests:
    def interrupted(self, service: FakeService, times: int) -> Callable[[RequestProgress], None]:
        """Return what is told of progress, and presses ctrl-C."""
        left = times

        def tell(_: RequestProgress) -> None:
            nonlocal left
            if left:
                left -= 1
                raise KeyboardInterrupt

        service.lasts = True
        return tell

    def restore(self, client: Client, tell: Callable[[RequestProgress], None]) -> RestoreReport:
        return client.post_long("/v1/trash/restore", RestoreRequest(), RestoreReport, tell=tell)

    def test_tells_how_far_it_is(self, client: Client, service: FakeService) -> None:
        told = []

        def tell(progress: RequestProgress) -> None:
            told.append(progress)
            service.lasts = False

        service.lasts = True
        assert self.restore(client, tell).items[0].outcome == "restored"
        assert (told[0].done, told[0].total) == (3, 7)

    def test_interrupt_stops_it(self, client: Client, service: FakeService) -> None:
        """[trash-15]: and what was done is answered."""
        tell = self.interrupted(service, 1)
        assert self.restore(client, tell).items[0].outcome == "stopped"

    def test_what_cannot_be_stopped_goes_on(self, client: Client, service: FakeService) -> None:
        service.can_stop = False
        error = refused(lambda: self.restore(client, self.interrupted(service, 1)))
        assert "goes on" in str(error)
        service.lasts = False

    def test_errors_arrive(self, client: Client, service: FakeService) -> None:
        service.failure = DeniedError(what="not yours")
        error = refused(lambda: self.restore(client, lambda _: None))
        assert (error.exit_code, str(error)) == (ExitCode.DENIED, "not yours")
