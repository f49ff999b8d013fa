"""The definition of a metric: its documentation, and the code that fills it from a snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeAlias, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.utils import floatToGoString

from samepaged.escape import valid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client import Metric as Family

    from samepaged.guest_id import GuestId
    from samepaged.scan.label_values import Words
    from samepaged.scan.results import GuestScan, HostScan
    from samepaged.scan.snapshot import Histogram, Snapshot

__all__ = [
    "COUNTER",
    "GAUGE",
    "HISTOGRAM",
    "INFO",
    "Kind",
    "Metric",
    "Unit",
    "of_domains",
    "of_guests",
    "of_reasons",
    "of_scan",
]

Labels = TypeVar("Labels", bound=tuple[str, ...])
Value = TypeVar("Value")
Item = TypeVar("Item")
_Names: TypeAlias = tuple[str, ...]


class Unit(StrEnum):
    """The unit of a metric's values, as shown in docs/reference/metrics.md."""

    BYTES = "bytes"
    SECONDS = "seconds"
    EPOCH = "seconds since the Unix epoch"
    RATIO = "ratio, 0 to 1"
    TRUTH = "1 or 0"
    ONE = "1"
    DOMAINS = "domains"
    SCANS = "scans"
    PASSES = "passes"
    TRACES = "traces"
    ENTRIES = "entries"

    @property
    def base(self) -> str:
        """The unit in OpenMetrics, which is the suffix of the metric's name; empty for a number without a unit."""
        return _BASES.get(self, "")


_BASES: Final = {Unit.BYTES: "bytes", Unit.SECONDS: "seconds", Unit.EPOCH: "seconds", Unit.RATIO: "ratio"}


@dataclass(frozen=True, slots=True)
class Kind(Generic[Value]):
    """A type of metric. `type` is its name in the text format. `family` creates a metric family from a name, a HELP
    text, labels, a unit (or an empty string) and values by label values.
    """

    type: Literal["gauge", "counter", "histogram"]
    family: Callable[[str, str, _Names, str, Mapping[_Names, Value]], Family]


@dataclass(frozen=True, slots=True)
class Metric(Generic[Labels, Value]):
    """One metric. `name` is its name in the text format, including `_total` or `_info`. `meaning` is its
    self-contained description, without markup other than backticks; `symbol` is its symbol in the paper, `example` a
    query in PromQL. `values` takes a snapshot and returns the value of each series by its label values; a metric
    without values is not exported. `words` documents the values of each label with a few fixed values.
    """

    kind: Kind[Value]
    name: str
    labels: Labels
    unit: Unit
    meaning: str
    example: str
    values: Callable[[Snapshot], Mapping[Labels, Value]]
    symbol: str = ""
    words: Mapping[str, Words] = field(default_factory=dict)

    @property
    def help(self) -> str:
        """The HELP text, in one line."""
        words = (f" {label.capitalize()} is one of {', '.join(values)}." for label, values in self.words.items())
        return self.meaning.replace("`", "") + "".join(words)

    def family(self, snapshot: Snapshot) -> Family | None:
        """The exported metric with its series from `snapshot`, or None without series."""
        series = {tuple(map(valid, at)): value for at, value in self.values(snapshot).items()}
        return self.kind.family(self.name, self.help, self.labels, self.unit.base, series) if series else None


def of_scan(values: Callable[[HostScan], Mapping[Labels, Value]]) -> Callable[[Snapshot], Mapping[Labels, Value]]:
    """Values of the latest scan; none before the first scan."""
    return lambda snapshot: {} if snapshot.latest is None else values(snapshot.latest)


def of_domains(value: Callable[[GuestScan], Value]) -> Callable[[Snapshot], Mapping[tuple[str], Value]]:
    """The values of a metric with the label `domain` alone: the `value` of each guest in the latest scan."""
    return of_scan(lambda scan: {(one.name,): value(one) for one in scan.scans})


def of_reasons(
    reason: Callable[[GuestScan], str | None],
) -> Callable[[Snapshot], Mapping[tuple[str, str], Literal[1]]]:
    """The values of an information metric with the labels `domain` and `reason`: none for a guest without a reason."""
    return of_scan(lambda scan: {(one.name, code): 1 for one in scan.scans if (code := reason(one)) is not None})


def of_guests(
    items: Callable[[Snapshot], Mapping[GuestId, Item]], value: Callable[[Item], Value]
) -> Callable[[Snapshot], Mapping[tuple[str], Value]]:
    """The values of a metric with the label `domain` alone: the `value` of each guest's item in `items`."""
    return lambda snapshot: {(name,): value(item) for name, item in snapshot.by_name(items(snapshot)).items()}


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
"""A gauge with the constant value 1; its labels carry the information."""
