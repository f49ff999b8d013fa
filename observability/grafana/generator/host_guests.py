"""Panels of the host's guests: one by one, in pairs, in groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.models.dashboard import (
    DashboardSpecialValueMapOptions,
    DynamicConfigValue,
    SpecialValueMap,
    SpecialValueMatch,
    ValueMappingResult,
)

from observability.grafana.generator.colour import Colour
from observability.grafana.generator.dashboard import GUEST_UID
from observability.grafana.generator.panels import (
    PanelOptions,
    Target,
    bar_gauge,
    colour_scheme,
    column_overrides,
    table_panel,
    time_series,
)
from observability.grafana.generator.promql import REF_IDS, drift, host
from observability.grafana.generator.shared_panels import organize_fields

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import bargauge, table, timeseries

__all__ = [
    "group_inter_sharing_panel",
    "group_self_sharing_panel",
    "guests_panel",
    "page_sizes_panel",
    "pair_heatmap_panel",
    "pairs_panel",
]

PAIRS: Final = host("samepage_pair_inter_sharing_bytes")
LINK: Final = {
    "title": "Show this guest",
    "url": f"/d/{GUEST_UID}?${{datasource:queryparam}}&${{instance:queryparam}}"
    "&var-domain=${__value.raw:percentencode}&${__url_time_range}",
}
SHADE: Final = "continuous-BlPu"
GAUGE: Final = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
# The columns of the table of guests: name, query, properties.
COLUMNS: Final = (
    ("Memory", host("samepage_domain_memory_bytes"), column_overrides("bytes")),
    ("Self-sharing", host("samepage_domain_self_sharing_bytes"), column_overrides("bytes")),
    ("Shared with others", host("samepage_domain_shared_with_others_bytes"), column_overrides("bytes", 150)),
    ("Merged by KSM", host("samepage_domain_ksm_merged_bytes"), column_overrides("bytes", 130)),
    ("Capture", host("samepage_ksm_capture_ratio", 'domain!=""'), column_overrides("percentunit")),
    ("Longest pause", host("samepage_domain_last_pause_seconds"), column_overrides("s", 120)),
    ("Clock drift", drift(host("samepage_domain_paused_ratio")), column_overrides("ppm", 110)),
    (
        "Scanned",
        f"1000 * {host('samepage_domain_last_scan_success_timestamp_seconds')}",
        column_overrides("dateTimeFromNow", 150),
    ),
)


def guests_panel() -> table.Panel:
    """A table with one row per guest."""
    options = PanelOptions(
        "Guests",
        "Each guest according to the last scan that reached it. Shared with others: the sharing lost if the guest "
        "leaves; do not sum it over guests. Longest pause: of the last scan. Clock drift: the fraction of the last "
        "hour for which samepaged suspended the guest. The name of a guest links to its dashboard.",
        "bytes",
        24,
        9,
    )
    queries = [
        f"max by (domain, group, mode, reader) ({host('samepage_domain_info')})",
        *(f"sum by (domain) ({query})" for _, query, _ in COLUMNS),
    ]
    names = {"domain": "Guest", "group": "Group"}
    names |= {f"Value #{ref_id}": name for ref_id, (name, _, _) in zip(REF_IDS[1:], COLUMNS, strict=False)}
    names |= {"mode": "Mode", "reader": "Reader"}
    panel = table_panel(options, queries, ("merge", {}), organize_fields(names, ["Value #A"]))
    for name, _, properties in COLUMNS:
        panel.override_by_name(name, properties)
    panel.override_by_name("Guest", [*column_overrides("string", 220), DynamicConfigValue("links", [LINK])])
    return panel


def pairs_panel() -> table.Panel:
    """The largest pairs as a list."""
    options = PanelOptions(
        "Largest pairs",
        "Contents that both guests have, regardless of their groups: the sharing lost if they are separated. Only the "
        "largest pairs are exported (export.pairs).",
        "bytes",
        10,
        10,
    )
    query = f"sort_desc(sum by (domain_a, domain_b) ({PAIRS}))"
    panel = table_panel(
        options, [query], organize_fields({"domain_a": "Guest", "domain_b": "and", "Value": "Inter-VM sharing"})
    )
    panel.override_by_name(
        "Inter-VM sharing", [*column_overrides("bytes", 200, cellOptions=GAUGE), *colour_scheme(SHADE)]
    )
    return panel


def pair_heatmap_panel() -> table.Panel:
    """The largest pairs as a heat map."""
    options = PanelOptions(
        "Largest pairs as a heat map",
        "The same pairs, with a row and a column for each guest. A cell without a value is a pair that is not among "
        "the largest.",
        "bytes",
        14,
        10,
    )
    # A pair has one series, and two cells.
    swapped = PAIRS
    for new, old in (("swap", "domain_a"), ("domain_a", "domain_b"), ("domain_b", "swap")):
        swapped = f'label_replace({swapped}, "{new}", "$1", "{old}", "(.*)")'
    query = " or ".join(f"sum by (domain_a, domain_b) ({series})" for series in (PAIRS, swapped))
    cells = {"columnField": "domain_b", "rowField": "domain_a", "valueField": "Value", "emptyValue": "null"}
    corner = r"domain_a\domain_b"  # Grafana's name of the column with the names of the rows
    panel = table_panel(
        options,
        [query],
        ("sortBy", {"sort": [{"field": "domain_b"}]}),
        ("groupingToMatrix", cells),
        ("sortBy", {"sort": [{"field": corner}]}),
        ("organize", {"renameByName": {corner: "Guest"}}),
    )
    panel.override_by_field_type(
        "number",
        [*column_overrides("bytes", cellOptions={"type": "color-background", "mode": "basic"}), *colour_scheme(SHADE)],
    )
    # A pair that is not among the largest: empty, not the colour of zero.
    nothing = ValueMappingResult(text="", color="transparent")
    return panel.mappings([SpecialValueMap(DashboardSpecialValueMapOptions(SpecialValueMatch.NULL, nothing))])


def group_inter_sharing_panel() -> timeseries.Panel:
    """Inter-VM sharing by group, and across groups."""
    options = PanelOptions(
        "Inter-VM sharing by group",
        "Memory that the guests of each group could share only because they run on the same host, and the additional "
        "memory if groups shared with each other (a side channel between them).",
        "bytes",
        9,
    )
    groups = f"sum by (group) ({host('samepage_group_inter_sharing_bytes')})"
    across = f"sum({host('samepage_host_inter_sharing_bytes')}) - sum({groups})"
    return time_series(options, Target(groups, "{{group}}"), Target(across, "(across groups)", "#8e8e8e"), stacked=True)


def group_self_sharing_panel() -> timeseries.Panel:
    """Self-sharing by group."""
    options = PanelOptions("Self-sharing by group", "Sum of the self-sharing of the guests of each group.", "bytes", 9)
    query = f"sum by (group) ({host('samepage_group_self_sharing_bytes')})"
    return time_series(options, Target(query, "{{group}}"), stacked=True)


def page_sizes_panel() -> bargauge.Panel:
    """The sharing that remains with other page sizes."""
    options = PanelOptions(
        "Total sharing by page size",
        "Sharing if the host's pages had another size (scan.page_sizes); huge pages leave little of it.",
        "bytes",
        6,
    )
    parts = (host(f"samepage_page_size_{kind}_sharing_bytes") for kind in ("self", "inter"))
    return bar_gauge(options, f"sort_desc(sum by (page_size) ({' + '.join(parts)}))", "{{page_size}} B", Colour.MERGED)
