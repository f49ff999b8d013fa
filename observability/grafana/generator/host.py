"""The dashboard of a host: what its guests could share, what KSM makes of it, and what finding out costs them."""

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
    add_row(board, "KSM beside what is possible", [_merging(), _capture(), _profit(), _obstacles()])
    add_row(board, "Guests", [guests_panel(), pairs_panel(), pair_heatmap_panel()])
    add_row(board, "Groups", [group_inter_sharing_panel(), group_self_sharing_panel(), page_sizes_panel()])
    add_row(
        board,
        "Where sharing comes from",
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
            PanelOptions("Memory of the guests", "The memory of all scanned guests, in whatever state.", "bytes", 4, 4),
            f"sum({host('samepage_host_memory_bytes')})",
        ),
        stat_panel(
            PanelOptions(
                "Total sharing",
                "What merging every duplicate would free: self-sharing and inter-VM sharing. Zero pages are not in it.",
                "bytes",
                4,
                4,
            ),
            f"{SELF_SHARING} + {INTER_SHARING}",
        ),
        stat_panel(
            PanelOptions("Sharing ratio", "Total sharing as a part of the guests' memory.", "percentunit", 4, 4),
            host("samepage_host_sharing_ratio"),
        ),
    ]


def _merging_now() -> list[stat.Panel]:
    return [
        stat_panel(
            PanelOptions(
                "KSM saves", "What KSM saves now: merged pages, and zero pages that it unmapped.", "bytes", 4, 4
            ),
            host("samepage_ksm_merged_bytes"),
        ),
        stat_panel(
            PanelOptions(
                "Capture",
                "What KSM saves, as a part of what it could save: total sharing and zero pages.",
                "percentunit",
                4,
                4,
            ),
            host("samepage_ksm_capture_ratio", 'domain=""'),
        ),
        stat_panel(
            PanelOptions(
                "Profit, if all were merged",
                "What KSM would save if it merged all that it can reach, less what its own bookkeeping takes, by the "
                "kernel's formula. Below zero it costs more than it brings.",
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
            PanelOptions("KSM", "Whether KSM merges now (/sys/kernel/mm/ksm/run).", "none", 4, 3),
            host("samepage_ksm_running"),
            off=("off", "text"),
            on=("on", "green"),
        ),
        state_panel(
            PanelOptions("libvirt", "Whether samepaged is connected to libvirt.", "none", 4, 3),
            host("samepage_libvirt_up"),
            off=("away", "red"),
            on=("connected", "green"),
        ),
        state_panel(
            PanelOptions(
                "Configuration",
                "Whether the last load of the configuration succeeded; after a failure the old one stays in force.",
                "none",
                4,
                3,
            ),
            host("samepage_config_last_reload_successful"),
            off=("reload failed", "red"),
            on=("loaded", "green"),
        ),
        stat_panel(
            PanelOptions("Skipped guests", "Guests that the last scan skipped, for whatever reason.", "short", 4, 3),
            host("samepage_domains", 'result="skipped"'),
            steps=[(0, "green"), (1, "orange")],
        ),
        stat_panel(
            PanelOptions("Last scan", "When the last scan of the host ended.", "dateTimeFromNow", 4, 3),
            f"{host('samepage_last_scan_timestamp_seconds')} * 1000",
        ),
        stat_panel(
            PanelOptions("Next scan", "When the next scan of the host is due.", "dateTimeFromNow", 4, 3),
            f"{host('samepage_next_scan_timestamp_seconds')} * 1000",
        ),
    ]


def _memory() -> timeseries.Panel:
    return memory_by_state_panel(host, "samepage_host_memory_bytes", 12)


def _sharing() -> timeseries.Panel:
    stable = "samepage_host_stable_self_sharing_bytes", "samepage_host_stable_inter_sharing_bytes"
    said = PanelOptions(
        "Self-sharing and inter-VM sharing",
        "Self-sharing is within each guest; inter-VM sharing comes on top, only because the guests are on one host. "
        "Their sum is total sharing. Stable is the part of the sum whose pages kept their content since the scan "
        "before: KSM merges no other. It is known from the second scan on.",
        "bytes",
        12,
        9,
    )
    return time_series(
        said,
        Target(SELF_SHARING, "self-sharing", Colour.SELF),
        Target(INTER_SHARING, "inter-VM sharing", Colour.INTER),
        Target(" + ".join(host(metric) for metric in stable), "stable, of both", Colour.STABLE, limit=True),
        stacked=True,
    )


def _merging() -> timeseries.Panel:
    said = PanelOptions(
        "Merged, attainable, potential",
        "Merged: what KSM saves now. Potential: what merging every duplicate and every zero page would save. "
        "Attainable: the same over the guests whose memory KSM can merge. Where attainable is well below potential, "
        "see what stands in the way; where merged is well below attainable, KSM is off, slow, or the pages change.",
        "bytes",
        12,
    )
    return time_series(
        said,
        Target(host("samepage_ksm_potential_bytes"), "potential", Colour.INTER),
        Target(host("samepage_ksm_attainable_bytes"), "attainable", Colour.SELF),
        Target(host("samepage_ksm_merged_bytes"), "merged", Colour.MERGED),
    )


def _capture() -> timeseries.Panel:
    said = PanelOptions(
        "Capture",
        "Merged, as a part of the potential. The guests' lie between the lowest and the highest.",
        "percentunit",
        12,
    )
    guests = host("samepage_ksm_capture_ratio", 'domain!=""')
    return time_series(
        said,
        Target(host("samepage_ksm_capture_ratio", 'domain=""'), "host", Colour.MERGED),
        Target(f"max({guests})", "guest with most", Colour.SELF, limit=True),
        Target(f"min({guests})", "guest with least", Colour.COST, limit=True),
    ).max(1)


def _profit() -> timeseries.Panel:
    said = PanelOptions(
        "Profit of KSM",
        "Bytes saved less what KSM's bookkeeping takes, by the kernel's own formula: now, and had it merged all that "
        "is attainable.",
        "bytes",
        12,
    )
    return time_series(
        said,
        Target(host("samepage_ksm_expected_profit_bytes"), "expected", Colour.SELF, limit=True),
        Target(host("samepage_ksm_profit_bytes"), "now", Colour.MERGED),
    )


def _obstacles() -> table.Panel:
    said = PanelOptions(
        "What stands in KSM's way",
        f"Guests whose memory KSM cannot merge. {OBSTACLE_DESCRIPTIONS}",
        "string",
        12,
    )
    return reasons_panel(said, host("samepage_domain_merge_obstacle_info"), "Obstacle")


def _pauses() -> timeseries.Panel:
    said = PanelOptions(
        "Pauses",
        "How long guests stood still for samepaged: the median and the 99th percentile of the pauses of the six hours "
        "before (a histogram: read them as up to), the longest of the last scans, and the limit (scan.max_pause).",
        "s",
        12,
    )
    return time_series(
        said,
        Target(f"max({host('samepage_domain_last_pause_seconds')})", "longest, last scans", Colour.COST),
        Target(pause_quantile(0.99, PAUSES), "99th percentile", Colour.INTER),
        Target(pause_quantile(0.5, PAUSES), "median", Colour.SELF),
        Target(host("samepage_config_max_pause_seconds"), "limit", Colour.LIMIT, limit=True),
    )


def _longest_pauses() -> bargauge.Panel:
    said = PanelOptions(
        "Longest pauses, by guest", "The longest pause of each guest's last scan; the ten longest.", "s", 12
    )
    query = f"sort_desc(topk(10, max by (domain) ({host('samepage_domain_last_pause_seconds')})))"
    return bar_gauge(said, query, "{{domain}}", Colour.COST)


def _scan_duration() -> timeseries.Panel:
    said = PanelOptions(
        "Duration of a scan",
        "What a scan of all guests took, analysis included: the mean of the six hours before. It should stay well "
        "below the interval at which scans begin (scan.interval).",
        "s",
        8,
    )
    total, count = (host(f"samepage_scan_duration_seconds_{part}") for part in ("sum", "count"))
    return time_series(said, Target(f"rate({total}[{WINDOW}]) / rate({count}[{WINDOW}])", "mean", Colour.MERGED))


def _domains() -> timeseries.Panel:
    said = PanelOptions(
        "Guests scanned and skipped", "Domains by what the last scan of the host did with them.", "short", 8
    )
    panel = time_series(said, Target(f"sum by (result) ({host('samepage_domains')})", "{{result}}"), stacked=True)
    return with_colours(panel.decimals(0), {"scanned": Colour.SELF, "skipped": Colour.COST})


def _fallbacks() -> table.Panel:
    said = PanelOptions(
        "Scanned in another way than preferred",
        "Guests whose last scan was not done in the mode or by the reader that was preferred, and why "
        "(docs/reference/metrics.md lists the reasons). No failure.",
        "string",
        24,
        6,
    )
    return reasons_panel(said, host("samepage_domain_fallback_info"), "Reason")
