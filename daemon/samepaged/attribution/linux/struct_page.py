"""The whole array of struct page of the guest's kernel, as columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.linux.mem_map import find_mem_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel
    from samepaged.attribution.linux.mem_map import Columns, MemMap

__all__ = ["TOP_BYTE", "StructPages", "slab_and_table_pages"]

TOP_BYTE: Final = 24
# Page types that VMCOREINFO does not contain, derived from the buddy type, which it does (include/linux/page-flags.h).
# From 6.12 on, the type is in the top byte; up to 6.11, it is a cleared bit. Up to 5.10, the later bit of page tables
# meant memory that a control group is charged for.
BUDDY: Final = "PAGE_BUDDY_MAPCOUNT_VALUE"
TABLE_IN_TOP_BYTE: Final = 0xF2
OLD_BUDDY, OLD_BASE, OLD_TABLE, OLDEST_TABLE = 0x80, 0xF0000000, 0x200, 0x400
LATE_BUDDY, LATE_BASE, LATE_TABLE, LATE_FLAGS = 0x40000000, 0x80000000, 0x10000000, 0xFFFFFF


@dataclass(frozen=True, slots=True)
class StructPages:
    """Data of struct page for each RAM page, all arrays of shape (RAM pages,).

    `readable`: its struct page is readable. `free`, `slab`, `table`: its type (for slabs, of all of their pages).
    `reserved`: never in the page allocator. `idle`: its reference count is 0. `head` (int64): the first page of its
    compound page, or itself. `mapping`, `private`, `index`, `link` (the list pointer) and `cache` (of a slab's head)
    are as in the struct; `types` (uint32) as in the struct of its head.
    """

    mem_map: MemMap
    readable: NDArray[np.bool_]
    free: NDArray[np.bool_]
    slab: NDArray[np.bool_]
    table: NDArray[np.bool_]
    reserved: NDArray[np.bool_]
    idle: NDArray[np.bool_]
    head: NDArray[np.int64]
    flags: NDArray[np.uint64]
    mapping: NDArray[np.uint64]
    private: NDArray[np.uint64]
    index: NDArray[np.uint64]
    link: NDArray[np.uint64]
    cache: NDArray[np.uint64]
    types: NDArray[np.uint32]

    @classmethod
    def read(cls, kernel: Kernel) -> StructPages:
        """Read the whole array. Raises Unreadable without an array of struct pages."""
        array, shape = find_mem_map(kernel), _Shape(kernel)
        profile = kernel.profile
        mapping, private = profile.offset("page.mapping"), profile.offset("page.private")
        # Without types, the index is not used.
        places = ("page.index", "page.__folio_index", "folio.index")
        index = profile.offset(*places) if profile.has_types else mapping
        link, references = profile.offset("page.lru"), profile.offset("page._refcount")
        cache = profile.offset("slab.slab_cache", "page.slab_cache") if shape.has_caches else mapping
        wide = {*shape.wide, mapping, private, index, link, cache}
        read = array.columns(kernel.ram, wide, {*shape.narrow, references})
        tails, heads = shape.tails(kernel, array, read)
        types, flags = read.narrow[shape.type], read.wide[shape.flags]
        head = np.arange(kernel.ram.pages, dtype=np.int64)
        head[tails] = heads
        free = shape.is_free(types)
        free[tails] = False
        slab, table, idle = shape.is_slab(types, flags), shape.is_table(types), read.narrow[references] == 0
        for said in (slab, table, idle):
            said[tails] = said[heads]
            said[~read.readable] = False
        types[tails] = types[heads]
        return cls(
            mem_map=array,
            readable=read.readable,
            free=free & read.readable,
            slab=slab,
            table=table,
            reserved=_bit(flags, shape.reserved) & read.readable,
            idle=idle,
            head=head,
            flags=flags,
            mapping=read.wide[mapping],
            private=read.wide[private],
            index=read.wide[index],
            link=read.wide[link],
            cache=read.wide[cache],
            types=types,
        )

    def pages_at(self, kernel: Kernel, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the RAM pages with their structs at these addresses, -1 for other addresses."""
        return self.mem_map.pages_at(kernel.ram, addresses.view(np.int64))


class _Shape:
    """Layout of this kernel's struct page, and its encoding of page types."""

    def __init__(self, kernel: Kernel) -> None:
        profile, numbers = kernel.profile, kernel.info.numbers
        known = profile.enumerators
        self.flags = profile.offset("page.flags")
        self.head = profile.offset("page.compound_info", "page.compound_head")
        # From 7.1 on, a tail has a mask instead of a pointer, if struct page's size is a power of 2.
        self.masks = "page.compound_info" in profile.offsets and "zone.vmemmap_tails" in profile.offsets
        self.type = profile.offset("page.page_type", "page._mapcount")
        self.has_caches = "slab.slab_cache" in profile.offsets or "page.slab_cache" in profile.offsets
        self.reserved = known.get("PG_reserved")
        self.slab_bit = known.get("PG_slab", numbers.get("PG_slab"))
        self.buddy_type = numbers.get(BUDDY)
        self.slab_type = numbers.get("PAGE_SLAB_MAPCOUNT_VALUE")
        self.table_types = _table_types(kernel)
        self.wide = {self.flags, self.head}
        self.narrow = {self.type}

    def tails(self, kernel: Kernel, array: MemMap, read: Columns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the tail pages of compound pages (RAM pages), and the head of each."""
        pointers = read.wide[self.head]
        tails = np.flatnonzero(pointers & np.uint64(1))
        signed = pointers[tails].view(np.int64)
        if self.masks and array.size & (array.size - 1) == 0:
            own = array.base + kernel.ram.layout.frames()[tails] * array.size
            heads = array.pages_at(kernel.ram, own & signed)
        else:
            heads = array.pages_at(kernel.ram, signed - 1)
        return tails[heads >= 0], heads[heads >= 0]

    def is_free(self, types: NDArray[np.uint32]) -> NDArray[np.bool_]:
        return _has_type(types, self.buddy_type)

    def is_table(self, types: NDArray[np.uint32]) -> NDArray[np.bool_]:
        found = _has_type(types, None)
        for said in self.table_types:
            found |= _has_type(types, said)
        return found

    def is_slab(self, types: NDArray[np.uint32], flags: NDArray[np.uint64]) -> NDArray[np.bool_]:
        return _has_type(types, self.slab_type) if self.slab_type is not None else _bit(flags, self.slab_bit)


def slab_and_table_pages(kernel: Kernel) -> NDArray[np.int64]:
    """Return the RAM pages (int64, ascending) of slabs and page tables, which contain the kernel's lists and trees. The
    session copies them besides the array of struct pages. Reads only that array. Raises Unreadable.
    """
    array, shape = find_mem_map(kernel), _Shape(kernel)
    read = array.columns(kernel.ram, shape.wide, shape.narrow)
    tails, heads = shape.tails(kernel, array, read)
    types = read.narrow[shape.type]
    wanted = shape.is_slab(types, read.wide[shape.flags]) | shape.is_table(types)
    wanted[tails] = wanted[heads]
    return np.flatnonzero(wanted & read.readable)


def _table_types(kernel: Kernel) -> list[int]:
    """Return the types of page tables, in VMCOREINFO's encoding of the type of free pages."""
    profile = kernel.profile
    buddy = kernel.info.numbers.get(BUDDY)
    if buddy is None:
        return []
    value = buddy % (1 << 32)
    if value % (1 << TOP_BYTE) == 0:
        return [profile.enumerators.get("PGTY_table", TABLE_IN_TOP_BYTE) << TOP_BYTE]
    flag = ~value % (1 << 32)
    if flag == LATE_BUDDY:
        return [~LATE_TABLE]
    if flag != OLD_BUDDY:
        return []
    later = profile.has_types and "page.mem_cgroup" not in profile.offsets
    return [~OLD_TABLE, ~OLDEST_TABLE] if later else [~OLDEST_TABLE]


def _has_type(types: NDArray[np.uint32], said: int | None) -> NDArray[np.bool_]:
    """Return a mask of the pages with the type that VMCOREINFO encodes as this number."""
    found: NDArray[np.bool_] = np.zeros(types.shape, dtype=np.bool_)
    if said is not None:
        value = said % (1 << 32)
        flag = ~value % (1 << 32)
        base = LATE_BASE if flag > LATE_FLAGS else OLD_BASE
        if value % (1 << TOP_BYTE) == 0:
            found = types >> np.uint32(TOP_BYTE) == value >> TOP_BYTE
        else:
            found = types & np.uint32(base | flag) == base
    return found


def _bit(flags: NDArray[np.uint64], number: int | None) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.zeros(flags.shape, dtype=np.bool_)
    if number is not None and 0 <= number < 64:  # noqa: PLR2004 - bits of the flags
        found = flags & np.uint64(1 << number) != 0
    return found
