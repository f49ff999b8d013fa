"""Tables of docs/analysis/study.md: the paper's figures, from `samepaged study --json` and `compare --json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from experiments.contents import RepeatedContent

__all__ = [
    "aslr",
    "by_setup",
    "course",
    "groups",
    "groups_by_setup",
    "inter",
    "kernels",
    "lasting",
    "markdown",
    "mib",
    "page_sizes",
    "pairs",
    "percent",
    "repeated",
    "runs",
]

Document = dict[str, Any]
# One row for each pair of guests would be too many: the pairs with the most sharing, and the least.
_MAX_ROWS = 12


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table; all columns except the first are right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def mib(pages: float, document: Document) -> str:
    """Format pages of the document's size in MiB."""
    return f"{pages * document['page_size'] / (1 << 20):,.1f}"


def percent(ratio: float | None) -> str:
    """Format a ratio as percent; a dash for None."""
    return "-" if ratio is None else f"{100 * ratio:.1f} %"


def kernels(study: Document) -> str:
    """Fig. 2: the average over every pair of snapshots of two compiling clones, without and with zero pages, which
    include pages that the host never backed.
    """
    (pair,) = study["pairs"]
    own, inter = pair["self_sharing_pages"], pair["inter_sharing_pages"]["avg"]
    zeros = sum(_zeros(guest) - 1 for guest in study["domains"])
    rows = []
    for what, within, across, paper in (
        ("without zero pages", own, inter, "436 MB, 67 % self"),
        ("with zero pages", own + zeros, inter + 1, "77 % self"),
    ):
        total = within + across
        part = within / total if total else None
        rows.append((what, *(mib(one, study) for one in (total, within, across)), percent(part), paper))
    return markdown(("", "total MiB", "self MiB", "inter-VM MiB", "self ÷ total", "the paper"), rows)


def _zeros(guest: Document) -> float:
    """Return the pages that read as zeros: zero pages, and pages that the host never backed."""
    memory, distinct, own = (guest[f"{kind}_pages"]["avg"] for kind in ("memory", "distinct", "self_sharing"))
    return float(memory - distinct - own)


def course(study: Document) -> str:
    """Fig. 5: self-sharing of each guest over its traces, in percent of its memory."""
    return markdown(
        ("guest", "traces", "minimum", "average", "maximum", "average MiB", "zeros, average MiB"),
        (
            (
                guest["domain"],
                str(guest["traces"]),
                *(percent(guest["self_sharing_ratio"][key]) for key in ("min", "avg", "max")),
                mib(guest["self_sharing_pages"]["avg"], study),
                mib(_zeros(guest), study),
            )
            for guest in study["domains"]
        ),
    )


def by_setup(study: Document, setups: Sequence[str]) -> str:
    """Fig. 7: self-sharing of each platform in each setup: MiB, percent of memory, and percent of non-zero pages."""
    found = {(one["platform"], one["setup"]): one for one in study["platforms"]["self_sharing"]}
    used = {
        guest["domain"]: guest["distinct_pages"]["avg"] + guest["self_sharing_pages"]["avg"]
        for guest in study["domains"]
    }

    def cell(platform: str, setup: str) -> str:
        one = found.get((platform, setup))
        if one is None:
            return "-"
        pages = one["self_sharing_pages"]
        part = pages / used[f"{platform}-{setup}"]
        return f"{mib(pages, study)} ({percent(one['self_sharing_ratio'])}; {percent(part)})"

    platforms = list(dict.fromkeys(platform for platform, _ in found))
    return markdown(
        ("platform", *setups), ((platform, *(cell(platform, setup) for setup in setups)) for platform in platforms)
    )


def pairs(study: Document, setups: Sequence[str]) -> str:
    """Fig. 8 and 9: inter-VM sharing of each pair of platforms in each setup, and self-sharing over total."""
    found = {(*one["platforms"], one["setup"]): one for one in study["platforms"]["pairs"]}

    def cell(first: str, second: str, setup: str) -> str:
        one = found.get((first, second, setup))
        if one is None:
            return "-"
        return f"{mib(one['inter_sharing_pages'], study)} ({percent(one['self_over_total_ratio'])})"

    mixes = list(dict.fromkeys((first, second) for first, second, _ in found))
    return markdown(("pair", *setups), ((" / ".join(mix), *(cell(*mix, setup) for setup in setups)) for mix in mixes))


def inter(study: Document) -> str:
    """Fig. 6: inter-VM sharing over pairs of traces, of the pairs with most sharing, in percent of their memory."""
    ordered = sorted(study["pairs"], key=lambda pair: -pair["inter_sharing_ratio"]["avg"])
    return markdown(
        ("pair", "pairs of traces", "minimum", "average", "maximum", "maximum MiB", "self ÷ total"),
        (
            (
                " / ".join(pair["domains"]),
                str(pair["trace_pairs"]),
                *(percent(pair["inter_sharing_ratio"][key]) for key in ("min", "avg", "max")),
                mib(pair["inter_sharing_pages"]["max"], study),
                percent(pair["self_over_total_ratio"]),
            )
            for pair in ordered[:_MAX_ROWS]
        ),
    )


def groups(study: Document) -> str:
    """Section 4.2.2: groups of k guests."""
    return markdown(("guests", "groups", "total sharing", "inter-VM sharing", "inter-VM ÷ total"), _groups(study))


def _groups(study: Document) -> list[tuple[str, ...]]:
    return [
        (
            str(one["guests"]),
            f"{one['groups']} of {one['possible_groups']:,}",
            percent(one["total_sharing_ratio"]["avg"]),
            percent(one["inter_sharing_ratio"]["avg"]),
            percent(one["inter_over_total_ratio"]),
        )
        for one in study["groups"]
    ]


def groups_by_setup(found: Sequence[tuple[str, Document]]) -> str:
    """Section 4.2.2 for guests with different images: the platforms of one setup."""
    return markdown(
        ("setup", "guests", "groups", "total sharing", "inter-VM sharing", "inter-VM ÷ total"),
        ((setup, *cells) for setup, study in found for cells in _groups(study)),
    )


def page_sizes(study: Document, guests: Sequence[str]) -> str:
    """Fig. 10: self-sharing by page size, in MiB, and relative to 4 KiB."""
    found = {(one["domain"], one["page_size"]): one for one in study["page_sizes"]}
    sizes = sorted({size for _, size in found})

    def cell(guest: str, size: int) -> str:
        one, plain = found.get((guest, size)), found.get((guest, study["page_size"]))
        if one is None or plain is None:
            return "-"
        own, base = one["self_sharing_pages"] * size, plain["self_sharing_pages"] * study["page_size"]
        return f"{own / (1 << 20):,.1f}" + (f" ({own / base:.2f})" if base else "")

    here = [guest for guest in guests if any((guest, size) in found for size in sizes)]
    return markdown(
        ("page size", "pages in 4 KiB", *here),
        (
            (f"{size // 1024} KiB", f"{study['page_size'] / size:.3g}", *(cell(guest, size) for guest in here))
            for size in sizes
        ),
    )


def lasting(study: Document) -> str:
    """Return the parts of a trace's contents and self-sharing that the guest's next trace still has."""
    return markdown(
        ("guest", "seconds apart", "contents still present", "self-sharing still present"),
        (
            (
                one["domain"],
                f"{one['lag_seconds']:.0f}",
                *(percent(one[key] and one[key]["avg"]) for key in ("distinct_pages_ratio", "self_sharing_ratio")),
            )
            for one in study["stability"]
            if one["lag_traces"] == 1
        ),
    )


def aslr(comparisons: Sequence[tuple[str, Document, str]]) -> str:
    """Fig. 14: the reduction of sharing, in percent of the sharing without randomisation; with minimum and maximum."""
    rows = []
    for what, found, paper in comparisons:
        told = [found["reduction_percent"][kind] for kind in ("total", "self", "inter")]
        cells = ["-" if one is None else f"{one['avg']:.1f} ({one['min']:.1f} to {one['max']:.1f})" for one in told]
        totals = [mib(one["total_sharing_pages"]["avg"], found) for one in found["sets"]]
        rows.append((what, *totals, *cells, paper))
    return markdown(
        ("", "total MiB without", "total MiB with", "total, %", "self, %", "inter-VM, %", "the paper"), rows
    )


def repeated(found: Iterable[RepeatedContent], page_size: int) -> str:
    """Return a table of the contents with most copies in each guest."""
    return markdown(
        ("guest", "copies", "MiB", "of its self-sharing", "fill byte or pixel"),
        (
            (
                one.domain,
                f"{one.copies:,}",
                mib(one.copies, {"page_size": page_size}),
                percent(one.self_sharing_ratio),
                one.fill,
            )
            for one in found
        ),
    )


def runs(outcomes: Iterable[tuple[str, float, int, Sequence[str]]]) -> str:
    """Return a table of the cells: seconds until the load was done, number of traces, and notes."""
    return markdown(
        ("guest", "seconds", "traces", "notes"),
        (
            (name, f"{seconds:.0f}", str(marks + 1), ", ".join(note for note in notes if not note.startswith("shows")))
            for name, seconds, marks, notes in outcomes
        ),
    )
