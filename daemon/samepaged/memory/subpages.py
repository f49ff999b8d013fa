"""Hashes of parts of pages, made from the same bytes as the pages' own (the seed, section 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.memory.hashing import Interrupted
from samepaged.memory.locked_buffer import locked_buffer
from samepaged.sharing.digest import FIRST_HASH

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from samepaged.memory.hashing import Hasher

__all__ = ["SubpageDigests"]

CHUNK_PAGES: Final = 256


class SubpageDigests:
    """Digests of the same memory in parts of pages: `parts[size]` is uint64 of shape (pages * 4096 / size,). Whoever
    hashes a page hands its bytes to `hash` as well; `settle` then says of the other pages what they are.
    """

    def __init__(self, pages: int, sizes: Sequence[int], hasher: Hasher, seed: int) -> None:
        self.parts = {size: np.zeros(pages * (PAGE_SIZE // size), dtype=np.uint64) for size in sizes}
        self._hasher = hasher
        self._seed = seed

    def hash(self, buffer: memoryview, pages: NDArray[np.intp]) -> None:
        """Hash the parts of the pages of these numbers, whose bytes follow each other in the buffer."""
        for size, parts in self.parts.items():
            ratio = PAGE_SIZE // size
            hashes = np.empty(len(pages) * ratio, dtype=np.uint64)
            self._hasher.hash_buffer(buffer, hashes, size, self._seed)
            parts.reshape(-1, ratio)[pages] = hashes.reshape(-1, ratio)

    def settle(self, digest: NDArray[np.uint64]) -> None:
        """Parts of a page that has no hash are what the page is: absent, swapped, or zero."""
        for size, parts in self.parts.items():
            marked = np.flatnonzero(digest < FIRST_HASH)
            parts.reshape(-1, PAGE_SIZE // size)[marked] = digest[marked, np.newaxis]

    def read_process(
        self,
        copy: Callable[[NDArray[np.uint64], memoryview], None],
        addresses: NDArray[np.uint64],
        pages: NDArray[np.intp],
        out: NDArray[np.uint64],
        stop: Callable[[], bool],
    ) -> None:
        """Read the pages of these numbers at these addresses of a process once, by `copy(addresses, buffer)`, and hash
        them in every size; `out` gets the pages' own hashes. Raises as Hasher.read_process does.
        """
        buffer = locked_buffer(CHUNK_PAGES * PAGE_SIZE)
        for start in range(0, len(pages), CHUNK_PAGES):
            if stop():
                raise Interrupted
            chunk = pages[start : start + CHUNK_PAGES]
            copy(addresses[start : start + CHUNK_PAGES], buffer)
            self._hasher.hash_buffer(buffer, out[start : start + CHUNK_PAGES], PAGE_SIZE, self._seed)
            self.hash(buffer[: len(chunk) * PAGE_SIZE], chunk)
