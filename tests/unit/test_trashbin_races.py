"""What two gateways do to the same entries at the same time; docs/concurrency.md tells the story.

Both are of one process, each with a session of its own; who comes in between is let in right before
a chosen call of the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from cephfs_ext.core.errors import ExistsError, FSError, NotFoundError
from cephfs_ext.core.types import GATEWAY
from tests.property.census import Census, restore_everything, take_census
from tests.property.faulty import Crash
from tests.property.gateways import (
    OPERATOR,
    SOMEBODY_ELSE,
    WHO,
    Parts,
    PosixGround,
    Victim,
    delete,
    delete_tree,
    hours_ago,
    make_dirs,
    make_files,
    make_link,
    parts,
    replace,
    victim,
)
from tests.property.scenarios import EXPIRED_H, newest
from trashbin import layout
from trashbin.recover import recover
from trashbin.runs import Target
from trashbin.service import Conflict, Listed

Act = Callable[[], Awaitable[object]]
Script = Callable[[Parts, Parts], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture
def play(ground: PosixGround) -> Play:
    """Run a script with two gateways on one fresh directory."""

    def played(script: Script, *, late_h: float = 0) -> None:
        async def main() -> None:
            async with (
                parts(ground, "000a", hours_ago(late_h)) as one,
                parts(ground, "000b") as other,
            ):
                await script(one, other)

        trio.run(main)

    return played


@asynccontextmanager
async def before(gateway: Parts, call: str, act: Act, *, nth: int = 1) -> AsyncIterator[None]:
    """Have somebody act right before the n-th call of a kind; once."""
    left = [nth]
    storage: Any = gateway.storage
    original = getattr(storage, call)

    async def acted(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            await act()
        return await original(*args, **kwargs)

    setattr(storage, call, acted)
    try:
        yield
    finally:
        delattr(storage, call)
    assert left[0] <= 0, f"{call} was called too rarely"


async def deleted_tree(gateway: Parts) -> Listed:
    """Make and delete a tree of files in two directories."""
    await make_dirs(gateway.storage, b"t", b"t/u")
    await make_files(gateway.storage, b"t/1", b"t/2", b"t/u/3", b"t/u/4")
    await delete_tree(gateway, b"t")
    await gateway.journal.drain()
    return await newest(gateway, b"t")


async def restored(gateway: Parts, listed: Listed, *, to: bytes | None = None) -> str:
    answers = await gateway.service.restore(
        OPERATOR, [("", listed)], to=to, on_conflict=Conflict.FAIL, dry_run=False
    )
    return answers[0].outcome.value


def files(census: Census) -> Counter[bytes]:
    """Count the names of each file."""
    return Counter({what: n for what, n in census.everything().items() if what != b"dir"})


FILES = Counter({b"t/1": 1, b"t/2": 1, b"t/u/3": 1, b"t/u/4": 1})


class TestTwoRestores:
    @pytest.mark.parametrize("nth", range(1, 7))
    def test_one_of_two_restores_of_a_tree_finds_nothing(self, play: Play, nth: int) -> None:
        async def script(one: Parts, other: Parts) -> None:
            listed = await deleted_tree(one)
            theirs = await newest(other, b"t")
            outcomes = []

            async def act() -> None:
                outcomes.append(await restored(other, theirs))

            async with before(one, "rename", act, nth=nth):
                outcomes.append(await restored(one, listed))
            assert files(await take_census(one)) == FILES
            assert sorted(outcomes) == ["not_found", "restored"]
            assert (await take_census(one)).trash == {}

        play(script)

    def test_tombstone_is_restored_once(self, play: Play) -> None:
        """The other would find the inode, too, and link it again."""

        async def script(one: Parts, other: Parts) -> None:
            await make_files(one.storage, b"a")
            await make_link(one.storage, b"a", b"b")
            await delete(one, b"a")
            await one.journal.drain()
            listed, theirs = await newest(one, b"a"), await newest(other, b"a")

            async def act() -> None:
                await make_dirs(other.storage, b"elsewhere")
                assert await restored(other, theirs, to=b"elsewhere") == "restored"

            async with before(one, "symlink", act):
                assert await restored(one, listed) in ("not_found", "conflict")
            census = await take_census(one)
            assert census.everything()[b"a"] == 2
            assert b"elsewhere/a" in census.places

        play(script)


class TestRestoreAndRemoval:
    @pytest.mark.parametrize("nth", range(1, 7))
    def test_tree_that_is_purged_while_it_is_restored_is_in_one_place_only(
        self, play: Play, nth: int
    ) -> None:
        async def script(one: Parts, other: Parts) -> None:
            listed = await deleted_tree(one)
            theirs = await newest(other, b"t")

            async def act() -> None:
                await other.service.purge(OPERATOR, [theirs])

            async with before(one, "rename", act, nth=nth):
                outcome = await restored(one, listed)
            census = await take_census(one)
            assert not set(files(census) - FILES)
            assert census.trash == {}
            assert (outcome == "restored") == (files(census) == FILES)

        play(script)

    @pytest.mark.parametrize("nth", range(1, 7))
    def test_tree_that_expires_while_it_is_restored(self, play: Play, nth: int) -> None:
        async def script(one: Parts, other: Parts) -> None:
            listed = await deleted_tree(one)
            async with before(one, "rename", other.expiry.once, nth=nth):
                outcome = await restored(one, listed)
            census = await take_census(one)
            assert not set(files(census) - FILES)
            assert (outcome == "restored") == (files(census) == FILES)
            await check_no_run_is_left(one)

        play(script, late_h=EXPIRED_H)

    def test_top_that_goes_back_into_an_hour_that_expires_is_not_removed(self, play: Play) -> None:
        """The hour is claimed between the look at it and the rename back into it."""

        async def script(one: Parts, other: Parts) -> None:
            await make_files(one.storage, b"a")
            await delete(one, b"a")
            await one.journal.drain()
            listed = await newest(one, b"a")
            await make_files(one.storage, b"b")
            await one.storage.rename(one.storage.root, b"b", one.storage.root, b"a", GATEWAY)

            async def claim() -> None:
                await other.expiry._claim_expired(await other.domain())

            # renames: into the run, to its place (refused), back into the hour
            async with before(one, "rename", claim, nth=3):
                with pytest.raises(ExistsError):
                    await one.restore.tree(
                        listed.domain, listed.tree, Target(one.storage.root, b"a")
                    )
            assert (await take_census(one)).trash == {(b"a", b"a"): 1}
            await check_no_run_is_left(one)

        play(script, late_h=EXPIRED_H)

    def test_purge_goes_on_while_somebody_clears_what_it_claims(self, play: Play) -> None:
        async def script(one: Parts, other: Parts) -> None:
            listed = await deleted_tree(one)
            async with before(one, "rename", other.expiry.once, nth=3):
                await one.service.purge(OPERATOR, [listed])
            assert (await take_census(one)).everything() == {}

        play(script)


async def check_no_run_is_left(gateway: Parts) -> None:
    domain = await gateway.domain()
    storage: Any = gateway.storage
    handle = await storage.opendir(domain.service(layout.RESTORING))
    assert not await storage.readdir(handle, 0, limit=9)
    await storage.releasedir(handle)


class TestPlace:
    @pytest.mark.parametrize("noreplace", [True, False], ids=["noreplace", "placeholder"])
    @pytest.mark.parametrize("what", ["file", "directory"])
    def test_name_that_is_taken_meanwhile_is_a_conflict(
        self, play: Play, what: str, noreplace: bool
    ) -> None:
        """Also where a storage can't rename without replacing; nobody's directory is removed."""

        async def script(one: Parts, other: Parts) -> None:
            _set_noreplace(one, noreplace)
            if what == "file":
                await make_files(one.storage, b"a")
            else:
                await make_dirs(one.storage, b"a")
            await delete(one, b"a")
            await one.journal.drain()
            listed = await newest(one, b"a")

            async def act() -> None:
                storage = other.storage
                made = await storage.mkdir(storage.root, b"a", 0o700, GATEWAY)
                storage.forget(made.node)

            async with before(one, "symlink", act):
                assert await restored(one, listed) == "conflict"
            census = await take_census(one)
            assert census.places == {b"a": b"dir"}
            assert [name for name, _ in census.trash] == [b"a"]

        play(script)

    def test_placeholder_that_somebody_fills_stays(self, play: Play) -> None:
        async def script(one: Parts, other: Parts) -> None:
            _set_noreplace(one, False)
            await make_dirs(one.storage, b"a")
            await delete(one, b"a")
            await one.journal.drain()
            listed = await newest(one, b"a")

            async def act() -> None:
                await make_files(other.storage, b"a/theirs")

            async with before(one, "rename", act, nth=2):
                assert await restored(one, listed) == "conflict"
            assert (await take_census(one)).places == {b"a": b"dir", b"a/theirs": b"a/theirs"}

        play(script)

    @pytest.mark.parametrize("noreplace", [True, False], ids=["noreplace", "placeholder"])
    def test_file_made_anew_in_a_directory_deleted_whole_is_not_replaced(
        self, play: Play, noreplace: bool
    ) -> None:
        """[trash-2]: the older file of that name, deleted in the same go, stays in the trash."""

        async def script(one: Parts, other: Parts) -> None:
            _set_noreplace(one, noreplace)
            await make_dirs(one.storage, b"d")
            await make_files(one.storage, b"d/a")
            await delete(one, b"d/a")
            await make_files(one.storage, b"new")
            async with victim(one.storage, b"d") as d:
                await one.storage.rename(one.storage.root, b"new", d.found.node, b"a", GATEWAY)
                await one.put.tree(await one.domain(), d.at, d.found, WHO)
            await one.journal.drain()
            assert await restored(one, await newest(one, b"d")) == "restored"
            census = await take_census(one)
            assert census.places[b"d/a"] == b"new"
            assert census.trash == {(b"a", b"d/a"): 1}

        play(script)


def _set_noreplace(gateway: Parts, noreplace: bool) -> None:
    storage: Any = gateway.storage
    storage._real.rename_noreplace = noreplace


class TestReplaced:
    def test_what_somebody_else_has_just_put_there_is_kept(self, play: Play) -> None:
        """A looked at the first file; B has put a second one in its place since then."""

        async def script(one: Parts, other: Parts) -> None:
            await make_files(one.storage, b"a", b"b", b"c")

            async def act() -> None:
                await replace(other, b"b", b"a")

            async with before(one, "link", act):
                await replace(one, b"c", b"a")
            census = await take_census(one)
            assert census.places == {b"a": b"c"}
            assert set(census.trash) == {(b"a", b"a"), (b"a", b"b")}

        play(script)

    def test_link_of_a_failed_replacement_is_not_the_last_one_when_it_goes(
        self, play: Play
    ) -> None:
        """B deletes the file while A finds out that its rename has failed."""

        async def script(one: Parts, other: Parts) -> None:
            await make_files(one.storage, b"a", b"b")

            async def fail() -> None:
                await delete(other, b"a")
                raise FSError(what="the rename failed")

            domain = await one.domain()
            async with victim(one.storage, b"a") as gone:
                with pytest.raises(FSError, match="the rename failed"):
                    await one.put.replaced_file(domain, gone.at, gone.found, WHO, fail)
            census = await take_census(one)
            assert census.everything()[b"a"] == 1

        play(script)

    def test_file_that_is_deleted_before_it_is_replaced_is_deleted_once(self, play: Play) -> None:
        """B saw the link of A's for another name of the file, and left a tombstone."""

        async def script(one: Parts, other: Parts) -> None:
            await make_files(one.storage, b"a", b"b")
            await one.domain()

            async def act() -> None:
                await delete(other, b"a")

            async with before(one, "rename", act):
                await replace(one, b"b", b"a")
            await one.journal.drain()
            await other.journal.drain()
            census = await take_census(one)
            assert census.places == {b"a": b"b"}
            assert census.trash == {(b"a", b"a"): 1}

        play(script)

    def test_recovery_does_not_remove_the_last_link(self, play: Play) -> None:
        """A deletes the file between recovery's look at its place and the end of the link."""

        async def script(one: Parts, other: Parts) -> None:
            await make_files(one.storage, b"a")
            async with victim(one.storage, b"a") as gone:
                await link_into_trash(one, gone)
            domain = await other.domain()
            async with trio.open_nursery() as nursery:

                async def act() -> None:
                    nursery.start_soon(delete, one, b"a")
                    await trio.sleep(0.05)  # it has to wait for the lock

                async with before(other, "unlink", act):
                    await recover(domain, ["000a"])
            await one.journal.drain()
            census = await take_census(other)
            assert census.everything()[b"a"] == 1
            await restore_everything(other)

        play(script)


async def link_into_trash(gateway: Parts, gone: Victim) -> None:
    """Do the first half of a rename-over."""

    class DiedError(BaseException):
        pass

    async def die() -> None:
        gateway.storage.dead = True
        raise DiedError

    with pytest.raises((DiedError, Crash)):
        await gateway.put.replaced_file(await gateway.domain(), gone.at, gone.found, WHO, die)
    gateway.storage.dead = False


class TestPromises:
    """[link-4]: a tombstone keeps its time, whatever becomes of the inode's other names."""

    def test_tree_that_expires_leaves_what_a_tombstone_promises(self, play: Play) -> None:
        async def script(one: Parts, other: Parts) -> None:
            """`one` deleted the tree long ago, `other` the other name just now."""
            await make_dirs(one.storage, b"d")
            await make_files(one.storage, b"d/a", b"d/b")
            await make_link(one.storage, b"d/a", b"kept")
            async with victim(one.storage, b"d") as d:
                await one.put.tree(await one.domain(), d.at, d.found, WHO)
            await delete(other, b"kept")
            await other.journal.drain()
            await other.expiry.once()
            census = await take_census(other)
            assert census.trash == {(b"kept", b"d/a"): 1}
            await restore_everything(other)
            assert (await take_census(other)).places == {b"kept": b"d/a"}

        play(script, late_h=EXPIRED_H)

    def test_tombstone_that_becomes_an_entry_meanwhile_is_restored(self, play: Play) -> None:
        async def script(one: Parts, other: Parts) -> None:
            await make_files(one.storage, b"kept")
            await make_link(one.storage, b"kept", b"last")
            await delete(one, b"kept")
            await delete(one, b"last")
            await one.journal.drain()
            listed = await newest(one, b"kept")
            assert listed.tree.top.tomb is not None
            await other.service.purge(OPERATOR, [await newest(other, b"last")])
            assert await restored(one, listed) == "restored"
            assert (await take_census(one)).places == {b"kept": b"kept"}

        play(script)

    def test_newest_of_several_tombstones_gets_the_inode(self, play: Play) -> None:
        async def script(one: Parts, other: Parts) -> None:
            await make_files(one.storage, b"first")
            for name in (b"second", b"third", b"last"):
                await make_link(one.storage, b"first", name)
            for name in (b"first", b"second", b"third", b"last"):
                await delete(one, name)
            await one.journal.drain()
            await one.service.purge(OPERATOR, [await newest(one, b"last")])
            census = await take_census(one)
            assert set(census.trash) == {
                (b"first", b"first"),
                (b"second", b"first"),
                (b"third", b"first"),
            }
            contents = await one.service.contents(OPERATOR)
            tops = {one.tree.top.entry.name: one.tree.top for one in contents.trees}
            assert [name for name, top in tops.items() if top.tomb is None] == [b"third"]
            await restore_everything(one)
            assert (await take_census(one)).everything() == {b"first": 3}

        play(script)

    def test_purging_all_names_removes_the_inode(self, play: Play) -> None:
        async def script(one: Parts, other: Parts) -> None:
            await make_files(one.storage, b"a")
            await make_link(one.storage, b"a", b"b")
            await delete(one, b"a")
            await delete(one, b"b", SOMEBODY_ELSE)
            contents = await one.service.contents(OPERATOR)
            await one.service.purge(OPERATOR, contents.trees)
            assert (await take_census(one)).everything() == {}

        play(script)

    def test_name_that_users_have_is_no_reason_to_keep_a_link(self, play: Play) -> None:
        async def script(one: Parts, other: Parts) -> None:
            await make_dirs(one.storage, b"d")
            await make_files(one.storage, b"d/a")
            await make_link(one.storage, b"d/a", b"b")
            await make_link(one.storage, b"d/a", b"c")
            async with victim(one.storage, b"d") as d:
                await one.put.tree(await one.domain(), d.at, d.found, WHO)
            await delete(one, b"b")
            await one.service.purge(OPERATOR, [await newest(one, b"d")])
            async with victim(one.storage, b"c") as c:
                assert c.found.attr.nlink == 1

        play(script)


def test_entry_that_is_gone_is_not_found(play: Play) -> None:
    async def script(one: Parts, other: Parts) -> None:
        listed = await deleted_tree(one)
        await other.service.purge(OPERATOR, [await newest(other, b"t")])
        with pytest.raises(NotFoundError):
            await one.restore.tree(listed.domain, listed.tree, Target(one.storage.root, b"t"))
        assert (await one.service.contents(OPERATOR)).trees == []

    play(script)
