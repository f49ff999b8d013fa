"""A clock that advances only when a test moves it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Clock"]


@dataclass
class Clock:
    """Monotonic seconds. A call returns the time, as `time.monotonic` does; `sleep` advances the time immediately."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        """Return the time. A clock can replace the module `time`."""
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
