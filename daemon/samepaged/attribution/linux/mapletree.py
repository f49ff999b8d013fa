"""Maple trees (lib/maple_tree.c); many trees are walked together, one level at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.linux.struct_reader import distinct_nodes, is_kernel, join_nodes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel

__all__ = ["maple_entries"]

# Maximum height of a maple tree (MAPLE_HEIGHT_MAX).
MAX_DEPTH: Final = 31
# include/linux/maple_tree.h, lib/maple_tree.c: nodes of 256 bytes; bits 3 to 6 of a pointer are the node's type.
NODE_BYTES: Final = 256
NODE_MASK: Final = np.uint64(~(NODE_BYTES - 1) % (1 << 64))
TYPE_SHIFT: Final = np.uint64(3)
TYPE_MASK: Final = np.uint64(15)
ROOT_MASK, ROOT_NODE = np.uint64(3), np.uint64(2)
# Node types, if BTF does not have the enumerators.
LEAF, RANGE, ARANGE = 1, 2, 3


def maple_entries(kernel: Kernel, roots: NDArray[np.uint64], most: int) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Return all entries of maple trees, given their `ma_root`: pointers, and each one's root; about `most` at most."""
    shape = _Shape(kernel)
    owners = np.arange(len(roots), dtype=np.int32)
    # The root of a tree with one entry is that entry.
    single = is_kernel(roots)
    found, owned = [roots[single]], [owners[single]]
    # Only the root marks a node in its lowest bits.
    inner = roots & ROOT_MASK == ROOT_NODE
    nodes, owners, highest = roots[inner], owners[inner], np.full(int(inner.sum()), ~np.uint64(0))
    budget = most
    for _ in range(MAX_DEPTH):
        is_node = is_kernel(nodes & NODE_MASK)
        nodes, owners, highest = nodes[is_node], owners[is_node], highest[is_node]
        first = distinct_nodes(nodes & NODE_MASK, owners, budget)
        if not len(first):
            break
        nodes, owners, highest = nodes[first], owners[first], highest[first]
        budget -= len(first)
        slots, tops, leaf = shape.slots(kernel, nodes, highest)
        rows, places = np.nonzero(slots)
        entries, of, below = slots[rows, places], owners[rows], tops[rows, places]
        bottom = leaf[rows]
        kept = bottom & is_kernel(entries)
        found.append(entries[kept])
        owned.append(of[kept])
        budget -= int(kept.sum())
        nodes, owners, highest = entries[~bottom], of[~bottom], below[~bottom]
    return join_nodes(found, owned)


class _Shape:
    """Layout of this kernel's maple nodes."""

    def __init__(self, kernel: Kernel) -> None:
        profile = kernel.profile
        known = profile.enumerators
        self.leaf = known.get("maple_leaf_64", LEAF)
        self.range = known.get("maple_range_64", RANGE)
        self.arange = known.get("maple_arange_64", ARANGE)
        self.parts = {
            kind: tuple(
                slice(start // 8, start // 8 + min(profile.size(f"{kind}.{part}"), NODE_BYTES - start) // 8)
                for part in ("pivot", "slot")
                for start in (profile.offset(f"{kind}.{part}"),)
            )
            for kind in ("maple_range_64", "maple_arange_64")
        }

    def slots(
        self, kernel: Kernel, nodes: NDArray[np.uint64], highest: NDArray[np.uint64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]]:
        """Return the entries of each node, 0 for unused slots; the highest index below each; and whether the node is a
        leaf.
        """
        words, ok = kernel.gather(nodes & NODE_MASK, NODE_BYTES)
        kind = (nodes >> TYPE_SHIFT & TYPE_MASK).astype(np.int64)
        widest = max(part.stop - part.start for _, part in self.parts.values())
        slots = np.zeros((len(nodes), widest), dtype=np.uint64)
        tops = np.zeros((len(nodes), widest), dtype=np.uint64)
        for name, kinds in (("maple_range_64", (self.leaf, self.range)), ("maple_arange_64", (self.arange,))):
            chosen = np.flatnonzero(ok & np.isin(kind, kinds))
            pivot, slot = self.parts[name]
            width = slot.stop - slot.start
            limit = highest[chosen, None]
            pivots = np.concatenate((words[chosen, pivot][:, : width - 1], limit), axis=1)
            # The last slot of a node has the node's own limit as its pivot, or an unused pivot (0).
            going_on = (pivots != 0) & (pivots < limit)
            used = np.ones((len(chosen), width), dtype=np.bool_)
            used[:, 1:] = np.logical_and.accumulate(going_on[:, : width - 1], axis=1)
            slots[chosen, :width] = np.where(used, words[chosen, slot], 0)
            tops[chosen, :width] = np.where(going_on, pivots, limit)
        return slots, tops, kind == self.leaf
