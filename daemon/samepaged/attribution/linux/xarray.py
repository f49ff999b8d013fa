"""XArrays (lib/xarray.c); many are walked together, one level at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.linux.struct_reader import is_kernel, read_members

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel

__all__ = ["xarray_entries"]

# A node has at least 2**4 slots (XA_CHUNK_SHIFT), mostly 2**6; the lowest bits mark a pointer to a node.
MAX_DEPTH: Final = 16
MAX_SLOTS: Final = 64
WORD_BYTES: Final = 8
XARRAY_MASK, XARRAY_NODE = np.uint64(3), np.uint64(2)


def xarray_entries(kernel: Kernel, heads: NDArray[np.uint64], most: int) -> NDArray[np.uint64]:
    """Return all entries of xarrays and IDRs, given their `xa_head`: distinct pointers, ascending; at most `most`."""
    start, size = kernel.profile.offset("xa_node.slots"), kernel.profile.size("xa_node.slots")
    slots = range(start, start + min(size, MAX_SLOTS * WORD_BYTES), WORD_BYTES)
    found, entries, left_over = [np.empty(0, dtype=np.uint64)], heads, most
    for _ in range(MAX_DEPTH):
        found.append(entries[is_kernel(entries)])
        inner = entries[entries & XARRAY_MASK == XARRAY_NODE] - XARRAY_NODE
        # Other internal entries are small numbers.
        nodes = np.unique(inner[is_kernel(inner)])[:left_over]
        if not len(nodes):
            break
        left_over -= len(nodes)
        entries = np.unique(read_members(kernel, nodes, slots)[0])
    return np.unique(np.concatenate(found))[:most]
