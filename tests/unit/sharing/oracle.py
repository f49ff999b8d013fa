"""Sharing counted on bytes, directly by the definitions of the paper; and hypothesis strategies for guests.

A page is bytes: `b""` for an absent page, None for a swapped one, zero bytes for a zero page.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from hypothesis import strategies as st

from samepaged.sharing import ABSENT, FIRST_HASH, SWAPPED, ZERO, Contents, Member, PageDigest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Page: TypeAlias = bytes | None
Pages: TypeAlias = "Sequence[Page]"
Hashes: TypeAlias = "Mapping[bytes, int]"

ZEROS = b"\0\0\0"
CONTENTS = tuple(bytes([a, b, c]) for a in (0, 1, 2) for b in (0, 1) for c in (0, 1))[1:]


def nonzero(pages: Pages) -> list[bytes]:
    return [page for page in pages if page is not None and any(page)]


def self_sharing(pages: Pages) -> int:
    return len(nonzero(pages)) - len(set(nonzero(pages)))


def inter_sharing(guests: Iterable[Pages]) -> int:
    guests = list(guests)
    together = [page for pages in guests for page in pages]
    return self_sharing(together) - sum(self_sharing(pages) for pages in guests)


def pairs(guests: Mapping[str, Pages]) -> dict[tuple[str, str], int]:
    found = {(a, b): inter_sharing([guests[a], guests[b]]) for a, b in combinations(sorted(guests), 2)}
    return {pair: pages for pair, pages in found.items() if pages}


def shared_with(pages: Pages, others: Iterable[Pages]) -> int:
    return len(set(nonzero(pages)) & {page for other in others for page in nonzero(other)})


def recurring(pages: Pages, others: Iterable[Pages]) -> int:
    """Number of pages with a content that occurs again, in the guest or in another."""
    elsewhere = {page for other in others for page in nonzero(other)}
    own = nonzero(pages)
    return sum(page in elsewhere or own.count(page) > 1 for page in own)


def digest(pages: Pages, hashes: Hashes, page_size: int = 4096) -> PageDigest:
    def value(page: Page) -> int:
        if page is None:
            return SWAPPED
        if not page:
            return ABSENT
        return hashes[page] if any(page) else ZERO

    return PageDigest(np.array([value(page) for page in pages], dtype=np.uint64), page_size)


def member(name: str, group: str, pages: Pages, hashes: Hashes) -> Member:
    return Member(name, group, Contents.of(digest(pages, hashes)))


# Hashes close together and far apart: adjacent ones in a part, and empty parts.
hash_values = st.integers(FIRST_HASH, 2**64 - 1) | st.integers(FIRST_HASH, 40) | st.integers(2**64 - 40, 2**64 - 1)

hash_maps = st.lists(hash_values, min_size=len(CONTENTS), max_size=len(CONTENTS), unique=True).map(
    lambda values: dict(zip(CONTENTS, values, strict=True))
)

memories = st.lists(st.sampled_from([*CONTENTS, ZEROS, b"", None]), max_size=24)


def hosts(most: int = 8) -> st.SearchStrategy[dict[str, tuple[str, list[Page]]]]:
    """Guests by name, each with its group and its pages."""
    groups = st.sampled_from(["red", "green", "blue"])
    return st.dictionaries(st.text("abc", max_size=3), st.tuples(groups, memories), max_size=most)
