"""Names of directory entries: pure functions."""

from __future__ import annotations

from cephfs_ext.core.types import NAME_MAX

_EXTENSION_MAX = 16


def is_name(name: bytes) -> bool:
    """Tell whether something can be the name of a directory entry."""
    special = name in (b"", b".", b"..") or b"/" in name or b"\0" in name
    return not special and len(name) <= NAME_MAX


def free_name(name: bytes, number: int) -> bytes:
    """Return the `number`-th other name for something whose own is taken.

    The suffix goes before a file's extension; the name is shortened where it would pass 255 bytes,
    at the border of a character.
    """
    stem, dot, extension = name.rpartition(b".")
    if not stem or len(extension) > _EXTENSION_MAX:
        stem, dot, extension = name, b"", b""
    suffix = b" (restored)" if number == 1 else b" (restored %d)" % number
    tail = suffix + dot + extension
    other = shortened(stem, NAME_MAX - len(tail)) + tail
    return other if other != name else free_name(name, number + _NEVER_ASKED_FOR)


_NEVER_ASKED_FOR = 1_000_000


def shortened(text: bytes, size: int) -> bytes:
    """Cut to at most `size` bytes, not within a character of UTF-8."""
    if len(text) <= size:
        return text
    while size and text[size] & 0xC0 == 0x80:
        size -= 1
    return text[:size]
