"""rename: one step, that replaces only what may be replaced, or changes nothing."""

from __future__ import annotations

import contextlib
import errno

import pytest
import trio

from cephfs_ext.core.errors import ExchangedError, NotFoundError
from cephfs_ext.core.ports import Found, Move
from cephfs_ext.core.types import GATEWAY, Ino
from tests.contract.tree import Tree, fails

_HOME_S = 10.0
NOREPLACE = 1
EXCHANGE = 2


async def rename(tree: Tree, old: bytes, new: bytes, flags: int = 0) -> None:
    """Rename within the top directory, as the gateway."""
    await tree.storage.rename(tree.top, old, tree.top, new, GATEWAY, flags)


async def test_into_another_directory(tree: Tree) -> None:
    node = await tree.file(b"f", b"data")
    below = await tree.dir(b"d")
    await tree.storage.rename(tree.top, b"f", below, b"g", GATEWAY)
    assert await tree.names() == [b"d"]
    assert await tree.names(below) == [b"g"]
    assert (await tree.look(b"g", at=below)).node.ino == node.ino
    assert await tree.data(node) == b"data"


async def test_replaces_a_file(tree: Tree) -> None:
    node = await tree.file(b"f", b"new")
    old = await tree.file(b"g", b"old")
    await rename(tree, b"f", b"g")
    assert await tree.names() == [b"g"]
    assert (await tree.look(b"g")).node.ino == node.ino
    assert (await tree.storage.getattr(old)).nlink == 0


async def test_replaces_one_of_several_names(tree: Tree) -> None:
    await tree.file(b"f")
    old = await tree.file(b"g", b"old")
    await tree.storage.link(old, tree.top, b"h", GATEWAY)
    await rename(tree, b"f", b"g")
    assert (await tree.storage.getattr(old)).nlink == 1
    assert await tree.data((await _look_soon(tree, b"h")).node) == b"old"


async def _look_soon(tree: Tree, name: bytes) -> Found:
    """Look up the other name of what was replaced.

    A metadata server makes it the inode's home afterwards, and finds neither name for some
    milliseconds; a mount has another session do it (decision 14).
    """
    with trio.fail_after(_HOME_S):
        while True:
            with contextlib.suppress(NotFoundError):
                return await tree.look(name)
            await trio.sleep(0.01)


async def test_replaces_a_symlink_and_not_its_target(tree: Tree) -> None:
    await tree.file(b"target", b"data")
    await tree.symlink(b"l", b"target")
    await tree.file(b"f")
    await rename(tree, b"f", b"l")
    assert (await tree.attr(b"l")).is_regular
    assert await tree.data((await tree.look(b"target")).node) == b"data"


async def test_moves_a_symlink_and_not_its_target(tree: Tree) -> None:
    await tree.file(b"target")
    await tree.symlink(b"l", b"target")
    await rename(tree, b"l", b"m")
    assert await tree.names() == [b"m", b"target"]
    assert (await tree.attr(b"m")).is_symlink


async def test_replaces_an_empty_directory(tree: Tree) -> None:
    node = await tree.dir(b"d")
    await tree.file(b"inside", at=node)
    await tree.dir(b"e")
    await rename(tree, b"d", b"e")
    assert await tree.names() == [b"e"]
    assert await tree.names((await tree.look(b"e")).node) == [b"inside"]


async def test_two_names_of_one_inode_stay(tree: Tree) -> None:
    node = await tree.file(b"f", b"data")
    await tree.storage.link(node, tree.top, b"g", GATEWAY)
    await rename(tree, b"f", b"g")
    assert await tree.names() == [b"f", b"g"]
    assert (await tree.storage.getattr(node)).nlink == 2
    await rename(tree, b"f", b"f")
    assert await tree.names() == [b"f", b"g"]


async def fill(tree: Tree) -> list[bytes]:
    """Make something of each kind; return all names."""
    await tree.file(b"file", b"data")
    full = await tree.dir(b"full")
    await tree.file(b"inside", b"data", at=full)
    await tree.dir(b"empty")
    await tree.symlink(b"link", b"empty")
    return await tree.names()


@pytest.mark.parametrize(
    ("old", "new", "number"),
    [
        (b"empty", b"full", errno.ENOTEMPTY),
        (b"full", b"file", errno.ENOTDIR),
        (b"full", b"link", errno.ENOTDIR),
        (b"file", b"empty", errno.EISDIR),
        (b"link", b"empty", errno.EISDIR),
        (b"file", b"full", errno.EISDIR),
        (b"missing", b"file", errno.ENOENT),
        (b"missing", b"new", errno.ENOENT),
    ],
)
async def test_refused(tree: Tree, old: bytes, new: bytes, number: int) -> None:
    before = await fill(tree)
    with fails(number):
        await rename(tree, old, new)
    assert await tree.names() == before
    assert await tree.names((await tree.look(b"full")).node) == [b"inside"]
    assert await tree.data((await tree.look(b"file")).node) == b"data"


async def test_directory_does_not_go_below_itself(tree: Tree) -> None:
    node = await tree.dir(b"d")
    deeper = await tree.dir(b"e", at=node)
    for above in (node, deeper):
        with fails(errno.EINVAL):
            await tree.storage.rename(tree.top, b"d", above, b"x", GATEWAY)
    assert await tree.names() == [b"d"]
    assert await tree.names(deeper) == []


async def test_open_file_keeps_its_inode(tree: Tree) -> None:
    old = await tree.file(b"g", b"old")
    await tree.file(b"f", b"new")
    async with tree.opened(old) as handle:
        await rename(tree, b"f", b"g")
        assert await tree.storage.read(handle, 0, 10) == b"old"


async def test_noreplace_replaces_nothing(tree: Tree) -> None:
    await fill(tree)
    number = errno.EEXIST if tree.storage.rename_noreplace else errno.EINVAL
    for new in (b"full", b"empty", b"link"):
        with fails(number):
            await rename(tree, b"file", new, NOREPLACE)
    assert await tree.data((await tree.look(b"file")).node) == b"data"


async def test_noreplace_takes_a_free_name_or_is_refused(tree: Tree) -> None:
    node = await tree.file(b"f")
    if tree.storage.rename_noreplace:
        await rename(tree, b"f", b"g", NOREPLACE)
        assert (await tree.look(b"g")).node.ino == node.ino
    else:
        with fails(errno.EINVAL):
            await rename(tree, b"f", b"g", NOREPLACE)
        assert await tree.names() == [b"f"]


async def test_exchange_is_done_whole_or_refused(tree: Tree) -> None:
    file, full = await tree.file(b"file", b"data"), await tree.dir(b"full")
    await tree.file(b"inside", at=full)
    if tree.storage.kind == "ceph":
        with fails(errno.EINVAL):
            await rename(tree, b"file", b"full", EXCHANGE)
        assert (await tree.look(b"file")).node.ino == file.ino
        return
    await rename(tree, b"file", b"full", EXCHANGE)
    assert (await tree.look(b"full")).node.ino == file.ino
    assert (await tree.look(b"file")).node.ino == full.ino
    with fails(errno.ENOENT):
        await rename(tree, b"file", b"missing", EXCHANGE)


@pytest.mark.parametrize("flags", [NOREPLACE | EXCHANGE, 8, 1 << 31])
async def test_flags_that_make_no_sense(tree: Tree, flags: int) -> None:
    await tree.file(b"f")
    await tree.file(b"g")
    with fails(errno.EINVAL):
        await rename(tree, b"f", b"g", flags)
    assert await tree.names() == [b"f", b"g"]


async def test_many_names_at_once_stay_apart(tree: Tree) -> None:
    for number in range(40):
        await tree.file(b"%d" % number, b"%d" % number)
    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(rename, tree, b"%d" % number, b"new-%d" % number)
    assert len(await tree.names()) == 40
    for number in range(40):
        assert await tree.data((await tree.look(b"new-%d" % number)).node) == b"%d" % number


async def test_one_of_many_renames_wins(tree: Tree) -> None:
    """Somebody who looks while names are replaced finds one content or another, never none."""
    await tree.file(b"target", b"0")
    for number in range(1, 30):
        await tree.file(b"%d" % number, b"%d" % number)
    done = False

    async def watch() -> None:
        while not done:
            found = await tree.storage.lookup(tree.top, b"target")
            tree.storage.forget(found.node)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for number in range(1, 30):
            await rename(tree, b"%d" % number, b"target")
        done = True
    assert await tree.names() == [b"target"]


async def test_something_else_than_was_expected_is_not_replaced(tree: Tree) -> None:
    """Where another gateway may have put it there; a local directory has one gateway."""
    source, target = await tree.file(b"f", b"new"), await tree.file(b"g", b"old")

    async def rename_expecting(ino: int) -> None:
        arguments = (tree.top, b"f", tree.top, b"g", GATEWAY)
        await tree.storage.rename(*arguments, expected=Ino(ino))

    if tree.storage.kind == "ceph":
        for wrong in (0, source.ino, 4711):
            with pytest.raises(ExchangedError):
                await rename_expecting(wrong)
        assert await tree.data((await tree.look(b"g")).node) == b"old"
    await rename_expecting(target.ino)
    assert await tree.data((await tree.look(b"g")).node) == b"new"


async def test_only_the_inode_that_is_meant_is_moved(tree: Tree) -> None:
    meant, other = await tree.file(b"f", b"meant"), await tree.file(b"g", b"other")
    arguments = (tree.top, b"f", tree.top, b"h", GATEWAY)
    with pytest.raises(ExchangedError):
        await tree.storage.rename(*arguments, moved=other.ino)
    assert await tree.names() == [b"f", b"g"]
    assert await tree.storage.rename(*arguments, moved=meant.ino)
    assert await tree.names() == [b"g", b"h"]


async def test_many_names_move_with_one_call_and_each_has_its_outcome(tree: Tree) -> None:
    below = await tree.dir(b"d")
    nodes = {name: await tree.file(name, name) for name in (b"a", b"b", b"c")}
    moves = [Move(name, b"new-" + name, node.ino) for name, node in nodes.items()]
    moves.insert(1, Move(b"missing", b"new-missing", Ino(4711)))
    moves.insert(3, Move(b"c", b"new-other", nodes[b"b"].ino))
    first, missing, second, other, third = await tree.storage.move_many(tree.top, below, moves)
    assert first is second is third is True
    assert isinstance(missing, NotFoundError)
    assert isinstance(other, ExchangedError)
    assert await tree.names() == [b"d"]
    for name, node in nodes.items():
        found = await tree.storage.lookup(below, b"new-" + name)
        assert found.node.ino == node.ino
        tree.storage.forget(found.node)


async def test_many_moves_with_a_wrong_name_among_them_are_not_begun(tree: Tree) -> None:
    below, node = await tree.dir(b"d"), await tree.file(b"f")
    for name, new_name in ((b"a/b", b"x"), (b"x", b"a\0b"), (b"..", b"x")):
        with fails(errno.EINVAL):
            await tree.storage.move_many(
                tree.top, below, [Move(b"f", b"g", node.ino), Move(name, new_name, Ino(1))]
            )
    assert await tree.names() == [b"d", b"f"]


async def test_several_batches_of_moves_at_once(tree: Tree) -> None:
    """Each name moves once, whoever is first."""
    below = await tree.dir(b"d")
    nodes = {b"f%d" % number: await tree.file(b"f%d" % number) for number in range(40)}
    moved: list[bytes] = []

    async def move(which: int) -> None:
        moves = [Move(name, b"%d-%s" % (which, name), node.ino) for name, node in nodes.items()]
        outcomes = await tree.storage.move_many(tree.top, below, moves)
        moved.extend(move.name for move, one in zip(moves, outcomes, strict=True) if one is True)

    async with trio.open_nursery() as nursery:
        for which in range(3):
            nursery.start_soon(move, which)
    assert sorted(moved) == sorted(nodes)
    assert await tree.names() == [b"d"]


async def test_nothing_was_expected_and_nothing_is_there(tree: Tree) -> None:
    node = await tree.file(b"f")
    await tree.storage.rename(tree.top, b"f", tree.top, b"g", GATEWAY, expected=Ino(0))
    assert (await tree.look(b"g")).node.ino == node.ino
