"""The guest's page frames as its kernel sees them: its array of struct page, all of it at once."""

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
# The types of a page that VMCOREINFO does not name, from one that it does (include/linux/page-flags.h): from 6.12 in
# the top byte; 6.11 and those before clear a bit. Up to 5.10 what became tables' bit was that of memory that a control
# group pays for.
BUDDY: Final = "PAGE_BUDDY_MAPCOUNT_VALUE"
TABLE_IN_TOP_BYTE: Final = 0xF2
OLD_BUDDY, OLD_BASE, OLD_TABLE, OLDEST_TABLE = 0x80, 0xF0000000, 0x200, 0x400
LATE_BUDDY, LATE_BASE, LATE_TABLE, LATE_FLAGS = 0x40000000, 0x80000000, 0x10000000, 0xFFFFFF


@dataclass(frozen=True, slots=True)
class StructPages:
    """What the kernel's structs say of each RAM page, all arrays of shape (RAM pages,).

    `readable`: it has a struct page that could be read; `free`, `slab`, `table` by its type (of a slab, all of its
    pages); `reserved`: was never the page allocator's; `idle`: nobody holds it. `head` (int64): the first page of the
    compound that it is a part of, or itself. `mapping`, `private`, `index`, `link` (where lists continue), `cache` (of
    a slab's head) are as in the struct; `types` (uint32) as in its head's struct.
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
        """All of it. Raises Unreadable where there is no array of struct pages."""
        array, shape = find_mem_map(kernel), _Shape(kernel)
        profile = kernel.profile
        mapping, private = profile.offset("page.mapping"), profile.offset("page.private")
        # Without types nobody asks for it.
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
        """The RAM pages whose structs are at these addresses, -1 where there is none."""
        return self.mem_map.pages_at(kernel.ram, addresses.view(np.int64))


class _Shape:
    """Where this kernel's struct page has what, and how it says what a page is."""

    def __init__(self, kernel: Kernel) -> None:
        profile, numbers = kernel.profile, kernel.info.numbers
        known = profile.enumerators
        self.flags = profile.offset("page.flags")
        self.head = profile.offset("page.compound_info", "page.compound_head")
        # From 7.1 a tail has a mask where it had a pointer, if struct page's size is a power of 2.
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
        """The RAM pages that are a compound's but not its first, and the first one of each."""
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
    """The RAM pages (int64, ascending) of slabs and page tables, where the kernel's lists and trees are: what has to be
    copied besides the array of struct pages, from which alone this is told. Raises Unreadable.
    """
    array, shape = find_mem_map(kernel), _Shape(kernel)
    read = array.columns(kernel.ram, shape.wide, shape.narrow)
    tails, heads = shape.tails(kernel, array, read)
    types = read.narrow[shape.type]
    wanted = shape.is_slab(types, read.wide[shape.flags]) | shape.is_table(types)
    wanted[tails] = wanted[heads]
    return np.flatnonzero(wanted & read.readable)


def _table_types(kernel: Kernel) -> list[int]:
    """What VMCOREINFO would say of page tables, in the way in which it says it of free pages."""
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
    """Which pages are of the type for which VMCOREINFO would say this number."""
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
