"""Estimation from samples.

A sample of 1/N has the contents in the lowest 1/N of the hash space, each with all its pages. Hashes are uniform, so
each content is in it with probability 1/N. Of D contents the sample has k, binomially distributed, and N·k estimates D
with a relative standard error of sqrt((1 - 1/N) / k).
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["confidence_bounds", "relative_error"]

# 95% of a normal distribution lie within this number of standard deviations from its mean.
CONFIDENCE_DEVIATIONS: Final = 1.959964


def relative_error(found: int, sample: int) -> float | None:
    """Return the relative standard error of `found` · `sample`, for `found` contents in the sample; None for none."""
    return math.sqrt((1 - 1 / sample) / found) if found else 0.0 if sample == 1 else None


def confidence_bounds(found: int, sample: int) -> tuple[int, int]:
    """Return the 95% confidence interval of a count with `found` contents in the sample: the score interval, which is
    also valid for few contents. It contains D if |k - D/N| <= 1.96 · sqrt(D/N · (1 - 1/N)).
    """
    if sample == 1:
        return found, found
    variance = CONFIDENCE_DEVIATIONS * CONFIDENCE_DEVIATIONS * (1 - 1 / sample)
    middle, half = found + variance / 2, math.sqrt(found * variance + variance * variance / 4)
    # The sampled contents exist.
    return max(found, math.floor(sample * (middle - half))), math.ceil(sample * (middle + half))
