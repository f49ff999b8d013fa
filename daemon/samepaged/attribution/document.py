"""One guest's page attribution as the JSON object of `samepaged sources --json`. Keys may be added, never renamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from samepaged.arch import PAGE_SIZE
from samepaged.escape import valid

if TYPE_CHECKING:
    from samepaged.attribution.report import AttributionReport, Owner

__all__ = ["SCHEMA", "attribution_document"]

SCHEMA: Final = 1


def attribution_document(report: AttributionReport) -> dict[str, Any]:
    """Return `report` as an object for `json.dumps`: counts in pages of 4096 bytes, ratios from 0 to 1. `sharing_pages`
    of an owner is the sharing that involves it; do not sum it over owners. `split_pages` adds up. `together` combines
    some kinds ("heap+anonymous"). `processes` and `files` are null if the report has kinds only.
    """
    return {
        "schema": SCHEMA,
        "domain": valid(report.domain),
        "kernel": None if report.kernel is None else valid(report.kernel),
        "page_size": PAGE_SIZE,
        "memory_pages": report.memory_pages,
        "in_use_pages": report.in_use_pages,
        "labelled_ratio": report.labelled_ratio,
        "missing_pages": report.missing_pages,
        "note": None if report.note is None else valid(report.note),
        "self_sharing_pages": report.self_sharing_pages,
        "inter_sharing_pages": report.inter_sharing_pages,
        "sharing_pages": report.sharing_pages,
        "in_use_self_sharing_pages": report.in_use_self_sharing_pages,
        "kinds": [_owner("kind", one) for one in report.kinds],
        "together": [_owner("kinds", one) for one in report.combined_kinds],
        "processes": None if report.processes is None else [_owner("process", one) for one in report.processes],
        "files": None if report.files is None else [_owner("path", one) for one in report.files],
        "most_copied": [
            {
                "copies": one.copies,
                "others": one.shared_with_others,
                "owners": [valid(line) for line in one.owners],
                "owner_pages": list(one.owner_pages),
                "more_owners": one.more_owners,
            }
            for one in report.most_copied
        ],
    }


def _owner(key: str, owner: Owner) -> dict[str, Any]:
    return {
        key: valid(owner.name),
        "pages": owner.pages,
        "sharing_pages": owner.sharing_pages,
        "self_sharing_pages": owner.self_sharing_pages,
        "inter_sharing_pages": owner.inter_sharing_pages,
        "split_pages": owner.split_pages,
    }
