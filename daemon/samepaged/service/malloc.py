"""The C library's allocator, after a scan."""

from __future__ import annotations

import ctypes

__all__ = ["give_back"]


def give_back() -> None:
    """Return to the host what a scan has allocated and freed: malloc keeps freed memory below a block that is in use
    (malloc_trim(3), if the C library has it).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
