"""What is read to answer a request, and what is known of deletes whose record was lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cephfs_ext.core.errors import DeniedError, FSError, NotFoundError
from cephfs_ext.core.types import GATEWAY, Credentials
from tests.property.gateways import (
    OPERATOR,
    WHO,
    Parts,
    PosixGround,
    delete,
    delete_tree,
    hours_ago,
    make_dirs,
    make_files,
    make_link,
    parts,
    replace,
    victim,
    walk_to,
)
from tests.property.scenarios import newest
from trashbin import layout
from trashbin.domain import Domain
from trashbin.recover import recover
from trashbin.service import Caller

Script = Callable[[PosixGround], Awaitable[None]]
Play = Callable[[Script], None]


async def tree_of_each_hour(ground: PosixGround, hours: int) -> None:
    """Delete a tree in each of the last hours, each with an instance of its own."""
    for hour in range(hours):
        async with parts(ground, f"000{hour}", hours_ago(hour)) as gateway:
            top = b"t%d" % hour
            await make_dirs(gateway.storage, top, top + b"/u")
            await make_files(gateway.storage, top + b"/1", top + b"/u/2")
            await delete_tree(gateway, top)
            await gateway.journal.drain()


class Reads:
    """What of the trash is opened for reading."""

    def __init__(self, gateway: Parts, domain: Domain) -> None:
        self._names = {node.ino: name for name, node in domain.directories.items()}
        self.hours: set[bytes] = set()
        self.journals: set[bytes] = set()
        storage: Any = gateway.storage
        self._resolve, self._lookup = storage.resolve, storage.lookup
        storage.resolve, storage.lookup = self.resolve, self.lookup

    async def resolve(self, parent: Any, name: bytes) -> Any:
        found = await self._resolve(parent, name)
        if self._names.get(parent.ino, layout.JOURNAL) != layout.JOURNAL:
            self.hours.add(name)
        return found

    async def lookup(self, parent: Any, name: bytes) -> Any:
        if self._names.get(parent.ino) == layout.JOURNAL:
            self.journals.add(name)
        return await self._lookup(parent, name)


async def ino_of(gateway: Parts, path: bytes) -> int:
    """Return the number of an inode."""
    node = await walk_to(gateway.storage, path)
    gateway.storage.forget(node)
    return node.ino


def use_again(base: Path, former: int, ino: int) -> None:
    """Let all that the trash says of an inode that is gone be of another number.

    As if a directory had been given the number later; which local file systems do at times.
    """
    trash = base / ".trashbin"
    for entry in trash.glob(f"r*/*/*.{former:x}.*"):
        entry.rename(entry.with_name(entry.name.replace(f".{former:x}.", f".{ino:x}.")))
    (tomb,) = trash.glob(f"tombs/*/*.{former:x}")
    text = tomb.readlink()
    tomb.unlink()
    changed = str(text).replace(f'"ino":{former},', f'"ino":{ino},')
    tomb.with_name(tomb.name.replace(f".{former:x}", f".{ino:x}")).symlink_to(changed)


class TestFind:
    def test_only_the_hours_of_the_delete_are_read(self, play: Play) -> None:
        async def script(ground: PosixGround) -> None:
            await tree_of_each_hour(ground, 5)
            async with parts(ground, "00ff") as gateway:
                wanted = await newest(gateway, b"t2")
                reads = Reads(gateway, await gateway.domain())
                found = await gateway.service.find(OPERATOR, wanted.tree.top.entry.id)
            assert (found.path, len(list(found.tree.walk()))) == (b"t2", 4)
            hour = wanted.tree.top.entry.hour
            assert reads.hours <= {hour, layout.hour_plus(hour, -1)}
            assert {name[: len(hour)] for name in reads.journals} == {hour}

        play(script)

    def test_file_costs_its_own_hour(self, play: Play) -> None:
        async def script(ground: PosixGround) -> None:
            await tree_of_each_hour(ground, 3)
            async with parts(ground, "00ff", hours_ago(1)) as gateway:
                await make_files(gateway.storage, b"file")
                await delete(gateway, b"file")
                await gateway.journal.drain()
                wanted = await newest(gateway, b"file")
                reads = Reads(gateway, await gateway.domain())
                found = await gateway.service.find(OPERATOR, wanted.tree.top.entry.id)
            assert found.path == b"file"
            assert reads.hours == {wanted.tree.top.entry.hour}

        play(script)

    def test_delete_of_several_hours_is_found_whole(self, play: Play) -> None:
        async def script(ground: PosixGround) -> None:
            now = [hours_ago(4)() // 3_600_000_000_000 * 3_600_000_000_000]

            def clock() -> int:
                now[0] += 1_500_000_000_000  # 25 minutes
                return now[0]

            async with parts(ground, "000a", clock) as gateway:
                await make_dirs(gateway.storage, b"t")
                await make_files(gateway.storage, *(b"t/%d" % number for number in range(8)))
                await delete_tree(gateway, b"t")
                await gateway.journal.drain()
                wanted = await newest(gateway, b"t")
                assert len(list(wanted.tree.walk())) == 9
                found = await gateway.service.find(OPERATOR, wanted.tree.top.entry.id)
                assert len(list(found.tree.walk())) == 9

        play(script)

    def test_deep_tree_is_found_whole(self, play: Play) -> None:
        async def script(ground: PosixGround) -> None:
            async with parts(ground, "000a") as gateway:
                paths = [b"/".join([b"t"] * depth) for depth in range(1, 10)]
                await make_dirs(gateway.storage, *paths)
                await delete_tree(gateway, b"t")
                wanted = (await newest(gateway, b"t")).tree.top.entry.id
                found = await gateway.service.find(OPERATOR, wanted)
                assert len(list(found.tree.walk())) == 9

        play(script)

    def test_part_of_a_tree_has_its_path(self, play: Play) -> None:
        async def script(ground: PosixGround) -> None:
            await tree_of_each_hour(ground, 1)
            async with parts(ground, "00ff") as gateway:
                whole = await newest(gateway, b"t0")
                for tree, path in whole.tree.walk():
                    found = await gateway.service.find(OPERATOR, tree.top.entry.id)
                    assert found.path == b"/".join((b"t0", *path))
                    assert len(list(found.tree.walk())) == len(list(tree.walk()))

        play(script)

    def test_number_of_a_replaced_directory_that_is_used_again_says_nothing(
        self, play: Play
    ) -> None:
        """A local file system gives the next directory the number of one that is gone."""

        async def script(ground: PosixGround) -> None:
            async with parts(ground, "000a") as gateway:
                await make_dirs(gateway.storage, b"moved", b"empty")
                await make_files(gateway.storage, b"moved/1", b"moved/2")
                former = await ino_of(gateway, b"moved")
                await delete(gateway, b"moved/1")
                await delete(gateway, b"moved/2")
                await replace(gateway, b"empty", b"moved")
                await make_dirs(gateway.storage, b"top")
                await make_files(gateway.storage, b"top/2", b"top/3")
                use_again(ground.directory, former, await ino_of(gateway, b"top"))
                await delete_tree(gateway, b"top")
                wanted = (await newest(gateway, b"top")).tree.top.entry.id
                found = await gateway.service.find(OPERATOR, wanted)
                names = {tree.top.entry.name for tree, _ in found.tree.walk()}
                assert names == {b"top", b"2", b"3"}

        play(script)

    def test_tombstone_and_long_name_are_found(self, play: Play) -> None:
        async def script(ground: PosixGround) -> None:
            async with parts(ground, "000a") as gateway:
                long = b"n" * 255
                await make_files(gateway.storage, b"a", long)
                await make_link(gateway.storage, b"a", b"b")
                await delete(gateway, b"a")
                await delete(gateway, long)
                for name in (b"a", long):
                    wanted = (await newest(gateway, name)).tree.top.entry.id
                    found = await gateway.service.find(OPERATOR, wanted)
                    assert found.path == name

        play(script)

    @pytest.mark.parametrize("entry_id", ["0" * 16 + ".000a", "18eb27e6ec29171d.ffff", "nonsense"])
    def test_what_is_not_there_is_not_found(self, play: Play, entry_id: str) -> None:
        async def script(ground: PosixGround) -> None:
            await tree_of_each_hour(ground, 1)
            async with parts(ground, "00ff") as gateway:
                with pytest.raises(NotFoundError):
                    await gateway.service.find(OPERATOR, entry_id)

        play(script)

    def test_what_is_somebody_elses_is_denied(self, play: Play) -> None:
        async def script(ground: PosixGround) -> None:
            await tree_of_each_hour(ground, 1)
            async with parts(ground, "00ff") as gateway:
                wanted = (await newest(gateway, b"t0")).tree.top.entry.id
                stranger = Caller(Credentials(30001, 30001), everything=False)
                with pytest.raises(DeniedError):
                    await gateway.service.find(stranger, wanted)

        play(script)

    def test_listing_looks_for_no_inode_by_number(self, play: Play) -> None:
        """On a local directory that would be a walk through the tree, for each."""

        async def script(ground: PosixGround) -> None:
            async with parts(ground, "000a") as gateway:
                await make_files(gateway.storage, b"a")
                await make_link(gateway.storage, b"a", b"b")
                await make_dirs(gateway.storage, b"d")
                await make_link(gateway.storage, b"a", b"d/c")
                async with victim(gateway.storage, b"d") as d:
                    await gateway.put.tree(await gateway.domain(), d.at, d.found, WHO)
                await delete(gateway, b"b")
            async with parts(ground, "000b") as gateway:  # no record was written
                storage: Any = gateway.storage

                async def find(*_: Any) -> None:
                    raise AssertionError("looked for an inode by number")

                storage.find = find
                contents = await gateway.service.contents(OPERATOR)
                assert {one.tree.top.entry.name for one in contents.trees} == {b"b", b"d"}

        play(script)

    def test_error_in_a_shard_is_that_error(self, play: Play) -> None:
        async def script(ground: PosixGround) -> None:
            await tree_of_each_hour(ground, 1)
            async with parts(ground, "00ff") as gateway:
                wanted = (await newest(gateway, b"t0")).tree.top.entry.id
                domain, storage = await gateway.domain(), gateway.storage
                shards = {shard.node.ino for shard in domain.shards()}
                original: Any = storage.resolve

                async def resolve(parent: Any, name: bytes) -> Any:
                    if parent.ino in shards:
                        raise FSError(what="broken")
                    return await original(parent, name)

                storage.resolve = resolve  # type: ignore[attr-defined]
                with pytest.raises(FSError, match="broken"):
                    await gateway.service.find(OPERATOR, wanted)

        play(script)


class TestLostRecords:
    def test_recovery_finds_out_where_entries_were(self, play: Play) -> None:
        """The gateway died before it wrote the journal."""

        async def script(ground: PosixGround) -> None:
            async with parts(ground, "000a") as gateway:
                await make_dirs(gateway.storage, b"d", b"d/e", b"d/e/f", b"gone", b"gone/h")
                await make_files(gateway.storage, b"d/e/1", b"d/e/f/2", b"gone/h/3", b"4")
                await delete(gateway, b"d/e/1")
                await delete_tree(gateway, b"gone")
                await delete(gateway, b"4")
            async with parts(ground, "000b") as gateway:
                await recover(await gateway.domain(), ["000a"])
                contents = await gateway.service.contents(OPERATOR)
                assert {one.path for one in contents.trees} == {b"d/e/1", b"gone", b"4"}
                gone = await newest(gateway, b"gone")
                places = set()
                for tree, _ in gone.tree.walk():
                    part = await gateway.service.find(OPERATOR, tree.top.entry.id)
                    places.add(part.path)
                assert places == {b"gone", b"gone/h", b"gone/h/3"}

        play(script)

    def test_directory_that_was_moved_meanwhile_counts_where_it_is(self, play: Play) -> None:
        async def script(ground: PosixGround) -> None:
            async with parts(ground, "000a") as gateway:
                await make_dirs(gateway.storage, b"d")
                await make_files(gateway.storage, b"d/1")
                await delete(gateway, b"d/1")
                root = gateway.storage.root
                await gateway.storage.rename(root, b"d", root, b"renamed", GATEWAY)
            async with parts(ground, "000b") as gateway:
                await recover(await gateway.domain(), ["000a"])
                assert (await newest(gateway, b"1")).path == b"renamed/1"

        play(script)

    def test_records_that_there_are_stay(self, play: Play) -> None:
        async def script(ground: PosixGround) -> None:
            async with parts(ground, "000a") as gateway:
                await make_files(gateway.storage, b"known", b"lost")
                await make_link(gateway.storage, b"known", b"other")
                await delete(gateway, b"known")
                await gateway.journal.drain()
                await delete(gateway, b"lost")
            async with parts(ground, "000b") as gateway:
                for _ in range(2):
                    await recover(await gateway.domain(), ["000a"])
                known, lost = await newest(gateway, b"known"), await newest(gateway, b"lost")
                assert known.record is not None
                assert lost.record is not None
                assert (known.record.pid, lost.record.pid) == (WHO.pid, 0)
                assert (known.path, lost.path) == (b"known", b"lost")

        play(script)

    def test_directory_that_is_gone_for_good_leaves_the_place_unknown(self, play: Play) -> None:
        async def script(ground: PosixGround) -> None:
            async with parts(ground, "000a") as gateway:
                await make_dirs(gateway.storage, b"d")
                await make_files(gateway.storage, b"d/1")
                await delete(gateway, b"d/1")
                root = gateway.storage.root
                await gateway.storage.rmdir(root, b"d", GATEWAY)
            async with parts(ground, "000b") as gateway:
                await recover(await gateway.domain(), ["000a"])
                assert (await newest(gateway, b"1")).path is None

        play(script)
