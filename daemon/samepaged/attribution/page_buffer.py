"""The copy of some of a guest's pages: written by the daemon, and read by a process that can do nothing but read it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import mmap
import os
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from samepaged.arch import PAGE_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ABSENT", "PageBuffer", "PageProvider"]

log = logging.getLogger(__name__)

# As samepaged.memory.observer.PageAccess names it.
ABSENT: Final = -1
# linux/memfd.h, linux/fcntl.h, asm-generic/mman-common.h
F_SEAL_FUTURE_WRITE: Final = 0x10
MADV_POPULATE_WRITE: Final = 23

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mlock.argtypes = _libc.munlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class PageProvider(Protocol):
    """Where the pages come from."""

    @property
    def pages(self) -> int:
        """The guest's memory in pages."""

    def copy(self, pages: NDArray[np.int64], out: memoryview) -> NDArray[np.int32]:
        """Copy these one after the other to `out`; which place each has there, -1 where it reads as zeros, -2 where it
        is not to be had.
        """

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which pages would be copied: bool, (pages,)."""

    @property
    def absent(self) -> NDArray[np.bool_]:
        """Which pages the host does not back: bool, (pages,)."""

    def starting_with(self, mark: bytes) -> NDArray[np.int64]:
        """The pages that begin with these bytes."""


class PageBuffer:
    """Pages of a guest of `pages` pages, in a file of memory that has room for `max_pages` of them. `file` can be
    mapped by others for reading only; nobody can change its size. What is in it is not swapped out, where this may be
    asked, not dumped, and gone with `close` (and the other process).

    `slots` (int32, (pages,)) is where each page is, -1 for those that are not held. Slot 0 is the page of zeros.
    """

    def __init__(self, pages: int, max_pages: int) -> None:
        self.max_pages = max_pages
        self.slots = np.full(pages, -1, dtype=np.int32)
        self.used = 1
        self._ready = 0
        self._locked = True
        self.file = os.memfd_create("samepaged-copy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.file, (max_pages + 1) * PAGE_SIZE)
            self._area = mmap.mmap(self.file, (max_pages + 1) * PAGE_SIZE, mmap.MAP_SHARED)
            seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL | F_SEAL_FUTURE_WRITE
            fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, seals)
        except BaseException:
            os.close(self.file)
            raise
        self._area.madvise(mmap.MADV_DONTDUMP)
        self._area.madvise(mmap.MADV_DONTFORK)

    @property
    def room(self) -> int:
        """How many more pages it has room for."""
        return self.max_pages + 1 - self.used

    def clear(self) -> None:
        """Hold nothing any more, and have the room again: its reader sees what was there until that is overwritten."""
        self.slots.fill(-1)
        self.used = 1

    def preallocate(self, pages: int) -> None:
        """Have memory for so many more pages, so that copying them meets no page fault. Raises OSError."""
        last = min(self.used + pages, self.max_pages + 1)
        if last <= self._ready:
            return
        start, size = self._ready * PAGE_SIZE, (last - self._ready) * PAGE_SIZE
        os.posix_fallocate(self.file, start, size)
        anchor = ctypes.c_char.from_buffer(self._area)
        try:
            if self._locked and _libc.mlock(ctypes.addressof(anchor) + start, size):
                self._locked = False  # scratch.py has said so already, or says it now for its own
                log.debug("cannot lock the page buffer into memory")
        finally:
            del anchor
        if not self._locked:
            with contextlib.suppress(OSError):  # before Linux 5.14; the memory is there, and is mapped as it is used
                self._area.madvise(MADV_POPULATE_WRITE, start, size)
        self._ready = last

    def add(self, provider: PageProvider, pages: NDArray[np.int64]) -> NDArray[np.int32]:
        """Copy pages of these numbers (each once), as far as there is room: int32 of their shape, their slots, -1 for
        what is not to be had. Raises OSError where there is no memory for them.
        """
        within = pages[: self.room]
        self.preallocate(len(within))
        view = memoryview(self._area)[self.used * PAGE_SIZE : (self.used + len(within)) * PAGE_SIZE]
        places = provider.copy(within, view)
        held = places >= 0
        slots = np.full(len(pages), -1, dtype=np.int32)
        slots[: len(within)] = np.where(held, places + np.int32(self.used), np.where(places == ABSENT, 0, -1))
        self.slots[pages] = slots
        self.used += int(np.count_nonzero(held))
        return slots

    def close(self) -> None:
        """Give the memory back, once the other process has, too."""
        os.close(self.file)
        with contextlib.suppress(BufferError):  # an exception on its way holds a part of it; it goes with that
            self._area.close()
