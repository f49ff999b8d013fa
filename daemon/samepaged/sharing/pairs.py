"""How many contents each two guests have in common, counted from the contents that several guests have.

A content of two guests is one pair, a content of all of n guests is n(n-1)/2 pairs. The first kind is counted pair by
pair; for the second each guest has a bit vector, one bit a content, and a pair's count is the bits set in both: that
costs the same however many of the guests have the content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PairCounts"]

# Bytes of the table of owners and contents from which bits are packed: as much as a processor's cache holds.
TABLE_CELLS: Final = 1 << 21


def _default_min_long_run(sets: int) -> int:
    """The length from which bits cost less: owners² · 0.015 ns then, length² · 3.5 ns in pairs (measured, AVX-512)."""
    return 3 + sets // 16


class PairCounts:
    """Counts for pairs of `sets` sets, numbered from 0. Contents of `min_long_run` sets or more (None: where it pays)
    are counted by bits.
    """

    def __init__(self, sets: int, min_long_run: int | None = None) -> None:
        self._owners = sets
        self._long_run = _default_min_long_run(sets) if min_long_run is None else min_long_run
        self._counts = np.zeros((sets, sets), dtype=np.int64)

    def result(self) -> NDArray[np.int64]:
        """The contents that a and b have in common, at [a, b] for a < b; zeros elsewhere."""
        return self._counts

    def add(self, set_numbers: NDArray[np.intp], follows: NDArray[np.bool_]) -> None:
        """Count contents that lie one after the other, each as a run of its owners, ascending.

        `follows` says of each element whether it belongs to the run of the one before; every run has two or more.
        """
        if self._long_run > self._owners:
            self._add_short(set_numbers, follows)
            return
        starts = np.flatnonzero(~follows)
        lengths = np.diff(starts, append=len(set_numbers))
        long = np.repeat(lengths >= self._long_run, lengths)
        self._add_short(set_numbers[~long], follows[~long])
        self._add_long(set_numbers[long], follows[long])

    def _add_short(self, owner: NDArray[np.intp], follows: NDArray[np.bool_]) -> None:
        """Count neighbours, then those two apart, three apart, until no run is long enough."""
        goes_on = np.append(follows, False)
        row = owner * self._owners
        flat = self._counts.ravel()
        first = np.flatnonzero(goes_on[1:])
        apart = 1
        while len(first):
            np.add.at(flat, row[first] + owner[first + apart], 1)
            apart += 1
            first = first[goes_on[first + apart]]

    def _add_long(self, owner: NDArray[np.intp], follows: NDArray[np.bool_]) -> None:
        """Give each owner a bit for each content, and count the bits that two owners have in common.

        Not a product of matrices: numpy leaves that to a library with threads of its own, which get in the way of ours.
        """
        content = np.cumsum(~follows) - 1
        contents = int(content[-1]) + 1 if len(content) else 0
        width = max(64, TABLE_CELLS // self._owners // 64 * 64)
        for start in range(0, contents, width):
            begin, end = np.searchsorted(content, [start, start + width])
            columns = min(width, (contents - start + 63) // 64 * 64)
            has = np.zeros((self._owners, columns), dtype=np.bool_)
            has[owner[begin:end], content[begin:end] - start] = True
            bits = np.packbits(has, axis=1).view(np.uint64)
            for a in range(self._owners - 1):
                common = np.bitwise_count(bits[a] & bits[a + 1 :])
                self._counts[a, a + 1 :] += common.sum(axis=1, dtype=np.uint32)
