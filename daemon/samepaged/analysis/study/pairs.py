"""Inter-VM sharing of every pair of guests, over pairs of their traces (section 4.2.2 of the paper).

If a pair of guests has few pairs of traces, all are used. Otherwise tuples of one trace of each guest are drawn. The
contents common to any two traces of a tuple are found in one pass, and any two guests' traces in it are a random pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from samepaged.analysis.study.min_avg_max import MinAvgMax
from samepaged.analysis.study.sampling import are_exact_pairs, sample_tuples
from samepaged.sharing.overlap import overlap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from samepaged.analysis.study.guests import Guest, TraceRef

__all__ = ["PairSharing", "TraceHashes", "common_counts", "compare_pairs"]

# Rows, and traces, compared pairwise in one pass.
_BLOCK_ROWS: Final = 1 << 25
_BLOCK_TRACES: Final = 128
_NO_MINIMUM: Final = np.iinfo(np.int64).max


class TraceHashes(Protocol):
    """Reader of the contents of traces (`HashReader`)."""

    def hashes(self, ref: TraceRef) -> NDArray[np.uint64]:
        """Return the contents of one trace: uint64, ascending, unique."""

    def hash_lists(self, lists: Iterable[Sequence[TraceRef]]) -> Iterator[list[NDArray[np.uint64]]]:
        """Yield the contents of lists of traces, one list after the other."""


@dataclass(frozen=True, slots=True)
class PairSharing:
    """Sharing of two guests, over `trace_pairs` pairs of their traces (`exact`: all pairs); counts in pages.

    `inter_ratio` is of the memory of both. `self_pages` is the average sum of their self-sharing, and `self_over_total`
    the average of its part in total sharing, None if there is none (Fig. 9). The last two averages count zero pages,
    too (Fig. 2).
    """

    domains: tuple[str, str]
    trace_pairs: int
    exact: bool
    inter_pages: MinAvgMax
    inter_ratio: MinAvgMax
    memory_pages: float
    self_pages: float
    self_over_total: float | None
    self_with_zeros: float
    inter_with_zeros: float

    @property
    def total_pages(self) -> float:
        """Average total sharing."""
        return self.self_pages + self.inter_pages.avg


def compare_pairs(
    guests: Sequence[Guest], reader: TraceHashes, *, max_pairs: int, random: np.random.Generator
) -> tuple[PairSharing, ...]:
    """Compare every pair of `guests`, including pairs without sharing, in the order of `guests`.

    Uses all pairs of their traces if there are at most `max_pairs`, otherwise `max_pairs` random ones.
    """
    counts = [len(guest.traces) for guest in guests]
    exact = are_exact_pairs(counts, max_pairs)
    tally = _Tally(guests)
    _blocks(guests, reader, exact, tally)
    drawn = np.triu(~exact, 1)
    among = np.flatnonzero(drawn.any(axis=0) | drawn.any(axis=1))
    if len(among):
        some = [guests[guest] for guest in among.tolist()]
        chosen = sample_tuples([len(guest.traces) for guest in some], max_pairs, random)
        lists = ([guest.traces[at] for guest, at in zip(some, row.tolist(), strict=True)] for row in chosen)
        for row, found in zip(chosen, reader.hash_lists(lists), strict=True):
            tally.add(among, row, common_counts(found), drawn)
    return tuple(tally.pair(a, b, bool(exact[a, b])) for a in range(len(guests)) for b in range(a + 1, len(guests)))


def common_counts(sets: Sequence[NDArray[np.uint64]]) -> NDArray[np.int64]:
    """Return |U(a) ∩ U(b)| at [a, b] for a < b, zeros elsewhere."""
    return overlap(sets, [0] * len(sets)).pairs


def _blocks(guests: Sequence[Guest], reader: TraceHashes, wanted: NDArray[np.bool_], tally: _Tally) -> None:
    """Compare all traces of the guests that are paired in `wanted`, in blocks."""
    among = np.flatnonzero(wanted.any(axis=0) | wanted.any(axis=1))
    # Guests with few traces are adjacent, because they are compared with most others.
    ordered = sorted(among.tolist(), key=lambda guest: len(guests[guest].traces))
    blocks = _trace_blocks([(guest, at) for guest in ordered for at in range(len(guests[guest].traces))], guests)

    def needed(first: Sequence[tuple[int, int]], second: Sequence[tuple[int, int]]) -> bool:
        a, b = (np.unique([guest for guest, _ in block]) for block in (first, second))
        return bool(wanted[np.ix_(a, b)].any() or wanted[np.ix_(b, a)].any())

    for number, first in enumerate(blocks):
        others = [second for second in blocks[number + 1 :] if needed(first, second)]
        if not others and not needed(first, first):
            continue
        (mine,) = reader.hash_lists([[guests[guest].traces[at] for guest, at in first]])
        owners, traces = np.array(first).T
        if needed(first, first):
            tally.add(owners, traces, common_counts(mine), wanted)
        lists = ([guests[guest].traces[at] for guest, at in second] for second in others)
        for second, found in zip(others, reader.hash_lists(lists), strict=True):
            counts = common_counts([*mine, *found])
            across = np.zeros_like(counts, dtype=np.bool_)
            across[: len(first), len(first) :] = True
            owners, traces = np.array([*first, *second]).T
            tally.add(owners, traces, counts, wanted, across)


def _trace_blocks(traces: Sequence[tuple[int, int]], guests: Sequence[Guest]) -> list[list[tuple[int, int]]]:
    """Yield traces (guest, index) in blocks, sized so that two fit in memory."""
    blocks: list[list[tuple[int, int]]] = []
    rows = 0
    for guest, at in traces:
        more = guests[guest].traces[at].rows
        if not blocks or rows + more > _BLOCK_ROWS or len(blocks[-1]) == _BLOCK_TRACES:
            blocks.append([])
            rows = 0
        blocks[-1].append((guest, at))
        rows += more
    return blocks


class _Tally:
    """Sums for each pair: arrays of shape (guests, guests), above the diagonal."""

    def __init__(self, guests: Sequence[Guest]) -> None:
        self._names = [guest.name for guest in guests]
        abouts = [ref.info for guest in guests for ref in guest.traces]
        self._first = np.cumsum([0, *(len(guest.traces) for guest in guests)])
        self._own = np.array([about.duplicate_pages for about in abouts], dtype=np.int64)
        # Memory that the host never backed reads as zeros: a memory image has zero pages there.
        self._zeros = np.array([about.zero_pages + about.absent_pages for about in abouts], dtype=np.int64)
        self._memory = np.array([about.memory_pages for about in abouts], dtype=np.int64)
        # In a sample, 1/sample of the common contents is found.
        self._scale = guests[0].traces[0].file.sample if guests else 1
        shape = (len(guests), len(guests))
        self._count, self._sum, self._most, self._memory_sum, self._self, self._zero_self, self._zero_inter = (
            np.zeros(shape, dtype=np.int64) for _ in range(7)
        )
        self._least = np.full(shape, _NO_MINIMUM)
        self._ratio_least, self._ratio_most, self._ratio_sum = np.full(shape, np.inf), np.zeros(shape), np.zeros(shape)
        self._part_sum, self._parts = np.zeros(shape), np.zeros(shape, dtype=np.int64)

    def add(
        self,
        owners: NDArray[np.intp],
        traces: NDArray[np.intp],
        counts: NDArray[np.int64],
        wanted: NDArray[np.bool_],
        chosen: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add the common contents of the `traces` of the guests `owners` for the pairs of guests in `wanted`."""
        low, high = np.minimum.outer(owners, owners), np.maximum.outer(owners, owners)
        mask = wanted[low, high] & np.triu(np.ones_like(counts, dtype=np.bool_), 1)
        if chosen is not None:
            mask &= chosen
        i, j = np.nonzero(mask)
        at = low[i, j], high[i, j]
        trace = self._first[owners] + traces
        first, second = trace[i], trace[j]
        inter = counts[i, j] * self._scale
        memory = self._memory[first] + self._memory[second]
        own = self._own[first] + self._own[second]
        zeros = np.stack([self._zeros[first], self._zeros[second]])
        np.add.at(self._count, at, 1)
        np.add.at(self._sum, at, inter)
        np.minimum.at(self._least, at, inter)
        np.maximum.at(self._most, at, inter)
        ratio = inter / np.maximum(memory, 1)
        np.add.at(self._ratio_sum, at, ratio)
        np.minimum.at(self._ratio_least, at, ratio)
        np.maximum.at(self._ratio_most, at, ratio)
        np.add.at(self._memory_sum, at, memory)
        np.add.at(self._self, at, own)
        # All but one of a guest's zero pages are self-sharing. The remaining one of each guest is inter-VM sharing for
        # all guests but one.
        np.add.at(self._zero_self, at, own + np.maximum(zeros - 1, 0).sum(axis=0))
        np.add.at(self._zero_inter, at, inter + zeros.all(axis=0))
        total = own + inter
        some = total > 0
        at = at[0][some], at[1][some]
        np.add.at(self._part_sum, at, own[some] / total[some])
        np.add.at(self._parts, at, 1)

    def pair(self, a: int, b: int, exact: bool) -> PairSharing:  # noqa: FBT001 - one of three positional ones
        """Return the sharing of two guests."""
        count = int(self._count[a, b])
        parts = int(self._parts[a, b])
        first, second = sorted((self._names[a], self._names[b]))
        return PairSharing(
            domains=(first, second),
            trace_pairs=count,
            exact=exact,
            inter_pages=MinAvgMax(int(self._least[a, b]), int(self._sum[a, b]) / count, int(self._most[a, b])),
            inter_ratio=MinAvgMax(
                float(self._ratio_least[a, b]), float(self._ratio_sum[a, b]) / count, float(self._ratio_most[a, b])
            ),
            memory_pages=int(self._memory_sum[a, b]) / count,
            self_pages=int(self._self[a, b]) / count,
            self_over_total=float(self._part_sum[a, b]) / parts if parts else None,
            self_with_zeros=int(self._zero_self[a, b]) / count,
            inter_with_zeros=int(self._zero_inter[a, b]) / count,
        )
