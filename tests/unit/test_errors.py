"""Errors: the class that belongs to an errno, its text, and the one sign."""

from __future__ import annotations

import errno
import os

import pytest

from cephfs_ext.core import errors
from cephfs_ext.core.errors import (
    CrossDomainError,
    DeniedError,
    ExchangedError,
    ExistsError,
    ExitCode,
    FSError,
    FullError,
    NotEmptyError,
    NotFoundError,
    TryAgainError,
    UserError,
    check,
    fs_error,
)

CLASSES = {
    errno.ENOENT: NotFoundError,
    errno.EEXIST: ExistsError,
    errno.ENOTEMPTY: NotEmptyError,
    errno.EACCES: DeniedError,
    errno.EPERM: DeniedError,
    errno.EXDEV: CrossDomainError,
    errno.ENOSPC: FullError,
    errno.EDQUOT: FullError,
    errno.EAGAIN: TryAgainError,
    errno.EBUSY: TryAgainError,
}


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_errno_has_its_class_and_keeps_its_number(number: int) -> None:
    error = fs_error(number, "what")
    assert type(error) is CLASSES.get(number, FSError)
    assert error.errno == number
    with pytest.raises(type(error)) as caught:
        check(-number, "what")
    assert caught.value.errno == number


@pytest.mark.parametrize("rc", [0, 1, 4096, 1 << 40])
def test_what_is_no_error_passes(rc: int) -> None:
    assert check(rc) == rc


def subclasses(of: type[FSError]) -> list[type[FSError]]:
    """Return all classes below one."""
    below = [one for one in of.__subclasses__() if one.__module__ == errors.__name__]
    return below + [deeper for one in below for deeper in subclasses(one)]


@pytest.mark.parametrize("cls", subclasses(FSError), ids=lambda cls: cls.__name__)
def test_class_without_a_number_has_one_of_its_own(cls: type[FSError]) -> None:
    assert isinstance(fs_error(cls().errno), cls) or issubclass(cls, type(fs_error(cls().errno)))


def test_unknown_failure_is_an_io_error() -> None:
    assert FSError().errno == errno.EIO


def test_text_says_what_and_why() -> None:
    assert str(NotFoundError()) == os.strerror(errno.ENOENT)
    assert str(FullError(errno.EDQUOT, "the trash")) == f"the trash: {os.strerror(errno.EDQUOT)}"


def test_exchanged_is_a_reason_to_try_again() -> None:
    assert isinstance(ExchangedError(), TryAgainError)
    assert ExchangedError().errno == errno.EAGAIN


def test_bad_input_is_no_operating_error() -> None:
    error = UserError("do this", ExitCode.USAGE)
    assert str(error) == "do this"
    assert error.exit_code == 2
    assert UserError("that").exit_code == ExitCode.OTHER
    assert not isinstance(error, FSError | OSError)


def test_exit_codes_are_the_documented_ones() -> None:
    codes = {name: value for name, value in vars(ExitCode).items() if name.isupper()}
    assert codes == {
        "OK": 0,
        "OTHER": 1,
        "USAGE": 2,
        "NOT_FOUND": 3,
        "CONFLICT": 4,
        "TEMPORARY": 5,
        "PARTIAL": 6,
        "DENIED": 7,
    }
