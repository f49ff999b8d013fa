"""Groups of more than two guests, each with one of its traces (section 4.2.2 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.analysis.study.min_avg_max import MinAvgMax
from samepaged.analysis.study.sampling import all_groups, group_sizes, number_of_groups, sample_groups, sample_tuples
from samepaged.sharing.overlap import overlap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from samepaged.analysis.study.guests import Guest, TraceRef
    from samepaged.analysis.study.pairs import TraceHashes

__all__ = ["GroupSharing", "groups_of_each_size", "inter_sharing"]

# Maximum number of groups of a size: all groups, or a random selection, or fewer if their traces have too many rows.
_MAX_GROUPS: Final = 40
_MIN_GROUPS: Final = 4
_MAX_ROWS: Final = 1_500_000_000


@dataclass(frozen=True, slots=True)
class GroupSharing:
    """Sharing of groups of `guests` guests, one trace of each; `groups` of the `possible` groups were used (`exact`:
    all).

    `inter_pages` is S_inter(G), `self_pages` the average of Σ S_self(V). The ratios are of the group's memory, and
    `inter_over_total` is of its total sharing (None if no group has any).
    """

    guests: int
    groups: int
    possible: int
    inter_pages: MinAvgMax
    inter_ratio: MinAvgMax
    total_ratio: MinAvgMax
    self_pages: float
    memory_pages: float
    inter_over_total: float | None

    @property
    def exact(self) -> bool:
        """Whether all groups of this size were used."""
        return self.groups == self.possible


def groups_of_each_size(
    guests: Sequence[Guest], reader: TraceHashes, random: np.random.Generator
) -> tuple[GroupSharing, ...]:
    """Compute the sharing of groups of 2, 3, 4, ... guests up to all; beyond 8, each size is larger by half."""
    if len(guests) < 2:  # noqa: PLR2004 - there is no group
        return ()
    traces = [len(guest.traces) for guest in guests]
    scale = guests[0].traces[0].file.sample
    sizes = group_sizes(len(guests))
    possible = {size: number_of_groups(traces, size) for size in sizes}
    found: dict[int, list[_Group]] = {size: [] for size in sizes}
    number = _groups_per_size(guests, sizes)
    for size in sizes:
        if possible[size] <= number:
            groups = [[guests[guest].traces[at] for guest, at in group] for group in all_groups(traces, size)]
            found[size] += [_Group.of(refs, sets, scale) for refs, sets in _read(groups, reader)]
    sampled = [size for size in sizes if possible[size] > number]
    if sampled:
        rows = sample_tuples(traces, number, random)
        groups = [[guest.traces[at] for guest, at in zip(guests, row, strict=True)] for row in rows]
        drawn = {size: sample_groups(traces, size, number, random) for size in sampled}
        for at_group, (refs, sets) in enumerate(_read(groups, reader)):
            for size in sampled:
                some = drawn[size][at_group]
                found[size].append(_Group.of([refs[at] for at in some], [sets[at] for at in some], scale))
    return tuple(_summarize(size, found[size], possible[size]) for size in sizes)


def inter_sharing(sets: Sequence[NDArray[np.uint64]]) -> int:
    """Return S_inter(G) of the sets U(V): the sum of their sizes minus the size of their union."""
    return overlap(sets, [0] * len(sets), pairs=False).across


@dataclass(frozen=True, slots=True)
class _Group:
    memory: int
    self_sharing: int
    inter: int

    @classmethod
    def of(cls, refs: Sequence[TraceRef], sets: Sequence[NDArray[np.uint64]], scale: int) -> _Group:
        memory = sum(ref.info.memory_pages for ref in refs)
        return cls(memory, sum(ref.info.duplicate_pages for ref in refs), inter_sharing(sets) * scale)


def _groups_per_size(guests: Sequence[Guest], sizes: Sequence[int]) -> int:
    """Return the number of groups to use for each size."""
    a_guest = sum(ref.rows for guest in guests for ref in guest.traces) / sum(len(guest.traces) for guest in guests)
    return max(_MIN_GROUPS, min(_MAX_GROUPS, int(_MAX_ROWS / max(1, a_guest * sum(sizes)))))


def _read(
    groups: Iterable[Sequence[TraceRef]], reader: TraceHashes
) -> Iterator[tuple[Sequence[TraceRef], list[NDArray[np.uint64]]]]:
    lists = list(groups)
    return zip(lists, reader.hash_lists(lists), strict=True)


def _summarize(size: int, groups: Sequence[_Group], possible: int) -> GroupSharing:
    parts = [one.inter / (one.self_sharing + one.inter) for one in groups if one.self_sharing + one.inter]
    return GroupSharing(
        guests=size,
        groups=len(groups),
        possible=possible,
        inter_pages=MinAvgMax.of(one.inter for one in groups),
        inter_ratio=MinAvgMax.of(one.inter / max(1, one.memory) for one in groups),
        total_ratio=MinAvgMax.of((one.self_sharing + one.inter) / max(1, one.memory) for one in groups),
        self_pages=sum(one.self_sharing for one in groups) / len(groups),
        memory_pages=sum(one.memory for one in groups) / len(groups),
        inter_over_total=sum(parts) / len(parts) if parts else None,
    )
