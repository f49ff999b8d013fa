"""Red-black trees (lib/rbtree.c); many trees are walked together, one level at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.linux.struct_reader import distinct_nodes, is_kernel, join_nodes, read_members

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel

__all__ = ["rb_nodes"]

# Maximum depth of a red-black tree of 2**32 nodes.
MAX_DEPTH: Final = 64


def rb_nodes(
    kernel: Kernel, roots: NDArray[np.uint64], left: int, right: int, most: int
) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Return all nodes below `roots` (0 for an empty tree), each once for each tree, at most `most`: addresses of
    rb_nodes, and the index of each one's root. `left` and `right` are the offsets of rb_left and rb_right.
    """
    found: list[NDArray[np.uint64]] = []
    owned: list[NDArray[np.int32]] = []
    nodes, owners = roots, np.arange(len(roots), dtype=np.int32)
    left_over = most
    for _ in range(MAX_DEPTH):
        real = is_kernel(nodes)
        nodes, owners = nodes[real], owners[real]
        kept = distinct_nodes(nodes, owners, left_over)
        if not len(kept):
            break
        nodes, owners = nodes[kept], owners[kept]
        (lower, upper), ok = read_members(kernel, nodes, (left, right))
        found.append(nodes[ok])
        owned.append(owners[ok])
        left_over -= len(nodes)
        nodes, owners = np.concatenate((lower, upper)), np.concatenate((owners, owners))
    return join_nodes(found, owned)
