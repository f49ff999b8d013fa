"""Contents that several guests have: a merge of sorted sets part by part, with little memory and on several threads.

The space of hashes is divided into 2^bits parts by the leading bits. Within a part these bits are equal, so a key drops
them. It has the number of the hash's set (the owner) and a mark in its low bits instead. A key is thus one integer of 8
bytes with content, owner and mark. In the sorted keys of a part, the owners of a content are a run of adjacent keys.

A content of two guests is one pair; a content of n guests is n(n-1)/2 pairs. Contents of few guests are counted pair by
pair. For contents of many guests, each guest has a bit vector with one bit per content, and the count of a pair is the
number of bits set in both. This costs the same for any number of guests with the content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.sharing.parallel import map_in_threads, thread_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["Overlap", "PairCounts", "elsewhere", "overlap"]

# Keys of a part: with derived arrays they take a few megabytes per thread, and mostly stay in its cache.
PART_HASHES: Final = 1 << 18

# Bytes of the table of owners and contents from which bits are packed: it fits in a processor's cache.
TABLE_CELLS: Final = 1 << 21


@dataclass(frozen=True, slots=True)
class Overlap:
    """The elements that n sets in m groups have in common.

    across: the sum of the sizes of the sets minus the size of their union.
    within: int64 (m,), the same for the sets of each group.
    in_group: int64 (n,), the number of elements of each set that are also in another set of its group.
    anywhere: int64 (n,), the number that are also in any other set; marked_anywhere: the marked ones among these.
    pairs: int64 (n, n), |U(a) ∩ U(b)| at [a, b] for a < b, else zeros; all zeros if not requested.
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
    """Compare sets, each a sorted uint64 array of distinct hashes.

    `groups` has the group of each set, numbered from 0 in ascending order. `marks` has for each element of a set
    whether it is marked (default: not marked). `part_size` (hashes merged at a time) and `long_run` (see `PairCounts`)
    affect the time, but not the result.
    """
    count = len(sets)
    group_of = np.array(groups, dtype=np.intp)
    total = sum(len(hashes) for hashes in sets)
    # A key has bits for the number of its owner and for the mark.
    bits = max((count - 1).bit_length() + 1, (total // part_size).bit_length())
    parts = 1 << bits
    # Each thread has a tally and processes one part at a time, so that threads share no data and do not wait.
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
    """Start of each part in each set: shape (sets, 2^bits + 1); the last column has the lengths of the sets."""
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
    """Fill `keys` with the sorted keys of one part, which is in `sets` from `starts` to `ends`."""
    filled = 0
    for owner in np.flatnonzero(ends > starts).tolist():
        piece = sets[owner][starts[owner] : ends[owner]]
        target = keys[filled : filled + len(piece)]
        np.left_shift(piece, np.uint64(bits), out=target)
        np.bitwise_or(target, np.uint64(owner << 1), out=target)
        if marks is not None:
            np.bitwise_or(target, marks[owner][starts[owner] : ends[owner]], out=target)
        filled += len(piece)
    # "stable" is timsort for 64-bit integers: it detects that the pieces are sorted, and only merges them.
    keys.sort(kind="stable")
    return keys


class _Tally:
    """Counts of one thread."""

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
        # Whether a key has the same content as the previous key.
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
        """Count within groups: the sets of a group have adjacent numbers, so they are adjacent in a run too."""
        group = self.group_of[owner]
        kin = follows.copy()
        kin[1:] &= group[1:] == group[:-1]
        self.within += np.bincount(group[kin], minlength=self.groups)
        kin[:-1] |= kin[1:]
        self.in_group += np.bincount(owner[kin], minlength=len(self.in_group))


def _default_long_run(owners: int) -> int:
    """The run length from which bit vectors cost less: they take owners² · 0.015 ns, pair by pair takes length² ·
    3.5 ns (measured, AVX-512).
    """
    return 3 + owners // 16


class PairCounts:
    """Counts for pairs of `owners` owners, numbered from 0. Contents of `long_run` owners or more (None: from the
    length at which this is faster) are counted with bit vectors.
    """

    def __init__(self, owners: int, long_run: int | None = None) -> None:
        self._owners = owners
        self._long_run = _default_long_run(owners) if long_run is None else long_run
        self._counts = np.zeros((owners, owners), dtype=np.int64)

    def result(self) -> NDArray[np.int64]:
        """The number of contents that a and b have in common, at [a, b] for a < b; else zeros."""
        return self._counts

    def add(self, owner: NDArray[np.intp], follows: NDArray[np.bool_]) -> None:
        """Count consecutive contents, each as a run of its owners, ascending.

        `follows` is true for each element in the same run as the previous one; every run has two or more elements.
        """
        if self._long_run > self._owners:
            self._add_short(owner, follows)
            return
        starts = np.flatnonzero(~follows)
        lengths = np.diff(starts, append=len(owner))
        long = np.repeat(lengths >= self._long_run, lengths)
        self._add_short(owner[~long], follows[~long])
        self._add_long(owner[long], follows[long])

    def _add_short(self, owner: NDArray[np.intp], follows: NDArray[np.bool_]) -> None:
        """Count owners at distance 1 in a run, then at distance 2, and so on, until no run is long enough."""
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
        """Set a bit per owner and content, and count the bits that two owners have in common.

        Not a matrix product: numpy computes it in a library with its own threads, which compete with these threads.
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


def elsewhere(distinct: NDArray[np.uint64], others: Iterable[NDArray[np.uint64]]) -> NDArray[np.bool_]:
    """Mark the elements of `distinct` (sorted, distinct) that are in any of `others` (each likewise): bool of its
    shape. With the other guests of the group as `others`, `GuestSharing.shared_with_others_pages` elements are marked.
    """
    found = np.zeros(len(distinct), dtype=np.bool_)
    for other in others:
        # Elements that were already found are not searched again.
        at = np.flatnonzero(~found)
        if len(other) and len(at):
            places = np.searchsorted(other, distinct[at])
            places[places == len(other)] = 0
            found[at] = other[places] == distinct[at]
    return found
