"""Measuring how fast a guest is read, while it runs, before a prediction refuses to scan it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.memory.pagemap import PRESENT

if TYPE_CHECKING:
    from samepaged.memory.modes import ThroughputModel
    from samepaged.memory.process_ram import ProcessRam

__all__ = ["calibrate"]

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
