"""The kernel's own merging of pages, KSM (Documentation/admin-guide/mm/ksm.rst): what it has merged, and holding it
still.
"""

from __future__ import annotations

from samepaged.ksm.control import activity, left_still, paused, restore, running
from samepaged.ksm.counters import (
    HostMerging,
    Merging,
    ProcessMerging,
    at_work,
    expected_profit,
    host_merging,
    process_merging,
    read_merging,
)

__all__ = [
    "HostMerging",
    "Merging",
    "ProcessMerging",
    "activity",
    "at_work",
    "expected_profit",
    "host_merging",
    "left_still",
    "paused",
    "process_merging",
    "read_merging",
    "restore",
    "running",
]
