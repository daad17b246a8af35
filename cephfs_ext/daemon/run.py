"""Starts a gateway, in the foreground or as a daemon; the command returns when the mount answers.

The daemon is forked before anything is started. It tells its parent over a pipe how the start
went: nothing but an `ok`, or the error that the command then prints.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable

import trio

from cephfs_ext.control.state import State, daemon_dir, is_alive, make_shared_dir, read_state
from cephfs_ext.core import mountinfo
from cephfs_ext.core.config import Config, LogConfig, Source
from cephfs_ext.core.errors import ExitCode, UserError
from cephfs_ext.daemon import mounts
from cephfs_ext.observe.logs import setup_logging

_log = logging.getLogger(__name__)


def mount(config: Config, source: Source, mountpoint: str, *, foreground: bool) -> None:
    """Mount `source`; in the foreground, return when it has been unmounted again.

    Raises:
        UserError: it could not be mounted; nothing is left behind.
    """
    mounts.check_device()
    mountpoint = mountinfo.mountpoint_of(mountpoint)
    runtime = daemon_dir(config.control.runtime_dir, mountpoint)
    predecessor = _predecessor(runtime, mountpoint)
    mounts.prepare_mountpoint(source, mountpoint)
    if foreground:
        setup_logging(config.log)
        _serve(config, source, mountpoint, runtime, predecessor, lambda: None)
        return
    _in_background(
        _log_of_daemon(config.log, runtime),
        lambda ready: _serve(config, source, mountpoint, runtime, predecessor, ready),
    )


def _log_of_daemon(log: LogConfig, runtime: str) -> LogConfig:
    """A daemon has no terminal: without a file it logs beside its sockets."""
    if log.file:
        return dataclasses.replace(log, file=os.path.abspath(log.file))
    make_shared_dir(os.path.dirname(runtime))
    return dataclasses.replace(log, file=runtime + ".log")


def _predecessor(runtime: str, mountpoint: str) -> State | None:
    """Return what a dead daemon at the same mountpoint left behind."""
    state = read_state(runtime)
    if state is not None and is_alive(state):
        raise UserError(
            f"{mountpoint} is already served by process {state.pid}; "
            f"unmount it first (cephfs-ext umount {mountpoint})",
            ExitCode.CONFLICT,
        )
    return state


def _serve(
    config: Config,
    source: Source,
    mountpoint: str,
    runtime: str,
    predecessor: State | None,
    ready: Callable[[], None],
) -> None:
    # Imported late: what is imported before a fork must not have started threads.
    from cephfs_ext.daemon.serve import serve

    trio.run(serve, config, source, mountpoint, runtime, predecessor, ready)


def _in_background(log: LogConfig, serve: Callable[[Callable[[], None]], None]) -> None:
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        _daemon(log, serve, writing)
    os.close(writing)
    os.wait()
    with os.fdopen(reading, "rb") as answer:
        _raise_if_failed(answer.read())


def _raise_if_failed(answer: bytes) -> None:
    if answer == b"ok":
        return
    try:
        failure = json.loads(answer)
    except ValueError:
        raise UserError("the daemon died while it started; see its log (log.file)") from None
    raise UserError(failure["message"], failure["exit_code"])


def _daemon(log: LogConfig, serve: Callable[[Callable[[], None]], None], answer: int) -> None:
    """Run in the daemon; never returns."""
    code = ExitCode.OTHER
    try:
        os.chdir("/")
        _detach_streams()
        setup_logging(log)
        serve(lambda: _answer(answer, b"ok"))
        code = ExitCode.OK
    except UserError as exc:
        _log.error("%s", exc)
        failure = {"message": str(exc), "exit_code": exc.exit_code}
        _answer(answer, json.dumps(failure).encode())
    except BaseException:
        _log.exception("the gateway died of a bug")
    finally:
        logging.shutdown()
        os._exit(code)


def _answer(pipe: int, text: bytes) -> None:
    try:
        os.write(pipe, text)
        os.close(pipe)
    except OSError:
        _log.info("nobody waits for the start any more")


def _detach_streams() -> None:
    """Let go of the terminal: a caller that reads our output would wait for ever."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
