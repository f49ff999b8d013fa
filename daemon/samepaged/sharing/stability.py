"""Sharing that lasts: KSM can only merge pages that keep their content from one pass to the next."""

from __future__ import annotations

import numpy as np

from samepaged.sharing.digest import PageDigest

__all__ = ["stable"]


def stable(previous: PageDigest, current: PageDigest) -> PageDigest:
    """The pages of a guest that are in `current` what they were in `previous`, the digest of the scan before.

    The others are left out rather than marked: they have a state, but no say in what lasts. So the result is as long
    as there are such pages, and its order means nothing more. The `Contents` of it, for all guests, make `analyse`
    give the stable sharing; its `memory_pages` is what kept its state, and swapped pages among them are as unknown as
    before. If the guest's memory or the page size is another than in the scan before, no page can be told from its
    successor, and the result is empty.
    """
    if len(previous.pages) != len(current.pages) or previous.page_size != current.page_size:
        return PageDigest(np.empty(0, dtype=np.uint64), current.page_size)
    return PageDigest(current.pages[previous.pages == current.pages], current.page_size)
