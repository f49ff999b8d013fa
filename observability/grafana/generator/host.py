"""The dashboard of a host: the sharing of its guests, their merged memory, and the cost of scans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from observability.grafana.generator.attribution_panels import (
    labelled_ratio_by_guest_panel,
    most_involved_panel,
    split_panel,
)
from observability.grafana.generator.colour import Colour
from observability.grafana.generator.dashboard import GUEST_UID, HOST_UID, add_row, new_dashboard
from observability.grafana.generator.host_guests import (
    group_inter_sharing_panel,
    group_self_sharing_panel,
    guests_panel,
    page_sizes_panel,
    pair_heatmap_panel,
    pairs_panel,
)
from observability.grafana.generator.panels import (
    PanelOptions,
    Target,
    bar_gauge,
    stat_panel,
    time_series,
    with_colours,
)
from observability.grafana.generator.promql import WINDOW, host, new_failures, pause_quantile
from observability.grafana.generator.shared_panels import (
    OBSTACLE_DESCRIPTIONS,
    failures_panel,
    memory_by_state_panel,
    reasons_panel,
    state_panel,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import bargauge, dashboard, stat, table, timeseries

__all__ = ["host_dashboard"]

SELF_SHARING: Final = host("samepage_host_self_sharing_bytes")
INTER_SHARING: Final = host("samepage_host_inter_sharing_bytes")
PAUSES: Final = host("samepage_pause_duration_seconds_bucket")


def host_dashboard() -> dashboard.Dashboard:
    """Host: eight rows."""
    board = new_dashboard(
        HOST_UID,
        "samepaged: host",
        "How much memory the guests of a KVM host could share, and how much of it KSM has merged.",
        (GUEST_UID, "One guest"),
    )
    add_row(board, "Now", [*_sharing_now(), *_merging_now(), *_health_now()])
    add_row(board, "Memory and sharing", [_memory(), _sharing()])
    add_row(board, "KSM and its potential", [_merging(), _capture(), _profit(), _obstacles()])
    add_row(board, "Guests", [guests_panel(), pairs_panel(), pair_heatmap_panel()])
    add_row(board, "Groups", [group_inter_sharing_panel(), group_self_sharing_panel(), page_sizes_panel()])
    add_row(
        board,
        "Page attribution",
        [split_panel(host, 12), most_involved_panel(), labelled_ratio_by_guest_panel()],
    )
    add_row(board, "Pauses", [_pauses(), _longest_pauses()])
    return add_row(
        board,
        "Scans",
        [
            _scan_duration(),
            _domains(),
            failures_panel(new_failures(host("samepage_scan_failures_total")), 8),
            _fallbacks(),
        ],
    )


def _sharing_now() -> list[stat.Panel]:
    return [
        stat_panel(
            PanelOptions("Memory of the guests", "Memory of all scanned guests, in any state.", "bytes", 4, 4),
            f"sum({host('samepage_host_memory_bytes')})",
        ),
        stat_panel(
            PanelOptions(
                "Total sharing",
                "Memory that merging all duplicates would free: self-sharing and inter-VM sharing, without zero pages.",
                "bytes",
                4,
                4,
            ),
            f"{SELF_SHARING} + {INTER_SHARING}",
        ),
        stat_panel(
            PanelOptions("Sharing ratio", "Ratio of total sharing to the memory of the guests.", "percentunit", 4, 4),
            host("samepage_host_sharing_ratio"),
        ),
    ]


def _merging_now() -> list[stat.Panel]:
    return [
        stat_panel(
            PanelOptions(
                "Saved by KSM", "Memory that KSM currently saves: merged pages and unmapped zero pages.", "bytes", 4, 4
            ),
            host("samepage_ksm_merged_bytes"),
        ),
        stat_panel(
            PanelOptions(
                "Capture",
                "Ratio of the memory that KSM saves to the memory that it could save: total sharing and zero pages.",
                "percentunit",
                4,
                4,
            ),
            host("samepage_ksm_capture_ratio", 'domain=""'),
        ),
        stat_panel(
            PanelOptions(
                "Expected profit",
                "Memory that KSM would save if it merged all attainable memory, minus its bookkeeping, by the kernel's "
                "formula. Below zero, KSM costs more memory than it saves.",
                "bytes",
                4,
                4,
            ),
            host("samepage_ksm_expected_profit_bytes"),
            base="red",
            steps=[(0, "green")],
        ),
    ]


def _health_now() -> list[stat.Panel]:
    return [
        state_panel(
            PanelOptions("KSM", "Whether KSM is running (/sys/kernel/mm/ksm/run).", "none", 4, 3),
            host("samepage_ksm_running"),
            off=("off", "text"),
            on=("on", "green"),
        ),
        state_panel(
            PanelOptions("libvirt", "Whether samepaged is connected to libvirt.", "none", 4, 3),
            host("samepage_libvirt_up"),
            off=("disconnected", "red"),
            on=("connected", "green"),
        ),
        state_panel(
            PanelOptions(
                "Configuration",
                "Whether the last load of the configuration succeeded. After a failure, the old one stays in force.",
                "none",
                4,
                3,
            ),
            host("samepage_config_last_reload_successful"),
            off=("reload failed", "red"),
            on=("loaded", "green"),
        ),
        stat_panel(
            PanelOptions("Skipped guests", "Guests that the last scan skipped, for any reason.", "short", 4, 3),
            host("samepage_domains", 'result="skipped"'),
            steps=[(0, "green"), (1, "orange")],
        ),
        stat_panel(
            PanelOptions("Last scan", "End time of the last scan of the host.", "dateTimeFromNow", 4, 3),
            f"{host('samepage_last_scan_timestamp_seconds')} * 1000",
        ),
        stat_panel(
            PanelOptions("Next scan", "Due time of the next scan of the host.", "dateTimeFromNow", 4, 3),
            f"{host('samepage_next_scan_timestamp_seconds')} * 1000",
        ),
    ]


def _memory() -> timeseries.Panel:
    return memory_by_state_panel(host, "samepage_host_memory_bytes", 12)


def _sharing() -> timeseries.Panel:
    stable = "samepage_host_stable_self_sharing_bytes", "samepage_host_stable_inter_sharing_bytes"
    options = PanelOptions(
        "Self-sharing and inter-VM sharing",
        "Self-sharing: within each guest. Inter-VM sharing: in addition, only because the guests run on one host. "
        "Their sum is total sharing. Stable: the part of the sum in pages with unchanged content since the previous "
        "scan; KSM merges only such pages. It starts with the second scan.",
        "bytes",
        12,
        9,
    )
    return time_series(
        options,
        Target(SELF_SHARING, "self-sharing", Colour.SELF),
        Target(INTER_SHARING, "inter-VM sharing", Colour.INTER),
        Target(" + ".join(host(metric) for metric in stable), "stable, of both", Colour.STABLE, limit=True),
        stacked=True,
    )


def _merging() -> timeseries.Panel:
    options = PanelOptions(
        "Merged, attainable, potential",
        "Merged: memory that KSM currently saves. Potential: memory that merging all duplicates and zero pages would "
        "save. Attainable: the same for the guests with mergeable memory. If attainable is well below potential, see "
        "the merge obstacles. If merged is well below attainable, KSM is off, slow, or the pages change.",
        "bytes",
        12,
    )
    return time_series(
        options,
        Target(host("samepage_ksm_potential_bytes"), "potential", Colour.INTER),
        Target(host("samepage_ksm_attainable_bytes"), "attainable", Colour.SELF),
        Target(host("samepage_ksm_merged_bytes"), "merged", Colour.MERGED),
    )


def _capture() -> timeseries.Panel:
    options = PanelOptions(
        "Capture",
        "Ratio of merged memory to the potential, of the host, and of the guests with the highest and lowest ratio.",
        "percentunit",
        12,
    )
    guests = host("samepage_ksm_capture_ratio", 'domain!=""')
    return time_series(
        options,
        Target(host("samepage_ksm_capture_ratio", 'domain=""'), "host", Colour.MERGED),
        Target(f"max({guests})", "guest with most", Colour.SELF, limit=True),
        Target(f"min({guests})", "guest with least", Colour.COST, limit=True),
    ).max(1)


def _profit() -> timeseries.Panel:
    options = PanelOptions(
        "Profit of KSM",
        "Bytes saved minus KSM's bookkeeping, by the kernel's formula: now, and if KSM merged all attainable memory.",
        "bytes",
        12,
    )
    return time_series(
        options,
        Target(host("samepage_ksm_expected_profit_bytes"), "expected", Colour.SELF, limit=True),
        Target(host("samepage_ksm_profit_bytes"), "now", Colour.MERGED),
    )


def _obstacles() -> table.Panel:
    options = PanelOptions(
        "Merge obstacles",
        f"Guests with memory that KSM cannot merge, and the reasons. {OBSTACLE_DESCRIPTIONS}",
        "string",
        12,
    )
    return reasons_panel(options, host("samepage_domain_merge_obstacle_info"), "Obstacle")


def _pauses() -> timeseries.Panel:
    options = PanelOptions(
        "Pauses",
        "Suspensions of guests by samepaged: the median and the 99th percentile of the previous six hours (upper "
        "bounds, because they come from a histogram), the longest of the last scans, and the limit (scan.max_pause).",
        "s",
        12,
    )
    return time_series(
        options,
        Target(f"max({host('samepage_domain_last_pause_seconds')})", "longest, last scans", Colour.COST),
        Target(pause_quantile(0.99, PAUSES), "99th percentile", Colour.INTER),
        Target(pause_quantile(0.5, PAUSES), "median", Colour.SELF),
        Target(host("samepage_config_max_pause_seconds"), "limit", Colour.LIMIT, limit=True),
    )


def _longest_pauses() -> bargauge.Panel:
    options = PanelOptions(
        "Longest pauses by guest", "Longest pause of each guest's last scan; the ten longest.", "s", 12
    )
    query = f"sort_desc(topk(10, max by (domain) ({host('samepage_domain_last_pause_seconds')})))"
    return bar_gauge(options, query, "{{domain}}", Colour.COST)


def _scan_duration() -> timeseries.Panel:
    options = PanelOptions(
        "Scan duration",
        "Duration of a scan of all guests, including analysis: the mean of the previous six hours. It should stay well "
        "below the interval of scans (scan.interval).",
        "s",
        8,
    )
    total, count = (host(f"samepage_scan_duration_seconds_{part}") for part in ("sum", "count"))
    return time_series(options, Target(f"rate({total}[{WINDOW}]) / rate({count}[{WINDOW}])", "mean", Colour.MERGED))


def _domains() -> timeseries.Panel:
    options = PanelOptions("Guests scanned and skipped", "Domains by result of the last scan of the host.", "short", 8)
    panel = time_series(options, Target(f"sum by (result) ({host('samepage_domains')})", "{{result}}"), stacked=True)
    return with_colours(panel.decimals(0), {"scanned": Colour.SELF, "skipped": Colour.COST})


def _fallbacks() -> table.Panel:
    options = PanelOptions(
        "Fallbacks",
        "Guests with a last scan that did not use the preferred mode or reader, and the reasons "
        "(docs/reference/metrics.md lists them). A fallback is not a failure.",
        "string",
        24,
        6,
    )
    return reasons_panel(options, host("samepage_domain_fallback_info"), "Reason")
