"""Generation of docs/analysis/study.md: the tables of `samepaged study` over the traces, between the page's markers."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from experiments import attribution_tables, tables
from experiments.cell_run import FieldError, outcomes
from experiments.contents import filled_pages, most_repeated_contents
from experiments.matrix import ARCHITECTURES, BOOTS, MATRIX, RELEASES, SETUPS
from experiments.tracing import SEED, samepaged
from samepaged.traces.attribution_file import read_beside_traces
from samepaged.traces.parquet import read
from samepaged.traces.store import TraceStore
from samepaged.traces.survey import survey
from tests.support.vm.recipe import PROJECT
from tests.support.vm.steps import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from experiments.cell_run import Place
    from experiments.contents import RepeatedContent

__all__ = ["PAGE", "fill_tables", "labels", "write"]

PAGE: Final = PROJECT / "docs/analysis/study.md"
MARKED_TABLE: Final = re.compile(r"(<!-- measured: ([^>]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
FOR_PAGE_SIZES: Final = tuple(f"bookworm-amd64-{setup}" for setup in SETUPS)
PAGE_SIZE: Final = 4096
MAX_REPEATED: Final = 2
MAX_COPIED: Final = 6
PAPER_ASLR: Final = "10 % (Linux), self and inter-VM both less"


def labels(guests: Iterable[str]) -> dict[str, Any]:
    """Return the platforms and setups of these guests for `samepaged study --labels`, which refuses unused labels."""
    here = {tuple(guest.rsplit("-", 1)) for guest in guests}
    platforms = [f"{release}-{architecture}" for release in RELEASES for architecture in ARCHITECTURES]
    return {
        "platforms": [{"name": name, "match": [f"{name}-*"]} for name in platforms if name in {one[0] for one in here}],
        "setups": [{"name": name, "match": [f"*-{name}"]} for name in SETUPS if name in {one[-1] for one in here}],
    }


def fill_tables(page: str, wanted: Mapping[str, str]) -> str:
    """Return `page` with each table between markers replaced; unmeasured tables stay. Raises FieldError if a table has
    no marker, or more than one.
    """
    places = [name for _, name, _ in MARKED_TABLE.findall(page)]
    for name in wanted:
        if places.count(name) != 1:
            raise FieldError(f"{PAGE}: the marker `measured: {name}` occurs {places.count(name)} times; keep one")
    return MARKED_TABLE.sub(
        lambda marked: f"{marked[1]}\n{wanted[marked[2]]}\n{marked[3]}" if marked[2] in wanted else marked[0], page
    )


def write(place: Place) -> None:
    """Study the existing sets of traces, write the results below `studies/`, and fill docs/analysis/study.md."""
    studies = place.root / "studies"
    studies.mkdir(exist_ok=True)
    if place.traces("setups").exists():
        guests = {about.domain for file in survey(place.traces("setups")) for about in file.traces}
        (studies / "labels.yaml").write_text(json.dumps(labels(guests), indent=2) + "\n")
    measured: dict[str, str] = {}

    def study(kind: str, made: Mapping[str, Callable[[dict[str, Any]], str]]) -> None:
        if place.traces(kind).exists():
            say(f"studying {kind}")
            words = ("--labels", studies / "labels.yaml") if kind == "setups" else ()
            found = _write_document(studies / f"{kind}.json", samepaged("study", "--json", *words, place.traces(kind)))
            measured.update({name: make(found) for name, make in made.items()})

    study("compile", {"compile": tables.kernels, "compile, one by one": tables.course})
    study("course", {"self-sharing": tables.course, "inter-VM sharing": tables.inter, "stability": tables.lasting})
    study(
        "setups",
        {
            "self-sharing by setup": lambda found: tables.by_setup(found, SETUPS),
            "pairs": lambda found: tables.pairs(found, SETUPS),
            "groups": tables.groups,
            "page sizes": lambda found: tables.page_sizes(found, FOR_PAGE_SIZES),
        },
    )
    one_setup = []
    for setup in SETUPS:
        study(setup, {})
        if (studies / f"{setup}.json").exists():
            one_setup.append((setup, json.loads((studies / f"{setup}.json").read_text())))
    if one_setup:
        measured["groups by setup"] = tables.groups_by_setup(one_setup)
    if place.traces("setups").exists():
        contents = _contents(place)
        measured["repeated contents"] = tables.repeated(
            (one for guest in contents.values() for one in guest[:MAX_REPEATED]), PAGE_SIZE
        )
        measured.update(_sources(place, json.loads((studies / "setups.json").read_text()), contents))
    comparisons = []
    for what, first, second, paper in (
        ("processes", "noaslr", "aslr", PAPER_ASLR),
        ("the kernel alone", "nokaslr", "noaslr", "-"),
        ("both", "nokaslr", "aslr", "12 % (PaX)"),
    ):
        if place.traces(first).exists() and place.traces(second).exists():
            said = samepaged("compare", "--json", place.traces(first), place.traces(second))
            comparisons.append((what, _write_document(studies / f"{first}-{second}.json", said), paper))
    if comparisons:
        measured["randomisation"] = tables.aslr(comparisons)
    ended = outcomes(place)
    measured["guests"] = tables.runs((one.name, one.seconds, one.marks, one.notes) for one in ended)
    missing = sorted({cell.name for cell in MATRIX} - {one.name for one in ended})
    if missing:
        say(f"not in the report, because not completed: {', '.join(missing)}")
    PAGE.write_text(fill_tables(PAGE.read_text(), measured))
    say(f"wrote {PAGE}; {BOOTS} boots of each kind were requested")


def _contents(place: Place) -> dict[str, list[RepeatedContent]]:
    """Return the contents with most copies in each guest of the setups."""
    known = filled_pages(SEED, PAGE_SIZE)
    traces = [trace for path in TraceStore(place.traces("setups")).files() for trace in read(path)]
    return {trace.info.domain: most_repeated_contents(trace, known, MAX_COPIED) for trace in traces}


def _sources(place: Place, study: dict[str, Any], contents: Mapping[str, Sequence[RepeatedContent]]) -> dict[str, str]:
    """Return the tables on page attribution if any trace of the setups has it."""
    found = attribution_tables.attributed_guests(study, SETUPS)
    if not found:
        return {}
    answers = {one.domain: one for _, one in read_beside_traces(survey(place.traces("setups")))}
    shown = [answers[one["domain"]] for one in found]
    return {
        "sources": attribution_tables.guests(shown),
        "sources by kind": attribution_tables.by_kind(found),
        "sources by library": attribution_tables.by_file(found, libraries=True),
        "sources by file": attribution_tables.by_file(found, libraries=False),
        "sources by process": attribution_tables.by_process(found),
        "most copied pages": attribution_tables.most_copied((one, contents[one.domain]) for one in shown),
    }


def _write_document(path: Path, said: str) -> dict[str, Any]:
    path.write_text(said)
    found: dict[str, Any] = json.loads(said)
    return found
