"""The control server over its real sockets: who may do what, and what bad requests get."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from cephfs_ext.control.service import (
    AuditQuery,
    Caller,
    Check,
    ExplainRequest,
    PurgeRequest,
    RestoreRequest,
    TrashQuery,
)
from cephfs_ext.core.errors import ExitCode, UserError
from cephfs_ext.core.types import Credentials
from tests.unit.fake_gateway import METRICS, FakeService, deed, event, item, restored, serving
from tests.waiting import wait_until

_SYSTEM_PYTHON = "/usr/bin/python3"
"""Not that of the virtual environment, which other users may not be able to reach."""

_HALF_A_BODY = b"POST /v1/trash/list HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"

_ASK = """
import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
method, path, body = sys.argv[2:]
peer.sendall(f"{method} {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n"
             f"Content-Length: {len(body)}\\r\\n\\r\\n{body}".encode())
print(b"".join(iter(lambda: peer.recv(65536), b"")).decode())
"""


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def running(service: FakeService, base: Path) -> Iterator[Path]:
    """Serve with umask 0, as the posix storage sets it."""
    with umask(0), serving(service, base):
        yield base


@pytest.fixture
def impatient(service: FakeService, base: Path) -> Iterator[Path]:
    """Serve, and let go soon who says nothing."""
    with serving(service, base, patience_s=0.3):
        yield base


@contextlib.contextmanager
def umask(bits: int) -> Iterator[None]:
    before = os.umask(bits)
    try:
        yield
    finally:
        os.umask(before)


def http(directory: Path, name: str = "control.sock") -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(directory / name))
    return httpx.Client(transport=transport, base_url="http://gateway", timeout=20)


@pytest.fixture
def client(running: Path) -> Iterator[httpx.Client]:
    with http(running) as client:
        yield client


@pytest.fixture
def operator(running: Path) -> Iterator[httpx.Client]:
    with http(running, "admin.sock") as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"code", "message"}
    return error


def ask_as(
    path: Path, method: str, where: str, body: str = "", *, uid: int, groups: list[int]
) -> subprocess.CompletedProcess[str]:
    """Send a request from a process of another user."""
    return subprocess.run(
        [_SYSTEM_PYTHON, "-c", _ASK, str(path), method, where, body],
        user=uid,
        group=uid,
        extra_groups=groups,
        capture_output=True,
        text=True,
        timeout=30,
        cwd="/",
    )


class TestWho:
    """The kernel says who asks."""

    def test_everybody_acts_as_themselves(self, running: Path, service: FakeService) -> None:
        control = running / "control.sock"
        done = ask_as(control, "POST", "/v1/trash/list", "{}", uid=12345, groups=[777, 888])
        assert "200" in done.stdout.splitlines()[0], done
        assert service.last[1] == Caller(Credentials(12345, 12345, (777, 888)), everything=False)

    def test_root_is_nobody_special_on_the_socket_for_everybody(
        self, client: httpx.Client, service: FakeService
    ) -> None:
        """[perm-4]."""
        assert client.post("/v1/trash/list", content=b"{}").status_code == 200
        caller = service.last[1]
        assert caller.cred.uid == os.getuid()
        assert not caller.everything

    def test_operators_may_do_everything(
        self, operator: httpx.Client, service: FakeService
    ) -> None:
        """[perm-5]."""
        assert operator.post("/v1/trash/list", content=b"{}").status_code == 200
        assert service.last[1].everything

    def test_caller_is_that_of_each_connection(self, running: Path, service: FakeService) -> None:
        with http(running) as root, http(running, "admin.sock") as operator:
            for _ in range(3):
                root.post("/v1/trash/list", content=b"{}")
                ask_as(running / "control.sock", "GET", "/v1/trash/x", uid=12345, groups=[])
                operator.post("/v1/trash/list", content=b"{}")
        assert [caller.cred.uid for _, caller, _ in service.calls] == [0, 12345, 0] * 3
        assert [caller.everything for _, caller, _ in service.calls] == [False, False, True] * 3

    def test_headers_claim_nothing(self, client: httpx.Client, service: FakeService) -> None:
        headers = {"X-Remote-User": "0", "X-Forwarded-User": "root", "Caller": "everything"}
        client.post("/v1/trash/list", content=b"{}", headers=headers)
        assert not service.last[1].everything

    def test_many_groups(self, running: Path, service: FakeService) -> None:
        groups = list(range(20_000, 20_256))
        ask_as(running / "control.sock", "POST", "/v1/trash/list", "{}", uid=12345, groups=groups)
        assert service.last[1].cred.groups == tuple(groups)

    def test_more_groups_than_can_be_read_are_none(
        self, running: Path, service: FakeService, caplog: pytest.LogCaptureFixture
    ) -> None:
        groups = list(range(20_000, 20_300))
        ask_as(running / "control.sock", "POST", "/v1/trash/list", "{}", uid=12345, groups=groups)
        assert service.last[1].cred == Credentials(12345, 12345, ())
        assert "more than 256 groups" in caplog.text

    def test_others_may_not_open_the_operators_socket(self, running: Path) -> None:
        done = ask_as(running / "admin.sock", "GET", "/v1/status", uid=12345, groups=[])
        assert done.returncode != 0
        assert "PermissionError" in done.stderr

    def test_modes(self, running: Path) -> None:
        assert stat.S_IMODE((running / "admin.sock").stat().st_mode) == 0o600

    @pytest.mark.parametrize("umask", [0o022, 0o077])
    def test_everybody_may_open_theirs_whatever_the_umask(
        self, service: FakeService, base: Path, umask: int
    ) -> None:
        before = os.umask(umask)
        try:
            with serving(service, base):
                mode = stat.S_IMODE((base / "control.sock").stat().st_mode)
        finally:
            os.umask(before)
        assert mode == 0o666

    def test_stop_is_for_operators(self, running: Path, service: FakeService) -> None:
        with http(running) as client:
            response = client.post("/v1/stop", content=b"{}")
        assert response.status_code == 403
        assert error_of(response)["code"] == "denied"
        assert not service.stopped
        with http(running, "admin.sock") as operator:
            assert operator.post("/v1/stop", content=b"{}").status_code == 200
        assert service.stopped


class TestRequests:
    def test_status(self, client: httpx.Client) -> None:
        body = client.get("/v1/status").json()
        assert body["schema_version"] == 1
        assert (body["source"], body["pid"]) == ("posix:/data", 42)

    def test_list(self, client: httpx.Client, service: FakeService) -> None:
        query = {"below": "aG9tZQ==", "since_ns": 5, "deleter_uid": 1000, "glob": "*", "limit": 2}
        body = client.post("/v1/trash/list", json=query).json()
        assert body["schema_version"] == 1
        assert body["items"][0]["id"] == "18eaf1b2aec46709.a7f8"
        assert service.last[2] == TrashQuery("aG9tZQ==", 5, 1000, "*", 2)

    def test_show(self, client: httpx.Client, service: FakeService) -> None:
        body = client.get("/v1/trash/18eaf1b2aec46709.a7f8").json()
        assert body["children"] == [{"text": "a/b"}]
        assert service.last[2] == "18eaf1b2aec46709.a7f8"

    def test_restore(self, client: httpx.Client, service: FakeService) -> None:
        service.outcomes = [restored("conflict", "it exists")]
        asked = {"paths": ["aA=="], "to": "Yg==", "on_conflict": "keep-both", "dry_run": True}
        body = client.post("/v1/trash/restore", json=asked).json()
        assert body["items"][0]["outcome"] == "conflict"
        assert service.last[2] == RestoreRequest(
            paths=["aA=="], to="Yg==", on_conflict="keep-both", dry_run=True
        )

    def test_purge(self, client: httpx.Client, service: FakeService) -> None:
        body = client.post("/v1/trash/purge", json={"older_than_s": 60, "dry_run": True}).json()
        assert body["dry_run"] is True
        assert service.last[2] == PurgeRequest(older_than_s=60.0, dry_run=True)

    def test_audit(self, client: httpx.Client, service: FakeService) -> None:
        body = client.post("/v1/audit", json={"path": "aA==", "uid": 7, "limit": 3}).json()
        assert body["items"] == [msgspec.to_builtins(deed())]
        assert service.last[0] == "audit"
        assert service.last[2] == AuditQuery(path="aA==", uid=7, limit=3)
        body = client.post("/v1/audit/events", json={}).json()
        assert body["events"] == [msgspec.to_builtins(event())]
        assert service.last[0] == "audit events"
        assert client.post("/v1/audit", json={"limit": 0}).status_code == 400

    def test_explain(self, client: httpx.Client, service: FakeService) -> None:
        body = client.post("/v1/trash/explain", json={"path": "aA=="}).json()
        assert (body["kept"], body["rule"], body["versions"]) == (True, "logs", 3)
        assert service.last[2] == ExplainRequest("aA==")


class TestBadRequests:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'{"unknown": 1}',
            b'{"limit": "5"}',
            b'{"limit": 1.5}',
            pytest.param(b'{"glob": "\xff"}', id="not UTF-8"),
        ],
    )
    def test_body_that_is_not_understood(
        self, client: httpx.Client, service: FakeService, body: bytes
    ) -> None:
        response = client.post("/v1/trash/list", content=body)
        assert response.status_code == 400
        assert error_of(response)["code"] == "usage"
        assert service.calls == []

    def test_choice_that_is_none(self, client: httpx.Client, service: FakeService) -> None:
        response = client.post("/v1/trash/restore", json={"on_conflict": "merge"})
        assert response.status_code == 400
        assert service.calls == []

    @pytest.mark.filterwarnings("ignore:Async generator 'starlette:ResourceWarning")
    def test_body_that_is_too_long(self, client: httpx.Client, service: FakeService) -> None:
        response = client.post("/v1/trash/list", content=b" " * (17 * 1024 * 1024))
        assert response.status_code == 400
        assert "longer than" in error_of(response)["message"]
        assert service.calls == []

    def test_unknown_place_and_method(self, client: httpx.Client) -> None:
        assert client.get("/v2/status").status_code == 404
        assert client.get("/v1/stop").status_code in (404, 405)
        assert client.delete("/v1/trash/18eaf1b2aec46709.a7f8").status_code == 405

    def test_bug_is_logged_and_the_server_lives(
        self, client: httpx.Client, service: FakeService, caplog: pytest.LogCaptureFixture
    ) -> None:
        service.failure = ZeroDivisionError("secret")
        response = client.get("/v1/status")
        assert response.status_code == 500
        assert error_of(response)["code"] == "other"
        assert "secret" not in response.text
        assert "ZeroDivisionError: secret" in caplog.text
        service.failure = None
        assert client.get("/v1/status").status_code == 200

    @pytest.mark.parametrize("noise", [b"", b"\x00\xff\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
    def test_noise_is_no_bug(
        self, impatient: Path, noise: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(impatient / "control.sock"))
            peer.sendall(noise)
            peer.shutdown(socket.SHUT_WR)
            peer.settimeout(20)
            while peer.recv(4096):
                pass
        with http(impatient) as client:
            assert client.get("/livez").status_code == 200
        assert "a bug" not in caplog.text

    def test_peer_that_hangs_up_is_no_bug(
        self, running: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(running / "control.sock"))
            peer.sendall(_HALF_A_BODY)
        with http(running) as client:
            client.get("/livez")
        time.sleep(0.2)
        assert "a bug" not in caplog.text

    @pytest.mark.parametrize(
        "sent",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"GET /livez HT", id="half a line"),
            pytest.param(_HALF_A_BODY, id="half a body"),
        ],
    )
    def test_peer_that_says_nothing_is_let_go(self, impatient: Path, sent: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(8)
            peer.connect(str(impatient / "control.sock"))
            peer.sendall(sent)
            while peer.recv(4096):
                pass


class TestLongRequests:
    TOKEN = "0123456789abcdef"

    @contextlib.contextmanager
    def restoring(self, running: Path, service: FakeService) -> Iterator[list[httpx.Response]]:
        """Have a restore go on while the body runs; its answer is there afterwards."""
        service.lasts = True
        answers: list[httpx.Response] = []

        def ask() -> None:
            with http(running) as client:
                headers = {"Request-Token": self.TOKEN}
                answers.append(client.post("/v1/trash/restore", json={}, headers=headers))

        thread = threading.Thread(target=ask)
        thread.start()
        assert service.is_working.wait(20)
        try:
            yield answers
        finally:
            service.lasts = False
            thread.join(20)

    def test_says_how_far_it_is(self, running: Path, service: FakeService) -> None:
        path = f"/v1/requests/{self.TOKEN}"
        with http(running) as client:
            with self.restoring(running, service) as answers:
                body = client.get(path).json()
                assert body == {"schema_version": 1, "done": 3, "total": 7, "stopping": False}
            assert answers[0].json()["items"][0]["outcome"] == "restored"
            assert client.get(path).status_code == 404

    def test_stops(self, running: Path, service: FakeService) -> None:
        """[trash-15]"""
        with http(running) as client, self.restoring(running, service) as answers:
            assert client.post(f"/v1/requests/{self.TOKEN}/stop").json()["stopping"] is True
            wait_until(lambda: bool(answers), within_s=20)
        assert answers[0].json()["items"][0]["outcome"] == "stopped"

    def test_what_cannot_stop_says_so(self, running: Path, service: FakeService) -> None:
        service.can_stop = False
        with http(running) as client, self.restoring(running, service):
            assert client.post(f"/v1/requests/{self.TOKEN}/stop").json()["stopping"] is False

    def test_is_nobody_elses(self, running: Path, service: FakeService) -> None:
        with self.restoring(running, service):
            for method, place in (("GET", ""), ("POST", "/stop")):
                path = f"/v1/requests/{self.TOKEN}{place}"
                done = ask_as(running / "control.sock", method, path, uid=12345, groups=[])
                assert "404" in done.stdout.splitlines()[0], done

    def test_one_token_is_for_one_request(self, running: Path, service: FakeService) -> None:
        headers = {"Request-Token": self.TOKEN}
        with http(running) as client, self.restoring(running, service):
            answer = client.post("/v1/trash/purge", json={"all": True}, headers=headers)
            assert answer.status_code == 409

    @pytest.mark.parametrize("token", ["", "short", "x" * 16, "0" * 65])
    def test_token_that_is_none(self, client: httpx.Client, token: str) -> None:
        headers = {"Request-Token": token}
        assert client.post("/v1/trash/restore", json={}, headers=headers).status_code == 400


class TestHealth:
    def test_metrics(self, client: httpx.Client) -> None:
        response = client.get("/metrics")
        assert response.content == METRICS
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")

    def test_live(self, client: httpx.Client) -> None:
        response = client.get("/livez")
        assert (response.status_code, response.text) == (200, "[+]loop ok\n")

    def test_ready_says_what_is_not(self, client: httpx.Client, service: FakeService) -> None:
        service.checks = [Check("storage", ok=True), Check("mds", ok=False, reason="laggy")]
        response = client.get("/readyz")
        assert response.status_code == 503
        assert response.text == "[+]storage ok\n[-]mds laggy\n"
        assert client.get("/livez").status_code == 200

    def test_tcp_has_health_and_nothing_else(self, service: FakeService, base: Path) -> None:
        port = free_port()
        with (
            serving(service, base, metrics_listen=f"127.0.0.1:{port}"),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
        ):
            for place in ("/metrics", "/livez", "/readyz"):
                assert client.get(place).status_code == 200
            for place in ("/v1/status", "/v1/trash/18eaf1b2aec46709.a7f8"):
                assert client.get(place).status_code == 404
            posts = ("trash/list", "trash/restore", "trash/purge", "audit", "audit/events", "stop")
            for place in (f"/v1/{name}" for name in posts):
                assert client.post(place, content=b"{}").status_code == 404
        assert service.calls == []

    @pytest.mark.parametrize("address", ["127.0.0.1:", "127.0.0.1:x", "256.0.0.1:9283"])
    def test_tcp_address_that_is_none(self, service: FakeService, base: Path, address: str) -> None:
        assert refused_address(service, base, address).exit_code == ExitCode.USAGE

    def test_tcp_address_in_use(self, service: FakeService, base: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            error = refused_address(service, base, f"127.0.0.1:{taken.getsockname()[1]}")
        assert "control.metrics_listen" in str(error)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def refused_address(service: FakeService, base: Path, address: str) -> UserError:
    with (
        pytest.raises(BaseExceptionGroup) as caught,
        serving(service, base, metrics_listen=address),
    ):
        pass
    errors = leaves(caught.value)
    assert len(errors) == 1
    assert isinstance(errors[0], UserError)
    assert "write HOST:PORT" in str(errors[0])
    return errors[0]


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def test_sockets_of_a_dead_daemon_are_replaced(service: FakeService, base: Path) -> None:
    for name in ("control.sock", "admin.sock"):
        with socket.socket(socket.AF_UNIX) as left_over:
            left_over.bind(str(base / name))
    with serving(service, base), http(base) as client:
        assert client.get("/livez").status_code == 200
    assert os.listdir(base) == []


def test_metrics_while_a_request_takes_long(running: Path, service: FakeService) -> None:
    with socket.socket(socket.AF_UNIX) as slow, http(running) as client:
        slow.connect(str(running / "control.sock"))
        slow.sendall(_HALF_A_BODY)
        assert client.get("/metrics").status_code == 200


def test_json_is_what_is_documented(client: httpx.Client) -> None:
    listing = json.loads(client.post("/v1/trash/list", content=b"{}").content)
    assert set(listing) == {"schema_version", "items", "damaged", "more"}
    assert {"id", "path", "kind", "deleted_at", "deleted_ns", "deleter_uid"} < set(
        listing["items"][0]
    )


def test_peer_that_never_reads_does_not_hold_up_the_end(base: Path) -> None:
    service = FakeService()
    service.items = [item(path="x" * 4096)] * 2000
    with socket.socket(socket.AF_UNIX) as peer, serving(service, base, end_s=3):
        peer.connect(str(base / "control.sock"))
        peer.sendall(b"POST /v1/trash/list HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        wait_until_full(peer)


def test_peer_that_never_reads_is_let_go(
    service: FakeService, running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cephfs_ext.control.peers._SEND_S", 0.5)
    service.items = [item(path="x" * 4096)] * 2000
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(str(running / "control.sock"))
        peer.sendall(b"POST /v1/trash/list HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        wait_until_full(peer)
        time.sleep(0.6)
        assert sum(map(len, iter(lambda: peer.recv(1 << 20), b""))) < 2000 * 4096


def test_user_with_too_many_connections_keeps_nobody_else_out(running: Path) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(65):
            peer = stack.enter_context(socket.socket(socket.AF_UNIX))
            peer.settimeout(2)
            peer.connect(str(running / "control.sock"))
            if number == 64:
                assert peer.recv(1) == b""
        done = ask_as(running / "control.sock", "GET", "/livez", uid=12345, groups=[])
        assert "200" in done.stdout.splitlines()[0], done


def test_user_who_asks_often_is_always_answered(running: Path) -> None:
    """Each time over a connection of its own, as probes and commands do."""
    for _ in range(150):
        with http(running) as client:
            assert client.get("/livez").status_code == 200


def wait_until_full(peer: socket.socket) -> None:
    """Return when a sender waits for us to read."""
    before, now = -1, 0
    while not 0 < now == before:
        time.sleep(0.3)
        before = now
        now = struct.unpack("i", fcntl.ioctl(peer, termios.FIONREAD, bytes(4)))[0]
