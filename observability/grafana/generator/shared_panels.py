"""Colours, and panels of both dashboards, which differ only in their queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import FieldColorModeId

from observability.grafana.generator.colour import Colour
from observability.grafana.generator.panels import PanelOptions, Target, table_panel, time_series, value_mapping_panel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from grafana_foundation_sdk.builders import stat, table, timeseries

__all__ = [
    "OBSTACLE_DESCRIPTIONS",
    "failures_panel",
    "memory_by_state_panel",
    "organize_fields",
    "reasons_panel",
    "state_panel",
]

# The states of a page: mergeable memory in the colours of sharing, states without memory in greys.
COLOURS: Final = {
    "distinct": "blue",
    "duplicate": Colour.SELF,
    "zero": "#8e8e8e",
    "absent": "#5a5a5a",
    "swapped": Colour.COST,
}
OBSTACLE_DESCRIPTIONS: Final = (
    "hugetlb: in huge pages of hugetlbfs. shared: shared or in a file (memfd, vhost-user). nosharepages: disabled in "
    "the domain. pinned: pinned by a passed-through device. not_offered: not offered to KSM by QEMU."
)
STATE_DESCRIPTIONS: Final = (
    "distinct: the first copy of a content in the guest. duplicate: a further copy, which could be merged. zero: all "
    "zeros. absent: never backed by the host. swapped: swapped out on the host, not read."
)


def memory_by_state_panel(metric: Callable[[str, str], str], name: str, width: int) -> timeseries.Panel:
    """A stack of the five states. `metric` returns a selector for the name of a metric and a matcher."""
    options = PanelOptions(
        "Memory by state", f"Memory by state of its pages at the last scan. {STATE_DESCRIPTIONS}", "bytes", width, 9
    )
    queries = ((state, colour, metric(name, f'state="{state}"')) for state, colour in COLOURS.items())
    return time_series(
        options, *(Target(f"sum({query})", state, colour) for state, colour, query in queries), stacked=True
    )


def failures_panel(query: str, width: int) -> timeseries.Panel:
    """Failed scans by reason."""
    options = PanelOptions(
        "Failed scans in the last hour",
        "Failed scans of a guest in the previous hour, by reason (docs/reference/metrics.md lists the reasons). The "
        "guest's metrics keep their previous values. Empty without failures.",
        "short",
        width,
    )
    shades = dashboard.FieldColor().mode(FieldColorModeId.SHADES).fixed_color(Colour.COST)
    panel = time_series(options, Target(query, "{{reason}}"), stacked=True)
    return panel.color_scheme(shades).decimals(0).no_value("none")


def state_panel(options: PanelOptions, query: str, *, off: tuple[str, str], on: tuple[str, str]) -> stat.Panel:
    """A panel that shows 1 or 0 as a word and a colour."""
    return value_mapping_panel(options, query, {0: off, 1: on})


def organize_fields(names: Mapping[str, str], hidden: Sequence[str] = ()) -> tuple[str, dict[str, object]]:
    """Return Grafana's transformation that names and orders the columns of a table, and removes those in `hidden`."""
    return "organize", {
        "renameByName": dict(names),
        "indexByName": {name: index for index, name in enumerate(names)},
        "excludeByName": dict.fromkeys(("Time", *hidden), True),
    }


def reasons_panel(options: PanelOptions, info: str, reason: str) -> table.Panel:
    """A table of guests and their reasons from the series `info`. `reason` is the name of the column."""
    query = f"max by (domain, reason) ({info})"
    return table_panel(
        options, [query], organize_fields({"domain": "Guest", "reason": reason}, ["Value"]), empty="none"
    )
