"""Shared memory with copies of guest pages: the daemon writes it, and the worker can only read it."""

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

# As in samepaged.memory.observer.PageAccess.
ABSENT: Final = -1
# linux/memfd.h, linux/fcntl.h, asm-generic/mman-common.h
F_SEAL_FUTURE_WRITE: Final = 0x10
MADV_POPULATE_WRITE: Final = 23

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mlock.argtypes = _libc.munlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class PageProvider(Protocol):
    """Source of guest pages."""

    @property
    def pages(self) -> int:
        """The guest's memory in pages."""

    def copy(self, pages: NDArray[np.int64], out: memoryview) -> NDArray[np.int32]:
        """Copy these pages one after the other to `out`. Return the place of each in `out`, -1 for a page of zeros, -2
        for a page that is not available.
        """

    @property
    def present(self) -> NDArray[np.bool_]:
        """Mask of pages that `copy` would copy: bool, (pages,)."""

    @property
    def absent(self) -> NDArray[np.bool_]:
        """Mask of pages that the host does not back: bool, (pages,)."""

    def starting_with(self, mark: bytes) -> NDArray[np.int64]:
        """Return the pages that begin with these bytes."""


class PageBuffer:
    """Up to `max_pages` pages of a guest of `pages` pages, in a memfd. Other processes can map `file` for reading
    only, and its size is sealed. Its content is locked into memory if the limits allow it, excluded from core dumps,
    and freed by `close` (and the end of the worker).

    `slots` (int32, (pages,)) is the slot of each page, -1 if it is not copied. Slot 0 is the page of zeros.
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
        """The number of free slots."""
        return self.max_pages + 1 - self.used

    def clear(self) -> None:
        """Free all slots. The reader can see the old content until it is overwritten."""
        self.slots.fill(-1)
        self.used = 1

    def preallocate(self, pages: int) -> None:
        """Allocate memory for `pages` more pages, so that copies cause no page faults. Raises OSError."""
        last = min(self.used + pages, self.max_pages + 1)
        if last <= self._ready:
            return
        start, size = self._ready * PAGE_SIZE, (last - self._ready) * PAGE_SIZE
        os.posix_fallocate(self.file, start, size)
        anchor = ctypes.c_char.from_buffer(self._area)
        try:
            if self._locked and _libc.mlock(ctypes.addressof(anchor) + start, size):
                self._locked = False  # locked_buffer.py warns about it
                log.debug("cannot lock the page buffer into memory")
        finally:
            del anchor
        if not self._locked:
            with contextlib.suppress(OSError):  # before Linux 5.14: allocated, but mapped on first use
                self._area.madvise(MADV_POPULATE_WRITE, start, size)
        self._ready = last

    def add(self, provider: PageProvider, pages: NDArray[np.int64]) -> NDArray[np.int32]:
        """Copy pages of these numbers (each once) while there are free slots. Return their slots: int32 of their
        shape, -1 for pages that are not available. Raises OSError if the allocation fails.
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
        """Free the memory; the kernel keeps it until the worker has exited, too."""
        os.close(self.file)
        with contextlib.suppress(BufferError):  # a propagating exception refers to a view; that frees it
            self._area.close()
