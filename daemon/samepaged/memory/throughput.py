"""Throughput of reading a guest, learnt from its scans or measured while it runs: the basis of predicted pauses."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.memory.pagemap import PRESENT

if TYPE_CHECKING:
    from samepaged.memory.process_ram import ProcessRam

__all__ = ["ThroughputModel", "calibrate"]

SMOOTHING: Final = 0.5
# How much faster copying is thought to be each time that it was not done for being too slow: else one bad measure would
# be the last one. A pause gets no longer by a wrong guess than by this part of it.
RECONSIDER_FACTOR: Final = 1.1
# Bytes a second that copying is thought to reach before it was ever measured.
COPY_BYTES_PER_SECOND: Final = 1.5e9
# Seconds that suspending and resuming are thought to take before they were measured, and that clearing a page's
# soft-dirty bit is.
OVERHEAD_SECONDS: Final = 0.01
CLEARING_SECONDS_PER_PAGE: Final = 3e-8
# Bytes; less says more of the clock than of the memory.
MIN_SAMPLE_BYTES: Final = 1 << 22


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
    overhead: float = OVERHEAD_SECONDS
    looking: float = 3e-8
    clearing: float = CLEARING_SECONDS_PER_PAGE
    dump_rate: float = 1e9
    copy_rate: float = COPY_BYTES_PER_SECOND
    correction: float = 1.0
    measured: bool = False

    def seconds(self, pages: int) -> float:
        """The seconds that reading so many pages takes."""
        return pages * PAGE_SIZE / self.rate

    def learn(self, pages: int, seconds: float) -> None:
        """Take a measure into account: so many pages were read in so many seconds."""
        if pages * PAGE_SIZE >= MIN_SAMPLE_BYTES and seconds > 0:
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
        if pages * PAGE_SIZE >= MIN_SAMPLE_BYTES and seconds > 0:
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
        self.correction = max(1.0, self.correction / RECONSIDER_FACTOR)
        self.overhead = min(self.overhead, max(OVERHEAD_SECONDS, self.overhead / RECONSIDER_FACTOR))
        self.clearing = min(self.clearing, max(CLEARING_SECONDS_PER_PAGE, self.clearing / RECONSIDER_FACTOR))

    def copying_seconds(self, pages: int) -> float:
        """The seconds that copying so many pages takes."""
        return pages * PAGE_SIZE / self.copy_rate

    def learn_copying(self, pages: int, seconds: float) -> None:
        """So many pages were copied in so many seconds."""
        if pages * PAGE_SIZE >= MIN_SAMPLE_BYTES and seconds > 0:
            self.copy_rate = _slower(self.copy_rate, pages * PAGE_SIZE / seconds)

    def reconsider_copying(self) -> None:
        """Copying was thought to take too long, and was not tried."""
        self.copy_rate = max(self.copy_rate, min(self.copy_rate * RECONSIDER_FACTOR, COPY_BYTES_PER_SECOND))

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
        if size >= MIN_SAMPLE_BYTES and seconds > 0:
            self.dump_rate = _slower(self.dump_rate, size / seconds)


def _slower(rate: float, measured: float) -> float:
    return min(measured, rate + SMOOTHING * (measured - rate))


# Stretches of the guest's memory whose pagemap is read, the pages of each, and how many present pages are hashed of it:
# 4 GiB of the pagemap, which takes about 20 ms, and at most 64 MiB of memory.
STRETCHES: Final = 8
STRETCH_PAGES: Final = 1 << 17
SAMPLE_PAGES: Final = 1 << 11


def calibrate(reader: ProcessRam, pace: ThroughputModel) -> None:
    """Measure the rates of `pace` on a sample of the guest's pages. The guest is not suspended. Raises GuestError."""
    starts = np.unique(np.linspace(0, max(0, reader.pages - STRETCH_PAGES), STRETCHES).astype(np.intp))
    looked, looking, chosen = 0, 0.0, []
    for first in starts.tolist():
        last = min(reader.pages, first + STRETCH_PAGES)
        began = time.monotonic()
        entries = reader.entries(first, last)
        present = np.flatnonzero(entries >= PRESENT)
        looking += time.monotonic() - began
        looked += last - first
        chosen.append(present[:SAMPLE_PAGES] + first)
    pages = np.unique(np.concatenate(chosen))  # stretches of a small guest overlap
    digest = np.zeros(reader.pages, dtype=np.uint64)  # the host backs only what is written
    began = time.monotonic()
    reader.hash_pages(pages, digest)
    pace.calibrate(len(pages), time.monotonic() - began, looking / looked)
