"""One guest's contents at one moment, by their hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from samepaged.sharing.digest import FIRST_HASH, SWAPPED, ZERO

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.sharing.digest import PageDigest

__all__ = ["Trace", "seed_id"]


def seed_id(seed: int) -> str:
    """Tells whether two traces have the same seed, and not which: 16 hexadecimal digits."""
    return hashlib.sha256(b"samepaged seed\0" + seed.to_bytes(8, "big")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Trace:
    """`hashes` (uint64, ascending, each once) and how many `pages` (int32) have each; counts of the pages without a
    hash; `scanned_at` in seconds of the Unix epoch. `page_size` is in bytes, `hash_bits` 64 but for traces of others.
    """

    host: str
    domain: str
    scanned_at: float
    hashes: NDArray[np.uint64] = field(repr=False)
    pages: NDArray[np.int32] = field(repr=False)
    absent_pages: int
    swapped_pages: int
    zero_pages: int
    page_size: int
    seed: str
    mode: str
    hash_bits: int = 64

    @property
    def memory_pages(self) -> int:
        """All pages of the guest."""
        return self.absent_pages + self.swapped_pages + self.zero_pages + int(self.pages.sum(dtype=np.int64))

    @classmethod
    def of(
        cls, digest: PageDigest, *, host: str, domain: str, scanned_at: float, seed: str, mode: str, hash_bits: int = 64
    ) -> Trace:
        """The trace of a digest, which is left as it is."""
        ordered = np.sort(digest.pages)
        bounds = np.array([SWAPPED, ZERO, FIRST_HASH], dtype=np.uint64)
        swapped, zero, first = (int(at) for at in np.searchsorted(ordered, bounds))
        hashed = ordered[first:]
        starts = np.flatnonzero(np.diff(hashed, prepend=np.uint64(0)))
        return cls(
            host=_valid(host),
            domain=_valid(domain),
            scanned_at=scanned_at,
            hashes=hashed[starts],
            pages=np.diff(starts, append=len(hashed)).astype(np.int32),
            absent_pages=swapped,
            swapped_pages=zero - swapped,
            zero_pages=first - zero,
            page_size=digest.page_size,
            seed=seed,
            mode=mode,
            hash_bits=hash_bits,
        )


def _valid(name: str) -> str:
    """A name as valid Unicode, which Parquet requires; as in export/names.py."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
