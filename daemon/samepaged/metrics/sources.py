"""Page attribution: the kinds, processes and files that a guest's sharing belongs to, from its own kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from samepaged.arch import PAGE_SIZE
from samepaged.metrics.metric import GAUGE, Metric, Unit, of_guests
from samepaged.scan.label_values import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from samepaged.attribution.report import AttributionReport, Owner
    from samepaged.scan.snapshot import Snapshot

OTHER: Final = "other"
"""The label value for all kinds without a separate series."""


def _involved(snapshot: Snapshot, owners: Callable[[AttributionReport], Sequence[Owner]]) -> dict[tuple[str, str], int]:
    """Bytes of sharing by domain and owner, of the `sources.top` owners of each guest with the most sharing."""
    return {
        (domain, owner.name): owner.sharing_pages * PAGE_SIZE
        for domain, one in snapshot.by_name(snapshot.attributions).items()
        for owner in owners(one.report)[: snapshot.attribution_config.top]
        if owner.sharing_pages
    }


SOURCE_SHARING: Final = Metric(
    GAUGE,
    "samepage_source_sharing_bytes",
    ("domain", "kind"),
    Unit.BYTES,
    "Bytes of the guest's sharing, within itself and with other guests of its group, that involve pages of this kind. "
    "Do not sum it over kinds: a content can have copies of several kinds. Only the `sources.top` kinds with the most "
    "sharing have a series.",
    example='samepage_source_sharing_bytes{kind="heap"}',
    words={"kind": KINDS},
    values=lambda snapshot: _involved(snapshot, lambda report: report.kinds),
)


def _split(snapshot: Snapshot) -> dict[tuple[str, str], float]:
    values: dict[tuple[str, str], float] = {}
    for domain, one in snapshot.by_name(snapshot.attributions).items():
        report = one.report
        sharing = [owner for owner in report.kinds if owner.sharing_pages]
        shown = [owner for owner in report.kinds[: snapshot.attribution_config.top] if owner.sharing_pages]
        values |= {(domain, owner.name): owner.split_pages * PAGE_SIZE for owner in shown}
        if len(shown) < len(sharing):
            rest = report.sharing_pages - sum(owner.split_pages for owner in shown)
            values[domain, OTHER] = max(rest, 0.0) * PAGE_SIZE
    return values


SOURCE_SPLIT: Final = Metric(
    GAUGE,
    "samepage_source_split_bytes",
    ("domain", "kind"),
    Unit.BYTES,
    "Bytes of the guest's sharing, within itself and with other guests of its group, split into kinds that add up: "
    "each content in equal parts over its pages. The kind `other` is the sum of all kinds except the `sources.top` "
    "kinds with the most sharing.",
    example="sum by (kind) (samepage_source_split_bytes)",
    words={"kind": {**KINDS, OTHER: "belongs to any other kind"}},
    values=_split,
)


def _of_names(
    owners: Callable[[AttributionReport], Sequence[Owner]],
) -> Callable[[Snapshot], dict[tuple[str, str], int]]:
    """Bytes of sharing by domain and name, if the configuration allows names as labels."""
    return lambda snapshot: _involved(snapshot, owners) if snapshot.attribution_config.name_labels else {}


SOURCE_PROCESS: Final = Metric(
    GAUGE,
    "samepage_source_process_sharing_bytes",
    ("domain", "process"),
    Unit.BYTES,
    "Bytes of the guest's sharing that involve pages of processes with this name. Only the `sources.top` names with "
    "the most sharing have a series. Requires `sources.name_labels`.",
    example="topk(5, samepage_source_process_sharing_bytes)",
    values=_of_names(lambda report: report.processes or ()),
)
SOURCE_FILE: Final = Metric(
    GAUGE,
    "samepage_source_file_sharing_bytes",
    ("domain", "path"),
    Unit.BYTES,
    "Bytes of the guest's sharing that involve pages of this file. Only the `sources.top` files with the most sharing "
    "have a series. Requires `sources.name_labels`.",
    example="topk(5, samepage_source_file_sharing_bytes)",
    values=_of_names(lambda report: report.files or ()),
)
SOURCE_LABELLED: Final = Metric(
    GAUGE,
    "samepage_source_labelled_ratio",
    ("domain",),
    Unit.RATIO,
    "Ratio of the guest's pages in use that have a known kind; 0 if no Linux kernel was found in the guest.",
    example="samepage_source_labelled_ratio < 0.9",
    values=of_guests(lambda snapshot: snapshot.attributions, lambda one: one.report.labelled_ratio),
)
SOURCE_LAST: Final = Metric(
    GAUGE,
    "samepage_source_last_scan_timestamp_seconds",
    ("domain",),
    Unit.EPOCH,
    "Start time of the scan that produced the guest's page attribution, in seconds since the Unix epoch.",
    example="time() - samepage_source_last_scan_timestamp_seconds",
    values=of_guests(lambda snapshot: snapshot.attributions, lambda one: one.scanned_at),
)
