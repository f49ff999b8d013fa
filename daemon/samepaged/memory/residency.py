"""Where each page of a guest is: in its process, in the file behind it, in swap, or nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from samepaged.memory.pagemap import PRESENT, SWAPPED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Residency", "residency"]


@dataclass(frozen=True, slots=True)
class Residency:
    """Three bool arrays of shape (pages,), of which at most one is true for a page. A page in none is absent."""

    in_process: NDArray[np.bool_]
    in_file: NDArray[np.bool_]
    swapped: NDArray[np.bool_]

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The parts one after another."""
        return cls(
            np.concatenate([part.in_process for part in parts]),
            np.concatenate([part.in_file for part in parts]),
            np.concatenate([part.swapped for part in parts]),
        )


def residency(
    entries: NDArray[np.uint64],
    held: NDArray[np.bool_] | None,
    resident: NDArray[np.bool_] | None,
    *,
    shared: bool,
) -> Residency:
    """Where the pages of a mapping are, from its pagemap entries and, where it has a file, from which pages the file
    holds and which of these are in memory.

    A private page is in the process once it was written; before that, and always where the mapping is shared, it is
    the file's.
    """
    if held is None or resident is None:
        present = (entries & PRESENT) != 0
        return Residency(present, np.zeros_like(present), (entries & SWAPPED) != 0)
    if shared:
        own = out = np.zeros(len(entries), dtype=np.bool_)
    else:
        own, out = (entries & PRESENT) != 0, (entries & SWAPPED) != 0
    theirs = held & ~own & ~out
    return Residency(own, theirs & resident, out | (theirs & ~resident))
