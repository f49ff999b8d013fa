"""One guest's memory as one hash for each page, its contents, and the pages that keep their content between scans."""

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

# A page without a hash has one of three reserved values in the hash's place, so that hash and state are one number
# of 8 bytes a page, and sort together. A content whose hash happens to be reserved has FIRST_HASH added to it
# (hashing.py): with 64 bits, that merges two contents as rarely as any other collision does.
ABSENT: Final = 0
SWAPPED: Final = 1
ZERO: Final = 2
FIRST_HASH: Final = 3

# Hashes compared at a time, so that the copies on the way stay small whatever the guest's size.
BLOCK_PAGES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class PageDigest:
    """What a scan found: `pages` is uint64 of shape (memory_pages,), in the order of the guest's RAM blocks; each is
    `ABSENT`, `SWAPPED`, `ZERO`, or a content's hash (at least `FIRST_HASH`). `page_size` is in bytes.
    """

    pages: NDArray[np.uint64]
    page_size: int


@dataclass(frozen=True, slots=True)
class Contents:
    """A guest's pages counted by state, and U(V): `distinct` is uint64, sorted, each content once. `is_repeated` (bool,
    of the same shape) tells those of which the guest has further copies.
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

        By default the digest is left as it is, and `distinct` is an array of its own. With `in_place` a byte a page is
        taken, for `is_repeated`: the digest's array is sorted, `distinct` becomes a view of its front, and the digest
        is used up.
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
            # Gives the tail back without a copy; nobody else has seen the array, so there is nothing to check.
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
    """The pages of a guest that are in `current` what they were in `previous`, the digest of the scan before.

    The others are left out rather than marked: they have a state, but no say in what lasts. So the result is as long
    as there are such pages, and its order means nothing more. The `Contents` of it, for all guests, make `analyse`
    give the stable sharing; its `memory_pages` is what kept its state, and swapped pages among them are as unknown as
    before. If the guest's memory or the page size is another than in the scan before, no page can be told from its
    successor, and the result is empty.
    """
    if len(previous.pages) != len(current.pages) or previous.page_size != current.page_size:
        return PageDigest(np.empty(0, dtype=np.uint64), current.page_size)
    return PageDigest(current.pages[previous.pages == current.pages], current.page_size)


def state_starts(ordered: NDArray[np.uint64]) -> tuple[int, int, int]:
    """Where in the sorted pages of a digest the swapped ones begin, the zero ones, and those with a hash."""
    # uint64 bounds: signed ones would make numpy turn the whole array into floats.
    bounds = np.array([SWAPPED, ZERO, FIRST_HASH], dtype=np.uint64)
    swapped, zero, first = (int(at) for at in np.searchsorted(ordered, bounds))
    return swapped, zero, first


def count_all(digests: Iterable[PageDigest], *, threads: int | None = None, in_place: bool = False) -> list[Contents]:
    """`Contents.of` each digest, in order, on `threads` threads (None: one a processor, up to 8).

    At the peak this takes 9 bytes for each distinct page, and for all pages of the guests then being sorted, one a
    thread; with `in_place` a ninth of that, and the digests are used up.
    """
    return map_in_threads(lambda digest: Contents.of(digest, in_place=in_place), digests, threads)


def _compact(ordered: NDArray[np.uint64], first: int, is_repeated: NDArray[np.bool_]) -> int:
    """Move one of each value in the sorted `ordered[first:]` to the front of it, count them, and set in `is_repeated`
    those that were there more than once.

    Instead of np.unique, which takes twenty times as long as the sort and several copies.
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
