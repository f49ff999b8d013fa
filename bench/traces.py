"""Cost of a trace of a guest of 4 GiB: disk space, write time, and share of the scan's time."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.analysis import guest_digest
from samepaged.config import TracesConfig
from samepaged.guest_id import GuestId
from samepaged.scan.results import GuestScan
from samepaged.scan.trace_recorder import Record, TraceRecorder
from samepaged.traces import survey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.row import Row

__all__ = ["rows"]

PAGES = 1_048_560  # a multiple of 20 (guest_digest), 4 GiB less 64 KiB
ROUNDS = 5


def guest_scan(number: int) -> GuestScan:
    return GuestScan(
        name="guest",
        guest_id=GuestId("qemu:///system", "00000000-0000-4000-8000-000000000000"),
        group="default",
        mode="snapshot",
        reader="process",
        started=1_700_000_000.0 + number,
        duration_seconds=1.0,
        pauses=1,
        pause_seconds=0.1,
        longest_pause_seconds=0.1,
        bytes_read=PAGES * 4096,
        fallback_reason=None,
        fallback_code=None,
    )


def rows() -> Iterator[Row]:
    """The figures, each as soon as it is there."""
    waited, written = [], []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        recorder = TraceRecorder(TracesConfig(enabled=True, directory=place), lambda: False)
        for number in range(ROUNDS):
            digest = guest_digest(number, PAGES)
            start = time.perf_counter()
            recorder.offer(Record.of(digest, guest_scan(number), {}, seed=1))
            waited.append(time.perf_counter() - start)
            while recorder.stats.written <= number:
                time.sleep(0.001)
            written.append(time.perf_counter() - start)
        files = survey(place)
    ratio = max(file.size / (8 * about.distinct_pages) for file in files for about in file.traces)
    name = "trace of a 4 GiB guest, bytes ÷ (8 * distinct pages)"
    yield {"name": name, "value": round(ratio, 3), "unit": "ratio", "at_most": 1.1}
    name = "time to write it, beside the scan"
    yield {"name": name, "value": round(statistics.median(written), 2), "unit": "s"}
    name = "time that the scan spends on it ÷ that"
    yield {
        "name": name,
        "value": round(statistics.median(waited) / statistics.median(written), 4),
        "unit": "ratio",
        "at_most": 0.01,
    }
