"""The kernel's page merging, KSM (Documentation/admin-guide/mm/ksm.rst): its counters, and pausing it."""

from __future__ import annotations

from samepaged.ksm.control import activity, is_running, paused, restore, was_left_paused
from samepaged.ksm.counters import (
    HostMerging,
    Merging,
    ProcessMerging,
    expected_profit,
    has_merged,
    host_merging,
    process_merging,
    read_merging,
)

__all__ = [
    "HostMerging",
    "Merging",
    "ProcessMerging",
    "activity",
    "expected_profit",
    "has_merged",
    "host_merging",
    "is_running",
    "paused",
    "process_merging",
    "read_merging",
    "restore",
    "was_left_paused",
]
