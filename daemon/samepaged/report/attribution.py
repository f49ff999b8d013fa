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

__all__ = ["sources_text"]

MAX_OWNERS: Final = 15
MAX_COPIED_PAGES: Final = 10
WIDTH: Final = 100
MAX_NAME_COLUMNS: Final = 48


def sources_text(answers: AttributionReport) -> str:
    """`answers` in lines for people."""
    return "\n\n".join("\n".join(part) for lines in _parts(answers) if (part := list(lines)))


def _parts(answers: AttributionReport) -> Iterator[Iterator[str]]:
    yield _head(answers)
    yield _table("kind", (*answers.kinds, *answers.combined_kinds), answers)
    if answers.processes is not None:
        yield _table("process", answers.processes, answers)
    if answers.files is not None:
        yield _table("file", answers.files, answers)
    yield _copied(answers.most_copied)


def _head(answers: AttributionReport) -> Iterator[str]:
    kernel = "kernel unknown" if answers.kernel is None else f"Linux {printable(answers.kernel)}"
    yield f"{elided(printable(answers.domain), MAX_NAME_COLUMNS)}: {kernel}, {size(answers.memory_pages * PAGE_SIZE)}"
    yield (
        f"in use {size(answers.in_use_pages * PAGE_SIZE)}, of which {answers.labelled_ratio:.1%} have a known owner; "
        f"self-sharing {size(answers.self_sharing_pages * PAGE_SIZE)} "
        f"({size(answers.in_use_self_sharing_pages * PAGE_SIZE)} of it in use), "
        f"with others {size(answers.inter_sharing_pages * PAGE_SIZE)}"
    )
    if answers.missing_pages:
        yield f"{answers.missing_pages} pages that would have told more were not copied"
    if answers.note is not None:
        yield from wrapped(f"note: {printable(answers.note)}", WIDTH, first="")


def _table(what: str, owners: Sequence[Owner], answers: AttributionReport) -> Iterator[str]:
    """Those that are involved in any sharing, the most involved first."""
    involved = sorted((one for one in owners if one.sharing_pages), key=lambda one: -one.sharing_pages)
    if not involved:
        return
    rows = [(what, "memory", "involved in", "", "self", "with others", "split")]
    rows += [
        (
            elided(printable(one.name), MAX_NAME_COLUMNS),
            size(one.pages * PAGE_SIZE),
            size(one.sharing_pages * PAGE_SIZE),
            f"{one.sharing_pages / answers.sharing_pages:.1%}",
            size(one.self_sharing_pages * PAGE_SIZE),
            size(one.inter_sharing_pages * PAGE_SIZE),
            f"{one.split_pages / answers.sharing_pages:.1%}",
        )
        for one in involved[:MAX_OWNERS]
    ]
    yield from aligned(rows, right=range(1, len(rows[0])))
    if len(involved) > MAX_OWNERS:
        yield f"and {len(involved) - MAX_OWNERS} more (--json has all)"


def _copied(copied: Sequence[CopiedPage]) -> Iterator[str]:
    if not copied:
        return
    yield "most copied pages"
    for one in copied[:MAX_COPIED_PAGES]:
        more = f" and {one.more_owners} more" if one.more_owners else ""
        lines = "; ".join(_counted(one)) + more
        yield from wrapped(f"{one.copies} copies: {lines}", WIDTH)


def _counted(one: CopiedPage) -> Iterator[str]:
    """Its owners and, where there are several, how many copies each has."""
    for at, line in enumerate(one.owners):
        count = (
            f" \N{MULTIPLICATION SIGN}{one.owner_pages[at]}"
            if len(one.owners) > 1 and at < len(one.owner_pages)
            else ""
        )
        yield printable(line) + count
