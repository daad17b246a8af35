"""What the tests of the lane share."""

from __future__ import annotations

import pytest

from tests.lane.building import Builds


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    """Return what compiles, and keeps what it compiled for other tests of this run."""
    return Builds(tmp_path_factory.mktemp("lane"))
