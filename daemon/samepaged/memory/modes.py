"""The consistency mode of a scan: measured throughput of reading a guest, predicted pauses, and the choice of a mode
by these and the drift budget.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.drift.budget import budget_error
from samepaged.memory.pagemap import PRESENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samepaged.drift.budget import DriftBudget
    from samepaged.memory.process_ram import ProcessRam

__all__ = [
    "DRIFT",
    "SHORT_SNAPSHOT_SECONDS",
    "SLICE_RATIO",
    "FallbackReason",
    "Plan",
    "ThroughputModel",
    "Workload",
    "calibrate",
    "choose_mode",
    "fallback_plan",
    "fit_budget",
    "total_pause_seconds",
]

SMOOTHING: Final = 0.5
# Each time that a prediction refuses a scan or a copy, the predicted speed rises by this factor: without another
# measurement, one bad value would persist. A wrong value lengthens a pause by at most this factor.
RECONSIDER_FACTOR: Final = 1.1
# Assumed before the first measurement.
COPY_BYTES_PER_SECOND: Final = 1.5e9
OVERHEAD_SECONDS: Final = 0.01
CLEARING_SECONDS_PER_PAGE: Final = 3e-8
# A smaller sample measures the clock rather than the memory.
MIN_SAMPLE_BYTES: Final = 1 << 22


@dataclass
class ThroughputModel:
    """Measured speeds of reading a guest. A slower measurement counts immediately, a faster one gradually, because a
    prediction that is too long does less harm than one that is too short.

    `rate` is the speed of reading and hashing, `dump_rate` of a dump, `copy_rate` of copying for an observer (bytes
    per second). `overhead` is the time to suspend and resume (seconds). `looking` and `clearing` are the times to read
    and to clear the soft-dirty bits (seconds per page of the guest). `correction` is the ratio of measured to predicted
    pauses of whole scans, at least 1. `measured` is true if `rate` is a measurement.
    """

    rate: float = 1.5e9
    overhead: float = OVERHEAD_SECONDS
    looking: float = 3e-8
    clearing: float = CLEARING_SECONDS_PER_PAGE
    dump_rate: float = 1e9
    copy_rate: float = COPY_BYTES_PER_SECOND
    correction: float = 1.0
    measured: bool = False

    def seconds(self, pages: int) -> float:
        """Predicted seconds to read and hash this number of pages."""
        return pages * PAGE_SIZE / self.rate

    def learn(self, pages: int, seconds: float) -> None:
        """Record that this number of pages was read and hashed in this many seconds."""
        if pages * PAGE_SIZE >= MIN_SAMPLE_BYTES and seconds > 0:
            self.rate = _slower(self.rate, pages * PAGE_SIZE / seconds)
            self.measured = True

    def calibrate(self, pages: int, seconds: float, looking: float) -> None:
        """Record that a sample of pages was read in this many seconds while the guest ran, and that reading its
        soft-dirty bits took `looking` seconds per page. This replaces the assumed values.
        """
        if self.measured:
            self.learn(pages, seconds)
            self.looking = -_slower(-self.looking, -looking)
            return
        if pages * PAGE_SIZE >= MIN_SAMPLE_BYTES and seconds > 0:
            self.rate = pages * PAGE_SIZE / seconds
        self.looking = looking
        self.measured = True

    def learn_total(self, predicted: float, seconds: float) -> None:
        """Record that a scan suspended the guest for this many seconds in total."""
        if predicted > 0:
            measured = self.correction * seconds / predicted
            self.correction = max(1.0, -_slower(-self.correction, -measured))

    def reconsider_total(self) -> None:
        """Lower the predictions after a scan was refused because its predicted pauses were too long. Only a pause
        measures these values again, so without this one bad measurement would persist.
        """
        self.correction = max(1.0, self.correction / RECONSIDER_FACTOR)
        self.overhead = min(self.overhead, max(OVERHEAD_SECONDS, self.overhead / RECONSIDER_FACTOR))
        self.clearing = min(self.clearing, max(CLEARING_SECONDS_PER_PAGE, self.clearing / RECONSIDER_FACTOR))

    def copying_seconds(self, pages: int) -> float:
        """Predicted seconds to copy this number of pages."""
        return pages * PAGE_SIZE / self.copy_rate

    def learn_copying(self, pages: int, seconds: float) -> None:
        """Record that this number of pages was copied in this many seconds."""
        if pages * PAGE_SIZE >= MIN_SAMPLE_BYTES and seconds > 0:
            self.copy_rate = _slower(self.copy_rate, pages * PAGE_SIZE / seconds)

    def reconsider_copying(self) -> None:
        """Raise the predicted speed after a copy was skipped because its predicted time was too long."""
        self.copy_rate = max(self.copy_rate, min(self.copy_rate * RECONSIDER_FACTOR, COPY_BYTES_PER_SECOND))

    def learn_looking(self, pages: int, seconds: float) -> None:
        """Record that reading the soft-dirty bits of this number of pages took this many seconds."""
        self.looking = -_slower(-self.looking, -seconds / pages)

    def learn_clearing(self, pages: int, seconds: float) -> None:
        """Record that clearing the soft-dirty bits of this number of pages took this many seconds."""
        self.clearing = -_slower(-self.clearing, -seconds / pages)

    def learn_overhead(self, seconds: float) -> None:
        """Record that suspending and resuming, without the reading, took this many seconds."""
        self.overhead += SMOOTHING * (seconds - self.overhead)

    def learn_dump(self, size: int, seconds: float) -> None:
        """Record that this number of bytes was dumped in this many seconds."""
        if size >= MIN_SAMPLE_BYTES and seconds > 0:
            self.dump_rate = _slower(self.dump_rate, size / seconds)


def _slower(rate: float, measured: float) -> float:
    return min(measured, rate + SMOOTHING * (measured - rate))


# The sample of `calibrate`: number of stretches of memory, pagemap entries read for each, and present pages hashed of
# each. In total, it reads the pagemap of 4 GiB, which takes about 20 ms, and hashes at most 64 MiB of memory.
STRETCHES: Final = 8
STRETCH_PAGES: Final = 1 << 17
SAMPLE_PAGES: Final = 1 << 11


def calibrate(ram: ProcessRam, throughput: ThroughputModel) -> None:
    """Measure rates on a sample of the guest's pages without suspending the guest. Raises GuestError."""
    starts = np.unique(np.linspace(0, max(0, ram.pages - STRETCH_PAGES), STRETCHES).astype(np.intp))
    looked, looking, chosen = 0, 0.0, []
    for first in starts.tolist():
        last = min(ram.pages, first + STRETCH_PAGES)
        began = time.monotonic()
        entries = ram.entries(first, last)
        present = np.flatnonzero(entries >= PRESENT)
        looking += time.monotonic() - began
        looked += last - first
        chosen.append(present[:SAMPLE_PAGES] + first)
    pages = np.unique(np.concatenate(chosen))  # stretches of a small guest overlap
    digest = np.zeros(ram.pages, dtype=np.uint64)  # takes memory only for the pages that are written
    began = time.monotonic()
    ram.hash_pages(pages, digest)
    throughput.calibrate(len(pages), time.monotonic() - began, looking / looked)


# Below this length, a snapshot's pause is mostly suspending and resuming, and precopy does not shorten it.
SHORT_SNAPSHOT_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class FallbackReason:
    """The reason for another mode or reader than the preferred one: a code for metrics, and a text for reports."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The chosen mode, the reason against a better mode, and the predicted sum of its pauses in seconds (0 if it is
    not needed).
    """

    mode: str
    fallback: FallbackReason | None = None
    total: float = 0.0


DRIFT: Final = FallbackReason("drift", "precopy would exceed the rest of the hour's drift budget (scan.max_drift)")
# The part of scan.max_pause after which a slice ends. The rest is a reserve for resuming and for a busy host.
SLICE_RATIO: Final = 0.5
# Reads of the soft-dirty bits by precopy: the first finds the pages left to read, the second the few written meanwhile.
PRECOPY_LOOKS: Final = 2


@dataclass(frozen=True, slots=True)
class Workload:
    """Pages of a guest's memory, pages that the host backs, and whether precopy starts without an earlier scan."""

    pages: int
    backed: int
    first: bool


def total_pause_seconds(work: Workload, throughput: ThroughputModel, max_pause: float) -> dict[str, float]:
    """Predicted sum of a scan's pauses in seconds, by mode."""
    read = throughput.seconds(work.backed)
    looking, clearing = throughput.looking * work.pages, throughput.clearing * work.pages
    slices = max(1, math.ceil(read / (SLICE_RATIO * max_pause)))
    predicted = {
        "snapshot": throughput.overhead + read,
        "precopy": work.first * throughput.overhead + PRECOPY_LOOKS * (throughput.overhead + looking) + clearing,
        "sliced": slices * throughput.overhead + read,
    }
    return {mode: throughput.correction * seconds for mode, seconds in predicted.items()} | {"live": 0.0}


def fit_budget(
    chosen: Plan,
    predicted: Mapping[str, float],
    budget: DriftBudget,
    *,
    auto: bool,
    snapshot_fits: bool,
    obstacle: FallbackReason | None,
) -> Plan:
    """Return the chosen mode or, with `auto`, a cheaper one, with its predicted total. `snapshot_fits` is true if a
    snapshot is short enough for `auto`. `obstacle` is the reason against precopy. Raises GuestError if no mode fits the
    budget.
    """
    left = budget.remaining_seconds()
    if predicted[chosen.mode] <= left:
        return replace(chosen, total=predicted[chosen.mode])
    possible = {"snapshot": snapshot_fits, "precopy": obstacle is None, "sliced": True}
    others = [mode for mode, can in possible.items() if can] if auto else [chosen.mode]
    for mode in others:
        if predicted[mode] <= left:
            return Plan(mode, (obstacle or DRIFT) if mode == "sliced" else None, predicted[mode])
    raise budget_error(budget, min(predicted[mode] for mode in others))


def fallback_plan(snapshot_seconds: float, max_pause: float, obstacle: FallbackReason) -> Plan:
    """The plan without precopy: a snapshot, which is equally exact, if it is short enough; else slices."""
    return Plan("snapshot" if snapshot_seconds <= max_pause else "sliced", obstacle)


def choose_mode(
    mode: str, *, paused: bool, snapshot_seconds: float, max_pause: float, obstacle: FallbackReason | None
) -> Plan:
    """Choose the mode for a scan: the requested mode if it is possible; for `auto`, the most exact mode with a
    predicted pause within `max_pause`, and of two equally exact modes the shorter. `obstacle` is the reason against
    precopy.
    """
    if paused:
        # A snapshot of a paused guest is exact, and does not suspend it any longer.
        return Plan("snapshot")
    if mode == "precopy":
        return Plan("precopy") if obstacle is None else fallback_plan(snapshot_seconds, max_pause, obstacle)
    if mode != "auto":
        return Plan(mode)
    if snapshot_seconds <= min(SHORT_SNAPSHOT_SECONDS, max_pause):
        return Plan("snapshot")
    if obstacle is None:
        return Plan("precopy")
    # A snapshot within max_pause is as exact as precopy; slices are less exact, so the plan has the reason.
    return Plan("snapshot") if snapshot_seconds <= max_pause else Plan("sliced", obstacle)
