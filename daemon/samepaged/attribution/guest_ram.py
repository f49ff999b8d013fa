"""The copied pages of a guest's memory, by guest-physical address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from samepaged.attribution.ram_map import RamMap

__all__ = ["PAGE_WORDS", "GuestRam", "Unreadable"]

PAGE_WORDS: Final = PAGE_SIZE // 8


class Unreadable(Exception):  # noqa: N818 - an invalid guest, not an error of samepaged
    """The guest's memory does not contain a valid data structure at the expected address."""


class GuestRam:
    """Some or all RAM pages of a guest. Every address comes from the guest, so each is checked.

    `words` is uint64 of shape (slots, 512), read-only; `slots` (int32 or int64 of shape (pages,)) has the slot of each
    RAM page, -1 if it is not copied; None if every page is copied, in its own slot. `fetch`, if given, is called with
    RAM pages (int64, ascending, each once) that are not copied, and may add them to `words` and `slots`. `touched`
    (bool, (pages,)) marks the pages that were needed; `missing` marks those of them that were not available.
    """

    def __init__(
        self,
        words: NDArray[np.uint64],
        layout: RamMap,
        slots: NDArray[np.int32] | NDArray[np.int64] | None = None,
        fetch: Callable[[NDArray[np.int64]], None] | None = None,
    ) -> None:
        self.words = words
        self.layout = layout
        self.slots = np.arange(layout.pages, dtype=np.int64) if slots is None else slots
        self.touched = np.zeros(layout.pages, dtype=np.bool_)
        self.missing = np.zeros(layout.pages, dtype=np.bool_)
        self._fetch = fetch

    @property
    def pages(self) -> int:
        """All pages of the guest's memory, copied or not."""
        return self.layout.pages

    def ensure_copied(self, pages: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the slots of RAM pages (any order; invalid numbers are allowed): int64 of their shape, -1 for pages
        that are invalid or not available.
        """
        inside = (pages >= 0) & (pages < self.layout.pages)
        safe = np.where(inside, pages, 0)
        wanted = pages[inside]
        self.touched[wanted] = True
        slots = self.slots[safe].astype(np.int64)
        if np.any(slots[inside] < 0):
            lacking = np.unique(wanted[self.slots[wanted] < 0])
            if self._fetch is not None:
                self._fetch(lacking)
                slots = self.slots[safe].astype(np.int64)
            self.missing[lacking[self.slots[lacking] < 0]] = True
        return np.where(inside, slots, -1)

    def gather(self, addresses: NDArray[np.int64], size: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Read `size` bytes (a multiple of 8) at each guest-physical address: uint64 of shape (n, size // 8), and a
        mask of the readable ones (bool, (n,)); the others are zeros. An address is readable only if it is a multiple of
        8 and the bytes lie in one page.
        """
        within = addresses & (PAGE_SIZE - 1)
        ok = (addresses >= 0) & (within % 8 == 0) & (within + size <= PAGE_SIZE)
        slots = self.ensure_copied(np.where(ok, self.layout.page_of(addresses), -1))
        ok &= slots >= 0
        first = np.where(ok, slots * PAGE_WORDS + (within >> 3), 0)
        found = self.words.reshape(-1)[first[:, None] + np.arange(size >> 3)] if len(self.words) else None
        if found is None:
            return np.zeros((len(addresses), size >> 3), dtype=np.uint64), np.zeros(len(addresses), dtype=np.bool_)
        found[~ok] = 0
        return found, ok

    def word(self, address: int) -> int | None:
        """Read the 8 bytes at one guest-physical address (a multiple of 8); None if they are not readable. Far faster
        than `gather` for single words, such as the pointers of a list.
        """
        page = -1 if address < 0 or address & 7 else self.layout.page_at(address)
        if page < 0:
            return None
        slot = int(self.slots[page])
        if slot < 0:
            slot = int(self.ensure_copied(np.array([page], dtype=np.int64))[0])
        self.touched[page] = True
        return None if slot < 0 else int(self.words[slot, (address & (PAGE_SIZE - 1)) >> 3])

    def read(self, address: int, size: int) -> bytes:
        """Read `size` bytes at a guest-physical address, which may span pages. Raises Unreadable."""
        if size < 0 or address < 0 or address + size >= 1 << 52:
            raise Unreadable(f"cannot read {size} bytes at {address:#x}")
        if not size:
            return b""
        first, last = address >> PAGE_SHIFT, (address + size - 1) >> PAGE_SHIFT
        if last - first > self.pages:
            raise Unreadable(f"cannot read {size} bytes at {address:#x}")
        frames = np.arange(first, last + 1, dtype=np.int64) << PAGE_SHIFT
        slots = self.ensure_copied(self.layout.page_of(frames))
        if np.any(slots < 0):
            raise Unreadable(f"cannot read {size} bytes at {address:#x}")
        start = address & (PAGE_SIZE - 1)
        return self.words[slots].tobytes()[start : start + size]
