"""Figures 11 and 12 as tables: the origin of sharing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from samepaged.analysis.study.attribution.involvement import MAX_PROCESSES, is_library
from samepaged.analysis.study.formatting import DASH, named, percent
from samepaged.analysis.study.table import Table
from samepaged.arch import PAGE_SIZE
from samepaged.escape import printable
from samepaged.formatting import size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from samepaged.analysis.study.attribution.involvement import GuestInvolvement, OwnerInvolvement, StudyAttribution

__all__ = ["attribution_tables"]

# Rows per kind of owner; JSON has more.
_LIBRARIES: Final = 12
_OTHERS: Final = 8
_GUESTS: Final = 40
_HEADINGS: Final = ("min", "avg", "max", "self", "inter", "split")
_ADDITIVE: Final = (
    "In per cent of total sharing: involvement over traces, and the self-sharing and inter-VM parts of its average. "
    "A content involves all of its owners, so involvement does not add up. The split over its copies adds up."
)


def attribution_tables(found: StudyAttribution | None) -> Iterator[Table]:
    """Return the tables that have data."""
    if found is None:
        return
    together = found.all_guests
    yield _content(together, len(found.guests))
    if together.processes is not None:
        yield Table(
            key="fig12-process",
            figure="Figure 12",
            title="origin of sharing, by process",
            headings=("process", *_HEADINGS),
            rows=tuple(_row(one) for one in together.processes[:MAX_PROCESSES]),
            note=_ADDITIVE,
        )
    yield _by_guest(found)


def _row(one: OwnerInvolvement) -> tuple[str, ...]:
    ratio = one.ratio
    return (
        printable(one.name),
        *(
            percent(value)
            for value in (ratio.min, ratio.avg, ratio.max, one.self_sharing, one.inter_sharing, one.split)
        ),
    )


def _content(together: GuestInvolvement, guests: int) -> Table:
    files = together.files or ()
    libraries = [one for one in files if is_library(one.name)][:_LIBRARIES]
    others = [one for one in files if not is_library(one.name)][:_OTHERS]
    rows = [_row(one) for one in (*together.kinds, *together.combined, *libraries, *others)]
    return Table(
        key="fig11-content",
        figure="Figure 11",
        title="origin of sharing, by kind of page, by library and by other file",
        headings=("content", *_HEADINGS),
        rows=tuple(rows),
        note=f"Of {together.traces} traces with owners of {guests} guests, weighted equally. {_ADDITIVE} The paper's "
        "libraries are library+private_file: pages as in the file, and pages that a process has changed.",
    )


def _by_guest(found: StudyAttribution) -> Table:
    shown = sorted(found.guests, key=lambda one: (-one.sharing.avg, one.domain or ""))[:_GUESTS]
    rows = []
    for one in shown:
        kinds = {kind.name: kind.ratio.avg for kind in one.kinds}
        rows.append(
            (
                named(one.domain or ""),
                printable(one.processes[0].name) if one.processes else DASH,
                str(one.traces),
                size(one.sharing.avg * PAGE_SIZE),
                percent(one.labelled.avg),
                *(percent(kinds.get(kind, 0.0)) for kind in ("heap", "stack", "library")),
            )
        )
    left = len(found.guests) - len(shown)
    return Table(
        key="sec52-sources",
        figure="Section 5.2",
        title="origin of each guest's sharing",
        headings=("guest", "process", "traces", "sharing", "labelled", "heap", "stack", "library"),
        rows=tuple(rows),
        names=2,
        note="The most involved process; averages over traces. Labelled: part of the pages in use with a known "
        "kind." + (f" {left} guests with less sharing are in --json." if left else ""),
    )
