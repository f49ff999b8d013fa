"""The kinds of panels of the dashboards. Each panel has a title, a description and a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueJustifyMode,
    BigValueTextMode,
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    LineInterpolation,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from observability.grafana.generator.dashboard import DATASOURCE
from observability.grafana.generator.promql import REF_IDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "PanelOptions",
    "Target",
    "bar_gauge",
    "colour_scheme",
    "column_overrides",
    "stat_panel",
    "table_panel",
    "time_series",
    "value_mapping_panel",
    "with_colours",
]

# Opacity in percent of the area below a line, and of stacked areas.
TINT_PERCENT: Final = 8
SOLID_PERCENT: Final = 55


@dataclass(frozen=True, slots=True)
class PanelOptions:
    """Texts and size of a panel. `unit` is one of Grafana's: bytes (powers of 1024), s, percentunit (0 to 1), …"""

    title: str
    description: str
    unit: str
    width: int
    height: int = 8


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a graph. `colour` is for a query with one series; a `limit` is dashed."""

    query: str
    legend: str
    colour: str | None = None
    limit: bool = False


def time_series(options: PanelOptions, *targets: Target, stacked: bool = False) -> timeseries.Panel:
    """A graph over time."""
    panel: timeseries.Panel = (
        _placed(timeseries.Panel(), options)
        .axis_soft_min(0)
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
        .line_width(1)
        .fill_opacity(SOLID_PERCENT if stacked else TINT_PERCENT)
        .line_interpolation(LineInterpolation.STEP_AFTER)
        .draw_style(GraphDrawStyle.LINE)
        .show_points(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(show_legend=True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .calcs(["lastNotNull"])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    for ref_id, line in zip(REF_IDS, targets, strict=False):
        panel.with_target(_query(line.query, ref_id).range().legend_format(line.legend))
        properties = [] if line.colour is None else [_colour(line.colour)]
        if line.limit:
            properties += [
                DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
                DynamicConfigValue("custom.fillOpacity", 0),
                DynamicConfigValue("custom.stacking", {"mode": "none", "group": "limit"}),
            ]
        if properties:
            panel.override_by_query(ref_id, properties)
    return panel


def with_colours(panel: timeseries.Panel, colours: Mapping[str, str]) -> timeseries.Panel:
    """Set the colours of the series named in `colours`, and return `panel`."""
    for name, colour in colours.items():
        panel.override_by_name(name, [_colour(colour)])
    return panel


def stat_panel(
    options: PanelOptions, query: str, *, base: str = "text", steps: Sequence[tuple[float, str]] = ()
) -> stat.Panel:
    """One large number. Its colour is that of the last of `steps` (minimum, colour) that it reaches, or `base` below
    all steps.
    """
    panel: stat.Panel = (
        _placed(stat.Panel(), options)
        .with_target(_query(query, REF_IDS[0]).instant())
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE if steps else BigValueColorMode.NONE)
        .justify_mode(BigValueJustifyMode.CENTER)
        .text_mode(BigValueTextMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(base, steps))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .no_value("-")
    )
    return panel


def value_mapping_panel(options: PanelOptions, query: str, words: Mapping[int, tuple[str, str]]) -> stat.Panel:
    """One large word for a number. `words` has the word and its colour for each number."""
    panel = stat_panel(options, query, steps=[(0, "text")])
    results = {
        str(number): ValueMappingResult(text=word, color=colour, index=number)
        for number, (word, colour) in words.items()
    }
    return panel.mappings([ValueMap(options=results)])


def bar_gauge(options: PanelOptions, query: str, legend: str, colour: str) -> bargauge.Panel:
    """A horizontal bar for the current value of each series."""
    panel: bargauge.Panel = (
        _placed(bargauge.Panel(), options)
        .with_target(_query(query, REF_IDS[0]).instant().legend_format(legend))
        .orientation(VizOrientation.HORIZONTAL)
        .display_mode(BarGaugeDisplayMode.BASIC)
        .show_unfilled(show_unfilled=False)
        .text(common.VizTextDisplayOptions().title_size(14).value_size(16))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.FIXED).fixed_color(colour))
        .min(0)
        .no_value("none")
    )
    return panel


def table_panel(
    options: PanelOptions, queries: Sequence[str], *steps: tuple[str, Mapping[str, Any]], empty: str = "none"
) -> table.Panel:
    """A table of current values, after Grafana's transformations in `steps` (ID and options)."""
    panel: table.Panel = _placed(table.Panel(), options).no_value(empty).show_header(show_header=True).min_width(80)
    for ref_id, query in zip(REF_IDS, queries, strict=False):
        panel.with_target(_query(query, ref_id).instant().format(PromQueryFormat.TABLE))
    for identity, settings in steps:
        panel.with_transformation(DataTransformerConfig(identity, options=dict(settings)))
    return panel


def column_overrides(unit: str | None = None, width: int | None = None, **more: object) -> list[DynamicConfigValue]:
    """Return the properties of a column of a table. `more` are properties of `custom`."""
    properties = [] if unit is None else [DynamicConfigValue("unit", unit)]
    if width is not None:
        properties.append(DynamicConfigValue("custom.width", width))
    return properties + [DynamicConfigValue(f"custom.{name}", value) for name, value in more.items()]


def colour_scheme(scheme: str) -> list[DynamicConfigValue]:
    """Return the colours of a column: Grafana's continuous `scheme`, from 0 to the largest value."""
    return [DynamicConfigValue("color", {"mode": scheme}), DynamicConfigValue("min", 0)]


def _placed(panel: Any, options: PanelOptions) -> Any:  # noqa: ANN401 - the panels' builders lack a base class
    return (
        panel.title(options.title)
        .description(options.description)
        .unit(options.unit)
        .datasource(DATASOURCE)
        .span(options.width)
        .height(options.height)
    )


def _query(expression: str, ref_id: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).ref_id(ref_id).datasource(DATASOURCE)


def _colour(colour: str) -> DynamicConfigValue:
    return DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})


def _thresholds(base: str, steps: Sequence[tuple[float, str]]) -> dashboard.ThresholdsConfig:
    # Grafana requires a first step without a value.
    first = Threshold(value=None, color=base)
    return (
        dashboard.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([first, *(Threshold(value=value, color=colour) for value, colour in steps)])
    )
