"""Where the sharing of a guest comes from: whose the pages are, as its own kernel tells."""

from __future__ import annotations

from typing import Final

from samepaged.metrics.families import GAUGE
from samepaged.metrics.metric import Metric, Unit
from samepaged.scan.label_values import KINDS

SOURCE_SHARING: Final = Metric(
    GAUGE,
    "samepage_source_sharing_bytes",
    ("domain", "kind"),
    Unit.BYTES,
    "Bytes of the guest's sharing, inside itself and with others of its group, that involve pages of this kind. A "
    "content may have copies of several kinds, so this does not add up over kinds. The `sources.top` most involved.",
    example='samepage_source_sharing_bytes{kind="heap"}',
    words={"kind": KINDS},
)
SOURCE_SPLIT: Final = Metric(
    GAUGE,
    "samepage_source_split_bytes",
    ("domain", "kind"),
    Unit.BYTES,
    "The same sharing split over the kinds so that it adds up: each content's in equal parts over its pages. What the "
    "kinds that are not among the `sources.top` most involved have is under `other`.",
    example="sum by (kind) (samepage_source_split_bytes)",
    words={"kind": {**KINDS, "other": "is of any of the other kinds"}},
)
SOURCE_PROCESS: Final = Metric(
    GAUGE,
    "samepage_source_process_sharing_bytes",
    ("domain", "process"),
    Unit.BYTES,
    "Bytes of the guest's sharing that involve pages of processes of this name; only where `sources.name_labels` is "
    "set. The `sources.top` most involved.",
    example="topk(5, samepage_source_process_sharing_bytes)",
)
SOURCE_FILE: Final = Metric(
    GAUGE,
    "samepage_source_file_sharing_bytes",
    ("domain", "path"),
    Unit.BYTES,
    "Bytes of the guest's sharing that involve pages of this file; only where `sources.name_labels` is set. The "
    "`sources.top` most involved.",
    example="topk(5, samepage_source_file_sharing_bytes)",
)
SOURCE_LABELLED: Final = Metric(
    GAUGE,
    "samepage_source_labelled_ratio",
    ("domain",),
    Unit.RATIO,
    "Of the guest's pages that are in use, the part whose kind is known; 0 where no Linux kernel was found in it.",
    example="samepage_source_labelled_ratio < 0.9",
)
SOURCE_LAST: Final = Metric(
    GAUGE,
    "samepage_source_last_scan_timestamp_seconds",
    ("domain",),
    Unit.EPOCH,
    "When the scan began whose pages these owners are of.",
    example="time() - samepage_source_last_scan_timestamp_seconds",
)
