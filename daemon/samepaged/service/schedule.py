"""Schedule of the scans."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

__all__ = ["Schedule"]


@dataclass
class Schedule:
    """Scans every `interval` seconds, each up to `jitter` (a ratio) of that earlier or later, so that the hosts of a
    fleet do not all scan at once. Times are of the monotonic clock, which is independent of changes to the wall clock.
    """

    interval: float
    jitter: float
    random: random.Random = field(default_factory=random.Random)
    due: float = 0.0

    def started(self, now: float) -> None:
        """Record the start of a scan; the next is due an interval later."""
        self.due = now + self.interval * (1 + self.random.uniform(-self.jitter, self.jitter))

    def change(self, interval: float, jitter: float, now: float) -> None:
        """Apply new settings; a scan that is due stays due."""
        self.interval, self.jitter = interval, jitter
        self.due = min(self.due, now + interval)
