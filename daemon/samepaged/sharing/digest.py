"""One guest's memory as hashes, a page each, and what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ABSENT", "FIRST_HASH", "SWAPPED", "ZERO", "Contents", "PageDigest"]

# A page without a hash has one of three reserved values in the hash's place, so that hash and state are one number
# of 8 bytes a page, and sort together. A content whose hash happens to be reserved has FIRST_HASH added to it
# (hashing.py): with 64 bits, that merges two contents as rarely as any other collision does.
ABSENT: Final = 0
SWAPPED: Final = 1
ZERO: Final = 2
FIRST_HASH: Final = 3


@dataclass(frozen=True, slots=True)
class PageDigest:
    """What a scan found: `pages` is uint64 of shape (memory_pages,), in the order of the guest's RAM blocks; each is
    `ABSENT`, `SWAPPED`, `ZERO`, or a content's hash (at least `FIRST_HASH`). `page_size` is in bytes.
    """

    pages: NDArray[np.uint64]
    page_size: int


@dataclass(frozen=True, slots=True)
class Contents:
    """A guest's pages counted by state, and U(V): `distinct` is uint64, sorted, each content once."""

    distinct: NDArray[np.uint64]
    memory_pages: int
    absent_pages: int
    swapped_pages: int
    zero_pages: int
    duplicate_pages: int

    @property
    def distinct_pages(self) -> int:
        """|U(V)|."""
        return len(self.distinct)
