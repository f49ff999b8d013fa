"""Sharing at larger page sizes: hashes of larger pages, computed from the hashes of smaller pages.

Barker et al. (section 4.4) hash the memory again for each size. For multiples of the page size this is not needed: two
larger pages have the same content if all their smaller pages have, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.sharing.digest import ABSENT, FIRST_HASH, SWAPPED, ZERO, Contents, PageDigest
from samepaged.sharing.model import Member, SharingReport, analyse
from samepaged.sharing.parallel import map_in_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["PageSizeSharing", "by_page_size", "coarsen"]

# Hashes combined at a time: they fit in a processor's cache, because the mixing passes over them many times.
BLOCK_PAGES: Final = 1 << 16

# The finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014), and
# its increment. These are fixed, because digests of different hosts and days are compared.
_INCREMENT: Final = np.uint64(0x9E3779B97F4A7C15)
_FACTORS: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS: Final = (np.uint64(30), np.uint64(27), np.uint64(31))


@dataclass(frozen=True, slots=True)
class PageSizeSharing:
    """Sharing of the host at pages of `page_size` bytes; counts are in pages of this size."""

    page_size: int
    memory_pages: int
    zero_pages: int
    self_sharing_pages: int
    inter_sharing_pages: int

    @property
    def total_sharing_pages(self) -> int:
        """Σ S_self(V) + S_inter(host)."""
        return self.self_sharing_pages + self.inter_sharing_pages

    @classmethod
    def of(cls, report: SharingReport) -> PageSizeSharing:
        """Sum the guests of a report."""
        return cls(
            page_size=report.page_size,
            memory_pages=sum(guest.memory_pages for guest in report.guests),
            zero_pages=sum(guest.zero_pages for guest in report.guests),
            self_sharing_pages=report.self_sharing_pages,
            inter_sharing_pages=report.inter_sharing_pages,
        )


def by_page_size(
    digests: Sequence[PageDigest], page_sizes: Sequence[int], *, threads: int | None = None
) -> tuple[PageSizeSharing, ...]:
    """Compute the sharing of the guests of `digests` (one digest each) for each of `page_sizes`, in this order.

    The digests do not change. Raises ValueError as `coarsen` does. For one size at a time, it takes 8 bytes for each
    page of this size.
    """
    return tuple(_sharing_at(digests, page_size, threads) for page_size in page_sizes)


def _sharing_at(digests: Sequence[PageDigest], page_size: int, threads: int | None) -> PageSizeSharing:
    contents = map_in_threads(lambda digest: Contents.of(coarsen(digest, page_size), in_place=True), digests, threads)
    members = [Member(str(index), "", content) for index, content in enumerate(contents)]
    return PageSizeSharing.of(analyse(members, page_size, pairs=False, threads=threads))


def coarsen(digest: PageDigest, page_size: int) -> PageDigest:
    """The digest of the same memory in pages of `page_size` bytes, which is the page size of `digest` times a power of
    two. Raises ValueError for other sizes.

    A page with a swapped part is swapped: its content is unknown. If all parts are absent, the page is absent;
    otherwise an absent part counts as zeros, which the guest would read there. A partial page at the end of the memory
    is left out, because the host could not back it with a page of this size. RAM blocks are assumed to be adjacent and
    aligned to `page_size`: blocks of guests are multiples of 2 MiB. The hashes are comparable only with hashes that
    `coarsen` computes from the same hash and page size.
    """
    ratio = page_size // digest.page_size
    if ratio < 1 or ratio.bit_count() != 1 or ratio * digest.page_size != page_size:
        raise ValueError(
            f"pages of {page_size} bytes cannot be made of pages of {digest.page_size}; "
            f"choose {digest.page_size} times a power of two"
        )
    pages = np.empty(len(digest.pages) // ratio, dtype=np.uint64)
    rows = max(1, BLOCK_PAGES // ratio)
    for start in range(0, len(pages), rows):
        target = pages[start : start + rows]
        parts = digest.pages[start * ratio : (start + len(target)) * ratio]
        while len(parts) > len(target):
            parts = _join_halves(parts[0::2], parts[1::2])
        target[:] = parts
    return PageDigest(pages, page_size)


def _join_halves(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Compute the hashes of pages from the hashes of their `first` and `second` halves."""
    both_absent = np.maximum(first, second) == ABSENT
    swapped = (first == SWAPPED) | (second == SWAPPED)
    # SWAPPED lies between the two, but those pages are overwritten below.
    a, b = np.maximum(first, np.uint64(ZERO)), np.maximum(second, np.uint64(ZERO))
    both_zero = np.maximum(a, b) == ZERO
    # The first half is mixed before the second is added, so that the hash depends on the order of the halves.
    joined = _mix_bits(_mix_bits(a + _INCREMENT) + b)
    joined[joined < FIRST_HASH] += np.uint64(FIRST_HASH)
    joined[both_zero] = ZERO
    joined[both_absent] = ABSENT
    joined[swapped] = SWAPPED
    return joined


def _mix_bits(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread each bit of `values` over all 64 bits (a bijection), in place."""
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        values ^= values >> shift
        values *= factor
    values ^= values >> _SHIFTS[-1]
    return values
