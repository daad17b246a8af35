"""Names the cffi modules; everything else is in pyproject.toml."""

import os

from setuptools import setup

# What needs libcephfs is built where its header is: a posix-only installation needs no Ceph.
_HEADER = "/usr/include/cephfs/libcephfs.h"

setup(
    cffi_modules=["c_ext/posix_build.py:ffibuilder"]
    + (
        ["c_ext/libcephfs_build.py:ffibuilder", "c_ext/lane_build.py:ffibuilder"]
        if os.path.exists(_HEADER)
        else []
    ),
)
