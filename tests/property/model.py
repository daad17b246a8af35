"""A file system with a trash, in plain Python: what a gateway must do.

Works as root, and where a `uid` is given as that user, without timestamps. Groups are as uids.
Symbolic links in it always dangle. An operation returns or raises OSError with the errno that Linux
gives. Of the policy it knows one rule: what is below something called `EXEMPT` isn't kept.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import stat
from collections.abc import Iterator
from typing import NamedTuple

from tests.property.content import Content

Path = tuple[bytes, ...]

EXEMPT = b"d.tmp"

QUOTA = b"quota"
"""Name of a directory at the top that may have a quota; renames don't cross it, nor do links."""

WRITE, SEARCH = 2, 1

DIR, FILE, SYMLINK = stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK


class Node:
    """An inode."""

    def __init__(self, kind: int, mode: int, target: bytes = b"", uid: int = 0) -> None:
        self.kind = kind
        self.uid = uid
        self.modes = [mode]
        """The last one is the mode; the others it had since it was synced."""
        self.target = target
        self.xattrs: dict[str, bytes] = {}
        self.content = Content()
        self.entries: dict[bytes, Node] = {}
        self.was_renamed = False
        """True if the gateway may not know where the file is."""
        self.is_promised = False
        """True if a tombstone may need the inode."""
        self.was_made = False
        """True for a parent that a restore had to make, until its mode and owner are known."""

    @property
    def is_dir(self) -> bool:
        return self.kind == DIR

    @property
    def mode(self) -> int:
        return self.modes[-1]

    def like(self) -> Node:
        """Return a directory with the attributes of this one."""
        other = Node(self.kind, self.mode, uid=self.uid)
        other.xattrs = dict(self.xattrs)
        return other

    def below(self) -> Iterator[Node]:
        """Yield what is in the tree, this one first; a file once for each name."""
        yield self
        for node in self.entries.values():
            yield from node.below()


def crosses(path: Path, new: Path) -> bool:
    """Tell whether one path only is below a quota."""
    return (path[:1] == (QUOTA,)) != (new[:1] == (QUOTA,))


def _made_parent() -> Node:
    node = Node(DIR, 0o755)
    node.was_made = True
    return node


class Deleted(NamedTuple):
    """One entry of the trash."""

    number: int
    """Later ones have larger numbers."""
    run: int
    """Which run of the gateway it was."""
    node: Node
    parent: Node
    name: bytes
    path: Path | None
    is_tomb: bool
    """True if the trash holds no link of the inode."""
    deleter: int = 0

    def belongs_to(self, uid: int) -> bool:
        """Tell whether it is somebody's to see; root, as an operator, sees everything."""
        return uid in (0, self.deleter, self.node.uid)


class Tree(NamedTuple):
    """What one delete took away."""

    top: Deleted
    children: list[Tree]

    def walk(self, path: Path = ()) -> Iterator[tuple[Tree, Path]]:
        """Yield every subtree with its path below the top."""
        yield self, path
        for child in self.children:
            yield from child.walk((*path, child.top.name))


class Restored(NamedTuple):
    """What became of one restore."""

    outcome: str
    target: Path | None


class Model:
    """The tree, the trash, and what is open."""

    def __init__(self, *, min_kept: int, has_flags: bool) -> None:
        self.root = Node(DIR, 0o777)
        self.trash: list[Deleted] = []
        self.held: set[int] = set()
        """Numbers of what somebody holds."""
        self.run = 0
        self._numbers = itertools.count(1)
        self._min_kept = min_kept
        self._has_flags = has_flags
        """True if RENAME_NOREPLACE and RENAME_EXCHANGE work."""
        self.opened: list[Node] = []
        self._last_kept = (self.root, self.root)

    # paths

    def _parent(self, path: Path, uid: int = 0) -> Node:
        node = self.root
        for name in path[:-1]:
            self._need(self._may(uid, node, SEARCH), errno.EACCES)
            self._need(name in node.entries, errno.ENOENT)
            node = node.entries[name]
            self._need(node.kind != SYMLINK, errno.ENOENT)
            self._need(node.is_dir, errno.ENOTDIR)
        self._need(self._may(uid, node, SEARCH), errno.EACCES)
        return node

    def _may(self, uid: int, node: Node, want: int) -> bool:
        """Tell whether the mode of a directory lets somebody do something."""
        bits = node.mode >> 6 if uid == node.uid else node.mode
        return uid == 0 or bits & want == want

    def may_write(self, directory: Path, uid: int) -> bool:
        """Tell whether somebody may make and remove names in a directory."""
        try:
            return self._may(uid, self._parent((*directory, b""), uid), WRITE | SEARCH)
        except OSError:
            return False

    def _check_delete(self, uid: int, above: Node, node: Node) -> None:
        self._need(self._may(uid, above, WRITE | SEARCH), errno.EACCES)
        self._need(not self._sticks(uid, above, node), errno.EPERM)

    def _sticks(self, uid: int, above: Node, node: Node) -> bool:
        is_sticky = above.mode & stat.S_ISVTX
        return bool(is_sticky) and uid not in (0, above.uid, node.uid)

    def _need(self, truth: bool, number: int) -> None:
        if not truth:
            raise OSError(number, "")

    def _node(self, path: Path, uid: int = 0) -> Node:
        """Resolve without following a symbolic link at the end."""
        node = self._parent(path, uid).entries.get(path[-1])
        if node is None:
            raise OSError(errno.ENOENT, "")
        return node

    def _followed(self, path: Path) -> Node:
        node = self._node(path)
        self._need(node.kind != SYMLINK, errno.ENOENT)
        return node

    def _file(self, path: Path) -> Node:
        """Resolve for writing with O_NOFOLLOW."""
        node = self._node(path)
        self._need(node.kind != SYMLINK, errno.ELOOP)
        self._need(not node.is_dir, errno.EISDIR)
        return node

    def paths(self) -> Iterator[tuple[Path, Node]]:
        """Yield every name but the root's."""
        stack: list[tuple[Path, Node]] = [((), self.root)]
        while stack:
            path, node = stack.pop()
            if path:
                yield path, node
            stack += [((*path, name), below) for name, below in node.entries.items()]

    def names_of(self, node: Node) -> int:
        """Count the names that users see."""
        return sum(below is node for below in self.root.below())

    def links_of(self, node: Node) -> int:
        """Count all names, those in the trash included."""
        hidden = [one.node for one in self.trash if not one.is_tomb]
        return sum(below is node for top in (self.root, *hidden) for below in top.below())

    def _place_of(self, node: Node) -> tuple[Node, bytes, Path]:
        for path, there in self.paths():
            if there is node:
                return self._parent(path), path[-1], path
        raise AssertionError("it has no name")

    # making and changing

    def _make(self, path: Path, node: Node, uid: int = 0) -> None:
        above = self._parent(path, uid)
        self._need(path[-1] not in above.entries, errno.EEXIST)
        self._need(self._may(uid, above, WRITE | SEARCH), errno.EACCES)
        above.entries[path[-1]] = node

    def mkdir(self, path: Path, mode: int, uid: int = 0) -> None:
        self._make(path, Node(DIR, mode, uid=uid), uid)

    def create(self, path: Path, mode: int, data: bytes, uid: int = 0) -> None:
        node = Node(FILE, mode, uid=uid)
        self._make(path, node, uid)
        if data:
            node.content.change(data)

    def symlink(self, path: Path, target: bytes) -> None:
        self._make(path, Node(SYMLINK, 0o777, target))

    def link(self, path: Path, new: Path) -> None:
        node = self._node(path)
        above = self._parent(new)
        self._need(new[-1] not in above.entries, errno.EEXIST)
        self._need(not node.is_dir, errno.EPERM)
        above.entries[new[-1]] = node
        node.was_renamed = True

    def write(self, path: Path, off: int, data: bytes) -> None:
        self.write_open(self._file(path), off, data)

    def append(self, path: Path, data: bytes) -> None:
        node = self._file(path)
        self.write_open(node, len(node.content.now), data)

    def write_open(self, node: Node, off: int, data: bytes) -> None:
        before = node.content.now.ljust(off, b"\0")
        node.content.change(before[:off] + data + before[off + len(data) :])

    def chmod(self, path: Path, mode: int) -> None:
        self._followed(path).modes.append(mode)

    def setxattr(self, path: Path, key: str, value: bytes) -> None:
        self._followed(path).xattrs[key] = value

    def removexattr(self, path: Path, key: str) -> None:
        node = self._followed(path)
        self._need(key in node.xattrs, errno.ENODATA)
        del node.xattrs[key]

    def fsync(self, path: Path) -> None:
        self.fsync_open(self._file(path))

    def fsync_open(self, node: Node) -> None:
        node.content.sync()
        del node.modes[:-1]

    def open(self, path: Path) -> Node:
        node = self._file(path)
        self.opened.append(node)
        return node

    # truncation

    def truncate(self, path: Path, size: int) -> str:
        """Truncate; return whether the content went into the trash: yes, no or perhaps."""
        node = self._followed(path)
        self._need(not node.is_dir, errno.EISDIR)
        return self._truncate(node, size, open_but=0)

    def rewrite(self, path: Path, data: bytes) -> str:
        """Open with O_TRUNC, and write."""
        node = self._file(path)
        kept = self._truncate(node, 0, open_but=0)
        if data:
            node.content.change(data)
        return kept

    def truncate_open(self, node: Node, size: int) -> str:
        return self._truncate(node, size, open_but=1)

    def _truncate(self, node: Node, size: int, *, open_but: int) -> str:
        before = node.content.now
        kept = "no" if size else self._keeps(node, open_but)
        if kept == "no":
            node.content.change(before[:size].ljust(size, b"\0"))
            return kept
        parent, name, path = self._place_of(node)
        old = Node(FILE, node.mode, uid=node.uid)
        old.modes = list(node.modes)
        old.xattrs = dict(node.xattrs)
        old.content = node.content.take_over()
        self._promise(node, old)
        node.is_promised, old.is_promised = False, node.is_promised
        self._delete(old, parent, name, path, is_tomb=False)
        self._last_kept = (node, old)
        return kept

    def _promise(self, node: Node, other: Node) -> None:
        """Let tombstones stand for another inode: that with the content of their time."""
        for at, one in enumerate(self.trash):
            if one.node is node:
                self.trash[at] = one._replace(node=other)

    def _keeps(self, node: Node, open_but: int) -> str:
        if self._is_exempt(node, self._place_of(node)[2] if self.names_of(node) else ()):
            return "no"
        alone = self.opened.count(node) <= open_but
        one_name = self.links_of(node) == self.names_of(node) == 1
        if not (alone and one_name) or len(node.content.now) < self._min_kept:
            return "no"
        return "perhaps" if node.was_renamed else "yes"

    def was_not_kept(self) -> None:
        """Take the last deleted content back: the gateway was free not to keep it."""
        self.trash.pop()
        node, old = self._last_kept
        self._promise(old, node)
        node.is_promised = old.is_promised

    # removing

    def _delete(
        self,
        node: Node,
        parent: Node,
        name: bytes,
        path: Path,
        *,
        is_tomb: bool,
        uid: int = 0,
    ) -> None:
        node.is_promised |= is_tomb and not node.is_dir
        number = next(self._numbers)
        deleted = Deleted(number, self.run, node, parent, name, path, is_tomb, uid)
        self.trash.append(deleted)

    def _is_exempt(self, node: Node, path: Path) -> bool:
        """Tell whether the policy has something really removed."""
        return EXEMPT in path and not (node.is_promised and self.links_of(node) == 1)

    def _take(self, path: Path, *, always: bool = False, uid: int = 0) -> None:
        """Move a name into the trash, if it is kept; a tombstone stands for one of several."""
        above = self._parent(path)
        node = above.entries[path[-1]]
        if self._is_exempt(node, path) and not always:
            del above.entries[path[-1]]
            return
        is_tomb = not node.is_dir and self.links_of(node) > 1
        del above.entries[path[-1]]
        self._delete(node, above, path[-1], path, is_tomb=is_tomb, uid=uid)

    def unlink(self, path: Path, uid: int = 0) -> None:
        above, node = self._parent(path, uid), self._node(path, uid)
        self._check_delete(uid, above, node)
        self._need(not node.is_dir, errno.EISDIR)
        self._take(path, uid=uid)

    def rmdir(self, path: Path, uid: int = 0) -> None:
        above, node = self._parent(path, uid), self._node(path, uid)
        self._check_delete(uid, above, node)
        self._need(node.is_dir, errno.ENOTDIR)
        self._need(not node.entries, errno.ENOTEMPTY)
        self._take(path, uid=uid)

    def move_to_trash(self, path: Path, trash_of: Path, uid: int = 0) -> None:
        """Rename into the virtual trash of a directory, which its mover may search."""
        above = self._parent(path, uid)
        target = self._parent((*trash_of, b""))
        node = above.entries.get(path[-1])
        if node is None:
            raise OSError(errno.ENOENT, "")
        self._need(not self._is_below(target, node), errno.EINVAL)
        self._check_delete(uid, above, node)
        self._need(not node.is_dir or self._may(uid, node, WRITE), errno.EACCES)
        self._take(path, always=node.is_dir, uid=uid)

    def _is_below(self, node: Node, top: Node) -> bool:
        return any(below is node for below in top.below())

    # renaming

    def rename(self, path: Path, new: Path) -> None:
        above, below = self._parent(path), self._parent(new)
        node, victim = above.entries.get(path[-1]), below.entries.get(new[-1])
        if node is None:
            raise OSError(errno.ENOENT, "")
        self._check_loop(node, victim, above, below)
        if node is victim:
            return
        if victim is not None:
            self._need(victim.is_dir or not node.is_dir, errno.ENOTDIR)
            self._need(node.is_dir or not victim.is_dir, errno.EISDIR)
            self._need(not victim.entries, errno.ENOTEMPTY)
        self._need(not crosses(path, new), errno.EXDEV)
        if victim is not None:
            self._replace(victim, below, new)
        del above.entries[path[-1]]
        below.entries[new[-1]] = node
        node.was_renamed = True

    def _check_loop(self, node: Node, victim: Node | None, above: Node, below: Node) -> None:
        self._need(not (node.is_dir and self._is_below(below, node)), errno.EINVAL)
        inside = victim is not None and victim.is_dir and self._is_below(above, victim)
        self._need(not inside, errno.ENOTEMPTY)

    def _replace(self, victim: Node, above: Node, path: Path) -> None:
        if self._is_exempt(victim, path):
            return
        is_tomb = victim.is_dir or self.links_of(victim) > 1
        self._delete(victim, above, path[-1], path, is_tomb=is_tomb)

    def rename_noreplace(self, path: Path, new: Path) -> None:
        above, below = self._parent(path), self._parent(new)
        node = above.entries.get(path[-1])
        self._need(node is not None, errno.ENOENT)
        self._need(new[-1] not in below.entries, errno.EEXIST)
        assert node is not None
        self._check_loop(node, None, above, below)
        self._need(self._has_flags, errno.EINVAL)
        self.rename(path, new)

    def exchange(self, path: Path, new: Path) -> None:
        above, below = self._parent(path), self._parent(new)
        node, other = above.entries.get(path[-1]), below.entries.get(new[-1])
        if node is None or other is None:
            raise OSError(errno.ENOENT, "")
        self._need(not (node.is_dir and self._is_below(below, node)), errno.EINVAL)
        self._need(not (other.is_dir and self._is_below(above, other)), errno.EINVAL)
        if node is other:
            return
        self._need(self._has_flags, errno.EINVAL)
        above.entries[path[-1]], below.entries[new[-1]] = other, node
        node.was_renamed = other.was_renamed = True

    # the trash

    def trees(self, uid: int = 0) -> list[Tree]:
        """Put trees together, newest first, of what is somebody's to see."""
        trash = [one for one in self.trash if one.belongs_to(uid)]
        children: dict[int, list[Deleted]] = {one.number: [] for one in trash}
        next_time: dict[int, Deleted] = {}
        for one in sorted(trash, reverse=True):
            above = next_time.get(id(one.parent))
            if above is not None:
                children[above.number].append(one)
            if one.node.is_dir:
                next_time[id(one.node)] = one
        built: dict[int, Tree] = {}
        adopted: set[int] = set()
        for one in sorted(trash):  # what was in a directory went before it
            built[one.number] = tree = Tree(one, [])
            for child in children[one.number]:
                is_newest = all(child.name != other.top.name for other in tree.children)
                same_go = (child.run, child.deleter) == (one.run, one.deleter)
                if same_go and is_newest:
                    tree.children.append(built[child.number])
                    adopted.add(child.number)
        return [built[n] for n in sorted(built, reverse=True) if n not in adopted]

    def tree_of(self, number: int) -> Tree:
        """Return what an id means: a tree, or a part of one, whoever sees how much of it."""
        parts = (part for tree in self.trees() for part, _ in tree.walk())
        return next(part for part in parts if part.top.number == number)

    def at_path(self, path: Path) -> list[Tree]:
        """Return what a restore by path means."""
        trees = self.trees()
        for tree in trees:
            where = tree.top.path
            if where is None or path[: len(where)] != where:
                continue
            for part, inner in tree.walk():
                if (*where, *inner) == path:
                    return [Tree(part.top._replace(path=path), part.children)]
        below = [tree for tree in trees if tree.top.path and tree.top.path[: len(path)] == path]
        return [tree for tree in below if tree.top.path != path]

    def restore(self, tree: Tree, policy: str, to: Path | None = None, uid: int = 0) -> Restored:
        """Bring a tree back; what isn't restored is as before."""
        path = tree.top.path if to is None else (*to, tree.top.name)
        if path is None:
            return Restored("not_found", None)
        try:
            above = self._way_to(path, uid)
        except PermissionError:
            return Restored("denied", path)
        except NotADirectoryError:
            return Restored("failed", path)
        taken = above.entries.get(path[-1])
        if taken is not None:
            if policy in ("fail", "skip"):
                return Restored("conflict" if policy == "fail" else "skipped", path)
            if policy == "replace":
                if not self._may_replace(uid, above, taken):
                    return Restored("denied", path)
                self._take(path, always=True, uid=uid)
            else:
                path = (*path[:-1], self._free_name(above, path[-1]))
        self._appear(tree, above, path[-1])
        for part, _ in tree.walk():
            if part.top.is_tomb:
                node = part.top.node
                node.is_promised = any(one.node is node and one.is_tomb for one in self.trash)
        return Restored("restored", path)

    def _way_to(self, path: Path, uid: int) -> Node:
        """Return the directory that a path is in; missing ones are made."""
        above, made = self.root, False
        for name in path[:-1]:
            self._need(made or self._may(uid, above, SEARCH), errno.EACCES)
            node = above.entries.get(name)
            self._need(node is None or node.is_dir, errno.ENOTDIR)
            if node is None:
                self._need(made or self._may(uid, above, WRITE | SEARCH), errno.EACCES)
                node, made = above.entries.setdefault(name, _made_parent()), True
            above = node
        self._need(made or self._may(uid, above, WRITE | SEARCH), errno.EACCES)
        return above

    def _may_replace(self, uid: int, above: Node, taken: Node) -> bool:
        is_movable = not taken.is_dir or self._may(uid, taken, WRITE)
        return is_movable and not self._sticks(uid, above, taken)

    def _free_name(self, above: Node, name: bytes) -> bytes:
        stem, dot, extension = name.partition(b".")
        for number in itertools.count(1):
            suffix = b" (restored)" if number == 1 else b" (restored %d)" % number
            if stem + suffix + dot + extension not in above.entries:
                return stem + suffix + dot + extension
        raise AssertionError("unreachable")

    def _appear(self, tree: Tree, above: Node, name: bytes) -> None:
        """Hang a tree into a directory; what it has a newer one of stays in the trash."""
        self.trash.remove(next(one for one in self.trash if one.number == tree.top.number))
        self.held.discard(tree.top.number)
        node = tree.top.node
        if node.is_dir and tree.top.is_tomb:
            node = node.like()
        node.was_renamed = True
        above.entries[name] = node
        for child in tree.children:
            if child.top.name not in node.entries:
                self._appear(child, node, child.top.name)

    def hold(self, tree: Tree) -> None:
        """Keep a tree, whatever its time, and from purges."""
        self.held |= {part.top.number for part, _ in tree.walk()}

    def release(self, tree: Tree) -> None:
        self.held -= {part.top.number for part, _ in tree.walk()}

    def is_held(self, tree: Tree) -> bool:
        """Tell whether a tree is held, or a part of it."""
        return any(part.top.number in self.held for part, _ in tree.walk())

    def expire(self) -> None:
        """Let go what nobody holds, all at once; what is promised to what is held stays.

        The gateway was unmounted meanwhile.
        """
        self.run += 1
        self.opened.clear()
        for node in self._all_nodes():
            node.was_renamed = False
        gone = [one for one in self.trash if one.number not in self.held]
        self.trash = [one for one in self.trash if one.number in self.held]
        for one in gone:
            if not one.is_tomb:
                self._keep_promises(one.node)

    def purge(self, tree: Tree) -> None:
        """Let a tree go for good, unless it is held; what a tombstone promises stays."""
        if self.is_held(tree):
            return
        for part, _ in tree.walk():
            gone = next(one for one in self.trash if one.number == part.top.number)
            self.trash.remove(gone)
            if not gone.is_tomb:
                self._keep_promises(gone.node)

    def _keep_promises(self, top: Node) -> None:
        for node in top.below():
            promised = [one for one in self.trash if one.node is node and one.is_tomb]
            if promised and not node.is_dir and not self.links_of(node):
                newest = max(promised)
                self.trash[self.trash.index(newest)] = newest._replace(is_tomb=False)

    # the end of a gateway

    def place_now(self, deleted: Deleted) -> Path | None:
        """Return where something would be if its directory had always been where it is."""
        places = [(), *(path for path, node in self.paths() if node is deleted.parent)]
        return (*places[-1], deleted.name) if self._is_there(deleted.parent) else None

    def _is_there(self, node: Node) -> bool:
        return any(below is node for below in self.root.below())

    def was_at(self, deleted: Deleted, path: Path) -> None:
        """Take note of the place that is known of something."""
        at = next(at for at, one in enumerate(self.trash) if one.number == deleted.number)
        self.trash[at] = deleted._replace(path=path)

    def crash(self, *, loses_unsynced: bool) -> None:
        """Lose the gateway, and what is only in it."""
        self.run += 1
        self.opened.clear()
        nodes = {id(node): node for node in self._all_nodes()}
        for node in nodes.values():
            node.was_renamed = False
            if loses_unsynced:
                node.content.crash()
            else:
                with contextlib.suppress(IndexError):
                    del node.modes[:-1]

    def _all_nodes(self) -> Iterator[Node]:
        for top in (self.root, *(one.node for one in self.trash)):
            yield from top.below()
