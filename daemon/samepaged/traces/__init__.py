"""Page-hash traces on disk: the contents of each guest at each scan, and queries over them."""

from __future__ import annotations

from samepaged.traces.metadata import Totals, TraceFile
from samepaged.traces.parquet import read, read_hashes
from samepaged.traces.store import TraceStore
from samepaged.traces.survey import guest_key, newest_traces, survey
from samepaged.traces.trace import PageSizeCounts, Trace, TraceInfo, sample_threshold, seed_id, utc

__all__ = [
    "PageSizeCounts",
    "Totals",
    "Trace",
    "TraceFile",
    "TraceInfo",
    "TraceStore",
    "guest_key",
    "newest_traces",
    "read",
    "read_hashes",
    "sample_threshold",
    "seed_id",
    "survey",
    "utc",
]
