"""Health: the state of samepaged, and the configuration in force."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Final

import samepaged
from samepaged.metrics.metric import COUNTER, GAUGE, INFO, Metric, Unit

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.config import ScanConfig
    from samepaged.scan.snapshot import Snapshot, TraceStats

BUILD: Final = Metric(
    INFO,
    "samepage_build_info",
    ("version", "python"),
    Unit.ONE,
    "Version of samepaged and of its Python interpreter; always 1.",
    example="count by (version) (samepage_build_info)",
    values=lambda _: {(samepaged.__version__, platform.python_version()): 1},
)
LIBVIRT_UP: Final = Metric(
    GAUGE,
    "samepage_libvirt_up",
    (),
    Unit.TRUTH,
    "Whether samepaged is connected to libvirt: 1 or 0.",
    example="samepage_libvirt_up == 0",
    values=lambda snapshot: {(): snapshot.libvirt_up},
)
OPEN_ENTRIES: Final = Metric(
    GAUGE,
    "samepage_journal_open_entries",
    (),
    Unit.ENTRIES,
    "Number of open journal entries. Their guests may be suspended, or a suspend call may be queued in libvirt.",
    example="samepage_journal_open_entries > 0",
    values=lambda snapshot: {(): len(snapshot.open_entries)},
)


def _open_since(snapshot: Snapshot) -> dict[tuple[str], float]:
    # Entries are sorted by age, oldest first: reversed, the oldest entry of a domain is the last to set its value.
    return {(one.domain,): one.since for one in reversed(snapshot.open_entries)}


OPEN_ENTRY_SINCE: Final = Metric(
    GAUGE,
    "samepage_journal_open_entry_timestamp_seconds",
    ("domain",),
    Unit.EPOCH,
    "Time of the suspend call of the domain's oldest open journal entry, in seconds since the Unix epoch. Settled "
    "entries do not have a series.",
    example="time() - min by (instance) (samepage_journal_open_entry_timestamp_seconds)",
    values=_open_since,
)
RELOAD_SUCCESSFUL: Final = Metric(
    GAUGE,
    "samepage_config_last_reload_successful",
    (),
    Unit.TRUTH,
    "Whether the last load of the configuration succeeded: 1 or 0. After a failure, the previous configuration "
    "stays in force.",
    example="samepage_config_last_reload_successful == 0",
    values=lambda snapshot: {(): snapshot.config.last_load_successful},
)
RELOAD_SUCCESS: Final = Metric(
    GAUGE,
    "samepage_config_last_reload_success_timestamp_seconds",
    (),
    Unit.EPOCH,
    "Load time of the configuration in force, in seconds since the Unix epoch.",
    example="changes(samepage_config_last_reload_success_timestamp_seconds[1d])",
    values=lambda snapshot: {(): snapshot.config.loaded_at},
)


def _of_limits(value: Callable[[ScanConfig], float]) -> Callable[[Snapshot], dict[tuple[()], float]]:
    return lambda snapshot: {} if snapshot.scan_config is None else {(): value(snapshot.scan_config)}


MAX_PAUSE: Final = Metric(
    GAUGE,
    "samepage_config_max_pause_seconds",
    (),
    Unit.SECONDS,
    "`scan.max_pause` in force: longest suspension of a guest at a time in seconds.",
    example="samepage_domain_last_pause_seconds > on (instance) group_left samepage_config_max_pause_seconds",
    values=_of_limits(lambda limits: limits.max_pause),
)
MAX_DRIFT: Final = Metric(
    GAUGE,
    "samepage_config_max_drift_ratio",
    (),
    Unit.RATIO,
    "`scan.max_drift` in force: largest fraction of any hour for which all scans together may suspend a guest.",
    example="samepage_domain_paused_ratio > on (instance) group_left samepage_config_max_drift_ratio",
    values=_of_limits(lambda limits: limits.max_drift),
)
SCAN_INTERVAL: Final = Metric(
    GAUGE,
    "samepage_config_scan_interval_seconds",
    (),
    Unit.SECONDS,
    "`scan.interval` in force: seconds from the start of a scan of the host to the start of the next scan.",
    example="time() - samepage_last_scan_timestamp_seconds > 2 * samepage_config_scan_interval_seconds",
    values=_of_limits(lambda limits: limits.interval),
)


def _of_traces(value: Callable[[TraceStats], float]) -> Callable[[Snapshot], dict[tuple[()], float]]:
    """The value of the trace recorder; none if the daemon does not record traces."""
    return lambda snapshot: {} if snapshot.trace_stats is None else {(): value(snapshot.trace_stats)}


TRACES_WRITTEN: Final = Metric(
    COUNTER,
    "samepage_traces_written_total",
    (),
    Unit.TRACES,
    "Number of traces written since samepaged started. Requires `traces.enabled`.",
    example="rate(samepage_traces_written_total[1h]) * 3600",
    values=_of_traces(lambda traces: traces.written),
)
TRACES_LOST: Final = Metric(
    COUNTER,
    "samepage_traces_lost_total",
    (),
    Unit.TRACES,
    "Number of traces that could not be written, or not in time. The log has the reasons.",
    example="increase(samepage_traces_lost_total[6h]) > 0",
    values=_of_traces(lambda traces: traces.lost),
)
TRACES_STORED: Final = Metric(
    GAUGE,
    "samepage_traces_stored_bytes",
    (),
    Unit.BYTES,
    "Size of all traces in `traces.directory` on disk, after the last pruning.",
    example="samepage_traces_stored_bytes / 2^30",
    values=_of_traces(lambda traces: traces.stored_bytes),
)
