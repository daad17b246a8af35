"""Where a restore may put something, and for whom; missing directories come back as they were."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from cephfs_ext.core.types import Credentials
from tests.posix import acl
from tests.property.gateways import (
    OPERATOR,
    SOMEBODY_ELSE,
    Parts,
    PosixGround,
    delete,
    delete_tree,
    make_dirs,
    make_files,
    parts,
)
from tests.property.scenarios import newest
from trashbin.put import Deleter
from trashbin.service import Answer, Caller, Conflict

ALICE = Caller(Credentials(30001, 30001), everything=False)
BOB = Caller(Credentials(30002, 30002), everything=False)
Script = Callable[[Parts, Path], Awaitable[None]]
Play = Callable[[Script], None]


@pytest.fixture
def play(ground: PosixGround) -> Play:
    def played(script: Script) -> None:
        async def main() -> None:
            async with parts(ground, "000a") as gateway:
                await script(gateway, ground.directory)

        trio.run(main)

    return played


async def restore(
    gateway: Parts,
    who: Caller,
    name: bytes,
    *,
    to: bytes | None = None,
    on_conflict: Conflict = Conflict.FAIL,
    dry_run: bool = False,
) -> Answer:
    await gateway.journal.drain()
    listed = await newest(gateway, name)
    (answer,) = await gateway.service.restore(
        who, [("", listed)], to=to, on_conflict=on_conflict, dry_run=dry_run
    )
    return answer


def by(who: Caller) -> Deleter:
    return Deleter(who.cred, 1, "rm")


class TestRights:
    def test_one_own_is_restored_where_one_may_write(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            (top / "d").mkdir()
            os.chown(top / "d", 30001, 30001)
            (top / "d/a").write_text("hers")
            await delete(gateway, b"d/a", by(ALICE))
            assert (await restore(gateway, ALICE, b"a")).outcome.value == "restored"
            assert (top / "d/a").read_text() == "hers"

        play(script)

    def test_nothing_is_restored_where_one_may_not_write(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            (top / "d").mkdir(mode=0o755)
            (top / "d/a").touch()
            await delete(gateway, b"d/a", by(ALICE))
            assert (await restore(gateway, ALICE, b"a")).outcome.value == "denied"
            assert (await restore(gateway, ALICE, b"a", to=b"d")).outcome.value == "denied"
            assert not (top / "d/a").exists()

        play(script)

    def test_way_has_to_be_searchable(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            (top / "closed/open").mkdir(parents=True)
            (top / "closed/open").chmod(0o777)
            (top / "closed/open/a").touch()
            (top / "closed").chmod(0o700)
            await delete(gateway, b"closed/open/a", by(ALICE))
            assert (await restore(gateway, ALICE, b"a")).outcome.value == "denied"

        play(script)

    def test_access_control_list_decides(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            (top / "d").mkdir(mode=0o700)
            acl.write(top / "d", acl.extended(0o700, acl.Entry(acl.USER, 7, 30001)))
            (top / "d/a").touch()
            (top / "d/b").touch()
            await delete(gateway, b"d/a", by(ALICE))
            await delete(gateway, b"d/b", by(BOB))
            assert (await restore(gateway, ALICE, b"a")).outcome.value == "restored"
            assert (await restore(gateway, BOB, b"b")).outcome.value == "denied"

        play(script)

    def test_replacing_takes_the_right_to_delete(self, play: Play) -> None:
        """In a sticky directory what is somebody else's stays."""

        async def script(gateway: Parts, top: Path) -> None:
            (top / "tmp").mkdir()
            (top / "tmp").chmod(0o1777)
            (top / "tmp/a").write_text("hers")
            await delete(gateway, b"tmp/a", by(ALICE))
            (top / "tmp/a").write_text("his")
            os.chown(top / "tmp/a", 30002, 30002)
            answer = await restore(gateway, ALICE, b"a", on_conflict=Conflict.REPLACE)
            assert answer.outcome.value == "denied"
            assert (top / "tmp/a").read_text() == "his"
            os.chown(top / "tmp/a", 30001, 30001)
            answer = await restore(gateway, ALICE, b"a", on_conflict=Conflict.REPLACE)
            assert answer.outcome.value == "restored"
            assert (top / "tmp/a").read_text() == "hers"

        play(script)

    def test_directory_that_is_not_writable_is_not_replaced(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            (top / "d").mkdir()
            await delete(gateway, b"d", by(ALICE))
            (top / "d").mkdir(mode=0o755)
            (top / "d/his").touch()
            answer = await restore(gateway, ALICE, b"d", on_conflict=Conflict.REPLACE)
            assert answer.outcome.value == "denied"
            assert (top / "d/his").exists()

        play(script)

    @pytest.mark.parametrize("to", [b".trashbin", b".trashbin/r0.00", b"d/.trashbin/x"])
    def test_nothing_is_restored_into_the_trash(self, play: Play, to: bytes) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            (top / "d").mkdir()
            (top / "a").touch()
            await delete(gateway, b"a")
            assert (await restore(gateway, OPERATOR, b"a", to=to)).outcome.value == "denied"
            assert len((await gateway.service.contents(OPERATOR)).trees) == 1

        play(script)

    @pytest.mark.parametrize("to", [b"..", b"d/../..", b"."])
    def test_nothing_is_restored_outside(self, play: Play, to: bytes) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            (top / "d").mkdir()
            (top / "a").touch()
            await delete(gateway, b"a")
            assert (await restore(gateway, OPERATOR, b"a", to=to)).outcome.value == "failed"
            assert not (top.parent / "a").exists()

        play(script)

    def test_no_link_is_followed(self, play: Play, tmp_path: Path) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            (top / "d").mkdir()
            (top / "d/a").touch()
            await delete(gateway, b"d/a")
            (top / "d").rmdir()
            (top / "d").symlink_to(tmp_path)
            assert (await restore(gateway, OPERATOR, b"a")).outcome.value == "failed"
            assert not (tmp_path / "a").exists()

        play(script)


class TestMissingDirectories:
    def test_directory_in_the_trash_is_made_as_it_was(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            await make_dirs(gateway.storage, b"d")
            await make_files(gateway.storage, b"d/a")
            os.chown(top / "d", 30001, 30002)
            (top / "d").chmod(0o2750)
            acl.write(top / "d", acl.extended(0o750, acl.Entry(acl.USER, 5, 30004)))
            before = os.getxattr(top / "d", "system.posix_acl_access")
            mode = (top / "d").stat().st_mode
            await delete(gateway, b"d/a", by(ALICE))
            await delete_tree(gateway, b"d", SOMEBODY_ELSE)
            os.chmod(top, 0o755)
            assert (await restore(gateway, ALICE, b"a")).outcome.value == "denied"
            os.chmod(top, 0o777)
            assert (await restore(gateway, ALICE, b"a")).outcome.value == "restored"
            status = (top / "d").stat()
            assert (status.st_uid, status.st_gid) == (30001, 30002)
            assert status.st_mode == mode
            assert os.getxattr(top / "d", "system.posix_acl_access") == before

        play(script)

    def test_directory_that_one_could_not_write_in_is_ones_own(self, play: Play) -> None:
        """Else nothing could be restored into it."""

        async def script(gateway: Parts, top: Path) -> None:
            await make_dirs(gateway.storage, b"d")
            await make_files(gateway.storage, b"d/a")
            os.chown(top / "d/a", 30001, 30001)
            await delete(gateway, b"d/a")
            await delete_tree(gateway, b"d", SOMEBODY_ELSE)
            assert (await restore(gateway, ALICE, b"a")).outcome.value == "restored"
            assert (top / "d").stat().st_uid == 30001

        play(script)

    def test_directory_of_which_nothing_is_known_is_ones_own(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            (top / "a").touch()
            await delete(gateway, b"a", by(ALICE))
            answer = await restore(gateway, ALICE, b"a", to=b"new/deep")
            assert answer.outcome.value == "restored"
            for path in (top / "new", top / "new/deep"):
                assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (30001, 0o755)

        play(script)

    def test_directory_that_was_made_for_nothing_goes_again(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            (top / "a").touch()
            await delete(gateway, b"a")
            await gateway.journal.drain()
            listed = await newest(gateway, b"a")
            await gateway.service.purge(OPERATOR, [listed])
            (answer,) = await gateway.service.restore(
                OPERATOR, [("", listed)], to=b"x/y", on_conflict=Conflict.FAIL, dry_run=False
            )
            assert answer.outcome.value == "not_found"
            assert not (top / "x").exists()

        play(script)

    def test_dry_run_makes_none(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            (top / "a").touch()
            await delete(gateway, b"a")
            answer = await restore(gateway, OPERATOR, b"a", to=b"x/y", dry_run=True)
            assert (answer.outcome.value, answer.target) == ("would_restore", b"x/y/a")
            assert not (top / "x").exists()

        play(script)
