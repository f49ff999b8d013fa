"""Prometheus metrics of one snapshot. Which there are, and what they mean, is in the catalogue."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

import samepaged
from samepaged.metrics.health import (
    BUILD,
    LIBVIRT_UP,
    MAX_DRIFT,
    MAX_PAUSE,
    OPEN_ENTRIES,
    OPEN_ENTRY_SINCE,
    RELOAD_SUCCESS,
    RELOAD_SUCCESSFUL,
    SCAN_INTERVAL,
    TRACES_LOST,
    TRACES_STORED,
    TRACES_WRITTEN,
)
from samepaged.metrics.merging_values import merging_metrics
from samepaged.metrics.scans import (
    DOMAIN_DEVICE_WRITES,
    DOMAIN_FALLBACK,
    DOMAIN_INFO,
    DOMAIN_LAST_PAUSE,
    DOMAIN_LAST_SUCCESS,
    DOMAIN_PAUSED_RATIO,
    DOMAIN_PAUSED_SECONDS,
    DOMAIN_READ,
    DOMAIN_SCAN_DURATION,
    DOMAINS,
    LAST_SCAN,
    NEXT_SCAN,
    PAUSE_DURATION,
    SCAN_DURATION,
    SCAN_FAILURES,
)
from samepaged.metrics.sharing_values import sharing_metrics
from samepaged.metrics.sources_values import sources_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric as Family

    from samepaged.scan.results import HostScan
    from samepaged.scan.snapshot import Snapshot

__all__ = ["SnapshotCollector", "registry", "render"]


class SnapshotCollector:
    """A prometheus_client collector over one snapshot. A new one is shown by assigning `snapshot`: a scrape takes the
    reference once, so all that it gives belongs together. Only the largest `pairs` are given, and of each guest the
    `sources` most involved kinds, and processes and files only with `source_names` (all three are assignable, too).
    """

    def __init__(self, snapshot: Snapshot, *, pairs: int = 20, sources: int = 10, source_names: bool = False) -> None:
        self.snapshot = snapshot
        self.pairs = pairs
        self.sources = sources
        self.source_names = source_names

    def collect(self) -> Iterator[Family]:
        """The families of which something is known; a quantity that is not known yet has no series."""
        snapshot = self.snapshot
        families = [*_health(snapshot), *_histories(snapshot)]
        if snapshot.latest is not None:
            families += [
                *_last_scan(snapshot.latest),
                *_scans(snapshot.latest),
                *sharing_metrics(snapshot.latest, self.pairs),
            ]
        families += merging_metrics(snapshot.latest, snapshot.merging)
        families += sources_metrics(snapshot.sources, self.sources, names=self.source_names)
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


def _health(snapshot: Snapshot) -> Iterator[Family]:
    yield BUILD.family({(samepaged.__version__, platform.python_version()): 1})
    yield LIBVIRT_UP.family({(): snapshot.libvirt_up})
    yield OPEN_ENTRIES.family({(): len(snapshot.open_entries)})
    # Of several entries of a domain the oldest, which comes first.
    yield OPEN_ENTRY_SINCE.family({(one.domain,): one.since for one in reversed(snapshot.open_entries)})
    yield RELOAD_SUCCESSFUL.family({(): snapshot.config.successful})
    yield RELOAD_SUCCESS.family({(): snapshot.config.loaded})
    if snapshot.limits is not None:
        yield MAX_PAUSE.family({(): snapshot.limits.max_pause})
        yield MAX_DRIFT.family({(): snapshot.limits.max_drift})
        yield SCAN_INTERVAL.family({(): snapshot.limits.interval})
    if snapshot.next_scan is not None:
        yield NEXT_SCAN.family({(): snapshot.next_scan})
    if snapshot.recording is not None:
        yield TRACES_WRITTEN.family({(): snapshot.recording.written})
        yield TRACES_LOST.family({(): snapshot.recording.lost})
        yield TRACES_STORED.family({(): snapshot.recording.stored_bytes})


def _histories(snapshot: Snapshot) -> Iterator[Family]:
    if snapshot.scan_durations is not None:
        yield SCAN_DURATION.family({(): snapshot.scan_durations})
    yield PAUSE_DURATION.family({(domain,): histogram for domain, histogram in snapshot.pauses.items()})
    yield DOMAIN_PAUSED_SECONDS.family({(domain,): paused.total_seconds for domain, paused in snapshot.paused.items()})
    yield DOMAIN_PAUSED_RATIO.family({(domain,): paused.ratio for domain, paused in snapshot.paused.items()})
    yield SCAN_FAILURES.family({(domain, reason.value): count for (domain, reason), count in snapshot.failures.items()})
    yield DOMAIN_LAST_SUCCESS.family({(domain,): when for domain, when in snapshot.last_success.items()})


def _scans(scan: HostScan) -> Iterator[Family]:
    scans = scan.scans
    yield DOMAIN_INFO.family(dict.fromkeys(((one.name, one.uuid, one.group, one.mode, one.reader) for one in scans), 1))
    yield DOMAIN_DEVICE_WRITES.family({(one.name,): one.device_writes for one in scans})
    yield DOMAIN_SCAN_DURATION.family({(one.name,): one.duration_seconds for one in scans})
    yield DOMAIN_LAST_PAUSE.family({(one.name,): one.longest_pause_seconds for one in scans})
    yield DOMAIN_READ.family({(one.name,): one.bytes_read for one in scans})
    fallbacks = ((one.name, one.fallback_code) for one in scans if one.fallback_code is not None)
    yield DOMAIN_FALLBACK.family(dict.fromkeys(fallbacks, 1))


def _last_scan(scan: HostScan) -> Iterator[Family]:
    yield LAST_SCAN.family({(): scan.started + scan.duration_seconds})
    # A guest that was skipped may still have a row, of the scan before: it counts as skipped.
    skipped = {one.name for one in scan.skipped}
    scanned = sum(one.name not in skipped for one in scan.scans)
    yield DOMAINS.family({("scanned",): scanned, ("skipped",): len(skipped)})
