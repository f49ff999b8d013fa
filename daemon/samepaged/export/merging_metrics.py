"""What KSM has merged beside what a scan says could be merged, as metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, InfoMetricFamily

from samepaged.export.families import gauge
from samepaged.export.names import valid
from samepaged.ksm import expected_profit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from samepaged.export.snapshot import HostScan, Merging

__all__ = ["OBSTACLES", "merging_metrics"]

OBSTACLES: Final = {
    "hugetlb": "its memory is in huge pages of hugetlbfs, which KSM does not merge",
    "shared": "its memory is shared with other processes (memfd, file, vhost-user), which KSM does not merge",
    "nosharepages": "its domain's XML says <nosharepages/>",
    "not_offered": "QEMU did not offer its memory to KSM (mem-merge=off, or a kernel without KSM when it started)",
}
_PROFIT: Final = "bytes less the 64 that KSM takes for each page that it looks after (the kernel's formula)"


def merging_metrics(scan: HostScan | None, merging: Merging | None) -> Iterator[Metric]:
    """KSM of the host and of each guest, and the share of the potential that it has captured."""
    if scan is not None:
        yield from _potential(scan)
    if merging is not None:
        yield from _host(merging)
        yield from _guests(merging)
        if scan is not None:
            yield _capture(scan, merging)


def _potential(scan: HostScan) -> Iterator[Metric]:
    size = scan.report.page_size
    yield gauge(
        "samepage_ksm_potential_bytes",
        "Bytes that KSM would save had it merged all scanned guests: their total sharing and their zero pages, which "
        "it merges like others.",
        scan.potential_pages * size,
    )
    yield gauge(
        "samepage_ksm_attainable_bytes",
        "The same in those guests alone whose memory KSM can merge (samepage_domain_merge_obstacle_info tells why the "
        "others' cannot be).",
        scan.attainable_pages * size,
    )
    yield gauge(
        "samepage_ksm_expected_profit_bytes",
        f"What turning KSM on is worth: the attainable {_PROFIT}.",
        expected_profit(scan.attainable_pages, scan.attended_pages, size),
    )
    potential = gauge(
        "samepage_domain_ksm_potential_bytes",
        "Bytes of the guest's pages that KSM would map to a page of its own: those whose content is on the host more "
        "than once, zero pages among them. One page of each content stays, so this does not add up to what is saved.",
        labels=("domain",),
    )
    for guest in scan.report.guests:
        potential.add_metric((valid(guest.name),), (guest.recurring_pages + guest.zero_pages) * size)
    yield potential
    obstacles = InfoMetricFamily(
        "samepage_domain_merge_obstacle",
        "Why KSM cannot merge the guest's memory, where it cannot: "
        + "; ".join(f"{code} ({meaning})" for code, meaning in OBSTACLES.items())
        + ". Always 1.",
        labels=("domain", "reason"),
    )
    for one in scan.scans:
        if one.merge_obstacle is not None:
            obstacles.add_metric((valid(one.name), valid(one.merge_obstacle)), {})
    yield obstacles


def _host(merging: Merging) -> Iterator[Metric]:
    host = merging.host
    yield gauge("samepage_ksm_running", "Whether KSM merges pages now: 1 or 0.", host.running)
    yield gauge(
        "samepage_ksm_merged_bytes",
        "Bytes that KSM saves now, on the whole host (pages_sharing and ksm_zero_pages).",
        host.merged_pages * 4096,
    )
    yield gauge("samepage_ksm_profit_bytes", f"What KSM is worth now: the saved {_PROFIT}.", host.profit_bytes)
    yield CounterMetricFamily(
        "samepage_ksm_full_scans", "How often KSM has been through all that it looks after.", value=host.full_scans
    )


def _guests(merging: Merging) -> Iterator[Metric]:
    merged = gauge(
        "samepage_domain_ksm_merged_bytes",
        "Bytes of the guest's process that are mapped to a page of KSM's or to the kernel's page of zeros.",
        labels=("domain",),
    )
    profit = gauge(
        "samepage_domain_ksm_profit_bytes",
        "The kernel's ksm_process_profit: the merged " + _PROFIT + ". It counts no page as kept for others.",
        labels=("domain",),
    )
    for name, one in merging.guests.items():
        merged.add_metric((valid(name),), one.merged_pages * 4096)
        profit.add_metric((valid(name),), one.profit_bytes)
    yield from (merged, profit)


def _capture(scan: HostScan, merging: Merging) -> Metric:
    family = gauge(
        "samepage_ksm_capture_ratio",
        "What KSM has merged as a part of what could be merged: of the host without a label (saved by the potential), "
        "of a guest with its domain (merged by its potential). 1 is all; KSM also merges what is no guest's memory, so "
        "it may be more.",
        labels=("domain",),
    )
    if scan.potential_pages:
        # An empty label is none: the host's series is the one without.
        family.add_metric(("",), merging.host.merged_pages / scan.potential_pages)
    for guest in scan.report.guests:
        potential = guest.recurring_pages + guest.zero_pages
        if guest.name in merging.guests and potential:
            family.add_metric((valid(guest.name),), merging.guests[guest.name].merged_pages / potential)
    return family
