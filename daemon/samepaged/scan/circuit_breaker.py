"""Leaving a guest alone that does not take being suspended well."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from samepaged.errors import GuestError, Reason

__all__ = ["CircuitBreaker"]

FAILURES: Final = 3
LEFT_ALONE: Final = 3600.0
# How much longer than the longest pause one may take before it counts as too long: hosts are busy at times.
TOLERANCE: Final = 1.5


@dataclass
class CircuitBreaker:
    """A circuit breaker a guest (by UUID): after three scans running in which a pause failed or took too long, it is
    left alone for an hour. Times are of the monotonic clock, in seconds.
    """

    _failures: dict[str, int] = field(default_factory=dict)
    _until: dict[str, float] = field(default_factory=dict)

    def check(self, uuid: str, name: str, now: float) -> None:
        """Raise GuestError where the guest is to be left alone now."""
        left = self._until.get(uuid, now) - now
        if left > 0:
            raise GuestError(
                Reason.LEFT_ALONE,
                f"is left alone for {left / 60:.0f} more minutes: in its last {FAILURES} scans a pause failed or took "
                "much longer than scan.max_pause",
                "raise that, or set scan.mode to auto",
                domain=name,
            )
        self._until.pop(uuid, None)

    def note(self, uuid: str, now: float, *, failed: bool, longest_pause: float, max_pause: float) -> bool:
        """A scan of the guest ended, in which suspending it `failed` or not. Whether it is left alone from now on."""
        if not failed and longest_pause <= TOLERANCE * max_pause:
            self._failures.pop(uuid, None)
            return False
        self._failures[uuid] = self._failures.get(uuid, 0) + 1
        if self._failures[uuid] < FAILURES:
            return False
        del self._failures[uuid]
        self._until[uuid] = now + LEFT_ALONE
        return True

    def forget(self, running: set[str]) -> None:
        """Forget the guests that are gone."""
        for kept in (self._failures, self._until):
            for uuid in kept.keys() - running:
                del kept[uuid]
