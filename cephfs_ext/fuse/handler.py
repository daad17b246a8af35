"""The guard that every FUSE handler wears.

An exception that is no `FUSEError` ends a pyfuse3 mount. The guard lets none through: what is
documented becomes its errno, a bug becomes EIO, a logged traceback and a counter. What is logged
while a handler runs says which request it was.
"""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import pyfuse3

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.ports import Meter
from cephfs_ext.observe.logs import Fields, current_request
from cephfs_ext.vfs.requests import Requests

_log = logging.getLogger(__name__)


class Metered(Protocol):
    """What has handlers."""

    @property
    def meter(self) -> Meter:
        """Where the guard counts."""
        ...

    @property
    def requests(self) -> Requests:
        """Where the guard notes what is under way."""
        ...


S = TypeVar("S", bound=Metered)
P = ParamSpec("P")
R = TypeVar("R")


def handler(
    func: Callable[Concatenate[S, P], Awaitable[R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Guard a handler: it raises FUSEError only, and is measured under its own name."""
    op = func.__name__
    described = _describer(op, list(inspect.signature(func).parameters)[1:])

    @functools.wraps(func)
    async def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        begun = time.perf_counter()
        request = current_request.set((described, args))
        stamp = self.requests.begin()
        try:
            return await func(self, *args, **kwargs)
        except FSError as exc:
            label = errno.errorcode.get(exc.errno, "other")
            self.meter.count("fuse_op_errors_total", op=op, errno=label)
            raise pyfuse3.FUSEError(exc.errno) from None
        except Exception:
            _log.exception("a bug in %s", op)
            self.meter.count("fuse_bugs_total", op=op)
            self.meter.count("fuse_op_errors_total", op=op, errno="EIO")
            raise pyfuse3.FUSEError(errno.EIO) from None
        finally:
            self.requests.end(stamp)
            current_request.reset(request)
            self.meter.observe("fuse_op_duration_seconds", time.perf_counter() - begun, op=op)

    return guarded


def _describer(op: str, names: Sequence[str]) -> Callable[[tuple[Any, ...]], Fields]:
    """Build what makes the fields of a request of its arguments, for a handler's parameters.

    The inode is that of the directory where there is a name. Of a request on an open file FUSE
    says neither inode nor caller: it has the handle.
    """
    first = {"parent": "ino", "node_id": "ino", "fh": "fh"}.get(names[0])
    ctx_at = names.index("ctx") if "ctx" in names else None

    def described(args: tuple[Any, ...]) -> Fields:
        fields: dict[str, str | int] = {"op": op}
        if first is not None:
            fields[first] = args[0]
        if ctx_at is not None:
            fields |= {"uid": args[ctx_at].uid, "pid": args[ctx_at].pid}
        return fields

    return described
