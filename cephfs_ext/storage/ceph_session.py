"""A session of libcephfs: connecting, identities, a dead predecessor's session.

Everything here blocks. Every session has a uuid of its own, recorded by the daemon before it is
used: a client that dies without goodbye keeps its capabilities for a minute, and everybody who
needs one waits for it. A successor reclaims the session instead (`CEPH_RECLAIM_RESET`), which
took 0.16 s where waiting took 62 s.

Source: libcephfs.h (state reclaim).
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from c_ext._libcephfs import ffi, lib
from cephfs_ext.core.config import CephConfig
from cephfs_ext.core.errors import ExitCode, UserError, check, fs_error
from cephfs_ext.core.types import Credentials

_log = logging.getLogger(__name__)

_DELEGATION_S = 120
"""After which libcephfs would end a session that keeps a recalled delegation; ours last an instant,
but none is given without this, nor with more than the MDS's session_autoclose (300 s)."""

_LOGGING = (
    "debug_client", "debug_objectcacher", "debug_objecter", "debug_ms", "debug_monc", "debug_auth",
)  # fmt: skip
"""What libcephfs logs into memory for the case that it crashes, unless the cluster's configuration
says otherwise: each call has lines formatted, and a thread busy that drops them."""

_SETTING_BYTES = 256

_PERMS_KEPT = 256
"""Identities whose `UserPerm` is kept."""


class Identities:
    """`UserPerm`s of users, made once and kept while they are among the last ones used.

    Safe from any thread. One that falls out is freed by the garbage collector when no call uses
    it any more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._perms: OrderedDict[Credentials, Any] = OrderedDict()

    def of(self, cred: Credentials) -> Any:
        """Return the `UserPerm *` of a user."""
        with self._lock:
            perms = self._perms.pop(cred, None)
            if perms is None:
                perms = _new_perms(cred)
            self._perms[cred] = perms
            if len(self._perms) > _PERMS_KEPT:
                self._perms.popitem(last=False)
            return perms


def _new_perms(cred: Credentials) -> Any:
    groups = ffi.new("gid_t[]", list(cred.groups) or 1)
    # libcephfs keeps the pointer to the groups, so they live as long as the identity does
    raw = lib.ceph_userperm_new(cred.uid, cred.gid, len(cred.groups), groups)
    perms = ffi.gc(raw, lib.ceph_userperm_destroy)
    _groups_of[perms] = groups
    return perms


_groups_of: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def connect(
    config: CephConfig,
    subdir: str,
    *,
    uuid: str,
    predecessors: Sequence[str],
    options: Mapping[str, str],
) -> Any:
    """Connect and mount; return the `struct ceph_mount_info *`.

    Args:
        uuid: name of this session.
        predecessors: names of sessions of dead daemons, to be ended first.
        options: client settings.

    Raises:
        UserError: it can't be done; with the fix in it, within twice the mount timeout.
    """
    if not os.path.isfile(config.conf):
        raise UserError(
            f"{config.conf}: no such file; name the cluster's configuration with --ceph-conf",
            ExitCode.NOT_FOUND,
        )
    for dead in predecessors:
        end_session(config, dead)
    mount = _create(config, options)
    lib.ceph_set_uuid(mount, uuid.encode())
    rc = lib.ceph_mount(mount, subdir.encode())
    if rc < 0:
        lib.ceph_release(mount)
        raise _failure(config, subdir, -rc)
    lib.ceph_umask(mount, 0)  # by default it takes the others' right to write away
    lib.ceph_set_deleg_timeout(mount, _DELEGATION_S)
    return mount


def _create(config: CephConfig, options: Mapping[str, str]) -> Any:
    """Make a session that is not mounted yet."""
    out = ffi.new("struct ceph_mount_info **")
    rc = lib.ceph_create(out, config.id.encode())
    if rc < 0:
        raise _failure(config, "", -rc)
    mount = out[0]
    usual = {option: _setting(mount, option) for option in _LOGGING}
    rc = lib.ceph_conf_read_file(mount, config.conf.encode())
    if rc < 0:
        lib.ceph_release(mount)
        raise UserError(
            f"{config.conf} is no configuration of Ceph ({os.strerror(-rc)}); name the cluster's "
            "with --ceph-conf",
            ExitCode.USAGE,
        )
    quiet = {option: "0/0" for option in _LOGGING if _setting(mount, option) == usual[option]}
    for option, value in {**quiet, **options}.items():
        rc = min(rc, lib.ceph_conf_set(mount, option.encode(), value.encode()))
    if rc >= 0:
        lib.ceph_set_mount_timeout(mount, int(config.mount_timeout_s))
        rc = lib.ceph_init(mount)
    if rc >= 0 and config.fs_name:
        rc = lib.ceph_select_filesystem(mount, config.fs_name.encode())
    if rc < 0:
        lib.ceph_release(mount)
        raise _failure(config, "", -rc)
    return mount


def _setting(mount: Any, option: str) -> str:
    buffer = ffi.new("char[]", _SETTING_BYTES)
    check(lib.ceph_conf_get(mount, option.encode(), buffer, _SETTING_BYTES))
    return bytes(ffi.string(buffer)).decode()


def timeouts(config: CephConfig) -> dict[str, str]:
    """Return the client settings without which a cluster that is down is waited for."""
    seconds = str(int(config.mount_timeout_s))
    return {"client_mount_timeout": seconds, "rados_mon_op_timeout": seconds}


def end_session(config: CephConfig, dead: str) -> None:
    """End the session of a dead daemon; a failure only means that its end must be waited for.

    Raises:
        UserError: the cluster doesn't answer.
    """
    mount = _create(config, timeouts(config))
    try:
        rc = lib.ceph_start_reclaim(mount, dead.encode(), lib.CEPH_RECLAIM_RESET)
        if rc in (0, -errno.ENOENT):
            lib.ceph_finish_reclaim(mount)
        else:
            _log.warning("session %s could not be ended: %s", dead, os.strerror(-rc))
    finally:
        lib.ceph_unmount(mount)
        lib.ceph_release(mount)


def _failure(config: CephConfig, subdir: str, number: int) -> UserError:
    where = f"cluster of {config.conf}, client.{config.id}"
    if number in (errno.ETIMEDOUT, errno.EHOSTUNREACH):
        return UserError(
            f"{where}: no monitor answered within {config.mount_timeout_s:.0f} s; "
            "check `mon host` and the network",
            ExitCode.TEMPORARY,
        )
    if number in (errno.EACCES, errno.EPERM):
        return UserError(
            f"{where}: access denied; check the keyring, and that the key may use {subdir or '/'} "
            f"(ceph auth get client.{config.id})",
            ExitCode.DENIED,
        )
    if number == errno.ENOENT and subdir not in ("", "/"):
        return UserError(
            f"{where}: no directory {subdir}, or no keyring; create it first, or check the keyring",
            ExitCode.NOT_FOUND,
        )
    if number == errno.ENOENT:
        return UserError(
            f"{where}: no keyring, or no file system {config.fs_name or 'found'}; check `keyring` "
            "and `ceph fs ls`",
            ExitCode.NOT_FOUND,
        )
    if number == errno.EINVAL:
        return UserError(f"{where}: no monitor is known; check `mon host`", ExitCode.USAGE)
    return UserError(f"{where}: {fs_error(number)}; see the cluster's health", ExitCode.TEMPORARY)
