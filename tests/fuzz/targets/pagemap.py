"""Entries of pagemap: the location of each page, and the pages that may have been written.

An input's first octet is the kind of mapping, the second its number of pages, the rest are the entries. samepaged does
not use page frame numbers: here their low bits stand for the state of the page in the file and in the digest.
"""

from __future__ import annotations

import struct
from enum import IntFlag
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.memory.pagemap import decode, residency
from samepaged.memory.softdirty import changed_pages
from samepaged.sharing.digest import FIRST_HASH, SWAPPED, ZERO
from tests.fuzz.target import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.memory.pagemap import Residency

# Documentation/admin-guide/mm/pagemap.rst
PRESENT: Final = 1 << 63
SWAP: Final = 1 << 62
FILE: Final = 1 << 61
EXCLUSIVE: Final = 1 << 56
SOFT_DIRTY: Final = 1 << 55


class MappingKind(IntFlag):
    """The kind of mapping, in the first octet of an input."""

    HAS_FILE = 1
    SHARED = 2
    MERGING = 4


def check(data: bytes) -> None:
    kind, pages, raw = (data[0] if data else 0), (data[1] if len(data) > 1 else 0), data[2:]
    entries = decode(raw, pages)
    assert entries.tolist() == list(struct.unpack(f"<{pages}Q", raw))
    # The kernel sets at most one of the two: a page-table entry is either present or not.
    entries = np.where(entries & PRESENT, entries & ~np.uint64(SWAP), entries)
    plain = tuple(entries.tolist())
    held, resident = (entries & 1) != 0, (entries & 2) != 0
    shared = bool(kind & MappingKind.SHARED)
    _check_residence(residency(entries, None, None, shared=False), plain, None, shared=False)
    _check_residence(residency(entries, held, resident, shared=shared), plain, (held, resident), shared=shared)
    digest = np.minimum((entries >> 2) & 7, FIRST_HASH)
    merging = bool(kind & MappingKind.MERGING)
    found = changed_pages(entries, digest, merging=merging)
    assert found.tolist() == [_stale(*pair, merging=merging) for pair in zip(plain, digest.tolist(), strict=True)]


def _check_residence(
    found: Residency,
    entries: tuple[int, ...],
    file: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None,
    *,
    shared: bool,
) -> None:
    for at, entry in enumerate(entries):
        where = found.in_process[at], found.in_file[at], found.swapped[at]
        own = not shared and bool(entry & PRESENT)
        out = not shared and not own and bool(entry & SWAP)
        theirs = file is not None and bool(file[0][at]) and not own and not out
        resident = file is not None and bool(file[1][at])
        assert where == (own, theirs and resident, out or (theirs and not resident))
        assert sum(where) <= 1


def _stale(entry: int, digest: int, *, merging: bool) -> bool:
    """Return the expected value of softdirty.changed_pages for one page."""
    if not entry & PRESENT:
        return False
    if entry & SOFT_DIRTY or digest <= SWAPPED:
        return True
    return not entry & EXCLUSIVE and (merging or digest != ZERO)


def _seed(kind: int, *entries: int) -> bytes:
    return bytes([kind, len(entries)]) + struct.pack(f"<{len(entries)}Q", *entries)


TARGET = Target(
    check,
    seeds=(
        _seed(0),
        _seed(0, 0, PRESENT | EXCLUSIVE | 0x1234, PRESENT | SOFT_DIRTY, SWAP | 0x80, PRESENT | FILE),
        _seed(MappingKind.HAS_FILE | MappingKind.SHARED, 0, 1, 3, PRESENT | FILE | 3, PRESENT | 1, SWAP | 3),
        _seed(
            MappingKind.MERGING,
            PRESENT | EXCLUSIVE | 0xFF,
            PRESENT | 8,
            PRESENT | 4,
            0,
            PRESENT | EXCLUSIVE | SOFT_DIRTY,
        ),
    ),
    words=(),
    longest=2 + 8 * 64,
    binary=True,
)
