"""The guests, those with the most sharing first, and the groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.page.charts import Bar, memory_bar
from samepaged.scan.label_values import SHORT_OBSTACLES
from samepaged.scan.results import mergeable_pages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from samepaged.config import ScanConfig
    from samepaged.drift.ledger import PausedTime
    from samepaged.guest_id import GuestId
    from samepaged.ksm import Merging
    from samepaged.scan.results import GuestScan, HostScan
    from samepaged.sharing import GuestSharing

__all__ = ["GroupRow", "GuestRow", "Guests", "groups", "guests"]

_OPEN_ROWS: Final = 25
_MAX_ROWS: Final = 1000
_LEGEND: Final = (
    ("duplicate", "duplicate: self-sharing"),
    ("shared", "distinct, shared with others"),
    ("own", "distinct, its own"),
    ("zeros", "zero"),
    ("absent", "absent"),
    ("swapped", "swapped"),
)


@dataclass(frozen=True, slots=True)
class GuestRow:
    """A guest: sizes in bytes, pauses in seconds. `group` is None on a host with one group; `kept_from` is the start of
    an older scan (Unix epoch) if the last one did not include the guest; `merged` is None if its counters cannot be
    read; `longest_pause` is None if the guest was not suspended.
    """

    name: str
    group: str | None
    memory: int
    bar: Bar
    self_sharing: int
    shared_with_others: int
    merged: int | None
    mergeable: int
    mode: str
    kept_from: float | None
    fallback_code: str | None
    device_writes: bool
    merge_obstacle: str | None
    longest_pause: float | None
    pause_over_limit: bool
    paused_ratio: float


@dataclass(frozen=True, slots=True)
class Guests:
    """The rows of the table; `later` rows are folded. `total` includes guests without a row. `scan_started` is in
    seconds since the Unix epoch; `legend` has classes of the style sheet, each with its name.
    """

    first: tuple[GuestRow, ...]
    later: tuple[GuestRow, ...]
    total: int
    scan_started: float
    legend: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A group of guests that may share; sizes are in bytes."""

    name: str
    self_sharing: int
    inter_sharing: int


def guests(
    scan: HostScan, merging: Merging | None, limits: ScanConfig | None, paused: Mapping[GuestId, PausedTime]
) -> Guests:
    """The section on guests."""
    scans = {one.name: one for one in scan.scans}
    ordered = sorted(scan.report.guests, key=lambda guest: (-_sharing(guest), guest.name))
    rows = tuple(
        _row(guest, result, scan, merging, limits, paused.get(result.guest_id))
        for guest in ordered[:_MAX_ROWS]
        for result in (scans[guest.name],)
    )
    drawn = {segment.kind for row in rows for segment in row.bar.segments}
    return Guests(
        first=rows[:_OPEN_ROWS],
        later=rows[_OPEN_ROWS:],
        total=len(ordered),
        scan_started=scan.started,
        legend=tuple(entry for entry in _LEGEND if entry[0] in drawn),
    )


def groups(scan: HostScan) -> Sequence[GroupRow]:
    """The section on groups. Empty with a single group: its figures are those of the host."""
    if len(scan.report.groups) < 2:  # noqa: PLR2004
        return ()
    page = scan.report.page_size
    ordered = sorted(
        scan.report.groups, key=lambda group: (-group.self_sharing_pages - group.inter_sharing_pages, group.name)
    )
    return tuple(
        GroupRow(group.name, group.self_sharing_pages * page, group.inter_sharing_pages * page)
        for group in ordered[:_MAX_ROWS]
    )


def _sharing(guest: GuestSharing) -> int:
    return guest.duplicate_pages + guest.shared_with_others_pages


def _row(
    guest: GuestSharing,
    result: GuestScan,
    scan: HostScan,
    merging: Merging | None,
    limits: ScanConfig | None,
    paused: PausedTime | None,
) -> GuestRow:
    page = scan.report.page_size
    merged = None if merging is None else merging.guests.get(result.guest_id)
    obstacle = result.merge_obstacle
    over_limit = limits is not None and result.longest_pause_seconds > limits.max_pause
    return GuestRow(
        name=guest.name,
        group=guest.group if len(scan.report.groups) > 1 else None,
        memory=guest.memory_pages * page,
        bar=memory_bar(guest, page),
        self_sharing=guest.duplicate_pages * page,
        shared_with_others=guest.shared_with_others_pages * page,
        merged=None if merged is None else merged.merged_bytes,
        mergeable=mergeable_pages(guest, result) * page,
        mode=result.mode,
        kept_from=result.started if result.started < scan.started else None,
        fallback_code=result.fallback_code,
        device_writes=result.device_writes,
        merge_obstacle=None if obstacle is None else SHORT_OBSTACLES.get(obstacle, obstacle),
        longest_pause=result.longest_pause_seconds if result.pauses else None,
        pause_over_limit=bool(result.pauses) and over_limit,
        paused_ratio=0.0 if paused is None else paused.ratio,
    )
