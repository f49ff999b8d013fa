"""Which of a guest's contents others have, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["elsewhere"]


def elsewhere(distinct: NDArray[np.uint64], others: Iterable[NDArray[np.uint64]]) -> NDArray[np.bool_]:
    """Which of `distinct` (sorted, each once) are in any of `others` (each likewise): bool of its shape. Where the
    others are the other guests of the group, as many as `GuestSharing.shared_with_others_pages` says.
    """
    found = np.zeros(len(distinct), dtype=np.bool_)
    for other in others:
        # What one other has need not be looked for again.
        at = np.flatnonzero(~found)
        if len(other) and len(at):
            places = np.searchsorted(other, distinct[at])
            places[places == len(other)] = 0
            found[at] = other[places] == distinct[at]
    return found
