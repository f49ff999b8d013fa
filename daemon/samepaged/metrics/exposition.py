"""/metrics: the metrics of a snapshot and of this process, in the two exposition formats of Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from samepaged.metrics.catalogue import SECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client import Metric as Family

    from samepaged.scan.snapshot import Snapshot

__all__ = ["MetricsText", "families", "render"]

OPENMETRICS_END: Final = b"# EOF\n"


def families(snapshot: Snapshot) -> list[Family]:
    """Return the metrics of `snapshot` in the order of the catalogue, without metrics that lack series."""
    found = (metric.family(snapshot) for metric in chain.from_iterable(SECTIONS.values()))
    return [family for family in found if family is not None]


def render(shown: Iterable[Family], *, openmetrics: bool) -> bytes:
    """`shown` in OpenMetrics 1.0.0 or in version 0.0.4 of the Prometheus text format."""
    registry = CollectorRegistry()
    registry.register(_Families(list(shown)))
    if not openmetrics:
        return generate_latest(registry)
    text: bytes = generate_openmetrics(registry)  # type: ignore[no-untyped-call]  # not annotated upstream
    return text


class MetricsText:
    """/metrics in both formats. The families of a snapshot are rendered once per snapshot, those of this process at
    each call.
    """

    def __init__(self) -> None:
        self._process = CollectorRegistry()
        # Without prometheus_client's platform collector: samepage_build_info has its labels.
        ProcessCollector(registry=self._process)
        GCCollector(registry=self._process)
        self._snapshot: Snapshot | None = None
        self._text = self._openmetrics = b""

    def __call__(self, snapshot: Snapshot) -> tuple[bytes, bytes]:
        """Return the text format and OpenMetrics."""
        if snapshot is not self._snapshot:
            made = families(snapshot)
            self._text = render(made, openmetrics=False)
            self._openmetrics = render(made, openmetrics=True).removesuffix(OPENMETRICS_END)
            self._snapshot = snapshot
        process = list(self._process.collect())
        return (
            self._text + render(process, openmetrics=False),
            self._openmetrics + render(process, openmetrics=True),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Families:
    """A collector that returns existing families."""

    made: Sequence[Family]

    def collect(self) -> Iterable[Family]:
        return self.made
