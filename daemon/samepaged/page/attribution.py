"""Where sharing comes from: what kinds of pages the guests' sharing involves and, where names may be shown, whose."""

from __future__ import annotations

from collections import Counter
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from samepaged.attribution.guest_ram import PAGE_BYTES
from samepaged.escape import printable
from samepaged.page.charts import Part, bar, legend
from samepaged.page.markup import Html, amount, element, joined, named, noun, share, when
from samepaged.text_layout import elided

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from samepaged.attribution.report import AttributionReport, CopiedPage, Owner
    from samepaged.scan.results import HostScan
    from samepaged.scan.snapshot import GuestAttribution

__all__ = ["sources"]

_AT_ONCE: Final = 25
_MOST: Final = 200
_OWNERS: Final = 8
_COPIED: Final = 5
_LINES: Final = 3
_LONGEST: Final = 60
# The kinds in so many colours: their class in the style, what they are together, and which.
_COLOURS: Final = (
    ("from-process", "memory of processes", ("heap", "stack", "anonymous", "private_file", "shmem")),
    ("from-file", "files", ("library", "executable", "mapped_file", "special", "page_cache")),
    ("from-free", "free pages", ("free", "absent")),
    ("from-unknown", "unknown", ("unknown",)),
)
_KERNEL: Final = ("from-kernel", "the kernel's own")


def sources(found: Mapping[str, GuestAttribution], scan: HostScan) -> Html:
    """The section on owners; nothing where no guest was looked at. Times are told as on the day of `scan`."""
    if not found:
        return Html()
    order = sorted(found.items(), key=lambda item: (-item[1].answers.sharing_pages, item[0]))
    body = [_guest(domain, one, scan.started) for domain, one in order[:_MOST]]
    later = body[_AT_ONCE:]
    shown = element("details", element("summary", noun(len(later), "more guest")), *later) if later else Html()
    return element(
        "section",
        element("h2", "Where sharing comes from", id="sources-title"),
        element(
            "p",
            "What the pages are that guests share inside themselves and with others of their group, as each guest's "
            "own kernel has it. A content may have copies of several kinds: it involves each of them, so involvement "
            "does not add up. In the bars it is split, in equal parts over a content's copies.",
        ),
        _kinds([one.answers for one in found.values()]),
        legend(*((kind, name) for kind, name, _ in _COLOURS), _KERNEL),
        *body[:_AT_ONCE],
        shown,
        id="sources",
        aria_labelledby="sources-title",
    )


def _kinds(answers: Sequence[AttributionReport]) -> Html:
    """All guests together, by kind."""
    involved: Counter[str] = Counter()
    split: Counter[str] = Counter()
    for one in answers:
        for kind in one.kinds:
            involved[kind.name] += kind.sharing_pages
            split[kind.name] += round(kind.split_pages)
    whole = sum(one.sharing_pages for one in answers)
    rows = [
        (name.replace("_", " "), amount(pages * PAGE_BYTES), share(pages, whole), share(split[name], whole))
        for name, pages in involved.most_common(_OWNERS)
        if pages
    ]
    if not rows:
        return element("p", "These guests share nothing.")
    return _table(f"{noun(len(answers), 'guest')} together", ("kind", "involved in", "of the sharing", "split"), rows)


def _guest(domain: str, sourced: GuestAttribution, now: float) -> Html:
    answers = sourced.answers
    kernel = "Kernel unknown" if answers.kernel is None else f"Linux {elided(printable(answers.kernel), 40)}"
    note = Html() if answers.note is None else element("p", elided(printable(answers.note), 200))
    return element(
        "details",
        element(
            "summary",
            named(domain),
            f": {amount(answers.sharing_pages * PAGE_BYTES)} shared",
            bar(_parts(answers), f"The sharing of {elided(printable(domain), _LONGEST)} by what it is of", 12),
        ),
        element(
            "p",
            f"{kernel}; the owner of {answers.labelled_ratio:.0%} of the pages in use is known; as of ",
            when(sourced.scanned, now),
            ".",
        ),
        note,
        element(
            "div",
            _owners("kinds of pages", "kind", answers.kinds, answers),
            Html() if answers.processes is None else _owners("processes", "process", answers.processes, answers),
            Html() if answers.files is None else _owners("files", "file", answers.files, answers),
            class_="columns",
        ),
        _copied(answers.most_copied),
    )


def _parts(answers: AttributionReport) -> tuple[Part, ...]:
    split = {one.name: one.split_pages for one in answers.kinds}
    parts, told = [], 0
    for colour, name, kinds in _COLOURS:
        pages = round(sum(split.get(kind, 0.0) for kind in kinds))
        parts.append(Part(colour, name, pages * PAGE_BYTES))
        told += pages
    return (*parts, Part(*_KERNEL, max(answers.sharing_pages - told, 0) * PAGE_BYTES))


def _owners(caption: str, what: str, owners: Iterable[Owner], answers: AttributionReport) -> Html:
    ordered = sorted((one for one in owners if one.sharing_pages), key=attrgetter("sharing_pages"), reverse=True)
    if not ordered:
        return Html()
    rows = [
        (
            elided(printable(one.name), _LONGEST),
            amount(one.sharing_pages * PAGE_BYTES),
            share(one.sharing_pages, answers.sharing_pages),
            share(one.split_pages, answers.sharing_pages),
        )
        for one in ordered[:_OWNERS]
    ]
    return _table(caption, (what, "involved in", "of the sharing", "split"), rows)


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    head = [element("th", heading, scope="col", class_="number" if at else None) for at, heading in enumerate(headings)]
    body = [
        element("tr", *(element("td", cell, class_="number" if at else None) for at, cell in enumerate(row)))
        for row in rows
    ]
    return element(
        "table", element("caption", caption), element("thead", element("tr", *head)), element("tbody", *body)
    )


def _copied(copied: Sequence[CopiedPage]) -> Html:
    if not copied:
        return Html()
    items = [
        element(
            "li",
            f"{one.copies} copies: ",
            joined((element("code", _short(line)) for line in one.owners[:_LINES]), ", "),
        )
        for one in copied[:_COPIED]
    ]
    return element("div", element("p", "The most copied pages:"), element("ul", *items))


def _short(line: str) -> str:
    return elided(printable(line), _LONGEST)
