"""Self-sharing and inter-VM sharing of guests, groups, pairs and the host."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from samepaged.sharing.overlap import overlap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from samepaged.sharing.digest import Contents

__all__ = ["GroupSharing", "GuestSharing", "Member", "PairSharing", "SharingReport", "analyse"]


@dataclass(frozen=True, slots=True)
class Member:
    """A guest as input of the model: its name, its group (the guests that it may share with), and its contents."""

    name: str
    group: str
    contents: Contents


@dataclass(frozen=True, slots=True)
class GuestSharing:
    """A guest's pages by state. S_self(V) is `duplicate_pages`. `recurring_pages` counts the pages with a content that
    is more than once on the host, in this guest or in another. Merging would map all of them to merged pages.
    """

    name: str
    group: str
    memory_pages: int
    absent_pages: int
    swapped_pages: int
    zero_pages: int
    distinct_pages: int
    duplicate_pages: int
    shared_with_others_pages: int
    recurring_pages: int


@dataclass(frozen=True, slots=True)
class GroupSharing:
    """A group: the sum of its guests' S_self, and S_inter(G)."""

    name: str
    self_sharing_pages: int
    inter_sharing_pages: int


@dataclass(frozen=True, slots=True)
class PairSharing:
    """|U(A) ∩ U(B)| of two guests, independent of their groups."""

    domains: tuple[str, str]
    inter_sharing_pages: int


@dataclass(frozen=True, slots=True)
class SharingReport:
    """Sharing of all guests of a host; counts are in pages of `page_size` bytes. Sharing excludes zero, absent and
    swapped pages (section 3.2).
    """

    page_size: int
    guests: tuple[GuestSharing, ...]
    groups: tuple[GroupSharing, ...]
    pairs: tuple[PairSharing, ...]
    self_sharing_pages: int
    inter_sharing_pages: int

    @property
    def total_sharing_pages(self) -> int:
        """Σ S_self(V) + S_inter(host)."""
        return self.self_sharing_pages + self.inter_sharing_pages


def analyse(
    members: Sequence[Member], page_size: int, *, pairs: bool = True, threads: int | None = None
) -> SharingReport:
    """Compute the sharing of `members`, with unique names and with contents in pages of `page_size` bytes.

    In the report, guests are in the order of `members`, groups are sorted by name, and pairs are sorted by size, the
    largest first. Pairs without sharing are left out; if `pairs` is False, all pairs are, which takes less time.
    `inter_sharing_pages` is the sharing of the host, as if its guests were one group. `threads`: None for one per
    processor, up to 8. Raises ValueError if names are not unique.
    """
    _check_distinct_names(members)
    # Guests of a group get adjacent numbers: the merge relies on it.
    order = sorted(members, key=lambda member: (member.group, member.name))
    group_names = sorted({member.group for member in members})
    number = {name: index for index, name in enumerate(group_names)}
    found = overlap(
        [member.contents.distinct for member in order],
        [number[member.group] for member in order],
        marks=[member.contents.is_repeated for member in order],
        pairs=pairs,
        threads=threads,
    )
    in_group = {member.name: int(pages) for member, pages in zip(order, found.in_group, strict=True)}
    # Contents that are once in this guest, and also in other guests, recur as well.
    elsewhere = found.anywhere - found.marked_anywhere
    only_elsewhere = {member.name: int(pages) for member, pages in zip(order, elsewhere, strict=True)}
    self_sharing: defaultdict[str, int] = defaultdict(int)
    for member in members:
        self_sharing[member.group] += member.contents.duplicate_pages
    return SharingReport(
        page_size=page_size,
        guests=tuple(_guest(member, in_group[member.name], only_elsewhere[member.name]) for member in members),
        groups=tuple(
            GroupSharing(name, self_sharing[name], int(pages))
            for name, pages in zip(group_names, found.within, strict=True)
        ),
        pairs=_pairs([member.name for member in order], found.pairs),
        self_sharing_pages=sum(self_sharing.values()),
        inter_sharing_pages=found.across,
    )


def _check_distinct_names(members: Sequence[Member]) -> None:
    seen: set[str] = set()
    for member in members:
        if member.name in seen:
            raise ValueError(f"two guests are named {member.name!r}; give each guest a unique name")
        seen.add(member.name)


def _guest(member: Member, shared_with_others_pages: int, only_elsewhere: int) -> GuestSharing:
    contents = member.contents
    return GuestSharing(
        name=member.name,
        group=member.group,
        memory_pages=contents.memory_pages,
        absent_pages=contents.absent_pages,
        swapped_pages=contents.swapped_pages,
        zero_pages=contents.zero_pages,
        distinct_pages=contents.distinct_pages,
        duplicate_pages=contents.duplicate_pages,
        shared_with_others_pages=shared_with_others_pages,
        recurring_pages=contents.duplicate_pages + int(np.count_nonzero(contents.is_repeated)) + only_elsewhere,
    )


def _pairs(names: Sequence[str], counts: NDArray[np.int64]) -> tuple[PairSharing, ...]:
    """The pairs with sharing: the largest first, and pairs of the same size by name."""
    found = []
    for a, b in np.argwhere(counts).tolist():
        first, second = sorted((names[a], names[b]))
        found.append(PairSharing((first, second), int(counts[a, b])))
    return tuple(sorted(found, key=lambda pair: (-pair.inter_sharing_pages, pair.domains)))
