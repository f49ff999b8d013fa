"""Which consistency mode a scan takes, by what the guest's last scans predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from samepaged.memory.pagemap import PAGE

__all__ = ["Obstacle", "Pace", "Plan", "choose", "fall_back"]

# Below this, suspending and resuming are most of a snapshot's pause, and rounds of their own would make it no shorter.
SNAPSHOT_IS_SHORT: Final = 0.05
SMOOTHING: Final = 0.5


@dataclass
class Pace:
    """How fast pages are read and hashed (bytes a second), and what a pause takes besides (seconds); learnt from each
    scan. It begins with less than any machine has reached, so that a first pause is predicted too long, not too short.
    """

    rate: float = 1.5e9
    overhead: float = 0.01

    def seconds(self, pages: int) -> float:
        """The seconds that reading so many pages takes."""
        return pages * PAGE / self.rate

    def learn(self, pages: int, seconds: float) -> None:
        """Take a measure into account: so many pages were read in so many seconds."""
        if pages * PAGE >= 1 << 22 and seconds > 0:  # less says more of the clock than of the memory
            self.rate += SMOOTHING * (pages * PAGE / seconds - self.rate)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a guest cannot be read in the way that was asked for: a word for metrics, a line for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The mode to take, and why it is not a better one."""

    mode: str
    fallback: Obstacle | None = None


def fall_back(snapshot_seconds: float, max_pause: float, obstacle: Obstacle) -> Plan:
    """What is taken where precopy cannot be: a snapshot if it is short enough, which is as exact, else slices."""
    return Plan("snapshot" if snapshot_seconds <= max_pause else "sliced", obstacle)


def choose(mode: str, *, paused: bool, snapshot_seconds: float, max_pause: float, obstacle: Obstacle | None) -> Plan:
    """The mode for a scan: the one asked for where it is possible; for `auto`, the most exact of those whose predicted
    pause fits `max_pause`, and of two as exact the shorter. `obstacle` says why precopy is not possible.
    """
    if paused:
        # It stands still anyway; reading it at once is exact, and takes nothing from it.
        return Plan("snapshot")
    if mode == "precopy":
        return Plan("precopy") if obstacle is None else fall_back(snapshot_seconds, max_pause, obstacle)
    if mode != "auto":
        return Plan(mode)
    if snapshot_seconds <= min(SNAPSHOT_IS_SHORT, max_pause):
        return Plan("snapshot")
    if obstacle is None:
        return Plan("precopy")
    return fall_back(snapshot_seconds, max_pause, obstacle)
