"""Which trash a directory belongs to, and which trashes there are.

Owns the open `Domain`s of one storage session. A rename domain is a CephFS quota root or
subvolume; on a posix storage there is one, the root. The root's trash remembers the others in
`jobs/domain.<inode, hex>`, symbolic links to JSON, so that they are listed and expired after a
restart too.

What a directory belongs to is remembered until a rename says EXDEV (`forget`), since a quota can
be set at any time.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Collection, Sequence

import trio

from cephfs_ext.core.errors import FSError, FullError, NotFoundError
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import Ino
from trashbin import layout
from trashbin.domain import Domain, open_domain
from trashbin.files import exists, names_in, read_record, write_record
from trashbin.layout import Term

_log = logging.getLogger(__name__)

_KNOWN_LIMIT = 100_000
"""Directories whose domain is remembered; all are forgotten beyond it."""

_MARK = b"domain."
_MARK_LIMIT = 64 * 1024


class Domains:
    """The trashes of one session."""

    def __init__(
        self,
        storage: Storage,
        *,
        owner_uid: int,
        shards_per_rank: int,
        terms: Collection[Term] = (),
        relief: Storage | None = None,
    ) -> None:
        self._storage = storage
        self._owner_uid = owner_uid
        self._shards_per_rank = shards_per_rank
        self._terms = terms
        self._relief = relief
        self._open: dict[Ino, Domain] = {}
        self._former: list[Domain] = []
        """Those that were made anew; tasks may still be using them."""
        self._root_of: dict[Ino, Ino] = {}
        self._paths: dict[Ino, bytes] = {}
        self._opening = trio.Lock()

    async def root(self) -> Domain:
        """Return the trash of the served root, set up if it was missing.

        Raises:
            TrashUnusableError: it is not ours to use.
        """
        return await self._domain(self._storage.root)

    def is_open(self, domain: Domain) -> bool:
        """Tell whether a domain has not been made anew since; asks no storage."""
        return self._open.get(domain.root.ino) is domain

    async def is_set_up(self) -> bool:
        """Tell whether the served root has a trash; makes none."""
        return await exists(self._storage, self._storage.root, layout.TRASH_NAME)

    async def of(self, chain: Sequence[Node], path: bytes) -> Domain:
        """Return the trash for names in `chain[0]`.

        Args:
            chain: a directory, its parent, and so on; the last one is the served root.
            path: of `chain[0]`, relative to the served root.

        Raises:
            TrashUnusableError: the trash of that domain is not ours to use.
        """
        passed: list[Ino] = []
        parts = path.split(b"/")
        for above, node in enumerate(chain[:-1]):
            known = self._root_of.get(node.ino)
            if known in self._open:
                self._remember(passed, known)
                return self._open[known]
            passed.append(node.ino)
            if await self._storage.is_domain_root(node):
                self._remember(passed, node.ino)
                return await self._nested(node, b"/".join(parts[: len(parts) - above]))
        self._remember(passed, self._storage.root.ino)
        return await self.root()

    def forget(self, chain: Sequence[Node]) -> None:
        """Forget what these directories belong to: a rename across domains has shown it wrong."""
        for node in chain:
            self._root_of.pop(node.ino, None)

    async def renew(self, domain: Domain) -> bool:
        """Make anew what another client has removed of a trash; what lay there is lost.

        Returns:
            False if the trash is whole.

        Raises:
            FSError: it can't be made.
        """
        async with self._opening:
            if self._open.get(domain.root.ino) is not domain:
                return True  # another task was faster
            if await domain.is_whole():
                return False
            self._former.append(self._open.pop(domain.root.ino))
        where = self.path_of(domain).decode(errors="replace")
        _log.error("somebody has removed %s.trashbin, or a part of it; it is made anew", where)
        await self._domain(domain.root)
        if domain.root.ino == self._storage.root.ino:
            for ino, nested in list(self._open.items()):
                if ino in self._paths:
                    await self._mark(nested.root, self._paths[ino])
        return True

    async def _renewed(self, domain: Domain) -> Domain:
        await self.renew(domain)
        return self._open.get(domain.root.ino, domain)

    async def at(self, root_ino: Ino, token: bytes = b"") -> Domain:
        """Return the domain that starts at an inode, made anew if somebody has removed its trash.

        Raises:
            NotFoundError: the inode is gone.
        """
        if root_ino == self._storage.root.ino:
            return await self._renewed(await self.root())
        if root_ino in self._open:
            return await self._renewed(self._open[root_ino])
        found = await self._storage.find(root_ino, token)
        try:
            return await self._domain(found.node)
        finally:
            self._storage.forget(found.node)

    async def all(self) -> list[Domain]:
        """Return every domain that is known and still there; the root's comes first."""
        root = await self._renewed(await self.root())
        domains = [root]
        for name in await names_in(self._storage, root.service(layout.JOBS)):
            if name.startswith(_MARK):
                domains += await self._marked(root, name)
        for domain in domains:
            await domain.look_again()
        return domains

    @property
    def opened(self) -> int:
        """How many domains have been opened: something may have been deleted in a new one."""
        return len(self._open)

    def path_of(self, domain: Domain) -> bytes:
        """Return where a domain starts, relative to the served root, with a `/` at its end."""
        path = self._paths.get(domain.root.ino, b"")
        return path + b"/" if path else b""

    async def _marked(self, root: Domain, mark: bytes) -> list[Domain]:
        """Open the domain that a mark names; an unusable one must not hide the others."""
        try:
            jobs = root.service(layout.JOBS)
            raw = await read_record(self._storage, jobs, mark, limit=_MARK_LIMIT)
            ino, fields = Ino(int(mark[len(_MARK) :], 16)), json.loads(raw)
            self._paths[ino] = base64.b64decode(fields["path"])
            return [await self.at(ino, base64.b64decode(fields["token"]))]
        except NotFoundError:
            return []
        except (FSError, ValueError, KeyError) as exc:
            _log.warning("the trash of domain %s can't be used: %s", mark.decode(), exc)
            return []

    async def _nested(self, node: Node, path: bytes) -> Domain:
        if node.ino not in self._open:
            self._paths[node.ino] = path
            await self._mark(node, path)
        return await self._domain(node)

    async def _mark(self, node: Node, path: bytes) -> None:
        """Note durably where a domain is; a note of before is replaced."""
        root = await self.root()
        texts = {"path": path, "token": self._storage.token(node)}
        fields = {key: base64.b64encode(value).decode() for key, value in texts.items()}
        mark = _MARK + b"%x" % node.ino

        async def write(storage: Storage, jobs: Node) -> None:
            await write_record(storage, jobs, mark, json.dumps(fields).encode())

        await root.in_spite_of_quota(root.service(layout.JOBS), write)

    async def _domain(self, node: Node) -> Domain:
        async with self._opening:
            if node.ino not in self._open:
                owned = await self._own_reference(node)
                try:
                    self._open[node.ino] = await self._open_in_spite_of_quota(owned)
                except BaseException:
                    self._give_back(owned)
                    raise
            return self._open[node.ino]

    async def _open_in_spite_of_quota(self, root: Node) -> Domain:
        try:
            return await self._open_domain(self._storage, root)
        except FullError:
            relief = self._relief
            if relief is None:
                raise
        there = (await relief.find(root.ino, self._storage.token(root))).node
        try:
            (await self._open_domain(relief, there)).close()
        finally:
            relief.forget(there)
        return await self._open_domain(self._storage, root)

    async def _open_domain(self, storage: Storage, root: Node) -> Domain:
        return await open_domain(
            storage,
            root,
            owner_uid=self._owner_uid,
            shards_per_rank=self._shards_per_rank,
            terms=self._terms,
            relief=self._relief,
        )

    async def _own_reference(self, node: Node) -> Node:
        if node is self._storage.root:
            return node
        return (await self._storage.find(node.ino, self._storage.token(node))).node

    def _give_back(self, node: Node) -> None:
        if node is not self._storage.root:
            self._storage.forget(node)

    def _remember(self, inos: list[Ino], root: Ino) -> None:
        if len(self._root_of) > _KNOWN_LIMIT:
            self._root_of.clear()
        self._root_of.update(dict.fromkeys(inos, root))

    def close(self) -> None:
        """Give all references back."""
        for domain in (*self._open.values(), *self._former):
            domain.close()
            self._give_back(domain.root)
        self._open.clear()
        self._former.clear()
