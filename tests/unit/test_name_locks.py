"""Locks of names that are being changed: one change at a time, and nobody waits in a circle."""

from __future__ import annotations

import random

import trio
import trio.testing

from cephfs_ext.core.types import Ino
from cephfs_ext.storage.name_locks import Name, NameLocks

A, B, C = ((Ino(1), name) for name in (b"a", b"b", b"c"))


def test_one_change_of_a_name_at_a_time() -> None:
    async def main() -> None:
        locks, inside, most = NameLocks(), 0, 0

        async def change() -> None:
            nonlocal inside, most
            async with locks.held(A):
                inside += 1
                most = max(most, inside)
                await trio.lowlevel.checkpoint()
                inside -= 1

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(change)
        assert most == 1
        assert len(locks) == 0

    trio.run(main)


def test_other_names_are_free() -> None:
    async def main() -> None:
        locks = NameLocks()
        with trio.fail_after(5):
            async with locks.held(A), locks.held(B), locks.held((Ino(2), b"a")):
                assert len(locks) == 3

    trio.run(main)


def test_same_name_twice_is_one() -> None:
    async def main() -> None:
        locks = NameLocks()
        with trio.fail_after(5):
            async with locks.held(A, A):
                assert len(locks) == 1

    trio.run(main)


def test_without_anybody_else_there_is_no_checkpoint() -> None:
    async def main() -> None:
        locks = NameLocks()
        with trio.testing.assert_no_checkpoints():
            async with locks.held(A, B):
                pass

    trio.run(main)


def test_nobody_waits_in_a_circle() -> None:
    async def main() -> None:
        locks, choose = NameLocks(), random.Random(1)

        async def change(names: list[Name]) -> None:
            async with locks.held(*names):
                await trio.lowlevel.checkpoint()

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(300):
                    nursery.start_soon(change, choose.sample([A, B, C], 2))
        assert len(locks) == 0

    trio.run(main)


class _Others:
    """Somebody who changes names in threads of their own."""

    def __init__(self, *names: Name) -> None:
        self.taken = set(names)

    def take_name(self, parent: Ino, name: bytes) -> bool:
        is_free = (parent, name) not in self.taken
        self.taken.add((parent, name))
        return is_free

    def leave_name(self, parent: Ino, name: bytes) -> None:
        self.taken.remove((parent, name))


def test_others_are_waited_for_and_kept_away() -> None:
    async def main() -> None:
        locks, others = NameLocks(), _Others(A)
        locks.others = others
        with trio.move_on_after(0.02) as waiting:
            async with locks.held(B, A):
                raise AssertionError("two changes of one name")
        assert waiting.cancelled_caught
        assert others.taken == {A}
        async with trio.open_nursery() as nursery:

            async def leave() -> None:
                await trio.sleep(0.01)
                others.leave_name(*A)

            nursery.start_soon(leave)
            with trio.fail_after(5):
                async with locks.held(A, B):
                    assert others.taken == {A, B}
        assert not others.taken

    trio.run(main)


def test_who_is_cancelled_while_waiting_leaves_nothing() -> None:
    async def main() -> None:
        locks = NameLocks()
        async with locks.held(B):
            with trio.move_on_after(0.02) as waiting:
                async with locks.held(A, B):
                    raise AssertionError("two changes of one name")
            assert waiting.cancelled_caught
            assert len(locks) == 1
            with trio.fail_after(5):
                async with locks.held(A):
                    pass
        assert len(locks) == 0

    trio.run(main)
