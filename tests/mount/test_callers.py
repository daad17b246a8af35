"""Processes that delete while they do other things."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.gateway import posix_gateway

_PATIENCE_S = 60.0

_PROGRAM = r"""
import ctypes, mmap, os, sys, threading, time

directory, size = sys.argv[1], 64 << 20
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
both = mmap.PROT_READ | mmap.PROT_WRITE
fd = os.open(directory + "/mapped", os.O_RDWR | os.O_CREAT, 0o600)
os.ftruncate(fd, size)

def delete(name):
    time.sleep(0.001)
    os.unlink(name)

for number in range(5):
    name = f"{directory}/{number}"
    open(name, "w").close()
    address = libc.mmap(None, size, both, mmap.MAP_SHARED, fd, 0)
    ctypes.memset(address, number, size)
    thread = threading.Thread(target=delete, args=(name,))
    thread.start()
    anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED
    libc.mmap(address, size, both, anonymous, -1, 0)
    thread.join()
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
"""
"""Puts another mapping into the place of one of a file, which the kernel writes first, with the
lock of the process's memory held; another thread deletes meanwhile."""


def test_process_that_waits_for_its_pages_deletes_in_another_thread(tmp_path: Path) -> None:
    gateway = posix_gateway(tmp_path)
    with gateway.mounted():
        child = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(gateway.path)])
        try:
            assert child.wait(_PATIENCE_S) == 0
        except subprocess.TimeoutExpired:
            gateway.kill()  # nothing else ends the child
            raise
        finally:
            child.kill()
            child.wait()
