"""Stacked bars: the parts of a whole side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samepaged.sharing import GuestSharing

__all__ = ["Bar", "Part", "Segment", "memory_bar", "stacked_bar"]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar: the class of its colour in the style sheet, its name, and its length in bytes."""

    kind: str
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A drawn part: `start` and `width` are in percent of the bar's length."""

    kind: str
    name: str
    size: int
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar. `size` is the sum of its segments in bytes."""

    size: int
    segments: tuple[Segment, ...]


def stacked_bar(parts: Sequence[Part]) -> Bar:
    """Return a bar of `parts` side by side, without empty parts."""
    drawn = [part for part in parts if part.size > 0]
    whole = sum(part.size for part in drawn)
    segments, start = [], 0.0
    for part in drawn:
        width = 100 * part.size / whole
        segments.append(Segment(part.kind, part.name, part.size, start, width))
        start += width
    return Bar(whole, tuple(segments))


def memory_bar(guest: GuestSharing, page_size: int) -> Bar:
    """The memory of `guest` by page state, sharing first. Distinct pages are two parts: those that other guests of the
    group also have, and the rest.
    """
    parts = (
        ("duplicate", "duplicate", guest.duplicate_pages),
        ("shared", "distinct, shared with others", guest.shared_with_others_pages),
        ("own", "distinct, its own", guest.distinct_pages - guest.shared_with_others_pages),
        ("zeros", "zero", guest.zero_pages),
        ("absent", "absent", guest.absent_pages),
        ("swapped", "swapped", guest.swapped_pages),
    )
    return stacked_bar([Part(kind, name, pages * page_size) for kind, name, pages in parts])
