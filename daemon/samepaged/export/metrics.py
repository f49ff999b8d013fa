"""Prometheus metrics of one snapshot. docs/metrics.md lists them; a test holds the two together."""

from __future__ import annotations

import heapq
import platform
from collections import Counter
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.utils import floatToGoString

import samepaged
from samepaged.export.names import valid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric

    from samepaged.export.snapshot import Histogram, HostScan, Snapshot
    from samepaged.sharing import GuestSharing

__all__ = ["SnapshotCollector", "registry", "render"]

_STATES: Final = ("absent", "swapped", "zero", "distinct", "duplicate")
_STATES_HELP: Final = (
    "absent (never backed by the host: reads as zeros, was not read), swapped (out on the host, not read), zero, "
    "distinct (the first copy of a non-zero content in the guest, |U(V)|; the paper's UNIQUE(P_V)), "
    "duplicate (a further copy, S_self(V))"
)
_UNITS: Final = ("bytes", "seconds", "ratio")


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
            scan = snapshot.latest
            families += [
                *_domains(scan),
                *_scans(scan),
                *_groups(scan),
                *_host(scan),
                _largest_pairs(scan, self.pairs),
            ]
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
    yield _gauge("samepage_libvirt_up", "Whether samepaged is connected to libvirt: 1 or 0.", snapshot.libvirt_up)
    yield _gauge(
        "samepage_config_last_reload_successful",
        "Whether the last load of the configuration succeeded: 1 or 0. After a failure the old one stays in force.",
        snapshot.config.successful,
    )
    yield _gauge(
        "samepage_config_last_reload_success_timestamp_seconds",
        "When the configuration in force was loaded, in seconds of the Unix epoch.",
        snapshot.config.loaded,
    )


def _histories(snapshot: Snapshot) -> Iterator[Metric]:
    scans = HistogramMetricFamily(
        "samepage_scan_duration_seconds",
        "Seconds that a scan of all guests of the host took, analysis included.",
        labels=(),
        unit="seconds",
    )
    if snapshot.scan_durations is not None:
        _observe(scans, (), snapshot.scan_durations)
    yield scans
    pauses = HistogramMetricFamily(
        "samepage_pause_duration_seconds",
        "Seconds that the guest stood suspended for samepaged, each pause by itself.",
        labels=("domain",),
        unit="seconds",
    )
    for domain, histogram in snapshot.pauses.items():
        _observe(pauses, (valid(domain),), histogram)
    yield pauses
    failures = CounterMetricFamily(
        "samepage_scan_failures",
        "Scans of the domain that failed, by reason, since samepaged started.",
        labels=("domain", "reason"),
    )
    for (domain, reason), count in snapshot.failures.items():
        failures.add_metric((valid(domain), reason.value), count)
    yield failures
    succeeded = _gauge(
        "samepage_domain_last_scan_success_timestamp_seconds",
        "When the domain was last scanned with success, in seconds of the Unix epoch.",
        labels=("domain",),
    )
    for domain, when in snapshot.last_success.items():
        succeeded.add_metric((valid(domain),), when)
    yield succeeded


def _domains(scan: HostScan) -> Iterator[Metric]:
    size = scan.report.page_size
    memory = _gauge(
        "samepage_domain_memory_bytes",
        f"Bytes of the guest's memory by state: {_STATES_HELP}. The five add up to the guest's memory.",
        labels=("domain", "state"),
    )
    sharing = _gauge(
        "samepage_domain_self_sharing_bytes",
        "Bytes that duplicate pages take within the guest, zero pages left out: S_self(V).",
        labels=("domain",),
    )
    shared = _gauge(
        "samepage_domain_shared_with_others_bytes",
        "Bytes of the guest's distinct contents U(V) that some other guest of its group has too. Does not add up over "
        "guests.",
        labels=("domain",),
    )
    for guest in scan.report.guests:
        domain = valid(guest.name)
        for state, pages in _by_state((guest,)).items():
            memory.add_metric((domain, state), pages * size)
        sharing.add_metric((domain,), guest.duplicate_pages * size)
        shared.add_metric((domain,), guest.shared_with_others_pages * size)
    yield from (memory, sharing, shared)


def _scans(scan: HostScan) -> Iterator[Metric]:
    info = InfoMetricFamily(
        "samepage_domain",
        "The domain's UUID and group (guests that may share), and the mode and reader of its last scan; always 1.",
        labels=("domain", "uuid", "group", "mode", "reader"),
    )
    duration = _gauge(
        "samepage_domain_scan_duration_seconds", "Seconds that the domain's last scan took.", labels=("domain",)
    )
    pause = _gauge(
        "samepage_domain_last_pause_seconds",
        "Seconds of the longest time that the domain's last scan kept it suspended.",
        labels=("domain",),
    )
    read = _gauge("samepage_domain_read_bytes", "Bytes of memory that the domain's last scan read.", labels=("domain",))
    for one in scan.scans:
        domain = valid(one.name)
        info.add_metric((domain, valid(one.uuid), valid(one.group), valid(one.mode), valid(one.reader)), {})
        duration.add_metric((domain,), one.duration_seconds)
        pause.add_metric((domain,), one.longest_pause_seconds)
        read.add_metric((domain,), one.bytes_read)
    yield from (info, duration, pause, read)


def _groups(scan: HostScan) -> Iterator[Metric]:
    size = scan.report.page_size
    own = _gauge(
        "samepage_group_self_sharing_bytes",
        "Bytes of self-sharing in the guests of the group: the sum of S_self(V) over V in G.",
        labels=("group",),
    )
    inter = _gauge(
        "samepage_group_inter_sharing_bytes",
        "Bytes that the guests of the group share only by being on the same host: S_inter(G).",
        labels=("group",),
    )
    for group in scan.report.groups:
        own.add_metric((valid(group.name),), group.self_sharing_pages * size)
        inter.add_metric((valid(group.name),), group.inter_sharing_pages * size)
    yield from (own, inter)


def _host(scan: HostScan) -> Iterator[Metric]:
    report, size = scan.report, scan.report.page_size
    states = _by_state((*report.guests, *scan.departed))
    memory = _gauge(
        "samepage_host_memory_bytes",
        f"Bytes of the memory of all scanned guests by state: {_STATES_HELP}.",
        labels=("state",),
    )
    for state, pages in states.items():
        memory.add_metric((state,), pages * size)
    yield memory
    yield _gauge(
        "samepage_host_self_sharing_bytes",
        "Bytes of self-sharing in all scanned guests: the sum of S_self(V) over all V.",
        report.self_sharing_pages * size,
    )
    yield _gauge(
        "samepage_host_inter_sharing_bytes",
        "Bytes that all scanned guests share only by being on the same host, across groups too: S_inter of the host.",
        report.inter_sharing_pages * size,
    )
    if total := sum(states.values()):
        yield _gauge(
            "samepage_host_sharing_ratio",
            "Total sharing (self-sharing and inter-VM sharing of the host) as a part of the guests' memory, 0 to 1.",
            report.total_sharing_pages / total,
        )
    yield _gauge(
        "samepage_last_scan_timestamp_seconds",
        "When the last scan of the host ended, in seconds of the Unix epoch.",
        scan.started + scan.duration_seconds,
    )
    domains = _gauge(
        "samepage_domains",
        "Domains that the last scan of the host scanned, and those that it skipped, for whatever reason.",
        labels=("result",),
    )
    # A guest that was skipped may still have a row, of the scan before: it counts as skipped.
    skipped = {one.name for one in scan.skipped}
    domains.add_metric(("scanned",), sum(one.name not in skipped for one in scan.scans))
    domains.add_metric(("skipped",), len(skipped))
    yield domains


def _largest_pairs(scan: HostScan, most: int) -> Metric:
    family = _gauge(
        "samepage_pair_inter_sharing_bytes",
        "Bytes of contents that both guests have, |U(A) ∩ U(B)|, whatever their groups: S_inter of the two. Only the "
        "largest pairs.",
        labels=("domain_a", "domain_b"),
    )
    for pair in heapq.nlargest(most, scan.report.pairs, key=attrgetter("inter_sharing_pages")):
        a, b = pair.domains
        family.add_metric((valid(a), valid(b)), pair.inter_sharing_pages * scan.report.page_size)
    return family


def _by_state(guests: Iterable[GuestSharing]) -> Counter[str]:
    pages = Counter(dict.fromkeys(_STATES, 0))
    for guest in guests:
        for state in _STATES:
            pages[state] += getattr(guest, f"{state}_pages")
    return pages


def _gauge(
    name: str, text: str, value: float | None = None, labels: tuple[str, ...] | None = None
) -> GaugeMetricFamily:
    unit = next((unit for unit in _UNITS if name.endswith(f"_{unit}")), "")
    return GaugeMetricFamily(name, text, value=value, labels=labels, unit=unit)


def _observe(family: HistogramMetricFamily, labels: tuple[str, ...], histogram: Histogram) -> None:
    bounds = (*map(floatToGoString, histogram.bounds), "+Inf")
    counts = histogram.counts or (0,) * len(bounds)
    family.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), histogram.total)
