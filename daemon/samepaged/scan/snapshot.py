"""The snapshot that all outputs show, and the store that has the current one.

A snapshot has the latest scan and the state carried over from earlier ones. It is immutable: the store replaces it as a
whole, so that readers in any thread get a consistent snapshot.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from samepaged.config import ExportConfig, SourcesConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from samepaged.attribution.report import AttributionReport
    from samepaged.config import ScanConfig
    from samepaged.drift.ledger import PausedTime
    from samepaged.errors import Reason
    from samepaged.guest_id import GuestId
    from samepaged.ksm import Merging
    from samepaged.scan.results import HostScan

__all__ = [
    "ConfigStatus",
    "GuestAttribution",
    "Histogram",
    "HistoryPoint",
    "OpenJournalEntry",
    "Snapshot",
    "SnapshotStore",
    "TraceStats",
]

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Histogram:
    """An immutable cumulative histogram: `add` returns a new one. `bounds` ascend; +Inf is implied."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...] = ()
    total: float = 0.0

    def add(self, value: float) -> Histogram:
        """This histogram with one more observation."""
        counts = list(self.counts or (0,) * (len(self.bounds) + 1))
        counts[bisect_left(self.bounds, value)] += 1
        return replace(self, counts=tuple(counts), total=self.total + value)


@dataclass(frozen=True, slots=True)
class ConfigStatus:
    """Result of the last load of the configuration, and load time of the active configuration (Unix epoch)."""

    last_load_successful: bool
    loaded_at: float


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """One scan of the host in the history: end time (Unix epoch), and sizes in bytes."""

    ended_at: float
    memory: int
    self_sharing: int
    inter_sharing: int
    zero: int
    merged: int | None


@dataclass(frozen=True, slots=True)
class OpenJournalEntry:
    """An unsettled journal entry: time of the suspend call (Unix epoch), and the progress of its settlement."""

    domain: str
    since: float
    progress: str


@dataclass(frozen=True, slots=True)
class TraceStats:
    """Counters of traces since the start (written, lost), and the bytes of traces on disk."""

    written: int = 0
    lost: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GuestAttribution:
    """Latest page attribution of a guest. `scanned_at` is the start of its scan (Unix epoch)."""

    report: AttributionReport = field(repr=False)
    scanned_at: float

    def renamed(self, name: str) -> GuestAttribution:
        """Return the same attribution under the domain's current name."""
        return self if name == self.report.domain else replace(self, report=replace(self.report, domain=name))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All values that a scrape can show, consistent with each other. `scan_config`, `export_config` and
    `attribution_config` are sections of the active configuration. `next_scan` is in seconds of the Unix epoch.
    `history` has the scans of the last day, oldest first. `attributions` has the latest page attribution of each guest,
    which may be some scans old. `paused` has the time for which each guest was suspended. `names` has the guests'
    unique names.
    """

    config: ConfigStatus
    scan_config: ScanConfig | None = None
    export_config: ExportConfig = field(default_factory=ExportConfig)
    attribution_config: SourcesConfig = field(default_factory=SourcesConfig)
    merging: Merging | None = None
    trace_stats: TraceStats | None = None
    open_entries: tuple[OpenJournalEntry, ...] = ()
    history: tuple[HistoryPoint, ...] = ()
    next_scan: float | None = None
    libvirt_up: bool = False
    latest: HostScan | None = None
    scan_durations: Histogram | None = None
    names: Mapping[GuestId, str] = field(default_factory=dict)
    pauses: Mapping[GuestId, Histogram] = field(default_factory=dict)
    failures: Mapping[tuple[GuestId, Reason], int] = field(default_factory=dict)
    last_success: Mapping[GuestId, float] = field(default_factory=dict)
    attributions: Mapping[GuestId, GuestAttribution] = field(default_factory=dict)
    paused: Mapping[GuestId, PausedTime] = field(default_factory=dict)

    def by_name(self, values: Mapping[GuestId, Value]) -> dict[str, Value]:
        """`values` by the guests' names, for output; without guests that have none here."""
        return {self.names[guest_id]: value for guest_id, value in values.items() if guest_id in self.names}

    def without(self, guest_id: GuestId) -> Snapshot:
        """Return this snapshot after the guest's departure: its series are removed, and the totals of host and groups
        keep the values of the last scan.
        """
        return replace(
            self,
            latest=self.latest and self.latest.without(guest_id),
            merging=self.merging and self.merging.without(guest_id),
            names=_without(self.names, guest_id),
            pauses=_without(self.pauses, guest_id),
            failures={key: count for key, count in self.failures.items() if key[0] != guest_id},
            last_success=_without(self.last_success, guest_id),
            attributions=_without(self.attributions, guest_id),
            paused=_without(self.paused, guest_id),
        )


def _without(values: Mapping[GuestId, Value], guest_id: GuestId) -> dict[GuestId, Value]:
    return {key: value for key, value in values.items() if key != guest_id}


class SnapshotStore:
    """Holds the current snapshot. Any thread may read and update it; libvirt's event loop removes guests."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._listeners: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._departed: set[GuestId] = set()

    @property
    def snapshot(self) -> Snapshot:
        """The current snapshot."""
        return self._snapshot

    def listen(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each change, in the thread that makes it."""
        self._listeners.append(changed)

    def update(self, change: Callable[[Snapshot], Snapshot]) -> None:
        """Replace the snapshot by `change` of it. `change` runs under a lock: it must be short."""
        with self._lock:
            self._snapshot = change(self._snapshot)
        self._notify()

    def remove(self, guest_id: GuestId) -> None:
        """Remove a guest that ended."""
        with self._lock:
            self._snapshot = self._snapshot.without(guest_id)
            self._departed.add(guest_id)
        self._notify()

    def take_departed(self) -> set[GuestId]:
        """The guests removed since the previous call. This removes them again, because a scan that ended after a
        guest did restores its series.
        """
        with self._lock:
            departed, self._departed = self._departed, set()
            for guest_id in departed:
                self._snapshot = self._snapshot.without(guest_id)
        if departed:
            self._notify()
        return departed

    def _notify(self) -> None:
        for changed in self._listeners:
            changed()
