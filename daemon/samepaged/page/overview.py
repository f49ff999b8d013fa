"""The first section: problems, and the figures of the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.page.charts import Bar, Part, stacked_bar

if TYPE_CHECKING:
    from samepaged.config import ScanConfig
    from samepaged.scan.results import HostScan
    from samepaged.scan.snapshot import Snapshot

__all__ = ["Operation", "Problems", "SuspendedMost", "Totals", "operation", "problems", "totals"]

_OVERDUE_INTERVALS: Final = 3


@dataclass(frozen=True, slots=True)
class Problems:
    """Problems of the service. `config_loaded` is the load time (Unix epoch) of the configuration in force if the last
    reload failed; `overdue_seconds` is the age of the last scan if the next one is long overdue.
    """

    libvirt_down: bool
    config_loaded: float | None
    never_scanned: bool
    overdue_seconds: float | None
    interval_seconds: float

    def __bool__(self) -> bool:
        failed_reload, overdue = self.config_loaded is not None, self.overdue_seconds is not None
        return self.libvirt_down or failed_reload or self.never_scanned or overdue


@dataclass(frozen=True, slots=True)
class Totals:
    """Sharing of the host in bytes. `departed` guests have left since the scan; the totals include them."""

    guests: int
    departed: int
    memory: int
    total_sharing: int
    stable_sharing: int | None
    self_sharing: int
    inter_sharing: int
    zero: int
    bar: Bar


@dataclass(frozen=True, slots=True)
class SuspendedMost:
    """The guest that was suspended longest in the last hour, and the ratio of that hour."""

    name: str
    ratio: float
    over_limit: bool


@dataclass(frozen=True, slots=True)
class Operation:
    """The last scan and the next: times in seconds since the Unix epoch, pauses in seconds."""

    next_scan: float | None
    suspended_most: SuspendedMost | None
    scanned: bool
    ended_at: float = 0.0
    duration_seconds: float = 0.0
    guests: int = 0
    skipped: int = 0
    failed: bool = False
    longest_pause_seconds: float = 0.0
    max_pause_seconds: float | None = None

    @property
    def pause_over_limit(self) -> bool:
        """Whether a guest was suspended longer than the configuration allows."""
        return self.max_pause_seconds is not None and self.longest_pause_seconds > self.max_pause_seconds


def problems(snapshot: Snapshot, now: float) -> Problems:
    """The problems at `now` (Unix epoch)."""
    scan, limits = snapshot.latest, snapshot.scan_config
    overdue = None
    if scan is not None and limits is not None:
        age = now - _ended(scan)
        overdue = age if age > _OVERDUE_INTERVALS * limits.interval + scan.duration_seconds else None
    return Problems(
        libvirt_down=not snapshot.libvirt_up,
        config_loaded=None if snapshot.config.last_load_successful else snapshot.config.loaded_at,
        never_scanned=scan is None,
        overdue_seconds=overdue,
        interval_seconds=0.0 if limits is None else limits.interval,
    )


def totals(scan: HostScan) -> Totals:
    """The sharing that the last scan found."""
    report, page = scan.report, scan.report.page_size
    guests = (*report.guests, *scan.departed)
    distinct = sum(guest.distinct_pages for guest in guests)
    parts = (
        Part("duplicate", "self-sharing", report.self_sharing_pages * page),
        Part("shared", "inter-VM sharing", report.inter_sharing_pages * page),
        Part("own", "distinct contents", (distinct - report.inter_sharing_pages) * page),
        Part("zeros", "zero", scan.zero_pages * page),
        Part("absent", "absent", sum(guest.absent_pages for guest in guests) * page),
        Part("swapped", "swapped", sum(guest.swapped_pages for guest in guests) * page),
    )
    return Totals(
        guests=len(report.guests),
        departed=len(scan.departed),
        memory=sum(guest.memory_pages for guest in guests) * page,
        total_sharing=report.total_sharing_pages * page,
        stable_sharing=None if scan.stable is None else scan.stable.total_sharing_pages * page,
        self_sharing=report.self_sharing_pages * page,
        inter_sharing=report.inter_sharing_pages * page,
        zero=scan.zero_pages * page,
        bar=stacked_bar(parts),
    )


def operation(snapshot: Snapshot) -> Operation:
    """The times of the scans, and their effect on the guests."""
    scan, limits = snapshot.latest, snapshot.scan_config
    most = _suspended_most(snapshot, limits)
    if scan is None:
        return Operation(snapshot.next_scan, most, scanned=False)
    return Operation(
        snapshot.next_scan,
        most,
        scanned=True,
        ended_at=_ended(scan),
        duration_seconds=scan.duration_seconds,
        guests=len(scan.scans),
        skipped=len(scan.skipped),
        failed=any(not one.reason.intended for one in scan.skipped),
        longest_pause_seconds=max((one.longest_pause_seconds for one in scan.scans), default=0.0),
        max_pause_seconds=None if limits is None else limits.max_pause,
    )


def _suspended_most(snapshot: Snapshot, limits: ScanConfig | None) -> SuspendedMost | None:
    paused = snapshot.by_name(snapshot.paused)
    if not paused:
        return None
    name, most = max(paused.items(), key=lambda item: item[1].ratio)
    return SuspendedMost(name, most.ratio, over_limit=limits is not None and most.ratio > limits.max_drift)


def _ended(scan: HostScan) -> float:
    return scan.started + scan.duration_seconds
