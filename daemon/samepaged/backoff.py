"""Exponential backoff."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass
class Backoff:
    """Waits that double from `first` to `longest` seconds."""

    first: float = 0.5
    longest: float = 30.0
    wait: float = 0.0

    def failed(self) -> float:
        """Return the seconds to wait after one more failure."""
        self.wait = min(2 * self.wait, self.longest) if self.wait else self.first
        return self.wait

    def succeeded(self) -> None:
        """Reset the wait."""
        self.wait = 0.0
