"""The kinds of metrics, and how each is made for prometheus_client. Only here are families made: what is exported has
an entry in the catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeAlias, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client import Metric as Family

    from samepaged.scan.snapshot import Histogram

__all__ = ["COUNTER", "GAUGE", "HISTOGRAM", "INFO", "Kind"]

Value = TypeVar("Value")
_Names: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind(Generic[Value]):
    """A type of metric, by its name in the text format. `family` makes one from its name, HELP, labels, unit (or an
    empty string) and values by the values of its labels.
    """

    type: Literal["gauge", "counter", "histogram"]
    family: Callable[[str, str, _Names, str, Mapping[_Names, Value]], Family]


def _gauge(name: str, text: str, labels: _Names, unit: str, values: Mapping[_Names, float]) -> Family:
    family = GaugeMetricFamily(name, text, labels=labels, unit=unit)
    for at, value in values.items():
        family.add_metric(at, value)
    return family


def _counter(name: str, text: str, labels: _Names, unit: str, values: Mapping[_Names, float]) -> Family:
    family = CounterMetricFamily(name, text, labels=labels, unit=unit)
    for at, value in values.items():
        family.add_metric(at, value)
    return family


def _info(name: str, text: str, labels: _Names, _: str, values: Mapping[_Names, Literal[1]]) -> Family:
    family = InfoMetricFamily(name.removesuffix("_info"), text, labels=labels)
    for at in values:
        family.add_metric(at, {})
    return family


def _histogram(name: str, text: str, labels: _Names, unit: str, values: Mapping[_Names, Histogram]) -> Family:
    family = HistogramMetricFamily(name, text, labels=labels, unit=unit)
    for at, histogram in values.items():
        bounds = (*map(floatToGoString, histogram.bounds), "+Inf")
        counts = histogram.counts or (0,) * len(bounds)
        family.add_metric(at, list(zip(bounds, accumulate(counts), strict=True)), histogram.total)
    return family


GAUGE: Final = Kind("gauge", _gauge)
COUNTER: Final = Kind("counter", _counter)
HISTOGRAM: Final = Kind("histogram", _histogram)
INFO: Final = Kind("gauge", _info)
"""A gauge whose labels are what it tells: always 1."""
