"""The guest kernel's array of struct pages, one for each page frame: location, and members as columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SHIFT, PAGE_SIZE
from samepaged.attribution.guest_ram import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from samepaged.attribution.guest_ram import GuestRam
    from samepaged.attribution.linux.kernel import Kernel

__all__ = ["Columns", "MemMap", "find_mem_map"]

# A struct page has 56 to 96 bytes; debugging kernels may have more.
MAX_STRUCT_BYTES: Final = 256
# Structs processed together; with 64 bytes each, they fit in a core's cache.
CHUNK_STRUCTS: Final = 4096
WRAP: Final = 1 << 64
SIGN: Final = 1 << 63
# mem_section (VMCOREINFO has the pointer's value): the low bits of section_mem_map are flags; the others are the start
# of the array, as if it were contiguous (include/linux/mmzone.h, SPARSEMEM_VMEMMAP).
SECTION_FLAGS: Final = (1 << 6) - 1
MAX_SECTIONS: Final = 512


@dataclass(frozen=True, slots=True)
class Columns:
    """Members by offset, uint64 and uint32 of shape (RAM pages,), and a mask of readable structs; the others are 0."""

    wide: dict[int, NDArray[np.uint64]]
    narrow: dict[int, NDArray[np.uint32]]
    readable: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class MemMap:
    """Location of the structs. `base`: the address (as signed) of the struct of frame 0. `size`: bytes of a struct.
    `parts`: for each region of RAM, its first RAM page, its number of pages, and the RAM pages (int64) that hold their
    structs.
    """

    base: int
    size: int
    parts: tuple[tuple[int, int, NDArray[np.int64]], ...]

    @property
    def pages(self) -> NDArray[np.int64]:
        """RAM pages that hold the array: int64, ascending, each once."""
        held = np.unique(np.concatenate([pages for _, _, pages in self.parts]))
        return held[held >= 0]

    def chunks(self, ram: GuestRam) -> Iterator[tuple[slice, NDArray[np.uint64], NDArray[np.bool_]]]:
        """Yield CHUNK_STRUCTS structs at a time: the RAM pages that they describe, the structs (uint64,
        (n, size // 8)), and a mask of the copied ones. Chunks without any copied struct are skipped.
        """
        step = CHUNK_STRUCTS * self.size // PAGE_SIZE
        starts = np.arange(CHUNK_STRUCTS, dtype=np.int64) * self.size
        begins, ends = starts >> PAGE_SHIFT, (starts + self.size - 1) >> PAGE_SHIFT
        for first, count, pages in self.parts:
            slots = ram.ensure_copied(pages)
            for done in range(0, count, CHUNK_STRUCTS):
                number = min(CHUNK_STRUCTS, count - done)
                part = slots[done // CHUNK_STRUCTS * step :][:step]
                held = part >= 0
                if len(ram.words) and held.any():
                    words = ram.words[np.where(held, part, 0)].reshape(-1)[: number * self.size // 8]
                    ok = held[begins[:number]] & held[ends[:number]]
                    yield slice(first + done, first + done + number), words.reshape(number, -1), ok

    def pages_at(self, ram: GuestRam, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the RAM pages with their structs at these addresses (as signed), -1 for other addresses."""
        within = addresses - self.base
        found = ram.layout.page_of(within // self.size << PAGE_SHIFT)
        return np.where((within >= 0) & (within % self.size == 0), found, -1)

    def columns(self, ram: GuestRam, wide: set[int], narrow: set[int]) -> Columns:
        """Read the members at these offsets, of 8 bytes (`wide`) and 4, of all structs. Raises Unreadable."""
        if max(wide, default=0) > self.size - 8 or max(narrow, default=0) > self.size - 4:
            raise Unreadable(f"members beyond the {self.size} bytes of struct page")
        words = {offset: np.zeros(ram.pages, dtype=np.uint64) for offset in wide}
        halves = {offset: np.zeros(ram.pages, dtype=np.uint32) for offset in narrow}
        known = np.zeros(ram.pages, dtype=np.bool_)
        for place, rows, ok in self.chunks(ram):
            known[place] = ok
            for offset, column in words.items():
                column[place] = rows[:, offset >> 3]
            for offset, half in halves.items():
                half[place] = rows.view(np.uint32)[:, offset >> 2]
        if not np.all(known):
            for column in words.values():
                column[~known] = 0
            for half in halves.values():
                half[~known] = 0
        return Columns(words, halves, known)


def find_mem_map(kernel: Kernel) -> MemMap:
    """Locate the struct pages of this kernel. Raises Unreadable."""
    size = kernel.profile.size("page")
    if not 0 < size <= MAX_STRUCT_BYTES or size % 8:
        raise Unreadable(f"invalid size of struct page: {size} bytes")
    base = _base(kernel)
    parts = []
    first = 0
    for region in kernel.ram.layout.regions:
        count = region.size >> PAGE_SHIFT
        start = base + (region.start >> PAGE_SHIFT) * size
        if start % PAGE_SIZE or base < -SIGN:
            raise Unreadable(f"invalid address of struct pages: {start:#x}")
        addresses = start + np.arange(0, count * size, PAGE_SIZE, dtype=np.int64)
        held = kernel.translate(addresses.view(np.uint64))
        parts.append((first, count, kernel.ram.layout.page_of(held)))
        first += count
    if all(np.all(pages < 0) for _, _, pages in parts):
        raise Unreadable("struct pages not mapped")
    return MemMap(base, size, tuple(parts))


def _base(kernel: Kernel) -> int:
    symbols = kernel.profile.symbols
    if "vmemmap_base" in symbols:
        return kernel.u64(symbols["vmemmap_base"]) - WRAP
    # Without symbols, use the first memory section.
    roots = kernel.info.symbol("mem_section")
    offset = kernel.info.offsets.get("mem_section.section_mem_map", 0)
    sections = kernel.u64(roots)
    each = max(kernel.info.sizes.get("mem_section", 16), 8)
    for number in range(min(MAX_SECTIONS, PAGE_SIZE // each)):
        value = kernel.u64(sections + number * each + offset) & ~SECTION_FLAGS
        if value & SIGN:
            return value - WRAP
    raise Unreadable("no memory section")
