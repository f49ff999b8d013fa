"""The least, the average and the greatest of some measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MinAvgMax"]


@dataclass(frozen=True, slots=True)
class MinAvgMax:
    """Over traces, pairs of traces or groups of them, as the paper tells its figures 5 and 6."""

    min: float
    avg: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> MinAvgMax:
        """ValueError for no values at all."""
        found = list(values)
        return cls(min(found), sum(found) / len(found), max(found))

    def times(self, factor: float) -> MinAvgMax:
        """Each of the three, `factor` times."""
        return MinAvgMax(self.min * factor, self.avg * factor, self.max * factor)

    def document(self) -> dict[str, float]:
        """For JSON."""
        return {"min": self.min, "avg": self.avg, "max": self.max}
