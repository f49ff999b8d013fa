"""Page attribution: the kinds, processes and files that a guest's sharing belongs to, by its own kernel."""

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
"""The label of the kinds without a series of their own."""


def _involved(snapshot: Snapshot, owners: Callable[[AttributionReport], Sequence[Owner]]) -> dict[tuple[str, str], int]:
    """Bytes of sharing by domain and owner, of the `series.attributions` most involved owners of each guest."""
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
    "Bytes of the guest's sharing, inside itself and with others of its group, that involve pages of this kind. A "
    "content may have copies of several kinds, so this does not add up over kinds. The `sources.top` most involved.",
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
    "The same sharing split over the kinds so that it adds up: each content's in equal parts over its pages. What the "
    "kinds that are not among the `sources.top` most involved have is under `other`.",
    example="sum by (kind) (samepage_source_split_bytes)",
    words={"kind": {**KINDS, OTHER: "is of any of the other kinds"}},
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
    "Bytes of the guest's sharing that involve pages of processes of this name; only where `sources.name_labels` is "
    "set. The `sources.top` most involved.",
    example="topk(5, samepage_source_process_sharing_bytes)",
    values=_of_names(lambda report: report.processes or ()),
)
SOURCE_FILE: Final = Metric(
    GAUGE,
    "samepage_source_file_sharing_bytes",
    ("domain", "path"),
    Unit.BYTES,
    "Bytes of the guest's sharing that involve pages of this file; only where `sources.name_labels` is set. The "
    "`sources.top` most involved.",
    example="topk(5, samepage_source_file_sharing_bytes)",
    values=_of_names(lambda report: report.files or ()),
)
SOURCE_LABELLED: Final = Metric(
    GAUGE,
    "samepage_source_labelled_ratio",
    ("domain",),
    Unit.RATIO,
    "Of the guest's pages that are in use, the part whose kind is known; 0 where no Linux kernel was found in it.",
    example="samepage_source_labelled_ratio < 0.9",
    values=of_guests(lambda snapshot: snapshot.attributions, lambda one: one.report.labelled_ratio),
)
SOURCE_LAST: Final = Metric(
    GAUGE,
    "samepage_source_last_scan_timestamp_seconds",
    ("domain",),
    Unit.EPOCH,
    "When the scan began whose pages these owners are of.",
    example="time() - samepage_source_last_scan_timestamp_seconds",
    values=of_guests(lambda snapshot: snapshot.attributions, lambda one: one.scanned_at),
)
