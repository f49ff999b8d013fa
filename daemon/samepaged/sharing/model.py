"""Self-sharing and inter-VM sharing of guests, groups, pairs and the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samepaged.sharing.digest import Contents

__all__ = ["GroupSharing", "GuestSharing", "Member", "PairSharing", "SharingReport", "analyse"]


@dataclass(frozen=True, slots=True)
class Member:
    """One guest as the model sees it: a name, its group (the guests it may share with), its contents."""

    name: str
    group: str
    contents: Contents


@dataclass(frozen=True, slots=True)
class GuestSharing:
    """One guest's pages by state, in pages. S_self(V) is `duplicate_pages`."""

    name: str
    group: str
    memory_pages: int
    absent_pages: int
    swapped_pages: int
    zero_pages: int
    distinct_pages: int
    duplicate_pages: int
    shared_with_others_pages: int


@dataclass(frozen=True, slots=True)
class GroupSharing:
    """One group: the sum of its guests' S_self, and S_inter(G)."""

    name: str
    self_sharing_pages: int
    inter_sharing_pages: int


@dataclass(frozen=True, slots=True)
class PairSharing:
    """|U(A) ∩ U(B)| of two guests, whatever their groups."""

    domains: tuple[str, str]
    inter_sharing_pages: int


@dataclass(frozen=True, slots=True)
class SharingReport:
    """Sharing of all guests of a host; counts are in pages of `page_size` bytes."""

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


def analyse(members: Sequence[Member], page_size: int) -> SharingReport:
    """Compute the sharing of `members`, whose names differ and whose contents are of pages of `page_size` bytes."""
    raise NotImplementedError
