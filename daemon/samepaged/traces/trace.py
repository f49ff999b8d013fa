"""The hashed contents of one guest at one time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.sharing.digest import state_starts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.sharing.digest import Contents, PageDigest

__all__ = ["MAX_SAMPLE_HALVINGS", "PageSizeCounts", "Trace", "TraceInfo", "sample_threshold", "seed_id", "utc"]

# A sample has the lowest 1/N of the hashes, with N = 1, 2, 4, ..., 2 to this power.
MAX_SAMPLE_HALVINGS: Final = 16


def seed_id(seed: int) -> str:
    """Return an id of the seed, 16 hexadecimal digits: equal for equal seeds, and it does not reveal the seed."""
    return hashlib.sha256(b"samepaged seed\0" + seed.to_bytes(8, "big")).hexdigest()[:16]


def utc(seconds: float) -> str:
    """Format a time (seconds of the Unix epoch) as RFC 3339, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def sample_threshold(sample: int) -> int | None:
    """Return the upper bound (exclusive) of a 1/`sample` sample's hashes as signed integers; None for all rows.

    Raises ValueError if `sample` is not a power of two from 1 to 2**MAX_SAMPLE_HALVINGS.
    """
    if sample < 1 or sample.bit_count() != 1 or sample > 1 << MAX_SAMPLE_HALVINGS:
        raise ValueError(f"a sample is 1/N for N a power of two up to {1 << MAX_SAMPLE_HALVINGS}, not {sample}")
    return None if sample == 1 else (1 << 64) // sample - (1 << 63)


@dataclass(frozen=True, slots=True)
class PageSizeCounts:
    """Counts of one guest at one scan for pages of `page_size` bytes (the seed, section 4.4), in such pages."""

    page_size: int
    memory_pages: int
    zero_pages: int
    distinct_pages: int
    duplicate_pages: int

    @classmethod
    def of(cls, contents: Contents, page_size: int) -> PageSizeCounts:
        """Return the counts of `contents`, which are of pages of that size."""
        return cls(
            page_size, contents.memory_pages, contents.zero_pages, contents.distinct_pages, contents.duplicate_pages
        )


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """Identity and counts of a trace. The counts cover the whole guest, even if only a sample of its rows is present.

    `scanned_at` is in seconds of the Unix epoch, `page_size` and `host_memory` (of the whole host) in bytes. `seed` is
    an id (`seed_id`). `hash_bits` is 64 except for traces of other tools. `hashed_pages` counts all pages with a hash,
    `distinct_pages` the contents.
    """

    host: str
    domain: str
    uuid: str | None
    scanned_at: float
    page_size: int
    seed: str
    mode: str
    hash_bits: int
    absent_pages: int
    swapped_pages: int
    zero_pages: int
    hashed_pages: int
    distinct_pages: int
    by_page_size: tuple[PageSizeCounts, ...] = ()
    host_memory: int | None = None

    @property
    def memory_pages(self) -> int:
        """All pages of the guest."""
        return self.absent_pages + self.swapped_pages + self.zero_pages + self.hashed_pages

    @property
    def duplicate_pages(self) -> int:
        """S_self(V)."""
        return self.hashed_pages - self.distinct_pages


@dataclass(frozen=True, slots=True)
class Trace:
    """The contents of a guest: all, or with `sample` N those in the lowest 1/N of the hash space (`sample_threshold`).

    `hashes` (uint64) is ascending and unique; `pages` (int32) is the number of pages with each hash.
    """

    info: TraceInfo
    hashes: NDArray[np.uint64] = field(repr=False)
    pages: NDArray[np.int32] = field(repr=False)
    sample: int = 1

    @classmethod
    def of(
        cls,
        digest: PageDigest,
        *,
        host: str,
        domain: str,
        scanned_at: float,
        seed: str,
        mode: str,
        uuid: str | None = None,
        hash_bits: int = 64,
        by_page_size: tuple[PageSizeCounts, ...] = (),
        host_memory: int | None = None,
    ) -> Trace:
        """Create the trace of a digest, which is not changed. Uses up to 32 bytes per page meanwhile."""
        ordered = np.sort(digest.pages)
        swapped, zero, first = state_starts(ordered)
        hashed = ordered[first:]
        is_first = np.ones(len(hashed), dtype=np.bool_)
        np.not_equal(hashed[1:], hashed[:-1], out=is_first[1:])
        hashes, starts = hashed[is_first], np.flatnonzero(is_first)
        hashed_pages = len(hashed)
        del ordered, hashed, is_first
        about = TraceInfo(
            host=_valid_unicode(host),
            domain=_valid_unicode(domain),
            uuid=uuid,
            scanned_at=scanned_at,
            page_size=digest.page_size,
            seed=seed,
            mode=mode,
            hash_bits=hash_bits,
            absent_pages=swapped,
            swapped_pages=zero - swapped,
            zero_pages=first - zero,
            hashed_pages=hashed_pages,
            distinct_pages=len(hashes),
            by_page_size=by_page_size,
            host_memory=host_memory,
        )
        return cls(about, hashes, np.diff(starts, append=hashed_pages).astype(np.int32))

    def sampled(self, sample: int) -> Trace:
        """Return the trace reduced to the lowest 1/`sample` of the hashes, or unchanged if it is a smaller sample
        already.
        """
        most = sample_threshold(sample)
        if sample <= self.sample or most is None:
            return self
        kept = self.hashes.view(np.int64) < most
        return Trace(self.info, self.hashes[kept], self.pages[kept], sample)


def _valid_unicode(name: str) -> str:
    """Return a name as valid Unicode, which Parquet requires; as in text_layout.py."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
