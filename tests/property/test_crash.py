"""A gateway dies, or its storage fails, at every step of everything that it does to the trash.

Every changing call of an operation is a step, and every step is tried: death before it and after
it, an error, an error of a call that was carried out all the same, and errors from then on.
Afterwards another gateway recovers, in a session of its own, and every name that there was is
either in place or in the trash, and there once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from cephfs_ext.core.errors import FSError
from tests.ceph.sessions import sessions
from tests.cluster.ceph import CephCluster
from tests.property.census import (
    Census,
    check_nothing_is_hidden,
    restore_everything,
    take_census,
)
from tests.property.faulty import When, is_crash
from tests.property.gateways import (
    CephGround,
    Ground,
    Parts,
    PosixGround,
    delete,
    hours_ago,
    make_files,
    parts,
)
from tests.property.profiles import THOROUGH
from tests.property.scenarios import ON_CEPH, SCENARIOS, Scenario
from trashbin.recover import recover

INSTANCE = "0001"
PEER = "0002"
ERRNOS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EXDEV, errno.ESTALE, errno.EACCES)

DEATHS = (When.BEFORE, When.AFTER) if THOROUGH else (When.AFTER,)
"""On the storage, death before a step is death after the one before it."""

FIRST_ERRORS = range(len(ERRNOS)) if THOROUGH else (0,)
"""Each step of a scenario gets another error; with each of these as the first, all of them."""

NewGround = Callable[[], Ground]

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)


class Fault(NamedTuple):
    """What becomes of a step."""

    when: When
    first: int = 0
    """Which of the errors the first step gets; each step gets the next one."""

    def errno_of(self, step: int) -> int:
        """Return the error of a step."""
        return ERRNOS[(self.first + step - 1) % len(ERRNOS)]


class Life(NamedTuple):
    """What an interrupted life has left."""

    before: Census
    reached: bool
    """The step was reached; else the operation has succeeded."""
    failed: bool
    """With an error, or because it was cancelled."""
    died: bool


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Restore what a posix storage sets for the process."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def new_ground(tmp_path: Path) -> NewGround:
    """Return what makes fresh directories of this machine."""
    return lambda: PosixGround(tmp_path)


async def live(gateway: Parts, scenario: Scenario, step: int, fault: Fault) -> Life:
    """Live until a step of the scenario, and die, or see it fail."""
    await scenario.prepare(gateway)
    before = await take_census(gateway)
    storage = gateway.storage
    storage.arm(step, fault.when, fault.errno_of(step))
    failed = False
    try:
        with storage.scope:
            await scenario.act(gateway)
        failed = storage.scope.cancelled_caught
    except FSError:
        failed = True
    except BaseException as exc:
        if not is_crash(exc):
            raise
    reached = len(storage.changes) >= step
    if not storage.dead:
        storage.disarm()
    return Life(before, reached, failed, storage.dead)


async def die_and_recover(ground: Ground, scenario: Scenario, step: int, fault: Fault) -> bool:
    """Live until a step, and check what another gateway makes of it; False beyond the last."""
    async with parts(ground, INSTANCE, hours_ago(scenario.hours_ago)) as gateway:
        life = await live(gateway, scenario, step, fault)
    async with parts(ground, PEER) as gateway:
        domain = await gateway.domain()
        for _ in range(2):
            await recover(domain, [INSTANCE])
            await check_nothing_is_hidden(gateway)
            check_names(scenario, life.before, await take_census(gateway))
        await restore_everything(gateway)
        check_files(scenario, life.before, await take_census(gateway))
    return life.reached


async def fail_and_go_on(
    ground: Ground, scenario: Scenario, step: int, fault: Fault, *, recovering: bool = True
) -> bool:
    """Live on after a step that failed, and check what the gateway has made of it itself."""
    async with parts(ground, INSTANCE, hours_ago(scenario.hours_ago)) as gateway:
        life = await live(gateway, scenario, step, fault)
        after = await take_census(gateway)
        check_names(scenario, life.before, after)
        if life.failed and scenario.puts:
            assert after.places == life.before.places, "the delete failed and was carried out"
            assert after.trash == life.before.trash
        if recovering:
            await recover(await gateway.domain(), [])
        await check_nothing_is_hidden(gateway)
        check_names(scenario, life.before, await take_census(gateway))
        gateway.domains.close()
        assert gateway.storage.open_nodes == 0, "a reference was not given back"
    return life.reached


def check_names(scenario: Scenario, before: Census, after: Census) -> None:
    """Check that no name is lost, and none is there twice, and that the trash knows its names."""
    lost = before.everything() - after.everything()
    twice = after.everything() - before.everything()
    assert set(lost) <= scenario.may_vanish, lost
    assert set(twice) <= scenario.may_come, twice
    assert set(after.trash) <= before.names()


def check_files(scenario: Scenario, before: Census, after: Census) -> None:
    """Check that every file is there; directories on the way may have been made again."""
    for file, number in before.everything().items():
        if file != b"dir" and file not in scenario.may_vanish:
            assert after.everything()[file] == number, file


async def at_every_step(
    new_ground: NewGround,
    scenario: Scenario,
    fault: Fault,
    end: Callable[[Ground, Scenario, int, Fault], Awaitable[bool]] = die_and_recover,
) -> int:
    """Try one fault at every step; return how many there are."""
    step = 0
    reached = True
    while reached:
        step += 1
        try:
            reached = await end(new_ground(), scenario, step, fault)
        except BaseException as exc:
            exc.add_note(
                f"{scenario.name}, step {step}: {fault.when.value}, {fault.errno_of(step)}"
            )
            raise
    assert step > 1, "the scenario changes nothing"
    return step - 1


@each_scenario
@pytest.mark.parametrize("when", DEATHS, ids=lambda when: when.name)
def test_gateway_that_dies_at_any_step_loses_nothing(
    scenario: Scenario, when: When, new_ground: NewGround
) -> None:
    trio.run(at_every_step, new_ground, scenario, Fault(when))


@each_scenario
@pytest.mark.parametrize("first", FIRST_ERRORS)
def test_storage_that_fails_at_any_step_loses_nothing(
    scenario: Scenario, first: int, new_ground: NewGround
) -> None:
    trio.run(at_every_step, new_ground, scenario, Fault(When.FAILS, first), fail_and_go_on)


@each_scenario
def test_request_that_is_cancelled_at_any_step_leaves_nothing_half_done(
    scenario: Scenario, new_ground: NewGround
) -> None:
    async def end(ground: Ground, scenario: Scenario, step: int, fault: Fault) -> bool:
        return await fail_and_go_on(ground, scenario, step, fault, recovering=False)

    trio.run(at_every_step, new_ground, scenario, Fault(When.CANCELLED), end)


@each_scenario
def test_storage_that_reports_an_error_for_what_it_did_loses_nothing(
    scenario: Scenario, new_ground: NewGround
) -> None:
    trio.run(at_every_step, new_ground, scenario, Fault(When.LIES))


@each_scenario
@pytest.mark.parametrize("first", FIRST_ERRORS)
def test_storage_that_fails_from_any_step_on_loses_nothing(
    scenario: Scenario, first: int, new_ground: NewGround
) -> None:
    trio.run(at_every_step, new_ground, scenario, Fault(When.FROM_NOW_ON, first))


async def set_up_and_fail(ground: Ground, step: int, fault: Fault) -> bool:
    """Open a trash that there is none of yet, until a step; False beyond the last."""
    async with parts(ground, INSTANCE) as gateway:
        await make_files(gateway.storage, b"file")
        gateway.storage.arm(step, fault.when, fault.errno_of(step))
        try:
            await gateway.domain()
        except FSError:
            assert gateway.storage.open_nodes == 0, "a reference was not given back"
        except BaseException as exc:
            if not is_crash(exc):
                raise
        return len(gateway.storage.changes) >= step


@pytest.mark.parametrize(
    "when", [when for when in When if when is not When.CANCELLED], ids=lambda when: when.name
)
def test_trash_can_be_set_up_after_any_step_of_setting_it_up(
    when: When, new_ground: NewGround
) -> None:
    async def end(ground: Ground, _: Scenario, step: int, fault: Fault) -> bool:
        reached = await set_up_and_fail(ground, step, fault)
        async with parts(ground, PEER) as gateway:
            before = await take_census(gateway)
            await delete(gateway, b"file")
            assert (await take_census(gateway)).everything() == before.everything()
            await restore_everything(gateway)
            assert await take_census(gateway) == before
        return reached

    trio.run(at_every_step, new_ground, SCENARIOS[0], Fault(when), end)


@pytest.mark.parametrize("scenario", ON_CEPH, ids=lambda one: one.name)
def test_gateway_of_a_cluster_that_dies_at_any_step_loses_nothing(
    scenario: Scenario, cluster: CephCluster
) -> None:
    async def main() -> None:
        async with sessions(cluster, 2) as both:
            ground = CephGround(both)

            async def end(_: Ground, scenario: Scenario, step: int, fault: Fault) -> bool:
                reached = await die_and_recover(ground, scenario, step, fault)
                await ground.clear()
                return reached

            await at_every_step(lambda: ground, scenario, Fault(When.AFTER), end)

    trio.run(main)
