"""The dashboard of a host: what its guests could share, what KSM makes of it, and what finding out costs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from observability.grafana.generator.attribution_panels import labelled, most_involved, split
from observability.grafana.generator.dashboard import GUEST_UID, HOST_UID, frame, row
from observability.grafana.generator.host_guests import (
    group_inter_sharing,
    group_self_sharing,
    guests,
    matrix,
    page_sizes,
    pairs,
)
from observability.grafana.generator.panels import Line, Said, bars, figure, fixed, lines
from observability.grafana.generator.promql import WINDOW, host, new_failures, pause_quantile
from observability.grafana.generator.shared_panels import (
    COST,
    INTER,
    LIMIT,
    MERGED,
    OBSTACLES,
    SELF,
    STABLE,
    failures,
    is_on,
    memory_by_state,
    reasons,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import bargauge, dashboard, stat, table, timeseries

__all__ = ["host_dashboard"]

SELF_SHARING: Final = host("samepage_host_self_sharing_bytes")
INTER_SHARING: Final = host("samepage_host_inter_sharing_bytes")
PAUSES: Final = host("samepage_pause_duration_seconds_bucket")


def host_dashboard() -> dashboard.Dashboard:
    """Host: eight rows."""
    board = frame(
        HOST_UID,
        "samepaged: host",
        "How much memory the guests of a KVM host could share, and how much of it KSM has merged.",
        (GUEST_UID, "One guest"),
    )
    row(board, "Now", [*_sharing_now(), *_merging_now(), *_health_now()])
    row(board, "Memory and sharing", [_memory(), _sharing()])
    row(board, "KSM beside what is possible", [_merging(), _capture(), _profit(), _obstacles()])
    row(board, "Guests", [guests(), pairs(), matrix()])
    row(board, "Groups", [group_inter_sharing(), group_self_sharing(), page_sizes()])
    row(board, "Where sharing comes from", [split(host, 12), most_involved(), labelled()])
    row(board, "Pauses", [_pauses(), _longest_pauses()])
    return row(
        board,
        "Scans",
        [_scan_duration(), _domains(), failures(new_failures(host("samepage_scan_failures_total")), 8), _fallbacks()],
    )


def _sharing_now() -> list[stat.Panel]:
    return [
        figure(
            Said("Memory of the guests", "The memory of all scanned guests, in whatever state.", "bytes", 4, 4),
            f"sum({host('samepage_host_memory_bytes')})",
        ),
        figure(
            Said(
                "Total sharing",
                "What merging every duplicate would free: self-sharing and inter-VM sharing. Zero pages are not in it.",
                "bytes",
                4,
                4,
            ),
            f"{SELF_SHARING} + {INTER_SHARING}",
        ),
        figure(
            Said("Sharing ratio", "Total sharing as a part of the guests' memory.", "percentunit", 4, 4),
            host("samepage_host_sharing_ratio"),
        ),
    ]


def _merging_now() -> list[stat.Panel]:
    return [
        figure(
            Said("KSM saves", "What KSM saves now: merged pages, and zero pages that it unmapped.", "bytes", 4, 4),
            host("samepage_ksm_merged_bytes"),
        ),
        figure(
            Said(
                "Capture",
                "What KSM saves, as a part of what it could save: total sharing and zero pages.",
                "percentunit",
                4,
                4,
            ),
            host("samepage_ksm_capture_ratio", 'domain=""'),
        ),
        figure(
            Said(
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
        is_on(
            Said("KSM", "Whether KSM merges now (/sys/kernel/mm/ksm/run).", "none", 4, 3),
            host("samepage_ksm_running"),
            off=("off", "text"),
            on=("on", "green"),
        ),
        is_on(
            Said("libvirt", "Whether samepaged is connected to libvirt.", "none", 4, 3),
            host("samepage_libvirt_up"),
            off=("away", "red"),
            on=("connected", "green"),
        ),
        is_on(
            Said(
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
        figure(
            Said("Skipped guests", "Guests that the last scan skipped, for whatever reason.", "short", 4, 3),
            host("samepage_domains", 'result="skipped"'),
            steps=[(0, "green"), (1, "orange")],
        ),
        figure(
            Said("Last scan", "When the last scan of the host ended.", "dateTimeFromNow", 4, 3),
            f"{host('samepage_last_scan_timestamp_seconds')} * 1000",
        ),
        figure(
            Said("Next scan", "When the next scan of the host is due.", "dateTimeFromNow", 4, 3),
            f"{host('samepage_next_scan_timestamp_seconds')} * 1000",
        ),
    ]


def _memory() -> timeseries.Panel:
    return memory_by_state(host, "samepage_host_memory_bytes", 12)


def _sharing() -> timeseries.Panel:
    stable = "samepage_host_stable_self_sharing_bytes", "samepage_host_stable_inter_sharing_bytes"
    said = Said(
        "Self-sharing and inter-VM sharing",
        "Self-sharing is within each guest; inter-VM sharing comes on top, only because the guests are on one host. "
        "Their sum is total sharing. Stable is the part of the sum whose pages kept their content since the scan "
        "before: KSM merges no other. It is known from the second scan on.",
        "bytes",
        12,
        9,
    )
    return lines(
        said,
        Line(SELF_SHARING, "self-sharing", SELF),
        Line(INTER_SHARING, "inter-VM sharing", INTER),
        Line(" + ".join(host(metric) for metric in stable), "stable, of both", STABLE, limit=True),
        stacked=True,
    )


def _merging() -> timeseries.Panel:
    said = Said(
        "Merged, attainable, potential",
        "Merged: what KSM saves now. Potential: what merging every duplicate and every zero page would save. "
        "Attainable: the same over the guests whose memory KSM can merge. Where attainable is well below potential, "
        "see what stands in the way; where merged is well below attainable, KSM is off, slow, or the pages change.",
        "bytes",
        12,
    )
    return lines(
        said,
        Line(host("samepage_ksm_potential_bytes"), "potential", INTER),
        Line(host("samepage_ksm_attainable_bytes"), "attainable", SELF),
        Line(host("samepage_ksm_merged_bytes"), "merged", MERGED),
    )


def _capture() -> timeseries.Panel:
    said = Said(
        "Capture",
        "Merged, as a part of the potential. The guests' lie between the lowest and the highest.",
        "percentunit",
        12,
    )
    guests = host("samepage_ksm_capture_ratio", 'domain!=""')
    return lines(
        said,
        Line(host("samepage_ksm_capture_ratio", 'domain=""'), "host", MERGED),
        Line(f"max({guests})", "guest with most", SELF, limit=True),
        Line(f"min({guests})", "guest with least", COST, limit=True),
    ).max(1)


def _profit() -> timeseries.Panel:
    said = Said(
        "Profit of KSM",
        "Bytes saved less what KSM's bookkeeping takes, by the kernel's own formula: now, and had it merged all that "
        "is attainable.",
        "bytes",
        12,
    )
    return lines(
        said,
        Line(host("samepage_ksm_expected_profit_bytes"), "expected", SELF, limit=True),
        Line(host("samepage_ksm_profit_bytes"), "now", MERGED),
    )


def _obstacles() -> table.Panel:
    said = Said(
        "What stands in KSM's way",
        f"Guests whose memory KSM cannot merge. {OBSTACLES}",
        "string",
        12,
    )
    return reasons(said, host("samepage_domain_merge_obstacle_info"), "Obstacle")


def _pauses() -> timeseries.Panel:
    said = Said(
        "Pauses",
        "How long guests stood still for samepaged: the median and the 99th percentile of the pauses of the six hours "
        "before (a histogram: read them as up to), the longest of the last scans, and the limit (scan.max_pause).",
        "s",
        12,
    )
    return lines(
        said,
        Line(f"max({host('samepage_domain_last_pause_seconds')})", "longest, last scans", COST),
        Line(pause_quantile(0.99, PAUSES), "99th percentile", INTER),
        Line(pause_quantile(0.5, PAUSES), "median", SELF),
        Line(host("samepage_config_max_pause_seconds"), "limit", LIMIT, limit=True),
    )


def _longest_pauses() -> bargauge.Panel:
    said = Said("Longest pauses, by guest", "The longest pause of each guest's last scan; the ten longest.", "s", 12)
    query = f"sort_desc(topk(10, max by (domain) ({host('samepage_domain_last_pause_seconds')})))"
    return bars(said, query, "{{domain}}", COST)


def _scan_duration() -> timeseries.Panel:
    said = Said(
        "Duration of a scan",
        "What a scan of all guests took, analysis included: the mean of the six hours before. It should stay well "
        "below the interval at which scans begin (scan.interval).",
        "s",
        8,
    )
    total, count = (host(f"samepage_scan_duration_seconds_{part}") for part in ("sum", "count"))
    return lines(said, Line(f"rate({total}[{WINDOW}]) / rate({count}[{WINDOW}])", "mean", MERGED))


def _domains() -> timeseries.Panel:
    said = Said("Guests scanned and skipped", "Domains by what the last scan of the host did with them.", "short", 8)
    panel = lines(said, Line(f"sum by (result) ({host('samepage_domains')})", "{{result}}"), stacked=True)
    return fixed(panel.decimals(0), {"scanned": SELF, "skipped": COST})


def _fallbacks() -> table.Panel:
    said = Said(
        "Scanned in another way than preferred",
        "Guests whose last scan was not done in the mode or by the reader that was preferred, and why "
        "(docs/reference/metrics.md lists the reasons). No failure.",
        "string",
        24,
        6,
    )
    return reasons(said, host("samepage_domain_fallback_info"), "Reason")
