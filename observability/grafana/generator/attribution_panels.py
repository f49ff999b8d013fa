"""Where sharing comes from: the kinds of pages that it involves, as the guests' own kernels say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from observability.grafana.generator.panels import Line, Said, bars, figure, fixed, grid, lines, own, shaded
from observability.grafana.generator.promql import guest, host
from observability.grafana.generator.shared_panels import INTER, MERGED, organised

if TYPE_CHECKING:
    from collections.abc import Callable

    from grafana_foundation_sdk.builders import bargauge, stat, table, timeseries

__all__ = ["involved", "known", "labelled", "looked_at", "most_involved", "split"]

MOST: Final = 20
# Those that are most of it, in one colour each wherever they are shown.
COLOURS: Final = {
    "heap": "green",
    "anonymous": "dark-green",
    "stack": "yellow",
    "library": "purple",
    "private_file": "light-purple",
    "executable": "dark-purple",
    "page_cache": "blue",
    "mapped_file": "light-blue",
    "shmem": "dark-blue",
    "slab": "orange",
    "kernel_text": "dark-orange",
    "free": "#5a5a5a",
    "unknown": "#8e8e8e",
    "other": "#bababa",
}
ASKED: Final = "Of guests that were asked (sources.enabled); docs/reference/metrics.md lists the kinds."


def split(metric: Callable[..., str], width: int) -> timeseries.Panel:
    """A stack of the kinds; `metric` makes a selector of a metric's name."""
    said = Said(
        "Sharing by kind of page",
        "Self-sharing and what is shared with others, by what the pages are, split so that it adds up: each content's "
        f"in equal parts over its pages. Kinds of little sharing are under other. {ASKED}",
        "bytes",
        width,
        9,
    )
    query = f"sum by (kind) ({metric('samepage_source_split_bytes')})"
    return fixed(lines(said, Line(query, "{{kind}}"), stacked=True), COLOURS)


def most_involved() -> table.Panel:
    """The guests' kinds with the most sharing."""
    said = Said(
        "What shares most",
        f"Sharing that involves pages of a kind; the {MOST} largest of all guests. A content may have copies of "
        "several kinds, so this does not add up.",
        "bytes",
        7,
        9,
    )
    query = f"sort_desc(topk({MOST}, sum by (domain, kind) ({host('samepage_source_sharing_bytes')})))"
    panel = grid(said, [query], organised({"domain": "Guest", "kind": "Kind", "Value": "Involved"}))
    gauge = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
    panel.override_by_name("Involved", [*own("bytes", 150, cellOptions=gauge), *shaded("continuous-BlPu")])
    return panel


def labelled() -> bargauge.Panel:
    """The guests of whose pages the least is known."""
    said = Said(
        "Least known",
        "Of a guest's pages in use, the part whose kind is known; the ten guests with the least. 0: no Linux kernel "
        "was found in it.",
        "percentunit",
        5,
        9,
    )
    query = f"sort(bottomk(10, max by (domain) ({host('samepage_source_labelled_ratio')})))"
    return bars(said, query, "{{domain}}", MERGED).max(1)


def involved() -> bargauge.Panel:
    """The guest's kinds with the most sharing."""
    said = Said(
        "Sharing that involves",
        "Sharing that involves pages of each kind; a content may have copies of several, so this does not add up.",
        "bytes",
        7,
        9,
    )
    query = f"sort_desc(sum by (kind) ({guest('samepage_source_sharing_bytes')}))"
    return bars(said, query, "{{kind}}", INTER)


def known() -> stat.Panel:
    """How much is known of the guest's pages."""
    said = Said("Known", "Of the guest's pages in use, the part whose kind is known.", "percentunit", 5, 4)
    return figure(said, guest("samepage_source_labelled_ratio"))


def looked_at() -> stat.Panel:
    """When that was last asked."""
    said = Said("Looked at", "When the scan began whose pages these are: every n-th asks.", "dateTimeFromNow", 5, 5)
    return figure(said, f"{guest('samepage_source_last_scan_timestamp_seconds')} * 1000")
