"""Sharing that involves each owner: section 5 of Barker et al. (USENIX ATC 2012), Figures 11 and 12.

A content with n copies in a guest is n - 1 pages of self-sharing, and one page of inter-VM sharing if another guest of
its group has it, too. It involves every owner of any of its pages, so the involvements of all owners add up to more
than the sharing. The split adds up: each content's sharing in equal parts over its pages, and a page's part in equal
parts over its owners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from samepaged.sharing import FIRST_HASH

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Involvement", "SharedPages", "count_involvement", "shared_pages"]


@dataclass(frozen=True, slots=True)
class SharedPages:
    """The shared pages of a guest, and their contents.

    `pages` (int64, (n,)): page numbers, grouped by content. `content_of_page` (int64, (n,)): the number of each page's
    content, from 0. By content: `hashes` (uint64), `copies` (int64, the number of pages in the guest), and
    `shared_with_others` (bool, whether another guest has it).
    """

    pages: NDArray[np.int64]
    content_of_page: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    copies: NDArray[np.int64]
    shared_with_others: NDArray[np.bool_]

    @property
    def self_sharing_pages(self) -> int:
        """S_self(V)."""
        return int((self.copies - 1).sum())

    @property
    def inter_sharing_pages(self) -> int:
        """The number of contents that other guests have, too."""
        return int(np.count_nonzero(self.shared_with_others))


def shared_pages(digest: NDArray[np.uint64], shared_with_others: NDArray[np.bool_]) -> SharedPages:
    """Return the shared pages of a guest. `digest` is as in PageDigest; `shared_with_others` (bool) marks the contents
    that other guests have, in ascending order of the guest's hashes. Zero, absent and swapped pages are not counted.
    """
    order = np.argsort(digest)
    ordered = digest[order]
    first = int(np.searchsorted(ordered, np.uint64(FIRST_HASH)))
    order, ordered = order[first:], ordered[first:]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(ordered) else order
    if len(starts) != len(shared_with_others):
        raise ValueError(
            f"shared_with_others has {len(shared_with_others)} entries, and the guest has {len(starts)} contents"
        )
    copies = np.diff(starts, append=len(ordered))
    shared = (copies > 1) | shared_with_others
    kept = np.repeat(shared, copies)
    copies = copies[shared].astype(np.int64)
    return SharedPages(
        pages=order[kept].astype(np.int64),
        content_of_page=np.repeat(np.arange(len(copies), dtype=np.int64), copies),
        hashes=ordered[starts[shared]],
        copies=copies,
        shared_with_others=shared_with_others[shared],
    )


@dataclass(frozen=True, slots=True)
class Involvement:
    """By owner (k of them): the pages of self-sharing and of inter-VM sharing that involve it (int64), and its part of
    both in the split, which adds up (float64).
    """

    self_sharing: NDArray[np.int64]
    inter_sharing: NDArray[np.int64]
    split: NDArray[np.float64]


def count_involvement(
    shared: SharedPages, row: NDArray[np.int64], owner: NDArray[np.int64], owners: int, parts: NDArray[np.int64]
) -> Involvement:
    """Count the sharing that involves each of `owners` owners.

    `row` (in any order, indices into `shared.pages`) and `owner` (0 … owners - 1) are pairs of a page and its owner,
    each once. `parts` (by row of `shared.pages`) is the number of owners that divide the page's part of the split; it
    may include owners that are not counted here.
    """
    content = shared.content_of_page[row]
    # Each owner counts once per content, whichever copies it owns.
    pairs = np.unique(content * max(owners, 1) + owner)
    of, by = np.divmod(pairs, max(owners, 1))
    every = shared.copies - 1 + shared.shared_with_others
    weight = every[content] / shared.copies[content] / parts[row]
    split: NDArray[np.float64] = np.bincount(owner, weights=weight, minlength=owners).astype(np.float64)
    return Involvement(
        self_sharing=_sums(by, shared.copies[of] - 1, owners),
        inter_sharing=_sums(by, shared.shared_with_others[of], owners),
        split=split,
    )


def _sums(owner: NDArray[np.int64], amounts: NDArray[np.int64] | NDArray[np.bool_], owners: int) -> NDArray[np.int64]:
    # Sums of whole numbers below 2^53 are exact in the doubles that bincount adds.
    return np.rint(np.bincount(owner, weights=amounts, minlength=owners)).astype(np.int64)
