"""The daemon's HTTP interface.

Two UNIX sockets. `control.sock` is for everybody: each request acts with the uid and groups that
the kernel says the peer has, uid 0 not excepted, because root in a container is not root of the
storage. `admin.sock` is for operators and may do everything; it is never handed to containers.
With `metrics_listen`, a TCP port has the metrics and the health checks, nothing else.

A bug in a handler is answered with 500 and a logged traceback; the server goes on. A peer that
says nothing, doesn't read, or opens connections without end is let go, and holds up nobody else,
nor the end of the daemon: see `cephfs_ext.control.peers`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import socket
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from typing import Any, TypeVar, cast

import msgspec
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import wrap_app
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cephfs_ext.control.jobs import JobQuery, JobRequest, JobService
from cephfs_ext.control.peers import Peer, Peers
from cephfs_ext.control.service import (
    SCHEMA_VERSION,
    AllowRequest,
    AuditQuery,
    Caller,
    Check,
    ErrorBody,
    ExplainRequest,
    HoldRequest,
    ListingEnd,
    PurgeRequest,
    RequestProgress,
    RestoreRequest,
    Service,
    TrashItem,
    TrashQuery,
)
from cephfs_ext.control.state import ADMIN_SOCKET, CONTROL_SOCKET
from cephfs_ext.control.under_way import HEADER, UnderWay
from cephfs_ext.core.errors import (
    DeniedError,
    ExistsError,
    ExitCode,
    FSError,
    NotFoundError,
    TryAgainError,
    UserError,
)
from cephfs_ext.core.types import Credentials
from cephfs_ext.observe.logs import request_fields
from trashbin.progress import Progress

_log = logging.getLogger(__name__)

_BODY_LIMIT = 16 * 1024 * 1024
_SO_PEERGROUPS = 59
_UCRED = struct.Struct("=iII")
_GROUP_BYTES = 1024  # what Python's getsockopt can take
_WAITING = 64
"""Connections that wait for accept."""

_PATIENCE_S = 5.0
"""How long a peer may take to say what it wants."""

_STATUS = {
    "usage": 400,
    "denied": 403,
    "not_found": 404,
    "conflict": 409,
    "other": 500,
    "temporary": 503,
}
_CODES = {
    ExitCode.USAGE: "usage",
    ExitCode.DENIED: "denied",
    ExitCode.NOT_FOUND: "not_found",
    ExitCode.CONFLICT: "conflict",
    ExitCode.TEMPORARY: "temporary",
}

_Handler = Callable[[Request], Awaitable[Response]]
T = TypeVar("T")


def peer_credentials(peer: trio.socket.SocketType) -> Credentials:
    """Ask the kernel who is at the other end of a UNIX socket."""
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, gid = _UCRED.unpack(raw)
    return Credentials(uid, gid, _peer_groups(peer))


def _peer_groups(peer: trio.socket.SocketType) -> tuple[int, ...]:
    try:
        raw = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUP_BYTES)
    except OSError as exc:
        if exc.errno != errno.ERANGE:
            raise
        _log.warning("a caller with more than %d groups acts without them", _GROUP_BYTES // 4)
        return ()
    return tuple(memoryview(raw).cast("I"))


def _code_of(error: FSError) -> str:
    kinds: tuple[tuple[type[FSError], str], ...] = (
        (NotFoundError, "not_found"),
        (DeniedError, "denied"),
        (ExistsError, "conflict"),
        (TryAgainError, "temporary"),
    )
    return next((code for kind, code in kinds if isinstance(error, kind)), "other")


def _reply(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def _error(code: str, message: str) -> Response:
    return _reply({"error": ErrorBody(code, message)}, _STATUS[code])


def _guarded(handler: _Handler) -> _Handler:
    """Turn what a handler raises into an answer."""

    @functools.wraps(handler)
    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response()  # nobody reads it
        except FSError as exc:
            return _error(_code_of(exc), exc.what or os.strerror(exc.errno or errno.EIO))
        except UserError as exc:
            return _error(_CODES.get(exc.exit_code, "other"), str(exc))
        except Exception:
            _log.exception("a bug in %s %s", request.method, request.url.path)
            return _error("other", "a bug in the gateway; its log has the traceback")

    return guarded


async def _wanted(request: Request, kind: type[T]) -> T:
    """Read what a request asks for.

    Raises:
        UserError: it isn't understood, or doesn't arrive.
    """
    patience_s: float = request.scope["patience_s"]
    with trio.move_on_after(patience_s) as reading:
        body = await _body(request)
    if reading.cancelled_caught:
        raise UserError(f"the request did not arrive within {patience_s:g} s", ExitCode.USAGE)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise UserError(str(exc), ExitCode.USAGE) from exc


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _BODY_LIMIT:
            raise UserError(f"the request is longer than {_BODY_LIMIT} bytes", ExitCode.USAGE)
        parts.append(part)
    return b"".join(parts)


def _caller(request: Request) -> Caller:
    caller: Caller = request.scope["caller"]
    return caller


def _checks(checks: list[Check]) -> Response:
    lines = [f"[{'+' if c.ok else '-'}]{c.name} {c.reason or 'ok'}" for c in checks]
    ok = all(check.ok for check in checks)
    return Response("\n".join(lines) + "\n", 200 if ok else 503, media_type="text/plain")


def _health_routes(service: Service) -> list[Route]:
    async def live(_: Request) -> Response:
        return _checks(await service.live())

    async def ready(_: Request) -> Response:
        return _checks(await service.ready())

    async def metrics(_: Request) -> Response:
        body, kind = service.metrics()
        return Response(body, media_type=kind)

    handlers = {"/livez": live, "/readyz": ready, "/metrics": metrics}
    return [Route(path, _guarded(handler)) for path, handler in handlers.items()]


def _posted(path: str, kind: type[T], answer: Callable[[Caller, T], Awaitable[object]]) -> Route:
    """Return a route on which a caller asks for something with a document."""

    async def handler(request: Request) -> Response:
        wanted = await _wanted(request, kind)
        return _reply(await answer(_caller(request), wanted))

    return Route(path, _guarded(handler), methods=["POST"])


class _Document(Response):
    """One JSON document that is sent while it is made; who goes away ends the making of it."""

    media_type = "application/json"

    def __init__(self, parts: AsyncGenerator[bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._parts = parts

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with contextlib.aclosing(self._parts) as parts, trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await send(start)
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b""})  # which makes it a disconnect


_PART_BYTES = 16 * 1024
_PART_S = 0.2
"""How long items are gathered that are sent together."""


async def _listed(
    first: TrashItem | ListingEnd, rest: AsyncGenerator[TrashItem | ListingEnd]
) -> AsyncGenerator[bytes]:
    """Yield a listing in parts: each item is a line."""
    data, sent_s = b'{"schema_version":%d,"items":[' % SCHEMA_VERSION, 0.0
    separator = b"\n"
    async with contextlib.aclosing(rest):
        one = first
        while isinstance(one, TrashItem):
            data, separator = data + separator + msgspec.json.encode(one), b",\n"
            if len(data) >= _PART_BYTES or time.monotonic() > sent_s + _PART_S:
                yield data
                data, sent_s = b"", time.monotonic()
            one = await _next_or_end(rest)
    yield data + b"\n]," + msgspec.json.encode(one).removeprefix(b"{") + b"\n"


async def _next_or_end(rest: AsyncGenerator[TrashItem | ListingEnd]) -> TrashItem | ListingEnd:
    """Return what comes next, which may be that it can't go on."""
    try:
        return await anext(rest)
    except FSError as exc:
        error = ErrorBody(_code_of(exc), exc.what or os.strerror(exc.errno or errno.EIO))
    except Exception:
        _log.exception("a bug in a listing")
        error = ErrorBody("other", "a bug in the gateway; its log has the traceback")
    return ListingEnd(damaged=[], more=True, error=error)


def _list_route(service: Service) -> Route:
    async def handler(request: Request) -> Response:
        query = await _wanted(request, TrashQuery)
        found = service.trash_list(_caller(request), query)
        return _Document(_listed(await anext(found), found))

    return Route("/v1/trash/list", _guarded(handler), methods=["POST"])


def _job_routes(service: JobService) -> list[Route]:
    return [
        _posted("/v1/jobs/list", JobQuery, service.jobs_list),
        _posted("/v1/jobs/ask", JobRequest, service.jobs_ask),
    ]


def _long(
    path: str,
    kind: type[T],
    answer: Callable[[Caller, T, Progress], Awaitable[object]],
    under_way: UnderWay,
) -> Route:
    """Return a route on which a caller asks for something that may take long."""

    async def handler(request: Request) -> Response:
        wanted = await _wanted(request, kind)
        with under_way.listed(request.headers.get(HEADER), _caller(request)) as progress:
            return _reply(await answer(_caller(request), wanted, progress))

    return Route(path, _guarded(handler), methods=["POST"])


def _request_routes(under_way: UnderWay) -> list[Route]:
    def asked(request: Request) -> Progress:
        return under_way.of(request.path_params["token"], _caller(request))

    async def show(request: Request) -> Response:
        return _reply(_progress(asked(request)))

    async def stop(request: Request) -> Response:
        asked(request).stop()
        return _reply(_progress(asked(request)))

    return [
        Route("/v1/requests/{token}", _guarded(show)),
        Route("/v1/requests/{token}/stop", _guarded(stop), methods=["POST"]),
    ]


def _progress(progress: Progress) -> RequestProgress:
    stopping = progress.stops and progress.can_stop
    return RequestProgress(done=progress.done, total=progress.total, stopping=stopping)


def _service_routes(service: Service) -> list[Route]:
    under_way = UnderWay()

    async def status(_: Request) -> Response:
        return _reply(await service.status())

    async def show(request: Request) -> Response:
        return _reply(await service.trash_show(_caller(request), request.path_params["id"]))

    async def stop(request: Request) -> Response:
        if not _caller(request).everything:
            raise DeniedError(what="only the operators' socket may stop the mount")
        service.stop()
        return _reply({})

    return [
        Route("/v1/status", _guarded(status)),
        _list_route(service),
        _long("/v1/trash/restore", RestoreRequest, service.trash_restore, under_way),
        _long("/v1/trash/purge", PurgeRequest, service.trash_purge, under_way),
        *_request_routes(under_way),
        _posted("/v1/trash/explain", ExplainRequest, service.trash_explain),
        _posted("/v1/trash/allow", AllowRequest, service.trash_allow),
        _posted("/v1/trash/hold", HoldRequest, service.trash_hold),
        _posted("/v1/trash/release", HoldRequest, service.trash_release),
        Route("/v1/trash/{id}", _guarded(show)),
        _posted("/v1/audit", AuditQuery, service.audit),
        _posted("/v1/audit/events", AuditQuery, service.audit_events),
        Route("/v1/stop", _guarded(stop), methods=["POST"]),
    ]


class _Connection(TCPServer):
    """A connection that ends when its peer has gone.

    hypercorn would keep it as long as it waits for a next request, and a peer that asks often, each
    time anew, would have more of them than it may.
    """

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.context.terminated.set()


class ControlServer:
    """Serves the sockets until cancelled."""

    def __init__(
        self,
        service: Service,
        jobs: JobService,
        directory: str,
        *,
        metrics_listen: str,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._directory = directory
        self._metrics_listen = metrics_listen
        self._patience_s = patience_s
        health = _health_routes(service)
        self._full = Starlette(routes=[*health, *_service_routes(service), *_job_routes(jobs)])
        self._health = Starlette(routes=health)
        self._config = HypercornConfig()
        self._config.accesslog = self._config.errorlog = None
        self._config.keep_alive_timeout = patience_s

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve.

        Raises:
            UserError: the TCP address can't be used.
        """
        async with contextlib.AsyncExitStack() as stack:
            control = await self._listen(stack, CONTROL_SOCKET, 0o666)
            admin = await self._listen(stack, ADMIN_SOCKET, 0o600)
            peers = Peers()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peers.let_go_at_the_end)
                nursery.start_soon(self._serve, peers, control, self._as_peer)
                nursery.start_soon(self._serve, peers, admin, self._as_operator)
                if self._metrics_listen:
                    tcp = await self._listen_tcp()
                    nursery.start_soon(self._serve, peers, tcp, self._as_nobody)
                task_status.started()

    async def _listen(
        self, stack: contextlib.AsyncExitStack, name: str, mode: int
    ) -> trio.SocketListener:
        path = os.path.join(self._directory, name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.fchmod(sock.fileno(), mode)  # before bind: the name never allows more
        await sock.bind(path)
        stack.callback(_unlink, path)
        os.chmod(path, mode)  # after it: bind(2) has applied the umask
        sock.listen(_WAITING)
        return trio.SocketListener(sock)

    async def _listen_tcp(self) -> trio.SocketListener:
        host, _, port = self._metrics_listen.rpartition(":")
        try:
            listeners = await trio.open_tcp_listeners(int(port), host=host or None)
        except (OSError, ValueError) as exc:
            raise UserError(
                f"control.metrics_listen = {self._metrics_listen!r}: {exc}; write HOST:PORT",
                ExitCode.USAGE,
            ) from exc
        return listeners[0]

    async def _serve(
        self,
        peers: Peers,
        listener: trio.SocketListener,
        app_for: Callable[[trio.SocketStream], tuple[Hashable, Any]],
    ) -> None:
        async def connection(stream: trio.SocketStream) -> None:
            try:
                who, app = app_for(stream)
                with peers.served(stream, who) as peer:
                    if peer is not None:
                        await self._connection(peer, app)
            except Exception:  # a bug here must not end the mount
                _log.exception("a bug in the control server")

        await trio.serve_listeners(connection, [listener])

    async def _connection(self, peer: Peer, asgi: Any) -> None:
        app: AppWrapper = wrap_app(asgi, self._config.wsgi_max_body_size, None)
        await _Connection(
            app,
            self._config,
            WorkerContext(None),
            ConnectionState({}),
            cast("trio.SSLStream[trio.SocketStream]", peer),  # plain ones will do
        )

    def _as_peer(self, stream: trio.SocketStream) -> tuple[Hashable, Any]:
        caller = Caller(peer_credentials(stream.socket), everything=False)
        return caller.cred.uid, self._for_caller(caller)

    def _as_operator(self, stream: trio.SocketStream) -> tuple[Hashable, Any]:
        caller = Caller(peer_credentials(stream.socket), everything=True)
        return "operator", self._for_caller(caller)

    def _as_nobody(self, _: trio.SocketStream) -> tuple[Hashable, Any]:
        return "nobody", self._health

    def _for_caller(self, caller: Caller) -> Any:
        async def with_caller(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                scope["caller"] = caller
                scope["patience_s"] = self._patience_s
            with request_fields(op=f"http {scope.get('path')}", uid=caller.cred.uid):
                await self._full(scope, receive, send)

        return with_caller


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
