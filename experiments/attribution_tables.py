"""Tables of docs/analysis/study.md about page attribution (the paper, section 5.2)."""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from experiments.tables import markdown, mib, percent
from samepaged.analysis.study.attribution.involvement import is_library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from experiments.contents import RepeatedContent
    from samepaged.attribution.report import AttributionReport, CopiedPage

__all__ = ["attributed_guests", "by_file", "by_kind", "by_process", "guests", "most_copied"]

Document = dict[str, Any]

KIND: Final = "kinds", "kind"
COMBINED_KINDS: Final = "together", "kinds"
PROCESS: Final = "processes", "process"
FILE: Final = "files", "path"
# Values of the paper's desktop (section 5.2, Figures 11 and 12), of single owners and of several together.
PAPER_KINDS: Final = {
    "heap": "over 50 %",
    "heap+anonymous": "over 50 % (heap)",
    "stack": "less than 5 %",
    "library+private_file": "43 % (libraries)",
}
PAPER_FILES: Final = {"libxul.so": "the most of all"}
PAPER_PROCESSES: Final = {"soffice.bin": "38 % (OpenOffice)", "Xvfb": "31 % (X server)"}
# Names of Firefox's processes, and the desktop's GTK programs.
FIREFOX: Final = (
    *("firefox-esr", "crashhelper", "Chroot Helper", "Web Content", "Isolated Web Co", "file:// Content"),
    *("WebExtensions", "Privileged Cont", "Socket Process", "RDD Process", "Utility Process"),
)
GTK: Final = ("mousepad", "thunar", "evince", "evinced", "dconf-service")
COMBINED_PROCESSES: Final = {
    "Firefox, all of its processes": (FIREFOX, "nearly half"),
    "mousepad, thunar, evince and their children": (GTK, "31 % (Gnome)"),
}
# Number of the most involved owners of each guest.
MAX_ROWS: Final = 8
MIN_RATIO: Final = 0.005
MIN_COPIED_RATIO: Final = 0.01
PAGE: Final = 4096
MAX_LINES: Final = 3
# Common prefix of the paths of modules.
MODULES: Final = re.compile(r"^/(?:usr/)?lib/modules/[^/]+/kernel/")


def attributed_guests(study: Document, setups: Sequence[str]) -> list[Document]:
    """Return the guests with attributed traces, guests of the last setup (the desktop, as in the paper) first."""
    found = study.get("sources", {}).get("domains", [])
    order = {setup: -at for at, setup in enumerate(setups)}
    return sorted(found, key=lambda one: (order.get(one["domain"].rpartition("-")[2], 1), one["domain"]))


def guests(found: Iterable[AttributionReport]) -> str:
    """Return a table of each guest's kernel, memory in use, sharing, and attributed part."""
    return markdown(
        (
            *("guest", "kernel", "in use, MiB", "of it attributed"),
            *("self-sharing, MiB", "self-sharing of pages in use, MiB"),
        ),
        (
            (
                one.domain,
                one.kernel or "-",
                mib(one.in_use_pages, {"page_size": PAGE}),
                percent(one.labelled_ratio),
                mib(one.self_sharing_pages, {"page_size": PAGE}),
                mib(one.in_use_self_sharing_pages, {"page_size": PAGE}),
            )
            for one in found
        ),
    )


def by_kind(found: Sequence[Document]) -> str:
    """Figure 11: involvement of each kind of page, and of some kinds together; the paper's kinds first."""
    told = [_parts(one, COMBINED_KINDS) | _parts(one, KIND) for one in found]
    kinds = dict.fromkeys((*PAPER_KINDS, *_most(told)))
    rows = [(kind, *(_cell(parts.get(kind)) for parts in told), PAPER_KINDS.get(kind, "-")) for kind in kinds]
    return markdown(("pages", *_names(found), "the paper's desktop"), rows)


def by_file(found: Sequence[Document], *, libraries: bool) -> str:
    """Figure 11: the most involved libraries in each guest; or, if not `libraries`, the other files."""
    paper = PAPER_FILES if libraries else {}
    return _owners(found, FILE, paper, "library" if libraries else "file", lambda path: is_library(path) is libraries)


def by_process(found: Sequence[Document]) -> str:
    """Figure 12: the most involved processes in each guest."""
    told = [_parts(one, PROCESS) for one in found]
    return _owners(
        found, PROCESS, PAPER_PROCESSES, "process", lambda _: True, first=_together(told, COMBINED_PROCESSES)
    )


def most_copied(found: Iterable[tuple[AttributionReport, Sequence[RepeatedContent]]]) -> str:
    """Return a table of each guest's most copied pages: their fill value, according to the trace's hashes, and their
    owners. Pages with a negligible part in the guest's self-sharing are omitted.
    """
    rows = []
    for answers, contents in found:
        # Both are sorted by copies, then by hash.
        for copied, content in zip(answers.most_copied, contents, strict=False):
            if content.self_sharing_ratio < MIN_COPIED_RATIO:
                break
            what = content.fill if content.copies == copied.copies else "-"
            size = mib(copied.copies, {"page_size": PAGE})
            rows.append(
                (answers.domain, f"{copied.copies:,}", size, percent(content.self_sharing_ratio), what, _lines(copied))
            )
    head = ("guest", "copies", "MiB", "of its self-sharing", "fill byte or pixel", "owners")
    return markdown(head, rows)


def _lines(copied: CopiedPage) -> str:
    """Format the owners of most of the copies, with their part of the copies if all are known."""
    total = 0 if copied.more_owners else sum(copied.owner_pages)
    parts = [f" {100 * pages / total:.0f} %" if total > pages else "" for pages in copied.owner_pages]
    told = [f"`{line}`{part}" for line, part in zip_longest(copied.owners, parts, fillvalue="") if part != " 0 %"]
    more = len(copied.owners) > len(told[:MAX_LINES]) or copied.more_owners
    return "; ".join(told[:MAX_LINES]) + (" and others" if more else "")


def _names(found: Sequence[Document]) -> list[str]:
    return [one["domain"] for one in found]


def _parts(guest: Document, which: tuple[str, str]) -> dict[str, tuple[float, float]]:
    """Return the involvement in the guest's sharing and the part in the split by owner, the most involved first."""
    key, name = which
    return {one[name]: (one["sharing_ratio"]["avg"], one["split_ratio"]) for one in guest[key] or ()}


def _together(
    told: Sequence[Mapping[str, tuple[float, float]]], groups: Mapping[str, tuple[Sequence[str], str]]
) -> list[tuple[str, ...]]:
    """Return a row for several owners together if any guest has them.

    Involvements overlap: the joint one is at least that of the most involved owner, and at most the sum, capped at all
    sharing. Their parts of the split add up.
    """
    rows = []
    for name, (members, paper) in groups.items():
        here = [[parts[member] for member in members if member in parts] for parts in told]
        if any(here):
            rows.append((name, *(_range(parts) for parts in here), paper))
    return rows


def _range(parts: Sequence[tuple[float, float]]) -> str:
    if not parts:
        return "-"
    least, most = max(part for part, _ in parts), sum(part for part, _ in parts)
    if percent(least) == percent(most):
        involved = percent(least)
    else:
        involved = f"{percent(least)} or more" if most >= 1 else f"{percent(least)} to {percent(most)}"
    return f"{involved} ({percent(sum(split for _, split in parts))})"


def _most(told: Sequence[Mapping[str, tuple[float, float]]]) -> list[str]:
    """Return owners with a significant part in any of the guests, in the order of the first guest, then of the next."""
    return list(dict.fromkeys(name for parts in told for name, (part, _) in parts.items() if part >= MIN_RATIO))


def _owners(
    found: Sequence[Document],
    which: tuple[str, str],
    paper: Mapping[str, str],
    head: str,
    wanted: Callable[[str], bool],
    first: Sequence[tuple[str, ...]] = (),
) -> str:
    told: list[dict[str, tuple[float, float]]] = []
    for one in found:
        parts: dict[str, tuple[float, float]] = {}
        for name, part in _parts(one, which).items():
            if wanted(name):
                # Releases have the same library in different directories; a second one of the same name in a guest is
                # negligible.
                parts.setdefault(_short(name), part)
        told.append(parts)
    rows = list(first)
    for name in _most([dict(list(parts.items())[:MAX_ROWS]) for parts in told]):
        said = [paper.get(name, "-")] if paper else []
        rows.append((name, *(_cell(parts.get(name)) for parts in told), *said))
    return markdown((head, *_names(found), *(["the paper's desktop"] if paper else [])), rows)


def _short(name: str) -> str:
    """Shorten a path: a library to its name, a module to its path below the module directory."""
    return name.rpartition("/")[2] if is_library(name) else MODULES.sub("", name)


def _cell(part: tuple[float, float] | None) -> str:
    return "-" if part is None else f"{percent(part[0])} ({percent(part[1])})"
