"""What scans will take of a guest's clock: how often the guest can be scanned, and what its clock loses in a day."""

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
# Sums of floating-point numbers that fill the hour's limit are not refused for their last digit.
ROUNDING_SECONDS: Final = 1e-9


@dataclass(frozen=True, slots=True)
class ClockForecast:
    """A scan suspends the guest for `scan_seconds` in all. Scans come every `period_seconds` seconds, None if the drift
    budget has no room for any; `interval` is what the configuration asks for. `ppm` is the smallest scan.max_drift that
    helps.
    """

    scan_seconds: float
    period_seconds: float | None
    interval: float
    ppm: int

    @property
    def loss_seconds_per_day(self) -> float:
        """Seconds by which the guest's clock falls behind in a day."""
        return 0.0 if self.period_seconds is None else self.scan_seconds * DAY_SECONDS / self.period_seconds

    @property
    def text(self) -> str:
        """For people, as a part of a sentence."""
        if self.period_seconds is None:
            return (
                f"no scan fits scan.max_drift: at the speeds assumed before the first scan, one suspends it for "
                f"{seconds(self.scan_seconds)} in all"
            )
        loss = f"its clock loses about {seconds(self.loss_seconds_per_day)} a day"
        if self.period_seconds <= self.interval:
            return loss
        return f"a scan every {self.period_seconds / 60:.0f} min fits scan.max_drift, and {loss}"


def clock_forecast(scan_seconds: float, scan: ScanConfig) -> ClockForecast:
    """The forecast for scans that each suspend the guest for so many seconds in all."""
    limit = hourly_limit(scan.max_drift)
    period: float | None = scan.interval
    if scan_seconds > 0 and not math.isinf(limit):
        hourly = math.floor(limit / scan_seconds + ROUNDING_SECONDS)
        period = max(scan.interval, WINDOW_SECONDS / hourly) if hourly else None
    return ClockForecast(scan_seconds, period, scan.interval, min_drift_ppm(scan_seconds))
