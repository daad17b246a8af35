"""A name is one component of 1 to 255 bytes, whatever the bytes; anything else is refused."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable

import pytest

from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import GATEWAY
from tests.contract.tree import Tree, fails

REFUSED = [b"", b".", b"..", b"a/b", b"/", b"a/", b"a\0b", b"\0"]
ODD = [
    b"n" * 255,
    b"\xff\xfe\x80",
    b"\xc3\x28",
    " ä€".encode(),
    b"line\nfeed",
    b"-rf",
    b" ",
    b"...",
    b"~",
    b"*",
    bytes(number for number in range(1, 128) if number != ord("/")),
    bytes(range(128, 256)),
]

Call = Callable[[Storage, Node, Node, bytes], Awaitable[object]]

CALLS: dict[str, Call] = {
    "lookup": lambda storage, top, node, name: storage.lookup(top, name),
    "resolve": lambda storage, top, node, name: storage.resolve(top, name),
    "mkdir": lambda storage, top, node, name: storage.mkdir(top, name, 0o755, GATEWAY),
    "mknod": lambda storage, top, node, name: storage.mknod(
        top, name, stat.S_IFREG | 0o644, 0, GATEWAY
    ),
    "symlink": lambda storage, top, node, name: storage.symlink(top, name, b"x", GATEWAY),
    "link": lambda storage, top, node, name: storage.link(node, top, name, GATEWAY),
    "unlink": lambda storage, top, node, name: storage.unlink(top, name, GATEWAY),
    "rmdir": lambda storage, top, node, name: storage.rmdir(top, name, GATEWAY),
    "rename from": lambda storage, top, node, name: storage.rename(
        top, name, top, b"other", GATEWAY
    ),
    "rename to": lambda storage, top, node, name: storage.rename(top, b"file", top, name, GATEWAY),
    "create": lambda storage, top, node, name: storage.create(
        top, name, 0o644, os.O_WRONLY, GATEWAY
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_what_is_no_component_is_refused(tree: Tree, call: Call) -> None:
    node = await tree.file(b"file")
    for name in REFUSED:
        with fails(errno.EINVAL):
            await call(tree.storage, tree.top, node, name)
    assert await tree.names() == [b"file"]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_256_bytes_are_refused(tree: Tree, call: Call) -> None:
    node = await tree.file(b"file")
    with fails(errno.ENAMETOOLONG):
        await call(tree.storage, tree.top, node, b"n" * 256)
    assert await tree.names() == [b"file"]


async def test_any_bytes_name_a_file(tree: Tree) -> None:
    nodes = {name: await tree.file(name, name) for name in ODD}
    assert await tree.names() == sorted(ODD)
    for name, node in nodes.items():
        assert (await tree.look(name)).node.ino == node.ino
        assert await tree.data(node) == name


async def test_any_bytes_name_everything_else(tree: Tree) -> None:
    storage = tree.storage
    source = await tree.file(b"file")
    for number, name in enumerate(ODD):
        above = await tree.dir(b"%d" % number)
        tree.keep(await storage.mkdir(above, name, 0o755, GATEWAY))
        await storage.rename(above, name, tree.top, name, GATEWAY)
        tree.keep(await storage.symlink(above, name, name[:100], GATEWAY))
        await storage.unlink(above, name, GATEWAY)
        tree.keep(await storage.mknod(above, name, stat.S_IFIFO | 0o644, 0, GATEWAY))
        await storage.unlink(above, name, GATEWAY)
        await storage.link(source, above, name, GATEWAY)
        assert await tree.names(above) == [name]
        await storage.rmdir(tree.top, name, GATEWAY)


async def test_names_differ_by_case_and_normal_form(tree: Tree) -> None:
    names = [b"a", b"A", "é".encode(), "e\u0301".encode()]
    inos = {(await tree.file(name)).ino for name in names}
    assert len(inos) == len(names)
    assert await tree.names() == sorted(names)
