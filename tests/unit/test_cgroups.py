"""Pods and containers, told by the control groups that runtimes make."""

from __future__ import annotations

import pytest

from cephfs_ext.fuse.cgroups import Workload, workload_of

_UID = "c8b3ff3a-1a4e-4e42-a9b6-6b8ae2f6c8d1"
_SYSTEMD_UID = _UID.replace("-", "_")
_ID = "4e1ba2c3d4e5f60718293a4b5c6d7e8f9a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d"
_OTHER_ID = "a" * 64
_HASH = "0123456789abcdef0123456789abcdef"
_POD = Workload(_UID, _ID[:12])

_SLICE = f"kubepods-burstable-pod{_SYSTEMD_UID}.slice"


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        (f"0::/kubepods/burstable/pod{_UID}/{_ID}", _POD),
        (f"0::/kubepods/pod{_UID}/{_ID}", _POD),
        (f"0::/kubepods.slice/kubepods-burstable.slice/{_SLICE}/cri-containerd-{_ID}.scope", _POD),
        (f"0::/kubepods.slice/kubepods-pod{_SYSTEMD_UID}.slice/crio-{_ID}.scope", _POD),
        (f"0::/kubepods.slice/kubepods-pod{_SYSTEMD_UID}.slice/crio-{_ID}.scope/init", _POD),
        (f"0::/../../{_SLICE}/cri-containerd-{_ID}.scope", _POD),
        (f"0::/kubelet.slice/kubelet-{_SLICE}/cri-containerd-{_ID}.scope", _POD),
        (f"0::/system.slice/containerd.service/{_SLICE}:cri-containerd:{_ID}", _POD),
        (f"0::/kubepods/besteffort/pod{_HASH}/{_ID}", Workload(_HASH, _ID[:12])),
        (f"0::/kubepods/burstable/pod{_UID}", Workload(_UID, "")),
        (f"0::/docker/{_ID}", Workload("", _ID[:12])),
        (f"0::/system.slice/docker-{_ID}.scope", Workload("", _ID[:12])),
        (f"0::/machine.slice/libpod-{_ID}.scope/container", Workload("", _ID[:12])),
        (
            f"0::/docker/{_OTHER_ID}/kubelet/kubepods/besteffort/pod{_UID}/{_ID}",
            _POD,  # a cluster whose nodes are containers
        ),
        (f"0::/kubepods/pod{_HASH}/{_OTHER_ID}/kubepods/pod{_UID}/{_ID}", _POD),
        ("0::/", Workload()),
        ("0::/user.slice/user-1000.slice/session-3.scope", Workload()),
        ("0::/system.slice/podman.service", Workload()),
        ("0::/kubepods/burstable/podcast", Workload()),
        ("", Workload()),
    ],
)
def test_version_2(cgroup: str, expected: Workload) -> None:
    assert workload_of(cgroup.encode()) == expected
    assert workload_of(f"{cgroup}\n".encode()) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/kubepods/burstable/pod{_UID}/{_ID}", _POD),
        (f"/kubepods.slice/kubepods-burstable.slice/{_SLICE}/docker-{_ID}.scope", _POD),
        (f"/docker/{_ID}", Workload("", _ID[:12])),
        ("/", Workload()),
    ],
)
def test_version_1(path: str, expected: Workload) -> None:
    """One line a hierarchy; some of them may not know the container."""
    lines = [f"12:memory:{path}", f"11:cpu,cpuacct:{path}", f"1:name=systemd:{path}", "0::/"]
    assert workload_of("\n".join(lines).encode()) == expected


def test_odd_bytes_are_nobodys() -> None:
    assert workload_of(b"0::/\xff\xfe/pod\x00/\n:::\n") == Workload()
