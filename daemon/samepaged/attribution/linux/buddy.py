"""Free pages: the blocks of the page allocator, and the per-CPU lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux.struct_reader import read_members

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel
    from samepaged.attribution.linux.struct_page import StructPages

__all__ = ["free_blocks", "pages_of_blocks", "per_cpu_free_pages"]

# The largest blocks on x86-64 have 2**10 pages; larger orders are forged.
MAX_ORDER: Final = 10
WRAP: Final = 1 << 64
POINTER_BYTES: Final = 8
LIST_HEAD_BYTES: Final = 16
# Limits of the search.
MAX_NODES: Final = 64
MAX_ZONES: Final = 8
MAX_CPUS: Final = 4096
MAX_LISTS_PER_CPU: Final = 64
MAX_LISTS: Final = 1 << 20
# mm/page_alloc.c, order_to_pindex: lists by order (0 to 3) and migrate type, then those of huge pages. If the lists are
# not more than the migrate types, all pages are single.
MIGRATE_TYPES: Final = 3
LOW_ORDERS: Final = 4
HUGE_ORDER: Final = 9


def free_blocks(frames: StructPages) -> NDArray[np.int64]:
    """Return all pages of the free blocks of the page allocator (int64, ascending)."""
    heads = np.flatnonzero(frames.free)
    return pages_of_blocks(heads, frames.private[heads], len(frames.free))


def per_cpu_free_pages(kernel: Kernel, frames: StructPages, free: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pages in per-CPU lists (int64, ascending); `free` are the other free pages. Raises Unreadable."""
    heads, numbers, count = _list_heads(kernel)
    possible = frames.idle & ~frames.slab & ~frames.reserved
    possible[free] = False
    candidates = np.flatnonzero(possible)
    place = np.full(len(frames.readable) + 1, -1, dtype=np.int64)
    place[candidates] = np.arange(len(candidates))
    link = np.uint64(kernel.profile.offset("page.lru"))
    following = place[frames.pages_at(kernel, frames.link[candidates] - link)].tolist()
    firsts, ok = kernel.words(heads)
    starts = place[frames.pages_at(kernel, firsts - link)]
    orders = np.zeros(len(candidates), dtype=np.uint64)
    found = np.zeros(len(candidates), dtype=np.bool_)
    single = count <= MIGRATE_TYPES
    for start, number in zip(starts[ok].tolist(), numbers[ok].tolist(), strict=True):
        members = []
        # A list ends at its head, which is not a page. A list that returns to a visited page is forged.
        while start >= 0 and not found[start]:
            found[start] = True
            members.append(start)
            start = following[start]  # noqa: PLW2901 - the walk itself
        low = number < LOW_ORDERS * MIGRATE_TYPES
        orders[members] = 0 if single else number // MIGRATE_TYPES if low else HUGE_ORDER
    return pages_of_blocks(candidates[found], orders[found], len(frames.readable))


def _list_heads(kernel: Kernel) -> tuple[NDArray[np.uint64], NDArray[np.int64], int]:
    """Return the addresses of all CPUs' list heads in all zones, the index of each, and the lists per CPU and zone."""
    profile = kernel.profile
    zones = _zones(kernel)
    sets = profile.offset("zone.per_cpu_pageset", "zone.pageset")
    nested = 0 if "zone.per_cpu_pageset" in profile.offsets else profile.offset("per_cpu_pageset.pcp")
    lists = profile.offset("per_cpu_pages.lists") + nested
    count = min(profile.size("per_cpu_pages.lists") // LIST_HEAD_BYTES, MAX_LISTS_PER_CPU)
    cpus = min(kernel.u32(profile.symbol("nr_cpu_ids")), MAX_CPUS)
    places = profile.symbol("__per_cpu_offset") + np.arange(cpus, dtype=np.uint64) * np.uint64(POINTER_BYTES)
    offsets, ok = kernel.words(places)
    (pointers,), there = read_members(kernel, zones, (sets,))
    # Each zone and CPU has its own. With all of these numbers at their limits, there would be too many.
    pointers, offsets = np.unique(pointers[there]), np.unique(offsets[ok])
    if len(pointers) * len(offsets) * count > MAX_LISTS:
        raise Unreadable("more per-CPU lists than the limit")
    base = (pointers[:, None] + offsets[None, :]).reshape(-1) + np.uint64(lists)
    numbers = np.arange(count, dtype=np.int64)
    heads = base[:, None] + numbers.astype(np.uint64) * np.uint64(LIST_HEAD_BYTES)
    return heads.reshape(-1), np.broadcast_to(numbers, heads.shape).reshape(-1), count


def _zones(kernel: Kernel) -> NDArray[np.uint64]:
    """Return the addresses of all zones of all nodes."""
    profile = kernel.profile
    size = profile.size("zone")
    if profile.has("node_data"):
        nodes = min(max(kernel.u32(profile.symbols["nr_node_ids"]), 1), MAX_NODES) if profile.has("nr_node_ids") else 1
        table = profile.symbol("node_data") + np.arange(nodes, dtype=np.uint64) * np.uint64(POINTER_BYTES)
        found, _ = kernel.words(table)
        found = found[found != 0]
    else:
        found = np.array([profile.symbol("contig_page_data")], dtype=np.uint64)
    if not len(found):
        raise Unreadable("no memory nodes")
    first = profile.offset("pglist_data.node_zones")
    zones = min(profile.size("pglist_data.node_zones") // size, MAX_ZONES) if size else 0
    within = np.uint64(first) + np.arange(zones, dtype=np.uint64) * np.uint64(size)
    return (found[:, None] + within).reshape(-1)


def pages_of_blocks(heads: NDArray[np.int64], orders: NDArray[np.uint64], pages: int) -> NDArray[np.int64]:
    """Return all pages (int64, ascending) of blocks of 2**order pages, given their heads."""
    lengths = np.int64(1) << np.minimum(orders, np.uint64(MAX_ORDER)).astype(np.int64)
    lengths[orders > MAX_ORDER] = 1
    edges = np.zeros(pages + 1, dtype=np.int32)
    np.add.at(edges, heads, 1)
    np.add.at(edges, np.minimum(heads + lengths, pages), -1)
    return np.flatnonzero(np.cumsum(edges[:-1]) > 0)
