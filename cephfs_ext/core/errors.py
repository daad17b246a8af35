"""The errors of the project, and the one place where the sign of an errno is handled.

Three kinds that are never mixed:

* `FSError`: an operation failed as documented; it carries the errno that the caller will see.
* `UserError`: bad input or configuration; one line with the fix in it, and an exit code.
* anything else: a bug.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import ClassVar


class FSError(Exception):
    """An operating error with an errno; by default nothing has changed."""

    default_errno: ClassVar[int] = _errno.EIO

    def __init__(self, errno: int | None = None, what: str = "") -> None:
        self.errno = self.default_errno if errno is None else errno
        self.what = what
        super().__init__(self.errno, what)

    def __str__(self) -> str:
        text = os.strerror(self.errno)
        return f"{self.what}: {text}" if self.what else text


class NotFoundError(FSError):
    """ENOENT."""

    default_errno = _errno.ENOENT


class ExistsError(FSError):
    """EEXIST."""

    default_errno = _errno.EEXIST


class NotEmptyError(FSError):
    """ENOTEMPTY."""

    default_errno = _errno.ENOTEMPTY


class DeniedError(FSError):
    """EACCES or EPERM."""

    default_errno = _errno.EPERM


class CrossDomainError(FSError):
    """EXDEV: the two names lie in different rename domains."""

    default_errno = _errno.EXDEV


class FullError(FSError):
    """ENOSPC or EDQUOT."""

    default_errno = _errno.ENOSPC


class TryAgainError(FSError):
    """EAGAIN or EBUSY: a temporary refusal."""

    default_errno = _errno.EAGAIN


class ExchangedError(TryAgainError):
    """EAGAIN: somebody has put another inode in the place of the one that was looked at."""


_BY_ERRNO: dict[int, type[FSError]] = {
    _errno.ENOENT: NotFoundError,
    _errno.EEXIST: ExistsError,
    _errno.ENOTEMPTY: NotEmptyError,
    _errno.EACCES: DeniedError,
    _errno.EPERM: DeniedError,
    _errno.EXDEV: CrossDomainError,
    _errno.ENOSPC: FullError,
    _errno.EDQUOT: FullError,
    _errno.EAGAIN: TryAgainError,
    _errno.EBUSY: TryAgainError,
}


def fs_error(errno: int, what: str = "") -> FSError:
    """Build the error of class that fits a positive `errno`."""
    return _BY_ERRNO.get(errno, FSError)(errno, what)


def check(rc: int, what: str = "") -> int:
    """Return `rc` if it is no error; raise the error that a negative errno stands for.

    Raises:
        FSError: of the class that fits, for `rc` < 0.
    """
    if rc < 0:
        raise fs_error(-rc, what)
    return rc


class UserError(Exception):
    """Bad input or configuration: one line that says what to do, and an exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ExitCode:
    """Exit codes of the command line; documented in docs/operations.md."""

    OK = 0
    OTHER = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    TEMPORARY = 5
    PARTIAL = 6
    DENIED = 7
