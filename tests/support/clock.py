"""A clock that stands still until a test moves it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Clock"]


@dataclass
class Clock:
    """Monotonic seconds. Called, it is `time.monotonic`; its `sleep` passes the time at once."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        """As of the module `time`, which a clock can stand for."""
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
