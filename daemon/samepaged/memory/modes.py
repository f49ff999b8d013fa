"""Which consistency mode a scan takes, by what the guest's last scans predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from samepaged.arch import PAGE_SIZE

__all__ = ["FallbackReason", "Plan", "ThroughputModel", "choose", "fall_back"]

# Below this, suspending and resuming are most of a snapshot's pause, and rounds of their own would make it no shorter.
SNAPSHOT_IS_SHORT: Final = 0.05
SMOOTHING: Final = 0.5
# How much faster copying is thought to be each time that it was not done for being too slow: else one bad measure would
# be the last one. A pause gets no longer by a wrong guess than by this part of it.
RECONSIDERED: Final = 1.1
# Bytes a second that copying is thought to reach before it was ever measured.
COPY_RATE: Final = 1.5e9
# Seconds that suspending and resuming are thought to take before they were measured, and that clearing a page's
# soft-dirty bit is.
OVERHEAD: Final = 0.01
CLEARING: Final = 3e-8
# Bytes; less says more of the clock than of the memory.
ENOUGH_TO_LEARN: Final = 1 << 22


@dataclass
class ThroughputModel:
    """How fast a guest's pages are dealt with; learnt as it is scanned. Where a measure is worse than what was thought
    it is believed at once, where it is better by and by: pauses are to be predicted too long rather than too short.

    `rate` is that of reading and hashing, `dump_rate` that of a dump, `copy_rate` that of copying for a witness (bytes
    a second); `overhead` is what suspending and resuming take (seconds), `looking` and `clearing` what soft-dirty bits
    do (seconds a page of the guest). `correction` is how many times longer than predicted scans suspended the guest in
    all, at least 1; `measured` says whether `rate` was measured.
    """

    rate: float = 1.5e9
    overhead: float = OVERHEAD
    looking: float = 3e-8
    clearing: float = CLEARING
    dump_rate: float = 1e9
    copy_rate: float = COPY_RATE
    correction: float = 1.0
    measured: bool = False

    def seconds(self, pages: int) -> float:
        """The seconds that reading so many pages takes."""
        return pages * PAGE_SIZE / self.rate

    def learn(self, pages: int, seconds: float) -> None:
        """Take a measure into account: so many pages were read in so many seconds."""
        if pages * PAGE_SIZE >= ENOUGH_TO_LEARN and seconds > 0:
            self.rate = _slower(self.rate, pages * PAGE_SIZE / seconds)
            self.measured = True

    def calibrate(self, pages: int, seconds: float, looking: float) -> None:
        """So many pages were read in so many seconds while the guest ran, and looking at one page's bits took so many
        seconds: better than an assumption.
        """
        if self.measured:
            self.learn(pages, seconds)
            self.looking = -_slower(-self.looking, -looking)
            return
        if pages * PAGE_SIZE >= ENOUGH_TO_LEARN and seconds > 0:
            self.rate = pages * PAGE_SIZE / seconds
        self.looking = looking
        self.measured = True

    def learn_total(self, predicted: float, seconds: float) -> None:
        """A scan suspended the guest for so many seconds in all."""
        if predicted > 0:
            measured = self.correction * seconds / predicted
            self.correction = max(1.0, -_slower(-self.correction, -measured))

    def reconsider_total(self) -> None:
        """A scan was predicted to suspend the guest for too long in all, and not tried. Only a pause measures these
        anew: without this, one bad measure would be the last.
        """
        self.correction = max(1.0, self.correction / RECONSIDERED)
        self.overhead = min(self.overhead, max(OVERHEAD, self.overhead / RECONSIDERED))
        self.clearing = min(self.clearing, max(CLEARING, self.clearing / RECONSIDERED))

    def copying_seconds(self, pages: int) -> float:
        """The seconds that copying so many pages takes."""
        return pages * PAGE_SIZE / self.copy_rate

    def learn_copying(self, pages: int, seconds: float) -> None:
        """So many pages were copied in so many seconds."""
        if pages * PAGE_SIZE >= ENOUGH_TO_LEARN and seconds > 0:
            self.copy_rate = _slower(self.copy_rate, pages * PAGE_SIZE / seconds)

    def reconsider_copying(self) -> None:
        """Copying was thought to take too long, and was not tried."""
        self.copy_rate = max(self.copy_rate, min(self.copy_rate * RECONSIDERED, COPY_RATE))

    def learn_looking(self, pages: int, seconds: float) -> None:
        """The bits of a guest of so many pages were looked at in so many seconds."""
        self.looking = -_slower(-self.looking, -seconds / pages)

    def learn_clearing(self, pages: int, seconds: float) -> None:
        """The bits of a guest of so many pages were cleared in so many seconds."""
        self.clearing = -_slower(-self.clearing, -seconds / pages)

    def learn_overhead(self, seconds: float) -> None:
        """A guest was suspended and resumed in so many seconds, what was done meanwhile left out."""
        self.overhead += SMOOTHING * (seconds - self.overhead)

    def learn_dump(self, size: int, seconds: float) -> None:
        """So many bytes were dumped in so many seconds."""
        if size >= ENOUGH_TO_LEARN and seconds > 0:
            self.dump_rate = _slower(self.dump_rate, size / seconds)


def _slower(rate: float, measured: float) -> float:
    return min(measured, rate + SMOOTHING * (measured - rate))


@dataclass(frozen=True, slots=True)
class FallbackReason:
    """Why a guest cannot be read in the way that was asked for: a word for metrics, a line for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The mode to take, why it is not a better one, and for how many seconds it is predicted to suspend the guest in
    all (0 if nothing depends on that).
    """

    mode: str
    fallback: FallbackReason | None = None
    total: float = 0.0


def fall_back(snapshot_seconds: float, max_pause: float, obstacle: FallbackReason) -> Plan:
    """What is taken where precopy cannot be: a snapshot if it is short enough, which is as exact, else slices."""
    return Plan("snapshot" if snapshot_seconds <= max_pause else "sliced", obstacle)


def choose(
    mode: str, *, paused: bool, snapshot_seconds: float, max_pause: float, obstacle: FallbackReason | None
) -> Plan:
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
    # A snapshot that fits is one of auto's own answers, and nothing to explain; slices, being less exact, are.
    return Plan("snapshot") if snapshot_seconds <= max_pause else Plan("sliced", obstacle)
