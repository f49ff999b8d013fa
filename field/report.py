"""docs/study.md: what samepaged's own study says of the field's traces, between the markers of the page."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from field import tables
from field.contents import filled_pages, most_repeated
from field.matrix import ARCHITECTURES, BOOTS, MATRIX, RELEASES, SETUPS
from field.running import FieldError, outcomes
from field.tracing import SEED, samepaged
from lab.recipe import PROJECT
from lab.steps import say
from samepaged.traces.parquet import read
from samepaged.traces.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from field.contents import Repeated
    from field.running import Place

__all__ = ["PAGE", "filled", "labels", "write"]

PAGE: Final = PROJECT / "docs" / "study.md"
MARKED: Final = re.compile(r"(<!-- measured: ([^>]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
FOR_PAGE_SIZES: Final = tuple(f"bookworm-amd64-{setup}" for setup in SETUPS)
PAGE_SIZE: Final = 4096
MOST_REPEATED: Final = 2
PAPER_ASLR: Final = "10 % (Linux), self and inter-VM both less"


def labels() -> dict[str, Any]:
    """Platforms and setups, as `samepaged study --labels` reads them."""
    platforms = [f"{release}-{architecture}" for release in RELEASES for architecture in ARCHITECTURES]
    return {
        "platforms": [{"name": name, "match": [f"{name}-*"]} for name in platforms],
        "setups": [{"name": name, "match": [f"*-{name}"]} for name in SETUPS],
    }


def filled(page: str, wanted: Mapping[str, str]) -> str:
    """`page` with each table between markers made anew; one that was not measured keeps what it had. FieldError where
    a table has no place, or more than one.
    """
    places = [name for _, name, _ in MARKED.findall(page)]
    for name in wanted:
        if places.count(name) != 1:
            raise FieldError(f"{PAGE}: the marker `measured: {name}` is there {places.count(name)} times; have it once")
    return MARKED.sub(
        lambda marked: f"{marked[1]}\n{wanted[marked[2]]}\n{marked[3]}" if marked[2] in wanted else marked[0], page
    )


def write(place: Place) -> None:
    """Study the sets of traces that there are, keep what came out below `studies/`, and fill docs/study.md."""
    studies = place.root / "studies"
    studies.mkdir(exist_ok=True)
    (studies / "labels.yaml").write_text(json.dumps(labels(), indent=2) + "\n")
    measured: dict[str, str] = {}

    def study(kind: str, made: Mapping[str, Callable[[dict[str, Any]], str]]) -> None:
        if place.traces(kind).exists():
            say(f"studying {kind}")
            words = ("--labels", studies / "labels.yaml") if kind == "setups" else ()
            found = _kept(studies / f"{kind}.json", samepaged("study", "--json", *words, place.traces(kind)))
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
        measured["repeated contents"] = tables.repeated(_repeated(place), PAGE_SIZE)
    comparisons = []
    for what, first, second, paper in (
        ("processes", "noaslr", "aslr", PAPER_ASLR),
        ("the kernel alone", "nokaslr", "noaslr", "-"),
        ("both", "nokaslr", "aslr", "12 % (PaX)"),
    ):
        if place.traces(first).exists() and place.traces(second).exists():
            said = samepaged("compare", "--json", place.traces(first), place.traces(second))
            comparisons.append((what, _kept(studies / f"{first}-{second}.json", said), paper))
    if comparisons:
        measured["randomisation"] = tables.aslr(comparisons)
    ended = outcomes(place)
    measured["guests"] = tables.runs((one.name, one.seconds, one.marks, one.notes) for one in ended)
    missing = sorted({cell.name for cell in MATRIX} - {one.name for one in ended})
    if missing:
        say(f"not in the report, as they have not come to their end: {', '.join(missing)}")
    PAGE.write_text(filled(PAGE.read_text(), measured))
    say(f"wrote {PAGE}; {BOOTS} boots of each kind were asked for")


def _repeated(place: Place) -> list[Repeated]:
    """The two contents with most copies in each guest of the setups."""
    known = filled_pages(SEED, PAGE_SIZE)
    traces = [trace for path in Store(place.traces("setups")).files() for trace in read(path)]
    return [one for trace in traces for one in most_repeated(trace, known, MOST_REPEATED)]


def _kept(path: Path, said: str) -> dict[str, Any]:
    path.write_text(said)
    found: dict[str, Any] = json.loads(said)
    return found
