"""Returning memory to the host."""

from __future__ import annotations

import ctypes

__all__ = ["release_memory"]


def release_memory() -> None:
    """Return to the host the memory that a scan has freed: malloc keeps free memory below a block that is in use
    (malloc_trim(3), if the C library has it).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
