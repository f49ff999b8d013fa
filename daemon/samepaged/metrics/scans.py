"""Scans: their modes, durations, suspensions of guests, and failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from samepaged.metrics.metric import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    INFO,
    Metric,
    Unit,
    of_domains,
    of_guests,
    of_reasons,
    of_scan,
)
from samepaged.scan.label_values import FAILURES, FALLBACKS, MODES, READERS, RESULTS

if TYPE_CHECKING:
    from samepaged.scan.results import HostScan

DOMAIN_INFO: Final = Metric(
    INFO,
    "samepage_domain_info",
    ("domain", "uuid", "group", "mode", "reader"),
    Unit.ONE,
    "UUID and group (guests that may share) of the domain, and mode and reader of its last scan; always 1.",
    example="samepage_domain_last_pause_seconds * on (instance, domain) group_left (mode) samepage_domain_info",
    words={"mode": MODES, "reader": READERS},
    values=of_scan(lambda scan: {(one.name, one.uuid, one.group, one.mode, one.reader): 1 for one in scan.scans}),
)
DOMAIN_SCAN_DURATION: Final = Metric(
    GAUGE,
    "samepage_domain_scan_duration_seconds",
    ("domain",),
    Unit.SECONDS,
    "Duration of the domain's last scan in seconds.",
    example="topk(3, samepage_domain_scan_duration_seconds)",
    values=of_domains(lambda one: one.duration_seconds),
)
DOMAIN_DEVICE_WRITES: Final = Metric(
    GAUGE,
    "samepage_domain_device_writes",
    ("domain",),
    Unit.TRUTH,
    "Whether a passed-through device (VFIO, vDPA) may have written to the domain's memory during the last scan, even "
    "during a suspension, so that a snapshot is not of one instant: 1 or 0.",
    example="samepage_domain_device_writes == 1",
    values=of_domains(lambda one: one.device_writes),
)
DOMAIN_LAST_PAUSE: Final = Metric(
    GAUGE,
    "samepage_domain_last_pause_seconds",
    ("domain",),
    Unit.SECONDS,
    "Longest suspension of the domain during its last scan in seconds.",
    example="max(samepage_domain_last_pause_seconds)",
    values=of_domains(lambda one: one.longest_pause_seconds),
)
DOMAIN_READ: Final = Metric(
    GAUGE,
    "samepage_domain_read_bytes",
    ("domain",),
    Unit.BYTES,
    "Bytes of memory read by the domain's last scan.",
    example="sum(samepage_domain_read_bytes)",
    values=of_domains(lambda one: one.bytes_read),
)
DOMAIN_LAST_SUCCESS: Final = Metric(
    GAUGE,
    "samepage_domain_last_scan_success_timestamp_seconds",
    ("domain",),
    Unit.EPOCH,
    "Time of the domain's last successful scan, in seconds since the Unix epoch.",
    example="time() - samepage_domain_last_scan_success_timestamp_seconds > 7200",
    values=of_guests(lambda snapshot: snapshot.last_success, lambda when: when),
)
PAUSE_DURATION: Final = Metric(
    HISTOGRAM,
    "samepage_pause_duration_seconds",
    ("domain",),
    Unit.SECONDS,
    "Duration of each suspension of the guest by samepaged in seconds.",
    example="histogram_quantile(0.99, sum by (le) (rate(samepage_pause_duration_seconds_bucket[1d])))",
    values=of_guests(lambda snapshot: snapshot.pauses, lambda histogram: histogram),
)
DOMAIN_PAUSED_SECONDS: Final = Metric(
    COUNTER,
    "samepage_domain_paused_seconds_total",
    ("domain",),
    Unit.SECONDS,
    "Total seconds for which samepaged has suspended the guest since samepaged started, including failed scans. The "
    "guest's clock loses this time.",
    example="topk(3, increase(samepage_domain_paused_seconds_total[1d]))",
    values=of_guests(lambda snapshot: snapshot.paused, lambda paused: paused.total_seconds),
)
DOMAIN_PAUSED_RATIO: Final = Metric(
    GAUGE,
    "samepage_domain_paused_ratio",
    ("domain",),
    Unit.RATIO,
    "Fraction of the last hour for which all samepaged processes on the host together suspended the guest.",
    example="samepage_domain_paused_ratio * 1e6",
    values=of_guests(lambda snapshot: snapshot.paused, lambda paused: paused.ratio),
)
SCAN_DURATION: Final = Metric(
    HISTOGRAM,
    "samepage_scan_duration_seconds",
    (),
    Unit.SECONDS,
    "Duration of a scan of all guests of the host in seconds, including analysis.",
    example="rate(samepage_scan_duration_seconds_sum[1d]) / rate(samepage_scan_duration_seconds_count[1d])",
    values=lambda snapshot: {} if snapshot.scan_durations is None else {(): snapshot.scan_durations},
)
LAST_SCAN: Final = Metric(
    GAUGE,
    "samepage_last_scan_timestamp_seconds",
    (),
    Unit.EPOCH,
    "End time of the last scan of the host, in seconds since the Unix epoch.",
    example="time() - samepage_last_scan_timestamp_seconds",
    values=of_scan(lambda scan: {(): scan.started + scan.duration_seconds}),
)
NEXT_SCAN: Final = Metric(
    GAUGE,
    "samepage_next_scan_timestamp_seconds",
    (),
    Unit.EPOCH,
    "Due time of the next scan of the host, in seconds since the Unix epoch.",
    example="samepage_next_scan_timestamp_seconds - time()",
    values=lambda snapshot: {} if snapshot.next_scan is None else {(): snapshot.next_scan},
)


def _domains_by_result(scan: HostScan) -> dict[tuple[str], int]:
    # A skipped guest can still have a row from an earlier scan.
    skipped = {one.name for one in scan.skipped}
    return {("scanned",): sum(one.name not in skipped for one in scan.scans), ("skipped",): len(skipped)}


DOMAINS: Final = Metric(
    GAUGE,
    "samepage_domains",
    ("result",),
    Unit.DOMAINS,
    "Number of domains by result of the last scan of the host.",
    example='samepage_domains{result="skipped"} > 0',
    words={"result": RESULTS},
    values=of_scan(_domains_by_result),
)
DOMAIN_FALLBACK: Final = Metric(
    INFO,
    "samepage_domain_fallback_info",
    ("domain", "reason"),
    Unit.ONE,
    "Reason that the domain's last scan did not use the preferred mode or reader, for each such domain; always 1.",
    example="count by (reason) (samepage_domain_fallback_info)",
    words={"reason": FALLBACKS},
    values=of_reasons(lambda one: one.fallback_code),
)
SCAN_FAILURES: Final = Metric(
    COUNTER,
    "samepage_scan_failures_total",
    ("domain", "reason"),
    Unit.SCANS,
    "Number of failed scans of the domain since samepaged started, by reason.",
    example="sum by (reason) (increase(samepage_scan_failures_total[1d])) > 0",
    words={"reason": FAILURES},
    values=lambda snapshot: {
        (snapshot.names[guest_id], reason.value): count
        for (guest_id, reason), count in snapshot.failures.items()
        if guest_id in snapshot.names
    },
)
