"""Where a guest's RAM lies in its guest-physical addresses: below the hole that PCI needs under 4 GiB, and above it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["RamLayout", "Region", "ram_layouts"]

PAGE_SHIFT: Final = 12
MIB: Final = 1 << 20
GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of guest-physical addresses with RAM behind it: where it starts and how long it is, in bytes."""

    start: int
    size: int


@dataclass(frozen=True, slots=True)
class RamLayout:
    """Where the RAM lies, in the order in which its pages are counted (that of the RAM blocks, as in PageDigest)."""

    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        ordered = sorted(self.regions, key=lambda region: region.start)
        if any(one.start + one.size > next_.start for one, next_ in pairwise(ordered)):
            raise ValueError("regions of a guest's RAM overlap")

    @property
    def pages(self) -> int:
        """The guest's memory in pages of 4 KiB."""
        return sum(region.size for region in self.regions) >> PAGE_SHIFT

    def page_of(self, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
        """The RAM page at each guest-physical address (int64), -1 where there is no RAM."""
        found = np.full(addresses.shape, -1, dtype=np.int64)
        before = 0
        for region in self.regions:
            inside = (addresses >= region.start) & (addresses < region.start + region.size)
            found[inside] = ((addresses[inside] - region.start) >> PAGE_SHIFT) + before
            before += region.size >> PAGE_SHIFT
        return found

    def page_at(self, address: int) -> int:
        """The RAM page at one guest-physical address, -1 where there is no RAM."""
        before = 0
        for region in self.regions:
            if 0 <= address - region.start < region.size:
                return (address - region.start >> PAGE_SHIFT) + before
            before += region.size >> PAGE_SHIFT
        return -1

    def address_of(self, page: int) -> int:
        """The guest-physical address of a RAM page, -1 where there is no such page."""
        left = page << PAGE_SHIFT
        for region in self.regions if page >= 0 else ():
            if left < region.size:
                return region.start + left
            left -= region.size
        return -1

    def frames(self) -> NDArray[np.int64]:
        """The frame number (guest-physical address ÷ 4096) of each RAM page: int64 of shape (pages,)."""
        parts = [
            np.arange(region.start >> PAGE_SHIFT, (region.start + region.size) >> PAGE_SHIFT, dtype=np.int64)
            for region in self.regions
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def ram_layouts(machine: str | None, memory: int, dimms: Sequence[Region] = ()) -> Iterator[RamLayout]:
    """How a guest of `memory` bytes (without its DIMMs, which say themselves where they lie) may be laid out, the
    likeliest first; `machine` is libvirt's machine type. QEMU: pc_q35_init and pc_init1.
    """
    q35 = _split(memory, low=2 * GIB, most=2816 * MIB)
    i440fx = _split(memory, low=3 * GIB, most=3584 * MIB)
    i440fx_old = _split(memory, low=3584 * MIB, most=3584 * MIB)
    named = machine or ""
    first = [q35, i440fx, i440fx_old] if "q35" in named or "pc" not in named else [i440fx, i440fx_old, q35]
    seen: list[tuple[Region, ...]] = []
    for regions in first:
        if regions not in seen:
            seen.append(regions)
            yield RamLayout((*regions, *dimms))


def _split(memory: int, low: int, most: int) -> tuple[Region, ...]:
    """All of it below the hole where that is big enough for `most` bytes; else `low` bytes below it."""
    if memory < most or memory <= low:
        return (Region(0, memory),)
    return Region(0, low), Region(4 * GIB, memory - low)
