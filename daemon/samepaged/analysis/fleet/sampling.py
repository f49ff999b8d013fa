"""What a sample says of the whole.

A sample of 1/N has the contents whose hash is in the lowest 1/N of the hash space, each with all its pages. Hashes are
uniform, so each content is in it with probability 1/N: of D contents it has k, binomial, and N·k estimates D with a
relative standard error of sqrt((1 - 1/N) / k).
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["confidence_bounds", "relative_error"]

# Of the normal distribution, 95% are within so many standard deviations of its mean.
CONFIDENCE_DEVIATIONS: Final = 1.959964


def relative_error(found: int, sample: int) -> float | None:
    """The relative standard error of `found` · `sample`, where `found` contents are in the sample; None for none."""
    return math.sqrt((1 - 1 / sample) / found) if found else 0.0 if sample == 1 else None


def confidence_bounds(found: int, sample: int) -> tuple[int, int]:
    """Between what a count is, with 95% confidence, of which `found` contents are in the sample: the score interval,
    which holds for few contents, too. D is in it where |k - D/N| <= 1.96 · sqrt(D/N · (1 - 1/N)).
    """
    if sample == 1:
        return found, found
    variance = CONFIDENCE_DEVIATIONS * CONFIDENCE_DEVIATIONS * (1 - 1 / sample)
    middle, half = found + variance / 2, math.sqrt(found * variance + variance * variance / 4)
    # What the sample has is there.
    return max(found, math.floor(sample * (middle - half))), math.ceil(sample * (middle + half))
