"""x86-64 page tables of 4 and 5 levels, walked one whole level at a time (Intel SDM, volume 3A, 4.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from samepaged.arch import PAGE_SHIFT, PAGE_SIZE
from samepaged.arch.x86_64 import (
    LARGEST_PAGE_SHIFT,
    PTE_INDEX_BITS,
    PTE_LARGE,
    PTE_PRESENT,
    PTE_PROT_NONE,
)
from samepaged.attribution.guest_ram import PAGE_WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from samepaged.attribution.guest_ram import GuestRam

__all__ = [
    "LeavesByRoot",
    "PageTableLeaves",
    "find_leaf",
    "walk",
    "walk_many",
    "walk_pieces",
]

Number = TypeVar("Number", bound=np.generic)
# Tables read at once: 2 MiB of entries.
CHUNK_TABLES: Final = 512
# The kernel maps a guest's memory once, and so does each process that shares it. Forged tables can make the worker hold
# at most this multiple of the guest's pages, or the minimum.
MAX_LEAVES_PER_PAGE: Final = 4
MIN_MAX_LEAVES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class PageTableLeaves:
    """The mappings of one root, by ascending address: `addresses` (int64, canonical as signed: the kernel's are
    negative), `physical` (int64, guest-physical, of the first page), `pages` (int64: 1, 512 or 512**2 pages of 4 KiB),
    `entries` (uint64, the table entry with its flags), all (n,). `tables` (int64): the guest-physical addresses of all
    tables including the root, each once. `complete`: false if a limit cut the walk.
    """

    addresses: NDArray[np.int64]
    physical: NDArray[np.int64]
    pages: NDArray[np.int64]
    entries: NDArray[np.uint64]
    tables: NDArray[np.int64]
    complete: bool = True

    def translate(self, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return guest-physical addresses (int64) of virtual ones (int64, canonical as signed), -1 if unmapped."""
        if not len(self.addresses):
            return np.full(addresses.shape, -1, dtype=np.int64)
        leaf = find_leaf(self.addresses, addresses)
        safe = np.maximum(leaf, 0)
        # The difference of a negative and a positive address may wrap; it is then too large or negative, so unmapped.
        within = addresses - self.addresses[safe]
        mapped = (leaf >= 0) & (within >= 0) & (within < self.pages[safe] << PAGE_SHIFT)
        return np.where(mapped, self.physical[safe] + within, -1)

    def translate_one(self, address: int) -> int:
        """Return the guest-physical address of one virtual address, -1 if unmapped."""
        leaf = int(self.addresses.searchsorted(np.int64(address), side="right")) - 1
        within = address - int(self.addresses[leaf]) if leaf >= 0 else -1
        return int(self.physical[leaf]) + within if 0 <= within < int(self.pages[leaf]) << PAGE_SHIFT else -1


@dataclass(frozen=True, slots=True)
class LeavesByRoot:
    """The mappings of many roots, as in PageTableLeaves, by root and then by address. `roots` (int32, (n,)) is each
    leaf's index of its root, `table_roots` (int32) each table's. A table that several roots share occurs once for each.
    """

    addresses: NDArray[np.int64]
    physical: NDArray[np.int64]
    pages: NDArray[np.int64]
    entries: NDArray[np.uint64]
    roots: NDArray[np.int32]
    tables: NDArray[np.int64]
    table_roots: NDArray[np.int32]
    complete: bool = True


@dataclass(frozen=True, slots=True)
class _Tables:
    """Tables of one level: guest-physical addresses, the address that the first entry maps, and index of the root."""

    physical: NDArray[np.int64]
    bases: NDArray[np.int64]
    roots: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.physical)

    def part(self, chosen: slice | NDArray[np.int64]) -> _Tables:
        return _Tables(self.physical[chosen], self.bases[chosen], self.roots[chosen])


@dataclass(frozen=True, slots=True)
class _Format:
    levels: int
    upper: bool
    mask: int


def find_leaf(starts: NDArray[np.int64], addresses: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of the last of the ascending `starts` that is not above each address, -1 if all are above."""
    return np.searchsorted(starts, addresses, side="right") - 1


def walk(ram: GuestRam, root: int, levels: int, *, upper: bool, mask: int) -> PageTableLeaves:
    """Walk the kernel's half (`upper`) or the user's half of the tables at `root` (guest-physical). `mask` has the
    address bits of an entry.
    """
    found = walk_many(ram, np.array([root], dtype=np.int64), levels, upper=upper, mask=mask)
    return PageTableLeaves(
        found.addresses, found.physical, found.pages, found.entries, np.unique(found.tables), found.complete
    )


def walk_many(ram: GuestRam, roots: NDArray[np.int64], levels: int, *, upper: bool, mask: int) -> LeavesByRoot:
    """Walk many roots (int64, guest-physical; -1 or an address outside RAM maps nothing). The walk stops at
    MAX_LEAVES_PER_PAGE leaves for each page of the guest's memory.
    """
    most = max(MAX_LEAVES_PER_PAGE * ram.pages, MIN_MAX_LEAVES)
    pieces: list[LeavesByRoot] = []
    leaves = 0
    complete = True
    for piece in walk_pieces(ram, roots, levels, upper=upper, mask=mask):
        leaves += len(piece.addresses)
        complete &= piece.complete and leaves <= most
        if leaves > most:
            break
        pieces.append(piece)
    addresses = _joined([piece.addresses for piece in pieces], np.int64)
    owners = _joined([piece.roots for piece in pieces], np.int32)
    # The pieces are ascending runs, which a stable sort merges fast.
    order = np.argsort(addresses, kind="stable")
    if len(roots) > 1:
        order = order[np.argsort(owners[order], kind="stable")]
    return LeavesByRoot(
        addresses=addresses[order],
        physical=_joined([piece.physical for piece in pieces], np.int64)[order],
        pages=_joined([piece.pages for piece in pieces], np.int64)[order],
        entries=_joined([piece.entries for piece in pieces], np.uint64)[order],
        roots=owners[order],
        tables=_joined([piece.tables for piece in pieces], np.int64),
        table_roots=_joined([piece.table_roots for piece in pieces], np.int32),
        complete=complete,
    )


def walk_pieces(
    ram: GuestRam, roots: NDArray[np.int64], levels: int, *, upper: bool, mask: int
) -> Iterator[LeavesByRoot]:
    """Yield the same, CHUNK_TABLES tables at a time and without a limit on leaves, which allows hundreds of processes
    with a large common memory. Each piece is ordered; each table is in one piece for each root. Tables are walked once
    for each root, up to as many as the guest has pages; if this limit cut the walk, the last piece is not `complete`.
    """
    how = _Format(levels, upper, mask)
    tables = _Tables(roots, np.zeros(len(roots), dtype=np.int64), np.arange(len(roots), dtype=np.int32))
    tables = tables.part(_in_ram(ram, roots, tables.roots))
    left = ram.pages + len(roots)
    complete = True
    for level in range(levels, 0, -1):
        if len(tables) > left:
            tables, complete = tables.part(slice(left)), False
        left -= len(tables)
        below: list[_Tables] = []
        for first in range(0, len(tables), CHUNK_TABLES):
            leaves, deeper = _level(ram, tables.part(slice(first, first + CHUNK_TABLES)), level, how)
            yield leaves
            if len(deeper):
                below.append(deeper.part(_in_ram(ram, deeper.physical, deeper.roots)))
            if sum(len(part) for part in below) > 2 * left + CHUNK_TABLES * PAGE_WORDS:
                whole = _all(ram, below)
                complete &= len(whole) <= left
                below = [whole.part(slice(left))]
        tables = _all(ram, below)
    if not complete:
        yield _NOT_ALL


def _level(ram: GuestRam, tables: _Tables, level: int, how: _Format) -> tuple[LeavesByRoot, _Tables]:
    """Return the leaves in tables of a level, and the tables of the next level. Unreadable tables count as empty."""
    rows, _ = ram.gather(tables.physical, PAGE_SIZE)
    if level == how.levels:
        rows[:, slice(0, PAGE_WORDS // 2) if how.upper else slice(PAGE_WORDS // 2, PAGE_WORDS)] = 0
    flat = rows.reshape(-1)
    place = np.flatnonzero(flat)
    entries = flat[place]
    shift = PAGE_SHIFT + PTE_INDEX_BITS * (level - 1)
    signed = entries.view(np.int64)
    present = (signed & PTE_PRESENT) != 0
    # In the lowest level, all entries are leaves, and the bit has another meaning.
    large = (signed & PTE_LARGE) != 0 if level > 1 else np.ones(len(entries), dtype=np.bool_)
    leaf, bits = np.zeros(len(entries), dtype=np.bool_), signed
    if shift <= LARGEST_PAGE_SHIFT:
        leaf = present & large
        if not how.upper:
            without = ~present & large & ((signed & PTE_PROT_NONE) != 0)
            leaf, bits = leaf | without, np.where(without, ~signed, signed)
    row, index = place >> PTE_INDEX_BITS, place & (PAGE_WORDS - 1)
    addresses = tables.bases[row] | (index << shift)
    if level == how.levels and how.upper:
        addresses |= -1 << (shift + PTE_INDEX_BITS)
    leaves = LeavesByRoot(
        addresses=addresses[leaf],
        physical=bits[leaf] & (how.mask & -(1 << shift)),
        pages=np.full(int(np.count_nonzero(leaf)), 1 << (shift - PAGE_SHIFT), dtype=np.int64),
        entries=entries[leaf],
        roots=tables.roots[row[leaf]],
        tables=tables.physical,
        table_roots=tables.roots,
    )
    deeper = present & ~large
    return leaves, _Tables(signed[deeper] & how.mask, addresses[deeper], tables.roots[row[deeper]])


def _in_ram(ram: GuestRam, physical: NDArray[np.int64], owners: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the indices of the tables in RAM, ascending, the first of each pair of root and table."""
    page = ram.layout.page_of(physical)
    inside = np.flatnonzero((page >= 0) & (physical & (PAGE_SIZE - 1) == 0))
    keys = owners[inside].astype(np.int64) * ram.pages + page[inside]
    _, first = np.unique(keys, return_index=True)
    return np.sort(inside[first])


def _all(ram: GuestRam, parts: list[_Tables]) -> _Tables:
    physical = _joined([part.physical for part in parts], np.int64)
    owners = _joined([part.roots for part in parts], np.int32)
    whole = _Tables(physical, _joined([part.bases for part in parts], np.int64), owners)
    return whole.part(_in_ram(ram, physical, owners))


def _joined(parts: list[NDArray[Number]], dtype: type[Number]) -> NDArray[Number]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)


_NOTHING: Final = np.empty(0, dtype=np.int64)
_NO_ROOTS: Final = np.empty(0, dtype=np.int32)
_NOT_ALL: Final = LeavesByRoot(
    _NOTHING, _NOTHING, _NOTHING, _NOTHING.view(np.uint64), _NO_ROOTS, _NOTHING, _NO_ROOTS, complete=False
)
