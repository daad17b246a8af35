"""A fresh directory of a storage, and short words for what the tests do in it.

A `Tree` gives every reference back that it handed out. What a test takes from the storage itself
it gives back itself, or hands to `keep`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from cephfs_ext.core.errors import FSError, fs_error
from cephfs_ext.core.ports import Created, DirHandle, Found, Handle, Listed, Node, Storage
from cephfs_ext.core.types import GATEWAY, Attr, AttrChange, Credentials

OWNER = Credentials(30001, 30001)
MEMBER = Credentials(30002, 30002, (30001,))
"""In the owner's group, by a supplementary group."""
STRANGER = Credentials(30003, 30003)

SECOND_NS = 1_000_000_000


class Tree:
    """One directory, open to everybody; the words are about names in it unless told otherwise."""

    def __init__(self, storage: Storage, top: Node, name: str) -> None:
        self.storage = storage
        self.top = top
        self.name = name
        self._held: list[Node] = [top]

    def keep(self, found: Found) -> Found:
        """Have a reference given back at the end."""
        self._held.append(found.node)
        return found

    def give_back(self) -> None:
        """Give all references back."""
        while self._held:
            self.storage.forget(self._held.pop())

    def give_back_one(self, node: Node) -> None:
        """Give one reference back already now."""
        self._held.remove(node)
        self.storage.forget(node)

    # making

    async def dir(
        self,
        name: bytes,
        *,
        at: Node | None = None,
        mode: int = 0o755,
        cred: Credentials = GATEWAY,
    ) -> Node:
        """Make a directory."""
        return self.keep(await self.storage.mkdir(at or self.top, name, mode, cred)).node

    async def create(
        self,
        name: bytes,
        *,
        at: Node | None = None,
        mode: int = 0o644,
        flags: int = os.O_RDWR | os.O_EXCL,
        cred: Credentials = GATEWAY,
    ) -> Created:
        """Make and open a file; the caller releases the handle."""
        created = await self.storage.create(at or self.top, name, mode, flags, cred)
        self.keep(Found(created.node, created.attr))
        return created

    async def file(
        self,
        name: bytes,
        data: bytes = b"",
        *,
        at: Node | None = None,
        mode: int = 0o644,
        cred: Credentials = GATEWAY,
    ) -> Node:
        """Make a file with content."""
        created = await self.create(name, at=at, mode=mode, cred=cred)
        if data:
            assert await self.storage.write(created.handle, 0, data) == len(data)
        await self.storage.release(created.handle)
        return created.node

    async def symlink(self, name: bytes, target: bytes, *, cred: Credentials = GATEWAY) -> Node:
        """Make a symbolic link."""
        return self.keep(await self.storage.symlink(self.top, name, target, cred)).node

    # looking

    async def look(self, name: bytes, *, at: Node | None = None) -> Found:
        """Look a name up."""
        return self.keep(await self.storage.lookup(at or self.top, name))

    async def through(self, other: Storage) -> Node:
        """Return the directory as another session has it; the caller gives it back.

        Another client waits for what the MDS hasn't written to its journal yet, up to 5 s.
        """
        await self.storage.settle(self.top)
        return (await other.resolve(other.root, self.name.encode())).node

    async def attr(self, name: bytes, *, at: Node | None = None) -> Attr:
        """Return the attributes of what has a name."""
        found = await self.storage.lookup(at or self.top, name)
        self.storage.forget(found.node)
        return found.attr

    async def data(self, node: Node) -> bytes:
        """Read a whole file."""
        async with self.opened(node) as handle:
            return await self.storage.read(handle, 0, (await self.storage.getattr(node)).size)

    async def names(self, node: Node | None = None) -> list[bytes]:
        """List a directory, sorted."""
        return sorted(listed.entry.name for listed in await self.list(node))

    async def list(self, node: Node | None = None, *, limit: int = 1000) -> list[Listed]:
        """Read a directory to its end, without nodes."""
        async with self.listing(node or self.top) as handle:
            return await pages(self.storage, handle, limit=limit)

    # handles

    @contextlib.asynccontextmanager
    async def opened(
        self, node: Node, flags: int = os.O_RDONLY, cred: Credentials = GATEWAY
    ) -> AsyncIterator[Handle]:
        """Have a file open while the body runs."""
        handle = await self.storage.open(node, flags, cred)
        try:
            yield handle
        finally:
            await self.storage.release(handle)

    @contextlib.asynccontextmanager
    async def listing(self, node: Node) -> AsyncIterator[DirHandle]:
        """Have a directory open while the body runs."""
        handle = await self.storage.opendir(node)
        try:
            yield handle
        finally:
            await self.storage.releasedir(handle)

    # changing

    async def chmod(self, node: Node, mode: int) -> None:
        """Change permissions as the gateway."""
        await self.storage.setattr(node, AttrChange(mode=mode), GATEWAY)

    async def chown(self, node: Node, cred: Credentials) -> None:
        """Give an inode to a user, and to the user's group."""
        await self.storage.setattr(node, AttrChange(uid=cred.uid, gid=cred.gid), GATEWAY)


async def pages(
    storage: Storage, handle: DirHandle, *, cookie: int = 0, limit: int = 1000, plus: bool = False
) -> list[Listed]:
    """Read a directory from a position to its end."""
    listed: list[Listed] = []
    while page := await storage.readdir(handle, cookie, limit=limit, plus=plus):
        assert len(page) <= limit
        listed += page
        cookie = page[-1].entry.cookie
    return listed


def names_of(listed: Sequence[Listed]) -> list[bytes]:
    """Return the names of entries, in their order."""
    return [one.entry.name for one in listed]


@contextlib.contextmanager
def fails(*numbers: int) -> Iterator[None]:
    """Expect the body to raise one of these errnos, in the class that belongs to it."""
    with pytest.raises(FSError) as caught:
        yield
    error = caught.value
    assert error.errno in numbers, f"{error!r}, not {[os.strerror(number) for number in numbers]}"
    assert type(error) is type(fs_error(error.errno))
