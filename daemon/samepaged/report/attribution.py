"""One guest's page attribution as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from samepaged.arch import PAGE_SIZE
from samepaged.escape import printable
from samepaged.formatting import size
from samepaged.text_layout import aligned, elided, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from samepaged.attribution.report import AttributionReport, CopiedPage, Owner

__all__ = ["attribution_text"]

MAX_OWNERS: Final = 15
MAX_COPIED_PAGES: Final = 10
WIDTH: Final = 100
MAX_NAME_COLUMNS: Final = 48


def attribution_text(report: AttributionReport) -> str:
    """Return `report` as text for people."""
    return "\n\n".join("\n".join(part) for lines in _parts(report) if (part := list(lines)))


def _parts(report: AttributionReport) -> Iterator[Iterator[str]]:
    yield _summary(report)
    yield _table("kind", (*report.kinds, *report.combined_kinds), report)
    if report.processes is not None:
        yield _table("process", report.processes, report)
    if report.files is not None:
        yield _table("file", report.files, report)
    yield _copied_pages(report.most_copied)


def _summary(report: AttributionReport) -> Iterator[str]:
    kernel = "kernel unknown" if report.kernel is None else f"Linux {printable(report.kernel)}"
    yield f"{elided(printable(report.domain), MAX_NAME_COLUMNS)}: {kernel}, {size(report.memory_pages * PAGE_SIZE)}"
    yield (
        f"in use {size(report.in_use_pages * PAGE_SIZE)}, {report.labelled_ratio:.1%} of it with a known owner; "
        f"self-sharing {size(report.self_sharing_pages * PAGE_SIZE)} "
        f"({size(report.in_use_self_sharing_pages * PAGE_SIZE)} of it in use), "
        f"with others {size(report.inter_sharing_pages * PAGE_SIZE)}"
    )
    if report.missing_pages:
        yield f"{report.missing_pages} pages with further information were not copied"
    if report.note is not None:
        yield from wrapped(f"note: {printable(report.note)}", WIDTH, first="")


def _table(heading: str, owners: Sequence[Owner], report: AttributionReport) -> Iterator[str]:
    """The owners involved in sharing, those with the most sharing first."""
    involved = sorted((one for one in owners if one.sharing_pages), key=lambda one: -one.sharing_pages)
    if not involved:
        return
    rows = [(heading, "memory", "involved in", "", "self", "with others", "split")]
    rows += [
        (
            elided(printable(one.name), MAX_NAME_COLUMNS),
            size(one.pages * PAGE_SIZE),
            size(one.sharing_pages * PAGE_SIZE),
            f"{one.sharing_pages / report.sharing_pages:.1%}",
            size(one.self_sharing_pages * PAGE_SIZE),
            size(one.inter_sharing_pages * PAGE_SIZE),
            f"{one.split_pages / report.sharing_pages:.1%}",
        )
        for one in involved[:MAX_OWNERS]
    ]
    yield from aligned(rows, right=range(1, len(rows[0])))
    if len(involved) > MAX_OWNERS:
        yield f"and {len(involved) - MAX_OWNERS} more (--json has all)"


def _copied_pages(copied: Sequence[CopiedPage]) -> Iterator[str]:
    if not copied:
        return
    yield "most copied pages"
    for one in copied[:MAX_COPIED_PAGES]:
        more = f" and {one.more_owners} more" if one.more_owners else ""
        lines = "; ".join(_copies_text(one)) + more
        yield from wrapped(f"{one.copies} copies: {lines}", WIDTH)


def _copies_text(one: CopiedPage) -> Iterator[str]:
    """Yield the owners of a page and, if it has several, the number of copies of each."""
    for at, line in enumerate(one.owners):
        count = (
            f" \N{MULTIPLICATION SIGN}{one.owner_pages[at]}"
            if len(one.owners) > 1 and at < len(one.owner_pages)
            else ""
        )
        yield printable(line) + count
