"""Study output in a directory: figures (PNG and SVG), a self-contained HTML report, and JSON."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from samepaged.analysis.study.document import document
from samepaged.analysis.study.figures import comparison_figure, figures
from samepaged.analysis.study.tables import tables
from samepaged.errors import TraceError
from samepaged.templating import load_templates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from samepaged.analysis.study.comparison import Comparison
    from samepaged.analysis.study.drawing import RenderedFigure
    from samepaged.analysis.study.study import Study
    from samepaged.analysis.study.table import Table

__all__ = ["prepare", "write", "write_comparison"]

_STYLE: Final = (files("samepaged.analysis.study") / "style.css").read_text(encoding="utf-8")
_TEMPLATE: Final = load_templates("samepaged.analysis.study", {}).get_template("report.html")
# matplotlib's prologue, and XML namespaces, which HTML implies.
_PROLOGUE: Final = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_DIALECTS: Final = re.compile(r' xmlns(:\w+)?="[^"]*"')
# matplotlib's rule for all elements must apply to the figure only.
_RULE: Final = re.compile(r"<style[^>]*>\s*\*\{")


@dataclass(frozen=True, slots=True)
class _Section:
    """A table, and its figures as SVG elements."""

    table: Table
    figures: tuple[Markup, ...]


def prepare(directory: Path) -> None:
    """Create the directory before the evaluation starts. Raises TraceError if this fails."""
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)


def write(study: Study, directory: Path) -> None:
    """Write `study` into `directory`. Raises TraceError if this fails."""
    drawn = list(figures(study))
    introduction = (
        f"{study.traces} traces of {len(study.guests)} guests, in pages of {study.page_size} bytes. "
        "Zero, absent and swapped pages are excluded unless stated otherwise."
    )
    _write(directory, "study", "A study of memory sharing", introduction, tables(study), drawn, document(study))


def write_comparison(comparison: Comparison, directory: Path) -> None:
    """Write `comparison` into `directory`, like `write`."""
    drawn = [comparison_figure(comparison)]
    told = [comparison.table()]
    _write(directory, "compare", "Comparison of two sets of traces", "", told, drawn, comparison.document())


def _write(
    directory: Path,
    name: str,
    title: str,
    introduction: str,
    told: Sequence[Table],
    drawn: Sequence[RenderedFigure],
    found: dict[str, Any],
) -> None:
    content = {f"{one.key}.png": one.png for one in drawn}
    content |= {f"{one.key}.svg": one.svg.encode() for one in drawn}
    content["report.html"] = _page(title, introduction, told, drawn).encode()
    content[f"{name}.json"] = (json.dumps(found, indent=2) + "\n").encode()
    with _writing(directory):
        for file, data in content.items():
            (directory / file).write_bytes(data)


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TraceError(
            directory, f"cannot be written ({error.strerror})", "free disk space, or name a writable directory"
        ) from error


def _page(title: str, introduction: str, listed: Sequence[Table], drawn: Sequence[RenderedFigure]) -> str:
    left = list(drawn)
    sections = []
    for table in listed:
        # Figures 8 and 9 share a table.
        beside = [one for one in left if one.key == table.key or _numbers(one.key) & _numbers(table.key)]
        left = [one for one in left if one not in beside]
        sections.append(_Section(table, tuple(_inline(one) for one in beside)))
    style = Markup(_STYLE)  # noqa: S704 - a file of the package
    return f"{_TEMPLATE.render(title=title, introduction=introduction, sections=sections, style=style)}\n"


def _numbers(key: str) -> set[str]:
    """Return the figure numbers in a key: fig08-09-by-platform has 08 and 09."""
    return set(re.findall(r"(?<![\w])(?:fig)?(\d\d)(?=-)", key))


def _inline(drawn: RenderedFigure) -> Markup:
    """Convert an SVG document to an element in HTML: remove the prologue, and keep its names distinct from other
    figures'.
    """
    text = _DIALECTS.sub("", _PROLOGUE.sub("", drawn.svg, count=1))
    text = _RULE.sub(f"<style>.{drawn.key} *{{", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{drawn.key}-", text)
    text = text.replace("<svg ", f'<svg class="{drawn.key}" role="img" aria-label="{escape(drawn.title)}" ', 1)
    return Markup(text)  # noqa: S704 - matplotlib has escaped it
