"""What both dashboards have: colours, and the panels that differ in their queries alone."""

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

# The states of a page: what could be merged in the colours of sharing, what takes no memory in greys.
COLOURS: Final = {
    "distinct": "blue",
    "duplicate": Colour.SELF,
    "zero": "#8e8e8e",
    "absent": "#5a5a5a",
    "swapped": Colour.COST,
}
OBSTACLE_DESCRIPTIONS: Final = (
    "hugetlb: in huge pages of hugetlbfs. shared: shared or in a file (memfd, vhost-user). nosharepages: switched off "
    "in the domain. pinned: a passed-through device pins it. not_offered: QEMU did not offer it to KSM."
)
STATE_DESCRIPTIONS: Final = (
    "distinct: the first copy of a content in the guest. duplicate: a further copy, which could be merged. zero: all "
    "zeros. absent: never backed by the host. swapped: out on the host, not read."
)


def memory_by_state_panel(metric: Callable[[str, str], str], name: str, width: int) -> timeseries.Panel:
    """A stack of the five states; `metric` makes a selector of a metric's name and a matcher."""
    said = PanelOptions(
        "Memory by state", f"What each page was at the last scan. {STATE_DESCRIPTIONS}", "bytes", width, 9
    )
    queries = ((state, colour, metric(name, f'state="{state}"')) for state, colour in COLOURS.items())
    return time_series(
        said, *(Target(f"sum({query})", state, colour) for state, colour, query in queries), stacked=True
    )


def failures_panel(query: str, width: int) -> timeseries.Panel:
    """Scans that failed, by reason."""
    said = PanelOptions(
        "Failed scans, within an hour",
        "Scans of a guest that failed in the hour before, by reason (docs/reference/metrics.md lists the reasons). "
        "What was known of the guest stays, and grows old. Empty where nothing failed.",
        "short",
        width,
    )
    shades = dashboard.FieldColor().mode(FieldColorModeId.SHADES).fixed_color(Colour.COST)
    panel = time_series(said, Target(query, "{{reason}}"), stacked=True)
    return panel.color_scheme(shades).decimals(0).no_value("none")


def state_panel(said: PanelOptions, query: str, *, off: tuple[str, str], on: tuple[str, str]) -> stat.Panel:
    """1 or 0, as a word and its colour."""
    return value_mapping_panel(said, query, {0: off, 1: on})


def organize_fields(names: Mapping[str, str], hidden: Sequence[str] = ()) -> tuple[str, dict[str, object]]:
    """Grafana's transformation that names the columns of a table, in this order, and leaves out those `hidden`."""
    return "organize", {
        "renameByName": dict(names),
        "indexByName": {name: index for index, name in enumerate(names)},
        "excludeByName": dict.fromkeys(("Time", *hidden), True),
    }


def reasons_panel(said: PanelOptions, info: str, reason: str) -> table.Panel:
    """Guests and the reason that each has, of the series `info`; the column is named `reason`."""
    query = f"max by (domain, reason) ({info})"
    return table_panel(
        said, [query], organize_fields({"domain": "Guest", "reason": reason}, ["Value"]), empty="nothing"
    )
