"""The drift budget: the time for which a guest may be suspended within an hour, and the error for a scan above it."""

from __future__ import annotations

import math
from typing import Final, Protocol

from samepaged.drift.window import WINDOW_SECONDS
from samepaged.errors import GuestError, Reason
from samepaged.formatting import seconds as seconds_text

__all__ = [
    "UNLIMITED",
    "DriftBudget",
    "FixedBudget",
    "budget_error",
    "exhausted_error",
    "hourly_limit",
    "min_drift_ppm",
]


class DriftBudget(Protocol):
    """The time for which one guest may still be suspended."""

    @property
    def limit(self) -> float:
        """Limit in seconds within any hour; infinite if unlimited."""

    def remaining_seconds(self) -> float:
        """Seconds that remain now: 0 or more."""

    def seconds_until(self, seconds: float) -> float:
        """Wait in seconds until `seconds` remain; infinite if the limit is smaller."""


class FixedBudget:
    """A budget without earlier pauses."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def remaining_seconds(self) -> float:
        """Seconds that remain: the limit."""
        return self.limit

    def seconds_until(self, seconds: float) -> float:
        """Wait in seconds until `seconds` remain: 0, or infinite if the limit is smaller."""
        return 0.0 if seconds <= self.limit else math.inf


UNLIMITED: Final = FixedBudget(math.inf)


def hourly_limit(max_drift: float) -> float:
    """Limit in seconds within any hour, from `scan.max_drift`; a ratio of 1 means unlimited."""
    return math.inf if max_drift >= 1 else max_drift * WINDOW_SECONDS


def budget_error(budget: DriftBudget, seconds: float) -> GuestError:
    """The error for a scan that would suspend the guest for `seconds` in total, more than the budget allows."""
    wait = budget.seconds_until(seconds)
    expected = f"a scan would suspend the guest for about {seconds_text(seconds)} in total"
    allowed = f"scan.max_drift allows {seconds_text(budget.limit)} within an hour"
    if math.isinf(wait):
        return GuestError(
            Reason.DRIFT_BUDGET,
            f"{expected}, but {allowed}",
            f"set scan.max_drift to {min_drift_ppm(seconds)}ppm or more, or scan.mode to live",
        )
    return GuestError(
        Reason.DRIFT_BUDGET,
        f"{expected}, {allowed}, and {seconds_text(budget.remaining_seconds())} remain",
        f"the next scan fits in {max(1, math.ceil(wait / 60))} min",
    )


def exhausted_error() -> GuestError:
    """The error for a pause that took longer than predicted and used up the budget."""
    return GuestError(
        Reason.DRIFT_BUDGET,
        "reading the guest took longer than predicted and used up the drift budget (scan.max_drift); this scan is "
        "void, and the next one starts when the hourly budget allows it",
    )


def min_drift_ppm(seconds: float) -> int:
    """The smallest `scan.max_drift` in ppm, with two digits, that allows one such scan an hour."""
    ppm = seconds / WINDOW_SECONDS * 1e6
    step: int = 10 ** max(0, math.floor(math.log10(max(ppm, 1))) - 1)
    return min(1_000_000, math.ceil(ppm / step) * step)
