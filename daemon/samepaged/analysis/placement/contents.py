"""Contents that several guests have, by their guests. Contents of a single guest do not affect a placement.

Contents with the same guests form one class with a weight: a fleet of a few images has millions of shared contents and
some thousand classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.sharing.parallel import map_in_threads, thread_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Incidence", "gather_slices", "incidence_of", "shared_contents"]

# Hashes merged at a time, and entries kept before the classes of several parts are merged; both limit memory.
PART_HASHES: Final = 1 << 19
MAX_ENTRIES: Final = 1 << 22
HASH_SPACE: Final = 1 << 64
# Any numbers work if they are the same in every run: the order of classes affects the search result.
NAMES_SEED: Final = 0x5A3E


@dataclass(frozen=True, slots=True)
class Incidence:
    """Classes of contents and the guests that have them, numbered from 0.

    weights: int64 (classes,), the number of contents. starts: int64 (classes + 1,), the start of each class in guests,
    int32 (entries,), ascending within a class. Each class has at least two guests.
    """

    weights: NDArray[np.int64]
    starts: NDArray[np.int64]
    guests: NDArray[np.int32]

    @property
    def guest_counts(self) -> NDArray[np.int64]:
        """Number of guests of each class: int64 (classes,)."""
        return np.diff(self.starts)

    def class_of_entries(self) -> NDArray[np.int64]:
        """Return the class of each entry in `guests`."""
        return np.repeat(np.arange(len(self.weights)), self.guest_counts)

    def select(self, classes: NDArray[np.int64] | slice) -> Incidence:
        """Return only these classes, in this order."""
        starts, lengths = self.starts[:-1][classes], self.guest_counts[classes]
        return _incidence(self.weights[classes], lengths, self.guests[gather_slices(starts, lengths)])


def gather_slices(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of several slices, one slice after the other."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)


def shared_contents(
    sets: Sequence[NDArray[np.uint64]], *, threads: int | None = None, part_size: int = PART_HASHES
) -> Incidence:
    """Return the contents that two or more of `sets` have, in classes. Each set is U(V) of a guest: uint64, ascending,
    unique.

    Sets of guests are identified by a hash of 64 bits, like contents. The order of the classes depends on neither
    `threads` nor `part_size` (hashes merged at a time).
    """
    names = np.random.default_rng(NAMES_SEED).integers(0, HASH_SPACE, len(sets), dtype=np.uint64)
    edges, bits = _part_bounds(sets, part_size)
    workers = min(thread_count(threads), max(len(edges) - 1, 1))

    def work(worker: int) -> Incidence:
        found: list[Incidence] = []
        entries, most = 0, MAX_ENTRIES
        for part in range(worker, len(edges) - 1, workers):
            found.append(_merge_classes([_part(sets, edges[part], edges[part + 1], bits)], names))
            entries += len(found[-1].guests)
            if entries > most:
                found = [_merge_classes(found, names)]
                entries = len(found[0].guests)
                most = max(MAX_ENTRIES, 2 * entries)
        return _merge_classes(found, names)

    return _merge_classes(map_in_threads(work, range(workers), workers), names)


def incidence_of(owners: Sequence[tuple[Sequence[int], int]]) -> Incidence:
    """Create an Incidence from explicit classes: the guests, ascending, and the weight of each."""
    lengths = np.array([len(one) for one, _ in owners], dtype=np.int64)
    flat = np.array([owner for one, _ in owners for owner in one], dtype=np.int32)
    return _incidence(np.array([weight for _, weight in owners], dtype=np.int64), lengths, flat)


def _incidence(weights: NDArray[np.int64], lengths: NDArray[np.int64], owners: NDArray[np.int32]) -> Incidence:
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return Incidence(weights, starts, owners)


def _part_bounds(sets: Sequence[NDArray[np.uint64]], part_size: int) -> tuple[list[int], int]:
    """Return the bounds of the parts, and the number of bits of a set's number.

    A part is narrow enough that its hashes, relative to its lower bound, leave these bits free. Hashes of a sample, or
    of 32 bits, occupy a small part of the space, so the bounds follow their distribution.
    """
    bits = max(len(sets) - 1, 1).bit_length()
    filled = [hashes for hashes in sets if len(hashes)]
    if not filled:
        return [], bits
    low, high = min(int(hashes[0]) for hashes in filled), max(int(hashes[-1]) for hashes in filled) + 1
    total = sum(len(hashes) for hashes in filled)
    narrow = HASH_SPACE >> bits
    parts = min(max(-(-total // part_size), -(-(high - low) // narrow)), high - low)
    return [low + (high - low) * part // parts for part in range(parts + 1)], bits


def _part(sets: Sequence[NDArray[np.uint64]], low: int, high: int, bits: int) -> Incidence:
    """Return the shared contents from hash `low` up to `high`, each with weight 1."""
    shift, mask = np.uint64(bits), np.uint64((1 << bits) - 1)
    pieces = []
    for owner, hashes in enumerate(sets):
        begin = int(np.searchsorted(hashes, np.uint64(low)))
        end = int(np.searchsorted(hashes, np.uint64(high))) if high < HASH_SPACE else len(hashes)
        if end > begin:
            pieces.append(((hashes[begin:end] - np.uint64(low)) << shift) | np.uint64(owner))
    keys = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.uint64)
    del pieces
    keys.sort(kind="stable")  # timsort merges the presorted pieces
    content = keys >> shift
    follows = np.zeros(len(keys) + 1, dtype=np.bool_)
    np.equal(content[1:], content[:-1], out=follows[1:-1])
    at = np.flatnonzero(follows[1:] | follows[:-1])
    starts = np.append(np.flatnonzero(~follows[at]), len(at))
    owners = (keys[at] & mask).astype(np.int32)
    return Incidence(np.ones(len(starts) - 1, dtype=np.int64), starts, owners)


def _merge_classes(found: Sequence[Incidence], names: NDArray[np.uint64]) -> Incidence:
    """Merge classes with the same guests, in the order of the hash of their guests."""
    found = [one for one in found if len(one.weights)]
    if not found:
        empty = np.empty(0, dtype=np.int64)
        return _incidence(empty, empty, np.empty(0, dtype=np.int32))
    owner_sets = np.concatenate([np.add.reduceat(names[one.guests], one.starts[:-1]) for one in found])
    order = np.argsort(owner_sets, kind="stable")
    owner_sets = owner_sets[order]
    first = np.flatnonzero(np.append(True, owner_sets[1:] != owner_sets[:-1]))
    weights = np.add.reduceat(np.concatenate([one.weights for one in found])[order], first)
    lengths = np.concatenate([one.guest_counts for one in found])
    owners = np.concatenate([one.guests for one in found]) if len(found) > 1 else found[0].guests
    kept = order[first]
    starts = np.cumsum(lengths) - lengths
    return _incidence(weights, lengths[kept], owners[gather_slices(starts[kept], lengths[kept])])
