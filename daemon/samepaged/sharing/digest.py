"""A guest's memory as one hash per page, its distinct contents, and pages with unchanged content between scans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.sharing.parallel import map_in_threads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["ABSENT", "FIRST_HASH", "SWAPPED", "ZERO", "Contents", "PageDigest"]
__all__ += ["count_all", "stable", "state_starts"]

# A page without a hash has one of three reserved values instead, so that hash and state are one number of 8 bytes per
# page, and sort together. If the hash of a content equals a reserved value, FIRST_HASH is added to it (hashing.py):
# with 64 bits, this causes a collision as rarely as any other one.
ABSENT: Final = 0
SWAPPED: Final = 1
ZERO: Final = 2
FIRST_HASH: Final = 3

# Hashes compared at a time, so that temporary copies stay small for a guest of any size.
BLOCK_PAGES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class PageDigest:
    """The result of a scan: `pages` is uint64 of shape (memory_pages,), in the order of the guest's RAM blocks; each is
    `ABSENT`, `SWAPPED`, `ZERO`, or the hash of a content (at least `FIRST_HASH`). `page_size` is in bytes.
    """

    pages: NDArray[np.uint64]
    page_size: int


@dataclass(frozen=True, slots=True)
class Contents:
    """A guest's pages counted by state, and U(V): `distinct` is uint64, sorted, each content once. `is_repeated` (bool,
    of the same shape) marks contents that the guest has more than once.
    """

    distinct: NDArray[np.uint64]
    is_repeated: NDArray[np.bool_]
    memory_pages: int
    absent_pages: int
    swapped_pages: int
    zero_pages: int
    duplicate_pages: int

    @property
    def distinct_pages(self) -> int:
        """|U(V)|."""
        return len(self.distinct)

    @classmethod
    def of(cls, digest: PageDigest, *, in_place: bool = False) -> Contents:
        """Count the pages of `digest` by state.

        By default the digest does not change, and `distinct` is a new array. With `in_place`, only `is_repeated` takes
        memory, a byte per page: the digest's array is sorted, `distinct` is a view of its front, and the digest is no
        longer valid.
        """
        ordered = digest.pages if in_place else np.array(digest.pages)
        ordered.sort()
        swapped, zero, first = state_starts(ordered)
        memory_pages = len(ordered)
        is_repeated = np.zeros(memory_pages - first, dtype=np.bool_)
        distinct_pages = _compact(ordered, first, is_repeated)
        is_repeated.resize(distinct_pages, refcheck=False)
        if in_place:
            ordered = ordered[:distinct_pages]
        else:
            # Frees the tail without a copy; the array has no other references, so refcheck is not needed.
            ordered.resize(distinct_pages, refcheck=False)
        return cls(
            distinct=ordered,
            is_repeated=is_repeated,
            memory_pages=memory_pages,
            absent_pages=swapped,
            swapped_pages=zero - swapped,
            zero_pages=first - zero,
            duplicate_pages=memory_pages - first - distinct_pages,
        )


def stable(previous: PageDigest, current: PageDigest) -> PageDigest:
    """The pages of a guest with the same value in `current` as in `previous`, the digest of the previous scan.

    Other pages are left out, because they do not count for stable sharing. So the length of the result is the number of
    stable pages, and positions in it are meaningless. From the `Contents` of the results of all guests, `analyse`
    computes the stable sharing; `memory_pages` is then the number of pages with an unchanged state. The content of
    swapped pages among them remains unknown. If the guest's memory size or the page size has changed, pages cannot be
    matched, and the result is empty.
    """
    if len(previous.pages) != len(current.pages) or previous.page_size != current.page_size:
        return PageDigest(np.empty(0, dtype=np.uint64), current.page_size)
    return PageDigest(current.pages[previous.pages == current.pages], current.page_size)


def state_starts(ordered: NDArray[np.uint64]) -> tuple[int, int, int]:
    """Start indices of the swapped pages, the zero pages, and the pages with a hash in the sorted pages of a digest."""
    # With signed bounds, numpy would convert the whole array to floats.
    bounds = np.array([SWAPPED, ZERO, FIRST_HASH], dtype=np.uint64)
    swapped, zero, first = (int(at) for at in np.searchsorted(ordered, bounds))
    return swapped, zero, first


def count_all(digests: Iterable[PageDigest], *, threads: int | None = None, in_place: bool = False) -> list[Contents]:
    """`Contents.of` each digest, in order, on `threads` threads (None: one per processor, up to 8).

    The peak memory is 9 bytes for each distinct page, and 9 bytes for each page of the guests that are being sorted,
    one per thread. With `in_place` it is a ninth of that, and the digests are no longer valid.
    """
    return map_in_threads(lambda digest: Contents.of(digest, in_place=in_place), digests, threads)


def _compact(ordered: NDArray[np.uint64], first: int, is_repeated: NDArray[np.bool_]) -> int:
    """Move each distinct value of the sorted `ordered[first:]` to the front of `ordered`, mark repeated ones in
    `is_repeated`, and return the number of distinct values.

    np.unique would take twenty times as long as the sort, and several copies.
    """
    kept = 0
    before = None
    for start in range(first, len(ordered), BLOCK_PAGES):
        block = ordered[start : start + BLOCK_PAGES]
        new = np.empty(len(block), dtype=np.bool_)
        new[0] = before is None or block[0] != before
        np.not_equal(block[1:], block[:-1], out=new[1:])
        before = block[-1]
        if not new[0]:
            is_repeated[kept - 1] = True
        starts = np.flatnonzero(new)
        values = block[starts]
        # A value's further copies in this block lie between it and the next value.
        is_repeated[kept : kept + len(values)] = np.diff(starts, append=len(block)) > 1
        ordered[kept : kept + len(values)] = values
        kept += len(values)
    return kept
