"""The snapshot that all outputs show: the latest scan and everything carried on from earlier ones. Immutable."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samepaged.attribution.report import AttributionReport
    from samepaged.drift.ledger import PausedTime
    from samepaged.errors import Reason
    from samepaged.ksm import Merging
    from samepaged.scan.results import HostScan

__all__ = [
    "ConfigStatus",
    "GuestAttribution",
    "Histogram",
    "HistoryPoint",
    "Limits",
    "OpenJournalEntry",
    "SeriesLimits",
    "Snapshot",
    "TraceStats",
]


@dataclass(frozen=True, slots=True)
class Histogram:
    """A cumulative histogram that is never changed: `add` gives a new one. `bounds` ascend; +Inf is implied."""

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
    """How the last load of the configuration went, and when the one in force was loaded (Unix epoch)."""

    successful: bool
    loaded: float


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """One scan of the host, as its history keeps it: when it ended (Unix epoch), and bytes."""

    ended: float
    memory: int
    self_sharing: int
    inter_sharing: int
    zero: int
    merged: int | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What the configuration in force allows: seconds, and `max_drift`, a ratio."""

    max_pause: float
    interval: float
    max_drift: float = 1.0


@dataclass(frozen=True, slots=True)
class SeriesLimits:
    """The bounds of metrics with many series: the largest `pairs` of guests, and the `sources` most involved owners of
    each guest. Names of processes and files are labels with `source_names` only.
    """

    pairs: int = 20
    sources: int = 10
    source_names: bool = False


@dataclass(frozen=True, slots=True)
class OpenJournalEntry:
    """An entry of the journal of suspended guests that is not settled: since when (Unix epoch), and what is known."""

    domain: str
    since: float
    progress: str


@dataclass(frozen=True, slots=True)
class TraceStats:
    """Traces since the start: written, lost; and the bytes of those on disk."""

    written: int = 0
    lost: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GuestAttribution:
    """Where a guest's sharing came from, when that was last looked at (`scanned`, Unix epoch)."""

    answers: AttributionReport = field(repr=False)
    scanned: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a scrape can see, consistent in itself. `next_scan` is in seconds of the Unix epoch; `history` has the
    scans of the last day, oldest first; `sources` has of each guest the newest, which may be some scans old; `paused`
    is how long each guest was suspended.
    """

    config: ConfigStatus
    limits: Limits | None = None
    series: SeriesLimits = SeriesLimits()
    merging: Merging | None = None
    recording: TraceStats | None = None
    open_entries: tuple[OpenJournalEntry, ...] = ()
    history: tuple[HistoryPoint, ...] = ()
    next_scan: float | None = None
    libvirt_up: bool = False
    latest: HostScan | None = None
    scan_durations: Histogram | None = None
    pauses: Mapping[str, Histogram] = field(default_factory=dict)
    failures: Mapping[tuple[str, Reason], int] = field(default_factory=dict)
    last_success: Mapping[str, float] = field(default_factory=dict)
    sources: Mapping[str, GuestAttribution] = field(default_factory=dict)
    paused: Mapping[str, PausedTime] = field(default_factory=dict)

    def without(self, name: str) -> Snapshot:
        """This snapshot after the domain `name` is gone: no series of it is left; the totals of host and groups
        stay as the last scan found them.
        """
        return replace(
            self,
            latest=self.latest and self.latest.without(name),
            merging=self.merging and self.merging.without(name),
            pauses={domain: pauses for domain, pauses in self.pauses.items() if domain != name},
            failures={key: count for key, count in self.failures.items() if key[0] != name},
            last_success={domain: when for domain, when in self.last_success.items() if domain != name},
            sources={domain: sourced for domain, sourced in self.sources.items() if domain != name},
            paused={domain: paused for domain, paused in self.paused.items() if domain != name},
        )
