"""Selection of the traces to compare: all combinations if there are few, otherwise a sample."""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["all_groups", "are_exact_pairs", "group_sizes", "number_of_groups", "sample_groups", "sample_tuples"]

# Every group size up to this one is used; beyond it, each size is larger by half.
_CONSECUTIVE_SIZES = 8


def are_exact_pairs(traces: Sequence[int], max_pairs: int) -> NDArray[np.bool_]:
    """Return the pairs of guests with at most `max_pairs` combinations of traces; `traces` are the guests' trace
    counts.

    Bool of shape (guests, guests), above the diagonal.
    """
    counts = np.asarray(traces, dtype=np.int64)
    return np.triu(np.multiply.outer(counts, counts) <= max_pairs, 1)


def sample_tuples(traces: Sequence[int], number: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Draw `number` tuples with one trace of each guest, int of shape (number, guests).

    Any two guests' traces are a uniformly random pair in each tuple (4.2.2 of the paper draws pairs one by one). All of
    a guest's traces are used before one is used again.
    """
    columns = [
        np.concatenate([random.permutation(count) for _ in range(-(-number // count))])[:number] for count in traces
    ]
    return np.stack(columns, axis=1).astype(np.intp)


def number_of_groups(traces: Sequence[int], size: int) -> int:
    """Return the number of groups of `size` guests, each with one of its traces."""
    ways = [1] + [0] * size
    for count in traces:
        for taken in range(size, 0, -1):
            ways[taken] += ways[taken - 1] * count
    return ways[size]


def sample_groups(traces: Sequence[int], size: int, number: int, random: np.random.Generator) -> list[list[int]]:
    """Draw the guests of `number` groups of `size`, ascending, with probabilities proportional to their numbers of
    groups in `all_groups`.

    With a random trace of each guest the group is uniformly random among all groups, so samples and complete
    enumerations have the same expected value.
    """
    # For the guests from each index on: the numbers of groups of 0, 1, 2, ... of them.
    ways = [[1] + [0] * size]
    for count in reversed(traces):
        after = ways[-1]
        ways.append([1] + [after[taken] + count * after[taken - 1] for taken in range(1, size + 1)])
    ways.reverse()
    found = []
    for _ in range(number):
        group: list[int] = []
        for guest, (count, chance) in enumerate(zip(traces, random.random(len(traces)).tolist(), strict=True)):
            left = size - len(group)
            if left and chance < count * ways[guest + 1][left - 1] / ways[guest][left]:
                group.append(guest)
        found.append(group)
    return found


def all_groups(traces: Sequence[int], size: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield each group as pairs of guest and trace."""
    for guests in combinations(range(len(traces)), size):
        for chosen in product(*(range(traces[guest]) for guest in guests)):
            yield tuple(zip(guests, chosen, strict=True))


def group_sizes(guests: int) -> list[int]:
    """Return the group sizes to use, from 2 to all `guests`."""
    sizes, size = [], 2
    while size < guests and (size <= _CONSECUTIVE_SIZES or size * 5 < guests * 4):
        sizes.append(size)
        size = size + 1 if size < _CONSECUTIVE_SIZES else size * 3 // 2
    return [*sizes, guests] if guests > 1 else []
