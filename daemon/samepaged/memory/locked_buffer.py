"""Buffers for guest memory between reading and hashing: the only memory of samepaged that holds guest pages."""

from __future__ import annotations

import ctypes
import itertools
import logging
import mmap
import os
from typing import Final

from samepaged.log_line import details
from samepaged.os_errors import no_resources

__all__ = ["locked_buffer"]

log = logging.getLogger(__name__)

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_failure_count: Final = itertools.count()  # next() is atomic across threads


def locked_buffer(size: int) -> memoryview:
    """Return a writable buffer of `size` bytes that is excluded from core dumps and from forked processes, and is not
    swapped out.

    It is freed with its last view: an earlier close would fail while a propagating exception still holds a view, and
    hide that exception. The kernel clears a freed page before its next use. Raises GuestError if memory is exhausted.
    """
    try:
        area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise no_resources(f"a buffer of {size} bytes", error, "allocated") from error
    area.madvise(mmap.MADV_DONTDUMP)
    area.madvise(mmap.MADV_DONTFORK)  # a child's copy would not be locked (fork(2))
    anchor = ctypes.c_char.from_buffer(area)
    # mlock also populates the buffer: reads into it cause no page faults while a guest is suspended.
    if _libc.mlock(ctypes.addressof(anchor), size):
        _warn_unlocked(ctypes.get_errno())
    return memoryview(area)


def _warn_unlocked(error: int) -> None:
    """Log a warning once for all threads: if the limit refuses one buffer, it refuses every buffer."""
    if next(_failure_count) == 0:
        log.warning(
            "cannot lock buffers of guest memory, the host may swap them out; raise LimitMEMLOCK= in the unit, or "
            "`ulimit -l` in a shell, to 2 MiB for each of scan.threads and 2 MiB more%s",
            details(error=os.strerror(error)),
        )
