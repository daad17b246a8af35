"""What the file systems under test are known to do otherwise, and why.

A test listed here must fail on that target: one that begins to pass fails the run, and its line
goes. ceph-fuse is the peer, here to compare with: what it does otherwise is reported and never
fails the run, since on a loaded machine its attributes are late now and then. Patterns are matched,
as fnmatch does, against `module::function` or, for one case of a parametrised test,
`module::function(case)`.

`local` and the gateway over posix storage have none, and must never have any. The gateway over
CephFS may have only those of ceph-fuse.
"""

from __future__ import annotations

import fnmatch

Deviations = dict[str, str]
"""Pattern of test names: reason."""

_STALE_SOURCE = (
    "libcephfs does not refresh the directory that a name was moved out of: its times and link"
    " count stay what they were (the reply carries the new parent only)"
)
_EXECUTE = (
    "without default_permissions the kernel only looks for any x bit, and the client then checks"
    " the right to read instead of the right to execute"
)
_TRUNCATING_OPEN = "O_TRUNC is part of the open (atomic_o_trunc) and clears no bits there"
_BARE_NAMESPACE = "a name that is nothing but its namespace is taken"
_OTHER_LINK = (
    "the metadata server makes the other link the inode's home afterwards, and for some"
    " milliseconds neither name is found (seen in 23 of 300 trials)"
)
_SECONDS = "times are 32 bits without sign on the wire: 1970 to 2106"
_UTIMES = "the client takes UTIME_NOW beside UTIME_OMIT for the case in which both are UTIME_NOW"

# ceph-fuse 16.2.15 with client_acl_type=posix_acl and its default fuse_default_permissions=false
# (with true the kernel would check permissions, but without the access control lists).
CEPH_FUSE: Deviations = {
    "test_chmod::test_only_the_owner_may_even_if_nothing_would_change": (
        "the client drops a chmod that changes nothing before it looks at who asks"
    ),
    "test_chmod::test_change_of_the_data_clears_suid_and_sgid(*-open_truncating)": _TRUNCATING_OPEN,
    "test_data::test_buffered_and_direct_writes_see_each_other": (
        "a direct write leaves clean data of the range in the client's object cache"
    ),
    "test_locks::test_record_locks_go_with_any_descriptor_of_the_file": (
        "the client frees record locks with the descriptor that made them, not with any"
    ),
    "test_open::test_descriptor_truncates_whatever_the_mode_is_now": (
        "ftruncate is checked against the mode, not against the open descriptor"
    ),
    "test_open::test_creator_of_a_read_only_file_truncates_it": (
        "ftruncate is checked against the mode, not against the open descriptor"
    ),
    "test_permissions::test_files(execute-*)": _EXECUTE,
    "test_rename::test_directory_links_of_both_parents_move_with_it": _STALE_SOURCE,
    "test_rename::test_directory_of_another_owner_moves_within_its_parent_only": (
        "moving a directory to another parent does not ask for write permission on itself"
    ),
    "test_rename::test_other_link_of_a_replaced_file_is_never_missing": _OTHER_LINK,
    "test_rename::test_replaced_inode_loses_a_link(*)": _OTHER_LINK,
    "test_times::test_operation_moves_these_times_and_no_others(rename-across)": _STALE_SOURCE,
    "test_times::test_operation_moves_these_times_and_no_others(rename-over)": _STALE_SOURCE,
    "test_times::test_operation_moves_these_times_and_no_others(truncate-longer)": (
        "a truncate that makes the file longer sets mtime to 1970"
    ),
    "test_utimens::test_times_near_and_far(past-2106)": _SECONDS,
    "test_utimens::test_times_near_and_far(before-epoch)": _SECONDS,
    "test_utimens::test_times_near_and_far(1969)": _SECONDS,
    "test_utimens::test_who_may_set_what(writer-now_and_omit)": _UTIMES,
    "test_utimens::test_who_may_set_what(other-now_and_omit)": _UTIMES,
    "test_xattr::test_sticky_directory_takes_attributes_from_its_owner_only": (
        "without default_permissions the kernel hides the sticky bit from its own checks, and the"
        " client makes none"
    ),
    "test_xattr::test_unknown_namespace_is_refused(user.)": _BARE_NAMESPACE,
}

# What the client library does to the gateway as well.
CEPH_MOUNT: Deviations = {
    test: reason for test, reason in CEPH_FUSE.items() if reason in (_SECONDS, _BARE_NAMESPACE)
}

DEVIATIONS: dict[str, Deviations] = {
    "ceph-fuse": CEPH_FUSE,
    "ceph-mount": CEPH_MOUNT,
}

PEER = "ceph-fuse"


def reason_for(target_id: str, test: str) -> str | None:
    """Return why `test` is known to fail on a target, None if it has to pass."""
    for pattern, reason in DEVIATIONS.get(target_id, {}).items():
        if fnmatch.fnmatchcase(test, pattern):
            return reason
    return None
