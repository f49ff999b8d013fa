"""Which contents are in several guests: sorted sets merged part by part, in little memory and on several threads.

The space of hashes is cut into 2^bits parts by the leading bits. Within a part these bits are all the same, so they
can make room at the other end for the number of the set that the hash came from, and a mark: a key says content,
owner and mark in one integer of 8 bytes. In a part's sorted keys the owners of a content are a run of neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.sharing.pairs import PairCounts
from samepaged.sharing.parallel import map_in_threads, thread_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Overlap", "overlap"]

# Keys of a part: with what is derived from them they fill a few megabytes a thread, and mostly stay in its cache.
PART_HASHES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Overlap:
    """What n sets in m groups have in common.

    across: the sum of the sets' sizes less that of their union.
    within: int64 (m,), the same over the sets of each group.
    in_group: int64 (n,), the elements of each set that another set of its group has too.
    anywhere: int64 (n,), those that any other set has too; marked_anywhere: how many of these are marked.
    pairs: int64 (n, n), |U(a) ∩ U(b)| at [a, b] for a < b, zeros elsewhere; all zeros where not asked for.
    """

    across: int
    within: NDArray[np.int64]
    in_group: NDArray[np.int64]
    anywhere: NDArray[np.int64]
    marked_anywhere: NDArray[np.int64]
    pairs: NDArray[np.int64]


def overlap(
    sets: Sequence[NDArray[np.uint64]],
    groups: Sequence[int],
    *,
    marks: Sequence[NDArray[np.bool_]] | None = None,
    pairs: bool = True,
    threads: int | None = None,
    part_size: int = PART_HASHES,
    long_run: int | None = None,
) -> Overlap:
    """Compare sets, each a sorted uint64 array of hashes without repetition.

    `groups` has each set's group, numbered from 0 and never descending, and `marks` for each of a set's elements
    whether it is marked (none, where not given). `part_size` (hashes merged at a time) and `long_run` (see
    `PairCounts`) change the time it takes and not the result.
    """
    count = len(sets)
    group_of = np.array(groups, dtype=np.intp)
    total = sum(len(hashes) for hashes in sets)
    # Beside its owner's number, a key has room for the mark.
    bits = max((count - 1).bit_length() + 1, (total // part_size).bit_length())
    parts = 1 << bits
    # One tally a thread and a part of its own at a time, so that nothing is shared or waits.
    workers = min(thread_count(threads), parts)
    tallies = [_Tally(group_of, PairCounts(count, long_run) if pairs else None) for _ in range(workers)]
    if count > 1:
        cuts = _part_starts(sets, bits)

        def work(worker: int) -> None:
            keys = np.empty(0, dtype=np.uint64)
            for part in range(worker, parts, workers):
                size = int((cuts[:, part + 1] - cuts[:, part]).sum())
                if size > len(keys):
                    keys = np.empty(size, dtype=np.uint64)
                tallies[worker].add(_merge_part(sets, marks, cuts[:, part], cuts[:, part + 1], bits, keys[:size]), bits)

        map_in_threads(work, range(workers), workers)
    return Overlap(
        across=sum(tally.across for tally in tallies),
        within=np.sum([tally.within for tally in tallies], axis=0, dtype=np.int64),
        in_group=np.sum([tally.in_group for tally in tallies], axis=0, dtype=np.int64),
        anywhere=np.sum([tally.anywhere for tally in tallies], axis=0, dtype=np.int64),
        marked_anywhere=np.sum([tally.marked_anywhere for tally in tallies], axis=0, dtype=np.int64),
        pairs=sum((tally.pairs.result() for tally in tallies if tally.pairs), np.zeros((count, count), dtype=np.int64)),
    )


def _part_starts(sets: Sequence[NDArray[np.uint64]], bits: int) -> NDArray[np.intp]:
    """Where each part begins in each set: shape (sets, 2^bits + 1), the last column being the sets' lengths."""
    edges = np.arange(1, 1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    cuts = np.zeros((len(sets), (1 << bits) + 1), dtype=np.intp)
    for hashes, row in zip(sets, cuts, strict=True):
        row[1:-1] = np.searchsorted(hashes, edges)
        row[-1] = len(hashes)
    return cuts


def _merge_part(
    sets: Sequence[NDArray[np.uint64]],
    marks: Sequence[NDArray[np.bool_]] | None,
    starts: NDArray[np.intp],
    ends: NDArray[np.intp],
    bits: int,
    keys: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    """Fill `keys` with the sorted keys of one part, which lies in `sets` from `starts` to `ends`."""
    filled = 0
    for owner in np.flatnonzero(ends > starts).tolist():
        piece = sets[owner][starts[owner] : ends[owner]]
        target = keys[filled : filled + len(piece)]
        np.left_shift(piece, np.uint64(bits), out=target)
        np.bitwise_or(target, np.uint64(owner << 1), out=target)
        if marks is not None:
            np.bitwise_or(target, marks[owner][starts[owner] : ends[owner]], out=target)
        filled += len(piece)
    # "stable" is timsort for 64-bit integers: it finds the pieces already sorted, and only merges them.
    keys.sort(kind="stable")
    return keys


class _Tally:
    """What one thread has counted."""

    def __init__(self, group_of: NDArray[np.intp], pairs: PairCounts | None) -> None:
        self.group_of = group_of
        self.groups = int(group_of[-1]) + 1 if len(group_of) else 0
        self.across = 0
        self.within = np.zeros(self.groups, dtype=np.int64)
        self.in_group = np.zeros(len(group_of), dtype=np.int64)
        self.anywhere = np.zeros(len(group_of), dtype=np.int64)
        self.marked_anywhere = np.zeros(len(group_of), dtype=np.int64)
        self.pairs = pairs

    def add(self, keys: NDArray[np.uint64], bits: int) -> None:
        """Count the sorted keys of one part."""
        if len(keys) == 0:
            return
        # Whether a key has the content of the one before it.
        follows = np.zeros(len(keys), dtype=np.bool_)
        np.less(keys[1:] ^ keys[:-1], np.uint64(1 << bits), out=follows[1:])
        shared = follows.copy()
        shared[:-1] |= follows[1:]
        at = np.flatnonzero(shared)
        if len(at) == 0:
            return
        marked_owner = keys[at] & np.uint64((1 << bits) - 1)
        owner = (marked_owner >> np.uint64(1)).astype(np.intp)
        self.anywhere += np.bincount(owner, minlength=len(self.anywhere))
        marked = owner[(marked_owner & np.uint64(1)).astype(np.bool_)]
        self.marked_anywhere += np.bincount(marked, minlength=len(self.anywhere))
        follows = follows[at]
        self.across += int(np.count_nonzero(follows))
        self._add_groups(owner, follows)
        if self.pairs:
            self.pairs.add(owner, follows)

    def _add_groups(self, owner: NDArray[np.intp], follows: NDArray[np.bool_]) -> None:
        """Count within groups: a group's sets have neighbouring numbers, so they are neighbours in a run too."""
        group = self.group_of[owner]
        kin = follows.copy()
        kin[1:] &= group[1:] == group[:-1]
        self.within += np.bincount(group[kin], minlength=self.groups)
        kin[:-1] |= kin[1:]
        self.in_group += np.bincount(owner[kin], minlength=len(self.in_group))
