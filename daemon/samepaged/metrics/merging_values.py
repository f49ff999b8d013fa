"""What KSM has merged beside what a scan says could be merged, as metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samepaged.metrics.merging import (
    DOMAIN_KSM_MERGED,
    DOMAIN_KSM_POTENTIAL,
    DOMAIN_KSM_PROFIT,
    DOMAIN_MERGE_OBSTACLE,
    KSM_ATTAINABLE,
    KSM_CAPTURE,
    KSM_EXPECTED_PROFIT,
    KSM_FULL_SCANS,
    KSM_MERGED,
    KSM_POTENTIAL,
    KSM_PROFIT,
    KSM_RUNNING,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric as Family

    from samepaged.scan.results import HostScan
    from samepaged.scan.snapshot import Merging

__all__ = ["merging_metrics"]


def merging_metrics(scan: HostScan | None, merging: Merging | None) -> Iterator[Family]:
    """KSM of the host and of each guest, and the share of the potential that it has captured."""
    if scan is not None:
        yield from _potential(scan)
    if merging is not None:
        yield from _host(merging)
        yield from _guests(merging)
        if scan is not None:
            yield _capture(scan, merging)


def _potential(scan: HostScan) -> Iterator[Family]:
    size = scan.report.page_size
    yield KSM_POTENTIAL.family({(): scan.potential_pages * size})
    yield KSM_ATTAINABLE.family({(): scan.attainable_pages * size})
    yield KSM_EXPECTED_PROFIT.family({(): scan.expected_profit_bytes})
    yield DOMAIN_KSM_POTENTIAL.family({(name,): pages * size for name, pages in scan.mergeable_pages.items()})
    obstacles = ((one.name, one.merge_obstacle) for one in scan.scans if one.merge_obstacle is not None)
    yield DOMAIN_MERGE_OBSTACLE.family(dict.fromkeys(obstacles, 1))


def _host(merging: Merging) -> Iterator[Family]:
    host = merging.host
    yield KSM_RUNNING.family({(): host.running})
    yield KSM_MERGED.family({(): host.merged_bytes})
    yield KSM_PROFIT.family({(): host.profit_bytes})
    yield KSM_FULL_SCANS.family({(): host.full_scans})


def _guests(merging: Merging) -> Iterator[Family]:
    yield DOMAIN_KSM_MERGED.family({(name,): one.merged_bytes for name, one in merging.guests.items()})
    yield DOMAIN_KSM_PROFIT.family({(name,): one.profit_bytes for name, one in merging.guests.items()})


def _capture(scan: HostScan, merging: Merging) -> Family:
    captured: dict[tuple[str], float] = {}
    if scan.potential_pages:
        # An empty label is none: the host's series is the one without.
        captured["",] = merging.host.merged_pages / scan.potential_pages
    for name, potential in scan.mergeable_pages.items():
        if name in merging.guests and potential:
            captured[name,] = merging.guests[name].merged_pages / potential
    return KSM_CAPTURE.family(captured)
