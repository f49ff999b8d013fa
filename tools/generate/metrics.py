"""Generates the tables of docs/reference/metrics.md from the catalogue of metrics."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from samepaged.metrics.catalogue import SECTIONS
from tools.generate.files import TREE, table, with_parts

if TYPE_CHECKING:
    from pathlib import Path

    from samepaged.metrics.metric import Metric
    from samepaged.scan.label_values import Words

__all__ = ["PAGE", "generated", "tables"]

PAGE: Final = TREE / "docs/reference/metrics.md"
_COLUMNS: Final = ("name", "type", "labels", "unit", "meaning", "symbol", "example")


def generated() -> dict[Path, str | None]:
    """Return the page with its generated tables."""
    return {PAGE: with_parts(str(PAGE.relative_to(TREE)), PAGE.read_text(encoding="utf-8"), tables())}


def tables() -> dict[str, str]:
    """Return the tables by the names of their markers: the metrics of each section, the values of each label."""
    found = {section: table(_COLUMNS, map(_row, metrics)) for section, metrics in SECTIONS.items()}
    documented: list[Words] = []
    for metric in chain.from_iterable(SECTIONS.values()):
        for label, words in metric.words.items():
            if words not in documented:  # memory by state is a metric of guests and of the host
                documented.append(words)
                rows = ((f"`{word}`", meaning) for word, meaning in words.items())
                found[f"{label} of {metric.name}"] = table((label, "meaning"), rows)
    return found


def _row(metric: Metric[Any, Any]) -> tuple[str, ...]:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    code = (f"`{metric.name}`", metric.kind.type, labels, metric.unit)
    return (*code, metric.meaning, metric.symbol, f"`{metric.example}`")
