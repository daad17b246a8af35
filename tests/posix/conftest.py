"""Fixtures of the POSIX suite: every test runs on every target, in a directory of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.posix.deviations import PEER, reason_for
from tests.posix.targets import Mount, targets

_TARGETS = pytest.StashKey[dict[str, Mount]]()
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--posix-dir",
        action="append",
        default=[],
        metavar="[ID=]DIR",
        help="run tests/posix below DIR (repeatable) instead of on the registered targets;"
        " ID chooses the known deviations",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mounted" in metafunc.fixturenames:
        ids = list(_targets_of(metafunc.config))
        metafunc.parametrize("mounted", ids, indirect=True, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and _has_target(item):
            target_id, test = _names_of(item)
            reason = reason_for(target_id, test)
            if reason is not None:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=target_id != PEER))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report what the peer fails as its deviation: it is there to compare with."""
    report = yield
    is_peer = isinstance(item, pytest.Function) and _has_target(item) and _names_of(item)[0] == PEER
    if is_peer and report.when == "call" and report.failed:
        report.outcome = "skipped"
        report.wasxfail = "not a known deviation of the peer: see tests/posix/deviations.py"
    return report


@pytest.fixture(scope="session")
def mounted(request: pytest.FixtureRequest) -> Iterator[Path]:
    with _targets_of(request.config)[request.param](request) as path:
        yield path


@pytest.fixture
def target(mounted: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Yield an empty directory of the file system under test: root's, 0755; umask 0."""
    path = mounted / f"{next(_numbers):04d}-{request.function.__name__}"
    path.mkdir()
    path.chmod(0o755)
    umask = os.umask(0)
    yield path
    os.umask(umask)


def _targets_of(config: pytest.Config) -> dict[str, Mount]:
    """Return the targets of this run: always the same objects, as parametrisation needs."""
    if _TARGETS not in config.stash:
        # Unknown when the run began in another folder: options of deeper conftests load late.
        directories = config.getoption("posix_dir", default=[])
        config.stash[_TARGETS] = dict(targets(directories))
    return config.stash[_TARGETS]


def _has_target(item: pytest.Function) -> bool:
    """Tell whether a test is one of this suite: the hook sees those of other folders, too."""
    return hasattr(item, "callspec") and item.callspec.params.get("mounted") is not None


def _names_of(item: pytest.Function) -> tuple[str, str]:
    """Return a test's target, and its name as `deviations.py` spells it."""
    target_id = item.callspec.params["mounted"]
    case = item.callspec.id.removeprefix(target_id).removeprefix("-")
    name = f"{item.path.stem}::{item.originalname}"
    return target_id, f"{name}({case})" if case else name
