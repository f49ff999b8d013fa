"""Where sharing comes from: the kinds of pages that it involves, as the guests' own kernels say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from observability.grafana.generator.colour import Colour
from observability.grafana.generator.panels import (
    PanelOptions,
    Target,
    bar_gauge,
    colour_scheme,
    column_overrides,
    stat_panel,
    table_panel,
    time_series,
    with_colours,
)
from observability.grafana.generator.promql import guest, host
from observability.grafana.generator.shared_panels import organize_fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from grafana_foundation_sdk.builders import bargauge, stat, table, timeseries

__all__ = [
    "involvement_panel",
    "labelled_ratio_by_guest_panel",
    "labelled_ratio_panel",
    "most_involved_panel",
    "scan_time_panel",
    "split_panel",
]

MAX_ROWS: Final = 20
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
ATTRIBUTED_GUESTS: Final = "Of guests that were asked (sources.enabled); docs/reference/metrics.md lists the kinds."


def split_panel(metric: Callable[..., str], width: int) -> timeseries.Panel:
    """A stack of the kinds; `metric` makes a selector of a metric's name."""
    said = PanelOptions(
        "Sharing by kind of page",
        "Self-sharing and what is shared with others, by what the pages are, split so that it adds up: each content's "
        f"in equal parts over its pages. Kinds of little sharing are under other. {ATTRIBUTED_GUESTS}",
        "bytes",
        width,
        9,
    )
    query = f"sum by (kind) ({metric('samepage_source_split_bytes')})"
    return with_colours(time_series(said, Target(query, "{{kind}}"), stacked=True), COLOURS)


def most_involved_panel() -> table.Panel:
    """The guests' kinds with the most sharing."""
    said = PanelOptions(
        "What shares most",
        f"Sharing that involves pages of a kind; the {MAX_ROWS} largest of all guests. A content may have copies of "
        "several kinds, so this does not add up.",
        "bytes",
        7,
        9,
    )
    query = f"sort_desc(topk({MAX_ROWS}, sum by (domain, kind) ({host('samepage_source_sharing_bytes')})))"
    panel = table_panel(said, [query], organize_fields({"domain": "Guest", "kind": "Kind", "Value": "Involved"}))
    gauge = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
    panel.override_by_name(
        "Involved", [*column_overrides("bytes", 150, cellOptions=gauge), *colour_scheme("continuous-BlPu")]
    )
    return panel


def labelled_ratio_by_guest_panel() -> bargauge.Panel:
    """The guests of whose pages the least is known."""
    said = PanelOptions(
        "Least known",
        "Of a guest's pages in use, the part whose kind is known; the ten guests with the least. 0: no Linux kernel "
        "was found in it.",
        "percentunit",
        5,
        9,
    )
    query = f"sort(bottomk(10, max by (domain) ({host('samepage_source_labelled_ratio')})))"
    return bar_gauge(said, query, "{{domain}}", Colour.MERGED).max(1)


def involvement_panel() -> bargauge.Panel:
    """The guest's kinds with the most sharing."""
    said = PanelOptions(
        "Sharing that involves",
        "Sharing that involves pages of each kind; a content may have copies of several, so this does not add up.",
        "bytes",
        7,
        9,
    )
    query = f"sort_desc(sum by (kind) ({guest('samepage_source_sharing_bytes')}))"
    return bar_gauge(said, query, "{{kind}}", Colour.INTER)


def labelled_ratio_panel() -> stat.Panel:
    """How much is known of the guest's pages."""
    said = PanelOptions("Known", "Of the guest's pages in use, the part whose kind is known.", "percentunit", 5, 4)
    return stat_panel(said, guest("samepage_source_labelled_ratio"))


def scan_time_panel() -> stat.Panel:
    """When that was last asked."""
    said = PanelOptions(
        "Looked at", "When the scan began whose pages these are: every n-th asks.", "dateTimeFromNow", 5, 5
    )
    return stat_panel(said, f"{guest('samepage_source_last_scan_timestamp_seconds')} * 1000")
