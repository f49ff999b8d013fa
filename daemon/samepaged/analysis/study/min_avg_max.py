"""Minimum, average and maximum of measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MinAvgMax"]


@dataclass(frozen=True, slots=True)
class MinAvgMax:
    """Minimum, average and maximum over traces, pairs or groups of traces, as in the paper's figures 5 and 6."""

    min: float
    avg: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> MinAvgMax:
        """Return those of `values`. Raises ValueError if there are no values."""
        found = list(values)
        return cls(min(found), sum(found) / len(found), max(found))

    def times(self, factor: float) -> MinAvgMax:
        """Return all three multiplied by `factor`."""
        return MinAvgMax(self.min * factor, self.avg * factor, self.max * factor)

    def document(self) -> dict[str, float]:
        """Return the JSON object."""
        return {"min": self.min, "avg": self.avg, "max": self.max}
