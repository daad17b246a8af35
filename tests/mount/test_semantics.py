"""Rules of docs/semantics.md that a mount shows, on both storages; the ids are those of the rules.

Rules of POSIX itself are checked by tests/posix.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import functools
import itertools
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cephfs_ext.control.client import Client
from cephfs_ext.control.service import (
    PurgeReport,
    PurgeRequest,
    RestoreReport,
    RestoreRequest,
    TrashItem,
    TrashListing,
    TrashQuery,
)
from cephfs_ext.core.errors import ExitCode, UserError
from tests.cluster.ceph import CephCluster
from tests.gateway import Gateway, ceph_gateway, posix_gateway
from tests.posix.actors import OWNER, STRANGER, User, as_user, errno_of, name_of
from tests.waiting import wait_until

_wait_until = functools.partial(wait_until, within_s=30.0)
"""How long a change that shows within a second is waited for, on a busy machine."""

_OLD_HOUR = "2026-01-01T00"
_OLD_ENTRY = "1886747fb8b40000.0001.0.1.old"
NOBODY = User(12345, 12345)
_NOREPLACE_AWARE = {"posix": 0, "ceph": errno.EINVAL}


class Trash:
    """The trash of a gateway, over one of its sockets."""

    def __init__(self, gateway: Gateway, place: Path, socket: str = "admin.sock") -> None:
        self._gateway = gateway
        self._place = place
        self._socket = str(gateway.directory / socket)

    def _inside(self, path: Path) -> str:
        return base64.b64encode(os.fsencode(path.relative_to(self._gateway.path))).decode()

    @contextlib.contextmanager
    def _client(self) -> Iterator[Client]:
        with contextlib.closing(Client(self._socket)) as client:
            yield client

    def list(self) -> list[TrashItem]:
        """Return what was deleted in the test's directory, newest first."""
        with self._client() as client:
            query = TrashQuery(below=self._inside(self._place))
            return client.post("/v1/trash/list", query, TrashListing).items

    def restore(self, path: Path, *, to: Path | None = None, conflict: str = "fail") -> str:
        """Restore by path; return the outcome."""
        request = RestoreRequest(
            paths=[self._inside(path)],
            to=None if to is None else self._inside(to),
            on_conflict=conflict,  # type: ignore[arg-type]
        )
        with self._client() as client:
            return client.post("/v1/trash/restore", request, RestoreReport).items[0].outcome

    def purge(self, entry_id: str) -> PurgeReport:
        with self._client() as client:
            return client.post("/v1/trash/purge", PurgeRequest(ids=[entry_id]), PurgeReport)


@pytest.fixture
def trash(mounted: Gateway, place: Path) -> Trash:
    return Trash(mounted, place)


def _bypasses(gateway: Gateway, reason: str) -> float:
    return gateway.metric(f'trash_bypasses_total{{reason="{reason}"}}')


class TestDeleting:
    def test_deleted_file_is_in_the_trash_as_it_was(self, place: Path, trash: Trash) -> None:
        """[unlink-1]: the same inode comes back."""
        file = place / "file"
        file.write_text("content")
        before = file.stat()
        file.unlink()
        assert [(item.kind, item.entries) for item in trash.list()] == [("file", 1)]
        assert trash.restore(file) == "restored"
        after = file.stat()
        assert file.read_text() == "content"
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    def test_special_files_are_really_removed(
        self, mounted: Gateway, place: Path, trash: Trash
    ) -> None:
        """[unlink-3]."""
        before = _bypasses(mounted, "special")
        os.mkfifo(place / "fifo")
        (place / "fifo").unlink()
        assert trash.list() == []
        assert _bypasses(mounted, "special") == before + 1

    def test_removed_directory_is_kept_with_its_attributes(self, place: Path, trash: Trash) -> None:
        """[rmdir-1]."""
        directory = place / "directory"
        directory.mkdir()
        os.setxattr(directory, "user.key", b"value")
        directory.chmod(0o2750)
        directory.rmdir()
        assert [item.kind for item in trash.list()] == ["dir"]
        assert trash.restore(directory) == "restored"
        assert os.getxattr(directory, "user.key") == b"value"
        assert stat.S_IMODE(directory.stat().st_mode) == 0o2750

    def test_open_file_goes_on_in_the_trash(self, place: Path, trash: Trash) -> None:
        """[unlink-5]."""
        file = place / "file"
        file.write_text("one")
        with file.open("a") as stream:
            file.unlink()
            assert os.fstat(stream.fileno()).st_nlink == 0
            stream.write(" two")
        assert trash.restore(file) == "restored"
        assert file.read_text() == "one two"

    def test_overwritten_content_is_not_kept(self, place: Path, trash: Trash) -> None:
        """[truncate-4]."""
        file = place / "file"
        file.write_bytes(b"old" * 5000)
        with file.open("r+b") as stream:
            stream.write(b"new" * 5000)
        os.truncate(file, 5)
        assert trash.list() == []

    def test_replaced_file_is_kept(self, place: Path, trash: Trash) -> None:
        """[rename-2]: a file as itself."""
        (place / "old").write_text("old")
        (place / "new").write_text("new")
        (place / "new").rename(place / "old")
        assert (place / "old").read_text() == "new"
        (place / "aside").mkdir()
        assert trash.restore(place / "old", to=place / "aside") == "restored"
        assert (place / "aside/old").read_text() == "old"
        assert (place / "aside/old").stat().st_nlink == 1

    def test_replaced_directory_is_kept(self, place: Path, trash: Trash) -> None:
        """[rename-2]: an empty directory as a tombstone."""
        (place / "old").mkdir()
        os.setxattr(place / "old", "user.key", b"value")
        os.chown(place / "old", OWNER.uid, OWNER.gid)
        (place / "old").chmod(0o1750)
        os.utime(place / "old", ns=(10**18, 10**18))
        (place / "new").mkdir()
        (place / "new/file").touch()
        (place / "new").rename(place / "old")
        (place / "aside").mkdir()
        assert trash.restore(place / "old", to=place / "aside") == "restored"
        attr = (place / "aside/old").stat()
        assert (stat.S_IMODE(attr.st_mode), attr.st_uid) == (0o1750, OWNER.uid)
        assert attr.st_mtime_ns == 10**18
        assert os.getxattr(place / "aside/old", "user.key") == b"value"

    def test_renaming_onto_another_name_of_itself_keeps_nothing(
        self, place: Path, trash: Trash
    ) -> None:
        """[rename-3]."""
        (place / "one").touch()
        (place / "two").hardlink_to(place / "one")
        (place / "one").rename(place / "two")
        assert trash.list() == []
        assert (place / "one").stat().st_nlink == 2

    def test_flags_of_rename(self, mounted: Gateway, place: Path) -> None:
        """[rename-4]: renameat2 works on posix, and is EINVAL on ceph."""
        from tests.posix.libc import RENAME_NOREPLACE, rename2

        (place / "one").touch()
        expected = _NOREPLACE_AWARE[mounted.source.partition(":")[0]]
        refusal = errno_of(lambda: rename2(place / "one", place / "two", RENAME_NOREPLACE))
        assert name_of(refusal) == name_of(expected)


class TestHardLinks:
    def test_deleted_name_is_linked_again(self, place: Path, trash: Trash) -> None:
        """[link-1], [link-2]."""
        (place / "one").write_text("content")
        (place / "two").hardlink_to(place / "one")
        (place / "one").unlink()
        assert (place / "two").stat().st_nlink == 1
        assert [item.kind for item in trash.list()] == ["link"]
        assert trash.restore(place / "one") == "restored"
        assert (place / "one").samefile(place / "two")
        assert (place / "two").stat().st_nlink == 2

    def test_last_name_takes_the_content_along(self, place: Path, trash: Trash) -> None:
        """[link-1]: both names come back as one file."""
        (place / "one").write_text("content")
        (place / "two").hardlink_to(place / "one")
        (place / "one").unlink()
        (place / "two").unlink()
        assert [item.kind for item in trash.list()] == ["file", "link"]
        for name in ("two", "one"):
            assert trash.restore(place / name) == "restored"
        assert (place / "one").samefile(place / "two")
        assert (place / "one").read_text() == "content"

    def test_purging_the_last_link_leaves_what_a_tombstone_promises(
        self, place: Path, trash: Trash
    ) -> None:
        """[link-4]."""
        (place / "one").write_text("content")
        (place / "two").hardlink_to(place / "one")
        (place / "one").unlink()
        (place / "two").unlink()
        trash.purge(trash.list()[0].id)
        assert trash.restore(place / "two") == "not_found"
        assert trash.restore(place / "one") == "restored"
        assert (place / "one").read_text() == "content"

    def test_restored_name_is_kept_for_its_own_time(self, place: Path, trash: Trash) -> None:
        """[link-4]: although it shares its content with a name that stayed in the trash."""
        (place / "one").write_text("content")
        (place / "two").hardlink_to(place / "one")
        (place / "one").unlink()
        (place / "two").unlink()
        assert trash.restore(place / "one") == "restored"
        (two,) = trash.list()
        (place / "one").unlink()
        trash.purge(two.id)
        assert trash.restore(place / "one") == "restored"
        assert (place / "one").read_text() == "content"
        assert (place / "one").stat().st_nlink == 1


class TestTrash:
    def test_it_cannot_be_seen_or_entered(self, mounted: Gateway, place: Path) -> None:
        """[trash-1]: what is called .trashbin at the root is the virtual one."""
        (place / "file").touch()
        (place / "file").unlink()
        assert ".trashbin" not in os.listdir(mounted.path)
        assert not {name for name in os.listdir(mounted.path / ".trashbin") if name[0] not in "2n"}
        assert not (mounted.path / ".trashbin/format.json").exists()

    def test_rm_of_a_tree_is_one_line(self, place: Path, trash: Trash) -> None:
        """[trash-2]: and two of them are two."""
        for name in ("one", "two"):
            (place / name / "deep").mkdir(parents=True)
            (place / name / "deep/file").touch()
            subprocess.run(["rm", "-rf", place / name], check=True)
        assert [item.entries for item in trash.list()] == [3, 3]

    def test_owner_and_deleter_restore_and_nobody_else(self, mounted: Gateway, place: Path) -> None:
        """[perm-5]: a file of one user that another deleted."""
        mine = Trash(mounted, place, "control.sock")
        for user in (OWNER, STRANGER):
            (place / "file").touch()
            os.chown(place / "file", OWNER.uid, OWNER.gid)
            as_user(user, (place / "file").unlink)
            outcomes = {
                other.uid: as_user(other, lambda: mine.restore(place / "file"))
                for other in (NOBODY, OWNER)
            }
            assert outcomes == {NOBODY.uid: "not_found", OWNER.uid: "restored"}

    def test_restore_needs_the_right_to_write_there(self, mounted: Gateway, place: Path) -> None:
        """[perm-5]."""
        (place / "file").touch()
        os.chown(place / "file", OWNER.uid, OWNER.gid)
        (place / "file").unlink()
        place.chmod(0o755)
        mine = Trash(mounted, place, "control.sock")
        assert as_user(OWNER, lambda: mine.restore(place / "file")) == "denied"

    def test_attributes_come_back(self, place: Path, trash: Trash) -> None:
        """[trash-4]: of files, all; of directories all but the time."""
        tree = place / "tree"
        tree.mkdir()
        (tree / "file").write_text("content")
        (tree / "twin").hardlink_to(tree / "file")
        os.setxattr(tree / "file", "user.key", b"value")
        for path in (tree / "file", tree):
            os.chown(path, OWNER.uid, OWNER.gid)
            path.chmod(0o750)
            os.utime(path, ns=(10**18 + 1, 10**18 + 2))
        subprocess.run(["rm", "-rf", tree], check=True)
        assert trash.restore(tree) == "restored"
        file, top = (tree / "file").stat(), tree.stat()
        assert (file.st_mtime_ns, file.st_mode & 0o777, file.st_uid) == (
            10**18 + 2,
            0o750,
            OWNER.uid,
        )
        assert (top.st_mode & 0o777, top.st_uid) == (0o750, OWNER.uid)
        assert top.st_mtime_ns > 10**18 + 2
        assert os.getxattr(tree / "file", "user.key") == b"value"
        assert (tree / "twin").samefile(tree / "file")

    def test_what_is_there_is_never_replaced_unasked(self, place: Path, trash: Trash) -> None:
        """[trash-5]."""
        file, other = place / "file.txt", place / "file (restored).txt"
        file.write_text("old")
        file.unlink()
        file.write_text("new")
        assert trash.restore(file) == "conflict"
        assert trash.restore(file, conflict="skip") == "skipped"
        assert file.read_text() == "new"
        assert trash.restore(file, conflict="keep-both") == "restored"
        assert (file.read_text(), other.read_text()) == ("new", "old")
        other.rename(place / "second")
        (place / "second").unlink()
        (place / "second").write_text("third")
        assert trash.restore(place / "second", conflict="replace") == "restored"
        assert (place / "second").read_text() == "old"
        (place / "aside").mkdir()
        assert trash.restore(place / "second", to=place / "aside") == "restored"
        assert (place / "aside/second").read_text() == "third"

    def test_missing_parents_are_made_again(self, mounted: Gateway, place: Path) -> None:
        """[trash-6]: as directories of who restores."""
        (place / "a/b").mkdir(parents=True)
        (place / "a/b/file").touch()
        os.chown(place / "a/b/file", OWNER.uid, OWNER.gid)
        (place / "a/b/file").unlink()
        (place / "a/b").rename(place / "moved")
        (place / "a").rmdir()
        mine = Trash(mounted, place, "control.sock")
        assert as_user(OWNER, lambda: mine.restore(place / "a/b/file")) == "restored"
        attr = (place / "a/b").stat()
        assert (attr.st_uid, attr.st_mode & 0o777) == (OWNER.uid, 0o755)

    def test_purged_is_gone(self, place: Path, trash: Trash) -> None:
        """[trash-9]."""
        (place / "file").touch()
        (place / "file").unlink()
        assert trash.purge(trash.list()[0].id).files == 1
        assert trash.list() == []
        assert trash.restore(place / "file") == "not_found"

    def test_purging_needs_the_same_rights(self, mounted: Gateway, place: Path) -> None:
        """[trash-9]."""
        (place / "file").touch()
        (place / "file").unlink()
        entry_id = Trash(mounted, place).list()[0].id
        theirs = Trash(mounted, place, "control.sock")

        def purge() -> int:
            try:
                theirs.purge(entry_id)
            except UserError as exc:
                return exc.exit_code
            return ExitCode.OK

        assert as_user(STRANGER, purge) == ExitCode.DENIED


class TestVirtualTrash:
    def test_it_is_in_every_directory(self, mounted: Gateway, place: Path) -> None:
        """[virtual-trash-1]."""
        (place / "deep").mkdir()
        for directory in (mounted.path, place, place / "deep"):
            attr = (directory / ".trashbin").stat()
            assert (stat.S_IMODE(attr.st_mode), attr.st_uid) == (0o1777, 0)
            assert "now" in os.listdir(directory / ".trashbin")
            assert ".trashbin" not in os.listdir(directory)

    def test_it_is_where_a_part_of_the_tree_is_mounted(
        self, place: Path, trash: Trash, tmp_path: Path
    ) -> None:
        """[virtual-trash-1]: as containers do."""
        (place / "tree/deep").mkdir(parents=True)
        subprocess.run(["mount", "--bind", place, tmp_path], check=True)
        try:
            (tmp_path / "tree").rename(tmp_path / ".trashbin/tree")
        finally:
            subprocess.run(["umount", tmp_path], check=True)
        assert trash.restore(place / "tree") == "restored"

    def test_moving_into_it_deletes_a_tree(self, place: Path, trash: Trash) -> None:
        """[virtual-trash-2]."""
        (place / "tree/deep").mkdir(parents=True)
        (place / "tree/deep/file").write_text("content")
        (place / "tree").rename(place / ".trashbin/any name")
        assert not (place / "tree").exists()
        assert not (place / ".trashbin/any name").exists()
        assert [item.path for item in trash.list()] == [f"{place.name}/tree"]
        assert trash.restore(place / "tree") == "restored"
        assert (place / "tree/deep/file").read_text() == "content"

    def test_moving_into_it_needs_the_rights_of_a_delete(self, place: Path) -> None:
        """[virtual-trash-2], [perm-1], [perm-2]."""

        def delete() -> None:
            os.rename(place / "tree", place / ".trashbin/tree")

        (place / "tree").mkdir(mode=0o777)
        (place / "tree").chmod(0o777)
        for mode, expected in ((0o755, errno.EACCES), (0o1777, errno.EPERM)):
            place.chmod(mode)
            refusal = errno_of(lambda: as_user(STRANGER, delete))
            assert name_of(refusal) == name_of(expected)
        place.chmod(0o777)
        (place / "tree").chmod(0o755)  # not writable itself: its `..` would change
        assert name_of(errno_of(lambda: as_user(STRANGER, delete))) == "EACCES"
        (place / "tree").chmod(0o777)
        as_user(STRANGER, delete)
        assert not (place / "tree").exists()

    def test_nothing_else_works_in_it(self, place: Path) -> None:
        """[virtual-trash-3]."""
        trash = place / ".trashbin"
        (place / "file").touch()
        attempts = [
            lambda: (trash / "x").touch(),
            lambda: (trash / "x").mkdir(),
            lambda: os.symlink("x", trash / "x"),
            lambda: os.link(place / "file", trash / "x"),
            lambda: os.mkfifo(trash / "x"),
            lambda: trash.chmod(0o700),
            lambda: trash.rmdir(),
            lambda: trash.rename(place / "other"),
        ]
        assert [name_of(errno_of(attempt)) for attempt in attempts] == ["EPERM"] * len(attempts)

    def test_its_name_is_taken(self, place: Path) -> None:
        """[virtual-trash-3], [name-1]."""
        (place / "file").touch()
        assert name_of(errno_of(lambda: os.mkdir(place / ".trashbin"))) == "EEXIST"
        refusal = errno_of(lambda: os.rename(place / "file", place / "d/../.trashbin"))
        assert name_of(refusal) != "success"


@pytest.mark.parametrize("mounted", ["ceph"], indirect=True, scope="module")
class TestCeph:
    def test_virtual_attributes(self, place: Path) -> None:
        """[xattr-2]: readable, settable, not listed."""
        os.setxattr(place, "ceph.quota.max_files", b"1000")
        assert os.getxattr(place, "ceph.quota.max_files") == b"1000"
        assert os.listxattr(place) == []

    def test_quota_is_a_domain_of_its_own(self, place: Path, trash: Trash) -> None:
        """[rename-5], [quota-1], [trash-12]."""
        (place / "realm").mkdir()
        os.setxattr(place / "realm", "ceph.quota.max_files", b"1000")
        (place / "realm/file").touch()
        refusal = errno_of(lambda: os.rename(place / "realm/file", place / "file"))
        assert name_of(refusal) == "EXDEV"
        (place / "realm/file").unlink()
        assert trash.restore(place / "realm/file", to=place) == "restored"
        assert (place / "file").exists()

    def test_full_quota_stops_neither_deletes_nor_restores(self, place: Path, trash: Trash) -> None:
        """[quota-2], [quota-3]: not even where the trash has yet to be made."""
        realm = place / "realm"
        (realm / "empty").mkdir(parents=True)
        (realm / "other").mkdir()
        for name in ("plain", "twin", "old", "new"):
            (realm / name).write_text(name)
        (realm / "link").hardlink_to(realm / "twin")
        os.setxattr(realm, "ceph.quota.max_files", b"2")
        _wait_until(lambda: errno_of((realm / "more").touch) == errno.EDQUOT)
        (realm / "link").unlink()
        (realm / "plain").unlink()
        (realm / "new").rename(realm / "old")
        (realm / "other").rename(realm / "empty")
        (realm / "empty").rmdir()
        assert errno_of((realm / "more").touch) == errno.EDQUOT
        for name in ("plain", "link", "empty"):
            assert trash.restore(realm / name) == "restored"
        assert (realm / "link").samefile(realm / "twin")


def test_df_shows_the_quota_of_what_is_served(cluster: CephCluster, base: Path) -> None:
    """[quota-4]."""
    gateway = ceph_gateway(cluster, base)
    with gateway.mounted():
        os.setxattr(gateway.path, "ceph.quota.max_bytes", str(64 << 20).encode())
    with gateway.mounted():
        stats = os.statvfs(gateway.path)
        assert stats.f_blocks * stats.f_frsize == 64 << 20


class TestTwoGateways:
    """What one does, the other sees."""

    @pytest.fixture
    def there(self, other: Gateway, place: Path) -> Path:
        """Return the test's directory as the other gateway shows it."""
        return other.path / place.name

    def test_changes_show(self, place: Path, there: Path) -> None:
        """[multi-client-1], [cache-1]: after the timeout at the latest."""
        (place / "file").write_text("one")
        assert (there / "file").stat().st_size == 3
        with (place / "file").open("a") as stream:
            stream.write(" two")
        (place / "file").chmod(0o600)
        _wait_until(lambda: (there / "file").stat().st_size == 7)
        _wait_until(lambda: stat.S_IMODE((there / "file").stat().st_mode) == 0o600)
        (place / "file").unlink()
        _wait_until(lambda: not (there / "file").exists())

    def test_new_names_show_at_once(self, place: Path, there: Path) -> None:
        """[cache-2]: a missing name isn't remembered, and neither is a listing."""
        for number in range(5):
            assert not (there / f"{number}").exists()
            assert len(os.listdir(there)) == number
            (place / f"{number}").touch()
            assert (there / f"{number}").exists()

    def test_open_reads_what_was_written_before(self, place: Path, there: Path) -> None:
        """[cache-3]."""
        for text in ("first", "other", "third"):
            (place / "file").write_text(text)
            assert (there / "file").read_text() == text

    def test_open_file_shows_later_writes(self, place: Path, there: Path) -> None:
        """[cache-3]."""
        (place / "file").write_text("first")
        with (there / "file").open() as stream:
            assert stream.read() == "first"
            (place / "file").write_text("other")
            _wait_until(lambda: os.pread(stream.fileno(), 5, 0) == b"other")

    def test_written_data_is_with_the_storage_at_once(self, place: Path, there: Path) -> None:
        """[cache-5]: before anything is synced or closed."""
        with (place / "file").open("wb", buffering=0) as stream:
            stream.write(b"x" * 100_000)
            assert (there / "file").read_bytes() == b"x" * 100_000

    def test_appending_goes_to_the_end_that_there_is_now(self, place: Path, there: Path) -> None:
        """[append-1]: whatever the kernel remembers of the size."""
        with (
            (place / "log").open("ab", buffering=0) as mine,
            (there / "log").open("ab", buffering=0) as theirs,
        ):
            for _ in range(10):
                mine.write(b"a" * 100)
                theirs.write(b"b" * 100)
        _wait_until(lambda: (place / "log").stat().st_size == 2000)
        assert (place / "log").read_bytes() == (b"a" * 100 + b"b" * 100) * 10

    def test_name_deleted_elsewhere_may_open_for_a_moment(
        self, mounted: Gateway, place: Path, there: Path
    ) -> None:
        """[multi-client-2]: it is the file or ENOENT, never something else."""
        (place / "file").write_text("content")
        (there / "file").stat()
        (place / "file").unlink()
        seen = set()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            try:
                seen.add((there / "file").read_text())
            except FileNotFoundError:
                seen.add("")
        assert seen <= {"content", ""}
        assert not (there / "file").exists()

    def test_restore_shows(self, place: Path, there: Path, trash: Trash) -> None:
        """[multi-client-4]."""
        (place / "file").write_text("content")
        (there / "file").stat()
        (place / "file").unlink()
        assert trash.restore(place / "file") == "restored"
        _wait_until((there / "file").exists)
        assert (there / "file").read_text() == "content"
        assert (there / "file").stat().st_nlink == 1

    def test_flock_holds_on_one_mount_only(self, place: Path, there: Path) -> None:
        """[lock-2]: a known limit, not a promise."""
        (place / "file").touch()
        with (place / "file").open("r+") as mine, (there / "file").open("r+") as theirs:
            fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_other_clients_destroy_what_they_delete(
        self, mounted: Gateway, place: Path, trash: Trash
    ) -> None:
        """[multi-client-3]: seen on posix, where the test can be that client."""
        if mounted.source.startswith("posix:"):
            (place / "file").touch()
            source = Path(mounted.source.removeprefix("posix:"))
            (source / place.name / "file").unlink()
            assert trash.list() == []


class TestLife:
    def test_nothing_dirty_is_lost_at_the_end(self, unmounted: Gateway) -> None:
        """[durability-3]: SIGTERM."""
        file = unmounted.path / "file"
        with unmounted.mounted():
            file.write_bytes(b"x" * 3_000_000)
            _terminate(unmounted)
        with unmounted.mounted():
            assert file.read_bytes() == b"x" * 3_000_000

    def test_crash_leaves_what_was_synced_and_what_was_deleted(self, unmounted: Gateway) -> None:
        """[durability-1], [durability-2], [durability-4], [trash-3]."""
        unmounted.mount()
        for name in ("kept", "deleted"):
            with (unmounted.path / name).open("w") as stream:
                stream.write(name)
                stream.flush()
                os.fsync(stream.fileno())
        (unmounted.path / "deleted").unlink()
        unmounted.kill()
        assert name_of(errno_of(lambda: os.stat(unmounted.path))) == "ENOTCONN"
        begun = time.monotonic()
        with unmounted.mounted():
            assert (unmounted.path / "kept").read_text() == "kept"
            assert time.monotonic() - begun < 30  # the session of the dead one would last 60 s
            assert not (unmounted.path / "deleted").exists()
            (item,) = unmounted.trash()
            assert item["path"] in (None, "deleted")
            words = ("trash", "restore", item["id"], "--to", str(unmounted.path))
            unmounted.run(*words, check=True)
            assert (unmounted.path / "deleted").read_text() == "deleted"

    def test_without_trash_and_without_write(self, unmounted: Gateway) -> None:
        """[trash-11], [readonly-1]."""
        with unmounted.mounted("-o", "trash.enabled=false"):
            for name in ("deleted", "file"):
                (unmounted.path / name).touch()
            (unmounted.path / "deleted").unlink()
            assert _bypasses(unmounted, "disabled") == 1
            unmounted.umount()
        with unmounted.mounted("-o", "ro"):
            for attempt in (
                (unmounted.path / "file").unlink,
                (unmounted.path / "new").touch,
                lambda: os.rename(unmounted.path / "file", unmounted.path / ".trashbin/file"),
                lambda: os.setxattr(unmounted.path / "file", "user.key", b"value"),
            ):
                assert name_of(errno_of(attempt)) == "EROFS"
            done = unmounted.run("trash", "ls", str(unmounted.path))
            assert done.returncode == ExitCode.DENIED


def _terminate(gateway: Gateway) -> None:
    state = gateway.state
    os.kill(state.pid, signal.SIGTERM)
    _wait_until(lambda: not gateway.path.is_mount() and not gateway.directory.exists())


class TestPosix:
    """What only a directory of this machine can show, because the test can get at it."""

    def test_full_disk_stops_a_delete_and_loses_nothing(self, base: Path) -> None:
        """[unlink-4]."""
        (base / "source").mkdir()
        options = ["-o", "size=4m,nr_inodes=40", "tmpfs", str(base / "source")]
        subprocess.run(["mount", "-t", "tmpfs", *options], check=True)
        try:
            gateway = posix_gateway(base)
            with gateway.mounted():
                (gateway.path / "file").write_text("content")
                numbers = itertools.count()
                while not (full := errno_of((gateway.path / f"{next(numbers)}").touch)):
                    pass
                assert full == errno.ENOSPC
                refusal = errno_of((gateway.path / "file").unlink)
                assert name_of(refusal) == "ENOSPC"
                assert (gateway.path / "file").read_text() == "content"
                (gateway.path / ".trashbin").stat()
        finally:
            subprocess.run(["umount", "-l", base / "source"], check=True)

    def test_expired_is_removed_and_what_is_damaged_is_kept(self, base: Path) -> None:
        """[trash-7], [trash-8]: time to live comes from the hour in the path."""
        gateway = posix_gateway(base, "trash.expire_interval_s=1")
        with gateway.mounted():
            gateway.umount()
        trash = base / "source/.trashbin"
        for hour in (_OLD_HOUR, "2100-01-01T00"):
            (trash / "r0.00" / hour).mkdir(mode=0o700)
        (trash / "r0.00" / _OLD_HOUR / _OLD_ENTRY).write_text("old")
        (trash / "r0.00" / _OLD_HOUR / "nonsense").write_text("nonsense")
        (trash / "r0.00/2100-01-01T00" / _OLD_ENTRY).write_text("new")
        with gateway.mounted():
            _wait_until(lambda: not (trash / "r0.00" / _OLD_HOUR).exists())
            _wait_until(lambda: os.listdir(trash / "purging") == [])
            assert (trash / "r0.00/2100-01-01T00" / _OLD_ENTRY).exists()
        (kept,) = (trash / "held").iterdir()
        assert kept.name.startswith(f"r0.00.{_OLD_HOUR}.")
        assert kept.read_text() == "nonsense"

    def test_damaged_is_listed_for_operators(self, base: Path) -> None:
        """[trash-8]."""
        gateway = posix_gateway(base)
        with gateway.mounted():
            (base / "source/.trashbin/nonsense").touch()
            listing = gateway.json("trash", "ls", str(gateway.path))
            assert listing["damaged"] == [{"path": "nonsense", "reason": "not of this format"}]

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda trash: trash.symlink_to("/"),
            lambda trash: (trash.mkdir(), os.chown(trash, OWNER.uid, OWNER.gid)),
            lambda trash: (trash.mkdir(), (trash / "format.json").write_text('{"version": 2}')),
            lambda trash: trash.touch(),
        ],
        ids=["symlink", "foreign", "newer", "file"],
    )
    def test_trash_that_is_not_ours_is_refused(self, base: Path, spoil: object) -> None:
        """[trash-10]."""
        (base / "source").mkdir()
        spoil(base / "source/.trashbin")  # type: ignore[operator]
        gateway = posix_gateway(base)
        gateway.path.mkdir()
        before = subprocess.run(["ls", "-lR", base / "source"], capture_output=True).stdout
        done = gateway.run("mount", gateway.source, str(gateway.path))
        assert (done.returncode, done.stderr.count("\n")) == (ExitCode.CONFLICT, 1)
        assert ".trashbin" in done.stderr
        assert subprocess.run(["ls", "-lR", base / "source"], capture_output=True).stdout == before
