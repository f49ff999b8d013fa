"""Self-sharing of each guest over its traces, from the files' metadata; rows are not read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from samepaged.analysis.study.min_avg_max import MinAvgMax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samepaged.analysis.study.guests import Guest
    from samepaged.traces.trace import TraceInfo

__all__ = ["PageSizeSharing", "SelfSharing", "by_page_size", "self_sharing"]


@dataclass(frozen=True, slots=True)
class SelfSharing:
    """Self-sharing of one guest over its traces (Fig. 5): counts in pages, `ratio` of the guest's memory. `first` and
    `last` are its first and last scan time, in seconds of the epoch.
    """

    domain: str
    host: str
    traces: int
    first: float
    last: float
    memory: MinAvgMax
    pages: MinAvgMax
    ratio: MinAvgMax
    zeros: MinAvgMax
    distinct: MinAvgMax


@dataclass(frozen=True, slots=True)
class PageSizeSharing:
    """A guest's self-sharing for pages of `page_size` bytes (Fig. 10): averages over the `traces` that record it, in
    pages of that size, and as a ratio of the guest's memory.
    """

    domain: str
    page_size: int
    traces: int
    self_pages: float
    self_ratio: float


def self_sharing(guest: Guest) -> SelfSharing:
    """Compute the range of S_self(V) over the guest's traces."""
    abouts = [ref.info for ref in guest.traces]
    return SelfSharing(
        domain=guest.name,
        host=guest.host,
        traces=len(abouts),
        first=abouts[0].scanned_at,
        last=abouts[-1].scanned_at,
        memory=MinAvgMax.of(about.memory_pages for about in abouts),
        pages=MinAvgMax.of(about.duplicate_pages for about in abouts),
        ratio=MinAvgMax.of(about.duplicate_pages / max(1, about.memory_pages) for about in abouts),
        zeros=MinAvgMax.of(about.zero_pages for about in abouts),
        distinct=MinAvgMax.of(about.distinct_pages for about in abouts),
    )


def by_page_size(guests: Sequence[Guest]) -> tuple[PageSizeSharing, ...]:
    """Compute self-sharing by guest and page size; empty if no trace records another page size."""
    found = []
    for guest in guests:
        sizes: dict[int, list[tuple[int, int]]] = {}
        for ref in guest.traces:
            for size, counts in _counts(ref.info).items():
                sizes.setdefault(size, []).append(counts)
        found += [
            PageSizeSharing(
                guest.name,
                size,
                len(counts),
                sum(own for own, _ in counts) / len(counts),
                sum(own / max(1, memory) for own, memory in counts) / len(counts),
            )
            for size, counts in sorted(sizes.items())
        ]
    return tuple(found) if len({one.page_size for one in found}) > 1 else ()


def _counts(about: TraceInfo) -> dict[int, tuple[int, int]]:
    """Return duplicate and total pages by page size."""
    found = {one.page_size: (one.duplicate_pages, one.memory_pages) for one in about.by_page_size}
    return found | {about.page_size: (about.duplicate_pages, about.memory_pages)}
