"""Page attribution: the kinds of pages that share, from the guests' own kernels."""

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
# The most frequent kinds, each with the same colour in all panels.
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
ATTRIBUTED_GUESTS: Final = (
    "For guests with page attribution (sources.enabled); docs/reference/metrics.md lists the kinds."
)


def split_panel(metric: Callable[..., str], width: int) -> timeseries.Panel:
    """A stack of the kinds. `metric` returns a selector for the name of a metric."""
    options = PanelOptions(
        "Sharing by kind of page",
        "Self-sharing and sharing with other guests, split into kinds of pages that add up: each content in equal "
        f"parts over its pages. Kinds with little sharing are summed under other. {ATTRIBUTED_GUESTS}",
        "bytes",
        width,
        9,
    )
    query = f"sum by (kind) ({metric('samepage_source_split_bytes')})"
    return with_colours(time_series(options, Target(query, "{{kind}}"), stacked=True), COLOURS)


def most_involved_panel() -> table.Panel:
    """The guests' kinds with the most sharing."""
    options = PanelOptions(
        "Kinds with the most sharing",
        f"Sharing that involves pages of a kind; the {MAX_ROWS} largest of all guests. Do not sum it: a content can "
        "have copies of several kinds.",
        "bytes",
        7,
        9,
    )
    query = f"sort_desc(topk({MAX_ROWS}, sum by (domain, kind) ({host('samepage_source_sharing_bytes')})))"
    panel = table_panel(options, [query], organize_fields({"domain": "Guest", "kind": "Kind", "Value": "Involved"}))
    gauge = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
    panel.override_by_name(
        "Involved", [*column_overrides("bytes", 150, cellOptions=gauge), *colour_scheme("continuous-BlPu")]
    )
    return panel


def labelled_ratio_by_guest_panel() -> bargauge.Panel:
    """The guests with the lowest ratio of labelled pages."""
    options = PanelOptions(
        "Lowest labelled ratio",
        "Ratio of a guest's pages in use that have a known kind; the ten guests with the lowest ratio. 0: no Linux "
        "kernel was found in the guest.",
        "percentunit",
        5,
        9,
    )
    query = f"sort(bottomk(10, max by (domain) ({host('samepage_source_labelled_ratio')})))"
    return bar_gauge(options, query, "{{domain}}", Colour.MERGED).max(1)


def involvement_panel() -> bargauge.Panel:
    """The guest's kinds with the most sharing."""
    options = PanelOptions(
        "Sharing by involved kind",
        "Sharing that involves pages of each kind. Do not sum it: a content can have copies of several kinds.",
        "bytes",
        7,
        9,
    )
    query = f"sort_desc(sum by (kind) ({guest('samepage_source_sharing_bytes')}))"
    return bar_gauge(options, query, "{{kind}}", Colour.INTER)


def labelled_ratio_panel() -> stat.Panel:
    """The ratio of the guest's pages with a known kind."""
    options = PanelOptions(
        "Labelled ratio", "Ratio of the guest's pages in use that have a known kind.", "percentunit", 5, 4
    )
    return stat_panel(options, guest("samepage_source_labelled_ratio"))


def scan_time_panel() -> stat.Panel:
    """The time of the last page attribution."""
    options = PanelOptions(
        "Last attribution",
        "Start time of the last scan with page attribution (sources.every).",
        "dateTimeFromNow",
        5,
        5,
    )
    return stat_panel(options, f"{guest('samepage_source_last_scan_timestamp_seconds')} * 1000")
