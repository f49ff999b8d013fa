"""The cumulative parts of a snapshot: counters, histograms, and the history of one day."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from samepaged.scan.snapshot import Histogram, HistoryPoint

if TYPE_CHECKING:
    from collections.abc import Container

    from samepaged.guest_id import GuestId
    from samepaged.ksm import Merging
    from samepaged.scan.host import HostRound
    from samepaged.scan.results import HostScan
    from samepaged.scan.snapshot import Snapshot

__all__ = ["history_point", "with_counts", "with_point"]

SCAN_BUCKETS_SECONDS: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
PAUSE_BUCKETS_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
HISTORY_SECONDS: Final = 86_400.0
# The history keeps at most one scan per this many seconds: 288 a day.
MIN_STEP_SECONDS: Final = 300.0


def with_counts(before: Snapshot, round_: HostRound, known: Container[GuestId], duration: float) -> Snapshot:
    """`before` with one more scan of `duration` seconds in its counters and histograms. Guests that no longer run lose
    their counters; a guest that is not `known` loses the time of its last success.
    """
    running = round_.running_names.keys()
    pauses = {guest_id: histogram for guest_id, histogram in before.pauses.items() if guest_id in running}
    for guest_id, taken in round_.pauses.items():
        for seconds in taken:
            pauses[guest_id] = pauses.get(guest_id, Histogram(PAUSE_BUCKETS_SECONDS)).add(seconds)
    failures = {key: count for key, count in before.failures.items() if key[0] in running}
    for skipped in round_.skipped:
        if skipped.guest_id is not None and not skipped.reason.intended:
            key = (skipped.guest_id, skipped.reason)
            failures[key] = failures.get(key, 0) + 1
    success = {guest_id: seconds for guest_id, seconds in before.last_success.items() if guest_id in known}
    success |= {guest_id: one.scan.started for guest_id, one in round_.scanned.items()}
    durations = (before.scan_durations or Histogram(SCAN_BUCKETS_SECONDS)).add(duration)
    return replace(
        before,
        names=round_.names,
        pauses=pauses,
        failures=failures,
        last_success=success,
        scan_durations=durations,
    )


def history_point(scan: HostScan, merging: Merging | None) -> HistoryPoint:
    """The point of the history for `scan`, with KSM's counters after it."""
    size = scan.report.page_size
    return HistoryPoint(
        ended_at=scan.started + scan.duration_seconds,
        memory=sum(guest.memory_pages for guest in scan.report.guests) * size,
        self_sharing=scan.report.self_sharing_pages * size,
        inter_sharing=scan.report.inter_sharing_pages * size,
        zero=scan.zero_pages * size,
        merged=None if merging is None else merging.host.merged_bytes,
    )


def with_point(history: tuple[HistoryPoint, ...], newest: HistoryPoint) -> tuple[HistoryPoint, ...]:
    """The history with one more point: the points of the last day, at most 290. After the clock is set back, points in
    the future are dropped.
    """
    kept = [one for one in history if newest.ended_at - HISTORY_SECONDS < one.ended_at < newest.ended_at]
    if len(kept) > 1 and kept[-1].ended_at - kept[-2].ended_at < MIN_STEP_SECONDS:
        del kept[-1]
    return (*kept, newest)
