"""Which pages of a guest are absent, for a dump, which gives them as zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from samepaged.errors import GuestError, Reason
from samepaged.memory import smaps
from samepaged.memory.pagemap import PRESENT, SWAPPED, Pagemap
from samepaged.memory.ram_location import locate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from samepaged.memory.ram_location import RamMapping

__all__ = ["absent_pages", "private_mappings"]


def private_mappings(pid: int, blocks: Sequence[int]) -> tuple[RamMapping, ...]:
    """The guest's RAM, where this may be asked and where its pagemap alone says what is absent; else nothing. Raises
    GuestError if a resource is exhausted: then the next scan would call other pages absent.
    """
    try:
        mappings = locate(smaps.read(pid), blocks)
    except GuestError as error:
        if error.reason is Reason.NO_RESOURCES:
            raise
        return ()
    return () if any(mapping.has_file for mapping in mappings) else mappings


def absent_pages(pid: int, mappings: Sequence[RamMapping]) -> NDArray[np.bool_] | None:
    """Which pages are absent, where this may be asked: the dump reader needs no right to the process, and does
    without. Raises GuestError as `private_mappings` does.
    """
    if not mappings:
        return None
    try:
        with Pagemap(pid) as pagemap:
            entries = np.concatenate([pagemap.entries(mapping.start, mapping.size) for mapping in mappings])
    except GuestError as error:
        if error.reason is Reason.NO_RESOURCES:
            raise
        return None
    absent: NDArray[np.bool_] = (entries & (PRESENT | SWAPPED)) == 0
    return absent
