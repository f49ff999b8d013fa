"""The dashboard of one guest: its sharing, its partners, its merged memory, and its scans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from observability.grafana.generator.attribution_panels import (
    involvement_panel,
    labelled_ratio_panel,
    scan_time_panel,
    split_panel,
)
from observability.grafana.generator.colour import Colour
from observability.grafana.generator.dashboard import GUEST_UID, HOST_UID, add_row, new_dashboard, query_variable
from observability.grafana.generator.panels import (
    PanelOptions,
    Target,
    bar_gauge,
    column_overrides,
    stat_panel,
    table_panel,
    time_series,
)
from observability.grafana.generator.promql import drift, guest, host, new_failures, pause_quantile
from observability.grafana.generator.shared_panels import (
    OBSTACLE_DESCRIPTIONS,
    failures_panel,
    memory_by_state_panel,
    organize_fields,
    reasons_panel,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import bargauge, dashboard, stat, table, timeseries

__all__ = ["guest_dashboard"]

MEMORY: Final = guest("samepage_domain_memory_bytes")
PAUSES: Final = guest("samepage_pause_duration_seconds_bucket")
PAIR: Final = "samepage_pair_inter_sharing_bytes"


def guest_dashboard() -> dashboard.Dashboard:
    """Guest: six rows."""
    board = new_dashboard(
        GUEST_UID,
        "samepaged: guest",
        "How much memory one guest could share, with which others, and how much of it KSM has merged.",
        (HOST_UID, "The host"),
    ).with_variable(query_variable("domain", "Guest", f"label_values({host('samepage_domain_info')}, domain)"))
    add_row(board, "Now", _now())
    add_row(board, "Memory and sharing", [_memory(), _sharing(), _others()])
    add_row(board, "KSM and its potential", [_merging(), _capture(), _obstacle()])
    add_row(
        board,
        "Page attribution",
        [split_panel(guest, 12), involvement_panel(), labelled_ratio_panel(), scan_time_panel()],
    )
    add_row(board, "Pauses", [_pauses(), _drift()])
    return add_row(board, "Scans", [_info(), _fallback(), _duration(), _read(), failures_panel(_failures(), 8)])


def _failures() -> str:
    return new_failures(guest("samepage_scan_failures_total"))


def _now() -> list[stat.Panel]:
    return [
        stat_panel(PanelOptions("Memory", "Size of the guest's memory.", "bytes", 4, 4), f"sum({MEMORY})"),
        stat_panel(
            PanelOptions("Self-sharing", "Memory that the guest could share within itself.", "bytes", 4, 4),
            guest("samepage_domain_self_sharing_bytes"),
        ),
        stat_panel(
            PanelOptions(
                "Shared with others",
                "Contents that other guests of its group also have: the sharing lost if the guest leaves.",
                "bytes",
                4,
                4,
            ),
            guest("samepage_domain_shared_with_others_bytes"),
        ),
        stat_panel(
            PanelOptions(
                "Merged by KSM", "Pages of the guest that are merged by KSM, including zero pages.", "bytes", 4, 4
            ),
            guest("samepage_domain_ksm_merged_bytes"),
        ),
        stat_panel(
            PanelOptions(
                "Capture",
                "Ratio of pages merged by KSM to pages with a content that recurs on the host, including zero pages.",
                "percentunit",
                4,
                4,
            ),
            guest("samepage_ksm_capture_ratio"),
        ),
        stat_panel(
            PanelOptions("Last scan", "Time of the guest's last successful scan.", "dateTimeFromNow", 4, 4),
            f"{guest('samepage_domain_last_scan_success_timestamp_seconds')} * 1000",
        ),
    ]


def _memory() -> timeseries.Panel:
    return memory_by_state_panel(guest, "samepage_domain_memory_bytes", 9)


def _sharing() -> timeseries.Panel:
    options = PanelOptions(
        "Sharing",
        "Self-sharing: within the guest. Shared with others: its distinct contents that other guests of its group also "
        "have. Stable: the part of self-sharing in pages with unchanged content since the previous scan; KSM merges "
        "only such pages.",
        "bytes",
        9,
        9,
    )
    return time_series(
        options,
        Target(guest("samepage_domain_self_sharing_bytes"), "self-sharing", Colour.SELF),
        Target(guest("samepage_domain_shared_with_others_bytes"), "shared with others", Colour.INTER),
        Target(guest("samepage_domain_stable_self_sharing_bytes"), "stable self-sharing", Colour.STABLE, limit=True),
    )


def _others() -> bargauge.Panel:
    options = PanelOptions(
        "Shares most with",
        "Contents in common with another guest. Only the host's largest pairs are exported (export.pairs).",
        "bytes",
        6,
        9,
    )
    # The guest can be on either side of a pair; one label takes the name of the other guest.
    sides = ((host(PAIR, 'domain_a="$domain"'), "domain_b"), (host(PAIR, 'domain_b="$domain"'), "domain_a"))
    pairs = " or ".join(
        f'sum by (other) (label_replace({side}, "other", "$1", "{other}", "(.*)"))' for side, other in sides
    )
    return bar_gauge(options, f"sort_desc({pairs})", "{{other}}", Colour.INTER)


def _merging() -> timeseries.Panel:
    options = PanelOptions(
        "Merged and potential",
        "Merged: pages of the guest that are merged by KSM. Potential: its pages with a content that recurs on the "
        "host, including zero pages. Profit: merged minus KSM's bookkeeping for this guest, by the kernel's formula.",
        "bytes",
        9,
    )
    return time_series(
        options,
        Target(guest("samepage_domain_ksm_potential_bytes"), "potential", Colour.INTER),
        Target(guest("samepage_domain_ksm_merged_bytes"), "merged", Colour.MERGED),
        Target(guest("samepage_domain_ksm_profit_bytes"), "profit", Colour.SELF, limit=True),
    )


def _capture() -> timeseries.Panel:
    options = PanelOptions(
        "Capture", "Ratio of merged memory to the potential, of this guest and of the host.", "percentunit", 9
    )
    return time_series(
        options,
        Target(guest("samepage_ksm_capture_ratio"), "guest", Colour.MERGED),
        Target(host("samepage_ksm_capture_ratio", 'domain=""'), "host", Colour.INTER, limit=True),
    ).max(1)


def _obstacle() -> table.Panel:
    options = PanelOptions(
        "Merge obstacle",
        f"Reason that KSM cannot merge this guest's memory; empty if it can. {OBSTACLE_DESCRIPTIONS}",
        "string",
        6,
    )
    return reasons_panel(options, guest("samepage_domain_merge_obstacle_info"), "Obstacle")


def _pauses() -> timeseries.Panel:
    options = PanelOptions(
        "Pauses",
        "Suspensions of the guest by samepaged: the median and the 99th percentile of the previous six hours (upper "
        "bounds, because they come from a histogram), the longest of the last scan, and the limit (scan.max_pause).",
        "s",
        12,
    )
    return time_series(
        options,
        Target(guest("samepage_domain_last_pause_seconds"), "longest, last scan", Colour.COST),
        Target(pause_quantile(0.99, PAUSES), "99th percentile", Colour.INTER),
        Target(pause_quantile(0.5, PAUSES), "median", Colour.SELF),
        Target(host("samepage_config_max_pause_seconds"), "limit", Colour.LIMIT, limit=True),
    )


def _drift() -> timeseries.Panel:
    options = PanelOptions(
        "Clock drift",
        "Fraction of the last hour for which samepaged suspended the guest, in parts per million; the guest's clock "
        "loses this time. The limit is scan.max_drift, if it is below 1.",
        "ppm",
        12,
    )
    return time_series(
        options,
        Target(drift(guest("samepage_domain_paused_ratio")), "last hour", Colour.COST),
        Target(drift(f"({host('samepage_config_max_drift_ratio')} < 1)"), "limit", Colour.LIMIT, limit=True),
    )


def _info() -> table.Panel:
    options = PanelOptions(
        "Last scan details", "The guest's UUID and group, and the mode and reader of its last scan.", "string", 16, 4
    )
    query = f"max by (group, mode, reader, uuid) ({guest('samepage_domain_info')})"
    names = {"group": "Group", "mode": "Mode", "reader": "Reader", "uuid": "UUID"}
    panel = table_panel(options, [query], organize_fields(names, ["Value"]))
    panel.override_by_name("UUID", column_overrides(width=320))
    return panel


def _fallback() -> table.Panel:
    options = PanelOptions(
        "Fallback",
        "Reason that the last scan did not use the preferred mode or reader; empty if it did "
        "(docs/reference/metrics.md lists the reasons).",
        "string",
        8,
        4,
    )
    return reasons_panel(options, guest("samepage_domain_fallback_info"), "Reason")


def _duration() -> timeseries.Panel:
    options = PanelOptions("Scan duration", "Duration of the guest's last scan.", "s", 8)
    return time_series(options, Target(guest("samepage_domain_scan_duration_seconds"), "last scan", Colour.MERGED))


def _read() -> timeseries.Panel:
    options = PanelOptions(
        "Memory read",
        "Memory read by the guest's last scan. A rescan with the kernel's soft-dirty bits reads only pages written "
        "since the previous scan.",
        "bytes",
        8,
    )
    return time_series(options, Target(guest("samepage_domain_read_bytes"), "last scan", Colour.MERGED))
