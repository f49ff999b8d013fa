"""Prometheus metrics of one snapshot. docs/metrics.md lists them; a test holds the two together."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

import samepaged
from samepaged.export.families import gauge, observe
from samepaged.export.merging_metrics import merging_metrics
from samepaged.export.names import valid
from samepaged.export.sharing_metrics import sharing_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from samepaged.export.snapshot import HostScan, Snapshot

__all__ = ["SnapshotCollector", "registry", "render"]

_FALLBACKS: Final = {
    "layout": "its RAM could not be found whole in its process, so it was dumped",
    "hugetlb": "its memory is in huge pages of hugetlbfs, which have no soft-dirty bits",
    "shared": "its memory is shared or in a file, where writes through other mappings set no soft-dirty bit",
    "vfio": "a device is passed through, whose writes set no soft-dirty bit",
    "kernel": "the host's kernel keeps no soft-dirty bits",
    "busy": "it writes faster than it can be read within max_pause",
    "permission": "its soft-dirty bits may not be cleared by this user",
    "claimed": "another samepaged is reading it by its soft-dirty bits",
    "distrusted": "its soft-dirty bits were found to miss writes",
}


class SnapshotCollector:
    """A prometheus_client collector over one snapshot. A new one is shown by assigning `snapshot`: a scrape takes the
    reference once, so all that it gives belongs together. Only the largest `pairs` (assignable too) are given.
    """

    def __init__(self, snapshot: Snapshot, *, pairs: int = 20) -> None:
        self.snapshot = snapshot
        self.pairs = pairs

    def collect(self) -> Iterator[Metric]:
        """The families of which something is known; a quantity that is not known yet has no series."""
        snapshot = self.snapshot
        families = [*_health(snapshot), *_histories(snapshot)]
        if snapshot.latest is not None:
            families += [
                *_last_scan(snapshot.latest),
                *_scans(snapshot.latest),
                *_fallbacks(snapshot.latest),
                *sharing_metrics(snapshot.latest, self.pairs),
            ]
        families += merging_metrics(snapshot.latest, snapshot.merging)
        yield from (family for family in families if family.samples)


def registry(collector: SnapshotCollector) -> CollectorRegistry:
    """`collector`, and samepaged's own process and garbage collector. Not prometheus_client's platform collector: its
    one series says what `samepage_build_info` says.
    """
    together = CollectorRegistry()
    together.register(collector)
    ProcessCollector(registry=together)
    GCCollector(registry=together)
    return together


def render(source: CollectorRegistry, *, openmetrics: bool) -> bytes:
    """What a scrape of `source` gives, in OpenMetrics 1.0.0 or in Prometheus' text format 0.0.4."""
    if not openmetrics:
        return generate_latest(source)
    text: bytes = generate_openmetrics(source)  # type: ignore[no-untyped-call]  # not annotated there
    return text


def _health(snapshot: Snapshot) -> Iterator[Metric]:
    build = InfoMetricFamily("samepage_build", "The version of samepaged, and of the Python that runs it; always 1.")
    build.add_metric((), {"version": samepaged.__version__, "python": platform.python_version()})
    yield build
    yield gauge("samepage_libvirt_up", "Whether samepaged is connected to libvirt: 1 or 0.", snapshot.libvirt_up)
    yield gauge(
        "samepage_config_last_reload_successful",
        "Whether the last load of the configuration succeeded: 1 or 0. After a failure the old one stays in force.",
        snapshot.config.successful,
    )
    yield gauge(
        "samepage_config_last_reload_success_timestamp_seconds",
        "When the configuration in force was loaded, in seconds of the Unix epoch.",
        snapshot.config.loaded,
    )
    if snapshot.limits is not None:
        yield gauge(
            "samepage_config_max_pause_seconds",
            "scan.max_pause in force: seconds that a guest may stand suspended at a time.",
            snapshot.limits.max_pause,
        )
        yield gauge(
            "samepage_config_scan_interval_seconds",
            "scan.interval in force: seconds from the start of a scan of the host to the start of the next.",
            snapshot.limits.interval,
        )
    if snapshot.next_scan is not None:
        yield gauge(
            "samepage_next_scan_timestamp_seconds",
            "When the next scan of the host is due, in seconds of the Unix epoch.",
            snapshot.next_scan,
        )


def _histories(snapshot: Snapshot) -> Iterator[Metric]:
    scans = HistogramMetricFamily(
        "samepage_scan_duration_seconds",
        "Seconds that a scan of all guests of the host took, analysis included.",
        labels=(),
        unit="seconds",
    )
    if snapshot.scan_durations is not None:
        observe(scans, (), snapshot.scan_durations)
    yield scans
    pauses = HistogramMetricFamily(
        "samepage_pause_duration_seconds",
        "Seconds that the guest stood suspended for samepaged, each pause by itself.",
        labels=("domain",),
        unit="seconds",
    )
    for domain, histogram in snapshot.pauses.items():
        observe(pauses, (valid(domain),), histogram)
    yield pauses
    failures = CounterMetricFamily(
        "samepage_scan_failures",
        "Scans of the domain that failed, by reason, since samepaged started.",
        labels=("domain", "reason"),
    )
    for (domain, reason), count in snapshot.failures.items():
        failures.add_metric((valid(domain), reason.value), count)
    yield failures
    succeeded = gauge(
        "samepage_domain_last_scan_success_timestamp_seconds",
        "When the domain was last scanned with success, in seconds of the Unix epoch.",
        labels=("domain",),
    )
    for domain, when in snapshot.last_success.items():
        succeeded.add_metric((valid(domain),), when)
    yield succeeded


def _scans(scan: HostScan) -> Iterator[Metric]:
    info = InfoMetricFamily(
        "samepage_domain",
        "The domain's UUID and group (guests that may share), and the mode and reader of its last scan; always 1.",
        labels=("domain", "uuid", "group", "mode", "reader"),
    )
    duration = gauge(
        "samepage_domain_scan_duration_seconds", "Seconds that the domain's last scan took.", labels=("domain",)
    )
    pause = gauge(
        "samepage_domain_last_pause_seconds",
        "Seconds of the longest time that the domain's last scan kept it suspended.",
        labels=("domain",),
    )
    read = gauge("samepage_domain_read_bytes", "Bytes of memory that the domain's last scan read.", labels=("domain",))
    for one in scan.scans:
        domain = valid(one.name)
        info.add_metric((domain, valid(one.uuid), valid(one.group), valid(one.mode), valid(one.reader)), {})
        duration.add_metric((domain,), one.duration_seconds)
        pause.add_metric((domain,), one.longest_pause_seconds)
        read.add_metric((domain,), one.bytes_read)
    yield from (info, duration, pause, read)


def _fallbacks(scan: HostScan) -> Iterator[Metric]:
    info = InfoMetricFamily(
        "samepage_domain_fallback",
        "Why the domain's last scan was done in another way than the one preferred, where it was: "
        + "; ".join(f"{code} ({meaning})" for code, meaning in _FALLBACKS.items())
        + ". Always 1.",
        labels=("domain", "reason"),
    )
    for one in scan.scans:
        if one.fallback_code is not None:
            info.add_metric((valid(one.name), valid(one.fallback_code)), {})
    yield info


def _last_scan(scan: HostScan) -> Iterator[Metric]:
    yield gauge(
        "samepage_last_scan_timestamp_seconds",
        "When the last scan of the host ended, in seconds of the Unix epoch.",
        scan.started + scan.duration_seconds,
    )
    domains = gauge(
        "samepage_domains",
        "Domains that the last scan of the host scanned, and those that it skipped, for whatever reason.",
        labels=("result",),
    )
    # A guest that was skipped may still have a row, of the scan before: it counts as skipped.
    skipped = {one.name for one in scan.skipped}
    domains.add_metric(("scanned",), sum(one.name not in skipped for one in scan.scans))
    domains.add_metric(("skipped",), len(skipped))
    yield domains
