"""Metadata of synthetic traces."""

from __future__ import annotations

from functools import partial
from typing import Final

from samepaged.arch import PAGE_SIZE
from samepaged.traces import TraceInfo, seed_id

__all__ = ["FIRST_SCAN", "trace_info"]

FIRST_SCAN: Final = 1_700_000_000.0
"""Time of the first scan, in seconds of the Unix epoch."""

# Every page of these guests is backed, and was read by one snapshot with one seed.
trace_info: Final = partial(
    TraceInfo,
    page_size=PAGE_SIZE,
    seed=seed_id(1),
    mode="snapshot",
    hash_bits=64,
    absent_pages=0,
    swapped_pages=0,
)
