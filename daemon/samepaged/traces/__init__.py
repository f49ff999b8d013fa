"""Page-hash traces: what each guest held at each scan, on disk, and what can be asked of them."""

from __future__ import annotations

from samepaged.traces.metadata import Totals, TraceFile
from samepaged.traces.parquet import read, read_hashes
from samepaged.traces.store import Store
from samepaged.traces.survey import guest, newest, survey
from samepaged.traces.trace import About, PageSizeCounts, Trace, seed_id, threshold, utc

__all__ = [
    "About",
    "PageSizeCounts",
    "Store",
    "Totals",
    "Trace",
    "TraceFile",
    "guest",
    "newest",
    "read",
    "read_hashes",
    "seed_id",
    "survey",
    "threshold",
    "utc",
]
