"""Reads members of many structs at once: a column for each member, a row for each struct."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel

__all__ = ["HALF", "KERNEL_HALF", "distinct_nodes", "is_kernel", "join_nodes", "list_entries", "read_members"]

# Members within this many bytes are read together.
MAX_GATHER_BYTES: Final = 192
WORD_BYTES: Final = 8
WRAP: Final = 1 << 64
# The lower 4 bytes of a column, for members of 4 bytes.
HALF: Final = np.uint64(0xFFFFFFFF)
KERNEL_HALF: Final = np.uint64(1 << 63)


def is_kernel(addresses: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return a mask of possible addresses of kernel objects: in the upper half, and multiples of 8."""
    possible: NDArray[np.bool_] = (addresses >= KERNEL_HALF) & (addresses & np.uint64(WORD_BYTES - 1) == 0)
    return possible


def read_members(
    kernel: Kernel, addresses: NDArray[np.uint64], offsets: Sequence[int]
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Read the members at these offsets (bytes) of the structs at `addresses`: uint64 of shape (len(offsets), n), and
    a mask of readable structs (bool, (n,)). For a member at an offset that is not a multiple of 8, the result has the
    bytes up to the next multiple. The upper bytes of a shorter member are those of its neighbours.
    """
    found = np.zeros((len(offsets), len(addresses)), dtype=np.uint64)
    ok = is_kernel(addresses)
    order = sorted(range(len(offsets)), key=lambda place: offsets[place])
    while order:
        first = offsets[order[0]] & -WORD_BYTES
        group = [place for place in order if offsets[place] < first + MAX_GATHER_BYTES]
        order = order[len(group) :]
        size = (offsets[group[-1]] & -WORD_BYTES) + WORD_BYTES - first
        words, held = kernel.gather(addresses + np.uint64(first % WRAP), size)
        ok &= held
        for place in group:
            within = offsets[place] - first
            found[place] = words[:, within // WORD_BYTES] >> np.uint64(8 * (within % WORD_BYTES))
    found[:, ~ok] = 0
    return found, ok


def list_entries(kernel: Kernel, head: int, most: int, link: int = 0) -> list[int]:
    """Return the entries of a list_head at `head`, in order: addresses of their list_heads. Stop at a visited entry, at
    an unreadable one, and after `most` entries. `link` is the offset of the pointer to follow.
    """
    found: dict[int, None] = {}
    entry = kernel.word((head + link) % WRAP)
    while entry is not None and entry not in (0, head) and entry not in found and len(found) < most:
        found[entry] = None
        entry = kernel.word((entry + link) % WRAP)
    return list(found)


def distinct_nodes(nodes: NDArray[np.uint64], owners: NDArray[np.int32], most: int) -> NDArray[np.intp]:
    """Return the index of the first occurrence of each pair of owner and node, at most `most`, ordered by pair."""
    order = np.lexsort((nodes, owners))
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (np.diff(nodes[order]) != 0) | (np.diff(owners[order]) != 0)
    return order[new][: max(most, 0)]


def join_nodes(
    found: list[NDArray[np.uint64]], owned: list[NDArray[np.int32]]
) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Join nodes found level by level, and the owner of each: every pair once."""
    if not found:
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int32)
    nodes, owners = np.concatenate(found), np.concatenate(owned)
    kept = distinct_nodes(nodes, owners, len(nodes))
    return nodes[kept], owners[kept]
