"""Small files and directories of the gateway's own, through the storage port.

Everything here acts as the gateway. No function leaves a half-written file under its final name,
or a handle open, also when it is cancelled.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator

import trio

from cephfs_ext.core.errors import ExistsError, FSError, FullError, NotFoundError
from cephfs_ext.core.limits import READDIR_PAGE, TOMBSTONE_INLINE_BYTES
from cephfs_ext.core.permissions import ACL_XATTR
from cephfs_ext.core.ports import DirHandle, Found, Handle, Listed, Node, Storage
from cephfs_ext.core.types import GATEWAY, Attr, AttrChange
from trashbin.layout import PROMISED, STAGED

RENAME_NOREPLACE = 1

_FILE_MODE = 0o100600
_LAYOUT = b"ceph.file.layout"
_CAPABILITY = b"security.capability"
_CHUNK_BYTES = 1 << 20
_MANY = 4_096
"""Names of a directory beyond which a listing of it shall fill no caches."""

_STAGED_S = 3600
"""A file that is still being written after this time was left behind by a dead gateway."""


async def read_file(storage: Storage, parent: Node, name: bytes, *, limit: int) -> bytes:
    """Read up to `limit` bytes of a small file.

    Raises:
        NotFoundError: there is none of that name.
    """
    found = await storage.lookup(parent, name)
    try:
        return await read_node(storage, found.node, limit=limit)
    finally:
        storage.forget(found.node)


async def read_node(storage: Storage, node: Node, *, limit: int) -> bytes:
    """Read up to `limit` bytes of a regular file."""
    async with open_file(storage, node) as handle:
        parts: list[bytes] = []
        got = 0
        while got < limit:
            size = min(_CHUNK_BYTES, limit - got)
            parts.append(await storage.read(handle, got, size))
            got += len(parts[-1])
            if len(parts[-1]) < size:
                break
        return b"".join(parts)


@contextlib.asynccontextmanager
async def open_file(storage: Storage, node: Node) -> AsyncIterator[Handle]:
    """Lend a regular file, open for reading once: it isn't kept in any cache."""
    handle = await storage.open_passing(node)
    async with _closing(storage, handle):
        yield handle


async def write_file(storage: Storage, parent: Node, name: bytes, data: bytes) -> None:
    """Write a small file durably and make it appear whole, replacing one of that name."""
    staged = STAGED + secrets.token_hex(8).encode()
    flags = os.O_WRONLY | os.O_EXCL
    created = await storage.create(parent, staged, _FILE_MODE, flags, GATEWAY)
    try:
        async with _closing(storage, created.handle):
            await write_whole(storage, created.handle, 0, data)
            await storage.fsync(created.handle)
        await storage.rename(parent, staged, parent, name, GATEWAY)
    except BaseException:
        with trio.CancelScope(shield=True), contextlib.suppress(FSError):
            await remove_quietly(storage, parent, staged)
        raise
    finally:
        storage.forget(created.node)


async def write_record(storage: Storage, parent: Node, name: bytes, record: bytes) -> None:
    """Write a record durably and make it appear whole, replacing one of that name.

    A short one is a symbolic link: it needs no data pool, and is there even where that is full.

    Args:
        record: text without a NUL byte.
    """
    if len(record) > TOMBSTONE_INLINE_BYTES:
        await write_file(storage, parent, name, record)
        return
    staged = STAGED + secrets.token_hex(8).encode()
    storage.forget((await storage.symlink(parent, staged, record, GATEWAY)).node)
    try:
        await storage.rename(parent, staged, parent, name, GATEWAY)
    except BaseException:
        with trio.CancelScope(shield=True), contextlib.suppress(FSError):
            await remove_quietly(storage, parent, staged)
        raise


async def read_record(storage: Storage, parent: Node, name: bytes, *, limit: int) -> bytes:
    """Read what `write_record` has written.

    Raises:
        NotFoundError: there is none of that name.
    """
    found = await storage.lookup(parent, name)
    try:
        if found.attr.is_symlink:
            return await storage.readlink(found.node)
        return await read_node(storage, found.node, limit=limit)
    finally:
        storage.forget(found.node)


async def write_whole(storage: Storage, handle: Handle, off: int, data: bytes) -> None:
    """Write all of `data`.

    Raises:
        FullError: only a part of it could be written.
    """
    if await storage.write(handle, off, data) < len(data):
        raise FullError()


@contextlib.asynccontextmanager
async def _closing(storage: Storage, handle: Handle) -> AsyncIterator[None]:
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await storage.release(handle)


async def remove_old_staged(storage: Storage, staging: Node) -> None:
    """Remove what writers that died long ago left in a directory."""
    horizon_ns = time.time_ns() - _STAGED_S * 1_000_000_000
    for name in await names_in(storage, staging):
        if not name.startswith(STAGED):
            continue
        with contextlib.suppress(NotFoundError):
            found = await storage.lookup(staging, name)
            storage.forget(found.node)
            if not found.attr.is_dir and found.attr.mtime_ns < horizon_ns:
                await remove_quietly(storage, staging, name)


async def make_dir(storage: Storage, parent: Node, name: bytes, mode: int) -> Found:
    """Return the directory of that name, made if it was missing.

    Looks first: at a full quota CephFS refuses to make what is there already.

    Raises:
        ExistsError: the name is taken by something that is no directory.
    """
    try:
        return await directory_in(storage, parent, name)
    except NotFoundError:
        try:
            return await storage.mkdir(parent, name, mode, GATEWAY)
        except ExistsError:
            return await directory_in(storage, parent, name)


async def directory_in(storage: Storage, parent: Node, name: bytes) -> Found:
    """Return the directory of that name; of its attributes only some are true (`resolve`).

    Raises:
        NotFoundError: there is none.
        ExistsError: the name is taken by something that is no directory.
    """
    found = await storage.resolve(parent, name)
    if not found.attr.is_dir:
        storage.forget(found.node)
        raise ExistsError(what=f"{name!r} is no directory")
    return found


async def make_like(storage: Storage, parent: Node, name: bytes, model: Found) -> Found:
    """Make an empty file with owner, mode, lists, extended attributes and layout of another.

    Capabilities of an executable are left out, as a write to it would take them away.

    Raises:
        FSError: it could not be made like that; nothing is there.
    """
    created = await storage.create(parent, name, 0o600, os.O_WRONLY | os.O_EXCL, GATEWAY)
    try:
        async with _closing(storage, created.handle):
            pass
        return Found(created.node, await _liken(storage, created.node, model))
    except BaseException:
        storage.forget(created.node)
        with trio.CancelScope(shield=True):
            await remove_quietly(storage, parent, name)
        raise


async def _liken(storage: Storage, node: Node, model: Found) -> Attr:
    await _copy_layout(storage, node, model.node)
    for key in await storage.listxattr(model.node):
        if key not in (_CAPABILITY, PROMISED):
            await storage.setxattr(node, key, await storage.getxattr(model.node, key), GATEWAY)
    owner = AttrChange(uid=model.attr.uid, gid=model.attr.gid)
    await storage.setattr(node, owner, GATEWAY)
    return await storage.setattr(node, AttrChange(mode=model.attr.mode & 0o7777), GATEWAY)


async def _copy_layout(storage: Storage, node: Node, model: Node) -> None:
    """Copy how a file is striped, where a storage has such a thing and it isn't the default."""
    try:
        wanted = await storage.getxattr(model, _LAYOUT)
        if await storage.getxattr(node, _LAYOUT) != wanted:
            await storage.setxattr(node, _LAYOUT, wanted, GATEWAY)
    except FSError as exc:
        if exc.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise


@contextlib.asynccontextmanager
async def open_dir(storage: Storage, node: Node) -> AsyncIterator[DirHandle]:
    """Lend a directory, open for listing."""
    handle = await storage.opendir(node)
    try:
        yield handle
    finally:
        with trio.CancelScope(shield=True):
            await storage.releasedir(handle)


@contextlib.asynccontextmanager
async def listing(
    storage: Storage, node: Node, *, plus: bool = False, page: int = READDIR_PAGE
) -> AsyncIterator[AsyncIterator[Listed]]:
    """Lend the entries of a directory, read page by page.

    With `plus` the consumer owns the nodes of those that it has taken; the rest of a page is given
    back.
    """
    async with open_dir(storage, node) as handle:
        entries = _entries(storage, handle, plus=plus, limit=page)
        async with contextlib.aclosing(entries):
            yield entries


async def _entries(
    storage: Storage, handle: DirHandle, *, plus: bool, limit: int
) -> AsyncGenerator[Listed, None]:
    cookie, count = 0, 0
    with contextlib.ExitStack() as stack:
        while page := await storage.readdir(handle, cookie, limit=limit, plus=plus):
            left = list(reversed(page))
            try:
                while left:
                    yield left.pop()
            finally:
                for listed in left:
                    if listed.found is not None:
                        storage.forget(listed.found.node)
            cookie = page[-1].entry.cookie
            if count < _MANY <= count + len(page):
                stack.enter_context(storage.passing())
            count += len(page)


async def names_in(storage: Storage, node: Node) -> list[bytes]:
    """Return the names in a directory that is known to be small."""
    async with listing(storage, node) as entries:
        return [listed.entry.name async for listed in entries]


async def is_empty(storage: Storage, node: Node, *, but: bytes = b"") -> bool:
    """Tell whether a directory has no entry, `but` not counted."""
    async with listing(storage, node, page=2) as entries:
        async for listed in entries:
            if listed.entry.name != but:
                return False
    return True


async def read_acl(storage: Storage, node: Node, name: bytes = ACL_XATTR) -> bytes:
    """Read an access control list, by the name of its attribute; nothing if there is none."""
    try:
        return await storage.getxattr(node, name)
    except FSError as exc:
        if exc.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        return b""


async def exists(storage: Storage, parent: Node, name: bytes) -> bool:
    """Tell whether anything has a name."""
    try:
        found = await storage.lookup(parent, name)
    except NotFoundError:
        return False
    storage.forget(found.node)
    return True


async def remove_dir(storage: Storage, parent: Node, name: bytes, node: Node) -> None:
    """Remove a directory of the gateway's own with the files in it.

    Raises:
        NotFoundError: it is gone.
    """
    for inside in await names_in(storage, node):
        await remove_quietly(storage, node, inside)
    await storage.rmdir(parent, name, GATEWAY)


async def remove_quietly(storage: Storage, parent: Node, name: bytes) -> bool:
    """Remove a file of the gateway's own; False if it was gone already."""
    try:
        await storage.unlink(parent, name, GATEWAY)
    except NotFoundError:
        return False
    return True
