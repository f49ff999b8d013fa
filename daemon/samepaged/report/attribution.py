"""Where one guest's sharing comes from: the JSON object of `samepaged sources --json`, and the same as text.

Keys may be added, never renamed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from samepaged.attribution.guest_ram import PAGE
from samepaged.report.columns import aligned, elided, valid, visible, wrapped
from samepaged.report.scan_table import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from samepaged.attribution.report import Answers, Copied, Owner

__all__ = ["sources_document", "sources_text"]

SCHEMA: Final = 1
MOST_OWNERS: Final = 15
MOST_COPIED: Final = 10
WIDTH: Final = 100
LONGEST_NAME: Final = 48


def sources_document(answers: Answers) -> dict[str, Any]:
    """`answers` as an object for `json.dumps`: counts in pages of 4096 bytes, ratios from 0 to 1. `sharing_pages` of an
    owner is the sharing that it is involved in, which does not add up over owners; `split_pages` does. `together` has
    some kinds as one ("heap+anonymous"). `processes` and `files` are null where names are kept back.
    """
    return {
        "schema": SCHEMA,
        "domain": valid(answers.domain),
        "kernel": None if answers.kernel is None else valid(answers.kernel),
        "page_size": PAGE,
        "memory_pages": answers.memory_pages,
        "in_use_pages": answers.in_use_pages,
        "labelled_ratio": answers.labelled_ratio,
        "missing_pages": answers.missing_pages,
        "note": None if answers.note is None else valid(answers.note),
        "self_sharing_pages": answers.self_sharing_pages,
        "inter_sharing_pages": answers.inter_sharing_pages,
        "sharing_pages": answers.sharing_pages,
        "in_use_self_sharing_pages": answers.in_use_self_sharing_pages,
        "kinds": [_owner("kind", one) for one in answers.kinds],
        "together": [_owner("kinds", one) for one in answers.together],
        "processes": None if answers.processes is None else [_owner("process", one) for one in answers.processes],
        "files": None if answers.files is None else [_owner("path", one) for one in answers.files],
        "most_copied": [
            {
                "copies": one.copies,
                "others": one.others,
                "owners": [valid(line) for line in one.owners],
                "owner_pages": list(one.pages),
                "more_owners": one.more_owners,
            }
            for one in answers.most_copied
        ],
    }


def _owner(what: str, one: Owner) -> dict[str, Any]:
    return {
        what: valid(one.name),
        "pages": one.pages,
        "sharing_pages": one.sharing_pages,
        "self_sharing_pages": one.self_sharing_pages,
        "inter_sharing_pages": one.inter_sharing_pages,
        "split_pages": one.split_pages,
    }


def sources_text(answers: Answers) -> str:
    """`answers` in lines for people."""
    return "\n\n".join("\n".join(part) for lines in _parts(answers) if (part := list(lines)))


def _parts(answers: Answers) -> Iterator[Iterator[str]]:
    yield _head(answers)
    yield _table("kind", (*answers.kinds, *answers.together), answers)
    if answers.processes is not None:
        yield _table("process", answers.processes, answers)
    if answers.files is not None:
        yield _table("file", answers.files, answers)
    yield _copied(answers.most_copied)


def _head(answers: Answers) -> Iterator[str]:
    kernel = "kernel unknown" if answers.kernel is None else f"Linux {visible(answers.kernel)}"
    yield f"{elided(visible(answers.domain), LONGEST_NAME)}: {kernel}, {size(answers.memory_pages * PAGE)}"
    yield (
        f"in use {size(answers.in_use_pages * PAGE)}, of which {answers.labelled_ratio:.1%} have a known owner; "
        f"self-sharing {size(answers.self_sharing_pages * PAGE)} "
        f"({size(answers.in_use_self_sharing_pages * PAGE)} of it in use), "
        f"with others {size(answers.inter_sharing_pages * PAGE)}"
    )
    if answers.missing_pages:
        yield f"{answers.missing_pages} pages that would have told more were not copied"
    if answers.note is not None:
        yield from wrapped(f"note: {visible(answers.note)}", WIDTH, first="")


def _table(what: str, owners: Sequence[Owner], answers: Answers) -> Iterator[str]:
    """Those that are involved in any sharing, the most involved first."""
    involved = sorted((one for one in owners if one.sharing_pages), key=lambda one: -one.sharing_pages)
    if not involved:
        return
    rows = [(what, "memory", "involved in", "", "self", "with others", "split")]
    rows += [
        (
            elided(visible(one.name), LONGEST_NAME),
            size(one.pages * PAGE),
            size(one.sharing_pages * PAGE),
            f"{one.sharing_pages / answers.sharing_pages:.1%}",
            size(one.self_sharing_pages * PAGE),
            size(one.inter_sharing_pages * PAGE),
            f"{one.split_pages / answers.sharing_pages:.1%}",
        )
        for one in involved[:MOST_OWNERS]
    ]
    yield from aligned(rows, right=range(1, len(rows[0])))
    if len(involved) > MOST_OWNERS:
        yield f"and {len(involved) - MOST_OWNERS} more (--json has all)"


def _copied(copied: Sequence[Copied]) -> Iterator[str]:
    if not copied:
        return
    yield "most copied pages"
    for one in copied[:MOST_COPIED]:
        more = f" and {one.more_owners} more" if one.more_owners else ""
        lines = "; ".join(_counted(one)) + more
        yield from wrapped(f"{one.copies} copies: {lines}", WIDTH)


def _counted(one: Copied) -> Iterator[str]:
    """Its owners and, where there are several, how many copies each has."""
    for at, line in enumerate(one.owners):
        count = f" \N{MULTIPLICATION SIGN}{one.pages[at]}" if len(one.owners) > 1 and at < len(one.pages) else ""
        yield visible(line) + count
