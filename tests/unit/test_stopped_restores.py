"""A restore that is told to stop at any step: undone or finished, and it says which: [trash-15]."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from tests.property.census import Census, check_nothing_is_hidden, take_census
from tests.property.faulty import Crash, When, is_crash
from tests.property.gateways import (
    OPERATOR,
    SOMEBODY_ELSE,
    Parts,
    PosixGround,
    delete,
    delete_tree,
    make_dirs,
    make_files,
    make_link,
    parts,
)
from tests.property.scenarios import newest
from trashbin.progress import Progress
from trashbin.recover import recover
from trashbin.service import Conflict, Listed

_ENTRIES = 6


class _Stopping:
    """Tells a request to stop before the n-th call of its storage, and counts them all."""

    def __init__(self, progress: Progress, nth: int) -> None:
        self.calls = 0
        self._progress = progress
        self._nth = nth

    def instead_of(self, storage: Any, name: str) -> Any:
        original = getattr(storage, name)

        async def acted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self._nth:
                self._progress.stop()
            return await original(*args, **kwargs)

        return acted


_CALLS = ("lookup", "resolve", "rename", "mkdir", "symlink", "unlink", "rmdir", "link", "setattr")


async def _prepare(gateway: Parts) -> None:
    """Delete a tree whose parent is gone, with a tombstone in it, and a file."""
    await make_dirs(gateway.storage, b"p", b"p/t", b"p/t/u")
    await make_files(gateway.storage, b"p/t/1", b"p/t/u/2", b"p/t/u/3", b"other", b"last")
    await make_link(gateway.storage, b"other", b"p/t/linked")
    await delete_tree(gateway, b"p/t")
    await delete(gateway, b"p", SOMEBODY_ELSE)
    await delete(gateway, b"last")
    await gateway.journal.drain()


async def _stopped_at(ground: PosixGround, nth: int) -> tuple[list[str], int]:
    """Restore, be told to stop before a call; return what became of each, and of how many calls."""
    async with parts(ground, "000a") as gateway:
        await _prepare(gateway)
        before = await take_census(gateway)
        asked = [("", await newest(gateway, b"t")), ("", await newest(gateway, b"last"))]
        progress = Progress()
        stopping, storage = _Stopping(progress, nth), gateway.storage
        for name in _CALLS:
            setattr(storage, name, stopping.instead_of(storage, name))
        answers = await gateway.service.restore(
            OPERATOR, asked, to=None, on_conflict=Conflict.FAIL, dry_run=False, progress=progress
        )
        for name in _CALLS:
            delattr(storage, name)
        assert progress.done == progress.total == _ENTRIES + 1
        outcomes = [answer.outcome.value for answer in answers]
        for answer, path in zip(answers, ("p/t/u/3", "last"), strict=True):
            assert (ground.directory / path).exists() == (answer.outcome.value == "restored")
        assert (ground.directory / "p").exists() == (outcomes[0] == "restored")
        await gateway.journal.drain()
        await check_nothing_is_hidden(gateway)
        assert _files(await take_census(gateway)) == _files(before)
        await _repeat(gateway, asked, outcomes)
        for path in ("1", "linked", "u/2", "u/3"):
            assert (ground.directory / "p/t" / path).exists()
        assert [one.path for one in (await gateway.service.contents(OPERATOR)).trees] == [b"p"]
        return outcomes, stopping.calls


def _files(census: Census) -> Counter[bytes]:
    """Count the names of each file: directories may have been made again."""
    return Counter({what: n for what, n in census.everything().items() if what != b"dir"})


async def _repeat(gateway: Parts, asked: list[tuple[str, Listed]], outcomes: Sequence[str]) -> None:
    """Restore again what was stopped; half of it by its id, half by its path."""
    for (_, before), outcome in zip(asked, outcomes, strict=True):
        if outcome == "restored":
            continue
        if len(gateway.storage.changes) % 2:
            listed = await gateway.service.find(OPERATOR, before.tree.top.entry.id)
        else:
            assert before.path is not None
            (listed,) = await gateway.service.at_path(OPERATOR, before.path)
        answers = await gateway.service.restore(
            OPERATOR, [("", listed)], to=None, on_conflict=Conflict.FAIL, dry_run=False
        )
        assert [answer.outcome.value for answer in answers] == ["restored"], answers


def test_each_tree_is_undone_or_finished(ground: PosixGround) -> None:
    async def main() -> None:
        seen = set()
        for nth in itertools.count(1):
            fresh = PosixGround(ground.directory.parent)
            outcomes, calls = await _stopped_at(fresh, nth)
            seen.add(tuple(outcomes))
            if calls < nth:
                break
        assert seen == {("stopped", "stopped"), ("restored", "stopped"), ("restored", "restored")}

    trio.run(main)


def test_what_is_replaced_is_followed_by_what_replaces_it(ground: PosixGround) -> None:
    """Else nothing would have the name."""

    async def main() -> None:
        async with parts(ground, "000a") as gateway:
            await make_files(gateway.storage, b"a")
            await delete(gateway, b"a")
            await gateway.journal.drain()
            listed = await newest(gateway, b"a")
            (ground.directory / "a").write_text("new")
            progress = Progress()
            storage: Any = gateway.storage
            rename = storage.rename

            async def renamed(*args: Any, **kwargs: Any) -> Any:
                progress.stop()
                return await rename(*args, **kwargs)

            storage.rename = renamed
            (answer,) = await gateway.service.restore(
                OPERATOR,
                [("", listed)],
                to=None,
                on_conflict=Conflict.REPLACE,
                dry_run=False,
                progress=progress,
            )
            del storage.rename
            assert answer.outcome.value == "restored"
            assert (ground.directory / "a").read_text() == "a"

    trio.run(main)


async def _cut_off(ground: PosixGround, step: int) -> bool:
    """Have a gateway die at a step of a restore; False if the restore has fewer."""
    with contextlib.suppress(Crash):
        async with parts(ground, "000a") as gateway:
            await make_dirs(gateway.storage, b"t", b"t/u", b"t/v")
            await make_files(gateway.storage, b"t/1", b"t/u/2", b"t/u/3", b"t/v/4")
            await delete_tree(gateway, b"t")
            await gateway.journal.drain()
            listed = await newest(gateway, b"t")
            gateway.storage.arm(step, When.BEFORE)
            try:
                await gateway.service.restore(
                    OPERATOR, [("", listed)], to=None, on_conflict=Conflict.FAIL, dry_run=False
                )
            except BaseExceptionGroup as exc:
                if not is_crash(exc):
                    raise
            return gateway.storage.dead
    return True


async def _restored_by_ids(gateway: Parts, *, reverse: bool) -> int:
    """Restore all that is listed, each by its id in one request; return how many there were."""
    trees = (await gateway.service.contents(OPERATOR)).trees
    ids = sorted((one.tree.top.entry.id for one in trees), reverse=reverse)
    asked = [(entry_id, await gateway.service.find(OPERATOR, entry_id)) for entry_id in ids]
    answers = await gateway.service.restore(
        OPERATOR, asked, to=None, on_conflict=Conflict.FAIL, dry_run=False
    )
    assert [answer.asked for answer in answers] == ids
    assert {answer.outcome.value for answer in answers} <= {"restored"}, answers
    return len(ids)


@pytest.mark.parametrize("reverse", [True, False], ids=["newest first", "oldest first"])
def test_what_is_listed_after_one_was_cut_off_is_restored(
    ground: PosixGround, reverse: bool
) -> None:
    """[trash-16]: all of it by one request, where some of it comes back with the rest."""

    async def main() -> None:
        several = 0
        for step in itertools.count(1):
            fresh = PosixGround(ground.directory.parent)
            died = await _cut_off(fresh, step)
            async with parts(fresh, "000b") as gateway:
                await recover(await gateway.domain(), ["000a"])
                several += await _restored_by_ids(gateway, reverse=reverse) > 1
                for path in ("1", "u/2", "u/3", "v/4"):
                    assert (fresh.directory / "t" / path).read_text() == f"t/{path}"
                assert (await gateway.service.contents(OPERATOR)).trees == []
            if not died:
                break
        assert several, "nothing was listed by itself"

    trio.run(main)


def test_part_of_another_one_that_is_asked_for_is_restored_with_it(ground: PosixGround) -> None:
    """[trash-20]: whatever the order, and once; by itself where the other one can't."""

    async def main() -> None:
        async with parts(ground, "000a") as gateway:
            await make_dirs(gateway.storage, b"t", b"t/u")
            await make_files(gateway.storage, b"t/1", b"t/u/2")
            await delete_tree(gateway, b"t")
            await gateway.journal.drain()
            whole = await newest(gateway, b"t")
            ids = {path: one.top.entry.id for one, path in whole.tree.walk()}
            asked = [
                (b"/".join(path).decode(), await gateway.service.find(OPERATOR, ids[path]))
                for path in ((b"u", b"2"), (b"u",), (), ())
            ]

            async def answers(*, to: bytes | None, dry_run: bool) -> list[tuple[str, bytes | None]]:
                done = await gateway.service.restore(
                    OPERATOR, asked, to=to, on_conflict=Conflict.FAIL, dry_run=dry_run
                )
                return [(answer.outcome.value, answer.target) for answer in done]

            targets = (b"t/u/2", b"t/u", b"t", b"t")
            planned = [("would_restore", target) for target in targets]
            assert await answers(to=None, dry_run=True) == planned
            (ground.directory / "to").mkdir()
            (ground.directory / "to/t").write_text("in the way")
            conflict = ("conflict", b"to/t")
            by_themselves = [("restored", b"to/u/2"), ("restored", b"to/u"), conflict, conflict]
            assert await answers(to=b"to", dry_run=False) == by_themselves
            assert os.listdir(ground.directory / "to/u") == ["2"]

    trio.run(main)
