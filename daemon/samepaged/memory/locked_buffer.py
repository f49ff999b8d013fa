"""Memory for what is read of a guest, on its way to being hashed: all that samepaged ever holds of a guest's pages."""

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
_failure_count: Final = itertools.count()  # next() of it is one step, however many threads take it


def locked_buffer(size: int) -> memoryview:
    """A writable buffer of `size` bytes that is left out of core dumps, is not swapped out, and is not there in a
    process that is forked.

    It is freed with its last view: to close it earlier would fail while an exception on its way still holds one, and
    hide that exception. The kernel gives nobody else a freed page before it has cleared it. Raises GuestError if there
    is no memory for it.
    """
    try:
        area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise no_resources(f"a buffer of {size} bytes", error, "allocated") from error
    area.madvise(mmap.MADV_DONTDUMP)
    area.madvise(mmap.MADV_DONTFORK)  # a child's copy would not be locked (fork(2))
    anchor = ctypes.c_char.from_buffer(area)
    # This populates it, too: what is read into it then meets no page fault, while a guest is suspended.
    if _libc.mlock(ctypes.addressof(anchor), size):
        _say_unlocked(ctypes.get_errno())
    return memoryview(area)


def _say_unlocked(error: int) -> None:
    """Say it once, whichever thread is the first: where it is refused, it is refused for each buffer."""
    if next(_failure_count) == 0:
        log.warning(
            "cannot lock buffers of guest memory, the host may swap them out; raise LimitMEMLOCK= in the unit, or "
            "`ulimit -l` in a shell, to 2 MiB for each of scan.threads and 2 MiB more%s",
            details(error=os.strerror(error)),
        )
