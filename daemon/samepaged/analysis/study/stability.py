"""Stability: the part of a guest's contents, and of its self-sharing, that a later trace still has.

KSM and similar mechanisms merge contents that stay the same from one pass to the next. Satori (section 7 of the paper)
found that much sharing disappears within seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from samepaged.analysis.study.min_avg_max import MinAvgMax

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from samepaged.analysis.study.guests import Guest, TraceRef

__all__ = ["Stability", "TraceReader", "stability"]

# Base traces per guest, spread over its time, so that long lags are covered, too.
_MAX_BASES: Final = 3
# Maximum number of guests: each one requires reading some twenty traces.
_MAX_GUESTS: Final = 32


class TraceReader(Protocol):
    """Reader of traces (`HashReader`)."""

    def traces(self, refs: Sequence[TraceRef]) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int32]]]:
        """Yield the contents of each trace (uint64, ascending, unique) and the number of pages with each."""


@dataclass(frozen=True, slots=True)
class Stability:
    """Stability of a guest between traces `lag` traces apart, `seconds` on average, over `pairs` compared pairs.

    `content_ratio` is the part of the earlier trace's distinct contents that the later one still has. `sharing_ratio`
    is the part of its self-sharing: for each content, the further copies in both. They are None if the earlier trace
    has no contents or no self-sharing.
    """

    domain: str
    lag: int
    seconds: float
    pairs: int
    content_ratio: MinAvgMax | None
    sharing_ratio: MinAvgMax | None


def stability(guests: Sequence[Guest], reader: TraceReader, random: np.random.Generator) -> tuple[Stability, ...]:
    """Compute stability for each guest with several traces (at most 32 random guests), with lags of 1, 2, 4, 8, ..."""
    some = [guest for guest in guests if len(guest.traces) > 1]
    if len(some) > _MAX_GUESTS:
        some = [some[at] for at in np.sort(random.permutation(len(some))[:_MAX_GUESTS])]
    return tuple(lasting for guest in some for lasting in _of_guest(guest, reader))


def _of_guest(guest: Guest, reader: TraceReader) -> Iterator[Stability]:
    last = len(guest.traces) - 1
    seconds: dict[int, list[float]] = {}
    contents: dict[int, list[float]] = {}
    sharing: dict[int, list[float]] = {}
    for base in sorted({last * number // (2 * (_MAX_BASES - 1)) for number in range(_MAX_BASES)} - {last}):
        lags = [1 << power for power in range((last - base).bit_length())]
        following = [guest.traces[base + lag] for lag in lags]
        about = guest.traces[base].info
        reading = reader.traces([guest.traces[base], *following])
        before = next(reading)
        for lag, ref, after in zip(lags, following, reading, strict=True):
            kept, copies = _kept_counts(before, after)
            seconds.setdefault(lag, []).append(ref.info.scanned_at - about.scanned_at)
            distinct = len(before[0])
            own = int(before[1].sum(dtype=np.int64)) - distinct
            if distinct:
                contents.setdefault(lag, []).append(kept / distinct)
            if own:
                sharing.setdefault(lag, []).append(copies / own)
    for lag, spans in sorted(seconds.items()):
        yield Stability(
            domain=guest.name,
            lag=lag,
            seconds=sum(spans) / len(spans),
            pairs=len(spans),
            content_ratio=MinAvgMax.of(contents[lag]) if lag in contents else None,
            sharing_ratio=MinAvgMax.of(sharing[lag]) if lag in sharing else None,
        )


def _kept_counts(
    before: tuple[NDArray[np.uint64], NDArray[np.int32]], after: tuple[NDArray[np.uint64], NDArray[np.int32]]
) -> tuple[int, int]:
    """Return the number of contents in both traces, and the number of their further copies in both."""
    at = np.searchsorted(after[0], before[0])
    at[at == len(after[0])] = 0
    same = after[0][at] == before[0] if len(after[0]) else np.zeros(len(before[0]), dtype=np.bool_)
    copies = np.minimum(before[1][same], after[1][at[same]])
    return int(np.count_nonzero(same)), int((copies - 1).sum(dtype=np.int64))
