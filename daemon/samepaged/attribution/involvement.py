"""How much sharing involves each owner: section 5 of Barker et al. (USENIX ATC 2012), Figures 11 and 12.

A content that a guest has n times is n - 1 pages of self-sharing, and one page of inter-VM sharing where another guest
of its group has it, too. It involves every owner of any of its pages: so the involvements of all owners together are
more than the sharing. The split is the figure that adds up: each content's sharing in equal parts over its pages, and a
page's part in equal parts over its owners.
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
    """The pages of a guest whose content is shared, and their contents.

    `pages` (int64, (n,)): their numbers, those of a content side by side. `content_of_page` (int64, (n,)): the number
    of each one's content, from 0. By content: `hashes` (uint64), `copies` (int64, how many pages of the guest have it),
    and `shared_with_others` (bool, whether another guest has it).
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
        """How many contents others have, too."""
        return int(np.count_nonzero(self.shared_with_others))


def shared_pages(digest: NDArray[np.uint64], shared_with_others: NDArray[np.bool_]) -> SharedPages:
    """The shared pages of a guest: `digest` is as in PageDigest, `shared_with_others` (bool) tells of its contents, in
    ascending order of their hashes, which of them other guests have. Zero, absent and swapped pages are in no sharing.
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
    """By owner (k of them): in how many pages of self-sharing and of inter-VM sharing it is involved (int64), and its
    share of both in the split that adds up (float64).
    """

    self_sharing: NDArray[np.int64]
    inter_sharing: NDArray[np.int64]
    split: NDArray[np.float64]


def count_involvement(
    shared: SharedPages, row: NDArray[np.int64], owner: NDArray[np.int64], owners: int, parts: NDArray[np.int64]
) -> Involvement:
    """How much sharing involves each of `owners` owners.

    `row` (ascending or not, indices into `shared.pages`) and `owner` (0 … owners - 1) say which page has which owner, a
    pair once. `parts` (by row of `shared.pages`) is among how many owners that page's part of the split is divided; it
    may be more than are asked about here.
    """
    content = shared.content_of_page[row]
    # Each owner once a content, whichever of its copies it owns.
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
