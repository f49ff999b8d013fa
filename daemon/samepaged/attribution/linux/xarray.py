"""XArrays (lib/xarray.c), walked a level at a time, any number of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.linux.struct_reader import columns, is_kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel

__all__ = ["xarray"]

# A node has at least 2**4 slots (XA_CHUNK_SHIFT), mostly 2**6; the lowest bits mark a pointer to a node.
MOST_LEVELS: Final = 16
MOST_SLOTS: Final = 64
SLOT_BYTES: Final = 8
NODE_MASK, NODE_MARK = np.uint64(3), np.uint64(2)


def xarray(kernel: Kernel, heads: NDArray[np.uint64], most: int) -> NDArray[np.uint64]:
    """All entries of xarrays (IDRs are such), given their `xa_head`: pointers, each once, ascending; at most `most`."""
    start, size = kernel.profile.offset("xa_node.slots"), kernel.profile.size("xa_node.slots")
    slots = range(start, start + min(size, MOST_SLOTS * SLOT_BYTES), SLOT_BYTES)
    found, entries, left_over = [np.empty(0, dtype=np.uint64)], heads, most
    for _ in range(MOST_LEVELS):
        found.append(entries[is_kernel(entries)])
        inner = entries[entries & NODE_MASK == NODE_MARK] - NODE_MARK
        # What is there besides nodes are small numbers.
        nodes = np.unique(inner[is_kernel(inner)])[:left_over]
        if not len(nodes):
            break
        left_over -= len(nodes)
        entries = np.unique(columns(kernel, nodes, slots)[0])
    return np.unique(np.concatenate(found))[:most]
