"""The circuit breaker: after failed or too long pauses, a guest is not suspended for a while."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from samepaged.errors import GuestError, Reason

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from samepaged.guest_id import GuestId

__all__ = ["CircuitBreaker"]

MAX_FAILED_SCANS: Final = 3
OPEN_SECONDS: Final = 3600.0
# A pause counts as too long above this multiple of `max_pause`: hosts are busy at times.
MAX_PAUSE_RATIO: Final = 1.5


@dataclass
class CircuitBreaker:
    """One circuit breaker per guest: after three consecutive scans with a failed or too long pause, the guest is
    skipped for an hour. Times are of the monotonic clock, in seconds.
    """

    _failures: dict[GuestId, int] = field(default_factory=dict)
    _open_until: dict[GuestId, float] = field(default_factory=dict)

    def check(self, guest_id: GuestId, name: str, now: float) -> None:
        """Raise GuestError if the guest must be skipped now."""
        left = self._open_until.get(guest_id, now) - now
        if left > 0:
            raise GuestError(
                Reason.LEFT_ALONE,
                f"is skipped for {left / 60:.0f} more minutes: in its last {MAX_FAILED_SCANS} scans a pause failed "
                "or took much longer than scan.max_pause",
                "raise scan.max_pause, or set scan.mode to auto",
                domain=name,
            )
        self._open_until.pop(guest_id, None)

    def record(self, guest_id: GuestId, now: float, *, failed: bool, longest_pause: float, max_pause: float) -> bool:
        """Record a scan: `failed` if suspending the guest failed. Returns whether the breaker is now open."""
        if not failed and longest_pause <= MAX_PAUSE_RATIO * max_pause:
            self._failures.pop(guest_id, None)
            return False
        self._failures[guest_id] = self._failures.get(guest_id, 0) + 1
        if self._failures[guest_id] < MAX_FAILED_SCANS:
            return False
        del self._failures[guest_id]
        self._open_until[guest_id] = now + OPEN_SECONDS
        return True

    def forget(self, running: AbstractSet[GuestId]) -> None:
        """Drop the state of guests that do not run any more."""
        for kept in (self._failures, self._open_until):
            for guest_id in kept.keys() - running:
                del kept[guest_id]
