"""Memory for what is read of a guest, on its way to being hashed."""

from __future__ import annotations

import mmap

__all__ = ["scratch"]


def scratch(size: int) -> memoryview:
    """A writable buffer of `size` bytes that is left out of core dumps. It is freed with its last view: to close it
    earlier would fail while an exception on its way still holds one, and hide that exception.
    """
    area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_DONTDUMP)
    return memoryview(area)
