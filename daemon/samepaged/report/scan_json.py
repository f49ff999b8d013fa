"""A scan as the JSON object of `samepaged scan --json`. New keys are possible; existing keys are never renamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from samepaged.escape import valid
from samepaged.formatting import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samepaged.drift.ledger import PausedTime
    from samepaged.scan.results import GuestScan, HostScan
    from samepaged.sharing import GuestSharing, PageSizeSharing, SharingReport

__all__ = ["SCHEMA", "document"]

SCHEMA: Final = 1


def document(scan: HostScan, paused: Mapping[str, PausedTime] | None = None) -> dict[str, Any]:
    """Return `scan` as an object for `json.dumps`.

    Counts are in pages of `page_size` bytes (in entries of `page_sizes`, of the entry's size), times in seconds,
    `started` in RFC 3339 (UTC). `page_sizes` starts with the size of the scan; the others ascend. `stable` is None if
    all guests lack page hashes from the previous scan. All strings are valid Unicode, for any name of a domain.
    `paused` has the suspended time of each guest; the document has None for a guest that is missing there.
    """
    report, times = scan.report, paused or {}
    how = {guest.name: guest for guest in scan.scans}
    return {
        "schema": SCHEMA,
        "page_size": report.page_size,
        "started": rfc3339(scan.started),
        "duration_seconds": scan.duration_seconds,
        "domains": [_domain(guest, how[guest.name], times.get(guest.name)) for guest in report.guests],
        "skipped": [one.document() for one in scan.skipped],
        **_sums(report),
        "groups": [
            {
                "name": valid(group.name),
                "self_sharing_pages": group.self_sharing_pages,
                "inter_sharing_pages": group.inter_sharing_pages,
            }
            for group in report.groups
        ],
        "pairs": [
            {"domains": [valid(name) for name in pair.domains], "inter_sharing_pages": pair.inter_sharing_pages}
            for pair in report.pairs
        ],
        "mergeable": {
            "potential_pages": scan.potential_pages,
            "attainable_pages": scan.attainable_pages,
            "attended_pages": scan.attended_pages,
        },
        "stable": None if scan.stable is None else _sums(scan.stable),
        "page_sizes": [
            {
                "page_size": one.page_size,
                "memory_pages": one.memory_pages,
                "zero_pages": one.zero_pages,
                **_sums(one),
            }
            for one in scan.by_page_size
        ],
    }


def _sums(shared: SharingReport | PageSizeSharing) -> dict[str, int]:
    return {
        "self_sharing_pages": shared.self_sharing_pages,
        "inter_sharing_pages": shared.inter_sharing_pages,
        "total_sharing_pages": shared.total_sharing_pages,
    }


def _domain(guest: GuestSharing, how: GuestScan, paused: PausedTime | None) -> dict[str, Any]:
    return {
        "name": valid(guest.name),
        "uuid": valid(how.uuid),
        "group": valid(guest.group),
        "memory_pages": guest.memory_pages,
        "absent_pages": guest.absent_pages,
        "swapped_pages": guest.swapped_pages,
        "zero_pages": guest.zero_pages,
        "distinct_pages": guest.distinct_pages,
        "duplicate_pages": guest.duplicate_pages,
        "shared_with_others_pages": guest.shared_with_others_pages,
        "recurring_pages": guest.recurring_pages,
        "merge_obstacle": how.merge_obstacle,
        "mode": valid(how.mode),
        "device_writes": how.device_writes,
        "fallback_reason": None if how.fallback_reason is None else valid(how.fallback_reason),
        "fallback_code": None if how.fallback_code is None else valid(how.fallback_code),
        "reader": valid(how.reader),
        "pauses": how.pauses,
        "pause_seconds": how.pause_seconds,
        "longest_pause_seconds": how.longest_pause_seconds,
        "paused_seconds_total": None if paused is None else paused.total_seconds,
        "paused_ratio": None if paused is None else paused.ratio,
        "duration_seconds": how.duration_seconds,
        "bytes_read": how.bytes_read,
    }
