"""The guest's RAM in guest-physical addresses: page numbers of addresses, and the reverse."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from samepaged.arch import PAGE_SHIFT
from samepaged.arch.x86_64 import ram_regions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["RamMap", "RamRegion", "ram_maps"]


@dataclass(frozen=True, slots=True)
class RamRegion:
    """A region of guest-physical addresses with RAM: start and size in bytes."""

    start: int
    size: int


@dataclass(frozen=True, slots=True)
class RamMap:
    """Regions of the guest's RAM, in the order of its page numbers (that of the RAM blocks, as in PageDigest)."""

    regions: tuple[RamRegion, ...]

    def __post_init__(self) -> None:
        ordered = sorted(self.regions, key=lambda region: region.start)
        if any(one.start + one.size > next_.start for one, next_ in pairwise(ordered)):
            raise ValueError("regions of the guest's RAM overlap")

    @property
    def pages(self) -> int:
        """The guest's memory in pages of 4 KiB."""
        return sum(region.size for region in self.regions) >> PAGE_SHIFT

    def page_of(self, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the RAM page at each guest-physical address (int64), -1 outside RAM."""
        found = np.full(addresses.shape, -1, dtype=np.int64)
        before = 0
        for region in self.regions:
            inside = (addresses >= region.start) & (addresses < region.start + region.size)
            found[inside] = ((addresses[inside] - region.start) >> PAGE_SHIFT) + before
            before += region.size >> PAGE_SHIFT
        return found

    def page_at(self, address: int) -> int:
        """Return the RAM page at one guest-physical address, -1 outside RAM."""
        before = 0
        for region in self.regions:
            if 0 <= address - region.start < region.size:
                return (address - region.start >> PAGE_SHIFT) + before
            before += region.size >> PAGE_SHIFT
        return -1

    def address_of(self, page: int) -> int:
        """Return the guest-physical address of a RAM page, -1 for an invalid page number."""
        left = page << PAGE_SHIFT
        for region in self.regions if page >= 0 else ():
            if left < region.size:
                return region.start + left
            left -= region.size
        return -1

    def frames(self) -> NDArray[np.int64]:
        """Return the frame number (guest-physical address ÷ 4096) of each RAM page: int64 of shape (pages,)."""
        parts = [
            np.arange(region.start >> PAGE_SHIFT, (region.start + region.size) >> PAGE_SHIFT, dtype=np.int64)
            for region in self.regions
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def ram_maps(machine: str | None, memory: int, dimms: Sequence[RamRegion] = ()) -> Iterator[RamMap]:
    """Yield the possible maps of a guest of `memory` bytes (without its DIMMs, which have an address of their own), the
    likeliest first. `machine` is libvirt's machine type. Raises ValueError if regions overlap.
    """
    for regions in ram_regions(machine, memory):
        yield RamMap((*(RamRegion(start, size) for start, size in regions), *dimms))
