"""Page attribution: the kinds of pages that share, and their processes and files if the configuration shows names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from samepaged.arch import PAGE_SIZE
from samepaged.page.charts import Bar, Part, stacked_bar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from samepaged.attribution.report import AttributionReport, CopiedPage, Owner
    from samepaged.guest_id import GuestId
    from samepaged.scan.snapshot import GuestAttribution

__all__ = ["Attribution", "GuestRow", "OwnerRow", "OwnerTable", "attribution"]

_OPEN_GUESTS: Final = 25
_MAX_GUESTS: Final = 200
_MAX_OWNERS: Final = 8
_MAX_COPIED_PAGES: Final = 5
# The colours of the bars: class in the style sheet, name, and kinds of pages. All other kinds belong to the kernel.
_COLOURS: Final = (
    ("from-process", "memory of processes", ("heap", "stack", "anonymous", "private_file", "shmem")),
    ("from-file", "files", ("library", "executable", "mapped_file", "special", "page_cache")),
    ("from-free", "free pages", ("free", "absent")),
    ("from-unknown", "unknown", ("unknown",)),
)
_KERNEL: Final = ("from-kernel", "kernel")


@dataclass(frozen=True, slots=True)
class OwnerRow:
    """A kind, process or file: the sharing in bytes that involves it, and its ratios of all sharing. `split_ratio`
    divides each content equally among its copies.
    """

    name: str
    involved: int
    involved_ratio: float
    split_ratio: float


@dataclass(frozen=True, slots=True)
class OwnerTable:
    """A table of owners: its caption, and the heading of the first column."""

    caption: str
    heading: str
    rows: tuple[OwnerRow, ...]


@dataclass(frozen=True, slots=True)
class GuestRow:
    """The attribution of a guest: `shared` in bytes, `scanned_at` in seconds since the Unix epoch."""

    name: str
    shared: int
    bar: Bar
    kernel: str | None
    labelled_ratio: float
    scanned_at: float
    note: str | None
    tables: tuple[OwnerTable, ...]
    most_copied: tuple[CopiedPage, ...]


@dataclass(frozen=True, slots=True)
class Attribution:
    """The section. `kinds` is the sum over all guests; `later` guests are folded. `scan_started` is in seconds since
    the Unix epoch; `legend` has classes of the style sheet, each with its name.
    """

    guests: int
    kinds: tuple[OwnerRow, ...]
    first: tuple[GuestRow, ...]
    later: tuple[GuestRow, ...]
    scan_started: float
    legend: tuple[tuple[str, str], ...]


def attribution(found: Mapping[GuestId, GuestAttribution], scan_started: float) -> Attribution | None:
    """The section on page attribution; None if no guest has one."""
    if not found:
        return None
    ordered = sorted(found.values(), key=lambda one: (-one.report.sharing_pages, one.report.domain))
    rows = tuple(map(_guest, ordered[:_MAX_GUESTS]))
    return Attribution(
        guests=len(found),
        kinds=_kinds([one.report for one in found.values()]),
        first=rows[:_OPEN_GUESTS],
        later=rows[_OPEN_GUESTS:],
        scan_started=scan_started,
        legend=(*((kind, name) for kind, name, _ in _COLOURS), _KERNEL),
    )


def _kinds(reports: Sequence[AttributionReport]) -> tuple[OwnerRow, ...]:
    """The kinds of all guests together, those with the most involved sharing first."""
    involved: Counter[str] = Counter()
    split: Counter[str] = Counter()
    for report in reports:
        for kind in report.kinds:
            involved[kind.name] += kind.sharing_pages
            split[kind.name] += round(kind.split_pages)
    whole = sum(report.sharing_pages for report in reports)
    return tuple(
        OwnerRow(name.replace("_", " "), pages * PAGE_SIZE, _ratio(pages, whole), _ratio(split[name], whole))
        for name, pages in involved.most_common(_MAX_OWNERS)
        if pages
    )


def _guest(attributed: GuestAttribution) -> GuestRow:
    report = attributed.report
    owners = (
        ("kinds of pages", "kind", report.kinds),
        ("processes", "process", report.processes),
        ("files", "file", report.files),
    )
    return GuestRow(
        name=report.domain,
        shared=report.sharing_pages * PAGE_SIZE,
        bar=_bar(report),
        kernel=report.kernel,
        labelled_ratio=report.labelled_ratio,
        scanned_at=attributed.scanned_at,
        note=report.note,
        tables=tuple(
            OwnerTable(caption, heading, rows)
            for caption, heading, listed in owners
            if (rows := _owners(listed or (), report.sharing_pages))
        ),
        most_copied=report.most_copied[:_MAX_COPIED_PAGES],
    )


def _bar(report: AttributionReport) -> Bar:
    split = {kind.name: kind.split_pages for kind in report.kinds}
    parts, coloured = [], 0
    for colour, name, kinds in _COLOURS:
        pages = round(sum(split.get(kind, 0.0) for kind in kinds))
        parts.append(Part(colour, name, pages * PAGE_SIZE))
        coloured += pages
    return stacked_bar([*parts, Part(*_KERNEL, max(report.sharing_pages - coloured, 0) * PAGE_SIZE)])


def _owners(owners: Iterable[Owner], sharing_pages: int) -> tuple[OwnerRow, ...]:
    ordered = sorted((one for one in owners if one.sharing_pages), key=attrgetter("sharing_pages"), reverse=True)
    return tuple(
        OwnerRow(
            one.name,
            one.sharing_pages * PAGE_SIZE,
            _ratio(one.sharing_pages, sharing_pages),
            _ratio(one.split_pages, sharing_pages),
        )
        for one in ordered[:_MAX_OWNERS]
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
