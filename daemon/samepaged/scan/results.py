"""The values that are shown: made by the service or a command, never changed after."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import TYPE_CHECKING

from samepaged.ksm import expected_profit
from samepaged.sharing import PageSizeSharing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samepaged.attribution.report import AttributionReport
    from samepaged.drift.ledger import PausedTime
    from samepaged.errors import Reason
    from samepaged.ksm import HostMerging, ProcessMerging
    from samepaged.sharing import GuestSharing, SharingReport

__all__ = [
    "ConfigStatus",
    "GuestAttribution",
    "GuestScan",
    "Histogram",
    "HistoryPoint",
    "HostScan",
    "Limits",
    "Merging",
    "OpenJournalEntry",
    "SkippedGuest",
    "Snapshot",
    "TraceStats",
    "mergeable_pages",
]


@dataclass(frozen=True, slots=True)
class GuestScan:
    """How one guest was scanned: seconds, and `started` in seconds of the Unix epoch. Where it was not in the way that
    was preferred, `fallback_code` says why in a bounded word, and `fallback_reason` in a line for people.
    `merge_obstacle` is a bounded word, too: why KSM cannot merge the guest's memory. `unbacked_zero_pages` of its zero
    pages are the kernel's page of zeros, and take no memory. `device_writes`: a passed-through device may have written
    to the guest's memory during the scan, also while the guest was suspended.
    """

    name: str
    uuid: str
    group: str
    mode: str
    reader: str
    started: float
    duration_seconds: float
    pauses: int
    pause_seconds: float
    longest_pause_seconds: float
    bytes_read: int
    fallback_reason: str | None = None
    fallback_code: str | None = None
    merge_obstacle: str | None = None
    unbacked_zero_pages: int = 0
    device_writes: bool = False


@dataclass(frozen=True, slots=True)
class SkippedGuest:
    """A guest that was not scanned: why, as a bounded word and as a line for people."""

    name: str
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class HostScan:
    """One scan of all guests. `report` covers `scans`, and nothing of `skipped`. `stable` covers only the pages that
    kept their content since the scan before, and only the guests that can be compared with it; `page_sizes` tells
    sharing in other sizes of page.

    `departed` are the rows of guests that left after the scan: no longer shown, yet part of the host's totals until
    the next scan computes new ones. `attainable_pages` is what KSM could save, zero pages too, in those guests alone
    whose memory it can merge, and `attended_pages` how many pages of theirs it would look after for that.
    """

    started: float
    duration_seconds: float
    scans: tuple[GuestScan, ...]
    skipped: tuple[SkippedGuest, ...]
    report: SharingReport
    stable: SharingReport | None = None
    page_sizes: tuple[PageSizeSharing, ...] = ()
    departed: tuple[GuestSharing, ...] = ()
    attainable_pages: int = 0
    attended_pages: int = 0

    def without(self, name: str) -> HostScan:
        """This scan with the domain `name` departed: its row and pairs are gone, the totals of host and groups stay."""
        return replace(
            self,
            scans=tuple(scan for scan in self.scans if scan.name != name),
            skipped=tuple(one for one in self.skipped if one.name != name),
            report=_without(self.report, name),
            stable=self.stable and _without(self.stable, name),
            departed=(*self.departed, *(guest for guest in self.report.guests if guest.name == name)),
        )

    @property
    def zero_pages(self) -> int:
        """Zero pages of all scanned guests."""
        return sum(guest.zero_pages for guest in (*self.report.guests, *self.departed))

    @property
    def backed_zero_pages(self) -> int:
        """Zero pages of the guests that take memory."""
        return sum(guest.zero_pages for guest in self.report.guests) - sum(
            one.unbacked_zero_pages for one in self.scans
        )

    @property
    def potential_pages(self) -> int:
        """What merging would save if it met everything: total sharing, and the zero pages that take memory, which KSM
        merges like others.
        """
        return self.report.total_sharing_pages + self.backed_zero_pages

    @property
    def mergeable_pages(self) -> dict[str, int]:
        """Of each guest by name: `mergeable_pages`."""
        how = {one.name: one for one in self.scans}
        return {guest.name: mergeable_pages(guest, how[guest.name]) for guest in self.report.guests}

    @property
    def expected_profit_bytes(self) -> int:
        """What KSM would be worth had it merged all that is attainable, its own bookkeeping taken off."""
        return expected_profit(self.attainable_pages, self.attended_pages, self.report.page_size)

    @property
    def by_page_size(self) -> tuple[PageSizeSharing, ...]:
        """Sharing of the host in pages of the report's own size, then in each of `page_sizes`, ascending."""
        whole = replace(self.report, guests=(*self.report.guests, *self.departed))
        others = (one for one in self.page_sizes if one.page_size != whole.page_size)
        return (PageSizeSharing.of(whole), *sorted(others, key=attrgetter("page_size")))


def mergeable_pages(guest: GuestSharing, how: GuestScan) -> int:
    """The guest's pages that merging would map to a page of its own: those whose content recurs on the host, and zero
    pages that take memory.
    """
    return guest.recurring_pages + guest.zero_pages - how.unbacked_zero_pages


def _without(report: SharingReport, name: str) -> SharingReport:
    return replace(
        report,
        guests=tuple(guest for guest in report.guests if guest.name != name),
        pairs=tuple(pair for pair in report.pairs if name not in pair.domains),
    )


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
class Merging:
    """What KSM has merged: of the host, and of each scanned guest whose counters may be read, by name."""

    host: HostMerging
    guests: Mapping[str, ProcessMerging] = field(default_factory=dict)

    def without(self, name: str) -> Merging:
        """The same without the domain `name`."""
        return replace(self, guests={domain: one for domain, one in self.guests.items() if domain != name})


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
