"""Metric families, as both rooms of metrics make them."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from samepaged.export.snapshot import Histogram

__all__ = ["gauge", "observe"]

_UNITS: Final = ("bytes", "seconds", "ratio")


def gauge(name: str, text: str, value: float | None = None, labels: tuple[str, ...] | None = None) -> GaugeMetricFamily:
    """A gauge with `text` as HELP, its unit taken from its name: of one `value`, or of `labels` to add values to."""
    unit = next((unit for unit in _UNITS if name.endswith(f"_{unit}")), "")
    return GaugeMetricFamily(name, text, value=value, labels=labels, unit=unit)


def observe(family: HistogramMetricFamily, labels: tuple[str, ...], histogram: Histogram) -> None:
    """Add `histogram` to `family`, under the values `labels`."""
    bounds = (*map(floatToGoString, histogram.bounds), "+Inf")
    counts = histogram.counts or (0,) * len(bounds)
    family.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), histogram.total)
