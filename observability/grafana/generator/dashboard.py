"""The frame of the panels: the dashboard, its variables, its links, and annotations of alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from grafana_foundation_sdk.cog.builder import Builder
    from grafana_foundation_sdk.models.dashboard import Panel

__all__ = ["DATASOURCE", "GUEST_UID", "HOST_UID", "add_row", "new_dashboard", "query_variable"]

HOST_UID: Final = "samepaged-host"
GUEST_UID: Final = "samepaged-guest"
DATASOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
ALERTS: Final = 'ALERTS{alertname=~"Samepage.*", alertstate="firing", instance=~"$instance|"}'


def new_dashboard(uid: str, title: str, description: str, other: tuple[str, str]) -> build.Dashboard:
    """Return an empty dashboard, with a link to the `other` (its UID and the link's title)."""
    return (
        build.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["samepaged", "memory", "kvm"])
        .timezone("browser")
        .time("now-24h", "now")
        .refresh("1m")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(_link(*other))
        .annotation(_alerts())
        .with_variable(
            build.DatasourceVariable("datasource")
            .label("Data source")
            .type("prometheus")
            .current(VariableOption(text="default", value="default"))
        )
        .with_variable(query_variable("instance", "Host", "label_values(samepage_build_info, instance)"))
    )


def query_variable(name: str, label: str, query: str) -> build.QueryVariable:
    """Return a variable with the values of `query`."""
    return (
        build.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NATURAL_ASC)
    )


def add_row(dashboard: build.Dashboard, title: str, panels: Sequence[Builder[Panel]]) -> build.Dashboard:
    """Add an open row of `panels` to `dashboard`, and return the dashboard."""
    dashboard.with_row(build.Row(title))
    for panel in panels:
        dashboard.with_panel(panel)
    # Numbered in order, so that links to a panel are the same in each Grafana.
    for number, placed in enumerate(dashboard.build().panels or (), start=1):
        placed.id_val = number
    return dashboard


def _link(uid: str, title: str) -> build.DashboardLink:
    return (
        build.DashboardLink(title)
        .type(DashboardLinkType.LINK)
        .icon("dashboard")
        .url(f"/d/{uid}")
        .include_vars(include_vars=True)
        .keep_time(keep_time=True)
    )


def _alerts() -> build.AnnotationQuery:
    return (
        build.AnnotationQuery()
        .name("Alerts of samepaged")
        .datasource(DATASOURCE)
        .enable(enable=True)
        .icon_color("red")
        .expr(ALERTS)
    )
