"""Talks to a daemon over its UNIX socket; finds the daemon that serves a path."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import httpx
import msgspec

from cephfs_ext.control.service import ListingEnd, RequestProgress, TrashItem, TrashQuery
from cephfs_ext.control.state import ADMIN_SOCKET, CONTROL_SOCKET, State, all_states
from cephfs_ext.control.under_way import HEADER
from cephfs_ext.core.errors import ExitCode, UserError
from cephfs_ext.core.mountinfo import mount_above

SOCKET_VARIABLE = "CEPHFS_EXT_SOCKET"
_TIMEOUT_S = 3600.0
"""A restore of a large tree takes as long as it takes."""

_WATCH_S = 0.2
"""How often a long request is asked how far it is."""

Tell = Callable[[RequestProgress], None]

_EXIT_CODES = {
    "usage": ExitCode.USAGE,
    "not_found": ExitCode.NOT_FOUND,
    "conflict": ExitCode.CONFLICT,
    "temporary": ExitCode.TEMPORARY,
    "denied": ExitCode.DENIED,
}

T = TypeVar("T")


def find_daemon(path: str | None, runtime_dir: str) -> tuple[str, State]:
    """Return the directory and state of the daemon that serves a path, or of the only one.

    Works in bind mounts too: the device number is that of the mount.

    Args:
        path: in which no link is to be followed.
        runtime_dir: where daemons have their directories.

    Raises:
        UserError: none, or more than one.
    """
    states = all_states(runtime_dir)
    device = None if path is None else _device_of(path)
    for directory, state in states:
        if device is not None and state.dev == device:
            return directory, state
    if not states:
        raise UserError(
            f"no gateway is running (looked in {runtime_dir}); see cephfs-ext mount --help",
            ExitCode.NOT_FOUND,
        )
    if path is None and len(states) == 1:
        return states[0]
    mounts = ", ".join(state.mountpoint for _, state in states)
    if path is not None:
        raise UserError(f"{path} is on no gateway mount; there is {mounts}", ExitCode.NOT_FOUND)
    raise UserError(f"several gateways run; name a path on one of {mounts}", ExitCode.USAGE)


def _device_of(path: str) -> int:
    """Return the device of the nearest existing name: what was deleted is not there."""
    path = os.path.abspath(path)
    while True:
        try:
            return os.lstat(path).st_dev
        except (FileNotFoundError, NotADirectoryError):
            path = os.path.dirname(path)
        except OSError:  # a storage that refuses: then the mount says it
            return mount_above(path).device


def socket_of(directory: str) -> str:
    """Return the socket to use: the operators' if this process may open it."""
    admin = os.path.join(directory, ADMIN_SOCKET)
    if os.access(admin, os.R_OK | os.W_OK):
        return admin
    return os.path.join(directory, CONTROL_SOCKET)


class Client:
    """A connection to one daemon."""

    def __init__(self, socket_path: str, *, timeout_s: float | None = None) -> None:
        self._path = socket_path
        transport = httpx.HTTPTransport(uds=socket_path)
        self._http = httpx.Client(
            transport=transport, base_url="http://gateway", timeout=timeout_s or _TIMEOUT_S
        )

    def get(self, path: str, kind: type[T]) -> T:
        """Ask for something.

        Raises:
            UserError: what the daemon answered, or that it doesn't.
        """
        return self._request("GET", path, None, kind)

    def post(self, path: str, body: object, kind: type[T]) -> T:
        """Ask for something to be done.

        Raises:
            UserError: what the daemon answered, or that it doesn't.
        """
        return self._request("POST", path, body, kind)

    def post_long(self, path: str, body: object, kind: type[T], *, tell: Tell | None) -> T:
        """Ask for something that may take long; an interrupt has it stopped.

        What is answered then says what has been done. A second interrupt waits no longer.

        Args:
            tell: is told now and then how far it is.

        Raises:
            UserError: what the daemon answered, or that it doesn't, or that it can't be stopped.
        """
        token = secrets.token_hex(8)
        answer: Future[T] = Future()

        def ask() -> None:
            try:
                answer.set_result(self._request("POST", path, body, kind, {HEADER: token}))
            except BaseException as exc:
                answer.set_exception(exc)

        threading.Thread(target=ask, daemon=True).start()
        with contextlib.ExitStack() as stack:

            @functools.cache
            def beside() -> Client:
                return stack.enter_context(contextlib.closing(Client(self._path)))

            return _watched(answer, beside, f"/v1/requests/{token}", tell)

    def _request(
        self,
        method: str,
        path: str,
        body: object,
        kind: type[T],
        headers: Mapping[str, str] | None = None,
    ) -> T:
        content = None if body is None else msgspec.json.encode(body)
        try:
            response = self._http.request(method, path, content=content, headers=headers)
        except httpx.TransportError as exc:
            raise UserError(
                f"the gateway at {self._path} doesn't answer: {exc}", ExitCode.TEMPORARY
            ) from exc
        if response.status_code != 200:
            raise _failure(response)
        try:
            return msgspec.json.decode(response.content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise self._misunderstood(exc) from exc

    def listing(self, query: TrashQuery) -> Iterator[TrashItem | ListingEnd]:
        """Ask what is in the trash, and yield it as it comes; the end is the last.

        Raises:
            UserError: what the daemon answered, or that it doesn't; some may have been yielded.
        """
        content = msgspec.json.encode(query)
        try:
            with self._http.stream("POST", "/v1/trash/list", content=content) as response:
                if response.status_code != 200:
                    response.read()
                    raise _failure(response)
                yield from self._lines_of(response)
        except httpx.TransportError as exc:
            raise UserError(
                f"the gateway at {self._path} doesn't answer: {exc}", ExitCode.TEMPORARY
            ) from exc

    def _lines_of(self, response: httpx.Response) -> Iterator[TrashItem | ListingEnd]:
        lines = _lines(response.iter_bytes())
        next(lines)  # opens the list
        try:
            for line in lines:
                if line.startswith(b"],"):
                    end = msgspec.json.decode(b"{" + line[2:], type=ListingEnd)
                    if end.error is not None:
                        code = _EXIT_CODES.get(end.error.code, ExitCode.OTHER)
                        raise UserError(end.error.message, code)
                    yield end
                    return
                yield msgspec.json.decode(line.rstrip(b","), type=TrashItem)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise self._misunderstood(exc) from exc
        raise UserError(f"the gateway at {self._path} has not said all", ExitCode.TEMPORARY)

    def _misunderstood(self, problem: Exception) -> UserError:
        return UserError(
            f"the answer of the gateway at {self._path} is not understood ({problem}); use the "
            "cephfs-ext of its version"
        )

    def close(self) -> None:
        """End the connection."""
        self._http.close()


def _watched(answer: Future[T], beside: Callable[[], Client], path: str, tell: Tell | None) -> T:
    """Wait for an answer, and ask on another connection how far it is."""
    is_stopping = False
    while True:
        try:
            with contextlib.suppress(TimeoutError):
                return answer.result(_WATCH_S)
            if tell is not None:
                with _nothing_there():
                    tell(beside().get(path, RequestProgress))
        except KeyboardInterrupt:
            if is_stopping:
                raise
            with _nothing_there():
                is_stopping = beside().post(f"{path}/stop", None, RequestProgress).stopping
            if not is_stopping and not answer.done():
                raise UserError("interrupted; the gateway goes on by itself") from None


@contextlib.contextmanager
def _nothing_there() -> Iterator[None]:
    """Go on if the request isn't there: it has just begun, or is over."""
    try:
        yield
    except UserError as exc:
        if exc.exit_code != ExitCode.NOT_FOUND:
            raise


def _lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        yield from lines


def _failure(response: httpx.Response) -> UserError:
    try:
        error: dict[str, Any] = response.json()["error"]
        return UserError(error["message"], _EXIT_CODES.get(error["code"], ExitCode.OTHER))
    except (ValueError, KeyError, TypeError):
        return UserError(f"the gateway answered {response.status_code}", ExitCode.OTHER)
