"""How much of a figure may be collisions: two contents with one hash, where hashes have few bits.

Hashes are taken to be uniform and independent. With the 64 bits of our own, all of this is below one page.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["expected_self_collisions", "expected_shared_collisions"]

# Below this part of the hash space a series says it: the difference of two logarithms would have no digits left.
SMALL_PART: Final = 1e-2


def expected_self_collisions(distinct: int, bits: int) -> float:
    """How many contents of a guest are expected to have been taken for copies of another, where `distinct` different
    hashes of `bits` bits were found in it: that many too many pages are in its self-sharing, and too few in |U(V)|.

    n contents occupy 2**bits * (1 - (1 - 2**-bits)**n) hashes on average (the birthday problem); this is the n for
    which that is `distinct`, less `distinct`: n(n - 1)/2 / 2**bits for small n, infinite where every hash is taken.
    ValueError where there cannot be so many.
    """
    space = _space(distinct, bits)
    if distinct <= 1:
        return 0.0
    part = distinct / space
    if part == 1:
        return math.inf
    if part < SMALL_PART:
        # -log(1 - x)/x and the same of 1/space, less the 1 of each
        found, one = (_tail(value) for value in (part, 1 / space))
        return distinct * (found - one) / (1 + one)
    return math.log1p(-part) / math.log1p(-1 / space) - distinct


def expected_shared_collisions(first: int, second: int, bits: int) -> float:
    """How many hashes two guests are expected to have in common by chance, with so many different hashes of `bits` bits
    each and no common content: that much of their inter-VM sharing may be collisions, and less the more they share.
    ValueError where there cannot be so many.
    """
    return first * second / max(_space(first, bits), _space(second, bits))


def _tail(part: float) -> float:
    """-log(1 - x)/x - 1, for a small x."""
    return math.fsum(part**power / (power + 1) for power in range(1, 12))


def _space(distinct: int, bits: int) -> int:
    if not 1 <= bits <= 64:  # noqa: PLR2004 - as many as a hash has at most
        raise ValueError(f"a hash has 1 to 64 bits, not {bits}")
    if not 0 <= distinct <= 1 << bits:
        raise ValueError(f"{distinct} different hashes of {bits} bits are impossible")
    return 1 << bits
