"""Generates the tables of docs/reference/metrics.md from the catalogue of metrics, between markers; the prose around
them is written by hand.

    python -m tools.metrics_page            makes them anew
    python -m tools.metrics_page --check    ends in 1 where they are not what it would make
"""

from __future__ import annotations

import re
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from samepaged.metrics.catalogue import SECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from samepaged.metrics.metric import Metric
    from samepaged.scan.label_values import Words

__all__ = ["PAGE", "REMEDY", "made", "tables"]

PAGE: Final = Path(__file__).parents[1] / "docs/reference/metrics.md"
REMEDY: Final = "run `make metrics-page`"
_MARKED: Final = re.compile(r"(<!-- from the code: ([^>]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
_COLUMNS: Final = ("name", "type", "labels", "unit", "meaning", "symbol", "example")


def made(page: str) -> str:
    """`page` with every table between markers made anew. SystemExit where a table has no place, or more than one."""
    wanted = tables()
    places = [name for _, name, _ in _MARKED.findall(page)]
    for name in sorted({*wanted, *places}):
        if name not in wanted:
            raise SystemExit(
                f"docs/reference/metrics.md: the code has nothing for the marker `from the code: {name}`; take it out"
            )
        if places.count(name) != 1:
            times = places.count(name)
            raise SystemExit(
                f"docs/reference/metrics.md: the marker `from the code: {name}` is there {times} times; have it once"
            )
    return _MARKED.sub(lambda marked: f"{marked[1]}\n{wanted[marked[2]]}\n{marked[3]}", page)


def tables() -> dict[str, str]:
    """The tables of the page by what their markers say: the metrics of a section, the values of a label."""
    found = {section: _table(_COLUMNS, map(_row, metrics)) for section, metrics in SECTIONS.items()}
    told: list[Words] = []
    for metric in chain.from_iterable(SECTIONS.values()):
        for label, words in metric.words.items():
            if words not in told:  # memory by state is there of the guest and of the host
                told.append(words)
                rows = ((f"`{word}`", meaning) for word, meaning in words.items())
                found[f"{label} of {metric.name}"] = _table((label, "meaning"), rows)
    return found


def _row(metric: Metric[Any, Any]) -> tuple[str, ...]:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    code = (f"`{metric.name}`", metric.kind.type, labels, metric.unit)
    return (*code, metric.meaning, metric.symbol, f"`{metric.example}`")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return _line(head) + "|" + "---|" * len(head) + "\n" + "".join(map(_line, rows))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def main(arguments: Sequence[str]) -> None:
    """Write the page, or with `--check` only say whether it is up to date."""
    if arguments not in ([], ["--check"]):
        raise SystemExit("usage: python -m tools.metrics_page [--check]")
    page = PAGE.read_text(encoding="utf-8")
    new = made(page)
    if arguments and new != page:
        raise SystemExit(f"docs/reference/metrics.md is not what the catalogue of metrics makes; {REMEDY}")
    if new != page:
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
