"""What is told of a metric, and how a collector gives it values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from samepaged.escape import valid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import Metric as Family

    from samepaged.metrics.families import Kind
    from samepaged.scan.label_values import Words

__all__ = ["Metric", "Unit"]

Labels = TypeVar("Labels", bound=tuple[str, ...])
Value = TypeVar("Value")


class Unit(StrEnum):
    """What the numbers of a metric are, in the words of the page."""

    BYTES = "bytes"
    SECONDS = "seconds"
    EPOCH = "seconds of the Unix epoch"
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
        """The unit as OpenMetrics names it, which is the end of the metric's name; empty where it has none."""
        return _BASES.get(self, "")


_BASES: Final = {Unit.BYTES: "bytes", Unit.SECONDS: "seconds", Unit.EPOCH: "seconds", Unit.RATIO: "ratio"}


@dataclass(frozen=True, slots=True)
class Metric(Generic[Labels, Value]):
    """One metric: `name` is that of the text format, `_total` and `_info` included. `meaning` is a sentence or two that
    make sense alone, without markup other than backticks; `symbol` is that of the paper, `example` a query in PromQL.
    `words` tells the values of those labels that have few.
    """

    kind: Kind[Value]
    name: str
    labels: Labels
    unit: Unit
    meaning: str
    example: str
    symbol: str = ""
    words: Mapping[str, Words] = field(default_factory=dict)

    @property
    def help(self) -> str:
        """The HELP text: one line."""
        words = (f" {label.capitalize()} is one of {', '.join(values)}." for label, values in self.words.items())
        return self.meaning.replace("`", "") + "".join(words)

    def family(self, values: Mapping[Labels, Value]) -> Family:
        """The metric as it is exported, with one series for each of `values`, by the values of its labels."""
        series = {tuple(map(valid, at)): value for at, value in values.items()}
        return self.kind.family(self.name, self.help, self.labels, self.unit.base, series)
