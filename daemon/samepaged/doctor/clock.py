"""Forecast of a guest's clock drift: the possible scan period, and the clock's loss per day."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.drift.budget import hourly_limit, min_drift_ppm
from samepaged.drift.window import WINDOW_SECONDS
from samepaged.formatting import seconds

if TYPE_CHECKING:
    from samepaged.config import ScanConfig

__all__ = ["ClockForecast", "clock_forecast"]

DAY_SECONDS: Final = 86_400.0
# Tolerance for rounding errors in sums that fill the hourly limit exactly.
ROUNDING_SECONDS: Final = 1e-9


@dataclass(frozen=True, slots=True)
class ClockForecast:
    """Forecast for one guest. `scan_seconds`: total suspended time of a scan. `period_seconds`: time between scans,
    None if a scan exceeds the drift budget. `interval`: the configured scan interval in seconds. `ppm`: the smallest
    sufficient scan.max_drift.
    """

    scan_seconds: float
    period_seconds: float | None
    interval: float
    ppm: int

    @property
    def loss_seconds_per_day(self) -> float:
        """Seconds that the guest's clock loses per day."""
        return 0.0 if self.period_seconds is None else self.scan_seconds * DAY_SECONDS / self.period_seconds

    @property
    def text(self) -> str:
        """The forecast as a clause of a message."""
        if self.period_seconds is None:
            return (
                f"a scan exceeds scan.max_drift: at the speeds assumed before the first scan, it suspends the guest "
                f"for {seconds(self.scan_seconds)} in total"
            )
        loss = f"the guest's clock loses about {seconds(self.loss_seconds_per_day)} per day"
        if self.period_seconds <= self.interval:
            return loss
        return f"scan.max_drift allows a scan every {self.period_seconds / 60:.0f} min; {loss}"


def clock_forecast(scan_seconds: float, scan: ScanConfig) -> ClockForecast:
    """Return the forecast for scans that each suspend the guest for a total of `scan_seconds`."""
    limit = hourly_limit(scan.max_drift)
    period: float | None = scan.interval
    if scan_seconds > 0 and not math.isinf(limit):
        hourly = math.floor(limit / scan_seconds + ROUNDING_SECONDS)
        period = max(scan.interval, WINDOW_SECONDS / hourly) if hourly else None
    return ClockForecast(scan_seconds, period, scan.interval, min_drift_ppm(scan_seconds))
