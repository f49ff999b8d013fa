"""Expected hash collisions in a figure: different contents with the same hash, for hashes with few bits.

Hashes are assumed to be uniform and independent. With our 64 bits, all results are below one page.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["expected_self_collisions", "expected_shared_collisions"]

# Below this part of the hash space a series is used, because the difference of two logarithms would lose all digits.
SMALL_PART: Final = 1e-2


def expected_self_collisions(distinct: int, bits: int) -> float:
    """Return the expected number of a guest's contents that were counted as copies of another content, given `distinct`
    different hashes of `bits` bits. Its self-sharing is too high by this number of pages, and |U(V)| too low.

    n contents occupy 2**bits * (1 - (1 - 2**-bits)**n) hashes on average (the birthday problem). The result is the n
    for which this equals `distinct`, minus `distinct`: n(n - 1)/2 / 2**bits for small n, infinite if every hash is
    taken. Raises ValueError if there cannot be so many hashes.
    """
    space = _space(distinct, bits)
    if distinct <= 1:
        return 0.0
    part = distinct / space
    if part == 1:
        return math.inf
    if part < SMALL_PART:
        # -log(1 - x)/x - 1, for both x and 1/space
        found, one = (_tail(value) for value in (part, 1 / space))
        return distinct * (found - one) / (1 + one)
    return math.log1p(-part) / math.log1p(-1 / space) - distinct


def expected_shared_collisions(first: int, second: int, bits: int) -> float:
    """Return the expected number of hashes that two guests without common contents have in common by chance, with
    `first` and `second` different hashes of `bits` bits. So much of their inter-VM sharing may be collisions, and less
    the more they share. Raises ValueError if there cannot be so many hashes.
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
