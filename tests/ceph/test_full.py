"""Full pools: what is refused, what isn't, and what becomes of deletes."""

from __future__ import annotations

import contextlib
import errno
import functools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.ceph import CephCluster
from tests.gateway import Gateway, ceph_gateway
from tests.posix.actors import errno_of
from tests.waiting import wait_until

_wait_until = functools.partial(wait_until, within_s=60.0)


@contextlib.contextmanager
def full(cluster: CephCluster, pool: str) -> Iterator[None]:
    """Let a pool be full while the body runs."""
    cluster.ceph("osd", "pool", "set-quota", pool, "max_objects", "1")
    try:
        _wait_until(lambda: _is_full(cluster, pool))
        yield
    finally:
        cluster.ceph("osd", "pool", "set-quota", pool, "max_objects", "0")
        _wait_until(lambda: not _is_full(cluster, pool))


def _is_full(cluster: CephCluster, pool: str) -> bool:
    pools = cluster.ceph("osd", "dump")["pools"]
    (flags,) = [one["flags_names"] for one in pools if one["pool_name"] == pool]
    return "full" in flags.split(",")


@pytest.fixture
def site(request: pytest.FixtureRequest, cluster: CephCluster, base: Path) -> Iterator[Gateway]:
    """Return a mounted gateway; the parameter is its key, and its options."""
    key, *options = request.param
    gateway = ceph_gateway(cluster, base, *options, key=key)
    with gateway.mounted():
        for name in ("file", "old", "new"):
            (gateway.path / name).write_text(name)
        (gateway.path / "warm").touch()
        (gateway.path / "warm").unlink()  # the trash has its hour
        (gateway.path / "dir").mkdir()
        yield gateway


def _kept(gateway: Gateway) -> set[str]:
    return {item["path"] for item in gateway.trash()} - {"warm"}


def _refuse_soon(gateway: Gateway) -> None:
    """Wait until the metadata servers know that the pool is full."""

    def is_refused() -> bool:
        (gateway.path / "probe").unlink(missing_ok=True)
        return errno_of((gateway.path / "probe").touch) == errno.ENOSPC

    _wait_until(is_refused)


def _deletes(gateway: Gateway) -> list[int | None]:
    top = gateway.path
    acts = (
        (top / "file").unlink,
        (top / "dir").rmdir,
        lambda: (top / "new").rename(top / "old"),
    )
    return [errno_of(act) for act in acts]


def _bypasses(gateway: Gateway) -> float:
    return gateway.metric('trash_bypasses_total{reason="full"}')


@pytest.mark.parametrize("site", [("gateway",)], indirect=True)
def test_key_that_may_use_the_rest_keeps_at_a_full_metadata_pool(
    site: Gateway, cluster: CephCluster
) -> None:
    """[full-3]"""
    with full(cluster, "cephfs.meta"):
        assert not any(_deletes(site))
    assert _kept(site) == {"file", "dir", "old"}
    assert _bypasses(site) == 0


@pytest.mark.parametrize("site", [("plain",)], indirect=True)
def test_key_that_may_not_deletes_nothing_at_a_full_metadata_pool(
    site: Gateway, cluster: CephCluster
) -> None:
    """[full-1], [full-3]: ENOSPC, and nothing has changed."""
    with full(cluster, "cephfs.meta"):
        _refuse_soon(site)
        assert _deletes(site) == [errno.ENOSPC] * 3
    assert _kept(site) <= {"probe"}
    assert {path.name for path in site.path.iterdir()} >= {"file", "dir", "old", "new"}
    assert (site.path / "old").read_text() == "old"
    _wait_until(lambda: not any(_deletes(site)))
    assert _kept(site) >= {"file", "dir", "old"}


@pytest.mark.parametrize("site", [("plain", "trash.when_full=delete")], indirect=True)
def test_operator_who_wants_it_so_gets_deletes_at_a_full_metadata_pool(
    site: Gateway, cluster: CephCluster
) -> None:
    """[full-2]: really removed what can be, since unlink and rmdir aren't refused."""
    with full(cluster, "cephfs.meta"):
        _refuse_soon(site)
        assert _deletes(site) == [0, 0, errno.ENOSPC]
        assert _bypasses(site) == 2
        assert "what is deleted now is gone" in site.log
    assert _kept(site) <= {"probe"}
    (site.path / "new").unlink()
    assert "new" in _kept(site)


@pytest.mark.parametrize("site", [("gateway",)], indirect=True)
def test_full_data_pool_keeps_deletes_and_never_hangs(site: Gateway, cluster: CephCluster) -> None:
    """[full-4]: a replacing rename needs a lock, which is refused at once."""
    with full(cluster, "cephfs.data"):
        begun = time.monotonic()
        unlinked, removed, replaced = _deletes(site)
        assert (unlinked, removed) == (0, 0)
        assert replaced in (0, errno.EDQUOT, errno.ENOSPC)
        assert time.monotonic() - begun < 10
    assert _kept(site) >= {"file", "dir"}
    if replaced:
        assert (site.path / "old").read_text() == "old"
