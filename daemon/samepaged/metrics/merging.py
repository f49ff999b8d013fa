"""Merging by the kernel: KSM's counters, and the mergeable memory according to a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from samepaged.metrics.metric import COUNTER, GAUGE, INFO, Metric, Unit, of_guests, of_reasons, of_scan
from samepaged.scan.label_values import OBSTACLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from samepaged.guest_id import GuestId
    from samepaged.ksm import Merging, ProcessMerging
    from samepaged.scan.snapshot import Snapshot

Labels = TypeVar("Labels", bound=tuple[str, ...])
Value = TypeVar("Value")


def _of_ksm(values: Callable[[Merging], Mapping[Labels, Value]]) -> Callable[[Snapshot], Mapping[Labels, Value]]:
    """Values of the kernel's counters; none if the kernel lacks KSM, or before its counters are read."""
    return lambda snapshot: {} if snapshot.merging is None else values(snapshot.merging)


def _processes(snapshot: Snapshot) -> Mapping[GuestId, ProcessMerging]:
    return {} if snapshot.merging is None else snapshot.merging.guests


KSM_RUNNING: Final = Metric(
    GAUGE,
    "samepage_ksm_running",
    (),
    Unit.TRUTH,
    "Whether KSM (the kernel's samepage merging) is running: 1 or 0.",
    example="samepage_ksm_running == 0",
    values=_of_ksm(lambda merging: {(): merging.host.running}),
)
KSM_MERGED: Final = Metric(
    GAUGE,
    "samepage_ksm_merged_bytes",
    (),
    Unit.BYTES,
    "Bytes that KSM currently saves on the host (`pages_sharing` and `ksm_zero_pages`).",
    example="samepage_ksm_merged_bytes",
    values=_of_ksm(lambda merging: {(): merging.host.merged_bytes}),
)
KSM_POTENTIAL: Final = Metric(
    GAUGE,
    "samepage_ksm_potential_bytes",
    (),
    Unit.BYTES,
    "Bytes that KSM would save if it merged all scanned guests: their total sharing, and their zero pages that occupy "
    "memory, which KSM merges like other pages.",
    symbol="Σ S_self(V) + S_inter(G) + zero pages",
    example="samepage_ksm_potential_bytes - samepage_ksm_merged_bytes",
    values=of_scan(lambda scan: {(): scan.potential_pages * scan.report.page_size}),
)
KSM_ATTAINABLE: Final = Metric(
    GAUGE,
    "samepage_ksm_attainable_bytes",
    (),
    Unit.BYTES,
    "Bytes that KSM would save if it merged all scanned guests with mergeable memory. "
    "`samepage_domain_merge_obstacle_info` has the reasons for the other guests.",
    symbol="the same over these V",
    example="samepage_ksm_potential_bytes - samepage_ksm_attainable_bytes",
    values=of_scan(lambda scan: {(): scan.attainable_pages * scan.report.page_size}),
)


def _captured(snapshot: Snapshot) -> dict[tuple[str], float]:
    scan, merging = snapshot.latest, snapshot.merging
    if scan is None or merging is None:
        return {}
    captured: dict[tuple[str], float] = {}
    if scan.potential_pages:
        # Prometheus treats an empty label as a missing one: this is the host's series.
        captured["",] = merging.host.merged_pages / scan.potential_pages
    guests = snapshot.by_name(merging.guests)
    for name, potential in scan.mergeable_pages.items():
        if name in guests and potential:
            captured[name,] = guests[name].merged_pages / potential
    return captured


KSM_CAPTURE: Final = Metric(
    GAUGE,
    "samepage_ksm_capture_ratio",
    ("domain",),
    Unit.RATIO,
    "Ratio of the memory that KSM has merged to the mergeable memory, of a guest or, without the label `domain`, of "
    "the host. It can exceed 1, because KSM also merges memory outside guests.",
    example='samepage_ksm_capture_ratio{domain=""}',
    values=_captured,
)
KSM_PROFIT: Final = Metric(
    GAUGE,
    "samepage_ksm_profit_bytes",
    (),
    Unit.BYTES,
    "Bytes that KSM currently saves, minus its bookkeeping, by the kernel's formula: 64 bytes for each page that KSM "
    "tracks.",
    example="samepage_ksm_profit_bytes < 0",
    values=_of_ksm(lambda merging: {(): merging.host.profit_bytes}),
)
KSM_EXPECTED_PROFIT: Final = Metric(
    GAUGE,
    "samepage_ksm_expected_profit_bytes",
    (),
    Unit.BYTES,
    "Bytes that KSM would save if it were enabled and merged all attainable memory, minus its bookkeeping, by the "
    "kernel's formula.",
    example="samepage_ksm_expected_profit_bytes > 1e9",
    values=of_scan(lambda scan: {(): scan.expected_profit_bytes}),
)
KSM_FULL_SCANS: Final = Metric(
    COUNTER,
    "samepage_ksm_full_scans_total",
    (),
    Unit.PASSES,
    "Number of times that KSM has scanned all memory registered with it.",
    example="rate(samepage_ksm_full_scans_total[1h]) * 3600",
    values=_of_ksm(lambda merging: {(): merging.host.full_scans}),
)
DOMAIN_KSM_MERGED: Final = Metric(
    GAUGE,
    "samepage_domain_ksm_merged_bytes",
    ("domain",),
    Unit.BYTES,
    "Bytes of the guest's process that are mapped to KSM pages or to the kernel's zero page.",
    example="topk(5, samepage_domain_ksm_merged_bytes)",
    values=of_guests(_processes, lambda process: process.merged_bytes),
)
DOMAIN_KSM_POTENTIAL: Final = Metric(
    GAUGE,
    "samepage_domain_ksm_potential_bytes",
    ("domain",),
    Unit.BYTES,
    "Bytes of the guest's pages that KSM would map to KSM pages: pages with a content that exists more than once on "
    "the host, and zero pages that occupy memory. The sum over guests exceeds the savings, because one page of each "
    "content remains.",
    example="samepage_domain_ksm_potential_bytes - samepage_domain_ksm_merged_bytes",
    values=of_scan(
        lambda scan: {(name,): pages * scan.report.page_size for name, pages in scan.mergeable_pages.items()}
    ),
)
DOMAIN_KSM_PROFIT: Final = Metric(
    GAUGE,
    "samepage_domain_ksm_profit_bytes",
    ("domain",),
    Unit.BYTES,
    "The kernel's `ksm_process_profit` of the guest's process: merged bytes minus KSM's bookkeeping. It does not "
    "deduct the KSM pages that remain in memory.",
    example="samepage_domain_ksm_profit_bytes < 0",
    values=of_guests(_processes, lambda process: process.profit_bytes),
)
DOMAIN_MERGE_OBSTACLE: Final = Metric(
    INFO,
    "samepage_domain_merge_obstacle_info",
    ("domain", "reason"),
    Unit.ONE,
    "Reason that KSM cannot merge the guest's memory, for each such guest; always 1.",
    example="count by (reason) (samepage_domain_merge_obstacle_info)",
    words={"reason": OBSTACLES},
    values=of_reasons(lambda one: one.merge_obstacle),
)
