"""A study in a directory: its figures (PNG and SVG), a report in HTML that needs nothing beside it, and JSON."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, Final

from samepaged.analysis.study.document import document
from samepaged.analysis.study.figures import comparison_figure, figures
from samepaged.analysis.study.tables import tables
from samepaged.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from samepaged.analysis.study.comparison import Comparison
    from samepaged.analysis.study.drawing import Drawn
    from samepaged.analysis.study.study import Study
    from samepaged.analysis.study.table import Table

__all__ = ["prepare", "write", "write_comparison"]

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE: Final = """
body{margin:0 auto;max-width:64rem;padding:1rem;background:#fff;color:#1b2128;overflow-wrap:anywhere;
font:100%/1.45 system-ui,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}figure{margin:1rem 0}figure svg{width:100%;height:auto}
p{max-width:72ch}.soft{color:#55606c}nav ul{columns:2;padding-left:1.2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;min-width:60%}
th,td{text-align:right;padding:.25rem .9rem .25rem 0;border-bottom:1px solid #d5dbe1;white-space:nowrap}
.name{text-align:left;white-space:normal;min-width:6rem}thead th{color:#55606c}
details summary{cursor:pointer;color:#0a5ea8}
@media print{details{display:block}}
"""
# matplotlib's prologue, and the names of XML's dialects, which HTML knows.
_PROLOGUE: Final = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_DIALECTS: Final = re.compile(r' xmlns(:\w+)?="[^"]*"')
# Its rule for all elements is meant for the figure's alone.
_RULE: Final = re.compile(r"<style[^>]*>\s*\*\{")


def prepare(directory: Path) -> None:
    """Make the directory where it is not there, before all the work. Raises TraceError where that cannot be."""
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)


def write(study: Study, directory: Path) -> None:
    """Write `study` into `directory`. Raises TraceError where that cannot be."""
    drawn = list(figures(study))
    introduction = (
        f"{study.traces} traces of {len(study.guests)} guests, in pages of {study.page_size} bytes. "
        "Zero, absent and swapped pages are in no figure but where it says so."
    )
    _write(directory, "study", "A study of memory sharing", introduction, tables(study), drawn, document(study))


def write_comparison(comparison: Comparison, directory: Path) -> None:
    """As `write`."""
    drawn = [comparison_figure(comparison)]
    told = [comparison.table()]
    _write(directory, "compare", "Two sets of traces compared", "", told, drawn, comparison.document())


def _write(
    directory: Path,
    name: str,
    title: str,
    introduction: str,
    told: Sequence[Table],
    drawn: Sequence[Drawn],
    found: dict[str, Any],
) -> None:
    files = {f"{one.key}.png": one.png for one in drawn}
    files |= {f"{one.key}.svg": one.svg.encode() for one in drawn}
    files["report.html"] = _page(title, introduction, told, drawn).encode()
    files[f"{name}.json"] = (json.dumps(found, indent=2) + "\n").encode()
    with _writing(directory):
        for file, content in files.items():
            (directory / file).write_bytes(content)


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TraceError(
            directory, f"cannot be written ({error.strerror})", "make room, or name a directory that can"
        ) from error


def _page(title: str, introduction: str, told: Sequence[Table], drawn: Sequence[Drawn]) -> str:
    left = list(drawn)
    sections = []
    for table in told:
        # Figures 8 and 9 have a table in common.
        mine = [one for one in left if one.key == table.key or _numbers(one.key) & _numbers(table.key)]
        left = [one for one in left if one not in mine]
        sections.append(_section(table, mine))
    links = "".join(f'<li><a href="#{table.key}">{escape(f"{table.figure}: {table.title}")}</a></li>' for table in told)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"<p>{escape(introduction)}</p>\n<nav><ul>{links}</ul></nav>\n<main>\n{''.join(sections)}</main>\n"
        '<p class="soft">Figures are named after those of Barker, Wood, Shenoy and Sitaraman, <cite>An Empirical Study '
        "of Memory Sharing in Virtual Machines</cite> (USENIX ATC 2012). Made by samepaged.</p>\n</body>\n</html>\n"
    )


def _numbers(key: str) -> set[str]:
    """The numbers of the figures that a key names: fig08-09-by-platform has 08 and 09."""
    return set(re.findall(r"(?<![\w])(?:fig)?(\d\d)(?=-)", key))


def _section(table: Table, drawn: Iterable[Drawn]) -> str:
    shown = "".join(f"<figure>{_inline(one)}</figure>\n" for one in drawn)
    head = "".join(f"<th{_kind(at, table)}>{escape(text)}</th>" for at, text in enumerate(table.headings))
    rows = "\n".join(
        f"<tr>{''.join(f'<td{_kind(at, table)}>{escape(cell)}</td>' for at, cell in enumerate(row))}</tr>"
        for row in table.rows
    )
    return (
        f'<section id="{table.key}">\n<h2>{escape(f"{table.figure}: {table.title}")}</h2>\n{shown}'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n'
        f'<p class="soft">{escape(table.note)}</p>\n</section>\n'
    )


def _kind(at: int, table: Table) -> str:
    return ' class="name"' if at < table.names else ""


def _inline(drawn: Drawn) -> str:
    """An SVG as a part of HTML: without what makes it a document, and its names apart from the other figures'."""
    text = _DIALECTS.sub("", _PROLOGUE.sub("", drawn.svg, count=1))
    text = _RULE.sub(f"<style>.{drawn.key} *{{", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{drawn.key}-", text)
    return text.replace("<svg ", f'<svg class="{drawn.key}" role="img" aria-label="{escape(drawn.title)}" ', 1)
